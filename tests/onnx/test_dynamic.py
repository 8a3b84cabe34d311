"""quantize_dynamic: the arithmetic of both targets, the graphs it takes, what it leaves alone."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qnumpy as qn
from qnumpy.onnx import quantize_dynamic, report
from qnumpy.onnx import session as session_of_ours
from qnumpy.onnx._operators import linear_parts
from qnumpy.weights import hadamard
from tests.support import onnx_zoo

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)
K, N = 96, 512
W = RNG.normal(size=(K, N)).astype(np.float32)
B = RNG.normal(size=N).astype(np.float32)
# Steps of 5 sigma / 255 for rows of normal numbers and of 7 sigma / 254 for weights without saturating pairs, each over
# sqrt(12): 0.006 and 0.008, together 0.010
ERROR = 0.013


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs, outputs, **attributes)


def model_of(nodes, initializers, x, y=("y", F32, None), opset=17):
    inputs = x if isinstance(x, list) else [x]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*y)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)  # of the output


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


def run(model, x):
    onnx.checker.check_model(model, full_check=True)
    feed = x if isinstance(x, dict) else {model.graph.input[0].name: x}
    return session(model).run(None, feed)[0]


def relative(y, exact):
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def operators(model):
    return [n.op_type for n in model.graph.node]


def linear(shape=("batch", "length", K), opset=17):
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])]
    return model_of(nodes, {"w": W, "b": B}, ("x", F32, list(shape)), opset=opset)


def by_rows(x, codes, scale, bias):
    """What the graph computes, in float64: codes of each row, exact sums."""
    x = x.reshape(-1, x.shape[-1])
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    s = ((high - low) * np.float32(1 / 255)).astype(np.float32)
    z = np.clip(np.rint(-low / s), 0, 255)
    q = np.clip(np.rint(x / s[:, None]) + z[:, None], 0, 255)
    acc = (q - z[:, None]).astype(np.int64) @ codes.astype(np.int64)
    return acc * (s.astype(np.float64)[:, None] * scale) + bias


def weight_of(model):
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return arrays["w_quantized"], arrays["w_scale"]


@pytest.mark.parametrize("opset", [11, 13, 15, 17, 18, 21, 24])
@pytest.mark.parametrize("shape", [(2, 7, K), (64, K), (2, 3, 5, K)])
def test_rows_are_quantized_alone_and_sums_are_exact(opset, shape):
    x = RNG.normal(size=shape).astype(np.float32) * 10.0 ** RNG.integers(-3, 3, (*shape[:-1], 1)).astype(np.float32)
    x.reshape(-1, K)[1] = 0  # a row without a range
    x.reshape(-1, K)[2] = np.abs(x.reshape(-1, K)[2])
    q = quantize_dynamic(linear([None] * (len(shape) - 1) + [K], opset), include=["MatMul"])
    y = run(q, x)
    assert y.shape == (*shape[:-1], N)
    codes, scale = weight_of(q)
    rows = x.reshape(-1, K)
    rest = np.delete(np.arange(len(rows)), 1)
    wanted = by_rows(rows[rest], codes, scale, B)
    # float32 rounds the sums, the offsets and the bias: some units in the last place of the largest of them
    tolerance = 1e-5 * (np.abs(rows[rest]).max(1, keepdims=True) * np.abs(W).sum(0).max() + np.abs(B).max())
    assert (np.abs(y.reshape(-1, N)[rest] - wanted) <= tolerance).all()
    np.testing.assert_array_equal(y.reshape(-1, N)[1], B)
    assert relative(y, x @ W + B) < ERROR
    if opset >= 19:  # the first whose QuantizeLinear onnx.reference computes
        reference = ReferenceEvaluator(q).run(None, {"x": x})[0]
        np.testing.assert_allclose(reference, y, rtol=0, atol=float(tolerance.max()))


def test_a_row_does_not_depend_on_others():
    q = quantize_dynamic(linear(), include=["MatMul"])
    x = RNG.normal(size=(3, 5, K)).astype(np.float32)
    wide = np.concatenate([x, 1e4 * x])
    np.testing.assert_array_equal(run(q, wide)[:3], run(q, x))


def test_no_rows():
    q = quantize_dynamic(linear(), include=["MatMul"])
    assert run(q, np.empty((0, 3, K), np.float32)).shape == (0, 3, N)


@pytest.mark.parametrize("cpu", ["any", "avx2"])
def test_no_pair_of_weights_saturates(cpu):
    codes, _ = weight_of(quantize_dynamic(linear(), include=["MatMul"], target_cpu=cpu))
    assert np.abs(codes[0::2].astype(int) + codes[1::2]).max() <= 128
    codes, _ = weight_of(quantize_dynamic(linear(), include=["MatMul"], target_cpu="vnni"))
    assert np.abs(codes[0::2].astype(int) + codes[1::2]).max() > 128  # else the test would show nothing


def test_one_range_for_an_activation():
    q = quantize_dynamic(linear(), include=["MatMul"], per="tensor")
    assert "DynamicQuantizeLinear" in operators(q)
    x = RNG.normal(size=(2, 7, K)).astype(np.float32)
    assert relative(run(q, x), x @ W + B) < 0.02


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", ["none", "vector", "scalar", "column", "activation"])
def test_gemm(trans_a, trans_b, c):
    x = RNG.normal(size=(40, K)).astype(np.float32)
    addend = {"none": None, "vector": B, "scalar": np.float32(3), "column": x[:, :1].copy(), "activation": None}[c]
    inputs = [("x", F32, [K, 40] if trans_a else [40, K])]
    arrays = {"w": np.ascontiguousarray(W.T) if trans_b else W}
    names = ["x", "w"]
    feed = {"x": np.ascontiguousarray(x.T) if trans_a else x}
    if c == "activation":
        inputs.append(("c", F32, [40, N]))
        feed["c"] = addend = RNG.normal(size=(40, N)).astype(np.float32)
    elif addend is not None:
        arrays["c"] = addend
    if addend is not None:
        names.append("c")
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 2.0}
    model = model_of([node("Gemm", names, ["y"], **attributes)], arrays, inputs)
    q = quantize_dynamic(model, include=["Gemm"])
    assert "MatMulInteger" in operators(q)
    wanted = 0.5 * x @ W + (0 if addend is None else 2 * addend)
    assert relative(run(q, feed), wanted) < ERROR


def test_layers_of_one_input_share_its_codes():
    names = ["q", "k", "v"]
    nodes = [node("MatMul", ["x", f"w{n}"], [n]) for n in names] + [node("Sum", names, ["y"])]
    weights = {f"w{n}": RNG.normal(size=(K, N)).astype(np.float32) for n in names}
    q = quantize_dynamic(model_of(nodes, weights, ("x", F32, ["b", "l", K])), include=["MatMul"])
    assert operators(q).count("MatMulInteger") == 3
    assert operators(q).count("ReduceMin") == 1
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    assert relative(run(q, x), sum(x @ w for w in weights.values())) < ERROR


def test_a_shared_weight_is_held_once():
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["r", "t"], ["p"]),
        node("MatMul", ["p", "w"], ["y"]),
    ]
    q = quantize_dynamic(model_of(nodes, {"w": W}, ("x", F32, ["b", "l", K])), include=["MatMul"])
    held = [t for t in q.graph.initializer if t.data_type == TensorProto.INT8]
    assert len(held) == 2  # x w and p w share one; t is the other
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    assert relative(run(q, x), np.maximum(x @ W, 0) @ W.T @ W) < 0.02


def test_weights_in_constants_behind_operators_and_around_branches():
    def branch(name, factor):
        inner = [node("Constant", [], [f"{name}_w"], value=numpy_helper.from_array((factor * W).astype(np.float16))),
                 node("Cast", [f"{name}_w"], [f"{name}_c"], to=F32),
                 node("MatMul", ["x", f"{name}_c"], [f"{name}_m"]),
                 node("MatMul", ["x", "w"], [f"{name}_o"]),
                 node("Add", [f"{name}_m", f"{name}_o"], [f"{name}_y"])]  # fmt: skip
        return helper.make_graph(inner, name, [], [helper.make_tensor_value_info(f"{name}_y", F32, None)])

    nodes = [node("If", ["c"], ["y"], then_branch=branch("a", 1), else_branch=branch("b", -3))]
    model = model_of(nodes, {"w": W}, [("c", TensorProto.BOOL, []), ("x", F32, ["b", "l", K])])
    q = quantize_dynamic(model, include=["MatMul"])
    assert q.ByteSize() < 0.6 * model.ByteSize()
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    for c, factor in ((True, 2), (False, -2)):
        assert relative(run(q, {"c": np.array(c), "x": x}), factor * x @ W) < 0.02


def test_nodes_without_names_and_a_product_that_is_an_output():
    model = linear()
    model.graph.output.append(helper.make_tensor_value_info("m", F32, ["batch", "length", N]))
    q = quantize_dynamic(model, include=["MatMul"])
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    y, m = session(q).run(["y", "m"], {"x": x})
    np.testing.assert_allclose(y, m + B, rtol=1e-6)
    assert report(q).facts["form"] == "standard"


def test_the_model_stays_and_small_layers_stay_float():
    small = model_of([node("MatMul", ["x", "w"], ["y"])], {"w": W[:8, :8].copy()}, ("x", F32, ["b", 8]))
    before = small.SerializeToString()
    q = quantize_dynamic(small)
    assert small.SerializeToString() == before
    assert operators(q) == ["MatMul"]
    (change,) = report(q)
    assert change.form == "float"
    assert "not faster" in change.reason


def test_what_stays_float_runs_as_before(tmp_path):
    """onnxruntime makes the same operators of a model in which no layer gains, so that it is as fast."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Softmax", ["m"], ["y"], axis=2)]
    old = model_of(nodes, {"w": W}, ("x", F32, [1, 1, K]), opset=11)
    for target in ("standard", "qnumpy"):
        quantized = quantize_dynamic(old, target=target, exclude=["MatMul"] if target == "qnumpy" else None)
        assert next(iter(report(quantized))).form == "float"
        assert quantized.opset_import[0].version == 11
        found = []
        for i, model in enumerate((old, quantized)):
            options = ort.SessionOptions()
            options.optimized_model_filepath = str(tmp_path / f"{i}.onnx")
            ort.InferenceSession(model.SerializeToString(), options)
            found.append(operators(onnx.load(tmp_path / f"{i}.onnx")))
        assert found[0] == found[1]


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_softmax_of_an_old_operator_set(op_type, axis):
    nodes = [node("MatMul", ["x", "w"], ["m"]), node(op_type, ["m"], ["y"], axis=axis)]
    old = model_of(nodes, {"w": W}, ("x", F32, [2, 64, K]), opset=11)
    quantized = quantize_dynamic(old, include=["MatMul"])
    assert ("Flatten" in operators(quantized)) == (axis == 1)  # which is the softmax of more than the last axis
    x = RNG.normal(size=(2, 64, K)).astype(np.float32) * np.float32(0.1)
    np.testing.assert_allclose(run(quantized, x), run(old, x), atol=0.05, rtol=0.2)


