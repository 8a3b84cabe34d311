"""HistogramObserver: the state, and the figures that it gives. test_base.py has what all observers share."""

import ctypes
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from observer_kinds import METHODS, data
from strategies import SOURCES

import qnumpy as qn
from qnumpy.dtypes import CODE_TYPES
from qnumpy.observers import Observer

# ---- the state ----


@pytest.mark.parametrize("source", SOURCES)
def test_rows_threads_and_layouts(source):
    """The same bytes on every ISA, thread count and memory layout."""
    x = np.random.default_rng(4).standard_normal((300, 400)).astype(SOURCES[source])
    before, texts = qn.isa(), set()
    try:
        for name, supported in qn.show_config()["isas"].items():
            if supported:
                qn.set_isa(name)
                for threads in (1, 2):
                    with qn.threads(threads):
                        for layout in (x, np.asfortranarray(x), x[::-1, ::-1], x.astype(x.dtype.newbyteorder(">"))):
                            texts.add(qn.HistogramObserver().observe(layout).to_json())
    finally:
        qn.set_isa(before)
    assert len(texts) == 1


def test_dtypes_of_the_data():
    for source in SOURCES.values():
        observer = qn.HistogramObserver().observe(np.array([1, -2, 0.5], source))
        assert observer.range("minmax") == (-2, 1)
    assert qn.MinMaxObserver().observe(np.array([1], ml_dtypes.bfloat16)).count_ == 1
    assert qn.MinMaxObserver().observe([1, 2]).max_ == 2


def test_bytes_of_a_state():
    """The bounds that the docstring gives."""
    everything = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    tensor = qn.HistogramObserver().observe(everything)
    assert tensor.keys_.nbytes + tensor.bins_.nbytes == 10 * 65_280
    channel = qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(everything[None])
    assert channel.keys_.nbytes + channel.bins_.nbytes == 10 * 8_160


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_usable_size"), reason="the C library does not tell")
def test_merged_bins_take_no_more_memory_than_they_are():
    usable = ctypes.CDLL(None).malloc_usable_size
    usable.restype, usable.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    observer = qn.HistogramObserver().observe(data())
    observer.merge(observer)
    for part in (observer.bins_, observer.keys_):
        assert usable(part.ctypes.data) < 1.5 * part.nbytes + 64  # what malloc rounds up


def test_a_state_that_does_not_fit_is_refused():
    stored = json.loads(qn.HistogramObserver().observe(data()).to_json())
    for name in stored["state"]:
        broken = json.loads(json.dumps(stored))
        del broken["state"][name]
        with pytest.raises(ValueError, match="what to_json returned"):
            Observer.from_json(json.dumps(broken))
    more = {**stored, "state": {**stored["state"], "more_": stored["state"]["nan_"]}}
    average = json.loads(qn.MovingAverageMinMaxObserver().observe(data()).to_json())
    deeper = {**average, "state": {name: {**part, "shape": [1]} for name, part in average["state"].items()}}
    for broken in (more, deeper):
        with pytest.raises(ValueError, match="what to_json returned"):
            Observer.from_json(json.dumps(broken))
    state = {name: part["data"] for name, part in stored["state"].items()}
    keys, counts, bad = state["keys_"], state["bins_"], []
    bad += [("keys_", [key, *keys[1:]]) for key in (70000, -1, keys[1], 0, 0.5)]
    bad += [("keys_", keys[::-1]), ("keys_", [*keys[:-1], 0xFF80])]
    bad += [("bins_", [0, counts[0] + counts[1], *counts[2:]])]
    bad += [("bins_", [each, *counts[1:]]) for each in (-counts[0], 0, counts[0] + 1)]
    bad += [("offsets_", [0, state["offsets_"][1] - 1]), ("offsets_", [1, state["offsets_"][1]])]
    bad += [(name, [-1]) for name in ("nan_", "infinite_", "count_")] + [("min_", [1e9]), ("max_", [None])]
    assert all(len(value) == len(state[name]) for name, value in bad)
    bad += [("min_", 5), ("nan_", [0, 0]), ("count_", [])]
    for name, value in bad:
        broken = json.loads(json.dumps(stored))
        broken["state"][name]["data"] = value
        with pytest.raises(ValueError, match="what to_json returned"):
            Observer.from_json(json.dumps(broken))
    for name, value in (("nan_", 5), ("min_", {"shape": [1], "data": [0.0]}), ("nan_", {"shape": [1], "data": [0]})):
        broken = json.loads(json.dumps(stored))
        broken["state"][name] = value
        with pytest.raises(ValueError, match="what to_json returned"):
            Observer.from_json(json.dumps(broken))


