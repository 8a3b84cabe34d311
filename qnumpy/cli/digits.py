"""The classifier of the demo: a perceptron, the images it was trained on, and others for its test."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from .._typing import Array
from ..arrays.quantized import QuantizedArray

__all__ = ["Digits", "load"]


@dataclass(frozen=True)
class Digits:
    """A perceptron 64-64-32-10 with ReLU, handwritten digits for its test, and those it was trained on.

    Attributes
    ----------
    weights : dict of str to ndarray of float32, shape (outputs, inputs)
    biases : dict of str to ndarray of float32, shape (outputs,)
    images : ndarray of uint8, shape (360, 8, 8)
        Grey levels 0..16.
    labels : ndarray of uint8, shape (360,)
    training_images : ndarray of uint8, shape (1437, 8, 8)
    training_labels : ndarray of uint8, shape (1437,)
    """

    weights: dict[str, Array]
    biases: dict[str, Array]
    images: Array
    labels: Array
    training_images: Array
    training_labels: Array

    def correct(self, weights: Mapping[str, Array | QuantizedArray]) -> int:
        """Count the images that the model classifies correctly with these weights."""
        *_, logits = self._forward(weights)
        return int((logits.argmax(axis=1) == self.labels).sum())

    def activations(self) -> dict[str, Array]:
        """Return the inputs of every layer under the names of the layers, and the "logits"."""
        names = [name.removesuffix(".weight") for name in self.weights]
        return dict(zip([*names, "logits"], self._forward(self.weights), strict=True))

    def _forward(self, weights: Mapping[str, Array | QuantizedArray]) -> Iterator[Array]:
        """Yield the input of each layer, then the logits."""
        x = self.images.reshape(len(self.images), -1) / np.float32(16)
        for w, bias in zip(weights.values(), self.biases.values(), strict=True):
            yield x
            logits = x @ np.asarray(w).T + bias
            x = np.maximum(logits, 0)
        yield logits


def load() -> Digits:
    """Read the model and the images that come with the package."""
    with (files("qnumpy") / "data" / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    weights = {name: array for name, array in arrays.items() if name.endswith(".weight")}
    biases = {name: array for name, array in arrays.items() if name.endswith(".bias")}
    others = {name: array for name, array in arrays.items() if name.endswith(("images", "labels"))}
    return Digits(weights, biases, **others)
