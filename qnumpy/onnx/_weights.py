"""The weights of a model: which tensors they are, which nodes read them, how each becomes a matrix (N, K)."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto

from .._typing import Array
from ._graph import Constant, Graph, attribute, node_name
from ._layers import Layer, layers
from ._report import Change
from ._selection import Selection

__all__ = ["Slot", "Unit", "left_float", "place", "units", "with_constants"]

_RECURRENT = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
_SMALL = 2048  # bytes; the nodes that unpack codes take up to a thousand
_DERIVING = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"}  # of a constant, another one

_CUTTING = _DERIVING | {"Slice", "Concat", "Split"}


def with_constants(model: ModelProto) -> ModelProto:
    """Bring a model to IR 4, where initializers are constants; before, all of them were listed as inputs."""
    if model.ir_version < 4:
        constants = {init.name for init in model.graph.initializer}
        for value in [value for value in model.graph.input if value.name in constants]:
            model.graph.input.remove(value)
        model.ir_version = 4
    return model


class Slot(NamedTuple):
    """A weight that a node reads: ``array.transpose(order).reshape(N, K)`` is its matrix."""

    layer: Layer
    at: int  # the input of the node
    constant: Constant
    order: tuple[int, ...]
    inputs: int
    source: str = ""  # where the node reads parts of the weight: the tensor that they are cut from; `at` is then -1

    @property
    def node(self) -> NodeProto:
        node: NodeProto = self.layer.node
        return node

    @property
    def tensor(self) -> str:
        return self.source or str(self.node.input[self.at])

    @property
    def array(self) -> Array:
        return self.constant.array

    def matrix(self) -> Array:
        return np.ascontiguousarray(self.array.transpose(self.order).reshape(-1, self.inputs))

    def restored(self, matrix: Array) -> Array:
        """Return a matrix in the shape that the node reads."""
        moved = [self.array.shape[axis] for axis in self.order]
        return matrix.reshape(moved).transpose(np.argsort(self.order))


class Unit(NamedTuple):
    """A weight that is rounded once, and the nodes that read it."""

    name: str
    slots: list[Slot]
    graph: Graph  # where the tensor is made

    @property
    def first(self) -> Slot:
        return self.slots[0]

    @property
    def elements(self) -> int:
        return int(self.first.array.size)

    @property
    def is_lookup(self) -> bool:
        """Whether its rows are looked up, by all nodes that read it."""
        return all(slot.node.op_type == "Gather" for slot in self.slots)

    @property
    def is_convolution(self) -> bool:
        """Whether a node that reads it is a convolution."""
        return any(slot.node.op_type in ("Conv", "ConvTranspose") for slot in self.slots)


def units(graph: Graph, selection: Selection, kept: list[Change]) -> list[Unit]:
    """Return the weights that can be rounded, each with all nodes that read it; append the others to `kept`."""
    by_root: dict[Any, list[Unit]] = {}
    taken: dict[str, int] = {}
    found = layers(graph)
    claimed: set[str] = set()
    for layer in found:
        slots = list(_slots(layer))
        claimed.update(slot.constant.name for slot in slots)
        if not slots:
            continue
        reason = _unfit(layer, slots, selection)
        if reason:
            kept.append(left_float(layer, reason))
            continue
        for slot in slots:
            owner = layer.graph.scope_of(slot.tensor)
            tied = by_root.setdefault((id(layer.graph.scope_of(slot.constant.name)), slot.constant.name), [])
            for unit in tied:
                if np.array_equal(unit.first.matrix(), slot.matrix()):
                    unit.slots.append(slot)
                    break
            else:
                name = _label(slot)
                taken[name] = taken.get(name, 0) + 1
                tied.append(Unit(f"{name}#{taken[name]}" if taken[name] > 1 else name, [slot], owner))
    result = []
    for unit in (unit for tied in by_root.values() for unit in tied):
        if all(_read_by(unit, slot) for slot in unit.slots):
            result.append(unit)
        else:
            kept.extend(left_float(slot.layer, "Another operator reads the weight.") for slot in unit.slots)
    return [*result, *_cut_units(graph, found, claimed, selection)]


def _cut_units(graph: Graph, found: list[Layer], claimed: set[str], selection: Selection) -> Iterator[Unit]:
    """Yield the constants that weights are cut from or joined of, such as the gates of an LSTM in another order."""
    by_place = {place(layer.node): layer for layer in found if layer.op_type != "Gather"}
    for scope in graph.walk():
        names = [init.name for init in scope.proto.initializer]
        names += [node.output[0] for node in scope.proto.node if node.op_type == "Constant"]
        for name in names:
            constant = None if name in claimed else scope.constant(name)
            if constant is None or constant.array.ndim < 2 or constant.array.nbytes < _SMALL:
                continue
            array = constant.array
            if array.dtype not in (np.float32, np.float16) or not np.isfinite(array).all():
                continue
            ends = _ends(scope, name, by_place)
            if ends and all(end.node in selection for end in ends):
                order = tuple(range(array.ndim))
                slot = Slot(ends[0], -1, constant, order, int(array.shape[-1]), name)
                yield Unit(f"{node_name(ends[0].node)}:{name}", [slot], scope)


def _ends(scope: Graph, tensor: str, by_place: Mapping[str, Layer]) -> list[Layer] | None:
    """Return the layers that parts of a constant are weights of; None where anything else reads it."""
    if scope.is_output(tensor):
        return None
    ends: list[Layer] = []
    for inner in scope.walk():
        for node in inner.proto.node:
            if tensor not in node.input:
                continue
            if node.op_type in _CUTTING and all(_is_fixed(inner, name) for name in node.input):
                parts = [_ends(inner, name, by_place) for name in node.output if name]
                if None in parts:
                    return None
                ends += [end for part in parts if part for end in part]
            elif place(node) in by_place and tensor != by_place[place(node)].x:
                ends.append(by_place[place(node)])
            else:
                return None
    return ends


def _is_fixed(scope: Graph, tensor: str) -> bool:
    """Whether a tensor is made of constants by operators that cut and join."""
    if not tensor or scope.constant(tensor) is not None:
        return True
    owner = scope.scope_of(tensor)
    node = owner.producer(tensor)
    return node is not None and node.op_type in _CUTTING and all(_is_fixed(owner, name) for name in node.input)


def _label(slot: Slot) -> str:
    name = node_name(slot.node)
    return f"{name}:{slot.at}" if slot.node.op_type in _RECURRENT else name


def _slots(layer: Layer) -> Iterator[Slot]:
    """Yield the weights of a layer."""
    node, op_type = layer.node, layer.node.op_type
    for index in _RECURRENT.get(op_type, (None,)):
        if index is None:
            if layer.weight is None:
                return
            index = next(i for i, name in enumerate(node.input) if i < 2 and name != layer.x)
        if index >= len(node.input) or not node.input[index]:
            continue
        constant = layer.graph.constant(node.input[index])
        if constant is None or constant.array.ndim < 2 or not constant.array.size:
            continue
        shape = constant.array.shape
        last = tuple(range(len(shape)))
        if op_type == "MatMul" and index == 1:
            order, inputs = (*last[:-2], last[-1], last[-2]), shape[-2]
        elif op_type == "Gemm":
            order, inputs = (
                ((0, 1), shape[1]) if bool(attribute(node, "transB", 0)) == (index == 1) else ((1, 0), shape[0])
            )
        elif op_type == "Conv":
            order, inputs = last, math.prod(shape[1:])
        elif op_type == "ConvTranspose":
            order, inputs = (*last[1:], 0), shape[0]
        else:  # MatMul with the weight on the left, Gather, and the matrices of LSTM and GRU
            order, inputs = last, shape[-1]
        yield Slot(layer, index, constant, order, int(inputs))


def _unfit(layer: Layer, slots: list[Slot], selection: Selection) -> str:
    """Return why a layer stays float, or nothing."""
    if layer.node not in selection:
        return "It is not selected."
    for slot in slots:
        array = slot.array
        if array.dtype not in (np.float32, np.float16):
            return f"Its weight is of {array.dtype}."
        if not np.isfinite(array).all():
            return "Its weight is not finite."
        if array.nbytes < _SMALL:
            return "Its weight is small."
    return ""


def _read_by(unit: Unit, slot: Slot) -> bool:
    """Whether the nodes of a unit are all that read a tensor, directly or transposed or the like."""
    tensors = {other.tensor for other in unit.slots}
    mine = {place(other.node) for other in unit.slots}

    def is_read(owner: Graph, tensor: str) -> bool:
        if owner.is_output(tensor):
            return False
        for node in owner.consumers(tensor):
            derived = node.output[0] if len(node.output) == 1 else ""
            if place(node) in mine:
                continue
            if node.op_type not in _DERIVING or owner.producer(derived) is None:
                return False
            if not (derived in tensors or is_read(owner, derived)):
                return False
        return True

    return is_read(slot.layer.graph.scope_of(slot.tensor), slot.tensor)


def place(node: NodeProto) -> str:
    """Return what a node is known by: protobuf hands out copies."""
    return str(next(name for name in node.output if name))


def left_float(layer: Layer, reason: str) -> Change:
    size = 0 if layer.weight is None else layer.weight.array.nbytes
    return Change(node_name(layer.node), layer.op_type, "float", "float", reason, size, size, None)
