"""The types that an IDE shows for the most used calls; mypy checks this file, nothing runs it.

``dtype=np.float16`` determines the type of the result. A name such as "float16" does not: type checkers do not know the
types of ml_dtypes.
"""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import qnumpy as qn

Array = np.ndarray[Any, Any]
F32 = NDArray[np.float32]


def objects(x: F32, params: qn.QParams) -> None:
    assert_type(qn.QParams(0.1, 0, "uint8", qmin=1), qn.QParams)
    assert_type(qn.QParams.from_range(-1, [1.0]), qn.QParams)
    assert_type(params.scale, F32)
    assert_type(params.zero_point, NDArray[np.int32])
    assert_type(params.dtype, np.dtype[Any] | str)
    assert_type(qn.choose_qparams(x, granularity=qn.PerRow(), method="mse"), qn.QParams)

    assert_type(qn.quantize(x), qn.QuantizedArray)
    moments = qn.MomentsObserver().observe(x)
    assert_type(moments.covariance(centered=False), NDArray[np.float64])
    assert_type(qn.quantize(x, dtype="int4", symmetric="full", method="gptq", moments=moments), qn.QuantizedArray)
    assert_type(qn.weights.gptq(x, moments, qn.PerChannel(0)).after, NDArray[np.float64])
    assert_type(qn.quantize([1.0, 2.0], params), qn.QuantizedArray)
    assert_type(qn.quantize(x, dtype="int4", granularity=qn.PerGroup(32)), qn.QuantizedArray)
    assert_type(qn.quantize(x, dtype="mxfp4"), qn.MXArray)

    q = qn.quantize(x)
    assert_type(qn.dequantize(q), F32)
    assert_type(qn.dequantize(q, dtype=np.float64), NDArray[np.float64])
    assert_type(qn.dequantize(q, dtype="bfloat16"), Array)
    assert_type(q.dequantize(), F32)
    assert_type(q[1:], qn.QuantizedArray)
    assert_type(q.scale, F32)
    assert_type(q.zero_point, NDArray[np.int32])
    assert_type(qn.PackedWeight(q), qn.PackedWeight)


def elements(x: F32, params: qn.QParams, codes: NDArray[np.int8], acc: NDArray[np.int32]) -> None:
    assert_type(qn.quantize_linear(x, 0.1, dtype=np.int8), NDArray[np.int8])
    assert_type(qn.quantize_linear(x, 0.1, dtype="int4"), Array)
    assert_type(qn.dequantize_linear(codes, 0.1), F32)
    assert_type(qn.dequantize_linear(codes, 0.1, dtype=np.float16), NDArray[np.float16])
    assert_type(qn.dynamic_quantize_linear(x), tuple[NDArray[np.uint8], np.float32, np.uint8])
    assert_type(qn.fake_quantize(x, params), F32)
    assert_type(qn.requantize(acc, 0.5), NDArray[np.int8])
    assert_type(qn.requantize(acc, 0.5, dtype=np.uint8, method="fixed"), NDArray[np.uint8])
    assert_type(qn.cast(x, np.float16), NDArray[np.float16])
    assert_type(qn.cast(x, "bfloat16", overflow="saturate"), Array)
    assert_type(qn.min_max(x), tuple[NDArray[np.float64], NDArray[np.float64]])
    assert_type(qn.pack(codes), NDArray[np.uint8])


def products(x: F32, codes: NDArray[np.int8], w: qn.PackedWeight) -> None:
    assert_type(x @ w, F32 | qn.QuantizedArray)  # codes where the weight was packed with out_qparams
    assert_type(w.unpack(), qn.QuantizedArray | qn.MXArray | qn.CodebookArray | qn.OffsetArray)
    assert_type(qn.matmul_integer(codes, codes), NDArray[np.int32])
    assert_type(qn.conv2d_integer(codes, codes, padding=1), NDArray[np.int32])


def data_in_batches(x: F32) -> None:
    assert_type(qn.MinMaxObserver().observe(x), qn.MinMaxObserver)
    assert_type(qn.HistogramObserver().observe(x).qparams("entropy"), qn.QParams)
    calibration = qn.calibrate(lambda batch: qn.tap("x", batch), [x])
    assert_type(calibration, qn.Calibration)
    assert_type(calibration.qparams(), dict[str, qn.QParams])
    assert_type(qn.tap("x", x), F32)


def reports_and_files(x: F32, q: qn.QuantizedArray) -> None:
    assert_type(qn.compare(x, q), qn.reports.Report)
    assert_type(qn.compare(x, q).sqnr_db, float | None)
    assert_type(qn.float_report(x, "float16"), qn.reports.FloatReport)
    assert_type(qn.bits(0.1), qn.reports.Bits)
    assert_type(qn.save("w.safetensors", {"w": q}), None)
    assert_type(
        qn.load("w.safetensors")["w"],
        Array
        | qn.QuantizedArray
        | qn.MXArray
        | qn.CodebookArray
        | qn.OffsetArray
        | qn.PackedWeight
        | qn.MomentsObserver
        | qn.QParams,
    )
    assert_type(qn.isa(), str)


def choices_that_do_not_exist(x: F32) -> None:
    qn.quantize(x, method="best")  # type: ignore[call-overload]
    qn.choose_qparams(x, symmetric="whole")  # type: ignore[arg-type]
    qn.quantize_linear(x, 0.5, convention="numpy")  # type: ignore[call-overload]
    qn.min_max(x, on_nonfinite="skip")  # type: ignore[arg-type]
    qn.cast(x, np.float16, rounding="up")  # type: ignore[call-overload]
