"""Codes that are floats in quantize_linear, dequantize_linear and QParams, against the NumPy twin and ml_dtypes."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from strategies import GRIDS, LAYOUTS, SIZES, SOURCES, assert_same_bits, scales

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import CODE_TYPES, code_type

CODES = [name for name, code in CODE_TYPES.items() if code.real is not None]


def reals(rng, shape, source):
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 12, shape)
    x = np.where(rng.random(shape) < 0.3, np.round(x * 8) / 8, x)
    x = np.where(rng.random(shape) < 0.1, rng.choice([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38]), x)
    with np.errstate(over="ignore"):
        return x.astype(source)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("source", SOURCES)
def test_quantize_and_back(source, code, grid):
    grid, rng = GRIDS[grid], np.random.default_rng(0)
    for n in SIZES:
        x, scale = reals(rng, grid.of(n), SOURCES[source]), scales(rng, grid.params_shape(n))
        want = twin.quantize_linear(x, scale, dtype=code, **grid.where)
        layout = list(LAYOUTS)[n % len(LAYOUTS)]
        got = qn.quantize_linear(LAYOUTS[layout](x), scale, dtype=code, **grid.where)
        assert_same_bits(got, want, f"{layout}, n = {n}")
        params = qn.QParams(scale, 0, code, grid.granularity)
        for dtype in ("float32", source):
            back = qn.dequantize_linear(got, scale, dtype=dtype, **grid.where)
            expected = twin.dequantize_linear(want, scale, dtype=dtype, **grid.where)
            assert back.dtype == expected.dtype
            np.testing.assert_array_equal(back.astype(np.float64), expected.astype(np.float64))  # any NaN is NaN
        np.testing.assert_array_equal(qn.fake_quantize(x, params).astype(np.float64), back.astype(np.float64))


@pytest.mark.parametrize("code", CODES)
def test_against_ml_dtypes(code):
    """Scale 1 is a saturating cast: every pattern of the upper half of a float32."""
    x = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    x = x[np.isfinite(x)]
    most = float(ml_dtypes.finfo(code_type(code).dtype).max)
    want = np.clip(x, -most, most).astype(code_type(code).dtype)
    assert_same_bits(qn.quantize_linear(x, 1.0, dtype=code), want)


@pytest.mark.parametrize("code", CODES)
def test_every_code_comes_back(code):
    info = code_type(code)
    every = np.arange(1 << info.bits).astype(np.uint8).view(info.dtype)
    values = qn.dequantize_linear(every, 0.5)
    np.testing.assert_array_equal(values, every.astype(np.float32) / 2)
    finite = np.isfinite(values)
    assert_same_bits(qn.quantize_linear(values[finite], 0.5, dtype=code), every[finite])


@pytest.mark.parametrize("code", CODES)
def test_parameters(code):
    most = int(ml_dtypes.finfo(code_type(code).dtype).max)
    params = qn.QParams.from_range(-1.0, 3.0, dtype=code)
    assert params.scale == np.float32(3 / most)
    assert (params.qmin, params.qmax, int(params.zero_point), params.symmetric) == (-most, most, 0, True)
    assert "zero_point" not in repr(params)
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    q = qn.quantize(x, dtype=code, granularity=qn.PerChannel(0))
    assert (np.abs(q.codes.astype(np.float32)).max(1) == most).all()
    assert pickle.loads(pickle.dumps(q)) == q
    assert q[2:4].scale.shape == (2,)
    np.testing.assert_array_equal(q[3].dequantize(), q.dequantize()[3])
    report = qn.compare(x, q, per_channel=True)
    error = x.astype(np.float64) - q.dequantize()
    assert report.mse == pytest.approx(np.mean(error**2), rel=1e-12)
    assert report.codes_used == len(np.unique(q.codes.view(np.uint8)))
    assert report.clipped == 0
    wide = qn.compare(4 * x, qn.quantize(4 * x, q.qparams))
    assert wide.clipped > 0.02


def test_the_zero_point_of_onnx_is_a_float():
    zero = np.zeros((), ml_dtypes.float8_e5m2)
    assert qn.quantize_linear(np.ones(2, np.float32), 1.0, zero).dtype == ml_dtypes.float8_e5m2
    codes = np.ones(2, ml_dtypes.float8_e5m2)
    np.testing.assert_array_equal(qn.dequantize_linear(codes, 2.0, zero), [2, 2])
