"""A small array, a gradient, scales and zero points that the adapters of autograd frameworks are tested on."""

import numpy as np

import qnumpy as qn

GRANULARITIES = [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerGroup(3), qn.PerRow()]


def problem(granularity, dtype=np.float32):
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(5, 7)).astype(dtype) for _ in range(2))
    shape = granularity.params_shape(x.shape)
    return x, g, rng.uniform(0.1, 0.5, shape).astype(np.float32), rng.uniform(-4, 4, shape).astype(np.float32)
