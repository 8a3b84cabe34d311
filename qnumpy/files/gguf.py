"""GGUF files, read and written without the package of that name, which is a dependency of the tests alone.

The package takes any header at its word, names no tensor in its errors, and writes a file in place. What is read here
is little-endian, versions 2 and 3; what is written is version 3, tensors in the order of their offsets, as llama.cpp
requires.
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

from .._check import alternatives, must, typed
from .._typing import Array, Path
from ..ops.gguf import GGUF_TYPES
from .fault import fault
from .safetensors import SCHEMA_KEY, read_tensor
from .spec import MAX_ELEMENTS, Held, TensorSpec, Unreadable, refuse_giant

__all__: list[str] = []

ALIGNMENT = 32
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_AXES = 4
_DTYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    24: np.dtype(np.int8),
    25: np.dtype("<i2"),
    26: np.dtype("<i4"),
    27: np.dtype("<i8"),
    28: np.dtype("<f8"),
    30: np.dtype(ml_dtypes.bfloat16),
}
_NUMBERS = {dtype.name: number for number, dtype in _DTYPES.items()}
_KINDS = {kind.number: kind for kind in GGUF_TYPES.values()}
# number: name, elements and bytes of a block; types that qnumpy knows and does not read
_OTHERS = {
    9: ("Q8_1", 32, 40), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
_SCALARS = {  # of metadata
    number: np.dtype(code)
    for number, code in enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", None, None, "<u8", "<i8", "<f8"))
    if code is not None
}
_SCALAR_NUMBERS = {dtype.name: number for number, dtype in _SCALARS.items()}
_TEXT, _LIST = 8, 9
_DEPTH = 8  # of lists in lists


class GGUFReader:
    """A GGUF file; the constructor checks the whole header. Values of metadata are texts, NumPy's scalars and lists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()
        self.held: Held = {}
        self.unreadable: dict[str, Unreadable] = {}
        self.metadata: dict[str, Any] = {}
        self._offsets: dict[str, int] = {}
        self._entries: dict[str, Any] = {}
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise
        # The tensors of blocks, in the words of the schema of the other containers.
        self.schema: str | None = json.dumps({"format_version": 1, "tensors": self._entries})

    def _read_header(self) -> None:
        path = self.path
        size = os.fstat(self._file.fileno()).st_size
        if size < 24 or self._file.read(4) != _MAGIC:
            raise fault(path, None, f"a GGUF file begins with {_MAGIC.decode()!r} and has at least 24 bytes.")
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            header = _Cursor(path, view)
            version = int(header.scalar(np.dtype("<u4")))
            if version not in _VERSIONS:
                big = " Big-endian files are not read." if version & 0xFFFF == 0 else ""
                raise fault(path, None, f"the GGUF version must be 2 or 3; got {version}.{big}")
            tensors, keys = header.count(1), header.count(1)
            for _ in range(keys):
                key = header.text("a key of the metadata")
                if key in self.metadata:
                    raise fault(path, None, f"{key!r} stands twice in the metadata.")
                self.metadata[key] = header.value(int(header.scalar(np.dtype("<u4"))), key)
            infos = [self._read_info(header) for _ in range(tensors)]
            alignment = self.metadata.pop("general.alignment", ALIGNMENT)
            if not isinstance(alignment, (int, np.integer)) or alignment < 1 or alignment & (alignment - 1):
                raise fault(path, None, f"'general.alignment' must be a power of two; got {alignment!r}.")
            start = -(-header.position // int(alignment)) * int(alignment)
        self._place(infos, start, int(alignment), size)

    def _read_info(self, header: "_Cursor") -> tuple[str, tuple[int, ...], int, int]:
        name = header.text("the name of a tensor")
        axes = int(header.scalar(np.dtype("<u4")))
        if axes > _MAX_AXES:
            raise fault(self.path, name, f"must have at most {_MAX_AXES} axes; got {axes}.")
        shape = tuple(int(header.scalar(np.dtype("<u8"))) for _ in range(axes))[::-1]
        return name, shape, int(header.scalar(np.dtype("<u4"))), int(header.scalar(np.dtype("<u8")))

    def _place(self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int, size: int) -> None:
        """Check the tensors and keep where they are."""
        path, spans = self.path, []
        for name, shape, number, offset in infos:
            if name in self.held:
                raise fault(path, name, "stands twice in the file.")
            if any(length >= MAX_ELEMENTS for length in shape):
                raise fault(path, name, f"must have sizes below 2**62; got {shape}.")
            nbytes = self._describe(name, shape, number)
            if offset % alignment:
                raise fault(path, name, f"must begin at a multiple of {alignment}; got {offset}.")
            end = start + offset + nbytes
            if end > size:
                problem = "the file is truncated or its header is wrong."
                raise fault(path, name, f"ends at byte {end} of a file of {size}; {problem}")
            spans.append((start + offset, end, name))
            self._offsets[name] = start + offset
        position = 0
        for begin, end, name in sorted(spans):
            if begin < position and end > begin:
                raise fault(path, name, f"at bytes {begin}..{end} overlaps the one before it.")
            position = max(position, end)

    def _describe(self, name: str, shape: tuple[int, ...], number: int) -> int:
        """Keep dtype and shape of a tensor; return its bytes."""
        if (dtype := _DTYPES.get(number)) is not None:
            refuse_giant(self.path, name, dtype, shape)
            self.held[name] = dtype, shape
            return int(dtype.itemsize) * math.prod(shape)
        kind, label, block, nbytes = _KINDS.get(number), *_OTHERS.get(number, ("", 1, 0))
        if kind is not None:
            label, block, nbytes = kind.name, kind.size, kind.nbytes
        if label and (not shape or shape[-1] % block):
            raise fault(self.path, name, f"of {label} must have rows of whole blocks of {block}; got shape {shape}.")
        if kind is None:
            reason = f"has the GGUF type {label or number}, which qnumpy does not read"
            count = math.prod(shape) // block * nbytes
            self.held[name] = np.dtype(np.void), shape
            self.unreadable[name] = Unreadable(reason, count, label or f"type {number}")
            return count
        stored = kind.bytes_shape(shape)
        refuse_giant(self.path, name, np.dtype(np.uint8), stored)
        self.held[name] = np.dtype(np.uint8), stored
        self._entries[name] = {"dtype": kind.name, "shape": list(shape), "granularity": None}
        return kind.nbytes * (math.prod(shape) // kind.size)

    def read(self, name: str, copy: bool) -> Array:
        """Return a tensor: with `copy` one that owns its memory, else a read-only view of a memory map."""
        return read_tensor(self._file, self.path, name, *self.held[name], self._offsets[name], copy)

    def close(self) -> None:
        self._file.close()


class _Cursor:
    """A position in a header; every length is checked before it is read."""

    def __init__(self, path: Path, view: mmap.mmap) -> None:
        self._path, self._view, self.position = path, view, len(_MAGIC)

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self._view):
            problem = "the file is truncated or its header is wrong."
            raise fault(self._path, None, f"the header needs {end} bytes of {len(self._view)}; {problem}")
        self.position = end
        return self._view[end - length : end]

    def scalar(self, dtype: np.dtype[Any]) -> Any:
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0]

    def count(self, nbytes: int) -> int:
        """Return a count of items of at least so many bytes."""
        count = int(self.scalar(np.dtype("<u8")))
        if count * nbytes > len(self._view) - self.position:
            problem = "the file is truncated or its header is wrong."
            raise fault(self._path, None, f"the header counts {count} items in a file of {len(self._view)}; {problem}")
        return count

    def text(self, what: str) -> str:
        raw = self.take(self.count(1))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise fault(self._path, None, f"{what} must be UTF-8; got {raw[:40]!r}.") from error

    def value(self, number: int, key: str, depth: int = 0) -> Any:
        if number == _TEXT:
            return self.text(f"the value of {key!r}")
        if number == _LIST and depth < _DEPTH:
            item, count = int(self.scalar(np.dtype("<u4"))), 0
            dtype = _SCALARS.get(item)
            count = self.count(8 if dtype is None else dtype.itemsize)
            if dtype is not None:
                return np.frombuffer(self.take(count * dtype.itemsize), dtype)
            return [self.value(item, key, depth + 1) for _ in range(count)]
        dtype = _SCALARS.get(number)
        if dtype is None:
            raise fault(self._path, None, f"{key!r} must have a type of the metadata; got the number {number}.")
        return self.scalar(dtype)


