"""What saturating pairs compute: the twin, the definition of a safe column, and what the result says."""

import itertools
import pickle

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
            product, error, pairs = twin.simulate_saturation(a, b)
            found = qn.simulate_saturation(a, b)
            assert_same_bits(found.product, product.astype(np.int32))
            assert_same_bits(found.error, error)
            assert_same_bits(found.pairs, pairs)
            assert found.wrong == np.count_nonzero(error)
            assert found.max_abs_error == (np.abs(error).max() if error.size else 0)
    finally:
        qn.set_isa(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_longer_than_a_tile_and_threads(threads):
    """K beyond one int32 sum of the kernel; every pair of the first column saturates."""
    k = 131_070
    a, b = np.full((2, k), 255, np.uint8), np.zeros((k, 600), np.int8)
    b[:, 0] = 127
    with qn.threads(threads):
        found = qn.simulate_saturation(a, b)
    assert found.product[:, 0].tolist() == [k // 2 * 32767] * 2
    assert found.error[:, 0].tolist() == [k // 2 * (32767 - 2 * 255 * 127)] * 2
    assert found.saturated == k == found.pairs[0]
    assert found.safe.tolist() == [False] + [True] * 599


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    rng = np.random.default_rng(2)
    a, b = codes(rng, (9, 21), np.int8), codes(rng, (21, 30), np.int8)
    want = qn.simulate_saturation(a, b)
    got = qn.simulate_saturation(LAYOUTS[layout](a), LAYOUTS[layout](b))
    assert_same_bits(got.product, want.product)
    assert_same_bits(got.safe, want.safe)


def test_safe_is_what_no_a_can_break():
    """Every pair of int8 weights, against the worst of all factors: those at the ends of 0..255."""
    every = np.arange(-128, 128)
    first, second = (part.ravel() for part in np.meshgrid(every, every))
    sums = [u * first + v * second for u in (0, 255) for v in (0, 255)]
    broken = np.any([(s > 32767) | (s < -32768) for s in sums], axis=0)
    w = np.stack([first, second]).astype(np.int8)
    assert_same_bits(qn.safe_weights(w), ~broken)
    assert_same_bits(qn.safe_weights(w.T, axis=1), ~broken)
    assert_same_bits(qn.safe_weights(w.view(np.uint8) ^ 128), ~broken)
    a = np.array([[u, v] for u in (0, 255) for v in (0, 255)], np.uint8)
    assert_same_bits(qn.simulate_saturation(a, w).pairs > 0, broken)


@pytest.mark.parametrize("row", ROWS)
def test_safe_weights_of_an_odd_k(row):
    """The last row has no neighbour."""
    before = qn.isa()
    qn.set_isa(row)
    try:
        w = np.zeros((5, 70), np.int8)
        w[4] = 127
        assert qn.safe_weights(w).all()
        w[2:4] = [[127], [2]]
        assert not qn.safe_weights(w).any()
    finally:
        qn.set_isa(before)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(16, 0)])
def test_reduce_range_is_safe_and_keeps_the_range(dtype, symmetric, granularity):
    w = np.random.default_rng(3).normal(0.3, 1, (64, 48)).astype(np.float32)
    full = qn.choose_qparams(w, dtype=dtype, symmetric=symmetric, granularity=granularity)
    narrow = qn.reduce_range(full)
    q = qn.quantize(w, narrow)
    assert qn.safe_weights(q).all()
    # every real is within a step of its code: half a step of rounding, half a step of the rounded zero point
    steps = twin.spread(narrow.scale, w.shape, *granularity.axis_block)
    assert (np.abs(q.dequantize() - w) <= 1.01 * steps).all()
    ratio = (full.qmax - full.qmin) / (narrow.qmax - narrow.qmin)
    np.testing.assert_allclose(narrow.scale, full.scale * ratio, rtol=2e-7)  # two roundings to float32


def test_quantized_arrays_are_taken_by_their_codes():
    rng = np.random.default_rng(4)
    a, w = (qn.quantize(rng.normal(size=shape).astype(np.float32)) for shape in [(4, 20), (20, 6)])
    assert_same_bits(qn.simulate_saturation(a, w).product, qn.simulate_saturation(a.codes, w.codes).product)


def test_what_it_says():
    rng = np.random.default_rng(5)
    wide = qn.simulate_saturation(np.full((2, 4), 255, np.uint8), np.full((4, 3), 127, np.int8))
    assert "12 of 12 (100.000%)" in repr(wide)
    assert "3 of 3 columns can saturate, and with this a some do" in wide.advice
    lucky = qn.simulate_saturation(np.zeros((2, 4), np.uint8), np.full((4, 3), 127, np.int8))
    assert "though with this a none does" in lucky.advice
    assert lucky.share == 0
    safe = qn.simulate_saturation(codes(rng, (2, 4), np.uint8), np.full((4, 3), -64, np.int8))
    assert safe.advice == "No column can saturate: these weights give exact products on every CPU."
    assert "<table>" in wide._repr_html_()
    assert pickle.loads(pickle.dumps(wide)).saturated == wide.saturated


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qn.simulate_saturation(np.zeros((2, 2)), np.zeros((2, 2), np.int8)), TypeError,
         "simulate_saturation: a must be an array of int8 or uint8; got dtype float64."),
        (lambda: qn.simulate_saturation(np.zeros((2, 2), np.uint8), np.zeros(2, np.int8)), ValueError,
         "simulate_saturation: b must be 2-D; got shape (2,)."),
        (lambda: qn.simulate_saturation(np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.int8)), ValueError,
         "simulate_saturation: a and b must be of shapes (M, K) and (K, N); got shapes (2, 3) and (2, 2)."),
        (lambda: qn.safe_weights(np.zeros((2, 3), np.int16)), TypeError,
         "safe_weights: w must be an array of int8 or uint8; got dtype int16."),
        (lambda: qn.safe_weights(np.zeros((2, 3), np.int8), axis=2), ValueError,
         "safe_weights: axis must be in [-2, 1]; got 2."),
        (lambda: qn.reduce_range(1), TypeError, "reduce_range: qparams must be a QParams; got 1."),
        (lambda: qn.reduce_range(qn.QParams(1.0, 0, "int4")), TypeError,
         "reduce_range: qparams must be of int8 or uint8; got int4."),
        (lambda: qn.simulate_saturation(np.full((1, 140_000), 255, np.uint8), np.full((140_000, 1), 64, np.int8)),
         OverflowError, "simulate_saturation: a @ b must be in the range of int32; got 2284800000."),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
