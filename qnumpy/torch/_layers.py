"""A layer on its way from a float module to one of codes: its configuration, what data told of it, its codes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from .._typing import Array, Float32Array
from ..arrays.quantized import quantize
from ..granularity import PerTensor
from ..ops.hadamard import Hadamard
from ..qparams import QParams
from ..weights.layers import quantize_layers
from ._library import array_of
from .config import Config

__all__ = ["Kind", "Layer", "matrix_of", "round_alone"]


@dataclass
class Layer:
    """A module, and how it becomes one of codes.

    Attributes
    ----------
    name : str
        The first name of the module in its model.
    module : Module
    kind : Kind or None
        None for a module that has no form of codes.
    config : Config
    reason : str
        Why the module stays as it is; empty for one that is converted.
    notes : list of str
        What its conversion leaves out.
    codes : array of qnumpy or None
        The weight where it is rounded already, by data or as that of another layer.
    bias : ndarray or None
        The bias that belongs to `codes`.
    x_qparams : QParams or None
    smooth : ndarray of float32 or None
        What multiplies the channels of x, and divides the weight.
    rotation : Hadamard or None
    clip : pair of float or None
        Bounds of y, of the activation function that it takes in.
    tied : str or None
        The name of the first of the layers that share its weight and its codes.
    """

    name: str
    module: nn.Module
    kind: "Kind | None"
    config: Config
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    codes: Any = None
    bias: Array | None = None
    x_qparams: QParams | None = None
    smooth: Float32Array | None = None
    rotation: Hadamard | None = None
    clip: tuple[float | None, float | None] = (None, None)
    tied: str | None = None

    @property
    def converts(self) -> bool:
        return not self.reason

    @property
    def is_product(self) -> bool:
        """Whether its weight is a matrix that multiplies rows of x."""
        return self.kind is not None and self.kind.matrix is not None

    def matrix(self) -> Float32Array:
        """Return the weight (N, K) of a product, for the x that it multiplies: smoothed, rotated."""
        assert self.kind is not None
        assert self.kind.matrix is not None
        return self.transformed(matrix_of(self.kind.matrix(self.module)))

    def transformed(self, w: Float32Array) -> Float32Array:
        """Return a weight (N, K) for x that is smoothed and rotated."""
        w = w if self.smooth is None else w / self.smooth
        return w if self.rotation is None else self.rotation.apply(np.ascontiguousarray(w))

    def rounded(self) -> Any:
        """Return the codes of a product's weight (N, K)."""
        return round_alone(self.matrix(), self.config) if self.codes is None else self.codes

    def rounded_bias(self) -> Array | None:
        own: Any = self.module.bias
        return self.bias if self.bias is not None or own is None else array_of(own)

    def product_options(self) -> dict[str, Any]:
        """Return the options of `modules.Linear` and of the other products."""
        options: dict[str, Any] = (
            {"x_qparams": self.x_qparams} if self.x_qparams is not None else self.config.options_of_x()
        )
        if self.rotation is not None:
            options["hadamard"] = self.rotation
        return options if self.clip == (None, None) else {**options, "clip": self.clip}


class Kind(NamedTuple):
    """What is known of a class of modules.

    Attributes
    ----------
    convert : callable
        ``convert(layer)`` returns the module of codes. What it refuses by TypeError or ValueError stays as it is, and
        the sentence is the reason.
    reason : callable, optional
        ``reason(module, config)`` says why a module stays as it is, "" for one that is converted.
    matrix : callable, optional
        ``matrix(module)`` returns the weight of a product as (N, K): only products are smoothed, rotated and rounded by
        data.
    put : callable, optional
        ``put(module, w)`` gives a product another weight (N, K).
    observes : bool
        Whether the range of x serves it in the mode "static".
    by_row : bool
        Whether its weight is int8 with a scale for each row, unless an override says otherwise: a table of rows that
        are looked up, for whose errors no sum makes up.
    """

    convert: Callable[[Layer], nn.Module]
    reason: Callable[[nn.Module, Config], str] | None = None
    matrix: Callable[[nn.Module], Tensor] | None = None
    put: Callable[[nn.Module, Tensor], None] | None = None
    observes: bool = True
    by_row: bool = False


def matrix_of(w: Tensor) -> Float32Array:
    """Return a weight as float32 in C order."""
    return np.ascontiguousarray(array_of(w.detach().float()))


def round_alone(w: Array, config: Config) -> Any:
    """Return the codes of a weight (N, K) that is rounded by itself."""
    method: Any = "mse" if config.method == "gptq" else config.method
    if config.code is None:
        return quantize(w, dtype=config.dtype)
    options: Any = {"dtype": config.dtype, "granularity": config.granularity, "symmetric": config.symmetric}
    if method == "minmax" or config.code.real is not None or isinstance(config.granularity, PerTensor):
        return quantize(w, method=method, **options)
    return quantize_layers({"": w}, method=method, **options)[""]
