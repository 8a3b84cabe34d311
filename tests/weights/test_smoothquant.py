"""SmoothQuant leaves the product alone; its search finds the alpha of least error."""

import numpy as np
import pytest
from layers import noise, uneven
from refusals import REALS, X, assert_refused, refusals

import qnumpy as qn
from qnumpy.ops.reduce import abs_max

U = 2.0**-53
U32 = 2.0**-24


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 0.85, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_formula(alpha, axis):
    x, w = uneven(3, 40, 16, axis=2), noise(16, 8, seed=3)
    weight = w if axis == 0 else w.T
    smooth = qn.weights.smoothquant(x, weight, alpha=alpha, axis=axis)
    mx, mw = np.abs(x).max(axis=(0, 1)), np.abs(w).max(axis=1)
    np.testing.assert_allclose(smooth.scale, mx**alpha / mw ** (1 - alpha), rtol=8 * U)
    np.testing.assert_allclose(smooth.w, weight * np.expand_dims(smooth.scale, 1 - axis), rtol=0)
    # the purpose of the formula: both maxima share mx * mw
    np.testing.assert_allclose(np.abs(x / smooth.scale).max(axis=(0, 1)), (mx * mw) ** (1 - alpha), rtol=16 * U)
    np.testing.assert_allclose(np.abs(smooth.w).max(axis=1 - axis), (mx * mw) ** alpha, rtol=16 * U)


def test_the_product_is_unchanged():
    x, w = uneven(50, 16, axis=1, dtype=np.float32), noise(16, 8, seed=3, dtype=np.float32)
    smooth = qn.weights.smoothquant(x, w)
    size = np.abs(x) @ np.abs(w)
    assert (np.abs((x / smooth.scale) @ smooth.w.astype(np.float64) - x.astype(np.float64) @ w) <= 4 * U32 * size).all()
    bits = qn.weights.smoothquant(x, w, power_of_two=True)
    assert np.array_equal((x / bits.scale.astype(np.float32)) @ bits.w, x @ w)
    assert len(np.unique(bits.scale)) > 3


def test_maxima_from_observation_and_dead_channels():
    x, w = uneven(50, 16, axis=1), noise(16, 8, seed=3)
    x[:, 2], w[5] = 0, 0
    x[7, 4] = np.nan
    smooth = qn.weights.smoothquant(x, w)
    assert smooth.scale[[2, 5]].tolist() == [1, 1]
    again = qn.weights.smoothquant(abs_max(x, qn.PerChannel(1)), w)
    assert np.array_equal(again.scale, smooth.scale)
    assert qn.weights.smoothquant(np.zeros((0, 16)), w).scale.tolist() == [1] * 16


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_dead_channels_keep_their_scale_at_every_alpha(alpha):
    """0 ** 0 = 1 would let the maximum of the other array decide."""
    x, w = np.array([[0.0, 4.0, 0.0, 4.0]]), np.array([[8.0], [0.0], [0.0], [16.0]])
    assert qn.weights.smoothquant(x, w, alpha=alpha).scale.tolist() == [1, 1, 1, 4**alpha / 16 ** (1 - alpha)]


