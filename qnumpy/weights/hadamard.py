"""Rotation of the inputs of a layer by a randomised Hadamard matrix, as a dense product."""

from typing import Any

import numpy as np

from .._typing import Array, Float32Array

__all__ = ["Hadamard", "hadamard"]


def _paley() -> Array:
    """Return the Hadamard matrix of order 12."""
    residues = {i * i % 11 for i in range(1, 11)}
    steps = np.subtract.outer(range(11), range(11)) % 11
    matrix = np.ones((12, 12))
    matrix[1:, 1:] = np.where(steps == 0, 1, np.where(np.isin(steps, list(residues)), 1, -1))
    matrix[1:, 0] = -1
    return matrix


class Hadamard:
    """An orthogonal matrix that spreads each of `size` inputs over all, or over blocks where no matrix has the size."""

    def __init__(self, size: int, seed: int | None = None) -> None:
        matrix, rest = np.ones((1, 1)), size
        if size % 12 == 0:
            matrix, rest = _paley(), size // 12
        while rest % 2 == 0:
            matrix, rest = np.kron(np.array([[1, 1], [1, -1]]), matrix), rest // 2
        matrix = np.kron(np.eye(rest), matrix)
        signs = np.random.default_rng(seed or 0).choice([-1.0, 1.0], size)
        self.matrix = np.asarray(matrix * signs * np.sqrt(rest / size), np.float32)

    def apply(self, x: Any) -> Float32Array:
        """Rotate along the last axis."""
        return np.asarray(np.asarray(x, np.float32) @ self.matrix.T, np.float32)

    def inverse(self, x: Any) -> Float32Array:
        """Rotate back along the last axis."""
        return np.asarray(np.asarray(x, np.float32) @ self.matrix, np.float32)


def hadamard(size: int, *, seed: int | None = None) -> Hadamard:
    """Return the rotation of so many inputs."""
    return Hadamard(size, seed)
