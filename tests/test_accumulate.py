"""Sums in a narrow accumulator against exact fractions, and against what is known of them."""

import ml_dtypes
import numpy as np
import pytest
from strategies import LAYOUTS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

INPUTS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def hard(rng, shape, dtype):
    """Few mantissas over many powers of two: ties and sums far apart are common; zeros, and what is not finite."""
    mantissa = rng.choice([1, -1, 1.5, -1.25, 1 + 2.0**-7, 1 + 2.0**-10, 2 - 2.0**-10, 0, -0.0], shape)
    x = mantissa * 2.0 ** rng.integers(-14, 9, shape)
    with np.errstate(over="ignore"):
        x = np.where(rng.random(shape) < 0.01, rng.choice([np.inf, -np.inf, np.nan, 6e4, 6e-8]), x)
        return x.astype(dtype)


@pytest.mark.parametrize("accumulate", INPUTS)
@pytest.mark.parametrize("source", INPUTS)
def test_equals_exact_fractions_rounded_once_a_step(source, accumulate):
    rng = np.random.default_rng(3)
    for k in (0, 1, 2, 3, 17, 40):
        for n in (1, 3, 16, 37):
            a, b = hard(rng, (2, k), INPUTS[source]), hard(rng, (k, n), INPUTS[source])
            with np.errstate(invalid="ignore"):
                want = twin.accumulate_dot(a, b, accumulate)
            assert_same_bits(qn.accumulate_dot(a, b, accumulate), want, f"k = {k}, n = {n}")


def test_one_rounding_where_two_would_differ():
    """1 + 2^-11 + 2^-23: float32 would round the sum to a tie of float16, and that to even."""
    a = np.array([1, 1, 2.0**-12], np.float16)
    b = np.array([1, 2.0**-11, 2.0**-11], np.float16)
    assert float(np.float16(np.float32(1 + 2.0**-11))) == 1.0
    acc = qn.accumulate_dot(np.array([1 + 2.0**-10], np.float16), np.array([1 + 2.0**-10], np.float16))
    assert float(acc) == 1 + 2.0**-9  # the exact 1 + 2^-9 + 2^-20
    assert float(qn.accumulate_dot(a, b)) == 1.0  # each step is a tie to even
    both = np.array([1, 2.0**-11 + 2.0**-21], np.float16), np.array([1, 1], np.float16)
    assert float(qn.accumulate_dot(*both)) == 1 + 2.0**-10  # just above the tie


def test_float16_arithmetic_of_numpy():
    """Where products are exact in float16, a step is NumPy's own addition."""
    rng = np.random.default_rng(4)
    b = rng.standard_normal(500).astype(np.float16)
    acc = np.float16(0)
    for value in b:
        acc = np.float16(acc + value)
    assert qn.accumulate_dot(np.ones(500, np.float16), b) == acc


def test_float32_is_a_fused_multiply_add():
    """Of float16 inputs a float64 holds the exact sum of a step, and NumPy rounds it."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 300)).astype(np.float16)
    acc = np.float32(0)
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        acc = np.float32(acc + x * y)
    assert qn.accumulate_dot(a, b, "float32") == acc


def test_what_float16_loses():
    ones = np.ones(5000, np.float16)
    assert qn.accumulate_dot(ones, ones) == 2048
    assert qn.accumulate_dot(ones, ones, "float32") == 5000
    assert qn.accumulate_dot(ones, ones, "bfloat16") == 256
    assert qn.accumulate_dot(ones * 256, ones * 256) == np.inf
    assert qn.accumulate_dot(ones.astype(ml_dtypes.bfloat16), ones).dtype == np.float32


def test_shapes_are_those_of_matmul():
    rng = np.random.default_rng(6)
    a = rng.standard_normal((2, 3, 20)).astype(np.float32)
    for left, right in (
        (a, a[0, 0]),
        (a[0, 0], a[0].T),
        (a, a[1].T),
        (a[0, 0], a[0, 0]),
        (a[:0], a[0].T),
        (a, a[0, :0].T),
    ):
        got = qn.accumulate_dot(left, right)
        assert np.shape(got) == (left @ right).shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, left @ right, rtol=1e-5, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    rng = np.random.default_rng(7)
    a, b = hard(rng, (9, 300), np.float16), hard(rng, (300, 70), np.float16)
    assert_same_bits(qn.accumulate_dot(LAYOUTS[layout](a), LAYOUTS[layout](b)), qn.accumulate_dot(a, b), layout)


def test_blocks_threads_and_rows_do_not_show():
    """More columns than a strip, more rows than a block, more steps than are read together."""
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((11, 600)).astype(np.float16), rng.standard_normal((600, 2100)).astype(np.float16)
    with qn.threads(2):
        whole = qn.accumulate_dot(a, b)
    with qn.threads(1):
        assert_same_bits(qn.accumulate_dot(a, b), whole)
    for row, column in ((0, 0), (7, 2047), (8, 2048), (10, 2099)):
        assert qn.accumulate_dot(a[row], b[:, column]) == whole[row, column]


def test_accumulators():
    assert qn.accumulator("float16") == np.float16
    assert qn.accumulator(ml_dtypes.bfloat16) == np.float32
    assert qn.accumulator(np.dtype(np.int16)) == qn.accumulator(np.int8) == np.int32
