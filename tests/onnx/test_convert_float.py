"""Models in float16 and bfloat16: valid, near to float32, and float32 where the type does not hold the numbers."""

import numpy as np
import onnx_zoo
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from weight_models import F32, MODELS, ROWS, model, node, perceptron, real, reference, sqnr  # noqa: E402

import qnumpy as qn  # noqa: E402
from qnumpy.onnx.convert_float import convert_float  # noqa: E402
from qnumpy.onnx.session import session  # noqa: E402

F16, BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16


def outputs(m, feed):
    return session(m, threads=1).run(None, feed)


def check(m, feed):
    """The model is valid, and onnxruntime and onnx.reference agree up to the roundings that one of them leaves out."""
    onnx.checker.check_model(m, full_check=True)
    got = outputs(m, feed)
    for y, wanted in zip(got, reference(m, feed) or got, strict=True):
        assert y.dtype == wanted.dtype
        assert sqnr(wanted, y) > 40
    return got


def types(m):
    """The types of the initializers, with their sizes."""
    return {init.name: init.data_type for init in m.graph.initializer}


def casts(m):
    return [n for n in m.graph.node if n.op_type == "Cast"]


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize(("dtype", "least"), [("float16", 50), ("bfloat16", 35)])
@pytest.mark.parametrize("name", list(MODELS))
def test_models(name, dtype, least, with_data):
    make, feed = MODELS[name]
    m = make()
    kept = m.SerializeToString()
    converted = convert_float(m, dtype=dtype, data=[feed] if with_data else None)
    assert m.SerializeToString() == kept
    for exact, y in zip(outputs(m, feed), check(converted, feed), strict=True):
        assert y.dtype == np.float32
        assert sqnr(exact, y) > least
    assert converted.ByteSize() < 0.5 * m.ByteSize() + 3000


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_only(name):
    make, feed = MODELS[name]
    m = make()
    converted = convert_float(m, weights_only=True)
    for exact, y in zip(outputs(m, feed), check(converted, feed), strict=True):
        assert sqnr(exact, y) > 60
    assert converted.ByteSize() < 0.5 * m.ByteSize() + 3000


def test_constants_are_rounded_by_cast():
    w = real(64, 64)
    m = model([node("MatMul", "x,w", "y")], {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 64])}, {"w": w})
    for dtype in ("float16", "bfloat16"):
        converted = convert_float(m, dtype=dtype)
        (constant,) = converted.graph.initializer
        kept = np.frombuffer(constant.raw_data, np.uint16)
        np.testing.assert_array_equal(kept, qn.cast(w, dtype).view(np.uint16).ravel())


def test_the_whole_model_computes_in_the_type():
    converted = convert_float(perceptron(), data=[{"x": ROWS}])
    assert set(types(converted).values()) == {F16}
    assert [n.op_type for n in converted.graph.node].count("Cast") == 2  # of the input, of the output


def test_inputs_and_outputs():
    m = perceptron()
    converted = convert_float(m, keep_io=False)
    assert not casts(converted)
    values = [*converted.graph.input, *converted.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {F16}
    assert [value.name for value in values] == ["x", "y"]
    (y,) = check(converted, {"x": ROWS.astype(np.float16)})
    assert sqnr(outputs(m, {"x": ROWS})[0], y) > 45


def growing():
    """x, its square, which overflows float16, and the root of the mean of that."""
    nodes = [node("MatMul", "x,w", "a"), node("Mul", "a,a", "square"), node("ReduceMean", "square", "mean", axes=[-1]),
             node("Sqrt", "mean", "size"), node("Div", "a,size", "b"), node("MatMul", "b,w", "y")]  # fmt: skip
    return model(nodes, {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 64])}, {"w": real(64, 64)})


def narrow_nodes(m):
    """The nodes that read or write float16, of those that the model had before."""
    inferred = onnx.shape_inference.infer_shapes(m, check_type=True, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info} | types(m)
    return {n.op_type for n in m.graph.node if n.op_type != "Cast" and any(kinds.get(name) == F16 for name in n.output)}


def test_overflow_stays_float32():
    m = growing()
    x = ROWS * 500
    converted = convert_float(m, data=[{"x": x}])
    assert narrow_nodes(converted) >= {"MatMul"}
    assert not narrow_nodes(converted) & {"Mul", "ReduceMean"}
    assert sqnr(outputs(m, {"x": x})[0], check(converted, {"x": x})[0]) > 50
    small = convert_float(m, data=[{"x": ROWS}])
    assert narrow_nodes(small) >= {"MatMul", "Mul", "ReduceMean"}


def test_an_epsilon_that_becomes_zero_stays_float32():
    nodes = [node("Mul", "x,x", "a"), node("Add", "a,eps", "b"), node("Reciprocal", "b", "c"), node("Mul", "c,x", "y")]
    arrays = {"eps": np.array(1e-12, np.float32)}
    m = model(nodes, {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 64])}, arrays)
    converted = convert_float(m, data=[{"x": ROWS + np.sign(ROWS)}])
    assert types(converted)["eps"] == F32
    assert "Add" not in narrow_nodes(converted)


