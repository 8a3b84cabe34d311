"""Packed weights of narrow floats: PackedFloat against its twin, on every row."""

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import FLOAT_TYPES
from qnumpy.ops.output import Output
from qnumpy.ops.packed_columns import Activations
from qnumpy.ops.packed_float import PackedFloat

F32 = np.float32
REALS = Output(None, -np.inf, np.inf)
NO_ACTIVATIONS = Activations(0, True, 0, 0, True)
ELEMENTS = [name for name, real in FLOAT_TYPES.items() if real.bits <= 8 and real.kind != "SCALE"]
SCALES = ("float32", "float8_e8m0fnu", "float8_e4m3fn")


def weight(element, k, n, group, scale_type="float32", seed=0):
    """Any codes that are numbers, and scales of a type."""
    rng = np.random.default_rng([k, n, group, seed])
    real = FLOAT_TYPES[element]
    codes = rng.integers(0, 1 << real.bits, (k, n)).astype(np.uint8)
    codes[~np.isfinite(codes.view(real.dtype).astype(F32))] = 1
    scale = np.exp2(rng.uniform(-4, 4, (-(-k // max(group, 1)), n))).astype(F32)
    return codes, scale.astype(FLOAT_TYPES[scale_type].dtype)


def numbers(element, codes, scales, group, tensor_scale=1.0):
    """The float32 numbers of a weight: one rounding for the scale, one for the product."""
    reals = codes.view(FLOAT_TYPES[element].dtype).astype(F32)
    scale = scales.astype(F32) * F32(tensor_scale)
    with np.errstate(over="ignore", invalid="ignore"):
        return reals * np.repeat(scale, group, 0)[: len(codes)]


def product(packed, x, output=REALS):
    y = np.full((len(x), packed.shape[1]), 9, F32)
    assert packed.multiply(x, len(x), NO_ACTIVATIONS, output, y)
    return y


@pytest.mark.parametrize("element", ELEMENTS)
def test_codes_and_scales_come_back(element):
    for scale_type in SCALES:
        for k, n, group in [(1, 1, 1), (16, 16, 16), (33, 17, 7), (130, 40, 32), (65, 3, 65), (0, 3, 1), (3, 0, 3)]:
            codes, scales = weight(element, k, n, group, scale_type)
            for layout in (codes, np.asfortranarray(codes), np.repeat(codes, 2, 1)[:, ::2]):
                packed = PackedFloat(layout, FLOAT_TYPES[element], scales, group)
                assert packed.shape == (k, n)
                assert_same_bits(packed.codes(), codes)
                assert_same_bits(packed.scale().view(np.uint8), scales.view(np.uint8))


@pytest.mark.parametrize(("element", "bits"), [("float8_e5m2", 8), ("float6_e3m2fn", 6), ("float4_e2m1fn", 4)])
def test_bytes(element, bits):
    """Panels of 16 columns: codes in units of 8 rows, then the scales, in whole cache lines; and a byte a column."""
    packed = PackedFloat(*_arguments(element, 256, 40, 32, "float8_e8m0fnu"), 32)
    assert packed.nbytes == 3 * (256 * 16 * bits // 8 + 8 * 16) + 40


def test_where_the_codes_lie():
    """packed_float.h: words of 16 columns."""
    codes = np.zeros((8, 16), np.uint8)
    codes[:, 1] = range(1, 9)
    scales = np.ones((1, 16), F32)
    rows = {bits: PackedFloat(codes, FLOAT_TYPES[name], scales, 8)._packed for bits, name in
            ((8, "float8_e5m2"), (6, "float6_e3m2fn"), (4, "float4_e2m1fn"))}  # fmt: skip
    words = {bits: row[: bits * 16].view(np.uint16).reshape(-1, 16) for bits, row in rows.items()}
    assert words[8].reshape(2, 16, 2)[:, 1].view(np.uint8).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert words[4][:, 1].tolist() == [0x1234, 0x5678]
    assert words[6][:, 1].tolist() == [1 << 10 | 2 << 4 | 7 >> 2, 3 << 10 | 4 << 4 | (7 & 3) << 2, 5 << 10 | 6 << 4 | 8]
    assert sum(np.count_nonzero(rows[bits][: bits * 16]) for bits in (8, 4)) == 12


def _arguments(element, k, n, group, scale_type="float32"):
    codes, scales = weight(element, k, n, group, scale_type)
    return codes, FLOAT_TYPES[element], scales


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("scale_type", SCALES)
def test_products(element, scale_type, row):
    """One row, few, and more than a pass; sizes around panels, units, groups and the parts of k."""
    tensor_scale = 0.3 if scale_type == "float8_e4m3fn" else 1.0
    shapes = [(1, 1, 1, 1), (1, 70, 70, 5), (2, 40, 33, 16), (7, 64, 64, 32), (13, 300, 40, 300), (130, 33, 20, 13),
              (1, 300, 17, 32), (3, 1, 70, 1), (5, 523, 18, 128)]  # fmt: skip
    for m, k, n, group in shapes:
        codes, scales = weight(element, k, n, group, scale_type)
        x = np.random.default_rng([m, k]).standard_normal((m, k)).astype(F32)
        packed = PackedFloat(codes, FLOAT_TYPES[element], scales, group, tensor_scale)
        expected = twin.matmul_floats(x, numbers(element, codes, scales, group, tensor_scale))
        assert_same_bits(product(packed, x), expected, f"{(m, k, n, group)}")


@pytest.mark.parametrize("element", ["float8_e4m3fn", "float6_e2m3fn", "float4_e2m1fn"])
def test_every_size(element, row):
    for size in range(71):
        codes, scales = weight(element, size, 70 - size, 24)
        x = np.random.default_rng(size).standard_normal((2, size)).astype(F32)
        packed = PackedFloat(codes, FLOAT_TYPES[element], scales, 24)
        expected = twin.matmul_floats(x, numbers(element, codes, scales, 24))
        assert_same_bits(product(packed, x), expected, str(size))
        assert_same_bits(product(packed, x[:1]), expected[:1], str(size))


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_code(element, row):
    """x of one 1 reads the numbers of a row; NaN and infinities are codes too, and every NaN has the same bits."""
    real = FLOAT_TYPES[element]
    codes = np.arange(1 << real.bits, dtype=np.uint8)[None]
    for scale in (1.0, 0.37, 2.0**-140 * 2.0**14, 3e38):
        scales = np.full((1, codes.size), scale, F32)
        packed = PackedFloat(codes, real, scales, 1)
        expected = numbers(element, codes, scales, 1)
        expected = np.where(np.isnan(expected), F32(np.nan), expected + 0)  # a sum from 0 has no -0
        for rows in (1, 2):
            assert_same_bits(product(packed, np.ones((rows, 1), F32)), np.tile(expected, (rows, 1)))


@pytest.mark.parametrize("scale_type", ["float8_e8m0fnu", "float8_e4m3fn"])
def test_every_scale(scale_type, row):
    scales = np.arange(256, dtype=np.uint8).view(FLOAT_TYPES[scale_type].dtype)[None]
    codes = np.full((1, 256), 3, np.uint8)
    packed = PackedFloat(codes, FLOAT_TYPES["float4_e2m1fn"], scales, 1, 0.7 if scale_type == "float8_e4m3fn" else 1.0)
    expected = numbers("float4_e2m1fn", codes, scales, 1, 0.7 if scale_type == "float8_e4m3fn" else 1.0)
    expected = np.where(np.isnan(expected), F32(np.nan), expected + 0)
    for rows in (1, 3):
        assert_same_bits(product(packed, np.ones((rows, 1), F32)), np.tile(expected, (rows, 1)))


@pytest.mark.parametrize("m", [1, 9])
def test_special_reals(m, row):
    """NaN and infinities of x reach their rows alone, past the end of a group too; subnormal numbers are kept."""
    k, n = 21, 18
    codes, scales = weight("float8_e4m3fn", k, n, 5)
    codes[4] = 0  # infinity times 0
    packed = PackedFloat(codes, FLOAT_TYPES["float8_e4m3fn"], scales, 5)
    for at, value in ((4, np.inf), (5, -np.inf), (20, np.nan), (7, -np.nan), (7, 1e-42), (7, 3e38)):
        x = np.random.default_rng(at).standard_normal((m, k)).astype(F32)
        x[m // 2, at] = value
        expected = twin.matmul_floats(x, numbers("float8_e4m3fn", codes, scales, 5))
        assert_same_bits(product(packed, x), expected, f"{value} at {at}")


@pytest.mark.parametrize("m", [1, 5])
def test_bias_and_bounds(m, row):
    codes, scales = weight("float8_e5m2", 30, 40, 30)
    rng = np.random.default_rng(m)
    x, bias = rng.standard_normal((m, 30)).astype(F32), rng.standard_normal(40).astype(F32)
    bias[3] = np.nan
    packed = PackedFloat(codes, FLOAT_TYPES["float8_e5m2"], scales, 30)
    expected = twin.matmul_floats(x, numbers("float8_e5m2", codes, scales, 30), bias, (-100.0, 5e3))
    assert_same_bits(product(packed, x, Output(bias, -100.0, 5e3)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_does_not_depend_on_the_others_or_on_threads(threads):
    codes, scales = weight("float4_e2m1fn", 700, 520, 32, "float8_e8m0fnu")
    packed = PackedFloat(codes, FLOAT_TYPES["float4_e2m1fn"], scales, 32)
    x = np.random.default_rng(1).standard_normal((300, 700)).astype(F32)
    with qn.threads(1):
        rows = np.concatenate([product(packed, x[i : i + 1]) for i in range(len(x))])
    with qn.threads(threads):
        for m in (1, 2, 129, 300):
            assert_same_bits(product(packed, x[:m]), rows[:m], str(m))
