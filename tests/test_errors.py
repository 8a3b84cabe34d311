"""Bad input: the type and the whole message of every error, and the guard below that no argument gets past."""

import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy import _core
from qnumpy.ops.reduce import abs_max

X = np.linspace(-1, 1, 6).astype(np.float32).reshape(2, 3)
Q = np.arange(6, dtype=np.int8).reshape(2, 3)
ACC = np.arange(6, dtype=np.int32).reshape(2, 3)
BYTES = np.arange(6, dtype=np.uint8).reshape(2, 3)
PARAMS = qn.QParams(0.5, 0)

INTEGERS = "int8, uint8, int16, uint16, int4, uint4, int2 or uint2"
CODES = (
    f"{INTEGERS.replace(' or ', ', ')}, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn"
)
NARROW = "int4, uint4, int2 or uint2"
REALS = "float32, float64, float16 or bfloat16"
FLOATS = (
    "float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, "
    "float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn"
)
MASK = "an array without a mask; got a MaskedArray. Use x.filled(...) first"

# What each public function does with its data, its scale, its zero point and its axis; all else is fine.
DATA = {
    "quantize_linear": lambda x: qn.quantize_linear(x, 0.5),
    "dynamic_quantize_linear": qn.dynamic_quantize_linear,
    "fake_quantize": lambda x: qn.fake_quantize(x, PARAMS),
    "min_max": qn.min_max,
    "abs_max": abs_max,
    "cast": lambda x: qn.cast(x, "float16"),
    "quantize": qn.quantize,
    "choose_qparams": qn.choose_qparams,
    "dequantize_linear": lambda q: qn.dequantize_linear(q, 0.5),
    "pack": qn.pack,
    "QuantizedArray": lambda codes: qn.QuantizedArray(codes, PARAMS),
    "requantize": lambda acc: qn.requantize(acc, 0.5),
    "unpack": lambda packed: qn.unpack(packed, "int4"),
}
NAME = {"dequantize_linear": "q", "pack": "codes", "QuantizedArray": "codes", "requantize": "acc", "unpack": "packed"}
KIND = {
    "cast": FLOATS,
    "dequantize_linear": CODES,
    "pack": INTEGERS,
    "QuantizedArray": CODES,
    "requantize": "int32",
    "unpack": "uint8",
}
SCALE = {
    "quantize_linear": lambda s, **k: qn.quantize_linear(X, s, **k),
    "dequantize_linear": lambda s, **k: qn.dequantize_linear(Q, s, **k),
    "requantize": lambda s, **k: qn.requantize(ACC, s, **k),
    "QParams": lambda s, **k: qn.QParams(s, 0, **k),
}
ZERO = {
    "quantize_linear": lambda z, **k: qn.quantize_linear(X, 0.5, z, dtype="int8", **k),
    "dequantize_linear": lambda z, **k: qn.dequantize_linear(Q, 0.5, z, **k),
    "requantize": lambda z, **k: qn.requantize(ACC, 0.5, z, **k),
    "QParams": lambda z: qn.QParams(0.5, z),
}
AXIS = {
    "quantize_linear": lambda axis: qn.quantize_linear(X, 0.5, axis=axis),
    "dequantize_linear": lambda axis: qn.dequantize_linear(Q, 0.5, axis=axis),
    "requantize": lambda axis: qn.requantize(ACC, 0.5, axis=axis),
    "pack": lambda axis: qn.pack(Q, axis=axis),
    "unpack": lambda axis: qn.unpack(BYTES, "int4", axis=axis),
    "PerChannel": qn.PerChannel,
    "PerGroup": lambda axis: qn.PerGroup(2, axis),
}
DTYPE = {
    "quantize_linear": lambda dtype: qn.quantize_linear(X, 0.5, dtype=dtype),
    "requantize": lambda dtype: qn.requantize(ACC, 0.5, dtype=dtype),
    "choose_qparams": lambda dtype: qn.choose_qparams(X, dtype=dtype),
    "pack": lambda dtype: qn.pack(Q, dtype),
    "unpack": lambda dtype: qn.unpack(BYTES, dtype),
    "QParams": lambda dtype: qn.QParams(1, 0, dtype),
    "QParams.from_range": lambda dtype: qn.QParams.from_range(-1, 1, dtype=dtype),
}


def masked(value):
    return np.ma.masked_array(value, mask=np.zeros(np.shape(value), bool))


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def rows():
    """(call, exception, message without the last full stop)"""
    yield from data_rows()
    yield from scale_rows()
    yield from zero_point_rows()
    yield from axis_rows()
    yield from dtype_rows()
    yield from float_code_rows()
    yield from block_rows()
    yield from float_rows()
    yield from name_rows()
    yield from out_rows()
    yield from qparams_rows()
    yield from pack_rows()
    yield from matmul_rows()
    yield from equalize_rows()
    yield from calibrate_rows()


def matmul_rows():
    """The operands, their shapes, their zero points, and a sum that does not fit."""
    me, b = "matmul_integer", Q.T
    integers = "an array of int8, uint8 or int16; got dtype"
    hint = ". Quantize it first, or multiply floats with qnumpy.matmul or np.matmul"
    for dtype in ("float32", "float16"):
        for name, call in (("a", lambda x: qn.matmul_integer(x, b)), ("b", lambda x: qn.matmul_integer(Q, x.T))):
            wrong = X.astype(dtype)
            yield lambda c=call, w=wrong: c(w), TypeError, f"{me}: {name} must be {integers} {dtype}{hint}"
    for dtype in ("int32", "uint16", "bool", "complex64"):
        yield lambda d=dtype: qn.matmul_integer(Q.astype(d), b), TypeError, f"{me}: a must be {integers} {dtype}"
    yield lambda: qn.matmul_integer(masked(Q), b), TypeError, f"{me}: a must be {MASK}"
    scalar = "must be of one dimension or more; got a 0-d array"
    yield lambda: qn.matmul_integer(Q, np.int8(1)), ValueError, f"{me}: b {scalar}"
    inner = f"{me}: b must be of as many rows as a has columns, 3; got shapes (2, 3) and"
    yield lambda: qn.matmul_integer(Q, Q), ValueError, f"{inner} (2, 3)"
    yield lambda: qn.matmul_integer(Q, Q[0, :2]), ValueError, f"{inner} (2,)"
    stacks = np.zeros((2, 2, 3), np.int8), np.zeros((3, 3, 2), np.int8)
    shapes = "must be of a shape that broadcasts with a; got shapes (2, 2, 3) and (3, 3, 2)"
    yield lambda: qn.matmul_integer(*stacks), ValueError, f"{me}: b {shapes}"
    for side, length in (("a", "2"), ("b", "2")):
        name = f"{side}_zero_point"
        last = f"(..., {length}, 1)" if side == "a" else f"(..., 1, {length})"
        for wrong in ((3,), (0,), (2, 2), (5, 2, 1), (2, 3)):
            want = f"{me}: {name} must be of shape () or ({length},) or {last}; got shape {wrong}"
            yield lambda n=name, w=wrong: qn.matmul_integer(Q, b, **{n: np.ones(w, np.int8)}), ValueError, want
        for value in (-129, 128, 2**40):
            want = f"{me}: {name} must be in [-128, 127]; got {value}"
            yield lambda n=name, v=value: qn.matmul_integer(Q, b, **{n: v}), ValueError, want
        want = f"{me}: {name} must be an integer; got dtype float64"
        yield lambda n=name: qn.matmul_integer(Q, b, **{n: 1.0}), TypeError, want
    out = f"{me}: out must be"
    wrong_type = f"{out} of dtype int32; got dtype int64"
    yield lambda: qn.matmul_integer(Q, b, out=np.zeros((2, 2), np.int64)), TypeError, wrong_type
    wrong_shape = f"{out} of shape (2, 2); got shape (2, 3)"
    yield lambda: qn.matmul_integer(Q, b, out=np.zeros((2, 3), np.int32)), ValueError, wrong_shape
    shared = np.zeros(4, np.int32)
    apart = f"{out} apart from the input in memory; got an array that overlaps it"
    yield (
        lambda: qn.matmul_integer(
            shared.view(np.int8).reshape(2, 8), np.ones((8, 2), np.int8), out=shared.reshape(2, 2)
        ),
        ValueError,
        apart,
    )
    long = np.full((1, 131072), -128, np.int8)
    sums = f"{me}: every sum must fit int32; got one outside it. Split K, and add the parts in int64"
    yield lambda: qn.matmul_integer(long, long.T), OverflowError, sums


