"""Rounding of a weight by moments: the invariants of its objective, every scheme and shape, and brute force."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.dtypes import INTEGER_TYPES
from qnumpy.ops.grid_search import Levels
from qnumpy.ops.rounding import Rows, round_weight

NARROW = [name for name, code in INTEGER_TYPES.items() if code.bits <= 8]
SCHEMES = ["symmetric", "affine", "full"]
SYMMETRIC = {"symmetric": True, "affine": False, "full": "full"}
INT4 = Levels.of(INTEGER_TYPES["int4"], "affine")


def layer(rows=12, inputs=40, seed=0, samples=400):
    """A weight, and the second moment of inputs of different sizes that are correlated."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, inputs)) @ rng.normal(size=(inputs, inputs)) * np.exp(rng.normal(size=inputs))
    return rng.normal(size=(rows, inputs)).astype(np.float32), x.T @ x / samples, x


def levels_of(result, group_size):
    group = np.arange(result.codes.shape[1]) // group_size
    return (result.codes - result.zero[:, group]).astype(np.float32) * result.scale[:, group]


def nearest(w, result, group_size, levels):
    group = np.arange(w.shape[1]) // group_size
    steps = np.rint(w / result.scale[:, group]) + result.zero[:, group]
    return np.clip(steps, levels.qmin, levels.qmax)


def damped(h, damping=0.1):
    return h + damping * np.trace(h) / len(h) * np.eye(len(h))


def objective(w, h, reals):
    apart = reals.astype(np.float64) - w
    return np.einsum("ij,jk,ik->i", apart, h, apart)


# ---- invariants ----


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("group_size", [40, 16])
def test_no_change_of_one_code_lowers_the_objective(dtype, scheme, group_size):
    w, h, _ = layer()
    levels = Levels.of(INTEGER_TYPES[dtype], scheme)
    result = round_weight(w, h, levels, group_size)
    assert (result.codes >= levels.qmin).all()
    assert (result.codes <= levels.qmax).all()
    assert (result.after <= result.before).all()
    full, reals = damped(h), levels_of(result, group_size)
    best = objective(w, full, reals)
    np.testing.assert_allclose(best, result.after, rtol=1e-6)
    for column in range(w.shape[1]):
        for step in (-1, 1):
            changed = result.codes.copy()
            changed[:, column] = np.clip(changed[:, column] + step, levels.qmin, levels.qmax)
            assert (
                objective(w, full, levels_of(result._replace(codes=changed), group_size)) >= best * (1 - 1e-6)
            ).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("group_size", [40, 7])
def test_identity_moments_round_to_nearest(scheme, group_size):
    w, _, _ = layer()
    levels = Levels.of(INTEGER_TYPES["int4"], scheme)
    result = round_weight(w, np.eye(40), levels, group_size)
    np.testing.assert_array_equal(result.codes, nearest(w, result, group_size, levels))


def test_the_objective_is_far_below_that_of_nearest():
    w, h, _ = layer(64, 96, samples=500)
    result = round_weight(w, h, INT4, 96)
    assert result.after.sum() < 0.7 * result.before.sum()


@pytest.mark.parametrize(("bits", "inputs"), [(2, 3), (2, 4), (3, 3), (3, 4)])
def test_small_cases_against_all_roundings(bits, inputs):
    """On the grid that was chosen: the optimum in most rows, and within a third of it on average."""
    levels = Levels.of(INTEGER_TYPES["int2"] if bits == 2 else INTEGER_TYPES["int4"], "affine")
    if bits == 3:
        levels = Levels(-4, 3, -4, 3)
    ratios = []
    for seed in range(20):
        w, h, _ = layer(4, inputs, seed)
        result = round_weight(w, h, levels, inputs)
        codes = np.array(list(itertools.product(range(levels.qmin, levels.qmax + 1), repeat=inputs)))
        for row in range(4):
            reals = (codes - result.zero[row, 0]).astype(np.float32) * result.scale[row, 0]
            optimum = objective(w[row], damped(h), reals).min()
            ratios.append(result.after[row] / optimum)
    ratios = np.array(ratios)
    assert (ratios > 1 - 1e-6).all()
    assert ratios.mean() < 1.3
    assert (ratios < 1 + 1e-6).mean() > 0.7


