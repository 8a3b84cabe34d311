"""Encoders of GGUF's block types: codes, scales and minima that make the weighted squared error small.

The error of a block is ``sum(importance * (x - level)**2)``. Each group is searched on its own: for a list of scales
the codes are the nearest, the scale (and the minimum) follow from the codes by least squares, and the best is refined
from its own codes. Then d and dmin, the float16 that all groups of a block share, are chosen, the integers of each
group among their neighbours by the error itself, and d and dmin again by least squares, while the error falls.

Arrays are (elements of a group, groups of a block, blocks): every sum runs along the first axes, in one order, so that
the bytes do not depend on the machine.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .._typing import Array, Float32Array, UInt8Array
from .gguf import Block, GGUFType, pack_block

__all__ = ["LARGEST", "encode"]

LARGEST = 65504.0  # magnitude of a weight: the largest float16, so that every d is finite
_ELEMENTS = 1 << 15  # that are searched at a time: they stay in the L2 cache
_ROUNDS = 2  # refinements of a group, and of d and dmin of a block
_FLOOR = np.float32(1e-6)  # the least importance, of the mean: a weight without one is rounded to nearest


class _Fit(NamedTuple):
    """What a group or block was rounded to: codes less the zero, and the levels' scale and offset of each group."""

    error: Float32Array
    codes: Float32Array
    d: Array
    dmin: Array
    sc: Float32Array
    m: Float32Array


def encode(x: Float32Array, importance: Array | None, kind: GGUFType) -> UInt8Array:
    """Return the bytes (blocks, nbytes) of x (blocks, size); the importance of block i is that of i modulo its length.

    x must be finite, of magnitudes up to `LARGEST`; importance finite and not negative.
    """
    out = np.empty((len(x), kind.nbytes), np.uint8)
    step = max(_ELEMENTS // kind.size, 1)
    weights = None if importance is None else _normalized(importance)
    for first in range(0, len(x), step):
        part = x[first : first + step]
        blocks = np.arange(first, first + len(part)) % (1 if weights is None else len(weights))
        w = np.ones_like(part) if weights is None else weights[blocks]
        out[first : first + step] = pack_block(_block(_grouped(part, kind), _grouped(w, kind), kind), kind)
    return out


def _normalized(importance: Array) -> Float32Array:
    """Return importances of mean 1 with a floor."""
    largest = importance.max(initial=0)
    if largest == 0:
        return np.ones(importance.shape, np.float32)
    share = importance.astype(np.float64) / largest
    return np.asarray(np.maximum((share / share.mean()).astype(np.float32), _FLOOR))


def _grouped(array: Float32Array, kind: GGUFType) -> Float32Array:
    return np.ascontiguousarray(array.reshape(-1, kind.groups, kind.group).transpose(2, 1, 0))


def _block(x: Float32Array, w: Float32Array, kind: GGUFType) -> Block:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        fit = _fit_with_minimum(x, w, kind) if kind.has_minimum else _fit(x, w, kind)
    codes = (fit.codes + np.float32(kind.zero)).astype(np.uint8)
    return Block(
        codes.transpose(2, 1, 0).reshape(-1, kind.size), fit.sc.T.astype(np.int8), fit.m.T.astype(np.int8),
        fit.d, fit.dmin,
    )  # fmt: skip


def _sum(values: Float32Array) -> Float32Array:
    """Return the sum along the first axis, from the first element to the last."""
    if values.size > len(values):
        return np.asarray(np.add.reduce(values, axis=0))
    return np.asarray(np.add.accumulate(values, axis=0)[-1])  # reduce adds neighbours in memory in pairs


def _nearest(x: Float32Array, inverse: Float32Array, low: float, high: float) -> Float32Array:
    """Return the codes of x, rounded half to even; a scale of 0 has code 0."""
    codes = x * inverse
    np.rint(codes, out=codes)
    np.maximum(codes, np.float32(low), out=codes)
    np.minimum(codes, np.float32(high), out=codes)
    return codes


def _inverse(scale: Float32Array) -> Float32Array:
    inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _limits(kind: GGUFType) -> tuple[int, int]:
    return -kind.zero, (1 << kind.bits) - 1 - kind.zero


# ---- types without a minimum: level = scale * code, a scale of either sign ----


def _reaches(kind: GGUFType) -> Iterator[float]:
    """Yield the codes that the largest magnitude of a group is mapped to, beyond the last one where it is clipped."""
    low, high = _limits(kind)
    share = 0.6 if kind.bits <= 3 else 0.45 if kind.bits == 4 else 0.2 if kind.bits == 5 else 0.06
    for step in np.linspace(-0.02, share, 12):
        yield float(low * (1 + step))
        if kind.bits < 6:
            yield float(high * (1 + step))


def _search(x: Float32Array, w: Float32Array, kind: GGUFType) -> Float32Array:
    """Return the scale of each group."""
    low, high = _limits(kind)
    peak = _peak(x)
    inverse_peak = _inverse(peak)
    wx = w * x
    best, scale = np.zeros_like(peak), np.zeros_like(peak)

    def attempt(inverse: Float32Array) -> None:
        codes = _nearest(x, inverse, low, high)
        cross = _sum(wx * codes)
        codes *= codes
        codes *= w
        square = _sum(codes)
        fitted = cross / square
        gain = cross * fitted  # what the scale takes off the error
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]

    for reach in _reaches(kind):
        attempt(inverse_peak * np.float32(reach))
    for _ in range(_ROUNDS):
        attempt(_inverse(scale))
    return scale


