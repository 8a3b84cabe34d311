"""Equalization, bias correction and migration leave the network's function alone and do what the papers say."""

import re

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.reduce import abs_max

U = 2.0**-53
U32 = 2.0**-24


def noise(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def uneven(*shape, axis, seed=0, dtype=np.float64):
    """Channels whose ranges differ by up to 2^14."""
    channels = shape[axis]
    spread = np.exp2(np.random.default_rng(seed + 1).uniform(-7, 7, channels))
    return (
        noise(*shape, seed=seed) * np.expand_dims(spread, tuple(d for d in range(len(shape)) if d != axis % len(shape)))
    ).astype(dtype)


def widest(array, axis):
    return np.abs(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).max(axis=1)


# --- cross-layer equalization


def network(x, w1, bias, w2):
    return np.maximum(x @ w1 + bias, 0) @ w2


def test_ranges_match_and_the_network_is_the_same():
    w1, w2, bias = uneven(20, 30, axis=1), uneven(30, 10, axis=0, seed=5), noise(30, seed=9)
    x = noise(50, 20, seed=2)
    e = qn.cross_layer_equalize(w1, w2, bias)
    r1, r2 = widest(w1, 1), widest(w2, 0)
    # a square root, a division and a product: four roundings
    np.testing.assert_allclose(widest(e.w1, 1), np.sqrt(r1 * r2), rtol=4 * U)
    np.testing.assert_allclose(widest(e.w2, 0), np.sqrt(r1 * r2), rtol=4 * U)
    before, after = network(x, w1, bias, w2), network(x, e.w1, e.bias, e.w2)
    size = np.abs(np.maximum(np.abs(x) @ np.abs(w1) + np.abs(bias), 0)) @ np.abs(w2)  # of the sums' terms
    assert (np.abs(after - before) <= (20 + 30 + 8) * U * size).all()


def test_powers_of_two_keep_every_bit():
    w1, w2 = uneven(20, 30, axis=1, dtype=np.float32), uneven(30, 10, axis=0, seed=5, dtype=np.float32)
    bias, x = noise(30, dtype=np.float32), noise(50, 20, dtype=np.float32)
    e = qn.cross_layer_equalize(w1, w2, bias, power_of_two=True)
    assert (np.frexp(e.scale)[0] == 0.5).all()
    assert len(np.unique(e.scale)) > 5
    assert np.array_equal(network(x, e.w1, e.bias, e.w2), network(x, w1, bias, w2))
    ratio = widest(e.w1, 1) / widest(e.w2, 0)
    assert ((ratio > 0.49) & (ratio < 2.01)).all()  # float32 rounds the ranges themselves not at all
    assert [a.dtype for a in (e.w1, e.w2, e.bias)] == [np.float32] * 3


@pytest.mark.parametrize(("axis1", "axis2", "shape1", "shape2"), [
    (0, 1, (30, 20), (10, 30)),
    (0, 1, (6, 3, 3, 3), (4, 6, 3, 3)),
    (-1, -2, (20, 30), (30, 10)),
    (1, 0, (2, 5, 3), (5,)),
])  # fmt: skip
def test_any_layout(axis1, axis2, shape1, shape2):
    w1, w2 = uneven(*shape1, axis=axis1), uneven(*shape2, axis=axis2, seed=4)
    e = qn.cross_layer_equalize(w1, w2, axis1=axis1, axis2=axis2)
    assert (e.w1.shape, e.w2.shape, e.bias) == (shape1, shape2, None)
    np.testing.assert_allclose(widest(e.w1, axis1), widest(e.w2, axis2), rtol=8 * U)
    flat1, flat2 = np.moveaxis(w1, axis1, -1), np.moveaxis(w2, axis2, 0)
    np.testing.assert_allclose(np.moveaxis(e.w1, axis1, -1), flat1 / e.scale, rtol=0)
    again = qn.cross_layer_equalize(flat1, flat2)
    assert np.array_equal(again.scale, e.scale)


def test_dead_channels_keep_their_scale():
    w1, w2 = noise(4, 3), noise(3, 4)
    w1[:, 0], w2[1] = 0, 0
    e = qn.cross_layer_equalize(w1, w2)
    assert e.scale[:2].tolist() == [1, 1]
    assert e.scale[2] != 1
    assert not e.w1[:, 0].any()


def test_equalizing_lowers_the_error_of_one_scale_for_all():
    w1, w2 = uneven(64, 64, axis=1), uneven(64, 64, axis=0, seed=5)
    x = noise(200, 64, seed=2)
    exact = network(x, w1, 0, w2)

    def error(w1, w2):
        return np.mean(np.square(network(x, np.asarray(qn.quantize(w1)), 0, np.asarray(qn.quantize(w2))) - exact))

    e = qn.cross_layer_equalize(w1, w2)
    assert error(e.w1, e.w2) < error(w1, w2) / 10


# --- bias correction


def test_the_mean_error_vanishes_exactly():
    """On numbers with few bits every step is exact, and so is the mean."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (64, 16)) / 8.0
    w = rng.integers(-128, 128, (16, 5)) / 128.0
    q = qn.quantize(w, qn.QParams(2.0**-3, 0, "int4"))
    bias = rng.integers(-8, 8, 5) / 8.0
    corrected = qn.correct_bias(x, w, q, bias)
    error = (x @ np.asarray(q, np.float64) + corrected).mean(axis=0) - (x @ w + bias).mean(axis=0)
    assert error.tolist() == [0] * 5
    assert (corrected != bias).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_error_is_one_rounding(dtype):
    x, w = noise(7, 40, 33, seed=1) + 1, noise(33, 12, dtype=dtype)
    q = qn.quantize(w, dtype="int4")
    corrected = qn.correct_bias(x, w, q)
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
    whole = qn.correct_bias(x, w, q, bias)
    assert np.array_equal(qn.correct_bias(x.mean(axis=0), w, q, bias), whole)
    turned = qn.quantize(w.T.copy(), dtype="int2")
    np.testing.assert_allclose(qn.correct_bias(x, w.T, turned, bias, axis=1), whole, rtol=0, atol=20 * U)
    np.testing.assert_array_equal(qn.correct_bias(x, w, q.dequantize("float64"), bias), whole)


def test_inputs_that_are_quantized_too():
    x, w = np.abs(noise(100, 6)), noise(6, 4)
    xq = qn.quantize(x, qn.QParams.from_range(0, 0.5, symmetric=False)).dequantize("float64")  # clipped hard
    q = qn.quantize(w)
    corrected = qn.correct_bias(x, w, q, xq=xq)
    np.testing.assert_allclose((xq @ np.asarray(q, float) + corrected).mean(0), (x @ w).mean(0), rtol=0, atol=1000 * U)
    assert np.abs((xq @ np.asarray(q, float)).mean(0) - (x @ w).mean(0)).max() > 0.1


def test_no_rows_correct_nothing():
    assert qn.correct_bias(np.zeros((0, 3)), noise(3, 2), noise(3, 2, seed=1), np.ones(2)).tolist() == [1, 1]


# --- SmoothQuant


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 0.85, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_formula(alpha, axis):
    x, w = uneven(3, 40, 16, axis=2), noise(16, 8, seed=3)
    given = w if axis == 0 else w.T
    smooth = qn.smoothquant(x, given, alpha=alpha, axis=axis)
    mx, mw = np.abs(x).max(axis=(0, 1)), np.abs(w).max(axis=1)
    np.testing.assert_allclose(smooth.scale, mx**alpha / mw ** (1 - alpha), rtol=8 * U)
    np.testing.assert_allclose(smooth.w, given * np.expand_dims(smooth.scale, 1 - axis), rtol=0)
    # what the formula is for: both maxima share out mx * mw
    np.testing.assert_allclose(np.abs(x / smooth.scale).max(axis=(0, 1)), (mx * mw) ** (1 - alpha), rtol=16 * U)
    np.testing.assert_allclose(np.abs(smooth.w).max(axis=1 - axis), (mx * mw) ** alpha, rtol=16 * U)


def test_the_product_is_unchanged():
    x, w = uneven(50, 16, axis=1, dtype=np.float32), noise(16, 8, seed=3, dtype=np.float32)
    smooth = qn.smoothquant(x, w)
    size = np.abs(x) @ np.abs(w)
    assert (np.abs((x / smooth.scale) @ smooth.w.astype(np.float64) - x.astype(np.float64) @ w) <= 4 * U32 * size).all()
    bits = qn.smoothquant(x, w, power_of_two=True)
    assert np.array_equal((x / bits.scale.astype(np.float32)) @ bits.w, x @ w)
    assert len(np.unique(bits.scale)) > 3


def test_maxima_from_observation_and_dead_channels():
    x, w = uneven(50, 16, axis=1), noise(16, 8, seed=3)
    x[:, 2], w[5] = 0, 0
    x[7, 4] = np.nan
    smooth = qn.smoothquant(x, w)
    assert smooth.scale[[2, 5]].tolist() == [1, 1]
    again = qn.smoothquant(abs_max(x, qn.PerChannel(1)), w)
    assert np.array_equal(again.scale, smooth.scale)
    assert qn.smoothquant(np.zeros((0, 16)), w).scale.tolist() == [1] * 16


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_dead_channels_keep_their_scale_at_every_alpha(alpha):
    """Where 0 ** 0 = 1 would give the other's maximum a say."""
    x, w = np.array([[0.0, 4.0, 0.0, 4.0]]), np.array([[8.0], [0.0], [0.0], [16.0]])
    assert qn.smoothquant(x, w, alpha=alpha).scale.tolist() == [1, 1, 1, 4**alpha / 16 ** (1 - alpha)]


def test_the_search_finds_the_best_alpha():
    x, w = uneven(64, 32, axis=1), noise(32, 8, seed=3)
    found = qn.smoothquant_alpha(x, w)
    assert found.alphas.tolist() == pytest.approx(np.arange(21) / 20)
    assert found.mse[found.alphas.tolist().index(found.alpha)] == found.mse.min()
    assert found.mse.min() < found.baseline / 4
    for alpha, error in zip(found.alphas[::5], found.mse[::5], strict=True):  # each figure by the public functions
        smooth = qn.smoothquant(x, w, alpha=alpha)
        xq, wq = qn.quantize(x / smooth.scale), qn.quantize(smooth.w, granularity=qn.PerChannel(1))
        product = xq.dequantize("float64") @ wq.dequantize("float64")
        assert error == pytest.approx(np.mean((product - x @ w) ** 2), rel=1e-12)  # 32 terms summed by two layouts
    one = qn.smoothquant_alpha(x, w, [found.alpha])
    assert (one.alpha, one.mse[0]) == (found.alpha, found.mse.min())
    turned = qn.smoothquant_alpha(x, w.T, [found.alpha], axis=1)
    assert turned.mse[0] == pytest.approx(found.mse.min(), rel=1e-12)
    coarse = qn.smoothquant_alpha(x, w, dtype="int4", x_granularity=qn.PerChannel(0), w_granularity=qn.PerTensor())
    assert coarse.mse.min() > 10 * found.mse.min()  # four bits fewer lose 24 dB; rows give some of it back
    none = qn.smoothquant_alpha(np.zeros((0, 3)), noise(3, 2))
    assert (none.mse.tolist(), none.alpha) == ([0] * 21, 0)  # of equal ones the smallest
    xq, wq = qn.quantize(x), qn.quantize(w, granularity=qn.PerChannel(1))
    plain = np.mean((xq.dequantize("float64") @ wq.dequantize("float64") - x @ w) ** 2)
    assert found.baseline == pytest.approx(plain, rel=1e-12)


def one(value, dtype=np.float64):
    return np.array([[value]], dtype)


F32, F16 = np.float32, np.float16
OVERFLOWS = {
    "cross_layer_equalize: w2 must be of a dtype that holds the result; got 1e+19 in float16.": (
        lambda: qn.cross_layer_equalize(one(1e38, F32), one(1, F16))
    ),
    "cross_layer_equalize: w1 must be of a dtype that holds the result; got 1e+19 in float16.": (
        lambda: qn.cross_layer_equalize(one(1, F16), one(1e38, F32))
    ),
    "cross_layer_equalize: bias must be of a dtype that holds the result; got 5e+46 in float32.": (
        lambda: qn.cross_layer_equalize(one(2.0**-120, F32), one(2.0**120, F32), F32([5e46 * 2.0**-120]))
    ),
    "smoothquant: w must be of a dtype that holds the result; got 7e+04 in float16.": (
        lambda: qn.smoothquant(one(35000), np.array([[1, 2, -np.inf]], F16), alpha=1)
    ),
    "correct_bias: bias must be of a dtype that holds the result; got -1e+40 in float32.": (
        lambda: qn.correct_bias([-1e30], one(1e10, F32), one(0.0))
    ),
    "correct_bias: bias must be of a dtype that holds the result; got inf in float64.": (
        lambda: qn.correct_bias([1e200], one(1e200), one(0.0))
    ),
    "smoothquant_alpha: x and w must be of ranges that float32 holds, and their product; got 1e+40.": (
        lambda: qn.smoothquant_alpha(one(1e30), one(1e10))
    ),
    "smoothquant_alpha: x and w must be of ranges that float32 holds, and their product; got inf.": (
        lambda: qn.smoothquant_alpha(one(1e300), one(1e300))
    ),
}


@pytest.mark.parametrize("message", OVERFLOWS)
def test_what_a_dtype_does_not_hold_is_refused(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OVERFLOWS[message]()


@pytest.mark.parametrize("power_of_two", [True, False])
def test_factors_stay_in_the_normal_range_of_float32(power_of_two):
    """Whatever the ranges; the function stays the same, since any factor keeps it."""
    most, least = 2.0**127, np.finfo(np.float32).smallest_normal
    w1, w2 = np.array([[1e300, 5e-324, 4.0]]), np.array([[5e-324], [1e300], [1.0]])
    e = qn.cross_layer_equalize(w1, w2, power_of_two=power_of_two)
    assert e.scale.tolist() == [most, least, 2.0]
    assert e.w1.tolist() == [[1e300 / most, 5e-324 / least, 2.0]]
    for x, w, want in ((one(1e300), one(1), most), (one(1e-300), one(1), least), (one(1e300), one(5e-324), most)):
        smooth = qn.smoothquant(x, w, alpha=1, power_of_two=power_of_two)
        assert smooth.scale.tolist() == [want]
        assert smooth.w == w * want
    assert np.isfinite(qn.smoothquant_alpha(one(1e30), one(1e-30)).mse).all()
    assert np.isnan(qn.smoothquant(one(2), one(np.nan)).w)
    assert qn.smoothquant(one(2), one(np.inf)).w == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_search_of_alpha_refuses_what_is_not_finite(bad):
    x, w = noise(8, 3), noise(3, 2)
    for name in ("x", "w"):
        given = {"x": x.copy(), "w": w.copy()}
        given[name][1, 1] = bad
        with pytest.raises(ValueError, match=rf"^smoothquant_alpha: {name} must be finite; got NaN or infinities\.$"):
            qn.smoothquant_alpha(**given)
