"""Minimum and maximum, per tensor and per channel; the limit is a pure read.

Run: ``python -m benchmarks.bench_reduce --markdown``
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import qnumpy as qn

from . import harness
from .harness import Array, Case


def min_max(shape: tuple[int, ...], axis: int | None, threads: int) -> Case:
    x = harness.aligned(shape, np.float32)
    np.random.default_rng(0).standard_normal(dtype=np.float32, out=x)
    granularity = qn.PerTensor() if axis is None else qn.PerChannel(axis)
    others = tuple(i for i in range(len(shape)) if i != axis)
    results: tuple[int, ...] = () if axis is None else (shape[axis],)
    low, high = np.empty(results, np.float32), np.empty(results, np.float32)
    ours: list[Array] = []

    def qnumpy() -> None:
        ours[:] = qn.min_max(x, granularity)

    def numpy() -> None:
        x.min(axis=others, out=low)
        x.max(axis=others, out=high)

    name = "per tensor" if axis is None else f"per channel {axis}"
    case = Case("min_max float32", name, x, None, threads, {"qnumpy": qnumpy, "NumPy": numpy})
    case.results = {"qnumpy": lambda: ours, "NumPy": lambda: [low, high]}
    with suppress(ImportError):
        from onnx import helper

        nodes = [helper.make_node(f"Reduce{k}", ["x", "axes"], [k], keepdims=0) for k in ("Min", "Max")]
        outs = {"Min": np.empty(results, np.float32), "Max": np.empty(results, np.float32)}
        call = harness.onnx_session(nodes, x, {"axes": np.array(others, np.int64)}, outs, threads)
        case.calls["ONNX Runtime"], case.results["ONNX Runtime"] = call, lambda: list(outs.values())
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(x)
        kept: list[Any] = []

        def call_torch() -> None:
            if axis is None:
                kept[:] = torch.aminmax(tensor)
            else:
                kept[:] = [torch.amin(tensor, others), torch.amax(tensor, others)]

        case.calls["PyTorch"], case.results["PyTorch"] = call_torch, lambda: [part.numpy() for part in kept]
    return case


def cases(shape: tuple[int, ...], threads: int) -> Iterator[Case]:
    for axis in (None,) if len(shape) == 1 else range(len(shape)):
        yield min_max(shape, axis, threads)


if __name__ == "__main__":
    harness.main(__doc__.splitlines()[0], cases)
