"""The seam: what users pass becomes what the kernels take.

A grid is the tuple (outer, channels, inner, block) over a C-contiguous view; see csrc/kernels/base/qn_types.h.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _check, _core
from ._check import HUGE, TINY, array, integer, must, typed
from ._typing import Array
from .dtypes import CODE_TYPES, FLOAT_TYPES, REAL_TYPES, CodeType, FloatType, code_type, float_type
from .granularity import Granularity, Grid, PerTensor, from_axis_block
from .granularity import granularity as granularity
from .qparams import QParams

__all__: list[str] = []

_CODES = {kind.dtype: kind for kind in CODE_TYPES.values()}  # a look-up by dtype is faster than one by name
_FLOATS = {kind.dtype: kind for kind in FLOAT_TYPES.values()}
_SCALARS, _INTEGERS = {float, np.float32}, {int, np.int8, np.uint8, np.int32}
_PER_TENSOR = PerTensor()
CONVENTIONS = {"onnx": 0, "guide": 1, "torch": 2, "tflite": 3}
METHODS = {"float": 0, "fixed": 1, "fixed_double": 2}


# ---- one argument by itself: an array, a dtype, a choice ----


def listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def real(owner: str, name: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> tuple[Array, FloatType]:
    """Return an array of one of `types` and the type; Python numbers become float64."""
    source = value if type(value) is np.ndarray else array(owner, name, value)
    kind = _FLOATS.get(source.dtype) or float_type(source.dtype)
    if kind is None or kind.name not in types:
        if source.dtype.kind in "iub" and type(value) is not np.ndarray and not isinstance(value, np.generic):
            return real(owner, name, source.astype(np.float64))  # a Python list or number
        raise TypeError(must(owner, name, f"an array of {listed(list(types))}", f"dtype {source.dtype}"))
    return source, kind


def codes(owner: str, name: str, value: Any, types: dict[str, CodeType] = CODE_TYPES) -> tuple[Array, CodeType]:
    """Return an array of one of `types` and the type."""
    source = value if type(value) is np.ndarray else array(owner, name, value)
    kind = _CODES.get(source.dtype) or code_type(source.dtype)
    if kind is None or kind.name not in types:
        raise TypeError(must(owner, name, f"an array of {listed(list(types))}", f"dtype {source.dtype}"))
    return source, kind


def plain(source: Array, code: CodeType) -> Array:
    """Return codes as plain integers, a view where it can be.

    Only the low bits of a 4- or 2-bit code count. ml_dtypes' casts leave the others zero; here they hold the sign.
    """
    if code.bits >= 8 or code.real is not None:
        return source
    integers = source.view(code.storage)
    if integers.size and not (code.qmin <= integers.min() and integers.max() <= code.qmax):
        unused = 8 - code.bits
        return integers << unused >> unused if code.signed else integers & code.qmax
    return integers


def code(owner: str, value: Any, types: dict[str, CodeType] = CODE_TYPES) -> CodeType:
    kind = (types.get(value) if type(value) is str else None) or code_type(value)
    if kind is None or kind.name not in types:
        raise TypeError(must(owner, "dtype", listed(list(types)), typed(value)))
    return kind


def floating(owner: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> FloatType:
    kind = (types.get(value) if type(value) is str else None) or float_type(value)
    if kind is None or kind.name not in types:
        raise TypeError(must(owner, "dtype", listed(list(types)), typed(value)))
    return kind


def choice(owner: str, name: str, value: Any, choices: dict[str, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, choices))
        raise ValueError(must(owner, name, f"one of {names}", typed(value))) from None


# ---- which parameter serves which element ----


class Layout(NamedTuple):
    """A granularity of an array of one shape: the kernels' grid and the shape of scale and zero_point."""

    grid: Grid
    shape: tuple[int, ...]
    granularity: Granularity


@lru_cache(512)
def layout_of(owner: str, granularity: Granularity, shape: tuple[int, ...]) -> Layout:
    """Return the layout of an array of `shape`; raise ValueError where the granularity's axis does not fit it."""
    granularity.check(owner, shape)
    return Layout(granularity.grid(shape), granularity.params_shape(shape), granularity)


@lru_cache(512)
def _flat(shape: tuple[int, ...]) -> Layout:
    return layout_of("", _PER_TENSOR, shape)  # without a hash of the granularity, which is written in Python


@lru_cache(512)
def _layout_of_axis(owner: str, axis: int, block_size: int | None, shape: tuple[int, ...]) -> Layout:
    return layout_of(owner, from_axis_block(axis, block_size), shape)


def layout(owner: str, shape: tuple[int, ...], axis: Any, block_size: Any) -> Layout:
    """Return the layout that ONNX's (axis, block_size) means for an array of `shape`."""
    if axis is None:
        if block_size is not None:
            raise ValueError(must(owner, "axis", "given with block_size", "None"))
        return _flat(shape)
    axis = integer(owner, "axis", axis)
    if block_size is not None:
        block_size = integer(owner, "block_size", block_size)
        if block_size < 1:
            raise ValueError(must(owner, "block_size", "at least 1", str(block_size)))
    return _layout_of_axis(owner, axis, block_size, shape)


