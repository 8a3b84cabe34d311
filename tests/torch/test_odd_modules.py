"""Modules of odd shapes and uses: each becomes codes, or the report says why it does not, in every mode."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, Conv1d, Conv2d, Embedding, Linear, convert, load, prepare, report, save
from qnumpy.torch.modules import Quantized

pytestmark = pytest.mark.peers

MODES = {
    "dynamic": Config(),
    "static": Config(mode="static"),
    "weights": Config(mode="weights", dtype="int4"),
}
# The relative error of a layer of random numbers: 1/255 of a range of some 6 deviations is 0.7 % of one, and so is that
# of a weight; codes of 4 bits have steps 16 times as wide in groups whose range is 4 deviations. Models have up to 3.
TOLERANCE = {"dynamic": 0.03, "static": 0.03, "weights": 0.2}
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def made(model):
    """Return a model with weights that do not depend on other tests."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5)
    return model.eval()


def converted(model, mode, *args):
    prepared = prepare(model, mode if isinstance(mode, Config) else MODES[mode])
    prepared(*args)
    return convert(prepared)


def check(model, mode, *args, skipped=()):
    """Convert a model; compare it with the float one, and each of its layers with the report."""
    before, expected = copy.deepcopy(model.state_dict()), model(*args)
    result = converted(model, mode, *args)
    y = result(*args)
    assert y.dtype == expected.dtype
    error = float((y.double() - expected.double()).norm() / expected.double().norm())
    assert error < TOLERANCE[mode]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rows = report(result)
    assert set(rows.skipped) == set(skipped)
    assert all(rows.skipped.values())
    for row in rows:
        assert isinstance(result.get_submodule(row.name), Quantized) == (row.name not in skipped)
        assert row.bytes_after < row.bytes_before or row.name in skipped
    return result


