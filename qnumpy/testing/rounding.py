"""Twins of `qnumpy.ops.gptq`: textbook loops over columns, with the order of every sum."""

from typing import Any

import numpy as np

from .._typing import Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array
from .grid_search import search_grid

__all__ = ["descend", "inverse_factor", "objective", "refit", "round_columns", "round_groups"]


def inverse_factor(h: Float64Array) -> Float64Array | None:
    """With rows and columns in reverse, h = l l^T and u = l^-1, both of which are columns after one another."""
    k = len(h)
    reverse = h[::-1, ::-1]
    l, x = np.tril(reverse), np.eye(k)  # noqa: E741
    for j in range(k):
        if not k * 2.0**-52 * reverse[j, j] < l[j, j] < np.inf:
            return None
        l[j, j] = np.sqrt(l[j, j])
        l[j + 1 :, j] /= l[j, j]
        l[j + 1 :, j + 1 :] -= np.outer(l[j + 1 :, j], l[j + 1 :, j])
    for j in range(k):  # x l^T = 1
        x[:, j] /= l[j, j]
        x[:, j + 1 :] -= np.outer(x[:, j], l[j + 1 :, j])
    return np.ascontiguousarray(x.T[::-1, ::-1])


def round_columns(
    w: Float32Array,
    factor: Float64Array,
    order: Int64Array,
    scale: Float32Array,
    zero: Int32Array,
    group_size: int,
    levels: Any,
) -> Int16Array:
    x, codes = w[:, order], np.empty(w.shape, np.int16)
    for p, column in enumerate(order):
        group = column // group_size
        codes[:, column] = _nearest(x[:, p], scale[:, group], zero[:, group], levels)
        error = x[:, p] - scale[:, group] * (codes[:, column] - zero[:, group]).astype(np.float32)
        x[:, p + 1 :] -= np.outer(error, (factor[p, p + 1 :] / factor[p, p]).astype(np.float32))
    return codes


