"""``qnumpy demo``: quantize a small real classifier that is part of the package.

Each step is a function that takes the model and returns text; STEPS has them in the order of the demo.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from .._typing import Array
from ..arrays.quantized import QuantizedArray, quantize
from ..granularity import Granularity, PerChannel, PerGroup
from ..reports.compare import ReportTable, compare
from .common import FINE, Commands, add_command
from .streams import show

__all__ = ["STEPS", "Digits", "load"]

SCHEMES: tuple[tuple[str, Granularity], ...] = (("int8", PerChannel(0)), ("int4", PerGroup(32)))


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


def quantized_weights(digits: Digits) -> str:
    """Quantize the weights, compare them with the originals, and count correct scores before and after."""
    total = len(digits.labels)
    tables, scores = [], [("float32", digits.correct(digits.weights))]
    for dtype, granularity in SCHEMES:
        quantized = {name: quantize(w, dtype=dtype, granularity=granularity) for name, w in digits.weights.items()}
        tables.append(str(ReportTable(compare(digits.weights[name], q, name=name) for name, q in quantized.items())))
        scores.append((f"{dtype} {granularity.describe()}", digits.correct(quantized)))
    width = max(len(scheme) for scheme, _ in scores)
    lines = [
        f"{scheme:<{width}}  {correct} of {total} images right, {correct / total:.1%}" for scheme, correct in scores
    ]
    return "\n\n".join([*tables, "\n".join(lines)])


STEPS: tuple[tuple[str, Callable[[Digits], str]], ...] = (
    ("The weights of a classifier of handwritten digits, before and after", quantized_weights),
)


def add(commands: Commands) -> None:
    add_command(commands, "demo", run, "Quantize a small classifier that comes with qnumpy and show what it costs.")


def run(args: argparse.Namespace) -> int:
    """Print every step."""
    digits = load()
    show("\n\n".join(f"{title}\n\n{step(digits)}" for title, step in STEPS))
    return FINE
