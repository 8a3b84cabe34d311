"""ONNX's QLinearMatMul and QLinearConv: products of codes, requantized to codes."""

import math
from typing import Any

import numpy as np

from .. import _args, _check
from .._typing import Array, CodeLike, IntegerLike, ScaleLike
from ..dtypes import CodeType, code_type
from .conv import Pair, convolution, convolve
from .matmul import integer_operand, integer_product, operand_params, product_shape
from .quantize import requantize

__all__ = ["qlinear_conv2d", "qlinear_matmul"]

_INT32 = np.iinfo(np.int32)


def qlinear_matmul(
    a: CodeLike,
    a_scale: ScaleLike,
    a_zero_point: IntegerLike,
    b: CodeLike,
    b_scale: ScaleLike,
    b_zero_point: IntegerLike,
    y_scale: ScaleLike,
    y_zero_point: IntegerLike,
) -> Array:
    """Multiply matrices of codes and requantize: ``saturate(round_half_even(acc * (Sa * Sb / Sy)) + Zy)``.

    Parameters
    ----------
    a : array_like of int8, uint8 or int16, shape (..., M, K)
    a_scale, a_zero_point : array_like
        Of `a`: a number; or one for each row, of shape (M,) or (..., M, 1); or one for each matrix, of shape
        (..., 1, 1). The axes before broadcast to the batch axes of the result.
    b : array_like of int8, uint8 or int16, shape (..., K, N)
    b_scale, b_zero_point : array_like
        Of `b`: a number; or one for each column, of shape (N,) or (..., 1, N); or one for each matrix, of shape
        (..., 1, 1).
    y_scale : float
    y_zero_point : int8 or uint8 scalar
        Its type is that of the result.

    Returns
    -------
    ndarray of the type of y_zero_point, shape (..., M, N)

    Raises
    ------
    TypeError
        a or b is not of an integer type that matmul_integer takes.
    ValueError
        a or b is 0-d, or their shapes do not fit.
    TypeError, ValueError
        a_zero_point or b_zero_point: as in matmul_integer.
    OverflowError
        A sum does not fit int32.
    TypeError
        A scale is not real.
    ValueError
        A scale is not positive, finite and normal in float32; y_scale is not one number; a_scale or b_scale is of
        another shape; ``Sa * Sb / Sy`` is no normal float32.
    TypeError
        y_zero_point is not an int8 or uint8 scalar.
    ValueError
        y_zero_point is not one number.

    Notes
    -----
    The product is exact. ``Sa * Sb / Sy`` is computed in float32 from left to right; acc is rounded to float32, and the
    product of both is rounded half to even.

    References
    ----------
    ONNX QLinearMatMul, opset 21, which has 8-bit operands. A vector belongs to the rows of `a` as its text says, while
    its reference implementation applies it to the columns.

    Examples
    --------
    >>> a, b = np.array([[10, 20]], np.uint8), np.array([[1], [2]], np.int8)
    >>> qlinear_matmul(a, 0.5, 8, b, 0.25, 0, 0.5, np.uint8(3))
    array([[9]], dtype=uint8)
    """
    owner = "qlinear_matmul"
    left, right = integer_operand(owner, "a", a), integer_operand(owner, "b", b)
    acc = np.asarray(integer_product(owner, left, right, a_zero_point, b_zero_point))
    sa, sb, sy = (
        _check.scale(owner, name, value)
        for name, value in (("a_scale", a_scale), ("b_scale", b_scale), ("y_scale", y_scale))
    )
    _single(owner, "y_scale", sy)
    m, n, batch = product_shape(left, right)
    rows = operand_params(owner, "a_scale", sa, batch, m, axis=-1)
    columns = operand_params(owner, "b_scale", sb, batch, n, axis=-2)
    multiplier, lines = _ratio(rows, columns, sy), (math.prod(batch) * m, n)
    if multiplier.size == 1:
        return _requantize(owner, acc, multiplier.reshape(()), y_zero_point, None)
    if multiplier.size == multiplier.shape[-1]:  # one for each column
        return _requantize(owner, acc.reshape(lines), multiplier.reshape(n), y_zero_point, 1).reshape(acc.shape)
    if multiplier.shape[-1] == 1:  # one for each row
        each = np.broadcast_to(multiplier, (*batch, m, 1)).reshape(-1)
        return _requantize(owner, acc.reshape(lines), each, y_zero_point, 0).reshape(acc.shape)
    sums = np.broadcast_to(multiplier, (*batch, m, n)).reshape(-1)
    return _requantize(owner, acc.reshape(-1), sums, y_zero_point, 0).reshape(acc.shape)