class Net(nn.Module):
    """A model of parts with a forward that a function gives."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.of_parts = forward

    def forward(self, *args):
        return self.of_parts(self, *args)


# ---- the ten ----


@modes
def test_without_a_bias(mode):
    model = made(nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False)))
    result = check(model, mode, random(16, 64))
    assert "bias" not in dict(result[0].named_buffers())
    model = made(nn.Sequential(nn.Conv2d(8, 12, 3, bias=False)))
    check(model, mode, random(2, 8, 9, 9))


@modes
def test_a_parameter_that_is_a_transposed_tensor(mode):
    model = made(nn.Sequential(nn.Linear(64, 32)))
    model[0].weight = nn.Parameter(model[0].weight.t().contiguous().t())
    assert not model[0].weight.is_contiguous()
    x = random(16, 64)
    result = check(model, mode, x)
    model[0].weight = nn.Parameter(model[0].weight.contiguous())
    assert torch.equal(result(x), converted(model, mode, x)(x))


@modes
def test_a_layer_whose_weight_is_inputs_by_outputs(mode):
    layers = pytest.importorskip("transformers.pytorch_utils")
    model = made(nn.Sequential(layers.Conv1D(32, 64), nn.ReLU()))
    assert model[0].weight.shape == (64, 32)
    result = check(model, mode, random(16, 64))
    assert type(result[0]) is Linear
    assert (result[0].in_features, result[0].out_features) == (64, 32)


@modes
def test_transposed_convolutions_are_skipped(mode):
    model = made(nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Flatten(), nn.Linear(384, 8)))
    result = check(model, mode, random(2, 4, 6, 6), skipped=("0",))
    assert report(result).skipped["0"] == "no module of codes computes what ConvTranspose2d does"


@modes
def test_tied_embeddings(mode):
    model = made(
        Net(lambda m, ids: m.head(torch.tanh(m.mix(m.table(ids)))), table=nn.Embedding(50, 32), mix=nn.Linear(32, 32),
            head=nn.Linear(32, 50))
    )  # fmt: skip
    model.head.weight = model.table.weight
    result = check(model, mode, torch.arange(50).reshape(5, 10))
    assert type(result.table) is Embedding
    assert result.head.weight.data_ptr() == result.table.weight.data_ptr()
    assert torch.equal(result.head.dequantize(), result.table.dequantize())


@modes
def test_a_module_that_is_used_twice(mode):
    layer = nn.Linear(32, 32)
    model = made(nn.Sequential(layer, nn.ReLU(), layer, nn.Sequential(layer)))
    result = check(model, mode, random(16, 32))
    assert result[0] is result[2] is result[3][0]
    assert [row.name for row in report(result)] == ["0"]
    assert report(result)["0"].reason.startswith("also 2, 3.0")


@modes
def test_grouped_and_dilated_convolutions(mode):
    model = made(
        nn.Sequential(
            nn.Conv2d(8, 16, 3, groups=4, dilation=(2, 1), stride=(1, 2), padding=(3, 1)), nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=16, padding="same"),
        )
    )  # fmt: skip
    result = check(model, mode, random(2, 8, 12, 11))
    assert type(result[0]) is type(result[2]) is Conv2d
    model = made(nn.Sequential(nn.Conv1d(6, 12, 5, groups=3, dilation=2, padding=4)))
    result = check(model, mode, random(3, 6, 20))
    assert type(result[0]) is Conv1d


@modes
def test_convolutions_that_pad_with_their_image(mode):
    model = made(nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(768, 4)))
    x = random(2, 8, 8, 8)
    result = converted(model, mode, x)
    skipped = report(result).skipped
    assert type(result[0]) is nn.Conv2d if "0" in skipped else isinstance(result[0], Quantized)
    expected = model(x)
    assert float((result(x) - expected).norm() / expected.norm()) < TOLERANCE[mode]


@modes
def test_an_empty_batch(mode):
    model = made(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)))
    result = check(model, mode, random(16, 32))
    assert result(random(0, 32)).shape == (0, 8)
    assert result(random(3, 0, 32)).shape == (3, 0, 8)
    model = made(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()))
    assert converted(model, mode, random(2, 4, 8, 8))(random(0, 4, 8, 8)).shape == (0, 6, 6, 6)
    prepared = prepare(made(nn.Sequential(nn.Linear(32, 16))), MODES[mode])
    prepared(random(0, 32))
    prepared(random(4, 32))
    assert report(convert(prepared)).skipped == {}


@modes
def test_inputs_that_are_not_contiguous(mode):
    model = made(nn.Sequential(nn.Linear(32, 16)))
    result = check(model, mode, random(16, 32))
    x = random(32, 7, 3)
    for view in (x.permute(2, 1, 0), x[:, ::2].permute(1, 2, 0), x[:, :1, :1].permute(1, 2, 0).expand(4, 5, 32)):
        assert not view.is_contiguous()
        assert torch.equal(result(view), result(view.contiguous()))
    model = made(nn.Sequential(nn.Conv2d(4, 6, 3)))
    images = random(2, 4, 8, 8)
    result = converted(model, mode, images)
    last = images.to(memory_format=torch.channels_last)
    assert float((result(last) - result(images)).abs().max()) <= 1e-5  # a float convolution adds in another order


@modes
def test_a_model_of_bfloat16(mode):
    model = made(
        nn.Sequential(nn.Embedding(20, 32), nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 8))
    ).to(torch.bfloat16)
    result = check(model, mode, torch.arange(20))
    assert {row.dtype.split()[0] for row in report(result)} == {"int8", "int4" if mode == "weights" else "int8"}
    assert result[2].weight.dtype == torch.bfloat16


@modes
def test_hooks_stay(mode):
    model = made(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)))
    seen = []
    model[0].register_forward_hook(lambda module, args, y: y * 2)  # what a hook returns is the result
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[2].register_forward_hook(lambda module, args, y: seen.append(type(module).__name__))
    model.register_forward_hook(lambda module, args, y: seen.append("model"))
    result = check(model, mode, random(16, 32))
    assert type(result[1]) is nn.ReLU  # behind the hook that doubles it would not be the same
    seen.clear()
    result(random(3, 32))
    assert seen == ["Linear", "model"]
    assert type(result[2]) is Linear


@modes
def test_nested_sequentials(mode):
    inner = nn.Sequential(nn.Sequential(nn.Linear(32, 24), nn.ReLU()), nn.Identity(), nn.Sequential(nn.Linear(24, 16)))
    model = made(nn.Sequential(inner, nn.Sequential(), nn.ModuleDict({"head": nn.Linear(16, 4)})["head"]))
    result = check(model, mode, random(16, 32))
    assert [row.name for row in report(result)] == ["0.0.0", "0.2.0", "2"]


# ---- more ----


@modes
def test_a_layer_that_data_does_not_reach(mode):
    model = made(Net(lambda m, x: m.used(x), used=nn.Linear(32, 8), other=nn.Linear(32, 8)))
    result = check(model, mode, random(16, 32), skipped=("other",) if mode == "static" else ())
    if mode == "static":
        assert report(result).skipped["other"] == "no data reached it"


@modes
def test_weights_that_hooks_or_parametrizations_make(mode):
    model = made(nn.Sequential(nn.Linear(32, 16)))
    nn.utils.parametrizations.orthogonal(model[0])
    result = check(model, mode, random(16, 32))
    assert type(result[0]) is Linear


@modes
def test_a_class_that_adds_to_a_layer_is_skipped(mode):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Same(nn.Linear):
        """Of another name only."""

    model = made(nn.Sequential(Doubled(32, 16), Same(16, 8)))
    result = check(model, mode, random(16, 32), skipped=("0",))
    assert report(result).skipped["0"] == "no module of codes computes what Doubled does beyond Linear"


@modes
def test_a_root_that_is_a_layer(mode):
    assert type(check(made(nn.Linear(32, 16)), mode, random(8, 32))) is Linear
    rnn, x = made(nn.LSTM(32, 16)), random(4, 2, 32)
    result = converted(rnn, mode, x)
    assert [row.name for row in report(result)] == ["ih_l0", "hh_l0"]
    assert type(result.hh_l0) is Linear
    assert float((result(x)[0] - rnn(x)[0]).norm() / rnn(x)[0].norm()) < TOLERANCE[mode]
    for config, float_part in ((Config(exclude="hh_*"), "hh_l0"), (Config(include="hh_*"), "ih_l0")):
        assert list(report(convert(rnn, config)).skipped) == [float_part]


# ---- attention and recurrent networks ----


def encoder(**options):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)
    return made(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@modes
def test_encoders_of_pytorch(mode):
    model = encoder(activation="gelu")
    result = check(model, mode, random(4, 6, 32))
    names = [f"self_attn.{name}" for name in PROJECTIONS] + ["linear1", "linear2"]
    assert [row.name for row in report(result)] == [f"layers.{i}.{name}" for i in (0, 1) for name in names]
    padding = torch.arange(6)[None] >= torch.tensor([6, 4, 5, 2])[:, None]
    x = random(4, 6, 32)
    y, expected = (m(x, src_key_padding_mask=padding)[~padding] for m in (result, model))
    assert float((y - expected).norm() / expected.norm()) < TOLERANCE[mode]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("nested", [False, True])
def test_encoders_of_which_a_part_stays_float(nested):
    """The fused kernels of PyTorch would read codes as weights."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = made(nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested))
    x, padding = random(4, 6, 32), torch.arange(6)[None] >= torch.tensor([6, 4, 5, 2])[:, None]
    for include in ("Linear", "MultiheadAttention", "layers.0.*"):
        result = convert(model, Config(include=include))
        for args in ({}, {"src_key_padding_mask": padding}):
            y, expected = (m(x, **args)[~padding] for m in (result, model))
            assert float((y - expected).norm() / expected.norm()) < TOLERANCE["dynamic"]
    assert not any(isinstance(m, nn.MultiheadAttention) for m in convert(model).modules())