def round_groups(
    w: Float32Array,
    factor: Float64Array,
    order: Int64Array,
    importance: Float32Array | None,
    group_size: int,
    levels: Any,
) -> tuple[Int16Array, Float32Array, Int32Array]:
    groups = -(-w.shape[1] // group_size)
    scale, zero = np.ones((len(w), groups), np.float32), np.zeros((len(w), groups), np.int32)
    x, codes = w[:, order], np.empty(w.shape, np.int16)
    for p, column in enumerate(order):
        group = column // group_size
        if p == 0 or group != order[p - 1] // group_size:
            same = np.flatnonzero(order // group_size == group)
            weight = None if importance is None else importance[order[same]]
            scale[:, [group]], zero[:, [group]] = search_grid(x[:, same], weight, same.size, levels)
        codes[:, column] = _nearest(x[:, p], scale[:, group], zero[:, group], levels)
        error = x[:, p] - scale[:, group] * (codes[:, column] - zero[:, group]).astype(np.float32)
        x[:, p + 1 :] -= np.outer(error, (factor[p, p + 1 :] / factor[p, p]).astype(np.float32))
    return codes, scale, zero


def descend(
    w: Float32Array,
    h: Float64Array,
    codes: Int16Array,
    scale: Float32Array,
    zero: Int32Array,
    group_size: int,
    levels: Any,
    sweeps: int,
) -> Int16Array:
    s, z = _each(scale, w, group_size), _each(zero, w, group_size)
    codes = codes.copy()
    gradient = _product(_level(codes, s, z) - w.astype(np.float64), h)
    for row, g in enumerate(gradient):
        for _ in range(sweeps):
            before = codes[row].copy()
            for i in range(w.shape[1]):
                cost = h[i, i] * np.float64(s[row, i])
                if not (cost > 0 and abs(g[i]) > 0.5 * cost):
                    continue
                best = np.rint(np.clip(-g[i] / cost, levels.qmin - codes[row, i], levels.qmax - codes[row, i]))
                best += codes[row, i]
                change = _level(best, s[row, i], z[row, i]) - _level(codes[row, i], s[row, i], z[row, i])
                own = change * change * h[i, i]
                if 2 * change * g[i] + own < -(2.0**-30) * own:
                    codes[row, i] = best
                    g += change * h[i]
            if (codes[row] == before).all():
                break
    return codes


def refit(
    w: Float32Array, h: Float64Array, codes: Int16Array, scale: Float32Array, zero: Int32Array, group_size: int
) -> Float32Array:
    """The normal equations of each row, which hold t h t^T with t = code - zero, cut by groups."""
    (n, k), groups = w.shape, scale.shape[1]
    z = _each(zero, w, group_size)
    t, group = codes - z.astype(np.float64), np.arange(k) // group_size
    normal, right = np.zeros((n, groups, groups)), np.zeros((n, groups))
    for a in range(groups):
        products = _product(np.where(group == a, t, 0), h)
        for i in range(k):
            right[:, a] += products[:, i] * w[:, i]
            normal[:, a, group[i]] += products[:, i] * t[:, i]
    result = scale.copy()
    noise = _noise(w, h, codes, _each(scale, w, group_size), z)
    for row in range(n):
        upper = np.triu(normal[row])
        whole = upper + np.triu(upper, 1).T
        old = scale[row].astype(np.float64)
        rest = right[row].copy()
        for a in range(groups):
            rest[a] -= upper[a, a] * old[a]
            for b in range(a + 1, groups):
                rest[a] -= upper[a, b] * old[b]
                rest[b] -= upper[a, b] * old[a]
        step = _solve(whole, rest)
        low, high = np.maximum(old / 4, 2.0**-126), np.minimum(old * 4, np.finfo(np.float32).max)
        part = 1.0
        for a in range(groups):
            room = (low if step[a] < 0 else high)[a] - old[a]
            if abs(step[a]) * part > abs(room):
                part = room / step[a]
        new = (old + part * step).astype(np.float32)
        step, gain = new - old, 0.0
        for a in range(groups):
            slope = rest[a] * 2 - whole[a, a] * step[a]
            for b in range(a + 1, groups):
                slope -= 2 * whole[a, b] * step[b]
            gain += slope * step[a]
        if gain > noise[row]:
            result[row] = new
    return result


def objective(
    w: Float32Array, h: Float64Array, codes: Int16Array, scale: Float32Array, zero: Int32Array, group_size: int
) -> Float64Array:
    """Half of h suffices."""
    e = _level(codes, _each(scale, w, group_size), _each(zero, w, group_size)) - w.astype(np.float64)
    before, result = _product(e, np.triu(h, 1)), np.zeros(len(w))
    for i in range(w.shape[1]):
        result += e[:, i] * (2 * before[:, i] + e[:, i] * h[i, i])
    return result


def _each(parameter: Array, w: Array, group_size: int) -> Array:
    """The parameter of each weight."""
    return np.repeat(parameter, group_size, 1)[:, : w.shape[1]]


def _nearest(x: Float32Array, scale: Float32Array, zero: Int32Array, levels: Any) -> Int16Array:
    codes: Int16Array = np.clip(np.rint(x / scale) + zero, levels.qmin, levels.qmax).astype(np.int16)
    return codes


def _level(codes: Array, scale: Array, zero: Array) -> Array:
    return (scale * np.asarray(codes - zero, np.float32)).astype(np.float64)


def _product(x: Float64Array, h: Float64Array) -> Float64Array:
    """x @ h, one term after another."""
    y = np.zeros_like(x)
    for i in range(len(h)):
        y += np.outer(x[:, i], h[i])
    return y


def _noise(w: Float32Array, h: Float64Array, codes: Int16Array, scale: Array, zero: Array) -> Float64Array:
    """The sums of level^2 h and error^2 h, whose geometric mean the rounding of levels to float32 scales."""
    level = _level(codes, scale, zero)
    levels, errors = np.zeros(len(w)), np.zeros(len(w))
    for i in range(w.shape[1]):
        levels += level[:, i] * level[:, i] * h[i, i]
        errors += (level[:, i] - w[:, i]) ** 2 * h[i, i]
    return np.asarray(2.0**-22 * np.sqrt(levels * errors))


def _solve(a: Float64Array, right: Float64Array) -> Float64Array:
    """Cholesky's factor; an unknown whose pivot is lost to rounding becomes zero."""
    u, x, n = np.triu(a), right.copy(), len(a)
    for k in range(n):
        if not u[k, k] > 2.0**-40 * a[k, k]:
            u[k], x[k] = 0, 0
            continue
        u[k, k:] /= np.sqrt(u[k, k])
        x[k] /= u[k, k]
        x[k + 1 :] -= u[k, k + 1 :] * x[k]
        u[k + 1 :, k + 1 :] -= np.triu(np.outer(u[k, k + 1 :], u[k, k + 1 :]))
    for k in reversed(range(n)):
        for i in range(k + 1, n):
            x[k] -= u[k, i] * x[i]
        x[k] = x[k] / u[k, k] if u[k, k] > 0 else 0
    return x