def data_rows():
    bad = {
        "object": np.ones(2, object),
        "complex128": np.ones(2, complex),
        "<U1": np.array(["a", "b"]),
        "|S1": b"a",
        "datetime64[s]": np.array("2020", "M8[s]"),
        "float8_e3m4": np.ones(2, ml_dtypes.float8_e3m4),
        "[('a', '<f4')]": np.zeros(2, [("a", "<f4")]),
        "int64": np.ones(2, np.int64),
        "bool": np.ones(2, bool),
    }
    for owner, call in DATA.items():
        name, kind = NAME.get(owner, "x"), KIND.get(owner, REALS)
        for dtype, value in bad.items():
            if dtype in kind:
                continue
            yield (
                lambda c=call, v=value: c(v),
                TypeError,
                f"{owner}: {name} must be an array of {kind}; got dtype {dtype}",
            )
        yield lambda c=call: c(None), TypeError, f"{owner}: {name} must be an array of {kind}; got dtype object"
        ragged = f"{owner}: {name} must be an array, or rows of one length; got [[1.0, 2.0], [3.0]]"
        yield lambda c=call: c([[1.0, 2.0], [3.0]]), ValueError, ragged
        for held, kind_of in ((qn.quantize(X), "a QuantizedArray"), (qn.quantize(X, dtype="mxfp4"), "an MXArray")):
            plain = f"{owner}: {name} must be a plain array; got {kind_of}. Use q.dequantize() first"
            yield lambda c=call, v=held: c(v), TypeError, plain
        hidden = masked({"requantize": ACC, "unpack": BYTES}.get(owner, Q if kind in (CODES, INTEGERS) else X))
        yield lambda c=call, v=hidden: c(v), TypeError, f"{owner}: {name} must be {MASK}"
    yield (
        lambda: qn.dequantize_linear(masked(ACC), 0.5),
        TypeError,
        f"dequantize_linear: q must be {MASK}",
    )
    for value, got in ((None, "None"), (X, "an array of float32 with shape (2, 3)"), ("q" * 99, f"'{'q' * 56}...")):
        yield (
            lambda v=value: qn.dequantize(v),
            TypeError,
            f"dequantize: q must be a QuantizedArray or MXArray; got {got}",
        )
    hot = np.array([[np.nan, np.inf], [1.0, 2.0]])
    only = "x must be finite somewhere; got only NaN and infinities"
    yield lambda: qn.quantize(hot[0]), qn.CalibrationError, f"quantize: {only}"
    where = f"choose_qparams: {only} in 1 of 2 channels or groups"
    yield lambda: qn.choose_qparams(hot, granularity=qn.PerChannel(0)), qn.CalibrationError, where
    raising = 'must be without NaN when on_nan is "raise"; got 1 of 4 NaN'
    yield lambda: qn.quantize_linear(hot, 1.0, on_nan="raise"), ValueError, f"quantize_linear: x {raising}"
    wide = "dynamic_quantize_linear: x must be of a range that float32 holds; got -3e+38 to 3e+38"
    yield lambda: qn.dynamic_quantize_linear(np.array([3e38, -3e38], np.float32)), ValueError, wide


def scale_rows():
    numbers = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e-39, 1e39]
    kinds = {
        "bool": True,
        "complex128": 1 + 2j,
        "<U3": "0.5",
        "object": None,
        "datetime64[s]": np.array("2020", "M8[s]"),
    }
    for owner, call in SCALE.items():
        name = "multiplier" if owner == "requantize" else "scale"
        fine = f"{owner}: {name} must be positive, finite and normal in float32; got"
        for value in numbers:
            yield lambda c=call, v=value: c(v), ValueError, f"{fine} {value}"
        for dtype, value in kinds.items():
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be real; got dtype {dtype}"
        yield lambda c=call: c(masked(0.5)), TypeError, f"{owner}: {name} must be {MASK}"
        if owner == "QParams":
            continue
        shape = f"{owner}: {name} must be of shape () when axis is None; got shape"
        yield lambda c=call: c(np.ones(3)), ValueError, f"{shape} (3,)"
        yield lambda c=call: c(np.ones((1, 0))), ValueError, f"{shape} (1, 0)"
        shape = f"{owner}: {name} must be of shape () or (3,); got shape"
        for wrong in ((2,), (1,), (1, 3), (0,)):
            yield lambda c=call, w=wrong: c(np.ones(w), axis=1), ValueError, f"{shape} {wrong}"
        yield lambda c=call: c([1, 0, 1], axis=1), ValueError, f"{fine} 0 at index 1"
        if owner != "requantize":
            shape = f"{owner}: {name} must be of shape () or (2, 2); got shape (2, 3)"
            yield lambda c=call: c(np.ones((2, 3)), axis=1, block_size=2), ValueError, shape
    fine = "QParams: scale must be positive, finite and normal in float32; got"
    yield lambda: qn.QParams([1, 0], 0, "int8", qn.PerChannel(0)), ValueError, f"{fine} 0 at index 1"
    yield lambda: qn.QParams([[1, 1], [1, -2]], 0, "int8", qn.PerGroup(2)), ValueError, f"{fine} -2 at index (1, 1)"


def zero_point_rows():
    big = [-129, 128, 2**31, -(2**40), 2**64 - 1, np.uint64(2**63), -(2**70)]
    kinds = {"float64": 1.0, "float32": np.float32(1), "<U1": "1", "bool": True, "complex128": 1j, "object": object()}
    for owner, call in ZERO.items():
        fine = f"{owner}: zero_point must be in [-128, 127]; got"
        for value in big:
            yield lambda c=call, v=value: c(v), ValueError, f"{fine} {value}"
        for dtype, value in kinds.items():
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: zero_point must be an integer; got dtype {dtype}"
        yield lambda c=call: c(masked(1)), TypeError, f"{owner}: zero_point must be {MASK}"
        if owner != "QParams":
            yield lambda c=call: c([0, 128, 0], axis=1), ValueError, f"{fine} 128"
            shape = f"{owner}: zero_point must be of shape () or (3,); got shape (2,)"
            yield lambda c=call: c([1, 2], axis=1), ValueError, shape
            shape = f"{owner}: zero_point must be of shape () when axis is None; got shape (2,)"
            yield lambda c=call: c([1, 2]), ValueError, shape
    for code, low, high in (("uint8", 0, 255), ("int4", -8, 7), ("uint2", 0, 3), ("uint16", 0, 65535)):
        for value in (low - 1, high + 1):
            fine = f"quantize_linear: zero_point must be in [{low}, {high}]; got {value}"
            yield lambda v=value, c=code: qn.quantize_linear(X, 1.0, v, dtype=c), ValueError, fine


def axis_rows():
    for owner, call in AXIS.items():
        for value in (1.0, "0", True, (0,), np.float32(1)):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: axis must be an integer; got {value!r}"
        if owner in ("PerChannel", "PerGroup"):
            continue
        for value in (2, -3, 2**80):
            yield lambda c=call, v=value: c(v), ValueError, f"{owner}: axis must be in [-2, 1]; got {value}"
    for value in (2, -3):
        fine = f"axis must be in [-2, 1]; got {value}"
        for granularity in (qn.PerChannel(value), qn.PerGroup(2, value)):
            yield lambda g=granularity: qn.min_max(X, g), ValueError, f"min_max: {fine}"
            yield lambda g=granularity: abs_max(X, g), ValueError, f"abs_max: {fine}"
            yield lambda g=granularity: qn.choose_qparams(X, granularity=g), ValueError, f"choose_qparams: {fine}"
    none = "axis must be left out for a 0-d array; got 0"
    yield lambda: qn.quantize_linear(1.0, 0.5, axis=0), ValueError, f"quantize_linear: {none}"
    yield lambda: qn.min_max(1.0, qn.PerChannel(0)), ValueError, f"min_max: {none}"
    lonely = "axis must be given with block_size; got None"
    yield lambda: qn.quantize_linear(X, 0.5, block_size=2), ValueError, f"quantize_linear: {lonely}"
    yield lambda: qn.dequantize_linear(Q, 0.5, block_size=2), ValueError, f"dequantize_linear: {lonely}"
    sized = {
        "quantize_linear: block_size": lambda n: qn.quantize_linear(X, 0.5, axis=1, block_size=n),
        "dequantize_linear: block_size": lambda n: qn.dequantize_linear(Q, 0.5, axis=1, block_size=n),
        "PerGroup: group_size": qn.PerGroup,
    }
    for start, call in sized.items():
        for value in (0, -1, -(2**80)):
            yield lambda c=call, v=value: c(v), ValueError, f"{start} must be at least 1; got {value}"
        for value in (1.5, 2.0, "2", True, np.float64(2)):
            yield lambda c=call, v=value: c(v), TypeError, f"{start} must be an integer; got {value!r}"


