"""Weights of narrow floats and of levels of tables, packed once for products with float32 rows."""

import numpy as np

from .. import _core
from .._typing import Array, Float32Array, Int32Array
from ..dtypes import FLOAT_TYPES, CodeType, FloatType
from .output import Output
from .packed_columns import Activations

__all__ = ["PackedFloat"]


class PackedFloat:
    """A weight of floats of 8, 6 or 4 bits, or of levels of tables, with a scale for each group of neighbours along K.

    An element of the weight is ``float32(code) * scale``, or ``levels[code] * scale``, rounded once, as `dequantize`
    returns it. A product adds
    ``fma(x, w, acc)`` in float32 for rising k, from 0.

    Parameters
    ----------
    codes : ndarray of uint8, shape (K, N)
        The bytes of the codes, one to a byte.
    element : FloatType or CodeType
        Of the codes; uint8 or uint4 beside levels.
    scale : ndarray of float32, float8_e8m0fnu or float8_e4m3fn, shape (), (N,) or (groups, N)
        float32 beside levels.
    group_size : int
        At least 1; K for a weight without groups.
    tensor_scale : float, default 1.0
        The factor of float8_e4m3fn scales; each product is rounded to float32.
    levels : ndarray of float32, shape (L,) or (N, L), optional
        One table for all columns, or one for each. Finite.
    """

    __slots__ = ("_layout", "_one", "_packed", "_scale_shape", "_scale_type", "element", "levels", "shape")

    quantizes = False
    column_scale = None  # y is float32, and a second pass makes codes of it

    def __init__(
        self,
        codes: Array,
        element: FloatType | CodeType,
        scale: Array,
        group_size: int,
        tensor_scale: float = 1.0,
        levels: Float32Array | None = None,
    ) -> None:
        k, n = codes.shape
        group_size = max(min(group_size, k), 1)
        self.shape = k, n
        self.element, self.levels = element, levels
        self._scale_type = FLOAT_TYPES[scale.dtype.name]
        self._scale_shape = scale.shape
        self._one = scale if scale.ndim == 0 or k == 0 else None  # a weight without columns or rows holds none
        scales = np.broadcast_to(scale, (-(-k // group_size), n)) if k else np.empty((0, n), scale.dtype)
        plain = not isinstance(element, FloatType) or _is_plain(codes, element, scales, tensor_scale)
        count, shared = (0, False) if levels is None else (levels.shape[-1], levels.ndim == 1)
        self._layout = k, n, group_size, element.core, self._scale_type.core, tensor_scale, plain, count, shared
        self._packed = _core.float_weight_room(*self._layout)
        stored = np.ascontiguousarray(scales).view(self._scale_type.storage)
        _core.float_weight_pack(np.ascontiguousarray(codes), stored, levels, self._packed, *self._layout)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and scales, and a byte a column that marks NaN."""
        return int(self._packed.nbytes)

    def codes(self) -> Array:
        """Return the bytes of the codes as they were packed."""
        codes = np.empty(self.shape, np.uint8)
        _core.float_weight_codes(self._packed, codes, *self._layout)
        return codes

    def scale(self) -> Array:
        """Return the scales as they were packed."""
        if self._one is not None:
            return self._one
        k, n, group_size, *_ = self._layout
        scales = np.empty((-(-k // group_size), n), self._scale_type.storage)
        _core.float_weight_scales(self._packed, scales, *self._layout)
        return scales.view(self._scale_type.dtype).reshape(self._scale_shape)

    def parameters(self) -> tuple[Float32Array, Int32Array]:
        """Return the float32 scales as they were packed, and zero points of 0."""
        scale = self.scale()
        return scale, np.zeros(scale.shape, np.int32)

    def multiply(self, x: Float32Array, rows: int, activations: Activations, output: Output, out: Array) -> bool:
        """Fill `out` with the product of float32 rows and the weight; return True."""
        _core.matmul_float(self._packed, x, rows, output.bias, output.low, output.high, out, *self._layout)
        return True

    def multiply_codes(
        self, x: Array, core: int, rows: int, scale: Float32Array, zero_point: Int32Array, output: Output, out: Array
    ) -> bool:
        raise NotImplementedError("x is not quantized for a weight of floats")


def _is_plain(codes: Array, element: FloatType, scales: Array, tensor_scale: float) -> bool:
    """Return whether no code is infinite, and every scale times the power of two that corrects the bias is finite."""
    if element.has_infinity and ((codes & 0x7F) == element.largest_code + 1).any():
        return False
    with np.errstate(over="ignore"):
        reals = scales.astype(np.float32) * np.float32(tensor_scale)
    most = np.finfo(np.float32).max * 2.0 ** (element.bias - (127 if element.bits == 8 else 15))
    return not (np.abs(reals) > most).any()
