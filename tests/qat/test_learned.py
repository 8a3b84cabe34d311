"""Learned scales, zero points and ranges: closed forms, slopes with the rounding held fixed, PyTorch."""

import math
import re

import numpy as np
import pytest
from strategies import CONVENTIONS, LAYOUTS, assert_same_bits

import qnumpy as qn
from qnumpy import qat
from qnumpy.dtypes import FLOAT_TYPES, code_type

SOURCES = {name: FLOAT_TYPES[name].dtype for name in ("float32", "float16", "bfloat16")}
SHAPE = (4, 6, 10)
GRANULARITIES = {
    "tensor": qn.PerTensor(),
    "axis 0": qn.PerChannel(0),
    "axis 1": qn.PerChannel(1),
    "axis 2": qn.PerChannel(-1),
    "groups of the last axis": qn.PerGroup(4),  # the last has 2
    "groups of the first axis": qn.PerGroup(3, axis=0),
    "rows": qn.PerRow(),
}
EVERY = pytest.mark.parametrize("granularity", GRANULARITIES.values(), ids=GRANULARITIES)
CODES = ["int8", "int4", "int2", "uint8", "uint4"]
LEAST = np.float32(2.0**-23)


def number_of(granularity, shape=SHAPE):
    """Which parameter serves each element."""
    parameters = granularity.params_shape(shape)
    number = np.arange(int(np.prod(parameters))).reshape(parameters)
    return np.broadcast_to(granularity.expand(number, tuple(slice(0, length) for length in shape)), shape)


