"""qnumpy.tune: the search on a problem with a known best model, and models of NumPy functions."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.errors import CalibrationError
from qnumpy.tune import Budget, Limits, Measured, budget_of, search

COSTS = {"a": 0.3, "b": 8.0, "c": 0.5, "d": 2.0, "e": 0.1, "f": 5.0}


class Additive:
    """Layers that each cost score in int8; a and c cost more together. Sizes: 1 for int8, 4 for float32."""

    layers = tuple(COSTS)
    dtypes = ("int8", "float32")
    fingerprint = "additive"

    def __init__(self, techniques: tuple[str, ...] = ("one",)) -> None:
        self.techniques, self.calls = techniques, 0

    def measure(self, technique: str, choice: Mapping[str, str]) -> Measured:
        self.calls += 1
        if technique == "broken":
            raise ValueError("there is no such model")
        quantized = {name for name, dtype in choice.items() if dtype == "int8"}
        loss = (
            sum(COSTS[name] for name in quantized)
            + 4 * ({"a", "c"} <= quantized)
            + (technique == "worse") * len(quantized)
        )
        return Measured(100 - loss, 40 - loss, 24 - 3 * len(quantized))

    def latency(self, technique: str, choice: Mapping[str, str]) -> float:
        return self.measure(technique, choice).nbytes / 24

    def model(self, technique: str, choice: Mapping[str, str]) -> dict[str, str]:
        return dict(choice)

    def changed(self, technique: str, dtype: str) -> tuple[str, ...]:
        return self.layers

    def canonical(self, technique: str, choice: Mapping[str, str]) -> str:
        return technique

    def estimated(self, technique: str, dtype: str) -> dict[str, float]:
        return {name: 40 - cost for name, cost in COSTS.items()}


def limits(max_drop: float, **rest: Any) -> Limits:
    return Limits(max_drop, "absolute", None, rest.get("max_latency"), rest.get("objective", "size"))


@pytest.mark.parametrize("max_drop", [0, 0.05, 0.5, 1, 2.5, 3, 5, 9, 20, 30])
def test_the_smallest_model_within_the_limit(max_drop: float) -> None:
    problem = Additive()
    found = search("tune", problem, limits(max_drop), Budget(None))
    assert found.met
    sizes = [
        measured.nbytes
        for types in itertools.product(*[problem.dtypes] * 6)
        if (measured := problem.measure("one", dict(zip(COSTS, types, strict=True)))).score >= 100 - max_drop
    ]
    assert found.best.nbytes == min(sizes)
    assert [trial.number for trial in found] == list(range(len(found)))


def test_techniques() -> None:
    found = search("tune", Additive(("broken", "worse", "one")), limits(9), Budget(None))
    assert found.best.technique == "one"
    assert found.history[1].note == "there is no such model"
    assert found.history[1].score is None
    assert found.met


def test_accuracy_within_a_time() -> None:
    found = search("tune", Additive(), limits(100, max_latency=0.63, objective="accuracy"), Budget(None))
    assert found.met
    assert {name for name, dtype in found.best.dtypes.items() if dtype == "float32"} == {"b", "d", "f"}
    assert found.best.latency == 15 / 24  # three floats of 4 bytes and three codes of 1


@pytest.mark.parametrize("trials", range(1, 16))
def test_every_budget_returns_the_best_so_far(trials: int) -> None:
    problem = Additive()
    found = search("tune", problem, limits(3), Budget(trials))
    assert len(found) <= trials
    kept = [trial for trial in found if trial.met]
    assert found.best.nbytes == min(trial.nbytes for trial in kept)  # type: ignore[type-var]
    assert found.model == found.best.dtypes


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    first = Additive()
    whole = search("tune", first, limits(3), Budget(None), resume=path)
    again = Additive()
    found = search("tune", again, limits(3), Budget(None), resume=path)
    assert again.calls == 0
    assert found.to_json() == whole.to_json()
    path.unlink()
    part, rest = Additive(), Additive()
    search("tune", part, limits(3), Budget(7), resume=path)
    found = search("tune", rest, limits(3), Budget(None), resume=path)
    assert part.calls == 7
    assert rest.calls == first.calls - 7
    assert found.to_json() == whole.to_json()


def test_budgets() -> None:
    assert budget_of("tune", None) == Budget(100, None)
    assert budget_of("tune", 5) == Budget(5, None)
    assert budget_of("tune", "5") == Budget(5, None)
    assert budget_of("tune", "2.5s") == Budget(None, 2.5)
    assert budget_of("tune", {"trials": 5, "seconds": 3}) == Budget(5, 3)


@pytest.fixture
def digits() -> tuple[dict[str, Any], Any, Any, Any]:
    from importlib.resources import files

    with files("qnumpy").joinpath("data/digits.npz").open("rb") as file, np.load(file) as arrays:
        kept = dict(arrays)
    layers = {f"layer{i}": (kept[f"layer{i}.weight"], kept[f"layer{i}.bias"]) for i in (1, 2, 3)}

    def run(x: Any) -> Any:
        for i in (1, 2, 3):
            x = qn.tap(f"layer{i}", x)
            w, bias = layers[f"layer{i}"]
            x = x @ w.T + bias
            x = np.maximum(x, 0) if i < 3 else x
        return x

    return layers, run, (kept["images"].reshape(-1, 64) / 16).astype(np.float32), kept["labels"]


def test_the_digits(digits: Any) -> None:
    layers, run, x, labels = digits
    before = dict(layers)
    found = qn.tune(run, layers, [(x[:180], labels[:180]), (x[180:], labels[180:])], "accuracy", max_drop=0.005)
    assert found.met
    assert all(layers[name] is before[name] for name in before)
    assert found.model.dtypes == dict.fromkeys(layers, "int4")
    assert found.best.nbytes == found.model.nbytes < 26280 / 5
    layers.update(found.model.entries())
    assert (run(x).argmax(1) == labels).mean() == found.best.score


def test_mixed_types(digits: Any) -> None:
    layers, run, x, _ = digits
    found = qn.tune(run, layers, [x], "sqnr", min_score=25, techniques=["mse"])
    assert found.met
    assert len(set(found.best.dtypes.values())) > 1
    uniform = [trial for trial in found if trial.met and len(set(trial.dtypes.values())) == 1]
    assert found.best.nbytes < min(trial.nbytes for trial in uniform)  # type: ignore[operator, type-var]
    accurate = qn.tune(run, layers, [x], "sqnr", min_score=0, techniques=["mse"], dtypes=["int8"], objective="accuracy")
    assert accurate.best.summary in ("3 int8", "2 float32, 1 int8", "1 float32, 1 int8, 1 float32")
    assert accurate.met


def test_an_exception_restores_the_layers(digits: Any) -> None:
    layers, run, x, _ = digits
    before, calls = dict(layers), []

    def metric(outputs: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        qn.tune(run, layers, [x], metric, max_drop=1)
    assert all(layers[name] is before[name] for name in before)


def test_a_technique_without_taps_is_noted(digits: Any) -> None:
    layers, _, x, _ = digits
    found = qn.tune(lambda x: x @ layers["layer1"][0].T, layers, [x], "sqnr", min_score=20, techniques=["gptq", "mse"])
    assert found.met
    assert any("tap" in trial.note for trial in found)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"run": 3}, TypeError, "tune: run must be a function; got 3."),
        ({"layers": [1]}, TypeError, "tune: layers must be a dict of weights by name; got [1]."),
        ({"layers": {}}, ValueError, "tune: layers must be a dict of one weight or more; got an empty one."),
        ({"data": []}, CalibrationError, "tune: data must be one batch or more; got none."),
        ({"data": np.ones(3)}, TypeError,
         "tune: data must be an iterable of batches, or of pairs of batch and labels; "
         "got an array of float64 with shape (3,)."),
        ({"metric": "accuracy"}, ValueError,
         "tune: data must be pairs of batch and labels for the metric 'accuracy'; got no labels."),
        ({"dtypes": "int8"}, TypeError, "tune: dtypes must be a sequence of names; got 'int8'."),
        ({"dtypes": []}, ValueError, "tune: dtypes must be one name or more; got none."),
    ],
)  # fmt: skip
def test_errors(digits: Any, arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    layers, run, x, _ = digits
    given = {"run": run, "layers": layers, "data": [x], "metric": "cosine", "max_drop": 1, **arguments}
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        qn.tune(given.pop("run"), given.pop("layers"), given.pop("data"), given.pop("metric"), **given)
