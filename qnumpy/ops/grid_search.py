"""Scale and zero point of every group of a matrix of weights, of least weighted square error.

``w`` is C-contiguous float32 (N, K), N outputs of K inputs; groups of `group_size` columns, of which the last one may
be shorter, give G = ceil(K / group_size) of them. ``importance`` is float32, finite and not negative: (K,) for all
rows, (N, K), or None for ones.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from .. import _core
from .._typing import Float32Array, Int32Array
from ..dtypes import CodeType

__all__ = ["Levels", "Scheme", "assumed_importance", "hqq_grid", "hqq_offsets", "search_grid", "search_offsets"]

Scheme: TypeAlias = Literal["symmetric", "affine", "full"]


class Levels(NamedTuple):
    """The codes of a grid, and the zero points that a search may choose; of a symmetric grid it is one."""

    qmin: int
    qmax: int
    zero_low: int
    zero_high: int

    @classmethod
    def of(cls, code: CodeType, scheme: Scheme) -> "Levels":
        """Return the levels of a code type.

        ``"symmetric"``: as many codes above the zero point as below; ``"affine"``: every code is a zero point;
        ``"full"``: all codes, one more on one side of the zero point than on the other, on either side.
        """
        middle = code.symmetric_zero_point
        if scheme == "symmetric":
            return cls(code.symmetric_qmin, code.qmax, middle, middle)
        if scheme == "full":
            return cls(code.qmin, code.qmax, middle - 1, middle)
        return cls(code.qmin, code.qmax, code.qmin, code.qmax)


def search_grid(
    w: Float32Array, importance: Float32Array | None, group_size: int, levels: Levels
) -> tuple[Float32Array, Int32Array]:
    """Choose the scales (N, G) and the zero points (N, G) whose weighted square error is small.

    The error is never above that of the range from minimum to maximum.
    """
    return _grid(w, importance, group_size, levels, half_quadratic=False)


def search_offsets(
    w: Float32Array, importance: Float32Array | None, group_size: int, qmin: int, qmax: int
) -> tuple[Float32Array, Float32Array]:
    """Choose the scales (N, G) and the offsets (N, G) of levels ``scale * q + offset``, alike.

    A code is ``clip(rint((w - offset) / scale), qmin, qmax)``; each operation rounds to float32.
    """
    return _line(w, importance, group_size, qmin, qmax, half_quadratic=False)


def assumed_importance(w: Float32Array) -> Float32Array:
    """Return the importance (K,) of the inputs as if each contributed alike: the reciprocal of its mean square weight.

    For where no data tell it: inputs that a trained layer gives small weights are often large, behind normalizations
    above all. A guess: docs/tuning.md has what it brought. The largest one is 1; an input whose weights are zeros, or
    not finite, gets 0.
    """
    square = np.einsum("nk,nk->k", w, w, dtype=np.float64) if w.size else np.zeros(w.shape[1])
    usable = (square > 0) & (square < np.inf)
    least = square.min(where=usable, initial=np.inf)
    importance = np.zeros(w.shape[1], np.float32)
    importance[usable] = least / square[usable]
    return importance


def hqq_grid(w: Float32Array, group_size: int, levels: Levels) -> tuple[Float32Array, Int32Array]:
    """Choose the scales and the zero points of small l_p error, p = 0.7, by half-quadratic splitting [1]_.

    The zero points are those of `search_grid`; the splitting fits the scales.

    References
    ----------
    .. [1] H. Badri and A. Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.
    """
    return _grid(w, None, group_size, levels, half_quadratic=True)


def hqq_offsets(w: Float32Array, group_size: int, qmin: int, qmax: int) -> tuple[Float32Array, Float32Array]:
    """Choose the scales and the offsets alike: the splitting fits the offsets, which are zero points of float32."""
    return _line(w, None, group_size, qmin, qmax, half_quadratic=True)


def _grid(
    w: Float32Array, importance: Float32Array | None, group_size: int, levels: Levels, half_quadratic: bool
) -> tuple[Float32Array, Int32Array]:
    rows, columns = w.shape
    scale, zero = (np.empty((rows, -(-columns // group_size)), dtype) for dtype in (np.float32, np.int32))
    _core.search_grids(w, importance, half_quadratic, rows, columns, group_size, *levels, scale, zero)
    return scale, zero


def _line(
    w: Float32Array, importance: Float32Array | None, group_size: int, qmin: int, qmax: int, half_quadratic: bool
) -> tuple[Float32Array, Float32Array]:
    rows, columns = w.shape
    scale, offset = np.empty((2, rows, -(-columns // group_size)), np.float32)
    _core.search_offsets(w, importance, half_quadratic, rows, columns, group_size, qmin, qmax, scale, offset)
    return scale, offset