def problem(granularity, code="int4", affine=False, seed=0):
    """x, g, scale and zero point: a quarter saturates, and no x lies within 0.02 steps of a tie or of the range."""
    rng, info = np.random.default_rng(seed), code_type(code)
    parameters = granularity.params_shape(SHAPE)
    scale = rng.uniform(0.05, 0.4, parameters).astype(np.float32)
    middle = info.symmetric_zero_point
    zero = rng.integers(info.qmin, info.qmax + 1, parameters) if affine else np.full(parameters, middle)
    number = number_of(granularity)
    low, high = (info.qmin if affine else info.symmetric_qmin), info.qmax
    margin = max(1, (high - low) // 6)
    steps = rng.integers(low - margin, high + margin + 1, SHAPE) - zero.ravel()[number]
    x = (steps + rng.uniform(-0.47, 0.47, SHAPE)) * scale.ravel()[number].astype(np.float64)
    return x.astype(np.float32), rng.normal(size=SHAPE).astype(np.float32), scale, zero.astype(np.float32)


def arguments(code, granularity, zero, affine):
    options = {"dtype": code, "granularity": granularity, "symmetric": not affine}
    return {**options, "zero_point": zero} if affine else options


class Exact:
    """The function of x, S and Z in float64, with the error of each rounding held as it is."""

    def __init__(self, x, scale, zero, saved):
        params, self.number = saved.qparams, number_of(saved.qparams.granularity, x.shape)
        self.qmin, self.qmax = params.qmin, params.qmax
        step, z = (np.ravel(p).astype(np.float64)[self.number] for p in (scale, zero))
        code = np.rint(x / step) + z
        self.side = np.where(code < self.qmin, -1, np.where(code > self.qmax, 1, 0))
        self.rounding = np.rint(x / step) - x / step

    def __call__(self, x, scale, zero):
        step, z = (np.ravel(p).astype(np.float64)[self.number] for p in (scale, zero))
        inside = step * (x / step + self.rounding)
        return np.where(self.side == 0, inside, step * (np.where(self.side < 0, self.qmin, self.qmax) - z))

    def slopes(self, g, x, scale, zero):
        """Central differences of sum(g y) along each parameter; exact but for roundings, y is linear in each."""
        results = []
        for which in (0, 1):
            slope = np.zeros(np.size(scale))
            for k in range(slope.size):
                ends = []
                for side in (1e-3, -1e-3):
                    moved = [np.array(scale, np.float64), np.array(zero, np.float64)]
                    moved[which].reshape(-1)[k] += side
                    ends.append((g.astype(np.float64) * self(x.astype(np.float64), *moved)).sum())
                slope[k] = (ends[0] - ends[1]) / 2e-3
            results.append(slope.reshape(np.shape(scale)))
        return results


def close(got, want, g, most):
    """The quotient x / S is float32: it errs by 2**-24 of at most `most` steps; the sum is rounded to float32. Central
    differences err by 2**-52 of sums below `most` times those magnitudes, divided by 2e-3: less.
    """
    bound = np.abs(g.astype(np.float64)).sum() * (most + 1) * 2.0**-23 + np.abs(want) * 2.0**-23
    assert (np.abs(got - want) <= bound).all(), np.abs(got - want).max() / bound.max()


# ---- LSQ and LSQ+ ----


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("code", CODES)
@EVERY
def test_gradients_are_slopes(granularity, code, affine):
    x, g, scale, zero = problem(granularity, code, affine)
    y, saved = qat.lsq(x, scale, **arguments(code, granularity, zero, affine))
    assert_same_bits(y, qn.fake_quantize(x, saved.qparams))
    dx, dscale, dzero = qat.lsq_vjp(g, saved, normalize=False)
    exact = Exact(x, scale, zero, saved)
    want_scale, want_zero = exact.slopes(g, x, scale, zero)
    close(dscale, want_scale, g, 2 * code_type(code).levels)
    close(dzero, want_zero, g, 1)
    assert_same_bits(dx, np.where(exact.side == 0, g, np.float32(0)))
    assert 0 < (exact.side != 0).mean() < 0.9
    assert dscale.dtype == dzero.dtype == np.float32
    assert dscale.shape == dzero.shape == scale.shape


@EVERY
def test_the_scale_with_the_codes_held_fixed(granularity):
    """Away from ties no code changes with S: the slope of sum(g y) is sum(g (q - Z)), LSQ's and g x / S inside."""
    x, g, scale, zero = problem(granularity, "int4", affine=True)
    options = arguments("int4", granularity, zero, True)
    saved = qat.lsq(x, scale, **options)[1]
    _, dscale, _ = qat.lsq_vjp(g, saved, normalize=False)
    number, inside = number_of(granularity), Exact(x, scale, zero, saved).side == 0
    step = scale.ravel().astype(np.float64)[number]
    passed = np.bincount(number[inside], (g * x / step)[inside], scale.size).reshape(scale.shape)
    ends = []
    for factor in (1 + 2.0**-10, 1 - 2.0**-10):  # of at most 15 steps: 0.015 of the margin of 0.03
        moved = (scale * np.float32(factor)).astype(np.float32)
        y, other = qat.lsq(x, moved, **options)
        assert (Exact(x, moved, zero, other).side == 0).tolist() == inside.tolist()
        ends.append(np.bincount(number.ravel(), (g * y.astype(np.float64)).ravel(), scale.size))
    slope = ((ends[0] - ends[1]) / (scale.ravel() * 2.0**-9)).reshape(scale.shape)
    # the moved scales and y are float32: 2**-24 of 15 steps, over a difference of 2**-9
    bound = 4 * 15 * 2.0**-24 / 2.0**-9 * np.abs(g).sum()
    assert (np.abs(slope - (dscale + passed)) <= bound).all()


def test_closed_form():
    """S = 2, codes [-2, 1], Z = -1: levels -2 to 4; x / S inside is 0.3, -0.75 and 1.6."""
    x = np.array([0.6, -1.5, 3.2, -9.0, 40.0, 4.9], np.float32)
    g = np.array([1, 2, 4, 8, 16, 32], np.float32)
    y, saved = qat.lsq(x, 2.0, -1.0, dtype="int2", symmetric=False)
    assert y.tolist() == [0, -2, 4, -2, 4, 4]
    dx, dscale, dzero = qat.lsq_vjp(g, saved, normalize=False)
    assert dx.tolist() == [1, 2, 4, 0, 0, 32]
    error = 1 * (0 - 0.3) + 2 * (-1 + 0.75) + 4 * (2 - 1.6) + 32 * (2 - 2.45)
    np.testing.assert_allclose(dscale, error - 1 * 8 + 2 * 16, rtol=2.0**-20)  # 3.2 and 4.9 are no float32
    assert dzero == -2 * (8 + 16)


def test_ties_round_to_the_even_code():
    x = np.array([0.5, 1.5, -0.5, -2.5, 2.5], np.float32)
    _, saved = qat.lsq(x, 1.0, dtype="int4")
    errors = []
    for k in range(5):
        g = np.zeros(5, np.float32)
        g[k] = 1
        errors.append(float(qat.lsq_vjp(g, saved, normalize=False)[1]))
    assert errors == [-0.5, 0.5, 0.5, 0.5, -0.5]


@EVERY
def test_normalization(granularity):
    x, g, scale, zero = problem(granularity, "int4", affine=True)
    _, saved = qat.lsq(x, scale, **arguments("int4", granularity, zero, True))
    plain, normal = qat.lsq_vjp(g, saved, normalize=False), qat.lsq_vjp(g, saved)
    factor = 1 / np.sqrt(x.size / scale.size * 7)
    assert_same_bits(normal[0], plain[0])
    for got, want in zip(normal[1:], plain[1:], strict=True):
        np.testing.assert_allclose(got, want * factor, rtol=2.0**-22)  # two roundings to float32


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions(convention):
    x, g, scale, _ = problem(qn.PerTensor(), "int8")
    y, saved = qat.lsq(x, scale, dtype="int8", convention=convention)
    assert saved.convention == convention
    assert_same_bits(y, qn.fake_quantize(x, saved.qparams, convention=convention))
    _, dscale, _ = qat.lsq_vjp(g, saved, normalize=False)
    close(dscale, Exact(x, scale, 0 * scale, saved).slopes(g, x, scale, 0 * scale)[0], g, 300)  # no ties: all agree


def test_which_codes_a_range_has():
    x = np.array([-1000.0, 1000.0], np.float32)
    for symmetric, ends in ((True, [-127, 127]), ("full", [-128, 127])):
        assert qat.lsq(x, 1.0, symmetric=symmetric)[0].tolist() == ends
    assert qat.lsq(x, 1.0, 10.0, symmetric=False)[0].tolist() == [-138, 117]
    assert qat.lsq(x, 1.0, dtype="uint8")[0].tolist() == [-127, 127]
    assert qat.lsq(x, 1.0, np.float32(0), dtype="uint8", symmetric=np.False_)[0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("given", "used"), [(0.5, 0), (1.5, 2), (-2.5, -2), (0.51, 1), (-300.0, -128), (300.0, 127), (np.inf, 127), (3, 3)]
)
def test_a_zero_point_is_rounded_half_to_even_and_held_in_the_codes(given, used):
    _, saved = qat.lsq(np.ones(2, np.float32), 1.0, given, symmetric=False)
    assert saved.qparams.zero_point == used


@pytest.mark.parametrize("gradient", SOURCES)
@pytest.mark.parametrize("source", SOURCES)
def test_dtypes_in_and_out(source, gradient):
    x, g, scale, _ = problem(qn.PerChannel(1))
    x, g = x.astype(SOURCES[source]), g.astype(SOURCES[gradient])
    y, saved = qat.lsq(x, scale, dtype="int4", granularity=qn.PerChannel(1))
    dx, dscale, dzero = qat.lsq_vjp(g, saved)
    assert (y.dtype, dx.dtype) == (x.dtype, g.dtype)
    wide = qat.lsq(x.astype(np.float32), scale, dtype="int4", granularity=qn.PerChannel(1))[1]
    want = qat.lsq_vjp(g.astype(np.float32), wide)
    assert_same_bits(dx, want[0].astype(g.dtype))
    assert_same_bits(dscale, want[1])
    assert_same_bits(dzero, want[2])


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY
def test_layouts_and_inputs_are_not_modified(granularity, layout):
    x, g, scale, zero = problem(granularity, affine=True)
    options = arguments("int4", granularity, zero, True)
    want = qat.lsq_vjp(g, qat.lsq(x, scale, **options)[1])
    given = [LAYOUTS[layout](np.asarray(a)) if np.ndim(a) else a for a in (x, g, scale)]
    before = [a.tobytes() for a in (*given, zero)]
    _, saved = qat.lsq(given[0], given[2], **options)
    got = qat.lsq_vjp(given[1], saved)
    assert before == [a.tobytes() for a in (*given, zero)]
    assert_same_bits(got[0], want[0])
    for mine, other in zip(got[1:], want[1:], strict=True):
        # another order of memory adds in another order: float64 sums, each addition errs by 2**-53
        np.testing.assert_allclose(mine, other, rtol=2.0**-23, atol=2.0**-40)


def test_nan_infinities_and_zeros():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    y, saved = qat.lsq(x, 0.5, 1.0, dtype="int8", symmetric=False)
    assert y.tolist() == [0, 63, -64.5, 0, 0]
    dx, dscale, dzero = qat.lsq_vjp(np.array([1, 2, 4, 8, 16], np.float32), saved, normalize=False)
    assert dx.tolist() == [0, 0, 0, 8, 16]
    assert dscale == 2 * 126 - 4 * 129
    assert dzero == -0.5 * 6
    for array in qat.lsq_vjp(np.zeros(5, np.float32), saved):
        assert not array.any()
    for k, bad in ((1, np.inf), (2, np.nan), (3, np.inf), (0, np.nan)):
        g = np.zeros(5, np.float32)
        g[k] = bad
        dx, dscale, dzero = qat.lsq_vjp(g, saved, normalize=False)
        assert not np.isfinite(dscale)
        assert np.isfinite(dzero) == (k in (0, 3))  # inside, and where x is NaN, Z has no gradient
        assert np.isfinite(dx).all() == (k != 3)


@pytest.mark.parametrize(
    ("shape", "granularity"),
    [((0,), qn.PerTensor()), ((0, 3), qn.PerChannel(1)), ((3, 0), qn.PerChannel(1)), ((2, 0), qn.PerRow())],
)
def test_empty(shape, granularity):
    x, parameters = np.zeros(shape, np.float32), granularity.params_shape(shape)
    y, saved = qat.lsq(x, np.ones(parameters, np.float32), granularity=granularity)
    dx, dscale, dzero = qat.lsq_vjp(x, saved)
    assert y.shape == dx.shape == shape
    assert dscale.shape == dzero.shape == parameters
    assert not dscale.any()
    assert not dzero.any()


def test_a_number():
    y, saved = qat.lsq(np.float32(0.7), 0.5)
    dx, dscale, _ = qat.lsq_vjp(np.float32(2), saved, normalize=False)
    assert (y, dx) == (0.5, 2)
    np.testing.assert_allclose(dscale, 2 * (1 - 1.4), rtol=2.0**-21)


# ---- PACT ----


@pytest.mark.parametrize("code", ["uint8", "uint4", "uint2"])
@EVERY
def test_pact(granularity, code):
    """Closed form: y = alpha / qmax round(clip(x) qmax / alpha); the slope of alpha is g where x lies above."""
    rng, qmax = np.random.default_rng(1), code_type(code).qmax
    parameters = granularity.params_shape(SHAPE)
    alpha = rng.uniform(0.5, 3, parameters).astype(np.float32)
    number = number_of(granularity)
    end = alpha.ravel()[number]
    x = (rng.uniform(-0.5, 1.5, SHAPE) * end).astype(np.float32)
    g = rng.normal(size=SHAPE).astype(np.float32)
    y, saved = qat.pact(x, alpha, dtype=code, granularity=granularity)
    step = (alpha.astype(np.float64) / qmax).astype(np.float32).ravel()[number]
    codes = np.rint(x / step)
    assert_same_bits(y, (np.clip(codes, 0, qmax) + 0).astype(np.float32) * step)
    dx, dalpha = qat.pact_vjp(g, saved)
    assert_same_bits(dx, np.where((codes >= 0) & (codes <= qmax), g, np.float32(0)))
    want = np.bincount(number.ravel(), np.where(codes > qmax, g, 0).ravel(), alpha.size).reshape(alpha.shape)
    np.testing.assert_allclose(dalpha, want, rtol=2.0**-23, atol=2.0**-40)  # another order of float64 sums
    assert dalpha.dtype == np.float32


def test_the_slope_of_alpha():
    """Above, y is alpha: finite differences of y itself, with steps that are powers of two, so that none rounds."""
    x, g = np.array([-1.0, 0.3, 9.0, 100.0], np.float32), np.array([1.0, 2.0, 4.0, 8.0], np.float32)
    ends = [qat.pact(x, alpha, dtype="uint8")[0] for alpha in (255 * 2.0**-5, 255 * 2.0**-6)]
    above = x > 8
    slope = (g * (ends[0] - ends[1]))[above].sum() / (255 * 2.0**-6)
    assert slope == qat.pact_vjp(g, qat.pact(x, 255 * 2.0**-5)[1])[1] == 12


def test_pact_edges():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 3.4, 3.6], np.float32)
    y, saved = qat.pact(x, 3.0, dtype="uint2")
    assert y.tolist() == [0, 3, 0, 0, 3, 3]
    dx, dalpha = qat.pact_vjp(np.array([1, 2, 4, 8, 16, 32], np.float32), saved)
    assert dx.tolist() == [0, 0, 0, 8, 16, 0]  # 3.4 rounds to alpha and lies inside
    assert dalpha == 34
    for array in qat.pact_vjp(np.zeros(6, np.float32), saved):
        assert not array.any()
    empty, saved = qat.pact(x[:0], 1.0)
    assert empty.shape == (0,)
    assert qat.pact_vjp(x[:0], saved)[1] == 0


