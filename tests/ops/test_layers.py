"""Layers between products, against closed forms."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.layers import look_up


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (40, 50)])
@pytest.mark.parametrize("threads", [1, 2])
def test_look_up(dtype, shape, threads):
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-128, 128, (30, 65), np.int8), rng.random(30, np.float32)
    ids, y = np.asarray(rng.integers(-30, 30, shape, dtype)), np.empty((*shape, 65), np.float32)
    with qn.threads(threads):
        look_up("test", ids, codes, scale, y)
    np.testing.assert_array_equal(y, codes[ids] * scale[ids][..., None])


@pytest.mark.parametrize("outside", [30, -31, 2**40])
def test_an_id_outside(outside):
    codes, scale, y = np.ones((30, 4), np.int8), np.ones(30, np.float32), np.empty((100, 4), np.float32)
    ids = np.zeros(100, np.int64)
    ids[77] = outside
    with pytest.raises(IndexError, match=rf"^test: every id must be in \[-30, 30\); got {outside}\.$"):
        look_up("test", ids, codes, scale, y)
