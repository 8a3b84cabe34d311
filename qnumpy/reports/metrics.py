"""The distance of a quantized array from its original: mean squared error, SQNR, largest error, cosine, clipping."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import _args, _check
from .._typing import Array, RealLike
from ..arrays.mx import MXArray
from ..arrays.quantized import QuantizedArray
from ..dtypes import CodeType
from ..granularity import Granularity, PerTensor
from ..ops.metrics import error_sums, mark_codes
from ..ops.reduce import ranges

__all__ = ["Quantized", "Sums", "measure", "pair"]

_TILE = 1 << 16  # elements: the float64 arrays of a tile stay in the L2 cache

Index = tuple[slice, ...]
Quantized: TypeAlias = QuantizedArray | MXArray


@dataclass(frozen=True)
class Sums:
    """Sums of one pass over x and its approximation r: scalars, or arrays with an element for each channel.

    Only elements where x is finite are summed. Squares are float64: where those of float64 input underflow or overflow
    (beyond about 1e-160 and 1e150), sqnr_db is nan. Squares of narrower input do neither.

    Attributes
    ----------
    count, nan, inf : int or ndarray
        Finite elements of x, its NaN, its infinities.
    signal, energy, dot, noise : float or ndarray
        Sums of x^2, r^2, x r and (x - r)^2.
    peak : float or ndarray
        The largest |x - r|; infinity where r is not finite.
    outside : int, ndarray or None
        Elements that were clipped; None when r has no parameters.
    used : int, ndarray or None
        Different codes that occur; None when r has no codes, and per channel for 16-bit codes.
    """

    count: Any
    nan: Any
    inf: Any
    signal: Any
    energy: Any
    dot: Any
    noise: Any
    peak: Any
    outside: Any
    used: Any

    @property
    def mse(self) -> Any:
        return self.noise / np.maximum(self.count, 1)

    @property
    def sqnr_db(self) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10 * (np.log10(self.signal) - np.log10(self.noise))
        vanished = np.where(np.asarray(self.noise) == 0, np.nan, ratio)
        return np.where(np.asarray(self.peak) == 0, np.inf, vanished)[()]

    @property
    def cosine(self) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = np.sqrt(self.signal) * np.sqrt(self.energy)  # nan for 0 and infinity
            angle = np.where(norm == 0, 0.0, np.clip(self.dot / norm, -1.0, 1.0))
        return np.where(np.asarray(self.peak) == 0, 1.0, angle)[()]

    @property
    def clipped(self) -> Any:
        return None if self.outside is None else self.outside / np.maximum(self.count, 1)


def measure(owner: str, x: RealLike, q: Quantized | RealLike, axis: int | None = None) -> Sums:
    """Read x and q once, in tiles, and add up the sums of every metric.

    Parameters
    ----------
    owner : str
        The function that the user called; it begins the sentence of an error.
    x : array_like of float32, float64, float16 or bfloat16, any shape
        The reference.
    q : QuantizedArray, MXArray, or array_like of one of those types
        Of the shape of `x`: codes with parameters, or dequantized values.
    axis : int, optional
        Sum for each index of this axis; counted from the front.

    Returns
    -------
    Sums
        In float64, tile by tile; no array of the size of x is allocated.

    Raises
    ------
    TypeError
        x is not real, or q is of another type.
    ValueError
        q has another shape than x.
    """
    source, values = pair(owner, x, q)
    quantized = isinstance(values, Quantized)
    granularity = values.granularity if quantized else PerTensor()
    low, high, nan, inf = ranges(owner, source, granularity)
    bounds = _bounds(values, low, high) if quantized else None
    nonfinite = bool(nan.any() or inf.any())
    if source.ndim == 0:  # a 0-d array has no axis to slice
        source, values = source.reshape(1), values.reshape(1)
    shape = () if axis is None else (source.shape[axis],)
    others = tuple(d for d in range(source.ndim) if d != axis)
    plain = axis is None and not nonfinite and bounds is None and _single(source) and _single(values)
    total = {name: np.zeros(shape) for name in ("signal", "energy", "dot", "noise", "peak")}
    count = {name: np.zeros(shape, np.int64) for name in ("nan", "inf", "outside")}
    flags = _CodeFlags(values, axis) if quantized else None
    buffers = _Buffers(source, granularity)
    # A non-finite r makes the sums inf or nan, as it should; Sums documents the overflow of float64 squares.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for tile in _tiles(source, granularity):
            at: Any = () if axis is None else tile[axis]
            part = values[tile]
            if flags is not None:
                flags.add(part, tile)
            if plain:
                sums = error_sums(source[tile], part.dequantize() if quantized else part)
                for name, more in zip(("signal", "energy", "dot", "noise"), sums[:4], strict=True):
                    total[name] += more
                total["peak"] = np.maximum(total["peak"], sums[4] if math.isfinite(sums[3]) else math.inf)
                continue
            real, approximate, scratch = buffers.shaped(tile)
            np.copyto(real, source[tile])
            np.copyto(approximate, part.dequantize() if quantized else part)
            skipped = ~np.isfinite(real) if nonfinite else None
            if bounds is not None:
                outside = real < granularity.expand(bounds.low, tile)
                outside |= real > granularity.expand(bounds.high, tile)
                if skipped is not None:
                    outside &= ~skipped
                count["outside"][at] += np.count_nonzero(outside, axis=others)
            if skipped is not None:
                count["nan"][at] += np.count_nonzero(np.isnan(real), axis=others)
                count["inf"][at] += np.count_nonzero(np.isinf(real), axis=others)
                real[skipped] = approximate[skipped] = 0.0
            total["signal"][at] += np.add.reduce(np.square(real, out=scratch), axis=others)
            total["energy"][at] += np.add.reduce(np.square(approximate, out=scratch), axis=others)
            total["dot"][at] += np.add.reduce(np.multiply(real, approximate, out=scratch), axis=others)
            error = np.subtract(real, approximate, out=real)
            total["noise"][at] += np.add.reduce(np.square(error, out=scratch), axis=others)
            worst = np.maximum.reduce(np.abs(error, out=scratch), axis=others)  # propagates NaN
            total["peak"][at] = np.maximum(total["peak"][at], worst)
    for name in ("noise", "peak"):  # NaN comes from a non-finite r where x is finite: an infinite error
        total[name] = np.where(np.isnan(total[name]), np.inf, total[name])
    per_channel = source.size // shape[0] if shape and shape[0] else source.size
    used = flags.count() if flags is not None else None
    finite = per_channel - count["nan"] - count["inf"]
    sums_by_name: dict[str, Any] = {"count": finite, **count, **total, "used": used}
    if flags is None:
        sums_by_name["outside"] = None
    return Sums(**{name: value.item() if np.ndim(value) == 0 and value is not None else value
                   for name, value in sums_by_name.items()})  # fmt: skip


def pair(owner: str, x: RealLike, q: Quantized | RealLike) -> tuple[Array, Any]:
    """Check x and q: real arrays, or real and quantized, of one shape."""
    source, _ = _args.real(owner, "x", x)
    values = q if isinstance(q, Quantized) else _args.real(owner, "q", q)[0]
    if values.shape != source.shape:
        raise ValueError(_check.must(owner, "q", f"of the shape {source.shape} of x", f"shape {values.shape}"))
    return source, values


def _single(values: Any) -> bool:
    """Whether float32 holds every value, so that the kernel may sum them."""
    return isinstance(values, Quantized) or values.dtype.itemsize <= 4


class _Bounds(NamedTuple):
    low: Array
    high: Array


def _bounds(q: Quantized, low: Array, high: Array) -> _Bounds | None:
    """Return half a step beyond the smallest and the largest value of each parameter; None if all of x is within."""
    scale = q.scale.astype(np.float64)  # the products are exact: 24 bits times at most 18
    if isinstance(q, QuantizedArray) and q.qparams.code.real is None:
        params = q.qparams
        steps = params.qmin - params.zero_point - 0.5, params.qmax - params.zero_point + 0.5
    else:
        real = q.element if isinstance(q, MXArray) else q.qparams.code.real
        assert real is not None
        steps = np.asarray(-real.overflow), np.asarray(real.overflow)
    bounds = _Bounds(scale * steps[0], scale * steps[1])
    return bounds if ((low < bounds.low) | (high > bounds.high)).any() else None


def _nearest(array: Array) -> list[int]:
    """Return the axes in the order of their strides, the smallest first."""
    return sorted(range(array.ndim), key=lambda d: (abs(array.strides[d]), -d))


def _tile_shape(array: Array, granularity: Granularity) -> list[int]:
    """Return the shape of a tile: about _TILE elements, whole along the nearest axes; at least one whole group."""
    group = 1 if granularity.group_size is None else granularity.group_size
    grouped = None if granularity.axis is None else granularity.axis % array.ndim
    room, shape = _TILE, [1] * array.ndim
    for axis in _nearest(array):
        unit = group if axis == grouped else 1
        shape[axis] = min(array.shape[axis], max(room - room % unit, unit))
        room //= max(shape[axis], 1)
    return shape


def _tiles(array: Array, granularity: Granularity) -> Iterator[Index]:
    """Yield the slices of the tiles that cover an array."""
    if array.size:
        sizes = _tile_shape(array, granularity)
        for starts in product(*(range(0, length, size) for length, size in zip(array.shape, sizes, strict=True))):
            yield tuple(
                slice(start, min(start + size, length))
                for start, size, length in zip(starts, sizes, array.shape, strict=True)
            )


class _Buffers:
    """Three float64 arrays in the memory order of x, which every tile reuses: new arrays would cost page faults."""

    def __init__(self, array: Array, granularity: Granularity) -> None:
        self.flat = np.empty((3, math.prod(_tile_shape(array, granularity))))
        self.order = _nearest(array)[::-1]
        self.back = sorted(range(array.ndim), key=self.order.__getitem__)

    def shaped(self, tile: Index) -> list[Array]:
        shape = [tile[d].stop - tile[d].start for d in self.order]
        return [flat[: math.prod(shape)].reshape(shape).transpose(self.back) for flat in self.flat]


class _CodeFlags:
    """A flag for each code that has occurred, per tensor or per channel."""

    def __init__(self, q: Quantized, axis: int | None) -> None:
        code = q.element if isinstance(q, MXArray) else q.qparams.code
        low = code.qmin if isinstance(code, CodeType) and code.real is None else 0
        self.axis, self.low, self.storage = axis, low, code.storage
        self.levels = 1 << code.bits
        self.most = q.levels
        # 65,536 flags a channel would take more memory than the codes
        channels = 1 if axis is None else q.shape[axis]
        self.flags: Array | None = None
        self.bytes = axis is None and code.bits <= 8  # then a kernel sets a flag for each value of a byte
        if self.bytes:
            self.flags = np.zeros((1, 256), np.uint8)
        elif axis is None or code.bits <= 8:
            self.flags = np.zeros((channels, self.levels), bool)

    def add(self, part: Quantized, tile: Index) -> None:
        if self.flags is None or (self.axis is None and np.count_nonzero(self.flags) == self.most):
            return  # every code has occurred
        codes = part.codes
        if self.bytes:
            mark_codes(codes, self.flags)
            return
        index = codes.view(self.storage).astype(np.intp)
        index -= self.low
        if self.axis is not None:
            channels = tile[self.axis]
            rows = np.arange(channels.start, channels.stop) * self.levels
            index += rows.reshape([-1 if d == self.axis else 1 for d in range(codes.ndim)])
        self.flags.reshape(-1)[index.reshape(-1)] = True

    def count(self) -> Any:
        if self.flags is None:
            return None
        counts = np.count_nonzero(self.flags, axis=1)
        return counts[0] if self.axis is None else counts
