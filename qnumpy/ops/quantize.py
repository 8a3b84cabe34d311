"""Quantize, dequantize, fake-quantize and requantize plain arrays; docs/semantics.md states the formulas."""

import math
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _args, _check, _core
from .._packing import Packable, columns_of, rows_are_even
from .._typing import (
    Array,
    Convention,
    DTypeOf,
    Float32Array,
    Int32Array,
    OnNan,
    RequantizeMethod,
    ScalarT,
    UInt8Array,
)
from ..dtypes import ACCUMULATOR_TYPE, CODE_TYPES, INTEGER_TYPES, REAL_TYPES, CodeType, FloatType, code_type
from ..qparams import QParams

__all__ = ["dequantize_linear", "dynamic_quantize_linear", "fake_quantize", "quantize_linear", "requantize"]

_FLOAT32, _UINT8 = REAL_TYPES["float32"], CODE_TYPES["uint8"]

RealT = TypeVar("RealT", bound=np.generic)


@overload
def quantize_linear(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    dtype: DTypeOf[ScalarT],
    axis: int | None = None,
    block_size: int | None = None,
    convention: Convention = "onnx",
    on_nan: OnNan = "zero_point",
    out: NDArray[ScalarT] | None = None,
) -> NDArray[ScalarT]: ...
@overload
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
    out: Array | None = None,
) -> Array: ...
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
    out: Array | None = None,
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
        int8, uint8, int16, uint16, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2, uint2,
        float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn. Codes of 7, 6, 5 and 3 bits,
        which ONNX lacks, are int8 or uint8. The default is ONNX's: the dtype of `zero_point` if that is an array or
        NumPy scalar of one of these types, else uint8.
    axis : int, optional
        The axis of the channels or blocks; None means per tensor.
    block_size : int, optional
        How many neighbours along `axis` share a parameter; the last block may be short.
    convention : {"onnx", "guide", "torch", "tflite"}
        "onnx" as above, with a true division in float32 (float64 for float64 input); "guide" rounds
        ``x / scale + zero_point``; "torch" multiplies by the float32 reciprocal of the scale; "tflite" rounds half
        away from zero.
    on_nan : {"zero_point", "raise"}
        NaN becomes the zero point, or raises; in a float type NaN stays NaN. Infinities saturate.
    out : ndarray, optional
        Receives the codes: exact dtype and shape, C-contiguous, writable, apart from `x`.

    Returns
    -------
    ndarray
        Codes of the shape of `x`, in its memory layout when that is a permutation of C order.

    Raises
    ------
    TypeError
        x is not real; dtype is no code type.
    ValueError
        convention is unknown, or not "onnx" for a float type.
    TypeError
        axis or block_size is not an integer.
    ValueError
        axis is None beside a block_size, block_size is below 1, or x does not have the axis.
    TypeError
        scale is not real.
    ValueError
        scale is not positive, finite and normal in float32, or of another shape.
    TypeError
        zero_point is not integer.
    ValueError
        zero_point is outside the codes, or of another shape.
    ValueError
        on_nan is unknown, or "raise" and x holds NaN.
    TypeError
        out is no array, or of another dtype.
    ValueError
        out is of another shape, read-only, not C-contiguous, or overlaps an input.

    Notes
    -----
    Rounds half to even, once. O(x.size), no copy of x. Equal bits on every ISA and thread count. A code of a float
    type is ``x / scale`` rounded half to even to that type, then saturated. Float types take the zero point 0 and the
    convention "onnx" alone. float4_e2m1fn has no NaN: NaN becomes 0.

    References
    ----------
    ONNX QuantizeLinear, opset 21.

    Examples
    --------
    >>> quantize_linear(np.array([-1.0, 0.0, 0.25, 9.0], np.float32), 0.1, 3, dtype="int8")
    array([-7,  3,  5, 93], dtype=int8)
    """
    owner = "quantize_linear"
    source, float_type = _args.real(owner, "x", x)
    if dtype is None:
        code = _UINT8 if zero_point is None else code_type(getattr(zero_point, "dtype", None)) or _UINT8
    else:
        code = _args.code(owner, dtype)
    rounding = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    if code.real is not None:
        _check_convention(owner, convention, code)
    layout = _args.layout(owner, source.shape, axis, block_size)
    scales = _args.scales(owner, "scale", scale, layout)
    zeros = _args.zero_points(owner, zero_point, layout, *code.zero_points)
    if not (type(on_nan) is str and on_nan == "zero_point"):
        _check_nan(owner, on_nan, source, float_type)
    return _args.elementwise(
        owner, _core.quantize, source, float_type, layout, scales, zeros, code, out, code.qmin, code.qmax, rounding
    )


def _check_convention(owner: str, convention: str, code: CodeType) -> None:
    """Raise ValueError for float codes unless the convention is "onnx": the others define a rounding to integers."""
    if convention != "onnx":
        raise ValueError(_check.must(owner, "convention", f'"onnx" for {code.name}', _check.typed(convention)))


def _check_nan(owner: str, on_nan: str, source: Array, float_type: FloatType) -> None:
    _args.choice(owner, "on_nan", on_nan, {"zero_point": 0, "raise": 1})
    count = int(_core.min_max(source, float_type.core, 1, 1, source.size, 0)[2][0])
    if count:
        raise ValueError(_check.must(owner, "x", 'without NaN when on_nan is "raise"', f"{count} of {source.size} NaN"))


def codes_of(owner: str, x: ArrayLike, qparams: QParams) -> Array:
    """Quantize with a QParams."""
    source, float_type = _args.real(owner, "x", x)
    return quantize_array(owner, source, float_type, _args.qparams_layout(owner, qparams, source.shape), qparams)


def quantize_packed(
    source: Array, float_type: FloatType, layout: _args.Layout, params: QParams, order: tuple[int, ...] | None
) -> UInt8Array:
    """Quantize as quantize_array does to codes narrower than a byte; return them packed.

    `order` is the memory order of the source: rows lie along the last axis of ``source.transpose(order)``.
    """
    code, scale, zero = params.code, params.scale, params.zero_point
    if order is not None:
        layout, scale, zero = _args.transposed(layout, order, source.shape, scale, zero)
        source = source.transpose(order)
    allocate = np.empty if rows_are_even(code.bits, source.shape) else np.zeros  # threads may share a byte
    rows = allocate(code.packed_shape(source.shape), np.uint8)
    if source.size:
        columns = columns_of(source.shape)
        _core.quantize_packed(
            source, float_type.core, scale, zero, rows, code.core, columns, *layout.grid, params.qmin, params.qmax
        )
    return rows


def dequantize_packed(
    owner: str,
    rows: Array,
    code: Packable,
    shape: tuple[int, ...],
    layout: _args.Layout,
    scale: Array,
    zero_point: Array,
    dtype: DTypeLike,
    out: Array | None,
    order: tuple[int, ...] | None = None,
) -> Array:
    """Dequantize packed codes, which are unpacked in tiles; `order` as in quantize_packed, without an out."""
    float_type = _args.floating(owner, dtype)
    if order is not None:
        layout, scale, zero_point = _args.transposed(layout, order, shape, scale, zero_point)
        shape = tuple(shape[d] for d in order)
    result = _args.output(owner, out, float_type.dtype, shape, rows, scale, zero_point)
    if result.size:
        _core.dequantize_packed(
            rows, code.core, scale, zero_point, result, float_type.core, *layout.grid, columns_of(shape)
        )
    return result if order is None else result.transpose(np.argsort(order))


def quantize_array(owner: str, source: Array, float_type: FloatType, layout: _args.Layout, params: QParams) -> Array:
    """Quantize an array whose type and layout are settled."""
    return _args.elementwise(
        owner, _core.quantize, source, float_type, layout, params.scale, params.zero_point, params.code, None,
        params.qmin, params.qmax, 0,
    )  # fmt: skip


@overload
def dequantize_linear(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: Literal["float32"] = "float32",
    out: Float32Array | None = None,
) -> Float32Array: ...
@overload
def dequantize_linear(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: DTypeOf[ScalarT],
    out: NDArray[ScalarT] | None = None,
) -> NDArray[ScalarT]: ...
@overload
def dequantize_linear(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: DTypeLike = "float32",
    out: Array | None = None,
) -> Array: ...
def dequantize_linear(
    q: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: DTypeLike = "float32",
    out: Array | None = None,
) -> Array:
    """Turn codes back into reals: ``x = (q - zero_point) * scale``.

    Parameters
    ----------
    q : array_like of int32 or of a type that quantize_linear makes, any shape
        The zero point of int32 (accumulators) and of floats is 0.
    scale, zero_point, axis, block_size
        As in quantize_linear.
    dtype : str or dtype, default "float32"
        float32, float64, float16 or bfloat16.
    out : ndarray, optional
        Receives the values: exact dtype and shape, C-contiguous, writable, apart from `q`.

    Returns
    -------
    ndarray
        Values of the shape of `q`, in its memory layout when that is a permutation of C order.

    Raises
    ------
    TypeError
        q is neither int32 nor of a code type; dtype is no real type.
    TypeError, ValueError
        axis, block_size, scale, zero_point or out: as in quantize_linear, in that order.

    Notes
    -----
    The integer difference is exact. One float32 multiplication rounds half to even; another dtype is converted from
    that float32 value and rounded half to even once more. The difference of an int32 code above 2**24 is rounded to
    float32 first.

    References
    ----------
    ONNX DequantizeLinear, opset 21.

    Examples
    --------
    >>> dequantize_linear(np.array([-7, 3, 5], np.int8), 0.5, 3)
    array([-5.,  0.,  1.], dtype=float32)
    """
    owner = "dequantize_linear"
    source = _check.array(owner, "q", q, "Use q.dequantize().")
    if source.dtype is ACCUMULATOR_TYPE.dtype or (source.dtype.kind == "i" and source.dtype.itemsize == 4):
        code, low, high = ACCUMULATOR_TYPE, 0, 0
    else:
        source, code = _args.codes(owner, "q", q)
        low, high = code.zero_points
    float_type = _args.floating(owner, dtype)
    layout = _args.layout(owner, source.shape, axis, block_size)
    scales = _args.scales(owner, "scale", scale, layout)
    zeros = _args.zero_points(owner, zero_point, layout, low, high)
    return _args.elementwise(owner, _core.dequantize, source, code, layout, scales, zeros, float_type, out)


def reals_of(owner: str, codes: Array, params: QParams, dtype: DTypeLike, out: Array | None) -> Array:
    """Dequantize codes that belong to a QParams."""
    float_type = _args.floating(owner, dtype)
    layout = _args.layout_of(owner, params.granularity, codes.shape)
    return _args.elementwise(
        owner, _core.dequantize, codes, params.code, layout, params.scale, params.zero_point, float_type, out
    )


def dynamic_quantize_linear(x: ArrayLike) -> tuple[NDArray[np.uint8], np.float32, np.uint8]:
    """Quantize to uint8 with the range of the array itself.

    ``scale = (max(0, max x) - min(0, min x)) / 255``, ``zero_point = clip(round_half_even(-min(0, min x) / scale))``,
    in float32; then as quantize_linear. An all-zero or empty array has scale 1 and zero point 0. NaN and infinities do
    not count for the range.

    Parameters
    ----------
    x : array_like of float32, float16, bfloat16 or float64
        Used as float32.

    Returns
    -------
    codes : ndarray of uint8
    scale : float32
    zero_point : uint8

    Raises
    ------
    TypeError
        x is not real.
    ValueError
        float32 does not hold the range of x.

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
    source, float_type = _args.real(owner, "x", x)
    layout = _args.layout(owner, source.shape, None, None)
    low, high, _, _ = _core.min_max(source, float_type.core, *layout.grid)
    with np.errstate(over="ignore"):
        low32 = np.minimum(low.astype(np.float32)[0], np.float32(0))
        high32 = np.maximum(high.astype(np.float32)[0], np.float32(0))
        extent = np.float32(high32 - low32)
    if np.isinf(extent):
        got = f"{low[0]:g} to {high[0]:g}"
        raise ValueError(_check.must(owner, "x", "of a range that float32 holds", got))
    scale = np.float32(1) if extent == 0 else max(np.float32(extent / np.float32(255)), np.finfo(np.float32).tiny)
    zero = np.uint8(np.clip(np.rint(np.float32(-low32) / scale), 0, 255))
    if float_type.name == "float64":  # the range was rounded to float32 too
        source, float_type = source.astype(np.float32), _FLOAT32
    codes = _args.elementwise(
        owner, _core.quantize, source, float_type, layout, float(scale), int(zero), _UINT8, None, 0, 255, 0
    )
    return codes, np.float32(scale), zero


