"""The nearest of many rows: the k best scores of each query, without a sort of all of them."""

import numpy as np

from .. import _core
from .._typing import Array, Float32Array, Float64Array, Int32Array, Int64Array, UInt8Array

__all__ = ["Best", "dot_candidates", "squared_norms"]


class Best:
    """The k best rows of each query, of rows that are offered in the order of their ids, from 0.

    The larger score is better; of two rows with one score the lower id.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._scores = np.empty((queries, k))
        self._ids = np.empty((queries, k), np.int64)
        self._seen = 0

    def _state(self) -> tuple[Array, Array, int, int, int]:
        return self._scores, self._ids, *self._scores.shape, self._seen

    def offer_sums(
        self, sums: Int32Array, factor: Float64Array, scale: Float64Array, offset: Float64Array | None
    ) -> None:
        """Offer the next rows, of the scores ``sums * (factor * scale) + offset`` in float64.

        Parameters
        ----------
        sums : ndarray of int32, shape (queries, n)
        factor : ndarray of float64, shape (queries,)
        scale : ndarray of float64, shape (n,)
        offset : ndarray of float64, shape (n,), optional
        """
        n = sums.shape[1]
        _core.best_of_sums(*self._state(), n, sums, factor, scale, offset)
        self._seen += n

    def offer_bits(self, rows: UInt8Array, queries: UInt8Array) -> None:
        """Offer the next rows of packed bits; a score is minus the number of bits that differ."""
        n, nbytes = rows.shape
        _core.best_of_bits(*self._state(), n, nbytes, rows, queries)
        self._seen += n

    def sorted(self) -> tuple[Float64Array, Int64Array]:
        """Return the scores and ids of the best rows, the best one first; no row can be offered after it."""
        _core.best_sort(*self._state())
        kept = min(self._scores.shape[1], self._seen)
        return self._scores[:, :kept], self._ids[:, :kept]


def dot_candidates(x: Float32Array, rows: Float32Array, ids: Int64Array) -> Float64Array:
    """Return the inner products of x (M, D) and its rows[ids] (M, C, D), summed in float64 in a fixed order."""
    (queries, candidates), (n, d) = ids.shape, rows.shape
    products = np.empty(ids.shape)
    _core.dot_candidates(x, rows, np.ascontiguousarray(ids), queries, candidates, n, d, products)
    return products


def squared_norms(x: Float32Array) -> Float64Array:
    """Return the squared norm of each row, summed as `dot_candidates` sums."""
    return dot_candidates(x, x, np.arange(len(x))[:, None])[:, 0]
