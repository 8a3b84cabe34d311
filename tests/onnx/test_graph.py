"""The view of a graph: where values come from, who reads them, edits."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qnumpy.onnx._graph import Graph, tensor_of

F32 = TensorProto.FLOAT
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def chain(nodes, initializers, outputs=("y",), inputs=(("x", ["n", 3]),)):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, F32, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, F32, ["n", 4]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, **feeds):
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)


def test_constants_are_found_behind_nodes():
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(W)),
        helper.make_node("Transpose", ["c"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "axes"], ["u"]),
        helper.make_node("Squeeze", ["u", "axes"], ["s"]),
        helper.make_node("Identity", ["s"], ["i"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = chain(nodes, {"w": W, "shape": np.array([2, -1]), "axes": np.array([0])})
    constant = Graph.of(model).constant("i")
    assert constant.name == "c"
    assert constant.path == ("Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity")
    np.testing.assert_array_equal(constant.array, W.T.reshape(2, 6).astype(np.float16))
    assert constant.array.dtype == np.float16
    assert Graph.of(model).constant("x") is None
    assert Graph.of(model).constant("y") is None
    assert Graph.of(model).constant("") is None


def test_rewire_keeps_the_name_of_an_output():
    model = chain([helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
                  {"w": W}, outputs=("y", "z"))  # fmt: skip
    graph = Graph.of(model)
    graph.insert_after(graph.producer("y"), helper.make_node("Exp", ["y"], ["e"]))
    assert graph.rewire("y", "e") == "y"
    x = np.ones((2, 3), np.float32) / 100
    y, z = run(model, x=x)
    np.testing.assert_allclose(y, np.exp(x @ W), rtol=1e-6)
    np.testing.assert_array_equal(z, -y)


def test_rewire_inside():
    model = chain([helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Neg", ["a"], ["y"])], {"w": W})
    graph = Graph.of(model)
    graph.insert_after(graph.producer("a"), helper.make_node("Exp", ["a"], ["e"]))
    assert graph.rewire("a", "e") == "e"
    x = np.ones((2, 3), np.float32) / 100
    np.testing.assert_allclose(run(model, x=x)[0], -np.exp(x @ W), rtol=1e-6)


def test_equal_arrays_are_added_once_and_unused_things_go():
    model = chain([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    graph = Graph.of(model)
    first = graph.add("w", W * 2)
    assert first == "w_1" == graph.add("other", W * 2) != graph.add("w", W.astype(np.float64))
    (new,) = graph.replace(graph.producer("y"), helper.make_node("MatMul", ["x", first], ["y"]))
    assert new is graph.producer("y")
    assert graph.consumers(first) == [new]
    assert graph.consumers("w") == []
    graph.remove_unused()
    assert [tensor.name for tensor in model.graph.initializer] == [first]
    np.testing.assert_array_equal(run(model, x=np.eye(3, dtype=np.float32))[0], W * 2)


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "uint2", "float4_e2m1fn", "bfloat16", "float8_e4m3fn"])
def test_types_that_numpy_lacks(name):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(getattr(ml_dtypes, name))
    tensor = tensor_of(array, "t")
    back = numpy_helper.to_array(tensor)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back.astype(np.float32), array.astype(np.float32))


def test_an_array_of_its_own_and_equal_shapes():
    model = chain([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    graph = Graph.of(model)
    zeros = np.zeros(3, np.int8)
    names = [graph.add("z", zeros, shared=False) for _ in range(2)]
    assert len({*names, graph.add("z", zeros)}) == 3
    kinds = {"a": ["n", 3], "b": ["n", 3], "c": ["m", 3], "d": ["?", 3], "e": ["?", 3], "f": [-1, 3], "g": [-1, 3],
             "h": [None, 3], "i": [None, 3], "j": [2, 3], "k": [2, 3], "l": [3]}  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in kinds.items()]
    body = helper.make_graph(
        [helper.make_node("Sum", list(kinds), ["y"])], "g", inputs, [onnx.ValueInfoProto(name="y")]
    )
    graph = Graph.of(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)]))
    same = [(a, b) for a in kinds for b in kinds if a < b and graph.same_shape(a, b)]
    assert same == [("a", "b"), ("j", "k")]
    assert not graph.same_shape("a", "missing")
