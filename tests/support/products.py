"""Operands of integer products, and the exact result."""

import numpy as np

BYTES = ["int8", "uint8"]
KINDS = ["random", "extreme", "alternating"]


def codes(rng, dtype, shape, kind="random"):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if kind == "random":
        return rng.integers(low, high + 1, shape).astype(dtype)
    if kind == "extreme":
        return np.full(shape, rng.choice([low, high]), dtype)
    return np.where(np.indices(shape).sum(0) % 2, low, high).astype(dtype)


def exact(a, b, a_zero=0, b_zero=0):
    """The int64 product through float64, whose sums are exact below 2**53; BLAS makes it fast."""
    left, right = (np.asarray(x, np.float64) - np.asarray(z, np.float64) for x, z in ((a, a_zero), (b, b_zero)))
    return (left @ right).astype(np.int64)
