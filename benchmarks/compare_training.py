"""The accuracy of classifiers of handwritten digits: rounded after training, and trained with rounding, 8 to 2 bits.

Run: ``python -m benchmarks.compare_training --markdown``; ``--model cnn`` takes the convolutions, ``--time`` measures a
training step of the perceptron, with and without quantizers. The digits are scikit-learn's.

The perceptron has 64, 64, 32 and 10 units; the other classifier has two convolutions of 16 and 32 filters 3 x 3, each
with a pooling 2 x 2, and a linear layer. Both are layers of `qnumpy.qat.layers`. Half of the images train and
calibrate, the others measure; five seeds choose the halves and the first weights. Weights have a scale for each output,
the input of each layer has one scale and zero point.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy import qat
from qnumpy.qat import layers as nn
from qnumpy.weights.layers import QuantizedLayers, quantize_layers

from . import page
from .harness import Array

Layers = list[Any]
Quantizers = dict[str, Any]

SEEDS = 5
BITS = (8, 4, 3, 2)
FLOAT_EPOCHS, EPOCHS, BATCH = 60, 30, 64
FLOAT_RATE, RATE = 3e-3, 1e-2  # of Adam; with quantizers the rate falls as a cosine
LOWERED = {4: {0: 8, 5: 4}, 3: {0: 8, 4: 4, 8: 3}, 2: {0: 8, 4: 4, 10: 2}}  # bits -> epoch -> the bits from then on


# ---- models ----


def he(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Array, Array]:
    """The first weight and bias of a layer before a ReLU: K. He et al., 2015."""
    w = rng.normal(size=(inputs, outputs)) * np.sqrt(2 / inputs)
    return w.astype(np.float32), np.zeros(outputs, np.float32)


def perceptron(rng: np.random.Generator) -> Layers:
    return [nn.Linear(*he(rng, 64, 64)), nn.ReLU(), nn.Linear(*he(rng, 64, 32)), nn.ReLU(), nn.Linear(*he(rng, 32, 10))]


def convolutions(rng: np.random.Generator) -> Layers:
    return [
        nn.Conv2d(*he(rng, 9, 16), 3, 1), nn.ReLU(), nn.MaxPool2d(),
        nn.Conv2d(*he(rng, 144, 32), 3, 1), nn.ReLU(), nn.MaxPool2d(),
        nn.Flatten(), nn.Linear(*he(rng, 128, 10)),
    ]  # fmt: skip


MODELS: dict[str, tuple[Callable[[np.random.Generator], Layers], tuple[int, ...]]] = {
    "mlp": (perceptron, (-1, 64)),
    "cnn": (convolutions, (-1, 1, 8, 8)),
}


def products(layers: Layers) -> Iterator[tuple[str, Any, nn.Linear]]:
    """Each layer with a weight, by name: the layer, whose input is quantized, and the product in it."""
    for i, layer in enumerate(layers):
        linear = getattr(layer, "linear", layer)
        if isinstance(linear, nn.Linear):
            yield f"layer{i}", layer, linear


def copied(layers: Layers, build: Callable[[np.random.Generator], Layers]) -> Layers:
    """A model with the same weights, without quantizers."""
    copy = build(np.random.default_rng(0))
    for (_, _, to), (_, _, linear) in zip(products(copy), products(layers), strict=True):
        to.w[...], to.bias[...] = linear.w, linear.bias
    return copy


def train(
    layers: Layers, x: Array, labels: Array, rng: np.random.Generator, epochs: int, rate: float, *,
    falls: bool = True, teacher: Array | None = None, schedule: qat.Schedule | None = None,
) -> None:  # fmt: skip
    """Train by Adam for the labels, or for the logits of a teacher."""
    adam = nn.Adam(rate)
    for epoch in range(epochs):
        if schedule is not None:
            schedule.begin_epoch(epoch, nn.quantizers(layers))
        if falls:
            adam.rate = rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            logits = nn.forward(layers, x[batch])
            if teacher is None:
                _, g = nn.softmax_cross_entropy(logits, labels[batch])
            else:
                _, g = nn.distillation(logits, teacher[batch])
            nn.backward(layers, g)
            adam.step(nn.parameters(layers))


def accuracy(layers: Layers, x: Array, labels: Array) -> float:
    return float((nn.forward(layers, x).argmax(axis=1) == labels).mean())


# ---- after training ----


def round_after_training(layers: Layers, x: Array, bits: int, method: str) -> QuantizedLayers:
    """Round the weights by a method of quantize_layers, and the inputs by an observer of the float model."""
    for _, layer, _ in products(layers):
        kind = qn.MinMaxObserver if method == "minmax" else qn.HistogramObserver
        layer.input = qat.FakeQuantize(kind(dtype=f"uint{bits}", symmetric=False))
        layer.input.enable_fake_quantize(False)
    nn.forward(layers, x)
    for quantizer in nn.quantizers(layers):
        quantizer.freeze()
    weights = {name: (linear.w, linear.bias) for name, _, linear in products(layers)}

    def run(x: Array) -> None:
        for i, layer in enumerate(layers):
            name = f"layer{i}"
            if name not in weights:
                x = layer.forward(x)
                continue
            x = layer.input(x)
            image = isinstance(layer, nn.Conv2d)
            rows = qn.tap(name, qn.weights.patches(x, layer.kernel, padding=layer.padding) if image else x)
            w, bias = weights[name]
            x = rows @ w + bias
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if image else x

    symmetric: Any = "full" if method == "gptq" else False
    result = quantize_layers(
        weights, run, [x], dtype=f"int{bits}", granularity=qn.PerChannel(1), method=method, symmetric=symmetric,
    )  # fmt: skip
    for name, _, linear in products(layers):
        linear.w[...], linear.bias[...] = result.dequantize(name), result.biases[name]
    return result


# ---- with rounding in training ----


def simulate(layers: Layers, bits: int) -> None:
    """Quantizers with the extremes that they see, for straight-through gradients."""
    for _, layer, linear in products(layers):
        observer = qn.MovingAverageMinMaxObserver(1.0, dtype=f"int{bits}", granularity=qn.PerChannel(1))
        linear.weight = qat.FakeQuantize(observer)
        layer.input = qat.FakeQuantize(qn.MovingAverageMinMaxObserver(dtype=f"uint{bits}", symmetric=False))


def learn_scales(layers: Layers, bits: int) -> None:
    for _, layer, linear in products(layers):
        linear.weight = qat.LearnedScale(f"int{bits}", qn.PerChannel(1), symmetric="full")
        layer.input = qat.LearnedScale(f"uint{bits}", symmetric=False)


def start_rounded(layers: Layers, x: Array, bits: int) -> None:
    """Learned scales that start as GPTQ and the observers left the model."""
    result = round_after_training(layers, x, bits, "gptq")
    inputs = [layer.input.qparams() for _, layer, _ in products(layers)]
    learn_scales(layers, bits)
    nn.forward(layers, x[:BATCH])
    for (name, layer, linear), params in zip(products(layers), inputs, strict=True):
        linear.weight.scale[...] = result[name].qparams.scale
        layer.input.scale[...], layer.input.zero_point[...] = params.scale, params.zero_point


LSQ = "learned scales (LSQ)"
ADDITIONS = ("distillation", "schedule", "start")  # to learned scales


def compared(kind: str, seed: int) -> Iterator[tuple[tuple[str, int], float]]:
    """The accuracy of each way and width, and the logits' SQNR in dB of int8 after training."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    build, shape = MODELS[kind]
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split((images / 16).astype(np.float32), digits, test_size=0.5, random_state=seed)
    x, test, known, wanted = parts[0].reshape(shape), parts[1].reshape(shape), parts[2], parts[3]
    rng = np.random.default_rng(seed)
    floats = build(rng)
    train(floats, x, known, rng, FLOAT_EPOCHS, FLOAT_RATE, falls=False)
    yield ("float", 32), accuracy(floats, test, wanted)
    teacher, logits = nn.forward(floats, x), nn.forward(floats, test)

    def trained(layers: Layers, **options: Any) -> float:
        train(layers, x, known, np.random.default_rng(seed), EPOCHS, RATE, **options)
        return accuracy(layers, test, wanted)

    for bits in BITS:
        for method in ("minmax", "mse", "gptq"):
            layers = copied(floats, build)
            round_after_training(layers, x, bits, method)
            yield (f"after training, {method}", bits), accuracy(layers, test, wanted)
            if bits == 8:
                yield (f"SQNR {method}", bits), qn.compare(logits, nn.forward(layers, test)).sqnr_db
        layers = copied(floats, build)
        simulate(layers, bits)
        yield ("straight-through, min-max", bits), trained(layers)
        for added in ((), *((name,) for name in ADDITIONS if bits < 8), *([ADDITIONS] if bits < 8 else [])):
            layers = copied(floats, build)
            schedule = None
            if "start" in added:
                start_rounded(layers, x, bits)
            else:
                learn_scales(layers, bits)
            if "schedule" in added:
                schedule = qat.Schedule({epoch: f"int{width}" for epoch, width in LOWERED[bits].items()})
            options = {"teacher": teacher if "distillation" in added else None, "schedule": schedule}
            yield (" + ".join((LSQ, *added)), bits), trained(layers, **options)


