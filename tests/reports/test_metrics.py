"""The metrics equal their formulas, on every granularity, layout and edge, whatever the tile."""

import tracemalloc

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.reports import metrics

GRANULARITIES = [
    qn.PerTensor(),
    *(qn.PerChannel(axis) for axis in (0, 1, 2, -1)),
    *(qn.PerGroup(size, axis) for size, axis in ((4, -1), (3, 0), (5, 1), (100, 1))),
]


def mse(x, q):
    return metrics.measure("mse", x, q).mse


def sqnr_db(x, q):
    return metrics.measure("sqnr_db", x, q).sqnr_db


def max_abs_error(x, q):
    return metrics.measure("max_abs_error", x, q).peak


def cosine(x, q):
    return metrics.measure("cosine", x, q).cosine


def clipped(x, q):
    return metrics.measure("clipped", x, q).clipped


def codes_used(q):
    return metrics.measure("codes_used", q.dequantize(), q).used


# Both sides sum the same float64 terms in another order: n rounding errors of 2^-53 for the n < 1000 terms here.
RTOL = 1000 * 2.0**-53


def sample(dtype=np.float32):
    x = np.random.default_rng(1).standard_normal((7, 11, 13)).astype(dtype)
    x[2] *= 5
    return x


def parameter(values, granularity, shape):
    """A parameter for every element, without the package's own code."""
    axis, group = granularity.axis_block
    if axis is None:
        return np.broadcast_to(values, shape)
    axis %= len(shape)
    if group is None:
        return np.broadcast_to(np.moveaxis(values[:, None, None], 0, axis), shape)
    return np.repeat(values, group, axis=axis)[tuple(slice(n) for n in shape)]


def reference(x, r, axis=None):
    """mse, sqnr_db, max_abs_error, cosine by their formulas over the finite elements."""
    others = tuple(d for d in range(x.ndim) if d != axis)
    finite = np.isfinite(x)
    x = np.where(finite, x, 0).astype(np.float64)
    r = np.where(finite, r, 0).astype(np.float64)
    noise, signal = ((x - r) ** 2).sum(others), (x**2).sum(others)
    cosine = (x * r).sum(others) / np.sqrt(signal * (r**2).sum(others))
    with np.errstate(divide="ignore"):  # a group of one element has no error: infinite SQNR
        sqnr = 10 * np.log10(signal / noise)
    return noise / finite.sum(others), sqnr, abs(x - r).max(others), cosine


def check(sums, x, r, axis=None):
    mse, sqnr, peak, cosine = reference(x, r, axis)
    np.testing.assert_allclose(sums.mse, mse, rtol=RTOL)
    np.testing.assert_allclose(sums.sqnr_db, sqnr, rtol=0, atol=10 * RTOL)  # d(10 log10 u) = 4.3 du/u, twice
    np.testing.assert_array_equal(sums.peak, peak)
    np.testing.assert_allclose(sums.cosine, cosine, rtol=2 * RTOL)


@pytest.fixture(params=[7, 64, 1 << 16])
def tile(request, monkeypatch):
    monkeypatch.setattr(metrics, "_TILE", request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_sums_equal_the_formulas(granularity, axis):
    x = sample()
    x[0, 0, :3] = np.nan, np.inf, -np.inf
    q = qn.quantize(x, dtype="int4", granularity=granularity)
    sums = metrics.measure("test", x, q, axis)
    check(sums, x, q.dequantize(), axis)
    others = tuple(d for d in range(3) if d != axis)
    np.testing.assert_array_equal(sums.nan, np.isnan(x).sum(others))
    np.testing.assert_array_equal(sums.inf, np.isinf(x).sum(others))
    codes = np.moveaxis(q.codes.astype(int), axis, 0).reshape(x.shape[axis], -1) if axis is not None else [q.codes]
    used = [len(np.unique(np.asarray(part).astype(int))) for part in codes]
    np.testing.assert_array_equal(np.ravel(sums.used), used)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_clipped_equals_the_definition(granularity, symmetric):
    x = sample()
    x[0, 0, :3] = np.nan, np.inf, -np.inf
    params = qn.choose_qparams(x / 2, dtype="uint8", granularity=granularity, symmetric=symmetric)
    q = qn.quantize(x, params)
    scale = parameter(params.scale, granularity, x.shape).astype(np.float64)
    zero = parameter(params.zero_point, granularity, x.shape)
    outside = (x < scale * (params.qmin - zero - 0.5)) | (x > scale * (params.qmax - zero + 0.5))
    outside &= np.isfinite(x)
    assert 0 < outside.sum() < x.size
    for axis in (None, 0, 1, 2):
        counted = metrics.measure("test", x, q, axis).outside
        np.testing.assert_array_equal(counted, outside.sum(tuple(d for d in range(3) if d != axis)))
    assert clipped(x, q) == outside.sum() / np.isfinite(x).sum()


def test_exactly_half_a_step_outside_is_not_clipped():
    params = qn.QParams(0.5, 0)  # the range is -64 .. 63.5, half a step 0.25
    inside = np.array([63.75, -64.25, 0.0, 1.0], np.float32)
    assert clipped(inside, qn.quantize(inside, params)) == 0
    beyond = np.nextafter(inside, np.float32([100, -100, 0, 1]))
    assert clipped(beyond, qn.quantize(beyond, params)) == 0.5


def test_a_range_without_zero_counts_no_nan_as_clipped():
    params = qn.QParams(10 / 255, 0, dtype="uint8")
    x = np.array([np.nan, np.inf, 1.0], np.float32)
    assert params.zero_point == 0
    q = qn.quantize(np.array([np.nan, np.inf, 30.0], np.float32), params)
    assert clipped(np.array([np.nan, np.inf, 30.0]), q) == 1
    assert clipped(x, qn.quantize(x, params)) == 0


def test_closed_forms():
    x, r = np.array([3.0, 4.0, 0.0]), np.array([3.0, 4.5, 0.0])
    assert mse(x, r) == 0.25 / 3
    assert sqnr_db(x, r) == pytest.approx(20, abs=1e-14)  # log10 may be off by an ulp
    assert max_abs_error(x, r) == 0.5
    assert cosine(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(0.5**0.5, abs=1e-15)  # one ulp
    assert cosine(np.array([3.0, 4.0]), np.array([-3.0, -4.0])) == -1
    assert codes_used(qn.quantize(np.array([1.0, -1.0, 1.0, 0.0], np.float32))) == 3


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 2), ()])
def test_nothing_lost(shape):
    x = np.zeros(shape, np.float32)
    q = qn.quantize(x)
    assert mse(x, q) == max_abs_error(x, q) == clipped(x, q) == 0
    assert sqnr_db(x, q) == np.inf
    assert cosine(x, q) == 1
    assert codes_used(q) == (1 if x.size else 0)


