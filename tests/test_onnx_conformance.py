"""The node tests that ONNX itself ships for its operators on quantized tensors and Cast, equal to the last bit."""

import ml_dtypes
import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy.dtypes import FLOAT_TYPES, REAL_TYPES, code_type

onnx = pytest.importorskip("onnx")
from onnx_cases import CASES, OPERATORS, array, before_1_23, node_tests, type_name  # noqa: E402

CASTS = node_tests("Cast")
PRODUCTS = {
    "MatMulInteger": qn.matmul_integer,
    "QLinearMatMul": qn.qlinear_matmul,
    "ConvInteger": qn.conv2d_integer,
    "QLinearConv": qn.qlinear_conv2d,
}


def foreign_types(case):
    """Names of the types in a case that qnumpy does not have."""
    names = {type_name(tensor) for inputs, outputs in case.data_sets for tensor in [*inputs, *outputs]}
    return {name for name in names if name != "int32" and code_type(name) is None and name not in REAL_TYPES}


def output_type(attributes, parameter):
    """Of QuantizeLinear: `output_dtype`, else that of the zero point, else uint8."""
    if number := attributes.get("output_dtype"):
        return onnx.helper.tensor_dtype_to_np_dtype(number)
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
    if name.startswith("test_qlinearmatmul") and "_int8_" in name and before_1_23():
        pytest.skip("the expected codes wrapped instead of saturating")
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        inputs, outputs = [array(t) for t in inputs], [array(t) for t in outputs]
        got = run(operator.op_type, attributes, inputs, outputs)
        for g, want in zip(got, outputs, strict=True):
            if want.dtype == ml_dtypes.float4_e2m1fn:  # written out as numbers, where a zero has no sign
                g, want = (codes.astype(np.float32) + np.float32(0) for codes in (np.asarray(g), want))
            assert_same_bits(np.asarray(g), want, name)


def test_every_node_test_is_run(capsys):
    left_out = {name: foreign for name, case in CASES.items() if (foreign := foreign_types(case))}
    with capsys.disabled():
        ran = f"{len(CASES) - len(left_out)} of {len(CASES)} node tests of {', '.join(OPERATORS)} run"
        print(f"\nONNX {onnx.__version__}: {ran}; left out: {left_out or 'none'}")
    assert left_out == {}
    assert {case.model.graph.node[0].op_type for case in CASES.values()} == set(OPERATORS)
    assert len(CASES) >= 30 + 4 * hasattr(onnx.TensorProto, "INT2")  # four of the cases came with the type


# ---- Cast ----


def cast_types(case):
    """The names of the two types."""
    (inputs, outputs) = case.data_sets[0]
    return [type_name(tensor) for tensor in (inputs[0], outputs[0])]


def attributes_of(case):
    return {a.name: onnx.helper.get_attribute_value(a) for a in case.model.graph.node[0].attribute}


def cast_is_ours(case):
    """Both types are float formats; to float8_e8m0fnu ONNX rounds up, which is not offered."""
    return set(cast_types(case)) <= set(FLOAT_TYPES) and "round_mode" not in attributes_of(case)


@pytest.mark.parametrize("name", [name for name, case in CASTS.items() if cast_is_ours(case)])
def test_cast(name):
    """`saturate` is ONNX's for float8 alone."""
    case = CASTS[name]
    to = cast_types(case)[1]
    saturate = attributes_of(case).get("saturate", 1) and to.startswith("float8")
    for inputs, outputs in case.data_sets:
        x, want = (onnx.numpy_helper.to_array(tensor) for tensor in (inputs[0], outputs[0]))
        assert_same_bits(qn.cast(x, to, overflow="saturate" if saturate else "inf"), want, name)


def test_which_casts_are_run(capsys):
    ours = {name: cast_types(case) for name, case in CASTS.items() if cast_is_ours(case)}
    with capsys.disabled():
        left_out = ", ".join(name for name in CASTS if name not in ours)
        print(f"\nONNX {onnx.__version__}: {len(ours)} of {len(CASTS)} node tests of Cast run; left out: {left_out}")
    assert {name for pair in ours.values() for name in pair} >= {
        "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn"
    }  # fmt: skip
    assert sum("no_saturate" in name for name in ours) == 8
    for name, case in CASTS.items():
        if name not in ours:
            integers = any(kind.startswith(("int", "uint", "str", "bool", "object")) for kind in cast_types(case))
            assert integers or "round_mode" in attributes_of(case), name
