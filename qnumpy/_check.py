"""Checks of one argument by itself, and the sentence of every error."""

import operator
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import numpy as np

from . import _core
from ._typing import Array, Float32Array, Int32Array
from .dtypes import code_type, float_type

__all__: list[str] = []

TINY, HUGE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)  # ends of a scale

_NUMBERS = ("i8", "u8", "f8", "b1")  # the dtypes of Python numbers
_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)


def must(owner: str, name: str, requirement: str, got: str) -> str:
    """Return the sentence of every error: the function, the parameter, the requirement, the value."""
    return f"{owner}: {name} must be {requirement}; got {got}."


def extra(owner: str, module: str) -> Any:
    """Return a module of an optional dependency; raise ImportError with the command that installs the extra."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        sentence = f"{owner}: {package} must be installed: pip install 'qnumpy[{package}]'."
        raise ImportError(sentence, name=package) from error


def alternatives(names: Iterable[str]) -> str:
    """Return names as a message lists them: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}"


def typed(value: Any) -> str:
    """Return a value as it was typed, an array as its dtype and shape, an object of another library as its class."""
    if isinstance(value, np.ndarray):
        name = "an array" if type(value) is np.ndarray else _class_name(value)
        return f"{name} of {value.dtype} with shape {value.shape}"
    cls = value if isinstance(value, type) else type(value)
    text = repr(value) if _has_short_repr(cls) else _class_name(value)
    if " at 0x" in text:  # the address of a generator or a function
        text = _class_name(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 60 else text[:57] + "..."


def _has_short_repr(cls: type) -> bool:
    """Whether the repr of an object is a text that a message can hold: not that of a table, or with an address."""
    root = cls.__module__.partition(".")[0]
    return root in ("builtins", "numpy", "ml_dtypes", "qnumpy") and not _of_codes(cls) and cls is not object


def _of_codes(cls: type) -> bool:
    return hasattr(cls, "dequantize") or getattr(cls, "__array_ufunc__", 0) is None


def _class_name(value: Any) -> str:
    """Return the class of an object and its article."""
    name = (value if isinstance(value, type) else type(value)).__name__
    return f"the class {name}" if isinstance(value, type) else f"{_article(name)} {name}"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOaeio" or name.startswith("MX") else "a"


def got(value: Any, array: Array) -> str:
    """Return what an array of a wrong dtype was made of: its dtype; of what is no array, the value itself."""
    if isinstance(value, np.ndarray | np.generic) or array.dtype.kind not in "OUS":
        return f"dtype {array.dtype}"
    if hasattr(type(value), "__array__"):
        return f"{_class_name(value)} of dtype {array.dtype}"
    return typed(value)


def array(owner: str, name: str, value: Any, mend: str = "Use q.dequantize() first.") -> Array:
    """Return an array; raise TypeError rather than drop a mask or dequantize.

    `mend` says what to do with an array of codes that holds its parameters.
    """
    if type(value) is np.ndarray:
        return value
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if isinstance(first, np.ma.MaskedArray):
        raise TypeError(must(owner, name, "an array without a mask", "a MaskedArray") + " Use x.filled(...) first.")
    if hasattr(type(first), "dequantize"):
        raise TypeError(must(owner, name, "a plain array", typed(first)) + f" {mend}")
    if type(value).__module__.startswith("scipy.sparse"):
        raise TypeError(must(owner, name, "a dense array", _class_name(value)) + f" Use {name}.toarray() first.")
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and isinstance(value, list | tuple):  # rows of different lengths
            raise ValueError(must(owner, name, "an array, or rows of one length", typed(value))) from error
        raise TypeError(_unreadable(owner, name, first, error)) from error


def _unreadable(owner: str, name: str, value: Any, error: Exception) -> str:
    """Return the sentence for an object whose conversion to an array failed, and how to convert it."""
    if type(value).__module__.partition(".")[0] != "torch":
        return must(owner, name, "an array", f"{_class_name(value)} that NumPy cannot read, {type(error).__name__}")
    kind, device = str(getattr(value, "dtype", "")).removeprefix("torch."), str(getattr(value, "device", "cpu"))
    steps = ".detach()" if getattr(value, "requires_grad", False) else ""
    steps += "" if device == "cpu" else ".cpu()"
    steps += "" if "strided" in str(getattr(value, "layout", "strided")) else ".to_dense()"
    steps += ".float()" if kind == "bfloat16" or kind.startswith("float8") else ""
    return must(owner, name, "an array", f"a Tensor of {kind} on {device}") + f" Use {name}{steps}.numpy() first."


def is_python(value: Any, array: Array) -> bool:
    """Whether the numbers of an array were Python numbers: integers are then reals too.

    Whatever has a dtype keeps it, also in a list: such integers are codes.
    """
    return isinstance(value, int | float | list | tuple | range) and array.dtype.kind + str(array.itemsize) in _NUMBERS


def integer(owner: str, name: str, value: Any) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(must(owner, name, "an integer", typed(value))) from None


def count(owner: str, name: str, value: Any) -> int:
    """Return an integer of at least 0."""
    number = integer(owner, name, value)
    if number < 0:
        raise ValueError(must(owner, name, "at least 0", str(number)))
    return number


def is_number(value: Any) -> bool:
    """Whether a value is one real number; a bool is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def flag(owner: str, name: str, value: Any) -> bool:
    """Return a bool; a text such as "False" would count as True."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(must(owner, name, "True or False", typed(value)))


def flag_or_none(owner: str, name: str, value: Any) -> bool | None:
    return None if value is None else flag(owner, name, value)


def reals(owner: str, name: str, value: Any) -> Array:
    """Return an array of integers or floats."""
    numbers = array(owner, name, value)
    if numbers.dtype.kind not in "fiu" and float_type(numbers.dtype) is None:
        raise TypeError(must(owner, name, "real", got(value, numbers)))
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
        worst = f"{numbers.flat[bad]}{at_index(bad, numbers)}"
        raise ValueError(must(owner, name, "positive, finite and normal in float32", worst))
    return scales


def zero_point(owner: str, value: Any, low: int, high: int, name: str = "zero_point") -> Int32Array:
    """Return zero points as C-contiguous, aligned int32, all in [low, high]."""
    if type(value) is int and low <= value <= high:
        return np.array(value, _I32)
    numbers = array(owner, name, value)
    if numbers.dtype == object and numbers.size and all(type(number) is int for number in numbers.flat):
        outside = [number for number in numbers.flat if not low <= number <= high]  # beyond int64
    elif numbers.dtype.kind not in "iu" and code_type(numbers.dtype) is None:
        raise TypeError(must(owner, name, "an integer", got(value, numbers)))
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
