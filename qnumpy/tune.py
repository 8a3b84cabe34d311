"""Search the best quantized model within limits: one engine for models of NumPy functions and ONNX models.

The module loads with qnumpy; `qnumpy.tune` is the function.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from . import _args, _check
from ._tables import Table, escape, number
from ._typing import Array
from .errors import CalibrationError, FileFormatError
from .files.atomic import replacing
from .granularity import Granularity, PerChannel, PerGroup
from .reports.scores import Metric, Score, decibels, signal_and_noise
from .weights._layers import NamedWeights
from .weights.layers import QuantizedLayers, quantize_layers

__all__ = [
    "Budget",
    "Limits",
    "Problem",
    "Score",
    "Trial",
    "TunedLayers",
    "Tuning",
    "budget_of",
    "limits_of",
    "listed",
    "search",
    "tune",
]

Drop = Literal["absolute", "relative"]
Objective = Literal["latency", "size", "accuracy"]

FLOAT = "float32"
_FLOATS = (FLOAT, "float16")
_DROPS = {"absolute": 0, "relative": 1}
_OBJECTIVES = {"latency": 0, "size": 1, "accuracy": 2}
_FORMAT = "qnumpy tuning"
_TRIALS = 100
_NOISE = 0.03  # of a time, as a share


class Budget(NamedTuple):
    """How long to search: trials, those of a resumed search included, and seconds of this call; None for no end."""

    trials: int | None = _TRIALS
    seconds: float | None = None


class Limits(NamedTuple):
    """What a model must keep.

    Attributes
    ----------
    max_drop : float or None
        The score may fall by so much below that of the float model.
    drop : {"absolute", "relative"}
    min_score : float or None
        The least score, in place of max_drop.
    max_latency : float or None
        The longest run, as a share of the float model's.
    objective : {"latency", "size", "accuracy"}
        What is best among the models that keep the limits.
    """

    max_drop: float | None
    drop: Drop
    min_score: float | None
    max_latency: float | None
    objective: Objective

    def least(self, score: float) -> float:
        """Return the least score that is allowed, by that of the float model."""
        if self.min_score is not None:
            return self.min_score
        assert self.max_drop is not None
        return score - (self.max_drop * abs(score) if self.drop == "relative" else self.max_drop)


class Measured(NamedTuple):
    """One model, measured: its score, the SQNR of its outputs in dB, its bytes, and what else is to be said of it."""

    score: float
    fidelity_db: float
    nbytes: int
    note: str = ""


class Problem(Protocol):
    """What is searched. A choice maps layers to `dtypes`, of which the first is the cheapest, the last "float32"."""

    layers: tuple[str, ...]
    dtypes: tuple[str, ...]
    techniques: tuple[str, ...]
    fingerprint: str

    def measure(self, technique: str, choice: Mapping[str, str]) -> Measured:
        """Make a model and measure it; an exception means that there is no such model."""

    def latency(self, technique: str, choice: Mapping[str, str]) -> float | None:
        """Return the time of a run by that of the float model; None where models do not differ in it."""

    def model(self, technique: str, choice: Mapping[str, str]) -> Any:
        """Return the model of a choice."""

    def changed(self, technique: str, dtype: str) -> tuple[str, ...]:
        """Return the layers that are not float32 when all may have a type."""

    def canonical(self, technique: str, choice: Mapping[str, str]) -> str:
        """Return one name for the techniques that give the same model."""

    def estimated(self, technique: str, dtype: str) -> Mapping[str, float]:
        """Return the SQNR in dB of each layer by itself at a type: it ranks where trials are too few."""


class Trial(NamedTuple):
    """One model that was tried.

    Attributes
    ----------
    number : int
        In the order of the search; 0 is the float model.
    step : str
        What the search did: "float", "technique", "one layer", "revert", "restore".
    technique : str
    dtypes : dict of str to str
        The type of each layer.
    score : float or None
        None where there is no such model; `note` says why.
    fidelity_db : float or None
        SQNR of the outputs against the float model's, in dB: it ranks models of one score.
    latency : float or None
        Of a run, as a share of the float model's; None where it was not measured.
    nbytes : int or None
    accurate : bool
        Whether the score is within the limit.
    met : bool
        Whether all limits are kept.
    note : str
    """

    number: int
    step: str
    technique: str
    dtypes: dict[str, str]
    score: float | None
    fidelity_db: float | None
    latency: float | None
    nbytes: int | None
    accurate: bool
    met: bool
    note: str

    @property
    def summary(self) -> str:
        """How many layers have which type."""
        counts: dict[str, int] = {}
        for dtype in self.dtypes.values():
            counts[dtype] = counts.get(dtype, 0) + 1
        return ", ".join(f"{count} {dtype}" for dtype, count in counts.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return {**self._asdict(), "summary": self.summary}


class Tuning(Table[Trial]):
    """What a search found, and every trial of it; text, JSON and HTML.

    Attributes
    ----------
    model : object
        The best one: a ModelProto; for NumPy functions a TunedLayers.
    met : bool
        Whether it keeps the limits. If not, it is the one that comes nearest.
    best : Trial
    reason : str
        A sentence: what was found, or why no model keeps the limits, and what ended the search.
    least : float
        The least score that was allowed.
    """

    _left = 3
    _last_left = True

    def __init__(self, model: Any, trials: Iterable[Trial], best: Trial, least: float, reason: str) -> None:
        super().__init__(trials, Trial, "trials")
        self.model, self.best, self.least, self.reason = model, best, least, reason

    @property
    def met(self) -> bool:
        return self.best.met

    @property
    def history(self) -> tuple[Trial, ...]:
        return tuple(self)

    def _head(self) -> list[str]:
        return ["trial", "step", "technique", "score", "SQNR dB", "latency", "bytes", "limits", "types"]

    def _row(self, item: Trial) -> list[str]:
        nbytes = "-" if item.nbytes is None else f"{item.nbytes:,}"
        kept = "best" if item.number == self.best.number else "kept" if item.met else "no"
        name = f"{item.number}"
        figures = [
            f"{item.score:.6g}" if item.score is not None else "-",
            number(item.fidelity_db),
            number(item.latency),
        ]
        words = "; ".join(text for text in (item.summary, item.note) if text)
        return [name, item.step, item.technique, *figures, nbytes, kept, words]

    def _about(self) -> dict[str, Any]:
        return {"met": self.met, "best": self.best.to_dict(), "least": self.least, "reason": self.reason}

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.reason}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}<p>{escape(self.reason)}</p>"


# ---- arguments ----


def limits_of(
    owner: str, max_drop: Any, drop: Any, min_score: Any, max_latency: Any, objective: Any, objectives: Iterable[str]
) -> Limits:
    """Return checked limits."""
    for name, value in (("max_drop", max_drop), ("min_score", min_score), ("max_latency", max_latency)):
        if value is not None and not (_check.is_number(value) and math.isfinite(value)):
            raise TypeError(_check.must(owner, name, "a finite number or None", _check.typed(value)))
    if max_drop is not None and max_drop < 0:
        raise ValueError(_check.must(owner, "max_drop", "at least 0", str(max_drop)))
    if (max_drop is None) == (min_score is None):
        got = "both" if max_drop is not None else "neither"
        raise ValueError(_check.must(owner, "max_drop and min_score", "one number and one None", got))
    if max_latency is not None and not max_latency > 0:
        raise ValueError(_check.must(owner, "max_latency", "positive", str(max_latency)))
    _args.choice(owner, "drop", drop, _DROPS)
    _args.choice(owner, "objective", objective, {name: _OBJECTIVES[name] for name in objectives})
    return Limits(max_drop, drop, min_score, max_latency, objective)


def budget_of(owner: str, budget: Any) -> Budget:
    """Return a checked budget: of a number of trials, a text such as "60s", a mapping, a pair or a Budget."""
    wanted = "a number of trials, seconds as '60s', or a mapping of 'trials' and 'seconds'"
    if budget is None:
        return Budget()
    if isinstance(budget, Budget):
        made = budget
    elif isinstance(budget, str):
        try:
            made = Budget(None, float(budget.removesuffix("s"))) if budget.endswith("s") else Budget(int(budget))
        except ValueError:
            raise ValueError(_check.must(owner, "budget", wanted, repr(budget))) from None
    elif isinstance(budget, Mapping) and set(budget) <= {"trials", "seconds"}:
        made = Budget(budget.get("trials"), budget.get("seconds"))
    elif isinstance(budget, int | np.integer) and not isinstance(budget, bool):
        made = Budget(int(budget))
    else:
        raise TypeError(_check.must(owner, "budget", wanted, _check.typed(budget)))
    for value in made:
        if value is not None and not (_check.is_number(value) and value > 0):
            raise ValueError(_check.must(owner, "budget", "positive", _check.typed(value)))
    return made


# ---- the search ----


class _OverError(Exception):
    """The budget is used up."""


def search(
    owner: str,
    problem: Problem,
    limits: Limits,
    budget: Budget,
    *,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Tuning:
    """Search a problem and return the best model found, whatever happens.

    Every technique is tried with all layers at each type. Between the cheapest type at which the limits are kept and
    the next cheaper one, layers are ranked by what each costs alone, measured; the worst return first, as many as a
    bisection finds necessary. Then each of those is tried at the cheaper type again, in the order of what that costs
    now, until none can go.
    """
    if not (resume is None or isinstance(resume, str | os.PathLike)):
        raise TypeError(_check.must(owner, "resume", "a path, or None", _check.typed(resume)))
    path = None if resume is None else Path(resume)
    with _bar(budget, progress) as advance:
        walk = _Search(owner, problem, limits, budget, path, advance)
        reason = ""
        try:
            walk.run()
        except _OverError as over:
            reason = str(over)
        return walk.result(reason)


@contextlib.contextmanager
def _bar(budget: Budget, progress: bool | None) -> Iterator[Callable[[], Any]]:
    """Yield a function that counts trials, with a progress bar on stderr on request."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda: None
        return
    from tqdm import tqdm  # needed by a visible bar alone

    with tqdm(total=budget.trials, desc="tune", unit=" trials", leave=False, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


class _Search:
    """The trials of one search; `run` makes them."""

    def __init__(
        self,
        owner: str,
        problem: Problem,
        limits: Limits,
        budget: Budget,
        path: Path | None,
        advance: Callable[[], Any],
    ) -> None:
        self.owner, self.problem, self.limits, self.budget = owner, problem, limits, budget
        self.path, self.advance = path, advance
        self.start = time.monotonic()
        self.known = {} if path is None else _load(owner, path, problem.fingerprint)
        self.trials: list[Trial] = []
        self.by_key: dict[str, Trial] = {}
        self.least = -math.inf

    # ---- trials ----

    def trial(
        self, step: str, technique: str, choice: Mapping[str, str], *, timed: bool = False, always: bool = False
    ) -> Trial:
        """Return the trial of a choice; one that was made before is not made again.

        It is timed where that matters, or always.
        """
        choice = {name: choice[name] for name in self.problem.layers}
        technique = "float" if all(t in _FLOATS for t in choice.values()) else self.problem.canonical(technique, choice)
        key = json.dumps([technique, list(choice.values())])
        found = self.by_key.get(key)
        if found is None:
            found = self._made(key, step, technique, choice)
        if timed and found.latency is None and found.score is not None and self._times(found, always):
            found = self._timed(key, found)
        return found

    def _made(self, key: str, step: str, technique: str, choice: dict[str, str]) -> Trial:
        if self.trials:  # the float model is always measured
            if self.budget.trials is not None and len(self.trials) >= self.budget.trials:
                raise _OverError(f"the budget of {self.budget.trials} trials ended the search")
            if self.budget.seconds is not None and time.monotonic() - self.start > self.budget.seconds:
                raise _OverError(f"the budget of {self.budget.seconds:g} seconds ended the search")
        kept = self.known.get(key)
        note = ""
        if kept is not None:
            score, fidelity, latency, nbytes, note = kept
        else:
            latency = 1.0 if technique == "float" else None
            try:
                score, fidelity, nbytes, note = self.problem.measure(technique, choice)
            except (ArithmeticError, CalibrationError, FileFormatError, RuntimeError, TypeError, ValueError) as error:
                if not self.trials:
                    raise
                score = fidelity = nbytes = None
                note = " ".join(str(error).split())[:200]
            if score is not None and math.isnan(score):
                score, note = None, "the score is NaN"
        if not self.trials:
            if score is None:
                raise ValueError(_check.must(self.owner, "metric", "a number for the float model", "NaN"))
            self.least = self.limits.least(score)
        trial = self._judged(
            Trial(len(self.trials), step, technique, choice, score, fidelity, latency, nbytes, False, False, note)
        )
        self.trials.append(trial)
        self.by_key[key] = trial
        self._save(key, trial)
        self.advance()
        return trial

    def _times(self, trial: Trial, always: bool) -> bool:
        """Whether the time of a model matters: to limits or objective, and it keeps the other limits."""
        needed = self.limits.objective == "latency" or self.limits.max_latency is not None
        return needed and (always or trial.accurate or self.limits.objective == "accuracy")

    def _timed(self, key: str, trial: Trial) -> Trial:
        trial = self._judged(trial._replace(latency=self.problem.latency(trial.technique, trial.dtypes)))
        self.trials[trial.number] = self.by_key[key] = trial
        self._save(key, trial)
        return trial

    def _judged(self, trial: Trial) -> Trial:
        accurate = trial.score is not None and trial.score >= self.least
        fast = self.limits.max_latency is None or (
            trial.latency is not None and trial.latency <= self.limits.max_latency
        )
        return trial._replace(accurate=accurate, met=accurate and fast)

    def _save(self, key: str, trial: Trial) -> None:
        fresh = (trial.score, trial.fidelity_db, trial.latency, trial.nbytes, trial.note)
        if self.path is None or self.known.get(key) == fresh:
            return
        self.known[key] = fresh
        entries = [{"key": key, "measured": list(values)} for key, values in self.known.items()]
        content = {"format": _FORMAT, "version": 1, "fingerprint": self.problem.fingerprint, "trials": entries}
        with replacing(self.path, "wb") as file:
            file.write(json.dumps(content).encode())

    # ---- steps ----

    def run(self) -> None:
        problem = self.problem
        float_choice = dict.fromkeys(problem.layers, FLOAT)
        self.trial("float", "float", float_choice)
        if not problem.layers:
            return
        uniform: list[tuple[str, int, Trial]] = []
        for technique in problem.techniques:
            for level, dtype in enumerate(problem.dtypes[:-1]):
                choice = dict.fromkeys(problem.layers, dtype)
                trial = self.trial("technique", technique, choice, timed=True, always=True)
                uniform.append((technique, level, trial))
        for technique, level in self._starts(uniform):
            self._refine(technique, level)

    def _starts(self, uniform: list[tuple[str, int, Trial]]) -> list[tuple[str, int]]:
        """Return the techniques and types to refine, the most promising first.

        They break a limit and would otherwise be better than all models that keep it: of each kind of technique the
        most accurate one.
        """
        kept = [trial for trial in self.trials[1:] if trial.met]
        bar = min((self._aim(trial) for trial in kept), default=None)
        kinds: dict[tuple[int, str], tuple[str, Trial]] = {}
        for technique, level, trial in uniform:
            usable = trial.score is not None and (not trial.met or self.limits.objective == "accuracy")
            if not usable or (bar is not None and self._aim(trial) >= bar and self.limits.objective != "accuracy"):
                continue
            key = level, technique.partition(" ")[0]
            if key not in kinds or _rank(trial) > _rank(kinds[key][1]):
                kinds[key] = technique, trial
        order = sorted(kinds.items(), key=lambda entry: (-entry[0][0], [-x for x in _rank(entry[1][1])]))
        return list(dict.fromkeys((technique, level) for (level, _), (technique, _) in order))

    def _refine(self, technique: str, level: int) -> None:
        """Find the layers that need the next type, and give the others the cheaper one."""
        problem = self.problem
        low, high = problem.dtypes[level], problem.dtypes[level + 1]
        base = dict.fromkeys(problem.layers, low)
        above = self.trial("technique", technique, dict.fromkeys(problem.layers, high), timed=True)
        if not above.accurate and high != FLOAT:
            return  # the boundary lies above
        layers = [name for name in problem.changed(technique, low) if name in base]
        order = self._ranked(technique, layers, low)
        count = self._bisected(technique, base, order, high)
        if self.limits.objective != "accuracy":
            self._restored(technique, base, order[:count], low, high)

    def _ranked(self, technique: str, layers: list[str], low: str) -> list[str]:
        """Return layers by what each costs alone, the rest in float: the worst first."""
        left = math.inf if self.budget.trials is None else self.budget.trials - len(self.trials)
        if 2 * len(layers) > left:
            estimated = self.problem.estimated(technique, low)
            return sorted(layers, key=lambda name: estimated.get(name, math.inf))
        alone: dict[str, Trial] = {}
        for name in layers:
            alone[name] = self.trial("one layer", technique, {**dict.fromkeys(self.problem.layers, FLOAT), name: low})
        return sorted(layers, key=lambda name: _rank(alone[name]))

    def _bisected(self, technique: str, base: Mapping[str, str], order: Sequence[str], high: str) -> int:
        """Return how many of the worst layers must take the next type: the least that keeps the limits.

        Where accuracy is the objective: the most that keeps them.
        """

        def kept(count: int) -> bool:
            trial = self.trial("revert", technique, {**base, **dict.fromkeys(order[:count], high)}, timed=True)
            return trial.accurate if self.limits.objective != "accuracy" else trial.met

        accuracy = self.limits.objective == "accuracy"
        low, high_count = 0, len(order)  # the limits are broken, and kept; for accuracy the other way round
        while high_count - low > 1:
            middle = (low + high_count) // 2
            if kept(middle) != accuracy:
                high_count = middle
            else:
                low = middle
        if not accuracy and high_count == len(order):
            kept(high_count)
        return low if accuracy else high_count

    def _restored(self, technique: str, base: Mapping[str, str], reverted: Sequence[str], low: str, high: str) -> None:
        """Give layers the cheaper type again, one by one, ranked anew by what that costs in this model."""
        current = {**base, **dict.fromkeys(reverted, high)}
        rest = list(reverted)[::-1]
        while rest:
            tried = [(self.trial("restore", technique, {**current, name: low}), name) for name in rest]
            able = [(trial, name) for trial, name in tried if trial.accurate]
            if not able:
                return
            _, name = max(able, key=lambda entry: _rank(entry[0]))
            current[name] = low
            self.trial("restore", technique, current, timed=True)
            rest = [other for _, other in able if other != name]

    # ---- the result ----

    def result(self, ended: str) -> Tuning:
        """Return the best trial and its model."""
        scored = [trial for trial in self.trials if trial.score is not None]
        if self.limits.objective == "accuracy" and any(trial.met for trial in scored[1:]):
            scored = scored[1:]  # nothing is as accurate as the float model
        best = min(scored, key=self._order)
        limit = f"a score of {self.least:.6g} or more"
        if self.limits.max_latency is not None:
            limit += f" and {self.limits.max_latency:g} times the float model's time or less"
        if not best.met:
            said = f"No model with {limit} was found: this one comes nearest"
        elif best.number == 0 and self.problem.layers:
            others = any(trial.met for trial in self.trials[1:])
            said = (
                f"No model with {limit} was better than the float model"
                if others
                else f"Only the float model has {limit}"
            )
        elif not self.problem.layers:
            said = "There is no layer to quantize"
        else:
            said = f"The model has {limit}: trial {best.number}, {best.technique}, {best.summary}"
        reason = f"{said}; {ended}." if ended else f"{said}."
        model = self.problem.model(best.technique, best.dtypes)
        return Tuning(model, self.trials, best, self.least, reason)

    def _order(self, trial: Trial) -> tuple[Any, ...]:
        """Return what sorts trials, the best first: by limits, by how far they are broken, by the objective."""
        assert trial.score is not None
        scale = max(abs(self.least), 1e-12) if math.isfinite(self.least) else 1.0
        short = max(0.0, self.least - trial.score) / scale if trial.score > -math.inf else math.inf
        limit = self.limits.max_latency
        over = 0.0
        if limit is not None:
            over = math.inf if trial.latency is None else max(0.0, trial.latency / limit - 1)
        return (not trial.met, short + over if not trial.met else 0.0, *self._aim(trial), trial.number)

    def _aim(self, trial: Trial) -> tuple[float, ...]:
        """Return the objective and what decides between equals; less is better. Times near the shortest are equal."""
        size = math.inf if trial.nbytes is None else float(trial.nbytes)
        latency = math.inf if trial.latency is None else trial.latency
        if self.limits.objective == "latency":
            fastest = min((t.latency for t in self.trials if t.met and t.latency is not None), default=0.0)
            near = fastest * (1 + _NOISE)
            latency = near if fastest <= latency <= near else latency  # a model that breaks the limits may be faster
        score = math.inf if trial.score is None else -trial.score
        fidelity = math.inf if trial.fidelity_db is None else -trial.fidelity_db
        return {
            "latency": (latency, size, score, fidelity),
            "size": (size, score, fidelity),
            "accuracy": (score, fidelity, size),
        }[self.limits.objective]


def _rank(trial: Trial) -> tuple[float, float]:
    """Return what is larger for a better model: its score, then the SQNR of its outputs."""
    if trial.score is None:
        return -math.inf, -math.inf
    return trial.score, -math.inf if trial.fidelity_db is None else trial.fidelity_db


def _load(owner: str, path: Path, fingerprint: str) -> dict[str, Any]:
    """Return what a file of an earlier search measured, by key; nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        known = {entry["key"]: tuple(entry["measured"]) for entry in content["trials"]}
        same = content["format"] == _FORMAT and content["fingerprint"] == fingerprint
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            _check.must(owner, "resume", "a file that an earlier search wrote", repr(str(path)))
        ) from error
    if not same:
        got = f"{str(path)!r}, of another model, metric or set of choices"
        raise ValueError(_check.must(owner, "resume", "a file of the same search", got))
    return known


# ---- models of NumPy functions ----


class TunedLayers(NamedWeights[Any]):
    """The weights of the best model by name: QuantizedArray, or float arrays.

    Attributes
    ----------
    dtypes : dict of str to str
    biases : dict of str to ndarray
        Of layers that have one; corrected where the weight was rounded with data.
    """

    def __init__(self, weights: Mapping[str, Any], biases: Mapping[str, Array], dtypes: Mapping[str, str]) -> None:
        super().__init__(weights, biases)
        self.dtypes = dict(dtypes)

    def entries(self) -> dict[str, Any]:
        """Return arrays of floats in the form of `layers`, with which the model's function runs."""
        made = {}
        for name, q in self.items():
            w = q.dequantize() if hasattr(q, "dequantize") else np.asarray(q, np.float32)
            made[name] = (w, self.biases[name]) if name in self.biases else w
        return made

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for dtype in self.dtypes.values():
            counts[dtype] = counts.get(dtype, 0) + 1
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in counts.items())
        return f"TunedLayers({kinds}; {self.nbytes:,} bytes)"


