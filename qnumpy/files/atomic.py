"""Files that appear whole or not at all.

A file has no name while it is written (Linux, O_TMPFILE), so that not even SIGKILL leaves one behind. Where the file
system has no such files, it has a temporary name in the same folder. An exception, a signal and the end of the
interpreter remove that name; SIGKILL cannot, so the next writer of the same file does. A lock (flock), which ends with
its process, tells the temporary files of the living from those of the dead.
"""

import atexit
import contextlib
import fcntl
import os
import re
import signal
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, ClassVar, Self

from .._check import must
from .._typing import Path

__all__: list[str] = []

# The default action of these ends the process without unwinding it.
_DEADLY = [
    getattr(signal, name)
    for name in (
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGUSR2"),
        *("SIGVTALRM", "SIGPROF", "SIGXCPU", "SIGXFSZ", "SIGIO", "SIGPWR", "SIGSTKFLT"),
    )
    if hasattr(signal, name)
]
_RANDOM_BYTES = 4


class AtomicFiles:
    """New files that take their names together when a ``with`` block ends, or leave no trace if it raises.

    A file that is replaced passes its permissions on; symbolic links are followed.

    Parameters
    ----------
    paths : sequence of str or path
        The last one is the file that makes the others valid: of several files an old one of that name is removed before
        the first new file is in place, and the new one comes last.
    mode : str
        Of open: "x" or "xb".
    stale : iterable of str
        Files that are removed when the new ones are in place.

    Attributes
    ----------
    files : list of file objects
        Open inside the ``with`` block.

    Raises
    ------
    ValueError
        A path names a folder or a device.
    """

    files: list[IO[Any]]
    nameless: ClassVar[bool] = hasattr(os, "O_TMPFILE")  # whether to try a file without a name first

    def __init__(self, paths: Sequence[Path], mode: str, stale: Iterable[str] = ()) -> None:
        self._drafts = [_Draft(path, mode, self.nameless) for path in paths]
        self._stale = list(stale)

    def __enter__(self) -> Self:
        try:
            for draft in self._drafts:
                draft.open()
        except BaseException:
            self._discard()
            raise
        self.files = [draft.file for draft in self._drafts]
        return self

    def __exit__(self, exception_type: object, *_: object) -> None:
        try:
            if exception_type is None:
                for draft in self._drafts:
                    draft.finish()
                self._publish()
        finally:
            self._discard()

    def _publish(self) -> None:
        *others, last = self._drafts
        if others:
            with contextlib.suppress(FileNotFoundError), naming_errors(last.path):
                os.unlink(last.target)
        placed = []
        try:
            for draft in self._drafts:
                if not os.path.lexists(draft.target):
                    placed.append(draft.target)
                draft.publish()
        except BaseException:
            for path in placed:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        for path in self._stale:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _discard(self) -> None:
        for draft in self._drafts:
            draft.discard()


