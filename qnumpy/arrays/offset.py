"""OffsetArray: codes with a float scale and a float offset."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _args, _check
from .._index import Index
from .._packing import clean_rows
from .._typing import Array, DType, Float32Array, RealLike
from ..dtypes import CODE_TYPES, CodeType
from ..granularity import Granularity, Mesh
from .base import CodedArray, Slices

__all__ = ["OffsetArray"]

_CODES = {code.name: code for code in CODE_TYPES.values() if code.real is None and code.bits <= 8}


class OffsetArray(CodedArray):
    """Codes ``q`` of reals ``scale * q + offset``, both float32; `qn.weights.offsets` returns one.

    0 need not be a level, so that a group between 1 and 2 has all its levels there. GGUF's k-quants and MatMulNBits
    with float zero points hold such weights.

    Parameters
    ----------
    codes : ndarray of int8, uint8, int4, uint4, int2 or uint2
        An element holds one code, of a type without a dtype in int8 or uint8.
    scale : array_like of floats
        Positive, finite, normal in float32; of the shape that parameters of `granularity` have.
    offset : array_like of floats
        Of the same shape, finite in float32.
    granularity : Granularity
        Which elements share a scale and an offset.
    dtype : str or dtype, optional
        The type of the codes, that of their array by default: "uint3" for codes of 3 bits in uint8.

    Attributes
    ----------
    scale, offset : ndarray of float32
    granularity : Granularity

    Raises
    ------
    TypeError
        codes are of no integer code type of at most 8 bits; dtype is none, or is not held in the dtype of codes.
    ValueError
        A code is outside the range of dtype.
    TypeError
        granularity is none; scale or offset is not real.
    ValueError
        granularity does not fit codes; scale or offset is of another shape, a scale is no scale, or an offset is not
        finite.

    Examples
    --------
    >>> from qnumpy import PerTensor
    >>> q = OffsetArray(np.array([[0, 1], [2, 3]], np.uint8), 0.5, 10.0, PerTensor())
    >>> q
    OffsetArray((2, 2), uint8, per tensor, scale=0.5, offset=10)
    [[10.  10.5]
     [11.  11.5]]
    """

    __slots__ = ("_code_type", "granularity", "offset", "scale")
    _type_label = "dtype"

    _code_type: CodeType
    scale: Float32Array
    offset: Float32Array
    granularity: Granularity

    def __init__(
        self,
        codes: Array,
        scale: RealLike,
        offset: RealLike,
        granularity: Granularity,
        *,
        dtype: DTypeLike | None = None,
    ) -> None:
        owner = "OffsetArray"
        array, code = _args.codes(owner, "codes", codes, _CODES)
        plain = _args.plain(array, code)
        if dtype is not None:
            held, code = code, _args.code(owner, dtype, _CODES)
            if held.dtype != code.dtype:
                raise TypeError(_check.must(owner, "dtype", f"a type held in {held.dtype}", code.name))
            _check_range(owner, plain, code)
        self.scale, self.offset = _checked(owner, array.shape, scale, offset, granularity)
        self.granularity, self._code_type = granularity, code
        self._hold(plain.view(code.dtype))

    @classmethod
    def _of_held(cls, held: Array, shape: tuple[int, ...], code: CodeType, *params: Any) -> "OffsetArray":
        """Make an array of what another one held, and of its scale, offset and granularity."""
        result = object.__new__(cls)
        result._memory, result._shape, result._code_type = (held, None), shape, code
        result.scale, result.offset, result.granularity = params
        return result

    @classmethod
    def _of_rows(
        cls, rows: Array, shape: tuple[int, ...], code: CodeType, scale: Array, offset: Array, granularity: Granularity
    ) -> "OffsetArray":
        """Make an array of rows of packed bytes, or of codes, that a file holds; check the parameters."""
        params = _checked("OffsetArray", shape, scale, offset, granularity)
        held = clean_rows(rows, code, shape) if code.is_packed else rows.view(code.dtype)
        return cls._of_held(held, shape, code, *params, granularity)

    @property
    def _code(self) -> CodeType:
        return self._code_type

    @property
    def levels(self) -> int:
        """The number of codes of the type."""
        return self._code_type.levels

    @property
    def nbytes(self) -> int:
        """Bytes in memory and in a file: codes at their bit width, scales and offsets."""
        return self._code_type.packed_nbytes(self._shape) + self.scale.nbytes + self.offset.nbytes

    def dequantize(self, dtype: DType = "float32", out: Array | None = None) -> Array:
        """Return ``scale * codes + offset``.

        Parameters
        ----------
        dtype : str or dtype, default "float32"
            float32, float64, float16 or bfloat16.
        out : ndarray, optional
            Exact dtype and shape, C-contiguous, writable.

        Returns
        -------
        ndarray
            A float32 multiplication and a float32 addition, each rounded half to even. Other dtypes are converted from
            that value and rounded half to even.

        Raises
        ------
        TypeError
            dtype is no real type.
        TypeError, ValueError
            out: as in quantize_linear.
        """
        return self._reals("OffsetArray.dequantize", dtype, out)

    def _reals(self, owner: str, dtype: DType, out: Array | None) -> Array:
        return self._reals_in_bands(owner, dtype, out, self._reals_of)

    def _reals_of(self, codes: Array, index: Slices) -> Float32Array:
        params = (self.granularity.expand(param, index) for param in (self.scale, self.offset))
        return self._levels(codes.view(self._code_type.storage), *params)

    @staticmethod
    def _levels(codes: Array, scale: Array, offset: Array) -> Float32Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(codes.astype(np.float32) * scale + offset)

    def _reals_at(self, codes: Array, mesh: Mesh) -> Array:
        plain = np.asarray(codes).view(self._code_type.storage)
        return self._levels(plain, *(self.granularity.at(p, mesh) for p in (self.scale, self.offset)))

    def _remade(self, held: Array, shape: tuple[int, ...], params: Any) -> "OffsetArray":
        return self._of_held(held, shape, self._code_type, *params)

    def _params_of_index(self, index: Index) -> Any:
        granularity, params = self.granularity.sliced("OffsetArray", index, self.scale, self.offset)
        return *(np.asarray(param, order="C") for param in params), granularity

    def _params_of_order(self, order: tuple[int, ...]) -> Any:
        granularity, params = self.granularity.transposed(order, self._shape, self.scale, self.offset)
        return *(np.asarray(param, order="C") for param in params), granularity

    def _params_of_shape(self, shape: tuple[int, ...]) -> Any:
        granularity = self.granularity.reshaped(self._shape, shape)
        if granularity is None:
            return None
        params = granularity.params_shape(shape)
        return self.scale.reshape(params), self.offset.reshape(params), granularity

    def _copied_params(self) -> Any:
        return self.scale.copy(), self.offset.copy(), self.granularity

    def _describe(self) -> list[str]:
        parts = [self._code_type.name, self.granularity.describe()]
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            if values.size:
                low, high = float(values.min()), float(values.max())
                parts.append(f"{name}={low:.4g}" + ("" if values.ndim == 0 else f"..{high:.4g} {values.shape}"))
        return parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OffsetArray):
            return NotImplemented
        return (
            (self.granularity, self._code_type) == (other.granularity, other._code_type)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.offset, other.offset)
            and self._same_codes(other)
        )

    def __reduce__(self) -> Any:
        # plain integers: pickles of ml_dtypes arrays depend on the version of ml_dtypes
        held = self._held if self._code.is_packed else self._held.view(self._code.storage)
        return _unpickle_held, (held, self._shape, self._code.name, self.scale, self.offset, self.granularity)


def _unpickle_held(
    held: Array, shape: tuple[int, ...], name: str, scale: Array, offset: Array, granularity: Granularity
) -> OffsetArray:
    return OffsetArray._of_rows(held, shape, CODE_TYPES[name], scale, offset, granularity)


def _check_range(owner: str, codes: Array, code: CodeType) -> None:
    if codes.size and not code.qmin <= codes.min() <= codes.max() <= code.qmax:
        worst = codes.min() if codes.min() < code.qmin else codes.max()
        raise ValueError(_check.must(owner, "codes", f"in [{code.qmin}, {code.qmax}]", str(worst)))


def _checked(
    owner: str, shape: tuple[int, ...], scale: Any, offset: Any, granularity: Any
) -> tuple[Float32Array, Float32Array]:
    """Check the parameters of an array of a shape."""
    wanted = _args.layout_of(owner, _args.granularity(owner, granularity), shape).shape
    scales = _check.scale(owner, "scale", scale)
    numbers = _check.reals(owner, "offset", offset)
    with np.errstate(over="ignore"):
        offsets = np.ascontiguousarray(numbers, np.float32).reshape(numbers.shape)
    for name, values in (("scale", scales), ("offset", offsets)):
        if values.shape != wanted:
            raise ValueError(_check.must(owner, name, f"of shape {wanted}", f"shape {values.shape}"))
    if not np.isfinite(offsets).all():
        raise ValueError(_check.must(owner, "offset", "finite in float32", str(numbers[~np.isfinite(offsets)][0])))
    return scales, offsets
