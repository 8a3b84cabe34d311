"""check_exact, against exact products in NumPy, simulate_saturation, and an emulated CPU without VNNI."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.errors import CalibrationError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_zoo import MODELS  # noqa: E402
from static_models import digits, digits_mlp, images, residual_cnn  # noqa: E402

from qnumpy.onnx import (  # noqa: E402
    check_exact,
    evaluator,
    quantize_dynamic,
    quantize_static,
    quantize_weights,
)
from qnumpy.onnx._products import Product, checked  # noqa: E402

ALL = {"include": ["*"], "min_sqnr": None, "progress": False}
QUIET = {"progress": False, "measure": False}
RUNTIME = tuple(map(int, ort.__version__.split(".")[:2]))
HASWELL = Path(__file__).parents[1] / "fixtures/haswell_products.npz"


def one_node(node: Any, inputs: dict[str, Any], constants: dict[str, Any], output: int = TensorProto.INT32) -> Any:
    """Return a model of one node; `inputs` are arrays of the types and shapes."""
    types = {name: (helper.np_dtype_to_tensor_dtype(x.dtype), ["n", *x.shape[1:]]) for name, x in inputs.items()}
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, *kind) for name, kind in types.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def has_vnni() -> bool:
    return any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_vnni", "avx_vnni"))


def test_a_product_that_saturates_elsewhere() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (9, 37)).astype(np.uint8), rng.integers(-127, 128, (37, 20)).astype(np.int8)
    model = one_node(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), {"x": x}, {"w": w})
    report = check_exact(model, [x, x[:4]], progress=False)
    expected = [qn.simulate_saturation(part, w) for part in (x, x[:4])]
    assert report.elsewhere == sum(e.wrong for e in expected) > 0
    assert report.wrong in (0, report.elsewhere)  # of a CPU with and without VNNI
    (row,) = report
    assert (row.op_type, row.outputs, row.columns) == ("MatMulInteger", 13 * 20, 20)
    assert (row.unsafe, row.largest) == (int((~expected[0].safe).sum()), max(e.max_abs_error for e in expected))
    assert not report.exact
    assert not report.proven
    assert report.remedy is not None
    assert report.remedy.works
    assert 0 < report.remedy.slowdown < 100
    if RUNTIME >= (1, 32):  # older ones do not change a MatMulInteger
        assert (report.remedy.wrong, report.remedy.elsewhere) == (0, 0)
        assert "session.x64quantprecision=1 no output is wrong" in str(report)
    assert report.to_json()
    assert "<table>" in report._repr_html_()


@pytest.mark.parametrize(
    ("x_type", "w_type", "safe"), [(np.uint8, np.uint8, True), (np.int8, np.int8, True), (np.uint8, np.int8, False)]
)
def test_types_of_bytes(x_type: Any, w_type: Any, safe: bool) -> None:
    x, w = np.full((3, 8), np.iinfo(x_type).max, x_type), np.full((8, 4), np.iinfo(w_type).max, w_type)
    model = one_node(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), {"x": x}, {"w": w})
    report = check_exact(model, [x], **QUIET)
    assert report.proven == safe
    assert (report.elsewhere == 0) == safe


@pytest.mark.parametrize("name", ["matmul", "dense", "grouped", "pointwise", "multiplied", "thin", "depthwise"])
def test_simulation_is_what_onnxruntime_computes_without_vnni(name: str) -> None:
    """Codes of an emulated Haswell: the saturated sums explain each one, the exact sums do not."""
    kept = dict(np.load(HASWELL))
    x, w, y = (kept[f"{name}_{part}"] for part in "xwy")
    if name == "matmul":
        product = Product(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), 0, 1)
        simulated = qn.simulate_saturation(x, w)
        assert (simulated.product == y).all()
        result = checked(product, {0: x, 1: w}, y)
        assert result is not None
        assert result.wrong == result.elsewhere == simulated.wrong > 0
        return
    node = helper.make_node("QLinearConv", list("abcdefgh"), ["y"], group=int(kept[f"{name}_groups"]))
    product = Product(node, a=0, a_scale=1, a_zero=2, b=3, b_scale=4, b_zero=5, y_scale=6, y_zero=7, result="codes")
    one, zero = np.float32(1), np.uint8(0)
    inputs = {0: x, 1: one, 2: zero, 3: w, 4: one, 5: np.int8(0), 6: kept[f"{name}_scale"], 7: np.uint8(128)}
    result = checked(product, {i: np.asarray(array) for i, array in inputs.items()}, y)
    assert result is not None
    if name == "depthwise":
        assert (result.wrong, result.elsewhere, result.unsafe) == (0, 0, 0)
    else:
        assert 0 < result.wrong <= result.elsewhere  # small errors are less than half a step of the codes
        assert result.wrong > 0.8 * result.elsewhere
    sums = checked(Product(helper.make_node("ConvInteger", ["x", "w"], ["y"], group=node.attribute[0].i), 0, 1),
                   {0: x, 1: w}, kept[f"{name}_sums"])  # fmt: skip
    assert sums is not None
    assert (sums.wrong, sums.elsewhere) == (0, 0)


@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"pads": [1, 2, 0, 1]}, {"strides": [2, 1], "pads": [1, 1, 1, 1]}, {"dilations": [2, 1], "group": 2},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"group": 8},
    ],
)  # fmt: skip
@pytest.mark.parametrize("op_type", ["ConvInteger", "QLinearConv"])
def test_convolutions(op_type: str, attributes: dict[str, Any]) -> None:
    """Weights within +-63 cannot saturate: an output that differs would be a fault of the check."""
    rng = np.random.default_rng(2)
    groups = attributes.get("group", 1)
    x = rng.integers(0, 256, (2, 8, 9, 7)).astype(np.uint8)
    w = rng.integers(-63, 64, (8, 8 // groups, 3, 2)).astype(np.int8)
    zero = np.uint8(117)
    if op_type == "ConvInteger":
        model = one_node(
            helper.make_node(op_type, ["x", "w", "zero"], ["y"], **attributes), {"x": x}, {"w": w, "zero": zero}
        )
    else:
        constants = {
            "w": w, "zero": zero, "s": np.float32(0.02), "ws": rng.uniform(0.01, 0.03, 8).astype(np.float32),
            "wz": np.zeros(8, np.int8), "ys": np.float32(0.15), "b": rng.integers(-500, 500, 8).astype(np.int32),
        }  # fmt: skip
        names = ["x", "s", "zero", "w", "ws", "wz", "ys", "zero", "b"]
        model = one_node(helper.make_node(op_type, names, ["y"], **attributes), {"x": x}, constants, TensorProto.UINT8)
    report = check_exact(model, [x], **QUIET)
    assert len(report) == 1
    assert report.proven
    assert report.rounded <= 3


def test_a_convolution_over_one_axis() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (2, 4, 20)).astype(np.uint8), rng.integers(-60, 60, (8, 4, 3)).astype(np.int8)
    node = helper.make_node("ConvInteger", ["x", "w", "zero"], ["y"], pads=[2, 1], strides=[2])
    assert check_exact(one_node(node, {"x": x}, {"w": w, "zero": np.uint8(3)}), [x], **QUIET).proven


@pytest.mark.parametrize(
    "shapes", [((37,), (37, 5)), ((3, 4, 37), (37, 5)), ((2, 3, 37), (2, 37, 5)), ((4, 37), (37,))]
)
def test_shapes_of_products(shapes: Any) -> None:
    rng = np.random.default_rng(4)
    x, w = (rng.integers(0, 200, shape).astype(np.uint8) for shape in shapes)
    node = helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])
    model = one_node(node, {"x": x, "w": w}, {"xz": np.uint8(7), "wz": np.uint8(130)})
    report = check_exact(model, [{"x": x, "w": w}], **QUIET)
    assert report.proven
    assert len(report) == 1


def test_a_wrong_output_is_found() -> None:
    rng = np.random.default_rng(5)
    x, w = rng.integers(0, 256, (6, 12)).astype(np.uint8), rng.integers(-60, 60, (12, 7)).astype(np.int8)
    exact = x.astype(np.int32) @ w.astype(np.int32)
    plain = Product(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), 0, 1)
    changed = exact.copy()
    changed[2, 3] += 1
    assert [checked(plain, {0: x, 1: w}, y).wrong for y in (exact, changed)] == [0, 1]  # type: ignore[union-attr]
    floats = plain._replace(a_scale=2, b_scale=3, result="float")
    scales = {2: np.float32(0.01), 3: rng.uniform(0.1, 0.2, 7).astype(np.float32)}
    real = (exact * (0.01 * scales[3].astype(np.float64))).astype(np.float32)
    shifted = real.copy()
    shifted[1, 1] += 0.01 * scales[3][1]
    inputs = {0: x, 1: w, **{i: np.asarray(s) for i, s in scales.items()}}
    assert [checked(floats, inputs, y).wrong for y in (real, shifted)] == [0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["QDQ", "integer"])
def test_our_static_models_cannot_saturate_for_any_cpu(form: str) -> None:
    x = images(3)
    made = {cpu: quantize_static(residual_cnn(), x, form=form, target_cpu=cpu, **ALL) for cpu in ("any", "vnni")}
    safe, fast = (check_exact(made[cpu], x, **QUIET) for cpu in ("any", "vnni"))
    assert safe.proven
    assert len(safe) == 6
    assert fast.elsewhere > 0  # so that this test can fail
    if has_vnni():
        assert fast.wrong == 0


@pytest.mark.parametrize("form", ["QDQ", "integer"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_the_runtimes_own_remedy_loads_our_models(name: str, form: Any) -> None:
    """It replaces an int8 weight and its zero point, which no other weight may have."""
    build, inputs = MODELS[name]
    batches = [inputs(i) for i in range(3)]
    quantized = quantize_static(build(), batches, form=form, target_cpu="vnni", **ALL)
    report = check_exact(quantized, batches, progress=False)
    assert report.unsafe
    assert report.remedy is not None
    assert report.remedy.works, report.remedy.message
    if RUNTIME >= (1, 32):  # older ones leave these products as they are
        assert report.remedy.elsewhere == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo(name: str) -> None:
    build, inputs = MODELS[name]
    report = check_exact(quantize_dynamic(build(), include=["*"]), [inputs(0)], **QUIET)
    assert report.proven, str(report)


def test_our_operators_have_the_bits_of_the_reference() -> None:
    build, inputs = MODELS["transformer"]
    model = quantize_dynamic(build(), include=["MatMul"], target="qnumpy")
    ours = [n for n in model.graph.node if n.domain == "qnumpy"]
    report = check_exact(model, [inputs(0), inputs(1)], **QUIET)
    rows = [row for row in report if row.note == "qnumpy: the bits of ReferenceEvaluator"]
    assert len(rows) == len(ours) > 3
    assert all(row.outputs and not row.wrong for row in rows)
    assert report.proven
    for op_type in ("Embedding", "SkipLayerNormalization"):
        own = own_operator(op_type)
        (row,) = check_exact(
            own, [np.array([[0, 2, 1]])] if op_type == "Embedding" else [np.eye(3, dtype="f")], **QUIET
        )
        assert (row.op_type, row.wrong, row.outputs > 0) == (op_type, 0, True)


def test_other_bits_of_our_operators_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = own_operator("Embedding")
    reference = evaluator.Embedding._run

    def wrong(self: Any, *inputs: Any, **attributes: Any) -> Any:
        (y,) = reference(self, *inputs, **attributes)
        y[0, 0, 0] = np.nextafter(y[0, 0, 0], np.float32(9))
        return (y,)

    monkeypatch.setattr(evaluator.Embedding, "_run", wrong)
    report = check_exact(model, [np.array([[0, 2, 1]]), np.array([[1, 1]])], **QUIET)
    assert report.wrong == 2
    assert not report.exact


def own_operator(op_type: str) -> Any:
    """Return a model of one operator of the domain "qnumpy"."""
    constants: dict[str, Any]
    if op_type == "Embedding":
        constants = {"codes": np.arange(12, dtype=np.int8).reshape(4, 3), "scale": np.linspace(0.1, 1, 4, dtype="f")}
        inputs, kind = ["x", *constants], (TensorProto.INT64, ["n", "m"])
    else:
        constants = {"gamma": np.linspace(0.5, 2, 3, dtype="f")}
        inputs, kind = ["x", "x", *constants], (TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], domain="qnumpy")], "g", [helper.make_tensor_value_info("x", *kind)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("qnumpy", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_paths_bytes_and_models(tmp_path: Path) -> None:
    model, x = quantize_dynamic(digits_mlp(), include=["*"]), digits()[1]
    before = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(before)
    reports = [check_exact(form, [x], **QUIET).to_json() for form in (model, before, tmp_path / "m.onnx")]
    assert reports[0] == reports[1] == reports[2]
    assert model.SerializeToString() == before


def test_onnxruntimes_own_dynamic_form(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic as theirs

    onnx.save(digits_mlp(), tmp_path / "m.onnx")
    theirs(tmp_path / "m.onnx", tmp_path / "q.onnx", per_channel=True)
    report = check_exact(tmp_path / "q.onnx", [digits()[1]], progress=False)
    assert [row.op_type for row in report] == ["DynamicQuantizeMatMul"] * 3
    assert report.elsewhere > 100
    if has_vnni():
        assert report.wrong == 0
    assert report["node_sum1_MatMul_quant"].note == "quantizes its input itself"


def test_weights_inside_a_branch_are_judged_by_themselves() -> None:
    build, inputs = MODELS["branches"]
    safe, fast = (quantize_dynamic(build(), include=["*"], target_cpu=cpu) for cpu in ("any", "vnni"))
    report = check_exact(fast, [inputs(0)], **QUIET)
    inside = [row for row in report if row.note == "inside a subgraph; by its weights"]
    assert inside
    assert any(row.unsafe for row in inside)
    assert check_exact(safe, [inputs(0)], **QUIET).unsafe == 0


def test_int8_activations_of_weight_only_files_are_said() -> None:
    build, inputs = MODELS["mlp"]
    options: Any = {"dtype": "int4", "group_size": 32, "form": "MatMulNBits", "progress": False}
    silent, said = (quantize_weights(build(), activations=kind, **options) for kind in ("float", "int8"))
    notes = [row.note for row in check_exact(said, [inputs(0)], **QUIET)]
    assert notes
    assert all("rounds its activations to int8" in note for note in notes)
    assert not [row.note for row in check_exact(silent, [inputs(0)], **QUIET)]


def test_float_model_and_errors() -> None:
    report = check_exact(digits_mlp(), [digits()[1]], progress=False)
    assert len(report) == 0
    assert report.proven
    with pytest.raises(CalibrationError, match=re.escape("check_exact: data must be one batch or more; got none.")):
        check_exact(digits_mlp(), [])
    with pytest.raises(
        ValueError,
        match=re.escape("check_exact: data (batch 0) must be a mapping of the inputs 'x'; got the name 'y'."),
    ):
        check_exact(digits_mlp(), [{"y": digits()[1]}])
    with pytest.raises(TypeError, match=re.escape("check_exact: measure must be True or False; got 'no'.")):
        check_exact(digits_mlp(), [digits()[1]], measure="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="check_exact: model must be the path or the bytes of an ONNX model"):
        check_exact(3, [])
