"""The seam: what users pass becomes what the kernels take, and every message about meaning is built here.

A grid is the tuple (outer, channels, inner, block) over a C-contiguous view; see csrc/kernels/qn_types.h.
"""

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .dtypes import CodeType, FloatType, code_type, float_type
from .granularity import normalize_axis
from .qparams import QParams

__all__: list[str] = []

Array = np.ndarray[Any, Any]
Grid = tuple[int, int, int, int]

_CODE_NAMES = "int8, uint8, int16, uint16, int4, uint4, int2 or uint2"
_FLOAT_NAMES = "float32, float64, float16 or bfloat16"
_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)
_DIRECT = {  # the common dtypes, found without a look-up by name
    found.dtype: found for found in map(float_type, ("float32", "float64", "float16", "bfloat16")) if found is not None
}
_DIRECT_CODES = {
    found.dtype: found
    for found in map(code_type, ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"))
    if found is not None
}
_TINY, _HUGE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)
_SCALARS, _INTEGERS = {float, np.float32}, {int, np.int8, np.uint8, np.int32}
CONVENTIONS = {"onnx": 0, "guide": 1, "torch": 2, "tflite": 3}
METHODS = {"float": 0, "fixed": 1, "fixed_double": 2}


def must(owner: str, name: str, requirement: str, got: str) -> str:
    """Build the sentence of every error: who, which parameter, what it must be, what came."""
    return f"{owner}: {name} must be {requirement}; got {got}."


def typed(value: Any) -> str:
    """Say a value as it was typed; an array by dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _array(owner: str, name: str, value: Any) -> Array:
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(must(owner, name, "an array without a mask", "a MaskedArray") + " Use x.filled(...) first.")
    return np.asarray(value)


def real(owner: str, name: str, value: Any) -> tuple[Array, FloatType]:
    """Return an array of one of the floating types and the type; Python numbers become float64."""
    array = _array(owner, name, value)
    found = _DIRECT.get(array.dtype) or float_type(array.dtype)
    if found is None:
        if array.dtype.kind in "iub" and type(value) is not np.ndarray and not isinstance(value, np.generic):
            return real(owner, name, array.astype(np.float64))  # a Python list or number
        raise TypeError(must(owner, name, f"an array of {_FLOAT_NAMES}", f"dtype {array.dtype}"))
    return array, found


def codes(owner: str, name: str, value: Any) -> tuple[Array, CodeType]:
    """Return an array of one of the code types and the type."""
    array = _array(owner, name, value)
    found = _DIRECT_CODES.get(array.dtype) or code_type(array.dtype)
    if found is None:
        raise TypeError(must(owner, name, f"an array of {_CODE_NAMES}", f"dtype {array.dtype}"))
    return array, found


def plain(array: Array, code: CodeType) -> Array:
    """Return codes as plain integers, a view where it can be.

    Of a 4- or 2-bit code only the low bits count, and ml_dtypes' casts leave the others zero; here they hold the sign.
    """
    if code.bits >= 8:
        return array
    stored = array.view(code.storage)
    if stored.size and not (code.qmin <= stored.min() and stored.max() <= code.qmax):
        unused = 8 - code.bits
        return stored << unused >> unused if code.signed else stored & code.qmax
    return stored


def code(owner: str, value: Any, name: str = "dtype") -> CodeType:
    found = code_type(value)
    if found is None:
        raise TypeError(must(owner, name, _CODE_NAMES, typed(value)))
    return found


def floating(owner: str, value: Any) -> FloatType:
    found = float_type(value)
    if found is None:
        raise TypeError(must(owner, "dtype", _FLOAT_NAMES, typed(value)))
    return found


def choice(owner: str, name: str, value: Any, choices: dict[str, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, choices))
        raise ValueError(must(owner, name, f"one of {names}", typed(value))) from None


def integer(owner: str, name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(must(owner, name, "an integer", typed(value))) from None


class Layout(NamedTuple):
    """Where the parameters belong: the grid, their shape, and the axis (None per tensor)."""

    grid: Grid
    shape: tuple[int, ...]
    axis: int | None


def layout(owner: str, shape: tuple[int, ...], axis: Any, block_size: Any) -> Layout:
    """Turn (axis, block_size) into the grid of an array of `shape`."""
    if axis is None:
        if block_size is not None:
            raise ValueError(must(owner, "axis", "given with block_size", "None"))
        return tuple.__new__(Layout, ((1, 1, math.prod(shape), 0), (), None))  # half the time of Layout(...)
    axis = normalize_axis(owner, integer(owner, "axis", axis), len(shape))
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if block_size is None:
        return Layout((outer, shape[axis], inner, 0), (shape[axis],), axis)
    block = integer(owner, "block_size", block_size)
    if block < 1:
        raise ValueError(must(owner, "block_size", "at least 1", str(block)))
    blocks = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    return Layout((outer, shape[axis], inner, block), blocks, axis)


def scales(owner: str, name: str, value: Any, where: Layout) -> Array | float:
    """Return scale as checked C-contiguous float32 of the parameters' shape; a scalar serves every channel.

    The common case, one number for one tensor, stays a number: it is faster than an array.
    """
    if type(value) in _SCALARS and where.axis is None and _TINY <= (number := float(value)) <= _HUGE:
        return number
    given = value if type(value) is np.ndarray else np.asarray(value)
    if given.dtype is _F32 and given.flags.c_contiguous:
        scale = given
    elif given.dtype is _F32:
        scale = np.ascontiguousarray(given)
    elif given.dtype.kind in "fiu" or float_type(given.dtype) is not None:
        with np.errstate(over="ignore", under="ignore"):  # what overflows is refused below, by its own sentence
            scale = np.ascontiguousarray(given, dtype=_F32)
    else:
        raise TypeError(must(owner, name, "real", f"dtype {given.dtype}"))
    if _core.first_bad_scale(scale) >= 0:
        bad = given.flat[_core.first_bad_scale(scale)]
        raise ValueError(must(owner, name, "positive, finite and normal in float32", str(bad)))
    return _fitted(owner, name, scale, where, given)


def zero_points(owner: str, value: Any, where: Layout, low: int, high: int) -> Array | int:
    """Return zero_point as checked C-contiguous int32 of the parameters' shape, or one number as it is."""
    if type(value) in _INTEGERS and where.axis is None and low <= (number := int(value)) <= high:
        return number
    given = value if type(value) is np.ndarray else np.asarray(value)
    if given.dtype.kind not in "iu" and code_type(given.dtype) is None:
        raise TypeError(must(owner, "zero_point", "an integer", f"dtype {given.dtype}"))
    wide: Array = np.ascontiguousarray(given, dtype=_I32 if given.dtype.itemsize < 8 else np.int64)
    if given.dtype.itemsize >= 4:
        outside = wide[(wide < low) | (wide > high)]
        if outside.size or (given.size and given.dtype.kind == "u" and int(given.max()) > high):
            got = outside.flat[0] if outside.size else given.max()
            raise ValueError(must(owner, "zero_point", f"in [{low}, {high}]", str(got)))
        wide = wide.astype(_I32, copy=False)
    bad = _core.first_outside(wide, low, high)
    if bad >= 0:
        raise ValueError(must(owner, "zero_point", f"in [{low}, {high}]", str(wide.flat[bad])))
    return _fitted(owner, "zero_point", wide, where, given)