# ---- tables ----


def spread(values: list[float]) -> tuple[float, float]:
    """The mean and the standard deviation over the seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def accuracies(results: dict[tuple[str, int], list[float]], markdown: bool) -> str:
    ways = dict.fromkeys(way for way, _ in results if not way.startswith("SQNR"))

    def cell(way: str, bits: int) -> str:
        if (way, bits) not in results:
            return ""
        return "{:.4f} ± {:.4f}".format(*spread(results[way, bits]))

    body = [[way, *(cell(way, 32 if way == "float" else bits) for bits in BITS)] for way in ways]
    return page.render(["", *(f"W{bits}A{bits}" for bits in BITS)], body, markdown=markdown, left=1)


def additions(results: dict[tuple[str, int], list[float]], markdown: bool) -> str:
    """What each addition changes, seed by seed; nothing where the mean is no larger than its spread."""
    body = []
    for way in dict.fromkeys(way for way, _ in results if way.startswith(f"{LSQ} + ")):
        cells = []
        for bits in BITS[1:]:
            mean, wide = spread([a - b for a, b in zip(results[way, bits], results[LSQ, bits], strict=True)])
            cells.append(f"{mean:+.4f} ± {wide:.4f}" if abs(mean) > wide else f"within ± {wide:.4f}")
        body.append([way.removeprefix(f"{LSQ} + "), *cells])
    return page.render(["adds", *(f"W{bits}A{bits}" for bits in BITS[1:])], body, markdown=markdown, left=1)


# ---- the time of a step ----


def step_times() -> dict[str, float]:
    """The best time of a training step of the perceptron in microseconds, W4A4; the three take turns."""
    rng = np.random.default_rng(0)
    x, labels = np.abs(rng.normal(size=(BATCH, 64))).astype(np.float32), rng.integers(0, 10, BATCH)
    models: dict[str, Layers] = {name: perceptron(rng) for name in ("float", "FakeQuantize", "LearnedScale")}
    simulate(models["FakeQuantize"], 4)
    learn_scales(models["LearnedScale"], 4)
    best = dict.fromkeys(models, np.inf)
    adams = {name: nn.Adam() for name in models}
    for _ in range(100):
        for name, layers in models.items():
            begun = time.perf_counter()
            for _ in range(10):
                _, g = nn.softmax_cross_entropy(nn.forward(layers, x), labels)
                nn.backward(layers, g)
                adams[name].step(nn.parameters(layers))
            best[name] = min(best[name], (time.perf_counter() - begun) / 10)
    return {name: seconds * 1e6 for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print markdown tables (default: aligned text)")
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--time", action="store_true", help="measure a training step instead")
    options = parser.parse_args()
    if options.time:
        times = step_times()
        body = [[name, f"{value:.0f}", f"{value / times['float']:.2f}"] for name, value in times.items()]
        print(page.render(["quantizers", "microseconds", "of float"], body, markdown=options.markdown, left=1))
        return
    results: dict[tuple[str, int], list[float]] = {}
    for seed in range(options.seeds):
        for case, value in compared(options.model, seed):
            results.setdefault(case, []).append(value)
    print(accuracies(results, options.markdown), additions(results, options.markdown), sep="\n\n")
    ratios = [(way[5:], *spread(values)[:1], min(values)) for (way, _), values in results.items() if "SQNR" in way]
    texts = ", ".join(f"{way} {mean:.1f} (least {least:.1f})" for way, mean, least in ratios)
    print(f"\nSQNR of the logits in dB, W8A8 after training: {texts}.")


if __name__ == "__main__":
    main()
