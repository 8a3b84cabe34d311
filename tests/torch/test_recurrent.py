"""qnumpy.torch.LSTM and GRU: those of torch.nn, with layers for their products."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import qnumpy as qn
from qnumpy.torch import Linear
from qnumpy.torch.recurrent import GRU, LSTM

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")]  # of oneDNN
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # six steps of sums of at most 16 products below 1
F, H = 10, 12
OPTIONS = {
    "plain": {},
    "layers": {"num_layers": 3},
    "batch first": {"batch_first": True, "num_layers": 2},
    "both directions": {"bidirectional": True, "num_layers": 2},
    "no bias": {"bias": False, "bidirectional": True},
    "dropout": {"dropout": 0.5, "num_layers": 2},
    "projection": {"proj_size": 5, "num_layers": 2, "bidirectional": True},
}
CASES = [
    (own, theirs, name)
    for own, theirs in ((LSTM, nn.LSTM), (GRU, nn.GRU))
    for name in OPTIONS
    if not (own is GRU and name == "projection")
]
cases = pytest.mark.parametrize(("own", "theirs", "name"), CASES)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def float_module(theirs, name):
    torch.manual_seed(0)
    return theirs(F, H, **OPTIONS[name]).eval()


def state_of(module, batch):
    layers = module.num_layers * (2 if module.bidirectional else 1)
    shape = (layers, batch) if batch else (layers,)
    h = random(*shape, module.proj_size or H, seed=3)
    return (h, random(*shape, H, seed=4)) if isinstance(module, nn.LSTM) else h


def codes_of(name, weight, bias):
    w = qn.quantize(weight.detach().numpy(), granularity=qn.PerChannel(0))
    return Linear(w, None if bias is None else bias.detach().numpy())


def same(got, expected):
    torch.testing.assert_close(got, expected, **CLOSE)


@cases
def test_does_what_the_module_of_pytorch_does(own, theirs, name):
    module = float_module(theirs, name)
    split = own.from_float(module)
    x = random(3, 6, F) if module.batch_first else random(6, 3, F)
    with torch.no_grad():
        same(split(x), module(x))
        same(split(x, state_of(module, 3)), module(x, state_of(module, 3)))
        same(split(random(6, F)), module(random(6, F)))
        same(split(random(6, F), state_of(module, 0)), module(random(6, F), state_of(module, 0)))


@cases
def test_packed_sequences(own, theirs, name):
    module = float_module(theirs, name)
    split = own.from_float(module)
    sequences = [random(n, F, seed=n) for n in (3, 6, 1, 3)]
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    packs = [
        pack_sequence(sorted(sequences, key=len, reverse=True)),
        pack_sequence(sequences, enforce_sorted=False),
        pack_padded_sequence(padded, [3, 6, 1, 3], batch_first=True, enforce_sorted=False),
    ]
    with torch.no_grad():
        for pack in packs:
            for state in (None, state_of(module, 4)):
                (y, end), (expected, last) = split(pack, state), module(pack, state)
                same(end, last)
                same(y.data, expected.data)
                assert all(torch.equal(*pair) for pair in zip(y[1:], expected[1:], strict=True) if pair[1] is not None)


@cases
def test_codes_are_near_the_float_module(own, theirs, name):
    module = float_module(theirs, name)
    split = own.from_float(module, codes_of)
    assert all(type(layer) is Linear for layer in split.children())
    x = random(3, 6, F) if module.batch_first else random(6, 3, F)
    with torch.no_grad():
        expected, got = module(x)[0], split(x)[0]
    # A product is off by some 1/255 of a range; gates have slopes below 1, and what a step keeps is below 1.
    assert float((got - expected).norm() / expected.norm()) < 0.05


@cases
def test_an_empty_batch(own, theirs, name):
    split = own.from_float(float_module(theirs, name), codes_of)
    y, state = split(random(0, 6, F) if split.batch_first else random(6, 0, F))
    directions = 2 if split.bidirectional else 1
    assert y.numel() == 0
    assert y.shape[-1] == directions * (split.proj_size or H)
    assert (state[0] if own is LSTM else state).shape == (split.num_layers * directions, 0, split.proj_size or H)


def test_compiled_and_exported_modules_have_the_same_bits():
    split = LSTM.from_float(float_module(nn.LSTM, "both directions"), codes_of)
    x = random(3, 2, F)
    with torch.no_grad():
        expected = split(x)[0]
        assert torch.equal(torch.export.export(split, (x,)).module()(x)[0], expected)
        assert torch.equal(torch.compile(split, fullgraph=True, backend="aot_eager")(x)[0], expected)


def test_state_dict_holds_it():
    split, other = (LSTM.from_float(float_module(nn.LSTM, "layers"), codes_of) for _ in range(2))
    x = random(4, 2, F)
    expected = split(x)[0]
    with torch.no_grad():
        for buffer in other.buffers():
            buffer.zero_()
    other.load_state_dict(split.state_dict())
    assert torch.equal(other(x)[0], expected)
    assert torch.equal(copy.deepcopy(split)(x)[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_result_has_the_dtype_of_the_input(dtype):
    split = LSTM.from_float(float_module(nn.LSTM, "plain"), codes_of)
    y, (h, c) = split(random(4, 2, F).to(dtype))
    assert y.dtype == h.dtype == c.dtype == dtype


def test_refusals():
    split = LSTM.from_float(float_module(nn.LSTM, "plain"))
    for x, wanted in (
        (random(F), "of 2 or 3 axes or packed; got shape (10,)."),
        (random(2, 3, 4), "of 10 features; got shape (2, 3, 4)."),
        (random(0, 3, F), "a sequence of at least one step; got shape (0, 3, 10)."),
    ):
        with pytest.raises(ValueError, match=re.escape(f"LSTM: input must be {wanted}")):
            split(x)
    with pytest.raises(ValueError, match=re.escape("LSTM: hx must be of shape (1, 3, 12); got shape (1, 2, 12).")):
        split(random(2, 3, F), (random(1, 2, H), random(1, 3, H)))
    with pytest.raises(RuntimeError, match=re.escape("LSTM.train: mode must be False for a module of codes")):
        split.train()
