"""Twins of the layers that stay in float32 between products."""

import numpy as np

from .._typing import Float32Array

__all__ = ["add_norm", "gelu"]

_P = np.array(
    [-1.5100910799592526e-10, 1.056397067600301e-07, 1.691324905550573e-05, 0.0003393857623450458,
     0.009604856371879578, 0.06530629843473434, 0.7978845834732056], np.float32
)  # fmt: skip
_Q = np.array(
    [2.000344466068782e-06, 8.185199840227142e-05, 0.0019317388068884611, 0.028457004576921463, 0.24851608276367188, 1],
    np.float32,
)
_END, _ONE = np.float32(5.65685), np.float32(1)
_SUMS = 16


def gelu(x: Float32Array) -> Float32Array:
    """Return ``(x / 2) (1 + erf(x / sqrt(2)))`` as the kernel gelu_f32 computes it."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        c = np.clip(x, -_END, _END)
        t = c * c
        erf = np.clip(c * _horner(_P, t) / _horner(_Q, t), -_ONE, _ONE)
        y: Float32Array = (x * np.float32(0.5)) * (_ONE + erf)
    return y


def _horner(coefficients: Float32Array, t: Float32Array) -> Float32Array:
    total = np.full(t.shape, coefficients[0], np.float32)
    for coefficient in coefficients[1:]:
        total = total * t + coefficient
    return total


def add_norm(
    x: Float32Array, residual: Float32Array, gamma: Float32Array, beta: Float32Array | None, epsilon: float
) -> tuple[Float32Array, Float32Array]:
    """Return LayerNormalization of ``x + residual`` on the last axis, and the sum, as the kernel add_norm_f32 does."""
    n = np.float32(x.shape[-1])
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        total: Float32Array = x + residual
        d = total - (_sum(total) / n)[..., None]
        inverse = _ONE / np.sqrt(_sum(d * d) / n + np.float32(epsilon))
        y: Float32Array = d * inverse[..., None] * gamma
        y = y if beta is None else y + beta
    return y, total


def _sum(x: Float32Array) -> Float32Array:
    """Return sums over the last axis: 16 partial sums, added in halves."""
    rest = -x.shape[-1] % _SUMS
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], rest), np.float32)], axis=-1)
    rows = padded.reshape(*x.shape[:-1], padded.shape[-1] // _SUMS, _SUMS)
    sums: Float32Array = np.zeros((*x.shape[:-1], _SUMS), np.float32)
    for i in range(rows.shape[-2]):
        sums = sums + rows[..., i, :]
    half = _SUMS // 2
    while half:
        sums = sums[..., :half] + sums[..., half : 2 * half]
        half //= 2
    return sums[..., 0]
