"""GPTQ: codes that change the outputs of a layer least, and the bias that keeps their mean."""

import math
from typing import NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, DType, Float64Array, RealLike, Symmetric
from ..arrays.mx import MX_FORMATS
from ..arrays.quantized import QuantizedArray, rounded
from ..granularity import Granularity
from ..ops.choose import Plan
from ..ops.moments import SecondMoment
from ..ops.rounding import check_damping
from ._layers import rounded as rounded_once
from ._layers import vector

__all__ = ["RoundedWeight", "gptq"]


class RoundedWeight(NamedTuple):
    """What gptq returns: the quantized weight, the corrected bias, and the objective of each output.

    `before` is that of round-to-nearest on the grid that was searched first, `after` that of the codes in q.
    """

    q: QuantizedArray
    bias: Array
    before: Float64Array
    after: Float64Array


def gptq(
    w: RealLike,
    moments: SecondMoment,
    granularity: Granularity,
    *,
    dtype: DType = "int4",
    symmetric: Symmetric = True,
    bias: RealLike | None = None,
    centered: bool = True,
    damping: float = 0.1,
) -> RoundedWeight:
    """Round a weight by the moments of its inputs, to the codes that change the outputs of the layer least.

    The objective of an output is the mean square of its change over the rows of the inputs, ``(q - w) h (q - w)^T``
    with their second moment h, plus `damping` times the mean square of an input times ``|q - w|^2``. The bias takes
    what the mean of the inputs loses, ``bias + (w - q) mean``, so h is taken about that mean. The `method` "gptq" of
    quantize is for layers without a bias.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16
        The weight: a matrix, or filters of a convolution, of shape (outputs, inputs / groups, kH, kW).
    moments : MomentsObserver
        Of the rows that w multiplies; of a convolution the rows are `patches`.
    granularity : PerChannel or PerGroup
        PerChannel(axis) of the outputs: all other axes are the inputs. PerGroup(group_size, axis): that axis is the
        inputs.
    dtype : str or dtype, default "int4"
        An integer type of at most 8 bits.
    symmetric : bool or "full", default True
        As in choose_qparams.
    bias : array_like of shape (outputs,), optional
        Zero by default.
    centered : bool, default True
        False: the bias stays as it is, and h is taken about zero.
    damping : float, default 0.1
        At most 1,000,000, which rounds to nearest. More keeps the codes nearer to w, where there are few rows.

    Returns
    -------
    RoundedWeight
        ``(q, bias, before, after)``. The bias has the dtype of `bias`, or of w without one, computed in float64 and
        rounded once, half to even. before and after are float64, one for each output.

    Raises
    ------
    TypeError
        w is not real.
    TypeError
        dtype is no integer type of at most 8 bits; symmetric is neither True, False nor "full".
    TypeError, ValueError
        granularity is neither PerChannel nor PerGroup, or w does not have its axis.
    TypeError, ValueError, CalibrationError
        moments is no MomentsObserver, has another number of inputs than w, or has seen nothing.
    ValueError
        damping is no number in [0, 1000000].
    TypeError
        centered is neither True nor False.
    TypeError, ValueError
        bias is not real, or not of shape (outputs,).
    ValueError
        w is not finite, or float32 does not hold it.
    ValueError
        A finite bias overflows its dtype after the correction.

    Notes
    -----
    The grid of every group is searched, weighted by the mean squares of the inputs. GPTQ rounds column by column, in
    descending order of the mean square; an output whose codes are no better than the nearest ones keeps these. Then
    coordinate descent changes single codes until none lowers the objective. In groups this starts a second time with
    grids that are searched when GPTQ meets the group, and the better of both goes on. Scales are fitted by least
    squares, descent follows, and both are repeated. w is rounded to float32 first. The same w and moments give the same
    bits on every ISA and thread count.

    References
    ----------
    Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023.

    Examples
    --------
    >>> from qnumpy import MomentsObserver, PerChannel
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 32)) @ rng.normal(size=(32, 32)) + 1
    >>> w, bias = rng.normal(size=(8, 32)), rng.normal(size=8)
    >>> result = gptq(w, MomentsObserver().observe(x), PerChannel(0), bias=bias)
    >>> round(float(result.after.sum() / result.before.sum()), 2)
    0.59
    >>> y = x @ result.q.dequantize().T + result.bias
    >>> bool(np.allclose(y.mean(axis=0), (x @ w.T + bias).mean(axis=0)))
    True
    """
    owner = "gptq"
    source, _ = _args.real(owner, "w", w)
    _args.code(owner, dtype, more=MX_FORMATS)
    plan = Plan.of(owner, source.shape, dtype, granularity, symmetric, "gptq", moments)
    damping = check_damping(owner, damping)
    centered = _check.flag(owner, "centered", centered)
    outputs = plan.rows.moved[: plan.rows.leading]
    count = math.prod(outputs)
    offset = np.zeros(count, source.dtype) if bias is None else vector(owner, "bias", bias, count)
    q, result = rounded(owner, "w", source, plan, centered=centered, damping=damping)
    if result is None:
        return RoundedWeight(q, offset, np.zeros(outputs), np.zeros(outputs))
    if centered:
        change = plan.rows.matrix(source).astype(np.float64) - plan.rows.matrix(q.dequantize("float64"))
        offset = rounded_once(owner, "bias", np.add, offset, change @ moments.mean_)
    return RoundedWeight(q, offset, result.before.reshape(outputs), result.after.reshape(outputs))
