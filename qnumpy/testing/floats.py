"""Twins of the functions of float formats, by their definition: cast, float_error, blocks of MX formats and NVFP4."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .._typing import Array, Overflow, Rounding
from ..dtypes import FLOAT_TYPES, FloatType
from ._common import float_of

__all__ = ["FloatError", "cast", "float_codes", "float_error", "quantize_blocks"]


def cast(
    x: ArrayLike,
    dtype: DTypeLike,
    *,
    overflow: Overflow = "inf",
    rounding: Rounding = "nearest",
    seed: int | None = None,
) -> Array:
    """Cast as qnumpy.cast does, by the definition of the formats.

    Examples
    --------
    >>> cast(np.array([0.3, 2.5, -7.0]), "float4_e2m1fn").tolist()
    [0.5, 2.0, -6.0]
    """
    x = np.asarray(x)
    source, target = float_of(x.dtype), float_of(dtype)
    value, payload = _decode(x, source)
    if source is not target or target.bits < 32:  # not a mere copy
        payload |= np.uint64(1 << 51)
    if rounding == "stochastic" and source.name == "float64" and target.name != "float64":
        first = _round(value, FLOAT_TYPES["float32"], 32, _philox(seed, x.size, 1).reshape(x.shape))
        value = np.where(np.abs(value) > target.largest, value, first)
    random = _philox(seed, x.size, 0).reshape(x.shape) if rounding == "stochastic" and target.bits < 32 else None
    places = 23 - target.mantissa_bits
    if target.kind == "SCALE":
        return _encode(_power_of_two(value, target, random, saturate=overflow == "saturate"), payload, target)
    value = _round(value, target, places, random)
    over = np.abs(value) > target.largest
    if overflow == "saturate" or target.kind == "FINITE":
        value = np.where(over, np.copysign(target.largest, value), value)
    else:
        value = np.where(over, np.copysign(np.inf if target.has_infinity else np.nan, value), value)
        payload = np.where(over, 0, payload)
    return _encode(value, payload, target)


class FloatError(NamedTuple):
    """The figures of qnumpy.ops.float_error.FloatError.

    Examples
    --------
    >>> float_error(np.array([0.1, 70000.0]), FLOAT_TYPES["float64"], FLOAT_TYPES["float16"]).kept
    1
    """

    nan: int
    infinite: int
    overflow: int
    underflow: int
    subnormal: int
    kept: int
    relative_error: int
    max_relative_error: float
    largest: float
    smallest: float


def float_error(array: Array, source: FloatType, target: FloatType) -> FloatError:
    """Count as qnumpy.ops.float_error.float_error does; the errors are those of real numbers, not of float32.

    Examples
    --------
    >>> float_error(np.array([1e-12, 1e5]), FLOAT_TYPES["float64"], FLOAT_TYPES["float16"]).overflow
    1
    """
    x = np.asarray(array).astype(np.float64).reshape(-1)
    size = np.abs(x[np.isfinite(x)])
    size = size[size > 0]
    if target.name == "float32":
        with np.errstate(over="ignore"):
            y = size.astype(np.float32).astype(np.float64)
    else:
        y = np.append(_magnitudes(target), np.inf)[_nearest(size, target)]
    kept = (y > 0) & np.isfinite(y)
    relative = np.abs(size[kept] - y[kept]) / size[kept]
    return FloatError(
        nan=int(np.isnan(x).sum()),
        infinite=int(np.isinf(x).sum()),
        overflow=int(np.isinf(y).sum()),
        underflow=int((y == 0).sum()),
        subnormal=int(((y > 0) & (y < target.smallest_normal)).sum()),
        kept=int(kept.sum()),
        relative_error=int(np.rint(np.ldexp(relative, 30)).sum()),
        max_relative_error=float(relative.max(initial=0)),
        largest=float(size.max(initial=0)),
        smallest=float(size.min(initial=np.inf)),
    )


def quantize_blocks(
    x: Array,
    float_type: FloatType,
    element: FloatType,
    scale_type: FloatType,
    group_size: int,
    tensor_scale: np.float32 | None = None,
) -> tuple[Array, Array]:
    """Quantize as qnumpy.quantize does to a format of blocks, NVFP4 with `tensor_scale`; return codes and scales.

    Codes narrower than a byte are packed; `unpacked` returns them one to a byte.

    Examples
    --------
    >>> types = (FLOAT_TYPES[name] for name in ("float32", "float4_e2m1fn", "float8_e8m0fnu"))
    >>> rows, scales = quantize_blocks(np.array([0.5, 3.0, -8.0], np.float32), *types, 32)
    >>> unpacked(rows, FLOAT_TYPES["float4_e2m1fn"], 3).tolist(), scales.tolist()
    ([0.0, 1.5, -4.0], [2.0])
    """
    source, (*rows, columns) = x.astype(np.float64), x.shape
    blocks = -(-columns // group_size)
    missing = blocks * group_size - columns
    padded = np.concatenate([source, np.zeros((*rows, missing))], -1).reshape(*rows, blocks, group_size)
    size = np.abs(np.where(np.isinf(padded), 0, padded)).max(-1)
    nan = np.isnan(size)
    if tensor_scale is None:
        exponent = np.frexp(np.where(nan | (size == 0), 2.0**-200, size))[1] - math.frexp(element.largest)[1]
        field = np.where(nan, 255, np.clip(exponent + 127, 0, 254)).astype(np.uint8)
        scales = field.view(scale_type.dtype)
        block_scale = np.where(nan, np.nan, np.ldexp(1.0, field.astype(int) - 127))
        quotient = source / np.repeat(block_scale, group_size, -1)[..., :columns]  # exact: powers of two
    else:
        exact = size.astype(np.float32) / np.float32(element.largest) / tensor_scale
        scales = np.maximum(float_codes(exact, scale_type).view(np.uint8), 1).view(scale_type.dtype)
        block_scale = scales.astype(np.float32) * tensor_scale
        quotient = source.astype(np.float32) / np.repeat(block_scale, group_size, -1)[..., :columns]
    codes = float_codes(quotient, element)
    if element.bits == 8:
        return codes, scales
    bits = np.unpackbits(codes.view(np.uint8)[..., None], axis=-1, bitorder="little")[..., : element.bits]
    return np.packbits(bits.reshape(*rows, columns * element.bits), axis=-1, bitorder="little"), scales


def unpacked(held: Array, element: FloatType, columns: int) -> Array:
    """Return the codes of rows that quantize_blocks has packed; others as they are."""
    if element.bits == 8:
        return held
    bits = np.unpackbits(held, axis=-1, count=columns * element.bits, bitorder="little")
    codes = np.packbits(bits.reshape(*held.shape[:-1], columns, element.bits), axis=-1, bitorder="little")
    return codes[..., 0].view(element.dtype)


def float_codes(x: Array, real: FloatType) -> Array:
    """Cast to codes, which saturate."""
    return cast(np.asarray(x, np.float64), real.dtype, overflow="saturate")


def _magnitudes(real: FloatType) -> Array:
    """Return the finite numbers of a format from 0 up: element k is the value of code k."""
    codes = np.arange(real.largest_code + 1).astype(f"u{real.dtype.itemsize}")
    return np.asarray(codes.view(real.dtype).astype(np.float64))


def _nearest(size: Array, real: FloatType) -> Array:
    """Return the code nearest to each magnitude, half to even; the one after the largest is an overflow."""
    values = _magnitudes(real)
    values = np.append(values, 2 * values[-1] - values[-2])  # where the next one would stand
    above = np.clip(np.searchsorted(values, size), 1, len(values) - 1)
    up, down = values[above] - size, size - values[above - 1]
    return np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)


def _decode(x: Array, source: FloatType) -> tuple[Array, Array]:
    """Return the values as float64, and the payloads of NaNs as the 52 bits of a float64."""
    bits = x.astype(x.dtype.newbyteorder("=")).view(f"u{x.dtype.itemsize}").astype(np.uint64)
    width, m = source.exponent_bits + source.mantissa_bits, source.mantissa_bits
    code = bits & np.uint64((1 << width) - 1)
    sign = np.where(bits >> np.uint64(width) & np.uint64(source.kind != "SCALE"), -1.0, 1.0)
    field, mantissa = (code >> np.uint64(m)).astype(np.int64), (code & np.uint64((1 << m) - 1)).astype(np.float64)
    implicit = np.where((field > 0) | (source.kind == "SCALE"), 2.0**m, 0.0)
    exponent = np.where((field > 0) | (source.kind == "SCALE"), field, 1) - source.bias - m
    with np.errstate(over="ignore"):  # the codes of infinity and NaN
        value = np.copysign(np.ldexp(implicit + mantissa, exponent), sign)
    over = code > np.uint64(source.largest_code)
    nan = over & ((code != np.uint64(source.largest_code + 1)) | (not source.has_infinity))
    if source.kind == "FNUZ":
        nan = (code == 0) & (sign < 0)
    value = np.where(nan, np.copysign(np.nan, sign), np.where(over, np.copysign(np.inf, sign), value))
    payload = (mantissa * 2.0 ** (52 - m)).astype(np.uint64) if source.has_infinity else np.zeros_like(bits)
    return value, payload


def _round(value: Array, target: FloatType, places: int, random: Array | None) -> Array:
    """Round to the quanta of a format without a largest number; stochastically, up to the largest, with `random`."""
    magnitude = np.where(np.isfinite(value), np.abs(value), 0.0)
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, 1 - target.bias)
    quanta = np.ldexp(magnitude, target.mantissa_bits - exponent)
    steps = np.rint(quanta)
    if random is not None:
        subnormal = (magnitude < target.smallest_normal) & (target.bits < 16 or target.bias != 127) & (places < 32)
        read = np.where(subnormal, 30 - target.mantissa_bits, places)
        fraction = np.floor(np.ldexp(quanta - np.floor(quanta), read))
        if places == 32:  # float64 to float32: the fraction is compared as it is
            up = np.ldexp(random.astype(np.float64), -32) < quanta - np.floor(quanta)
        else:
            up = fraction + (random >> (32 - read).astype(np.uint64)) >= np.ldexp(1.0, read)
        steps = np.where(magnitude <= target.largest, np.floor(quanta) + up, steps)
    with np.errstate(over="ignore"):
        rounded = np.copysign(np.ldexp(steps, exponent - target.mantissa_bits), value)
    return np.where(np.isfinite(value), rounded, value)


def _power_of_two(value: Array, target: FloatType, random: Array | None, *, saturate: bool) -> Array:
    """Round to a power of two, ties up; numbers between the two smallest go up."""
    positive = np.isfinite(value) & (value > 0)
    fraction, exponent = np.frexp(np.where(positive, value, 1.0))
    fraction, exponent = 2 * fraction - 1, exponent - 1
    up = fraction >= 0.5
    up |= (exponent == -target.bias) & (fraction > 0)
    if random is not None:
        carries = np.ldexp(fraction, 23) + (random >> np.uint64(9)) >= 2.0**23
        up = np.where(exponent < target.bias, carries, up)
    power = np.ldexp(1.0, np.maximum(exponent, -target.bias) + (up & (exponent >= -target.bias)))
    power = np.where(positive & (power <= target.largest), power, np.nan)
    if saturate:
        power = np.where(value == 0, target.smallest_normal, power)
        power = np.where((value > target.largest), target.largest, power)
    return power


def _encode(value: Array, payload: Array, target: FloatType) -> Array:
    """Return the codes of numbers of the format, of infinities and of NaNs."""
    m, width = target.mantissa_bits, target.exponent_bits + target.mantissa_bits
    fraction, exponent = np.frexp(np.where(np.isfinite(value), np.abs(value), 0.0))
    field = np.maximum(np.where(fraction == 0, 0, exponent - 1 + target.bias), target.kind != "SCALE")
    quanta = np.ldexp(fraction, exponent + m + target.bias - field).astype(np.uint64)
    code = (field.astype(np.uint64) << np.uint64(m)) + quanta - np.uint64(1 << m)
    top = np.uint64(target.largest_code + 1)
    code = np.where(np.isinf(value), top, code)
    code = np.where(
        np.isnan(value), top + (payload >> np.uint64(52 - m) if target.has_infinity else np.uint64(0)), code
    )
    negative = np.signbit(value)
    if target.kind == "FINITE":
        code, negative = np.where(np.isnan(value), 0, code), negative ^ np.isnan(value)
    if target.kind == "FNUZ":
        negative &= (code != 0) & ~np.isnan(value)
    if target.kind == "SCALE":
        negative &= False
    code = code + (negative.astype(np.uint64) << np.uint64(width))
    return np.asarray(code.astype(f"u{target.dtype.itemsize}").view(target.dtype))


def _philox(seed: int | None, n: int, stream: int) -> Array:
    """Return 32 random bits for each of n elements, in uint64: Philox4x32-10, 16 counters for 64 elements."""
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
