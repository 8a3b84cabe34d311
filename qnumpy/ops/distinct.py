"""Data of a few distinct values: kept exactly beside their histogram, and searched by mean squared error exactly.

Such values may all lie on the levels of one grid. A histogram, which does not know where inside a bin an element lies,
sees nothing of it. The values and how often each occurs depend on the data alone, not on how it was split.
"""

from typing import NamedTuple

import numpy as np

from .. import _check, _core
from .._args import Array
from ..dtypes import CodeType, FloatType

__all__ = ["FEW", "Few", "errors", "few_values", "merge", "nothing", "range_errors", "search"]

FEW = _core.FEW  # at most so many are kept
SWEEP = 1 << 16  # breakpoints that are sorted at most: some 2 ms
FINALISTS = 32  # steps that are judged again without cancellation
ROUNDING = 2.0**-44  # of the mean square: what rounding a scale to float32 costs, with room
FINE = 16  # thresholds an octave, to find where clipping alone costs too much


class Few(NamedTuple):
    """Distinct values, rising, and how often each occurs; both empty where there are none, or more than FEW."""

    values: Array  # float64
    counts: Array  # int64


def nothing() -> Few:
    """Return what is kept of many values, or of none."""
    return Few(np.empty(0), np.empty(0, np.int64))


def few_values(source: Array, core: int, keys: Array, counts: Array) -> Few:
    """Count the distinct finite values of an array, given its bins as one tensor; -0 counts as 0."""
    found = _core.few_values(source, core, keys, counts)
    if found is None:
        return nothing()
    order = np.argsort(found[0])
    return Few(found[0][order], found[1][order])


def merge(a: Few, b: Few, elements: tuple[int, int]) -> Few:
    """The values of both, given the number of elements of each; associative and commutative, to the byte."""
    if any(n and not part.values.size for part, n in zip((a, b), elements, strict=True)):
        return nothing()
    values, at = np.unique(np.concatenate([a.values, b.values]), return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, at, np.concatenate([a.counts, b.counts]))
    return Few(values, counts) if values.size <= FEW else nothing()


def errors(few: Few, scale: Array, zero_point: Array, qmin: int, qmax: int, real: FloatType | None) -> Array:
    """The mean squared error of each scale and zero point, arrays of one shape."""
    steps = few.values / scale[..., None]
    if real is None:
        codes = np.clip(np.rint(steps + zero_point[..., None]), qmin, qmax) - zero_point[..., None]
    else:
        codes = np.copysign(real.numbers[np.searchsorted(_middles(real.numbers), np.abs(steps))], steps)
    squares = np.square(few.values - codes * scale[..., None])
    return np.asarray(squares @ few.counts / few.counts.sum())


def range_errors(
    few: Few, low: Array, high: Array, qmin: int, qmax: int, symmetric: bool, real: FloatType | None
) -> Array:
    """The mean squared error of the grid that QParams.from_range makes of each range, low <= 0 <= high."""
    zero = np.zeros(low.shape)
    if symmetric or real is not None:
        extent, qmax = np.maximum(-low, high), (qmax - qmin) // 2
        steps, qmin = qmax if real is None else real.largest, -qmax
    else:
        extent, steps = high - low, qmax - qmin
    scale = np.clip(np.where(extent > 0, extent / steps, 1.0), _check.TINY, _check.HUGE).astype(np.float32)
    scale = scale.astype(np.float64)
    if not symmetric and real is None:
        zero = np.clip(np.rint(qmin - low / scale), qmin, qmax)
    return errors(few, scale, zero, qmin, qmax, real)


