"""Arrays of codes with their parameters."""

from .codebook import CodebookArray
from .mx import MXArray
from .offset import OffsetArray
from .packed import PackedWeight
from .quantized import QuantizedArray

__all__ = ["CodebookArray", "MXArray", "OffsetArray", "PackedWeight", "QuantizedArray"]
