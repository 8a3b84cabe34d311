"""The report of a calibration: ranges seen and chosen, clipped shares, the SQNR of every technique."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._tables import NamedTable, as_json, number
from ..dtypes import CODE_TYPES
from ..errors import CalibrationError
from ..observers import Observer
from ..qparams import QParams
from ..reports.advice import AFFINE_DB, EXACT_DB, affine_of, one_sided
from ..reports.compare import texts
from .estimate import estimate

__all__ = ["CalibratedTensor", "CalibrationReport", "Technique", "summarize"]

_GAIN_DB = 1.0  # a warning names another technique that gains at least this much


@dataclass(frozen=True)
class Technique:
    """The range and the cost of one way to choose the range.

    Attributes
    ----------
    method : str
    low, high : float
        The smallest and the largest value that a code stands for, over all channels.
    clipped : float or None
        Share of the elements that lie more than half a step outside.
    sqnr_db : float or None
        Signal-to-quantization-noise ratio in dB, of every finite element, as `compare` measures it.
    rest_db : float or None
        The same without the outliers that "mse" ignores; equal if there are none.
    """

    method: str
    low: float
    high: float
    clipped: float | None
    sqnr_db: float | None
    rest_db: float | None


@dataclass(frozen=True, repr=False)
class CalibratedTensor:
    """What an observer saw of one tensor, and the cost of its parameters.

    Attributes
    ----------
    name, observer, dtype, granularity : str
    count, nan, inf : int
        Finite elements, NaN and infinities seen; of moments rows.
    min, max : float or None
        The range seen, over all channels.
    chosen : Technique or None
        The parameters; None when there are none.
    techniques : tuple of Technique
        The cost of every technique, where the observer keeps a histogram.
    reason : str or None
        Why there are no parameters.
    apart : int
        Outliers that "mse" and `rest_db` leave out, because no grid represents them and the rest.
    apart_from : float
        The smallest magnitude of those, down to its bin's lower end; 0 where none is.
    affine_db : float or None
        The SQNR of an affine grid over the same range, where the grid is symmetric and values lie on one side of zero.
    """

    name: str
    observer: str
    dtype: str
    granularity: str
    count: int
    nan: int
    inf: int
    min: float | None
    max: float | None
    chosen: Technique | None
    techniques: tuple[Technique, ...] = ()
    reason: str | None = None
    apart: int = 0
    apart_from: float = 0.0
    affine_db: float | None = None

    @property
    def best(self) -> Technique | None:
        """The technique of the highest SQNR; of equal ones the first."""
        return max(self.techniques, key=lambda technique: _decibels(technique.sqnr_db), default=None)

    @property
    def best_rest(self) -> Technique | None:
        """The technique of the highest SQNR of all elements but the outliers."""
        return max(self.techniques, key=lambda technique: _decibels(technique.rest_db), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, flat; ``sqnr_db_mse`` is the SQNR of the technique "mse"."""
        chosen = self.chosen
        return {
            "name": self.name, "observer": self.observer, "dtype": self.dtype, "granularity": self.granularity,
            "count": self.count, "nan": self.nan, "inf": self.inf, "min": self.min, "max": self.max,
            "low": None if chosen is None else chosen.low,
            "high": None if chosen is None else chosen.high,
            "clipped": None if chosen is None else chosen.clipped,
            "sqnr_db": None if chosen is None else chosen.sqnr_db,
            "rest_db": None if chosen is None else chosen.rest_db,
            **{f"sqnr_db_{technique.method}": technique.sqnr_db for technique in self.techniques},
            **{f"rest_db_{technique.method}": technique.rest_db for technique in self.techniques},
            "best": None if self.best is None else self.best.method,
            "best_rest": None if self.best_rest is None else self.best_rest.method,
            "reason": self.reason, "apart": self.apart, "apart_from": self.apart_from,
            "affine_db": self.affine_db,
        }  # fmt: skip

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dict in a list, ready for a data frame."""
        return [self.to_dict()]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON; null stands for what is not finite or does not apply."""
        return as_json(self.to_dict(), indent)

    def __str__(self) -> str:
        return str(CalibrationReport((self,), 0, False))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return CalibrationReport((self,), 0, False)._repr_html_()

    @property
    def warnings(self) -> list[str]:
        """One sentence, with its number, for each result that is valid but surprising."""
        sentences = []
        if self.nan or self.inf:
            total, unit = self.count + self.nan + self.inf, "elements" if self.dtype else "rows"
            sentences.append(f"{self.nan:,} NaN and {self.inf:,} infinite of {total:,} {unit} were left out.")
        if self.apart:
            figures = ", ".join(f"{technique.method} {_cell(technique.rest_db)}" for technique in self.techniques)
            sentences.append(
                f"{self.apart:,} of {self.count:,} elements, from magnitude {self.apart_from:.4g} on, are set apart by "
                f"mse as outliers. The rest has an SQNR of, in dB: {figures}."
            )
        if self.reason is not None:
            sentences.append(f"There are no parameters. {self.reason}")
        best, chosen = self.best_rest, self.chosen
        if best is not None and chosen is not None:
            gain = _decibels(best.rest_db) - _decibels(chosen.rest_db)
            if gain >= _GAIN_DB and math.isfinite(gain):
                sentences.append(f"{best.method} would gain about {gain:.1f} dB{' for the rest' * bool(self.apart)}.")
        if self.affine_db is not None and chosen is not None and _decibels(chosen.sqnr_db) < EXACT_DB:
            gain = self.affine_db - _decibels(chosen.sqnr_db)
            if gain >= AFFINE_DB:
                where = "All values lie" if self.granularity == "per tensor" else "Channels or groups lie"
                sentences.append(one_sided(where, gain))
        return sentences


