"""Quantize, dequantize, fake-quantize and requantize plain arrays; docs/semantics.md states the formulas."""

import math
from typing import Any

import numpy as np

from .. import _args, _check, _core
from .._args import Array
from ..dtypes import INTEGER_TYPES, CodeType, FloatType, code_type
from ..qparams import QParams

__all__ = [
    "dequantize_linear",
    "dynamic_quantize_linear",
    "fake_quantize",
    "quantize_linear",
    "quantize_multiplier",
    "requantize",
]

_UINT8 = np.dtype(np.uint8)
_INT32 = np.dtype(np.int32)


def quantize_linear(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    dtype: Any = None,
    axis: int | None = None,
    block_size: int | None = None,
    convention: str = "onnx",
    on_nan: str = "zero_point",
    out: Any = None,
) -> Array:
    """Quantize an array of reals: ``q = saturate(round_half_even(x / scale) + zero_point)``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    scale : array_like
        Positive, finite, normal; used as float32. Shape () per tensor, (x.shape[axis],) per channel, or x.shape with
        the axis divided by `block_size`, rounded up.
    zero_point : array_like of integers, optional
        Shape () or that of `scale`; 0 by default.
    dtype : str or dtype, optional
        int8, uint8, int16, uint16, int4, uint4, int2, uint2, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz,
        float8_e5m2fnuz or float4_e2m1fn. By default the dtype of `zero_point` when that is an array or NumPy scalar of
        one of them, else uint8, as in ONNX.
    axis : int, optional
        The axis of the channels or blocks; None means per tensor.
    block_size : int, optional
        Neighbours along `axis` that share a parameter; the last block may be short.
    convention : {"onnx", "guide", "torch", "tflite"}
        "onnx" as above, with a true division in float32 (float64 for float64 input); "guide" rounds
        ``x / scale + zero_point``; "torch" multiplies by the float32 reciprocal of the scale; "tflite" rounds half
        away from zero.
    on_nan : {"zero_point", "raise"}
        A NaN becomes the zero point, or raises; of a float type it stays NaN. Infinities saturate.
    out : ndarray, optional
        Receives the codes: exact dtype and shape, C-contiguous, writable, apart from `x`.

    Returns
    -------
    ndarray
        Codes of the shape of `x`, in its memory layout when that is a permutation of C order.

    Raises
    ------
    TypeError
        x is not real, dtype is no code type, zero_point is not integer, out has another dtype.
    ValueError
        scale, zero_point, axis, block_size, convention, on_nan or out do not fit; or x holds NaN and on_nan="raise".

    Notes
    -----
    Rounds half to even, once. O(x.size), no copy of x. Equal bits on every ISA and thread count. Codes of a float type
    are ``x / scale`` rounded to it, half to even, saturated; it takes no zero point but 0 and no other convention.
    float4_e2m1fn has no NaN: it becomes 0.

    References
    ----------
    ONNX QuantizeLinear, opset 21.

    Examples
    --------
    >>> quantize_linear(np.array([-1.0, 0.0, 0.25, 9.0], np.float32), 0.1, 3, dtype="int8")
    array([-7,  3,  5, 93], dtype=int8)
    """
    owner = "quantize_linear"
    source, real = _args.real(owner, "x", x)
    if dtype is not None:
        code = _args.code(owner, dtype)
    else:
        code = code_type(getattr(zero_point, "dtype", _UINT8)) or _args.code(owner, _UINT8)
    number = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    _no_other(owner, convention, code)
    order = _args.memory_order(source, out)
    where = _args.layout(owner, source.shape, axis, block_size)
    scale_ = _args.scales(owner, "scale", scale, where)
    if zero_point is None:
        zero = 0 if where.axis is None else np.zeros(where.shape, np.int32)
    else:
        zero = _args.zero_points(owner, zero_point, where, *code.zero_points)
    if on_nan != "zero_point":
        _refuse_nan(owner, on_nan, source, real.core, real.storage)
    if order is not None:
        source, where, scale_, zero = _args.permuted(owner, source, where, scale_, zero, order, block_size)
    result = _args.output(owner, out, code.dtype, source.shape, source, scale_, zero)
    _core.quantize(
        source if source.dtype is real.storage else _args.stored(source, real.storage), real.core, scale_, zero,
        result, code.core, *where.grid, code.qmin, code.qmax, number,
    )  # fmt: skip
    return result if order is None else _args.unpermuted(result, order)


