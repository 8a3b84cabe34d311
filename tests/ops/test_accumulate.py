"""Sums in a narrow accumulator against exact fractions, and against what is known of them."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from refusals import Q, X, assert_refused, refusals
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


# Two steps each: the second sum lies just beside a tie of the accumulator, closer than the next wider type can tell.
BESIDE_A_TIE = [
    ("float16", "float16", [1 + 2.0**-10] * 2, [1, (1 - 2.0**-10) * 2.0**-11], 1 + 2.0**-10),
    ("float32", "float32", [1 + 2.0**-23, 1 - 2.0**-23], [1, (1 + 2.0**-23) * 2.0**-24], 1 + 2.0**-23),
    ("float32", "bfloat16", [1 + 2.0**-7, 1 - 2.0**-23], [1, (1 + 2.0**-23) * 2.0**-8], 1 + 2.0**-7),
]


@pytest.mark.parametrize(("source", "accumulate", "a", "b", "want"), BESIDE_A_TIE)
def test_one_rounding_where_two_would_differ(source, accumulate, a, b, want):
    """Rounded first to float32, that of float32 to float64, the sum would be the tie and go to the even number."""
    a, b = np.array(a, INPUTS[source]), np.array(b, INPUTS[source])
    exact = sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True))
    assert Fraction(want) < exact < Fraction(want) * (1 + Fraction(float(ml_dtypes.finfo(accumulate).eps)) / 2)
    columns = np.repeat(b[:, None], 37, 1)  # of a vector and of what is left of one
    assert np.asarray(qn.accumulate_dot(a, columns, accumulate)).astype(np.float64).tolist() == [want] * 37


@pytest.mark.parametrize(("source", "accumulate"), [case[:2] for case in BESIDE_A_TIE])
def test_random_mantissas_beside_ties(source, accumulate):
    """Numbers of the accumulator, and half their quantum give or take a few last bits of two factors."""
    rng = np.random.default_rng(9)
    quantum, last = (2.0 ** -ml_dtypes.finfo(name).nmant for name in (accumulate, source))
    near = 1 + rng.integers(-3, 4, (2, 45)) * last
    a = np.stack([1 + rng.integers(0, 1 / quantum, 45) * quantum, near[0]], 1).astype(INPUTS[source])
    b = np.stack([np.ones(45), near[1] * rng.choice([0.5, -0.5], 45) * quantum]).astype(INPUTS[source])
    assert_same_bits(qn.accumulate_dot(a, b, accumulate), twin.accumulate_dot(a, b, accumulate))


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
        bound = 2 * 20 * 2.0**-24 * (np.abs(left) @ np.abs(right))  # two sums of 20 terms, each within K 2^-24 |a| |b|
        assert (np.abs(got - left @ right) <= bound).all()


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


def accumulate_rows():
    for value in ("float32", "uint8", None, "float8_e5m2", 3):
        fine = f"accumulator: dtype must be float16, bfloat16, int16 or int8; got {value!r}"
        yield lambda v=value: qn.accumulator(v), TypeError, fine
    summed = "float16, bfloat16 or float32"
    yield lambda: qn.accumulate_dot(Q, X), TypeError, f"accumulate_dot: a must be an array of {summed}; got dtype int8"
    yield (
        lambda: qn.accumulate_dot(X, [1.0] * 3),
        TypeError,
        f"accumulate_dot: b must be an array of {summed}; got dtype float64",
    )
    for value in ("int32", "float64", 3):
        fine = f"accumulate_dot: accumulate must be {summed}; got {value!r}"
        yield lambda v=value: qn.accumulate_dot(X, X[0], v), TypeError, fine
    fine = "accumulate_dot: a must be at least 1-D; got a 0-d array"
    yield lambda: qn.accumulate_dot(np.float32(1), X), ValueError, fine
    for b in (X, X[0, :2], X[:, :, None], X[0, 0]):
        fine = f"accumulate_dot: b must be of shape (3,) or (3, N); got shape {b.shape}"
        yield lambda b=b: qn.accumulate_dot(X, b), ValueError, fine


@refusals(accumulate_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
