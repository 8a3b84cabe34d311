"""dequantize_linear against its NumPy twin, bit for bit."""

import numpy as np
import pytest
from strategies import CODES, GRIDS, LAYOUTS, SIZES, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type


def problem(grid, n, code):
    """Codes of the whole range, with parameters."""
    _, scale, zero = case(grid, n, code, np.float32)
    info = code_type(code)
    plain = np.random.default_rng(n).integers(info.qmin, info.qmax + 1, grid.of(n))
    return plain.astype(info.storage).view(info.dtype), scale, zero


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("code", CODES)
def test_every_layout_and_size(code, grid):
    grid = GRIDS[grid]
    for n in SIZES:
        q, scale, zero = problem(grid, n, code)
        for target in SOURCES if n % 10 == 7 else ["float32"]:
            want = twin.dequantize_linear(q, scale, zero, dtype=target, **grid.where)
            for name, layout in LAYOUTS.items():
                got = qn.dequantize_linear(layout(q), scale, zero, dtype=target, **grid.where)
                assert_same_bits(got, want, f"{name} to {target}, n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("target", SOURCES)
def test_beyond_one_tile(target, grid):
    grid = GRIDS[grid]
    for n in (2047, 2049, 5000, 33000):
        q, scale, zero = problem(grid, n, "int8")
        want = twin.dequantize_linear(q, scale, zero, dtype=target, **grid.where)
        for name in ("c", "rolled", "strided", "reversed"):
            got = qn.dequantize_linear(LAYOUTS[name](q), scale, zero, dtype=target, **grid.where)
            assert_same_bits(got, want, f"{name}, n = {n}")


@pytest.mark.parametrize("code", [name for name in CODES if code_type(name).bits <= 8])
def test_every_code_and_zero_point(code):
    info = code_type(code)
    every = np.arange(info.qmin, info.qmax + 1)
    q = every.astype(info.storage).view(info.dtype)
    for zero in every:
        for scale in (np.float32(0.1), np.float32(1 / 3)):
            want = (every - zero).astype(np.float32) * scale
            assert_same_bits(qn.dequantize_linear(q, scale, zero), want, f"zero point {zero}")


@pytest.mark.parametrize("code", ["int16", "uint16"])
def test_every_code_of_16_bits(code):
    info = code_type(code)
    every = np.arange(info.qmin, info.qmax + 1)
    for zero in (info.qmin, -1 if info.signed else 1, 0, 12345, info.qmax):
        want = (every - zero).astype(np.float32) * np.float32(0.1)
        assert_same_bits(qn.dequantize_linear(every.astype(info.dtype), 0.1, zero), want, f"zero point {zero}")


@pytest.mark.parametrize("code", ["int4", "uint4", "int2", "uint2"])
def test_only_the_low_bits_of_a_byte_are_the_code(code):
    """ml_dtypes may leave anything in the upper bits; its own cast is the oracle."""
    info = code_type(code)
    dirty = np.arange(256, dtype=np.uint8).view(info.dtype)
    assert_same_bits(qn.dequantize_linear(dirty, 0.5), dirty.astype(np.float32) * np.float32(0.5))


def test_accumulators():
    edges = [0, 1, -1, 2**24, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31), 2**31 - 64, 123456789]
    acc = np.array(edges * 7, np.int32)
    for layout in LAYOUTS.values():
        got = qn.dequantize_linear(layout(acc), 0.1)
        assert_same_bits(got, acc.astype(np.float32) * np.float32(0.1))
    each = np.linspace(0.1, 2, 7).astype(np.float32)
    got = qn.dequantize_linear(acc.reshape(7, -1), each, axis=0)
    assert_same_bits(got, acc.reshape(7, -1).astype(np.float32) * each[:, None])
    want = r"^dequantize_linear: zero_point must be in \[0, 0\]; got 1\.$"
    with pytest.raises(ValueError, match=want):
        qn.dequantize_linear(acc, 0.1, 1)


@pytest.mark.parametrize("target", SOURCES)
def test_conversion_of_the_float32_value_is_correctly_rounded(target):
    """Values that round to even, overflow, become subnormal or vanish in the narrow formats."""
    q = np.arange(-32768, 32768).astype(np.int16)
    for scale in (1.0, 2.0, 1.9999999, 2.0**-24, 2.0**-26, 3e-8, 1.2e33, 2.0**-126, 1.3e-38):
        want = twin.dequantize_linear(q, scale, dtype=target)
        assert_same_bits(qn.dequantize_linear(q, scale, dtype=target), want, f"scale {scale}")


@pytest.mark.parametrize("target", SOURCES)
@pytest.mark.parametrize("code", CODES)
def test_out_is_filled_and_returned(target, code):
    q, scale, zero = problem(GRIDS["group-middle"], 21, code)
    where = GRIDS["group-middle"].where
    out = np.full(q.shape, 9, SOURCES[target])
    for layout in LAYOUTS.values():
        assert qn.dequantize_linear(layout(q), scale, zero, dtype=target, out=out, **where) is out
        assert_same_bits(out, twin.dequantize_linear(q, scale, zero, dtype=target, **where))


def test_scalars_and_empty_arrays():
    got = qn.dequantize_linear(np.int8(5), 0.5, 3)
    assert (got.shape, got.dtype, got.tolist()) == ((), np.float32, 1.0)
    for shape in [(0,), (0, 3), (3, 0)]:
        assert qn.dequantize_linear(np.zeros(shape, np.uint8), 0.5).shape == shape
        assert qn.dequantize_linear(np.zeros(shape, np.uint8), np.ones(shape[0]), axis=0).shape == shape


@pytest.mark.parametrize("code", CODES)
def test_codes_survive_the_way_to_reals_and_back(code):
    info = code_type(code)
    plain = np.arange(info.qmin, info.qmax + 1)
    q = plain.astype(info.storage).view(info.dtype)
    for scale in (0.1, 1 / 3, 7.0, 2.0**-60):
        zero = info.symmetric_zero_point
        assert_same_bits(qn.quantize_linear(qn.dequantize_linear(q, scale, zero), scale, zero, dtype=code), q)
