"""Stand-in in NumPy until the transform lands."""

import numpy as np


def _paley12():
    q, sq = 11, {(i * i) % 11 for i in range(1, 11)}
    c = lambda a: 0 if a % q == 0 else (1 if a % q in sq else -1)
    m = np.array([[c(i - j) for j in range(q)] for i in range(q)])
    h = np.ones((12, 12))
    h[1:, 1:] = m + np.eye(q)
    h[1:, 0] = -1
    s = h.copy()
    assert np.allclose(s @ s.T, 12 * np.eye(12))
    return s


class Hadamard:
    def __init__(self, size, seed=0):
        m = np.ones((1, 1))
        rest = size
        if (rest // 12 & (rest // 12 - 1)) == 0 and rest % 12 == 0:
            m, rest = _paley12(), rest // 12
        while rest % 2 == 0:
            m, rest = np.kron(np.array([[1, 1], [1, -1]]), m), rest // 2
        if rest > 1:
            m = np.kron(np.eye(rest), m)
        self.size = size
        sign = np.random.default_rng(seed or 0).choice([-1.0, 1.0], size)
        m = m / np.sqrt((m * m).sum(1, keepdims=True))
        self.matrix = (m * sign).astype(np.float32)  # x -> matrix x

    def apply(self, x):
        return np.asarray(x, np.float32) @ self.matrix.T

    def inverse(self, x):
        return np.asarray(x, np.float32) @ self.matrix

    def rotate(self, w, *, axis=0):
        return np.moveaxis(self.apply(np.moveaxis(np.asarray(w, np.float32), axis, -1)), -1, axis)


def hadamard(size, *, seed=None):
    return Hadamard(size, seed)
