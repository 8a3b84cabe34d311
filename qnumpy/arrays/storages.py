"""The storages of a PackedWeight: which class packs which weight."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from .. import _args, _check
from .._typing import Array, Float32Array, Int32Array
from ..dtypes import CODE_TYPES, INTEGER_TYPES, CodeType, float_type
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor, normalize_axis
from ..ops.output import Output
from ..ops.packed_columns import Activations, PackedColumns
from ..ops.packed_float import PackedFloat
from ..ops.packed_groups import GROUP_SIZES, PackedGroups
from ..qparams import QParams
from .codebook import CodebookArray
from .mx import MX_FORMATS, MXArray
from .offset import OffsetArray
from .quantized import QuantizedArray

__all__ = [
    "BlockWeight",
    "BookWeight",
    "OffsetWeight",
    "Storage",
    "Weight",
    "is_of_floats",
    "other_axis",
    "pack_floats",
    "pack_offsets",
    "pack_weight",
]

_CODES = [name for name, code in INTEGER_TYPES.items() if code.bits <= 8]
_FLOAT_CODES = tuple(name for name, code in CODE_TYPES.items() if code.real is not None)
_HALF = np.finfo(np.float16)
_WIDTHS = (2, 4, 8)  # of stored codes; others take the next wider one, whose products are as exact
_PER_COLUMN = (PerTensor(), PerChannel(1), PerChannel(-1))


class Storage(Protocol):
    """The codes and scales of a weight as the kernels read them, and its products.

    Attributes
    ----------
    quantizes : bool
        Whether x is quantized to 8-bit codes. If not, x stays float32, `multiply` does not read its `activations`, and
        `multiply_codes` is never called.
    column_scale : ndarray of float32 or None
        The scale of each column if its sums are integers, from which an output stage can make codes.
    """

    @property
    def quantizes(self) -> bool: ...

    @property
    def column_scale(self) -> Float32Array | None: ...

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""

    def codes(self) -> Array:
        """Return the codes as they were packed, (K, N)."""

    def parameters(self) -> tuple[Float32Array, Int32Array]:
        """Return the scales and zero points as they were packed."""

    def multiply(self, x: Float32Array, rows: int, activations: Activations, output: Output, out: Array) -> bool:
        """Fill `out` with the product of real rows and the weight; return whether every sum fits."""

    def multiply_codes(
        self, x: Array, core: int, rows: int, scale: Float32Array, zero_point: Int32Array, output: Output, out: Array
    ) -> bool:
        """Fill `out` with the product of rows of codes and the weight; return whether every sum fits."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A packed weight: the storage, and what `unpack` needs beside it."""

    storage: Storage
    shape: tuple[int, int]
    code: CodeType
    limits: tuple[int, int]  # qmin and qmax
    granularity: Granularity
    scale_dtype: str

    @property
    def qparams(self) -> QParams:
        return QParams(*self.storage.parameters(), self.code.name, self.granularity, *self.limits)

    @property
    def axis(self) -> int:
        """That of K in the array that `unpack` returns."""
        return 0

    def describe(self) -> str:
        return f"{self.code.name} {self.granularity.describe()}"

    def unpack(self) -> QuantizedArray:
        """Return the weight as (K, N)."""
        return QuantizedArray(self.storage.codes().view(self.code.dtype), self.qparams)


def pack_weight(owner: str, name: str, w: Any, axis: Any, scale_dtype: Any) -> Weight:
    """Check a weight and pack it: one branch for each storage.

    `axis` is the axis of K; None where the function has no such parameter.
    """
    if not isinstance(w, QuantizedArray):
        raise TypeError(
            _check.must(
                owner,
                name,
                "a QuantizedArray" if axis is None else "a QuantizedArray, MXArray, CodebookArray or OffsetArray",
                _check.typed(w),
            )
        )
    if w.ndim != 2:
        raise ValueError(_check.must(owner, name, "2-D", f"shape {w.shape}"))
    codes, params = _oriented(w, 0 if axis is None else normalize_axis(owner, _check.integer(owner, "axis", axis), 2))
    group_size = _group_size(owner, name, params, axis)
    scale_name = _scale_dtype(owner, scale_dtype, group_size)
    half = scale_name == "float16"
    params = _of_half_scales(owner, name, params) if half else params
    code, scale, zero = params.code, params.scale, params.zero_point
    plain = _args.plain(codes, code)
    bits = next(width for width in _WIDTHS if width >= code.bits)
    storage: Storage
    if group_size is None:
        storage = PackedColumns(plain, bits, scale, zero)
    else:
        middle = params.symmetric and (code.signed or bits == code.bits)  # of the codes that the kernels store
        storage = PackedGroups(plain, bits, scale, None if middle else zero, group_size, half)
    return Weight(storage, codes.shape, code, (params.qmin, params.qmax), params.granularity, scale_name)


