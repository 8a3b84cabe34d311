"""PackedWeight of floats: x stays float32; float8 and float4 codes, MX formats, NVFP4."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.arrays.mx import MX_FORMATS
from qnumpy.dtypes import CODE_TYPES

F32 = np.float32
FLOATS = [name for name, code in CODE_TYPES.items() if code.real is not None]
RNG = np.random.default_rng(8)
W = RNG.standard_normal((70, 33)).astype(F32)
X = RNG.standard_normal((5, 70)).astype(F32)
BIAS = RNG.standard_normal(33).astype(F32)
GRANULARITIES = [qn.PerTensor(), qn.PerChannel(1), qn.PerChannel(-1), qn.PerGroup(32, 0), qn.PerGroup(7, -2)]
OF_ROWS = {"tensor": qn.PerTensor(), "channel": qn.PerChannel(0)}


def turned(granularity):
    """The same parameters for a weight (N, K)."""
    return OF_ROWS.get(granularity.kind) or qn.PerGroup(granularity.group_size, 1)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_codes_of_floats(dtype, granularity, row):
    q = qn.quantize(W, dtype=dtype, granularity=granularity)
    packed = qn.PackedWeight(q, bias=BIAS, clip=(-3, None))
    expected = twin.matmul_floats(X, q.dequantize(), BIAS, (-3, np.inf))
    for x in (X, np.asfortranarray(X), np.repeat(X, 2, 0)[::2], X.astype(">f4")):
        assert_same_bits(x @ packed, expected)
    assert_same_bits(X[2] @ packed, expected[2])
    assert_same_bits(X[:4].reshape(2, 2, 70) @ packed, expected[:4].reshape(2, 2, 33))
    other = qn.quantize(np.ascontiguousarray(W.T), dtype=dtype, granularity=turned(granularity))
    assert_same_bits(X @ qn.PackedWeight(other, axis=1, bias=BIAS, clip=(-3, None)), expected)
    assert packed.unpack() == q
    assert packed.qparams == q.qparams


def test_rows_of_a_weight_of_pytorch():
    q = qn.quantize(np.ascontiguousarray(W.T), dtype="float8_e4m3fn", granularity=qn.PerRow())
    assert_same_bits(X @ qn.PackedWeight(q, axis=1), twin.matmul_floats(X, q.dequantize().T))


@pytest.mark.parametrize("name", MX_FORMATS)
def test_blocks(name, row):
    q = qn.quantize(W.T, dtype=name)
    packed = qn.PackedWeight(q, axis=1, bias=BIAS)
    expected = twin.matmul_floats(X, q.dequantize().T, BIAS)
    assert_same_bits(X @ packed, expected)
    assert_same_bits(X[:1] @ packed, expected[:1])
    assert packed.shape == (70, 33)
    assert packed.unpack() == q
    assert packed.qparams is None
    assert repr(packed) == f"PackedWeight((70, 33), {name}, x float32, bias)"


@pytest.mark.parametrize("name", ["mxfp8_e5m2", "nvfp4"])
def test_a_block_that_is_nan_makes_its_column_nan(name):
    w = W.copy()
    w[40, 3] = np.nan
    q = qn.quantize(w.T, dtype=name)
    y = X @ qn.PackedWeight(q, axis=1)
    assert_same_bits(y, twin.matmul_floats(X, q.dequantize().T))
    np.testing.assert_array_equal(np.isnan(y).any(0), np.isnan(q.dequantize()).any(1))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_reals_become_float32(dtype):
    packed = qn.PackedWeight(qn.quantize(W, dtype="float8_e5m2"))
    x = X.astype(dtype)
    assert_same_bits(x @ packed, x.astype(F32) @ packed)


@pytest.mark.parametrize("w", [qn.quantize(W, dtype="float8_e4m3fn"), qn.quantize(W.T, dtype="mxfp4")], ids=["q", "mx"])
def test_out_qparams_quantize_y(w):
    axis = int(isinstance(w, qn.MXArray))
    params, reals = qn.QParams(0.2, 5, "uint8"), X @ qn.PackedWeight(w, axis=axis, bias=BIAS)
    packed = qn.PackedWeight(w, axis=axis, bias=BIAS, out_qparams=params)
    assert (X @ packed) == qn.quantize(reals, params)
    out = np.empty(reals.shape, np.uint8)
    packed.matmul(X, out=out)
    assert_same_bits(out, qn.quantize(reals, params).codes)


@pytest.mark.parametrize("w", [qn.quantize(W, dtype="float4_e2m1fn", granularity=qn.PerGroup(16, 0)),
                               qn.quantize(W.T, dtype="nvfp4")], ids=["q", "mx"])  # fmt: skip
def test_a_pickle_gives_the_same_products(w):
    axis = int(isinstance(w, qn.MXArray))
    packed = qn.PackedWeight(w, axis=axis, bias=BIAS, clip=(0, 6), out_qparams=qn.QParams(0.1, 0))
    copy = pickle.loads(pickle.dumps(packed))
    assert (X @ copy) == (X @ packed)
    assert repr(copy) == repr(packed)
    assert copy.nbytes == packed.nbytes


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_weights(shape):
    x = np.ones((2, shape[0]), F32)
    for granularity in (qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(4, 0)):
        q = qn.quantize(np.zeros(shape, F32), dtype="float8_e4m3fn", granularity=granularity)
        packed = qn.PackedWeight(q)
        assert_same_bits(x @ packed, np.zeros((2, shape[1]), F32))
        assert pickle.loads(pickle.dumps(packed)).unpack() == q
    blocks = qn.quantize(np.zeros(shape[::-1], F32), dtype="mxfp8_e4m3")
    packed = qn.PackedWeight(blocks, axis=1)
    assert_same_bits(x @ packed, np.zeros((2, shape[1]), F32))
    assert packed.unpack() == blocks
    assert (np.ones((0, shape[0]), F32) @ packed).shape == (0, shape[1])


def test_memory_is_that_of_the_codes():
    w = np.zeros((256, 512), F32)
    for name, bits in (("mxfp8_e4m3", 8), ("mxfp6_e2m3", 6), ("mxfp4", 4)):
        packed = qn.PackedWeight(qn.quantize(w.T, dtype=name), axis=1)
        assert packed.nbytes == 256 * 512 * bits // 8 + 256 // 32 * 512 + 512  # codes, scales, a byte a column


F8 = qn.quantize(np.ones((4, 3), F32), dtype="float8_e4m3fn")
MX = qn.quantize(np.ones((4, 3), F32), dtype="mxfp4")
LEFT_OUT = "must be left out for a weight of floats, with which x stays float32; got"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qn.PackedWeight(MX), ValueError,
         "PackedWeight: axis must be 1 for an MXArray, whose blocks lie along its last axis; got 0. Pass the weight as "
         "(N, K)."),
        (lambda: qn.PackedWeight(MX[0], axis=1), ValueError, "PackedWeight: w must be 2-D; got shape (3,)."),
        (lambda: qn.PackedWeight(MX, axis=2), ValueError, "PackedWeight: axis must be in [-2, 1]; got 2."),
        (lambda: qn.PackedWeight(F8, symmetric=False), ValueError, f"PackedWeight: symmetric {LEFT_OUT} False."),
        (lambda: qn.PackedWeight(F8, activation_bits=7), ValueError, f"PackedWeight: activation_bits {LEFT_OUT} 7."),
        (lambda: qn.PackedWeight(MX, axis=1, x_granularity=qn.PerRow()), ValueError,
         f"PackedWeight: x_granularity {LEFT_OUT} PerRow()."),
        (lambda: qn.PackedWeight(F8, x_qparams=qn.QParams(0.1, 0)), ValueError,
         f"PackedWeight: x_qparams {LEFT_OUT} QParams(int8, per tensor, scale=0.1, zero_point=0)."),
        (lambda: qn.PackedWeight(F8, scale_dtype="float16"), ValueError,
         "PackedWeight: scale_dtype must be float32 for a weight of floats; got float16."),
        (lambda: qn.PackedWeight(qn.quantize(W, dtype="float8_e5m2", granularity=qn.PerChannel(0))), ValueError,
         "PackedWeight: w must be quantized per tensor, per channel on the axis of N, or in groups along K; got per "
         "channel 0. Use axis=1 if w is of shape (N, K), as PyTorch stores weights."),
        (lambda: qn.quantize(np.ones((2, 4), F32)) @ qn.PackedWeight(F8), TypeError,
         "PackedWeight.matmul: x must be an array of floats for a weight of floats; got a QuantizedArray. Use "
         "x.dequantize()."),
        (lambda: qn.qmatmul(qn.quantize(np.ones((2, 4), F32)), F8), TypeError,
         "qmatmul: b must be of int8, uint8, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2 or "
         "uint2; got float8_e4m3fn."),
        (lambda: qn.qmatmul(qn.quantize(np.ones((2, 4), F32)), MX), TypeError,
         "qmatmul: b must be a QuantizedArray; got an MXArray."),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