@pytest.mark.parametrize(
    ("k", "n", "rotates"),
    [(256, 256, True), (384, 1536, True), (96, 1536, True), (120, 360, False), (100, 512, False), (121, 512, False)],
)
def test_rows_are_rotated_where_that_leaves_a_gain(k, n, rotates):
    """Hadamard matrices with blocks of 12 or 20 and few neighbours are slow: 120 is 3 blocks of 20 x 2."""
    weights = {"w": RNG.normal(size=(k, n)).astype(np.float32), "b": np.zeros(n, np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])]
    model, x = model_of(nodes, weights, ("x", F32, [64, k])), RNG.normal(size=(64, k)).astype(np.float32)
    data = [RNG.normal(size=(64, k)).astype(np.float32) for _ in range(2)]
    for q in (quantize_dynamic(model, target="qnumpy"), quantize_dynamic(model, target="qnumpy", data=data)):
        (made,) = q.graph.node
        assert made.op_type == "Linear"
        assert (len(made.input) == 7) == rotates
        assert relative(session_of_ours(q).run(None, {"x": x})[0], x @ weights["w"]) < ERROR


@pytest.mark.parametrize("shape", [(64, 64, 512), (128, 128, 4), (120, 360, 1)])
def test_layers_that_our_operator_slows_down_stay_float(shape):
    k, n, rows = shape
    model = model_of([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((k, n), np.float32)}, ("x", F32, [rows, k]))
    (row,) = report(quantize_dynamic(model, target="qnumpy"))
    assert row.form == "float"
    assert "is not faster" in row.reason


