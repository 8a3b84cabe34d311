"""Dtypes of ml_dtypes in npz files, alone and as fields of structures: NumPy's format has no names for them.

A file holds unsigned integers of the same bytes in their place, in native byte order, and the schema says which: the
name of the dtype, or for a structure an object that maps the names of such fields to the same again.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from .._typing import Array

__all__: list[str] = []

Types: TypeAlias = str | dict[str, Any] | None  # a value of JSON; None: nothing of ml_dtypes

ML_DTYPES = {
    name: np.dtype(scalar)
    for name, scalar in vars(ml_dtypes).items()
    if isinstance(scalar, type) and issubclass(scalar, np.generic)
}


def is_ml_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is one of ml_dtypes', in either byte order."""
    return dtype.name in ML_DTYPES


def is_numpys(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of NumPy's own, which its text describes; those of other packages have larger numbers."""
    return dtype.num < 256


def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the array that comes back: without metadata, those of ml_dtypes in native byte order."""

    def change(leaf: np.dtype[Any]) -> np.dtype[Any]:
        if is_ml_dtype(leaf):
            return ML_DTYPES[leaf.name]
        return np.dtype(leaf.str) if is_numpys(leaf) and not leaf.hasobject else leaf

    return _replaced(dtype, change)


def stand_in(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype with unsigned integers in place of those of ml_dtypes."""
    return _replaced(dtype, lambda leaf: np.dtype(f"u{leaf.itemsize}") if is_ml_dtype(leaf) else leaf)


def types(dtype: np.dtype[Any]) -> Types:
    """Return what `stand_in` lost."""
    if dtype.subdtype is not None:
        return types(dtype.subdtype[0])
    if dtype.fields is None:
        return dtype.name if is_ml_dtype(dtype) else None
    parts = {name: types(dtype.fields[name][0]) for name in dtype.names or ()}
    return {name: part for name, part in parts.items() if part is not None} or None


def restored(dtype: np.dtype[Any], lost: Types) -> np.dtype[Any]:
    """Return the dtype whose `stand_in` and `types` are given; raise ValueError if there is none."""
    if lost is None:
        return dtype
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((restored(base, lost), shape))
    if isinstance(lost, dict) and dtype.fields is not None and set(lost) <= set(dtype.names or ()):
        return _structure(dtype, [restored(dtype.fields[name][0], lost.get(name)) for name in dtype.names or ()])
    if isinstance(lost, str) and lost in ML_DTYPES and dtype == np.dtype(f"u{ML_DTYPES[lost].itemsize}"):
        return ML_DTYPES[lost]
    raise ValueError(f"{lost!r} is no dtype that {dtype} holds.")


def converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array as `dtype`, which is `plain` of its own."""
    if array.dtype == dtype:
        return array.view(dtype) if dtype.itemsize else np.empty(array.shape, dtype)
    if dtype.fields is None:
        return array.astype(dtype)
    result = np.zeros(array.shape, dtype)  # field by field: casts of structures swap no bytes of ml_dtypes
    for name in dtype.names or ():
        result[name] = converted(array[name], result[name].dtype)
    return result


def _replaced(dtype: np.dtype[Any], change: Callable[[np.dtype[Any]], np.dtype[Any]]) -> np.dtype[Any]:
    """Return the dtype with every one that is no structure changed."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_replaced(base, change), shape))
    if dtype.fields is None:
        return change(dtype)
    return _structure(dtype, [_replaced(dtype.fields[name][0], change) for name in dtype.names or ()])


def _structure(dtype: np.dtype[Any], formats: list[np.dtype[Any]]) -> np.dtype[Any]:
    """Return a structure with other dtypes of the same sizes in its fields."""
    assert dtype.fields is not None
    fields = [dtype.fields[name] for name in dtype.names or ()]
    return np.dtype({
        "names": list(dtype.names or ()),
        "formats": formats,
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
    })  # fmt: skip
