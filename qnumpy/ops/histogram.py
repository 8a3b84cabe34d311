"""Histograms of the bit patterns of floats, and the ranges that quantize best by them.

Both observers and `choose_qparams` stand on these functions. The bins, the criteria and the searches are defined in
docs/semantics.md.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check, _core
from .._args import Array
from ..dtypes import CodeType
from ..granularity import Granularity, PerTensor
from . import distinct as few
from .distinct import FEW, Few

__all__ = [
    "CHOICES",
    "METHODS",
    "Histogram",
    "bin_ends",
    "entropy_bin",
    "errors",
    "few_values",
    "histogram",
    "merge",
    "percentile_share",
    "search",
]

METHODS = {"mse": 0, "entropy": 1, "percentile": 2}
CHOICES = {"minmax": -1, **METHODS}
_FIGURES = {**METHODS, "square": 3, "apart": 4, "apart_from": 5}  # what a histogram says of given ranges, or of none
_TENSOR_BITS, _CHANNEL_BITS = 7, 4


class Histogram(NamedTuple):
    """The occupied bins of every parameter, sorted by value: those of parameter k are [offsets[k], offsets[k + 1]).

    A key orders as the values do. From 0x8000 up it is 0x8000 plus the upper 16 bits of a float32; below, 0x7FFF less
    those of its magnitude.
    """

    offsets: Array  # int64 (parameters + 1,)
    keys: Array  # uint16 (bins,)
    counts: Array  # int64 (bins,)


def _bits(granularity: Granularity) -> int:
    """Bits of the mantissa that choose a bin: 128 bins an octave for a tensor, 16 for each channel or group."""
    return _TENSOR_BITS if isinstance(granularity, PerTensor) else _CHANNEL_BITS


def histogram(owner: str, x: Any, granularity: Granularity) -> tuple[Histogram, tuple[Array, Array, Array, Array]]:
    """Count the finite elements; in the same read min, max, NaN and infinity counts, as from reduce.ranges."""
    source, real = _args.real(owner, "x", x)
    shape = _args.layout_of(owner, granularity, source.shape).shape
    order = _args.memory_order(source, None) if granularity.params_ndim() is not None else None
    permuted = granularity
    if order is not None:
        permuted, source = granularity.permuted(order, source.shape), source.transpose(order)
    grid = permuted.grid(source.shape)
    found = _core.histogram(_args.stored(source, real.storage), real.core, *grid, _bits(granularity))
    low, high, nan, infinite = (part.reshape(shape) for part in found[3:])
    return Histogram(*found[:3]), (low, high, nan, infinite)


def few_values(owner: str, x: Any, bins: Histogram, granularity: Granularity) -> Few:
    """The distinct values of a tensor, given its histogram, where they are few; those of channels are not kept."""
    if not isinstance(granularity, PerTensor) or bins.keys.size > FEW + 1:  # -0, which counts as 0, has its own
        return few.nothing()
    source, real = _args.real(owner, "x", x)
    return few.few_values(_args.stored(source, real.storage), real.core, bins.keys, bins.counts)


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both; associative and commutative, to the byte."""
    return Histogram(*_core.merge_histograms(*a, *b))


