"""The best rows of each query against a sort of all scores, which NumPy computes one by one."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.nearest import Best, dot_candidates


def sorted_scores(scores, k):
    """The best k of float32 scores (M, N): the larger first, of equal ones the lower id."""
    ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((ids, -scores))[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [0, 1, 5, 300, 2000])
def test_best_of_sums(row, k, threads):
    """Few values: most scores are equal, within a block and between blocks."""
    rng = np.random.default_rng(k)
    n, sums = 1500, rng.integers(-3, 4, (7, 1500), dtype=np.int32) * 1_000_003
    factor, scale = rng.random(7, np.float32), rng.choice([0.5, 1.5], n).astype(np.float32)
    offset = rng.choice([-1e6, 0, 2.5], n).astype(np.float32)
    for added in (None, offset):
        best = Best(7, k)
        with qn.threads(threads):
            for start, stop in ((0, 0), (0, 1), (1, 40), (40, 1500)):
                part = slice(start, stop)
                best.offer_sums(
                    np.ascontiguousarray(sums[:, part]), factor, scale[part], None if added is None else added[part]
                )
        scores = sums.astype(np.float32) * (factor[:, None] * scale)
        want, order = sorted_scores(scores if added is None else scores + added, k)
        got, ids = best.sorted()
        assert got.tobytes() == want.tobytes()
        assert np.array_equal(ids, order)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("nbytes", [0, 1, 3, 8, 16, 24, 32, 48, 64, 71, 20000])
def test_best_of_bits(row, nbytes, threads):
    rng = np.random.default_rng(nbytes)
    rows, queries = (rng.integers(0, 256, (n, nbytes), dtype=np.uint8) for n in (90, 5))
    rows[3] = queries[0]
    best = Best(5, 10)
    with qn.threads(threads):
        best.offer_bits(rows[:20], queries)
        best.offer_bits(rows[20:], queries)
    distances = np.bitwise_count(queries[:, None] ^ rows).sum(-1, dtype=np.int64)
    want, order = sorted_scores(-distances.astype(np.float32), 10)
    got, ids = best.sorted()
    assert np.array_equal(got, want)
    assert np.array_equal(ids, order)


def test_dot_candidates(row):
    rng = np.random.default_rng(5)
    for d in (0, 1, 15, 16, 17, 70):
        x, rows = rng.standard_normal((3, d), np.float32), rng.standard_normal((3, 4, d), np.float32)
        want = np.zeros((3, 4, 16))
        for i in range(d):
            want[..., i % 16] += x[:, None, i].astype(np.float64) * rows[..., i]
        for half in (8, 4, 2, 1):
            want[..., :half] += want[..., half : 2 * half]
        assert dot_candidates(x, rows).tobytes() == want[..., 0].tobytes()
