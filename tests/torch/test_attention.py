"""qnumpy.torch.MultiheadAttention: torch.nn.MultiheadAttention, with layers for its projections."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Linear, MultiheadAttention

pytestmark = pytest.mark.peers
E, HEADS = 16, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # sums of at most 24 products of float32 around 1


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def attention(**options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(E, HEADS, **options).eval()
    with torch.no_grad():
        for name, p in module.named_parameters():  # biases begin as 0
            if "bias" in name:
                p.normal_()
    return module


def codes_of(name, weight, bias):
    w = qn.quantize(weight.detach().numpy(), granularity=qn.PerChannel(0))
    return Linear(w, None if bias is None else bias.detach().numpy())


def causal(n=5, m=6):
    return torch.ones(n, m, dtype=torch.bool).triu(1)


PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2, [False] * 5 + [True]])
MODULES = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero": {"add_zero_attn": True, "add_bias_kv": True, "batch_first": True},
    "sizes": {"kdim": 10, "vdim": 12},
    "sizes without bias": {"kdim": 10, "vdim": 12, "bias": False, "add_bias_kv": True},
}
CALLS = {
    "plain": {},
    "no weights": {"need_weights": False},
    "weights of heads": {"average_attn_weights": False},
    "padding": {"key_padding_mask": PADDING},
    "padding of floats": {"key_padding_mask": torch.where(PADDING, -2.0, 0.5), "need_weights": False},
    "mask": {"attn_mask": causal()},
    "mask of floats": {"attn_mask": random(5, 6, seed=9), "need_weights": False},
    "masks of heads": {"attn_mask": random(3 * HEADS, 5, 6, seed=8) > 1},
    "both": {"attn_mask": causal(), "key_padding_mask": PADDING, "need_weights": False},
    "causal": {"attn_mask": causal(), "is_causal": True, "key_padding_mask": PADDING},
}


def inputs_of(module):
    shapes = [(5, E), (6, module.kdim), (6, module.vdim)]
    xs = [random(3, *shape, seed=i) for i, shape in enumerate(shapes)]
    return xs if module.batch_first else [x.transpose(0, 1) for x in xs]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", MODULES)
def test_does_what_the_module_of_pytorch_does(options, call):
    module = attention(**MODULES[options])
    args = inputs_of(module)
    with torch.no_grad():
        expected = module(*args, **CALLS[call])
        got = MultiheadAttention.from_float(module)(*args, **CALLS[call])
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("options", MODULES)
def test_one_sequence_without_a_batch(options, weights):
    module = attention(**MODULES[options])
    args = [x[0] if module.batch_first else x[:, 0] for x in inputs_of(module)]
    given = {"key_padding_mask": PADDING[1] * -3.0, "attn_mask": random(HEADS, 5, 6), "need_weights": weights}
    with torch.no_grad():
        expected, got = (m(*args, **given) for m in (module, MultiheadAttention.from_float(module)))
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("options", MODULES)
def test_codes_are_near_the_float_module(options):
    module = attention(**MODULES[options])
    split = MultiheadAttention.from_float(module, codes_of)
    assert all(type(layer) is Linear for layer in split.children())
    args = inputs_of(module)
    with torch.no_grad():
        expected, got = module(*args)[0], split(*args)[0]
    assert float((got - expected).norm() / expected.norm()) < 0.03  # four products, 1/255 of a range and 1/254 of a row


def test_a_query_attends_to_nothing_where_all_keys_are_masked():
    module = attention(batch_first=True)
    args, mask = inputs_of(module), torch.ones(3, 6, dtype=torch.bool)
    split = MultiheadAttention.from_float(module)
    for weights in (False, True):
        with torch.no_grad():
            expected, got = (m(*args, key_padding_mask=mask, need_weights=weights) for m in (module, split))
        torch.testing.assert_close(got, expected, equal_nan=True, **CLOSE)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoders_of_pytorch_call_it(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, HEADS, 32, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    split = copy.deepcopy(encoder)
    for part in split.layers:
        part.self_attn = MultiheadAttention.from_float(part.self_attn)
    x, padding = random(3, 6, E), PADDING
    called = []
    split.layers[0].self_attn.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        for given in ({}, {"src_key_padding_mask": padding}, {"mask": causal(6), "is_causal": True}):
            expected, got = encoder(x, **given), split(x, **given)
            seen = torch.ones(3, 6, dtype=torch.bool) if "src_key_padding_mask" not in given else ~padding
            torch.testing.assert_close(got[seen], expected[seen], rtol=1e-4, atol=1e-5)  # two layers, other sums
    assert len(called) == 3


def test_a_decoder_of_pytorch_calls_it():
    torch.manual_seed(0)
    decoder = nn.TransformerDecoderLayer(E, HEADS, 32).eval()
    split = copy.deepcopy(decoder)
    for name in ("self_attn", "multihead_attn"):
        setattr(split, name, MultiheadAttention.from_float(getattr(split, name)))
    x, memory = random(5, 3, E), random(6, 3, E)
    with torch.no_grad():
        torch.testing.assert_close(split(x, memory, causal(5, 5)), decoder(x, memory, causal(5, 5)), **CLOSE)


def test_compiled_and_exported_modules_have_the_same_bits():
    split = MultiheadAttention.from_float(attention(batch_first=True), codes_of)
    args = tuple(inputs_of(split))
    with torch.no_grad():
        expected = split(*args, PADDING)[0]
        program = torch.export.export(split, (*args, PADDING)).module()
        compiled = torch.compile(split, fullgraph=True, backend="aot_eager")
        assert torch.equal(program(*args, PADDING)[0], expected)
        assert torch.equal(compiled(*args, PADDING)[0], expected)


def test_state_dict_and_pickle_hold_it():
    split = MultiheadAttention.from_float(attention(add_bias_kv=True), codes_of)
    args = inputs_of(split)
    other = MultiheadAttention.from_float(attention(add_bias_kv=True), codes_of)
    with torch.no_grad():
        other.bias_k.zero_()
    other.load_state_dict(split.state_dict())
    file = io.BytesIO()
    torch.save(split, file)
    file.seek(0)
    for again in (other, copy.deepcopy(split), torch.load(file, weights_only=False)):
        assert torch.equal(again(*args)[0], split(*args)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_has_the_dtype_of_the_query(dtype):
    split = MultiheadAttention.from_float(attention(add_bias_kv=True), codes_of)
    args = [x.to(dtype) for x in inputs_of(split)]
    y, weights = split(*args, attn_mask=random(5, 6))
    assert y.dtype == weights.dtype == dtype
    reference = split(*[x.float() for x in args], attn_mask=random(5, 6))[0]
    assert float((y.float() - reference).norm() / reference.norm()) < 0.02  # 8 bits of bfloat16


def test_refusals():
    split = MultiheadAttention.from_float(attention())
    x = inputs_of(split)
    wanted = "MultiheadAttention: attn_mask must be a mask beside is_causal; got None."
    with pytest.raises(RuntimeError, match=re.escape(wanted)):
        split(*x, is_causal=True)
    with pytest.raises(RuntimeError, match=re.escape("MultiheadAttention.train: mode must be False for a module of")):
        split.train()
    assert split.eval() is split
