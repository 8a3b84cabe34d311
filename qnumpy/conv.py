"""Exact integer convolutions, as products of the weight and patches of the image."""

import math
from typing import Any

import numpy as np

from . import _args, _check, _core
from ._args import Array
from .matmul import matmul_integer

__all__ = ["conv2d_integer"]

_PATCHES = 4 << 20  # bytes of patches at a time
_SAFE = (2**31 - 1) // 255**2  # products of 8-bit codes that fit in int32
_NEAR = 1 << 15  # strides, dilations and padding of the kernel for depthwise convolutions
_INT32 = np.dtype(np.int32)


def conv2d_integer(
    x: Any,
    w: Any,
    x_zero_point: Any = None,
    w_zero_point: Any = None,
    *,
    strides: Any = 1,
    padding: Any = 0,
    dilations: Any = 1,
    groups: int = 1,
    out: Any = None,
) -> Array:
    """Convolve integer codes exactly: ``(x - x_zero_point) * (w - w_zero_point)`` summed in int32.

    Parameters
    ----------
    x : array_like of int8 or uint8, shape (N, C, H, W)
    w : array_like of int8 or uint8, shape (M, C / groups, kH, kW)
    x_zero_point : int, optional
        Also the code of the padding: it stands for 0.0. 0 by default.
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
        x or w is not of 8-bit integers, a zero point not an integer, out not int32.
    ValueError
        Shapes, groups, strides, padding, dilations or a zero point do not fit.
    OverflowError
        A sum does not fit int32.

    Notes
    -----
    Exact, no rounding. Patches are laid out in tiles of 4 MiB, the padding around one image at a time; a depthwise
    convolution needs neither. A correlation, as in ONNX and PyTorch: the kernel is not flipped.

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
    return _convolved("conv2d_integer", x, w, x_zero_point, w_zero_point, strides, padding, dilations, groups, out)


def _convolved(
    me: str, x: Any, w: Any, x_zero: Any, w_zero: Any, strides: Any, padding: Any, dilations: Any, groups: Any, out: Any
) -> Array:
    image, weight = _operand(me, "x", x), _operand(me, "w", w)
    groups = _check.integer(me, "groups", groups)
    (n, c, *size), (m, depth, *kernel) = image.shape, weight.shape
    if groups < 1 or c % groups or m % groups:
        got = f"{groups} for {c} and {m} channels"
        raise ValueError(_check.must(me, "groups", "a divisor of the channels of x and of w", got))
    if depth * groups != c:
        got = f"shapes {image.shape} and {weight.shape}"
        raise ValueError(_check.must(me, "x and w", f"of C and C / groups channels for groups={groups}", got))
    if 0 in kernel:
        raise ValueError(_check.must(me, "w", "of a kernel of at least one element", f"shape {weight.shape}"))
    steps, gaps = _pair(me, "strides", strides, 1), _pair(me, "dilations", dilations, 1)
    pads = _padding(me, padding)
    spans = [gap * (length - 1) + 1 for gap, length in zip(gaps, kernel, strict=True)]
    sizes = [length + pads[d] + pads[d + 2] for d, length in enumerate(size)]
    if any(span > length for span, length in zip(spans, sizes, strict=True)):
        got = f"{tuple(spans)} over {tuple(sizes)}"
        raise ValueError(_check.must(me, "w", "no larger than the padded image", got))
    shape = [(length - span) // step + 1 for length, span, step in zip(sizes, spans, steps, strict=True)]
    x_zero, w_zero = _zero(me, "x_zero_point", x_zero, image, 1), _zero(me, "w_zero_point", w_zero, weight, m)
    result = _args.output(me, out, _INT32, (n, m, *shape), image, weight)
    if depth == 1 and m == groups and math.prod(kernel) <= _SAFE and max(*steps, *gaps, *pads) <= _NEAR:
        factors = np.ascontiguousarray(weight[:, 0].astype(np.int32) - w_zero[:, None, None])
        _core.depthwise(
            np.ascontiguousarray(image), image.dtype == np.int8, factors, int(x_zero[0]), result,
            n, c, *size, *shape, *kernel, *steps, *gaps, *pads[:2],
        )  # fmt: skip
        return result
    for each, to in zip(image, result, strict=True):
        padded = _padded(each, pads, int(x_zero[0]))
        parts = (part.reshape(groups, len(part) // groups, *part.shape[1:]) for part in (padded, weight, w_zero, to))
        for inputs, kernels, zeros, outputs in zip(*parts, strict=True):
            try:
                _group(inputs, kernels, x_zero, zeros, steps, gaps, outputs)
            except OverflowError:
                raise OverflowError(_check.must(me, "every sum", "in the range of int32", "one that is not")) from None
    return result


def _group(x: Array, w: Array, x_zero: Array, w_zero: Array, steps: Any, gaps: Any, out: Array) -> None:
    """Fill out (M, oH, oW) from x (C, H, W) and w (M, C, kH, kW): w @ patches, some rows of the image at a time."""
    (m, height, width), weight = out.shape, w.reshape(len(w), math.prod(w.shape[1:]))
    if w.shape[2:] == (1, 1) and tuple(steps) == (1, 1) and x.flags.c_contiguous:
        matmul_integer(weight, x.reshape(len(x), height * width), w_zero, x_zero, out=out.reshape(m, height * width))
        return
    most = max(1, _PATCHES // max(weight.shape[1] * width, 1))
    for row in range(0, height, most):
        rows = min(most, height - row)
        patches = np.empty((*w.shape[1:], rows, width), x.dtype)
        for i in range(w.shape[2]):
            for j in range(w.shape[3]):
                patches[:, i, j] = _shifted(x, row, i, j, steps, gaps, rows, width)
        product = matmul_integer(weight, patches.reshape(weight.shape[1], rows * width), w_zero, x_zero)
        out[:, row : row + rows] = product.reshape(m, rows, width)


def _shifted(x: Array, row: int, i: int, j: int, steps: Any, gaps: Any, rows: int, width: int) -> Array:
    """The elements of x that element (i, j) of the kernel meets in some rows of the output."""
    top, left = row * steps[0] + i * gaps[0], j * gaps[1]
    return x[:, top : top + (rows - 1) * steps[0] + 1 : steps[0], left : left + (width - 1) * steps[1] + 1 : steps[1]]


def _padded(x: Array, pads: tuple[int, ...], zero: int) -> Array:
    if not any(pads):
        return x
    top, left, bottom, right = pads
    c, height, width = x.shape
    padded = np.full((c, top + height + bottom, left + width + right), zero, x.dtype)
    padded[:, top : top + height, left : left + width] = x
    return padded


def _operand(me: str, name: str, value: Any) -> Array:
    given = _check.array(me, name, value)
    if given.dtype != np.int8 and given.dtype != np.uint8:
        raise TypeError(_check.must(me, name, "an array of int8 or uint8", f"dtype {given.dtype}"))
    if given.ndim != 4:
        raise ValueError(_check.must(me, name, "4-D", f"shape {given.shape}"))
    return given


def _pair(me: str, name: str, value: Any, least: int) -> tuple[int, ...]:
    values = value if isinstance(value, (tuple, list)) else (value, value)
    found = tuple(_check.integer(me, name, each) for each in values)
    if len(found) != 2 or min(found) < least:
        raise ValueError(_check.must(me, name, f"one or two integers of at least {least}", _check.typed(value)))
    return found


def _padding(me: str, value: Any) -> tuple[int, ...]:
    """(top, left, bottom, right)."""
    if not (isinstance(value, (tuple, list)) and len(value) == 4):
        return _pair(me, "padding", value, 0) * 2
    found = tuple(_check.integer(me, "padding", each) for each in value)
    if min(found) < 0:
        raise ValueError(_check.must(me, "padding", "at least 0", _check.typed(value)))
    return found


def _zero(me: str, name: str, value: Any, codes: Array, channels: int) -> Array:
    """Zero points as int32 of shape (channels,)."""
    info = np.iinfo(codes.dtype)
    found = _check.zero_point(me, 0 if value is None else value, int(info.min), int(info.max), name)
    if found.size == 1:
        return np.repeat(found.reshape(1), channels)
    if found.shape != (channels,):
        wanted = "()" if channels == 1 else f"() or ({channels},)"
        raise ValueError(_check.must(me, name, f"of shape {wanted}", f"shape {found.shape}"))
    return found
