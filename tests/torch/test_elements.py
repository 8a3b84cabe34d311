"""The elementwise operators of qnumpy.torch: the bits of qnumpy, gradients, everywhere PyTorch runs them."""

import copy
import io
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

import qnumpy as qn
from qnumpy import qat
from qnumpy.torch import _library as library
from qnumpy.torch import dequantize, fake_quantize, lsq, quantize

pytestmark = pytest.mark.peers
ops = torch.ops.qnumpy

X = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5, 4, 8), scale=2).astype(np.float32))
X.view(-1)[[3, 100, 500]] = torch.tensor([torch.inf, -torch.inf, torch.nan])
G = torch.from_numpy(np.random.default_rng(1).normal(size=X.shape).astype(np.float32))
GRANULARITIES = {
    "tensor": qn.PerTensor(),
    "channel": qn.PerChannel(1),
    "last channel": qn.PerChannel(-1),
    "group": qn.PerGroup(3),
    "group of rows": qn.PerGroup(2, axis=0),
    "row": qn.PerRow(),
}
DTYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}
ORDERS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "gaps": lambda x: torch.cat([x, x])[::2],
    "expanded": lambda x: x[:1].expand(6, -1, -1, -1),
}


def array_of(x):
    """The array of a tensor, by another way than that of the operators."""
    x = x.detach()
    return x.float().numpy().astype(ml_dtypes.bfloat16) if x.dtype is torch.bfloat16 else x.numpy()


def same(result, expected):
    result = array_of(result)
    assert result.dtype == np.asarray(expected).dtype
    assert result.shape == expected.shape
    assert np.ascontiguousarray(result).tobytes() == np.ascontiguousarray(expected).tobytes()


def params_of(name, dtype="int8", symmetric=True):
    x = np.nan_to_num(X.numpy(), posinf=0, neginf=0) / 2
    return qn.choose_qparams(x, dtype=dtype, granularity=GRANULARITIES[name], symmetric=symmetric)


def tensors_of(params):
    return torch.tensor(params.scale), torch.tensor(params.zero_point)


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_has_the_bits_of_qnumpy(name, order, dtype):
    x = ORDERS[order](X.to(dtype))
    for code, symmetric in (("int8", True), ("uint4", False)):
        params = params_of(name, code, symmetric)
        scale, zero_point = tensors_of(params)
        options = {"dtype": code, "granularity": GRANULARITIES[name]}
        given = (scale,) if symmetric else (scale, zero_point)
        codes = quantize(x, *given, **options)
        expected = qn.quantize(array_of(x), params)
        np.testing.assert_array_equal(codes.numpy(), expected.codes.astype(np.int16))
        same(fake_quantize(x, *given, **options), qn.fake_quantize(array_of(x), params))
        same(fake_quantize(x, params), qn.fake_quantize(array_of(x), params))
        assert torch.equal(quantize(x, params), codes)
        wide = qn.dequantize(expected, dtype=array_of(x).dtype)
        zeros = zero_point if code == "uint4" else None
        same(dequantize(codes, scale, zeros, granularity=GRANULARITIES[name], dtype=dtype), wide)
        same(dequantize(codes, params, dtype=dtype), wide)
        if order in ("channels last", "transposed"):
            assert codes.stride() == x.stride()


@pytest.mark.parametrize("code", ["int16", "uint16", "int7", "uint3", "int2", "float8_e4m3fn", "float8_e5m2"])
def test_code_types(code):
    x = torch.linspace(-3, 3, 50)
    params = qn.choose_qparams(x.numpy(), dtype=code)
    expected = qn.quantize(x.numpy(), params)
    codes = quantize(x, params)
    view = codes.view(torch.uint8).numpy() if "float" in code else codes.numpy()
    raw = np.ascontiguousarray(expected.codes)
    np.testing.assert_array_equal(view, raw.view(np.uint8) if "float" in code else raw)
    same(dequantize(codes, params), expected.dequantize())


