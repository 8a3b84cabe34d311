"""Weight-only quantization: every form, operator and place of a weight, against onnx.reference and NumPy."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import qnumpy as qn  # noqa: E402
from qnumpy.onnx.session import session  # noqa: E402
from qnumpy.onnx.weights import quantize_weights  # noqa: E402

RNG = np.random.default_rng(5)


def real(*shape, dtype=np.float32):
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(dtype)


def model(nodes, inputs, outputs, arrays, opset=17, ir_version=8):
    def values(pairs):
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in pairs.items()]

    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), constants)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(result, full_check=True)
    return result


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(","), outputs.split(","), **attributes)


F32 = TensorProto.FLOAT


def perceptron(opset=17, kind=F32):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    arrays = {"w1": real(64, 96, dtype=dtype), "b1": real(96, dtype=dtype), "w2": real(96, 64, dtype=dtype),
              "b2": real(64, dtype=dtype), "w3": real(48, 64, dtype=dtype), "b3": real(48, dtype=dtype)}  # fmt: skip
    nodes = [node("MatMul", "x,w1", "a"), node("Add", "a,b1", "b"), node("Relu", "b", "c"), node("MatMul", "c,w2", "d"),
             node("Add", "b2,d", "e"), node("Add", "e,x", "r"), node("Gemm", "r,w3,b3", "y", transB=1)]  # fmt: skip
    return model(nodes, {"x": (kind, ["n", 64])}, {"y": (kind, ["n", 48])}, arrays, opset)


def images():
    arrays = {"w1": real(16, 3, 3, 3), "b1": real(16), "w2": real(32, 16, 1, 1), "w3": real(32, 1, 3, 3),
              "w4": real(32, 8, 2, 2)}  # fmt: skip
    nodes = [
        node("Conv", "x,w1,b1", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Conv", "b,w2", "c"),
        node("Conv", "c,w3", "d", group=32, pads=[1, 1, 1, 1]),
        node("Add", "c,d", "e"),
        node("ConvTranspose", "e,w4", "y", strides=[2, 2]),
    ]
    return model(nodes, {"x": (F32, ["n", 3, "h", "w"])}, {"y": (F32, [None] * 4)}, arrays)


def tied():
    """A table of words that is also the last layer, transposed."""
    nodes = [node("Gather", "words,ids", "x"), node("MatMul", "x,w", "a"), node("Tanh", "a", "b"),
             node("Transpose", "words", "wt", perm=[1, 0]), node("MatMul", "b,wt", "y")]  # fmt: skip
    arrays = {"words": real(200, 64), "w": real(64, 64)}
    return model(nodes, {"ids": (TensorProto.INT64, ["n", "t"])}, {"y": (F32, ["n", "t", 200])}, arrays)


def recurrent():
    arrays = {"w": real(2, 4 * 24, 32) / 4, "r": real(2, 4 * 24, 24) / 4, "b": real(2, 8 * 24)}
    nodes = [node("LSTM", "x,w,r,b", "y,h", hidden_size=24, direction="bidirectional")]
    return model(nodes, {"x": (F32, ["t", "n", 32])}, {"y": (F32, [None] * 4), "h": (F32, [None] * 3)}, arrays)


def branches():
    """Weights in Constant nodes of both branches of an If, and one of the graph around it."""

    def branch(name, inner):
        weight = helper.make_node("Constant", [], [f"{name}_w"], value=numpy_helper.from_array(inner, "v"))
        nodes = [weight, node("MatMul", f"x,{name}_w", f"{name}_a"), node("MatMul", f"{name}_a,outer", f"{name}_y")]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", F32, [None, 32])])

    choice = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("yes", real(64, 64)), else_branch=branch("no", real(64, 64))
    )
    inputs = {"x": (F32, ["n", 64]), "flag": (TensorProto.BOOL, [])}
    return model([choice], inputs, {"y": (F32, ["n", 32])}, {"outer": real(64, 32)})


ROWS = (RNG.normal(size=(160, 64)) @ RNG.normal(size=(64, 64)) / 8).astype(np.float32)
MODELS = {
    "perceptron": (perceptron, {"x": ROWS}),
    "images": (images, {"x": RNG.normal(size=(2, 3, 18, 14)).astype(np.float32)}),
    "tied": (tied, {"ids": RNG.integers(0, 200, size=(4, 9))}),
    "recurrent": (recurrent, {"x": RNG.normal(size=(7, 3, 32)).astype(np.float32)}),
    "branches": (branches, {"x": ROWS, "flag": np.array(True)}),
}


def outputs(m, feed):
    return session(m, threads=1).run(None, feed)


def sqnr(exact, got):
    exact = np.asarray(exact, np.float64)
    return 10 * np.log10(np.square(exact).sum() / max(np.square(exact - got).sum(), 1e-300))


def is_standard(m):
    return all(entry.domain in ("", "ai.onnx") for entry in m.opset_import)


def check(m, feed):
    """The model is valid, and onnxruntime and onnx.reference agree; return what it computes."""
    onnx.checker.check_model(m, full_check=is_standard(m))
    got = outputs(m, feed)
    if is_standard(m):
        for y, wanted in zip(got, ReferenceEvaluator(m).run(None, feed), strict=True):
            np.testing.assert_allclose(y, wanted, rtol=2e-4, atol=2e-4 * np.abs(wanted).max())
    return got


# A weight of b bits in groups of 32 has about 6 b - 2 dB; two to four layers and activations cost the rest.
LEAST = {"int2": 4.0, "int3": 10.0, "int4": 16.0, "int5": 22.0, "int6": 28.0, "int7": 34.0, "int8": 39.0}


@pytest.mark.parametrize("dtype", list(LEAST))
@pytest.mark.parametrize("name", list(MODELS))
def test_folded(name, dtype):
    make, feed = MODELS[name]
    m = make()
    kept = m.SerializeToString()
    q = quantize_weights(m, dtype=dtype)
    assert m.SerializeToString() == kept
    for exact, y in zip(outputs(m, feed), check(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST[dtype]
    bits = int(dtype[3:])
    assert q.ByteSize() - 6000 < m.ByteSize() * (bits + 2) / 32  # scales, offsets; nodes and names


@pytest.mark.parametrize("form", ["MatMulNBits", "QDQ"])
@pytest.mark.parametrize("dtype", ["int2", "int4", "int8"])
@pytest.mark.parametrize("name", list(MODELS))
def test_forms(name, form, dtype):
    make, feed = MODELS[name]
    m = make()
    q = quantize_weights(m, dtype=dtype, form=form)
    for exact, y in zip(outputs(m, feed), check(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST[dtype]
    assert q.ByteSize() < m.ByteSize() / 2 + 6000


@pytest.mark.parametrize("symmetric", [False, True, "full"])
@pytest.mark.parametrize("dtype", ["int2", "int3", "int4", "int8"])
def test_forms_hold_the_same_codes(dtype, symmetric):
    m = perceptron()
    options = {"dtype": dtype, "symmetric": symmetric, "method": "minmax"}
    ys = [outputs(quantize_weights(m, form=form, **options), {"x": ROWS})[0] for form in ("folded", "MatMulNBits", "QDQ")]
    # scales in float16 differ by 2^-12 in the folded form alone
    assert sqnr(ys[0], ys[1]) > 60
    assert sqnr(ys[1], ys[2]) > 110


def test_minmax_is_that_of_quantize():
    w = real(70, 40)
    m = model([node("MatMul", "x,w", "y")], {"x": (F32, ["n", 70])}, {"y": (F32, ["n", 40])}, {"w": w})
    q = quantize_weights(m, dtype="int4", method="minmax", form="MatMulNBits")
    wanted = qn.quantize(w.T, dtype="int4", granularity=qn.PerGroup(32), symmetric=False).dequantize().T
    got = outputs(q, {"x": np.eye(70, dtype=np.float32)})[0]
    np.testing.assert_array_equal(got, wanted)


def test_the_runtime_folds(tmp_path):
    m = images()
    q = quantize_weights(m, dtype="int3")
    assert any(n.op_type == "BitShift" for n in q.graph.node)
    counts = []
    for which in (m, q):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        ort.InferenceSession(which.SerializeToString(), options, providers=["CPUExecutionProvider"])
        counts.append(sorted(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node))
    assert counts[0] == counts[1]


# ---- with data ----


def held_out(seed):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(160, 64)) @ np.random.default_rng(99).normal(size=(64, 64)) / 8).astype(np.float32)


@pytest.mark.parametrize("form", [None, "MatMulNBits", "QDQ"])
def test_data_makes_it_better(form):
    m = perceptron()
    data = [{"x": held_out(i)} for i in range(4)]
    test = {"x": held_out(50)}
    exact = outputs(m, test)[0]
    alone = sqnr(exact, outputs(quantize_weights(m, form=form), test)[0])
    by_data = sqnr(exact, check(quantize_weights(m, form=form, data=data), test)[0])
    assert by_data > alone + 1.5


def test_it_is_quantize_layers():
    """The same weights, rounded by the same function over a model in NumPy."""
    m = perceptron()
    arrays = {init.name: numpy_helper.to_array(init) for init in m.graph.initializer}
    layers = {"a": (arrays["w1"].T, arrays["b1"]), "d": (arrays["w2"].T, arrays["b2"]), "y": (arrays["w3"], arrays["b3"])}

    def run(x):
        def linear(name, x):
            x = qn.tap(name, x)
            w, bias = layers[name]
            return x @ w.T + bias

        hidden = np.maximum(linear("a", x), 0)
        qn.tap("d.residual", x)
        return linear("y", linear("d", hidden) + x)

    data = [held_out(i) for i in range(3)]
    rounded = qn.weights.quantize_layers(layers, run, data)
    layers.update({name: (rounded.dequantize(name), rounded.biases[name]) for name in rounded})
    x = held_out(7)
    q = quantize_weights(m, data=data, form="MatMulNBits")
    # the runtime's sums differ in their last bits, and so may a few codes
    assert sqnr(run(x), outputs(q, {"x": x})[0]) > 35


def test_convolutions_with_data():
    m = images()
    rng = np.random.default_rng(3)

    def smooth():
        return (rng.normal(size=(2, 3, 4, 4)).repeat(4, 2).repeat(4, 3) + 0.1 * rng.normal(size=(2, 3, 16, 16))).astype("f4")

    data, test = [smooth() for _ in range(3)], {"x": smooth()}
    exact = outputs(m, test)[0]
    alone = sqnr(exact, outputs(quantize_weights(m, dtype="int3"), test)[0])
    assert sqnr(exact, check(quantize_weights(m, dtype="int3", data=data), test)[0]) > alone


@pytest.mark.parametrize("name", ["tied", "recurrent", "branches"])
def test_data_where_few_layers_use_it(name):
    make, feed = MODELS[name]
    m = make()
    q = quantize_weights(m, data=[feed])
    for exact, y in zip(outputs(m, feed), check(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST["int4"]


def test_int8_activations():
    m = perceptron()
    q = quantize_weights(m, activations="int8", method="minmax")
    assert sum(n.op_type == "MatMulNBits" for n in q.graph.node) == 3
    floats = outputs(quantize_weights(m, form="MatMulNBits", method="minmax"), {"x": ROWS})[0]
    assert 30 < sqnr(floats, outputs(q, {"x": ROWS})[0]) < 80


# ---- weights in odd places ----


def test_tied_weights_are_written_once():
    m = tied()
    q = quantize_weights(m, lookup_dtype="int4")
    assert sum(len(init.raw_data) > 3000 for init in q.graph.initializer) == 1


def test_a_weight_that_another_operator_reads_stays():
    nodes = [node("MatMul", "x,w", "a"), node("ReduceSum", "w", "s", keepdims=0), node("Add", "a,s", "y")]
    m = model(nodes, {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 64])}, {"w": real(64, 64)})
    assert len(quantize_weights(m).graph.node) == 3


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("form", [None, "MatMulNBits", "QDQ"])
def test_opsets(opset, form):
    m = perceptron(opset)
    q = quantize_weights(m, form=form)
    assert sqnr(outputs(m, {"x": ROWS})[0], check(q, {"x": ROWS})[0]) > LEAST["int4"]


@pytest.mark.parametrize("form", [None, "QDQ"])
def test_float16(form):
    m = perceptron(kind=TensorProto.FLOAT16)
    x = ROWS.astype(np.float16)
    q = quantize_weights(m, form=form)
    assert sqnr(outputs(m, {"x": x})[0], outputs(q, {"x": x})[0]) > LEAST["int4"]
    assert q.ByteSize() < m.ByteSize() / 2.4


@pytest.mark.parametrize("group_size", [8, 24, 48, 100, None])
def test_groups(group_size):
    m = perceptron()
    q = quantize_weights(m, dtype="int6", group_size=group_size, lookup_dtype="int6")
    assert sqnr(outputs(m, {"x": ROWS})[0], check(q, {"x": ROWS})[0]) > 26


def test_files(tmp_path):
    onnx.save(perceptron(), tmp_path / "m.onnx")
    returned = quantize_weights(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert onnx.load(tmp_path / "q.onnx") == returned


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float16"}, TypeError, "quantize_weights: dtype must be an integer type of at most 8 bits; got 'float16'."),
        ({"dtype": "int16"}, TypeError, "quantize_weights: dtype must be an integer type of at most 8 bits; got 'int16'."),
        ({"group_size": 0}, ValueError, "quantize_weights: group_size must be a multiple of 8, or None; got 0."),
        ({"method": "gptq"}, ValueError, "quantize_weights: method must be another one without data; got 'gptq'."),
        ({"form": "MatMulNBits", "group_size": 24}, ValueError,
         "quantize_weights: group_size must be a power of two of at least 16 for MatMulNBits; got 24."),
        ({"form": "QDQ", "activations": "int8"}, ValueError,
         "quantize_weights: activations must be 'float' beside the form 'QDQ'; got 'int8'."),
        ({"data": []}, qn.CalibrationError, "quantize_weights: data must be one batch or more; got none."),
        ({"damping": -1}, ValueError, "quantize_weights: damping must be a number of at least 0; got -1."),
    ],
)  # fmt: skip
def test_errors(options, error, message):
    with pytest.raises(error) as caught:
        quantize_weights(perceptron(), **options)
    assert str(caught.value) == message
