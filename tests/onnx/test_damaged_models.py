"""Damaged models: every function refuses them in one sentence, or finds nothing in them that it needs."""

import re

import numpy as np
import pytest
from onnx_zoo import branches, branches_inputs, mlp, mlp_inputs

import qnumpy as qn
from qnumpy.errors import FileFormatError

onnx = pytest.importorskip("onnx")

FUNCTIONS = {
    "inspect": lambda m, x: qn.onnx.inspect(m),
    "report": lambda m, x: qn.onnx.report(m),
    "session": lambda m, x: qn.onnx.session(m, threads=1),
    "ReferenceEvaluator": lambda m, x: qn.onnx.ReferenceEvaluator(m),
    "quantize_dynamic": lambda m, x: qn.onnx.quantize_dynamic(m, include=["*"]),
    "quantize_static": lambda m, x: qn.onnx.quantize_static(m, x, include=["*"], progress=False),
    "quantize_weights": lambda m, x: qn.onnx.quantize_weights(m, progress=False),
    "convert_float": lambda m, x: qn.onnx.convert_float(m),
    "evaluate": lambda m, x: qn.onnx.evaluate(m, x, "sqnr", reference=m),
    "compare": lambda m, x: qn.onnx.compare(m, m, x, progress=False),
    "check_exact": lambda m, x: qn.onnx.check_exact(m, x, progress=False),
    "tune": lambda m, x: qn.onnx.tune(m, x, "sqnr", min_score=30, budget=2, progress=False, techniques=["dynamic"]),
}
MODELS = {"mlp": (mlp(), [mlp_inputs()]), "branches": (branches(), [branches_inputs()])}


def refuse(content, data):
    """Call every function; what it raises is one sentence."""
    for name, call in FUNCTIONS.items():
        text = f"{name}: a model must load; got this one"
        try:
            call(content, data)
        except (TypeError, ValueError) as error:
            text = str(error)
        else:
            continue
        assert re.fullmatch(r"\w+: .* (must|no) .*; got .*", text), f"{name}: {text}"


@pytest.mark.parametrize("name", MODELS)
def test_truncated_and_changed_bytes(name):
    model, data = MODELS[name]
    content, rng = model.SerializeToString(), np.random.default_rng(0)
    for end in (0, 1, 9, *rng.integers(len(content), size=3), len(content) - 1):
        refuse(content[:end], data)
    for _ in range(5):
        changed = np.frombuffer(content, np.uint8).copy()
        changed[rng.integers(len(content), size=3)] = rng.integers(256, size=3)
        refuse(changed.tobytes(), data)
    refuse(b"a text, no model\n" * 20, data)


def without_inputs(model):
    del model.graph.node[-1].input[:]


def without_attributes(model):
    for node in model.graph.node:
        del node.attribute[:]


def half_a_tensor(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def tensor_without_a_type(model):
    model.graph.initializer[0].data_type = 0


def tensor_of_an_unknown_type(model):
    model.graph.initializer[0].data_type = 99


def tensor_of_another_shape(model):
    model.graph.initializer[0].dims[0] += 1


def without_operator_sets(model):
    del model.opset_import[:]


def without_a_node(model):
    del model.graph.node[0]


def unknown_operator(model):
    model.graph.node[0].op_type = "Nothing"


def name_that_is_no_utf8(model):
    content = model.SerializeToString()
    name = model.graph.node[-1].output[0].encode()
    return content.replace(name, b"\xb3" * len(name))


FAULTS = [
    without_inputs, without_attributes, half_a_tensor, tensor_without_a_type, tensor_of_an_unknown_type,
    tensor_of_another_shape, without_operator_sets, without_a_node, unknown_operator, name_that_is_no_utf8,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", MODELS)
def test_faults(name, fault, capfd):
    model, data = MODELS[name]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    refuse(fault(copy) or copy.SerializeToString(), data)
    assert capfd.readouterr() == ("", "")  # the runtime says nothing beside the sentence


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        (without_inputs, r"the node 'Gemm_logits' \(Gemm\) with 0 inputs and 1 outputs\."),
        (half_a_tensor, r"the tensor '.*', whose type, shape and bytes do not fit\."),
        (without_operator_sets, r"the node '.*' \(MatMul\) without an operator set\."),
        (name_that_is_no_utf8, r"names that are no UTF-8\."),
    ],
)
def test_the_sentence_names_the_fault(fault, got):
    model = mlp()
    with pytest.raises(FileFormatError, match=rf"^inspect: model must be a valid ONNX model; got {got}$"):
        qn.onnx.inspect(fault(model) or model)
