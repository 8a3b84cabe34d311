"""The machine: instruction sets, threads, and the ISA row that serves each kernel.

QNUMPY_ISA and QNUMPY_NUM_THREADS are read at import. A wrong variable does not stop the import: every call that needs a
kernel raises, until set_isa or set_num_threads chooses a valid value.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypedDict

from . import _core
from ._check import integer, must, typed
from .errors import UnsupportedISAError

__all__ = ["isa", "num_threads", "set_isa", "set_num_threads", "show_config", "threads"]


_THREADS = f"an integer from 1 to {_core.MAX_THREADS}"
_blocks: ContextVar[tuple[list[int], ...]] = ContextVar(
    "qnumpy.threads", default=()
)  # of `threads`, the innermost last
_faults: dict[str, Exception] = {}  # variable of the environment -> the error that calls raise


# The threads of OpenMP that another library has started: find_team(path of the library), borrow_team(threads).
find_team, borrow_team, MAX_THREADS = _core.find_team, _core.borrow_team, _core.MAX_THREADS


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

    Examples
    --------
    >>> before = isa()
    >>> set_isa("scalar")
    >>> isa()
    'scalar'
    >>> set_isa(before)
    """
    if not isinstance(name, str):
        raise TypeError(must("set_isa", "name", "a text", typed(name)))
    _select("set_isa", "name", name)
    _note("QNUMPY_ISA", None)


def num_threads() -> int:
    """Return how many threads a large call may use here: inside a block of `threads` its n, else the process's count.

    By default QNUMPY_NUM_THREADS; else the CPUs that this process may run on, capped by the quota of its cgroup.

    Examples
    --------
    >>> with threads(2):
    ...     num_threads()
    2
    """
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a large call of this process may use; 1 means no worker thread.

    A block of `threads` goes before it.

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

    Examples
    --------
    >>> before = num_threads()
    >>> set_num_threads(1)
    >>> num_threads()
    1
    >>> set_num_threads(before)
    """
    _core.set_num_threads(_count("set_num_threads", n))
    _note("QNUMPY_NUM_THREADS", None)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Limit the threads of large calls inside a ``with`` block.

    Parameters
    ----------
    n : int
        As in set_num_threads.

    Raises
    ------
    TypeError, ValueError
        As in set_num_threads.

    Notes
    -----
    The limit belongs to the context (see contextvars): to this thread or asyncio task, and to tasks that the block
    creates, as long as they run. Blocks of two threads or tasks may overlap. A new thread begins without a limit
    (contextvars.copy_context().run passes it on); set_num_threads serves every thread. As with decimal.localcontext, a
    generator that stops inside a block leaves the limit with its caller until it goes on and leaves the block.

    Examples
    --------
    >>> with threads(1):
    ...     num_threads()
    1
    """
    num_threads()  # refuses a wrong variable of the environment
    block = [_count("threads", n)]
    _core.watch_thread_blocks(_blocks)
    _blocks.set((*_blocks.get(), block))
    try:
        yield
    finally:
        open_blocks = tuple(other for other in _blocks.get() if other is not block)
        if len(open_blocks) < len(_blocks.get()):
            _blocks.set(open_blocks)
        else:  # a generator that another context closes: it cannot set the variable of the context that it began in
            block[0] = 0


def show_config() -> Config:
    """Return the instruction set, the threads, and the ISA row that serves each kernel.

    Returns
    -------
    dict
        "isa", "isas" (name -> whether this CPU has it), "num_threads", "kernels" (kernel -> name of the ISA row).

    Examples
    --------
    >>> config = show_config()
    >>> config["isa"] == isa(), config["isas"]["scalar"]
    (True, True)
    """
    return {"isa": isa(), "isas": dict(_core.isas()), "num_threads": num_threads(), "kernels": _core.kernels()}


def _count(owner: str, n: int) -> int:
    count = integer(owner, "n", n)
    if not 1 <= count <= _core.MAX_THREADS:
        raise ValueError(must(owner, "n", _THREADS, repr(n)))
    return count


def _select(owner: str, parameter: str, name: str) -> None:
    if not _core.set_isa(name):
        valid = ", ".join(row for row, supported in _core.isas() if supported)
        raise UnsupportedISAError(must(owner, parameter, f"one of {valid} on this CPU", typed(name)))


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
