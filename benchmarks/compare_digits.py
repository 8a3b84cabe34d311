"""The accuracy of classifiers of handwritten digits with weights and activations of 4, 3 and 2 bits, per channel.

Run: ``python -m benchmarks.compare_digits --markdown``; ``--model cnn`` needs PyTorch, which trains it.

The classifiers are scikit-learn's MLP of 64, 64, 32 and 10 units, and two convolutions of 16 and 32 filters 3 x 3, each
with a pooling 2 x 2, and a linear layer. They are trained with five seeds. Half of the images train and calibrate, the
others measure. Activations are quantized per tensor, with parameters of least squared error from the float model.
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
    """Layers with weights (K, N), and what their inputs are rounded to."""

    layers: dict[str, tuple[Array, Array]]
    activations: qn.Calibration | None = None

    def __call__(self, x: Array) -> Array:
        raise NotImplementedError

    def rounded(self, name: str, x: Array) -> Array:
        """The input of a layer, as its calibration rounds it."""
        return x if self.activations is None else qn.fake_quantize(x, self.activations[f"{name}.input"])

    def linear(self, name: str, x: Array) -> Array:
        x = qn.tap(name, x)
        w, bias = self.layers[name]
        return x @ w + bias

    def accuracy(self, x: Array, y: Array) -> float:
        return float((self(x).argmax(axis=1) == y).mean())


class Perceptron(Classifier):
    def __init__(self, x: Array, y: Array, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        trained = MLPClassifier((64, 32), max_iter=400, random_state=seed).fit(x, y)
        self.layers = {
            f"layer{i}": (w.astype(np.float32), b.astype(np.float32))
            for i, (w, b) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True))
        }

    def __call__(self, x: Array) -> Array:
        for i, name in enumerate(list(self.layers)):
            x = self.linear(name, self.rounded(name, qn.tap(f"{name}.input", x)))
            if i + 1 < len(self.layers):
                x = np.maximum(x, 0)
        return x


class Convolutions(Classifier):
    def __init__(self, x: Array, y: Array, seed: int) -> None:
        import torch
        from torch import nn

        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        images, labels = torch.from_numpy(x.reshape(-1, 1, 8, 8)), torch.from_numpy(y)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(60):
            for batch in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        self.layers = {}
        for i in (0, 3, 7):
            w, bias = (p.detach().numpy().astype(np.float32) for p in model[i].parameters())
            self.layers[f"layer{i}"] = np.ascontiguousarray(w.reshape(len(w), -1).T), bias

    def __call__(self, x: Array) -> Array:
        x = x.reshape(-1, 1, 8, 8)
        *convolutions, last = self.layers
        for name in convolutions:
            rows = qn.weights.patches(self.rounded(name, qn.tap(f"{name}.input", x)), 3, padding=1)
            y = np.maximum(self.linear(name, rows), 0)
            n, height, width, channels = y.shape
            y = y.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
            x = np.ascontiguousarray(y.transpose(0, 3, 1, 2))
        return self.linear(last, self.rounded(last, qn.tap(f"{last}.input", x.reshape(len(x), -1))))


MODELS = {"mlp": Perceptron, "cnn": Convolutions}


def accuracies(kind_of_model: str, seed: int) -> Iterator[tuple[tuple[str, str], float]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split((images / 16).astype(np.float32), labels, test_size=0.5, random_state=seed)
    train, test, known, wanted = parts
    model = MODELS[kind_of_model](train, known, seed)
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
    parser.add_argument("--model", choices=MODELS, default="mlp")
    options = parser.parse_args()
    totals: dict[tuple[str, str], list[float]] = {}
    for seed in SEEDS:
        for case, accuracy in accuracies(options.model, seed):
            totals.setdefault(case, []).append(accuracy)
    means = {case: f"{np.mean(values):.4f}" for case, values in totals.items()}
    kinds = dict.fromkeys(kind for kind, _ in means)
    body = [[kind, *(means.get((kind, method), means[("float", "float")]) for method in METHODS)] for kind in kinds]
    print(page.render(["bits", *METHODS], body, markdown=options.markdown))


if __name__ == "__main__":
    main()
