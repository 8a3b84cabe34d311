"""qnumpy: exact, fast quantization for NumPy arrays."""

from .accumulate import accumulate_dot, accumulator
from .bits import Bits, bits
from .calibrate import Calibration, calibrate, observing, tap
from .conv import conv2d_integer
from .equalize import correct_bias, cross_layer_equalize, smoothquant, smoothquant_alpha
from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .float_report import FloatReport, FloatReportTable, float_report
from .floats import cast
from .granularity import PerChannel, PerGroup, PerTensor
from .io import load, save
from .lowprecision import matmul
from .matmul import matmul_integer
from .mx import MXArray
from .observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from .pack import pack, unpack
from .packed import PackedWeight, qmatmul
from .qarray import QuantizedArray, choose_qparams, dequantize, dynamic_quantize, quantize
from .qlinear import qlinear_conv2d, qlinear_matmul
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
from .saturation import Saturation, reduce_range, safe_weights, simulate_saturation

__all__ = [
    "Bits",
    "Calibration",
    "CalibrationError",
    "FileFormatError",
    "FloatReport",
    "FloatReportTable",
    "HistogramObserver",
    "MXArray",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "PackedWeight",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "QParams",
    "QuantizedArray",
    "Report",
    "ReportTable",
    "Saturation",
    "UnsupportedISAError",
    "abs_max",
    "accumulate_dot",
    "accumulator",
    "bits",
    "calibrate",
    "cast",
    "choose_qparams",
    "compare",
    "conv2d_integer",
    "correct_bias",
    "cross_layer_equalize",
    "dequantize",
    "dequantize_linear",
    "dynamic_quantize",
    "dynamic_quantize_linear",
    "fake_quantize",
    "float_report",
    "isa",
    "load",
    "load_qparams",
    "matmul",
    "matmul_integer",
    "min_max",
    "num_threads",
    "observing",
    "pack",
    "qlinear_conv2d",
    "qlinear_matmul",
    "qmatmul",
    "quantize",
    "quantize_linear",
    "reduce_range",
    "requantize",
    "safe_weights",
    "save",
    "save_qparams",
    "set_isa",
    "set_num_threads",
    "show_config",
    "simulate_saturation",
    "smoothquant",
    "smoothquant_alpha",
    "tap",
    "threads",
    "unpack",
]
__version__ = "0.1.0"
