"""What all arrays of codes share: memory, indices, transposes, reshapes, NumPy's protocols, and what they show."""

import copy
import pickle
import re
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy.arrays.mx import MX_FORMATS
from qnumpy.dtypes import code_type

PACKED = ["int4", "uint4", "int2", "uint2", "float4_e2m1fn"]
SHAPE = (6, 4, 64)
GRANULARITIES = [
    qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerChannel(-1), qn.PerGroup(32), qn.PerGroup(2, 0),
    qn.PerGroup(4, -2), qn.PerRow(),
]  # fmt: skip


def reals(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quantized(code, granularity=None, shape=SHAPE):
    return qn.quantize(reals(shape), dtype=code, granularity=granularity, symmetric=code.startswith("float"))


def every_kind():
    yield from (quantized(code) for code in ("int8", "uint16", *PACKED))
    yield from (qn.quantize(reals(), dtype=name) for name in MX_FORMATS)


# ---- memory ----


def grown(make):
    """The result of a call, and the bytes that stay allocated with it."""
    make()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = make()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, after - before, peak - before


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("code", ["int8", "int16", *PACKED])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(32), qn.PerRow()], ids=str)
def test_an_array_holds_what_nbytes_says(granularity, code, symmetric):
    if code.startswith("float") and not symmetric:
        return
    x = reals((1536, 384))
    params = qn.choose_qparams(x, dtype=code, granularity=granularity, symmetric=symmetric)
    q, held, peak = grown(lambda: qn.quantize(x, params))
    assert q._held.nbytes <= held < q._held.nbytes + 4096  # the objects
    assert peak < q._held.nbytes + x.size // 4 + 16384  # scales and zero points, and no unpacked copy
    q, held, _ = grown(lambda: qn.quantize(x, dtype=code, granularity=granularity, symmetric=symmetric))
    assert q.nbytes <= held < q.nbytes + 8192


def test_the_bytes_of_int4_in_groups():
    q = qn.quantize(reals((1536, 384)), dtype="int4", granularity=qn.PerGroup(32))
    assert q.nbytes == 368_640 == q._held.nbytes + q.scale.nbytes


@pytest.mark.parametrize("name", MX_FORMATS)
def test_blocks_hold_what_nbytes_says(name):
    x = reals((1536, 384))
    q, held, peak = grown(lambda: qn.quantize(x, dtype=name))
    assert q.nbytes == x.size * q.element.bits // 8 + q.scales.nbytes + (4 if name == "nvfp4" else 0)
    assert q.nbytes <= held <= peak < q.nbytes + 16384


@pytest.mark.parametrize("code", PACKED)
def test_nothing_unpacks_a_whole_array(code, tmp_path):
    q = quantized(code, qn.PerChannel(0), (1024, 1024))
    out, free = np.empty(q.shape, np.float32), 5 << 16  # a band of 2^18 codes, and objects
    for name, call, result in (
        ("dequantize", lambda: q.dequantize(out=out), 0),
        ("slice", lambda: q[5:, 64:], 0),
        ("rows", lambda: q[[3, 5]], 0),
        ("column", lambda: q[:, 7], 0),
        ("transpose", lambda: q.T, 0),
        ("reshape", lambda: q.reshape(1024, 2, 512), 0),
        ("repr", lambda: repr(q), 0),
        ("==", lambda: q == q.copy(), 2 * q.nbytes),
        ("save", lambda: qn.save(tmp_path / "q.npz", {"q": q}), q.nbytes),
        ("load", lambda: qn.load(tmp_path / "q.npz"), 3 * q.nbytes),
        ("concatenate", lambda: qn.concatenate([q[:10], q[10:20]]), 0),
        ("copy", lambda: q.copy(), q.nbytes),
        ("pickle", lambda: pickle.dumps(q), 3 * q.nbytes),
    ):
        peak = grown(call)[2]
        assert peak < result + free, f"{name}: {peak}"


def test_codes_are_fresh_and_read_only():
    for q in every_kind():
        if q.nbytes < q.size:
            assert q.codes is not q.codes
            with pytest.raises(ValueError, match="read-only"):
                q.codes[0] = 1
        assert (q.codes.dtype, q.codes.shape) == (q.dtype, q.shape)


