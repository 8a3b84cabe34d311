"""What every benchmark shares: the traffic limit, peers, timing in turns, and the entry of the results.

The candidates of a case take turns in one run, so a noisy neighbour hits all of them. Every sample follows an untimed
call of the same candidate: caches, thread pools and branch predictors are those of a loop. A figure is the ratio of two
best times of one run; absolute times of shared machines say little.
"""

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import qnumpy as qn

Array = np.ndarray[Any, Any]
Call = Callable[[], object]
Result = Callable[[], Sequence[Any]]

SMALL, LARGE, SQUARE = (1 << 16,), (1 << 24,), (4096, 4096)
ALIGNMENT = 64  # streaming stores need it; every candidate works on the same buffers
SAMPLE_SECONDS = 0.002  # a sample repeats a short call this long: 10,000 times the timer's resolution
SETTLE_SECONDS = 0.002  # between candidates with threads: the workers of the one before have gone to sleep
# A user's interpreter keeps compiled bytecode; a benchmark must not time its absence.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# bytes read to bytes written -> loops of traffic.c
SHAPES = {(4, 1): 0, (1, 4): 1, (1, 1): 2, (1, 0): 3, (2, 1): 4, (1, 2): 5}


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An empty array on a cache line, its pages touched."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    array.fill(0)
    return array


def normal(shape: tuple[int, ...]) -> Array:
    """Normally distributed float32."""
    x = aligned(shape, np.float32)
    np.random.default_rng(0).standard_normal(dtype=np.float32, out=x)
    return x


# ---- the limit ----


@cache
def _traffic() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="qnumpy-traffic-"))
    library = folder / "traffic.so"
    source = Path(__file__).with_name("traffic.c")
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))  # lets go of the GIL: two Python threads run two loops
    library.unlink()
    folder.rmdir()
    loaded.traffic_name.restype = ctypes.c_char_p
    loaded.traffic_vector.restype = ctypes.c_size_t
    loaded.traffic_run.restype = None
    return loaded


@cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def traffic(x: Array, out: Array | None, threads: int) -> dict[str, Call]:
    """Loops that read `x` and write `out` without arithmetic; none writes where `out` is None."""
    library = _traffic()
    written = 0 if out is None else out.nbytes
    whole = min(x.nbytes, written) or x.nbytes
    shape = SHAPES[x.nbytes // whole, written // whole]
    reads = {0: 4, 1: 1, 2: 4, 3: 8, 4: 4, 5: 2}[shape]
    calls: dict[str, Call] = {}
    row = 0
    while (name := library.traffic_name(row)) is not None:
        if library.traffic_supported(row) and (out is not None or b"plain" in name):
            steps, rest = divmod(x.nbytes, reads * library.traffic_vector(row))
            assert rest == 0
            for used in range(1, threads + 1):  # waking a thread may cost more than it brings
                calls[f"traffic {name.decode()} {used}t"] = _traffic_call(library, row, shape, x, out, steps, used)
        row += 1
    return calls


def _traffic_call(library: Any, row: int, shape: int, x: Array, out: Array | None, steps: int, threads: int) -> Call:
    assert threads in (1, 2)
    to = x if out is None else out
    parts = []
    for part in range(threads):
        first, last = steps * part // threads, steps * (part + 1) // threads
        starts = [ctypes.c_void_p(a.ctypes.data + a.nbytes * first // steps) for a in (x, to)]
        parts.append((ctypes.c_int(row), ctypes.c_int(shape), *starts, ctypes.c_size_t(last - first)))
    run, mine, keep = library.traffic_run, parts[0], (x, to)  # the parts hold addresses only
    if threads == 1:
        return lambda: (run(*mine), keep)[0]
    submit, other = _helper().submit, parts[1]

    def both() -> object:
        future = submit(run, *other)
        run(*mine)
        future.result()
        return keep

    return both


# ---- peers ----


def onnx_session(
    nodes: Sequence[Any],
    x: Array,
    parameters: dict[str, Array],
    outs: dict[str, Array],
    threads: int,
    fuse: bool = False,
) -> Call:
    """One call of ONNX Runtime that reads `x` and writes `outs` in place; ImportError where it is missing."""
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    def tensor(name: str, array: Array) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        list(nodes),
        "benchmark",
        [tensor("x", x)],
        [tensor(name, array) for name, array in outs.items()],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    domains = {"": 21, **{node.domain: 1 for node in nodes if node.domain}}
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*each) for each in domains.items()], ir_version=10
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fuse else levels.ORT_DISABLE_ALL  # else as they stand
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    for name, array in outs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    keep = (x, outs)  # the binding holds addresses only
    return lambda: (session.run_with_iobinding(binding), keep)[0]


@cache
def torch() -> Any:
    """PyTorch, or None where it is not installed."""
    try:
        import torch as module
    except ImportError:
        return None
    return module


# ---- one case ----


@dataclass
class Check:
    """What a call has filled must equal `expected`, or be as near as `tolerance`: a part of its norm."""

    result: Result
    expected: Sequence[Array]
    tolerance: float = 0

    def __call__(self, name: str) -> None:
        for got, want in zip(self.result(), self.expected, strict=True):
            if not self.tolerance:
                np.testing.assert_array_equal(got, want, err_msg=name)
                continue
            error = np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(np.asarray(want, np.float64))
            assert error < self.tolerance, f"{name}: off by {error:.2%}"


@dataclass
class Case:
    """One size at one number of threads: our operations, what others offer, and what limits both."""

    size: str
    kind: str  # of page.TARGETS
    work: int  # elements, or products of an integer product, of one call
    threads: int
    ours: dict[str, Call] = field(default_factory=dict)  # operation -> call
    peers: dict[str, Call] = field(default_factory=dict)
    limits: dict[str, Call] = field(default_factory=dict)  # the fastest counts
    checks: dict[str, Check] = field(default_factory=dict)  # of a name in `ours` or `peers`
    rows_limit: bool = False  # the limit is a call of qnumpy: each row of the table of kernels has its own

    def check(self, row: str) -> None:
        """Call every candidate of a row once and compare its result."""
        for name, call in {**self.ours, **self.peers}.items():
            call()
            if name in self.checks:
                self.checks[name](f"{name}, {self.size}, {row}")


def size(elements: int) -> str:
    if elements >= 1 << 20:
        return f"{elements >> 20}M"
    return f"{elements >> 10}K" if elements >= 1 << 10 else str(elements)


def elementwise(
    operation: str, x: Array, out: Array | None, threads: int, qnumpy: Call, numpy: Call, *results: Result
) -> Case:  # fmt: skip
    """A case limited by memory, whose oracle is NumPy; `results` are qnumpy's and NumPy's where they are not `out`."""
    kind = "cache" if x.size <= SMALL[0] else "memory"
    case = Case(size(x.size), kind, x.size, threads, {operation: qnumpy}, {"NumPy": numpy}, traffic(x, out, threads))
    ours, theirs = results or (lambda: [out],) * 2
    numpy()
    expected = [np.array(array) for array in theirs()]
    case.checks = {operation: Check(ours, expected), "ONNX Runtime": Check(ours, expected)}
    return case


def rows() -> list[str]:
    """The AVX2 row, which every x86 CPU of ten years has, and the best one, which comes last."""
    usable = qn.show_config()["isas"]
    return list(dict.fromkeys(row for row in ("avx2", qn.isa()) if usable.get(row)))


# ---- timing ----

Candidate = tuple[str, str]  # a call, and the row of kernels that it runs on
Samples = dict[Candidate, list[float]]  # seconds a call, one sample a round
QUICK, FULL = (3, 1.0), (11, 4.0)  # rounds, and seconds of a case after which no more rounds begin
LEAST_ROUNDS = 3
REPEATS = 3  # measurements of a case again, if a peer or the limit is unstable
SPREAD = 2.0  # of the median over the best
SLOWER = 1.5  # with two threads than with one
BEATEN = 1.15  # ours over a limit that cannot be beaten


def interleaved(calls: dict[Candidate, Call], effort: tuple[int, float], settle: bool) -> Samples:
    """Time every call once a round, each on its row."""
    repeats = {}
    for candidate, call in calls.items():
        qn.set_isa(candidate[1])
        call()
        start = time.perf_counter()
        call()
        repeats[candidate] = max(1, int(SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-7)))
    samples: Samples = {candidate: [] for candidate in calls}
    rounds, enough = effort
    begin = time.perf_counter()
    gc.disable()
    try:
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - begin > enough:
                break
            for candidate, call in calls.items():
                if settle:
                    time.sleep(SETTLE_SECONDS)
                qn.set_isa(candidate[1])
                call()
                turns = range(repeats[candidate])
                start = time.perf_counter()
                for _ in turns:
                    call()
                samples[candidate].append((time.perf_counter() - start) / repeats[candidate])
    finally:
        gc.enable()
    return samples


def is_unstable(seconds: Sequence[float], single: float | None = None) -> bool:
    """Whether a time says nothing: the samples scatter, or two threads are slower than one, which took `single`."""
    best = min(seconds)
    return statistics.median(seconds) > SPREAD * best or (single is not None and best > SLOWER * single)


# ---- the entry of the results ----


