"""The tensors that a float model and the quantized model made of it have in common, and what lies between them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ._graph import Graph, graphs_of

__all__ = ["OUTPUT_SCALE", "Pairing", "Region", "as_type", "show", "typed"]

_REALS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_CLIPPING = ("Relu", "Clip")  # which other programs leave to the range of the codes
_ENDS = ("_quantized", "_QuantizeLinear_Output")  # of the names of codes
# Where operators that return codes hold the scale of their output; the zero point follows.
OUTPUT_SCALE = {
    "QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6, "QGemm": 7,
    "QLinearSigmoid": 3, "QLinearLeakyRelu": 3, "QLinearSoftmax": 3, "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3, "QLinearConcat": 0,
}  # fmt: skip


class Codes(NamedTuple):
    """A tensor that the quantized model holds as codes alone."""

    name: str
    scale: str
    zero_point: str


class Region(NamedTuple):
    """What computes one common tensor from other common tensors.

    Attributes
    ----------
    tensor : str
    nodes : list of NodeProto
        Of the quantized model; without those that constants are computed by.
    operators : list of NodeProto
        Of the float model.
    """

    tensor: str
    nodes: list[NodeProto]
    operators: list[NodeProto]


class Pairing:
    """Tensors of the main graphs that have one name and one meaning in both models.

    Parameters
    ----------
    source, quantized : ModelProto
        Neither changes.

    Attributes
    ----------
    source, quantized : Graph
    codes : dict of str to Codes
        The common tensors that the quantized model holds as codes.
    regions : list of Region
        In the order of the float model; those that differ between the models.
    """

    def __init__(self, source: ModelProto, quantized: ModelProto) -> None:
        self.source, self.quantized = Graph.of(source), Graph.of(quantized)
        self.codes: dict[str, Codes] = {}
        graphs = (self.source, self.quantized)
        self._positions = [{n.output[0]: i for i, n in enumerate(graph.proto.node) if n.output} for graph in graphs]
        order = [name for node in source.graph.node for name in node.output if name]
        self._common = {name for name in order if self._is_common(name)}
        known = {_signature(node) for node in source.graph.node}
        changed_constants = self._changed_constants()
        self.regions = []
        for name in order:
            if name in self._common:
                nodes = self._nodes(self.quantized, self.codes[name].name if name in self.codes else name, name)
                changed = [n for n in nodes if _signature(n) not in known or changed_constants & set(_names_read(n))]
                if changed:
                    self.regions.append(Region(name, nodes, self._nodes(self.source, name, name)))

    def _is_common(self, name: str) -> bool:
        if self.source.elem_type(name) not in (*_REALS, None) or self.source.constant(name) is not None:
            return False
        maker, source_maker = self.quantized.producer(name), self.source.producer(name)
        if maker is not None:
            readers = self.quantized.consumers(name)
            clipped = source_maker is not None and source_maker.op_type in _CLIPPING
            if clipped and maker.op_type not in (*_CLIPPING, "DequantizeLinear") and len(readers) == 1:
                reader = readers[0]
                if (
                    reader.op_type == "QuantizeLinear" and len(reader.input) == 3
                ):  # its codes do what the activation does
                    self.codes[name] = Codes(str(reader.output[0]), str(reader.input[1]), str(reader.input[2]))
            return self.quantized.elem_type(name) in (*_REALS, None) and self.quantized.constant(name) is None
        held = self._clipped(name)
        if held is None:
            return False
        for end in _ENDS:
            producer = self.quantized.producer(held + end)
            at = OUTPUT_SCALE.get(producer.op_type) if producer is not None else None
            if producer is not None and at is not None and len(producer.input) > at:
                zero = producer.input[at + 1] if len(producer.input) > at + 1 else ""
                self.codes[name] = Codes(held + end, producer.input[at], zero)
                return True
        return False

    def _clipped(self, name: str) -> str | None:
        """Return the tensor whose codes stand for this one: itself, or what is clipped to it, whose codes end there.

        None for a tensor whose codes stand for the clipped one.
        """
        readers = self.source.consumers(name)
        if (
            len(readers) == 1
            and readers[0].op_type in _CLIPPING
            and self.quantized.producer(readers[0].output[0]) is None
        ):
            return None
        producer = self.source.producer(name)
        return str(producer.input[0]) if producer is not None and producer.op_type in _CLIPPING else name

    def _nodes(self, graph: Graph, tensor: str, name: str) -> list[NodeProto]:
        """Return the nodes that compute a tensor, back to other common tensors."""
        coded = {codes.name: other for other, codes in self.codes.items()} if graph is self.quantized else {}
        found: dict[str, NodeProto] = {}
        waiting = [tensor]
        while waiting:
            current = waiting.pop()
            node = graph.producer(current)
            if node is None or not node.output or node.output[0] in found or graph.constant(current) is not None:
                continue
            found[node.output[0]] = node
            for read in _names_read(node):
                if coded.get(read, read) not in self._common or coded.get(read, read) == name:
                    waiting.append(read)
        positions = self._positions[graph is self.quantized]
        return sorted(found.values(), key=lambda node: positions[node.output[0]])

    def _changed_constants(self) -> set[str]:
        """Return the names of initializers that both models have, with other values."""
        others = {tensor.name: tensor for tensor in self.quantized.proto.initializer}
        return {
            tensor.name
            for tensor in self.source.proto.initializer
            if tensor.name in others and others[tensor.name].SerializeToString() != tensor.SerializeToString()
        }

    def cut(self) -> tuple[ModelProto, dict[str, str]]:
        """Return the quantized model whose regions read the float model's tensors, and the names of these inputs.

        A tensor that a region computes is an input too, under another name, for those that read it. Types of these
        inputs are left out: `typed` fills them in.
        """
        model = ModelProto()
        model.CopyFrom(self.quantized.model)
        naming = Graph.of(model)
        renamed, inputs = {}, {}
        front: list[NodeProto] = []
        for region in self.regions:
            given = naming.name(f"{region.tensor}_float")
            inputs[region.tensor] = given
            if region.tensor in self.codes:
                codes = self.codes[region.tensor]
                fed = naming.name(f"{codes.name}_float")
                arguments = [given, codes.scale, codes.zero_point]
                front.append(helper.make_node("QuantizeLinear", arguments, [fed]))
                renamed[codes.name] = fed
            else:
                renamed[region.tensor] = given
        rename_inputs(model.graph, renamed)
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*_before(nodes, {n for node in front for n in node.input[1:]}), *front])
        kept = {name for node in model.graph.node for name in node.output}
        model.graph.node.extend(node for node in nodes if not set(node.output) & kept)
        model.graph.input.extend(ValueInfoProto(name=name) for name in inputs.values())
        return model, inputs


def _before(nodes: list[NodeProto], names: set[str]) -> list[NodeProto]:
    """Return the nodes whose outputs have these names: Constant nodes with scales."""
    return [node for node in nodes if node.op_type == "Constant" and set(node.output) & names]


def show(model: ModelProto, pairing: Pairing, names: Iterable[str]) -> tuple[ModelProto, dict[str, str]]:
    """Return a copy of a quantized model whose outputs are tensors, those held as codes as reals, by name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    naming = Graph.of(copy)
    del copy.graph.output[:]
    outputs = {}
    for name in dict.fromkeys(names):
        shown = name
        if name in pairing.codes:
            codes = pairing.codes[name]
            shown = naming.name(f"{name}_shown")
            copy.graph.node.append(helper.make_node("DequantizeLinear", [*codes], [shown]))
        outputs[name] = shown
        copy.graph.output.append(ValueInfoProto(name=shown))
    return copy, outputs


