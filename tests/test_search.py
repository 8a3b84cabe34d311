"""EmbeddingIndex: scores against exact fractions, ranks against brute force, edges, and refusals."""

import copy
import pickle
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.search import EmbeddingIndex


def embeddings(n, d, seed=0):
    """Rows around a few centres, of lengths from 0.1 to 10, as real embeddings are."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20, d))[rng.integers(0, 20, n)] + 0.5 * rng.standard_normal((n, d))
    return (rows * 10 ** rng.uniform(-1, 1, (n, 1))).astype(np.float32)


X, QUERIES = embeddings(700, 48), embeddings(9, 48, seed=1)


def float_scores(q, x, metric):
    q, x = q.astype(np.float64), x.astype(np.float64)
    if metric == "ip":
        return q @ x.T
    if metric == "cosine":
        return q @ x.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    return -((q[:, None] - x) ** 2).sum(-1)


def best_ids(scores, k):
    ids = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.lexsort((ids, -scores))[:, :k]


def fractions_of(q):
    """The codes as Python integers and the scale of each row as a fraction."""
    return q.codes.tolist(), [Fraction(float(scale)) for scale in q.scale.reshape(-1)]


def test_ranks_are_those_of_exact_fractions(row):
    """Rows of nearly one score, and twins of them: float32 would round many of them to one number."""
    rng = np.random.default_rng(3)
    x = np.resize(X[:30], (300, 48)) * (1 + rng.integers(-3, 4, (300, 1)) * 2.0**-23)
    index = EmbeddingIndex(x)
    scores, ids = index.query(QUERIES, k=300)
    queries, query_scales = fractions_of(qn.quantize(QUERIES, granularity=qn.PerRow()))
    rows, scales = fractions_of(index.codes)
    for i, q in enumerate(queries):
        exact = [
            sum(a * b for a, b in zip(q, r, strict=True)) * query_scales[i] * s
            for r, s in zip(rows, scales, strict=True)
        ]
        assert ids[i].tolist() == sorted(range(300), key=lambda j: (-exact[j], j))
        want = np.array([float(exact[j]) for j in ids[i]])
        # float64 rounds the product with the scale of the query, then float32 rounds that.
        assert np.allclose(scores[i], want, rtol=2**-24 * (1 + 2**-20), atol=0)


def test_distances_and_cosines_are_those_of_dequantized_rows(row):
    q = qn.quantize(QUERIES, granularity=qn.PerRow()).dequantize().astype(np.float64)
    for metric in ("cosine", "l2"):
        index = EmbeddingIndex(X, metric=metric)
        scores, ids = index.query(QUERIES, k=700)
        x = qn.dequantize(index.codes).astype(np.float64)
        exact = np.abs(float_scores(q, x, metric)) if metric == "l2" else float_scores(q, x, metric)
        # dequantize rounds to float32: 2^-24 of each factor.
        assert np.allclose(scores, np.take_along_axis(exact, ids, 1), rtol=2**-21, atol=2**-21)


def test_a_row_is_at_distance_0_and_cosine_1_of_itself():
    for metric, want in (("l2", 0), ("cosine", 1)):
        index = EmbeddingIndex(X, metric=metric)
        for rescore, vectors in ((None, None), (2, None), (2, X)):
            rows = X if rescore is None or vectors is not None else qn.dequantize(index.codes)
            scores, ids = index.query(rows, 1, rescore, vectors=vectors)
            assert np.array_equal(ids[:, 0], np.arange(700))
            if not (metric == "l2" and vectors is None and rescore):  # the dequantized row was rounded to float32
                assert (scores == want).all(), (metric, rescore)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_ranks_of_scores_beyond_float32(metric, size):
    index, plain = EmbeddingIndex(X * np.float32(size), metric=metric), EmbeddingIndex(X, metric=metric)
    for rescore in (None, 3):
        scores, ids = index.query(QUERIES * np.float32(size), 20, rescore)
        _, same = plain.query(QUERIES, 20, rescore)
        assert np.mean(ids == same) > 0.95  # the factor is no power of two: some codes differ
        assert (np.abs(scores) <= 1.001).all() if metric == "cosine" else np.isin(scores, [0, np.inf, -np.inf]).all()


@pytest.mark.parametrize("dtype", ["int8", "binary"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_rescoring_with_the_vectors_finds_what_brute_force_finds(dtype, metric):
    index = EmbeddingIndex(X, dtype, metric=metric)
    scores, ids = index.query(QUERIES, 5, rescore=140, vectors=X)  # every row is a candidate
    exact = float_scores(QUERIES, X, metric)
    assert np.array_equal(ids, best_ids(exact, 5))
    sign = -1 if metric == "l2" else 1
    # Sums of 48 products in float64 in two orders, and one rounding to float32.
    assert np.allclose(scores, sign * np.take_along_axis(exact, ids, 1), rtol=2**-23, atol=0)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_rescoring_with_the_stored_rows(metric):
    index = EmbeddingIndex(X, metric=metric)
    scores, ids = index.query(QUERIES, 5, rescore=140)
    stored = index.codes.codes.astype(np.float64) * index.codes.scale.astype(np.float64)[:, None]
    exact = float_scores(QUERIES, stored, metric)
    assert np.array_equal(ids, best_ids(exact, 5))
    sign = -1 if metric == "l2" else 1
    # As above; the distance of near rows cancels, relative to the norms, which are below 2^14.
    assert np.allclose(scores, sign * np.take_along_axis(exact, ids, 1), rtol=2**-23, atol=2.0**-38)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_metrics_of_codes(metric):
    """Without rescoring the error of a score is that of the quantized query and row."""
    index = EmbeddingIndex(X, metric=metric)
    _, ids = index.query(X[:50], 1)
    assert (ids[:, 0] == np.arange(50)).all()


def test_ranks_of_rows_with_different_scales():
    """Raw codes of both rows are alike; the scales tell them apart."""
    x = np.outer([1, 100, 1e-30, -3], np.linspace(0.5, 1, 16)).astype(np.float32)
    _, ids = EmbeddingIndex(x).query(np.ones(16), 4)
    assert ids.tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_added_rows_equal_rows_given_at_once(dtype):
    whole = EmbeddingIndex(X, dtype, metric="l2")
    parts = EmbeddingIndex(X[:1], dtype, metric="l2").add(X[1:1]).add(X[1:300]).add(X[300:])
    assert len(parts) == 700
    for left, right in zip(whole.query(QUERIES, 20, 3), parts.query(QUERIES, 20, 3), strict=True):
        assert left.tobytes() == right.tobytes()
    assert whole.nbytes == parts.nbytes


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_results_do_not_depend_on_isa_threads_and_batches(dtype, row):
    index = EmbeddingIndex(X, dtype)
    with qn.threads(1):
        scores, ids = index.query(QUERIES, 30, 2)
    with qn.threads(2):
        again, same = index.query(QUERIES, 30, 2)
    one, single = index.query(QUERIES[4], 30, 2)
    qn.set_isa("scalar")
    plain, of_scalar = index.query(np.asfortranarray(QUERIES), 30, 2)
    qn.set_isa(row)
    assert scores.tobytes() == again.tobytes() == plain.tobytes()
    assert ids.tobytes() == same.tobytes() == of_scalar.tobytes()
    assert scores[4].tobytes() == one.tobytes()
    assert ids[4].tobytes() == single.tobytes()


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_codes_make_the_same_index_again(dtype, tmp_path):
    index = EmbeddingIndex(X[:, :45], dtype, metric="cosine")
    qn.save(tmp_path / "index.safetensors", {"rows": index.codes})
    codes = qn.load(tmp_path / "index.safetensors")["rows"]
    dim = 45 if dtype == "binary" else None
    for other in (EmbeddingIndex.from_codes(codes, dim=dim, metric="cosine"), pickle.loads(pickle.dumps(index))):
        assert repr(other) == repr(index)
        for left, right in zip(index.query(QUERIES[:, :45]), other.query(QUERIES[:, :45]), strict=True):
            assert left.tobytes() == right.tobytes()


def test_bits_are_signs_and_unused_ones_do_not_count():
    x = np.array([[1, -1, 0, 2, 3, -4, 5, 6, 7, -1]], np.float32)
    index = EmbeddingIndex(x, "binary")
    assert index.codes.tolist() == [[0b10011011, 0b10000000]]
    assert index.query(-x[0], 1)[0] == [9]  # the 0 has no bit either way
    noisy = EmbeddingIndex.from_codes(index.codes | np.array([0, 63], np.uint8), dim=10)
    assert noisy.query(x[0], 1)[0] == [0]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_real_types(dtype):
    index = EmbeddingIndex(X.astype(dtype))
    same = EmbeddingIndex(X.astype(dtype).astype(np.float32))
    assert index.codes == same.codes


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_rows_added_one_by_one_and_copies_that_grow_apart(dtype):
    index = EmbeddingIndex(X[:0], dtype, metric="cosine")
    for row in X[:100]:
        index.add(row[None])
    other = copy.copy(index)
    assert len(pickle.dumps(index)) < index.nbytes + 2000  # no spare room
    index.add(X[100:103])
    other.add(X[200:202])
    index.add(X[103:104])
    assert (len(index), len(other)) == (104, 102)
    for grown, rows in ((index, X[:104]), (other, X[np.r_[:100, 200:202]])):
        for left, right in zip(
            grown.query(QUERIES), EmbeddingIndex(rows, dtype, metric="cosine").query(QUERIES), strict=True
        ):
            assert left.tobytes() == right.tobytes()


def test_a_refused_row_leaves_the_index_as_it_was():
    index = EmbeddingIndex(X)
    with pytest.raises(ValueError, match="finite"):
        index.add(np.r_[X[:2], np.full((1, 48), np.nan, np.float32)])
    assert len(index) == 700
    assert index.codes == EmbeddingIndex(X).codes


def test_codes_are_read_only():
    """The norms of the rows were computed from them."""
    index = EmbeddingIndex(X, metric="cosine")
    with pytest.raises(ValueError, match="read-only"):
        index.codes.codes[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        EmbeddingIndex(X, "binary").codes[0] = 0
    index.add(X[:1])  # still grows


def test_vectors_of_every_kind(tmp_path):
    """float64, a memory map of float16, a list, reversed rows, and an array on which only some ids are read."""
    da = pytest.importorskip("dask.array")
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    half = np.load(tmp_path / "x.npy", mmap_mode="r")
    index = EmbeddingIndex(X, "binary")
    want = index.query(QUERIES, 5, 20, vectors=X)
    for vectors in (X.astype(np.float64), X.tolist(), X[::-1].copy()[::-1], np.asfortranarray(X), da.from_array(X)):
        for left, right in zip(index.query(QUERIES, 5, 20, vectors=vectors), want, strict=True):
            assert left.tobytes() == right.tobytes()
    of_half = index.query(QUERIES, 5, 20, vectors=half)
    for left, right in zip(of_half, index.query(QUERIES, 5, 20, vectors=np.array(half)), strict=True):
        assert left.tobytes() == right.tobytes()


def test_many_queries_and_many_candidates():
    """More queries than are scored together; more candidates than are gathered at a time."""
    x = embeddings(3000, 100, seed=4)
    index, queries = EmbeddingIndex(x, metric="l2"), embeddings(300, 100, seed=5)
    _, ids = index.query(queries, 3000, 1, vectors=x)
    exact = float_scores(queries, x, "l2")
    assert np.array_equal(np.sort(ids, axis=1), np.broadcast_to(np.arange(3000), ids.shape))
    assert np.array_equal(ids[:, :20], best_ids(exact, 20))
    assert index.query(queries[299])[1].tolist() == index.query(queries)[1][299].tolist()


def test_edges():
    empty = EmbeddingIndex(np.empty((0, 4), np.float32))
    assert [part.shape for part in empty.query(np.ones((3, 4)))] == [(3, 0), (3, 0)]
    index = EmbeddingIndex(np.zeros((3, 4), np.float32), metric="cosine")
    scores, ids = index.query(np.zeros((2, 4)), k=9, rescore=2)
    assert scores.tolist() == [[0.0] * 3] * 2
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert [part.shape for part in index.query(np.empty((0, 4)), k=2)] == [(0, 2), (0, 2)]


REFUSED = [
    (lambda: EmbeddingIndex(np.ones(4)), "EmbeddingIndex: x must be of shape (n, D); got shape (4,)."),
    (lambda: EmbeddingIndex(np.ones((2, 0))), "EmbeddingIndex: x must be of shape (n, D); got shape (2, 0)."),
    (
        lambda: EmbeddingIndex(np.array([[1, np.nan]])),
        "EmbeddingIndex: x must be finite in float32; got NaN or numbers beyond its range.",
    ),
    (
        lambda: EmbeddingIndex(np.array([[1e300]])),
        "EmbeddingIndex: x must be finite in float32; got NaN or numbers beyond its range.",
    ),
    (lambda: EmbeddingIndex(X, "int4"), "EmbeddingIndex: dtype must be one of 'int8', 'binary'; got 'int4'."),
    (
        lambda: EmbeddingIndex(X, metric="dot"),
        "EmbeddingIndex: metric must be one of 'ip', 'cosine', 'l2'; got 'dot'.",
    ),
    (
        lambda: EmbeddingIndex(np.zeros((1, 131_072), np.float32)),
        "EmbeddingIndex: x must be of at most 131071 columns for int8; got shape (1, 131072).",
    ),
    (
        lambda: EmbeddingIndex(X).query(X[0], 1, 1, vectors=np.full(X.shape, np.nan)),
        "EmbeddingIndex.query: vectors must be finite in float32; got NaN or numbers beyond its range.",
    ),
    (
        lambda: EmbeddingIndex(X).query(np.float32(1)),
        "EmbeddingIndex.query: q must be of shape (n, 48); got shape ().",
    ),
    (
        lambda: EmbeddingIndex(X).query(X[None]),
        "EmbeddingIndex.query: q must be of shape (n, 48); got shape (1, 700, 48).",
    ),
    (lambda: EmbeddingIndex(X).add(X[:, 1:]), "EmbeddingIndex.add: x must be of shape (n, 48); got shape (700, 47)."),
    (
        lambda: EmbeddingIndex(X).query(X[0, 1:]),
        "EmbeddingIndex.query: q must be of shape (n, 48); got shape (1, 47).",
    ),
    (lambda: EmbeddingIndex(X).query(X[0], 0), "EmbeddingIndex.query: k must be 1 or more; got 0."),
    (lambda: EmbeddingIndex(X).query(X[0], 1, -1), "EmbeddingIndex.query: rescore must be 1 or more; got -1."),
    (
        lambda: EmbeddingIndex(X).query(X[0], vectors=X),
        "EmbeddingIndex.query: rescore must be given beside vectors; got None.",
    ),
    (
        lambda: EmbeddingIndex(X).query(X[0], 1, 2, vectors=X[1:]),
        "EmbeddingIndex.query: vectors must be of shape (700, 48); got shape (699, 48).",
    ),
    (
        lambda: EmbeddingIndex.from_codes(qn.quantize(X, granularity=qn.PerChannel(1))),
        "EmbeddingIndex.from_codes: codes must be of shape (N, D), per row or per tensor; got shape (700, 48) per "
        "channel 1.",
    ),
    (
        lambda: EmbeddingIndex.from_codes(np.zeros((2, 3), np.uint8), dim=16),
        "EmbeddingIndex.from_codes: dim must be from 17 to 24 for these codes; got 16.",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_refused_values(call, sentence):
    with pytest.raises(ValueError, match="must be") as error:
        call()
    assert str(error.value) == sentence


def test_refused_kinds():
    for call, sentence in (
        (
            lambda: EmbeddingIndex(X.astype(np.int32)),
            "EmbeddingIndex: x must be an array of float32, float64, float16 or bfloat16; got dtype int32.",
        ),
        (lambda: EmbeddingIndex(X).query(X[0], 1.5), "EmbeddingIndex.query: k must be an integer; got 1.5."),
        (
            lambda: EmbeddingIndex(X).query(X[0], rescore=True),
            "EmbeddingIndex.query: rescore must be an integer; got True.",
        ),
        (
            lambda: EmbeddingIndex(X).query(X[0], rescore=2, vectors=X.astype(np.int8)),
            "EmbeddingIndex.query: vectors must be an array of float32, float64, float16 or bfloat16; got dtype int8.",
        ),
        (
            lambda: EmbeddingIndex.from_codes(X),
            "EmbeddingIndex.from_codes: codes must be a QuantizedArray of int8 or an array of uint8; got dtype "
            "float32.",
        ),
        (
            lambda: EmbeddingIndex.from_codes(qn.quantize(X, dtype="uint8")),
            f"EmbeddingIndex.from_codes: codes must be of symmetric int8; got {qn.quantize(X, dtype='uint8').qparams}.",
        ),
    ):
        with pytest.raises(TypeError, match="must be") as error:
            call()
        assert str(error.value) == sentence