# ---- the object ----


@pytest.mark.parametrize("code", CODES)
@EVERY
def test_the_first_array_gives_the_first_scale(granularity, code):
    x = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    x[0, 0, 0], x[0, 1, 1], x[1, 3, 9] = np.nan, np.inf, -np.inf  # none takes part
    quantizer = qat.LearnedScale(code, granularity)
    quantizer(x)
    number, finite = number_of(granularity)[np.isfinite(x)], np.abs(x[np.isfinite(x)]).astype(np.float64)
    mean = np.bincount(number, finite) / np.bincount(number)
    want = np.float32(2 * mean / np.sqrt(code_type(code).qmax)).reshape(granularity.params_shape(SHAPE))
    np.testing.assert_allclose(quantizer.scale, want, rtol=2.0**-23)  # another order of float64 sums
    assert quantizer.scale.shape == quantizer.zero_point.shape == want.shape
    assert quantizer.scale.dtype == quantizer.zero_point.dtype == np.float32


def test_the_first_scale_in_closed_form():
    quantizer = qat.LearnedScale("uint4", symmetric=False)
    quantizer(np.array([1.0, 2.0, 3.0], np.float32))
    assert quantizer.scale == np.float32(4 / np.sqrt(15))
    assert quantizer.zero_point == 0  # no x is negative
    quantizer = qat.LearnedScale("int8", symmetric=False)
    quantizer(np.array([-1.0, 2.0, 3.0], np.float32))
    assert (quantizer.scale, quantizer.zero_point) == (np.float32(4 / np.sqrt(127)), 0)


