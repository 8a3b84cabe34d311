"""SmoothQuant: a factor for each input channel moves outliers of a layer's input into its weight."""

from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, ArrayLike, DType, RealLike
from ..arrays.quantized import quantize
from ..granularity import Granularity, PerChannel, PerTensor, granularity
from ._layers import along_axis, check_inputs, factors, largest_magnitudes, matrix, rounded, weight_axis

__all__ = ["AlphaSearch", "Smoothed", "smoothquant", "smoothquant_alpha"]


class Smoothed(NamedTuple):
    """What smoothquant returns: the weight to quantize, and the divisor of each input channel."""

    w: Array
    scale: Array


class AlphaSearch(NamedTuple):
    """What smoothquant_alpha returns: the best alpha, all alphas with their errors, and the error with s = 1."""

    alpha: float
    alphas: Array
    mse: Array
    baseline: float


def smoothquant(x: RealLike, w: RealLike, *, alpha: float = 0.5, axis: int = 0, power_of_two: bool = False) -> Smoothed:
    """Move outliers of the input into the weight: ``x @ w = (x / s) @ (s w)`` with a factor for each input channel.

    ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)``: alpha = 0 gives the channels of the weight one range, 1
    those of the input, and 0.5 makes the ranges of both equal.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., inputs)
        Inputs of the layer, or the largest magnitude of each channel, of shape (inputs,).
    w : array_like of one of those types
        The weight; it may have any number of axes.
    alpha : float, default 0.5
        In [0, 1].
    axis : int, default 0
        The axis of w that holds the inputs; 1 for a weight of shape (outputs, inputs).
    power_of_two : bool, default False
        Round s to powers of two: ``(x / s) @ (s w)`` then keeps every bit unless something leaves the normal range.

    Returns
    -------
    Smoothed
        ``(w, scale)``: s times w, in the dtype of w, and s, float64 of shape (inputs,). The layer before takes the
        division by s into its own weight or norm.

    Raises
    ------
    TypeError
        x or w is not real.
    TypeError
        axis is no integer.
    ValueError
        axis is none of w's.
    ValueError
        The last axis of x is not as long as w has inputs.
    ValueError
        alpha is not in [0, 1].
    ValueError
        A finite element of w overflows its dtype when it is multiplied by s.

    Notes
    -----
    Computed in float64, rounded once, half to even. Maxima ignore NaN and infinities; a channel of x or w whose maximum
    is 0 has s = 1; s stays in float32's normal range, from 2^-126 to 2^127.

    References
    ----------
    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023,
    equation 4.

    Examples
    --------
    >>> w, scale = smoothquant(np.array([[16.0, 0.25]]), np.array([[1.0, -1.0], [0.25, 1.0]]))
    >>> w
    array([[ 4.   , -4.   ],
           [ 0.125,  0.5  ]])
    >>> scale
    array([4. , 0.5])
    """
    owner = "smoothquant"
    source, _ = _args.real(owner, "x", x)
    weight, _ = _args.real(owner, "w", w)
    along = weight_axis(owner, "axis", axis, weight)
    check_inputs(owner, "x", source, weight.shape[along])
    exponent, power_of_two = _alpha(owner, "alpha", alpha), _check.flag(owner, "power_of_two", power_of_two)
    scale = _migration(largest_magnitudes(source, -1), largest_magnitudes(weight, along), exponent, power_of_two)
    return Smoothed(rounded(owner, "w", np.multiply, weight, along_axis(scale, along, weight)), scale)


