"""Twins of the gradients of fake-quantization."""

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Array, Convention, Float64Array
from ..qparams import QParams
from ._common import expanded, parameter_of

__all__ = ["quantization_gradients"]


def quantization_gradients(
    x: ArrayLike, g: ArrayLike, qparams: QParams, convention: Convention = "onnx"
) -> tuple[Array, Float64Array]:
    """Return the gradient of x and the sums of each parameter; the sums in the order of the elements.

    Examples
    --------
    >>> x = np.array([-30.0, 0.125, 30.0], np.float32)
    >>> quantization_gradients(x, np.ones(3, np.float32), QParams(0.5, 0, "int4"))
    (array([0., 1., 0.], dtype=float32), array([-0.25,  1.  ,  1.  ]))
    """
    wide, dtype = np.asarray(x).astype(np.float32), np.asarray(g).dtype
    slope = np.asarray(g).astype(np.float64)
    steps, side = _saturated(wide, qparams, convention)
    scale = expanded(qparams.scale, qparams.granularity, wide.shape)
    number = parameter_of(qparams.granularity, wide.shape).ravel()
    with np.errstate(all="ignore"):
        quotient = wide * (np.float32(1) / scale) if convention == "torch" else wide / scale
        error = np.where(side == 0, steps.astype(np.float32) - quotient, np.float32(0)).astype(np.float64)
    terms = (slope * error, np.where(side == -1, slope, 0), np.where(side == 1, slope, 0))
    sums = [np.bincount(number, term.ravel(), qparams.scale.size) for term in terms]
    return np.where(side == 0, slope, 0).astype(dtype), np.array(sums, np.float64).reshape(3, *qparams.scale.shape)


def _saturated(x: ArrayLike, qparams: QParams, convention: Convention = "onnx") -> tuple[Array, Array]:
    """Return the step of each element before it saturates, ``q - Z``, and -1, 0 or 1: its code lies below, in or above.

    NaN is 2.
    """
    wide = np.asarray(x).astype(np.float32)
    scale, zero = (expanded(p, qparams.granularity, wide.shape) for p in (qparams.scale, qparams.zero_point))
    with np.errstate(all="ignore"):
        if convention == "torch":
            steps = np.rint(wide * (np.float32(1) / scale)).astype(np.float64)
        elif convention == "guide":
            steps = np.rint(wide / scale + zero.astype(np.float32)).astype(np.float64) - zero
        elif convention == "tflite":
            quotient = (wide / scale).astype(np.float64)
            steps = np.copysign(np.floor(np.abs(quotient) + 0.5), quotient)
        else:
            steps = np.rint(wide / scale).astype(np.float64)
    code = np.nan_to_num(steps, nan=0) + zero
    side = np.where(code < qparams.qmin, -1, np.where(code > qparams.qmax, 1, 0))
    return np.where(np.isnan(wide), 0, steps), np.where(np.isnan(wide), 2, side)
