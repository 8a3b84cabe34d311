"""QuantizedArray: codes with their parameters, and the functions between it and plain arrays."""

from typing import Any, Literal, overload

import numpy as np

from .. import _args, _check
from .._args import Array
from ..dtypes import CODE_TYPES
from ..errors import CalibrationError
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor, normalize_axis
from ..ops.histogram import CHOICES, Sketch, percentile_share
from ..ops.quantize import codes_of, dequantize_linear
from ..ops.reduce import extremes
from ..qparams import QParams, check_scheme
from .base import CodedArray
from .mx import MXArray, mx_format, quantize_blocks

__all__ = ["QuantizedArray", "choose_qparams", "dequantize", "dynamic_quantize", "quantize"]


def choose_qparams(
    x: Any,
    *,
    dtype: Any = "int8",
    granularity: Granularity | None = None,
    symmetric: bool = True,
    method: str = "minmax",
    percentile: float = 99.99,
) -> QParams:
    """Choose scale and zero point from the data.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel or PerGroup, default PerTensor()
    symmetric : bool, default True
    method : {"minmax", "mse", "entropy", "percentile"}
        "minmax" covers every finite element; the others choose a range by a histogram, as HistogramObserver does. (A
        moving average of one array is its "minmax".) QParams.from_range turns a range into parameters.
    percentile : float, default 99.99
        Percent of the elements inside the range, where method is "percentile".

    Returns
    -------
    QParams

    Raises
    ------
    TypeError
        x is not real, dtype no code type, granularity none.
    ValueError
        The axis does not fit x, method is unknown, or percentile not in (0, 100].
    CalibrationError
        x has elements, but none is finite.

    Examples
    --------
    >>> choose_qparams(np.array([[1.0, -2.54], [0.5, 0.0]]), granularity=PerChannel(0)).scale
    array([0.02      , 0.00393701], dtype=float32)
    """
    return _chosen("choose_qparams", x, dtype, granularity, symmetric, method, percentile)


def _chosen(
    owner: str,
    x: Any,
    dtype: Any,
    granularity: Granularity | None,
    symmetric: bool,
    method: str,
    percentile: float = 99.99,
) -> QParams:
    by_histogram = _args.choice(owner, "method", method, CHOICES) >= 0
    code = _args.code(owner, dtype, CODE_TYPES)
    check_scheme(owner, code, symmetric)
    share = percentile_share(owner, percentile)
    granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
    source, float_type = _args.real(owner, "x", x)
    if granularity.axis is not None:
        normalize_axis(owner, granularity.axis, source.ndim)
    if by_histogram:
        sketch = Sketch.of(source, float_type, granularity)
        low, high, nan, infinite = sketch.min, sketch.max, sketch.nan, sketch.infinite
    else:
        low, high, nan, infinite = extremes(source, float_type, granularity)
    empty = low > high
    if empty.any():
        if nan.any() or infinite.any():
            where = "" if low.ndim == 0 else f" in {int(empty.sum())} of {low.size} channels or groups"
            raise CalibrationError(_check.must(owner, "x", "finite somewhere", f"only NaN and infinities{where}"))
        low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    if by_histogram:
        low, high, _ = sketch.search(code, symmetric=symmetric, method=method, percentile=share)
    return QParams.from_range(low, high, dtype=code.dtype, symmetric=symmetric, granularity=granularity)


_Blocks = Literal["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4"]


@overload
def quantize(x: Any, qparams: None = None, *, dtype: _Blocks) -> MXArray: ...
@overload
def quantize(
    x: Any,
    qparams: QParams | None = None,
    *,
    dtype: Any = "int8",
    granularity: Granularity | None = None,
    symmetric: bool = True,
    method: str = "minmax",
) -> "QuantizedArray": ...
def quantize(
    x: Any,
    qparams: QParams | None = None,
    *,
    dtype: Any = "int8",
    granularity: Granularity | None = None,
    symmetric: bool = True,
    method: str = "minmax",
) -> "QuantizedArray | MXArray":
    """Quantize an array: with given parameters, or with those that choose_qparams finds.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    qparams : QParams, optional
        Given parameters; dtype, granularity, symmetric and method are then not looked at.
    dtype, granularity, symmetric, method
        As in choose_qparams; or dtype is the name of a format of blocks along the last axis, which leaves no choice of
        the others: "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4" or "nvfp4".

    Returns
    -------
    QuantizedArray
        Or MXArray, of a format of blocks.

    Raises
    ------
    TypeError, ValueError, CalibrationError
        As choose_qparams and quantize_linear; qparams is no QParams or does not fit x.

    Examples
    --------
    >>> w = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    >>> quantize(w, granularity=PerChannel(0)).codes
    array([[-127,  -76,  -25],
           [  25,   76,  127]], dtype=int8)
    """
    owner = "quantize"
    blocks = mx_format(dtype) if qparams is None else None
    if blocks is not None:
        if granularity is not None or not symmetric or method != "minmax":
            given = f"granularity={granularity}, symmetric={symmetric}, method={method!r}"
            wanted = f"left at their defaults for {blocks.name}"
            raise ValueError(_check.must(owner, "granularity, symmetric and method", wanted, given))
        return quantize_blocks(owner, x, blocks)
    source, _ = _args.real(owner, "x", x)
    if qparams is None:
        qparams = _chosen(owner, source, dtype, granularity, symmetric, method)
    return QuantizedArray._made(codes_of(owner, source, qparams), qparams)