@pytest.mark.parametrize("code", PACKED)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (0, 3), (7,), (2, 3), (5, 1), (3, 5, 7), (4, 1023), (40, 9)])
def test_shapes_whose_rows_end_inside_a_byte(code, shape):
    q = quantized(code, shape=shape)
    want = qn.quantize_linear(reals(shape), q.scale, None if code[0] == "f" else q.zero_point, dtype=code)
    assert_same_bits(q.codes, want)
    assert_same_bits(q.dequantize(), qn.fake_quantize(reals(shape), q.qparams))
    assert q == qn.QuantizedArray(want, q.qparams) == pickle.loads(pickle.dumps(q)) == copy.deepcopy(q)
    if shape:
        assert_same_bits(q[::-1].codes, want[::-1])


@given(st.sampled_from(PACKED), st.lists(st.integers(0, 40), min_size=1, max_size=3), st.integers(1, 3), st.data())
def test_any_shape_on_any_thread_count(code, shape, threads, data):
    shape = tuple(shape)
    order = data.draw(st.permutations(range(len(shape))))
    x = reals(shape).transpose(order)
    with qn.threads(threads):
        q = qn.quantize(x, dtype=code)
        want = qn.quantize_linear(x, q.scale, dtype=code) if code[0] != "u" else qn.quantize_linear(
            x, q.scale, q.zero_point, dtype=code)  # fmt: skip
        assert_same_bits(q.codes, want)
        assert q.codes.strides == want.strides
        assert_same_bits(q.dequantize(), qn.dequantize_linear(want, q.scale, q.zero_point if code[0] == "u" else None))


@pytest.mark.parametrize("code", ["int4", "uint2", "float4_e2m1fn"])
@pytest.mark.parametrize("shape", [(3, 70_001), (70_001, 3), (257, 1023), (64, 4096), (4097, 33)])
def test_threads_share_no_byte(code, shape):
    """Large enough for several threads; rows that end inside a byte are cut at any column."""
    x = reals(shape)
    for granularity in (qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerGroup(7), qn.PerGroup(5, 0)):
        params = qn.choose_qparams(x, dtype=code, granularity=granularity)
        with qn.threads(1):
            want = qn.quantize(x, params)
            want_reals = want.dequantize()
        with qn.threads(2):
            for _ in range(3):
                q = qn.quantize(x, params)
                assert q == want
                assert_same_bits(q.dequantize(), want_reals)
        assert_same_bits(want_reals, qn.fake_quantize(x, params))
        assert_same_bits(qn.quantize(x.astype(np.float64), params).codes, want.codes)
        assert_same_bits(want.dequantize("float16"), want_reals.astype(np.float16))


@pytest.mark.parametrize("code", PACKED)
def test_rows_of_a_memory_map(code, tmp_path):
    q = quantized(code, qn.PerGroup(32))
    np.save(tmp_path / "codes.npy", q.codes.view(np.uint8))
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r").view(q.dtype)
    again = qn.QuantizedArray(mapped[::-1][::-1], q.qparams)
    assert again == q


# ---- equality is by bytes ----


