"""What every benchmark shares: the traffic limit, peers, interleaved timing, the table.

The candidates of a case take turns in one run, so a noisy neighbour hits all of them. Every sample follows an untimed
call of the same candidate: caches, thread pools and branch predictors are those of a loop. A figure is the ratio of two
best times of one run; absolute times of shared machines say little.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qnumpy as qn

Array = np.ndarray[Any, Any]
Call = Callable[[], object]

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
    found: Array = raw[start : start + size].view(dtype).reshape(shape)
    found.fill(0)
    return found


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
    run, mine = library.traffic_run, parts[0]
    if threads == 1:
        return lambda: run(*mine)
    submit, other = _helper().submit, parts[1]

    def both() -> None:
        future = submit(run, *other)
        run(*mine)
        future.result()

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

    def info(name: str, array: Array) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        list(nodes),
        "benchmark",
        [info("x", x)],
        [info(name, array) for name, array in outs.items()],
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
        import torch as found
    except ImportError:
        return None
    return found


# ---- timing ----


@dataclass
class Case:
    """One row of the table.

    `calls` maps the name of a candidate to the call and to the arrays it fills (or a function that returns its result);
    "qnumpy" and "NumPy" are among them, and NumPy's result is the oracle.
    """

    operation: str
    parameters: str
    x: Array
    out: Array | None
    threads: int
    calls: dict[str, Call] = field(default_factory=dict)
    results: dict[str, Callable[[], Sequence[Array]]] = field(default_factory=dict)
    exact: tuple[str, ...] = ("qnumpy", "ONNX Runtime")  # PyTorch multiplies by the reciprocal: one code may differ

    def check(self) -> None:
        """Compare every candidate with NumPy, before anything is timed."""
        self.calls["NumPy"]()
        expected = [np.array(array) for array in self.results["NumPy"]()]
        for name, call in self.calls.items():
            if name == "NumPy":
                continue
            call()
            for got, want in zip(self.results[name](), expected, strict=True):
                if name in self.exact:
                    np.testing.assert_array_equal(got, want, err_msg=f"{self.operation}: {name}")
                else:
                    different = np.count_nonzero(np.asarray(got) != want) / want.size
                    assert different < 1e-3, f"{self.operation}: {name} differs in {different:.2%} of the elements"


@dataclass(frozen=True)
class Row:
    """Seconds a call of each candidate, one sample a round."""

    operation: str
    parameters: str
    elements: int
    threads: int
    samples: dict[str, list[float]]

    @property
    def limit(self) -> str:
        """The fastest traffic loop."""
        return min((name for name in self.samples if name.startswith("traffic")), key=lambda n: min(self.samples[n]))

    def best(self, peer: str) -> float | None:
        """Best time of a candidate over ours: 1.0 is our speed; None where it did not take part."""
        return min(self.samples[peer]) / min(self.samples["qnumpy"]) if peer in self.samples else None

    def median(self, peer: str) -> float:
        """Median over the rounds of the same ratio: both sides of it saw the same neighbours."""
        pairs = zip(self.samples[peer], self.samples["qnumpy"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def measure(case: Case, rounds: int) -> Row:
    """Check a case, then time its candidates and the traffic loops in turns."""
    with qn.threads(case.threads):
        case.check()
        calls = {**traffic(case.x, case.out, case.threads), **case.calls}
        samples = interleaved(calls, rounds, settle=case.threads > 1)
    return Row(case.operation, case.parameters, case.x.size, case.threads, samples)


def interleaved(calls: dict[str, Call], rounds: int, *, settle: bool = False) -> dict[str, list[float]]:
    """Time every call once a round; return seconds a call."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                if settle:
                    time.sleep(SETTLE_SECONDS)
                call()
                turns = range(repeats[name])
                start = time.perf_counter()
                for _ in turns:
                    call()
                samples[name].append((time.perf_counter() - start) / repeats[name])
    finally:
        if collecting:
            gc.enable()
    return samples


# ---- the command and the table ----

PEERS = ("NumPy", "ONNX Runtime", "PyTorch")


def parser(description: str, *, rounds: int, threads: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    made.add_argument("--rounds", type=int, default=rounds)
    if threads:
        made.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    return made


def main(description: str, cases: Callable[[tuple[int, ...], int], Iterable[Case]]) -> None:
    """Run the cases of a benchmark file and print them."""
    arguments = parser(description, rounds=15)
    arguments.add_argument("--json", action="store_true", help="print one JSON object a row")
    arguments.add_argument("--only", default="", help="cases whose operation or parameters contain this")
    options = arguments.parse_args()
    rows = []
    for row in run(cases, options.rounds, options.threads, options.only):
        rows.append(row)
        if options.json:
            print(json.dumps(vars(row)), flush=True)
    if not options.json:
        print(machine())
        print()
        print(table(rows, markdown=options.markdown))


def run(
    cases: Callable[[tuple[int, ...], int], Iterable[Case]],
    rounds: int,
    threads: Sequence[int] = (1, 2),
    only: str = "",
) -> Iterator[Row]:
    """Measure the cases of all shapes, those whose operation, parameters and size contain `only`."""
    for shape in (SMALL, LARGE, SQUARE):
        for used in threads:
            for case in cases(shape, used):
                if only in f"{case.operation} {case.parameters} {case.x.size}":
                    yield measure(case, rounds)


def machine() -> str:
    """One line on what ran: CPU, instruction set, versions."""
    cpu = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        cpu = next((line.split(": ")[1].strip() for line in info if line.startswith("model name")), cpu)
    versions = [f"NumPy {np.__version__}"]
    try:
        import onnxruntime

        versions.append(f"ONNX Runtime {onnxruntime.__version__}")
    except ImportError:
        pass
    if torch() is not None:
        versions.append(f"PyTorch {torch().__version__}")
    return f"{cpu}; qnumpy row {qn.isa()}; {', '.join(versions)}"


def size(elements: int) -> str:
    if elements >= 1 << 20:
        return f"{elements >> 20}M"
    return f"{elements >> 10}K" if elements >= 1 << 10 else str(elements)


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    """Best and median time, the part of the traffic's speed, and the factor over each peer."""
    peers = [peer for peer in PEERS if any(peer in row.samples for row in rows)]
    head = ["operation", "parameters", "elements", "threads", "best µs", "median µs", "of traffic", "median of traffic"]
    body = []
    for row in rows:
        ours = row.samples["qnumpy"]
        line = [row.operation, row.parameters, size(row.elements), str(row.threads)]
        line += [f"{seconds * 1e6:,.1f}" for seconds in (min(ours), statistics.median(ours))]
        line += [number(row.best(row.limit)), number(row.median(row.limit))]
        body.append(line + [number(row.best(peer), "x") for peer in peers])
    return render([*head, *(f"over {peer}" for peer in peers)], body, markdown=markdown)


def number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"


def render(head: Sequence[str], body: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Lay out cells: the first two columns to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    align = [str.ljust if i < 2 else str.rjust for i in range(len(head))]
    lines = [[put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)] for line in [head, *body]]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
