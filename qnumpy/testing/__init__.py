"""Assertions about quantized arrays, for the tests of experiments; and the oracle.

The oracle says what the kernels compute, in plain NumPy expressions and Python integers. A twin has the name, the
parameters and the result type of its original, and gives the same bits. The originals are functions of qnumpy and,
without their first parameter `owner`, functions of `qnumpy.ops`. Twins have no `out`, and they check no arguments:
on_nan, on_nonfinite and overflow="raise" have no effect. They share no code with the kernels: parameters are repeated
for every element, then the formula of docs/semantics.md stands on one line.
"""

from ._common import spread
from .assertions import assert_dequantized_close, assert_qparams_equal, assert_quantized_equal
from .elements import (
    codes_of,
    dequantize_linear,
    dynamic_quantize_linear,
    fake_quantize,
    min_max,
    pack,
    quantize_linear,
    ranges,
    requantize,
    split_multiplier,
    unpack,
)
from .floats import FloatError, cast, float_error, quantize_blocks
from .gradients import quantization_gradients
from .products import (
    SaturatedProduct,
    accumulate_dot,
    conv2d_integer,
    matmul_floats,
    matmul_integer,
    matmul_offsets,
    qmatmul,
    saturated_matmul,
)
from .statistics import Histogram, entropy_bin, histogram

__all__ = [
    "FloatError",
    "Histogram",
    "SaturatedProduct",
    "accumulate_dot",
    "assert_dequantized_close",
    "assert_qparams_equal",
    "assert_quantized_equal",
    "cast",
    "codes_of",
    "conv2d_integer",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "entropy_bin",
    "fake_quantize",
    "float_error",
    "histogram",
    "matmul_floats",
    "matmul_integer",
    "matmul_offsets",
    "min_max",
    "pack",
    "qmatmul",
    "quantization_gradients",
    "quantize_blocks",
    "quantize_linear",
    "ranges",
    "requantize",
    "saturated_matmul",
    "split_multiplier",
    "spread",
    "unpack",
]