@pytest.mark.parametrize("code", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_codes_that_are_nan_are_equal(code):
    q = qn.quantize(np.array([1.0, np.nan, -2.0], np.float32), qn.QParams(0.5, 0, code))
    assert np.isnan(q.dequantize()[1])
    assert q == qn.QuantizedArray(q.codes.copy(), q.qparams)
    assert (q != q.copy()) is False


@pytest.mark.parametrize("code", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_codes_of_both_zeros_differ(code):
    plus, minus = (qn.quantize(np.array([zero], np.float32), qn.QParams(0.5, 0, code)) for zero in (0.0, -0.0))
    assert plus != minus
    assert not plus == minus  # noqa: SIM201 - both operators


@pytest.mark.parametrize("name", MX_FORMATS)
def test_blocks_are_compared_by_bytes(name):
    x = reals((2, 64))
    x[0, 3] = np.nan
    assert qn.quantize(x, dtype=name) == qn.quantize(x, dtype=name)
    plus, minus = (qn.quantize(np.full((1, 32), zero, np.float32), dtype=name) for zero in (0.0, -0.0))
    assert plus != minus


# ---- indices ----

MASK = reals(SHAPE, 1) > 0
KEYS = [
    [3, 5],
    [],
    np.array([[0, 1], [2, -3]]),
    np.zeros((2, 2, 2), np.uint8),
    ([0, 1], [1, 2]),
    (np.zeros((2, 1), int), np.array([0, 1])),
    (slice(None), [0, 2]),
    (slice(None, None, -1), [-1, 0]),
    None,
    (..., None),
    (None, 2),
    (0, None, slice(None)),
    (slice(None), None, [1, 2]),
    (..., [1, 2, 3]),
    ([0, 1], slice(None), [3, 4]),
    (2, [1, 2]),
    (slice(None), 2, [1, 2]),
    ([1], slice(None), 2),
    ([0, 5], [1, 1], slice(0, 32)),
    (..., np.arange(32)),
    (..., np.r_[32:64, 0:32]),
    (..., slice(1, None)),
    (..., slice(None, None, 3)),
    MASK[:, 0, 0],
    MASK[:, :, 0],
    MASK,
    (slice(None), MASK[0, :, 0]),
    ([0, 2, 1], slice(0, 4), slice(32, 64)),
    (np.r_[2:6, 0:2],),
]


def refusal_of(call):
    """The sentence of a ValueError, or None; and the result."""
    try:
        return None, call()
    except ValueError as error:
        return str(error), None


def index_error(call):
    """The sentence of an IndexError, or None."""
    try:
        call()
    except IndexError as error:
        return str(error)
    return None


def assert_indexed(q, key, whole):
    """The result has the reals of NumPy's, and parameters of the right shape; or is refused in one sentence."""
    want = whole[key]
    refusal, part = refusal_of(lambda: q[key])
    if refusal is not None:
        assert re.match(r"^\w+: index must be (whole|a slice|such that) .*; got [^\n]*\.$", refusal)
        return False
    assert_same_bits(part.dequantize(), np.asarray(want), f"{q!r}[{key}]")
    if isinstance(part, qn.QuantizedArray):
        assert part.scale.shape == part.granularity.params_shape(part.shape)
        assert qn.QuantizedArray(part.codes, part.qparams) == part
    else:
        assert qn.MXArray(part.codes, part.scales, part.format, part.tensor_scale) == part
    return True


@pytest.mark.parametrize("code", ["int8", "int4", "uint2", "float4_e2m1fn"])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_indices(granularity, code):
    q = quantized(code, granularity)
    whole = q.dequantize()
    taken = [assert_indexed(q, key, whole) for key in KEYS]
    fewest = {"tensor": 29, "channel": 29, "row": 27, "group": 12}[granularity.kind]
    assert sum(taken) >= fewest


@pytest.mark.parametrize("name", MX_FORMATS)
def test_indices_of_blocks(name):
    q = qn.quantize(reals(), dtype=name)
    assert sum(assert_indexed(q, key, q.dequantize()) for key in KEYS) >= 20


def any_key(data, shape):
    parts = []
    for length in shape[: data.draw(st.integers(0, len(shape)))]:
        bounds = st.none() | st.integers(-length - 2, length + 2)
        part = st.builds(slice, bounds, bounds, st.none() | st.sampled_from([1, 2, -1]))
        if length:
            ids = st.integers(-length, length - 1)
            part = part | ids | st.lists(ids, min_size=2, max_size=2)
            part = part | st.lists(st.booleans(), min_size=length, max_size=length).map(np.array)
        parts.append(data.draw(part))
        if data.draw(st.integers(0, 5)) == 0:
            parts.append(None)
    return tuple(parts)


@settings(max_examples=300)
@given(st.sampled_from(GRANULARITIES), st.sampled_from(["int8", "int4", "uint2"]), st.data())
def test_any_index(granularity, code, data):
    q = quantized(code, granularity, (4, 4, 32))
    whole, key = q.dequantize(), any_key(data, q.shape)
    message = index_error(lambda: whole[key])
    if message is not None:
        assert index_error(lambda: q[key]).split()[:5] == message.split()[:5]
        return
    assert_indexed(q, key, whole)


def test_rows_of_an_embedding():
    """A matrix of ids over a table per channel gives rows, each with its own parameters."""
    table = quantized("int4", qn.PerChannel(0), (50, 16))
    ids = np.array([[3, 4, 3], [0, 49, -1]])
    rows = table[ids]
    assert (rows.shape, rows.granularity, rows.scale.shape) == ((2, 3, 16), qn.PerRow(), (2, 3))
    assert_same_bits(rows.dequantize(), table.dequantize()[ids])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (64, "index 64 is out of bounds for axis 0 with size 6"),
        ((0, 0, [1, -65]), "index -65 is out of bounds for axis 2 with size 64"),
        ((0, 0, 0, 0), "too many indices for array: array is 3-dimensional, but 4 were indexed"),
        ((..., ...), "an index can only have a single ellipsis ('...')"),
        (([0, 1], [0, 1, 2]), "shape mismatch: indexing arrays could not be broadcast together with shapes (2,) (3,) "),
        (
            np.ones(5, bool),
            "boolean index did not match indexed array along axis 0; size of axis is 6 but size of corresponding "
            "boolean axis is 5",
        ),
    ],
)
def test_indices_out_of_bounds_raise_as_numpy_does(key, message):
    for q in every_kind():
        with pytest.raises(IndexError) as caught:
            q[key]
        with pytest.raises(IndexError) as expected:
            reals()[key]
        assert str(caught.value) == str(expected.value).strip() == message.strip()