def _fit(x: Float32Array, w: Float32Array, kind: GGUFType) -> _Fit:
    scale = _search(x, w, kind)
    low, high = _limits(kind)

    def measured(d: Array, sc: Float32Array) -> _Fit:
        step = d.astype(np.float32) * sc
        codes = _nearest(x, _inverse(step), low, high)
        difference = codes * step
        difference -= x
        difference *= difference
        difference *= w
        return _Fit(_sum(difference), codes, d, np.zeros_like(d), sc, np.zeros_like(sc))

    if not kind.scale_bits:
        sc, half, peak = np.ones_like(scale), _half(scale[0]), _peak(x)[0]
        fit = measured(half, sc)
        # the neighbours of d, and the scales that clip nothing
        for d in (*_neighbours(half), _half(peak / np.float32(low)), _half(peak / np.float32(high))):
            fit = _better(fit, measured(d, sc))
        return fit
    lowest = -(1 << (kind.scale_bits - 1))

    def chosen(d: Array, near: Float32Array) -> _Fit:
        """Return the best integers beside real ones."""
        down = np.clip(np.floor(near), lowest, -lowest - 1)
        up = np.minimum(down + 1, np.float32(-lowest - 1))
        return _better(measured(d, down), measured(d, up))

    peak = np.take_along_axis(scale, np.abs(scale).argmax(axis=0)[None], axis=0)[0]
    d = _half(peak / np.float32(lowest))
    fit = chosen(d, scale * _inverse(d.astype(np.float32)))
    for _ in range(_ROUNDS):
        levels = fit.codes * fit.sc
        cross, square = _sum(_sum(w * x * levels)), _sum(_sum(w * levels * levels))
        d = _half(cross / square)
        fitted = _sum(w * x * fit.codes) / _sum(w * fit.codes * fit.codes)  # the scale that the codes want
        near = np.nan_to_num(fitted, posinf=0, neginf=0) * _inverse(d.astype(np.float32))
        fit = _better_block(fit, chosen(d, near))
    return fit


# ---- types with a minimum: level = scale * code + offset ----


