"""The seam: what users pass becomes what the kernels take.

A grid is the tuple (outer, channels, inner, block) over a C-contiguous view; see csrc/kernels/base/qn_types.h.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _check, _core
from ._check import HUGE, TINY, alternatives, array, flag, got, integer, is_python, must, typed
from ._typing import Array
from .dtypes import CODE_TYPES, FLOAT_TYPES, REAL_TYPES, CodeType, FloatType, code_type, float_type
from .granularity import Granularity, Grid, from_axis_block
from .granularity import granularity as granularity
from .qparams import QParams

__all__: list[str] = []

_CODES = {code.key: code for code in CODE_TYPES.values()}  # a look-up by dtype is faster than one by name
_FLOATS = {real.dtype: real for real in FLOAT_TYPES.values()}
_SCALARS, _INTEGERS = {float, np.float32}, {int, np.int8, np.uint8, np.int32}  # types of one scale, one zero point
CONVENTIONS = {"onnx": 0, "guide": 1, "torch": 2, "tflite": 3}
METHODS = {"float": 0, "fixed": 1, "fixed_double": 2}


# ---- one argument by itself: an array, a dtype, a choice ----


def real(owner: str, name: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> tuple[Array, FloatType]:
    """Return an array of one of `types` and the type; Python numbers become float64, or float32 where it is none."""
    source = value if type(value) is np.ndarray else array(owner, name, value)
    source_type = _FLOATS.get(source.dtype) or float_type(source.dtype)
    if source_type is None or source_type.name not in types:
        if is_python(value, source):
            with np.errstate(over="ignore"):  # to infinity
                return real(owner, name, source.astype(np.float64 if "float64" in types else np.float32), types)
        raise TypeError(must(owner, name, f"an array of {alternatives(types)}", got(value, source)))
    return source, source_type


def codes(owner: str, name: str, value: Any, types: dict[str, CodeType] = CODE_TYPES) -> tuple[Array, CodeType]:
    """Return an array of one of `types` and the type."""
    source = value if type(value) is np.ndarray else array(owner, name, value, "Use q.codes first.")
    source_type = _CODES.get(source.dtype) or code_type(source.dtype)
    if source_type is None or source_type.name not in types:
        dtypes = [own.name for own in types.values() if not own.is_named]
        raise TypeError(must(owner, name, f"an array of {alternatives(dtypes)}", got(value, source)))
    return source, source_type


def plain(source: Array, code: CodeType) -> Array:
    """Return codes as plain integers: a view, or a copy where a byte holds more than its code.

    Only the low bits of an int4, uint4, int2 or uint2 count. Casts of ml_dtypes clear the others; here they repeat the
    sign.
    """
    if code.bits >= 8 or code.real is not None or code.is_named:
        return source
    integers = source.view(code.storage)
    if integers.size and not (code.qmin <= integers.min() and integers.max() <= code.qmax):
        unused = 8 - code.bits
        return integers << unused >> unused if code.signed else integers & code.qmax
    return integers


def code(owner: str, value: Any, types: dict[str, CodeType] = CODE_TYPES, more: Iterable[str] = ()) -> CodeType:
    """Return a code type; `more` are names that the caller takes besides, for the message."""
    result = (types.get(value) if type(value) is str else None) or code_type(value)
    if result is None or result.name not in types:
        real_type = float_type(value)
        mend = "" if real_type is None else f" qnumpy.cast converts to {real_type.name}."
        raise TypeError(must(owner, "dtype", alternatives([*types, *more]), typed(value)) + mend)
    return result


def floating(owner: str, value: Any, types: dict[str, FloatType] = REAL_TYPES) -> FloatType:
    result = (types.get(value) if type(value) is str else None) or float_type(value)
    if result is None or result.name not in types:
        raise TypeError(must(owner, "dtype", alternatives(types), typed(value)))
    return result


def choice(owner: str, name: str, value: Any, choices: dict[str, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, choices))
        raise ValueError(must(owner, name, f"one of {names}", typed(value))) from None


# ---- which parameter serves which element ----


class Layout(NamedTuple):
    """A granularity, with the grid and the shape of the parameters that it has for an array of one shape."""

    grid: Grid
    shape: tuple[int, ...]  # of scale and zero_point
    granularity: Granularity


@lru_cache(512)
def layout_of(owner: str, granularity: Granularity, shape: tuple[int, ...]) -> Layout:
    """Return the layout of an array of `shape`; raise ValueError unless it has the axis."""
    granularity.check(owner, shape)
    return Layout(granularity.grid(shape), granularity.params_shape(shape), granularity)


@lru_cache(512)  # without it a call hashes the granularity, in Python
def _layout_of_axis(owner: str, axis: int | None, block_size: int | None, shape: tuple[int, ...]) -> Layout:
    return layout_of(owner, from_axis_block(axis, block_size), shape)


def layout(owner: str, shape: tuple[int, ...], axis: Any, block_size: Any) -> Layout:
    """Return the layout that ONNX's (axis, block_size) means for an array of `shape`."""
    if axis is None:
        if block_size is not None:
            raise ValueError(must(owner, "axis", "given with block_size", "None"))
    else:
        axis = integer(owner, "axis", axis)
        if block_size is not None:
            block_size = integer(owner, "block_size", block_size)
            if block_size < 1:
                raise ValueError(must(owner, "block_size", "at least 1", str(block_size)))
    return _layout_of_axis(owner, axis, block_size, shape)


