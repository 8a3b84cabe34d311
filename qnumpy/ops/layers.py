"""Layers between products."""

import numpy as np

from .. import _check, _core
from .._typing import Array, Float32Array

__all__ = ["look_up"]


def look_up(owner: str, ids: Array, codes: Array, scale: Float32Array, out: Float32Array) -> None:
    """Fill `out` with ``codes[ids] * scale[ids]``.

    Parameters
    ----------
    owner : str
        The function that a message names.
    ids : ndarray of int64 or int32
        In [-V, V); C-contiguous, as all arrays.
    codes : ndarray of int8, shape (V, D)
    scale : ndarray of float32, shape (V,)
    out : ndarray of float32, shape (*ids.shape, D)

    Raises
    ------
    IndexError
        An id is outside.

    Notes
    -----
    The operator Embedding of docs/onnx-operators.md: one float32 product, rounded half to even.
    """
    rows, n = codes.shape
    if not _core.look_up(ids, ids.dtype == np.int64, codes, scale, rows, n, out):
        outside = ids[(ids < -rows) | (ids >= rows)].flat[0]
        raise IndexError(_check.must(owner, "every id", f"in [{-rows}, {rows})", str(outside)))
