"""Which columns of a weight are safe, and ranges that make them so."""

import itertools

import numpy as np
import pytest
from strategies import ROWS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

KINDS = list(itertools.product([np.uint8, np.int8], repeat=2))


def test_safe_is_what_no_a_can_break():
    """Every pair of int8 weights, against the worst of all factors: those at the ends of 0..255."""
    every = np.arange(-128, 128)
    first, second = (part.ravel() for part in np.meshgrid(every, every))
    sums = [u * first + v * second for u in (0, 255) for v in (0, 255)]
    broken = np.any([(s > 32767) | (s < -32768) for s in sums], axis=0)
    w = np.stack([first, second]).astype(np.int8)
    assert_same_bits(qn.weights.safe_weights(w), ~broken)
    assert_same_bits(qn.weights.safe_weights(w.T, axis=1), ~broken)
    assert_same_bits(qn.weights.safe_weights(w.view(np.uint8) ^ 128), ~broken)
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
        assert qn.weights.safe_weights(w).all()
        w[2:4] = [[127], [2]]
        assert not qn.weights.safe_weights(w).any()
    finally:
        qn.set_isa(before)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(16, 0)])
def test_reduce_range_is_safe_and_keeps_the_range(dtype, symmetric, granularity):
    w = np.random.default_rng(3).normal(0.3, 1, (64, 48)).astype(np.float32)
    full = qn.choose_qparams(w, dtype=dtype, symmetric=symmetric, granularity=granularity)
    narrow = qn.weights.reduce_range(full)
    q = qn.quantize(w, narrow)
    assert qn.weights.safe_weights(q).all()
    # every real is within a step of its code: half a step of rounding, half a step of the rounded zero point
    steps = twin.spread(narrow.scale, w.shape, *granularity.axis_block)
    assert (np.abs(q.dequantize() - w) <= 1.01 * steps).all()
    ratio = (full.qmax - full.qmin) / (narrow.qmax - narrow.qmin)
    np.testing.assert_allclose(narrow.scale, full.scale * ratio, rtol=2e-7)  # two roundings to float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qn.weights.safe_weights(np.zeros((2, 3), np.int16)), TypeError,
         "safe_weights: w must be an array of int8 or uint8; got dtype int16."),
        (lambda: qn.weights.safe_weights(np.zeros((2, 3), np.int8), axis=2), ValueError,
         "safe_weights: axis must be in [-2, 1]; got 2."),
        (lambda: qn.weights.reduce_range(1), TypeError, "reduce_range: qparams must be a QParams; got 1."),
        (lambda: qn.weights.reduce_range(qn.QParams(1.0, 0, "int4")), TypeError,
         "reduce_range: qparams must be of int8 or uint8; got int4."),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
