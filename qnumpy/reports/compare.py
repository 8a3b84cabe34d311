"""Reports on quantized arrays: figures and warnings as numbers, text, HTML and JSON."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import _check
from .._tables import (
    MAX_ROWS,
    Table,
    aligned,
    as_json,
    html_facts,
    html_list,
    html_row,
    more,
    number,
    printable,
    tensors,
)
from .._typing import Array, DType, RealLike
from ..arrays.codebook import CodebookArray
from ..arrays.gguf import GGUFArray
from ..arrays.mx import MXArray
from ..arrays.offset import OffsetArray
from ..arrays.quantized import QuantizedArray
from ..granularity import PerChannel, normalize_axis
from ..ops.reduce import ranges
from .advice import warnings
from .metrics import Quantized, Sums, measure, pair

__all__ = ["Channels", "Report", "ReportTable", "compare"]


def compare(
    x: RealLike,
    q: Quantized | CodebookArray | OffsetArray | RealLike,
    *,
    name: str | None = None,
    per_channel: bool = False,
    axis: int | None = None,
) -> "Report":
    """Compare an array with its quantized form.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
        The reference.
    q : QuantizedArray, MXArray, CodebookArray, OffsetArray, GGUFArray, or array_like of one of those types
        Of the shape of `x`: codes with parameters, or dequantized values. Of a CodebookArray and an OffsetArray no
        clipped share and no codes used are counted.
    name : str, optional
        The name in tables.
    per_channel : bool, default False
        Give the figures of every channel too, as `Report.channels`.
    axis : int, optional
        The axis of the channels; by default that of `q` per channel, else 0.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        name is no string.
    TypeError
        x or q is of another type.
    ValueError
        q has another shape than x.
    TypeError
        axis is no integer.
    ValueError
        axis is none of x's.

    Notes
    -----
    NaN and infinities of x are counted and left out of every figure. Sums are float64, over tiles of bounded memory;
    their last bits may depend on the memory layout of x.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> x = np.linspace(-1, 1, 1000, dtype=np.float32)
    >>> print(compare(x, quantize(x), name="ramp"))
    ramp: (1000,) float32 -> int8 per tensor
      bytes       4,000 -> 1,004 (3.98x)
      SQNR        48.11 dB
      MSE         5.16e-06
      max error   0.00393
      cosine      0.999992
      clipped     0 %
      codes used  255/255
    """
    owner = "compare"
    if isinstance(q, GGUFArray):
        report = compare(x, q.dequantize(), name=name, per_channel=per_channel, axis=axis)
        return replace(report, dtype=q.type, granularity=q.granularity.describe(), nbytes_after=q.nbytes)
    if not (name is None or isinstance(name, str)):
        raise TypeError(_check.must(owner, "name", "a string", _check.typed(name)))
    per_channel = _check.flag(owner, "per_channel", per_channel)
    held = q if isinstance(q, CodebookArray | OffsetArray) else None
    reals: Any = q if held is None else held.dequantize()
    source, values = pair(owner, x, reals)
    params = values.qparams if isinstance(values, QuantizedArray) else None
    coded = values if held is None else held
    granularity = coded.granularity if isinstance(coded, Quantized) or held is not None else None
    default = granularity.axis if isinstance(granularity, PerChannel) else None
    axis = default if axis is None else _check.integer(owner, "axis", axis)
    along = None if axis is None else normalize_axis(owner, axis, source.ndim)
    channels = None
    if per_channel:
        along_channels = normalize_axis(owner, 0, source.ndim) if along is None else along
        channels = _channels(owner, source, values, along_channels)
    sums = measure(owner, source, values)
    return Report(
        name=name,
        shape=source.shape,
        source=source.dtype.name,
        dtype=_type_name(coded),
        granularity=None if granularity is None else granularity.describe(),
        nbytes_before=source.nbytes,
        nbytes_after=coded.nbytes,
        levels=values.levels if isinstance(values, Quantized) else None,
        sums=sums,
        channels=channels,
        warnings=tuple(warnings(source, params, sums, along)),
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of `compare`; frozen. Figures are None for a tensor that was kept as it is.

    Attributes
    ----------
    name : str or None
    shape : tuple of int
    source, dtype : str
        Types before and after: "float32", "int8".
    granularity : str or None
        "per tensor", "per channel 0", "per group 32"; None without parameters.
    nbytes_before, nbytes_after : int
        After: codes at their bit width, scales and zero points.
    levels : int or None
        The number of codes that the parameters allow.
    sums : Sums or None
        The sums that the figures are computed from.
    channels : Channels or None
        The figures of every channel, on request.
    warnings : tuple of str
        A sentence, with its number, for each result that is valid but surprising.
    reason : str or None
        Why the tensor was kept.
    method : str or None
        How the range was chosen, where that is known.
    """

    name: str | None
    shape: tuple[int, ...]
    source: str
    dtype: str
    granularity: str | None
    nbytes_before: int
    nbytes_after: int
    levels: int | None = None
    sums: Sums | None = None
    channels: "Channels | None" = field(default=None, compare=False)
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    method: str | None = None

    @classmethod
    def kept(cls, name: str | None, shape: Iterable[int], dtype: DType, nbytes: int, reason: str) -> "Report":
        """Report a tensor that is kept as it is.

        Parameters
        ----------
        name : str or None
        shape : iterable of int
        dtype : str or dtype
        nbytes : int
        reason : str
            Tables print it in place of the figures.

        Examples
        --------
        >>> print(Report.kept("bias", (10,), "float32", 40, "1-D"))
        bias: (10,) float32, 40 bytes, kept: 1-D
        """
        shape = tuple(int(length) for length in shape)
        type_name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        return cls(
            name=name, shape=shape, source=type_name, dtype=type_name, granularity=None,
            nbytes_before=int(nbytes), nbytes_after=int(nbytes), reason=reason,
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """Bytes before by bytes after; 1 for an empty array."""
        return _ratio(self.nbytes_before, self.nbytes_after)

    @property
    def mse(self) -> float | None:
        """Mean squared error."""
        return None if self.sums is None else float(self.sums.mse)

    @property
    def sqnr_db(self) -> float | None:
        """Signal-to-quantization-noise ratio in dB; inf where the error is 0."""
        return None if self.sums is None else float(self.sums.sqnr_db)

    @property
    def max_abs_error(self) -> float | None:
        """The largest absolute error."""
        return None if self.sums is None else float(self.sums.peak)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two, seen as vectors."""
        return None if self.sums is None else float(self.sums.cosine)

    @property
    def clipped(self) -> float | None:
        """Share of the finite elements that lie more than half a step outside the range; None without parameters."""
        return None if self.sums is None or self.sums.clipped is None else float(self.sums.clipped)

    @property
    def codes_used(self) -> int | None:
        """How many different codes occur; None without codes."""
        return None if self.sums is None else self.sums.used

    @property
    def nan(self) -> int | None:
        """How many elements of the reference are NaN."""
        return None if self.sums is None else self.sums.nan

    @property
    def inf(self) -> int | None:
        """How many elements of the reference are infinite."""
        return None if self.sums is None else self.sums.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, without the channels."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "source": self.source,
            "dtype": self.dtype,
            "granularity": self.granularity,
            "method": self.method,
            "nbytes_before": self.nbytes_before,
            "nbytes_after": self.nbytes_after,
            "ratio": self.ratio,
            "mse": self.mse,
            "sqnr_db": self.sqnr_db,
            "max_abs_error": self.max_abs_error,
            "cosine": self.cosine,
            "clipped": self.clipped,
            "codes_used": self.codes_used,
            "levels": self.levels,
            "nan": self.nan,
            "inf": self.inf,
            "warnings": list(self.warnings),
            "kept": self.reason,
        }

    def to_records(self) -> list[dict[str, Any]]:
        """Return flat dicts, ready for a data frame: one for each channel if there are channels, else one."""
        return [self.to_dict()] if self.channels is None else self.channels.to_records()

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON; null stands for what is not finite (SQNR where ``mse`` is 0) or does not apply."""
        content = self.to_dict()
        if self.channels is not None:
            content["channels"] = self.channels.to_dict()
        return as_json(content, indent)

    def __str__(self) -> str:
        title = "" if self.name is None else f"{printable(self.name)}: "
        if self.reason is not None:
            return f"{title}{self.shape} {self.source}, {self.nbytes_after:,} bytes, kept: {self.reason}"
        after = self.dtype if self.granularity is None else f"{self.dtype} {self.granularity}"
        lines = [f"{title}{self.shape} {self.source} -> {after}"]
        lines += [f"  {label:<10}  {text}" for label, text in self._lines()]
        lines += [f"  warning: {sentence}" for sentence in self.warnings]
        if self.channels is not None:
            lines.append(str(self.channels))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        after = self.dtype if self.granularity is None else f"{self.dtype} {self.granularity}"
        caption = f"{self.name or 'Report'}: {self.shape} {self.source} -> {after}"
        lines = [("kept", self.reason)] if self.reason is not None else self._lines()
        below = self.channels._repr_html_() if self.channels is not None else ""
        return f"{html_facts(caption, lines)}{html_list(self.warnings)}{below}"

    def _lines(self) -> list[tuple[str, str]]:
        sqnr, error, cosine, clipped, used = self._figures()
        lines = [
            ("bytes", f"{_arrow(self.nbytes_before, self.nbytes_after)} ({self.ratio:.2f}x)"),
            ("SQNR", f"{sqnr} dB"),
            ("MSE", number(self.mse)),
            ("max error", error),
            ("cosine", cosine),
        ]
        if self.clipped is not None:
            lines += [("clipped", f"{clipped} %"), ("codes used", used)]
        if self.nan or self.inf:
            lines.append(("not finite", f"{self.nan:,} NaN, {self.inf:,} infinite"))
        return lines

    def _figures(self) -> tuple[str, ...]:
        used = "-" if self.codes_used is None else f"{self.codes_used}/{self.levels}"
        return (*texts(self.sqnr_db, self.max_abs_error, self.cosine, self.clipped), used)


@dataclass(frozen=True, eq=False, repr=False)
class Channels:
    """The figures of every channel, as arrays of shape (channels,).

    Attributes
    ----------
    axis : int
        Counted from the front.
    min, max : ndarray of float64
        The smallest and the largest finite element; NaN without one.
    sums : Sums
    """

    axis: int
    min: Array
    max: Array
    sums: Sums

    @property
    def mse(self) -> Array:
        return np.asarray(self.sums.mse)

    @property
    def sqnr_db(self) -> Array:
        return np.asarray(self.sums.sqnr_db)

    @property
    def max_abs_error(self) -> Array:
        return np.asarray(self.sums.peak)

    @property
    def cosine(self) -> Array:
        return np.asarray(self.sums.cosine)

    @property
    def clipped(self) -> Array | None:
        return self.sums.clipped  # type: ignore[no-any-return]

    @property
    def codes_used(self) -> Array | None:
        """Different codes of each channel; None for 16-bit codes."""
        return self.sums.used  # type: ignore[no-any-return]

    @property
    def nan(self) -> Array:
        return np.asarray(self.sums.nan)

    @property
    def inf(self) -> Array:
        return np.asarray(self.sums.inf)

    def __len__(self) -> int:
        return len(self.min)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dict for each channel."""
        names = ("min", "max", "mse", "sqnr_db", "max_abs_error", "cosine", "clipped", "codes_used", "nan", "inf")
        columns = [getattr(self, name) for name in names]
        lists = [[None] * len(self) if column is None else column.tolist() for column in columns]
        return [
            {"channel": index, **dict(zip(names, row, strict=True))}
            for index, row in enumerate(zip(*lists, strict=True))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the axis, and the figures of every channel."""
        return {"axis": self.axis, "figures": self.to_records()}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON; null stands for what is not finite or does not apply."""
        return as_json(self.to_dict(), indent)

    def __str__(self) -> str:
        title, head, rows, left = self._rows()
        lines = [title, *aligned([head, *rows], left=0), *left]
        return "\n".join(f"  {line}" for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title, head, rows, left = self._rows()
        body = "".join(map(html_row, rows))
        note = "".join(f"<p>{text}</p>" for text in left)
        return f"<table><caption>{title}</caption>{html_row(head, 'th')}{body}</table>{note}"

    def _rows(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        """The channels with the lowest SQNR, worst first."""
        worst = np.argsort(self.sqnr_db, kind="stable")[:MAX_ROWS]
        head = ["channel", "min", "max", "SQNR dB", "max error", "cosine", "clipped %", "codes used"]
        rows = []
        for i in worst.tolist():
            clipped = None if self.clipped is None else self.clipped[i]
            figures = texts(self.sqnr_db[i], self.max_abs_error[i], self.cosine[i], clipped)
            used = "-" if self.codes_used is None else str(self.codes_used[i])
            rows.append([str(i), number(self.min[i]), number(self.max[i]), *figures, used])
        return f"channels of axis {self.axis}, lowest SQNR first", head, rows, more(len(self))


class ReportTable(Table[Report]):
    """Several reports as one table, with totals.

    Parameters
    ----------
    reports : iterable of Report

    Raises
    ------
    TypeError
        An item is no Report.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> x = np.linspace(-1, 1, 1000, dtype=np.float32)
    >>> rows = [compare(x, quantize(x), name="ramp"), Report.kept("bias", (10,), "float32", 40, "1-D")]
    >>> print(ReportTable(rows))
    tensor              shape    type     granularity           bytes  ratio  SQNR dB  max error    cosine  clipped %  codes used
    ramp                (1000,)  int8     per tensor   4,000 -> 1,004  3.98x    48.11    0.00393  0.999992          0     255/255
    bias                (10,)    float32  kept               40 -> 40  1.00x  1-D
    2 tensors (1 kept)                                 4,040 -> 1,044  3.87x    48.11    0.00393  0.999992          0
    """  # noqa: E501 - the table is as wide as it is

    def __init__(self, reports: Iterable[Report]) -> None:
        super().__init__(reports, Report, "reports")
        self._names_methods = any(report.method not in (None, "minmax") for report in self)

    @property
    def reports(self) -> tuple[Report, ...]:
        return self._items

    def __getitem__(self, index: int) -> Report:
        return self._items[index]

    @property
    def totals(self) -> dict[str, Any]:
        """Bytes of all tensors, and the figures of the quantized ones as if they were one array."""
        figures = [report.sums for report in self if report.sums is not None]
        before = sum(report.nbytes_before for report in self)
        after = sum(report.nbytes_after for report in self)
        whole = add_sums(figures) if figures else None
        return {
            "tensors": len(self),
            "kept": sum(report.reason is not None for report in self),
            "nbytes_before": before,
            "nbytes_after": after,
            "ratio": _ratio(before, after),
            "mse": None if whole is None else float(whole.mse),
            "sqnr_db": None if whole is None else float(whole.sqnr_db),
            "max_abs_error": None if whole is None else float(whole.peak),
            "cosine": None if whole is None else float(whole.cosine),
            "clipped": None if whole is None or whole.clipped is None else float(whole.clipped),
            "nan": None if whole is None else whole.nan,
            "inf": None if whole is None else whole.inf,
        }

    def _head(self) -> list[str]:
        return [*_HEAD[:4], *self._extra("method"), *_HEAD[4:]]

    def _extra(self, cell: str) -> list[str]:
        """Return the cell of the column of methods, which is left out where all are "minmax" or unknown."""
        return [cell] if self._names_methods else []

    def _row(self, report: Report) -> list[str]:
        granularity = "kept" if report.reason is not None else report.granularity or "-"
        bytes_ = _arrow(report.nbytes_before, report.nbytes_after)
        first = [_name(report), str(report.shape), report.dtype, granularity]
        first += [*self._extra(report.method or "-"), bytes_, f"{report.ratio:.2f}x"]
        return [*first, report.reason] if report.reason is not None else [*first, *report._figures()]

    def _foot(self) -> list[list[str]]:
        totals = self.totals
        label = tensors(len(self)) + (f" ({totals['kept']} kept)" if totals["kept"] else "")
        figures = texts(totals["sqnr_db"], totals["max_abs_error"], totals["cosine"], totals["clipped"])
        bytes_ = _arrow(totals["nbytes_before"], totals["nbytes_after"])
        return [[label, "", "", "", *self._extra(""), bytes_, f"{totals['ratio']:.2f}x", *figures, ""]]

    def _about(self) -> dict[str, Any]:
        return {"totals": self.totals}

    def _sentences(self) -> list[str]:
        return [f"{_name(report)}: {sentence}" for report in self for sentence in report.warnings]


_HEAD = ["tensor", "shape", "type", "granularity", "bytes", "ratio",
         "SQNR dB", "max error", "cosine", "clipped %", "codes used"]  # fmt: skip


def _type_name(values: Any) -> str:
    if isinstance(values, MXArray):
        return values.format
    if isinstance(values, QuantizedArray | CodebookArray | OffsetArray):
        return values.code_name
    return str(values.dtype.name)


def _name(report: Report) -> str:
    return "-" if report.name is None else report.name


def _ratio(before: int, after: int) -> float:
    return before / after if after else 1.0


def _arrow(before: int, after: int) -> str:
    return f"{before:,} -> {after:,}"


def texts(sqnr: Any, error: Any, cosine: Any, clipped: Any) -> tuple[str, str, str, str]:
    """Return the figures as the cells of a table."""
    share = "-"
    if clipped is not None:
        share = "0" if clipped == 0 else "<0.01" if clipped < 0.0001 else f"{100 * clipped:.2f}"
    return (
        "-" if sqnr is None else f"{sqnr:.2f}",
        number(error),
        "-" if cosine is None else f"{cosine:.6f}",
        share,
    )


def add_sums(parts: list[Sums]) -> Sums:
    """Return the sums of several arrays as if they were one; the number of different codes is not known."""
    added = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("count", "nan", "inf", "signal", "energy", "dot", "noise")
    }
    known = [part.outside for part in parts if part.outside is not None]
    outside = sum(known) if len(known) == len(parts) else None
    return Sums(**added, peak=max(part.peak for part in parts), outside=outside, used=None)


def _channels(owner: str, source: Array, values: Any, axis: int) -> Channels:
    low, high, _, _ = ranges(owner, source, PerChannel(axis))
    empty = low > high
    sums = measure(owner, source, values, axis)
    return Channels(axis, np.where(empty, np.nan, low), np.where(empty, np.nan, high), sums)
