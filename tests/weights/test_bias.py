"""Bias correction keeps the mean of every output."""

import numpy as np
import pytest
from layers import noise
from refusals import REALS, X, assert_refused, refusals

import qnumpy as qn

U = 2.0**-53
U32 = 2.0**-24


def test_the_mean_error_vanishes_exactly():
    """On numbers with few bits every step is exact, and so is the mean."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (64, 16)) / 8.0
    w = rng.integers(-128, 128, (16, 5)) / 128.0
    q = qn.quantize(w, qn.QParams(2.0**-3, 0, "int4"))
    bias = rng.integers(-8, 8, 5) / 8.0
    corrected = qn.weights.correct_bias(x, w, q, bias)
    error = (x @ np.asarray(q, np.float64) + corrected).mean(axis=0) - (x @ w + bias).mean(axis=0)
    assert error.tolist() == [0] * 5
    assert (corrected != bias).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_error_is_one_rounding(dtype):
    x, w = noise(7, 40, 33, seed=1) + 1, noise(33, 12, dtype=dtype)
    q = qn.quantize(w, dtype="int4")
    corrected = qn.weights.correct_bias(x, w, q)
    assert corrected.dtype == dtype
    wide = np.asarray(q, np.float64)
    before, after = (x @ w.astype(np.float64)).mean(axis=(0, 1)), (x @ wide + corrected).mean(axis=(0, 1))
    unit = U32 if dtype == "float32" else U
    # the rounding of the bias, and sums of 33 and 280 terms of size at most 20 in float64
    assert (np.abs(after - before) <= unit * np.abs(corrected) + 313 * U * 20).all()
    assert np.abs((x @ wide).mean(axis=(0, 1)) - before).max() > 0.01


def test_the_mean_alone_will_do_and_either_layout():
    x, w, bias = noise(100, 6), noise(6, 4), noise(4, seed=3)
    q = qn.quantize(w, dtype="int2")
    whole = qn.weights.correct_bias(x, w, q, bias)
    assert np.array_equal(qn.weights.correct_bias(x.mean(axis=0), w, q, bias), whole)
    turned = qn.quantize(w.T.copy(), dtype="int2")
    np.testing.assert_allclose(qn.weights.correct_bias(x, w.T, turned, bias, axis=1), whole, rtol=0, atol=20 * U)
    np.testing.assert_array_equal(qn.weights.correct_bias(x, w, q.dequantize("float64"), bias), whole)


def test_inputs_that_are_quantized_too():
    x, w = np.abs(noise(100, 6)), noise(6, 4)
    xq = qn.quantize(x, qn.QParams.from_range(0, 0.5, symmetric=False)).dequantize("float64")  # clipped hard
    q = qn.quantize(w)
    corrected = qn.weights.correct_bias(x, w, q, xq=xq)
    np.testing.assert_allclose((xq @ np.asarray(q, float) + corrected).mean(0), (x @ w).mean(0), rtol=0, atol=1000 * U)
    assert np.abs((xq @ np.asarray(q, float)).mean(0) - (x @ w).mean(0)).max() > 0.1


def test_moments_of_the_inputs_and_other_arrays_of_codes():
    x, w, bias = noise(100, 64) + 1, noise(8, 64), noise(8, seed=3)
    moments, other = qn.MomentsObserver().observe(x), qn.MomentsObserver().observe(x / 2)
    for q in (qn.quantize(w, dtype="int2"), qn.quantize(w, dtype="mxfp4")):
        expected = qn.weights.correct_bias(x, w, np.asarray(q.dequantize()), bias, axis=1)
        np.testing.assert_allclose(qn.weights.correct_bias(moments, w, q, bias, axis=1), expected, rtol=1e-12)
        halved = qn.weights.correct_bias(x, w, q, bias, xq=x / 2, axis=1)
        np.testing.assert_allclose(qn.weights.correct_bias(x, w, q, bias, xq=other, axis=1), halved, rtol=1e-12)
    with pytest.raises(ValueError, match=r"^correct_bias: x must be of shape \(\.\.\., 63\)"):
        qn.weights.correct_bias(moments, w[:, :63], w[:, :63], axis=1)
    assert np.array_equal(qn.weights.correct_bias(qn.MomentsObserver(), w, q, bias, axis=1), bias)


def test_no_rows_correct_nothing():
    assert qn.weights.correct_bias(np.zeros((0, 3)), noise(3, 2), noise(3, 2, seed=1), np.ones(2)).tolist() == [1, 1]


def correct_bias_rows():
    w, bias, real = X.astype(np.float64), np.ones(3), f"must be an array of {REALS}; got dtype"
    owner, correct, rows, q = (
        "correct_bias",
        qn.weights.correct_bias,
        np.ones((5, 2)),
        qn.quantize(X.astype(np.float64)),
    )
    operands = {
        "x": lambda a: correct(a, w, q),
        "w": lambda a: correct(rows, a, q),
        "q": lambda a: correct(rows, w, a),
        "bias": lambda a: correct(rows, w, q, a),
        "xq": lambda a: correct(rows, w, q, xq=a),
    }
    for name, call in operands.items():
        for dtype in ("int64", "object"):
            wrong = np.ones((2, 3), dtype)
            yield lambda c=call, v=wrong: c(v), TypeError, f"{owner}: {name} {real} {dtype}"
    for axis in (2, -3):
        wrong = f"{owner}: axis must be in [-2, 1]; got {axis}"
        yield lambda a=axis: correct(rows, w, q, axis=a), ValueError, wrong
    yield lambda: correct(rows, w, q, bias[:2]), ValueError, f"{owner}: bias must be of shape (3,); got shape (2,)"
    yield lambda: correct(rows, bias, bias), ValueError, f"{owner}: w must be a matrix; got shape (3,)"
    wrong = f"{owner}: q must be of the shape (2, 3) of w; got shape (3, 4)"
    yield lambda: correct(rows, w, np.ones((3, 4))), ValueError, wrong
    for shape in ((), (3,), (2, 3)):
        wrong = f"must be of shape (..., 2), as w has inputs; got shape {shape}"
        x = np.ones(shape)
        yield lambda v=x: correct(v, w, q), ValueError, f"{owner}: x {wrong}"
        yield lambda v=x: correct(rows, w, q, xq=v), ValueError, f"{owner}: xq {wrong}"
    hot = np.array([[1.0, np.nan], [1.0, 2.0]])
    yield lambda: correct(hot, w, q), ValueError, f"{owner}: x must be finite; got NaN or infinities"


@refusals(correct_bias_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