def _oriented(w: QuantizedArray, axis: int) -> tuple[Array, QParams]:
    """Return the codes as (K, N) and their parameters."""
    params, order = w.qparams, (1, 0)
    if axis == 0:
        return w.codes, params
    granularity = PerChannel(0) if isinstance(params.granularity, PerRow) else params.granularity
    scale, zero = granularity.permute(params.scale, order), granularity.permute(params.zero_point, order)
    transposed = granularity.permuted(order, w.shape)
    return w.codes.T, replace(params, scale=scale, zero_point=zero, granularity=transposed)


def _group_size(owner: str, name: str, params: QParams, axis: Any) -> int | None:
    """Return the size of the groups along K, None without groups."""
    granularity = params.granularity
    grouped = isinstance(granularity, PerGroup)
    along_k = granularity.axis is not None and granularity.axis % 2 == 0
    if params.code.name not in _CODES:
        names = _CODES if axis is None else (*_CODES, *_FLOAT_CODES)
        raise TypeError(_check.must(owner, name, f"of {_check.alternatives(names)}", params.code.name))
    if granularity in _PER_COLUMN:
        return None
    if grouped and along_k and granularity.group_size in GROUP_SIZES:
        return granularity.group_size
    sizes = _check.alternatives(map(str, GROUP_SIZES))
    requirement = f"quantized per tensor, per channel on the axis of N, or in groups of {sizes} along K"
    swapped = not along_k and granularity.group_size in GROUP_SIZES if grouped else True
    hint = other_axis(axis) if swapped else ""
    raise ValueError(_check.must(owner, name, requirement, _as_typed(granularity, axis)) + hint)


def _as_typed(granularity: Granularity, axis: Any) -> str:
    """Describe the granularity on the axes of the array that the user passed, not on those of (K, N)."""
    return granularity.permuted((1, 0), (1, 1)).describe() if axis in (1, -1) else granularity.describe()


def other_axis(axis: Any) -> str:
    """Return the sentence for a weight whose axes seem to be swapped; `axis` is that of K, None without a parameter."""
    if axis is None:
        return " Use b.T if b is of shape (N, K), as PyTorch stores weights."
    if axis % 2 == 0:
        return " Use axis=1 if w is of shape (N, K), as PyTorch stores weights."
    return " Use axis=0 if w is of shape (K, N)."


def _scale_dtype(owner: str, value: Any, group_size: int | None) -> str:
    """Return the name of the type of the scales of groups."""
    scale_type = float_type(value)
    name = value if scale_type is None else scale_type.name
    _args.choice(owner, "scale_dtype", name, {"float32": 0, "float16": 1})
    if name == "float16" and group_size is None:
        raise ValueError(_check.must(owner, "scale_dtype", "float32 unless w is in groups", name))
    return str(name)


def _of_half_scales(owner: str, name: str, params: QParams) -> QParams:
    """Return the parameters with scales rounded to float16, half to even."""
    with np.errstate(over="ignore", under="ignore"):
        scales = params.scale.astype(np.float16)
    if not ((scales >= _HALF.smallest_normal) & np.isfinite(scales)).all():
        got = f"{params.scale.min():g} to {params.scale.max():g}"
        raise ValueError(_check.must(owner, name, "of scales that float16 holds", got))
    return replace(params, scale=scales.astype(np.float32))


# ---- weights with offsets ----


