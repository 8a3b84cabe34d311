"""AWQ: the formula of the scales, and the search against brute force in float64."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.weights import awq


def layer(rng, n=6, k=48, rows=300):
    x = rng.normal(size=(rows, k)) @ (np.eye(k) + 0.3 * rng.normal(size=(k, k)))
    x[:, ::7] *= 15
    return x, rng.normal(size=(n, k))


def brute_force(x, w, scale, **kinds):
    """The mean square of what the outputs change, over rows and outputs."""
    q = qn.quantize((w.astype(np.float32) * scale).astype(np.float32), **kinds)
    change = x @ (q.dequantize("float64") / scale - w.astype(np.float32)).T
    return np.square(change).mean()


KINDS = [
    {"granularity": qn.PerChannel(0)},
    {"granularity": qn.PerGroup(16), "symmetric": False},
    {"granularity": qn.PerGroup(16), "method": "minmax", "dtype": "int8"},
    {"granularity": qn.PerChannel(0), "symmetric": "full", "dtype": "int2"},
    {"granularity": qn.PerGroup(20), "method": "hqq", "dtype": "uint4", "symmetric": False},
]


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_the_search_against_brute_force(rng, kinds):
    x, w = layer(rng)
    alphas = [0, 0.25, 0.5, 0.75, 1]
    result = awq(x, w, alphas=alphas, **kinds)
    size = np.sqrt(np.square(x).mean(axis=0))
    expected = []
    for alpha in alphas:
        scale = size**alpha / np.sqrt(size.max() ** alpha * size.min() ** alpha)
        expected.append(brute_force(x, w, scale, **{"dtype": "int4", "method": "mse", **kinds}))
        if alpha == result.search.alpha:
            np.testing.assert_allclose(result.scale, scale, rtol=1e-9)
    # codes on the edge between two levels may differ: the sizes come from float32 products
    np.testing.assert_allclose(result.search.mse, expected, rtol=1e-2)
    assert result.search.alpha == alphas[int(np.argmin(result.search.mse))]
    assert result.search.baseline == pytest.approx(result.search.mse[0], rel=1e-12)
    assert np.array_equal(result.w, w * result.scale)


def test_it_helps_where_inputs_differ(rng):
    x, w = layer(rng)
    result = awq(x, w, qn.PerGroup(16))
    assert result.search.mse.min() < result.search.baseline
    assert 0 < result.search.alpha < 1
    kinds = {"dtype": "int4", "granularity": qn.PerGroup(16), "method": "mse"}
    assert brute_force(x, w, result.scale, **kinds) < brute_force(x, w, np.ones(48), **kinds)


def test_moments_in_place_of_inputs(rng):
    x, w = layer(rng)
    moments = qn.MomentsObserver().observe(x)
    one, other = awq(x, w, qn.PerChannel(0)), awq(moments, w, qn.PerChannel(0))
    for a, b in zip((one.w, one.scale, *one.search), (other.w, other.scale, *other.search), strict=True):
        assert np.array_equal(a, b)


def test_axes_and_filters(rng):
    x, w = layer(rng)
    flat, turned = awq(x, w, qn.PerChannel(0)), awq(x, w.T, qn.PerChannel(1))
    assert np.array_equal(flat.w.T, turned.w)
    assert np.array_equal(flat.scale, turned.scale)
    filters = w.reshape(6, 3, 4, 4)
    conv = awq(x, filters, qn.PerChannel(0))
    assert np.array_equal(conv.w.reshape(6, 48), flat.w)


def test_isas_and_threads(rng, row):
    x, w = layer(rng)
    results = []
    moments = qn.MomentsObserver().observe(x)
    for isa, threads in (("scalar", 1), (row, 2)):
        qn.set_isa(isa)
        with qn.threads(threads):
            results.append(awq(moments, w, qn.PerGroup(16)))
    assert np.array_equal(results[0].w, results[1].w)
    assert np.array_equal(results[0].search.mse, results[1].search.mse)


def test_dead_inputs_and_edges(rng):
    x, w = layer(rng)
    x[:, [2, 5]] = 0
    assert awq(x, w, qn.PerChannel(0), alphas=[0.5]).scale[[2, 5]].tolist() == [1, 1]
    zero = awq(np.zeros((3, 48)), w, qn.PerChannel(0))
    assert zero.scale.tolist() == [1] * 48
    assert zero.search.alpha == 0
    assert np.array_equal(zero.w, w)
    one = awq(x[:, :1] + 1, w[:, :1], qn.PerChannel(0))
    assert one.scale.tolist() == [1]
    powers = awq(x, w, qn.PerChannel(0), power_of_two=True).scale
    assert np.array_equal(powers, np.exp2(np.rint(np.log2(powers))))
    bad = x.copy()
    bad[3, 3], bad[9, 1] = np.nan, np.inf
    kept = np.delete(x, [3, 9], axis=0)
    np.testing.assert_allclose(awq(bad, w, qn.PerChannel(0)).scale, awq(kept, w, qn.PerChannel(0)).scale)
    assert awq(x.astype(np.float16), w.astype(np.float32), qn.PerChannel(0)).w.dtype == np.float32
    assert awq(x, np.ones((0, 48)), qn.PerChannel(0)).w.shape == (0, 48)


X, W = np.ones((4, 6)), np.ones((2, 6))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((X, "a", qn.PerChannel(0)), {}, TypeError, "awq: w must be an array of float32, float64, float16 or bfloat16"),
        ((X, W, qn.PerChannel(0)), {"method": "gptq"}, ValueError,
         "awq: method must be one of 'mse', 'minmax', 'hqq'; got 'gptq'."),
        ((X, W, qn.PerChannel(0)), {"dtype": "float8_e4m3fn"}, TypeError,
         "awq: dtype must be an integer type of at most 8 bits for a weight; got float8_e4m3fn."),
        ((X, W, qn.PerTensor()), {}, ValueError, "awq: granularity must be PerChannel(axis) or PerGroup(group_size)"),
        ((X[:, :5], W, qn.PerChannel(0)), {}, ValueError,
         "awq: x must be of shape (..., 6), as w has inputs; got shape (4, 5)."),
        ((X[:0], W, qn.PerChannel(0)), {}, qn.CalibrationError, "awq: moments must be of one finite row or more"),
        ((X, W, qn.PerChannel(0)), {"alphas": [2]}, ValueError, "awq: alphas must be in [0, 1]; got 2."),
        ((X, W, qn.PerChannel(0)), {"alphas": []}, ValueError, "awq: alphas must be a sequence of one number or more"),
        ((X, W, qn.PerChannel(0)), {"power_of_two": 1}, TypeError, "awq: power_of_two must be True or False; got 1."),
        ((X, W * np.nan, qn.PerChannel(0)), {}, ValueError, "awq: w must be finite; got NaN or infinities."),
    ],
)  # fmt: skip
def test_refusals(arguments, options, error, text):
    with pytest.raises(error) as raised:
        awq(*arguments, **options)
    assert str(raised.value).startswith(text)
