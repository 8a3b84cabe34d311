"""The machine: instruction sets, threads, and what serves what."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import _core
from .errors import UnsupportedISAError

__all__ = ["isa", "num_threads", "set_isa", "set_num_threads", "show_config", "threads"]


def isa() -> str:
    """Return the name of the instruction-set row in use.

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
        A row this CPU has: "scalar", "avx2", "avxvnni", "avx512", "avx512vnni"; "neon", "dotprod" or "i8mm" on ARM.
        "amx" only in a process that began with QNUMPY_ISA=amx: no hardware has tested it yet.

    Raises
    ------
    TypeError
        name is no text.
    UnsupportedISAError
        The name is unknown, or this CPU does not have it.
    """
    if not isinstance(name, str):
        raise TypeError(f"set_isa: name must be a text; got {name!r}.")
    _select("set_isa", "name", name)


def num_threads() -> int:
    """Return how many threads a large call may use.

    By default QNUMPY_NUM_THREADS, else the CPUs this process may run on, capped by its cgroup's quota.
    """
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a large call may use; 1 means no worker at all.

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
        raise TypeError(f"set_num_threads: n must be an integer; got {n!r}.")
    if not 1 <= n <= _core.MAX_THREADS:
        raise ValueError(f"set_num_threads: n must be an integer from 1 to {_core.MAX_THREADS}; got {n!r}.")
    _core.set_num_threads(int(n))


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


def show_config() -> dict[str, object]:
    """Return what this process uses: rows, threads, and the row that serves each kernel.

    Returns
    -------
    dict
        "isa", "isas" (name -> whether this CPU has it), "num_threads", "kernels" (name -> row).
    """
    return {"isa": isa(), "isas": dict(_core.isas()), "num_threads": num_threads(), "kernels": _core.kernels()}


def _select(owner: str, parameter: str, name: str) -> None:
    if not _core.set_isa(name):
        valid = ", ".join(row for row, supported in _core.isas() if supported)
        raise UnsupportedISAError(f"{owner}: {parameter} must be one of {valid} on this CPU; got {name!r}.")


def _cgroup_quota() -> float:
    """CPUs the cgroup (version 2 or 1) grants; infinity without a limit."""
    for paths in (
        ("/sys/fs/cgroup/cpu.max",),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = [word for path in paths for word in Path(path).read_text(encoding="ascii").split()]
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return float("inf")


def _from_environment() -> None:
    name = os.environ.get("QNUMPY_ISA")
    if name:
        _select("qnumpy", "QNUMPY_ISA", name)
    wanted = os.environ.get("QNUMPY_NUM_THREADS")
    if wanted:
        if not wanted.isdecimal() or not 1 <= int(wanted) <= _core.MAX_THREADS:
            raise ValueError(
                f"qnumpy: QNUMPY_NUM_THREADS must be an integer from 1 to {_core.MAX_THREADS}; got {wanted!r}."
            )
        _core.set_num_threads(int(wanted))
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _core.set_num_threads(max(1, min(cpus, int(min(_cgroup_quota(), _core.MAX_THREADS)) or 1, _core.MAX_THREADS)))


_from_environment()
