"""CodebookArray: codes that name levels of tables, their products and their files."""

import pickle

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

F32 = np.float32
RNG = np.random.default_rng(4)
SHAPE = (6, 70)
WHOLE = tuple(slice(0, n) for n in SHAPE)
SHARED = [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerRow(), qn.PerGroup(32)]
SCALES = [None, qn.PerTensor(), qn.PerGroup(32), qn.PerChannel(0)]


def random_array(shape, levels, granularity, scales):
    codes = RNG.integers(0, levels, shape).astype(np.uint8)
    codebook = np.sort(RNG.normal(size=(*granularity.params_shape(shape), levels)), axis=-1).astype(F32)
    scale = None if scales is None else RNG.uniform(0.1, 1, scales.params_shape(shape)).astype(F32)
    return qn.CodebookArray(codes, codebook, granularity, scale=scale, scale_granularity=scales)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("granularity", SHARED, ids=str)
@pytest.mark.parametrize("levels", [3, 16, 200])
def test_reals_follow_indices_and_shapes(levels, granularity, scales, tmp_path):
    q = random_array(SHAPE, levels, granularity, scales)
    places = np.arange(int(np.prod(granularity.params_shape(SHAPE)))).reshape(granularity.params_shape(SHAPE))
    tables = np.broadcast_to(granularity.expand(places, WHOLE), SHAPE)
    x = q.codebook.reshape(-1, levels)[tables, q.codes.astype(int)]
    if scales is not None:
        x = x * scales.expand(q.scale, WHOLE)
    assert_same_bits(q.dequantize(), x)
    assert_same_bits(q.T.dequantize(), np.ascontiguousarray(x.T))
    assert_same_bits(q[1:3].dequantize(), x[1:3])
    assert_same_bits(q[[3, 0], 32:64].dequantize(), x[[3, 0], 32:64])
    assert_same_bits(np.asarray(q, np.float64), x.astype(float))
    out = np.empty(SHAPE, np.float16)
    assert q.dequantize("float16", out) is out
    assert_same_bits(out, x.astype(np.float16))
    assert q == q.T.T or qn.PerRow() in (granularity, scales)  # whose parameters become those of groups
    assert q.copy() == pickle.loads(pickle.dumps(q)) == q
    assert pickle.loads(pickle.dumps(q.T)) == q.T
    for suffix in ("npz", "safetensors"):
        qn.save(tmp_path / f"q.{suffix}", {"q": q, "t": q.T})
        back = qn.load(tmp_path / f"q.{suffix}")
        assert back["q"] == q
        assert back["t"] == q.T


@pytest.mark.parametrize(("granularity", "shape"), [(qn.PerTensor(), (70, 6)), (qn.PerChannel(0), (2, 3, 70)),
                                                    (qn.PerRow(), (2, 3, 70))])  # fmt: skip
def test_reshape(granularity, shape):
    q = random_array(SHAPE, 5, granularity, None)
    if granularity == qn.PerChannel(0):
        shape = (6, 7, 10)
    assert_same_bits(q.reshape(shape).dequantize(), q.dequantize().reshape(shape))


def test_an_array_without_axes():
    q = qn.CodebookArray(np.uint8(3), [1, 2, 3, 4.5])
    assert float(q.dequantize()) == 4.5
    assert repr(q) == "CodebookArray((), uint2, 4 levels per tensor)\n4.5"


@pytest.mark.parametrize("columns", [1, 33])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("levels", [2, 16, 17, 256])
def test_products_are_those_of_the_reals(levels, axis, columns, row):
    k = 75
    shape = (columns, k) if axis else (k, columns)
    bias = RNG.normal(size=columns).astype(F32)
    for granularity in (qn.PerTensor(), qn.PerChannel(1 - axis)):
        for scales in (None, qn.PerTensor(), qn.PerChannel(1 - axis), qn.PerGroup(16, axis), qn.PerGroup(5, axis)):
            q = random_array(shape, levels, granularity, scales)
            packed = qn.PackedWeight(q, axis=axis, bias=bias, clip=(-4, 5))
            w = q.dequantize()
            w = w.T if axis else w
            for rows in (0, 1, 2, 13, 130):
                x = RNG.normal(size=(rows, k)).astype(F32)
                assert_same_bits(x @ packed, twin.matmul_floats(x, w, bias, (-4, 5)))
            assert packed.unpack() == q
            assert pickle.loads(pickle.dumps(packed)).unpack() == q


def test_files_of_packed_weights(tmp_path):
    q = qn.weights.codebook(RNG.normal(size=(8, 64)).astype(F32))
    packed = qn.PackedWeight(q, axis=1)
    qn.save(tmp_path / "w.safetensors", {"w": packed})
    back = qn.load(tmp_path / "w.safetensors")["w"]
    x = RNG.normal(size=(3, 64)).astype(F32)
    assert_same_bits(x @ back, x @ packed)
    assert repr(back) == "PackedWeight((64, 8), 16 levels per tensor, scale per group 64, x float32)"


def test_compare():
    w = RNG.normal(size=(8, 64)).astype(F32)
    for q in (qn.weights.codebook(w), qn.weights.offsets(w, bits=3)):
        report, plain = qn.compare(w, q, per_channel=True), qn.compare(w, q.dequantize(), axis=0)
        assert report.sqnr_db == plain.sqnr_db
        assert (report.dtype, report.nbytes_after, report.levels) == (q.code_name, q.nbytes, None)
    assert "uint4 per tensor" in str(qn.compare(w, qn.weights.codebook(w)))


CODES = np.zeros((2, 3), np.uint8)


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((CODES.astype(np.int8), [0, 1]), {},
     "CodebookArray: codes must be an array of uint2, uint4 or uint8; got dtype int8."),
    ((CODES, [0.0]), {}, "CodebookArray: codebook must be of shape (levels,) with 2 to 256 levels; got shape (1,)."),
    ((CODES, [0, np.inf]), {}, "CodebookArray: codebook must be finite in float32; got inf."),
    ((CODES, [0, 1], qn.PerChannel(0)), {},
     "CodebookArray: codebook must be of shape (2, levels) with 2 to 256 levels; got shape (2,)."),
    ((CODES + 2, [0, 1]), {}, "CodebookArray: codes must be below 2, the number of levels; got 2."),
    ((CODES, [0, 1]), {"scale_granularity": qn.PerTensor()},
     "CodebookArray: scale_granularity must be left out without scale; got PerTensor()."),
    ((CODES, [0, 1]), {"scale": [1, 2]}, "CodebookArray: scale must be of shape (); got shape (2,)."),
    ((CODES, [0, 1]), {"scale": 0.0},
     "CodebookArray: scale must be positive, finite and normal in float32; got 0.0."),
])  # fmt: skip
def test_wrong_arguments(arguments, options, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        qn.CodebookArray(*arguments, **options)
    assert str(caught.value) == message


def test_weights_that_no_product_takes():
    q = random_array((8, 4), 4, qn.PerChannel(0), None)
    with pytest.raises(ValueError, match=r"^PackedWeight: w must be of one table of levels, or one for each channel"):
        qn.PackedWeight(q)
    packed = qn.PackedWeight(random_array((8, 4), 4, qn.PerTensor(), None))
    with pytest.raises(TypeError, match=r"^PackedWeight.matmul: x must be an array of floats for a weight of floats"):
        qn.quantize(np.ones((2, 8), F32)) @ packed
