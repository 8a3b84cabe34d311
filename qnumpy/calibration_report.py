"""The report of a calibration: ranges seen and chosen, what is clipped, the SQNR that every technique would give."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .estimate import METHODS, estimate
from .observers import HistogramObserver, MinMaxObserver, Observer
from .qparams import QParams, describe
from .report import MAX_ROWS, _html_list, _html_row, _json, _number, _texts, aligned

__all__ = ["CalibratedTensor", "CalibrationReport", "Technique", "calibrated"]

_GAIN_DB = 1.0  # what makes another technique worth a sentence


@dataclass(frozen=True)
class Technique:
    """What one way to choose the range would give.

    Attributes
    ----------
    method : str
    low, high : float
        The smallest and the largest value that a code stands for, over all channels.
    clipped : float or None
        Share of the elements that lie more than half a step outside.
    sqnr_db : float or None
        Signal-to-quantization-noise ratio in dB.
    """

    method: str
    low: float
    high: float
    clipped: float | None
    sqnr_db: float | None


@dataclass(frozen=True)
class CalibratedTensor:
    """What an observer has seen of one tensor, and what its parameters cost.

    Attributes
    ----------
    name, observer, dtype, granularity : str
    count, nan, inf : int
        Finite elements, NaN and infinities seen.
    min, max : float or None
        The range seen, over all channels.
    chosen : Technique or None
        The parameters; None when there are none.
    techniques : tuple of Technique
        What every technique would give, where the observer keeps a histogram.
    reason : str or None
        Why there are no parameters.
    apart : int
        Elements that "mse" and every SQNR leave out, as outliers that no grid serves.
    apart_from : float
        The smallest magnitude of those, down to its bin's lower end; 0 where none is.
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

    @property
    def best(self) -> Technique | None:
        """The technique of the highest SQNR; of equal ones the first."""
        return max(self.techniques, key=lambda technique: technique.sqnr_db or 0.0, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, flat; ``sqnr_db_mse`` is what the technique "mse" would give."""
        chosen = self.chosen
        return {
            "name": self.name, "observer": self.observer, "dtype": self.dtype, "granularity": self.granularity,
            "count": self.count, "nan": self.nan, "inf": self.inf, "min": self.min, "max": self.max,
            "low": None if chosen is None else chosen.low,
            "high": None if chosen is None else chosen.high,
            "clipped": None if chosen is None else chosen.clipped,
            "sqnr_db": None if chosen is None else chosen.sqnr_db,
            **{f"sqnr_db_{technique.method}": technique.sqnr_db for technique in self.techniques},
            "best": None if self.best is None else self.best.method,
            "reason": self.reason, "apart": self.apart, "apart_from": self.apart_from,
        }  # fmt: skip

    @property
    def warnings(self) -> list[str]:
        """What is valid but surprising, one sentence each, with the number."""
        found = []
        if self.nan or self.inf:
            total = self.count + self.nan + self.inf
            found.append(f"{self.nan:,} NaN and {self.inf:,} infinite of {total:,} elements were left out.")
        if self.apart:
            found.append(
                f"{self.apart:,} of {self.count:,} elements, from magnitude {self.apart_from:.4g} on, are set apart: "
                "mse and every SQNR leave them out."
            )
        if self.reason is not None:
            found.append(f"There are no parameters. {self.reason}")
        best, chosen = self.best, self.chosen
        if best is not None and chosen is not None and best.sqnr_db is not None and chosen.sqnr_db is not None:
            gain = best.sqnr_db - chosen.sqnr_db
            if gain >= _GAIN_DB and math.isfinite(gain):
                found.append(f"{best.method} would gain about {gain:.1f} dB.")
        return found


class CalibrationReport:
    """The tensors of a calibration as one table: ranges, what is clipped, SQNR of every technique.

    SQNR and the clipped share are estimates from the observer's histogram, its values taken as even inside a bin, and
    outliers that no grid serves left out of the SQNR; a range without a histogram has none, and min-max clips nothing.

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

    def __init__(self, tensors: tuple[CalibratedTensor, ...], batches: int, settled: bool) -> None:
        self.tensors, self.batches, self.settled = tensors, batches, settled

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[CalibratedTensor]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> CalibratedTensor:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dict for each tensor, ready for a data frame."""
        return [tensor.to_dict() for tensor in self.tensors]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON: "tensors", "batches" and "settled"; null stands for what is not finite or does not apply."""
        content = {"tensors": self.to_records(), "batches": self.batches, "settled": self.settled}
        return _json(content, indent)

    def __str__(self) -> str:
        lines = aligned([self._head(), *map(self._cells, self.tensors)], left=4)
        warnings = self._warnings()
        return "\n".join(lines + [""] * bool(warnings) + [f"warning: {sentence}" for sentence in warnings])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = self._head()
        rows = [_html_row(self._cells(tensor), columns=len(head)) for tensor in self.tensors[:MAX_ROWS]]
        if len(self) > MAX_ROWS:
            rows.append(_html_row([f"... and {len(self) - MAX_ROWS:,} more"], columns=len(head)))
        return (
            f"<table><thead>{_html_row(head, 'th')}</thead><tbody>{''.join(rows)}</tbody></table>"
            f"{_html_list(self._warnings())}"
        )

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(technique.method for tensor in self.tensors for technique in tensor.techniques))

    def _head(self) -> list[str]:
        methods = self._methods()
        head = ["tensor", "type", "granularity", "observer", "min", "max", "low", "high", "clipped %", "SQNR dB"]
        return head + [f"{method} dB" for method in methods] + (["best"] if methods else [])

    def _cells(self, tensor: CalibratedTensor) -> list[str]:
        words = [tensor.name, tensor.dtype, tensor.granularity, tensor.observer]
        chosen = tensor.chosen
        if chosen is None:
            return [*words, "no parameters"]
        sqnr, _, _, clipped = _texts(chosen.sqnr_db, None, None, chosen.clipped)
        row = [*words, *map(_number, (tensor.min, tensor.max, chosen.low, chosen.high)), clipped, sqnr]
        found = {technique.method: technique.sqnr_db for technique in tensor.techniques}
        methods = self._methods()
        best = "-" if tensor.best is None else tensor.best.method
        return row + [_texts(found.get(method), None, None, None)[0] for method in methods] + [best] * bool(methods)

    def _warnings(self) -> list[str]:
        found = [f"{tensor.name}: {sentence}" for tensor in self.tensors for sentence in tensor.warnings]
        left = len(found) - MAX_ROWS
        return found if left <= 0 else [*found[:MAX_ROWS], f"... and {left:,} more."]


