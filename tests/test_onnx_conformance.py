"""The node tests that ONNX itself ships for its operators on quantized tensors, equal to the last bit."""

from importlib import import_module

import ml_dtypes  # noqa: F401 - teaches np.dtype the names of the narrow types
import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy.dtypes import code_type, float_type

onnx = pytest.importorskip("onnx")
node = import_module("onnx.backend.test.case.node")

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
OPERATORS = (*QUANTIZERS, "MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv")


def node_tests():
    """Cases of one node of ours. Each module adds its cases to the list when it is imported."""
    for operator in OPERATORS:
        import_module(f"{node.__name__}.{operator.lower()}")
    graphs = ((case, case.model.graph.node) for case in node._NodeTestCases)
    return {case.name: case for case, nodes in graphs if len(nodes) == 1 and nodes[0].op_type in OPERATORS}


CASES = node_tests()
PRODUCTS = {
    "MatMulInteger": qn.matmul_integer,
    "QLinearMatMul": qn.qlinear_matmul,
    "ConvInteger": qn.conv2d_integer,
    "QLinearConv": qn.qlinear_conv2d,
}


def type_name(tensor):
    if isinstance(tensor, onnx.TensorProto):
        return onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return np.asarray(tensor).dtype.name


def foreign_types(case):
    """Names of the types in a case that qnumpy does not have."""
    names = {type_name(tensor) for inputs, outputs in case.data_sets for tensor in [*inputs, *outputs]}
    return {name for name in names if name != "int32" and code_type(name) is None and float_type(name) is None}


def array(tensor):
    """A NumPy array; 4- and 2-bit codes fill their bytes with the sign, as qnumpy's results do."""
    code = code_type(type_name(tensor))
    values = onnx.numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else np.asarray(tensor)
    return values if code is None else values.astype(np.int64).astype(code.storage).view(code.dtype)


def output_type(attributes, parameter):
    """Of QuantizeLinear: `output_dtype`, else that of the zero point, else uint8."""
    if number := attributes.get("output_dtype"):
        return onnx.TensorProto.DataType.Name(number).lower()
    return np.uint8 if parameter is None else parameter.dtype


def run(operator, attributes, inputs, outputs):
    if operator == "DynamicQuantizeLinear":
        return qn.dynamic_quantize_linear(*inputs)
    if operator in PRODUCTS:
        names = {"strides": "strides", "pads": "padding", "dilations": "dilations", "group": "groups"}
        return (PRODUCTS[operator](*inputs, **{names[k]: v for k, v in attributes.items() if k in names}),)
    x, scale, zero_point = [*inputs, None][:3]
    where = {"axis": attributes.get("axis", 1), "block_size": attributes.get("block_size") or None}
    if scale.ndim == 0:
        where = {}  # per tensor: the operator does not look at its axis
    if operator == "QuantizeLinear":
        return (qn.quantize_linear(x, scale, zero_point, dtype=output_type(attributes, zero_point), **where),)
    return (qn.dequantize_linear(x, scale, zero_point, dtype=outputs[0].dtype, **where),)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not foreign_types(case)])
def test_node(name):
    case = CASES[name]
    operator = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        inputs, outputs = [array(t) for t in inputs], [array(t) for t in outputs]
        got = run(operator.op_type, attributes, inputs, outputs)
        for g, want in zip(got, outputs, strict=True):
            assert_same_bits(np.asarray(g), want, name)


def test_what_is_run_and_what_is_left_out(capsys):
    left_out = {name: foreign for name, case in CASES.items() if (foreign := foreign_types(case))}
    run = len(CASES) - len(left_out)
    with capsys.disabled():
        print(f"\nONNX {onnx.__version__}: {run} node tests of {', '.join(OPERATORS)} run, {len(left_out)} left out:")
        for name, foreign in left_out.items():
            print(f"    {name}: {', '.join(sorted(foreign))}")
    two_bit = hasattr(onnx.TensorProto, "INT2")  # four of the cases came with the type
    assert run >= 30 + 4 * two_bit
    for name, foreign in left_out.items():
        assert all(kind.startswith(("float8", "float4")) for kind in foreign), name
    assert {CASES[name].model.graph.node[0].op_type for name in set(CASES) - set(left_out)} == set(OPERATORS)
