"""Codes with a float scale and a float offset for each group of weights."""

from typing import Literal

import numpy as np

from .. import _args, _check
from .._typing import Float32Array, RealLike
from ..arrays.codebook import code_of_levels
from ..arrays.offset import OffsetArray
from ..granularity import PerGroup, normalize_axis
from ..ops.grid_search import assumed_importance, search_offsets
from ..ops.moments import SecondMoment
from ..ops.rounding import Rows, check_moments, importance_of, matrix_of

__all__ = ["fit_offsets", "offsets"]


def offsets(
    w: RealLike,
    *,
    bits: int = 4,
    group_size: int = 32,
    axis: int = -1,
    moments: SecondMoment | Literal["assumed"] | None = None,
) -> OffsetArray:
    """Round a weight to levels ``scale * q + offset``, with a float scale and a float offset for each group.

    A float offset places the levels where the weights are; an integer zero point moves them by whole steps.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16, at least 1-D
    bits : int, default 4
        Bits of a code, 2 to 8: codes are of the unsigned type of that width.
    group_size : int, default 32
        Neighbours along `axis` that share a scale and an offset.
    axis : int, default -1
        The axis of the inputs.
    moments : MomentsObserver or "assumed", optional
        Of the inputs; their mean squares weight the errors. "assumed": those of inputs that contribute alike to the
        outputs, reciprocals of the mean squares of their weights; for layers of transformers without data.

    Returns
    -------
    OffsetArray
        Of the shape of w.

    Raises
    ------
    TypeError
        w is not real.
    TypeError, ValueError
        bits is no integer from 2 to 8, group_size none of at least 1, or axis none of w's.
    TypeError, ValueError, CalibrationError
        moments is neither "assumed" nor a MomentsObserver, has another number of inputs than w, or has seen nothing.
    ValueError
        w is not finite, or float32 does not hold it or the range of a group.

    Notes
    -----
    w is rounded to float32 first. The search tries shares of the range and improves the best one by least squares; its
    error is never above that of the range from minimum to maximum. A code is
    ``clip(round_half_even((w - offset) / scale), 0, 2**bits - 1)``; each operation rounds to float32. The same bits on
    every ISA and thread count.

    Examples
    --------
    >>> w = np.linspace(1, 2, 64, dtype=np.float32)
    >>> q = offsets(w)
    >>> q.scale.shape, bool(np.abs(q.dequantize() - w).max() < 0.02)
    ((2,), True)
    """
    owner = "offsets"
    source, _ = _args.real(owner, "w", w)
    width = _check.integer(owner, "bits", bits)
    if not 2 <= width <= 8:
        raise ValueError(_check.must(owner, "bits", "in [2, 8]", str(width)))
    size, along = _check.integer(owner, "group_size", group_size), _check.integer(owner, "axis", axis)
    if size < 1:
        raise ValueError(_check.must(owner, "group_size", "at least 1", str(size)))
    normalize_axis(owner, along, source.ndim)
    granularity = PerGroup(size, along)
    rows = Rows.of(granularity, source.shape)
    assumed = isinstance(moments, str) and moments == "assumed"
    importance = None if moments is None or assumed else importance_of(check_moments(owner, moments, rows))
    if not source.size:
        code = code_of_levels(1 << width)
        ones = np.ones(granularity.params_shape(source.shape), np.float32)
        return OffsetArray(np.zeros(source.shape, code.dtype), ones, 0 * ones, granularity, dtype=code.name)
    matrix = matrix_of(owner, source, rows, "w")
    finite = np.isfinite(matrix)
    if not finite.all():
        raise ValueError(_check.must(owner, "w", "finite", str(matrix[~finite][0])))
    return fit_offsets(owner, matrix, assumed_importance(matrix) if assumed else importance, rows, width)


def fit_offsets(owner: str, w: Float32Array, importance: Float32Array | None, rows: Rows, bits: int) -> OffsetArray:
    """Round a finite matrix (N, K), not empty, and return it in the shape that `rows` tells."""
    code, top = code_of_levels(1 << bits), (1 << bits) - 1
    scale, offset = search_offsets(w, importance, rows.group_size, 0, top)
    widest = float(scale.max()) * top
    if widest > float(np.finfo(np.float32).max):
        raise ValueError(_check.must(owner, "w", "of ranges that float32 holds, in each group", f"{widest:g}"))
    group = np.arange(rows.columns) // rows.group_size
    steps = np.rint((w - offset[:, group]) / scale[:, group])
    codes = rows.array(np.clip(steps, 0, top).astype(code.storage)).view(code.dtype)
    return OffsetArray(codes, rows.params(scale), rows.params(offset), rows.granularity, dtype=code.name)
