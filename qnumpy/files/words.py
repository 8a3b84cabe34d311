"""Codes of 1 to 8 bits in int32 words, as PyTorch's libraries store them: a stream, the first code in the low bits."""

from typing import Any

import numpy as np

from .._typing import Array, UInt8Array

__all__: list[str] = []


def words(bits: int, count: int) -> int:
    """Return the words that hold `count` codes."""
    return -(-count * bits // 32)


def unpack_words(packed: Array, bits: int, count: int) -> UInt8Array:
    """Return the `count` codes of each row of words (rows, words) as unsigned integers."""
    rows = np.ascontiguousarray(packed, "<i4").view(np.uint8).reshape(len(packed), -1)
    units = -(-count // 8)  # 8 codes are `bits` bytes
    stream = _padded(rows, units * bits).reshape(len(packed), units, bits)
    codes = np.empty((len(packed), units, 8), np.uint8)
    joined = np.zeros(stream.shape[:2], np.uint64)
    for i in range(bits):
        joined |= stream[..., i].astype(np.uint64) << np.uint64(8 * i)
    for i in range(8):
        codes[..., i] = (joined >> np.uint64(bits * i)) & np.uint64((1 << bits) - 1)
    return codes.reshape(len(packed), units * 8)[:, :count]


def pack_words(codes: Array, bits: int) -> Array:
    """Return rows of unsigned codes (rows, count) as rows of words; the bits after the last code are 0."""
    rows, count = codes.shape
    units = -(-count // 8)
    spread = _padded(codes, units * 8).reshape(rows, units, 8)
    joined = np.zeros(spread.shape[:2], np.uint64)
    for i in range(8):
        joined |= spread[..., i].astype(np.uint64) << np.uint64(bits * i)
    stream = np.empty((rows, units, bits), np.uint8)
    for i in range(bits):
        stream[..., i] = (joined >> np.uint64(8 * i)) & np.uint64(255)
    nbytes = 4 * words(bits, count)
    return _padded(stream.reshape(rows, units * bits), nbytes)[:, :nbytes].copy().view("<i4")


def _padded(rows: Array, length: int) -> Array:
    """Return rows of at least `length` elements; zeros follow the last one."""
    if rows.shape[1] >= length:
        return rows[:, :length]
    wide = np.zeros((len(rows), length), rows.dtype)
    wide[:, : rows.shape[1]] = rows
    return wide


def positive_scales(codes: UInt8Array, scale: Any, zero: Array, bits: int, spread: Any) -> tuple[Array, Array, Array]:
    """Return codes, positive float32 scales and zero points of the same reals.

    A negative scale turns the codes around; a group of scale 0 becomes codes of 0. `spread` maps a parameter of each
    group to one of each code.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.asarray(scale).astype(np.float32)
    last = (1 << bits) - 1
    negative, none = scale < 0, scale == 0
    if negative.any():
        turned = spread(negative)
        codes = np.where(turned, np.uint8(last) - codes, codes)
        zero = np.where(negative, last - zero, zero)
    if none.any():
        codes = np.where(spread(none), spread(zero).astype(np.uint8), codes)
    return codes, np.where(none, np.float32(1), np.abs(scale)), zero
