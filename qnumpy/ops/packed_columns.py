"""Weights of 8-, 4- or 2-bit codes, packed once for products with any number of rows.

The product of the codes is exact in int32. An `Output` describes the conversion of the sums; weights in groups
take the same `Activations` and `Output`.
"""

from typing import NamedTuple

import numpy as np

from .. import _core
from .._typing import Array, Float32Array, Int32Array
from .hadamard import Hadamard, arguments
from .output import Output

__all__ = ["Activations", "PackedColumns"]

_INT8, _UINT8 = _core.TYPES["int8"], _core.TYPES["uint8"]
_ONE = np.ones(1, np.float32)


class Activations(NamedTuple):
    """How a product quantizes real rows."""

    core: int  # the kernels' number for int8 or uint8
    symmetric: bool
    qmin: int
    qmax: int
    by_row: bool  # each row has a scale; else, for a weight in groups, each group of a row
    scale: float = 0.0  # of all rows; 0 where the kernel computes the scales
    zero_point: int = 0
    hadamard: Hadamard | None = None  # transforms each row first


class PackedColumns:
    """A weight of codes with one scale for each column.

    Parameters
    ----------
    codes : ndarray of int8 or uint8 in the range of `bits`, shape (K, N)
    bits : {8, 4, 2}
    scale : ndarray of float32, shape () or (N,)
    zero_point : ndarray of int32, shape () or (N,)
    """

    __slots__ = ("_dtype", "_packed", "_parameters", "column_scale", "shape")

    quantizes = True

    def __init__(self, codes: Array, bits: int, scale: Float32Array, zero_point: Int32Array) -> None:
        k, n = codes.shape
        self.shape = k, n
        self._parameters = scale, zero_point
        self.column_scale = scale if scale.ndim else np.full(n, scale)
        self._dtype = codes.dtype
        core = _INT8 if codes.dtype == np.int8 else _UINT8
        self._packed = _core.pack_weights(codes, core, zero_point.reshape(-1) if zero_point.any() else None, bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, their sums, scales and zero points."""
        scale, zero_point = self._parameters
        arrays = self.column_scale.nbytes + zero_point.nbytes + (0 if scale.ndim else scale.nbytes)
        return int(_core.packed_info(self._packed)[2]) + arrays

    def parameters(self) -> tuple[Float32Array, Int32Array]:
        """Return the scales and zero points as they were packed."""
        return self._parameters

    def codes(self) -> Array:
        """Return the codes as they were packed."""
        codes = np.empty(self.shape, self._dtype)
        _core.packed_codes(self._packed, codes)
        return codes

    def multiply(self, x: Float32Array, rows: int, activations: Activations, output: Output, out: Array) -> bool:
        """Fill `out` with the product of real rows and the weight; return whether every sum fits in int32."""
        scale = self.column_scale if output.multipliers is None else output.multipliers
        return _core.linear(
            x, rows, activations.core, activations.symmetric, activations.qmin, activations.qmax, activations.scale,
            activations.zero_point, self._packed, out, output.core, scale, output.bias, output.acc_bias,
            output.low, output.high, output.zero_point, output.qmin, output.qmax,
            output.wide_bias, *arguments(activations.hadamard),
        )  # fmt: skip

    def multiply_codes(
        self, x: Array, core: int, rows: int, scale: Float32Array, zero_point: Int32Array, output: Output, out: Array
    ) -> bool:
        """Fill `out` with the product of rows of codes and the weight; return whether every sum fits in int32.

        x has one scale and zero point, or one for each row. The multipliers of an output of codes hold the scale of x.
        """
        to_float32 = output.multipliers is None
        return _core.matmul_packed(
            x.reshape(rows, self.shape[0]), core, zero_point.reshape(-1) if zero_point.any() else None, self._packed,
            out.reshape(rows, self.shape[1]), output.core, scale.reshape(-1) if to_float32 else _ONE,
            self.column_scale if to_float32 else output.multipliers, output.bias, output.acc_bias,
            output.low, output.high, output.zero_point, output.qmin, output.qmax,
            output.wide_bias,
        )  # fmt: skip
