"""What folds into the layers of a model, by torch.fx and torch.export."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from qnumpy.torch import Config, _folds, convert, prepare, report
from qnumpy.torch._folds import find_folds, fold_activations, fold_batch_norms, fold_smoothing

pytestmark = pytest.mark.peers


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def trained(model):
    """Return a model whose normalisations have statistics and gains that are not those they begin with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            gain = module._parameters.get("weight")
            if gain is not None and gain.ndim == 1:
                gain.uniform_(0.5, 2)
    return model.eval()


class Net(nn.Module):
    """A model of parts with a forward that a function gives."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.of_parts = forward

    def forward(self, x):
        return self.of_parts(self, x)


def branching(forward):
    """Return a forward that torch.fx cannot trace."""
    return lambda m, x: forward(m, x) if x.shape[0] < 100 else x


def images():
    return random(2, 3, 8, 8)


# ---- batch normalisations and activations ----


def conv_net():
    return trained(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4, dilation=2), nn.BatchNorm2d(8, affine=False), nn.Hardtanh(-0.5, 0.5),
            nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5), nn.ReLU6(), nn.Linear(5, 4), nn.ReLU(),
        )
    )  # fmt: skip


def test_a_net_of_convolutions():
    model = conv_net()
    for args in ((), (images(),)):
        folds = find_folds(model, args)
        assert folds.batch_norms == {"0": "1", "3": "4", "7": "8"}
        assert folds.activations == {"0": "2", "3": "5", "7": "9", "10": "11"}
        assert folds.reason is None


def test_the_folded_model_is_the_same_function():
    model = conv_net()
    folded = copy.deepcopy(model)
    folds = find_folds(folded)
    fold_batch_norms(folded, folds)
    x = images()
    # Each of 3 folded weights and biases is rounded once more, to 2**-24 of it.
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    clips = fold_activations(folded, folds)
    assert clips == {"0": (0.0, None), "3": (-0.5, 0.5), "7": (0.0, 6.0), "10": (0.0, None)}
    assert sum(type(module) is nn.Identity for module in folded) == 7
    for name, (low, high) in clips.items():
        folded.get_submodule(name).register_forward_hook(lambda m, a, y, low=low, high=high: y.clamp(low, high))
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_model_that_shares_parameters_keeps_its_own():
    model = conv_net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    shared = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    fold_batch_norms(shared, find_folds(shared))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_finding_changes_nothing():
    model = conv_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_folds(model, (images(),))
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def linear_and_norm(**options):
    return {"a": nn.Linear(6, 6), "b": nn.BatchNorm1d(6, **options), "c": nn.ReLU()}


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(
    ("forward", "parts"),
    [
        (lambda m, x: m.b(m.a(x)) + m.a(x), linear_and_norm()),  # called twice
        (lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), linear_and_norm()),  # another reader
        (lambda m, x: m.b(m.a(x).relu()), linear_and_norm()),  # something between
        (lambda m, x: m.b(m.a(m.b(x))), linear_and_norm()),  # the normalisation is used twice
        (lambda m, x: m.b(m.a(x)) + m.a.weight.sum(), linear_and_norm()),  # the weight is read by itself
        (lambda m, x: m.b(m.a(x)), linear_and_norm(track_running_stats=False)),  # statistics of the batch
        (lambda m, x: m.b(m.a(x)), {"a": nn.Linear(6, 6), "b": nn.InstanceNorm1d(6)}),
        (lambda m, x: m.b(m.a(x)), {"a": parametrizations.weight_norm(nn.Linear(6, 6)), "b": nn.BatchNorm1d(6)}),
    ],
)
def test_what_does_not_fold(forward, parts, traceable):
    model = trained(Net(forward if traceable else branching(forward), **parts))
    folds = find_folds(model, (random(4, 6),))
    assert folds.batch_norms == {}
    assert folds.reason is None


def test_a_tied_weight_does_not_fold():
    parts = linear_and_norm() | {"d": nn.Linear(6, 6)}
    parts["d"].weight = parts["a"].weight
    model = trained(Net(lambda m, x: m.c(m.d(m.b(m.a(x)))), **parts))
    folds = find_folds(model)
    assert (folds.batch_norms, folds.activations) == ({}, {})


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_module_with_hooks_does_not_fold(name):
    model = trained(Net(lambda m, x: m.c(m.b(m.a(x))), **linear_and_norm()))
    assert find_folds(model).activations == {"a": "c"}
    model.get_submodule(name).register_forward_hook(lambda m, args, y: y + 1)
    folds = find_folds(model)
    assert folds.activations == {}
    assert folds.batch_norms == ({"a": "b"} if name == "c" else {})


def test_the_normalisation_of_another_axis_does_not_fold():
    model = trained(Net(lambda m, x: m.c(m.b(m.a(x))), **linear_and_norm()))
    assert find_folds(model, (random(4, 6),)).batch_norms == {"a": "b"}
    assert find_folds(model, (random(4, 6, 6),))[:2] == ({}, {})  # (batch, length, outputs): BatchNorm1d takes length


def test_an_activation_that_several_layers_share():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu)
    folds = find_folds(model)
    assert folds.activations == {"0": "1", "2": "1"}
    assert folds.among({"0"}).activations == {}  # it has to stay for the other layer
    assert folds.among({"0", "2"}) == folds
    model = Net(lambda m, x: m.c(m.a(x)) + m.c(x), **linear_and_norm())
    assert find_folds(model).activations == {}


# ---- norms ----


class OwnNorm(nn.Module):
    """The norm of many models: RMSNorm with a gain of 1 + weight, or of weight."""

    def __init__(self, size, plus):
        super().__init__()
        self.weight, self.plus = nn.Parameter(torch.ones(size)), plus

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (self.weight + self.plus)


def gated(**options):
    parts = {"n": nn.LayerNorm(8), "a": nn.Linear(8, 6), "b": nn.Linear(8, 6), "d": nn.Dropout(), "e": nn.Linear(6, 8)}
    return parts | options


def gate(m, x):
    h = m.d(m.n(x))
    return m.e(m.a(h) * m.b(h)).reshape(h.shape) + x


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8), OwnNorm(8, 0)])
def test_norms_and_the_layers_that_read_them(norm, traceable):
    model = trained(Net(gate if traceable else branching(gate), **gated(n=norm)))
    x = random(3, 5, 8)
    folds = find_folds(model, (x,))
    assert folds.norms == {"n": ("a", "b")}
    before, expected = copy.deepcopy(model.state_dict()), model(x)
    smoothed = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    factor = torch.exp2(torch.arange(8.0) - 4)
    rest = fold_smoothing(smoothed, folds, {"a": factor, "b": factor, "e": torch.ones(6)})
    assert list(rest) == ["e"]
    assert torch.equal(smoothed(x), expected)  # powers of two
    assert torch.equal(smoothed.a.weight, model.a.weight / factor)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("forward", "parts"),
    [
        (gate, gated(n=OwnNorm(8, 1))),  # its gain is not the weight
        (gate, gated(n=nn.LayerNorm(8, elementwise_affine=False))),
        (gate, gated(n=nn.LayerNorm((5, 8)))),
        (gate, gated(n=nn.BatchNorm1d(5))),
        (gate, gated(n=nn.GroupNorm(1, 5))),
        (lambda m, x: m.e(m.a(m.n(x)) * m.b(m.n(x))), gated()),  # called twice
        (lambda m, x: m.e(m.a(m.n(x))) + m.n(x), gated()),
        (lambda m, x: (lambda h: m.e(m.a(h) * m.b(h)) + h)(m.n(x)), gated()),  # post-norm: the sum reads it too
        (lambda m, x: m.e(m.a(functional.gelu(m.n(x)))), gated()),
        (lambda m, x: (lambda h: m.e(m.a(h) * m.a(h)))(m.n(x)), gated()),  # a reader is called twice
    ],
)
@pytest.mark.parametrize("traceable", [True, False])
def test_norms_that_take_no_factors(forward, parts, traceable):
    model = trained(Net(forward if traceable else branching(forward), **parts))
    folds = find_folds(model, (random(3, 5, 8),))
    assert folds.norms == {}
    assert folds.reason is None


def test_factors_that_differ_stay():
    model = Net(gate, **gated())
    factors = {"a": torch.full((8,), 2.0), "b": torch.full((8,), 4.0)}
    before = copy.deepcopy(model.state_dict())
    assert fold_smoothing(model, find_folds(model), factors) == factors
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- tracing ----


def test_a_model_that_cannot_be_traced_tells_why():
    def forward(m, x):
        return m.a(x) if float(x.sum()) > 0 else x

    folds = find_folds(Net(forward, **linear_and_norm()), (random(4, 6),))
    assert folds[:3] == ({}, {}, {})
    assert folds.reason.startswith("torch.fx cannot trace Net: ")
    assert ". torch.export cannot either: " in folds.reason
    assert folds.reason.endswith(".")
    assert "\n" not in folds.reason


def test_parts_of_a_model_that_cannot_be_traced():
    block = Net(lambda m, x: m.c(m.b(m.a(x))), **linear_and_norm())
    taken = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))  # the model may call its parts one by one
    model = trained(Net(branching(lambda m, x: m.taken(m.block(x))), block=block, taken=taken))
    folds = find_folds(model)
    assert folds.batch_norms == {"block.a": "block.b"}
    assert folds.activations == {"block.a": "block.c"}
    assert folds.reason == (
        "torch.fx cannot trace Net: symbolically traced variables cannot be used as inputs to control flow."
    )
    assert find_folds(model, (random(4, 6),)).batch_norms == {"block.a": "block.b", "taken.0": "taken.1"}


def test_arguments_that_a_call_leaves_out_have_their_defaults():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.BatchNorm1d(6)

        def forward(self, x, mask=None, scale=2.0):
            y = self.a(x)
            return self.b(y if mask is None else y * mask) * scale

    model = trained(Masked())
    assert find_folds(model).batch_norms == {"a": "b"}
    assert find_folds(model, (random(4, 6),)).batch_norms == {"a": "b"}
    assert find_folds(model, (random(4, 6),), {"mask": random(4, 6)}).batch_norms == {}


def test_encoders_of_pytorch_are_searched_with_an_example():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation=functional.silu)
    model = trained(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), layer))
    with_example, without = find_folds(model, (random(2, 3, 8),)), find_folds(model)
    assert with_example.norms == {"2.norm2": ("2.linear1",)}
    assert with_example.reason is None
    assert without.norms == {}
    assert with_example.activations == without.activations == {"0": "1"}
    assert without.reason.startswith("torch.fx cannot trace Sequential: ")


class Box:
    """A result of a class that torch.export does not know, as the caches of language models are."""

    def __init__(self, *values):
        self.values = {"all": values}


def test_a_result_of_another_class():
    folded = trained(Net(branching(lambda m, x: Box(m.c(m.b(m.a(x))))), **linear_and_norm()))
    assert find_folds(folded, (random(4, 6),))[:2] == ({"a": "b"}, {"a": "c"})
    read = trained(Net(branching(lambda m, x: (lambda y: Box(m.c(m.b(y)), y))(m.a(x))), **linear_and_norm()))
    assert find_folds(read, (random(4, 6),))[:2] == ({}, {})  # the result holds what lies between


def test_a_decoder_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    folds = find_folds(model, (), {"input_ids": torch.arange(8)[None]})
    assert folds.reason is None
    expected = {"model.norm": ("lm_head",)}
    for name in ("model.layers.0.", "model.layers.1."):
        attention = [f"{name}self_attn.{part}_proj" for part in "qkv"]
        expected[f"{name}input_layernorm"] = tuple(attention)
        expected[f"{name}post_attention_layernorm"] = (f"{name}mlp.gate_proj", f"{name}mlp.up_proj")
    assert folds.norms == expected


def test_a_model_that_writes_into_itself_stays_as_it_is():
    def forward(m, x):
        m.cache = m.a(x)
        return m.b(m.cache)

    model = trained(Net(forward, **linear_and_norm()))
    assert find_folds(model).batch_norms == {"a": "b"}
    assert not hasattr(model, "cache")


def test_the_parts_that_are_exported_are_found_by_name():
    """Both ways of tracing see the same graph of calls."""
    model, x = conv_net(), images()
    leaves = _folds._leaves(model)
    with torch.no_grad():
        ways = _folds._traced(model, leaves), _folds._exported(model, leaves, (x,), {})
    found = set(leaves.values())
    named = [
        [(call.module, [one.module for one in call.inputs if one.module in found]) for call in way.calls]
        for way in ways
    ]
    first, second = ([entry for entry in way if entry[0] in found] for way in named)
    assert first == second


def test_convert_moves_factors_into_the_norm():
    model = trained(Net(gate, **gated()))
    x = random(64, 8)
    x[:, 2] *= 100  # the norm gives this channel almost all of a row
    with torch.no_grad():
        model.n.weight[5] = 64
        expected = model(x)
        prepared = prepare(model, Config(smooth=True, hadamard=False))
        prepared(x)
        result, plain = convert(prepared), convert(model, Config(hadamard=False))
        errors = [float((m(x) - expected).norm()) for m in (result, plain)]
    factor = result.n.weight / model.n.weight
    assert (factor != 1).any()
    assert torch.equal(factor, torch.exp2(factor.log2().round()))  # powers of two
    assert result.a.smooth is None
    assert report(result)["a"].reason == report(result)["b"].reason == "smoothed by the norm before"
    assert errors[0] < 0.7 * errors[1]
    torch.testing.assert_close(result.a.dequantize() * factor, model.a.weight, rtol=0, atol=0.02)
