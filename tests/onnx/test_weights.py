"""Weight-only quantization: every form, operator and place of a weight, against onnx.reference and NumPy."""

import numpy as np
import onnx_zoo
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402
from weight_models import (  # noqa: E402
    F32,
    MODELS,
    ROWS,
    images,
    model,
    node,
    perceptron,
    real,
    reference,
    sqnr,
    tied,
)

import qnumpy as qn  # noqa: E402
from qnumpy.onnx.session import session  # noqa: E402
from qnumpy.onnx.weights import quantize_weights  # noqa: E402


def outputs(m, feed):
    return session(m, threads=1).run(None, feed)


def is_standard(m):
    return all(entry.domain in ("", "ai.onnx") for entry in m.opset_import)


def check(m, feed):
    """The model is valid, and onnxruntime and onnx.reference agree; return what it computes."""
    onnx.checker.check_model(m, full_check=is_standard(m))
    got = outputs(m, feed)
    if is_standard(m):
        for y, wanted in zip(got, reference(m, feed) or got, strict=True):
            np.testing.assert_allclose(y, wanted, rtol=2e-4, atol=2e-4 * np.abs(wanted).max())
    return got


# A weight of b bits in groups of 32 has about 6 b - 2 dB; two to four layers and activations cost the rest.
LEAST = {"int2": 4.0, "int3": 10.0, "int4": 16.0, "int5": 22.0, "int6": 28.0, "int7": 34.0, "int8": 39.0}


@pytest.mark.parametrize(
    ("name", "dtype"), [("perceptron", dtype) for dtype in LEAST] + [(name, "int5") for name in MODELS]
)
def test_folded(name, dtype):
    make, feed = MODELS[name]
    m = make()
    kept = m.SerializeToString()
    q = quantize_weights(m, dtype=dtype)
    assert m.SerializeToString() == kept
    for exact, y in zip(outputs(m, feed), check(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST[dtype]
    bits = int(dtype[3:])
    assert q.ByteSize() - 8000 < m.ByteSize() * (bits + 2) / 32  # scales, offsets; nodes and names


@pytest.mark.parametrize("form", ["MatMulNBits", "QDQ"])
@pytest.mark.parametrize(
    ("name", "dtype"), [("perceptron", "int2"), ("perceptron", "int8")] + [(name, "int4") for name in MODELS]
)
def test_forms(name, form, dtype):
    make, feed = MODELS[name]
    m = make()
    q = quantize_weights(m, dtype=dtype, form=form)
    for exact, y in zip(outputs(m, feed), check(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST[dtype]
    assert q.ByteSize() < m.ByteSize() / 2 + 6000


@pytest.mark.parametrize("symmetric", [False, True, "full"])
@pytest.mark.parametrize("dtype", ["int2", "int3", "int8"])
def test_forms_hold_the_same_codes(dtype, symmetric):
    m = perceptron()
    options = {"dtype": dtype, "symmetric": symmetric, "method": "minmax"}
    ys = [
        outputs(quantize_weights(m, form=form, **options), {"x": ROWS})[0] for form in ("folded", "MatMulNBits", "QDQ")
    ]
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
    q = quantize_weights(m, dtype="int3", conv_dtype="int3")
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
    layers = {
        "a": (arrays["w1"].T, arrays["b1"]),
        "d": (arrays["w2"].T, arrays["b2"]),
        "y": (arrays["w3"], arrays["b3"]),
    }

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
        return (rng.normal(size=(2, 8, 4, 4)).repeat(4, 2).repeat(4, 3) + 0.1 * rng.normal(size=(2, 8, 16, 16))).astype(
            "f4"
        )

    data, test = [smooth() for _ in range(3)], {"x": smooth()}
    exact = outputs(m, test)[0]
    alone = sqnr(exact, outputs(quantize_weights(m, dtype="int3", conv_dtype="int3"), test)[0])
    rounded = quantize_weights(m, dtype="int3", conv_dtype="int3", data=data)
    assert sqnr(exact, check(rounded, test)[0]) > alone


def test_convolutions_keep_8_bits_by_default():
    """Beside a matrix of 2 bits: a filter has few weights, and what is saved on it costs the whole model."""
    w, filters = real(64, 32), real(32, 16, 3, 3)
    nodes = [node("Conv", "x,f", "h"), node("GlobalAveragePool", "h", "p"), node("Flatten", "p", "r")]
    m = model(
        [*nodes, node("MatMul", "r,w", "y")],
        {"x": (F32, ["n", 16, 8, 8])},
        {"y": (F32, ["n", 64])},
        {"f": filters, "w": np.ascontiguousarray(w.T)},
    )
    for data in (None, [real(2, 16, 8, 8)]):
        q = quantize_weights(m, dtype="int2", data=data)
        dtypes = {change.op_type: change.dtype for change in qn.onnx.report(q)}
        assert dtypes["Conv"] == "int8"
        assert dtypes["MatMul"] != "int8"


@pytest.mark.parametrize("name", ["tied", "recurrent", "gates", "branches"])
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


@pytest.mark.parametrize(
    ("opset", "form"),
    [*((opset, "QDQ") for opset in onnx_zoo.OPSETS), *((onnx_zoo.OPSETS[-1], form) for form in (None, "MatMulNBits"))],
)
@pytest.mark.parametrize("name", onnx_zoo.MODELS)
def test_every_small_model_keeps_its_outputs(name, opset, form):
    build, inputs = onnx_zoo.MODELS[name]
    m, feed = build(opset, in_nodes=opset in (13, 21)), inputs(9)
    q = quantize_weights(m, dtype="int8", form=form)
    onnx.checker.check_model(q, full_check=is_standard(q))
    for exact, y in zip(outputs(m, feed), outputs(q, feed), strict=True):
        assert sqnr(exact, y) > LEAST["int7"]  # more layers than those of `perceptron`


def test_dequantize_linear_of_operators_that_the_runtime_lacks():
    m = model(
        [node("Mul", "x,x", "h"), node("MatMul", "h,w", "y")],
        {"x": (F32, ["n", 64])},
        {"y": (F32, ["n", 64])},
        {"w": real(64, 64)},
    )
    m.graph.node[0].op_type, m.opset_import[0].version, m.ir_version = "SwiGLU", 28, 13
    with pytest.raises(ValueError, match="quantize_weights: form must be another one than 'QDQ' for a model that has"):
        quantize_weights(m, form="QDQ")


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


def test_a_constant_that_is_listed_as_an_input():
    m = model([node("MatMul", "x,w", "y")], {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 48])}, {"w": real(64, 48)})
    m.graph.input.append(onnx.helper.make_tensor_value_info("w", F32, [64, 48]))
    m.ir_version = 3
    q = quantize_weights(m)
    assert sqnr(outputs(m, {"x": ROWS})[0], check(q, {"x": ROWS})[0]) > LEAST["int4"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float16"}, TypeError,
         "quantize_weights: dtype must be an integer type of at most 8 bits; got 'float16'."),
        ({"dtype": "int16"}, TypeError,
         "quantize_weights: dtype must be an integer type of at most 8 bits; got 'int16'."),
        ({"group_size": 0}, ValueError, "quantize_weights: group_size must be a multiple of 4, or None; got 0."),
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