@dataclass(frozen=True, slots=True)
class OffsetWeight:
    """A packed OffsetArray."""

    storage: PackedGroups
    shape: tuple[int, int]
    granularity: Granularity  # of the weight as (K, N)
    code: CodeType
    scale: Float32Array  # these two have the axes of the array that `unpack` returns
    offset: Float32Array
    axis: int  # that of K in it

    scale_dtype: ClassVar[str] = "float32"
    qparams: ClassVar[None] = None

    def unpack(self) -> OffsetArray:
        """Return the weight with the axes that it had."""
        codes, granularity = self.storage.codes(), self.granularity
        if self.axis:
            codes, granularity = codes.T, granularity.permuted((1, 0), self.shape)
        plain = np.ascontiguousarray(codes).view(self.code.dtype)
        return OffsetArray(plain, self.scale, self.offset, granularity, dtype=self.code.name)

    def describe(self) -> str:
        return f"{self.code.name} with offsets {self.granularity.describe()}"


def pack_offsets(owner: str, name: str, w: OffsetArray, axis: Any, scale_dtype: Any) -> OffsetWeight:
    """Check a weight with offsets and pack it. `axis` is the axis of K."""
    if w.ndim != 2:
        raise ValueError(_check.must(owner, name, "2-D", f"shape {w.shape}"))
    k_axis = normalize_axis(owner, _check.integer(owner, "axis", axis), 2)
    own, size = w.granularity, w.granularity.group_size
    if not isinstance(own, PerGroup) or own.axis % 2 != k_axis or size not in GROUP_SIZES:
        requirement = f"in groups of {_check.alternatives(map(str, GROUP_SIZES))} along K"
        raise ValueError(_check.must(owner, name, requirement, own.describe()))
    if _scale_dtype(owner, scale_dtype, size) != "float32":
        raise ValueError(_check.must(owner, "scale_dtype", "float32 for a weight with offsets", "float16"))
    code = w._code
    codes, scale, offset, granularity = _args.plain(w.codes, code), w.scale, w.offset, w.granularity
    if k_axis:
        codes, scale, offset, granularity = codes.T, scale.T, offset.T, granularity.permuted((1, 0), w.shape)
    bits, middle = next(width for width in _WIDTHS if width >= code.bits), code.symmetric_zero_point
    zero = None if code.signed or bits == code.bits else np.full(scale.shape, middle, np.int32)
    moved = np.ascontiguousarray((offset + scale.astype(np.float64) * middle).astype(np.float32))
    storage = PackedGroups(np.ascontiguousarray(codes), bits, scale, zero, size, False, moved)
    return OffsetWeight(storage, codes.shape, granularity, code, w.scale, w.offset, k_axis)


