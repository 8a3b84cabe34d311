"""What every observer does: the same state however the data is split, storage, text, and refusals."""

import gc
import json
import pickle
import re
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observer_kinds import KINDS, MERGEABLE, METHODS, data
from refusals import CODES

import qnumpy as qn
from qnumpy.cli import main
from qnumpy.observers import Observer, observer_for, observers_by_method

GRANULARITIES = [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerGroup(7), qn.PerGroup(4, 0)]
FLOATS = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn"]


# ---- one batch, and what is stored ----


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_is_choose_qparams(kind, granularity):
    for dtype in ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"):
        for symmetric in (True, False):
            options = {"dtype": dtype, "granularity": granularity, "symmetric": symmetric}
            method = "minmax" if kind in ("minmax", "average") else kind
            want = qn.choose_qparams(data(), method=method, percentile=99, **options)
            assert KINDS[kind](**options).observe(data()).qparams() == want


@pytest.mark.parametrize("dtype", FLOATS)
def test_codes_that_are_floats(dtype):
    for observer in (qn.MinMaxObserver(dtype=dtype), *(qn.HistogramObserver(m, dtype=dtype) for m in METHODS)):
        observer.observe(data())
        method = getattr(observer, "method", "minmax")
        assert observer.qparams() == qn.choose_qparams(data(), dtype=dtype, method=method)
        assert type(observer).from_json(observer.to_json()).qparams() == observer.qparams()
    # Parameters of another type are judged by their own numbers.
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    params = qn.QParams.from_range(-2.0, 2.0, dtype=dtype)
    real = np.mean((x - qn.fake_quantize(x, params)) ** 2, dtype=np.float64)
    assert qn.HistogramObserver().observe(x).mse(params) == pytest.approx(real, rel=0.01)


def test_every_method_makes_its_observer():
    options = {"dtype": "uint8", "symmetric": False, "granularity": qn.PerChannel(0)}
    for method, kind in observers_by_method().items():
        observer = observer_for(method, 99, **options)
        assert type(observer) is kind
        assert observer.observe(data()).qparams() == qn.choose_qparams(data(), method=method, percentile=99, **options)

    class Inherited(qn.MinMaxObserver):
        """It names no methods of its own, so the one of its base stays with the base."""

    assert observers_by_method()["minmax"] is qn.MinMaxObserver
    del Observer._kinds["Inherited"]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_stored_and_restored(kind, granularity):
    for observer in (KINDS[kind](granularity=granularity), KINDS[kind](granularity=granularity).observe(data())):
        text = observer.to_json()
        assert json.loads(text)["observer"] == type(observer).__name__
        about = json.loads(json.dumps(observer.to_dict()))
        assert about == json.loads(text)
        copies = [Observer.from_json(text), type(observer).from_json(text), type(observer).from_dict(about)]
        for copy in (*copies, pickle.loads(pickle.dumps(observer))):
            assert type(copy) is type(observer)
            assert copy.to_json() == text
            assert repr(copy) == repr(observer)
            assert copy.observe(data(1)).to_json() == pickle.loads(pickle.dumps(observer)).observe(data(1)).to_json()
        config = json.loads(json.dumps(observer.get_config()))
        fresh = type(observer).from_config(config)
        assert fresh.get_config() == observer.get_config()
        assert fresh.to_json() == observer.reset().to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_json(kind):
    """Nothing that JSON lacks: the range of nothing, from infinity to minus infinity, is null."""
    observer = KINDS[kind](granularity=qn.PerChannel(0)).observe(np.array([[1.0], [np.nan], [np.inf]]))
    stored = json.loads(observer.to_json(), parse_constant=pytest.fail)
    assert stored["state"]["min_"]["data"] == stored["state"]["max_"]["data"] == [1, None, None]
    back = Observer.from_json(observer.to_json())
    assert (back.min_.tolist(), back.max_.tolist()) == ([1, np.inf, np.inf], [1, -np.inf, -np.inf])


# ---- laws ----