@pytest.mark.parametrize("key", [True, "a", 1.5, [0.5], (0, [[1], [2, 3]]), np.ma.array([1]), {1: 2}], ids=repr)
def test_what_is_no_index(key):
    requirement = "of integers, slices, None, ... and arrays of integers or booleans"
    for q in (quantized("int4"), qn.quantize(reals(), dtype="mxfp4")):
        with pytest.raises(TypeError, match=rf"^{type(q).__name__}: index must be {re.escape(requirement)}; got .*\.$"):
            q[key]


# ---- transposes, reshapes, copies ----


@pytest.mark.parametrize("code", ["int8", "int4", "uint2"])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_transposes(granularity, code):
    q = quantized(code, granularity)
    whole, codes = q.dequantize(), q.codes.view(code_type(code).storage)
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (-1, 0, 1)):
        for turned in (q.transpose(order), q.transpose(*order)):
            assert turned.shape == whole.transpose(order).shape
            assert_same_bits(turned.dequantize(), whole.transpose(order))
            assert_same_bits(turned.codes.view(codes.dtype), codes.transpose(order))
            assert_same_bits(turned.dequantize(out=np.empty(turned.shape, np.float32)), whole.transpose(order))
            assert pickle.loads(pickle.dumps(turned)) == turned == turned.copy()
            assert_same_bits(turned[:].dequantize(), whole.transpose(order))
    assert_same_bits(q.T.dequantize(), whole.T)
    assert_same_bits(q.mT.dequantize(), whole.mT if hasattr(whole, "mT") else whole.swapaxes(-1, -2))
    if granularity != qn.PerRow():
        assert q == q.T.T
    with pytest.raises(
        ValueError, match=r"^QuantizedArray\.transpose: axes must be an order of 3 axes; got \(0, 0\)\.$"
    ):
        q.transpose(0, 0)
    with pytest.raises(TypeError, match=r"^QuantizedArray\.transpose: axes must be an integer; got 'a'\.$"):
        q.transpose("a", 0, 1)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_codes_keep_the_memory_order(granularity):
    x = np.asfortranarray(reals())
    for code in ("int8", "int4"):
        q = qn.quantize(x, dtype=code, granularity=granularity)
        assert q == qn.quantize(reals(), dtype=code, granularity=granularity)
        q = qn.quantize(x, dtype=code, granularity=granularity)
        assert q.codes.flags.f_contiguous
        assert q.dequantize().flags.f_contiguous
        assert_same_bits(q.dequantize(), qn.fake_quantize(x, q.qparams))
        assert qn.QuantizedArray(q.codes, q.qparams) == q


