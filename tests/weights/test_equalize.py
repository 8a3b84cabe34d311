"""Cross-layer equalization leaves the network's function alone and gives channels one range."""

import numpy as np
import pytest
from layers import noise, uneven, widest
from refusals import REALS, X, assert_refused, refusals

import qnumpy as qn

U = 2.0**-53


def network(x, w1, bias, w2):
    return np.maximum(x @ w1 + bias, 0) @ w2


def test_ranges_match_and_the_network_is_the_same():
    w1, w2, bias = uneven(20, 30, axis=1), uneven(30, 10, axis=0, seed=5), noise(30, seed=9)
    x = noise(50, 20, seed=2)
    e = qn.weights.cross_layer_equalize(w1, w2, bias)
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
    e = qn.weights.cross_layer_equalize(w1, w2, bias, power_of_two=True)
    assert (np.frexp(e.scale)[0] == 0.5).all()
    assert len(np.unique(e.scale)) > 5
    assert np.array_equal(network(x, e.w1, e.bias, e.w2), network(x, w1, bias, w2))
    ratio = widest(e.w1, 1) / widest(e.w2, 0)
    assert ((ratio > 0.49) & (ratio < 2.01)).all()  # the ranges are exact in float32
    assert [a.dtype for a in (e.w1, e.w2, e.bias)] == [np.float32] * 3


@pytest.mark.parametrize(("axis1", "axis2", "shape1", "shape2"), [
    (0, 1, (30, 20), (10, 30)),
    (0, 1, (6, 3, 3, 3), (4, 6, 3, 3)),
    (-1, -2, (20, 30), (30, 10)),
    (1, 0, (2, 5, 3), (5,)),
])  # fmt: skip
def test_any_layout(axis1, axis2, shape1, shape2):
    w1, w2 = uneven(*shape1, axis=axis1), uneven(*shape2, axis=axis2, seed=4)
    e = qn.weights.cross_layer_equalize(w1, w2, axis1=axis1, axis2=axis2)
    assert (e.w1.shape, e.w2.shape, e.bias) == (shape1, shape2, None)
    np.testing.assert_allclose(widest(e.w1, axis1), widest(e.w2, axis2), rtol=8 * U)
    flat1, flat2 = np.moveaxis(w1, axis1, -1), np.moveaxis(w2, axis2, 0)
    np.testing.assert_allclose(np.moveaxis(e.w1, axis1, -1), flat1 / e.scale, rtol=0)
    again = qn.weights.cross_layer_equalize(flat1, flat2)
    assert np.array_equal(again.scale, e.scale)


def test_dead_channels_keep_their_scale():
    w1, w2 = noise(4, 3), noise(3, 4)
    w1[:, 0], w2[1] = 0, 0
    e = qn.weights.cross_layer_equalize(w1, w2)
    assert e.scale[:2].tolist() == [1, 1]
    assert e.scale[2] != 1
    assert not e.w1[:, 0].any()


def test_equalizing_lowers_the_error_of_one_scale_for_all():
    w1, w2 = uneven(64, 64, axis=1), uneven(64, 64, axis=0, seed=5)
    x = noise(200, 64, seed=2)
    exact = network(x, w1, 0, w2)

    def error(w1, w2):
        return np.mean(np.square(network(x, np.asarray(qn.quantize(w1)), 0, np.asarray(qn.quantize(w2))) - exact))

    e = qn.weights.cross_layer_equalize(w1, w2)
    assert error(e.w1, e.w2) < error(w1, w2) / 10


def equalize_rows():
    w1, w2, real = X.astype(np.float64), np.ones((3, 4)), f"must be an array of {REALS}; got dtype"
    owner, cross = "cross_layer_equalize", qn.weights.cross_layer_equalize
    operands = {"w1": lambda a: cross(a, w2), "w2": lambda a: cross(w1, a), "bias": lambda a: cross(w1, w2, a)}
    for name, call in operands.items():
        for dtype in ("int64", "object"):
            wrong = np.ones((2, 3), dtype)
            yield lambda c=call, v=wrong: c(v), TypeError, f"{owner}: {name} {real} {dtype}"
    for axis in (2, -3):
        wrong = f"must be in [-2, 1]; got {axis}"
        yield lambda a=axis: cross(w1, w2, axis1=a), ValueError, f"{owner}: axis1 {wrong}"
        yield lambda a=axis: cross(w1, w2, axis2=a), ValueError, f"{owner}: axis2 {wrong}"
    yield lambda: cross(w1, w2, axis1=0.0), TypeError, f"{owner}: axis1 must be an integer; got 0.0"
    channels = f"{owner}: w2 must be of 3 channels on axis 1, as w1 has on axis 1; got shape (3, 4)"
    yield lambda: cross(w1, w2, axis2=1), ValueError, channels
    yield lambda: cross(w1, w2, np.ones(4)), ValueError, f"{owner}: bias must be of shape (3,); got shape (4,)"


@refusals(equalize_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
