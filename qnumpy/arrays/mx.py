"""MXArray: narrow floats in blocks that share a scale, after the OCP Microscaling Formats specification; and NVFP4."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _args, _check
from .._index import Index
from .._packing import clean_rows
from .._typing import Array, BlockFormat, DType, Float32Array, RealLike, ScaleLike
from ..dtypes import FLOAT_TYPES, FloatType
from ..granularity import Mesh, PerGroup, PerTensor, groups_of_index
from ..ops import blocks
from ..ops.reduce import extremes
from .base import CodedArray

__all__ = ["MX_FORMATS", "MXArray", "MXFormat", "mx_format", "quantize_blocks"]


@dataclass(frozen=True)
class MXFormat:
    """The element type of a block, how many elements share a scale, and the type of the scale.

    Attributes
    ----------
    name : str
        ``"mxfp4"``, ``"nvfp4"``, ...
    element, scale : FloatType
        float8_e8m0fnu scales are powers of two; float8_e4m3fn scales are multiplied by a float32 scale of the tensor.
    group_size : int
        Neighbours along the last axis that share a scale.
    """

    name: str
    element: FloatType
    group_size: int
    scale: FloatType

    @property
    def has_tensor_scale(self) -> bool:
        return self.scale.kind != "SCALE"

    def scales_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that the scales have for an array of `shape`."""
        return PerGroup(self.group_size).params_shape(shape)


def _format(name: str, element: str, group_size: int = 32, scale: str = "float8_e8m0fnu") -> MXFormat:
    return MXFormat(name, FLOAT_TYPES[element], group_size, FLOAT_TYPES[scale])


MX_FORMATS = {
    mx.name: mx
    for mx in (
        _format("mxfp8_e4m3", "float8_e4m3fn"),
        _format("mxfp8_e5m2", "float8_e5m2"),
        _format("mxfp6_e2m3", "float6_e2m3fn"),
        _format("mxfp6_e3m2", "float6_e3m2fn"),
        _format("mxfp4", "float4_e2m1fn"),
        _format("nvfp4", "float4_e2m1fn", 16, "float8_e4m3fn"),
    )
}


def mx_format(dtype: Any) -> MXFormat | None:
    """Return the format of a name, None for anything else.

    Examples
    --------
    >>> mx_format("mxfp4").group_size
    32
    """
    return MX_FORMATS.get(dtype) if isinstance(dtype, str) else None


