"""MeanObserver: means of channels of the finite elements. test_base.py has what all observers share."""

import copy

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.observers import MeanObserver


def batches(count=4, channels=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(3, 2, size=(7 + i, channels, 3)).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize("axis", [1, -2])
def test_the_mean_of_batches_is_the_mean_of_all(axis):
    parts = batches()
    observer = MeanObserver(axis)
    for part in parts:
        observer.observe(part)
    whole = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(observer.mean_, whole.mean(axis=(0, 2)), rtol=1e-14)
    assert observer.each_.tolist() == [whole[:, 0].size] * 5
    assert observer.count_ == whole.size


def test_elements_that_are_not_finite_are_counted_and_left_out():
    x = np.array([[1.0, np.nan, np.inf], [3.0, 4.0, -np.inf]])
    observer = MeanObserver().observe(x)
    assert observer.mean_.tolist() == [2, 4, 0]
    assert observer.each_.tolist() == [2, 1, 0]
    assert (observer.count_, observer.nan_, observer.infinite_) == (3, 1, 2)
    observer.observe(np.array([[5.0, 6.0, 7.0]]))
    assert observer.mean_.tolist() == [3, 5, 7]


def test_a_merge_is_as_if_one_had_seen_all():
    parts = batches()
    left, right, whole = MeanObserver(1), MeanObserver(1), MeanObserver(1)
    for i, part in enumerate(parts):
        (left if i < 2 else right).observe(part)
        whole.observe(part)
    before = right.mean_.copy()
    left.merge(right)
    np.testing.assert_allclose(left.mean_, whole.mean_, rtol=1e-14)
    assert left.each_.tolist() == whole.each_.tolist()
    assert np.array_equal(right.mean_, before)


def test_a_saved_state_goes_on():
    def model(x):
        return qn.tap("x", x)

    first, second = batches()[:2]
    calibration = qn.calibrate(model, [first], MeanObserver(1))
    kept = qn.Calibration.from_json(calibration.to_json()).observers["x"]
    assert kept.get_config() == {"axis": 1, "on_nonfinite": "ignore"}
    assert np.array_equal(kept.observe(second).mean_, calibration.observers["x"].observe(second).mean_)
    assert np.array_equal(kept.each_, calibration.observers["x"].each_)


def test_a_copy_learns_alone():
    observer = MeanObserver(1).observe(batches()[0])
    other = copy.copy(observer).observe(batches()[1])
    assert not np.array_equal(observer.mean_, other.mean_)
    assert observer.count_ == batches()[0].size


def test_nonfinite_refused_where_asked():
    with pytest.raises(ValueError, match="on_nonfinite"):
        MeanObserver(on_nonfinite="raise").observe(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="MeanObserver: on_nonfinite must be"):
        MeanObserver(on_nonfinite="drop")


def test_another_number_of_channels_changes_nothing():
    observer = MeanObserver(1).observe(batches()[0])
    before = observer.mean_.copy()
    with pytest.raises(ValueError, match="as before"):
        observer.observe(np.zeros((2, 6, 3)))
    assert np.array_equal(observer.mean_, before)


@pytest.mark.parametrize("method", ["qparams", "range"])
def test_no_scale_follows_from_means(method):
    with pytest.raises(TypeError, match=f"MeanObserver.{method}: means have no range"):
        getattr(MeanObserver().observe(np.ones((2, 2))), method)()
