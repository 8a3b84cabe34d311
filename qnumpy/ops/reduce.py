"""Minimum, maximum and largest magnitude, per tensor, per channel or per group."""

from typing import Any

import numpy as np

from .. import _args, _check, _core
from .._args import Array
from ..dtypes import FloatType
from ..granularity import Granularity, PerTensor, normalize_axis

__all__ = ["abs_max", "min_max"]


def min_max(x: Any, granularity: Granularity | None = None, *, on_nonfinite: str = "ignore") -> tuple[Array, Array]:
    """Return the smallest and the largest finite element of each tensor, channel or group.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    granularity : PerTensor, PerChannel or PerGroup, default PerTensor()
    on_nonfinite : {"ignore", "raise"}
        NaN and infinities are left out, or raise.

    Returns
    -------
    min, max : ndarrays of float64
        Shape ``granularity.params_shape(x.shape)``; +inf and -inf where there is no finite element.

    Raises
    ------
    TypeError
        x is not real or granularity is none.
    ValueError
        The axis does not fit x, or x is not finite and on_nonfinite="raise".

    Notes
    -----
    Exact; one read of x, no copy. A zero is +0.0.

    Examples
    --------
    >>> min_max(np.array([[1.0, -2.0], [np.nan, 3.0]], np.float32))
    (array(-2.), array(3.))
    """
    return _finite_range("min_max", x, granularity, on_nonfinite)


def abs_max(x: Any, granularity: Granularity | None = None, *, on_nonfinite: str = "ignore") -> Array:
    """Return the largest magnitude among the finite elements of each tensor, channel or group.

    Parameters
    ----------
    x, granularity, on_nonfinite
        As in min_max; so are errors and speed.

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


def _finite_range(owner: str, x: Any, granularity: Granularity | None, on_nonfinite: str) -> tuple[Array, Array]:
    refuse = _args.choice(owner, "on_nonfinite", on_nonfinite, {"ignore": 0, "raise": 1})
    low, high, nan, infinite = ranges(owner, x, granularity)
    if refuse and (nan.any() or infinite.any()):
        got = f"{int(nan.sum())} NaN and {int(infinite.sum())} infinities"
        raise ValueError(_check.must(owner, "x", 'finite when on_nonfinite is "raise"', got))
    return low, high


def ranges(owner: str, x: Any, granularity: Granularity | None) -> tuple[Array, Array, Array, Array]:
    """min, max, NaN count and infinity count in the shape of the parameters."""
    granularity = PerTensor() if granularity is None else granularity
    _args.granularity(owner, granularity)
    source, real = _args.real(owner, "x", x)
    if granularity.axis is not None:
        normalize_axis(owner, granularity.axis, source.ndim)
    return extremes(source, real, granularity)


def extremes(source: Array, float_type: FloatType, granularity: Granularity) -> tuple[Array, Array, Array, Array]:
    """Return what `ranges` does of an array whose type is known and that the granularity's axis fits."""
    shape, order = granularity.params_shape(source.shape), _args.memory_order(source, None)
    if order is not None:
        granularity = granularity.permuted(order, source.shape)
        source = source.transpose(order)
    parts: tuple[Array, ...] = _core.min_max(
        _args.stored(source, float_type.storage), float_type.core, *granularity.grid(source.shape)
    )
    if order is not None and granularity.params_ndim() is None:  # the parameters have the axes of the array
        axes = granularity.params_shape(source.shape)
        parts = tuple(_args.unpermuted(part.reshape(axes), order) for part in parts)
    return tuple(part.reshape(shape) for part in parts)  # type: ignore[return-value]
