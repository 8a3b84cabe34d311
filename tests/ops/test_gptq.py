"""The rounding of weights against its twins, all roundings of tiny cases, and what holds for every result."""

import itertools

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import _core
from qnumpy.dtypes import code_type
from qnumpy.ops.gptq import column_order, descend, inverse_factor, objective, refit, round_columns, round_groups
from qnumpy.ops.grid_search import Levels, search_grid
from qnumpy.testing import rounding as twin

INT4 = Levels.of(code_type("int4"), "affine")
MANY = 50  # sweeps, more than any case here takes


def moment(rng, k, samples=None, damping=0.01):
    """The second moment of correlated inputs of different sizes."""
    x = rng.standard_normal((samples or 2 * k + 2, k)) @ rng.standard_normal((k, k)) * np.exp(rng.standard_normal(k))
    h = x.T @ x / len(x)
    return (h + h.T) / 2 + damping * np.trace(h) / k * np.eye(k)


def weights(rng, n, k):
    return rng.standard_normal((n, k)).astype(np.float32)


def permuted(h, order):
    return np.ascontiguousarray(h[order][:, order])


def each(parameter, group_size, k):
    return np.repeat(parameter, group_size, 1)[:, :k]


def nearest(w, scale, zero, group_size, levels):
    s, z = (each(parameter, group_size, w.shape[1]) for parameter in (scale, zero))
    return np.clip(np.rint(w / s) + z, levels.qmin, levels.qmax).astype(np.int16)


def exact(w, h, codes, scale, zero, group_size):
    """The objective of each row, by the linear algebra of NumPy."""
    s, z = (each(parameter, group_size, w.shape[1]) for parameter in (scale, zero))
    e = (s * (codes - z).astype(np.float32)).astype(np.float64) - w
    return ((e @ h) * e).sum(1)


def rounded(w, h, group_size, levels):
    """Codes by the loop and by descent, on a grid searched before."""
    order = column_order(np.diag(h).copy(), 1)
    scale, zero = search_grid(w, None, group_size, levels)
    codes = round_columns(w, inverse_factor(permuted(h, order)), order, scale, zero, group_size, levels)
    return scale, zero, codes, descend(w, h, codes, scale, zero, group_size, levels, MANY)


def assert_same(got, expected):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


CASES = [
    (dtype, scheme, n, k, group_size)
    for (dtype, scheme), (n, k, group_size) in zip(
        itertools.cycle(itertools.product(("int4", "uint2", "int8"), ("symmetric", "affine", "full"))),
        [
            (1, 1, 1), (1, 5, 5), (3, 4, 2), (7, 9, 4), (8, 31, 5), (9, 64, 32), (33, 65, 65), (70, 66, 16),
            (5, 130, 32), (2, 7, 100), (64, 8, 3), (17, 67, 67),
        ],
    )
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("dtype", "scheme", "n", "k", "group_size"), CASES)
def test_the_twins_give_the_same_bits(row, dtype, scheme, n, k, group_size, threads):
    rng = np.random.default_rng(k)
    w, h, levels = weights(rng, n, k), moment(rng, k), Levels.of(code_type(dtype), scheme)
    order, by_group = rng.permutation(k), column_order(np.diag(h).copy(), group_size)
    importance = np.diag(h).astype(np.float32)
    scale, zero = search_grid(w, None, group_size, levels)
    with qn.threads(threads):
        factor = inverse_factor(permuted(h, order))
        codes = round_columns(w, factor, order, scale, zero, group_size, levels)
        found = round_groups(w, factor_by_group := inverse_factor(permuted(h, by_group)), by_group, importance,
                             group_size, levels)  # fmt: skip
        better = descend(w, h, codes, scale, zero, group_size, levels, 3)
        scales = refit(w, h, better, scale, zero, group_size)
        errors = objective(w, h, better, scale, zero, group_size)
    assert_same(factor, twin.inverse_factor(permuted(h, order)))
    assert_same(codes, twin.round_columns(w, factor, order, scale, zero, group_size, levels))
    expected = twin.round_groups(w, factor_by_group, by_group, importance, group_size, levels)
    for got, want in zip(found, expected, strict=True):
        assert_same(got, want)
    assert_same(better, twin.descend(w, h, codes, scale, zero, group_size, levels, 3))
    assert_same(scales, twin.refit(w, h, better, scale, zero, group_size))
    assert_same(errors, twin.objective(w, h, better, scale, zero, group_size))