class GGUFWriter:
    """A GGUF file whose header is written first: it fixes the place of each tensor, so any order will do."""

    longest = 63  # bytes of a name that llama.cpp reads

    def __init__(self, file: IO[bytes], stored: Held, metadata: Mapping[str, Any]) -> None:
        self._file = file
        values = dict(metadata)
        kinds = {name: entry["dtype"] for name, entry in json.loads(values.pop(SCHEMA_KEY))["tensors"].items()}
        values.pop("general.alignment", None)
        if kinds:
            values.setdefault("general.quantization_version", np.uint32(2))
        parts = [_MAGIC, struct.pack("<IQQ", 3, len(stored), len(values))]
        parts += [_text(key) + _encoded(f"metadata[{key!r}]", value) for key, value in values.items()]
        self._offsets, end = {}, 0
        for name, (dtype, shape) in stored.items():
            nbytes = dtype.itemsize * math.prod(shape)
            number = _NUMBERS.get(dtype.name, 0)
            if name in kinds:
                kind = GGUF_TYPES[kinds[name]]
                shape, number = (*shape[:-1], shape[-1] // kind.nbytes * kind.size), kind.number
            parts.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, end))
            self._offsets[name] = end
            end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        header = b"".join(parts)
        self._start = -(-len(header) // ALIGNMENT) * ALIGNMENT
        self._end = self._start + end
        file.write(header)

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        return dtype.name in _NUMBERS

    @staticmethod
    def refusal(spec: TensorSpec) -> tuple[str, str] | None:
        """Return what an array must be and what it is; None if the file holds it."""
        if len(spec.shape) > _MAX_AXES:
            return f"of at most {_MAX_AXES} axes in a .gguf file", f"shape {spec.shape}"
        if spec.format in GGUF_TYPES or (spec.granularity is None and GGUFWriter.holds(spec.dtype)):
            return None
        got = spec.format or str(spec.dtype)
        return f"a GGUFArray or an array of {alternatives(_NUMBERS)} in a .gguf file", got

    def write(self, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array).reshape(-1)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        self._file.seek(self._start + self._offsets[name])
        self._file.write(array.view(np.uint8).data)

    def close(self) -> None:
        """Pad the last tensor; the caller closes the file."""
        self._file.flush()
        self._file.truncate(self._end)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _encoded(name: str, value: Any) -> bytes:
    """Return the type and the value of an entry of the metadata."""
    number, raw = _typed(name, value)
    return struct.pack("<I", number) + raw


def check_value(name: str, value: Any) -> None:
    """Refuse a value that the metadata of a file does not hold."""
    _typed(name, value)


def _typed(name: str, value: Any) -> tuple[int, bytes]:
    """Return the number of the type of a value, and its bytes."""
    if isinstance(value, str):
        return _TEXT, _text(value)
    if isinstance(value, (bool, np.bool_)):
        return _SCALAR_NUMBERS["bool"], struct.pack("<?", bool(value))
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        wide = not -(1 << 31) <= value < 1 << 32
        value = (np.int64 if wide else np.int32)(value) if value < 0 else (np.uint64 if wide else np.uint32)(value)
    elif isinstance(value, float) and not isinstance(value, np.generic):
        value = np.float32(value)
    if isinstance(value, np.generic) and value.dtype.name in _SCALAR_NUMBERS:
        return _SCALAR_NUMBERS[value.dtype.name], np.asarray(value, value.dtype.newbyteorder("<")).tobytes()
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.name in _SCALAR_NUMBERS:
        number, raw = _SCALAR_NUMBERS[value.dtype.name], np.asarray(value, value.dtype.newbyteorder("<")).tobytes()
        return _LIST, struct.pack("<IQ", number, len(value)) + raw
    if isinstance(value, (list, tuple)):
        items = [_typed(name, item) for item in value]
        numbers = {number for number, _ in items} or {_SCALAR_NUMBERS["uint32"]}
        if len(numbers) == 1:
            return _LIST, struct.pack("<IQ", numbers.pop(), len(items)) + b"".join(raw for _, raw in items)
    raise TypeError(must("save", name, "a text, a number, or a list of one type of them", typed(value)))
