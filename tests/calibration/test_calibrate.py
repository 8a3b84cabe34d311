"""calibrate observes the arrays that a program names, and gives parameters by name and a report of their cost."""

import contextlib
import contextvars
import dataclasses
import json
import pickle
import sys
import threading
from collections.abc import Mapping

import numpy as np
import pytest
from refusals import X, assert_refused, refusals

import qnumpy as qn
from qnumpy.calibration.estimate import estimate, expected
from qnumpy.calibration.report import CalibratedTensor, Technique
from qnumpy.cli import demo
from qnumpy.ops.distinct import Distinct

MINMAX = qn.MinMaxObserver()
U8 = qn.MinMaxObserver(dtype="uint8", symmetric=False)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


W = noise(8, 4, seed=100)


def tapping(x):
    y = np.maximum(qn.tap("x", x) @ W, 0)
    return qn.tap("y", y).sum()


def returning(x):
    return {"x": x, "y": np.maximum(x @ W, 0)}


def batches(count=10, rows=5):
    return [noise(rows, 8, seed=seed) for seed in range(count)]


def states(calibration):
    return {name: observer.to_json() for name, observer in calibration.observers.items()}


# --- what is observed


@pytest.mark.parametrize("run", [tapping, returning])
def test_every_array_under_its_name(run):
    calibration = qn.calibrate(run, batches(), MINMAX)
    x = np.concatenate(batches())
    assert isinstance(calibration, Mapping)
    assert (
        dict(calibration) == calibration.qparams() == {name: qn.choose_qparams(v) for name, v in returning(x).items()}
    )
    assert (list(calibration), len(calibration), "x" in calibration, "z" in calibration) == (["x", "y"], 2, True, False)
    assert (calibration.batches, calibration.settled) == (10, False)
    with pytest.raises(KeyError):
        calibration["z"]


def test_the_split_does_not_matter():
    whole = qn.calibrate(tapping, [np.concatenate(batches())])
    for split in (batches(), batches()[::-1], (b for b in batches()), np.array_split(np.concatenate(batches()), 7)):
        assert states(qn.calibrate(tapping, split)) == states(whole)


def test_a_pipeline_that_does_both_is_observed_once_each():
    def run(x):
        qn.tap("a", x)
        return {"b": x + 1}

    assert list(qn.calibrate(run, batches(1))) == ["a", "b"]


def test_batches_may_be_dicts_of_arrays():
    calibration = qn.calibrate(dict, [{"a": noise(3), "b": noise(4)}, {"a": noise(5, seed=1)}], MINMAX)
    assert calibration["a"] == qn.choose_qparams(np.concatenate([noise(3), noise(5, seed=1)]))


# --- which observer


def test_one_configuration_for_all_is_copied():
    configuration = qn.MinMaxObserver(dtype="int4").observe(noise(9) * 1000)
    before = configuration.to_json()
    calibration = qn.calibrate(tapping, batches(), configuration)
    assert configuration.to_json() == before
    assert calibration["x"] == qn.choose_qparams(np.concatenate(batches()), dtype="int4")


def test_the_default_is_a_histogram():
    calibration = qn.calibrate(tapping, batches())
    assert states(calibration)["x"] == qn.HistogramObserver().observe(np.concatenate(batches())).to_json()


def test_a_mapping_by_name_and_pattern():
    def run(x):
        return {"block0.in": x, "block0.out": x + 1, "block1.in": x + 2, "other": x, "kept": x}

    channel = qn.MinMaxObserver(granularity=qn.PerChannel(1))
    calibration = qn.calibrate(run, batches(), {"block*": U8, "block1.in": channel, "kept": None, "[k]ept": U8})
    assert list(calibration) == ["block0.in", "block0.out", "block1.in"]
    assert calibration["block0.out"].dtype == np.uint8
    assert calibration["block1.in"].granularity == qn.PerChannel(1)


def test_a_function_of_the_name():
    calibration = qn.calibrate(returning, batches(), lambda name: U8 if name == "y" else None)
    assert {name: params.dtype.name for name, params in calibration.items()} == {"y": "uint8"}


def test_a_moving_average_sees_the_batches():
    observer = qn.MovingAverageMinMaxObserver(0.25)
    calibration = qn.calibrate(tapping, batches(), observer)
    alone = qn.MovingAverageMinMaxObserver(0.25)
    for batch in batches():
        alone.observe(batch)
    assert states(calibration)["x"] == alone.to_json()


# --- observing and tap


def test_tap_returns_what_it_was_given():
    for x in ("anything", None, [1.0], W):
        assert qn.tap("x", x) is x
    with qn.observing() as seen:
        assert qn.tap("w", W) is W
    assert qn.tap("later", W) is W
    assert list(seen) == ["w"]


