"""Codes with a float scale and a float offset for each group of weights."""

import numpy as np

from .. import _args, _check
from .._typing import RealLike
from ..arrays.codebook import code_of_levels
from ..arrays.offset import OffsetArray
from ..granularity import PerGroup, normalize_axis
from ..ops.grid_search import search_offsets
from ..ops.moments import SecondMoment
from ..ops.rounding import Rows, check_moments, importance_of, matrix_of

__all__ = ["offsets"]


def offsets(
    w: RealLike, *, bits: int = 4, group_size: int = 32, axis: int = -1, moments: SecondMoment | None = None
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
    moments : MomentsObserver, optional
        Of the inputs; their mean squares weight the errors.

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
        moments is no MomentsObserver, has another number of inputs than w, or has seen nothing.
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
    granularity, top = PerGroup(size, along), (1 << width) - 1
    rows = Rows.of(granularity, source.shape)
    importance = None if moments is None else importance_of(check_moments(owner, moments, rows))
    code = code_of_levels(top + 1)
    if not source.size:
        ones = np.ones(granularity.params_shape(source.shape), np.float32)
        return OffsetArray(np.zeros(source.shape, code.dtype), ones, 0 * ones, granularity, dtype=code.name)
    matrix = matrix_of(owner, source, rows, "w")
    finite = np.isfinite(matrix)
    if not finite.all():
        raise ValueError(_check.must(owner, "w", "finite", str(matrix[~finite][0])))
    scale, offset = search_offsets(matrix, importance, rows.group_size, 0, top)
    widest = float(scale.max()) * top
    if widest > float(np.finfo(np.float32).max):
        raise ValueError(_check.must(owner, "w", "of ranges that float32 holds, in each group", f"{widest:g}"))
    group = np.arange(rows.columns) // rows.group_size
    steps = np.rint((matrix - offset[:, group]) / scale[:, group])
    codes = rows.array(np.clip(steps, 0, top).astype(code.storage)).view(code.dtype)
    return OffsetArray(codes, rows.params(scale), rows.params(offset), granularity, dtype=code.name)