@pytest.mark.parametrize("symmetric", [True, False, "full"])
@EVERY
def test_the_object_is_the_function(granularity, symmetric):
    rng = np.random.default_rng(5)
    x, g = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    quantizer = qat.LearnedScale("int4", granularity, symmetric=symmetric)
    for _ in range(3):
        y = quantizer(x)
        zero = {"zero_point": quantizer.zero_point} if symmetric is False else {}
        want, saved = qat.lsq(x, quantizer.scale, dtype="int4", granularity=granularity, symmetric=symmetric, **zero)
        assert_same_bits(y, want)
        assert_same_bits(y, qn.fake_quantize(x, quantizer.qparams()))
        dx, dscale, dzero = qat.lsq_vjp(g, saved)
        assert_same_bits(quantizer.backward(g), dx)
        assert_same_bits(quantizer.dscale, dscale)
        if symmetric is False:
            assert_same_bits(quantizer.dzero_point, dzero)
        else:
            assert not quantizer.dzero_point.any()  # nothing trains it
        pairs = quantizer.parameters()
        assert [a is b for a, b in zip(pairs[0], (quantizer.scale, quantizer.dscale), strict=True)] == [True, True]
        assert len(pairs) == (2 if symmetric is False else 1)
        for value, gradient in pairs:
            value -= np.float32(0.01) * gradient  # as an optimizer does


