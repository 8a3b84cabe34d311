"""qn.weights.gptq: the mean of every output stays, moments are about the mean, and the objective is true."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.grid_search import Levels
from qnumpy.ops.rounding import round_weight

gptq = qn.weights.gptq


def layer(outputs=16, inputs=48, rows=600, seed=0):
    """Inputs far from zero, a weight and a bias."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)) @ rng.normal(size=(inputs, inputs)) + 20 * rng.normal(size=inputs)
    return x.astype(np.float32), rng.normal(size=(outputs, inputs)).astype(np.float32), rng.normal(size=outputs)


def mean_square(x):
    return np.square(x.astype(np.float64)).mean(axis=0)


@pytest.mark.parametrize("granularity", [qn.PerChannel(0), qn.PerGroup(16)])
@pytest.mark.parametrize("symmetric", [True, False, "full"])
def test_the_mean_of_every_output_stays(granularity, symmetric):
    x, w, bias = layer()
    moments = qn.MomentsObserver().observe(x)
    q, corrected, before, after = gptq(w, moments, granularity, symmetric=symmetric, bias=bias)
    exact = x.astype(np.float64) @ w.T + bias
    rounded = x.astype(np.float64) @ q.dequantize("float64").T + corrected
    np.testing.assert_allclose(rounded.mean(axis=0), exact.mean(axis=0), atol=1e-8 * np.abs(exact).max())
    assert (before.shape, after.shape, corrected.dtype) == ((16,), (16,), np.float64)
    assert (after <= before).all()
    plain = qn.quantize(w, dtype="int4", granularity=granularity, symmetric=symmetric, method="gptq", moments=moments)
    other = x.astype(np.float64) @ plain.dequantize("float64").T + bias
    assert mean_square(rounded - exact).sum() < mean_square(other - exact).sum()


def test_the_objective_is_the_mean_square_of_the_change_of_the_output():
    x, w, bias = layer()
    moments = qn.MomentsObserver().observe(x)
    result = gptq(w, moments, qn.PerChannel(0), bias=bias, damping=0.1)
    apart = result.q.dequantize("float64") - w
    change = mean_square(x @ apart.T - (x.mean(axis=0, dtype=np.float64) @ apart.T))
    damping = 0.1 * moments.covariance().diagonal().mean() * np.square(apart).sum(axis=1)
    np.testing.assert_allclose(result.after, change + damping, rtol=1e-3)


def test_the_codes_are_those_of_centered_moments():
    x, w, bias = layer()
    moments = qn.MomentsObserver().observe(x)
    levels = Levels(-7, 7, 0, 0)
    for centered in (True, False):
        result = gptq(w, moments, qn.PerChannel(0), bias=bias, centered=centered)
        expected = round_weight(w, moments.covariance(centered=centered), levels, 48)
        np.testing.assert_array_equal(result.q.codes.astype(np.int16), expected.codes)
        np.testing.assert_array_equal(result.q.scale, expected.scale[:, 0])
        np.testing.assert_array_equal(result.after, expected.after)
        assert (result.bias.tobytes() == bias.tobytes()) == (not centered)
    plain = qn.quantize(w, dtype="int4", granularity=qn.PerChannel(0), method="gptq", moments=moments)
    assert plain == result.q


def test_axes_and_filters():
    x, w, bias = layer()
    moments = qn.MomentsObserver().observe(x)
    straight, turned = gptq(w, moments, qn.PerGroup(16), bias=bias), gptq(w.T, moments, qn.PerGroup(16, 0), bias=bias)
    np.testing.assert_array_equal(turned.q.codes.T, straight.q.codes)
    np.testing.assert_array_equal(turned.bias, straight.bias)
    rng = np.random.default_rng(0)
    image, filters = rng.normal(size=(3, 2, 8, 8)) + 1, rng.normal(size=(6, 2, 3, 3))
    rows = qn.weights.patches(image, 3)
    result = gptq(filters, qn.MomentsObserver().observe(rows), qn.PerChannel(0))
    exact, rounded = (rows @ kernel.reshape(6, -1).T for kernel in (filters, result.q.dequantize("float64")))
    np.testing.assert_allclose((rounded + result.bias).mean(axis=(0, 1, 2)), exact.mean(axis=(0, 1, 2)), atol=1e-9)


def test_more_damping_keeps_the_codes_nearer():
    x, w, _ = layer(rows=50)
    moments = qn.MomentsObserver().observe(x)
    distances = [
        np.square(gptq(w, moments, qn.PerChannel(0), damping=damping).q.dequantize() - w).sum()
        for damping in (0.0, 0.1, 100)
    ]
    assert distances[0] > distances[1] > distances[2]


def test_the_bias_has_its_dtype():
    x, w, bias = layer()
    moments = qn.MomentsObserver().observe(x)
    assert gptq(w, moments, qn.PerChannel(0)).bias.dtype == np.float32
    assert gptq(w, moments, qn.PerChannel(0), bias=bias.astype(np.float16)).bias.dtype == np.float16
    nothing = gptq(w[:0], moments, qn.PerChannel(0))
    assert (nothing.q.shape, nothing.bias.shape, nothing.before.shape) == ((0, 48), (0,), (0,))


@pytest.mark.parametrize(("options", "kind", "text"), [
    ({"damping": -1}, ValueError, "damping must be in [0, 1000000]; got -1."),
    ({"damping": np.nan}, ValueError, "damping must be in [0, 1000000]; got nan."),
    ({"centered": 1}, TypeError, "centered must be True or False; got 1."),
    ({"bias": np.zeros(3)}, ValueError, "bias must be of shape (2,); got shape (3,)."),
    ({"w": [[np.nan, 1, 2]]}, ValueError, "w must be finite; got NaN or infinities."),
    ({"w": [[1, 1, 1e300]]}, ValueError, "w must be of magnitudes that float32 holds; got 1e+300."),
    ({"moments": None}, TypeError, "moments must be a MomentsObserver; got None."),
    ({"granularity": qn.PerTensor()}, ValueError,
     "granularity must be PerChannel(axis) or PerGroup(group_size) beside moments; got PerTensor()."),
])  # fmt: skip
def test_refusals(options, kind, text):
    arguments = {"w": np.ones((2, 3)), "moments": qn.MomentsObserver().observe(np.ones((4, 3)))}
    with pytest.raises(kind) as caught:
        gptq(**{"granularity": qn.PerChannel(0), **arguments, **options})
    assert str(caught.value) == f"gptq: {text}"
