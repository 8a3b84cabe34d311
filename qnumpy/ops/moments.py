"""Moments of the inputs of a layer: how many rows, their mean, and their scatter about it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .._typing import Array, Float64Array

__all__ = ["SecondMoment"]

_BLOCK = 1024  # rows of a product: sums of so many float32 products are within 2^-14 of what float64 gives
_LOW, _HIGH = 2.0**-40, 2.0**50  # largest magnitudes of a column whose products float32 sums within that bound
_STRIP = 1 << 15  # elements of the scatter that are updated together: their temporaries stay in the L2 cache
LARGEST = 2.0**500  # magnitude whose squares float64 still sums


class SecondMoment:
    """Count, mean and scatter of rows: ``scatter_ = sum of (x - mean_)^T (x - mean_)``, updated block by block.

    The scatter about the mean keeps the digits that ``X^T X`` of inputs far from zero would lose.
    """

    count_: Array  # int64, 0-d
    mean_: Float64Array
    scatter_: Float64Array

    @property
    def inputs(self) -> int:
        """The number K of inputs."""
        return int(self.mean_.shape[0])

    @property
    def diagonal(self) -> Float64Array:
        """The mean square of each input, float64 of shape (K,): the diagonal of ``covariance(centered=False)``."""
        return np.asarray(self.scatter_.diagonal() / max(int(self.count_), 1) + np.square(self.mean_))

    def covariance(self, *, centered: bool = True) -> Float64Array:
        """Return the second moment of the inputs, about their mean or about zero.

        Parameters
        ----------
        centered : bool, default True
            ``(X - mean)^T (X - mean) / n``; False: ``X^T X / n``.

        Returns
        -------
        ndarray of float64, shape (K, K)
            Symmetric to the bit, a new array.
        """
        result = self.scatter_ / max(int(self.count_), 1)
        if not centered:
            for strip in _strips(self.inputs):
                result[strip] += self.mean_[strip, None] * self.mean_
        return result

    def _begin(self, inputs: int) -> None:
        self.mean_, self.scatter_ = np.zeros(inputs), np.zeros((inputs, inputs))
        self.count_ = np.zeros((), np.int64)

    def _add_rows(self, block: Array) -> None:
        """Add finite rows, at most `_BLOCK` of them."""
        if not len(block):
            return
        mean = block.mean(axis=0, dtype=np.float64)
        near = mean.astype(block.dtype)  # what float32 holds of the mean; the scatter moves from it to the mean below
        with np.errstate(over="ignore"):
            apart = block - near
        largest = np.maximum(apart.max(axis=0), -apart.min(axis=0))
        if apart.dtype == np.float32 and not (((largest >= _LOW) | (largest == 0)) & (largest <= _HIGH)).all():
            apart = block.astype(np.float64) - near
        self._add(Sums(len(block), mean, apart.T @ apart), mean - near)

    def _add(self, other: "Sums", beside: Float64Array | None = None) -> None:
        """Add the sums of other rows; `beside`: the distance of their mean from where their scatter was taken.

        Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
        """
        count = int(self.count_)
        total = count + other.rows
        if not other.rows:
            return
        apart = other.mean - self.mean_
        between = apart * np.sqrt(count / total * other.rows)
        within = None if beside is None else beside * np.sqrt(other.rows)
        for strip in _strips(self.inputs):
            change = between[strip, None] * between
            if within is not None:
                change -= within[strip, None] * within
            change += other.scatter[strip]
            self.scatter_[strip] += change
        self.mean_ = self.mean_ + apart * (other.rows / total)
        self.count_ = np.array(total, np.int64)


class Sums(NamedTuple):
    """Count, mean and scatter of rows that another one adds."""

    rows: int
    mean: Float64Array
    scatter: Array


def blocks(x: Array, dtype: type[np.floating]) -> Iterator[Array]:
    """Yield the rows of an array along all axes but the last, `_BLOCK` at a time, as C-contiguous `dtype`."""
    lead = x.shape[:-1]
    rows = int(np.prod(lead, dtype=np.int64))
    flat = x.reshape(rows, x.shape[-1]) if x.ndim < 3 or x.flags.c_contiguous else None
    for first in range(0, rows, _BLOCK):
        last = min(first + _BLOCK, rows)
        part = x[np.unravel_index(np.arange(first, last), lead)] if flat is None else flat[first:last]
        yield np.ascontiguousarray(part, dtype)


def _strips(inputs: int) -> Iterator[slice]:
    """Yield slices of the rows of a scatter."""
    step = max(_STRIP // max(inputs, 1), 1)
    for first in range(0, inputs, step):
        yield slice(first, min(first + step, inputs))
