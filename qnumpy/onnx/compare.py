"""Where a quantized model loses accuracy: operator by operator, with the cause and the remedy."""

import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, ValueInfoProto

from .. import _check
from .._tables import Table, number
from .._typing import Array
from ..arrays.quantized import quantize
from ..calibration.calibrate import progress_bar
from ..calibration.estimate import estimate
from ..calibration.report import summarize
from ..dtypes import code_type, float_type
from ..errors import CalibrationError
from ..granularity import PerChannel
from ..observers import HistogramObserver
from ..qparams import QParams
from ..reports.scores import decibels, signal_and_noise
from ._files import read_model
from ._graph import Constant, Graph, node_name
from ._layers import Layer, layers
from ._pairing import OUTPUT_SCALE, Pairing, Region, as_type, show, typed
from ._products import saturating
from ._report import find_report
from ._taps import batches_of, tapped, unmasked
from .session import run_batches, session

__all__ = ["Comparison", "OperatorError", "compare"]

_FINE_DB = 60.0  # an operator above has no cause worth a word
_OUTLIER = 20.0  # largest magnitude by the root of the mean square; of normal numbers it is 4 to 6
_CLIPPED = 0.5  # of the error of a tensor, from which clipping is its cause
_BIASED = 0.5  # of the error, from which its mean by channel is the cause
_DEAD = 1e-6  # of the median channel's largest weight
_DEAD_SHARE = 0.5  # of the error in dead channels
_SHARED = 0.25  # scales that differ less than this times what the channels do are one
_UNEVEN = 16.0  # the widest channel by the median one, under one scale
_MOVES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity", "Split", "Gather")
_FLOAT_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PRODUCTS = (
    *_FLOAT_PRODUCTS,
    "MatMulInteger",
    "ConvInteger",
    "GatherBlockQuantized",
    "Gather",
    "Linear",
    "Embedding",
    "LSTM",
    "GRU",
    "RNN",
    "If",
    "Loop",
)
_AROUND = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Constant", "Reshape", "Transpose", "Mul", "Shape")
_MOST = 1 << 16  # elements of a batch that histograms of inner tensors take


class OperatorError(NamedTuple):
    """What one operator of the float model became, and what that costs.

    Attributes
    ----------
    name, op_type : str
        Of the float model; several operators that became one are joined, "Conv+Relu".
    tensor : str
        Its output, where the error is measured.
    form : str
        The operators that compute it in the quantized model.
    sqnr_db : float
        Local: the operator alone, on the float model's tensors.
    cumulative_db : float
        In the quantized model, with the errors of all operators before it.
    best_db : float or None
        What the best ranges of its tensors and the best scales of its weight would reach at the same width of codes,
        estimated; None where nothing in it has a fixed range.
    cause, remedy : str
    """

    name: str
    op_type: str
    tensor: str
    form: str
    sqnr_db: float
    cumulative_db: float
    best_db: float | None
    cause: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return self._asdict()


class Comparison(Table[OperatorError]):
    """The operators that differ, the worst local error first; text, JSON, HTML and, by `plot`, a picture.

    Attributes
    ----------
    outputs : dict of str to float
        SQNR in dB of the outputs of the whole model.
    left_out : tuple of str
        Nodes that differ inside graphs of If, Loop and Scan, whose tensors cannot be read; the node around them is
        measured as one operator.
    """

    _left = 3
    _last_left = True

    def __init__(self, rows: Iterable[OperatorError], outputs: Mapping[str, float], left_out: Iterable[str]) -> None:
        super().__init__(rows, OperatorError, "rows")
        self.outputs, self.left_out = dict(outputs), tuple(left_out)

    def __getitem__(self, name: str) -> OperatorError:
        for row in self:
            if name in (row.name, row.tensor):
                return row
        raise KeyError(name)

    def plot(self, ax: Any = None) -> Any:
        """Draw the operators; see `qnumpy.plot.operator_errors`."""
        from .. import plot

        return plot.operator_errors(self, ax=ax)

    def _head(self) -> list[str]:
        return ["operator", "type", "form", "local dB", "cumulative dB", "best dB", "cause and remedy"]

    def _row(self, item: OperatorError) -> list[str]:
        figures = [number(item.sqnr_db), number(item.cumulative_db), number(item.best_db)]
        words = f"{item.cause}: {item.remedy}" if item.remedy else item.cause
        return [item.name, item.op_type, item.form, *figures, words]

    def _foot(self) -> list[list[str]]:
        return [[f"output {name}", "", "", "", number(sqnr), "", ""] for name, sqnr in self.outputs.items()]

    def _about(self) -> dict[str, Any]:
        return {"outputs": self.outputs, "left_out": list(self.left_out)}

    def _sentences(self) -> list[str]:
        if not self.left_out:
            return []
        named = ", ".join(self.left_out[:5]) + (", ..." if len(self.left_out) > 5 else "")
        return [f"Tensors inside subgraphs cannot be read: {named} count as part of the operator around them."]


