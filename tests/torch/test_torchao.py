"""Configurations of qnumpy for torchao.quantize_."""

import copy
import re
import subprocess
import sys

import pytest

pytest.importorskip("torchao")

import torch
from torch import nn
from torchao import quantize_

import qnumpy as qn
from qnumpy.torch import Config, Int8Dynamic, IntxWeightOnly, Linear, convert

pytestmark = pytest.mark.peers


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 32), nn.Tanh(), nn.Sequential(nn.Linear(32, 64, bias=False)), nn.Conv1d(4, 4, 1)
    ).eval()


X = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (Int8Dynamic(), Config()),
        (Int8Dynamic(method="mse"), Config(method="mse")),
        (IntxWeightOnly(), Config(mode="weights", dtype="int4")),
        (IntxWeightOnly(8, 16), Config(mode="weights", dtype="int8", granularity=qn.PerGroup(16))),
        (IntxWeightOnly(3, method="hqq"), Config(mode="weights", dtype="int3", method="hqq")),
    ],
)
def test_layers_are_those_of_convert(config, own):
    model = net()
    quantize_(model, config)
    assert isinstance(model[0], Linear)
    assert isinstance(model[2][0], Linear)
    assert isinstance(model[3], nn.Conv1d)  # torchao gives a handler linear layers alone
    expected = convert(nn.Sequential(*net()[:3]), own)
    assert torch.equal(model[:3](X), expected(X))


@pytest.mark.filterwarnings("ignore:Config Deprecation:UserWarning")  # of torchao, of its "_default"
def test_filter_and_names():
    from torchao.quantization import FqnToConfig

    model = net()
    quantize_(model, Int8Dynamic(), filter_fn=lambda module, name: isinstance(module, nn.Conv1d) or name == "0")
    assert type(model[3]) is qn.torch.Conv1d
    assert isinstance(model[2][0], nn.Linear)
    model = net()
    quantize_(model, FqnToConfig({"2.0": IntxWeightOnly(2), "_default": Int8Dynamic()}), filter_fn=None)
    assert "int2 per group" in repr(model[2][0])
    assert "int8 per channel" in repr(model[0])


def test_what_has_no_form_stays():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.data[0] = torch.nan
    kept = model[0]
    quantize_(model, Int8Dynamic())
    assert isinstance(model[0], nn.Linear)
    assert torch.equal(model[0].weight, kept.weight) or model[0].weight.isnan().any()


def test_arguments():
    with pytest.raises(ValueError, match=r"^IntxWeightOnly: bits must be 2 to 8; got 9\.$"):
        IntxWeightOnly(9)
    with pytest.raises(ValueError, match=r"^IntxWeightOnly: group_size must be 16, 32, 64 or 128; got 20\.$"):
        IntxWeightOnly(4, 20)
    with pytest.raises(TypeError, match=r"^IntxWeightOnly: bits must be an integer; got 4\.5\.$"):
        IntxWeightOnly(4.5)
    text = "Config: method must be another one: torchao.quantize_ takes no data; got 'gptq'."
    with pytest.raises(ValueError, match=re.escape(text)):
        Int8Dynamic(method="gptq")
    assert copy.deepcopy(IntxWeightOnly(5)) == IntxWeightOnly(5)


def test_torchao_is_imported_on_demand():
    code = (
        "import sys, qnumpy.torch as t; t.Linear; assert 'torchao' not in sys.modules\n"
        "sys.modules['torchao'] = None\n"
        "try:\n    t.Int8Dynamic\nexcept ImportError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "qnumpy.torch.torchao: torchao must be installed: pip install torchao."
