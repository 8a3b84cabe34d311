"""QuantizedArray: codes with their parameters; quantize and dequantize."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _args, _check
from .._typing import Array, BlockFormat, DTypeOf, Float32Array, Int32Array, Method, ScalarT
from ..granularity import Granularity
from ..ops.choose import choose
from ..ops.quantize import quantize_array, reals_of
from ..qparams import QParams
from .base import CodedArray
from .mx import MXArray, mx_format, quantize_blocks

__all__ = ["QuantizedArray", "dequantize", "quantize"]


@overload
def quantize(  # type: ignore[overload-overlap]  # the name of a block format is a str, as a dtype may be
    x: ArrayLike, qparams: None = None, *, dtype: BlockFormat
) -> MXArray: ...
@overload
def quantize(
    x: ArrayLike,
    qparams: QParams | None = None,
    *,
    dtype: DTypeLike | None = None,
    granularity: Granularity | None = None,
    symmetric: bool | None = None,
    method: Method | None = None,
) -> "QuantizedArray": ...
def quantize(
    x: ArrayLike,
    qparams: QParams | None = None,
    *,
    dtype: DTypeLike | None = None,
    granularity: Granularity | None = None,
    symmetric: bool | None = None,
    method: Method | None = None,
) -> "QuantizedArray | MXArray":
    """Quantize an array, with `qparams` or with the parameters that choose_qparams returns.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    qparams : QParams, optional
        Beside it, dtype, granularity and symmetric are left out or say the same, and method is left out.
    dtype, granularity, symmetric, method
        As in choose_qparams; None means its defaults: int8, PerTensor(), True and "minmax".
        ``granularity=PerRow()`` gives each row (token) of activations its own scale, without a calibration before. Or
        dtype names a format of blocks along the last axis, which fixes the others: "mxfp8_e4m3", "mxfp8_e5m2",
        "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4" or "nvfp4".

    Returns
    -------
    QuantizedArray
        MXArray for a format of blocks. Codes have the memory layout of `x` when that is a permutation of C order.

    Raises
    ------
    ValueError
        dtype is a format of blocks, and granularity, symmetric or method is not its default.
    TypeError
        x is not real.
    TypeError, ValueError, CalibrationError
        Without qparams: as choose_qparams.
    TypeError
        qparams is no QParams.
    ValueError
        qparams does not fit the shape of x.
    TypeError, ValueError
        dtype, granularity, symmetric or method says something else than qparams.

    Notes
    -----
    Rounds half to even, once, as quantize_linear. NaN becomes the zero point, infinities saturate.

    Examples
    --------
    >>> quantize(np.array([[1.27, 0.5], [127.0, -3.0]]), granularity=PerRow()).codes
    array([[127,  50],
           [127,  -3]], dtype=int8)
    >>> w = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    >>> quantize(w, granularity=PerChannel(0)).codes
    array([[-127,  -76,  -25],
           [  25,   76,  127]], dtype=int8)
    """
    owner = "quantize"
    blocks = mx_format(dtype) if qparams is None else None
    if blocks is not None:
        if (
            granularity is not None
            or not (symmetric is None or _check.flag(owner, "symmetric", symmetric))
            or method not in (None, "minmax")
        ):
            got = f"granularity={granularity}, symmetric={symmetric}, method={method!r}"
            requirement = f"left at their defaults for {blocks.name}"
            raise ValueError(_check.must(owner, "granularity, symmetric and method", requirement, got))
        return quantize_blocks(owner, x, blocks)
    source, float_type = _args.real(owner, "x", x)
    if qparams is None:
        qparams = choose(
            owner, source, float_type, "int8" if dtype is None else dtype, granularity,
            True if symmetric is None else symmetric, "minmax" if method is None else method,
        )  # fmt: skip
        layout = _args.layout_of(owner, qparams.granularity, source.shape)
    else:
        layout = _args.qparams_layout(owner, qparams, source.shape)
        if dtype is not None and mx_format(dtype) is None:
            _args.code(owner, dtype)
        _args.agree_with_qparams(owner, qparams, layout, source.shape, dtype, granularity, symmetric)
        if method is not None:
            requirement = "left out beside qparams, which are chosen already"
            raise ValueError(_check.must(owner, "method", requirement, _check.typed(method)))
    return QuantizedArray._join(quantize_array(owner, source, float_type, layout, qparams), qparams)


@overload
def dequantize(
    q: "QuantizedArray | MXArray", *, dtype: Literal["float32"] = "float32", out: Float32Array | None = None
) -> Float32Array: ...
@overload
def dequantize(
    q: "QuantizedArray | MXArray", *, dtype: DTypeOf[ScalarT], out: NDArray[ScalarT] | None = None
) -> NDArray[ScalarT]: ...
@overload
def dequantize(q: "QuantizedArray | MXArray", *, dtype: DTypeLike = "float32", out: Array | None = None) -> Array: ...
def dequantize(q: "QuantizedArray | MXArray", *, dtype: DTypeLike = "float32", out: Array | None = None) -> Array:
    """Turn codes back into reals: ``scale * (codes - zero_point)``.

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
        One float32 multiplication, rounded half to even; another dtype is converted from that value.

    Raises
    ------
    TypeError
        q is no QuantizedArray or MXArray; dtype is no real type.
    TypeError, ValueError
        out: as in quantize_linear.

    Examples
    --------
    >>> dequantize(quantize(np.array([1.0, -1.0], np.float32)))
    array([ 1., -1.], dtype=float32)
    """
    owner = "dequantize"
    if isinstance(q, QuantizedArray):
        return reals_of(owner, q.codes, q.qparams, dtype, out)
    if not isinstance(q, MXArray):
        raise TypeError(_check.must(owner, "q", "a QuantizedArray or MXArray", _check.typed(q)))
    return q._reals(owner, dtype, out)


class QuantizedArray(CodedArray):
    """An array of codes with the parameters of the reals that they stand for.

    Parameters
    ----------
    codes : ndarray
        Of the dtype of `qparams`, inside its [qmin, qmax]. An element holds one code, of 4 and 2 bits too.
    qparams : QParams

    Raises
    ------
    TypeError
        codes are of no code type; qparams is no QParams.
    ValueError
        qparams does not fit the shape of codes.
    TypeError
        codes are of another dtype than qparams.
    ValueError
        A code is outside [qmin, qmax].

    Notes
    -----
    NumPy operators do not dequantize: ``q + 1`` raises. ``np.asarray(q)`` dequantizes.

    Examples
    --------
    >>> q = quantize(np.ones((4, 8), np.float32), granularity=PerChannel(0))
    >>> q
    QuantizedArray((4, 8), int8, per channel 0, scale=0.007874..0.007874 (4,), zero_point=0)
    >>> q[1:3].scale.shape, q.nbytes
    ((2,), 48)
    """

    __slots__ = ("qparams",)
    _type_label = "dtype"

    qparams: QParams

    def __init__(self, codes: ArrayLike, qparams: QParams) -> None:
        owner = "QuantizedArray"
        array, code = _args.codes(owner, "codes", codes)
        params = _args.qparams(owner, qparams, array.shape)
        if code is not params.code:
            raise TypeError(_check.must(owner, "codes", f"an array of {params.code.name}", f"dtype {array.dtype}"))
        if not array.dtype.isnative:
            array = array.astype(code.dtype)  # files and pickles store the bytes
        plain = _args.plain(array, code)
        if plain.size and (params.qmin, params.qmax) != (code.qmin, code.qmax):
            low, high = int(plain.min()), int(plain.max())
            if not params.qmin <= low <= high <= params.qmax:
                worst = low if low < params.qmin else high
                raise ValueError(_check.must(owner, "codes", f"in [{params.qmin}, {params.qmax}]", str(worst)))
        self.codes = array if plain is array else plain.view(code.dtype)
        self.qparams = params

    @classmethod
    def _join(cls, codes: Array, qparams: QParams) -> "QuantizedArray":
        """Make an array of checked codes and parameters."""
        result = object.__new__(cls)
        result.codes, result.qparams = codes, qparams
        return result

    @property
    def scale(self) -> Float32Array:
        return self.qparams.scale

    @property
    def zero_point(self) -> Int32Array:
        return self.qparams.zero_point

    @property
    def granularity(self) -> Granularity:
        return self.qparams.granularity

    @property
    def levels(self) -> int:
        """The number of codes from qmin to qmax."""
        return self.qparams.levels

    @property
    def nbytes(self) -> int:
        """Bytes in a file: codes at their bit width, scales and zero points."""
        return self.qparams.code.packed_nbytes(self.shape) + self.qparams.nbytes

    @overload
    def dequantize(self, dtype: Literal["float32"] = "float32", out: Float32Array | None = None) -> Float32Array: ...
    @overload
    def dequantize(self, dtype: DTypeOf[ScalarT], out: NDArray[ScalarT] | None = None) -> NDArray[ScalarT]: ...
    @overload
    def dequantize(self, dtype: DTypeLike = "float32", out: Array | None = None) -> Array: ...
    def dequantize(self, dtype: DTypeLike = "float32", out: Array | None = None) -> Array:
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
            One float32 multiplication, rounded half to even; another dtype is converted from that value.
        """
        return reals_of("QuantizedArray.dequantize", self.codes, self.qparams, dtype, out)

    def __getitem__(self, key: Any) -> "QuantizedArray":
        """Slice with integers and slices; the parameters follow."""
        codes = np.asarray(self.codes[key])
        return self._join(codes, self.qparams.sliced(self.shape, key, "QuantizedArray"))

    def _describe(self) -> list[str]:
        return self.qparams._describe()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedArray):
            return NotImplemented
        return self.qparams == other.qparams and np.array_equal(self.codes, other.codes)

    def __reduce__(self) -> Any:
        name = self.qparams.code.name  # plain integers: pickles of ml_dtypes arrays depend on the version of ml_dtypes
        return _unpickle, (self.codes.view(self.qparams.code.storage), name, self.qparams)


def _unpickle(plain: Array, name: str, qparams: QParams) -> QuantizedArray:
    return QuantizedArray(plain.view(_args.code("QuantizedArray", name).dtype), qparams)