class MXArray(CodedArray):
    """Codes of narrow floats and one scale for each block; ``quantize(x, dtype="mxfp4")`` returns one.

    ``x = scale * code``. In the MX formats 32 neighbours along the last axis share a scale, which is a power of two
    (float8_e8m0fnu). In NVFP4 16 neighbours share one, the product of a float8_e4m3fn and of a float32 for the whole
    tensor. The last block of a row may be short. `quantize` clips float64 numbers to the
    range of float32; for NVFP4, whose tensor scale follows from the largest magnitude, they raise ValueError.

    Parameters
    ----------
    codes : ndarray of the element type, at least 1-D
        float8_e4m3fn, float8_e5m2, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn of ml_dtypes.
    scales : ndarray of float8_e8m0fnu, or of float8_e4m3fn for NVFP4
        Of the shape of `codes` with the last axis divided by the group size, rounded up.
    format : str
        "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4" or "nvfp4".
    tensor_scale : float, optional
        Required for NVFP4, and left out for the others: positive, finite, normal in float32.

    Raises
    ------
    ValueError
        format is unknown.
    TypeError
        codes or scales are of another dtype.
    ValueError
        codes are 0-d, scales are of another shape, or tensor_scale is missing, superfluous or not a scale.

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, sections 5 and 6.3.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> q = quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), dtype="mxfp4")
    >>> q
    MXArray((2, 64), mxfp4, blocks of 32, scale=0.0625..0.25 (2, 2))
    [[-1.     -1.     -1.     ... -0.0312 -0.0312 -0.    ]
     [ 0.      0.0312  0.0312 ...  1.      1.      1.    ]]
    >>> q.codes.dtype, q.scales.dtype, q.nbytes
    (dtype(float4_e2m1fn), dtype(float8_e8m0fnu), 68)
    """

    __slots__ = ("_format", "scales", "tensor_scale")
    _type_label = "format"

    scales: Array
    tensor_scale: np.float32 | None

    def __init__(
        self, codes: Array, scales: Array, format: BlockFormat | str, tensor_scale: ScaleLike | None = None
    ) -> None:
        owner = "MXArray"
        mx = mx_format(format)
        if mx is None:
            raise ValueError(_check.must(owner, "format", _check.alternatives(MX_FORMATS), _check.typed(format)))
        arrays = []
        for name, value, float_type in (("codes", codes, mx.element), ("scales", scales, mx.scale)):
            array = _check.array(owner, name, value)
            if array.dtype != float_type.dtype:
                raise TypeError(_check.must(owner, name, f"an array of {float_type.name}", f"dtype {array.dtype}"))
            arrays.append(array)
        element_codes, self.scales = arrays
        if element_codes.ndim == 0:
            raise ValueError(_check.must(owner, "codes", "at least 1-D", "a 0-d array"))
        shape = mx.scales_shape(element_codes.shape)
        if self.scales.shape != shape:
            raise ValueError(_check.must(owner, "scales", f"of shape {shape}", f"shape {self.scales.shape}"))
        if (tensor_scale is None) == mx.has_tensor_scale:
            requirement = "given for nvfp4" if mx.has_tensor_scale else f"left out for {mx.name}"
            raise ValueError(_check.must(owner, "tensor_scale", requirement, _check.typed(tensor_scale)))
        scale = None if tensor_scale is None else _check.scale(owner, "tensor_scale", tensor_scale)
        if scale is not None and scale.ndim:
            raise ValueError(_check.must(owner, "tensor_scale", "one number", f"shape {scale.shape}"))
        self.tensor_scale = None if scale is None else np.float32(scale)
        self._format = mx
        self._hold(element_codes)

    @classmethod
    def _of_held(
        cls, held: Array, shape: tuple[int, ...], scales: Array, format: MXFormat, tensor_scale: np.float32 | None
    ) -> "MXArray":
        """Make an array of what another one held: codes, or rows of packed bytes; and of checked scales."""
        array = object.__new__(cls)
        array._memory, array._shape, array.scales = (held, None), shape, scales
        array._format, array.tensor_scale = format, tensor_scale
        return array

    @classmethod
    def _of_rows(
        cls, rows: Array, shape: tuple[int, ...], scales: Array, format: MXFormat, tensor_scale: np.float32 | None
    ) -> "MXArray":
        """Make an array of rows of packed bytes that a file holds, and of its scales; check the scales."""
        empty = np.empty((0,), format.element.dtype)
        tensor_scale = MXArray(empty, scales.reshape(-1)[:0], format.name, tensor_scale).tensor_scale
        return cls._of_held(clean_rows(rows, format.element, shape), shape, scales, format, tensor_scale)

    @property
    def _code(self) -> FloatType:
        return self._format.element

    @property
    def format(self) -> str:
        """Name of the format."""
        return self._format.name

    @property
    def group_size(self) -> int:
        """Neighbours along the last axis that share a scale: the elements of a block."""
        return self._format.group_size

    @property
    def granularity(self) -> PerGroup:
        """The blocks as groups of the last axis."""
        return PerGroup(self._format.group_size)

    @property
    def element(self) -> FloatType:
        """The type of the codes."""
        return self._format.element

    @property
    def levels(self) -> int:
        """The number of codes of the type."""
        return 1 << self._format.element.bits

    @property
    def scale(self) -> Float32Array:
        """The scale of each block as float32; for NVFP4 times tensor_scale, rounded half to even."""
        scales = self.scales.astype(np.float32)
        return scales if self.tensor_scale is None else scales * self.tensor_scale

    @property
    def nbytes(self) -> int:
        """Bytes in memory and in a file: codes at their bit width, row by row, and scales."""
        tensor_scale = 0 if self.tensor_scale is None else 4
        return self._code.packed_nbytes(self._shape) + self.scales.nbytes + tensor_scale

    def dequantize(self, dtype: DType = "float32", out: Array | None = None) -> Array:
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
            Exact in float32 for MX formats; for NVFP4 one multiplication, rounded half to even. Other dtypes are
            converted from that value and rounded half to even. A block whose scale is NaN is NaN.
        """
        return self._reals("MXArray.dequantize", dtype, out)

    def _reals(self, owner: str, dtype: DType, out: Array | None) -> Array:
        return blocks.dequantize_blocks(
            owner, self._held, self._code, self._shape, self.scale, self.group_size, dtype, out
        )

    def _reals_at(self, codes: Array, mesh: Mesh) -> Array:
        scale = self.granularity.at(self.scales, mesh).astype(np.float32)
        if self.tensor_scale is not None:
            scale = scale * self.tensor_scale
        return np.asarray(codes.astype(np.float32) * scale)

    def _remade(self, held: Array, shape: tuple[int, ...], params: Array) -> "MXArray":
        return self._of_held(held, shape, params, self._format, self.tensor_scale)

    def _params_of_index(self, index: Index) -> Array:
        owner, last = "MXArray", len(index.source) - 1
        if groups_of_index(index, last, self.group_size) is None:
            requirement = f"whole blocks of {self.group_size} on the last axis"
            raise ValueError(_check.must(owner, "index", requirement, _check.typed(index.key(last))))
        granularity, (scales,) = self.granularity.sliced(owner, index, self.scales)
        if granularity != self.granularity:
            requirement = "such that the axis of the blocks stays last"
            raise ValueError(_check.must(owner, "index", requirement, "new axes behind it"))
        return scales

    def _params_of_order(self, order: tuple[int, ...]) -> Array:
        if order[-1] != len(order) - 1:
            requirement = "such that the last axis, that of the blocks, stays last"
            raise ValueError(_check.must("MXArray.transpose", "axes", requirement, str(order)))
        return self.scales.transpose(order)

    def _params_of_shape(self, shape: tuple[int, ...]) -> Array | None:
        granularity = self.granularity.reshaped(self._shape, shape)
        if granularity != self.granularity:
            return None
        return self.scales.reshape(self._format.scales_shape(shape))

    def _copied_params(self) -> Array:
        return self.scales.copy()

    def _describe(self) -> list[str]:
        parts = [self.format, f"blocks of {self.group_size}"]
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
        return (
            (self.format, self.tensor_scale) == (other.format, other.tensor_scale)
            and self._same_codes(other)
            and np.array_equal(self.scales.view(np.uint8), other.scales.view(np.uint8))
        )

    def __reduce__(self) -> Any:
        held = self._held.view(np.uint8)
        return _unpickle_held, (held, self._shape, self.scales.view(np.uint8), self.format, self.tensor_scale)


def _unpickle_held(
    held: Array, shape: tuple[int, ...], scales: Array, name: BlockFormat, tensor_scale: np.float32 | None
) -> MXArray:
    mx = MX_FORMATS[name]
    scales = scales.view(mx.scale.dtype)
    if mx.element.is_packed:
        return MXArray._of_rows(held, shape, scales, mx, tensor_scale)
    return MXArray(held.view(mx.element.dtype), scales, name, tensor_scale)


def _unpickle(codes: Array, scales: Array, name: BlockFormat, tensor_scale: np.float32 | None) -> MXArray:
    """Read a pickle of version 0.1.0, which has one code to a byte."""
    mx = MX_FORMATS[name]
    return MXArray(codes.view(mx.element.dtype), scales.view(mx.scale.dtype), name, tensor_scale)


def quantize_blocks(owner: str, x: RealLike, format: MXFormat) -> MXArray:
    """Quantize in blocks along the last axis; the largest magnitude of a block determines its scale."""
    source, float_type = _args.real(owner, "x", x)
    if source.ndim == 0:
        raise ValueError(_check.must(owner, "x", f"at least 1-D for {format.name}", "a 0-d array"))
    tensor_scale = _tensor_scale(owner, source, float_type, format) if format.has_tensor_scale else None
    held, scales = blocks.quantize_blocks(
        source, float_type, format.element, format.scale, format.group_size, tensor_scale
    )
    return MXArray._of_held(held, source.shape, scales, format, tensor_scale)


def _tensor_scale(owner: str, source: Array, float_type: FloatType, format: MXFormat) -> np.float32:
    """Return the scale that maps the largest magnitude to the largest code times the largest scale of a block."""
    low, high, _, _ = extremes(source, float_type, PerTensor())
    largest = max(-float(low), float(high), 0.0) if low <= high else 0.0
    scale = largest / (format.element.largest * format.scale.largest)
    if scale > _check.HUGE:
        raise ValueError(_check.must(owner, "x", "of a range that float32 holds", f"{largest:g}"))
    return np.float32(max(scale, _check.TINY) if largest else 1.0)
