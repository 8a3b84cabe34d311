"""MeanObserver: exact sums, batches, non-finite elements, files."""

import numpy as np
import pytest

from qnumpy.observers import MeanObserver


def test_means_of_batches_are_those_of_all():
    x = np.random.default_rng(0).normal(size=(12, 5, 3)).astype(np.float32)
    observer = MeanObserver(axis=1)
    for batch in (x[:1], x[1:8], x[8:]):
        observer.observe(batch)
    np.testing.assert_allclose(observer.mean_, x.astype(np.float64).mean(axis=(0, 2)), rtol=1e-13, atol=1e-15)
    assert observer.each_.tolist() == [36] * 5
    assert observer.count_ == x.size


def test_what_is_not_finite_is_left_out():
    observer = MeanObserver().observe(np.array([[1.0, np.nan, 4.0], [3.0, np.inf, np.nan]]))
    assert observer.mean_.tolist() == [2.0, 0.0, 4.0]
    assert (observer.each_.tolist(), int(observer.nan_), int(observer.infinite_)) == ([2, 0, 1], 2, 1)


def test_no_parameters_follow():
    observer = MeanObserver().observe(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"^MeanObserver\.qparams: "):
        observer.qparams()
    with pytest.raises(TypeError, match=r"^MeanObserver\.range: "):
        observer.range()


def test_configuration():
    assert MeanObserver.from_config(MeanObserver(axis=1).get_config()).axis == 1
