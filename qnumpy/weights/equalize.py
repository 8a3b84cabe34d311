"""Tools that make the layers of a network easier to quantize and leave what it computes: equalization, bias, migration.

They work on bare arrays; a layer is ``y = x @ w + bias`` with w of shape (inputs, outputs), or any other layout with
its axes given.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check
from .._args import Array
from ..arrays.quantized import QuantizedArray, quantize
from ..granularity import Granularity, PerChannel, PerTensor, normalize_axis
from ..ops.reduce import abs_max

__all__ = [
    "AlphaSearch",
    "Equalized",
    "Smoothed",
    "correct_bias",
    "cross_layer_equalize",
    "smoothquant",
    "smoothquant_alpha",
]


_LARGEST = 2.0**127  # of a factor, 2**-126 the smallest: float32 holds both, and powers of two stay inside


class Equalized(NamedTuple):
    """What cross_layer_equalize returns: the two weights, the first bias, and the factor of each channel."""

    w1: Array
    w2: Array
    bias: Array | None
    scale: Array


class Smoothed(NamedTuple):
    """What smoothquant returns: the weight to quantize, and what to divide its input by, for each input channel."""

    w: Array
    scale: Array


class AlphaSearch(NamedTuple):
    """What smoothquant_alpha returns: the best alpha, every alpha tried with its error, and the error with s = 1."""

    alpha: float
    alphas: Array
    mse: Array
    baseline: float


def cross_layer_equalize(
    w1: Any, w2: Any, bias: Any = None, *, axis1: int = -1, axis2: int = 0, power_of_two: bool = False
) -> Equalized:
    """Give the outputs of one layer and the inputs of the next the same range, channel by channel.

    Between the two may stand nothing or a function with ``f(s x) = s f(x)`` for s > 0, as ReLU. With r1 and r2 the
    largest magnitudes of a channel in both weights, ``s = sqrt(r1 / r2)``; w1 and its bias are divided by s, w2 is
    multiplied by it, and both ranges become ``sqrt(r1 r2)``.

    Parameters
    ----------
    w1, w2 : array_like of float32, float64, float16 or bfloat16
        The weight of a layer, and that of the layer its outputs go to; matrices or kernels of convolutions.
    bias : array_like of shape (channels,), optional
        That of the first layer.
    axis1 : int, default -1
        The axis of w1 that holds its outputs.
    axis2 : int, default 0
        The axis of w2 that holds its inputs, as long as `axis1`. Weights of shape (outputs, inputs) have
        ``axis1=0, axis2=1``.
    power_of_two : bool, default False
        Round s to powers of two: the ranges then agree within a factor of two, and the network's results keep every
        bit unless something leaves the normal range.

    Returns
    -------
    Equalized
        ``(w1, w2, bias, scale)``, in the dtypes given; scale is float64, of shape (channels,).

    Raises
    ------
    TypeError
        A weight or the bias is not real.
    ValueError
        An axis does not fit, the numbers of channels differ, or a finite number of a result is beyond its dtype.

    Notes
    -----
    Computed in float64, rounded once. A channel that is zero in one of the weights keeps s = 1; s stays in float32's
    normal range, from 2^-126 to 2^127. A chain of layers is equalized by going through its pairs until the scales are
    near 1.

    References
    ----------
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1.

    Examples
    --------
    >>> w1, w2, bias, scale = cross_layer_equalize([[8.0, 1.0]], [[2.0], [4.0]], [1.0, 1.0])
    >>> w1, w2.T, bias, scale
    (array([[4., 2.]]), array([[4., 2.]]), array([0.5, 2. ]), array([2. , 0.5]))
    """
    owner = "cross_layer_equalize"
    first, _ = _args.real(owner, "w1", w1)
    second, _ = _args.real(owner, "w2", w2)
    along1, along2 = _axis(owner, "axis1", axis1, first), _axis(owner, "axis2", axis2, second)
    channels = first.shape[along1]
    if second.shape[along2] != channels:
        wanted = f"of {channels} channels on axis {along2}, as w1 has on axis {along1}"
        raise ValueError(_check.must(owner, "w2", wanted, f"shape {second.shape}"))
    offset = None if bias is None else _vector(owner, "bias", bias, channels)
    r1, r2 = _widest(first, along1), _widest(second, along2)
    scale = _factors(np.sqrt(r1), np.sqrt(r2), power_of_two)
    return Equalized(
        _rounded(owner, "w1", np.divide, first, _along(scale, along1, first)),
        _rounded(owner, "w2", np.multiply, second, _along(scale, along2, second)),
        None if offset is None else _rounded(owner, "bias", np.divide, offset, scale),
        scale,
    )


def correct_bias(x: Any, w: Any, q: Any, bias: Any = None, *, xq: Any = None, axis: int = 0) -> Array:
    """Move the bias so that quantizing the weight does not shift the mean of any output.

    ``bias + mean(x) @ w - mean(xq) @ dequantize(q)``, the means over all axes but the last.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., inputs)
        Inputs of the layer, or their mean alone, of shape (inputs,).
    w : array_like of one of those types, shape (inputs, outputs)
        The weight.
    q : QuantizedArray, or array_like of one of those types
        Of the shape of w: the weight that will be used.
    bias : array_like of shape (outputs,), optional
        Zero by default.
    xq : array_like, shape (..., inputs), optional
        The inputs that the layer will see, when they are quantized too; those of `x` by default.
    axis : int, default 0
        The axis of w that holds the inputs; 1 for a weight of shape (outputs, inputs).

    Returns
    -------
    ndarray, shape (outputs,)
        In the dtype of `bias`, or of w without one; float64 inside, rounded once.

    Raises
    ------
    TypeError
        An array is not real.
    ValueError
        Shapes or the axis do not fit, the mean of the inputs is not finite, or a finite result is beyond the dtype.

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
    weight, along = _matrix(owner, w, axis)
    approximate = q.dequantize() if isinstance(q, QuantizedArray) else _args.real(owner, "q", q)[0]
    if approximate.shape != weight.shape:
        raise ValueError(_check.must(owner, "q", f"of the shape {weight.shape} of w", f"shape {approximate.shape}"))
    inputs, outputs = weight.shape[along], weight.shape[1 - along]
    mean = _mean(owner, "x", x, inputs)
    seen = mean if xq is None else _mean(owner, "xq", xq, inputs)
    offset = np.zeros(outputs, weight.dtype) if bias is None else _vector(owner, "bias", bias, outputs)
    wide, narrow = (np.moveaxis(each, along, 0).astype(np.float64) for each in (weight, approximate))
    # one difference where it can be: its terms do not cancel
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        shift = mean @ (wide - narrow) if xq is None else mean @ wide - seen @ narrow
    return _rounded(owner, "bias", np.add, offset, shift)