def dynamic_quantize(x: Any, *, per: str = "row", dtype: Any = "int8", symmetric: bool = True) -> "QuantizedArray":
    """Quantize activations with parameters of their own: one for each row (token), or one for all.

    No calibration comes before it: every call finds the range of what it is given, as quantize without `qparams` does.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (..., features)
    per : {"row", "tensor"}
        One scale for each index of all axes but the last, or a single one.
    dtype : str or dtype, default "int8"
    symmetric : bool, default True

    Returns
    -------
    QuantizedArray
        Per row its granularity is ``PerTensor()`` for one axis, ``PerChannel(0)`` for two, and
        ``PerGroup(features)`` for more: then scale has the shape (..., 1).

    Raises
    ------
    TypeError
        x is not real, or dtype no code type.
    ValueError
        per is unknown.
    CalibrationError
        A row has elements, but none is finite.

    Examples
    --------
    >>> dynamic_quantize(np.array([[1.27, 0.5], [127.0, -3.0]])).codes
    array([[127,  50],
           [127,  -3]], dtype=int8)
    """
    owner = "dynamic_quantize"
    _args.choice(owner, "per", per, {"row": 0, "tensor": 1})
    source, _ = _args.real(owner, "x", x)
    granularity: Granularity = PerTensor()
    if per == "row" and source.ndim > 1:
        granularity = PerChannel(0) if source.ndim == 2 else PerGroup(max(source.shape[-1], 1))
    qparams = _chosen(owner, source, dtype, granularity, symmetric, "minmax")
    return QuantizedArray._made(codes_of(owner, source, qparams), qparams)


def dequantize(q: "QuantizedArray | MXArray", *, dtype: Any = "float32", out: Any = None) -> Array:
    """Turn quantized codes back into reals, as the method of the same name.

    Parameters
    ----------
    q : QuantizedArray or MXArray
    dtype : str or dtype, default "float32"
        float32, float64, float16 or bfloat16.
    out : ndarray, optional
        Exact dtype and shape, C-contiguous, writable.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> dequantize(quantize(np.array([1.0, -1.0], np.float32)))
    array([ 1., -1.], dtype=float32)
    """
    if not isinstance(q, (QuantizedArray, MXArray)):
        raise TypeError(_check.must("dequantize", "q", "a QuantizedArray or MXArray", _check.typed(q)))
    return q.dequantize(dtype, out)


