"""Choose scale and zero point from the data."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _args, _check
from .._typing import Array, GridMethod, Symmetric
from ..dtypes import CodeType, FloatType
from ..errors import CalibrationError
from ..granularity import Granularity, PerTensor
from ..qparams import QParams, check_scheme, grid_of_range
from .grid_search import Levels, Scheme, hqq_grid, search_grid
from .histogram import CHOICES, Sketch, percentile_share
from .moments import SecondMoment
from .reduce import extremes
from .rounding import Rows, check_moments, check_width, importance_of, matrix_of

__all__ = ["choose_qparams"]

GRIDS = {**CHOICES, "hqq": 3}


def choose_qparams(
    x: ArrayLike,
    *,
    dtype: DTypeLike = "int8",
    granularity: Granularity | None = None,
    symmetric: Symmetric = True,
    method: GridMethod = "minmax",
    percentile: float = 99.99,
    moments: SecondMoment | None = None,
) -> QParams:
    """Choose scale and zero point from the data.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool or "full", default True
        True: as many codes above the zero point as below; False: any zero point, which the range decides; "full": all
        codes of an integer type, with one more step on the side of the largest magnitude (zero points 0 and -1 of
        int4, 8 and 7 of uint4), by the methods "minmax", "mse" and "hqq".
    method : {"minmax", "mse", "entropy", "percentile", "hqq"}
        "minmax" covers every finite element; with "full" the other side may lose a step. "mse", "entropy" and
        "percentile" choose a range by a histogram, as HistogramObserver does; "mse" with `moments` or "full" searches
        the scale and the zero point of least weighted square error. "hqq" searches those of an error that outliers
        weigh less in. These searches are for integer types of at most 8 bits.
    percentile : float, default 99.99
        Percent of the elements inside the range, for the method "percentile".
    moments : MomentsObserver, optional
        Of the inputs that x, a weight, multiplies: "mse" weighs the error of each input by its mean square. Per group
        the inputs are the grouped axis, per channel all axes but that of the channels.

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
        dtype is no code type; symmetric is neither True, False nor "full".
    ValueError
        symmetric is not True for codes that are floats; method has no full range.
    TypeError
        dtype is no integer type of at most 8 bits, for a search.
    TypeError
        percentile is no number.
    ValueError
        percentile is outside (0, 100].
    TypeError
        granularity is no granularity.
    ValueError
        x does not have the axis of the granularity.
    ValueError
        moments are beside a method other than "mse".
    TypeError, ValueError, CalibrationError
        moments is no MomentsObserver, has seen nothing, or has another number of inputs than x; granularity is neither
        PerChannel nor PerGroup beside it.
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
    return choose(owner, source, float_type, dtype, granularity, symmetric, method, percentile, moments)


def choose(
    owner: str,
    source: Array,
    float_type: FloatType,
    dtype: DTypeLike,
    granularity: Granularity | None,
    symmetric: Symmetric,
    method: str,
    percentile: float = 99.99,
    moments: SecondMoment | None = None,
) -> QParams:
    """Choose the parameters of an array whose type is settled; `owner` is the function that the user called."""
    _args.choice(owner, "method", method, GRIDS)
    plan = Plan.of(owner, source.shape, dtype, granularity, symmetric, method, moments)
    share = percentile_share(owner, percentile)
    by_histogram = method in CHOICES and method != "minmax" and not plan.searched
    if by_histogram:
        sketch = Sketch.of(source, float_type, plan.granularity)
        low, high, nan, infinite = sketch.min, sketch.max, sketch.nan, sketch.infinite
    else:
        low, high, nan, infinite = extremes(source, float_type, plan.granularity)
    low, high = finite_extremes(owner, low, high, nan, infinite)
    if by_histogram:
        low, high, _ = sketch.search(plan.code, symmetric=plan.scheme == "symmetric", method=method, percentile=share)
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if plan.searched and source.size:
        return plan.search(owner, source)
    if plan.scheme == "full":
        return _full_range(owner, low, high, plan.code, plan.granularity)
    return QParams._of_range(owner, low, high, plan.code, plan.scheme == "symmetric", plan.granularity)


