"""concatenate: join arrays of codes along an axis."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from .. import _check
from .._packing import pack_rows, rows_are_even
from .._typing import Array
from ..granularity import PerChannel, PerGroup, PerRow, normalize_axis
from ..qparams import QParams
from .base import CodedArray
from .mx import MXArray
from .quantized import QuantizedArray

__all__ = ["concatenate"]

CodedT = TypeVar("CodedT", QuantizedArray, MXArray)


def concatenate(arrays: Sequence[CodedT], axis: int = 0) -> CodedT:
    """Join quantized arrays along an axis; nothing is quantized again.

    Parameters
    ----------
    arrays : sequence of QuantizedArray, or of MXArray
        Of one type of codes, one granularity and one shape but for the length of `axis`. Parameters that lie along the
        axis are joined: channels on that axis, groups, rows. Others must be equal.
    axis : int, default 0
        Along the axis of groups, every array but the last must end with a whole group.

    Returns
    -------
    QuantizedArray or MXArray

    Raises
    ------
    TypeError
        arrays is no sequence of arrays of one of the two classes.
    ValueError
        arrays is empty, or its arrays are 0-d.
    TypeError
        axis is not an integer.
    ValueError
        The arrays do not have the axis, or differ in their codes, granularity, shape or in parameters that cannot be
        joined; a group is cut.

    Examples
    --------
    >>> from qnumpy import PerChannel, quantize
    >>> x = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)
    >>> q = quantize(x, granularity=PerChannel(0))
    >>> concatenate([q, q[::-1]]) == q[[0, 1, 1, 0]]
    True
    """
    owner = "concatenate"
    parts = list(arrays) if isinstance(arrays, Sequence) else []
    strange: list[Any] = [part for part in parts if not isinstance(part, QuantizedArray | MXArray)]
    if strange or not isinstance(arrays, Sequence):
        got = strange[0] if strange else arrays
        raise TypeError(_check.must(owner, "arrays", "a sequence of QuantizedArray or MXArray", _check.typed(got)))
    if not parts:
        raise ValueError(_check.must(owner, "arrays", "at least one array", "none"))
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise TypeError(_check.must(owner, "arrays", "of one class", "QuantizedArray and MXArray"))
    if first.ndim == 0:
        raise ValueError(_check.must(owner, "arrays", "of one dimension or more", "a 0-d array"))
    at = normalize_axis(owner, _check.integer(owner, "axis", axis), first.ndim)
    for part in parts[1:]:
        if part.ndim != first.ndim or any(part.shape[d] != first.shape[d] for d in range(first.ndim) if d != at):
            shapes = f"{first.shape} and {part.shape}"
            raise ValueError(_check.must(owner, "arrays", f"of one shape but for axis {at}", shapes))
    shape = tuple(sum(part.shape[d] for part in parts) if d == at else length for d, length in enumerate(first.shape))
    if isinstance(first, MXArray):
        scales = _joined_scales(owner, parts, at)
        return first._remade(_held(parts, at, shape), shape, scales)
    params = _joined_params(owner, parts, at)
    return first._remade(_held(parts, at, shape), shape, params)


def _held(parts: Sequence[CodedArray], axis: int, shape: tuple[int, ...]) -> Array:
    """Return the codes of all parts, packed where they are: bytes are joined unless a row ends inside one."""
    code = parts[0]._code
    if not code.is_packed or axis < len(shape) - 1 or all(rows_are_even(code.bits, part.shape) for part in parts[:-1]):
        return np.concatenate([part._held for part in parts], axis)
    return pack_rows(np.concatenate([part.codes.view(np.uint8) for part in parts], axis), code)


def _joined_params(owner: str, parts: Sequence[QuantizedArray], axis: int) -> QParams:
    first, ndim = parts[0].qparams, parts[0].ndim
    schemes = [_scheme(part) for part in parts]
    if any(scheme != schemes[0] for scheme in schemes):
        other = next(part for part, scheme in zip(parts, schemes, strict=True) if scheme != schemes[0])
        requirement = "of one type, range of codes and granularity"
        raise ValueError(_check.must(owner, "arrays", requirement, f"{first} and {other.qparams}"))
    granularity = first.granularity
    own = granularity.axis % ndim if isinstance(granularity, PerChannel | PerGroup) else None
    if isinstance(granularity, PerGroup):
        if own == axis:
            _check_whole(owner, parts, axis, granularity.group_size)
        along: int | None = axis
    elif isinstance(granularity, PerRow):
        along = axis if axis < ndim - 1 else None
    else:
        along = 0 if own == axis else None
    if along is None:
        if any(part.qparams != first for part in parts):
            requirement = f"of equal parameters, because those {granularity.describe()} do not lie along axis {axis}"
            raise ValueError(_check.must(owner, "arrays", requirement, "different ones"))
        return first
    scale, zero_point = (
        np.concatenate([getattr(part, name) for part in parts], along) for name in ("scale", "zero_point")
    )
    return first._with(scale, zero_point, granularity)


def _scheme(part: QuantizedArray) -> tuple[Any, ...]:
    params, granularity = part.qparams, part.granularity
    axis = None if isinstance(granularity, PerRow) or granularity.axis is None else granularity.axis % part.ndim
    size = None if isinstance(granularity, PerRow) else granularity.group_size
    return params.dtype, params.qmin, params.qmax, granularity.kind, axis, size


def _joined_scales(owner: str, parts: Sequence[MXArray], axis: int) -> Array:
    first = parts[0]
    if any((part.format, part.tensor_scale) != (first.format, first.tensor_scale) for part in parts):
        both = " and ".join(sorted({f"{part.format}, {part.tensor_scale}" for part in parts}))
        raise ValueError(_check.must(owner, "arrays", "of one format and tensor_scale", both))
    if axis == first.ndim - 1:
        _check_whole(owner, parts, axis, first.group_size)
    return np.concatenate([part.scales for part in parts], axis)


def _check_whole(owner: str, parts: Sequence[CodedArray], axis: int, group_size: int) -> None:
    for part in parts[:-1]:
        if part.shape[axis] % group_size:
            requirement = f"of whole groups of {group_size} along axis {axis}, but for the last"
            raise ValueError(_check.must(owner, "arrays", requirement, f"a length of {part.shape[axis]}"))