@pytest.mark.parametrize("bits", ["int4", "int2"])
def test_a_second_start_ends_no_higher_in_groups(bits):
    w, h, _ = layer(32, 96)
    levels = Levels.of(INTEGER_TYPES[bits], "affine")
    one, two = (round_weight(w, h, levels, 16, second_start=second, refits=0) for second in (False, True))
    assert (two.after <= one.after).all()
    assert two.after.sum() < 0.99 * one.after.sum()
    np.testing.assert_array_equal(two.before, one.before)
    alone = [round_weight(w, h, levels, 96, second_start=second).after for second in (False, True)]
    np.testing.assert_array_equal(*alone)


def test_permuting_the_inputs_permutes_the_codes():
    w, h, _ = layer()
    order = np.random.default_rng(1).permutation(40)
    result, moved = round_weight(w, h, INT4, 40), round_weight(w[:, order].copy(), h[np.ix_(order, order)], INT4, 40)
    np.testing.assert_array_equal(moved.codes, result.codes[:, order])
    np.testing.assert_array_equal(moved.scale, result.scale)


@pytest.mark.parametrize("power", [-60, -20, 20, 60])
def test_scaling_scales(power):
    w, h, _ = layer()
    result, scaled = round_weight(w, h, INT4, 16), round_weight(np.ldexp(w, power), h, INT4, 16)
    np.testing.assert_array_equal(scaled.codes, result.codes)
    np.testing.assert_array_equal(scaled.scale, np.ldexp(result.scale, power))
    inputs = round_weight(w, np.ldexp(h, power), INT4, 16)
    np.testing.assert_array_equal(inputs.codes, result.codes)


def test_dead_inputs_and_singular_moments():
    w, h, _ = layer(12, 40, samples=10)  # rank 10
    h[5], h[:, 5] = 0, 0
    result = round_weight(w, h, INT4, 40, refits=0)
    assert (result.after <= result.before).all()
    np.testing.assert_array_equal(result.codes[:, 5], nearest(w, result, 40, INT4)[:, 5])
    nothing = round_weight(w, np.zeros_like(h), INT4, 40)
    np.testing.assert_array_equal(nothing.codes, nearest(w, nothing, 40, INT4))
    negative = h - 0.02 * np.trace(h) / 40 * np.eye(40)  # not positive definite with a damping of 0.01
    assert np.isfinite(round_weight(w, negative, INT4, 40, damping=0.0).after).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 1), (3, 2)])
@pytest.mark.parametrize("value", [None, 0.0, 1e-38, 3e38])
def test_little_weights(shape, value):
    w, h, _ = layer(*shape)
    w = w if value is None else np.full_like(w, value)
    result = round_weight(w, h, INT4, 4)
    assert (result.after <= result.before).all()
    assert np.isfinite(levels_of(result, 4)).all()


def test_a_target_takes_the_place_of_the_weight():
    w, h, _ = layer()
    target = (w + 0.3 * np.random.default_rng(1).normal(size=w.shape)).astype(np.float32)
    result, plain = round_weight(w, h, INT4, 40, target=target), round_weight(target, h, INT4, 40)
    same = (result.codes == plain.codes).all(axis=1)  # a row may start from other nearest codes
    assert same.mean() > 0.8
    np.testing.assert_array_equal(result.after[same], plain.after[same])
    np.testing.assert_allclose(result.after, plain.after, rtol=0.3)
    assert (result.before > plain.before).all()
    far = round_weight(w, h, INT4, 40, target=-100 * w, sweeps=0, refits=0)
    assert (far.after <= far.before).all()


def test_the_same_bits_on_every_isa_and_thread_count():
    w, h, _ = layer(33, 70)
    expected = None
    isa = qn.isa()
    try:
        for name in ("scalar", isa):
            qn.set_isa(name)
            for threads in (1, 2, 3):
                with qn.threads(threads):
                    result = round_weight(w, h, INT4, 32)
                got = [part.tobytes() for part in result]
                expected = expected or got
                assert got == expected
    finally:
        qn.set_isa(isa)


