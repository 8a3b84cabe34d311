"""Ranges of named activations: observe them over batches, estimate what each technique would cost, report it."""

from .calibrate import Calibration, calibrate, observing, tap
from .report import CalibrationReport

__all__ = ["Calibration", "CalibrationReport", "calibrate", "observing", "tap"]
