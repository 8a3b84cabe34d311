"""Static calibration: run any Python callable over batches, observe the arrays it names, choose their parameters.

What is observed is named by `tap` where it arises, or returned by the callable as a dict.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self, TypeVar

import numpy as np

from . import _check
from ._args import Array
from .errors import CalibrationError, FileFormatError
from .estimate import METHODS, estimate
from .observers import HistogramObserver, MinMaxObserver, Observer
from .qparams import QParams, describe
from .report import MAX_ROWS, _html_list, _html_row, _json, _number, _texts, aligned

__all__ = [
    "CalibratedTensor",
    "Calibration",
    "CalibrationReport",
    "Technique",
    "calibrate",
    "load_qparams",
    "observing",
    "save_qparams",
    "tap",
]

Observers = Observer | Mapping[str, Observer | None] | Callable[[str], Observer | None]

_active: ContextVar["Calibration | None"] = ContextVar("qnumpy.observing", default=None)
_GAIN_DB = 1.0  # what makes another technique worth a sentence
_State = TypeVar("_State", Observer, "Calibration")
_WILD = frozenset("*?[")  # what makes a name a pattern


class Calibration(Mapping[str, QParams]):
    """Observers by name, and a mapping from the names to the parameters that they choose.

    An observer of parts: `observe`, `merge`, `reset`, picklable; what one process learned on some batches can be merged
    with what another learned on others.

    Parameters
    ----------
    observers : Observer, mapping or callable, optional
        What observes an array of a name: one configuration for all; or a mapping from names and patterns (``"block*"``,
        as the shell's) to configurations, an exact name first, then the first pattern that matches; or a function from
        a name to a configuration. Names without one, or with None, are passed over. Observers given serve as
        configurations only: every name gets a fresh one. HistogramObserver() by default.

    Attributes
    ----------
    observers : dict of str to Observer
        By name, in the order of their first array.
    batches : int
        How many batches `calibrate` has run.
    settled : bool
        Whether `calibrate` stopped because the ranges had settled.

    Raises
    ------
    TypeError
        observers is nothing of that kind.

    Examples
    --------
    >>> calibration = Calibration(MinMaxObserver(symmetric=False))
    >>> calibration.observe("x", np.array([0.0, 2.55])).observe("x", np.array([1.0]))
    Calibration(1 tensor: x)
    >>> calibration["x"]
    QParams(int8, per tensor, scale=0.01, zero_point=-128)
    """

    def __init__(self, observers: Observers | None = None) -> None:
        self._templates = _checked("Calibration", observers)
        self.observers: dict[str, Observer] = {}
        self.batches = 0
        self.settled = False

    def observe(self, name: str, x: Any) -> Self:
        """Show an array to the observer of its name.

        Parameters
        ----------
        name : str
        x : array_like of float32, float64, float16 or bfloat16

        Returns
        -------
        Calibration
            Itself.

        Raises
        ------
        TypeError, ValueError
            The observer refuses x; a note says the name.
        """
        observer = self.observers.get(name)
        if observer is None:
            observer = _template(self._templates, name)
            if observer is None:
                return self
        try:
            observer.observe(x)
        except (TypeError, ValueError) as error:
            error.add_note(f"Observed as {name!r}.")
            raise
        self.observers[name] = observer
        return self

    def run(self, run: Callable[[Any], Any], batch: Any) -> Self:
        """Call ``run(batch)`` and observe the arrays that it taps, and those of a dict that it returns.

        Parameters
        ----------
        run : callable
        batch : object

        Returns
        -------
        Calibration
            Itself.

        Raises
        ------
        TypeError, ValueError
            An observer refuses an array; a note says the name. And whatever run raises.
        """
        with observing(self):
            found = run(batch)
        if isinstance(found, Mapping):
            for name, x in found.items():
                self.observe(name, x)
        self.batches += 1
        return self

    def merge(self, other: "Calibration") -> Self:
        """Learn what another calibration has learned, as if its batches had run here; it is left as it is.

        Parameters
        ----------
        other : Calibration

        Returns
        -------
        Calibration
            Itself.

        Raises
        ------
        TypeError
            other is no Calibration, or an observer cannot be merged, as a moving average.
        ValueError
            Two observers of one name are configured differently.
        """
        if not isinstance(other, Calibration):
            raise TypeError(_check.must("Calibration.merge", "other", "a Calibration", _check.typed(other)))
        for name, observer in other.observers.items():
            mine = self.observers[name] if name in self.observers else fresh(observer)
            try:
                self.observers[name] = mine.merge(observer)
            except (TypeError, ValueError) as error:
                error.add_note(f"Observed as {name!r}.")
                raise
        self.batches += other.batches
        return self

    def reset(self) -> Self:
        """Forget everything learned; the configuration stays.

        Returns
        -------
        Calibration
            Itself.
        """
        self.observers, self.batches, self.settled = {}, 0, False
        return self

    def qparams(self) -> dict[str, QParams]:
        """Return the parameters of every name as a plain dict.

        Returns
        -------
        dict of str to QParams

        Raises
        ------
        CalibrationError
            An observer has seen nothing finite.
        """
        return dict(self)

    def report(self) -> "CalibrationReport":
        """Say what was seen and what the parameters cost: ranges, clipped share, SQNR, NaN, the best technique.

        Returns
        -------
        CalibrationReport
        """
        return CalibrationReport(
            tuple(_row(name, observer) for name, observer in self.observers.items()), self.batches, self.settled
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def __getitem__(self, name: str) -> QParams:
        observer = self.observers[name]
        try:
            return observer.qparams()
        except CalibrationError as error:
            error.add_note(f"Observed as {name!r}.")
            raise

    def __contains__(self, name: object) -> bool:
        return name in self.observers

    def __iter__(self) -> Iterator[str]:
        return iter(self.observers)

    def __len__(self) -> int:
        return len(self.observers)

    def __repr__(self) -> str:
        names = ", ".join(list(self)[:5]) + (", ..." if len(self) > 5 else "")
        count = f"{len(self)} tensor{'' if len(self) == 1 else 's'}"
        return f"Calibration({count}{': ' if names else ''}{names})"


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
        The parameters; None when nothing finite was seen.
    techniques : tuple of Technique
        What every technique would give, where the observer keeps a histogram.
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
        }  # fmt: skip

    @property
    def warnings(self) -> list[str]:
        """What is valid but surprising, one sentence each, with the number."""
        found = []
        if self.nan or self.inf:
            total = self.count + self.nan + self.inf
            found.append(f"{self.nan:,} NaN and {self.inf:,} infinite of {total:,} elements were left out.")
        if self.chosen is None:
            found.append("It has no parameters: nothing finite was seen in it, or in one of its channels or groups.")
        best, chosen = self.best, self.chosen
        if best is not None and chosen is not None and best.sqnr_db is not None and chosen.sqnr_db is not None:
            gain = best.sqnr_db - chosen.sqnr_db
            if gain >= _GAIN_DB and math.isfinite(gain):
                found.append(f"{best.method} would gain about {gain:.1f} dB.")
        return found


class CalibrationReport:
    """The tensors of a calibration as one table: ranges, what is clipped, SQNR of every technique.

    SQNR and the clipped share are estimates from the observer's histogram, its values taken as even inside a bin; a
    range without a histogram has none, and min-max clips nothing.

    Attributes
    ----------
    tensors : tuple of CalibratedTensor
    batches : int
    settled : bool

    Examples
    --------
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
            return [*words, "nothing finite seen"]
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


def _row(name: str, observer: Observer) -> CalibratedTensor:
    kind = type(observer).__name__
    count = nan = inf = 0
    low = high = own = None
    techniques: tuple[Technique, ...] = ()
    if hasattr(observer, "min_"):
        count, nan, inf = (int(each.sum()) for each in (observer.count_, observer.nan_, observer.infinite_))
        if count:
            low, high = float(observer.min_.min()), float(observer.max_.max())
    with contextlib.suppress(CalibrationError):
        own = _technique("chosen", observer, observer.qparams())
        techniques = tuple(_techniques(observer))
    what = f"{kind} {observer.method}" if isinstance(observer, HistogramObserver) else kind
    what = what.replace("Observer", "")
    granularity = describe(observer.granularity)
    return CalibratedTensor(name, what, observer.dtype, granularity, count, nan, inf, low, high, own, techniques)


def _technique(method: str, observer: Observer, params: QParams) -> Technique:
    low = params.scale.astype(np.float64) * (params.qmin - params.zero_point)
    high = params.scale.astype(np.float64) * (params.qmax - params.zero_point)
    clipped, sqnr = (0.0 if isinstance(observer, MinMaxObserver) else None), None
    if isinstance(observer, HistogramObserver):
        found = estimate(observer, params)
        clipped, sqnr = found.clipped, found.sqnr_db
    return Technique(method, float(low.min()), float(high.max()), clipped, sqnr)


def _techniques(observer: Observer) -> Iterator[Technique]:
    if isinstance(observer, HistogramObserver):
        for method in METHODS:
            yield _technique(method, observer, observer.qparams(method))


def tap(name: str, x: Any) -> Any:
    """Name an array for whoever observes, and return it as it is.

    Parameters
    ----------
    name : str
    x : array_like of float32, float64, float16 or bfloat16

    Returns
    -------
    array_like
        `x` itself. Outside `observing` and `calibrate` nothing else happens.

    Raises
    ------
    TypeError, ValueError
        The observer refuses x; a note says the name.

    Examples
    --------
    >>> def layer(x, w):
    ...     return np.maximum(tap("layer.in", x) @ w, 0)
    >>> with observing(MinMaxObserver()) as seen:
    ...     _ = layer(np.array([[1.0, -2.0]]), np.eye(2))
    >>> dict(seen)
    {'layer.in': QParams(int8, per tensor, scale=0.01575, zero_point=0)}
    """
    calibration = _active.get()
    if calibration is not None:
        calibration.observe(name, x)
    return x


@contextlib.contextmanager
def observing(observers: "Observers | Calibration | None" = None) -> Iterator[Calibration]:
    """Observe every array that is tapped inside the ``with`` block.

    Parameters
    ----------
    observers : Observer, mapping, callable or Calibration, optional
        As in Calibration; a Calibration goes on learning.

    Returns
    -------
    context manager of Calibration

    Raises
    ------
    TypeError
        observers is nothing of that kind.

    Notes
    -----
    Inside another ``observing`` the inner one alone observes. Other threads are not observed: taps follow the context
    (`contextvars`) of the block.

    Examples
    --------
    >>> with observing({"x*": MinMaxObserver(dtype="uint8")}) as seen:
    ...     _ = tap("x1", np.array([1.0, 2.0])), tap("y", np.array([3.0]))
    >>> list(seen)
    ['x1']
    """
    if not isinstance(observers, Calibration):
        observers = Calibration(_checked("observing", observers))
    token = _active.set(observers)
    try:
        yield observers
    finally:
        _active.reset(token)


def calibrate(
    run: Callable[[Any], Any],
    batches: Iterable[Any],
    observers: Observers | None = None,
    *,
    progress: bool | None = None,
    patience: int | None = None,
    tolerance: float = 0.01,
) -> Calibration:
    """Run a callable over batches and choose parameters for every array it names.

    Parameters
    ----------
    run : callable
        Called as ``run(batch)``. It names arrays with `tap` where they arise, or returns them as a dict, or both;
        whatever else it returns is dropped.
    batches : iterable
        What `run` takes, one at a time; nothing is kept.
    observers : Observer, mapping or callable, optional
        As in Calibration.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    patience : int, optional
        Stop early: as soon as no range has moved in this many batches one after the other. Off by default.
    tolerance : float, default 0.01
        A range has moved in a batch if one of its ends did, by more than this fraction of the width it had; a new name,
        or a new channel, has moved.

    Returns
    -------
    Calibration
        A mapping from names to QParams, with the observers and a report.

    Raises
    ------
    TypeError
        run is not callable, batches not iterable, observers nothing of the kind, or an array is not real.
    ValueError
        patience is below 1, tolerance negative, or an observer refuses an array.
    CalibrationError
        There is no batch, the first one brings no array, or observers has a name (no pattern) that never comes.

    Notes
    -----
    With observers that are independent of the split, as MinMaxObserver and HistogramObserver, the result depends on
    the data alone, not on the size or the order of the batches.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w = rng.normal(size=(8, 4))
    >>> def model(x):
    ...     return {"x": x, "y": x @ w}
    >>> calibrate(model, (rng.normal(size=(16, 8)) for _ in range(10)))
    Calibration(2 tensors: x, y)
    """
    me = "calibrate"
    if not callable(run):
        raise TypeError(_check.must(me, "run", "callable", _check.typed(run)))
    try:
        source = iter(batches)
    except TypeError:
        raise TypeError(_check.must(me, "batches", "iterable", _check.typed(batches))) from None
    if patience is not None and _check.integer(me, "patience", patience) < 1:
        raise ValueError(_check.must(me, "patience", "at least 1", str(patience)))
    if not (isinstance(tolerance, (int, float, np.number)) and tolerance >= 0):
        raise ValueError(_check.must(me, "tolerance", "a number of at least 0", _check.typed(tolerance)))
    calibration = Calibration(_checked(me, observers))
    still = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with _shown(source, total, progress) as shown:
        for batch in shown:
            before = None if patience is None else _ranges(calibration)
            calibration.run(run, batch)
            if not calibration:
                break
            if before is not None:
                still = still + 1 if _close(before, _ranges(calibration), float(tolerance)) else 0
                if still == patience:
                    calibration.settled = True
                    break
    return complete(me, calibration, observers)


def complete(owner: str, calibration: Calibration, observers: Observers | None) -> Calibration:
    """Return a calibration that has seen what it was made for; refuse one that has not."""
    if not calibration.batches:
        raise CalibrationError(_check.must(owner, "batches", "one or more", "none"))
    if not calibration:
        wanted = "a function that taps arrays which observers take, or returns them in a dict"
        raise CalibrationError(_check.must(owner, "run", wanted, "no such array"))
    for name, configured in observers.items() if isinstance(observers, Mapping) else ():
        if configured is not None and name not in calibration and not _WILD & set(name):
            got = f"{name!r}, which never came"
            raise CalibrationError(_check.must(owner, "observers", "named as the arrays are", got))
    return calibration


def save_qparams(path: str | os.PathLike[str], qparams: Mapping[str, QParams]) -> None:
    """Save parameters by name as JSON: a calibration, or any mapping.

    The file appears whole or not at all.

    Parameters
    ----------
    path : str or path
    qparams : mapping of str to QParams

    Raises
    ------
    TypeError
        qparams is no mapping of names to QParams.
    CalibrationError
        An observer of a calibration has seen nothing finite.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_qparams(f"{folder}/qparams.json", {"x": QParams(0.1, 0)})
    ...     back = load_qparams(f"{folder}/qparams.json")
    >>> back
    {'x': QParams(int8, per tensor, scale=0.1, zero_point=0)}
    """
    me = "save_qparams"
    if not isinstance(qparams, Mapping):
        raise TypeError(_check.must(me, "qparams", "a mapping of names to QParams", _check.typed(qparams)))
    stored = {}
    for name, value in qparams.items():
        if not (isinstance(name, str) and isinstance(value, QParams)):
            got = f"{_check.typed(name)}: {_check.typed(value)}"
            raise TypeError(_check.must(me, "qparams", "a mapping of names to QParams", got))
        stored[name] = value.to_dict()
    with replacing(path, "x") as file:
        json.dump({"format": _FORMAT, "version": 1, "qparams": stored}, file, indent=1, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
    """Open a file that appears whole or not at all: written under another name, and renamed at the end."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; no file was written", os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def load_qparams(path: str | os.PathLike[str]) -> dict[str, QParams]:
    """Load what save_qparams has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to QParams
        Equal to what was saved.

    Raises
    ------
    FileFormatError
        The file holds something else; names the file and the tensor.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_qparams(f"{folder}/qparams.json", calibrate(lambda x: {"x": x}, [np.ones(3)]))
    ...     print(load_qparams(f"{folder}/qparams.json")["x"].scale)
    0.007874016
    """
    name = os.fspath(path)
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{name}: the file is not valid JSON: {error}.") from error
    match content:
        case {"format": format_, "version": 1, "qparams": dict(stored)} if format_ == _FORMAT:
            pass
        case _:
            raise FileFormatError(f"{name}: the file must be one that save_qparams wrote, of version 1.")
    found = {}
    for tensor, about in stored.items():
        try:
            found[tensor] = QParams.from_dict(about)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{name}: tensor {tensor!r}: {error}") from error
    return found


_FORMAT = "qnumpy qparams"


def _checked(owner: str, observers: Any) -> Observers:
    """Refuse what cannot configure observers; None stands for the default."""
    if observers is None:
        return HistogramObserver()
    values = observers.values() if isinstance(observers, Mapping) else (observers,)
    fit = isinstance(observers, Observer) or (callable(observers) and not isinstance(observers, type))
    if isinstance(observers, Mapping):
        fit = all(value is None or isinstance(value, Observer) for value in values)
    if not fit:
        wanted = "an observer, a mapping from names to observers, or a function of a name"
        raise TypeError(_check.must(owner, "observers", wanted, _check.typed(observers)))
    return observers  # type: ignore[no-any-return]


def _template(observers: Observers, name: str) -> Observer | None:
    """A fresh observer for a name that has come for the first time."""
    found: Any = observers
    if isinstance(observers, Mapping):
        patterns = (pattern for pattern in observers if fnmatchcase(name, pattern))
        key = name if name in observers else next(patterns, None)
        found = None if key is None else observers[key]
    elif not isinstance(observers, Observer):
        found = observers(name)
        if not (found is None or isinstance(found, Observer)):
            raise TypeError(
                _check.must(
                    "Calibration", "observers", "a function that returns an observer or None", _check.typed(found)
                )
            )
    return None if found is None else fresh(found)


def fresh(state: _State) -> _State:
    """Return an observer or a calibration of the same configuration that has seen nothing."""
    if isinstance(state, Calibration):
        return type(state)(state._templates)
    return type(state).from_config(state.get_config())


def _ranges(calibration: Calibration) -> dict[str, tuple[Array, Array]]:
    return {name: (seen.min_, seen.max_) for name, seen in calibration.observers.items() if hasattr(seen, "min_")}


def _close(
    before: Mapping[str, tuple[Array, Array]], after: Mapping[str, tuple[Array, Array]], tolerance: float
) -> bool:
    """Whether no end of a range has moved by more than a fraction of the width before; equal infinities have not."""
    if before.keys() != after.keys():
        return False
    for name, old in before.items():
        width = np.maximum(old[1] - old[0], 0.0)
        with np.errstate(invalid="ignore"):
            still = [(a == b) | (np.abs(a - b) <= tolerance * width) for a, b in zip(old, after[name], strict=True)]
        if not all(each.all() for each in still):
            return False
    return True


@contextlib.contextmanager
def _shown(batches: Iterator[Any], total: int | None, progress: bool | None) -> Iterator[Iterable[Any]]:
    """Batches, with a bar on stderr where it is wanted."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield batches
        return
    from tqdm import tqdm  # only when it is seen

    with tqdm(batches, desc="calibrate", total=total, unit=" batches", leave=False, file=sys.stderr) as bar:
        yield bar