def test_training_finds_the_best_scale():
    """Descent on the mean squared error ends where the error is that of the best of 1000 scales, within 1 %."""
    x = np.random.default_rng(6).normal(size=4000).astype(np.float32)
    quantizer = qat.LearnedScale("int3")
    for k in range(400):
        y = quantizer(x)
        quantizer.backward(2 * (y - x) / np.float32(x.size))
        quantizer.scale -= np.float32(20 * 0.99**k) * quantizer.dscale
    errors = [np.mean((qat.lsq(x, s, dtype="int3")[0] - x) ** 2) for s in np.linspace(0.01, 2, 1000)]
    assert np.mean((quantizer(x) - x) ** 2) <= 1.01 * min(errors)


def test_scales_never_fall_below_their_least():
    quantizer, x = qat.LearnedScale("int4", qn.PerChannel(0)), np.ones((3, 5), np.float32)
    quantizer(x)
    for value in (0, -5, 1e-30, 2.0**-24):
        quantizer.scale[1] = value
        others = quantizer.scale[[0, 2]].copy()
        quantizer(x)
        assert quantizer.scale[1] == quantizer.qparams().scale[1] == LEAST
        assert_same_bits(quantizer.scale[[0, 2]], others)
    for first in (np.zeros(4, np.float32), np.full(4, 1e-12, np.float32), np.full(4, np.nan, np.float32)):
        quantizer = qat.LearnedScale()
        quantizer(first)
        assert quantizer.scale == LEAST