def codes_of(owner: str, x: Any, qparams: QParams) -> Array:
    """Quantize with parameters that were checked when they were made."""
    return _by_qparams(owner, x, qparams, "onnx", None, fake=False)


def dequantize_linear(
    q: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: Any = "float32",
    out: Any = None,
) -> Array:
    """Turn codes back into reals: ``x = (q - zero_point) * scale``.

    Parameters
    ----------
    q : array_like of a type that quantize_linear makes, or int32, any shape
        int32 (accumulators) and floats take no zero point.
    scale, zero_point, axis, block_size
        As in quantize_linear.
    dtype : str or dtype, default "float32"
        float32, float64, float16 or bfloat16.
    out : ndarray, optional
        Receives the values: exact dtype and shape, C-contiguous, writable, apart from `q`.

    Returns
    -------
    ndarray
        Values of the shape of `q`.

    Raises
    ------
    TypeError, ValueError
        As quantize_linear.

    Notes
    -----
    An exact integer difference and one float32 multiplication, rounded half to even; other dtypes convert that
    float32 value, rounded half to even once more. The difference of an int32 code above 2**24 is rounded to float32
    first.

    References
    ----------
    ONNX DequantizeLinear, opset 21.

    Examples
    --------
    >>> dequantize_linear(np.array([-7, 3, 5], np.int8), 0.5, 3)
    array([-5.,  0.,  1.], dtype=float32)
    """
    owner = "dequantize_linear"
    source = _check.array(owner, "q", q)
    if source.dtype is _INT32 or (source.dtype.kind == "i" and source.dtype.itemsize == 4):
        storage, core, low, high = _INT32, _core.TYPES["int32"], 0, 0
    else:
        source, code = _args.codes(owner, "q", source)
        storage, core, (low, high) = code.storage, code.core, code.zero_points
    real = _args.floating(owner, dtype)
    order = _args.memory_order(source, out)
    where = _args.layout(owner, source.shape, axis, block_size)
    scale_ = _args.scales(owner, "scale", scale, where)
    if zero_point is None:
        zero = 0 if where.axis is None else np.zeros(where.shape, np.int32)
    else:
        zero = _args.zero_points(owner, zero_point, where, low, high)
    if order is not None:
        source, where, scale_, zero = _args.permuted(owner, source, where, scale_, zero, order, block_size)
    result = _args.output(owner, out, real.dtype, source.shape, source, scale_, zero)
    _core.dequantize(
        source if source.dtype is storage else _args.stored(source, storage), core, scale_, zero,
        result if result.dtype is real.storage else result.view(real.storage), real.core, *where.grid,
    )  # fmt: skip
    return result if order is None else _args.unpermuted(result, order)


def dynamic_quantize_linear(x: Any) -> tuple[Array, np.float32, np.uint8]:
    """Quantize to uint8 with the range of the array itself.

    ``scale = (max(0, max x) - min(0, min x)) / 255``, ``zero_point = clip(round_half_even(-min(0, min x) / scale))``,
    in float32; then as quantize_linear. An all-zero or empty array has scale 1 and zero point 0; NaN and infinities do
    not take part in the range.

    Parameters
    ----------
    x : array_like of float32, float16, bfloat16 or float64
        Used as float32.

    Returns
    -------
    codes : ndarray of uint8
    scale : float32
    zero_point : uint8

    References
    ----------
    ONNX DynamicQuantizeLinear, opset 11.

    Examples
    --------
    >>> codes, scale, zero_point = dynamic_quantize_linear(np.array([0, 2, -3, -2.5, 1.34, 0.5], np.float32))
    >>> codes, zero_point
    (array([153, 255,   0,  26, 221, 179], dtype=uint8), np.uint8(153))
    """
    owner = "dynamic_quantize_linear"
    source, real = _args.real(owner, "x", x)
    grid = _args.layout(owner, source.shape, None, None).grid
    low, high, _, _ = _core.min_max(_args.stored(source, real.storage), real.core, *grid)
    with np.errstate(over="ignore"):
        low32 = np.minimum(low.astype(np.float32)[0], np.float32(0))
        high32 = np.maximum(high.astype(np.float32)[0], np.float32(0))
        extent = np.float32(high32 - low32)
    if np.isinf(extent):
        got = f"{low[0]:g} to {high[0]:g}"
        raise ValueError(_check.must(owner, "x", "of a range that float32 holds", got))
    scale = np.float32(1) if extent == 0 else max(np.float32(extent / np.float32(255)), np.finfo(np.float32).tiny)
    zero = np.uint8(np.clip(np.rint(np.float32(-low32) / scale), 0, 255))
    if real.name == "float64":  # rounded once more, as the range was
        source = source.astype(np.float32)
    return quantize_linear(source, scale, zero), np.float32(scale), zero


