"""PackedWeight: a quantized weight, packed once for products with any activations."""

import math
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
from numpy.typing import DTypeLike

from .. import _args, _check
from .._tables import html_facts
from .._typing import Array, DType, Float32Array, RealLike
from ..dtypes import REAL_TYPES
from ..granularity import Granularity, PerTensor
from ..ops.hadamard import Hadamard
from ..ops.output import Output, output_of_codes
from ..ops.quantize import codes_of
from ..qparams import QParams
from .codebook import CodebookArray
from .mx import MXArray
from .offset import OffsetArray
from .packed_input import PackedInput, RealInput, eight_bits, integer_bits
from .quantized import QuantizedArray
from .storages import (
    BlockWeight,
    BookWeight,
    OffsetWeight,
    Weight,
    is_of_floats,
    other_axis,
    pack_floats,
    pack_offsets,
    pack_weight,
)

__all__ = ["PackedWeight", "qmatmul"]

_FLOAT32 = REAL_TYPES["float32"]
_AXES = [(-2, -1)] * 3
_SUMS = ("every sum of codes", "in the range of int32", "one that is not")


class PackedWeight:
    """A quantized weight, packed once; ``x @ packed`` multiplies reals by it.

    x is quantized to 8 bits, and the sums ``acc`` of ``(qx - Zx) * (qw - Zw)`` are exact. A weight with a scale for
    each column has one sum for each element of y: ``y = clip(float32(acc) * (Sx * Sw) + bias)``. A weight in groups
    has one sum for each group, and x is quantized in the same groups:
    ``y = clip(sum over groups of float32(acc) * (Sx * Sw) + bias)``.

    With a weight of floats x is not quantized but stays float32. Each element of the weight is the float32 number that
    `dequantize` returns, and ``y = clip(acc + bias)``, where acc starts at 0 and becomes ``fma(x[k], w[k], acc)`` for
    each k in rising order.

    Parameters
    ----------
    w : QuantizedArray, shape (K, N), or MXArray, shape (N, K), or CodebookArray, or OffsetArray
        Integers of 2 to 8 bits: per tensor, per channel on the axis of N, or in groups of 16, 32, 64 or 128 along K.
        Float8 and float4: per tensor, per channel on the axis of N, or in groups of any size along K. An MXArray with
        ``axis=1``, since its blocks lie along the last axis. A CodebookArray of one table of levels, or of one for each
        channel on the axis of N, with scales as those of floats, on either axis; it is a weight of floats. An
        OffsetArray in groups of 16, 32, 64 or 128 along K, on either axis. A code is stored in as many bits as its type
        has, but one of 3 bits in 4, and one of 5, 6 or 7 bits in 8; that of a level in 4 or 8.
    bias : array_like of floats, shape (N,), optional
        Added in float32, or in units of the sums before they become codes.
    axis : int, default 0
        The axis of w that is K: 1 for weights of shape (N, K), as PyTorch stores them, and for an MXArray.
    clip : (low, high), optional
        Bounds of y, None for no bound: ``(0, None)`` is a ReLU. NaN stays NaN.
    x_granularity : PerRow, PerTensor or PerGroup, optional
        Of the quantization of x: PerRow() or PerTensor(); for a w in groups also PerGroup(group_size), the groups of w
        along the last axis of x. The default is the groups of w, without groups PerRow(). A weight of floats takes none
        of x_granularity, symmetric, activation_bits and x_qparams.
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
    hadamard : Hadamard, optional
        Of K inputs, from `qn.weights.hadamard`: y is ``hadamard.apply(x) @ w``, transformed in the pass that quantizes
        x, to the same bits. w is the quantized ``hadamard.rotate(weight)``.

    Attributes
    ----------
    shape : tuple of int
        (K, N).
    qparams : QParams or None
        Those of the weight as (K, N); None for another array.
    bias : ndarray of float32 or None
    hadamard : Hadamard or None
    nbytes : int
        All bytes that it holds: the packed codes, their parameters and sums, and the bias.

    Raises
    ------
    TypeError
        w is no QuantizedArray, MXArray, CodebookArray or OffsetArray.
    ValueError
        w is not 2-D.
    TypeError
        axis is not an integer.
    ValueError
        axis is neither 0 nor 1, or is not 1 for an MXArray.
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
    TypeError
        hadamard is no Hadamard.
    ValueError
        hadamard has another size than K.

    Notes
    -----
    With offsets ``y = clip(y_G + sum over groups of (float32(sum of (qx - Zx)) * Sx) * O + bias)``, one float32
    operation after the other, where O is the level of the middle code, ``offset + scale * 2**(b - 1)`` of b unsigned
    bits, rounded once.

    x is converted to float32 and quantized as ``quantize(x, granularity=x_granularity)`` does, half to even. NaN
    becomes 0 and is left out of the range. Every float32 operation is rounded once, and none is fused but the fma of a
    weight of floats, so y has the same bits on every ISA and thread count, and a row does not depend on the others.

    With out_qparams y is quantized. If the scale of x does not depend on x (x_qparams, or codes per tensor) and w has a
    scale for each column, y is computed in integers instead:
    ``saturate(round_half_even(float32(acc + b) * (Sx * Sw / Sy)) + Zy)``, where b is ``bias / (Sx * Sw)`` rounded half
    to even, of any size: a column of tiny weights gives the code of its bias.

    With G groups y is within ``(G + 2) * 2**-24 * sum(|x| |w|)``, to first order, of the product of the dequantized
    values. With a weight of floats it is within ``(K + 1) * 2**-24 * sum(|x| |w|)``, and every NaN has the same bits. A
    PackedWeight is immutable, so threads may share it; a pickle holds the codes of w.

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

    __slots__ = ("_codes_output", "_input", "_out_qparams", "_reals", "_weight", "bias")

    bias: Float32Array | None
    _weight: Weight | BlockWeight | BookWeight | OffsetWeight
    _input: PackedInput | RealInput
    _reals: Output  # the conversion of the sums to float32
    _codes_output: Output | None  # to codes, if the scale of x is known

    def __init__(
        self,
        w: QuantizedArray | MXArray | CodebookArray | OffsetArray,
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
        hadamard: Hadamard | None = None,
    ) -> None:
        owner = "PackedWeight"
        self._weight = (
            pack_offsets(owner, "w", w, axis, scale_dtype)
            if isinstance(w, OffsetArray)
            else (pack_floats if is_of_floats(w) else pack_weight)(owner, "w", w, axis, scale_dtype)
        )
        self._reals = _real_output(owner, bias, clip, self.shape, axis)
        self.bias = self._reals.bias
        options = x_granularity, symmetric, activation_bits, x_qparams
        if isinstance(self._weight, Weight | OffsetWeight) and self._weight.storage.quantizes:
            self._input = PackedInput.of(owner, self._weight.granularity, *options)
        else:
            self._input = RealInput(owner, *options)
        self._out_qparams = None if out_qparams is None else eight_bits(owner, "out_qparams", out_qparams)
        if hadamard is not None:
            self._input = self._input.transformed_by(_hadamard(owner, hadamard, self.shape[0]))
        self._codes_output = self._output_of_codes(self._input.activations.scale)

    @property
    def hadamard(self) -> Hadamard | None:
        return self._input.hadamard

    @property
    def shape(self) -> tuple[int, int]:
        return self._weight.shape

    @property
    def qparams(self) -> QParams | None:
        return self._weight.qparams

    @property
    def ndim(self) -> int:
        return 2

    @property
    def nbytes(self) -> int:
        return self._weight.storage.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def unpack(self) -> QuantizedArray | MXArray | CodebookArray | OffsetArray:
        """Return the weight as it was packed: a QuantizedArray as (K, N), an MXArray as (N, K), others as they were."""
        return self._weight.unpack()

    def __rmatmul__(self, x: RealLike | QuantizedArray) -> Float32Array | QuantizedArray:
        return self.matmul(x)

    def __matmul__(self, x: Any) -> NoReturn:
        raise TypeError(_check.must("PackedWeight", "the left operand of @", "x", "the weight") + " Write x @ packed.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Return the product for ``np.matmul(x, packed)``; other functions refuse."""
        name = f"np.{ufunc.__name__}"
        if ufunc is not np.matmul or method != "__call__":
            text = _check.must(name, "every operand", "an array", "a PackedWeight")
            raise TypeError(text + " Use x @ packed, or packed.unpack().dequantize() for the reals.")
        x, packed = inputs
        out = options.pop("out", (None,))[0]
        if options.get("axes") == _AXES:  # x @= packed
            del options["axes"]
        if options:
            got = ", ".join(options)
            raise TypeError(_check.must(name, "every option but out", "left out for a PackedWeight", got))
        return packed.matmul(x, out=out) if packed is self else self @ packed

    if not TYPE_CHECKING:  # a type checker would take the weight for an array in ndarray @ weight

        def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
            text = _check.must("PackedWeight", "the operand of a NumPy function", "an array", "a PackedWeight")
            raise TypeError(
                text + " Use np.asarray(x) @ packed (x.toarray() if x is sparse), or packed.unpack().dequantize()."
            )

    def matmul(self, x: RealLike | QuantizedArray, *, out: Array | None = None) -> Float32Array | QuantizedArray:
        """Return ``x @ self``.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, or QuantizedArray, shape (..., K)
            Codes must be int8 or uint8: per tensor, per row (per channel on axis 0 of a matrix is the same), or in the
            groups of a weight in groups. Their parameters replace those of the PackedWeight for x. A weight of floats
            takes reals only.
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
        source = self._reals_of(owner, x)
        rows = self._rows(owner, "x", source.shape)
        y = self._result(owner, out, source)
        with np.errstate(over="ignore"):
            x32 = np.require(source, np.float32, ["C", "A"])
        output = self._codes_output or self._reals
        target = self._target(output, y)
        self._fill(owner, x32, rows, output, target)
        return self._finish(owner, target, y)

    def rows_times(self, owner: str, x: Float32Array, out: Float32Array) -> None:
        """Fill `out` with ``x @ self`` in float32.

        Both are C-contiguous and apart; only the last axis of x is checked.
        """
        self._fill(owner, x, self._rows(owner, "x", x.shape), self._reals, out)

    def _fill(self, owner: str, x: Float32Array, rows: int, output: Output, out: Array) -> None:
        x, activations = self._input.prepare(x)
        if not self._weight.storage.multiply(x, rows, activations, output, out):
            raise OverflowError(_check.must(owner, *_SUMS))

    def _reals_of(self, owner: str, x: Any) -> Array:
        """Return x as an array of a real type."""
        if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and not isinstance(x, np.ma.MaskedArray):
            text = _check.must(owner, "x", "an array of floats or a QuantizedArray", f"dtype {x.dtype}")
            raise TypeError(text + " Use matmul_integer for plain codes.")
        return _args.real(owner, "x", x)[0]

    def _product_of_codes(
        self, owner: str, name: str, x: QuantizedArray, out: Array | None
    ) -> Float32Array | QuantizedArray:
        if isinstance(self._input, RealInput):
            text = _check.must(owner, name, "an array of floats for a weight of floats", "a QuantizedArray")
            raise TypeError(text + f" Use {name}.dequantize().")
        if self.hadamard is not None:
            text = _check.must(owner, name, "an array of floats for a weight with hadamard", "a QuantizedArray")
            raise TypeError(text + f" Use {name}.dequantize().")
        params = x.qparams
        per_tensor = isinstance(params.granularity, PerTensor)
        if integer_bits(params) != 8 or not (per_tensor or self._input.takes(params.granularity, x.ndim)):
            got = f"{params.code.name} {params.granularity.describe()}"
            raise TypeError(_check.must(owner, name, f"of int8 or uint8 {self._input.allowed}", got))
        rows = self._rows(owner, name, x.shape)
        y = self._result(owner, out, x.codes)
        output = (self._output_of_codes(float(params.scale)) if per_tensor else None) or self._reals
        target = self._target(output, y)
        scale, zero = params.scale, params.zero_point
        if not self._weight.storage.multiply_codes(x.codes, params.code.core, rows, scale, zero, output, target):
            raise OverflowError(_check.must(owner, *_SUMS))
        return self._finish(owner, target, y)

    def _rows(self, owner: str, name: str, shape: tuple[int, ...]) -> int:
        k, n = self.shape
        if not shape or shape[-1] != k:
            other = f" Pack the weight with the other axis if its shape is ({k}, {n})."
            hint = "" if not shape or shape[-1] != n else other if name == "x" else other_axis(None)
            raise ValueError(_check.must(owner, name, f"of shape (..., {k})", f"shape {shape}") + hint)
        return math.prod(shape[:-1])

    def _result(self, owner: str, out: Any, source: Array) -> Array:
        dtype = _FLOAT32.dtype if self._out_qparams is None else self._out_qparams.code.storage
        return _args.output(owner, out, dtype, (*source.shape[:-1], self.shape[1]), source)

    def _output_of_codes(self, x_scale: float) -> Output | None:
        """Return the conversion of the sums to codes; None if y is real, or is quantized after the product.

        x_scale is 0 if x has several scales, or one that depends on x.
        """
        params, column_scale = self._out_qparams, self._weight.storage.column_scale
        if params is None or column_scale is None or not x_scale:
            return None
        return output_of_codes(
            x_scale, column_scale, params, self.bias, self.shape[0], (self._reals.low, self._reals.high)
        )

    def _target(self, output: Output, y: Array) -> Array:
        """Return the array that the kernels fill: y, or float32 numbers that `_finish` quantizes."""
        return np.empty(y.shape, np.float32) if output is self._reals and self._out_qparams is not None else y

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
        parts = [self._weight.describe(), str(self._input)]
        if self.hadamard is not None:
            parts.append(str(self.hadamard))
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
            "axis": self._weight.axis, "scale_dtype": self._weight.scale_dtype, **self._input.options(),
            "hadamard": self.hadamard,
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
    b : QuantizedArray of integers of 2 to 8 bits, shape (K, N)
        Per tensor, per channel on axis 1, or in groups of 16, 32, 64 or 128 along K.
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
        raise TypeError(_check.must(owner, "a", "a QuantizedArray", _check.typed(a)) + " Use qn.quantize(a) first.")
    if isinstance(b, PackedWeight):
        raise TypeError(_check.must(owner, "b", "a QuantizedArray", "one that is packed") + " Use a @ b.")
    packed = object.__new__(PackedWeight)  # not the constructor: errors name qmatmul
    packed._weight = weight = pack_weight(owner, "b", b, None, "float32")
    packed._reals = _real_output(owner, bias, (None, None), packed.shape, None)
    packed.bias = packed._reals.bias
    packed._input = PackedInput.of(owner, weight.granularity, None, True, 8, None)
    packed._out_qparams = None if out_qparams is None else eight_bits(owner, "out_qparams", out_qparams)
    return packed._product_of_codes(owner, "a", a, None)


def _unpickle(w: QuantizedArray | MXArray | CodebookArray | OffsetArray, options: dict[str, Any]) -> PackedWeight:
    return PackedWeight(w, **options)


def _hadamard(owner: str, value: Any, inputs: int) -> Hadamard:
    if not isinstance(value, Hadamard):
        raise TypeError(_check.must(owner, "hadamard", "a Hadamard, of qn.weights.hadamard", _check.typed(value)))
    if value.size != inputs:
        raise ValueError(_check.must(owner, "hadamard", f"of {inputs} inputs, as w has", str(value)))
    return value


def _real_output(owner: str, bias: Any, clip: Any, shape: tuple[int, int], axis: int | None) -> Output:
    """Check the arguments of the output stage and return its conversion to float32."""
    return Output(None if bias is None else _bias(owner, bias, shape, axis), *bounds(owner, clip))


def _bias(owner: str, bias: Any, shape: tuple[int, int], axis: int | None) -> Float32Array:
    k, n = shape
    numbers = _check.reals(owner, "bias", bias)
    if numbers.shape != (n,):
        text = _check.must(owner, "bias", f"of shape ({n},)", f"shape {numbers.shape}")
        raise ValueError(text + (other_axis(axis) if numbers.shape == (k,) else ""))
    vector = np.array(numbers, np.float32)
    vector.flags.writeable = False
    return vector


def bounds(owner: str, clip: Any) -> tuple[float, float]:
    """Return the bounds of a clip; None is infinite."""
    try:
        low, high = clip
        if np.ndim(low) or np.ndim(high):
            raise TypeError  # NumPy 2.0 makes a float of an array of one element
        ends = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise TypeError(_check.must(owner, "clip", "two bounds, each a number or None", _check.typed(clip))) from None
    if not ends[0] <= ends[1]:
        raise ValueError(_check.must(owner, "clip", "a low and a high bound, in this order", _check.typed(clip)))
    return ends