def test_parameters_that_diverged_are_refused():
    for granularity in (qn.PerTensor(), qn.PerRow()):
        x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
        for name in ("scale", "zero_point"):
            quantizer = qat.LearnedScale(granularity=granularity, symmetric=False)
            quantizer(x)
            getattr(quantizer, name)[...] = np.nan
            with pytest.raises(ValueError, match=rf"^LearnedScale(\.qparams)?: {name} must be .*; got (nan.*|NaN)\.$"):
                quantizer(x)


def test_delay():
    quantizer, x = qat.LearnedScale(delay=2), np.arange(6, dtype=np.float32)
    for _ in range(2):
        assert quantizer(x) is x
        assert quantizer.backward(x) is x
        assert quantizer.scale is quantizer.dscale is None
        assert quantizer.parameters() == []
    assert quantizer(x) is not x
    assert quantizer.scale is not None


def test_freeze():
    quantizer, x = qat.LearnedScale(symmetric=False), np.linspace(-1, 2, 9, dtype=np.float32)
    quantizer(x)
    want = quantizer.backward(x)
    assert quantizer.dscale.any()
    quantizer.freeze()
    assert quantizer.frozen
    quantizer(x)
    assert_same_bits(quantizer.backward(x), want)
    assert not quantizer.dscale.any()
    assert not quantizer.dzero_point.any()
    assert [gradient.any() for _, gradient in quantizer.parameters()] == [False, False]


def test_an_empty_array_before_all_others_changes_nothing():
    quantizer = qat.LearnedScale(granularity=qn.PerChannel(1))
    x = np.ones((4, 3), np.float32)
    assert quantizer(x[:0]).shape == (0, 3)
    assert quantizer.backward(x[:0]).shape == (0, 3)
    assert quantizer.scale is None
    quantizer(x)
    before = quantizer.scale.copy()
    assert quantizer(x[:0]).shape == (0, 3)
    assert quantizer.backward(x[:0]).shape == (0, 3)
    assert not quantizer.dscale.any()
    assert_same_bits(quantizer.scale, before)


def test_another_type():
    """Scales grow by the root of the ratio of the largest codes, as first scales do; the zero point keeps its place."""
    quantizer, x = qat.LearnedScale("int8", symmetric=False), np.linspace(-1, 1, 101, dtype=np.float32)
    quantizer(x)
    first, held = quantizer.scale.copy(), quantizer.scale
    quantizer.dtype = "int4"
    assert quantizer.dtype == "int4"
    np.testing.assert_allclose(quantizer.scale, first * np.sqrt(127 / 7), rtol=2.0**-22)
    assert quantizer.qparams().zero_point == 0
    assert quantizer.qparams().dtype == qn.quantize([0.0], dtype="int4").qparams.dtype
    assert quantizer.scale is held  # an optimizer goes on with the array
    for code, low, high in (("uint8", 0, 255), ("uint2", 0, 3), ("int6", -32, 31)):
        for place in (low, high):
            quantizer = qat.LearnedScale(code, symmetric=False)
            quantizer(x)
            quantizer.zero_point[...] = place
            other = "uint4" if code[0] == "u" else "int3"
            quantizer.dtype = other
            info = code_type(other)
            assert quantizer.zero_point == (info.qmin if place == low else info.qmax)
    unseen = qat.LearnedScale("int8")
    unseen.dtype = np.int16
    assert unseen.dtype == "int16"


