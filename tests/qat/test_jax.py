"""JAX differentiates and compiles fake-quantization with the gradients of qnumpy.qat, bit for bit."""

import doctest

import ml_dtypes
import numpy as np
import pytest
from gradient_problems import GRANULARITIES, problem
from strategies import CONVENTIONS, assert_same_bits

import qnumpy as qn
from qnumpy import qat

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("grad", ["clipped", "identity"])
def test_fake_quantize(jax, grad, convention, compiled):
    x, g, scale, _ = problem(qn.PerChannel(1))
    params = qn.QParams(scale, 1, "int4", qn.PerChannel(1))

    def run(x, g):
        y, pull = jax.vjp(lambda x: qat.jax.fake_quantize(x, params, convention=convention, grad=grad), x)
        return y, pull(g)[0]

    got = (jax.jit(run) if compiled else run)(x, g)
    want, saved = qat.fake_quantize(x, params, convention=convention)
    assert_same_bits(np.asarray(got[0]), want)
    assert_same_bits(np.asarray(got[1]), qat.fake_quantize_vjp(g, saved, grad=grad))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_lsq(jax, granularity, normalize, compiled):
    x, g, scale, zero = problem(granularity)
    options = {"dtype": "int4", "granularity": granularity, "symmetric": False}

    def run(x, scale, zero, g):
        y, pull = jax.vjp(lambda *all_: qat.jax.lsq(*all_, normalize=normalize, **options), x, scale, zero)
        return y, *pull(g)

    got = (jax.jit(run) if compiled else run)(x, scale, zero, g)
    y, saved = qat.lsq(x, scale, zero, **options)
    for mine, want in zip(got, (y, *qat.lsq_vjp(g, saved, normalize=normalize)), strict=True):
        assert_same_bits(np.asarray(mine), want)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats(jax, dtype):
    x, g, scale, _ = problem(qn.PerTensor(), dtype)
    y, pull = jax.vjp(lambda x, s: qat.jax.lsq(x, s, dtype="int4"), x, scale)
    want, saved = qat.lsq(x, scale, dtype="int4")
    assert_same_bits(np.asarray(y), want)
    for mine, other in zip(pull(jax.numpy.asarray(g)), qat.lsq_vjp(g, saved), strict=False):
        assert_same_bits(np.asarray(mine), other)


def test_a_step_of_training(jax):
    """Compiled once, called with other values; the loss is JAX's own."""
    x, _, scale, _ = problem(qn.PerTensor())
    traces = []

    @jax.jit
    def step(x, scale):
        traces.append(1)
        return scale - 0.1 * jax.grad(lambda s: ((qat.jax.lsq(x, s, dtype="int4") - x) ** 2).sum())(scale)

    for _ in range(3):
        y, saved = qat.lsq(x, scale, dtype="int4")
        want = scale - np.float32(0.1) * qat.lsq_vjp(2 * (y - x), saved)[1]
        scale = np.asarray(step(x, scale))
        np.testing.assert_allclose(scale, want, rtol=2.0**-22)  # XLA may fuse the product and the difference
    assert len(traces) == 1


def test_a_batch_of_arrays(jax):
    """vmap calls qnumpy for each array."""
    x, _, scale, _ = problem(qn.PerTensor())
    got = jax.vmap(lambda x: qat.jax.lsq(x, scale, granularity=None))(x)
    assert_same_bits(np.asarray(got), qat.lsq(x, scale)[0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_empty_and_0d(jax, shape):
    x = np.ones(shape, np.float32)
    for function in (lambda x: qat.jax.fake_quantize(x, qn.QParams(1.0, 0)), lambda x: qat.jax.lsq(x, 1.0)):
        assert jax.grad(lambda x, function=function: function(x).sum())(x).shape == shape


def test_the_examples(jax):
    assert doctest.testmod(qat.jax, extraglobs={"np": np, "qn": qn}) == (0, 4)
