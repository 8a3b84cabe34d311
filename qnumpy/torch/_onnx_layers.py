"""Layers of codes in a graph of ONNX: nodes that stand for them become those of the forms of `qnumpy.onnx`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .. import _check
from .._typing import Array
from ..arrays.offset import OffsetArray
from ..arrays.packed import bounds
from ..arrays.quantized import QuantizedArray
from ..arrays.storages import is_of_floats
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor
from ..onnx._forms.folded import fold
from ..onnx._forms.qnumpy import LinearLayer, conv, embedding, linear, norms
from ..onnx._forms.standard import LinearWeight, Nodes, StandardForm, look_up
from ..onnx._forms.weight_codes import Codes
from ..onnx._graph import Graph, attribute
from ..onnx._report import Change
from ..onnx._rewrites import activation_behind, rewrite
from ..ops.hadamard import Hadamard
from ..qparams import QParams
from ._layout import Layout, array_in, layout_of
from ._library import tensor_of
from .modules import kind

__all__ = ["PLACES", "write_layers"]

PLACES = "qnumpy.torch"  # the domain of nodes that stand for a layer until it is written
_GROUPS = (16, 32, 64, 128)  # of a node Linear
_OPEN = (-np.inf, np.inf)
_FLOAT = "the weight is stored as codes and computes in float32"
_TYPES = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}  # of TensorProto


def write_layers(owner: str, proto: ModelProto, target: str) -> tuple[list[Change], dict[str, int]]:
    """Write the layers of codes in a model; return what became of each, and the rewrites of its float parts.

    Parameters
    ----------
    owner : str
        The function that errors name.
    proto : ModelProto
        It changes. Nodes of the domain `PLACES` have the name of the operator of PyTorch as their type, x and the
        tensors of the layer as inputs, and the attribute `layout`.
    target : {"qnumpy", "standard"}
    """
    layers = _taken(proto)
    _fix_lengths(proto, layers)
    graph = Graph.of(proto)
    rewrites = rewrite(graph)
    changes = _Writer(owner, graph, target, layers).write()
    joined = norms(graph) if target == "qnumpy" else 0
    if joined:
        rewrites["SkipLayerNormalization in place of a sum and a LayerNormalization"] = joined
    graph.remove_unused()
    for place in [entry for entry in proto.opset_import if entry.domain == PLACES]:
        proto.opset_import.remove(place)
    return changes, rewrites


class _Held(NamedTuple):
    """What a node of the domain `PLACES` stands for."""

    name: str  # of the module
    layout: Layout
    weight: Any
    bias: Array | None


def _taken(proto: ModelProto) -> dict[str, _Held]:
    """Return what the nodes stand for, by their first output; only x stays an input of theirs.

    The tensors of codes leave the model, and their names are free.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    held: dict[str, _Held] = {}
    taken: set[str] = set()
    for node in proto.graph.node:
        if node.domain != PLACES:
            continue
        layout = layout_of(attribute(node, "layout").decode())
        names = list(node.input[1:])
        tensors = [tensor_of(numpy_helper.to_array(initializers[name])) for name in names]
        weight = array_in(layout, tensors, "weight")
        bias = array_in(layout, tensors, "bias") if "bias" in layout.specs else None
        held[node.output[0]] = _Held(names[0].removesuffix(".weight"), layout, weight, bias)
        taken.update(names)
        del node.input[1:]
    taken -= {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in taken]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return held


def _fix_lengths(proto: ModelProto, layers: dict[str, _Held]) -> None:
    """Give an open axis that a linear layer multiplies the one length that it can have."""
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    lengths: dict[str, int] = {}
    for node in proto.graph.node:
        if node.domain == PLACES and node.op_type == "linear":
            last = [dim.dim_param for dim in dims.get(node.input[0], [])[-1:] if dim.dim_param]
            lengths |= dict.fromkeys(last, layers[node.output[0]].weight.shape[1])
    for dim in (dim for of in dims.values() for dim in of):
        if dim.dim_param in lengths:
            dim.dim_value = lengths[dim.dim_param]


