"""Indices as NumPy takes them, checked for an array of one shape, with the axis that each axis becomes."""

import operator
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from ._check import must, typed
from ._typing import Array

__all__: list[str] = []


class Index(NamedTuple):
    """An index of integers, slices, None and arrays of integers.

    Attributes
    ----------
    keys : tuple
        One for each axis of the array, and None for each new axis; integers count from the front.
    axes : tuple of int or None
        The axis of each key, None for a new one.
    source, shape : tuple of int
        The shapes of the array and of the result.
    places : tuple of tuple of int
        For each axis of the array the axes of the result along which its key varies: none for an integer, one for a
        slice, those of the broadcast arrays for an array.
    """

    keys: tuple[Any, ...]
    axes: tuple[int | None, ...]
    source: tuple[int, ...]
    shape: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, owner: str, key: Any, shape: tuple[int, ...]) -> "Index":
        """Check an index; raise TypeError for what is none, and IndexError where NumPy does."""
        keys, axes = _one_key_an_axis(owner, key, shape)
        return cls(keys, axes, shape, *_result(keys, axes, shape))

    def key(self, axis: int) -> Any:
        """Return the key of an axis of the array."""
        return self.keys[self.axes.index(axis)]

    def of_params(self, own: Container[int], replaced: Mapping[int, Any] | None = None) -> tuple[Any, ...]:
        """Return the index of parameters that have the axes `own` of the array and length 1 along all others."""
        keys = []
        for key, axis in zip(self.keys, self.axes, strict=True):
            if axis is None or (axis in own and not (replaced and axis in replaced)):
                keys.append(key)
            elif replaced and axis in replaced:
                keys.append(replaced[axis])
            elif isinstance(key, slice):
                keys.append(slice(None))
            else:
                keys.append(np.zeros((1,) * key.ndim, np.intp) if isinstance(key, np.ndarray) else 0)
        return tuple(keys)


def _one_key_an_axis(owner: str, key: Any, shape: tuple[int, ...]) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
    given = [_key(owner, part) for part in (key if isinstance(key, tuple) else (key,))]
    if sum(part is Ellipsis for part in given) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    taken = [part.ndim if _is_mask(part) else 0 if part is None or part is Ellipsis else 1 for part in given]
    if sum(taken) > len(shape):
        got = f"array is {len(shape)}-dimensional, but {sum(taken)} were indexed"
        raise IndexError(f"too many indices for array: {got}")
    rest = [slice(None)] * (len(shape) - sum(taken))
    at = next((i for i, part in enumerate(given) if part is Ellipsis), None)
    given[slice(len(given), None) if at is None else slice(at, at + 1)] = rest
    keys: list[Any] = []
    axes: list[int | None] = []
    axis = 0
    for part in given:
        if part is None:
            keys.append(None)
            axes.append(None)
            continue
        for one in _where(part, axis, shape) if _is_mask(part) else [part]:
            keys.append(one if isinstance(one, slice) else _in_bounds(one, axis, shape[axis]))
            axes.append(axis)
            axis += 1
    return tuple(keys), tuple(axes)


def _key(owner: str, part: Any) -> Any:
    """Return one part of an index: a slice, None, Ellipsis, an int, or an array of integers or booleans."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if not isinstance(part, bool | np.bool_):
        if isinstance(part, int | np.integer):
            return int(part)
        array = None if isinstance(part, np.ma.MaskedArray | str | bytes) else _array(part)
        if array is not None and array.size == 0 and not isinstance(part, np.ndarray):
            array = array.astype(np.intp)  # NumPy makes an empty list float64
        if array is not None and array.dtype.kind in "iu":
            return array.astype(np.intp) if array.ndim else operator.index(array)
        if array is not None and array.dtype.kind == "b" and array.ndim:
            return array
    requirement = "of integers, slices, None, ... and arrays of integers or booleans"
    raise TypeError(must(owner, "index", requirement, typed(part)))


def _array(part: Any) -> Array | None:
    try:
        return np.asarray(part)
    except (TypeError, ValueError):  # rows of different lengths, or what refuses to be an array
        return None


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind == "b"


def _where(mask: Array, axis: int, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Return the indices at which a mask is True, an array for each of its axes."""
    for d, length in enumerate(mask.shape):
        if length != shape[axis + d]:
            raise IndexError(
                f"boolean index did not match indexed array along axis {axis + d}; size of axis is {shape[axis + d]} "
                f"but size of corresponding boolean axis is {length}"
            )
    return mask.nonzero()


def _in_bounds(key: Any, axis: int, length: int) -> Any:
    """Return an index or an array of indices counted from the front."""
    low, high = (key.min(), key.max()) if isinstance(key, np.ndarray) and key.size else (key, key)
    if isinstance(key, int) or key.size:
        if not -length <= low <= high < length:
            worst = low if low < -length else high
            raise IndexError(f"index {worst} is out of bounds for axis {axis} with size {length}")
        if low < 0:
            return np.where(key < 0, key + length, key) if isinstance(key, np.ndarray) else key + length
    return key


def _result(
    keys: tuple[Any, ...], axes: tuple[int | None, ...], source: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Return the shape of the result, and the axes of it that each axis of the array becomes.

    The arrays of an index, and integers beside them, are broadcast to joint axes. These stand where the arrays stand
    if the arrays are neighbours, and else in front.
    """
    arrays = [key for key in keys if isinstance(key, np.ndarray)]
    try:
        joint = np.broadcast_shapes(*(key.shape for key in arrays))
    except ValueError:
        shapes = " ".join(str(key.shape).replace(" ", "") for key in arrays)
        text = "shape mismatch: indexing arrays could not be broadcast together with shapes"
        raise IndexError(f"{text} {shapes}") from None
    advanced = [i for i, key in enumerate(keys) if arrays and isinstance(key, int | np.ndarray)]
    together = not advanced or advanced[-1] - advanced[0] == len(advanced) - 1
    shape = list(joint) if not together else []
    at = 0  # where the joint axes begin
    places: list[tuple[int, ...]] = []
    for i, (key, axis) in enumerate(zip(keys, axes, strict=True)):
        if together and advanced and i == advanced[0]:
            at = len(shape)
            shape.extend(joint)
        if axis is None:
            shape.append(1)
        elif isinstance(key, slice):
            places.append((len(shape),))
            shape.append(len(range(*key.indices(source[axis]))))
        elif isinstance(key, int):
            places.append(())
        else:
            places.append(tuple(range(at, at + len(joint))))
    return tuple(shape), tuple(places)