class QuantizedArray(CodedArray):
    """An array of codes and the parameters that give them meaning.

    Parameters
    ----------
    codes : ndarray
        Of the dtype of `qparams`, inside its [qmin, qmax]; int4, uint4, int2, uint2 and float4 one code to an element.
    qparams : QParams

    Raises
    ------
    TypeError
        codes are of another dtype, or qparams is no QParams.
    ValueError
        The parameters do not fit the shape, or a code is outside [qmin, qmax].

    Notes
    -----
    NumPy operators do not dequantize silently: ``q + 1`` raises. ``np.asarray(q)`` dequantizes, since it asks for it.

    Examples
    --------
    >>> q = quantize(np.ones((4, 8), np.float32), granularity=PerChannel(0))
    >>> q
    QuantizedArray((4, 8), int8, per channel 0, scale=0.007874..0.007874 (4,), zero_point=0)
    >>> q[1:3].scale.shape, q.nbytes
    ((2,), 48)
    """

    __slots__ = ("qparams",)
    _kind = "dtype"

    qparams: QParams

    def __init__(self, codes: Any, qparams: QParams) -> None:
        owner = "QuantizedArray"
        array, code = _args.codes(owner, "codes", codes)
        params = _args.qparams(owner, qparams, array.shape)
        if code is not params.code:
            raise TypeError(_check.must(owner, "codes", f"an array of {params.code.name}", f"dtype {array.dtype}"))
        if not array.dtype.isnative:
            array = array.astype(code.dtype)  # what saves or pickles takes the bytes
        plain = _args.plain(array, code)
        if plain.size and (params.qmin, params.qmax) != (code.qmin, code.qmax):
            low, high = int(plain.min()), int(plain.max())
            if not params.qmin <= low <= high <= params.qmax:
                worst = low if low < params.qmin else high
                raise ValueError(_check.must(owner, "codes", f"in [{params.qmin}, {params.qmax}]", str(worst)))
        self.codes = array if plain is array else plain.view(code.dtype)
        self.qparams = params

    @classmethod
    def _made(cls, codes: Array, qparams: QParams) -> "QuantizedArray":
        """Join codes and parameters that are known to belong together."""
        made = object.__new__(cls)
        made.codes, made.qparams = codes, qparams
        return made

    @property
    def scale(self) -> Array:
        return self.qparams.scale

    @property
    def zero_point(self) -> Array:
        return self.qparams.zero_point

    @property
    def granularity(self) -> Granularity:
        return self.qparams.granularity

    @property
    def levels(self) -> int:
        """How many codes may occur."""
        return self.qparams.levels

    @property
    def nbytes(self) -> int:
        """Bytes in a file: codes at their bit width, scales and zero points."""
        return self.qparams.code.packed_nbytes(self.shape) + self.qparams.nbytes

    def dequantize(self, dtype: Any = "float32", out: Any = None) -> Array:
        """Return ``scale * (codes - zero_point)``.

        Parameters
        ----------
        dtype : str or dtype, default "float32"
            float32, float64, float16 or bfloat16.
        out : ndarray, optional
            Exact dtype and shape, C-contiguous, writable.

        Returns
        -------
        ndarray
            One float32 multiplication, rounded half to even; other dtypes convert that value.
        """
        axis, block_size = self.qparams.granularity.axis_block
        return dequantize_linear(
            self.codes, self.scale, self.zero_point, axis=axis, block_size=block_size, dtype=dtype, out=out
        )

    def __getitem__(self, key: Any) -> "QuantizedArray":
        """Slice with integers and slices; the parameters follow."""
        return QuantizedArray._made(np.asarray(self.codes[key]), sliced(self.qparams, self.shape, key))

    def _describe(self) -> list[str]:
        return self.qparams._describe()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedArray):
            return NotImplemented
        return self.qparams == other.qparams and np.array_equal(self.codes, other.codes)

    def __reduce__(self) -> Any:
        name = self.qparams.code.name  # as plain integers: pickles of ml_dtypes arrays depend on its version
        return _unpickle, (self.codes.view(self.qparams.code.storage), name, self.qparams)


def _unpickle(plain: Array, name: str, qparams: QParams) -> QuantizedArray:
    return QuantizedArray(plain.view(_args.code("QuantizedArray", name).dtype), qparams)


def sliced(params: QParams, shape: tuple[int, ...], key: Any) -> QParams:
    """The parameters of a basic slice."""
    keys = _check.basic_index("QuantizedArray", key, len(shape))
    granularity, scale, zero = params.granularity, params.scale, params.zero_point
    axis = granularity.axis_block[0]
    if axis is not None:
        # counted from the end if it was, so that the whole is equal to itself
        from_end = sum(isinstance(k, slice) for k in keys) if axis < 0 else 0
        axis %= len(shape)
        before = sum(not isinstance(k, slice) for k in keys[:axis])
        dropped = not isinstance(keys[axis], slice)
        if isinstance(granularity, PerGroup):
            size = granularity.group_size
            own = keys[axis]
            if own != slice(None):
                start, stop, step = own.indices(shape[axis]) if isinstance(own, slice) else (own, 0, 1)
                whole = isinstance(own, slice) and step == 1 and start % size == 0
                if not (whole and (stop % size == 0 or stop == shape[axis])):
                    wanted = f"whole groups of {size} on axis {axis}"
                    raise ValueError(_check.must("QuantizedArray", "index", wanted, _check.typed(own)))
                keys[axis] = slice(start // size, -(-stop // size))
            scale, zero = scale[tuple(keys)], zero[tuple(keys)]
            granularity = PerGroup(size, axis - before - from_end)
        else:
            scale, zero = scale[keys[axis]], zero[keys[axis]]
            granularity = PerTensor() if dropped else PerChannel(axis - before - from_end)
    return QParams(scale, zero, params.dtype, granularity, params.qmin, params.qmax)
