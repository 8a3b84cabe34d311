"""A whole static calibration: a network of three layers, 200 batches of 512 x 768, against the peers' calibrators.

Run: ``python -m benchmarks.bench_calibrate --markdown``

Every job runs the same layers in its own library and observes the same seven tensors, four of them of 512 x 768. Each
is a process of its own on one CPU; imports, weights and batches are there before the clock starts. "Observing" is the
job's best time less that of the same library's network alone; memory is the peak over what was resident before.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import qnumpy as qn

from . import harness
from .harness import Array

BATCHES, ROWS, WIDE, NARROW, LAYERS = 200, 512, 768, 32, 3
POOL = 8  # different batches: they come again and again, and take no part in the peak

Job = Callable[[], Any]


def _weights() -> list[tuple[Array, Array]]:
    """Layers of low rank: cheap, so that what is measured is the observing."""
    rng = np.random.default_rng(0)
    shapes = ((WIDE, NARROW), (NARROW, WIDE))
    return [tuple(rng.standard_normal(s, np.float32) / s[0] ** 0.5 for s in shapes) for _ in range(LAYERS)]  # type: ignore[misc]


def _batches() -> Iterator[Array]:
    rng = np.random.default_rng(1)
    pool = [rng.standard_normal((ROWS, WIDE), np.float32) for _ in range(POOL)]
    return (pool[k % POOL] for k in range(BATCHES))


# ---- jobs: what is made before the clock starts, and a call that is timed ----


def numpy_network() -> Callable[[Array], dict[str, Array]]:
    weights = _weights()

    def run(x: Array) -> dict[str, Array]:
        found = {"x": x}
        for k, (a, b) in enumerate(weights):
            found[f"a{k}"] = x @ a
            found[f"h{k}"] = x = np.maximum(found[f"a{k}"] @ b, 0)
        return found

    return run


def alone() -> Job:
    run, batches = numpy_network(), _batches()
    return lambda: [run(batch) and None for batch in batches]


def ours(observer: Any) -> Job:
    run, batches = numpy_network(), _batches()
    return lambda: qn.calibrate(run, batches, observer, progress=False).qparams()


def torch_job(name: str | None) -> Job:
    import torch
    import torch.ao.quantization as observers

    torch.set_num_threads(1)
    weights = [tuple(map(torch.from_numpy, pair)) for pair in _weights()]
    batches = [torch.from_numpy(x) for x in _batches()]
    kind = getattr(observers, name) if name else None
    seen: dict[str, Any] = {}

    def see(key: str, x: Any) -> Any:
        if kind is not None:
            if key not in seen:
                seen[key] = kind(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
            seen[key](x)
        return x

    def run() -> Any:
        for x in batches:
            see("x", x)
            for k, (a, b) in enumerate(weights):
                x = see(f"h{k}", torch.relu(see(f"a{k}", x @ a) @ b))
        return {key: observer.calculate_qparams() for key, observer in seen.items()}

    return run


def onnx_model(path: str) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, x = [], [], "x"
    for k, pair in enumerate(_weights()):
        constants += [numpy_helper.from_array(w, f"{name}{k}") for name, w in zip("vw", pair, strict=True)]
        nodes.append(helper.make_node("MatMul", [x, f"v{k}"], [f"a{k}"]))
        nodes.append(helper.make_node("MatMul", [f"a{k}", f"w{k}"], [f"b{k}"]))
        nodes.append(helper.make_node("Relu", [f"b{k}"], [x := f"h{k}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDE]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def onnx_job(method: str | None) -> Job:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    folder = tempfile.mkdtemp(prefix="qnumpy-calibrate-")
    path = f"{folder}/network.onnx"
    onnx_model(path)
    batches = _batches()
    if method is None:
        session = onnxruntime.InferenceSession(path)
        return lambda: [session.run(None, {"x": batch}) and None for batch in batches]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            batch = next(batches, None)
            return None if batch is None else {"x": batch}

    # Relu's outputs and MatMul's inputs: the seven tensors
    calibrator = create_calibrator(
        path, ["MatMul", "Relu"], f"{folder}/augmented.onnx", calibrate_method=getattr(CalibrationMethod, method)
    )

    def run() -> Any:
        calibrator.collect_data(Reader())
        return calibrator.compute_data()

    return run


NOISE = 0.05  # of the time of a network: what is less is not told apart from it
NETWORKS = {"NumPy": "NumPy network alone", "PyTorch": "PyTorch network alone", "ONNX Runtime": "ONNX Runtime alone"}
JOBS: dict[str, tuple[str, Callable[[], Job]]] = {
    NETWORKS["NumPy"]: ("NumPy", alone),
    "qnumpy MinMaxObserver": ("NumPy", lambda: ours(qn.MinMaxObserver())),
    "qnumpy HistogramObserver mse": ("NumPy", lambda: ours(qn.HistogramObserver("mse"))),
    "qnumpy HistogramObserver entropy": ("NumPy", lambda: ours(qn.HistogramObserver("entropy"))),
    NETWORKS["PyTorch"]: ("PyTorch", lambda: torch_job(None)),
    "PyTorch MinMaxObserver": ("PyTorch", lambda: torch_job("MinMaxObserver")),
    "PyTorch HistogramObserver": ("PyTorch", lambda: torch_job("HistogramObserver")),
    NETWORKS["ONNX Runtime"]: ("ONNX Runtime", lambda: onnx_job(None)),
    "ONNX Runtime MinMax": ("ONNX Runtime", lambda: onnx_job("MinMax")),
    "ONNX Runtime Entropy": ("ONNX Runtime", lambda: onnx_job("Entropy")),
    "ONNX Runtime Percentile": ("ONNX Runtime", lambda: onnx_job("Percentile")),
}
NEEDS = {"NumPy": (), "PyTorch": ("torch",), "ONNX Runtime": ("onnx", "onnxruntime")}


# ---- one job in its own process ----


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{field}:"))


def measure(job: str) -> dict[str, float]:
    """Seconds, and bytes over what was resident before."""
    run = JOBS[job][1]()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts here
    before, start = _resident("VmRSS"), time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start, "bytes": _resident("VmHWM") - before}


def check() -> None:
    """Our parameters are those of the extremes, and the extremes those of NumPy."""
    run, found = numpy_network(), {}
    for batch in list(_batches())[:POOL]:
        for name, x in run(batch).items():
            found[name] = max(found.get(name, 0.0), float(np.abs(x).max()))
    params = ours(qn.MinMaxObserver())()
    assert {name: float(each.scale) for name, each in params.items()} == {
        name: float(np.float32(most / 127)) for name, most in found.items()
    }


def table(rounds: int, *, markdown: bool) -> str:
    check()
    installed = [job for job, (library, _) in JOBS.items() if all(map(importlib.util.find_spec, NEEDS[library]))]
    samples: dict[str, list[dict[str, float]]] = {job: [] for job in installed}
    environment = {
        **harness.ENVIRONMENT,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "QNUMPY_NUM_THREADS": "1",
    }
    for _ in range(rounds):
        for job in installed:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_calibrate", "--job", job]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            samples[job].append(json.loads(done.stdout.splitlines()[-1]))
    best = {job: min(each["seconds"] for each in found) for job, found in samples.items()}
    network = {job: best[NETWORKS[JOBS[job][0]]] for job in installed}
    least = {job: NOISE * network[job] for job in installed}
    body = []
    for job, found in samples.items():
        seconds = best[job] - network[job]
        ours = "qnumpy MinMaxObserver" if "MinMax" in job else "qnumpy HistogramObserver mse"
        spent, ratio = "-", "-"
        if job not in NETWORKS.values():
            spent = f"{seconds:.3f}" if seconds >= least[job] else f"< {least[job]:.3f}"
            if not job.startswith("qnumpy") and seconds >= least[job]:
                theirs = seconds / max(best[ours] - network[ours], least[ours])
                ratio = "> " * (best[ours] - network[ours] < least[ours]) + harness.number(theirs, "x")
        body.append([job, f"{best[job]:.3f}", spent, ratio, f"{max(each['bytes'] for each in found) / 1e6:.1f}"])
    head = ["job", "best s", "observing s", "over qnumpy", "peak MB"]
    return harness.render(head, body, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=2, threads=False)
    parser.add_argument("--job", choices=list(JOBS), help="run one in this process, print JSON")
    options = parser.parse_args()
    if options.job:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(options.job)))
        return
    print(f"{harness.machine()}\n\n{table(options.rounds, markdown=options.markdown)}")


if __name__ == "__main__":
    main()
