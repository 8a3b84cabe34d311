"""Rewrites after which onnxruntime computes float parts faster; the results keep every bit of normal numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from ._graph import Graph, attribute

__all__ = ["Activation", "Norm", "activation_behind", "apply", "norm_behind", "rewrite"]


def apply(graph: Graph, rewrites: Sequence[Callable[[Graph, Any], str | None]]) -> dict[str, int]:
    """Apply rewrites to each node of a graph and of those inside it; return how often each was done, by its name."""
    counts: dict[str, int] = {}
    for scope in graph.walk():
        for one in rewrites:
            for node in list(scope.proto.node):
                if node.output and scope.producer(node.output[0]) is not node:  # an earlier rewrite removed it
                    continue
                done = one(scope, node)
                if done:
                    counts[done] = counts.get(done, 0) + 1
    return counts


def rewrite(graph: Graph) -> dict[str, int]:
    """Rewrite a graph and those inside it; return how often each rewrite was done.

    Parameters
    ----------
    graph : Graph
        It changes.

    Returns
    -------
    dict of str to int
    """
    return apply(graph, (_softmax, _sum_before_norm, _gelu))


def _softmax(graph: Graph, node: Any) -> str | None:
    """Replace Flatten, Softmax and Reshape by Softmax where only the last axis is flattened away from the others.

    onnx's converter of versions writes the three for each Softmax of an operator set before 13.
    """
    if node.op_type not in ("Softmax", "LogSoftmax") or node.domain or attribute(node, "axis", -1) != -1:
        return None
    flat, back = graph.producer(node.input[0]), _only_user(graph, node.output[0], "Reshape")
    if flat is None or flat.op_type != "Flatten" or back is None or back.input[0] != node.output[0]:
        return None
    x, of = flat.input[0], graph.producer(back.input[1])
    shape = graph.shape(x)
    if of is None or of.op_type != "Shape" or of.attribute or of.input[0] != x or shape is None:
        return None
    if attribute(flat, "axis", 1) not in (len(shape) - 1, -1):
        return None
    graph.replace(back, helper.make_node(node.op_type, [x], list(back.output), name=node.name, axis=-1))
    graph.remove(node)
    for made in (flat, of):
        if not graph.consumers(made.output[0]) and not graph.is_output(made.output[0]):
            graph.remove(made)
    return f"{node.op_type} without Flatten and Reshape"


def _sum_before_norm(graph: Graph, node: Any) -> str | None:
    """Replace the Add before a LayerNormalization by Sum: onnxruntime merges Add and the norm into a slower kernel.

    SkipLayerNormalization of onnxruntime 1.30 to 1.32 takes several times as long as the two operators.
    """
    if node.op_type != "Add" or node.domain or not _normalized(graph, node.output[0]):
        return None
    if any(graph.constant(name) is not None for name in node.input):  # a bias
        return None
    graph.replace(node, helper.make_node("Sum", list(node.input), list(node.output), name=node.name))
    return "Sum in place of Add before a LayerNormalization"


def _normalized(graph: Graph, tensor: str) -> bool:
    """Whether a LayerNormalization reads a tensor, also one that is written as mean, difference and so on."""
    users = graph.consumers(tensor)
    if any(user.op_type == "LayerNormalization" and user.input[0] == tensor for user in users):
        return True
    means = {user.output[0] for user in users if user.op_type == "ReduceMean"}
    return any(user.op_type == "Sub" and user.input[0] == tensor and user.input[1] in means for user in users)


def _gelu(graph: Graph, node: Any) -> str | None:
    """Order the factors of ``0.5 (1 + erf(x / sqrt(2))) x`` as onnxruntime knows them: the half comes last."""
    if node.op_type != "Erf" or node.domain:
        return None
    inner = graph.producer(node.input[0])
    x = None if inner is None else _scaled(graph, inner, math.sqrt(0.5))
    plus = _only_user(graph, node.output[0], "Add")
    if x is None or plus is None or _other(graph, plus, node.output[0], 1.0) is None:
        return None
    halved = _only_user(graph, plus.output[0], "Mul")
    half = None if halved is None else _other(graph, halved, plus.output[0], 0.5)
    last = None if halved is None or half is None else _only_user(graph, halved.output[0], "Mul")
    if halved is None or half is None or last is None or sorted(last.input) != sorted([halved.output[0], x]):
        return None
    product = graph.name(f"{last.output[0]}_product")
    graph.replace(
        last,
        helper.make_node("Mul", [x, plus.output[0]], [product], name=product),
        helper.make_node("Mul", [product, half], list(last.output), name=last.name),
    )
    graph.replace(halved)
    return "GELU in the order that onnxruntime merges"


def _only_user(graph: Graph, tensor: str, op_type: str) -> Any:
    """Return the node of a type that alone reads a tensor; None where there is another reader."""
    users = graph.consumers(tensor)
    if len(users) != 1 or graph.is_output(tensor) or users[0].op_type != op_type or users[0].domain:
        return None
    # a reader inside a subgraph has its output there
    return users[0] if graph.producer(users[0].output[0]) is not None else None


def _other(graph: Graph, node: Any, tensor: str, value: float) -> str | None:
    """Return the other input of a node if it is a number."""
    name = node.input[1] if node.input[0] == tensor else node.input[0]
    return name if _is_number(graph, name, value) else None


def _is_number(graph: Graph, name: str, value: float) -> bool:
    constant = graph.constant(name)
    if constant is None or constant.array.size != 1 or constant.array.dtype != np.float32 or constant.array.ndim > 1:
        return False
    return math.isclose(float(constant.array.reshape(())), value, rel_tol=1e-5)


def _scaled(graph: Graph, node: Any, factor: float) -> str | None:
    """Return x where a node computes x times a factor."""
    if node.op_type == "Div" and _is_number(graph, node.input[1], 1 / factor):
        return str(node.input[0])
    if node.op_type == "Mul":
        for i in (0, 1):
            if _is_number(graph, node.input[i], factor):
                return str(node.input[1 - i])
    return None


class Activation(NamedTuple):
    """An activation function behind a tensor: its kind, its nodes from the last to the first, and its output."""

    kind: str
    nodes: list[Any]
    output: str


def activation_behind(graph: Graph, tensor: str) -> Activation | None:
    """Return the ReLU or the GELU that alone reads a tensor; a GELU also as `rewrite` leaves it, in five operators."""
    users = graph.consumers(tensor)
    if graph.is_output(tensor) or not users or any(graph.producer(user.output[0]) is None for user in users):
        return None
    if len(users) == 1:
        node = users[0]
        exact = not node.attribute or node.attribute[0].s == b"none"
        kind = {"Relu": "relu", "Gelu": "gelu" if exact else ""}.get(node.op_type, "")
        return Activation(kind, [node], node.output[0]) if kind and not node.domain else None
    inner = next((node for node in users if _scaled(graph, node, math.sqrt(0.5)) == tensor), None)
    erf = None if inner is None else _only_user(graph, inner.output[0], "Erf")
    plus = None if erf is None else _only_user(graph, erf.output[0], "Add")
    if inner is None or erf is None or plus is None or _other(graph, plus, erf.output[0], 1.0) is None:
        return None
    product = _only_user(graph, plus.output[0], "Mul")
    last = None if product is None else _only_user(graph, product.output[0], "Mul")
    if last is None or len(users) != 2 or sorted(product.input) != sorted([tensor, plus.output[0]]):
        return None
    if _other(graph, last, product.output[0], 0.5) is None:
        return None
    return Activation("gelu", [last, product, plus, erf, inner], last.output[0])


class Norm(NamedTuple):
    """A LayerNormalization of the last axis: its nodes, the last one first, names of its constants, its output."""

    nodes: list[Any]
    gain: str
    bias: str | None
    epsilon: float
    output: str


def norm_behind(graph: Graph, tensor: str) -> Norm | None:
    """Return the LayerNormalization that reads a tensor, also one in nine operators, as before operator set 17.

    Nothing else reads what is between these.
    """
    shape, users = graph.shape(tensor), graph.consumers(tensor)
    if shape is None or any(graph.producer(user.output[0]) is None for user in users):
        return None
    last = (-1, len(shape) - 1)
    for node in users:
        if node.op_type != "LayerNormalization" or node.domain or node.input[0] != tensor:
            continue
        if attribute(node, "axis", -1) not in last or any(node.output[1:]):
            return None
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        return Norm([node], node.input[1], bias, float(attribute(node, "epsilon", 1e-5)), node.output[0])
    mean = next((user for user in users if _is_mean(graph, user, last)), None)
    difference = None if mean is None else _only_user(graph, mean.output[0], "Sub")
    if mean is None or difference is None or list(difference.input) != [tensor, mean.output[0]]:
        return None
    d = difference.output[0]
    square = next((user for user in graph.consumers(d) if _squares(graph, user, d)), None)
    steps = [mean, difference, square]
    for op_type in ("ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"):
        step = None if steps[-1] is None else _only_user(graph, steps[-1].output[0], op_type)
        if step is None:
            return None
        steps.append(step)
    _, _, square, variance, plus, root, quotient, scaled, shifted = steps
    if not _is_mean(graph, variance, last) or list(quotient.input) != [d, root.output[0]]:
        return None
    if len(graph.consumers(d)) != 2 or graph.is_output(d):
        return None
    epsilon, gain, bias = (
        node.input[1 - list(node.input).index(before.output[0])]
        for node, before in ((plus, variance), (scaled, quotient), (shifted, scaled))
    )
    number = graph.constant(epsilon)
    if number is None or number.array.size != 1:
        return None
    return Norm(steps[::-1], gain, bias, float(number.array.reshape(())), shifted.output[0])


def _is_mean(graph: Graph, node: Any, last: tuple[int, int]) -> bool:
    """Whether a node is the mean over the last axis, which it keeps."""
    if node.op_type != "ReduceMean" or node.domain or not attribute(node, "keepdims", 1):
        return False
    axes = attribute(node, "axes")
    if len(node.input) > 1:
        constant = graph.constant(node.input[1])
        axes = None if constant is None else constant.array.tolist()
    return axes is not None and len(axes) == 1 and axes[0] in last


def _squares(graph: Graph, node: Any, x: str) -> bool:
    if node.op_type == "Mul":
        return list(node.input) == [x, x]
    return node.op_type == "Pow" and node.input[0] == x and _is_number(graph, node.input[1], 2.0)
