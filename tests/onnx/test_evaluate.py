"""evaluate, against metrics computed in NumPy."""

import re
from typing import Any

import numpy as np
import pytest

from qnumpy.errors import CalibrationError

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx_zoo import MODELS  # noqa: E402
from static_models import digits, digits_mlp, sqnr  # noqa: E402

from qnumpy.onnx import evaluate, quantize_weights  # noqa: E402


def run(model: Any, x: Any) -> Any:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return digits_mlp(), quantize_weights(digits_mlp(), dtype="int2", group_size=16, progress=False)


def test_labels_in_three_places(models: tuple[Any, Any]) -> None:
    _, x, labels = digits()
    coarse = models[1]
    y = run(coarse, x)
    right = float((y.argmax(-1) == labels).mean())
    assert 0.2 < right < 0.98  # two bits
    halves = np.split(x, 2)
    assert evaluate(coarse, [(x, labels)], "accuracy") == right
    assert evaluate(coarse, [{"x": x, "labels": labels}], "accuracy") == right
    assert evaluate(coarse, halves, "accuracy", labels=labels) == right
    assert evaluate(coarse, halves, "accuracy", labels=np.split(labels, 2)) == right
    assert evaluate(coarse, halves, "accuracy", labels=labels.tolist()) == right
    assert evaluate(coarse, [(x, labels[:, None])], "accuracy") == right
    five = (np.argsort(y, axis=-1)[:, -5:] == labels[:, None]).any(axis=-1).mean()
    assert evaluate(coarse, [(x, labels)], "top5") == pytest.approx(five)


def test_a_reference(models: tuple[Any, Any]) -> None:
    x = digits()[1]
    model, coarse = models
    exact, y = run(model, x), run(coarse, x)
    parts = np.split(x, 3)
    assert evaluate(coarse, parts, "sqnr", reference=model) == pytest.approx(sqnr(exact, y))
    assert evaluate(coarse, parts, "agreement", reference=model) == (exact.argmax(-1) == y.argmax(-1)).mean()
    cosine = ((exact * y).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(y, axis=1)).mean()
    assert evaluate(coarse, parts, "cosine", reference=model) == pytest.approx(cosine)
    assert evaluate(model, parts, "sqnr", reference=model) == np.inf
    assert evaluate(model, parts, "cosine", reference=model) == 1


def test_functions(models: tuple[Any, Any]) -> None:
    _, x, labels = digits()
    model = models[0]
    y = run(model, x)
    parts = list(zip(np.split(x, 2), np.split(labels, 2), strict=True))
    seen: list[Any] = []

    def both(outputs: list[Any], expected: list[Any]) -> Any:
        seen.append((outputs, expected))
        return np.mean(np.concatenate(outputs).argmax(-1) == np.concatenate(expected))

    assert evaluate(model, parts, both) == (y.argmax(-1) == labels).mean()
    assert len(seen) == 1
    assert evaluate(model, [x], lambda outputs: outputs[0].max()) == y.max()
    assert (
        evaluate(model, [x], lambda outputs, expected: float((outputs[0] == expected[0]).all()), reference=model) == 1
    )
    assert evaluate(model, [x], lambda outputs, expected: float(expected == [None])) == 1
    build, inputs = MODELS["lstm"]
    names = [value.name for value in build().graph.output]
    if len(names) > 1:
        assert evaluate(build(), [inputs(0)], lambda outputs: float(list(outputs[0]) == names)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            {"metric": "f1"}, ValueError,
            "evaluate: metric must be 'accuracy', 'top5', 'agreement', 'cosine' or 'sqnr', or a function; got 'f1'.",
        ),
        (
            {"metric": 3}, TypeError,
            "evaluate: metric must be a function, or 'accuracy', 'top5', 'agreement', 'cosine' or 'sqnr'; got 3.",
        ),
        ({"metric": "sqnr"}, ValueError,
         "evaluate: reference must be the float model for the metric 'sqnr'; got None."),
        (
            {"metric": "accuracy"}, ValueError,
            "evaluate: data must be pairs of inputs and labels for the metric 'accuracy'; got no labels.",
        ),
        ({"metric": "accuracy", "data": []}, CalibrationError, "evaluate: data must be one batch or more; got none."),
        (
            {"metric": "accuracy", "labels": np.zeros(400, int)}, ValueError,
            "evaluate: labels must be as many as the rows of data; got 400 for 360.",
        ),
        (
            {"metric": "accuracy", "labels": [np.zeros(7, int)]}, ValueError,
            "evaluate: labels must be of shape (360,) for an output of shape (360, 10); got shape (7,).",
        ),
        (
            {"metric": "accuracy", "labels": np.zeros(360)}, TypeError,
            "evaluate: labels must be integers; got dtype float64.",
        ),
        (
            {"metric": lambda outputs: "good"}, TypeError,
            "evaluate: metric must be a function that returns a number; got 'good'.",
        ),
        (
            {"metric": "top5", "data": {"x": 1}}, TypeError,
            "evaluate: data must be an iterable of batches: of {input name: array}, or of arrays for a model of one "
            "input; got {'x': 1}. Put it into a list.",
        ),
    ],
)  # fmt: skip
def test_errors(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        evaluate(digits_mlp(), **{"data": [digits()[1]], **arguments})
