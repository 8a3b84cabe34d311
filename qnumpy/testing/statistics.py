"""Twins of the histogram and of the choice of bins by entropy."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Array
from ..granularity import Granularity
from ._common import parameter_of

__all__ = ["Histogram", "entropy_bin", "histogram"]


class Histogram(NamedTuple):
    """The arrays of qnumpy.ops.histogram.Histogram.

    Examples
    --------
    >>> Histogram(np.array([0, 1]), np.array([7], np.uint16), np.array([3])).counts
    array([3])
    """

    offsets: Array  # int64 (parameters + 1,)
    keys: Array  # uint16 (bins,)
    counts: Array  # int64 (bins,)


def histogram(x: ArrayLike, granularity: Granularity) -> Histogram:
    """Return the occupied bins of the finite elements of every parameter.

    Examples
    --------
    >>> offsets, keys, counts = histogram(np.array([1.0, 1.001, -1.0, np.nan]), PerTensor())
    >>> offsets, keys, counts
    (array([0, 2]), array([16511, 49024], dtype=uint16), array([1, 2]))
    """
    x = np.asarray(x)
    drop = 0 if granularity.params_ndim() == 0 else 3  # one parameter has the finer bins
    n = math.prod(granularity.params_shape(x.shape))
    index = parameter_of(granularity, x.shape)
    finite = np.isfinite(x.astype(np.float64))
    exact = x[finite].astype(np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(np.float32)
    away = np.abs(near.astype(np.float64)) > np.abs(exact)
    upper = np.where(away, np.nextafter(near, np.float32(0)), near).view(np.uint32).astype(np.int64) >> 16
    upper = upper >> drop << drop
    keys = np.where(upper & 0x8000, 0xFFFF - upper, 0x8000 + upper)
    both, counts = np.unique(index[finite] * 65536 + keys, return_counts=True)
    offsets = np.searchsorted(both, np.arange(n + 1) * 65536)
    return Histogram(offsets, (both & 0xFFFF).astype(np.uint16), counts)


def entropy_bin(counts: ArrayLike, levels: int | Array = 128, *, first: int = 128) -> tuple[int, Array]:
    """Choose how many bins to keep as the search by entropy does, by the published steps.

    Examples
    --------
    >>> entropy_bin(np.array([8.0, 4, 2, 1, 0, 0, 0, 0]), 2, first=2)[0]
    2
    """
    counts = np.asarray(counts, np.float64)
    reals, n = (levels, levels.size) if isinstance(levels, np.ndarray) else (None, levels)
    divergence = np.full(counts.size + 1, np.nan)
    for i in range(first, counts.size + 1):
        kept, cell = counts[:i], np.arange(i) * n // i
        if reals is not None:
            middles = (reals[1:] + reals[:-1]) / 2 / reals[-1] * i
            cell = np.searchsorted(middles, np.arange(i) + 0.5, "right")
        filled = kept > 0
        sums, sizes = (np.bincount(cell[filled], weights, n) for weights in (kept[filled], None))
        q = np.where(filled, (sums / np.maximum(sizes, 1))[cell], 0.0)
        p = kept.copy()
        p[-1] += counts[i:].sum()
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore"):
            divergence[i] = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
    return int(counts.size - np.argmin(divergence[: first - 1 : -1])), divergence