class _Layer(NamedTuple):
    """A layer, and the nodes that its node takes in."""

    node: NodeProto
    name: str
    x: str
    output: str
    weight: Any
    bias: Array | None
    options: dict[str, Any]
    smooth: Array | None = None
    activation: str = ""
    behind: tuple[Any, ...] = ()

    @property
    def stem(self) -> str:
        """What the names of its constants begin with."""
        return f"{self.name}.weight"

    @property
    def rotation(self) -> Hadamard | None:
        return self.options.get("hadamard")

    @property
    def clip(self) -> tuple[float, float]:
        return bounds("clip", self.options.get("clip", (None, None)))

    @property
    def x_qparams(self) -> QParams | None:
        return self.options.get("x_qparams")

    @property
    def x_granularity(self) -> Granularity:
        given: Granularity | None = self.options.get("x_granularity")
        grouped = isinstance(self.weight.granularity, PerGroup)
        return given or (PerGroup(self.weight.granularity.group_size) if grouped else PerRow())

    @property
    def attributes(self) -> dict[str, Any]:
        """How a node Linear quantizes x."""
        by = "group" if isinstance(self.x_granularity, PerGroup) else "row"
        values = {"symmetric": int(self.options.get("symmetric", True)), "x_granularity": by}
        return {**values, "activation_bits": self.options.get("activation_bits", 8)}

    def channel_scale(self) -> Array:
        """Return the scale of each channel of axis 0."""
        return np.broadcast_to(np.asarray(self.weight.scale), len(self.weight)).astype(np.float32)

    def is_int8(self) -> bool:
        """Whether the weight has signed codes around 0, and one scale or a scale for each channel of axis 0."""
        w = self.weight
        if not isinstance(w, QuantizedArray) or is_of_floats(w) or isinstance(w.granularity, PerGroup):
            return False
        by_row = isinstance(w.granularity, PerTensor) or w.granularity in (PerChannel(0), PerChannel(-w.ndim))
        return by_row and w.qparams.code.signed and w.qparams.code.bits <= 8 and not np.any(w.zero_point)

    def int8(self) -> Array:
        return np.asarray(self.weight.codes).astype(np.int8)

    def int8_weight(self, codes: Array) -> LinearWeight:
        """Return the codes, in the order that a form takes, with what belongs to them."""
        bias = np.zeros(len(self.weight), np.float32) if self.bias is None else self.bias
        return LinearWeight(self.stem, codes, self.channel_scale(), bias)


