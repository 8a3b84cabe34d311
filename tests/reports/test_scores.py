"""Scores of batches, which evaluate and tune share."""

import numpy as np
import pytest

from qnumpy.reports.scores import METRICS, Score, decibels, signal_and_noise


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
