"""Choice between quantized variants of a model: by the accuracy of their outputs and by time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._typing import Array
from ..reports.scores import Score
from ._conversion import Conversion
from ._latency import interleaved
from ._report import Change
from ._taps import feed_of
from .session import session

__all__ = ["Floor", "accurate", "fastest"]

_PACES = (1.0, 0.5, 2.0)  # factors of the cost of int8 that a measurement tries
_INACCURATE = "with this layer in int8 the outputs would have less than min_sqnr"
_SLOWER = "int8 was slower, measured here"


class Floor:
    """The accuracy that a quantized model must keep on a few batches."""

    def __init__(self, source: Any, samples: list[Any], least: float) -> None:
        engine = session(source)
        self.least, self.feeds = least, [feed_of(engine, item) for item in samples]
        self.names = [value.name for value in engine.get_outputs() if value.type == "tensor(float)"]
        runs = (engine.run(self.names, feed) for feed in self.feeds if self.names)
        self.wanted = [dict(zip(self.names, outputs, strict=True)) for outputs in runs]

    def sqnr(self, model: Any) -> float:
        """Return the SQNR in dB of the output that has the least, over all batches."""
        if not self.wanted:
            return math.inf
        engine, score = session(model), Score("quantize_static", "sqnr")
        for feed, wanted in zip(self.feeds, self.wanted, strict=True):
            score.add(dict(zip(self.names, engine.run(self.names, feed), strict=True)), wanted)
        return score.value()


def accurate(work: Conversion, pace: float, floor: Floor | None) -> tuple[Any, list[Change], dict[str, Any]]:
    """Return the quantized model in which as many layers run in int8 as the accuracy allows: the number is bisected."""
    result = work.convert(pace)
    if floor is None:
        return result
    sqnr = floor.sqnr(result[0])
    ranked = work.ranked(result[2]["layers"])
    least, most = 0, len(ranked)  # so many layers are too few, and enough
    if sqnr < floor.least and ranked:
        while most - least > 1:
            middle = (least + most) // 2
            tried = work.convert(pace, dict.fromkeys(ranked[:middle], _INACCURATE))
            reached = floor.sqnr(tried[0])
            if reached >= floor.least:
                most, result, sqnr = middle, tried, reached
            else:
                least = middle
        if most == len(ranked):
            result = work.convert(pace, dict.fromkeys(work.keys, _INACCURATE))
            sqnr = floor.sqnr(result[0])
    return result[0], result[1], {**result[2], "sqnr_db": sqnr if math.isfinite(sqnr) else None}


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
