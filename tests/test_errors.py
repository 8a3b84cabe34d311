"""What every function refuses alike: the type and the whole message of the errors of the seam.

The rows of what one function alone refuses stand with its tests.
"""

import ml_dtypes
import numpy as np
import pytest
from refusals import (
    ACC,
    ARRAYS_OF_CODES,
    ARRAYS_OF_INTEGERS,
    BYTES,
    CODES,
    FLOATS,
    INTEGERS,
    MASK,
    NARROW,
    PARAMS,
    REALS,
    Q,
    X,
    assert_refused,
    masked,
    read_only,
    refusals,
)

import qnumpy as qn
from qnumpy.ops.reduce import abs_max

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
MEND = {
    "dequantize_linear": "Use q.dequantize()",
    "pack": "Use q.codes first",
    "QuantizedArray": "Use q.codes first",
    "requantize": "Its codes are no sums",
    "unpack": "Use pack(q.codes) first",
}
KIND = {
    "cast": FLOATS,
    "dequantize_linear": ARRAYS_OF_CODES,
    "pack": ARRAYS_OF_INTEGERS,
    "QuantizedArray": ARRAYS_OF_CODES,
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


class Series:
    """A column of another library, whose type NumPy does not have."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1, None], object)

    def __repr__(self):
        return "0    1\n1    None"


class Broken:
    """An array of another library that does not convert itself."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no data")


class Tensor(Broken):
    """What the seam reads of a tensor of PyTorch, which the tests do not need."""

    __module__ = "torch"

    def __init__(self, dtype, device="cpu", requires_grad=False):
        self.dtype, self.device, self.requires_grad = f"torch.{dtype}", device, requires_grad


class SparseArray:
    """A sparse array of SciPy, which NumPy takes for an object."""

    __module__ = "scipy.sparse._csr"


FOREIGN = [
    (Series(), "a Series of dtype object"),
    ((k for k in range(2)), "a generator"),
    (object(), "an object"),
    ({1}, "{1}"),
]
UNREADABLE = [
    (Broken(), "an array; got a Broken that NumPy cannot read, RuntimeError"),
    (SparseArray(), "a dense array; got a SparseArray. Use x.toarray() first"),
    (Tensor("bfloat16"), "an array; got a Tensor of bfloat16 on cpu. Use x.float().numpy() first"),
    (
        Tensor("float32", "cuda:0", requires_grad=True),
        "an array; got a Tensor of float32 on cuda:0. Use x.detach().cpu().numpy() first",
    ),
]


def rows():
    """(call, exception, message without the last full stop)"""
    yield from data_rows()
    yield from scale_rows()
    yield from zero_point_rows()
    yield from axis_rows()
    yield from dtype_rows()
    yield from float_code_rows()
    yield from name_rows()
    yield from out_rows()
    yield from choose_rows()


