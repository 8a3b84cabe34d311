"""Sketches: a histogram of the bit patterns of floats for each parameter, and the searches for the best range in it.

Observers and `choose_qparams` both search in a sketch. The bins, the criteria and the searches are defined in
docs/semantics.md.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .. import _args, _check, _core
from .._typing import Array, Float64Array, Int64Array
from ..dtypes import CODE_TYPES, CodeType, FloatType
from ..granularity import Granularity
from ..qparams import QParams
from .distinct import ROUNDING, SWEPT, Distinct, Values

__all__ = ["CHOICES", "METHODS", "Bins", "Histogram", "Sketch", "bin_ends", "most_values", "percentile_share"]

METHODS = {"mse": 0, "entropy": 1, "percentile": 2}
CHOICES = {"minmax": -1, **METHODS}
_CRITERIA = {**METHODS, "square": 3, "outliers": 4, "outliers_from": 5}  # the numbers of the kernel
_TENSOR_BITS, _CHANNEL_BITS = 7, 4
_LARGEST = 2.0**128  # end of the last bin, which holds everything beyond float32


class Histogram(NamedTuple):
    """The occupied bins of every parameter, sorted by value: those of parameter k are [offsets[k], offsets[k + 1]).

    Keys are in the order of the values. A bin of positive values has the key 0x8000 plus the upper 16 bits of their
    float32; a bin of negative values has 0x7FFF minus those of the magnitude.
    """

    offsets: Int64Array  # (parameters + 1,)
    keys: NDArray[np.uint16]  # (bins,)
    counts: Int64Array  # (bins,)


class Bins(NamedTuple):
    """Occupied bins: their ends, their counts of elements, and the number of the parameter of each."""

    low: Float64Array
    high: Float64Array
    counts: Array  # int64; float64 where bins were cut
    parameter: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """The data of a search for the best range: a histogram of an array, and exact figures that the histogram lacks.

    Two sketches of parts of the data merge into the sketch of the whole, to the byte. The arrays are of the shape of
    the parameters, except `histogram` and `distinct`.

    Attributes
    ----------
    granularity : Granularity
    histogram : Histogram
        Of the finite elements.
    min, max : ndarray of float64
        The exact extremes of the finite elements; inf and -inf where there are none.
    finite, nan, infinite : ndarray of int64
        How many elements are finite, NaN, infinite.
    distinct : Distinct
        The distinct values of the parameters that have few; their mean squared error is exact.
    """

    granularity: Granularity
    histogram: Histogram
    min: Float64Array
    max: Float64Array
    finite: Int64Array
    nan: Int64Array
    infinite: Int64Array
    distinct: Distinct

    @classmethod
    def of(
        cls, source: Array, float_type: FloatType, granularity: Granularity, *, lost: Array | None = None
    ) -> Self:
        """Read an array.

        Parameters
        ----------
        source : ndarray
        float_type : FloatType
            The type of `source`.
        granularity : Granularity
            Its axis fits `source`.
        lost : ndarray of bool, optional
            The parameters whose distinct values are not asked for. They take a second read of those of few bins.

        Returns
        -------
        Sketch
        """
        shape, layout = granularity.params_shape(source.shape), granularity
        array = source
        if granularity.params_ndim() is not None:  # results per group and per row keep the order of the axes
            order = _args.memory_order(source)
            if order is not None:
                array, layout = source.transpose(order), granularity.permuted(order, source.shape)
        *bins, low, high, nan, infinite = _core.histogram(
            array, float_type.core, *layout.grid(array.shape), _bits(granularity)
        )
        histogram = Histogram(*bins)
        sums = np.concatenate([[0], np.cumsum(histogram.counts)])
        low, high, nan, infinite = (values.reshape(shape) for values in (low, high, nan, infinite))
        finite = np.diff(sums[histogram.offsets]).reshape(shape)
        skipped = np.zeros(finite.size, np.uint8) if lost is None else lost.reshape(-1).astype(np.uint8)
        distinct = Distinct.none(finite.size)
        if not skipped.all():
            grid = layout.grid(array.shape)
            distinct = Distinct(*_core.distinct_values(
                array, float_type.core, *grid, _bits(granularity), *histogram, skipped
            ))  # fmt: skip
        return cls(granularity, histogram, low, high, finite, nan, infinite, distinct)

    @property
    def lost(self) -> Array:
        """Whether each parameter has elements, but more distinct values than are kept."""
        return (self.finite > 0) & ~self.distinct.known.reshape(self.finite.shape)

    def merge(self, other: "Sketch") -> "Sketch":
        """Return the sketch of both; associative and commutative, to the byte."""
        return Sketch(
            self.granularity,
            Histogram(*_core.merge_histograms(*self.histogram, *other.histogram)),
            np.asarray(np.minimum(self.min, other.min)),
            np.asarray(np.maximum(self.max, other.max)),
            np.asarray(self.finite + other.finite),
            np.asarray(self.nan + other.nan),
            np.asarray(self.infinite + other.infinite),
            self.distinct.merge(other.distinct, _bits(self.granularity), (self.lost | other.lost).reshape(-1)),
        )

    # ---- searches ----

    def search(
        self, code: CodeType, *, symmetric: bool, method: str, percentile: float = 99.99
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Find the range of every parameter that is best by a criterion.

        Parameters
        ----------
        code : CodeType
        symmetric : bool
        method : {"minmax", "mse", "entropy", "percentile"}
        percentile : float, default 99.99

        Returns
        -------
        low, high, error : ndarrays of float64
            In the shape of the parameters; low <= 0 <= high except by "minmax", and both 0 where no element is finite.
            The error is the mean square, the divergence, or the share of the elements outside; 0 by "minmax".
        """
        first, last = self._ends()
        if method == "minmax":
            return first, last, np.zeros(first.shape)
        spec = self._spec(code, symmetric, method, percentile)
        low, high, error = (values.reshape(first.shape) for values in _core.search_ranges(*spec))
        if method == "mse" and self.granularity.params_ndim() == 0 and 0 < self.distinct.values.size <= SWEPT:
            return self._swept(code, symmetric, low, high, error)
        return low, high, error

    def _swept(
        self, code: CodeType, symmetric: bool, low: Float64Array, high: Float64Array, error: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Return the best range of a tensor of very few values, near one that is as good as others."""
        count, magnitude = self.outliers(code)
        near = np.abs(self.distinct.values) < float(magnitude) if count else slice(None)
        values = Values(self.distinct.values[near], self.distinct.counts[near])
        ends = [np.array(end) for end in values.search(code, symmetric, float(low), float(high))]
        cost = self.errors(*(end[..., None] for end in ends), code, symmetric=symmetric, method="mse")[..., 0]
        noise = ROUNDING * self.mean_square(code, symmetric=symmetric)
        return (*ends, np.asarray(cost)) if cost < error - noise else (low, high, error)

    def errors(
        self,
        low: Array,
        high: Array,
        code: CodeType,
        *,
        symmetric: bool,
        method: str,
        limits: tuple[int, int] | None = None,
    ) -> Float64Array:
        """Return the errors of ranges of the caller's choice by a criterion.

        Parameters
        ----------
        low, high : ndarray of float64, shape (parameters' shape, n)
            n ranges for each parameter, ``low <= 0 <= high``.
        code : CodeType
        symmetric : bool
        method : {"mse", "entropy", "percentile"}
        limits : tuple of int, optional
            qmin and qmax, where they are not those of the code type.

        Returns
        -------
        ndarray of float64, shape (parameters' shape, n)
            The mean square, the divergence (inf where fewer bins than levels remain), or the share outside.
        """
        qmin, qmax = limits or (code.symmetric_qmin if symmetric else code.qmin, code.qmax)
        return self._evaluated(low, high, self._spec(code, symmetric, method, 100.0, (qmin, qmax)))

    def mse(self, params: QParams) -> Float64Array:
        """Estimate the mean squared error of quantizing with parameters of the sketch's granularity.

        Parameters
        ----------
        params : QParams

        Returns
        -------
        ndarray of float64
            In the shape of the parameters. `outliers` are left out.
        """
        low, high = (end[..., None] for end in params.range())
        limits = params.qmin, params.qmax
        return self.errors(low, high, params.code, symmetric=False, method="mse", limits=limits)[..., 0]

    def coverage(self, low: Array, high: Array) -> Float64Array:
        """Return the share of the elements inside a range of each parameter, in the shape of the parameters."""
        spec = self._spec(CODE_TYPES["int8"], False, "percentile", 100.0)  # any code type gives the same coverage
        return 1 - self._evaluated(low[..., None], high[..., None], spec)[..., 0]

    def mean_square(self, code: CodeType, *, symmetric: bool) -> Float64Array:
        """Estimate the mean of the squares, in the shape of the parameters; `outliers` are left out as in `mse`."""
        return self._figure("square", code, symmetric)

    def outliers(self, code: CodeType) -> tuple[Float64Array, Float64Array]:
        """Count the outliers, which the search by mean squared error leaves out: no grid holds both them and the rest.

        Parameters
        ----------
        code : CodeType

        Returns
        -------
        count, magnitude : ndarrays of float64
            In the shape of the parameters: how many, and the lower end of the bin of the smallest; 0 without outliers.
        """
        return self._figure("outliers", code, True), self._figure("outliers_from", code, True)

    def curve(
        self, code: CodeType, *, symmetric: bool, method: str, percentile: float = 99.99, n: int = 256
    ) -> tuple[Float64Array, Float64Array]:
        """Return thresholds and their errors by a criterion, for a plot.

        Parameters
        ----------
        code : CodeType
        symmetric : bool
        method : {"mse", "entropy", "percentile"}
        percentile : float, default 99.99
        n : int, default 256
            Thresholds, at least 2.

        Returns
        -------
        threshold, error : ndarrays of float64, shape (parameters' shape, n)
            Thresholds grow by equal factors from 1/16 of the best range to the extremes. A threshold t is the range
            [-t, t] if symmetric; if affine, the range of the data cut at -t and t. The errors are those of `errors`.

        Raises
        ------
        TypeError
            n is not an integer.
        ValueError
            n is below 2, or method is unknown.
        """
        owner = "Sketch.curve"
        if _check.integer(owner, "n", n) < 2:
            raise ValueError(_check.must(owner, "n", "at least 2", str(n)))
        _args.choice(owner, "method", method, METHODS)
        low, high, _ = self.search(code, symmetric=symmetric, method=method, percentile=percentile)
        best = np.maximum(-low, high)
        first, last = self._ends()
        widest = np.maximum(np.maximum(-first, last), best)  # the best range of a float type may be wider than the data
        threshold = np.geomspace(np.maximum(best / 16, _check.TINY), np.maximum(widest, _check.TINY), n, axis=-1)
        low, high = -threshold, threshold
        if not symmetric:
            low = np.maximum(np.minimum(first, 0.0)[..., None], low)
            high = np.minimum(np.maximum(last, 0.0)[..., None], high)
        return threshold, self.errors(low, high, code, symmetric=symmetric, method=method)

    def bins(self) -> Bins:
        """Return the occupied bins of all parameters, those of a parameter sorted by value.

        Returns
        -------
        Bins
            low, high (float64), counts (int64), parameter (int64), each of shape (bins,). The outermost bins end at the
            exact extremes; an element alone in one of them is an extreme.
        """
        offsets, keys, counts = self.histogram
        low, high = bin_ends(keys, self.granularity)
        parameter = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        first, last = self.min.reshape(-1)[parameter], self.max.reshape(-1)[parameter]
        low = np.where(low <= -_LARGEST, first, np.clip(low, first, last))
        high = np.where(high >= _LARGEST, last, np.clip(high, first, last))
        alone, positive = counts == 1, keys >= 0x8000
        low = np.where(alone & positive & (high == last), last, low)
        high = np.where(alone & ~positive & (low == first), first, high)
        return Bins(low, high, counts, parameter)

    def cells(self) -> Bins:
        """Return what is known of where the elements lie: distinct values, as bins without width, else `bins`."""
        known, bins = self.distinct.known, self.bins()
        rest = ~known[bins.parameter]
        values = self.distinct.values
        parameter = np.repeat(np.arange(known.size), np.diff(self.distinct.offsets))
        points = Bins(values, values, self.distinct.counts, parameter)
        return Bins(*(np.concatenate([part[rest], more]) for part, more in zip(bins, points, strict=True)))

    # ---- parts of the searches ----

    def _ends(self) -> tuple[Float64Array, Float64Array]:
        """Return the extremes; 0 where no element is finite."""
        empty = self.finite == 0
        if not empty.any():
            return self.min, self.max
        return np.where(empty, 0.0, self.min), np.where(empty, 0.0, self.max)

    def _spec(
        self,
        code: CodeType,
        symmetric: bool,
        criterion: str,
        percentile: float,
        limits: tuple[int, int] | None = None,
    ) -> "_Spec":
        """Return the arguments with which every search of _core begins."""
        qmin, qmax = limits or (code.symmetric_qmin if symmetric else code.qmin, code.qmax)
        numbers = np.empty(0) if code.real is None else code.real.numbers
        if numbers.size:
            qmin, qmax, symmetric = 1 - numbers.size, numbers.size - 1, True
        first, last = (np.ascontiguousarray(end, np.float64).reshape(-1) for end in self._ends())
        return (
            *self.histogram, *self.distinct, first, last, _bits(self.granularity), _CRITERIA[criterion], int(symmetric), qmin, qmax,
            percentile / 100, numbers,
        )  # fmt: skip

    def _evaluated(self, low: Array, high: Array, spec: "_Spec") -> Float64Array:
        low, high = np.ascontiguousarray(low, np.float64), np.ascontiguousarray(high, np.float64)
        errors = np.empty(low.shape)
        _core.range_errors(*spec, low, high, errors)
        return errors

    def _figure(self, criterion: str, code: CodeType, symmetric: bool) -> Float64Array:
        """Return a figure that does not depend on the range."""
        zeros = np.zeros((*self.min.shape, 1))
        return self._evaluated(zeros, zeros, self._spec(code, symmetric, criterion, 100.0))[..., 0]


_Spec = tuple[Array, Array, Array, Array, Array, Array, Array, Array, int, int, int, int, int, float, Array]


def _bits(granularity: Granularity) -> int:
    """Return the bits of the mantissa that choose a bin: 128 bins an octave for a tensor, 16 for smaller parts."""
    return _TENSOR_BITS if granularity.params_ndim() == 0 else _CHANNEL_BITS


def most_values(granularity: Granularity) -> int:
    """Return how many distinct values a parameter keeps: those of every 8-bit grid, more for a tensor."""
    return _core.FEW_OF_TENSOR if _bits(granularity) == _TENSOR_BITS else _core.FEW_OF_CHANNEL


def bin_ends(keys: Array, granularity: Granularity) -> tuple[Float64Array, Float64Array]:
    """Return the lower and the upper end of each bin, as float64.

    Examples
    --------
    >>> from qnumpy import PerTensor
    >>> bin_ends(np.array([0xBF80, 0x407F], np.uint16), PerTensor())
    (array([ 1.       , -1.0078125]), array([ 1.0078125, -1.       ]))
    """
    wide = keys.astype(np.int64)
    negative = wide < 0x8000
    magnitude = np.where(negative, 0x7FFF - wide, wide - 0x8000)
    step = 1 << (_TENSOR_BITS - _bits(granularity))
    inner, outer = _reals(magnitude), _reals(magnitude + step)
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def _reals(magnitudes: Array) -> Float64Array:
    real = (magnitudes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.where(magnitudes == 0x7F80, _LARGEST, real)


def percentile_share(owner: str, value: Any) -> float:
    """Return a percentile as a float in (0, 100]."""
    if not _check.is_number(value):
        raise TypeError(_check.must(owner, "percentile", "a number", _check.typed(value)))
    if not 0 < value <= 100:
        raise ValueError(_check.must(owner, "percentile", "in (0, 100]", _check.typed(value)))
    return float(value)
