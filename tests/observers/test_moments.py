"""MomentsObserver: count, mean and scatter against float64, for every type, layout and split; storage and merging."""

import copy
import json
import pickle
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.observers import Observer

BOUND = 2.0**-13  # of the class: of the geometric mean of two diagonal elements


def inputs(rows=3000, columns=24, seed=0):
    """Correlated columns of different sizes, far from zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    return (x * np.exp2(rng.integers(-8, 8, columns)) + rng.normal(size=columns) * 30).astype(np.float32)


def scatter(x):
    wide = x.astype(np.float64).reshape(-1, x.shape[-1])
    apart = wide - wide.mean(axis=0)
    return apart.T @ apart


def error(observer, x):
    """The largest error of the scatter, in units of the geometric mean of the diagonal elements."""
    exact = scatter(x)
    size = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    return (np.abs(observer.scatter_ - exact) / np.where(size > 0, size, 1)).max()


def state(observer):
    return observer.count_, observer.nan_, observer.infinite_, observer.mean_.tobytes(), observer.scatter_.tobytes()


# ---- the values ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_moments_are_those_of_float64(dtype):
    x = inputs().astype(dtype)
    observer = qn.MomentsObserver().observe(x)
    wide = x.astype(np.float64)
    assert (observer.count_, observer.inputs) == (3000, 24)
    assert error(observer, x) < (1e-13 if dtype is np.float64 else BOUND / 20)  # most roundings cancel
    np.testing.assert_allclose(observer.mean_, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(observer.diagonal, np.square(wide).mean(axis=0), rtol=BOUND)
    np.testing.assert_allclose(
        observer.covariance(centered=False),
        wide.T @ wide / 3000,
        rtol=0,
        atol=BOUND * np.square(wide).mean(axis=0).max(),
    )
    np.testing.assert_array_equal(observer.covariance(), observer.scatter_ / 3000)


@pytest.mark.parametrize("split", [1, 7, 100, 1023, 1024, 1025, 2999])
def test_splits_differ_within_the_bound(split):
    x = inputs()
    observer = qn.MomentsObserver()
    for first in range(0, len(x), split):
        observer.observe(x[first : first + split])
    assert observer.count_ == len(x)
    assert error(observer, x) < BOUND / 50


def test_signs_that_never_cancel_stay_within_the_bound():
    x = np.where(np.arange(4096)[:, None] % 2, 1 + 2.0**-20, -1 - 2.0**-21).astype(np.float32) * np.ones(3, np.float32)
    observer = qn.MomentsObserver().observe(x)
    assert error(observer, x) < BOUND


def test_inputs_far_from_zero_keep_their_scatter():
    """The float32 sum of squares of these columns would lose every digit of their variance."""
    x = (np.random.default_rng(0).normal(size=(5000, 8)) * 0.25 + 4096).astype(np.float32)
    assert error(qn.MomentsObserver().observe(x), x) < BOUND
    assert error(qn.MomentsObserver().observe(x[:2000]).observe(x[2000:]), x) < BOUND


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1.0, 1e25, 3e38])
def test_huge_and_tiny_inputs(scale):
    x = inputs(200, 5) / np.abs(inputs(200, 5)).max() * np.float32(scale)
    assert error(qn.MomentsObserver().observe(x), x) < BOUND


def test_columns_of_very_different_sizes():
    x = inputs(500, 4) * np.array([1e-30, 1, 1e12, 0], np.float32)
    observer = qn.MomentsObserver().observe(x)
    assert error(observer, x) < BOUND
    assert observer.diagonal[3] == 0


def test_layouts_give_the_same_bits_and_are_not_modified():
    x = inputs(2100, 12)
    expected = state(qn.MomentsObserver().observe(x))
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((2100, 24), np.float32)
    wide[:, ::2] = x
    deep = np.ascontiguousarray(x.reshape(70, 30, 12).transpose(1, 0, 2))
    for layout in (
        frozen, x.astype(">f4"), np.asfortranarray(x), wide[:, ::2], x[::-1][::-1], x.reshape(70, 30, 12),
        deep.transpose(1, 0, 2),
    ):  # fmt: skip
        before = layout.tobytes()
        assert state(qn.MomentsObserver().observe(layout)) == expected
        assert layout.tobytes() == before


def test_covariances_are_symmetric_to_the_bit_and_new():
    observer = qn.MomentsObserver().observe(inputs())
    for centered in (True, False):
        h = observer.covariance(centered=centered)
        assert (h == h.T).all()
        h[:] = 0
    assert observer.diagonal.all()


# ---- little data ----


def test_little_data():
    one = qn.MomentsObserver().observe([3.0, -4.0])  # one row
    assert (int(one.count_), one.mean_.tolist(), one.diagonal.tolist()) == (1, [3, -4], [9, 16])
    assert not one.covariance().any()
    single = qn.MomentsObserver().observe([[1.0], [3.0]])  # K = 1
    assert (single.covariance().tolist(), single.covariance(centered=False).tolist()) == ([[1.0]], [[5.0]])
    zeros = qn.MomentsObserver().observe(np.zeros((5, 3), np.float32))
    assert not zeros.covariance(centered=False).any()


@pytest.mark.parametrize("empty", [np.zeros((0, 3), np.float32), np.zeros((4, 0)), np.zeros((0, 0)), []])
def test_empty_arrays_change_nothing(empty):
    observer = qn.MomentsObserver().observe(empty)
    assert repr(observer) == "MomentsObserver(nothing seen)"


def test_rows_that_are_not_finite_are_counted_and_left_out():
    x = inputs(2000, 6)
    bad = x.copy()
    bad[3, 2], bad[1500, 0], bad[1500, 1], bad[7, 5], bad[8, 5] = np.nan, np.nan, np.inf, np.inf, -np.inf
    observer = qn.MomentsObserver().observe(bad)
    left = np.delete(x, [3, 7, 8, 1500], axis=0)
    assert (observer.count_, observer.nan_, observer.infinite_) == (1996, 2, 2)
    assert error(observer, left) < BOUND
    assert repr(observer) == "MomentsObserver(6 inputs, 1,996 rows, left out: 2 with NaN, 2 with infinities)"
    nothing = qn.MomentsObserver().observe(np.full((3, 2), np.nan))
    assert (nothing.count_, nothing.nan_) == (0, 3)


def test_refusals_change_nothing():
    observer = qn.MomentsObserver(on_nonfinite="raise").observe(inputs(10, 3))
    before = state(observer)
    text = 'x must be finite when on_nonfinite is "raise"; got 1 rows with NaN and 0 with infinities.'
    for x, kind, sentence in [
        (np.array([[1.0, 2, 3], [np.nan, 1, 2]]), ValueError, text),
        (np.ones((2, 4), np.float32), ValueError, "x must be of 3 inputs, as before; got shape (2, 4)."),
        (np.float32(1), ValueError, "x must be of shape (..., inputs); got a 0-d array."),
        (np.ones((2, 3)) * 1e200, ValueError, "x must be of squares that float64 sums, at most 2^500; got 1e+200."),
        (np.ones((2, 3), np.int8), TypeError,
         "x must be an array of float32, float64, float16 or bfloat16; got dtype int8."),
    ]:  # fmt: skip
        with pytest.raises(kind) as caught:
            observer.observe(x)
        assert str(caught.value) == f"MomentsObserver.observe: {sentence}"
        assert state(observer) == before


def test_there_is_no_range():
    observer = qn.MomentsObserver().observe([[1.0, 2.0]])
    for method in ("qparams", "range"):
        with pytest.raises(TypeError) as caught:
            getattr(observer, method)()
        text = "moments have no range, so that no scale follows from them. Use HistogramObserver."
        assert str(caught.value) == f"MomentsObserver.{method}: {text}"


# ---- merging and storage ----


def test_merging_is_observing():
    x = inputs()
    parts = [qn.MomentsObserver().observe(part) for part in np.array_split(x, 9)]
    before = [state(part) for part in parts]
    whole = qn.MomentsObserver()
    for part in [*parts, qn.MomentsObserver()]:
        whole.merge(part)
    assert whole.count_ == len(x)
    assert error(whole, x) < BOUND / 50
    assert (whole.scatter_ == whole.scatter_.T).all()
    assert [state(part) for part in parts] == before
    again = qn.MomentsObserver()
    for part in parts:
        again.merge(part)
    assert state(again) == state(whole)  # one order, the same bits


def test_merging_keeps_the_parts_apart():
    part = qn.MomentsObserver().observe(inputs(10, 3))
    before = state(part)
    whole = qn.MomentsObserver().merge(part)
    assert state(whole) == before
    whole.observe(inputs(10, 3, seed=1))
    twin = copy.copy(part).observe(inputs(5, 3, seed=2))
    assert state(part) == before != state(twin)


def test_wrong_merges():
    observer = qn.MomentsObserver().observe([[1.0, 2.0]])
    for other, kind, text in [
        (
            qn.MinMaxObserver(),
            TypeError,
            "a MomentsObserver; got MinMaxObserver(int8, per tensor, symmetric, nothing seen).",
        ),
        (qn.MomentsObserver(on_nonfinite="raise"), ValueError, "made with on_nonfinite='ignore'; got 'raise'."),
        (qn.MomentsObserver().observe([1.0]), ValueError, "an observer of parameters of shape (2,); got (1,)."),
    ]:
        with pytest.raises(kind) as caught:
            observer.merge(other)
        assert str(caught.value) == f"MomentsObserver.merge: other must be {text}"


def test_storage_is_exact():
    observer = qn.MomentsObserver(on_nonfinite="ignore").observe(inputs(50, 5) / 3)
    observer.observe([[np.nan] * 5])
    text = observer.to_json()
    for back in (
        qn.MomentsObserver.from_json(text), Observer.from_json(text), Observer.from_dict(observer.to_dict()),
        pickle.loads(pickle.dumps(observer)), copy.deepcopy(observer),
    ):  # fmt: skip
        assert type(back) is qn.MomentsObserver
        assert state(back) == state(observer)
        assert back.to_json() == text
        back.observe(inputs(50, 5))
    assert state(qn.MomentsObserver.from_json(text)) == state(observer)
    fresh = qn.MomentsObserver.from_config(observer.get_config())
    assert repr(fresh) == "MomentsObserver(nothing seen)"
    assert qn.MomentsObserver.from_json(fresh.to_json()).observe([[1.0]]).inputs == 1
    assert not hasattr(observer.reset(), "mean_")


@pytest.mark.parametrize("change", [
    lambda state: state["scatter_"]["data"].__setitem__(1, 5.0),  # not symmetric
    lambda state: state["scatter_"]["data"].__setitem__(0, -1.0),
    lambda state: state["scatter_"].update(shape=[4, 1]),
    lambda state: state["mean_"]["data"].__setitem__(0, None),
    lambda state: state["count_"].update(data=[0]),
    lambda state: state["nan_"].update(data=[-1]),
    lambda state: state.pop("mean_"),
])  # fmt: skip
def test_states_that_no_data_leads_to_are_refused(change):
    values = json.loads(qn.MomentsObserver().observe([[1.0, 2.0], [3.0, 5.0]]).to_json())
    change(values["state"])
    with pytest.raises(ValueError, match=r"^MomentsObserver\.from_dict: values must be what to_dict returned; got "):
        qn.MomentsObserver.from_dict(values)


def test_memory_is_that_of_the_state_and_a_block():
    x = np.ones((60_000, 256), np.float32)
    tracemalloc.start()
    qn.MomentsObserver().observe(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    block, held = 1024 * 256 * 4, 256 * 256 * 8
    assert peak < 2 * held + 3 * block + 2**19 < x.nbytes / 8


# ---- calibrations ----


def test_a_calibration_keeps_moments_beside_ranges():
    x = inputs(64, 4)
    observers = {"*.in": qn.MomentsObserver(), "y": qn.MinMaxObserver()}
    calibration = qn.calibrate(lambda x: {"fc.in": x, "y": x}, [x, x], observers)
    assert list(calibration) == list(dict(calibration)) == ["y"]
    assert ("fc.in" in calibration, len(calibration), repr(calibration)) == (
        False,
        1,
        "Calibration(2 tensors: fc.in, y)",
    )
    assert calibration.get("fc.in") is None
    with pytest.raises(KeyError, match=r"'fc\.in' has a MomentsObserver, which chooses no parameters"):
        calibration["fc.in"]
    assert state(calibration.observers["fc.in"]) == state(qn.MomentsObserver().observe(x).observe(x))
    row = calibration.report()["fc.in"]
    assert (row.observer, row.count, row.chosen, row.reason, row.warnings) == ("Moments", 128, None, None, [])
    assert "128 rows" in str(calibration.report())
    assert "128 rows" in calibration._repr_html_()
    json.loads(calibration.report().to_json())
    back = qn.Calibration.from_json(calibration.to_json())
    assert state(back.observers["fc.in"]) == state(calibration.observers["fc.in"])
    both = qn.Calibration(observers).merge(calibration).merge(back)
    assert both.observers["fc.in"].count_ == 256


def test_a_calibration_of_moments_alone():
    calibration = qn.calibrate(lambda x: {"x": x}, [inputs(64, 4)], qn.MomentsObserver())
    assert (len(calibration), list(calibration.observers)) == (0, ["x"])
    with qn.observing(qn.MomentsObserver()) as seen:
        qn.tap("x", inputs(3, 4))
    assert seen.observers["x"].count_ == 3
    with pytest.raises(qn.CalibrationError, match="named as the arrays are"):
        qn.calibrate(lambda x: {"x": x}, [inputs(64, 4)], {"other": qn.MomentsObserver(), "x": qn.MomentsObserver()})


def test_a_calibration_stops_when_the_mean_squares_rest():
    x = inputs(64, 4)
    batches = [x, 100 * x, *([x] * 9)]
    still = qn.calibrate(lambda x: {"x": x}, [x] * 9, qn.MomentsObserver(), patience=2)
    assert (still.batches, still.settled) == (3, True)
    moved = qn.calibrate(lambda x: {"x": x}, batches, qn.MomentsObserver(), patience=2)
    assert not moved.settled  # the share of the large batch falls with each small one
