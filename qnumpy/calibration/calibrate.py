"""Static calibration: run any Python callable over batches, observe the arrays it names, choose their parameters.

`tap` names an array inside the callable; the callable may also return arrays as a dict.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from fnmatch import fnmatchcase
from typing import Any, Self, TypeVar

import numpy as np

from .. import _check
from .._typing import Array, RealLike
from ..errors import CalibrationError
from ..observers import HistogramObserver, Observer
from ..observers.tap import listener, tap
from ..qparams import QParams
from .report import CalibrationReport, summarize

__all__ = ["Calibration", "calibrate", "complete", "fresh", "observing", "progress_bar", "tap"]

Observers = Observer | Mapping[str, Observer | None] | Callable[[str], Observer | None]

_State = TypeVar("_State", Observer, "Calibration")
_WILD = frozenset("*?[")  # a name with one of these is a pattern
_NAMED = 5  # names that an error lists
_FORMAT = "qnumpy calibration"


class Calibration(Mapping[str, QParams]):
    """Observers by name, and a mapping from the names to the parameters that they choose.

    Names whose observer chooses none, a MomentsObserver, are in `observers` alone.

    It has the methods of an observer: `observe`, `merge`, `reset`, `to_json`. It can be pickled. Calibrations of
    different batches, from different processes, can be merged.

    Parameters
    ----------
    observers : Observer, mapping or callable, optional
        What observes an array of a name: one configuration for all; or a mapping from names and patterns (``"block*"``,
        as the shell's) to configurations, an exact name first, then the first pattern that matches; or a function from
        a name to a configuration. Arrays whose name has none, or None, are ignored. The observers passed in serve as
        configurations only: every name gets a new one. HistogramObserver() by default.

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
        observers is no observer, mapping or function.

    Examples
    --------
    >>> calibration = Calibration(MinMaxObserver(symmetric=False))
    >>> calibration.observe("x", np.array([0.0, 2.55])).observe("x", np.array([1.0]))
    Calibration(1 tensor: x)
    >>> calibration["x"]
    QParams(int8, per tensor, scale=0.01, zero_point=-128)
    """

    def __init__(self, observers: Observers | None = None) -> None:
        self._templates = _configuration("Calibration", observers)
        self.observers: dict[str, Observer] = {}
        self.batches = 0
        self.settled = False
        self._ignored: dict[str, None] = {}  # names that no observer takes, for the sentence of an error

    def observe(self, name: str, x: RealLike) -> Self:
        """Observe an array with the observer of its name.

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
        TypeError
            name is no string.
        TypeError, ValueError
            The observer refuses x; a note names the array.
        """
        if not isinstance(name, str):
            raise TypeError(_check.must("Calibration.observe", "name", "a string", _check.typed(name)))
        observer = self.observers.get(name)
        if observer is None:
            observer = _template(self._templates, name)
            if observer is None:
                self._ignored[name] = None
                return self
        try:
            observer.observe(x)
        except (TypeError, ValueError) as error:
            error.add_note(f"Observed as {name!r}.")
            raise
        self.observers[name] = observer
        return self

    def _listen(self, name: str, x: RealLike) -> RealLike:
        """Observe an array that `tap` names, and return it."""
        self.observe(name, x)
        return x

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
            An observer refuses an array; a note names it. Exceptions of `run` pass through.
        """
        with observing(self):
            result = run(batch)
        if isinstance(result, Mapping):
            for name, x in result.items():
                self.observe(name, x)
        self.batches += 1
        return self

    def merge(self, other: "Calibration") -> Self:
        """Add the state of another calibration, as if its batches had run here; `other` does not change.

        Parameters
        ----------
        other : Calibration

        Returns
        -------
        Calibration
            Itself; new observers replace those that were merged.

        Raises
        ------
        TypeError
            other is no Calibration.
        TypeError
            An observer cannot be merged: a moving average.
        ValueError
            Two observers of one name differ in their configuration or in the shape of their parameters. Then no
            observer changes.
        """
        if not isinstance(other, Calibration):
            raise TypeError(_check.must("Calibration.merge", "other", "a Calibration", _check.typed(other)))
        merged = {}
        for name, observer in other.observers.items():
            parts = [self.observers[name], observer] if name in self.observers else [observer]
            whole = fresh(parts[0])
            try:
                for part in parts:
                    whole.merge(part)
            except (TypeError, ValueError) as error:
                error.add_note(f"Observed as {name!r}.")
                raise
            merged[name] = whole
        self.observers.update(merged)
        self.batches += other.batches
        self._ignored.update(other._ignored)
        return self

    def reset(self) -> Self:
        """Discard the learned state; keep the configuration.

        Returns
        -------
        Calibration
            Itself.
        """
        self.observers, self.batches, self.settled, self._ignored = {}, 0, False, {}
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

    def report(self) -> CalibrationReport:
        """Report ranges, clipped shares, SQNR, NaN and the best technique of every array.

        Returns
        -------
        CalibrationReport
        """
        return CalibrationReport(
            tuple(summarize(name, observer) for name, observer in self.observers.items()), self.batches, self.settled
        )

    def to_json(self) -> str:
        """Return configuration and state of all observers as JSON: everything, exactly; `from_json` takes it.

        `qnumpy.save` writes the chosen parameters; this is the learned state. A calibration from `from_json` can
        observe and merge.

        Returns
        -------
        str
            If a function chose the observers, the text has those observers and not the function.

        Examples
        --------
        >>> calibration = Calibration(MinMaxObserver()).observe("x", np.array([1.0, 2.0]))
        >>> Calibration.from_json(calibration.to_json())["x"] == calibration["x"]
        True
        """
        content = {
            "format": _FORMAT,
            "version": 1,
            "batches": self.batches,
            "settled": self.settled,
            "configuration": _to_plain(self._templates),
            "observers": {name: observer.to_dict() for name, observer in self.observers.items()},
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str, observers: Observers | None = None) -> Self:
        """Return the calibration that `to_json` wrote.

        Parameters
        ----------
        text : str
        observers : Observer, mapping or callable, optional
            Configurations for new names, as in Calibration; by default those that it was made with. If that was a
            function, it must be passed again.

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError
            text is not what `to_json` returned.
        ValueError
            The calibration was made with a function, and `observers` is None.
        TypeError
            observers is no observer, mapping or function.
        """
        owner = "Calibration.from_json"
        try:
            match json.loads(text):
                case {
                    "format": format_, "version": 1, "batches": int() as batches, "settled": bool() as settled,
                    "configuration": configuration, "observers": dict(states),
                } if format_ == _FORMAT:  # fmt: skip
                    templates = _from_plain(configuration)
                    restored_observers = {name: Observer.from_dict(state) for name, state in states.items()}
                case _:
                    raise ValueError("of another kind")
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(_check.must(owner, "text", "what to_json returned", _check.typed(text))) from error
        if observers is None and templates is None:
            wanted = "given, as the calibration was made with a function"
            raise ValueError(_check.must(owner, "observers", wanted, "None"))
        calibration = cls(templates if observers is None else _configuration(owner, observers))
        calibration.observers, calibration.batches, calibration.settled = restored_observers, batches, settled
        return calibration

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def __getitem__(self, name: str) -> QParams:
        observer = self.observers[name]
        if not observer.chooses_range:
            raise KeyError(
                f"{name!r} has a {type(observer).__name__}, which chooses no parameters: observers[{name!r}]."
            )
        try:
            return observer.qparams()
        except CalibrationError as error:
            error.add_note(f"Observed as {name!r}.")
            raise

    def __contains__(self, name: object) -> bool:
        observer = self.observers.get(name)  # type: ignore[call-overload]  # any object
        return observer is not None and observer.chooses_range

    def __iter__(self) -> Iterator[str]:
        return (name for name, observer in self.observers.items() if observer.chooses_range)

    def __len__(self) -> int:
        return sum(observer.chooses_range for observer in self.observers.values())

    def __repr__(self) -> str:
        seen = self.observers
        names = ", ".join(list(seen)[:5]) + (", ..." if len(seen) > 5 else "")
        count = f"{len(seen)} tensor{'' if len(seen) == 1 else 's'}"
        return f"Calibration({count}{': ' if names else ''}{names})"


@contextlib.contextmanager
def observing(observers: "Observers | Calibration | None" = None) -> Iterator[Calibration]:
    """Observe every array that `tap` names inside the ``with`` block.

    Parameters
    ----------
    observers : Observer, mapping, callable or Calibration, optional
        As in Calibration; a Calibration keeps its state and adds to it.

    Returns
    -------
    context manager of Calibration

    Raises
    ------
    TypeError
        observers is no observer, mapping or function.

    Notes
    -----
    Of nested blocks only the inner one observes. Other threads are not observed: taps follow the context
    (`contextvars`) of the block. Observers have no lock: give each thread its own calibration, and merge.

    Examples
    --------
    >>> with observing({"x*": MinMaxObserver(dtype="uint8")}) as seen:
    ...     _ = tap("x1", np.array([1.0, 2.0])), tap("y", np.array([3.0]))
    >>> list(seen)
    ['x1']
    """
    if not isinstance(observers, Calibration):
        observers = Calibration(_configuration("observing", observers))
    token = listener.set(observers._listen)
    try:
        yield observers
    finally:
        listener.reset(token)


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
        Called as ``run(batch)``. It names arrays with `tap`, or returns them as a dict, or both. Another result is
        ignored.
    batches : iterable
        The arguments of `run`, one at a time; none is kept.
    observers : Observer, mapping or callable, optional
        As in Calibration.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    patience : int, optional
        Stop once no range has moved in this many consecutive batches. Off by default.
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
        run is not callable.
    TypeError
        batches is not iterable.
    TypeError
        patience is no integer.
    ValueError
        patience is below 1.
    ValueError
        tolerance is no number of at least 0.
    TypeError
        observers is no observer, mapping or function.
    TypeError, ValueError
        An observer refuses an array; a note names it.
    CalibrationError
        There is no batch, or the first one brings no array.
    CalibrationError
        observers has a name that is no pattern, and no array has that name.

    Notes
    -----
    MinMaxObserver and HistogramObserver make the result depend on the data alone, not on the size or the order of the
    batches.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w = rng.normal(size=(8, 4))
    >>> def model(x):
    ...     return {"x": x, "y": x @ w}
    >>> calibrate(model, (rng.normal(size=(16, 8)) for _ in range(10)))
    Calibration(2 tensors: x, y)
    """
    owner = "calibrate"
    if not callable(run):
        raise TypeError(_check.must(owner, "run", "callable", _check.typed(run)))
    try:
        source = iter(batches)
    except TypeError:
        raise TypeError(_check.must(owner, "batches", "iterable", _check.typed(batches))) from None
    if patience is not None and _check.integer(owner, "patience", patience) < 1:
        raise ValueError(_check.must(owner, "patience", "at least 1", str(patience)))
    if not (_check.is_number(tolerance) and tolerance >= 0):
        raise ValueError(_check.must(owner, "tolerance", "a number of at least 0", _check.typed(tolerance)))
    if progress is not None:
        progress = _check.flag(owner, "progress", progress)
    calibration = Calibration(_configuration(owner, observers))
    still = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with progress_bar(source, total, progress) as items:
        for batch in items:
            before = None if patience is None else _ranges(calibration)
            calibration.run(run, batch)
            if not calibration.observers:
                break
            if before is not None:
                still = still + 1 if _close(before, _ranges(calibration), float(tolerance)) else 0
                if still == patience:
                    calibration.settled = True
                    break
    return complete(owner, calibration, observers)


def complete(owner: str, calibration: Calibration, observers: Observers | None) -> Calibration:
    """Raise CalibrationError unless there was a batch, an array, and data for every observer with an exact name."""
    if not calibration.batches:
        raise CalibrationError(_check.must(owner, "batches", "one or more", "none"))
    seen = [*calibration.observers, *calibration._ignored]
    if not calibration.observers:
        wanted = "a function that taps arrays which observers take, or returns them in a dict"
        raise CalibrationError(_check.must(owner, "run", wanted, f"only {_names(seen)}" if seen else "no such array"))
    for name, configured in observers.items() if isinstance(observers, Mapping) else ():
        if configured is not None and name not in calibration.observers and not _WILD & set(name):
            got = f"{name!r}, which never came"
            advice = f" The arrays were {_names(seen)}."
            raise CalibrationError(_check.must(owner, "observers", "named as the arrays are", got) + advice)
    return calibration


def _names(names: list[str]) -> str:
    """Return a few names, and how many there are besides."""
    first = ", ".join(map(repr, names[:_NAMED]))
    return f"{first} and {len(names) - _NAMED:,} more" if len(names) > _NAMED else first


def _configuration(owner: str, observers: Any) -> Observers:
    """Return the configuration of the observers, by default a HistogramObserver; refuse other values."""
    if observers is None:
        return HistogramObserver()
    if isinstance(observers, Mapping):
        fit = all(value is None or isinstance(value, Observer) for value in observers.values())
    else:
        fit = isinstance(observers, Observer) or (callable(observers) and not isinstance(observers, type))
    if not fit:
        wanted = "an observer, a mapping from names to observers, or a function of a name"
        raise TypeError(_check.must(owner, "observers", wanted, _check.typed(observers)))
    return observers  # type: ignore[no-any-return]


def _template(observers: Observers, name: str) -> Observer | None:
    """Return a new observer for a name; None where the configuration has none."""
    template: Any = observers
    if isinstance(observers, Mapping):
        patterns = (pattern for pattern in observers if fnmatchcase(name, pattern))
        key = name if name in observers else next(patterns, None)
        template = None if key is None else observers[key]
    elif not isinstance(observers, Observer):
        template = observers(name)
        if not (template is None or isinstance(template, Observer)):
            wanted = "a function that returns an observer or None"
            raise TypeError(_check.must("Calibration", "observers", wanted, _check.typed(template)))
    return None if template is None else fresh(template)


def _to_plain(observers: Observers) -> Any:
    """Return a configuration as values of JSON; None for a function."""
    if isinstance(observers, Observer):
        return fresh(observers).to_dict()
    if isinstance(observers, Mapping):
        return {"names": {name: None if value is None else _to_plain(value) for name, value in observers.items()}}
    return None


def _from_plain(values: Any) -> Observers | None:
    """Return the configuration that `_to_plain` turned into values of JSON."""
    match values:
        case None:
            return None
        case {"names": dict(names)}:
            return {name: None if value is None else Observer.from_dict(value) for name, value in names.items()}
        case _:
            return Observer.from_dict(values)


def fresh(state: _State) -> _State:
    """Return an observer or a calibration of the same configuration that has seen nothing."""
    if isinstance(state, Calibration):
        return type(state)(state._templates)
    return type(state).from_config(state.get_config())


def _ranges(calibration: Calibration) -> dict[str, tuple[Array, Array]]:
    ends = {name: observer._ends for name, observer in calibration.observers.items()}
    return {name: pair for name, pair in ends.items() if pair is not None}


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
        if not all(end.all() for end in still):
            return False
    return True


@contextlib.contextmanager
def progress_bar(batches: Iterator[Any], total: int | None, progress: bool | None) -> Iterator[Iterable[Any]]:
    """Yield the batches, with a progress bar on stderr on request."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield batches
        return
    from tqdm import tqdm  # needed by a visible bar alone

    with tqdm(batches, desc="calibrate", total=total, unit=" batches", leave=False, file=sys.stderr) as bar:
        yield bar
