"""Blocks of narrow floats that share a scale: MX formats and NVFP4."""

import math

import numpy as np

from .. import _args, _core
from .._typing import Array, DType, Float32Array
from ..dtypes import FloatType
from ..granularity import PerGroup
from .quantize import dequantize_packed

__all__ = ["dequantize_blocks", "quantize_blocks"]


def quantize_blocks(
    x: Array,
    float_type: FloatType,
    element: FloatType,
    scale_type: FloatType,
    group_size: int,
    tensor_scale: np.float32 | None = None,
) -> tuple[Array, Array]:
    """Return the codes and the scale of each block of `group_size` neighbours along the last axis.

    Codes narrower than a byte are packed. With a tensor_scale the scales are multiples of it; without one they are
    powers of two. Rounds half to even.
    """
    allocate = np.zeros if group_size * element.bits % 8 else np.empty  # blocks may share a byte
    codes = allocate(element.packed_shape(x.shape), np.uint8)
    scales = np.empty(PerGroup(group_size).params_shape(x.shape), np.uint8)
    exponent = math.frexp(element.largest)[1] - 1
    _core.quantize_blocks(
        x, float_type.core, math.prod(x.shape[:-1]), x.shape[-1], element.core,
        group_size, exponent, element.largest, float(tensor_scale or 0), codes, scales,
    )  # fmt: skip
    return codes if element.is_packed else codes.view(element.dtype), scales.view(scale_type.dtype)


def dequantize_blocks(
    owner: str,
    held: Array,
    element: FloatType,
    shape: tuple[int, ...],
    scale: Float32Array,
    group_size: int,
    dtype: DType,
    out: Array | None,
) -> Array:
    """Return ``scale * codes``; unlike a QParams, blocks may have scales that are NaN or subnormal."""
    real = _args.floating(owner, dtype)
    layout = _args.layout(owner, shape, -1, group_size)
    scale = np.ascontiguousarray(scale)
    zero = np.zeros(scale.shape, np.int32)
    if element.is_packed:
        return dequantize_packed(owner, held, element, shape, layout, scale, zero, dtype, out)
    return _args.elementwise(owner, _core.dequantize, held, element, layout, scale, zero, real, out)