@dataclass(frozen=True)
class Entry:
    """One operation at one size, on one row of kernels: seconds, and ratios of other times to ours."""

    operation: str
    size: str
    kind: str
    threads: int
    row: str
    work: int
    best: float
    median: float
    limit: dict[str, Any] | None  # name, best, ratio of best times, median of the ratios of each round
    peers: dict[str, Any]  # name -> best, ratio; "unstable" where the time says nothing
    memory: dict[str, int] = field(default_factory=dict)  # peak bytes of a job, ours as "qnumpy"


def digits(value: float) -> float:
    """Four digits: more of a time says nothing."""
    return float(f"{value:.4g}")


def entry(
    operation: str, case: Case, row: str, ours: list[float], limit: tuple[str, list[float]] | None,
    peers: dict[str, list[float] | None], memory: dict[str, int] | None = None,
) -> Entry:  # fmt: skip
    """The entry of samples; None as a peer's samples says that they are unstable."""
    best = min(ours)
    limited = None
    if limit is not None:
        name, seconds = limit
        pairs = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
        ratios = {"ratio": digits(min(seconds) / best), "median_ratio": digits(statistics.median(pairs))}
        limited = {"name": name, "best": digits(min(seconds)), **ratios}
    others: dict[str, Any] = {
        name: "unstable" if seconds is None else {"best": digits(min(seconds)), "ratio": digits(min(seconds) / best)}
        for name, seconds in peers.items()
    }
    times = digits(best), digits(statistics.median(ours))
    return Entry(operation, case.size, case.kind, case.threads, row, case.work, *times, limited, others, memory or {})


def measure(case: Case, effort: tuple[int, float], singles: dict[tuple[str, str, str], float]) -> Iterator[Entry]:
    """Check a case, then time its candidates in turns; `singles` keeps the peers' best times with one thread."""
    *_, best_row = names = rows()
    calls: dict[Candidate, Call] = {}
    for row in names:
        calls |= {(name, row): call for name, call in case.ours.items()}
        if case.rows_limit or row == best_row:
            calls |= {(name, row): call for name, call in case.limits.items()}
    calls |= {(name, best_row): call for name, call in case.peers.items()}
    keys = {name: (next(iter(case.ours)), case.size, name) for name in case.peers}

    def unstable(name: str) -> bool:
        return is_unstable(samples[name, best_row], singles.get(keys[name]) if case.threads > 1 else None)

    def beaten() -> bool:
        """Nothing is faster than a loop of the same traffic: the loop was disturbed."""
        loops = [min(seconds) for (name, _), seconds in samples.items() if name.startswith("traffic")]
        ours = [min(seconds) for (name, _), seconds in samples.items() if name in case.ours]
        return bool(loops) and min(loops) > BEATEN * min(ours)

    try:
        with qn.threads(case.threads):
            for row in names:
                qn.set_isa(row)
                case.check(row)
            samples = interleaved(calls, effort, case.threads > 1)
            for _ in range(REPEATS):
                if not any(map(unstable, case.peers)) and not beaten():
                    break
                for candidate, seconds in interleaved(calls, effort, case.threads > 1).items():
                    samples[candidate] += seconds
    finally:
        qn.set_isa(best_row)
    peers = {name: None if unstable(name) else samples[name, best_row] for name in case.peers}
    if case.threads == 1:
        singles.update({keys[name]: min(samples[name, best_row]) for name in case.peers})
    for row in names:
        limit = None
        if case.limits:
            own = row if case.rows_limit else best_row
            fastest = min(case.limits, key=lambda name: min(samples[name, own]))
            limit = fastest, samples[fastest, own]
        for operation in case.ours:
            yield entry(operation, case, row, samples[operation, row], limit, peers)


# ---- the file of results ----


def cpu() -> str:
    name = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(": ")[1].strip() for line in info if line.startswith("model name")), name)


def versions() -> dict[str, str]:
    """The peers that take part."""
    names = {"NumPy": "numpy", "ml_dtypes": "ml_dtypes", "ONNX Runtime": "onnxruntime", "PyTorch": "torch"}
    versions = {}
    for name, package in names.items():
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(package)
    return versions


def commit() -> str:
    """Of the checkout, with a plus sign where files differ from it; empty outside of one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def save(entries: Sequence[Entry], effort: tuple[int, float], minutes: float, folder: Path) -> Path:
    """Write the results of this CPU: virtual machines hide the model, so the best row is part of the name."""
    about = {"cpu": cpu(), "row": rows()[-1], "measured": time.strftime("%Y-%m-%d"), "commit": commit()}
    about |= {"versions": versions(), "rounds": effort[0], "minutes": round(minutes)}
    path = folder / (re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']} {about['row']}".lower()).strip("-") + ".json")
    lines = ",\n".join("  " + json.dumps(asdict(each), ensure_ascii=False) for each in entries)
    path.write_text(f'{json.dumps(about, ensure_ascii=False)[:-1]}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")
    return path
