"""Fake-quantization with its straight-through gradient, and the object with an observer; PyTorch as a peer."""

import re

import numpy as np
import pytest
from strategies import CONVENTIONS, GRIDS, LAYOUTS, assert_same_bits, case

import qnumpy as qn
from qnumpy import qat
from qnumpy.dtypes import FLOAT_TYPES

SOURCES = {name: FLOAT_TYPES[name].dtype for name in ("float32", "float16", "bfloat16")}


def params_of(name, n=37, code="int4", source=np.float32):
    grid = GRIDS[name]
    x, scale, zero = case(grid, n, code, source)
    return x, qn.QParams(scale, zero, code, grid.granularity)


# ---- the function and its gradient ----


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grid", GRIDS)
def test_forward_is_fake_quantize(grid, source, convention):
    for code in ("int8", "uint4", "int2", "uint16"):
        x, params = params_of(grid, code=code, source=SOURCES[source])
        y, saved = qat.fake_quantize(x, params, convention=convention)
        assert_same_bits(y, qn.fake_quantize(x, params, convention=convention), code)
        assert saved.inside.to_bool().shape == x.shape
        assert saved.inside.bits.nbytes == -(-x.size // 8)  # one bit for each element


def test_the_gradient_passes_where_the_rounded_code_lies_in_the_range():
    """Closed form: S = 1, codes [-2, 1]; a tie at an end rounds to the even code, inside or outside."""
    x = np.array([-2.51, -2.5, -2.0, -0.3, 0.5, 1.49, 1.5, 1.51, 9.0], np.float32)
    g = np.arange(1, 10, dtype=np.float32)
    y, saved = qat.fake_quantize(x, qn.QParams(1.0, 0, "int2"))
    assert y.tolist() == [-2, -2, -2, 0, 0, 1, 1, 1, 1]
    assert qat.fake_quantize_vjp(g, saved).tolist() == [0, 2, 3, 4, 5, 6, 0, 0, 0]
    assert qat.fake_quantize_vjp(g, saved, grad="identity").tolist() == g.tolist()


def test_the_zero_point_moves_the_range():
    x = np.array([-1.0, 0.0, 3.0, 4.0], np.float32)
    _, saved = qat.fake_quantize(x, qn.QParams(1.0, 0, "uint2"))
    assert qat.fake_quantize_vjp(np.ones(4, np.float32), saved).tolist() == [0, 1, 1, 0]
    _, saved = qat.fake_quantize(x, qn.QParams(1.0, 1, "uint2"))
    assert qat.fake_quantize_vjp(np.ones(4, np.float32), saved).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_slope_over_a_step(grid):
    """A secant whose ends lie a step apart has slope 1 inside, 0 outside: what the estimator says in between."""
    x, scale, zero = case(GRIDS[grid], 37, "int8", np.float32)
    scale = np.full_like(scale, 0.25)  # exact steps
    params = qn.QParams(scale, np.clip(zero, -100, 100), "int8", GRIDS[grid].granularity)
    x = np.nan_to_num(np.clip(x, -100, 100))
    low, high = (qat.fake_quantize(x + np.float32(side), params) for side in (-0.125, 0.125))
    both = [saved.inside.to_bool() for _, saved in (low, high)]
    slope = (high[0] - low[0]) / np.float32(0.25)
    got = qat.fake_quantize_vjp(np.ones_like(x), qat.fake_quantize(x, params)[1])
    off_ties = np.rint(x * 4 + 0.5) - np.rint(x * 4 - 0.5) == 1
    inside, outside = both[0] & both[1] & off_ties, ~both[0] & ~both[1]
    assert inside.sum() > 10
    assert (slope[inside] == 1).all()
    assert (got[inside] == 1).all()
    assert (slope[outside] == 0).all()
    assert (got[outside] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_layout_and_inputs_are_not_modified(grid, layout):
    x, params = params_of(grid)
    g = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    want, saved = qat.fake_quantize(x, params)
    dx = qat.fake_quantize_vjp(g, saved)
    given, gradient = LAYOUTS[layout](x), LAYOUTS[layout](g)
    before = given.tobytes(), gradient.tobytes()
    y, saved = qat.fake_quantize(given, params)
    assert_same_bits(y, want)
    assert_same_bits(qat.fake_quantize_vjp(gradient, saved), dx)
    assert_same_bits(qat.fake_quantize_vjp(gradient, saved, grad="identity"), g)
    assert (given.tobytes(), gradient.tobytes()) == before


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grad", ["clipped", "identity"])
def test_dtypes_in_and_out(source, grad):
    x = np.array([0.3, -9.0, 1.2], SOURCES[source])
    y, saved = qat.fake_quantize(x, qn.QParams(0.5, 0, "int4"))
    assert y.dtype == x.dtype
    for other in SOURCES.values():
        g = np.array([1.5, 2.0, -0.1], other)
        dx = qat.fake_quantize_vjp(g, saved, grad=grad)
        assert dx is not g
        assert_same_bits(dx, np.where([True, grad == "identity", True], g, np.zeros((), other)))


def test_nan_infinities_and_zeros():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    y, saved = qat.fake_quantize(x, qn.QParams(0.5, 1, "int8"))
    assert y.tolist() == [0, 63, -64.5, 0, 0]
    assert qat.fake_quantize_vjp(np.ones(5, np.float32), saved).tolist() == [0, 0, 0, 1, 1]
    assert not qat.fake_quantize_vjp(np.zeros(5, np.float32), saved).any()
    g = np.array([np.inf, np.nan, np.nan, np.inf, np.nan], np.float32)
    assert_same_bits(qat.fake_quantize_vjp(g, saved), np.array([0, 0, 0, np.inf, np.nan], np.float32))


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_and_0d(shape):
    x = np.zeros(shape, np.float32)
    y, saved = qat.fake_quantize(x, qn.QParams(1.0, 0))
    for array in (y, qat.fake_quantize_vjp(x, saved), qat.fake_quantize_vjp(x, saved, grad="identity")):
        assert array.shape == shape


def test_python_numbers():
    y, saved = qat.fake_quantize([0.12, 99.0], qn.QParams(0.5, 0))
    assert_same_bits(y, np.array([0.0, 63.5], np.float32))
    assert_same_bits(qat.fake_quantize_vjp([1, 2], saved), np.array([1, 0], np.float32))


def test_refusals():
    x, params = np.zeros((2, 3), np.float32), qn.QParams(1.0, 0)
    _, saved = qat.fake_quantize(x, params)
    each = qn.QParams(np.ones(4), 0, "int8", qn.PerChannel(0))
    kinds = "an array of float32, float16 or bfloat16; got dtype"
    for error, want, call in [
        (TypeError, f"fake_quantize: x must be {kinds} float64.", lambda: qat.fake_quantize(np.ones(3), params)),
        (TypeError, "fake_quantize: qparams must be a QParams; got None.", lambda: qat.fake_quantize(x, None)),
        (
            TypeError, "fake_quantize: qparams must be a QParams of an integer type; got float4_e2m1fn.",
            lambda: qat.fake_quantize(x, qn.QParams(1.0, 0, "float4_e2m1fn")),
        ),
        (
            ValueError, "fake_quantize: qparams must be of scale shape (2,) for an array of shape (2, 3); got (4,).",
            lambda: qat.fake_quantize(x, each),
        ),
        (
            ValueError, "fake_quantize: convention must be one of 'onnx', 'guide', 'torch', 'tflite'; got 'x'.",
            lambda: qat.fake_quantize(x, params, convention="x"),
        ),
        (TypeError, f"fake_quantize_vjp: g must be {kinds} bool.", lambda: qat.fake_quantize_vjp(x > 0, saved)),
        (
            ValueError, "fake_quantize_vjp: g must be of shape (2, 3) like x; got shape (3, 2).",
            lambda: qat.fake_quantize_vjp(x.T, saved),
        ),
        (
            ValueError, "fake_quantize_vjp: grad must be one of 'identity', 'clipped'; got 'none'.",
            lambda: qat.fake_quantize_vjp(x, saved, grad="none"),
        ),
        (
            TypeError, "fake_quantize_vjp: saved must be what fake_quantize saved; got 1.",
            lambda: qat.fake_quantize_vjp(x, 1),
        ),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"^{re.escape(want)}$"):
            call()


# ---- the object ----


def batches():
    rng = np.random.default_rng(3)
    return [rng.normal(size=(8, 5)).astype(np.float32) * (k + 1) for k in range(4)]


def test_observe_and_fake_quantize_in_one_call():
    """Each call uses the range of all arrays so far, its own included."""
    quantizer, observer = qat.FakeQuantize(), qn.MovingAverageMinMaxObserver(dtype="uint8", symmetric=False)
    for x in batches():
        y = quantizer(x)
        params = observer.observe(x).qparams()
        assert_same_bits(y, qn.fake_quantize(x, params))
        assert str(quantizer.qparams()) == str(params)
        g = np.ones_like(x)
        assert_same_bits(quantizer.backward(g), qat.fake_quantize_vjp(g, qat.fake_quantize(x, params)[1]))
    assert quantizer.parameters() == []


def test_weights_forget_all_arrays_but_the_last():
    last = qn.MovingAverageMinMaxObserver(1.0, granularity=qn.PerChannel(1))
    quantizer = qat.FakeQuantize(last)
    for w in batches():
        assert_same_bits(quantizer(w), qn.fake_quantize(w, qn.choose_qparams(w, granularity=qn.PerChannel(1))))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_convention(convention):
    x = batches()[0]
    quantizer = qat.FakeQuantize(qn.MinMaxObserver(dtype="int4"), convention=convention)
    y = quantizer(x)
    assert_same_bits(y, qn.fake_quantize(x, quantizer.qparams(), convention=convention))


def test_delay_observes_only():
    quantizer, x = qat.FakeQuantize(delay=2), batches()
    for k in range(2):
        assert quantizer(x[k]) is x[k]
        g = np.ones_like(x[k])
        assert quantizer.backward(g) is g
    observer = qn.MovingAverageMinMaxObserver(dtype="uint8", symmetric=False)
    params = observer.observe(x[0]).observe(x[1]).observe(x[2]).qparams()
    assert_same_bits(quantizer(x[2]), qn.fake_quantize(x[2], params))


def test_enable_and_freeze():
    quantizer, x = qat.FakeQuantize(), batches()
    quantizer(x[0])
    params = quantizer.qparams()
    quantizer.enable_observer(False)
    assert_same_bits(quantizer(x[3]), qn.fake_quantize(x[3], params))
    quantizer.enable_fake_quantize(False)
    assert quantizer(x[3]) is x[3]
    g = np.ones_like(x[3])
    assert quantizer.backward(g) is g
    quantizer.enable_observer()
    assert quantizer(x[3]) is x[3]
    wider = quantizer.qparams()
    assert wider.scale > params.scale  # observed without simulation
    quantizer.freeze()
    assert (quantizer.observes, quantizer.quantizes) == (False, True)
    for batch in x:
        assert_same_bits(quantizer(batch), qn.fake_quantize(batch, wider))
    quantizer.enable_observer(np.True_)
    quantizer.enable_fake_quantize(True)
    quantizer(x[0])
    assert quantizer.qparams().scale != wider.scale


def test_nothing_seen():
    for empty in (False, True):
        quantizer = qat.FakeQuantize()
        if empty:
            with pytest.raises(qn.CalibrationError, match=r"; got .*\.$"):
                quantizer(np.empty((0, 3), np.float32))
        quantizer.freeze()
        for call in (quantizer.qparams, lambda quantizer=quantizer: quantizer(np.ones(3, np.float32))):
            with pytest.raises(qn.CalibrationError, match=r"; got .*\.$"):
                call()


def test_an_empty_array_changes_nothing():
    quantizer, x = qat.FakeQuantize(), batches()[0]
    quantizer(x)
    before = quantizer.qparams().scale
    assert quantizer(x[:0]).shape == (0, 5)
    assert quantizer.backward(x[:0]).shape == (0, 5)
    assert quantizer.qparams().scale == before


@pytest.mark.parametrize("source", SOURCES)
def test_object_of_narrow_floats(source):
    x = batches()[0].astype(SOURCES[source])
    quantizer = qat.FakeQuantize()
    y = quantizer(x)
    assert_same_bits(y, qn.fake_quantize(x, quantizer.qparams()))
    assert quantizer.backward(x).dtype == x.dtype


def test_refusals_of_the_object():
    quantizer = qat.FakeQuantize()
    quantizer(np.ones(3, np.float32))
    for error, want, call in [
        (TypeError, "observer must be an Observer that learns a range; got 3.", lambda: qat.FakeQuantize(3)),
        (
            TypeError, "observer must be an Observer that learns a range; got MomentsObserver(nothing seen).",
            lambda: qat.FakeQuantize(qn.MomentsObserver()),
        ),
        (TypeError, "delay must be an integer; got 1.5.", lambda: qat.FakeQuantize(delay=1.5)),
        (ValueError, "delay must be at least 0; got -1.", lambda: qat.FakeQuantize(delay=-1)),
        (
            ValueError, "convention must be one of 'onnx', 'guide', 'torch', 'tflite'; got None.",
            lambda: qat.FakeQuantize(convention=None),
        ),
        (
            TypeError, "x must be an array of float32, float16 or bfloat16; got dtype int64.",
            lambda: quantizer(np.arange(3)),
        ),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"^FakeQuantize: {re.escape(want)}$"):
            call()
    with pytest.raises(ValueError, match=r"g must be of shape \(3,\) like x; got shape \(4,\)\.$"):
        quantizer.backward(np.ones(4, np.float32))
    for name in ("enable_observer", "enable_fake_quantize"):
        with pytest.raises(TypeError, match=rf"^FakeQuantize\.{name}: on must be True or False; got 'no'\.$"):
            getattr(quantizer, name)("no")


# ---- PyTorch ----


def of_torch(torch, x, params, axis=None):
    """PyTorch's fake-quantize: its result, and its gradient for a g of normal numbers."""
    given = torch.tensor(x, requires_grad=True)
    scale, zero = torch.tensor(params.scale), torch.tensor(params.zero_point)
    if axis is None:
        y = torch.fake_quantize_per_tensor_affine(given, scale, zero, params.qmin, params.qmax)
    else:
        y = torch.fake_quantize_per_channel_affine(given, scale, zero, axis, params.qmin, params.qmax)
    g = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    y.backward(torch.tensor(g))
    return y.detach().numpy(), g, given.grad.numpy()


@pytest.mark.peers
@pytest.mark.parametrize("code", ["int8", "uint8", "int4", "uint2"])
@pytest.mark.parametrize("grid", [name for name, grid in GRIDS.items() if grid.block_size is None])
def test_pytorch_has_the_same_bits(grid, code):
    """Of finite x: PyTorch converts others to an integer, which C does not define."""
    torch = pytest.importorskip("torch")
    for n in (1, 37, 500):
        x, params = params_of(grid, n, code)
        x = np.clip(np.nan_to_num(x), -1e6, 1e6)
        axis = GRIDS[grid].axis
        want, g, gradient = of_torch(torch, x, params, None if axis is None else axis % x.ndim)
        y, saved = qat.fake_quantize(x, params, convention="torch")
        assert_same_bits(y, want)
        assert_same_bits(qat.fake_quantize_vjp(g, saved), gradient + np.float32(0))  # theirs is -0 outside, where g < 0