@st.composite
def splits(draw):
    """An array, and two ways to cut it into batches, each with a tree of merges."""
    n = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = np.ldexp(rng.standard_normal(n), rng.integers(-40, 40, n))
    hard = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -3e38, 1e30, 1.0, 1.0]
    x = np.where(rng.random(n) < 0.2, rng.choice(hard, n), x).astype(draw(st.sampled_from([np.float32, np.float64])))
    return x, [sorted(draw(st.lists(st.integers(0, n), max_size=8))) for _ in range(2)], rng


@settings(max_examples=150)
@given(splits(), st.sampled_from(MERGEABLE))
def test_any_split_and_any_tree_give_the_same_bytes(problem, kind):
    x, cuts, rng = problem
    whole = KINDS[kind]().observe(x).to_json()
    for cut in cuts:
        parts = np.split(x, cut)
        one = KINDS[kind]()
        for part in parts:
            assert one.observe(part) is one
        assert one.to_json() == whole
        leaves = [KINDS[kind]().observe(part) for part in parts]
        before = [leaf.to_json() for leaf in leaves]
        for part, leaf in zip(parts, before, strict=True):
            assert leaf == KINDS[kind]().observe(part[::-1]).to_json()
        while len(leaves) > 1:  # any two, either into the other
            i, k = rng.choice(len(leaves), 2, replace=False)
            right = leaves[k].to_json()
            assert leaves[i].merge(leaves[k]) is leaves[i]
            assert leaves[k].to_json() == right
            del leaves[k]
        assert leaves[0].to_json() == whole


@pytest.mark.parametrize("kind", MERGEABLE)
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_channels_and_groups_merge(granularity, kind):
    """Batches of one array share its channels; the sum is that of the batches put together on another axis."""
    parts = [data(seed) for seed in range(3)]
    options = {"granularity": granularity}
    one = KINDS[kind](**options)
    for part in parts:
        one.observe(part)
    seen = one.count_ + one.nan_ + one.infinite_
    if isinstance(granularity, qn.PerGroup):  # 30 columns are four groups of 7 and one of 2
        assert seen[0].tolist() == {7: [21, 21, 21, 21, 6], 4: [12] * 30}[granularity.group_size]
    assert seen.sum() == sum(part.size for part in parts)
    a, b, c = (KINDS[kind](**options).observe(part) for part in parts)
    assert c.merge(a.merge(b)).to_json() == one.to_json()
    if isinstance(granularity, qn.PerChannel):
        whole = np.concatenate(parts, axis=1 if granularity.axis == 0 else 0)
        assert KINDS[kind](**options).observe(whole).to_json() == one.to_json()


# ---- what is seen ----


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batches_and_other_shapes(kind):
    observer = KINDS[kind]().observe(np.empty((3, 0), np.float32))
    assert observer.to_json() == KINDS[kind]().to_json()
    with pytest.raises(qn.CalibrationError, match="data must be observed first; got none"):
        observer.qparams()
    for shape in ((), (1,), (5, 0), (2, 3, 4), (100,)):
        observer.observe(np.ones(shape, np.float32))
    assert observer.count_ == 126
    channels = KINDS[kind](granularity=qn.PerChannel(1)).observe(np.ones((2, 3), np.float32))
    channels.observe(np.ones((7, 3, 2), np.float32)).observe(np.empty((0, 3), np.float32))
    assert channels.count_.tolist() == [16, 16, 16]


@pytest.mark.parametrize("kind", KINDS)
def test_an_all_zero_first_batch(kind):
    observer = KINDS[kind]().observe(np.zeros(50, np.float32))
    assert observer.qparams().scale == 1
    for _ in range(3):
        observer.observe(np.linspace(-1, 1, 1000))
    assert observer.qparams().scale > 0