def test_what_cannot_be_quantized_stays():
    for w, why in ((np.full((K, N), np.nan, np.float32), "finite"), (W.astype(np.float16), "float16")):
        kind = helper.np_dtype_to_tensor_dtype(w.dtype)
        model = model_of([node("MatMul", ["x", "w"], ["y"])], {"w": w}, ("x", kind, ["b", "l", K]), ("y", kind, None))
        q = quantize_dynamic(model, include=["MatMul"])
        assert operators(q) == ["MatMul"]
        assert why in next(iter(report(q))).reason


def test_embeddings():
    table = RNG.normal(size=(1000, 64)).astype(np.float32) * 10.0 ** RNG.integers(-3, 3, (1000, 1)).astype(np.float32)
    table[3] = 0
    model = model_of([node("Gather", ["w", "ids"], ["y"])], {"w": table}, ("ids", I64, ["b", "l"]))
    q = quantize_dynamic(model)
    assert q.ByteSize() < 0.3 * model.ByteSize()
    ids = np.array([[0, 3, 999], [-1, 5, 5]])
    step = np.abs(table).max(1)[ids][..., None] / 127
    assert (np.abs(run(q, ids) - table[ids]) <= 0.5001 * step).all()


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
def test_recurrent_weights_are_stored_as_codes(op_type):
    gates = {"LSTM": 4, "GRU": 3}[op_type] * 32
    arrays = {"w": RNG.normal(size=(1, gates, 24)).astype(np.float32) / 5,
              "r": RNG.normal(size=(1, gates, 32)).astype(np.float32) / 5}  # fmt: skip
    model = model_of([node(op_type, ["x", "w", "r"], ["y"], hidden_size=32)], arrays, ("x", F32, ["t", "b", 24]))
    x = RNG.normal(size=(6, 2, 24)).astype(np.float32)
    for dtype, error in (("int8", 0.02), ("int16", 1e-4)):
        q = quantize_dynamic(model, float_weights=dtype)
        assert q.ByteSize() < {"int8": 0.45, "int16": 0.75}[dtype] * model.ByteSize()
        assert relative(run(q, x), run(model, x)) < error


