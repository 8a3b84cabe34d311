"""Twins of the functions of elements: quantize, dequantize, requantize, pack, min_max."""

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .._typing import Array, Convention, OnNan, OnNonfinite, RequantizeMethod
from ..dtypes import CodeType, code_type
from ..granularity import Granularity, PerTensor
from ..qparams import QParams
from ._common import code_of, expanded, float_of, integers, parameter_of, spread, to_codes
from .floats import float_codes

__all__ = [
    "codes_of",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "fake_quantize",
    "min_max",
    "pack",
    "quantize_linear",
    "ranges",
    "requantize",
    "split_multiplier",
    "unpack",
]


def quantize_linear(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    dtype: DTypeLike | None = None,
    axis: int | None = None,
    block_size: int | None = None,
    convention: Convention = "onnx",
    on_nan: OnNan = "zero_point",
) -> Array:
    """Quantize as qnumpy.quantize_linear does.

    Examples
    --------
    >>> quantize_linear(np.array([0.5, 1.5, np.nan, np.inf]), 1.0, 7, dtype="int8")
    array([  7,   9,   7, 127], dtype=int8)
    >>> quantize_linear(np.array([0.5, 1.5, np.nan, np.inf]), 1.0, 7, dtype="int8", convention="guide")
    array([  8,   8,   7, 127], dtype=int8)
    """
    code = code_of(dtype) if dtype is not None else code_type(getattr(zero_point, "dtype", None)) or code_of("uint8")
    x = np.asarray(x)
    s = spread(np.asarray(scale, np.float32), x.shape, axis, block_size)
    z = spread(integers(0 if zero_point is None else zero_point), x.shape, axis, block_size)
    return _quantize(x, s, z, code, code.qmin, code.qmax, convention)


def codes_of(x: ArrayLike, qparams: QParams) -> Array:
    """Quantize as qnumpy.quantize does with a QParams; return the codes alone.

    Examples
    --------
    >>> codes_of(np.array([0.12, -3.0, 9.0]), QParams(0.1, 0, qmin=-20, qmax=20))
    array([  1, -20,  20], dtype=int8)
    """
    return _quantize_by(np.asarray(x), qparams, "onnx")


def _quantize_by(x: Array, qparams: QParams, convention: str) -> Array:
    scale, zero = (expanded(params, qparams.granularity, x.shape) for params in (qparams.scale, qparams.zero_point))
    code = code_of(qparams.dtype)
    return _quantize(x, scale, zero.astype(np.int64), code, qparams.qmin, qparams.qmax, convention)


def _quantize(x: Array, s: Array, z: Array, code: CodeType, qmin: int, qmax: int, convention: str) -> Array:
    """The formulas of the conventions, each element with a scale and a zero point of its own."""
    wide = np.float64 if x.dtype == np.float64 else np.float32
    x, s = x.astype(wide), s.astype(wide)
    if code.real is not None:
        with np.errstate(all="ignore"):
            return float_codes(x / s, code.real)
    with np.errstate(all="ignore"):
        if convention == "onnx":
            real = np.rint(x / s).astype(np.float64) + z
        elif convention == "guide":
            real = np.rint(x / s + z.astype(wide)).astype(np.float64)
        elif convention == "torch":
            real = np.rint(x * (1 / s)).astype(np.float64) + z
        elif convention == "tflite":
            real = _round_half_away(x / s).astype(np.float64) + z
        else:
            raise ValueError(convention)
    codes = np.clip(np.where(np.isnan(x), z, real), qmin, qmax)
    return to_codes(codes.astype(np.int64), code)


def dequantize_linear(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: DTypeLike = "float32",
) -> Array:
    """Dequantize as qnumpy.dequantize_linear does.

    Examples
    --------
    >>> dequantize_linear(np.array([-7, 3, 5], np.int8), 0.5, 3)
    array([-5.,  0.,  1.], dtype=float32)
    """
    q = np.asarray(q)
    s = spread(np.asarray(scale, np.float32), q.shape, axis, block_size)
    z = spread(integers(0 if zero_point is None else zero_point), q.shape, axis, block_size)
    return _dequantize(q, s, z, dtype)


