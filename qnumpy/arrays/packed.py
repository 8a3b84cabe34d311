"""PackedWeight: a quantized weight, packed once for products with any activations."""

import math
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from .. import _args, _check
from .._tables import html_facts
from .._typing import Array, DType, Float32Array, RealLike
from ..dtypes import CODE_TYPES, REAL_TYPES, float_type
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor, normalize_axis
from ..ops.packed4 import GROUP_SIZES, Packed4
from ..ops.packed8 import Activations, Output, Packed8
from ..ops.quantize import codes_of, quantize_linear
from ..ops.reduce import extremes
from ..qparams import QParams, grid_of_range
from .quantized import QuantizedArray

__all__ = ["PackedWeight", "qmatmul"]

_FLOAT32 = REAL_TYPES["float32"]
_PER_TENSOR, _PER_ROW = PerTensor(), PerRow()
_HALF = np.finfo(np.float16)
_SUMS = ("every sum of codes", "in the range of int32", "one that is not")


class PackedWeight:
    """A quantized weight, packed once; ``x @ packed`` multiplies reals by it.

    x is quantized to 8 bits, and the sums ``acc`` of ``(qx - Zx) * (qw - Zw)`` are exact. A weight with a scale for
    each column has one sum for each element of y: ``y = clip(float32(acc) * (Sx * Sw) + bias)``. A weight in groups
    has one sum for each group, and x is quantized in the same groups:
    ``y = clip(sum over groups of float32(acc) * (Sx * Sw) + bias)``.

    Parameters
    ----------
    w : QuantizedArray, shape (K, N)
        int8, uint8, int4 or uint4 per tensor or per channel on the axis of N, which are stored in 8 bits; int4 or uint4
        in groups of 16, 32, 64 or 128 along K, which are stored in 4 bits.
    bias : array_like of floats, shape (N,), optional
        Added in float32.
    axis : int, default 0
        The axis of w that is K: 1 for weights of shape (N, K), as PyTorch stores them.
    clip : (low, high), optional
        Bounds of y, None for no bound: ``(0, None)`` is a ReLU. NaN stays NaN.
    x_granularity : PerRow, PerTensor or PerGroup, optional
        Of the quantization of x: PerRow() or PerTensor(); for a w in groups also PerGroup(group_size), the groups of w
        along the last axis of x. The default is the groups of w, without groups PerRow().
    symmetric : bool, default True
        Quantize x to int8 around 0, or to uint8 with a zero point.
    activation_bits : {8, 7}
        Codes of x in [-63, 63] or [0, 127] in place of [-127, 127] or [0, 255], as saturating libraries need them; on
        AVX2 products of many rows are then up to 1.2 times as fast.
    x_qparams : QParams, optional
        Parameters of x, per tensor, int8 or uint8. They replace x_granularity, symmetric and activation_bits, and the
        range of x is not measured.
    out_qparams : QParams, optional
        Return codes with these parameters, per tensor, int8 or uint8, instead of float32.
    scale_dtype : {"float32", "float16"}
        Type in which the scales of groups are stored; float16 rounds them half to even.

    Attributes
    ----------
    shape : tuple of int
        (K, N).
    qparams : QParams
        Those of the weight as (K, N).
    bias : ndarray of float32 or None
    nbytes : int
        Bytes of the packed codes, their parameters and sums, and the bias.

    Raises
    ------
    TypeError
        w is no QuantizedArray.
    ValueError
        w is not 2-D.
    TypeError
        axis is not an integer.
    ValueError
        axis is neither 0 nor 1.
    TypeError
        w is of another type of codes.
    ValueError
        w is of another granularity; scale_dtype is neither float32 nor float16, or is float16 for a w without groups.
    TypeError
        bias is not real.
    ValueError
        bias is not of shape (N,).
    TypeError
        clip is no pair of numbers or None.
    ValueError
        The bounds of clip are not in order; float16 does not hold a scale.
    TypeError
        x_granularity is no granularity.
    ValueError
        x_granularity is not allowed for w.
    TypeError
        activation_bits is not an integer.
    ValueError
        activation_bits is neither 8 nor 7.
    TypeError
        x_qparams or out_qparams is no QParams.
    ValueError
        x_qparams or out_qparams is not per tensor, or not of int8 or uint8.

    Notes
    -----
    x is converted to float32 and quantized as ``quantize(x, granularity=x_granularity)`` does, half to even. NaN
    becomes 0 and is left out of the range. Every float32 operation is rounded once and none is fused, so y has the same
    bits on every ISA and thread count.

    With out_qparams y is quantized. If the scale of x does not depend on x (x_qparams, or codes per tensor) and w has a
    scale for each column, y is computed in integers instead:
    ``saturate(round_half_even(float32(acc + b) * (Sx * Sw / Sy)) + Zy)``, where b is ``bias / (Sx * Sw)`` rounded half
    to even.

    With G groups y is within ``(G + 2) * 2**-24 * sum(|x| |w|)``, to first order, of the product of the dequantized
    values. A PackedWeight is immutable, so threads may share it; a pickle holds the codes of w.

    Examples
    --------
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    >>> packed = PackedWeight(quantize(w, granularity=PerChannel(1)), bias=[0.0, 0.0, 1.0], clip=(0, None))
    >>> packed
    PackedWeight((4, 3), int8 per channel 1, x int8 per row, bias, clip (0, inf))
    >>> (np.ones((2, 4), np.float32) @ packed).round(2)
    array([[0.  , 0.  , 1.72],
           [0.  , 0.  , 1.72]], dtype=float32)
    """

    __slots__ = ("_input", "_out_qparams", "_reals", "_scale_dtype", "_storage", "bias", "qparams", "shape")
    __array_ufunc__ = None  # NumPy leaves x @ packed to __rmatmul__

    shape: tuple[int, int]
    qparams: QParams
    bias: Float32Array | None
    _storage: Packed8 | Packed4
    _reals: Output  # the conversion of the sums to float32

    def __init__(
        self,
        w: QuantizedArray,
        *,
        bias: RealLike | None = None,
        axis: int = 0,
        clip: tuple[float | None, float | None] = (None, None),
        x_granularity: Granularity | None = None,
        symmetric: bool = True,
        activation_bits: int = 8,
        x_qparams: QParams | None = None,
        out_qparams: QParams | None = None,
        scale_dtype: DType = "float32",
    ) -> None:
        owner = "PackedWeight"
        self._pack(owner, "w", w, axis, bias, clip, scale_dtype)
        self._input = _Input.of(owner, self.qparams, x_granularity, symmetric, activation_bits, x_qparams)
        self._out_qparams = None if out_qparams is None else _eight_bits(owner, "out_qparams", out_qparams)

    def _pack(self, owner: str, name: str, w: Any, axis: Any, bias: Any, clip: Any, scale_dtype: Any) -> None:
        """Check the arguments that belong to the weight, and choose its storage."""
        if not isinstance(w, QuantizedArray):
            raise TypeError(_check.must(owner, name, "a QuantizedArray", _check.typed(w)))
        if w.ndim != 2:
            raise ValueError(_check.must(owner, name, "2-D", f"shape {w.shape}"))
        codes, params = _oriented(w, normalize_axis(owner, _check.integer(owner, "axis", axis), 2))
        group_size = _group_size(owner, name, params)
        self._scale_dtype = _scale_dtype(owner, scale_dtype, group_size)
        self.shape = codes.shape
        self.bias = None if bias is None else _vector(owner, "bias", bias, self.shape[1])
        self._reals = Output(self.bias, *_bounds(owner, clip))
        plain = _args.plain(codes, params.code)
        if group_size is None:
            column_scale = np.array(np.broadcast_to(params.scale, self.shape[1:]))
            self._storage = Packed8(plain, params.zero_point, column_scale)
        else:
            half = self._scale_dtype == "float16"
            params = _of_half_scales(owner, name, params) if half else params
            zero = None if params.symmetric else params.zero_point
            self._storage = Packed4(plain, params.scale, zero, group_size, half)
        self.qparams = params

    @property
    def ndim(self) -> int:
        return 2

    @property
    def nbytes(self) -> int:
        return self._storage.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def unpack(self) -> QuantizedArray:
        """Return the weight, of shape (K, N), as it was packed."""
        return QuantizedArray(self._storage.codes().view(self.qparams.code.dtype), self.qparams)

    def __rmatmul__(self, x: RealLike | QuantizedArray) -> Float32Array | QuantizedArray:
        return self.matmul(x)

    def matmul(self, x: RealLike | QuantizedArray, *, out: Array | None = None) -> Float32Array | QuantizedArray:
        """Return ``x @ self``.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, or QuantizedArray, shape (..., K)
            Codes must be int8 or uint8: per tensor, per row (per channel on axis 0 of a matrix is the same), or in the
            groups of a weight in groups. Their parameters replace those of the PackedWeight for x.
        out : ndarray, optional
            Of shape (..., N) and of float32 or the type of out_qparams; C-contiguous, writable, apart from x.

        Returns
        -------
        ndarray of float32, or QuantizedArray if there are out_qparams

        Raises
        ------
        TypeError
            x or out is of another type.
        ValueError
            The shape of x or out does not fit.
        OverflowError
            A sum of codes does not fit in int32.
        """
        owner = "PackedWeight.matmul"
        if isinstance(x, QuantizedArray):
            return self._product_of_codes(owner, "x", x, out)
        if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and not isinstance(x, np.ma.MaskedArray):
            text = _check.must(owner, "x", "an array of floats or a QuantizedArray", f"dtype {x.dtype}")
            raise TypeError(text + " Use matmul_integer for plain codes.")
        source, _ = _args.real(owner, "x", x)
        rows = self._rows(owner, "x", source.shape)
        y = self._result(owner, out, source)
        with np.errstate(over="ignore"):
            x32 = np.require(source, np.float32, ["C", "A"])
        activations = self._input.activations_of(x32)
        output = self._output(owner, self._input.activations.scale)  # 0 if the scale depends on x
        target = y if self._out_qparams is None or output is not self._reals else np.empty(y.shape, np.float32)
        if not self._storage.multiply(x32, rows, activations, output, target):
            raise OverflowError(_check.must(owner, *_SUMS))
        return self._finish(owner, target, y)

    def _product_of_codes(
        self, owner: str, name: str, x: QuantizedArray, out: Array | None
    ) -> Float32Array | QuantizedArray:
        params = x.qparams
        per_tensor = isinstance(params.granularity, PerTensor)
        if _bits(params) != 8 or not (per_tensor or self._input.takes(params.granularity, x.ndim)):
            got = f"{params.code.name} {params.granularity.describe()}"
            raise TypeError(_check.must(owner, name, f"of int8 or uint8 {self._input.allowed}", got))
        rows = self._rows(owner, name, x.shape)
        y = self._result(owner, out, x.codes)
        output = self._output(owner, float(params.scale) if per_tensor else 0.0)
        target = y if self._out_qparams is None or output is not self._reals else np.empty(y.shape, np.float32)
        scale, zero = params.scale, params.zero_point
        if not self._storage.multiply_codes(x.codes, params.code.core, rows, scale, zero, output, target):
            raise OverflowError(_check.must(owner, *_SUMS))
        return self._finish(owner, target, y)

    def _rows(self, owner: str, name: str, shape: tuple[int, ...]) -> int:
        if not shape or shape[-1] != self.shape[0]:
            raise ValueError(_check.must(owner, name, f"of shape (..., {self.shape[0]})", f"shape {shape}"))
        return math.prod(shape[:-1])

    def _result(self, owner: str, out: Any, source: Array) -> Array:
        dtype = _FLOAT32.dtype if self._out_qparams is None else self._out_qparams.code.storage
        return _args.output(owner, out, dtype, (*source.shape[:-1], self.shape[1]), source)

    def _output(self, owner: str, x_scale: float) -> Output:
        """Return the conversion of the sums: to codes if there are out_qparams and the scale of a sum is known.

        It is x_scale times the scale of the column. x_scale is 0 if x has several scales, or one that depends on x.
        """
        params, column_scale = self._out_qparams, self._storage.column_scale
        if params is None or column_scale is None or not x_scale:
            return self._reals
        unit = np.float32(x_scale) * column_scale
        acc_bias = None
        if self.bias is not None:
            exact = np.rint(self.bias.astype(np.float64) / unit)
            if not (np.abs(exact) < 2.0**31).all():
                raise OverflowError(_check.must(owner, "bias", "in the range of int32 in units of the sums", "more"))
            acc_bias = exact.astype(np.int32)
        bounds = np.array([self._reals.low, self._reals.high], np.float32)
        low, high = quantize_linear(bounds, params.scale, params.zero_point, dtype=params.dtype)
        return Output(
            None, self._reals.low, self._reals.high, params.code.core, unit / params.scale, acc_bias,
            int(params.zero_point), max(int(low), params.qmin), min(int(high), params.qmax),
        )  # fmt: skip

    def _finish(self, owner: str, target: Array, y: Array) -> Float32Array | QuantizedArray:
        params = self._out_qparams
        if params is None:
            return y
        if target is not y:
            y[...] = codes_of(owner, target, params)
        return QuantizedArray._join(y, params)  # the codes saturate to the range of params

    def __repr__(self) -> str:
        return f"PackedWeight({', '.join([str(self.shape), *self._describe()])})"

    def _repr_html_(self) -> str:
        weight, *rest = self._describe()
        rows = [("shape", str(self.shape)), ("weight", weight), ("product", ", ".join(rest))]
        rows.append(("bytes", f"{math.prod(self.shape) * 4:,} as float32, {self.nbytes:,} here"))
        return html_facts("PackedWeight", rows)

    def _describe(self) -> list[str]:
        parts = [f"{self.qparams.code.name} {self.qparams.granularity.describe()}", str(self._input)]
        if self.bias is not None:
            parts.append("bias")
        low, high = self._reals.low, self._reals.high
        if (low, high) != (-math.inf, math.inf):
            parts.append(f"clip ({low:g}, {high:g})")
        if self._out_qparams is not None:
            parts.append(f"-> {self._out_qparams.code.name}")
        return parts

    def __reduce__(self) -> Any:
        options = {
            "bias": self.bias, "clip": (self._reals.low, self._reals.high), "out_qparams": self._out_qparams,
            "scale_dtype": self._scale_dtype, **self._input.options(),
        }  # fmt: skip
        return _unpickle, (self.unpack(), options)