def test_a_mask_stays_float32():
    nodes = [node("Where", "keep,x,lowest", "a"), node("Softmax", "a", "p", axis=-1), node("MatMul", "p,w", "y")]
    arrays = {"lowest": np.array(np.finfo(np.float32).min), "w": real(64, 64)}
    inputs = {"x": (F32, ["n", 64]), "keep": (TensorProto.BOOL, ["n", 64])}
    m = model(nodes, inputs, {"y": (F32, ["n", 64])}, arrays)
    feed = {"x": ROWS, "keep": np.zeros(ROWS.shape, bool)}
    converted = convert_float(m, data=[feed])
    assert types(converted)["lowest"] == F32
    assert types(converted)["w"] == F16
    assert sqnr(outputs(m, feed)[0], check(converted, feed)[0]) > 50


def test_exact_numbers_stay_float32():
    nodes = [node("Mul", "x,two", "a"), node("Cast", "a", "y", to=TensorProto.INT64)]
    m = model(nodes, {"x": (F32, ["n"])}, {"y": (TensorProto.INT64, ["n"])}, {"two": np.array(2, np.float32)})
    x = np.array([1, 1500, 2049], np.float32)
    for data in (None, [{"x": x}]):
        np.testing.assert_array_equal(outputs(convert_float(m, data=data), {"x": x})[0], [2, 3000, 4098])


def test_an_input_of_fixed_type():
    nodes = [node("Conv", "x,w", "a", pads=[1, 1, 1, 1]), node("Resize", "a,,scales", "b", mode="linear"),
             node("Conv", "b,w", "y", pads=[1, 1, 1, 1])]  # fmt: skip
    arrays = {"w": real(8, 8, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    m = model(nodes, {"x": (F32, [1, 8, 6, 6])}, {"y": (F32, [1, 8, 12, 12])}, arrays)
    feed = {"x": real(1, 8, 6, 6)}
    converted = convert_float(m, data=[feed])
    assert types(converted)["scales"] == F32
    assert "Resize" in narrow_nodes(converted)
    assert sqnr(outputs(m, feed)[0], check(converted, feed)[0]) > 50


def test_a_loop():
    body = helper.make_graph(
        [
            node("MatMul", "state,w", "next"),
            node("Identity", "go", "go_on"),
            node("Add", "next,shift", "scanned"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", F32, ["n", 64]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", F32, ["n", 64]),
            helper.make_tensor_value_info("scanned", F32, ["n", 64]),
        ],
    )
    nodes = [
        node("MatMul", "x,w", "start"),
        node("ReduceMax", "start", "shift", keepdims=0),
        helper.make_node("Loop", ["count", "true", "start"], ["y", "all"], body=body),
    ]
    arrays = {"w": real(64, 64), "count": np.array(3, np.int64), "true": np.array(True)}
    m = model(nodes, {"x": (F32, ["n", 64])}, {"y": (F32, ["n", 64]), "all": (F32, [None, "n", 64])}, arrays)
    converted = convert_float(m, data=[{"x": ROWS}])
    (inner,) = (a.g for n in converted.graph.node if n.op_type == "Loop" for a in n.attribute)
    assert "Cast" in {n.op_type for n in inner.node}
    assert types(converted)["w"] == F16
    onnx.checker.check_model(converted, full_check=True)
    # onnx.reference stacks what a loop scans along another axis
    for exact, y in zip(outputs(m, {"x": ROWS}), outputs(converted, {"x": ROWS}), strict=True):
        assert sqnr(exact, y) > 50


def test_measure():
    converted = convert_float(perceptron(), data=[{"x": ROWS}], measure=True)
    check(converted, {"x": ROWS})


def test_opsets():
    for opset in (11, 13, 21):
        m = perceptron(opset)
        converted = convert_float(m, data=[{"x": ROWS}])
        assert sqnr(outputs(m, {"x": ROWS})[0], check(converted, {"x": ROWS})[0]) > 50


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("opset", onnx_zoo.OPSETS)
@pytest.mark.parametrize("name", onnx_zoo.MODELS)
def test_every_small_model_keeps_its_outputs(name, opset, weights_only):
    build, inputs = onnx_zoo.MODELS[name]
    m, feed = build(opset, in_nodes=opset in (13, 21)), inputs(9)
    converted = convert_float(m, weights_only=weights_only)
    onnx.checker.check_model(converted, full_check=True)
    for exact, y in zip(outputs(m, feed), outputs(converted, feed), strict=True):
        assert sqnr(exact, y) > 50


def test_file(tmp_path):
    returned = convert_float(perceptron(), tmp_path / "h.onnx")
    assert onnx.load(tmp_path / "h.onnx") == returned
    session(str(tmp_path / "h.onnx"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, ValueError, "convert_float: dtype must be 'float16' or 'bfloat16'; got 'int8'."),
        ({"keep_io": 1}, TypeError, "convert_float: keep_io must be True or False; got 1."),
        ({"measure": True}, ValueError, "convert_float: measure must be False without data; got True."),
        ({"data": []}, qn.CalibrationError, "convert_float: data must be one batch or more; got none."),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error) as caught:
        convert_float(perceptron(), **options)
    assert str(caught.value) == message


def test_the_report_counts_each_constant_once():
    """The same in every run: arrays that are gone must not be taken for others."""
    m = MODELS["recurrent"][0]()
    made = [convert_float(m, weights_only=True) for _ in range(4)]
    assert len({entry.SerializeToString() for entry in made}) == 1
    rows = qn.onnx.report(made[0])
    assert sum(row.bytes_before for row in rows) <= sum(np.prod(init.dims) * 4 for init in m.graph.initializer)
