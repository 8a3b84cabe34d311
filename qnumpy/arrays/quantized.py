"""QuantizedArray: codes with their parameters; quantize and dequantize."""

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _args, _check
from .._index import Index
from .._packing import clean_rows, columns_of, unpack_rows
from .._typing import Array, BlockFormat, DTypeOf, Float32Array, Int32Array, ScalarT, Symmetric, WeightMethod
from ..dtypes import CodeType
from ..granularity import Granularity, Mesh
from ..ops.choose import GRIDS, Plan, choose
from ..ops.moments import SecondMoment
from ..ops.quantize import dequantize_packed, quantize_array, quantize_packed, reals_of
from ..ops.rounding import Rounded, matrix_of, round_weight
from ..qparams import QParams
from .base import CodedArray
from .codebook import CodebookArray
from .mx import MX_FORMATS, MXArray, mx_format, quantize_blocks
from .offset import OffsetArray

if TYPE_CHECKING:
    from .gguf import GGUFArray  # made of this module

__all__ = ["QuantizedArray", "dequantize", "quantize"]

Coded: TypeAlias = "QuantizedArray | MXArray | CodebookArray | OffsetArray | GGUFArray"


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
    symmetric: Symmetric | None = None,
    method: WeightMethod | None = None,
    moments: SecondMoment | None = None,
) -> "QuantizedArray": ...
def quantize(
    x: ArrayLike,
    qparams: QParams | None = None,
    *,
    dtype: DTypeLike | None = None,
    granularity: Granularity | None = None,
    symmetric: Symmetric | None = None,
    method: WeightMethod | None = None,
    moments: SecondMoment | None = None,
) -> "QuantizedArray | MXArray":
    """Quantize an array, with `qparams` or with the parameters that choose_qparams returns.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, any shape
    qparams : QParams, optional
        Beside it, dtype, granularity and symmetric are left out or say the same, and method is left out.
    dtype, granularity, symmetric, method
        As in choose_qparams; None means its defaults: int8, PerTensor(), True and "minmax".
        ``method="gptq"`` rounds a weight by the `moments` of its inputs, to the codes that change the outputs of the
        layer least, for integer types of at most 8 bits, per channel or group.
        ``granularity=PerRow()`` gives each row (token) of activations its own scale, without a calibration before. Or
        dtype names a format of blocks along the last axis, which fixes the others: "mxfp8_e4m3", "mxfp8_e5m2",
        "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4" or "nvfp4".
    moments : MomentsObserver, optional
        Of the inputs that the weight x multiplies, for the methods "gptq" and "mse", as in choose_qparams.

    Returns
    -------
    QuantizedArray
        MXArray for a format of blocks. Codes have the memory layout of `x` when that is a permutation of C order.

    Raises
    ------
    ValueError
        dtype is a format of blocks, and granularity, symmetric, method or moments is not its default.
    TypeError
        x is not real.
    TypeError, ValueError, CalibrationError
        Without qparams: as choose_qparams; for "gptq" moments are missing, or x is not finite.
    TypeError
        qparams is no QParams.
    ValueError
        qparams does not fit the shape of x.
    TypeError, ValueError
        dtype, granularity, symmetric, method or moments says something else than qparams.

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
    >>> x = np.random.default_rng(0).normal(size=(100, 3)).cumsum(axis=1)  # correlated inputs
    >>> moments = MomentsObserver().observe(x)
    >>> q = quantize(w, dtype="int2", granularity=PerChannel(0), method="gptq", moments=moments)
    >>> nearest = quantize(w, dtype="int2", granularity=PerChannel(0))
    >>> error = [np.square(x @ (part.dequantize() - w).T).mean() for part in (nearest, q)]
    >>> bool(error[1] < 0.5 * error[0])
    True
    """
    owner = "quantize"
    blocks = mx_format(dtype) if qparams is None else None
    if blocks is not None:
        if (
            granularity is not None
            or not (symmetric is None or (not _is_full(symmetric) and _check.flag(owner, "symmetric", symmetric)))
            or method not in (None, "minmax")
        ):
            got = f"granularity={granularity}, symmetric={symmetric}, method={method!r}"
            requirement = f"left at their defaults for {blocks.name}"
            raise ValueError(_check.must(owner, "granularity, symmetric and method", requirement, got))
        if moments is not None:
            raise ValueError(_check.must(owner, "moments", f"left out for {blocks.name}", _check.typed(moments)))
        return quantize_blocks(owner, x, blocks)
    source, float_type = _args.real(owner, "x", x)
    if qparams is None:
        dtype = "int8" if dtype is None else dtype
        _args.code(owner, dtype, more=MX_FORMATS)
        scheme, method = True if symmetric is None else symmetric, "minmax" if method is None else method
        _args.choice(owner, "method", method, {**GRIDS, "gptq": 4})
        if method == "gptq":
            plan = Plan.of(owner, source.shape, dtype, granularity, scheme, method, moments)
            return rounded(owner, "x", source, plan)[0]
        qparams = choose(
            owner, source, float_type, dtype, granularity, scheme, method, moments=moments
        )  # fmt: skip
        layout = _args.layout_of(owner, qparams.granularity, source.shape)
    else:
        layout = _args.qparams_layout(owner, qparams, source.shape)
        if dtype is not None and mx_format(dtype) is None:
            _args.code(owner, dtype, more=MX_FORMATS)
        _args.agree_with_qparams(owner, qparams, layout, source.shape, dtype, granularity, symmetric)
        if method is not None:
            requirement = "left out beside qparams, which are chosen already"
            raise ValueError(_check.must(owner, "method", requirement, _check.typed(method)))
        if moments is not None:
            requirement = "left out beside qparams, which are chosen already"
            raise ValueError(_check.must(owner, "moments", requirement, _check.typed(moments)))
    if not qparams.code.is_packed:
        codes = quantize_array(owner, source, float_type, layout, qparams)
        return QuantizedArray._of_held(codes, source.shape, qparams)
    order = _args.memory_order(source)
    rows = quantize_packed(source, float_type, layout, qparams, order)
    return QuantizedArray._of_held(rows, source.shape, qparams, order)


