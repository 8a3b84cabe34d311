"""Search in embeddings: rows of 8 bits or of 1 bit a number, and the nearest ones of float queries."""

from typing import Any, Literal, Self, TypeAlias

import numpy as np

from . import _args, _check
from ._typing import Array, Float32Array, Float64Array, Int64Array, RealLike, UInt8Array
from .arrays.quantized import QuantizedArray, quantize
from .granularity import PerChannel, PerRow, PerTensor
from .ops.matmul import integer_product
from .ops.nearest import Best, dot_candidates
from .ops.reduce import extremes
from .qparams import QParams

__all__ = ["EmbeddingIndex"]

Metric: TypeAlias = Literal["ip", "cosine", "l2"]

_METRICS = {"ip": 0, "cosine": 1, "l2": 2}
_DTYPES = {"int8": 0, "binary": 1}
_QUERIES = 256  # that are scored together
_SCORES = 1 << 18  # of a block of rows: they stay in the L2 cache
_CANDIDATES = 1 << 22  # numbers of the candidates that are gathered at a time
_NAME = "EmbeddingIndex"


class EmbeddingIndex:
    """Embeddings in int8 or in one bit a number, searched by float queries.

    Each row x has its own scale: ``x = scale * codes``, symmetric int8. A query is quantized in the same way, and its
    score with a row is ``float32(acc) * (query_scale * scale)``, where `acc` is the exact integer inner product. So
    scores of different rows compare, and no sum overflows unseen. Of two rows with one score the lower id comes first.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (N, D)
        Finite. Converted to float32.
    dtype : {"int8", "binary"}
        int8 takes D bytes and a scale for each row; binary one bit for each number, 1 where x > 0.
    metric : {"ip", "cosine", "l2"}
        Inner product; inner product over both norms (0 for a row of zeros); squared distance. A binary index finds rows
        by their Hamming distance and uses the metric when it rescores.

    Attributes
    ----------
    dtype, metric : str
    dim : int
        D.
    nbytes : int
        Bytes of the codes, their scales, and what the metric adds to them.
    codes : QuantizedArray of shape (N, D), or ndarray of uint8 of shape (N, ceil(D / 8))
        `save` takes them, `from_codes` makes an index of them. Bits are in the order of numpy.packbits.

    Raises
    ------
    TypeError
        x is not real.
    ValueError
        x is not 2-D, D is 0, or x has NaN or infinities; dtype or metric is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 64), dtype=np.float32)
    >>> index = EmbeddingIndex(x, metric="cosine")
    >>> scores, ids = index.query(x[[7, 42]], k=3)
    >>> ids[:, 0], scores.shape
    (array([ 7, 42]), (2, 3))
    >>> index
    EmbeddingIndex(1000 x 64, int8, cosine, 72,000 bytes)
    """

    def __init__(self, x: RealLike, dtype: Literal["int8", "binary"] = "int8", *, metric: Metric = "ip") -> None:
        rows = _rows(_NAME, "x", x, None)
        _args.choice(_NAME, "dtype", dtype, _DTYPES)
        _args.choice(_NAME, "metric", metric, _METRICS)
        self.dtype, self.metric, self.dim = dtype, metric, rows.shape[1]
        self._parts: list[tuple[Array, ...]] = []
        self._append(rows)

    @classmethod
    def from_codes(cls, codes: "QuantizedArray | UInt8Array", *, dim: int | None = None, metric: Metric = "ip") -> Self:
        """Make an index of codes, as the attribute `codes` returns them.

        Parameters
        ----------
        codes : QuantizedArray of int8, shape (N, D), or ndarray of uint8, shape (N, ceil(D / 8))
            A QuantizedArray is symmetric, with a scale for each row or for the tensor.
        dim : int, optional
            D of packed bits; 8 for each byte by default.
        metric : {"ip", "cosine", "l2"}

        Raises
        ------
        TypeError
            codes are of another kind; dim is not an integer.
        ValueError
            codes are not 2-D or of another granularity; dim does not fit them; metric is unknown.

        Examples
        --------
        >>> index = EmbeddingIndex(np.eye(4, dtype=np.float32), "binary")
        >>> EmbeddingIndex.from_codes(index.codes, dim=4).query(np.eye(4)[2], k=1)
        (array([0.], dtype=float32), array([2]))
        """
        owner = f"{_NAME}.from_codes"
        _args.choice(owner, "metric", metric, _METRICS)
        index = object.__new__(cls)
        index.metric, index._parts = metric, []
        if isinstance(codes, QuantizedArray):
            _check_codes(owner, codes)
            index.dtype, index.dim = "int8", codes.shape[1]
            if dim is not None and _check.integer(owner, "dim", dim) != index.dim:
                raise ValueError(_check.must(owner, "dim", f"left out or {index.dim} for these codes", str(dim)))
            scale = np.array(np.broadcast_to(codes.scale.reshape(-1), len(codes)))
            index._parts.append(index._with_metric(np.array(codes.codes, order="C"), scale))
            return index
        bits = _check.array(owner, "codes", codes)
        if bits.dtype != np.uint8:
            requirement = "a QuantizedArray of int8 or an array of uint8"
            raise TypeError(_check.must(owner, "codes", requirement, _check.got(codes, bits)))
        if bits.ndim != 2 or not bits.shape[1]:
            raise ValueError(_check.must(owner, "codes", "of shape (N, bytes of a row)", f"shape {bits.shape}"))
        index.dtype, index.dim = "binary", 8 * bits.shape[1] if dim is None else _check.integer(owner, "dim", dim)
        if -(-index.dim // 8) != bits.shape[1]:
            high = 8 * bits.shape[1]
            raise ValueError(_check.must(owner, "dim", f"from {high - 7} to {high} for these codes", str(dim)))
        unused = 8 * bits.shape[1] - index.dim
        index._parts.append((bits & np.r_[np.full(bits.shape[1] - 1, 255), 256 - (1 << unused)].astype(np.uint8),))
        return index

    def add(self, x: RealLike) -> Self:
        """Append rows; their ids follow those of the rows before.

        Parameters
        ----------
        x : array_like of floats, shape (n, D)

        Raises
        ------
        TypeError
            x is not real.
        ValueError
            x is not of shape (n, D), or has NaN or infinities.
        """
        self._append(_rows(f"{_NAME}.add", "x", x, self.dim))
        return self

    def query(
        self, q: RealLike, k: int = 10, rescore: int | None = None, *, vectors: Any = None
    ) -> tuple[Float32Array, Int64Array]:
        """Return the best k rows of each query, the best one first.

        Parameters
        ----------
        q : array_like of floats, shape (M, D) or (D,)
            Finite. Converted to float32.
        k : int, default 10
        rescore : int, optional
            Score the best ``rescore * k`` rows again, by the float32 query and the row: the dequantized row, for bits
            -1 and 1, or a row of `vectors`. The products are summed in float64, and the score is rounded once.
        vectors : array of floats, shape (N, D), optional
            The rows before quantization, for `rescore`: an array, or a memory map, of which the candidates are read.

        Returns
        -------
        scores : ndarray of float32, shape (M, min(k, N)) or (min(k, N),)
            For "ip" and "cosine" the larger one is better, for "l2" the smaller one. A binary index that does not
            rescore returns Hamming distances.
        ids : ndarray of int64, of the same shape
            Indices of the rows.

        Raises
        ------
        TypeError
            q is not real.
        ValueError
            q is not of shape (M, D) or (D,), or has NaN or infinities.
        TypeError
            k or rescore is not an integer.
        ValueError
            k or rescore is below 1; vectors are not of shape (N, D), or given without rescore.
        OverflowError
            D is so large that a sum of codes leaves int32.

        Notes
        -----
        A query reads every row once. It keeps the k best in a heap and needs no memory for the scores of all rows. The
        results are the same bits on every instruction set and thread count.
        """
        owner = f"{_NAME}.query"
        is_row = np.ndim(q) == 1
        queries = _rows(owner, "q", np.asarray(q)[None] if is_row else q, self.dim)
        k, factor = _positive(owner, "k", k), 1 if rescore is None else _positive(owner, "rescore", rescore)
        if vectors is not None:
            self._check_vectors(owner, vectors, rescore)
        results = []
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            scores, ids = self._nearest(owner, block, min(k * factor, max(len(self), 1)))
            results.append(self._rescored(block, ids, k, vectors) if rescore is not None else (scores, ids))
        if not results:
            kept = min(k, len(self))
            return np.empty((0, kept), np.float32), np.empty((0, kept), np.int64)
        scores, ids = (np.concatenate(parts) for parts in zip(*results, strict=True))
        return (scores[0], ids[0]) if is_row else (scores, ids)

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for part in self._parts for array in part)

    @property
    def codes(self) -> "QuantizedArray | UInt8Array":
        rows = self._whole()
        if self.dtype == "binary":
            return rows[0]
        return QuantizedArray(rows[0], QParams(rows[1], 0, "int8", PerChannel(0)))

    def __repr__(self) -> str:
        return f"{_NAME}({len(self)} x {self.dim}, {self.dtype}, {self.metric}, {self.nbytes:,} bytes)"

    # ---- rows ----

    def _append(self, x: Float32Array) -> None:
        if self.dtype == "binary":
            self._parts.append((np.packbits(x > 0, axis=1),))
        else:
            q = quantize(x, granularity=PerChannel(0))
            self._parts.append(self._with_metric(q.codes, q.scale))

    def _with_metric(self, codes: Array, scale: Float32Array) -> tuple[Array, ...]:
        """Return the arrays of int8 rows: codes, scales, then what the metric needs.

        cosine: the scale of the score, 1 / |codes|, 0 for a row of zeros. l2: minus half the squared norm of the row.
        """
        if self.metric == "ip":
            return codes, scale
        squares = np.einsum("ij,ij->i", codes, codes, dtype=np.int64).astype(np.float64)
        if self.metric == "cosine":
            return codes, scale, _quotient(1, np.sqrt(squares)).astype(np.float32)
        return codes, scale, (-0.5 * squares * scale.astype(np.float64) ** 2).astype(np.float32)

    def _whole(self) -> tuple[Array, ...]:
        """Return the arrays of all rows, joined after rows were added."""
        if len(self._parts) > 1:
            self._parts = [tuple(np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))]
        return self._parts[0]

    # ---- queries ----

    def _nearest(self, owner: str, q: Float32Array, k: int) -> tuple[Float32Array, Int64Array]:
        """Return the best k rows by their codes."""
        best = Best(len(q), k)
        rows = self._whole()
        if self.dtype == "binary":
            best.offer_bits(rows[0], np.packbits(q > 0, axis=1))
            scores, ids = best.sorted()
            return np.abs(scores), ids
        quantized = quantize(q, granularity=PerRow())
        norms = np.sqrt(_squares(q))
        factor = quantized.scale
        if self.metric == "cosine":
            factor = _quotient(factor, norms).astype(np.float32)
        scale = rows[2] if self.metric == "cosine" else rows[1]
        offset = rows[2] if self.metric == "l2" else None
        step = max(1024, _SCORES // len(q))
        for start in range(0, len(rows[0]), step):
            part = slice(start, start + step)
            sums = integer_product(owner, quantized.codes, rows[0][part].T, None, None)
            best.offer_sums(sums, factor, scale[part], None if offset is None else offset[part])
        scores, ids = best.sorted()
        if self.metric == "l2":
            scores = np.maximum(norms[:, None] ** 2 - 2 * scores.astype(np.float64), 0).astype(np.float32)
        return scores, ids

    def _rescored(self, q: Float32Array, ids: Int64Array, k: int, vectors: Any) -> tuple[Float32Array, Int64Array]:
        """Return the best k of the candidates `ids` by the float32 queries."""
        scores = np.empty(ids.shape)
        step = max(1, _CANDIDATES // max(1, ids.shape[1] * self.dim))
        for start in range(0, len(q), step):
            part = slice(start, start + step)
            scores[part] = self._float_scores(q[part], ids[part], vectors)
        order = np.lexsort((ids, scores if self.metric == "l2" else -scores))[:, :k]
        best = np.take_along_axis(scores, order, 1)
        return best.astype(np.float32), np.take_along_axis(ids, order, 1)

    def _float_scores(self, q: Float32Array, ids: Int64Array, vectors: Any) -> Float64Array:
        rows, scale = self._candidates(ids, vectors)
        products: Float64Array = dot_candidates(q, rows) * scale
        if self.metric == "ip":
            return products
        flat = rows.reshape(-1, self.dim)
        squares = _squares(flat).reshape(ids.shape) * scale**2
        if self.metric == "cosine":
            return _quotient(products, np.sqrt(_squares(q)[:, None] * squares))
        distances: Float64Array = np.maximum(_squares(q)[:, None] - 2 * products + squares, 0)
        return distances

    def _candidates(self, ids: Int64Array, vectors: Any) -> tuple[Float32Array, Any]:
        """Return the rows (M, C, D) of candidates, and the scales that they are to be multiplied by."""
        if vectors is not None:
            rows, _ = _args.real(f"{_NAME}.query", "vectors", np.asarray(vectors[ids.reshape(-1)]))
            return np.ascontiguousarray(rows, np.float32).reshape(*ids.shape, self.dim), 1.0
        stored = self._whole()
        if self.dtype == "binary":
            bits = np.unpackbits(stored[0][ids], axis=-1, count=self.dim)
            return bits.astype(np.float32) * 2 - 1, 1.0
        return stored[0][ids].astype(np.float32), stored[1][ids].astype(np.float64)

    def _check_vectors(self, owner: str, vectors: Any, rescore: Any) -> None:
        if rescore is None:
            raise ValueError(_check.must(owner, "rescore", "given beside vectors", "None"))
        shape = np.shape(vectors)
        if shape != (len(self), self.dim):
            raise ValueError(_check.must(owner, "vectors", f"of shape {(len(self), self.dim)}", f"shape {shape}"))


def _rows(owner: str, name: str, value: Any, dim: int | None) -> Float32Array:
    """Return finite float32 rows, C-contiguous, of `dim` numbers if that is known."""
    source, float_type = _args.real(owner, name, value)
    shape = "(n, D)" if dim is None else f"(n, {dim})"
    if source.ndim != 2 or not source.shape[1] or (dim is not None and source.shape[1] != dim):
        raise ValueError(_check.must(owner, name, f"of shape {shape}", f"shape {source.shape}"))
    low, high, nan, infinite = extremes(source, float_type, PerTensor())
    if nan or infinite or max(-float(low), float(high)) > _check.HUGE:
        raise ValueError(_check.must(owner, name, "finite in float32", "NaN or numbers beyond its range"))
    return np.ascontiguousarray(source, np.float32)


def _positive(owner: str, name: str, value: Any) -> int:
    number = _check.integer(owner, name, value)
    if number < 1:
        raise ValueError(_check.must(owner, name, "1 or more", str(number)))
    return number


def _check_codes(owner: str, codes: QuantizedArray) -> None:
    params = codes.qparams
    if params.code.name != "int8" or not params.symmetric:
        raise TypeError(_check.must(owner, "codes", "of symmetric int8", str(params)))
    one_scale_a_row = isinstance(params.granularity, PerTensor | PerRow) or params.granularity in (
        PerChannel(0),
        PerChannel(-2),
    )
    if codes.ndim != 2 or not codes.shape[1] or not one_scale_a_row:
        got = f"shape {codes.shape} {params.granularity.describe()}"
        raise ValueError(_check.must(owner, "codes", "of shape (N, D), per row or per tensor", got))


def _quotient(x: Any, norms: Float64Array) -> Float64Array:
    """Return x / norms, 0 where a norm is 0."""
    quotient: Float64Array = np.divide(x, norms, out=np.zeros(norms.shape), where=norms > 0)
    return quotient


def _squares(x: Float32Array) -> Float64Array:
    """Return the squared norm of each row, summed in float64 in a fixed order."""
    return dot_candidates(x, x[:, None, :])[:, 0]
