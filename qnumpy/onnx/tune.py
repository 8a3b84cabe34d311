"""Search the best quantized form of an ONNX model within limits of accuracy and time."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from onnx import ModelProto

from .. import _args, _check
from .._typing import Array
from ..calibration.calibrate import Calibration
from ..errors import CalibrationError
from ..reports.scores import Metric, Score, decibels, signal_and_noise
from ..tune import FLOAT, Drop, Measured, Objective, Tuning, budget_of, limits_of, listed, search, types_of
from ._files import path_of, read_model, write_model
from ._graph import Graph
from ._latency import interleaved
from ._layers import layers
from ._report import find_report
from ._selection import Selection
from .compare import compare
from .convert_float import convert_float
from .dynamic import quantize_dynamic
from .evaluate import labelled
from .session import opened, run_batches, session
from .static import calibrate, quantize_static
from .weights import quantize_weights

__all__ = ["tune"]

_OBSERVERS = ("mse", "minmax", "percentile", "entropy", "best")
_TECHNIQUES = dict.fromkeys([*(f"static {name}" for name in _OBSERVERS), "dynamic", "dynamic smoothed", "weights"], 0)
_DEFAULT = ("static mse", "static minmax", "static percentile", "dynamic", "dynamic smoothed", "weights")
_DTYPES = ("int4", "int8", "float16", FLOAT)  # the smallest first
_SAMPLES = 4  # batches that layers are compared on
_SECONDS = 0.3  # for each of two sessions that are timed


def tune(
    model: Any,
    data: Iterable[Any],
    metric: Metric,
    output: str | os.PathLike[str] | None = None,
    *,
    max_drop: float | None = None,
    drop: Drop = "absolute",
    min_score: float | None = None,
    max_latency: float | None = None,
    objective: Objective = "latency",
    budget: Any = None,
    dtypes: Sequence[str] | None = None,
    techniques: Sequence[str] | None = None,
    labels: Any = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    target_cpu: Literal["any", "vnni", "avx2", "arm"] = "any",
    threads: int = 1,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Tuning:
    """Search technique and types of operators within limits of accuracy and time; always return the best found.

    Every technique is tried on the whole model. Where that breaks a limit, operators are ranked by what each costs
    alone, measured; the worst return to float, as many as a bisection finds necessary; then each of those is tried
    quantized again, in the order of what that costs now.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    data : iterable of dict of str to array, of arrays, or of pairs of inputs and labels
        Calibrates and evaluates; kept in memory. As in evaluate.
    metric : str or callable
        As in evaluate; larger is better. The reference is the model itself.
    output : str or path, optional
        Where to write the best model.
    max_drop : float, optional
        How far the metric may fall below the float model's.
    drop : {"absolute", "relative"}
        What max_drop counts: the metric itself, or a share of the float model's.
    min_score : float, optional
        The least metric, in place of max_drop; of "sqnr", which the float model has infinitely much of.
    max_latency : float, optional
        The longest run of the first batch, as a share of the float model's; measured in turn with it.
    objective : {"latency", "size", "accuracy"}
        What is best among the models that keep the limits.
    budget : int, str, mapping or qnumpy.tune.Budget, optional
        Trials; "60s"; ``{"trials": 50, "seconds": 600}``. 100 trials by default.
    dtypes : sequence of {"int4", "int8", "float16", "float32"}, optional
        The types an operator may take; int4 and float16 are types of weights, which compute in float32. By default int8
        and float32; with the objective "size" all of them.
    techniques : sequence of str, optional
        "static mse", "static minmax", "static percentile", "static entropy", "static best", "dynamic",
        "dynamic smoothed", "weights": how int8 is reached.
    labels : optional
        As in evaluate.
    include, exclude : iterable of str, optional
        Names of nodes or operator types; patterns as the shell's. The others stay float32. As in quantize_static,
        included nodes run in int8 even where they are slower.
    target_cpu : {"any", "vnni", "avx2", "arm"}
        As in quantize_static.
    threads : int, default 1
        Of the sessions that are timed.
    resume : str or path, optional
        A file with the measurements; a call with the same arguments goes on from there, with another budget if need be.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.

    Returns
    -------
    qnumpy.tune.Tuning
        `model`, whether the limits are `met`, the `best` trial, and every trial as a table. Where no model keeps the
        limits, the one that comes nearest.

    Raises
    ------
    TypeError, ValueError
        metric is neither a function nor a name of one; a limit, the objective, the budget, a type or a technique is
        none of those above.
    TypeError, FileFormatError
        model is no model.
    ValueError
        A pattern matches nothing.
    TypeError, ValueError
        A batch does not fit the model's inputs; the metric needs labels and there are none.
    CalibrationError
        data is empty.
    ValueError
        resume is of another search.

    Examples
    --------
    >>> import qnumpy as qn
    >>> images, classes = np.ones((8, 3, 224, 224), np.float32), np.zeros(8, np.int64)
    >>> batches = [(images, classes)]
    >>> found = qn.onnx.tune("model.onnx", batches, "accuracy", "int8.onnx", max_drop=0.01)  # doctest: +SKIP
    >>> found.met, found.best.latency  # doctest: +SKIP
    (True, 0.41)
    """
    owner = "tune"
    score = Score(owner, metric)
    limits = limits_of(owner, max_drop, drop, min_score, max_latency, objective, ("latency", "size", "accuracy"))
    spent = budget_of(owner, budget)
    wanted = (_DTYPES if objective == "size" else ("int8", FLOAT)) if dtypes is None else dtypes
    chosen = types_of(owner, wanted, _DTYPES)
    named = _DEFAULT if techniques is None else tuple(listed(owner, "techniques", _alone(techniques)))
    for technique in named:
        _args.choice(owner, "techniques", technique, _TECHNIQUES)
    progress = _check.flag_or_none(owner, "progress", progress)
    if output is not None:
        os.stat(os.path.dirname(path_of(owner, output)) or ".")  # a missing folder is an error before the search
    source = read_model(owner, model)
    selection = Selection.of(owner, include, exclude, Graph.of(source))
    stored: Literal["int8", "int16"] = "int8" if objective == "size" else "int16"
    problem = _Model(owner, source, data, labels, score, chosen, named, selection, target_cpu, threads, stored)
    found = search(owner, problem, limits, spent, resume=resume, progress=progress)
    if output is not None:
        write_model(owner, found.model, output)
    return found


def _alone(techniques: Any) -> Any:
    return [techniques] if isinstance(techniques, str) else techniques


class _Model:
    """The problem of an ONNX model."""

    def __init__(
        self,
        owner: str,
        source: ModelProto,
        data: Iterable[Any],
        labels: Any,
        score: Score,
        dtypes: tuple[str, ...],
        techniques: tuple[str, ...],
        selection: Selection,
        target_cpu: Any,
        threads: int,
        stored: Literal["int8", "int16"],
    ) -> None:
        self.stored, self.selection = stored, selection
        self.owner, self.source, self.score = owner, source, score
        self.dtypes, self.techniques, self.target_cpu, self.threads = dtypes, techniques, target_cpu, threads
        found = [layer for layer in layers(Graph.of(source)) if layer.weight is not None and layer.node in selection]
        self.layers = tuple(dict.fromkeys(layer.name for layer in found))
        every = [layer for layer in layers(Graph.of(source)) if layer.weight is not None]
        self.unselected = tuple(dict.fromkeys(layer.name for layer in every if layer.name not in self.layers))
        self.engine = opened(owner, source, threads)
        self.feeds: list[Any] = []
        self.labels: list[Any] = []
        for feed, wanted in labelled(owner, self.engine, data, labels):
            self.feeds.append(feed)
            self.labels.append(wanted)
        if not self.feeds:
            raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
        if score.needs == "labels" and any(wanted is None for wanted in self.labels):
            got = "no labels"
            raise ValueError(
                _check.must(owner, "data", f"pairs of inputs and labels for the metric {score.name!r}", got)
            )
        self.exact = list(run_batches(owner, self.engine, self.feeds))
        self._calibration: Calibration | None = None
        self._changed: dict[tuple[str, str], tuple[str, ...]] = {}
        self._int8: dict[str, set[str]] = {}
        self._last: tuple[Any, ModelProto] | None = None
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        facts = (self.score.name, self.dtypes, self.techniques, self.layers, self.target_cpu, len(self.feeds))
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(self.source.SerializeToString(deterministic=True))
        for outputs in self.exact:
            for array in outputs.values():
                digest.update(
                    np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode()
                )
        return digest.hexdigest()

    # ---- the problem ----

    def measure(self, technique: str, choice: Mapping[str, str]) -> Measured:
        made = self.model(technique, choice)
        score, signal, noise = Score(self.owner, self.score.metric), 0.0, 0.0
        results = run_batches(self.owner, session(made, threads=self.threads), self.feeds)
        for outputs, exact, wanted in zip(results, self.exact, self.labels, strict=True):
            score.add(outputs, exact if score.needs == "reference" or wanted is None else wanted)
            for name, y in exact.items():
                if isinstance(y, np.ndarray) and y.dtype.kind == "f" and outputs[name].shape == y.shape:
                    s, n = signal_and_noise(y, outputs[name])
                    signal, noise = signal + s, noise + n
        return Measured(score.value(), decibels(signal, noise), made.ByteSize(), self._note(technique, choice, made))

    def _note(self, technique: str, choice: Mapping[str, str], made: ModelProto) -> str:
        """Say how many of the layers that may be int8 are: the others would be slower."""
        allowed = {name for name, dtype in choice.items() if dtype == "int8"}
        report = find_report(made)
        if technique == "weights" or not allowed or report is None:
            return ""
        count = len({change.node for change in report if change.form != "float" and change.node in allowed})
        return (
            ""
            if count == len(allowed)
            else f"int8 is faster for {count} of {len(allowed)}, the others' weights are codes"
        )

    def canonical(self, technique: str, choice: Mapping[str, str]) -> str:
        int8 = {name for name, dtype in choice.items() if dtype == "int8"}
        if not int8:
            return "weights"
        kind = technique.partition(" ")[0]
        first = next(other for other in self.techniques if other.startswith(kind))
        # where no layer of these runs in int8, the weights alone are codes, whatever the ranges of activations
        return technique if technique == first or int8 & self._running(first) else first

    def _running(self, technique: str) -> set[str]:
        """Return the layers that run in int8 where all may."""
        if technique not in self._int8:
            report = find_report(self.model(technique, dict.fromkeys(self.layers, "int8")))
            self._int8[technique] = {change.node for change in report or () if change.form != "float"}
        return self._int8[technique]

    def estimated(self, technique: str, dtype: str) -> dict[str, float]:
        made = self.model(technique, dict.fromkeys(self.layers, dtype))
        rows = compare(self.source, made, self.feeds[:_SAMPLES], progress=False)
        return {row.name: row.sqnr_db for row in rows}

    def latency(self, technique: str, choice: Mapping[str, str]) -> float | None:
        engine = session(self.model(technique, choice), threads=self.threads)
        feed = self._feed()
        mine, reference = interleaved(
            [lambda: engine.run(None, feed), lambda: self.engine.run(None, feed)], seconds=_SECONDS
        )
        return mine / reference

    def _feed(self) -> dict[str, Array]:
        feed = self.feeds[0]
        return dict(feed) if isinstance(feed, Mapping) else {self.engine.get_inputs()[0].name: np.asarray(feed)}

    def changed(self, technique: str, dtype: str) -> tuple[str, ...]:
        if dtype != "int8":
            return self.layers
        key = technique, dtype
        if key not in self._changed:
            report = find_report(self.model(technique, dict.fromkeys(self.layers, dtype)))
            names = {change.node for change in report or () if change.dtype != FLOAT}
            self._changed[key] = tuple(name for name in self.layers if name in names)
        return self._changed[key]

    def model(self, technique: str, choice: Mapping[str, str]) -> ModelProto:
        key = technique, tuple(choice.values())
        if self._last is None or self._last[0] != key:
            self._last = key, self._made(technique, choice)
        return self._last[1]

    def _made(self, technique: str, choice: Mapping[str, str]) -> ModelProto:
        """Return a model: weights of 4 bits and float16 first, then int8 for the layers that have it."""
        made = self.source
        by_type = {dtype: [name for name in self.layers if choice[name] == dtype] for dtype in self.dtypes}
        if by_type.get("int4"):
            made = quantize_weights(made, dtype="int4", conv_dtype="int4", include=by_type["int4"], progress=False)
        if by_type.get("float16"):
            made = convert_float(made, include=by_type["float16"], weights_only=True)
        int8 = by_type.get("int8")
        if not int8:
            return made
        options: dict[str, Any] = {"target_cpu": self.target_cpu, "progress": False}
        if self.selection.include is None:  # int8 where it is faster
            rest = [*(name for name in self.layers if choice[name] != "int8"), *self.unselected]
            options |= {"exclude": rest or None, "float_weights": self.stored}
        else:
            options |= {"include": int8, "float_weights": FLOAT}
        if technique == "weights":
            return quantize_weights(made, dtype="int8", group_size=None, include=int8, progress=False)
        if technique.startswith("dynamic"):
            data = self.feeds if technique.endswith("smoothed") else None
            return quantize_dynamic(made, data=data, **options)  # type: ignore[no-any-return]
        if self._calibration is None:
            self._calibration = calibrate(self.source, self.feeds, observer="best", progress=False)
        observer: Any = technique.partition(" ")[2]
        return quantize_static(  # type: ignore[no-any-return]
            made, calibration=self._calibration, observer=observer, min_sqnr=None, **options
        )
