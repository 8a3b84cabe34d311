"""Models of Hugging Face's transformers, built from a configuration, in each mode."""

import numpy as np
import pytest
import torch

from qnumpy.torch import Config, convert, load, prepare, prepare_qat, report, save

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peers

CONFIGS = {
    "dynamic": Config(),
    "static": Config(mode="static"),
    "int4": Config(mode="weights", dtype="int4"),
    "int4 GPTQ": Config(mode="weights", dtype="int4", method="gptq"),
}
SIZES = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.from_numpy(np.random.default_rng(0).integers(3, 100, (4, 12)))


def encoder():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES, intermediate_size=128)).eval()


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, intermediate_size=128, num_key_value_heads=2, pad_token_id=0)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=64, pad_token_id=0)
    return transformers.GPT2LMHeadModel(config).eval()


def quantized(model, config):
    prepared = prepare(model, config)
    with torch.inference_mode():
        for ids in IDS.split(1):
            prepared(input_ids=ids)
    return convert(prepared)


def outputs(model):
    with torch.inference_mode():
        return model(input_ids=IDS)[0]


def decibels(y, reference):
    return 10 * torch.log10(reference.square().sum() / (y - reference).square().sum())


@pytest.mark.parametrize("make", [encoder, llama, gpt2])
@pytest.mark.parametrize("mode", CONFIGS)
def test_each_mode(make, mode, tmp_path):
    """Random weights: two layers of int8 have lost about 35 dB, of int4 in groups about 17."""
    model = make()
    result = quantized(model, CONFIGS[mode])
    rows = {row.name: row for row in report(result)}
    linear = [name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    assert all(not rows[name].reason or "tied" in rows[name].reason for name in linear if name != "lm_head")
    assert decibels(outputs(result), outputs(model)) > (12 if "int4" in mode else 25)
    save(result, tmp_path / "model.safetensors")
    back = load(make(), tmp_path / "model.safetensors")
    assert torch.equal(outputs(back), outputs(result))


@pytest.mark.parametrize("make", [encoder, llama, gpt2])
def test_training(make):
    model = prepare_qat(make(), Config(mode="static", exclude=["lm_head"] if make is not encoder else None))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=IDS)[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    model.eval()
    expected = outputs(model)
    # float32 products of levels and exact products of codes differ by the rounding of sums, which may move codes
    assert decibels(outputs(convert(model)), expected) > 35


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_text_gets_the_same_tokens_alone_and_in_a_batch(make):
    """Each row has its own range, so no row depends on its neighbours; attention sums floats in another order."""
    model = convert(make(), Config())
    texts = [IDS[0, :12], IDS[1, :7], IDS[2, :3]]
    width = max(map(len, texts))
    ids = torch.stack([torch.nn.functional.pad(text, (width - len(text), 0)) for text in texts])  # on the left
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        batch = model.generate(ids, attention_mask=(ids > 0).long(), **options)[:, width:]
        for text, expected in zip(texts, batch, strict=True):
            alone = model.generate(text[None], attention_mask=torch.ones_like(text)[None], **options)[0, len(text) :]
            assert torch.equal(alone, expected)


def test_the_cache_gives_the_tokens_of_whole_runs():
    model = convert(llama(), Config())
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        runs = [model.generate(IDS[:1], use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*runs)
