"""Layers between products, against their twins and closed forms."""

import math

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.ops.layers import gelu
from qnumpy.testing import layers


@pytest.mark.parametrize("n", [0, 1, 7, 8, 17, 70, 10_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_gelu(n, threads):
    x = np.random.default_rng(n).normal(size=n, scale=3).astype(np.float32)
    x[:3] = [np.nan, np.inf, -0.0][: min(n, 3)]
    y = np.empty_like(x)
    with qn.threads(threads):
        gelu(x, y)
    np.testing.assert_array_equal(y.view(np.int32), layers.gelu(x).view(np.int32))
    exact = [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x[3:].astype(float)]
    np.testing.assert_allclose(y[3:], exact, rtol=0, atol=4e-7 * max(1, np.abs(x[3:]).max(initial=0)))  # docs
