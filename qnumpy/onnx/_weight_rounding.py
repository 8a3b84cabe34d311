"""Rounding of the weights of a model: by data in stages, or each by itself; and the form that each is written in."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .. import _check
from .._typing import Array, Float32Array, Symmetric
from ..arrays.quantized import quantize
from ..errors import CalibrationError
from ..granularity import PerGroup
from ..reports.scores import finite_decibels, signal_and_noise
from ..weights.layers import RoundingMethod, quantize_layers
from ..weights.offsets import offsets
from ..weights.patches import patches
from ._forms.folded import halved
from ._forms.nbits import takes
from ._forms.weight_codes import Codes
from ._graph import Graph, attribute
from ._stages import Staged, StagedModel
from ._taps import batches_of, feed_of, tapped
from ._weights import Slot, Unit, place
from .session import run_batches, session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Form", "Options", "Rounded", "fitting_batches", "form_of", "residual_of", "rounded"]

Form = Literal["folded", "MatMulNBits", "QDQ"]

_PRODUCTS = ("MatMul", "Gemm", "Conv")  # whose inputs are rows of activations
_LARGE = 8 << 20  # elements from which MatMulNBits of 4 bits beats float at one row: 32 MB of floats leave the caches


class Options(NamedTuple):
    bits: int
    lookup_bits: int
    conv_bits: int
    group_size: int | None
    lookup_group_size: int | None
    method: RoundingMethod
    form: Form | None
    symmetric: Symmetric
    activations: str
    damping: float

    def bits_of(self, unit: Unit) -> int:
        if unit.is_lookup:
            return self.lookup_bits
        return self.conv_bits if unit.is_convolution else self.bits

    def size_of(self, unit: Unit) -> int:
        size = self.lookup_group_size if unit.is_lookup else self.group_size
        return unit.first.inputs if size is None else size


def form_of(unit: Unit, options: Options) -> str:
    """Return the form of a weight: the one asked for where its nodes have it, else the fastest."""
    if options.form == "folded" or options.form == "QDQ":
        return options.form
    op_types = {slot.node.op_type for slot in unit.slots}
    size = options.group_size
    blocks = takes(size)
    products = op_types <= {"MatMul", "Gemm"} and all(_is_plain_product(slot) for slot in unit.slots)
    lookups = op_types == {"Gather"} and all(
        slot.at == 0 and slot.array.ndim == 2 and attribute(slot.node, "axis", 0) == 0 for slot in unit.slots
    )
    if options.form == "MatMulNBits":
        if blocks and products:
            return "MatMulNBits"
        if blocks and lookups and size and unit.first.inputs % size == 0:
            return "GatherBlockQuantized"
        return "folded"
    if blocks and products and (options.activations == "int8" or (options.bits in (3, 4) and unit.elements >= _LARGE)):
        return "MatMulNBits"
    return "folded"


def _is_plain_product(slot: Slot) -> bool:
    node = slot.node
    if slot.at != 1 or slot.array.ndim != 2:
        return False
    plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
    return node.op_type == "MatMul" or all(attribute(node, name, value) == value for name, value in plain.items())


class Rounded(NamedTuple):
    codes: Codes
    bias: "tuple[NodeProto, int, Array] | None"
    sqnr_db: float | None
    method: str


def rounded(
    owner: str,
    graph: Graph,
    units: list[Unit],
    options: Options,
    data: Iterable[Any] | None,
    progress: bool | None,
    resume: Any,
) -> list[tuple[Unit, Rounded]]:
    """Round each unit: by data where it multiplies rows of activations in the bits of all layers, else by itself."""
    staged: list[Staged] = []
    batches: list[dict[str, Array]] = []
    if data is not None:
        wide = [unit for unit in units if options.bits_of(unit) == options.bits]
        staged = [layer for unit in wide if (layer := _staged(graph, unit)) is not None]
        batches, fit = fitting_batches(owner, graph.model, staged, data)
        staged = [layer for layer in staged if layer.name in fit]
    names = {layer.name for layer in staged}
    done = {unit.name: _alone(unit, options) for unit in units if unit.name not in names}
    if staged:
        done |= _by_data(graph, units, staged, done, options, batches, progress, resume)
    return [(unit, done[unit.name]) for unit in units]


def _alone(unit: Unit, options: Options) -> Rounded:
    """Round a weight by itself."""
    w = np.asarray(unit.first.matrix(), np.float32)
    method: Any = "mse" if options.method == "gptq" else options.method
    bits, size = options.bits_of(unit), options.size_of(unit)
    if method == "mse" and options.symmetric is False and form_of(unit, options) == "folded" and bits > 1:
        codes = _halved(Codes.of(offsets(w, bits=bits, group_size=size), bits, size), w)
    else:
        q = quantize(w, dtype=f"int{bits}", granularity=PerGroup(size), symmetric=options.symmetric, method=method)
        codes = Codes.of(q, bits, size)
    return Rounded(codes, None, _sqnr(w, codes), method)


def _halved(codes: Codes, w: Float32Array) -> Codes:
    """Round scales and offsets to float16, in which the file holds them, and then the codes to nearest."""
    assert codes.offset is not None
    scale, offset = halved(codes.scale), halved(codes.offset)
    if scale is None or offset is None:
        return codes
    scale, offset = scale.astype(np.float32), offset.astype(np.float32)
    group = np.arange(w.shape[1]) // codes.group_size
    steps = np.rint((w - offset[:, group]) / scale[:, group])
    return codes._replace(codes=np.clip(steps, 0, (1 << codes.bits) - 1).astype(np.uint8), scale=scale, offset=offset)


def _sqnr(w: Array, codes: Codes) -> float | None:
    return finite_decibels(*signal_and_noise(w, codes.levels()))


def fitting_batches(
    owner: str, model: "ModelProto", staged: list[Staged], data: Any
) -> tuple[list[dict[str, Array]], set[str]]:
    """Return the batches as the model takes them, and the names of layers whose inputs are rows of finite numbers."""
    shown, outputs, _ = tapped(model, {layer.x for layer in staged})
    engine = session(shown)
    batches = [feed_of(engine, item) for item in batches_of(owner, data)]
    if not batches:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    bad, rows = set(), dict.fromkeys(outputs, 0)
    for values in run_batches(owner, engine, batches):
        for name, output in outputs.items():
            x = values[output]
            rows[name] += x.size
            if not np.isfinite(x).all():
                bad.add(name)
    return batches, {layer.name for layer in staged if layer.x not in bad and rows.get(layer.x)}


def _by_data(
    graph: Graph,
    units: list[Unit],
    staged: list[Staged],
    done: Mapping[str, Rounded],
    options: Options,
    batches: list[dict[str, Array]],
    progress: bool | None,
    resume: Any,
) -> dict[str, Rounded]:
    by_name = {unit.name: unit for unit in units}
    weights: dict[str, Any] = {}
    for layer in staged:
        w = by_name[layer.name].first.matrix()
        weights[layer.name] = w if layer.bias is None else (w, _bias_of(graph, layer.bias))
    others = {}
    for name, result in done.items():
        unit = by_name[name]
        for slot in unit.slots:
            if slot.layer.graph.parent is None and slot.at >= 0:
                levels = slot.restored(result.codes.levels(slot.array.dtype))
                others[place(slot.node), slot.at] = slot.array, levels
    run = StagedModel(graph, staged, weights, others)
    size = options.group_size
    if size is None:
        size = max(by_name[layer.name].first.inputs for layer in staged)
    layers = quantize_layers(
        weights,
        run,
        batches,
        dtype=f"int{options.bits}",
        granularity=PerGroup(size),
        symmetric=options.symmetric,
        method=options.method,
        damping=options.damping,
        progress=progress,
        resume=resume,
    )
    rounded = {}
    for layer in staged:
        q = layers[layer.name]
        codes = Codes.of(q, options.bits, options.size_of(by_name[layer.name]))
        bias = None if layer.bias is None else (*layer.bias[:2], layer.bias[2](layers.biases[layer.name]))
        rounded[layer.name] = Rounded(codes, bias, layers.report[layer.name].sqnr_db, options.method)
    return rounded


def _identity(x: Array) -> Array:
    return x


def _channels_last(x: Array) -> Array:
    return np.moveaxis(x, 1, -1)


def _staged(graph: Graph, unit: Unit) -> Staged | None:
    """Return a unit as a layer whose inputs are rows of an activation, if it is one."""
    if any(slot.node.op_type not in _PRODUCTS or slot.at != 1 or slot.layer.graph.parent for slot in unit.slots):
        return None
    if len(unit.slots) > 1:
        return None
    slot = unit.first
    node, array = slot.node, slot.array
    if graph.constant(slot.layer.x) is not None:
        return None
    rows: Callable[[Array], Array] = _identity
    outputs_last = rows
    if node.op_type == "MatMul" and array.ndim != 2:
        return None
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return None
    if node.op_type == "Conv":
        if array.ndim != 4 or attribute(node, "group", 1) != 1:
            return None
        if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
            return None
        outputs_last = _channels_last
        rows = _rows_of_conv(node, (array.shape[2], array.shape[3]))
    bias = _biasplace(graph, slot)
    y = str((node if bias is None else bias[0]).output[0])
    return Staged(unit.name, node, 1, slot.layer.x, rows, outputs_last, slot.restored, bias, residual_of(graph, y))


def _rows_of_conv(node: "NodeProto", kernel: tuple[int, int]) -> Callable[[Array], Array]:
    strides, dilations = (tuple(attribute(node, name, [1, 1])) for name in ("strides", "dilations"))
    padding = tuple(attribute(node, "pads", [0, 0, 0, 0]))
    if kernel == (1, 1) and strides == (1, 1) and not any(padding):
        return _channels_last

    def rows(x: Array) -> Array:
        return patches(x, kernel, strides=strides, padding=padding, dilations=dilations)

    return rows


def _biasplace(graph: Graph, slot: Slot) -> "tuple[NodeProto, int, Callable[[Array], Array]] | None":
    """Return the node and the input that add a constant to each output, and what gives it its shape."""
    node, outputs = slot.node, slot.array.size // slot.inputs
    places = []
    if node.op_type in ("Gemm", "Conv"):
        if len(node.input) > 2 and node.input[2] and attribute(node, "beta", 1.0) == 1.0:
            places = [(node, 2)]
    else:
        readers = graph.consumers(node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Add" and not graph.is_output(node.output[0]):
            add = readers[0]
            places = [(add, i) for i in range(2) if add.input[i] != node.output[0]]
    for reader, index in places:
        constant = graph.constant(reader.input[index])
        if constant is None or constant.array.size != outputs or constant.array.shape[-1:] != (outputs,):
            continue
        shape = constant.array.shape
        if np.isfinite(constant.array).all() and constant.array.dtype == slot.array.dtype:
            return reader, index, partial(_shaped, shape)
    return None


def _shaped(shape: tuple[int, ...], array: Array) -> Array:
    return array.reshape(shape)


def _bias_of(graph: Graph, place: Any) -> Array:
    constant = graph.constant(place[0].input[place[1]])
    assert constant is not None
    return constant.array.reshape(-1)


def residual_of(graph: Graph, y: str) -> str | None:
    """Return what is added to a tensor that nothing else reads."""
    readers = graph.consumers(y)
    if (
        len(readers) != 1
        or readers[0].op_type not in ("Add", "Sum")
        or len(readers[0].input) != 2
        or graph.is_output(y)
    ):
        return None
    other = [name for name in readers[0].input if name != y]
    return other[0] if len(other) == 1 and graph.constant(other[0]) is None else None
