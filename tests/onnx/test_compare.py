"""compare, against errors computed by hand, and on models with one known fault each."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.errors import CalibrationError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402
from onnx_zoo import MODELS  # noqa: E402
from static_models import Builder, digits, digits_mlp, images, residual_cnn, sqnr  # noqa: E402

from qnumpy.onnx import compare, convert_float, quantize_dynamic, quantize_static, quantize_weights  # noqa: E402

ALL = {"include": ["*"], "min_sqnr": None, "progress": False}
RNG = np.random.default_rng(0)


def run(model: Any, feed: Any) -> list[Any]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)  # type: ignore[no-any-return]


def linear(w: Any, bias: Any = None) -> Any:
    b = Builder()
    inputs = ["x", b.constant("w", w)] + ([] if bias is None else [b.constant("b", bias)])
    b.op("Gemm", inputs, "y")
    return b.model({"x": ["n", len(w)]}, ["y"])


def qdq(
    w: Any, x_scale: float, w_scale: Any, y_scale: float | None, *, bias: Any = None, axis: int | None = None
) -> Any:
    """Return a product between codes of int8 with the scales given."""
    b = Builder()
    one = b.constant("sx", np.float32(x_scale))
    zx = b.constant("zx", np.int8(0))
    codes = np.clip(np.rint(w / w_scale), -127, 127).astype(np.int8)
    attributes = {} if axis is None else {"axis": axis}
    zw = b.constant("zw", np.zeros(np.shape(np.squeeze(w_scale)), np.int8))
    sw = b.constant("sw", np.squeeze(np.asarray(w_scale, np.float32)))
    real = b.op("DequantizeLinear", [b.constant("w_codes", codes), sw, zw], "w_real", **attributes)
    x = b.op("DequantizeLinear", [b.op("QuantizeLinear", ["x", one, zx], "x_quantized"), one, zx], "x_real")
    inputs = [x, real] + ([] if bias is None else [b.constant("b", bias)])
    if y_scale is None:
        b.op("Gemm", inputs, "y")
        return b.model({"x": ["n", len(w)]}, ["y"], opset=17)
    two = b.constant("sy", np.float32(y_scale))
    y = b.op("Gemm", inputs, "y_raw")
    b.op("DequantizeLinear", [b.op("QuantizeLinear", [y, two, zx], "y_quantized"), two, zx], "y")
    return b.model({"x": ["n", len(w)]}, ["y"], opset=17)


def test_local_and_cumulative_errors() -> None:
    """The first layer has no error before it; the last one's cumulative error is that of the output."""
    model, x = digits_mlp(), digits()[1]
    quantized = quantize_static(model, [x], **ALL)
    before = quantized.SerializeToString()
    table = compare(model, quantized, np.split(x, 4), progress=False)
    assert quantized.SerializeToString() == before
    first, last = table["node_sum1"], table["node_logits"]
    assert first.sqnr_db == pytest.approx(first.cumulative_db, abs=1e-3)
    whole = sqnr(run(model, {"x": x})[0], run(quantized, {"x": x})[0])
    assert last.cumulative_db == pytest.approx(whole, abs=1e-3)
    assert table.outputs == {"logits": pytest.approx(whole, abs=1e-3)}
    assert last.sqnr_db > last.cumulative_db + 1
    assert [row.sqnr_db for row in table] == sorted(row.sqnr_db for row in table)
    assert {row.op_type for row in table} == {"Gemm", "Gemm+Relu"} or {row.op_type for row in table} == {"Gemm"}
    assert json.loads(table.to_json())["outputs"]["logits"] == pytest.approx(whole, abs=1e-3)
    assert "node_logits" in table._repr_html_()


def test_the_operator_alone() -> None:
    """One layer by hand: x is quantized, the weight is, and the output is."""
    w, x = RNG.normal(size=(16, 8)).astype(np.float32), RNG.normal(size=(50, 16)).astype(np.float32)
    scales = np.abs(w).max(axis=0, keepdims=True) / 127
    quantized = qdq(w, 0.03, scales, 0.1, axis=1)
    (row,) = compare(linear(w), quantized, [x], progress=False)
    real = np.clip(np.rint(x / np.float32(0.03)), -128, 127) * np.float32(0.03)
    y = real.astype(np.float64) @ (np.rint(w / scales) * scales)
    y = np.clip(np.rint(y / 0.1), -128, 127) * 0.1
    assert row.sqnr_db == pytest.approx(sqnr(x.astype(np.float64) @ w, y), abs=0.05)
    assert row.best_db is not None
    assert row.best_db >= row.sqnr_db
    assert row.form == "QDQ Gemm"