def qparams_layout(owner: str, value: Any, shape: tuple[int, ...]) -> Layout:
    """Return the layout that a QParams has for an array of `shape`; raise unless the parameters fit."""
    if not isinstance(value, QParams):
        raise TypeError(must(owner, "qparams", "a QParams", typed(value)))
    layout = layout_of(owner, value.granularity, shape)
    if value.scale.shape != layout.shape:
        requirement = f"of scale shape {layout.shape} for an array of shape {shape}"
        raise ValueError(must(owner, "qparams", requirement, f"{value.scale.shape}"))
    return layout


def qparams(owner: str, value: Any, shape: tuple[int, ...]) -> QParams:
    """Return `value` if it is a QParams whose parameters fit an array of `shape`."""
    qparams_layout(owner, value, shape)
    return value  # type: ignore[no-any-return]


def agree_with_qparams(
    owner: str, params: QParams, layout: Layout, shape: tuple[int, ...], dtype: Any, wanted: Any, symmetric: Any
) -> None:
    """Raise for an argument that says something else than the parameters of an array beside it; None says nothing."""
    if dtype is not None and code_type(dtype) is not params.code:
        raise ValueError(must(owner, "dtype", f"left out or {params.code.name} like qparams", typed(dtype)))
    # Compared by their grids: PerChannel(-1) may be PerChannel(1).
    if wanted is not None and layout_of(owner, granularity(owner, wanted), shape)[:2] != layout[:2]:
        requirement = f"left out or {params.granularity} like qparams"
        raise ValueError(must(owner, "granularity", requirement, typed(wanted)))
    if isinstance(symmetric, str) and symmetric == "full":
        middle, real = params.code.symmetric_zero_point, params.code.real
        whole = (params.qmin, params.qmax) == (params.code.qmin, params.code.qmax)
        if real is not None or not whole or not np.isin(params.zero_point, (middle - 1, middle)).all():
            raise ValueError(must(owner, "symmetric", "left out or that of qparams", "'full'"))
    elif symmetric is not None and flag(owner, "symmetric", symmetric) not in params.schemes:
        raise ValueError(must(owner, "symmetric", f"left out or {not symmetric} like qparams", typed(symmetric)))