RESHAPED = {  # kind of granularity: shapes that its parameters follow, and shapes that they do not
    "PerTensor()": [(-1,), (24, 64), (6, 2, 2, 64), (1536, 1)],
    "PerChannel(axis=0)": [(6, 256), (6, 2, 2, 64), (6, -1, 1), (-1,), (1536,)],
    "PerChannel(axis=1)": [(2, 3, 4, 64), (6, 4, 8, 8), (6, 4, -1)],
    "PerChannel(axis=-1)": [(24, 64), (4, 6, 64), (2, -1, 64)],
    "PerGroup(group_size=32, axis=-1)": [(24, 64), (-1,), (6, 4, 2, 32), (6, 256)],
    "PerGroup(group_size=2, axis=0)": [(6, 256), (3, 2, 4, 64)],
    "PerGroup(group_size=4, axis=-2)": [(24, 64), (3, 8, 64), (6, 4, 8, 8)],
    "PerRow()": [(24, 64), (2, 12, 64), (6, 256), (-1,)],
}


@pytest.mark.parametrize("code", ["int8", "int4", "uint2"])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_reshapes(granularity, code):
    q = quantized(code, granularity)
    whole, known = q.dequantize(), 0
    for shape in {shape for shapes in RESHAPED.values() for shape in shapes} | {(12, 128), (1, 1536), (1536, 1)}:
        refusal, new = refusal_of(lambda shape=shape: q.reshape(shape))
        if refusal is not None:
            assert re.match(r"^QuantizedArray\.reshape: shape must be one that the parameters of shape", refusal)
            assert shape not in RESHAPED[str(granularity)], refusal
            continue
        known += 1
        assert_same_bits(new.dequantize(), whole.reshape(shape))
        assert new.scale.shape == new.granularity.params_shape(new.shape)
        assert qn.QuantizedArray(new.codes, new.qparams) == new
    assert known >= 3
    assert q.reshape(*q.shape) == q == q.reshape(list(q.shape))
    for shape, got in ((5, "(5,)"), ((-1, -1, 4), "(-1, -1, 4)"), ((-2, 768), "(-2, 768)")):
        with pytest.raises(
            ValueError, match=rf"^QuantizedArray\.reshape: shape must be of 1536 elements; got {re.escape(got)}\.$"
        ):
            q.reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 5)])
def test_shapes_without_elements_or_axes(shape):
    q = quantized("int4", shape=shape)
    assert q.T.shape == shape[::-1]
    assert q.reshape(shape[::-1]).shape == shape[::-1]
    assert q[None].shape == (1, *shape)
    assert q[..., None].shape == (*shape, 1)
    assert_same_bits(q[..., None].codes, q.codes[..., None])
    assert q.copy() == q
    assert repr(q).startswith(f"QuantizedArray({shape}, int4, ")


def test_copies_have_their_own_memory():
    for q in every_kind():
        twin = q.copy()
        assert twin == q
        assert not np.shares_memory(twin._held, q._held)


# ---- NumPy's protocols ----

INTEGERS = ["int8", "uint8", "int64", bool, complex, object, "U5", "S3", "M8[s]", ml_dtypes.int4, "float8_e4m3fn"]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_only_reals_are_asked_for(dtype):
    """An integer array would hold truncated reals, not codes."""
    for q in every_kind():
        name = type(q).__name__
        text = rf"^{name}: dtype must be float32, float64, float16 or bfloat16; got .*\. q\.codes are the codes\.$"
        for convert in (np.asarray, np.array):
            with pytest.raises(TypeError, match=text):
                convert(q, dtype=dtype)
    if np.dtype(dtype).kind == "i" and np.dtype(dtype).name == "int8":
        with pytest.raises(TypeError, match=text):
            np.zeros(SHAPE, dtype)[...] = q


def test_asarray_dequantizes_alone():
    for q in every_kind():
        for convert in (np.asarray, np.array, np.asanyarray):
            assert_same_bits(convert(q), q.dequantize())
            assert convert(q, dtype=">f8").dtype == np.dtype(">f8")
            assert convert(q, dtype=np.longdouble).dtype == np.longdouble
            assert_same_bits(convert(q, dtype="bfloat16"), q.dequantize("bfloat16"))
        assert (np.shape(q), np.ndim(q), np.size(q), np.size(q, 1)) == (SHAPE, 3, q.size, 4)
        np.testing.assert_array_equal(q, q.dequantize())


