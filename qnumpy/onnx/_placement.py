"""Which nodes of a graph run in int8: those that can, where it is fast, with few changes between the two forms."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._cut import Cut
from ._folds import attributes_of, clip_bounds
from ._graph import Constant, Graph
from ._latency import DEQUANTIZE, NODE, QUANTIZE, Cost, compute_cost, other_cost

__all__ = ["Candidate", "candidates", "cost_of", "place"]

_COMPUTE = ("conv", "matmul", "gemm")
_MOVES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Resize", "Split")
_LOOKUPS = ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool")


@dataclass(eq=False)
class Candidate:
    """A node that onnxruntime can run in int8.

    Attributes
    ----------
    node : NodeProto
    kind : str
        "conv", "matmul", "gemm"; "activation": Relu or Clip; "elementwise": Add, Mul, Concat; "lookup"; "move".
    inputs : tuple of str
        The activations that are quantized.
    outputs : tuple of str
    weight, bias : Constant or None
    """

    node: Any
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: Constant | None = None
    bias: Constant | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The first output: protobuf hands out copies of nodes, so that identity is no key."""
        return self.outputs[0]

    @property
    def computes(self) -> bool:
        return self.kind in _COMPUTE

    @property
    def keeps_float(self) -> bool:
        """Whether the int8 form gives a float32 output at no price."""
        return self.kind in ("matmul", "gemm")

    @property
    def outputs_axis(self) -> int | None:
        """The axis of the weight that holds the output channels; None where one scale is for all."""
        assert self.weight is not None
        if self.kind == "conv":
            return 0
        if self.kind == "gemm":
            return 0 if self.attributes.get("transB", 0) else 1
        return 1 if self.weight.array.ndim == 2 else None

    @property
    def channels_axis(self) -> int:
        """The axis of the input that holds the channels."""
        return 1 if self.kind == "conv" else -1


def candidates(graph: Graph) -> list[Candidate]:
    """Return the nodes of a graph, without those inside it, that onnxruntime can run in int8."""
    return [found for node in graph.proto.node if (found := _candidate(graph, node)) is not None]


def _candidate(graph: Graph, node: Any) -> Candidate | None:
    if node.domain not in ("", "ai.onnx") or not node.output or not all(node.output):
        return None
    inputs, outputs = tuple(node.input), tuple(node.output)
    op = node.op_type

    def real(*names: str) -> bool:
        """Whether tensors are float32 and computed."""
        return all(name and graph.constant(name) is None and graph.elem_type(name) in (1, None) for name in names)

    attributes = attributes_of(node)
    if op in ("Conv", "MatMul", "Gemm"):
        return _layer(graph, node, attributes) if real(inputs[0]) else None
    if op in ("Relu", "Clip"):
        bounds = (0.0, None) if op == "Relu" else clip_bounds(graph, node)
        if bounds is None or (bounds[0] or 0) > 0 or (bounds[1] or 0) < 0 or not real(inputs[0]):
            return None
        return Candidate(node, "activation", inputs[:1], outputs, attributes={"bounds": bounds})
    if op in ("Add", "Mul"):
        gated = op == "Mul" and any(_op(graph, name) == "HardSigmoid" for name in inputs)
        return Candidate(node, "elementwise", inputs, outputs) if real(*inputs) and not gated else None
    if op == "Concat":
        return Candidate(node, "elementwise", inputs, outputs) if real(*inputs) and len(inputs) > 1 else None
    if op in _LOOKUPS:
        return Candidate(node, "lookup", inputs[:1], outputs) if real(inputs[0]) else None
    if op in _MOVES and real(inputs[0]):
        if op == "MaxPool" and len(outputs) > 1:
            return None
        if op == "Resize" and attributes.get("mode", b"nearest") != b"nearest":
            return None
        return Candidate(node, "move", inputs[:1], outputs)
    return None


def _op(graph: Graph, tensor: str) -> str:
    producer = graph.producer(tensor)
    return "" if producer is None else str(producer.op_type)


def _layer(graph: Graph, node: Any, attributes: dict[str, Any]) -> Candidate | None:
    """Return a convolution or a product with a constant weight that has an int8 form."""
    w = graph.constant(node.input[1])
    if w is None or w.array.dtype != np.float32 or w.array.size == 0 or not np.isfinite(w.array).all():
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        if bias is None or not np.isfinite(bias.array).all():
            return None
    kind = node.op_type.lower()
    found = Candidate(node, kind, (node.input[0],), tuple(node.output), w, bias, attributes)
    if kind == "matmul":
        return found if w.array.ndim >= 2 else None
    if kind == "gemm":
        if attributes.get("transA", 0):
            return None
        n = w.array.shape[found.outputs_axis or 0]
        return (
            found if bias is None or (bias.array.size in (1, n) and bias.array.shape[-1:] in ((), (1,), (n,))) else None
        )
    return found