@pytest.mark.parametrize("config", [
    Config(include="Linear"), Config(include="layers.0.*"), Config(include="*.out_proj"), Config(exclude="*.q_proj")
])  # fmt: skip
def test_encoders_of_which_a_part_stays_float_in_a_file(config, tmp_path):
    model, x = encoder(), random(4, 6, 32)
    result = convert(model, config)
    save(result, tmp_path / "model.safetensors")
    loaded = load(model, tmp_path / "model.safetensors")
    assert torch.equal(loaded(x), result(x))
    assert loaded.state_dict().keys() == result.state_dict().keys()


@modes
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks(mode, kind):
    model = made(Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=kind(32, 24, 2, bidirectional=True), head=nn.Linear(48, 4)))
    result = check(model, mode, random(7, 3, 32))
    assert [row.name for row in report(result)] == [
        *(f"rnn.{part}_l{i}{way}" for i in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")),
        "head",
    ]


def test_patterns_of_the_whole_select_its_parts():
    rnn = nn.LSTM(32, 32)
    model = made(Net(lambda m, x: m.mix(*[m.rnn(x)[0]] * 3)[0], rnn=rnn, mix=nn.MultiheadAttention(32, 4)))
    whole = {"rnn": nn.LSTM, "mix": nn.MultiheadAttention}
    assert report(convert(model, Config(exclude="rnn"))).skipped == {"rnn": "the configuration leaves it as it is"}
    for name, cls in whole.items():
        (other,) = set(whole) - {name}
        for pattern in (name, cls.__name__):
            result = convert(model, Config(include=pattern))
            assert list(report(result).skipped) == [other]
            assert type(result.get_submodule(other)) is whole[other]
        result = convert(model, Config(overrides={cls.__name__: Config(dtype="int4")}))
        assert {row.dtype.split()[0] for row in report(result) if row.name.startswith(name)} == {"int4"}
        assert {row.dtype.split()[0] for row in report(result) if row.name.startswith(other)} == {"int8"}


def test_patterns_select_single_parts():
    model = encoder()
    result = convert(model, Config(include=["*.q_proj", "layers.1.linear1"]))
    chosen = [row.name for row in report(result) if row.method]
    assert chosen == ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "layers.1.linear1"]
    assert type(result.layers[0].self_attn.k_proj) is nn.Linear
    wanted = re.escape(
        "convert: config.include must be patterns that each match a module's name or class; got 'q_proj'"
    )
    with pytest.raises(ValueError, match=wanted):
        convert(model, Config(include="q_proj"))