def test_a_calibration_goes_on_learning():
    with qn.observing(U8) as seen:
        tapping(noise(3, 8, seed=1))
    with qn.observing(seen) as again:
        tapping(noise(3, 8, seed=2))
    assert again is seen
    assert states(seen) == states(qn.calibrate(tapping, [noise(3, 8, seed=1), noise(3, 8, seed=2)], U8))


def test_the_inner_block_alone_observes():
    with qn.observing() as outer:
        qn.tap("before", W)
        with qn.observing() as inner:
            qn.tap("inside", W)
        qn.tap("after", W)
    assert (list(outer), list(inner)) == (["before", "after"], ["inside"])


def test_an_exception_ends_the_block():
    with contextlib.suppress(ZeroDivisionError), qn.observing() as seen:
        qn.tap("a", W)
        1 / 0  # noqa: B018
    qn.tap("b", W)
    assert list(seen) == ["a"]


def test_threads_are_observed_where_they_take_the_context():
    with qn.observing() as seen:
        plain = threading.Thread(target=qn.tap, args=("plain", W))
        taken = threading.Thread(target=contextvars.copy_context().run, args=(qn.tap, "taken", W))
        for thread in (plain, taken):
            thread.start()
            thread.join()
    assert "taken" in seen
    if not getattr(sys.flags, "thread_inherit_context", 0):  # the default of free-threaded Python
        assert "plain" not in seen


def test_an_error_says_the_name():
    with pytest.raises(TypeError) as caught:
        qn.calibrate(lambda x: {"ids": np.arange(3)}, [0])
    assert caught.value.__notes__ == ["Observed as 'ids'."]
    with (
        pytest.raises(ValueError, match="MinMaxObserver") as caught,
        qn.observing(qn.MinMaxObserver(on_nonfinite="raise")),
    ):
        qn.tap("bad", np.array([np.nan]))
    assert caught.value.__notes__ == ["Observed as 'bad'."]
    with qn.observing() as seen:
        qn.tap("empty", np.zeros(0))
    with pytest.raises(qn.CalibrationError) as caught:
        seen.qparams()
    assert caught.value.__notes__ == ["Observed as 'empty'."]


# --- early stop


def test_it_stops_when_the_ranges_have_settled():
    ends = [1.0, 2.0, 2.1, 2.11, 2.115, 2.5, 2.5, 2.501, 2.5, 2.0, 9.0]  # widths: twice these
    source = iter([np.array([-end, end]) for end in ends])
    calibration = qn.calibrate(lambda x: {"x": x}, source, MINMAX, patience=4, tolerance=0.01)
    # 2.1 to 2.11 moves an end by 0.0024 of the width; so does 2.115; 2.5 moves; four quiet ones follow
    assert (calibration.batches, calibration.settled) == (10, True)
    assert next(source)[1] == 9.0
    assert float(calibration["x"].scale) == np.float32(2.501 / 127)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("moves", [0.0201, 0.0199])
def test_either_end_may_move(end, moves):
    """An end moves if it moves by more than the tolerance times the width, here 2; the other end stays."""
    low, high = (-1 - moves, 1) if end == "low" else (-1, 1 + moves)
    source = [np.array([-1.0, 1.0]), np.array([low, high]), np.array([low, high])]
    calibration = qn.calibrate(lambda x: {"x": x}, source, MINMAX, patience=1, tolerance=0.01)
    assert calibration.batches == (3 if moves > 0.02 else 2)
    assert calibration.settled


def test_the_tolerance_is_of_the_width():
    """Also of a range far from zero; a move by exactly the tolerance does not count."""
    for last, settled in ((10.5, True), (10.5625, False)):
        source = [np.array([8.0, 10.0]), np.array([8.0, last])]
        assert qn.calibrate(lambda x: {"x": x}, source, MINMAX, patience=1, tolerance=0.25).settled == settled


def test_an_inward_move_counts_too():
    """A moving average may narrow."""
    source = [np.array([-1.0, 1.0]), np.array([-1.0, 0.9]), np.array([-1.0, 0.9])]
    average = qn.MovingAverageMinMaxObserver(1.0)
    assert qn.calibrate(lambda x: {"x": x}, source, average, patience=1, tolerance=0.01).batches == 3


def test_one_moving_channel_or_name_keeps_it_going():
    def run(k):
        x = np.array([[-1.0, 1.0], [-1.0, 1.0 + 0.05 * k]])
        return {"x": x} if k < 3 else {"x": x, f"new{k}": x}

    observer = qn.MinMaxObserver(granularity=qn.PerChannel(0))
    assert not qn.calibrate(run, range(20), observer, patience=1).settled
    assert qn.calibrate(run, range(3), observer, patience=2, tolerance=0.1).settled
    assert qn.calibrate(run, [0, 0, 0, 1, 1], observer, patience=2, tolerance=0).batches == 3