def test_a_pickled_state_without_a_part_is_refused():
    observer = qn.HistogramObserver().observe(data())
    del observer.values_, observer.times_
    with pytest.raises(ValueError, match="the pickled state must be complete; got none of values_, times_"):
        pickle.loads(pickle.dumps(observer))


# ---- the figures ----


def curve(observer, n, method=None):
    """Thresholds and errors by the criterion of an observer, or by another."""
    return observer.sketch.curve(
        CODE_TYPES[observer.dtype], symmetric=observer.symmetric, method=method or observer.method, n=n
    )


def test_qparams_changes_nothing():
    observer = qn.HistogramObserver().observe(data())
    before = observer.to_json()
    for method in ("minmax", "mse", "entropy", "percentile"):
        observer.qparams(method), observer.range(method), observer.coverage(method)
    for method in ("mse", "entropy", "percentile"):
        curve(observer, 256, method), observer.error(method)
    observer.mse(), observer.mean_square(), observer.sketch.bins(), repr(observer), observer._repr_html_()
    assert observer.to_json() == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("symmetric", "dtype"), [(True, "int4"), (False, "int4"), (True, "float4_e2m1fn")])
def test_the_curve_has_its_least_where_the_range_is(symmetric, dtype, method):
    x = np.random.default_rng(5).laplace(size=50_000)
    observer = qn.HistogramObserver(method, symmetric=symmetric, dtype=dtype).observe(x)
    threshold, error = curve(observer, 400)
    assert threshold.shape == error.shape == (400,)
    assert (np.diff(threshold) > 0).all()
    assert threshold[-1] == pytest.approx(np.abs(x).max())
    assert threshold[0] == pytest.approx(max(map(abs, observer.range())) / 16)
    if method == "percentile":
        assert (np.diff(error) <= 0).all()
        share = np.mean(np.abs(x) > threshold[200])
        assert error[200] == pytest.approx(share, abs=1e-3)  # one bin's elements
    else:
        best = max(map(abs, observer.range()))
        assert observer.error() <= 1.03 * error.min()  # affine: the curve moves both ends alike
        if symmetric:
            assert threshold[error.argmin()] == pytest.approx(best, rel=0.03)  # the curve is flat there
    rows = curve(qn.HistogramObserver(method, granularity=qn.PerChannel(0)).observe(x.reshape(2, -1)), 16)
    assert rows[0].shape == rows[1].shape == (2, 16)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_curve_is_that_of_ranges(symmetric):
    """An affine range is what was seen, cut at both ends."""
    x = np.random.default_rng(5).gamma(2, size=50_000) - 0.5
    observer = qn.HistogramObserver(symmetric=symmetric).observe(x)
    for t, error in zip(*curve(observer, 9), strict=True):
        low, high = (-t, t) if symmetric else (max(x.min(), -t), min(x.max(), t))
        params = qn.QParams.from_range(low, high, symmetric=symmetric)
        # the zero point is a whole code, which moves the range by up to half of its 255 steps
        assert error == pytest.approx(observer.mse(params), rel=1e-5 if symmetric else 0.05)