def bin_ends(keys: Array, granularity: Granularity) -> tuple[Array, Array]:
    """Return the lower and the upper end of each bin, as float64.

    Examples
    --------
    >>> bin_ends(np.array([0xBF80, 0x407F], np.uint16), PerTensor())
    (array([ 1.       , -1.0078125]), array([ 1.0078125, -1.       ]))
    """
    wide = keys.astype(np.int64)
    negative = wide < 0x8000
    near = np.where(negative, 0x7FFF - wide, wide - 0x8000)
    step = 1 << (_TENSOR_BITS - _bits(granularity))
    inner, outer = (_reals(near), _reals(near + step))
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def _reals(magnitudes: Array) -> Array:
    real = (magnitudes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.where(magnitudes == 0x7F80, 2.0**128, real)


_Spec = tuple[Array, Array, Array, Array, Array, int, int, int, int, int, float, Array]


def _spec(
    bins: Histogram,
    low: Array,
    high: Array,
    granularity: Granularity,
    code: CodeType,
    qmin: int,
    qmax: int,
    symmetric: bool,
    method: str,
    percentile: float,
) -> _Spec:
    """What every search of _core begins with."""
    first, last = (np.ascontiguousarray(end, np.float64).reshape(-1) for end in (low, high))
    reals = np.empty(0) if code.real is None else code.real.numbers
    if reals.size:
        qmin, qmax, symmetric = 1 - reals.size, reals.size - 1, True
    return (
        *bins, first, last, _bits(granularity), _FIGURES[method], int(symmetric), qmin, qmax, percentile / 100, reals,
    )  # fmt: skip


def search(
    bins: Histogram,
    low: Array,
    high: Array,
    *,
    granularity: Granularity,
    code: CodeType,
    symmetric: bool,
    method: str,
    percentile: float = 99.99,
    values: Few,
) -> tuple[Array, Array, Array]:
    """Find the range of every parameter that is best by a criterion.

    Parameters
    ----------
    bins : Histogram
        With at least one element in each parameter.
    low, high : ndarray of float64
        The extremes, in the shape of the parameters.
    granularity : Granularity
    code : CodeType
    symmetric : bool
    method : {"mse", "entropy", "percentile"}
    percentile : float, default 99.99
    values : Few
        The values of a tensor that has few: "mse" is then exact.

    Returns
    -------
    low, high, error : ndarrays of float64
        In the shape of the parameters; low <= 0 <= high. The error is the mean square, the divergence, or the share of
        the elements outside.
    """
    qmin = code.symmetric_qmin if symmetric else code.qmin
    spec = _spec(bins, low, high, granularity, code, qmin, code.qmax, symmetric, method, percentile)
    found = tuple(part.reshape(low.shape) for part in _core.search_ranges(*spec))
    if method == "mse" and values.values.size:
        given = (float(end) for end in found[:2])
        found = tuple(np.array(part) for part in few.search(_together(values, spec), code, symmetric, *given))
    return found  # type: ignore[return-value]


def _together(values: Few, spec: _Spec) -> Few:
    """A few values without the outliers that are set apart."""
    none, start = np.zeros(1), np.empty(1)
    _core.range_errors(*spec[:6], _FIGURES["apart"], *spec[7:], none, none, start)
    if not start[0]:
        return values
    _core.range_errors(*spec[:6], _FIGURES["apart_from"], *spec[7:], none, none, start)
    kept = np.abs(values.values) < start[0]
    return Few(values.values[kept], values.counts[kept])


def errors(
    bins: Histogram,
    low: Array,
    high: Array,
    tried_low: Array,
    tried_high: Array,
    *,
    granularity: Granularity,
    code: CodeType,
    qmin: int,
    qmax: int,
    symmetric: bool,
    method: str,
    values: Few,
) -> Array:
    """The errors of given ranges, ``tried_low <= 0 <= tried_high``, of shape (parameters' shape, n)."""
    spec = _spec(bins, low, high, granularity, code, qmin, qmax, symmetric, method, 100.0)
    first, last = np.ascontiguousarray(tried_low, np.float64), np.ascontiguousarray(tried_high, np.float64)
    found = np.empty(first.shape)
    if values.values.size and method in ("mse", "square"):
        kept = _together(values, spec)
        if method == "square":
            return np.full(first.shape, np.square(kept.values) @ kept.counts / kept.counts.sum())
        return few.range_errors(kept, first, last, qmin, qmax, symmetric, code.real)
    _core.range_errors(*spec, first, last, found)
    return found


def entropy_bin(counts: Any, levels: Any = 128, *, first: int = 128) -> tuple[int, Array]:
    """Choose how many bins to keep by TensorRT's entropy procedure.

    For each i from `first` to the number of bins: p are the first i counts, those beyond added to the last of them; q
    the first i counts merged into `levels` cells, each spread evenly over its filled bins; the i with the least
    KL(p || q) wins, the last of equals.

    Parameters
    ----------
    counts : array_like, shape (bins,)
        A histogram of magnitudes in equal bins from zero.
    levels : int or array_like, default 128
        How many even ones; or the levels from 0 up, such as the numbers of a float, of which the largest stands at
        the end of the i bins: a bin is then of the cell of the level nearest to its middle, the upper one of two.
    first : int, default 128
        At least as many as levels.

    Returns
    -------
    bins : int
        How many are kept.
    divergence : ndarray of float64, shape (bins + 1,)
        KL(p || q) of every i; nan below `first`.

    Raises
    ------
    TypeError
        levels is neither an integer nor real.
    ValueError
        first is below levels or beyond the bins, or levels do not rise from 0.

    Notes
    -----
    O(levels) for each i, by prefix sums.

    References
    ----------
    S. Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Examples
    --------
    >>> counts = np.exp(-np.linspace(0, 8, 2048) ** 2)
    >>> 8 * entropy_bin(counts)[0] / 2048 < 8
    True
    """
    given = np.ascontiguousarray(_check.reals("entropy_bin", "counts", counts), np.float64).reshape(-1)
    reals, first = np.empty(0), _check.integer("entropy_bin", "first", first)
    if np.ndim(levels):
        reals = np.ascontiguousarray(_check.reals("entropy_bin", "levels", levels), np.float64).reshape(-1)
        if reals.size < 2 or reals[0] != 0 or not (np.diff(reals) > 0).all():
            raise ValueError(_check.must("entropy_bin", "levels", "rising from 0", _check.typed(levels)))
    levels = reals.size or _check.integer("entropy_bin", "levels", levels)
    if not 1 <= levels <= first <= given.size:
        wanted = f"from levels to the number of bins, {levels} to {given.size}"
        raise ValueError(_check.must("entropy_bin", "first", wanted, str(first)))
    divergence = np.full(given.size + 1, np.nan)
    return _core.entropy_bin(given, levels, reals, first, divergence), divergence


def percentile_share(owner: str, value: Any) -> float:
    """Return a percentile as a float in (0, 100]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(_check.must(owner, "percentile", "a number", _check.typed(value)))
    if not 0 < value <= 100:
        raise ValueError(_check.must(owner, "percentile", "in (0, 100]", _check.typed(value)))
    return float(value)