def calibrated(name: str, observer: Observer) -> CalibratedTensor:
    """Say what an observer has seen and chosen."""
    kind = type(observer).__name__
    count = nan = inf = 0
    low = high = own = reason = None
    techniques: tuple[Technique, ...] = ()
    apart, apart_from = 0, 0.0
    if hasattr(observer, "min_"):
        count, nan, inf = (int(each.sum()) for each in (observer.count_, observer.nan_, observer.infinite_))
        if count:
            low, high = float(observer.min_.min()), float(observer.max_.max())
    try:
        own = _technique("chosen", observer, observer.qparams())
        techniques = tuple(_techniques(observer))
        if isinstance(observer, HistogramObserver):
            each, magnitude = observer.apart()
            apart = int(each.sum())
            apart_from = float(np.min(magnitude, where=each > 0, initial=np.inf)) if apart else 0.0
    except ValueError as error:  # nothing finite, or a range that no float32 scale covers
        reason = str(error)
    what = f"{kind} {observer.method}" if isinstance(observer, HistogramObserver) else kind
    what = what.replace("Observer", "")
    granularity = describe(observer.granularity)
    return CalibratedTensor(
        name, what, observer.dtype, granularity, count, nan, inf, low, high, own, techniques, reason, apart, apart_from
    )


def _technique(method: str, observer: Observer, params: QParams) -> Technique:
    low = params.scale.astype(np.float64) * (params.qmin - params.zero_point)
    high = params.scale.astype(np.float64) * (params.qmax - params.zero_point)
    clipped, sqnr = (0.0 if isinstance(observer, MinMaxObserver) else None), None
    if isinstance(observer, HistogramObserver):
        sqnr, clipped = estimate(observer, params)
    return Technique(method, float(low.min()), float(high.max()), clipped, sqnr)


def _techniques(observer: Observer) -> Iterator[Technique]:
    if isinstance(observer, HistogramObserver):
        for method in METHODS:
            yield _technique(method, observer, observer.qparams(method))
