"""Layers as operators of the domain "qnumpy", docs/onnx-operators.md."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from ..._typing import Array, Float32Array
from ...arrays.concatenate import concatenate
from ...arrays.quantized import QuantizedArray
from ...ops.hadamard import Hadamard
from .._graph import Graph
from .._operators import DOMAIN, VERSION, linear_weight, signs_of
from .._rewrites import norm_behind
from .standard import Nodes

__all__ = ["LinearLayer", "conv", "embedding", "linear", "norms"]


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
    attributes : mapping, optional
        How x is quantized, where it is not to uint8 by row: symmetric, activation_bits, x_granularity.
    scale_dtype : {"float32", "float16"}
        In which the scales of groups are stored.
    """

    stem: str
    weights: list[QuantizedArray]
    bias: Array | None
    smooth: Array | None
    rotation: Hadamard | None
    activation: str
    attributes: Mapping[str, Any] = MappingProxyType({})
    scale_dtype: str = "float32"


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
    weight = linear_weight(whole, outputs=len(outputs), scale_dtype=layer.scale_dtype)
    inputs = [x, nodes.constant(f"{layer.stem}_quantized", weight.w)]
    inputs.append("" if weight.scale is None else nodes.constant(f"{layer.stem}_scale", weight.scale))
    zero = weight.zero_point
    inputs.append("" if zero is None else nodes.constant(f"{layer.stem}_zero_point", zero))
    inputs.append("" if layer.bias is None else nodes.constant(f"{layer.stem}_bias", layer.bias.astype(np.float32)))
    inputs.append("" if layer.smooth is None else nodes.constant(f"{layer.stem}_smooth", layer.smooth))
    attributes = {**weight.attributes, **layer.attributes, "activation": layer.activation}
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


def conv(
    nodes: Nodes,
    x: str,
    stem: str,
    filters: tuple[Array, Float32Array, Array | None],
    output: str,
    **attributes: Any,
) -> None:
    """Append a node Conv: images that are quantized as they come, times codes of int8 with scales and a bias."""
    nodes.graph.require(DOMAIN, VERSION)
    parts = zip(("quantized", "scale", "bias"), filters, strict=True)
    constants = [nodes.constant(f"{stem}_{part}", array) for part, array in parts if array is not None]
    nodes.add("Conv", [x, *constants], output, domain=DOMAIN, **attributes)


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
    for total in list(graph.proto.node):
        norm = norm_behind(graph, total.output[0]) if _sums(graph, total) else None
        if norm is None:
            continue
        x, residual = total.input
        constants = [graph.constant(name) for name in (norm.gain, norm.bias) if name is not None]
        width = (graph.shape(x) or ())[-1:]
        arrays = [
            c.array for c in constants if c is not None and c.array.dtype == np.float32 and c.array.shape == width
        ]
        if len(arrays) != len(constants):
            continue
        gains = [graph.add(c.name, c.array) for c in constants if c is not None]
        outputs = [norm.output]
        others = [node for node in graph.consumers(total.output[0]) if not any(node is own for own in norm.nodes)]
        if others or graph.is_output(total.output[0]):
            outputs.append(total.output[0])
        for node in norm.nodes:
            graph.remove(node)
        made = helper.make_node(
            "SkipLayerNormalization", [x, residual, *gains], outputs, name=graph.name(f"{norm.output}_skip"),
            domain=DOMAIN, epsilon=norm.epsilon,
        )  # fmt: skip
        graph.replace(total, made)
        count += 1
    if count:
        graph.require(DOMAIN, VERSION)
    return count


def _sums(graph: Graph, node: Any) -> bool:
    """Whether a node adds two activations of one shape."""
    if node.op_type not in ("Add", "Sum") or node.domain or len(node.input) != 2:
        return False
    if any(graph.constant(name) is not None or graph.elem_type(name) != TensorProto.FLOAT for name in node.input):
        return False
    return graph.same_shape(*node.input)
