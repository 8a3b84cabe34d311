"""Scores of batches, which evaluate and tune share."""

import numpy as np
import pytest

from qnumpy.reports.scores import METRICS, Score, decibels, finite_decibels, signal_and_noise


def test_batches_add_up() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 5))
    y = x + rng.normal(size=x.shape) / 10
    labels = rng.integers(0, 5, 20)
    for metric, needs in METRICS.items():
        whole, parts = Score("f", metric), Score("f", metric)
        whole.add({"y": y}, labels if needs == "labels" else {"y": x})
        for part in (slice(0, 3), slice(3, 20)):
            parts.add({"y": y[part]}, labels[part] if needs == "labels" else {"y": x[part]})
        assert whole.value() == pytest.approx(parts.value())
    assert Score("f", "top5").value() != Score("f", "top5").value()  # NaN without a batch


def test_decibels() -> None:
    assert decibels(100, 1) == 20
    assert decibels(1, 0) == np.inf
    assert decibels(0, 1) == -np.inf
    x = np.array([3, np.nan, np.inf, 4])
    assert signal_and_noise(x, [3, 1, 1, 5]) == (25, 1)
    assert signal_and_noise(x, [np.inf, 1, 1, 5]) == (25, np.inf)


def scored(metric, *batches, owner="f"):
    score = Score(owner, metric)
    for outputs, expected in batches:
        score.add(outputs, expected)
    return score.value()


def test_accuracy_counts_the_labels_that_lead() -> None:
    y = np.array([[3, 1, 2], [0, 5, 4], [1, 2, 9]], np.float32)
    assert scored("accuracy", ({"y": y}, [0, 1, 2])) == 1
    assert scored("accuracy", ({"y": y}, [[0], [1], [0]])) == pytest.approx(2 / 3)  # a column of labels
    assert scored("accuracy", ({"y": y[None]}, [[0, 0, 2]])) == pytest.approx(2 / 3)
    assert scored("accuracy", ({"label": np.array([4, 5]), "y": y}, [4, 6])) == 0.5  # the model itself chooses
    assert scored("top5", ({"y": y}, [0, 0, 0])) == 1
    ten = np.arange(10, dtype=np.float32)[None]
    assert scored("top5", ({"y": ten}, [5])) == 1
    assert scored("top5", ({"y": ten}, [4])) == 0


def test_agreement_and_cosine() -> None:
    x = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    y = np.array([[3, 0], [1, 0], [0, 0]], np.float32)
    assert scored("agreement", ({"y": y}, {"y": x})) == pytest.approx(2 / 3)
    assert scored("cosine", ({"y": y}, {"y": x})) == pytest.approx(
        2 / 3
    )  # 1, 0, and 1 for rows of zeros that are equal
    assert scored("cosine", ({"y": x}, {"y": x})) == 1


def test_sqnr_is_that_of_the_worst_output() -> None:
    x = np.array([3, 4], np.float32)
    good, bad = np.array([3, 4.05], np.float32), np.array([3, 4.5], np.float32)
    score = ({"a": good, "b": bad, "n": np.array([1])}, {"a": x, "b": x, "n": np.array([2])})
    assert scored("sqnr", score) == pytest.approx(20)
    assert scored("sqnr", ({"a": x}, {"a": x})) == np.inf
    assert scored("sqnr", ({"a": x * np.nan}, {"a": x})) == -np.inf


def test_functions_of_the_user() -> None:
    batches = [({"y": np.ones(2)}, {"y": np.zeros(2)}), ({"y": np.ones(3)}, {"y": np.zeros(3)})]
    assert scored(lambda outputs: sum(len(y) for y in outputs), *batches) == 5
    assert scored(lambda y, x: np.array([sum(a.sum() - b.sum() for a, b in zip(y, x, strict=True))]), *batches) == 5
    assert scored(np.dot, ({"y": 3.0}, {"y": 2.0})) == 6
    several = ({"a": 1, "b": 2}, np.array([7]))
    assert scored(lambda y, labels: y[0]["a"] + y[0]["b"] + labels[0][0], several) == 10
    assert Score("f", max).needs is None
    assert (Score("f", max).name, Score("f", "top5").name) == ("max", "top5")


def test_what_no_metric_takes() -> None:
    y = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"^f: metric must be a function, or .*'sqnr'; got "):
        Score("f", 3)
    with pytest.raises(ValueError, match=r"^f: metric must be 'accuracy', .* or a function; got 'speed'\.$"):
        Score("f", "speed")
    with pytest.raises(TypeError, match=r"^f: metric must be a function that returns a number; got "):
        scored(lambda outputs: "good", ({"y": y}, None))
    with pytest.raises(TypeError, match=r"^f: labels must be integers; got dtype float64\.$"):
        scored("accuracy", ({"y": y}, [0.0, 1.0]))
    with pytest.raises(ValueError, match=r"^f: labels must be of shape \(2,\) for an output of shape \(2, 3\); got "):
        scored("accuracy", ({"y": y}, [0, 1, 2]))
    with pytest.raises(ValueError, match=r"^f: reference must be a model of the same outputs; got shapes "):
        scored("sqnr", ({"y": y}, {"y": y[:1]}))
    with pytest.raises(ValueError, match=r"^f: reference must be a model with an output of floats in common; got 'y' "):
        scored("cosine", ({"y": y}, {"z": y}))


def test_finite_decibels() -> None:
    assert finite_decibels(100, 1) == 20
    assert [finite_decibels(*pair) for pair in ((1, 0), (0, 1), (0, 0), (1, np.inf))] == [None] * 4
