"""The observer of means: what bias correction needs of a layer's inputs."""

from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import _args
from .._typing import Array, Float64Array, Int64Array, OnNonfinite
from ..dtypes import FloatType
from ..granularity import PerChannel
from .base import Observer, Rangeless

__all__ = ["MeanObserver"]


class _Means(NamedTuple):
    total: int
    mean: Float64Array
    each: Int64Array
    nan: Int64Array
    infinite: Int64Array


class MeanObserver(Rangeless, Observer):
    """Observe the mean of each channel, of the finite elements.

    Parameters
    ----------
    axis : int, default -1
        The axis of the channels.
    on_nonfinite : {"ignore", "raise"}
        NaN and infinities are counted and left out, or refused.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (channels,)
    each_ : ndarray of int64, shape (channels,)
        Finite elements.
    count_, nan_, infinite_ : ndarray of int64, 0-d
        Elements of all channels: finite, NaN and infinite.

    Notes
    -----
    Sums of a batch are float64. The mean of all depends on the split into batches within the rounding of float64.

    Examples
    --------
    >>> observer = MeanObserver(axis=1).observe(np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> observer.mean_
    array([2., 2.])
    """

    _what: ClassVar[str] = "means"
    _learned: ClassVar[tuple[str, ...]] = ("mean_", "each_", "count_", "nan_", "infinite_")

    mean_: Float64Array
    each_: Int64Array

    def __init__(self, axis: int = -1, *, on_nonfinite: OnNonfinite = "ignore") -> None:
        _args.choice(type(self).__name__, "on_nonfinite", on_nonfinite, {"ignore": 0, "raise": 1})
        self.axis, self.on_nonfinite = axis, on_nonfinite
        self.granularity = PerChannel(axis)
        self.dtype, self.symmetric = "int8", True  # of the base class; no parameters follow from means

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {"axis": self.axis, "on_nonfinite": self.on_nonfinite}

    @property
    def _ends(self) -> tuple[Array, Array] | None:
        return (self.mean_, self.mean_) if self._seen else None

    @property
    def min_(self) -> Float64Array:  # type: ignore[override]  # the base class compares its shape
        return self.mean_

    def _read(self, source: Array, float_type: FloatType) -> _Means:
        finite = np.isfinite(source)
        over = tuple(d for d in range(source.ndim) if d != self.axis % source.ndim)
        each = np.asarray(finite.sum(axis=over, dtype=np.int64))
        sums = source.sum(axis=over, dtype=np.float64, where=finite)
        nan = int(np.isnan(source).sum())
        count = int(each.sum())
        return _Means(
            count, sums / np.maximum(each, 1), each, np.asarray(nan), np.asarray(source.size - count - nan)
        )  # fmt: skip

    def _state(self) -> _Means:
        return _Means(int(self.count_), self.mean_, self.each_, self.nan_, self.infinite_)

    def _learn(self, batch: _Means) -> None:
        if not self._seen:
            self.mean_, self.each_ = np.array(batch.mean), np.array(batch.each)
            self.count_, self.nan_, self.infinite_ = map(np.array, (batch.total, batch.nan, batch.infinite))
            return
        total = self.each_ + batch.each
        self.mean_ = self.mean_ + (batch.mean - self.mean_) * (batch.each / np.maximum(total, 1))
        self.each_, self.count_ = total, np.asarray(self.count_ + batch.total)
        self.nan_, self.infinite_ = np.asarray(self.nan_ + batch.nan), np.asarray(self.infinite_ + batch.infinite)

    def _sound(self) -> bool:
        counts = self.count_, self.nan_, self.infinite_
        shapes = self.mean_.ndim == 1 and self.mean_.shape == self.each_.shape and all(n.ndim == 0 for n in counts)
        return bool(
            shapes and np.isfinite(self.mean_).all() and (self.each_ >= 0).all() and self.each_.sum() == self.count_
        )

    def _describe(self) -> list[tuple[str, str]]:
        if not self._seen:
            return [("seen", "nothing seen")]
        return [("channels", f"{self.mean_.size:,} channels"), ("seen", f"{int(self.count_):,} seen")]