class CalibrationReport(NamedTable[CalibratedTensor]):
    """The tensors of a calibration as one table: ranges, clipped shares, SQNR of every technique.

    SQNR and the clipped share are estimates from the observer's histogram, with values spread evenly inside a bin; they
    are exact while the values of every channel are few (1024 of a tensor, 320 of a channel or group). An
    observer without a histogram has no SQNR, and min-max clips nothing. Where "mse" leaves out outliers, "best" names
    two techniques: the best for all elements, and the best for the rest.

    Attributes
    ----------
    tensors : tuple of CalibratedTensor
    batches : int
    settled : bool

    Examples
    --------
    >>> from qnumpy import calibrate
    >>> calibration = calibrate(lambda x: {"x": x}, [np.array([-1.0, 0.5, np.nan])], MinMaxObserver())
    >>> print(calibration.report())
    tensor  type  granularity  observer  min  max  low  high  clipped %  SQNR dB
    x       int8  per tensor   MinMax     -1  0.5   -1     1          0        -
    <BLANKLINE>
    warning: x: 1 NaN and 0 infinite of 3 elements were left out.
    """

    def __init__(self, tensors: Iterable[CalibratedTensor], batches: int, settled: bool) -> None:
        super().__init__(tensors, CalibratedTensor, "tensors")
        self.batches, self.settled = batches, settled

    @property
    def tensors(self) -> tuple[CalibratedTensor, ...]:
        return self._items

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(technique.method for tensor in self for technique in tensor.techniques))

    def _head(self) -> list[str]:
        methods = self._methods()
        head = ["tensor", "type", "granularity", "observer", "min", "max", "low", "high", "clipped %", "SQNR dB"]
        return head + [f"{method} dB" for method in methods] + (["best"] if methods else [])

    def _row(self, tensor: CalibratedTensor) -> list[str]:
        words = [tensor.name, tensor.dtype, tensor.granularity, tensor.observer]
        chosen = tensor.chosen
        if chosen is None:
            return [*words, "no parameters" if tensor.dtype else f"{tensor.count:,} rows"]
        sqnr, _, _, clipped = texts(chosen.sqnr_db, None, None, chosen.clipped)
        row = [*words, *map(number, (tensor.min, tensor.max, chosen.low, chosen.high)), clipped, sqnr]
        sqnrs = {technique.method: technique.sqnr_db for technique in tensor.techniques}
        methods = self._methods()
        names = [technique.method for technique in (tensor.best, tensor.best_rest) if technique is not None]
        best = ", ".join(names[: 2 if tensor.apart else 1]) or "-"
        return row + [_cell(sqnrs.get(method)) for method in methods] + [best] * bool(methods)

    def _about(self) -> dict[str, Any]:
        return {"batches": self.batches, "settled": self.settled}

    def _sentences(self) -> list[str]:
        return [f"{tensor.name}: {sentence}" for tensor in self for sentence in tensor.warnings]


def _decibels(value: float | None) -> float:
    return -math.inf if value is None else value


def _cell(value: float | None) -> str:
    return texts(value, None, None, None)[0]


def summarize(name: str, observer: Observer) -> CalibratedTensor:
    """Return the figures of an observer: what it saw, what it chose, and what each technique would give."""
    if not observer.chooses_range:
        rows, nan, inf = (int(getattr(observer, field, 0)) for field in ("count_", "nan_", "infinite_"))
        return CalibratedTensor(name, observer.label, "", "", rows, nan, inf, None, None, None)
    count = nan = inf = 0
    low = high = chosen = reason = None
    techniques: tuple[Technique, ...] = ()
    apart, apart_from = 0, 0.0
    if hasattr(observer, "min_"):
        count, nan, inf = (int(counts.sum()) for counts in (observer.count_, observer.nan_, observer.infinite_))
        if count:
            low, high = float(observer.min_.min()), float(observer.max_.max())
    affine_db = None
    try:
        params = observer.qparams()
        chosen = _technique("chosen", observer, params)
        affine = affine_of(params, observer.min_, observer.max_)
        if affine is not None and observer.sketch is not None:
            affine_db = estimate(observer.sketch, affine[0], observer.symmetric)[0].sqnr_db
    except ValueError as error:  # nothing finite, or a range that no float32 scale covers
        reason = str(error)
    with contextlib.suppress(CalibrationError):  # nothing finite: `reason` has the sentence
        techniques = tuple(_technique(method, observer, params) for method, params in observer.techniques().items())
        if observer.sketch is not None:
            outliers, magnitude = observer.sketch.outliers(CODE_TYPES[observer.dtype])
            apart = int(outliers.sum())
            apart_from = float(np.min(magnitude, where=outliers > 0, initial=np.inf)) if apart else 0.0
    granularity = observer.granularity.describe()
    return CalibratedTensor(
        name, observer.label, observer.dtype, granularity, count, nan, inf, low, high, chosen, techniques, reason,
        apart, apart_from, affine_db,
    )  # fmt: skip


def _technique(method: str, observer: Observer, params: QParams) -> Technique:
    low, high = (end.reshape(-1) for end in params.range())
    ends = float(low.min()), float(high.max())
    sketch = observer.sketch
    if sketch is None:
        return Technique(method, *ends, 0.0 if observer.covers_all else None, None, None)
    total, rest = estimate(sketch, params, observer.symmetric)
    return Technique(method, *ends, total.clipped, total.sqnr_db, rest.sqnr_db)
