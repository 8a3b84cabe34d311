"""qnumpy: exact, fast quantization for NumPy arrays."""

from .calibrate import Calibration, calibrate, observing, tap
from .equalize import correct_bias, cross_layer_equalize, smoothquant, smoothquant_alpha
from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .granularity import PerChannel, PerGroup, PerTensor
from .io import load, save
from .observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from .pack import pack, unpack
from .qarray import QuantizedArray, choose_qparams, dequantize, dynamic_quantize, quantize
from .qparams import QParams
from .qparams_file import load_qparams, save_qparams
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
    "Calibration",
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
    "calibrate",
    "choose_qparams",
    "compare",
    "correct_bias",
    "cross_layer_equalize",
    "dequantize",
    "dequantize_linear",
    "dynamic_quantize",
    "dynamic_quantize_linear",
    "fake_quantize",
    "isa",
    "load",
    "load_qparams",
    "min_max",
    "num_threads",
    "observing",
    "pack",
    "quantize",
    "quantize_linear",
    "requantize",
    "save",
    "save_qparams",
    "set_isa",
    "set_num_threads",
    "show_config",
    "smoothquant",
    "smoothquant_alpha",
    "tap",
    "threads",
    "unpack",
]
__version__ = "0.1.0"