@overload
def qmatmul(
    a: QuantizedArray, b: QuantizedArray, *, bias: RealLike | None = None, out_qparams: None = None
) -> Float32Array: ...
@overload
def qmatmul(
    a: QuantizedArray, b: QuantizedArray, *, bias: RealLike | None = None, out_qparams: QParams
) -> QuantizedArray: ...
def qmatmul(
    a: QuantizedArray, b: QuantizedArray, *, bias: RealLike | None = None, out_qparams: QParams | None = None
) -> Float32Array | QuantizedArray:
    """Multiply two quantized matrices: an exact product of the codes, converted to reals or codes in the same pass.

    ``y = float32(acc) * (Sa * Sb) + bias``; with out_qparams
    ``saturate(round_half_even(float32(acc + round_half_even(bias / (Sa * Sb))) * (Sa * Sb / Sy)) + Zy)``. Groups: as
    PackedWeight.

    Parameters
    ----------
    a : QuantizedArray of int8 or uint8, shape (..., K)
        Per tensor, per row (per channel on axis 0 of a matrix is the same), or in the groups of b if it has some.
    b : QuantizedArray of int8, uint8, int4 or uint4, shape (K, N)
        Per tensor or per channel on axis 1; int4 and uint4 also in groups of 16, 32, 64 or 128 along K.
    bias : array_like of floats, shape (N,), optional
    out_qparams : QParams, optional
        Per tensor, int8 or uint8.

    Returns
    -------
    ndarray of float32, or QuantizedArray if there are out_qparams
        Shape (..., N).

    Raises
    ------
    TypeError
        a or b is no QuantizedArray.
    TypeError, ValueError
        b, bias or out_qparams: as in PackedWeight, in its order.
    TypeError
        a is of another type or granularity.
    ValueError
        The last axis of a has another length than the first axis of b.
    OverflowError
        A sum of codes does not fit in int32.

    Notes
    -----
    Rounds half to even. PackedWeight(b) packs b once for many products.

    Examples
    --------
    >>> a = quantize(np.array([[1.0, 2.0]], np.float32), dtype="uint8", symmetric=False)
    >>> b = quantize(np.array([[0.5, -1.0], [0.25, 1.0]], np.float32))
    >>> qmatmul(a, b).round(2)
    array([[1.01, 1.  ]], dtype=float32)
    """
    owner = "qmatmul"
    if not isinstance(a, QuantizedArray):
        raise TypeError(_check.must(owner, "a", "a QuantizedArray", _check.typed(a)))
    packed = object.__new__(PackedWeight)  # not the constructor: errors name qmatmul
    packed._pack(owner, "b", b, 0, bias, (None, None), "float32")
    packed._input = _Input.of(owner, packed.qparams, None, True, 8, None)
    packed._out_qparams = None if out_qparams is None else _eight_bits(owner, "out_qparams", out_qparams)
    return packed._product_of_codes(owner, "a", a, None)


