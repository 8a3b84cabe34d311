"""Packed 8-bit weights: the kernels against int64 on every row, with every output, and PackedColumns over them."""

from itertools import product

import numpy as np
import pytest
from products import BYTES, KINDS, codes, exact
from strategies import ROWS, assert_same_bits

import qnumpy as qn
from qnumpy import _core
from qnumpy.dtypes import code_type
from qnumpy.ops.output import Output
from qnumpy.ops.packed_columns import Activations, PackedColumns

T = _core.TYPES
REALS = Output(None, -np.inf, np.inf)


@pytest.fixture(autouse=True)
def put_back():
    isa = qn.isa()
    yield
    qn.set_isa(isa)


def packed_product(a, packed, out, row_scale=None, column_scale=None, bias=None, acc_bias=None, **rest):
    zero, lo, hi = rest.get("a_zero"), rest.get("lo", -np.inf), rest.get("hi", np.inf)
    codes_ = (rest.get("zero_point", 0), *rest.get("range", (0, 0)))
    fits = _core.matmul_packed(
        a,
        T[a.dtype.name],
        zero,
        packed,
        out,
        T[out.dtype.name],
        row_scale,
        column_scale,
        bias,
        acc_bias,
        lo,
        hi,
        *codes_,
        None,
    )
    return out if fits else None


@pytest.mark.parametrize("row", [row for row in ROWS if row != "scalar"])
def test_one_row_at_its_limits(row):
    """Constant extremes fill the int16 sums of parts; k and columns run over the blocks of a linear read."""
    qn.set_isa(row)
    rng = np.random.default_rng(12)
    for (k, n), left, right in product(((1, 1), (70, 49), (8210, 3), (16390, 2), (9, 16500)), BYTES, BYTES):
        for a_code, b_code in product((-128, -8, 7, 119, 120, 127), (-128, -1, 127)):
            a = np.full((1, k), a_code, np.int8).view(left)
            b = np.full((k, n), b_code, np.int8).view(right)
            b[:, -1] = codes(rng, right, (k,))
            got = packed_product(a, _core.pack_weights(b, T[right], None, bits_of(right)), np.empty((1, n), np.int32))
            np.testing.assert_array_equal(got, exact(a, b), str((k, n, a_code, b_code)))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("span", [256, 128, 60])
def test_packed(row, span):
    """int32, float32 with bias and bounds, codes with an int32 bias; each in the order of operations that is stated."""
    qn.set_isa(row)
    rng = np.random.default_rng(span)
    sizes = [(1, 70, 33), (3, 4100, 20), (5, 515, 64), (48, 1029, 31), (67, 50, 130), (130, 1600, 47), (2, 0, 5)]
    for m, k, n in sizes if row != "scalar" else sizes[:5]:
        left, right = (str(t) for t in rng.choice(BYTES, 2))
        low = np.iinfo(right).min + int(rng.integers(0, 257 - span))
        a, b = codes(rng, left, (m, k)), rng.integers(low, low + span, (k, n)).astype(right)
        a_zero = [None, np.array([5], np.int32), rng.integers(0, 100, m).astype(np.int32)][rng.integers(3)]
        b_zero = [None, np.array([7], np.int32), rng.integers(0, 100, n).astype(np.int32)][rng.integers(3)]
        acc = exact(a, b, 0 if a_zero is None else a_zero[:, None], 0 if b_zero is None else b_zero)
        packed = _core.pack_weights(np.asfortranarray(b) if m % 2 else b, T[right], b_zero, bits_of(right))
        assert _core.packed_info(packed)[:2] == (k, n)
        back = np.empty((k, n), right)
        _core.packed_codes(packed, back)
        np.testing.assert_array_equal(back, b)
        np.testing.assert_array_equal(packed_product(a, packed, np.empty((m, n), np.int32), a_zero=a_zero), acc)
        for each in (1, m):
            rows = rng.random(each).astype(np.float32) * np.float32(1e-3)
            columns, bias = rng.random(n).astype(np.float32), rng.normal(size=n).astype(np.float32)
            scale = rows[:, None] * columns
            want = acc.astype(np.float32) * scale + bias
            out = packed_product(a, packed, np.empty((m, n), np.float32), rows, columns, bias, a_zero=a_zero)
            np.testing.assert_array_equal(out, want)
            wide = np.full((m, n + 3), 9, np.float32)  # rows that lie apart
            packed_product(a, packed, wide[:, :n], rows, columns, bias, a_zero=a_zero, lo=-1.0, hi=2.0)
            np.testing.assert_array_equal(wide[:, :n], np.clip(want, -1, 2))
            assert (wide[:, n:] == 9).all()
            extra = rng.integers(-999, 999, n).astype(np.int32)
            for dtype, low_, high_ in (("int8", -128, 127), ("uint8", 3, 250)):
                steps = np.rint((acc + extra).astype(np.float32) * scale).astype(np.int64)
                out = np.empty((m, n), dtype)
                packed_product(
                    a, packed, out, rows, columns, acc_bias=extra, a_zero=a_zero, zero_point=7, range=(low_, high_)
                )
                np.testing.assert_array_equal(out, np.clip(steps + 7, low_, high_))


