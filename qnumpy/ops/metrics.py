"""Sums for the errors that reports/metrics.py computes, and the set of codes that occur."""

import numpy as np

from .. import _core
from .._typing import Array

__all__ = ["error_sums", "mark_codes"]


def error_sums(x: Array, y: Array) -> tuple[float, float, float, float, float]:
    """Return the sums of ``x^2``, ``y^2``, ``x y`` and ``(x - y)^2`` in float64, and the largest ``|x - y|``.

    x and y have one shape, and float32 holds their values. The sums are not finite where x or y is not.
    """
    return _core.error_sums(np.require(x, np.float32, ["C", "A"]), np.require(y, np.float32, ["C", "A"]))


def mark_codes(codes: Array, seen: Array) -> None:
    """Set ``seen[0, byte]`` to 1 for every byte that occurs in codes of 8 bits; `seen` is uint8 of shape (1, 256)."""
    _core.codes_seen(np.ascontiguousarray(codes.view(np.uint8)), seen)
