"""A whole static calibration: a network of three layers, 200 batches of 512 x 768, against the peers' calibrators.

Every job runs the same layers in its own library and observes the same seven tensors, four of them of 512 x 768. Each
is a process of its own on one CPU; imports, weights and batches are ready before the clock starts. The time of an entry
is the job's best less that of the same library's network alone. A difference below 5 % of the network's time is noise:
ours counts as those 5 %, a peer's as unstable. Memory is the peak less the resident memory before the job.
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

from .. import harness
from ..harness import Array, Case, Entry

BATCHES, ROWS, WIDE, NARROW, LAYERS = 200, 512, 768, 32, 3
POOL = 8  # different batches, which repeat; they do not count in the peak

Job = Callable[[], Any]


def _weights() -> list[tuple[Array, Array]]:
    """Layers of low rank: cheap, so that the observers take most of the time."""
    rng = np.random.default_rng(0)
    shapes = ((WIDE, NARROW), (NARROW, WIDE))
    return [tuple(rng.standard_normal(s, np.float32) / s[0] ** 0.5 for s in shapes) for _ in range(LAYERS)]  # type: ignore[misc]


def _batches() -> Iterator[Array]:
    rng = np.random.default_rng(1)
    pool = [rng.standard_normal((ROWS, WIDE), np.float32) for _ in range(POOL)]
    return (pool[k % POOL] for k in range(BATCHES))


# ---- jobs: preparations, and the call that is timed ----


def numpy_network() -> Callable[[Array], dict[str, Array]]:
    weights = _weights()

    def run(x: Array) -> dict[str, Array]:
        tensors = {"x": x}
        for k, (a, b) in enumerate(weights):
            tensors[f"a{k}"] = x @ a
            tensors[f"h{k}"] = x = np.maximum(tensors[f"a{k}"] @ b, 0)
        return tensors

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


NOISE = 0.05  # of the time of a network: smaller differences are noise
NETWORKS = {"NumPy": "NumPy network alone", "PyTorch": "PyTorch network alone", "ONNX Runtime": "ONNX Runtime alone"}
JOBS: dict[str, tuple[str, Callable[[], Job]]] = {
    NETWORKS["NumPy"]: ("NumPy", alone),
    "qnumpy MinMaxObserver": ("NumPy", lambda: ours(qn.MinMaxObserver())),
    "qnumpy HistogramObserver mse": ("NumPy", lambda: ours(qn.HistogramObserver("mse"))),
    "qnumpy HistogramObserver entropy": ("NumPy", lambda: ours(qn.HistogramObserver("entropy"))),
    "qnumpy HistogramObserver percentile": ("NumPy", lambda: ours(qn.HistogramObserver("percentile"))),
    NETWORKS["PyTorch"]: ("PyTorch", lambda: torch_job(None)),
    "PyTorch MinMaxObserver": ("PyTorch", lambda: torch_job("MinMaxObserver")),
    "PyTorch HistogramObserver": ("PyTorch", lambda: torch_job("HistogramObserver")),
    NETWORKS["ONNX Runtime"]: ("ONNX Runtime", lambda: onnx_job(None)),
    "ONNX Runtime MinMax": ("ONNX Runtime", lambda: onnx_job("MinMax")),
    "ONNX Runtime Entropy": ("ONNX Runtime", lambda: onnx_job("Entropy")),
    "ONNX Runtime Percentile": ("ONNX Runtime", lambda: onnx_job("Percentile")),
}
COMPARED = {
    "extremes": ("qnumpy MinMaxObserver", "PyTorch MinMaxObserver", "ONNX Runtime MinMax"),
    "mse": ("qnumpy HistogramObserver mse", "PyTorch HistogramObserver"),
    "entropy": ("qnumpy HistogramObserver entropy", "ONNX Runtime Entropy"),
    "percentile": ("qnumpy HistogramObserver percentile", "ONNX Runtime Percentile"),
}
ROUNDS = 2
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
    run, extremes = numpy_network(), {}
    for batch in list(_batches())[:POOL]:
        for name, x in run(batch).items():
            extremes[name] = max(extremes.get(name, 0.0), float(np.abs(x).max()))
    params = ours(qn.MinMaxObserver())()
    assert {name: float(qparams.scale) for name, qparams in params.items()} == {
        name: float(np.float32(most / 127)) for name, most in extremes.items()
    }


def entries(effort: tuple[int, float]) -> Iterator[Entry]:
    check()
    installed = [job for job, (library, _) in JOBS.items() if all(map(importlib.util.find_spec, NEEDS[library]))]
    samples: dict[str, list[dict[str, float]]] = {job: [] for job in installed}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "QNUMPY_NUM_THREADS"), "1")
    for _ in range(ROUNDS if effort[0] > ROUNDS * 2 else 1):
        for job in installed:
            command = [sys.executable, "-W", "ignore", "-m", __spec__.name, job]
            environment = {**harness.ENVIRONMENT, **threads}
            process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            samples[job].append(json.loads(process.stdout.splitlines()[-1]))
    seconds = {job: min(run["seconds"] for run in runs) for job, runs in samples.items()}
    memory = {job: int(max(run["bytes"] for run in runs)) for job, runs in samples.items()}

    def observing(job: str) -> list[float]:
        network = seconds[NETWORKS[JOBS[job][0]]]
        return [max(seconds[job] - network, NOISE * network)]

    def peer(job: str) -> list[float] | None:
        network = seconds[NETWORKS[JOBS[job][0]]]
        return observing(job) if seconds[job] - network > NOISE * network else None

    case = Case(f"{BATCHES} x {ROWS} x {WIDE}", "job", BATCHES * ROWS * WIDE, 1)
    for method, (ours, *others) in COMPARED.items():
        others = [job for job in others if job in installed]
        peers: dict[str, list[float] | None] = {JOBS[job][0]: peer(job) for job in others}
        peaks = {"qnumpy": memory[ours], **{JOBS[job][0]: memory[job] for job in others}}
        yield harness.entry(f"calibrate, {method}", case, harness.rows()[-1], observing(ours), None, peers, peaks)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(measure(sys.argv[1])))
