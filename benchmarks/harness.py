"""The traffic limit, peers, timing in turns, and the entry of the results, which all benchmarks share.

The candidates of a case take turns in one run, so a noisy neighbour slows all of them. An untimed call of the same
candidate precedes every sample: caches, thread pools and branch predictors are those of a loop. A figure is the ratio
of two best times of one run; absolute times on a shared machine depend on its other users.
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
ALIGNMENT = 64  # for streaming stores; every candidate works on the same buffers
SAMPLE_SECONDS = 0.002  # a sample repeats a short call this long: 10,000 times the timer's resolution
SETTLE_SECONDS = 0.002  # between candidates with threads: until the workers of the one before sleep
# A user's interpreter caches bytecode; without the cache a benchmark would time the compilation.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# bytes read to bytes written -> loops of traffic.c
SHAPES = {(4, 1): 0, (1, 4): 1, (1, 1): 2, (1, 0): 3, (2, 1): 4, (1, 2): 5}


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that start on a cache line, with their pages mapped."""
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
    loaded = ctypes.CDLL(str(library))  # its calls release the GIL: two Python threads run two loops
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
    """Loops that read `x` and write `out` without arithmetic; they only read if `out` is None."""
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
    """One call of ONNX Runtime that reads `x` and writes `outs` in place; ImportError without it."""
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
        graph, opset_imports=[helper.make_opsetid(*domain) for domain in domains.items()], ir_version=10
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fuse else levels.ORT_DISABLE_ALL
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
    """The result of a call must equal `expected`, or differ by less than `tolerance`, a part of the norm."""

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
    """One size at one number of threads: our operations, peers, and limits."""

    size: str
    kind: str  # of page.TARGETS
    work: int  # elements, or products of an integer product, of one call
    threads: int
    ours: dict[str, Call] = field(default_factory=dict)  # operation -> call
    peers: dict[str, Call] = field(default_factory=dict)
    limits: dict[str, Call] = field(default_factory=dict)  # the fastest counts
    checks: dict[str, Check] = field(default_factory=dict)  # of a name in `ours` or `peers`
    rows_limit: bool = False  # the limit is a call of qnumpy: each ISA row has its own

    def check(self, row: str) -> None:
        """Call every candidate of an ISA row once and compare its result."""
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
    """A case limited by memory; NumPy is the oracle. `results` are qnumpy's and NumPy's if these do not write `out`."""
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

Candidate = tuple[str, str]  # the name of a call, and its ISA row
Samples = dict[Candidate, list[float]]  # seconds a call, one sample a round
QUICK, FULL = (3, 1.0), (9, 3.0)  # most rounds, and the seconds of a case after which no round begins
LEAST_ROUNDS = 3
REPEATS = 3  # most repetitions of a case, if a peer or the limit is unstable
SPREAD = 2.0  # median over best time beyond which samples scatter
SLOWER = 1.5  # time with two threads over that with one beyond which two are slower
BEATEN = 1.15  # time of a traffic loop over ours beyond which the loop was disturbed


def interleaved(calls: dict[Candidate, Call], effort: tuple[int, float], settle: bool) -> Samples:
    """Time every call once a round, each on its ISA row."""
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
        for turn in range(rounds):
            if turn >= LEAST_ROUNDS and time.perf_counter() - begin > enough:
                break
            for candidate, call in calls.items():
                if settle:
                    time.sleep(SETTLE_SECONDS)
                qn.set_isa(candidate[1])
                call()
                calls_of_sample = range(repeats[candidate])
                start = time.perf_counter()
                for _ in calls_of_sample:
                    call()
                samples[candidate].append((time.perf_counter() - start) / repeats[candidate])
    finally:
        gc.enable()
    return samples


def is_unstable(seconds: Sequence[float], single: float | None = None) -> bool:
    """Whether the samples scatter, or are slower with two threads than `single`, the time of one."""
    best = min(seconds)
    return statistics.median(seconds) > SPREAD * best or (single is not None and best > SLOWER * single)


# ---- the entry of the results ----