def _fitted(owner: str, name: str, array: Array, where: Layout, given: Array) -> Array:
    if given.shape == where.shape or (where.axis is None and array.size == 1):
        return array
    if given.ndim == 0:
        return np.full(where.shape, array[()] if array.ndim == 0 else array[0], dtype=array.dtype)
    wanted = f"() or {where.shape}" if where.axis is not None else "() when axis is None"
    raise ValueError(must(owner, name, f"of shape {wanted}", f"shape {given.shape}"))


def output(owner: str, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], *inputs: Array) -> Array:
    """Return `out` if it is what a kernel may write to, or a new array when it is None."""
    if out is None:
        return np.empty(shape, dtype)
    if type(out) is np.ndarray and out.dtype is dtype and out.shape == shape and out.flags.carray:
        for array in inputs:
            if _core.overlap(out, array):
                break
        else:
            return out  # the common case; the rest finds out what is wrong
    if not isinstance(out, np.ndarray):
        raise TypeError(must(owner, "out", "an array", typed(out)))
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(must(owner, "out", f"of dtype {dtype}", f"dtype {out.dtype}"))
    if out.shape != shape:
        raise ValueError(must(owner, "out", f"of shape {shape}", f"shape {out.shape}"))
    if not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError(must(owner, "out", "C-contiguous and aligned", f"strides {out.strides}"))
    if not out.flags.writeable:
        raise ValueError(must(owner, "out", "writable", "a read-only array"))
    for array in inputs:
        if _core.overlap(out, array):
            raise ValueError(must(owner, "out", "apart from the input in memory", "an array that overlaps it"))
    return out


def memory_order(array: Array, out: Any) -> tuple[int, ...] | None:
    """The axes in the order memory holds them, when that makes `array` C-contiguous; results then keep its layout."""
    if out is not None or array.ndim < 2 or array.flags.c_contiguous:
        return None
    order = tuple(sorted(range(array.ndim), key=lambda d: -array.strides[d]))
    return order if array.transpose(order).flags.c_contiguous else None


def unpermuted(array: Array, order: tuple[int, ...] | None) -> Array:
    return array if order is None else array.transpose(sorted(range(len(order)), key=order.__getitem__))


def qparams(owner: str, value: Any, shape: tuple[int, ...]) -> QParams:
    """Return `value` if it is a QParams whose parameters fit an array of `shape`."""
    if not isinstance(value, QParams):
        raise TypeError(must(owner, "qparams", "a QParams", typed(value)))
    wanted = value.granularity.params_shape(shape)
    if value.scale.shape != wanted:
        raise ValueError(
            must(owner, "qparams", f"of scale shape {wanted} for an array of shape {shape}", f"{value.scale.shape}")
        )
    return value
