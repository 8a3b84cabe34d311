"""Results of the reporting functions: the cost of a conversion, and the bits of numbers."""

from .bits import Bits
from .compare import Report, ReportTable
from .float_report import FloatReport, FloatReportTable
from .saturation import Saturation

__all__ = ["Bits", "FloatReport", "FloatReportTable", "Report", "ReportTable", "Saturation"]
