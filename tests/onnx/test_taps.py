"""Tensors of a model, read while onnxruntime runs it."""

from typing import Any

import numpy as np
import pytest
from static_models import Builder

import qnumpy as qn
from qnumpy.errors import CalibrationError, FileFormatError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from qnumpy.onnx._pieces import PieceModel  # noqa: E402
from qnumpy.onnx._taps import observe, tapped, unmasked  # noqa: E402
from qnumpy.onnx.session import session  # noqa: E402


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


def chain(length: int, batch: Any = "n") -> Any:
    """Return products one after the other, of which each reads the first one's input too: longer than a piece."""
    b = Builder()
    scale = b.constant("scale", np.linspace(0.5, 1.5, 8, dtype=np.float32))
    halves = b.op("Mul", [scale, b.constant("half", np.float32(0.5))], "halves")  # of constants, for every piece
    x = "x"
    for i in range(length):
        x = b.op("MatMul", [x, b.normal(f"w{i}", 8, 8)], f"product{i}")
        x = b.op("Add", [b.op("Mul", [x, halves], f"scaled{i}"), "x"], f"sum{i}")
    return b.model({"x": [batch, 8]}, [x])


@pytest.mark.parametrize("batch", ["n", -1])
def test_a_model_in_pieces_shows_what_the_whole_one_does(batch: Any) -> None:
    model = chain(20, batch)
    names = ["x", "halves", *(f"{kind}{i}" for i in range(20) for kind in ("product", "scaled", "sum"))]
    x = [np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32) for n in (3, 1, 4)]
    observers = {name: qn.MinMaxObserver() for name in names}
    observe("test", model, x, observers, progress=False)
    with_outputs, outputs, left_out = tapped(model, names)
    assert not left_out
    engine = session(with_outputs)
    runs = [engine.run(list(outputs.values()), {"x": batch}) for batch in x]
    for name, arrays in zip(outputs, zip(*runs, strict=True), strict=True):
        expected = min(a.min() for a in arrays), max(a.max() for a in arrays)
        np.testing.assert_allclose(observers[name].range(), expected, rtol=1e-6, atol=1e-6)
    parts = PieceModel(model, names)
    shown = [list(tensors) for tensors in parts.run({"x": x[0]})]
    assert len(shown) > 5
    assert max(map(len, shown)) < len(names) / 4  # a few at a time
    assert sorted(name for tensors in shown for name in tensors) == sorted(names)


def test_a_model_with_an_initializer_that_can_be_fed_stays_whole() -> None:
    model = chain(8)
    model.graph.input.append(onnx.helper.make_tensor_value_info("scale", 1, [8]))
    with pytest.raises(FileFormatError):
        PieceModel(model, ["sum0"])
    observers = {"sum7": qn.MinMaxObserver()}
    observe("test", model, [np.ones((2, 8), np.float32)], observers, progress=False)
    assert observers["sum7"].count_ == 16


def test_a_batch_that_a_piece_cannot_run_is_one_sentence() -> None:
    b = Builder()
    b.op("Reshape", ["x", b.constant("shape", np.array([3, 4]))], "y")
    model = b.model({"x": ["n", 4]}, ["y"])
    with pytest.raises(ValueError, match=r"test: data must be batches that the model can run; got batch 1, at which"):
        observe(
            "test", model, [np.ones((n, 4), np.float32) for n in (3, 2)], {"y": qn.MinMaxObserver()}, progress=False
        )


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
