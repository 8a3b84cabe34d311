"""The quantized and floating types, each named once.

A code type has a NumPy (or ml_dtypes) dtype, a number of bits and a range. ml_dtypes stores int4 and int2 one code
to a byte; only files pack them.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from . import _core

__all__ = ["CODE_TYPES", "FLOAT_TYPES", "CodeType", "FloatType", "code_type", "float_type"]


@dataclass(frozen=True, slots=True)
class CodeType:
    """An integer code type.

    Attributes
    ----------
    name : str
        ``"int8"``, ``"uint4"``, ...
    dtype : numpy.dtype
        What an array of codes has as its dtype.
    storage : numpy.dtype
        The plain NumPy dtype with the same bytes, which the kernels read and write.
    bits : int
        Bits of one code.
    qmin, qmax : int
        The full range.
    core : int
        The kernels' number for the type.
    """

    name: str
    dtype: np.dtype[Any]
    storage: np.dtype[Any]
    bits: int
    qmin: int
    qmax: int
    core: int

    @property
    def signed(self) -> bool:
        return self.qmin < 0

    @property
    def symmetric_qmin(self) -> int:
        """The smallest code of a symmetric range: -127 of int8, 1 of uint8 (zero point 128)."""
        return self.qmin + 1

    @property
    def symmetric_zero_point(self) -> int:
        return 0 if self.signed else (self.qmax + 1) // 2

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a file: codes narrower than a byte are packed along the last axis, each row on its own."""
        if self.bits >= 8:
            return shape
        return (*shape[:-1], -(-shape[-1] * self.bits // 8)) if shape else (1,)

    def packed_nbytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(self.packed_shape(shape)) * self.storage.itemsize


@dataclass(frozen=True, slots=True)
class FloatType:
    """A floating type that the kernels read or write. ``storage`` is the plain NumPy dtype with the same bytes."""

    name: str
    dtype: np.dtype[Any]
    storage: np.dtype[Any]
    core: int


def _code(name: str, dtype: Any, storage: Any, bits: int) -> CodeType:
    low = -(1 << (bits - 1)) if name.startswith("int") else 0
    return CodeType(name, np.dtype(dtype), np.dtype(storage), bits, low, low + (1 << bits) - 1, _core.TYPES[name])


CODE_TYPES = {
    code.name: code
    for code in (
        _code("int8", np.int8, np.int8, 8),
        _code("uint8", np.uint8, np.uint8, 8),
        _code("int16", np.int16, np.int16, 16),
        _code("uint16", np.uint16, np.uint16, 16),
        _code("int4", ml_dtypes.int4, np.int8, 4),
        _code("uint4", ml_dtypes.uint4, np.uint8, 4),
        _code("int2", ml_dtypes.int2, np.int8, 2),
        _code("uint2", ml_dtypes.uint2, np.uint8, 2),
    )
}
FLOAT_TYPES = {
    name: FloatType(name, np.dtype(dtype), np.dtype(storage), _core.TYPES[name])
    for name, dtype, storage in (
        ("float32", np.float32, np.float32),
        ("float64", np.float64, np.float64),
        ("float16", np.float16, np.uint16),
        ("bfloat16", ml_dtypes.bfloat16, np.uint16),
    )
}


@cache
def _look_up(dtype: Any, kind: str) -> Any:
    table: dict[str, Any] = CODE_TYPES if kind == "code" else FLOAT_TYPES
    if dtype is None:  # NumPy would take it for float64
        return None
    if isinstance(dtype, str) and dtype in table:
        return table[dtype]
    try:
        return table.get(np.dtype(dtype).name)
    except TypeError:
        return None


def code_type(dtype: Any) -> CodeType | None:
    """Find the code type that a name, a NumPy dtype or an ml_dtypes type means; None if it is none.

    Examples
    --------
    >>> code_type("int4").qmin, code_type(np.uint8).qmax
    (-8, 255)
    """
    try:
        return _look_up(dtype, "code")  # type: ignore[no-any-return]
    except TypeError:  # unhashable
        return None


def float_type(dtype: Any) -> FloatType | None:
    """Find the floating type that a name, a NumPy dtype or an ml_dtypes type means; None if it is none.

    Examples
    --------
    >>> float_type("bfloat16").storage
    dtype('uint16')
    """
    try:
        return _look_up(dtype, "float")  # type: ignore[no-any-return]
    except TypeError:
        return None
