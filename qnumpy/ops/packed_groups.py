"""Weights of 8-, 4- or 2-bit codes in groups, packed once for products with any number of rows."""

import numpy as np

from .. import _core
from .._typing import Array, Float32Array, Int32Array
from .hadamard import arguments
from .output import Output
from .packed_columns import Activations

__all__ = ["GROUP_SIZES", "PackedGroups"]

GROUP_SIZES = (16, 32, 64, 128)
_PANEL = 16  # columns of a record


class PackedGroups:
    """A weight of codes with one scale for each group of neighbours along K.

    Parameters
    ----------
    codes : ndarray of int8 or uint8 in the range of `bits`, shape (K, N)
    bits : {8, 4, 2}
    scale : ndarray of float32, shape (groups, N)
    zero_point : ndarray of int32, shape (groups, N), or None
        None if all are the middle of the codes: 0 of signed ones, else ``2**(bits - 1)``.
    group_size : int
        One of GROUP_SIZES.
    half : bool
        Store the scales as float16, which must hold them exactly.
    offset : ndarray of float32, shape (groups, N), optional
        Added to the levels of each group. A product adds the offset times the sum of the codes of x, less their zero
        point, times the scale of x.
    """

    __slots__ = ("_layout", "_offset", "_packed", "_signed", "shape")

    quantizes = True
    column_scale = None  # each group has a scale: sums of a column are float32, and a second pass makes codes of them

    def __init__(
        self,
        codes: Array,
        bits: int,
        scale: Float32Array,
        zero_point: Int32Array | None,
        group_size: int,
        half: bool,
        offset: Float32Array | None = None,
    ) -> None:
        k, n = codes.shape
        self.shape = k, n
        self._signed, self._offset = codes.dtype == np.int8, offset
        self._layout = k, n, group_size, bits, half, zero_point is not None
        self._packed = _core.grouped_room(*self._layout)
        scales = np.ascontiguousarray(scale.astype(np.float16).view(np.uint16) if half else scale)
        middle = 2 ** (bits - 1) if self._signed else 0
        zeros = None if zero_point is None else (zero_point + middle).astype(np.uint8)
        plain = np.ascontiguousarray(codes).view(np.uint8)
        _core.grouped_pack(plain, self._signed, scales, zeros, self._packed, *self._layout[:4])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, their scales, zero points and offsets."""
        return int(self._packed.nbytes) + (0 if self._offset is None else self._offset.nbytes)

    def parameters(self) -> tuple[Float32Array, Int32Array]:
        """Return the scales and zero points as they were packed, (groups, N)."""
        _, _, _, bits, half, zeros = self._layout
        middle = 2 ** (bits - 1)
        scale = self._column(0, np.float16 if half else np.float32).astype(np.float32)
        stored = self._column(_PANEL * (2 if half else 4), np.uint8) if zeros else np.full(scale.shape, middle)
        return scale, stored.astype(np.int32) - (middle if self._signed else 0)

    def _column(self, offset: int, dtype: type[np.generic]) -> Array:
        """Return what lies `offset` bytes after the codes of each record, as packed_groups.h draws it, (groups, N)."""
        k, n, group_size, bits, _, _ = self._layout
        panels, groups = -(-n // _PANEL), -(-k // group_size)
        first = group_size * bits * _PANEL // 8 + offset
        records = self._packed.reshape(panels, groups, self._packed.size // max(panels * groups, 1))
        values = np.ascontiguousarray(records[:, :, first : first + _PANEL * np.dtype(dtype).itemsize]).view(dtype)
        return values.swapaxes(0, 1).reshape(groups, -1)[:, :n] if values.size else np.empty((groups, n), dtype)

    def codes(self) -> Array:
        """Return the codes as they were packed."""
        codes = np.empty(self.shape, np.int8 if self._signed else np.uint8)
        _core.grouped_codes(self._packed, *self._layout, self._signed, codes)
        return codes

    def multiply(self, x: Float32Array, rows: int, activations: Activations, output: Output, out: Array) -> bool:
        """Fill `out` with the product of real rows and the weight, in float32; the sums of a group always fit."""
        _core.matmul_grouped(
            self._packed, *self._layout, x, rows, activations.core, activations.symmetric, activations.qmin,
            activations.qmax, activations.scale, activations.zero_point, activations.by_row,
            *arguments(activations.hadamard), output.bias, output.low, output.high, out, self._offset,
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
            self._offset,
        )  # fmt: skip
        return True