def test_the_cause_is_clipping() -> None:
    w, x = np.eye(16, dtype=np.float32), RNG.normal(size=(500, 16)).astype(np.float32)
    (row,) = compare(linear(w), qdq(w, 0.01, np.float32(1 / 127), 0.06), [x], progress=False)
    assert row.cause.startswith("clipped, ")
    assert "'x'" in row.cause
    assert row.best_db is not None
    assert row.best_db > row.sqnr_db + 10


def test_the_cause_is_outliers() -> None:
    w, x = np.eye(16, dtype=np.float32), RNG.normal(size=(4000, 16)).astype(np.float32)
    x[7, 3] = 100
    (row,) = compare(linear(w), qdq(w, 100 / 127, np.float32(1 / 127), 100 / 127), [x], progress=False)
    assert row.cause.startswith("outliers, the largest magnitude of ")


def test_the_cause_is_one_scale_for_uneven_channels() -> None:
    w = RNG.normal(size=(32, 16)).astype(np.float32)
    w[:, 0] *= 30
    x = (np.rint(RNG.normal(size=(500, 32)) * 20).clip(-127, 127) / 20).astype(np.float32)  # on the grid
    scales = [np.abs(w).max(axis=axes, keepdims=True) / 127 for axes in ((0, 1), 0)]
    one, each = (qdq(w, 1 / 20, scale, None, axis=axis) for scale, axis in zip(scales, (None, 1), strict=True))
    quiet = [compare(linear(w), q, [x], progress=False)["node_y"].cause for q in (one, each)]
    assert quiet[0].startswith("one scale for a weight whose widest channel is ")
    assert not quiet[1].startswith("one scale")


def test_the_cause_is_the_bias() -> None:
    w, x = np.eye(16, dtype=np.float32), RNG.uniform(-1, 1, size=(500, 16)).astype(np.float32)
    bias = np.zeros(16, np.float32)
    (row,) = compare(
        linear(w, bias),
        qdq(w, 1 / 127, np.float32(1 / 127), 1.2 / 127, bias=bias + np.float32(0.1)),
        [x],
        progress=False,
    )
    assert re.match("bias, the mean error of the channels is (9.|100)%", row.cause)


def test_the_cause_is_a_dead_channel() -> None:
    """onnxruntime's own quantizer gives a channel of zeros a scale that its bias does not fit."""
    w, x = RNG.normal(size=(16, 8)).astype(np.float32), RNG.normal(size=(50, 16)).astype(np.float32)
    w[:, 3] = 0
    bias = np.full(8, 3, np.float32)
    cut = bias.copy()
    cut[3] = 0.5
    quantized = qdq(w, 0.03, np.maximum(np.abs(w).max(axis=0, keepdims=True) / 127, 1e-9), 0.14, bias=cut, axis=1)
    (row,) = compare(linear(w, bias), quantized, [x], progress=False)
    assert row.cause.startswith("dead channels (3): ")
    assert row.remedy