@pytest.mark.parametrize("k", [1, 2, 5, 64, 200])
def test_the_factor_is_that_of_the_inverse(k):
    """The error of a product of k terms with the condition of h, which is below 1e5 here."""
    h = moment(np.random.default_rng(k), k)
    u = inverse_factor(h)
    assert (np.tril(u, -1) == 0).all()
    assert (np.diag(u) > 0).all()
    np.testing.assert_allclose(u @ h @ u.T, np.eye(k), rtol=0, atol=1e-9)
    np.testing.assert_allclose(u.T @ u, np.linalg.inv(h), rtol=0, atol=1e-9 * np.abs(np.linalg.inv(h)).max())


def test_what_is_not_positive_definite_has_no_factor():
    rng = np.random.default_rng(0)
    for k in (1, 3, 70, 150):
        good = moment(rng, k)
        for value in (0, -1, np.nan, np.inf, -np.inf):
            for at in (0, k // 2, k - 1):
                bad = good.copy()
                bad[at, at] = value
                assert inverse_factor(bad) is None, (k, value, at)
    x = rng.standard_normal((20, 40))
    singular = x.T @ x
    assert inverse_factor(singular) is None
    assert inverse_factor(singular + 0.01 * np.eye(40)) is not None
    assert inverse_factor(np.ones((2, 2))) is None
    assert inverse_factor(np.array([[1.0, 2], [2, 1]])) is None
    assert inverse_factor(np.diag([1e-300, 1.0, 1e300])) is not None  # each pivot has its own size


def test_identity_rounds_to_nearest():
    rng = np.random.default_rng(1)
    w, h = weights(rng, 20, 48), 3.0 * np.eye(48)
    for group_size in (16, 48):
        scale, zero, codes, better = rounded(w, h, group_size, INT4)
        expected = qn.quantize_linear(w, scale, zero.astype(np.int8), dtype="int4", axis=1, block_size=group_size)
        np.testing.assert_array_equal(codes, expected.astype(np.int16))
        np.testing.assert_array_equal(better, codes)
        found, scales, zeros = round_groups(w, np.eye(48), np.arange(48), None, group_size, INT4)
        np.testing.assert_array_equal(found, codes)
        np.testing.assert_array_equal(scales, scale)
        np.testing.assert_array_equal(zeros, zero)


def test_the_objective():
    """The tolerance is that of sums of k^2 terms."""
    rng = np.random.default_rng(2)
    for n, k, group_size in ((1, 1, 1), (5, 33, 8), (66, 70, 70)):
        w, h = weights(rng, n, k), moment(rng, k)
        scale, zero = search_grid(w, None, group_size, INT4)
        codes = nearest(w, scale, zero, group_size, INT4)
        expected = exact(w, h, codes, scale, zero, group_size)
        np.testing.assert_allclose(objective(w, h, codes, scale, zero, group_size), expected, rtol=1e-9)


@pytest.mark.parametrize("group_size", [8, 40])
@pytest.mark.parametrize("dtype", ["int2", "int4", "uint8"])
def test_no_change_of_a_code_lowers_the_objective_after_descent(dtype, group_size):
    rng = np.random.default_rng(3)
    levels = Levels.of(code_type(dtype), "affine")
    w, h = weights(rng, 30, 40), moment(rng, 40)
    scale, zero, codes, better = rounded(w, h, group_size, levels)
    before, after = (exact(w, h, q, scale, zero, group_size) for q in (codes, better))
    assert (after <= before).all()
    assert (after < before).any()
    for i, step in itertools.product(range(40), (-3, -2, -1, 1, 2, 3)):
        other = better.copy()
        other[:, i] = np.clip(other[:, i] + step, levels.qmin, levels.qmax)
        assert (exact(w, h, other, scale, zero, group_size) >= after * (1 - 1e-9)).all(), (i, step)


def test_descent_never_raises_the_objective():
    rng = np.random.default_rng(4)
    w, h = weights(rng, 30, 50), moment(rng, 50)
    scale, zero = search_grid(w, None, 10, INT4)
    start = nearest(w, scale, zero, 10, INT4)
    last = objective(w, h, start, scale, zero, 10)
    for sweeps in range(8):
        now = objective(w, h, descend(w, h, start, scale, zero, 10, INT4, sweeps), scale, zero, 10)
        assert (now <= last).all() if sweeps else (now == last).all()
        last = now
    best = np.minimum(*(objective(w, h, q, scale, zero, 10) for q in (start, rounded(w, h, 10, INT4)[2])))
    assert (last <= objective(w, h, start, scale, zero, 10)).all()
    assert last.mean() < 1.2 * best.mean()


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("shrink", [1, 0.5])
def test_all_roundings_of_tiny_cases(k, shrink):
    """2-bit codes. Where a small scale clips, the loop alone is no better than nearest; the better of both, descended,
    is close to the optimum."""
    rng = np.random.default_rng(k)
    levels = Levels.of(code_type("int2"), "affine")
    every = np.array(list(itertools.product(range(levels.qmin, levels.qmax + 1), repeat=k)), np.int16)
    ratios = {"nearest": [], "loop": [], "descent": []}
    for _ in range(300):
        w, h = weights(rng, 1, k), moment(rng, k, samples=k, damping=0.1)
        order = column_order(np.diag(h).copy(), 1)
        scale, zero = search_grid(w, None, k, levels)
        scale *= np.float32(shrink)

        def cost(codes):
            return exact(w, h, codes, scale, zero, k)  # noqa: B023

        near = nearest(w, scale, zero, k, levels)
        loop = round_columns(w, inverse_factor(permuted(h, order)), order, scale, zero, k, levels)
        descended = [descend(w, h, start, scale, zero, k, levels, MANY) for start in (near, loop)]
        optimum = cost(every).min()
        found = {"nearest": cost(near)[0], "loop": cost(loop)[0], "descent": min(cost(q)[0] for q in descended)}
        for name, value in found.items():
            assert value >= optimum * (1 - 1e-12)
            ratios[name].append(value / optimum)
    mean = {name: np.mean(values) for name, values in ratios.items()}
    assert mean["descent"] < (1.03 if shrink == 1 else 1.1)
    assert mean["descent"] < mean["loop"]
    assert mean["descent"] < mean["nearest"]
    assert np.mean(np.array(ratios["descent"]) < 1 + 1e-9) > 0.9


def test_a_permutation_of_the_inputs_permutes_the_codes():
    rng = np.random.default_rng(5)
    w, h = weights(rng, 12, 40), moment(rng, 40)
    scale, zero, codes, _ = rounded(w, h, 40, INT4)
    mixed = rng.permutation(40)
    order = column_order(np.diag(h)[mixed], 1)
    factor = inverse_factor(permuted(permuted(h, mixed), order))
    got = round_columns(np.ascontiguousarray(w[:, mixed]), factor, order, scale, zero, 40, INT4)
    np.testing.assert_array_equal(got, codes[:, mixed])


def test_a_dead_input_rounds_to_nearest():
    rng = np.random.default_rng(6)
    w, h = weights(rng, 12, 20), moment(rng, 20)
    h[7], h[:, 7] = 0, 0
    scale, zero = search_grid(w, None, 20, INT4)
    near = nearest(w, scale, zero, 20, INT4)
    assert inverse_factor(h) is None
    order = np.arange(20)
    codes = round_columns(w, inverse_factor(h + 0.1 * np.eye(20)), order, scale, zero, 20, INT4)
    np.testing.assert_array_equal(codes[:, 7], near[:, 7])
    better = descend(w, h, codes, scale, zero, 20, INT4, MANY)
    np.testing.assert_array_equal(better[:, 7], codes[:, 7])
    assert np.isfinite(refit(w, h, better, scale, zero, 20)).all()
    nothing = np.zeros((20, 20))
    np.testing.assert_array_equal(descend(w, nothing, near, scale, zero, 20, INT4, MANY), near)
    np.testing.assert_array_equal(refit(w, nothing, near, scale, zero, 20), scale)


@pytest.mark.parametrize("exponent", [-100, -40, 40, 100])
def test_powers_of_two_change_nothing(exponent):
    """Of weights and scales, and of h: every step is exact."""
    rng = np.random.default_rng(7)
    w, h = weights(rng, 9, 33), moment(rng, 33)
    scale, zero, codes, better = rounded(w, h, 11, INT4)
    scales = refit(w, h, better, scale, zero, 11)
    size, far = np.float32(2.0**exponent), h * 2.0 ** (3 * exponent)
    order = column_order(np.diag(h).copy(), 1)
    factor = inverse_factor(permuted(far, order))
    assert_same(round_columns(w * size, factor, order, scale * size, zero, 11, INT4), codes)
    assert_same(descend(w * size, far, codes, scale * size, zero, 11, INT4, MANY), better)
    assert_same(refit(w * size, far, better, scale * size, zero, 11), scales * size)


@pytest.mark.parametrize("group_size", [8, 20, 40])
def test_refit_is_least_squares(group_size):
    """A row keeps its scales where the gain is below that of rounding the levels: for a change of less than 1e-4."""
    rng = np.random.default_rng(8)
    w, h = weights(rng, 10, 40), moment(rng, 40)
    scale, zero, _, codes = rounded(w, h, group_size, INT4)
    scales = refit(w, h, codes, scale, zero, group_size)
    root, groups = np.linalg.cholesky(h), scale.shape[1]
    for i in range(10):
        t = (codes[i] - each(zero, group_size, 40)[i]).astype(np.float64)
        columns = np.where(np.arange(40) // group_size == np.arange(groups)[:, None], t, 0) @ root
        expected = np.linalg.lstsq(columns.T, w[i] @ root, rcond=None)[0]
        np.testing.assert_allclose(scales[i], expected, rtol=1e-4)
    before, after = (objective(w, h, codes, s, zero, group_size) for s in (scale, scales))
    assert (after <= before).all()
    assert (after < before).sum() > 7
    again = refit(w, h, codes, scales, zero, group_size)
    assert_same(again, scales)  # nothing is left to gain


def test_refit_keeps_scales_positive_and_normal():
    rng = np.random.default_rng(9)
    w, h = weights(rng, 40, 24), moment(rng, 24)
    tiny = np.finfo(np.float32).smallest_normal
    zero = np.zeros((40, 3), np.int32)
    for size in (tiny, 1, 1e38):
        scale = np.full((40, 3), size, np.float32)
        for codes in (
            rng.integers(-8, 8, (40, 24), np.int16),
            -np.sign(w).astype(np.int16),  # the best scale is negative
            np.zeros((40, 24), np.int16),  # any scale is best
        ):
            scales = refit(w, h, codes, scale, zero, 8)
            assert np.isfinite(scales).all()
            assert (scales >= tiny).all()
            assert (scales <= scale.astype(np.float64) * 4).all()
            assert (scales >= scale / 4).all()
    assert_same(refit(w, h, codes, scale, zero, 8), scale)


def test_one_group_without_codes_keeps_its_scale():
    rng = np.random.default_rng(10)
    w, h = weights(rng, 10, 24), moment(rng, 24)
    scale, zero, _, codes = rounded(w, h, 8, INT4)
    codes[:, 8:16] = zero[:, 1:2]
    scales = refit(w, h, codes, scale, zero, 8)
    assert_same(scales[:, 1].copy(), scale[:, 1].copy())
    assert (scales[:, [0, 2]] != scale[:, [0, 2]]).any()


def test_refit_does_not_raise_the_objective():
    rng = np.random.default_rng(11)
    for dtype, group_size in itertools.product(("int2", "int4", "int8"), (4, 30)):
        levels = Levels.of(code_type(dtype), "symmetric")
        w, h = weights(rng, 100, 30), moment(rng, 30)
        scale, zero, _, codes = rounded(w, h, group_size, levels)
        before = objective(w, h, codes, scale, zero, group_size)
        for _ in range(3):
            scale = refit(w, h, codes, scale, zero, group_size)
            after = objective(w, h, codes, scale, zero, group_size)
            assert (after <= before).all()
            before = after


def test_the_loop_beats_nearest():
    """Of correlated inputs, on the same grid; descent and scales gain more."""
    rng = np.random.default_rng(12)
    w, h = weights(rng, 64, 96), moment(rng, 96, damping=0.1)
    for group_size in (32, 96):
        scale, zero, codes, better = rounded(w, h, group_size, INT4)
        near = nearest(w, scale, zero, group_size, INT4)
        means = [exact(w, h, q, scale, zero, group_size).mean() for q in (near, codes, better)]
        means.append(exact(w, h, better, refit(w, h, better, scale, zero, group_size), zero, group_size).mean())
        assert means == sorted(means, reverse=True)
        assert means[1] < 0.7 * means[0]


def test_grids_follow_the_weights_as_the_errors_change_them():
    """A group that comes late has taken up errors; a grid that saw them is the better one for most rows."""
    rng = np.random.default_rng(13)
    w, h = weights(rng, 200, 64), moment(rng, 64, damping=0.1)
    order, importance = column_order(np.diag(h).copy(), 16), np.diag(h).astype(np.float32)
    factor = inverse_factor(permuted(h, order))
    scale, zero = search_grid(w, importance, 16, INT4)
    fixed = round_columns(w, factor, order, scale, zero, 16, INT4)
    codes, scales, zeros = round_groups(w, factor, order, importance, 16, INT4)
    first = order[0] // 16
    np.testing.assert_allclose(scales[:, first], scale[:, first], rtol=0.2)
    assert exact(w, h, codes, scales, zeros, 16).mean() < exact(w, h, fixed, scale, zero, 16).mean()


def test_the_order_of_columns():
    diagonal = np.array([1.0, 5, 2, 2, 9, 0, 3])
    np.testing.assert_array_equal(column_order(diagonal, 1), [4, 1, 6, 2, 3, 0, 5])
    np.testing.assert_array_equal(column_order(diagonal, 3), [4, 3, 5, 6, 1, 2, 0])  # means 8/3, 11/3, 3
    np.testing.assert_array_equal(column_order(diagonal, 10), [4, 1, 6, 2, 3, 0, 5])
    assert column_order(np.zeros(0), 4).shape == (0,)
    assert column_order(np.ones(3), 2).dtype == np.int64


@pytest.mark.parametrize(("n", "k"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_round(n, k):
    w, h = np.ones((n, k), np.float32), np.eye(k)
    groups = -(-k // 2)
    scale, zero, order = np.ones((n, groups), np.float32), np.zeros((n, groups), np.int32), np.arange(k)
    assert inverse_factor(h).shape == (k, k)
    codes = round_columns(w, h, order, scale, zero, 2, INT4)
    assert codes.shape == (n, k)
    assert [a.shape for a in round_groups(w, h, order, None, 2, INT4)] == [(n, k), (n, groups), (n, groups)]
    assert descend(w, h, codes, scale, zero, 2, INT4, 3).shape == (n, k)
    assert refit(w, h, codes, scale, zero, 2).shape == (n, groups)
    assert (objective(w, h, codes, scale, zero, 2) == np.zeros(n)).all()


def test_threads_and_rows_do_not_change_bits():
    """Large enough for threads: each row is what it is alone."""
    rng = np.random.default_rng(14)
    w, h = weights(rng, 150, 200), moment(rng, 200)
    results = []
    for threads in (1, 2, 5):
        with qn.threads(threads):
            scale, zero, codes, better = rounded(w, h, 40, INT4)
            by_group = round_groups(w, inverse_factor(h), np.arange(200), None, 40, INT4)
            scales = refit(w, h, better, scale, zero, 40)
            results.append(
                [inverse_factor(h), codes, better, scales, *by_group, objective(w, h, codes, scales, zero, 40)]
            )
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_same(got, want)
    for i in (0, 63, 149):
        alone = rounded(w[i : i + 1], h, 40, INT4)
        assert_same(alone[2][0], codes[i])
        assert_same(alone[3][0], better[i])
        assert_same(refit(w[i : i + 1], h, alone[3], *alone[:2], 40)[0], scales[i])


def test_inputs_stay_as_they_are():
    rng = np.random.default_rng(15)
    w, h, order = weights(rng, 5, 12), moment(rng, 12), np.arange(12)
    scale, zero = search_grid(w, None, 4, INT4)
    codes, factor, importance = nearest(w, scale, zero, 4, INT4), inverse_factor(h), np.ones(12, np.float32)
    inputs = w, h, order, scale, zero, codes, factor, importance
    before = [a.tobytes() for a in inputs]
    for a in inputs:
        a.flags.writeable = False
    inverse_factor(h)
    round_columns(w, factor, order, scale, zero, 4, INT4)
    round_groups(w, factor, order, importance, 4, INT4)
    refit(w, h, descend(w, h, codes, scale, zero, 4, INT4, 9), scale, zero, 4)
    objective(w, h, codes, scale, zero, 4)
    assert [a.tobytes() for a in inputs] == before


def test_values_that_are_not_finite_give_codes_in_range():
    """The seam above refuses them; the kernels stay inside their memory and their codes."""
    rng = np.random.default_rng(16)
    h, order = moment(rng, 12), np.arange(12)
    for value in (np.nan, np.inf, -np.inf, 3e38):
        w = weights(rng, 5, 12)
        w[2, 3] = value
        scale, zero = np.full((5, 3), 0.1, np.float32), np.full((5, 3), 3, np.int32)
        codes = round_columns(w, inverse_factor(h), order, scale, zero, 4, INT4)
        assert codes.min() >= INT4.qmin
        assert codes.max() <= INT4.qmax
        better = descend(w, h, codes, scale, zero, 4, INT4, 9)
        assert better.min() >= INT4.qmin
        assert better.max() <= INT4.qmax
        assert (refit(w, h, better, scale, zero, 4) > 0).all()
        w[2] = 0
        others = [0, 1, 3, 4]
        assert_same(codes[others], round_columns(w, inverse_factor(h), order, scale, zero, 4, INT4)[others])


def test_a_column_outside_the_matrix_is_refused():
    w, h, codes = np.ones((1, 3), np.float32), np.eye(3), np.zeros((1, 3), np.int16)
    scale, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32)
    for outside in (-1, 3):
        order = np.array([0, outside, 2])
        with pytest.raises(ValueError, match=r"^qnumpy\._core: the order has a column that does not exist\.$"):
            _core.round_columns(w, h, order, None, 1, 3, 3, -8, 7, 0, 0, 0, scale, zero, codes)