def qlinear_conv2d(
    x: CodeLike,
    x_scale: ScaleLike,
    x_zero_point: IntegerLike,
    w: CodeLike,
    w_scale: ScaleLike,
    w_zero_point: IntegerLike,
    y_scale: ScaleLike,
    y_zero_point: IntegerLike,
    bias: IntegerLike | None = None,
    *,
    strides: Pair = 1,
    padding: Pair | tuple[int, int, int, int] = 0,
    dilations: Pair = 1,
    groups: int = 1,
) -> Array:
    """Convolve codes and requantize: ``saturate(round_half_even((acc + bias) * (Sx * Sw / Sy)) + Zy)``.

    Parameters
    ----------
    x : array_like of int8 or uint8, shape (N, C, H, W)
    x_scale : float
    x_zero_point : int
    w : array_like of int8 or uint8, shape (M, C / groups, kH, kW)
    w_scale, w_zero_point : array_like
        One, or shape (M,): one for each output channel.
    y_scale : float
    y_zero_point : int8 or uint8 scalar
        Its type is that of the result.
    bias : array_like of int32, shape (M,), optional
        In units of ``Sx * Sw``.
    strides, padding, dilations, groups
        As in conv2d_integer.

    Returns
    -------
    ndarray of the type of y_zero_point, shape (N, M, oH, oW)

    Raises
    ------
    TypeError, ValueError
        x, w, groups, strides, dilations, padding, x_zero_point or w_zero_point: as in conv2d_integer, in its order.
    TypeError
        A scale is not real.
    ValueError
        A scale is not positive, finite and normal in float32; x_scale or y_scale is not one number; w_scale is of
        another shape.
    TypeError
        bias is not of integers.
    ValueError
        bias is of another shape or outside int32.
    TypeError
        y_zero_point is not an int8 or uint8 scalar.
    ValueError
        y_zero_point is not one number; ``Sx * Sw / Sy`` is no normal float32.
    OverflowError
        A sum does not fit int32.

    Notes
    -----
    Rounds half to even; see qlinear_matmul.

    References
    ----------
    ONNX QLinearConv, opset 10.

    Examples
    --------
    >>> x, w = np.full((1, 1, 2, 2), 5, np.uint8), np.ones((1, 1, 2, 2), np.int8)
    >>> qlinear_conv2d(x, 0.5, 1, w, 0.25, 0, 0.5, np.uint8(0), [8])
    array([[[[6]]]], dtype=uint8)
    """
    owner = "qlinear_conv2d"
    operands = convolution(owner, x, w, x_zero_point, w_zero_point, strides, padding, dilations, groups)
    channels = operands.shape[1]
    sx, sw, sy = (
        _check.scale(owner, name, value)
        for name, value in (("x_scale", x_scale), ("w_scale", w_scale), ("y_scale", y_scale))
    )
    _single(owner, "x_scale", sx)
    _single(owner, "y_scale", sy)
    if sw.size != 1 and sw.shape != (channels,):
        raise ValueError(_check.must(owner, "w_scale", f"of shape () or ({channels},)", f"shape {sw.shape}"))
    sums = None if bias is None else _bias(owner, bias, channels)
    code, zero, multiplier = _codes(owner, _ratio(sx.reshape(()), sw, sy), y_zero_point, operands.shape, 1)
    out = np.empty(operands.shape, code.dtype)
    multipliers = np.full(channels, multiplier) if multiplier.ndim == 0 else multiplier
    convolve(owner, operands, out, multipliers, sums, int(zero), code.qmin, code.qmax)
    return out


def _ratio(first: Array, second: Array, result: Array) -> Array:
    """Return Sa * Sb / Sy in float32, from left to right; _codes refuses what overflows."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(first * second / result.reshape(()))


def _single(owner: str, name: str, scale: Array) -> None:
    if scale.size != 1:
        raise ValueError(_check.must(owner, name, "one number", f"shape {scale.shape}"))


def _bias(owner: str, bias: Any, channels: int) -> Array:
    sums = _check.array(owner, "bias", bias)
    if sums.dtype.kind not in "iu" or not np.can_cast(sums.dtype, np.int64):
        raise TypeError(_check.must(owner, "bias", "an array of int32", _check.got(bias, sums)))
    if sums.shape != (channels,):
        raise ValueError(_check.must(owner, "bias", f"of shape {(channels,)}", f"shape {sums.shape}"))
    outside = sums[(sums < _INT32.min) | (sums > _INT32.max)]
    if outside.size:
        raise ValueError(_check.must(owner, "bias", "in the range of int32", str(outside[0])))
    return np.ascontiguousarray(sums, np.int32)


def _codes(
    owner: str, multiplier: Array, zero_point: Any, shape: tuple[int, ...], axis: int | None
) -> tuple[CodeType, Array, Array]:
    """Return the type and zero point of the result and the multiplier, checked.

    `axis` is that of the multipliers where there is more than one.
    """
    typed = isinstance(zero_point, np.ndarray | np.generic)
    code = code_type(zero_point.dtype) if typed else None
    if code is None or code.bits != 8:
        raise TypeError(_check.must(owner, "y_zero_point", "an int8 or uint8 scalar", _check.typed(zero_point)))
    zero = np.asarray(zero_point)
    if zero.size != 1:
        raise ValueError(_check.must(owner, "y_zero_point", "one number", f"shape {zero.shape}"))
    if multiplier.size == 1:
        multiplier, axis = multiplier.reshape(()), None
    _args.scales(owner, "the ratio of scales", multiplier, _args.layout(owner, shape, axis, None))
    return code, zero.reshape(()), multiplier


def _requantize(owner: str, acc: Array, multiplier: Array, zero_point: Any, axis: int | None) -> Array:
    code, zero, checked = _codes(owner, multiplier, zero_point, acc.shape, axis)
    return requantize(acc, checked, zero, dtype=code.dtype, axis=axis)
