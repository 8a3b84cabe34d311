"""The 8-bit kernels against plain float32 division: a dense sample by default, all 2**32 floats with ``-m slow``.

The vector kernels divide only outside the scales [2**-90, 2**90]; inside they correct the product with the reciprocal.
"""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.dtypes import code_type

ZERO_POINTS = {"int8": -3, "uint8": 131}  # odd: a tie that is rounded after Z is added would show
INFINITY = np.float32(np.inf)
FLOATS_A_CHUNK = 1 << 18  # NumPy's temporaries stay in the cache


def neighbours(value):
    value = np.float32(value)
    return [np.nextafter(value, -INFINITY), value, np.nextafter(value, INFINITY)]


def float32s(values):
    return [np.float32(value) for value in values]


USUAL = [
    *float32s([0.1, 1 / 3, 0.7, 1.1, np.pi, 1 / 127, 1 / 255, 0.00214854861, 12345.678]),
    *neighbours(1.0),
    *neighbours(2.0**-7),
    *float32s([1e-20, 1e20]),
]
LIMITS = [*neighbours(2.0**-90), *neighbours(2.0**90)]  # where the kernels change their method
EXTREMES = [
    *float32s([2.0**-126, 1.5 * 2.0**-126, 1e-30, 1e30, 2.0**127]),
    np.nextafter(np.float32(2.0**-126), INFINITY),
    np.finfo(np.float32).max,
]
SCALES = [*USUAL, *LIMITS, *EXTREMES]


def steps_by_division(x, scale):
    """round_half_even(x / scale), 0 for NaN, held to what no 8-bit code can tell from more."""
    with np.errstate(all="ignore"):
        steps = np.rint(x / scale)
    np.clip(steps, -1024, 1024, out=steps)
    np.copyto(steps, 0, where=np.isnan(x))
    return steps.astype(np.int16)


def codes_of(steps, code):
    info = code_type(code)
    return np.clip(steps + ZERO_POINTS[code], info.qmin, info.qmax).astype(info.dtype)


def assert_codes(x, scale, steps, **where):
    for code, zero in ZERO_POINTS.items():
        got, want = qn.quantize_linear(x, scale, zero, dtype=code, **where), codes_of(steps, code)
        if not np.array_equal(got, want):
            k = np.flatnonzero(got != want)[0]
            raise AssertionError(f"{code}, scale {scale!r}: {x.flat[k]!r} gives {got.flat[k]}, not {want.flat[k]}")


def dense_sample(scale):
    """Floats around every tie, every exponent with many mantissas, and one float in about 2**14."""
    ties = np.arange(-263.5, 264) * np.float64(scale)
    with np.errstate(over="ignore"):
        ties = ties.astype(np.float32).view(np.uint32)
    around = (ties[:, None] + np.arange(-6, 7, dtype=np.int64)).astype(np.uint32)
    mantissas = np.unique(np.concatenate([2 ** np.arange(23), 2**23 - 2 ** np.arange(23), np.arange(0, 2**23, 65521)]))
    grid = (np.arange(512, dtype=np.uint32)[:, None] << 23) | mantissas.astype(np.uint32)
    strided = np.arange(0, 2**32, 16381, dtype=np.uint64).astype(np.uint32)  # a prime: the low bits vary too
    return np.concatenate([around.ravel(), grid.ravel(), strided]).view(np.float32)


def test_the_scales_are_many_and_usable():
    assert len({float(scale) for scale in SCALES}) == len(SCALES) >= 20
    assert all(2.0**-126 <= scale < np.inf for scale in SCALES)


def test_the_sample_holds_floats_that_a_plain_reciprocal_gets_wrong():
    """Otherwise it could not tell a proven shortcut from a careless one."""
    for scale in float32s([0.1, 1 / 3, 0.7, 1.1, 1 / 255, 0.00214854861]):
        x = dense_sample(scale)
        with np.errstate(all="ignore"):
            careless = np.clip(np.rint(x * (np.float32(1) / scale)), -1024, 1024)
        assert (careless != steps_by_division(x, scale))[~np.isnan(x)].any()


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: float(scale).hex())
def test_dense_sample(row, scale):
    x = dense_sample(scale)
    assert_codes(x, scale, steps_by_division(x, scale))


@pytest.mark.parametrize("scales", [USUAL, LIMITS, EXTREMES], ids=["usual", "limits", "extremes"])
def test_dense_sample_per_channel(row, scales):
    """Neighbours with scales of their own take another loop of the kernels."""
    columns = [dense_sample(scale)[::7] for scale in scales]
    steps = np.stack([steps_by_division(x, s) for x, s in zip(columns, scales, strict=True)], axis=1)
    assert_codes(np.stack(columns, axis=1), np.array(scales), steps, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: float(scale).hex())
def test_every_float32(scale):
    """The time is that of NumPy's 2**32 divisions and roundings."""
    for start in range(0, 2**32, FLOATS_A_CHUNK):
        x = np.arange(start, start + FLOATS_A_CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32)
        assert_codes(x, scale, steps_by_division(x, scale))