def place(
    graph: Graph,
    found: list[Candidate],
    elements: Mapping[str, float],
    force: Callable[[Candidate], bool | None],
    *,
    pace: float = 1.0,
) -> set[str]:
    """Return the keys of the candidates to run in int8.

    Parameters
    ----------
    graph : Graph
    found : list of Candidate
    elements : mapping of str to float
        Of each tensor, in one run.
    force : callable
        True for a candidate that has to run in int8, False for one that has to stay float32, None for the faster form.
    pace : float, default 1.0
        Factor of the cost of int8: above 1 fewer layers change.

    Returns
    -------
    set of str
    """
    cut = Cut()
    by_output = {name: c for c in found for name in c.outputs}
    for c in found:
        cost = cost_of(c, elements)
        want = force(c)
        cut.choose(c.key, math.inf if want is False else cost.int8 * pace, math.inf if want is True else cost.float32)
    for tensor, producer, readers, outside in _tensors(graph, found, by_output):
        n = elements.get(tensor, 0.0)
        quantize, dequantize = QUANTIZE * n + NODE / 2, DEQUANTIZE * n + NODE / 2
        into, out_of = f"quantized {tensor}", f"float {tensor}"
        for c in readers:
            cut.separate(c.key, into, math.inf)  # a reader in int8 needs codes
            cut.separate(out_of, c.key, math.inf)  # a reader in float32 needs reals
        if outside:
            cut.choose(out_of, math.inf, 0.0)
        if producer is None:
            cut.choose(into, quantize, 0.0)
            continue
        if not producer.keeps_float:
            cut.separate(into, producer.key, quantize)
            cut.separate(producer.key, out_of, dequantize)
        for c in readers:
            if c.kind == "activation" and len(readers) == 1 and not outside:
                cut.separate(c.key, producer.key, math.inf)
                if not producer.keeps_float:
                    cut.separate(producer.key, c.key, math.inf)
    for c in found:  # an activation runs in int8 as a part of the node before alone
        if c.kind == "activation" and not _merges(graph, c, by_output):
            cut.choose(c.key, math.inf, 0.0)
    chosen = cut.solve()
    return {c.key for c in found if c.key in chosen}


def _merges(graph: Graph, c: Candidate, by_output: Mapping[str, Candidate]) -> bool:
    before = by_output.get(c.inputs[0])
    alone = len(graph.consumers(c.inputs[0])) == 1 and not graph.is_output(c.inputs[0])
    return before is not None and before.kind in (*_COMPUTE, "elementwise") and alone


def _tensors(
    graph: Graph, found: list[Candidate], by_output: Mapping[str, Candidate]
) -> Iterator[tuple[str, Candidate | None, list[Candidate], bool]]:
    """Yield each tensor of candidates: its producer, its readers, and whether others read it."""
    readers: dict[str, list[Candidate]] = {}
    for c in found:
        for name in dict.fromkeys(c.inputs):
            readers.setdefault(name, []).append(c)
    for tensor in dict.fromkeys([*readers, *by_output]):
        inside = readers.get(tensor, [])
        outside = graph.is_output(tensor) or len(graph.consumers(tensor)) > len(inside)
        yield tensor, by_output.get(tensor), inside, outside


def cost_of(c: Candidate, elements: Mapping[str, float]) -> Cost:
    """Return what a candidate costs in each form, for tensors of so many elements."""
    outputs = sum(elements.get(name, 0.0) for name in c.outputs)
    if not c.computes:
        return other_cost(c.node.op_type, outputs)
    assert c.weight is not None
    shape = c.weight.array.shape
    if c.kind == "conv":
        group = c.attributes.get("group", 1)
        inner, filters = math.prod(shape[1:]), shape[0] // group
        depthwise = group > 1 and shape[1] == 1 and filters == 1
        rows = outputs / max(shape[0], 1)
        line = len(shape) == 3
        return compute_cost(outputs * inner, outputs, shape[1], filters, rows, depthwise=depthwise, line=line)
    inner = shape[1 - (c.outputs_axis or 0)] if len(shape) == 2 else shape[-2]
    columns = c.weight.array.size // max(inner, 1)
    return compute_cost(outputs * inner, outputs, inner, columns, outputs / max(columns, 1), depthwise=False)
