"""Weights and activations as the tools for weights meet them."""

import numpy as np


def noise(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def uneven(*shape, axis, seed=0, dtype=np.float64):
    """Channels whose ranges differ by up to 2^14."""
    channels = shape[axis]
    spread = np.exp2(np.random.default_rng(seed + 1).uniform(-7, 7, channels))
    return (
        noise(*shape, seed=seed) * np.expand_dims(spread, tuple(d for d in range(len(shape)) if d != axis % len(shape)))
    ).astype(dtype)


def widest(array, axis):
    return np.abs(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).max(axis=1)