def compare(model: Any, quantized: Any, data: Iterable[Any], *, progress: bool | None = None) -> Comparison:
    """Compare a quantized model with its float model, operator by operator.

    Parameters
    ----------
    model : path, bytes or ModelProto
        The float model.
    quantized : path, bytes or ModelProto
        What was made of it, by qnumpy or another program: static or dynamic, QDQ or integer operators, weights alone,
        float16. Tensors are known by their names.
    data : iterable of dict of str to array, or of arrays
        No batch is kept. All tensors that differ are in memory for one batch.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.

    Returns
    -------
    Comparison
        A table of the operators that differ, the worst first.

    Raises
    ------
    TypeError, FileFormatError
        model or quantized is no model.
    ValueError
        The models have no output in common.
    TypeError, ValueError
        A batch does not fit the model's inputs.
    CalibrationError
        data is empty.

    Notes
    -----
    Each rounding belongs to one operator: to the one behind which codes stand, or, where that keeps its floats, to the
    one that reads them. `best_db` adds the errors of the inputs, the outputs and the weight, each with the technique of
    the least squared error at the same width of codes, as if they were independent.

    Examples
    --------
    >>> import qnumpy as qn
    >>> batches = [np.ones((8, 3, 224, 224), np.float32)]
    >>> table = qn.onnx.compare("model.onnx", "int8.onnx", batches)  # doctest: +SKIP
    >>> table.plot()  # doctest: +SKIP
    """
    owner = "compare"
    progress = _check.flag_or_none(owner, "progress", progress)
    source, coarse = read_model(owner, model), read_model(owner, quantized)
    outputs = _common_outputs(owner, source, coarse)
    pairing = Pairing(source, coarse)
    pairing.regions = _computing(pairing)
    runs = _Runs(source, coarse, pairing, outputs)
    known = {layer.node.output[0]: layer for layer in layers(pairing.source)}
    rows = [_Row(pairing, region, runs.sites[region.tensor], known) for region in pairing.regions]
    sums = {name: np.zeros(2) for name in outputs}
    first: Any = None
    given = batches_of(owner, data)
    total = len(data) if isinstance(data, Sized) else None
    batches = 0
    with progress_bar(iter(given), total, progress) as items:
        for item in items:
            exact, cumulative, local = runs.run(owner, item)
            first = item if not batches else first
            batches += 1
            for row in rows:
                row.add(exact, cumulative, local)
            for name in outputs:
                sums[name] += signal_and_noise(exact[name], cumulative[name])
    if not batches:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    wrong, roundings = saturating(owner, coarse, first), _roundings(coarse)
    made = [row.finish(wrong, roundings) for row in rows]
    made.sort(key=lambda row: row.sqnr_db)
    return Comparison(made, {name: decibels(*pair) for name, pair in sums.items()}, _inside(pairing))


def _common_outputs(owner: str, source: Any, coarse: Any) -> list[str]:
    names = {value.name for value in coarse.graph.output}
    found = [value.name for value in source.graph.output if value.name in names]
    if not found:
        got = f"{', '.join(sorted(names))} for {', '.join(value.name for value in source.graph.output)}"
        raise ValueError(_check.must(owner, "quantized", "a model with an output of the float model", got))
    return found


