"""QParams: what it checks and keeps, and from_range against the formulas in exact fractions."""

import copy
import dataclasses
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import BYTES, PARAMS, Q, X, assert_refused, refusals
from strategies import CODES, GRIDS, assert_same_bits, codes

import qnumpy as qn
from qnumpy.dtypes import code_type
from qnumpy.files.spec import TensorSpec
from qnumpy.qparams import grid_of_range

TINY, HUGE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)


def some(code="int8"):
    info = code_type(code)
    return [
        qn.QParams(0.5, info.qmax, code),
        qn.QParams(np.linspace(0.1, 1, 4), [info.qmin, info.qmax, 1, 1], code, qn.PerChannel(0)),
        qn.QParams(np.linspace(0.1, 1, 6).reshape(2, 3), 1, code, qn.PerGroup(7, 0)),
        qn.QParams(1.0, info.qmin + 1, code, qmin=info.qmin + 1, qmax=info.qmax),
        qn.QParams(np.zeros(0), 0, code, qn.PerChannel(1)),
    ]


# ---- fields ----


@pytest.mark.parametrize("code", CODES)
def test_what_it_keeps(code):
    info = code_type(code)
    params = qn.QParams([0.1, 0.2], 1, code, qn.PerChannel(-1))
    assert_same_bits(params.scale, np.array([0.1, 0.2], np.float32))
    assert_same_bits(params.zero_point, np.array([1, 1], np.int32))
    assert (params.dtype, params.granularity) == (info.key, qn.PerChannel(-1))
    assert (params.qmin, params.qmax) == (info.qmin, info.qmax)
    assert params.code is info
    for form in (info.name, params.dtype) if info.is_named else (info.name, info.dtype, info.dtype.type):
        assert qn.QParams(1, 0, form).dtype == info.key
    assert dataclasses.replace(params, scale=params.scale * 2).code is info


def test_defaults():
    params = qn.QParams(0.5, 3)
    assert (params.dtype, params.granularity, params.scale.shape) == (np.int8, qn.PerTensor(), ())
    assert (params.qmin, params.qmax) == (-128, 127)


def test_parameters_of_many_types():
    for scale in (1, np.float16(1), np.int64(1), np.array(1, ">f8"), [[1.0]]):
        granularity = qn.PerGroup(1) if isinstance(scale, list) else qn.PerTensor()
        assert qn.QParams(scale, 0, "int8", granularity).scale.dtype == np.float32
    for zero in (3, np.uint8(3), np.int64(3), np.array(3, ">i2"), np.array(3).astype(code_type("int4").dtype)):
        assert qn.QParams(1, zero).zero_point == 3


def test_scales_are_rounded_to_float32():
    for scale in (0.1, 1 / 3, TINY, HUGE, 2.0**-126 * (1 + 2.0**-23)):
        assert qn.QParams(scale, 0).scale[()] == np.float32(scale)


