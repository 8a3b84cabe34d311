"""Weights for products by saturating instructions: which are safe, and parameters that make them so."""

import numpy as np

from .. import _check
from .._typing import CodeLike, NDArray
from ..arrays.quantized import QuantizedArray
from ..granularity import normalize_axis
from ..ops.saturation import unsafe_pairs
from ..qparams import QParams
from ..reports.saturation import byte_codes

__all__ = ["reduce_range", "safe_weights"]


def safe_weights(w: CodeLike | QuantizedArray, *, axis: int = 0) -> NDArray[np.bool_]:
    """Return which columns of a weight saturating instructions multiply exactly, whatever the other operand is.

    A column is safe when no pair of neighbours along K overflows int16 for any two factors in 0..255. Such pairs are
    both positive with a sum of at most 128, both negative with a sum of at least -128, or of different signs.

    Parameters
    ----------
    w : array_like of int8 or uint8, or QuantizedArray, 2-D
        uint8 is shifted by -128, as in simulate_saturation.
    axis : int, default 0
        The axis K along which the product sums: 0 for (K, N), 1 for (N, K).

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    TypeError
        w is not of int8 or uint8.
    ValueError
        w is not 2-D.
    TypeError
        axis is no integer.
    ValueError
        axis is none of w's.

    Examples
    --------
    >>> safe_weights(np.array([[127, 100, 64], [-127, 29, 64]], np.int8))
    array([ True, False,  True])
    """
    owner = "safe_weights"
    codes = byte_codes(owner, "w", w)
    if normalize_axis(owner, _check.integer(owner, "axis", axis), 2) == 1:
        codes = codes.T
    return np.asarray(unsafe_pairs(codes) == 0)


def reduce_range(qparams: QParams) -> QParams:
    """Map the same range onto the 7-bit part of an 8-bit type, which saturating instructions multiply exactly.

    int8 codes become [-64, 63] ([-63, 63] if they were symmetric), uint8 ones [64, 191] ([65, 191]): any two
    of them, less 128 if unsigned, add up to at most 128. The step doubles, which costs 6 dB.

    Parameters
    ----------
    qparams : QParams
        Of int8 or uint8.

    Returns
    -------
    QParams

    Raises
    ------
    TypeError
        qparams is no QParams.
    TypeError
        qparams is not of int8 or uint8.

    Notes
    -----
    Products of qnumpy are exact with all 8 bits; this is for weights that go to another library. The new scale is
    computed in float64 and rounded once; both it and the zero point are rounded half to even.

    Examples
    --------
    >>> reduce_range(QParams.from_range(-1.0, 1.0))
    QParams(int8, per tensor, scale=0.01587, zero_point=0)
    """
    owner = "reduce_range"
    if not isinstance(qparams, QParams):
        raise TypeError(_check.must(owner, "qparams", "a QParams", _check.typed(qparams)))
    code = qparams.code
    if code.bits != 8:
        raise TypeError(_check.must(owner, "qparams", "of int8 or uint8", code.name))
    middle = 0 if code.signed else 128
    low, high = middle - 64, middle + 63
    if qparams.symmetric and qparams.qmin == code.symmetric_qmin:
        low += 1
    scale = qparams.scale.astype(np.float64) * (qparams.qmax - qparams.qmin) / (high - low)
    zero = low + (qparams.zero_point.astype(np.float64) - qparams.qmin) * (high - low) / (qparams.qmax - qparams.qmin)
    return QParams(scale.astype(np.float32), np.rint(zero).astype(np.int32), code.name, qparams.granularity, low, high)