def test_a_channel_with_nothing_finite_has_not_moved():
    x = np.array([[1.0, 2.0], [np.nan, np.inf]])
    calibration = qn.calibrate(lambda x: {"x": x}, [x] * 9, qn.MinMaxObserver(granularity=qn.PerChannel(0)), patience=3)
    assert calibration.batches == 4


def test_without_patience_every_batch_runs():
    assert qn.calibrate(tapping, [batches(1)[0]] * 50).batches == 50


# --- progress


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [None, True, False])
def test_progress(terminal, progress, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    calibration = qn.calibrate(tapping, batches(), progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("calibrate:" in err) == (terminal if progress is None else progress)
    assert states(calibration) == states(qn.calibrate(tapping, batches(), progress=False))


# --- merging


def test_merge_is_what_one_process_would_have_learned():
    parts = [qn.calibrate(tapping, batches()[k::3], U8) for k in range(3)]
    whole = qn.calibrate(tapping, batches(), U8)
    assert states(parts[0].merge(parts[1]).merge(parts[2])) == states(whole)
    assert parts[0].batches == 10


def test_merge_takes_names_that_are_new_and_copies_them():
    a, b = qn.Calibration().observe("a", W), qn.Calibration().observe("b", W)
    before = states(b)
    assert a.merge(b) is a
    a.observe("b", W * 10)
    assert (list(a), states(b)) == (["a", "b"], before)


def test_merge_refuses_what_does_not_belong_together():
    a, b = qn.Calibration(MINMAX).observe("w", W), qn.Calibration(U8).observe("w", W)
    with pytest.raises(ValueError, match=r"^MinMaxObserver\.merge: other must be made with dtype") as caught:
        a.merge(b)
    assert caught.value.__notes__ == ["Observed as 'w'."]
    average = qn.Calibration(qn.MovingAverageMinMaxObserver()).observe("w", W)
    with pytest.raises(TypeError, match="cannot be merged"):
        qn.Calibration(qn.MovingAverageMinMaxObserver()).merge(average)


def test_a_refused_merge_changes_no_name():
    a = qn.Calibration({"y": U8, "*": MINMAX}).observe("x", W).observe("y", W)
    b = qn.Calibration(MINMAX).observe("new", W).observe("x", W * 10).observe("y", W)
    before = states(a), states(b), a.batches
    with pytest.raises(ValueError, match="other must be made with dtype"):
        a.merge(b)
    assert (states(a), states(b), a.batches) == before


def test_pickle_reset_and_repr():
    calibration = qn.calibrate(tapping, batches(), {"x": U8, "*": qn.MinMaxObserver()})
    back = pickle.loads(pickle.dumps(calibration))
    assert (states(back), back.batches) == (states(calibration), 10)
    assert list(back.observe("z", W)) == ["x", "y", "z"]
    assert repr(back) == "Calibration(3 tensors: x, y, z)"
    assert repr(back.reset()) == "Calibration(0 tensors)"
    assert back.batches == 0
    many = qn.Calibration()
    for k in range(7):
        many.observe(str(k), W)
    assert repr(many) == "Calibration(7 tensors: 0, 1, 2, 3, 4, ...)"


OBSERVERS = {
    "one": qn.HistogramObserver("percentile", 99.5, dtype="uint8", symmetric=False),
    "mapping": {"x": U8, "z": None, "y*": qn.HistogramObserver(granularity=qn.PerGroup(2)), "*": MINMAX},
    "average": qn.MovingAverageMinMaxObserver(0.25),
}


@pytest.mark.parametrize("kind", OBSERVERS)
def test_json_is_everything(kind):
    calibration = qn.calibrate(tapping, batches(), OBSERVERS[kind], patience=9, tolerance=9)
    text = calibration.to_json()
    back = qn.Calibration.from_json(text)
    assert back.to_json() == text
    assert (states(back), back.batches, back.settled) == (states(calibration), 10, calibration.settled)
    assert calibration.settled == (kind != "mapping")  # groups of zeros move when their first number comes
    for name in ("x", "new", "z"):  # the copy continues as the original does, also with new names
        for either in (calibration, back):
            either.observe(name, noise(5, 8, seed=50))
    assert states(back) == states(calibration)
    assert ("z" in back) == (kind != "mapping")
    assert qn.Calibration.from_json(qn.Calibration(OBSERVERS[kind]).to_json()).reset().to_json() == (
        qn.Calibration.from_json(text).reset().to_json()
    )
    if kind != "average":
        assert states(back.merge(back)) == states(calibration.merge(pickle.loads(pickle.dumps(calibration))))


def test_json_of_a_function():
    text = qn.calibrate(tapping, batches(), lambda name: U8).to_json()
    with pytest.raises(ValueError, match=r"^Calibration\.from_json: observers must be given, as .*; got None\.$"):
        qn.Calibration.from_json(text)
    back = qn.Calibration.from_json(text, MINMAX)
    assert back["x"].dtype == np.uint8
    assert back.observe("new", W)["new"].dtype == np.int8
    with pytest.raises(TypeError, match=r"^Calibration\.from_json: observers must be an observer, .*; got 3\.$"):
        qn.Calibration.from_json(text, 3)


def test_json_of_others():
    stored = json.loads(qn.Calibration(MINMAX).observe("x", W).to_json())
    broken = [{**stored, name: value} for name, value in (
        ("format", "qnumpy qparams"), ("version", 2), ("batches", "1"), ("settled", 0), ("configuration", {}),
        ("configuration", {"names": {"x": 3}}), ("observers", []), ("observers", {"x": {}}),
    )]  # fmt: skip
    for text in ("", "[]", "[" * 100_000, None, *map(json.dumps, broken)):
        with pytest.raises(ValueError, match=r"^Calibration\.from_json: text must be what to_json returned; got "):
            qn.Calibration.from_json(text)


# --- the report


def activations(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((50, 40)).astype(np.float32)
    x[rng.random(x.shape) < 0.002] *= 10
    return {"x": x, "relu": np.maximum(x, 0), "wide": x * np.float32([1] * 39 + [100])}


REPORTED = {
    "x": qn.HistogramObserver("mse", dtype="int4"),
    "relu": qn.HistogramObserver("percentile", dtype="uint8", symmetric=False),
    "wide": qn.HistogramObserver("mse", granularity=qn.PerChannel(1)),
}


def test_the_report_estimates_what_compare_measures():
    calibration = qn.calibrate(activations, range(30), REPORTED)
    report = calibration.report()
    for name in REPORTED:
        tensor, x = report[name], np.concatenate([activations(k)[name] for k in range(30)])
        measured = qn.compare(x, qn.quantize(x, calibration[name]))
        # values are taken as even inside a bin of the histogram, 1/128 (1/16 per channel) of a value wide
        assert tensor.chosen.sqnr_db == pytest.approx(measured.sqnr_db, abs=0.15)
        assert tensor.chosen.clipped == pytest.approx(measured.clipped, abs=3e-4)
        assert (tensor.min, tensor.max, tensor.count) == (float(x.min()), float(x.max()), x.size)
        assert [t.method for t in tensor.techniques] == ["minmax", "percentile", "entropy", "mse"]
        for technique in tensor.techniques:
            params = calibration.observers[name].qparams(technique.method)
            measured = qn.compare(x, qn.quantize(x, params)).sqnr_db
            assert technique.sqnr_db == pytest.approx(measured, abs=0.15)
        assert tensor.best.sqnr_db == max(t.sqnr_db for t in tensor.techniques)
    own = {name: next(t for t in report[name].techniques if t.method == REPORTED[name].method) for name in REPORTED}
    for name in REPORTED:
        assert (own[name].low, own[name].high) == (report[name].chosen.low, report[name].chosen.high)
    assert report["x"].best.method == "mse"
    for name, line in zip(REPORTED, str(report).splitlines()[1:], strict=False):
        low, high = calibration[name].range()
        assert (report[name].chosen.low, report[name].chosen.high) == (low.min(), high.max())
        assert line.split()[-2:] == [f"{report[name].techniques[-1].sqnr_db:.2f}", report[name].best.method]
    gains = [line for line in str(report).splitlines() if " would gain about " in line]
    assert [line.split()[1] for line in gains] == ["relu:"]


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(8)], ids=repr)
@pytest.mark.parametrize(("dtype", "symmetric"), [("int8", True), ("int4", False), ("uint2", False)])
def test_two_ways_to_the_expected_error(granularity, dtype, symmetric):
    """The closed form of one bin at a time, and the search's sums over the codes."""
    x = activations(3)["wide"]
    observer = qn.HistogramObserver(dtype=dtype, symmetric=symmetric, granularity=granularity).observe(x)
    for method in ("minmax", "percentile", "entropy", "mse"):
        params = observer.qparams(method)
        bins = dataclasses.replace(observer.sketch, distinct=Distinct.none(observer.count_.size))
        low, high, counts, which = bins.bins()
        scale, zero = params.scale.reshape(-1)[which], params.zero_point.reshape(-1)[which]
        sums = expected(low, high, counts, scale, zero, params.qmin, params.qmax)
        assert sums.elements == x.size
        # the search spreads an element that is alone in an outermost bin over 2^-16 of it
        assert sums.noise == pytest.approx(float((bins.mse(params) * observer.count_).sum()), rel=1e-4)


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1)], ids=repr)
def test_the_report_says_what_an_affine_grid_gains(granularity):
    x = np.maximum(noise(400, 8), 0)
    for observer in (qn.HistogramObserver(granularity=granularity), qn.HistogramObserver("percentile")):
        calibration = qn.calibrate(lambda x: {"x": x}, [x[:100], x[100:]], observer)
        (sentence,) = (line for line in calibration.report()["x"].warnings if "one side" in line)
        params = calibration["x"]
        low, high = params.range()
        affine = qn.QParams.from_range(0 * low, high, symmetric=False, granularity=params.granularity)
        gain = qn.compare(x, qn.quantize(x, affine)).sqnr_db - qn.compare(x, qn.quantize(x, params)).sqnr_db
        assert float(sentence.split(" dB")[0].split()[-1]) == pytest.approx(gain, abs=0.3)  # of bins
    for other in (noise(400, 8), np.arange(256.0) - 128):
        report = qn.calibrate(lambda x: {"x": x}, [other], qn.HistogramObserver()).report()
        assert not any("one side" in line for line in report["x"].warnings)
    affine = qn.calibrate(lambda x: {"x": x}, [x], qn.HistogramObserver(symmetric=False)).report()["x"]
    assert affine.affine_db is None
    assert affine.warnings == []


