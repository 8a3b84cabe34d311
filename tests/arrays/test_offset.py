"""OffsetArray: codes with a float scale and a float offset."""

import pickle
import re

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import CODE_TYPES

F32 = np.float32
RNG = np.random.default_rng(6)
SHAPE = (6, 70)
WHOLE = tuple(slice(0, n) for n in SHAPE)
CODES = [name for name, code in CODE_TYPES.items() if code.real is None and code.bits <= 8]


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0), qn.PerRow(), qn.PerGroup(32)], ids=str)
@pytest.mark.parametrize("dtype", CODES)
def test_reals_follow_indices_and_files(dtype, granularity, tmp_path):
    code = CODE_TYPES[dtype]
    plain = RNG.integers(code.qmin, code.qmax + 1, SHAPE).astype(code.storage)
    shape = granularity.params_shape(SHAPE)
    scale, offset = RNG.uniform(0.1, 1, shape).astype(F32), RNG.normal(size=shape).astype(F32)
    q = qn.OffsetArray(plain.view(code.dtype), scale, offset, granularity, dtype=dtype)
    x = plain.astype(F32) * granularity.expand(scale, WHOLE) + granularity.expand(offset, WHOLE)
    assert_same_bits(q.dequantize(), x)
    assert_same_bits(qn.dequantize(q, dtype="float64"), x.astype(float))
    assert_same_bits(q.T.dequantize(), np.ascontiguousarray(x.T))
    assert_same_bits(q[1:4, 32:64].dequantize(), x[1:4, 32:64])
    shape = (6, 7, 10) if granularity.kind == "channel" else (2, 3, 70)
    assert_same_bits(q.reshape(shape).dequantize(), x.reshape(shape))
    assert pickle.loads(pickle.dumps(q)) == q == q.copy()
    assert q == q.T.T or granularity == qn.PerRow()  # whose parameters become those of groups
    for suffix in ("npz", "safetensors"):
        qn.save(tmp_path / f"q.{suffix}", {"q": q})
        assert qn.load(tmp_path / f"q.{suffix}")["q"] == q
    assert q.nbytes == code.packed_nbytes(SHAPE) + 8 * scale.size


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize("dtype", CODES)
def test_products(dtype, size, axis, symmetric, row):
    code, k, n = CODE_TYPES[dtype], 75, 21
    plain = RNG.integers(code.qmin, code.qmax + 1, (k, n)).astype(code.storage)
    shape = (-(-k // size), n)
    scale, offset = RNG.uniform(0.1, 1, shape).astype(F32), RNG.normal(size=shape).astype(F32)
    parts = [np.ascontiguousarray(part.T) if axis else part for part in (plain, scale, offset)]
    q = qn.OffsetArray(parts[0].view(code.dtype), *parts[1:], qn.PerGroup(size, axis), dtype=dtype)
    middle = code.symmetric_zero_point
    params = qn.QParams(scale, np.full(shape, middle), dtype, qn.PerGroup(size, 0))
    b = qn.QuantizedArray(plain.view(code.dtype), params)
    moved = (offset + scale.astype(float) * middle).astype(F32)
    bias = RNG.normal(size=n).astype(F32)
    for granularity in (None, qn.PerRow(), qn.PerTensor()):
        packed = qn.PackedWeight(q, axis=axis, bias=bias, x_granularity=granularity, symmetric=symmetric)
        assert packed.unpack() == q
        assert pickle.loads(pickle.dumps(packed)).unpack() == q
        for rows in (1, 3, 9, 140):
            x = RNG.normal(size=(rows, k)).astype(F32) + 1
            a = qn.quantize(x, granularity=granularity or qn.PerGroup(size), symmetric=symmetric,
                            dtype="int8" if symmetric else "uint8")  # fmt: skip
            expected = twin.matmul_offsets(a, b, moved, bias)
            assert_same_bits(x @ packed, expected)
            assert_same_bits(a @ packed, expected)
            w = q.dequantize("float64")
            exact = a.dequantize("float64") @ (w.T if axis else w) + bias
            np.testing.assert_allclose(x @ packed, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


def test_files_of_packed_weights(tmp_path):
    w = (RNG.normal(size=(8, 64)) + 2).astype(F32)
    packed = qn.PackedWeight(qn.weights.offsets(w, bits=3), axis=1, clip=(0, None))
    qn.save(tmp_path / "w.npz", {"w": packed})
    back = qn.load(tmp_path / "w.npz")["w"]
    x = RNG.normal(size=(3, 64)).astype(F32)
    assert_same_bits(x @ back, x @ packed)
    assert repr(back) == (
        "PackedWeight((64, 8), uint3 with offsets per group 32 on axis -2, x int8 per group, clip (0, inf))"
    )


def test_a_weight_that_no_product_takes():
    q = qn.OffsetArray(np.zeros((8, 4), np.uint8), np.ones(4), np.ones(4), qn.PerChannel(1))
    with pytest.raises(ValueError, match="must be") as caught:
        qn.PackedWeight(q)
    assert str(caught.value) == ("PackedWeight: w must be in groups of 16, 32, 64 or 128 along K; got per channel 1.")


@pytest.mark.parametrize(("scale", "offset", "message"), [
    (0.0, 0.0, "OffsetArray: scale must be positive, finite and normal in float32; got 0.0."),
    (1.0, np.nan, "OffsetArray: offset must be finite in float32; got nan."),
    (1.0, [1.0, 2.0], "OffsetArray: offset must be of shape (); got shape (2,)."),
])  # fmt: skip
def test_wrong_arguments(scale, offset, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        qn.OffsetArray(np.zeros((2, 3), np.uint8), scale, offset, qn.PerTensor())
