"""Few distinct values: what is kept of them, and that the search finds the best grid, never worse than min-max's."""

import json

import numpy as np
import pytest
from strategies import SOURCES

import qnumpy as qn
from qnumpy._core import FEW_OF_CHANNEL, FEW_OF_TENSOR
from qnumpy.dtypes import CODE_TYPES

PERCENT_2 = 1.02
CODES = ["int8", "uint8", "int4", "uint4", "int2", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"]


def of(values, counts, seed=0):
    x = np.repeat(np.asarray(values, np.float32), counts)
    return np.random.default_rng(seed).permutation(x)


CASES = {
    "one hot": of([0, 1], [990, 10]),
    "two": of([0.3, 0.7], [5, 500]),
    "two signs": of([-0.9, 1.1], [100, 1]),
    "three": of([-1, 0.3, 1], [10, 400, 10]),
    "four": of([0.1, 0.2, 0.35, 3.05], [100, 50, 50, 1]),
    "tenths": of(np.arange(1, 20) / 10, np.arange(1, 20)),
    "rare and large": of([0, 1, 2, 50], [5000, 5000, 3000, 1]),
    "many": of(np.random.default_rng(1).standard_normal(64), np.random.default_rng(2).integers(1, 90, 64)),
    "more": of(np.random.default_rng(1).standard_normal(300), np.random.default_rng(2).integers(1, 90, 300)),
    "positive": of(np.random.default_rng(3).gamma(2, size=20), np.random.default_rng(4).integers(1, 90, 20)),
}


def error_of(x, params):
    values, counts = np.unique(x, return_counts=True)
    error = values.astype(np.float64) - qn.fake_quantize(values, params)
    return float(np.square(error) @ counts / x.size)


def ranges(x, symmetric):
    """Ranges from a tenth of the data to twice of it."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if symmetric:
        return [(s * min(low, -high), s * max(high, -low)) for s in np.geomspace(0.1, 2, 300)]
    shares = np.geomspace(0.1, 2, 20)
    return [(low * a, high * b) for a in (shares if low else [1]) for b in (shares if high else [1])]


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("name", CASES)
def test_no_grid_is_better(name, dtype):
    x = CASES[name]
    rounding = 1e-13 * float(np.abs(x).max()) ** 2  # of the scale and of the product to float32
    for symmetric in (True, False)[: 1 if "float" in dtype else 2]:
        observer = qn.HistogramObserver(dtype=dtype, symmetric=symmetric).observe(x)
        params = observer.qparams()
        error = error_of(x, params)
        tried = (qn.QParams.from_range(*ends, dtype=dtype, symmetric=symmetric) for ends in ranges(x, symmetric))
        assert error <= PERCENT_2 * min(error_of(x, each) for each in tried) + rounding
        for estimate in (observer.error(), observer.mse(), observer.mse(params)):
            assert estimate == pytest.approx(error, rel=1e-3, abs=10 * rounding)
        assert observer.mean_square() == pytest.approx(np.mean(x.astype(np.float64) ** 2), rel=1e-12)


@pytest.mark.parametrize("source", SOURCES)
def test_values_and_how_often(source):
    x = np.array([0.5, -0.0, np.nan, 0.0, -3.0, np.inf, 0.5], SOURCES[source])
    observer = qn.HistogramObserver().observe(x[::-1])
    assert observer.values_.tolist() == [-3, 0, 0.5]
    assert observer.times_.tolist() == [1, 2, 2]


LARGE = {
    "one to a bin": [0.0, -0.0, 0.5, -3.0, 0.1, 100.0],
    "two to a bin": [1.0, 1 + 2.0**-8, -2.0],
    "zero and next to it": [0.0, -0.0, 6e-8, -6e-8, 1.0],
    "not finite": [1.0, np.nan, -np.nan, np.inf, -np.inf, -1.0],
    "nothing finite": [np.nan, np.inf],
    "all that are kept": np.arange(FEW_OF_TENSOR) - 20.0,
    "all that are kept, and zero twice": np.append(np.arange(FEW_OF_TENSOR) - 20.0, -0.0),
    "one more": np.arange(FEW_OF_TENSOR + 1) * 0.25,
    "images": np.arange(256) / 255,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", LARGE)
def test_of_a_large_tensor(name, source):
    x = np.random.default_rng(6).choice(np.array(LARGE[name]), 20_001).astype(SOURCES[source])
    values, times = np.unique(x[np.isfinite(x)].astype(np.float64) + 0.0, return_counts=True)
    kept = slice(0 if values.size > FEW_OF_TENSOR else None)
    for layout in (x, np.repeat(x, 2)[::2]):
        observer = qn.HistogramObserver().observe(layout)
        assert observer.values_.tolist() == values[kept].tolist()
        assert observer.times_.tolist() == times[kept].tolist()
        assert not np.signbit(observer.values_[observer.values_ == 0]).any()


@pytest.mark.peers
def test_subnormals_are_kept_where_the_processor_is_set_to_flush_them():
    torch = pytest.importorskip("torch")
    x = np.array([1e-310, 1e-40, 1.0])
    observer = qn.HistogramObserver()
    assert torch.set_flush_denormal(True)
    try:
        observer.observe(x)
    finally:
        torch.set_flush_denormal(False)
    assert observer.to_json() == qn.HistogramObserver().observe(x).to_json()


def test_more_values_are_not_kept():
    few, more = np.arange(FEW_OF_TENSOR, dtype=np.float64), np.array([0.1])
    assert qn.HistogramObserver().observe(few).values_.size == FEW_OF_TENSOR
    close = 1 + np.arange(FEW_OF_TENSOR + 1) * 2.0**-40  # of one bin
    for arrays in ([few, more], [more, few], [np.append(few, more)], [close], [few, 2 * few, few], [few, [1e300]]):
        observer, parts = qn.HistogramObserver(), [qn.HistogramObserver().observe(x) for x in arrays]
        for x in arrays:
            observer.observe(x)
        assert observer.values_.size == observer.times_.size == 0
        for part in parts[1:]:
            parts[0].merge(part)
        assert parts[0].to_json() == observer.to_json()


LAYOUTS = {
    "rows": (qn.PerChannel(0), (40, 700)),
    "columns": (qn.PerChannel(1), (700, 40)),
    "a few rows": (qn.PerChannel(0), (3, 5000)),
    "short rows": (qn.PerChannel(0), (40, 100)),
    "short columns": (qn.PerChannel(1), (200, 30)),
    "planes": (qn.PerChannel(1), (9, 20, 8)),
    "groups": (qn.PerGroup(32), (30, 100)),
    "groups of rows": (qn.PerGroup(32, 0), (100, 30)),
    "long groups": (qn.PerGroup(700), (6, 1500)),
    "long groups of rows": (qn.PerGroup(700, 0), (1500, 20)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_of_channels_and_groups(name, source):
    """Every part has other values; some have too many, some have none, and some are not finite."""
    granularity, shape = LAYOUTS[name]
    rng = np.random.default_rng(7)
    levels = rng.integers(-60, 60, shape) * np.float32(0.125)
    x = np.where(rng.random(shape) < 0.02, rng.choice([np.nan, np.inf, -np.inf, -0.0], shape), levels)
    x[:2], x[..., -1] = rng.standard_normal(x[:2].shape), rng.standard_normal(x[..., -1].shape)
    x[2] = np.nan
    x = x.astype(SOURCES[source])
    part = granularity.expand(np.arange(np.prod(granularity.params_shape(shape))).reshape(
        granularity.params_shape(shape)), tuple(slice(0, n) for n in shape))  # fmt: skip
    part = np.broadcast_to(part, shape)
    texts = set()
    for threads in (1, 2):
        for layout in (x, np.asfortranarray(x), np.repeat(x, 2, -1)[..., ::2]):
            with qn.threads(threads):
                observer = qn.HistogramObserver(granularity=granularity).observe(layout)
            texts.add(observer.to_json())
    assert len(texts) == 1
    halves = [qn.HistogramObserver(granularity=granularity).observe(np.where(mask, x, np.nan).astype(x.dtype))
              for mask in (rng.random(shape) < 0.5,) for mask in (mask, ~mask)]  # fmt: skip
    merged = halves[0].merge(halves[1])
    assert (merged.values_.tolist(), merged.times_.tolist()) == (observer.values_.tolist(), observer.times_.tolist())
    for k in range(observer.min_.size):
        real = x[part == k].astype(np.float64)
        values, times = np.unique(real[np.isfinite(real)] + 0.0, return_counts=True)
        kept = slice(0 if values.size > FEW_OF_CHANNEL else None)
        span = slice(*observer.few_[k : k + 2])
        assert observer.values_[span].tolist() == values[kept].tolist()
        assert observer.times_[span].tolist() == times[kept].tolist()


def test_nothing_finite_takes_no_values_away():
    for arrays in ([[np.nan], [1.0, 2.0]], [[1.0, 2.0], [np.inf]]):
        observer = qn.HistogramObserver()
        for x in arrays:
            observer.observe(np.array(x))
        assert observer.values_.tolist() == [1, 2]


def test_an_outlier_is_set_apart_as_it_is_from_bins():
    x = of([-1, 0.5, 1, 1e30], [100_000, 100_000, 100_000, 1])
    observer = qn.HistogramObserver(dtype="int4").observe(x)
    assert observer.apart()[0] == 1
    assert observer.range()[1] < 2
    assert observer.mse() == pytest.approx(error_of(x[x < 2], observer.qparams()), rel=1e-3)


@pytest.mark.parametrize("outlier", [1e30, -1e9])
def test_among_a_thousand_an_outlier_is_signal(outlier):
    """The least error of a thousand elements is that of a grid which reaches the one far out."""
    x = np.append(np.random.default_rng(5).standard_normal(1000), outlier).astype(np.float32)
    for symmetric in (True, False):
        params = qn.choose_qparams(x, symmetric=symmetric, method="mse")
        best = min(error_of(x, qn.QParams.from_range(*e, symmetric=symmetric)) for e in ranges(x, symmetric))
        assert error_of(x, params) <= PERCENT_2 * best
        assert qn.HistogramObserver("percentile", 99.8).observe(x).range()[1] < 5


@pytest.mark.parametrize("values", [[1.0, 0.5], [0.5], [0.5, 0.75], [np.inf, 1.0]])
def test_a_state_of_wrong_values_is_refused(values):
    observer = qn.HistogramObserver().observe(np.array([0.5, 1.0]))
    text = observer.to_json().replace('"values_": {"shape": [2], "data": [0.5, 1.0]}', '"values_": {}')
    data = str([None if v == np.inf else v for v in values]).replace("None", "null")
    broken = text.replace('"values_": {}', f'"values_": {{"shape": [{len(values)}], "data": {data}}}')
    assert broken != observer.to_json()
    with pytest.raises(ValueError, match="what to_json returned"):
        qn.HistogramObserver.from_json(broken)


# ---- against the range of the data ----

SCHEMES = [
    (name, symmetric)
    for name, code in CODE_TYPES.items()
    if code.bits <= 8
    for symmetric in (True, False)
    if symmetric or code.real is None
]
GRIDS = {
    "images": np.arange(256) / 255,
    "pixels": np.arange(256.0),
    "signed images": (np.arange(256) - 128) / 127,
    "normalized images": (np.arange(256) / 255 - 0.485) / 0.229,
    "sixteen levels": 0.013 * (np.arange(16) - 7),
    "some levels": 0.3 * np.random.default_rng(1).choice(np.arange(-90, 160), 77, replace=False),
    "some levels and one apart": np.append(np.arange(0, 250, 7) / 250, 1.7),
    "not on a grid": np.random.default_rng(2).standard_normal(65),
    "three hundred": np.arange(300) * 0.1,
}
PARTS = {
    "tensor": (qn.PerTensor(), (6000,)),
    "rows": (qn.PerChannel(0), (4, 1500)),
    "columns": (qn.PerChannel(1), (1500, 4)),
    "groups": (qn.PerGroup(32), (20, 100)),
    "groups of rows": (qn.PerGroup(128, 0), (256, 20)),
}


def measured(x, params):
    return qn.compare(x, qn.quantize(x, params)).mse


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_never_worse_than_the_range_of_the_data(source, name, part):
    granularity, shape = PARTS[part]
    x = np.random.default_rng(3).choice(GRIDS[name], shape).astype(SOURCES[source])
    for dtype, symmetric in SCHEMES:
        observer = qn.HistogramObserver(dtype=dtype, symmetric=symmetric, granularity=granularity).observe(x)
        params = observer.qparams()
        error = measured(x, params)
        assert error <= measured(x, observer.qparams("minmax")) * (1 + 1e-12)  # the order of the sums
        scheme = {"dtype": dtype, "symmetric": symmetric, "granularity": granularity, "method": "mse"}
        assert qn.choose_qparams(x, **scheme) == params
        assert qn.quantize(x, **scheme).qparams == params
        estimate = float((observer.mse(params) * observer.count_).sum() / x.size)
        assert estimate == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("name", ["images", "pixels", "signed images"])
def test_a_grid_of_256_levels_is_met(name, dtype):
    """Also some of the levels only, each rounded to float32: an SQNR of 140 dB."""
    rng = np.random.default_rng(5)
    for count in (2, 3, 17, 64, 65, 100, 200, 256):
        levels = rng.choice(GRIDS[name], count, replace=False)
        x = rng.choice(levels, 5000).astype(np.float32)
        params = qn.HistogramObserver(dtype=dtype, symmetric=False).observe(x).qparams()
        assert qn.compare(x, qn.quantize(x, params)).sqnr_db > 135, count


@pytest.mark.parametrize("name", ["uniform", "uniform, positive", "normal", "rectified"])
def test_the_range_of_continuous_data_stays_unless_the_gain_is_clear(name):
    """Bins do not tell where values lie in a cell, so small gains may be none; the larger gains are."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        drawn = {
            "uniform": rng.uniform(-1, 1, 3000),
            "uniform, positive": rng.random(3000),
            "normal": rng.standard_normal(3000),
            "rectified": np.maximum(rng.standard_normal(4000), 0),
        }
        x = drawn[name].astype(np.float32)
        for dtype, symmetric in SCHEMES:
            observer = qn.HistogramObserver(dtype=dtype, symmetric=symmetric).observe(x)
            assert observer.values_.size == 0
            assert measured(x, observer.qparams()) <= measured(x, observer.qparams("minmax"))


def test_state_of_wrong_values_of_channels_is_refused():
    observer = qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(np.array([[0.5, 1.0, 1.0], [2.0, 3.0, 4.0]]))
    stored = json.loads(observer.to_json())
    assert stored["state"]["few_"]["data"] == [0, 2, 5]
    for name, data in (
        ("few_", [0, 3, 5]), ("few_", [1, 2, 5]), ("few_", [0, 5]), ("few_", [0, 6, 5]), ("times_", [2, 2, 1, 1, 1]),
        ("times_", [3, 0, 1, 1, 1]), ("values_", [0.5, 1.0, 1.5, 3.0, 4.0]), ("values_", [1.0, 0.5, 2.0, 3.0, 4.0]),
    ):  # fmt: skip
        broken = json.loads(observer.to_json())
        broken["state"][name] = {"shape": [len(data)], "data": data}
        with pytest.raises(ValueError, match="what to_json returned"):
            qn.HistogramObserver.from_json(json.dumps(broken))
    assert qn.HistogramObserver.from_json(observer.to_json()).to_json() == observer.to_json()
