"""Files: dictionaries of arrays and quantized arrays in .npz and .safetensors, one tensor at a time.

A quantized array ``w`` is kept as the plain tensors ``w`` (codes), ``w.scale`` (float32) and ``w.zero_point``, which is
left out where every zero point is the symmetric one. Codes narrower than a byte are packed along the last axis, low
bits first. One JSON text, in safetensors' metadata under "qnumpy" or as the npz entry ``__qnumpy__``, says how to read
them::

    {"format_version": 1, "tensors": {"w": {"dtype": "int4", "shape": [4096, 768],
     "granularity": {"kind": "group", "group_size": 32, "axis": -1}, "qmin": -7, "qmax": 7}}}

An MXArray has its scales, one byte each, as ``w.scale``, that of an NVFP4 tensor as ``w.tensor_scale``, and the name of
its format as "dtype". A plain array whose dtype the container lacks is kept as bytes, with "granularity": null and no
range.
"""

import contextlib
import errno
import json
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol, Self, TypeAlias

import ml_dtypes
import numpy as np

from .._check import must, typed
from ..arrays.mx import MXArray, mx_format
from ..arrays.quantized import QuantizedArray
from ..dtypes import code_type
from ..errors import FileFormatError
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor
from ..ops.pack import pack, unpack
from ..qparams import QParams
from .qparams import beside, keep_mode

__all__ = ["FORMAT_VERSION", "Reader", "TensorSpec", "Writer", "load", "save"]

FORMAT_VERSION = 1

Array: TypeAlias = np.ndarray[Any, Any]
Path: TypeAlias = str | os.PathLike[str]
Value: TypeAlias = Array | QuantizedArray | MXArray
Stored: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # what a container holds: name -> dtype, shape

_SCHEMA_ENTRY = "__qnumpy__"  # in an npz
_SCHEMA_KEY = "qnumpy"  # in the metadata of a safetensors file
_RESERVED = (_SCHEMA_ENTRY, "__metadata__")
_SAFETENSORS = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
_SAFETENSORS_CODE = {dtype.name: code for code, dtype in _SAFETENSORS.items()}
_OWN = {
    name: np.dtype(kind)
    for name, kind in vars(ml_dtypes).items()
    if isinstance(kind, type) and issubclass(kind, np.generic)
}
_MAX_HEADER = 100_000_000  # bytes, the limit that readers of safetensors share


# What a tensor is, before it is there


@dataclass(frozen=True)
class TensorSpec:
    """What a file says of one array: enough to plan the file before the values are known.

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

    @classmethod
    def of(cls, value: Value) -> Self:
        """Describe an array that is there."""
        if isinstance(value, MXArray):
            return cls.blocks(value.shape, value.format)
        if not isinstance(value, QuantizedArray):
            return cls(value.dtype, value.shape)
        p = value.qparams
        return cls(p.code.dtype, value.shape, p.granularity, p.qmin, p.qmax, not p.symmetric)

    @classmethod
    def blocks(cls, shape: tuple[int, ...], format: str) -> Self:
        """Describe what ``quantize`` will make of an array of `shape` in a format of blocks."""
        found = mx_format(format)
        assert found is not None
        return cls(found.element.dtype, tuple(shape), PerGroup(found.block), format=found.name)

    @classmethod
    def quantized(cls, shape: tuple[int, ...], dtype: Any, granularity: Granularity, *, symmetric: bool) -> Self:
        """Describe what ``quantize`` will make of an array of `shape`."""
        code = code_type(dtype)
        if code is None:
            raise TypeError(f"TensorSpec: dtype must be a code type such as 'int8' or 'uint4'; got {dtype!r}.")
        qmin = code.symmetric_qmin if symmetric else code.qmin
        return cls(code.dtype, tuple(shape), granularity, qmin, code.qmax, not symmetric)

    @property
    def nbytes(self) -> int:
        """Bytes in a file, scales and zero points included."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.stored("").values())

    def stored(self, name: str) -> Stored:
        """Return the plain tensors that hold the array in a file."""
        parts: Stored = {name: (_stored_dtype(self.dtype), _stored_shape(self.dtype, self.shape))}
        found = mx_format(self.format)
        if found is not None:
            parts[f"{name}.scale"] = (found.scale.dtype, found.scales_shape(self.shape))
            if found.has_tensor_scale:
                parts[f"{name}.tensor_scale"] = (np.dtype("<f4"), ())
        elif self.granularity is not None:
            shape = self.granularity.params_shape(self.shape)
            parts[f"{name}.scale"] = (np.dtype("<f4"), shape)
            if self.zero_point:
                parts[f"{name}.zero_point"] = (_stored_dtype(self.dtype), _stored_shape(self.dtype, shape))
        return parts