def data_rows():
    bad = {
        "object": np.ones(2, object),
        "complex128": np.ones(2, complex),
        "<U1": np.array(["a", "b"]),
        "|S1": np.array([b"a"]),
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
        for value in (None, "a", {"a": 1}, b"a", ["1", "2"]):
            yield (
                lambda c=call, v=value: c(v),
                TypeError,
                f"{owner}: {name} must be an array of {kind}; got {value!r}",
            )
        for value, got in FOREIGN:
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be an array of {kind}; got {got}"
        for value, text in UNREADABLE:
            text = text.replace("Use x", f"Use {name}")
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be {text}"
        ragged = f"{owner}: {name} must be an array, or rows of one length; got [[1.0, 2.0], [3.0]]"
        yield lambda c=call: c([[1.0, 2.0], [3.0]]), ValueError, ragged
        for held, kind_of in ((qn.quantize(X), "a QuantizedArray"), (qn.quantize(X, dtype="mxfp4"), "an MXArray")):
            plain = (
                f"{owner}: {name} must be a plain array; got {kind_of}. {MEND.get(owner, 'Use q.dequantize() first')}"
            )
            yield lambda c=call, v=held: c(v), TypeError, plain
            yield lambda c=call, v=held: c([v]), TypeError, plain
        of_codes = kind in (ARRAYS_OF_CODES, ARRAYS_OF_INTEGERS)
        hidden = masked({"requantize": ACC, "unpack": BYTES}.get(owner, Q if of_codes else X))
        for value in (hidden, [hidden]):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be {MASK}"
    yield (
        lambda: qn.dequantize_linear(masked(ACC), 0.5),
        TypeError,
        f"dequantize_linear: q must be {MASK}",
    )
    for value, got in ((None, "None"), (X, "an array of float32 with shape (2, 3)"), ("q" * 99, f"'{'q' * 56}...")):
        yield (
            lambda v=value: qn.dequantize(v),
            TypeError,
            f"dequantize: q must be a QuantizedArray, MXArray, CodebookArray or OffsetArray; got {got}",
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
        "<U3": np.array("0.5"),
        "object": np.array(None),
        "datetime64[s]": np.array("2020", "M8[s]"),
    }
    for owner, call in SCALE.items():
        name = "multiplier" if owner == "requantize" else "scale"
        fine = f"{owner}: {name} must be positive, finite and normal in float32; got"
        for value in numbers:
            yield lambda c=call, v=value: c(v), ValueError, f"{fine} {value}"
        for dtype, value in kinds.items():
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be real; got dtype {dtype}"
        for value in (None, "0.5", ["1", "2"], {}, b"1"):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: {name} must be real; got {value!r}"
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
    kinds = {"float64": 1.0, "float32": np.float32(1), "bool": True, "complex128": 1j}
    for owner, call in ZERO.items():
        fine = f"{owner}: zero_point must be in [-128, 127]; got"
        for value in big:
            yield lambda c=call, v=value: c(v), ValueError, f"{fine} {value}"
        for dtype, value in kinds.items():
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: zero_point must be an integer; got dtype {dtype}"
        for value, got in (("1", "'1'"), (object(), "an object"), ({}, "{}")):
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: zero_point must be an integer; got {got}"
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
        for value in ("int9", "float32", np.int32, 3, [], "", bool):
            mend = ". qnumpy.cast converts to float32" if value == "float32" and not owner.startswith("QParams") else ""
            yield lambda c=call, v=value: c(v), TypeError, f"{owner}: dtype must be {wanted}; got {value!r}{mend}"
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


def name_rows():
    conventions, methods = "'onnx', 'guide', 'torch', 'tflite'", "'float', 'fixed', 'fixed_double'"
    calls = {
        ("quantize_linear", "convention", conventions): lambda v: qn.quantize_linear(X, 0.5, convention=v),
        ("fake_quantize", "convention", conventions): lambda v: qn.fake_quantize(X, PARAMS, convention=v),
        ("quantize_linear", "on_nan", "'zero_point', 'raise'"): lambda v: qn.quantize_linear(X, 0.5, on_nan=v),
        ("cast", "overflow", "'inf', 'saturate', 'raise'"): lambda v: qn.cast(X, "float16", overflow=v),
        ("cast", "rounding", "'nearest', 'stochastic'"): lambda v: qn.cast(X, "float16", rounding=v),
        ("requantize", "method", methods): lambda v: qn.requantize(ACC, 0.5, method=v),
        ("choose_qparams", "method", "'minmax', 'mse', 'entropy', 'percentile', 'hqq'"): lambda v: qn.choose_qparams(
            X, method=v
        ),
        ("min_max", "on_nonfinite", "'ignore', 'raise'"): lambda v: qn.min_max(X, on_nonfinite=v),
        ("abs_max", "on_nonfinite", "'ignore', 'raise'"): lambda v: abs_max(X, on_nonfinite=v),
    }
    for (owner, name, names), call in calls.items():
        for value in ("ONNX", "", None, 0, ["onnx"]):
            yield lambda c=call, v=value: c(v), ValueError, f"{owner}: {name} must be one of {names}; got {value!r}"
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


def choose_rows():
    wrong = "quantize: x must be finite somewhere; got only NaN and infinities in 1 of 2 channels or groups"
    hot = np.array([[np.nan, np.nan], [1.0, 2.0]])
    yield lambda: qn.quantize(hot, granularity=qn.PerRow()), qn.CalibrationError, wrong
    for owner, call in (("quantize", qn.quantize), ("choose_qparams", qn.choose_qparams)):
        wrong = f"{owner}: granularity must be PerTensor() for a 0-d array; got PerRow()"
        yield lambda c=call: c(1.0, granularity=qn.PerRow()), ValueError, wrong
        wide = f"{owner}: the range must have a finite float32 scale; got 1.5748e+298"
        yield lambda c=call: c(np.array([2e300, -1.0])), ValueError, wide


@refusals(rows())
def test_message(call, exception, message):
    assert_refused(call, exception, message)


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
