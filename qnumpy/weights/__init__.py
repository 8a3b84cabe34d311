"""Preparation of weights for quantization: equalization, bias correction, smoothing, safe ranges."""

from .bias import correct_bias
from .equalize import cross_layer_equalize
from .gguf import quantize_gguf
from .saturation import reduce_range, safe_weights
from .smoothquant import smoothquant, smoothquant_alpha

__all__ = [
    "correct_bias",
    "cross_layer_equalize",
    "quantize_gguf",
    "reduce_range",
    "safe_weights",
    "smoothquant",
    "smoothquant_alpha",
]
