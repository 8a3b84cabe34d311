"""OffsetArray: codes with a float scale and a float offset."""

import pickle
import re

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
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
    q = qn.OffsetArray(plain.view(code.dtype), scale, offset, granularity)
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


@pytest.mark.parametrize(("scale", "offset", "message"), [
    (0.0, 0.0, "OffsetArray: scale must be positive, finite and normal in float32; got 0.0."),
    (1.0, np.nan, "OffsetArray: offset must be finite in float32; got nan."),
    (1.0, [1.0, 2.0], "OffsetArray: offset must be of shape (); got shape (2,)."),
])  # fmt: skip
def test_wrong_arguments(scale, offset, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        qn.OffsetArray(np.zeros((2, 3), np.uint8), scale, offset, qn.PerTensor())
