"""The expected error and the clipped share of quantizing data that is known by its sketch alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array, Float64Array
from ..dtypes import FloatType
from ..granularity import PerChannel
from ..ops.histogram import Bins, Sketch
from ..ops.quantize import fake_quantize
from ..qparams import QParams

__all__ = ["Estimate", "estimate", "expected", "share_below"]

_POINTS = 64  # that stand for a bin of outliers, whose width is 1/128 or 1/16 of its values


class Estimate(NamedTuple):
    """Sums over the elements of a histogram: their number, squares, squared errors, and the number that is clipped."""

    elements: float
    signal: float
    noise: float
    outside: float

    @property
    def mse(self) -> float:
        return self.noise / self.elements if self.elements else 0.0

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        ratio = self.signal / self.noise
        return 10 * math.log10(ratio) if ratio else -math.inf

    @property
    def clipped(self) -> float:
        """Share of the elements that lie more than half a step outside the range."""
        return self.outside / self.elements if self.elements else 0.0


def expected(
    low: Array,
    high: Array,
    counts: Array,
    scale: Any,
    zero_point: Any,
    qmin: int,
    qmax: int,
    real: FloatType | None = None,
) -> Estimate:
    """Estimate what quantizing does to data spread evenly inside the bins of a histogram.

    In steps, with ``u = x / scale + zero_point`` and n the code of u, the squared error of a bin is the mean of
    ``(u - n)**2`` over it, in closed form: nothing is sampled.

    Parameters
    ----------
    low, high : ndarray of float64, shape (bins,)
        Ends of the bins, low <= high.
    counts : ndarray, shape (bins,)
    scale, zero_point : float or ndarray of shape (bins,)
        The parameters of each bin.
    qmin, qmax : int
        Of integer codes.
    real : FloatType, optional
        The format of codes that are floats: n is then the nearest of its numbers.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> even = expected(np.array([-127.5]), np.array([127.5]), np.array([1000]), 1.0, 0, -127, 127)
    >>> round(even.mse, 6), even.clipped  # a step spread evenly has the error 1/12
    (0.083333, 0.0)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of float64 beyond float32
        scale, zero = np.asarray(scale, np.float64), np.asarray(zero_point, np.float64)
        return _expected(low, high, counts, scale, zero, *_rounding(qmin, qmax, real))


_Rounding = Callable[[Array], tuple[Array, Array]]


def _rounding(qmin: int, qmax: int, real: FloatType | None) -> tuple[_Rounding, float, float]:
    """Return a function from u to its code n and the sum of gap**3 / 12 from 0 to n, and the limits of u."""
    if real is None:

        def even(u: Array) -> tuple[Array, Array]:
            n = np.clip(np.rint(u), qmin, qmax)
            return n, n / 12

        return even, qmin - 0.5, qmax + 0.5
    numbers = real.numbers
    gaps = np.concatenate([[0.0], np.cumsum(np.diff(numbers) ** 3)]) / 12

    def nearest(u: Array) -> tuple[Array, Array]:
        k = np.searchsorted((numbers[1:] + numbers[:-1]) / 2, np.abs(u))
        return np.copysign(numbers[k], u), np.copysign(gaps[k], u)

    return nearest, -real.overflow, real.overflow


def _expected(
    low: Array, high: Array, counts: Array, scale: Array, zero: Array, code: _Rounding, least: float, most: float
) -> Estimate:
    a, b = low / scale + zero, high / scale + zero
    (na, ga), (nb, gb) = code(a), code(b)
    da, db = a - na, b - nb
    # The error's antiderivative, for bins of several codes; inside one code its difference would cancel.
    one = na == nb
    several = (gb - ga + (db**3 - da**3) / 3) / np.where(one, 1.0, b - a)
    squares = np.where(one, (da * da + da * db + db * db) / 3, several)
    outside = share_below(a, b, least) + share_below(-b, -a, -most)
    return Estimate(
        float(counts.sum()),
        float(np.sum(counts * (low * low + low * high + high * high)) / 3),
        float(np.sum(counts * squares * (scale * scale))),
        float(np.sum(counts * outside)),
    )


def share_below(low: Array, high: Array, limit: Any) -> Float64Array:
    """Return the share of every bin that lies below a number; a bin of one value lies below it whole or not at all."""
    width = high - low
    share = np.clip((limit - low) / np.where(width > 0, width, 1.0), 0, 1)
    return np.asarray(np.where(width > 0, share, low < limit))


def estimate(sketch: Sketch, params: QParams, symmetric: bool) -> tuple[Estimate, Estimate]:
    """Estimate what quantizing the data of a sketch would do: to all of it, and to all but the outliers.

    Exact where the distinct values are known. Outliers that no grid represents along with the rest are most of the
    signal, so they hide the error of the rest.
    """
    low, high, counts, which = sketch.cells()
    outliers, magnitude = (figure.reshape(-1)[which] for figure in sketch.outliers(params.code))
    far = (outliers > 0) & (np.minimum(np.abs(low), np.abs(high)) >= magnitude)
    scale, zero = params.scale.reshape(-1)[which], params.zero_point.reshape(-1)[which]
    means = sketch.mse(params), sketch.mean_square(params.code, symmetric=symmetric)
    noise, signal = (float(np.sum(mean * sketch.finite)) for mean in means)
    near = ~far
    codes = params.qmin, params.qmax, params.code.real
    outside = expected(low[near], high[near], counts[near], scale[near], zero[near], *codes).outside
    rest = Estimate(float(counts[near].sum()), signal, noise, outside)
    if not far.any():
        return rest, rest
    first, last = (end.reshape(-1)[which][far] for end in (sketch.min, sketch.max))
    far_params = QParams(scale[far], zero[far], params.dtype, PerChannel(0), params.qmin, params.qmax)
    outlying = _estimate_points(Bins(low[far], high[far], counts[far], which[far]), first, last, far_params)
    return Estimate(*(a + b for a, b in zip(rest, outlying, strict=True))), rest


def _estimate_points(bins: Bins, first: Array, last: Array, params: QParams) -> Estimate:
    """Estimate by quantizing points of a few bins; the extremes are exact, and each of them is one element."""
    known = ((bins.low == first) | (bins.high == last)).astype(np.float64)
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    x = bins.low[:, None] + (bins.high - bins.low)[:, None] * middles
    x = np.concatenate([x, np.where(bins.high == last, bins.high, bins.low)[:, None]], axis=1)
    spread = np.repeat(((bins.counts - known) / _POINTS)[:, None], _POINTS, axis=1)
    weight = np.concatenate([spread, known[:, None]], axis=1)
    least, most = _rounding(params.qmin, params.qmax, params.code.real)[1:]
    with np.errstate(over="ignore"):
        steps = x / params.scale[:, None] + params.zero_point[:, None]
    outside = (steps < least) | (steps > most)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32, and squares beyond float64
        error = np.where(weight > 0, x - fake_quantize(x, params), 0.0)
        sums = (np.sum(weight * values) for values in (x * x, error * error, outside))
        return Estimate(float(bins.counts.sum()), *map(float, sums))
