"""The slow twin of every kernel, in plain NumPy expressions and Python integers: the oracle of the tests.

The functions have the names and arguments of qnumpy's own and give the same bits. They check nothing, and they share no
code with the kernels: parameters are repeated until every element has its own, then the formula of docs/semantics.md
stands on one line.
"""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from .dtypes import FLOAT_TYPES, CodeType, FloatType, code_type, float_type
from .granularity import Granularity, PerTensor
from .qparams import QParams

__all__ = [
    "accumulate_dot",
    "cast",
    "conv2d_integer",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "entropy_bin",
    "fake_quantize",
    "float_error",
    "histogram",
    "matmul_integer",
    "min_max",
    "pack",
    "quantize_blocks",
    "quantize_linear",
    "quantize_multiplier",
    "requantize",
    "simulate_saturation",
    "spread",
    "unpack",
]

Array = np.ndarray[Any, Any]


def spread(params: Any, shape: tuple[int, ...], axis: int | None = None, block_size: int | None = None) -> Array:
    """Repeat parameters until every element of an array of `shape` has its own.

    Examples
    --------
    >>> spread([1, 2], (2, 3), axis=0)
    array([[1, 1, 1],
           [2, 2, 2]])
    >>> spread([[1, 2]], (1, 5), axis=1, block_size=3)
    array([[1, 1, 1, 2, 2]])
    """
    params = np.asarray(params)
    if axis is None or params.ndim == 0:
        return np.broadcast_to(params.reshape(()), shape)
    axis %= len(shape)
    if block_size is not None:
        return np.repeat(params, block_size, axis).take(range(shape[axis]), axis)
    after = math.prod(shape[axis + 1 :])
    return np.broadcast_to(np.repeat(params, after).reshape(shape[axis:]), shape)


def quantize_linear(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    dtype: Any = None,
    axis: int | None = None,
    block_size: int | None = None,
    convention: str = "onnx",
    qmin: int | None = None,
    qmax: int | None = None,
) -> Array:
    """Quantize as qnumpy.quantize_linear does; the codes may be held to [qmin, qmax] besides.

    Examples
    --------
    >>> quantize_linear(np.array([0.5, 1.5, np.nan, np.inf]), 1.0, 7, dtype="int8")
    array([  7,   9,   7, 127], dtype=int8)
    >>> quantize_linear(np.array([0.5, 1.5, np.nan, np.inf]), 1.0, 7, dtype="int8", convention="guide")
    array([  8,   8,   7, 127], dtype=int8)
    """
    code = _code(dtype if dtype is not None else getattr(zero_point, "dtype", np.uint8))
    x = np.asarray(x)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    x = x.astype(wide)
    s: Array = spread(np.asarray(scale, np.float32), x.shape, axis, block_size).astype(wide)
    if code.real is not None:
        with np.errstate(all="ignore"):
            return _float_codes(x / s, code.real)
    z = spread(_integers(0 if zero_point is None else zero_point), x.shape, axis, block_size)
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
            raise ValueError(f"quantize_linear: convention must be a name of docs/semantics.md; got {convention!r}.")
    real = np.where(np.isnan(x), z, real)
    codes = np.clip(real, code.qmin if qmin is None else qmin, code.qmax if qmax is None else qmax)
    return _stored(codes.astype(np.int64), code)


def dequantize_linear(
    q: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    dtype: Any = "float32",
) -> Array:
    """Dequantize as qnumpy.dequantize_linear does.

    Examples
    --------
    >>> dequantize_linear(np.array([-7, 3, 5], np.int8), 0.5, 3)
    array([-5.,  0.,  1.], dtype=float32)
    """
    code = code_type(np.asarray(q).dtype)
    if code is not None and code.real is not None:
        s = spread(np.asarray(scale, np.float32), np.shape(q), axis, block_size)
        with np.errstate(all="ignore"):
            return np.asarray((np.asarray(q).astype(np.float32) * s).astype(_float(dtype)))
    q = _integers(q)
    s = spread(np.asarray(scale, np.float32), q.shape, axis, block_size)
    z = spread(_integers(0 if zero_point is None else zero_point), q.shape, axis, block_size)
    with np.errstate(all="ignore"):
        return np.asarray(((q - z).astype(np.float32) * s).astype(_float(dtype)))


