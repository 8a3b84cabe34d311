"""qnumpy: exact, fast quantization for NumPy arrays."""

try:
    from . import _core  # noqa: F401  # the compiled part; everything below needs it
except ImportError as error:
    if error.name != __name__:  # there is a _core, and it does not load
        raise
    raise ImportError(
        f"qnumpy: the folder {__path__[0]!r} must hold the compiled _core; got the sources alone, which hide an "
        "installed qnumpy. Start Python in another folder or with -P, or build in place with `pip install -e .`."
    ) from None

# what holds the parameters, and how many there are
from .granularity import PerChannel, PerGroup, PerRow, PerTensor
from .qparams import QParams
from .ops.choose import choose_qparams

# objects that hold codes
from .arrays.quantized import QuantizedArray, dequantize, quantize
from .arrays.codebook import CodebookArray
from .arrays.mx import MXArray
from .arrays.gguf import GGUFArray
from .arrays.offset import OffsetArray
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
from .observers import HistogramObserver, MinMaxObserver, MomentsObserver, MovingAverageMinMaxObserver
from .calibration.calibrate import Calibration, calibrate, observing, tap

# what quantization costs; the classes of the results are in qn.reports
from .reports.compare import compare
from .reports.float_report import float_report
from .reports.bits import bits
from .reports.saturation import simulate_saturation
from . import reports

# what is done to weights before they are quantized: qn.weights
from . import weights

# the search of the best model within limits
from .tune import tune

# files
from .files.store import load, save

# the machine
from .runtime import isa, num_threads, set_isa, set_num_threads, show_config, threads

# exceptions
from .errors import CalibrationError, FileFormatError, UnsupportedISAError

# modules that load when they are used: dask and plot need their extras
import typing as _types

if _types.TYPE_CHECKING:
    from . import dask as dask
    from . import onnx as onnx
    from . import plot as plot
    from . import qat as qat
    from . import search as search
    from . import testing as testing

__all__ = [
    "Calibration",
    "CalibrationError",
    "CodebookArray",
    "FileFormatError",
    "GGUFArray",
    "HistogramObserver",
    "MXArray",
    "MinMaxObserver",
    "MomentsObserver",
    "MovingAverageMinMaxObserver",
    "OffsetArray",
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
    "tune",
    "unpack",
    "weights",
]
__version__ = "0.1.0"

_LAZY = ("dask", "onnx", "plot", "qat", "search", "testing", "torch")

if not _types.TYPE_CHECKING:  # to a type checker any name would be an attribute

    def __getattr__(name):
        if name not in _LAZY:
            raise AttributeError(f"module 'qnumpy' has no attribute {name!r}")
        from importlib import import_module

        try:
            return import_module(f"qnumpy.{name}")
        except ImportError as error:  # hasattr and inspect expect this error
            raise AttributeError(
                f"qnumpy.{name}: {str(error.name).partition('.')[0]} must be installed: pip install 'qnumpy[{name}]'."
            ) from error

    def __dir__():
        return sorted([*__all__, *_LAZY, "__version__"])
