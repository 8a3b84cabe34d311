"""The seam: what users pass becomes what the kernels take.

A grid is the tuple (outer, channels, inner, block) over a C-contiguous view; see csrc/kernels/qn_types.h.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _check, _core
from ._check import HUGE, TINY, array, integer, must, typed
from ._check import Array as Array  # for all who import from here
from .dtypes import CODE_TYPES, FLOAT_TYPES, REAL_TYPES, CodeType, FloatType, code_type, float_type
from .granularity import granularity as granularity  # for all who import from here
from .granularity import normalize_axis
from .qparams import QParams

__all__: list[str] = []

Grid = tuple[int, int, int, int]


def listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


_CODES = {found.dtype: found for found in CODE_TYPES.values()}  # without a look-up by name
_FLOATS = {found.dtype: found for found in FLOAT_TYPES.values()}
_SCALARS, _INTEGERS = {float, np.float32}, {int, np.int8, np.uint8, np.int32}
CONVENTIONS = {"onnx": 0, "guide": 1, "torch": 2, "tflite": 3}
METHODS = {"float": 0, "fixed": 1, "fixed_double": 2}


def real(owner: str, name: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> tuple[Array, FloatType]:
    """Return an array of one of `types` and the type; Python numbers become float64."""
    given = array(owner, name, value)
    found = _FLOATS.get(given.dtype) or float_type(given.dtype)
    if found is None or found.name not in types:
        if given.dtype.kind in "iub" and type(value) is not np.ndarray and not isinstance(value, np.generic):
            return real(owner, name, given.astype(np.float64))  # a Python list or number
        raise TypeError(must(owner, name, f"an array of {listed(list(types))}", f"dtype {given.dtype}"))
    return given, found


def codes(owner: str, name: str, value: Any, types: dict[str, CodeType] = CODE_TYPES) -> tuple[Array, CodeType]:
    """Return an array of one of `types` and the type."""
    given = array(owner, name, value)
    found = _CODES.get(given.dtype) or code_type(given.dtype)
    if found is None or found.name not in types:
        raise TypeError(must(owner, name, f"an array of {listed(list(types))}", f"dtype {given.dtype}"))
    return given, found


def plain(given: Array, code: CodeType) -> Array:
    """Return codes as plain integers, a view where it can be.

    Of a 4- or 2-bit code only the low bits count, and ml_dtypes' casts leave the others zero; here they hold the sign.
    """
    if code.bits >= 8 or code.real is not None:
        return given
    stored = given.view(code.storage)
    if stored.size and not (code.qmin <= stored.min() and stored.max() <= code.qmax):
        unused = 8 - code.bits
        return stored << unused >> unused if code.signed else stored & code.qmax
    return stored


def code(owner: str, value: Any, types: dict[str, CodeType] = CODE_TYPES) -> CodeType:
    found = code_type(value)
    if found is None or found.name not in types:
        raise TypeError(must(owner, "dtype", listed(list(types)), typed(value)))
    return found


def floating(owner: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> FloatType:
    found = float_type(value)
    if found is None or found.name not in types:
        raise TypeError(must(owner, "dtype", listed(list(types)), typed(value)))
    return found


def choice(owner: str, name: str, value: Any, choices: dict[str, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, choices))
        raise ValueError(must(owner, name, f"one of {names}", typed(value))) from None


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
        return _flat(shape)
    axis = normalize_axis(owner, integer(owner, "axis", axis), len(shape))
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if block_size is None:
        return Layout((outer, shape[axis], inner, 0), (shape[axis],), axis)
    block = integer(owner, "block_size", block_size)
    if block < 1:
        raise ValueError(must(owner, "block_size", "at least 1", str(block)))
    block = min(block, max(shape[axis], 1))
    blocks = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    return Layout((outer, shape[axis], inner, block), blocks, axis)


@lru_cache(256)
def _flat(shape: tuple[int, ...]) -> Layout:
    return Layout((1, 1, math.prod(shape), 0), (), None)


def scales(owner: str, name: str, value: Any, where: Layout) -> Array | float:
    """Return scale as checked C-contiguous float32 of the parameters' shape; a scalar serves every channel.

    The common case, one number for one tensor, stays a number: it is faster than an array.
    """
    if type(value) in _SCALARS and where.axis is None and TINY <= (number := float(value)) <= HUGE:
        return number
    return _fitted(owner, name, _check.scale(owner, name, value), where)


def zero_points(owner: str, value: Any, where: Layout, low: int, high: int) -> Array | int:
    """Return zero_point as checked C-contiguous int32 of the parameters' shape, or one number as it is."""
    if type(value) in _INTEGERS and where.axis is None and low <= (number := int(value)) <= high:
        return number
    return _fitted(owner, "zero_point", _check.zero_point(owner, value, low, high), where)


def _fitted(owner: str, name: str, given: Array, where: Layout) -> Array:
    if given.shape == where.shape or (where.axis is None and given.size == 1):
        return given
    if given.ndim == 0:
        return np.full(where.shape, given)
    wanted = f"() or {where.shape}" if where.axis is not None else "() when axis is None"
    raise ValueError(must(owner, name, f"of shape {wanted}", f"shape {given.shape}"))


def output(owner: str, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], *inputs: Array | float) -> Array:
    """Return `out` if it is what a kernel may write to, or a new array when it is None."""
    if out is None:
        return np.empty(shape, dtype)
    if _core.output_fits(out, dtype, shape, *inputs):
        return out  # type: ignore[no-any-return]
    if not isinstance(out, np.ndarray):
        raise TypeError(must(owner, "out", "an array", typed(out)))
    if out.dtype is not dtype and (out.dtype != dtype or not out.dtype.isnative):
        raise TypeError(must(owner, "out", f"of dtype {dtype}", f"dtype {out.dtype}"))
    if out.shape != shape:
        raise ValueError(must(owner, "out", f"of shape {shape}", f"shape {out.shape}"))
    if not out.flags.carray:
        if out.flags.c_contiguous and out.flags.aligned:
            raise ValueError(must(owner, "out", "writable", "a read-only array"))
        raise ValueError(must(owner, "out", "C-contiguous and aligned", f"strides {out.strides}"))
    for given in inputs:
        if isinstance(given, np.ndarray) and _core.overlap(out, given):
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


def stored(array: Array, storage: np.dtype[Any]) -> Array:
    """View an ml_dtypes or float16 array as the plain integers with the same bytes, its byte order kept."""
    if array.dtype == storage or array.dtype.itemsize != storage.itemsize:
        return array
    return array.view(storage if array.dtype.isnative else storage.newbyteorder())


def permuted(
    owner: str, source: Array, where: Any, scale: Any, zero: Any, order: tuple[int, ...], block_size: int | None
) -> tuple[Array, Any, Any, Any]:
    """The same operation on the transpose that is C-contiguous."""
    source = source.transpose(order)
    if where.axis is None:
        return source, where, scale, zero
    axis = order.index(where.axis)
    if block_size is not None and scale is not None and zero is not None:
        scale, zero = np.ascontiguousarray(scale.transpose(order)), np.ascontiguousarray(zero.transpose(order))
    return source, layout(owner, source.shape, axis, block_size), scale, zero


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