def dtype_rows():
    for owner, call in DTYPE.items():
        wanted = "a code type such as 'int8' or 'uint4'" if owner.startswith("QParams") else CODES
        wanted = INTEGERS if owner in ("requantize", "pack", "unpack") else wanted
        for value in ("int3", "float32", np.int32, 3, [], "", bool):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: dtype must be {wanted}; got {value!r}"
        if owner in ("pack", "unpack"):
            yield lambda c=call: c("int8"), TypeError, f"{owner}: dtype must be {NARROW}; got 'int8'"
    for value in ("int8", np.int32, 3, "", None, "float8_e4m3fn"):
        fine = f"dtype must be {REALS}; got {value!r}"
        yield lambda v=value: qn.dequantize_linear(Q, 0.5, dtype=v), TypeError, f"dequantize_linear: {fine}"
        yield lambda v=value: qn.quantize(X).dequantize(v), TypeError, f"QuantizedArray.dequantize: {fine}"
        yield lambda v=value: qn.dequantize(qn.quantize(X), dtype=v), TypeError, f"dequantize: {fine}"
    for value in ("int8", np.int32, 3, "", None, "float8_e3m4", "float128"):
        fine = f"cast: dtype must be {FLOATS}; got {value!r}"
        yield lambda v=value: qn.cast(X, v), TypeError, fine


def float_code_rows():
    """Codes that are floats: one convention, no zero point, no range of their own."""
    fine = "convention must be \"onnx\" for float8_e5m2; got 'torch'"
    e5m2 = qn.QParams(0.5, 0, "float8_e5m2")
    yield (
        lambda: qn.quantize_linear(X, 1.0, dtype="float8_e5m2", convention="torch"),
        ValueError,
        f"quantize_linear: {fine}",
    )
    yield lambda: qn.fake_quantize(X, e5m2, convention="torch"), ValueError, f"fake_quantize: {fine}"
    none = "zero_point must be in [0, 0]; got 1"
    yield lambda: qn.quantize_linear(X, 1.0, 1, dtype="float8_e4m3fn"), ValueError, f"quantize_linear: {none}"
    yield lambda: qn.dequantize_linear(qn.quantize(X, e5m2).codes, 1.0, 1), ValueError, f"dequantize_linear: {none}"
    yield lambda: qn.QParams(1, 1, "float8_e4m3fn"), ValueError, f"QParams: {none}"
    out = "QParams: qmin and qmax must be left out for float8_e4m3fn; got -7 and None"
    yield lambda: qn.QParams(1, 0, "float8_e4m3fn", qmin=-7), ValueError, out
    symmetric = "quantize: symmetric must be True for float8_e5m2, which has no zero point; got False"
    yield lambda: qn.quantize(X, dtype="float8_e5m2", symmetric=False), ValueError, symmetric


def block_rows():
    """MXArray and the formats of quantize."""
    q = qn.quantize(np.ones((2, 64), np.float32), dtype="mxfp4")
    names = "mxfp8_e4m3, mxfp8_e5m2, mxfp6_e2m3, mxfp6_e3m2, mxfp4 or nvfp4"
    for value in ("mxfp5", None, 4, ["mxfp4"]):
        fine = f"MXArray: format must be {names}; got {value!r}"
        yield lambda v=value: qn.MXArray(q.codes, q.scales, v), ValueError, fine
    fine = "MXArray: codes must be an array of float4_e2m1fn; got dtype int8"
    yield lambda: qn.MXArray(Q, q.scales, "mxfp4"), TypeError, fine
    fine = "MXArray: scales must be an array of float8_e8m0fnu; got dtype float32"
    yield lambda: qn.MXArray(q.codes, q.scale, "mxfp4"), TypeError, fine
    yield (
        lambda: qn.MXArray(q.codes[0, 0], q.scales, "mxfp4"),
        ValueError,
        "MXArray: codes must be at least 1-D; got a 0-d array",
    )
    fine = "MXArray: scales must be of shape (2, 2); got shape (2,)"
    yield lambda: qn.MXArray(q.codes, q.scales[0], "mxfp4"), ValueError, fine
    fine = "MXArray: tensor_scale must be left out for mxfp4; got 1.0"
    yield lambda: qn.MXArray(q.codes, q.scales, "mxfp4", 1.0), ValueError, fine
    nv = qn.quantize(np.ones(32, np.float32), dtype="nvfp4")
    fine = "MXArray: tensor_scale must be given for nvfp4; got None"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4"), ValueError, fine
    fine = "MXArray: tensor_scale must be positive, finite and normal in float32; got 0"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4", 0), ValueError, fine
    fine = "MXArray: tensor_scale must be one number; got shape (2,)"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4", [1, 1]), ValueError, fine
    whole = "MXArray: index must be whole blocks of 32 on the last axis; got"
    for key in (3, slice(1, 33), slice(0, 31), slice(None, None, 2)):
        yield lambda k=key: q[:, k], ValueError, f"{whole} {key!r}"
    yield lambda: q[[0, 1]], TypeError, "MXArray: index must be of integers, slices and ...; got [0, 1]"
    yield lambda: q.dequantize("int8"), TypeError, f"MXArray.dequantize: dtype must be {REALS}; got 'int8'"
    yield (
        lambda: np.asarray(q, copy=False),
        ValueError,
        "MXArray: copy must be None or True; got False. Dequantizing always copies",
    )
    yield (
        lambda: qn.quantize(1.0, dtype="mxfp4"),
        ValueError,
        "quantize: x must be at least 1-D for mxfp4; got a 0-d array",
    )
    yield lambda: qn.quantize(Q, dtype="nvfp4"), TypeError, f"quantize: x must be an array of {REALS}; got dtype int8"
    for given in ({"granularity": qn.PerTensor()}, {"symmetric": False}):
        got = {"granularity": None, "symmetric": True} | given
        got = f"granularity={got['granularity']}, symmetric={got['symmetric']}, method='minmax'"
        fine = f"quantize: granularity, symmetric and method must be left at their defaults for mxfp4; got {got}"
        yield lambda g=given: qn.quantize(X, dtype="mxfp4", **g), ValueError, fine
    fine = "quantize: x must be of a range that float32 holds; got 1e+300"
    yield lambda: qn.quantize(np.array([1e300]), dtype="nvfp4"), ValueError, fine


def float_rows():
    """bits, float_report, accumulator, accumulate_dot."""
    for value, got in ((["a"], "dtype <U1"), (1j, "dtype complex128"), (True, "dtype bool")):
        yield lambda v=value: qn.bits(v), TypeError, f"bits: x must be of floats or integers; got {got}"
    big = "bits: x must be of floats or integers; got integers beyond 64 bits or other objects"
    yield lambda: qn.bits(2**70), TypeError, big
    yield lambda: qn.bits(None), TypeError, big
    narrow = (
        "float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn"
    )
    for value in ("float64", "int8", "float8_e8m0fnu", None, 3):
        fine = f"float_report: dtype must be float32, float16, bfloat16, {narrow}; got {value!r}"
        yield lambda v=value: qn.float_report(X, v), TypeError, fine
    yield lambda: qn.float_report(X, name=3), TypeError, "float_report: name must be a string; got 3"
    fine = "FloatReportTable: reports must be FloatReport objects; got 3"
    yield lambda: qn.reports.FloatReportTable([3]), TypeError, fine
    for value in ("float32", "uint8", None, "float8_e5m2", 3):
        fine = f"accumulator: dtype must be float16, bfloat16, int16 or int8; got {value!r}"
        yield lambda v=value: qn.accumulator(v), TypeError, fine
    summed = "float16, bfloat16 or float32"
    yield lambda: qn.accumulate_dot(Q, X), TypeError, f"accumulate_dot: a must be an array of {summed}; got dtype int8"
    yield (
        lambda: qn.accumulate_dot(X, [1.0] * 3),
        TypeError,
        f"accumulate_dot: b must be an array of {summed}; got dtype float64",
    )
    for value in ("int32", "float64", 3):
        fine = f"accumulate_dot: accumulate must be {summed}; got {value!r}"
        yield lambda v=value: qn.accumulate_dot(X, X[0], v), TypeError, fine
    fine = "accumulate_dot: a must be at least 1-D; got a 0-d array"
    yield lambda: qn.accumulate_dot(np.float32(1), X), ValueError, fine
    for b in (X, X[0, :2], X[:, :, None], X[0, 0]):
        fine = f"accumulate_dot: b must be of shape (3,) or (3, N); got shape {b.shape}"
        yield lambda b=b: qn.accumulate_dot(X, b), ValueError, fine