def typed(model: ModelProto, types: Mapping[str, int]) -> None:
    """Give inputs their types."""
    for value in model.graph.input:
        if value.name in types:
            value.type.tensor_type.elem_type = types[value.name]


def rename_inputs(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    """Let the nodes of a graph and of those inside read other tensors."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]
        for body in graphs_of(node):
            own = {value.name for value in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            outer = {name: new for name, new in renamed.items() if name not in own}
            rename_inputs(body, outer)
            for value in body.output:
                if value.name in outer:  # an output of the graph inside comes from the graph around it
                    body.node.append(helper.make_node("Identity", [outer[value.name]], [f"{outer[value.name]}_inside"]))
                    value.name = f"{outer[value.name]}_inside"


def _names_read(node: NodeProto) -> list[str]:
    """Return what a node reads, with what the graphs inside read from outside."""
    names = [name for name in node.input if name]
    for body in graphs_of(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        for inner in body.node:
            names += [name for name in _names_read(inner) if name not in own]
            own.update(inner.output)
        names += [value.name for value in body.output if value.name not in own]
    return list(dict.fromkeys(names))


def _signature(node: NodeProto) -> bytes:
    """Return what a node computes, without its name."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.doc_string = "", ""
    attributes = sorted(copy.attribute, key=lambda attribute: attribute.name)
    del copy.attribute[:]
    copy.attribute.extend(attributes)
    return bytes(copy.SerializeToString(deterministic=True))


def as_type(x: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """Return reals in another float type."""
    with np.errstate(over="ignore"):
        return x.astype(dtype, copy=False)
