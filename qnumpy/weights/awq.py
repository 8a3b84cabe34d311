"""Activation-aware scaling: inputs of large activations get a finer part of the grid of their weight."""

from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, ArrayLike, DType, Float64Array, GridMethod, RealLike, Symmetric
from ..arrays.quantized import quantize
from ..granularity import Granularity, PerChannel, PerGroup
from ..observers.moments import MomentsObserver
from ..ops.choose import Plan
from ..ops.gptq import objective
from ..ops.moments import SecondMoment
from ..ops.rounding import check_moments, check_width, matrix_of
from ._layers import check_inputs, factors, rounded
from .smoothquant import AlphaSearch, alphas_of

__all__ = ["ScaledWeight", "awq"]

_SYMMETRIC: dict[str, Symmetric] = {"symmetric": True, "affine": False, "full": "full"}


class ScaledWeight(NamedTuple):
    """What awq returns: the weight to quantize, the divisor of each input, and the search."""

    w: Array
    scale: Array
    search: AlphaSearch


def awq(
    x: RealLike | SecondMoment,
    w: RealLike,
    granularity: Granularity,
    *,
    dtype: DType = "int4",
    symmetric: Symmetric = True,
    method: GridMethod = "mse",
    alphas: ArrayLike | None = None,
    power_of_two: bool = False,
) -> ScaledWeight:
    """Scale the inputs of a weight so that its quantized outputs change least: ``x @ w = (x / s) @ (s w)``.

    ``s_j = rms(x_j)^alpha`` with the root of the mean square of each input, divided by the geometric mean of the
    largest and the smallest of them. The alpha of least output error counts: the mean over the outputs of
    ``(q / s - w) h (q / s - w)^T``, with the second moment h of the inputs and the weight q that quantize makes of
    ``s w``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., inputs), or MomentsObserver
        Inputs of the layer, or their moments.
    w : array_like of one of those types
        The weight: a matrix, or filters of a convolution, whose rows are `patches`.
    granularity : PerChannel or PerGroup
        PerChannel(axis) of the outputs: all other axes are the inputs. PerGroup(group_size, axis): that axis is the
        inputs.
    dtype : str or dtype, default "int4"
        An integer type of at most 8 bits.
    symmetric : bool or "full", default True
    method : {"mse", "minmax", "hqq"}, default "mse"
        Of quantize.
    alphas : array_like of floats in [0, 1], optional
        The candidates; 0, 0.05, ... 1 by default.
    power_of_two : bool, default False
        Round s to powers of two: ``(x / s) @ (s w)`` then keeps every bit unless something leaves the normal range.

    Returns
    -------
    ScaledWeight
        ``(w, scale, search)``: s times w, in the dtype of w; s, float64 of shape (inputs,); the errors of all alphas.
        The layer before takes the division by s into its own weight or norm.

    Raises
    ------
    TypeError
        w is not real.
    TypeError
        dtype is no integer type of at most 8 bits; symmetric is neither True, False nor "full".
    ValueError
        method is none of the three.
    TypeError, ValueError
        granularity is neither PerChannel nor PerGroup, or w does not have its axis.
    TypeError, ValueError, CalibrationError
        x is not real, has another number of inputs than w, or no finite row.
    TypeError, ValueError
        alphas is no sequence of one number or more, or one is not in [0, 1].
    TypeError
        power_of_two is neither True nor False.
    ValueError
        w is not finite, or float32 does not hold it; a finite element of w overflows its dtype when it is multiplied.

    Notes
    -----
    The search is in float32 and float64, in an order that does not depend on ISA and threads. Of equal errors the first
    alpha counts. An input that is always zero has s = 1. Rows with NaN or infinities are left out.

    References
    ----------
    Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2024, section 3.2;
    it has the mean magnitude where this has the root of the mean square, which moments hold.

    Examples
    --------
    >>> from qnumpy import PerGroup
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(200, 64)), rng.normal(size=(8, 64))
    >>> x[:, 3] *= 20  # an outlier channel
    >>> scaled = awq(x, w, PerGroup(32))
    >>> round(scaled.search.alpha, 2), round(float(scaled.search.baseline / scaled.search.mse.min()), 1)
    (0.3, 3.1)
    """
    owner = "awq"
    source, _ = _args.real(owner, "w", w)
    _args.choice(owner, "method", method, {"mse": 0, "minmax": 1, "hqq": 2})
    plan = Plan.of(owner, source.shape, dtype, granularity, symmetric, method, None)
    check_width(owner, plan.code, "for a weight")
    if not isinstance(plan.granularity, PerChannel | PerGroup):
        wanted = "PerChannel(axis) or PerGroup(group_size)"
        raise ValueError(_check.must(owner, "granularity", wanted, _check.typed(granularity)))
    moments = _moments(owner, x, plan)
    candidates = alphas_of(owner, alphas)
    power_of_two = _check.flag(owner, "power_of_two", power_of_two)
    if not np.isfinite(source).all():
        raise ValueError(_check.must(owner, "w", "finite", "NaN or infinities"))
    matrix = matrix_of(owner, source, plan.rows, "w")
    h = moments.covariance(centered=False)
    size = np.sqrt(moments.diagonal)
    scales = [_factors(size, alpha, power_of_two) for alpha in candidates.tolist()]
    mse = np.array([_error(matrix, h, scale, plan, method) for scale in scales])
    baseline = _error(matrix, h, np.ones_like(size), plan, method)
    best = int(mse.argmin())
    scaled = rounded(owner, "w", np.multiply, plan.rows.matrix(source), scales[best])
    search = AlphaSearch(float(candidates[best]), candidates, mse, baseline)
    return ScaledWeight(plan.rows.array(scaled), scales[best], search)


def _moments(owner: str, x: Any, plan: Plan) -> SecondMoment:
    if isinstance(x, SecondMoment):
        return check_moments(owner, x, plan.rows, "x")
    source, _ = _args.real(owner, "x", x)
    check_inputs(owner, "x", source, plan.rows.columns)
    return check_moments(owner, MomentsObserver().observe(source), plan.rows, "x")


def _factors(size: Float64Array, alpha: float, power_of_two: bool) -> Float64Array:
    """Return the scale of each input; 1 for one of size 0."""
    live = size[size > 0]
    if not live.size:
        return np.ones_like(size)
    powers = np.where(size > 0, size, 1.0) ** alpha
    middle = np.sqrt(live.max() ** alpha) * np.sqrt(live.min() ** alpha)
    return np.asarray(factors(np.where(size > 0, powers, 0.0), np.full_like(size, middle), power_of_two))


def _error(w: Array, h: Float64Array, scale: Float64Array, plan: Plan, method: GridMethod) -> float:
    """Return the mean output error of the weight that is scaled, quantized and scaled back."""
    if not w.size:
        return 0.0
    with np.errstate(over="ignore"):
        scaled = (w * scale).astype(np.float32)
    if not np.isfinite(scaled).all():
        return np.inf
    rows, symmetric = plan.rows, _SYMMETRIC[plan.scheme]
    array = rows.array(scaled)
    q = quantize(array, dtype=plan.code.name, granularity=plan.granularity, symmetric=symmetric, method=method)
    codes = np.ascontiguousarray(rows.matrix(q.codes), np.int16)
    grid, zero = (np.ascontiguousarray(rows.parameters(p)) for p in (q.qparams.scale, q.qparams.zero_point))
    errors = objective(scaled, h / scale / scale[:, None], codes, grid, zero, rows.group_size)
    return float(errors.mean())
