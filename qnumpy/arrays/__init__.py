"""Arrays of codes with their parameters."""

from .mx import MXArray
from .packed import PackedWeight
from .quantized import QuantizedArray

__all__ = ["MXArray", "PackedWeight", "QuantizedArray"]