@modes
def test_classes_of_their_own_that_derive_from_them_stay(mode):
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    model = made(nn.Sequential(Own(32, 4), nn.Linear(32, 8)))
    result = check(model, mode, random(6, 2, 32), skipped=("0",))
    assert report(result).skipped["0"] == "no module of codes computes what Own does"


def test_the_fast_paths_of_the_float_model_stay():
    model = encoder()
    convert(prepared := prepare(model))
    assert model.layers[0].activation_relu_or_gelu == 1
    assert prepared.layers[0].activation_relu_or_gelu == 0


def test_batch_normalisation_and_relu_become_part_of_a_layer():
    model = made(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)))
    model[1].running_mean.copy_(random(8))
    model[1].running_var.copy_(random(8, seed=1).abs() + 0.5)
    result = check(model, "static", random(4, 4, 8, 8))
    assert type(result[1]) is type(result[2]) is nn.Identity
    assert (result[0](random(4, 4, 8, 8)) >= 0).all()


# ---- NaN and infinities, as docs/semantics.md has them ----


def products():
    return {
        "linear": (made(nn.Sequential(nn.Linear(32, 16))), random(8, 32)),
        "conv2d": (made(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1))), random(2, 4, 8, 8)),
        "conv1d": (made(nn.Sequential(nn.Conv1d(4, 8, 3, padding=1))), random(2, 4, 9)),
    }


