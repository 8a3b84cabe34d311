"""Products by instructions that saturate, as libraries compute them on CPUs without VNNI."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import _core
from .._check import must
from .._typing import Array

__all__ = ["SaturatedProduct", "saturated_matmul", "unsafe_pairs"]

_TILE = 1 << 20  # elements of an operand that are shifted and made contiguous at a time
_INT32 = np.iinfo(np.int32)


class SaturatedProduct(NamedTuple):
    """A product whose pairs were clamped to int16, how far it is from the exact one, and the clamped pairs a column."""

    product: Array  # int32 (M, N)
    error: Array  # int64 (M, N)
    pairs: Array  # int64 (N,)


def saturated_matmul(owner: str, a: Array, b: Array) -> SaturatedProduct:
    """Multiply matrices of 8-bit codes as vpmaddubsw does; raise OverflowError where a sum does not fit in int32.

    int8 in a is shifted by 128 into uint8 and uint8 in b by -128 into int8; the product is corrected for both.
    """
    (m, k), n = a.shape, b.shape[1]
    total, error = np.zeros((m, n), np.int64), np.zeros((m, n), np.int64)
    pairs = np.zeros(n, np.int64)
    for columns in _tiles(n, k):
        signed = _signed(b[:, columns])
        width = signed.shape[1]
        clamped = np.zeros(width, np.int64)
        for rows in _tiles(m, max(k, width)):
            unsigned = _unsigned(a[rows])
            height = unsigned.shape[0]
            sums = np.zeros((2, height, width), np.int64)
            _core.saturate(unsigned, signed, sums[0], sums[1], clamped, height, k, width)
            total[rows, columns], error[rows, columns] = sums
        pairs[columns] = clamped
    total -= _correction(a, b)
    if total.size and not _INT32.min <= total.min() <= total.max() <= _INT32.max:
        worst = total.max() if total.max() > _INT32.max else total.min()
        raise OverflowError(must(owner, "a @ b", "in the range of int32", str(worst)))
    return SaturatedProduct(total.astype(np.int32), error, pairs)


def unsafe_pairs(w: Array) -> Array:
    """Count the pairs along K of each column of (K, N) that leave int16 for some factors in 0..255."""
    k, n = w.shape
    pairs = np.zeros(n, np.int64)
    for columns in _tiles(n, k):
        signed = _signed(w[:, columns])
        counts = np.zeros(signed.shape[1], np.int64)
        _core.unsafe_pairs(signed, counts, k, signed.shape[1])
        pairs[columns] = counts
    return pairs


def _tiles(n: int, depth: int) -> Iterator[slice]:
    """Cut n rows or columns of `depth` elements into slices of about _TILE elements."""
    step = max(1, _TILE // max(depth, 1))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _unsigned(a: Array) -> Array:
    return np.ascontiguousarray(a if a.dtype == np.uint8 else a.view(np.uint8) ^ 128)


def _signed(b: Array) -> Array:
    return np.ascontiguousarray(b if b.dtype == np.int8 else (b ^ 128).view(np.int8))


def _correction(a: Array, b: Array) -> Array:
    """Return the sum that the shifts added: (a + s)(b - t) = a b + s b - t a - s t, where s and t are 0 or 128."""
    s, t = 128 * (a.dtype == np.int8), 128 * (b.dtype == np.uint8)
    rows, columns = a.sum(1, dtype=np.int64), b.sum(0, dtype=np.int64)
    return np.asarray(s * columns[None, :] - t * rows[:, None] - s * t * a.shape[1])
