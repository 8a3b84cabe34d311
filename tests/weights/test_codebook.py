"""qn.weights.codebook: NF4, k-means and levels of least output error."""

import itertools

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops import codebook as ops
from qnumpy.ops.rounding import damped

F32 = np.float32
RNG = np.random.default_rng(3)
W = RNG.normal(size=(24, 96)).astype(F32)
X = (RNG.normal(size=(400, 96)) @ RNG.normal(size=(96, 96)) + 1).astype(F32)
MOMENTS = qn.MomentsObserver().observe(X)


def error(q, w=W):
    return float(np.square(q.dequantize("float64") - w).sum())


def output_error(q, w=W):
    return float(np.square(X.astype(float) @ (q.dequantize("float64") - w).T).sum())


def best_levels(x, weights, count):
    """The least squared error of any levels: clusters of sorted numbers are neighbours."""
    order = np.argsort(x)
    x, weights = x[order].astype(float), weights[order].astype(float)
    least = np.inf
    for cuts in itertools.combinations(range(1, len(x)), count - 1):
        parts = np.split(np.arange(len(x)), cuts)
        means = [np.average(x[part], weights=weights[part]) for part in parts]
        least = min(least, sum((weights[p] * (x[p] - m) ** 2).sum() for p, m in zip(parts, means, strict=True)))
    return least


def test_k_means_is_the_minimum_of_all_clusters():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, weights = rng.normal(size=(1, 11)).astype(F32), rng.uniform(0.1, 4, 11).astype(F32)
        for count in (2, 3, 4):
            levels = ops.cluster_rows(x, weights, count)
            distance = np.abs(x[0][:, None] - levels[0]).min(1).astype(float)
            assert (weights * distance**2).sum() <= best_levels(x[0], weights, count) * (1 + 1e-5)


def test_k_means_of_a_long_row_is_settled():
    w = RNG.standard_t(4, size=(1, 40_000)).astype(F32)
    levels = ops.cluster_rows(w, None, 16)[0].astype(float)
    nearest = np.abs(w[0][:, None] - levels).argmin(1)
    means = np.array([w[0][nearest == k].mean(dtype=float) for k in range(16)])
    np.testing.assert_allclose(levels, means, rtol=1e-4, atol=1e-5)
    assert (
        np.square(w[0] - levels[nearest]).mean()
        < np.square(np.quantile(w[0], (np.arange(16) + 0.5) / 16)[nearest] - w[0]).mean()
    )


def test_fewer_values_than_levels_are_exact():
    w = np.array([[1, 2, 1, 3], [5, 5, 5, 5]], F32)
    q = qn.weights.codebook(w, method="kmeans", bits=2)
    np.testing.assert_array_equal(q.dequantize(), w)


def test_nf4_is_that_of_qlora():
    q = qn.weights.codebook(W, scale="absmax", granularity=qn.PerGroup(32))
    largest = np.abs(W).reshape(24, 3, 32).max(-1)
    np.testing.assert_array_equal(q.scale, largest)
    distance = np.abs((W.reshape(24, 3, 32) / largest[..., None])[..., None] - ops.NF4)
    codes = q.codes.astype(int).reshape(24, 3, 32)
    assert (np.take_along_axis(distance, codes[..., None], -1)[..., 0] <= distance.min(-1) + 1e-7).all()
    assert q.codebook is not None
    assert q.granularity == qn.PerTensor()
    assert error(qn.weights.codebook(W, granularity=qn.PerGroup(32))) < error(q)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_of_least_output_error_beat_k_means(bits):
    plain = qn.weights.codebook(W, method="kmeans", bits=bits)
    weighted = qn.weights.codebook(W, method="kmeans", bits=bits, moments=MOMENTS)
    fitted = qn.weights.codebook(W, method="lnq", bits=bits, moments=MOMENTS, damping=0.01)
    assert output_error(fitted) < 0.7 * min(output_error(plain), output_error(weighted))
    assert error(plain) <= error(fitted)


def test_nf4_with_moments_changes_outputs_less():
    near = qn.weights.codebook(W)
    fitted = qn.weights.codebook(W, moments=MOMENTS, damping=0.01)
    assert output_error(fitted) < 0.7 * output_error(near)


def test_no_single_code_lowers_the_objective():
    h = MOMENTS.covariance(centered=False)
    levels = ops.LevelTables.plain(ops.cluster_rows(W, None, 8), 96)
    chosen = ops.choose_codes(W, h, levels, damping=0.1, fits_levels=True)
    assert (chosen.after <= chosen.before).all()
    assert (np.diff(chosen.levels.levels, axis=1) >= 0).all()
    spread, _, order, _ = damped(h, 0.1)
    spread = spread[np.ix_(np.argsort(order), np.argsort(order))]
    for row in range(4):
        table, codes = chosen.levels.levels[row].astype(float), chosen.codes[row]
        e = table[codes] - W[row]
        least = e @ spread @ e
        for column, code in itertools.product(range(0, 96, 5), range(8)):
            changed = e.copy()
            changed[column] += table[code] - table[codes[column]]
            assert changed @ spread @ changed >= least * (1 - 1e-9)


