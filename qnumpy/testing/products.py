"""Twins of the products: of integers, by instructions that saturate, with rounded sums."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .._typing import Array, Float32Array, Int32Array
from ..dtypes import FloatType
from ..qparams import QParams
from ._common import float_of, int32_of, integers
from .elements import codes_of

__all__ = [
    "SaturatedProduct",
    "accumulate_dot",
    "conv2d_integer",
    "matmul_floats",
    "matmul_integer",
    "matmul_offsets",
    "qmatmul",
    "saturated_matmul",
]


def matmul_integer(
    a: ArrayLike, b: ArrayLike, a_zero_point: ArrayLike | None = None, b_zero_point: ArrayLike | None = None
) -> Int32Array:
    """Multiply as qnumpy.matmul_integer does, in int64.

    Examples
    --------
    >>> matmul_integer([[1, 2]], [[3], [4]], b_zero_point=1)
    array([[8]], dtype=int32)
    """
    a_zero, b_zero = (integers(0 if zero is None else zero) for zero in (a_zero_point, b_zero_point))
    if a_zero.ndim == 1:  # one for each row
        a_zero = a_zero[:, None] if np.ndim(a) > 1 else a_zero
    return int32_of(np.matmul(integers(a) - a_zero, integers(b) - b_zero))


def matmul_floats(
    x: Float32Array,
    w: Float32Array,
    bias: Float32Array | None = None,
    clip: tuple[float, float] = (-math.inf, math.inf),
) -> Float32Array:
    """Multiply as PackedWeight does with a weight of floats, which `dequantize` has made float32.

    Examples
    --------
    >>> matmul_floats(np.float32([[1, 2]]), np.float32([[3], [4]]), clip=(0, 10))
    array([[10.]], dtype=float32)
    """
    acc = np.zeros((len(x), w.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for k in range(len(w)):
            acc = _fma(x[:, k, None], w[k], acc)
        acc = acc if bias is None else acc + bias
    low, high = np.array(clip, np.float32)
    y = np.where(acc < low, low, np.where(acc > high, high, acc))
    return np.where(np.isnan(y), np.float32(np.nan), y)


def _fma(a: Float32Array, b: Float32Array, c: Float32Array) -> Float32Array:
    """Return a * b + c rounded once: the float64 sum, rounded to odd, is rounded again to float32 as the exact one."""
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)  # exact
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)  # exact (Knuth's TwoSum)
    bits = total.view(np.int64)
    inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    bits = np.where(inexact, bits + np.where((error > 0) == (total > 0), 1, -1), bits)
    return bits.view(np.float64).astype(np.float32)


class Coded(Protocol):
    """Codes and their parameters, as a QuantizedArray has them."""

    @property
    def codes(self) -> Array: ...

    @property
    def qparams(self) -> QParams: ...


def qmatmul(a: Coded, b: Coded, *, bias: ArrayLike | None = None, out_qparams: QParams | None = None) -> Array:
    """Multiply as qnumpy.qmatmul does, a matrix by a matrix; with out_qparams return the codes alone.

    The sums are exact in int64, groups are added in float32 in their order, and a bias in units of the sums is float64.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> qmatmul(quantize([[1.0, 2.0]]), quantize([[0.5], [0.25]])).round(2)
    array([[1.01]], dtype=float32)
    """
    left, right = integers(a.codes), integers(b.codes)
    (m, k), n = left.shape, right.shape[1]
    size = b.qparams.granularity.group_size
    parts = [slice(first, first + (size or k)) for first in range(0, k, size or k or 1)] or [slice(0, 0)]
    of_groups = a.qparams.granularity.group_size is not None
    sa, za = (
        np.broadcast_to(values if of_groups or values.ndim == 0 else values[:, None], (m, len(parts)))
        for values in (a.qparams.scale, integers(a.qparams.zero_point))
    )
    sb, zb = (np.broadcast_to(values, (len(parts), n)) for values in (b.qparams.scale, integers(b.qparams.zero_point)))
    offset = np.asarray(0 if bias is None else bias, np.float32)
    acc, y = np.zeros((m, n), np.int64), np.zeros((m, n), np.float32)
    for g, part in enumerate(parts):
        acc = (left[:, part] - za[:, g, None]) @ (right[part] - zb[g])
        y = y + acc.astype(np.float32) * (sa[:, g, None] * sb[g])
    if out_qparams is None:
        return y + offset
    if size is not None or a.qparams.scale.ndim:
        return codes_of(y + offset, out_qparams)
    unit = sa[0, 0] * sb[0] if m else sb[0]
    sums = (acc + np.rint(offset.astype(np.float64) / unit)).astype(np.float32)
    codes = np.rint(sums * (unit / out_qparams.scale)) + integers(out_qparams.zero_point)
    narrowed: Array = np.clip(codes, out_qparams.qmin, out_qparams.qmax).astype(out_qparams.code.dtype)
    return narrowed


def matmul_offsets(a: Coded, b: Coded, offsets: Float32Array, bias: ArrayLike = 0) -> Float32Array:
    """Multiply codes by a weight in groups whose levels have an offset, (groups, N), beside those of their QParams.

    Examples
    --------
    >>> from qnumpy import PerGroup, quantize
    >>> a, b = quantize([[1.0, 2.0]]), quantize([[0.5], [0.25]], granularity=PerGroup(2, 0))
    >>> matmul_offsets(a, b, np.float32([[1]])).round(2)
    array([[4.02]], dtype=float32)
    """
    y, size = qmatmul(a, b), b.qparams.granularity.group_size or 1
    left, granularity = integers(a.codes), a.qparams.granularity
    for g, offset in enumerate(offsets):
        scale, zero = (
            values if values.ndim == 0 else values[:, [g]] if granularity.group_size else values[:, None]
            for values in (a.qparams.scale, integers(a.qparams.zero_point))
        )
        sums = (left[:, g * size : (g + 1) * size] - zero).sum(axis=1, keepdims=True)
        y = y + (sums.astype(np.float32) * scale) * offset
    return np.asarray(y + np.asarray(bias, np.float32))


def conv2d_integer(
    x: ArrayLike,
    w: ArrayLike,
    x_zero_point: ArrayLike | None = None,
    w_zero_point: ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilations: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """Convolve as qnumpy.conv2d_integer does, in int64, one element of the result at a time.

    Examples
    --------
    >>> conv2d_integer(np.ones((1, 1, 2, 2), int), np.ones((1, 1, 2, 2), int), padding=1)[0, 0]
    array([[1, 2, 1],
           [2, 4, 2],
           [1, 2, 1]], dtype=int32)
    """
    (sv, sh), (dv, dh) = (np.broadcast_to(pair, 2) for pair in (strides, dilations))
    top, left, bottom, right = np.tile(padding, 2) if np.size(padding) == 2 else np.broadcast_to(padding, 4)
    image = integers(x) - integers(0 if x_zero_point is None else x_zero_point)
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    weight = integers(w) - integers(0 if w_zero_point is None else w_zero_point).reshape(-1, 1, 1, 1)
    n, (m, depth, kv, kh) = len(image), weight.shape
    height, width = image.shape[2] - dv * (kv - 1), image.shape[3] - dh * (kh - 1)
    y = np.zeros((n, m, -(-height // sv), -(-width // sh)), np.int64)
    for b, o, i, j in np.ndindex(y.shape):
        first = o * groups // m * depth
        patch = image[b, first : first + depth, i * sv : i * sv + dv * kv : dv, j * sh : j * sh + dh * kh : dh]
        y[b, o, i, j] = (patch[:, :kv, :kh] * weight[o]).sum()
    return int32_of(y)


class SaturatedProduct(NamedTuple):
    """The arrays of qnumpy.ops.saturation.SaturatedProduct.

    Examples
    --------
    >>> saturated_matmul(np.array([[255, 255]], np.uint8), np.array([[127], [127]], np.int8)).product
    array([[32767]], dtype=int32)
    """

    product: Array  # int32 (M, N)
    error: Array  # int64 (M, N)
    pairs: Array  # int64 (N,)


def saturated_matmul(a: Array, b: Array) -> SaturatedProduct:
    """Multiply as qnumpy.simulate_saturation does: every pair of products is added in int16, which saturates.

    Examples
    --------
    >>> product, error, pairs = saturated_matmul(np.array([[200, 200]], np.uint8), np.array([[100], [100]], np.int8))
    >>> product.tolist(), error.tolist(), pairs.tolist()
    ([[32767]], [[-7233]], [1])
    """
    exact = integers(a) @ integers(b)
    unsigned = integers(a) + (128 if a.dtype == np.int8 else 0)
    signed = integers(b) - (128 if b.dtype == np.uint8 else 0)
    terms = unsigned[:, :, None] * signed[None]
    pairs = np.add.reduceat(terms, range(0, terms.shape[1], 2), axis=1) if terms.shape[1] else terms
    clipped = np.clip(pairs, -(2**15), 2**15 - 1)
    error = (clipped - pairs).sum(1)
    return SaturatedProduct(int32_of(exact + error), error, (clipped != pairs).sum((0, 1)))


def accumulate_dot(a: ArrayLike, b: ArrayLike, accumulate: DTypeLike | None = None) -> Array:
    """Sum as qnumpy.accumulate_dot does, each step in Python's fractions.

    Examples
    --------
    >>> float(accumulate_dot([2048, 1], [1, 1], "float16"))
    2048.0
    """
    a, b = np.asarray(a), np.asarray(b)
    real = float_of(accumulate if accumulate is not None else np.float16 if a.dtype == np.float16 else np.float32)
    a, b = a.astype(np.float64), b.astype(np.float64)
    rows, columns = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b.reshape(len(b), math.prod(b.shape[1:]))
    sums = [[_sum(row.tolist(), column.tolist(), real) for column in columns.T] for row in rows]
    return np.array(sums, np.float64).reshape((*a.shape[:-1], *b.shape[1:])).astype(real.dtype)


def _sum(a: list[float], b: list[float], real: FloatType) -> float:
    acc = 0.0
    for x, y in zip(a, b, strict=True):
        plain = acc + x * y  # exact for zeros; NaN and infinities are right too
        if plain and math.isfinite(acc) and math.isfinite(x) and math.isfinite(y):
            plain = _nearest_fraction(Fraction(acc) + Fraction(x) * Fraction(y), real)
        acc = plain
    return abs(acc) if math.isnan(acc) else acc


def _nearest_fraction(x: Fraction, real: FloatType) -> float:
    """The nearest number of a type that has infinities; Python rounds fractions half to even."""
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, 1 - real.bias) - real.mantissa_bits)
    nearest = round(size / quantum) * quantum
    highest = Fraction(2) ** ((1 << real.exponent_bits) - 1 - real.bias)
    return math.copysign(math.inf if nearest >= highest else float(nearest), x)
