"""requantize against its twin in Python's integers, and the two fixed methods against their published definitions."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import CODES, GRIDS, LAYOUTS, METHODS, SIZES, assert_same_bits, codes

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type
from qnumpy.ops.quantize import split_multiplier

CHANNELS = {name: grid for name, grid in GRIDS.items() if grid.block_size is None}
EDGES = [0, 1, -1, 2**31 - 1, -(2**31), 2**30, -(2**30), 2**24 + 1, -(2**24) - 1, 255, -255]


def problem(grid, n, code, seed=0):
    """Accumulators that fill the code range and a little more, ties and the ends of int32 among them."""
    rng = np.random.default_rng([seed, n])
    info, shape = code_type(code), grid.of(n)
    m = rng.choice([0.5, 0.25, 2.0**-10, 0.0007, 1 / 3, 1.7], grid.params_shape(n))
    zero = rng.integers(info.qmin, info.qmax + 1, m.shape)
    steps = rng.uniform(-1.3, 1.3, shape) * (info.qmax - info.qmin)
    acc = np.rint(steps / twin.spread(m, shape, grid.axis))
    acc = np.where(rng.random(shape) < 0.1, rng.choice(EDGES, shape), acc)
    return acc.astype(np.int32), m, zero


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", CHANNELS)
@pytest.mark.parametrize("code", CODES)
def test_every_layout_and_size(code, grid, method):
    grid = CHANNELS[grid]
    for n in SIZES if method == "float" else [*range(20), 33, 64, 70]:
        acc, m, zero = problem(grid, n, code)
        want = twin.requantize(acc, m, zero, dtype=code, axis=grid.axis, method=method)
        for name, layout in LAYOUTS.items():
            if name == "big-endian":
                continue  # a test of its own
            got = qn.requantize(layout(acc), m, zero, dtype=code, axis=grid.axis, method=method)
            assert_same_bits(got, want, f"{name}, n = {n}")


@pytest.mark.parametrize("method", METHODS)
def test_big_endian_accumulators(method):
    acc, m, zero = problem(GRIDS["channel-middle"], 21, "int8")
    got = qn.requantize(acc.astype(">i4"), m, zero, axis=1, method=method)
    assert_same_bits(got, twin.requantize(acc, m, zero, axis=1, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", CHANNELS)
def test_beyond_one_tile(grid, method):
    grid = CHANNELS[grid]
    acc, m, zero = problem(grid, 5000, "uint8")
    want = twin.requantize(acc, m, zero, dtype="uint8", axis=grid.axis, method=method)
    for name in ("c", "rolled", "strided"):
        got = qn.requantize(LAYOUTS[name](acc), m, zero, dtype="uint8", axis=grid.axis, method=method)
        assert_same_bits(got, want, name)


def test_the_methods_differ_on_ties_as_their_sources_say():
    acc = np.array([-5, -3, -1, 1, 3, 5] * 12, np.int32)
    assert qn.requantize(acc, 0.5)[:6].tolist() == [-2, -2, 0, 0, 2, 2]  # half to even
    assert qn.requantize(acc, 0.5, method="fixed")[:6].tolist() == [-2, -1, 0, 1, 2, 3]  # half up
    # 2**-3 shifts right after the high multiplication, and that step rounds half away from zero
    acc = np.array([-20, -12, -4, 4, 12, 20] * 12, np.int32)
    assert qn.requantize(acc, 0.125, method="fixed_double")[:6].tolist() == [-3, -2, -1, 1, 2, 3]
    assert qn.requantize(acc, 0.125, method="fixed")[:6].tolist() == [-2, -1, 0, 1, 2, 3]


def test_the_double_rounding_shows():
    differences = 0
    for multiplier in (0.1249, 0.3333, 0.0401, 0.00321):
        acc = np.arange(-20000, 20000, dtype=np.int32)
        once = qn.requantize(acc, multiplier, dtype="int16", method="fixed")
        twice = qn.requantize(acc, multiplier, dtype="int16", method="fixed_double")
        assert_same_bits(once, twin.requantize(acc, multiplier, dtype="int16", method="fixed"))
        assert_same_bits(twice, twin.requantize(acc, multiplier, dtype="int16", method="fixed_double"))
        assert np.abs(once.astype(int) - twice).max() <= 1  # each rounding moves the result by at most half a code
        differences += (once != twice).sum()
    assert differences


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40), st.floats(2.0**-32, 2.0**29), codes, st.randoms())
def test_fixed_is_the_exact_product_rounded_half_up(values, multiplier, code, random):
    """Against rational arithmetic, not the twin's formula."""
    from fractions import Fraction
    from math import floor

    info = code_type(code)
    zero = random.randint(info.qmin, info.qmax)
    m, shift = map(int, twin.split_multiplier(np.array(multiplier)))
    real = Fraction(m, 2**shift)
    want = [min(max(floor(a * real + Fraction(1, 2)) + zero, info.qmin), info.qmax) for a in values]
    got = qn.requantize(np.array(values, np.int32), multiplier, zero, dtype=code, method="fixed")
    assert got.astype(np.int64).tolist() == want


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40),
    st.floats(2.0**-126, 2.0**126, width=32),
    codes,
    st.randoms(),
)
def test_float_any_accumulator_any_multiplier(values, multiplier, code, random):
    zero = random.randint(code_type(code).qmin, code_type(code).qmax)
    acc = np.array(values, np.int32)
    got = qn.requantize(acc, multiplier, zero, dtype=code)
    assert_same_bits(got, twin.requantize(acc, multiplier, zero, dtype=code))


