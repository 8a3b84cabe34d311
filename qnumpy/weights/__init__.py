"""What is done to weights: rounding by moments, rotation, equalization, bias correction, smoothing, safe ranges."""

from .awq import awq
from .bias import correct_bias
from .codebook import codebook
from .equalize import cross_layer_equalize
from .gguf import quantize_gguf
from .gptq import gptq
from .hadamard import Hadamard, hadamard
from .layers import quantize_layers
from .offsets import offsets
from .patches import patches
from .saturation import reduce_range, safe_weights
from .smoothquant import smoothquant, smoothquant_alpha

__all__ = [
    "Hadamard",
    "awq",
    "codebook",
    "correct_bias",
    "cross_layer_equalize",
    "gptq",
    "hadamard",
    "offsets",
    "patches",
    "quantize_gguf",
    "quantize_layers",
    "reduce_range",
    "safe_weights",
    "smoothquant",
    "smoothquant_alpha",
]
