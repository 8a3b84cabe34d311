"""The report of a saturating product: figures, sentences, refusals."""

import itertools
import pickle

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn

KINDS = list(itertools.product([np.uint8, np.int8], repeat=2))


def codes(rng, shape, dtype):
    """Full range; the ends, which saturate, more often."""
    info = np.iinfo(dtype)
    drawn = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, drawn).astype(dtype)


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
        (lambda: qn.simulate_saturation(np.full((1, 140_000), 255, np.uint8), np.full((140_000, 1), 64, np.int8)),
         OverflowError, "simulate_saturation: a @ b must be in the range of int32; got 2284800000."),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
