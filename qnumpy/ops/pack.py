"""Pack codes narrower than a byte into bytes, first code in the low bits, as ONNX lays them out."""

from typing import Any

import numpy as np

from .. import _args, _check, _core
from .._typing import Array, ArrayLike, CodeLike, DType, UInt8Array
from ..dtypes import INTEGER_TYPES, CodeType
from ..granularity import normalize_axis

__all__ = ["pack", "unpack"]

_PACKABLE = [code.name for code in INTEGER_TYPES.values() if code.bits < 8]


def pack(codes: CodeLike, dtype: DType = "int4", axis: int = -1) -> UInt8Array:
    """Pack codes narrower than a byte along an axis.

    Parameters
    ----------
    codes : array_like of int4, uint4, int2, uint2, int8 or uint8, any shape but 0-d
        One code to an element, in the range of `dtype`.
    dtype : str or dtype, default "int4"
        int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2 or uint2.
    axis : int, default -1
        The axis to pack; its length n becomes ceil(n * bits / 8).

    Returns
    -------
    ndarray of uint8
        The last byte of each row is padded with zero bits.

    Raises
    ------
    TypeError
        dtype is no packable type; codes are of no integer code type.
    ValueError
        codes are 0-d.
    TypeError
        codes are of more than 8 bits.
    ValueError
        A code is outside the range of dtype.
    TypeError
        axis is not an integer.
    ValueError
        codes do not have the axis.

    Examples
    --------
    >>> pack(np.array([1, -1, 7], np.int8))
    array([241,   7], dtype=uint8)
    """
    owner = "pack"
    code = _packable(owner, dtype)
    array, code_type = _args.codes(owner, "codes", codes, INTEGER_TYPES)
    if array.ndim == 0:
        raise ValueError(_check.must(owner, "codes", "of one dimension or more", "a 0-d array"))
    if code_type.bits > 8:
        raise TypeError(_check.must(owner, "codes", "of one byte each", f"dtype {array.dtype}"))
    plain = _args.plain(array, code_type)
    if code_type is not code and plain.size and not (code.qmin <= plain.min() and plain.max() <= code.qmax):
        worst = plain.min() if plain.min() < code.qmin else plain.max()
        raise ValueError(_check.must(owner, "codes", f"in [{code.qmin}, {code.qmax}]", str(worst)))
    rows = np.ascontiguousarray(np.moveaxis(plain, _axis(owner, axis, array.ndim), -1))
    n = rows.shape[-1]
    out = np.empty((*rows.shape[:-1], -(-n * code.bits // 8)), np.uint8)
    _core.pack(rows.view(np.uint8), out, code.core, rows.size // n if n else 0, n)
    return np.moveaxis(out, -1, axis)


def unpack(packed: ArrayLike, dtype: DType, n: int | None = None, axis: int = -1) -> Array:
    """Unpack bytes into codes narrower than a byte; the inverse of pack.

    Parameters
    ----------
    packed : array_like of uint8, any shape but 0-d
    dtype : str or dtype
        int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2 or uint2.
    n : int, optional
        Length of the unpacked axis; by default that of all codes in the bytes.
    axis : int, default -1

    Returns
    -------
    ndarray of `dtype`
        One code to an element; int8 or uint8 for a type of 7, 6, 5 or 3 bits.

    Raises
    ------
    TypeError
        dtype is no packable type; packed is not of uint8.
    ValueError
        packed is 0-d.
    TypeError
        axis is not an integer.
    ValueError
        packed does not have the axis.
    TypeError
        n is not an integer.
    ValueError
        n codes take more or fewer bytes than the axis has.

    Examples
    --------
    >>> unpack(np.array([241, 7], np.uint8), "int4", 3)
    array([1, -1, 7], dtype=int4)
    """
    owner = "unpack"
    code = _packable(owner, dtype)
    array = _check.array(owner, "packed", packed, "Use pack(q.codes) first.")
    if array.dtype != np.uint8:
        raise TypeError(_check.must(owner, "packed", "an array of uint8", _check.got(packed, array)))
    if array.ndim == 0:
        raise ValueError(_check.must(owner, "packed", "of one dimension or more", "a 0-d array"))
    rows = np.ascontiguousarray(np.moveaxis(array, _axis(owner, axis, array.ndim), -1))
    length = rows.shape[-1]
    full = length * 8 // code.bits
    count = full if n is None else _check.integer(owner, "n", n)
    if count < 0 or -(-count * code.bits // 8) != length:
        least = (length - 1) * 8 // code.bits + 1 if length else 0
        raise ValueError(_check.must(owner, "n", f"in [{least}, {full}] for {length} bytes", str(count)))
    out = np.empty((*rows.shape[:-1], count), code.storage)
    _core.unpack(rows, out.view(np.uint8), code.core, rows.size // length if length else 0, count)
    return np.moveaxis(out.view(code.dtype), -1, axis)


def _axis(owner: str, axis: Any, ndim: int) -> int:
    return normalize_axis(owner, _check.integer(owner, "axis", axis), ndim)


def _packable(owner: str, dtype: Any) -> CodeType:
    code = _args.code(owner, dtype, INTEGER_TYPES)
    if code.name not in _PACKABLE:
        raise TypeError(_check.must(owner, "dtype", _check.alternatives(_PACKABLE), _check.typed(dtype)))
    return code