def _roundings(model: Any) -> dict[str, str]:
    """Return what chose the codes of each weight, by the name of its node, as far as the model's report says it."""
    return {change.node: change.rounding for change in find_report(model) or ()}


def _inside(pairing: Pairing) -> list[str]:
    """Return the names of layers in graphs inside the main one that differ."""
    changed = {name for region in pairing.regions for node in region.operators for name in node.output}
    found = []
    for layer in layers(pairing.source):
        scope = layer.graph
        if scope.parent is None:
            continue
        holder: Graph = scope
        while holder.parent is not None and holder.parent.parent is not None:
            holder = holder.parent
        holders = [n for n in pairing.source.proto.node if any(holder.proto is a.g for a in n.attribute)]
        if any(set(node.output) & changed for node in holders):
            found.append(layer.name)
    return found


class _Runs:
    """The three sessions: the float model, the quantized one, and its operators alone."""

    def __init__(self, source: Any, coarse: Any, pairing: Pairing, outputs: list[str]) -> None:
        names = [*dict.fromkeys([*(region.tensor for region in pairing.regions), *outputs])]
        given = [name for name in names if name in {value.name for value in source.graph.input}]
        read = [layer.x for layer in layers(pairing.source) if layer.graph.parent is None and layer.op_type != "Gather"]
        taps = [name for name in dict.fromkeys([*names, *read]) if name not in given]
        with_outputs, self.exact_names, _ = tapped(source, taps)
        self.exact = session(with_outputs)
        shown, self.cumulative_names = show(coarse, pairing, names)
        self.cumulative = session(shown)
        cut, self.cut_inputs = pairing.cut()
        self.sites = {region.tensor: _sites(pairing, region) for region in pairing.regions}
        local, self.local_names = show(cut, pairing, [region.tensor for region in pairing.regions])
        known = set(self.local_names.values())
        self.inner = [
            site.tensor for sites in self.sites.values() for site in sites if site.tensor not in self.local_names
        ]
        for name in dict.fromkeys(self.inner):
            if name not in known and pairing.quantized.producer(name) is not None:
                local.graph.output.append(ValueInfoProto(name=name))
        codes = {value.name: value.type for value in self.cumulative.get_outputs()}
        elem_types = {given: _ELEM_TYPES[codes[self.cumulative_names[name]]] for name, given in self.cut_inputs.items()}
        typed(local, elem_types)
        self.local = session(local) if pairing.regions else None
        self.shown = [value.name for value in local.graph.output]
        self.feeds = {
            value.name: _DTYPES[value.type]
            for value in (self.local.get_inputs() if self.local else ())
            if value.type in _DTYPES
        }
        self.local_inputs = {value.name for value in (self.local.get_inputs() if self.local else ())}

    def run(self, owner: str, item: Any) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """Return the tensors of one batch in the float model, in the quantized one, and of each operator alone."""
        (result,) = run_batches(owner, self.exact, [item])
        exact = {name: result[shown] for name, shown in self.exact_names.items()}
        (result,) = run_batches(owner, self.cumulative, [item])
        cumulative = {name: result[shown] for name, shown in self.cumulative_names.items()}
        if self.local is None:
            return exact, cumulative, {}
        single = next(iter(value.name for value in self.exact.get_inputs()), "")
        inputs = item if isinstance(item, Mapping) else {single: np.asarray(item)}
        feed = {name: value for name, value in inputs.items() if name in self.local_inputs}
        for name, given in self.cut_inputs.items():
            if given in self.local_inputs:
                feed[given] = as_type(exact[name], self.feeds[given])
        results = self.local.run(self.shown, feed)
        local = dict(zip(self.shown, results, strict=True))
        local |= {name: local[shown] for name, shown in self.local_names.items()}
        local |= {name: np.asarray(x) for name, x in inputs.items()}
        return exact, cumulative, local


_ELEM_TYPES = {"tensor(float)": 1, "tensor(double)": 11, "tensor(float16)": 10, "tensor(bfloat16)": 16}
_DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


# ---- what is quantized in a region ----


class _Site(NamedTuple):
    """A tensor that is quantized with constant parameters; `tensor` is the one whose floats they are for."""

    tensor: str
    params: QParams
    symmetric: bool


