"""Gradients of fake-quantization: their NumPy twin, bits that do not depend on threads, layouts, edges."""

import numpy as np
import pytest
from strategies import CONVENTIONS, GRIDS, LAYOUTS, assert_same_bits, case

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.ops.gradients import fake_quantize_inside, keep_inside, quantization_gradients

SOURCES = ["float32", "float16", "bfloat16"]


def gradient(shape, source="float32"):
    return np.random.default_rng(7).normal(size=shape).astype(qn.dtypes.FLOAT_TYPES[source].dtype)


def close(got, want, g):
    """The twin adds in another order: each of the n additions in float64 errs by at most 2**-53 of the magnitudes."""
    bound = g.size * 2.0**-52 * np.abs(g.astype(np.float64)).sum()
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_layout_and_size(grid, source, convention):
    grid = GRIDS[grid]
    for n in [*range(20), 63, 64, 65, 70, 200]:
        x, scale, zero = case(grid, n, "int4", qn.dtypes.FLOAT_TYPES[source].dtype)
        params = qn.QParams(scale, zero, "int4", grid.granularity)
        g = gradient(x.shape, source)
        dx, sums = twin.quantization_gradients(x, g, params, convention)
        for name in ("c", "f", "strided", "big-endian"):
            layout = LAYOUTS[name]
            y, inside = fake_quantize_inside("test", layout(x), params, convention)
            assert_same_bits(y, qn.fake_quantize(x, params, convention=convention), name)
            assert_same_bits(keep_inside("test", g, inside), dx, name)
            got, got_sums = quantization_gradients("test", layout(x), layout(g), params, convention)
            assert_same_bits(got, dx, name)
            close(got_sums, sums, g)


SHAPES = {
    "per tensor": ((300, 1000), qn.PerTensor()),
    "rows": ((300, 1000), qn.PerRow()),
    "columns": ((1000, 600), qn.PerChannel(1)),
    "few channels of long runs": ((5, 3, 20000), qn.PerChannel(1)),
    "groups of rows": ((600, 700), qn.PerGroup(128, axis=0)),
    "groups": ((300, 1000), qn.PerGroup(64)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_bits_of_the_sums_do_not_depend_on_threads(name):
    shape, granularity = SHAPES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    g = (rng.normal(size=shape) * np.exp2(rng.integers(-20, 20, shape))).astype(np.float32)
    params = qn.choose_qparams(x * np.float32(0.5), dtype="int4", granularity=granularity)
    with qn.threads(1):
        one = quantization_gradients("test", x, g, params)
    for threads in (2, 3, 7):
        with qn.threads(threads):
            dx, sums = quantization_gradients("test", x, g, params)
        assert_same_bits(dx, one[0])
        assert_same_bits(sums, one[1])
    want = twin.quantization_gradients(x, g, params)
    assert_same_bits(one[0], want[0])
    close(one[1], want[1], g)


def test_nan_and_infinities():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    params = qn.QParams(0.5, 1, "int8")
    dx, sums = quantization_gradients("test", x, np.array([1, 2, 4, 8, 16], np.float32), params)
    assert dx.tolist() == [0, 0, 0, 8, 16]
    assert sums.tolist() == [0, 4, 2]
    _, inside = fake_quantize_inside("test", x, params)
    assert inside.to_bool().tolist() == [False, False, False, True, True]


def test_a_gradient_that_is_not_finite_stays_so_inside_and_vanishes_outside():
    x, g = np.array([0.2, 99.0, 0.2], np.float32), np.array([np.inf, np.nan, np.nan], np.float32)
    dx, sums = quantization_gradients("test", x, g, qn.QParams(1.0, 0, "int2"))
    assert np.isinf(dx[0])
    assert dx[1] == 0
    assert np.isnan(dx[2])
    assert np.isnan(sums).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("shape", "scale", "granularity"),
    [((0,), 1.0, qn.PerTensor()), ((3, 0), 1.0, qn.PerTensor()), ((0, 3), np.ones(3, np.float32), qn.PerChannel(1))],
)
def test_empty(shape, scale, granularity):
    params, x = qn.QParams(scale, 0, "int8", granularity), np.empty(shape, np.float32)
    y, inside = fake_quantize_inside("test", x, params)
    assert y.shape == keep_inside("test", x, inside).shape == shape
    assert not quantization_gradients("test", x, x, params)[1].any()


def test_refusals():
    x, params = np.zeros((2, 3), np.float32), qn.QParams(1.0, 0, "int8")
    _, inside = fake_quantize_inside("test", x, params)
    for call in (
        lambda: keep_inside("test", x[0], inside),
        lambda: quantization_gradients("test", x, x.T, params),
    ):
        with pytest.raises(ValueError, match=r"test: g must be of shape \(2, 3\) like x; got shape"):
            call()
    with pytest.raises(TypeError, match="test: x must be an array of float32, float16 or bfloat16; got"):
        fake_quantize_inside("test", x.astype(np.float64), params)
    with pytest.raises(TypeError, match="test: qparams must be a QParams of an integer type; got float8_e4m3fn"):
        fake_quantize_inside("test", x, qn.QParams(1.0, 0, "float8_e4m3fn"))
