"""Refusals: how a test states that a call raises, with which exception and the whole message."""

import numpy as np
import pytest

import qnumpy as qn

X = np.linspace(-1, 1, 6).astype(np.float32).reshape(2, 3)
Q = np.arange(6, dtype=np.int8).reshape(2, 3)
ACC = np.arange(6, dtype=np.int32).reshape(2, 3)
BYTES = np.arange(6, dtype=np.uint8).reshape(2, 3)
PARAMS = qn.QParams(0.5, 0)

INTEGERS = "int8, uint8, int16, uint16, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2 or uint2"
ARRAYS_OF_INTEGERS = "int8, uint8, int16, uint16, int4, uint4, int2 or uint2"  # the others have no dtype
CODES, ARRAYS_OF_CODES = (
    f"{types.replace(' or ', ', ')}, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn"
    for types in (INTEGERS, ARRAYS_OF_INTEGERS)
)
NARROW = "int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2 or uint2"
REALS = "float32, float64, float16 or bfloat16"
FLOATS = (
    "float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, "
    "float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn"
)
MASK = "an array without a mask; got a MaskedArray. Use x.filled(...) first"


def masked(value):
    return np.ma.masked_array(value, mask=np.zeros(np.shape(value), bool))


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def refusals(rows):
    """Parametrize a test over rows (call, exception, message without the last full stop)."""
    rows = list(rows)
    return pytest.mark.parametrize(
        ("call", "exception", "message"), rows, ids=[f"{k}-{row[2][:60]}" for k, row in enumerate(rows)]
    )


def assert_refused(call, exception, message):
    """The exception is of this type exactly, the message is this sentence, and no argument changed."""
    arguments = X, Q, ACC, BYTES
    before = [array.copy() for array in arguments]
    with pytest.raises(exception) as caught:
        call()
    assert str(caught.value) == f"{message}."
    assert type(caught.value) is exception
    for array, copy in zip(arguments, before, strict=True):
        assert np.array_equal(array, copy)
