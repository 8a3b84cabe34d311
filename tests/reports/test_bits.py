"""The bits of numbers: sign x mantissa x 2^exponent is the number, and the powers of two of an integer sum to it."""

import time

import ml_dtypes
import numpy as np
import pytest
from refusals import assert_refused, refusals

import qnumpy as qn
from qnumpy.dtypes import FLOAT_TYPES
from qnumpy.reports.compare import MAX_ROWS

NARROW = [name for name, float_type in FLOAT_TYPES.items() if float_type.bits <= 16]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def every_code(float_type):
    return np.arange(1 << float_type.bits).astype(float_type.storage).view(float_type.dtype)


def hard_floats(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, 3000, np.uint64, endpoint=False).view(np.float64 if dtype == "float64" else np.uint32)
    x = x.view(dtype)
    info = np.finfo(dtype)
    edges = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal]
    return np.concatenate([x, np.array(edges, dtype)])


def assert_fields_make_the_number(x):
    parts = qn.bits(x)
    assert parts.is_float
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = x.astype(np.float64)
    finite = np.isfinite(wide)
    value = parts.sign * np.ldexp(np.where(finite, parts.mantissa, 0), parts.exponent)
    np.testing.assert_array_equal(value[finite], wide[finite])
    if FLOAT_TYPES[x.dtype.name].kind not in ("FNUZ", "SCALE"):  # NaN has the sign bit, or there is none
        np.testing.assert_array_equal(parts.sign < 0, np.signbit(wide))
    mantissa = parts.mantissa[finite]
    assert ((mantissa >= 1) | (parts.fields[1][finite] == 0)).all()
    assert (mantissa < 2).all()


@pytest.mark.parametrize("name", NARROW)
def test_every_code_of_a_narrow_float(name):
    float_type = FLOAT_TYPES[name]
    assert_fields_make_the_number(every_code(float_type))
    texts = qn.bits(every_code(float_type)).text
    assert [int(text.replace(" ", ""), 2) for text in texts] == list(range(1 << float_type.bits))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_wide_floats(name):
    assert_fields_make_the_number(hard_floats(name))


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_against_frexp(name):
    """NumPy has the mantissa in [0.5, 1)."""
    x = np.array([1.0, -0.1, 3.7, 1e-3, 6.1e4], name)
    mantissa, exponent = np.frexp(x)
    parts = qn.bits(x)
    np.testing.assert_array_equal(parts.mantissa, 2 * np.abs(mantissa.astype(np.float64)))
    np.testing.assert_array_equal(parts.exponent, exponent - 1)


