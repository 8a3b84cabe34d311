"""What numbers lose in a narrower float type, and how this CPU uses the type."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from .. import _args, _check
from .._tables import Table, as_json, html_facts, number, tensors
from .._typing import DType, RealLike
from ..dtypes import FLOAT_TYPES, FloatType
from ..ops.float_error import float_error, float_features

__all__ = ["FloatReport", "FloatReportTable", "float_report"]

LOST = 0.001  # share of the nonzero numbers: up to it, numbers that become zero do not make x "underflow"
COARSE = 0.1  # share of the nonzero numbers: up to it, numbers that become subnormal do not make x "coarse"
TARGETS = {
    name: float_type for name, float_type in FLOAT_TYPES.items() if float_type.kind != "SCALE" and name != "float64"
}


def float_report(x: RealLike, dtype: DType = "float16", *, name: str | None = None) -> "FloatReport":
    """Report what a narrower float type would do to an array, in one pass over it.

    Parameters
    ----------
    x : array_like of floats, any shape
        float32, float64, float16, bfloat16 or a narrower format.
    dtype : str or dtype, default "float16"
        float32, float16, bfloat16, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float6_e2m3fn,
        float6_e3m2fn or float4_e2m1fn.
    name : str, optional
        The name in tables.

    Returns
    -------
    FloatReport

    Raises
    ------
    TypeError
        name is no string.
    TypeError
        x is no array of floats.
    TypeError
        dtype is none of these.

    Notes
    -----
    Rounds as `cast` does, half to even, once from x. Relative errors are those of the numbers that neither overflow nor
    become zero, each with the precision of float32, and summed in units of 2**-30 for their mean. Equal bits on every
    ISA, thread count and memory layout.

    Examples
    --------
    The epsilon of a LayerNorm is often 1e-12. In float16 it is zero, and a row of equal values is divided by zero:

    >>> report = float_report(np.float32(1e-12), "float16")
    >>> report.verdict, report.underflow, f"{report.smallest_eps:.3g}"
    ('underflows', 1, '5.96e-08')
    >>> print(report.sentence)
    1 of 1 nonzero numbers becomes zero. An epsilon must be at least 5.96e-08, 6.1e-05 where subnormals count as zero.

    >>> float_report(np.array([0.1, 70000.0, np.inf], np.float32)).overflow
    1
    """
    owner = "float_report"
    if not (name is None or isinstance(name, str)):
        raise TypeError(_check.must(owner, "name", "a string", _check.typed(name)))
    array, source = _args.real(owner, "x", x, FLOAT_TYPES)
    target = _args.floating(owner, dtype, TARGETS)
    error = float_error(array, source, target)
    return FloatReport(
        name=name,
        shape=tuple(array.shape),
        source=source.name,
        dtype=target.name,
        size=array.size,
        nan=error.nan,
        inf=error.infinite,
        overflow=error.overflow,
        underflow=error.underflow,
        subnormal=error.subnormal,
        nonzero=error.overflow + error.underflow + error.kept,
        max_relative_error=error.max_relative_error,
        mean_relative_error=error.relative_error / 2**30 / error.kept if error.kept else 0.0,
        largest=error.largest,
        smallest=0.0 if error.smallest == math.inf else error.smallest,
    )


@dataclass(frozen=True, kw_only=True)
class FloatReport:
    """The result of `float_report`; frozen.

    Attributes
    ----------
    name : str or None
    shape : tuple of int
    source, dtype : str
        The type of x, and the narrower one.
    size, nonzero : int
        Elements; those that are finite and not zero.
    nan, inf : int
        Elements of x that are NaN, infinite.
    overflow : int
        Finite numbers that round beyond the largest of the type.
    underflow : int
        Nonzero numbers that become zero.
    subnormal : int
        Numbers that become subnormal: they keep fewer bits, and some hardware flushes them to zero.
    max_relative_error, mean_relative_error : float
        Over the numbers that neither overflow nor become zero; 0 without any.
    largest, smallest : float
        Magnitudes in x, of finite nonzero numbers; 0 without any.

    Examples
    --------
    >>> report = float_report(np.array([0.1, 1e-12, 70000.0], np.float32), "float16")
    >>> report.overflow, report.underflow, report.nonzero
    (1, 1, 3)
    """

    name: str | None
    shape: tuple[int, ...]
    source: str
    dtype: str
    size: int
    nonzero: int
    nan: int
    inf: int
    overflow: int
    underflow: int
    subnormal: int
    max_relative_error: float
    mean_relative_error: float
    largest: float
    smallest: float

    @property
    def type(self) -> FloatType:
        """The float type, with its limits."""
        return FLOAT_TYPES[self.dtype]

    @property
    def smallest_eps(self) -> float:
        """The smallest epsilon that is not zero in the type: its smallest subnormal number."""
        return self.type.smallest_subnormal

    @property
    def verdict(self) -> str:
        """One word: "overflows" where a finite number does, or x has an infinity or NaN that the type lacks, so that
        `cast` with ``overflow="raise"`` refuses x; "underflows" where more than 0.1 % of the nonzero numbers become
        zero; "coarse" where more than 10 % become subnormal; else "fits"."""
        if self.overflow or self._lacking():
            return "overflows"
        if self.underflow > LOST * self.nonzero:
            return "underflows"
        return "coarse" if self.subnormal > COARSE * self.nonzero else "fits"

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        to = self.type

        def some(count: int, one: str, many: str) -> str:
            return f"{count:,} of {self.nonzero:,} nonzero numbers {one if count == 1 else many}"

        if self.verdict == "overflows":
            start = f"{some(self.overflow, 'overflows', 'overflow')}: the largest, {self.largest:.3g}, is beyond "
            return " ".join([f"{start}{to.largest:.6g}."] * bool(self.overflow) + self._lacking())
        if self.verdict == "underflows":
            start = f"{some(self.underflow, 'becomes zero', 'become zero')}. An epsilon must be at least "
            return f"{start}{to.smallest_subnormal:.3g}, {to.smallest_normal:.3g} where subnormals count as zero."
        if self.verdict == "coarse":
            start = f"{some(self.subnormal, 'becomes subnormal and keeps', 'become subnormal and keep')} fewer than "
            return f"{start}{to.mantissa_bits + 1} bits. Scale them up first, as quantize does."
        lost = f"; {some(self.underflow, 'becomes zero', 'become zero')}" if self.underflow else ""
        kept = f"; not finite already: {self._not_finite()}" if self.nan or self.inf else ""
        return f"Nothing overflows; the mean relative error is {self.mean_relative_error:.2g}{lost}{kept}."

    @property
    def computes(self) -> bool:
        """Whether this CPU has arithmetic in the type; otherwise it only stores it and computes in float32."""
        return _cpu(self.dtype)[0]

    @property
    def cpu(self) -> str:
        """How this CPU uses the type."""
        return _cpu(self.dtype)[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names."""
        figures = {field.name: getattr(self, field.name) for field in fields(self)}
        figures |= {key: getattr(self, key) for key in ("smallest_eps", "verdict", "sentence", "computes", "cpu")}
        return figures | {"shape": list(self.shape)}

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dict in a list, ready for a data frame."""
        return [self.to_dict()]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON."""
        return as_json(self.to_dict(), indent)

    def __str__(self) -> str:
        lines = [f"  {label:<14}  {text}" for label, text in self._lines()]
        return "\n".join([self._title(), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_facts(self._title(), self._lines())

    def _title(self) -> str:
        title = "" if self.name is None else f"{self.name}: "
        return f"{title}{self.shape} {self.source} as {self.dtype}: {self.verdict}"

    def _lines(self) -> list[tuple[str, str]]:
        to = self.type
        lines = [
            ("magnitudes", f"{number(self.smallest)} to {number(self.largest)}"),
            (
                "type holds",
                f"{number(to.smallest_subnormal)} to {to.largest:.6g}, normal from {to.smallest_normal:.3g}",
            ),
            ("overflow", self._share(self.overflow)),
            ("underflow", self._share(self.underflow)),
            ("subnormal", self._share(self.subnormal)),
            ("relative error", f"{self.mean_relative_error:.3g} mean, {self.max_relative_error:.3g} worst"),
            ("smallest eps", f"{self.smallest_eps:.3g}"),
            ("this CPU", self.cpu),
            ("verdict", self.sentence),
        ]
        if self.nan or self.inf:
            lines.insert(5, ("not finite", self._not_finite()))
        return lines

    def _not_finite(self) -> str:
        return f"{self.nan:,} NaN, {self.inf:,} infinite"

    def _lacking(self) -> list[str]:
        """Return a sentence for the infinities, and one for the NaN, that the type has no codes for."""
        to, sentences = self.type, []
        for count, has, name, instead in (
            (self.inf, to.has_infinity, "infinity", "NaN" if to.has_nan else f"{to.largest:g} or -{to.largest:g}"),
            (self.nan, to.has_nan, "NaN", "zero"),
        ):
            if count and not has:
                sentences.append(
                    f"{to.name} has no {name}: {count:,} {'becomes' if count == 1 else 'become'} {instead}."
                )
        return sentences

    def _share(self, count: int) -> str:
        return f"{count:,}" if not count else f"{count:,} ({100 * count / self.nonzero:.3g} %)"


def _cpu(dtype: str) -> tuple[bool, str]:
    """Return whether the CPU computes in the type, and a phrase that describes how it uses the type."""
    has = float_features()
    if dtype == "float32":
        return True, "computes in float32"
    if dtype == "float16":
        for feature in ("AVX512_FP16", "NEON FP16"):
            if has[feature]:
                return True, f"computes in float16 ({feature})"
        conversion = " (converts by F16C)" if has["F16C"] else ""
        return False, f"stores float16{conversion}, computes in float32"
    if dtype == "bfloat16":
        for feature in ("AVX512_BF16", "NEON BF16"):
            if has[feature]:
                return True, f"multiplies bfloat16 and adds in float32 ({feature})"
    return False, f"stores {dtype}, computes in float32"


class FloatReportTable(Table[FloatReport]):
    """Several float reports as one table.

    Parameters
    ----------
    reports : iterable of FloatReport

    Raises
    ------
    TypeError
        An item is no FloatReport.

    Examples
    --------
    >>> x = np.array([0.1, 1.0, 70000.0, np.inf], np.float32)
    >>> print(FloatReportTable([float_report(x, name="a"), float_report(x * x, name="b")]))
    tensor     shape  source   type     verdict      overflow  underflow  subnormal  not finite  mean error  worst error
    a          (4,)   float32  float16  overflows           1          0          0           1    0.000122     0.000244
    b          (4,)   float32  float16  overflows           1          0          0           1    0.000107     0.000214
    2 tensors                           2 overflows         2          0          0           2
    """

    _left = 5

    def __init__(self, reports: Iterable[FloatReport]) -> None:
        super().__init__(reports, FloatReport, "reports")

    @property
    def reports(self) -> tuple[FloatReport, ...]:
        return self._items

    def __getitem__(self, index: int) -> FloatReport:
        return self._items[index]

    @property
    def totals(self) -> dict[str, Any]:
        """Sums of the counts, and the number of tensors with each verdict."""
        verdicts = [report.verdict for report in self]
        names = ("size", "nonzero", "nan", "inf", "overflow", "underflow", "subnormal")
        return {
            "tensors": len(self),
            **{name: sum(getattr(report, name) for report in self) for name in names},
            "verdicts": {word: verdicts.count(word) for word in _VERDICTS if word in verdicts},
        }

    def _head(self) -> list[str]:
        return _HEAD

    def _row(self, report: FloatReport) -> list[str]:
        losses = (report.overflow, report.underflow, report.subnormal, report.nan + report.inf)
        counts = [f"{count:,}" for count in losses]
        errors = [f"{error:.3g}" for error in (report.mean_relative_error, report.max_relative_error)]
        name = "-" if report.name is None else report.name
        return [name, str(report.shape), report.source, report.dtype, report.verdict, *counts, *errors]

    def _foot(self) -> list[list[str]]:
        totals = self.totals
        counts = [f"{totals[name]:,}" for name in ("overflow", "underflow", "subnormal")]
        counts.append(f"{totals['nan'] + totals['inf']:,}")
        verdicts = ", ".join(f"{count} {word}" for word, count in totals["verdicts"].items())
        return [[tensors(len(self)), "", "", "", verdicts, *counts, "", ""]]

    def _about(self) -> dict[str, Any]:
        return {"totals": self.totals}


_VERDICTS = ("overflows", "underflows", "coarse", "fits")
_HEAD = ["tensor", "shape", "source", "type", "verdict", "overflow", "underflow", "subnormal", "not finite",
         "mean error", "worst error"]  # fmt: skip
