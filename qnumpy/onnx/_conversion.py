"""Static quantization of one model with one calibration: which layers, ranges and factors."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from .._typing import Array
from ..calibration.calibrate import Calibration
from ..calibration.estimate import estimate
from ..observers import (
    MeanObserver,
    MinMaxObserver,
    Observer,
)
from ..qparams import QParams
from ._files import MOST_OPSET, opset_of
from ._forms.codes import LayerCodes
from ._forms.stored import store_weights
from ._graph import Graph, node_name
from ._int8_graph import Int8Graph, Options
from ._placement import Candidate, candidates, cost_of, place
from ._ranges import (
    CHANNELS,
    MEAN,
    MOMENTS,
    SQUARES,
    chosen_qparams,
    smooths,
)
from ._report import Change

__all__ = ["Conversion"]

_WEIGHT_SHARE = 0.3  # of the error of nearest codes, which rounding by moments leaves
_SMOOTHING_GAIN = 0.75  # of the error, below which factors pay for the pass over memory
_FEW, _ROOM = 1 << 17, 0.1  # elements, of which the range of a result is widened, and by which part at each end


class Conversion:
    """One model to be converted with one calibration: in as many variants as are timed."""

    def __init__(self, prepared: Any, calibration: Calibration, options: Options) -> None:
        self.prepared, self.calibration, self.options = prepared, calibration, options
        self.keys = [c.key for c in candidates(Graph.of(prepared))]
        self.newer = opset_of(prepared) > MOST_OPSET
        self.batches = max(calibration.batches, 1)
        names = [name for name in calibration.observers if not name.endswith((MEAN, MOMENTS, CHANNELS, SQUARES))]
        self.elements = {name: self._count(calibration.observers[name]) for name in names}
        self._codes: dict[Any, LayerCodes] = {}
        self.qparams = {name: chosen_qparams(calibration.observers[name], options.observer) for name in names}
        for name, ends in self._open_ends().items():
            self.qparams[name] = self._widened(name, ends)

    def _count(self, observer: Observer) -> float:
        counts = (getattr(observer, name, 0) for name in ("count_", "nan_", "infinite_"))
        return float(sum(np.sum(count) for count in counts)) / self.batches

    def _open_ends(self) -> dict[str, tuple[float, float]]:
        """Return the tensors whose range more data would widen, and what bounds it: results of layers."""
        open_ends = {}
        for c in candidates(Graph.of(self.prepared)):
            least, most = c.attributes["bounds"] if c.kind == "activation" else (None, None)
            if c.computes or c.kind == "activation":
                open_ends[c.key] = (-math.inf if least is None else least, math.inf if most is None else most)
        return {name: ends for name, ends in open_ends.items() if self.qparams.get(name) is not None}

    def _widened(self, name: str, ends: tuple[float, float]) -> QParams | None:
        """Return the parameters of a tensor with room for what few data did not show.

        Of a few thousand elements the largest is soon exceeded, and what lies outside of a range is wrong by far more
        than half a step; the room costs less than 1 dB at each end.
        """
        params = self.qparams[name]
        if params is None or np.sum(getattr(self.calibration.observers[name], "count_", 0)) > _FEW:
            return params
        low, high = (float(end) for end in params.range())
        if params.code.name != "uint8" or not high > low:
            return params
        room = _ROOM * (high - low)
        low, high = (max(low - room, ends[0]) if low < 0 else low), (min(high + room, ends[1]) if high > 0 else high)
        return QParams.from_range(low, high, dtype="uint8", symmetric=False)

    def convert(
        self, pace: float, without: Mapping[str, str] | None = None
    ) -> tuple[Any, list[Change], dict[str, Any]]:
        """Return a quantized model, what changed, and facts for the report.

        Parameters
        ----------
        pace : float
            As in place.
        without : mapping of str to str, optional
            From the keys of candidates that stay float32 to the reason.
        """
        model = ModelProto()
        model.CopyFrom(self.prepared)
        graph = Graph.of(model)
        found = candidates(graph)
        reasons: dict[str, str] = {}
        chosen = place(graph, found, self.elements, lambda c: self._force(c, without or {}, reasons), pace=pace)
        changes = self._write(graph, found, chosen)
        for c in found:
            if c.computes and c.key not in chosen:
                reasons.setdefault(c.key, "int8 would not be faster in onnxruntime, with the changes of form around it")
        changes += store_weights(model, self.options.float_weights, self._stays, reasons)
        layers_in_int8 = [c.key for c in found if c.computes and c.key in chosen]
        return model, _ordered(changes, self.prepared), {"layers": layers_in_int8}

    def _write(self, graph: Graph, found: list[Candidate], chosen: set[str]) -> list[Change]:
        ranges = self._shared(graph, found, chosen)
        smoothing = self._smoothing(graph, found, chosen, ranges)
        self._latest = ranges, smoothing
        return self._int8_graph(graph, found, chosen, ranges, smoothing).run()

    def _int8_graph(
        self,
        graph: Graph,
        found: list[Candidate],
        chosen: set[str],
        ranges: Mapping[str, QParams],
        smoothing: Mapping[str, Array],
    ) -> Int8Graph:
        return Int8Graph(graph, found, chosen, ranges, smoothing, self.calibration, self.options, self._codes)

    def _stays(self, node: Any) -> bool:
        """Whether the user excluded a node: its weights stay as they are."""
        return node not in self.options.selection and not self.options.forced

    def alone(self, key: str) -> Any:
        """Return the model with one layer in int8, with the codes that it has in the model of the last `convert`."""
        model = ModelProto()
        model.CopyFrom(self.prepared)
        graph = Graph.of(model)
        found = candidates(graph)
        chosen = place(graph, found, self.elements, lambda c: self._alone(c, key))
        ranges, smoothing = self._latest
        self._int8_graph(graph, found, chosen, ranges, smoothing).run()
        return model

    def _alone(self, c: Candidate, key: str) -> bool | None:
        """Whether a candidate runs in int8 where one layer alone does; an activation may be part of the layer."""
        return None if c.kind == "activation" and c.inputs[0] == key else c.key == key

    def saving(self, key: str) -> float:
        """Return the nanoseconds that a layer in int8 saves, as estimated."""
        found = next(c for c in candidates(Graph.of(self.prepared)) if c.key == key)
        cost = cost_of(found, self.elements)
        return cost.float32 - cost.int8

    def _force(self, c: Candidate, without: Mapping[str, str], reasons: dict[str, str]) -> bool | None:
        names = [*c.inputs, *(() if c.keeps_float or c.kind == "activation" else c.outputs)]
        if c.node in self.options.selection:
            if self.newer:
                reasons[c.key] = f"onnxruntime computes QuantizeLinear up to operator set {MOST_OPSET}"
                return False
            unusable = [name for name in names if self.qparams.get(name) is None and not self._merged(c, name)]
            if unusable:
                observer = self.calibration.observers.get(unusable[0])
                masked = observer is not None and int(np.sum(getattr(observer, "infinite_", 0))) > 0
                why = "has masks or infinities" if masked else "has no range"
                reasons[c.key] = f"{unusable[0]!r} {why}"
                return False
            if c.key in without:
                reasons[c.key] = without[c.key]
                return False
            return True if self.options.forced else None
        reasons[c.key] = "excluded"
        return False

    def _merged(self, c: Candidate, name: str) -> bool:
        """Whether an output has no observer because an activation takes it."""
        return name not in self.calibration.observers and name in c.outputs

    def _shared(self, graph: Graph, found: list[Candidate], chosen: set[str]) -> dict[str, QParams]:
        """Return the parameters of tensors; codes that are only moved keep theirs, and Concat shares where it can."""
        ranges = {name: params for name, params in self.qparams.items() if params is not None}
        for c in found:
            if c.key not in chosen or c.node.op_type != "Concat" or c.key not in ranges:
                continue
            whole = ranges[c.key]
            makers = [next((b for b in found if name in b.outputs), None) for name in c.inputs]
            alone = all(len(graph.consumers(name)) == 1 and not graph.is_output(name) for name in c.inputs)
            same = all(b is not None and b.key in chosen and b.kind != "move" for b in makers)
            close = all(name in ranges and 2 * ranges[name].scale >= whole.scale for name in c.inputs)
            if alone and same and close:
                ranges.update(dict.fromkeys(c.inputs, whole))
        for c in found:
            if c.key in chosen and c.kind == "move":
                ranges.update(dict.fromkeys(c.outputs, ranges[c.inputs[0]]))
        return ranges

    def _smoothing(
        self, graph: Graph, found: list[Candidate], chosen: set[str], ranges: dict[str, QParams]
    ) -> dict[str, Array]:
        """Return factors of the channels of inputs, where they lower the error; the ranges become those of x / factor.

        A Mul divides by them, for the price of one pass; the weights are multiplied by them.
        """
        by_output = {name: c for c in found for name in c.outputs}
        readers: dict[str, list[Candidate]] = {}
        for c in found:
            if c.key in chosen and c.kind != "activation":
                for name in c.inputs:
                    readers.setdefault(name, []).append(c)
        smoothing = {}
        uses = Counter(c.weight.name for c in found if c.weight is not None)
        for tensor, layers_of in readers.items():
            maker = by_output.get(tensor)
            if maker is not None and maker.key in chosen and maker.kind == "activation":
                maker = by_output.get(maker.inputs[0])
            coded = maker is not None and maker.key in chosen and not maker.keeps_float
            channels = self.calibration.observers.get(f"{tensor}{CHANNELS}")
            if coded or graph.is_output(tensor) or not all(map(smooths, layers_of)):
                continue
            if any(c.weight is not None and uses[c.weight.name] > 1 for c in layers_of):  # is stored once
                continue
            if (
                not isinstance(channels, MinMaxObserver)
                or not hasattr(channels, "min_")
                or (channels.count_ == 0).any()
            ):
                continue
            best = _factors(channels, [_inputs_first(c) for c in layers_of], self._squares(tensor), self._noise(tensor))
            if best is not None:
                smoothing[tensor], ranges[tensor] = best
        return smoothing

    def _squares(self, tensor: str) -> Array | None:
        observer = self.calibration.observers.get(f"{tensor}{SQUARES}")
        if not isinstance(observer, MeanObserver) or not hasattr(observer, "mean_"):
            return None
        return np.asarray(observer.mean_)

    def _noise(self, tensor: str) -> float | None:
        """Return the mean squared error of a tensor's codes without factors."""
        observer, params = self.calibration.observers.get(tensor), self.qparams.get(tensor)
        if params is None or observer is None:
            return None
        return (
            float(params.scale) ** 2 / 12
            if observer.sketch is None
            else estimate(observer.sketch, params, False)[0].mse
        )


