"""The best rows of each query against a sort of all scores, which the twin computes one by one."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import _core
from qnumpy.ops.nearest import Best, dot_candidates, squared_norms
from qnumpy.testing import nearest as twin


def assert_same(best, expected):
    """As -0 and 0 are one score, their bytes may differ."""
    for got, want in zip(best.sorted(), expected.sorted(), strict=True):
        assert got.dtype == want.dtype
        assert np.array_equal(got, want)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [0, 1, 5, 300, 2000])
def test_best_of_sums(row, k, threads):
    """Few values: most scores are equal, within a block and between blocks."""
    rng = np.random.default_rng(k)
    n, sums = 1500, rng.integers(-3, 4, (7, 1500), dtype=np.int32) * 1_000_003
    factor, scale = rng.random(7), rng.choice([0.5, 1.5, 1e-30], n)
    offset = rng.choice([-1e6, 0, 2.5], n)
    for added in (None, offset):
        best, expected = Best(7, k), twin.Best(7, k)
        with qn.threads(threads):
            for start, stop in ((0, 0), (0, 1), (1, 40), (40, 1500)):
                part = slice(start, stop)
                block = (
                    np.ascontiguousarray(sums[:, part]),
                    factor,
                    scale[part],
                    None if added is None else added[part],
                )
                best.offer_sums(*block)
                expected.offer_sums(*block)
        assert_same(best, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("nbytes", [0, 1, 3, 7, 8, 9, 13, 16, 24, 31, 32, 40, 48, 56, 64, 71, 96, 129, 20000])
def test_best_of_bits(row, nbytes, threads):
    rng = np.random.default_rng(nbytes)
    rows, queries = (rng.integers(0, 256, (n, nbytes), dtype=np.uint8) for n in (90, 5))
    rows[3] = queries[0]
    best, expected = Best(5, 10), twin.Best(5, 10)
    with qn.threads(threads):
        for block in (rows[:20], rows[20:]):
            best.offer_bits(block, queries)
            expected.offer_bits(block, queries)
    assert_same(best, expected)


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("k", [1, 10, 400])
def test_threads_share_the_rows_of_a_few_queries(k, queries):
    """2-bit distances: the parts of the threads hold many equal ones, of which the lower ids count."""
    rng = np.random.default_rng(k)
    rows = np.packbits(rng.random((90_000, 72)) < 0.02, axis=1)
    asked = rows[:queries] ^ np.uint8(1)
    results = []
    for threads in (1, 2, 3, 7):
        best = Best(queries, k)
        with qn.threads(threads):
            best.offer_bits(rows[:70], asked)  # fewer than k, or more
            best.offer_bits(rows[70:], asked)
        results.append(best.sorted())
    expected = twin.Best(queries, k)
    expected.offer_bits(rows, asked)
    for scores, ids in results:
        assert np.array_equal(scores, expected.sorted()[0])
        assert np.array_equal(ids, expected.sorted()[1])


def test_dot_candidates(row):
    rng = np.random.default_rng(5)
    for d in (0, 1, 15, 16, 17, 70):
        x, rows = rng.standard_normal((3, d), np.float32), rng.standard_normal((6, d), np.float32)
        ids = rng.integers(0, 6, (3, 4))
        assert dot_candidates(x, rows, ids).tobytes() == twin.dot_candidates(x, rows, ids).tobytes()
        assert squared_norms(x).tobytes() == twin.dot_candidates(x, x, np.arange(3)[:, None]).tobytes()


def test_ids_outside_the_rows_are_refused():
    x, out = np.ones((1, 4), np.float32), np.empty((1, 1))
    for outside in (-1, 1):
        with pytest.raises(ValueError, match=r"^qnumpy\._core: an id is outside the rows\.$"):
            _core.dot_candidates(x, x, np.array([[outside]]), 1, 1, 1, 4, out)
