"""The machine: instruction sets, threads, and the ISA row that serves each kernel.

QNUMPY_ISA and QNUMPY_NUM_THREADS are read at import. A wrong variable does not stop the import: every call that needs a
kernel raises, until set_isa or set_num_threads chooses a valid value.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from . import _core
from ._check import must
from .errors import UnsupportedISAError

__all__ = ["isa", "num_threads", "set_isa", "set_num_threads", "show_config", "threads"]


_THREADS = f"an integer from 1 to {_core.MAX_THREADS}"
_faults: dict[str, Exception] = {}  # variable of the environment -> the error that calls raise


class Config(TypedDict):
    """What show_config returns."""

    isa: str
    isas: dict[str, bool]
    num_threads: int
    kernels: dict[str, str]


def isa() -> str:
    """Return the name of the instruction set in use.

    Examples
    --------
    >>> isa() in {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon", "dotprod", "i8mm"}
    True
    """
    return _core.isa()


def set_isa(name: str) -> None:
    """Use the kernels of another instruction set; results are the same bits, only the speed changes.

    Parameters
    ----------
    name : str
        An instruction set of this CPU: "scalar"; "avx2", "avxvnni", "avx512", "avx512vnni"; on ARM "neon", "dotprod",
        "i8mm". "amx" only in a process that began with QNUMPY_ISA=amx: no hardware has tested it yet.

    Raises
    ------
    TypeError
        name is no str.
    UnsupportedISAError
        The name is unknown, or this CPU does not have it.
    """
    if not isinstance(name, str):
        raise TypeError(must("set_isa", "name", "a text", repr(name)))
    _select("set_isa", "name", name)
    _note("QNUMPY_ISA", None)


def num_threads() -> int:
    """Return how many threads a large call may use.

    By default QNUMPY_NUM_THREADS; else the CPUs that this process may run on, capped by the quota of its cgroup.
    """
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a large call may use; 1 means no worker thread.

    Parameters
    ----------
    n : int
        From 1 to 256.

    Raises
    ------
    TypeError
        n is no integer.
    ValueError
        n is not from 1 to 256.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(must("set_num_threads", "n", "an integer", repr(n)))
    if not 1 <= n <= _core.MAX_THREADS:
        raise ValueError(must("set_num_threads", "n", _THREADS, repr(n)))
    _core.set_num_threads(int(n))
    _note("QNUMPY_NUM_THREADS", None)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Limit the threads inside a ``with`` block.

    Parameters
    ----------
    n : int
        As in set_num_threads.

    Examples
    --------
    >>> with threads(1):
    ...     num_threads()
    1
    """
    before = num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def show_config() -> Config:
    """Return the instruction set, the threads, and the ISA row that serves each kernel.

    Returns
    -------
    dict
        "isa", "isas" (name -> whether this CPU has it), "num_threads", "kernels" (kernel -> name of the ISA row).
    """
    return {"isa": isa(), "isas": dict(_core.isas()), "num_threads": num_threads(), "kernels": _core.kernels()}


def _select(owner: str, parameter: str, name: str) -> None:
    if not _core.set_isa(name):
        valid = ", ".join(row for row, supported in _core.isas() if supported)
        raise UnsupportedISAError(must(owner, parameter, f"one of {valid} on this CPU", repr(name)))


def _note(variable: str, error: Exception | None) -> None:
    """Record the error of a variable, or None for a valid one; calls raise the first recorded error."""
    _faults.pop(variable, None)
    if error is not None:
        _faults[variable] = error
    first = next(iter(_faults.values()), None)
    if first is None:
        _core.refuse_calls(None, None)
    else:
        _core.refuse_calls(type(first), str(first))


def _words(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().split()


def _cgroup_quota() -> float:
    """Return the CPUs that the cgroup (version 2 or 1) grants; infinity without a limit."""
    for paths in (
        ("/sys/fs/cgroup/cpu.max",),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = [word for path in paths for word in _words(path)]
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return float("inf")


def _default_threads() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, int(min(_cgroup_quota(), _core.MAX_THREADS)) or 1, _core.MAX_THREADS))


def _read_environment() -> None:
    if name := os.environ.get("QNUMPY_ISA"):
        try:
            _select("qnumpy", "QNUMPY_ISA", name)
        except UnsupportedISAError as error:
            _note("QNUMPY_ISA", error)
    count = os.environ.get("QNUMPY_NUM_THREADS")
    valid = not count or (count.isdecimal() and len(count) < 10 and 1 <= int(count) <= _core.MAX_THREADS)
    if not valid:
        _note("QNUMPY_NUM_THREADS", ValueError(must("qnumpy", "QNUMPY_NUM_THREADS", _THREADS, repr(count))))
    _core.set_num_threads(int(count) if count and valid else _default_threads())


_read_environment()
