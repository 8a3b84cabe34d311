"""Distinct values of the parameters that have few of them, and the exhaustive search of the range of a tensor of these.

Few values may all be levels of one grid. A histogram cannot show that: it loses the place of an element in its bin. The
values and their counts do not depend on how the data was split.
"""

from typing import NamedTuple

import numpy as np

from .. import _check, _core
from .._typing import Array, Float64Array, Int64Array
from ..dtypes import CodeType, FloatType

__all__ = ["SWEPT", "Distinct", "Values"]

SWEPT = 64  # values of a tensor whose range is searched breakpoint by breakpoint
SWEEP = 1 << 16  # breakpoints that are sorted at most, in about 2 ms
FINALISTS = 32  # steps whose errors are computed again, without cancellation
ROUNDING = 2.0**-44  # relative to the mean square: a bound of the error of rounding a scale to float32
FINE = 16  # steps an octave in the search for the narrowest


class Distinct(NamedTuple):
    """Distinct values of every parameter in rising order and their counts, -0 as 0.

    Those of parameter k are [offsets[k], offsets[k + 1]): none if there are too many, or one is beyond float32.
    """

    offsets: Int64Array  # (parameters + 1,)
    values: Float64Array
    counts: Int64Array

    @classmethod
    def none(cls, parameters: int) -> "Distinct":
        """Return the Distinct that knows no values."""
        return cls(np.zeros(parameters + 1, np.int64), np.empty(0), np.empty(0, np.int64))

    @property
    def known(self) -> Array:
        """Whether the values of each parameter are known."""
        return np.diff(self.offsets) > 0

    def merge(self, other: "Distinct", bits: int, lost: Array) -> "Distinct":
        """Merge the values of two parts, but for parameters that one of them lost; associative and commutative."""
        if not (self.values.size or other.values.size):
            return self
        return Distinct(*_core.merge_distinct(*self, *other, bits, lost.astype(np.uint8)))


