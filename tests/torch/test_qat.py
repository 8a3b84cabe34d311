"""prepare_qat: PyTorch's own fake-quantization, the NumPy quantizers and the converted model as oracles."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy import qat as numpy_qat
from qnumpy.torch import Config, convert, prepare, prepare_qat, report
from qnumpy.torch import qat as training
from qnumpy.torch._quantizers import FakeQuantize, LearnedScale, OwnRange

pytestmark = pytest.mark.peers

STATIC = {"mode": "static", "granularity": qn.PerChannel(0), "symmetric": True, "method": "minmax"}
CONFIGS = {
    "default": None,
    "dynamic": Config(),
    "symmetric": Config(mode="static", x_symmetric=True),
    "4 bits": Config(dtype="int4", activation_bits=4, **STATIC),
    "2 bits": Config(dtype="int2", activation_bits=2, **STATIC),
    "groups": Config(mode="static", dtype="int4"),
    "learned": Config(qat="lsq", dtype="int4", activation_bits=4, **STATIC),
    "learned affine": Config(mode="static", qat="lsq", dtype="int8"),
    "per row of 7 bits": Config(activation_bits=7),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def images():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, groups=2, dilation=2, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def batches(count=4, shape=(16, 1, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def train(model, data, rate=1e-3):
    adam = torch.optim.Adam(model.parameters(), rate)
    for x in data:
        adam.zero_grad()
        model(x).square().mean().backward()
        adam.step()
    return model


# ---- the quantizers ----


@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_observed_is_the_numpy_quantizer(dtype):
    observer = qn.MovingAverageMinMaxObserver(0.3, dtype=dtype, symmetric=False)
    quantizer, twin = FakeQuantize(dtype, averaging_constant=0.3), numpy_qat.FakeQuantize(observer)
    for x in batches(5, (7, 5)):
        x.requires_grad_()
        y, g = quantizer(x), torch.randn(7, 5)
        y.backward(g)
        np.testing.assert_array_equal(y.detach().numpy(), twin(x.detach().numpy()))
        np.testing.assert_array_equal(x.grad.numpy(), twin.backward(g.numpy()))
    assert quantizer.qparams() == twin.qparams()


@pytest.mark.parametrize("dtype", ["int8", "int3"])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0), qn.PerGroup(4)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_have_the_range_of_their_extremes(dtype, granularity, symmetric):
    w = torch.randn(6, 8)
    shape = granularity.params_shape((6, 8))
    quantizer = FakeQuantize(dtype, granularity, shape, symmetric=symmetric, averaging_constant=1, always=True).eval()
    quantizer(w)
    w += 1  # as an optimizer changes it
    params = qn.choose_qparams(w.numpy(), dtype=dtype, granularity=granularity, symmetric=symmetric)
    np.testing.assert_array_equal(quantizer(w).numpy(), qn.fake_quantize(w.numpy(), params))
    assert quantizer.qparams() == params


@pytest.mark.parametrize("granularity", [qn.PerRow(), qn.PerTensor(), qn.PerGroup(5)])
def test_own_range_is_that_of_quantize(granularity):
    x = torch.randn(3, 4, 10)
    q = qn.quantize(x.numpy(), dtype="uint8", granularity=granularity, symmetric=False)
    np.testing.assert_array_equal(OwnRange(granularity=granularity)(x).numpy(), q.dequantize())


@pytest.mark.parametrize("symmetric", [True, "full", False])
def test_learned_is_the_numpy_quantizer(symmetric):
    quantizer = LearnedScale("int4", symmetric=symmetric)
    twin = numpy_qat.LearnedScale("int4", symmetric=symmetric)
    x, g = torch.randn(9, 9, requires_grad=True), torch.randn(9, 9)
    y = quantizer(x)
    y.backward(g)
    np.testing.assert_array_equal(y.detach().numpy(), twin(x.detach().numpy()))
    np.testing.assert_array_equal(x.grad.numpy(), twin.backward(g.numpy()))
    np.testing.assert_array_equal(quantizer.scale.grad.numpy(), twin.dscale)
    if symmetric is False:
        np.testing.assert_array_equal(quantizer.zero_point.grad.numpy(), twin.dzero_point)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_layouts_in_memory_have_the_same_codes(layout):
    x = torch.randn(2, 3, 4, 5)
    other = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "sliced": torch.cat([x, x], 3)[..., :5],
    }[layout]
    for granularity in (qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(2, 1)):
        results = []
        for source in (x, other):
            source = source.detach().requires_grad_()
            shape = granularity.params_shape((2, 3, 4, 5))
            y = FakeQuantize("int4", granularity, shape, symmetric=True)(source)
            y.backward(torch.ones_like(x))
            results.append((y.detach(), source.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0)])
def test_the_operators_are_sound(granularity):
    x = torch.randn(3, 4)
    quantizer = FakeQuantize("int8", granularity, granularity.params_shape((3, 4)))
    schemas = "test_schema", "test_faketensor", "test_aot_dispatch_dynamic"
    operator = torch.ops.qnumpy.observed_fake_quantize.default
    for layout, order in ((x, ""), (x.t().contiguous().t(), "10")):
        torch.library.opcheck(operator, (layout, quantizer.held(), quantizer.scheme, order), test_utils=schemas)
        own = OwnRange("uint8", granularity)
        torch.library.opcheck(
            torch.ops.qnumpy.own_fake_quantize.default, (layout, own.scheme, order), test_utils=schemas
        )


# ---- against PyTorch's own ----


def powers_of_two(*shape):
    """Numbers whose range gives a scale that is a power of two: PyTorch multiplies by a reciprocal, which is exact."""
    x = torch.randint(-127 * 8, 127 * 8, shape) / 8.0
    x.view(shape[0], -1)[:, 0] = 127.0
    return x.requires_grad_()


def test_gradients_are_those_of_torch_per_channel():
    w, g = powers_of_two(4, 6), torch.randn(4, 6)
    quantizer = FakeQuantize("int8", qn.PerChannel(0), (4,), symmetric=True, averaging_constant=1, always=True)
    y = quantizer(w)
    y.backward(g)
    other = w.detach().clone().requires_grad_()
    wanted = torch.fake_quantize_per_channel_affine(other, quantizer.scale, quantizer.zero_point, 0, -127, 127)
    wanted.backward(g)
    assert torch.equal(y, wanted)
    assert torch.equal(w.grad, other.grad)


def test_gradients_are_those_of_torch_per_tensor_where_codes_saturate():
    x, g = powers_of_two(4, 6), torch.randn(4, 6)
    quantizer = FakeQuantize("int8", symmetric=True)
    quantizer(x / 2)  # so that the range is half as wide
    quantizer.freeze()
    y = quantizer(x)
    y.backward(g)
    other = x.detach().clone().requires_grad_()
    wanted = torch.fake_quantize_per_tensor_affine(other, float(quantizer.scale), 0, -127, 127)
    wanted.backward(g)
    assert torch.equal(y, wanted)
    assert torch.equal(x.grad, other.grad)
    assert (x.grad == 0).any()


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_normalisation_trains_like_that_of_torch_ao(bias):
    intrinsic = pytest.importorskip("torch.ao.nn.intrinsic.qat")
    ao = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(2)
    floats = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5))
    with torch.no_grad():
        floats[1].weight.copy_(torch.tensor([0.5, 2.0, -1.0, 1.5, 0.1]))
        floats[1].bias.normal_()
    model = prepare_qat(floats, Config(mode="static", observer="moving_average"))
    observer = ao.PerChannelMinMaxObserver.with_args(
        qscheme=torch.per_channel_symmetric, dtype=torch.qint8, quant_min=-127, quant_max=127, eps=2**-40
    )
    weight = ao.FakeQuantize.with_args(observer=observer, quant_min=-127, quant_max=127)
    twin = intrinsic.ConvBn2d(3, 5, 3, bias=bias, qconfig=ao.QConfig(activation=ao.FakeQuantize, weight=weight))
    twin.weight, twin.bias = copy.deepcopy(floats[0].weight), copy.deepcopy(floats[0].bias)
    twin.bn = copy.deepcopy(floats[1])
    model[0].register_module("input_quantizer", None)  # the other has none
    for x in batches(3, (4, 3, 6, 6)):
        for net in (model, twin):
            net.zero_grad()
            net(x).square().sum().backward()
        # A weight near the middle of two codes may round to the other one: PyTorch multiplies by the reciprocal of the
        # scale. Then y differs by a step, S |x|, of 127 in the sum; none does with this seed.
        torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model[0].weight.grad, twin.weight.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model[1].weight.grad, twin.bn.weight.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model[1].running_var, twin.bn.running_var)


# ---- models ----


@pytest.mark.parametrize("name", CONFIGS)
def test_the_converted_model_computes_what_was_trained(name):
    data = batches()
    model = train(prepare_qat(images(), CONFIGS[name]), data).eval()
    converted = convert(model)
    with torch.no_grad():
        wanted, y = model(data[0]), converted(data[0])
    # float32 sums of 256 products; no code of these data lies so near the middle of two steps that it moves
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    assert [layer.method for layer in report(converted)] == ["qat"] * 3
    assert not any(isinstance(module, FakeQuantize | training.TrainedLayer) for module in converted.modules())
    assert isinstance(converted[1], nn.Identity)
    with torch.no_grad():
        assert torch.equal(model(data[0]), wanted)  # which convert left alone


def test_sequences_and_tables_convert():
    torch.manual_seed(0)

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.conv, self.norm = (
                nn.Embedding(20, 6),
                nn.Conv1d(6, 4, 3, padding="same"),
                nn.BatchNorm1d(4),
            )

        def forward(self, ids):
            return self.norm(self.conv(self.table(ids).transpose(1, 2)))

    trained = prepare_qat(Text())
    ids = [torch.randint(0, 20, (5, 7)) for _ in range(3)]
    train(trained, ids).eval()
    converted = convert(trained)
    assert type(converted.table).__name__ == "Embedding"
    assert isinstance(converted.norm, nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(converted(ids[0]), trained(ids[0]), rtol=1e-5, atol=1e-6)  # sums of 18 products


def test_one_image_is_a_batch_of_one():
    model = prepare_qat(images()[:1], Config())
    x = torch.randn(1, 8, 8)
    assert torch.equal(model(x), model(x[None])[0])


def test_the_float_model_stays_and_its_state_loads():
    floats = images()
    before = copy.deepcopy(floats.state_dict())
    model = train(prepare_qat(floats), batches())
    assert all(torch.equal(value, before[name]) for name, value in floats.state_dict().items())
    assert before.keys() < model.state_dict().keys()
    model.load_state_dict(before)
    assert torch.equal(model[0].weight, floats[0].weight)
    assert isinstance(model[0], nn.Conv2d)
    assert model[0].kernel_size == (3, 3)


def test_hooks_and_shared_modules_stay():
    layer, seen = nn.Linear(4, 4), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    model = prepare_qat(nn.Sequential(layer, nn.ReLU(), layer))
    model(torch.ones(2, 4))
    assert len(seen) == 2
    assert model[0] is model[2]
    assert isinstance(convert(model)[0], type(convert(model)[2]))


@pytest.mark.parametrize("name", ["default", "learned"])
def test_training_resumes_with_the_same_bits(name):
    data = batches(6)
    model = prepare_qat(images(), CONFIGS[name])
    adam = torch.optim.SGD(model.parameters(), 1e-2)

    def step(net, optimizer, x):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    for x in data[:3]:
        step(model, adam, x)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    other = prepare_qat(images(), CONFIGS[name])
    other.load_state_dict(torch.load(stored, weights_only=True))
    third = copy.deepcopy(model)
    for x in data[3:]:
        for net in (model, other, third):
            step(net, torch.optim.SGD(net.parameters(), 1e-2), x)
    for net in (other, third):
        for key, value in model.state_dict().items():
            assert torch.equal(net.state_dict()[key], value), key


def test_a_schedule_lowers_bits_and_freezes():
    schedule = numpy_qat.Schedule({0: "int8", 2: "int4"}, freeze=3)
    for config in (Config(mode="static"), Config(mode="static", qat="lsq")):
        model, before = prepare_qat(images(), config), {}
        for epoch, x in enumerate(batches(5)):
            schedule.begin_epoch(epoch, training.quantizers(model))
            train(model, [x])
            names = [getattr(q, "dtype", None) for q in training.quantizers(model)]
            assert {name[-1] for name in names if name} == {"4" if epoch >= 2 else "8"}
            state = {key: value.clone() for key, value in model.state_dict().items()}
            if epoch >= 4:  # frozen before the fourth
                kept = [key for key in state if re.search("quantizer|running", key)]
                assert kept
                assert all(torch.equal(state[key], before[key]) for key in kept)
            before = state
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(convert(model)(x), model(x), rtol=1e-5, atol=1e-6)  # as above


def test_frozen_statistics_stay_after_train_and_in_the_state():
    model = train(prepare_qat(images()), batches(2))
    for quantizer in training.quantizers(model):
        quantizer.freeze()
    other = prepare_qat(images())
    other.load_state_dict(model.state_dict())
    for net in (model, other):
        variance = net[1].running_var.clone()
        train(net.train(), batches(2))
        assert torch.equal(net[1].running_var, variance)


def test_delay():
    floats = images()
    model = prepare_qat(floats, delay=2)
    x = batches(1)[0]
    with torch.no_grad():
        for _ in range(2):
            # The folded normalisation takes a factor out of sums of 9 products that it multiplied into the weight.
            torch.testing.assert_close(model(x), floats(x), rtol=1e-4, atol=1e-5)
        assert (model(x) - floats(x)).abs().max() > 1e-4
        assert model[0].input_quantizer.seen


def test_x_of_few_bits_without_training():
    data = batches()
    model = prepare(images(), Config(mode="static", activation_bits=3))
    for x in data:
        model(x)
    converted = convert(model)
    params = converted[6].packed()._input.qparams
    assert (params.dtype, params.qmin, params.qmax) == ("uint8", 0, 7)
    seen = []
    converted[6].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y = converted(data[0])
    x = seen[0].numpy()
    exact = qn.fake_quantize(x, params).astype(np.float64) @ converted[6].dequantize().double().numpy().T
    np.testing.assert_allclose(y.numpy() - converted[6].bias.numpy(), exact, atol=1e-5)  # float32 of 256 products


def test_overrides_and_exclusions():
    config = Config(overrides={"6": Config(dtype="int4", **{**STATIC, "mode": "dynamic"}), "0": None})
    model = prepare_qat(images(), config)
    assert type(model[0]) is nn.Conv2d
    assert model[3].weight_quantizer.dtype == "int8"
    assert model[6].weight_quantizer.dtype == "int4"
    assert convert(model)[6].array().qparams.dtype == "int4"


def test_an_encoder_in_evaluation_keeps_its_rounding():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = prepare_qat(layer, Config(mode="static", exclude="self_attn*"))
    x = torch.randn(2, 5, 16)
    model(x)
    model.eval()
    with torch.no_grad():
        fast = model(x)
    for p in model.parameters():
        p.requires_grad_(False)
    assert torch.equal(model(x), fast)
    assert (fast - layer.eval()(x)).abs().max() > 1e-4
    rows = report(convert(model))
    assert [(row.name, row.reason) for row in rows] == [
        ("self_attn", "it was not trained with rounding"), ("linear1", ""), ("linear2", "")
    ]  # fmt: skip


def test_bfloat16():
    model = prepare_qat(images().to(torch.bfloat16))
    train(model, [x.to(torch.bfloat16) for x in batches(2)])
    x = batches()[0].to(torch.bfloat16)
    assert model(x).dtype == torch.bfloat16
    with torch.no_grad():
        y, wanted = convert(model)(x).float(), model.eval()(x).float()
    # bfloat16 has 8 bits: the sums of the layers in float32 and their roundings differ by 2**-8 of the largest
    assert (y - wanted).abs().max() <= 2**-5 * wanted.abs().max()


def test_autocast_and_inference_mode():
    model, x = prepare_qat(images()), batches()[0]
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        y = model.eval()(x)
    assert torch.equal(model(x), y)


def test_empty_batches_change_no_range():
    model = prepare_qat(nn.Linear(4, 2))
    model(torch.empty(0, 4))
    assert not model.input_quantizer.seen
    model(torch.ones(1, 4))
    scale = model.input_quantizer.scale.clone()
    assert model(torch.empty(0, 4)).shape == (0, 2)
    assert torch.equal(model.input_quantizer.scale, scale)


def test_nan_and_infinity():
    model = prepare_qat(nn.Linear(3, 2))
    x = torch.tensor([[1.0, np.nan, -np.inf], [2.0, np.inf, 0.5]])
    y = model(x)
    assert torch.isfinite(y).all()
    assert (float(model.input_quantizer.low), float(model.input_quantizer.high)) == (0.5, 2.0)


@pytest.mark.parametrize("name", ["default", "dynamic", "learned"])
def test_compiled_training_gives_the_same_bits(name):
    data = batches(3)
    floats = nn.Sequential(*[module for module in images() if not isinstance(module, nn.BatchNorm2d)])
    eager, other = prepare_qat(floats, CONFIGS[name]), prepare_qat(floats, CONFIGS[name])
    for net in (eager, other):
        train(net, data[:1])
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for x in data[1:]:
        a, b = eager(x), compiled(x)
        assert torch.equal(a, b)
        for y in (a, b):
            y.square().sum().backward()
    for p, q in zip(eager.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    for (key, p), q in zip(eager.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(p, q), key


def test_a_folded_normalisation_compiles():
    model = train(prepare_qat(images()), batches(1))
    x = batches(1)[0]
    y = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)(x)
    # The compiler takes the normalisation apart; one step of a code of x, and sums of 256 products.
    torch.testing.assert_close(y, model(x), rtol=1e-2, atol=1e-2)


# ---- refusals ----


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: prepare_qat(3), TypeError, "prepare_qat: model must be a Module; got 3."),
        (lambda: prepare_qat(images(), "int8"), TypeError, "prepare_qat: config must be a Config; got 'int8'."),
        (lambda: prepare_qat(images(), delay=1.5), TypeError, "prepare_qat: delay must be an integer; got 1.5."),
        (
            lambda: prepare_qat(prepare_qat(images())),
            ValueError,
            "prepare_qat: model must be a float model; got Conv2d at '0'.",
        ),
        (
            lambda: prepare_qat(nn.ReLU()),
            ValueError,
            "prepare_qat: model must be one with layers that config selects: Linear, Conv1d, Conv2d, Embedding; "
            "got ReLU.",
        ),
        (
            lambda: prepare_qat(nn.Sequential(nn.Linear(2, 2)).double()),
            TypeError,
            "prepare_qat: model must be of float32, float16 or bfloat16; got float64 at '0'.",
        ),
        (
            lambda: prepare_qat(images(), Config(method="gptq")),
            ValueError,
            "prepare_qat: config.method must be 'minmax', the range that weights have in training; got 'gptq'.",
        ),
        (
            lambda: prepare_qat(images(), Config(dtype="mxfp4")),
            ValueError,
            "prepare_qat: config.dtype must be a type of integers; got 'mxfp4'.",
        ),
        (
            lambda: convert(prepare_qat(images()), Config()),
            ValueError,
            None,
        ),
        (
            lambda: convert(prepare_qat(images())),
            qn.CalibrationError,
            "FakeQuantize: data must run through the model in training mode before evaluation; got none.",
        ),
        (
            lambda: prepare_qat(images(), Config(mode="static", qat="lsq")).eval()(batches()[0]),
            qn.CalibrationError,
            "LearnedScale: data must run through the model in training mode before evaluation; got none.",
        ),
        (
            lambda: Config(qat="pact"),
            ValueError,
            "Config: qat must be one of 'fake_quantize', 'lsq'; got 'pact'.",
        ),
    ],
)
def test_refusals(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert sentence is None or str(caught.value) == sentence
