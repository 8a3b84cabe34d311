"""Choose scale and zero point from the data."""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _args, _check
from .._typing import Array, Method
from ..dtypes import FloatType
from ..errors import CalibrationError
from ..granularity import Granularity, PerTensor
from ..qparams import QParams, check_scheme
from .histogram import CHOICES, Sketch, percentile_share
from .reduce import extremes

__all__ = ["choose_qparams"]


def choose_qparams(
    x: ArrayLike,
    *,
    dtype: DTypeLike = "int8",
    granularity: Granularity | None = None,
    symmetric: bool = True,
    method: Method = "minmax",
    percentile: float = 99.99,
) -> QParams:
    """Choose scale and zero point from the data.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool, default True
    method : {"minmax", "mse", "entropy", "percentile"}
        "minmax" covers every finite element. The others choose a range by a histogram, as HistogramObserver does.
    percentile : float, default 99.99
        Percent of the elements inside the range, for the method "percentile".

    Returns
    -------
    QParams

    Raises
    ------
    TypeError
        x is not real.
    ValueError
        method is unknown.
    TypeError
        dtype is no code type; symmetric is neither True nor False.
    ValueError
        symmetric is False for codes that are floats.
    TypeError
        percentile is no number.
    ValueError
        percentile is outside (0, 100].
    TypeError
        granularity is no granularity.
    ValueError
        x does not have the axis of the granularity.
    CalibrationError
        x has elements, but none is finite.
    ValueError
        The range needs a scale that float32 does not hold.

    Notes
    -----
    The range is exact and always holds 0; the scale is computed in float64 and rounded once to float32, half to even.
    NaN and infinities do not take part.

    Examples
    --------
    >>> from qnumpy import PerChannel
    >>> choose_qparams(np.array([[1.0, -2.54], [0.5, 0.0]]), granularity=PerChannel(0)).scale
    array([0.02      , 0.00393701], dtype=float32)
    """
    owner = "choose_qparams"
    source, float_type = _args.real(owner, "x", x)
    return choose(owner, source, float_type, dtype, granularity, symmetric, method, percentile)


def choose(
    owner: str,
    source: Array,
    float_type: FloatType,
    dtype: DTypeLike,
    granularity: Granularity | None,
    symmetric: bool,
    method: str,
    percentile: float = 99.99,
) -> QParams:
    """Choose the parameters of an array whose type is settled; `owner` is the function that the user called."""
    by_histogram = _args.choice(owner, "method", method, CHOICES) >= 0
    code = _args.code(owner, dtype)
    check_scheme(owner, code, symmetric)
    share = percentile_share(owner, percentile)
    granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
    granularity.check(owner, source.shape)
    if by_histogram:
        sketch = Sketch.of(source, float_type, granularity)
        low, high, nan, infinite = sketch.min, sketch.max, sketch.nan, sketch.infinite
    else:
        low, high, nan, infinite = extremes(source, float_type, granularity)
    low, high = finite_extremes(owner, low, high, nan, infinite)
    if by_histogram:
        low, high, _ = sketch.search(code, symmetric=symmetric, method=method, percentile=share)
    return QParams._of_range(owner, np.minimum(low, 0.0), np.maximum(high, 0.0), code, symmetric, granularity)


def finite_extremes(owner: str, low: Array, high: Array, nan: Array, infinite: Array) -> tuple[Array, Array]:
    """Return the extremes, 0 where there is no element; refuse elements of which none is finite."""
    empty = low > high
    if empty.any():
        if nan.any() or infinite.any():
            places = "" if low.ndim == 0 else f" in {int(empty.sum())} of {low.size} channels or groups"
            raise CalibrationError(_check.must(owner, "x", "finite somewhere", f"only NaN and infinities{places}"))
        low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    return low, high