# ---- the zoo ----


@pytest.mark.parametrize("target", ["standard", "qnumpy"])
@pytest.mark.parametrize("opset", onnx_zoo.OPSETS)
@pytest.mark.parametrize("name", onnx_zoo.MODELS)
def test_every_small_model_keeps_its_outputs(name, opset, target):
    build, inputs = onnx_zoo.MODELS[name]
    model, feed = build(opset, in_nodes=opset in (13, 21)), inputs(3)
    before = model.SerializeToString()
    exact = session(model).run(None, feed)
    for options in ({}, {"include": ["*"]}):
        q = quantize_dynamic(model, target=target, **options)
        onnx.checker.check_model(q, full_check=target == "standard")
        for y, wanted in zip(session_of_ours(q).run(None, feed), exact, strict=True):
            if wanted.dtype == np.float32:
                assert relative(y, wanted) < 0.05  # several layers of 0.01 each
    assert model.SerializeToString() == before


# ---- rewrites ----


def gelu_nodes(order):
    nodes = [node("Div", ["x", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["p"])]
    if order == "half first":
        return [*nodes, node("Mul", ["half", "p"], ["h"]), node("Mul", ["h", "x"], ["y"])]
    return [*nodes, node("Mul", ["x", "p"], ["h"]), node("Mul", ["h", "half"], ["y"])]


NUMBERS = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}


def test_gelu_becomes_one_kernel_with_the_same_bits():
    model = model_of(gelu_nodes("half first"), NUMBERS, ("x", F32, ["n"]))
    q = quantize_dynamic(model)
    x = RNG.normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(
        ReferenceEvaluator(q).run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0]
    )
    assert report(q).facts["rewrites"] == {"GELU in the order that onnxruntime merges": 1}
    np.testing.assert_allclose(run(q, x), run(model, x), rtol=2e-6, atol=1e-7)  # the kernel's own erf


