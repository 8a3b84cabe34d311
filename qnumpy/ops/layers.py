"""Layers between products."""

from .. import _core
from .._typing import Float32Array

__all__ = ["gelu"]


def gelu(x: Float32Array, out: Float32Array) -> None:
    """Fill `out` with ``(x / 2) (1 + erf(x / sqrt(2)))``, within 4e-7 max(1, |x|).

    Both are C-contiguous and of one size.
    """
    _core.gelu(x, out)
