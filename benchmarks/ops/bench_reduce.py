"""Minimum and maximum, per tensor and per channel; the limit is a pure read."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Array, Case, Check


def min_max(shape: tuple[int, ...], axis: int | None, threads: int) -> Case:
    x = harness.normal(shape)
    granularity = qn.PerTensor() if axis is None else qn.PerChannel(axis)
    others = tuple(i for i in range(len(shape)) if i != axis)
    results: tuple[int, ...] = () if axis is None else (shape[axis],)
    low, high = np.empty(results, np.float32), np.empty(results, np.float32)
    extremes: list[Array] = []

    def qnumpy() -> None:
        extremes[:] = qn.min_max(x, granularity)

    def numpy() -> None:
        x.min(axis=others, out=low)
        x.max(axis=others, out=high)

    name = "min_max float32" if axis is None else f"min_max float32, axis {axis}"
    case = harness.elementwise(name, x, None, threads, qnumpy, numpy, lambda: extremes, lambda: [low, high])
    expected = case.checks[name].expected
    with suppress(ImportError):
        from onnx import helper

        nodes = [helper.make_node(f"Reduce{k}", ["x", "axes"], [k], keepdims=0) for k in ("Min", "Max")]
        outs = {"Min": np.empty(results, np.float32), "Max": np.empty(results, np.float32)}
        axes = {"axes": np.array(others, np.int64)}
        case.peers["ONNX Runtime"] = harness.onnx_session(nodes, x, axes, outs, threads)
        case.checks["ONNX Runtime"] = Check(lambda: list(outs.values()), expected)
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(x)
        tensors: list[Any] = []

        def call_torch() -> None:
            if axis is None:
                tensors[:] = torch.aminmax(tensor)
            else:
                tensors[:] = [torch.amin(tensor, others), torch.amax(tensor, others)]

        case.peers["PyTorch"] = call_torch
        case.checks["PyTorch"] = Check(lambda: [part.numpy() for part in tensors], expected)
    return case


def cases(threads: int) -> Iterator[Case]:
    for shape, axis in ((harness.SMALL, None), (harness.LARGE, None), (harness.SQUARE, 0), (harness.SQUARE, 1)):
        yield min_max(shape, axis, threads)