def test_gelu_that_others_read_stays():
    model = model_of(gelu_nodes("half first"), NUMBERS, ("x", F32, ["n"]))
    model.graph.output.append(helper.make_tensor_value_info("h", F32, ["n"]))
    assert operators(quantize_dynamic(model)) == operators(model)


def test_sum_before_a_norm_has_the_same_bits():
    gamma = RNG.normal(size=64).astype(np.float32)
    nodes = [node("Add", ["x", "r"], ["s"]), node("LayerNormalization", ["s", "g"], ["y"])]
    model = model_of(nodes, {"g": gamma}, [("x", F32, ["n", 64]), ("r", F32, ["n", 64])])
    q = quantize_dynamic(model)
    assert operators(q) == ["Sum", "LayerNormalization"]
    feed = {name: RNG.normal(size=(9, 64)).astype(np.float32) for name in "xr"}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runs = [ort.InferenceSession(m.SerializeToString(), options).run(None, feed)[0] for m in (model, q)]
    np.testing.assert_array_equal(*runs)


# ---- our operators ----


def test_our_operator_holds_the_weight_bias_and_activation():
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), node("Relu", ["a"], ["y"])]
    model = model_of(nodes, {"w": W, "b": B}, ("x", F32, ["b", "l", K]))
    q = quantize_dynamic(model, target="qnumpy", include=["MatMul"])
    (made,) = q.graph.node
    assert (made.domain, made.op_type, list(made.output)) == ("qnumpy", "Linear", ["y"])
    attributes = {a.name: helper.get_attribute_value(a) for a in made.attribute}
    assert attributes["activation"] == b"relu"
    arrays = {t.name: numpy_helper.to_array(t) for t in q.graph.initializer}
    w, scale = (arrays[name] for name in made.input[1:3])
    (part,) = linear_parts(w, scale, None, attributes, 1)
    assert relative(part.dequantize(), hadamard(K).rotate(W)) < 0.01
    np.testing.assert_array_equal(arrays[made.input[4]], B)


def packed(model):
    """The node Linear of a model as PackedWeight, one for each output."""
    (made,) = (n for n in model.graph.node if n.op_type == "Linear")
    attributes = {a.name: helper.get_attribute_value(a) for a in made.attribute}
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    w, scale, _, bias = (arrays.get(name) for name in [*made.input, ""][1:5])
    count = len(made.output)
    biases = [None] * count if bias is None else np.split(bias, count)
    options = {"symmetric": False, "x_granularity": qn.PerRow(), "hadamard": hadamard(attributes["K"])}
    parts = linear_parts(w, scale, None, attributes, count)
    return [qn.PackedWeight(part, bias=b, **options) for part, b in zip(parts, biases, strict=True)]


@pytest.mark.parametrize("shape", [(2, 7, K), (1, K), (3, 0, K)])
def test_our_operator_in_onnxruntime_has_the_bits_of_packed_weight(shape):
    model = linear([None] * (len(shape) - 1) + [K])
    q = quantize_dynamic(model, target="qnumpy", include=["MatMul"])
    x = RNG.normal(size=shape).astype(np.float32)
    (y,) = session_of_ours(q).run(None, {"x": x})
    (weight,) = packed(q)
    np.testing.assert_array_equal(y, x @ weight)
    if x.size:
        assert relative(y, x @ W + B) < ERROR


def test_gelu_goes_into_our_operator():
    for order in ("half first", "half last"):
        nodes = [node("MatMul", ["i", "w"], ["x"]), *gelu_nodes(order)]
        model = model_of(nodes, {"w": W, **NUMBERS}, ("i", F32, ["b", "l", K]))
        model_q = quantize_dynamic(model, target="qnumpy", include=["MatMul"])
        (made,) = model_q.graph.node
        assert {a.name: helper.get_attribute_value(a) for a in made.attribute}["activation"] == b"gelu"
        assert list(made.output) == ["y"]
        x = RNG.normal(size=(2, 5, K)).astype(np.float32) / 10
        got, wanted = (session_of_ours(m).run(None, {"i": x})[0] for m in (model_q, model))
        assert relative(got, wanted) < ERROR


