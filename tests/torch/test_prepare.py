"""qnumpy.torch.prepare: a copy that computes as the model does and records what its conversion needs."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, convert, prepare
from qnumpy.torch.prepare import record_of

pytestmark = pytest.mark.peers


def exactly(message):
    return f"^{re.escape(message)}$"


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def batches(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 16, generator=generator) for _ in range(count)]


def test_computes_what_the_model_computes_under_the_same_names():
    model = mlp().train()
    prepared = prepare(model, Config(mode="static", smooth=True))
    for x in batches():
        assert torch.equal(prepared(x), model(x))
    assert list(prepared.state_dict()) == list(model.state_dict())
    assert [type(m) for m in prepared.modules()] == [type(m) for m in model.modules()]
    assert model.training
    assert not prepared.training
    assert not model[0]._forward_pre_hooks
    assert record_of(model) is None


def test_shares_the_parameters_of_the_model_and_copies_its_buffers():
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    prepared = prepare(model)
    assert prepared[0].weight is model[0].weight
    assert prepared[1].running_mean is not model[1].running_mean


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "mse", "entropy", "percentile"])
def test_observes_as_the_observers_of_qnumpy(observer):
    """The parameters of x are those that the observer chooses for the same arrays."""
    model, data = mlp(), batches()
    prepared = prepare(model, Config(mode="static", observer=observer))
    options = {"dtype": "uint8", "symmetric": False}
    makers = {"minmax": qn.MinMaxObserver, "moving_average": qn.MovingAverageMinMaxObserver}
    expected = makers[observer](**options) if observer in makers else qn.HistogramObserver(observer, **options)
    for x in data:
        prepared(x)
        expected.observe(model[:2](x).detach().numpy())
    layer = convert(prepared)[2]
    alike = qn.PackedWeight(layer.array(), bias=model[2].bias.detach().numpy(), axis=1, x_qparams=expected.qparams())
    rows = model[:2](data[0]).detach()
    np.testing.assert_array_equal(layer(rows).numpy(), rows.numpy() @ alike)


def test_keeps_the_inputs_of_the_model_where_it_runs_again():
    """All calls for GPTQ and for ranges of transformed x, else the first one: an example."""
    counts = {}
    for name, config in {
        "dynamic": Config(),
        "static": Config(mode="static"),
        "gptq": Config(method="gptq"),
        "static, rotated": Config(mode="static", hadamard=True),
        "an override": Config(overrides={"2": Config(dtype="int4", method="gptq")}),
    }.items():
        prepared = prepare(mlp(), config)
        for x in batches(3):
            prepared(x)
        counts[name] = len(record_of(prepared).inputs)
    assert counts == {"dynamic": 1, "static": 1, "gptq": 3, "static, rotated": 3, "an override": 3}


def test_recorded_inputs_survive_what_is_done_to_the_batch():
    prepared = prepare(mlp(), Config(method="gptq"))
    x = batches(1)[0]
    expected = x.clone()
    prepared(x)
    x.zero_()
    (args, kwargs), *_ = record_of(prepared).inputs
    assert torch.equal(args[0], expected)
    assert kwargs == {}


def test_a_call_that_fails_is_none():
    prepared = prepare(mlp(), Config(method="gptq"))
    with pytest.raises(RuntimeError):
        prepared(torch.ones(2, 15))
    prepared(batches(1)[0])
    assert len(record_of(prepared).inputs) == 1
    convert(prepared)


def test_records_under_inference_mode_autocast_and_gradients():
    expected = None
    for context in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        prepared = prepare(mlp(), Config(mode="static"))
        with context:
            prepared(batches(1)[0])
        layout = convert(prepared)[0].layout
        assert expected in (None, layout)
        expected = layout
    prepared = prepare(mlp(), Config(mode="static"))
    with torch.autocast("cpu", torch.bfloat16):
        prepared(batches(1)[0])
    assert convert(prepared)[2](torch.ones(1, 32)).shape == (1, 4)


def test_takes_arguments_by_name():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 4)

        def forward(self, *, x, scale=1.0):
            return self.linear(input=x) * scale

    model = Model()
    prepared = prepare(model, Config(mode="static", method="gptq"))
    for x in batches():
        prepared(x=x, scale=2.0)
    x = batches()[0]
    # int8 rows and weights: two roundings of at most 2^-8 of the largest number, in 16 products
    torch.testing.assert_close(convert(prepared)(x=x), model(x=x), rtol=0, atol=0.05)


def test_a_copy_of_a_prepared_model_records_by_itself():
    prepared = prepare(mlp(), Config(mode="static"))
    other = copy.deepcopy(prepared)
    x, y = batches(2)
    prepared(x)
    other(100 * y)
    small, large = (convert(m)[0].packed()._input.activations.scale for m in (prepared, other))
    assert large > 10 * small
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert convert(loaded)[0].layout == convert(prepared)[0].layout


def test_nonfinite_inputs_are_left_out_of_ranges():
    prepared = prepare(mlp(), Config(mode="static"))
    x = batches(1)[0]
    prepared(x)
    expected = convert(prepared)[0].layout
    x = x.clone()
    x[0, 0], x[1, 1] = np.nan, np.inf
    prepared(torch.where(x.isfinite(), 0.5 * x, x))
    assert convert(prepared)[0].layout == expected


def test_parametrized_weights_are_resolved():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))
    model = nn.Sequential(layer)
    prepared = prepare(model)
    assert type(prepared[0]) is nn.Linear
    assert torch.equal(prepared[0].weight, layer.weight)
    assert "parametrizations.weight.original0" in model[0].state_dict()


@pytest.mark.parametrize("call", [prepare, convert])
def test_refuses(call):
    name = call.__name__
    for model, config, error, sentence in [
        (lambda x: x, None, TypeError, "model must be a Module; got a function."),
        ("model.pt", None, TypeError, "model must be a Module; got 'model.pt'."),
        (mlp(), {"mode": "static"}, TypeError, "config must be a Config; got {'mode': 'static'}."),
        (
            mlp(),
            Config(include="encoder.*"),
            ValueError,
            "config.include must be patterns that each match a module's name or class; got 'encoder.*'. There are "
            "'Sequential', 'Linear', 'ReLU', '0', '1', '2'.",
        ),
    ]:
        with pytest.raises(error, match=exactly(f"{name}: {sentence}")):
            call(model, config)


def test_refuses_a_prepared_model():
    with pytest.raises(ValueError, match=exactly("prepare: model must be a float model; got one that is prepared.")):
        prepare(prepare(mlp()))
