"""PackedWeight with a transform: the bits of a product of transformed inputs."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from strategies import big_endian, strided

import qnumpy as qn
from qnumpy.weights import hadamard

X8 = qn.QParams(0.03, 3, "int8")
Y8 = qn.QParams(0.05, -7, "int8")
KINDS = {
    "int8": {"granularity": qn.PerChannel(1)},
    "int4": {"dtype": "int4", "granularity": qn.PerChannel(1)},
    "tensor": {"dtype": "uint8", "symmetric": False},
    "groups": {"dtype": "int4", "granularity": qn.PerGroup(32, 0)},
    "groups of 2 bits": {"dtype": "uint2", "granularity": qn.PerGroup(16, 0), "symmetric": False},
    "float8": {"dtype": "float8_e4m3fn", "granularity": qn.PerChannel(1)},
}
INPUTS = {
    "default": {},
    "affine": {"symmetric": False},
    "rows": {"x_granularity": qn.PerRow()},
    "tensor": {"x_granularity": qn.PerTensor(), "symmetric": False},
    "seven bits": {"activation_bits": 7},
    "fixed": {"x_qparams": X8},
}


def made(kind, k, n, seed=0):
    rng = np.random.default_rng(seed)
    h = hadamard(k, seed=seed)
    w = rng.normal(size=(k, n)).astype(np.float32)
    return h, qn.quantize(h.rotate(w), **KINDS[kind])


def same(a, b):
    if isinstance(a, qn.QuantizedArray):
        return np.array_equal(a.codes, b.codes) and a.qparams == b.qparams
    return np.array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("options", INPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_transform_then_multiply(row, kind, options):
    if kind == "float8" and options != "default":
        pytest.skip("x stays float32")
    for k, n in ((384, 40), (40, 3), (36, 17), (192, 64)):
        h, q = made(kind, k, n)
        plain = qn.PackedWeight(q, bias=np.arange(n), **INPUTS[options])
        turned = qn.PackedWeight(q, bias=np.arange(n), hadamard=h, **INPUTS[options])
        for m in (0, 1, 2, 3, 4, 5, 33, 150):
            x = np.random.default_rng(m).standard_t(3, size=(m, k)).astype(np.float32)
            assert same(x @ turned, h.apply(x) @ plain), (k, n, m)


@pytest.mark.parametrize("kind", ["int8", "groups"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(kind, threads):
    h, q = made(kind, 384, 64)
    x = np.random.default_rng(1).normal(size=(900, 384)).astype(np.float32)
    expected = h.apply(x) @ qn.PackedWeight(q)
    with qn.threads(threads):
        assert same(x @ qn.PackedWeight(q, hadamard=h), expected)


def test_passes_of_many_rows():
    """The product takes x in passes of bounded memory."""
    h, q = made("int8", 36864, 3)
    x = np.random.default_rng(1).normal(size=(520, 36864)).astype(np.float32)
    assert same(x @ qn.PackedWeight(q, hadamard=h), h.apply(x) @ qn.PackedWeight(q))


@pytest.mark.parametrize("out_qparams", [None, Y8])
@pytest.mark.parametrize("x_qparams", [None, X8])
def test_output_stages(out_qparams, x_qparams):
    h, q = made("int8", 96, 20)
    options = {"x_qparams": x_qparams, "out_qparams": out_qparams, "clip": (-3, 2)}
    x = np.random.default_rng(2).normal(size=(2, 9, 96))
    assert same(x @ qn.PackedWeight(q, hadamard=h, **options), h.apply(x) @ qn.PackedWeight(q, **options))


def test_types_layouts_and_axes():
    h, q = made("int8", 48, 10)
    x = np.random.default_rng(3).normal(size=(7, 48)).astype(np.float32)
    plain, turned = qn.PackedWeight(q), qn.PackedWeight(q, hadamard=h)
    for source in (x.astype(np.float64), x.astype(np.float16), x.astype(ml_dtypes.bfloat16), strided(x), big_endian(x)):
        before = source.copy()
        assert same(source @ turned, h.apply(source) @ plain)
        assert np.array_equal(source, before)
    codes = qn.quantize(h.rotate(np.ones((5, 48)), axis=1), granularity=qn.PerChannel(0))
    assert same(x @ qn.PackedWeight(codes, axis=1, hadamard=h), h.apply(x) @ qn.PackedWeight(codes, axis=1))


def test_rows_with_nan_and_infinities_leave_the_others_alone(row):
    h, q = made("int8", 384, 16)
    x = np.random.default_rng(4).normal(size=(6, 384)).astype(np.float32)
    expected = x @ qn.PackedWeight(q, hadamard=h)
    x[2, 5], x[4, 7] = np.nan, -np.inf
    got = x @ qn.PackedWeight(q, hadamard=h)
    assert same(got, h.apply(x) @ qn.PackedWeight(q))
    assert same(got[[0, 1, 3, 5]], expected[[0, 1, 3, 5]])


def test_outliers_cost_less():
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(200, 384)).astype(np.float32), rng.normal(size=(384, 64)).astype(np.float32)
    x[:, [3, 80]] *= 60
    h, per = hadamard(384), {"granularity": qn.PerChannel(1)}
    plain = qn.PackedWeight(qn.quantize(w, **per))
    turned = qn.PackedWeight(qn.quantize(h.rotate(w), **per), hadamard=h)
    plain_error, error = (np.square(x @ packed - x @ w).mean() for packed in (plain, turned))
    assert error < plain_error / 8


def test_repr_attributes_and_pickles():
    h, q = made("int8", 384, 8)
    packed = qn.PackedWeight(q, hadamard=h)
    assert repr(packed) == "PackedWeight((384, 8), int8 per channel 1, x int8 per row, Hadamard(384, seed=0))"
    assert packed.hadamard == h
    assert qn.PackedWeight(q).hadamard is None
    again = pickle.loads(pickle.dumps(packed))
    x = np.random.default_rng(6).normal(size=(3, 384))
    assert again.hadamard == h
    assert same(x @ again, x @ packed)


def test_refusals():
    h, q = made("int8", 96, 8)
    with pytest.raises(
        TypeError, match=r"^PackedWeight: hadamard must be a Hadamard, of qn\.weights\.hadamard; got 96\.$"
    ):
        qn.PackedWeight(q, hadamard=96)
    wrong = r"^PackedWeight: hadamard must be of 96 inputs, as w has; got Hadamard\(48, seed=0\)\.$"
    with pytest.raises(ValueError, match=wrong):
        qn.PackedWeight(q, hadamard=hadamard(48))
    codes = qn.quantize(np.ones((2, 96)))
    text = r"^PackedWeight\.matmul: x must be an array of floats for a weight with hadamard; got a QuantizedArray\. "
    with pytest.raises(TypeError, match=text):
        codes @ qn.PackedWeight(q, hadamard=h)