def fake_quantize(x: Any, qparams: QParams, *, convention: str = "onnx", out: Any = None) -> Array:
    """Quantize and dequantize in one pass; bit for bit ``dequantize(quantize(x, qparams))``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    qparams : QParams
    convention : {"onnx", "guide", "torch", "tflite"}
        As in quantize_linear.
    out : ndarray, optional
        Of the dtype and shape of `x`, C-contiguous, writable, apart from `x`.

    Returns
    -------
    ndarray
        Of the dtype and shape of `x`. NaN becomes 0.0, infinities the ends of the range.

    Raises
    ------
    TypeError, ValueError
        As quantize_linear; qparams is no QParams or does not fit x.

    Examples
    --------
    >>> fake_quantize(np.array([0.12, -3.0], np.float32), QParams(0.1, 0))
    array([ 0.1, -3. ], dtype=float32)
    """
    return _by_qparams("fake_quantize", x, qparams, convention, out, fake=True)


def _by_qparams(owner: str, x: Any, qparams: QParams, convention: str, out: Any, *, fake: bool) -> Array:
    source, real = _args.real(owner, "x", x)
    params = _args.qparams(owner, qparams, source.shape)
    number = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    axis, block_size = params.granularity.axis_block
    _no_other(owner, convention, params.code)
    if fake and params.code.real is not None:
        return _fake_floats(owner, source, params, real, out)
    order = _args.memory_order(source, out)
    where = _args.layout(owner, source.shape, axis, block_size)
    scale, zero = params.scale, params.zero_point
    if order is not None:
        source, where, scale, zero = _args.permuted(owner, source, where, scale, zero, order, block_size)
    kernel, kind = (_core.fake_quantize, real) if fake else (_core.quantize, params.code)
    result = _args.output(owner, out, kind.dtype, source.shape, source)
    kernel(
        source if source.dtype is real.storage else _args.stored(source, real.storage), real.core, scale, zero,
        result if result.dtype is kind.storage else result.view(kind.storage), kind.core, *where.grid,
        params.qmin, params.qmax, number,
    )  # fmt: skip
    return result if order is None else _args.unpermuted(result, order)


def _no_other(owner: str, convention: str, code: CodeType) -> None:
    """Codes that are floats know one convention: the others differ in how they round to integers."""
    if code.real is not None and convention != "onnx":
        raise ValueError(_check.must(owner, "convention", f'"onnx" for {code.name}', _check.typed(convention)))


def _fake_floats(owner: str, source: Array, params: QParams, real: FloatType, out: Any) -> Array:
    """Codes that are floats go through memory: there is no kernel that leaves them out."""
    _args.output(owner, out, real.dtype, source.shape, source)
    axis, block_size = params.granularity.axis_block
    codes = codes_of(owner, source, params)
    return dequantize_linear(codes, params.scale, axis=axis, block_size=block_size, dtype=real.dtype, out=out)


def quantize_multiplier(multiplier: Any) -> tuple[Array, Array]:
    """Split real multipliers into ``m * 2**-shift`` with an int32 m in [2**30, 2**31).

    Parameters
    ----------
    multiplier : array_like of floats in [2**-32, 2**30 - 0.5]

    Returns
    -------
    m, shift : ndarrays of int32
        m is rounded half to even; shift is in 1..62.

    Raises
    ------
    ValueError
        A multiplier is out of range.

    Examples
    --------
    >>> m, shift = quantize_multiplier(0.75)
    >>> int(m) / 2 ** int(shift)
    0.75
    """
    return _split("quantize_multiplier", multiplier)


