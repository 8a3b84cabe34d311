"""TensorSpec: the description of one array in a file, and the plain tensors that hold it.

A quantized array ``w`` is kept as the plain tensors ``w`` (codes), ``w.scale`` (float32) and ``w.zero_point``, which is
left out where every zero point is the symmetric one. Codes narrower than a byte are packed along the last axis, low
bits first. One JSON text, in safetensors' metadata under "qnumpy" or as the npz entry ``__qnumpy__``, says how to read
them::

    {"format_version": 1, "tensors": {"w": {"dtype": "int4", "shape": [4096, 768],
     "granularity": {"kind": "group", "axis": -1, "group_size": 32}, "qmin": -7, "qmax": 7}}}

An MXArray has its scales, one byte each, as ``w.scale``, that of an NVFP4 tensor as ``w.tensor_scale``, and the name of
its format as "dtype". A file with codes of 6 bits, four of which take three bytes, has format_version 2; in version 1
each took a byte. A plain array whose dtype the container lacks is kept as bytes, with "granularity": null and no
range.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import ml_dtypes
import numpy as np

from .._check import must, typed
from .._packing import pack_rows, unpack_rows
from .._typing import Array, DType, Path
from ..arrays.mx import MXArray, mx_format
from ..arrays.quantized import QuantizedArray
from ..dtypes import CodeType, code_type
from ..granularity import Granularity, PerGroup
from ..qparams import QParams
from .fault import fault, json_object

__all__ = ["FORMAT_VERSION", "TensorSpec"]

FORMAT_VERSION = 2  # the newest

Value: TypeAlias = Array | QuantizedArray | MXArray
Held: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # the plain tensors of a file: dtype and shape

MAX_ELEMENTS = 1 << 62  # of an axis, and bytes of an array
_ML_DTYPES = {
    name: np.dtype(scalar)
    for name, scalar in vars(ml_dtypes).items()
    if isinstance(scalar, type) and issubclass(scalar, np.generic)
}


@dataclass(frozen=True)
class TensorSpec:
    """Description of one array in a file: enough to plan the file before the values are known.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the array, or of the codes of a quantized one.
    shape : tuple of int
    granularity : Granularity, optional
        None for a plain array.
    qmin, qmax : int
        Code range of a quantized array.
    zero_point : bool
        Whether the file holds zero points.
    format : str, optional
        Of an MXArray.
    byte_codes : bool
        Whether each 6-bit code takes a byte, as in format version 1.

    Examples
    --------
    >>> TensorSpec.quantized((4096, 768), "int4", PerGroup(32), symmetric=True).nbytes
    1966080
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    granularity: Granularity | None = None
    qmin: int = 0
    qmax: int = 0
    zero_point: bool = False
    format: str | None = None
    byte_codes: bool = False

    @classmethod
    def of(cls, value: Value) -> Self:
        """Describe an existing array."""
        if isinstance(value, MXArray):
            return cls.blocks(value.shape, value.format)
        if not isinstance(value, QuantizedArray):
            return cls(value.dtype, value.shape)
        p = value.qparams
        return cls(p.code.dtype, value.shape, p.granularity, p.qmin, p.qmax, not p.symmetric)

    @classmethod
    def blocks(cls, shape: tuple[int, ...], format: str) -> Self:
        """Describe the result of ``quantize`` for an array of `shape` in a format of blocks."""
        mx = mx_format(format)
        if mx is None:
            raise ValueError(must("TensorSpec", "format", "the name of an MX format", typed(format)))
        return cls(mx.element.dtype, tuple(shape), PerGroup(mx.group_size), format=mx.name)

    @classmethod
    def quantized(cls, shape: tuple[int, ...], dtype: DType, granularity: Granularity, *, symmetric: bool) -> Self:
        """Describe the result of ``quantize`` for an array of `shape`."""
        code = code_type(dtype)
        if code is None:
            raise TypeError(must("TensorSpec", "dtype", "a code type such as 'int8' or 'uint4'", repr(dtype)))
        qmin = code.symmetric_qmin if symmetric else code.qmin
        return cls(code.dtype, tuple(shape), granularity, qmin, code.qmax, not symmetric)

    @classmethod
    def from_dict(cls, name: str, values: Any, held: Held) -> Self:
        """Read an entry of the schema; there are zero points where the file has a tensor of them."""
        dtype, shape = values["dtype"], values["shape"]
        if not is_shape(shape):
            raise ValueError(f"shape {shape!r} is no list of sizes.")
        shape = tuple(shape)
        if mx_format(dtype) is not None:
            return cls.blocks(shape, dtype)
        code = code_type(dtype)
        if values["granularity"] is None and (code is not None or dtype in _ML_DTYPES):
            return cls(code.dtype if code is not None else _ML_DTYPES[dtype], shape)
        if code is None:
            raise ValueError(f"dtype {dtype!r} is unknown.")
        granularity = Granularity.from_dict(values["granularity"])
        qmin, qmax = values["qmin"], values["qmax"]
        if type(qmin) is not int or type(qmax) is not int:
            raise ValueError(f"qmin and qmax {qmin!r}, {qmax!r} are no integers.")
        return cls(code.dtype, shape, granularity, qmin, qmax, f"{name}.zero_point" in held)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the schema."""
        values: dict[str, Any] = {"dtype": self.format or self.dtype.name, "shape": list(self.shape)}
        if self.granularity is None or self.format is not None:
            return {**values, "granularity": None}
        return {**values, "granularity": self.granularity.to_dict(), "qmin": self.qmin, "qmax": self.qmax}

    @property
    def nbytes(self) -> int:
        """Bytes in a file, scales and zero points included."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.stored("").values())

    def stored(self, name: str) -> Held:
        """Return the plain tensors that hold the array in a file."""
        mx = mx_format(self.format)
        parts: Held = {name: (_stored_dtype(self.dtype), _stored_shape(self.dtype, self.shape))}
        if mx is not None:
            if mx.element.is_packed and not self.byte_codes:
                parts = {name: (np.dtype(np.uint8), mx.element.packed_shape(self.shape))}
            parts[f"{name}.scale"] = (mx.scale.dtype, mx.scales_shape(self.shape))
            if mx.has_tensor_scale:
                parts[f"{name}.tensor_scale"] = (np.dtype("<f4"), ())
        elif self.granularity is not None:
            shape = self.granularity.params_shape(self.shape)
            parts[f"{name}.scale"] = (np.dtype("<f4"), shape)
            if self.zero_point:
                parts[f"{name}.zero_point"] = (_stored_dtype(self.dtype), _stored_shape(self.dtype, shape))
        return parts

    def names(self, name: str) -> list[str]:
        """Return the names that the array reserves; every quantized one reserves that of zero points, used or not."""
        claims = [name] if self.granularity is None else [name, f"{name}.scale", f"{name}.zero_point"]
        return claims + [part for part in self.stored(name) if part not in claims]

    def encode(self, name: str, value: Value) -> Iterator[tuple[str, Array]]:
        """Yield the plain tensors of an array by name."""
        if isinstance(value, MXArray):
            yield name, value._held
            yield f"{name}.scale", value.scales
            if value.tensor_scale is not None:
                yield f"{name}.tensor_scale", np.asarray(value.tensor_scale)
        elif isinstance(value, QuantizedArray):
            yield name, value._held
            yield f"{name}.scale", value.scale
            if self.zero_point:
                yield f"{name}.zero_point", _pack(value.zero_point.astype(self.dtype))
        else:
            yield name, _pack(value)

    def decode(self, name: str, read: Callable[[str], Array]) -> Value:
        """Return the array whose plain tensors `read` returns by name."""
        stored = read(name)
        if self.granularity is None and is_ml_dtype(self.dtype) and _bits(self.dtype) >= 8:
            return stored.view(self.dtype).reshape(self.shape)  # a container without the dtype holds its bytes
        if self.granularity is None:
            return _unpack(stored, self.dtype, self.shape)
        mx = mx_format(self.format)
        if mx is not None:
            scales = read(f"{name}.scale").view(mx.scale.dtype)
            tensor_scale: Any = read(f"{name}.tensor_scale")[()] if mx.has_tensor_scale else None
            if mx.element.is_packed and not self.byte_codes:
                return MXArray._of_rows(stored, self.shape, scales, mx, tensor_scale)
            return MXArray(stored.view(self.dtype), scales, mx.name, tensor_scale)
        code, scale = _code(self.dtype), read(f"{name}.scale")
        zero_point: Any = code.symmetric_zero_point
        if self.zero_point:
            zero_point = _unpack(read(f"{name}.zero_point"), code.dtype, scale.shape).astype(np.int32)
        params = QParams(scale, zero_point, code.dtype, self.granularity, self.qmin, self.qmax)
        if code.is_packed:
            return QuantizedArray._of_rows(stored, self.shape, params)
        return QuantizedArray(stored.view(self.dtype), params)