def test_sums_of_int32():
    acc = torch.tensor([2**31 - 1, -(2**31), 5], dtype=torch.int32)
    same(dequantize(acc, torch.tensor(0.5)), qn.dequantize_linear(acc.numpy(), 0.5))


@pytest.mark.parametrize("convention", ["onnx", "guide", "torch", "tflite"])
def test_conventions(convention):
    x, scale = torch.linspace(-20, 20, 999), torch.tensor(0.1)
    same(
        fake_quantize(x, scale, convention=convention, symmetric="full"),
        qn.fake_quantize(x.numpy(), qn.QParams(0.1, 0), convention=convention),
    )
    if convention == "torch":
        expected = torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)
        assert torch.equal(fake_quantize(x, scale, convention=convention, symmetric="full"), expected)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("order", ORDERS)
def test_arrays_share_the_memory_of_tensors(dtype, order):
    x = ORDERS[order](X.nan_to_num(posinf=1, neginf=1).to(dtype))
    array = library.array_of(x)
    assert array.ctypes.data == x.data_ptr()
    assert array.strides == tuple(step * x.element_size() for step in x.stride())
    back = library.tensor_of(array)
    assert (back.data_ptr(), back.dtype, back.stride()) == (x.data_ptr(), dtype, x.stride())


# ---- gradients ----


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("g_order", ["contiguous", "transposed", "expanded"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_straight_through_gradients_are_those_of_qat(name, order, g_order, dtype):
    params = params_of(name)
    x, g = ORDERS[order](X.to(dtype)), ORDERS[g_order](G.to(dtype))
    _, saved = qat.fake_quantize(array_of(x), params)
    for grad in ("clipped", "identity"):
        leaf = x.detach().requires_grad_()
        fake_quantize(leaf, params, grad=grad).backward(g)
        same(leaf.grad, qat.fake_quantize_vjp(array_of(g), saved, grad=grad))


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("normalize", [True, False])
def test_learned_gradients_are_those_of_qat(name, order, normalize):
    for symmetric in (True, "full", False):
        params = params_of(name, "int4", symmetric is not False)
        scale = torch.tensor(params.scale, requires_grad=True)
        zero = torch.tensor(params.zero_point + 0.3, dtype=torch.float32, requires_grad=True)
        given = (scale, zero) if symmetric is False else (scale,)
        x = ORDERS[order](X).detach().requires_grad_()
        options = {"dtype": "int4", "granularity": GRANULARITIES[name], "symmetric": symmetric}
        y = lsq(x, *given, **options, normalize=normalize)
        expected, saved = qat.lsq(array_of(x), *map(array_of, given), **options)
        same(y, expected)
        y.backward(G)
        dx, dscale, dzero = qat.lsq_vjp(G.numpy(), saved, normalize=normalize)
        same(x.grad, dx)
        same(scale.grad, dscale)
        if symmetric is False:
            same(zero.grad, dzero)


def straight_through(x, scale, zero, qmin, qmax):
    """LSQ+ by the rules of PyTorch: rounding is the identity to the gradient, of x and of the zero point."""
    zero = zero + (zero.round() - zero).detach()
    steps = x / scale + zero
    codes = steps + (steps.round() - steps).detach()
    codes = torch.where(steps.round() < qmin, qmin, torch.where(steps.round() > qmax, qmax, codes))
    return scale * (codes - zero)


def test_learned_gradients_are_those_of_autograd():
    rng = np.random.default_rng(2)
    x, scale, zero = (
        torch.from_numpy(rng.normal(size=(7, 9))).requires_grad_(),
        torch.full((7, 1), 0.2, dtype=torch.float64, requires_grad=True),
        torch.full((7, 1), 1.0, dtype=torch.float64, requires_grad=True),
    )
    g = torch.from_numpy(rng.normal(size=(7, 9)))
    expected = torch.autograd.grad(straight_through(x, scale, zero, -8, 7), (x, scale, zero), g)
    leaves = [v.detach().float().requires_grad_() for v in (x, scale.squeeze(1), zero.squeeze(1))]
    y = lsq(*leaves, dtype="int4", granularity=qn.PerRow(), normalize=False)
    for got, want in zip(torch.autograd.grad(y, leaves, g.float()), expected, strict=True):
        torch.testing.assert_close(got.double(), want.reshape(got.shape), rtol=1e-5, atol=1e-5)  # x / scale in float32


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient:UserWarning")
def test_gradcheck():
    x, scale = torch.linspace(-2, 2, 40, requires_grad=True), torch.tensor(2.0**-13)

    def rounded(x):  # 65,535 steps, far finer than the difference of 0.1, over which y rises by 0.2 within one step
        return fake_quantize(x, scale, dtype="int16")

    assert torch.autograd.gradcheck(rounded, x, eps=0.1, atol=2.0**-13 / 0.2)
    far = torch.tensor([50.0, -60.0, 70.0])  # all codes saturate, where y is linear in scale and in zero point
    for n, value in enumerate((0.75, -3.0)):
        leaf = torch.tensor(value, requires_grad=True)

        def saturated(v, n=n):
            given = (v, torch.tensor(-3.0)) if n == 0 else (torch.tensor(0.75), v)
            return lsq(far, *given, dtype="int4", normalize=False)

        assert torch.autograd.gradcheck(saturated, leaf, eps=(0.25, 2.0)[n], atol=1e-4)  # float32


def test_no_gradient_of_the_scale():
    scale = torch.tensor(0.1, requires_grad=True)
    x = torch.ones(3, requires_grad=True)
    fake_quantize(x, scale).sum().backward()
    assert scale.grad is None


def test_second_derivatives():
    x = torch.tensor([0.3, 99.0], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.1))
    (dx,) = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)  # y where it does not saturate
    assert torch.equal(dx.detach(), torch.stack([y[0].detach(), torch.tensor(0.0)]))
    (second,) = torch.autograd.grad(dx.sum(), x)
    assert second.tolist() == [1, 0]
    scale = torch.tensor(0.1, requires_grad=True)
    (dscale,) = torch.autograd.grad(lsq(x, scale).square().sum(), scale, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^qnumpy::lsq_backward: .* must be without a gradient"):
        torch.autograd.grad(dscale, x)


# ---- everywhere ----


class Quantizer(nn.Module):
    def __init__(self, learned):
        super().__init__()
        self.learned = learned
        self.scale = nn.Parameter(torch.full((5,), 0.1))
        self.zero_point = nn.Parameter(torch.full((5,), 2.0))

    def forward(self, x):
        if self.learned:
            return lsq(x, self.scale, self.zero_point, dtype="int4", granularity=qn.PerChannel(1))
        return fake_quantize(x, self.scale, self.zero_point.to(torch.int32), granularity=qn.PerChannel(1))


def steps_of(model, x):
    model.zero_grad()
    x = x.detach().requires_grad_()
    y = model(x)
    y.backward(G)
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_compiled_and_exported_models_have_the_same_bits(learned, order):
    model, x = Quantizer(learned), ORDERS[order](X)
    expected = steps_of(model, x)
    compiled = torch.compile(model, fullgraph=True)
    for got, want in zip(steps_of(compiled, x), expected, strict=True):
        assert torch.equal(got.nan_to_num(), want.nan_to_num())
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (X,), dynamic_shapes=({0: batch},)).module()
    for part in (X, X[:3]):
        assert torch.equal(exported(part).nan_to_num(), model(part).nan_to_num())
    with torch.inference_mode():
        assert torch.equal(model(x), expected[0])
    with torch.no_grad():
        assert not model(x).requires_grad


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_between_convolutions(backend):
    """The order of memory of the tensors between them is the compiler's choice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 5, 3), Quantizer(False), nn.ReLU(), nn.Conv2d(5, 2, 3, padding=1))
    x = X.nan_to_num(posinf=0, neginf=0).to(memory_format=torch.channels_last)

    def train(run):
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected = train(model)
    for got, want in zip(train(torch.compile(model, backend=backend, fullgraph=True)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)  # float sums of the convolutions


def test_a_qparams_is_a_constant_of_a_compiled_model():
    params = params_of("channel")
    run = torch.compile(lambda x: fake_quantize(x, params) + 1, fullgraph=True)
    assert torch.equal(run(X).nan_to_num(), (fake_quantize(X, params) + 1).nan_to_num())


@pytest.mark.parametrize("name", GRANULARITIES)
def test_opcheck(name):
    params = params_of(name, "int4", symmetric=False)
    x, (scale, zero) = X.nan_to_num(posinf=1, neginf=1), tensors_of(params)
    leaf = x.clone().requires_grad_()
    from qnumpy.torch._elements import text_of

    scheme = ("int4", -8, 7, text_of(GRANULARITIES[name]), "onnx")
    torch.library.opcheck(ops.quantize.default, (x, scale, zero, *scheme))
    torch.library.opcheck(ops.dequantize.default, (quantize(x, params), scale, zero, torch.float16, scheme[3]))
    torch.library.opcheck(ops.fake_quantize.default, (leaf, scale, zero, *scheme, True))
    torch.library.opcheck(ops.fake_quantize.default, (leaf, scale, zero, *scheme, False))
    torch.library.opcheck(ops.fake_quantize_inside.default, (x, scale, zero, *scheme, []))
    torch.library.opcheck(ops.keep_inside.default, (x, torch.zeros(x.numel() // 8, dtype=torch.uint8), [3, 1, 0, 2]))
    learned = scale.clone().requires_grad_(), zero.float().requires_grad_()
    torch.library.opcheck(ops.lsq.default, (leaf, *learned, *scheme, True))
    torch.library.opcheck(ops.lsq_backward.default, (G, x, scale, zero.float(), *scheme, True))


def test_the_dispatcher_has_the_same_bits():
    from qnumpy.torch._elements import text_of

    scheme = ("int8", -127, 127, text_of(qn.PerTensor()), "onnx")
    leaf, scale = X.clone().requires_grad_(), torch.tensor(0.05)
    y = ops.fake_quantize(leaf, scale, None, *scheme, True)
    y.backward(G)
    other = X.clone().requires_grad_()
    z = fake_quantize(other, scale)
    z.backward(G)
    assert torch.equal(y, z)
    assert torch.equal(leaf.grad, other.grad)


def add_one(x):
    return fake_quantize(x, torch.tensor(0.1)) + 1


def test_what_records_calls_sees_the_operator():
    x = torch.linspace(-3, 3, 50)
    for record in (torch.fx.symbolic_trace, lambda f: make_fx(f)(x)):
        graph = record(add_one)
        assert ops.fake_quantize.default in [node.target for node in graph.graph.nodes]
        assert torch.equal(graph(x), add_one(x))
    with profile() as seen:
        add_one(x)
    assert "qnumpy::fake_quantize" in [event.key for event in seen.key_averages()]
    assert torch.equal(torch.func.vmap(add_one)(x.reshape(5, 10)), add_one(x).reshape(5, 10))


def test_activations_that_are_computed_again():
    x = torch.tensor([0.3, 99.0], requires_grad=True)
    checkpoint(add_one, x, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [1, 0]


def test_autocast():
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        x = layer(X[0, 0])
        y = fake_quantize(x, torch.tensor(0.05))
    assert y.dtype is torch.bfloat16
    same(y, qn.fake_quantize(array_of(x), qn.QParams(0.05, 0, qmin=-127)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 1)])
def test_scalars_and_empty_tensors(shape):
    x = torch.full(shape, 0.26, requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.1))
    y.sum().backward()
    assert torch.equal(y, torch.full(shape, 0.3))
    assert torch.equal(x.grad, torch.ones(shape))
    scale = torch.tensor(0.1, requires_grad=True)
    lsq(x, scale).sum().backward()
    assert scale.grad.isfinite()


def double(x):
    return fake_quantize(x, torch.tensor(0.25), dtype="int4") * 2


class Rounded(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return double(torch.full((1000,), 0.3 * i))


def test_workers_of_a_data_loader():
    double(torch.ones(100_000))  # the threads of this process have started
    batches = list(torch.utils.data.DataLoader(Rounded(), batch_size=4, num_workers=2))
    assert torch.equal(torch.cat(batches), torch.stack([Rounded()[i] for i in range(8)]))


def test_copies_and_files():
    model = Quantizer(True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(other(X), model(X))


def test_threads_do_not_change_bits():
    x, g = torch.randn(64, 4096), torch.randn(64, 4096)
    scale = torch.full((64,), 0.02)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf, learned = x.clone().requires_grad_(), scale.clone().requires_grad_()
        lsq(leaf, learned, granularity=qn.PerRow()).backward(g)
        results.append([leaf.grad, learned.grad])
    torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


# ---- errors ----

T = torch.tensor
ERRORS = {
    "fake_quantize: convention must be one of 'onnx', 'guide', 'torch', 'tflite'; got 'x'.": (
        ValueError,
        lambda: fake_quantize(X, T(0.1), convention="x"),
    ),
    "fake_quantize: grad must be one of 'identity', 'clipped'; got 'x'.": (
        ValueError,
        lambda: fake_quantize(X, T(0.1), grad="x"),
    ),
    "fake_quantize: zero_point must be given when symmetric is False; got None.": (
        ValueError,
        lambda: fake_quantize(X, T(0.1), symmetric=False),
    ),
    "fake_quantize: zero_point must be left out for a symmetric range; got a tensor.": (
        ValueError,
        lambda: fake_quantize(X, T(0.1), T(1), symmetric="full"),
    ),
    "fake_quantize: scale must be a tensor; got 0.1.": (TypeError, lambda: fake_quantize(X, 0.1)),
    "fake_quantize: dtype must be left out beside a QParams; got 'int8'.": (
        TypeError,
        lambda: fake_quantize(X, qn.QParams(0.1, 0), dtype="int8"),
    ),
    "fake_quantize: x must be an array of float32, float16 or bfloat16; got dtype float64.": (
        TypeError,
        lambda: fake_quantize(X.double(), T(0.1)),
    ),
    "fake_quantize: scale must be positive, finite and normal in float32; got -1.0.": (
        ValueError,
        lambda: fake_quantize(X, T(-1.0)),
    ),
    "fake_quantize: scale must be of shape () or (6,); got shape (5,).": (
        ValueError,
        lambda: fake_quantize(X, torch.ones(5), granularity=qn.PerChannel(0)),
    ),
    "fake_quantize: zero_point must be in [-128, 127]; got 128.": (
        ValueError,
        lambda: fake_quantize(X, T(0.1), T(128)),
    ),
    "lsq: scale must be of shape (6,); got shape ().": (
        ValueError,
        lambda: lsq(X, T(0.1), granularity=qn.PerChannel(0)),
    ),
    "lsq: scale must be a tensor of floats; got a tensor of int64.": (TypeError, lambda: lsq(X, T(1))),
    "lsq: zero_point must be a number; got NaN.": (ValueError, lambda: lsq(X, T(0.1), T(torch.nan))),
    "dequantize: zero_point must be given for unsigned codes; got None.": (
        ValueError,
        lambda: dequantize(torch.ones(3, dtype=torch.uint8), T(0.1)),
    ),
    "dequantize: dtype must be float32, float64, float16 or bfloat16; got int8.": (
        TypeError,
        lambda: dequantize(torch.ones(3, dtype=torch.int8), T(0.1), dtype=torch.int8),
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match=r"^quantize: dtype must be int8, uint8, "):
        quantize(X, T(0.1), dtype="float4_e2m1fn")
    with pytest.raises(TypeError, match=r"^dequantize: q must be a tensor of int8, "):
        dequantize(X, T(0.1))
