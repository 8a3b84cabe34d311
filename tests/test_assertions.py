"""qnumpy.testing's assertions: what they accept, and whole messages of what they refuse."""

import re

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.testing import assert_dequantized_close, assert_qparams_equal, assert_quantized_equal

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
Q = qn.quantize(X)


def message(call, *arguments, **options):
    with pytest.raises(AssertionError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def shifted(q, places, by=1):
    codes = q.codes.copy()
    for place in places:
        codes[place] = (codes[place].astype(np.int32) + by).astype(codes.dtype)
    return qn.QuantizedArray(codes, q.qparams)


EQUAL = [
    Q, qn.quantize(X, dtype="uint8", symmetric=False), qn.quantize(X, granularity=qn.PerChannel(0)),
    qn.quantize(X, dtype="int4", granularity=qn.PerGroup(4)), qn.quantize(X, dtype="uint2"),
    qn.quantize(X, granularity=qn.PerRow()), qn.quantize(X, dtype="float8_e5m2"), qn.quantize(X[:0]),
    qn.quantize(X[0, 0]),
    qn.QuantizedArray(np.array([np.nan, -0.0], ml_dtypes.float8_e4m3fn), qn.QParams(1.0, 0, "float8_e4m3fn")),
    qn.quantize(X.repeat(8, 1), dtype="mxfp4"), qn.quantize(X.repeat(8, 1), dtype="mxfp6_e2m3"),
    qn.quantize(X.repeat(8, 1), dtype="nvfp4"), Q.qparams, Q.codes, Q.codes.astype(np.int32), Q.codes.astype(np.uint64),
    X.astype(ml_dtypes.float8_e4m3fn), np.int8(3),
]  # fmt: skip


@pytest.mark.parametrize("value", EQUAL, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("max_codes", [0, 2])
def test_equal_values_pass(value, max_codes):
    assert_quantized_equal(value, value, max_codes=max_codes)
    copy = value if isinstance(value, qn.QParams) or np.ndim(value) == 0 else value[...]
    assert_quantized_equal(copy, value, max_codes=max_codes)


def test_codes_that_differ_are_listed():
    places = [(0, 1), (1, 2), (1, 3), (2, 0), (3, 4), (3, 5)]
    other = shifted(Q, places, -2)
    assert message(assert_quantized_equal, other, Q) == (
        "assert_quantized_equal: actual must equal desired.\n"
        "codes: 6 of 24 differ, by at most 2 codes\n"
        "  at index (0, 1): -118; desired -116\n"
        "  at index (1, 2): -41; desired -39\n"
        "  at index (1, 3): -30; desired -28\n"
        "  at index (2, 0): 4; desired 6\n"
        "  at index (3, 4): 114; desired 116\n"
        "  ..."
    )
    assert message(assert_quantized_equal, other, Q, max_codes=1).startswith(
        "assert_quantized_equal: actual must equal desired within 1 code.\n"
        "codes: 6 of 24 differ by more, by at most 2 codes\n"
    )
    assert_quantized_equal(other, Q, max_codes=2)


def test_everything_that_differs_is_named():
    other = qn.quantize(X[:, :3], dtype="uint8", symmetric=False, granularity=qn.PerChannel(0))
    assert message(assert_quantized_equal, other, Q) == (
        "assert_quantized_equal: actual must equal desired.\n"
        "shape: (4, 3); desired (4, 6)\n"
        "dtype: uint8; desired int8\n"
        "granularity: per channel 0; desired per tensor\n"
        "qmin, qmax: 0, 255; desired -127, 127\n"
        "shape of scale: (4,); desired ()"
    )


def test_parameters_that_differ_are_listed():
    one = qn.QParams([0.5, 0.25, 0.5], [0, 3, 1], granularity=qn.PerChannel(0))
    two = qn.QParams([0.5, 0.5, 0.5], [0, 1, 1], granularity=qn.PerChannel(0))
    text = (
        "assert_{}_equal: actual must equal desired.\n"
        "scale: 1 of 3 differ, by at most 50 %\n"
        "  at index 1: 0.25; desired 0.5\n"
        "zero_point: 1 of 3 differ, by at most 2\n"
        "  at index 1: 3; desired 1"
    )
    assert message(assert_qparams_equal, one, two) == text.format("qparams")
    assert message(assert_quantized_equal, one, two) == text.format("quantized")
    codes = np.zeros((3, 2), np.int8)
    arrays = (qn.QuantizedArray(codes, params) for params in (one, two))
    assert message(assert_quantized_equal, *arrays) == text.format("quantized")


def test_scales_within_a_tolerance():
    one, two = qn.QParams(0.1, 0), qn.QParams(np.nextafter(np.float32(0.1), np.float32(1)), 0)
    assert "scale: 1 of 1 differ, by at most 7.45e-06 %" in message(assert_qparams_equal, one, two)
    assert_qparams_equal(one, two, rtol=1e-6)
    assert message(assert_qparams_equal, one, qn.QParams(0.2, 0), rtol=1e-6).startswith(
        "assert_qparams_equal: actual must equal desired within a relative 1e-06.\n"
        "scale: 1 of 1 differ, by at most 50 %"
    )


def test_blocks():
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    q = qn.quantize(x, dtype="mxfp4")
    codes, scales = q.codes.copy(), q.scales.copy()
    codes[1, 5] = -codes[1, 5]
    scales[0, 1] = np.float32(2.0) * scales[0, 1].astype(np.float32)
    lines = message(assert_quantized_equal, qn.MXArray(codes, scales, "mxfp4"), q).splitlines()
    assert lines[1] == "scales: 1 of 4 differ, by at most 1 code"
    assert re.fullmatch(r"  at index \(0, 1\): .*; desired .*", lines[2])
    assert re.fullmatch(r"codes: 1 of 128 differ, by at most \d+ codes", lines[3])
    assert message(assert_quantized_equal, qn.quantize(x, dtype="nvfp4"), q).splitlines()[1:] == [
        "format: nvfp4; desired mxfp4",
    ]


def test_codes_of_floats_are_counted_along_the_number_line():
    def floats(*values):
        return np.array(values, ml_dtypes.float8_e4m3fn)

    assert "1 of 2 differ, by at most 1 code\n  at index 0: 0; desired -0" in message(
        assert_quantized_equal, floats(0.0, 1.0), floats(-0.0, 1.0)
    )
    assert_quantized_equal(floats(1.0, -1.0), floats(1.125, -1.125), max_codes=1)
    assert "by at most 256 codes\n  at index 0: nan; desired 448" in message(
        assert_quantized_equal, floats(np.nan), floats(448.0), max_codes=255
    )
    bits = np.array([0x7F, 0xFF], np.uint8).view(ml_dtypes.float8_e4m3fn)  # both NaN
    assert "1 of 1 differ" in message(assert_quantized_equal, bits[:1], bits[1:])


@pytest.mark.parametrize(("actual", "desired", "lines"), [
    (np.int8([1, 2]), np.int8([1, 3]), ["codes: 1 of 2 differ, by at most 1 code", "  at index 1: 2; desired 3"]),
    (np.uint64([0]), np.uint64([2**64 - 1]),
     [f"codes: 1 of 1 differ, by at most {2**64 - 1:,} codes", f"  at index 0: 0; desired {2**64 - 1}"]),
    (np.int8(1), np.int8(-1), ["codes: 1 of 1 differ, by at most 2 codes", "  1; desired -1"]),
    (np.int8([1]), np.uint8([1]), ["dtype: int8; desired uint8"]),
    (np.int8([1]), np.int8([[1]]), ["shape: (1,); desired (1, 1)"]),
    (Q, Q.codes, ["kind: QuantizedArray; desired codes"]),
    (Q.qparams, Q, ["kind: QParams; desired QuantizedArray"]),
], ids=str)  # fmt: skip
def test_plain_codes_and_kinds(actual, desired, lines):
    start = "assert_quantized_equal: actual must equal desired."
    assert message(assert_quantized_equal, actual, desired) == "\n".join([start, *lines])


WANTED = "a QuantizedArray, an MXArray, a QParams or an array of codes"


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: assert_quantized_equal(X, X), TypeError,
     f"assert_quantized_equal: actual must be {WANTED}; got an array of float32."),
    (lambda: assert_quantized_equal(Q, [1]), TypeError, f"assert_quantized_equal: desired must be {WANTED}; got [1]."),
    (lambda: assert_quantized_equal(Q, Q, -1), ValueError,
     "assert_quantized_equal: max_codes must be at least 0; got -1."),
    (lambda: assert_quantized_equal(Q, Q, 0.5), TypeError,
     "assert_quantized_equal: max_codes must be an integer; got 0.5."),
    (lambda: assert_qparams_equal(Q, Q.qparams), TypeError,
     "assert_qparams_equal: actual must be a QParams; got a QuantizedArray."),
    (lambda: assert_dequantized_close(X, X), TypeError,
     "assert_dequantized_close: actual must be a QuantizedArray with integer codes; "
     "got an array of float32 with shape (4, 6)."),
    (lambda: assert_quantized_equal(np.ma.array([1]), Q.codes), TypeError,
     "assert_quantized_equal: actual must be an array without a mask; got a MaskedArray. Use x.filled(...) first."),
])  # fmt: skip
def test_arguments_that_are_refused(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int4", "uint2"])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(5), qn.PerRow()], ids=repr)
@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_is_within_half_a_step(dtype, granularity, symmetric):
    if dtype == "uint2" and symmetric:
        pytest.skip("the largest magnitude has no code: it is clipped")
    x = np.random.default_rng(1).normal(size=(40, 60)).astype(np.float32)
    q = qn.quantize(x, dtype=dtype, granularity=granularity, symmetric=symmetric)
    assert_dequantized_close(q, x, max_steps=0.5 if symmetric else 1.0)  # the zero point is rounded too
    text = message(assert_dequantized_close, q, x, max_steps=0.25)
    assert re.search(r"^values: [\d,]+ of 2,400 differ by more, by at most 0\.\d+ steps$", text, re.MULTILINE)


def test_levels_far_from_their_reals():
    x = np.array([0.5, 2.0, np.nan, 0.25])
    q = qn.quantize(x, qn.QParams(0.01, 0))
    assert message(assert_dequantized_close, q, x).splitlines() == [
        "assert_dequantized_close: actual must be within 0.5 steps of desired.",
        "values: 2 of 4 differ by more, by at most 73 steps",
        "  at index 1: 1.27; desired 2",
        "  at index 2: 0; desired nan",
    ]
    assert message(assert_dequantized_close, q, x[:3]).splitlines()[1] == "shape: (4,); desired (3,)"