@pytest.mark.parametrize("source", SOURCES)
def test_object_of_narrow_floats(source):
    x = np.random.default_rng(7).normal(size=SHAPE).astype(SOURCES[source])
    quantizer = qat.LearnedScale("int8", qn.PerRow())
    assert quantizer(x).dtype == quantizer.backward(x).dtype == x.dtype


# ---- refusals ----


def test_refusals():
    x, one = np.zeros((2, 3), np.float32), np.ones((), np.float32)
    kinds = "an array of float32, float16 or bfloat16; got dtype"
    each, three = qn.PerChannel(1), np.ones(3, np.float32)
    saved = qat.lsq(x, 1.0)[1]
    learned = qat.LearnedScale(granularity=each)
    learned(x)
    for error, want, call in [
        (TypeError, f"lsq: x must be {kinds} float64.", lambda: qat.lsq(np.ones(2), one)),
        (TypeError, "lsq: scale must be real; got 'a'.", lambda: qat.lsq(x, "a")),
        (ValueError, "lsq: scale must be of shape (3,); got shape ().", lambda: qat.lsq(x, one, granularity=each)),
        (
            ValueError, "lsq: scale must be positive, finite and normal in float32; got 0.0 at index 1.",
            lambda: qat.lsq(x, three * [1, 0, 1], granularity=each),
        ),
        (ValueError, "lsq: zero_point must be left out for a symmetric range; got 0.", lambda: qat.lsq(x, one, 0)),
        (
            ValueError, "lsq: zero_point must be given when symmetric is False; got None.",
            lambda: qat.lsq(x, one, symmetric=False),
        ),
        (
            ValueError, "lsq: zero_point must be of shape (3,); got shape (2,).",
            lambda: qat.lsq(x, three, three[:2], granularity=each, symmetric=False),
        ),
        (
            ValueError, "lsq: zero_point must be a number; got NaN.",
            lambda: qat.lsq(x, one, np.nan, symmetric=False),
        ),
        (ValueError, "lsq: symmetric must be one of 'full'; got 'half'.", lambda: qat.lsq(x, one, symmetric="half")),
        (TypeError, "lsq: symmetric must be True or False; got 1.", lambda: qat.lsq(x, one, symmetric=1)),
        (
            TypeError,
            "lsq: granularity must be PerTensor(), PerChannel(axis), PerGroup(group_size) or PerRow(); got 1.",
            lambda: qat.lsq(x, one, granularity=1),
        ),
        (
            ValueError, "lsq: axis must be in [-2, 1]; got 5.",
            lambda: qat.lsq(x, three, granularity=qn.PerChannel(5)),
        ),
        (
            ValueError, "lsq: convention must be one of 'onnx', 'guide', 'torch', 'tflite'; got None.",
            lambda: qat.lsq(x, one, convention=None),
        ),
        (TypeError, "lsq_vjp: normalize must be True or False; got 1.", lambda: qat.lsq_vjp(x, saved, normalize=1)),
        (TypeError, "lsq_vjp: saved must be what lsq saved; got None.", lambda: qat.lsq_vjp(x, None)),
        (TypeError, f"lsq_vjp: g must be {kinds} float64.", lambda: qat.lsq_vjp(np.ones((2, 3)), saved)),
        (ValueError, "lsq_vjp: g must be of shape (2, 3) like x; got shape (3,).", lambda: qat.lsq_vjp(x[0], saved)),
        (ValueError, "pact: alpha must be positive and finite; got nan.", lambda: qat.pact(x, np.nan)),
        (ValueError, "pact: alpha must be positive and finite; got -1.0.", lambda: qat.pact(x, -1)),
        (ValueError, "pact: alpha must be of shape (3,); got shape ().", lambda: qat.pact(x, 1.0, granularity=each)),
        (
            ValueError, "pact: alpha / qmax must be positive, finite and normal in float32; got 1e-300.",
            lambda: qat.pact(x, 255e-300),
        ),
        (TypeError, "pact_vjp: saved must be what pact saved; got 3.", lambda: qat.pact_vjp(x, 3)),
        (TypeError, f"pact_vjp: g must be {kinds} bool.", lambda: qat.pact_vjp(x > 0, saved)),
        (TypeError, "LearnedScale: delay must be an integer; got 0.0.", lambda: qat.LearnedScale(delay=0.0)),
        (ValueError, "LearnedScale: delay must be at least 0; got -3.", lambda: qat.LearnedScale(delay=-3)),
        (TypeError, "LearnedScale: symmetric must be True or False; got 0.", lambda: qat.LearnedScale(symmetric=0)),
        (TypeError, f"LearnedScale: x must be {kinds} int64.", lambda: learned(np.arange(3))),
        (
            ValueError, "LearnedScale: x must be an array with parameters of shape (3,); got an array of shape (2, 4).",
            lambda: learned(np.ones((2, 4), np.float32)),
        ),
        (
            ValueError, "LearnedScale.backward: g must be of shape (2, 3) like x; got shape (2,).",
            lambda: learned.backward(x[:, 0]),
        ),
        (
            ValueError, "LearnedScale.qparams: an array must be seen first; got none.",
            lambda: qat.LearnedScale().qparams(),
        ),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"^{re.escape(want)}$"):
            call()
    for wrong in ("float32", None, "float8_e4m3fn", int):
        for call in (lambda wrong=wrong: qat.lsq(x, one, dtype=wrong), lambda wrong=wrong: qat.LearnedScale(wrong)):
            with pytest.raises(TypeError, match=r"^\w+: dtype must be int8, uint8, .*; got "):
                call()
    with pytest.raises(TypeError, match=r"^pact: dtype must be uint8, uint16, .*; got 'int8'"):
        qat.pact(x, one, dtype="int8")