@pytest.mark.parametrize("form", ["QDQ", "integer"])
def test_every_operator_of_a_cnn(form: str) -> None:
    model, x = residual_cnn(), images(3)
    quantized = quantize_static(model, x, form=form, **ALL)
    table = compare(model, quantized, x, progress=False)
    named = {row.name for row in table}
    assert {f"node_{name}" for name in ("c1", "c2", "c3", "c4", "c5", "y")} <= named
    assert not {"node_pooled", "node_flat"} & named  # they move codes
    assert table["node_c1"].op_type == "Conv+Relu"
    assert all(row.sqnr_db > 30 and row.cumulative_db > 25 for row in table)
    assert table["node_y"].cumulative_db == pytest.approx(table.outputs["y"], abs=0.01)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_models_of_onnxruntimes_quantizer(form: str, tmp_path: Path) -> None:
    from onnxruntime import quantization as theirs

    build, inputs = MODELS["cnn"]
    onnx.save(build(), tmp_path / "m.onnx")
    data = [inputs(seed) for seed in range(3)]
    if form == "dynamic":
        theirs.quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", per_channel=True)
    else:

        class Reader(theirs.CalibrationDataReader):  # type: ignore[misc, name-defined]
            rest = iter(data)

            def get_next(self) -> Any:
                return next(self.rest, None)

        kind = getattr(theirs.QuantFormat, form)
        theirs.quantize_static(tmp_path / "m.onnx", tmp_path / "q.onnx", Reader(), quant_format=kind, per_channel=True)
    table = compare(tmp_path / "m.onnx", tmp_path / "q.onnx", data[:2], progress=False)
    layers = {row.name for row in table if "Conv" in row.name}
    assert {f"Conv_{name}" for name in ("stem", "expand", "depthwise", "project", "skip")} <= layers
    assert 20 < table.outputs["logits"] < 60
    assert all(row.sqnr_db > 20 for row in table)


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo(name: str) -> None:
    build, inputs = MODELS[name]
    model, data = build(), [inputs(0)]
    for quantized in (quantize_dynamic(model, include=["*"]), quantize_weights(model, dtype="int4", progress=False)):
        table = compare(model, quantized, data, progress=False)
        assert len(table)
        assert all(np.isfinite(row.sqnr_db) or row.sqnr_db == np.inf for row in table)
        assert min(table.outputs.values()) > 5
    if name in ("branches", "loop"):
        assert table.left_out
        assert "cannot be read" in str(table)
    assert len(compare(model, model, data, progress=False)) == 0


def test_float16() -> None:
    model, x = digits_mlp(), digits()[1]
    table = compare(model, convert_float(model, progress=False), [x], progress=False)
    assert 50 < table.outputs["logits"] < 90


def test_picture() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    model, x = digits_mlp(), digits()[1]
    table = compare(model, quantize_static(model, [x], **ALL), [x], progress=False)
    ax = table.plot(Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == [row.name for row in table]
    shown = ax.get_lines()[0].get_xdata()
    np.testing.assert_allclose(shown, [row.sqnr_db for row in table])
    ax = qn.plot.operator_errors(table, most=1, name="digits", ax=Figure().subplots())
    assert ax.get_title(loc="left") == "digits, the worst 1 of 3 operators"
    with pytest.raises(
        ValueError, match=re.escape("operator_errors: rows must be a comparison of one operator or more; got none.")
    ):
        qn.plot.operator_errors([])
    with pytest.raises(
        TypeError, match=re.escape("operator_errors: rows must be what qnumpy.onnx.compare returned; got 3.")
    ):
        qn.plot.operator_errors(3)  # type: ignore[arg-type]


def test_errors() -> None:
    model, x = digits_mlp(), digits()[1]
    with pytest.raises(CalibrationError, match=re.escape("compare: data must be one batch or more; got none.")):
        compare(model, model, [])
    node = helper.make_node("Relu", ["x"], ["z"])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    other = helper.make_model(helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("z", 1, None)]))
    sentence = "compare: quantized must be a model with an output of the float model; got z for logits."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        compare(model, other, [x])
    with pytest.raises(
        ValueError, match=re.escape("compare: data (batch 0): 'x' must be of shape (n, 64); got shape (3, 5).")
    ):
        compare(model, model, [np.zeros((3, 5), np.float32)])


def test_a_weight_that_is_rounded_by_gptq_is_not_told_to_be() -> None:
    model, x = digits_mlp(), digits()[1][:100]
    advice = {}
    for rounding in ("gptq", "nearest"):
        made = quantize_static(model, [x], rounding=rounding, **ALL)  # type: ignore[arg-type]
        assert {change.rounding for change in qn.onnx.report(made)} == {rounding}
        rows = compare(model, made, [x], progress=False)
        advice[rounding] = {row.remedy for row in rows if row.cause == "rounding of the weight"}
    assert advice["gptq"] == {"more bits, smaller groups, or keep it float32 (exclude)"}
    assert advice["nearest"] == {"rounding='gptq' or method='gptq', smaller groups, or more bits"}
    codes = {
        "gptq": quantize_weights(model, dtype="int4", group_size=32, data=[x], include=["*"], progress=False),
        "mse": quantize_weights(model, dtype="int4", group_size=32, include=["*"], progress=False),
    }
    for method, made in codes.items():
        assert {change.rounding for change in qn.onnx.report(made) if change.dtype == "int4"} == {method}
    standard = {"nearest": None, "gptq": [x]}
    for method, data in standard.items():
        made = quantize_dynamic(model, data=data, include=["*"], progress=False)
        assert {change.rounding for change in qn.onnx.report(made)} == {method}
