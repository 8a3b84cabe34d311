"""How well a model does on data: metrics by name, and functions of the user's, over outputs batch by batch."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import _check
from .._typing import Array
from ..dtypes import float_type

__all__ = ["METRICS", "Metric", "Score", "decibels", "finite_decibels", "signal_and_noise"]

Metric = str | Callable[..., Any]

# What a metric compares the outputs with.
METRICS = {"accuracy": "labels", "top5": "labels", "agreement": "reference", "cosine": "reference", "sqnr": "reference"}
_FIVE = 5


class Score:
    """A metric that sees batch after batch; larger is better.

    Parameters
    ----------
    owner : str
    metric : str or callable
        "accuracy", "top5": the share of labels that the first output has as its largest element, or among its five
        largest, along the last axis. "agreement": the share of positions whose largest element is that of the float
        model. "cosine": the mean cosine of the rows. "sqnr": in dB, of the worst output. A function is called once, as
        ``metric(outputs, expected)`` or ``metric(outputs)``, with a list that has an entry for each batch.

    Attributes
    ----------
    needs : {"labels", "reference", None}
        What `expected` holds; None for a function, which gets what there is.
    """

    def __init__(self, owner: str, metric: Metric) -> None:
        if not (isinstance(metric, str) or callable(metric)):
            wanted = f"a function, or {_check.alternatives(map(repr, METRICS))}"
            raise TypeError(_check.must(owner, "metric", wanted, _check.typed(metric)))
        if isinstance(metric, str) and metric not in METRICS:
            wanted = f"{_check.alternatives(map(repr, METRICS))}, or a function"
            raise ValueError(_check.must(owner, "metric", wanted, repr(metric)))
        self.owner, self.metric = owner, metric
        self.needs = METRICS[metric] if isinstance(metric, str) else None
        self.name = metric if isinstance(metric, str) else str(getattr(metric, "__qualname__", type(metric).__name__))
        self._outputs: list[Any] = []
        self._expected: list[Any] = []
        self._sums: dict[str, Array] = {}
        self.batches = 0

    def add(self, outputs: Mapping[str, Any], expected: Any) -> None:
        """Add a batch: the outputs by name, and the labels or the outputs that are expected."""
        self.batches += 1
        if not isinstance(self.metric, str):
            self._outputs.append(_single(outputs))
            self._expected.append(_single(expected) if isinstance(expected, Mapping) else expected)
        elif self.needs == "labels":
            self._total(
                "", _hits(self.owner, next(iter(outputs.values())), expected, _FIVE if self.metric == "top5" else 1)
            )
        else:
            for name, pair in _pairs(self.owner, outputs, expected).items():
                self._total(name if self.metric == "sqnr" else "", _REFERENCED[self.metric](*pair))

    def value(self) -> float:
        """Return the score of all batches."""
        if not isinstance(self.metric, str):
            one = _takes_one(self.metric)
            result = self.metric(self._outputs) if one else self.metric(self._outputs, self._expected)
            number = result.item() if isinstance(result, np.ndarray | np.generic) and result.size == 1 else result
            if not (_check.is_number(number) or isinstance(number, bool)):
                raise TypeError(
                    _check.must(self.owner, "metric", "a function that returns a number", _check.typed(result))
                )
            return float(number)
        if self.metric == "sqnr":
            return min((decibels(*total) for total in self._sums.values()), default=math.inf)
        total, count = self._sums.get("", np.zeros(2))
        return float(total / count) if count else math.nan

    def _total(self, name: str, sums: tuple[float, float]) -> None:
        self._sums[name] = self._sums.get(name, np.zeros(2)) + np.array(sums, np.float64)


def decibels(signal: float, noise: float) -> float:
    """Return a ratio in dB; infinity where there is no noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


def finite_decibels(signal: float, noise: float) -> float | None:
    """Return a ratio in dB for a report; None where it is not finite: nothing was there, or nothing was lost."""
    ratio = decibels(signal, noise)
    return ratio if math.isfinite(ratio) else None


def signal_and_noise(exact: Any, coarse: Any) -> tuple[float, float]:
    """Return the sums of the squares of reals and of their errors, over elements that are finite in `exact`."""
    x, y = np.asarray(exact).astype(np.float64, copy=False), np.asarray(coarse).astype(np.float64, copy=False)
    finite = np.isfinite(x)
    if not finite.all():
        x, y = x[finite], y[finite]
    with np.errstate(over="ignore", invalid="ignore"):
        noise = float(np.square(x - y).sum())
    return float(np.square(x).sum()), noise if math.isfinite(noise) else math.inf


def _cosine(exact: Any, coarse: Any) -> tuple[float, float]:
    x = np.asarray(exact, np.float64)
    rows = x.shape[0] if x.ndim else 1
    x, y = (np.asarray(a, np.float64).reshape(rows, x.size // max(rows, 1)) for a in (x, coarse))
    norms = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    same = (x == y).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(same, 1.0, np.where(norms > 0, (x * y).sum(axis=1) / norms, 0.0))
    return float(cosines.sum()), float(len(cosines))


def _agreement(exact: Any, coarse: Any) -> tuple[float, float]:
    hits = np.asarray(exact).argmax(axis=-1) == np.asarray(coarse).argmax(axis=-1)
    return float(hits.sum()), float(hits.size)


_REFERENCED: dict[str, Callable[[Any, Any], tuple[float, float]]] = {
    "sqnr": signal_and_noise, "cosine": _cosine, "agreement": _agreement,
}  # fmt: skip


def _pairs(owner: str, outputs: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is expected with what came, of the outputs that hold floats."""
    pairs = {}
    for name, exact in expected.items():
        if name not in outputs or float_type(np.asarray(exact).dtype) is None:
            continue
        if np.shape(exact) != np.shape(outputs[name]):
            got = f"shapes {np.shape(exact)} and {np.shape(outputs[name])} of {name!r}"
            raise ValueError(_check.must(owner, "reference", "a model of the same outputs", got))
        pairs[name] = exact, outputs[name]
    if not pairs:
        got = f"{', '.join(map(repr, outputs))} and {', '.join(map(repr, expected))}"
        raise ValueError(_check.must(owner, "reference", "a model with an output of floats in common", got))
    return pairs


def _hits(owner: str, output: Any, labels: Any, k: int) -> tuple[float, float]:
    y, wanted = np.asarray(output), np.asarray(labels)
    if y.ndim and wanted.shape == (*y.shape[:-1], 1) and y.shape[-1] != 1:
        wanted = wanted[..., 0]
    if wanted.dtype.kind not in "iub":
        raise TypeError(_check.must(owner, "labels", "integers", f"dtype {wanted.dtype}"))
    if y.dtype.kind in "iub" and wanted.shape == y.shape:  # the model itself chooses
        return float((y == wanted).sum()), float(wanted.size)
    if not y.ndim or wanted.shape != y.shape[:-1]:
        wanted_shape = f"of shape {y.shape[:-1]} for an output of shape {y.shape}"
        raise ValueError(_check.must(owner, "labels", wanted_shape, f"shape {wanted.shape}"))
    if k == 1:
        hits = y.argmax(axis=-1) == wanted
    else:
        best = np.argsort(y, axis=-1, kind="stable")[..., -k:]
        hits = (best == wanted[..., None]).any(axis=-1)
    return float(hits.sum()), float(hits.size)


def _single(values: Mapping[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else dict(values)


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function takes the outputs alone."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a C function
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return False
    return sum(p.kind in kinds for p in parameters) == 1