def test_layers_of_one_input_become_one_node():
    names = ["q", "k", "v"]
    nodes = [node("MatMul", ["x", f"w{n}"], [n]) for n in names] + [node("Sum", names, ["y"])]
    weights = {f"w{n}": RNG.normal(size=(K, N)).astype(np.float32) for n in names}
    q = quantize_dynamic(model_of(nodes, weights, ("x", F32, ["b", "l", K])), target="qnumpy", include=["MatMul"])
    assert operators(q) == ["Linear", "Sum"]
    assert list(q.graph.node[0].output) == names
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    (y,) = session_of_ours(q).run(None, {"x": x})
    np.testing.assert_allclose(y, sum(x @ weight for weight in packed(q)), rtol=1e-5, atol=1e-4)  # Sum in its own order
    assert relative(y, sum(x @ w for w in weights.values())) < ERROR


def norm_of_sum(x, residual, more, *, shape=("b", "l", K), **attributes):
    """Return a model of LayerNormalization(x + residual) and more nodes."""
    first = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Mul", ["x", "two"], ["d"]),
        node("ReduceMax", ["x"], ["top"], axes=[1]),
    ]
    nodes = [
        *first,
        node("Add", [x, residual], ["s"]),
        node("LayerNormalization", ["s", "g", "b"], ["n"], **attributes),
    ]
    weights = {"w": RNG.normal(size=(K, K)).astype(np.float32), "g": W[0, :K], "b": B[:K], "two": np.float32(2)}
    return model_of([*nodes, *more], weights, ("x", F32, list(shape)))