def qparams_layout(owner: str, value: Any, shape: tuple[int, ...]) -> Layout:
    """Return the layout of an array of `shape` with the parameters `value`; raise unless it is a QParams that fits."""
    if not isinstance(value, QParams):
        raise TypeError(must(owner, "qparams", "a QParams", typed(value)))
    layout = layout_of(owner, value.granularity, shape)
    if value.scale.shape != layout.shape:
        wanted = f"of scale shape {layout.shape} for an array of shape {shape}"
        raise ValueError(must(owner, "qparams", wanted, f"{value.scale.shape}"))
    return layout


def qparams(owner: str, value: Any, shape: tuple[int, ...]) -> QParams:
    """Return `value` if it is a QParams whose parameters fit an array of `shape`."""
    qparams_layout(owner, value, shape)
    return value  # type: ignore[no-any-return]


def scales(owner: str, name: str, value: Any, layout: Layout) -> Array | float:
    """Return scale as checked C-contiguous float32 of the parameters' shape; a scalar serves every channel.

    The common case, one number for one tensor, stays a number: it is faster than an array.
    """
    if type(value) in _SCALARS and not layout.shape and TINY <= (number := float(value)) <= HUGE:
        return number
    return _fitted(owner, name, _check.scale(owner, name, value), layout)


def zero_points(owner: str, value: Any, layout: Layout, low: int, high: int) -> Array | int:
    """Return zero_point as checked C-contiguous int32 of the parameters' shape, or one number as it is; None is 0."""
    if value is None:
        return np.zeros(layout.shape, np.int32) if layout.shape else 0
    if type(value) in _INTEGERS and not layout.shape and low <= (number := int(value)) <= high:
        return number
    return _fitted(owner, "zero_point", _check.zero_point(owner, value, low, high), layout)


def _fitted(owner: str, name: str, params: Array, layout: Layout) -> Array:
    if params.shape == layout.shape or (not layout.shape and params.size == 1):
        return params
    if params.ndim == 0:
        return np.full(layout.shape, params)
    wanted = f"() or {layout.shape}" if layout.shape else "() when axis is None"
    raise ValueError(must(owner, name, f"of shape {wanted}", f"shape {params.shape}"))


# ---- memory: the order of the axes, the bytes, the output ----


def memory_order(source: Array, out: Any) -> tuple[int, ...] | None:
    """Return the axes in the order memory holds them, if that makes `source` C-contiguous and is not C order.

    Results then keep the layout of `source` in memory.
    """
    if out is not None or source.ndim < 2 or source.flags.c_contiguous:
        return None
    order = tuple(sorted(range(source.ndim), key=lambda d: -source.strides[d]))
    return order if source.transpose(order).flags.c_contiguous else None


def unpermuted(result: Array, order: tuple[int, ...] | None) -> Array:
    """Return the array of which `result` is the transpose by `order`."""
    return result if order is None else result.transpose(sorted(range(len(order)), key=order.__getitem__))


def stored(source: Array, storage: np.dtype[Any]) -> Array:
    """View an ml_dtypes or float16 array as the plain integers with the same bytes, its byte order kept."""
    if source.dtype == storage or source.dtype.itemsize != storage.itemsize:
        return source
    return source.view(storage if source.dtype.isnative else storage.newbyteorder())


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
    for operand in inputs:
        if isinstance(operand, np.ndarray) and _core.overlap(out, operand):
            raise ValueError(must(owner, "out", "apart from the input in memory", "an array that overlaps it"))
    return out


# ---- the protocol ----


def elementwise(
    owner: str,
    kernel: Callable[..., None],
    source: Array,
    kind: CodeType | FloatType,
    layout: Layout | None,
    scale: Any,
    zero: Any,
    result_kind: CodeType | FloatType,
    out: Any,
    *options: Any,
) -> Array:
    """Run a kernel that makes one element of each: the steps that all such functions share.

    The caller has settled the type of `source`, the layout and the parameters; a kernel without parameters has no
    layout. Here come the memory order, the permutation, the output, the bytes that the kernel reads and writes, the
    kernel with its options, and the permutation back.
    """
    order = memory_order(source, out) if out is None and source.ndim > 1 else None
    if order is not None:
        if layout is not None:
            granularity = layout.granularity
            scale, zero = granularity.permute(scale, order), granularity.permute(zero, order)
            layout = _permuted(granularity, order, source.shape)
        source = source.transpose(order)
    dtype, storage = result_kind.dtype, result_kind.storage
    shape = source.shape
    result = np.empty(shape, dtype) if out is None else output(owner, out, dtype, shape, source, scale, zero)
    if layout is None:
        kernel(source, kind.core, result, result_kind.core, *options)
    else:
        kernel(
            source if source.dtype is kind.storage else stored(source, kind.storage), kind.core, scale, zero,
            result if dtype is storage else result.view(storage), result_kind.core, *layout.grid, *options,
        )  # fmt: skip
    return result if order is None else unpermuted(result, order)


@lru_cache(512)
def _permuted(granularity: Granularity, order: tuple[int, ...], shape: tuple[int, ...]) -> Layout:
    permuted, transposed = granularity.permuted(order, shape), tuple(shape[d] for d in order)
    return Layout(permuted.grid(transposed), permuted.params_shape(transposed), permuted)
