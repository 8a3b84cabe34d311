"""The accuracy of a classifier of handwritten digits with weights and activations of 4, 3 and 2 bits, per channel.

Run: ``python -m benchmarks.compare_digits --markdown``

The classifier is scikit-learn's MLP of 64, 64, 32 and 10 units, trained with five seeds. Half of the images train and
calibrate, the others measure. Activations are quantized per tensor, with parameters of least squared error from the
float model; "float" leaves them as they are.
"""

import argparse
from collections.abc import Iterator

import numpy as np

import qnumpy as qn
from qnumpy.weights.layers import quantize_layers

from . import page
from .harness import Array

SEEDS = range(5)
METHODS = ("minmax", "mse", "gptq")


class Classifier:
    """The layers of an MLP with weights (K, N), and what its inputs are rounded to."""

    def __init__(self, x: Array, y: Array, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        trained = MLPClassifier((64, 32), max_iter=400, random_state=seed).fit(x, y)
        self.layers = {
            f"layer{i}": (w.astype(np.float32), b.astype(np.float32))
            for i, (w, b) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True))
        }
        self.activations: qn.Calibration | None = None

    def __call__(self, x: Array) -> Array:
        for i, name in enumerate(list(self.layers)):
            if self.activations is not None:
                x = qn.fake_quantize(x, self.activations[name])
            x = qn.tap(name, x)
            w, bias = self.layers[name]
            x = x @ w + bias
            if i + 1 < len(self.layers):
                x = np.maximum(x, 0)
        return x

    def accuracy(self, x: Array, y: Array) -> float:
        return float((self(x).argmax(axis=1) == y).mean())


def accuracies(seed: int) -> Iterator[tuple[tuple[str, str], float]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split((images / 16).astype(np.float32), labels, test_size=0.5, random_state=seed)
    train, test, known, wanted = parts
    model = Classifier(train, known, seed)
    floats = dict(model.layers)
    yield ("float", "float"), model.accuracy(test, wanted)
    for bits in (4, 3, 2):
        for dtype in (None, f"uint{bits}"):
            observer = qn.HistogramObserver("mse", dtype=dtype or "uint8", symmetric=False)
            model.activations = None
            seen = qn.calibrate(model, [train], observer)
            model.activations = seen if dtype else None
            kind = f"W{bits} A{bits}" if dtype else f"W{bits}"
            for method in METHODS:
                symmetric = "full" if method == "gptq" else False
                result = quantize_layers(
                    model.layers, model, [train], dtype=f"int{bits}", granularity=qn.PerChannel(1),
                    method=method, symmetric=symmetric,
                )  # fmt: skip
                model.layers.update({name: (result.dequantize(name), result.biases[name]) for name in result})
                yield (kind, method), model.accuracy(test, wanted)
                model.layers.update(floats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    options = parser.parse_args()
    totals: dict[tuple[str, str], list[float]] = {}
    for seed in SEEDS:
        for case, accuracy in accuracies(seed):
            totals.setdefault(case, []).append(accuracy)
    means = {case: f"{np.mean(values):.4f}" for case, values in totals.items()}
    kinds = dict.fromkeys(kind for kind, _ in means)
    body = [[kind, *(means.get((kind, method), means[("float", "float")]) for method in METHODS)] for kind in kinds]
    print(page.render(["bits", *METHODS], body, markdown=options.markdown))


if __name__ == "__main__":
    main()