def _dequantize(q: Array, s: Array, z: Array, dtype: DTypeLike) -> Array:
    """The real number of each code, one rounding to float32 and one to `dtype`."""
    code = code_type(q.dtype)
    steps = q if code is not None and code.real is not None else integers(q) - z
    with np.errstate(all="ignore"):
        return np.asarray((steps.astype(np.float32) * s).astype(float_of(dtype).dtype))


def dynamic_quantize_linear(x: ArrayLike) -> tuple[Array, np.float32, np.uint8]:
    """Quantize as qnumpy.dynamic_quantize_linear does, everything in float32.

    Examples
    --------
    >>> dynamic_quantize_linear(np.array([-1.0, 4.1], np.float32))
    (array([  0, 255], dtype=uint8), np.float32(0.02), np.uint8(50))
    """
    x = np.asarray(x).astype(np.float32)
    finite = x[np.isfinite(x)]
    low, high = np.float32(min(finite.min(initial=0), 0)), np.float32(max(finite.max(initial=0), 0))
    scale = np.float32(high - low) / np.float32(255) if high > low else np.float32(1)
    scale = max(scale, np.finfo(np.float32).smallest_normal)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return quantize_linear(x, scale, zero), scale, zero


def fake_quantize(x: ArrayLike, qparams: QParams, *, convention: Convention = "onnx") -> Array:
    """Quantize and dequantize as qnumpy.fake_quantize does, in those two steps.

    Examples
    --------
    >>> fake_quantize(np.array([0.12, -3.0, np.nan], np.float32), QParams(0.1, 0))
    array([ 0.1, -3. ,  0. ], dtype=float32)
    """
    x = np.asarray(x)
    scale, zero = (expanded(params, qparams.granularity, x.shape) for params in (qparams.scale, qparams.zero_point))
    return _dequantize(_quantize_by(x, qparams, convention), scale, zero, x.dtype)


def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: DTypeLike = "int8",
    axis: int | None = None,
    method: RequantizeMethod = "float",
) -> Array:
    """Requantize as qnumpy.requantize does; the two fixed methods in Python's integers, which cannot overflow.

    Examples
    --------
    >>> [int(requantize(np.array(-3), 0.5, method=method)) for method in ("float", "fixed", "fixed_double")]
    [-2, -1, -1]
    """
    code, acc = code_of(dtype), np.asarray(acc)
    z = spread(integers(zero_point), acc.shape, axis)
    if method == "float":
        m = spread(np.asarray(multiplier, np.float32), acc.shape, axis)
        with np.errstate(all="ignore"):
            steps = np.rint(acc.astype(np.float32) * m).astype(np.float64)
        return to_codes(np.clip(steps + z, code.qmin, code.qmax).astype(np.int64), code)
    scale = {"fixed": _fixed, "fixed_double": _fixed_double}[method]
    real = spread(np.asarray(multiplier, np.float64), acc.shape, axis)
    codes = [
        min(max(scale(a, *_split(r)) + zero, code.qmin), code.qmax)
        for a, r, zero in zip(acc.ravel().tolist(), real.ravel().tolist(), z.ravel().tolist(), strict=True)
    ]
    return to_codes(np.array(codes, np.int64).reshape(acc.shape), code)


def split_multiplier(multiplier: Array) -> tuple[Array, Array]:
    """Split real multipliers into ``m * 2**-shift``, m an integer in [2**30, 2**31), rounded half to even.

    Examples
    --------
    >>> split_multiplier(np.array([0.75, 1.0]))
    (array([1610612736, 1073741824], dtype=int32), array([31, 30], dtype=int32))
    """
    parts = [_split(real) for real in np.ravel(multiplier).tolist()]
    m, shift = np.array(parts, np.int32).reshape(-1, 2).T
    return m.reshape(np.shape(multiplier)), shift.reshape(np.shape(multiplier))


def _split(multiplier: float) -> tuple[int, int]:
    fraction, exponent = math.frexp(multiplier)
    m = round(math.ldexp(fraction, 31))  # the product is exact, Python rounds half to even
    return (m, 31 - exponent) if m < 2**31 else (2**30, 30 - exponent)


