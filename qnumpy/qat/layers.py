"""Examples of layers: enough to train a perceptron and a small convolutional network in NumPy.

A layer has ``forward(x)``, ``backward(g)``, which returns the gradient of x and stores those of its parameters, and
``parameters()``, the arrays that an optimizer changes, each with its gradient. Arrays are float32. Linear and Conv2d
take quantizers of `qnumpy.qat` for their weight and for their input.

**Bit for bit.** A quantized layer multiplies steps, the integers ``q - Z``, as float32 and scales the sums afterwards.
While ``K max|q_x - Z| max|q_w| < 2**24``, K the inputs of an output, float32 holds every sum exactly, in any order:
then the layer's result has the bits of `PackedWeight` on the codes, which `export` returns.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array, Float32Array, Int64Array
from ..arrays.packed import PackedWeight
from ..arrays.quantized import quantize
from ..qparams import QParams
from ..weights.patches import patches
from .batch_norm import fold_batch_norm
from .fake_quantize import FakeQuantize
from .learned import LearnedScale

__all__ = [
    "Adam",
    "BatchNorm",
    "Conv2d",
    "Flatten",
    "Integers",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "backward",
    "distillation",
    "forward",
    "parameters",
    "quantizers",
    "softmax_cross_entropy",
]

Quantizer = FakeQuantize | LearnedScale
Pairs = list[tuple[Array, Array]]


class Integers(NamedTuple):
    """A layer of codes: ``weight.matmul(quantize(x, qparams=input))`` of the rows of x is its result."""

    weight: PackedWeight
    input: QParams


class Linear:
    """``y = x w + bias`` with w of shape (inputs, outputs)."""

    def __init__(
        self, w: Array, bias: Array, *, weight: Quantizer | None = None, input: Quantizer | None = None
    ) -> None:
        self.w, self.bias = np.array(w, np.float32), np.array(bias, np.float32)
        self.dw, self.dbias = np.zeros_like(self.w), np.zeros_like(self.bias)
        self.weight, self.input = weight, input

    def forward(self, x: Array) -> Array:
        return self.multiply(*_levels(self.input, x))

    def multiply(self, x: Array, x_scale: Array | None) -> Array:
        """Return the product with levels of x, in steps where both sides have them."""
        self._x, (self._w, w_scale) = x, _levels(self.weight, self.w)
        if x_scale is None or w_scale is None:
            return np.asarray(x @ self._w + self.bias)
        y = _steps(x, x_scale) @ _steps(self._w, w_scale)
        y *= x_scale * w_scale.ravel()
        return np.asarray(y + self.bias)

    def backward(self, g: Array) -> Array:
        dx = self.backward_product(g)
        return dx if self.input is None else self.input.backward(dx)

    def backward_product(self, g: Array) -> Array:
        """Store the gradients of the parameters and return that of the levels of x."""
        dw = self._x.T @ g
        self.dbias[...] = g.sum(axis=0)
        self.dw[...] = dw if self.weight is None else self.weight.backward(dw)
        return np.asarray(g @ self._w.T)

    def parameters(self) -> Pairs:
        return [(self.w, self.dw), (self.bias, self.dbias), *_parameters_of(self.weight, self.input)]

    def export(self) -> Integers:
        """Return the layer in codes."""
        return _export(self, self.input)


class Conv2d:
    """A convolution of images (N, C, H, W) with w of shape (C kH kW, outputs): a product of the patches."""

    def __init__(
        self, w: Array, bias: Array, kernel: int, padding: int = 0, *, weight: Quantizer | None = None,
        input: Quantizer | None = None,
    ) -> None:  # fmt: skip
        self.kernel, self.padding, self.input = kernel, padding, input
        self.linear = Linear(w, bias, weight=weight)

    def forward(self, x: Array) -> Array:
        levels, scale = _levels(self.input, x)
        rows, self._shape = patches(levels, self.kernel, padding=self.padding), x.shape
        y = self.linear.multiply(rows.reshape(-1, rows.shape[-1]), scale).reshape(*rows.shape[:3], -1)
        return np.ascontiguousarray(y.transpose(0, 3, 1, 2))

    def backward(self, g: Array) -> Array:
        n, channels, height, width = self._shape
        rows, k, p = np.ascontiguousarray(g.transpose(0, 2, 3, 1)), self.kernel, self.padding
        d = self.linear.backward_product(rows.reshape(-1, g.shape[1])).reshape(*rows.shape[:3], channels, k, k)
        dx = np.zeros((n, channels, height + 2 * p, width + 2 * p), np.float32)
        for i in range(k):
            for j in range(k):
                dx[:, :, i : i + rows.shape[1], j : j + rows.shape[2]] += d[..., i, j].transpose(0, 3, 1, 2)
        dx = np.ascontiguousarray(dx[:, :, p : p + height, p : p + width])
        return dx if self.input is None else self.input.backward(dx)

    def parameters(self) -> Pairs:
        return [*self.linear.parameters(), *_parameters_of(self.input)]

    def export(self) -> Integers:
        """Return the layer in codes; its input are patches of the codes of an image, with Z around it."""
        return _export(self.linear, self.input)


class BatchNorm:
    """Batch normalisation of channels: axis 1 of images, the last axis of rows."""

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        self.gamma, self.beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        self.dgamma, self.dbeta = np.zeros_like(self.gamma), np.zeros_like(self.beta)
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.momentum, self.epsilon, self.training = momentum, epsilon, True

    def forward(self, x: Array) -> Array:
        self._axes = (0, *range(2, x.ndim))
        if self.training:
            mean, variance = x.mean(axis=self._axes, dtype=np.float64), x.var(axis=self._axes, dtype=np.float64)
            self.mean += self.momentum * (mean - self.mean)
            self.variance += self.momentum * (variance - self.variance)
        else:
            mean, variance = self.mean, self.variance
        self._factor = (1 / np.sqrt(variance + self.epsilon)).astype(np.float32)
        self._normal = (x - self._wide(mean, x).astype(np.float32)) * self._wide(self._factor, x)
        return self._normal * self._wide(self.gamma, x) + self._wide(self.beta, x)

    def backward(self, g: Array) -> Array:
        self.dgamma[...], self.dbeta[...] = (g * self._normal).sum(axis=self._axes), g.sum(axis=self._axes)
        if not self.training:
            return g * self._wide(self.gamma * self._factor, g)
        n = g.size // len(self.gamma)
        centred = g - self._wide(self.dbeta / n, g) - self._normal * self._wide(self.dgamma / n, g)
        return np.asarray(centred * self._wide(self.gamma * self._factor, g), np.float32)

    def parameters(self) -> Pairs:
        return [(self.gamma, self.dgamma), (self.beta, self.dbeta)]

    def fold(self, layer: "Linear") -> None:
        """Make the layer before this one do what both do."""
        layer.w[...], layer.bias[...] = fold_batch_norm(
            layer.w, layer.bias, self.gamma, self.beta, self.mean, self.variance, epsilon=self.epsilon, axis=1
        )

    def _wide(self, v: Array, x: Array) -> Array:
        return v.reshape([-1 if d == 1 else 1 for d in range(x.ndim)])


class ReLU:
    """``max(x, 0)``."""

    def forward(self, x: Array) -> Array:
        self._positive = x > 0
        return np.maximum(x, np.float32(0))

    def backward(self, g: Array) -> Array:
        return g * self._positive

    def parameters(self) -> Pairs:
        return []


class MaxPool2d:
    """The largest of 2 x 2 neighbours; of equal ones the first."""

    def forward(self, x: Array) -> Array:
        n, c, h, w = self._shape = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        self._largest = blocks.argmax(axis=-1)
        return np.take_along_axis(blocks, self._largest[..., None], -1)[..., 0]

    def backward(self, g: Array) -> Array:
        n, c, h, w = self._shape
        blocks = np.zeros((*g.shape, 4), np.float32)
        np.put_along_axis(blocks, self._largest[..., None], g[..., None], -1)
        return blocks.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)

    def parameters(self) -> Pairs:
        return []


class Flatten:
    """Images as rows."""

    def forward(self, x: Array) -> Array:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, g: Array) -> Array:
        return g.reshape(self._shape)

    def parameters(self) -> Pairs:
        return []


class Adam:
    """Adam with the usual corrections of its first steps; D. P. Kingma and J. Ba, 2015."""

    def __init__(self, rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.rate, self.beta1, self.beta2, self.epsilon = rate, beta1, beta2, epsilon
        self._steps, self._values, self._moments = 0, list[Array](), np.zeros((2, 0), np.float32)

    def step(self, pairs: Iterable[tuple[Array, Array]]) -> None:
        """Change each array in place by its gradient."""
        values, gradients = zip(*pairs, strict=True)
        g = np.concatenate([gradient.ravel() for gradient in gradients])  # one long array is faster than many short
        if len(values) != len(self._values) or any(map(operator.is_not, values, self._values)):
            self._moments, self._values = self._of(values), list(values)
        m, v = self._moments
        self._steps += 1
        rate = self.rate * math.sqrt(1 - self.beta2**self._steps) / (1 - self.beta1**self._steps)
        m += np.float32(1 - self.beta1) * (g - m)
        v += np.float32(1 - self.beta2) * (g * g - v)
        change, end = np.float32(rate) * m / (np.sqrt(v) + np.float32(self.epsilon)), 0
        for value in values:
            value -= change[end : (end := end + value.size)].reshape(value.shape)

    def _of(self, values: Sequence[Array]) -> Array:
        """Return the moments of arrays, 0 of those that join, as quantizers do after their delay."""
        parts = np.split(self._moments, np.cumsum([value.size for value in self._values]), axis=1)
        known = dict(zip(map(id, self._values), parts, strict=False))
        return np.concatenate([known.get(id(value), np.zeros((2, value.size), np.float32)) for value in values], axis=1)


def forward(layers: Sequence[Any], x: Array) -> Array:
    """Return the result of the layers one after the other."""
    for layer in layers:
        x = layer.forward(x)
    return x


def backward(layers: Sequence[Any], g: Array) -> Array:
    """Return the gradient of the input of the layers, and store those of their parameters."""
    for layer in reversed(layers):
        g = layer.backward(g)
    return g


def parameters(layers: Sequence[Any]) -> Pairs:
    """Return the arrays that an optimizer changes, each with its gradient."""
    return [pair for layer in layers for pair in layer.parameters()]


def quantizers(layers: Sequence[Any]) -> list[Quantizer]:
    """Return the quantizers of the layers, for a Schedule."""
    owners = [getattr(layer, "linear", layer) for layer in layers]
    found = [getattr(owner, "weight", None) for owner in owners] + [getattr(layer, "input", None) for layer in layers]
    return [quantizer for quantizer in found if quantizer is not None]


def softmax_cross_entropy(logits: Array, labels: Int64Array) -> tuple[float, Float32Array]:
    """Return the mean loss of labelled rows, and its gradient."""
    wanted = np.zeros_like(logits)
    wanted[np.arange(len(labels)), labels] = 1
    return _cross_entropy(logits, wanted)


def distillation(logits: Array, teacher: Array, temperature: float = 2.0) -> tuple[float, Float32Array]:
    """Return the cross entropy with the softened answers of a float model, and its gradient.

    Both are multiplied by the square of the temperature, so that gradients keep their size: G. Hinton, O. Vinyals,
    J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    loss, g = _cross_entropy(logits / temperature, _softmax(teacher / temperature))
    return loss * temperature**2, g * np.float32(temperature)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _cross_entropy(logits: Array, wanted: Array) -> tuple[float, Float32Array]:
    shares = _softmax(logits)
    loss = -(wanted * np.log(np.maximum(shares, np.finfo(np.float32).tiny))).sum() / len(logits)
    return float(loss), ((shares - wanted) / len(logits)).astype(np.float32)


def _levels(quantizer: Quantizer | None, x: Array) -> tuple[Array, Array | None]:
    """Return x as the quantizer rounds it, and its scale; None where it does not round."""
    y = x if quantizer is None else quantizer(x)
    return (y, None) if quantizer is None or y is x else (y, quantizer.scale)


def _steps(levels: Array, scale: Array) -> Array:
    """Return the integers ``q - Z`` of levels ``S (q - Z)``, as floats."""
    steps = levels / scale
    return np.rint(steps, out=steps)


def _export(layer: Linear, input: Quantizer | None) -> Integers:
    assert layer.weight is not None
    assert input is not None
    x = input.qparams()
    wide = QParams(x.scale, x.zero_point, "uint8" if x.qmin >= 0 else "int8", qmin=x.qmin, qmax=x.qmax)
    return Integers(PackedWeight(quantize(layer.w, layer.weight.qparams()), bias=layer.bias), wide)


def _parameters_of(*quantizers: Any) -> Pairs:
    return [pair for quantizer in quantizers if quantizer is not None for pair in quantizer.parameters()]
