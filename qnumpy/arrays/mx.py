"""MXArray: narrow floats in blocks that share a scale, after the OCP Microscaling Formats specification; and NVFP4."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _args, _check, _core
from .._args import Array
from ..dtypes import FLOAT_TYPES, FloatType
from ..granularity import PerGroup, PerTensor
from ..ops.reduce import ranges
from .base import CodedArray

__all__ = ["MX_FORMATS", "MXArray", "MXFormat", "mx_format", "quantize_blocks"]


@dataclass(frozen=True)
class MXFormat:
    """What the elements of a block are, how many share a scale, and what that is.

    Attributes
    ----------
    name : str
        ``"mxfp4"``, ``"nvfp4"``, ...
    element, scale : FloatType
        float8_e8m0fnu scales are powers of two; float8_e4m3fn ones count in units of a float32 scale of the tensor.
    block : int
        Neighbours along the last axis that share a scale.
    """

    name: str
    element: FloatType
    block: int
    scale: FloatType

    @property
    def has_tensor_scale(self) -> bool:
        return self.scale.kind != "SCALE"

    def scales_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return PerGroup(self.block).params_shape(shape)


def _format(name: str, element: str, block: int = 32, scale: str = "float8_e8m0fnu") -> MXFormat:
    return MXFormat(name, FLOAT_TYPES[element], block, FLOAT_TYPES[scale])


MX_FORMATS = {
    made.name: made
    for made in (
        _format("mxfp8_e4m3", "float8_e4m3fn"),
        _format("mxfp8_e5m2", "float8_e5m2"),
        _format("mxfp6_e2m3", "float6_e2m3fn"),
        _format("mxfp6_e3m2", "float6_e3m2fn"),
        _format("mxfp4", "float4_e2m1fn"),
        _format("nvfp4", "float4_e2m1fn", 16, "float8_e4m3fn"),
    )
}


def mx_format(dtype: Any) -> MXFormat | None:
    """Find the format of a name; None if it is none.

    Examples
    --------
    >>> mx_format("mxfp4").block
    32
    """
    return MX_FORMATS.get(dtype) if isinstance(dtype, str) else None


class MXArray(CodedArray):
    """Codes of narrow floats and the scale of each block of them; `quantize` makes one of ``dtype="mxfp4"`` and others.

    ``x = scale * code`` where the scale is a power of two (float8_e8m0fnu) for 32 neighbours along the last axis, or,
    of NVFP4, a float8_e4m3fn times a float32 of the whole tensor for 16. The last block of a row may be short.
    Beyond the range of float32, numbers of float64 count as its largest; NVFP4, whose tensor scale comes from the
    largest, is refused then (ValueError).

    Parameters
    ----------
    codes : ndarray of the element type, at least 1-D
        float8_e4m3fn, float8_e5m2, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn of ml_dtypes.
    scales : ndarray of float8_e8m0fnu, or of float8_e4m3fn for NVFP4
        Of the shape of `codes` with the last axis divided by the block size, rounded up.
    format : str
        "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4" or "nvfp4".
    tensor_scale : float, optional
        Of NVFP4 alone, and required there: positive, finite, normal in float32.

    Raises
    ------
    TypeError
        codes or scales are of another dtype.
    ValueError
        format is unknown, the shapes do not fit, or tensor_scale does not.

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, sections 5 and 6.3.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> q = quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), dtype="mxfp4")
    >>> q
    MXArray((2, 64), mxfp4, blocks of 32, scale=0.0625..0.25 (2, 2))
    >>> q.codes.dtype, q.scales.dtype, q.nbytes
    (dtype(float4_e2m1fn), dtype(float8_e8m0fnu), 68)
    """

    __slots__ = ("_format", "scales", "tensor_scale")
    _kind = "format"

    scales: Array
    tensor_scale: np.float32 | None

    def __init__(self, codes: Any, scales: Any, format: str, tensor_scale: Any = None) -> None:
        owner = "MXArray"
        found = mx_format(format)
        if found is None:
            raise ValueError(_check.must(owner, "format", _args.listed(list(MX_FORMATS)), _check.typed(format)))
        arrays = []
        for name, value, kind in (("codes", codes, found.element), ("scales", scales, found.scale)):
            array = _check.array(owner, name, value)
            if array.dtype != kind.dtype:
                raise TypeError(_check.must(owner, name, f"an array of {kind.name}", f"dtype {array.dtype}"))
            arrays.append(array)
        self.codes, self.scales = arrays
        if self.codes.ndim == 0:
            raise ValueError(_check.must(owner, "codes", "at least 1-D", "a 0-d array"))
        wanted = found.scales_shape(self.codes.shape)
        if self.scales.shape != wanted:
            raise ValueError(_check.must(owner, "scales", f"of shape {wanted}", f"shape {self.scales.shape}"))
        if (tensor_scale is None) == found.has_tensor_scale:
            need = "given for nvfp4" if found.has_tensor_scale else f"left out for {found.name}"
            raise ValueError(_check.must(owner, "tensor_scale", need, _check.typed(tensor_scale)))
        if tensor_scale is not None:
            tensor_scale = _check.scale(owner, "tensor_scale", tensor_scale)
            if tensor_scale.ndim:
                raise ValueError(_check.must(owner, "tensor_scale", "one number", f"shape {tensor_scale.shape}"))
            tensor_scale = np.float32(tensor_scale)
        self.tensor_scale = tensor_scale
        self._format = found

    @classmethod
    def _made(cls, codes: Array, scales: Array, format: MXFormat, tensor_scale: np.float32 | None) -> "MXArray":
        """Join what is known to belong together."""
        made = object.__new__(cls)
        made.codes, made.scales, made._format, made.tensor_scale = codes, scales, format, tensor_scale
        return made

    @property
    def format(self) -> str:
        """Name of the format."""
        return self._format.name

    @property
    def block_size(self) -> int:
        """Neighbours along the last axis that share a scale."""
        return self._format.block

    @property
    def granularity(self) -> PerGroup:
        """The same, as a granularity."""
        return PerGroup(self._format.block)

    @property
    def element(self) -> FloatType:
        """The type of the codes."""
        return self._format.element

    @property
    def levels(self) -> int:
        """How many codes may occur."""
        return 1 << self._format.element.bits

    @property
    def scale(self) -> Array:
        """The scale of each block as float32; of NVFP4 the product with the tensor's, rounded half to even."""
        scales = self.scales.astype(np.float32)
        return scales if self.tensor_scale is None else scales * self.tensor_scale

    @property
    def nbytes(self) -> int:
        """Bytes in a file: 4-bit codes two to a byte (each row on its own), 6-bit ones one to a byte, and scales."""
        bits = 4 if self._format.element.bits == 4 else 8
        row = -(-self.shape[-1] * bits // 8)
        own = 0 if self.tensor_scale is None else 4
        return math.prod(self.shape[:-1]) * row + self.scales.nbytes + own

    def dequantize(self, dtype: Any = "float32", out: Any = None) -> Array:
        """Return ``scale * codes``.

        Parameters
        ----------
        dtype : str or dtype, default "float32"
            float32, float64, float16 or bfloat16.
        out : ndarray, optional
            Exact dtype and shape, C-contiguous, writable.

        Returns
        -------
        ndarray
            Of MX formats exact in float32; of NVFP4 one multiplication, rounded half to even. Other dtypes convert
            that value. A block whose scale is NaN is NaN.
        """
        owner = "MXArray.dequantize"
        real = _args.floating(owner, dtype)
        where = _args.layout(owner, self.shape, -1, self._format.block)
        result = _args.output(owner, out, real.dtype, self.shape, self.codes)
        scale = np.ascontiguousarray(self.scale)
        _core.dequantize(
            self.codes.view(np.uint8), self._format.element.core, scale, np.zeros(scale.shape, np.int32),
            result.view(real.storage), real.core, *where.grid,
        )  # fmt: skip
        return result

    def __getitem__(self, key: Any) -> "MXArray":
        """Slice with integers and slices; of the last axis whole blocks, and never a single element."""
        codes = np.asarray(self.codes[key])
        keys = _check.basic_index("MXArray", key, self.ndim)
        last, length, block = keys[-1], self.shape[-1], self._format.block
        inner = slice(None)
        if last != slice(None):
            start, stop, step = last.indices(length) if isinstance(last, slice) else (0, 0, 0)
            if step != 1 or start % block or (stop % block and stop != length):
                wanted = f"whole blocks of {block} on the last axis"
                raise ValueError(_check.must("MXArray", "index", wanted, _check.typed(last)))
            inner = slice(start // block, -(-stop // block))
        return MXArray._made(codes, self.scales[(*keys[:-1], inner)], self._format, self.tensor_scale)

    def _describe(self) -> list[str]:
        parts = [self.format, f"blocks of {self.block_size}"]
        scale = self.scale
        if scale.size:
            parts.append(f"scale={float(np.nanmin(scale)):.4g}..{float(np.nanmax(scale)):.4g} {scale.shape}"
                         if not np.isnan(scale).all() else f"scale=nan {scale.shape}")  # fmt: skip
        if self.tensor_scale is not None:
            parts.append(f"tensor_scale={float(self.tensor_scale):.4g}")
        return parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MXArray):
            return NotImplemented
        pairs = ((self.codes, other.codes), (self.scales, other.scales))
        return (self.format, self.shape, self.tensor_scale) == (other.format, other.shape, other.tensor_scale) and all(
            np.array_equal(mine.view(np.uint8), its.view(np.uint8)) for mine, its in pairs
        )

    def __reduce__(self) -> Any:
        return _unpickle, (self.codes.view(np.uint8), self.scales.view(np.uint8), self.format, self.tensor_scale)


def _unpickle(codes: Array, scales: Array, name: str, tensor_scale: Any) -> MXArray:
    found = MX_FORMATS[name]
    return MXArray(codes.view(found.element.dtype), scales.view(found.scale.dtype), name, tensor_scale)


def quantize_blocks(owner: str, x: Any, found: MXFormat) -> MXArray:
    """Quantize along the last axis: the scale of each block from its largest magnitude, then the codes."""
    source, real = _args.real(owner, "x", x)
    if source.ndim == 0:
        raise ValueError(_check.must(owner, "x", f"at least 1-D for {found.name}", "a 0-d array"))
    tensor_scale = _tensor_scale(owner, source, found) if found.has_tensor_scale else None
    codes = np.empty(source.shape, np.uint8)
    scales = np.empty(found.scales_shape(source.shape), np.uint8)
    element = found.element
    emax = math.frexp(element.largest)[1] - 1
    _core.quantize_blocks(
        _args.stored(source, real.storage), real.core, math.prod(source.shape[:-1]), source.shape[-1], element.core,
        found.block, emax, element.largest, float(tensor_scale or 0), codes, scales,
    )  # fmt: skip
    return MXArray._made(codes.view(element.dtype), scales.view(found.scale.dtype), found, tensor_scale)


def _tensor_scale(owner: str, source: Array, found: MXFormat) -> np.float32:
    """The scale with which the largest magnitude has the largest code and the largest scale of a block."""
    low, high, _, _ = ranges(owner, source, PerTensor())
    most = max(-float(low), float(high), 0.0) if low <= high else 0.0
    scale = most / (found.element.largest * found.scale.largest)
    if scale > _check.HUGE:
        raise ValueError(_check.must(owner, "x", "of a range that float32 holds", f"{most:g}"))
    return np.float32(max(scale, _check.TINY) if most else 1.0)
