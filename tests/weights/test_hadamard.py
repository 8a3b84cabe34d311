"""hadamard is the constructor; tests/ops/test_hadamard.py has the transform."""

import numpy as np
import pytest

import qnumpy as qn


def test_it_returns_the_transform():
    h = qn.weights.hadamard(96)
    assert isinstance(h, qn.weights.Hadamard)
    assert h == qn.weights.Hadamard(96, 0)
    assert qn.weights.hadamard(96, seed=None) == qn.weights.Hadamard(96, None)


def test_seeds_differ():
    matrices = [qn.weights.hadamard(48, seed=seed).matrix() for seed in (None, 0, 1, 2**63)]
    for i, a in enumerate(matrices):
        for b in matrices[:i]:
            assert (np.sign(a) != np.sign(b)).any()
    assert (qn.weights.hadamard(48, seed=None).matrix()[0] > 0).sum() > 0


def test_an_outlier_is_spread_over_its_block():
    x = np.zeros(384, np.float32)
    x[100] = 1000
    y = qn.weights.hadamard(384).apply(x)
    np.testing.assert_allclose(np.abs(y), 1000 / np.sqrt(384), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_gptq_of_a_rotated_weight(dtype):
    """Moments of the transformed inputs are those that the rotated weight needs."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(400, 48)) @ rng.normal(size=(48, 48)), rng.normal(size=(8, 48))
    h = qn.weights.hadamard(48)
    moments = qn.MomentsObserver().observe(h.apply(x))
    result = qn.weights.gptq(h.rotate(w, axis=1), moments, qn.PerChannel(0), dtype=dtype)
    assert (result.after <= result.before).all()
    y = h.apply(x) @ result.q.dequantize().T + result.bias
    assert np.square(y - x @ w.T).mean() < 1e-2 * np.square(x @ w.T).mean()
