"""Histograms and searches against the NumPy twin, numpy.histogram, closed forms, brute force, and the peers."""

import math
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from distributions import DISTRIBUTIONS, best_step, laplace_error, normal_error, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import GRIDS, LAYOUTS, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy import _core
from qnumpy import testing as twin
from qnumpy.dtypes import CODE_TYPES, code_type, float_type
from qnumpy.ops.histogram import Sketch, bin_ends

PERCENT_2 = 1.02  # what the issue of every search allows beside the optimum: bins are up to 1/16 of an octave wide
DB_005 = 0.05
FLOATS = [name for name, code in CODE_TYPES.items() if code.real is not None]


def sketch_of(x, granularity):
    return Sketch.of(np.asarray(x), float_type(np.asarray(x).dtype), granularity)


def entropy_bin(counts, levels=128, first=128):
    """The bin that the kernel chooses, and the divergence of every one; as twin.entropy_bin."""
    numbers = np.ascontiguousarray(levels, np.float64) if np.ndim(levels) else np.empty(0)
    divergence = np.full(counts.size + 1, np.nan)
    return _core.entropy_bin(counts, numbers.size or levels, numbers, first, divergence), divergence


def agree(x, granularity, about):
    sketch = sketch_of(x, granularity)
    got, ranges = sketch.histogram, (sketch.min, sketch.max, sketch.nan, sketch.infinite)
    for part, g, w in zip(("offsets", "keys", "counts"), got, twin.histogram(np.asarray(x), granularity), strict=True):
        assert_same_bits(g, w, f"{part}, {about}")
    for part, g, w in zip(("min", "max", "nan", "inf"), ranges, twin.ranges(np.asarray(x), granularity), strict=True):
        assert_same_bits(g, w, f"{part}, {about}")


