"""Weights of 4-bit codes in groups, packed once for products with any number of rows."""

import numpy as np

from .. import _core
from .._typing import Array, Float32Array, Int32Array
from .output import Output
from .packed_columns import Activations

__all__ = ["GROUP_SIZES", "PackedGroups"]

GROUP_SIZES = (16, 32, 64, 128)


class PackedGroups:
    """A weight of 4-bit codes with one scale for each group of neighbours along K.

    Parameters
    ----------
    codes : ndarray of int8 in [-8, 7] or uint8 in [0, 15], shape (K, N)
    scale : ndarray of float32, shape (groups, N)
    zero_point : ndarray of int32, shape (groups, N), or None
        None if all are the middle of the codes, 0 or 8.
    group_size : int
        One of GROUP_SIZES.
    half : bool
        Store the scales as float16, which must hold them exactly.
    """

    __slots__ = ("_layout", "_packed", "_signed", "shape")

    quantizes = True
    column_scale = None  # each group has a scale: sums of a column are float32, and a second pass makes codes of them

    def __init__(
        self, codes: Array, scale: Float32Array, zero_point: Int32Array | None, group_size: int, half: bool
    ) -> None:
        k, n = codes.shape
        self.shape = k, n
        self._signed = codes.dtype == np.int8
        self._layout = k, n, group_size, half, zero_point is not None
        self._packed = _core.grouped_room(*self._layout)
        scales = np.ascontiguousarray(scale.astype(np.float16).view(np.uint16) if half else scale)
        zeros = None if zero_point is None else (zero_point + 8 * self._signed).astype(np.uint8)
        plain = np.ascontiguousarray(codes).view(np.uint8)
        _core.grouped_pack(plain, self._signed, scales, zeros, self._packed, k, n, group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, their scales and zero points."""
        return int(self._packed.nbytes)

    def codes(self) -> Array:
        """Return the codes as they were packed."""
        codes = np.empty(self.shape, np.int8 if self._signed else np.uint8)
        _core.grouped_codes(self._packed, *self._layout, self._signed, codes)
        return codes

    def multiply(self, x: Float32Array, rows: int, activations: Activations, output: Output, out: Array) -> bool:
        """Fill `out` with the product of real rows and the weight, in float32; the sums of a group always fit."""
        _core.matmul_grouped(
            self._packed, *self._layout, x, rows, activations.core, activations.symmetric, activations.qmin,
            activations.qmax, activations.scale, activations.zero_point, activations.by_row, output.bias, output.low,
            output.high, out,
        )  # fmt: skip
        return True

    def multiply_codes(
        self, x: Array, core: int, rows: int, scale: Float32Array, zero_point: Int32Array, output: Output, out: Array
    ) -> bool:
        """Fill `out` with the product of rows of codes and the weight, in float32; the sums of a group always fit.

        x has one scale and zero point, or one for each row, or one for each group of each row.
        """
        _core.matmul_grouped_codes(
            self._packed, *self._layout, np.ascontiguousarray(x), rows, scale.reshape(-1),
            zero_point.reshape(-1) if zero_point.any() else None, output.bias, output.low, output.high, out,
        )  # fmt: skip
        return True