def _ranges(kind: GGUFType) -> Iterator[tuple[float, float]]:
    """Yield the steps that the range of a group is cut into, and the share of its lower end that is kept."""
    last = (1 << kind.bits) - 1
    share = 0.7 if kind.bits <= 2 else 0.35 if kind.bits == 4 else 0.15
    for step in np.linspace(-0.05, share, 9 if kind.bits < 5 else 6):
        for end in (1.0, 0.85, 0.7) if kind.bits <= 2 else (1.0, 0.9) if kind.bits == 4 else (1.0,):
            yield last * (1 + step), end


def _search_with_minimum(x: Float32Array, w: Float32Array, kind: GGUFType) -> tuple[Float32Array, Float32Array]:
    """Return the scale and the offset of each group; the offset of a type with groups is not positive."""
    last = (1 << kind.bits) - 1
    below_zero = kind.scale_bits > 0
    least, most = x.min(axis=0), x.max(axis=0)
    if below_zero:
        least = np.minimum(least, np.float32(0))
    wx = w * x
    total, first = _sum(w), _sum(wx)
    best = np.full_like(least, -np.inf)
    scale, offset = np.zeros_like(least), np.zeros_like(least)

    def attempt(start: Float32Array, inverse: Float32Array) -> None:
        codes = _nearest(x - start, inverse, 0, last)
        wq = w * codes
        linear, cross = _sum(wq), _sum(wx * codes)
        wq *= codes
        square = _sum(wq)
        determinant = total * square - linear * linear
        fitted = (total * cross - first * linear) / determinant
        moved = (square * first - linear * cross) / determinant
        bad = ~np.isfinite(fitted) | ~np.isfinite(moved) | (fitted < 0)
        fitted, moved = np.where(bad, np.float32(0), fitted), np.where(bad, first / total, moved)
        if below_zero:
            positive = moved > 0
            alone = np.maximum(np.nan_to_num(cross / square, posinf=0, neginf=0), np.float32(0))
            fitted, moved = np.where(positive, alone, fitted), np.where(positive, np.float32(0), moved)
        # what they take off the error, for any scale and offset
        gain = 2 * (fitted * cross + moved * first)
        gain -= fitted * (fitted * square + 2 * moved * linear) + moved * moved * total
        better = gain > best
        best[better], scale[better], offset[better] = gain[better], fitted[better], moved[better]

    for steps, end in _ranges(kind):
        start = least * np.float32(end) if below_zero else most - (most - least) * np.float32(end)
        attempt(start, _inverse(most - start) * np.float32(steps))
    for _ in range(_ROUNDS):
        attempt(offset.copy(), _inverse(scale))
    return scale, offset


