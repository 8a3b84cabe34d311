"""Minimum, maximum and largest magnitude, per tensor, channel, group or row."""

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check, _core
from .._typing import Array, Float64Array, OnNonfinite
from ..dtypes import FloatType
from ..granularity import Granularity, PerTensor

__all__ = ["abs_max", "min_max"]


def min_max(
    x: ArrayLike, granularity: Granularity | None = None, *, on_nonfinite: OnNonfinite = "ignore"
) -> tuple[Float64Array, Float64Array]:
    """Return the smallest and the largest finite element of each tensor, channel, group or row.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    on_nonfinite : {"ignore", "raise"}
        Whether NaN and infinities are ignored.

    Returns
    -------
    min, max : ndarrays of float64
        Shape ``granularity.params_shape(x.shape)``; +inf and -inf where there is no finite element.

    Raises
    ------
    ValueError
        on_nonfinite is unknown.
    TypeError
        granularity is no granularity; x is not real.
    ValueError
        x does not have the axis of the granularity.
    ValueError
        on_nonfinite is "raise" and x holds NaN or infinities.

    Notes
    -----
    Exact; one read of x, no copy. A zero is +0.0.

    Examples
    --------
    >>> min_max(np.array([[1.0, -2.0], [np.nan, 3.0]], np.float32))
    (array(-2.), array(3.))
    """
    return _finite_range("min_max", x, granularity, on_nonfinite)


def abs_max(
    x: ArrayLike, granularity: Granularity | None = None, *, on_nonfinite: OnNonfinite = "ignore"
) -> Float64Array:
    """Return the largest magnitude among the finite elements of each tensor, channel, group or row.

    Parameters
    ----------
    x, granularity, on_nonfinite
        As in min_max, with the same errors.

    Returns
    -------
    ndarray of float64
        Shape ``granularity.params_shape(x.shape)``; -inf where there is no finite element.

    Examples
    --------
    >>> abs_max(np.array([1.0, -2.0], np.float32))
    array(2.)
    """
    low, high = _finite_range("abs_max", x, granularity, on_nonfinite)
    return np.asarray(np.where(low > high, -np.inf, np.maximum(-low, high)))


def _finite_range(
    owner: str, x: ArrayLike, granularity: Granularity | None, on_nonfinite: str
) -> tuple[Float64Array, Float64Array]:
    refuse = _args.choice(owner, "on_nonfinite", on_nonfinite, {"ignore": 0, "raise": 1})
    low, high, nan, infinite = ranges(owner, x, granularity)
    if refuse and (nan.any() or infinite.any()):
        got = f"{int(nan.sum())} NaN and {int(infinite.sum())} infinities"
        raise ValueError(_check.must(owner, "x", 'finite when on_nonfinite is "raise"', got))
    return low, high


def ranges(owner: str, x: ArrayLike, granularity: Granularity | None) -> tuple[Array, Array, Array, Array]:
    """Return min, max, NaN count and infinity count in the shape of the parameters."""
    granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
    source, float_type = _args.real(owner, "x", x)
    granularity.check(owner, source.shape)
    return extremes(source, float_type, granularity)


def extremes(source: Array, float_type: FloatType, granularity: Granularity) -> tuple[Array, Array, Array, Array]:
    """Return the same as `ranges`, for an array whose type and axis are checked."""
    order = _args.memory_order(source)
    permuted = granularity
    if order is not None:
        permuted, source = granularity.permuted(order, source.shape), source.transpose(order)
    parts = _core.min_max(source, float_type.core, *permuted.grid(source.shape))
    shape = permuted.params_shape(source.shape)
    if order is None:
        return tuple(part.reshape(shape) for part in parts)  # type: ignore[return-value]
    return tuple(granularity.unpermute(part.reshape(shape), order) for part in parts)  # type: ignore[return-value]
