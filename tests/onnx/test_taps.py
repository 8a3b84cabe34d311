"""Tensors of a model, read while onnxruntime runs it."""

import numpy as np
import pytest
from static_models import Builder

import qnumpy as qn
from qnumpy.errors import CalibrationError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from qnumpy.onnx._taps import observe, tapped, unmasked  # noqa: E402


def test_observers_see_inputs_inner_tensors_and_outputs() -> None:
    b = Builder()
    w = b.rng.normal(size=(4, 3)).astype(np.float32)
    b.op("Relu", [b.op("MatMul", ["x", b.constant("w", w)], "sum")], "y")
    model = b.model({"x": ["n", 4]}, ["y"])
    before = model.SerializeToString()
    x = [b.rng.normal(size=(n, 4)).astype(np.float32) for n in (1, 5, 2)]
    observers = {name: qn.MinMaxObserver() for name in ("x", "sum", "y", "nowhere")}
    observe("test", model, x, observers, progress=False)
    whole = np.concatenate(x)
    for name, expected in {"x": whole, "sum": whole @ w, "y": np.maximum(whole @ w, 0)}.items():
        np.testing.assert_allclose(observers[name].range(), [expected.min(), expected.max()], rtol=1e-6, atol=1e-7)
    with pytest.raises(CalibrationError):
        observers["nowhere"].range()
    assert tapped(model, ["nowhere"])[2] == ["nowhere"]
    assert model.SerializeToString() == before


def test_a_transform_stands_before_the_observer() -> None:
    b = Builder()
    b.op("Identity", ["x"], "y")
    observers = {"y": qn.MinMaxObserver()}
    x = np.array([1.0, 2.0], np.float32)
    observe("test", b.model({"x": [2]}, ["y"]), [x], observers, transform=lambda name, x: -x)
    assert observers["y"].range() == (-2.0, -1.0)


def test_no_batch_is_an_error() -> None:
    b = Builder()
    b.op("Identity", ["x"], "y")
    with pytest.raises(CalibrationError, match=r"test: data must be one batch or more; got none\."):
        observe("test", b.model({"x": [2]}, ["y"]), [], {"y": qn.MinMaxObserver()})


@pytest.mark.parametrize("mask", [np.finfo(np.float32).min, np.finfo(np.float16).min, -1e4, -1e9, 1e30])
def test_masks_become_infinities(mask: float) -> None:
    x = np.array([0.5, mask, -3.0, np.float32(mask) + np.float32(2)], np.float32)
    assert unmasked(x).tolist() == [0.5, np.sign(mask) * np.inf, -3.0, np.sign(mask) * np.inf]


@pytest.mark.parametrize("x", [[1.0, -5000.0], [200.0, -10000.0], [20000.0, 15000.0], [np.nan, 1.0], []])
def test_other_values_stay(x: list[float]) -> None:
    array = np.array(x, np.float32)
    assert unmasked(array) is array
