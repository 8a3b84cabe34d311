"""Make digits.npz: a small classifier and its images. Needs scikit-learn; qnumpy itself does not.

Run: ``python qnumpy/data/make_digits.py``

A perceptron 64-64-32-10 with ReLU, trained with plain NumPy on 1437 of scikit-learn's 1797 handwritten digits (from
the UCI repository, Alpaydin and Kaynak 1998, CC BY 4.0). The file holds its float32 weights as (outputs, inputs), its
biases, the other 360 images, and those it was trained on, as uint8 (0..16) with their labels. The seed fixes the
result; another BLAS may change the last bits of the weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

SEED = 3
TEST_IMAGES = 360
SIZES = (64, 64, 32, 10)
EPOCHS = 60
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2

Array = np.ndarray[Any, Any]


def forward(x: Array, weights: list[Array], biases: list[Array]) -> list[Array]:
    """Return the input of every layer and, last, the logits."""
    values = [x]
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        y = values[-1] @ w.T + b
        values.append(np.maximum(y, 0) if layer < len(weights) - 1 else y)
    return values


def train(x: Array, labels: Array, rng: np.random.Generator) -> tuple[list[Array], list[Array]]:
    """Train with AdamW on the cross-entropy; the learning rate falls to zero along half a cosine."""
    shapes = list(zip(SIZES[1:], SIZES[:-1], strict=True))
    weights = [rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)) for outputs, inputs in shapes]
    biases = [np.zeros(outputs) for outputs, _ in shapes]
    parameters = weights + biases
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    steps, step = EPOCHS * (len(x) // BATCH), 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            values = forward(x[batch], weights, biases)
            error = np.exp(values[-1] - values[-1].max(1, keepdims=True))
            error /= error.sum(1, keepdims=True)
            error[np.arange(BATCH), labels[batch]] -= 1
            error /= BATCH
            gradients: list[Array] = [np.empty(0)] * len(parameters)
            for layer in reversed(range(len(weights))):
                gradients[layer] = error.T @ values[layer]
                gradients[len(weights) + layer] = error.sum(0)
                error = error @ weights[layer] * (values[layer] > 0)
            step += 1
            rate = LEARNING_RATE * (1 + np.cos(np.pi * step / steps)) / 2
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * (m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + WEIGHT_DECAY * p)
    return weights, biases


def main() -> None:
    digits = load_digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(digits.data))
    test, training = order[:TEST_IMAGES], order[TEST_IMAGES:]
    weights, biases = train(digits.data[training] / 16, digits.target[training], rng)
    arrays: dict[str, Any] = {}
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True), 1):
        arrays[f"layer{layer}.weight"] = w.astype(np.float32)
        arrays[f"layer{layer}.bias"] = b.astype(np.float32)
    for prefix, chosen in (("", test), ("training_", training)):
        arrays[f"{prefix}images"] = digits.images[chosen].astype(np.uint8)
        arrays[f"{prefix}labels"] = digits.target[chosen].astype(np.uint8)
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(path, **arrays)
    logits = forward(digits.data[test] / 16, weights, biases)[-1]
    print(f"{path.name}: {path.stat().st_size:,} bytes, {(logits.argmax(1) == digits.target[test]).mean():.2%} correct")


if __name__ == "__main__":
    main()
