"""Twins of `qnumpy.ops.grid_search`: one group after the other, one weight after the other, all grids of a pass at
once."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from .._typing import Array, Float32Array, Int32Array

__all__ = ["hqq_grid", "hqq_offsets", "search_grid", "search_offsets"]

F = np.float32
TINY, HUGE = float(np.finfo(F).tiny), float(np.finfo(F).max)
ROUNDER = F(1.5 * 2**23)
WIDEST, NARROWEST = 1.3, 0.25


def search_grid(
    w: Float32Array, importance: Float32Array | None, group_size: int, levels: Any
) -> tuple[Float32Array, Int32Array]:
    scale, zero = _each_group(w, importance, group_size, lambda x, h: _grid_of(x, h, *levels))
    return scale, zero.astype(np.int32)


def search_offsets(
    w: Float32Array, importance: Float32Array | None, group_size: int, qmin: int, qmax: int
) -> tuple[Float32Array, Float32Array]:
    scale, offset = _each_group(w, importance, group_size, lambda x, h: _line_of(x, h, qmin, qmax))
    return scale, offset.astype(np.float32)


def hqq_grid(w: Float32Array, group_size: int, levels: Any) -> tuple[Float32Array, Int32Array]:
    qmin, qmax = levels[:2]

    def search(x: Float32Array, h: Float32Array) -> tuple[float, float]:
        scale, zero = _grid_of(x, h, *levels)
        return _split(x, F(scale), None, qmin - int(zero), qmax - int(zero))[0], zero

    scale, zero = _each_group(w, None, group_size, search)
    return scale, zero.astype(np.int32)


def hqq_offsets(w: Float32Array, group_size: int, qmin: int, qmax: int) -> tuple[Float32Array, Float32Array]:
    def search(x: Float32Array, h: Float32Array) -> tuple[float, float]:
        scale, offset = _line_of(x, h, qmin, qmax)
        return _split(x, F(scale), F(offset), qmin, qmax)

    scale, offset = _each_group(w, None, group_size, search)
    return scale, offset.astype(np.float32)


def _each_group(
    w: Float32Array,
    importance: Float32Array | None,
    group_size: int,
    search: Callable[[Float32Array, Float32Array], tuple[float, float]],
) -> tuple[Float32Array, Array]:
    h = np.ones_like(w) if importance is None else np.broadcast_to(importance, w.shape)
    starts = range(0, w.shape[1], group_size)
    both = [[search(w[i, s : s + group_size], h[i, s : s + group_size]) for s in starts] for i in range(len(w))]
    scale, other = np.array(both, np.float64).reshape(len(w), len(starts), 2).transpose(2, 0, 1)
    return np.ascontiguousarray(scale, np.float32), np.ascontiguousarray(other)


class _Group:
    """The finite weights and their importance, times powers of two that bring the largest ones to [1, 2)."""

    def __init__(self, w: Float32Array, importance: Float32Array) -> None:
        finite = np.isfinite(w)
        h = np.where(finite, importance, 0).astype(F)
        h = h * _unit(float(h.max())) if h.max() > 0 else finite.astype(F)
        w = np.where(finite, w, F(0))
        largest = float(np.abs(w).max())
        self.unit = float(_unit(largest)) if largest else 1.0
        self.low, self.high = (float(f(w[finite])) * self.unit if finite.any() else 0.0 for f in (np.min, np.max))
        zeros = np.zeros(-len(w) % 8, F)
        self.w, self.h = np.append(w * F(self.unit), zeros), np.append(h, zeros)

    def ordinary(self, scale: float, span: int) -> bool:
        return 16 * TINY <= scale / self.unit <= HUGE / (4.0 * span)

    def rounded(self, scale: float) -> float:
        return float(F(min(max(scale / self.unit, TINY), HUGE)))


def _unit(positive: float) -> np.float32:
    return F(2.0 ** min(1 - math.frexp(positive)[1], 127))


class _Trial:
    """Grids as (scale, offset, zero): their steps from the zero point, and sums over the weights."""

    def __init__(self, grids: list[tuple[float, float, int]], qmin: int, qmax: int) -> None:
        self.grids = [grid for grid in grids if grid[0] >= TINY]
        self.scale, self.offset = (np.array([grid[i] for grid in self.grids], F) for i in (0, 1))
        zero = np.array([grid[2] for grid in self.grids], np.int64)
        self.low, self.high = (qmin - zero).astype(F), (qmax - zero).astype(F)

    def _steps(self, t: Array) -> Array:
        return (np.minimum(np.maximum(t, self.low), self.high) + ROUNDER) - ROUNDER

    def sums(self, group: _Group, terms: Callable[[np.float32, np.float32], list[Array]]) -> list[Array]:
        """The sums of the terms of all weights; eight of them are added in float32."""
        total: list[Array] = []
        for i in range(0, len(group.w), 8):
            run: list[Array] = []
            for w, h in zip(group.w[i : i + 8], group.h[i : i + 8], strict=True):
                new = terms(w, h)
                run = [a + b for a, b in zip(run, new, strict=True)] if run else [F(0) + b for b in new]
            wide = [a.astype(np.float64) for a in run]
            total = [a + b for a, b in zip(total, wide, strict=True)] if total else wide
        return total

    def fit_grid(self, group: _Group) -> list[Array]:
        def terms(w: np.float32, h: np.float32) -> list[Array]:
            r = self._steps(w / self.scale)
            return [r * h * r, r * h * w]

        return self.sums(group, terms)

    def fit_line(self, group: _Group, center: np.float32) -> list[Array]:
        def terms(w: np.float32, h: np.float32) -> list[Array]:
            r = self._steps((w - self.offset) / self.scale)
            return [r * h, r * h * r, r * h * (w - center)]

        return self.sums(group, terms)

    def least_error(self, group: _Group, with_offset: bool) -> tuple[float, float, int]:
        def terms(w: np.float32, h: np.float32) -> list[Array]:
            if with_offset:
                level = self._steps((w - self.offset) / self.scale) * self.scale + self.offset
            else:
                level = self._steps(w / self.scale) * self.scale
            return [(level - w) * h * (level - w)]

        k = int(np.argmin(self.sums(group, terms)[0]))
        return float(self.scale[k]), float(self.offset[k]), self.grids[k][2]


def _part(i: int, n: int) -> float:
    return WIDEST - (WIDEST - NARROWEST) * i / (n - 1)


def _grid_of(
    w: Float32Array, importance: Float32Array, qmin: int, qmax: int, zero_low: int, zero_high: int
) -> tuple[float, float]:
    group = _Group(w, importance)
    low, high, span = min(group.low, 0.0), max(group.high, 0.0), qmax - qmin
    affine = zero_low == qmin and zero_high == qmax

    def zero_of(low: float, scale: float) -> int:
        return int(min(max(np.rint(qmin - low / scale), zero_low), zero_high))

    if low == high:
        return 1.0, qmin if zero_low == qmin else zero_high
    if affine:
        scale = float(F((high - low) / span))
        zero = zero_of(low, scale)
    else:
        zero = zero_of(low, (high - low) / span)
        up = high / max(qmax - zero, 0.5) if high > 0 else 0.0
        scale = float(F(max(up, -low / max(zero - qmin, 0.5) if low < 0 else 0.0)))
    if not group.ordinary(scale, span):
        return group.rounded(scale), zero
    kept = [(scale, 0.0, zero)]
    if zero_high - zero_low < 3:
        longer = zero_high if -low >= high else zero_low
        steps = longer - qmin if -low >= high else qmax - longer
        if zero_low < zero_high and steps > 0:
            kept.append((max(-low, high) / steps, 0.0, longer))
        zeros = range(zero_low, zero_high + 1)
        tried = [(scale * _part(i, 40), 0.0, z) for z in zeros for i in range(40)]
    else:
        ends = [(low * _part(i, 9), high * _part(j, 9) - low * _part(i, 9)) for i in range(9) for j in range(9)]
        tried = [(width / span, 0.0, zero_of(start, width / span)) for start, width in ends]
    for k in range(4):
        trial = _Trial(tried, qmin, qmax)
        energy, dot = trial.fit_grid(group)
        gains = [d / e * d if d > 0 else 0.0 for d, e in zip(dot, energy, strict=True)]
        if max(gains) > 0:
            best = int(np.argmax(gains))
            scale, zero = float(F(dot[best] / energy[best])), trial.grids[best][2]
        kept.append((scale, 0.0, zero))
        zeros = range(max(zero - 1, zero_low), min(zero + 1, zero_high) + 1)
        tried = [(scale * (1 + math.ldexp(0.04, -k) * i), 0.0, z) for z in zeros for i in range(-2, 3)]
    scale, _, zero = _Trial(kept, qmin, qmax).least_error(group, False)
    return scale / group.unit, zero


def _line_of(w: Float32Array, importance: Float32Array, qmin: int, qmax: int) -> tuple[float, float]:
    group = _Group(w, importance)
    low, high, span = group.low, group.high, qmax - qmin
    if low == high:
        return 1.0, low / group.unit
    h = group.h.astype(np.float64)
    weight = float(np.add.accumulate(h)[-1])
    total = float(np.add.accumulate(h * group.w)[-1])
    center = F(total / weight)
    middle = float(center)
    rest = total - weight * middle
    scale = (high - low) / span
    offset = low - scale * qmin
    if not group.ordinary(scale, span):
        return group.rounded(scale), float(F(offset / group.unit))
    kept, tried = [(scale, offset, 0)], []
    for i in range(13):
        for j in range(13):
            start = middle + (low - middle) * _part(i, 13)
            step = (middle + (high - middle) * _part(j, 13) - start) / span
            tried.append((step, start - step * qmin, 0))
    for k in range(4):
        trial = _Trial(tried, qmin, qmax)
        sums, energies, dots = trial.fit_line(group, center)
        most = 0.0
        for r, rr, rx in zip(sums.tolist(), energies.tolist(), dots.tolist(), strict=True):
            dot, energy = rx - r / weight * rest, rr - r / weight * r
            gain = dot / energy * dot if dot > 0 and energy > 0 else 0.0
            if gain > most:
                most, scale = gain, dot / energy
                offset = middle + (rest - scale * r) / weight
        kept.append((scale, offset, 0))
        tried = []
        for z in (-1, 0, 1):
            for i in range(-2, 3):
                times = 1 + math.ldexp(0.04, -k) * i
                tried.append((scale * times, middle + (offset - middle) * times + z * (1.0 / 3) * scale, 0))
    scale, offset, _ = _Trial(kept, qmin, qmax).least_error(group, True)
    return scale / group.unit, offset / group.unit


def _power(x: float) -> float:
    """x^-0.3 within 1e-9: two steps of Newton's method for y^-10 = m^3, of x = m 2^e."""
    m, e = math.frexp(x)
    cube, y = m * m * m, 1.6614 - m * (1.0687 - m * 0.4088)
    for _ in range(2):
        y2 = y * y
        y4 = y2 * y2
        y = y * (1.1 - 0.1 * cube * (y4 * y4 * y2))
    whole, k = divmod(3 * e, 10)
    return math.ldexp(y * float(Decimal(2) ** (Decimal(-k) / 10)), -whole)


def _split(w: Float32Array, scale: np.float32, offset: np.float32 | None, low: int, high: int) -> tuple[float, float]:
    unit, beta, least = float(scale), 10.0, math.inf
    best = scale, offset
    w = w[np.isfinite(w)]
    for _ in range(20):
        t = (w if offset is None else w - offset) / scale
        steps = np.clip(np.rint(t), F(low), F(high)).tolist()
        part, start = float(scale) / unit, 0.0 if offset is None else float(offset) / unit
        error = total = energy = 0.0
        for x, r in zip(w.tolist(), steps, strict=True):
            e = x / unit - start - r * part
            if abs(e) >= 2.0**-1022:
                slope = _power(abs(e))
                error += abs(e) * slope
                e = math.copysign(min(abs(e), slope / beta), e)
            total += e if offset is not None else r * (e + r * part)
            energy += r * r
        if not error < least:
            break
        least, best = error, (scale, offset)
        beta *= 1.01
        if offset is not None:
            offset = F(unit * (start + total / len(w))) if len(w) else F(np.nan)
        elif total > 0:
            scale = F(unit * (total / energy))
    return float(best[0]), 0.0 if best[1] is None else float(best[1])