def is_ml_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is one of ml_dtypes', which NumPy's format cannot name."""
    return dtype.name in _ML_DTYPES


def is_shape(shape: Any) -> bool:
    """Whether a value of JSON is a shape that NumPy takes."""
    if not isinstance(shape, list) or len(shape) > 64:
        return False
    return all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in shape)


def refuse_giant(path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse an empty array whose sizes have a product that no array can have."""
    if dtype.itemsize * math.prod(n for n in shape if n) >= MAX_ELEMENTS:
        raise fault(path, name, f"has a shape too large for an array: {tuple(shape)}.")


# Storage of codes


def _code(dtype: np.dtype[Any]) -> CodeType:
    code = code_type(dtype)
    assert code is not None
    return code


def _bits(dtype: np.dtype[Any]) -> int:
    code = code_type(dtype)
    return code.bits if code else 8 * dtype.itemsize


def _stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    code = code_type(dtype)
    if code is None:
        return dtype
    if code.bits < 8:
        return np.dtype(np.uint8)
    return code.storage if code.real is None else code.dtype


def _stored_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    code = code_type(dtype)
    return shape if code is None else code.packed_shape(shape)


def _pack(array: Array) -> Array:
    """Return the form of an array in a file: packed bytes for codes narrower than a byte, else the array."""
    code = code_type(array.dtype)
    return array if code is None or not code.is_packed else pack_rows(array, code)


