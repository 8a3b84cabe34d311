"""What is done to weights: rounding by moments, equalization, bias correction, smoothing, safe ranges."""

from .bias import correct_bias
from .codebook import codebook
from .equalize import cross_layer_equalize
from .gptq import gptq
from .offsets import offsets
from .patches import patches
from .saturation import reduce_range, safe_weights
from .smoothquant import smoothquant, smoothquant_alpha

__all__ = [
    "codebook",
    "correct_bias",
    "cross_layer_equalize",
    "gptq",
    "offsets",
    "patches",
    "reduce_range",
    "safe_weights",
    "smoothquant",
    "smoothquant_alpha",
]