def spoiled(x, *values):
    y = x.clone()
    flat = y.reshape(-1)
    for i, value in enumerate(values):
        flat[i::41] = value
    return y


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d"])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_nan_is_a_zero(kind, mode):
    model, x = products()[kind]
    result = converted(model, Config(mode=mode, hadamard=False), x)
    assert torch.equal(result(spoiled(x, torch.nan)), result(spoiled(x, 0.0)))


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d"])
def test_infinities_saturate_in_the_mode_static(kind):
    model, x = products()[kind]
    result = converted(model, "static", x)
    assert torch.equal(result(spoiled(x, torch.inf, -torch.inf)), result(spoiled(x, 3e38, -3e38)))


def test_infinities_saturate_at_the_range_of_their_row():
    model, x = products()["linear"]
    layer = converted(model, Config(hadamard=False), x)[0]
    x = spoiled(x, torch.inf, torch.nan, -torch.inf)
    levels = qn.quantize(x.numpy(), dtype="uint8", granularity=qn.PerRow(), symmetric=False).dequantize()
    finite = x.nan_to_num(0, 0, 0).numpy()
    assert (levels <= np.maximum(finite.max(axis=1), 0)[:, None] * (1 + 1 / 255)).all()  # and a rounded zero point
    expected = torch.from_numpy(levels).double() @ layer.dequantize().double().T + model[0].bias
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)  # one float32 rounding of each


def test_nan_makes_zeros_of_the_block_that_a_rotation_mixes():
    model, x = products()["linear"]
    result = converted(model, Config(hadamard=True), x)
    y = result(spoiled(x, torch.nan))
    bad = spoiled(x, torch.nan).isnan().any(dim=1)
    assert bool(bad.any())
    torch.testing.assert_close(y[bad], model[0].bias.expand_as(y[bad]), rtol=0, atol=0)  # one block of 32 inputs
    assert torch.equal(y[~bad], result(x)[~bad])


@modes
def test_other_rows_do_not_see_them(mode):
    model, x = products()["linear"]
    result = converted(model, mode, x)
    y = result(x)
    for value in (torch.nan, torch.inf, -torch.inf):
        bad = x.clone()
        bad[3, 5] = value
        again = result(bad)
        assert bool(again.isfinite().all())
        others = torch.arange(8) != 3
        assert torch.equal(again[others], y[others])


def test_a_row_of_nothing_finite_gives_the_bias():
    model, x = products()["linear"]
    result = converted(model, "dynamic", x)
    for value in (torch.nan, torch.inf):
        torch.testing.assert_close(result(torch.full((1, 32), value))[0], model[0].bias, rtol=0, atol=1e-30)


def test_a_weight_of_floats_multiplies_them_as_ieee_says():
    model, x = products()["linear"]
    result = convert(model, Config(mode="weights", dtype="float8_e4m3fn"))
    bad = x.clone()
    bad[1, 2], bad[3, 4] = torch.nan, torch.inf
    y, expected = result(bad), bad @ result[0].dequantize().T + model[0].bias
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    assert bool(y[1].isnan().all())
    assert not bool(y[3].isfinite().any())
    assert bool(y[[0, 2, *range(4, 8)]].isfinite().all())


def test_data_of_nothing_finite_leaves_a_static_layer_float():
    prepared = prepare(made(nn.Sequential(nn.Linear(32, 16))), Config(mode="static"))
    prepared(torch.full((4, 32), torch.nan))
    assert report(convert(prepared)).skipped == {"0": "its input holds only NaN and infinities"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_skipped(value):
    model = made(nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 4)))
    model[0].weight[1, 2] = value
    assert report(convert(model)).skipped == {"0": "its weight is not finite"}


def test_a_clip_passes_nan():
    model, x = made(nn.Sequential(nn.Linear(32, 16), nn.ReLU())), random(8, 32)
    result = converted(model, "static", x)
    assert re.search("clip", repr(result[0]))
    assert type(result[1]) is nn.Identity
    assert bool((result(x) >= 0).all())
    assert torch.equal(result(spoiled(x, torch.nan)), result(spoiled(x, 0.0)))