class Values(NamedTuple):
    """The values of one parameter, and how often each occurs."""

    values: Float64Array
    counts: Int64Array

    def errors(self, scale: Array, zero_point: Array, qmin: int, qmax: int, real: FloatType | None) -> Float64Array:
        """Return the mean squared error of each scale and zero point, arrays of one shape."""
        scale = scale.astype(np.float64)
        steps = self.values / scale[..., None]
        if real is None:
            codes = np.clip(np.rint(steps + zero_point[..., None]), qmin, qmax) - zero_point[..., None]
        else:
            codes = np.copysign(real.numbers[np.searchsorted(_middles(real.numbers), np.abs(steps))], steps)
        squares = np.square(self.values - codes * scale[..., None])
        return np.asarray(squares @ self.counts / self.counts.sum())

    def search(self, code: CodeType, symmetric: bool, low: float, high: float) -> tuple[float, float]:
        """Return the range of least mean squared error near [low, high]; that range if there is none clearly better."""
        top = float(np.abs(self.values).max())
        if top < _check.TINY or max(-low, high) == 0:  # the scale would be subnormal
            return low, high
        numbers = _even((code.qmax - code.symmetric_qmin) // 2) if code.real is None else code.real.numbers
        qmin = code.symmetric_qmin if symmetric else code.qmin
        if symmetric:
            narrowest = _narrowest(self, numbers, numbers, max(-low, high) / numbers[-1])
            steps = _sweep(self, numbers, numbers, narrowest, 2 * top / numbers[-1])
            grids = [(step, code.symmetric_zero_point) for step in steps]
        else:
            grids = _affine(self, code, low, high)
        grids = [(float(np.float32(step)), zero) for step, zero in grids if _check.TINY <= step <= _check.HUGE]
        if not grids:
            return low, high
        scale, zero = np.array([step for step, _ in grids]), np.array([zero for _, zero in grids])
        cost = self.errors(scale, zero, qmin, code.qmax, code.real)
        noise = ROUNDING * float(np.square(self.values) @ self.counts / self.counts.sum())
        best = int(np.argmin(np.where(cost <= cost.min() + noise, scale, np.inf)))  # of equal errors the smallest scale
        step, zero_point = grids[best]
        below, above = (float(numbers[-1]),) * 2 if symmetric else (zero_point - qmin, code.qmax - zero_point)
        return -step * below, step * above


def _affine(values: Values, code: CodeType, low: float, high: float) -> list[tuple[float, int]]:
    """Return candidates for scale and zero point: without clipping; and, for each zero point, with clipping."""
    levels = code.qmax - code.qmin
    start, numbers = (high - low) / levels, _even(levels)
    first_below = round(-low / start)
    grids = []
    first, last = min(float(values.values[0]), 0.0), max(float(values.values[-1]), 0.0)
    for step in _sweep(values, numbers, numbers, (last - first) / (levels + 1), 2 * (last - first) / levels):
        below = round(-first / step)
        if below + round(last / step) <= levels:
            grids.append((step, code.qmin + below))
    exhaustive = values.values.size * levels * levels <= SWEEP
    for below in range(levels + 1) if exhaustive else range(max(first_below - 2, 0), min(first_below + 2, levels) + 1):
        sides = numbers[: below + 1], numbers[: levels - below + 1]
        ends = ((-first, below), (last, levels - below))
        whole = max(end / codes if codes else 2 * (last - first) / levels for end, codes in ends if end)
        steps = _sweep(values, *sides, _narrowest(values, *sides, start), whole)  # larger steps clip nothing
        grids += [(step, code.qmin + below) for step in steps]
    return grids


def _even(levels: int) -> Float64Array:
    return np.arange(levels + 1, dtype=np.float64)


def _middles(numbers: Array) -> Float64Array:
    return (numbers[1:] + numbers[:-1]) / 2


def _sweep(values: Values, below: Array, above: Array, narrowest: float, widest: float) -> list[float]:
    """Return the best steps of an interval.

    Negative values take the numbers `below` times the step, positive ones the numbers `above`. As the step
    falls from `widest`, one value after the other moves to its next number. Between two such breakpoints the error is
    a parabola of the step, C - 2 A step + B step^2, with its minimum at A / B.
    """
    if narrowest >= widest:
        return []
    parts, start_a, start_b = [], 0.0, 0.0
    for side, numbers in ((values.values > 0, above), (values.values < 0, below)):
        x, n, middles = np.abs(values.values[side]), values.counts[side].astype(np.float64), _middles(numbers)
        first, last = (np.searchsorted(middles, x / step) for step in (widest, narrowest))
        start_a += float(n * x @ numbers[first])
        start_b += float(n @ numbers[first] ** 2)
        moves = last - first
        if moves.sum() > SWEEP:
            return []
        index = np.repeat(np.arange(x.size), moves)
        k = np.arange(index.size) + np.repeat(first + moves - np.cumsum(moves), moves)
        gains = np.diff(numbers)[k], np.diff(numbers**2)[k]
        parts.append(np.stack([x[index] / middles[k], (n * x)[index] * gains[0], n[index] * gains[1]]))
    breakpoints, more_a, more_b = np.concatenate(parts, 1)
    order = np.argsort(-breakpoints)
    ends = np.concatenate([[widest], breakpoints[order], [narrowest]])
    a, b = np.cumsum(np.append(start_a, more_a[order])), np.cumsum(np.append(start_b, more_b[order]))
    step = np.clip(np.divide(a, b, out=np.full(b.size, widest), where=b > 0), ends[1:], ends[:-1])
    error = step * (step * b - 2 * a)
    error = np.maximum(error, error.min() + ROUNDING * float(np.square(values.values) @ values.counts))
    return step[np.lexsort((step, error))[:FINALISTS]].tolist()  # type: ignore[no-any-return]


def _narrowest(values: Values, below: Array, above: Array, start: float) -> float:
    """Return a step so small that clipping alone has at least the whole error of the step `start`."""
    x = np.abs(values.values)
    largest = np.where(values.values > 0, above[-1], below[-1])
    numbers = np.concatenate([-below[:0:-1], above])
    nearest = numbers[np.searchsorted(_middles(numbers), values.values / start)]
    cost = np.square(values.values - start * nearest) @ values.counts
    steps = start * np.exp2(-np.arange(40 * FINE) / FINE)
    clipped = np.square(np.maximum(x - largest * steps[:, None], 0)) @ values.counts
    return float(steps[np.argmax(clipped >= cost)])
