"""An observer that keeps a histogram, and chooses the range by mean squared error, entropy or percentile."""

import contextlib
from typing import Any, ClassVar, Self

import numpy as np

from .. import _args, _check
from .._typing import Array, DType, Float64Array, HistogramMethod, Method, OnNonfinite
from ..dtypes import FloatType
from ..granularity import Granularity
from ..ops.distinct import Distinct
from ..ops.histogram import CHOICES, METHODS, Histogram, Sketch, most_values, percentile_share
from ..qparams import QParams
from .base import Observer

__all__ = ["HistogramObserver"]


class HistogramObserver(Observer):
    """Observe a histogram of the bit patterns; choose the range by mean squared error, entropy or percentile.

    A bin is a sign, an exponent and the first bits of a mantissa, 7 per tensor, 4 per channel and group. So the
    range need not be known first, no outlier is too large, and any split of the data gives the same bytes.

    Parameters
    ----------
    method : {"mse", "entropy", "percentile"}
        The criterion; docs/semantics.md states the formulas.
    percentile : float, default 99.99
        Percent of the elements inside the range, where method is "percentile": symmetric of the magnitudes, affine with
        half of the rest outside either end.
    dtype, granularity, symmetric, on_nonfinite
        As in MinMaxObserver.

    Raises
    ------
    ValueError
        method is unknown.
    TypeError
        percentile is no number.
    ValueError
        percentile is not in (0, 100].

    Notes
    -----
    By entropy, the range is erratic on fewer than some thousands of elements: most of the 2048 bins are then empty.

    Memory: 10 bytes for each occupied bin and 48 for a parameter: at most 653 KB for a tensor (some 40 KB in practice),
    82 KB for a channel (some 4 KB), and never more than 10 bytes an element.

    Distinct values are kept too, 16 bytes each, while a tensor has at most 1024 of them, a channel or group at most
    320: the mean squared error is then exact, and never larger than that of "minmax". Tensors, channels and groups with
    no more occupied bins than that are read a second time for them. `sketch` holds all of it.

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

    methods: ClassVar[tuple[HistogramMethod, ...]] = ("percentile", "entropy", "mse")
    _learned: ClassVar[tuple[str, ...]] = (
        *Observer._learned, "offsets_", "keys_", "bins_", "few_", "values_", "times_",
    )  # fmt: skip

    offsets_: Array
    keys_: Array
    bins_: Array
    few_: Array
    values_: Array
    times_: Array

    def __init__(
        self,
        method: HistogramMethod = "mse",
        percentile: float = 99.99,
        *,
        dtype: DType = "int8",
        granularity: Granularity | None = None,
        symmetric: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        super().__init__(dtype=dtype, granularity=granularity, symmetric=symmetric, on_nonfinite=on_nonfinite)
        owner = type(self).__name__
        _args.choice(owner, "method", method, METHODS)
        self.method: HistogramMethod = method
        self.percentile = percentile_share(owner, percentile)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {"method": self.method, "percentile": self.percentile, **super().get_config()}

    def qparams(self, method: Method | None = None) -> QParams:
        """Choose the parameters for the observed data.

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
        ValueError
            The range needs a scale that float32 does not hold.
        """
        return self._from_range(*self._search(f"{type(self).__name__}.qparams", method)[:2])

    def range(self, method: Method | None = None) -> tuple[Float64Array, Float64Array]:
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
        return self._search(f"{type(self).__name__}.range", method)[:2]

    @property
    def sketch(self) -> Sketch:
        """The histogram of the data, with its searches.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._check(f"{type(self).__name__}.sketch")
        return self._state()

    def error(self, method: HistogramMethod | None = None) -> Float64Array:
        """Return the cost of the chosen range by its own criterion.

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
        return self._search(owner, method)[2]

    def coverage(self, method: Method | None = None) -> Float64Array:
        """Return the share of the elements inside the range.

        By percentile an affine range leaves out the same share of the elements on either side. A symmetric range is cut
        at the percentile of the magnitudes instead, so the two shares differ.

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
        low, high, _ = self._search(f"{type(self).__name__}.coverage", method)
        if self.symmetric:
            high = np.maximum(-low, high)
            low = -high
        return self._state().coverage(low, high)

    def mse(self, qparams: QParams | None = None) -> Float64Array:
        """Estimate the mean squared error of quantizing the observed data, without the outliers that `apart` counts.

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
        CalibrationError
            Nothing was observed, or nothing finite.
        TypeError
            qparams is no QParams.
        ValueError
            qparams is of another granularity or shape than the observer's.
        """
        owner = f"{type(self).__name__}.mse"
        self._check(owner)
        return self._state().mse(self.qparams() if qparams is None else self._check_qparams(owner, qparams))

    def mean_square(self) -> Float64Array:
        """Estimate the mean of the squares of the observed data, the signal of an SQNR, without outliers as `mse`.

        Returns
        -------
        ndarray of float64
            Of the shape of the parameters.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._check(f"{type(self).__name__}.mean_square")
        return self._state().mean_square(self._code, symmetric=self.symmetric)

    def apart(self) -> tuple[Float64Array, Float64Array]:
        """Count the outliers that the search by mean squared error ignores: no grid represents them and the rest.

        Returns
        -------
        count, magnitude : ndarrays of float64
            Of the shape of the parameters: how many, and where the bin of the smallest begins; 0 where none is.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._check(f"{type(self).__name__}.apart")
        return self._state().outliers(self._code)

    def techniques(self) -> dict[str, QParams]:
        """Return the parameters that each technique would choose, by its name.

        Returns
        -------
        dict of str to QParams
            Of "minmax" and `methods`, less those that choose a range too wide for a float32 scale.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        self._check(f"{type(self).__name__}.techniques")
        params: dict[str, QParams] = {}
        for method in ("minmax", *self.methods):
            low, high, _ = self._search("", method)
            with contextlib.suppress(ValueError):
                params[method] = self._from_range(low, high)
        return params

    @property
    def label(self) -> str:
        return f"{super().label} {self.method}"

    # ---- what the base class calls ----

    @classmethod
    def _by_method(cls, method: str, percentile: float, **config: Any) -> Self:
        return cls(method, percentile, **config)  # type: ignore[arg-type]

    def _read(self, source: Array, float_type: FloatType) -> Sketch:
        return Sketch.of(source, float_type, self.granularity, lost=self._state().lost if self._seen else None)

    def _state(self) -> Sketch:
        return Sketch(
            self.granularity, Histogram(self.offsets_, self.keys_, self.bins_), self.min_, self.max_, self.count_,
            self.nan_, self.infinite_, Distinct(self.few_, self.values_, self.times_),
        )  # fmt: skip

    def _learn(self, batch: Sketch) -> None:
        if self._seen:
            batch = self._state().merge(batch)
            self.min_, self.max_ = batch.min, batch.max
            self.count_, self.nan_, self.infinite_ = batch.finite, batch.nan, batch.infinite
        else:
            super()._learn(batch)
        self.offsets_, self.keys_, self.bins_ = batch.histogram
        self.few_, self.values_, self.times_ = batch.distinct

    def _search(self, owner: str, method: str | None) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Return the ends of the range and the error by a criterion, by default the observer's."""
        method = self.method if method is None else method
        _args.choice(owner, "method", method, CHOICES)
        self._check(owner)
        return self._state().search(self._code, symmetric=self.symmetric, method=method, percentile=self.percentile)

    def _check_qparams(self, owner: str, qparams: Any) -> QParams:
        """Return `qparams`; refuse another granularity or shape than the observer's."""
        if not isinstance(qparams, QParams):
            raise TypeError(_check.must(owner, "qparams", "a QParams", _check.typed(qparams)))
        if qparams.granularity != self.granularity or qparams.scale.shape != self.min_.shape:
            wanted = f"{self.granularity.describe()}, of shape {self.min_.shape}"
            got = f"{qparams.granularity.describe()}, of shape {qparams.scale.shape}"
            raise ValueError(_check.must(owner, "qparams", wanted, got))
        return qparams

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
        parameter = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        falling = (np.diff(keys) <= 0) & (np.diff(parameter) == 0)
        sums = np.concatenate([[0], np.cumsum(counts)])[offsets]
        finite = ((keys >= 0x80) & (keys < 0xFF80)).all()
        if not (finite and not falling.any() and (np.diff(sums) == self.count_.reshape(-1)).all()):
            return False
        few, values, times = self.few_, self.values_, self.times_
        if few.shape != offsets.shape or values.ndim != 1 or values.shape != times.shape:
            return False
        if few[0] != 0 or few[-1] != values.size or (np.diff(few) < 0).any() or (times <= 0).any():
            return False
        parameter = np.repeat(np.arange(few.size - 1), np.diff(few))
        falling = (np.diff(values) <= 0) & (np.diff(parameter) == 0)
        known, ends = np.diff(few) > 0, few[:-1]
        sums = np.concatenate([[0], np.cumsum(times)])[few]
        whole = (np.diff(sums) == self.count_.reshape(-1))[known].all()
        first, last = values[ends[known]], values[few[1:][known] - 1]
        extremes = (first == self.min_.reshape(-1)[known]).all() and (last == self.max_.reshape(-1)[known]).all()
        held = np.diff(few).max(initial=0) <= most_values(self.granularity)
        return bool(np.isfinite(values).all() and not falling.any() and whole and extremes and held)

    def _details(self) -> list[tuple[str, str]]:
        text = f"method={self.method}"
        return [("method", text if self.method != "percentile" else f"{text} {self.percentile:g}")]
