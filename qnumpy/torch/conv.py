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
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        clip: tuple[Any, Any] = (None, None),
        x_qparams: QParams | None = None,
    ) -> None:
        owner, axes = type(self).__name__, self.axes
        _check_weight(owner, w, axes)
        numbers = None if bias is None else np.array(_check.reals(owner, "bias", bias), np.float32)
        if numbers is not None and numbers.shape != w.shape[:1]:
            raise ValueError(_check.must(owner, "bias", f"of shape {w.shape[:1]}", f"shape {numbers.shape}"))
        steps = _each(owner, "stride", stride, axes, 1)
        gaps = _each(owner, "dilation", dilation, axes, 1)
        reach = [gap * (side - 1) for gap, side in zip(gaps, w.shape[2:], strict=True)]
        before, after = _sides(owner, padding, steps, reach)
        divided = _check.integer(owner, "groups", groups)
        if divided < 1 or w.shape[0] % divided:
            raise ValueError(_check.must(owner, "groups", f"a divisor of {w.shape[0]} output channels", str(divided)))
        ends = bounds(owner, clip)
        if x_qparams is not None:
            eight_bits(owner, "x_qparams", x_qparams)
        one, none = [1] * (2 - axes), [0] * (2 - axes)  # an image of one axis has a height of 1
        options = {
            "strides": [*one, *steps],
            "padding": [*none, *before, *none, *after],
            "dilations": [*one, *gaps],
            "groups": divided,
            "clip": ends,
            "x_qparams": x_qparams,
        }
        super().__init__({"weight": w} if numbers is None else {"weight": w, "bias": numbers}, options)
        self.in_channels, self.out_channels = w.shape[1] * divided, w.shape[0]
        self.kernel_size, self.stride, self.dilation, self.groups = w.shape[2:], steps, gaps, divided
        self.padding = padding if isinstance(padding, str) else before

    def dequantize(self) -> Tensor:
        """Return the weight as float32, (out_channels, in_channels / groups, *kernel_size)."""
        return tensor_of(np.ascontiguousarray(self.array().dequantize()))

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == self.axes + 1:
            y: Tensor = conv2d(input[None], self.tensors(), self.layout)[0]
            return y
        if input.ndim != self.axes + 2:
            wanted = f"of {self.axes + 1} or {self.axes + 2} axes"
            raise ValueError(_check.must(type(self).__name__, "input", wanted, f"shape {tuple(input.shape)}"))
        return conv2d(input, self.tensors(), self.layout)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        options = layout_of(self.layout).options
        shown: dict[str, Any] = {"kernel_size": self.kernel_size, "stride": self.stride}
        shown |= {"padding": self.padding} if any(options["padding"]) else {}
        shown |= {"dilation": self.dilation} if max(self.dilation) > 1 else {}
        shown |= {"groups": self.groups} if self.groups > 1 else {}
        parts = [str(self.in_channels), str(self.out_channels), *(f"{name}={value}" for name, value in shown.items())]
        params = options.get("x_qparams")
        parts += [kind(self.array()), "x uint8 per image" if params is None else f"x {params.code.name} as given"]
        parts += ["bias"] if "bias" in layout_of(self.layout).specs else []
        low, high = bounds(type(self).__name__, options["clip"])
        return ", ".join(parts if (low, high) == (-np.inf, np.inf) else [*parts, f"clip ({low:g}, {high:g})"])


def _check_weight(owner: str, w: Any, axes: int) -> None:
    if not isinstance(w, QuantizedArray):
        raise TypeError(_check.must(owner, "w", "a QuantizedArray", _check.typed(w)))
    by_output = w.ndim == axes + 2 and w.scale.shape in ((), w.shape[:1]) and w.granularity.axis in (None, 0, -w.ndim)
    if w.qparams.code.real is not None or w.qparams.code.bits > 8 or not by_output or 0 in w.shape:
        wanted = f"{axes + 2}-D, not empty, of integers of at most 8 bits per tensor or per channel 0"
        raise ValueError(_check.must(owner, "w", wanted, f"{kind(w)} of shape {w.shape}"))