@dataclass(frozen=True, slots=True)
class _Input:
    """The quantization of x.

    Attributes
    ----------
    granularity : PerRow, PerTensor or PerGroup
    groups : PerGroup or None
        The groups of the weight, along the last axis of x.
    bits : int
        8 or 7.
    activations : Activations
        The arguments of the kernels. Per tensor and without `qparams`, `activations_of` adds the scale of each x.
    qparams : QParams or None
        The x_qparams of the user, if any.
    """

    granularity: Granularity
    groups: PerGroup | None
    bits: int
    activations: Activations
    qparams: QParams | None = None

    @classmethod
    def of(cls, owner: str, weight: QParams, granularity: Any, symmetric: Any, bits: Any, qparams: Any) -> "_Input":
        symmetric = _check.flag(owner, "symmetric", symmetric)
        size = weight.granularity.group_size
        groups = None if size is None else PerGroup(size)
        choices = [_PER_ROW, _PER_TENSOR] if groups is None else [groups, _PER_ROW, _PER_TENSOR]
        if granularity is None:
            granularity = choices[0]
        elif not isinstance(granularity, Granularity) or granularity not in choices:
            error = ValueError if isinstance(granularity, Granularity) else TypeError
            requirement = _check.alternatives(map(str, choices))
            raise error(_check.must(owner, "x_granularity", requirement, _check.typed(granularity)))
        granularity = choices[choices.index(granularity)]
        if _check.integer(owner, "activation_bits", bits) not in (7, 8):
            raise ValueError(_check.must(owner, "activation_bits", "8 or 7", str(bits)))
        if qparams is None:
            qmax = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
            qmin, code = (-qmax, CODE_TYPES["int8"]) if symmetric else (0, CODE_TYPES["uint8"])
            return cls(
                granularity, groups, bits, Activations(code.core, symmetric, qmin, qmax, granularity == _PER_ROW)
            )
        params = _eight_bits(owner, "x_qparams", qparams)
        scale, zero = float(params.scale), int(params.zero_point)
        activations = Activations(params.code.core, True, params.qmin, params.qmax, False, scale, zero)
        return cls(_PER_TENSOR, groups, 8, activations, params)

    def activations_of(self, x: Float32Array) -> Activations:
        """Return the activations of x; per tensor with the scale and zero point of its range."""
        activations = self.activations
        if self.granularity is not _PER_TENSOR or self.qparams is not None:
            return activations
        lowest, highest, _, _ = extremes(x, _FLOAT32, _PER_TENSOR)
        low, high = min(float(lowest), 0.0), max(float(highest), 0.0)
        scale, zero = grid_of_range(low, high, activations.qmin, activations.qmax, activations.symmetric)
        return activations._replace(scale=scale, zero_point=zero)

    def takes(self, granularity: Granularity, ndim: int) -> bool:
        """Return whether codes of `ndim` dimensions with several scales may have this granularity."""
        if isinstance(granularity, PerGroup):
            return granularity.axis % ndim == ndim - 1 and PerGroup(granularity.group_size) == self.groups
        if isinstance(granularity, PerChannel):
            return ndim == 2 and granularity.axis % 2 == 0
        return isinstance(granularity, PerRow)

    @property
    def allowed(self) -> str:
        """The granularities that codes may have, for messages."""
        if self.groups is None:
            return "per tensor or per row"
        return f"per tensor, per row or {self.groups.describe()} on the last axis"

    def options(self) -> dict[str, Any]:
        if self.qparams is not None:
            return {"x_qparams": self.qparams}
        symmetric = self.activations.symmetric
        return {"x_granularity": self.granularity, "symmetric": symmetric, "activation_bits": self.bits}

    def __str__(self) -> str:
        name = "int8" if self.activations.core == CODE_TYPES["int8"].core else "uint8"
        origin = "as given" if self.qparams is not None else f"per {self.granularity.kind}"
        return f"x {name} {origin}" + (" of 7 bits" if self.bits == 7 else "")