def test_the_search_finds_the_best_alpha():
    x, w = uneven(64, 32, axis=1), noise(32, 8, seed=3)
    search = qn.weights.smoothquant_alpha(x, w)
    assert search.alphas.tolist() == pytest.approx(np.arange(21) / 20)
    assert search.mse[search.alphas.tolist().index(search.alpha)] == search.mse.min()
    assert search.mse.min() < search.baseline / 4
    for alpha, error in zip(search.alphas[::5], search.mse[::5], strict=True):  # each figure by the public functions
        smooth = qn.weights.smoothquant(x, w, alpha=alpha)
        xq, wq = qn.quantize(x / smooth.scale), qn.quantize(smooth.w, granularity=qn.PerChannel(1))
        product = xq.dequantize("float64") @ wq.dequantize("float64")
        assert error == pytest.approx(np.mean((product - x @ w) ** 2), rel=1e-12)  # 32 terms summed by two layouts
    one = qn.weights.smoothquant_alpha(x, w, [search.alpha])
    assert (one.alpha, one.mse[0]) == (search.alpha, search.mse.min())
    turned = qn.weights.smoothquant_alpha(x, w.T, [search.alpha], axis=1)
    assert turned.mse[0] == pytest.approx(search.mse.min(), rel=1e-12)
    coarse = qn.weights.smoothquant_alpha(
        x, w, dtype="int4", x_granularity=qn.PerChannel(0), w_granularity=qn.PerTensor()
    )
    assert coarse.mse.min() > 10 * search.mse.min()  # four bits fewer lose 24 dB; rows give some of it back
    none = qn.weights.smoothquant_alpha(np.zeros((0, 3)), noise(3, 2))
    assert (none.mse.tolist(), none.alpha) == ([0] * 21, 0)  # of equal ones the smallest
    xq, wq = qn.quantize(x), qn.quantize(w, granularity=qn.PerChannel(1))
    plain = np.mean((xq.dequantize("float64") @ wq.dequantize("float64") - x @ w) ** 2)
    assert search.baseline == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_search_of_alpha_refuses_what_is_not_finite(bad):
    x, w = noise(8, 3), noise(3, 2)
    for name in ("x", "w"):
        arrays = {"x": x.copy(), "w": w.copy()}
        arrays[name][1, 1] = bad
        with pytest.raises(ValueError, match=rf"^smoothquant_alpha: {name} must be finite; got NaN or infinities\.$"):
            qn.weights.smoothquant_alpha(**arrays)


def smoothquant_rows():
    w, rows, real = X.astype(np.float64), np.ones((5, 2)), f"must be an array of {REALS}; got dtype"
    smooth, search = qn.weights.smoothquant, qn.weights.smoothquant_alpha
    for owner, function in (("smoothquant", smooth), ("smoothquant_alpha", search)):
        for dtype in ("int64", "object"):
            wrong = np.ones((2, 3), dtype)
            yield lambda f=function, v=wrong: f(v, w), TypeError, f"{owner}: x {real} {dtype}"
            yield lambda f=function, v=wrong: f(rows, v), TypeError, f"{owner}: w {real} {dtype}"
        for shape in ((), (3,), (2, 3)):
            wrong = f"{owner}: x must be of shape (..., 2), as w has inputs; got shape {shape}"
            x = np.ones(shape)
            yield lambda f=function, v=x: f(v, w), ValueError, wrong
    for axis in (2, -3):
        wrong = f"smoothquant: axis must be in [-2, 1]; got {axis}"
        yield lambda a=axis: smooth(rows, w, axis=a), ValueError, wrong
    for value in (-0.1, 1.5, np.nan, "1", None):
        wrong = f"smoothquant: alpha must be in [0, 1]; got {value!r}"
        yield lambda v=value: smooth(rows, w, alpha=v), ValueError, wrong
    wrong = "smoothquant_alpha: alphas must be in [0, 1]; got 2.0"
    yield lambda: search(rows, w, [0.5, 2.0]), ValueError, wrong
    for value, shape in (([], (0,)), ([[0.5]], (1, 1))):
        wrong = f"smoothquant_alpha: alphas must be a sequence of one number or more; got shape {shape}"
        yield lambda v=value: search(rows, w, v), ValueError, wrong


@refusals(smoothquant_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int9"}, TypeError,
         "dtype must be int8, uint8, int16, uint16, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, "
         "int2, uint2, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn; got 'int9'."),
        ({"x_granularity": 1}, TypeError,
         "x_granularity must be PerTensor(), PerChannel(axis), PerGroup(group_size) or PerRow(); got 1."),
        ({"w_granularity": "row"}, TypeError,
         "w_granularity must be PerTensor(), PerChannel(axis), PerGroup(group_size) or PerRow(); got 'row'."),
        ({"w_granularity": qn.PerChannel(2)}, ValueError, "axis must be in [-2, 1]; got 2."),
    ],
)  # fmt: skip
def test_errors_of_the_search_name_the_search(options, error, message):
    with pytest.raises(error) as caught:
        qn.weights.smoothquant_alpha(noise(8, 3), noise(3, 2), **options)
    assert str(caught.value) == f"smoothquant_alpha: {message}"