def _is_full(symmetric: Any) -> bool:
    return isinstance(symmetric, str) and symmetric == "full"


def rounded(
    owner: str, name: str, source: Array, plan: Plan, *, centered: bool = False, damping: float = 0.1
) -> tuple["QuantizedArray", Rounded | None]:
    """Round a weight by the moments of a checked plan; also return the objective, None of an empty weight."""
    assert plan.moments is not None
    if not np.isfinite(source).all():
        raise ValueError(_check.must(owner, name, "finite", "NaN or infinities"))
    if not source.size:
        return quantize(source, dtype=plan.code.name, granularity=plan.granularity), None
    w = matrix_of(owner, source, plan.rows, name)
    h = plan.moments.covariance(centered=centered)
    result = round_weight(w, h, plan.levels, plan.rows.group_size, damping=damping)
    codes = plan.rows.array(result.codes).astype(plan.code.dtype)
    return QuantizedArray._join(codes, plan.qparams(result.scale, result.zero)), result


@overload
def dequantize(
    q: "Coded", *, dtype: Literal["float32"] = "float32", out: Float32Array | None = None
) -> Float32Array: ...
@overload
def dequantize(q: "Coded", *, dtype: DTypeOf[ScalarT], out: NDArray[ScalarT] | None = None) -> NDArray[ScalarT]: ...
@overload
def dequantize(q: "Coded", *, dtype: DTypeLike = "float32", out: Array | None = None) -> Array: ...
def dequantize(q: "Coded", *, dtype: DTypeLike = "float32", out: Array | None = None) -> Array:
    """Turn codes back into reals: ``scale * (codes - zero_point)``.

    Parameters
    ----------
    q : QuantizedArray, MXArray, CodebookArray, OffsetArray or GGUFArray
    dtype : str or dtype, default "float32"
        float32, float64, float16 or bfloat16.
    out : ndarray, optional
        Exact dtype and shape, C-contiguous, writable.

    Returns
    -------
    ndarray
        One float32 multiplication, rounded half to even; then the offset of an OffsetArray is added and rounded.
        Another dtype is converted from that value.

    Raises
    ------
    TypeError
        q is none of these; dtype is no real type.
    TypeError, ValueError
        out: as in quantize_linear.

    Examples
    --------
    >>> dequantize(quantize(np.array([1.0, -1.0], np.float32)))
    array([ 1., -1.], dtype=float32)
    """
    owner = "dequantize"
    reals = getattr(q, "_reals", None)  # of a GGUFArray too, whose module needs this one
    if reals is None or not hasattr(type(q), "dequantize"):
        requirement = "a QuantizedArray, MXArray, CodebookArray, OffsetArray or GGUFArray"
        raise TypeError(_check.must(owner, "q", requirement, _check.typed(q)))
    return reals(owner, dtype, out)  # type: ignore[no-any-return]


