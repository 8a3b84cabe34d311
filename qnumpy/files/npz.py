"""Npz archives, read and written one member at a time.

The functions import zipfile: its import takes 5 ms, and `import qnumpy` must not wait for it.
"""

import contextlib
import errno
import io
import math
import struct
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .._typing import Array, Path
from .fault import fault
from .fields import is_numpys, stand_in
from .safetensors import SCHEMA_KEY
from .spec import Held, Unreadable, refuse_giant

if TYPE_CHECKING:
    from zipfile import ZipInfo

__all__: list[str] = []

SCHEMA_ENTRY = "__qnumpy__"
MAX_HEADER = 65_000  # bytes of the text that describes an array; NumPy's own limit is 10,000


class NpzReader:
    """An npz archive; the constructor checks the headers of all members."""

    def __init__(self, path: Path) -> None:
        from zipfile import ZipFile

        self.path = path
        self.metadata: dict[str, str] = {}
        self.schema: str | None = None
        self.held: Held = {}
        self.unreadable: dict[str, Unreadable] = {}
        with _refusing(path, None, "this is no npz archive"):
            self._zip = ZipFile(path)
        try:
            for info in self._zip.infolist():
                self._add(info)
            if SCHEMA_ENTRY in self.held:
                self.schema = self._read_schema()
        except BaseException:
            self.close()
            raise

    def _add(self, info: "ZipInfo") -> None:
        name = info.filename.removesuffix(".npy")
        if name in self.held:
            raise fault(self.path, name, "stands twice in the archive.")
        if name == info.filename:
            self._leave(name, np.dtype(np.void), (), "is no array: its name in the archive does not end in .npy", info)
            return
        with _refusing(self.path, name), self._zip.open(info) as member:
            shape, dtype = _read_header(member)
            if dtype.hasobject:
                self._leave(name, dtype, shape, "holds Python objects, which qnumpy never unpickles", info)
                return
            size, need = info.file_size - member.tell(), dtype.itemsize * math.prod(shape)
            if size != need:
                raise ValueError(f"{dtype} {shape} needs {need} bytes; the member has {size}")
        refuse_giant(self.path, name, dtype, shape)
        self.held[name] = dtype, shape

    def _leave(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], reason: str, info: "ZipInfo") -> None:
        """Note a member that is not read."""
        self.held[name] = dtype, shape
        self.unreadable[name] = Unreadable(reason, info.file_size)

    def _read_schema(self) -> str:
        dtype, shape = self.held[SCHEMA_ENTRY]
        if dtype != np.uint8 or len(shape) != 1:
            raise fault(self.path, None, f"{SCHEMA_ENTRY!r} must be one row of uint8; got {dtype} {shape}.")
        text = self.read(SCHEMA_ENTRY).tobytes()
        del self.held[SCHEMA_ENTRY]
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise fault(self.path, None, f"{SCHEMA_ENTRY!r} is not valid UTF-8: {error}.") from error

    def read(self, name: str, copy: bool = True) -> Array:
        """Return a tensor, which owns its memory in either case."""
        with _refusing(self.path, name), self._zip.open(f"{name}.npy") as member:
            array: Array = np.lib.format.read_array(member, allow_pickle=False, max_header_size=MAX_HEADER)
            if member.read(1):  # zipfile compares the checksum at the end of the member
                raise ValueError("more bytes than the array has")
        return array

    def close(self) -> None:
        self._zip.close()


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the dtype of a member in the .npy format."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member, MAX_HEADER)
        return shape, dtype
    if version == (3, 0):  # as 2.0, but the text is UTF-8, not Latin-1; escapes make it the same literal
        (length,) = struct.unpack("<I", member.read(4).ljust(4, b"\0"))
        text = member.read(min(length, MAX_HEADER + 1)).decode().encode("latin1", "backslashreplace")
        member = io.BytesIO(struct.pack("<I", len(text)) + text)
    elif version != (2, 0):
        raise ValueError(f"version {version} of the .npy format is not read")
    shape, _, dtype = np.lib.format.read_array_header_2_0(member, MAX_HEADER)
    return shape, dtype


def _description(dtype: np.dtype[Any]) -> str | None:
    """Return the text by which the .npy format describes a dtype, None if it cannot."""
    if dtype.hasobject or dtype != stand_in(dtype) or not _has_numpys(dtype):
        return None
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        text = repr(descr)
        text.encode()
        same = np.lib.format.descr_to_dtype(descr) == dtype
    except (ValueError, TypeError):  # fields that overlap or are out of order; surrogates in their names
        return None
    return text if same else None


def _has_numpys(dtype: np.dtype[Any]) -> bool:
    """Whether all fields are of dtypes of NumPy."""
    if dtype.subdtype is not None:
        return _has_numpys(dtype.subdtype[0])
    if dtype.fields is None:
        return is_numpys(dtype)
    return all(_has_numpys(field[0]) for field in dtype.fields.values())


@contextlib.contextmanager
def _refusing(path: Path, tensor: str | None, problem: str = "") -> Iterator[None]:
    """Raise FileFormatError for every error of zipfile and NumPy about a bad archive.

    They raise many kinds, as NumPy evaluates a header as a literal of Python.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise fault(path, tensor, f"{problem}: an offset outside the file.") from error  # the seek was refused
    except Exception as error:
        raise fault(path, tensor, f"{problem}: {error}.") from error


class NpzWriter:
    """An uncompressed archive without dates, so that equal arrays give equal files."""

    longest = 0xFFFF - len(".npy")  # bytes of a name: zip counts them in 16 bits

    def __init__(self, file: IO[bytes], stored: Held, metadata: Mapping[str, str]) -> None:
        from zipfile import ZipFile

        self._zip = ZipFile(file, "w", allowZip64=True)
        self.write(SCHEMA_ENTRY, np.frombuffer(metadata[SCHEMA_KEY].encode(), np.uint8))

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        text = _description(dtype)
        return text is not None and len(text) <= MAX_HEADER // 2

    def write(self, name: str, array: Array) -> None:
        from zipfile import ZipInfo

        dtype = stand_in(array.dtype)
        if dtype != array.dtype:
            array = array.view(dtype)
        text = _description(array.dtype) or ""
        version = (1, 0) if text.isascii() else (3, 0)  # without a version NumPy warns of all but the first
        with self._zip.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, version, allow_pickle=False)

    def close(self) -> None:
        self._zip.close()
