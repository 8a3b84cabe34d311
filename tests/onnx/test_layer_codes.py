"""Codes of a layer's weight and bias."""

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.onnx._forms.codes import Moments, layer_codes, stored_codes

ORDERS = (1, 2, 3), (2, 3, 1)


def reals(codes: np.ndarray, scale: np.ndarray, axis: int = 0) -> np.ndarray:
    return codes * scale.reshape([-1 if d == axis else 1 for d in range(codes.ndim)]).astype(np.float64)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (5, 7, 1, 1), (3, 1, 5, 5), (2, 1, 1, 1)])
@pytest.mark.parametrize("moments", [False, True])
def test_pairs_stay_within_128_and_the_error_within_a_step(shape: tuple[int, ...], moments: bool) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=shape).astype(np.float32)
    k = int(np.prod(shape[1:]))
    known = None
    if moments:
        rows = rng.normal(size=(400, k)) @ rng.normal(size=(k, k))
        known = Moments(rows.mean(axis=0), np.cov(rows.T).reshape(k, k))
    codes = layer_codes(w, 0, rng.normal(size=shape[0]), 0.02, orders=ORDERS, moments=known)
    for order in ORDERS:
        flat = codes.codes.transpose(0, *order).reshape(len(w), -1).astype(int)
        even = flat[:, : flat.shape[1] // 2 * 2]
        assert np.abs(even[:, ::2] + even[:, 1::2]).max(initial=0) <= 128
    assert np.abs(codes.codes.astype(int)).max() <= 127
    limit = 30 if moments else 12  # steps: taken off pairs, or moved between inputs that go together
    assert (np.abs(w - reals(codes.codes, codes.scale)) <= limit * codes.scale.reshape(-1, 1, 1, 1)).all()


def test_moments_lower_the_error_of_the_outputs() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 64)) @ rng.normal(size=(64, 64)) + 1
    w = rng.normal(size=(16, 64)).astype(np.float32)
    known = Moments(x.mean(axis=0), np.cov(x.T))
    bias = np.zeros(16)
    exact = x @ w.T
    for orders in (None, ((1,),)):
        plain, better = (layer_codes(w, 0, bias, 0.05, orders=orders, moments=m) for m in (None, known))
        errors = [np.square(x @ reals(c.codes, c.scale).T + c.bias * c.bias_scale.astype(float) - exact).sum() for c in (plain, better)]
        assert errors[1] < 0.5 * errors[0]


def test_scales_hold_any_bias() -> None:
    w = np.array([[1e-20], [0.0], [1.0], [0.0]], np.float32)
    bias = np.array([7.0, -7.0, 7.0, 0.0])
    codes = layer_codes(w, 0, bias, 1e-3, orders=None)
    assert codes.bias is not None
    np.testing.assert_allclose(codes.bias * codes.bias_scale.astype(float), bias, rtol=2**-21)
    assert (np.abs(codes.bias) <= 2**30).all()
    assert codes.codes[[1, 3]].tolist() == [[0], [0]]


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("size", [1, 32, 37, 97 * 97, 144])
def test_stored_codes_stand_for_the_weight(dtype: str, size: int) -> None:
    w = np.random.default_rng(3).normal(size=size).astype(np.float32)
    codes, scale = stored_codes(w, dtype)
    assert codes.dtype == dtype
    assert (np.abs(codes * scale.astype(float) - w.reshape(codes.shape)) <= scale / 2 * (1 + 1e-6)).all()


def test_codes_are_those_of_quantize_where_nothing_binds() -> None:
    w = np.random.default_rng(4).uniform(-1, 1, size=(4, 200)).astype(np.float32)
    codes = layer_codes(w, 0, None, 0.02, orders=None)
    best = qn.quantize(w, granularity=qn.PerChannel(0)).dequantize()
    assert np.square(w - reals(codes.codes, codes.scale)).sum() <= 1.0001 * np.square(w - best).sum()