IMAGES = {
    "images": np.arange(256) / 255,
    "pixels": np.arange(256.0),
    "signed": (np.arange(256) - 128) / 128,
    "some of the levels": np.arange(0, 256, 3) / 255,
    "coarse": np.arange(70) * 0.25,
}


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(32)], ids=repr)
@pytest.mark.parametrize("name", IMAGES)
def test_the_report_of_values_on_a_grid(name, granularity):
    x = np.random.default_rng(1).choice(IMAGES[name], (1000, 32)).astype(np.float32)
    observer = qn.HistogramObserver(dtype="uint8", symmetric=False, granularity=granularity)
    calibration = qn.calibrate(
        lambda x: {"x": x}, [x] if granularity == qn.PerGroup(32) else [x[:400], x[400:]], observer
    )
    tensor = calibration.report()["x"]
    for technique in tensor.techniques:
        measured = qn.compare(x, qn.quantize(x, calibration.observers["x"].qparams(technique.method)))
        assert technique.sqnr_db == pytest.approx(measured.sqnr_db, abs=1e-6)  # the order of the sums
        assert technique.clipped == measured.clipped
    sqnr = {technique.method: technique.sqnr_db for technique in tensor.techniques}
    assert tensor.chosen.sqnr_db == sqnr["mse"] >= max(sqnr.values()) - 1e-9
    assert sqnr["mse"] > 50 if granularity == qn.PerGroup(32) else sqnr["mse"] > 135


