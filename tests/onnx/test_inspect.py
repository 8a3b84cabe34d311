"""What inspect says of the models of the zoo."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_zoo import MODELS, cnn, mlp, shared, transformer

import qnumpy as qn
from qnumpy.onnx import inspect


def by_name(table):
    return {operator.name: operator for operator in table}


def test_multiplications_and_bytes():
    table = inspect(cnn(), shapes={"image": (2, 3, 16, 16)})
    macs = {operator.name: operator.macs for operator in table}
    assert macs == {
        "Conv_stem": 2 * 16 * 8 * 8 * 3 * 9,
        "Conv_expand": 2 * 32 * 8 * 8 * 16,
        "Conv_depthwise": 2 * 32 * 8 * 8 * 9,
        "Conv_project": 2 * 16 * 8 * 8 * 32,
        "ConvTranspose_up": 2 * 16 * 8 * 8 * 8 * 4,
        "Conv_skip": 2 * 8 * 16 * 16 * 3 * 9,
        "Gemm_logits": 2 * 16 * 10,
    }
    assert table.facts["macs"] == sum(macs.values())
    assert sum(operator.macs_share for operator in table) == pytest.approx(1)
    stem = by_name(table)["Conv_stem"]
    assert (stem.nbytes, stem.shape, stem.dtype) == (16 * 3 * 9 * 4, (16, 3, 3, 3), "float32")
    weight = next(numpy_helper.to_array(t) for t in cnn().graph.initializer if t.name == "stem.weight")
    assert (stem.low, stem.high) == (float(weight.min()), float(weight.max()))
    assert stem.recommendation == "static int8"
    assert not table.is_quantized
    assert table.facts["state"] == "not quantized: float32"


def test_open_lengths_are_said():
    text = str(inspect(transformer()))
    assert "warning: lengths of 'ids', 'mask' are open and count as 1; shapes={name: shape} sets them." in text
    assert "warning" not in str(inspect(transformer(), shapes={"ids": (1, 9), "mask": (1, 9)}))
    table = by_name(inspect(transformer(), shapes={"ids": (2, 9), "mask": (2, 9)}))
    assert table["MatMul_scores"].macs == 2 * 4 * 9 * 9 * 16
    assert table["MatMul_up.product"].macs == 2 * 9 * 64 * 128
    assert table["MatMul_up.product"].recommendation == "dynamic int8"
    assert table["MatMul_scores"].recommendation == "float"
    assert table["MatMul_scores"].weight == ""
    assert table["Gather_embedded"].macs == 0


@pytest.mark.parametrize(
    ("name", "operator", "source"),
    [
        ("mlp", "MatMul_hidden1.product", "initializer"),
        ("derived", "first", "initializer behind Transpose, Identity"),
        ("derived", "second", "initializer behind Cast, Reshape"),
        ("derived", "y", "initializer behind Unsqueeze, Squeeze"),
        ("branches", "MatMul_then.product", "Constant node"),
        ("branches", "MatMul_else.product", "initializer of an outer scope"),
        ("loop", "MatMul_product", "initializer of an outer scope"),
        ("shared", "MatMul_logits", "initializer behind Transpose, shared by 2"),
        ("shared", "MatMul_second", "initializer, shared by 2"),
        ("products", "MatMul_second", "initializer"),
    ],
)
def test_where_a_weight_comes_from(name, operator, source):
    found = by_name(inspect(MODELS[name][0]()))[operator]
    assert found.source == source
    assert (found.scope != "") == (name in ("branches", "loop"))
    if name in ("mlp", "derived"):
        inside = by_name(inspect(MODELS[name][0](in_nodes=True)))[operator]
        assert inside.source == source.replace("initializer", "Constant node")


def test_shared_weights_count_once():
    facts = inspect(shared()).facts
    assert facts["weight_bytes"] == (120 * 48 + 48 * 48) * 4
    assert facts["weight_share"] <= 1


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_as_text_json_and_html(name, opset):
    table = inspect(MODELS[name][0](opset=opset))
    content = json.loads(table.to_json())
    assert len(content["tensors"]) == len(table) > 0
    assert content["facts"]["opset"] == opset
    assert (content["facts"]["macs"] > 0) == (name != "loop")  # the shapes inside a Loop are open
    assert str(table).count("\n") > len(table)
    assert table._repr_html_().startswith("<table>")
    assert all(operator.reason for operator in table)


def test_quantized_models_are_recognised(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path / "m.onnx"
    quantize_dynamic(mlp(), path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    table = inspect(path)
    assert table.is_quantized
    assert table.facts["state"] == "already quantized: 2 of 3 operators (2 MatMulInteger int8)"
    assert [operator.recommendation for operator in table] == ["as it is", "as it is", "dynamic int8"]
    assert table.facts["file_bytes"] == path.stat().st_size
    assert by_name(table)["MatMul_hidden1.product_quant"].nbytes == 64 * 96


def test_weights_behind_dequantize_linear_are_recognised():
    model = mlp()
    weight = model.graph.initializer[0]
    codes = np.round(numpy_helper.to_array(weight) * 100).astype(np.int8)
    weight.CopyFrom(numpy_helper.from_array(codes, "codes"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "scale"], ["hidden1.weight"]))
    onnx.checker.check_model(model, full_check=True)
    first = by_name(inspect(model))["MatMul_hidden1.product"]
    assert (first.form, first.nbytes, first.recommendation) == ("QDQ int8 weight", 64 * 96, "as it is")


def test_warnings():
    model = mlp()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[:, 3] = 0
    weight[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "hidden1.weight"))
    text = str(inspect(model, shapes={"x": (1, 64)}))
    assert "warning: MatMul_hidden1.product: 1 values of hidden1.weight are not finite." in text
    assert "warning: MatMul_hidden1.product: 1 output channels are all zero." in text


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"^inspect: shapes must be shapes of the inputs 'x'; got 'y'\.$"):
        inspect(mlp(), shapes={"y": (1, 64)})
    with pytest.raises(ValueError, match=r"^inspect: shapes\['x'\] must be of shape \(\?, 64\); got \(1, 32\)\.$"):
        inspect(mlp(), shapes={"x": (1, 32)})
    with pytest.raises(TypeError, match=r"^inspect: shapes\['x'\] must be an integer; got 'a'\.$"):
        inspect(mlp(), shapes={"x": ("a", 64)})


def test_the_function_hides_the_module():
    import qnumpy.onnx.inspect

    assert callable(qn.onnx.inspect)
    assert callable(qnumpy.onnx.session)
