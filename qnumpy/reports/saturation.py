"""Errors of 8-bit matrix products by saturating instructions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._tables import as_json, escape, html_facts
from .._typing import Array, CodeLike, Int32Array, Int64Array, NDArray
from ..arrays.quantized import QuantizedArray
from ..ops.saturation import saturated_matmul, unsafe_pairs

__all__ = ["Saturation", "simulate_saturation"]


@dataclass(frozen=True, eq=False, repr=False)
class Saturation:
    """The result of simulate_saturation; frozen.

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

    Examples
    --------
    >>> found = simulate_saturation(np.array([[255, 255]], np.uint8), np.array([[127], [127]], np.int8))
    >>> found.safe, found.depth
    (array([False]), 2)
    """

    product: Int32Array
    error: Int64Array
    pairs: Int64Array
    safe: NDArray[np.bool_]
    depth: int

    @property
    def saturated(self) -> int:
        """The number of pairs that saturated."""
        return int(self.pairs.sum())

    @property
    def share(self) -> float:
        """The share of the pairs that saturated; 0 for an empty product."""
        total = self.product.size * (-(-self.depth // 2))
        return self.saturated / total if total else 0.0

    @property
    def wrong(self) -> int:
        """The number of elements of the product that are wrong."""
        return int(np.count_nonzero(self.error))

    @property
    def max_abs_error(self) -> int:
        """The largest error of an element, in units of the integer product."""
        return int(max(self.error.max(), -self.error.min())) if self.error.size else 0

    @property
    def advice(self) -> str:
        """One sentence: whether a column can saturate, and the remedy."""
        unsafe = int(np.count_nonzero(~self.safe))
        if unsafe == 0:
            return "No column can saturate: these weights give exact products on every CPU."
        measured = "and with this a some do" if self.saturated else "though with this a none does"
        return (
            f"{unsafe:,} of {self.safe.size:,} columns can saturate, {measured}: use matmul_integer, which is exact, "
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
        return f"{html_facts('Saturation', self._rows())}<p>{escape(self.advice)}</p>"


def simulate_saturation(a: CodeLike | QuantizedArray, b: CodeLike | QuantizedArray) -> Saturation:
    """Compute the result of a matrix product by saturating instructions.

    CPUs without VNNI multiply bytes with ``vpmaddubsw``: products of an unsigned and a signed byte, added in pairs of
    neighbours along K, each pair clamped to int16: ``clip(a[2p] * b[2p] + a[2p+1] * b[2p+1], -32768, 32767)``. Sums of
    pairs are int32 and exact. This is that product, on any CPU.

    Parameters
    ----------
    a : array_like of uint8 or int8, or QuantizedArray, shape (M, K)
        The unsigned operand. int8 is shifted by 128 into uint8, as libraries do, and the product is corrected for it.
    b : array_like of int8 or uint8, or QuantizedArray, shape (K, N)
        The signed operand. uint8 is shifted by -128 into int8, and the product is corrected for it.

    Returns
    -------
    Saturation
        The wrong product, its error, the saturated pairs, and which columns of b are safe for every a.

    Raises
    ------
    TypeError
        An operand is not of int8 or uint8.
    ValueError
        An operand is not 2-D.
    ValueError
        The inner dimensions differ.
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
    >>> report = simulate_saturation(np.array([[255, 255]], np.uint8), np.array([[127, 64], [127, 64]], np.int8))
    >>> report.product, report.error
    (array([[32767, 32640]], dtype=int32), array([[-32003,      0]]))
    >>> report.safe
    array([False,  True])
    """
    owner = "simulate_saturation"
    left, right = byte_codes(owner, "a", a), byte_codes(owner, "b", b)
    if left.shape[1] != right.shape[0]:
        got = f"shapes {left.shape} and {right.shape}"
        raise ValueError(_check.must(owner, "a and b", "of shapes (M, K) and (K, N)", got))
    product, error, pairs = saturated_matmul(owner, left, right)
    return Saturation(product, error, pairs, unsafe_pairs(right) == 0, left.shape[1])


def byte_codes(owner: str, name: str, value: Any) -> Array:
    """Return the codes of a 2-D operand of int8 or uint8."""
    codes = value.codes if isinstance(value, QuantizedArray) else _check.array(owner, name, value)
    if codes.dtype != np.int8 and codes.dtype != np.uint8:
        raise TypeError(_check.must(owner, name, "an array of int8 or uint8", _check.got(value, codes)))
    if codes.ndim != 2:
        raise ValueError(_check.must(owner, name, "2-D", f"shape {codes.shape}"))
    return codes
