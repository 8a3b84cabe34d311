"""Kernels of blocks that share a scale, on every row, against the NumPy twin; for all widths of a block."""

import numpy as np
import pytest
from strategies import LAYOUTS, SOURCES, assert_same_bits

from qnumpy import testing as twin
from qnumpy._packing import pack_rows, unpack_rows
from qnumpy.dtypes import FLOAT_TYPES, REAL_TYPES
from qnumpy.ops.blocks import dequantize_blocks, quantize_blocks
from qnumpy.testing.floats import unpacked

ELEMENTS = ["float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"]
POWERS, STEPS = FLOAT_TYPES["float8_e8m0fnu"], FLOAT_TYPES["float8_e4m3fn"]


def hard(shape, source="float32", seed=0):
    """Magnitudes from 2^-8 to 2^8, ties, zeros of both signs, a NaN and infinities."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, (*shape[:-1], 1))
    x = np.where(rng.random(shape) < 0.3, np.round(x * 4) / 4, x)
    x = np.where(rng.random(shape) < 0.03, rng.choice([0.0, -0.0, np.inf, -np.inf]), x)
    x = np.where(rng.random(shape) < 0.003, np.nan, x)
    with np.errstate(over="ignore"):
        return x.astype(SOURCES[source])


def quantized(x, element, group_size, tensor_scale=None):
    """The codes, unpacked, and the scales."""
    scale_type, element = POWERS if tensor_scale is None else STEPS, FLOAT_TYPES[element]
    held, scales = quantize_blocks(x, REAL_TYPES[x.dtype.name], element, scale_type, group_size, tensor_scale)
    assert held.nbytes == element.packed_nbytes(x.shape)
    return unpack_rows(held, element, x.shape) if element.is_packed else held, scales


def values(codes, scale, group_size, dtype="float32", out=None):
    element = FLOAT_TYPES[codes.dtype.name]
    held = pack_rows(codes, element) if element.is_packed else codes
    return dequantize_blocks("test", held, element, codes.shape, scale, group_size, dtype, out)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("group_size", [1, 7, 16, 32, 33, 128])
def test_codes_and_scales(group_size, element, row):
    """Powers of two, and steps of a scale of the tensor."""
    for n in (0, 1, 15, 16, 31, 70, 257):
        for source in ("float32", "bfloat16"):
            x = hard((3, n), source)
            for tensor_scale in (None, np.float32(0.01)):
                codes, scales = quantized(x, element, group_size, tensor_scale)
                types = REAL_TYPES[source], FLOAT_TYPES[element], POWERS if tensor_scale is None else STEPS
                want = twin.quantize_blocks(x, *types, group_size, tensor_scale)
                assert_same_bits(codes, unpacked(want[0], types[1], n), f"n = {n}, {source}, {tensor_scale}")
                assert_same_bits(scales, want[1], f"n = {n}, {source}, {tensor_scale}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x = hard((4, 5, 70))
    codes, scales = quantized(x, "float6_e2m3fn", 32)
    got = quantized(LAYOUTS[layout](x), "float6_e2m3fn", 32)
    assert_same_bits(got[0], codes)
    assert_same_bits(got[1], scales)
    assert_same_bits(
        values(LAYOUTS[layout](codes), scales.astype(np.float32), 32), codes.astype(np.float32) * spread(scales, 70)
    )


def spread(scales, n):
    return np.repeat(scales.astype(np.float32), 32, -1)[..., :n]


@pytest.mark.parametrize("element", ELEMENTS)
def test_values(element, row):
    """Scales from the smallest, which is subnormal in float32, to NaN."""
    x = hard((6, 77)) * np.float32(2.0) ** np.array([-140, -20, 0, 20, 100, 0], np.float32)[:, None]
    codes, scales = quantized(x, element, 32)
    assert scales.view(np.uint8).min() == 0
    with np.errstate(over="ignore", invalid="ignore"):
        want = codes.astype(np.float32) * spread(scales, 77)
        np.testing.assert_array_equal(values(codes, scales.astype(np.float32), 32), want)
        for dtype in ("float64", "float16", "bfloat16"):
            got = values(codes, scales.astype(np.float32), 32, dtype)
            narrow = want.astype(REAL_TYPES[dtype].dtype)
            assert got.dtype == narrow.dtype
            np.testing.assert_array_equal(got.astype(np.float64), narrow.astype(np.float64))
    out = np.empty((6, 77), np.float32)
    assert values(codes, scales.astype(np.float32), 32, out=out) is out
    np.testing.assert_array_equal(out, want)
