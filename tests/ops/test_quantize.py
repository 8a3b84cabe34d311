"""quantize_linear, dynamic_quantize_linear and fake_quantize against their NumPy twins, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    CODES,
    CONVENTIONS,
    GRIDS,
    LAYOUTS,
    SIZES,
    SOURCES,
    assert_same_bits,
    case,
    codes,
    float32s,
    moderate_scales,
    normal_scales,
)

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_layout_and_size(source, code, grid):
    grid = GRIDS[grid]
    for n in SIZES:
        x, scale, zero = case(grid, n, code, SOURCES[source])
        want = twin.quantize_linear(x, scale, zero, dtype=code, **grid.where)
        for name, layout in LAYOUTS.items():
            got = qn.quantize_linear(layout(x), scale, zero, dtype=code, **grid.where)
            assert_same_bits(got, want, f"{name}, n = {n}")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("source", SOURCES)
def test_conventions(source, code, convention):
    for grid in GRIDS.values():
        for n in (1, 2, 15, 16, 17, 64, 70, 200):
            x, scale, zero = case(grid, n, code, SOURCES[source])
            want = twin.quantize_linear(x, scale, zero, dtype=code, convention=convention, **grid.where)
            got = qn.quantize_linear(x, scale, zero, dtype=code, convention=convention, **grid.where)
            assert_same_bits(got, want, f"{grid}, n = {n}")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grid", GRIDS)
def test_fake_quantize(grid, source, convention):
    grid = GRIDS[grid]
    for n in [*range(40), 63, 64, 65, 70, 200]:
        for code in CODES if n % 8 == 1 else ["int8", "uint16", "int4"]:
            x, scale, zero = case(grid, n, code, SOURCES[source])
            params = qn.QParams(scale, zero, code, grid.granularity)
            want = twin.fake_quantize(x, params, convention=convention)
            for layout in ("c", "f", "strided", "big-endian"):
                got = qn.fake_quantize(LAYOUTS[layout](x), params, convention=convention)
                assert_same_bits(got, want, f"{code}, {layout}, n = {n}")


@pytest.mark.parametrize("source", SOURCES)
def test_fake_quantize_keeps_to_a_narrow_range(source):
    x = np.linspace(-300, 300, 1001).astype(SOURCES[source])
    params = qn.QParams(1.0, 3, "int8", qmin=-20, qmax=101)
    got = qn.fake_quantize(x, params)
    assert_same_bits(got, twin.fake_quantize(x, params))
    assert (float(got.min()), float(got.max())) == (-23, 98)
    assert_same_bits(got, qn.quantize(x, params).dequantize(dtype=x.dtype))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_beyond_one_tile(source, grid):
    """Longer than what is staged, kept in a strip or handed to a thread at a time."""
    grid = GRIDS[grid]
    for n in (2047, 2049, 5000, 33000):
        x, scale, zero = case(grid, n, "uint8", SOURCES[source])
        want = twin.quantize_linear(x, scale, zero, dtype="uint8", **grid.where)
        for name in ("c", "rolled", "strided", "reversed", "big-endian"):
            got = qn.quantize_linear(LAYOUTS[name](x), scale, zero, dtype="uint8", **grid.where)
            assert_same_bits(got, want, f"{name}, n = {n}")


@pytest.mark.parametrize("axis", range(-4, 4))
@pytest.mark.parametrize("block_size", [None, 1, 2, 3, 100])
def test_every_axis_of_four(axis, block_size):
    shape = (3, 4, 5, 6)
    rng = np.random.default_rng(axis + 4)
    x = rng.normal(0, 3, shape).astype(np.float32)
    granularity = qn.PerChannel(axis) if block_size is None else qn.PerGroup(block_size, axis)
    scale = rng.uniform(0.01, 0.1, granularity.params_shape(shape)).astype(np.float32)
    zero = rng.integers(-9, 9, scale.shape)
    for order in [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 0, 2, 3)]:
        view = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        got = qn.quantize_linear(view, scale, zero, dtype="int8", axis=axis, block_size=block_size)
        want = twin.quantize_linear(x, scale, zero, dtype="int8", axis=axis, block_size=block_size)
        assert_same_bits(got, want, str(order))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("code", CODES)
def test_scalars_and_empty_arrays(source, code):
    code = code_type(code)
    x = np.array(1.0, SOURCES[source])
    got = qn.quantize_linear(x, 0.5, code.qmax - 1, dtype=code.name)
    assert_same_bits(got, twin.quantize_linear(x, 0.5, code.qmax - 1, dtype=code.name))
    assert got.shape == ()
    for shape in [(0,), (3, 0), (0, 3), (2, 0, 3)]:
        empty = qn.quantize_linear(np.zeros(shape, SOURCES[source]), 0.5, dtype=code.name)
        assert_same_bits(empty, np.zeros(shape, code.dtype))
        for axis in range(len(shape)):
            scale = np.ones(shape[axis], np.float32)
            assert qn.quantize_linear(np.zeros(shape), scale, dtype=code.name, axis=axis).shape == shape


def test_python_lists_and_numbers_are_reals():
    assert_same_bits(qn.quantize_linear([1, 2.5, -3], 0.5, dtype="int8"), np.array([2, 5, -6], np.int8))
    assert qn.quantize_linear(3, 0.5).tolist() == 6


def test_a_broadcast_view_is_read_as_it_looks():
    x = np.broadcast_to(np.array([1.0, 2.0, 3.0], np.float32), (40, 3))
    want = twin.quantize_linear(x, 0.5, 1, dtype="int8")
    assert_same_bits(qn.quantize_linear(x, 0.5, 1, dtype="int8"), want)


@pytest.mark.parametrize("code", CODES)
def test_ties_go_to_even_before_the_zero_point(code):
    code = code_type(code)
    zero = code.qmin + 1 if (code.qmin + 1) % 2 else code.qmin + 2  # odd: the order of rounding and adding shows
    x = np.arange(-6, 7, dtype=np.float32) + np.float32(0.5)
    even = np.array([-6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6, 6])
    want = np.clip(even + zero, code.qmin, code.qmax)
    assert qn.quantize_linear(x, 1.0, zero, dtype=code.name).astype(np.int64).tolist() == want.tolist()
    guide = np.clip(np.rint(x + zero), code.qmin, code.qmax).astype(np.int64)
    got = qn.quantize_linear(x, 1.0, zero, dtype=code.name, convention="guide").astype(np.int64)
    assert got.tolist() == guide.tolist()
    assert got.tolist() != want.tolist()
    away = np.clip(np.where(x < 0, np.floor(x), np.ceil(x)) + zero, code.qmin, code.qmax).astype(np.int64)
    got = qn.quantize_linear(x, 1.0, zero, dtype=code.name, convention="tflite").astype(np.int64)
    assert got.tolist() == away.tolist()


def test_half_away_does_not_round_the_largest_float_below_a_half_up():
    x = np.nextafter(np.float32(0.5), np.float32(0))
    assert qn.quantize_linear(np.array([x, -x] * 40), 1.0, dtype="int8", convention="tflite").any() == False  # noqa: E712
    d = np.nextafter(0.5, 0)
    assert not qn.quantize_linear(np.array([d, -d]), 1.0, dtype="int8", convention="tflite").any()


def test_division_is_not_multiplication_by_the_reciprocal():
    """Published with FBGEMM: the quotient is just under 127.5, the product with the rounded reciprocal just over."""
    x, scale = np.full(70, 0.273939937, np.float32), np.float32(0.00214854861)
    assert set(qn.quantize_linear(x, scale, dtype="uint8").tolist()) == {127}
    assert set(qn.quantize_linear(x, scale, dtype="uint8", convention="torch").tolist()) == {128}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nan_becomes_the_zero_point_and_infinities_saturate(source, code, convention):
    code = code_type(code)
    x = np.array([np.nan, -np.nan, np.inf, -np.inf] * 20, SOURCES[source])
    for zero in range(code.qmin, code.qmax + 1, max(1, (code.qmax - code.qmin) // 7)):
        got = qn.quantize_linear(x, 0.3, zero, dtype=code.name, convention=convention)
        assert got.astype(np.int64).tolist() == [zero, zero, code.qmax, code.qmin] * 20


@pytest.mark.parametrize("source", SOURCES)
def test_on_nan_raise(source):
    x = np.array([1.0, np.inf, np.nan, 2.0, np.nan], SOURCES[source])
    want = 'quantize_linear: x must be without NaN when on_nan is "raise"; got 2 of 5 NaN.'
    with pytest.raises(ValueError, match=f"^{want}$"):
        qn.quantize_linear(x, 0.5, dtype="int8", on_nan="raise")
    assert qn.quantize_linear(x[:2], 0.5, dtype="int8", on_nan="raise").tolist() == [2, 127]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("code", CODES)
def test_out_is_filled_and_returned(source, code):
    x, scale, zero = case(GRIDS["channel-middle"], 21, code, SOURCES[source])
    out = np.empty(x.shape, code_type(code).dtype)
    for layout in LAYOUTS.values():
        out.view(np.uint8)[...] = 1
        got = qn.quantize_linear(layout(x), scale, zero, dtype=code, axis=1, out=out)
        assert got is out
        assert_same_bits(out, twin.quantize_linear(x, scale, zero, dtype=code, axis=1))
    params = qn.QParams(scale, zero, code, qn.PerChannel(1))
    real = np.empty_like(x)
    assert qn.fake_quantize(x, params, out=real) is real
    assert_same_bits(real, twin.fake_quantize(x, params))


def test_out_may_start_anywhere_its_dtype_may():
    x = np.linspace(-40, 40, 501).astype(np.float32)
    want = twin.quantize_linear(x, 0.3, dtype="int8")
    for offset in range(65):
        out = np.full(x.size + 130, 77, np.int8)
        qn.quantize_linear(x, 0.3, dtype="int8", out=out[offset : offset + x.size])
        assert_same_bits(out[offset : offset + x.size], want)
        assert set(out[:offset].tolist()) | set(out[offset + x.size :].tolist()) == {77}


def test_the_zero_points_dtype_is_the_codes():
    x = np.array([1.0, -1.0], np.float32)
    assert qn.quantize_linear(x, 0.5).dtype == np.uint8
    assert qn.quantize_linear(x, 0.5, 3).dtype == np.uint8
    for code in CODES:
        zero = np.array(1, np.int8).astype(code_type(code).dtype)
        assert qn.quantize_linear(x, 0.5, zero).dtype == code_type(code).dtype
        assert_same_bits(qn.quantize_linear(x, 0.5, zero), twin.quantize_linear(x, 0.5, 1, dtype=code))
    assert qn.quantize_linear(x, 0.5, np.int16(3), dtype="int8").dtype == np.int8


def test_one_parameter_serves_every_channel():
    x = np.linspace(-5, 5, 60).astype(np.float32).reshape(3, 20)
    want = twin.quantize_linear(x, 0.1, 3, dtype="int8")
    for where in ({"axis": 0}, {"axis": 1}, {"axis": 1, "block_size": 7}, {"axis": 0, "block_size": 2}):
        assert_same_bits(qn.quantize_linear(x, 0.1, 3, dtype="int8", **where), want)
    assert_same_bits(qn.quantize_linear(x, np.full(3, 0.1), 3, dtype="int8", axis=0), want)


@pytest.mark.parametrize("form", [float, np.float16, np.float32, np.float64, ">f4", np.int64])
def test_scales_of_any_real_dtype_are_used_as_float32(form):
    x = np.linspace(-9, 9, 101).astype(np.float32)
    scale = form(2) if form is float else np.array(2).astype(form)
    assert_same_bits(qn.quantize_linear(x, scale, dtype="int8"), twin.quantize_linear(x, 2.0, dtype="int8"))
    each = np.array([0.3, 0.7, 1.9])
    wide = np.repeat(each, 2)[::2]
    got = qn.quantize_linear(x[:99].reshape(3, 33), wide, dtype="int8", axis=0)
    assert_same_bits(got, twin.quantize_linear(x[:99].reshape(3, 33), each, dtype="int8", axis=0))


@pytest.mark.parametrize("code", CODES)
def test_extreme_scales(code):
    """Where the vector kernels may not take the reciprocal in two parts, and on both sides of that line."""
    rng = np.random.default_rng(1)
    tiny, huge = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max
    edges = [2.0**k for k in (-126, -125, -91, -90, -89, 89, 90, 91, 126, 127)]
    scales = np.array([tiny, huge, huge / 2, *edges, *(1.7 * np.array(edges[:-1]))], np.float32)
    for scale in np.concatenate([scales, np.nextafter(scales[2:], np.float32(0))]):
        if scale < tiny:
            continue
        with np.errstate(over="ignore", under="ignore"):
            x = (scale * rng.integers(-300, 300, 500).astype(np.float32) / 2).astype(np.float32)
        x[::9] = rng.integers(0, 2**32, x[::9].size, dtype=np.uint32).view(np.float32)
        got = qn.quantize_linear(x, scale, 1, dtype=code)
        assert_same_bits(got, twin.quantize_linear(x, scale, 1, dtype=code), f"scale = {scale!r}")


# ---- properties ----


@given(st.lists(float32s, max_size=70), normal_scales, codes, st.sampled_from(CONVENTIONS), st.randoms())
def test_any_float_any_scale(values, scale, code, convention, random):
    zero = random.randint(code_type(code).qmin, code_type(code).qmax)
    x = np.array(values, np.float32)
    got = qn.quantize_linear(x, scale, zero, dtype=code, convention=convention)
    assert_same_bits(got, twin.quantize_linear(x, scale, zero, dtype=code, convention=convention))


@given(st.lists(float32s, min_size=1, max_size=70), moderate_scales, codes)
def test_monotone(values, scale, code):
    x = np.sort(np.array(values, np.float32))
    got = qn.quantize_linear(x, scale, 1, dtype=code).astype(np.int64)
    assert (np.diff(got) >= 0).all()


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=70), moderate_scales, codes, st.randoms())
def test_error_is_at_most_half_a_step_inside_the_range(values, scale, code, random):
    code = code_type(code)
    zero = random.randint(code.qmin, code.qmax)
    low, high = code.qmin - zero, code.qmax - zero
    x = (np.float64(scale) * (low + (high - low) * (np.array(values) + 2**20) / 2**21)).astype(np.float32)
    back = qn.dequantize_linear(qn.quantize_linear(x, scale, zero, dtype=code.name), scale, zero)
    # x / S and (q - Z) * S are each rounded once to float32: two relative errors of 2**-24 beside the half step
    slack = 2.0**-23 * np.abs(x.astype(np.float64))
    assert (np.abs(back.astype(np.float64) - x) <= 0.5 * scale + slack).all()
    assert not qn.dequantize_linear(qn.quantize_linear(np.zeros(3), scale, zero, dtype=code.name), scale, zero).any()


# ---- dynamic_quantize_linear ----


@pytest.mark.parametrize("source", SOURCES)
def test_dynamic(source):
    rng = np.random.default_rng(3)
    for n in SIZES:
        for shift in (-30, 0, 30):
            x = (rng.normal(shift, 10, n)).astype(SOURCES[source])
            got, want = qn.dynamic_quantize_linear(x), twin.dynamic_quantize_linear(x)
            for g, w in zip(got, want, strict=True):
                assert_same_bits(np.asarray(g), np.asarray(w), f"n = {n}")
            assert (got[1].dtype, got[2].dtype) == (np.float32, np.uint8)


def test_dynamic_of_nothing_zero_tiny_and_not_finite():
    for x in ([], [0.0, -0.0], [1e-45], [-1e-44, 1e-45], [np.nan, np.inf, 3.0, -1.0], [np.nan], [-np.inf]):
        x = np.array(x, np.float32)
        for g, w in zip(qn.dynamic_quantize_linear(x), twin.dynamic_quantize_linear(x), strict=True):
            assert_same_bits(np.asarray(g), np.asarray(w), str(x))


def test_dynamic_quantize_linear_uses_float64_as_float32():
    """float64 a hair off a tie: in float32 it is the tie, which goes to the even code."""
    x = np.array([0.0, 255.0, 0.5 + 1e-9, 1.5 - 1e-9, 2.5 + 1e-9])
    for source in (x, x.astype(">f8"), np.asfortranarray(x.reshape(5, 1))):
        got, want = qn.dynamic_quantize_linear(source), twin.dynamic_quantize_linear(source)
        assert got[0].reshape(-1).tolist() == [0, 255, 0, 2, 2]
        for g, w in zip(got, want, strict=True):
            assert_same_bits(np.asarray(g), np.asarray(w))
