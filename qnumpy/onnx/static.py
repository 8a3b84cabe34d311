"""Static quantization of ONNX models: ranges of activations from data, int8 where onnxruntime gains by it."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from onnx import ModelProto

from .. import _args, _check
from .._typing import Array
from ..calibration.calibrate import Calibration
from ..calibration.estimate import estimate
from ..calibration.report import summarize
from ..errors import CalibrationError
from ..granularity import PerChannel
from ..observers import HistogramObserver, MeanObserver, MinMaxObserver, MomentsObserver, MovingAverageMinMaxObserver, Observer
from ..qparams import QParams
from ..weights.patches import patches
from ._files import at_opset, raise_ir_version, read_model, write_model
from ._folds import attributes_of, fold
from ._forms.codes import LayerCodes, Moments, layer_codes
from ._forms.integer import conv_integer, matmul_integer, qlinear_conv, qlinear_matmul
from ._forms.qdq import dequantized_layer
from ._forms.stored import FloatWeights, store_weights
from ._forms.writer import Writer
from ._graph import Graph, node_name
from ._latency import NARROW, interleaved
from ._placement import Candidate, candidates, place
from ._report import Change, attach
from ._selection import Selection
from ._taps import batches_of, feed_of, observe_calibration
from .session import session

__all__ = ["calibrate", "quantize_static"]

Technique = Literal["mse", "minmax", "moving_average", "percentile", "entropy", "best"]
Form = Literal["QDQ", "integer"]
Rounding = Literal["gptq", "nearest"]
TargetCPU = Literal["any", "vnni", "avx2", "arm"]

_TECHNIQUES = {"mse": 0, "minmax": 1, "moving_average": 2, "percentile": 3, "entropy": 4, "best": 5}
_ROUNDINGS = {"gptq": 0, "nearest": 1}
_FORMS = {"QDQ": 0, "integer": 1}
_FLOAT_WEIGHTS = {"int16": 0, "int8": 1, "float32": 2}
_TARGETS = {"any": 0, "vnni": 1, "avx2": 2, "arm": 3}
_MEAN, _MOMENTS, _CHANNELS = ":mean", ":moments", ":channels"  # end the names of what a calibration keeps to round weights
_MOST_INPUTS = 1024  # of a layer whose moments are kept: their matrix has the square of that
_MOST_ROWS = 2048  # of a batch that moments take
_LEAST_OPSET = 13  # scales and zero points for each channel
_REFERENCE_OPSET = 19  # the first that onnx.reference computes QuantizeLinear of
_SAMPLES, _SAMPLE_BYTES = 4, 64 << 20  # batches that are kept, and their bytes
_WEIGHT_SHARE = 0.3  # of the error of nearest codes, which rounding by moments leaves
_SMOOTHING_GAIN = 0.75  # of the error, below which factors pay for the pass over memory
_PACES = (1.0, 0.5, 2.0)  # factors of the cost of int8 that a measurement tries


_INACCURATE = "with this layer in int8 the outputs would have less than min_sqnr"
_SLOWER = "int8 was slower, measured here"


class _Options(NamedTuple):
    """What the user chose."""

    observer: Technique
    form: Form
    rounding: Rounding
    selection: Selection
    forced: bool
    target_cpu: TargetCPU
    float_weights: FloatWeights
    correct_bias: bool
    quantize_outputs: bool


def calibrate(
    model: Any,
    data: Iterable[Any],
    *,
    observer: Technique = "mse",
    percentile: float = 99.99,
    rounding: Rounding = "gptq",
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Run a model in onnxruntime over data and observe the tensors that quantize_static quantizes.

    Parameters
    ----------
    model : path, bytes or ModelProto
    data : iterable of dict of str to array, or of arrays
        Inputs by name; arrays where the model has one input. A dask array gives its blocks, a dask bag its items.
        Shapes may vary; no batch is kept.
    observer : {"mse", "minmax", "moving_average", "percentile", "entropy", "best"}
        Except with "minmax" and "moving_average" histograms are kept, of which quantize_static can take any technique.
    percentile : float, default 99.99
        Percent of the elements inside the range, where the observer is "percentile".
    rounding : {"gptq", "nearest"}
        Whether second moments of the inputs of layers are kept, 8 K^2 bytes for K inputs, or only means of channels.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        A file for the state in the end, also where Ctrl-C is the end. The next call goes on from there with the same data.

    Returns
    -------
    Calibration
        By the names of the tensors in the model that quantize_static makes of this one before it quantizes; and, to
        round weights, means and moments of inputs, under names that end in ":mean" or ":moments". `to_json` saves it.

    Raises
    ------
    ValueError
        observer or rounding is unknown.
    TypeError, ValueError
        model is no model.
    ValueError
        A batch does not fit the model's inputs; resume is of another model.
    CalibrationError
        data is empty, or the model has nothing to quantize.
    """
    owner = "calibrate"
    _args.choice(owner, "observer", observer, _TECHNIQUES)
    _args.choice(owner, "rounding", rounding, _ROUNDINGS)
    prepared, _ = _prepared(owner, model)
    return _calibrated(owner, prepared, candidates(Graph.of(prepared)), data, observer, percentile, rounding, progress, resume)


