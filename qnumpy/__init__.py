"""qnumpy: exact, fast quantization for NumPy arrays."""

from .arrays.mx import MXArray
from .arrays.packed import PackedWeight, qmatmul
from .arrays.quantized import QuantizedArray, choose_qparams, dequantize, dynamic_quantize, quantize
from .calibration.calibrate import Calibration, calibrate, observing, tap
from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .files.store import load, save
from .granularity import PerChannel, PerGroup, PerRow, PerTensor
from .observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from .ops.accumulate import accumulate_dot, accumulator
from .ops.cast import cast
from .ops.conv import conv2d_integer
from .ops.matmul import matmul, matmul_integer
from .ops.pack import pack, unpack
from .ops.qlinear import qlinear_conv2d, qlinear_matmul
from .ops.quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    fake_quantize,
    quantize_linear,
    requantize,
)
from .ops.reduce import abs_max, min_max
from .qparams import QParams
from .reports.bits import Bits, bits
from .reports.compare import Report, ReportTable, compare
from .reports.float_report import FloatReport, FloatReportTable, float_report
from .reports.saturation import Saturation, simulate_saturation
from .runtime import isa, num_threads, set_isa, set_num_threads, show_config, threads
from .weights import (
    correct_bias,
    cross_layer_equalize,
    reduce_range,
    safe_weights,
    smoothquant,
    smoothquant_alpha,
)

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
    "PerRow",
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
