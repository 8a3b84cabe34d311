"""qnumpy.torch.Linear and its operator: the bits of PackedWeight, wherever PyTorch runs it."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Linear

pytestmark = pytest.mark.peers
operator = torch.ops.qnumpy.linear.default

rng = np.random.default_rng(0)
W = rng.normal(size=(24, 64)).astype(np.float32)
BIAS = rng.normal(size=24).astype(np.float32)
WEIGHTS = {
    "int8": qn.quantize(W, granularity=qn.PerChannel(0)),
    "uint8": qn.quantize(W, dtype="uint8", symmetric=False, granularity=qn.PerChannel(0)),
    "per tensor": qn.quantize(W),
    "int4 groups": qn.quantize(W, dtype="int4", granularity=qn.PerGroup(32)),
    "uint4 groups": qn.quantize(W, dtype="uint4", granularity=qn.PerGroup(16), symmetric=False),
    "int2 groups": qn.quantize(W, dtype="int2", granularity=qn.PerGroup(16)),
    "mxfp4": qn.quantize(W, dtype="mxfp4"),
    "nvfp4": qn.quantize(W, dtype="nvfp4"),
    "float8": qn.quantize(W, dtype="float8_e4m3fn", granularity=qn.PerChannel(0)),
    "levels": qn.weights.codebook(W, granularity=qn.PerGroup(32)),
    "offsets": qn.weights.offsets(W),
}


def x_of(*shape, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(*shape, 64)).astype(np.float32)).to(dtype)


@pytest.fixture(params=WEIGHTS)
def layer(request):
    return Linear(WEIGHTS[request.param], BIAS)


def test_has_the_bits_of_a_packed_weight(layer):
    x = x_of(2, 5)
    expected = layer.packed().matmul(x.numpy())
    np.testing.assert_array_equal(layer(x).numpy().view(np.int32), expected.view(np.int32))


def test_is_near_the_float_layer(layer):
    x = x_of(7)
    expected = x.double() @ layer.dequantize().double().T + torch.from_numpy(BIAS)
    rows = 2.0**-8 * (x.max(dim=-1).values - x.min(dim=-1).values)  # at most half a step of x for each input, in norm
    worst = rows[:, None] * layer.dequantize().abs().sum(dim=1)[None] + 1e-4
    assert bool(((layer(x) - expected).abs() <= worst).all())


def test_compiled_and_exported_models_have_the_same_bits(layer):
    model = nn.Sequential(layer, nn.ReLU())
    x = x_of(4)
    expected = model(x)
    assert torch.equal(torch.compile(model, fullgraph=True)(x), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert torch.equal(exported.module()(x), expected)
    assert torch.equal(exported.module()(x[:3]), expected[:3])
    with torch.inference_mode():
        assert torch.equal(model(x), expected)


# opcheck multiplies all tensors, which PyTorch does not do for float8
@pytest.mark.parametrize("name", [name for name in WEIGHTS if name not in ("float8", "nvfp4")])
def test_opcheck(name):
    layer = Linear(WEIGHTS[name], BIAS, clip=(0, None))
    torch.library.opcheck(operator, (x_of(3).requires_grad_(), layer.tensors(), layer.layout))


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient:UserWarning")
@pytest.mark.parametrize(
    "options", [{}, {"clip": (0, None)}, {"clip": (-9.0, 4.0)}, {"hadamard": qn.weights.Hadamard(64)}]
)
def test_gradient_of_x(options):
    """A weight of floats rounds nothing else, so finite differences tell its gradient."""
    layer = Linear(WEIGHTS["mxfp4"], BIAS, **options)
    x = x_of(2).requires_grad_()
    # float32: differences of 1e-2 are exact to about 1e-4 of the sums, whose gradients are about 1
    assert torch.autograd.gradcheck(
        lambda x: operator(x, layer.tensors(), layer.layout), (x,), eps=1e-2, atol=2e-2, rtol=2e-2
    )


def test_dtypes_follow_x(layer):
    for dtype, tolerance in ((torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7), (torch.float64, 2.0**-22)):
        x = x_of(3, dtype=dtype)
        y = layer(x)
        assert y.dtype is dtype
        expected = layer(x.float())
        assert bool(((y.double() - expected.double()).abs() <= tolerance * expected.double().abs()).all())


def test_autocast(layer):
    x = x_of(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = nn.Sequential(nn.Linear(64, 64), layer)(x)
    assert y.dtype is torch.bfloat16
    assert y.shape == (3, 24)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (), (1, 1, 1, 1)])
def test_shapes(layer, shape):
    assert layer(x_of(*shape)).shape == (*shape, 24)


def test_x_of_any_strides(layer):
    x = x_of(6, 5)
    for strange in (x[::2], x.transpose(0, 1), x[:, :1].expand(6, 3, 64), x.flip(0)):
        assert torch.equal(layer(strange), layer(strange.contiguous()))


def test_round_trips(layer):
    x, expected = x_of(3), layer(x_of(3))
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = Linear(type_alike(layer), np.zeros(24, np.float32))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)


def type_alike(layer):
    """Return another weight of the same type and granularity."""
    name = next(name for name, w in WEIGHTS.items() if type(w) is type(layer.array()) and w == layer.array())
    w = (W * 2 + 1)[::-1].copy()
    makers = {"levels": lambda: qn.weights.codebook(w, granularity=qn.PerGroup(32)),
              "offsets": lambda: qn.weights.offsets(w)}  # fmt: skip
    if name in makers:
        return makers[name]()
    if name in ("mxfp4", "nvfp4"):
        return qn.quantize(w, dtype=name)
    params = WEIGHTS[name].qparams
    return qn.quantize(w, dtype=params.dtype, granularity=params.granularity, symmetric=params.symmetric)


def test_a_changed_weight_is_packed_again():
    layer, x = Linear(WEIGHTS["int8"]), x_of(3)
    before = layer(x)
    layer.weight_scale.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before, rtol=1e-6, atol=0)  # powers of two
    layer.weight = torch.zeros_like(layer.weight)
    assert torch.equal(layer(x), torch.zeros(3, 24))


def test_weights_do_not_outlive_their_layer():
    from qnumpy.torch import _library

    layer = Linear(WEIGHTS["int8"])
    layer(x_of(1))
    count = len(_library._opened)
    del layer
    assert len(_library._opened) == count - 1


def test_layers_that_share_a_weight_are_packed_once_each():
    one, other = Linear(WEIGHTS["int8"]), Linear(WEIGHTS["int8"], BIAS)
    other.weight, other.weight_scale = one.weight, one.weight_scale
    packed = [one.packed(), other.packed()]
    assert packed == [one.packed(), other.packed()]
    assert torch.equal(other(x_of(2)), Linear(WEIGHTS["int8"], BIAS)(x_of(2)))


def test_training_is_refused(layer):
    layer.eval()
    text = "Linear.train: mode must be False for a module of codes; got True. "
    text += "Train a model of qnumpy.torch.prepare_qat, and convert it."
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        nn.Sequential(layer).train()


def test_counts():
    layer = Linear(WEIGHTS["int4 groups"], BIAS)
    assert not list(layer.parameters())
    assert layer.weight.dtype is torch.uint8
    assert layer.weight.shape == (24, 32)  # two codes a byte
    assert repr(layer) == "Linear(in_features=64, out_features=24, int4 per group 32, x uint8 per group, bias)"


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"^Linear: smooth must be of shape \(64,\); got shape \(3,\)\.$"):
        Linear(WEIGHTS["int8"], smooth=np.ones(3))
    with pytest.raises(TypeError, match=r"^PackedWeight: w must be a QuantizedArray, .*; got an array"):
        Linear(W)
    with pytest.raises(ValueError, match=r"^Linear: x must be of shape \(\.\.\., 64\); got shape \(2, 3\)\."):
        Linear(WEIGHTS["int8"])(torch.ones(2, 3))


def test_smooth_factors():
    factors = 2.0 ** np.arange(-3, 3).repeat(11)[:64]
    w = qn.quantize(W / factors.astype(np.float32), granularity=qn.PerChannel(0))
    layer, x = Linear(w, BIAS, smooth=factors), x_of(5)
    assert torch.equal(layer(x), Linear(w, BIAS)(x * torch.from_numpy(factors.astype(np.float32))))


def test_nan_and_infinity():
    """As semantics.md says of rows: NaN counts as 0 and infinity saturates; other rows do not change."""
    layer, x = Linear(WEIGHTS["int8"], BIAS), x_of(3)
    strange = x.clone()
    strange[1, 0], strange[1, 1] = torch.nan, torch.inf
    y = layer(strange)
    assert torch.equal(y[[0, 2]], layer(x)[[0, 2]])
    np.testing.assert_array_equal(y.numpy(), layer.packed().matmul(strange.numpy()))


def test_threads_are_those_of_torch():
    layer, x = Linear(qn.quantize(np.tile(W, (64, 8)), granularity=qn.PerChannel(0))), x_of(64).repeat(1, 8)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(layer(x))
        assert all(torch.equal(y, results[0]) for y in results)
    finally:
        torch.set_num_threads(before)
