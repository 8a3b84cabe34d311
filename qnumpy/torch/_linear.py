"""The operator qnumpy::linear: rows of reals times a weight of codes, as PackedWeight multiplies them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays.packed import PackedWeight
from ._layout import Layout, array_in, layout_of
from ._library import array_of, define, opened, tensor_of

__all__ = ["linear", "packed_weight"]


def packed_weight(tensors: Sequence[Tensor], layout: str) -> PackedWeight:
    """Return the weight of shape (N, K), packed for products of rows of K; packed once while its tensors stay."""
    return opened(tensors, layout, _pack)


def _pack(tensors: Sequence[Tensor], text: str) -> PackedWeight:
    layout = layout_of(text)
    weight: Any = array_in(layout, tensors, "weight")
    bias: Any = array_in(layout, tensors, "bias") if "bias" in layout.specs else None
    return PackedWeight(weight, bias=bias, axis=1, **layout.options)


def _shape(x: Tensor, layout: Layout) -> tuple[int, ...]:
    return (*x.shape[:-1], layout.specs["weight"]["shape"][0])


def _multiply(x: Tensor, tensors: Sequence[Tensor], layout: str) -> Tensor:
    packed = packed_weight(tensors, layout)
    y = torch.empty((*x.shape[:-1], packed.shape[1]), dtype=torch.float32)
    packed.rows_times("Linear", array_of(x.float().contiguous()), array_of(y))
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _multiply_fake(x: Tensor, tensors: Sequence[Tensor], layout: str) -> Tensor:
    return x.new_empty(_shape(x, layout_of(layout)))


def _multiply_back(g: Tensor, y: Tensor, tensors: Sequence[Tensor], text: str) -> Tensor:
    """Return the gradient of x as if nothing were rounded; y tells where its clip holds."""
    packed, layout = packed_weight(tensors, text), layout_of(text)
    weight: Any = array_in(layout, tensors, "weight")
    low, high = (np.inf if bound is None else bound for bound in layout.options.get("clip", (None, None)))
    low = -low if low == np.inf else low
    inside = (y > low) & (y < high)
    dx = (g * inside).float() @ tensor_of(np.ascontiguousarray(weight.dequantize()))
    if packed.hadamard is not None:
        dx = tensor_of(packed.hadamard.inverse(array_of(dx)))
    return dx.to(g.dtype)


def _multiply_back_fake(g: Tensor, y: Tensor, tensors: Sequence[Tensor], layout: str) -> Tensor:
    return g.new_empty((*g.shape[:-1], layout_of(layout).specs["weight"]["shape"][1]))


_gradient = define(
    "linear_backward(Tensor g, Tensor y, Tensor[] tensors, str layout) -> Tensor", _multiply_back, _multiply_back_fake
)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, tensors, ctx.layout = inputs
    ctx.save_for_backward(output, *tensors)


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    y, *tensors = ctx.saved_tensors
    return _gradient(g.contiguous(), y, tensors, ctx.layout), [None] * len(tensors), None


linear = define("linear(Tensor x, Tensor[] tensors, str layout) -> Tensor", _multiply, _multiply_fake, _backward, _save)
