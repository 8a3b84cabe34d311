"""min_max and abs_max against the NumPy twin: exact, and the counts of what is not finite."""

import numpy as np
import pytest
from strategies import GRIDS, LAYOUTS, SIZES, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.ops.reduce import abs_max, ranges

NAMES = ("min", "max", "nan", "infinite")


def agree(x, granularity, about):
    got, want = ranges("min_max", x, granularity), twin.ranges(np.asarray(x), granularity)
    for name, g, w in zip(NAMES, got, want, strict=True):
        assert_same_bits(g, w, f"{name}, {about}")
    for g, w in zip(qn.min_max(x, granularity), twin.min_max(np.asarray(x), granularity), strict=True):
        assert_same_bits(g, w, about)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_layout_and_size(source, grid):
    grid = GRIDS[grid]
    for n in SIZES:
        x, _, _ = case(grid, n, "int8", SOURCES[source])
        want = twin.ranges(x, grid.granularity)
        for name, layout in LAYOUTS.items():
            got = ranges("min_max", layout(x), grid.granularity)
            for part, g, w in zip(NAMES, got, want, strict=True):
                assert_same_bits(g, w, f"{part}, {name}, n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_beyond_one_tile(source, grid):
    grid = GRIDS[grid]
    for n in (1023, 1025, 2049, 5000, 33000):
        x, _, _ = case(grid, n, "int8", SOURCES[source])
        for name in ("c", "rolled", "strided", "big-endian"):
            agree(LAYOUTS[name](x), grid.granularity, f"{name}, n = {n}")


@pytest.mark.parametrize("shape", [(21, 4110), (4101, 37), (3, 8200)])
def test_columns_beyond_one_block(shape):
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    agree(x, qn.PerChannel(1), f"finite, {shape}")
    x[1, ::3], x[-1, 1::5], x[shape[0] // 2, -1] = np.nan, -np.inf, np.inf
    x[:, 7] = np.nan
    agree(x, qn.PerChannel(1), f"not finite, {shape}")


@pytest.mark.parametrize("source", SOURCES)
def test_one_outlier_is_found_wherever_it_stands(source):
    n = 300
    for k in range(n):
        x = np.zeros(n, SOURCES[source])
        x[k] = -7
        x[(k + 1) % n] = 9
        assert [float(v) for v in qn.min_max(x)] == [-7, 9]
        assert float(abs_max(x)) == 9
        columns = np.tile(x, (3, 1))
        low, high = qn.min_max(columns, qn.PerChannel(1))
        assert low.tolist() == high.tolist() == x.astype(float).tolist()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("n", [1, 2, 70, 1025, 5000])
def test_a_zero_has_no_sign(source, n):
    """Otherwise the sign of the result would depend on how the data was cut."""
    for k in (0, n // 2, n - 1):
        x = np.zeros(n, SOURCES[source])
        x[k] = -0.0
        for data in (x, -x):
            assert not np.signbit(qn.min_max(data)).any()
            assert not np.signbit(qn.min_max(data.reshape(-1, 1).repeat(3, 1), qn.PerChannel(1))).any()


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_finite(source):
    for x in ([], [np.nan], [np.inf, -np.inf], [np.nan, -np.inf] * 40):
        x = np.array(x, SOURCES[source])
        agree(x, None, str(x))
        assert [float(v) for v in qn.min_max(x)] == [np.inf, -np.inf]
        assert float(abs_max(x)) == -np.inf
    low, high = qn.min_max(np.zeros((3, 0)), qn.PerChannel(0))
    assert low.tolist() == [np.inf] * 3
    assert high.tolist() == [-np.inf] * 3
    assert qn.min_max(np.zeros((3, 0)), qn.PerChannel(1))[0].shape == (0,)


@pytest.mark.parametrize("source", SOURCES)
def test_extremes_of_the_format(source):
    from ml_dtypes import finfo

    info = finfo(SOURCES[source])
    edges = [info.max, info.min, info.smallest_normal, -info.smallest_subnormal, info.smallest_subnormal]
    for k, edge in enumerate(edges):
        x = np.array([edge] * 40, SOURCES[source])
        agree(x, None, f"edge {k}")
        assert float(abs_max(x)) == abs(float(edge))


@pytest.mark.parametrize("layout", ["c", "f", "strided", "reversed", "rolled", "big-endian"])
@pytest.mark.parametrize("shape", [(7,), (0,), (0, 5), (5, 0), (6, 9), (2, 3, 8), (2, 3, 4, 5)])
def test_rows(shape, layout):
    x = LAYOUTS[layout](np.random.default_rng(0).normal(size=shape))
    low, high = qn.min_max(x, qn.PerRow())
    assert_same_bits(low, np.min(x, axis=-1, initial=np.inf))
    assert_same_bits(high, np.max(x, axis=-1, initial=-np.inf))


@pytest.mark.parametrize("granularity", [None, qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerGroup(3)])
def test_abs_max(granularity):
    x = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    low, high = qn.min_max(x, granularity)
    assert_same_bits(abs_max(x, granularity), np.maximum(-low, high))
    assert low.dtype == high.dtype == np.float64


def test_on_nonfinite_raise():
    x = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    for function in (qn.min_max, abs_max):
        function(x[:1], on_nonfinite="raise")
        message = f'^{function.__name__}: x must be finite when on_nonfinite is "raise"; got 1 NaN and 2 infinities\\.$'
        with pytest.raises(ValueError, match=message):
            function(x, on_nonfinite="raise")
