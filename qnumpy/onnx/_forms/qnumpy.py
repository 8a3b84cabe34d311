"""Layers as operators of the domain "qnumpy", docs/onnx-operators.md."""

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from ..._typing import Array, Float32Array
from ...arrays.concatenate import concatenate
from ...arrays.quantized import QuantizedArray
from ...ops.hadamard import Hadamard
from .._graph import Graph, attribute, node_name
from .._operators import DOMAIN, VERSION, linear_weight, signs_of
from .standard import Nodes

__all__ = ["LinearLayer", "embedding", "linear", "norms"]


class LinearLayer(NamedTuple):
    """Layers of one input as one node.

    Attributes
    ----------
    stem : str
        Names of what belongs to the weight begin with it.
    weights : list of QuantizedArray
        Of shape (K, N), per channel on axis 1; one for each output, and all of one N.
    bias : ndarray or None
        Of all outputs, one after the other.
    smooth : ndarray or None
        Factors of the activation, (K,).
    rotation : Hadamard or None
    activation : {"", "relu", "gelu"}
    """

    stem: str
    weights: list[QuantizedArray]
    bias: Array | None
    smooth: Array | None
    rotation: Hadamard | None
    activation: str


def linear(nodes: Nodes, x: str, layer: LinearLayer, outputs: list[str]) -> int:
    """Append a node Linear and return the bytes of its codes and scales.

    Parameters
    ----------
    nodes : Nodes
    x : str
        The activation, float32 of shape (..., K).
    layer : LinearLayer
    outputs : list of str
    """
    nodes.graph.require(DOMAIN, VERSION)
    whole = layer.weights[0] if len(layer.weights) == 1 else concatenate(layer.weights, axis=1)
    weight = linear_weight(whole, outputs=len(outputs))
    inputs = [x, nodes.constant(f"{layer.stem}_quantized", weight.w)]
    inputs.append("" if weight.scale is None else nodes.constant(f"{layer.stem}_scale", weight.scale))
    zero = weight.zero_point
    inputs.append("" if zero is None else nodes.constant(f"{layer.stem}_zero_point", zero))
    inputs.append("" if layer.bias is None else nodes.constant(f"{layer.stem}_bias", layer.bias.astype(np.float32)))
    inputs.append("" if layer.smooth is None else nodes.constant(f"{layer.stem}_smooth", layer.smooth))
    attributes = {**weight.attributes, "activation": layer.activation}
    if layer.rotation is not None:
        inputs.append(nodes.constant("qnumpy_signs", signs_of(layer.rotation)))
        attributes["hadamard_block"] = layer.rotation.block
    while not inputs[-1]:
        del inputs[-1]
    name = nodes.graph.name(f"{nodes.stem}_Linear")
    nodes.made.append(helper.make_node("Linear", inputs, outputs, name=name, domain=DOMAIN, **attributes))
    return sum(array.nbytes for array in weight[:3] if array is not None)


def embedding(nodes: Nodes, ids: str, stem: str, codes: Array, scale: Float32Array, output: str) -> None:
    """Append a node Embedding: rows of codes that are looked up, times their scales."""
    nodes.graph.require(DOMAIN, VERSION)
    table = [nodes.constant(f"{stem}_quantized", codes), nodes.constant(f"{stem}_scale", scale)]
    nodes.add("Embedding", [ids, *table], output, domain=DOMAIN)


def norms(graph: Graph) -> int:
    """Replace sums of two activations and the LayerNormalization behind them by SkipLayerNormalization.

    It takes two thirds of the time of both in onnxruntime, docs/onnx-operators.md.

    Parameters
    ----------
    graph : Graph
        The main graph; it changes.

    Returns
    -------
    int
        How many there were.
    """
    count = 0
    for node in list(graph.proto.node):
        total = graph.producer(node.input[0]) if node.op_type == "LayerNormalization" and not node.domain else None
        if total is None or not _norm_of_sum(graph, node, total):
            continue
        constants = [graph.constant(name) for name in node.input[1:] if name]
        outputs = [node.output[0]]
        if graph.is_output(total.output[0]) or len(graph.consumers(total.output[0])) > 1:
            outputs.append(total.output[0])
        gains = [graph.add(constant.name, constant.array) for constant in constants if constant is not None]
        name, epsilon = graph.name(f"{node_name(node)}_skip"), attribute(node, "epsilon", 1e-5)
        made = helper.make_node(
            "SkipLayerNormalization", [*total.input, *gains], outputs, name=name, domain=DOMAIN, epsilon=epsilon
        )
        graph.remove(node)
        graph.replace(total, made)
        count += 1
    if count:
        graph.require(DOMAIN, VERSION)
    return count


def _norm_of_sum(graph: Graph, node: Any, total: Any) -> bool:
    """Whether a LayerNormalization is one of the last axis, of the sum of two activations of one shape."""
    if total.op_type not in ("Add", "Sum") or total.domain or len(total.input) != 2:
        return False
    if any(graph.constant(name) is not None or graph.elem_type(name) != TensorProto.FLOAT for name in total.input):
        return False
    shape = graph.shape(total.input[0])
    if shape is None or not graph.same_shape(*total.input) or attribute(node, "axis", -1) not in (-1, len(shape) - 1):
        return False
    constants = [graph.constant(name) for name in node.input[1:] if name]
    fits = all(c is not None and c.array.dtype == np.float32 and c.array.shape == shape[-1:] for c in constants)
    return fits and bool(constants) and not any(node.output[1:])
