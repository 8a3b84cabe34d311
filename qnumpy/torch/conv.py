"""Convolutions of codes, and their operator qnumpy::conv2d."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _args, _check
from .._typing import Array, Float32Array, Int32Array
from ..arrays.packed import bounds
from ..arrays.packed_input import eight_bits
from ..arrays.quantized import QuantizedArray
from ..granularity import PerTensor
from ..ops.conv import Geometry, Images, convolve_reals, geometry
from ..qparams import QParams
from ._layout import Layout, array_in, layout_of
from ._library import array_of, define, opened, tensor_of
from .modules import Quantized, kind

__all__ = ["Conv1d", "Conv2d"]


# ---- the operator; an image of one axis is a row ----


class _Filters(NamedTuple):
    """What the kernel takes beside the images."""

    codes: Array  # (M, C / groups, kH, kW)
    zero_point: Int32Array
    scale: Float32Array
    bias: Float32Array | None
    images: Images
    clip: tuple[float, float]


def _open(tensors: Sequence[Tensor], text: str) -> _Filters:
    layout = layout_of(text)
    w: Any = array_in(layout, tensors, "weight")
    bias = array_in(layout, tensors, "bias") if "bias" in layout.specs else None
    params = w.qparams
    codes = np.ascontiguousarray(_args.plain(np.asarray(w.codes), params.code))
    scale = np.full(len(w), params.scale) if params.scale.ndim == 0 else np.ascontiguousarray(params.scale)
    zero_point = np.broadcast_to(params.zero_point, len(w)).astype(np.int32)
    clip = bounds("conv2d", layout.options["clip"])
    return _Filters(codes.reshape(_planes(w.shape)), zero_point, scale, bias, _images(layout), clip)


def _images(layout: Layout) -> Images:
    """Return how images become uint8; codes of int8 are moved by 128, which changes no sum."""
    params: QParams | None = layout.options.get("x_qparams")
    if params is None:
        return Images()
    up = 128 if params.code.signed else 0
    return Images(float(params.scale), int(params.zero_point) + up, params.qmin + up, params.qmax + up)


def _planes(shape: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(shape) if len(shape) == 4 else (*shape[:2], 1, *shape[2:])


def _place(x: Tensor, layout: Layout) -> Geometry:
    options = layout.options
    moves = {name: options[name] for name in ("strides", "padding", "dilations", "groups")}
    return geometry("conv2d", _planes(x.shape), _planes(layout.specs["weight"]["shape"]), **moves)


def _result_shape(x: Tensor, place: Geometry) -> tuple[int, ...]:
    return place.shape if x.ndim == 4 else (*place.shape[:2], place.shape[3])


def _convolve(x: Tensor, tensors: Sequence[Tensor], text: str) -> Tensor:
    filters, place = opened(tensors, text, _open), _place(x, layout_of(text))
    y = torch.empty(_result_shape(x, place), dtype=torch.float32)
    source = array_of(x.float().contiguous())
    codes, zero_point, scale, bias, images, clip = filters
    planes, target = source.reshape(_planes(source.shape)), array_of(y).reshape(place.shape)
    convolve_reals("conv2d", planes, codes, zero_point, place, scale, bias, target, images, clip)
    return y.to(x.dtype)


def _convolve_fake(x: Tensor, tensors: Sequence[Tensor], text: str) -> Tensor:
    return torch.empty(_result_shape(x, _place(x, layout_of(text))), dtype=x.dtype, device=x.device)


def _convolve_back(g: Tensor, y: Tensor, size: list[int], tensors: Sequence[Tensor], text: str) -> Tensor:
    """Return the gradient of x as if nothing were rounded; y tells where its clip holds."""
    layout = layout_of(text)
    low, high = bounds("conv2d", layout.options["clip"])
    weight: Any = array_in(layout, tensors, "weight")
    w = tensor_of(np.ascontiguousarray(weight.dequantize())).reshape(_planes(weight.shape))
    images, (top, left, bottom, right) = _planes(size), layout.options["padding"]
    padded = (*images[:2], images[2] + top + bottom, images[3] + left + right)
    inside = (g * ((y > low) & (y < high))).float().reshape(_planes(g.shape))
    dx, _, _ = torch.ops.aten.convolution_backward(
        inside, torch.empty(padded), w, None, layout.options["strides"], [0, 0], layout.options["dilations"], False,
        [0, 0], layout.options["groups"], [True, False, False],
    )  # fmt: skip
    return dx[:, :, top : top + images[2], left : left + images[3]].reshape(size).to(g.dtype).clone()


def _convolve_back_fake(g: Tensor, y: Tensor, size: list[int], tensors: Sequence[Tensor], text: str) -> Tensor:
    return torch.empty(size, dtype=g.dtype, device=g.device)


_gradient = define(
    "conv2d_backward(Tensor g, Tensor y, SymInt[] size, Tensor[] tensors, str layout) -> Tensor",
    _convolve_back,
    _convolve_back_fake,
)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, tensors, ctx.layout = inputs
    ctx.size = x.shape
    ctx.save_for_backward(output, *tensors)


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    y, *tensors = ctx.saved_tensors
    return _gradient(g.contiguous(), y, ctx.size, tensors, ctx.layout), [None] * len(tensors), None


conv2d = define("conv2d(Tensor x, Tensor[] tensors, str layout) -> Tensor", _convolve, _convolve_fake, _backward, _save)


# ---- the modules ----


class _Conv(Quantized):
    """What Conv1d and Conv2d share."""

    axes: ClassVar[int]

    def __init__(
        self,
        w: QuantizedArray,
        bias: Any = None,
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        clip: tuple[Any, Any] = (None, None),
        x_qparams: QParams | None = None,
    ) -> None:
        owner = type(self).__name__
        _check_weight(owner, w, self.axes)
        numbers = None if bias is None else np.array(_check.reals(owner, "bias", bias), np.float32)
        if numbers is not None and numbers.shape != w.shape[:1]:
            raise ValueError(_check.must(owner, "bias", f"of shape {w.shape[:1]}", f"shape {numbers.shape}"))
        self_stride = self._each(owner, "stride", stride, 1)
        self_dilation = self._each(owner, "dilation", dilation, 1)
        sides = self._sides(owner, padding, self_stride, self_dilation, w.shape[2:])
        divided = _check.integer(owner, "groups", groups)
        if divided < 1 or w.shape[0] % divided:
            raise ValueError(_check.must(owner, "groups", f"a divisor of {w.shape[0]} channels", str(groups)))
        if x_qparams is not None:
            eight_bits(owner, "x_qparams", x_qparams)
        flat = (1,) * (2 - self.axes)  # an image of one axis has a height of 1
        before, after = (0,) * (2 - self.axes) + sides[: self.axes], (0,) * (2 - self.axes) + sides[self.axes :]
        options = {
            "strides": [*flat, *self_stride], "padding": [*before, *after], "dilations": [*flat, *self_dilation],
            "groups": divided, "clip": bounds(owner, clip), "x_qparams": x_qparams,
        }  # fmt: skip
        super().__init__({"weight": w} if numbers is None else {"weight": w, "bias": numbers}, options)
        self.stride, self.padding, self.dilation, self.groups = self_stride, sides, self_dilation, divided
        self.out_channels, self.in_channels, self.kernel_size = w.shape[0], w.shape[1] * divided, w.shape[2:]
