"""Smoothing: factors of channels that move outliers into weights, and the float model that stays the same."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qnumpy.onnx import quantize_dynamic, report, session
from qnumpy.onnx._graph import Graph
from qnumpy.onnx._layers import layers
from qnumpy.onnx._smoothing import fold

RNG = np.random.default_rng(3)
K, N, HEADS = 64, 512, 4
FACTOR = np.exp2(RNG.integers(-3, 4, K)).astype(np.float32)


def normal(*shape):
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def model_of(nodes, initializers, shape=("batch", 24, K), opset=17):
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)
         for op_type, inputs, outputs, attributes in nodes],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], N])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, x):
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return session(model, threads=1, options=options).run(None, {"x": x})[0]


NORMAL = {"g": normal(K), "b": normal(K)}
LAST = {"w": normal(K, N)}
MATMUL = ("MatMul", "h w", "y", {})
SHAPES = {"heads": np.array([0, 0, HEADS, K // HEADS]), "whole": np.array([0, 0, K])}
ATTENTION = [
    ("MatMul", "x wv", "v0", {}), ("Add", "v0 bv", "v1", {}), ("Reshape", "v1 heads", "v2", {}),
    ("Transpose", "v2", "v", {"perm": [0, 2, 1, 3]}), ("Reshape", "x heads", "q0", {}),
    ("Transpose", "q0", "q", {"perm": [0, 2, 1, 3]}), ("Transpose", "q0", "k", {"perm": [0, 2, 3, 1]}),
    ("MatMul", "q k", "scores", {}), ("Softmax", "scores", "p", {"axis": -1}), ("MatMul", "p v", "c0", {}),
    ("Transpose", "c0", "c1", {"perm": [0, 2, 1, 3]}), ("Reshape", "c1 whole", "h", {}), MATMUL,
]  # fmt: skip
CASES = {
    "norm": ("LayerNormalization", [("LayerNormalization", "x g b", "h", {"axis": -1}), MATMUL], NORMAL),
    "norm in parts": ("Mul", [("Mul", "x g", "m", {}), ("Add", "m b", "h", {}), MATMUL], NORMAL),
    "quotient": ("Div", [("Div", "x g", "s", {}), ("Sub", "b s", "h", {}), MATMUL], {**NORMAL, "b": normal(1, K)}),
    "layer": (
        "MatMul", [("MatMul", "x v", "m", {}), ("Add", "b m", "a", {}), ("Relu", "a", "h", {}), MATMUL],
        {"v": normal(K, K), "b": normal(K)},
    ),
    "attention": ("MatMul", ATTENTION, {"wv": normal(K, K), "bv": normal(K), **SHAPES}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_folding_keeps_every_bit_of_the_float_model(case):
    place, nodes, constants = CASES[case]
    model, x = model_of(nodes, {**LAST, **constants}), RNG.normal(size=(3, 24, K)).astype(np.float32)
    before = run(model, x)
    graph = Graph.of(model)
    last = next(layer for layer in layers(graph) if layer.node.output[0] == "y")
    assert fold(graph, "h", FACTOR, [last], dry=True) == place
    assert fold(graph, "h", FACTOR, [last]) == place
    graph.remove_unused()
    np.testing.assert_array_equal(run(model, x), before)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(held[last.node.input[1]], LAST["w"] * FACTOR[:, None])
    assert "w" not in held


@pytest.mark.parametrize("turned", [0, 1])
def test_folding_into_a_gemm(turned):
    v, w = normal(K, K), normal(K, N)
    nodes = [
        ("Gemm", "x v b", "h", {"transB": turned, "alpha": 0.5, "beta": 2.0}),
        ("Gemm", "h w", "y", {"transB": turned}),
    ]
    constants = {"v": v.T if turned else v, "w": w.T if turned else w, "b": normal(K)}
    model, x = model_of(nodes, constants, (7, K)), RNG.normal(size=(7, K)).astype(np.float32)
    before = run(model, x)
    graph = Graph.of(model)
    assert fold(graph, "h", FACTOR, [layers(graph)[1]]) == "Gemm"
    np.testing.assert_array_equal(run(model, x), before)


NOTHING = {
    "an input": [("Identity", "x", "h", {}), MATMUL],
    "another reader": [
        ("LayerNormalization", "x g b", "h", {"axis": -1}), ("MatMul", "h w", "m", {}), ("ReduceMean", "h", "r", {}),
        ("Add", "m r", "y", {}),
    ],
    "a function that is not linear": [("Mul", "x g", "m", {}), ("Tanh", "m", "h", {}), MATMUL],
    "two activations": [("Mul", "x g", "m", {}), ("Add", "m x", "h", {}), MATMUL],
    "a number, as of a GELU": [("Mul", "x half", "h", {}), MATMUL],
    "another axis": [("LayerNormalization", "x g2 b2", "h", {"axis": 1}), MATMUL],
    "an output's other reader": [("Mul", "x g", "m", {}), ("Relu", "m", "h", {}), ("Tanh", "m", "t", {}),
                                 ("MatMul", "h w", "z", {}), ("MatMul", "t w2", "s", {}), ("Add", "z s", "y", {})],
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING)
def test_where_nothing_takes_factors(case):
    more = {**NORMAL, "g2": normal(24, K), "b2": normal(24, K), "w2": normal(K, N), "half": np.float32(0.5)}
    model = model_of(NOTHING[case], {**LAST, **more})
    before = model.SerializeToString()
    graph = Graph.of(model)
    reader = next(layer for layer in layers(graph) if layer.node.input[1] == "w")
    assert fold(graph, "h", FACTOR, [reader]) is None
    assert model.SerializeToString() == before


def outliers(place):
    """Return a model whose last layer reads an activation with two wide channels."""
    gain = np.ones(K, np.float32)
    gain[[5, 40]] = 60
    first = [("LayerNormalization", "x g b", "h", {"axis": -1})]
    if place == "Linear":
        first = [("LayerNormalization", "x g b", "n", {"axis": -1}), ("Tanh", "n", "t", {}), ("Mul", "n t", "h", {})]
    return model_of([*first, MATMUL], {**LAST, "g": gain, "b": normal(K)})


@pytest.mark.parametrize(
    ("target", "place"), [("standard", "LayerNormalization"), ("qnumpy", "LayerNormalization"), ("qnumpy", "Linear")]
)
def test_outlier_channels_cost_less(target, place):
    model = outliers(place)
    data = [RNG.normal(size=(4, 24, K)).astype(np.float32) for _ in range(6)]
    x = RNG.normal(size=(16, 24, K)).astype(np.float32)
    exact, errors = run(model, x), {}
    for smooth in (True, False):
        made = quantize_dynamic(model, target=target, data=data, smooth=smooth, include=["MatMul"], progress=False)
        errors[smooth] = np.linalg.norm(run(made, x) - exact)
        (row,) = (change for change in report(made) if change.op_type == "MatMul")
        assert row.reason.endswith(f"{place} smooths its input") == smooth
        counted = [n.op_type for n in made.graph.node]
        assert counted.count("Mul") == (
            1 if place == "Linear" else counted.count("Mul")
        )  # no pass over memory is added
    assert errors[True] < 0.75 * errors[False]
    unsmoothed = quantize_dynamic(model, target=target, include=["MatMul"])  # without data
    assert not any("smooths" in change.reason for change in report(unsmoothed))


def test_even_channels_stay():
    model = model_of([("Mul", "x g", "h", {}), MATMUL], {**LAST, "g": np.ones(K, np.float32)})
    data = [RNG.normal(size=(4, 24, K)).astype(np.float32) for _ in range(4)]
    made = quantize_dynamic(model, data=data, include=["MatMul"], progress=False)
    assert not any("smooths" in change.reason for change in report(made))


def test_a_weight_that_others_read_stays():
    nodes = [("LayerNormalization", "x g b", "h", {}), ("MatMul", "h w", "m", {}), ("Gather", "w i", "r", {}),
             ("Add", "m r", "y", {})]  # fmt: skip
    gain = np.where(np.arange(K) == 3, 60, 1).astype(np.float32)
    model = model_of(nodes, {**LAST, "g": gain, "b": normal(K), "i": np.array([1])})
    data = [RNG.normal(size=(4, 24, K)).astype(np.float32) for _ in range(4)]
    made = quantize_dynamic(model, data=data, include=["MatMul"], progress=False)
    assert not any("smooths" in change.reason for change in report(made))
