"""Choices of scale and zero point by weighted squares, and the full range; test_histogram.py has the others."""

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.dtypes import INTEGER_TYPES

NARROW = [name for name, code in INTEGER_TYPES.items() if code.bits <= 8]
GRANULARITIES = [
    qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerGroup(8), qn.PerGroup(3, 0), qn.PerRow(),
]  # fmt: skip


def weight(seed=0, shape=(10, 24)):
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


def error(w, params, importance=1.0):
    return float((np.square(qn.fake_quantize(w, params).astype(np.float64) - w) * importance).sum())


# ---- the full range ----


@pytest.mark.parametrize("dtype", list(INTEGER_TYPES))
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_full_range_gives_the_largest_magnitude_the_furthest_code(dtype, granularity):
    code, x = INTEGER_TYPES[dtype], weight()
    params = qn.choose_qparams(x, dtype=dtype, granularity=granularity, symmetric="full")
    half = code.levels // 2
    assert (params.qmin, params.qmax) == (code.qmin, code.qmax)
    assert set(np.unique(params.zero_point)) <= {code.symmetric_zero_point - 1, code.symmetric_zero_point}
    every = tuple(slice(0, n) for n in x.shape)
    scale, zero = (
        np.broadcast_to(granularity.expand(part, every), x.shape) for part in (params.scale, params.zero_point)
    )
    q = qn.quantize(x, params)
    for s, z in {(float(s), int(z)) for s, z in zip(scale.flat, zero.flat, strict=True)}:
        group = (scale == s) & (zero == z)
        largest = np.argmax(np.where(group, np.abs(x), -1))
        assert s == np.float32(abs(float(x.flat[largest])) / half)
        assert abs(int(q.codes.astype(int).flat[largest]) - z) == half
        assert (x.flat[largest] > 0) == (z == code.symmetric_zero_point - 1)


def test_full_range_of_little_data():
    for x, zero in ((np.zeros((2, 3)), 0), (np.ones((2, 3)), -1), (-np.ones((2, 3)), 0), (np.zeros((0, 3)), 0)):
        params = qn.choose_qparams(x, dtype="int4", symmetric="full")
        assert params.zero_point == zero
    assert qn.quantize(np.ones((2, 3)), dtype="int2", symmetric="full").dequantize().tolist() == [[1.0] * 3] * 2


def test_full_range_beside_qparams():
    x = weight()
    params = qn.choose_qparams(x, dtype="int4", granularity=qn.PerChannel(0), symmetric="full")
    assert qn.quantize(x, params, symmetric="full").qparams == params
    with pytest.raises(ValueError, match=r"^quantize: symmetric must be left out or that of qparams; got 'full'\.$"):
        qn.quantize(x, qn.choose_qparams(x, dtype="int4"), symmetric="full")


@pytest.mark.parametrize(("options", "kind", "text"), [
    ({"method": "entropy"}, ValueError, "symmetric must be True or False for the method 'entropy'; got 'full'."),
    ({"method": "percentile"}, ValueError, "symmetric must be True or False for the method 'percentile'; got 'full'."),
    ({"dtype": "float8_e5m2"}, ValueError,
     "symmetric must be True for float8_e5m2, which has no zero point; got 'full'."),
    ({"method": "mse", "dtype": "int16"}, TypeError,
     "dtype must be an integer type of at most 8 bits for the search of 'mse'; got int16."),
])  # fmt: skip
def test_there_is_no_full_range(options, kind, text):
    with pytest.raises(kind) as caught:
        qn.choose_qparams(weight(), **{"dtype": "int4", "symmetric": "full", **options})
    assert str(caught.value) == f"choose_qparams: {text}"


# ---- searches ----


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_mse_of_a_full_range_is_no_worse(dtype, granularity):
    x = weight()
    params = {
        method: qn.choose_qparams(x, dtype=dtype, granularity=granularity, symmetric="full", method=method)
        for method in ("minmax", "mse")
    }
    assert error(x, params["mse"]) <= error(x, params["minmax"]) * (1 + 1e-6)


@pytest.mark.parametrize("symmetric", [True, False, "full"])
@pytest.mark.parametrize("granularity", [qn.PerChannel(0), qn.PerGroup(8)])
def test_mse_is_weighted_by_the_mean_squares_of_the_inputs(symmetric, granularity):
    w = weight()
    x = np.random.default_rng(1).normal(size=(100, 24)) * np.exp(np.random.default_rng(2).normal(size=24) * 2)
    moments = qn.MomentsObserver().observe(x)
    scheme = {"dtype": "int4", "granularity": granularity, "symmetric": symmetric, "method": "mse"}
    weighted, plain = qn.choose_qparams(w, moments=moments, **scheme), qn.choose_qparams(w, **scheme)
    assert error(w, weighted, moments.diagonal) < 0.9 * error(w, plain, moments.diagonal)
    assert qn.quantize(w, moments=moments, **scheme) == qn.quantize(w, weighted)
    turned = qn.PerChannel(1) if isinstance(granularity, qn.PerChannel) else qn.PerGroup(8, 0)
    other = qn.choose_qparams(w.T, moments=moments, **{**scheme, "granularity": turned})
    np.testing.assert_array_equal(other.scale.T, weighted.scale)
    dead = qn.choose_qparams(w, moments=qn.MomentsObserver().observe(np.zeros((2, 24))), **scheme)
    assert dead == qn.choose_qparams(w, moments=qn.MomentsObserver().observe(np.eye(24) * 3), **scheme)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_searches_of_any_real_type(dtype):
    x = weight().astype(dtype)
    options = {"dtype": "int4", "granularity": qn.PerGroup(8), "symmetric": "full", "method": "mse"}
    assert qn.choose_qparams(x, **options) == qn.choose_qparams(x.astype(np.float32), **options)


def test_searches_leave_out_what_is_not_finite():
    x = weight()
    bad = x.copy()
    bad[0, 0], bad[1, 3] = np.nan, np.inf
    options = {"dtype": "int4", "granularity": qn.PerRow(), "symmetric": "full", "method": "mse"}
    params = qn.choose_qparams(bad, **options)
    np.testing.assert_array_equal(params.scale[2:], qn.choose_qparams(x, **options).scale[2:])
    assert params.scale[0] == qn.choose_qparams(x[:1, 1:], **options).scale[0]
    with pytest.raises(qn.CalibrationError, match=r"^choose_qparams: x must be finite somewhere; "):
        qn.choose_qparams(x * np.nan, **options)


# ---- half-quadratic splitting ----


@pytest.mark.parametrize("symmetric", [True, False, "full"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_hqq_needs_no_data(symmetric, granularity):
    x = weight()
    options = {"dtype": "int4", "granularity": granularity, "symmetric": symmetric}
    q = qn.quantize(x, method="hqq", **options)
    assert q == qn.quantize(x, qn.choose_qparams(x, method="hqq", **options))

    def size(params):  # outliers weigh less than in a mean of squares
        return float((np.abs(qn.fake_quantize(x, params).astype(np.float64) - x) ** 0.7).sum())

    assert size(q.qparams) <= size(qn.choose_qparams(x, **options)) * 1.02
    with pytest.raises(
        TypeError, match=r"^quantize: dtype must be an integer type of at most 8 bits for the search of "
    ):
        qn.quantize(x, method="hqq", **{**options, "dtype": "int16"})