@overload
def fake_quantize(
    x: NDArray[RealT], qparams: QParams, *, convention: Convention = "onnx", out: NDArray[RealT] | None = None
) -> NDArray[RealT]: ...
@overload
def fake_quantize(
    x: ArrayLike, qparams: QParams, *, convention: Convention = "onnx", out: Array | None = None
) -> Array: ...
def fake_quantize(
    x: ArrayLike, qparams: QParams, *, convention: Convention = "onnx", out: Array | None = None
) -> Array:
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
    TypeError
        x is not real; qparams is no QParams.
    ValueError
        qparams does not fit the shape of x.
    ValueError
        convention is unknown, or not "onnx" for a float type.
    TypeError, ValueError
        out: as in quantize_linear.

    Notes
    -----
    The codes round half to even, the products with the scale once more, as in quantize_linear and dequantize_linear.

    Examples
    --------
    >>> fake_quantize(np.array([0.12, -3.0], np.float32), QParams(0.1, 0))
    array([ 0.1, -3. ], dtype=float32)
    """
    owner = "fake_quantize"
    source, float_type = _args.real(owner, "x", x)
    layout = _args.qparams_layout(owner, qparams, source.shape)
    rounding = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    code, scale, zero = qparams.code, qparams.scale, qparams.zero_point
    if code.real is not None:  # no fused kernel for float codes: they are stored in between
        _check_convention(owner, convention, code)
        if out is not None:
            _args.output(owner, out, float_type.dtype, source.shape, source)
        codes = quantize_array(owner, source, float_type, layout, qparams)
        return _args.elementwise(owner, _core.dequantize, codes, code, layout, scale, zero, float_type, out)
    return _args.elementwise(
        owner,
        _core.fake_quantize,
        source,
        float_type,
        layout,
        scale,
        zero,
        float_type,
        out,
        qparams.qmin,
        qparams.qmax,
        rounding,
    )


def split_multiplier(owner: str, multiplier: Array) -> tuple[Int32Array, Int32Array]:
    """Split float64 multipliers into ``m * 2**-shift``: m in [2**30, 2**31), rounded half to even, shift in 1..62."""
    fits = (multiplier >= 2.0**-32) & (multiplier <= 2.0**30 - 0.5)
    if not fits.all():
        raise ValueError(_check.must(owner, "multiplier", "in [2**-32, 2**30 - 0.5]", str(multiplier[~fits].flat[0])))
    fraction, exponent = np.frexp(multiplier)
    m = np.rint(fraction * 2.0**31).astype(np.int64)
    carried = m == 2**31
    m = np.where(carried, 2**30, m)
    shift = 31 - (exponent + carried)
    return np.asarray(m, dtype=np.int32), np.asarray(shift, dtype=np.int32)


@overload
def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: Literal["int8"] = "int8",
    axis: int | None = None,
    method: RequantizeMethod = "float",
    out: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]: ...
@overload
def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: DTypeOf[ScalarT],
    axis: int | None = None,
    method: RequantizeMethod = "float",
    out: NDArray[ScalarT] | None = None,
) -> NDArray[ScalarT]: ...
@overload
def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: DTypeLike = "int8",
    axis: int | None = None,
    method: RequantizeMethod = "float",
    out: Array | None = None,
) -> Array: ...
def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    dtype: DTypeLike = "int8",
    axis: int | None = None,
    method: RequantizeMethod = "float",
    out: Array | None = None,
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
        The axis of the channels; None means per tensor.
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
        acc is not int32; dtype is no integer code type.
    ValueError
        method is unknown.
    TypeError, ValueError
        axis, multiplier (as scale), zero_point: as in quantize_linear, in that order.
    ValueError
        A fixed method cannot represent a multiplier.
    TypeError, ValueError
        out: as in quantize_linear.

    Notes
    -----
    "float" rounds half to even, "fixed" once half up, "fixed_double" twice. Every method saturates.

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
    source = _check.array(owner, "acc", acc, "Its codes are no sums.")
    if source.dtype is not ACCUMULATOR_TYPE.dtype and source.dtype.newbyteorder("=") != ACCUMULATOR_TYPE.dtype:
        raise TypeError(_check.must(owner, "acc", "an array of int32", _check.got(acc, source)))
    code = _args.code(owner, dtype, INTEGER_TYPES)
    rounding = _args.choice(owner, "method", method, _args.METHODS)
    layout = _args.layout(owner, source.shape, axis, None)
    multipliers = _args.scales(owner, "multiplier", multiplier, layout)
    zeros = _args.zero_points(owner, zero_point, layout, code.qmin, code.qmax)
    m = shift = None
    if method != "float":  # split before the multiplier is rounded to float32
        exact = np.asarray(multiplier, np.float64).reshape(-1)
        m, shift = split_multiplier(owner, np.broadcast_to(exact, math.prod(layout.shape)))
    return _args.elementwise(
        owner, _core.requantize, source, ACCUMULATOR_TYPE, layout, multipliers, zeros, code, out,
        code.qmin, code.qmax, rounding, m, shift,
    )  # fmt: skip
