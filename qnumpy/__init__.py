"""qnumpy: exact, fast quantization for NumPy arrays."""

from .accumulate import accumulate_dot, accumulator
from .bits import Bits, bits
from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .float_report import FloatReport, FloatReportTable, float_report
from .floats import cast
from .granularity import PerChannel, PerGroup, PerTensor
from .io import load, save
from .mx import MXArray
from .pack import pack, unpack
from .qarray import QuantizedArray, choose_qparams, dequantize, quantize
from .qparams import QParams
from .quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    fake_quantize,
    quantize_linear,
    requantize,
)
from .reduce import abs_max, min_max
from .report import Report, ReportTable, compare
from .runtime import isa, num_threads, set_isa, set_num_threads, show_config, threads

__all__ = [
    "Bits",
    "CalibrationError",
    "FileFormatError",
    "FloatReport",
    "FloatReportTable",
    "MXArray",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "QParams",
    "QuantizedArray",
    "Report",
    "ReportTable",
    "UnsupportedISAError",
    "abs_max",
    "accumulate_dot",
    "accumulator",
    "bits",
    "cast",
    "choose_qparams",
    "compare",
    "dequantize",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "fake_quantize",
    "float_report",
    "isa",
    "load",
    "min_max",
    "num_threads",
    "pack",
    "quantize",
    "quantize_linear",
    "requantize",
    "save",
    "set_isa",
    "set_num_threads",
    "show_config",
    "threads",
    "unpack",
]
__version__ = "0.1.0"
