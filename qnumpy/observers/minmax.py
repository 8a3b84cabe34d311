"""Observers of the extremes: of all arrays, or averaged over the batches."""

import math
from typing import Any, ClassVar, Self

import numpy as np

from .. import _check
from .._typing import Array, DType, OnNonfinite
from ..granularity import Granularity
from .base import Batch, Observer

__all__ = ["MinMaxObserver", "MovingAverageMinMaxObserver"]


class MinMaxObserver(Observer):
    """Observe the smallest and the largest finite element.

    Parameters
    ----------
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel or PerGroup, default PerTensor()
    symmetric : bool, default True
    on_nonfinite : {"ignore", "raise"}
        NaN and infinities are counted and left out, or refused.

    Notes
    -----
    Exact, however the data is split. The state has 40 bytes for each parameter.

    Examples
    --------
    >>> observer = MinMaxObserver(dtype="uint8", symmetric=False)
    >>> for batch in (np.array([0.0, 1.0]), np.array([[-1.0], [3.0]])):
    ...     _ = observer.observe(batch)
    >>> observer
    MinMaxObserver(uint8, per tensor, affine, min=-1, max=3, 4 seen)
    >>> observer.qparams()
    QParams(uint8, per tensor, scale=0.01569, zero_point=64)
    """

    methods: ClassVar[tuple[str, ...]] = ("minmax",)
    covers_all: ClassVar[bool] = True


class MovingAverageMinMaxObserver(Observer):
    """Observe the extremes of each batch and average them: ``min = (1 - c) min + c batch_min``.

    The first batch gives the first extremes. A batch that has no finite element for a parameter leaves that parameter
    unchanged. The result depends on the size and the order of the batches. The average is float64.

    Parameters
    ----------
    averaging_constant : float, default 0.01
        The weight c of a new batch, above 0 and at most 1.
    dtype, granularity, symmetric, on_nonfinite
        As in MinMaxObserver.

    Raises
    ------
    TypeError
        averaging_constant is no number.
    ValueError
        averaging_constant is not in (0, 1].

    Examples
    --------
    >>> observer = MovingAverageMinMaxObserver(0.5)
    >>> for batch in (np.array([-1.0, 1.0]), np.array([-3.0, 2.0])):
    ...     _ = observer.observe(batch)
    >>> observer.range()
    (array(-2.), array(1.5))
    """

    mergeable: ClassVar[bool] = False

    def __init__(
        self,
        averaging_constant: float = 0.01,
        *,
        dtype: DType = "int8",
        granularity: Granularity | None = None,
        symmetric: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        super().__init__(dtype=dtype, granularity=granularity, symmetric=symmetric, on_nonfinite=on_nonfinite)
        owner, name = type(self).__name__, "averaging_constant"
        if not _check.is_number(averaging_constant):
            raise TypeError(_check.must(owner, name, "a number", _check.typed(averaging_constant)))
        if not 0 < averaging_constant <= 1:
            raise ValueError(_check.must(owner, name, "in (0, 1]", _check.typed(averaging_constant)))
        self.averaging_constant = float(averaging_constant)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {"averaging_constant": self.averaging_constant, **super().get_config()}

    def merge(self, other: Self) -> Self:
        """Raise TypeError: an average depends on the order of the batches, and two observers have no common order.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            "MovingAverageMinMaxObserver.merge: the average depends on the order of the batches, so two cannot be "
            "merged. Use MinMaxObserver or HistogramObserver where the data is split."
        )

    def _extended(self, batch: Batch) -> tuple[Array, Array]:
        weight = self.averaging_constant
        return averaged(self.min_, batch.min, weight), averaged(self.max_, batch.max, weight)

    def _details(self) -> list[tuple[str, str]]:
        return [("averaging constant", f"averaging_constant={self.averaging_constant:g}")]


def averaged(old: Array, new: Array, weight: float) -> Array:
    """Return ``(1 - weight) old + weight new``, and the other one where one is infinite: nothing finite was seen."""
    if np.ndim(new) == 0:  # one of many steps of a training: Python's numbers are faster
        a, b = float(old), float(new)
        return np.array(a if math.isinf(b) else b if math.isinf(a) or weight == 1 else (1 - weight) * a + weight * b)
    if weight == 1:
        return np.where(np.isinf(new), old, new)
    with np.errstate(invalid="ignore"):
        mean = (1 - weight) * old + weight * new
    return np.where(np.isinf(new), old, np.where(np.isinf(old), new, mean))