def search(few: Few, code: CodeType, symmetric: bool, low: float, high: float) -> tuple[float, float, float]:
    """Find the range of least mean squared error, never worse than the given one; with its error."""
    top = float(np.abs(few.values).max())
    if top < _check.TINY or max(-low, high) == 0:  # no normal scale is that small
        return low, high, 0.0
    reals = _even((code.qmax - code.symmetric_qmin) // 2) if code.real is None else code.real.numbers
    qmin = code.symmetric_qmin if symmetric else code.qmin
    if symmetric:
        narrowest = _narrowest(few, reals, reals, max(-low, high) / reals[-1])
        found = _sweep(few, reals, reals, narrowest, 2 * top / reals[-1])
        grids = [(step, code.symmetric_zero_point) for step in found]
    else:
        grids = _affine(few, code, low, high)
    ends = np.array([low]), np.array([high])
    given = float(range_errors(few, *ends, qmin, code.qmax, symmetric, code.real)[0])
    tried = [(float(np.float32(step)), zero) for step, zero in grids if _check.TINY <= step <= _check.HUGE]
    if not tried:
        return low, high, given
    scale, zero = np.array([step for step, _ in tried]), np.array([zero for _, zero in tried])
    cost = errors(few, scale, zero, qmin, code.qmax, code.real)
    noise = ROUNDING * float(np.square(few.values) @ few.counts / few.counts.sum())
    best = int(np.argmin(np.where(cost <= cost.min() + noise, scale, np.inf)))  # the narrowest of equals
    if given <= cost[best] + noise:
        return low, high, given
    below, above = (float(reals[-1]),) * 2 if symmetric else (tried[best][1] - qmin, code.qmax - tried[best][1])
    return -tried[best][0] * below, tried[best][0] * above, float(cost[best])


def _affine(few: Few, code: CodeType, low: float, high: float) -> list[tuple[float, int]]:
    """Candidates for scale and zero point: those that clip nothing; and some that do, zero point by zero point."""
    levels = code.qmax - code.qmin
    start, every = (high - low) / levels, _even(levels)
    given = round(-low / start)
    grids = []
    first, last = min(float(few.values[0]), 0.0), max(float(few.values[-1]), 0.0)
    for step in _sweep(few, every, every, (last - first) / (levels + 1), 2 * (last - first) / levels):
        below = round(-first / step)
        if below + round(last / step) <= levels:
            grids.append((step, code.qmin + below))
    all_of_them = few.values.size * levels * levels <= SWEEP
    for below in range(levels + 1) if all_of_them else range(max(given - 2, 0), min(given + 2, levels) + 1):
        numbers = every[: below + 1], every[: levels - below + 1]
        ends = ((-first, below), (last, levels - below))
        whole = max(end / codes if codes else 2 * (last - first) / levels for end, codes in ends if end)
        steps = _sweep(few, *numbers, _narrowest(few, *numbers, start), whole)  # a larger step clips nothing
        grids += [(step, code.qmin + below) for step in steps]
    return grids


def _even(levels: int) -> Array:
    return np.arange(levels + 1, dtype=np.float64)


def _middles(numbers: Array) -> Array:
    return (numbers[1:] + numbers[:-1]) / 2


def _sweep(few: Few, below: Array, above: Array, narrowest: float, widest: float) -> list[float]:
    """The best steps of an interval; negative values take the numbers `below` times the step, others those `above`.

    As the step falls from `widest`, one value after the other moves to its next number. Between two such breakpoints
    the error is a parabola of the step, C - 2 A step + B step^2, and its least is known.
    """
    if narrowest >= widest:
        return []
    parts, start_a, start_b = [], 0.0, 0.0
    for side, numbers in ((few.values > 0, above), (few.values < 0, below)):
        x, n, middles = np.abs(few.values[side]), few.counts[side].astype(np.float64), _middles(numbers)
        first, last = (np.searchsorted(middles, x / step) for step in (widest, narrowest))
        start_a += float(n * x @ numbers[first])
        start_b += float(n @ numbers[first] ** 2)
        moves = last - first
        if moves.sum() > SWEEP:
            return []
        owner = np.repeat(np.arange(x.size), moves)
        k = np.arange(owner.size) + np.repeat(first + moves - np.cumsum(moves), moves)
        gains = np.diff(numbers)[k], np.diff(numbers**2)[k]
        parts.append(np.stack([x[owner] / middles[k], (n * x)[owner] * gains[0], n[owner] * gains[1]]))
    at, more_a, more_b = np.concatenate(parts, 1)
    order = np.argsort(-at)
    ends = np.concatenate([[widest], at[order], [narrowest]])
    a, b = np.cumsum(np.append(start_a, more_a[order])), np.cumsum(np.append(start_b, more_b[order]))
    step = np.clip(np.divide(a, b, out=np.full(b.size, widest), where=b > 0), ends[1:], ends[:-1])
    error = step * (step * b - 2 * a)
    error = np.maximum(error, error.min() + ROUNDING * float(np.square(few.values) @ few.counts))
    return step[np.lexsort((step, error))[:FINALISTS]].tolist()  # type: ignore[no-any-return]


def _narrowest(few: Few, below: Array, above: Array, start: float) -> float:
    """A step at which clipping alone costs as much as all does at `start`."""
    x = np.abs(few.values)
    most = np.where(few.values > 0, above[-1], below[-1])
    numbers = np.concatenate([-below[:0:-1], above])
    nearest = numbers[np.searchsorted(_middles(numbers), few.values / start)]
    cost = np.square(few.values - start * nearest) @ few.counts
    steps = start * np.exp2(-np.arange(40 * FINE) / FINE)
    clipped = np.square(np.maximum(x - most * steps[:, None], 0)) @ few.counts
    return float(steps[np.argmax(clipped >= cost)])
