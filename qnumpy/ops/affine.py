"""Elementwise operations for arguments that are checked.

A result has the memory layout of the source where that is a permutation of C order, else C order; so has `out`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .. import _args, _core
from .._typing import Array, Float32Array, Int32Array, UInt8Array
from ..dtypes import CodeType, FloatType

__all__ = ["Affine", "dequantize", "fake_quantize", "fake_quantize_inside", "quantize", "result_like"]


class Affine(NamedTuple):
    """Parameters as kernels take them, for arrays of one shape."""

    layout: _args.Layout
    scale: Float32Array | float  # a number where there is one
    zero_point: Int32Array | int
    qmin: int
    qmax: int


def quantize(
    source: Array, float_type: FloatType, affine: Affine, code: CodeType, rounding: int = 0, out: Array | None = None
) -> Array:
    """Return the codes of an array."""
    y = result_like(source, code.dtype) if out is None else out
    x, codes, (layout, scale, zero_point, qmin, qmax) = in_memory_order(source, y, affine)
    _core.quantize(x, float_type.core, scale, zero_point, codes, code.core, *layout.grid, qmin, qmax, rounding)
    return y


def dequantize(source: Array, code: CodeType, affine: Affine, float_type: FloatType, out: Array | None = None) -> Array:
    """Return the real numbers that codes stand for."""
    y = result_like(source, float_type.dtype) if out is None else out
    q, reals, (layout, scale, zero_point, _, _) = in_memory_order(source, y, affine)
    _core.dequantize(q, code.core, scale, zero_point, reals, float_type.core, *layout.grid)
    return y


def fake_quantize(
    source: Array, float_type: FloatType, affine: Affine, rounding: int = 0, out: Array | None = None
) -> Array:
    """Return qnumpy.fake_quantize of an array."""
    y = result_like(source, float_type.dtype) if out is None else out
    x, reals, (layout, scale, zero_point, qmin, qmax) = in_memory_order(source, y, affine)
    number = float_type.core
    _core.fake_quantize(x, number, scale, zero_point, reals, number, *layout.grid, qmin, qmax, rounding)
    return y


def fake_quantize_inside(
    source: Array,
    float_type: FloatType,
    affine: Affine,
    rounding: int = 0,
    out: Array | None = None,
    bits: UInt8Array | None = None,
) -> tuple[Array, UInt8Array]:
    """Return qnumpy.fake_quantize of an array, and a bit for each element in the order of memory: it is inside."""
    y = result_like(source, float_type.dtype) if out is None else out
    bits = np.empty(-(-source.size // 8), np.uint8) if bits is None else bits
    x, reals, (layout, scale, zero_point, qmin, qmax) = in_memory_order(source, y, affine)
    number = float_type.core
    _core.fake_quantize_inside(x, number, scale, zero_point, reals, number, bits, *layout.grid, qmin, qmax, rounding)
    return y, bits


def result_like(source: Array, dtype: DTypeLike) -> Array:
    """Return an array that a kernel fills."""
    if source.flags.c_contiguous:
        return np.empty(source.shape, dtype)
    return np.empty_like(source, dtype, "K" if _args.memory_order(source) else "C", subok=False)


def in_memory_order(source: Array, out: Array, affine: Affine) -> tuple[Array, Array, Affine]:
    """Return source, out and parameters transposed to C order, where that is possible."""
    order = _args.memory_order(source)
    if order is None:
        return source, out, affine
    layout, scale, zero_point = _args.transposed(affine.layout, order, source.shape, affine.scale, affine.zero_point)
    moved = affine._replace(layout=layout, scale=scale, zero_point=zero_point)
    return source.transpose(order), out.transpose(order), moved
