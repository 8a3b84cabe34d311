"""Npz archives, read and written one member at a time.

The functions import zipfile: its import takes 5 ms, and `import qnumpy` must not wait for it.
"""

import contextlib
import errno
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .._typing import Array, Path
from .fault import fault
from .safetensors import SCHEMA_KEY
from .spec import Held, is_ml_dtype, refuse_giant

if TYPE_CHECKING:
    from zipfile import ZipInfo

__all__: list[str] = []

SCHEMA_ENTRY = "__qnumpy__"


class NpzReader:
    """An npz archive; the constructor checks the headers of all members."""

    def __init__(self, path: Path) -> None:
        from zipfile import ZipFile

        self.path = path
        self.metadata: dict[str, str] = {}
        self.schema: str | None = None
        self.held: Held = {}
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
        if name == info.filename:
            raise fault(self.path, None, f"member {info.filename!r} must be an array, a name that ends in .npy.")
        if name in self.held:
            raise fault(self.path, name, "stands twice in the archive.")
        with _refusing(self.path, name), self._zip.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the .npy format is not read")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
            if dtype.hasobject:
                raise ValueError("arrays of objects are not read")
            size, need = info.file_size - member.tell(), dtype.itemsize * math.prod(shape)
            if size != need:
                raise ValueError(f"{dtype} {shape} needs {need} bytes; the member has {size}")
        refuse_giant(self.path, name, dtype, shape)
        self.held[name] = dtype, shape

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
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # zipfile compares the checksum at the end of the member
                raise ValueError("more bytes than the array has")
        return array

    def close(self) -> None:
        self._zip.close()


@contextlib.contextmanager
def _refusing(path: Path, tensor: str | None, problem: str = "") -> Iterator[None]:
    """Raise FileFormatError for every error of zipfile and NumPy about a bad archive."""
    from zipfile import BadZipFile

    bad_archive = (BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: encrypted, or unknown method
    bad_header = (ValueError, TypeError, KeyError, SyntaxError, MemoryError)  # NumPy evaluates it as a Python literal
    try:
        yield
    except (*bad_archive, *bad_header) as error:
        raise fault(path, tensor, f"{problem}: {error}.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise fault(path, tensor, f"{problem}: an offset outside the file.") from error  # the seek was refused


class NpzWriter:
    """An uncompressed archive without dates, so that equal arrays give equal files."""

    longest = 0xFFFF - len(".npy")  # bytes of a name: zip counts them in 16 bits

    def __init__(self, file: IO[bytes], stored: Held, metadata: Mapping[str, str]) -> None:
        from zipfile import ZipFile

        self._zip = ZipFile(file, "w", allowZip64=True)
        self.write(SCHEMA_ENTRY, np.frombuffer(metadata[SCHEMA_KEY].encode(), np.uint8))

    @staticmethod
    def holds(dtype: np.dtype[Any]) -> bool:
        return not is_ml_dtype(dtype)

    def write(self, name: str, array: Array) -> None:
        from zipfile import ZipInfo

        if is_ml_dtype(array.dtype):
            array = array.view(f"u{array.dtype.itemsize}")
        with self._zip.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def close(self) -> None:
        self._zip.close()
