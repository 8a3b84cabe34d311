"""Aliases for the types of public signatures."""

from os import PathLike
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike as ArrayLike
from numpy.typing import DTypeLike
from numpy.typing import NDArray as NDArray

__all__: list[str] = []

Array: TypeAlias = np.ndarray[Any, Any]
UInt8Array: TypeAlias = NDArray[np.uint8]
Int8Array: TypeAlias = NDArray[np.int8]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Int16Array: TypeAlias = NDArray[np.int16]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]

# Types of parameters. An array of bfloat16, float8 or int4 is an ndarray of a dtype of ml_dtypes.
RealLike: TypeAlias = ArrayLike  # float32, float64, float16 or bfloat16
CodeLike: TypeAlias = ArrayLike  # integers of 2 to 16 bits, or floats of 4 and 8 bits
ScaleLike: TypeAlias = ArrayLike  # positive, finite, normal in float32
IntegerLike: TypeAlias = ArrayLike
DType: TypeAlias = DTypeLike  # NumPy's, and the names of ml_dtypes' types
Path: TypeAlias = str | PathLike[str]

# Parameters with fixed choices.
Convention: TypeAlias = Literal["onnx", "guide", "torch", "tflite"]
Method: TypeAlias = Literal["minmax", "mse", "entropy", "percentile"]  # how a range is chosen
GridMethod: TypeAlias = Method | Literal["hqq"]  # how scale and zero point of data at hand are chosen
WeightMethod: TypeAlias = GridMethod | Literal["gptq"]  # and how codes are
Symmetric: TypeAlias = bool | Literal["full"]
HistogramMethod: TypeAlias = Literal["mse", "entropy", "percentile"]
RequantizeMethod: TypeAlias = Literal["float", "fixed", "fixed_double"]
OnNan: TypeAlias = Literal["zero_point", "raise"]
OnNonfinite: TypeAlias = Literal["ignore", "raise"]
Overflow: TypeAlias = Literal["inf", "saturate", "raise"]
Rounding: TypeAlias = Literal["nearest", "stochastic"]
BlockFormat: TypeAlias = Literal["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4"]

# Overloads infer the dtype of the result from a dtype of NumPy: np.float64 or np.dtype(np.float64).
ScalarT = TypeVar("ScalarT", bound=np.generic)
DTypeOf: TypeAlias = type[ScalarT] | np.dtype[ScalarT]