def test_bins():
    x = np.array([[1.0, 1.05, -3.0, 0.0], [5.0, 5.0, 5.0, np.nan]], np.float32)
    bins = qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(x).sketch.bins()
    assert bins.parameter.tolist() == [0, 0, 0, 1]
    assert bins.counts.tolist() == [1, 1, 2, 3]
    assert bins.low[[0, 2, 3]].tolist() == [-3.0, 1.0, 5.0]
    assert bins.high[2] == np.float32(1.05)
    beyond = (
        qn.HistogramObserver().observe(np.array([-1e300, -1.0, 1e300])).sketch.bins()
    )  # of float32, in its last bins
    assert (beyond.low[0], beyond.high[-1]) == (-1e300, 1e300)


def test_estimates():
    x = np.random.default_rng(6).standard_normal(100_000).astype(np.float32)
    observer = qn.HistogramObserver(dtype="int4").observe(x)
    for method in ("mse", "minmax", "percentile"):
        params = observer.qparams(method)
        real = np.mean((x - qn.fake_quantize(x, params)) ** 2)
        assert observer.mse(params) == pytest.approx(real, rel=0.01)
    assert observer.mse() == pytest.approx(observer.error(), rel=1e-4)  # the scale is rounded to float32
    assert observer.mean_square() == pytest.approx(np.mean(x.astype(float) ** 2), rel=1e-3)


def test_parameters_of_another_observer_are_refused():
    observer = qn.HistogramObserver().observe(data())
    wide = observer.mse(qn.choose_qparams(data(), dtype="int16"))
    assert wide.shape == ()
    assert wide < observer.mse()
    with pytest.raises(TypeError, match=r"^HistogramObserver\.mse: qparams must be "):
        observer.mse(0.1)
    rows = qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(np.ones((3, 4)))
    two, columns = np.ones((2, 4)), np.ones((4, 3))
    others = [
        qn.choose_qparams(two, granularity=qn.PerChannel(0)),
        qn.choose_qparams(columns, granularity=qn.PerChannel(1)),
    ]
    for other in (observer.qparams(), *others):
        with pytest.raises(
            ValueError, match=r"^HistogramObserver\.mse: qparams must be per channel 0, of shape \(3,\); got "
        ):
            rows.mse(other)


# ---- words ----


def rows():
    histogram = qn.HistogramObserver().observe(data())
    methods = "'mse', 'entropy', 'percentile'"
    yield (
        lambda: qn.HistogramObserver("kl"),
        f"HistogramObserver: method must be one of {methods}; got 'kl'.",
    )
    for owner, call in (
        ("HistogramObserver", lambda v: qn.HistogramObserver(percentile=v)),
        ("choose_qparams", lambda v: qn.choose_qparams(data(), percentile=v)),
    ):
        yield lambda c=call: c(101), f"{owner}: percentile must be in (0, 100]; got 101."
        yield lambda c=call: c(0), f"{owner}: percentile must be in (0, 100]; got 0."
        yield lambda c=call: c("99"), f"{owner}: percentile must be a number; got '99'."
    for name in ("qparams", "range", "coverage"):
        yield (
            lambda n=name: getattr(histogram, n)("best"),
            f"HistogramObserver.{name}: method must be one of 'minmax', {methods}; got 'best'.",
        )
    yield lambda: histogram.error("minmax"), f"HistogramObserver.error: method must be one of {methods}; got 'minmax'."
    yield lambda: curve(histogram, 1), "Sketch.curve: n must be at least 2; got 1."
    yield lambda: curve(histogram, 2.5), "Sketch.curve: n must be an integer; got 2.5."
    yield lambda: curve(histogram, 2, "minmax"), f"Sketch.curve: method must be one of {methods}; got 'minmax'."


ROWS = list(rows())


@pytest.mark.parametrize(("call", "message"), ROWS, ids=[message[:60] for _, message in ROWS])
def test_message(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
