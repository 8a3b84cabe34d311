"""What int8 matrix products by saturating instructions get wrong, and which weights are safe from them."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check, _core
from .._args import Array
from .._tables import as_json, html_facts
from ..arrays.quantized import QuantizedArray
from ..granularity import normalize_axis
from ..qparams import QParams

__all__ = ["Saturation", "reduce_range", "safe_weights", "simulate_saturation"]

_TILE = 1 << 20  # elements of an operand that are brought into the kernel's form at a time
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False, repr=False)
class Saturation:
    """What simulate_saturation found; frozen.

    Attributes
    ----------
    product : ndarray of int32, shape (M, N)
        The product that a saturating kernel returns.
    error : ndarray of int64, shape (M, N)
        That product minus the exact one.
    pairs : ndarray of int64, shape (N,)
        Saturated pairs in each column of the product.
    safe : ndarray of bool, shape (N,)
        Columns of b in which no pair can saturate, whatever a holds.
    depth : int
        K, the length of the sums.
    """

    product: Array
    error: Array
    pairs: Array
    safe: Array
    depth: int

    @property
    def saturated(self) -> int:
        """How many pairs saturated."""
        return int(self.pairs.sum())

    @property
    def share(self) -> float:
        """Saturated pairs as a part of all; 0 for an empty product."""
        total = self.product.size * (-(-self.depth // 2))
        return self.saturated / total if total else 0.0

    @property
    def wrong(self) -> int:
        """How many elements of the product are wrong."""
        return int(np.count_nonzero(self.error))

    @property
    def max_abs_error(self) -> int:
        """The largest error of an element, in units of the integer product."""
        return int(max(self.error.max(), -self.error.min())) if self.error.size else 0

    @property
    def advice(self) -> str:
        """What to do about it, in one sentence."""
        unsafe = int(np.count_nonzero(~self.safe))
        if unsafe == 0:
            return "No column can saturate: these weights give exact products on every CPU."
        found = "and with this a some do" if self.saturated else "though with this a none does"
        return (
            f"{unsafe:,} of {self.safe.size:,} columns can saturate, {found}: use matmul_integer, which is exact, "
            "or quantize b to 7 bits (reduce_range)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, without the arrays of the product."""
        return {
            "shape": list(self.product.shape), "depth": self.depth, "saturated": self.saturated, "share": self.share,
            "wrong": self.wrong, "max_abs_error": self.max_abs_error, "pairs": self.pairs.tolist(),
            "safe": self.safe.tolist(), "advice": self.advice,
        }  # fmt: skip

    def to_records(self) -> list[dict[str, Any]]:
        """Return flat dicts, one for each column of b, ready for a data frame."""
        columns = zip(self.pairs.tolist(), self.safe.tolist(), strict=True)
        return [{"column": k, "pairs": pairs, "safe": safe} for k, (pairs, safe) in enumerate(columns)]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON."""
        return as_json(self.to_dict(), indent)

    def _rows(self) -> list[tuple[str, str]]:
        m, n = self.product.shape
        return [
            ("product", f"({m}, {self.depth}) @ ({self.depth}, {n})"),
            ("saturated pairs", f"{self.saturated:,} of {m * n * (-(-self.depth // 2)):,} ({self.share:.3%})"),
            ("wrong elements", f"{self.wrong:,} of {m * n:,}"),
            ("largest error", f"{self.max_abs_error:,}"),
            ("safe columns", f"{int(np.count_nonzero(self.safe)):,} of {n:,}"),
        ]

    def __repr__(self) -> str:
        (_, title), *rows = self._rows()
        return "\n".join([f"Saturation of {title}", *(f"  {k:<15}  {v}" for k, v in rows), f"  {self.advice}"])

    def _repr_html_(self) -> str:
        return f"{html_facts('Saturation', self._rows())}<p>{html.escape(self.advice)}</p>"


def simulate_saturation(a: Any, b: Any) -> Saturation:
    """Compute what a matrix product by saturating instructions would have returned.

    CPUs without VNNI multiply bytes with ``vpmaddubsw``: products of an unsigned and a signed byte, added in pairs of
    neighbours along K, each pair clamped to int16: ``clip(a[2p] * b[2p] + a[2p+1] * b[2p+1], -32768, 32767)``. Sums of
    pairs are int32 and exact. This is that product, on any CPU.

    Parameters
    ----------
    a : array_like of uint8 or int8, or QuantizedArray, shape (M, K)
        The unsigned operand. int8 is shifted by 128 into uint8, as the libraries do, and the product corrected for it.
    b : array_like of int8 or uint8, or QuantizedArray, shape (K, N)
        The signed operand. uint8 is shifted by -128 into int8, and the product corrected for it.

    Returns
    -------
    Saturation
        The wrong product, its error, the saturated pairs, and which columns of b are safe for every a.

    Raises
    ------
    TypeError
        An operand is not of 8-bit integers.
    ValueError
        An operand is not 2-D, or the inner dimensions differ.
    OverflowError
        An element of the product does not fit in int32.

    Notes
    -----
    A zero point changes neither pairs nor error: it is subtracted from the sums, which are exact. The last element of
    an odd K forms a pair with 0. Integers throughout; nothing is rounded.

    References
    ----------
    Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 2, PMADDUBSW.

    Examples
    --------
    >>> found = simulate_saturation(np.array([[255, 255]], np.uint8), np.array([[127, 64], [127, 64]], np.int8))
    >>> found.product, found.error
    (array([[32767, 32640]], dtype=int32), array([[-32003,      0]]))
    >>> found.safe
    array([False,  True])
    """
    owner = "simulate_saturation"
    left, right = _bytes(owner, "a", a), _bytes(owner, "b", b)
    if left.shape[1] != right.shape[0]:
        got = f"shapes {left.shape} and {right.shape}"
        raise ValueError(_check.must(owner, "a and b", "of shapes (M, K) and (K, N)", got))
    (m, k), n = left.shape, right.shape[1]
    total, error = np.zeros((m, n), np.int64), np.zeros((m, n), np.int64)
    pairs = np.zeros(n, np.int64)
    for columns in _tiles(n, k):
        signed = _signed(right[:, columns])
        width = signed.shape[1]
        found = np.zeros(width, np.int64)
        for rows in _tiles(m, max(k, width)):
            unsigned = _unsigned(left[rows])
            height = unsigned.shape[0]
            sums = np.zeros((2, height, width), np.int64)
            _core.saturate(unsigned, signed, sums[0], sums[1], found, height, k, width)
            total[rows, columns], error[rows, columns] = sums
        pairs[columns] = found
    total -= _correction(left, right)
    if total.size and not _INT32.min <= total.min() <= total.max() <= _INT32.max:
        worst = total.max() if total.max() > _INT32.max else total.min()
        raise OverflowError(_check.must(owner, "a @ b", "in the range of int32", str(worst)))
    return Saturation(total.astype(np.int32), error, pairs, safe_weights(right), k)


def safe_weights(w: Any, *, axis: int = 0) -> Array:
    """Say which columns of a weight no saturating product can get wrong, whatever it is multiplied by.

    A column is safe when no pair of neighbours along K leaves int16 for any two factors in 0..255: both positive with a
    sum of at most 128, both negative with a sum of at least -128, or of different signs.

    Parameters
    ----------
    w : array_like of int8 or uint8, or QuantizedArray, 2-D
        uint8 counts as shifted by -128, as in simulate_saturation.
    axis : int, default 0
        The axis K along which the product sums: 0 for (K, N), 1 for (N, K).

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    TypeError
        w is not of 8-bit integers.
    ValueError
        w is not 2-D, or axis is none of its axes.

    Examples
    --------
    >>> safe_weights(np.array([[127, 100, 64], [-127, 29, 64]], np.int8))
    array([ True, False,  True])
    """
    owner = "safe_weights"
    given = _bytes(owner, "w", w)
    along = normalize_axis(owner, _check.integer(owner, "axis", axis), 2)
    given = given if along == 0 else given.T
    k, n = given.shape
    pairs = np.zeros(n, np.int64)
    for columns in _tiles(n, k):
        signed = _signed(given[:, columns])
        found = np.zeros(signed.shape[1], np.int64)
        _core.unsafe_pairs(signed, found, k, signed.shape[1])
        pairs[columns] = found
    return np.asarray(pairs == 0)


def reduce_range(qparams: QParams) -> QParams:
    """Give the same range of reals 7 bits: the codes of an 8-bit type that saturating products get right.

    int8 codes become [-64, 63] ([-63, 63] if they were symmetric), uint8 ones [64, 191] ([65, 191]): any two
    of them, less 128 if unsigned, add up to at most 128. The step doubles: 6 dB of precision are the price.

    Parameters
    ----------
    qparams : QParams
        Of int8 or uint8.

    Returns
    -------
    QParams

    Raises
    ------
    TypeError
        qparams is no QParams, or not of int8 or uint8.

    Notes
    -----
    Products of qnumpy are exact with all 8 bits; this is for weights that go to another library. The new scale is
    computed in float64 and rounded once; the zero point is rounded half to even.

    Examples
    --------
    >>> reduce_range(QParams.from_range(-1.0, 1.0))
    QParams(int8, per tensor, scale=0.01587, zero_point=0)
    """
    owner = "reduce_range"
    if not isinstance(qparams, QParams):
        raise TypeError(_check.must(owner, "qparams", "a QParams", _check.typed(qparams)))
    code = qparams.code
    if code.bits != 8:
        raise TypeError(_check.must(owner, "qparams", "of int8 or uint8", code.name))
    middle = 0 if code.signed else 128
    low, high = middle - 64, middle + 63
    if qparams.symmetric and qparams.qmin == code.symmetric_qmin:
        low += 1
    scale = qparams.scale.astype(np.float64) * (qparams.qmax - qparams.qmin) / (high - low)
    zero = low + (qparams.zero_point.astype(np.float64) - qparams.qmin) * (high - low) / (qparams.qmax - qparams.qmin)
    return QParams(scale.astype(np.float32), np.rint(zero).astype(np.int32), code.name, qparams.granularity, low, high)


def _bytes(owner: str, name: str, value: Any) -> Array:
    """The codes of a 2-D operand of int8 or uint8."""
    given = value.codes if isinstance(value, QuantizedArray) else _check.array(owner, name, value)
    if given.dtype != np.int8 and given.dtype != np.uint8:
        raise TypeError(_check.must(owner, name, "an array of int8 or uint8", f"dtype {given.dtype}"))
    if given.ndim != 2:
        raise ValueError(_check.must(owner, name, "2-D", f"shape {given.shape}"))
    return given


def _tiles(n: int, depth: int) -> Iterator[slice]:
    """Cut n rows or columns of `depth` elements into slices of about _TILE elements."""
    step = max(1, _TILE // max(depth, 1))
    return (slice(at, min(at + step, n)) for at in range(0, n, step))


def _unsigned(a: Array) -> Array:
    return np.ascontiguousarray(a if a.dtype == np.uint8 else a.view(np.uint8) ^ 128)


def _signed(b: Array) -> Array:
    return np.ascontiguousarray(b if b.dtype == np.int8 else (b ^ 128).view(np.int8))


def _correction(a: Array, b: Array) -> Array:
    """What the shifts added: (a + s)(b - t) = a b + s b - t a - s t, where s and t are 0 or 128."""
    s, t = 128 * (a.dtype == np.int8), 128 * (b.dtype == np.uint8)
    rows, columns = a.sum(1, dtype=np.int64), b.sum(0, dtype=np.int64)
    return np.asarray(s * columns[None, :] - t * rows[:, None] - s * t * a.shape[1])
