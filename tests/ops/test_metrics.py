"""The sums of error and the codes that occur, on every ISA row, against NumPy and against the scalar row."""

import numpy as np
import pytest
from strategies import LAYOUTS, SIZES

import qnumpy as qn
from qnumpy.ops.metrics import error_sums, mark_codes


def pair(n, seed=0):
    rng = np.random.default_rng([seed, n])
    x = rng.standard_normal(n).astype(np.float32)
    return x, (x + 0.01 * rng.standard_normal(n)).astype(np.float32)


def exact(x, y):
    wide, other = x.astype(np.float64), y.astype(np.float64)
    return np.square(wide).sum(), np.square(other).sum(), (wide * other).sum(), np.square(wide - other).sum()


@pytest.mark.parametrize("n", [*SIZES, 2049, 100_003])
def test_sums_equal_the_formulas(row, n):
    x, y = pair(n)
    *sums, peak = error_sums(x, y)
    np.testing.assert_allclose(sums, exact(x, y), rtol=max(n, 1) * 2.0**-53)  # n terms in float64, in another order
    assert peak == (np.abs(x.astype(np.float64) - y).max() if n else 0)


@pytest.mark.parametrize("n", [7, 64, 100_003])
def test_sums_are_the_same_bits_on_every_row(row, n):
    x, y = pair(n)
    here = error_sums(x, y)
    qn.set_isa("scalar")
    assert here == error_sums(x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_of_every_layout(layout):
    x, y = (array[: 5 * 12 * 7].reshape(5, 12, 7) for array in pair(500))
    assert error_sums(LAYOUTS[layout](x), LAYOUTS[layout](y)) == error_sums(x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(row, bad):
    x, y = pair(100)
    y[37] = bad
    assert not np.isfinite(error_sums(x, y)[3])


@pytest.mark.parametrize("n", [0, 1, 15, 70, 5000])
def test_codes_that_occur(row, n):
    codes = np.random.default_rng(n).integers(-100, 100, n).astype(np.int8)
    seen = np.zeros((1, 256), np.uint8)
    mark_codes(codes, seen)
    assert np.array_equal(np.flatnonzero(seen), np.unique(codes.view(np.uint8)))
    before = seen.copy()
    mark_codes(codes[:0], seen)
    assert np.array_equal(seen, before)
