"""qnumpy: exact, fast quantization for NumPy arrays."""

from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .granularity import PerChannel, PerGroup, PerTensor
from .io import load, save
from .observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
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
    "CalibrationError",
    "FileFormatError",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "QParams",
    "QuantizedArray",
    "Report",
    "ReportTable",
    "UnsupportedISAError",
    "abs_max",
    "choose_qparams",
    "compare",
    "dequantize",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "fake_quantize",
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
