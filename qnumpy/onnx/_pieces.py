"""Models cut into pieces: sessions that run one after the other, between which tensors can be read or freed."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .._typing import Array
from ..errors import FileFormatError
from ._files import write_model
from ._graph import Graph
from .session import session

__all__ = ["Piece", "PieceModel", "lean", "piece", "reads"]

_READ = 6  # tensors that one piece shows: all of them are in memory at once


class Piece(NamedTuple):
    """A session, and the tensors that it reads and makes."""

    session: Any
    inputs: list[str]
    outputs: list[str]


class Input(NamedTuple):
    """An input of a model as onnxruntime's NodeArg describes it."""

    name: str
    type: str
    shape: list[Any]


class PieceModel:
    """A model that shows tensors a few at a time.

    Parameters
    ----------
    model : ModelProto
    names : iterable of str
        Tensors of the main graph; others are left out.

    Raises
    ------
    FileFormatError
        The model cannot be cut: a tensor between two pieces has no known type, or an initializer is an input too.
    """

    def __init__(self, model: ModelProto, names: Iterable[str]) -> None:
        self.names = dict.fromkeys(names)
        graph = Graph.of(model)
        proto = graph.proto
        constants = {tensor.name: tensor for tensor in proto.initializer}
        if any(value.name in constants for value in proto.input):
            raise FileFormatError("an initializer can be fed.")
        self._inputs = [Input(value.name, _type(value), _shape(value)) for value in proto.input]
        level = dict.fromkeys((value.name for value in proto.input), 0)
        nodes = []
        for node in proto.node:
            if node.op_type.startswith("Random") or any(name in level for name in reads(node)):
                level.update(dict.fromkeys(filter(None, node.output), 0))
                nodes.append(node)
        groups = self._groups(nodes)
        after = [{name for node in group for name in reads(node)} for group in groups]
        made = {name: node for node in proto.node for name in node.output if name}
        sparse = {tensor.values.name for tensor in proto.sparse_initializer}
        self._pieces = []
        self._last: dict[str, int] = {}
        for i, group in enumerate(groups):
            later = set().union(self.names, *after[i + 1 :])
            outputs = [name for node in group for name in node.output if name in later]
            outputs += [name for name in self.names if i == 0 and name in made and name not in level]
            part = piece(graph, group, outputs, made, level, constants, sparse, _types(graph), lean())
            self._last.update(dict.fromkeys((*part.inputs, *outputs), i))
            self._pieces.append(part)

    def _groups(self, nodes: list[NodeProto]) -> list[list[NodeProto]]:
        """Return the nodes in groups, up to the last one that makes a tensor that is wanted."""
        groups: list[list[NodeProto]] = []
        group: list[NodeProto] = []
        shown = 0
        for node in nodes:
            group.append(node)
            shown += sum(name in self.names for name in node.output)
            if shown >= _READ:
                groups.append(group)
                group, shown = [], 0
        while group and not any(name in self.names for name in group[-1].output):
            group.pop()
        return [*groups, group] if group else groups or [[]]

    def get_inputs(self) -> list[Input]:
        return self._inputs

    def get_overridable_initializers(self) -> list[Any]:
        return []

    def run(self, feed: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Yield the tensors of one batch, some at a time; what the caller drops is free before the next ones come."""
        env: dict[str, Any] = dict(feed)
        yield {name: env[name] for name in self.names if name in env}
        for i, part in enumerate(self._pieces):
            if part.outputs:
                inputs = {name: env[name] for name in part.inputs}
                env.update(zip(part.outputs, part.session.run(part.outputs, inputs), strict=True))
                del inputs
            shown = {name: env[name] for name in part.outputs if name in self.names}
            for name in [name for name in env if self._last.get(name, -1) <= i]:
                del env[name]
            yield shown
            del shown


def _type(value: ValueInfoProto) -> str:
    """Return the type of an input in onnxruntime's words."""
    elem_type = value.type.tensor_type.elem_type
    return f"tensor({TensorProto.DataType.Name(elem_type).lower()})" if elem_type else "other"


def _shape(value: ValueInfoProto) -> list[Any]:
    dims = value.type.tensor_type.shape.dim
    known = (dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims)  # some writers put -1
    return [dim.dim_value if fixed else dim.dim_param or None for dim, fixed in zip(dims, known, strict=True)]


def _types(graph: Graph) -> Callable[[str], int]:
    def elem_type(name: str) -> int:
        found = graph.elem_type(name)
        if not found:
            raise FileFormatError(f"the type of {name!r} is not known.")
        return found

    return elem_type


def piece(
    graph: Graph,
    nodes: list[NodeProto],
    outputs: list[str],
    made: Mapping[str, NodeProto],
    level: Mapping[str, int],
    constants: Mapping[str, Any],
    sparse: set[str],
    types: Callable[[str], int],
    options: Any = None,
) -> Piece:
    """Make the session of a piece; nodes that depend on constants alone are part of every piece that reads them."""
    here = {name for node in nodes for name in node.output if name}
    inputs: dict[str, None] = {}
    initializers: dict[str, None] = {}
    constant_nodes: dict[int, Any] = {}

    def visit(name: str) -> None:
        if not name or name in here:
            return
        if name in level:
            inputs[name] = None
        elif name in constants or name in sparse:
            initializers[name] = None
        elif name in made and id(made[name]) not in constant_nodes:
            node = made[name]
            for inner in reads(node):
                visit(inner)
            constant_nodes[id(node)] = node

    for node in nodes:
        for name in reads(node):
            visit(name)
    for name in outputs:
        visit(name)
    model = ModelProto()
    model.CopyFrom(_header(graph))
    proto = model.graph
    proto.name = "piece"
    proto.node.extend([*constant_nodes.values(), *nodes])
    for name in inputs:
        value = helper.make_tensor_value_info(name, types(name), None)
        proto.input.append(value)
    proto.initializer.extend(constants[name] for name in initializers if name in constants)
    proto.sparse_initializer.extend(s for s in graph.proto.sparse_initializer if s.values.name in initializers)
    proto.output.extend(ValueInfoProto(name=name) for name in outputs)
    return Piece(_opened(model, options or _resting()) if outputs else None, list(inputs), outputs)


def _opened(model: ModelProto, options: Any) -> Any:
    """Make a session from a file: of a model in bytes onnxruntime keeps the bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "piece.onnx")
        write_model("session", model, path)
        return session(path, options=options)


def _resting() -> Any:
    """Return options of a session whose threads sleep between runs: the sessions of many pieces take turns."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def lean() -> Any:
    """Return options of a session that keeps no memory between runs, in an arena or by a plan."""
    options = _resting()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def _header(graph: Graph) -> ModelProto:
    """Return the model without its graph."""
    whole = graph.model
    model = ModelProto(ir_version=whole.ir_version)
    model.opset_import.extend(whole.opset_import)
    model.functions.extend(whole.functions)
    model.metadata_props.extend(whole.metadata_props)
    return model


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the tensors of its scope that a node reads, in its subgraphs too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _captured(graph)


def _captured(graph: GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {init.name for init in graph.initializer}
    own |= {init.values.name for init in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in reads(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)
