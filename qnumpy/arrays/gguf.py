"""GGUFArray: blocks of GGUF, the bytes that llama.cpp reads; and which codes and scales they are."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _args, _check
from .._tables import html_facts
from .._typing import Array, DType, UInt8Array
from ..dtypes import narrowest
from ..granularity import PerGroup
from ..ops.cast import cast
from ..ops.gguf import GGUF_TYPES, GGUFType, decode, unpack_block
from ..qparams import QParams
from .quantized import QuantizedArray

__all__ = ["GGUFArray", "gguf_type"]

_BLOCKS = 1 << 10  # that are dequantized at a time


def gguf_type(owner: str, name: str, value: Any) -> GGUFType:
    """Return the type of blocks of a name, in any case of letters."""
    kind = GGUF_TYPES.get(value.upper()) if isinstance(value, str) else None
    if kind is None:
        raise ValueError(_check.must(owner, name, _check.alternatives(map(repr, GGUF_TYPES)), _check.typed(value)))
    return kind


class GGUFArray:
    """Rows of blocks of a GGUF type; ``qn.weights.quantize_gguf`` returns one, ``qn.save`` writes it to a .gguf file.

    Parameters
    ----------
    data : ndarray of uint8, at least 1-D
        The blocks of each row along the last axis.
    type : str
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K" or "Q6_K".

    Attributes
    ----------
    data : ndarray of uint8

    Raises
    ------
    ValueError
        type is unknown.
    TypeError
        data are not uint8.
    ValueError
        data are 0-d, or a row is no number of whole blocks.

    Examples
    --------
    >>> import qnumpy as qn
    >>> w = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    >>> q = qn.weights.quantize_gguf(w, "Q4_K")
    >>> q
    GGUFArray((2, 256), Q4_K, 4.5 bits)
    >>> q.data.shape, q.nbytes, float(np.abs(q.dequantize() - w).max()) < 0.04
    ((2, 144), 288, True)
    """

    __slots__ = ("_kind", "data")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    data: UInt8Array

    def __init__(self, data: Array, type: str) -> None:
        owner = "GGUFArray"
        self._kind = gguf_type(owner, "type", type)
        self.data = _check.array(owner, "data", data)
        if self.data.dtype != np.uint8:
            raise TypeError(_check.must(owner, "data", "an array of uint8", f"dtype {self.data.dtype}"))
        nbytes = self._kind.nbytes
        if self.data.ndim == 0 or self.data.shape[-1] % nbytes:
            requirement = f"rows of whole blocks of {nbytes} bytes for {self._kind.name}"
            raise ValueError(_check.must(owner, "data", requirement, f"shape {self.data.shape}"))

    @property
    def type(self) -> str:
        """Name of the type."""
        return self._kind.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the reals."""
        return (*self.data.shape[:-1], self.data.shape[-1] // self._kind.nbytes * self._kind.size)

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size // self._kind.nbytes * self._kind.size

    @property
    def nbytes(self) -> int:
        """Bytes in memory, and in a file."""
        return self.data.nbytes

    @property
    def granularity(self) -> PerGroup:
        """The neighbours along the last axis that share a scale."""
        return PerGroup(self._kind.group)

    def dequantize(self, dtype: DType = "float32", out: Array | None = None) -> Array:
        """Return the reals, the same bits as those of the ``gguf`` package.

        Parameters
        ----------
        dtype : str or dtype, default "float32"
            float32, float64, float16 or bfloat16.
        out : ndarray, optional
            Exact dtype and shape, C-contiguous, writable.

        Returns
        -------
        ndarray
            ``(d * sc) * (q - zero)``, or ``(d * sc) * q - dmin * m``: each product and the difference are rounded to
            float32, half to even. Other dtypes are converted from that value and rounded half to even.

        Raises
        ------
        TypeError
            dtype is no real type.
        TypeError, ValueError
            out: as in quantize_linear.
        """
        return self._reals("GGUFArray.dequantize", dtype, out)

    def _reals(self, owner: str, dtype: DType, out: Array | None) -> Array:
        real = _args.floating(owner, dtype)
        result = _args.output(owner, out, real.dtype, self.shape, self.data)
        blocks, rows = self._blocks(), result.reshape(-1, self._kind.size)
        for first in range(0, len(blocks), _BLOCKS):
            levels = decode(blocks[first : first + _BLOCKS], self._kind)
            rows[first : first + _BLOCKS] = levels if real.name == "float32" else cast(levels, real.name)
        return result

    def _blocks(self) -> UInt8Array:
        return np.ascontiguousarray(self.data).reshape(-1, self._kind.nbytes)

    def to_quantized(self) -> QuantizedArray:
        """Return the same reals as a QuantizedArray, bit for bit.

        Returns
        -------
        QuantizedArray
            Signed, in groups of 32 or 16 along the last axis, of the narrowest type that holds the codes. A negative
            scale becomes a positive one, with the zero point -1.

        Raises
        ------
        TypeError
            The type has minima, which are no multiples of the scale: "Q4_1", "Q5_1", "Q2_K", "Q4_K" and "Q5_K".
        ValueError
            A scale is infinite or NaN.
        """
        owner, kind = "GGUFArray.to_quantized", self._kind
        if kind.has_minimum:
            names = [repr(name) for name, other in GGUF_TYPES.items() if not other.has_minimum]
            raise TypeError(_check.must(owner, "type", _check.alternatives(names), repr(kind.name)))
        block = unpack_block(self._blocks(), kind)
        shape = self.shape
        codes = (block.codes ^ np.uint8(kind.zero)).view(np.int8) if kind.bits == 8 else None
        codes = block.codes.view(np.int8) - np.int8(kind.zero) if codes is None else codes
        with np.errstate(invalid="ignore", over="ignore"):
            scale = block.d.astype(np.float32)[:, None] * block.sc.astype(np.float32)
        groups = codes.reshape(-1, kind.groups, kind.group)
        negative = scale < 0
        groups[negative] = -1 - groups[negative]
        groups[scale == 0] = 0
        scale = np.where(scale == 0, np.float32(1), np.abs(scale))
        at = (*shape[:-1], shape[-1] // kind.group)
        code = narrowest(kind.bits, signed=True)
        qmin = -(1 << (kind.bits - 1))
        zero_point = -negative.astype(np.int32).reshape(at)
        params = QParams(scale.reshape(at), zero_point, code.key, PerGroup(kind.group), qmin, -1 - qmin)
        return QuantizedArray(groups.reshape(shape).astype(code.dtype), params)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("GGUFArray: copy must be None or True; got False. Dequantizing always copies.")
        return self.dequantize() if dtype is None else self.dequantize().astype(dtype, copy=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GGUFArray):
            return NotImplemented
        return self.type == other.type and np.array_equal(self.data, other.data)

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> Any:
        return GGUFArray, (self.data, self.type)

    def __repr__(self) -> str:
        return f"GGUFArray({self.shape}, {self.type}, {self._kind.bits_per_weight:g} bits)"

    def _repr_html_(self) -> str:
        bits = f"{self.type}, {self._kind.bits_per_weight:g} bits"
        size = f"{self.size * 4:,} as float32, {self.nbytes:,} here"
        return html_facts("GGUFArray", [("shape", str(self.shape)), ("type", bits), ("bytes", size)])