@dataclass(frozen=True)
class Entry:
    """One operation at one size, on one ISA row: seconds, and ratios of other times to ours."""

    operation: str
    size: str
    kind: str
    threads: int
    row: str
    work: int
    best: float
    median: float
    limit: Any  # name, best, ratio of best times, median of the ratios of each round; "unstable", or None
    peers: dict[str, Any]  # name -> best, ratio; or "unstable"
    memory: dict[str, int] = field(default_factory=dict)  # peak bytes of a job, ours as "qnumpy"


def digits(value: float) -> float:
    """Round to four digits; the others are noise."""
    return float(f"{value:.4g}")


def entry(
    operation: str, case: Case, row: str, ours: list[float], limit: tuple[str, list[float] | None] | None,
    peers: dict[str, list[float] | None], memory: dict[str, int] | None = None,
) -> Entry:  # fmt: skip
    """The entry of samples; a peer or a limit whose samples are None is unstable."""
    best = min(ours)
    limited: Any = None
    if limit is not None and limit[1] is None:
        limited = "unstable"
    elif limit is not None:
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
    """Check a case, then time its candidates in turns; `singles` keeps the best times of others on one thread."""
    *_, best_row = names = rows()
    calls: dict[Candidate, Call] = {}
    for row in names:
        calls |= {(name, row): call for name, call in case.ours.items()}
        if case.rows_limit or row == best_row:
            calls |= {(name, row): call for name, call in case.limits.items()}
    calls |= {(name, best_row): call for name, call in case.peers.items()}
    first = next(iter(case.ours))

    def single(name: str) -> float | None:
        return singles.get((first, case.size, name)) if case.threads > 1 else None

    def unstable(name: str) -> bool:
        return is_unstable(samples[name, best_row], single(name))

    def limit(row: str) -> tuple[str, list[float] | None] | None:
        """The fastest limit; its samples are None if it is slower than with one thread."""
        if not case.limits:
            return None
        own = row if case.rows_limit else best_row
        name = min(case.limits, key=lambda name: min(samples[name, own]))
        seconds, alone = samples[name, own], single(f"limit {row}")
        return name, None if alone is not None and min(seconds) > SLOWER * alone else seconds

    def slow_limit() -> bool:
        return any((best := limit(row)) and best[1] is None for row in names)

    def beaten() -> bool:
        """Whether a call beats a loop of the same traffic: then the loop was disturbed."""
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
                if not any(map(unstable, case.peers)) and not beaten() and not slow_limit():
                    break
                for candidate, seconds in interleaved(calls, effort, case.threads > 1).items():
                    samples[candidate] += seconds
    finally:
        qn.set_isa(best_row)
    peers = {name: None if unstable(name) else samples[name, best_row] for name in case.peers}
    if case.threads == 1:
        singles.update({(first, case.size, name): min(samples[name, best_row]) for name in case.peers})
        singles.update({(first, case.size, f"limit {row}"): min(limit(row)[1]) for row in names if case.limits})
    for row in names:
        for operation in case.ours:
            yield entry(operation, case, row, samples[operation, row], limit(row), peers)


# ---- the file of results ----


def cpu() -> str:
    name = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(": ")[1].strip() for line in info if line.startswith("model name")), name)


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    names = {"NumPy": "numpy", "ml_dtypes": "ml_dtypes", "ONNX Runtime": "onnxruntime", "PyTorch": "torch"}
    versions = {}
    for name, package in names.items():
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(package)
    return versions


def commit() -> str:
    """The commit of the checkout, with a plus sign if files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def save(entries: Sequence[Entry], effort: tuple[int, float], minutes: float, folder: Path) -> Path:
    """Write the results of this CPU. Virtual machines hide the model, so the file name has the best ISA row."""
    about = {"cpu": cpu(), "row": rows()[-1], "measured": time.strftime("%Y-%m-%d"), "commit": commit()}
    about |= {"versions": versions(), "rounds": effort[0], "minutes": round(minutes)}
    path = folder / (re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']} {about['row']}".lower()).strip("-") + ".json")
    lines = ",\n".join("  " + json.dumps(asdict(entry), ensure_ascii=False) for entry in entries)
    path.write_text(f'{json.dumps(about, ensure_ascii=False)[:-1]}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")
    return path