def test_packed_says_what_does_not_fit():
    k = 131072
    low = np.full((1, k), -128, np.int8)
    packed = _core.pack_weights(low.T, T["int8"], None, 8)
    assert packed_product(low, packed, np.empty((1, 1), np.int32)) is None
    acc_bias = np.array([-1], np.int32)  # with it the sum fits again
    assert packed_product(low, packed, np.empty((1, 1), np.int32), acc_bias=acc_bias).item() == 2**31 - 1


def test_a_packed_matrix_serves_every_row():
    rng = np.random.default_rng(13)
    a, b = codes(rng, "int8", (70, 300)), codes(rng, "int8", (300, 50))
    for row in ROWS:
        qn.set_isa(row)
        packed = _core.pack_weights(b, T["int8"], None, 8)
        for other in ROWS:
            qn.set_isa(other)
            np.testing.assert_array_equal(packed_product(a, packed, np.empty((70, 50), np.int32)), exact(a, b))


def bell(rng, shape, sigmas):
    """Codes of a Gaussian whose absmax lies at so many sigma."""
    return np.clip(np.rint(rng.standard_normal(shape) * 127 / sigmas), -127, 127).astype(np.int8)


WEIGHTS = {  # (K, N) -> codes: none, a few, or all of them too much for int16
    "small": lambda rng, shape: rng.integers(-30, 31, shape).astype(np.int8),
    "bell, 5 sigma": lambda rng, shape: bell(rng, shape, 5.0),
    "bell, 3.2 sigma": lambda rng, shape: bell(rng, shape, 3.2),
    "bell, 2.8 sigma": lambda rng, shape: bell(rng, shape, 2.8),
    "uniform": lambda rng, shape: codes(rng, "int8", shape),
    "lowest": lambda _, shape: np.full(shape, -128, np.int8),
    "narrow": lambda rng, shape: rng.integers(-64, 64, shape).astype(np.int8),
    "lowest of 7 bits": lambda rng, shape: np.where(rng.random(shape) < 0.9, -64, 63).astype(np.int8),
    "few, extreme": lambda rng, shape: np.where(
        rng.random(shape) < 0.03, rng.choice([-128, 127], shape), rng.integers(-9, 9, shape)
    ).astype(np.int8),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_quads(kind, row):
    """Weights of many densities, and of none, at tails of M, N and K, with all zero points and output stages."""
    qn.set_isa(row)
    rng = np.random.default_rng(len(kind))
    sizes = [(65, 3, 1), (66, 70, 17), (97, 515, 33), (130, 1030, 48), (260, 24, 5)]
    for m, k, n in sizes if row != "scalar" else sizes[:2]:
        b = WEIGHTS[kind](rng, (k, n))
        for left, right in product(BYTES, BYTES):
            a = codes(rng, left, (m, k), rng.choice(KINDS))
            stored = b if right == "int8" else (b.astype(np.int16) + 128).astype(np.uint8)
            low = [np.iinfo(dtype).min for dtype in (left, right)]
            a_zero = [None, np.array([low[0]], np.int32), rng.integers(0, 100, m).astype(np.int32)][rng.integers(3)]
            b_zero = [None, np.array([low[1] + 255], np.int32), rng.integers(0, 100, n).astype(np.int32)][
                rng.integers(3)
            ]
            acc = exact(a, stored, 0 if a_zero is None else a_zero[:, None], 0 if b_zero is None else b_zero)
            packed = _core.pack_weights(stored, T[right], b_zero, bits_of(right))
            np.testing.assert_array_equal(packed_product(a, packed, np.empty((m, n), np.int32), a_zero=a_zero), acc)
            columns, one, extra = np.full(n, 0.5, np.float32), np.ones(1, np.float32), np.arange(n, dtype=np.int32)
            real = packed_product(a, packed, np.empty((m, n), np.float32), one, columns, a_zero=a_zero)
            np.testing.assert_array_equal(real, acc.astype(np.float32) * np.float32(0.5))
            out = np.empty((m, n), np.int8)
            packed_product(a, packed, out, one, columns / 500, acc_bias=extra, a_zero=a_zero, range=(-128, 127))
            np.testing.assert_array_equal(
                out, np.clip(np.rint((acc + extra).astype(np.float32) * np.float32(1e-3)), -128, 127)
            )


@pytest.mark.parametrize("row", ROWS)
def test_quads_at_their_limits(row):
    """Columns that reach a limit of int16 exactly, and by one more, times rows that push them there."""
    qn.set_isa(row)
    k, columns = 1024, []
    for pair in ([127, 1], [127, 2], [-128, -1], [-128, 0], [127, 127], [-128, -128], [64, 64], [65, 64]):
        for other in ([0, 0], [126, 0], [127, 0], [127, -127], [-128, 127], [1, 0], [63, 64], [-128, -128]):
            column = np.zeros(k, np.int64)
            column[[0, 1, 4, 5]] = pair + other
            columns.append(column)
    for pairs, last in ((2, 3), (2, 4), (3, 0), (9, 0)):  # 126 a pair, and the last: a pass holds 255 of a column
        column = np.zeros(k, np.int64)
        for i in range(pairs):
            column[[8 * i, 8 * i + 1]] = 127
        column[[8 * pairs, 8 * pairs + 1]] = 127, 1 + last
        columns += [column, np.maximum(-column, -128)]
    b = np.stack(columns, 1).astype(np.int8)
    a = np.repeat(np.array([[-128], [127], [0], [-1]], np.int8), 20, 0).repeat(k, 1)
    a[40:60, ::2] = 127
    packed = _core.pack_weights(b, T["int8"], None, 8)
    if row == "avx2":
        assert _core.packed_info(packed)[3] == "quads"
    for left in (a, a.view(np.uint8)):
        np.testing.assert_array_equal(
            packed_product(left, packed, np.empty((80, b.shape[1]), np.int32)), exact(left, b)
        )


@pytest.mark.skipif("avx2" not in ROWS, reason="other rows have no quads")
def test_which_weights_go_by_quads():
    qn.set_isa("avx2")
    rng = np.random.default_rng(3)
    size = {}
    for kind, form in (("bell, 5 sigma", "quads"), ("bell, 3.2 sigma", "quads"), ("uniform", "full")):
        b = WEIGHTS[kind](rng, (1024, 256))
        packed = _core.pack_weights(b, T["int8"], None, 8)
        size[kind], storage = _core.packed_info(packed)[2:]
        assert storage == form
        back = np.empty_like(b)
        _core.packed_codes(packed, back)
        np.testing.assert_array_equal(back, b)
    assert size["uniform"] < size["bell, 5 sigma"] < size["bell, 3.2 sigma"] < 1.1 * size["uniform"]


# ---- PackedColumns ----

CODES = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def bits_of(dtype):
    return np.dtype(dtype).itemsize * 8


def weight(rng, dtype, k, n, zeros):
    """Codes and their bits, the scales, and the zero point of each column, or 0 for all."""
    kind = code_type(dtype)
    low, high = kind.qmin, kind.qmax
    zero = rng.integers(low, high + 1, n).astype(np.int32) if zeros else np.zeros((), np.int32)
    values = rng.integers(low, high + 1, (k, n)).astype(kind.storage)
    return values, kind.bits, rng.random(n).astype(np.float32), zero


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_codes_come_back(dtype, zeros, row):
    rng = np.random.default_rng(1)
    for k, n in [(1, 1), (33, 17), (130, 40), (0, 3), (3, 0)]:
        b, bits, scale, zero = weight(rng, dtype, k, n, zeros)
        for layout in (b, np.asfortranarray(b), np.repeat(b, 2, 1)[:, ::2]):
            packed = PackedColumns(layout, bits, scale, zero)
            assert packed.shape == (k, n)
            assert_same_bits(packed.codes(), b)
            assert packed.parameters() == (scale, zero) if not n else packed.parameters()[0] is scale
            assert packed.nbytes >= k * n * bits // 8 + 4 * n


@pytest.mark.parametrize("right", ["int4", "uint4", "int2", "uint2"])
@pytest.mark.parametrize("left", BYTES)
def test_codes_of_few_bits_give_the_sums_of_bytes(left, right, row):
    """Rows around the kernels' limits, k around the kblocks and fields, more columns than a tile; extremes on both
    sides; zero points of rows and columns; and k so long that sums need int64."""
    rng, kind = np.random.default_rng(9), code_type(right)
    low, high = np.iinfo(left).min, np.iinfo(left).max
    for m in (1, 2, 3, 4, 5, 13, 48, 49, 66, 130):
        for k, n in ((1, 17), (15, 1), (127, 100), (770, 70), (1600, 33)):
            b, bits, scale, zero = weight(rng, right, k, n, m % 2 == 0)
            a = rng.integers(low, high + 1, (m, k)).astype(left)
            b[:, 0], a[0], a[-1] = kind.qmin, low, high
            b[:, -1] = kind.qmax
            a_zero = rng.integers(low, high + 1, m if m % 3 else 1).astype(np.int32)
            out = np.empty((m, n), np.float32)
            ones = np.ones(len(a_zero), np.float32)
            assert PackedColumns(b, bits, scale, zero).multiply_codes(a, T[left], m, ones, a_zero, REALS, out)
            sums = exact(a, b, a_zero[:, None], zero).astype(np.float32)
            assert_same_bits(out, sums * (np.float32(1) * scale), f"{(m, k, n)}")
    if kind.bits == 4:
        k = 700_000
        a, b = np.full((2, k), high, left), np.zeros((k, 17), kind.storage)
        b[::2], b[1::2] = kind.qmax, kind.qmin
        out, one = np.empty((2, 17), np.float32), np.ones(1, np.float32)
        packed = PackedColumns(b, 4, np.ones(17, np.float32), np.zeros((), np.int32))
        fits = packed.multiply_codes(a, T[left], 2, one, np.zeros(1, np.int32), REALS, out)
        sums = exact(a, b)
        assert fits == (np.abs(sums) < 2**31).all()
        assert not fits or (out == sums.astype(np.float32)).all()


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("right", CODES)
@pytest.mark.parametrize("left", BYTES)
def test_rows_of_codes(left, right, zeros, row):
    """One scale or one for each row, with zero points or without; bias and bounds."""
    rng = np.random.default_rng(2)
    m, k, n = 6, 70, 33
    b, bits, b_scale, b_zero = weight(rng, right, k, n, zeros)
    bias = rng.normal(size=n).astype(np.float32)
    packed = PackedColumns(b, bits, b_scale, b_zero)
    for count in (1, m):
        a, a_scale = codes(rng, left, (m, k)), rng.random(count).astype(np.float32)
        a_zero = rng.integers(0, 100, count).astype(np.int32) * zeros
        sums = exact(a, b, a_zero[:, None], b_zero).astype(np.float32)
        want = np.clip(sums * (a_scale[:, None] * b_scale) + bias, -20, 90)
        out = np.empty((2, 3, n), np.float32)  # of any number of dimensions
        output = Output(bias, -20.0, 90.0)
        assert packed.multiply_codes(a.reshape(2, 3, k), T[left], m, a_scale, a_zero, output, out)
        assert_same_bits(out.reshape(m, n), want)


def test_real_rows_are_quantized_on_the_way(row):
    """With parameters for all rows, and with the scale of each; to float32 and to codes."""
    rng = np.random.default_rng(3)
    x, (b, bits, scale, zero) = rng.standard_normal((5, 70)).astype(np.float32), weight(rng, "int8", 70, 33, False)
    packed, out = PackedColumns(b, bits, scale, zero), np.empty((5, 33), np.float32)
    assert packed.multiply(x, 5, Activations(T["uint8"], False, 0, 255, False, 0.03, 128), REALS, out)
    xq = qn.quantize_linear(x, np.float32(0.03), 128, dtype="uint8")
    sums = exact(xq, b, 128)
    assert_same_bits(out, sums.astype(np.float32) * (np.float32(0.03) * scale))
    steps, small = np.float32(1e-3) * scale, np.empty((5, 33), np.int8)
    extra = rng.integers(-999, 999, 33).astype(np.int32)
    output = Output(None, -np.inf, np.inf, T["int8"], steps, extra, 3, -100, 120)
    assert packed.multiply(x, 5, Activations(T["uint8"], False, 0, 255, False, 0.03, 128), output, small)
    want = np.rint((sums + extra).astype(np.float32) * steps) + 3
    assert_same_bits(small, np.clip(want, -100, 120).astype(np.int8))
    again, zero = np.empty_like(small), np.array([128], np.int32)
    assert packed.multiply_codes(xq, T["uint8"], 5, np.float32([0.03]), zero, output, again)
    assert_same_bits(again, small)
    assert packed.multiply(x, 5, Activations(T["int8"], True, -127, 127, True), REALS, out)
    rows = qn.choose_qparams(x, granularity=qn.PerChannel(0))
    sums = exact(qn.quantize_linear(x, rows.scale, axis=0, dtype="int8"), b)
    assert_same_bits(out, sums.astype(np.float32) * (rows.scale[:, None] * scale))


def test_a_sum_that_does_not_fit_is_told():
    k = 140_000
    packed = PackedColumns(np.full((k, 2), 127, np.int8), 8, np.ones(2, np.float32), np.zeros((), np.int32))
    out, one, zero = np.empty((1, 2), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)
    ones = np.ones((1, k), np.float32)
    assert not packed.multiply(ones, 1, Activations(T["int8"], True, -127, 127, True), REALS, out)
    assert not packed.multiply_codes(np.full((1, k), 127, np.int8), T["int8"], 1, one, zero, REALS, out)
    assert packed.multiply_codes(np.ones((1, k), np.int8), T["int8"], 1, one, zero, REALS, out)
    assert out.tolist() == [[127.0 * k] * 2]
