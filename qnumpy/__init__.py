"""qnumpy: exact, fast quantization for NumPy arrays."""

from .accumulate import accumulate_dot, accumulator
from .bits import Bits, bits
from .conv import conv2d_integer
from .errors import CalibrationError, FileFormatError, UnsupportedISAError
from .float_report import FloatReport, FloatReportTable, float_report
from .floats import cast
from .granularity import PerChannel, PerGroup, PerTensor
from .io import load, save
from .lowprecision import matmul
from .matmul import matmul_integer
from .mx import MXArray
from .pack import pack, unpack
from .packed import PackedWeight, qmatmul
from .qarray import QuantizedArray, choose_qparams, dequantize, quantize
from .qlinear import qlinear_conv2d, qlinear_matmul
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
from .saturation import Saturation, reduce_range, safe_weights, simulate_saturation

__all__ = [
    "Bits",
    "CalibrationError",
    "FileFormatError",
    "FloatReport",
    "FloatReportTable",
    "MXArray",
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
    "cast",
    "choose_qparams",
    "compare",
    "conv2d_integer",
    "dequantize",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "fake_quantize",
    "float_report",
    "isa",
    "load",
    "matmul",
    "matmul_integer",
    "min_max",
    "num_threads",
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
    "threads",
    "unpack",
]
__version__ = "0.1.0"
