"""Tables of levels for weights: k-means in one dimension, scales, and codes and levels of least output error.

``w`` is C-contiguous float32 (N, K), finite: N outputs of K inputs. ``levels`` are float32, ascending, (L,) for all
rows or (N, L); ``scale`` is float32 (N, G) for groups of `group_size` columns, and code c stands for
``scale * levels[c]``, rounded once to float32. Codes are int16 (N, K). ``importance`` is float32 (K,), finite and not
negative, or None for ones. ``h`` is float64 (K, K), symmetric and positive semidefinite: the second moment of the
inputs.

Results are the same bits on every ISA and thread count. Rows do not depend on each other.
"""

from typing import NamedTuple

import numpy as np

from .. import _core
from .._typing import Float32Array, Float64Array, Int16Array, Int64Array
from .rounding import damped

__all__ = ["NF4", "Chosen", "LevelTables", "choose_codes", "cluster_rows", "largest_scales", "refit_levels"]

# The 16 levels of QLoRA, appendix E: quantiles of the normal distribution, with 0, scaled to [-1, 1].
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip
NF4.flags.writeable = False

_SWEEPS = 30
_ROUNDS = 3
_TINY = np.finfo(np.float32).smallest_normal


class LevelTables(NamedTuple):
    """Tables, and the scales of groups of columns: what codes stand for."""

    levels: Float32Array
    scale: Float32Array
    group_size: int

    @classmethod
    def plain(cls, levels: Float32Array, columns: int) -> "LevelTables":
        """Return one table for each row, without scales."""
        return cls(levels, np.ones((len(levels), min(columns, 1)), np.float32), max(columns, 1))

    def _of(self, w: Float32Array) -> tuple[Float32Array, int, int, int, Float32Array, int, int]:
        levels = self.levels
        return w, w.shape[0], w.shape[1], self.group_size, levels, levels.shape[-1], int(levels.ndim == 1)

    def nearest(self, w: Float32Array) -> Int16Array:
        """Return the codes of the levels nearest to ``w / scale``; of two the lower one."""
        codes = np.empty(w.shape, np.int16)
        _core.nearest_levels(*self._of(w), self.scale, codes)
        return codes

    def searched(self, w: Float32Array, importance: Float32Array | None) -> "LevelTables":
        """Return the same table with scales whose weighted square error is small."""
        scale = np.empty_like(self.scale)
        _core.search_level_scales(*self._of(w), importance, scale)
        return self._replace(scale=scale)

    def columns(self, w: Float32Array, factor: Float64Array, order: Int64Array) -> Int16Array:
        """Round the columns to the nearest level in `order`; the columns that follow make up for the error of each."""
        codes = np.empty(w.shape, np.int16)
        _core.round_to_levels(*self._of(w), factor, order, self.scale, codes)
        return codes

    def descended(self, w: Float32Array, h: Float64Array, codes: Int16Array) -> Int16Array:
        """Change codes one by one until no change lowers the objective of its row, 30 sweeps at most."""
        result = np.empty_like(codes)
        _core.descend_levels(*self._of(w), h, codes, self.scale, _SWEEPS, result)
        return result

    def refitted(self, w: Float32Array, h: Float64Array, codes: Int16Array) -> "LevelTables":
        """Return the scales of least objective for the codes."""
        scale = np.empty_like(self.scale)
        _core.refit_level_scales(*self._of(w), h, codes, self.scale, scale)
        return self._replace(scale=scale)

    def objective(self, w: Float32Array, h: Float64Array, codes: Int16Array) -> Float64Array:
        """Return ``(level - w) @ h @ (level - w)`` of each row, (N,)."""
        result = np.empty(len(w))
        _core.levels_objective(*self._of(w), h, codes, self.scale, result)
        return result


def cluster_rows(w: Float32Array, importance: Float32Array | None, count: int) -> Float32Array:
    """Return the `count` levels (N, count) of least weighted square error of each row, ascending.

    They are the minimum, to the rounding of float64 sums, for rows of at most 16,384 columns; longer rows start from
    the minimum for the means of 4,096 runs of their sorted weights. A row of fewer different weights
    repeats its last level.
    """
    levels = np.empty((len(w), count), np.float32)
    _core.cluster_rows(w, importance, w.shape[0], w.shape[1], count, levels)
    return levels


def refit_levels(
    w: Float32Array, h: Float64Array, codes: Int16Array, levels: Float32Array
) -> tuple[Int16Array, Float32Array]:
    """Return codes and the levels (N, L) of least objective for them, ascending.

    The codes name the same weights; the order of the levels may have changed.
    """
    codes, levels = codes.copy(), levels.copy()
    _core.refit_levels(w, h, w.shape[0], w.shape[1], levels.shape[-1], levels, codes)
    return codes, levels


class Chosen(NamedTuple):
    """Codes (N, K), what they stand for, and the objective of each row: of the nearest codes at first, and of these."""

    codes: Int16Array
    levels: LevelTables
    before: Float64Array
    after: Float64Array


def largest_scales(w: Float32Array, group_size: int) -> Float32Array:
    """Return the largest magnitude of each group, 1 for a group of zeros."""
    starts = np.arange(0, w.shape[1], group_size)
    largest = np.maximum.reduceat(np.abs(w), starts, axis=1) if w.size else np.zeros((len(w), len(starts)), np.float32)
    return np.where(largest > 0, np.maximum(largest, _TINY), np.float32(1)).astype(np.float32)


def choose_codes(
    w: Float32Array, h: Float64Array, levels: LevelTables, *, damping: float, fits_levels: bool, rounds: int = _ROUNDS
) -> Chosen:
    """Choose codes so that ``(level - w) h (level - w)^T`` of each row is small; and fit the levels, or the scales.

    As `round_weight` does on a grid: GPTQ, or the nearest codes where a row is no better for it, coordinate descent,
    then least squares of the levels (of the scales of groups) and descent again, `rounds` times.
    """
    spread, factor, order, size = damped(h, damping)
    places = None
    if levels.group_size >= w.shape[1]:  # in this order a permutation of the inputs permutes the codes
        w, places, order = np.ascontiguousarray(w[:, order]), order, np.arange(len(order))
    else:
        back = np.argsort(order)
        spread = spread[np.ix_(back, back)]
    codes = levels.nearest(w)
    before = best = levels.objective(w, spread, codes)
    for turn in range(rounds + 1):
        if turn < 2:
            loop = levels.columns(w, factor, order)
            better = levels.objective(w, spread, loop) < best
            codes = np.where(better[:, None], loop, codes)
        codes = levels.descended(w, spread, codes)
        if turn == rounds:
            break
        if fits_levels:
            codes, tables = refit_levels(w, spread, codes, levels.levels)
            levels = levels._replace(levels=tables)
        else:
            levels = levels.refitted(w, spread, codes)
        best = levels.objective(w, spread, codes)
    after = levels.objective(w, spread, codes)
    if places is not None:
        codes = codes[:, np.argsort(places)]
    return Chosen(codes, levels, before * size, after * size)