def dynamic_quantize_linear(x: Any) -> tuple[Array, np.float32, np.uint8]:
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


def fake_quantize(x: Any, qparams: QParams, *, convention: str = "onnx") -> Array:
    """Quantize and dequantize as qnumpy.fake_quantize does, in those two steps.

    Examples
    --------
    >>> fake_quantize(np.array([0.12, -3.0, np.nan], np.float32), QParams(0.1, 0))
    array([ 0.1, -3. ,  0. ], dtype=float32)
    """
    x = np.asarray(x)
    axis, block_size = qparams.granularity.axis_block
    where: dict[str, Any] = {"axis": axis, "block_size": block_size}
    q = quantize_linear(
        x, qparams.scale, qparams.zero_point, dtype=qparams.dtype, convention=convention,
        qmin=qparams.qmin, qmax=qparams.qmax, **where,
    )  # fmt: skip
    return dequantize_linear(q, qparams.scale, qparams.zero_point, dtype=x.dtype, **where)


def quantize_multiplier(multiplier: float) -> tuple[int, int]:
    """Split a real multiplier into ``m * 2**-shift``, m an integer in [2**30, 2**31), rounded half to even.

    Examples
    --------
    >>> quantize_multiplier(0.75)
    (1610612736, 31)
    """
    fraction, exponent = math.frexp(multiplier)
    m = round(math.ldexp(fraction, 31))  # the product is exact, Python rounds half to even
    return (m, 31 - exponent) if m < 2**31 else (2**30, 30 - exponent)


def requantize(
    acc: Any,
    multiplier: Any,
    zero_point: Any = 0,
    *,
    dtype: Any = "int8",
    axis: int | None = None,
    method: str = "float",
) -> Array:
    """Requantize as qnumpy.requantize does; the two fixed methods in Python's integers, which cannot overflow.

    Examples
    --------
    >>> [int(requantize(np.array(-3), 0.5, method=method)) for method in ("float", "fixed", "fixed_double")]
    [-2, -1, -1]
    """
    code, acc = _code(dtype), np.asarray(acc)
    z = spread(_integers(zero_point), acc.shape, axis)
    if method == "float":
        m = spread(np.asarray(multiplier, np.float32), acc.shape, axis)
        with np.errstate(all="ignore"):
            steps = np.rint(acc.astype(np.float32) * m).astype(np.float64)
        return _stored(np.clip(steps + z, code.qmin, code.qmax).astype(np.int64), code)
    scale = {"fixed": _fixed, "fixed_double": _fixed_double}[method]
    real = spread(np.asarray(multiplier, np.float64), acc.shape, axis)
    codes = [
        min(max(scale(a, *quantize_multiplier(r)) + zero, code.qmin), code.qmax)
        for a, r, zero in zip(acc.ravel().tolist(), real.ravel().tolist(), z.ravel().tolist(), strict=True)
    ]
    return _stored(np.array(codes, np.int64).reshape(acc.shape), code)


def matmul_integer(a: Any, b: Any, a_zero_point: Any = 0, b_zero_point: Any = 0) -> Array:
    """Multiply as qnumpy.matmul_integer does, in int64 and without a check; zero points broadcast as arrays do.

    Examples
    --------
    >>> matmul_integer([[1, 2]], [[3], [4]], b_zero_point=1)
    array([[8]])
    """
    return np.asarray(np.matmul(_integers(a) - _integers(a_zero_point), _integers(b) - _integers(b_zero_point)))


