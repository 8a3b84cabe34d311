"""Files that appear whole or not at all."""

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, Self

from .._check import must
from .._typing import Path

__all__: list[str] = []


class AtomicFile:
    """A file that is written under another name in the same folder and renamed when its ``with`` block ends.

    Any exception, Ctrl-C too, removes it. A file that is replaced passes its permissions on; symbolic links are
    followed.

    Parameters
    ----------
    path : str or path
    mode : str
        Of open: "x" or "xb".

    Attributes
    ----------
    file : file object
        Open inside the ``with`` block.

    Raises
    ------
    ValueError
        The path names a folder or a device.
    """

    file: IO[Any]

    def __init__(self, path: Path, mode: str) -> None:
        self._path, self._mode = os.fspath(path), mode
        self._target = os.path.realpath(path)
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise ValueError(must("save", "path", "a regular file", repr(self._path)))
        folder, base = os.path.split(self._target)
        # 30 characters of at most 4 bytes, so that the name is never too long where the target's is not
        self._temporary = os.path.join(folder, f".{base[:30]}.{os.urandom(4).hex()}.tmp")

    def __enter__(self) -> Self:
        with self.naming_errors():
            self.file = open(self._temporary, self._mode, encoding=None if "b" in self._mode else "utf-8")
        with contextlib.suppress(OSError):
            os.chmod(self._temporary, stat.S_IMODE(os.stat(self._target).st_mode))
        return self

    def __exit__(self, exception_type: object, *_: object) -> None:
        try:
            if exception_type is None:
                with self.naming_errors():
                    self.file.close()
                    os.replace(self._temporary, self._target)
        finally:
            # A full disk may raise again at close; that must not hide the first error.
            with contextlib.suppress(OSError, ValueError):
                self.file.close()
            with contextlib.suppress(OSError):  # there is nothing to remove after the rename
                os.unlink(self._temporary)

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Raise an OSError again with the path that the user gave."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror or error}; no file was written", self._path) from error


@contextlib.contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    """Open a file that appears whole or not at all; every OSError of the ``with`` block names its path."""
    with AtomicFile(path, mode) as new, new.naming_errors():
        yield new.file