def _fit_with_minimum(x: Float32Array, w: Float32Array, kind: GGUFType) -> _Fit:
    scale, offset = _search_with_minimum(x, w, kind)
    last = (1 << kind.bits) - 1

    def measured(d: Array, dmin: Array, sc: Float32Array, m: Float32Array) -> _Fit:
        step, low = d.astype(np.float32) * sc, dmin.astype(np.float32) * m
        codes = _nearest(x + low, _inverse(step), 0, last)
        difference = codes * step
        difference -= low
        difference -= x
        difference *= difference
        difference *= w
        return _Fit(_sum(difference), codes, d, dmin, sc, m)

    if not kind.scale_bits:
        one, half, start = np.ones_like(scale), _half(scale[0]), _half(offset[0])
        fit = measured(half, start, one, -one)
        least, most = x.min(axis=0)[0], x.max(axis=0)[0]
        # the neighbours of d, and the range that clips nothing
        tries = [*((d, start) for d in _neighbours(half)), (_half((most - least) / np.float32(last)), _half(least))]
        for d, dmin in tries:
            fit = _better(fit, measured(d, dmin, one, -one))
        return fit
    highest = np.float32((1 << kind.scale_bits) - 1)

    def chosen(d: Array, dmin: Array, near: Float32Array, below: Float32Array) -> _Fit:
        """Return the best integers beside real ones."""
        fits = []
        for sc in (np.clip(np.floor(near), 0, highest), np.clip(np.ceil(near), 0, highest)):
            for m in (np.clip(np.floor(below), 0, highest), np.clip(np.ceil(below), 0, highest)):
                fits.append(measured(d, dmin, sc, m))
        best = fits[0]
        for fit in fits[1:]:
            best = _better(best, fit)
        return best

    d, dmin = _half(scale.max(axis=0) / highest), _half((-offset).max(axis=0) / highest)
    fit = chosen(d, dmin, scale * _inverse(d.astype(np.float32)), -offset * _inverse(dmin.astype(np.float32)))
    for _ in range(_ROUNDS):
        # least squares of d and dmin: x is about d * (sc * codes) - dmin * m
        levels, wx = fit.codes * fit.sc, w * x
        square, cross = _sum(_sum(w * levels * levels)), _sum(_sum(wx * levels))
        mixed = _sum(_sum(w * levels) * fit.m)
        square_m, cross_m = _sum(_sum(w) * fit.m * fit.m), _sum(_sum(wx) * fit.m)
        determinant = square * square_m - mixed * mixed
        d2 = (cross * square_m - cross_m * mixed) / determinant
        dmin2 = (mixed * cross - square * cross_m) / determinant
        bad = ~np.isfinite(d2) | ~np.isfinite(dmin2) | (d2 <= 0) | (dmin2 < 0)
        d2, dmin2 = np.where(bad, fit.d.astype(np.float32), d2), np.where(bad, fit.dmin.astype(np.float32), dmin2)
        half, half_min = _half(d2), _half(dmin2)
        ratio = fit.d.astype(np.float32) * _inverse(half.astype(np.float32))
        ratio_m = fit.dmin.astype(np.float32) * _inverse(half_min.astype(np.float32))
        fit = _better_block(fit, chosen(half, half_min, fit.sc * ratio, fit.m * ratio_m))
    return fit


# ---- the better of two ----


def _half(values: Array) -> Array:
    """Return float16, rounded half to even, of numbers not 0 at least the smallest; 0 for what is not finite."""
    half = np.clip(np.nan_to_num(values, posinf=0, neginf=0), -LARGEST, LARGEST).astype(np.float16)
    vanished = (half == 0) & (values != 0) & np.isfinite(values)
    return np.where(vanished, np.copysign(np.finfo(np.float16).smallest_subnormal, values).astype(np.float16), half)


def _neighbours(half: Array) -> Iterator[Array]:
    for direction in (-np.inf, np.inf):
        beside = np.nextafter(half, np.float16(direction))
        yield np.where(np.isfinite(beside), beside, half)


def _peak(x: Float32Array) -> Float32Array:
    """Return the element of each group with the largest magnitude."""
    least, most = x.min(axis=0), x.max(axis=0)
    return np.asarray(np.where(most > -least, most, least))


def _better(one: _Fit, other: _Fit) -> _Fit:
    """Return the better fit of each group; groups that share a block have one d and dmin."""
    better = other.error < one.error
    if len(better) == 1:
        return _chosen(better, better[0], one, other)
    return _chosen(better, np.True_, one, other)


def _better_block(one: _Fit, other: _Fit) -> _Fit:
    """Return the better fit of each block."""
    better = _sum(other.error) < _sum(one.error)
    return _chosen(better, better, one, other)


def _chosen(groups: Array, blocks: Array | np.bool_, one: _Fit, other: _Fit) -> _Fit:
    """Return `other` for the groups and blocks that are true, else `one`."""
    return _Fit(
        error=np.where(groups, other.error, one.error),
        codes=np.where(groups, other.codes, one.codes),
        d=np.where(blocks, other.d, one.d),
        dmin=np.where(blocks, other.dmin, one.dmin),
        sc=np.where(groups, other.sc, one.sc),
        m=np.where(groups, other.m, one.m),
    )
