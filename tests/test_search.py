"""EmbeddingIndex: scores against exact fractions, ranks against brute force, edges, and refusals."""

import pickle
from fractions import Fraction
from itertools import pairwise

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


def test_scores_are_exact_sums_times_both_scales(row):
    """float32(acc) * float32(query scale * row scale), and ranks of exact fractions never reverse by more than that."""
    index = EmbeddingIndex(X)
    scores, ids = index.query(QUERIES, k=700)
    q, x = qn.quantize(QUERIES, granularity=qn.PerRow()), index.codes
    acc = q.codes.astype(np.int64) @ x.codes.astype(np.int64).T
    want = acc.astype(np.float32) * (q.scale[:, None] * x.scale)
    assert np.take_along_axis(want, ids, 1).tobytes() == scores.tobytes()
    assert np.array_equal(ids, best_ids(want, 700))
    exact = [
        Fraction(int(a)) * Fraction(float(q.scale[0])) * Fraction(float(s))
        for a, s in zip(acc[0], x.scale, strict=True)
    ]
    in_order = [exact[i] for i in ids[0]]
    assert all(a >= b - abs(b) / 2**22 for a, b in pairwise(in_order))  # three roundings of 2^-24 on each side


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
    (lambda: EmbeddingIndex(X, "int4"), "EmbeddingIndex: dtype must be int8 or binary; got 'int4'."),
    (lambda: EmbeddingIndex(X, metric="dot"), "EmbeddingIndex: metric must be ip, cosine or l2; got 'dot'."),
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
