"""Exact integer convolutions."""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import _args, _check, _core
from .._typing import Array, CodeLike, Float32Array, Int32Array, IntegerLike
from ..dtypes import CODE_TYPES

__all__ = ["conv2d_integer"]

_OPERANDS = {code_type.dtype: code_type for code_type in (CODE_TYPES["int8"], CODE_TYPES["uint8"])}
_LARGEST = 2**31 - 1  # stride, dilation and padding: int32 in the kernel
_INT32 = np.dtype(np.int32)

Pair: TypeAlias = int | tuple[int, int]  # one number for both axes, or (vertical, horizontal)


def conv2d_integer(
    x: CodeLike,
    w: CodeLike,
    x_zero_point: IntegerLike | None = None,
    w_zero_point: IntegerLike | None = None,
    *,
    strides: Pair = 1,
    padding: Pair | tuple[int, int, int, int] = 0,
    dilations: Pair = 1,
    groups: int = 1,
    out: Int32Array | None = None,
) -> Int32Array:
    """Convolve integer codes exactly: ``(x - x_zero_point) * (w - w_zero_point)`` summed in int32.

    Parameters
    ----------
    x : array_like of int8 or uint8, shape (N, C, H, W)
    w : array_like of int8 or uint8, shape (M, C / groups, kH, kW)
    x_zero_point : int, optional
        Also the code of the padding, since it stands for 0.0; 0 by default.
    w_zero_point : array_like of integers, optional
        One, or shape (M,): one for each output channel. 0 by default.
    strides : int or (vertical, horizontal), default 1
    padding : int, (vertical, horizontal) or (top, left, bottom, right), default 0
    dilations : int or (vertical, horizontal), default 1
    groups : int, default 1
        Output channel m sees the input channels of group ``m * groups // M``; C groups are a depthwise convolution.
    out : ndarray of int32, optional
        Exact shape, C-contiguous, writable, apart from the inputs.

    Returns
    -------
    ndarray of int32, shape (N, M, oH, oW)
        ``oH = (H + top + bottom - dilation * (kH - 1) - 1) // stride + 1``, and likewise oW.

    Raises
    ------
    TypeError
        x or w is not of int8 or uint8.
    ValueError
        x or w is not 4-D.
    TypeError
        groups is not an integer.
    ValueError
        groups does not divide the channels; w has not C / groups channels; a filter has no elements.
    TypeError
        strides, dilations or padding hold no integers.
    ValueError
        strides or dilations are below 1, padding is below 0, one is above 2**31 - 1 or of another length.
    ValueError
        A filter is larger than the padded image.
    TypeError
        A zero point is not an integer.
    ValueError
        A zero point is outside the range of its operand's type, or of another shape.
    TypeError, ValueError
        out: as in quantize_linear.
    OverflowError
        A sum does not fit int32.

    Notes
    -----
    Exact, no rounding. The kernel multiplies the weight by patches of the image, which it copies window by window to a
    buffer of half a MiB; groups of few output channels, as in a depthwise convolution, need no patches. As in ONNX and
    PyTorch this is a correlation: filters are not flipped.

    References
    ----------
    ONNX ConvInteger, opset 10.

    Examples
    --------
    >>> x = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    >>> conv2d_integer(x, np.ones((1, 1, 2, 2), np.uint8), 1)[0, 0]
    array([[ 4,  8],
           [16, 20]], dtype=int32)
    """
    owner = "conv2d_integer"
    operands = convolution(owner, x, w, x_zero_point, w_zero_point, strides, padding, dilations, groups)
    result = _args.output(owner, out, _INT32, operands.shape, operands.x, operands.w)
    convolve(owner, operands, result)
    return result


class Convolution(NamedTuple):
    """Checked operands; `shape` is that of the result."""

    x: Array
    w: Array
    x_zero: int
    w_zero: Array
    groups: int
    window: tuple[int, int, int, int, int, int]  # strides, dilations, padding at the top and to the left
    shape: tuple[int, ...]


def convolution(
    owner: str, x: Any, w: Any, x_zero: Any, w_zero: Any, strides: Any, padding: Any, dilations: Any, groups: Any
) -> Convolution:
    """Check the arguments of a convolution, each once."""
    image, weight = _operand(owner, "x", x), _operand(owner, "w", w)
    place = geometry(owner, image.shape, weight.shape, strides, padding, dilations, groups)
    x_zero = _zero(owner, "x_zero_point", x_zero, image, 1)
    w_zero = _zero(owner, "w_zero_point", w_zero, weight, weight.shape[0])
    return Convolution(image, weight, int(x_zero[0]), w_zero, place.groups, place.window, place.shape)


class Geometry(NamedTuple):
    """Checked attributes of a convolution; `shape` is that of the result."""

    groups: int
    window: tuple[int, int, int, int, int, int]  # strides, dilations, padding at the top and to the left
    shape: tuple[int, int, int, int]


