"""GGUFArray: rows of blocks as an array, and as a QuantizedArray of the same reals."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from refusals import assert_refused, refusals

import qnumpy as qn
from qnumpy.ops.gguf import GGUF_TYPES, pack_block, unpack_block

ALL = pytest.mark.parametrize("name", GGUF_TYPES)
EXACT = [name for name, kind in GGUF_TYPES.items() if not kind.has_minimum]
WITH_MINIMUM = [name for name, kind in GGUF_TYPES.items() if kind.has_minimum]


def some(name, *shape, seed=0):
    """An array of random codes, integers of groups, and finite scales of both signs."""
    kind, rng = GGUF_TYPES[name], np.random.default_rng(seed)
    data = rng.integers(0, 256, (*shape[:-1], shape[-1] // kind.size * kind.nbytes), dtype=np.uint8)
    block = unpack_block(data.reshape(-1, kind.nbytes), kind)
    d, dmin = (rng.normal(size=block.d.shape).astype(np.float16) for _ in range(2))
    return qn.GGUFArray(pack_block(block._replace(d=d, dmin=dmin), kind).reshape(data.shape), name)


@ALL
def test_facts(name):
    kind, q = GGUF_TYPES[name], some(name, 2, 3, 512)
    assert (q.shape, q.ndim, q.size, len(q), q.type) == ((2, 3, 512), 3, 3072, 2, name)
    assert q.nbytes == q.data.nbytes == 3072 // kind.size * kind.nbytes
    assert q.granularity == qn.PerGroup(kind.group)
    assert repr(q) == f"GGUFArray((2, 3, 512), {name}, {kind.bits_per_weight:g} bits)"
    assert f"{q.nbytes:,} here" in q._repr_html_()


@ALL
def test_reals(name):
    q = some(name, 3, 512)
    x = q.dequantize()
    assert x.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(q), x)
    np.testing.assert_array_equal(qn.dequantize(q), x)
    np.testing.assert_array_equal(np.asarray(q, np.float64), x.astype(np.float64))
    with np.errstate(over="ignore"):
        for dtype in ("float64", "float16", "bfloat16"):
            expected = x.astype(getattr(ml_dtypes, dtype, dtype))
            assert q.dequantize(dtype).tobytes() == expected.tobytes()
    out = np.empty((3, 512), np.float32)
    assert q.dequantize(out=out) is out
    assert out.tobytes() == x.tobytes()
    # rows on their own, and of a view
    np.testing.assert_array_equal(qn.GGUFArray(q.data[1:2], name).dequantize()[0], x[1])
    np.testing.assert_array_equal(qn.GGUFArray(q.data[::-1], name).dequantize(), x[::-1])


@pytest.mark.parametrize("name", EXACT)
def test_a_quantized_array_of_the_same_bits(name):
    kind, q = GGUF_TYPES[name], some(name, 4, 512)
    same = q.to_quantized()
    assert isinstance(same, qn.QuantizedArray)
    assert same.qparams.granularity == qn.PerGroup(kind.group)
    assert (same.qparams.qmin, same.qparams.qmax) == (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1)
    assert same.qparams.code.bits <= 8
    assert set(np.unique(same.zero_point)) == {-1, 0}
    np.testing.assert_array_equal(same.dequantize(), q.dequantize())


def test_scales_of_zero_and_infinity():
    q = some("Q4_0", 2, 64)
    q.data[0, :2] = 0
    same = q.to_quantized()
    assert same.dequantize()[0, :32].tolist() == [0.0] * 32
    assert same.scale[0, 0] == 1
    q.data[0, :2] = [0x00, 0x7C]
    with pytest.raises(ValueError, match=r"^QParams: scale must be positive, finite and normal in float32; got inf"):
        q.to_quantized()
    assert np.isinf(q.dequantize()[0, :32]).any()


@pytest.mark.parametrize("name", WITH_MINIMUM)
def test_minima_have_no_codes(name):
    message = "type must be 'Q4_0', 'Q5_0', 'Q8_0', 'Q3_K' or 'Q6_K'; got"
    with pytest.raises(TypeError, match=rf"^GGUFArray.to_quantized: {message} '{name}'\.$"):
        some(name, 1, 256).to_quantized()


def test_equality_and_copies():
    q = some("Q4_K", 2, 256)
    for same in (pickle.loads(pickle.dumps(q)), copy.copy(q), copy.deepcopy(q)):
        assert same == q
    assert q != some("Q4_K", 2, 256, seed=1)
    assert q != some("Q4_0", 2, 256)
    assert q != 3
    with pytest.raises(TypeError, match="unsupported operand"):
        q + 1
    with pytest.raises(ValueError, match=r"^GGUFArray: copy must be None or True; got False\."):
        np.asarray(q, copy=False)


def test_empty():
    q = qn.GGUFArray(np.zeros((3, 0), np.uint8), "Q4_K")
    assert (q.shape, q.dequantize().shape) == ((3, 0), (3, 0))
    assert qn.GGUFArray(np.zeros((0, 18), np.uint8), "q4_0").shape == (0, 32)


NAMES = "'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q2_K', 'Q3_K', 'Q4_K', 'Q5_K' or 'Q6_K'"


@refusals(
    [
        (
            lambda: qn.GGUFArray(np.zeros((1, 18), np.uint8), "Q9"),
            ValueError,
            f"GGUFArray: type must be {NAMES}; got 'Q9'",
        ),
        (lambda: qn.GGUFArray(np.zeros((1, 18), np.uint8), 4), ValueError, f"GGUFArray: type must be {NAMES}; got 4"),
        (
            lambda: qn.GGUFArray(np.zeros((1, 18), np.int8), "Q4_0"),
            TypeError,
            "GGUFArray: data must be an array of uint8; got dtype int8",
        ),
        (
            lambda: qn.GGUFArray(np.zeros((1, 17), np.uint8), "Q4_0"),
            ValueError,
            "GGUFArray: data must be rows of whole blocks of 18 bytes for Q4_0; got shape (1, 17)",
        ),
        (
            lambda: qn.GGUFArray(np.uint8(3), "Q4_0"),
            ValueError,
            "GGUFArray: data must be rows of whole blocks of 18 bytes for Q4_0; got shape ()",
        ),
        (
            lambda: some("Q4_0", 1, 32).dequantize("int8"),
            TypeError,
            "GGUFArray.dequantize: dtype must be float32, float64, float16 or bfloat16; got 'int8'",
        ),
        (
            lambda: some("Q4_0", 1, 32).dequantize(out=np.empty(32, np.float32)),
            ValueError,
            "GGUFArray.dequantize: out must be of shape (1, 32); got shape (32,)",
        ),
    ]
)
def test_refuses(call, exception, message):
    assert_refused(call, exception, message)
