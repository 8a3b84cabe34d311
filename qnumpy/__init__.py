"""qnumpy: exact, fast quantization for NumPy arrays."""

# what holds the parameters, and how many there are
from .granularity import PerChannel, PerGroup, PerRow, PerTensor
from .qparams import QParams
from .ops.choose import choose_qparams

# objects that hold codes
from .arrays.quantized import QuantizedArray, dequantize, quantize
from .arrays.mx import MXArray
from .arrays.concatenate import concatenate
from .arrays.packed import PackedWeight, qmatmul

# operations on plain arrays, element by element
from .ops.quantize import dequantize_linear, dynamic_quantize_linear, fake_quantize, quantize_linear, requantize
from .ops.cast import cast
from .ops.pack import pack, unpack
from .ops.reduce import min_max

# products of plain arrays
from .ops.matmul import matmul, matmul_integer
from .ops.conv import conv2d_integer
from .ops.qlinear import qlinear_conv2d, qlinear_matmul
from .ops.accumulate import accumulate_dot, accumulator

# ranges of data that comes in batches
from .observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from .calibration.calibrate import Calibration, calibrate, observing, tap

# what quantization costs; the classes of the results are in qn.reports
from .reports.compare import compare
from .reports.float_report import float_report
from .reports.bits import bits
from .reports.saturation import simulate_saturation
from . import reports

# what is done to weights before they are quantized: qn.weights
from . import weights

# files
from .files.store import load, save

# the machine
from .runtime import isa, num_threads, set_isa, set_num_threads, show_config, threads

# exceptions
from .errors import CalibrationError, FileFormatError, UnsupportedISAError

__all__ = [
    "Calibration",
    "CalibrationError",
    "FileFormatError",
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
    "UnsupportedISAError",
    "accumulate_dot",
    "accumulator",
    "bits",
    "calibrate",
    "cast",
    "choose_qparams",
    "compare",
    "concatenate",
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
    "observing",
    "pack",
    "qlinear_conv2d",
    "qlinear_matmul",
    "qmatmul",
    "quantize",
    "quantize_linear",
    "reports",
    "requantize",
    "save",
    "set_isa",
    "set_num_threads",
    "show_config",
    "simulate_saturation",
    "tap",
    "threads",
    "unpack",
    "weights",
]
__version__ = "0.1.0"
