"""The factors of channels that smooth an activation: powers of two, searched by the error of the products in int8."""

from typing import NamedTuple

import numpy as np

from .._typing import Array
from .hadamard import hadamard

__all__ = ["FREE_GAIN", "PASS_GAIN", "ROWS", "Form", "best_factors"]

ROWS = 256  # of each activation, by which factors are judged
FREE_GAIN = 0.9  # of the error, below which factors are used: what it is estimated by are few rows
PASS_GAIN = 0.75  # the same where a pass over the rows multiplies them
_ALPHAS = (0.2, 0.35, 0.5, 0.65, 0.8)  # 0: equal channels of the weight, 1: of the activation
_WEIGHT_SHARE = 0.3  # of the error of nearest codes, which rounding by data leaves
_MOST = 2.0**10  # a factor


class Form(NamedTuple):
    """How products are quantized: what an estimate of their error needs."""

    by_row: bool
    rotates: bool
    most: int  # of the magnitudes of a weight's codes


def best_factors(x: Array, reach: Array, w: Array, form: Form, gain: float) -> Array | None:
    """Return the factors of least error, by which x is divided and w (K, N) multiplied; None where they gain little.

    `x` are rows, `reach` the largest magnitude of each channel, `gain` the share of the error that may remain.
    """
    rows = np.abs(w).max(axis=1).astype(np.float64)
    live = (reach > 0) & (rows > 0)
    if not live.any():
        return None
    least, best = gain * _error(x, w, form), None
    for alpha in _ALPHAS:
        wanted = np.zeros(len(rows))
        wanted[live] = alpha * np.log2(reach[live]) - (1 - alpha) * np.log2(rows[live])
        wanted[live] -= np.median(wanted[live])
        factor = np.exp2(np.rint(wanted)).clip(1 / _MOST, _MOST).astype(np.float32)
        error = _error(x / factor, w * factor[:, None], form)
        if error < least:
            least, best = error, factor
    return best


def _error(x: Array, w: Array, form: Form) -> float:
    """Estimate the squared error of x w in int8."""
    if form.rotates:
        rotation = hadamard(len(w))
        x, w = rotation.apply(x), np.asarray(rotation.rotate(w), np.float32)
    axis = -1 if form.by_row else None
    low, high = (np.minimum(x.min(axis, keepdims=True), 0), np.maximum(x.max(axis, keepdims=True), 0))
    step = np.maximum((high - low) / np.float32(255), np.float32(1e-30))
    zero = np.rint(-low / step)
    lost = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step - x
    scale = np.maximum(np.abs(w).max(axis=0) / np.float32(form.most), np.float32(1e-30))
    moved = np.rint(w / scale) * scale - w
    squares = [float(np.square(part, dtype=np.float64).sum()) for part in (lost @ w, x @ moved)]
    return squares[0] + _WEIGHT_SHARE * squares[1]