def scales(owner: str, name: str, value: Any, layout: Layout) -> Array | float:
    """Return scale as checked C-contiguous float32 of the parameters' shape; a scalar serves every channel.

    One number for one tensor, the common case, stays a number: making an array takes longer.
    """
    if type(value) in _SCALARS and not layout.shape and TINY <= (number := float(value)) <= HUGE:
        return number
    return _fit(owner, name, _check.scale(owner, name, value), layout)


def zero_points(owner: str, value: Any, layout: Layout, low: int, high: int) -> Array | int:
    """Return zero_point as checked C-contiguous int32 of the parameters' shape, or one number as it is; None is 0."""
    if value is None:
        return np.zeros(layout.shape, np.int32) if layout.shape else 0
    if type(value) in _INTEGERS and not layout.shape and low <= (number := int(value)) <= high:
        return number
    return _fit(owner, "zero_point", _check.zero_point(owner, value, low, high), layout)


def _fit(owner: str, name: str, params: Array, layout: Layout) -> Array:
    if params.shape == layout.shape or (not layout.shape and params.size == 1):
        return params
    if params.ndim == 0:
        return np.full(layout.shape, params)
    requirement = f"() or {layout.shape}" if layout.shape else "() when axis is None"
    raise ValueError(must(owner, name, f"of shape {requirement}", f"shape {params.shape}"))


# ---- memory: the order of the axes, the output ----


def memory_order(source: Array) -> tuple[int, ...] | None:
    """Return the axes in the order of memory, None unless that order differs from C order and has no gaps.

    A kernel reads the transpose by this order; its results keep the layout of `source`.
    """
    if source.ndim < 2 or source.flags.c_contiguous:
        return None
    order = tuple(sorted(range(source.ndim), key=lambda d: -source.strides[d]))
    return order if source.transpose(order).flags.c_contiguous else None


def output(owner: str, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], *inputs: Array | float) -> Array:
    """Return `out` if a kernel may write to it, a new array if it is None; raise for any other `out`."""
    if out is None:
        return np.empty(shape, dtype)
    if _core.output_fits(out, dtype, shape, *inputs) and not isinstance(out, np.ma.MaskedArray):
        return out  # type: ignore[no-any-return]
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
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


# ---- the call of a kernel ----


def elementwise(
    owner: str,
    kernel: Callable[..., None],
    source: Array,
    source_type: CodeType | FloatType,
    layout: Layout | None,
    scale: Any,  # an array, or one number for one tensor
    zero_point: Any,
    result_type: CodeType | FloatType,
    out: Any,
    *options: Any,
) -> Array:
    """Run a kernel that maps each element to one element; the result has the memory layout of `source`.

    The caller has checked the source, the layout and the parameters. A kernel without parameters has no layout.
    """
    order = memory_order(source) if out is None and source.ndim > 1 else None
    if order is not None:
        if layout is not None:
            layout, scale, zero_point = transposed(layout, order, source.shape, scale, zero_point)
        source = source.transpose(order)
    if out is None:
        result = np.empty(source.shape, result_type.dtype)
    else:
        result = output(owner, out, result_type.dtype, source.shape, source, scale, zero_point)
    if layout is None:
        kernel(source, source_type.core, result, result_type.core, *options)
    else:
        kernel(source, source_type.core, scale, zero_point, result, result_type.core, *layout.grid, *options)
    return result if order is None else result.transpose(sorted(range(len(order)), key=order.__getitem__))


def transposed(
    layout: Layout, order: tuple[int, ...], shape: tuple[int, ...], scale: Any, zero_point: Any
) -> tuple[Layout, Any, Any]:
    """Return the layout and the parameters of ``x.transpose(order)`` for an x of `shape`."""
    granularity = layout.granularity
    scale, zero_point = granularity.permute(scale, order), granularity.permute(zero_point, order)
    return _transposed(granularity, order, shape), scale, zero_point


@lru_cache(512)
def _transposed(granularity: Granularity, order: tuple[int, ...], shape: tuple[int, ...]) -> Layout:
    return layout_of("", granularity.permuted(order, shape), tuple(shape[d] for d in order))
