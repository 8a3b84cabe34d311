"""Fake-quantization for training: the forward pass with its marks, and the gradients, per tensor and per channel.

The functions of `qnumpy.ops.gradients` return new arrays; here the kernels write to buffers, as the loops beside do.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy import _core

from .. import harness
from ..harness import Array, Case, Check

ZERO_POINT = 3
LOW, HIGH = -128, 127
FLOAT32 = qn.dtypes.FLOAT_TYPES["float32"].core


class Problem:
    """An array, a gradient, and parameters that let some codes saturate; results of NumPy."""

    def __init__(self, shape: tuple[int, ...], axis: int | None) -> None:
        rng = np.random.default_rng(0)
        self.axis = axis
        self.both = harness.aligned((2, *shape), np.float32)  # x and g: what the gradients of the parameters read
        rng.standard_normal(dtype=np.float32, out=self.both)
        self.x, self.g = self.both
        self.out = harness.aligned(shape, np.float32)
        granularity = qn.PerTensor() if axis is None else qn.PerChannel(axis)
        scale = np.asarray(0.02 * rng.uniform(0.5, 1.2, granularity.params_shape(shape)), np.float32)
        self.params = qn.QParams(scale, ZERO_POINT, "int8", granularity)
        self.scale, self.zero = scale, np.full(scale.shape, ZERO_POINT, np.int32)
        self.wide = scale.reshape([-1 if d == axis else 1 for d in range(len(shape))]) if scale.ndim else scale
        self.grid = granularity.grid(shape)
        self.bits = harness.aligned((-(-self.x.size // 8),), np.uint8)
        self.mask = np.abs(np.rint(self.x / self.wide) + np.float32(ZERO_POINT) + np.float32(0.5)) < HIGH + 1
        self.bits[...] = np.packbits(self.mask, bitorder="little")
        self.scratch = harness.aligned(shape, np.float32)
        self.sums = np.zeros((3, *scale.shape))
        self.others = tuple(d for d in range(len(shape)) if d != axis)

    def case(self, operation: str, threads: int, reads: Array, ours: Any, numpy: Any, *expected: Array) -> Case:
        name = operation if self.axis is None else f"{operation}, axis {self.axis}"
        limits = harness.traffic(reads, self.out, threads)
        case = Case(harness.size(self.x.size), "memory", self.x.size, threads, {name: ours}, {"NumPy": numpy}, limits)
        case.checks = {name: Check(lambda: [self.out], expected)}
        return case

    def torch(self, case: Case, suffix: str, *arguments: Any) -> None:
        """Add the operation of PyTorch for one tensor or for channels; it returns a new array."""
        torch = harness.torch()
        if torch is None:
            return
        torch.set_num_threads(case.threads)
        kind = "tensor" if self.axis is None else "channel"
        call = getattr(torch.ops.aten, suffix.format(kind))
        case.peers["PyTorch"] = lambda: call(*arguments)


def forward(p: Problem, threads: int) -> Case:
    def numpy() -> None:
        np.divide(p.x, p.wide, out=p.scratch)
        np.rint(p.scratch, out=p.scratch)
        np.clip(p.scratch, LOW - ZERO_POINT, HIGH - ZERO_POINT, out=p.out)
        np.equal(p.out, p.scratch, out=p.mask)
        np.multiply(p.out, p.wide, out=p.out)

    def ours() -> None:
        _core.fake_quantize_inside(
            p.x, FLOAT32, p.scale, p.zero, p.out, FLOAT32, p.bits, *p.grid, LOW, HIGH, 0
        )  # fmt: skip

    expected = qn.fake_quantize(p.x, p.params)
    case = p.case("fake_quantize with marks, int8", threads, p.x, ours, numpy, expected)
    torch, axis = harness.torch(), () if p.axis is None else (p.axis,)
    if torch is not None:
        scale, zero = (torch.from_numpy(np.asarray(a)) for a in (p.scale, p.zero))
        parameters = (float(p.scale), ZERO_POINT) if p.axis is None else (scale, zero)
        x = torch.from_numpy(p.x)
        p.torch(case, "fake_quantize_per_{}_affine_cachemask", x, *parameters, *axis, LOW, HIGH)
    with suppress(ImportError):
        from onnx import helper

        options = {} if p.axis is None else {"axis": p.axis}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **options),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **options),
        ]
        numbers = {"s": p.scale, "z": p.zero.astype(np.int8)}
        case.peers["ONNX Runtime, no marks"] = harness.onnx_session(nodes, p.x, numbers, {"y": p.out}, threads)
    return case


def straight_through(p: Problem, threads: int) -> Case:
    """The bits lie in the order of memory: the axis makes no difference."""
    case = p.case(
        "gradient of x", threads, p.g, lambda: _core.keep_inside(p.g, FLOAT32, p.bits, p.out, FLOAT32),
        lambda: np.multiply(p.g, p.mask, out=p.out), np.where(p.mask, p.g, 0),
    )  # fmt: skip
    torch = harness.torch()
    if torch is not None:
        arguments = torch.from_numpy(p.g), torch.from_numpy(p.mask)
        p.torch(case, "fake_quantize_per_{}_affine_cachemask_backward", *arguments)
    return case


def learned(p: Problem, threads: int) -> Case:
    def numpy() -> None:
        np.divide(p.x, p.wide, out=p.scratch)
        steps = np.rint(p.scratch)
        below, above = steps < LOW - ZERO_POINT, steps > HIGH - ZERO_POINT
        np.subtract(steps, p.scratch, out=p.scratch)
        np.multiply(p.g, ~(below | above), out=p.out)
        for term in (p.out * p.scratch, p.g * below, p.g * above):
            term.sum(axis=p.others, dtype=np.float64)

    def ours() -> None:
        _core.gradients(
            p.x, FLOAT32, p.g, FLOAT32, p.scale, p.zero, p.out, FLOAT32, p.sums, *p.grid, LOW, HIGH, 0
        )  # fmt: skip

    case = p.case("gradients of x and scale", threads, p.both, ours, numpy, np.where(p.mask, p.g, 0))
    torch = harness.torch()
    if torch is not None:
        x, g = torch.from_numpy(p.x), torch.from_numpy(p.g)
        scale, zero = (torch.from_numpy(np.atleast_1d(a).astype(np.float32)) for a in (p.scale, p.zero))
        axis = () if p.axis is None else (p.axis,)
        name = "_fake_quantize_learnable_per_{}_affine_backward"
        p.torch(case, name, g, x, scale, zero, *axis, LOW, HIGH, 1.0)
    return case


def cases(threads: int) -> Iterator[Case]:
    for shape, axis in ((harness.LARGE, None), (harness.SQUARE, 0), (harness.SQUARE, 1)):
        problem = Problem(shape, axis)
        yield forward(problem, threads)
        yield learned(problem, threads)
        if axis is None:
            yield straight_through(problem, threads)
