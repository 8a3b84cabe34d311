"""Exceptions that are qnumpy's own. Everything else raises TypeError or ValueError."""

__all__ = ["CalibrationError", "FileFormatError", "UnsupportedISAError"]


class CalibrationError(ValueError):
    """There is no range to choose: no data was seen, or no element is finite.

    Examples
    --------
    >>> import qnumpy as qn
    >>> try:
    ...     qn.MinMaxObserver().qparams()
    ... except CalibrationError:
    ...     print("no range")
    no range
    """


class FileFormatError(ValueError):
    """A file is truncated, oversized or contradicts itself.

    Examples
    --------
    >>> import pathlib, tempfile, qnumpy as qn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "short.safetensors")
    ...     _ = path.write_bytes(b"123")
    ...     try:
    ...         qn.load(path)
    ...     except FileFormatError:
    ...         print("not loaded")
    not loaded
    """


class UnsupportedISAError(RuntimeError):
    """This build or this CPU does not have the instruction set.

    Examples
    --------
    >>> import qnumpy as qn
    >>> try:
    ...     qn.set_isa("avx1024")
    ... except UnsupportedISAError:
    ...     print("not changed")
    not changed
    """