# ---- shapes ----

SHAPES = [
    (qn.PerTensor(), (3, 4, 5), (1, 60), 60),
    (qn.PerRow(), (3, 4, 5), (12, 5), 5),
    (qn.PerChannel(0), (3, 4, 5), (3, 20), 20),
    (qn.PerChannel(1), (3, 4, 5), (4, 15), 15),
    (qn.PerChannel(-1), (3, 4), (4, 3), 3),
    (qn.PerGroup(2), (3, 4, 5), (12, 5), 2),
    (qn.PerGroup(2, 0), (3, 4, 5), (20, 3), 2),
    (qn.PerGroup(9, 1), (3, 4, 5), (15, 4), 4),
]


@pytest.mark.parametrize(("granularity", "shape", "matrix", "group_size"), SHAPES)
def test_rows_of_every_granularity(granularity, shape, matrix, group_size):
    rows = Rows.of(granularity, shape)
    x = np.arange(np.prod(shape)).reshape(shape)
    assert rows.matrix(x).shape == matrix
    assert (rows.columns, rows.group_size) == (matrix[1], group_size)
    np.testing.assert_array_equal(rows.array(rows.matrix(x)), x)
    groups = rows.matrix(x)[:, ::group_size]  # the first element of each group stands for its parameter
    every = granularity.expand(rows.params(groups), tuple(slice(0, n) for n in shape))
    np.testing.assert_array_equal(
        rows.matrix(np.broadcast_to(every, shape)), np.repeat(groups, group_size, axis=1)[:, : matrix[1]]
    )


# ---- quantize(method="gptq") ----


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("per_group", [False, True])
def test_quantize_of_any_axis(dtype, scheme, per_group):
    w, _, x = layer()
    moments = qn.MomentsObserver().observe(x)
    granularities = [(qn.PerGroup(16), qn.PerGroup(16, 0)) if per_group else (qn.PerChannel(0), qn.PerChannel(1))][0]
    options = {"dtype": dtype, "symmetric": SYMMETRIC[scheme], "method": "gptq", "moments": moments}
    before = w.copy()
    q = qn.quantize(w, granularity=granularities[0], **options)
    turned = qn.quantize(w.T, granularity=granularities[1], **options)
    np.testing.assert_array_equal(turned.codes.T, q.codes)
    np.testing.assert_array_equal(turned.dequantize().T, q.dequantize())
    np.testing.assert_array_equal(w, before)
    result = round_weight(
        w, moments.covariance(centered=False), Levels.of(INTEGER_TYPES[dtype], scheme), 16 if per_group else 40
    )
    np.testing.assert_array_equal(q.codes.astype(np.int16), result.codes)
    assert q.dtype == INTEGER_TYPES[dtype].dtype
    assert (q.qparams.symmetric, q.qparams.qmin) == (
        bool((q.zero_point == INTEGER_TYPES[dtype].symmetric_zero_point).all()),
        Levels.of(INTEGER_TYPES[dtype], scheme).qmin,
    )
    nearest = qn.quantize(w, dtype=dtype, granularity=granularities[0], symmetric=SYMMETRIC[scheme])
    assert np.square(x @ (q.dequantize() - w).T).sum() < np.square(x @ (nearest.dequantize() - w).T).sum()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_quantize_of_any_real_type(dtype):
    w, _, x = layer()
    moments, per = qn.MomentsObserver().observe(x), qn.PerGroup(8)
    cast = w.astype(dtype)
    q = qn.quantize(cast, dtype="int4", granularity=per, method="gptq", moments=moments)
    assert q == qn.quantize(cast.astype(np.float32), dtype="int4", granularity=per, method="gptq", moments=moments)


