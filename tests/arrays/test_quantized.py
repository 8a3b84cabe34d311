"""QuantizedArray: slices with their parameters, NumPy's protocols, comparison, copies and what it shows."""

import copy
import operator
import pickle
import re
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import CODES, GRIDS, LAYOUTS, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy._check import alternatives
from qnumpy.arrays.mx import MX_FORMATS
from qnumpy.dtypes import CODE_TYPES, code_type
from qnumpy.files.spec import TensorSpec

SHAPE = (4, 6, 8)
GRANULARITIES = [
    qn.PerTensor(),
    *(qn.PerChannel(axis) for axis in range(-3, 3)),
    *(qn.PerGroup(size, axis) for axis in range(-3, 3) for size in (1, 2, 5, 100)),
    qn.PerRow(),
]


def quantized(granularity=None, shape=SHAPE, code="int8", symmetric=False):
    x = np.random.default_rng(0).uniform(-1, 3, shape).astype(np.float32)
    return qn.quantize(x, dtype=code, granularity=granularity, symmetric=symmetric)


def message(error, text):
    return pytest.raises(error, match=f"^{text}$")


# ---- construction ----


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("grid", GRIDS)
def test_quantize_is_quantize_linear(grid, code, source):
    grid = GRIDS[grid]
    x, scale, zero = case(grid, 21, code, SOURCES[source])
    params = qn.QParams(scale, zero, code, grid.granularity)
    want = twin.quantize_linear(x, scale, zero, dtype=code, **grid.where)
    for layout in ("c", "f", "strided"):
        q = qn.quantize(LAYOUTS[layout](x), params)
        assert_same_bits(q.codes, want)
        assert q.qparams is params
    real = twin.dequantize_linear(want, scale, zero, **grid.where)
    assert_same_bits(q.dequantize(), real)
    assert_same_bits(qn.dequantize(q), real)
    for target in SOURCES:
        assert_same_bits(q.dequantize(target), twin.dequantize_linear(want, scale, zero, dtype=target, **grid.where))
    assert_same_bits(qn.fake_quantize(x, params), q.dequantize(x.dtype))


def test_quantize_without_parameters_chooses_them():
    x = np.random.default_rng(0).normal(size=(5, 7))
    for options in ({}, {"dtype": "uint4", "symmetric": False}, {"granularity": qn.PerGroup(3), "dtype": "int16"}):
        params = qn.choose_qparams(x, **options)
        assert qn.quantize(x, **options) == qn.quantize(x, params)


def test_a_range_narrower_than_the_type_is_kept():
    params = qn.QParams(1.0, 3, "int8", qmin=-20, qmax=101)
    q = qn.quantize(np.array([-np.inf, np.inf, np.nan]), params)
    assert q.codes.tolist() == [-20, 101, 3]


def test_attributes():
    q = quantized(qn.PerChannel(1))
    assert (q.shape, q.ndim, q.size, len(q)) == (SHAPE, 3, 192, 4)
    assert q.scale is q.qparams.scale
    assert_same_bits(q.zero_point, q.qparams.zero_point)
    with pytest.raises(AttributeError):
        q.other = 1


def test_codes_are_not_copied():
    codes = np.arange(6, dtype=np.int8)
    assert qn.QuantizedArray(codes, qn.QParams(1, 0)).codes is codes
    big = codes.astype(">i2")
    assert qn.QuantizedArray(big, qn.QParams(1, 0, "int16")).dequantize().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("code", ["int4", "uint4", "int2", "uint2"])
def test_codes_made_by_a_cast_of_ml_dtypes(code):
    """Its cast leaves the upper bits of a byte zero; here they hold the sign."""
    info = code_type(code)
    values = np.arange(info.qmin, info.qmax + 1)
    cast = values.astype(info.dtype)
    before = cast.tobytes()
    q = qn.QuantizedArray(cast, qn.QParams(0.5, 0, code))
    assert q.codes.dtype == info.dtype
    assert q.codes.view(info.storage).tolist() == values.tolist()
    assert q.dequantize().tolist() == (values / 2).tolist()
    assert q == qn.QuantizedArray(values.astype(info.storage).view(info.dtype), qn.QParams(0.5, 0, code))
    assert cast.tobytes() == before
    if info.signed:
        with message(
            ValueError, rf"QuantizedArray: codes must be in \[{info.qmin + 1}, {info.qmax}\]; got {info.qmin}\."
        ):
            qn.QuantizedArray(cast, qn.QParams(0.5, 0, code, qmin=info.qmin + 1))


