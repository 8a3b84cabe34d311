"""Tables of levels against their twins."""

import numpy as np
import pytest

from qnumpy.ops import codebook as ops
from qnumpy.ops.codebook import LevelTables
from qnumpy.ops.gptq import column_order, inverse_factor
from qnumpy.testing import codebook as twin

F32 = np.float32
CASES = [(1, 1, 1), (3, 7, 4), (9, 40, 16), (2, 33, 33)]  # rows, columns, group size


def case(rows, columns, group_size, levels, shared):
    rng = np.random.default_rng(rows * columns + levels)
    x = rng.normal(size=(2 * columns + 2, columns)) @ rng.normal(size=(columns, columns))
    h = x.T @ x / len(x) + 0.01 * np.eye(columns)
    h = (h + h.T) / 2
    w = rng.normal(size=(rows, columns)).astype(F32)
    table = np.sort(rng.normal(size=levels if shared else (rows, levels)), axis=-1).astype(F32)
    scale = rng.uniform(0.5, 2, (rows, -(-columns // group_size))).astype(F32)
    return w, h, LevelTables(table, scale, group_size)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 5, 16, 256])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_codes(sizes, levels, shared):
    w, h, tables = case(*sizes, levels, shared)
    parameters = tables.levels, tables.scale, tables.group_size
    codes = tables.nearest(w)
    np.testing.assert_array_equal(codes, twin.nearest(w, *parameters))
    order = column_order(np.diag(h).copy(), 1)
    factor = inverse_factor(np.ascontiguousarray(h[np.ix_(order, order)]))
    np.testing.assert_array_equal(tables.columns(w, factor, order), twin.columns(w, *parameters, factor, order))
    found = tables.descended(w, h, codes)
    expected = twin.descended(w, h, *parameters, codes, 30)
    # the gradient is summed in another order, so that a tie may fall the other way
    mine, other = tables.objective(w, h, found), tables.objective(w, h, expected)
    assert (mine <= tables.objective(w, h, codes)).all()
    np.testing.assert_allclose(mine, other, rtol=1e-6)
    reals = tables.scale[:, np.arange(w.shape[1]) // tables.group_size] * np.take_along_axis(
        np.broadcast_to(tables.levels, (len(w), levels)), found.astype(int), 1
    )
    e = reals.astype(float) - w
    np.testing.assert_allclose(mine, ((e @ h) * e).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_scales(sizes, weighted):
    w, h, _ = case(*sizes, 16, True)
    w[0] = 0
    importance = h.diagonal().astype(F32) if weighted else None
    tables = LevelTables(ops.NF4, ops.largest_scales(w, sizes[2]), sizes[2]).searched(w, importance)
    np.testing.assert_array_equal(tables.scale, twin.searched(w, ops.NF4, importance, sizes[2]))
    assert (tables.scale[0] == 1).all()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_clusters(sizes, count, weighted):
    w, h, _ = case(*sizes, 2, True)
    w[-1] = np.round(w[-1])  # equal weights
    importance = h.diagonal().astype(F32) if weighted else None
    levels = ops.cluster_rows(w, importance, count)
    # sums in another order; one rounding to float32
    np.testing.assert_allclose(levels, twin.cluster_rows(w, importance, count), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("largest", [1e4, 1e8, 1e20, -1e30, 3e38])
def test_levels_ascend_beside_an_outlier(largest):
    w = np.random.default_rng(0).normal(size=(4, 200)).astype(F32)
    rest = np.sort(w[:, 1:])
    w[:, 0] = largest
    levels = ops.cluster_rows(w, None, 16)
    assert (np.diff(levels, axis=1) >= 0).all()
    own = levels[:, 1:] if largest < 0 else levels[:, :-1]
    assert (own >= rest[:, :1]).all()
    assert (own <= rest[:, -1:]).all()


def test_zeros_give_one_level_whatever_their_signs():
    w = np.array([[-0.0, 0.0, 1.0], [0.0, -0.0, 1.0], [-0.0, -0.0, 1.0]], F32)
    assert ops.cluster_rows(w, None, 2).tobytes() == np.array([[0.0, 1.0]] * 3, F32).tobytes()


def test_levels_where_weights_underflow():
    w = np.random.default_rng(0).normal(size=(1, 12)).astype(F32)
    levels = ops.cluster_rows(w, np.array([1e-44] + [0] * 11, F32), 4)
    assert (np.diff(levels, axis=1) >= 0).all()
    assert (levels >= w.min()).all()
    assert (levels <= w.max()).all()


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_levels(sizes):
    w, h, tables = case(*sizes, 4, False)
    codes, levels = ops.refit_levels(w, h, tables.nearest(w), tables.levels)
    expected_codes, expected = twin.refit_levels(w, h, tables.nearest(w), tables.levels)
    plain = [LevelTables.plain(table, w.shape[1]) for table in (levels, expected)]
    mine, other = plain[0].objective(w, h, codes), plain[1].objective(w, h, expected_codes)
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-9 * float(np.square(w).max()))  # levels are float32
    assert (np.diff(levels, axis=1) >= 0).all()


def test_scales_of_least_squares():
    w, h, tables = case(9, 40, 16, 16, True)
    codes = tables.nearest(w)
    before = tables.objective(w, h, codes)
    fitted = tables.refitted(w, h, codes)
    assert (fitted.objective(w, h, codes) <= before).all()
    assert (fitted.objective(w, h, codes) < 0.9 * before).any()
