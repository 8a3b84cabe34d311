"""Reading, writing and raising models."""

import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx_zoo import MODELS, OPSETS, mlp, mlp_inputs, shared, shared_inputs

from qnumpy.errors import FileFormatError
from qnumpy.onnx._files import at_opset, opset_of, read_model, write_model


def run(model, feed):
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source).run(None, feed)


def test_a_model_is_copied():
    model = mlp()
    before = model.SerializeToString()
    for source in (model, before, bytearray(before)):
        copy = read_model("f", source)
        assert copy == model
        copy.graph.node[0].name = "changed"
    assert model.SerializeToString() == before


def test_what_is_no_model_is_refused(tmp_path):
    damaged = tmp_path / "m.onnx"
    damaged.write_bytes(mlp().SerializeToString()[:1000])
    wanted = r"^f: model must be the path or the bytes of an ONNX model, or a ModelProto; got "
    with pytest.raises(FileFormatError, match=wanted + rf"'{damaged}' that protobuf cannot read\.$"):
        read_model("f", damaged)
    with pytest.raises(FileFormatError, match=wanted + r"9 bytes that protobuf cannot read\.$"):
        read_model("f", b"\xff" * 9)
    with pytest.raises(FileFormatError, match=wanted + r"bytes without a graph\.$"):
        read_model("f", b"")
    with pytest.raises(FileFormatError, match=wanted + r"a ModelProto without a graph\.$"):
        read_model("f", onnx.ModelProto())
    with pytest.raises(TypeError, match=wanted + r"None\.$"):
        read_model("f", None)
    with pytest.raises(FileNotFoundError):
        read_model("f", tmp_path / "nothing.onnx")


def test_large_models_lie_in_two_files(tmp_path):
    path, model = str(tmp_path / "m.onnx"), shared()
    write_model("f", model, path, largest=1000)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert os.path.getsize(path) < 3000
    onnx.checker.check_model(path, full_check=True)
    assert model == shared()
    feed = shared_inputs()
    np.testing.assert_array_equal(run(path, feed)[0], run(model, feed)[0])
    assert run(read_model("f", path), feed)[0].tobytes() == run(model, feed)[0].tobytes()
    outside = onnx.load(path, load_external_data=False)
    with pytest.raises(ValueError, match=r"^f: model must be a path where there is external data; got a model whose "):
        read_model("f", outside)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(
        FileFormatError, match=r"^f: model must be a model whose external data can be read; got 'words'"
    ):
        read_model("f", path)


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    model = mlp()
    with pytest.raises(TypeError, match=r"^f: output must be a path; got 3\.$"):
        write_model("f", model, 3)
    with pytest.raises(ValueError, match=r"^f: output must be a regular file; got "):
        write_model("f", model, tmp_path)
    with pytest.raises(OSError, match="no file was written"):
        write_model("f", model, tmp_path / "nothing" / "m.onnx")
    assert path.read_bytes() == b"old"
    write_model("f", model, path)
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert onnx.load(path) == model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opset", [opset for opset in OPSETS if opset < 21])
def test_operator_sets_are_raised(name, opset):
    build, inputs = MODELS[name]
    model = build(opset=opset)
    raised = at_opset(model, 21)
    assert opset_of(raised) == 21
    assert model == build(opset=opset)
    onnx.checker.check_model(raised, full_check=True)
    assert raised.metadata_props == model.metadata_props
    assert [value.name for value in raised.graph.input] == [value.name for value in model.graph.input]
    for y, expected in zip(run(raised, inputs(1)), run(model, inputs(1)), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert at_opset(raised, 13) is raised


def test_other_domains_and_functions_stay():
    model = mlp(opset=13)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node[1].CopyFrom(
        helper.make_node("BiasGelu", list(model.graph.node[1].input), list(model.graph.node[1].output),
                         domain="com.microsoft", name="gelu")
    )  # fmt: skip
    raised = at_opset(model, 21)
    assert {entry.domain: entry.version for entry in raised.opset_import} == {"": 21, "com.microsoft": 1}
    np.testing.assert_allclose(run(raised, mlp_inputs())[0], run(model, mlp_inputs())[0], rtol=1e-5, atol=1e-6)


def test_local_functions_are_inlined():
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")], "g",
        [helper.make_tensor_value_info("x", 1, [3])], [helper.make_tensor_value_info("y", 1, [3])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    read = read_model("f", model)
    assert [node.op_type for node in read.graph.node] == ["Add"]
    assert run(read, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]