PRODUCT = "Use qmatmul for a product of codes, or np.asarray(q) for its reals."
REFUSED = {
    "np.mean": lambda q, x: np.mean(q),
    "np.sum": lambda q, x: np.sum(q),
    "np.save": lambda q, x: np.save("never", q),
    "np.linalg.norm": lambda q, x: np.linalg.norm(q),
    "np.where": lambda q, x: np.where(x > 0, x, q),
    "np.copyto": lambda q, x: np.copyto(x, q),
    "np.add": lambda q, x: q + 1,
    "np.subtract": lambda q, x: 1 - q,
    "np.multiply": lambda q, x: np.multiply(x, q),
    "np.add.reduce": lambda q, x: np.add.reduce(q),
    "np.equal": lambda q, x: x == q,
    "np.less": lambda q, x: q < x,
    "np.negative": lambda q, x: -q,
    "np.absolute": lambda q, x: abs(q),
    "np.divmod": lambda q, x: divmod(q, 2),
    "bool": lambda q, x: bool(q),
    "in": lambda q, x: 0.0 in q,
}


@pytest.mark.parametrize("function", REFUSED)
def test_every_other_function_refuses(function):
    for q in every_kind():
        kind = "an MXArray" if isinstance(q, qn.MXArray) else "a QuantizedArray"
        with pytest.raises(TypeError) as caught:
            REFUSED[function](q, reals())
        text = f"{function}: arguments must be plain arrays; got {kind}. Use np.asarray(q) for its reals."
        assert str(caught.value) == text


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("np.matmul", lambda q, x: x @ q),
        ("np.matmul", lambda q, x: q @ x),
        ("np.matmul", lambda q, x: q @ q),
        ("np.matmul", lambda q, x: np.matmul(x, q)),
        ("np.dot", lambda q, x: np.dot(x, q)),
        ("np.einsum", lambda q, x: np.einsum("ijk,ijk", x, q)),
    ],
)
def test_products_name_qmatmul(function, call):
    for q in every_kind():
        with pytest.raises(TypeError) as caught:
            call(q, reals())
        assert str(caught.value).startswith(f"{function}: arguments must be plain arrays; got a")
        assert str(caught.value).endswith(f". {PRODUCT}")


def test_concatenate_names_its_own():
    q = quantized("int4")
    text = "np.concatenate: arguments must be plain arrays; got a QuantizedArray. "
    with pytest.raises(TypeError, match=re.escape(f"{text}Use qnumpy.concatenate to join codes, or np.asarray(q)")):
        np.concatenate([q, q])


def test_a_packed_weight_takes_codes():
    """`q @ packed` is the product of the packed weight."""
    q, w = quantized("int8", shape=(3, 16)), qn.quantize(reals((16, 4)), granularity=qn.PerChannel(1))
    assert_same_bits(q @ qn.PackedWeight(w), qn.PackedWeight(w).matmul(q))


# ---- what it shows ----


def test_repr_shows_values():
    assert repr(qn.quantize(np.array([1.0, -1.0], np.float32), dtype="int4")).splitlines()[1] == "[ 1. -1.]"
    for q in every_kind():
        head, *rows = repr(q).splitlines()
        assert head.startswith(f"{type(q).__name__}({SHAPE}, ")
        text = "\n".join(rows)
        assert "..." in text
        shown = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e[-+]\d+)?", text)]
        whole = q.dequantize()
        np.testing.assert_allclose(shown[:3], whole[0, 0, :3], atol=1e-3)
        np.testing.assert_allclose(shown[-3:], whole[-1, -1, -3:], atol=1e-3)


@pytest.mark.parametrize("code", ["int8", "int4"])
def test_repr_reads_what_it_shows(code):
    q = quantized(code, qn.PerChannel(0), (8, 1 << 20))
    for array in (q, q.reshape(8, 1 << 10, 1 << 10)):
        assert grown(lambda array=array: repr(array))[2] < 1 << 18