# ---- the bins ----


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_layout(source, grid):
    grid = GRIDS[grid]
    for n in (0, 1, 2, 17, 70):
        x, _, _ = case(grid, n, "int8", SOURCES[source])
        for name, layout in LAYOUTS.items():
            agree(layout(x), grid.granularity, f"{name}, n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_counted_and_sorted_and_cut(source, grid):
    """From some 256 elements of a channel and 1024 of a tensor on, bins are counted; from 16,384 on, threads share."""
    grid = GRIDS[grid]
    for n, threads, layout in ((255, 1, "c"), (1025, 1, "big-endian"), (5000, 1, "c"), (20_000, 2, "c")):
        x, _, _ = case(grid, n, "int8", SOURCES[source])
        with qn.threads(threads):
            agree(LAYOUTS[layout](x), grid.granularity, f"{layout}, n = {n}")


@pytest.mark.parametrize("threads", [1, 2])
def test_four_counters_a_bin(threads):
    x = np.random.default_rng(0).standard_normal(600_000, dtype=np.float32)
    x[::7] = 0
    x[:3] = np.nan, np.inf, -np.inf
    with qn.threads(threads):
        agree(x, qn.PerTensor(), "tensor")
        agree(x.reshape(3, -1), qn.PerChannel(0), "rows")
        agree(x.reshape(-1, 3), qn.PerChannel(1), "columns")
        agree(x.reshape(2, 3, -1), qn.PerChannel(1), "middle")


def test_all_16_bit_patterns():
    """Of bfloat16 each finite pattern is a bin of its own."""
    every = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
    _, keys, counts = sketch_of(every, qn.PerTensor()).histogram
    assert keys.size == 2 * 0x7F80
    assert (counts == 1).all()
    low, high = bin_ends(keys, qn.PerTensor())
    np.testing.assert_array_equal(low[1:], high[:-1])
    assert high[-1] == -low[0] == 2.0**128


def test_float64_is_truncated():
    """A float64 just below an edge stays below, though float32 would round it up; beyond float32 is the last bin."""
    x = np.array([np.nextafter(1.0, 0), 1.0, 1e300, 1e-300, -np.nextafter(2.0, 0), 4.9e-324])
    _, keys, counts = sketch_of(x, qn.PerTensor()).histogram
    low, high = bin_ends(keys, qn.PerTensor())
    assert keys.tolist() == [0x4000, 0x8000, 0xBF7F, 0xBF80, 0xFF7F]
    assert counts.tolist() == [1, 2, 1, 1, 1]
    assert low.tolist()[2:4] == [1 - 2**-8, 1.0]
    assert high[-1] == 2.0**128


def test_numpy_histogram_agrees_on_the_edges():
    x = np.random.default_rng(1).laplace(size=50_000)
    for granularity, shape in ((qn.PerTensor(), x.shape), (qn.PerChannel(0), (1, x.size))):
        _, keys, counts = sketch_of(x.reshape(shape), granularity).histogram
        low, high = bin_ends(keys, granularity)
        edges = np.unique(np.concatenate([low, high]))
        positive = edges[edges > 0]  # on the other side bins hold their end near zero
        want = np.histogram(x[(x >= positive[0]) & (x < positive[-1])], positive)[0]
        np.testing.assert_array_equal(counts[low > 0], want[np.isin(positive[:-1], low)])


def test_boost_histogram_agrees():
    boost = pytest.importorskip("boost_histogram")
    x = np.random.default_rng(2).gamma(2, size=50_000)
    _, keys, counts = sketch_of(x, qn.PerTensor()).histogram
    low, high = bin_ends(keys, qn.PerTensor())
    filled = boost.Histogram(boost.axis.Variable(np.append(low, high[-1])))
    assert (low[1:] >= high[:-1]).all()
    filled.fill(x)
    np.testing.assert_array_equal(filled.values(), counts)


# ---- closed forms ----

SEEDS = (0, 1, 2)
OPTIMA = [  # largest value with a code in units of sigma, or b; SQNR in dB; levels -K..K
    ("normal", 127, 3.9205, 40.54),
    ("normal", 7, 2.4739, 18.90),
    ("laplace", 127, 9.8827, 35.18),
    ("laplace", 7, 4.8199, 15.62),
]
ERRORS = {"normal": (normal_error, 1.0), "laplace": (laplace_error, 2.0)}


@pytest.mark.parametrize(("density", "k", "most", "db"), OPTIMA)
def test_the_exact_errors_are_those_of_the_literature(density, k, most, db):
    error, variance = ERRORS[density]
    levels = np.arange(-k, k + 1)
    step = best_step(error, levels, 0.5 * most / k, 2 * most / k)
    assert k * step == pytest.approx(most, abs=6e-5)
    assert 10 * math.log10(variance / error(levels, step)) == pytest.approx(db, abs=6e-3)


def test_max_1960():
    """The steps of uniform quantizers of a normal variable: J. Max, "Quantizing for minimum distortion", table II, and,
    as it ends at 36 levels, from 64 on N. S. Jayant and P. Noll, "Digital Coding of Waveforms", table 4.1."""
    table = {2: 1.596, 3: 1.224, 4: 0.9957, 8: 0.5860, 16: 0.3352, 32: 0.1881, 64: 0.1041, 128: 0.0569, 256: 0.0308}
    for n, step in table.items():
        assert best_step(normal_error, np.arange(n) - (n - 1) / 2, 0.01, 3) == pytest.approx(step, abs=6e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("grid", ["tensor", "channel"])
@pytest.mark.parametrize(("density", "k", "most", "db"), OPTIMA)
def test_the_optimum_of_a_known_density(density, k, most, db, grid, seed):
    """The exact error of the range found in a million samples lies within 2 % of the least."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal if density == "normal" else rng.laplace)(size=1_000_000)
    granularity = qn.PerTensor() if grid == "tensor" else qn.PerChannel(0)
    x = x.astype(np.float32).reshape((-1,) if grid == "tensor" else (1, -1))
    dtype = "int8" if k == 127 else "int4"
    scale = float(qn.choose_qparams(x, dtype=dtype, granularity=granularity, method="mse").scale.item())
    error, _ = ERRORS[density]
    levels = np.arange(-k, k + 1)
    least = error(levels, best_step(error, levels, 0.5 * most / k, 2 * most / k))
    assert error(levels, scale) <= PERCENT_2 * least


@pytest.mark.parametrize(("percent", "want"), [(99, 2.5758), (99.9, 3.2905), (99.99, 3.8906)])
def test_percentiles_of_the_normal(percent, want):
    x = np.random.default_rng(3).standard_normal(2_000_000, dtype=np.float32)
    observer = qn.HistogramObserver("percentile", percent).observe(x)
    low, high = observer.range()
    assert -low == high == pytest.approx(np.quantile(np.abs(x), percent / 100), rel=2e-3)  # a bin is 1/128 to 1/256
    assert high == pytest.approx(want, rel=0.012)  # 200 samples lie beyond the last: four standard errors
    assert observer.coverage() == pytest.approx(percent / 100, abs=1e-12)
    tails = [(100 - percent) / 200, 1 - (100 - percent) / 200]
    affine = qn.HistogramObserver("percentile", percent, symmetric=False).observe(x)
    np.testing.assert_allclose(affine.range(), np.quantile(x, tails), rtol=4e-3)


def test_a_symmetric_range_covers_another_share_of_either_side():
    x = sample("gamma shifted")
    observer = qn.HistogramObserver("percentile", 99).observe(x)
    low, high = observer.range()
    assert -low == high
    assert observer.coverage() == pytest.approx(np.mean((x >= low) & (x <= high)), abs=2e-3)  # one bin's elements
    assert observer.coverage("minmax") == 1
    assert (x < low).mean() == 0  # all that is left out lies on one side


# ---- entropy ----


@pytest.mark.parametrize("name", ["normal", "laplace", "student 3", "relu", "gelu", "outliers 0.1 %"])
def test_entropy_chooses_the_published_bin(name):
    magnitudes = np.abs(sample(name))
    counts = np.histogram(magnitudes, 2048, (0, magnitudes.max()))[0].astype(float)
    counts[0] = counts[1]
    bins, divergence = entropy_bin(counts, 128)
    want, expected = twin.entropy_bin(counts, 128)
    assert bins == want
    np.testing.assert_allclose(divergence, expected, rtol=1e-9, atol=1e-9)  # sums in another order


@pytest.mark.parametrize(("bins", "levels"), [(64, 8), (200, 8), (300, 100), (512, 128)])
def test_entropy_of_any_counts(bins, levels):
    counts = np.random.default_rng(bins).poisson(2 * np.exp(-np.arange(bins) * 6 / bins)).astype(float)
    got, want = entropy_bin(counts, levels, first=levels), twin.entropy_bin(counts, levels, first=levels)
    assert got[0] == want[0]
    np.testing.assert_allclose(got[1], want[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_clips(symmetric):
    """It has candidates: a tail of a few elements far out does not decide."""
    x = sample("outliers 0.1 %")
    low, high = qn.HistogramObserver("entropy", symmetric=symmetric).observe(x).range()
    assert 3 < high < 0.7 * np.abs(x).max()
    assert 3 < -low < 0.7 * np.abs(x).max()


@pytest.mark.parametrize("dtype", FLOATS)
def test_entropy_of_the_cells_of_a_float(dtype):
    magnitudes = np.abs(sample("laplace"))
    counts = np.histogram(magnitudes, 600, (0, magnitudes.max()))[0].astype(float)
    numbers = np.unique(np.abs(np.arange(256 if "8" in dtype else 16, dtype=np.uint8).view(dtype).astype(float)))
    numbers = numbers[np.isfinite(numbers)]
    got, want = entropy_bin(counts, numbers), twin.entropy_bin(counts, numbers)
    assert got[0] == want[0]
    np.testing.assert_allclose(got[1], want[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(got[1], entropy_bin(counts, 8 * numbers)[1])


# ---- mean squared error ----


def error_of(x, params):
    error = x - qn.fake_quantize(x, params)
    return float(np.einsum("...i,...i", error, error, dtype=np.float64).mean() / x.shape[-1])


def brute_force(x, dtype, symmetric):
    """The least error over a grid of ranges, clipped at the ends of the data."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if symmetric:
        ends = [(s * min(low, -high), s * max(high, -low)) for s in np.geomspace(0.02, 1, 60)]
    else:
        shares = np.geomspace(0.05, 1, 12)
        ends = [(low * a, high * b) for a in (shares if low else [1]) for b in (shares if high else [1])]
    return min(error_of(x, qn.QParams.from_range(*end, dtype=dtype, symmetric=symmetric)) for end in ends)


# A histogram does not know where inside a bin an element lies; of this many the error varies by less than 0.5 %.
ENOUGH, NOISE = 100_000, 1.005


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_as_good_as_brute_force(name, dtype):
    x = sample(name, ENOUGH)
    for symmetric in (True, False):
        error = error_of(x, qn.choose_qparams(x, dtype=dtype, symmetric=symmetric, method="mse"))
        loss = 10 * math.log10(error / brute_force(x, dtype, symmetric))
        assert loss < DB_005, f"symmetric={symmetric}: {loss:.3f} dB"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "gelu wide", "student 3", "bimodal", "normal far"])