def _each(owner: str, name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """Return a number for each axis."""
    values = list(value) if isinstance(value, (tuple, list)) else [value] * axes
    numbers = tuple(_check.integer(owner, name, number) for number in values)
    if len(numbers) != axes or min(numbers) < least:
        counted = "an integer" if axes == 1 else "one or two integers"
        raise ValueError(_check.must(owner, name, f"{counted} of at least {least}", _check.typed(value)))
    return numbers


def _sides(owner: str, padding: Any, stride: tuple[int, ...], reach: list[int]) -> list[tuple[int, ...]]:
    """Return the padding before and after the image."""
    if not isinstance(padding, str):
        numbers = _each(owner, "padding", padding, len(reach), 0)
        return [numbers, numbers]
    if padding not in ("same", "valid"):
        raise ValueError(_check.must(owner, "padding", "integers, 'same' or 'valid'", _check.typed(padding)))
    if padding == "same" and max(stride) > 1:
        raise ValueError(_check.must(owner, "stride", "1 beside padding='same'", str(tuple(stride))))
    total = reach if padding == "same" else [0] * len(reach)
    return [tuple(number // 2 for number in total), tuple(number - number // 2 for number in total)]


class Conv2d(_Conv):
    """Convolve images with filters of codes; the sums of codes are exact.

    Each image is quantized to uint8 with a zero point, ``y = clip(float32(acc) * (Sx * Sw) + bias)``: the operator Conv
    of docs/onnx-operators.md.

    Parameters
    ----------
    w : QuantizedArray, shape (out_channels, in_channels / groups, kH, kW)
        Integers of at most 8 bits, per tensor or per channel 0.
    bias : array_like of floats, shape (out_channels,), optional
    stride, dilation : int or (vertical, horizontal), default 1
    padding : int, (vertical, horizontal), "same" or "valid", default 0
        With zeros; "same" as in torch.nn.Conv2d, the odd row and column after the image.
    groups : int, default 1
    clip : (low, high), default (None, None)
        Bounds of y, as in PackedWeight; ``(0, None)`` is ReLU.
    x_qparams : QParams, optional
        Of int8 or uint8 per tensor, for all images: static quantization.

    Attributes
    ----------
    in_channels, out_channels, groups : int
    kernel_size, stride, dilation : tuple of int
    padding : tuple of int or str

    Raises
    ------
    TypeError
        w is no QuantizedArray.
    ValueError
        w has other axes, another granularity or other codes.
    TypeError, ValueError
        bias, stride, dilation, padding, groups, clip or x_qparams, in this order, is of another type or value.

    Notes
    -----
    x has the shape (N, C, H, W) or (C, H, W), and is float32, float16, bfloat16 or float64; y has its dtype, rounded
    once from float32. Codes of x round half to even; NaN becomes 0.0, infinities saturate.

    Examples
    --------
    >>> import qnumpy as qn, torch
    >>> w = np.ones((1, 1, 2, 2), np.float32)
    >>> layer = Conv2d(qn.quantize(w, granularity=qn.PerChannel(0)), padding="same")
    >>> layer
    Conv2d(1, 1, kernel_size=(2, 2), stride=(1, 1), padding=same, int8 per channel 0, x uint8 per image)
    >>> layer(torch.tensor([[[0.0, 51.0], [102.0, 255.0]]]))
    tensor([[[408., 306.],
             [357., 255.]]])
    """

    axes = 2


class Conv1d(_Conv):
    """Convolve sequences with filters of codes, as Conv2d does with images of one row.

    Parameters
    ----------
    w : QuantizedArray, shape (out_channels, in_channels / groups, k)
    bias, stride, padding, dilation, groups, clip, x_qparams
        As in Conv2d, a number where it takes one for each axis.

    Raises
    ------
    TypeError, ValueError
        As Conv2d.

    Examples
    --------
    >>> import qnumpy as qn, torch
    >>> layer = Conv1d(qn.quantize(np.ones((1, 1, 2), np.float32)), [0.5], clip=(0, None))
    >>> layer(torch.tensor([[[0.0, 51.0, 255.0]]]))
    tensor([[[ 51.5000, 306.5000]]])
    """

    axes = 1
