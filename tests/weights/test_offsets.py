"""qn.weights.offsets: a float scale and a float offset for each group."""

import re

import numpy as np
import pytest

import qnumpy as qn

F32 = np.float32
RNG = np.random.default_rng(5)
W = (RNG.normal(size=(6, 100)) + 3).astype(F32)


def error(q):
    return float(np.square(q.dequantize("float64") - W).sum())


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_error_is_below_that_of_the_range(bits):
    q = qn.weights.offsets(W, bits=bits)
    assert q.shape == W.shape
    assert q.scale.shape == q.offset.shape == (6, 4)
    assert int(q.codes.astype(int).max()) <= 2**bits - 1
    total = 0.0
    for first in range(0, 100, 32):
        part = W[:, first : first + 32].astype(float)
        low, step = part.min(1, keepdims=True), np.ptp(part, axis=1, keepdims=True) / (2**bits - 1)
        total += np.square(low + step * np.rint((part - low) / step) - part).sum()
    assert error(q) <= total * (1 + 1e-5)


def test_moments_weight_the_errors():
    x = (RNG.normal(size=(300, 100)) * RNG.uniform(0.01, 10, 100)).astype(F32)
    moments = qn.MomentsObserver().observe(x)
    plain, weighted = qn.weights.offsets(W, bits=3), qn.weights.offsets(W, bits=3, moments=moments)

    def weighted_error(q):
        return float((np.square(q.dequantize("float64") - W) * moments.diagonal).sum())

    assert weighted_error(weighted) < 0.9 * weighted_error(plain)


def test_assumed_moments_are_those_of_inputs_that_contribute_alike():
    size = np.sqrt(np.square(W, dtype=float).mean(0))
    moments = qn.MomentsObserver().observe(np.diag(1 / size))
    assumed, observed = (qn.weights.offsets(W, bits=3, moments=moments) for moments in ("assumed", moments))
    np.testing.assert_allclose(assumed.scale, observed.scale, rtol=1e-4)
    assert np.mean(assumed.codes == observed.codes) > 0.97  # ties of rounded offsets
    with pytest.raises(TypeError, match="must be a MomentsObserver"):
        qn.weights.offsets(W, moments="guessed")


def test_axes():
    one, other = qn.weights.offsets(W), qn.weights.offsets(W.T, axis=0)
    np.testing.assert_array_equal(one.dequantize(), other.dequantize().T)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1,), (2, 3, 5)])
def test_shapes(shape):
    np.testing.assert_array_equal(qn.weights.offsets(np.full(shape, 2.5, F32)).dequantize(), np.full(shape, 2.5, F32))


@pytest.mark.parametrize("largest", [1e-40, 1e-30, 1e30, 3e38])
def test_small_and_large_weights(largest):
    w = (np.linspace(0, 1, 64) * largest).astype(F32)
    q = qn.weights.offsets(w)
    bound = float(q.scale.max()) * 0.51
    assert float(np.abs(q.dequantize("float64") - w.astype(float)).max()) <= bound


@pytest.mark.parametrize(("options", "message"), [
    ({"bits": 1}, "offsets: bits must be in [2, 8]; got 1."),
    ({"group_size": 0}, "offsets: group_size must be at least 1; got 0."),
    ({"axis": 2}, "offsets: axis must be in [-2, 1]; got 2."),
    ({"w": np.full((2, 2), np.inf, F32)}, "offsets: w must be finite; got inf."),
    ({"w": [[-3e38, 3e38]]}, "offsets: w must be of ranges that float32 holds, in each group; got 6e+38."),
])  # fmt: skip
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        qn.weights.offsets(**{"w": W, **options})
