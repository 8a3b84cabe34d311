"""pack and unpack: golden bytes, the twin, and there and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import BYTES, assert_refused, refusals
from strategies import LAYOUTS, SIZES, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type

NARROW = ["int4", "uint4", "int2", "uint2"]


def random_codes(shape, name, seed=0):
    info = code_type(name)
    plain = np.random.default_rng(seed).integers(info.qmin, info.qmax + 1, shape)
    return plain.astype(info.storage).view(info.dtype)


@pytest.mark.parametrize(
    ("name", "codes", "packed"),
    [
        ("int4", [1, 2], [0x21]),
        ("int4", [-1, 7, -8], [0x7F, 0x08]),
        ("uint4", [0, 15, 3], [0xF0, 0x03]),
        ("int2", [1, -1, -2, 0], [0b00_10_11_01]),
        ("uint2", [0, 1, 2, 3, 3], [0b11_10_01_00, 0b11]),
    ],
)
def test_golden_bytes(name, codes, packed):
    info = code_type(name)
    codes = np.array(codes).astype(info.storage).view(info.dtype)
    assert_same_bits(qn.pack(codes, name), np.array(packed, np.uint8))
    assert_same_bits(qn.unpack(np.array(packed, np.uint8), name, len(codes)), codes)


@pytest.mark.parametrize("name", NARROW)
def test_every_byte(name):
    every = np.arange(256, dtype=np.uint8)
    codes = qn.unpack(every, name)
    assert_same_bits(codes, twin.unpack(every, name))
    assert_same_bits(qn.pack(codes, name), every)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_every_axis_layout_and_size(name, axis):
    for n in SIZES:
        shape = [2, 3, 2]
        shape[axis] = n
        codes = random_codes(shape, name, n)
        want = twin.pack(codes, name, axis)
        for label, layout in LAYOUTS.items():
            got = qn.pack(layout(codes), name, axis)
            assert_same_bits(got, want, f"{label}, n = {n}")
            back = qn.unpack(layout(want), name, n, axis)
            assert_same_bits(back, codes, f"{label}, n = {n}")


@given(st.sampled_from(NARROW), st.lists(st.integers(0, 40), min_size=1, max_size=3), st.integers(0, 2**32))
def test_there_and_back(name, shape, seed):
    for axis in range(len(shape)):
        codes = random_codes(shape, name, seed)
        packed = qn.pack(codes, name, axis)
        assert packed.shape[axis] == -(-shape[axis] * code_type(name).bits // 8)
        assert_same_bits(qn.unpack(packed, name, shape[axis], axis), codes)


@pytest.mark.parametrize("name", NARROW)
def test_codes_may_be_plain_bytes(name):
    info = code_type(name)
    plain = np.array([info.qmin, info.qmax, 0, 1], np.int8 if info.signed else np.uint8)
    assert_same_bits(qn.pack(plain, name), twin.pack(plain, name))
    wide = np.array([info.qmax + 1], np.int8)
    low, high = info.qmin, info.qmax
    with pytest.raises(ValueError, match=rf"^pack: codes must be in \[{low}, {high}\]; got {high + 1}\.$"):
        qn.pack(wide, name)


@pytest.mark.parametrize("name", NARROW)
def test_codes_as_ml_dtypes_makes_them(name):
    """Its cast fills only the low bits of a byte; ours fills the byte with the sign. Both are the same code."""
    info = code_type(name)
    codes = np.arange(info.qmin, info.qmax + 1).astype(info.dtype)
    assert_same_bits(qn.pack(codes, name), twin.pack(codes, name))
    wider = {"int2": "int4", "uint2": "uint4"}.get(name)
    if wider:
        assert_same_bits(qn.pack(codes.astype(code_type(wider).dtype), name), twin.pack(codes, name))


def test_the_padding_is_zero():
    assert qn.pack(np.array([-1], np.int8), "int4").tolist() == [0x0F]
    assert qn.pack(np.array([-1], np.int8), "int2").tolist() == [0x03]
    assert qn.pack(np.full(5, 3, np.uint8), "uint2").tolist() == [0xFF, 0x03]


def test_without_n_every_field_is_a_code():
    assert qn.unpack(np.array([0x21, 0x03], np.uint8), "int4").astype(int).tolist() == [1, 2, 3, 0]


def pack_rows():
    yield lambda: qn.pack(np.int8(1)), ValueError, "pack: codes must be of one dimension or more; got a 0-d array"
    flat = "unpack: packed must be of one dimension or more; got a 0-d array"
    yield lambda: qn.unpack(np.uint8(1), "int4"), ValueError, flat
    wide = "pack: codes must be of one byte each; got dtype int16"
    yield lambda: qn.pack(np.ones(3, np.int16)), TypeError, wide
    for values, got in (([1, 8], 8), ([1, -9], -9), ([8, -9], -9)):
        yield lambda v=values: qn.pack(np.array(v, np.int8)), ValueError, f"pack: codes must be in [-8, 7]; got {got}"
    yield lambda: qn.pack(BYTES, "uint2"), ValueError, "pack: codes must be in [0, 3]; got 5"
    for n in (-1, 4, 7, 2**80):
        yield lambda n=n: qn.unpack(BYTES, "int4", n), ValueError, f"unpack: n must be in [5, 6] for 3 bytes; got {n}"
    yield lambda: qn.unpack(BYTES, "uint2", 8), ValueError, "unpack: n must be in [9, 12] for 3 bytes; got 8"
    yield lambda: qn.unpack(BYTES[:, :0], "int4", 1), ValueError, "unpack: n must be in [0, 0] for 0 bytes; got 1"
    for n in (1.5, "5", True):
        yield lambda n=n: qn.unpack(BYTES, "int4", n), TypeError, f"unpack: n must be an integer; got {n!r}"


@refusals(pack_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