def _unpack(stored: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    code = code_type(dtype)
    return stored.reshape(shape) if code is None or not code.is_packed else unpack_rows(stored, code, shape)


# The schema


def write_schema(specs: Mapping[str, TensorSpec], holds: Callable[[np.dtype[Any]], bool]) -> str:
    """Return the JSON text that describes the arrays which are not plain tensors of the container."""
    tensors = {
        name: spec.to_dict() for name, spec in specs.items() if spec.granularity is not None or not holds(spec.dtype)
    }
    version = FORMAT_VERSION if any(_has_six_bits(spec) for spec in specs.values()) else 1
    return json.dumps({"format_version": version, "tensors": tensors}, ensure_ascii=False)


def _has_six_bits(spec: TensorSpec) -> bool:
    mx = mx_format(spec.format)
    return mx is not None and mx.element.bits == 6


def read_schema(path: Path, text: str, held: Held) -> dict[str, TensorSpec]:
    """Return the arrays that the plain tensors of a file stand for, in the order of the file."""
    schema = json_object(path, text, "the qnumpy schema")
    version = schema.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise fault(path, None, f"format_version must be 1 or {FORMAT_VERSION}; got {version!r}.")
    tensors = schema.get("tensors")
    if not isinstance(tensors, dict):
        raise fault(path, None, f"the qnumpy schema must have an object 'tensors'; got {tensors!r}.")
    rest = dict(held)
    specs: dict[str, TensorSpec] = {}
    for name, values in tensors.items():
        try:
            spec = TensorSpec.from_dict(name, values, held)
            spec = replace(spec, byte_codes=version == 1 and _has_six_bits(spec))
            stored = spec.stored(name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise fault(path, name, f": the qnumpy schema is wrong: {error}") from error
        for part, (dtype, shape) in stored.items():
            if part not in rest:
                raise fault(path, part, "is in the qnumpy schema and not in the file.")
            held_dtype, held_shape = rest.pop(part)
            same_dtype = held_dtype == dtype or (is_ml_dtype(dtype) and held_dtype.itemsize == dtype.itemsize)
            if held_shape != shape or not same_dtype:
                got = f"got {held_dtype} {held_shape}."
                raise fault(path, part, f"must be {dtype} {shape} by the qnumpy schema; {got}")
        specs[name] = spec
    return {name: specs.get(name) or TensorSpec(*held[name]) for name in held if name in specs or name in rest}