@pytest.mark.parametrize("kind", KINDS)
def test_nonfinite_is_counted_or_refused(kind):
    observer = KINDS[kind]().observe(data())
    assert (observer.nan_, observer.infinite_, observer.count_) == (1, 1, 598)
    strict = KINDS[kind](on_nonfinite="raise").observe(np.ones(3))
    before = strict.to_json()
    name = type(strict).__name__
    message = f'{name}.observe: x must be finite when on_nonfinite is "raise"; got 1 NaN and 1 infinities.'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        strict.observe(data())
    assert strict.to_json() == before


# ---- memory ----


def resident():
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.memory
@pytest.mark.parametrize("kind", ["minmax", "average", "mse"])
def test_memory_of_ten_thousand_batches(kind):
    """Bounded by the bins, however much is seen: 10 bytes each, some 2,000. One kept batch in four would show."""
    rng = np.random.default_rng(7)
    batches = [rng.standard_normal(700, dtype=np.float32) for _ in range(10)]
    observer = KINDS[kind]()
    for batch in batches:
        observer.observe(batch)
    size, before = len(pickle.dumps(observer)), resident()
    for k in range(10_000):
        observer.observe(batches[k % 10])
    assert observer.count_ == 10_010 * 700
    assert len(pickle.dumps(observer)) == size < 50_000
    assert resident() - before < 2 << 20


# ---- a new observer ----


def test_a_class_that_names_methods_appears_by_itself(monkeypatch, capsys):
    """One file and one export: the report and the command line read the classes."""
    monkeypatch.setattr(Observer, "_kinds", dict(Observer._kinds))

    class WideObserver(Observer):
        methods = ("wide",)

        def _range(self, owner):
            low, high = super()._range(owner)
            return 2 * low, 2 * high

    assert list(observers_by_method()) == ["minmax", "wide", "percentile", "entropy", "mse"]
    observer = observer_for("wide", dtype="int4").observe(np.array([-1.0, 3.5]))
    assert (type(observer), observer.qparams().scale) == (WideObserver, 1)
    assert Observer.from_json(observer.to_json()).qparams() == observer.qparams()
    tensor = qn.Calibration(observer).observe("x", np.array([-1.0, 3.5])).report()["x"]
    assert (tensor.observer, tensor.chosen.high, tensor.chosen.clipped, tensor.techniques) == ("Wide", 7, None, ())
    assert main(["calibrate", "--help"]) == 0
    assert "{minmax,wide,percentile,entropy,mse,moments}" in capsys.readouterr().out


# ---- words ----


def test_repr():
    assert repr(qn.HistogramObserver("percentile", 99.9, dtype="uint8", symmetric=False)) == (
        "HistogramObserver(uint8, per tensor, affine, method=percentile 99.9, nothing seen)"
    )
    observer = qn.MinMaxObserver(granularity=qn.PerChannel(0)).observe(data())
    assert re.fullmatch(
        r"MinMaxObserver\(int8, per channel 0, symmetric, min=-\S+\.\.-\S+ \(20,\), max=\S+\.\.\S+ \(20,\), 598 seen, "
        r"1 NaN, 1 infinite\)",
        repr(observer),
    )
    assert "<th>min</th><td>-" in observer._repr_html_()
    assert "averaging" in qn.MovingAverageMinMaxObserver()._repr_html_()