def test_float_codes_as_good_as_brute_force(name, dtype):
    """Ranges up to twice the data are tried: the numbers of a float repeat themselves octave by octave."""
    x = sample(name, ENOUGH)
    most = float(np.abs(x).max())
    tried = (qn.QParams.from_range(-most * s, most * s, dtype=dtype) for s in np.geomspace(0.05, 2, 40))
    observer = qn.HistogramObserver(dtype=dtype).observe(x)
    error = error_of(x, observer.qparams())
    assert error <= PERCENT_2 * min(error_of(x, params) for params in tried)
    assert observer.mse() == pytest.approx(error, rel=0.02)  # of bins 1/128 of a value wide


def test_outliers_that_a_float_spans_are_signal():
    """Twenty octaves apart, e5m2 holds both ends; a grid of integers would lose one of them."""
    x = np.append(np.random.default_rng(8).standard_normal(200_000, dtype=np.float32), np.float32(2.0**23))
    assert qn.HistogramObserver(dtype="int8").observe(x).apart()[0] == 1
    observer = qn.HistogramObserver(dtype="float8_e5m2").observe(x)
    assert observer.apart()[0] == 0
    assert observer.range()[1] >= 2.0**23
    assert error_of(x[:-1], observer.qparams()) < 2.0**-5  # 2 bits of mantissa: at most 2^-3 of a value


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "gelu", "student 3", "bimodal"])
def test_channels_as_good_as_tensors(name):
    """Eight times wider bins cost less than 0.05 dB."""
    x = sample(name, 2 * ENOUGH)
    for dtype in ("int8", "int4", "uint8", "int2"):
        for symmetric in (True, False):
            options = {"dtype": dtype, "symmetric": symmetric, "method": "mse"}
            whole = error_of(x, qn.choose_qparams(x, **options))
            row = error_of(x[None], qn.choose_qparams(x[None], granularity=qn.PerChannel(0), **options))
            assert 10 * math.log10(row / whole) < DB_005, (dtype, symmetric)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["mse", "entropy", "percentile"])
