"""Each row is quantized on its own."""

import numpy as np
import pytest
from layers import noise, uneven

import qnumpy as qn


@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 5), (5, 0), (6, 9), (2, 3, 8), (2, 0, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
def test_each_row_on_its_own(shape, symmetric, dtype):
    x = uneven(*shape, axis=0, dtype=np.float32) if shape and shape[0] else noise(*shape, dtype=np.float32)
    q = qn.dynamic_quantize(x, dtype=dtype, symmetric=symmetric)
    assert (q.shape, q.codes.dtype) == (x.shape, qn.QParams(1, 0, dtype).dtype)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 and x.size else [x]
    one = [qn.quantize(row, dtype=dtype, symmetric=symmetric) for row in rows]
    assert np.array_equal(q.codes.reshape(-1), np.concatenate([each.codes.reshape(-1) for each in one]))
    if x.size:
        assert q.scale.reshape(-1).tolist() == [float(each.scale) for each in one]
    assert np.array_equal(np.asarray(q).reshape(-1), np.concatenate([np.asarray(each).reshape(-1) for each in one]))


def test_per_tensor_is_quantize():
    x = noise(4, 5)
    assert qn.dynamic_quantize(x, per="tensor") == qn.quantize(x)
    assert qn.dynamic_quantize(x) == qn.quantize(x, granularity=qn.PerChannel(0))
