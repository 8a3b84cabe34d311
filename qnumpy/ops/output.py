"""The output stage of integer products: what becomes of the exact sums."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._check import HUGE, TINY
from .._typing import Float32Array, Int32Array
from ..qparams import QParams
from .quantize import quantize_linear

__all__ = ["Output", "output_of_codes"]

_FLOAT32 = _core.TYPES["float32"]
_INT32_MAX = 2**31 - 1
_LARGEST_PRODUCT = 255 * 255  # of two 8-bit codes less their zero points
_LEAST_MULTIPLIER = 2.0**-100  # times any int32 it is far below half a code


class Output(NamedTuple):
    """The conversion of the sums: to float32, or to codes if there are multipliers.

    float32 is ``clip(float32(acc) * (Sx * Sw) + bias)``. A code is
    ``round_half_even(float32(acc + bias) * multiplier) + zero_point``, saturated to [qmin, qmax]; its bias is
    `acc_bias`, or `wide_bias` where that is not 0.
    """

    bias: Float32Array | None
    low: float  # the bounds of clip
    high: float
    core: int = _FLOAT32  # the kernels' number for the type of the output
    multipliers: Float32Array | None = None  # one for each column
    acc_bias: Int32Array | None = None  # in units of the sums
    zero_point: int = 0
    qmin: int = 0
    qmax: int = 0
    wide_bias: NDArray[np.float64] | None = None  # integers in units of the sums


def output_of_codes(
    x_scale: float,
    w_scale: Float32Array,
    qparams: QParams,
    bias: Float32Array | None,
    depth: int,
    clip: tuple[float, float] = (-math.inf, math.inf),
) -> Output:
    """Return the output stage that makes codes of the sums of a layer whose scales are known.

    Every integer layer asks here. ``multiplier = Sx * Sw / Sy`` and ``bias / (Sx * Sw)`` rounded half to even exist
    for all scales: where ``Sx * Sw`` is no normal float32, it is formed in float64; a multiplier above the float32
    numbers becomes the largest one, which saturates every sum but 0; one below 2**-100, with which no sum reaches half
    a code, becomes 2**-100. A bias that may not fit in int32 together with a sum is added in float64.

    Parameters
    ----------
    x_scale : float
        A float32 number, the scale of x.
    w_scale : ndarray of float32, shape (N,)
        One for each output channel.
    qparams : QParams
        Of the result: per tensor, of integers.
    bias : ndarray of float32, shape (N,), or None
        Real, one for each output channel.
    depth : int
        Products of a sum.
    clip : (float, float)
        Bounds of the real results.
    """
    y_scale = float(qparams.scale)
    with np.errstate(all="ignore"):
        unit = np.float32(x_scale) * w_scale
        exact = np.float64(x_scale) * w_scale.astype(np.float64)
        normal = (unit >= TINY) & (unit <= HUGE)
        multipliers = np.where(normal, unit / qparams.scale, (exact / y_scale).astype(np.float32))
        small = multipliers < _LEAST_MULTIPLIER
        multipliers = np.clip(multipliers, _LEAST_MULTIPLIER, HUGE).astype(np.float32)
        step = np.where(small, _LEAST_MULTIPLIER * y_scale, np.where(normal, unit.astype(np.float64), exact))
        units = None if bias is None else np.rint(bias.astype(np.float64) / step)
    low, high = quantize_linear(np.array(clip, np.float32), qparams.scale, qparams.zero_point, dtype=qparams.dtype)
    output = Output(
        None, *clip, qparams.code.core, multipliers, None, int(qparams.zero_point),
        max(int(low), qparams.qmin), min(int(high), qparams.qmax),
    )  # fmt: skip
    if units is None:
        return output
    room = _INT32_MAX - min(depth * _LARGEST_PRODUCT, 2**30)
    fits = np.abs(units) <= room
    acc_bias = np.where(fits, units, 0).astype(np.int32)
    return output._replace(acc_bias=acc_bias, wide_bias=None if fits.all() else np.where(fits, 0, units))
