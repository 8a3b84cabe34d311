"""Child processes that are stopped by signals, with and without names for the files that they are writing."""

import resource
import signal
import subprocess
import sys

import pytest

from qnumpy.files.atomic import AtomicFiles

NAMED = "AtomicFiles.nameless = False\n"
nameless = pytest.mark.skipif(not AtomicFiles.nameless, reason="no O_TMPFILE")
MODES = [pytest.param("", marks=nameless, id="nameless"), pytest.param(NAMED, id="named")]
SIGNALS = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGALRM"]
FEW = [name if name in ("SIGTERM", "SIGHUP") else pytest.param(name, marks=pytest.mark.slow) for name in SIGNALS]


def child(code, *argv):
    def heard():  # a shell starts jobs in the background with some signals ignored
        for name in SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, argv)], **pipes, preexec_fn=heard)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