def name_rows():
    conventions, methods = "'onnx', 'guide', 'torch', 'tflite'", "'float', 'fixed', 'fixed_double'"
    calls = {
        ("quantize_linear", "convention", conventions): lambda v: qn.quantize_linear(X, 0.5, convention=v),
        ("fake_quantize", "convention", conventions): lambda v: qn.fake_quantize(X, PARAMS, convention=v),
        ("quantize_linear", "on_nan", "'zero_point', 'raise'"): lambda v: qn.quantize_linear(X, 0.5, on_nan=v),
        ("cast", "overflow", "'inf', 'saturate', 'raise'"): lambda v: qn.cast(X, "float16", overflow=v),
        ("cast", "rounding", "'nearest', 'stochastic'"): lambda v: qn.cast(X, "float16", rounding=v),
        ("requantize", "method", methods): lambda v: qn.requantize(ACC, 0.5, method=v),
        ("choose_qparams", "method", "'minmax', 'mse', 'entropy', 'percentile'"): lambda v: qn.choose_qparams(
            X, method=v
        ),
        ("min_max", "on_nonfinite", "'ignore', 'raise'"): lambda v: qn.min_max(X, on_nonfinite=v),
        ("abs_max", "on_nonfinite", "'ignore', 'raise'"): lambda v: abs_max(X, on_nonfinite=v),
    }
    for (owner, name, names), call in calls.items():
        for value in ("ONNX", "", None, 0, ["onnx"]):
            yield lambda c=call, v=value: c(v), ValueError, f"{owner}: {name} must be one of {names}; got {value!r}"
    yield from seed_rows()
    granular = {
        "min_max": lambda g: qn.min_max(X, g),
        "abs_max": lambda g: abs_max(X, g),
        "choose_qparams": lambda g: qn.choose_qparams(X, granularity=g),
        "QParams": lambda g: qn.QParams(1, 0, "int8", g),
    }
    for owner, call in granular.items():
        for value in ("tensor", 0, qn.PerTensor):
            wanted = "PerTensor(), PerChannel(axis), PerGroup(group_size) or PerRow()"
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: granularity must be {wanted}; got {value!r}"


def seed_rows():
    def cast(seed, rounding="stochastic"):
        return qn.cast(X, "float16", rounding=rounding, seed=seed)

    yield lambda: cast(None), ValueError, 'cast: seed must be given when rounding is "stochastic"; got None'
    yield lambda: cast(3, "nearest"), ValueError, 'cast: seed must be None unless rounding is "stochastic"; got 3'
    for value in (1.0, "1", True, [1]):
        yield lambda v=value: cast(v), TypeError, f"cast: seed must be an integer; got {value!r}"
    for value in (-1, 2**64):
        yield lambda v=value: cast(v), ValueError, f"cast: seed must be in [0, 2**64 - 1]; got {value}"


def out_rows():
    raw = np.zeros(4 * 64, np.uint8)
    calls = {
        "quantize_linear": (lambda out: qn.quantize_linear(X, 0.5, dtype="int8", out=out), np.int8),
        "dequantize_linear": (lambda out: qn.dequantize_linear(Q, 0.5, out=out), np.float32),
        "fake_quantize": (lambda out: qn.fake_quantize(X, PARAMS, out=out), np.float32),
        "requantize": (lambda out: qn.requantize(ACC, 0.5, out=out), np.int8),
        "cast": (lambda out: qn.cast(X, "float16", out=out), np.float16),
    }
    for owner, (call, dtype) in calls.items():
        good, start = np.zeros((2, 3), dtype), f"{owner}: out must be"
        name, size = good.dtype.name, good.itemsize
        for value in ("out", [0], good.tolist()):
            yield lambda c=call, v=value: c(v), TypeError, f"{start} an array; got {value!r}"
        for other in (np.uint8, np.int16, np.float64, object):
            got = np.dtype(other)
            yield lambda c=call, g=got: c(np.zeros((2, 3), g)), TypeError, f"{start} of dtype {name}; got dtype {got}"
        for shape in ((3, 2), (6,), (1, 2, 3), (0,)):
            wrong = np.zeros(shape, dtype)
            yield lambda c=call, w=wrong: c(w), ValueError, f"{start} of shape (2, 3); got shape {shape}"
        for wrong in (np.zeros((2, 6), dtype)[:, ::2], np.zeros((3, 2), dtype).T, good[:, ::-1]):
            contiguous = f"{start} C-contiguous and aligned; got strides {wrong.strides}"
            yield lambda c=call, w=wrong: c(w), ValueError, contiguous
        frozen = read_only(good)
        yield lambda c=call, w=frozen: c(w), ValueError, f"{start} writable; got a read-only array"
        if size > 1:
            swapped = np.zeros((2, 3), good.dtype.newbyteorder(">"))
            yield lambda c=call, s=swapped: c(s), TypeError, f"{start} of dtype {name}; got dtype {swapped.dtype}"
            crooked = raw[1 : 1 + 6 * size].view(dtype).reshape(2, 3)
            aligned = f"{start} C-contiguous and aligned; got strides {crooked.strides}"
            yield lambda c=call, w=crooked: c(w), ValueError, aligned
    apart = "out must be apart from the input in memory; got an array that overlaps it"
    x = raw[:32].view(np.float32)
    yield lambda: qn.fake_quantize(x, PARAMS, out=x), ValueError, f"fake_quantize: {apart}"
    yield lambda: qn.fake_quantize(x[::-1], PARAMS, out=x), ValueError, f"fake_quantize: {apart}"
    codes = raw[28:36].view(np.int8)
    yield lambda: qn.quantize_linear(x, 0.5, dtype="int8", out=codes), ValueError, f"quantize_linear: {apart}"
    yield lambda: qn.dequantize_linear(codes, 0.5, out=x), ValueError, f"dequantize_linear: {apart}"
    acc = raw[:32].view(np.int32)
    yield lambda: qn.requantize(acc, 0.5, out=codes), ValueError, f"requantize: {apart}"
    # A parameter that is overwritten while it is in use gives wrong codes just as silently.
    scale, zero = raw[64:72].view(np.float32), raw[72:80].view(np.int32)
    scale[:], zero[:] = 0.5, 1
    over = raw[64:80].view(np.int8).reshape(2, 8)
    rows = np.ones((2, 8), np.float32)
    one = np.ones(2, np.float32)
    yield (
        lambda: qn.quantize_linear(rows, scale, dtype="int8", axis=0, out=over),
        ValueError,
        f"quantize_linear: {apart}",
    )
    yield (
        lambda: qn.quantize_linear(rows, one, zero, dtype="int8", axis=0, out=over),
        ValueError,
        f"quantize_linear: {apart}",
    )
    yield lambda: qn.requantize(rows.astype(np.int32), scale, axis=0, out=over), ValueError, f"requantize: {apart}"


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
    given = f"{start} granularity must be given for arrays of ranges; got None"
    yield lambda: ranged([1.0], [2.0]), ValueError, given
    wide = f"{start} the range must have a finite float32 scale; got"
    for symmetric, scale in ((True, "7.87402e+305"), (False, "7.84314e+305")):
        yield lambda s=symmetric: ranged(-1e308, 1e308, symmetric=s), ValueError, f"{wide} {scale}"
    for dtype, value in {"<U1": "1", "complex128": 1 + 2j, "object": object()}.items():
        yield lambda v=value: ranged(v, 1), TypeError, f"{start} min must be real; got dtype {dtype}"
        yield lambda v=value: ranged(-1, v), TypeError, f"{start} max must be real; got dtype {dtype}"
    wrong = "QuantizedArray: codes must be an array of int8; got dtype uint8"
    yield lambda: qn.QuantizedArray(BYTES, PARAMS), TypeError, wrong
    narrow = make(1, 0, qmin=-127, qmax=100)
    outside = "QuantizedArray: codes must be in [-127, 100]; got"
    yield lambda: qn.QuantizedArray(np.array([-128, 101], np.int8), narrow), ValueError, f"{outside} -128"
    yield lambda: qn.QuantizedArray(np.array([0, 101], np.int8), narrow), ValueError, f"{outside} 101"


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


