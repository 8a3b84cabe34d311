"""Checks of one argument by itself, and the sentence of every error."""

import operator
from typing import Any

import numpy as np

from . import _core
from ._typing import Array as Array
from .dtypes import code_type, float_type

__all__: list[str] = []

TINY, HUGE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)  # ends of a scale

_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)


def must(owner: str, name: str, requirement: str, got: str) -> str:
    """Build the sentence of every error: who, which parameter, what it must be, what came."""
    return f"{owner}: {name} must be {requirement}; got {got}."


def typed(value: Any) -> str:
    """Say a value as it was typed; an array by dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    text = repr(value) if getattr(type(value), "__array_ufunc__", 0) is not None else _kind(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    """Objects of ours are said by their type: their repr is long."""
    name = type(value).__name__
    return f"an {name}" if name.startswith("MX") else f"a {name}"


def array(owner: str, name: str, value: Any) -> Array:
    """Return an array; nothing drops a mask or dequantizes silently."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(must(owner, name, "an array without a mask", "a MaskedArray") + " Use x.filled(...) first.")
    if getattr(type(value), "__array_ufunc__", 0) is None and hasattr(value, "dequantize"):
        raise TypeError(must(owner, name, "a plain array", typed(value)) + " Use q.dequantize() first.")
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(must(owner, name, "an array, or rows of one length", typed(value))) from error


def integer(owner: str, name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(must(owner, name, "an integer", typed(value))) from None


def reals(owner: str, name: str, value: Any) -> Array:
    """Return an array of integers or floats."""
    given = array(owner, name, value)
    if given.dtype.kind not in "fiu" and float_type(given.dtype) is None:
        raise TypeError(must(owner, name, "real", f"dtype {given.dtype}"))
    return given


def scale(owner: str, name: str, value: Any) -> Array:
    """Return scales as C-contiguous, aligned float32, all positive, finite and normal."""
    if type(value) is float and TINY <= value <= HUGE:
        return np.array(value, _F32)
    given = reals(owner, name, value)
    if given.dtype == _F32 and given.flags.carray:
        found = given
    else:
        with np.errstate(over="ignore", under="ignore"):  # what overflows is refused below
            found = np.require(given, _F32, ["C", "A"])
    bad = _core.first_bad_scale(found)
    if bad >= 0:
        got = f"{given.flat[bad]}{where(bad, given)}"
        raise ValueError(must(owner, name, "positive, finite and normal in float32", got))
    return found


def zero_point(owner: str, value: Any, low: int, high: int, name: str = "zero_point") -> Array:
    """Return zero points as C-contiguous, aligned int32, all in [low, high]."""
    if type(value) is int and low <= value <= high:
        return np.array(value, _I32)
    given = array(owner, name, value)
    if given.dtype == object and given.size and all(type(item) is int for item in given.flat):
        outside = [item for item in given.flat if not low <= item <= high]  # beyond int64
    elif given.dtype.kind not in "iu" and code_type(given.dtype) is None:
        raise TypeError(must(owner, name, "an integer", f"dtype {given.dtype}"))
    else:
        wide = given.astype(np.int32) if given.dtype.itemsize < 4 else given
        outside = wide[(wide < low) | (wide > high)].tolist()
    if outside:
        raise ValueError(must(owner, name, f"in [{low}, {high}]", str(outside[0])))
    return np.require(given, _I32, ["C", "A"])


def basic_index(owner: str, key: Any, ndim: int) -> list[Any]:
    """Return a basic index as one integer or slice for each axis."""
    keys = list(key if isinstance(key, tuple) else (key,))
    if any(not (isinstance(k, (int, np.integer, slice)) or k is Ellipsis) or isinstance(k, bool) for k in keys):
        raise TypeError(must(owner, "index", "of integers, slices and ...", typed(key)))
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - len(keys) + 1)
    return keys + [slice(None)] * (ndim - len(keys))


def where(index: int, given: Array) -> str:
    if given.ndim == 0:
        return ""
    at = ", ".join(str(int(i)) for i in np.unravel_index(index, given.shape))
    return f" at index ({at})" if given.ndim > 1 else f" at index {at}"
