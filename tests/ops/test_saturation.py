"""Saturating products on every ISA row, layout and thread count, against the twin."""

import itertools

import numpy as np
import pytest
from strategies import LAYOUTS, ROWS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

KINDS = list(itertools.product([np.uint8, np.int8], repeat=2))


def codes(rng, shape, dtype):
    """Full range; the ends, which saturate, more often."""
    info = np.iinfo(dtype)
    drawn = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, drawn).astype(dtype)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("left", "right"), KINDS)
def test_equals_the_twin(left, right, row):
    rng = np.random.default_rng(1)
    before = qn.isa()
    qn.set_isa(row)
    try:
        for m, k, n in [(0, 3, 2), (2, 0, 3), (3, 2, 0), (1, 1, 1), (3, 2, 5), (4, 7, 17), (5, 33, 70), (2, 64, 300)]:
            a, b = codes(rng, (m, k), left), codes(rng, (k, n), right)
            product, error, pairs = twin.saturated_matmul(a, b)
            result = qn.simulate_saturation(a, b)
            assert_same_bits(result.product, product)
            assert_same_bits(result.error, error)
            assert_same_bits(result.pairs, pairs)
            assert result.wrong == np.count_nonzero(error)
            assert result.max_abs_error == (np.abs(error).max() if error.size else 0)
    finally:
        qn.set_isa(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_longer_than_a_tile_and_threads(threads):
    """K beyond one int32 sum of the kernel; every pair of the first column saturates."""
    k = 131_070
    a, b = np.full((2, k), 255, np.uint8), np.zeros((k, 600), np.int8)
    b[:, 0] = 127
    with qn.threads(threads):
        result = qn.simulate_saturation(a, b)
    assert result.product[:, 0].tolist() == [k // 2 * 32767] * 2
    assert result.error[:, 0].tolist() == [k // 2 * (32767 - 2 * 255 * 127)] * 2
    assert result.saturated == k == result.pairs[0]
    assert result.safe.tolist() == [False] + [True] * 599


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    rng = np.random.default_rng(2)
    a, b = codes(rng, (9, 21), np.int8), codes(rng, (21, 30), np.int8)
    want = qn.simulate_saturation(a, b)
    got = qn.simulate_saturation(LAYOUTS[layout](a), LAYOUTS[layout](b))
    assert_same_bits(got.product, want.product)
    assert_same_bits(got.safe, want.safe)