def _sites(pairing: Pairing, region: Region) -> list[_Site]:
    """Return the activations that a region quantizes with one constant scale: its output by the name of the tensor."""
    graph, sites = pairing.quantized, []
    ends = _codes_of(pairing, region)
    for node in region.nodes:
        at = OUTPUT_SCALE.get(node.op_type)
        if at is None or len(node.input) <= at:
            continue
        x = region.tensor if ends & set(node.output) else str(node.input[0]) if node.op_type == "QuantizeLinear" else ""
        zero = node.input[at + 1] if len(node.input) > at + 1 else ""
        params = _params(graph.constant(node.input[at]), graph.constant(zero) if zero else None)
        if params is not None and x and graph.constant(x) is None:
            middle = 0 if params.qmin < 0 else (params.qmin + params.qmax + 1) // 2
            sites.append(_Site(x, params, int(params.zero_point) == middle))
    return sites


def _codes_of(pairing: Pairing, region: Region) -> set[str]:
    """Return the name of the codes that stand for the output of a region; none where it is computed as floats."""
    if region.tensor in pairing.codes:
        return {pairing.codes[region.tensor].name}
    producer = pairing.quantized.producer(region.tensor)
    return {str(producer.input[0])} if producer is not None and producer.op_type == "DequantizeLinear" else set()


def _computing(pairing: Pairing) -> list[Region]:
    """Return the regions with an error of their own: without those that move codes and keep their scale."""
    params = {
        region.tensor: site.params
        for region in pairing.regions
        for site in _sites(pairing, region)
        if site.tensor == region.tensor
    }

    def moves(region: Region) -> bool:
        if region.tensor not in params or not all(node.op_type in _MOVES for node in region.operators):
            return False
        read = {str(node.input[0]) for node in region.operators} - {name for n in region.operators for name in n.output}
        return all(name in params and params[name] == params[region.tensor] for name in read)

    return [region for region in pairing.regions if not moves(region)]


def _params(scale: Constant | None, zero: Constant | None) -> QParams | None:
    if scale is None or scale.array.size != 1:
        return None
    codes = np.zeros((), np.uint8) if zero is None else zero.array.reshape(())
    try:
        if code_type(codes.dtype) is None:
            return None
        return QParams(np.float32(scale.array.reshape(())), int(codes), codes.dtype)
    except (TypeError, ValueError):
        return None


