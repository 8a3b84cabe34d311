"""Warnings about a quantized array: a sentence, with its number, for each result that is valid but surprising."""

import math
from collections.abc import Iterator

import numpy as np

from .._typing import Array
from ..arrays.quantized import quantize
from ..granularity import PerChannel, PerTensor
from ..ops.reduce import ranges
from ..qparams import QParams, grid_of_range
from .metrics import Sums, measure

__all__ = ["AFFINE_DB", "EXACT_DB", "affine_of", "one_sided", "warnings"]

WIDE = 100  # times the median channel: with one int8 scale for all, the median has one code on either side of 0
GAIN_DB = 6.02  # one bit of precision
AFFINE_DB = 1.0  # a gain of an affine grid that counts
EXACT_DB = 120.0  # an SQNR from which on the error is that of rounding products to float32
_NAMED = 5  # channels that a warning lists


def warnings(x: Array, params: QParams | None, sums: Sums, axis: int | None) -> Iterator[str]:
    """Yield the warnings; without a channel axis, for the channels of every axis."""
    if sums.nan or sums.inf:
        yield f"{sums.nan:,} NaN and {sums.inf:,} infinite of {x.size:,} elements are left out of the figures."
    if x.size and sums.count == 0:
        return
    if math.isinf(sums.peak):
        yield "The quantized array is not finite where the reference is, so the error is infinite."
    if x.size and sums.signal == 0:
        yield f"All {sums.count:,} elements are zero."
        return
    if params is not None and x.size:
        yield from _one_sided(x, params, sums)
    if x.ndim < 2 or x.size == 0:
        return
    best = (0.0, 0)
    for along in range(x.ndim) if axis is None else (axis,):
        if x.shape[along] < 2:
            continue
        low, high, _, _ = ranges("compare", x, PerChannel(along))
        empty = low > high  # nothing finite
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        widest = np.maximum(-low, high)
        yield from _dead((widest == 0) & ~empty, along)
        yield from _wide(widest, along)
        if params is not None and isinstance(params.granularity, PerTensor):
            yield from _lost(widest, float(params.scale) * _smallest_step(params), along)
            best = max(best, (_gain_db(low, high, params, sums, x.size // len(low)), -along))
    gain, along = best[0], -best[1]
    if gain >= GAIN_DB:
        more = 4 * (x.shape[along] - 1)
        yield f"Per channel on axis {along} would gain about {gain:.1f} dB for {more:,} bytes of scales."


def _dead(zero: Array, axis: int) -> Iterator[str]:
    dead = np.flatnonzero(zero)
    if dead.size:
        yield f"{_some(dead, len(zero), axis, 'all zero')}."


def _wide(widest: Array, axis: int) -> Iterator[str]:
    """Warn if the widest channel is far wider than the median of the others that are not zero."""
    top = int(widest.argmax())
    others = np.delete(widest, top)
    others = others[others > 0]
    if others.size == 0:
        return
    with np.errstate(over="ignore"):  # np.median adds the two in the middle
        median = float(np.median(others))
    if widest[top] >= WIDE * median:
        ratio = widest[top] / median
        times = f"{ratio:,.0f}" if ratio < 1e9 else f"{ratio:.3g}"
        yield (
            f"Channel {top} of axis {axis} is {times} times wider than the median of the others "
            f"({widest[top]:.3g} against {median:.3g})."
        )


def _lost(widest: Array, step: float, axis: int) -> Iterator[str]:
    """Warn of channels that are not zero, but whose elements all round to the zero point."""
    lost = np.flatnonzero((widest > 0) & (widest <= step / 2))
    if lost.size:
        yield f"{_some(lost, len(widest), axis, f'lost: no element above half a step ({step / 2:.3g})')}."


def affine_of(params: QParams, low: Array, high: Array) -> tuple[QParams, Array] | None:
    """Return parameters that spend all codes on one side of zero where the data [low, high] lie on that side alone.

    Each keeps the end of its range on that side. With them comes which of them changed. None if none does: the data lie
    on both sides, the zero point is not the middle of the codes, or the codes are floats.
    """
    if params.code.real is not None:
        return None
    middle = (params.zero_point == params.code.symmetric_zero_point) & (low <= high)
    positive, negative = middle & (low >= 0) & (high > 0), middle & (high <= 0) & (low < 0)
    changed = np.asarray(positive | negative)
    if not changed.any():
        return None
    first, last = params.range()
    code = params.code
    ends = np.where(negative, first, 0.0), np.where(positive, last, 0.0)
    scale, zero = grid_of_range(*ends, code.qmin, code.qmax, False)
    scale, zero = np.where(changed, scale, params.scale), np.where(changed, zero, params.zero_point)
    return QParams(scale, zero, params.dtype, params.granularity), changed


def one_sided(where: str, gain_db: float, cost: str = "") -> str:
    """Return the sentence about an affine grid for data on one side of zero."""
    gain = f"gain about {gain_db:.1f} dB" if gain_db < math.inf else "have no error"
    return (
        f"{where} on one side of zero and use half of the symmetric grid. An affine one (symmetric=False) would "
        f"{gain}{cost}."
    )


def _one_sided(x: Array, params: QParams, sums: Sums) -> Iterator[str]:
    """Warn if an affine grid would be better for data on one side of zero: measured, by quantizing with it."""
    if not (0 < sums.noise < math.inf) or sums.sqnr_db >= EXACT_DB:
        return
    low, high, _, _ = ranges("compare", x, params.granularity)
    affine = affine_of(params, low, high)
    if affine is None:
        return
    gain = measure("compare", x, quantize(x, affine[0])).sqnr_db - sums.sqnr_db
    if gain >= AFFINE_DB:
        changed, nbytes = affine[1], affine[0].nbytes - params.nbytes
        parts = f"The elements of {int(changed.sum()):,} of {changed.size:,} channels or groups lie"
        cost = f" for {nbytes:,} byte{'s' * (nbytes != 1)} of zero points"
        yield one_sided(parts if changed.ndim else "All elements lie", gain, cost)


def _gain_db(low: Array, high: Array, params: QParams, sums: Sums, per_channel: int) -> float:
    """Return the gain of a scale for each channel, whose noise is taken as uniform: step^2 / 12 an element."""
    if params.code.real is not None:  # the step grows with the number, and one scale serves a wide range
        return 0.0
    extent = 2 * np.maximum(-low, high) if params.symmetric else high - low
    steps = extent / (params.qmax - params.qmin)
    expected = per_channel * float(np.sum(steps**2)) / 12
    return 10 * math.log10(sums.noise / expected) if 0 < sums.noise < math.inf and 0 < expected < math.inf else 0.0


def _smallest_step(params: QParams) -> float:
    real = params.code.real
    return 1.0 if real is None else real.smallest_subnormal


def _some(indices: Array, channels: int, axis: int, fault: str) -> str:
    names = ", ".join(map(str, indices[:_NAMED].tolist())) + (", ..." if indices.size > _NAMED else "")
    verb = "is" if indices.size == 1 else "are"
    return f"{indices.size:,} of {channels:,} channels of axis {axis} ({names}) {verb} {fault}"