def _own(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is one of ml_dtypes' own, which NumPy's format cannot name."""
    return dtype.name in _OWN


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


def _encode(array: Array) -> Array:
    """Return what a file holds of `array`: packed bytes for narrow codes, else the array."""
    if _bits(array.dtype) >= 8:
        return array
    return pack(array.reshape(array.shape or (1,)).view(_as_integers(array.dtype)), _as_integers(array.dtype), axis=-1)


def _decode(stored: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if _bits(dtype) < 8:
        stored = unpack(stored, _as_integers(dtype), shape[-1] if shape else 1, axis=-1).view(dtype)
    return stored.reshape(shape)


def _as_integers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Codes of 4 bits that are floats are packed as the integers of the same bits."""
    code = code_type(dtype)
    return np.dtype(ml_dtypes.uint4) if code is not None and code.real is not None else dtype


# The schema


def _schema(specs: Mapping[str, TensorSpec], holds: Callable[[np.dtype[Any]], bool]) -> str:
    """Write the JSON text for the tensors that are not kept as they are."""
    tensors: dict[str, Any] = {}
    for name, spec in specs.items():
        about: dict[str, Any] = {
            "dtype": spec.format or spec.dtype.name,
            "shape": list(spec.shape),
            "granularity": None,
        }
        if spec.granularity is not None and spec.format is None:
            axis, group = spec.granularity.axis_block
            kind = "tensor" if axis is None else "channel" if group is None else "group"
            given = {"kind": kind, "group_size": group, "axis": axis}
            about["granularity"] = {key: value for key, value in given.items() if value is not None}
            about |= {"qmin": spec.qmin, "qmax": spec.qmax}
        elif spec.format is None and holds(spec.dtype):
            continue
        tensors[name] = about
    return json.dumps({"format_version": FORMAT_VERSION, "tensors": tensors}, ensure_ascii=False)


def _read_schema(path: Path, text: str, held: Stored) -> dict[str, TensorSpec]:
    """Turn the plain tensors of a file into the arrays they stand for."""
    schema = _json(path, text, "the qnumpy schema")
    version = schema.get("format_version")
    if version != FORMAT_VERSION:
        raise FileFormatError(f"{path}: format_version must be {FORMAT_VERSION}; got {version!r}.")
    tensors = schema.get("tensors")
    if not isinstance(tensors, dict):
        raise FileFormatError(f"{path}: the qnumpy schema must have an object 'tensors'; got {tensors!r}.")
    rest = dict(held)
    found: dict[str, TensorSpec] = {}
    for name, about in tensors.items():
        try:
            spec = _read_spec(name, about, held)
            stored = spec.stored(name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{path}: tensor {name!r}: the qnumpy schema is wrong: {error}") from error
        for part, (dtype, shape) in stored.items():
            if part not in rest:
                raise FileFormatError(f"{path}: tensor {part!r} is in the qnumpy schema and not in the file.")
            has_dtype, has_shape = rest.pop(part)
            if has_shape != shape or has_dtype.itemsize != dtype.itemsize or (has_dtype != dtype and not _own(dtype)):
                raise FileFormatError(
                    f"{path}: tensor {part!r} must be {dtype} {shape} by the qnumpy schema; "
                    f"got {has_dtype} {has_shape}."
                )
        found[name] = spec
    # in the order of the file
    return {name: found[name] if name in found else TensorSpec(*held[name]) for name in held if name in {*found, *rest}}


def _read_spec(name: str, about: Any, held: Stored) -> TensorSpec:
    named, shape, scheme = about["dtype"], about["shape"], about["granularity"]
    code, found = code_type(named), mx_format(named)
    if found is not None:
        dtype = found.element.dtype
    elif code is not None:
        dtype = code.dtype
    elif scheme is None and named in _OWN:
        dtype = _OWN[named]
    else:
        raise ValueError(f"dtype {named!r} is unknown.")
    if not _is_shape(shape):
        raise ValueError(f"shape {shape!r} is no list of sizes.")
    shape = tuple(shape)
    if found is not None:
        return TensorSpec.blocks(shape, found.name)
    if scheme is None:
        return TensorSpec(dtype, shape)
    granularity: Granularity
    match scheme:
        case {"kind": "tensor"}:
            granularity = PerTensor()
        case {"kind": "channel", "axis": axis}:
            granularity = PerChannel(axis)
        case {"kind": "group", "group_size": group_size, "axis": axis}:
            granularity = PerGroup(group_size, axis)
        case _:
            raise ValueError(f"granularity {scheme!r} is unknown.")
    qmin, qmax = about["qmin"], about["qmax"]
    if type(qmin) is not int or type(qmax) is not int:
        raise ValueError(f"qmin and qmax {qmin!r}, {qmax!r} are no integers.")
    return TensorSpec(dtype, shape, granularity, qmin, qmax, f"{name}.zero_point" in held)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 62 for n in shape)


def _json(path: Path, text: str | bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise FileFormatError(f"{path}: {twice!r} stands twice in {what}.")
        return made

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise FileFormatError(f"{path}: {what} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: {what} must be a JSON object; got {type(value).__name__}.")
    return value


# Reading


class _Container(Protocol):
    """A file of plain tensors."""

    held: Stored
    schema: str | None
    metadata: dict[str, str]

    def read(self, name: str, copy: bool) -> Array: ...
    def close(self) -> None: ...


class _SafetensorsFile:
    """A safetensors file, its header checked whole before anything is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()
        try:
            self.held, self._offsets, self.metadata = self._read_header()
        except BaseException:
            self.close()
            raise
        self.schema = self.metadata.pop(_SCHEMA_KEY, None)

    def _read_header(self) -> tuple[Stored, dict[str, int], dict[str, str]]:
        path = self.path
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(8)
        if len(head) < 8:
            raise FileFormatError(f"{path}: a safetensors file has at least 8 bytes; got {size}.")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, _MAX_HEADER):
            raise FileFormatError(
                f"{path}: the header must fit in the file and in {_MAX_HEADER} bytes; "
                f"its length is given as {length} in a file of {size} bytes."
            )
        header = _json(path, self._file.read(length), "the header")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise FileFormatError(f"{path}: '__metadata__' must map texts to texts.")
        held: Stored = {}
        spans = []
        for name, about in header.items():
            dtype, shape, begin, end = _read_entry(path, name, about)
            held[name] = dtype, shape
            spans.append((begin, end, name))
        at = 0
        for begin, end, name in sorted(spans):
            if begin != at:
                what = "overlaps the one before it" if begin < at else f"leaves a hole after byte {at}"
                raise FileFormatError(f"{path}: tensor {name!r} at bytes {begin}..{end} {what}.")
            at = end
            if end > size - 8 - length:
                raise FileFormatError(
                    f"{path}: tensor {name!r} ends at byte {end} of the data, which has {size - 8 - length}; "
                    "the file is truncated or its header is wrong."
                )
        if at != size - 8 - length:
            raise FileFormatError(f"{path}: {size - 8 - length - at} bytes after the last tensor belong to none.")
        return held, {name: 8 + length + begin for begin, _, name in spans}, metadata

    def read(self, name: str, copy: bool) -> Array:
        dtype, shape = self.held[name]
        offset, count = self._offsets[name], math.prod(shape)
        if copy or not count:
            own: Array = np.empty(shape, dtype)
            if count:
                self._file.seek(offset)
                if self._file.readinto(own.reshape(-1).view(np.uint8)) != own.nbytes:  # type: ignore[attr-defined]
                    raise FileFormatError(f"{self.path}: tensor {name!r} is cut short: the file became smaller.")
            return own
        # A map for each tensor, gone with the array: what was read does not stay in memory.
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        length = offset - start + count * dtype.itemsize
        view = mmap.mmap(self._file.fileno(), length, flags, mmap.PROT_READ, offset=start)
        return np.frombuffer(view, dtype, count, offset - start).reshape(shape)

    def close(self) -> None:
        self._file.close()


def _read_entry(path: Path, name: str, about: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    match about:
        case {"dtype": str(code), "shape": shape, "data_offsets": [begin, end]}:
            pass
        case _:
            raise FileFormatError(f"{path}: tensor {name!r} must have dtype, shape and data_offsets; got {about!r}.")
    if code not in _SAFETENSORS:
        raise FileFormatError(f"{path}: tensor {name!r} has the dtype {code!r}, which qnumpy does not read.")
    if not _is_shape(shape):
        raise FileFormatError(f"{path}: tensor {name!r} must have a list of sizes as its shape; got {shape!r}.")
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise FileFormatError(f"{path}: tensor {name!r} must have ordered data_offsets; got [{begin!r}, {end!r}].")
    dtype = _SAFETENSORS[code]
    need = dtype.itemsize * math.prod(shape)
    if end - begin != need:
        raise FileFormatError(
            f"{path}: tensor {name!r} of {code} {tuple(shape)} needs {need} bytes; its data_offsets give {end - begin}."
        )
    _refuse_giant(path, name, dtype, shape)
    return dtype, tuple(shape), begin, end


def _refuse_giant(path: Path, name: str, dtype: np.dtype[Any], shape: Any) -> None:
    """An empty array may have sizes whose product no array can have."""
    if dtype.itemsize * math.prod(n for n in shape if n) >= 1 << 62:
        raise FileFormatError(f"{path}: tensor {name!r} has a shape too large for an array: {tuple(shape)}.")


class _NpzFile:
    """An npz archive, read one member at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.schema = None
        self.held: Stored = {}
        with _refusing(f"{path}: this is no npz archive"):
            self._zip = zipfile.ZipFile(path)
        try:
            for info in self._zip.infolist():
                self._add(info)
            if _SCHEMA_ENTRY in self.held:
                self.schema = self._read_schema_text()
        except BaseException:
            self.close()
            raise

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            raise FileFormatError(f"{self.path}: member {info.filename!r} must be an array, a name that ends in .npy.")
        if name in self.held:
            raise FileFormatError(f"{self.path}: tensor {name!r} stands twice in the archive.")
        with _refusing(f"{self.path}: tensor {name!r}"), self._zip.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the .npy format is not read")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
            if dtype.hasobject:
                raise ValueError("arrays of objects are not read")
            has, need = info.file_size - member.tell(), dtype.itemsize * math.prod(shape)
            if has != need:
                raise ValueError(f"{dtype} {shape} needs {need} bytes; the member has {has}")
        _refuse_giant(self.path, name, dtype, shape)
        self.held[name] = dtype, shape

    def _read_schema_text(self) -> str:
        dtype, shape = self.held[_SCHEMA_ENTRY]
        if dtype != np.uint8 or len(shape) != 1:
            raise FileFormatError(f"{self.path}: {_SCHEMA_ENTRY!r} must be one row of uint8; got {dtype} {shape}.")
        raw = self.read(_SCHEMA_ENTRY, copy=True).tobytes()
        del self.held[_SCHEMA_ENTRY]
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise FileFormatError(f"{self.path}: {_SCHEMA_ENTRY!r} is not valid UTF-8: {error}.") from error

    def read(self, name: str, copy: bool) -> Array:
        with _refusing(f"{self.path}: tensor {name!r}"), self._zip.open(f"{name}.npy") as member:
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # and so the checksum is looked at
                raise ValueError("more bytes than the array has")
        return array

    def close(self) -> None:
        self._zip.close()


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn all that zipfile and NumPy say of a bad archive into FileFormatError."""
    bad_archive = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: encrypted, or unknown method
    bad_header = (ValueError, TypeError, KeyError, SyntaxError, MemoryError)  # it is a Python literal, and evaluated
    try:
        yield
    except (*bad_archive, *bad_header) as error:
        raise FileFormatError(f"{what}: {error}.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FileFormatError(f"{what}: an offset outside the file.") from error  # the seek was refused


class Reader:
    """Read a file tensor by tensor.

    Arrays of a .safetensors file are read-only views of a memory map that is released with the array.

    Parameters
    ----------
    path : str or path
        A .npz or .safetensors file, or the .safetensors.index.json of a sharded model.

    Attributes
    ----------
    specs : dict of str to TensorSpec
        What is in the file, in its order.
    metadata : dict of str to str
        Other metadata of the file.
    paths : list of str
        Every file that is read.

    Raises
    ------
    ValueError
        The name of the file ends in nothing known.
    FileFormatError
        The file is truncated, oversized or contradicts itself; names the file and the tensor.
    OSError
        The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = _text_path("load", path)
        self.specs: dict[str, TensorSpec] = {}
        self.metadata: dict[str, str] = {}
        self.paths = [self.path]
        self._homes: dict[str, _Container] = {}
        self._containers: list[_Container] = []
        try:
            if self.path.endswith(".safetensors.index.json"):
                self._open_shards()
            else:
                self._add(_container("load", self.path)(self.path), self.path)
        except BaseException:
            self.close()
            raise

    def _add(self, container: _Container, path: str) -> None:
        self._containers.append(container)
        self.metadata |= container.metadata
        if container.schema is None:
            specs = {name: TensorSpec(*held) for name, held in container.held.items()}
        else:
            specs = _read_schema(path, container.schema, container.held)
        for name, spec in specs.items():
            self.specs[name] = spec
            self._homes[name] = container

    def _open_shards(self) -> None:
        with open(self.path, "rb") as file:
            index = _json(self.path, file.read(), "the index")
        homes = index.get("weight_map")
        if not isinstance(homes, dict):
            raise FileFormatError(f"{self.path}: the index must have an object 'weight_map'; got {homes!r}.")
        for name, shard in homes.items():
            if (
                not isinstance(shard, str)
                or os.path.basename(shard) != shard
                or not shard.endswith(".safetensors")
                or "\0" in shard
                or not _encodable(shard)
            ):
                raise FileFormatError(
                    f"{self.path}: tensor {name!r} must be in a .safetensors file beside the index; got {shard!r}."
                )
        folder = os.path.dirname(self.path)
        for shard in dict.fromkeys(homes.values()):
            path = os.path.join(folder, shard)
            self.paths.append(path)
            container = _SafetensorsFile(path)
            listed = {name for name, home in homes.items() if home == shard}
            for name in sorted(listed.symmetric_difference(container.held)):
                container.close()
                lacks, has = (path, self.path) if name in listed else (self.path, path)
                raise FileFormatError(f"{lacks}: tensor {name!r} is missing; {os.path.basename(has)} has it here.")
            self._add(container, path)

    def read(self, name: str, *, copy: bool = False) -> Value:
        """Return one array; with `copy`, one that owns its memory and can be written to."""
        spec, container = self.specs[name], self._homes[name]
        stored = container.read(name, copy)
        if spec.granularity is None:
            if _own(spec.dtype) and _bits(spec.dtype) >= 8:  # bytes that carry a dtype of ml_dtypes
                return stored.view(spec.dtype).reshape(spec.shape)
            return _decode(stored, spec.dtype, spec.shape)
        if spec.format is not None:
            return self._read_blocks(name, spec, stored, copy)
        code = code_type(spec.dtype)
        assert code is not None
        codes = _decode(stored, code.dtype, spec.shape).view(code.dtype)
        scale = container.read(f"{name}.scale", copy)
        zero: Any = code.symmetric_zero_point
        if spec.zero_point:
            zero = _decode(container.read(f"{name}.zero_point", copy), code.dtype, scale.shape).astype(np.int32)
        try:
            return QuantizedArray(codes, QParams(scale, zero, code.dtype, spec.granularity, spec.qmin, spec.qmax))
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{self.path}: tensor {name!r}: {error}") from error

    def _read_blocks(self, name: str, spec: TensorSpec, stored: Array, copy: bool) -> MXArray:
        container, found = self._homes[name], mx_format(spec.format)
        assert found is not None
        codes = _decode(stored, spec.dtype, spec.shape).view(spec.dtype)
        scales = container.read(f"{name}.scale", copy).view(found.scale.dtype)
        unit = container.read(f"{name}.tensor_scale", copy)[()] if found.has_tensor_scale else None
        try:
            return MXArray(codes, scales, found.name, unit)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{self.path}: tensor {name!r}: {error}") from error

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        for container in self._containers:
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text_path(owner: str, path: Any) -> str:
    try:
        name = os.fspath(path)
    except TypeError:
        name = path
    if not isinstance(name, str):
        raise TypeError(must(owner, "path", "a text or a path", typed(path)))
    return name


def _container(owner: str, path: str) -> type[_SafetensorsFile] | type[_NpzFile]:
    if path.endswith(".safetensors"):
        return _SafetensorsFile
    if path.endswith(".npz"):
        return _NpzFile
    also = " or .safetensors.index.json" if owner == "load" else ""
    raise ValueError(f"{owner}: path must end in .npz or .safetensors{also}; got {path!r}.")


# Writing


class _SafetensorsOut:
    """The published format: header length, JSON header, tensors. The header is known first, so each has its place."""

    longest = _MAX_HEADER  # bytes of a name

    def __init__(self, file: IO[bytes], stored: Stored, metadata: Mapping[str, str]) -> None:
        # Wide items first, as other writers do: every tensor is aligned.
        places: dict[str, tuple[int, int]] = {}
        at = 0
        for name in sorted(stored, key=lambda name: (-stored[name][0].itemsize, name)):
            dtype, shape = stored[name]
            places[name] = at, at + dtype.itemsize * math.prod(shape)
            at = places[name][1]
        entries = {
            name: {
                "dtype": _SAFETENSORS_CODE[dtype.name],
                "shape": shape,
                "data_offsets": places[name],
            }
            for name, (dtype, shape) in stored.items()
        }
        header = json.dumps(
            {"__metadata__": dict(metadata), **entries}, ensure_ascii=False, separators=(",", ":")
        ).encode()
        header += b" " * (-len(header) % 8)
        if len(header) > _MAX_HEADER:
            raise ValueError(f"save: arrays must have a header of at most {_MAX_HEADER} bytes; got {len(header)}.")
        self._file = file
        self._places = {name: 8 + len(header) + begin for name, (begin, _) in places.items()}
        file.write(struct.pack("<Q", len(header)) + header)

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        return dtype.name in _SAFETENSORS_CODE

    def write(self, name: str, array: Array) -> None:
        plain = np.ascontiguousarray(array).reshape(-1)
        if plain.dtype.byteorder == ">":
            plain = plain.astype(plain.dtype.newbyteorder("<"))
        self._file.seek(self._places[name])
        self._file.write(plain.view(np.uint8).data)

    def close(self) -> None:
        pass


class _NpzOut:
    """An uncompressed archive with no dates in it, so that equal arrays give equal files."""

    longest = 0xFFFF - len(".npy")  # bytes of a name: zip counts them in 16 bits

    def __init__(self, file: IO[bytes], stored: Stored, metadata: Mapping[str, str]) -> None:
        self._zip = zipfile.ZipFile(file, "w", allowZip64=True)
        self.write(_SCHEMA_ENTRY, np.frombuffer(metadata[_SCHEMA_KEY].encode(), np.uint8))

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        return not _own(dtype)

    def write(self, name: str, array: Array) -> None:
        if _own(array.dtype):
            array = array.view(f"u{array.dtype.itemsize}")
        with self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def close(self) -> None:
        self._zip.close()


class Writer:
    """Write a file tensor by tensor, in any order, after a plan.

    The file appears whole or not at all: it is written under another name in the same folder, and renamed on leaving
    the ``with`` block; any exception, Ctrl-C too, removes it.

    Parameters
    ----------
    path : str or path
        Ends in .npz or .safetensors.
    specs : dict of str to TensorSpec
        What will be written.
    metadata : dict of str to str, optional
        More metadata for a .safetensors file; not kept in .npz.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> None:
        self.path = _text_path("save", path)
        self._out_type = _SafetensorsOut if _container("save", self.path) is _SafetensorsFile else _NpzOut
        self.specs = dict(specs)
        self._stored = _plan(self.specs, self._out_type.holds, self._out_type.longest)
        self._metadata = {**(metadata or {}), _SCHEMA_KEY: _schema(self.specs, self._out_type.holds)}
        self._missing = dict.fromkeys(self.specs)
        self._target = os.path.realpath(self.path)  # through a symbolic link, not over it
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise ValueError(f"save: path must be a regular file; got {self.path!r}.")
        self._temporary = beside(self._target)
        self._file: IO[bytes] | None = None
        self._out: _SafetensorsOut | _NpzOut | None = None

    def __enter__(self) -> Self:
        try:
            with self._told():
                self._file = open(self._temporary, "xb")
                keep_mode(self._target, self._temporary)
                self._out = self._out_type(self._file, self._stored, self._metadata)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, value: Value) -> None:
        """Write one array of the plan.

        Raises
        ------
        ValueError
            The plan says something else of this name.
        OSError
            The disk is full, or the file cannot be written.
        """
        assert self._out is not None
        spec = self.specs[name]
        has = TensorSpec.of(value)
        if name not in self._missing or has not in (spec, replace(spec, zero_point=False)):
            raise ValueError(f"save: {name!r} must be written once, as planned: {spec}; got {has}.")
        with self._told():
            if isinstance(value, MXArray):
                self._out.write(name, _encode(value.codes).view(self._stored[name][0]))
                self._out.write(f"{name}.scale", value.scales)
                if value.tensor_scale is not None:
                    self._out.write(f"{name}.tensor_scale", np.asarray(value.tensor_scale))
            elif isinstance(value, QuantizedArray):
                self._out.write(name, _encode(value.codes).view(self._stored[name][0]))
                self._out.write(f"{name}.scale", value.scale)
                if spec.zero_point:
                    self._out.write(f"{name}.zero_point", _encode(value.zero_point.astype(spec.dtype)))
            else:
                self._out.write(name, _encode(value))
        del self._missing[name]

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                if self._missing:
                    raise ValueError(f"save: {next(iter(self._missing))!r} was planned and never written.")
                assert self._file is not None
                assert self._out is not None
                with self._told():
                    self._out.close()
                    self._file.close()
                    os.replace(self._temporary, self._target)
        finally:
            self._discard()  # nothing is left to discard after the rename

    def _discard(self) -> None:
        # What is closed here is thrown away; a full disk may complain once more, and need not.
        for closing in (self._out, self._file):
            if closing is not None:
                with contextlib.suppress(OSError, ValueError):
                    closing.close()
        with contextlib.suppress(OSError):  # it must not hide the error that brought us here
            os.unlink(self._temporary)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say which file could not be written, by the name the user gave."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror or error}; no file was written", self.path) from error


class NamesCollideError(ValueError):
    """Two arrays need one name in the file."""


def _plan(specs: Mapping[str, TensorSpec], holds: Callable[[np.dtype[Any]], bool], longest: int) -> Stored:
    """Return every plain tensor of the file; refuse names that collide and dtypes that no file holds."""
    stored: Stored = {}
    owners: dict[str, str] = {}
    for name, spec in specs.items():
        if not isinstance(name, str):
            raise TypeError(f"save: arrays must have texts as names; got {name!r}.")
        if name in _RESERVED or "\0" in name or not _encodable(name):
            raise ValueError(f"save: arrays must have names that a file can hold; got {name!r}.")
        if spec.dtype.hasobject or not (_own(spec.dtype) or holds(spec.dtype)):
            raise TypeError(f"save: arrays[{name!r}] must have a dtype that this kind of file holds; got {spec.dtype}.")
        # A quantized array claims both names, so that reading never has to guess.
        claims = [name] if spec.granularity is None else [name, f"{name}.scale", f"{name}.zero_point"]
        claims += [part for part in spec.stored(name) if part not in claims]
        for claim in claims:
            if claim in owners:
                raise NamesCollideError(
                    f"save: arrays must not collide in the file; got {owners[claim]!r} and {name!r}, "
                    f"which both need the name {claim!r}."
                )
            owners[claim] = name
        for part, (kept, shape) in spec.stored(name).items():
            if (size := len(part.encode())) > longest:
                got = f"{size} for {typed(part)}"
                raise ValueError(f"save: arrays must have names of at most {longest} bytes in this file; got {got}.")
            stored[part] = (kept if holds(kept) else np.dtype(f"u{kept.itemsize}")), shape
    return stored


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Save arrays and quantized arrays to one .npz or .safetensors file.

    Codes of 4 and 2 bits are packed, low bits first, along the last axis. The file appears whole or not at all.

    Parameters
    ----------
    path : str or path
        Ends in .npz or .safetensors; an existing file is replaced.
    arrays : dict of str to QuantizedArray, MXArray or array_like

    Raises
    ------
    TypeError
        arrays is no mapping, a name no text, or a dtype cannot be kept (objects; complex128 in .safetensors).
    ValueError
        The path ends in something else, or names collide: a quantized ``w`` also takes ``w.scale`` and
        ``w.zero_point`` (``w.tensor_scale`` if it is NVFP4).
    OSError
        The disk is full, or the file cannot be written.

    Examples
    --------
    >>> import tempfile, qnumpy as qn
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     qn.save(f"{folder}/w.safetensors", {"w": qn.quantize(w, dtype="int4"), "bias": np.zeros(3)})
    ...     back = qn.load(f"{folder}/w.safetensors")
    >>> back["w"].codes.dtype, back["bias"].shape
    (dtype(int4), (3,))
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"save: arrays must be a mapping of names to arrays; got {type(arrays).__name__}.")
    values: dict[str, Value] = {}
    for name, value in arrays.items():
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"save: arrays[{name!r}] must be an array without a mask; got a masked array.")
        values[name] = value if isinstance(value, (QuantizedArray, MXArray)) else np.asarray(value)
    with Writer(path, {name: TensorSpec.of(value) for name, value in values.items()}) as writer:
        for name, value in values.items():
            writer.write(name, value)


def load(path: Path) -> dict[str, Value]:
    """Load every array of a file.

    Files of other programs load too: all their tensors are plain arrays, bfloat16 and float8 ones with the dtypes of
    ml_dtypes.

    Parameters
    ----------
    path : str or path
        A .npz or .safetensors file, or the .safetensors.index.json of a sharded model.

    Returns
    -------
    dict of str to QuantizedArray, MXArray or numpy.ndarray
        In the order of the file; the arrays own their memory.

    Raises
    ------
    ValueError
        The name of the file ends in nothing known.
    FileFormatError
        The file is truncated, oversized or contradicts itself; names the file and the tensor.
    OSError
        The file cannot be read.
    """
    with Reader(path) as reader:
        return {name: reader.read(name, copy=True) for name in reader.specs}
