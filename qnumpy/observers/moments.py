"""The observer of moments: what rounding a weight with its inputs needs."""

from typing import Any, ClassVar, Self

import numpy as np

from .. import _args, _check
from .._typing import Array, OnNonfinite, RealLike
from ..granularity import PerChannel
from ..ops.moments import LARGEST, SecondMoment, Sums, blocks
from .base import Observer, Rangeless

__all__ = ["MomentsObserver"]


class MomentsObserver(SecondMoment, Rangeless, Observer):
    """Observe the inputs of a layer: the number of rows, their mean, and their second moment.

    ``quantize(w, method="gptq", moments=...)`` rounds a weight so that the layer's outputs change least. A row is what
    the layer multiplies: the last axis has the K inputs. Of a convolution rows are patches of the image:
    ``observer.observe(qn.weights.patches(x, (3, 3), padding=1))``.

    Parameters
    ----------
    on_nonfinite : {"ignore", "raise"}
        Rows with NaN or infinities are counted and left out, or refused.

    Attributes
    ----------
    count_ : ndarray of int64, 0-d
        Rows observed, without those left out.
    mean_ : ndarray of float64, shape (K,)
    scatter_ : ndarray of float64, shape (K, K)
        The sum over the rows of ``(x - mean)^T (x - mean)``.
    nan_, infinite_ : ndarray of int64, 0-d
        Rows left out: with a NaN; with an infinity and no NaN.

    Raises
    ------
    ValueError
        on_nonfinite is unknown.

    Notes
    -----
    The state has 8 K^2 bytes; while a batch is read, a block of 1,024 rows and its product stand beside it.

    Rows of float64 are multiplied in float64. Rows of float32, float16 and bfloat16, less their mean, are multiplied in
    float32, 1,024 at a time, and these products are added in float64: an element of the scatter differs from the exact
    one by at most ``2^-13 sqrt(s_ii s_jj)``, in practice by a hundredth of that. So the state depends on the split into
    batches and on the BLAS, within that bound; merging in one order gives the same bits.

    Examples
    --------
    >>> observer = MomentsObserver().observe([[1.0, 2.0], [3.0, 2.0]])
    >>> observer
    MomentsObserver(2 inputs, 2 rows)
    >>> observer.mean_, observer.diagonal
    (array([2., 2.]), array([5., 4.]))
    >>> observer.covariance()
    array([[1., 0.],
           [0., 0.]])
    >>> observer.covariance(centered=False)
    array([[5., 4.],
           [4., 4.]])
    """

    _what: ClassVar[str] = "moments"
    _learned: ClassVar[tuple[str, ...]] = ("mean_", "scatter_", "count_", "nan_", "infinite_")

    def __init__(self, *, on_nonfinite: OnNonfinite = "ignore") -> None:
        _args.choice(type(self).__name__, "on_nonfinite", on_nonfinite, {"ignore": 0, "raise": 1})
        self.on_nonfinite = on_nonfinite
        self.granularity = PerChannel(-1)

    def observe(self, x: RealLike) -> Self:
        """Learn from the inputs of a batch.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, shape (..., K)
            An empty array changes nothing.

        Returns
        -------
        MomentsObserver
            Itself.

        Raises
        ------
        TypeError
            x is not real.
        ValueError
            x has no axis, or another number of inputs than before.
        ValueError
            x is not finite, where on_nonfinite is "raise"; x has a magnitude above 2^500. An array that is refused
            changes nothing.
        """
        owner = f"{type(self).__name__}.observe"
        source, float_type = _args.real(owner, "x", x)
        if source.ndim == 0:
            raise ValueError(_check.must(owner, "x", "of shape (..., inputs)", "a 0-d array"))
        inputs = source.shape[-1]
        if self._seen and inputs != self.inputs:
            raise ValueError(_check.must(owner, "x", f"of {self.inputs} inputs, as before", f"shape {source.shape}"))
        if source.size == 0:
            return self
        work = np.float64 if float_type.bits == 64 else np.float32
        if self.on_nonfinite == "raise" or work is np.float64:
            self._refuse(owner, source, work)
        if not self._seen:
            self._begin(inputs)
        for block in blocks(source, work):
            self._add_rows(self._finite(block))
        return self

    def merge(self, other: Self) -> Self:
        """Add the state of another observer, as if this one had observed its rows.

        The same bits for the same order of merges; another order, or another split of the rows, differs within the
        bound of the class.

        Parameters
        ----------
        other : MomentsObserver
            Of the same configuration; it does not change.

        Returns
        -------
        MomentsObserver
            Itself.

        Raises
        ------
        TypeError
            other is no MomentsObserver.
        ValueError
            The configuration of other differs.
        ValueError
            other has another number of inputs.
        """
        return super().merge(other)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {"on_nonfinite": self.on_nonfinite}

    def __copy__(self) -> Self:
        return type(self).from_config(self.get_config()).merge(self)  # the scatter changes in place

    @property
    def _ends(self) -> tuple[Array, Array] | None:
        size = np.sqrt(self.diagonal) if self._seen else None
        return None if size is None else (-size, size)

    def _begin(self, inputs: int) -> None:
        super()._begin(inputs)
        self.nan_, self.infinite_ = np.zeros((), np.int64), np.zeros((), np.int64)

    def _refuse(self, owner: str, source: Array, work: type[np.floating]) -> None:
        """Raise for rows that the state must not learn."""
        nan = infinite = 0
        largest = 0.0
        for block in blocks(source, work):
            bad_rows = ~np.isfinite(block).all(axis=1)
            with_nan = np.isnan(block[bad_rows]).any(axis=1)
            nan, infinite = nan + int(with_nan.sum()), infinite + int((~with_nan).sum())
            largest = max(largest, float(np.abs(block[~bad_rows]).max(initial=0.0)))
        if self.on_nonfinite == "raise" and (nan or infinite):
            got = f"{nan} rows with NaN and {infinite} with infinities"
            raise ValueError(_check.must(owner, "x", 'finite when on_nonfinite is "raise"', got))
        if largest > LARGEST:
            raise ValueError(_check.must(owner, "x", "of squares that float64 sums, at most 2^500", f"{largest:.4g}"))

    def _finite(self, block: Array) -> Array:
        """Return the finite rows of a block; count the others."""
        finite = np.isfinite(block)
        if finite.all():
            return block
        good = finite.all(axis=1)
        with_nan = np.isnan(block[~good]).any(axis=1)
        self.nan_ = np.asarray(self.nan_ + int(with_nan.sum()))
        self.infinite_ = np.asarray(self.infinite_ + int((~with_nan).sum()))
        return np.ascontiguousarray(block[good])

    def _state(self) -> Any:
        return self

    def _learn(self, batch: Any) -> None:
        if not self._seen:
            self._begin(batch.inputs)
        self._add(Sums(int(batch.count_), batch.mean_, batch.scatter_))
        self.nan_, self.infinite_ = np.asarray(self.nan_ + batch.nan_), np.asarray(self.infinite_ + batch.infinite_)

    def _sound(self) -> bool:
        counts, inputs = (self.count_, self.nan_, self.infinite_), self.mean_.shape
        if len(inputs) != 1 or self.scatter_.shape != (*inputs, *inputs) or any(n.ndim or n < 0 for n in counts):
            return False
        finite = np.isfinite(self.mean_).all() and np.isfinite(self.scatter_).all()
        empty = self.count_ == 0 and (self.mean_.any() or self.scatter_.any())
        return bool(
            finite and not empty and (self.scatter_.diagonal() >= 0).all() and (self.scatter_ == self.scatter_.T).all()
        )

    def _describe(self) -> list[tuple[str, str]]:
        if not self._seen:
            return [("seen", "nothing seen")]
        lines = [("inputs", f"{self.inputs:,} inputs"), ("rows", f"{int(self.count_):,} rows")]
        if self.nan_ or self.infinite_:
            lines.append(
                ("left out", f"left out: {int(self.nan_):,} with NaN, {int(self.infinite_):,} with infinities")
            )
        return lines
