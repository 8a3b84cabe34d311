"""What is done to weights before they are quantized: equalization, bias correction, smoothing, safe ranges."""

from .equalize import correct_bias, cross_layer_equalize, smoothquant, smoothquant_alpha

__all__ = ["correct_bias", "cross_layer_equalize", "smoothquant", "smoothquant_alpha"]