# ---- PyTorch ----


@pytest.mark.peers
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("code", ["int8", "uint8", "int4", "uint4", "uint2"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_pytorch_learns_alike(axis, code, affine):
    """Gradients of scale and zero point of PyTorch's learnable fake-quantize.

    Its backward pass reads a zero point Z below 0 as Z + 1 (it adds 0.5 and cuts), so there are none here. The error of
    a step is (y - x) / S, where y errs by 2**-24 of at most `levels` steps, as our x / S does; it adds in float32, in
    pairs: 8 additions one after the other, each of which errs by as much.
    """
    torch = pytest.importorskip("torch")
    granularity = qn.PerTensor() if axis is None else qn.PerChannel(axis)
    x, g, scale, zero = problem(granularity, code, affine=True, seed=9)
    zero = np.maximum(zero, 0) if affine else 0 * zero
    info = code_type(code)
    y, saved = qat.lsq(x, scale, zero, dtype=code, granularity=granularity, symmetric=False, convention="torch")
    given, s, z = (torch.tensor(np.atleast_1d(a), requires_grad=True) for a in (x, scale, zero))
    if axis is None:
        want = torch._fake_quantize_learnable_per_tensor_affine(given, s, z, info.qmin, info.qmax, 0.25)
    else:
        want = torch._fake_quantize_learnable_per_channel_affine(given, s, z, axis, info.qmin, info.qmax, 0.25)
    want.backward(torch.tensor(g))
    assert_same_bits(y, want.detach().numpy())
    dx, dscale, dzero = qat.lsq_vjp(g, saved, normalize=False)
    assert_same_bits(dx, given.grad.numpy() + np.float32(0))  # theirs is -0 outside, where g < 0
    bound = (2 + 8) * 2.0**-24 * info.levels * np.abs(g).sum() / 4
    assert np.abs(dscale * 0.25 - s.grad.numpy().reshape(scale.shape)).max() <= bound
    assert np.abs(dzero * 0.25 - z.grad.numpy().reshape(scale.shape)).max() <= bound


def test_the_gradient_of_one_zero_point_is_rounded_once():
    """Sums of ones are exact, and products in float64 err by far less than the one rounding to float32."""
    scale = np.float32(0.1)
    for n in range(1, 100):
        x, g = np.full(n, 99.0, np.float32), np.ones(n, np.float32)
        _, saved = qat.lsq(x, scale, 0.0, dtype="int4", symmetric=False)
        want = float(scale) * n * -1 / math.sqrt(n * 7)
        np.testing.assert_allclose(qat.lsq_vjp(g, saved)[2], want, rtol=2.0**-24)
