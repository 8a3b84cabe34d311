"""Sums of products in a narrow accumulator, and the accumulator of each low-precision type."""

import math
from typing import Any

import numpy as np

from .. import _check, _core
from .._check import alternatives
from .._typing import Array, DType, RealLike
from ..dtypes import FloatType, float_type

__all__ = ["accumulate_dot", "accumulator"]

# The four low-precision types and the types of their sums.
ACCUMULATORS = {"float16": "float16", "bfloat16": "float32", "int16": "int32", "int8": "int32"}
_INPUTS = ("float16", "bfloat16", "float32")


def accumulator(dtype: DType) -> np.dtype[Any]:
    """Return the type in which products of a low-precision type are summed.

    float16 is summed in float16, bfloat16 in float32, int16 and int8 in int32: a product of bfloat16 has more bits than
    the type, and sums of integer products would overflow it after one step.

    Parameters
    ----------
    dtype : str or dtype
        float16, bfloat16, int16 or int8.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    TypeError
        dtype is none of them.

    Examples
    --------
    >>> accumulator("bfloat16"), accumulator("int8")
    (dtype('float32'), dtype('int32'))
    """
    try:
        return np.dtype(ACCUMULATORS[np.dtype(dtype).name])
    except (TypeError, ValueError, KeyError):
        requirement = alternatives(ACCUMULATORS)
        raise TypeError(_check.must("accumulator", "dtype", requirement, _check.typed(dtype))) from None


def accumulate_dot(a: RealLike, b: RealLike, accumulate: DType | None = None) -> Array:
    """Sum products one after another in a narrow accumulator, as hardware with a fused multiply-add of that type does.

    ``acc = round(acc + a[..., k] * b[k])`` for k = 0, 1, ..., starting from 0: the product is exact, the sum is rounded
    once a step, half to even, to the accumulator's type.

    Parameters
    ----------
    a : array_like of float16, bfloat16 or float32, shape (..., K)
    b : array_like of float16, bfloat16 or float32, shape (K,) or (K, N)
    accumulate : str or dtype, optional
        float16, bfloat16 or float32; by default ``accumulator(a.dtype)``, and float32 for float32.

    Returns
    -------
    ndarray
        Of the accumulator's type, shape (...) or (..., N): that of ``a @ b``.

    Raises
    ------
    TypeError
        a, b or accumulate is of another type.
    ValueError
        a is 0-d; b is neither 1-D nor 2-D, or of another K.

    Notes
    -----
    Overflow gives infinity. Every NaN in the result has the same bits. Equal bits on every ISA and thread count. An
    emulation, about twenty instructions a step: use it to measure the error of an accumulator.

    References
    ----------
    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", IEEE
    Transactions on Computers 57(4), 2008.

    Examples
    --------
    A float16 has 11 bits: 2048 + 1 rounds to 2048.

    >>> ones = np.ones(5000, np.float16)
    >>> float(accumulate_dot(ones, ones)), float(accumulate_dot(ones, ones, accumulate="float32"))
    (2048.0, 5000.0)
    """
    owner = "accumulate_dot"
    left, left_type = _factor(owner, "a", a)
    right, right_type = _factor(owner, "b", b)
    if accumulate is None:
        accumulate = ACCUMULATORS.get(left_type.name, "float32")
    sum_type = float_type(accumulate)
    if sum_type is None or sum_type.name not in _INPUTS:
        raise TypeError(_check.must(owner, "accumulate", alternatives(_INPUTS), _check.typed(accumulate)))
    if left.ndim == 0:
        raise ValueError(_check.must(owner, "a", "at least 1-D", "a 0-d array"))
    if right.ndim not in (1, 2) or right.shape[0] != left.shape[-1]:
        requirement = f"of shape ({left.shape[-1]},) or ({left.shape[-1]}, N)"
        raise ValueError(_check.must(owner, "b", requirement, f"shape {right.shape}"))
    count = math.prod(left.shape[:-1])
    rows, shape = left.reshape(count, left.shape[-1]), (*left.shape[:-1], *right.shape[1:])
    out = np.empty(shape, sum_type.dtype)
    if right.ndim == 1:  # one row times the columns of rows.T: products commute
        _accumulate(right[None], right_type, rows.T, left_type, out.reshape(1, count), sum_type)
    else:
        _accumulate(rows, left_type, right, right_type, out.reshape(count, right.shape[1]), sum_type)
    return out[()] if out.ndim == 0 else out


def _factor(owner: str, name: str, value: Any) -> tuple[Array, FloatType]:
    factor = _check.array(owner, name, value)
    factor_type = float_type(factor.dtype)
    if factor_type is None or factor_type.name not in _INPUTS:
        raise TypeError(_check.must(owner, name, f"an array of {alternatives(_INPUTS)}", _check.got(value, factor)))
    return factor, factor_type


def _accumulate(x: Array, x_type: FloatType, w: Array, w_type: FloatType, out: Array, sum_type: FloatType) -> None:
    _core.accumulate(x, x_type.core, w, w_type.core, out, sum_type.core)
