"""Search in embeddings: rows of 8 bits or of 1 bit a number, and the nearest ones of float queries."""

from typing import Any, Literal, Self, TypeAlias

import numpy as np

from . import _args, _check
from ._typing import Array, DType, Float32Array, Float64Array, Int8Array, Int64Array, RealLike, UInt8Array
from .arrays.quantized import QuantizedArray, quantize
from .granularity import PerChannel, PerRow, PerTensor
from .ops.matmul import integer_product
from .ops.nearest import Best, dot_candidates, squared_norms
from .ops.reduce import extremes
from .qparams import QParams

__all__ = ["EmbeddingIndex"]

Metric: TypeAlias = Literal["ip", "cosine", "l2"]

_METRICS = {"ip": 0, "cosine": 1, "l2": 2}
_DTYPES = {"int8": 0, "binary": 1}
_WIDEST = 131_071  # numbers of a row: the inner product of any two rows of int8 codes fits int32
_QUERIES = 256  # that are scored together
_SCORES = 1 << 18  # of a block of rows: they stay in the L2 cache
_BLOCK = 1 << 22  # numbers of the rows that are converted, or of the candidates that are gathered, at a time
_NAME = "EmbeddingIndex"


class _Table:
    """Arrays with one entry for each row. They grow by half, so that to add rows one by one copies each a few times."""

    def __init__(self, *columns: Array) -> None:
        self._columns, self._count = columns, len(columns[0])

    def __len__(self) -> int:
        return self._count

    @property
    def columns(self) -> tuple[Array, ...]:
        return tuple(column[: self._count] for column in self._columns)

    def append(self, columns: tuple[Array, ...]) -> None:
        count = self._count + len(columns[0])
        if count == self._count:
            return
        if count > len(self._columns[0]):
            room = max(count, 3 * self._count // 2)
            grown = tuple(np.empty((room, *column.shape[1:]), column.dtype) for column in self._columns)
            for new, old in zip(grown, self.columns, strict=True):
                new[: self._count] = old
            self._columns = grown
        for column, added in zip(self._columns, columns, strict=True):
            column[self._count : count] = added
        self._count = count


class EmbeddingIndex:
    """Embeddings in int8 or in one bit a number, searched by float queries.

    Each row has its own scale: ``x = scale * codes``, symmetric int8. A query is quantized in the same way. Its score
    with a row is the inner product, the cosine or the squared distance of the two dequantized rows, computed from the
    exact integer inner product of their codes. So scores of different rows compare, no sum overflows, and ranks are
    those of the exact scores. Of two rows with one score the lower id comes first.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (N, D)
        Finite. Converted to float32, some rows at a time.
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
        x is not 2-D, D is 0, or beyond 131,071 for int8; x has NaN or infinities; dtype or metric is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 64), dtype=np.float32)
    >>> index = EmbeddingIndex(x, metric="cosine")
    >>> scores, ids = index.query(x[[7, 42]], k=3)
    >>> ids[:, 0], scores.shape
    (array([ 7, 42]), (2, 3))
    >>> index
    EmbeddingIndex(1000 x 64, int8, cosine, 76,000 bytes)
    """

    def __init__(self, x: RealLike, dtype: DType = "int8", *, metric: Metric = "ip") -> None:
        source = _matrix(_NAME, "x", x, None)
        if isinstance(dtype, type | np.dtype) and np.dtype(dtype) == np.int8:
            dtype = "int8"
        _args.choice(_NAME, "dtype", dtype, _DTYPES)
        _args.choice(_NAME, "metric", metric, _METRICS)
        if dtype == "int8":
            _check_width(_NAME, "x", source.shape)
        self.dtype, self.metric, self.dim = dtype, metric, source.shape[1]
        self._table = _Table(*self._quantized(_NAME, source))

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
        index.metric = metric
        if isinstance(codes, QuantizedArray):
            _check_codes(owner, codes)
            index.dtype, index.dim = "int8", codes.shape[1]
            if dim is not None and _check.integer(owner, "dim", dim) != index.dim:
                raise ValueError(_check.must(owner, "dim", f"left out or {index.dim} for these codes", str(dim)))
            scale = np.array(np.broadcast_to(codes.scale.reshape(-1), len(codes)))
            whole = np.array(codes.codes, order="C")
            index._table = _Table(whole, scale, *index._derived(whole, scale))
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
        index._table = _Table(np.array(bits, order="C"))
        index._table.columns[0][:, -1] &= np.uint8(256 - (1 << unused))
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
        owner = f"{_NAME}.add"
        self._table.append(self._quantized(owner, _matrix(owner, "x", x, self.dim)))
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
        vectors : array_like of floats, shape (N, D), optional
            The rows before quantization, for `rescore`. Of a memory map, or of an array of h5py, zarr or dask, only
            the candidates are read.

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
            k or rescore is not an integer; vectors are not real.
        ValueError
            k or rescore is below 1; vectors are not of shape (N, D), have NaN or infinities in a candidate, or are
            given without rescore.

        Notes
        -----
        Scores are ranked in float64, where the inner product of codes times a row's scale is exact for D up to 33,285,
        and a cosine or a squared distance has an error of a few 2^-53. What is returned is rounded to float32, beyond
        its range to infinity or 0, in the order of the exact ones.

        The rows are read once for each 256 queries. A heap keeps the k best of a query, so the scores of all rows are
        never in memory. Results are the same bits on every instruction set, thread count and split into batches.
        """
        owner = f"{_NAME}.query"
        source, _ = _args.real(owner, "q", q)
        queries = _finite(owner, "q", _matrix(owner, "q", source[None] if source.ndim == 1 else source, self.dim))
        k, factor = _positive(owner, "k", k), 1 if rescore is None else _positive(owner, "rescore", rescore)
        if vectors is not None:
            vectors = self._readable(owner, vectors, rescore)
        kept = min(k, len(self))
        scores, ids = np.empty((len(queries), kept), np.float32), np.empty((len(queries), kept), np.int64)
        for start in range(0, len(queries) if kept else 0, _QUERIES):
            part = slice(start, start + _QUERIES)
            best, ids_of_best = self._nearest(owner, queries[part], min(k * factor, len(self)))
            if rescore is not None:
                best, ids_of_best = self._rescored(owner, queries[part], ids_of_best, kept, vectors)
            with np.errstate(over="ignore", under="ignore"):
                scores[part], ids[part] = best, ids_of_best
        return (scores[0], ids[0]) if source.ndim == 1 else (scores, ids)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._table.columns)

    @property
    def codes(self) -> "QuantizedArray | UInt8Array":
        columns = self._table.columns
        for column in columns:
            column.flags.writeable = False  # views: norms that were made of the codes must stay theirs
        if self.dtype == "binary":
            return columns[0]
        return QuantizedArray(columns[0], QParams(columns[1], 0, "int8", PerChannel(0)))

    def __getstate__(self) -> dict[str, Any]:  # a copy grows by itself, and a pickle has no spare room
        return {**self.__dict__, "_table": _Table(*self._table.columns)}

    def __repr__(self) -> str:
        return f"{_NAME}({len(self)} x {self.dim}, {self.dtype}, {self.metric}, {self.nbytes:,} bytes)"

    # ---- rows ----

    def _quantized(self, owner: str, x: Array) -> tuple[Array, ...]:
        """Return the columns of the table for rows of x."""
        n, step = len(x), max(1, _BLOCK // self.dim)
        blocks = [self._columns_of(_finite(owner, "x", x[i : i + step])) for i in range(0, max(n, 1), step)]
        return blocks[0] if len(blocks) == 1 else tuple(np.concatenate(part) for part in zip(*blocks, strict=True))

    def _columns_of(self, x: Float32Array) -> tuple[Array, ...]:
        if self.dtype == "binary":
            return (np.packbits(x > 0, axis=1),)
        q = quantize(x, granularity=PerChannel(0))
        return q.codes, q.scale, *self._derived(q.codes, q.scale)

    def _derived(self, codes: Int8Array, scale: Float32Array) -> tuple[Float64Array, ...]:
        """Return what the metric needs of each row: 1 / norm of the codes; minus half the squared norm of the row."""
        if self.metric == "ip":
            return ()
        squares = _squared_norms_of_codes(codes)
        if self.metric == "cosine":
            return (_quotient(1, np.sqrt(squares)),)
        return (-0.5 * (squares * scale.astype(np.float64) ** 2),)

    # ---- queries ----

    def _nearest(self, owner: str, q: Float32Array, k: int) -> tuple[Float64Array, Int64Array]:
        """Return the best k rows by their codes."""
        best = Best(len(q), k)
        columns = self._table.columns
        if self.dtype == "binary":
            best.offer_bits(columns[0], np.packbits(q > 0, axis=1))
            scores, ids = best.sorted()
            return np.abs(scores), ids
        quantized = quantize(q, granularity=PerRow())
        query_scale = quantized.scale.astype(np.float64).reshape(-1, 1)
        squares = None if self.metric == "ip" else _squared_norms_of_codes(quantized.codes)[:, None]
        # The scale of a query, or its norm, does not change the order of its scores: without it they are exact.
        factor = query_scale.reshape(-1) if self.metric == "l2" else np.ones(len(q))
        scales = columns[2] if self.metric == "cosine" else columns[1]
        step = max(1024, _SCORES // len(q))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            sums = integer_product(owner, quantized.codes, columns[0][part].T, None, None)
            offset = columns[2][part] if self.metric == "l2" else None
            best.offer_sums(sums, factor, scales[part].astype(np.float64, copy=False), offset)
        scores, ids = best.sorted()
        if squares is None:
            return scores * query_scale, ids
        if self.metric == "cosine":
            return scores * _quotient(1, np.sqrt(squares)), ids
        return np.maximum(squares * query_scale**2 - 2 * scores, 0), ids

    def _rescored(
        self, owner: str, q: Float32Array, ids: Int64Array, k: int, vectors: Any
    ) -> tuple[Float64Array, Int64Array]:
        """Return the best k of the candidates `ids` by the float32 queries."""
        scores = np.empty(ids.shape)
        width = max(1, min(ids.shape[1], _BLOCK // self.dim))
        height = max(1, _BLOCK // (width * self.dim))
        for row in range(0, len(q), height):
            for column in range(0, ids.shape[1], width):
                part = slice(row, row + height), slice(column, column + width)
                scores[part] = self._float_scores(owner, q[part[0]], ids[part], vectors)
        order = np.lexsort((ids, scores if self.metric == "l2" else -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

    def _float_scores(self, owner: str, q: Float32Array, ids: Int64Array, vectors: Any) -> Float64Array:
        """Return the scores of float32 queries with candidates. Each candidate is read once, in order of ids."""
        unique, places = np.unique(ids, return_inverse=True)
        places = places.reshape(ids.shape)
        rows, scale = self._candidates(owner, unique, vectors)
        products: Float64Array = dot_candidates(q, rows, places) * scale[places]
        if self.metric == "ip":
            return products
        squares, norms = squared_norms(q)[:, None], (squared_norms(rows) * scale**2)[places]
        if self.metric == "cosine":
            return _quotient(products, np.sqrt(squares * norms))
        distances: Float64Array = np.maximum(squares - 2 * products + norms, 0)
        return distances

    def _candidates(self, owner: str, ids: Int64Array, vectors: Any) -> tuple[Float32Array, Float64Array]:
        """Return rows, and the scales that they are to be multiplied by."""
        if vectors is not None:
            return _finite(owner, "vectors", _matrix(owner, "vectors", vectors[ids], self.dim)), np.ones(len(ids))
        columns = self._table.columns
        if self.dtype == "binary":
            bits = np.unpackbits(columns[0][ids], axis=-1, count=self.dim)
            return bits.astype(np.float32) * 2 - 1, np.ones(len(ids))
        return columns[0][ids].astype(np.float32), columns[1][ids].astype(np.float64)

    def _readable(self, owner: str, vectors: Any, rescore: Any) -> Any:
        """Return vectors as an array that takes rising ids; one that is not in memory as it is."""
        if rescore is None:
            raise ValueError(_check.must(owner, "rescore", "given beside vectors", "None"))
        if not hasattr(type(vectors), "chunks"):  # of h5py, zarr and dask
            vectors, _ = _args.real(owner, "vectors", vectors)
        if vectors.shape != (len(self), self.dim):
            requirement = f"of shape {(len(self), self.dim)}"
            raise ValueError(_check.must(owner, "vectors", requirement, f"shape {vectors.shape}"))
        return vectors


def _matrix(owner: str, name: str, value: Any, dim: int | None) -> Array:
    """Return real rows, of `dim` numbers if that is known."""
    source, _ = _args.real(owner, name, value)
    if source.ndim != 2 or not source.shape[1] or (dim is not None and source.shape[1] != dim):
        requirement = f"of shape (n, {'D' if dim is None else dim})"
        raise ValueError(_check.must(owner, name, requirement, f"shape {source.shape}"))
    return source


def _check_width(owner: str, name: str, shape: tuple[int, ...]) -> None:
    if shape[1] > _WIDEST:
        raise ValueError(_check.must(owner, name, f"of at most {_WIDEST} columns for int8", f"shape {shape}"))


def _finite(owner: str, name: str, rows: Array) -> Float32Array:
    """Return rows as C-contiguous float32."""
    source, float_type = _args.real(owner, name, rows)
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
    _check_width(owner, "codes", codes.shape)


def _quotient(x: Any, norms: Float64Array) -> Float64Array:
    """Return x / norms, 0 where a norm is 0."""
    quotient: Float64Array = np.divide(x, norms, out=np.zeros(norms.shape), where=norms > 0)
    return quotient


def _squared_norms_of_codes(codes: Int8Array) -> Float64Array:
    """Return the squared norm of each row of codes; exact."""
    squares, step = np.empty(len(codes)), max(1, _BLOCK // codes.shape[1])
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        squares[part] = squared_norms(codes[part].astype(np.float32))
    return squares
