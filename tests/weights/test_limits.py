"""Results that overflow their dtype are refused; factors stay in float32's normal range."""

import re

import numpy as np
import pytest

import qnumpy as qn


def one(value, dtype=np.float64):
    return np.array([[value]], dtype)


F32, F16 = np.float32, np.float16
OVERFLOWS = {
    "cross_layer_equalize: w2 must be of a dtype that holds the result; got 1e+19 in float16.": (
        lambda: qn.weights.cross_layer_equalize(one(1e38, F32), one(1, F16))
    ),
    "cross_layer_equalize: w1 must be of a dtype that holds the result; got 1e+19 in float16.": (
        lambda: qn.weights.cross_layer_equalize(one(1, F16), one(1e38, F32))
    ),
    "cross_layer_equalize: bias must be of a dtype that holds the result; got 5e+46 in float32.": (
        lambda: qn.weights.cross_layer_equalize(one(2.0**-120, F32), one(2.0**120, F32), F32([5e46 * 2.0**-120]))
    ),
    "smoothquant: w must be of a dtype that holds the result; got 7e+04 in float16.": (
        lambda: qn.weights.smoothquant(one(35000), np.array([[1, 2, -np.inf]], F16), alpha=1)
    ),
    "correct_bias: bias must be of a dtype that holds the result; got -1e+40 in float32.": (
        lambda: qn.weights.correct_bias([-1e30], one(1e10, F32), one(0.0))
    ),
    "correct_bias: bias must be of a dtype that holds the result; got inf in float64.": (
        lambda: qn.weights.correct_bias([1e200], one(1e200), one(0.0))
    ),
    "smoothquant_alpha: x and w must be of ranges that float32 holds, and their product; got 1e+40.": (
        lambda: qn.weights.smoothquant_alpha(one(1e30), one(1e10))
    ),
    "smoothquant_alpha: x and w must be of ranges that float32 holds, and their product; got inf.": (
        lambda: qn.weights.smoothquant_alpha(one(1e300), one(1e300))
    ),
}


@pytest.mark.parametrize("message", OVERFLOWS)
def test_what_a_dtype_does_not_hold_is_refused(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OVERFLOWS[message]()


@pytest.mark.parametrize("power_of_two", [True, False])
def test_factors_stay_in_the_normal_range_of_float32(power_of_two):
    """For any ranges; the function stays the same, because no factor changes it."""
    most, least = 2.0**127, np.finfo(np.float32).smallest_normal
    w1, w2 = np.array([[1e300, 5e-324, 4.0]]), np.array([[5e-324], [1e300], [1.0]])
    e = qn.weights.cross_layer_equalize(w1, w2, power_of_two=power_of_two)
    assert e.scale.tolist() == [most, least, 2.0]
    assert e.w1.tolist() == [[1e300 / most, 5e-324 / least, 2.0]]
    for x, w, want in ((one(1e300), one(1), most), (one(1e-300), one(1), least), (one(1e300), one(5e-324), most)):
        smooth = qn.weights.smoothquant(x, w, alpha=1, power_of_two=power_of_two)
        assert smooth.scale.tolist() == [want]
        assert smooth.w == w * want
    assert np.isfinite(qn.weights.smoothquant_alpha(one(1e30), one(1e-30)).mse).all()
    assert np.isnan(qn.weights.smoothquant(one(2), one(np.nan)).w)
    assert qn.weights.smoothquant(one(2), one(np.inf)).w == np.inf