def test_only_one_side_is_zero():
    zero, one = np.zeros(3), np.ones(3)
    assert (sqnr_db(zero, one), cosine(zero, one)) == (-np.inf, 0)
    assert (sqnr_db(one, zero), cosine(one, zero)) == (0, 0)


def test_nothing_finite():
    x = np.array([np.nan, np.inf], np.float32)
    sums = metrics.measure("test", x, qn.quantize(x, qn.QParams(1.0, 0)))
    assert (sums.count, sums.nan, sums.inf, sums.mse, sums.sqnr_db, sums.clipped) == (0, 1, 1, 0, np.inf, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_approximation_that_is_not_finite_is_infinitely_wrong(bad):
    x, r = np.ones(4), np.array([1, bad, 1, 1])
    assert mse(x, r) == max_abs_error(x, r) == np.inf
    assert sqnr_db(x, r) == -np.inf
    assert np.isnan(cosine(x, r))
    assert mse(r, x) == 0  # it is the reference that decides what is left out


@pytest.mark.parametrize("huge", [1e-200, 1e200])
def test_float64_beyond_its_squares_says_nan_and_not_exact(huge):
    x, r = np.array([huge, huge]), np.array([huge, 2 * huge])
    assert max_abs_error(x, r) == huge
    assert np.isnan(sqnr_db(x, r))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", ">f4"])
def test_every_float_type(dtype):
    import ml_dtypes

    x = sample(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    q = qn.quantize(x, granularity=qn.PerChannel(1))
    check(metrics.measure("test", x, q), x, q.dequantize())
    check(metrics.measure("test", x, q.dequantize()), x, q.dequantize())


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("view", [
    lambda x: x.T, lambda x: x[::-1, ::2], lambda x: x.transpose(1, 0, 2), np.asfortranarray,
    lambda x: np.broadcast_to(x[:1], x.shape), lambda x: x[:, :, 3],
])  # fmt: skip
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(3, 0)], ids=repr)
def test_every_layout(view, granularity):
    x = view(sample())
    before = x.copy()
    q = qn.quantize(x, granularity=granularity)
    for axis in (None, 0, 1):
        check(metrics.measure("test", x, q, axis), x, q.dequantize(), axis)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"])
def test_codes_used_of_every_type(dtype):
    x = sample()
    q = qn.quantize(x, dtype=dtype, symmetric=False)
    assert codes_used(q) == len(np.unique(q.codes.astype(int)))
    assert (metrics.measure("test", x, q, 0).used is None) == dtype.endswith("16")


def test_memory_stays_bounded():
    x = np.random.default_rng(0).standard_normal((2000, 1000), np.float32)
    q = qn.quantize(x, granularity=qn.PerGroup(50))
    metrics.measure("warm", x[:2], q[:2])
    tracemalloc.start()
    try:
        metrics.measure("test", x, q)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Three float64 buffers of a tile, its float32 values, its code indexes, and the bounds of each of 40,000 groups in
    # float64: ranges and limits, nine arrays at most. Together below the 8 MB of x, let alone 16 MB as float64.
    assert peak < 6 * 8 * metrics._TILE + 9 * 8 * q.scale.size


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: mse(x, x[:2]), ValueError,
     "mse: q must be of the shape (3, 4) of x; got shape (2, 4)."),
    (lambda x: mse(x.astype(int), x), TypeError,
     "mse: x must be an array of float32, float64, float16 or bfloat16; got dtype int64."),
    (lambda x: cosine(x, x.astype(np.int8)), TypeError,
     "cosine: q must be an array of float32, float64, float16 or bfloat16; got dtype int8."),
])  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call(np.zeros((3, 4), np.float32))
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_arrays_at_any_address(dtype):
    """As they come out of the buffers of a network."""
    x = np.random.default_rng(0).standard_normal((30, 40)).astype(dtype)
    raw = np.zeros(x.nbytes + 1, np.uint8)
    crooked = raw[1:].view(x.dtype).reshape(x.shape)
    crooked[...] = x
    assert not crooked.flags.aligned
    for q in (qn.quantize(x), qn.quantize(x, granularity=qn.PerChannel(0))):
        assert metrics.measure("test", crooked, q) == metrics.measure("test", x, q)
        assert mse(crooked, q.dequantize()) == mse(x, q.dequantize())
        assert mse(x, crooked) == 0
