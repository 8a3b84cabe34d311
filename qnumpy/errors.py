"""Exceptions that are qnumpy's own. Everything else raises TypeError or ValueError."""

__all__ = ["CalibrationError", "FileFormatError", "UnsupportedISAError"]


class CalibrationError(ValueError):
    """There is no range to choose: no data was seen, or no element is finite."""


class FileFormatError(ValueError):
    """A file is truncated, oversized or contradicts itself."""


class UnsupportedISAError(RuntimeError):
    """This build or this CPU does not have the instruction set."""
