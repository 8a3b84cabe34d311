"""Checks of one argument by itself, and the sentence of every error."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import _core
from ._typing import Array, Float32Array, Int32Array
from .dtypes import code_type, float_type

__all__: list[str] = []

TINY, HUGE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)  # ends of a scale

_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)


def must(owner: str, name: str, requirement: str, got: str) -> str:
    """Return the sentence of every error: the function, the parameter, the requirement, the value."""
    return f"{owner}: {name} must be {requirement}; got {got}."


def alternatives(names: Iterable[str]) -> str:
    """Return names as a message lists them: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}"


def typed(value: Any) -> str:
    """Return a value as it was typed, an array as its dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    text = _class_name(value) if holds_codes(value) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def holds_codes(value: Any) -> bool:
    """Whether a value is an array of codes or a packed weight, classes that stand above this module."""
    return hasattr(type(value), "dequantize") or getattr(type(value), "__array_ufunc__", 0) is None


def _class_name(value: Any) -> str:
    """Return the class of an array of codes and its article; its repr is too long for a message."""
    name = type(value).__name__
    return f"an {name}" if name.startswith("MX") else f"a {name}"


def array(owner: str, name: str, value: Any) -> Array:
    """Return an array; raise TypeError rather than drop a mask or dequantize."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(must(owner, name, "an array without a mask", "a MaskedArray") + " Use x.filled(...) first.")
    if hasattr(type(value), "dequantize"):
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
    numbers = array(owner, name, value)
    if numbers.dtype.kind not in "fiu" and float_type(numbers.dtype) is None:
        raise TypeError(must(owner, name, "real", f"dtype {numbers.dtype}"))
    return numbers


def scale(owner: str, name: str, value: Any) -> Float32Array:
    """Return scales as C-contiguous, aligned float32, all positive, finite and normal."""
    if type(value) is float and TINY <= value <= HUGE:
        return np.array(value, _F32)
    numbers = reals(owner, name, value)
    if numbers.dtype == _F32 and numbers.flags.carray:
        scales = numbers
    else:
        with np.errstate(over="ignore", under="ignore"):  # first_bad_scale finds infinities and zeros
            scales = np.require(numbers, _F32, ["C", "A"])
    bad = _core.first_bad_scale(scales)
    if bad >= 0:
        got = f"{numbers.flat[bad]}{at_index(bad, numbers)}"
        raise ValueError(must(owner, name, "positive, finite and normal in float32", got))
    return scales


def zero_point(owner: str, value: Any, low: int, high: int, name: str = "zero_point") -> Int32Array:
    """Return zero points as C-contiguous, aligned int32, all in [low, high]."""
    if type(value) is int and low <= value <= high:
        return np.array(value, _I32)
    numbers = array(owner, name, value)
    if numbers.dtype == object and numbers.size and all(type(number) is int for number in numbers.flat):
        outside = [number for number in numbers.flat if not low <= number <= high]  # beyond int64
    elif numbers.dtype.kind not in "iu" and code_type(numbers.dtype) is None:
        raise TypeError(must(owner, name, "an integer", f"dtype {numbers.dtype}"))
    else:
        wide = numbers.astype(np.int32) if numbers.dtype.itemsize < 4 else numbers
        outside = wide[(wide < low) | (wide > high)].tolist()
    if outside:
        raise ValueError(must(owner, name, f"in [{low}, {high}]", str(outside[0])))
    return np.require(numbers, _I32, ["C", "A"])


def at_index(index: int, source: Array) -> str:
    """Return " at index 3" for an element of an array, an empty text for a 0-d array."""
    if source.ndim == 0:
        return ""
    position = ", ".join(str(int(i)) for i in np.unravel_index(index, source.shape))
    return f" at index ({position})" if source.ndim > 1 else f" at index {position}"
