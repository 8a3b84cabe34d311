"""Commands that a signal stops, at any moment."""

import signal
import time

import pytest
from children import FEW, MODES, child, files
from tensor_files import reals

from qnumpy.files.store import load, save

COMMAND = """
import sys
from qnumpy.cli import main
from qnumpy.files.atomic import AtomicFiles
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*FEW[:3], "SIGKILL"])
def test_the_command_line_stopped_at_any_moment(tmp_path, mode, name):
    """Whatever the moment, there is no file or a whole one, and the exit code and the sentence tell which."""
    model, out, number = tmp_path / "model.npz", tmp_path / "out.safetensors", getattr(signal, name)
    save(model, {str(k): reals(500, 500) for k in range(12)})
    argv = ["quantize", model, "-o", out, "--force"]
    stopped = 0
    for delay in (0.02, 0.04, 0.08):
        code = f"{COMMAND}{mode}\nprint('ready', flush=True)\nsys.exit(main(sys.argv[1:]))"
        with child(code, *argv) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        left = files(tmp_path)
        if name == "SIGKILL":
            left = [path for path in left if not (mode and path.endswith(".qnumpy-tmp"))]
        elif process.returncode == 128 + number:
            stopped += 1
            word = "interrupted" if name == "SIGINT" else f"stopped by {name}"
            states = [f"{what}.\n" for what in ("no file was written", f"{str(out)!r} is whole, or as it was")]
            # before the arguments are read there is no command to name
            assert err in [f"{owner}: {word}; {state}" for owner in ("qnumpy", "qnumpy quantize") for state in states]
        assert process.returncode in (0, -number, 128 + number), err
        assert left in (["model.npz"], ["model.npz", "out.safetensors"])
        if len(left) == 2:
            assert len(load(out)) == 12
            out.unlink()
    assert stopped or name == "SIGKILL"
    with child(f"{COMMAND}{mode}\nsys.exit(main(sys.argv[1:]))", *argv) as process:
        process.communicate(timeout=60)
    assert files(tmp_path) == ["model.npz", "out.safetensors"]