class Plan(NamedTuple):
    """Checked arguments of a choice."""

    code: CodeType
    scheme: Scheme
    granularity: Granularity
    rows: Rows
    method: str
    moments: SecondMoment | None

    @classmethod
    def of(
        cls,
        owner: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        granularity: Granularity | None,
        symmetric: Symmetric,
        method: str,
        moments: SecondMoment | None,
    ) -> "Plan":
        code = _args.code(owner, dtype)
        scheme = _scheme_of(owner, code, symmetric)
        if scheme == "full" and method in ("entropy", "percentile"):
            raise ValueError(_check.must(owner, "symmetric", f"True or False for the method {method!r}", "'full'"))
        granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
        granularity.check(owner, shape)
        rows = Rows.of(granularity, shape)
        plan = cls(code, scheme, granularity, rows, method, moments)
        if moments is not None and method not in ("mse", "gptq"):
            requirement = 'left out unless the method is "mse" or "gptq"'
            raise ValueError(_check.must(owner, "moments", requirement, f"method={method!r}"))
        if plan.searched:
            check_width(owner, code, f"for the search of {method!r}")
        if moments is not None or method == "gptq":
            check_moments(owner, moments, rows)
        return plan

    @property
    def searched(self) -> bool:
        """Whether scale and zero point are searched, rather than a range."""
        weighted = self.method == "mse" and (self.moments is not None or self.scheme == "full")
        return weighted or self.method in ("hqq", "gptq")

    @property
    def levels(self) -> Levels:
        return Levels.of(self.code, self.scheme)

    def search(self, owner: str, source: Array) -> QParams:
        """Return the parameters of least error of the weight's groups."""
        w = matrix_of(owner, source, self.rows)
        if self.method == "hqq":
            scale, zero = hqq_grid(w, self.rows.group_size, self.levels)
        else:
            importance = None if self.moments is None else importance_of(self.moments)
            scale, zero = search_grid(w, importance, self.rows.group_size, self.levels)
        return self.qparams(scale, zero)

    def qparams(self, scale: Array, zero: Array) -> QParams:
        """Return scales and zero points (N, G) as the parameters of the weight."""
        levels = self.levels
        scale, zero = self.rows.params(scale), self.rows.params(zero)
        return QParams(scale, zero, self.code.name, self.granularity, levels.qmin, levels.qmax)


def _scheme_of(owner: str, code: CodeType, symmetric: Any) -> Scheme:
    """Return the scheme that `symmetric` names; refuse what a code type does not have."""
    if isinstance(symmetric, str) and symmetric == "full":
        if code.real is not None:
            raise ValueError(
                _check.must(owner, "symmetric", f"True for {code.name}, which has no zero point", "'full'")
            )
        return "full"
    if not isinstance(symmetric, bool | np.bool_):
        raise TypeError(_check.must(owner, "symmetric", "True, False or 'full'", _check.typed(symmetric)))
    check_scheme(owner, code, bool(symmetric))
    return "symmetric" if symmetric else "affine"


def _full_range(owner: str, low: Array, high: Array, code: CodeType, granularity: Granularity) -> QParams:
    """Return parameters that give the largest magnitude the code furthest from the zero point."""
    extent = np.maximum(-low, high)
    scale, _ = grid_of_range(-extent, extent, 0, code.levels, True, owner)  # extent over half the levels
    middle = code.symmetric_zero_point
    zero = np.where(high > -low, middle - 1, middle).astype(np.int32)
    return QParams(scale, zero, code.name, granularity, code.qmin, code.qmax)


def finite_extremes(owner: str, low: Array, high: Array, nan: Array, infinite: Array) -> tuple[Array, Array]:
    """Return the extremes, 0 where there is no element; refuse elements of which none is finite."""
    empty = low > high
    if empty.any():
        if nan.any() or infinite.any():
            places = "" if low.ndim == 0 else f" in {int(empty.sum())} of {low.size} channels or groups"
            raise CalibrationError(_check.must(owner, "x", "finite somewhere", f"only NaN and infinities{places}"))
        low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    return low, high