def test_a_convolution_and_its_patches():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 3, 9, 9)).astype(np.float32), rng.normal(size=(5, 3, 3, 3)).astype(np.float32)
    rows = qn.weights.patches(x, 3, padding=1)
    q = qn.quantize(
        w, dtype="int4", granularity=qn.PerChannel(0), method="gptq", moments=qn.MomentsObserver().observe(rows)
    )
    flat = qn.quantize(
        w.reshape(5, 27), dtype="int4", granularity=qn.PerChannel(0), method="gptq",
        moments=qn.MomentsObserver().observe(rows.reshape(-1, 27)),
    )  # fmt: skip
    np.testing.assert_array_equal(q.codes.reshape(5, 27), flat.codes)
    assert q.granularity == qn.PerChannel(0)


def test_an_empty_weight():
    moments = qn.MomentsObserver().observe(np.ones((3, 4)))
    q = qn.quantize(np.ones((0, 4)), dtype="int4", granularity=qn.PerChannel(0), method="gptq", moments=moments)
    assert (q.shape, q.scale.shape) == ((0, 4), (0,))


MOMENTS = qn.MomentsObserver().observe(np.ones((3, 4)))
W = np.ones((2, 4))


@pytest.mark.parametrize(("options", "kind", "text"), [
    ({"moments": None}, TypeError, 'moments must be a MomentsObserver; got None.'),
    ({"moments": qn.MinMaxObserver()}, TypeError,
     "moments must be a MomentsObserver; got MinMaxObserver(int8, per tensor, symmetric, nothing seen)."),
    ({"moments": qn.MomentsObserver()}, qn.CalibrationError, "moments must be of one finite row or more; got none."),
    ({"granularity": qn.PerChannel(1)}, ValueError,
     "moments must be of the 2 inputs that PerChannel(axis=1) leaves of shape (2, 4); got moments of 4."),
    ({"granularity": qn.PerGroup(2, 0)}, ValueError,
     "moments must be of the 2 inputs that PerGroup(group_size=2, axis=0) leaves of shape (2, 4); got moments of 4."),
    ({"granularity": None}, ValueError,
     "granularity must be PerChannel(axis) or PerGroup(group_size) beside moments; got PerTensor()."),
    ({"granularity": qn.PerRow()}, ValueError,
     "granularity must be PerChannel(axis) or PerGroup(group_size) beside moments; got PerRow()."),
    ({"dtype": "int16"}, TypeError,
     "dtype must be an integer type of at most 8 bits for the search of 'gptq'; got int16."),
    ({"dtype": "float8_e5m2"}, TypeError,
     "dtype must be an integer type of at most 8 bits for the search of 'gptq'; got float8_e5m2."),
    ({"dtype": "mxfp4"}, ValueError,
     "granularity, symmetric and method must be left at their defaults for mxfp4; got granularity=PerChannel(axis=0), "
     "symmetric=None, method='gptq'."),
    ({"x": np.array([[1, np.nan, 2, 3.0]])}, ValueError, "x must be finite; got NaN or infinities."),
    ({"x": np.full((2, 4), 1e300)}, ValueError, "x must be of magnitudes that float32 holds; got 1e+300."),
    ({"symmetric": "yes"}, TypeError, "symmetric must be True, False or 'full'; got 'yes'."),
    ({"method": "minmax"}, ValueError,
     "moments must be left out unless the method is \"mse\" or \"gptq\"; got method='minmax'."),
    ({"method": "best"}, ValueError,
     "method must be one of 'minmax', 'mse', 'entropy', 'percentile', 'hqq', 'gptq'; got 'best'."),
    ({"qparams": qn.QParams(1, 0), "dtype": None, "granularity": None, "method": None}, ValueError,
     "moments must be left out beside qparams, which are chosen already; got MomentsObserver(4 inputs, 3 rows)."),
])  # fmt: skip
def test_refusals(options, kind, text):
    arguments = {"x": W, "dtype": "int4", "granularity": qn.PerChannel(0), "method": "gptq", "moments": MOMENTS}
    with pytest.raises(kind) as caught:
        qn.quantize(**{**arguments, **options})
    assert str(caught.value) == f"quantize: {text}"
