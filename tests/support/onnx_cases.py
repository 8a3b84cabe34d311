"""The node tests that ONNX ships for its operators on quantized tensors."""

from importlib import import_module
from typing import Any

import numpy as np
import onnx

from qnumpy.dtypes import code_type

node = import_module("onnx.backend.test.case.node")

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
OPERATORS = (*QUANTIZERS, "MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv")


def node_tests(*operators: str) -> dict[str, Any]:
    """Cases of one node of ours. Each module adds its cases to the list when it is imported."""
    with np.errstate(all="ignore"):  # their modules compute what they expect
        for operator in operators:
            import_module(f"{node.__name__}.{operator.lower()}")
    graphs = ((case, case.model.graph.node) for case in node._NodeTestCases)
    return {case.name: case for case, nodes in graphs if len(nodes) == 1 and nodes[0].op_type in operators}


CASES = node_tests(*OPERATORS)


def type_name(tensor: Any) -> str:
    """As NumPy and ml_dtypes have it."""
    if isinstance(tensor, onnx.TensorProto):
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    return np.asarray(tensor).dtype.name


def array(tensor: Any) -> np.ndarray[Any, Any]:
    """A NumPy array; 4- and 2-bit codes fill their bytes with the sign, as qnumpy's results do."""
    code = code_type(type_name(tensor))
    values = onnx.numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else np.asarray(tensor)
    return (
        values
        if code is None or code.real is not None
        else values.astype(np.int64).astype(code.storage).view(code.dtype)
    )


def before_1_23() -> bool:
    return tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23)
