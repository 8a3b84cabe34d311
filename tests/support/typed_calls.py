"""What a type checker and an editor know of the calls that are used most. test_typing.py runs mypy on this file."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import qnumpy as qn

x = np.zeros((4, 8), np.float32)
params = qn.QParams(0.5, 0, "uint8", qn.PerTensor(), qmax=127)
q = qn.quantize(x)
AnyArray = np.ndarray[Any, Any]

# objects
assert_type(q, qn.QuantizedArray)
assert_type(qn.quantize([1.0, 2.0], params), qn.QuantizedArray)
assert_type(qn.quantize(x, dtype="int4", granularity=qn.PerGroup(32), method="mse"), qn.QuantizedArray)
assert_type(qn.quantize(x, granularity=qn.PerRow(), dtype=np.uint8, symmetric=False), qn.QuantizedArray)
assert_type(qn.quantize(x, dtype="mxfp4"), qn.MXArray)
assert_type(qn.choose_qparams(x, granularity=qn.PerChannel(0)), qn.QParams)
assert_type(qn.QParams.from_range(-1, [1.0]), qn.QParams)
assert_type(q[1:3], qn.QuantizedArray)
assert_type(q.scale, NDArray[np.float32])
assert_type(q.zero_point, NDArray[np.int32])
assert_type(qn.PackedWeight(q), qn.PackedWeight)

# reals: the dtype is known where it is NumPy's own
assert_type(q.dequantize(), NDArray[np.float32])
assert_type(q.dequantize(np.float64), NDArray[np.float64])
assert_type(qn.dequantize(q), NDArray[np.float32])
assert_type(qn.dequantize(q, dtype="bfloat16"), AnyArray)
assert_type(qn.dequantize_linear(q.codes, 0.5), NDArray[np.float32])
assert_type(qn.fake_quantize(x, params), NDArray[np.float32])
assert_type(qn.cast(x, np.float16), NDArray[np.float16])
assert_type(qn.cast(x, "float8_e4m3fn", overflow="saturate"), AnyArray)
assert_type(qn.min_max(x), tuple[NDArray[np.float64], NDArray[np.float64]])

# codes
assert_type(qn.quantize_linear(x, 0.5, 0, dtype="int8", convention="tflite", on_nan="raise"), AnyArray)
assert_type(qn.dynamic_quantize_linear(x), tuple[NDArray[np.uint8], np.float32, np.uint8])
assert_type(qn.requantize(np.zeros(3, np.int32), 0.5, method="fixed"), NDArray[np.int8])
assert_type(qn.requantize(np.zeros(3, np.int32), 0.5, dtype=np.uint8), NDArray[np.uint8])
assert_type(qn.matmul_integer(q.codes, q.codes), NDArray[np.int32])

# reports and observers
assert_type(qn.compare(x, q), qn.reports.Report)
assert_type(qn.float_report(x, "float16"), qn.reports.FloatReport)
assert_type(qn.bits(0.1), qn.reports.Bits)
assert_type(qn.HistogramObserver("mse").observe(x), qn.HistogramObserver)
assert_type(qn.MinMaxObserver().observe(x).qparams(), qn.QParams)

# a choice that does not exist is an error before the program runs
qn.quantize(x, method="best")  # type: ignore[call-overload]
qn.quantize_linear(x, 0.5, convention="numpy")  # type: ignore[arg-type]
qn.min_max(x, on_nonfinite="skip")  # type: ignore[arg-type]
qn.cast(x, np.float16, rounding="up")  # type: ignore[call-overload]
