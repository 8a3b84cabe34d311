"""An observer that keeps a histogram, and chooses the range by mean squared error, entropy or percentile."""

from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import _args, _check
from .._args import Array
from ..granularity import Granularity, PerTensor
from ..ops import histogram as _histogram
from ..ops.distinct import FEW, Few, nothing
from ..ops.distinct import merge as merge_few
from ..ops.histogram import CHOICES, METHODS, Histogram
from ..qparams import QParams
from .base import Batch, Observer

__all__ = ["Bins", "HistogramObserver"]


class Bins(NamedTuple):
    """Occupied bins: their ends, how many elements, and the number of the parameter they belong to."""

    low: Array
    high: Array
    counts: Array
    parameter: Array


class HistogramObserver(Observer):
    """Observe a histogram of the bit patterns; choose the range by mean squared error, entropy or percentile.

    A bin is a sign, an exponent and the first bits of a mantissa, 7 per tensor, 4 per channel and group. So there is no
    range to find first, no outlier too large, and one batch, a hundred batches or merged observers give the same bytes.

    Parameters
    ----------
    method : {"mse", "entropy", "percentile"}
        The criterion; docs/semantics.md states the formulas.
    percentile : float, default 99.99
        Percent of the elements inside the range, where method is "percentile": symmetric of the magnitudes, affine with
        half of the rest beyond either end.
    dtype, granularity, symmetric, on_nonfinite
        As in MinMaxObserver.

    Raises
    ------
    ValueError
        method is unknown, percentile not in (0, 100].

    Notes
    -----
    Entropy is erratic, as published, on fewer than some thousands of elements: most of its 2048 bins are then empty.

    10 bytes for each occupied bin, 48 for a parameter: whatever and how much is seen, at most 653 KB for a tensor (some
    40 KB in practice), 82 KB for a channel (some 4 KB), and never more than 10 bytes an element. One read of the data.
    Of a tensor besides the distinct values, 16 bytes each, while they are at most 64: mean squared error is then exact.
    An array of at most 64 bins is read once more for them.

    References
    ----------
    S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (entropy).

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=100_000)
    >>> x[0] = 1e30
    >>> observer = HistogramObserver(dtype="int4").observe(x)
    >>> observer.qparams()
    QParams(int4, per tensor, scale=0.3538, zero_point=0)
    >>> low, high = observer.range("percentile")
    >>> bool(3.8 < high < 4.0)
    True
    """

    _learned: ClassVar[tuple[str, ...]] = (
        *Observer._learned, "offsets_", "keys_", "bins_", "values_", "times_",
    )  # fmt: skip

    offsets_: Array
    keys_: Array
    bins_: Array
    values_: Array
    times_: Array

    def __init__(
        self,
        method: str = "mse",
        percentile: float = 99.99,
        *,
        dtype: Any = "int8",
        granularity: Granularity | None = None,
        symmetric: bool = True,
        on_nonfinite: str = "ignore",
    ) -> None:
        super().__init__(dtype=dtype, granularity=granularity, symmetric=symmetric, on_nonfinite=on_nonfinite)
        owner = type(self).__name__
        _args.choice(owner, "method", method, METHODS)
        self.method = method
        self.percentile = _histogram.percentile_share(owner, percentile)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {"method": self.method, "percentile": self.percentile, **super().get_config()}

    def qparams(self, method: str | None = None) -> QParams:
        """Choose the parameters for what was seen.

        Parameters
        ----------
        method : {"minmax", "mse", "entropy", "percentile"}, optional
            Another criterion than the observer's.

        Returns
        -------
        QParams
            QParams.from_range of `range(method)`.

        Raises
        ------
        ValueError
            method is unknown.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        return self._from_range(*self._by(f"{type(self).__name__}.qparams", method)[:2])

    def range(self, method: str | None = None) -> tuple[Array, Array]:
        """Return the ends of the range that `qparams` maps onto the codes.

        Parameters
        ----------
        method : {"minmax", "mse", "entropy", "percentile"}, optional
            Another criterion than the observer's.

        Returns
        -------
        low, high : ndarrays of float64
            Of the shape of the parameters; low <= 0 <= high, except by "minmax".

        Raises
        ------
        ValueError
            method is unknown.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        return self._by(f"{type(self).__name__}.range", method)[:2]

    def error(self, method: str | None = None) -> Array:
        """Return what the chosen range costs by its own criterion.

        Parameters
        ----------
        method : {"mse", "entropy", "percentile"}, optional
            Another criterion than the observer's.

        Returns
        -------
        ndarray of float64
            Of the shape of the parameters: the mean squared error, the divergence, or the share outside.

        Raises
        ------
        ValueError
            method is unknown.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        owner = f"{type(self).__name__}.error"
        _args.choice(owner, "method", self.method if method is None else method, METHODS)
        return self._by(owner, method)[2]

    def coverage(self, method: str | None = None) -> Array:
        """Return the share of the elements inside the range.

        An affine range can leave out as many elements on either side as a percentile says. A symmetric one cannot: it
        meets the percentile of the magnitudes, and how many that leaves out is told here.

        Parameters
        ----------
        method : {"minmax", "mse", "entropy", "percentile"}, optional
            Another criterion than the observer's.

        Returns
        -------
        ndarray of float64
            Of the shape of the parameters, in [0, 1].

        Raises
        ------
        ValueError
            method is unknown.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        low, high, _ = self._by(f"{type(self).__name__}.coverage", method)
        if self.symmetric:
            high = np.maximum(-low, high)
            low = -high
        return 1 - self._errors(low[..., None], high[..., None], "percentile", None)[..., 0]

    def mse(self, qparams: QParams | None = None) -> Array:
        """Estimate the mean squared error of quantizing what was seen; outliers that no grid serves are left out.

        Parameters
        ----------
        qparams : QParams, optional
            Parameters of the observer's granularity; those it would choose by default.

        Returns
        -------
        ndarray of float64
            Of the shape of the parameters.

        Raises
        ------
        TypeError
            qparams is no QParams.
        ValueError
            qparams is of another granularity or shape than the observer's.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        owner = f"{type(self).__name__}.mse"
        self._by(owner, "minmax")
        params = self.qparams() if qparams is None else self._own(owner, qparams)
        low, high = (end[..., None] for end in params.range())
        return self._errors(low, high, "mse", params)[..., 0]

    def mean_square(self) -> Array:
        """Estimate the mean of the squares of what was seen, the signal of an SQNR; outliers as in `mse`.

        Returns
        -------
        ndarray of float64
            Of the shape of the parameters.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._by(f"{type(self).__name__}.mean_square", "minmax")
        return self._figure("square")

    def apart(self) -> tuple[Array, Array]:
        """Return which elements the search by mean squared error leaves out, as outliers that no grid serves.

        Returns
        -------
        count, magnitude : ndarrays of float64
            Of the shape of the parameters: how many, and where the bin of the smallest begins; 0 where none is.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._by(f"{type(self).__name__}.apart", "minmax")
        return self._figure("apart"), self._figure("apart_from")

    def curve(self, n: int = 256, method: str | None = None) -> tuple[Array, Array]:
        """Return thresholds and what each would cost, for a plot.

        Parameters
        ----------
        n : int, default 256
        method : {"mse", "entropy", "percentile"}, optional
            Another criterion than the observer's.

        Returns
        -------
        threshold, error : ndarrays of float64, shape (parameters' shape, n)
            Thresholds grow by equal factors from 1/16 of the chosen range to all that was seen. A threshold t is the
            range [-t, t] if symmetric; if affine, the seen range cut at -t and t. The error is the mean square, the
            divergence (inf where fewer bins than levels remain) or the share outside.

        Raises
        ------
        TypeError
            n is no integer.
        ValueError
            n is below 2, or method is unknown.
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        owner = f"{type(self).__name__}.curve"
        if _check.integer(owner, "n", n) < 2:
            raise ValueError(_check.must(owner, "n", "at least 2", str(n)))
        method = self.method if method is None else method
        _args.choice(owner, "method", method, METHODS)
        low, high, _ = self._by(owner, method)
        chosen = np.maximum(-low, high)
        whole = np.maximum(np.maximum(-self.min_, self.max_), chosen)  # what suits a float type may be wider
        tiny = np.finfo(np.float32).smallest_normal
        threshold = np.geomspace(np.maximum(chosen / 16, tiny), np.maximum(whole, tiny), n, axis=-1)
        if self.symmetric:
            return threshold, self._errors(-threshold, threshold, method, None)
        ends = (np.minimum(self.min_, 0.0)[..., None], np.maximum(self.max_, 0.0)[..., None])
        return threshold, self._errors(np.maximum(ends[0], -threshold), np.minimum(ends[1], threshold), method, None)

    def bins(self) -> Bins:
        """Return the occupied bins of all parameters, those of a parameter sorted by value.

        Returns
        -------
        Bins
            low, high (float64), counts (int64), parameter (int64), each of shape (bins,). The outermost bins end at the
            exact extremes; an element alone in one lies there.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._by(f"{type(self).__name__}.bins", "minmax")
        low, high = _histogram.bin_ends(self.keys_, self.granularity)
        owner = np.repeat(np.arange(self.offsets_.size - 1), np.diff(self.offsets_))
        first, last = self.min_.reshape(-1)[owner], self.max_.reshape(-1)[owner]
        low = np.where(low <= -(2.0**128), first, np.clip(low, first, last))
        high = np.where(high >= 2.0**128, last, np.clip(high, first, last))
        alone, positive = self.bins_ == 1, self.keys_ >= 0x8000
        low = np.where(alone & positive & (high == last), last, low)
        high = np.where(alone & ~positive & (low == first), first, high)
        return Bins(low, high, self.bins_, owner)

    # ---- what makes it an observer ----

    def _read(self, owner: str, source: Array) -> tuple[Batch, tuple[Histogram, Few]]:
        bins, (low, high, nan, infinite) = _histogram.histogram(owner, source, self.granularity)
        sums = np.concatenate([[0], np.cumsum(bins.counts)])
        batch = Batch(low, high, np.diff(sums[bins.offsets]).reshape(low.shape), nan, infinite)
        if self._seen and not self.values_.size and self.count_.any():
            return batch, (bins, nothing())  # they were too many before
        return batch, (bins, _histogram.few_values(owner, source, bins, self.granularity))

    def _batch(self) -> tuple[Batch, tuple[Histogram, Few]]:
        return super()._batch()[0], (Histogram(self.offsets_, self.keys_, self.bins_), Few(self.values_, self.times_))

    def _add(self, batch: Batch, more: tuple[Histogram, Few]) -> None:
        bins, few = more
        if self._seen:
            mine, values = self._batch()[1]
            bins = _histogram.merge(mine, bins)
            few = merge_few(values, few, (int(self.count_.sum()), int(batch.finite.sum())))
        super()._add(batch, None)
        self.offsets_, self.keys_, self.bins_ = bins
        self.values_, self.times_ = few

    def _by(self, owner: str, method: str | None) -> tuple[Array, Array, Array]:
        """Range and error by a criterion."""
        method = self.method if method is None else method
        _args.choice(owner, "method", method, CHOICES)
        self._check(owner)
        if method == "minmax":
            return self.min_, self.max_, np.zeros(self.min_.shape)
        bins, few = self._batch()[1]
        return _histogram.search(
            bins, self.min_, self.max_, granularity=self.granularity, code=self._code, symmetric=self.symmetric,
            method=method, percentile=self.percentile, values=few,
        )  # fmt: skip

    def _errors(self, low: Array, high: Array, method: str, params: QParams | None) -> Array:
        """Errors of given ranges; on the grid of `params`, if they are not the observer's own."""
        code, symmetric = self._code if params is None else params.code, self.symmetric and params is None
        qmin = params.qmin if params is not None else code.symmetric_qmin if symmetric else code.qmin
        qmax = params.qmax if params is not None else code.qmax
        bins, few = self._batch()[1]
        return _histogram.errors(
            bins, self.min_, self.max_, low, high, granularity=self.granularity, code=code, qmin=qmin, qmax=qmax,
            symmetric=symmetric, method=method, values=few,
        )  # fmt: skip

    def _own(self, owner: str, qparams: Any) -> QParams:
        """Refuse parameters of other codes or parts than the observer's."""
        if not isinstance(qparams, QParams):
            raise TypeError(_check.must(owner, "qparams", "a QParams", _check.typed(qparams)))
        if qparams.granularity != self.granularity or qparams.scale.shape != self.min_.shape:
            wanted = f"{self.granularity.describe()}, of shape {self.min_.shape}"
            raise ValueError(
                _check.must(
                    owner, "qparams", wanted, f"{qparams.granularity.describe()}, of shape {qparams.scale.shape}"
                )
            )
        return qparams

    def _figure(self, name: str) -> Array:
        """What no range changes."""
        none = np.zeros((*self.min_.shape, 1))
        return self._errors(none, none, name, None)[..., 0]

    def _restore(self, state: dict[str, Array]) -> None:
        super()._restore(state)
        if state:
            self.keys_ = self.keys_.astype(np.uint16)

    def _sound(self) -> bool:
        offsets, keys, counts = self.offsets_, self.keys_, self.bins_
        if (
            not super()._sound()
            or offsets.shape != (self.min_.size + 1,)
            or keys.ndim != 1
            or keys.shape != counts.shape
        ):
            return False
        if offsets[0] != 0 or offsets[-1] != keys.size or (np.diff(offsets) < 0).any() or (counts <= 0).any():
            return False
        owner = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        falling = (np.diff(keys) <= 0) & (np.diff(owner) == 0)
        sums = np.concatenate([[0], np.cumsum(counts)])[offsets]
        finite = ((keys >= 0x80) & (keys < 0xFF80)).all()
        if not (finite and not falling.any() and (np.diff(sums) == self.count_.reshape(-1)).all()):
            return False
        few, times = self.values_, self.times_
        if few.size == 0 or few.ndim != 1 or not isinstance(self.granularity, PerTensor):
            return bool(few.shape == times.shape == (0,))
        whole = times.shape == few.shape and times.sum() == self.count_ and (times > 0).all()
        rising = np.isfinite(few).all() and (np.diff(few) > 0).all() and few.size <= FEW
        return bool(whole and rising and few[0] == self.min_ and few[-1] == self.max_)

    def _details(self) -> list[tuple[str, str]]:
        text = f"method={self.method}"
        return [("method", text if self.method != "percentile" else f"{text} {self.percentile:g}")]
