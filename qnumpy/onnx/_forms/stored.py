"""Weights that compute in float32 and lie in the file as codes: the runtime expands them once, when it loads the model."""

from typing import Any

import numpy as np

from ..._typing import Array
from .._graph import Graph
from .codes import stored_codes

__all__ = ["LEAST", "store"]

LEAST = 256  # elements from which codes pay


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
    from onnx import TensorProto, helper

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