def _unpickle(w: QuantizedArray, options: dict[str, Any]) -> PackedWeight:
    return PackedWeight(w, **options)


def _bits(params: QParams) -> int:
    """Return the bits of integer codes, 0 for floats."""
    return params.code.bits if params.code.real is None else 0


def _eight_bits(owner: str, name: str, value: Any) -> QParams:
    """Return `value` if it is a QParams per tensor of int8 or uint8."""
    if not isinstance(value, QParams):
        raise TypeError(_check.must(owner, name, "a QParams", _check.typed(value)))
    if _bits(value) != 8 or not isinstance(value.granularity, PerTensor):
        raise ValueError(_check.must(owner, name, "of int8 or uint8 per tensor", str(value)))
    return value


def _oriented(w: QuantizedArray, axis: int) -> tuple[Array, QParams]:
    """Return the codes as (K, N) and their parameters."""
    params, order = w.qparams, (1, 0)
    if axis == 0:
        return w.codes, params
    granularity = PerChannel(0) if isinstance(params.granularity, PerRow) else params.granularity
    scale, zero = granularity.permute(params.scale, order), granularity.permute(params.zero_point, order)
    transposed = granularity.permuted(order, w.shape)
    return w.codes.T, replace(params, scale=scale, zero_point=zero, granularity=transposed)


