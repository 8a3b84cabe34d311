"""Counts of the elements that a conversion to a narrower float type loses, in one read of the array."""

from typing import NamedTuple

from .. import _core
from .._typing import Array
from ..dtypes import FloatType

__all__ = ["FloatError", "float_error", "float_features"]


class FloatError(NamedTuple):
    """Counts of the elements by the result of the conversion, and the errors of those that are kept.

    `relative_error` is the sum of the relative errors in units of 2**-30, an integer: its bits do not depend
    on the order of the additions.
    """

    nan: int
    infinite: int
    overflow: int
    underflow: int
    subnormal: int
    kept: int
    relative_error: int
    max_relative_error: float
    largest: float
    smallest: float


def float_error(array: Array, source: FloatType, target: FloatType) -> FloatError:
    """Count the elements of an array of type `source` that `target` loses."""
    figures = _core.float_error(array, source.core, target.core, target.overflow, target.smallest_normal)
    return FloatError(*figures)


def float_features() -> dict[str, bool]:
    """Return which float types this CPU converts or computes in, by the name of the instruction set."""
    return _core.float_features()
