"""Choice between quantized variants of a model: by the accuracy of their outputs and by time."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from ._conversion import Conversion
from ._latency import interleaved
from ._report import Change
from ._taps import feed_of
from .session import run_batches, session

__all__ = ["Floor", "accurate", "fastest"]

_ERRORS = 2.0  # standard errors of the noise of a batch that other batches are allowed
_RANKING = 4  # batches on which each layer alone is measured
_PACES = (1.0, 0.5, 2.0)  # factors of the cost of int8 that a measurement tries
_INACCURATE = "with this layer in int8 the outputs would have less than min_sqnr"
_SLOWER = "int8 was slower, measured here"


class Sqnr(NamedTuple):
    """Of some batches, in dB, and what other batches of the same kind are likely to have at least."""

    measured: float
    sure: float


class Floor:
    """The accuracy that a quantized model must keep on a few batches."""

    def __init__(self, source: Any, samples: list[Any], least: float) -> None:
        engine = session(source)
        self.least, self.feeds = least, [feed_of(engine, item) for item in samples]
        self.names = [value.name for value in engine.get_outputs() if value.type == "tensor(float)"]
        runs = run_batches("quantize_static", engine, self.feeds) if self.names else []
        self.wanted = [[outputs[name] for name in self.names] for outputs in runs]

    def sqnr(self, model: Any, most: int | None = None) -> Sqnr:
        """Return the SQNR in dB of the output that has the least, over all batches or some."""
        if not self.wanted:
            return Sqnr(math.inf, math.inf)
        engine = session(model)
        count = len(self.feeds[:most])
        signal, noise = np.zeros((2, count, len(self.names)))
        for b, (feed, wanted) in enumerate(zip(self.feeds[:most], self.wanted[:most], strict=True)):
            for i, (exact, coarse) in enumerate(zip(wanted, engine.run(self.names, feed), strict=True)):
                exact = np.where(np.isfinite(exact), exact, 0).astype(np.float64)
                signal[b, i] = np.square(exact).sum()
                noise[b, i] = np.square(exact - np.where(np.isfinite(coarse), coarse, 0)).sum()
        error = np.zeros(len(self.names))
        if count > 1:  # of a ratio of sums: batches of many elements have more of both
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.nan_to_num(noise.sum(axis=0) / signal.sum(axis=0))
            error = (noise - ratio * signal).std(axis=0, ddof=1) * count**0.5
        measured, sure = (_decibels(signal.sum(axis=0), noise.sum(axis=0) + by * error) for by in (0.0, _ERRORS))
        return Sqnr(measured, sure)


def _decibels(signal: Array, noise: Array) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(noise == 0, np.inf, 10 * np.log10(signal / noise)).min())


def accurate(work: Conversion, pace: float, floor: Floor | None) -> tuple[Any, list[Change], dict[str, Any]]:
    """Return the quantized model in which as many layers run in int8 as the accuracy allows: the number is bisected."""
    result = work.convert(pace)
    if floor is None:
        return result
    whole = sqnr = floor.sqnr(result[0])
    layers = result[2]["layers"]
    if sqnr.sure < floor.least and layers:
        ranked = _ranked(work, layers, floor)
        least, most = 0, len(ranked)  # so many layers are too few, and enough
        while most - least > 1:
            middle = (least + most) // 2
            tried = work.convert(pace, dict.fromkeys(ranked[:middle], _INACCURATE))
            reached = floor.sqnr(tried[0])
            if reached.sure >= floor.least:
                most, result, sqnr = middle, tried, reached
            else:
                least = middle
        if most == len(ranked):
            result = work.convert(pace, dict.fromkeys(work.keys, _INACCURATE))
            sqnr = floor.sqnr(result[0])
    facts = {
        "sqnr_db": _finite(sqnr.measured),
        "whole_sqnr_db": _finite(whole.measured),
        "saved": _saved(work, result[2]["layers"], layers),
    }
    return result[0], result[1], {**result[2], **facts}


def _ranked(work: Conversion, layers: list[str], floor: Floor) -> list[str]:
    """Return layers in the order in which they return to float32: by the noise of each alone, measured, over its gain.

    The noise of one layer is small, so that those of several nearly add up.
    """
    noise = {key: 10 ** (-floor.sqnr(work.alone(key), _RANKING).measured / 10) for key in layers}
    return sorted(layers, key=lambda key: -noise[key] / max(work.saving(key), 1.0))


def _saved(work: Conversion, layers: list[str], most: list[str]) -> float | None:
    """Return the share of the time that is saved, of what all layers in int8 would save, as estimated; None of none."""
    whole = sum(work.saving(key) for key in most)
    return sum(work.saving(key) for key in layers if key in most) / whole if whole > 0 else None


def _finite(sqnr: float) -> float | None:
    return sqnr if math.isfinite(sqnr) else None


def fastest(work: Conversion, source: Any, feed: Any, floor: Floor | None) -> tuple[Any, list[Change], dict[str, Any]]:
    """Time variants, interleaved with the float model, and return the fastest."""
    variants = [accurate(work, pace, floor) for pace in _PACES]
    variants.append(work.convert(1.0, dict.fromkeys(work.keys, _SLOWER)))
    unique: dict[bytes, int] = {}
    for i, (model, _, _) in enumerate(variants):
        unique.setdefault(model.SerializeToString(deterministic=True), i)
    kept = [variants[i] for i in unique.values()]
    engines = [session(source, threads=1), *(session(model, threads=1) for model, _, _ in kept)]
    item = feed_of(engines[0], feed)
    seconds = interleaved([_runner(engine, item) for engine in engines])
    best = int(np.argmin(seconds[1:]))
    model, changes, facts = kept[best]
    return model, changes, {**facts, "milliseconds": 1e3 * seconds[1 + best], "float_milliseconds": 1e3 * seconds[0]}


def _runner(engine: Any, item: dict[str, Array]) -> Callable[[], Any]:
    return lambda: engine.run(None, item)