_DTYPES = ("int4", "int8", "float16", FLOAT)  # cheapest first
_TECHNIQUES = {"minmax": 0, "mse": 1, "hqq": 2, "gptq": 3}


def tune(
    run: Callable[[Any], Any],
    layers: MutableMapping[str, Any],
    data: Iterable[Any],
    metric: Metric,
    *,
    max_drop: float | None = None,
    drop: Drop = "absolute",
    min_score: float | None = None,
    budget: Any = None,
    objective: Literal["size", "accuracy"] = "size",
    dtypes: Sequence[str] = ("int4", "int8", "float16", "float32"),
    techniques: Sequence[str] = ("mse", "gptq"),
    granularity: Granularity | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Tuning:
    """Search the types of the weights of a NumPy model, layer by layer, within a limit of accuracy.

    Parameters
    ----------
    run : callable
        Computes the model from the dict `layers`, as ``run(batch)``, and returns its output or a dict of outputs. For
        the technique "gptq" it taps the input of every layer, as `quantize_layers` describes.
    layers : dict of str to weight or (weight, bias)
        Its entries are replaced while the search runs, and are what they were in the end, whatever happens.
    data : iterable
        Batches, or pairs of a batch and its labels. They are kept.
    metric : str or callable
        As in `qnumpy.onnx.evaluate`; larger is better.
    max_drop : float, optional
        How far the score may fall below the float model's.
    drop : {"absolute", "relative"}
        What max_drop counts: the score itself, or a share of the float model's.
    min_score : float, optional
        The least score, in place of max_drop; of "sqnr", which the float model has infinitely much of.
    budget : int, str, mapping or Budget, optional
        Trials; "60s"; ``{"trials": 50, "seconds": 60}``. 100 trials by default.
    objective : {"size", "accuracy"}
        What is best among the models within the limit.
    dtypes : sequence of {"int4", "int8", "float16", "float32"}
        The types a layer may take.
    techniques : sequence of {"minmax", "mse", "hqq", "gptq"}
        How codes are chosen, as `method` of `quantize_layers`; one for the whole model.
    granularity : PerGroup or PerChannel, optional
        By default PerGroup(32) for int4 and PerChannel(0) for int8: for weights of shape (outputs, inputs).
    resume : str or path, optional
        A file with the measurements; a call with the same arguments goes on from there.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.

    Returns
    -------
    Tuning
        The best model found, whether it keeps the limit, and every trial. Always: where no model keeps the limit, the
        one that comes nearest.

    Raises
    ------
    TypeError
        run is not callable; layers is no dict.
    ValueError
        layers is empty.
    TypeError, ValueError
        metric is neither a function nor a name of one; a limit, the budget, a type or a technique is none of those
        above.
    CalibrationError
        data is empty.
    ValueError
        The metric needs labels and there are none; resume is of another search.

    Notes
    -----
    Each type and technique rounds the whole model once; a trial takes each layer from the one of its type. Layers are
    ranked by the score with that layer alone quantized, of equal scores by the SQNR of the outputs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> layers = {name: rng.normal(size=(32, 32)).astype(np.float32) / 6 for name in ("first", "second")}
    >>> def model(x):
    ...     return np.tanh(x @ layers["first"].T) @ layers["second"].T
    >>> x = [rng.normal(size=(64, 32)).astype(np.float32)]
    >>> found = tune(model, layers, x, "sqnr", min_score=30, techniques=["mse"])
    >>> found.met, found.model
    (True, TunedLayers(2 int8; 2,368 bytes))
    """
    owner = "tune"
    if not callable(run):
        raise TypeError(_check.must(owner, "run", "a function", _check.typed(run)))
    if not isinstance(layers, MutableMapping):
        raise TypeError(_check.must(owner, "layers", "a dict of weights by name", _check.typed(layers)))
    if not layers:
        raise ValueError(_check.must(owner, "layers", "a dict of one weight or more", "an empty one"))
    score = Score(owner, metric)
    limits = limits_of(owner, max_drop, drop, min_score, None, objective, ("size", "accuracy"))
    chosen = types_of(owner, dtypes, _DTYPES)
    for technique in listed(owner, "techniques", techniques):
        _args.choice(owner, "techniques", technique, _TECHNIQUES)
    progress = _check.flag_or_none(owner, "progress", progress)
    batches = _pairs(owner, data)
    problem = _Layers(owner, run, layers, batches, score, chosen, tuple(techniques), granularity)
    return search(owner, problem, limits, budget_of(owner, budget), resume=resume, progress=progress)


def types_of(owner: str, dtypes: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Return the types a layer may take, cheapest first; float32 is always one."""
    names = listed(owner, "dtypes", dtypes)
    for name in names:
        _args.choice(owner, "dtypes", name, dict.fromkeys(known, 0))
    return tuple(name for name in known if name in names or name == FLOAT)


def listed(owner: str, name: str, value: Any) -> list[str]:
    """Return a sequence of names that is not empty."""
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(_check.must(owner, name, "a sequence of names", _check.typed(value)))
    if not value:
        raise ValueError(_check.must(owner, name, "one name or more", "none"))
    return list(value)


def _pairs(owner: str, data: Any) -> list[tuple[Any, Any]]:
    if isinstance(data, str | bytes | Mapping | np.ndarray) or not isinstance(data, Iterable):
        raise TypeError(
            _check.must(owner, "data", "an iterable of batches, or of pairs of batch and labels", _check.typed(data))
        )
    pairs = [item if isinstance(item, tuple) and len(item) == 2 else (item, None) for item in data]
    if not pairs:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    return pairs


class _Layers:
    """The problem of a model of NumPy functions."""

    def __init__(
        self,
        owner: str,
        run: Callable[[Any], Any],
        layers: MutableMapping[str, Any],
        batches: list[tuple[Any, Any]],
        score: Score,
        dtypes: tuple[str, ...],
        techniques: tuple[str, ...],
        granularity: Granularity | None,
    ) -> None:
        self.owner, self.run, self.held, self.batches = owner, run, layers, batches
        self.score, self.dtypes, self.techniques, self.granularity = score, dtypes, techniques, granularity
        self.layers = tuple(layers)
        self.entries = dict(layers)
        self.exact = [_named(run(batch)) for batch, _ in batches]
        if score.needs == "labels" and any(labels is None for _, labels in batches):
            raise ValueError(
                _check.must(owner, "data", f"pairs of batch and labels for the metric {score.name!r}", "no labels")
            )
        self._rounded: dict[tuple[str, str], QuantizedLayers] = {}
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.score.name, self.dtypes, self.techniques, str(self.granularity))).encode())
        for name, entry in self.entries.items():
            digest.update(name.encode())
            for array in entry if isinstance(entry, tuple | list) else (entry,):
                if array is not None:
                    digest.update(np.ascontiguousarray(array).tobytes())
        for output in self.exact:
            for array in output.values():
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def changed(self, technique: str, dtype: str) -> tuple[str, ...]:
        return self.layers

    def canonical(self, technique: str, choice: Mapping[str, str]) -> str:
        return technique

    def estimated(self, technique: str, dtype: str) -> dict[str, float]:
        tuned = self.model(technique, dict.fromkeys(self.layers, dtype)).entries()
        found = {}
        for name, entry in self.entries.items():
            w, q = (value[0] if isinstance(value, tuple | list) else value for value in (entry, tuned[name]))
            found[name] = decibels(*signal_and_noise(w, q))
        return found

    def latency(self, technique: str, choice: Mapping[str, str]) -> float | None:
        return None  # the function computes with floats, whatever the codes

    def model(self, technique: str, choice: Mapping[str, str]) -> TunedLayers:
        weights: dict[str, Any] = {}
        biases: dict[str, Array] = {}
        for name, dtype in choice.items():
            entry = self.entries[name]
            w, bias = (entry[0], entry[1]) if isinstance(entry, tuple | list) else (entry, None)
            if dtype in ("float16", FLOAT):
                with np.errstate(over="ignore"):
                    weights[name] = np.asarray(w).astype(dtype) if dtype == "float16" else np.asarray(w)
            else:
                rounded = self._round(technique, dtype)
                weights[name], bias = rounded[name], rounded.biases.get(name, bias)
            if bias is not None:
                biases[name] = np.asarray(bias)
        return TunedLayers(weights, biases, choice)

    def _round(self, technique: str, dtype: str) -> QuantizedLayers:
        key = technique, dtype
        if key not in self._rounded:
            granularity = self.granularity or (PerChannel(0) if dtype == "int8" else PerGroup(32))
            given: tuple[Any, ...] = () if technique != "gptq" else (self.run, [batch for batch, _ in self.batches])
            method: Any = technique
            self._rounded[key] = quantize_layers(
                self.held, *given, dtype=dtype, granularity=granularity, method=method, progress=False
            )
        return self._rounded[key]

    def measure(self, technique: str, choice: Mapping[str, str]) -> Measured:
        tuned = self.model(technique, choice)
        made = tuned.entries()
        score = Score(self.owner, self.score.metric)
        signal = noise = 0.0
        try:
            for name, entry in self.entries.items():
                whole = isinstance(entry, tuple | list)
                w, bias = made[name] if name in tuned.biases else (made[name], None)
                if choice[name] != FLOAT:
                    self.held[name] = type(entry)((w, bias)) if whole else w
            for (batch, labels), exact in zip(self.batches, self.exact, strict=True):
                outputs = _named(self.run(batch))
                score.add(outputs, exact if score.needs == "reference" or labels is None else labels)
                for name, y in exact.items():
                    s, n = signal_and_noise(y, outputs[name])
                    signal, noise = signal + s, noise + n
        finally:
            self.held.update(self.entries)
        return Measured(score.value(), decibels(signal, noise), tuned.nbytes)


def _named(result: Any) -> dict[str, Any]:
    """Return the outputs of a function by name."""
    if isinstance(result, Mapping):
        return {str(name): np.asarray(value) for name, value in result.items()}
    return {"": np.asarray(result)}
