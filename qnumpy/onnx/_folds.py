"""Rewrites that hold exactly in real numbers, before a model is quantized: fewer passes over memory, one range less.

Normalization, scales and shifts go into the weights of the layer before; hard sigmoids written in four operators become
one.
"""

import math
from typing import Any

import numpy as np
from onnx import helper

from .._typing import Array
from ._graph import Graph, node_name
from ._rewrites import apply

__all__ = ["attributes_of", "clip_bounds", "fold"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def fold(graph: Graph) -> dict[str, int]:
    """Rewrite a graph and those inside it; return how often each rewrite was done.

    Parameters
    ----------
    graph : Graph
        It changes.

    Returns
    -------
    dict of str to int
    """
    counts = apply(graph, (_fold_hard_sigmoid, _fold_affine))
    graph.remove_unused()
    return counts


def _fold_affine(graph: Graph, node: Any) -> str | None:
    """Fold a normalization, a factor or a summand of each channel into the layer whose output it takes alone."""
    if node.op_type not in ("BatchNormalization", "Mul", "Add", "Sub", "Div") or node.domain:
        return None
    position = next((i for i, name in enumerate(node.input[:2]) if _layer(graph, name) is not None), None)
    if position is None or (position == 1 and node.op_type not in ("Mul", "Add")):
        return None
    tensor = node.input[position]
    layer = _layer(graph, tensor)
    if len(graph.consumers(tensor)) != 1 or graph.is_output(tensor) or len(node.output) != 1:
        return None
    w = graph.constant(layer.input[1])
    has_bias = len(layer.input) > 2 and layer.input[2] != ""
    old = graph.constant(layer.input[2]) if has_bias else None
    if w is None or (has_bias and old is None) or w.array.dtype != np.float32:
        return None
    attributes = attributes_of(layer)
    channels, axis = _channels(layer.op_type, w.array, attributes)
    affine = _affine(graph, node, position, channels, w.array.ndim)
    if affine is None:
        return None
    factor, shift = affine
    if layer.op_type == "Gemm":
        if attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            return None
        if old is not None and old.array.size not in (1, channels):
            return None
    bias = np.zeros(channels) if old is None else np.broadcast_to(old.array.reshape(-1).astype(np.float64), (channels,))
    with np.errstate(over="ignore", invalid="ignore"):
        new_w = _scaled(w.array, factor, axis, attributes.get("group", 1), layer.op_type)
        new_bias = (bias * factor + shift).astype(np.float32)
    if not (np.isfinite(new_w).all() and np.isfinite(new_bias).all()):
        return None
    inputs = [*layer.input[:1], layer.input[1] if (factor == 1).all() else graph.add(w.name, new_w)]
    inputs.append(graph.add(old.name if old is not None else f"{node_name(layer)}_bias", new_bias))
    merged = type(layer)()
    merged.CopyFrom(layer)
    del merged.input[:]
    merged.input.extend(inputs)
    merged.output[0] = node.output[0]
    # the place of the later node keeps the order of the graph: the layer's inputs stand before both
    graph.replace(node, merged)
    graph.replace(layer)
    return "BatchNormalization folded into a layer" if node.op_type == "BatchNormalization" else "scale or shift folded"


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _layer(graph: Graph, tensor: str) -> Any:
    producer = graph.producer(tensor) if tensor else None
    return producer if producer is not None and producer.op_type in _WEIGHTED and not producer.domain else None


def _channels(op_type: str, w: Array, attributes: dict[str, Any]) -> tuple[int, int]:
    """Return how many channels a layer's output has, and the axis of its weight that holds them."""
    if op_type == "ConvTranspose":
        return w.shape[1] * attributes.get("group", 1), 1
    axis = 0 if op_type == "Conv" or attributes.get("transB", 0) else 1
    return w.shape[axis], axis


def _scaled(w: Array, factor: Array, axis: int, group: int, op_type: str) -> Array:
    if op_type == "ConvTranspose":
        grouped = w.reshape(group, w.shape[0] // group, *w.shape[1:]).astype(np.float64)
        by = factor.reshape(group, 1, w.shape[1], *[1] * (w.ndim - 2))
        return (grouped * by).reshape(w.shape).astype(np.float32)
    by = factor.reshape([-1 if d == axis else 1 for d in range(w.ndim)])
    return (w.astype(np.float64) * by).astype(np.float32)


def _affine(graph: Graph, node: Any, position: int, channels: int, ndim: int) -> tuple[Array, Array] | None:
    """Return the factor and the summand, float64 for each channel, that a node applies; None for any other node."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "BatchNormalization":
        values = [graph.constant(name) for name in node.input[1:5]]
        if any(value is None or value.array.shape != (channels,) for value in values):
            return None
        attributes = attributes_of(node)
        if attributes.get("training_mode", 0):
            return None
        scale, shift, mean, variance = (value.array.astype(np.float64) for value in values if value is not None)
        spread = np.sqrt(variance + attributes.get("epsilon", 1e-5))
        if not (spread > 0).all():
            return None
        return scale / spread, shift - mean * scale / spread
    constant = graph.constant(node.input[1 - position])
    if constant is None or constant.array.dtype != np.float32:
        return None
    value = _by_channel(constant.array.astype(np.float64), channels, ndim)
    if value is None:
        return None
    match node.op_type:
        case "Mul":
            return value, zero
        case "Div":
            return (1 / value, zero) if (value != 0).all() else None
        case "Add":
            return one, value
        case "Sub":
            return one, -value
    return None


def _by_channel(value: Array, channels: int, ndim: int) -> Array | None:
    """Return one number for each channel of an output (batch, channels, ...); None where it varies in another way."""
    if value.ndim > ndim:
        return None
    shape = (1,) * (ndim - value.ndim) + value.shape
    if any(n != 1 for d, n in enumerate(shape) if d != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(value.reshape(-1), (channels,)).copy()


def _fold_hard_sigmoid(graph: Graph, node: Any) -> str | None:
    """Replace ``clip(x + 3, 0, 6) / 6`` by HardSigmoid, also where the division comes after a product with x."""
    if node.op_type != "Clip" or node.domain:
        return None
    bounds = clip_bounds(graph, node)
    before = graph.producer(node.input[0])
    if bounds is None or bounds[0] != 0 or bounds[1] is None or bounds[1] <= 0 or before is None:
        return None
    if before.op_type != "Add" or len(graph.consumers(before.output[0])) != 1 or graph.is_output(before.output[0]):
        return None
    offset, x = _scalar_and_other(graph, before)
    if offset is None or graph.is_output(node.output[0]):
        return None
    top = bounds[1]
    users = graph.consumers(node.output[0])
    if len(users) != 1:
        return None
    last = users[0]
    factor = _factor(graph, last, node.output[0])
    scaled: Any = None
    if factor is not None:  # the division stands on the clip
        scaled = last
    elif last.op_type == "Mul" and not graph.is_output(last.output[0]):  # on the product
        after = graph.consumers(last.output[0])
        factor = _factor(graph, after[0], last.output[0]) if len(after) == 1 else None
        scaled = after[0] if factor is not None else None
    else:
        return None
    if factor is None or not math.isclose(factor * top, 1.0, rel_tol=1e-6):
        return None
    output, name = (graph.name(f"{stem}_hard_sigmoid") for stem in (node.output[0], node_name(node)))
    sigmoid = helper.make_node(
        "HardSigmoid", [x], [output], name=name,
        alpha=1 / top, beta=offset / top,
    )  # fmt: skip
    if scaled is last:
        sigmoid.output[0] = last.output[0]
        graph.replace(last, sigmoid)
    else:
        product = type(last)()
        product.CopyFrom(last)
        product.input[list(last.input).index(node.output[0])] = sigmoid.output[0]
        product.output[0] = scaled.output[0]
        graph.replace(scaled, sigmoid, product)
        graph.replace(last)
    graph.replace(node)
    graph.replace(before)
    return "HardSigmoid in place of Add, Clip and Div"


def clip_bounds(graph: Graph, node: Any) -> tuple[float | None, float | None] | None:
    """Return the bounds of a Clip, None where it has none; None for bounds that are computed."""
    attributes = attributes_of(node)
    ends: list[float | None] = [attributes.get("min"), attributes.get("max")]
    for i, name in enumerate(node.input[1:3]):
        if name:
            constant = graph.constant(name)
            if constant is None or constant.array.size != 1:
                return None
            ends[i] = float(constant.array.reshape(-1)[0])
    return ends[0], ends[1]


def _scalar_and_other(graph: Graph, node: Any) -> tuple[float | None, str]:
    """Return the constant number that a node of two inputs takes, and its other input."""
    for i in (1, 0):
        constant = graph.constant(node.input[i])
        if constant is not None and constant.array.size == 1 and constant.array.dtype == np.float32:
            return float(constant.array.reshape(-1)[0]), node.input[1 - i]
    return None, ""


def _factor(graph: Graph, node: Any, tensor: str) -> float | None:
    """Return the number that a node multiplies a tensor by; None for any other node."""
    if node.op_type not in ("Mul", "Div") or node.domain:
        return None
    if node.op_type == "Div" and node.input[0] != tensor:
        return None
    number, other = _scalar_and_other(graph, node)
    if number is None or other != tensor or number == 0:
        return None
    return 1 / number if node.op_type == "Div" else number