def smoothquant_alpha(
    x: RealLike,
    w: RealLike,
    alphas: ArrayLike | None = None,
    *,
    axis: int = 0,
    dtype: DType = "int8",
    x_granularity: Granularity | None = None,
    w_granularity: Granularity | None = None,
) -> AlphaSearch:
    """Search the alpha of smoothquant whose quantized layer is nearest to the real one.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., inputs)
        Inputs of the layer.
    w : array_like of one of those types, shape (inputs, outputs)
    alphas : array_like of floats in [0, 1], optional
        The candidates; 0, 0.05, ... 1 by default.
    axis : int, default 0
        The axis of w that holds the inputs; 1 for a weight of shape (outputs, inputs).
    dtype : str or dtype, default "int8"
        The code type of x and w.
    x_granularity, w_granularity : Granularity, optional
        Of x, as a matrix of shape (rows, inputs), and of w; both are symmetric. By default PerTensor() for x and a
        scale for each output for w.

    Returns
    -------
    AlphaSearch
        ``(alpha, alphas, mse, baseline)``; mse is the mean squared difference of ``x @ w`` before and after quantizing
        both, baseline the same without smoothing. Of equal errors the first alpha counts.

    Raises
    ------
    TypeError
        x or w is not real.
    ValueError
        w is no matrix.
    TypeError
        axis is no integer.
    ValueError
        axis is none of w's.
    ValueError
        The last axis of x is not as long as w has inputs.
    TypeError, ValueError
        alphas is no sequence of one number or more.
    ValueError
        An alpha is not in [0, 1].
    ValueError
        x or w is not finite.
    ValueError
        The largest magnitudes of a channel, or their product, overflow float32.
    TypeError
        dtype is no code type, or x_granularity or w_granularity no granularity.
    ValueError
        A granularity does not fit its array.

    Notes
    -----
    One product of matrices for each alpha, in float64.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(64, 32)), rng.normal(size=(32, 8))
    >>> x[:, 3] *= 50  # an outlier channel, as in transformers
    >>> search = smoothquant_alpha(x, w)
    >>> search.alpha, round(search.baseline / search.mse.min())
    (0.65, 25)
    """
    owner = "smoothquant_alpha"
    source, _ = _args.real(owner, "x", x)
    weight, along = matrix(owner, w, axis)
    check_inputs(owner, "x", source, weight.shape[along])
    candidates = np.linspace(0, 1, 21) if alphas is None else np.atleast_1d(_check.reals(owner, "alphas", alphas))
    if candidates.ndim != 1 or not candidates.size:
        raise ValueError(_check.must(owner, "alphas", "a sequence of one number or more", f"shape {candidates.shape}"))
    candidates = np.array([_alpha(owner, "alphas", alpha) for alpha in candidates.tolist()])
    code = _args.code(owner, dtype)
    per_x = granularity(owner, PerTensor() if x_granularity is None else x_granularity, "x_granularity")
    per_w = granularity(owner, PerChannel(1 - along) if w_granularity is None else w_granularity, "w_granularity")
    rows, wide = source.reshape(-1, source.shape[-1]).astype(np.float64), weight.astype(np.float64)
    per_x.check(owner, rows.shape)
    per_w.check(owner, wide.shape)
    for name, values in (("x", rows), ("w", wide)):
        if not np.isfinite(values).all():
            raise ValueError(_check.must(owner, name, "finite", "NaN or infinities"))
    widest_x, widest_w = largest_magnitudes(rows, 1), largest_magnitudes(wide, along)
    with np.errstate(over="ignore"):
        largest = np.max([widest_x, widest_w, widest_x * widest_w], initial=0.0)
    if largest > _check.HUGE:
        raise ValueError(
            _check.must(owner, "x and w", "of ranges that float32 holds, and their product", f"{largest:.4g}")
        )
    exact = rows @ np.moveaxis(wide, along, 0)

    def error(scale: Array) -> float:
        xq = quantize(rows / scale, dtype=code.name, granularity=per_x)
        wq = quantize(wide * along_axis(scale, along, wide), dtype=code.name, granularity=per_w)
        product = xq.dequantize("float64") @ np.moveaxis(wq.dequantize("float64"), along, 0)
        return float(np.mean(np.square(product - exact))) if exact.size else 0.0

    mse = np.array([error(_migration(widest_x, widest_w, alpha, False)) for alpha in candidates.tolist()])
    return AlphaSearch(float(candidates[mse.argmin()]), candidates, mse, error(np.ones_like(widest_x)))


def _alpha(owner: str, name: str, value: Any) -> float:
    if not (_check.is_number(value) and 0 <= value <= 1):
        raise ValueError(_check.must(owner, name, "in [0, 1]", _check.typed(value)))
    return float(value)


def _migration(x: Array, w: Array, alpha: float, power_of_two: bool) -> Array:
    dead = (x == 0) | (w == 0)
    return factors(np.where(dead, 0.0, x**alpha), w ** (1 - alpha), power_of_two)