def rows():
    seen = qn.MinMaxObserver(granularity=qn.PerChannel(0)).observe(data())
    histogram = qn.HistogramObserver().observe(data())
    granular = "PerTensor(), PerChannel(axis) or PerGroup(group_size)"
    yield (
        lambda: qn.MinMaxObserver(dtype="float32"),
        f"MinMaxObserver: dtype must be {CODES}; got 'float32'. qnumpy.cast converts to float32.",
    )
    even = "symmetric must be True for float8_e4m3fn, which has no zero point; got False."
    for kind in (qn.MinMaxObserver, qn.HistogramObserver):
        yield lambda k=kind: k(dtype="float8_e4m3fn", symmetric=False), f"{kind.__name__}: {even}"
    yield (
        lambda: qn.choose_qparams(data(), dtype="float8_e4m3fn", symmetric=False, method="mse"),
        f"choose_qparams: {even}",
    )
    yield lambda: qn.MinMaxObserver(granularity=0), f"MinMaxObserver: granularity must be {granular}; got 0."
    yield (
        lambda: qn.HistogramObserver(granularity=qn.PerRow()),
        f"HistogramObserver: granularity must be {granular}; got PerRow(). "
        "Rows are quantized as they come: quantize(x, granularity=PerRow()).",
    )
    yield (
        lambda: qn.MinMaxObserver(on_nonfinite="skip"),
        "MinMaxObserver: on_nonfinite must be one of 'ignore', 'raise'; got 'skip'.",
    )
    yield (
        lambda: seen.observe(data()[:3]),
        "MinMaxObserver.observe: x must be an array with parameters of shape (20,), as before; "
        "got (3,) from shape (3, 30).",
    )
    yield (
        lambda: seen.observe(np.ones(3, int)),
        "MinMaxObserver.observe: x must be an array of float32, float64, float16 or bfloat16; got dtype int64.",
    )
    yield lambda: seen.observe(np.float32(1)), "PerChannel: axis must be left out for a 0-d array; got 0."
    yield (
        lambda: seen.merge(histogram),
        f"MinMaxObserver.merge: other must be a MinMaxObserver; got {histogram!r:.57}....",
    )
    yield (
        lambda: histogram.merge(qn.HistogramObserver("entropy")),
        "HistogramObserver.merge: other must be made with method='mse'; got 'entropy'.",
    )
    other = qn.MinMaxObserver(granularity=qn.PerChannel(0)).observe(data()[:3])
    yield (
        lambda: seen.merge(other),
        "MinMaxObserver.merge: other must be an observer of parameters of shape (20,); got (3,).",
    )
    huge = qn.MinMaxObserver().observe(np.ones(1)).to_json().replace("1.0", "1" + "0" * 400)
    for text in ("", "[]", "{}", '{"observer": "Observer", "config": {}, "state": {}}', "null", huge, "[" * 100_000):
        shown = repr(text) if len(text) < 59 else repr(text)[:57] + "..."
        yield (
            lambda t=text: Observer.from_json(t),
            f"Observer.from_json: text must be what to_json returned; got {shown}.",
        )
    yield lambda: Observer.from_dict({}), "Observer.from_dict: values must be what to_dict returned; got {}."
    yield (
        lambda: qn.MinMaxObserver.from_dict(histogram.to_dict()),
        "MinMaxObserver.from_dict: values must be of a MinMaxObserver; got HistogramObserver.",
    )
    yield (
        lambda: qn.MinMaxObserver.from_json(histogram.to_json()),
        "MinMaxObserver.from_json: text must be of a MinMaxObserver; got HistogramObserver.",
    )
    for name, observer in (("MinMaxObserver", qn.MinMaxObserver()), ("HistogramObserver", qn.HistogramObserver())):
        for method in ("qparams", "range"):
            yield (
                lambda o=observer, m=method: getattr(o, m)(),
                f"{name}.{method}: data must be observed first; got none. Call observe(x).",
            )
    lost = qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(np.array([[1.0], [np.nan]]))
    yield (
        lost.qparams,
        "HistogramObserver.qparams: data must be finite somewhere; got only NaN and infinities in 1 of 2 channels or "
        "groups.",
    )


ROWS = list(rows())


@pytest.mark.parametrize(("call", "message"), ROWS, ids=[message[:60] for _, message in ROWS])
def test_message(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [qn.MinMaxObserver, qn.MovingAverageMinMaxObserver, qn.HistogramObserver])
def test_a_range_without_a_scale_names_the_observer(kind):
    want = rf"^{kind.__name__}\.qparams: the range must have a finite float32 scale; got 7\.87402e\+297\.$"
    with pytest.raises(ValueError, match=want):
        kind().observe(np.array([1e300])).qparams(*(["minmax"] if kind is qn.HistogramObserver else []))
