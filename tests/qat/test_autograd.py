"""HIPS autograd differentiates fake-quantization with the gradients of qnumpy.qat, bit for bit."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
from gradient_problems import GRANULARITIES, problem
from strategies import CONVENTIONS, assert_same_bits

import qnumpy as qn
from qnumpy import qat


@pytest.fixture(scope="module")
def autograd():
    return pytest.importorskip("autograd")


@pytest.mark.peers
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("grad", ["clipped", "identity"])
def test_fake_quantize(autograd, grad, convention):
    x, g, scale, _ = problem(qn.PerChannel(1))
    params = qn.QParams(scale, 1, "int4", qn.PerChannel(1))
    pull, y = autograd.make_vjp(
        lambda x: qat.autograd.fake_quantize(x, params, convention=convention, grad=grad)
    )(x)  # fmt: skip
    want, saved = qat.fake_quantize(x, params, convention=convention)
    assert_same_bits(y, want)
    assert_same_bits(pull(g), qat.fake_quantize_vjp(g, saved, grad=grad))
    assert_same_bits(pull(-g), qat.fake_quantize_vjp(-g, saved, grad=grad))  # again


@pytest.mark.peers
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_lsq(autograd, granularity, normalize):
    x, g, scale, zero = problem(granularity)
    options = {"dtype": "int4", "granularity": granularity, "symmetric": False}

    def run(x, scale, zero):
        return qat.autograd.lsq(x, scale, zero, normalize=normalize, **options)

    y, saved = qat.lsq(x, scale, zero, **options)
    want = qat.lsq_vjp(g, saved, normalize=normalize)
    for number in range(3):
        pull, got = autograd.make_vjp(run, number)(x, scale, zero)
        assert_same_bits(got, y)
        assert_same_bits(np.asarray(pull(g)), want[number])
    together = autograd.make_vjp(lambda all_: run(*all_))((x, scale, zero))[0](g)
    for got, other in zip(together, want, strict=True):
        assert_same_bits(np.asarray(got), other + np.float32(0))  # autograd adds to zeros: -0 becomes 0


@pytest.mark.peers
def test_without_a_zero_point_inside_a_model(autograd):
    """The chain rule with autograd's own functions: y = tanh(fq(x) w)."""
    from autograd import numpy as anp

    x, _, _, _ = problem(qn.PerTensor())
    w, scale = np.full((7, 2), 0.3, np.float32), np.float32(0.4)

    def loss(w, scale):
        return anp.sum(anp.tanh(anp.dot(x, qat.autograd.lsq(w, scale, dtype="int4"))))

    dw, dscale = autograd.grad(loss, (0, 1))(w, scale)
    levels, saved = qat.lsq(w, scale, dtype="int4")
    g = x.T @ (1 / np.cosh(x @ levels) ** 2)
    want = qat.lsq_vjp(g, saved)
    # autograd writes the slope of tanh as 1 / cosh ** 2, too, but adds in its own order: 7 products below 1
    np.testing.assert_allclose(dw, want[0], atol=2.0**-18)
    np.testing.assert_allclose(dscale, want[1], atol=2.0**-16)


@pytest.mark.peers
def test_a_gradient_of_float64_is_rounded_to_the_dtype_of_x(autograd):
    x, g, scale, _ = problem(qn.PerTensor(), np.float16)
    wide = g.astype(np.float64) * (1 + 2.0**-30)
    pull, y = autograd.make_vjp(lambda x: qat.autograd.lsq(x, scale))(x)
    assert y.dtype == np.float16
    assert_same_bits(pull(wide), qat.lsq_vjp(g, qat.lsq(x, scale)[1])[0])


@pytest.mark.peers
def test_the_examples(autograd):
    assert doctest.testmod(qat.autograd, extraglobs={"np": np, "qn": qn}) == (0, 6)


@pytest.mark.parametrize("package", ["autograd", "jax"])
def test_without_the_package(package):
    script = f"""
import sys, numpy as np
sys.modules[{package!r}] = None  # as if it were not installed
import qnumpy as qn
module, x = qn.qat.{package}, np.ones(3, np.float32)
for call in (lambda: module.fake_quantize(x, qn.QParams(1.0, 0)), lambda: module.lsq(x, 1.0)):
    try:
        call()
    except ImportError as error:
        print(error.name, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    sentence = f"{package} qnumpy.qat.{package}.{{}}: {package} must be installed: pip install 'qnumpy[{package}]'."
    assert done.stdout.splitlines() == [sentence.format(name) for name in ("fake_quantize", "lsq")]


@pytest.mark.peers
def test_refusals_are_those_of_the_functions(autograd):
    with pytest.raises(TypeError, match=r"^lsq: x must be an array of float32, .*; got dtype float64\."):
        autograd.grad(lambda x: qat.autograd.lsq(x, 0.5))(np.ones(3))
