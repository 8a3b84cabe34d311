"""What the twins share: the spread of parameters over elements, and the storage of codes."""

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .._typing import Array, Int32Array
from ..dtypes import CodeType, FloatType, code_type, float_type
from ..granularity import Granularity

__all__ = ["code_of", "expanded", "float_of", "int32_of", "integers", "parameter_of", "spread", "to_codes"]


def spread(params: ArrayLike, shape: tuple[int, ...], axis: int | None = None, block_size: int | None = None) -> Array:
    """Repeat parameters until every element of an array of `shape` has its own.

    Examples
    --------
    >>> spread([1, 2], (2, 3), axis=0)
    array([[1, 1, 1],
           [2, 2, 2]])
    >>> spread([[1, 2]], (1, 5), axis=1, block_size=3)
    array([[1, 1, 1, 2, 2]])
    """
    params = np.asarray(params)
    if axis is None or params.ndim == 0:
        return np.broadcast_to(params.reshape(()), shape)
    axis %= len(shape)
    if block_size is not None:
        return np.repeat(params, block_size, axis).take(range(shape[axis]), axis)
    after = math.prod(shape[axis + 1 :])
    return np.broadcast_to(np.repeat(params, after).reshape(shape[axis:]), shape)


def parameter_of(granularity: Granularity, shape: tuple[int, ...]) -> Array:
    """Number the parameters of an array of `shape` and return the number of each element."""
    params = granularity.params_shape(shape)
    return expanded(np.arange(math.prod(params)).reshape(params), granularity, shape)


def expanded(params: Array, granularity: Granularity, shape: tuple[int, ...]) -> Array:
    """Return the parameter of each element, as `spread` does for any granularity."""
    return np.broadcast_to(granularity.expand(params, tuple(slice(0, n) for n in shape)), shape)


def code_of(dtype: DTypeLike) -> CodeType:
    code = code_type(dtype)
    assert code is not None, dtype
    return code


def float_of(dtype: DTypeLike) -> FloatType:
    real = float_type(dtype)
    assert real is not None, dtype
    return real


def integers(codes: ArrayLike) -> Array:
    return np.asarray(codes).astype(np.int64)


def to_codes(codes: Array, code: CodeType) -> Array:
    """Narrow codes that are in range; a code narrower than a byte fills it with its sign."""
    return codes.astype(code.storage).view(code.dtype)


def int32_of(sums: Array) -> Int32Array:
    """Narrow sums that are in range."""
    assert (np.abs(sums, dtype=np.int64) < 2**31).all()
    return sums.astype(np.int32)
