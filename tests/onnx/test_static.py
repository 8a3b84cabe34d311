"""quantize_static and calibrate, against float models in onnxruntime and against onnx.reference."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_zoo
import pytest
from static_models import Builder, digits, digits_mlp, images, residual_cnn, sqnr

import qnumpy as qn
from qnumpy.errors import CalibrationError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx.reference import ReferenceEvaluator  # noqa: E402

from qnumpy.onnx import calibrate, quantize_static, report  # noqa: E402

TECHNIQUES = ["mse", "minmax", "moving_average", "percentile", "entropy", "best"]
ALL = {"include": ["*"], "min_sqnr": None, "progress": False}


SPREAD = np.where(np.arange(1200) % 100 == 7, 40, 1).astype(np.float32)  # a hundredth of the channels is wide


def run(model: Any, feed: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    engine = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return engine.run(None, feed)  # type: ignore[no-any-return]


def checked(model: Any) -> Any:
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def arrays(model: Any) -> dict[str, Any]:
    return {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}


def changes(model: Any) -> dict[str, dict[str, Any]]:
    entry = next(p.value for p in model.metadata_props if p.key == "qnumpy.report")
    rows = json.loads(entry)["changes"]
    return {row["node"] if isinstance(row, dict) else row[0]: row for row in rows}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_digits(technique: str) -> None:
    _, x, labels = digits()
    model = digits_mlp()
    quantized = checked(quantize_static(model, np.split(x[:180], 9), observer=technique, **ALL))
    exact, coarse = (run(m, {"x": x[180:]})[0] for m in (model, quantized))
    right = [(y.argmax(axis=1) == labels[180:]).mean() for y in (exact, coarse)]
    assert abs(right[0] - right[1]) <= 0.0056  # one image of 180
    assert sqnr(exact, coarse) > 45
    whole = checked(quantize_static(model, np.split(x[:180], 9), observer=technique, quantize_outputs=True, **ALL))
    assert sqnr(exact, run(whole, {"x": x[180:]})[0]) > 40


def test_ranges_of_few_elements_have_room() -> None:
    b = Builder()
    x = b.op("Gemm", ["x", b.normal("w", 16, 16)], "h")
    b.op("Clip", [x, b.constant("low", np.float32(0)), b.constant("high", np.float32(0.5))], "r")
    b.op("Gemm", ["r", b.normal("v", 16, 16)], "y")
    model, scales = b.model({"x": ["n", 16]}, ["y"]), {}
    for rows in (64, 20_000):
        x = b.rng.normal(size=(rows, 16)).astype(np.float32)
        quantized = quantize_static(model, [x], observer="minmax", quantize_outputs=True, **ALL)
        values, y = arrays(quantized), run(model, {"x": x})[0]
        scales[rows] = {name: float(values[f"{name}_scale"]) * 255 for name in ("x", "r", "y")}
        scales[rows] |= {"x seen": float(np.ptp(x)), "y seen": float(np.ptp(y))}
    for of in scales.values():
        assert of["x"] == pytest.approx(of["x seen"], rel=1e-5)  # an input is what the user says it is
        assert of["r"] == pytest.approx(0.5, rel=1e-5)  # a Clip has no values outside of its bounds
    assert scales[64]["y"] == pytest.approx(1.2 * scales[64]["y seen"], rel=1e-4)
    assert scales[20_000]["y"] == pytest.approx(scales[20_000]["y seen"], rel=1e-4)


@pytest.mark.parametrize("form", ["QDQ", "integer"])
@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_every_form_of_a_cnn(form: str, opset: int) -> None:
    model, feed = residual_cnn(opset), {"x": images(1, seed=9)[0]}
    before = model.SerializeToString()
    quantized = checked(quantize_static(model, images(4), form=form, **ALL))
    assert model.SerializeToString() == before
    exact, coarse = run(model, feed)[0], run(quantized, feed)[0]
    assert sqnr(exact, coarse) > 30
    assert sqnr(ReferenceEvaluator(quantized).run(None, feed)[0], coarse) > 40  # but for ties of requantization
    assert quantized.opset_import[0].version >= 13
    found = operators(quantized)
    assert "Relu" not in found  # codes from zero on saturate where it clips
    assert found.count("QLinearConv" if form == "integer" else "Conv") == 5
    assert {row["form"] for row in changes(quantized).values()} == (
        {"QDQ"} if form == "QDQ" else {"QLinearConv", "MatMulInteger"}
    )


def test_concat_shares_one_range() -> None:
    quantized = quantize_static(residual_cnn(), images(4), form="integer", **ALL)
    joined = [node for node in quantized.graph.node if node.op_type == "QLinearConv"][-2:]
    values = arrays(quantized)
    assert values[joined[0].input[6]] == values[joined[1].input[6]]


def test_names_are_the_ecosystem_s() -> None:
    quantized = quantize_static(digits_mlp(), [digits()[1]], **ALL)
    assert {"w1_quantized", "w1_scale", "w1_zero_point", "x_scale", "x_zero_point", "b1_quantized"} <= set(
        arrays(quantized)
    )
    assert arrays(quantized)["w1_quantized"].dtype == np.int8
    assert [v.name for v in quantized.graph.output] == ["logits"]


@pytest.mark.parametrize("target", ["any", "avx2"])
def test_no_product_of_a_pair_saturates(target: str) -> None:
    x = images(4)
    safe, fast = (quantize_static(residual_cnn(), x, form="integer", target_cpu=t, **ALL) for t in (target, "vnni"))
    assert all(saturating(safe, form) == 0 for form in ("channels first", "channels last"))
    assert saturating(fast, "channels first") > 0  # so that this test can fail


def test_weights_for_vnni_and_arm_use_all_codes() -> None:
    vnni, arm, any_cpu = (
        quantize_static(digits_mlp(), [digits()[1]], target_cpu=target, **ALL) for target in ("vnni", "arm", "any")
    )
    assert vnni.graph == arm.graph
    w = {
        name: array.astype(int) for name, array in arrays(any_cpu).items() if array.dtype == np.int8 and array.ndim == 2
    }
    assert max(np.abs(array[:, 0::2] + array[:, 1::2]).max() for array in w.values()) <= 128
    w = {name: array.astype(int) for name, array in arrays(arm).items() if array.dtype == np.int8 and array.ndim == 2}
    assert max(np.abs(array[:, 0::2] + array[:, 1::2]).max() for array in w.values()) > 128


def saturating(model: Any, order: str) -> int:
    """Return how many pairs of products of the weights with the largest codes leave int16."""
    count = 0
    for name, w in arrays(model).items():
        if name.endswith("_quantized") and w.dtype == np.int8:
            rows = w.T if w.ndim == 2 else w  # the integer form has (K, N)
            rows = np.moveaxis(rows, 1, -1) if order == "channels last" else rows
            flat = np.ascontiguousarray(rows.reshape(len(rows), -1).T)
            count += qn.simulate_saturation(np.full((1, len(flat)), 255, np.uint8), flat).saturated
    return count


def test_bias_of_tiny_and_dead_channels() -> None:
    b = Builder()
    w = b.rng.normal(size=(16, 16, 1, 1)).astype(np.float32)
    w[3] *= 1e-12
    w[5] = 0
    bias = np.linspace(-3, 5, 16).astype(np.float32)
    b.op("Conv", ["x", b.constant("w", w), b.constant("b", bias)], "y")
    model = b.model({"x": [1, 16, 4, 4]}, ["y"])
    x = [b.rng.normal(size=(1, 16, 4, 4)).astype(np.float32) for _ in range(3)]
    for form in ("QDQ", "integer"):
        quantized = checked(quantize_static(model, x, form=form, **ALL))
        exact, coarse = run(model, {"x": x[0]})[0], run(quantized, {"x": x[0]})[0]
        step = float(np.ptp(exact)) / 255
        assert np.abs(coarse[:, [3, 5]] - exact[:, [3, 5]]).max() < step
        assert np.abs(coarse - exact).max() < 6 * step


def test_weights_in_constant_nodes_behind_reshape_and_shared() -> None:
    b = Builder()
    w = b.constant("flat", (b.rng.normal(size=32 * 32) / 6).astype(np.float32))
    shaped = b.op("Reshape", [w, b.constant("shape", np.array([32, 32]))], "shaped")
    x = b.op("MatMul", ["x", shaped], "first")
    x = b.op("Relu", [b.op("Add", [x, b.normal("bias", 32, spread=1.0)], "shifted")], "positive")
    b.op("MatMul", [x, shaped], "y")
    model = b.model({"x": ["n", 7, 32]}, ["y"])
    x = [b.rng.normal(size=(n, 7, 32)).astype(np.float32) for n in (1, 3, 2)]
    for form in ("QDQ", "integer"):
        quantized = checked(quantize_static(model, x, form=form, rounding="nearest", target_cpu="vnni", **ALL))
        assert sqnr(run(model, {"x": x[1]})[0], run(quantized, {"x": x[1]})[0]) > 35
        assert sum(a.dtype == np.int8 and a.size == 1024 for a in arrays(quantized).values()) == 1


def test_a_bias_behind_a_product_is_added_by_sum() -> None:
    b = Builder()
    x = b.op("MatMul", ["x", b.normal("w", 32, 64)], "product")
    b.op("Add", [x, b.normal("bias", 64, spread=1.0)], "y")
    quantized = quantize_static(
        b.model({"x": [1, 8, 32]}, ["y"]), [b.rng.normal(size=(1, 8, 32)).astype(np.float32)], **ALL
    )
    assert "Sum" in operators(quantized)  # onnxruntime turns Add into a Gemm in float32, six times slower


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_wide_channels_of_many_are_divided_by_factors(rounding: Any) -> None:
    b = Builder()
    b.op("MatMul", [b.op("Mul", ["x", b.constant("spread", SPREAD)], "wide"), b.normal("w", 1200, 16)], "y")
    model = b.model({"x": ["n", 1200]}, ["y"])
    x = [b.rng.normal(size=(60, 1200)).astype(np.float32) for _ in range(3)]
    quantized = checked(quantize_static(model, x, rounding=rounding, **ALL | {"include": ["MatMul"]}))
    assert any("smoothing" in name for name in arrays(quantized))
    # in one range for all channels, 40 times as wide as most, steps would leave about 25 dB
    assert sqnr(run(model, {"x": x[0]})[0], run(quantized, {"x": x[0]})[0]) > 32


def test_folding_keeps_the_answer() -> None:
    b = Builder()
    x = b.op("Conv", ["x", b.normal("w", 16, 3, 3, 3)], "c", pads=[1] * 4)
    names = [b.constant(k, np.abs(b.rng.normal(size=16)).astype(np.float32) + 0.5) for k in ("s", "h", "m", "v")]
    x = b.op("BatchNormalization", [x, *names], "normal")
    x = b.op("Mul", [x, b.constant("two", np.float32(2))], "twice")
    x = b.op("Add", [x, b.constant("each", b.rng.normal(size=(1, 16, 1, 1)).astype(np.float32))], "moved")
    ends = [b.constant(k, np.float32(v)) for k, v in (("three", 3), ("zero", 0), ("six", 6))]
    clipped = b.op("Clip", [b.op("Add", [x, ends[0]], "raised"), *ends[1:]], "clipped")
    b.op("Div", [b.op("Mul", [x, clipped], "product"), ends[2]], "y")
    model = b.model({"x": [1, 3, 8, 8]}, ["y"], opset=11)
    x = images(1, 8)[0][:1]
    folded = checked(quantize_static(model, [x], exclude=["*"]))
    assert sorted(operators(folded)) == ["Conv", "HardSigmoid", "Mul"]
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(model, {"x": x})[0], atol=2e-5)  # of sums of 27 products


def test_masks_stay_out_of_ranges_and_their_tensors_in_float() -> None:
    b = Builder()
    x = b.op("Add", ["x", "mask"], "masked")
    x = b.op("MatMul", [x, b.normal("w", 32, 32)], "product")
    b.op("MatMul", ["x", b.normal("v", 32, 32)], "plain")
    model = b.model({"x": [4, 32], "mask": [4, 32]}, ["product", "plain"])
    mask = np.where(np.arange(32) < 20, 0, np.finfo(np.float32).min).astype(np.float32) * np.ones((4, 1), np.float32)
    feeds = [{"x": b.rng.normal(size=(4, 32)).astype(np.float32), "mask": mask} for _ in range(2)]
    calibration = calibrate(model, feeds, progress=False)
    assert calibration.observers["masked"].max_ < 5
    assert calibration.observers["masked"].min_ > -5
    quantized = quantize_static(model, calibration=calibration, **ALL)
    rows = changes(quantized)
    assert rows["node_product"]["form"] == "float"
    assert rows["node_product"]["reason"].startswith("'masked' has masks or infinities")
    assert rows["node_plain"]["form"] == "QDQ"


def test_calibration_is_saved_and_reused() -> None:
    model, x = residual_cnn(), images(4)
    calibration = calibrate(model, x, progress=False)
    kept = qn.Calibration.from_json(calibration.to_json())
    direct = quantize_static(model, x, **ALL)
    again = quantize_static(model, calibration=kept, **ALL)
    assert again.graph.SerializeToString(deterministic=True) == direct.graph.SerializeToString(deterministic=True)


def test_calibration_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    model, x, state = residual_cnn(), images(5), tmp_path / "state.json"

    def interrupted() -> Any:
        yield from x[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, interrupted(), resume=state, progress=False)
    resumed = calibrate(model, iter(x), resume=state, progress=False)
    whole = calibrate(model, x, progress=False)
    assert resumed.batches == 5
    assert all(whole[name] == resumed[name] for name in whole)
    with pytest.raises(ValueError, match=r"calibrate: resume must be a file of the same model and observer"):
        calibrate(digits_mlp(), [digits()[1]], resume=state, progress=False)


def test_dask_arrays_and_bags() -> None:
    da, bag = pytest.importorskip("dask.array"), pytest.importorskip("dask.bag")
    model, x = digits_mlp(), digits()[1][:120]
    whole = dict(calibrate(model, np.split(x, 4), progress=False))
    assert dict(calibrate(model, da.from_array(x, chunks=(30, 16)), progress=False)) == whole
    items = bag.from_sequence([{"x": part} for part in np.split(x, 4)], npartitions=2)
    assert dict(calibrate(model, items, progress=False)) == whole


def test_excluded_layers_stay_as_they_are() -> None:
    quantized = quantize_static(residual_cnn(), images(2), exclude=["node_c4", "Gemm"], min_sqnr=None, progress=False)
    values, exact = arrays(quantized), arrays(residual_cnn())
    assert np.array_equal(values["w4"], exact["w4"])
    assert np.array_equal(values["w6"], exact["w6"])
    assert changes(quantized)["node_c4"]["reason"] == "excluded"


def test_layers_return_to_float_until_the_outputs_are_right() -> None:
    model, x = residual_cnn(), images(4)
    loose, strict = (quantize_static(model, x, include=["*"], min_sqnr=least, progress=False) for least in (None, 60.0))
    assert sqnr(run(model, {"x": x[0]})[0], run(loose, {"x": x[0]})[0]) < 60
    assert sqnr(run(model, {"x": x[0]})[0], run(strict, {"x": x[0]})[0]) >= 60
    assert any("min_sqnr" in row["reason"] for row in changes(strict).values())


def test_the_report_says_what_accuracy_costs() -> None:
    model, x = residual_cnn(), images(4)
    whole = report(quantize_static(model, x, include=["*"], min_sqnr=10.0, progress=False)).facts
    assert whole["sqnr_db"] == whole["whole_sqnr_db"]
    half = report(quantize_static(model, x, include=["*"], min_sqnr=whole["sqnr_db"] + 1, progress=False)).facts
    assert half["whole_sqnr_db"] == whole["sqnr_db"]
    assert half["sqnr_db"] >= whole["sqnr_db"] + 1
    assert set(half["layers"]) < set(whole["layers"])
    assert half["saved"] is None  # layers as small as these are slower in int8


def test_measured_models_are_no_slower() -> None:
    model, x = residual_cnn(), images(2)
    quantized = checked(quantize_static(model, x, measure=True, progress=False))
    facts = json.loads(next(p.value for p in quantized.metadata_props if p.key == "qnumpy.report"))
    facts = facts.get("facts", facts)
    assert facts["milliseconds"] <= facts["float_milliseconds"] * 1.5  # of a machine with other users


def test_weights_of_float_layers_are_stored_as_codes(tmp_path: Path) -> None:
    b = Builder()
    x = b.op("ConvTranspose", ["x", b.normal("w", 16, 16, 3, 3)], "up")
    b.op("Relu", [x], "y")
    model = b.model({"x": [1, 16, 4, 4]}, ["y"])
    x = b.rng.normal(size=(1, 16, 4, 4)).astype(np.float32)
    sizes = []
    for dtype, least in (("float32", 200), ("int16", 85), ("int8", 40)):
        path = tmp_path / f"{dtype}.onnx"
        quantized = checked(quantize_static(model, [x], path, float_weights=dtype, progress=False))
        assert path.read_bytes() == quantized.SerializeToString()
        sizes.append(path.stat().st_size)
        assert sqnr(run(model, {"x": x})[0], run(quantized, {"x": x})[0]) > least
        assert sqnr(ReferenceEvaluator(quantized).run(None, {"x": x})[0], run(quantized, {"x": x})[0]) > 120
    assert sizes[0] > 1.6 * sizes[1] > 1.6 * 1.4 * sizes[2]


def test_layers_inside_if_keep_their_answer() -> None:
    from onnx import TensorProto, helper

    b = Builder()
    b.normal("w", 32, 32)
    branches = [
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], [f"{name}_y"], name=f"{name}_product")], name, [],
                          [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, 32])])
        for name in ("then", "else")
    ]  # fmt: skip
    b.nodes.append(helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]))
    model = b.model({"x": [2, 32]}, ["y"])
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    feed = {"x": b.rng.normal(size=(2, 32)).astype(np.float32), "flag": np.array(True)}
    quantized = checked(quantize_static(model, [feed], progress=False))
    assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 80
    assert len(quantized.SerializeToString()) < len(model.SerializeToString())


def test_models_that_are_quantized_or_have_no_layers_pass() -> None:
    model, x = digits_mlp(), digits()[1]
    once = quantize_static(model, [x], **ALL)
    twice = checked(quantize_static(once, [x], min_sqnr=None, progress=False))
    assert np.array_equal(run(once, {"x": x})[0], run(twice, {"x": x})[0])
    b = Builder()
    b.op("Exp", ["x"], "y")
    empty = b.model({"x": [2]}, ["y"])
    assert operators(checked(quantize_static(empty, [np.zeros(2, np.float32)], progress=False))) == ["Exp"]


@pytest.mark.parametrize(
    ("opset", "form"), [*((opset, "QDQ") for opset in onnx_zoo.OPSETS), (onnx_zoo.OPSETS[-1], "integer")]
)
@pytest.mark.parametrize("name", onnx_zoo.MODELS)
def test_every_small_model_keeps_its_outputs(name: str, opset: int, form: Any) -> None:
    build, inputs = onnx_zoo.MODELS[name]
    model, feed = build(opset, in_nodes=opset in (13, 21)), inputs(9)
    before, exact = model.SerializeToString(), run(model, feed)
    quantized = checked(quantize_static(model, map(inputs, range(4)), form=form, **ALL))
    for y, wanted in zip(run(quantized, feed), exact, strict=True):
        assert sqnr(wanted, y) > 20  # a few layers of 26 dB or more
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("options", "exception", "sentence"),
    [
        ({"observer": "middle"}, ValueError, "observer must be "),
        ({"form": "qdq"}, ValueError, "form must be "),
        ({"rounding": "up"}, ValueError, "rounding must be "),
        ({"float_weights": "int4"}, ValueError, "float_weights must be "),
        ({"target_cpu": "x86"}, ValueError, "target_cpu must be "),
        ({"correct_bias": 1}, TypeError, "correct_bias must be True or False; got 1."),
        ({"min_sqnr": "high"}, TypeError, "min_sqnr must be a number or None; got 'high'."),
        ({"measure": "yes"}, TypeError, "measure must be True or False; got 'yes'."),
        ({"calibration": {}}, TypeError, "calibration must be a Calibration; got {}."),
        ({"data": None}, ValueError, "data must be batches, or calibration given; got None."),
        ({"data": []}, CalibrationError, "data must be one batch or more; got none."),
    ],
)
def test_refusals(options: dict[str, Any], exception: type[Exception], sentence: str, tmp_path: Path) -> None:
    data = options.pop("data", [digits()[1]])
    with pytest.raises(exception, match=re.escape(f"quantize_static: {sentence}")):
        quantize_static(digits_mlp(), data, tmp_path / "model.onnx", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_of_another_model_is_refused() -> None:
    calibration = calibrate(residual_cnn(), images(1), progress=False)
    b = Builder()
    b.op("MatMul", ["other", b.normal("w", 16, 16)], "y")
    with pytest.raises(CalibrationError, match="calibration must be what calibrate returned for this model"):
        quantize_static(b.model({"other": [1, 16]}, ["y"]), calibration=calibration)