def test_every_code_type(method, symmetric, dtype):
    """One channel among many is treated as it is alone, and the estimate is what quantizing really costs."""
    x = np.stack([sample(name, 4000) for name in ("normal", "relu", "normal narrow", "gamma shifted")])
    options = {"dtype": dtype, "symmetric": symmetric, "granularity": qn.PerChannel(0)}
    observer = qn.HistogramObserver(method, **options).observe(x)
    params = observer.qparams()
    assert params == qn.choose_qparams(x, method=method, **options)
    for k in range(len(x)):
        alone = qn.HistogramObserver(method, **options).observe(x[k : k + 1])
        assert alone.qparams().scale[0] == params.scale[k]
        assert alone.qparams().zero_point[0] == params.zero_point[k]
        if method == "mse" and params.code.bits < 16:  # 4000 elements, and what one of them does far out
            real = error_of(x[k : k + 1], alone.qparams())
            assert abs(10 * math.log10(observer.mse()[k] / real)) < 0.5


def test_columns_equal_rows():
    x = np.random.default_rng(5).standard_t(4, (700, 9)).astype(np.float32)
    for method in ("mse", "entropy", "percentile"):
        columns = qn.choose_qparams(x, granularity=qn.PerChannel(1), method=method)
        rows = qn.choose_qparams(x.T.copy(), granularity=qn.PerChannel(0), method=method)
        groups = qn.choose_qparams(x.T.copy(), granularity=qn.PerGroup(700), method=method)
        assert_same_bits(columns.scale, rows.scale)
        assert_same_bits(groups.scale.ravel(), rows.scale)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_many_channels(threads):
    x = np.random.default_rng(6).laplace(size=(64, 300)).astype(np.float32)
    want = [qn.choose_qparams(row[None], granularity=qn.PerChannel(0), method="mse").scale[0] for row in x]
    with qn.threads(threads):
        assert qn.choose_qparams(x, granularity=qn.PerChannel(0), method="mse").scale.tolist() == want


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(-90, 90), st.sampled_from(["int8", "int4", "uint8"]), st.booleans())
def test_a_power_of_two_scales_the_result(seed, exponent, dtype, symmetric):
    x = np.random.default_rng(seed).standard_t(3, 300)
    one, two = (
        qn.choose_qparams(v, dtype=dtype, symmetric=symmetric, method="mse") for v in (x, np.ldexp(x, exponent))
    )
    assert np.ldexp(one.scale, exponent) == two.scale
    assert one.zero_point == two.zero_point