def equalize_rows():
    w1, w2, bias, real = X.astype(np.float64), np.ones((3, 4)), np.ones(3), f"must be an array of {REALS}; got dtype"
    cross, correct, smooth, search = (
        qn.weights.cross_layer_equalize,
        qn.weights.correct_bias,
        qn.weights.smoothquant,
        qn.weights.smoothquant_alpha,
    )
    rows, q = np.ones((5, 2)), qn.quantize(w1)
    for owner, name, call in (
        ("cross_layer_equalize", "w1", lambda a: cross(a, w2)),
        ("cross_layer_equalize", "w2", lambda a: cross(w1, a)),
        ("cross_layer_equalize", "bias", lambda a: cross(w1, w2, a)),
        ("correct_bias", "x", lambda a: correct(a, w1, q)),
        ("correct_bias", "w", lambda a: correct(rows, a, q)),
        ("correct_bias", "q", lambda a: correct(rows, w1, a)),
        ("correct_bias", "bias", lambda a: correct(rows, w1, q, a)),
        ("correct_bias", "xq", lambda a: correct(rows, w1, q, xq=a)),
        ("smoothquant", "x", lambda a: smooth(a, w1)),
        ("smoothquant", "w", lambda a: smooth(rows, a)),
        ("smoothquant_alpha", "x", lambda a: search(a, w1)),
        ("smoothquant_alpha", "w", lambda a: search(rows, a)),
    ):
        for dtype, value in (("int64", np.ones((2, 3), np.int64)), ("object", np.ones((2, 3), object))):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} {real} {dtype}"
    for axis in (2, -3):
        where = f"must be in [-2, 1]; got {axis}"
        yield lambda a=axis: cross(w1, w2, axis1=a), ValueError, f"cross_layer_equalize: axis1 {where}"
        yield lambda a=axis: cross(w1, w2, axis2=a), ValueError, f"cross_layer_equalize: axis2 {where}"
        yield lambda a=axis: correct(rows, w1, q, axis=a), ValueError, f"correct_bias: axis {where}"
        yield lambda a=axis: smooth(rows, w1, axis=a), ValueError, f"smoothquant: axis {where}"
    yield lambda: cross(w1, w2, axis1=0.0), TypeError, "cross_layer_equalize: axis1 must be an integer; got 0.0"
    yield (
        lambda: cross(w1, w2, axis2=1),
        ValueError,
        "cross_layer_equalize: w2 must be of 3 channels on axis 1, as w1 has on axis 1; got shape (3, 4)",
    )
    wrong = "cross_layer_equalize: bias must be of shape (3,); got shape (4,)"
    yield lambda: cross(w1, w2, np.ones(4)), ValueError, wrong
    yield lambda: correct(rows, w1, q, bias[:2]), ValueError, "correct_bias: bias must be of shape (3,); got shape (2,)"
    yield lambda: correct(rows, bias, bias), ValueError, "correct_bias: w must be a matrix; got shape (3,)"
    wrong = "correct_bias: q must be of the shape (2, 3) of w; got shape (3, 4)"
    yield lambda: correct(rows, w1, w2), ValueError, wrong
    for shape in ((), (3,), (2, 3)):
        wrong = f"must be of shape (..., 2), as w has inputs; got shape {shape}"
        x = np.ones(shape)
        yield lambda v=x: correct(v, w1, q), ValueError, f"correct_bias: x {wrong}"
        yield lambda v=x: correct(rows, w1, q, xq=v), ValueError, f"correct_bias: xq {wrong}"
        yield lambda v=x: smooth(v, w1), ValueError, f"smoothquant: x {wrong}"
        yield lambda v=x: search(v, w1), ValueError, f"smoothquant_alpha: x {wrong}"
    hot = np.array([[1.0, np.nan], [1.0, 2.0]])
    yield lambda: correct(hot, w1, q), ValueError, "correct_bias: x must be finite; got NaN or infinities"
    for value in (-0.1, 1.5, np.nan, "1", None):
        yield (
            lambda v=value: smooth(rows, w1, alpha=v),
            ValueError,
            f"smoothquant: alpha must be in [0, 1]; got {value!r}",
        )
    wrong = "smoothquant_alpha: alphas must be in [0, 1]; got 2.0"
    yield lambda: search(rows, w1, [0.5, 2.0]), ValueError, wrong
    for value, shape in (([], (0,)), ([[0.5]], (1, 1))):
        wrong = f"smoothquant_alpha: alphas must be a sequence of one number or more; got shape {shape}"
        yield lambda v=value: search(rows, w1, v), ValueError, wrong
    wrong = "quantize: x must be finite somewhere; got only NaN and infinities in 1 of 2 channels or groups"
    hot = np.array([[np.nan, np.nan], [1.0, 2.0]])
    yield lambda: qn.quantize(hot, granularity=qn.PerRow()), qn.CalibrationError, wrong
    for owner, call in (("quantize", qn.quantize), ("choose_qparams", qn.choose_qparams)):
        wrong = f"{owner}: granularity must be PerTensor() for a 0-d array; got PerRow()"
        yield lambda c=call: c(1.0, granularity=qn.PerRow()), ValueError, wrong
        wide = f"{owner}: the range must have a finite float32 scale; got 1.5748e+298"
        yield lambda c=call: c(np.array([2e300, -1.0])), ValueError, wide


def calibrate_rows():
    def run(x):
        return {"x": x}

    calibrate, wanted = qn.calibrate, "an observer, a mapping from names to observers, or a function of a name"
    for value in (3, "minmax", qn.MinMaxObserver, {"x": "minmax"}, [qn.MinMaxObserver()]):
        got = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        for owner, call in (
            ("Calibration", qn.Calibration),
            ("calibrate", lambda v: calibrate(run, [X], v)),
            ("observing", lambda v: qn.observing(v).__enter__()),
        ):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: observers must be {wanted}; got {got}"
    returned = "Calibration: observers must be a function that returns an observer or None; got 3"
    yield lambda: calibrate(run, [X], lambda name: 3), TypeError, returned
    yield lambda: calibrate({}, [X]), TypeError, "calibrate: run must be callable; got {}"
    yield lambda: calibrate(run, 3), TypeError, "calibrate: batches must be iterable; got 3"
    for value in (0, -1):
        wrong = f"calibrate: patience must be at least 1; got {value}"
        yield lambda v=value: calibrate(run, [X], patience=v), ValueError, wrong
    wrong = "calibrate: patience must be an integer; got 1.5"
    yield lambda: calibrate(run, [X], patience=1.5), TypeError, wrong
    for value in (-0.1, np.nan, "1", None):
        wrong = f"calibrate: tolerance must be a number of at least 0; got {value!r}"
        yield lambda v=value: calibrate(run, [X], tolerance=v), ValueError, wrong
    for batches in ([], iter(())):
        wrong = "calibrate: batches must be one or more; got none"
        yield lambda b=batches: calibrate(run, b), qn.CalibrationError, wrong
    nothing = "calibrate: run must be a function that taps arrays which observers take, or returns them in a dict"
    for silent, observers in ((np.sum, None), (run, {"y*": qn.MinMaxObserver()}), (run, lambda name: None)):
        wrong = f"{nothing}; got no such array"
        yield lambda r=silent, o=observers: calibrate(r, [X, X], o), qn.CalibrationError, wrong
    observers = {"x": qn.MinMaxObserver(), "z": qn.MinMaxObserver(), "w*": qn.MinMaxObserver(), "v": None}
    wrong = "calibrate: observers must be named as the arrays are; got 'z', which never came"
    yield lambda: calibrate(run, [X], observers), qn.CalibrationError, wrong
    for value in (3, None, ("x",)):
        wrong = f"Calibration.observe: name must be a string; got {value!r}"
        yield lambda v=value: calibrate(lambda x: {v: x}, [X]), TypeError, wrong
    wrong = "Calibration.merge: other must be a Calibration; got {}"
    yield lambda: qn.Calibration().merge({}), TypeError, wrong
    wrong = "save: arrays must be a mapping of names to QParams for a .json file"
    for value in (3, [PARAMS]):
        yield lambda v=value: qn.save("never.json", v), TypeError, f"{wrong}; got {value!r}"
    for value, got in (({"x": 0.5}, "'x': 0.5"), ({3: PARAMS}, f"3: {PARAMS}"), ({"x": None}, "'x': None")):
        yield lambda v=value: qn.save("never.json", v), TypeError, f"{wrong}; got {got}"
    keys = "QParams.from_dict: values must be a dict with the keys dtype, granularity, scale, zero_point, qmin, qmax"
    yield lambda: qn.QParams.from_dict([]), TypeError, f"{keys}; got []"
    yield lambda: qn.QParams.from_dict({"scale": 1}), TypeError, f"{keys}; got ['scale']"


ROWS = list(rows())


@pytest.mark.parametrize(
    ("call", "exception", "message"), ROWS, ids=[f"{k}-{row[2][:60]}" for k, row in enumerate(ROWS)]
)
def test_message(call, exception, message):
    before = [array.copy() for array in (X, Q, ACC, BYTES)]
    with pytest.raises(exception) as caught:
        call()
    assert str(caught.value) == f"{message}."
    assert type(caught.value) is exception
    for array, copy in zip((X, Q, ACC, BYTES), before, strict=True):
        assert np.array_equal(array, copy)


