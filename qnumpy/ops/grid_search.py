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

__all__ = ["Levels", "Scheme", "search_grid", "search_offsets"]

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
    rows, columns = w.shape
    groups = -(-columns // group_size)
    scale, zero = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.int32)
    _core.search_grids(w, importance, rows, columns, group_size, *levels, scale, zero)
    return scale, zero


def search_offsets(
    w: Float32Array, importance: Float32Array | None, group_size: int, qmin: int, qmax: int
) -> tuple[Float32Array, Float32Array]:
    """Choose the scales (N, G) and the offsets (N, G) of levels ``scale * q + offset``, alike.

    A code is ``clip(rint((w - offset) / scale), qmin, qmax)``; each operation rounds to float32.
    """
    rows, columns = w.shape
    groups = -(-columns // group_size)
    scale, offset = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.float32)
    _core.search_offsets(w, importance, rows, columns, group_size, qmin, qmax, scale, offset)
    return scale, offset