# ---- outliers and edges ----


@pytest.mark.parametrize("outlier", [1e30, -1e9])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_outlier_does_not_ruin_the_rest(outlier, dtype, symmetric):
    x = np.random.default_rng(7).standard_normal(1_000_000, dtype=np.float32)
    dirty = np.append(x, np.float32(outlier))
    options = {"dtype": dtype, "symmetric": symmetric}
    best = error_of(x, qn.choose_qparams(x, method="mse", **options))
    assert error_of(x, qn.choose_qparams(dirty, method="mse", **options)) <= PERCENT_2 * best
    rows = {"granularity": qn.PerChannel(0), **options}
    assert error_of(x[None], qn.choose_qparams(dirty[None], method="mse", **rows)) <= PERCENT_2 * best
    for method in ("percentile", "entropy"):
        assert abs(qn.choose_qparams(dirty, method=method, **options).scale * 127) < 100


METHODS = ["mse", "entropy", "percentile"]
EDGES = {
    "zeros": np.zeros(10, np.float32),
    "minus zero": np.full(10, -0.0, np.float32),
    "one value": np.full(1000, 3.0, np.float32),
    "one negative value": np.full(1000, -0.1, np.float32),
    "one element": np.array([1.7], np.float32),
    "two values": np.repeat(np.array([-1.0, 2.0], np.float32), 50),
    "subnormals": np.array([1e-40, -1e-42, 0], np.float32),
    "smallest": np.array([1e-45], np.float32),
    "smallest normals": np.array([2.0**-126, -(2.0**-125)], np.float32),
    "largest": np.array([3e38, -3e38, 1], np.float32),
    "largest float16": np.array([60000, -60000], np.float16),
    "all scales": np.geomspace(1e-44, 3e38, 500, dtype=np.float64).astype(np.float32),
    "tiny float64": np.array([1e-300, -1e-310]),
    "0-d": np.array(2.5, np.float32),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("method", METHODS)
def test_edges(method, name):
    x = EDGES[name]
    for dtype in ("int8", "uint4", "int16"):
        for symmetric in (True, False):
            observer = qn.HistogramObserver(method, dtype=dtype, symmetric=symmetric).observe(x)
            params = observer.qparams()
            low, high = observer.range()
            assert low <= 0 <= high
            assert max(-low, high) <= 2 * np.abs(x.astype(np.float64)).max()  # a grid of few levels leaves some idle
            assert np.isfinite(observer.error())
            assert 0 <= observer.coverage() <= 1
            assert np.isfinite(qn.fake_quantize(x, params).astype(np.float32)).all()


@pytest.mark.parametrize("value", [3.0, -0.1, 7e-5, 1e30])
def test_one_value_is_met(value):
    x = np.full(100, value, np.float32)
    for symmetric in (True, False):
        for dtype in ("int8", "int2"):
            params = qn.choose_qparams(x, dtype=dtype, symmetric=symmetric, method="mse")
            np.testing.assert_allclose(qn.fake_quantize(x, params), x, rtol=1e-6)


def test_nothing_finite_and_not_a_number():
    x = np.array([np.nan, np.inf, 1.0, -2.0], np.float32)
    for method in METHODS:
        assert qn.choose_qparams(x, method=method) == qn.choose_qparams(x[2:], method=method)
        with pytest.raises(qn.CalibrationError, match=r"^choose_qparams: x must be finite somewhere; got only NaN"):
            qn.choose_qparams(x[:2], method=method)
        assert qn.choose_qparams(np.empty(0, np.float32), method=method).scale == 1
        rows = qn.choose_qparams(np.empty((3, 0), np.float32), granularity=qn.PerChannel(0), method=method)
        assert rows.scale.tolist() == [1, 1, 1]


@pytest.mark.parametrize("symmetric", [True, False])
def test_float64_beyond_float32(symmetric):
    x = np.append(np.random.default_rng(8).standard_normal(100_000), 1e300)
    assert 0.02 < qn.choose_qparams(x, symmetric=symmetric, method="mse").scale < 0.04  # set apart
    for beyond in (np.array([1e300, -1e300]), np.full(24, 1e300), np.full(24, -1e300)):
        with pytest.raises(ValueError, match="finite float32 scale"):
            qn.choose_qparams(beyond, symmetric=symmetric, method="mse")


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30, 1e36, 3e37])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_mean_square_of_large_values(scale, dtype, symmetric):
    x = np.random.default_rng(9).standard_normal(20_000) * scale
    observer = qn.HistogramObserver(dtype=dtype, symmetric=symmetric).observe(x)
    assert observer.mean_square() == pytest.approx(np.mean(np.square(x)), rel=1e-3)  # bins of 1/128 octave


