"""The output stage of integer products: the code that exact rational arithmetic gives, for all scales and biases."""

from fractions import Fraction

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.output import output_of_codes

F32 = np.float32
TINY, HUGE = np.finfo(F32).smallest_normal, np.finfo(F32).max
SCALES = [TINY, 1e-30, 2.2e-13, 7.9e-9, 0.003, 1.0, 4e5, 1e25, HUGE]
BIASES = [0.0, 0.1, -0.3, 3e-9, -7.7, 1e4, -1e30, HUGE, -HUGE]


def rounded(acc, x_scale, w_scale, bias, params):
    """The exact code before it is rounded and saturated, and how far the documented roundings may move it."""
    product, step = Fraction(float(x_scale)) * Fraction(float(w_scale)), Fraction(float(params.scale))
    exact = (acc * product + Fraction(float(bias))) / step
    # the bias is rounded to the unit of the sums; sum, multiplier and product are float32
    return exact, product / step / 2 + abs(exact) * Fraction(1, 2**21)


def fits(code, exact, slack, params):
    """Whether the code is the nearest one to a number within `slack` of the exact one."""
    zero, low, high = int(params.zero_point), params.qmin, params.qmax
    ends = [min(max(exact + side * (slack + Fraction(1, 2)) + zero, low), high) for side in (-1, 1)]
    return ends[0] <= code <= ends[1]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("y_scale", [TINY, 1e-12, 0.02, 1e30, HUGE])
def test_every_scale_and_bias(y_scale, dtype, row):
    """No sum, no scale and no bias raises; Sx * Sw / Sy is 0, subnormal, infinite and all between."""
    params = qn.QParams(y_scale, 3, dtype)
    k, rng = 40, np.random.default_rng(3)
    bias = np.tile(F32(BIASES), len(SCALES))
    w_scale = np.repeat(F32(SCALES), len(BIASES))
    w = qn.QuantizedArray(rng.integers(-127, 128, (k, len(bias))).astype(np.int8),
                          qn.QParams(w_scale, 0, "int8", qn.PerChannel(1)))  # fmt: skip
    codes = rng.integers(-127, 128, (5, k)).astype(np.int8)
    codes[0] = 0
    acc = codes.astype(np.int64) @ w.codes.astype(np.int64)
    for x_scale in F32(SCALES):
        x = qn.QuantizedArray(codes, qn.QParams(x_scale, 0))
        results = [
            x @ qn.PackedWeight(w, bias=bias, out_qparams=params),
            qn.qmatmul(x, w, bias=bias, out_qparams=params),
        ]
        if 1e-30 < x_scale < 1e30:
            static = qn.PackedWeight(w, bias=bias, out_qparams=params, x_qparams=x.qparams)
            results.append((codes * x_scale) @ static)
        for y in results:
            for i, j in np.ndindex(acc.shape):
                exact, slack = rounded(int(acc[i, j]), x_scale, w_scale[j], bias[j], params)
                assert fits(int(y.codes[i, j]), exact, slack, params), (x_scale, w_scale[j], bias[j], acc[i, j])


@pytest.mark.parametrize("largest", [1e-6, 2.8e-11, 1e-37, 1e-45])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_dead_unit_gives_its_bias(largest, dtype, row):
    """A column far smaller than its bias, beside others; a column of zeros has scale 1 and gives the same code."""
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((9, 64)).astype(F32), rng.standard_normal((64, 20)).astype(F32)
    w[:, 7] *= F32(largest) / np.abs(w[:, 7]).max()
    zeros = w.copy()
    zeros[:, 7] = 0
    bias = np.full(20, 0.1, F32)
    given = {"x_qparams": qn.choose_qparams(x), "out_qparams": qn.QParams(0.05, 0), "bias": bias}
    by_channel = {"dtype": dtype, "granularity": qn.PerChannel(1)}
    y, of_zeros = (x @ qn.PackedWeight(qn.quantize(v, **by_channel), **given) for v in (w, zeros))
    np.testing.assert_array_equal(y.codes, of_zeros.codes)
    assert (y.codes[:, 7] == 2).all()


def test_a_bias_at_the_end_of_int32(row):
    """Where the sum of both still fits in int32 the code is that of the integers; beyond it the formula is the same."""
    rng = np.random.default_rng(1)
    k, n = 100, 64
    units = rng.integers(2**31 - 2**23, 2**31 + 2**23, n).astype(np.float64) * rng.choice([-1, 1], n)
    w_scale = (2.0 ** rng.integers(-30, -20, n)).astype(F32)
    bias = (units * w_scale).astype(F32)
    units = np.rint(bias.astype(np.float64) / w_scale)
    w = qn.QuantizedArray(
        rng.integers(-128, 128, (k, n)).astype(np.int8), qn.QParams(w_scale, 0, "int8", qn.PerChannel(1))
    )
    x = qn.QuantizedArray(rng.integers(-128, 128, (30, k)).astype(np.int8), qn.QParams(1.0, 0))
    params = qn.QParams(20.0, 1)
    acc = x.codes.astype(np.int64) @ w.codes.astype(np.int64) + units
    want = np.clip(np.rint(acc.astype(F32) * (w_scale / F32(20))) + 1, -128, 127)
    np.testing.assert_array_equal(qn.qmatmul(x, w, bias=bias, out_qparams=params).codes, want)


@pytest.mark.parametrize(("bias", "code"), [(np.inf, 127), (-np.inf, -128), (np.nan, 5)])
def test_a_bias_that_is_not_finite(bias, code, row):
    """As quantize has it: infinities saturate, NaN becomes the zero point."""
    x, w = qn.quantize(np.ones((3, 8), F32)), qn.quantize(np.eye(8, dtype=F32))
    y = qn.qmatmul(x, w, bias=[bias] + [0.0] * 7, out_qparams=qn.QParams(0.1, 5))
    assert (y.codes[:, 0] == code).all()
    assert (y.codes[:, 1:] == 15).all()


def test_where_all_fits_nothing_is_wide():
    output = output_of_codes(0.01, F32([0.02, 0.03]), qn.QParams(0.5, 0), F32([1, -1]), 512)
    assert output.wide_bias is None
    np.testing.assert_array_equal(output.acc_bias, [5000, -3333])
    np.testing.assert_array_equal(output.multipliers, F32(0.01) * F32([0.02, 0.03]) / F32(0.5))
