"""Weights that compute in float32 and are stored as codes: the runtime expands them once, when it loads the model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, helper

from ..._typing import Array
from .._graph import Graph
from .._layers import RECURRENT, Layer, layers
from .._report import Change
from .codes import stored_codes

__all__ = ["LEAST", "FloatWeights", "store", "store_weights"]

FloatWeights = Literal["int16", "int8", "float32"]

LEAST = 256  # elements: codes and the nodes that expand them take more than a smaller weight


def store_weights(
    model: ModelProto, dtype: FloatWeights, stays: Callable[[Any], bool], reasons: Mapping[str, str]
) -> list[Change]:
    """Store the weights of the layers of a model that read float32, and return what became of each layer.

    Parameters
    ----------
    model : ModelProto
        It changes. Branches of an If that read one weight share its codes.
    dtype : {"int16", "int8", "float32"}
    stays : callable
        Whether a node keeps its weights as they are.
    reasons : mapping of str to str
        Why a layer computes in float32, by its first output.

    Returns
    -------
    list of Change
    """
    changes: list[Change] = []
    stored: dict[tuple[int, str], tuple[str, int]] = {}
    graph = Graph.of(model)
    for layer in layers(graph):
        slots = _slots(layer)
        if layer.weight is None or not slots:
            continue
        reason = reasons.get(layer.node.output[0], "onnxruntime has no int8 form of this layer that is faster")
        before, after, kind = 0, 0, "float32"
        for slot, w in slots.items():
            name = layer.node.input[slot]
            before += w.nbytes
            of = "int8" if layer.op_type == "Gather" and dtype == "int16" else dtype  # a look-up adds up no errors
            fits = w.size >= LEAST and w.dtype == np.float32 and np.isfinite(w).all()
            if dtype == "float32" or not fits or stays(layer.node):
                after += w.nbytes
                continue
            owner = layer.graph.scope_of(name)
            key = (id(owner.proto), name)
            if key not in stored:
                stored[key] = store(owner, owner.proto.node[0], name, w, of)
            layer.node.input[slot], size = stored[key]
            after, kind = after + size, of
        why = f"{reason}; the weight is stored as {kind} and computes in float32" if kind != "float32" else reason
        changes.append(Change(layer.name, layer.op_type, "float", kind, why, before, after, None))
    Graph.of(model).remove_unused()
    return changes


def _slots(layer: Layer) -> dict[int, Array]:
    """Return the inputs of a layer that are constant weights."""
    places = {"Gather": (0,), "MatMul": (0, 1), **dict.fromkeys(RECURRENT, (1, 2))}.get(layer.op_type, (1,))
    found = {i: layer.graph.constant(layer.node.input[i]) for i in places if i < len(layer.node.input)}
    return {i: constant.array for i, constant in found.items() if constant is not None and constant.array.ndim}


def store(scope: Graph, node: Any, name: str, w: Array, dtype: str) -> tuple[str, int]:
    """Insert codes of a weight and what expands them before a node; return the name of the reals, and the bytes.

    Parameters
    ----------
    scope : Graph
    node : NodeProto
    name : str
        Of the weight.
    w : ndarray of float32
    dtype : {"int8", "int16"}

    Notes
    -----
    Cast and Mul, because onnxruntime computes them at load; it keeps DequantizeLinear and runs it each time.
    """
    codes, scale = stored_codes(w, dtype)
    cast, product, expanded = (scope.name(f"{name}_{end}") for end in ("cast", "scaled", "expanded"))
    shape = scope.add(f"{name}_shape", np.array(w.shape, np.int64))
    scope.insert_before(
        node,
        helper.make_node("Cast", [scope.add(f"{name}_quantized", codes)], [cast], name=cast, to=TensorProto.FLOAT),
        helper.make_node("Mul", [cast, scope.add(f"{name}_scale", scale)], [product], name=product),
        helper.make_node("Reshape", [product, shape], [expanded], name=expanded),
    )
    return expanded, codes.nbytes + scale.nbytes
