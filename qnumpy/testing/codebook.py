"""Twins of `qnumpy.ops.codebook`: all cuts of sorted weights, all levels, one column after the other."""

import numpy as np

from .._typing import Array, Float32Array, Float64Array, Int16Array, Int64Array

__all__ = ["cluster_rows", "columns", "descended", "nearest", "refit_levels", "searched"]

F = np.float32
TINY, HUGE = float(np.finfo(F).tiny), float(np.finfo(F).max)


def cluster_rows(w: Float32Array, importance: Float32Array | None, count: int) -> Float32Array:
    """Dynamic programming over all starts of the last cluster; rows that are short."""
    weights = np.ones(w.shape[1]) if importance is None else importance.astype(float)
    weights = np.maximum(weights, weights.mean() * 2.0**-20) if weights.any() else np.ones(w.shape[1])
    return np.array([_clusters(row.astype(float), weights, count) for row in w]).reshape(len(w), count).astype(F)


def _clusters(x: Float64Array, weights: Float64Array, count: int) -> list[float]:
    values, places = np.unique(x, return_inverse=True)
    weight = np.bincount(places, weights)
    n = len(values)
    used = min(count, n)

    def center(first: int, end: int) -> float:
        return float(np.average(values[first:end], weights=weight[first:end]))

    def spread(first: int, end: int) -> float:
        return float((weight[first:end] * np.square(values[first:end] - center(first, end))).sum())

    cost = np.full((used + 1, n + 1), np.inf)
    start = np.zeros((used + 1, n + 1), int)
    cost[0, 0] = 0
    for k in range(1, used + 1):
        for end in range(k, n + 1):
            costs = [cost[k - 1, first] + spread(first, end) for first in range(k - 1, end)]
            start[k, end] = k - 1 + int(np.argmin(costs))
            cost[k, end] = min(costs)
    levels, end = [], n
    for k in range(used, 0, -1):
        levels.append(center(int(start[k, end]), end))
        end = int(start[k, end])
    return levels[::-1] + [levels[0]] * (count - used)


def nearest(w: Float32Array, levels: Float32Array, scale: Float32Array, group_size: int) -> Int16Array:
    """The level above is nearer where ``w / scale`` is beyond the middle of the two."""
    t = w / _each(scale, w, group_size).astype(float)
    tables = np.broadcast_to(levels, (len(w), levels.shape[-1])).astype(float)
    middles = 0.5 * (tables[:, :-1] + tables[:, 1:])
    return np.asarray((t[:, :, None] > middles[:, None]).sum(-1), np.int16)


def searched(w: Float32Array, levels: Float32Array, importance: Float32Array | None, group_size: int) -> Float32Array:
    groups = -(-w.shape[1] // group_size)
    weights = np.ones(w.shape[1]) if importance is None else importance.astype(float)
    scale = np.ones((len(w), groups), F)
    for row in range(len(w)):
        for g in range(groups):
            part = slice(g * group_size, (g + 1) * group_size)
            scale[row, g] = _scale(w[row, part], weights[part], levels)
    return scale


def _scale(x: Float32Array, weights: Float64Array, levels: Float32Array) -> np.float32:
    largest = float(np.abs(x).max(initial=0))
    if not largest:
        return F(1)
    best, chosen, kept = np.inf, F(1), 0.0
    for step in range(41):
        scale = F(min(max(largest * (1.2 - 0.02 * step), TINY), HUGE))
        error, following = _error(x, weights, levels, scale)
        if error < best:
            best, chosen, kept = error, scale, following
    for _ in range(2):
        if not TINY <= kept <= HUGE:
            break
        scale = F(kept)
        error, following = _error(x, weights, levels, scale)
        if not error < best:
            break
        best, chosen, kept = error, scale, following
    return chosen


def _error(x: Float32Array, weights: Float64Array, levels: Float32Array, scale: np.float32) -> tuple[float, float]:
    chosen = levels[nearest(x[None], levels, np.full((1, 1), scale), len(x))[0]]
    error = products = squares = 0.0
    with np.errstate(over="ignore"):
        distance = (scale * chosen).astype(float) - x
    for level, e, value, weight in zip(chosen.astype(float), distance, x.astype(float), weights, strict=True):
        error += weight * e * e
        products += weight * level * value
        squares += weight * level * level
    return error, products / squares if squares > 0 else 0.0


def columns(
    w: Float32Array, levels: Float32Array, scale: Float32Array, group_size: int, factor: Float64Array, order: Int64Array
) -> Int16Array:
    x, codes = w[:, order], np.empty(w.shape, np.int16)
    tables = np.broadcast_to(levels, (len(w), levels.shape[-1]))
    for p, column in enumerate(order):
        own = scale[:, [column // group_size]]
        codes[:, column] = nearest(np.ascontiguousarray(x[:, [p]]), levels, own, 1)[:, 0]
        error = x[:, p] - own[:, 0] * tables[np.arange(len(w)), codes[:, column]]
        x[:, p + 1 :] -= np.outer(error, (factor[p, p + 1 :] / factor[p, p]).astype(F))
    return codes


def descended(
    w: Float32Array,
    h: Float64Array,
    levels: Float32Array,
    scale: Float32Array,
    group_size: int,
    codes: Int16Array,
    sweeps: int,
) -> Int16Array:
    """Every change is the best of all codes for one column; ends where none lowers the objective."""
    codes, s = codes.copy(), _each(scale, w, group_size)
    for row in range(len(w)):
        table = np.broadcast_to(levels, (len(w), levels.shape[-1]))[row]
        reals = (s[row, :, None] * table).astype(float)  # of all codes of each column
        gradient = (reals[np.arange(len(h)), codes[row]] - w[row]) @ h
        for _ in range(sweeps):
            before = codes[row].copy()
            for i in range(len(h)):
                change = reals[i] - reals[i, codes[row, i]]
                costs = change * (2 * gradient[i] + change * h[i, i])
                best = int(np.argmin(costs))
                if h[i, i] > 0 and costs[best] < -(2.0**-30) * change[best] ** 2 * h[i, i]:
                    codes[row, i] = best
                    gradient += change[best] * h[i]
            if (codes[row] == before).all():
                break
    return codes


def refit_levels(
    w: Float32Array, h: Float64Array, codes: Int16Array, levels: Float32Array
) -> tuple[Int16Array, Float32Array]:
    """Least squares of the levels that have codes, by the normal equations."""
    codes, levels = codes.copy(), levels.copy()
    for row in range(len(w)):
        hot: Array = np.eye(levels.shape[1])[codes[row]]
        used = np.flatnonzero(hot.any(0))
        part = hot[:, used]
        rest = w[row] - levels[row, codes[row]].astype(float)
        fitted = levels[row].copy()
        fitted[used] += np.linalg.lstsq(part.T @ h @ part, part.T @ h @ rest, rcond=None)[0].astype(F)
        old, new = rest, w[row] - fitted[codes[row]].astype(float)
        if not new @ h @ new < old @ h @ old:
            continue
        order = np.argsort(fitted, kind="stable")
        levels[row], codes[row] = fitted[order], np.argsort(order)[codes[row]]
    return codes, levels


def _each(scale: Float32Array, w: Float32Array, group_size: int) -> Float32Array:
    return np.repeat(scale, group_size, 1)[:, : w.shape[1]]
