"""MovingAverageMinMaxObserver: the average over batches. test_base.py has what all observers share."""

import numpy as np
import pytest
from observer_kinds import data

import qnumpy as qn


def test_the_average_of_batches():
    batches = [data(seed) for seed in range(5)]
    observer = qn.MovingAverageMinMaxObserver(0.25)
    low = high = None
    for batch in batches:
        finite = batch[np.isfinite(batch)].astype(np.float64)
        low = finite.min() if low is None else 0.75 * low + 0.25 * finite.min()
        high = finite.max() if high is None else 0.75 * high + 0.25 * finite.max()
        observer.observe(batch)
    assert observer.range() == (low, high)
    assert observer.count_ == 5 * (batches[0].size - 2)


def test_a_constant_of_one_is_the_last_batch():
    observer = qn.MovingAverageMinMaxObserver(1).observe([-1e308, 1e308]).observe([1.0, 2.0])
    assert observer.range() == (1, 2)


def test_batches_without_a_finite_element_do_not_count():
    observer = qn.MovingAverageMinMaxObserver(0.5, granularity=qn.PerChannel(0))
    for first, second in ((np.nan, 1.0), (2.0, np.inf), (4.0, 3.0)):
        observer.observe(np.array([[first], [second]]))
    assert observer.range()[0].tolist() == [3.0, 2.0]


def rows():
    yield (
        lambda: qn.MovingAverageMinMaxObserver("0.1"),
        "MovingAverageMinMaxObserver: averaging_constant must be a number; got '0.1'.",
    )
    for value in (0, -0.1, 1.5, float("nan")):
        yield (
            lambda v=value: qn.MovingAverageMinMaxObserver(v),
            f"MovingAverageMinMaxObserver: averaging_constant must be in (0, 1]; got {value!r}.",
        )
    average = qn.MovingAverageMinMaxObserver()
    yield (
        lambda: average.merge(average),
        "MovingAverageMinMaxObserver.merge: the average depends on the order of the batches, so two cannot be merged. "
        "Use MinMaxObserver or HistogramObserver where the data is split.",
    )


ROWS = list(rows())


@pytest.mark.parametrize(("call", "message"), ROWS, ids=[message[:60] for _, message in ROWS])
def test_message(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
