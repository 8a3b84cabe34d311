"""Integer convolutions beside the integer product of the same size and peers.

The limit is `matmul_integer` on as many operands as the convolution multiplies, the patches of the image in memory
before the clock starts. A convolution of ONNX Runtime takes part where it is exact: its QLinearConv of int8 weights
saturates on CPUs without VNNI. PyTorch convolves float32.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Array, Case, Check


@dataclass(frozen=True)
class Shape:
    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2 * self.dilation

    @property
    def result(self) -> int:
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def __str__(self) -> str:
        channels = f"{self.channels}" + f" to {self.outputs}" * (self.outputs != self.channels)
        about = [f"stride {self.stride}"] * (self.stride > 1) + [f"dilation {self.dilation}"] * (self.dilation > 1)
        about += [] if self.groups == 1 else ["depthwise" if self.groups == self.channels else f"{self.groups} groups"]
        return ", ".join([f"{self.kernel}x{self.kernel}", f"{channels} of {self.size}x{self.size}", *about])


SHAPES = [
    Shape(64, 56, 64, 3),
    Shape(256, 14, 256, 3),
    Shape(512, 7, 512, 3),
    Shape(64, 56, 256, 1),
    Shape(512, 28, 128, 1),
    Shape(3, 224, 64, 7, 2),
    Shape(128, 56, 128, 3, 1, 32),
    Shape(64, 112, 64, 3, 2, 64),
    Shape(256, 28, 256, 3, 1, 256),
    Shape(1024, 7, 1024, 3, 1, 1024),
    Shape(128, 56, 128, 5, 1, 128),
    Shape(128, 56, 128, 3, 1, 128, 2),
]


def exact(x: Array, w: Array, shape: Shape) -> Array:
    """The sums, one element of the kernel after another, in float64: below 2^53."""
    pad, n, per = shape.padding, shape.result, shape.channels // shape.groups
    image = np.pad(x[0].astype(np.float64), ((0, 0), (pad, pad), (pad, pad)))
    reach = (n - 1) * shape.stride + 1
    sums = np.zeros((shape.groups, shape.outputs // shape.groups, n * n))
    for i, j in np.ndindex(shape.kernel, shape.kernel):
        top, left = i * shape.dilation, j * shape.dilation
        window = image[:, top : top + reach : shape.stride, left : left + reach : shape.stride]
        factors = w[:, :, i, j].astype(np.float64).reshape(shape.groups, -1, per)
        sums += factors @ window.reshape(shape.groups, per, n * n)
    return sums.reshape(1, shape.outputs, n, n).astype(np.int32)


def convolution(shape: Shape, threads: int) -> Iterator[Case]:
    """To int32 sums, and to uint8 codes with a scale."""
    rng = np.random.default_rng(shape.channels + shape.size)
    per, n = shape.channels // shape.groups, shape.result
    x = rng.integers(0, 256, (1, shape.channels, shape.size, shape.size)).astype(np.uint8)
    w = rng.integers(0, 256, (shape.outputs, per, shape.kernel, shape.kernel)).astype(np.uint8)
    sums = exact(x, w, shape)
    scale, zero, one = np.float32(250 / np.abs(sums).max()), np.uint8(3), np.float32(1)
    options = {"padding": shape.padding, "strides": shape.stride, "dilations": shape.dilation, "groups": shape.groups}
    left = w.reshape(shape.groups, shape.outputs // shape.groups, -1)
    patches = rng.integers(0, 256, (shape.groups, left.shape[-1], n * n)).astype(np.uint8)
    product, out = np.empty((*left.shape[:2], n * n), np.int32), np.empty(sums.shape, np.int32)
    codes: list[Array] = []

    def qlinear() -> None:
        codes[:] = [qn.qlinear_conv2d(x, one, 0, w, scale, 0, one, zero, **options)]

    calls = {
        "convolution to sums": (
            lambda: qn.conv2d_integer(x, w, out=out, **options), Check(lambda: [out], [sums])
        ),
        "convolution to codes": (
            qlinear, Check(lambda: codes, [qn.requantize(sums, scale, zero, dtype="uint8")])
        ),
    }  # fmt: skip
    for name, (call, check) in calls.items():
        case = Case(str(shape), "convolution", n * n * left.size, threads, {name: call}, checks={name: check})
        case.limits["qnumpy product"] = lambda: qn.matmul_integer(left, patches, out=product)
        case.rows_limit = True
        with suppress(ImportError):
            if call is qlinear:
                onnx_codes(case, shape, x, w, scale, zero)
            else:
                onnx_sums(case, shape, x, w, sums)
        if (torch := harness.torch()) is not None:
            torch.set_num_threads(threads)
            tensors = [torch.from_numpy(array.astype(np.float32)) for array in (x, w)]
            layout = (None, shape.stride, shape.padding, shape.dilation, shape.groups)
            case.peers["PyTorch float32"] = partial(torch.nn.functional.conv2d, *tensors, *layout)
        yield case


def attributes(shape: Shape) -> dict[str, Any]:
    """Of ONNX's operators."""
    sides = {"pads": [shape.padding] * 4, "strides": [shape.stride] * 2, "dilations": [shape.dilation] * 2}
    return {**sides, "group": shape.groups}


def onnx_sums(case: Case, shape: Shape, x: Array, w: Array, sums: Array) -> None:
    from onnx import helper

    out = np.empty(sums.shape, np.int32)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], **attributes(shape))
    case.peers["ONNX Runtime"] = harness.onnx_session([node], x, {"w": w}, {"y": out}, case.threads)
    case.checks["ONNX Runtime"] = Check(lambda: [out], [sums])


def onnx_codes(case: Case, shape: Shape, x: Array, w: Array, scale: Any, zero: Any) -> None:
    from onnx import helper

    names = ["x", "one", "zero_x", "w", "s", "zero_w", "one", "z"]
    node = helper.make_node("QLinearConv", names, ["y"], **attributes(shape))
    parameters = {"one": np.ones((), np.float32), "zero_x": np.zeros((), np.uint8), "s": np.asarray(scale)}
    for name, weight in (("ONNX Runtime", w), ("ONNX Runtime s8", w.view(np.int8) ^ -128)):
        expected = qn.requantize(exact(x, weight, shape), scale, zero, dtype="uint8")
        out = np.empty(expected.shape, np.uint8)
        operands = {"w": weight, "zero_w": np.zeros((), weight.dtype), "z": np.asarray(zero)}
        call = harness.onnx_session([node], x, {**parameters, **operands}, {"y": out}, case.threads)
        call()
        if weight is w or np.array_equal(out, expected):
            case.peers[name], case.checks[name] = call, Check(lambda out=out: [out], [expected])


def cases(threads: int) -> Iterator[Case]:
    for shape in SHAPES:
        yield from convolution(shape, threads)
