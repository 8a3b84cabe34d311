"""Checks of a layer's arrays, factors of its channels, the rounding of its results; weights by name."""

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from .. import _args, _check
from .._typing import Array
from ..granularity import PerChannel, normalize_axis
from ..ops.reduce import abs_max

__all__ = [
    "NamedWeights",
    "along_axis",
    "check_inputs",
    "factors",
    "largest_magnitudes",
    "matrix",
    "rounded",
    "vector",
    "weight_axis",
]

_LARGEST = 2.0**127  # factor; the smallest is 2**-126. Both are powers of two in float32's normal range

Weight = TypeVar("Weight")


class NamedWeights(Mapping[str, Weight], Generic[Weight]):
    """The weights of layers, and the biases of those that have one."""

    def __init__(self, weights: Mapping[str, Weight], biases: Mapping[str, Array]) -> None:
        self._weights, self.biases = dict(weights), dict(biases)

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and the biases."""
        arrays: list[Any] = [*self._weights.values(), *self.biases.values()]
        return sum(int(array.nbytes) for array in arrays)


def matrix(owner: str, w: Any, axis: Any) -> tuple[Array, int]:
    weight, _ = _args.real(owner, "w", w)
    if weight.ndim != 2:
        raise ValueError(_check.must(owner, "w", "a matrix", f"shape {weight.shape}"))
    return weight, weight_axis(owner, "axis", axis, weight)


def weight_axis(owner: str, name: str, axis: Any, array: Array) -> int:
    along = _check.integer(owner, name, axis)
    try:
        return normalize_axis(owner, along, array.ndim)
    except ValueError as error:
        raise ValueError(str(error).replace(": axis must", f": {name} must", 1)) from None


def vector(owner: str, name: str, value: Any, length: int) -> Array:
    array, _ = _args.real(owner, name, value)
    if array.shape != (length,):
        raise ValueError(_check.must(owner, name, f"of shape ({length},)", f"shape {array.shape}"))
    return array


def check_inputs(owner: str, name: str, x: Array, inputs: int) -> None:
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(_check.must(owner, name, f"of shape (..., {inputs}), as w has inputs", f"shape {x.shape}"))


def largest_magnitudes(array: Array, axis: int) -> Array:
    """Return the largest finite magnitude of each channel; 0 for a channel without a finite element."""
    return np.maximum(abs_max(array, PerChannel(axis)), 0.0)


def factors(over: Array, under: Array, power_of_two: bool) -> Array:
    """Return over / under, clipped to the normal range of float32, and 1 where one of them is 0."""
    scale = np.ones_like(over)
    with np.errstate(over="ignore"):
        np.divide(over, under, out=scale, where=(over > 0) & (under > 0))
    scale = np.clip(scale, _check.TINY, _LARGEST)
    return np.exp2(np.rint(np.log2(scale))) if power_of_two else scale


def along_axis(scale: Array, axis: int, array: Array) -> Array:
    """Return one factor for each index of an axis, in a shape that broadcasts to the array."""
    return scale.reshape([-1 if d == axis else 1 for d in range(array.ndim)])


def rounded(owner: str, name: str, operation: np.ufunc, array: Array, other: Array) -> Array:
    """Compute in float64 and round once to the dtype of the array; refuse a finite number that overflows it."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = operation(array, other, dtype=np.float64)
        result = np.asarray(exact.astype(array.dtype))
    overflowing = np.isfinite(array) & ~np.isfinite(result)
    if overflowing.any():
        got = f"{exact[overflowing].flat[0]:.4g} in {array.dtype.name}"
        raise ValueError(_check.must(owner, name, "of a dtype that holds the result", got))
    return result