def test_immutable():
    scale, zero = np.array([0.5, 1.0], np.float32), np.array([1, 2], np.int32)
    params = qn.QParams(scale, zero, "int8", qn.PerChannel(0))
    scale[:], zero[:] = 9, 9
    assert (params.scale.tolist(), params.zero_point.tolist()) == ([0.5, 1.0], [1, 2])
    for array in (params.scale, params.zero_point):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    for name in ("scale", "zero_point", "dtype", "granularity", "qmin", "qmax", "symmetric", "other"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(params, name, 1)


def test_equality():
    for k, (one, same) in enumerate(zip(some(), some(), strict=True)):
        assert one == same
        assert (one != same) is False
        assert all(one != other for m, other in enumerate(some()) if m != k)
        assert one != some("int16")[k]
    base = qn.QParams(0.5, 3)
    for other in (
        qn.QParams(np.nextafter(np.float32(0.5), np.float32(1)), 3),
        qn.QParams(0.5, 4),
        qn.QParams(0.5, 3, "uint8"),
        qn.QParams(0.5, 3, qmin=-127),
        qn.QParams(0.5, 3, qmax=100),
        0.5,
        None,
    ):
        assert base != other
    with pytest.raises(TypeError, match=r"^unhashable type: 'QParams'$"):
        hash(base)


@pytest.mark.parametrize("code", CODES)
def test_pickle_and_copies(code):
    for params in some(code):
        copies = [pickle.loads(pickle.dumps(params, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        for twin in (*copies, copy.copy(params), copy.deepcopy(params)):
            assert twin == params
            assert twin.dtype == params.dtype
            assert not twin.scale.flags.writeable
            assert not twin.zero_point.flags.writeable


def test_repr():
    assert [repr(params) for params in some("uint4")] == [
        "QParams(uint4, per tensor, scale=0.5, zero_point=15)",
        "QParams(uint4, per channel 0, scale=0.1..1 (4,), zero_point=0..15)",
        "QParams(uint4, per group 7 on axis 0, scale=0.1..1 (2, 3), zero_point=1)",
        "QParams(uint4, per tensor, scale=1, zero_point=1)",
        "QParams(uint4, per channel 1, scale (0,))",
    ]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("grid", GRIDS)
def test_symmetric_and_nbytes(code, grid):
    grid, info = GRIDS[grid], code_type(code)
    shape = grid.params_shape(20)
    count = int(np.prod(shape))
    middle = qn.QParams(np.ones(shape), info.symmetric_zero_point, code, grid.granularity)
    assert middle.symmetric
    assert middle.nbytes == 4 * count  # no zero points to keep
    other = qn.QParams(np.ones(shape), info.qmin, code, grid.granularity)
    assert not other.symmetric
    rows, last = (count // shape[-1], shape[-1]) if shape else (1, 1)
    assert other.nbytes == 4 * count + rows * -(-last * info.bits // 8)


# ---- from_range ----


def nearly(value, exact, ulps):
    """Whether |value - exact| is at most `ulps` units in the last place of a float32 at `exact`."""
    return abs(Fraction(float(value)) - exact) <= ulps * Fraction(float(np.spacing(np.float32(float(exact)))))


# Rounded to float32 once, half a unit; three roundings in float64 before it move the value by less than 2**-27 units.
ONE_ROUNDING = Fraction(1, 2) + Fraction(1, 2**27)
# qmin - min / S in float64: two roundings of numbers below 2**17, each off by at most 2**-37.
NO_TIE = Fraction(1, 2**35)


def affine(low, high, info):
    """S before rounding and, given S, Z before rounding."""
    low, high = min(Fraction(low), 0), max(Fraction(high), 0)
    return (high - low) / (info.qmax - info.qmin), lambda scale: info.qmin - low / Fraction(float(scale))


def check_affine(low, high, code):
    info, params = code_type(code), qn.QParams.from_range(low, high, dtype=code, symmetric=False)
    exact, zero = affine(low, high, info)
    if exact == 0:
        assert params.scale == 1
    elif exact < TINY:
        assert params.scale == np.float32(TINY)
    else:
        assert nearly(params.scale, exact, ONE_ROUNDING)
    want = zero(params.scale)
    got = int(params.zero_point)
    clipped = min(max(want, info.qmin), info.qmax)
    assert abs(got - clipped) <= Fraction(1, 2) + NO_TIE
    if abs(abs(want - round(want)) - Fraction(1, 2)) > NO_TIE:
        assert got == min(max(round(want), info.qmin), info.qmax)  # Python rounds half to even
    assert (params.qmin, params.qmax) == (info.qmin, info.qmax)


def check_symmetric(low, high, code):
    info, params = code_type(code), qn.QParams.from_range(low, high, dtype=code)
    exact = max(-Fraction(low), Fraction(high), Fraction(0)) * 2 / (info.qmax - info.symmetric_qmin)
    if exact == 0:
        assert params.scale == 1
    elif exact < TINY:
        assert params.scale == np.float32(TINY)
    else:
        assert nearly(params.scale, exact, ONE_ROUNDING)
    assert int(params.zero_point) == info.symmetric_zero_point == (0 if info.signed else 2 ** (info.bits - 1))
    assert (params.qmin, params.qmax) == (info.qmin + 1, info.qmax)
    assert params.symmetric


EDGES = [0.0, -0.0, 1.0, -1.0, 127.0, 255.0, -128.0, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e-38, 1e-310, 0.1, -2.54, 1e-30]


@pytest.mark.parametrize("code", CODES)
def test_from_range_edges(code):
    for low in EDGES:
        for high in EDGES:
            if low <= high:
                check_affine(low, high, code)
                check_symmetric(low, high, code)


ends = st.floats(-1e38, 1e38) | st.floats(-300, 300) | st.integers(-70000, 70000).map(float)


@given(ends, ends, codes)
def test_from_range(one, other, code):
    check_affine(min(one, other), max(one, other), code)
    check_symmetric(min(one, other), max(one, other), code)


def test_affine_zero_points_that_are_ties_go_to_even():
    for low, zero in ((-0.5, -128), (-1.5, -126), (-2.5, -126), (-3.5, -124)):
        params = qn.QParams.from_range(low, low + 255, symmetric=False)
        assert (float(params.scale), int(params.zero_point)) == (1.0, zero)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), codes)
def test_zero_has_an_exact_code_and_the_ends_are_reached(below, above, code):
    for symmetric in (True, False):
        params = qn.QParams.from_range(-below, above, dtype=code, symmetric=symmetric)
        assert qn.quantize(np.zeros(1), params).dequantize()[0] == 0
        for end in (-below, above):
            back = float(qn.quantize(np.array([end]), params).dequantize()[0])
            # Half a step, and what Z was rounded by, which shifts all codes of an affine range: half a step more.
            # The roundings of the scale and of the product to float32: many codes make them visible.
            rounding = abs(end) * 2.0**-22
            assert abs(back - end) <= (0.5 if symmetric else 1) * float(params.scale) + rounding


ends = st.one_of(st.floats(-100, 100), st.floats(-1e30, 1e30), st.sampled_from([0.0, 1.0, 1e-40, -1e-40, 3e38]))


@given(ends, ends, codes, st.booleans(), st.booleans())
def test_a_range_is_represented_or_refused(first, second, code, symmetric, include_zero):
    low, high = sorted((first, second))
    options = {"dtype": code, "symmetric": symmetric, "include_zero": include_zero}
    try:
        params = qn.QParams.from_range(low, high, **options)
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert not include_zero
        assert not symmetric
        assert " must be a range whose zero point is in " in refused
        # No zero point that is a code brings both ends within half a step, for the scale of the range.
        steps = code_type(code).qmax - code_type(code).qmin
        assert min(abs(low), abs(high)) > 0.499 * (high - low) / steps
        assert low * high > 0
        return
    scale = Fraction(float(params.scale))
    # S is rounded to float32 once, by 2**-24 of the range or the largest subnormal number.
    slack = (abs(Fraction(low)) + abs(Fraction(high))) / 2**23
    for end in (low, high):
        code_of_end = min(max(round(Fraction(end) / scale) + int(params.zero_point), params.qmin), params.qmax)
        assert abs(scale * (code_of_end - int(params.zero_point)) - Fraction(end)) <= scale / 2 + slack


def test_without_zero_a_range_may_be_half_a_step_from_it():
    near = qn.QParams.from_range(0.5, 255.5, dtype="uint8", symmetric=False, include_zero=False)
    assert (float(near.scale), int(near.zero_point)) == (1.0, 0)
    below = qn.QParams.from_range(-255.5, -0.5, dtype="uint8", symmetric=False, include_zero=False)
    assert (float(below.scale), int(below.zero_point)) == (1.0, 255)
    one = qn.QParams.from_range(51.0, 51.0, dtype="uint8", symmetric=False, include_zero=False)
    assert one == qn.QParams.from_range(0.0, 51.0, dtype="uint8", symmetric=False)
    assert qn.quantize([51.0], one).dequantize()[0] == np.float32(255) * np.float32(0.2)


@pytest.mark.parametrize(
    ("low", "high", "code", "message"),
    [
        (1, 2, "uint8", "zero point is in [0, 255]; got 1 and 2, which need -255"),
        (-2, -1, "uint8", "zero point is in [0, 255]; got -2 and -1, which need 510"),
        (1, 2, "int8", "zero point is in [-128, 127]; got 1 and 2, which need -383"),
        (0.51, 255.51, "uint8", "zero point is in [0, 255]; got 0.51 and 255.51, which need -1"),
        (
            np.array([-1, 3]),
            np.array([1, 4]),
            "int4",
            "zero point is in [-8, 7]; got 3 and 4 at index 1, which need -53",
        ),
    ],
)
def test_a_range_that_no_zero_point_reaches(low, high, code, message):
    granularity = qn.PerChannel(0) if np.ndim(low) else None
    want = f"QParams.from_range: min and max must be a range whose {message}. Widen it by include_zero=True."
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        qn.QParams.from_range(low, high, dtype=code, symmetric=False, include_zero=False, granularity=granularity)


def test_include_zero_by_default():
    assert qn.QParams.from_range(3, 5, symmetric=False) == qn.QParams.from_range(0, 5, symmetric=False)
    assert qn.QParams.from_range(-5, -3, symmetric=False) == qn.QParams.from_range(-5, 0, symmetric=False)
    assert qn.QParams.from_range(3, 5, include_zero=False) == qn.QParams.from_range(-5, 5)  # symmetric holds it anyway


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_arrays_of_ranges(code, symmetric):
    low, high = -np.linspace(0, 3, 6).reshape(2, 3), np.linspace(0, 7, 6).reshape(2, 3)
    for shape, granularity in (((6,), qn.PerChannel(1)), ((2, 3), qn.PerGroup(4))):
        every = qn.QParams.from_range(
            low.reshape(shape), high.reshape(shape), dtype=code, symmetric=symmetric, granularity=granularity
        )
        assert (every.scale.shape, every.granularity) == (shape, granularity)
        for k in range(6):
            one = qn.QParams.from_range(low.flat[k], high.flat[k], dtype=code, symmetric=symmetric)
            assert (every.scale.flat[k], every.zero_point.flat[k]) == (one.scale, one.zero_point)
    empty = qn.QParams.from_range([], [], dtype=code, granularity=qn.PerChannel(0))
    assert empty.scale.shape == (0,)


# ---- choose_qparams ----


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
def test_choose_qparams_is_from_range_of_the_range(grid, symmetric):
    grid = GRIDS[grid]
    x = np.random.default_rng(0).normal(1, 3, grid.of(37)).astype(np.float32)
    low, high = qn.min_max(x, grid.granularity)
    for code in CODES:
        got = qn.choose_qparams(x, dtype=code, granularity=grid.granularity, symmetric=symmetric)
        want = qn.QParams.from_range(low, high, dtype=code, symmetric=symmetric, granularity=grid.granularity)
        assert got == want


def test_choose_qparams_covers_every_finite_element():
    x = np.array([[np.nan, -2.0, 1.0], [np.inf, 0.5, -np.inf]], np.float32)
    assert qn.choose_qparams(x) == qn.QParams.from_range(-2, 1)
    each = qn.QParams.from_range([-2, 0.5], [1, 0.5], granularity=qn.PerChannel(0))
    assert qn.choose_qparams(x, granularity=qn.PerChannel(0)) == each


def test_choose_qparams_of_nothing():
    assert qn.choose_qparams([]).scale == 1
    assert qn.choose_qparams(np.zeros((0, 3)), granularity=qn.PerChannel(1)).scale.tolist() == [1, 1, 1]
    assert qn.choose_qparams(np.zeros((3, 0)), granularity=qn.PerGroup(4)).scale.shape == (3, 0)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_nbytes_is_what_a_file_holds(code, symmetric):
    x = np.random.default_rng(1).uniform(1, 3, (6, 21)).astype(np.float32)
    for granularity in (qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerGroup(4), qn.PerGroup(4, 0)):
        q = qn.quantize(x, dtype=code, granularity=granularity, symmetric=symmetric)
        assert q.nbytes == TensorSpec.of(q).nbytes


def test_the_range_is_what_the_ends_stand_for():
    for params in (
        qn.QParams(0.1, 3, "uint8"),
        qn.QParams([0.1, 3e38], [-1, 0], "int16", qn.PerChannel(0), -100, 32767),
        qn.QParams(np.full((2, 3), 0.7), 1, "int4", qn.PerGroup(4)),
    ):
        low, high = params.range()
        assert low.dtype == high.dtype == np.float64
        assert low.shape == high.shape == params.scale.shape
        for end, code in ((low, params.qmin), (high, params.qmax)):
            steps = [code - int(zero) for zero in params.zero_point.flat]
            assert end.ravel().tolist() == [float(s) * k for s, k in zip(params.scale.flat, steps, strict=True)]
    x = qn.QParams.from_range(-2.54, 1.0).range()
    assert x == (pytest.approx(-2.54), pytest.approx(2.54))


# ---- grid_of_range, the home of the formulas ----


@given(
    st.floats(0, 1e308), st.floats(0, 1e308), st.sampled_from([(-127, 127), (1, 255), (-7, 7), (-448, 448), (0, 127)])
)
def test_one_range_and_an_array_of_ranges_have_the_same_grid(below, above, codes):
    low, high = np.array([-below, 0.0]), np.array([above, 0.0])
    for symmetric in (True, False):
        scale, zero = grid_of_range(low, high, *codes, symmetric)
        assert (scale.dtype, zero.dtype, scale.shape, zero.shape) == (np.float32, np.int32, (2,), (2,))
        assert (scale[1], zero[1]) == (1, sum(codes) // 2 if symmetric else codes[0])
        assert grid_of_range(-below, above, *codes, symmetric) == (scale[0], zero[0])


def test_a_grid_has_the_largest_scale_unless_the_owner_refuses():
    wide = np.array([1.0, 1e300])
    assert grid_of_range(-wide, wide, -127, 127, True)[0].tolist() == [np.float32(1 / 127), HUGE]
    message = r"^somebody: the range must have a finite float32 scale; got 7.87402e\+297 at index 1\.$"
    with pytest.raises(ValueError, match=message):
        grid_of_range(-wide, wide, -127, 127, True, "somebody")


def test_dictionaries_of_every_granularity():
    for params in (*some(), qn.QParams(np.ones((2, 3)), 0, "int8", qn.PerRow())):
        assert qn.QParams.from_dict(params.to_dict()) == params
    assert qn.QParams(1, 0).to_dict()["granularity"] == {"kind": "tensor"}


def qparams_rows():
    for owner, call in {
        "fake_quantize": lambda p: qn.fake_quantize(X, p),
        "quantize": lambda p: qn.quantize(X, p),
        "QuantizedArray": lambda p: qn.QuantizedArray(Q, p),
    }.items():
        for value in (0.5, "int8", (0.5, 0)):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: qparams must be a QParams; got {value!r}"
        for params, wanted in (
            (qn.QParams(np.ones(2), 0, "int8", qn.PerChannel(1)), (3,)),
            (qn.QParams(np.ones((2, 2)), 0, "int8", qn.PerGroup(1)), (2, 3)),
        ):
            got = params.scale.shape
            fit = f"{owner}: qparams must be of scale shape {wanted} for an array of shape (2, 3); got {got}"
            yield lambda c=call, p=params: c(p), ValueError, fit
    make, channel = qn.QParams, qn.PerChannel(0)
    ends = "QParams: qmin and qmax must satisfy -128 <= qmin < qmax <= 127; got"
    for low, high in ((-200, 3), (3, 200), (5, 5), (6, 5)):
        yield lambda a=low, b=high: make(1, 5, qmin=a, qmax=b), ValueError, f"{ends} qmin={low}, qmax={high}"
    yield lambda: make(1, 0, qmax=200), ValueError, f"{ends} qmin=-128, qmax=200"
    for value in (1.5, 1.0, "1", True):
        yield lambda v=value: make(1, 2, qmin=v), TypeError, f"QParams: qmin must be an integer; got {value!r}"
        yield lambda v=value: make(1, 0, qmax=v), TypeError, f"QParams: qmax must be an integer; got {value!r}"
    yield lambda: make(1, 5, qmax=4), ValueError, "QParams: zero_point must be in [-128, 4]; got 5"
    dims = "QParams: scale must have"
    yield lambda: make(np.ones(3), 0), ValueError, f"{dims} 0 dimensions for PerTensor(); got shape (3,)"
    yield lambda: make(1, 0, "int8", channel), ValueError, f"{dims} 1 dimensions for PerChannel(axis=0); got shape ()"
    fits = "QParams: zero_point must have shape () or scale's (3,); got shape (2,)"
    yield lambda: make(np.ones(3), [1, 2], "int8", channel), ValueError, fits
    ranged, start = qn.QParams.from_range, "QParams.from_range:"
    finite = f"{start} min and max must be finite with min <= max; got"
    for low, high in ((1, 0), (np.nan, 1), (0, np.inf), (-np.inf, 0)):
        yield lambda a=low, b=high: ranged(a, b), ValueError, f"{finite} {low} and {high}"
    second = f"{finite} 3 and 2 at index 1"
    yield lambda: ranged([0, 3, 5], [1, 2, 4], granularity=channel), ValueError, second
    yield lambda: ranged([1.0], 1.0), ValueError, f"{start} min and max must have one shape; got (1,) and ()"
    missing = f"{start} granularity must be given for arrays of ranges; got None"
    yield lambda: ranged([1.0], [2.0]), ValueError, missing
    wide = f"{start} the range must have a finite float32 scale; got"
    for symmetric, scale in ((True, "7.87402e+305"), (False, "7.84314e+305")):
        yield lambda s=symmetric: ranged(-1e308, 1e308, symmetric=s), ValueError, f"{wide} {scale}"
    for got, value in {"'1'": "1", "dtype complex128": 1 + 2j, "an object": object()}.items():
        yield lambda v=value: ranged(v, 1), TypeError, f"{start} min must be real; got {got}"
        yield lambda v=value: ranged(-1, v), TypeError, f"{start} max must be real; got {got}"
    wrong = "QuantizedArray: codes must be an array of int8; got dtype uint8"
    yield lambda: qn.QuantizedArray(BYTES, PARAMS), TypeError, wrong
    narrow = make(1, 0, qmin=-127, qmax=100)
    outside = "QuantizedArray: codes must be in [-127, 100]; got"
    yield lambda: qn.QuantizedArray(np.array([-128, 101], np.int8), narrow), ValueError, f"{outside} -128"
    yield lambda: qn.QuantizedArray(np.array([0, 101], np.int8), narrow), ValueError, f"{outside} 101"
    keys = "QParams.from_dict: values must be a dict with the keys dtype, granularity, scale, zero_point, qmin, qmax"
    yield lambda: qn.QParams.from_dict([]), TypeError, f"{keys}; got []"
    yield lambda: qn.QParams.from_dict({"scale": 1}), TypeError, f"{keys}; got ['scale']"


@refusals(qparams_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
