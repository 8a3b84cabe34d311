"""The quantized and floating types, each named once.

A code type has a NumPy (or ml_dtypes) dtype, a number of bits and a range. Arrays of ml_dtypes' int4 and int2 store one
code to a byte; arrays of codes and files pack them. Codes of 3, 5, 6 and 7 bits have no dtype: they are arrays of int8
or uint8, and only the name of the type tells it from others.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from . import _core
from ._typing import Float64Array

__all__ = [
    "ACCUMULATOR_TYPE",
    "CODE_TYPES",
    "FLOAT_TYPES",
    "INTEGER_TYPES",
    "REAL_TYPES",
    "CodeType",
    "FloatType",
    "code_type",
    "float_type",
    "narrowest",
    "real_type",
]


class _Packable:
    """What both kinds of types say about the bytes of an array."""

    __slots__ = ()
    if TYPE_CHECKING:  # fields or properties of the types

        @property
        def bits(self) -> int: ...

        @property
        def storage(self) -> np.dtype[Any]: ...

    @property
    def is_packed(self) -> bool:
        """Whether arrays of codes hold several codes to a byte."""
        return self.bits < 8

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in memory: codes narrower than a byte are packed along the last axis, row by row."""
        if self.bits >= 8:
            return shape
        return (*shape[:-1], -(-shape[-1] * self.bits // 8)) if shape else (1,)

    def packed_nbytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(self.packed_shape(shape)) * self.storage.itemsize


@dataclass(frozen=True, slots=True)
class CodeType(_Packable):
    """A type of codes: integers, lines of csrc/kernels/lists/code_list.h, or floats of 8 and 4 bits.

    Attributes
    ----------
    name : str
        ``"int8"``, ``"uint4"``, ...
    dtype : numpy.dtype
        The dtype of an array of codes: int8 or uint8 for a type that only its name tells from others.
    storage : numpy.dtype
        The plain NumPy dtype of the same bytes.
    bits : int
        Bits of one code.
    qmin, qmax : int
        The full range; for a float type minus and plus its largest number.
    core : int
        The number of the type in the kernels.
    real : FloatType or None
        The format if codes are floats, which have no zero point.
    """

    name: str
    dtype: np.dtype[Any]
    storage: np.dtype[Any]
    bits: int
    qmin: int
    qmax: int
    core: int
    real: "FloatType | None" = None

    @property
    def is_named(self) -> bool:
        """Whether only the name tells the type from others, because no dtype does."""
        return self.dtype.name != self.name

    @property
    def key(self) -> np.dtype[Any] | str:
        """What tells the type from others: the dtype, or the name."""
        return self.name if self.is_named else self.dtype

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return 1 << self.bits

    @property
    def signed(self) -> bool:
        return self.qmin < 0

    @property
    def symmetric_qmin(self) -> int:
        """The smallest code of a symmetric range: -127 of int8, 1 of uint8 (zero point 128)."""
        return self.qmin + (self.real is None)

    @property
    def zero_points(self) -> tuple[int, int]:
        """The range of zero points: that of the codes, 0 alone for floats."""
        return (0, 0) if self.real is not None else (self.qmin, self.qmax)

    @property
    def symmetric_zero_point(self) -> int:
        return 0 if self.signed else (self.qmax + 1) // 2


@dataclass(frozen=True, slots=True)
class FloatType(_Packable):
    """A floating type that the kernels read or write: a line of csrc/kernels/lists/float_list.h.

    Attributes
    ----------
    name : str
        ``"float16"``, ``"float8_e4m3fn"``, ...
    dtype : numpy.dtype
        The NumPy or ml_dtypes type.
    storage : numpy.dtype
        The plain NumPy dtype of the same bytes.
    core : int
        The number of the type in the kernels.
    exponent_bits, mantissa_bits, bias : int
        The fields: an exponent field E > 0 stands for ``2**(E - bias) * (1 + M / 2**mantissa_bits)``.
    kind : str
        The meaning of the largest codes. ``"IEEE"``: infinity and NaN; ``"FN"``: NaN is all ones; ``"FNUZ"``: the code
        of -0 is NaN; ``"FINITE"``: neither; ``"SCALE"``: powers of two alone, without sign or zero, NaN is all ones.
    """

    name: str
    dtype: np.dtype[Any]
    storage: np.dtype[Any]
    core: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    kind: str

    @property
    def bits(self) -> int:
        """Bits of a code, the sign among them."""
        return (self.kind != "SCALE") + self.exponent_bits + self.mantissa_bits

    @property
    def has_infinity(self) -> bool:
        return self.kind == "IEEE"

    @property
    def has_nan(self) -> bool:
        return self.kind != "FINITE"

    @property
    def largest_code(self) -> int:
        """The code of the largest finite number."""
        if self.kind == "IEEE":
            return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1
        return (1 << (self.exponent_bits + self.mantissa_bits)) - (1 if self.kind in ("FNUZ", "FINITE") else 2)

    @property
    def largest(self) -> float:
        exponent, mantissa = divmod(self.largest_code, 1 << self.mantissa_bits)
        return math.ldexp((1 << self.mantissa_bits) + mantissa, exponent - self.bias - self.mantissa_bits)

    @property
    def numbers(self) -> Float64Array:
        """The finite numbers from 0 up, as float64; of a type of at most 16 bits with a zero."""
        return np.arange(self.largest_code + 1, dtype=self.storage).view(self.dtype).astype(np.float64)

    @property
    def overflow(self) -> float:
        """The smallest magnitude that rounds beyond the largest number."""
        tie = self.largest + math.ldexp(1.0, math.frexp(self.largest)[1] - self.mantissa_bits - 2)
        return (
            math.nextafter(tie, math.inf) if self.kind == "FN" else tie
        )  # the largest FN code is even: a tie rounds to it

    @property
    def smallest_normal(self) -> float:
        return math.ldexp(1.0, (self.kind != "SCALE") - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        return math.ldexp(self.smallest_normal, -self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number."""
        return math.ldexp(1.0, -self.mantissa_bits)


def _dtype(name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))
    return dtype


def _code(name: str, core: int, bits: int, signed: bool) -> CodeType:
    qmin = -(1 << (bits - 1)) if signed else 0
    storage = np.dtype(f"{'i' if signed else 'u'}{max(bits, 8) // 8}")
    dtype = storage if bits in (3, 5, 6, 7) else _dtype(name)
    return CodeType(name, dtype, storage, bits, qmin, qmin + (1 << bits) - 1, core)


def _float_code(real: FloatType) -> CodeType:
    largest = int(real.largest)
    return CodeType(real.name, real.dtype, real.storage, real.bits, -largest, largest, real.core, real)


FLOAT_TYPES = {
    name: FloatType(
        name,
        _dtype(name),
        np.dtype(f"{'f' if bits >= 32 else 'u'}{bits // 8}"),
        core,
        exponent,
        mantissa,
        bias,
        kind,
    )
    for name, (core, bits, exponent, mantissa, bias, kind) in _core.FLOATS.items()
}
REAL_TYPES = {name: FLOAT_TYPES[name] for name in ("float32", "float64", "float16", "bfloat16")}
ACCUMULATOR_TYPE = _code("int32", _core.TYPES["int32"], 32, True)  # sums of products; not a type of codes
INTEGER_TYPES = {name: _code(name, *row) for name, row in _core.CODES.items()}
CODE_TYPES = INTEGER_TYPES | {
    name: _float_code(FLOAT_TYPES[name])
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn")
}


@cache
def _look_up(dtype: Any, family: str) -> Any:
    table: dict[str, Any] = CODE_TYPES if family == "code" else FLOAT_TYPES
    if dtype is None:  # float64 in NumPy
        return None
    if not isinstance(getattr(dtype, "dtype", np.dtype(bool)), np.dtype) and not isinstance(dtype, type):
        return None  # an object whose `dtype` is none; NumPy 2.0 warns
    if isinstance(dtype, str) and dtype in table:
        return table[dtype]
    try:
        return table.get(np.dtype(dtype).name)
    except (TypeError, ValueError):
        return None


def code_type(dtype: object) -> CodeType | None:
    """Return the code type of a name, a NumPy dtype or an ml_dtypes type, None for anything else.

    Examples
    --------
    >>> code_type("int4").qmin, code_type(np.uint8).qmax, code_type("int3").dtype
    (-8, 255, dtype('int8'))
    """
    try:
        return _look_up(dtype, "code")  # type: ignore[no-any-return]
    except TypeError:  # unhashable
        return None


def narrowest(bits: int, *, signed: bool) -> CodeType:
    """Return the narrowest type of integers of at least so many bits, at most 8.

    Examples
    --------
    >>> narrowest(2, signed=True).name
    'int2'
    """
    types = (code for code in INTEGER_TYPES.values() if bits <= code.bits <= 8 and code.signed == signed)
    return min(types, key=lambda code: code.bits)


def float_type(dtype: object) -> FloatType | None:
    """Return the floating type of a name, a NumPy dtype or an ml_dtypes type, None for anything else.

    Examples
    --------
    >>> float_type("bfloat16").storage
    dtype('uint16')
    """
    try:
        return _look_up(dtype, "float")  # type: ignore[no-any-return]
    except TypeError:
        return None


def real_type(dtype: object) -> FloatType | None:
    """Return the floating type as float_type does, None for the types that only some operations take.

    Examples
    --------
    >>> real_type("float16").bits, real_type("float8_e5m2")
    (16, None)
    """
    result = float_type(dtype)
    return result if result is not None and result.name in REAL_TYPES else None