def _inputs_first(c: Candidate) -> Array:
    """Return the weight of a product with the axis of the inputs first."""
    assert c.weight is not None
    return c.weight.array if c.outputs_axis == 1 else c.weight.array.T


def _factors(
    channels: MinMaxObserver, weights: list[Array], squares: Array | None, noise: float | None
) -> tuple[Array, QParams] | None:
    """Return factors of channels and the range of x / factor; None where they do not lower the error of the outputs.

    Between those that make all channels of x equally wide and those that do so for the rows of the weight the best is
    taken, by the mean squared error of the outputs: ``sum_k (factor_k S)^2 / 12 |w_k|^2`` of the codes of x, and
    ``sum_k x_k^2 / factor_k^2 Sw^2 / 12`` of those of w for each output.
    """
    if squares is None or noise is None:
        return None
    low, high = np.minimum(channels.min_, 0.0), np.maximum(channels.max_, 0.0)
    reach = np.maximum(np.maximum(-low, high), 1e-12)
    w = np.concatenate(weights, axis=1).astype(np.float64)
    rows = np.maximum(np.abs(w).max(axis=1), 1e-12)
    energy = np.square(w).sum(axis=1)

    def weight_noise(factor: Array) -> float:
        step = np.abs(w * factor[:, None]).max(axis=0) / 127
        return _WEIGHT_SHARE * float((squares / np.square(factor)).sum() * np.square(step).sum() / 12)

    least = noise * float(energy.sum()) + weight_noise(np.ones(len(rows)))
    best = None
    for alpha in (0.2, 0.35, 0.5, 0.65, 0.8):
        factor = reach**alpha / rows ** (1 - alpha)
        factor = np.clip(factor / np.exp(np.log(factor).mean()), 1e-3, 1e3).astype(np.float32).astype(np.float64)
        params = QParams.from_range(
            float((low / factor).min()), float((high / factor).max()), dtype="uint8", symmetric=False
        )
        error = float(np.square(factor * float(params.scale)) @ energy) / 12 + weight_noise(factor)
        if error < _SMOOTHING_GAIN * least:
            least, best = error, (factor.astype(np.float32), params)
    return best


def _ordered(changes: list[Change], model: Any) -> list[Change]:
    places = {node_name(node): i for i, node in enumerate(model.graph.node)}
    return sorted(changes, key=lambda change: places.get(change.node, len(places)))
