"""Codes and scales of weights of least output error, which the second moment of the inputs tells.

``w`` is C-contiguous float32 (N, K), finite: N outputs of K inputs. ``h`` is float64 (K, K), symmetric and positive
semidefinite: the second moment of the inputs. Groups of `group_size` columns, of which the last one may be shorter,
give G = ceil(K / group_size) of them; ``scale`` is float32 (N, G), ``zero`` int32 (N, G), and a code q stands for the
level ``scale * (q - zero)``, rounded once to float32. Codes are int16 (N, K). The objective of a row is
``(level - w) @ h @ (level - w)``.

Results are the same bits on every ISA and thread count. Rows do not depend on each other.
"""

import numpy as np

from .. import _core
from .._typing import Float32Array, Float64Array, Int16Array, Int32Array, Int64Array
from .grid_search import Levels

__all__ = ["column_order", "descend", "inverse_factor", "objective", "refit", "round_columns", "round_groups"]


def column_order(diagonal: Float64Array, group_size: int) -> Int64Array:
    """Return the columns in descending order of their moment, those of a group together.

    Groups are in descending order of the mean moment of their columns. Of equal ones the first comes first.
    """
    k = diagonal.size
    group = np.arange(k) // group_size
    activation = np.bincount(group, diagonal) / np.maximum(np.bincount(group), 1)
    return np.lexsort((-diagonal, group, -activation[group])) if k else np.zeros(0, np.int64)


def inverse_factor(h: Float64Array) -> Float64Array | None:
    """Return the upper triangular u with ``u.T @ u = inv(h)``; None where h is not positive definite to rounding.

    The upper triangle of h is read.
    """
    u = np.empty_like(h)
    return u if _core.inverse_factor(h, len(h), u) else None


def round_columns(
    w: Float32Array,
    factor: Float64Array,
    order: Int64Array,
    scale: Float32Array,
    zero: Int32Array,
    group_size: int,
    levels: Levels,
) -> Int16Array:
    """Round the columns to nearest in `order`; the columns that follow make up for the error of each.

    Parameters
    ----------
    factor : ndarray of float64, shape (K, K)
        The `inverse_factor` of ``h[order][:, order]``.
    order : ndarray of int64, shape (K,)
        A permutation of the columns.
    """
    (n, k), codes = w.shape, np.empty(w.shape, np.int16)
    _core.round_columns(w, factor, order, None, n, k, group_size, *levels, 0, scale, zero, codes)
    return codes


def round_groups(
    w: Float32Array,
    factor: Float64Array,
    order: Int64Array,
    importance: Float32Array | None,
    group_size: int,
    levels: Levels,
) -> tuple[Int16Array, Float32Array, Int32Array]:
    """Round as `round_columns` does, on grids that are searched when the loop meets their groups.

    The search, `search_grid` with `importance` (K,), sees the weights as the errors before them have changed them.
    `order` keeps the columns of a group together, as `column_order` does. Returns codes, scale and zero.
    """
    (n, k), codes = w.shape, np.empty(w.shape, np.int16)
    shape = n, -(-k // group_size)
    scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int32)
    _core.round_columns(w, factor, order, importance, n, k, group_size, *levels, 1, scale, zero, codes)
    return codes, scale, zero


def descend(
    w: Float32Array,
    h: Float64Array,
    codes: Int16Array,
    scale: Float32Array,
    zero: Int32Array,
    group_size: int,
    levels: Levels,
    sweeps: int,
) -> Int16Array:
    """Change codes one by one, each to the best for the others, until no change lowers the objective of its row.

    Ends after `sweeps` passes over the columns at the latest. No change raises the objective.
    """
    (n, k), result = w.shape, np.empty_like(codes)
    _core.descend(w, h, codes, scale, zero, n, k, group_size, levels.qmin, levels.qmax, sweeps, result)
    return result


def refit(
    w: Float32Array, h: Float64Array, codes: Int16Array, scale: Float32Array, zero: Int32Array, group_size: int
) -> Float32Array:
    """Return the scales of least objective for the codes, by least squares of all scales of a row.

    Scales stay positive and normal, and none changes by more than a factor 4. A row that gains nothing keeps its own.
    """
    (n, k), result = w.shape, np.empty_like(scale)
    _core.refit_scales(w, h, codes, scale, zero, n, k, group_size, result)
    return result


def objective(
    w: Float32Array, h: Float64Array, codes: Int16Array, scale: Float32Array, zero: Int32Array, group_size: int
) -> Float64Array:
    """Return ``(level - w) @ h @ (level - w)`` of each row, (N,)."""
    (n, k), result = w.shape, np.empty(len(w))
    _core.rounding_objective(w, h, codes, scale, zero, n, k, group_size, result)
    return result