def min_max(x: Any, granularity: Granularity | None = None) -> tuple[Array, Array, Array, Array]:
    """Return the smallest and largest finite element, the NaN count and the infinity count of each parameter.

    A zero is +0.0; +inf and -inf say that there is no finite element.

    Examples
    --------
    >>> min_max(np.array([1.0, -2.0, np.nan, np.inf]))
    (array(-2.), array(1.), array(1), array(1))
    """
    granularity = PerTensor() if granularity is None else granularity
    x = np.asarray(x).astype(np.float64)
    shape = granularity.params_shape(x.shape)
    n = math.prod(shape)
    index = spread(np.arange(n).reshape(shape), x.shape, *granularity.axis_block)

    def count(which: Array) -> Array:
        return np.bincount(index[which], minlength=n).reshape(shape)

    low, high, finite = np.full(n, np.inf), np.full(n, -np.inf), np.isfinite(x)
    np.minimum.at(low, index[finite], x[finite])
    np.maximum.at(high, index[finite], x[finite])
    low, high = (np.asarray(bound.reshape(shape) + 0.0) for bound in (low, high))  # -0.0 becomes +0.0
    return low, high, count(np.isnan(x)), count(np.isinf(x))


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
) -> Array:
    """Convolve as qnumpy.conv2d_integer does, in int64, one element of the result at a time.

    Examples
    --------
    >>> conv2d_integer(np.ones((1, 1, 2, 2), int), np.ones((1, 1, 2, 2), int), padding=1)[0, 0]
    array([[1, 2, 1],
           [2, 4, 2],
           [1, 2, 1]])
    """
    (sv, sh), (dv, dh) = (np.broadcast_to(each, 2) for each in (strides, dilations))
    top, left, bottom, right = np.tile(padding, 2) if np.size(padding) == 2 else np.broadcast_to(padding, 4)
    image = _integers(x) - _integers(0 if x_zero_point is None else x_zero_point)
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    weight = _integers(w) - _integers(0 if w_zero_point is None else w_zero_point).reshape(-1, 1, 1, 1)
    n, (m, depth, kv, kh) = len(image), weight.shape
    height, width = image.shape[2] - dv * (kv - 1), image.shape[3] - dh * (kh - 1)
    y = np.zeros((n, m, -(-height // sv), -(-width // sh)), np.int64)
    for b, o, i, j in np.ndindex(y.shape):
        first = o * groups // m * depth
        patch = image[b, first : first + depth, i * sv : i * sv + dv * kv : dv, j * sh : j * sh + dh * kh : dh]
        y[b, o, i, j] = (patch[:, :kv, :kh] * weight[o]).sum()
    return y


def simulate_saturation(a: Any, b: Any) -> tuple[Array, Array, Array]:
    """Return the product of qnumpy.simulate_saturation, its error and the saturated pairs of each column.

    Examples
    --------
    >>> simulate_saturation(np.array([[200, 200]], np.uint8), np.array([[100], [100]], np.int8))
    (array([[32767]]), array([[-7233]]), array([1]))
    """
    a, b = np.asarray(a), np.asarray(b)
    exact = _integers(a) @ _integers(b)
    unsigned = _integers(a) + (128 if a.dtype == np.int8 else 0)
    signed = _integers(b) - (128 if b.dtype == np.uint8 else 0)
    terms = unsigned[:, :, None] * signed[None]
    pairs = np.add.reduceat(terms, range(0, terms.shape[1], 2), axis=1) if terms.shape[1] else terms
    clipped = np.clip(pairs, -(2**15), 2**15 - 1)
    error = (clipped - pairs).sum(1)
    return exact + error, error, (clipped != pairs).sum((0, 1))


def histogram(x: Any, granularity: Granularity | None = None) -> tuple[Array, Array, Array]:
    """Return the occupied bins as qnumpy.histogram.Histogram holds them: offsets, keys, counts.

    Examples
    --------
    >>> histogram(np.array([1.0, 1.001, -1.0, np.nan]))
    (array([0, 2]), array([16511, 49024], dtype=uint16), array([1, 2]))
    """
    granularity = PerTensor() if granularity is None else granularity
    x = np.asarray(x)
    drop = 0 if isinstance(granularity, PerTensor) else 3
    shape = granularity.params_shape(x.shape)
    n = math.prod(shape)
    index = spread(np.arange(n).reshape(shape), x.shape, *granularity.axis_block)
    finite = np.isfinite(x.astype(np.float64))
    exact = x[finite].astype(np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(np.float32)
    away = np.abs(near.astype(np.float64)) > np.abs(exact)
    upper = np.where(away, np.nextafter(near, np.float32(0)), near).view(np.uint32).astype(np.int64) >> 16
    upper = upper >> drop << drop
    keys = np.where(upper & 0x8000, 0xFFFF - upper, 0x8000 + upper)
    both, counts = np.unique(index[finite] * 65536 + keys, return_counts=True)
    return np.searchsorted(both, np.arange(n + 1) * 65536), (both & 0xFFFF).astype(np.uint16), counts


def entropy_bin(counts: Any, levels: Any = 128, *, first: int = 128) -> tuple[int, Array]:
    """Choose how many bins to keep as qnumpy.histogram.entropy_bin does, by the published steps.

    Examples
    --------
    >>> entropy_bin(np.array([8.0, 4, 2, 1, 0, 0, 0, 0]), 2, first=2)[0]
    2
    """
    counts = np.asarray(counts, np.float64)
    reals, levels = (np.asarray(levels), len(levels)) if np.ndim(levels) else (None, levels)
    divergence = np.full(counts.size + 1, np.nan)
    for i in range(first, counts.size + 1):
        kept, cell = counts[:i], np.arange(i) * levels // i
        if reals is not None:
            middles = (reals[1:] + reals[:-1]) / 2 / reals[-1] * i
            cell = np.searchsorted(middles, np.arange(i) + 0.5, "right")
        filled = kept > 0
        sums, sizes = (np.bincount(cell[filled], weights, levels) for weights in (kept[filled], None))
        q = np.where(filled, (sums / np.maximum(sizes, 1))[cell], 0.0)
        p = kept.copy()
        p[-1] += counts[i:].sum()
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore"):
            divergence[i] = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
    return int(counts.size - np.argmin(divergence[: first - 1 : -1])), divergence


def pack(codes: Any, dtype: Any = "int4", axis: int = -1) -> Array:
    """Pack as qnumpy.pack does: the first code in the low bits.

    Examples
    --------
    >>> pack(np.array([1, -1, 7]))
    array([241,   7], dtype=uint8)
    """
    bits = _code(dtype).bits
    rows = np.moveaxis(_integers(codes), axis, -1) & (2**bits - 1)
    a_byte = 8 // bits
    missing = -rows.shape[-1] % a_byte
    rows = np.concatenate([rows, np.zeros((*rows.shape[:-1], missing), np.int64)], -1)
    rows = rows.reshape(*rows.shape[:-1], rows.shape[-1] // a_byte, a_byte)
    return np.moveaxis((rows << np.arange(0, 8, bits)).sum(-1).astype(np.uint8), -1, axis)


def unpack(packed: Any, dtype: Any, n: int | None = None, axis: int = -1) -> Array:
    """Unpack as qnumpy.unpack does.

    Examples
    --------
    >>> unpack(np.array([241, 7], np.uint8), "int4", 3)
    array([1, -1, 7], dtype=int4)
    """
    code = _code(dtype)
    rows = np.moveaxis(np.asarray(packed).astype(np.int64), axis, -1)
    fields = rows[..., None] >> np.arange(0, 8, code.bits) & (2**code.bits - 1)
    fields = fields.reshape(*rows.shape[:-1], rows.shape[-1] * (8 // code.bits))[..., :n]
    return np.moveaxis(_stored(np.where(fields > code.qmax, fields - 2**code.bits, fields), code), -1, axis)


def accumulate_dot(a: Any, b: Any, accumulate: Any) -> Array:
    """Sum as qnumpy.accumulate_dot does, each step in Python's fractions.

    Examples
    --------
    >>> float(accumulate_dot([2048, 1], [1, 1], "float16"))
    2048.0
    """
    real = float_type(accumulate)
    assert real is not None
    a, b = np.asarray(a).astype(np.float64), np.asarray(b).astype(np.float64)
    rows, columns = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b.reshape(len(b), math.prod(b.shape[1:]))
    sums = [[_summed(row.tolist(), column.tolist(), real) for column in columns.T] for row in rows]
    return np.array(sums, np.float64).reshape((*a.shape[:-1], *b.shape[1:])).astype(real.dtype)


def _summed(a: list[float], b: list[float], real: FloatType) -> float:
    acc = 0.0
    for x, y in zip(a, b, strict=True):
        plain = acc + x * y  # of zeros and of what is not finite the sum is right already
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


def float_error(x: Any, dtype: Any) -> dict[str, Any]:
    """Count as qnumpy.float_report does; the names are those of its result.

    Examples
    --------
    >>> float_error(np.array([1e-12, 1e5]), "float16")["overflow"]
    1
    """
    real = float_type(dtype)
    assert real is not None
    x = np.asarray(x).astype(np.float64).reshape(-1)
    size = np.abs(x[np.isfinite(x)])
    size = size[size > 0]
    if real.name == "float32":
        with np.errstate(over="ignore"):
            y = size.astype(np.float32).astype(np.float64)
    else:
        y = np.append(_magnitudes(real), np.inf)[_nearest(size, real)]
    kept = (y > 0) & np.isfinite(y)
    relative = np.abs(size[kept] - y[kept]) / size[kept]
    return {
        "nan": int(np.isnan(x).sum()),
        "inf": int(np.isinf(x).sum()),
        "nonzero": size.size,
        "overflow": int(np.isinf(y).sum()),
        "underflow": int((y == 0).sum()),
        "subnormal": int(((y > 0) & (y < real.smallest_normal)).sum()),
        "max_relative_error": float(relative.max(initial=0)),
        "mean_relative_error": float(relative.mean()) if relative.size else 0.0,
        "largest": float(size.max(initial=0)),
        "smallest": float(size.min()) if size.size else 0.0,
    }


def quantize_blocks(x: Any, element: Any, block: int, tensor_scale: Any = None) -> tuple[Array, Array]:
    """Quantize as qnumpy.quantize does to a format of blocks, NVFP4 with `tensor_scale`; return codes and scales.

    Examples
    --------
    >>> codes, scales = quantize_blocks(np.array([0.5, 3.0, -8.0], np.float32), "float4_e2m1fn", 32)
    >>> codes.tolist(), scales.tolist()
    ([0.0, 1.5, -4.0], [2.0])
    """
    real = float_type(element)
    assert real is not None
    x = np.asarray(x)
    source, (*rows, columns) = x.astype(np.float64), x.shape
    blocks = -(-columns // block)
    padded = np.concatenate([source, np.zeros((*rows, blocks * block - columns))], -1).reshape(*rows, blocks, block)
    size = np.abs(np.where(np.isinf(padded), 0, padded)).max(-1)
    nan = np.isnan(size)
    if tensor_scale is None:
        exponent = np.frexp(np.where(nan | (size == 0), 2.0**-200, size))[1] - math.frexp(real.largest)[1]
        field = np.where(nan, 255, np.clip(exponent + 127, 0, 254)).astype(np.uint8)
        scales = field.view(ml_dtypes.float8_e8m0fnu)
        each = np.where(nan, np.nan, np.ldexp(1.0, field.astype(int) - 127))
        quotient = source / np.repeat(each, block, -1)[..., :columns]  # exact: powers of two
    else:
        unit, kind = np.float32(tensor_scale), float_type("float8_e4m3fn")
        assert kind is not None
        wanted = size.astype(np.float32) / np.float32(real.largest) / unit
        scales = np.maximum(_float_codes(wanted, kind).view(np.uint8), 1).view(kind.dtype)
        quotient = source.astype(np.float32) / np.repeat(scales.astype(np.float32) * unit, block, -1)[..., :columns]
    return _float_codes(quotient, real), scales


def _magnitudes(real: FloatType) -> Array:
    """The finite numbers of a format from 0 up: the value of code k is element k."""
    codes = np.arange(real.largest_code + 1).astype(f"u{real.dtype.itemsize}")
    return np.asarray(codes.view(real.dtype).astype(np.float64))


def _nearest(size: Array, real: FloatType) -> Array:
    """The code nearest to each magnitude, of two the even one; one beyond the largest is an overflow."""
    values = _magnitudes(real)
    values = np.append(values, 2 * values[-1] - values[-2])  # where the next one would stand
    above = np.clip(np.searchsorted(values, size), 1, len(values) - 1)
    up, down = values[above] - size, size - values[above - 1]
    return np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)


def _float_codes(x: Array, real: FloatType) -> Array:
    return cast(np.asarray(x, np.float64), real.dtype, overflow="saturate")


def cast(x: Any, dtype: Any, *, overflow: str = "inf", rounding: str = "nearest", seed: int | None = None) -> Array:
    """Cast as qnumpy.cast does, by the definition of the formats; overflow="raise" is not its business.

    Examples
    --------
    >>> cast(np.array([0.3, 2.5, -7.0]), "float4_e2m1fn").tolist()
    [0.5, 2.0, -6.0]
    """
    x = np.asarray(x)
    source, to = (FLOAT_TYPES[_float(kind).name] for kind in (x.dtype, dtype))
    value, payload = _decoded(x, source)
    if source is not to or to.bits < 32:  # not a mere copy
        payload |= np.uint64(1 << 51)
    if rounding == "stochastic" and source.name == "float64" and to.name != "float64":
        first = _rounded(value, FLOAT_TYPES["float32"], 32, _philox(seed, x.size, 1).reshape(x.shape))
        value = np.where(np.abs(value) > to.largest, value, first)
    random = _philox(seed, x.size, 0).reshape(x.shape) if rounding == "stochastic" and to.bits < 32 else None
    places = 23 - to.mantissa_bits
    if to.kind == "SCALE":
        return _encoded(_power_of_two(value, to, random, saturate=overflow == "saturate"), payload, to)
    value = _rounded(value, to, places, random)
    over = np.abs(value) > to.largest
    if overflow == "saturate" or to.kind == "FINITE":
        value = np.where(over, np.copysign(to.largest, value), value)
    else:
        value = np.where(over, np.copysign(np.inf if to.has_infinity else np.nan, value), value)
        payload = np.where(over, 0, payload)
    return _encoded(value, payload, to)


def _decoded(x: Array, kind: FloatType) -> tuple[Array, Array]:
    """Values as float64, and what a NaN carries besides its sign, as the 52 bits of a float64."""
    bits = x.astype(x.dtype.newbyteorder("=")).view(f"u{x.dtype.itemsize}").astype(np.uint64)
    width, m = kind.exponent_bits + kind.mantissa_bits, kind.mantissa_bits
    code = bits & np.uint64((1 << width) - 1)
    sign = np.where(bits >> np.uint64(width) & np.uint64(kind.kind != "SCALE"), -1.0, 1.0)
    field, mantissa = (code >> np.uint64(m)).astype(np.int64), (code & np.uint64((1 << m) - 1)).astype(np.float64)
    implicit = np.where((field > 0) | (kind.kind == "SCALE"), 2.0**m, 0.0)
    exponent = np.where((field > 0) | (kind.kind == "SCALE"), field, 1) - kind.bias - m
    with np.errstate(over="ignore"):  # the codes of infinity and NaN
        value = np.copysign(np.ldexp(implicit + mantissa, exponent), sign)
    over = code > np.uint64(kind.largest_code)
    nan = over & ((code != np.uint64(kind.largest_code + 1)) | (not kind.has_infinity))
    if kind.kind == "FNUZ":
        nan = (code == 0) & (sign < 0)
    value = np.where(nan, np.copysign(np.nan, sign), np.where(over, np.copysign(np.inf, sign), value))
    payload = (mantissa * 2.0 ** (52 - m)).astype(np.uint64) if kind.has_infinity else np.zeros_like(bits)
    return value, payload


def _rounded(value: Array, to: FloatType, places: int, random: Array | None) -> Array:
    """To the quanta of a format as if it had no largest number; by `random` where that lies below the largest."""
    magnitude = np.where(np.isfinite(value), np.abs(value), 0.0)
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, 1 - to.bias)
    quanta = np.ldexp(magnitude, to.mantissa_bits - exponent)
    found = np.rint(quanta)
    if random is not None:
        subnormal = (magnitude < to.smallest_normal) & (to.bits < 16 or to.bias != 127) & (places < 32)
        read = np.where(subnormal, 30 - to.mantissa_bits, places)
        fraction = np.floor(np.ldexp(quanta - np.floor(quanta), read))
        if places == 32:  # float64 to float32: the fraction is compared as it is
            up = np.ldexp(random.astype(np.float64), -32) < quanta - np.floor(quanta)
        else:
            up = fraction + (random >> (32 - read).astype(np.uint64)) >= np.ldexp(1.0, read)
        found = np.where(magnitude <= to.largest, np.floor(quanta) + up, found)
    with np.errstate(over="ignore"):
        found = np.copysign(np.ldexp(found, exponent - to.mantissa_bits), value)
    return np.where(np.isfinite(value), found, value)


def _power_of_two(value: Array, to: FloatType, random: Array | None, *, saturate: bool) -> Array:
    """A tie goes up; between the two smallest numbers everything does."""
    fine = np.isfinite(value) & (value > 0)
    fraction, exponent = np.frexp(np.where(fine, value, 1.0))
    fraction, exponent = 2 * fraction - 1, exponent - 1
    up = fraction >= 0.5
    up |= (exponent == -to.bias) & (fraction > 0)
    if random is not None:
        drawn = np.ldexp(fraction, 23) + (random >> np.uint64(9)) >= 2.0**23
        up = np.where(exponent < to.bias, drawn, up)
    found = np.ldexp(1.0, np.maximum(exponent, -to.bias) + (up & (exponent >= -to.bias)))
    found = np.where(fine & (found <= to.largest), found, np.nan)
    if saturate:
        found = np.where(value == 0, to.smallest_normal, found)
        found = np.where((value > to.largest), to.largest, found)
    return found


def _encoded(value: Array, payload: Array, to: FloatType) -> Array:
    """The code of a number of the format, of an infinity, of a NaN."""
    m, width = to.mantissa_bits, to.exponent_bits + to.mantissa_bits
    fraction, exponent = np.frexp(np.where(np.isfinite(value), np.abs(value), 0.0))
    field = np.maximum(np.where(fraction == 0, 0, exponent - 1 + to.bias), to.kind != "SCALE")
    quanta = np.ldexp(fraction, exponent + m + to.bias - field).astype(np.uint64)
    code = (field.astype(np.uint64) << np.uint64(m)) + quanta - np.uint64(1 << m)
    top = np.uint64(to.largest_code + 1)
    code = np.where(np.isinf(value), top, code)
    code = np.where(np.isnan(value), top + (payload >> np.uint64(52 - m) if to.has_infinity else np.uint64(0)), code)
    negative = np.signbit(value)
    if to.kind == "FINITE":
        code, negative = np.where(np.isnan(value), 0, code), negative ^ np.isnan(value)
    if to.kind == "FNUZ":
        negative &= (code != 0) & ~np.isnan(value)
    if to.kind == "SCALE":
        negative &= False
    code = code + (negative.astype(np.uint64) << np.uint64(width))
    found: Array = code.astype(f"u{to.dtype.itemsize}").view(to.dtype)
    return found


def _philox(seed: int | None, n: int, stream: int) -> Array:
    """The 32 random bits of each of n elements, in uint64: Philox4x32-10, one block of 64 elements from 16 counters."""
    low = np.uint64(0xFFFFFFFF)
    first = np.arange(-(-n // 64) * 16, dtype=np.uint64)
    c = [first & low, first >> np.uint64(32), np.full_like(first, stream), np.zeros_like(first)]
    key = [int(seed or 0) & 0xFFFFFFFF, int(seed or 0) >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        first, third = (product >> np.uint64(32) for product in (b, a))
        c = [first ^ c[1] ^ np.uint64(key[0]), b & low, third ^ c[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack([word.reshape(-1, 16) for word in c], 1).reshape(-1)[:n]


def _code(dtype: Any) -> CodeType:
    found = code_type(dtype)
    if found is None:
        raise TypeError(f"qnumpy.testing: dtype must be a code type; got {dtype!r}.")
    return found


def _float(dtype: Any) -> np.dtype[Any]:
    found = float_type(dtype)
    if found is None:
        raise TypeError(f"qnumpy.testing: dtype must be a floating type; got {dtype!r}.")
    return found.dtype


def _integers(codes: Any) -> Array:
    return np.asarray(codes).astype(np.int64)


def _stored(codes: Array, code: CodeType) -> Array:
    """Narrow codes that are in range; a 4- or 2-bit code fills its byte with its sign."""
    return codes.astype(code.storage).view(code.dtype)


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