def _group_size(owner: str, name: str, params: QParams) -> int | None:
    """Return the size of the groups along K, None without groups."""
    granularity, bits = params.granularity, _bits(params)
    if isinstance(granularity, PerGroup):
        if bits != 4:
            raise TypeError(_check.must(owner, name, "of int4 or uint4 in groups", params.code.name))
        if granularity.axis % 2 == 0 and granularity.group_size in GROUP_SIZES:
            return granularity.group_size
    elif bits not in (4, 8):
        raise TypeError(_check.must(owner, name, "of int8, uint8, int4 or uint4", params.code.name))
    elif granularity in (_PER_TENSOR, PerChannel(1), PerChannel(-1)):
        return None
    sizes = _check.alternatives(map(str, GROUP_SIZES))
    requirement = f"quantized per tensor, per channel on the axis of N, or in groups of {sizes} along K"
    raise ValueError(_check.must(owner, name, requirement, granularity.describe()))


def _scale_dtype(owner: str, value: Any, group_size: int | None) -> str:
    """Return the name of the type of the scales of groups."""
    scale_type = float_type(value)
    name = value if scale_type is None else scale_type.name
    _args.choice(owner, "scale_dtype", name, {"float32": 0, "float16": 1})
    if name == "float16" and group_size is None:
        raise ValueError(_check.must(owner, "scale_dtype", "float32 unless w is in groups", name))
    return str(name)