def smoothquant(x: Any, w: Any, *, alpha: float = 0.5, axis: int = 0, power_of_two: bool = False) -> Smoothed:
    """Move outliers of the input into the weight: ``x @ w = (x / s) @ (s w)`` with a factor for each input channel.

    ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)``: alpha = 0 makes the weight flat, 1 the input, 0.5 shares.

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
    ValueError
        Shapes or the axis do not fit, alpha is outside [0, 1], or a finite number of s w is beyond the dtype of w.

    Notes
    -----
    Computed in float64, rounded once. NaN and infinities take no part in a maximum; where x or w has none but zeros,
    s = 1; s stays in float32's normal range, from 2^-126 to 2^127.

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
    along = _axis(owner, "axis", axis, weight)
    _inputs(owner, "x", source, weight.shape[along])
    scale = _migration(_widest(source, -1), _widest(weight, along), _alpha(owner, "alpha", alpha), power_of_two)
    return Smoothed(_rounded(owner, "w", np.multiply, weight, _along(scale, along, weight)), scale)


def smoothquant_alpha(
    x: Any,
    w: Any,
    alphas: Any = None,
    *,
    axis: int = 0,
    dtype: Any = "int8",
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
        What to try; 0, 0.05, ... 1 by default.
    axis : int, default 0
        The axis of w that holds the inputs; 1 for a weight of shape (outputs, inputs).
    dtype : str or dtype, default "int8"
        That of the codes of both.
    x_granularity, w_granularity : Granularity, optional
        How x, as a matrix of shape (rows, inputs), and w are quantized, both symmetric: PerTensor(), and one scale for
        each output, by default.

    Returns
    -------
    AlphaSearch
        ``(alpha, alphas, mse, baseline)``; mse is the mean squared difference of ``x @ w`` before and after quantizing
        both, baseline the same without smoothing. Of equal ones the smallest alpha wins.

    Raises
    ------
    TypeError
        x or w is not real, dtype no code type.
    ValueError
        Shapes or the axis do not fit, an alpha is outside [0, 1], x or w is not finite, or the largest magnitudes of a
        channel or their product are beyond float32.

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
    weight, along = _matrix(owner, w, axis)
    _inputs(owner, "x", source, weight.shape[along])
    tried = np.linspace(0, 1, 21) if alphas is None else np.atleast_1d(_check.reals(owner, "alphas", alphas))
    if tried.ndim != 1 or not tried.size:
        raise ValueError(_check.must(owner, "alphas", "a sequence of one number or more", f"shape {tried.shape}"))
    tried = np.array([_alpha(owner, "alphas", each) for each in tried.tolist()])
    per_x = PerTensor() if x_granularity is None else x_granularity
    per_w = PerChannel(1 - along) if w_granularity is None else w_granularity
    rows, wide = source.reshape(-1, source.shape[-1]).astype(np.float64), weight.astype(np.float64)
    for name, values in (("x", rows), ("w", wide)):
        if not np.isfinite(values).all():
            raise ValueError(_check.must(owner, name, "finite", "NaN or infinities"))
    widest_x, widest_w = _widest(rows, 1), _widest(wide, along)
    with np.errstate(over="ignore"):
        most = np.max([widest_x, widest_w, widest_x * widest_w], initial=0.0)
    if most > _check.HUGE:
        raise ValueError(
            _check.must(owner, "x and w", "of ranges that float32 holds, and their product", f"{most:.4g}")
        )
    exact = rows @ np.moveaxis(wide, along, 0)

    def error(scale: Array) -> float:
        xq = quantize(rows / scale, dtype=dtype, granularity=per_x)
        wq = quantize(wide * _along(scale, along, wide), dtype=dtype, granularity=per_w)
        product = xq.dequantize("float64") @ np.moveaxis(wq.dequantize("float64"), along, 0)
        return float(np.mean(np.square(product - exact))) if exact.size else 0.0

    mse = np.array([error(_migration(widest_x, widest_w, alpha, False)) for alpha in tried.tolist()])
    return AlphaSearch(float(tried[mse.argmin()]), tried, mse, error(np.ones_like(widest_x)))


def _matrix(owner: str, w: Any, axis: Any) -> tuple[Array, int]:
    weight, _ = _args.real(owner, "w", w)
    if weight.ndim != 2:
        raise ValueError(_check.must(owner, "w", "a matrix", f"shape {weight.shape}"))
    return weight, _axis(owner, "axis", axis, weight)


def _axis(owner: str, name: str, axis: Any, array: Array) -> int:
    along = _check.integer(owner, name, axis)
    try:
        return normalize_axis(owner, along, array.ndim)
    except ValueError as error:
        raise ValueError(str(error).replace(": axis must", f": {name} must", 1)) from None


def _vector(owner: str, name: str, value: Any, length: int) -> Array:
    array, _ = _args.real(owner, name, value)
    if array.shape != (length,):
        raise ValueError(_check.must(owner, name, f"of shape ({length},)", f"shape {array.shape}"))
    return array


def _inputs(owner: str, name: str, x: Array, inputs: int) -> None:
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(_check.must(owner, name, f"of shape (..., {inputs}), as w has inputs", f"shape {x.shape}"))


def _mean(owner: str, name: str, x: Any, inputs: int) -> Array:
    """The mean of each input channel; zero where there is no row."""
    source, _ = _args.real(owner, name, x)
    _inputs(owner, name, source, inputs)
    rows = source.reshape(-1, inputs)
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(inputs)
    if not np.isfinite(mean).all():
        raise ValueError(_check.must(owner, name, "finite", "NaN or infinities"))
    return np.asarray(mean)


def _alpha(owner: str, name: str, value: Any) -> float:
    if not (isinstance(value, (int, float, np.floating)) and 0 <= value <= 1):
        raise ValueError(_check.must(owner, name, "in [0, 1]", _check.typed(value)))
    return float(value)


def _widest(array: Array, axis: int) -> Array:
    """The largest finite magnitude of each channel; 0 where there is none."""
    return np.maximum(abs_max(array, PerChannel(axis)), 0.0)


def _migration(x: Array, w: Array, alpha: float, power_of_two: bool) -> Array:
    dead = (x == 0) | (w == 0)
    return _factors(np.where(dead, 0.0, x**alpha), w ** (1 - alpha), power_of_two)


def _factors(over: Array, under: Array, power_of_two: bool) -> Array:
    """over / under in the normal range of float32, 1 where one of them is 0, on request the nearest power of two."""
    scale = np.ones_like(over)
    with np.errstate(over="ignore"):
        np.divide(over, under, out=scale, where=(over > 0) & (under > 0))
    scale = np.clip(scale, _check.TINY, _LARGEST)
    return np.exp2(np.rint(np.log2(scale))) if power_of_two else scale


def _along(scale: Array, axis: int, array: Array) -> Array:
    """One factor for each index of an axis, in a shape that broadcasts to the array."""
    return scale.reshape([-1 if d == axis else 1 for d in range(array.ndim)])


def _rounded(owner: str, name: str, operation: np.ufunc, array: Array, other: Array) -> Array:
    """The operation in float64, rounded once to the dtype of the array, which must hold what was finite before."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = operation(array, other, dtype=np.float64)
        result = np.asarray(exact.astype(array.dtype))
    lost = np.isfinite(array) & ~np.isfinite(result)
    if lost.any():
        got = f"{exact[lost].flat[0]:.4g} in {array.dtype.name}"
        raise ValueError(_check.must(owner, name, "of a dtype that holds the result", got))
    return result