def geometry(
    owner: str,
    image: tuple[int, ...],
    weight: tuple[int, ...],
    strides: Any = 1,
    padding: Any = 0,
    dilations: Any = 1,
    groups: Any = 1,
) -> Geometry:
    """Check how filters move over images, for images and a weight of four axes."""
    groups = _check.integer(owner, "groups", groups)
    (n, c, *size), (m, depth, *kernel) = image, weight
    if groups < 1 or c % groups or m % groups:
        got = f"{groups} for {c} and {m} channels"
        raise ValueError(_check.must(owner, "groups", "a divisor of the channels of x and of w", got))
    if depth * groups != c:
        got = f"shapes {tuple(image)} and {tuple(weight)}"
        raise ValueError(_check.must(owner, "x and w", f"of C and C / groups channels for groups={groups}", got))
    if 0 in kernel:
        raise ValueError(_check.must(owner, "w", "of a kernel of at least one element", f"shape {tuple(weight)}"))
    steps, gaps = pair(owner, "strides", strides, 1), pair(owner, "dilations", dilations, 1)
    pads = sides(owner, padding)
    height, width = size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3]
    tall, wide = gaps[0] * (kernel[0] - 1) + 1, gaps[1] * (kernel[1] - 1) + 1
    if tall > height or wide > width:
        got = f"{(tall, wide)} over {(height, width)}"
        raise ValueError(_check.must(owner, "w", "no larger than the padded image", got))
    window = (steps[0], steps[1], gaps[0], gaps[1], pads[0], pads[1])
    return Geometry(groups, window, (n, m, (height - tall) // steps[0] + 1, (width - wide) // steps[1] + 1))


def convolve(
    owner: str,
    operands: Convolution,
    out: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    zero_point: int = 0,
    qmin: int = 0,
    qmax: int = 0,
) -> None:
    """Fill `out` with int32 sums; with a scale, with codes."""
    x, w = operands.x, np.ascontiguousarray(operands.w)
    out_type = _core.TYPES["int32"] if scale is None else _OPERANDS[out.dtype].core
    if not _core.conv2d(
        x, _OPERANDS[x.dtype].core, w, _OPERANDS[w.dtype].core, operands.x_zero, operands.w_zero,
        operands.groups, *operands.window, out, out_type, scale, bias, zero_point, qmin, qmax,
    ):  # fmt: skip
        raise OverflowError(_check.must(owner, "every sum", "in the range of int32", "one that is not"))


class Images(NamedTuple):
    """How images of reals become uint8; a scale of 0: each image by its own range, to the codes 0 to 255."""

    scale: float = 0.0
    zero_point: int = 0
    qmin: int = 0
    qmax: int = 255


def convolve_reals(
    owner: str,
    x: Float32Array,
    w: Array,
    w_zero: Int32Array,
    place: Geometry,
    scale: Float32Array,
    bias: Float32Array | None,
    out: Float32Array,
    images: Images = Images(),  # noqa: B008 - immutable
    clip: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """Fill `out` with ``clip(float32(acc) * (Sx * scale) + bias)`` of images that are quantized first.

    Parameters
    ----------
    owner : str
        The function that a message names.
    x : ndarray of float32, shape (N, C, H, W)
        C-contiguous.
    w : ndarray of int8 or uint8, shape (M, C / groups, kH, kW)
        C-contiguous.
    w_zero : ndarray of int32, shape (1,) or (M,)
    place : Geometry
    scale, bias : ndarray of float32, shape (M,)
        `scale` is that of the weight.
    out : ndarray of float32
        Of the shape of `place`.
    images : Images
    clip : (float, float)

    Raises
    ------
    OverflowError
        A sum does not fit int32.

    Notes
    -----
    Codes round half to even; each of the three steps after the exact sum rounds once. It is the operator Conv of
    docs/onnx-operators.md.
    """
    if not _core.conv2d_reals(
        x, _core.TYPES["float32"], w, _OPERANDS[w.dtype].core, w_zero, place.groups, *place.window, out, scale,
        bias, *clip, images.scale, images.zero_point, images.qmin, images.qmax,
    ):  # fmt: skip
        raise OverflowError(_check.must(owner, "every sum", "in the range of int32", "one that is not"))


def _operand(owner: str, name: str, value: Any) -> Array:
    operand = _check.array(owner, name, value, "Use q.codes and q.zero_point.")
    if operand.dtype not in _OPERANDS:
        raise TypeError(_check.must(owner, name, "an array of int8 or uint8", _check.got(value, operand)))
    if operand.ndim != 4:
        raise ValueError(_check.must(owner, name, "4-D", f"shape {operand.shape}"))
    return operand


def pair(owner: str, name: str, value: Any, least: int) -> tuple[int, ...]:
    """Return (vertical, horizontal)."""
    if type(value) is int and least <= value <= _LARGEST:
        return value, value
    values = value if isinstance(value, (tuple, list)) else (value, value)
    numbers = tuple(_check.integer(owner, name, number) for number in values)
    if len(numbers) != 2 or min(numbers) < least:
        raise ValueError(_check.must(owner, name, f"one or two integers of at least {least}", _check.typed(value)))
    return _bounded(owner, name, numbers)


def sides(owner: str, value: Any) -> tuple[int, ...]:
    """Return (top, left, bottom, right)."""
    if not (isinstance(value, (tuple, list)) and len(value) == 4):
        return pair(owner, "padding", value, 0) * 2
    numbers = tuple(_check.integer(owner, "padding", number) for number in value)
    if min(numbers) < 0:
        raise ValueError(_check.must(owner, "padding", "at least 0", _check.typed(value)))
    return _bounded(owner, "padding", numbers)


def _bounded(owner: str, name: str, values: tuple[int, ...]) -> tuple[int, ...]:
    if max(values) > _LARGEST:
        raise ValueError(_check.must(owner, name, f"at most {_LARGEST}", str(max(values))))
    return values


def _zero(owner: str, name: str, value: Any, codes: Array, channels: int) -> Array:
    """Return zero points as int32 of shape (1,) or (channels,)."""
    code_type = _OPERANDS[codes.dtype]
    zeros = _check.zero_point(owner, 0 if value is None else value, code_type.qmin, code_type.qmax, name)
    if zeros.size == 1:
        return zeros.reshape(1)
    if zeros.shape != (channels,):
        requirement = "()" if channels == 1 else f"() or ({channels},)"
        raise ValueError(_check.must(owner, name, f"of shape {requirement}", f"shape {zeros.shape}"))
    return zeros