def _of_half_scales(owner: str, name: str, params: QParams) -> QParams:
    """Return the parameters with scales rounded to float16, half to even."""
    with np.errstate(over="ignore", under="ignore"):
        scales = params.scale.astype(np.float16)
    if not ((scales >= _HALF.smallest_normal) & np.isfinite(scales)).all():
        got = f"{params.scale.min():g} to {params.scale.max():g}"
        raise ValueError(_check.must(owner, name, "of scales that float16 holds", got))
    return replace(params, scale=scales.astype(np.float32))


def _vector(owner: str, name: str, value: Any, n: int) -> Float32Array:
    numbers = _check.reals(owner, name, value)
    if numbers.shape != (n,):
        raise ValueError(_check.must(owner, name, f"of shape ({n},)", f"shape {numbers.shape}"))
    vector = np.array(numbers, np.float32)
    vector.flags.writeable = False
    return vector


def _bounds(owner: str, clip: Any) -> tuple[float, float]:
    try:
        low, high = clip
        bounds = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise TypeError(_check.must(owner, "clip", "two bounds, each a number or None", _check.typed(clip))) from None
    if not bounds[0] <= bounds[1]:
        raise ValueError(_check.must(owner, "clip", "a low and a high bound, in this order", _check.typed(clip)))
    return bounds