@pytest.mark.parametrize("name", [*INTEGERS, "int4", "uint4", "int2", "uint2"])
def test_powers_of_two_sum_to_the_integer(name):
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    info = ml_dtypes.iinfo(dtype)
    numbers = sorted({int(info.min), int(info.max), 0, 1, int(info.max) // 3, int(info.min) // 3})
    x = np.array(numbers, dtype)
    for record, number in zip(qn.bits(x).to_records(), numbers, strict=True):
        assert sum(int(term) for term in record["meaning"].split(" + ")) == number
        assert len(record["bits"]) == info.bits
        assert int(record["bits"], 2) == number % 2**info.bits  # two's complement


def test_python_numbers_take_the_smallest_type():
    types = [qn.bits(n).x.dtype.name for n in (19, -128, 128, 2**15, 2**31, 2**63, -(2**63), 0.5, [1, 300])]
    assert types == ["int8", "int8", "int16", "int32", "int64", "uint64", "int64", "float64", "int16"]
    assert qn.bits(np.array([1])).x.dtype == np.int64  # an array keeps its own


def test_one_number_explained():
    assert str(qn.bits(19)).splitlines()[1:] == [
        "  bits    00010011",
        "  value   16 + 2 + 1",
        "  powers  2^4 + 2^1 + 2^0",
    ]
    assert "-128 + 64 + 32 + 8 + 4 + 1" in str(qn.bits(-19))
    tiny = str(qn.bits(np.float16(2.0**-24)))
    assert "1 - 15 = -14, subnormal" in tiny
    assert "0 + 1/1024" in tiny
    assert "1 - 15 = -14, zero" in str(qn.bits(np.float16(-0.0)))
    assert "infinity" in str(qn.bits(-np.inf))
    assert "NaN" in str(qn.bits(np.nan))
    assert str(qn.bits(np.array(4, ml_dtypes.float8_e8m0fnu))).splitlines()[1:] == [
        "  exponent  10000001  129 - 127 = 2",
        "  value     +1 x 1 x 2^2",
    ]


def test_tables_are_cut():
    parts = qn.bits(np.arange(MAX_ROWS + 3.0))
    assert str(parts).endswith("... and 3 more")
    assert "... and 3 more" in parts._repr_html_()
    assert len(parts.to_records()) == MAX_ROWS + 3
    assert str(qn.bits(np.zeros(0, np.float16))).splitlines() == ["float16  bits  sign x mantissa x 2^exponent"]


def test_layouts_and_input():
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    for view in (x.T, x[::-1, ::2], x.astype(">f4"), np.asfortranarray(x)):
        parts = qn.bits(view)
        assert parts.exponent.shape == view.shape
        np.testing.assert_array_equal(parts.sign * np.ldexp(parts.mantissa, parts.exponent), view.astype(np.float64))
    parts = qn.bits(x)
    x[:] = 0
    assert parts.x.any()  # a copy


def test_html_has_a_span_for_each_field():
    html = qn.bits(np.array([1.5], np.float16))._repr_html_()
    assert [part.partition("<")[0] for part in html.split('color:black">')[1:]] == ["0", "01111", "1000000000"]


@pytest.mark.parametrize("numbers", [[2**64 - 1, 0], [[2**63], [5]], (2**63 + 1, 2**62 + 1), [2**64 - 2**10 - 1, 1]])
def test_python_integers_of_64_bits_are_exact(numbers):
    """NumPy makes float64 of integers on both sides of 2**63."""
    shown = qn.bits(numbers)
    assert shown.x.dtype == np.uint64
    assert shown.x.tolist() == (list(numbers) if isinstance(numbers, tuple) else numbers)
    assert [int(text, 2) for text in shown.text.flat] == list(shown.x.flat)


def test_integers_that_have_a_type_keep_it(tmp_path):
    codes = np.memmap(tmp_path / "codes", np.int32, "w+", shape=(3,))
    codes[:] = [1, -1, 7]
    for x in (codes, codes.view(np.matrix), memoryview(np.asarray(codes)), np.asarray(codes)):
        assert qn.bits(x).x.dtype == np.int32
    assert qn.bits([1, -1, 7]).x.dtype == np.int8


def test_records_take_linear_time():
    def seconds(n):
        begin = time.process_time()  # other processes do not count
        qn.bits(np.arange(n, dtype=np.float32)).to_records()
        return time.process_time() - begin

    fast, slow = (min(seconds(n) for _ in range(5)) for n in (1000, 32_000))
    assert slow < 128 * fast  # 32 times the work; the square of it would be 1024 times


def bits_rows():
    wanted = "bits: x must be of floats or integers of at most 64 bits; got"
    kinds = ((["a"], "['a']"), (1j, "dtype complex128"), (True, "dtype bool"), (None, "None"), ({}, "{}"))
    for value, got in kinds:
        yield lambda v=value: qn.bits(v), TypeError, f"{wanted} {got}"
    yield lambda: qn.bits(2**70), TypeError, f"{wanted} integers from {2**70} to {2**70}"
    yield lambda: qn.bits([-1, 2**63]), TypeError, f"{wanted} integers from -1 to {2**63}"


@refusals(bits_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