@pytest.mark.parametrize("code", [name for name, code in CODE_TYPES.items() if code.is_named])
def test_types_without_a_dtype(code):
    """Their codes are int8 or uint8; the parameters keep the name of the type, and only its codes are taken."""
    info, x = code_type(code), np.linspace(-1, 3, 13)
    q = qn.quantize(x, dtype=code, symmetric=False)
    assert q.qparams.dtype == q.qparams.code.name == code
    assert q.dtype == q.codes.dtype == info.storage == np.dtype("int8" if info.signed else "uint8")
    assert (q.nbytes, q.levels) == (-(-q.size * info.bits // 8) + q.qparams.nbytes, 2**info.bits)
    assert (
        q
        == qn.QuantizedArray(q.codes, q.qparams)
        != qn.QuantizedArray(q.codes, qn.QParams(q.scale, q.zero_point, info.dtype))
    )
    for part in (q[1:], q[::-2], q.reshape(-1, 1), qn.concatenate([q, q]), copy.deepcopy(q), qn.quantize(x, q.qparams)):
        assert part.qparams.dtype == code
    every = np.arange(info.qmin, info.qmax + 1).astype(info.storage)
    assert qn.QuantizedArray(every, qn.QParams(0.5, 0, code)).dequantize().tolist() == (every / 2).tolist()
    beyond = info.qmax + 1
    with message(ValueError, rf"QuantizedArray: codes must be in \[{info.qmin}, {info.qmax}\]; got {beyond}\."):
        qn.QuantizedArray(np.array([0, beyond], info.storage), qn.QParams(0.5, 0, code))
    with message(TypeError, rf"QuantizedArray: codes must be an array of {info.storage}; got dtype int16\."):
        qn.QuantizedArray(np.zeros(2, np.int16), qn.QParams(0.5, 0, code))
    with message(ValueError, rf"quantize: dtype must be left out or {code} like qparams; got '{info.storage}'\."):
        qn.quantize(x, q.qparams, dtype=info.storage.name)


def test_dequantize_into_out():
    q = quantized(qn.PerGroup(5))
    out = np.empty(SHAPE, np.float32)
    assert q.dequantize(out=out) is out
    assert_same_bits(out, q.dequantize())
    half = np.empty(SHAPE, np.float16)
    assert qn.dequantize(q, dtype="float16", out=half) is half
    assert_same_bits(half, q.dequantize("float16"))


# ---- slices ----


def every_axis(key, shape):
    """A basic index as one key for each axis."""
    keys = list(key if isinstance(key, tuple) else (key,))
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + 1)
    return keys + [slice(None)] * (len(shape) - len(keys))


def cut_groups(granularity, key, shape):
    """Whether the key takes a part of a group, in plain words: an index, a step, or an end inside a group."""
    if not isinstance(granularity, qn.PerGroup):
        return False
    axis = granularity.axis % len(shape)
    own = every_axis(key, shape)[axis]
    if own == slice(None):
        return False
    if not isinstance(own, slice):
        return True
    start, stop, step = own.indices(shape[axis])
    size = granularity.group_size
    return step != 1 or start % size != 0 or not (stop % size == 0 or stop == shape[axis])


def assert_sliced(q, key):
    if cut_groups(q.qparams.granularity, key, q.shape):
        with pytest.raises(
            ValueError, match=r"^QuantizedArray: index must be whole groups of \d+ on axis \d; got .*\.$"
        ):
            q[key]
        return
    part, real = q[key], q.dequantize()[key]
    assert isinstance(part, qn.QuantizedArray)
    assert part.shape == real.shape
    assert_same_bits(np.asarray(part), np.asarray(real), f"{q.qparams.granularity}[{key}]")
    assert part.scale.shape == part.qparams.granularity.params_shape(part.shape)
    assert (part.qparams.dtype, part.qparams.qmin, part.qparams.qmax) == (q.codes.dtype, q.qparams.qmin, q.qparams.qmax)
    assert qn.QuantizedArray(part.codes, part.qparams) == part  # it passes the checks of its own constructor


KEYS = [
    0,
    -1,
    np.int64(2),
    slice(None),
    slice(1, 3),
    slice(None, None, -1),
    slice(3, None, -2),
    slice(0, 0),
    slice(5, 2),
    Ellipsis,
    (),
    (1, 2),
    (1, 2, 3),
    (slice(None), 2),
    (slice(None), slice(0, 4)),
    (slice(None), slice(None), slice(2, 6)),
    (slice(None), slice(None), slice(0, 8)),
    (slice(None), slice(None), slice(5, 8)),
    (slice(None), slice(None), slice(0, 5)),
    (slice(None), slice(None), slice(None, None, 2)),
    (slice(None), slice(None), slice(None, None, -1)),
    (Ellipsis, 3),
    (Ellipsis, slice(4, 6)),
    (0, Ellipsis),
    (0, Ellipsis, 3),
    (slice(0, 2), Ellipsis, slice(None, None, -3)),
    (slice(0, 2), 3, slice(0, 6)),
    (1, slice(None), slice(-4, None)),
    (slice(-2, None), slice(-5, -1)),
    (1, 2, 3, Ellipsis),
]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_slices(granularity):
    q = quantized(granularity)
    for key in KEYS:
        assert_sliced(q, key)


def a_key(data, shape):
    parts = []
    for length in shape[: data.draw(st.integers(0, len(shape)))]:
        bounds = st.none() | st.integers(-length - 2, length + 2)
        step = st.none() | st.sampled_from([1, 1, 2, -1, -3])
        part = st.builds(slice, bounds, bounds, step)
        parts.append(data.draw(part | st.integers(-length, length - 1) if length else part))
    return tuple(parts)


@given(st.sampled_from(GRANULARITIES), st.sampled_from(["int8", "uint4", "int2"]), st.data())
def test_any_slice_of_a_slice(granularity, code, data):
    q = quantized(granularity, code=code)
    for _ in range(2):
        key = a_key(data, q.shape)
        assert_sliced(q, key)
        if cut_groups(q.qparams.granularity, key, q.shape):
            return
        q = q[key]


def test_the_parameters_follow():
    q = quantized(qn.PerChannel(1))
    assert q[:, 2].qparams.granularity == qn.PerTensor()
    assert q[:, 2].scale == q.scale[2]
    assert q[0].qparams.granularity == qn.PerChannel(0)
    assert q[..., ::-1, :].scale.tolist() == q.scale[::-1].tolist()
    g = quantized(qn.PerGroup(2))
    assert g[0].scale.shape == (6, 4)
    assert g[:, :, 2:6].scale.tolist() == g.scale[:, :, 1:3].tolist()


def test_a_slice_is_a_view():
    q = quantized()
    assert np.shares_memory(q[1:3].codes, q.codes)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_the_whole_is_equal_to_itself(granularity):
    """Whatever way an axis was counted."""
    q = quantized(granularity)
    assert q[...] == q
    assert q[:] == q


def test_refused_cuts():
    q = quantized(qn.PerGroup(4))
    want = r"QuantizedArray: index must be whole groups of 4 on axis 2; got "
    for key, got in (
        (3, "3"),
        (slice(1, 4), r"slice\(1, 4, None\)"),
        (slice(None, None, -1), r"slice\(None, None, -1\)"),
    ):
        with message(ValueError, f"{want}{got}\\."):
            q[..., key]
    assert q[:, :, 4:].shape == (4, 6, 4)


@pytest.mark.parametrize("key", [4, -5, (0, 6), (0, 0, 0, 0), (..., 8)], ids=str)
def test_indices_that_are_not_there(key):
    for granularity in (qn.PerTensor(), qn.PerChannel(1)):
        with pytest.raises(IndexError):
            quantized(granularity)[key]


def test_len_and_iteration():
    for granularity in (qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(2), qn.PerGroup(4)):
        q = quantized(granularity)
        parts = list(q)
        assert len(parts) == len(q) == 4
        for part, real in zip(parts, q.dequantize(), strict=True):
            assert_same_bits(np.asarray(part), real)
    with pytest.raises(ValueError, match=r"^QuantizedArray: index must be whole groups of 2 on axis 0; got 0\.$"):
        list(quantized(qn.PerGroup(2, 0)))


def test_a_0d_array():
    q = qn.quantize(np.float32(0.5))
    assert (q.shape, q.ndim, q.size, q.nbytes) == ((), 0, 1, 5)
    assert q[()] == q[...] == q
    assert q.dequantize().shape == ()
    for call in (lambda: len(q), lambda: list(q)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(IndexError):
        q[0]


# ---- rows ----


@pytest.mark.parametrize("layout", ["c", "f", "strided", "reversed", "rolled"])
@pytest.mark.parametrize("shape", [(7,), (0,), (0, 5), (5, 0), (6, 9), (2, 3, 8), (2, 0, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
def test_each_row_on_its_own(shape, symmetric, dtype, layout):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * np.exp2(rng.integers(-7, 7, (*shape[:-1], 1)))).astype(np.float32)
    x = LAYOUTS[layout](x)
    q = qn.quantize(x, granularity=qn.PerRow(), dtype=dtype, symmetric=symmetric)
    assert (q.shape, q.codes.dtype, q.scale.shape) == (x.shape, code_type(dtype).dtype, shape[:-1])
    for row in np.ndindex(shape[:-1]):
        one = qn.quantize(x[row], dtype=dtype, symmetric=symmetric)
        assert_same_bits(q.codes[row], one.codes)
        assert (q.scale[row], q.zero_point[row]) == (one.scale, one.zero_point)
        assert_same_bits(np.asarray(q)[row], np.asarray(one))
    assert qn.quantize(x, q.qparams) == q
    assert_same_bits(qn.fake_quantize(x, q.qparams), q.dequantize())
    if layout in ("f", "rolled"):  # the results keep the layout
        for result in (q.codes, q.dequantize(), qn.fake_quantize(x, q.qparams)):
            assert [n // result.itemsize for n in result.strides] == [n // x.itemsize for n in x.strides]


@pytest.mark.parametrize("method", ["minmax", "mse", "entropy", "percentile"])
def test_rows_are_the_channels_of_a_matrix(method):
    x = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    rows, channels = (qn.choose_qparams(x, granularity=g, method=method) for g in (qn.PerRow(), qn.PerChannel(0)))
    assert_same_bits(rows.scale, channels.scale)
    assert_same_bits(qn.quantize(x, rows).codes, qn.quantize(x, channels).codes)
    assert repr(rows).startswith("QParams(int8, per row, scale=")


def test_rows_know_their_shape():
    q = quantized(qn.PerRow())
    assert q[1].scale.shape == (6,)
    assert q[1, 2].scale.shape == ()
    assert q[..., ::2].scale.shape == (4, 6)
    with message(
        ValueError, r"quantize: qparams must be of scale shape \(4, 6\) for an array of shape \(4, 6, 2\); got \(\)\."
    ):
        qn.quantize(np.zeros((4, 6, 2)), q[1, 2].qparams)


# ---- NumPy's protocols ----


def test_asarray_dequantizes():
    q = quantized(qn.PerChannel(0))
    assert_same_bits(np.asarray(q), q.dequantize())
    assert_same_bits(np.array(q), q.dequantize())
    for dtype in ("float64", "float16", "bfloat16"):
        assert_same_bits(np.asarray(q, dtype), q.dequantize(dtype))
    with message(ValueError, r"QuantizedArray: copy must be None or True; got False\. Dequantizing always copies\."):
        np.asarray(q, copy=False)


@pytest.mark.parametrize(
    "operate",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.matmul,
        operator.pow,
        operator.mod,
        operator.lt,
    ],
)
def test_operators_do_not_dequantize(operate):
    q = quantized(shape=(4, 4))
    for other in (1, 2.0, np.ones((4, 4), np.float32), np.float32(1), q):
        for left, right in ((q, other), (other, q)):
            with pytest.raises(TypeError):
                operate(left, right)


def test_ufuncs_do_not_dequantize():
    q = quantized()
    for call in (
        lambda: np.add(q, 1),
        lambda: np.multiply(np.ones(8), q),
        lambda: np.sqrt(q),
        lambda: np.add.reduce(q),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (operator.neg, abs, operator.invert, float, int):
        with pytest.raises(TypeError):
            call(q)


# ---- equality, copies, pickle ----


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_codes_of_the_other_byte_order(dtype):
    codes = np.array([[1, 2, 300]], dtype)
    q = qn.QuantizedArray(codes.astype(codes.dtype.newbyteorder()), qn.QParams(0.5, 0, dtype))
    assert q.codes.dtype.isnative
    for array in (q, pickle.loads(pickle.dumps(q))):
        assert_same_bits(array.codes, codes)


def test_equality():
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    q, same = qn.quantize(x), qn.quantize(x)
    assert q == same
    assert (q != same) is False
    other_codes, other_scale = qn.QuantizedArray(q.codes // 2, q.qparams), qn.QParams(q.scale * 2, 0, qmin=-127)
    assert q != other_codes
    assert q != qn.QuantizedArray(q.codes, other_scale)
    assert q != q[:2]
    assert q != q.codes.tolist()
    assert q != 1
    assert q != None  # noqa: E711
    assert qn.quantize(x[:, :0]) == qn.quantize(x[:, :0])
    with pytest.raises(TypeError, match=r"^unhashable type: 'QuantizedArray'$"):
        hash(q)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(-1), qn.PerGroup(5), qn.PerRow()], ids=str)
def test_pickle_and_copies(granularity, code):
    q = quantized(granularity, code=code)
    copies = [pickle.loads(pickle.dumps(q, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin_ in (*copies, copy.copy(q), copy.deepcopy(q)):
        assert twin_ == q
        assert_same_bits(twin_.codes, q.codes)
        assert_same_bits(twin_.dequantize(), q.dequantize())
    assert np.shares_memory(copy.copy(q)._held, q._held)
    assert not np.shares_memory(copy.deepcopy(q)._held, q._held)
    assert not np.shares_memory(copy.deepcopy(q).codes, q.codes)
    strided = q[..., ::-1, :]
    assert pickle.loads(pickle.dumps(strided)) == strided


# ---- what it shows ----


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_nbytes_is_what_a_file_holds(code, symmetric):
    for granularity in GRANULARITIES:
        for shape in (SHAPE, (3, 5, 7), (1, 1, 1), (3, 0, 5)):
            q = quantized(granularity, shape, code, symmetric)
            assert q.nbytes == TensorSpec.of(q).nbytes, (granularity, shape)
    scalar = qn.quantize(np.float32(1), dtype=code, symmetric=symmetric)
    assert scalar.nbytes == TensorSpec.of(scalar).nbytes


def test_repr():
    assert repr(qn.quantize(np.array([1.0, -1.0]), dtype="uint4")) == (
        "QuantizedArray((2,), uint4, per tensor, scale=0.1429, zero_point=8)\n[ 1. -1.]"
    )
    q = qn.quantize(np.ones((2, 3), np.float32), granularity=qn.PerChannel(0))
    head = "QuantizedArray((2, 3), int8, per channel 0, scale=0.007874..0.007874 (2,), zero_point=0)"
    assert repr(q) == str(q) == f"{head}\n[[1. 1. 1.]\n [1. 1. 1.]]"
    for granularity in GRANULARITIES:
        assert "\n" not in repr(quantized(granularity, (0, 3, 5)))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_repr_html_is_well_formed(granularity):
    for shape in (SHAPE, (4, 0, 8)):
        q = quantized(granularity, shape)
        table = ElementTree.fromstring(q._repr_html_())
        assert (table.tag, table[0].tag, table[0].text) == ("table", "caption", "QuantizedArray")
        cells = {row[0].text: row[1].text for row in table[1:]}
        assert list(cells) == ["shape", "dtype", "parameters", "bytes"]
        assert (cells["shape"], cells["dtype"]) == (str(shape), "int8")
        assert cells["bytes"] == f"{q.size * 4:,} as float32, {q.nbytes:,} here"


# ---- arguments beside qparams ----

INT4 = qn.QParams([0.5, 0.25], 0, "int4", qn.PerChannel(1), -7)
AFFINE = qn.QParams(0.5, 3, "uint8")
CONFLICTS = [
    (INT4, {"dtype": "int8"}, "dtype must be left out or int4 like qparams; got 'int8'"),
    (INT4, {"dtype": "mxfp4"}, "dtype must be left out or int4 like qparams; got 'mxfp4'"),
    (
        INT4,
        {"granularity": qn.PerTensor()},
        "granularity must be left out or PerChannel(axis=1) like qparams; got PerTensor()",
    ),
    (
        INT4,
        {"granularity": qn.PerChannel(0)},
        "granularity must be left out or PerChannel(axis=1) like qparams; got PerChannel(axis=0)",
    ),
    (INT4, {"symmetric": False}, "symmetric must be left out or True like qparams; got False"),
    (AFFINE, {"symmetric": True}, "symmetric must be left out or False like qparams; got True"),
    (INT4, {"method": "mse"}, "method must be left out beside qparams, which are chosen already; got 'mse'"),
]


@pytest.mark.parametrize(("params", "options", "message"), CONFLICTS)
def test_arguments_that_conflict_with_qparams(params, options, message):
    with pytest.raises(ValueError, match=f"^quantize: {re.escape(message)}\\.$"):
        qn.quantize(np.ones((3, 2), np.float32), params, **options)


def test_a_wrong_kind_beside_qparams():
    x = np.ones((3, 2), np.float32)
    with pytest.raises(TypeError, match=r"^quantize: symmetric must be True or False; got 'False'\.$"):
        qn.quantize(x, INT4, symmetric="False")
    with pytest.raises(TypeError, match=r"^quantize: dtype must be int8, "):
        qn.quantize(x, INT4, dtype="int9")
    with pytest.raises(TypeError, match=r"^quantize: granularity must be PerTensor"):
        qn.quantize(x, INT4, granularity=1)


@pytest.mark.parametrize(
    ("params", "options"),
    [
        (INT4, {"dtype": ml_dtypes.int4, "granularity": qn.PerChannel(1), "symmetric": True}),
        (INT4, {"dtype": "int4", "granularity": qn.PerChannel(-1), "symmetric": np.True_}),
        (AFFINE, {"dtype": np.uint8, "granularity": qn.PerTensor(), "symmetric": False}),
        (qn.QParams(0.5, 0), {"symmetric": False}),  # a middle zero point over all codes is of either scheme
        (qn.QParams(0.5, 0), {"symmetric": True}),
    ],
)
def test_arguments_that_agree_with_qparams(params, options):
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    assert qn.quantize(x, params, **options) == qn.quantize(x, params)


@pytest.mark.parametrize(
    ("dtype", "mend"), [("mxfp8", ""), ("float16", " qnumpy.cast converts to float16."), ("int9", "")]
)
def test_a_dtype_that_is_no_code_type_lists_all_of_them(dtype, mend):
    types = alternatives([*CODE_TYPES, *MX_FORMATS])
    with pytest.raises(TypeError) as error:
        qn.quantize(np.ones(2), dtype=dtype)
    assert str(error.value) == f"quantize: dtype must be {types}; got {dtype!r}.{mend}"