class _Writer:
    """Writes the layers of a graph."""

    def __init__(self, owner: str, graph: Graph, target: str, held: dict[str, _Held]) -> None:
        self.owner, self.graph, self.ours, self.held = owner, graph, target == "qnumpy", held
        self.target = target
        self.rows, self.ranges = StandardForm(graph, "row"), StandardForm(graph, "tensor")

    def write(self) -> list[Change]:
        """Replace the nodes that stand for layers; return what became of each."""
        groups: dict[Any, list[_Layer]] = {}
        forms: dict[str, Callable[[Nodes, list[_Layer]], str]] = {}
        for node in list(self.graph.proto.node):
            if node.domain != PLACES:
                continue
            op_type = node.op_type
            layer = self._layer(node)
            key: Any = layer.output
            if op_type == "linear":
                layer = self._joined(layer) if self.ours and _fits_linear(layer) else layer
                key = self._key(layer)
            elif op_type == "conv2d" and self.ours and _fits_conv(layer):
                layer = self._with_activation(layer)
            groups.setdefault(key, []).append(layer)
            forms[layer.output] = {"linear": self._linear, "conv2d": self._conv, "embedding": self._embedding}[op_type]
        return [change for group in groups.values() for change in self._written(group, forms[group[0].output])]

    # ---- a layer and what is around it ----

    def _layer(self, node: NodeProto) -> _Layer:
        name, layout, weight, bias = self.held[node.output[0]]
        node = self._looking_up(node, layout) if node.op_type == "embedding" else self._in_float32(node)
        return _Layer(node, name, node.input[0], node.output[0], weight, bias, layout.options)

    def _in_float32(self, node: NodeProto) -> NodeProto:
        """Return a node that reads and gives float32, between casts where the model has another type."""
        elem_type = self.graph.elem_type(node.input[0])
        if elem_type in (TensorProto.FLOAT, None):
            return node
        x = self.graph.name(f"{node.input[0]}_float")
        cast = helper.make_node("Cast", [node.input[0]], [x], name=x, to=TensorProto.FLOAT)
        return self._cast_behind(node, x, elem_type, cast)

    def _looking_up(self, node: NodeProto, layout: Layout) -> NodeProto:
        """Return a node that gives float32, before a cast where the layer gives another type."""
        elem_type = _TYPES[layout.options.get("dtype", "float32")]
        return node if elem_type == TensorProto.FLOAT else self._cast_behind(node, node.input[0], elem_type)

    def _cast_behind(self, node: NodeProto, x: str, elem_type: Any, *before: NodeProto) -> NodeProto:
        y = self.graph.name(f"{node.output[0]}_float")
        made = self.graph.replace(
            node, *before,
            helper.make_node(node.op_type, [x], [y], name=node.name, domain=PLACES),
            helper.make_node("Cast", [y], list(node.output), name=self.graph.name(f"{y}_cast"), to=elem_type),
        )  # fmt: skip
        return made[-2]

    def _joined(self, layer: _Layer) -> _Layer:
        """Return a linear layer that applies the factors before it and the activation function behind it."""
        mul = self.graph.producer(layer.x)
        if mul is not None and mul.op_type == "Mul" and not mul.domain:
            for i in (0, 1):
                factors = self.graph.constant(mul.input[i])
                if factors is None or factors.array.shape != layer.weight.shape[1:]:
                    continue
                if factors.array.dtype == np.float32:
                    layer = layer._replace(x=mul.input[1 - i], smooth=factors.array)
                    break
        return self._with_activation(layer)

    def _with_activation(self, layer: _Layer) -> _Layer:
        if layer.clip == (0, np.inf):
            return layer._replace(activation="relu")
        found = activation_behind(self.graph, layer.output) if layer.clip == _OPEN else None
        if found is None or not found.kind:
            return layer
        return layer._replace(activation=found.kind, behind=tuple(found.nodes), output=found.output)

    def _key(self, layer: _Layer) -> Any:
        """Return what linear layers have in common that one node computes."""
        alone = not self.ours or not _fits_linear(layer) or layer.activation or layer.clip != _OPEN
        if alone or isinstance(layer.weight.granularity, PerTensor):
            return layer.output
        w, smooth = layer.weight, None if layer.smooth is None else layer.smooth.tobytes()
        codes = (w.qparams.code.name, w.qparams.qmin, w.qparams.symmetric, str(w.granularity), w.shape)
        return layer.x, smooth, codes, str(layer.options)

    def _written(self, group: list[_Layer], form: Callable[[Nodes, list[_Layer]], str]) -> list[Change]:
        """Put nodes in the place of layers that one node computes."""
        first = group[0]
        nodes = Nodes(self.graph, first.name)
        clips = first.clip != _OPEN and not first.activation
        of = first._replace(output=self.graph.name(f"{first.name}_product")) if clips else first
        reason = form(nodes, [of, *group[1:]])
        if clips:
            ends = ["" if np.isinf(end) else nodes.constant("qnumpy_bound", np.float32(end)) for end in first.clip]
            nodes.add("Clip", [of.output, *ends], first.output)
        for layer in group:
            for node in layer.behind:
                self.graph.remove(node)
        for layer in group[1:]:
            self.graph.remove(layer.node)
        op_type = {"linear": "Linear", "conv2d": "Conv", "embedding": "Embedding"}[first.node.op_type]
        self.graph.replace(first.node, *nodes.made)
        return [
            Change(
                layer.name, op_type, self.target, kind(layer.weight), reason, layer.weight.size * 4,
                layer.weight.nbytes, None,
            )
            for layer in group
        ]  # fmt: skip

    # ---- linear layers ----

    def _linear(self, nodes: Nodes, group: list[_Layer]) -> str:
        """Append linear layers; return what the report says of them."""
        first = group[0]
        if self.ours and _fits_linear(first):
            self._own_linear(nodes, group)
            return "x is quantized as it comes"
        if first.rotation is not None:
            wanted = "without rotated rows where ONNX has no node for them"
            raise ValueError(_check.must(self.owner, "model", wanted, f"{first.name!r} with {first.rotation}"))
        shape = self.graph.shape(first.x)
        rank = None if shape is None else len(shape)
        if first.is_int8():
            form = self.rows if first.x_qparams is None else self.ranges
            weight = first.int8_weight(np.ascontiguousarray(first.int8().T))
            form.linear(nodes, first.x, rank, weight, first.output, first.x_qparams)
            known = first.x_qparams is not None
            return "x is quantized in a known range" if known else "each row is quantized to uint8 as it comes"
        w = self._expanded(nodes, first, first.weight.shape[::-1], (1, 0))
        biased = first.bias is not None
        y = nodes.add("MatMul", [first.x, w], "" if biased else first.output)
        if biased:
            nodes.add("Add", [y, nodes.constant(f"{first.name}.bias", first.bias)], first.output)
        return _FLOAT

    def _own_linear(self, nodes: Nodes, group: list[_Layer]) -> None:
        first, bias = group[0], None
        if any(layer.bias is not None for layer in group):
            n = len(first.weight)
            bias = np.concatenate([np.zeros(n, np.float32) if layer.bias is None else layer.bias for layer in group])
        made = LinearLayer(
            first.stem, [_by_columns(layer.weight) for layer in group], bias, first.smooth, first.rotation,
            first.activation, first.attributes, first.options.get("scale_dtype", "float32"),
        )  # fmt: skip
        linear(nodes, first.x, made, [layer.output for layer in group])

    def _expanded(self, nodes: Nodes, layer: _Layer, shape: tuple[int, ...], order: tuple[int, ...]) -> str:
        """Append what makes reals of a weight, in another shape and order of axes; return their name."""
        w = layer.weight
        floats = isinstance(w, QuantizedArray) and is_of_floats(w)
        if floats and w.qparams.code.bits == 8 and not isinstance(w.granularity, PerGroup):
            inputs = [nodes.constant(f"{layer.stem}_quantized", np.ascontiguousarray(w.codes.transpose(order)))]
            inputs.append(nodes.constant(f"{layer.stem}_scale", w.scale))
            axis: dict[str, Any] = {} if isinstance(w.granularity, PerTensor) else {"axis": order.index(0)}
            return nodes.add("DequantizeLinear", inputs, **axis)
        if layer.x_qparams is not None or floats or not isinstance(w, QuantizedArray | OffsetArray):
            known = "in a known range of x" if layer.x_qparams is not None else ""
            got = f"{layer.name!r} of {type(w).__name__} {kind(w)} {known}".rstrip()
            raise ValueError(_check.must(self.owner, "model", "of layers that have a form in ONNX", got))
        made, names, _ = fold(self.graph, layer.stem, _codes(w), [(shape, order)], TensorProto.FLOAT)
        nodes.made.extend(made)
        return names[0]

    # ---- convolutions and look-ups ----

    def _conv(self, nodes: Nodes, group: list[_Layer]) -> str:
        (layer,) = group
        options, axes = layer.options, layer.weight.ndim - 2
        attributes = {
            "strides": options["strides"][-axes:],
            "pads": [side for half in (options["padding"][:2], options["padding"][2:]) for side in half[-axes:]],
            "dilations": options["dilations"][-axes:],
            "group": options["groups"],
        }
        if self.ours and _fits_conv(layer):
            constants = layer.int8(), layer.channel_scale(), layer.bias
            conv(nodes, layer.x, layer.stem, constants, layer.output, activation=layer.activation, **attributes)
            return "each image is quantized as it comes"
        attributes["kernel_shape"] = list(layer.weight.shape[2:])
        if layer.is_int8() and layer.x_qparams is not None:
            weight = layer.int8_weight(layer.int8())
            self.ranges.conv(nodes, layer.x, weight, layer.output, layer.x_qparams, **attributes)
            return "x is quantized in a known range"
        w = self._expanded(nodes, layer, layer.weight.shape, tuple(range(layer.weight.ndim)))
        bias = [] if layer.bias is None else [nodes.constant(f"{layer.name}.bias", layer.bias)]
        nodes.add("Conv", [layer.x, w, *bias], layer.output, **attributes)
        return _FLOAT

    def _embedding(self, nodes: Nodes, group: list[_Layer]) -> str:
        (layer,) = group
        if layer.is_int8():
            form = embedding if self.ours else look_up
            form(nodes, layer.x, layer.stem, layer.int8(), layer.channel_scale(), layer.output)
            return "a scale for each row"
        table = self._expanded(nodes, layer, layer.weight.shape, (0, 1))
        nodes.add("Gather", [table, layer.x], layer.output, axis=0)
        return _FLOAT


