"""qnumpy.onnx.tune: limits, mixed precision, resuming, and that the best is always returned."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qnumpy.errors import CalibrationError, FileFormatError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from static_models import Builder, digits, digits_mlp  # noqa: E402

from qnumpy.onnx import evaluate, tune  # noqa: E402
from qnumpy.onnx.tune import _Model  # noqa: E402

ALL = {"include": ["*"], "progress": False}  # small layers run in int8 too
FEW: Any = {**ALL, "techniques": ["static mse"], "objective": "size", "dtypes": ["int8", "float32"]}


@pytest.fixture(scope="module")
def fragile() -> tuple[Any, list[Any]]:
    """Three layers of 64 by 64; outliers in the input of the second one ruin it in int8."""
    rng = np.random.default_rng(0)
    b = Builder()
    w = [b.constant(f"w{i}", np.linalg.qr(rng.normal(size=(64, 64)))[0].astype(np.float32)) for i in range(3)]
    x = b.op("Tanh", [b.op("MatMul", ["x", w[0]], "first")], "bounded")
    x = b.op("MatMul", [b.op("Mul", [x, b.constant("spread", np.float32([900] + [1] * 63))], "wide"), w[1]], "second")
    row = b.constant("row", onnx.numpy_helper.to_array(b.initializers[1])[:1])
    ends = [b.constant(name, np.array([i])) for name, i in (("from", 0), ("to", 1), ("axis", 1))]
    large = b.op("Mul", [b.op("Slice", ["wide", *ends], "big"), row], "part")
    x = b.op("MatMul", [b.op("Tanh", [b.op("Sub", [x, large], "rest")], "small"), w[2]], "y")
    data = [rng.normal(size=(32, 64)).astype(np.float32) for _ in range(3)]
    return b.model({"x": ["n", 64]}, ["y"]), data


def test_a_limit_that_is_met(tmp_path: Path) -> None:
    model, (_, x, labels) = digits_mlp(), digits()
    before = model.SerializeToString()
    data = list(zip(np.split(x, 2), np.split(labels, 2), strict=True))
    found = tune(model, data, "accuracy", tmp_path / "q.onnx", max_drop=0.01, **FEW)
    assert model.SerializeToString() == before
    assert found.met
    assert found.best.summary == "3 int8"
    assert found.history[0].technique == "float"
    assert found.best.nbytes == found.model.ByteSize() < found.history[0].nbytes  # type: ignore[operator]
    assert (tmp_path / "q.onnx").read_bytes() == found.model.SerializeToString()
    assert evaluate(found.model, data, "accuracy") == found.best.score >= found.least
    assert found.least == found.history[0].score - 0.01  # type: ignore[operator]
    assert json.loads(found.to_json())["met"] is True
    assert "static mse" in found._repr_html_()
    assert found.reason.startswith("The model has a score of 0.97")
    relative = tune(model, data, "accuracy", max_drop=0.5, drop="relative", budget=1, **FEW)
    assert relative.least == relative.best.score / 2  # type: ignore[operator]


def test_mixed_precision_returns_the_fragile_layer(fragile: tuple[Any, list[Any]]) -> None:
    model, data = fragile
    found = tune(model, data, "sqnr", min_score=30, **FEW)
    assert found.met
    assert {name for name, dtype in found.best.dtypes.items() if dtype == "float32"} == {"node_second"}
    assert not next(trial for trial in found if trial.summary == "3 int8").met
    steps = [trial.step for trial in found]
    assert steps.count("one layer") == 3
    assert "revert" in steps
    alone = {
        next(n for n, t in trial.dtypes.items() if t == "int8"): trial.score
        for trial in found
        if trial.step == "one layer"
    }
    assert min(alone, key=alone.get) == "node_second"  # type: ignore[arg-type]
    assert evaluate(found.model, data, "sqnr", reference=model) == pytest.approx(found.best.score, abs=1e-6)


def test_a_budget_that_is_too_small_returns_the_best(fragile: tuple[Any, list[Any]]) -> None:
    model, data = fragile
    found = tune(model, data, "sqnr", min_score=30, budget=2, **FEW)
    assert len(found) == 2
    assert found.reason == "Only the float model has a score of 30 or more; the budget of 2 trials ended the search."
    assert found.model.SerializeToString() == model.SerializeToString()
    late = tune(model, data, "sqnr", min_score=30, budget="0.000001s", **FEW)
    assert late.reason.endswith("the budget of 1e-06 seconds ended the search.")
    few = tune(model, data, "sqnr", min_score=30, budget=5, **FEW)  # ranked by local errors
    assert "one layer" not in {trial.step for trial in few}
    assert few.met


def test_a_limit_that_no_model_keeps(fragile: tuple[Any, list[Any]]) -> None:
    model, data = fragile
    found = tune(model, data, lambda outputs: float(np.mean(outputs[0])), min_score=1e6, budget=3, **FEW)
    assert not found.met
    assert found.best.score == max(trial.score for trial in found)  # type: ignore[type-var]
    assert found.reason.startswith("No model with a score of 1e+06 or more was found: this one comes nearest")


def test_latency(fragile: tuple[Any, list[Any]]) -> None:
    model, data = fragile
    found = tune(
        model, data, "sqnr", min_score=0, max_latency=1e-6, budget=3, progress=False, techniques=["static mse"]
    )
    assert not found.met
    assert found.best.latency is not None
    assert "1e-06 times the float model's time" in found.reason
    easy = tune(model, data, "sqnr", min_score=0, max_latency=100, budget=3, progress=False, techniques=["dynamic"])
    assert easy.met
    assert all(trial.latency is not None for trial in easy)


def test_resume(fragile: tuple[Any, list[Any]], tmp_path: Path) -> None:
    model, data = fragile
    calls = []

    def metric(outputs: list[Any], expected: list[Any]) -> float:
        calls.append(len(outputs))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return -float(np.square(np.concatenate(outputs) - np.concatenate(expected)).mean())

    options: Any = {"max_drop": 1e-4, "resume": tmp_path / "r.json", **FEW}
    with pytest.raises(KeyboardInterrupt):
        tune(model, data, metric, **options)
    assert len(json.loads((tmp_path / "r.json").read_text())["trials"]) == 3
    found = tune(model, data, metric, **options)
    made = len(calls)
    assert made == 4 + len(found) - 3  # the first three are known
    again = tune(model, data, metric, **options)
    assert len(calls) == made
    assert again.to_json() == found.to_json()
    assert again.model.SerializeToString() == found.model.SerializeToString()
    with pytest.raises(ValueError, match="tune: resume must be a file of the same search; got "):
        tune(digits_mlp(), [digits()[1]], metric, **options)
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(FileFormatError, match="tune: resume must be a file that an earlier search wrote; got "):
        tune(model, data, metric, **options)


def test_types_of_weights(fragile: tuple[Any, list[Any]]) -> None:
    model, data = fragile
    found = tune(
        model, data, "sqnr", min_score=40, techniques=["weights"], objective="size", progress=False, budget=12,
    )  # fmt: skip
    assert {trial.summary for trial in found} >= {"3 int4", "3 int8", "3 float16", "3 float32"}
    assert found.met
    sizes = [trial.nbytes for trial in found if trial.met]
    assert found.best.nbytes == min(sizes)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({}, ValueError, "tune: max_drop and min_score must be one number and one None; got neither."),
        ({"max_drop": 1, "min_score": 1}, ValueError,
         "tune: max_drop and min_score must be one number and one None; got both."),
        ({"max_drop": -1}, ValueError, "tune: max_drop must be at least 0; got -1."),
        ({"max_drop": "1"}, TypeError, "tune: max_drop must be a finite number or None; got '1'."),
        ({"max_drop": 1, "max_latency": 0}, ValueError, "tune: max_latency must be positive; got 0."),
        ({"max_drop": 1, "budget": 0}, ValueError, "tune: budget must be positive; got 0."),
        (
            {"max_drop": 1, "budget": "soon"}, ValueError,
            "tune: budget must be a number of trials, seconds as '60s', or a mapping of 'trials' and 'seconds'; "
            "got 'soon'.",
        ),
        ({"max_drop": 1, "data": []}, CalibrationError, "tune: data must be one batch or more; got none."),
        (
            {"max_drop": 1, "metric": "accuracy"}, ValueError,
            "tune: data must be pairs of inputs and labels for the metric 'accuracy'; got no labels.",
        ),
    ],
)  # fmt: skip
def test_errors(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        tune(digits_mlp(), **{"data": [digits()[1]], "metric": "cosine", "progress": False, **arguments})
    for name, value in (("objective", "speed"), ("drop", "some"), ("techniques", ["static"]), ("dtypes", ["int3"])):
        with pytest.raises(ValueError, match=f"^tune: {name} must be "):
            tune(digits_mlp(), [digits()[1]], "cosine", max_drop=1, **{name: value})


def test_techniques_that_give_one_model_are_one_trial() -> None:
    """Layers this small are slower in int8: their weights alone are codes, whatever the ranges of activations."""
    found = tune(digits_mlp(), [digits()[1][:64]], "sqnr", min_score=20, progress=False)
    assert all(not trial.note or trial.note.startswith("int8 is faster for 0 of 3") for trial in found)
    assert [trial.technique for trial in found if trial.step == "technique"] == ["static mse", "dynamic", "weights"]


def test_times_near_the_shortest_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller model is the best one, though noise made its run the longer one."""
    monkeypatch.setattr(_Model, "latency", lambda self, technique, choice: 1.02)
    found = tune(digits_mlp(), [digits()[1][:64]], "sqnr", min_score=20, progress=False)
    assert found.best.nbytes == min(trial.nbytes for trial in found if trial.met)  # type: ignore[type-var]
    assert found.best.number > 0


def test_a_faster_model_that_breaks_the_limit_is_refined(
    fragile: tuple[Any, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = fragile
    monkeypatch.setattr(_Model, "latency", lambda self, technique, choice: 1 - 0.1 * [*choice.values()].count("int8"))
    found = tune(model, data, "sqnr", min_score=30, techniques=["static mse"], **ALL)
    assert found.met
    assert {name for name, dtype in found.best.dtypes.items() if dtype == "float32"} == {"node_second"}
    assert found.best.latency == pytest.approx(0.8)
