"""The operators of a graph that multiply by weights or look them up."""

import math
from typing import NamedTuple

from onnx import NodeProto

from ._graph import Constant, Graph, attribute, node_name

__all__: list[str] = []

RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates


class Layer(NamedTuple):
    """An operator with the activation that it reads and its weight.

    Attributes
    ----------
    weight : Constant or None
        None for a product of two activations. Of an LSTM, a GRU or an RNN the weight of the inputs.
    axis : int
        The axis of `weight` that is summed over; of a Gather the one of the values of a row.
    outputs_axis : int or None
        The axis of `weight` whose entries belong to one output channel each; of a Gather the one of the rows.
    bias : Constant or None
        That of the node itself; an Add behind a MatMul is another node.
    macs : int or None
        Multiplications; lengths that are not known count as 1. None where a rank is not known.
    x : str
        The activation that is multiplied, or the indices of a Gather.
    """

    graph: Graph
    node: NodeProto
    op_type: str
    name: str
    weight: Constant | None
    axis: int
    outputs_axis: int | None
    bias: Constant | None
    macs: int | None
    x: str


def layers(graph: Graph) -> list[Layer]:
    """Return every MatMul, Gemm, Conv, ConvTranspose, LSTM, GRU, RNN, and Gather of rows of floats, subgraphs too."""
    found = []
    for scope in graph.walk():
        for node in scope.proto.node:
            layer = _layer(scope, node)
            if layer is not None:
                found.append(layer)
    return found


def _layer(graph: Graph, node: NodeProto) -> Layer | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "MatMul":
        return _matmul(graph, node)
    if node.op_type == "Gemm":
        weight = _real(graph.constant(node.input[1]))
        axis = 1 if attribute(node, "transB", 0) else 0
        return _made(graph, node, weight, axis, 1 - axis, 2, _gemm_macs(graph, node))
    if node.op_type == "Conv":
        macs = conv_macs(graph, node.output[0], node.input[1])
        return _made(graph, node, _real(graph.constant(node.input[1])), 1, 0, 2, macs)
    if node.op_type == "ConvTranspose":
        macs = conv_macs(graph, node.input[0], node.input[1])
        return _made(graph, node, _real(graph.constant(node.input[1])), 0, 1, 2, macs)
    if node.op_type in RECURRENT:
        return _made(graph, node, _real(graph.constant(node.input[1])), 2, 1, 3, _recurrent_macs(graph, node))
    if node.op_type == "Gather":
        rows = _real(graph.constant(node.input[0]))
        axis = attribute(node, "axis", 0)
        if rows is None or rows.array.ndim != 2:
            return None
        first = axis % 2
        name = str(node.input[1])
        return Layer(graph, node, "Gather", node_name(node), rows, 1 - first, first, None, 0, name)
    return None


def _made(
    graph: Graph, node: NodeProto, weight: Constant | None, axis: int, outputs: int, bias: int, macs: int | None
) -> Layer:
    constant = graph.constant(node.input[bias]) if len(node.input) > bias else None
    x = str(node.input[0])
    return Layer(graph, node, node.op_type, node_name(node), weight, axis, outputs, constant, macs, x)


def _matmul(graph: Graph, node: NodeProto) -> Layer:
    left, right = (_real(graph.constant(name)) for name in node.input[:2])
    name, macs = node_name(node), matmul_macs(graph, node.input[0], node.input[1])
    if right is None and left is not None:
        ndim = left.array.ndim
        outputs = ndim - 2 if ndim > 1 else None
        return Layer(graph, node, "MatMul", name, left, ndim - 1, outputs, None, macs, str(node.input[1]))
    ndim = 2 if right is None else right.array.ndim
    outputs = ndim - 1 if ndim > 1 else None
    return Layer(graph, node, "MatMul", name, right, max(ndim - 2, 0), outputs, None, macs, str(node.input[0]))


def _real(constant: Constant | None) -> Constant | None:
    """Return a constant of floats of at least one axis."""
    if constant is None or not constant.array.ndim or not constant.array.size:
        return None
    dtype = constant.array.dtype
    return constant if dtype.kind == "f" or dtype.name in ("bfloat16", "float16") else None


def _known(lengths: "tuple[int | None, ...]") -> int:
    return math.prod(1 if length is None else length for length in lengths)


def matmul_macs(graph: Graph, left: str, right: str) -> int | None:
    """Return the multiplications of a product of two tensors; lengths that are not known count as 1."""
    a, b = graph.shape(left), graph.shape(right)
    if not a or not b:
        return None
    inner = a[-1] if a[-1] is not None else b[-2 if len(b) > 1 else 0]
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    batch: list[int | None] = []
    for i in range(3, max(len(a), len(b)) + 1):
        lengths = [shape[-i] for shape in (a, b) if len(shape) >= i]
        batch.append(max((length for length in lengths if length is not None), default=None))
    return _known((*batch, *rows, inner, *columns))


def _gemm_macs(graph: Graph, node: NodeProto) -> int | None:
    a, b = graph.shape(node.input[0]), graph.shape(node.input[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    rows, inner = reversed(a) if attribute(node, "transA", 0) else a
    columns = b[0] if attribute(node, "transB", 0) else b[1]
    other = b[1] if attribute(node, "transB", 0) else b[0]
    return _known((rows, other if inner is None else inner, columns))


def conv_macs(graph: Graph, places: str, weight: str) -> int | None:
    """Each element of the output (of a ConvTranspose: of the input) meets one filter's slice of the weight."""
    w, shape = graph.shape(weight), graph.shape(places)
    if w is None or shape is None or len(shape) < 3:
        return None
    return _known((shape[0], w[0], *shape[2:], *w[1:]))


def _recurrent_macs(graph: Graph, node: NodeProto) -> int | None:
    x, w, r = (graph.shape(name) for name in node.input[:3])
    if x is None or w is None or r is None or len(x) != 3:
        return None
    return _known(x[:2]) * (_known(w) + _known(r))


def weights_of(layer: Layer) -> list[Constant]:
    """Return all constant weights of a layer: of an LSTM, a GRU or an RNN also that of its state."""
    found = [] if layer.weight is None else [layer.weight]
    if layer.op_type in RECURRENT:
        state = _real(layer.graph.constant(layer.node.input[2]))
        found += [] if state is None else [state]
    return found
