"""The grids of groups of weights: against the twin, against every grid of a dense search, and what must hold."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.dtypes import code_type
from qnumpy.ops.grid_search import Levels, assumed_importance, hqq_grid, hqq_offsets, search_grid, search_offsets
from qnumpy.testing import grid_search as twin

LEVELS = {
    "int4 symmetric": Levels(-7, 7, 0, 0),
    "int4 affine": Levels(-8, 7, -8, 7),
    "int4 full": Levels(-8, 7, -1, 0),
    "int2 symmetric": Levels(-1, 1, 0, 0),
    "int2 affine": Levels(-2, 1, -2, 1),
    "uint8 symmetric": Levels(1, 255, 128, 128),
    "uint8 affine": Levels(0, 255, 0, 255),
}
every_grid = pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)


def weights(rng, *shape):
    """Heavy tails, whose groups are worth clipping."""
    return (rng.standard_t(4, shape) * 0.05).astype(np.float32)


def importance_of(rng, *shape):
    return np.exp(rng.standard_normal(shape)).astype(np.float32)


def error(w, importance, scale, zero, levels):
    """The weighted square error of groups (G, n), each with its grid, in float64."""
    scale, zero = scale[:, None], zero[:, None]
    q = np.clip(np.rint(w / scale) + zero, levels.qmin, levels.qmax)
    levels_of_w = (scale * (q - zero).astype(np.float32)).astype(float)
    return (importance * (levels_of_w - w) ** 2).sum(1)


def offset_error(w, importance, scale, offset, qmin, qmax):
    scale, offset = scale[:, None], offset[:, None]
    q = np.clip(np.rint((w - offset) / scale), qmin, qmax).astype(np.float32)
    return (importance * ((scale * q + offset).astype(float) - w) ** 2).sum(1)


def search(w, importance, levels):
    """One group a row."""
    scale, zero = search_grid(w, importance, w.shape[1], levels)
    return scale[:, 0], zero[:, 0]


def min_max(w, levels):
    """The grid of the range, as `qn.choose_qparams` makes it; for full range the codes reach both ends."""
    low, high = np.minimum(w.min(1), 0).astype(float), np.maximum(w.max(1), 0).astype(float)
    scale = (high - low) / (levels.qmax - levels.qmin)
    zero = np.clip(np.rint(levels.qmin - low / np.float32(scale)), levels.zero_low, levels.zero_high).astype(np.int32)
    if (levels.zero_low, levels.zero_high) != (levels.qmin, levels.qmax):
        scale = np.maximum(high / (levels.qmax - zero), -low / (zero - levels.qmin))
    return scale.astype(np.float32), zero


# ---- the twin ----


@every_grid
@pytest.mark.parametrize(("columns", "group_size"), [(1, 1), (7, 7), (8, 32), (40, 16), (65, 33), (300, 300)])
def test_the_twin_gives_the_same_bits(row, levels, columns, group_size):
    rng = np.random.default_rng(columns)
    for importance in (None, importance_of(rng, columns), importance_of(rng, 2, columns)):
        w = weights(rng, 2, columns)
        w[0, 0] = np.nan if columns > 7 else 0
        for got, want in zip(
            search_grid(w, importance, group_size, levels),
            twin.search_grid(w, importance, group_size, levels),
            strict=True,
        ):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
        codes = min(levels.qmin, 0), levels.qmax
        for got, want in zip(
            search_offsets(w, importance, group_size, *codes),
            twin.search_offsets(w, importance, group_size, *codes),
            strict=True,
        ):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scale", [1e-38, 1e-37, 1e-36, 1e-20, 1e20, 1e36, 3e38])
def test_the_twin_at_the_ends_of_float32(scale):
    w = np.clip(weights(np.random.default_rng(0), 3, 32).astype(float) * 10, -1, 1) * scale
    w = w.astype(np.float32)
    for levels in LEVELS.values():
        np.testing.assert_array_equal(search_grid(w, None, 16, levels), twin.search_grid(w, None, 16, levels))
        codes = min(levels.qmin, 0), levels.qmax
        np.testing.assert_array_equal(search_offsets(w, None, 16, *codes), twin.search_offsets(w, None, 16, *codes))


@every_grid
@pytest.mark.parametrize(("columns", "group_size"), [(1, 1), (40, 16), (65, 33)])
def test_the_twin_of_half_quadratic_splitting_gives_the_same_bits(row, levels, columns, group_size):
    w = weights(np.random.default_rng(columns), 2, columns)
    w[0, 0] = np.nan if columns > 7 else 0
    codes = min(levels.qmin, 0), levels.qmax
    np.testing.assert_array_equal(hqq_grid(w, group_size, levels), twin.hqq_grid(w, group_size, levels))
    np.testing.assert_array_equal(hqq_offsets(w, group_size, *codes), twin.hqq_offsets(w, group_size, *codes))


# ---- a dense search ----


@every_grid
@pytest.mark.parametrize("n", [8, 32, 128])
def test_a_dense_search_is_hardly_better(levels, n):
    """Every zero point (of 8 bits those around the best one) with 800 scales: on the whole, 1 % less at most."""
    rng = np.random.default_rng(n)
    w, importance = weights(rng, 40, n), importance_of(rng, 40, n)
    scale, zero = search(w, importance, levels)
    got, base = error(w, importance, scale, zero, levels), min_max(w, levels)[0]
    least = np.full(len(w), np.inf)
    for z in range(levels.zero_low, levels.zero_high + 1) if levels.qmax < 128 else range(-4, 5):
        tried = np.full(len(w), z, np.int32) if levels.qmax < 128 else np.clip(zero + z, *levels[2:])
        for part in np.linspace(0.2, 1.3, 800, dtype=np.float32):
            least = np.minimum(least, error(w, importance, base * part, tried, levels))
    gap = got.sum() / least.sum() - 1
    # 8 bits: 800 scales fit a few weights by chance, in steps that a search of 8 of them does not see
    assert gap < (0.01 if levels.qmax < 128 else 0.5)


@pytest.mark.parametrize("n", [8, 32, 128])
def test_a_dense_search_of_offsets_is_hardly_better(n):
    rng = np.random.default_rng(n)
    w, importance = weights(rng, 30, n), importance_of(rng, 30, n)
    scale, offset = (part[:, 0] for part in search_offsets(w, importance, n, 0, 7))
    got, low, high = offset_error(w, importance, scale, offset, 0, 7), w.min(1), w.max(1)
    least = np.full(len(w), np.inf)
    for part in np.linspace(0.2, 1.3, 60, dtype=np.float32):
        tried = (high - low) / 7 * part
        for start in np.linspace(-0.2, 0.9, 60, dtype=np.float32):
            least = np.minimum(least, offset_error(w, importance, tried, low + start * (high - low), 0, 7))
    assert got.sum() < 1.005 * least.sum()


# ---- what must hold ----


@every_grid
@pytest.mark.parametrize("n", [1, 2, 5, 32, 384])
def test_never_above_the_range_from_minimum_to_maximum(levels, n):
    """1e-6: the search sums in float32, eight terms at a time."""
    rng = np.random.default_rng(n)
    for w in (weights(rng, 200, n), np.abs(weights(rng, 200, n)), rng.integers(-3, 4, (200, n)).astype(np.float32)):
        w[(w == 0).all(1)] = 1
        for importance in (np.ones_like(w), importance_of(rng, 200, n) ** 3):
            got = error(w, importance, *search(w, importance, levels), levels)
            assert (got <= error(w, importance, *min_max(w, levels), levels) * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_full_range_is_never_above_that_of_the_largest_magnitude(bits):
    """Which has the longer side, and may clip the other end."""
    rng, reach = np.random.default_rng(bits), 2 ** (bits - 1)
    w, levels = weights(rng, 300, 6), Levels(-reach, reach - 1, -1, 0)
    largest, zero = np.abs(w).max(1), np.where(-w.min(1) >= w.max(1), 0, -1).astype(np.int32)
    base = error(w, np.ones_like(w), largest / np.float32(reach), zero, levels)
    assert (error(w, np.ones_like(w), *search(w, None, levels), levels) <= base * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize("n", [2, 5, 32, 384])
def test_offsets_are_never_above_the_range_from_minimum_to_maximum(n):
    rng = np.random.default_rng(n)
    for w in (weights(rng, 200, n), weights(rng, 200, n) + 3):
        importance = importance_of(rng, 200, n)
        scale, offset = (part[:, 0] for part in search_offsets(w, importance, n, -2, 1))
        step = (w.max(1) - w.min(1)).astype(float) / 3
        base = offset_error(w, importance, step.astype(np.float32), (w.min(1) + 2 * step).astype(np.float32), -2, 1)
        assert (offset_error(w, importance, scale, offset, -2, 1) <= base * (1 + 1e-5) + 1e-12).all()


@every_grid
def test_on_the_chosen_codes_no_scale_is_better(levels):
    """The scale is that of least squares for its codes, or the next codes differ: a finer one gains 1 % at most."""
    rng = np.random.default_rng(1)
    w, importance = weights(rng, 300, 64), importance_of(rng, 300, 64)
    scale, zero = search(w, importance, levels)
    step = np.clip(np.rint(w / scale[:, None]) + zero[:, None], levels.qmin, levels.qmax) - zero[:, None]
    fitted = (importance * step * w).sum(1) / (importance * step * step).sum(1)
    got = error(w, importance, scale, zero, levels)
    assert got.sum() < 1.01 * error(w, importance, fitted.astype(np.float32), zero, levels).sum()


@every_grid
@pytest.mark.parametrize("power", [-100, -3, 5, 90])
def test_a_power_of_two_scales_the_scale(levels, power):
    rng = np.random.default_rng(2)
    w, importance = weights(rng, 20, 32), importance_of(rng, 32)
    scale, zero = search_grid(w, importance, 32, levels)
    times, same = search_grid(np.ldexp(w, power), np.ldexp(importance, power // 2), 32, levels)
    np.testing.assert_array_equal(times, np.ldexp(scale, power))
    np.testing.assert_array_equal(same, zero)
    scale, offset = search_offsets(w, importance, 32, -8, 7)
    times, more = search_offsets(np.ldexp(w, power), np.ldexp(importance, power // 2), 32, -8, 7)
    np.testing.assert_array_equal(times, np.ldexp(scale, power))
    np.testing.assert_array_equal(more, np.ldexp(offset, power))


def test_any_factor_scales_the_scale():
    """Roundings of float32 differ, so one group in a hundred may end at another grid of nearly the same error."""
    w = weights(np.random.default_rng(3), 200, 32)
    for levels in LEVELS.values():
        scale, zero = search(w, None, levels)
        times, same = search(w * np.float32(3.7), None, levels)
        agree = (same == zero) & (np.abs(times / scale / 3.7 - 1) < 1e-5)
        assert agree.mean() >= (0.97 if levels.qmax < 128 else 0.5)


def test_the_order_of_the_weights_in_a_group_does_not_matter():
    """But for the order of the sums."""
    rng = np.random.default_rng(4)
    w, importance, order = weights(rng, 100, 48), importance_of(rng, 48), rng.permutation(48)
    levels = LEVELS["int4 affine"]
    got, want = search(np.ascontiguousarray(w[:, order]), importance[order], levels), search(w, importance, levels)
    assert (np.isclose(got[0], want[0], rtol=1e-5) & (got[1] == want[1])).mean() > 0.97


@every_grid
def test_the_sign_of_symmetric_weights_does_not_matter(levels):
    w = weights(np.random.default_rng(5), 50, 32)
    if levels.zero_low == levels.zero_high:
        np.testing.assert_array_equal(search(-w, None, levels), search(w, None, levels))


@every_grid
def test_weights_on_a_grid_are_met_exactly(levels):
    """Every code, also the ends, with a power of two as the scale."""
    zero = (levels.zero_low + levels.zero_high) // 2
    w = np.ldexp(np.arange(levels.qmin, levels.qmax + 1, dtype=np.float32) - zero, -5)[None]
    scale, got = search(w, None, levels)
    assert (scale, got) == (2.0**-5, zero)


def test_an_offset_meets_levels_exactly():
    w = (np.arange(16, dtype=np.float32) * 0.25 + 100)[None]
    scale, offset = search_offsets(w, None, 16, 0, 15)
    assert (scale, offset) == (0.25, 100)


def test_groups_of_one_value():
    for levels in LEVELS.values():
        scale, zero = search(np.zeros((2, 5), np.float32), None, levels)
        assert (scale == 1).all()
        assert ((zero >= levels.zero_low) & (zero <= levels.zero_high)).all()
        for value in (-3.7, 1e-30, 2e30):
            w = np.full((1, 5), value, np.float32)
            scale, zero = search(w, None, levels)
            level = scale * (np.clip(np.rint(w[0, 0] / scale) + zero, levels.qmin, levels.qmax) - zero)
            np.testing.assert_allclose(level, w[0, 0], rtol=1e-6)
            scale, offset = search_offsets(w, None, 5, -8, 7)
            assert (scale[0, 0], offset[0, 0]) == (1, w[0, 0])
    scale, offset = search_offsets(np.zeros((1, 4), np.float32), None, 3, -8, 7)
    assert (scale == 1).all()
    assert (offset == 0).all()


@every_grid
def test_one_weight_that_is_not_zero(levels):
    w = np.zeros((2, 32), np.float32)
    w[0, 5], w[1, 31] = 0.3, -0.3
    scale, zero = search(w, None, levels)
    assert (error(w, np.ones_like(w), scale, zero, levels) < 1e-12).all()


def test_importance():
    """None is ones; zeros alone are ones; a weight without importance has no say; a large one is met."""
    rng = np.random.default_rng(6)
    w, levels = weights(rng, 20, 32), LEVELS["int4 affine"]
    ones = search_grid(w, None, 8, levels)
    for importance in (np.ones(32, np.float32), np.zeros(32, np.float32), np.full((20, 32), 8, np.float32)):
        np.testing.assert_array_equal(search_grid(w, importance, 8, levels), ones)
        np.testing.assert_array_equal(search_offsets(w, importance, 8, 0, 15), search_offsets(w, None, 8, 0, 15))
    importance = np.ones((20, 32), np.float32)
    importance[:, :16] = 0
    kept = w.copy()
    kept[:, :16] = 0
    scale, zero = search(w, importance, levels)
    want = error(kept, importance, *search(kept, importance, levels), levels)
    assert error(w, importance, scale, zero, levels).sum() < 1.02 * want.sum()
    importance[:] = 1e-6
    importance[:, 3] = 1
    scale, zero = search(w, importance, levels)
    step = np.clip(np.rint(w / scale[:, None]) + zero[:, None], -8, 7) - zero[:, None]
    assert np.abs(scale[:, None] * step - w)[:, 3].max() < 1e-3 * np.abs(w).max()


def test_a_row_or_a_matrix_of_importance():
    rng = np.random.default_rng(7)
    w, importance = weights(rng, 6, 50), importance_of(rng, 50)
    every = np.tile(importance, (6, 1))
    for levels in LEVELS.values():
        np.testing.assert_array_equal(search_grid(w, importance, 16, levels), search_grid(w, every, 16, levels))
    np.testing.assert_array_equal(search_offsets(w, importance, 16, 0, 7), search_offsets(w, every, 16, 0, 7))


def test_groups_are_independent():
    """The grids of a matrix are those of its groups alone; the last group is shorter."""
    rng = np.random.default_rng(8)
    w, importance, levels = weights(rng, 5, 75), importance_of(rng, 5, 75), LEVELS["int4 affine"]
    scale, zero = search_grid(w, importance, 32, levels)
    lines = search_offsets(w, importance, 32, 0, 15)
    assert scale.shape == zero.shape == lines[0].shape == (5, 3)
    for g, start in enumerate((0, 32, 64)):
        part, of_part = (np.ascontiguousarray(a[:, start : start + 32]) for a in (w, importance))
        np.testing.assert_array_equal(search(part, of_part, levels), (scale[:, g], zero[:, g]))
        alone = search_offsets(part, of_part, 32, 0, 15)
        np.testing.assert_array_equal([a[:, 0] for a in alone], [a[:, g] for a in lines])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_count_for_nothing(bad):
    rng = np.random.default_rng(9)
    w = weights(rng, 10, 33)
    importance = np.ones_like(w)
    with_zero = w.copy()
    w[:, 20], with_zero[:, 20], importance[:, 20] = bad, 0, 0
    for levels in LEVELS.values():
        np.testing.assert_array_equal(search_grid(w, None, 33, levels), search_grid(with_zero, importance, 33, levels))
    alone = np.full((1, 4), bad, np.float32)
    assert search_grid(alone, None, 4, LEVELS["int4 symmetric"])[0] == 1
    assert [part.item() for part in search_offsets(alone, None, 4, 0, 15)] == [1, 0]


@pytest.mark.parametrize("largest", [0, 1e-45, 1e-40, 2e-38, 1e-36, 1e36, 3.4e38])
def test_scales_are_normal_and_levels_finite(largest):
    rng = np.random.default_rng(10)
    w = (np.clip(rng.standard_normal((50, 16)), -1, 1) * largest).astype(np.float32)
    for levels in LEVELS.values():
        scale, zero = search(w, None, levels)
        assert (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all()
        with np.errstate(over="ignore"):
            worst = np.abs(
                scale * (np.clip(np.rint(w / scale[:, None]).T + zero, levels.qmin, levels.qmax) - zero) - w.T
            )
        assert (worst <= 1.01 * max(largest, 1e-37)).all()
        scale, offset = search_offsets(w, None, 16, min(levels.qmin, 0), levels.qmax)
        assert (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all()
        assert np.isfinite(offset).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty(shape):
    w = np.zeros(shape, np.float32)
    groups = shape[0], -(-shape[1] // 4)
    assert [part.shape for part in search_grid(w, None, 4, LEVELS["int4 affine"])] == [groups] * 2
    assert [part.shape for part in search_offsets(w, None, 4, 0, 15)] == [groups] * 2


@pytest.mark.parametrize("group_size", [32, 300, 10**12])
def test_threads_give_the_same_bits(group_size):
    rng = np.random.default_rng(11)
    w, importance = weights(rng, 60, 300), importance_of(rng, 300)
    results = []
    for threads in (1, 2, 3):
        with qn.threads(threads):
            grids = search_grid(w, importance, group_size, LEVELS["int4 affine"])
            results.append((*grids, *search_offsets(w, importance, group_size, 0, 15)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


def test_inputs_may_be_read_only():
    w = weights(np.random.default_rng(12), 4, 64)
    importance = np.ones(64, np.float32)
    before = w.copy()
    w.flags.writeable = importance.flags.writeable = False
    search_grid(w, importance, 32, LEVELS["int4 affine"])
    search_offsets(w, importance, 32, 0, 15)
    np.testing.assert_array_equal(w, before)


# ---- without data ----


def norm(w, level):
    return (np.abs(level.astype(float) - w) ** 0.7).sum(1)


@every_grid
def test_half_quadratic_splitting_lowers_the_norm(levels):
    """p = 0.7: never above the grid of least squares, from which it starts, and below it in a third of the groups."""
    w = weights(np.random.default_rng(14), 100, 32)
    level = []
    for scale, zero in (search_grid(w, None, 32, levels), hqq_grid(w, 32, levels)):
        q = np.clip(np.rint(w / scale) + zero, levels.qmin, levels.qmax)
        level.append(scale * (q - zero).astype(np.float32))
    before, after = (norm(w, part) for part in level)
    assert (after <= before * (1 + 1e-6)).all()
    assert (after < before * 0.9999).mean() > 1 / 3


def test_half_quadratic_splitting_of_offsets_lowers_the_norm():
    w = weights(np.random.default_rng(15), 100, 32)
    before, after = (
        norm(w, scale * np.clip(np.rint((w - offset) / scale), 0, 15) + offset)
        for scale, offset in (search_offsets(w, None, 32, 0, 15), hqq_offsets(w, 32, 0, 15))
    )
    assert (after <= before * (1 + 1e-6)).all()
    assert (after < before * 0.9999).mean() > 1 / 3


@pytest.mark.parametrize("power", [-60, 70])
def test_half_quadratic_grids_scale_with_the_weights(power):
    w = weights(np.random.default_rng(16), 20, 32)
    (scale, zero), (times, same) = (hqq_grid(x, 32, LEVELS["int4 affine"]) for x in (w, np.ldexp(w, power)))
    np.testing.assert_array_equal(times, np.ldexp(scale, power))
    np.testing.assert_array_equal(same, zero)
    lines = [hqq_offsets(x, 32, 0, 15) for x in (w, np.ldexp(w, power))]
    np.testing.assert_array_equal(lines[1], np.ldexp(lines[0], power))


@pytest.mark.parametrize("largest", [0, 1e-45, 2e-38, 3.4e38])
def test_half_quadratic_grids_are_normal(largest):
    w = (np.clip(np.random.default_rng(17).standard_normal((50, 16)), -1, 1) * largest).astype(np.float32)
    for levels in LEVELS.values():
        parts = *hqq_grid(w, 16, levels), *hqq_offsets(w, 16, min(levels.qmin, 0), levels.qmax)
        assert all(np.isfinite(part).all() for part in parts)
        assert (np.minimum(parts[0], parts[2]) >= np.finfo(np.float32).tiny).all()


def test_importance_without_data():
    """Every input contributes alike, so a factor of a column and its square cancel."""
    w = weights(np.random.default_rng(18), 40, 8)
    importance = assumed_importance(w)
    np.testing.assert_allclose(importance * (w**2).mean(0), importance[0] * (w[:, 0] ** 2).mean(), rtol=1e-5)
    assert importance.max() == 1
    assert importance.dtype == np.float32
    np.testing.assert_array_equal(assumed_importance(np.ldexp(w, -80)), importance)
    w[:, 3], w[0, 5] = 0, np.inf
    assert list(np.flatnonzero(assumed_importance(w) == 0)) == [3, 5]
    for shape in ((0, 3), (3, 0)):
        assert assumed_importance(np.zeros(shape, np.float32)).shape == (shape[1],)
    assert not assumed_importance(np.zeros((2, 3), np.float32)).any()


# ---- the codes of a scheme ----


@pytest.mark.parametrize(
    ("name", "scheme", "levels"),
    [
        ("int4", "symmetric", (-7, 7, 0, 0)),
        ("int4", "affine", (-8, 7, -8, 7)),
        ("int4", "full", (-8, 7, -1, 0)),
        ("uint4", "symmetric", (1, 15, 8, 8)),
        ("uint4", "affine", (0, 15, 0, 15)),
        ("uint4", "full", (0, 15, 7, 8)),
        ("int2", "symmetric", (-1, 1, 0, 0)),
        ("int8", "full", (-128, 127, -1, 0)),
    ],
)
def test_levels_of_a_scheme(name, scheme, levels):
    assert Levels.of(code_type(name), scheme) == levels


def test_full_range_gives_the_longer_side_its_code():
    """The weight of largest magnitude is met by the code -8, or 7 with the zero point -1, as a signed scale would."""
    ramp = np.arange(-8, 8, dtype=np.float32)
    scale, zero = search(np.stack([ramp, -ramp]) * 0.5, None, LEVELS["int4 full"])
    np.testing.assert_array_equal(scale, [0.5, 0.5])
    np.testing.assert_array_equal(zero, [0, -1])


def test_unsigned_grids_are_signed_ones_shifted():
    w = weights(np.random.default_rng(13), 30, 32)
    for scheme in ("symmetric", "affine", "full"):
        scale, zero = search(w, None, Levels.of(code_type("int4"), scheme))
        same, shifted = search(w, None, Levels.of(code_type("uint4"), scheme))
        np.testing.assert_array_equal(same, scale)
        np.testing.assert_array_equal(shifted, zero + 8)
