"""Packed weights in groups: PackedGroups against sums of groups in NumPy, on every row."""

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import _core
from qnumpy import testing as twin
from qnumpy.dtypes import code_type
from qnumpy.ops.output import Output
from qnumpy.ops.packed_columns import Activations
from qnumpy.ops.packed_groups import GROUP_SIZES, PackedGroups

F32 = np.float32
T = _core.TYPES
REALS = Output(None, -np.inf, np.inf)
KINDS = {name: code_type(name) for name in ("int8", "uint8", "int4", "uint4", "int2", "uint2")}
SIZES = [(1, 1), (33, 17), (130, 40), (256, 16), (257, 33)]


def weight(dtype, k, n, size, zeros=True):
    """Codes and their bits, scales that float16 holds, and zero points, None for the middle of the codes."""
    rng, kind = np.random.default_rng([k, n, size]), KINDS[dtype]
    low, high = kind.qmin, kind.qmax
    codes = rng.integers(low, high + 1, (k, n)).astype(kind.storage)
    codes[: size * 2, :1], codes[: size * 2, -1:] = low, high
    scale = rng.uniform(0.01, 1, (-(-k // size), n)).astype(np.float16).astype(F32)
    zero = rng.integers(low, high + 1, scale.shape).astype(np.int32) if zeros else None
    return codes, kind.bits, scale, zero


def summed(x, x_scale, x_zero, codes, bits, scale, zero, size, bias=None, clip=(-np.inf, np.inf)):
    """The sum of each group is exact and brought to float32; they are added one after the other.

    x_scale and x_zero have one entry for each row and group.
    """
    middle = 0 if codes.dtype == np.int8 else 2 ** (bits - 1)
    y = np.zeros((len(x), codes.shape[1]), F32)
    for g in range(len(scale)):
        part = slice(g * size, (g + 1) * size)
        w_zero = middle if zero is None else zero[g]
        sums = (x[:, part].astype(np.int64) - x_zero[:, g, None]) @ (codes[part].astype(np.int64) - w_zero)
        y = y + sums.astype(F32) * (x_scale[:, g, None] * scale[g])
    y = y if bias is None else y + bias
    return np.where(y < F32(clip[0]), F32(clip[0]), np.where(y > F32(clip[1]), F32(clip[1]), y))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", GROUP_SIZES)
def test_codes_come_back(size, dtype, zeros, half):
    for k, n in [*SIZES, (0, 3), (3, 0)]:
        codes, bits, scale, zero = weight(dtype, k, n, size, zeros)
        middle = np.full(scale.shape, 0 if codes.dtype == np.int8 else 2 ** (bits - 1), np.int32)
        for layout in (codes, np.asfortranarray(codes), np.repeat(codes, 2, 1)[:, ::2]):
            packed = PackedGroups(layout, bits, scale, zero, size, half)
            assert packed.shape == (k, n)
            assert_same_bits(packed.codes(), codes)
            assert_same_bits(packed.parameters()[0], scale)
            assert_same_bits(packed.parameters()[1], middle if zero is None else zero)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "int2"])
def test_bytes(dtype, zeros, half):
    """Panels of 16 columns; each group of one has its codes, 16 scales, and 16 zero points where there are any."""
    packed = PackedGroups(*weight(dtype, 65, 17, 32, zeros), 32, half)
    assert packed.nbytes == 2 * 3 * (32 * 16 * KINDS[dtype].bits // 8 + 16 * (2 if half else 4) + 16 * zeros)


def test_where_the_codes_lie():
    """Eight neighbours of K in four bytes: the first four in the low halves, the others above; then the next column."""
    codes = np.zeros((16, 16), np.uint8)
    codes[:8, 0], codes[:8, 1] = range(1, 9), 9
    packed = PackedGroups(codes, 4, np.ones((1, 16), F32), None, 16, False)
    assert packed._packed[:8].tolist() == [0x51, 0x62, 0x73, 0x84, 0x99, 0x99, 0x99, 0x99]
    assert not packed._packed[8:128].any()


def test_where_codes_of_2_bits_lie():
    """Sixteen neighbours of K in four bytes: k, k + 4, k + 8 and k + 12 from the low bits of a byte on."""
    codes = np.zeros((16, 16), np.uint8)
    codes[:, 0] = [0, 1, 2, 3, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    packed = PackedGroups(codes, 2, np.ones((1, 16), F32), None, 16, False)
    assert packed._packed[:4].tolist() == [0b11100100, 0b11100101, 0b11100110, 0b11100111]
    assert not packed._packed[4:64].any()


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("size", GROUP_SIZES)
@pytest.mark.parametrize("right", KINDS)
@pytest.mark.parametrize("left", ["int8", "uint8"])
def test_rows_of_codes(left, right, size, zeros, row):
    """One scale, one for each row, or one for each group of each row; bias and bounds."""
    rng = np.random.default_rng(size)
    low, high = np.iinfo(left).min, np.iinfo(left).max
    for m, (k, n) in zip((1, 3, 7, 66, 2), SIZES, strict=True):
        codes, bits, scale, zero = weight(right, k, n, size, zeros)
        packed, bias = PackedGroups(codes, bits, scale, zero, size, half=zeros), rng.normal(size=n).astype(F32)
        x = rng.integers(low, high + 1, (m, k)).astype(left)
        x[0], x[-1] = low, high
        for shape in ((1, 1), (m, 1), (m, len(scale))):
            x_scale = rng.uniform(0.01, 1, shape).astype(F32)
            x_zero = rng.integers(low, high + 1, shape).astype(np.int32) * zeros
            each = [np.broadcast_to(params, (m, len(scale))) for params in (x_scale, x_zero)]
            out = np.empty((m, n), F32)
            assert packed.multiply_codes(x, T[left], m, x_scale, x_zero, Output(bias, -3.0, 40.0), out)
            want = summed(x, *each, codes, bits, scale, zero, size, bias, (-3, 40))
            assert_same_bits(out, want, f"{(m, k, n)} {shape}")


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
def test_real_rows_are_quantized_on_the_way(symmetric, by_row, row):
    """Without a scale the kernel finds one for each row or each group; with one it takes it for all."""
    size, (k, n) = 32, (70, 33)
    codes, bits, scale, zero = weight("int8", k, n, size)
    x = np.random.default_rng(5).standard_normal((6, k)).astype(F32)
    core, qmin, qmax = (T["int8"], -127, 127) if symmetric else (T["uint8"], 0, 255)
    kind, packed = "int8" if symmetric else "uint8", PackedGroups(codes, bits, scale, zero, size, False)
    parts = [x] if by_row else [x[:, first : first + size] for first in range(0, k, size)]
    pairs = [range_params(part, symmetric, qmin, qmax) for part in parts] * (len(scale) if by_row else 1)
    x_scale, x_zero = (np.stack([pair[i] for pair in pairs], 1) for i in (0, 1))
    for static in (False, True):
        if static:
            x_scale, x_zero = np.full((6, 3), 0.03, F32), np.full((6, 3), 0 if symmetric else 100)
        spread = [np.repeat(params, size, 1)[:, :k] for params in (x_scale, x_zero)]
        qparams = qn.QParams(*(params.reshape(-1) for params in spread), kind, qn.PerChannel(0), qmin, qmax)
        xq = twin.codes_of(x.reshape(-1), qparams).reshape(x.shape)
        fixed = (0.03, int(x_zero[0, 0])) if static else ()
        out = np.empty((6, n), F32)
        assert packed.multiply(x, 6, Activations(core, symmetric, qmin, qmax, by_row, *fixed), REALS, out)
        assert_same_bits(out, summed(xq, x_scale, x_zero, codes, bits, scale, zero, size))


def range_params(x, symmetric, qmin, qmax):
    """Scale and zero point of each row of x, in float64 and rounded once."""
    low, high = x.min(1, initial=0.0).astype(np.float64), x.max(1, initial=0.0).astype(np.float64)
    extent = 2 * np.maximum(-low, high) if symmetric else high - low
    scale = (extent / (qmax - qmin)).astype(F32)
    zero = np.zeros(len(x)) if symmetric else np.clip(np.rint(qmin - low / scale), qmin, qmax)
    return scale, zero.astype(np.int64)


def packed_weight(codes, group, half, with_zeros):
    k, n = codes.shape
    groups = -(-k // group)
    rng = np.random.default_rng(3)
    scales = rng.random((groups, n)).astype(np.float16 if half else np.float32)
    zeros = rng.integers(0, 16, (groups, n)).astype(np.uint8) if with_zeros else None
    packed = _core.grouped_room(k, n, group, 4, half, with_zeros)
    stored = scales.view(np.uint16) if half else scales
    _core.grouped_pack(codes.view(np.uint8), codes.dtype == np.int8, stored, zeros, packed, k, n, group, 4)
    return packed


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("with_zeros", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("dtype", "low"), [(np.int8, -8), (np.uint8, 0)])
def test_weight4_codes_are_those_packed(group, with_zeros, half, dtype, low):
    rng = np.random.default_rng(group)
    shapes = [(1, 1), (group, 16), (group + 1, 17), (3 * group - 5, 50), (group // 2, 15), (0, 5), (7, 0), (600, 70)]
    for k, n in shapes:
        codes = rng.integers(low, low + 16, (k, n)).astype(dtype)
        unpacked = np.full((k, n), 99, dtype)
        packed = packed_weight(codes, group, half, with_zeros)
        _core.grouped_codes(packed, k, n, group, 4, half, with_zeros, dtype == np.int8, unpacked)
        np.testing.assert_array_equal(unpacked, codes)
