"""Codes narrower than a byte in rows of bytes, the first code in the low bits: how arrays and files hold them.

The codes of a row along the last axis follow each other without gaps; a row begins with a byte, and the last byte is
padded with zero bits. A 0-d array is a row of one code.
"""

from typing import Any, TypeAlias

import numpy as np

from . import _core
from ._typing import Array, UInt8Array
from .dtypes import CodeType, FloatType

__all__: list[str] = []

Packable: TypeAlias = CodeType | FloatType


def columns_of(shape: tuple[int, ...]) -> int:
    """Return the codes of a row."""
    return shape[-1] if shape else 1


def rows_are_even(bits: int, shape: tuple[int, ...]) -> bool:
    """Return whether each row ends with a full byte, so that all rows may be read as one."""
    return columns_of(shape) * bits % 8 == 0


def pack_rows(codes: Array, code: Packable) -> UInt8Array:
    """Pack an array of one code to a byte; only the low bits of a byte count."""
    columns = columns_of(codes.shape)
    rows = np.empty(code.packed_shape(codes.shape), np.uint8)
    if codes.size:
        plain = np.ascontiguousarray(codes).view(np.uint8)
        _core.pack(plain, rows, code.core, codes.size // columns, columns)
    return rows


def unpack_rows(rows: Array, code: Packable, shape: tuple[int, ...]) -> Array:
    """Return the codes of an array of `shape`, one to a byte."""
    codes = np.empty(shape, np.uint8)
    if codes.size:
        columns = columns_of(shape)
        _core.unpack(np.ascontiguousarray(rows), codes, code.core, codes.size // columns, columns)
    return codes.view(code.dtype)


def pick(rows: Array, code: Packable, shape: tuple[int, ...], keys: tuple[Any, ...], at: int) -> Array:
    """Return the codes at an index whose key `at`, that of the last axis, is an integer or an array; packed.

    Only what the index names is read.
    """
    own, bit = keys[at], keys[at] * code.bits

    def at_each(array: Array, key: Any) -> Array:
        return np.asarray(array[(*keys[:at], key, *keys[at + 1 :])], np.uint16)

    first = at_each(rows, bit // 8)
    second = at_each(rows, np.minimum(bit // 8 + 1, rows.shape[-1] - 1))  # where a code may go on
    shifts = np.broadcast_to(np.arange(8) * code.bits % 8, (*shape[:-1], 8))  # they repeat after at most 8 codes
    codes = (first | second << 8) >> at_each(shifts, own % 8)
    return pack_rows(np.asarray(codes & 0xFF, np.uint8), code)


def clean_rows(rows: Array, code: Packable, shape: tuple[int, ...]) -> Array:
    """Return rows of another writer with zero bits behind the last code of each: a copy if some are not."""
    used = columns_of(shape) * code.bits % 8
    if not used or not rows.size or not (rows[..., -1] >> used).any():
        return rows
    rows = rows.copy()
    rows[..., -1] &= (1 << used) - 1
    return rows
