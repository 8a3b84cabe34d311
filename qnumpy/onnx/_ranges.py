"""What a calibration for static quantization observes of a model, and the ranges that follow."""

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from .. import _check
from .._typing import Array
from ..calibration.calibrate import Calibration
from ..calibration.report import summarize
from ..errors import CalibrationError
from ..granularity import PerChannel
from ..observers import (
    HistogramObserver,
    MeanObserver,
    MinMaxObserver,
    MomentsObserver,
    MovingAverageMinMaxObserver,
    Observer,
)
from ..qparams import QParams
from ..weights.patches import patches
from ._latency import NARROW
from ._placement import Candidate
from ._taps import observe_calibration

__all__ = [
    "CHANNELS",
    "MEAN",
    "MOMENTS",
    "SQUARES",
    "Rounding",
    "Technique",
    "calibrated",
    "check_calibration",
    "chosen_qparams",
    "rounding_name",
    "smooths",
]

Technique = Literal["mse", "minmax", "moving_average", "percentile", "entropy", "best"]
Rounding = Literal["gptq", "nearest"]

# ends of the names of what a calibration keeps for weights
MEAN, MOMENTS, CHANNELS, SQUARES = ":mean", ":moments", ":channels", ":squares"
_MOST_INPUTS = 1024  # of a layer whose moments are kept: their matrix has the square of that
_MOST_ROWS = 2048  # of a batch that moments take


def calibrated(
    owner: str,
    prepared: Any,
    found: list[Candidate],
    data: Iterable[Any],
    observer: Technique,
    percentile: float,
    rounding: Rounding,
    progress: bool | None,
    resume: str | os.PathLike[str] | None,
) -> Calibration:
    progress = _check.flag_or_none(owner, "progress", progress)
    if not (resume is None or isinstance(resume, str | os.PathLike)):
        raise TypeError(_check.must(owner, "resume", "a path, or None", _check.typed(resume)))
    sources = _sources(found)
    templates: dict[str, Observer | None] = {name: _observer(observer, percentile) for name in sources}
    views: dict[str, Callable[[Array], Array]] = {}
    for c in found:
        if not c.computes:
            continue
        name = rounding_name(c, rounding)
        sources[name] = c.inputs[0]
        if name.endswith(MEAN):
            templates[name] = MeanObserver(c.channels_axis)
        else:
            templates[name], views[name] = MomentsObserver(), _rows_of(c)
        if smooths(c):
            name = f"{c.inputs[0]}{CHANNELS}"
            sources[name], templates[name] = c.inputs[0], MinMaxObserver(granularity=PerChannel(-1))
            name = f"{c.inputs[0]}{SQUARES}"
            sources[name], templates[name], views[name] = c.inputs[0], MeanObserver(-1), np.square
    found = []  # the weights, which calibration does not read
    calibration = Calibration(templates)
    if not sources:  # a model without layers: its weights are stored, and that is all
        return calibration
    return observe_calibration(owner, prepared, data, calibration, sources, views, progress=progress, resume=resume)


def _sources(found: list[Candidate]) -> dict[str, str]:
    """Return the tensors to observe, by name in the calibration; activations follow none that they merge into."""
    merged = {c.inputs[0] for c in found if c.kind == "activation"}
    read = {name for c in found if c.kind != "activation" for name in c.inputs}
    names = [name for c in found for name in (*c.inputs, *c.outputs) if name not in merged or name in read]
    return {name: name for name in names}


def rounding_name(c: Candidate, rounding: Rounding) -> str:
    """Return the name of what a calibration keeps to round a layer; layers of one input and one shape share it."""
    assert c.weight is not None
    shape = c.weight.array.shape
    inputs = math.prod(shape[1:]) if c.kind == "conv" else shape[1 - (c.outputs_axis or 0)]
    plain = c.kind == "conv" and (c.attributes.get("group", 1) > 1 or len(shape) != 4 or shape[1] < NARROW)
    auto = c.attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    if rounding == "nearest" or inputs > _MOST_INPUTS or plain or auto or (c.kind == "matmul" and len(shape) != 2):
        return f"{c.inputs[0]}{MEAN}"
    if c.kind != "conv":
        return f"{c.inputs[0]}{MOMENTS}"
    steps = [c.attributes.get(name) for name in ("kernel_shape", "strides", "pads", "dilations")]
    pointwise = shape[2:] == (1, 1) and all(
        not value or set(value) <= {own} for value, own in zip(steps, (1, 1, 0, 1), strict=True)
    )
    return f"{c.inputs[0]}{MOMENTS}" if pointwise else f"{c.key}{MOMENTS}"


def smooths(c: Candidate) -> bool:
    """Whether factors of the input's channels can move into the weight."""
    return c.kind in ("matmul", "gemm") and c.weight is not None and c.weight.array.ndim == 2


def _rows_of(c: Candidate) -> Callable[[Array], Array]:
    """Return a function that turns the input of a layer into rows that its weight multiplies, some thousands."""

    def rows(x: Array) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        return flat[:: max(1, -(-len(flat) // _MOST_ROWS))]

    if c.kind != "conv":
        return rows
    assert c.weight is not None
    kernel = c.weight.array.shape[2:]
    strides, gaps = (tuple(c.attributes.get(name) or (1, 1)) for name in ("strides", "dilations"))
    top, left, bottom, right = c.attributes.get("pads") or (0, 0, 0, 0)

    def patch_rows(x: Array) -> Array:
        over = x.shape[0] * x.shape[2] * x.shape[3] / (strides[0] * strides[1] * _MOST_ROWS)
        skip = max(1, round(over**0.5))  # patches are as many times the image as a filter has elements
        steps = strides[0] * skip, strides[1] * skip
        return rows(patches(x, kernel, strides=steps, padding=(top, left, bottom, right), dilations=gaps))

    return patch_rows


def _observer(technique: Technique, percentile: float) -> Observer:
    config: Any = {"dtype": "uint8", "symmetric": False}
    match technique:
        case "minmax":
            return MinMaxObserver(**config)
        case "moving_average":
            return MovingAverageMinMaxObserver(0.1, **config)
        case "best":
            return HistogramObserver("mse", percentile, **config)
        case _:
            return HistogramObserver(technique, percentile, **config)


def check_calibration(owner: str, calibration: Calibration, found: list[Candidate]) -> None:
    missing = [c.inputs[0] for c in found if c.computes and c.inputs[0] not in calibration.observers]
    if missing and len(missing) == sum(c.computes for c in found):
        got = f"one without {missing[0]!r}"
        raise CalibrationError(_check.must(owner, "calibration", "what calibrate returned for this model", got))


def chosen_qparams(observer: Observer, technique: Technique) -> QParams | None:
    """Return the parameters of a tensor by a technique; None where it has masks, or nothing finite."""
    if not observer.chooses_range or not hasattr(observer, "count_"):
        return None
    if int(observer.infinite_.sum()) or not int(observer.count_.sum()):
        return None
    try:
        if not isinstance(observer, HistogramObserver) or technique == "moving_average":
            return observer.qparams()
        by_name = observer.techniques()
        if technique != "best":
            return by_name[technique]
        best = summarize("", observer).best
        return observer.qparams() if best is None else by_name[best.method]
    except (CalibrationError, KeyError, ValueError):  # a range that no scale covers
        return None