# ---- weights of floats, with which x stays float32 ----


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A packed MXArray."""

    storage: PackedFloat
    shape: tuple[int, int]
    format: str
    tensor_scale: np.float32 | None

    axis: ClassVar[int] = 1
    scale_dtype: ClassVar[str] = "float32"
    qparams: ClassVar[None] = None

    def unpack(self) -> MXArray:
        """Return the weight as (N, K), since blocks lie along the last axis."""
        codes, scales = (np.ascontiguousarray(part.T) for part in (self.storage.codes(), self.storage.scale()))
        mx = MX_FORMATS[self.format]
        return MXArray(codes.view(mx.element.dtype), scales, mx.name, self.tensor_scale)

    def describe(self) -> str:
        return self.format


@dataclass(frozen=True, slots=True)
class BookWeight:
    """A packed CodebookArray."""

    storage: PackedFloat
    shape: tuple[int, int]
    axis: int  # that of K in the array that `unpack` returns
    granularity: Granularity
    scale_granularity: Granularity | None

    scale_dtype: ClassVar[str] = "float32"
    qparams: ClassVar[None] = None

    def unpack(self) -> CodebookArray:
        """Return the weight with the axes that it had."""
        codes, scale, tables = self.storage.codes(), self.storage.scale(), self.storage.levels
        assert tables is not None
        if self.axis:
            codes, scale = codes.T, scale.T
        if self.scale_granularity is None:
            return CodebookArray(np.ascontiguousarray(codes), tables, self.granularity)
        return CodebookArray(
            np.ascontiguousarray(codes), tables, self.granularity, scale=scale.copy(),
            scale_granularity=self.scale_granularity,
        )  # fmt: skip

    def describe(self) -> str:
        tables = self.storage.levels
        assert tables is not None
        scales = "" if self.scale_granularity is None else f", scale {self.scale_granularity.describe()}"
        return f"{tables.shape[-1]} levels {self.granularity.describe()}{scales}"


def is_of_floats(w: Any) -> bool:
    """Return whether a weight has codes that are floats or stand for them."""
    return isinstance(w, MXArray | CodebookArray) or (isinstance(w, QuantizedArray) and w.qparams.code.real is not None)


def pack_floats(
    owner: str, name: str, w: QuantizedArray | MXArray | CodebookArray, axis: Any, scale_dtype: Any
) -> Weight | BlockWeight | BookWeight:
    """Check a weight of floats and pack it. `axis` is the axis of K."""
    if w.ndim != 2:
        raise ValueError(_check.must(owner, name, "2-D", f"shape {w.shape}"))
    k_axis = normalize_axis(owner, _check.integer(owner, "axis", axis), 2)
    weight: Weight | BlockWeight | BookWeight
    if isinstance(w, CodebookArray):
        weight = _pack_book(owner, name, w, axis, k_axis)
    elif isinstance(w, MXArray):
        weight = _pack_blocks(owner, w, k_axis)
    else:
        weight = _pack_floats(owner, name, w, axis, k_axis)
    if _scale_dtype(owner, scale_dtype, 1) != "float32":
        raise ValueError(_check.must(owner, "scale_dtype", "float32 for a weight of floats", "float16"))
    return weight


def _pack_floats(owner: str, name: str, w: QuantizedArray, axis: Any, k_axis: int) -> Weight:
    codes, params = _oriented(w, k_axis)
    granularity, code = params.granularity, params.code
    assert code.real is not None
    size = codes.shape[0]
    if isinstance(granularity, PerGroup) and granularity.axis % 2 == 0:
        size = granularity.group_size
    elif granularity not in _PER_COLUMN:
        requirement = "quantized per tensor, per channel on the axis of N, or in groups along K"
        raise ValueError(_check.must(owner, name, requirement, _as_typed(granularity, axis)) + other_axis(axis))
    storage = PackedFloat(_bytes(codes), code.real, params.scale, size)
    return Weight(storage, codes.shape, code, (params.qmin, params.qmax), granularity, "float32")


def _pack_blocks(owner: str, w: MXArray, k_axis: int) -> BlockWeight:
    if k_axis != 1:
        requirement = "1 for an MXArray, whose blocks lie along its last axis"
        raise ValueError(_check.must(owner, "axis", requirement, str(k_axis)) + " Pass the weight as (N, K).")
    n, k = w.shape
    tensor_scale = 1.0 if w.tensor_scale is None else float(w.tensor_scale)
    storage = PackedFloat(_bytes(w.codes.T), w.element, w.scales.T, w.group_size, tensor_scale)
    return BlockWeight(storage, (k, n), w.format, w.tensor_scale)


def _pack_book(owner: str, name: str, w: CodebookArray, axis: Any, k_axis: int) -> BookWeight:
    def each_column(granularity: Granularity) -> bool:
        rows = isinstance(granularity, PerRow) and k_axis == 1
        return rows or (isinstance(granularity, PerChannel) and granularity.axis % 2 != k_axis)

    granularity, shared, scale = w.granularity, w.scale_granularity, w.scale
    if not (isinstance(granularity, PerTensor) or each_column(granularity)):
        requirement = "of one table of levels, or one for each channel on the axis of N"
        raise ValueError(_check.must(owner, name, requirement, granularity.describe()) + other_axis(axis))
    size = w.shape[k_axis]
    if scale is None or shared is None:
        scale = np.ones((), np.float32)
    elif isinstance(shared, PerGroup) and shared.axis % 2 == k_axis:
        size, scale = shared.group_size, scale.T if k_axis else scale
    elif not (isinstance(shared, PerTensor) or each_column(shared)):
        requirement = "of scales per tensor, per channel on the axis of N, or in groups along K"
        raise ValueError(_check.must(owner, name, requirement, shared.describe()) + other_axis(axis))
    codes = w.codes.T if k_axis else w.codes
    element = CODE_TYPES["uint4" if w.levels <= 16 else "uint8"]
    storage = PackedFloat(_bytes(codes), element, scale, size, levels=w.codebook)
    return BookWeight(storage, codes.shape, k_axis, granularity, shared)


def _bytes(codes: Array) -> Array:
    return np.ascontiguousarray(codes).view(np.uint8)