def test_an_outlier_does_not_hide_the_rest():
    x = np.random.default_rng(3).standard_normal((400, 500), np.float32)
    x[0, 0] = 1e30
    tensor = qn.calibrate(lambda x: {"x": x}, [x]).report()["x"]
    by = {technique.method: technique for technique in tensor.techniques}
    for technique in by.values():  # as compare measures it, with the outlier and without
        q = qn.quantize(x, qn.choose_qparams(x, method=technique.method))
        assert technique.sqnr_db == pytest.approx(qn.compare(x, q).sqnr_db, abs=0.15)
        rest, q.codes[0, 0] = x.copy(), 0
        rest[0, 0] = 0
        assert technique.rest_db == pytest.approx(qn.compare(rest, q).sqnr_db, abs=0.15)
    assert (tensor.best.method, tensor.best_rest.method) == ("minmax", "mse")
    assert (by["minmax"].rest_db, by["mse"].sqnr_db) == (pytest.approx(0, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert by["mse"].rest_db > 30
    assert tensor.chosen.clipped == pytest.approx(1 / x.size, abs=1e-3)
    assert tensor.apart == 1
    assert tensor.apart_from <= 1e30
    assert tensor.warnings == [
        "1 of 200,000 elements, from magnitude 9.953e+29 on, are set apart by mse as outliers. The rest has an SQNR "
        "of, in dB: " + ", ".join(f"{method} {by[method].rest_db:.2f}" for method in by) + "."
    ]
    assert str(tensor).splitlines()[1].endswith("  minmax, mse")


def winner(x, observer):
    """The technique of the highest measured SQNR, and that SQNR."""
    quantized = {method: qn.quantize(x, params) for method, params in observer.techniques().items()}
    measured = {method: qn.compare(x, q).sqnr_db for method, q in quantized.items()}
    best = max(measured, key=measured.get)
    return best, measured


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1)], ids=repr)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_winner_named_is_the_winner(dtype, granularity):
    """On real data, within a tenth of a decibel: what bins of 1/128 cannot tell apart.

    Two things they know less of: which of its levels 17 grey values fall on, and channels of some tens of elements.
    """
    digits = demo.load()
    few = 0.1 if granularity == qn.PerTensor() else 0.8
    for name, x in {**digits.weights, **digits.activations()}.items():
        observer = qn.HistogramObserver(dtype=dtype, granularity=granularity)
        tensor = qn.calibrate(lambda x: {"x": x}, [x], observer).report()["x"]
        best, measured = winner(x, observer.observe(x))
        tolerance = 2.5 if len(np.unique(x)) < 20 else few
        assert measured[tensor.best.method] == pytest.approx(measured[best], abs=tolerance), name


