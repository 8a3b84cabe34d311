"""Cross-layer equalization: the outputs of one layer and the inputs of the next get the same range.

A layer is ``y = x @ w + bias`` with w of shape (inputs, outputs); `axis1` and `axis2` name the axes of another layout.
"""

from typing import NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, RealLike
from ._layers import along_axis, factors, largest_magnitudes, rounded, vector, weight_axis

__all__ = ["Equalized", "cross_layer_equalize"]


class Equalized(NamedTuple):
    """What cross_layer_equalize returns: the two weights, the first bias, and the factor of each channel."""

    w1: Array
    w2: Array
    bias: Array | None
    scale: Array


def cross_layer_equalize(
    w1: RealLike,
    w2: RealLike,
    bias: RealLike | None = None,
    *,
    axis1: int = -1,
    axis2: int = 0,
    power_of_two: bool = False,
) -> Equalized:
    """Give the outputs of one layer and the inputs of the next the same range, channel by channel.

    Between the layers there is nothing, or a function with ``f(s x) = s f(x)`` for s > 0, such as ReLU. With r1 and r2
    the largest magnitudes of a channel in both weights, ``s = sqrt(r1 / r2)``; w1 and its bias are divided by s, w2 is
    multiplied by it, and both ranges become ``sqrt(r1 r2)``.

    Parameters
    ----------
    w1, w2 : array_like of float32, float64, float16 or bfloat16
        The weights of a layer and of the next one; matrices or filters of convolutions.
    bias : array_like of shape (channels,), optional
        The bias of the first layer.
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
        ``(w1, w2, bias, scale)``, in the dtypes of the arguments; scale is float64, of shape (channels,).

    Raises
    ------
    TypeError
        w1 or w2 is not real.
    TypeError
        axis1 or axis2 is no integer.
    ValueError
        axis1 is no axis of w1, or axis2 none of w2.
    ValueError
        w2 has another number of channels than w1.
    TypeError
        bias is not real.
    ValueError
        bias is not of shape (channels,).
    ValueError
        A finite element overflows its dtype after the scaling.

    Notes
    -----
    Computed in float64, rounded once, half to even. A channel that is zero in one of the weights has s = 1; s stays in
    float32's normal range, from 2^-126 to 2^127. To equalize a chain of layers, repeat over its pairs until the scales
    are near 1.

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
    along1, along2 = weight_axis(owner, "axis1", axis1, first), weight_axis(owner, "axis2", axis2, second)
    channels = first.shape[along1]
    if second.shape[along2] != channels:
        wanted = f"of {channels} channels on axis {along2}, as w1 has on axis {along1}"
        raise ValueError(_check.must(owner, "w2", wanted, f"shape {second.shape}"))
    offset = None if bias is None else vector(owner, "bias", bias, channels)
    power_of_two = _check.flag(owner, "power_of_two", power_of_two)
    r1, r2 = largest_magnitudes(first, along1), largest_magnitudes(second, along2)
    scale = factors(np.sqrt(r1), np.sqrt(r2), power_of_two)
    return Equalized(
        rounded(owner, "w1", np.divide, first, along_axis(scale, along1, first)),
        rounded(owner, "w2", np.multiply, second, along_axis(scale, along2, second)),
        None if offset is None else rounded(owner, "bias", np.divide, offset, scale),
        scale,
    )
