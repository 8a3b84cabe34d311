"""``qnumpy demo --full``: the six steps of a quantization guide, on the classifier of the demo.

Each step is a function that takes the Guide and returns text; STEPS has them in the order of the demo. Their scores
meet in the table at the end. "W4A4" are weights and inputs of 4 bits. Inputs are unsigned, with a zero point.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from .._tables import aligned, number
from .._typing import Array
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray, quantize
from ..calibration.calibrate import calibrate, tap
from ..granularity import PerChannel
from ..observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver, Observer
from ..ops.matmul import matmul_integer
from ..ops.quantize import fake_quantize
from ..qat import LearnedScale
from ..qat.layers import Adam, Linear, ReLU, backward, forward, parameters, softmax_cross_entropy
from ..qparams import QParams
from ..reports.scores import decibels, signal_and_noise
from ..tune import tune
from ..weights.layers import quantize_layers
from .digits import Digits

__all__ = ["STEPS", "Guide", "network", "train"]

BITS = (8, 4, 3, 2)
MAX_DROP = 0.01  # of the share of right images, below the float model
SEEN_DROP = 0.002  # the same of images it was trained on, which it knows by heart: there the errors show less
BATCH = 64
EPOCHS = 30
SEEDS = 3
RATE = 1e-2

TECHNIQUES: Mapping[str, Callable[[str], Observer]] = {
    "min-max": lambda dtype: MinMaxObserver(dtype=dtype, symmetric=False),
    "moving average": lambda dtype: MovingAverageMinMaxObserver(dtype=dtype, symmetric=False),
    "entropy": lambda dtype: HistogramObserver("entropy", dtype=dtype, symmetric=False),
    "mse": lambda dtype: HistogramObserver("mse", dtype=dtype, symmetric=False),
    "percentile": lambda dtype: HistogramObserver("percentile", dtype=dtype, symmetric=False),
}

Layers = dict[str, Any]  # (weight, bias) by name; a weight is an array or a QuantizedArray of shape (outputs, inputs)
Schemes = dict[int, tuple[Layers, Mapping[str, QParams]]]  # by bits: the layers, and the parameters of their inputs


@dataclass
class Guide:
    """The model, its images as rows of 64 numbers in [0, 1], and the scores of the steps so far.

    Attributes
    ----------
    layers : dict of str to (ndarray, ndarray)
        Weight (outputs, inputs) and bias.
    x, labels : ndarrays
        The 360 images that judge.
    training_x, training_labels : ndarrays
        The 1437 images that calibrate and train.
    scores : dict of str to dict of int to float
        The number of right images of the test by method and bits; a mean where several models were trained.
    """

    layers: Layers
    x: Array
    labels: Array
    training_x: Array
    training_labels: Array
    scores: dict[str, dict[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, digits: Digits) -> "Guide":
        names = [name.removesuffix(".weight") for name in digits.weights]
        pairs = zip(digits.weights.values(), digits.biases.values(), strict=True)
        return cls(
            dict(zip(names, pairs, strict=True)),
            _rows(digits.images),
            digits.labels.astype(np.int64),
            _rows(digits.training_images),
            digits.training_labels.astype(np.int64),
        )

    def batches(self) -> list[Array]:
        """Return the images that calibrate."""
        return [self.training_x[i : i + BATCH] for i in range(0, len(self.training_x), BATCH)]

    def right(self, logits: Array) -> int:
        """Count the images of the test that the logits name."""
        return int((logits.argmax(axis=1) == self.labels).sum())

    def share(self, right: float) -> str:
        return f"{right / len(self.labels):.1%}"

    def calibrated(self, technique: str, dtype: str) -> Mapping[str, QParams]:
        """Return the parameters of the inputs of the layers."""
        observer = TECHNIQUES[technique](dtype)
        return calibrate(lambda x: network(self.layers, x), self.batches(), observer, progress=False)


def network(layers: Layers, x: Array, params: Mapping[str, QParams] | None = None) -> Array:
    """Return the logits; inputs of layers that have parameters are fake-quantized."""
    last = list(layers)[-1]
    for name in list(layers):
        x = tap(name, x if params is None or name not in params else fake_quantize(x, params[name]))
        w, bias = layers[name]
        x = x @ np.asarray(w).T + bias
        if name != last:
            x = np.maximum(x, 0)
    return x


def quantized(layers: Layers, dtype: str) -> Layers:
    """Return the layers with weights of this type, a scale for each output, on the grid of least error."""
    outputs = PerChannel(0)
    return {name: (quantize(w, dtype=dtype, granularity=outputs, method="mse"), b) for name, (w, b) in layers.items()}


# ---- the steps ----


def float_accuracy(guide: Guide) -> str:
    right = guide.right(network(guide.layers, guide.x))
    guide.scores["float32"] = dict.fromkeys(BITS, right)
    total = len(guide.labels)
    nbytes = sum(w.nbytes + bias.nbytes for w, bias in guide.layers.values())
    return (
        f"{right} of {total} test images right, {guide.share(right)}; {nbytes:,} bytes.\n"
        f"One image is {1 / total:.1%}. A model may lose {MAX_DROP:.0%}: {_least(guide)} images must stay right."
    )


def dynamic(guide: Guide) -> str:
    """Quantize weights in advance, and each row of the inputs when it comes: no data is needed."""
    exact = network(guide.layers, guide.x)
    rows = [["weights", "inputs", "right", "SQNR of logits, dB"]]
    scores = guide.scores["dynamic, inputs int8"] = {}
    for bits in BITS:
        x, layers = guide.x, quantized(guide.layers, f"int{bits}")
        for i, (w, bias) in enumerate(layers.values()):
            last = i == len(layers) - 1
            x = cast(Array, PackedWeight(w, axis=1, bias=bias, clip=(None if last else 0, None)).matmul(x))
        scores[bits] = guide.right(x)
        rows.append([f"int{bits}", "int8 per row", guide.share(scores[bits]), _sqnr(exact, x)])
    return "\n".join(aligned(rows, left=2))


def static(guide: Guide) -> str:
    """Learn the ranges of the inputs from data, by every technique; weights by mse."""
    rows = [["inputs", "weights", *map(_scheme, BITS)]]
    for technique in TECHNIQUES:
        scores = guide.scores[f"static, {technique}"] = {}
        for bits in BITS:
            params = guide.calibrated(technique, f"uint{bits}")
            scores[bits] = guide.right(network(quantized(guide.layers, f"int{bits}"), guide.x, params))
        rows.append([technique, "mse", *(guide.share(right) for right in scores.values())])
    scores = guide.scores["static, mse, weights by gptq"] = {}
    for bits in BITS:
        params = guide.calibrated("mse", f"uint{bits}")
        scores[bits] = guide.right(network(rounded(guide, bits, params), guide.x, params))
    rows.append(["mse", "gptq", *(guide.share(right) for right in scores.values())])
    return "\n".join(aligned(rows, left=2))


def rounded(guide: Guide, bits: int, params: Mapping[str, QParams]) -> Layers:
    """Return the layers with weights rounded for the least error of the outputs, for inputs of these parameters."""
    layers = dict(guide.layers)
    found = quantize_layers(
        layers,
        lambda x: network(layers, x, params),
        guide.batches(),
        dtype=f"int{bits}",
        granularity=PerChannel(0),
        symmetric="full",
        method="gptq",
        progress=False,
    )
    return {name: (found[name], found.biases[name]) for name in layers}


def integers(guide: Guide) -> str:
    """Convert to integer arithmetic: codes go into a layer, and codes come out."""
    params, layers = guide.calibrated("mse", "uint8"), quantized(guide.layers, "int8")
    names = list(layers)
    rows = [["layer", "weight", "input", "output", "sums exact", "codes as simulated"]]
    x: Any = quantize(guide.x, params[names[0]])
    simulated, nbytes = guide.x, 0
    for name, following in zip(names, [*names[1:], None], strict=True):
        w, bias = layers[name]
        out = None if following is None else params[following]
        packed = PackedWeight(w, axis=1, bias=bias, x_qparams=params[name], out_qparams=out)
        nbytes += packed.nbytes
        exact = str(_sums_are_exact(x, w))
        x = packed.matmul(x)  # codes are uint8 with zero point 0, so that saturation is the ReLU
        simulated = fake_quantize(simulated, params[name]) @ w.dequantize().T + bias
        if out is None:
            rows.append([name, "int8", "uint8", "float32", exact, ""])
        else:
            simulated = np.maximum(simulated, 0)
            rows.append([name, "int8", "uint8", "uint8", exact, _same(x, quantize(simulated, out))])
    right = guide.right(x)
    guide.scores["integers"] = {8: right}
    return "\n".join([
        *aligned(rows, left=4),
        "",
        f"{right} of {len(guide.labels)} right, {guide.share(right)}; "
        f"{nbytes:,} bytes with scales, biases and the padding of tiles.",
    ])  # fmt: skip


def evaluation(guide: Guide) -> str:
    """Find the layers that hurt, and the fewest bits that lose no more than is allowed."""
    exact = network(guide.layers, guide.x)
    schemes: Schemes = {}
    for bits in BITS:
        params = guide.calibrated("mse", f"uint{bits}")
        schemes[bits] = rounded(guide, bits, params), params
    low = BITS[1:]
    rows = [["quantized alone", *(f"{_scheme(bits)}{what}" for bits in low for what in ("", " dB"))]]
    for name in guide.layers:
        cells = []
        for bits in low:
            layers, params = schemes[bits]
            logits = network({**guide.layers, name: layers[name]}, guide.x, {name: params[name]})
            cells += [guide.share(guide.right(logits)), _sqnr(exact, logits)]
        rows.append([name, *cells])
    table = "\n".join(aligned(rows, left=1))

    chosen = fewest_bits(guide, schemes)
    right = guide.right(_mixed(schemes, chosen, guide.x))
    guide.scores["static, gptq, bits by layer"] = {max(chosen.values()): right}
    text = ", ".join(f"{name} {_scheme(bits)}" for name, bits in chosen.items())
    by_layer = f"Weights and inputs, chosen by the training images: {text}; {guide.share(right)} of the test."

    layers = dict(guide.layers)
    data = [(guide.training_x, guide.training_labels)]
    found = tune(lambda x: network(layers, x), layers, data, "accuracy", max_drop=SEEN_DROP, progress=False)
    right = guide.right(network({name: (found.model[name], found.model.biases[name]) for name in layers}, guide.x))
    tuned = f"Weights alone, qn.tune: {found.best.summary}; {guide.share(right)} of the test."
    return f"{table}\n\n{by_layer}\n{tuned}"


def fewest_bits(guide: Guide, schemes: Schemes) -> dict[str, int]:
    """Raise the bits of the layer that gains most until the training images lose no more than allowed."""

    def score(bits: Mapping[str, int]) -> float:
        return float((_mixed(schemes, bits, guide.training_x).argmax(axis=1) == guide.training_labels).mean())

    exact = network(guide.layers, guide.training_x)
    least = float((exact.argmax(axis=1) == guide.training_labels).mean()) - SEEN_DROP
    bits = dict.fromkeys(guide.layers, min(BITS))
    while score(bits) < least and min(bits.values()) < max(BITS):
        raised = [{**bits, name: min(b for b in BITS if b > bits[name])} for name in bits if bits[name] < max(BITS)]
        bits = max(raised, key=score)
    return bits


def _mixed(schemes: Schemes, bits: Mapping[str, int], x: Array) -> Array:
    """Return the logits with so many bits in each layer."""
    layers = {name: schemes[b][0][name] for name, b in bits.items()}
    return network(layers, x, {name: schemes[b][1][name] for name, b in bits.items()})


def training(guide: Guide) -> str:
    """Train with fake-quantized weights and inputs, and export the result to integers."""
    nearest, gptq = guide.scores["static, mse"], guide.scores["static, mse, weights by gptq"]
    rows = [["", "mse", "gptq", "trained", "lowest", "highest", "integers have the bits of the simulation"]]
    scores = guide.scores[f"trained, mean of {SEEDS} seeds"] = {}
    for bits in BITS[1:]:
        counts, same = [], True
        for seed in range(SEEDS):
            layers = train(guide, bits, seed=seed)
            logits = in_integers(layers, guide.x)
            same &= np.array_equal(logits.view(np.uint32), forward(layers, guide.x).view(np.uint32))
            counts.append(guide.right(logits))
        scores[bits] = sum(counts) / SEEDS
        shares = map(guide.share, (nearest[bits], gptq[bits], scores[bits], min(counts), max(counts)))
        rows.append([_scheme(bits), *shares, str(same)])
    return "\n".join(aligned(rows, left=1))


def in_integers(layers: Iterable[Linear | ReLU], x: Array) -> Array:
    """Return the logits of trained layers, exported to integers."""
    for layer in layers:
        if isinstance(layer, Linear):
            exported = layer.export()
            x = cast(Array, exported.weight.matmul(quantize(x, exported.input)))
        else:
            x = layer.forward(x)
    return x


def train(guide: Guide, bits: int, *, epochs: int = EPOCHS, seed: int = 0) -> list[Linear | ReLU]:
    """Return the layers trained at so many bits, from the float weights, with a scale for each output."""
    layers: list[Linear | ReLU] = []
    for w, bias in guide.layers.values():
        weight = LearnedScale(f"int{bits}", PerChannel(1), symmetric="full")
        layers += [Linear(w.T, bias, weight=weight, input=LearnedScale(f"uint{bits}", symmetric=False)), ReLU()]
    del layers[-1]
    rng, adam = np.random.default_rng(seed), Adam(RATE)
    for epoch in range(epochs):
        adam.rate = RATE * (1 + np.cos(np.pi * epoch / epochs)) / 2
        order = rng.permutation(len(guide.training_x))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            _, g = softmax_cross_entropy(forward(layers, guide.training_x[batch]), guide.training_labels[batch])
            backward(layers, g)
            adam.step(parameters(layers))
    return layers


def summary(guide: Guide) -> str:
    """Put the scores of all steps into one table."""
    rows = [["", *map(_scheme, BITS)]]
    least = _least(guide)
    for method, scores in guide.scores.items():
        cells = [
            "-" if bits not in scores else guide.share(scores[bits]) + (" *" if scores[bits] >= least else "  ")
            for bits in BITS
        ]
        rows.append([method, *cells])
    sizes = [sum(w.nbytes for w, _ in quantized(guide.layers, f"int{bits}").values()) for bits in BITS]
    rows.append(["bytes of weights", *(f"{size:,}  " for size in sizes)])
    return "\n".join([*aligned(rows, left=1), "", f"* at least {least} of {len(guide.labels)} right"])


STEPS: tuple[tuple[str, Callable[[Guide], str]], ...] = (
    ("1. The float model", float_accuracy),
    ("2. Dynamic: weights in advance, each row of the inputs when it comes", dynamic),
    ("3. Static: the ranges of the inputs from 1437 images, by every technique", static),
    ("4. Integer arithmetic: codes in, codes out", integers),
    ("5. Evaluation: which layer hurts, and what keeps the limit", evaluation),
    ("6. Training with quantization", training),
    ("All steps", summary),
)


def texts(digits: Digits) -> Iterable[str]:
    """Yield the text of every step when it is done."""
    guide = Guide.of(digits)
    for title, step in STEPS:
        yield f"{title}\n\n{step(guide)}"


def _rows(images: Array) -> Array:
    return images.reshape(len(images), -1) / np.float32(16)


def _least(guide: Guide) -> int:
    """Return how many images must be right."""
    return int(np.ceil(guide.scores["float32"][BITS[0]] - MAX_DROP * len(guide.labels)))


def _scheme(bits: int) -> str:
    return f"W{bits}A{bits}"


def _sqnr(exact: Array, logits: Array) -> str:
    return number(decibels(*signal_and_noise(exact, logits)))


def _sums_are_exact(x: QuantizedArray, w: QuantizedArray) -> bool:
    """Whether the int32 sums of a layer are those of int64."""
    zero_point = int(x.qparams.zero_point)
    acc = (x.codes.astype(np.int64) - zero_point) @ w.codes.T.astype(np.int64)
    return np.array_equal(matmul_integer(x.codes, w.codes.T, zero_point), acc)


def _same(x: QuantizedArray, simulated: QuantizedArray) -> str:
    apart = np.abs(x.codes.astype(np.int64) - simulated.codes.astype(np.int64))
    return f"{int((apart == 0).sum()):,} of {apart.size:,}, others by {apart.max()}"