def min_max(
    x: ArrayLike, granularity: Granularity | None = None, *, on_nonfinite: OnNonfinite = "ignore"
) -> tuple[Array, Array]:
    """Return the smallest and the largest finite element as qnumpy.min_max does.

    Examples
    --------
    >>> min_max(np.array([1.0, -2.0, np.nan, np.inf]))
    (array(-2.), array(1.))
    """
    low, high, _, _ = ranges(x, granularity)
    return low, high


def ranges(x: ArrayLike, granularity: Granularity | None) -> tuple[Array, Array, Array, Array]:
    """Return the smallest and largest finite element, the NaN count and the infinity count of each parameter.

    A zero is +0.0; +inf and -inf if there is no finite element.

    Examples
    --------
    >>> ranges(np.array([1.0, -2.0, np.nan, np.inf]), None)
    (array(-2.), array(1.), array(1), array(1))
    """
    granularity = PerTensor() if granularity is None else granularity
    x = np.asarray(x).astype(np.float64)
    shape = granularity.params_shape(x.shape)
    n = math.prod(shape)
    index = parameter_of(granularity, x.shape)

    def count(which: Array) -> Array:
        return np.bincount(index[which], minlength=n).reshape(shape)

    low, high, finite = np.full(n, np.inf), np.full(n, -np.inf), np.isfinite(x)
    np.minimum.at(low, index[finite], x[finite])
    np.maximum.at(high, index[finite], x[finite])
    low, high = (np.asarray(bound.reshape(shape) + 0.0) for bound in (low, high))  # -0.0 becomes +0.0
    return low, high, count(np.isnan(x)), count(np.isinf(x))


def pack(codes: ArrayLike, dtype: DTypeLike = "int4", axis: int = -1) -> Array:
    """Pack as qnumpy.pack does: the first code in the low bits.

    Examples
    --------
    >>> pack(np.array([1, -1, 7]))
    array([241,   7], dtype=uint8)
    """
    width = code_of(dtype).bits
    rows = np.moveaxis(integers(codes), axis, -1)
    bits = (rows[..., None] >> np.arange(width) & 1).reshape(*rows.shape[:-1], rows.shape[-1] * width)
    return np.moveaxis(np.packbits(bits.astype(np.uint8), -1, bitorder="little"), -1, axis)


def unpack(packed: ArrayLike, dtype: DTypeLike, n: int | None = None, axis: int = -1) -> Array:
    """Unpack as qnumpy.unpack does.

    Examples
    --------
    >>> unpack(np.array([241, 7], np.uint8), "int4", 3)
    array([1, -1, 7], dtype=int4)
    """
    code = code_of(dtype)
    rows = np.moveaxis(np.asarray(packed, np.uint8), axis, -1)
    count = rows.shape[-1] * 8 // code.bits if n is None else n
    bits = np.unpackbits(rows, -1, count * code.bits, "little").reshape(*rows.shape[:-1], count, code.bits)
    fields = bits.astype(np.int64) @ (1 << np.arange(code.bits))
    return np.moveaxis(to_codes(np.where(fields > code.qmax, fields - 2**code.bits, fields), code), -1, axis)


def _round_half_away(v: Array) -> Array:
    """Round half away from zero; the fraction of a float is exact."""
    magnitude = np.abs(v)
    down = np.floor(magnitude)
    return np.asarray(np.copysign(down + (magnitude - down >= 0.5), v))


def _fixed(acc: int, m: int, shift: int) -> int:
    """acc * m * 2**-shift, rounded once, ties up."""
    return (2 * acc * m + (1 << shift)) >> (shift + 1)


def _fixed_double(acc: int, m: int, shift: int) -> int:
    """gemmlowp's two steps in int32: a doubling high multiplication, ties up, then a shift, ties away from zero."""
    left, right = max(31 - shift, 0), max(shift - 31, 0)
    high = min(max(acc << left, -(2**31)), 2**31 - 1) * m + 2**30 >> 31
    magnitude = (2 * abs(high) + (1 << right)) >> (right + 1)
    return magnitude if high >= 0 else -magnitude
