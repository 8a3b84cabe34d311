"""Expected errors and clipped shares against those of quantizing the elements themselves."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.calibration.estimate import Estimate, estimate, expected
from qnumpy.dtypes import CODE_TYPES

FLOATS = [name for name, code in CODE_TYPES.items() if code.real is not None]
BIN = 1e-3  # of 200,000 elements, those of the one bin that an end of the range cuts
PERCENT_1 = 0.01  # elements are even, up to chance, inside a bin whose width is 1/128 of its values


def skew(seed=0):
    return np.random.default_rng(seed).gamma(3, size=200_000).astype(np.float32) - np.float32(2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ends", [(-1.0, 9.0), (-3.0, 4.0), (-0.5, 1.0)])
def test_either_side_is_clipped(ends, sign):
    x = sign * skew()
    low, high = sorted(sign * end for end in ends)
    params = qn.QParams.from_range(low, high, symmetric=False)
    steps = x.astype(np.float64) / float(params.scale) + int(params.zero_point)
    below, above = np.mean(steps < -128.5), np.mean(steps > 127.5)
    assert max(below, above) > 10 * BIN
    observer = qn.HistogramObserver(symmetric=False).observe(x)
    assert estimate(observer.sketch, params, observer.symmetric)[0].clipped == pytest.approx(below + above, abs=BIN)


@pytest.mark.parametrize("dtype", ["int8", "int4", *FLOATS])
def test_what_quantizing_costs(dtype):
    x = skew()
    observer = qn.HistogramObserver(dtype=dtype).observe(x)
    for most in (2.0, 6.0, 30.0):
        params = qn.QParams.from_range(-most, most, dtype=dtype)
        real = params.code.real
        low, high, counts, _ = observer.sketch.bins()
        sums = expected(low, high, counts, params.scale, params.zero_point, params.qmin, params.qmax, real)
        noise = np.mean((x - qn.fake_quantize(x, params)) ** 2, dtype=np.float64)
        assert sums.mse == pytest.approx(noise, rel=PERCENT_1)
        assert sums.mse == pytest.approx(float(observer.mse(params)), rel=1e-3)  # its sums below 2^-40 are left out
        most = params.qmax + 0.5 if real is None else real.overflow
        assert sums.clipped == pytest.approx(np.mean(np.abs(x / params.scale) > most), abs=BIN)
        sqnr = 10 * np.log10(np.mean(x.astype(np.float64) ** 2) / noise)
        assert sums.sqnr_db == pytest.approx(sqnr, abs=0.05)  # PERCENT_1 in dB


def test_figures_of_nothing():
    nothing, exact, lost = Estimate(0, 0, 0, 0), Estimate(4, 1, 0, 0), Estimate(4, 0, 2, 1)
    assert (nothing.mse, nothing.clipped) == (0, 0)
    assert exact.sqnr_db == np.inf
    assert (lost.mse, lost.sqnr_db, lost.clipped) == (0.5, -np.inf, 0.25)
