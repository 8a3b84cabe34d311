"""qnumpy.torch.Conv1d and Conv2d: exact sums by PyTorch's convolution in float64, wherever PyTorch runs them."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import qnumpy as qn
from qnumpy.torch import Conv1d, Conv2d

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),  # of PyTorch's own
]

LAYERS = {
    "3 x 3": nn.Conv2d(6, 8, 3),
    "no bias": nn.Conv2d(6, 8, 3, bias=False),
    "1 x 1": nn.Conv2d(6, 8, 1),
    "stride": nn.Conv2d(6, 8, 3, stride=(2, 3), padding=1),
    "dilation": nn.Conv2d(6, 8, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "groups": nn.Conv2d(6, 9, 3, groups=3, padding=1),
    "depthwise": nn.Conv2d(6, 6, 3, groups=6, padding=1),
    "same": nn.Conv2d(6, 8, (2, 4), padding="same", dilation=(1, 3)),
    "valid": nn.Conv2d(6, 8, 2, padding="valid"),
    "1 axis": nn.Conv1d(6, 8, 3, padding=1),
    "1 axis, stride and dilation": nn.Conv1d(6, 8, 3, stride=2, dilation=2, groups=2),
    "1 axis, same": nn.Conv1d(6, 8, 4, padding="same", bias=False),
}
WEIGHTS = {
    "int8": {"granularity": qn.PerChannel(0)},
    "int8 per tensor": {},
    "uint8 affine": {"dtype": "uint8", "symmetric": False, "granularity": qn.PerChannel(0)},
    "int4": {"dtype": "int4", "granularity": qn.PerChannel(0)},
    "uint3": {"dtype": "uint3", "granularity": qn.PerChannel(0)},
}
STATIC = {
    "uint8": qn.QParams.from_range(-1.5, 2.5, dtype="uint8", symmetric=False),
    "int8": qn.QParams.from_range(-1.5, 2.5, dtype="int8", symmetric=False),
    "int8 symmetric": qn.QParams.from_range(-2.0, 2.0),
}


def converted(layer, weight="int8", **options):
    w = qn.quantize(layer.weight.detach().numpy(), **WEIGHTS[weight])
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    names = ("stride", "padding", "dilation", "groups")
    cls = Conv2d if isinstance(layer, nn.Conv2d) else Conv1d
    return cls(w, bias, **{name: getattr(layer, name) for name in names}, **options)


def images_of(layer, count=3):
    shape = (count, layer.in_channels, *((9, 12) if isinstance(layer, nn.Conv2d) else (14,)))
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    return torch.from_numpy(x * np.float32(2.0) ** np.arange(count, dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1)))


def exactly(layer, module, x, params=None):
    """The definition: exact sums of codes, in float64, and three operations in float32."""
    convolve = functional.conv2d if isinstance(layer, nn.Conv2d) else functional.conv1d
    w, bias = module.array(), layer.bias
    levels = np.asarray(w.codes).astype(np.float64)
    zeros = np.broadcast_to(w.zero_point, len(levels)).reshape(-1, *[1] * (levels.ndim - 1))
    scales = torch.from_numpy(np.broadcast_to(w.scale, len(levels)).copy())
    results = []
    for image in x:
        own = params or qn.choose_qparams(image.numpy(), dtype="uint8", symmetric=False)
        codes = qn.quantize(image.numpy(), own).codes.astype(np.float64) - float(own.zero_point)
        sums = convolve(
            torch.from_numpy(codes)[None], torch.from_numpy(levels - zeros), None, layer.stride, layer.padding,
            layer.dilation, layer.groups,
        )[0]  # fmt: skip
        y = sums.float() * (float(own.scale) * scales).float().reshape(-1, *[1] * (sums.ndim - 1))
        results.append(y if bias is None else y + bias.detach().reshape(-1, *[1] * (sums.ndim - 1)))
    return torch.stack(results)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_is_exact(name, weight):
    layer = LAYERS[name]
    module, x = converted(layer, weight), images_of(layer)
    assert torch.equal(module(x), exactly(layer, module, x))
    assert torch.equal(module(x[0]), module(x)[0])  # without a batch


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("params", STATIC)
def test_static(name, params):
    layer = LAYERS[name]
    module, x = converted(layer, x_qparams=STATIC[params]), images_of(layer)
    assert torch.equal(module(x), exactly(layer, module, x, STATIC[params]))


@pytest.mark.parametrize("name", LAYERS)
def test_is_near_the_float_layer(name):
    layer = LAYERS[name]
    x = images_of(layer)
    error = (converted(layer)(x) - layer(x)).detach().flatten(1)
    assert bool((error.square().mean(dim=1) < 2e-4 * layer(x).detach().flatten(1).square().mean(dim=1)).all())  # 37 dB


def test_clip():
    layer = LAYERS["3 x 3"]
    x = images_of(layer)
    y = converted(layer)(x)
    assert torch.equal(converted(layer, clip=(0, None))(x), y.relu())
    assert torch.equal(converted(layer, clip=(-0.5, 6))(x), y.clamp(-0.5, 6))


def test_is_the_operator_of_onnx():
    onnx = pytest.importorskip("onnx")
    layer = LAYERS["stride"]
    module, x = converted(layer, clip=(0, None)), images_of(layer)
    node = onnx.helper.make_node(
        "Conv", ["x", "w", "scale", "bias"], ["y"], domain="qnumpy", strides=[2, 3], pads=[1, 1, 1, 1],
        activation="relu",
    )  # fmt: skip
    w = module.array()
    values = {"x": x.numpy(), "w": w.codes, "scale": w.scale, "bias": layer.bias.detach().numpy()}
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    inputs = [onnx.helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in values.items()]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    domains = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("qnumpy", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "conv", inputs, [y]), opset_imports=domains)
    assert np.array_equal(module(x).numpy(), qn.onnx.ReferenceEvaluator(model).run(None, values)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    layer = LAYERS["3 x 3"]
    module, x = converted(layer), images_of(layer).to(dtype)
    y = module(x)
    assert y.dtype is dtype
    assert torch.equal(y, module(x.float()).to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), y)


@pytest.mark.parametrize("name", ["3 x 3", "1 axis"])
def test_layouts_and_empty_batches(name):
    layer = LAYERS[name]
    module, x = converted(layer), images_of(layer)
    y = module(x)
    assert torch.equal(module(x.transpose(1, -1).contiguous().transpose(1, -1)), y)
    assert torch.equal(module(torch.cat([x, x])[::2][:3]), module(x[[0, 2, 1]]))
    assert module(x[:0]).shape == (0, *y.shape[1:])
    before = x.clone()
    module(x)
    assert torch.equal(x, before)


def test_nan_and_infinities():
    layer = LAYERS["no bias"]
    module, x = converted(layer), images_of(layer)
    x[0, 0, 4, 4], x[1], x[2, 1, 3, 3] = torch.nan, torch.nan, torch.inf
    y = module(x)
    assert torch.equal(y[[0, 2]], exactly(layer, module, x[[0, 2]]))  # ranges are of finite pixels, NaN is the zero
    assert not y[1].any()


def test_threads_do_not_change_bits():
    layer = nn.Conv2d(16, 32, 3, padding=1)
    module, x = converted(layer), torch.randn(4, 16, 40, 40)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(module(x))
    torch.set_num_threads(before)
    assert torch.equal(*results)


# ---- everywhere ----


@pytest.mark.parametrize("name", ["stride", "same", "1 axis"])
def test_compiled_and_exported_models_have_the_same_bits(name):
    model = nn.Sequential(converted(LAYERS[name]), nn.ReLU())
    x = images_of(LAYERS[name])
    expected = model(x)
    assert torch.equal(torch.compile(model, fullgraph=True)(x), expected)
    dynamic = torch.compile(model, fullgraph=True, dynamic=True)
    assert torch.equal(dynamic(x), expected)
    assert torch.equal(dynamic(x[..., :-2]), model(x[..., :-2]))
    shapes = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(shapes,))
    assert torch.equal(exported.module()(x), expected)
    assert torch.equal(exported.module()(x[:2]), expected[:2])
    with torch.inference_mode():
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["stride", "groups", "1 axis"])
@pytest.mark.parametrize("weight", ["int8", "int4"])
def test_opcheck(name, weight):
    module = converted(LAYERS[name], weight, clip=(-1, 6))
    x = images_of(LAYERS[name]).requires_grad_()
    torch.library.opcheck(torch.ops.qnumpy.conv2d.default, (x, module.tensors(), module.layout))


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_x_is_that_of_the_float_layer(name):
    layer = copy.deepcopy(LAYERS[name])
    module, x = converted(layer, clip=(0, None)), images_of(layer).requires_grad_()
    y = module(x)
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    exact = x.detach().double().requires_grad_()
    layer.double().weight.data = module.dequantize().double()
    (expected,) = torch.autograd.grad(layer(exact), exact, (g * (y > 0)).double())
    torch.testing.assert_close(dx.double(), expected, rtol=1e-4, atol=1e-4)  # float32 sums


def test_copies_and_files():
    model = nn.Sequential(converted(LAYERS["same"], x_qparams=STATIC["uint8"]))
    x = images_of(LAYERS["same"])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    state.seek(0)
    blank = nn.Sequential(converted(copy.deepcopy(LAYERS["same"]).requires_grad_(False)))
    blank.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(blank(x), model(x))


class Convolved(torch.utils.data.Dataset):
    def __init__(self):
        self.module, self.x = converted(LAYERS["3 x 3"]), images_of(LAYERS["3 x 3"], 8)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.module(self.x[i]).detach()


def test_workers_of_a_data_loader():
    data = Convolved()
    expected = data.module(data.x)
    batches = list(torch.utils.data.DataLoader(data, batch_size=4, num_workers=2))
    assert torch.equal(torch.cat(batches), expected)


def test_refuses_to_train():
    module = converted(LAYERS["3 x 3"])
    assert not list(module.parameters())
    assert module.eval() is module
    with pytest.raises(RuntimeError, match=r"^Conv2d\.train: mode must be False"):
        module.train()


def test_repr():
    assert repr(converted(LAYERS["dilation"])) == (
        "Conv2d(6, 8, kernel_size=(3, 2), stride=(1, 1), padding=(2, 1), dilation=(2, 3), int8 per channel 0, "
        "x uint8 per image, bias)"
    )
    assert repr(converted(LAYERS["1 axis, same"], x_qparams=STATIC["int8"])) == (
        "Conv1d(6, 8, kernel_size=(4,), stride=(1,), padding=same, int8 per channel 0, x int8 as given)"
    )


# ---- errors ----

W = qn.quantize(np.ones((4, 2, 3, 3), np.float32), granularity=qn.PerChannel(0))
LIKE = "4-D, not empty, of integers of at most 8 bits per tensor or per channel 0"
ERRORS = {
    "Conv2d: w must be a QuantizedArray; got 1.": (TypeError, lambda: Conv2d(1)),
    f"Conv2d: w must be {LIKE}; got int8 per channel 1 of shape (4, 2, 3, 3).": (
        ValueError,
        lambda: Conv2d(qn.quantize(np.ones((4, 2, 3, 3), np.float32), granularity=qn.PerChannel(1))),
    ),
    f"Conv2d: w must be {LIKE}; got int16 per tensor of shape (4, 2, 3, 3).": (
        ValueError,
        lambda: Conv2d(qn.quantize(np.ones((4, 2, 3, 3), np.float32), dtype="int16")),
    ),
    "Conv1d: w must be 3-D, not empty, of integers of at most 8 bits per tensor or per channel 0; got int8 per channel "
    "0 of shape (4, 2, 3, 3).": (ValueError, lambda: Conv1d(W)),
    "Conv2d: bias must be of shape (4,); got shape (2,).": (ValueError, lambda: Conv2d(W, [1.0, 2.0])),
    "Conv2d: stride must be one or two integers of at least 1; got 0.": (ValueError, lambda: Conv2d(W, stride=0)),
    "Conv2d: padding must be integers, 'same' or 'valid'; got 'full'.": (
        ValueError,
        lambda: Conv2d(W, padding="full"),
    ),
    "Conv2d: stride must be 1 beside padding='same'; got (2, 2).": (
        ValueError,
        lambda: Conv2d(W, padding="same", stride=2),
    ),
    "Conv2d: groups must be a divisor of 4 output channels; got 3.": (ValueError, lambda: Conv2d(W, groups=3)),
    "Conv2d: clip must be a low and a high bound, in this order; got (1, 0).": (
        ValueError,
        lambda: Conv2d(W, clip=(1, 0)),
    ),
    "Conv2d: x_qparams must be a QParams; got 1.": (TypeError, lambda: Conv2d(W, x_qparams=1)),
    "Conv2d: input must be of 3 or 4 axes; got shape (3, 3).": (ValueError, lambda: Conv2d(W)(torch.ones(3, 3))),
    "conv2d: w must be no larger than the padded image; got (3, 3) over (2, 2).": (
        ValueError,
        lambda: Conv2d(W)(torch.ones(1, 2, 2, 2)),
    ),
    "conv2d: x and w must be of C and C / groups channels for groups=1; got shapes (1, 3, 4, 4) and (4, 2, 3, 3).": (
        ValueError,
        lambda: Conv2d(W)(torch.ones(1, 3, 4, 4)),
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
