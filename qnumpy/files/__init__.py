"""Files of arrays, quantized arrays and parameters: .npz, .safetensors and .json, written whole or not at all."""

from .store import load, save

__all__ = ["load", "save"]