@pytest.mark.parametrize("method", ["fixed", "fixed_double"])
@pytest.mark.parametrize("multiplier", [2.0**-32, 2.0**-31, 0.5, 1.0, 1.5, 2.0**29, 2.0**30 - 2, 2.0**30 - 0.5])
def test_the_ends_of_the_fixed_range(method, multiplier):
    acc = np.array([*EDGES, 3, -3] * 3, np.int32)
    got = qn.requantize(acc, multiplier, 5, dtype="int16", method=method)
    assert_same_bits(got, twin.requantize(acc, multiplier, 5, dtype="int16", method=method))


@pytest.mark.parametrize("multiplier", [2.0**-33, np.nextafter(2.0**-32, 0), 2.0**30 - 0.25, 2.0**30, 1e20])
def test_multipliers_outside_the_fixed_range(multiplier):
    want = rf"^requantize: multiplier must be in \[2\*\*-32, 2\*\*30 - 0\.5\]; got {re.escape(str(multiplier))}\.$"
    for method in ("fixed", "fixed_double"):
        with pytest.raises(ValueError, match=want):
            qn.requantize(np.zeros(3, np.int32), multiplier, method=method)


def test_split_multipliers():
    rng = np.random.default_rng(0)
    real = np.exp2(rng.uniform(-31.9, 29.9, 500))
    real = np.concatenate([real, 2.0 ** np.arange(-32, 30), np.nextafter(2.0 ** np.arange(-30, 30), 0)])
    m, shift = split_multiplier("requantize", real)
    assert (m.dtype, shift.dtype) == (np.int32, np.int32)
    assert (m >= 2**30).all()
    assert (shift >= 1).all()
    assert (shift <= 62).all()
    for got, want in zip((m, shift), twin.split_multiplier(real), strict=True):
        assert_same_bits(got, want)
    # m keeps 31 bits, rounded once: half of the last one is 2**-31 of the value at most
    assert (np.abs(m / 2.0**shift / real - 1) <= 2.0**-31).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", CODES)
def test_out_empty_and_scalar(code, method):
    acc, m, zero = problem(GRIDS["channel-middle"], 21, code)
    out = np.zeros(acc.shape, code_type(code).dtype)
    assert qn.requantize(acc, m, zero, dtype=code, axis=1, method=method, out=out) is out
    assert_same_bits(out, twin.requantize(acc, m, zero, dtype=code, axis=1, method=method))
    assert qn.requantize(np.zeros((0, 3), np.int32), 0.5, dtype=code, method=method).shape == (0, 3)
    got = qn.requantize(np.int32(3), 0.5, 1, dtype=code, method=method)
    assert_same_bits(got, twin.requantize(np.int32(3), 0.5, 1, dtype=code, method=method))