class QuantizedArray(CodedArray):
    """An array of codes with the parameters of the reals that they stand for.

    Parameters
    ----------
    codes : ndarray
        Of the dtype of `qparams`, inside its [qmin, qmax]; int8 or uint8 for a type of 7, 6, 5 or 3 bits. An element
        holds one code, narrower than a byte too.
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
    Codes narrower than a byte are held packed along the last axis, in C order; `codes` unpacks them on each access into
    a read-only array. Other codes are held as they are, and `codes` is that array. `dtype` is that of the codes.

    An index is one of NumPy's: integers, slices, None and arrays of integers or booleans; the parameters follow. Groups
    must stay whole, and rows keep their last axis.

    ``np.asarray(q)`` and ``np.array(q)`` dequantize, to float32 or to the real dtype they are asked for. Every other
    function of NumPy and every operator raises TypeError; np.shape, np.ndim and np.size work. ``q == r`` compares
    parameters and codes, these by their bytes: a NaN code equals itself, the codes of 0 and -0 differ.

    Examples
    --------
    >>> q = quantize(np.ones((4, 8), np.float32), granularity=PerChannel(0))
    >>> q[:2, :4]
    QuantizedArray((2, 4), int8, per channel 0, scale=0.007874..0.007874 (2,), zero_point=0)
    [[1. 1. 1. 1.]
     [1. 1. 1. 1.]]
    >>> q[[3, 0, 3]].scale.shape, q.T.granularity, q.nbytes
    ((3,), PerChannel(axis=1), 48)
    """

    __slots__ = ("qparams",)
    _type_label = "dtype"

    qparams: QParams

    def __init__(self, codes: ArrayLike, qparams: QParams) -> None:
        owner = "QuantizedArray"
        array, code = _args.codes(owner, "codes", codes)
        params = _args.qparams(owner, qparams, array.shape)
        if code.dtype != params.code.dtype:
            raise TypeError(_check.must(owner, "codes", f"an array of {params.code.dtype}", f"dtype {array.dtype}"))
        if not array.dtype.isnative:
            array = array.astype(code.dtype)  # files and pickles store the bytes
        _check_range(owner, array, params)
        self.qparams = params
        self._hold(array)

    @classmethod
    def _join(cls, codes: Array, qparams: QParams) -> "QuantizedArray":
        """Make an array of checked codes, one to an element, and parameters."""
        result = object.__new__(cls)
        result.qparams = qparams
        result._hold(codes)
        return result

    @classmethod
    def _of_held(
        cls, held: Array, shape: tuple[int, ...], qparams: QParams, order: tuple[int, ...] | None = None
    ) -> "QuantizedArray":
        """Make an array of what another one held: codes, or rows of packed bytes in the order of some axes."""
        result = object.__new__(cls)
        result._memory, result._shape, result.qparams = (held, order), shape, qparams
        return result

    @classmethod
    def _of_rows(cls, rows: Array, shape: tuple[int, ...], qparams: QParams) -> "QuantizedArray":
        """Make an array of rows of packed bytes that a file holds; check them, without a copy."""
        owner, code = "QuantizedArray", qparams.code
        _args.qparams(owner, qparams, shape)
        step = max(_BAND // max(columns_of(shape), 1), 1)  # rows of a band, which is unpacked to be checked
        flat = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
        for first in range(0, len(flat), step):
            band = flat[first : first + step]
            _check_range(owner, unpack_rows(band, code, (len(band), columns_of(shape))), qparams)
        return cls._of_held(clean_rows(rows, code, shape), shape, qparams)

    @property
    def _code(self) -> CodeType:
        return self.qparams.code

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
        """Bytes in memory and in a file: codes at their bit width, scales and zero points."""
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
        return self._reals("QuantizedArray.dequantize", dtype, out)

    def _reals(self, owner: str, dtype: DTypeLike, out: Array | None) -> Array:
        params = self.qparams
        if not params.code.is_packed:
            return reals_of(owner, self._held, params, dtype, out)
        held, order = self._memory
        if out is not None and order is not None:
            held, order = self._held, None  # out is in C order
        layout = _args.layout_of(owner, params.granularity, self._shape)
        return dequantize_packed(
            owner, held, params.code, self._shape, layout, params.scale, params.zero_point, dtype, out, order
        )

    def _reals_at(self, codes: Array, mesh: Mesh) -> Array:
        granularity, real = self.qparams.granularity, self.qparams.code.real
        scale = granularity.at(self.scale, mesh)
        if real is not None:
            return codes.astype(np.float32) * scale
        steps = codes.astype(np.int32) - granularity.at(self.zero_point, mesh)
        return np.asarray(steps.astype(np.float32) * scale)

    def _remade(self, held: Array, shape: tuple[int, ...], params: QParams) -> "QuantizedArray":
        return self._of_held(held, shape, params)

    def _params_of_index(self, index: Index) -> QParams:
        return self.qparams._indexed(index, "QuantizedArray")

    def _params_of_order(self, order: tuple[int, ...]) -> QParams:
        return self.qparams._permuted(order, self._shape)

    def _params_of_shape(self, shape: tuple[int, ...]) -> QParams | None:
        return self.qparams._reshaped(self._shape, shape)

    def _copied_params(self) -> QParams:
        return self.qparams  # immutable

    def _describe(self) -> list[str]:
        return self.qparams._describe()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedArray):
            return NotImplemented
        return self.qparams == other.qparams and self._same_codes(other)

    def __reduce__(self) -> Any:
        # plain integers: pickles of ml_dtypes arrays depend on the version of ml_dtypes
        held = self._held if self._code.is_packed else self._held.view(self._code.storage)
        return _unpickle_held, (held, self._shape, self.qparams)


_BAND = 1 << 17  # codes


def _check_range(owner: str, codes: Array, params: QParams) -> None:
    """Raise ValueError for a code outside [qmin, qmax] of the parameters."""
    code = params.code
    full = (params.qmin, params.qmax) == (code.qmin, code.qmax)
    if not codes.size or (full and not code.is_named):  # then an element holds no other code
        return
    plain = _args.plain(codes, code)
    low, high = int(plain.min()), int(plain.max())
    if not params.qmin <= low <= high <= params.qmax:
        worst = low if low < params.qmin else high
        raise ValueError(_check.must(owner, "codes", f"in [{params.qmin}, {params.qmax}]", str(worst)))


def _unpickle_held(held: Array, shape: tuple[int, ...], qparams: QParams) -> QuantizedArray:
    if qparams.code.is_packed:
        return QuantizedArray._of_rows(held, shape, qparams)
    return QuantizedArray(held.view(qparams.code.dtype), qparams)


def _unpickle(plain: Array, name: str, qparams: QParams) -> QuantizedArray:
    """Read a pickle of version 0.1.0, which has one code to an element."""
    return QuantizedArray(plain.view(_args.code("QuantizedArray", name).dtype), qparams)
