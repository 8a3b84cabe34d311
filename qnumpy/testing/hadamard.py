"""Twin of the transform of rows: the same additions in the same order, in NumPy."""

import math

import numpy as np

from .._typing import Array, Float32Array

__all__ = ["matrix", "signs", "transform_rows"]


def signs(size: int, seed: int | None) -> Float32Array:
    """Return the signs of a seed: splitmix64, one number after the other.

    Examples
    --------
    >>> signs(6, 0)
    array([-1.,  1.,  1., -1.,  1.,  1.], dtype=float32)
    """
    result, state = np.ones(size, np.float32), seed or 0
    for i in range(0 if seed is None else size):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        result[i] = -1 if (z ^ z >> 31) >> 63 else 1
    return result


def matrix(order: int) -> Array:
    """Return the symmetric Hadamard matrix of order 12, 20 or a power of two, from its definition.

    Paley's second construction with the field of 5 or 9 elements; Sylvester's for powers of two.

    Examples
    --------
    >>> matrix(2)
    array([[ 1,  1],
           [ 1, -1]])
    """
    if order not in (12, 20):
        h = np.ones((1, 1), int)
        while len(h) < order:
            h = np.kron(np.array([[1, 1], [1, -1]]), h)
        return h
    c = np.ones((order // 2, order // 2), int)
    c[0, 0] = 0
    c[1:, 1:] = [[_character(order // 2 - 1, i, j) for j in range(order // 2 - 1)] for i in range(order // 2 - 1)]
    one = np.eye(order // 2, dtype=int)
    return np.block([[c + one, c - one], [c - one, -c - one]])


def _character(q: int, i: int, j: int) -> int:
    """Return 1 if the difference of two elements is a square of the field, -1 if not, 0 if it is 0."""
    if i == j:
        return 0
    if q == 5:
        return 1 if (i - j) % 5 in (1, 4) else -1
    return 1 if i // 3 == j // 3 or i % 3 == j % 3 else -1  # a + b i of the 9 elements is a square if a or b is 0


def transform_rows(x: Array, block: int, order: int, factors: Float32Array, inverse: bool) -> Float32Array:
    """Transform float32 rows as the kernel does.

    Examples
    --------
    >>> half = np.full(4, 0.5, np.float32)
    >>> transform_rows(np.array([[2, 0, 0, 4]], np.float32), 4, 1, half, False)
    array([[ 3., -1., -1.,  3.]], dtype=float32)
    """
    y = x.astype(np.float32)
    with np.errstate(all="ignore"):
        if not inverse:
            y = y * factors
        y = _blocks(y.reshape(*x.shape[:-1], -1, order, block // order)).reshape(x.shape)
        if inverse:
            y = y * factors
    y[np.isnan(y)] = np.nan
    return y


def _blocks(y: Float32Array) -> Float32Array:
    """Transform [..., order, run]: first across the runs, then within each, far neighbours before near ones."""
    order, run = y.shape[-2:]
    if order > 1:
        u, v = y[..., : order // 2, :], y[..., order // 2 :, :]
        add, less = u + v, u - v
        conference = _conference_6 if order == 12 else _conference_10
        y = np.concatenate([conference(add) + less, conference(less) - add], axis=-2)
    for k in reversed(range(int(math.log2(run)))):
        pairs = y.reshape(*y.shape[:-1], -1, 2, 2**k)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([a + b, a - b], axis=-2).reshape(y.shape)
    return y


def _conference_6(x: Float32Array) -> Float32Array:
    first, *rest = (x[..., j, :] for j in range(6))
    e = [rest[(j + 1) % 5] - rest[(j + 2) % 5] for j in range(5)]
    total = ((rest[0] + rest[1]) + (rest[2] + rest[3])) + rest[4]
    return np.stack([total, *((first + e[j]) - e[(j + 2) % 5] for j in range(5))], axis=-2)


def _conference_10(x: Float32Array) -> Float32Array:
    first, *rest = (x[..., j, :] for j in range(10))
    others = [[p for p in range(3) if p != i] for i in range(3)]
    r = {(a, b): rest[3 * a + others[b][0]] + rest[3 * a + others[b][1]] for a in range(3) for b in range(3)}
    z = {(a, b): rest[3 * a + b] - r[a, b] for a, b in r}
    lines = [rest[3 * a] + r[a, 0] for a in range(3)]
    y = [(first + r[a, b]) + (z[others[a][0], b] + z[others[a][1], b]) for a, b in r]
    return np.stack([(lines[0] + lines[1]) + lines[2], *y], axis=-2)