def test_levels_are_those_of_least_squares():
    h = X.astype(float).T @ X / len(X)
    levels = ops.cluster_rows(W, None, 4)
    codes = ops.LevelTables.plain(levels, 96).nearest(W)
    same, fitted = ops.refit_levels(W, h, codes, levels)
    root = np.linalg.cholesky(h).T
    for row in range(len(W)):
        hot = np.eye(4)[same[row]]
        best = np.linalg.lstsq(root @ hot, root @ W[row].astype(float), rcond=None)[0]
        e, mine = hot @ best - W[row], fitted[row][same[row]].astype(float) - W[row]
        assert mine @ h @ mine <= (e @ h @ e) * (1 + 1e-6)


def test_a_permutation_of_the_inputs_permutes_the_codes():
    order = RNG.permutation(96)
    moments = qn.MomentsObserver().observe(X)
    one = qn.weights.codebook(W, method="lnq", moments=moments)
    moments.mean_, moments.scatter_ = moments.mean_[order], np.ascontiguousarray(moments.scatter_[np.ix_(order, order)])
    other = qn.weights.codebook(W[:, order], method="lnq", moments=moments)
    np.testing.assert_array_equal(one.codes[:, order], other.codes)
    np.testing.assert_array_equal(one.codebook, other.codebook)


@pytest.mark.parametrize("method", ["nf4", "kmeans", "lnq"])
def test_threads_change_no_bit(method):
    w, x = RNG.normal(size=(70, 130)).astype(F32), RNG.normal(size=(300, 130)).astype(F32)
    moments = qn.MomentsObserver().observe(x)
    results = []
    for threads in (1, 2, 3):
        with qn.threads(threads):
            results.append(qn.weights.codebook(w, method=method, moments=moments))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("method", ["nf4", "kmeans", "lnq"])
def test_axes_and_types(method):
    granularity = qn.PerGroup(64, 0) if method == "nf4" else qn.PerChannel(1)
    one = qn.weights.codebook(W, method=method, moments=MOMENTS)
    other = qn.weights.codebook(W.T.astype(">f8"), method=method, moments=MOMENTS, granularity=granularity)
    np.testing.assert_array_equal(one.dequantize(), other.dequantize().T)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3,), (1, 1), (2, 3, 4)])
@pytest.mark.parametrize("method", ["nf4", "kmeans"])
def test_shapes(method, shape):
    q = qn.weights.codebook(np.ones(shape, F32), method=method)
    np.testing.assert_array_equal(q.dequantize(), np.ones(shape, F32))


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("method", ["nf4", "kmeans", "lnq"])
def test_sizes(method, size):
    w = (RNG.uniform(-1, 1, (4, 96)) * size).astype(F32)
    q = qn.weights.codebook(w, method=method, moments=MOMENTS if method == "lnq" else None)
    assert np.isfinite(q.dequantize()).all()
    assert np.abs(q.dequantize("float64") - w).max() < 0.8 * size


def test_inputs_that_are_always_zero():
    x = X.copy()
    x[:, ::7] = 0
    q = qn.weights.codebook(W, method="lnq", moments=qn.MomentsObserver().observe(x))
    levels = q.codebook.astype(float)
    nearest = np.abs(W[:, ::7, None] - levels[:, None]).min(-1)
    taken = np.abs(q.dequantize("float64") - W)[:, ::7]
    assert taken.mean() < 2 * nearest.mean() + 0.1


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "nf5"}, "codebook: method must be one of 'nf4', 'kmeans', 'lnq'; got 'nf5'."),
    ({"bits": 3}, "codebook: bits must be 4 for 'nf4'; got 3."),
    ({"method": "kmeans", "bits": 9}, "codebook: bits must be in [2, 8]; got 9."),
    ({"method": "lnq"}, "codebook: moments must be a MomentsObserver for 'lnq'; got None."),
    ({"method": "lnq", "granularity": qn.PerTensor()},
     "codebook: granularity must be PerChannel(axis) for 'lnq'; got PerTensor()."),
    ({"method": "kmeans", "granularity": qn.PerGroup(8)},
     "codebook: granularity must be PerChannel(axis), PerRow() or PerTensor() for 'kmeans'; got "
     "PerGroup(group_size=8, axis=-1)."),
    ({"method": "kmeans", "scale": "absmax"},
     "codebook: scale must be 'search' unless method is 'nf4' without moments; got 'absmax'."),
    ({"damping": -1}, "codebook: damping must be in [0, 1000000]; got -1."),
    ({"w": np.full((2, 2), np.nan, F32)}, "codebook: w must be finite; got nan."),
])  # fmt: skip
def test_wrong_arguments(options, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        qn.weights.codebook(**{"w": W, **options})
    assert str(caught.value) == message