class _Draft:
    """A file that is not in its place yet."""

    file: IO[Any]

    def __init__(self, path: Path, mode: str, nameless: bool) -> None:
        self.path, self._mode, self._nameless = os.fspath(path), mode, nameless
        self.target = os.path.realpath(path)
        if os.path.exists(self.target) and not os.path.isfile(self.target):
            raise ValueError(must("save", "path", "a regular file", repr(self.path)))
        self._folder, base = os.path.split(self.target)
        self._prefix = f".{base[:30]}."  # at most 4 bytes a character: the name is too long only where the target's is
        self._temporary: str | None = None
        self._lock: int | None = None

    def open(self) -> None:
        with naming_errors(self.path):
            _remove_orphans(self._folder, self._prefix)
            descriptor = self._open_nameless()
            if descriptor is None:
                descriptor = self._open_named()
            self._lock = os.dup(descriptor)  # keeps the lock after the file is closed
            encoding = None if "b" in self._mode else "utf-8"
            self.file = open(descriptor, self._mode.replace("x", "w"), encoding=encoding)  # noqa: SIM115 - finish closes
        with contextlib.suppress(OSError):
            os.fchmod(self._lock, stat.S_IMODE(os.stat(self.target).st_mode))

    def _open_nameless(self) -> int | None:
        if not self._nameless:
            return None
        try:
            descriptor = os.open(self._folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError:  # an old kernel or a file system without them; another error comes again with a name
            return None
        if not os.path.exists(f"/proc/self/fd/{descriptor}"):  # needed to give it a name
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    def _open_named(self) -> int:
        while True:
            self._choose_name()
            assert self._temporary is not None
            descriptor = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # another writer took it for an orphan before it had the lock

    def _choose_name(self) -> None:
        """Choose the temporary name, and have it removed whatever happens, before there is a file."""
        self._temporary = os.path.join(self._folder, f"{self._prefix}{os.urandom(_RANDOM_BYTES).hex()}.qnumpy-tmp")
        _names.add(self._temporary)

    def finish(self) -> None:
        """Write the rest and close the file, which then has a temporary name."""
        with naming_errors(self.path):
            self.file.flush()
            if self._temporary is None:
                self._choose_name()
                assert self._temporary is not None
                # With a folder's descriptor Python calls linkat, which follows the link of /proc to the file.
                folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.link(f"/proc/self/fd/{self.file.fileno()}", os.path.basename(self._temporary), dst_dir_fd=folder)
                finally:
                    os.close(folder)
            self.file.close()

    def publish(self) -> None:
        """Give the file its name."""
        assert self._temporary is not None
        with naming_errors(self.path):
            os.replace(self._temporary, self.target)

    def discard(self) -> None:
        """Close and remove what was not published."""
        # A full disk may raise again at close; that must not hide the first error.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.file.close()
        if self._temporary is not None:
            _names.remove(self._temporary)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Raise an OSError again with the path that the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; no file was written", os.fspath(path)) from error


@contextlib.contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    """Open a file that appears whole or not at all; every OSError of the ``with`` block names its path."""
    with AtomicFiles([path], mode) as new, naming_errors(path):
        yield new.files[0]


def _remove_orphans(folder: str, prefix: str) -> None:
    """Remove the temporary files of the same target whose writer has died."""
    pattern = re.compile(re.escape(prefix) + rf"[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.qnumpy-tmp")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        paths = [entry.path for entry in entries if pattern.fullmatch(entry.name) and entry.is_file()]
        for path in paths:
            with contextlib.suppress(OSError):
                _remove_orphan(path)


def _remove_orphan(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the writer lives
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):  # else the writer renamed it in the meantime
            os.unlink(path)
    finally:
        os.close(descriptor)


class _TemporaryNames:
    """The temporary names of this process, removed when a signal or the end of the interpreter comes first.

    Signals are handled only while there are names, only by the main thread, and only where the program left them at
    their default, which ends the process: after the names are removed, the default follows.
    """

    def __init__(self) -> None:
        self._owners: dict[str, int] = {}  # process ids: a child that was forked must not remove the parent's
        self._handled: list[int] = []
        atexit.register(self._remove_all)  # daemon threads and interrupted clean-ups

    def add(self, name: str) -> None:
        if not self._handled and threading.current_thread() is threading.main_thread():
            for number in _DEADLY:
                if signal.getsignal(number) is signal.SIG_DFL:
                    with contextlib.suppress(ValueError, OSError):
                        signal.signal(number, self._die)
                        self._handled.append(number)
        self._owners[name] = os.getpid()

    def remove(self, name: str) -> None:
        """Remove the file of a name, if it still has the name, and forget it."""
        self._unlink(name)
        self._owners.pop(name, None)
        if not self._owners and self._handled and threading.current_thread() is threading.main_thread():
            for number in self._handled:
                if signal.getsignal(number) == self._die:
                    signal.signal(number, signal.SIG_DFL)
            self._handled = []

    def _die(self, number: int, _: object) -> None:
        self._remove_all()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _remove_all(self) -> None:
        for name in list(self._owners):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        if self._owners.get(name) == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(name)


_names = _TemporaryNames()
