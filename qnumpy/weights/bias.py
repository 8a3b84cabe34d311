"""Bias correction: the mean of every output stays the same when the weight is quantized."""

from typing import Any

import numpy as np

from .. import _args, _check
from .._typing import Array, RealLike
from ..arrays.base import CodedArray
from ..ops.moments import SecondMoment
from ._layers import check_inputs, matrix, rounded, vector

__all__ = ["correct_bias"]


def correct_bias(
    x: RealLike | SecondMoment,
    w: RealLike,
    q: CodedArray | RealLike,
    bias: RealLike | None = None,
    *,
    xq: RealLike | SecondMoment | None = None,
    axis: int = 0,
) -> Array:
    """Move the bias so that quantizing the weight does not shift the mean of any output.

    ``bias + mean(x) @ w - mean(xq) @ dequantize(q)``, the means over all axes but the last.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., inputs), or MomentsObserver
        Inputs of the layer, or their mean alone, of shape (inputs,), or their moments.
    w : array_like of one of those types, shape (inputs, outputs)
        The weight.
    q : QuantizedArray or another array of codes, or array_like of one of those types
        Of the shape of w: the quantized weight.
    bias : array_like of shape (outputs,), optional
        Zero by default.
    xq : array_like, shape (..., inputs), or MomentsObserver, optional
        The quantized inputs of the layer; `x` by default.
    axis : int, default 0
        The axis of w that holds the inputs; 1 for a weight of shape (outputs, inputs).

    Returns
    -------
    ndarray, shape (outputs,)
        In the dtype of `bias`, or of w without one. Computed in float64 and rounded once, half to even.

    Raises
    ------
    TypeError
        w is not real.
    ValueError
        w is no matrix.
    TypeError
        axis is no integer.
    ValueError
        axis is none of w's.
    TypeError
        q is not real.
    ValueError
        q has another shape than w.
    TypeError
        x, xq or bias is not real.
    ValueError
        The last axis of x or xq is not as long as w has inputs.
    ValueError
        The mean of x or xq is not finite.
    ValueError
        bias is not of shape (outputs,).
    ValueError
        A finite bias overflows its dtype after the correction.

    References
    ----------
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2.

    Examples
    --------
    >>> x, w = np.array([[1.0, 3.0], [3.0, 5.0]]), np.array([[1.0], [0.26]])
    >>> coarse = np.array([[1.0], [0.25]])
    >>> bias = correct_bias(x, w, coarse)
    >>> float(np.mean(x @ w)), float(np.mean(x @ coarse + bias))
    (3.04, 3.04)
    """
    owner = "correct_bias"
    weight, along = matrix(owner, w, axis)
    approximate = _reals(q) if hasattr(type(q), "dequantize") else _args.real(owner, "q", q)[0]
    if approximate.shape != weight.shape:
        raise ValueError(_check.must(owner, "q", f"of the shape {weight.shape} of w", f"shape {approximate.shape}"))
    inputs, outputs = weight.shape[along], weight.shape[1 - along]
    mean = _mean(owner, "x", x, inputs)
    quantized_mean = mean if xq is None else _mean(owner, "xq", xq, inputs)
    offset = np.zeros(outputs, weight.dtype) if bias is None else vector(owner, "bias", bias, outputs)
    exact, coarse = (np.moveaxis(array, along, 0).astype(np.float64) for array in (weight, approximate))
    # without xq both means are equal, and subtracting the weights first avoids cancellation of the products
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        shift = mean @ (exact - coarse) if xq is None else mean @ exact - quantized_mean @ coarse
    return rounded(owner, "bias", np.add, offset, shift)


def _reals(q: Any) -> Array:
    """Return what an array of codes stands for; some of their classes stand above this module."""
    return np.asarray(q.dequantize())


def _mean(owner: str, name: str, x: Any, inputs: int) -> Array:
    """Return the mean of each input channel; zero without a row."""
    if isinstance(x, SecondMoment):
        x = x.mean_ if hasattr(x, "mean_") else np.zeros((0, inputs))
    source, _ = _args.real(owner, name, x)
    check_inputs(owner, name, source, inputs)
    rows = source.reshape(-1, inputs)
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(inputs)
    if not np.isfinite(mean).all():
        raise ValueError(_check.must(owner, name, "finite", "NaN or infinities"))
    return np.asarray(mean)
