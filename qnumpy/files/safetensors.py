"""Safetensors files, read and written without the package of that name, which is a dependency of the tests alone.

The package needs every tensor at once to write a file (8 tensors of 4 MiB take 32 MiB, here 4), copies the tensors that
it reads (here they are views of a memory map), has no float8 arrays for NumPy, accepts duplicate names, and mostly does
not name the tensor whose header is wrong. tests/files/test_safetensors.py shows each of these, and that the package and
this module read each other's files.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np

from .._typing import Array, Path
from .fault import fault, json_object
from .spec import Held, Unreadable, is_shape, refuse_giant

__all__: list[str] = []

SCHEMA_KEY = "qnumpy"  # in the metadata
MAX_HEADER = 100_000_000  # bytes, the limit that readers of safetensors share

_DTYPES = {
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
_NAMES = {dtype.name: name for name, dtype in _DTYPES.items()}


class SafetensorsReader:
    """A safetensors file; the constructor checks the whole header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()
        self.unreadable: dict[str, Unreadable] = {}
        try:
            self.held, self._offsets, self.metadata = self._read_header()
        except BaseException:
            self.close()
            raise
        self.schema = self.metadata.pop(SCHEMA_KEY, None)

    def _read_header(self) -> tuple[Held, dict[str, int], dict[str, str]]:
        path = self.path
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(8)
        if len(head) < 8:
            raise fault(path, None, f"a safetensors file has at least 8 bytes; got {size}.")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, MAX_HEADER):
            got = f"its length is given as {length} in a file of {size} bytes."
            raise fault(path, None, f"the header must fit in the file and in {MAX_HEADER} bytes; {got}")
        header = json_object(path, self._file.read(length), "the header")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise fault(path, None, "'__metadata__' must map texts to texts.")
        held: Held = {}
        spans = []
        for name, values in header.items():
            dtype, shape, begin, end = _read_entry(path, name, values)
            held[name] = dtype or np.dtype(np.void), shape
            if dtype is None:
                code = values["dtype"]
                reason = f"has the dtype {code!r}, which qnumpy does not read"
                self.unreadable[name] = Unreadable(reason, end - begin, code)
            spans.append((begin, end, name))
        _check_spans(path, spans, size - 8 - length)
        return held, {name: 8 + length + begin for begin, _, name in spans}, metadata

    def read(self, name: str, copy: bool) -> Array:
        """Return a tensor: with `copy` one that owns its memory, else a read-only view of a memory map."""
        return read_tensor(self._file, self.path, name, *self.held[name], self._offsets[name], copy)

    def close(self) -> None:
        self._file.close()


def read_tensor(
    file: IO[bytes], path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, copy: bool
) -> Array:
    """Return the tensor at an offset of a file: with `copy` one that owns its memory, else a read-only memory map."""
    count = math.prod(shape)
    if copy or not count:
        array: Array = np.empty(shape, dtype)
        if count:
            file.seek(offset)
            if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
                raise fault(path, name, "is cut short: the file became smaller.")
        return array
    # Each tensor has its own map, which is released with the array, so that its pages do not stay in memory.
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    length = offset - start + count * dtype.itemsize
    view = mmap.mmap(file.fileno(), length, flags, mmap.PROT_READ, offset=start)
    return np.frombuffer(view, dtype, count, offset - start).reshape(shape)


def _read_entry(path: Path, name: str, values: Any) -> tuple[np.dtype[Any] | None, tuple[int, ...], int, int]:
    """Return dtype, shape, first byte and end of a tensor, all checked; None for an unknown dtype."""
    match values:
        case {"dtype": str(code), "shape": shape, "data_offsets": [begin, end]}:
            pass
        case _:
            raise fault(path, name, f"must have dtype, shape and data_offsets; got {values!r}.")
    if not is_shape(shape):
        raise fault(path, name, f"must have a list of sizes as its shape; got {shape!r}.")
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise fault(path, name, f"must have ordered data_offsets; got [{begin!r}, {end!r}].")
    if code not in _DTYPES:
        return None, tuple(shape), begin, end
    dtype = _DTYPES[code]
    need = dtype.itemsize * math.prod(shape)
    if end - begin != need:
        got = f"its data_offsets give {end - begin}."
        raise fault(path, name, f"of {code} {tuple(shape)} needs {need} bytes; {got}")
    refuse_giant(path, name, dtype, shape)
    return dtype, tuple(shape), begin, end


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """Refuse tensors that overlap, leave a hole, or do not end with the data of `size` bytes."""
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps the one before it" if begin < position else f"leaves a hole after byte {position}"
            raise fault(path, name, f"at bytes {begin}..{end} {problem}.")
        position = end
        if end > size:
            problem = "the file is truncated or its header is wrong."
            raise fault(path, name, f"ends at byte {end} of the data, which has {size}; {problem}")
    if position != size:
        raise fault(path, None, f"{size - position} bytes after the last tensor belong to none.")


class SafetensorsWriter:
    """A safetensors file whose header is written first: it fixes the place of each tensor, so any order will do."""

    longest = MAX_HEADER  # bytes of a name

    def __init__(self, file: IO[bytes], stored: Held, metadata: Mapping[str, str]) -> None:
        header, offsets = _header(stored, metadata)
        if len(header) > MAX_HEADER:
            raise ValueError(f"save: arrays must have a header of at most {MAX_HEADER} bytes; got {len(header)}.")
        self._file = file
        self._offsets = {name: 8 + len(header) + begin for name, (begin, _) in offsets.items()}
        file.write(struct.pack("<Q", len(header)) + header)

    @staticmethod
    def nbytes(stored: Held, metadata: Mapping[str, str]) -> int:
        """Return the bytes of a file."""
        header, offsets = _header(stored, metadata)
        return 8 + len(header) + max((end for _, end in offsets.values()), default=0)

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        return dtype.name in _NAMES

    def write(self, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array).reshape(-1)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        self._file.seek(self._offsets[name])
        self._file.write(array.view(np.uint8).data)

    def close(self) -> None:
        """Do nothing: all is written, and the caller closes the file."""


def _header(stored: Held, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the header and the first byte and end of each tensor in the data."""
    # Wide items first, as other writers do: every tensor is aligned.
    offsets: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(stored, key=lambda name: (-stored[name][0].itemsize, name)):
        dtype, shape = stored[name]
        offsets[name] = end, end + dtype.itemsize * math.prod(shape)
        end = offsets[name][1]
    entries = {
        name: {"dtype": _NAMES[dtype.name], "shape": shape, "data_offsets": offsets[name]}
        for name, (dtype, shape) in stored.items()
    }
    values = {"__metadata__": dict(metadata), **entries}
    header = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8), offsets