@pytest.mark.parametrize("reads_sum", [False, True])
def test_a_sum_and_a_norm_become_one_node(reads_sum):
    more = [node("Add", ["n", "s" if reads_sum else "d"], ["y"])]
    model = norm_of_sum("h", "d", more, epsilon=1e-3)
    made = quantize_dynamic(model, target="qnumpy", exclude=["MatMul"])
    (skip,) = (n for n in made.graph.node if n.domain == "qnumpy")
    assert skip.op_type == "SkipLayerNormalization"
    assert len(skip.output) == 1 + reads_sum
    assert "LayerNormalization" not in operators(made)
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    got, wanted = (session_of_ours(m).run(None, {"x": x})[0] for m in (made, model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(got, qn.onnx.ReferenceEvaluator(made).run(None, {"x": x})[0])
    assert report(made).facts["rewrites"]["SkipLayerNormalization in place of a sum and a LayerNormalization"] == 1
    assert "SkipLayerNormalization" not in operators(quantize_dynamic(model, exclude=["MatMul"]))


def norm_in_parts(opset, square, more=()):
    """Return a model of a sum and a LayerNormalization in nine operators."""
    mean = {"axes": [-1]} if opset < 18 else {}
    axes = [] if opset < 18 else ["axes"]
    nodes = [
        node("Mul", ["x", "two"], ["d"]), node("Add", ["x", "d"], ["s"]),
        node("ReduceMean", ["s", *axes], ["mean"], **mean),
        node("Sub", ["s", "mean"], ["c"]), node(square, ["c", "two" if square == "Pow" else "c"], ["c2"]),
        node("ReduceMean", ["c2", *axes], ["var"], **mean), node("Add", ["var", "eps"], ["ve"]),
        node("Sqrt", ["ve"], ["sd"]), node("Div", ["c", "sd"], ["q"]), node("Mul", ["g", "q"], ["qg"]),
        node("Add", ["qg", "b"], ["n"]), *(more or [node("Add", ["n", "s"], ["y"])]),
    ]  # fmt: skip
    weights = {"g": W[0, :K], "b": B[:K], "two": np.float32(2), "eps": np.float32(1e-3), "axes": np.array([-1])}
    return model_of(nodes, weights if axes else {k: v for k, v in weights.items() if k != "axes"},
                    ("x", F32, ["b", "l", K]), opset=opset)  # fmt: skip


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("opset", [11, 18])
def test_a_norm_in_parts_becomes_one_node(opset, square):
    model, x = norm_in_parts(opset, square), RNG.normal(size=(2, 5, K)).astype(np.float32)
    made = quantize_dynamic(model, target="qnumpy")
    assert operators(made) == ["Mul", "SkipLayerNormalization", "Add"]
    got, wanted = (session_of_ours(m).run(None, {"x": x})[0] for m in (made, model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tensor", ["c", "mean", "var", "sd", "qg"])
def test_a_norm_whose_parts_others_read_stays(tensor):
    more = [node("Add", ["n", tensor], ["y"])]
    model, x = norm_in_parts(17, "Pow", more), RNG.normal(size=(2, 5, K)).astype(np.float32)
    made = quantize_dynamic(model, target="qnumpy")
    assert "SkipLayerNormalization" not in operators(made)
    np.testing.assert_array_equal(run(made, x), run(model, x))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (norm_of_sum("h", "top", [node("Identity", ["n"], ["y"])]), "a residual of another shape"),
        (norm_of_sum("h", "d", [node("Identity", ["n"], ["y"])], axis=1, shape=(2, K, K)), "more than the last axis"),
        (norm_of_sum("h", "two", [node("Identity", ["n"], ["y"])]), "a constant"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sum_and_a_norm_stay(model, why):
    if why.startswith("more"):
        model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "g"))
        model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "b"))
        model.graph.initializer.extend(numpy_helper.from_array(np.ones((K, K), np.float32), name) for name in "gb")
    made = quantize_dynamic(model, target="qnumpy", exclude=["MatMul"])
    assert "LayerNormalization" in operators(made)
    x = RNG.normal(size=(2, K, K)).astype(np.float32)
    np.testing.assert_allclose(run(made, x), run(model, x), rtol=1e-5, atol=2e-5)


# ---- data ----


@pytest.mark.parametrize("target", ["standard", "qnumpy"])
def test_data_lower_the_error(target):
    mix = RNG.normal(size=(8, K)).astype(np.float32)  # inputs of low rank: rounding can make up for itself

    def batch(seed):
        rng = np.random.default_rng(seed)
        return (rng.normal(size=(4, 32, 8)) @ mix + 0.1 * rng.normal(size=(4, 32, K))).astype(np.float32)

    model, x = linear(), batch(9)
    made = [quantize_dynamic(model, target=target, include=["MatMul"], data=data, target_cpu="vnni", progress=False)
            for data in (None, [batch(i) for i in range(4)])]  # fmt: skip
    assert all(c.dtype == "int8" for q in made for c in report(q))
    if target == "standard":
        codes = [weight_of(q) for q in made]
        biases = [numpy_helper.to_array(next(t for t in q.graph.initializer if t.name == "w_offsets"))[1] for q in made]
        rows = x.reshape(-1, K).astype(np.float64)
        errors = [relative(rows @ (c * s) + b, rows @ W + B) for (c, s), b in zip(codes, biases, strict=True)]
        assert errors[1] < 0.7 * errors[0]


# ---- arguments ----


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "x"}, "quantize_dynamic: target must be one of 'standard', 'qnumpy'; got 'x'."),
        ({"per": "x"}, "quantize_dynamic: per must be one of 'row', 'tensor'; got 'x'."),
        ({"target_cpu": "x"}, "quantize_dynamic: target_cpu must be one of 'any', 'vnni', 'avx2', 'arm'; got 'x'."),
        ({"float_weights": "x"}, "quantize_dynamic: float_weights must be one of 'int16', 'int8', 'float32'; got 'x'."),
    ],
)
def test_unknown_choices(options, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        quantize_dynamic(linear(), **options)


def test_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match="exclude"):
        quantize_dynamic(linear(), exclude=["nothing"])


def test_excluded_layers_keep_their_weights():
    model = linear()
    q = quantize_dynamic(model, exclude=["MatMul"])
    assert operators(q) == operators(model)
    assert next(iter(report(q))).reason == "excluded"


def test_a_file_is_written(tmp_path):
    path = tmp_path / "q.onnx"
    q = quantize_dynamic(linear(), path, include=["MatMul"])
    assert onnx.load(path).SerializeToString() == q.SerializeToString()
