"""What an array loses by a conversion, and what its numbers look like: the results of the reporting functions."""

from .bits import Bits
from .compare import Report, ReportTable
from .float_report import FloatReport, FloatReportTable
from .saturation import Saturation

__all__ = ["Bits", "FloatReport", "FloatReportTable", "Report", "ReportTable", "Saturation"]
