"""Standard output and standard error: closed, full, or a pipe whose reader has left."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

__all__: list[str] = []


class ClosedStream(io.TextIOBase):
    """In place of a stream that the caller of the process closed: writing to it fails, as to any closed file."""

    def write(self, _: str) -> NoReturn:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Let the streams of the process take any text; every failure to write is an OSError."""
    for number in range(3):  # else a file that is opened later takes the number, and messages overwrite it
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        setattr(sys, name, ClosedStream())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # its encoding may lack a character of a tensor's name
    try:
        yield
    finally:
        for name in closed:
            setattr(sys, name, None)


def show(text: str) -> None:
    """Print on standard output, at once; an error names it."""
    try:
        print(text, flush=True)
    except OSError as error:
        _discard(sys.stdout)
        raise OSError(error.errno, error.strerror, "standard output") from error  # a BrokenPipeError again for EPIPE


def show_json(text: str) -> None:
    """Print JSON; characters that the encoding lacks are escaped as JSON escapes them."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    show(text)


def warn(text: str) -> None:
    """Print on standard error, if it takes the text."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Send the buffered text to the null device: Python writes it when it exits, and would fail once more."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
