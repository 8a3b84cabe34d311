"""Folding of batch normalisation: the folded layer does what both did, in closed form and for every axis."""

import re

import numpy as np
import pytest
from strategies import assert_same_bits

from qnumpy import qat


def statistics(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "gamma": rng.normal(size=n), "beta": rng.normal(size=n), "mean": rng.normal(size=n),
        "variance": rng.uniform(0.1, 3, size=n),
    }  # fmt: skip


def normalized(y, gamma, beta, mean, variance, epsilon=1e-5):
    return (y - mean) / np.sqrt(variance + epsilon) * gamma + beta


@pytest.mark.parametrize("bias", [False, True])
def test_the_folded_layer_does_what_both_did(bias):
    rng = np.random.default_rng(1)
    x, w, more = rng.normal(size=(20, 7)), rng.normal(size=(7, 5)), statistics(5)
    given = rng.normal(size=5) if bias else None
    folded, shift = qat.fold_batch_norm(w, given, **more, axis=1)
    want = normalized(x @ w + (0 if given is None else given), **more)
    # float64: some roundings of 2**-53 of sums whose terms are below 100
    np.testing.assert_allclose(x @ folded + shift, want, rtol=0, atol=100 * 20 * 2.0**-53)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_every_axis(axis):
    w = np.random.default_rng(2).normal(size=(2, 3, 4, 5)).astype(np.float32)
    more = statistics(w.shape[axis])
    folded, shift = qat.fold_batch_norm(w, None, **more, axis=axis)
    factor = more["gamma"] / np.sqrt(more["variance"] + 1e-5)
    want = np.moveaxis(np.moveaxis(w.astype(np.float64), axis, -1) * factor, -1, axis)
    assert_same_bits(folded, want.astype(np.float32))
    assert_same_bits(shift, ((0 - more["mean"]) * factor + more["beta"]).astype(np.float32))


def test_closed_form_and_epsilon():
    one = np.ones(2, np.float32)
    w, bias = qat.fold_batch_norm(2 * np.eye(2, dtype=np.float32), one, 3 * one, one, -one, 3 * one, epsilon=1)
    assert w.tolist() == [[3, 0], [0, 3]]
    assert bias.tolist() == [4, 4]  # (1 + 1) 3 / 2 + 1


def test_arguments_are_not_modified():
    w, more = np.ones((3, 3), np.float32), statistics(3)
    before = [w.tobytes(), *(value.tobytes() for value in more.values())]
    qat.fold_batch_norm(w, more["mean"], **more)
    assert before == [w.tobytes(), *(value.tobytes() for value in more.values())]


def test_no_outputs():
    w, bias = qat.fold_batch_norm(np.ones((0, 3), np.float32), None, *[np.ones(0)] * 4)
    assert w.shape == (0, 3)
    assert bias.shape == (0,)


@pytest.mark.parametrize(
    ("changed", "error", "want"),
    [
        (
            {"w": np.ones((3, 2), int)}, TypeError,
            "w must be an array of float32, float64, float16 or bfloat16; got dtype int64.",
        ),
        ({"axis": 2}, ValueError, "axis must be in [-2, 1]; got 2."),
        ({"axis": 0.0}, TypeError, "axis must be an integer; got 0.0."),
        ({"axis": 1}, ValueError, "gamma must be of shape (2,); got shape (3,)."),
        ({"bias": np.ones(2)}, ValueError, "bias must be of shape (3,); got shape (2,)."),
        ({"beta": ["a"] * 3}, TypeError, "beta must be real; got ['a', 'a', 'a']."),
        ({"epsilon": "x"}, TypeError, "epsilon must be a real number; got 'x'."),
        ({"variance": [1.0, 0.0, 1.0], "epsilon": 0}, ValueError, "variance + epsilon must be positive; got 0.0."),
        ({"variance": [1.0, np.nan, 1.0]}, ValueError, "variance + epsilon must be positive; got nan."),
    ],
)  # fmt: skip
def test_refusals(changed, error, want):
    arguments = {"w": np.ones((3, 2), np.float32), "bias": None, **statistics(3), **changed}
    with pytest.raises(error, match=f"^fold_batch_norm: {re.escape(want)}$"):
        qat.fold_batch_norm(**arguments)