def _fits_linear(layer: _Layer) -> bool:
    """Whether a node Linear computes a layer."""
    w = layer.weight
    if layer.x_qparams is not None or not isinstance(w, QuantizedArray) or is_of_floats(w):
        return False
    if isinstance(layer.x_granularity, PerTensor):
        return False
    return not isinstance(w.granularity, PerGroup) or w.granularity.group_size in _GROUPS


def _fits_conv(layer: _Layer) -> bool:
    """Whether a node Conv of the domain "qnumpy" computes a layer."""
    return layer.x_qparams is None and layer.is_int8()


def _by_columns(w: QuantizedArray) -> QuantizedArray:
    """Return a weight (N, K) as (K, N), with a scale for each column in place of one."""
    turned, params = w.T, w.qparams
    if not isinstance(w.granularity, PerTensor):
        return turned
    scale, zero_point = (np.full(turned.shape[1], values) for values in (params.scale, params.zero_point))
    each = QParams(scale, zero_point, params.code.name, PerChannel(1), params.qmin, params.qmax)
    return QuantizedArray(turned.codes, each)


def _codes(w: QuantizedArray | OffsetArray) -> Codes:
    """Return the codes of a weight with groups along its rows; without groups each row is one."""
    if isinstance(w, OffsetArray):
        return Codes.of(w, w._code.bits, w.granularity.group_size or 0)
    code = w.qparams.code
    if isinstance(w.granularity, PerGroup):
        return Codes.of(w, code.bits, w.granularity.group_size)
    codes = np.asarray(w.codes).reshape(len(w), -1)
    scale, zero_point = (
        np.ascontiguousarray(np.broadcast_to(np.reshape(values, (-1, 1)), (len(w), 1)))
        for values in (w.scale, np.asarray(w.zero_point, np.int32))
    )
    params = QParams(scale, zero_point, code.name, PerGroup(codes.shape[1]))
    return Codes.of(QuantizedArray(codes, params), code.bits, codes.shape[1])