def test_an_error_leaves_out_untouched():
    out = np.full((2, 3), 77, np.int8)
    hot = np.where(X > 0.5, np.nan, X)
    for call in (
        lambda: qn.quantize_linear(X, 0.0, dtype="int8", out=out),
        lambda: qn.quantize_linear(X, 1.0, 200, dtype="int8", out=out),
        lambda: qn.quantize_linear(hot, 1.0, dtype="int8", on_nan="raise", out=out),
        lambda: qn.requantize(ACC, 1e20, method="fixed", out=out),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - the messages are above
            call()
        assert (out == 77).all()


# ---- the guard ----
# Private functions, with what the Python above them never passes: every wrong argument must raise, none may crash.

T = _core.TYPES
HUGE = [2**62, 2**63 - 1, -(2**63)]
NO_INTEGERS = [None, "1", 1.5, 2**70, -(2**70), [1]]
NO_ARRAYS = [None, 1, "x", [1.0], b"abc", object()]


def crooked(array):
    """The same elements at an address that is no multiple of their size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def wrong_vectors(dtype, length):
    good = np.ones(length, dtype)
    other = np.float64 if dtype == np.float32 else np.int64
    shaped = [good[:-1], np.ones(length + 1, dtype), np.ones(2 * length, dtype)[::2], np.ones(0, dtype)]
    return [
        *NO_ARRAYS,
        *shaped,
        good.astype(other),
        good.astype(object),
        good.astype(good.dtype.newbyteorder()),
        crooked(good),
    ]


def wrong_sources(dtype, length):
    good = np.ones(length, dtype)
    return [
        *NO_ARRAYS,
        good[:-1],
        np.ones(length + 1, dtype),
        good.astype(object),
        good.astype(complex),
        np.array(["ab"] * length),
    ]


def wrong_outputs(dtype, length):
    good = np.ones(length, dtype)
    wider = np.dtype(f"V{2 * good.itemsize}")
    every = [*NO_ARRAYS, good[:-1], np.ones(length + 1, dtype), np.ones(2 * length, dtype)[::2], read_only(good)]
    every += [np.zeros(length, wider), good[::-1]]
    return every if good.itemsize == 1 else [*every, crooked(good), good.astype(good.dtype.newbyteorder())]


GRID = [2, 3, 4, 0]
WRONG_GRID = [[*NO_INTEGERS, *HUGE, -1, 0, 5]] * 3 + [[*NO_INTEGERS, -1, -(2**63)]]
WRONG_TYPE = [*NO_INTEGERS, -1, len(T), 2**32]


def guarded():
    """name, good arguments, wrong values for each"""
    real, codes, acc = np.ones(24, np.float32), np.ones(24, np.int8), np.ones(24, np.int32)
    scale, zero = np.ones(3, np.float32), np.zeros(3, np.int32)
    params = [scale, zero], [wrong_vectors(np.float32, 3), wrong_vectors(np.int32, 3)]
    ends = [[*NO_INTEGERS, *HUGE, 128, 2**31], [*NO_INTEGERS, *HUGE, -129, 65536]]

    def kernel(x, x_type, out, out_type, tail, wrong_tail):
        good = [x, T[x_type], *params[0], out, T[out_type], *GRID, *tail]
        wrong = [
            wrong_sources(x.dtype, 24), [*WRONG_TYPE, T["float64"], T["float16"]], *params[1],
            wrong_outputs(out.dtype, 24), [*WRONG_TYPE, T["float64"], T["float16"]], *WRONG_GRID, *wrong_tail,
        ]  # fmt: skip
        return good, wrong

    convention = [*NO_INTEGERS, -1, 4]
    yield "quantize", *kernel(real, "float32", codes.copy(), "int8", [-128, 127, 0], [*ends, convention])
    yield "fake_quantize", *kernel(real, "float32", real.copy(), "float32", [-128, 127, 0], [*ends, convention])
    yield "dequantize", *kernel(codes, "int8", real.copy(), "float32", [], [])
    each = [np.full(3, 2**30, np.int32), np.full(3, 30, np.int32)]
    tail, wrong_tail = [-128, 127, 1, *each], [*ends, [*NO_INTEGERS, -1, 3], *[wrong_vectors(np.int32, 3)] * 2]
    yield "requantize", *kernel(acc, "int32", codes.copy(), "int8", tail, wrong_tail)
    yield "min_max", [real, T["float32"], *GRID], [wrong_sources(np.float32, 24), WRONG_TYPE, *WRONG_GRID]
    flag, seed, floats = [*NO_INTEGERS, -1, 2], [*NO_INTEGERS, -1, 2**64], [*WRONG_TYPE, T["float64"], T["int8"]]
    yield "cast", [real, T["float32"], np.ones(24, np.uint16), T["float16"], 0, 1, 7], [
        wrong_sources(np.float32, 24), floats, wrong_outputs(np.uint16, 24), floats, flag, flag, seed,
    ]  # fmt: skip
    matrix, no_numbers = real.reshape(4, 6), ["0", None, [1]]
    wrong_matrices = [*wrong_sources(np.float32, 24), real, matrix[:, :, None], matrix[:3, :5]]
    floats = [*WRONG_TYPE, T["float64"], T["int8"], T["float8_e5m2"]]
    yield "accumulate", [matrix, T["float32"], matrix.T, T["float32"], np.ones((4, 4), np.float16), T["float16"]], [
        wrong_matrices, floats, wrong_matrices, floats, wrong_outputs(np.float16, 16), floats,
    ]  # fmt: skip
    elements = [*WRONG_TYPE, T["float32"], T["bfloat16"], T["int8"]]
    bytes_out, count = wrong_outputs(np.uint8, 24), [*NO_INTEGERS, *HUGE, -1, 5]
    yield "quantize_blocks", [
        real, T["float32"], 2, 12, T["float4_e2m1fn"], 5, 2, 6.0, 0.0, np.ones(24, np.uint8), np.ones(6, np.uint8),
    ], [
        wrong_sources(np.float32, 24), [*WRONG_TYPE, T["float64"], T["int8"]], count, count, elements,
        [*NO_INTEGERS, 0, 2**31], [*NO_INTEGERS, -1, 128], no_numbers, no_numbers, bytes_out,
        wrong_outputs(np.uint8, 6),
    ]  # fmt: skip
    yield "float_error", [real, T["float32"], T["float16"], 65520.0, 2.0**-14], [
        wrong_sources(np.float32, 24)[len(NO_ARRAYS) + 2 :] + NO_ARRAYS, [*WRONG_TYPE, T["float64"], T["int8"]],
        [*WRONG_TYPE, T["float64"], T["int8"]], no_numbers, no_numbers,
    ]  # fmt: skip
    nibbles, packed = np.ones(24, np.uint8), np.zeros(12, np.uint8)
    sizes = [[*NO_INTEGERS, *HUGE, -1, 0, 3]] * 2
    no_nibbles = [*WRONG_TYPE, T["int8"], T["float32"]]
    wide, narrow = wrong_vectors(np.uint8, 24)[:-2], wrong_vectors(np.uint8, 12)[:-2]  # a byte has no order or address
    yield "pack", [nibbles, packed, T["int4"], 2, 12], [wide, wrong_outputs(np.uint8, 12), no_nibbles, *sizes]
    yield "unpack", [packed, nibbles, T["uint4"], 2, 12], [narrow, wrong_outputs(np.uint8, 24), no_nibbles, *sizes]
    yield "histogram", [real, T["float32"], *GRID, 4], [
        wrong_sources(np.float32, 24), WRONG_TYPE, *WRONG_GRID, [*NO_INTEGERS, *HUGE, 3, 8],
    ]  # fmt: skip
    yield from guarded_searches()
    yield "error_sums", [real, real], [wrong_vectors(np.float32, 24)] * 2
    yield "codes_seen", [nibbles, np.zeros(256, np.uint8)], [wide[:6], wrong_outputs(np.uint8, 256)]
    yield from guarded_products()
    scales = [*NO_ARRAYS, scale.astype(np.float64), np.ones(6, np.float32)[::2], crooked(scale), scale.astype(">f4")]
    yield "first_bad_scale", [scale], [scales]
    yield "overlap", [zero, scale], [NO_ARRAYS, NO_ARRAYS]
    yield "set_num_threads", [2], [[*NO_INTEGERS, *HUGE, 0, -1, 257]]
    yield from guarded_matmul()


def guarded_matmul():
    a, b, product = np.ones((2, 4), np.int8), np.ones((4, 5), np.int8), np.zeros((2, 5), np.int32)
    matrices = [*NO_ARRAYS, a[0], a[:, :3], a.astype(np.int16), a.astype(object)]
    type_ = [*WRONG_TYPE, T["float32"], T["int32"], T["int16"], T["int4"]]
    packed = _core.pack_weights(b, T["int8"], None)
    capsules = [None, 1, "x", a, object()]

    def zeros(length):
        wrong = [1, "x", [1], 1.0, *wrong_vectors(np.int32, length)[6:]]
        return [value for value in wrong if np.shape(value) != (1,)]  # one for all is right

    good = [a, T["int8"], b, T["int8"], np.ones(2, np.int32), np.ones(5, np.int32), product]
    yield (
        "matmul_integer",
        good,
        [[*matrices, a[None]], type_, [*matrices, b[None]], type_, zeros(2), zeros(5), wrong_outputs(np.int32, 10)],
    )
    yield "pack_weights", [b, T["int8"], None], [matrices[:7], type_, zeros(5)]
    yield "packed_info", [packed], [capsules]
    yield "packed_codes", [packed, b.copy()], [capsules, wrong_outputs(np.int8, 20)]
    real = np.zeros((2, 5), np.float32)
    out = [*NO_ARRAYS, real[:1], real[0], real.T, real[:, ::-1], real[::-1], read_only(real), crooked(real)]
    out += [np.zeros((2, 10), np.float32)[:, ::2], real.astype(">f4"), real.astype(np.float64)]
    rows, columns = np.ones(2, np.float32), np.ones(5, np.float32)
    numbers, codes = [None, "1", [1], object()], [*NO_INTEGERS, *HUGE, -129, 256]
    good = [a, T["int8"], None, packed, real, T["float32"], rows, columns, columns, np.ones(5, np.int32), -1.0, 1.0]
    wrong = [[*matrices, a[None]], type_, zeros(2), capsules, out, [*WRONG_TYPE, T["int8"], T["float64"]]]
    wrong += [[None, *wrong_vectors(np.float32, 2)[8:]], wrong_vectors(np.float32, 5), wrong_vectors(np.float32, 5)[1:]]
    wrong += [wrong_vectors(np.int32, 5)[1:], numbers, numbers, [*NO_INTEGERS, *HUGE, 65536], codes, codes]
    yield "matmul_packed", [*good, 0, -128, 127], wrong


def guarded_products():
    size, flag = [*NO_INTEGERS, *HUGE, -1, 3], [*NO_INTEGERS, -1, 2]
    number, code = [None, "1", [1], object()], [*NO_INTEGERS, *HUGE, -129, 256]
    x, y, byte = np.ones((2, 4), np.float32), np.zeros((2, 5), np.float32), np.ones(20, np.uint8)
    sums, pairs, signed = np.zeros((2, 5), np.int64), np.zeros(5, np.int64), np.ones(20, np.int8)
    bytes_of = [wrong_vectors(dtype, length)[:-2] for dtype, length in ((np.uint8, 8), (np.int8, 20), (np.uint8, 20))]
    long_sums = [wrong_outputs(np.int64, length) for length in (10, 10, 5)]
    shape = [[*NO_INTEGERS, *HUGE, -1, 3]] * 3
    yield "saturate", [byte[:8], signed, sums, sums.copy(), pairs, 2, 4, 5], [*bytes_of[:2], *long_sums, *shape]
    yield "unsafe_pairs", [signed, pairs, 4, 5], [bytes_of[1], long_sums[2], *shape[:2]]
    block = [*NO_INTEGERS, *HUGE, -16, 0, 8, 33, 256]
    longest = [*NO_INTEGERS, -1, 2**63 - 1]
    yield "weight4_room", [4, 5, 16, 0, 0], [longest, longest, block, flag, flag]
    nbytes = _core.weight4_room(4, 5, 16, 0, 1).size
    packed, scale, zero = np.zeros(nbytes, np.uint8), np.ones(5, np.float32), np.full(5, 8, np.uint8)
    wrong_zero = wrong_vectors(np.uint8, 5)[1:-2]  # None is right
    good = [byte, 1, scale, zero, packed, 4, 5, 16]
    wrong = [bytes_of[2], flag, wrong_vectors(np.float32, 5), wrong_zero, wrong_outputs(np.uint8, nbytes)]
    yield "weight4_pack", good, [*wrong, *shape[:2], block]
    real, wrong_bias = wrong_vectors(np.float32, 8), wrong_vectors(np.float32, 5)[1:]
    of_packed, tail = wrong_vectors(np.uint8, nbytes)[:-2], [wrong_bias, number, number, wrong_outputs(np.float32, 10)]
    of_weight = [of_packed, [*size, 2**40], [*size, 2**40], block, [*flag, 1], [*flag, 0]]
    good = [packed, 4, 5, 16, 0, 1, x, 2, T["int8"], 1, -127, 127, 0.0, 0, 0, scale, -1.0, 1.0, y]
    type_ = [*WRONG_TYPE, T["float32"], T["int32"], T["int16"], T["int4"]]
    wrong = [*of_weight, real, size, type_, flag, [*code, 127], [*code, -127], number, code, flag, *tail]
    yield "matmul4", good, wrong
    codes, pair = wrong_vectors(np.int8, 8)[:-2], wrong_vectors(np.float32, 2)
    good = [packed, 4, 5, 16, 0, 1, x.astype(np.int8), 2, scale[:2], np.zeros(2, np.int32), scale, -1.0, 1.0, y]
    yield "matmul4_codes", good, [*of_weight, codes, size, pair, wrong_vectors(np.int32, 2)[1:], *tail]
    image, kernel = np.ones((1, 4, 3, 4), np.int8), np.ones((4, 2, 2, 2), np.uint8)
    out = np.ones((1, 4, 2, 3), np.uint8)
    four = [*NO_ARRAYS, image[0], image.astype(np.int16), np.ones((1, 3, 3, 4), np.int8)]
    codes_only = [*WRONG_TYPE, T["float32"], T["int32"]]
    eight = [*NO_ARRAYS, kernel[0], kernel[::-1], kernel.astype(np.int16), np.ones((4, 3, 2, 2), np.uint8), kernel[:3]]
    far, pad = [*NO_INTEGERS, *HUGE, 0, 2**31], [*NO_INTEGERS, *HUGE, -1, 2**31]
    shapes = [np.ones(24, np.uint8), np.ones((1, 1, 2, 3), np.uint8), np.ones((2, 4, 2, 3), np.uint8), read_only(out)]
    wrong = [four, codes_only, eight, codes_only, code, wrong_vectors(np.int32, 4), [*NO_INTEGERS, *HUGE, 0, 1, 3, 4]]
    wrong += [*[far] * 4, pad, pad, [*NO_ARRAYS, *shapes], [*WRONG_TYPE, T["float32"], T["int16"], T["int32"]]]
    wrong += [[None, *wrong_vectors(np.float32, 4)], wrong_vectors(np.int32, 4)[1:], code, code, code]
    good = [image, T["int8"], kernel, T["uint8"], 0, np.zeros(4, np.int32), 2, 1, 1, 1, 1, 0, 0, out, T["uint8"]]
    yield "conv2d", [*good, np.ones(4, np.float32), np.zeros(4, np.int32), 0, 0, 255], wrong
    weight = _core.pack_weights(signed.reshape(4, 5), T["int8"], None)
    wrong_type = [*WRONG_TYPE, T["float32"], T["int16"]]
    good = [x, 2, T["int8"], 1, -127, 127, 0.0, 0, weight, y, T["float32"], scale, scale, np.ones(5, np.int32)]
    wrong = [real, size, wrong_type, flag, code, [*code, -127], number, code, [None, 1, "x", object()]]
    wrong += [wrong_outputs(np.float32, 10), [*WRONG_TYPE, T["int8"], T["int32"]], wrong_vectors(np.float32, 5)]
    wrong += [wrong_bias, wrong_vectors(np.int32, 5)[1:], number, number, code, code, code]
    yield "linear", [*good, -1.0, 1.0, 0, -128, 127], wrong


def guarded_searches():
    offsets, keys = np.array([0, 2, 3]), np.array([0x4000, 0xBF80, 0xC000], np.uint16)
    bins = [offsets, keys, np.ones(3, np.int64)]
    crossed = [np.array([0, 4, 3]), np.array([1, 2, 3]), np.array([0, 2, 4]), np.ones(0, np.int64)]
    no_bins = [
        [*NO_ARRAYS, *crossed, offsets.astype(np.int32), crooked(offsets)],
        [*NO_ARRAYS, keys[:2], keys.astype(np.int32), np.repeat(keys, 2)[::2]],
        [*wrong_vectors(np.int64, 3)[:-4], np.ones(3), crooked(np.ones(3, np.int64))],
    ]
    yield "merge_histograms", [*bins, *bins], no_bins * 2
    good = [np.ones(3, np.float32), T["float32"], keys, np.ones(3, np.int64)]
    yield "few_values", good, [NO_ARRAYS, [*WRONG_TYPE, T["float64"], T["int32"]], no_bins[1][:-2], no_bins[2]]
    ends = np.array([-3.0, -3.0]), np.array([3.0, 3.0])
    spec = [7, 0, 1, -127, 127, 0.5, np.empty(0)]
    wrong = [
        [*NO_INTEGERS, 3, 8], [*NO_INTEGERS, -1, 3], [*NO_INTEGERS, -1, 2], [*NO_INTEGERS, *HUGE, 126, -32769],
        [*NO_INTEGERS, *HUGE, -126, 65536], [None, "x", [1.0]],
        [*NO_ARRAYS, np.arange(127.0), np.arange(128, dtype=np.float32), crooked(np.arange(128.0))],
    ]  # fmt: skip
    doubles = wrong_vectors(np.float64, 2)
    no_bins[1] = [*no_bins[1], np.array([0x4000, 0xBF80, 0xFF80], np.uint16), np.array([0, 0xBF80, 0xBF80], np.uint16)]
    yield "search_ranges", [*bins, *ends, *spec], [*no_bins, doubles, doubles, *wrong]
    tried, error = [np.full(4, -1.0), np.ones(4)], np.empty(4)
    four = wrong_vectors(np.float64, 4)
    wrong[1] = [*NO_INTEGERS, -1, 6]
    uneven = [value for value in four if not (isinstance(value, np.ndarray) and value.size in (0, 8))]
    yield "range_errors", [*bins, *ends, *spec, *tried, error], [
        *no_bins, doubles, doubles, *wrong, uneven, four, wrong_outputs(np.float64, 4),
    ]  # fmt: skip
    counts, out = np.ones(200), np.empty(201)
    numbers = [value for value in wrong_vectors(np.float64, 8) if np.size(value) or not isinstance(value, np.ndarray)]
    yield "entropy_bin", [counts, 8, np.arange(8.0), 16, out], [
        wrong_vectors(np.float64, 200), [*NO_INTEGERS, 0, 17], numbers, [*NO_INTEGERS, 7, 201],
        wrong_outputs(np.float64, 201),
    ]  # fmt: skip


REFUSALS = (TypeError, ValueError, OverflowError)


@pytest.fixture
def same_thread_count():
    before = qn.num_threads()
    yield
    qn.set_num_threads(before)


def refused(function, arguments):
    try:
        function(*arguments)
    except REFUSALS:
        return True
    return False


GUARDED = list(guarded())


@pytest.mark.usefixtures("same_thread_count")
@pytest.mark.parametrize(("name", "good", "wrong"), GUARDED, ids=[row[0] for row in GUARDED])
def test_the_guard_refuses(name, good, wrong):
    function = getattr(_core, name)
    function(*good)
    for k, values in enumerate(wrong):
        for value in values:
            assert refused(function, [*good[:k], value, *good[k + 1 :]]), f"argument {k} = {value!r}"
    assert len(good) == len(wrong)
    for arguments in ([], good[:-1], [*good, None]):
        with pytest.raises(TypeError):
            function(*arguments)
    with pytest.raises(TypeError):
        function(x=1)


def test_every_function_that_takes_arguments_is_tried():
    harmless = {"float_features", "isa", "isas", "kernels", "num_threads", "output_fits", "refuse_calls", "set_isa"}
    functions = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")}
    assert functions - harmless == {name for name, _, _ in GUARDED}


def test_an_output_fits_or_not():
    """Whatever is passed, the answer is a bool or a TypeError; True only where a kernel may write."""
    real = np.dtype(np.float32)
    out, x = np.zeros((2, 3), real), np.ones(6, real)
    assert _core.output_fits(out, real, (2, 3), x, 0.5, None)
    locked = out.copy()
    locked.flags.writeable = False
    for wrong in (None, [1.0], x, locked, out.T, out.astype(">f4"), out.astype(np.float64), crooked(out), out[:, ::2]):
        assert not _core.output_fits(wrong, real, (2, 3), x)
    for shape in ((3, 2), (6,), (2, 3, 1), (), (2, -3), (2, 2**62)):
        assert not _core.output_fits(out, real, shape)
    for given in (out, out[1:], out.T, out[:, ::-1], out.view(np.int32)[0]):
        assert not _core.output_fits(out, real, (2, 3), x, given)
    for arguments in ([], [out], [out, real], [out, real, [2, 3]], [out, real, (2, "3")], [out, real, (2, None)]):
        with pytest.raises(TypeError):
            _core.output_fits(*arguments)
    with pytest.raises(OverflowError):
        _core.output_fits(out, real, (2, 2**80))


def test_the_guard_needs_what_a_fixed_method_reads():
    name, good, _ = next(row for row in GUARDED if row[0] == "requantize")
    for missing in (-1, -2):
        arguments = list(good)
        arguments[missing] = None
        with pytest.raises(ValueError, match=r"^qnumpy\._core: a parameter is not an array\.$"):
            getattr(_core, name)(*arguments)
    _core.requantize(*good[:-3], 0, None, None)  # "float" reads neither


def test_random_arguments():
    """Whatever comes, each call returns or raises."""
    rng = np.random.default_rng(1)
    table = [row for row in GUARDED if row[0] != "set_num_threads"]
    refusals = 0
    for _ in range(4000):
        name, good, wrong = table[rng.integers(len(table))]
        arguments = [
            values[rng.integers(len(values))] if rng.random() < 0.2 else value
            for value, values in zip(good, wrong, strict=True)
        ]
        refusals += refused(getattr(_core, name), arguments)
    assert refusals > 1000


# What would end the whole process is tried in one of its own.
START = """
import numpy as np, qnumpy as qn
from qnumpy import _core
from qnumpy.ops.reduce import abs_max
T = _core.TYPES
n = 4096
x, q, scale, zero = np.ones(n, np.float32), np.ones(n, np.int8), np.ones((), np.float32), np.zeros((), np.int32)
def refused(call, *exceptions):
    try: call()
    except exceptions or (TypeError, ValueError): return True
    return False
"""
DANGEROUS = {
    "fake_quantize writes no codes": """
for name in ("int8", "uint8", "int16", "int32", "int4"):
    out = np.zeros(n, {"int4": "int8"}.get(name, name))
    assert refused(lambda: _core.fake_quantize(
        x, T["float32"], scale, zero, out, T[name], 1, 1, n, 0, -128, 127, 0)), name
""",
    "dequantize writes no codes": """
for name in ("int8", "uint8", "int16", "int32", "int4"):
    out = np.zeros(n, {"int4": "int8"}.get(name, name))
    assert refused(lambda: _core.dequantize(q, T["int8"], scale, zero, out, T[name], 1, 1, n, 0)), name
""",
    "dequantize reads no reals": """
for name in ("float32", "float64", "float16", "bfloat16"):
    real = np.ones(n, {"bfloat16": "uint16"}.get(name, name))
    assert refused(lambda: _core.dequantize(real, T[name], scale, zero, x.copy(), T["float32"], 1, 1, n, 0)), name
""",
    "more channels than memory": """
empty = np.zeros(0, np.float32)
for channels in (2**40, 2**58, 2**59, 2**60, 2**62, 2**63 - 1):
    assert refused(lambda: _core.min_max(empty, T["float32"], 0, channels, 1, 0), ValueError, MemoryError)
wide = np.zeros((0, 2**61), np.float16)
assert refused(lambda: qn.min_max(wide, qn.PerChannel(1)), ValueError, MemoryError)
""",
    "blocks longer than any axis": """
two = x.reshape(64, 64)
for size in (65, 2**31, 2**62, 2**63 - 1, 2**63, 2**80):
    for axis, shape in ((0, (1, 64)), (1, (64, 1))):
        low, high = qn.min_max(two, qn.PerGroup(size, axis))
        assert low.shape == high.shape == shape, (size, axis)
        assert (qn.quantize_linear(two, 0.5, axis=axis, block_size=size) == 2).all(), (size, axis)
""",
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_nothing_crashes_or_hangs(name):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-P", "-c", START + DANGEROUS[name] + "print('fine')"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=20)
    said = re.sub(r"==\d+==WARNING: AddressSanitizer failed to allocate \w+ bytes\n", "", done.stderr)  # as it should
    assert (done.returncode, done.stdout, re.sub(r"(?s).*\n(?=.)", "", said)) == (0, "fine\n", "")
