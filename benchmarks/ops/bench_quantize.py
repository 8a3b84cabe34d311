"""Quantize, dequantize, fake_quantize and requantize, per tensor and per channel, and codes that are floats."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Array, Call, Case, Check

ZERO_POINT = 3
LOW, HIGH = -128, 127


class Problem:
    """Data and parameters of one shape and axis, shared by the four operations."""

    def __init__(self, shape: tuple[int, ...], axis: int | None) -> None:
        rng = np.random.default_rng(0)
        self.axis = axis
        channels = 1 if axis is None else shape[axis]
        scale = (0.02 * rng.uniform(0.5, 2, channels)).astype(np.float32)
        zero = np.full(channels, ZERO_POINT, np.int8)
        self.scale: Any
        self.zero: Any
        self.scale, self.zero = (scale[0], zero[0]) if axis is None else (scale, zero)
        spread = tuple(-1 if i == axis else 1 for i in range(len(shape)))
        self.wide_scale = self.scale if axis is None else scale.reshape(spread)
        self.x = harness.aligned(shape, np.float32)
        rng.standard_normal(dtype=np.float32, out=self.x)
        self.codes = harness.aligned(shape, np.int8)
        self.codes[...] = rng.integers(LOW, HIGH + 1, shape, np.int8)
        self.acc = harness.aligned(shape, np.int32)
        np.multiply(self.x, 5000, out=self.acc, casting="unsafe")
        self.scratch = harness.aligned(shape, np.float32)

    def case(self, operation: str, x: Array, out: Array, threads: int, ours: Call, numpy: Call) -> Case:
        name = operation if self.axis is None else f"{operation}, axis {self.axis}"
        return harness.elementwise(name, x, out, threads, ours, numpy)

    def onnx(
        self, case: Case, nodes: list[tuple[str, list[str], str]], x: Array, out: Array, parameters: dict[str, Array]
    ) -> Case:
        """Add ONNX Runtime where it is installed."""
        with suppress(ImportError):
            from onnx import helper

            options: dict[str, Any] = {"axis": self.axis} if self.axis is not None else {}
            operators = [helper.make_node(kind, names, [result], **options) for kind, names, result in nodes]
            case.peers["ONNX Runtime"] = harness.onnx_session(operators, x, parameters, {"y": out}, case.threads)
        return case

    def torch(self, case: Case, make: Callable[[Any], tuple[Call, Callable[[], Array]]]) -> Case:
        """Add PyTorch, which has no out= and multiplies by 1 / scale: a code may differ by one."""
        torch = harness.torch()
        if torch is not None:
            torch.set_num_threads(case.threads)
            case.peers["PyTorch"], result = make(torch)
            expected = case.checks["ONNX Runtime"].expected
            case.checks["PyTorch"] = Check(lambda: [result()], expected, tolerance=1e-3)
        return case


def to_codes(values: Array, p: Problem, multiply: Callable[..., Any], factor: Any, out: Array) -> None:
    """The NumPy expression of quantize and requantize, every step into a buffer."""
    multiply(values, factor, out=p.scratch, dtype=np.float32, casting="unsafe")
    np.rint(p.scratch, out=p.scratch)
    np.add(p.scratch, ZERO_POINT, out=p.scratch)
    np.clip(p.scratch, LOW, HIGH, out=p.scratch)
    np.copyto(out, p.scratch, casting="unsafe")


def quantize(p: Problem, threads: int) -> Case:
    out = harness.aligned(p.x.shape, np.int8)
    case = p.case(
        "quantize float32 to int8", p.x, out, threads,
        lambda: qn.quantize_linear(p.x, p.scale, p.zero, dtype="int8", axis=p.axis, out=out),
        lambda: to_codes(p.x, p, np.divide, p.wide_scale, out),
    )  # fmt: skip
    parameters = {"s": np.asarray(p.scale), "z": np.asarray(p.zero)}
    p.onnx(case, [("QuantizeLinear", ["x", "s", "z"], "y")], p.x, out, parameters)

    def make(torch: Any) -> tuple[Call, Callable[[], Array]]:
        x, results = torch.from_numpy(p.x), list[Any]()
        scale, zero = torch.tensor(np.asarray(p.scale)), torch.tensor(np.asarray(p.zero))

        def call() -> None:
            if p.axis is None:
                results[:] = [torch.quantize_per_tensor(x, float(p.scale), ZERO_POINT, torch.qint8)]
            else:
                results[:] = [torch.quantize_per_channel(x, scale, zero, p.axis, torch.qint8)]

        return call, lambda: results[0].int_repr().numpy()

    return p.torch(case, make)


def dequantize(p: Problem, threads: int) -> Case:
    out = harness.aligned(p.x.shape, np.float32)

    def numpy() -> None:
        np.subtract(p.codes, np.float32(ZERO_POINT), out=p.scratch)
        np.multiply(p.scratch, p.wide_scale, out=out)

    case = p.case(
        "dequantize int8 to float32", p.codes, out, threads,
        lambda: qn.dequantize_linear(p.codes, p.scale, p.zero, axis=p.axis, out=out), numpy,
    )  # fmt: skip
    parameters = {"s": np.asarray(p.scale), "z": np.asarray(p.zero)}
    p.onnx(case, [("DequantizeLinear", ["x", "s", "z"], "y")], p.codes, out, parameters)

    def make(torch: Any) -> tuple[Call, Callable[[], Array]]:
        codes, results = torch.from_numpy(p.codes), list[Any]()
        scale, zero = torch.tensor(np.asarray(p.scale)), torch.tensor(np.asarray(p.zero))
        if p.axis is None:
            q = torch._make_per_tensor_quantized_tensor(codes, float(p.scale), ZERO_POINT)
        else:
            q = torch._make_per_channel_quantized_tensor(codes, scale, zero, p.axis)

        def call() -> None:
            results[:] = [q.dequantize()]

        return call, lambda: results[0].numpy()

    return p.torch(case, make)


def fake_quantize(p: Problem, threads: int) -> Case:
    out = harness.aligned(p.x.shape, np.float32)
    granularity = qn.PerTensor() if p.axis is None else qn.PerChannel(p.axis)
    qparams = qn.QParams(p.scale, p.zero, "int8", granularity)

    def numpy() -> None:
        np.divide(p.x, p.wide_scale, out=p.scratch)
        np.rint(p.scratch, out=p.scratch)
        np.clip(p.scratch, LOW - ZERO_POINT, HIGH - ZERO_POINT, out=p.scratch)
        np.multiply(p.scratch, p.wide_scale, out=out)

    case = p.case(
        "fake_quantize float32, int8", p.x, out, threads,
        lambda: qn.fake_quantize(p.x, qparams, out=out), numpy,
    )  # fmt: skip
    nodes = [("QuantizeLinear", ["x", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "y")]
    p.onnx(case, nodes, p.x, out, {"s": np.asarray(p.scale), "z": np.asarray(p.zero)})

    def make(torch: Any) -> tuple[Call, Callable[[], Array]]:
        x, results = torch.from_numpy(p.x), list[Any]()
        scale, zero = torch.tensor(np.asarray(p.scale)), torch.tensor(np.asarray(p.zero, np.int32))

        def call() -> None:
            if p.axis is None:
                results[:] = [torch.fake_quantize_per_tensor_affine(x, float(p.scale), ZERO_POINT, LOW, HIGH)]
            else:
                results[:] = [torch.fake_quantize_per_channel_affine(x, scale, zero, p.axis, LOW, HIGH)]

        return call, lambda: results[0].numpy()

    return p.torch(case, make)


def requantize(p: Problem, threads: int) -> Case:
    out = harness.aligned(p.acc.shape, np.int8)
    case = p.case(
        "requantize int32 to int8", p.acc, out, threads,
        lambda: qn.requantize(p.acc, p.scale, p.zero, axis=p.axis, out=out),
        lambda: to_codes(p.acc, p, np.multiply, p.wide_scale, out),
    )  # fmt: skip
    # DequantizeLinear by the multiplier, QuantizeLinear by one: the same arithmetic in two nodes.
    nodes = [("DequantizeLinear", ["x", "s"], "f"), ("QuantizeLinear", ["f", "one", "z"], "y")]
    scale = np.asarray(p.scale)
    return p.onnx(case, nodes, p.acc, out, {"s": scale, "one": np.ones_like(scale), "z": np.asarray(p.zero)})


def float_codes(name: str, elements: int, threads: int) -> Iterator[Case]:
    """Codes that are floats, per tensor, into a buffer."""
    x, scale = harness.normal((elements,)), np.float32(0.0078)
    most, dtype = np.float32(qn.QParams(1, 0, name).qmax), qn.QParams(1, 0, name).dtype
    out, back = harness.aligned(x.shape, np.uint8), harness.aligned(x.shape, np.float32)
    codes = out.view(dtype)
    yield harness.elementwise(
        f"quantize float32 to {name}", x, out, threads,
        lambda: qn.quantize_linear(x, scale, dtype=name, out=codes),
        lambda: np.copyto(codes, np.clip(x / scale, -most, most), casting="unsafe"),
    )  # fmt: skip
    yield harness.elementwise(
        f"dequantize {name} to float32", out, back, threads,
        lambda: qn.dequantize_linear(codes, scale, out=back),
        lambda: np.multiply(codes.astype(np.float32), scale, out=back),
    )  # fmt: skip


def cases(threads: int) -> Iterator[Case]:
    for shape, axis in ((harness.SMALL, None), (harness.LARGE, None), (harness.SQUARE, 0), (harness.SQUARE, 1)):
        problem = Problem(shape, axis)
        for operation in (quantize, dequantize, fake_quantize, requantize):
            yield operation(problem, threads)
        if axis is None:
            yield from float_codes("float8_e4m3fn", shape[0], threads)
