"""What a stage must reproduce: moments of its inputs, and the outputs that the quantized model has lost before it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._typing import Array, Float32Array

__all__ = ["StageMoments"]

_BAND = 2048  # rows that are multiplied in float32 before their sums are added in float64
_DAMPING = 1.0  # of the least squares below, in units of the mean diagonal; a small one overfits thousands of rows


class StageMoments:
    """Sums over the rows of the quantized model's inputs x and of the loss e = y_float - x v^T before the layers.

    Parameters
    ----------
    w : ndarray of float32, shape (N, K)
        The weights of the stage's layers, one below the other.
    v : ndarray of float32, shape (N, K)
        The same for the inputs that `prepare` returns: rotated or not.
    prepare : callable or None
        From the quantized model's inputs to what the quantized weights multiply.
    lossy : bool
        Whether `prepare` does more than rotate.
    """

    def __init__(
        self, w: Float32Array, v: Float32Array, prepare: Callable[[Float32Array], Float32Array] | None, lossy: bool
    ) -> None:
        n, k = w.shape
        self.w, self.v, self.prepare, self.lossy = w, v, prepare, lossy
        self.count = 0
        self.x_sum, self.e_sum = np.zeros(k), np.zeros(n)
        self.x_shift = np.zeros(k, np.float32)  # near the mean: products of centred rows keep their digits
        self.e_shift = np.zeros(n, np.float32)
        self.unit = 1.0  # a power of two near the largest input; x and e are summed in this unit
        self.xx, self.xe = np.zeros((k, k)), np.zeros((k, n))
        self.ee = np.zeros(n)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.xx).all() and np.isfinite(self.xe).all())

    @np.errstate(over="ignore", invalid="ignore")  # `finite` tells
    def add(self, x_float: Array, x: Array, residuals: list[tuple[slice, Array, Array]]) -> None:
        """Add the rows of a batch: the inputs of both models, and what both add to the outputs of some layers."""
        k = self.w.shape[1]
        x_float, x = x_float.reshape(-1, k), x.reshape(-1, k)
        for first in range(0, len(x), _BAND):
            band = slice(first, first + _BAND)
            rows = np.asarray(x[band], np.float32)
            float_rows = rows if x_float is x else np.asarray(x_float[band], np.float32)
            prepared = rows if self.prepare is None else self.prepare(rows)
            lost = float_rows if self.lossy else float_rows - rows  # a rotation keeps products
            e = np.asarray(lost @ self.w.T, np.float32)
            if self.lossy:
                e -= prepared @ self.v.T
            for columns, r_float, r in residuals:
                width = columns.stop - columns.start
                float_part, part = (np.asarray(array.reshape(-1, width)[band], np.float32) for array in (r_float, r))
                e[:, columns] += float_part - part
            self._add(prepared, e)

    def _add(self, x: Float32Array, e: Float32Array) -> None:
        if not self.count:
            self.x_shift, self.e_shift = x.mean(0), e.mean(0)
            largest = float(np.abs(x).max())
            self.unit = 2.0 ** np.frexp(largest)[1] if 0 < largest < np.inf else 1.0
        self.count += len(x)
        x = x - self.x_shift
        e -= self.e_shift
        for rows in (x, e):
            rows /= np.float32(self.unit)
        self.x_sum += x.sum(0, dtype=np.float64)
        self.e_sum += e.sum(0, dtype=np.float64)
        self.xx += x.T @ x
        self.xe += x.T @ e
        self.ee += np.einsum("ij,ij->j", e, e, dtype=np.float64)

    def target(self, centered: bool) -> "Target":
        """Return the moments, and the weights that bring the outputs of the quantized model nearest to the wanted ones.

        ``v + d^T (h + damping)^-1`` with the cross moment ``d = mean(x^T e)``; `centered` where a bias takes the mean.
        """
        n = self.count
        x_mean, e_mean = self.x_sum / n, self.e_sum / n
        h, d = self.xx, self.xe  # overwritten: nothing is added after this
        h /= n
        h -= np.outer(x_mean, x_mean)
        d /= n
        d -= np.outer(x_mean, e_mean)
        ee = self.ee / n - e_mean**2
        x_mean += self.x_shift / self.unit
        e_mean += self.e_shift / self.unit
        if not centered:
            h += np.outer(x_mean, x_mean)
            d += np.outer(x_mean, e_mean)
            ee += e_mean**2
        target = self.v
        diagonal = np.einsum("ii->i", h)
        damping = _DAMPING * float(diagonal.mean())
        if damping > 0 and d.any():
            kept = diagonal.copy()
            diagonal += damping
            # well conditioned: damping is the mean of the eigenvalues
            a, b = (np.asarray(part / damping, np.float32) for part in (h, d))
            target = np.asarray(self.v + np.linalg.solve(a, b).T, np.float32)
            diagonal[:] = kept
        return Target(target, self.v, h, d, ee, x_mean, e_mean, self.unit)


class Target(NamedTuple):
    """What the codes of a stage approximate, and what tells how well they do."""

    w: Float32Array
    v: Float32Array
    h: Array
    d: Array
    ee: Array
    x_mean: Array
    e_mean: Array
    unit: float  # of the inputs and the outputs in all of these

    def bias_shift(self, levels: Float32Array, rows: slice) -> Array:
        """What to add to the bias so that the mean of the outputs is the float model's."""
        shift = self.e_mean[rows] + (self.v[rows] - levels).astype(np.float64) @ self.x_mean
        return shift * self.unit

    def sqnr(self, levels: Float32Array, rows: slice) -> float | None:
        """The SQNR in dB of the outputs, residual included, against the float model's; None without a signal."""
        v, d = self.v[rows], self.d[:, rows].T
        change = levels - v
        noise = self.ee[rows].sum() - 2 * np.vdot(change, d) + np.vdot(self.h, change.T @ change)
        signal = self.ee[rows].sum() + 2 * np.vdot(v, d) + np.vdot(self.h, v.T @ v)
        return float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None