@pytest.mark.parametrize(("outliers", "granularity", "symmetric"), [
    ([1e30], qn.PerTensor(), True),
    ([1e30], qn.PerChannel(1), True),
    ([-1e30], qn.PerChannel(1), False),
    ([1e30, 1e30], qn.PerTensor(), True),
    ([1e30, -3e29], qn.PerTensor(), False),
    ([1e39], qn.PerTensor(), True),
])  # fmt: skip
def test_the_winner_among_outliers(outliers, granularity, symmetric):
    x = np.random.default_rng(3).standard_normal((110_000, 2)) * [1, 50]
    x[: len(outliers), 1] = outliers
    observer = qn.HistogramObserver(symmetric=symmetric, granularity=granularity)
    tensor = qn.calibrate(lambda x: {"x": x}, [x], observer).report()["x"]
    assert tensor.apart == len(outliers)
    best, measured = winner(x, observer.observe(x))
    assert tensor.best.method == best
    for technique in tensor.techniques:
        if technique.method != "minmax" or len(outliers) == 1:  # of several one is known, the extreme
            assert technique.sqnr_db == pytest.approx(measured[technique.method], abs=0.15)
    best, measured = winner(np.where(np.abs(x) > 1e20, 0, x), observer)
    assert measured[tensor.best_rest.method] == pytest.approx(measured[best], abs=0.1)


@pytest.mark.parametrize("outlier", [-1e30, 1e30])
def test_outliers_count_as_clipped(outlier):
    x = np.random.default_rng(3).uniform(-1, 1, (3, 110_000)).astype(np.float32)
    x[0, 0], x[2, 0] = outlier, 3e28
    observer = qn.HistogramObserver(granularity=qn.PerChannel(0))
    tensor = qn.calibrate(lambda x: {"x": x}, [x], observer).report()["x"]
    assert tensor.apart == 2
    assert 2.9e28 < tensor.apart_from <= 3e28
    params = qn.QParams(np.full(3, 1.5 / 127), 0, granularity=qn.PerChannel(0))
    every, rest = estimate(observer.observe(x).sketch, params, observer.symmetric)
    assert (every.elements, every.outside) == (x.size, 2)
    assert (rest.elements, rest.outside) == (x.size - 2, 0)
    assert every.clipped == qn.compare(x, qn.quantize(x, params)).clipped


def test_an_outlier_whose_square_no_float64_holds():
    x = np.random.default_rng(3).standard_normal(200_000)
    x[0] = 1e300
    tensor = qn.calibrate(lambda x: {"x": x}, [x]).report()["x"]
    assert tensor.apart == 1
    assert tensor.reason is None
    assert [technique.method for technique in tensor.techniques] == ["percentile", "entropy", "mse"]  # no scale: minmax
    assert tensor.best_rest.method == "mse"
    assert tensor.chosen.rest_db == pytest.approx(qn.compare(x[1:], qn.quantize(x[1:], method="mse")).sqnr_db, abs=0.15)
    assert json.loads(tensor.to_json())["sqnr_db"] is None


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0)])
def test_rare_signal_is_no_outlier(granularity):
    x = np.full((64, 2048), 1e-7, np.float32)
    x[np.arange(64), np.arange(64) * 7] = 1
    observer = qn.HistogramObserver(granularity=granularity)
    tensor = qn.calibrate(lambda x: {"x": x}, [x], observer).report()["x"]
    by = {technique.method: technique for technique in tensor.techniques}
    assert tensor.apart == 0
    assert by["minmax"].sqnr_db > 100
    for method in ("minmax", "mse"):
        params = qn.choose_qparams(x, granularity=granularity, method=method)
        true = qn.compare(x, qn.quantize(x, params)).sqnr_db
        assert true > 50  # the ones lie on a level, or near it
        assert by[method].sqnr_db == pytest.approx(true, abs=40)