class _Row:
    """Sums of one region over the batches."""

    def __init__(self, pairing: Pairing, region: Region, sites: list[_Site], known: Mapping[str, Layer]) -> None:
        self.pairing, self.region = pairing, region
        self.local, self.cumulative = np.zeros(2), np.zeros(2)
        self.mean: Array | None = None
        self.squares: Array | None = None
        self.count = 0
        self.inputs: Array | None = None  # mean squares of the channels of the layer's input
        outputs = [name for node in region.operators for name in node.output]
        self.layer = next((known[name] for name in outputs if name in known), None)
        self.axis = 1 if self.layer is not None and self.layer.op_type in ("Conv", "ConvTranspose") else -1
        self.sites = sites
        self.observers = [HistogramObserver("mse", dtype=s.params.dtype, symmetric=s.symmetric) for s in sites]

    def add(self, exact: Mapping[str, Array], cumulative: Mapping[str, Array], local: Mapping[str, Array]) -> None:
        name = self.region.tensor
        x, y = unmasked(exact[name]), local[name]
        self.local += signal_and_noise(x, y)
        self.cumulative += signal_and_noise(x, cumulative[name])
        for site, observer in zip(self.sites, self.observers, strict=True):
            values = exact[site.tensor] if site.tensor in exact else local.get(site.tensor)
            if values is not None and float_type(values.dtype) is not None and values.size:
                flat = unmasked(np.ascontiguousarray(values)).reshape(-1)
                observer.observe(flat[:: max(1, flat.size // _MOST)])
        self._add_channels(x, y)
        if self.layer is not None and self.layer.x in exact and x.size:
            read = np.nan_to_num(unmasked(exact[self.layer.x]).astype(np.float64), posinf=0.0, neginf=0.0)
            axis = (1 if self.axis == 1 else read.ndim - 1) if read.ndim > 1 else 0
            squares = np.square(read).mean(axis=tuple(d for d in range(read.ndim) if d != axis))
            if self.inputs is None or self.inputs.shape == squares.shape:
                self.inputs = squares if self.inputs is None else self.inputs + squares

    def _add_channels(self, x: Array, y: Array) -> None:
        """Add up the error and its square by channel."""
        if x.ndim < 2 or x.shape != y.shape:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.nan_to_num(x.astype(np.float64) - y, posinf=0.0, neginf=0.0)
        axis = self.axis % x.ndim
        others = tuple(d for d in range(x.ndim) if d != axis)
        mean, squares = error.sum(axis=others), np.square(error).sum(axis=others)
        if self.mean is not None and self.mean.shape == mean.shape:
            mean, squares = mean + self.mean, squares + (self.squares if self.squares is not None else 0.0)
        elif self.mean is not None:
            return
        self.mean, self.squares = mean, squares
        self.count += x.size // max(x.shape[axis], 1)

    def finish(self, saturating: Mapping[str, int], roundings: Mapping[str, str]) -> OperatorError:
        operators = [node for node in self.region.operators if node.op_type not in ("Identity", "Constant")]
        producer = operators[-1] if operators else self.region.nodes[-1]
        named = self.layer.node if self.layer is not None else producer
        joined = "+".join(dict.fromkeys(node.op_type for node in operators)) or producer.op_type
        local, cumulative = decibels(*self.local), decibels(*self.cumulative)
        parts = self._parts()
        best = None
        if parts:
            noise = sum(10 ** (-part.best_db / 10) for part in parts)
            best = max(-10 * math.log10(noise), local) if noise > 0 else math.inf
        rounding = roundings.get(node_name(named), "")
        cause, remedy = self._explain(local, parts, saturating, rounding)
        return OperatorError(
            node_name(named),
            joined,
            self.region.tensor,
            self._form(),
            local,
            cumulative,
            best,
            cause,
            remedy,
        )

    def _form(self) -> str:
        """Return the operators that compute the region: its products, or, without one, all but those that only move."""
        names = list(dict.fromkeys(node.op_type for node in self.region.nodes))
        products = [name for name in names if name in _PRODUCTS or name.startswith(("QLinear", "MatMulNBits"))]
        rest = products or [name for name in names if name not in _AROUND]
        quantizing = "DequantizeLinear" in names and any(name in _FLOAT_PRODUCTS for name in rest)
        return ("QDQ " if quantizing else "") + "+".join((rest or names)[:3])

    # ---- causes ----

    def _parts(self) -> list["_Part"]:
        """Return the error of each thing that is quantized, with the ranges it has and with the best ones."""
        parts = []
        for site, observer in zip(self.sites, self.observers, strict=True):
            part = _activation(site, observer)
            if part is not None:
                parts.append(part)
        weight = None if self.layer is None else _weight(self.pairing.quantized, self.region, self.layer, self.inputs)
        return parts if weight is None else [*parts, weight]

    def _explain(
        self, local: float, parts: list["_Part"], saturating: Mapping[str, int], rounding: str
    ) -> tuple[str, str]:
        wrong = sum(saturating.get(name, 0) for node in self.region.nodes for name in node.output)
        if wrong:
            cause = f"saturating, {wrong:,} sums of products are wrong on this CPU"
            return cause, "quantize with target_cpu='any', or set session.x64quantprecision to 1"
        if local >= _FINE_DB:
            return "none", ""
        if "Cast" in {n.op_type for n in self.region.nodes} and not parts and self._narrow():
            return "float16 or bfloat16", "keep it float32: exclude it, or give convert_float data"
        dead = self._dead()
        if dead is not None:
            return dead
        worst = max(parts, key=lambda part: -part.sqnr_db, default=None)
        if worst is not None and worst.clipped >= _CLIPPED:
            text = f"clipped, {worst.outside:.3g} of {worst.name!r} lie outside its range"
            return text, "observer='minmax' or 'best', or calibrate with data like these"
        shift = self._shift()
        if shift >= _BIASED:
            return f"bias, the mean error of the channels is {shift:.0%} of it", "correct_bias=True, with more data"
        if worst is None:
            return "rounding" if self.layer is None else "rounding of the weight", "more bits, or smaller groups"
        if worst.kind == "weight":
            if worst.spread >= _UNEVEN and worst.shared:
                text = f"one scale for a weight whose widest channel is {worst.spread:.0f} times the median one"
                return text, "one scale for each output channel"
            return "rounding of the weight", self._weight_remedy(worst, local, rounding)
        if worst.spread >= _OUTLIER:
            text = f"outliers, the largest magnitude of {worst.name!r} is {worst.spread:.0f} times the root mean square"
            return text, _outlier_remedy(worst)
        gain = worst.best_db - worst.sqnr_db
        if gain >= 1:
            return f"the range of {worst.name!r}", f"another technique gains {gain:.1f} dB: observer='best'"
        return f"rounding of {worst.name!r}", "keep it float32 (exclude), or 16 bits"

    def _narrow(self) -> bool:
        types = {self.pairing.quantized.elem_type(name) for n in self.region.nodes for name in n.output}
        return bool(types & {10, 16})

    def _weight_remedy(self, part: "_Part", local: float, rounding: str) -> str:
        if rounding == "gptq":
            return "more bits, smaller groups, or keep it float32 (exclude)"
        gain = part.best_db - max(part.sqnr_db, local)
        if gain >= 1:
            return f"scales by squared error gain {gain:.1f} dB; rounding='gptq' or method='gptq' more"
        return "rounding='gptq' or method='gptq', smaller groups, or more bits"

    def _shift(self) -> float:
        """Return the share of the error that is the mean of its channels, beyond what chance makes of few rows."""
        if self.mean is None or self.squares is None or self.count < 2 or not self.squares.sum():
            return 0.0
        share = float((np.square(self.mean) / self.count).sum() / self.squares.sum())
        return max(0.0, (share - 1 / self.count) / (1 - 1 / self.count))

    def _dead(self) -> tuple[str, str] | None:
        """Return the cause of an error that lies in channels whose weights are nearly zero."""
        layer = self.layer
        if layer is None or layer.weight is None or layer.outputs_axis is None or self.squares is None:
            return None
        w = np.abs(np.moveaxis(layer.weight.array, layer.outputs_axis, 0).astype(np.float64))
        largest = w.reshape(len(w), -1).max(axis=1)
        dead = largest <= _DEAD * float(np.median(largest))
        if len(largest) != len(self.squares) or not dead.any() or not self.squares.sum():
            return None
        share = float(self.squares[dead].sum() / self.squares.sum())
        if share < _DEAD_SHARE:
            return None
        named = ", ".join(map(str, np.flatnonzero(dead)[:5].tolist()))
        text = f"dead channels ({named}): {share:.0%} of the error, their bias does not fit the scale of their weights"
        return text, "quantize_static repairs the scale; or set the weights of these channels to zero"


class _Part(NamedTuple):
    """The error of one tensor that is quantized."""

    kind: str
    name: str
    sqnr_db: float
    best_db: float
    clipped: float  # share of the error
    outside: float  # share of the elements
    spread: (
        float  # of an activation: largest magnitude by root mean square; of a weight: widest channel by the median one
    )
    shared: bool  # whether one scale serves the whole weight


def _activation(site: _Site, observer: HistogramObserver) -> _Part | None:
    if not hasattr(observer, "count_") or not int(observer.count_.sum()):
        return None
    whole, _ = estimate(observer.sketch, site.params, site.symmetric)
    summary = summarize(site.tensor, observer)
    now = whole.sqnr_db
    best = summary.best.sqnr_db if summary.best is not None and summary.best.sqnr_db is not None else now
    bins = observer.sketch.bins()
    low, high = (float(end) for end in site.params.range())
    excess = np.maximum(bins.low - high, 0) + np.maximum(low - bins.high, 0)
    noise = float((bins.counts * np.square(excess)).sum())
    root = math.sqrt(whole.signal / whole.elements) if whole.elements else 0.0
    largest = max(abs(float(summary.min or 0)), abs(float(summary.max or 0)))
    clipped = min(1.0, noise / whole.noise) if whole.noise else 0.0
    return _Part(
        "activation", site.tensor, now, max(best, now), clipped, whole.clipped, largest / root if root else 0.0, True
    )


def _weight(graph: Graph, region: Region, layer: Layer, inputs: Array | None) -> _Part | None:
    """Return the error of a weight, each element weighted by the mean square of the input that it multiplies.

    Codes are known by their type and shape; scales and offsets are fitted to them, whatever holds them in the graph.
    """
    if layer.weight is None or layer.outputs_axis is None or layer.weight.array.size < 2:
        return None
    w = layer.weight.array.astype(np.float64)
    axis, names = layer.outputs_axis, dict.fromkeys(name for node in region.nodes for name in node.input if name)
    importance = _importance(layer, inputs)
    for name in [*names, *_behind(graph, list(names))]:
        constant = graph.constant(name)
        if constant is None or constant.array.dtype.name not in _WEIGHT_CODES or constant.array.size != w.size:
            continue
        codes = constant.array.astype(np.float64)
        codes = codes.T if codes.shape != w.shape and codes.T.shape == w.shape else codes
        if codes.shape != w.shape:
            continue
        weights, rows, levels = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (importance, w, codes))
        if constant.array.dtype.name.startswith("u"):  # their zero point is not known here
            rows, levels = rows - rows.mean(axis=1, keepdims=True), levels - levels.mean(axis=1, keepdims=True)
        energy = np.square(levels).sum(axis=1)
        scale = np.where(energy > 0, (rows * levels).sum(axis=1) / np.maximum(energy, 1e-300), 0.0)
        noise = float((weights * np.square(rows - levels * scale[:, None])).sum())
        signal = float((importance * np.square(w)).sum())
        signed = constant.array.dtype.name.removeprefix("u")
        best = quantize(w.astype(np.float32), dtype=signed, granularity=PerChannel(axis), method="mse").dequantize()
        least = float((importance * np.square(w - best)).sum())
        top, used = np.abs(rows).max(axis=1), scale[scale > 0]
        ranges = top[top > 0]
        shared = used.size > 1 and float(used.max() / used.min()) < _SHARED * float(ranges.max() / ranges.min())
        median = float(np.median(top))
        spread = float(top.max()) / median if median else 0.0
        now = decibels(signal, noise)
        return _Part("weight", layer.weight.name, now, max(decibels(signal, least), now), 0.0, 0.0, spread, shared)
    return None


def _importance(layer: Layer, inputs: Array | None) -> Array:
    """Return the mean square of the input of each element of a weight, in its shape; ones where it is not known."""
    assert layer.weight is not None
    shape = layer.weight.array.shape
    if inputs is None:
        return np.ones(shape)
    if len(inputs) != shape[layer.axis] and layer.op_type == "Conv" and len(inputs) % shape[1] == 0:  # in groups
        groups = len(inputs) // shape[1]
        if shape[0] % groups:
            return np.ones(shape)
        rows = np.repeat(inputs.reshape(groups, shape[1]), shape[0] // groups, axis=0)
        return np.broadcast_to(rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2)), shape)
    if len(inputs) != shape[layer.axis]:
        return np.ones(shape)
    return np.broadcast_to(inputs.reshape([-1 if d == layer.axis else 1 for d in range(len(shape))]), shape)


_WEIGHT_CODES = ("int8", "uint8", "int4", "uint4")


def _behind(graph: Graph, names: list[str]) -> list[str]:
    """Return what the producers of constants read, such as the codes that a DequantizeLinear reads."""
    found: list[str] = []
    for name in names:
        node: NodeProto | None = graph.producer(name)
        if node is not None:
            found += [str(other) for other in node.input if other]
    return found


def _outlier_remedy(part: _Part) -> str:
    gain = part.best_db - part.sqnr_db
    if gain >= 1:
        return f"observer='best' gains {gain:.1f} dB"
    return "quantize it in rows (quantize_dynamic), smooth it, or exclude it"