def _split(owner: str, multiplier: Any) -> tuple[Array, Array]:
    given = np.asarray(multiplier, dtype=np.float64)
    fits = (given >= 2.0**-32) & (given <= 2.0**30 - 0.5)
    if not fits.all():
        raise ValueError(_check.must(owner, "multiplier", "in [2**-32, 2**30 - 0.5]", str(given[~fits].flat[0])))
    fraction, exponent = np.frexp(given)
    m = np.rint(fraction * 2.0**31).astype(np.int64)
    carried = m == 2**31
    m = np.where(carried, 2**30, m)
    shift = 31 - (exponent + carried)
    return np.asarray(m, dtype=np.int32), np.asarray(shift, dtype=np.int32)


def requantize(
    acc: Any,
    multiplier: Any,
    zero_point: Any = 0,
    *,
    dtype: Any = "int8",
    axis: int | None = None,
    method: str = "float",
    out: Any = None,
) -> Array:
    """Bring int32 accumulators to narrow codes: ``q = saturate(round(acc * multiplier) + zero_point)``.

    Parameters
    ----------
    acc : array_like of int32, any shape
    multiplier : array_like
        ``scale_a * scale_b / scale_y``: positive, finite, normal; the fixed methods take those in
        [2**-32, 2**30 - 0.5]. Shape () or (acc.shape[axis],).
    zero_point : array_like of integers, default 0
        Shape () or that of `multiplier`.
    dtype : str or dtype, default "int8"
        The code type of the result.
    axis : int, optional
        The axis of the channels; None means one multiplier for all.
    method : {"float", "fixed", "fixed_double"}
        "float": ``round_half_even(float32(acc) * float32(multiplier))``. "fixed": an int32 multiplier and a shift,
        ``(acc * m + 2**(s - 1)) >> s`` in 64 bits, rounded once, ties up. "fixed_double": gemmlowp's doubling high
        multiplication and rounding shift, rounded twice, ties away from zero.
    out : ndarray, optional
        Exact dtype and shape, C-contiguous, writable, apart from `acc`.

    Returns
    -------
    ndarray
        Codes of the shape of `acc`.

    Raises
    ------
    TypeError
        acc is not int32, dtype no code type, zero_point not integer.
    ValueError
        multiplier, zero_point, axis, method or out do not fit.

    References
    ----------
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018, section 2.2; gemmlowp fixedpoint.h.

    Examples
    --------
    >>> requantize(np.array([1000, -1000, 50], np.int32), 0.05, 1)
    array([ 51, -49,   3], dtype=int8)
    """
    owner = "requantize"
    source = _check.array(owner, "acc", acc)
    if source.dtype.newbyteorder("=") != _INT32:
        raise TypeError(_check.must(owner, "acc", "an array of int32", f"dtype {source.dtype}"))
    code = _args.code(owner, dtype, INTEGER_TYPES)
    number = _args.choice(owner, "method", method, _args.METHODS)
    order = _args.memory_order(source, out)
    where = _args.layout(owner, source.shape, axis, None)
    scale = _args.scales(owner, "multiplier", multiplier, where)
    zero = _args.zero_points(owner, zero_point, where, code.qmin, code.qmax)
    m = shift = None
    if method != "float":
        given = np.asarray(multiplier, np.float64).reshape(-1)
        m, shift = _split(owner, np.broadcast_to(given, math.prod(where.shape)))
    if order is not None:
        source, where, scale, zero = _args.permuted(owner, source, where, scale, zero, order, None)
    result = _args.output(owner, out, code.dtype, source.shape, source, scale, zero)
    _core.requantize(
        source, _core.TYPES["int32"], scale, zero, result, code.core, *where.grid, code.qmin, code.qmax, number,
        m, shift,
    )  # fmt: skip
    return result if order is None else _args.unpermuted(result, order)


def _refuse_nan(owner: str, on_nan: str, source: Array, core: int, storage: np.dtype[Any]) -> None:
    _args.choice(owner, "on_nan", on_nan, {"zero_point": 0, "raise": 1})
    grid = _args.layout(owner, source.shape, None, None).grid
    count = int(_core.min_max(_args.stored(source, storage), core, *grid)[2][0])
    if count:
        raise ValueError(_check.must(owner, "x", 'without NaN when on_nan is "raise"', f"{count} of {source.size} NaN"))
