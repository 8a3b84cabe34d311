"""The bits of numbers: sign, exponent and mantissa of floats, powers of two of integers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import array, got, is_python, must
from .._tables import MAX_ROWS, aligned, as_json, escape
from .._typing import Array, ArrayLike
from ..dtypes import code_type, float_type

__all__ = ["Bits", "bits"]

_COLORS = ("#f6c6c6", "#c9e7c4", "#c6d8f6")  # sign, exponent, mantissa in a notebook


def bits(x: ArrayLike) -> "Bits":
    """Show the bits of numbers in memory.

    A float is ``sign * mantissa * 2**exponent``, each from its own field of bits; an integer is the sum of the powers
    of two whose bits are set, the highest of them negative in a signed type (two's complement).

    Parameters
    ----------
    x : array_like of any shape
        float64, float32, float16, bfloat16, the float8, float6 and float4 types of ml_dtypes, or integers of 2 to 64
        bits. Python integers take the smallest of int8, int16, int32, int64 and uint64 that holds them, Python floats
        are float64.

    Returns
    -------
    Bits
        Prints as text, and as a table in a notebook; has the fields and their values as arrays.

    Raises
    ------
    TypeError
        x holds neither floats nor integers of at most 64 bits.

    Examples
    --------
    >>> bits(19)
    int8 19
      bits    00010011
      value   16 + 2 + 1
      powers  2^4 + 2^1 + 2^0
    >>> bits(np.float16(-6.5))
    float16 -6.5
      sign      1           -1
      exponent  10001       17 - 15 = 2
      mantissa  1010000000  1 + 640/1024 = 1.625
      value     -1 x 1.625 x 2^2
    >>> import ml_dtypes
    >>> bits(np.array([0.1, 448, np.nan], ml_dtypes.float8_e4m3fn))
    float8_e4m3fn  bits        sign x mantissa x 2^exponent
    0.101562       0 0011 101  +1 x 1.625 x 2^-4
    448            0 1111 110  +1 x 1.75 x 2^8
    nan            0 1111 111  nan
    """
    owner = "bits"
    numbers = _integers(owner, array(owner, "x", x), x)
    real, code = float_type(numbers.dtype), code_type(numbers.dtype)
    if real is not None:
        sign = int(real.kind != "SCALE")
        return Bits(_native(numbers), _Layout(sign, real.exponent_bits, real.mantissa_bits, real.bias))
    if numbers.dtype.kind not in "iu" and code is None:
        raise TypeError(must(owner, "x", "of floats or integers of at most 64 bits", got(x, numbers)))
    if is_python(x, numbers):
        numbers = numbers.astype(_narrowest(numbers))
    width = 8 * numbers.dtype.itemsize if code is None else code.bits
    signed = code.signed if code is not None else numbers.dtype.kind == "i"
    return Bits(_native(numbers), _Layout(int(signed), 0, width - signed))


def _integers(owner: str, numbers: Array, x: Any) -> Array:
    """Return Python integers in a type that holds them all: NumPy makes floats of those above and below 2**63."""
    if not (is_python(x, numbers) or numbers.dtype == object) or numbers.dtype.kind not in "fO":
        return numbers
    if numbers.dtype.kind == "f" and not (np.abs(numbers) >= 2.0**63).any():
        return numbers
    objects = np.asarray(x, dtype=object)
    if not all(type(number) is int for number in objects.flat):
        return numbers
    if objects.min() < 0 or objects.max() >= 2**64:
        outside = f"integers from {objects.min()} to {objects.max()}"
        raise TypeError(must(owner, "x", "of floats or integers of at most 64 bits", outside))
    return objects.astype(np.uint64)


@dataclass(frozen=True)
class _Layout:
    """Widths of the fields; no exponent means an integer, whose sign bit is then its highest power."""

    sign: int
    exponent: int
    mantissa: int
    bias: int = 0

    @property
    def width(self) -> int:
        return self.sign + self.exponent + self.mantissa


def _narrowest(values: Array) -> np.dtype[Any]:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    types = (np.int8, np.int16, np.int32, np.int64, np.uint64)
    return np.dtype(next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max))


def _short(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _native(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("="), order="C", copy=True)


class Bits:
    """The bit fields of numbers and their values; the result of `bits`.

    Attributes
    ----------
    x : ndarray
        The numbers, a copy.

    Examples
    --------
    >>> bits(np.float16(-6.5)).x
    array(-6.5, dtype=float16)
    """

    __slots__ = ("_fields", "_layout", "x")

    def __init__(self, x: Array, layout: _Layout) -> None:
        self.x = x
        self._layout = layout
        pattern = x.reshape(-1).view(f"u{x.dtype.itemsize}").astype(np.uint64) & np.uint64(2**layout.width - 1)
        shift = np.uint64(layout.mantissa)
        above = pattern >> shift
        self._fields = (
            above >> np.uint64(layout.exponent),
            above & np.uint64(2**layout.exponent - 1),
            pattern & np.uint64(2**layout.mantissa - 1),
        )

    @property
    def is_float(self) -> bool:
        """Whether the numbers are floats, with an exponent and a mantissa."""
        return self._layout.exponent > 0

    @property
    def text(self) -> Array:
        """The bits as text, with spaces between the fields of a float."""
        return self._reshape(np.array([" ".join(part for part in self._parts(i) if part) for i in range(self.x.size)]))

    @property
    def fields(self) -> tuple[Array, Array, Array]:
        """The sign, exponent and mantissa fields as uint64; of an integer its sign bit, 0 and the other bits."""
        sign, exponent, mantissa = map(self._reshape, self._fields)
        return sign, exponent, mantissa

    @property
    def sign(self) -> Array:
        """1 or -1."""
        return self._reshape(1 - 2 * self._fields[0].astype(np.int64))

    @property
    def exponent(self) -> Array:
        """The exponent of 2 as int64: the field less the bias; of a subnormal that of the smallest normal number."""
        field = self._fields[1].astype(np.int64)
        lowest = 1 if self._layout.mantissa else 0  # float8_e8m0fnu has no subnormals
        return self._reshape(np.maximum(field, lowest) - self._layout.bias)

    @property
    def mantissa(self) -> Array:
        """The mantissa as float64, in [1, 2) of a normal number, in [0, 1) of a subnormal one or zero."""
        hidden = (self._fields[1] > 0) | (self._layout.mantissa == 0)
        return self._reshape(hidden + np.ldexp(self._fields[2].astype(np.float64), -self._layout.mantissa))

    def to_records(self) -> list[dict[str, Any]]:
        """Return flat dicts, one for each number, ready for a data frame."""
        names = ("sign", "exponent", "mantissa") if self.is_float else ()
        columns = {
            "value": map(str, self.x.reshape(-1)),
            "bits": self.text.reshape(-1).tolist(),
            **{name: getattr(self, name).reshape(-1).tolist() for name in names},
            "meaning": self._meanings(range(self.x.size)),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the records as JSON."""
        return as_json(self.to_records(), indent)

    def __str__(self) -> str:
        if self.x.ndim:
            shown = range(min(self.x.size, MAX_ROWS))
            rows = [[str(self.x.dtype), *self._heads()], *map(self._row, shown, self._meanings(shown))]
            left = self.x.size - MAX_ROWS
            return "\n".join([*aligned(rows, left=4), *([f"... and {left:,} more"] if left > 0 else [])])
        lines = [f"{self.x.dtype} {self.x}", *aligned([["", *line] for line in self._explanation()], left=4)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(i: int, meaning: str) -> str:
            parts = zip(self._parts(i), _COLORS if self.is_float else ("", "", ""), strict=True)
            spans = "".join(f'<span style="background:{color};color:black">{part}</span>' for part, color in parts)
            value = escape(str(self.x.reshape(-1)[i]))
            return f"<tr><td>{value}</td><td><code>{spans}</code></td><td>{escape(meaning)}</td></tr>"

        heads = "".join(f"<th>{head.strip()}</th>" for head in (str(self.x.dtype), *self._heads()))
        shown = range(min(self.x.size, MAX_ROWS))
        rows = "".join(map(row, shown, self._meanings(shown)))
        left = self.x.size - MAX_ROWS
        more = f'<tr><td colspan="3">... and {left:,} more</td></tr>' if left > 0 else ""
        return f"<table><tr>{heads}</tr>{rows}{more}</table>"

    def _reshape(self, values: Array) -> Array:
        return values.reshape(self.x.shape)

    def _heads(self) -> list[str]:
        return ["bits", "sign x mantissa x 2^exponent" if self.is_float else "powers of two"]

    def _parts(self, i: int) -> tuple[str, str, str]:
        """The three fields of one number in binary; of an integer all its bits in the last."""
        fields = [int(field[i]) for field in self._fields]
        layout = self._layout
        if not self.is_float:
            return "", "", f"{fields[0] << layout.mantissa | fields[2]:0{layout.width}b}"
        widths = (layout.sign, layout.exponent, layout.mantissa)
        sign, exponent, mantissa = (
            f"{field:0{width}b}" if width else "" for field, width in zip(fields, widths, strict=True)
        )
        return sign, exponent, mantissa

    def _row(self, i: int, meaning: str) -> list[str]:
        return [str(self.x.reshape(-1)[i]), " ".join(filter(None, self._parts(i))), meaning]

    def _meanings(self, rows: range) -> list[str]:
        """The values of the first numbers, as products or sums of powers of two."""
        if not self.is_float:
            return [self._sum(i, str) for i in rows]
        values = self.x.reshape(-1)[: len(rows)].astype(np.float64).tolist()
        parts = (getattr(self, name).reshape(-1)[: len(rows)].tolist() for name in ("sign", "exponent", "mantissa"))
        return [
            f"{sign:+d} x {_short(mantissa)} x 2^{exponent}" if math.isfinite(value) else str(value)
            for value, sign, exponent, mantissa in zip(values, *parts, strict=True)
        ]

    def _sum(self, i: int, text_of: Callable[[int], str]) -> str:
        """The powers of an integer, highest first, the sign bit as a negative one."""
        layout, (sign, _, rest) = self._layout, (int(field[i]) for field in self._fields)
        powers = [1 << k for k in reversed(range(layout.mantissa)) if rest >> k & 1]
        terms = [f"-{text_of(1 << layout.mantissa)}"] * sign if layout.sign else []
        return " + ".join(terms + [text_of(power) for power in powers]) or "0"

    def _explanation(self) -> list[list[str]]:
        """The lines below the title of a single number."""
        layout = self._layout
        if not self.is_float:
            powers = self._sum(0, lambda power: f"2^{power.bit_length() - 1}")
            return [["bits", self._parts(0)[2]], ["value", self._sum(0, str)], ["powers", powers]]
        parts, (sign, exponent, mantissa) = self._parts(0), (int(field[0]) for field in self._fields)
        lines = [["sign", parts[0], "-1" if sign else "+1"]] if layout.sign else []
        if not np.isfinite(float(self.x)):
            value = "NaN" if np.isnan(float(self.x)) else "infinity"
            lines += [["exponent", parts[1], value]]
            return lines + ([["mantissa", parts[2], ""]] if layout.mantissa else [])
        power, real = int(self.exponent), float(self.mantissa)
        subnormal = layout.mantissa > 0 and exponent == 0
        note = ", subnormal" if mantissa else ", zero"
        difference = f"{max(exponent, int(subnormal))} - {layout.bias} = {power}{note if subnormal else ''}"
        lines.append(["exponent", parts[1], difference])
        if layout.mantissa:
            fraction = f"{int(not subnormal)} + {mantissa}/{1 << layout.mantissa} = {_short(real)}"
            lines.append(["mantissa", parts[2], fraction])
        return [*lines, ["value", *self._meanings(range(1))]]
