"""Warnings about a quantized array: a sentence, with its number, for each result that is valid but surprising."""

import math
from collections.abc import Iterator

import numpy as np

from .._typing import Array
from ..granularity import PerChannel, PerTensor
from ..ops.reduce import ranges
from ..qparams import QParams
from .metrics import Sums

__all__ = ["warnings"]

WIDE = 100  # times the median channel: with one int8 scale for all, the median has one code on either side of 0
GAIN_DB = 6.02  # one bit of precision
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
