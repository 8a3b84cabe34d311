"""Every row this CPU has gives what the formula says, for every granularity and small size."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.dtypes import code_type

ROWS = [name for name, supported in qn.show_config()["isas"].items() if supported]


@pytest.fixture(params=ROWS)
def row(request):
    before = qn.isa()
    qn.set_isa(request.param)
    yield request.param
    qn.set_isa(before)


def expected(x, scale, zero, low, high):
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.nan_to_num((x / scale).astype(np.float64), nan=0, posinf=1e9, neginf=-1e9)) + zero
    return np.clip(np.where(np.isnan(x), zero, steps), low, high)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_quantize_and_back(row, dtype, axis):
    rng = np.random.default_rng(0)
    code = code_type(dtype)
    for n in [*range(40), 70, 1000]:
        x = (rng.standard_normal((3, n, 5)) * 30).astype(np.float32)
        x.flat[::7] = np.round(x.flat[::7] * 2) / 2
        x.flat[3::50], x.flat[4::50], x.flat[5::50] = np.nan, np.inf, -1e38
        shape = () if axis is None else tuple(x.shape[d] if d == axis else 1 for d in range(3))
        scale = np.asarray(rng.choice([0.125, 0.5, 1.1, 0.7], shape), np.float32)
        zero = rng.integers(code.qmin, code.qmax + 1, shape)
        flat = (scale, zero) if axis is None else (scale.reshape(-1), zero.reshape(-1))
        q = qn.quantize_linear(x, *flat, dtype=dtype, axis=axis)
        want = expected(x, scale, zero, code.qmin, code.qmax)
        np.testing.assert_array_equal(q.astype(np.int64), want)
        back = qn.dequantize_linear(q, *flat, axis=axis)
        np.testing.assert_array_equal(back, (want - zero).astype(np.float32) * scale)