def test_zeros_do_not_count_when_outliers_are_told():
    x = np.zeros(100_000, np.float32)
    x[:10], x[10:20] = np.linspace(1, 1.9, 10), 1e-6
    assert qn.HistogramObserver().observe(x).apart() == (0, 0)
    assert 1.9 <= qn.choose_qparams(x, method="mse").scale * 127 < 2.2  # 1.0, 1.1, ... are whole numbers of 1 / 60


@pytest.mark.parametrize(("gain", "sentences"), [(0.99, []), (1.0, ["mse would gain about 1.0 dB."]), (np.inf, [])])
def test_a_gain_of_a_decibel_is_worth_a_sentence(gain, sentences):
    chosen, better = (Technique("mse", -1.0, 1.0, 0.0, db, db) for db in (20.0, 20.0 + gain))
    tensor = CalibratedTensor("x", "Histogram", "int8", "per tensor", 9, 0, 0, -1.0, 1.0, chosen, (chosen, better))
    assert tensor.best is better
    assert tensor.warnings == sentences


def test_a_negative_sqnr_is_one():
    """And beats none at all."""
    worse, better = (Technique("mse", -1.0, 1.0, 0.0, db, db) for db in (-3.0, -2.0))
    none = Technique("mse", -1.0, 1.0, 0.0, None, None)
    for techniques in ((none, worse, better), (better, worse), (worse, better, none)):
        tensor = CalibratedTensor("x", "-", "int8", "per tensor", 9, 0, 0, -1.0, 1.0, worse, techniques)
        assert tensor.best is tensor.best_rest is better


@pytest.mark.parametrize(("low", "high", "clipped"), [
    (-7.5, -7.0, 0.0), (-8.5, -7.5, 1.0), (-8.5, -6.5, 0.5), (-8.25, -6.25, 0.375), (-7.75, -7.75, 1.0),
    (-7.25, -7.25, 0.0), (7.0, 7.5, 0.0), (7.5, 8.5, 1.0), (6.5, 8.5, 0.5), (7.25, 7.25, 0.0), (7.75, 7.75, 1.0),
    (-15.5, 16.5, 0.53125), (0.0, 0.0, 0.0),
])  # fmt: skip
@pytest.mark.parametrize(("scale", "zero"), [(1.0, 0), (0.5, 3), (4.0, -2)])
def test_the_share_clipped_is_what_lies_half_a_step_outside(low, high, clipped, scale, zero):
    """Bins in steps from zero, codes from 7 below to 7 above the zero point: all numbers are exact."""
    ends = (np.array([scale * end]) for end in (low, high))
    assert expected(*ends, np.array([10]), scale, zero, zero - 7, zero + 7).clipped == clipped


def test_a_range_that_no_scale_covers():
    report = qn.calibrate(lambda x: {"x": x}, [np.array([1e300, -1.0])], MINMAX).report()
    assert report["x"].chosen is None
    assert report["x"].reason == (
        "MinMaxObserver.qparams: the range must have a finite float32 scale; got 7.87402e+297."
    )


def test_the_report_without_histograms():
    x = np.array([[1.0, -2.0], [np.nan, np.inf]])
    observers = {"a": qn.MinMaxObserver(), "b": qn.MovingAverageMinMaxObserver(), "n": qn.MinMaxObserver()}
    calibration = qn.calibrate(lambda x: {"a": x, "b": x, "n": x[1:]}, [x], observers)
    report = calibration.report()
    assert str(report) == (
        "tensor  type  granularity  observer             min  max  low  high  clipped %  SQNR dB\n"
        "a       int8  per tensor   MinMax                -2    1   -2     2          0        -\n"
        "b       int8  per tensor   MovingAverageMinMax   -2    1   -2     2          -        -\n"
        "n       int8  per tensor   MinMax               no parameters\n"
        "\n"
        "warning: a: 1 NaN and 1 infinite of 4 elements were left out.\n"
        "warning: b: 1 NaN and 1 infinite of 4 elements were left out.\n"
        "warning: n: 1 NaN and 1 infinite of 2 elements were left out.\n"
        "warning: n: There are no parameters. MinMaxObserver.qparams: data must be finite somewhere; "
        "got only NaN and infinities."
    )
    assert repr(report) == str(report)
    assert (len(report), [tensor.name for tensor in report]) == (3, ["a", "b", "n"])
    with pytest.raises(KeyError):
        report["c"]