def quantize_static(
    model: Any,
    data: Iterable[Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    observer: Technique = "mse",
    form: Form = "QDQ",
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    calibration: Calibration | None = None,
    percentile: float = 99.99,
    rounding: Rounding = "gptq",
    correct_bias: bool = True,
    float_weights: FloatWeights = "int16",
    quantize_outputs: bool = False,
    min_sqnr: float | None = 25.0,
    measure: bool = False,
    target_cpu: TargetCPU = "any",
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Any:
    """Quantize a model to int8 with ranges of its activations from data.

    Activations are uint8, affine per tensor, ``q = saturate(round_half_even(x / S) + Z)``. Weights are int8, symmetric
    per output channel, biases int32. A layer runs in int8 where onnxruntime is faster in that form; the report says of
    the others why not. The weights of layers that stay float32 are stored as codes and compute in float32.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    data : iterable of dict of str to array, or of arrays, optional
        Inputs by name; arrays where the model has one input. A dask array gives its blocks, a dask bag its items.
        Shapes may vary; no batch is kept but the first ones, up to 64 MB, for `min_sqnr` and `measure`.
    output : str or path, optional
        Where to write the model.
    observer : {"mse", "minmax", "moving_average", "percentile", "entropy", "best"}
        How a range is chosen; "best" takes for each tensor the technique of the least estimated squared error of all
        its elements.
    form : {"QDQ", "integer"}
        Float operators between QuantizeLinear and DequantizeLinear, or QLinearConv, ConvInteger, QLinearMatMul and
        MatMulInteger.
    include, exclude : iterable of str, optional
        Names of nodes or operator types; patterns as the shell's. Included nodes run in int8 even where they are
        slower; excluded ones keep their weights in float32 too.
    calibration : Calibration, optional
        What `calibrate` returned for this model; data are then not observed.
    percentile : float, default 99.99
        Percent of the elements inside the range, where the observer is "percentile".
    rounding : {"gptq", "nearest"}
        Whether codes of weights are those of the least squared error of the outputs, or the nearest ones. Layers of more
        than 1,024 inputs and convolutions in groups take the nearest.
    correct_bias : bool, default True
        Let the bias take up the mean of the error that rounding the weight causes; with "gptq" it does.
    float_weights : {"int16", "int8", "float32"}
        How weights of layers that stay float32 are stored: as codes with a scale for some 32 neighbours, which
        onnxruntime expands when it loads the model, or as they are.
    quantize_outputs : bool, default False
        Let outputs of the model hold what codes stand for where an int8 layer makes them; by default products in int8
        give them in float32.
    min_sqnr : float or None, default 25.0
        In dB, of every output on the first batches: layers whose own error is largest return to float32 until it is
        reached. None, or a calibration without data, leaves that out.
    measure : bool, default False
        Time variants in onnxruntime, interleaved with the float32 model, and return the fastest; that may have no
        layer in int8.
    target_cpu : {"any", "vnni", "avx2", "arm"}
        For "any" and "avx2" no sum of two neighbouring weights exceeds 128, so that their products do not saturate.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        As in calibrate.

    Returns
    -------
    ModelProto

    Raises
    ------
    ValueError
        observer, form, rounding, float_weights or target_cpu is unknown.
    TypeError
        correct_bias, quantize_outputs or measure is neither True nor False; min_sqnr is no number; calibration is no
        Calibration.
    ValueError
        Neither data nor a calibration came; measure is True and there are no data.
    TypeError, ValueError
        model is no model.
    ValueError
        A pattern of include or exclude matches nothing.
    ValueError
        A batch does not fit the model's inputs.
    CalibrationError
        data is empty; calibration is of another model.
    """
    owner = "quantize_static"
    _args.choice(owner, "observer", observer, _TECHNIQUES)
    _args.choice(owner, "form", form, _FORMS)
    _args.choice(owner, "rounding", rounding, _ROUNDINGS)
    _args.choice(owner, "float_weights", float_weights, _FLOAT_WEIGHTS)
    _args.choice(owner, "target_cpu", target_cpu, _TARGETS)
    correct_bias = _check.flag(owner, "correct_bias", correct_bias)
    quantize_outputs = _check.flag(owner, "quantize_outputs", quantize_outputs)
    if min_sqnr is not None and not _check.is_number(min_sqnr):
        raise TypeError(_check.must(owner, "min_sqnr", "a number or None", _check.typed(min_sqnr)))
    measure = _check.flag(owner, "measure", measure)
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(_check.must(owner, "calibration", "a Calibration", _check.typed(calibration)))
    if data is None and (calibration is None or measure):
        wanted = "batches where measure is True" if calibration is not None else "batches, or calibration given"
        raise ValueError(_check.must(owner, "data", wanted, "None"))
    source = read_model(owner, model)
    selection = Selection.of(owner, include, exclude, Graph.of(source))
    prepared, folded = _prepared(owner, source)
    graph = Graph.of(prepared)
    found = candidates(graph)
    samples: list[Any] = []
    if calibration is None:
        assert data is not None
        kept = _keeping_first(data, samples)
        calibration = _calibrated(owner, prepared, found, kept, observer, percentile, rounding, progress, resume)
    elif data is not None:
        for _ in zip(_keeping_first(data, samples), range(_SAMPLES), strict=False):
            pass
    _check_calibration(owner, calibration, found)
    options = _Options(
        observer, form, rounding, selection, include is not None, target_cpu, float_weights, correct_bias, quantize_outputs
    )
    work = _Conversion(prepared, calibration, options)
    floor = None if min_sqnr is None or not samples else _Floor(source, samples, float(min_sqnr))
    result = _fastest(work, source, samples[0], floor) if measure else _accurate(work, 1.0, floor)
    quantized, changes, facts = result
    attach(quantized, changes, form=form, observer=observer, target_cpu=target_cpu, rewrites=folded, **facts)
    if output is not None:
        write_model(owner, quantized, output)
    return quantized


def _prepared(owner: str, model: Any) -> tuple[Any, dict[str, int]]:
    """Return the model that is calibrated and quantized: of a known operator set, rewritten; and the rewrites."""
    prepared = _raised(at_opset(read_model(owner, model), _LEAST_OPSET))
    raise_ir_version(prepared)
    counts = fold(Graph.of(prepared))
    return prepared, counts


def _raised(model: Any) -> Any:
    """Return a model at an operator set that onnx.reference computes, or as it is where that cannot be.

    onnx.version_converter leaves the graphs of If, Loop and Scan as they are.
    """
    if Graph.of(model).subgraphs():
        return model
    try:
        return at_opset(model, _REFERENCE_OPSET)
    except Exception:  # it knows not every operator
        return model


def _keeping_first(data: Any, samples: list[Any]) -> Iterable[Any]:
    """Yield the batches of data; the first ones stay in a list too."""
    kept = 0
    for item in batches_of(data):
        arrays = item.values() if isinstance(item, Mapping) else (item,)
        kept += sum(np.asarray(array).nbytes for array in arrays)
        if not samples or (len(samples) < _SAMPLES and kept <= _SAMPLE_BYTES):
            samples.append(item)
        yield item


# ---- calibration ----


def _calibrated(
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
    sources = _sources(found)
    templates: dict[str, Observer | None] = {name: _observer(observer, percentile) for name in sources}
    views: dict[str, Callable[[Array], Array]] = {}
    for c in found:
        if not c.computes:
            continue
        name = _rounding_name(c, rounding)
        sources[name] = c.inputs[0]
        if name.endswith(_MEAN):
            templates[name] = MeanObserver(c.channels_axis)
        else:
            templates[name], views[name] = MomentsObserver(), _rows_of(c)
        if _smooths(c) and rounding == "gptq":
            name = f"{c.inputs[0]}{_CHANNELS}"
            sources[name], templates[name] = c.inputs[0], MinMaxObserver(granularity=PerChannel(-1))
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


def _rounding_name(c: Candidate, rounding: Rounding) -> str:
    """Return the name of what a calibration keeps to round a layer; layers of one input and one shape share it."""
    assert c.weight is not None
    shape = c.weight.array.shape
    inputs = math.prod(shape[1:]) if c.kind == "conv" else shape[1 - (c.outputs_axis or 0)]
    plain = c.kind == "conv" and (c.attributes.get("group", 1) > 1 or len(shape) != 4 or shape[1] < NARROW)
    auto = c.attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    if rounding == "nearest" or inputs > _MOST_INPUTS or plain or auto or (c.kind == "matmul" and len(shape) != 2):
        return f"{c.inputs[0]}{_MEAN}"
    if c.kind != "conv":
        return f"{c.inputs[0]}{_MOMENTS}"
    steps = [c.attributes.get(name) for name in ("kernel_shape", "strides", "pads", "dilations")]
    pointwise = shape[2:] == (1, 1) and all(not value or set(value) <= {own} for value, own in zip(steps, (1, 1, 0, 1), strict=True))
    return f"{c.inputs[0]}{_MOMENTS}" if pointwise else f"{c.key}{_MOMENTS}"


def _smooths(c: Candidate) -> bool:
    """Whether factors of the input's channels can move into the weight."""
    return c.kind in ("matmul", "gemm") and c.weight is not None and c.weight.array.ndim == 2


def _rows_of(c: Candidate) -> Callable[[Array], Array]:
    """Return a function that turns the input of a layer into rows that its weight multiplies, at most some thousands."""

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


def _check_calibration(owner: str, calibration: Calibration, found: list[Candidate]) -> None:
    missing = [c.inputs[0] for c in found if c.computes and c.inputs[0] not in calibration.observers]
    if missing and len(missing) == sum(c.computes for c in found):
        got = f"one without {missing[0]!r}"
        raise CalibrationError(_check.must(owner, "calibration", "what calibrate returned for this model", got))


def _chosen(observer: Observer, technique: Technique) -> QParams | None:
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
        return observer.qparams() if best is None else by_name[best.method]  # type: ignore[index]
    except (CalibrationError, KeyError, ValueError):  # a range that no scale covers
        return None


# ---- conversion ----


class _Conversion:
    """One model to be converted with one calibration: in as many variants as are timed."""

    def __init__(self, prepared: Any, calibration: Calibration, options: _Options) -> None:
        self.prepared, self.calibration, self.options = prepared, calibration, options
        self.keys = [c.key for c in candidates(Graph.of(prepared))]
        self.batches = max(calibration.batches, 1)
        names = [name for name in calibration.observers if not name.endswith((_MEAN, _MOMENTS, _CHANNELS))]
        self.elements = {name: self._count(calibration.observers[name]) for name in names}
        self._errors: dict[str, float] = {}
        self.qparams = {name: _chosen(calibration.observers[name], options.observer) for name in names}

    def _count(self, observer: Observer) -> float:
        counts = (getattr(observer, name, 0) for name in ("count_", "nan_", "infinite_"))
        return float(sum(np.sum(count) for count in counts)) / self.batches

    def convert(self, pace: float, without: Mapping[str, str] | None = None) -> tuple[Any, list[Change], dict[str, Any]]:
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
        ranges = self._shared(graph, found, chosen)
        smoothing = self._smoothing(graph, found, chosen, ranges)
        writing = _Writing(graph, found, chosen, ranges, smoothing, self.calibration, self.options)
        changes = writing.run()
        for c in found:
            if c.computes and c.key not in chosen:
                reasons.setdefault(c.key, "int8 would not be faster in onnxruntime, with the changes of form around it")
        changes += store_weights(model, self.options.float_weights, self._stays, reasons)
        layers_in_int8 = [c.key for c in found if c.computes and c.key in chosen]
        return model, _ordered(changes, self.prepared), {"layers": layers_in_int8}

    def _stays(self, node: Any) -> bool:
        """Whether the user excluded a node: its weights stay as they are."""
        return node not in self.options.selection and not self.options.forced

    def ranked(self, keys: Iterable[str]) -> list[str]:
        """Return layers in the order of the error that they make, largest first: of their input and their output."""
        found = {c.key: c for c in candidates(Graph.of(self.prepared))}
        return sorted(keys, key=lambda key: -sum(map(self._error, (found[key].inputs[0], self._result(found, key)))))

    def _result(self, found: Mapping[str, Candidate], key: str) -> str:
        """Return the tensor that holds a layer's codes: of the activation behind it, where there is one."""
        if key in self.qparams:
            return key
        return next((c.key for c in found.values() if c.kind == "activation" and c.inputs[0] == key), key)

    def _error(self, tensor: str) -> float:
        """Return the squared error of a tensor's codes over the tensor's squares, as estimated."""
        if tensor not in self._errors:
            observer, params = self.calibration.observers.get(tensor), self.qparams.get(tensor)
            if params is None or observer is None or observer.sketch is None:
                self._errors[tensor] = 0.0
            else:
                whole, _ = estimate(observer.sketch, params, observer.symmetric)
                self._errors[tensor] = whole.noise / whole.signal if whole.signal else 0.0
        return self._errors[tensor]

    def _force(self, c: Candidate, without: Mapping[str, str], reasons: dict[str, str]) -> bool | None:
        names = [*c.inputs, *(() if c.keeps_float or c.kind == "activation" else c.outputs)]
        if c.node in self.options.selection:
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
        for tensor, layers_of in readers.items():
            maker = by_output.get(tensor)
            if maker is not None and maker.key in chosen and maker.kind == "activation":
                maker = by_output.get(maker.inputs[0])
            coded = maker is not None and maker.key in chosen and not maker.keeps_float
            channels = self.calibration.observers.get(f"{tensor}{_CHANNELS}")
            if coded or graph.is_output(tensor) or not all(map(_smooths, layers_of)):
                continue
            if not isinstance(channels, MinMaxObserver) or not hasattr(channels, "min_") or (channels.count_ == 0).any():
                continue
            best = _factors(channels, [_inputs_first(c) for c in layers_of], self._second_moments(layers_of[0]), self._noise(tensor))
            if best is not None:
                smoothing[tensor], ranges[tensor] = best
        return smoothing

    def _second_moments(self, c: Candidate) -> Array | None:
        observer = self.calibration.observers.get(_rounding_name(c, "gptq"))
        if not isinstance(observer, MomentsObserver) or not hasattr(observer, "mean_") or not int(observer.count_):
            return None
        return np.asarray(observer.covariance(centered=False).diagonal())

    def _noise(self, tensor: str) -> float | None:
        """Return the mean squared error of a tensor's codes without factors."""
        observer, params = self.calibration.observers.get(tensor), self.qparams.get(tensor)
        if params is None or observer is None:
            return None
        return float(params.scale) ** 2 / 12 if observer.sketch is None else estimate(observer.sketch, params, False)[0].mse


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
        params = QParams.from_range(float((low / factor).min()), float((high / factor).max()), dtype="uint8", symmetric=False)
        error = float(np.square(factor * float(params.scale)) @ energy) / 12 + weight_noise(factor)
        if error < _SMOOTHING_GAIN * least:
            least, best = error, (factor.astype(np.float32), params)
    return best


def _ordered(changes: list[Change], model: Any) -> list[Change]:
    places = {node_name(node): i for i, node in enumerate(model.graph.node)}
    return sorted(changes, key=lambda change: places.get(change.node, len(places)))


class _Writing:
    """Rewrites one graph: its chosen candidates run in int8."""

    def __init__(
        self,
        graph: Graph,
        found: list[Candidate],
        chosen: set[str],
        ranges: Mapping[str, QParams],
        smoothing: Mapping[str, Array],
        calibration: Calibration,
        options: _Options,
    ) -> None:
        self.graph, self.chosen, self.options, self.calibration = graph, chosen, options, calibration
        self.by_output = {name: c for c in found for name in c.outputs}
        self.writer = Writer(graph, ranges, smoothing)
        self.codes: dict[str, str] = {}  # of tensors that have codes so far
        self.reals: dict[str, str] = {}  # what int8 nodes read of tensors that float nodes make
        self.needed = self._needed(found)
        self.merged = self._merged(found)

    def _needed(self, found: list[Candidate]) -> set[str]:
        """Return the tensors that need codes."""
        inputs = {name for c in found if c.key in self.chosen and c.kind != "activation" for name in c.inputs}
        outputs = {
            name for c in found if c.key in self.chosen and not self._makes_reals(c) for name in c.outputs
        }  # fmt: skip
        return inputs | outputs

    def _makes_reals(self, c: Candidate) -> bool:
        if self.options.quantize_outputs and self.graph.is_output(c.key):
            return False
        if c.keeps_float:
            return True
        return self.options.form == "integer" and c.kind == "conv" and self._ends(c)

    def _ends(self, c: Candidate) -> bool:
        """Whether a graph output is all that a node makes."""
        return self.graph.is_output(c.key) and not self.graph.consumers(c.key)

    def _merged(self, found: list[Candidate]) -> dict[str, Candidate]:
        """Return the activations that the quantization of their output replaces, by the key of the node before."""
        merged = {}
        for c in found:
            if c.kind == "activation" and c.key in self.chosen:
                merged[self.by_output[c.inputs[0]].key] = c
        return merged

    def run(self) -> list[Change]:
        """Replace the nodes of the graph; return what changed."""
        proto = self.graph.proto
        changes: list[Change] = []
        gone = {c.key for c in self.merged.values()}
        for value in proto.input:
            if value.name in self.needed:
                self._quantize(value.name)
        for node in list(proto.node):
            key = node.output[0] if node.output else ""
            c = self.by_output.get(key)
            if key in gone:
                continue
            if c is not None and key in self.chosen:
                change = self._int8(c)
                if change is not None:
                    changes.append(change)
                continue
            self.writer.nodes.append(self._float(node))
            for name in node.output:
                if name in self.needed:
                    self._quantize(name)
        del proto.node[:]
        proto.node.extend(self.writer.nodes)
        Graph.of(self.graph.model).remove_unused()
        return changes

    def _float(self, node: Any) -> Any:
        """Return a float node. A bias after a product in int8 is added by Sum: onnxruntime would turn Add into Gemm."""
        if node.op_type != "Add" or node.domain:
            return node
        before = [self.by_output.get(name) for name in node.input]
        int8 = any(c is not None and c.kind == "matmul" and c.key in self.chosen for c in before)
        if int8 and any(self.graph.constant(name) is not None for name in node.input):
            node.op_type = "Sum"
        return node

    def _quantize(self, tensor: str) -> None:
        """Give a tensor that exists in float32 its codes."""
        self.codes[tensor] = self.writer.quantize(tensor)

    def _read(self, tensor: str) -> str:
        """Return the name of the reals that an int8 node reads."""
        if tensor not in self.reals:
            maker = self.by_output.get(tensor)
            if maker is not None and maker.key in self.chosen and not self._makes_reals(maker):
                self.reals[tensor] = tensor  # its DequantizeLinear has the name of the tensor
            else:
                self.reals[tensor] = self.writer.dequantize(tensor, self.codes[tensor])
        return self.reals[tensor]

    def _finish(self, tensor: str, raw: str) -> None:
        """Quantize what a node made, and give the tensor's name to the reals that its codes stand for."""
        self.codes[tensor] = self.writer.quantize(tensor, raw)
        self.writer.dequantize(tensor, self.codes[tensor], tensor)

    def _int8(self, c: Candidate) -> Change | None:
        after = self.merged.get(c.key)
        outputs = c.outputs if after is None else after.outputs
        if c.computes:
            return self._layer(c, outputs[0], after)
        node = type(c.node)()
        node.CopyFrom(c.node)
        for i, name in enumerate(node.input):
            if name in c.inputs:
                node.input[i] = self._read(name)
        raw = [self.writer.name(f"{name}_float") for name in outputs]
        del node.output[:]
        node.output.extend(raw)
        self.writer.nodes.append(node)
        self._activation(after, outputs[0], raw)
        for name, real in zip(outputs, raw, strict=True):
            self._finish(name, real)
        return None

    def _activation(self, after: Candidate | None, output: str, raw: list[str]) -> None:
        """Append a merged activation, unless the range of the codes does what it does."""
        if after is None or self._saturates(after, output):
            return
        node = type(after.node)()
        node.CopyFrom(after.node)
        node.input[0], node.output[0] = raw[0], self.writer.name(f"{output}_float")
        self.writer.nodes.append(node)
        raw[0] = node.output[0]

    # ---- layers with weights ----

    def _layer(self, c: Candidate, output: str, after: Candidate | None) -> Change:
        assert c.weight is not None
        x = c.inputs[0]
        w, bias = self._arrays(c)
        factor = self.writer.smoothing.get(x)
        if factor is not None:
            w = (w * (factor[:, None] if c.outputs_axis == 1 else factor)).astype(np.float32)
        params = self.writer.qparams[x]
        x_scale = float(params.scale)
        orders = _orders(c, w) if self.options.target_cpu in ("any", "avx2") else None
        axis, moments = c.outputs_axis, self._moments(c, factor)
        if self.options.correct_bias and moments is None:
            bias = self._corrected(c, w, bias, layer_codes(w, axis, bias, x_scale, orders=orders))
        codes = layer_codes(w, axis, bias, x_scale, orders=orders, moments=moments)
        stem = c.weight.name or node_name(c.node)
        bias_stem = c.bias.name if c.bias is not None else f"{stem}_bias"
        reals = self._makes_reals(c)
        form = self._emit(c, output, after, codes, reals, stem, bias_stem)
        before_bytes = w.nbytes + (0 if c.bias is None else c.bias.array.nbytes)
        after_bytes = codes.codes.nbytes + codes.scale.nbytes + (0 if codes.bias is None else codes.bias.nbytes)
        reason = "int8 is faster in onnxruntime" if not self.options.forced else "included"
        if codes.widened:
            reason += f"; the scale of {codes.widened} channels is wider, for pairs of products within int16 or the bias"
        return Change(
            node_name(c.node), c.node.op_type, form, "int8", reason, before_bytes, after_bytes, _sqnr(w, codes, axis)
        )

    def _moments(self, c: Candidate, factor: Array | None) -> Moments | None:
        """Return the moments of a layer's inputs, of x / factor where there are factors."""
        name = _rounding_name(c, "gptq")
        observer = self.calibration.observers.get(name)
        if self.options.rounding == "nearest" or not isinstance(observer, MomentsObserver):
            return None
        if not hasattr(observer, "mean_") or not int(observer.count_):
            return None
        by = np.ones(observer.inputs) if factor is None else factor.astype(np.float64)
        return Moments(observer.mean_ / by, observer.covariance() / (by[:, None] * by))

    def _arrays(self, c: Candidate) -> tuple[Array, Array | None]:
        """Return weight and bias in float32; alpha and beta are multiplied in."""
        assert c.weight is not None
        w, bias = c.weight.array, None if c.bias is None else c.bias.array.astype(np.float64)
        if c.kind == "gemm":
            w = (w * np.float32(c.attributes.get("alpha", 1.0))).astype(np.float32)
            if bias is not None:
                n = w.shape[c.outputs_axis or 0]
                bias = np.broadcast_to(bias.reshape(-1) * c.attributes.get("beta", 1.0), (n,))
        return w, bias

    def _corrected(self, c: Candidate, w: Array, bias: Array | None, codes: LayerCodes) -> Array | None:
        """Return the bias plus the mean of the error that the codes cause; of a product without a bias None."""
        observer = self.calibration.observers.get(f"{c.inputs[0]}{_MEAN}")
        if observer is None or not hasattr(observer, "mean_") or c.kind == "matmul":
            return bias
        mean = observer.mean_
        shape = [-1 if d == c.outputs_axis else 1 for d in range(w.ndim)]
        error = w.astype(np.float64) - codes.codes.astype(np.float64) * codes.scale.reshape(shape).astype(np.float64)
        if c.kind == "gemm":
            shift = error @ mean if c.outputs_axis == 0 else mean @ error
        else:
            group = c.attributes.get("group", 1)
            sums = error.reshape(w.shape[0], w.shape[1], -1).sum(axis=2)
            by_group = np.repeat(mean.reshape(group, -1), w.shape[0] // group, axis=0)
            shift = (sums * by_group).sum(axis=1)
        return shift if bias is None else np.asarray(bias) + shift

    def _emit(
        self, c: Candidate, output: str, after: Candidate | None, codes: LayerCodes, reals: bool, stem: str, bias_stem: str
    ) -> str:
        """Append the nodes of a layer; return the operator that the form is known by."""
        writer, x = self.writer, c.inputs[0]
        raw = [output if reals and after is None else writer.name(f"{output}_float")]
        if self.options.form == "QDQ":
            dequantized_layer(writer, c.node, self._read(x), raw[0], codes, c.outputs_axis, stem, bias_stem)
            self._finish_layer(output, after, raw, reals)
            return "QDQ"
        if c.kind == "gemm" and c.attributes.get("transB", 0):
            codes = codes._replace(codes=np.ascontiguousarray(codes.codes.T))
        pair, name = (x, self.codes[x]), f"{output}_quantized"
        alone = output in self.needed and output not in writer.smoothing and not self._float_readers(output)
        if c.kind == "conv" and reals:
            conv_integer(writer, c.node, pair, raw[0], codes, stem)
            form = "ConvInteger"
        elif c.kind == "conv" and self._saturates(after, output):
            self.codes[output] = writer.name(name)
            qlinear_conv(writer, c.node, pair, (output, self.codes[output]), codes, stem)
            writer.dequantize(output, self.codes[output], output)
            return "QLinearConv"
        elif c.kind != "conv" and codes.bias is None and (alone or not reals) and self._saturates(after, output):
            self.codes[output] = writer.name(name)
            qlinear_matmul(writer, pair, (output, self.codes[output]), codes, stem)
            self.reals[output] = writer.dequantize(output, self.codes[output], output)
            return "QLinearMatMul"
        elif c.kind == "conv":
            conv_integer(writer, c.node, pair, raw[0], codes, stem)
            form = "ConvInteger"
        else:
            matmul_integer(writer, pair, raw[0], codes, stem)
            form = "MatMulInteger"
        self._finish_layer(output, after, raw, reals)
        return form

    def _saturates(self, after: Candidate | None, output: str) -> bool:
        """Whether codes of an output saturate where the activation behind the layer clips."""
        if after is None:
            return True
        low, high = self.writer.qparams[output].range()
        least, most = after.attributes["bounds"]
        slack = 1e-6 * float(high - low)
        return (least is None or float(low) >= least - slack) and (most is None or float(high) <= most + slack)

    def _finish_layer(self, output: str, after: Candidate | None, raw: list[str], reals: bool) -> None:
        """Append what follows the product of a layer: the activation, and the codes of the output where they are read.

        Where reals are kept and nothing merges, the output keeps its name, and int8 nodes read its codes beside it.
        """
        if output in self.writer.smoothing:  # others read the reals themselves
            if after is not None:
                node = type(after.node)()
                node.CopyFrom(after.node)
                node.input[0] = raw[0]
                self.writer.nodes.append(node)
            self._quantize(output)
            return
        self._activation(after, output, raw)
        if not reals or after is not None:
            self._finish(output, raw[0])
            self.reals[output] = output
        elif output in self.needed:
            self._quantize(output)

    def _float_readers(self, tensor: str) -> bool:
        readers = [self.by_output.get(node.output[0]) for node in self.graph.consumers(tensor)]
        return self.graph.is_output(tensor) or any(c is None or c.key not in self.chosen for c in readers)


def _orders(c: Candidate, w: Array) -> tuple[tuple[int, ...], ...]:
    """Return the orders in which runtimes lay out the inputs of an output channel, as axes after that of the channel."""
    if c.kind != "conv" or w.ndim < 3:
        return (tuple(range(1, w.ndim + (c.outputs_axis is None))),)
    spatial = tuple(range(2, w.ndim))
    return (1, *spatial), (*spatial, 1)


def _sqnr(w: Array, codes: LayerCodes, axis: int | None) -> float | None:
    """Return the SQNR of a weight in dB; None where it has no error."""
    shape = [-1 if d == axis else 1 for d in range(w.ndim)]
    real = codes.codes.astype(np.float64) * codes.scale.reshape(shape if axis is not None else ()).astype(np.float64)
    noise = float(np.square(w - real).sum())
    signal = float(np.square(w.astype(np.float64)).sum())
    return 10 * math.log10(signal / noise) if noise and signal else None


# ---- accuracy ----


class _Floor:
    """The accuracy that a quantized model must keep on a few batches."""

    def __init__(self, source: Any, samples: list[Any], least: float) -> None:
        engine = session(source)
        self.least, self.feeds = least, [feed_of(engine, item) for item in samples]
        self.names = [value.name for value in engine.get_outputs() if value.type == "tensor(float)"]
        self.wanted = [engine.run(self.names, feed) for feed in self.feeds] if self.names else []

    def sqnr(self, model: Any) -> float:
        """Return the SQNR in dB of the output that has the least, over all batches."""
        if not self.wanted:
            return math.inf
        engine = session(model)
        signal, noise = np.zeros(len(self.names)), np.zeros(len(self.names))
        for feed, wanted in zip(self.feeds, self.wanted, strict=True):
            for i, (exact, coarse) in enumerate(zip(wanted, engine.run(self.names, feed), strict=True)):
                exact = np.where(np.isfinite(exact), exact, 0).astype(np.float64)
                signal[i] += np.square(exact).sum()
                noise[i] += np.square(exact - np.where(np.isfinite(coarse), coarse, 0)).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(noise == 0, np.inf, 10 * np.log10(signal / noise))
        return float(ratios.min())


def _accurate(work: _Conversion, pace: float, floor: _Floor | None) -> tuple[Any, list[Change], dict[str, Any]]:
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


# ---- measurement ----


def _fastest(
    work: _Conversion, source: Any, feed: Any, floor: _Floor | None
) -> tuple[Any, list[Change], dict[str, Any]]:
    """Time variants, interleaved with the float model, and return the fastest."""
    variants = [_accurate(work, pace, floor) for pace in _PACES]
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
