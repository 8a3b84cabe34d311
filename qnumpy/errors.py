"""Exceptions that are qnumpy's own. Everything else raises TypeError or ValueError."""

__all__ = ["CalibrationError", "FileFormatError", "UnsupportedISAError"]


class CalibrationError(ValueError):
    """A range was asked of data that has none: nothing seen, or nothing finite."""


class FileFormatError(ValueError):
    """A file is truncated, oversized, or says what is not so."""


class UnsupportedISAError(RuntimeError):
    """An instruction set was named that this build or this CPU does not have."""