def test_the_report_in_other_forms():
    calibration = qn.calibrate(activations, range(3), {**REPORTED, "x": qn.MinMaxObserver()})
    report = calibration.report()
    content = json.loads(report.to_json())
    assert (content["batches"], content["settled"]) == (3, False)
    assert content["tensors"] == report.to_records()
    first, second, _ = report.to_records()
    assert list(first) == [
        "name", "observer", "dtype", "granularity", "count", "nan", "inf", "min", "max", "low", "high", "clipped",
        "sqnr_db", "rest_db", "best", "best_rest", "reason", "apart", "apart_from", "affine_db",
    ]  # fmt: skip
    assert (first["name"], first["observer"], first["best"]) == ("x", "MinMax", None)
    assert second["observer"] == "Histogram percentile"
    assert second["sqnr_db"] == second["sqnr_db_percentile"]
    page = calibration._repr_html_()
    assert page == report._repr_html_()
    assert page.count("<tr>") == 4
    assert "<b>" not in qn.Calibration().observe("<b>", W)._repr_html_()
    many = qn.Calibration()
    for k in range(25):
        many.observe(f"t{k}", np.array([k, np.nan]))
    assert "... and 5 more" in many._repr_html_()
    assert "... and 5 more." in str(many.report())
    assert str(qn.Calibration().report()).startswith("tensor")


def calibrate_rows():
    def run(x):
        return {"x": x}

    calibrate, wanted = qn.calibrate, "an observer, a mapping from names to observers, or a function of a name"
    for value in (3, "minmax", qn.MinMaxObserver, {"x": "minmax"}, [qn.MinMaxObserver()]):
        got = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        for owner, call in (
            ("Calibration", qn.Calibration),
            ("calibrate", lambda v: calibrate(run, [X], v)),
            ("observing", lambda v: qn.observing(v).__enter__()),
        ):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: observers must be {wanted}; got {got}"
    returned = "Calibration: observers must be a function that returns an observer or None; got 3"
    yield lambda: calibrate(run, [X], lambda name: 3), TypeError, returned
    yield lambda: calibrate({}, [X]), TypeError, "calibrate: run must be callable; got {}"
    yield lambda: calibrate(run, 3), TypeError, "calibrate: batches must be iterable; got 3"
    for value in (0, -1):
        wrong = f"calibrate: patience must be at least 1; got {value}"
        yield lambda v=value: calibrate(run, [X], patience=v), ValueError, wrong
    wrong = "calibrate: patience must be an integer; got 1.5"
    yield lambda: calibrate(run, [X], patience=1.5), TypeError, wrong
    for value in (-0.1, np.nan, "1", None):
        wrong = f"calibrate: tolerance must be a number of at least 0; got {value!r}"
        yield lambda v=value: calibrate(run, [X], tolerance=v), ValueError, wrong
    for batches in ([], iter(())):
        wrong = "calibrate: batches must be one or more; got none"
        yield lambda b=batches: calibrate(run, b), qn.CalibrationError, wrong
    nothing = "calibrate: run must be a function that taps arrays which observers take, or returns them in a dict"
    wrong = f"{nothing}; got no such array"
    yield lambda: calibrate(np.sum, [X, X]), qn.CalibrationError, wrong
    for observers in ({"y*": qn.MinMaxObserver()}, lambda name: None):
        wrong = f"{nothing}; got only 'x'"
        yield lambda o=observers: calibrate(run, [X, X], o), qn.CalibrationError, wrong
    wrong = f"{nothing}; got only 'a0', 'a1', 'a2', 'a3', 'a4' and 1,001 more"
    many = {"y*": qn.MinMaxObserver()}
    yield lambda: calibrate(lambda x: {f"a{k}": x for k in range(1006)}, [X], many), qn.CalibrationError, wrong
    observers = {"x": qn.MinMaxObserver(), "z": qn.MinMaxObserver(), "w*": qn.MinMaxObserver(), "v": None}
    wrong = "calibrate: observers must be named as the arrays are; got 'z', which never came. The arrays were 'x'"
    yield lambda: calibrate(run, [X], observers), qn.CalibrationError, wrong
    for value in (3, None, ("x",)):
        wrong = f"Calibration.observe: name must be a string; got {value!r}"
        yield lambda v=value: calibrate(lambda x: {v: x}, [X]), TypeError, wrong
    wrong = "Calibration.merge: other must be a Calibration; got {}"
    yield lambda: qn.Calibration().merge({}), TypeError, wrong


@refusals(calibrate_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
