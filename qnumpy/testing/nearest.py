"""Twins of `qnumpy.ops.nearest`: every score, and a sort of all of them."""

import numpy as np

from .._typing import Float32Array, Float64Array, Int32Array, Int64Array, UInt8Array

__all__ = ["Best", "dot_candidates"]


class Best:
    def __init__(self, queries: int, k: int) -> None:
        self._k, self._blocks = k, [np.empty((queries, 0))]

    def offer_sums(
        self, sums: Int32Array, factor: Float64Array, scale: Float64Array, offset: Float64Array | None
    ) -> None:
        scores = sums.astype(np.float64) * (factor[:, None] * scale)
        self._blocks.append(scores if offset is None else scores + offset)

    def offer_bits(self, rows: UInt8Array, queries: UInt8Array) -> None:
        differing = np.bitwise_count(queries[:, None] ^ rows)
        self._blocks.append(-differing.sum(axis=-1, dtype=np.int64).astype(np.float64))

    def sorted(self) -> tuple[Float64Array, Int64Array]:
        scores = np.concatenate(self._blocks, axis=1)
        ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        order = np.lexsort((ids, -scores))[:, : self._k]
        return np.take_along_axis(scores, order, 1), order


def dot_candidates(x: Float32Array, rows: Float32Array, ids: Int64Array) -> Float64Array:
    """Element i of a row goes to sum i % 16; the sums are added in halves."""
    sums = np.zeros((*ids.shape, 16))
    for i in range(x.shape[1]):
        sums[..., i % 16] += x[:, None, i].astype(np.float64) * rows[ids][..., i]
    for half in (8, 4, 2, 1):
        sums[..., :half] += sums[..., half : 2 * half]
    return np.ascontiguousarray(sums[..., 0])
