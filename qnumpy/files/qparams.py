"""Parameters by name in a file of JSON."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from .. import _check
from ..errors import FileFormatError
from ..qparams import QParams

__all__ = ["load_qparams", "replacing", "save_qparams"]

_FORMAT = "qnumpy qparams"


def save_qparams(path: str | os.PathLike[str], qparams: Mapping[str, QParams]) -> None:
    """Save parameters by name as JSON: a calibration, or any mapping.

    The file appears whole or not at all.

    Parameters
    ----------
    path : str or path
    qparams : mapping of str to QParams

    Raises
    ------
    TypeError
        qparams is no mapping of names to QParams.
    CalibrationError
        An observer of a calibration has seen nothing finite.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_qparams(f"{folder}/qparams.json", {"x": QParams(0.1, 0)})
    ...     back = load_qparams(f"{folder}/qparams.json")
    >>> back
    {'x': QParams(int8, per tensor, scale=0.1, zero_point=0)}
    """
    owner = "save_qparams"
    if not isinstance(qparams, Mapping):
        raise TypeError(_check.must(owner, "qparams", "a mapping of names to QParams", _check.typed(qparams)))
    stored = {}
    for name, value in qparams.items():
        if not (isinstance(name, str) and isinstance(value, QParams)):
            got = f"{_check.typed(name)}: {_check.typed(value)}"
            raise TypeError(_check.must(owner, "qparams", "a mapping of names to QParams", got))
        stored[name] = value.to_dict()
    with replacing(path, "x") as file:
        json.dump({"format": _FORMAT, "version": 1, "qparams": stored}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def beside(target: str) -> str:
    """A new name in the folder of `target`; short enough wherever that one is, whatever its letters."""
    folder, base = os.path.split(target)
    return os.path.join(folder, f".{base[:30]}.{os.urandom(4).hex()}.tmp")


def keep_mode(target: str, temporary: str) -> None:
    """Give `temporary` the permissions of the file it will replace, if there is one."""
    with contextlib.suppress(OSError):
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
    """Open a file that appears whole or not at all: written under another name, and renamed at the end."""
    target = os.path.realpath(path)
    temporary = beside(target)
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            keep_mode(target, temporary)
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; no file was written", os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def load_qparams(path: str | os.PathLike[str]) -> dict[str, QParams]:
    """Load what save_qparams has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to QParams
        Equal to what was saved.

    Raises
    ------
    FileFormatError
        The file holds something else; names the file and the tensor.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_qparams(f"{folder}/qparams.json", {"x": QParams([0.1, 0.2], 0, granularity=PerChannel(1))})
    ...     print(load_qparams(f"{folder}/qparams.json")["x"])
    QParams(int8, per channel 1, scale=0.1..0.2 (2,), zero_point=0)
    """
    name = os.fspath(path)
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{name}: the file is not valid JSON: {error}.") from error
    match content:
        case {"format": format_, "version": 1, "qparams": dict(stored)} if format_ == _FORMAT:
            pass
        case _:
            raise FileFormatError(f"{name}: the file must be one that save_qparams wrote, of version 1.")
    found = {}
    for tensor, about in stored.items():
        try:
            found[tensor] = QParams.from_dict(about)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{name}: tensor {tensor!r}: {error}") from error
    return found