LIMITED = """
import resource, sys
import numpy as np, qnumpy as qn
x = np.random.default_rng(0).standard_normal((2048, 4096), np.float32)
resource.setrlimit(resource.RLIMIT_AS, (1200 << 20, 1200 << 20))
for axis in (1, 0):
    for size in (32, 512):
        qn.HistogramObserver(granularity=qn.PerGroup(size, axis)).observe(x)
"""


@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as on Linux")
def test_memory_is_that_of_the_data():
    """Groups are many: histograms and values take no address space beyond 26 bytes an element."""
    environment = {**os.environ, "QNUMPY_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- peers ----


@pytest.mark.peers
def test_minmax_is_that_of_torch():
    torch = pytest.importorskip("torch")
    observers = pytest.importorskip("torch.ao.quantization")
    for name in DISTRIBUTIONS:
        x = sample(name, 2000)
        theirs = observers.MinMaxObserver(dtype=torch.qint8)
        theirs(torch.from_numpy(x))
        ours = qn.MinMaxObserver().observe(x)
        assert (ours.min_, ours.max_) == (float(theirs.min_val), float(theirs.max_val))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_never_worse_than_torch(name):
    """On the grid of its own levels, at int8 and int4, symmetric and affine."""
    torch = pytest.importorskip("torch")
    observers = pytest.importorskip("torch.ao.quantization")
    x = sample(name, ENOUGH)
    for dtype in ("int8", "int4"):
        for symmetric in (True, False):
            code = code_type(dtype)
            theirs = observers.HistogramObserver(
                dtype=torch.qint8, quant_min=code.qmin + symmetric, quant_max=code.qmax,
                qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
            )  # fmt: skip
            theirs(torch.from_numpy(x))
            scale, zero = (float(v) for v in theirs.calculate_qparams())
            params = qn.QParams(scale, int(zero), dtype, qmin=code.qmin + symmetric)
            ours = qn.choose_qparams(x, dtype=dtype, symmetric=symmetric, method="mse")
            # The range of the data stays where the estimated gain is at most 2 / sqrt(n) (docs/searches.md).
            assert error_of(x, ours) <= error_of(x, params) * NOISE * (1 + 2 / ENOUGH**0.5), (dtype, symmetric)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_never_worse_than_onnxruntime(name):
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x = sample(name, ENOUGH)
    for method, bins in (("percentile", 2048), ("entropy", 128)):
        collector = calibrate.HistogramCollector(method, True, bins, 128, 99.99, "same")
        collector.collect({"x": [x]})
        data = collector.compute_collection_result()["x"]
        low, high = (float(end) for end in data[:2])
        ours = qn.choose_qparams(x, method="mse")
        assert error_of(x, ours) <= error_of(x, qn.QParams.from_range(low, high)) * NOISE, method


@pytest.mark.parametrize(("dtype", "symmetric"), [("uint2", False), ("uint4", False), ("int4", True), ("int8", True)])
def test_entropy_keeps_all_of_a_few_values(dtype, symmetric):
    """Where every value has a level of its own the divergence is 0, however much is clipped: nothing may be, then."""
    x = np.random.default_rng(0).integers(0, 17, 5000) / 16.0
    observer = qn.HistogramObserver("entropy", dtype=dtype, symmetric=symmetric).observe(x)
    assert observer.range()[1] == 1
