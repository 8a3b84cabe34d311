"""QParams: scale, zero point and code range of a quantized array, checked once and then immutable."""

import math
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _check
from ._check import flag, integer, must, typed
from ._index import Index
from ._packing import pack_rows, unpack_rows
from ._typing import Array, Float32Array, Float64Array, Int32Array
from .dtypes import CodeType, code_type
from .granularity import Granularity, PerTensor
from .granularity import granularity as check_granularity

__all__ = ["QParams", "check_scheme", "grid_of_range"]

_I32 = np.dtype(np.int32)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class QParams:
    """Parameters of ``x = scale * (q - zero_point)``.

    Parameters
    ----------
    scale : float or array_like
        Positive, finite, normal; stored as float32. Its shape is () per tensor, (channels,) per channel, and that of
        the array without the last axis per row. Per group it is the shape of the array with the grouped axis divided
        by group_size, rounded up.
    zero_point : int or array_like
        The codes of 0.0, inside the range of `dtype`, of shape () or that of `scale`. Stored as int32.
    dtype : str or dtype, default "int8"
        int8, uint8, int16, uint16, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2, uint2,
        float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn. The attribute is a dtype; it is
        the name of a type of 7, 6, 5 or 3 bits, which has no dtype.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    qmin, qmax : int, optional
        Where codes saturate; the full range of `dtype` by default.

    Raises
    ------
    TypeError
        dtype is no code type; granularity is no granularity; qmin or qmax is not an integer.
    ValueError
        qmin and qmax are not in order, not in the range of dtype, or given for a float type.
    TypeError
        scale is not real.
    ValueError
        scale is not positive, finite and normal in float32.
    TypeError
        zero_point is not integer.
    ValueError
        zero_point is outside [qmin, qmax], or not 0 for a float type.
    ValueError
        scale does not have the dimensions that granularity asks for, or zero_point not the shape of scale.

    References
    ----------
    ONNX QuantizeLinear and DequantizeLinear, opset 21.

    Examples
    --------
    >>> QParams.from_range(-1.0, 3.0, dtype="uint8", symmetric=False)
    QParams(uint8, per tensor, scale=0.01569, zero_point=64)
    """

    scale: Float32Array
    zero_point: Int32Array
    dtype: np.dtype[Any] | str
    granularity: Granularity
    qmin: int
    qmax: int
    symmetric: bool = field(init=False)  # whether every zero point is the middle of the codes
    _zeros: Array | None = field(init=False)  # one int32, or codes, packed like others; None: several, all the middle

    def __init__(
        self,
        scale: ArrayLike,
        zero_point: ArrayLike,
        dtype: DTypeLike = "int8",
        granularity: Granularity = PerTensor(),  # noqa: B008 - frozen
        qmin: int | None = None,
        qmax: int | None = None,
    ) -> None:
        owner = "QParams"
        code = _code(owner, dtype)
        check_granularity(owner, granularity)
        lowest = code.qmin if qmin is None else integer(owner, "qmin", qmin)
        highest = code.qmax if qmax is None else integer(owner, "qmax", qmax)
        if not code.qmin <= lowest < highest <= code.qmax:
            raise ValueError(
                f"QParams: qmin and qmax must satisfy {code.qmin} <= qmin < qmax <= {code.qmax}; "
                f"got qmin={lowest}, qmax={highest}."
            )
        if code.real is not None and (lowest, highest) != (code.qmin, code.qmax):
            raise ValueError(must(owner, "qmin and qmax", f"left out for {code.name}", f"{qmin} and {qmax}"))
        scales = _check.scale(owner, "scale", scale).copy()
        zeros = _check.zero_point(owner, zero_point, *((lowest, highest) if code.real is None else code.zero_points))
        _check_dimensions(owner, "scale", scales, granularity)
        if zeros.shape not in ((), scales.shape):
            raise ValueError(
                f"QParams: zero_point must have shape () or scale's {scales.shape}; got shape {zeros.shape}."
            )
        middle = code.symmetric_zero_point
        symmetric = int(zeros) == middle if zeros.ndim == 0 else (zeros == middle).all()
        held: Array | None = zeros if scales.ndim == 0 or not symmetric else None
        if held is not None and scales.ndim:
            narrow = np.broadcast_to(held, scales.shape).astype(code.storage)
            held = pack_rows(narrow, code) if code.is_packed else narrow
        if held is not None and held.dtype == _I32:
            held = held.copy()
            held.flags.writeable = False
        scales.flags.writeable = False
        for name, value in (
            ("scale", scales),
            ("_zeros", held),
            ("symmetric", bool(symmetric)),
            ("dtype", code.key),
            ("granularity", granularity),
            ("qmin", lowest),
            ("qmax", highest),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_range(
        cls,
        min: ArrayLike,
        max: ArrayLike,
        *,
        dtype: DTypeLike = "int8",
        symmetric: bool = True,
        granularity: Granularity | None = None,
        include_zero: bool = True,
    ) -> "QParams":
        """Compute the parameters that map the range [min, max] onto the codes of `dtype`.

        Affine: ``S = (max - min) / (qmax - qmin)``, ``Z = clip(round_half_even(qmin - min / S))``. Symmetric:
        ``S = max(|min|, |max|) / ((qmax - qmin) / 2)`` with the codes [-127, 127] and Z = 0 for int8, [1, 255] and
        Z = 128 for uint8, and likewise for the other widths. S is computed in float64 and rounded once to float32,
        half to even; Z is computed from the rounded S.

        Parameters
        ----------
        min, max : float or array_like
            The ends of the range, finite, ``min <= max``. Arrays have one shape and give one parameter an element.
        dtype : str or dtype, default "int8"
        symmetric : bool, default True
        granularity : Granularity, optional
            PerTensor() for scalars by default; required for arrays.
        include_zero : bool, default True
            Widen the range to hold 0, so that 0.0 has an exact code. If False, 0 may lie outside the range by half a
            step: Z is a code, so that codes reach no range that is further from 0. A symmetric range, and one of a
            single number, always holds 0.

        Returns
        -------
        QParams
            Represents min and max with an error of half a step, ``S / 2``, and the rounding of S to float32. An
            all-zero range gives S = 1. A range whose S would be subnormal gives the smallest normal S.

        Raises
        ------
        TypeError
            dtype is no code type; symmetric is neither True nor False.
        ValueError
            symmetric is False for a float type.
        TypeError
            include_zero is neither True nor False.
        TypeError
            min or max is not real.
        ValueError
            min and max are of two shapes; granularity is missing for arrays.
        TypeError
            granularity is no granularity.
        ValueError
            min and max do not have the dimensions that granularity asks for; an end is not finite, or min > max.
        ValueError
            The range needs a scale that float32 does not hold, or a zero point that is no code.

        Examples
        --------
        >>> QParams.from_range(-2.54, 1.0).scale
        array(0.02, dtype=float32)
        """
        owner = "QParams.from_range"
        code = _code(owner, dtype)
        check_scheme(owner, code, symmetric)
        include_zero = flag(owner, "include_zero", include_zero)
        low = _check.reals(owner, "min", min).astype(np.float64)
        high = _check.reals(owner, "max", max).astype(np.float64)
        if low.shape != high.shape:
            raise ValueError(f"QParams.from_range: min and max must have one shape; got {low.shape} and {high.shape}.")
        if granularity is None:
            if low.ndim:
                raise ValueError("QParams.from_range: granularity must be given for arrays of ranges; got None.")
            granularity = PerTensor()
        check_granularity(owner, granularity)
        _check_dimensions(owner, "min and max", low, granularity)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            i = int(np.argmin(np.isfinite(low) & np.isfinite(high) & (low <= high)))
            got = f"{low.flat[i]:g} and {high.flat[i]:g}{_check.at_index(i, low)}"
            raise ValueError(f"QParams.from_range: min and max must be finite with min <= max; got {got}.")
        holds_zero = include_zero or symmetric or low == high
        ends = np.where(holds_zero, np.minimum(low, 0.0), low), np.where(holds_zero, np.maximum(high, 0.0), high)
        params = cls._of_range(owner, *ends, code, symmetric, granularity)
        if not (include_zero or symmetric):
            _check_reach(owner, *ends, params)
        return params

    @classmethod
    def _of_range(
        cls, owner: str, low: Array, high: Array, code: CodeType, symmetric: bool, granularity: Granularity
    ) -> "QParams":
        """Compute the parameters of checked ranges; `owner` is the function that the user called."""
        qmin = code.symmetric_qmin if symmetric else code.qmin
        ends: tuple[Any, Any] = (low, high) if np.ndim(low) else (float(low), float(high))
        scale, zero = grid_of_range(*ends, qmin, code.qmax, symmetric, owner)
        zeros = (qmin + code.qmax) // 2 if symmetric else zero  # one number is checked faster than equal ones
        return cls(scale, zeros, code.name, granularity, qmin, code.qmax)

    @property
    def code(self) -> CodeType:
        """The code type of `dtype`."""
        code = code_type(self.dtype)
        assert code is not None
        return code

    @property
    def levels(self) -> int:
        """The number of codes from qmin to qmax."""
        return self.code.levels if self.code.real is not None else self.qmax - self.qmin + 1

    @property
    def schemes(self) -> tuple[bool, ...]:
        """The values of `symmetric` that these parameters agree with.

        Middle zero points over all codes agree with both: an affine range may be symmetric.
        """
        if not self.symmetric:
            return (False,)
        narrow = self.code.real is not None or self.qmin == self.code.symmetric_qmin
        return (True,) if narrow else (True, False)

    @property
    def nbytes(self) -> int:
        """Bytes in memory and in a file: 4 for each scale; 1 packed code for each zero point, none if symmetric."""
        return self.scale.nbytes + (0 if self.symmetric else self.code.packed_nbytes(self.scale.shape))

    def range(self) -> tuple[Float64Array, Float64Array]:
        """Return the reals of the smallest and the largest code: ``scale * (q - zero_point)`` of qmin and qmax.

        Returns
        -------
        low, high : ndarrays of float64
            Of the shape of `scale`; exact for codes of up to 16 bits.

        Examples
        --------
        >>> QParams(0.5, 3, "uint8").range()
        (array(-1.5), array(126.))
        """
        scale = self.scale.astype(np.float64)
        low, high = (np.asarray(scale * (end - self.zero_point)) for end in (self.qmin, self.qmax))
        return low, high

    def sliced(self, shape: tuple[int, ...], key: Any, owner: str = "QParams.sliced") -> "QParams":
        """Return the parameters of ``x[key]`` for an array x.

        Parameters
        ----------
        shape : tuple of int
            The shape of the array.
        key : index of NumPy: integers, slices, None, ... and arrays of integers or booleans
            Per group: whole groups on the grouped axis. Per row: no integer on the last axis.
        owner : str
            The function that errors name.

        Returns
        -------
        QParams

        Raises
        ------
        TypeError
            key is no index.
        IndexError
            key is out of bounds.
        ValueError
            key cuts a group, or the result has no axis along which the parameters are constant.

        Examples
        --------
        >>> from qnumpy import PerChannel
        >>> QParams([0.5, 0.25], 0, "int8", PerChannel(0)).sliced((2, 8), 1)
        QParams(int8, per tensor, scale=0.25, zero_point=0)
        """
        return self._indexed(Index.of(owner, key, shape), owner)

    def _indexed(self, index: Index, owner: str) -> "QParams":
        """Return the parameters of the result of an index."""
        granularity, (scale, zero_point) = self.granularity.sliced(owner, index, self.scale, self.zero_point)
        return self._with(scale, zero_point, granularity)

    def _with(self, scale: Array, zero_point: Array, granularity: Granularity) -> "QParams":
        """Return other parameters of the same codes."""
        return QParams(scale, zero_point, self.dtype, granularity, self.qmin, self.qmax)

    def _reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> "QParams | None":
        """Return the parameters of a reshaped array, None where they do not follow."""
        granularity = self.granularity.reshaped(old, new)
        if granularity is None or math.prod(shape := granularity.params_shape(new)) != self.scale.size:
            return None
        return self._with(self.scale.reshape(shape), self.zero_point.reshape(shape), granularity)

    def _permuted(self, order: tuple[int, ...], shape: tuple[int, ...]) -> "QParams":
        """Return the parameters of ``x.transpose(order)`` for an x of `shape`."""
        granularity, (scale, zero_point) = self.granularity.transposed(order, shape, self.scale, self.zero_point)
        return self._with(scale, zero_point, granularity)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON represents exactly; `from_dict` reads them."""
        return {
            "dtype": self.code.name,
            "granularity": self.granularity.to_dict(),
            "scale": self.scale.tolist(),  # float32 as float64: exact
            "zero_point": self.zero_point.tolist(),
            "qmin": self.qmin,
            "qmax": self.qmax,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "QParams":
        """Return the parameters that `to_dict` described.

        Parameters
        ----------
        values : dict

        Returns
        -------
        QParams

        Raises
        ------
        TypeError
            values is no dict with the keys of `to_dict`; granularity is none that `Granularity.to_dict` returns.
        TypeError, ValueError
            A value is refused by the granularity or by QParams.
        """
        owner = "QParams.from_dict"
        names = ("dtype", "granularity", "scale", "zero_point", "qmin", "qmax")
        if not isinstance(values, dict) or set(values) != set(names):
            got = str(list(values)) if isinstance(values, dict) else typed(values)
            raise TypeError(must(owner, "values", f"a dict with the keys {', '.join(names)}", got))
        granularity = Granularity.from_dict(values["granularity"], owner)
        scale, zero = values["scale"], values["zero_point"]
        if 0 in (shape := np.shape(scale)):  # in NumPy an empty list is of float64
            scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int32)
        return cls(scale, zero, values["dtype"], granularity, values["qmin"], values["qmax"])

    def __repr__(self) -> str:
        return f"QParams({', '.join(self._describe())})"

    def _describe(self) -> list[str]:
        parts, scale = [self.code.name, self.granularity.describe()], self.scale
        if not scale.size:
            return [*parts, f"scale {scale.shape}"]
        if scale.ndim == 0:
            parts.append(f"scale={float(scale):.4g}")
        else:
            parts.append(f"scale={float(scale.min()):.4g}..{float(scale.max()):.4g} {scale.shape}")
        if self.code.real is None:
            ends = sorted({int(self.zero_point.min()), int(self.zero_point.max())})
            parts.append("zero_point=" + "..".join(map(str, ends)))
        return parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QParams):
            return NotImplemented
        return (
            (self.dtype, self.granularity, self.qmin, self.qmax)
            == (other.dtype, other.granularity, other.qmin, other.qmax)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        state = (self.scale, self.zero_point, self.code.name, self.granularity, self.qmin, self.qmax)
        return QParams, state


def _zero_point(params: QParams) -> Int32Array:
    """The zero points as int32, read-only. An array of them is made on each access: QParams holds their codes."""
    held = params._zeros
    if held is None:
        zeros = np.full(params.scale.shape, params.code.symmetric_zero_point, _I32)
    elif held.dtype == _I32:
        return held
    elif params.code.is_packed:
        zeros = unpack_rows(held, params.code, params.scale.shape).astype(_I32)
    else:
        zeros = held.astype(_I32)
    zeros.flags.writeable = False
    return zeros


QParams.zero_point = property(_zero_point)  # type: ignore[assignment]  # a field of the dataclass, for replace


def _code(owner: str, dtype: object) -> CodeType:
    code = code_type(dtype)
    if code is None:
        raise TypeError(must(owner, "dtype", "a code type such as 'int8' or 'uint4'", typed(dtype)))
    return code


def _check_dimensions(owner: str, name: str, params: Array, granularity: Granularity) -> None:
    if not granularity.has_params(params.ndim):
        ndim = granularity.params_ndim()
        requirement = f"{ndim} dimensions" if ndim is not None else "the dimensions of the array"
        raise ValueError(f"{owner}: {name} must have {requirement} for {granularity}; got shape {params.shape}.")


def check_scheme(owner: str, code: CodeType, symmetric: bool) -> None:
    """Raise TypeError unless symmetric is a bool, ValueError for an affine scheme of codes that are floats."""
    if not flag(owner, "symmetric", symmetric) and code.real is not None:
        raise ValueError(must(owner, "symmetric", f"True for {code.name}, which has no zero point", "False"))


def _check_reach(owner: str, low: Array, high: Array, params: QParams) -> None:
    """Raise ValueError for a range so far from 0 that clipping the zero point moved the codes by more than S / 2."""
    exact = params.qmin - low / params.scale.astype(np.float64)
    far = np.abs(params.zero_point - exact) > 0.5
    if far.any():
        i = int(np.argmax(far))
        got = f"{low.flat[i]:g} and {high.flat[i]:g}{_check.at_index(i, low)}, which need {np.rint(exact.flat[i]):g}"
        requirement = f"a range whose zero point is in [{params.qmin}, {params.qmax}]"
        raise ValueError(must(owner, "min and max", requirement, got) + " Widen it by include_zero=True.")


@overload
def grid_of_range(
    low: float, high: float, qmin: int, qmax: int, symmetric: bool, owner: str | None = None
) -> tuple[float, int]: ...
@overload
def grid_of_range(
    low: Array, high: Array, qmin: int, qmax: int, symmetric: bool, owner: str | None = None
) -> tuple[Float32Array, Int32Array]: ...
def grid_of_range(
    low: Any, high: Any, qmin: int, qmax: int, symmetric: bool, owner: str | None = None
) -> tuple[Any, Any]:
    """Return the scale and the zero point that map the range [low, high] onto the codes [qmin, qmax].

    The formulas of QParams.from_range stand here alone in Python; in C they stand in qn_grid_of_range. `low` and `high`
    are float64 arrays of one shape with ``low <= high``; a symmetric range contains 0. The results are float32 and
    int32 arrays; of two Python floats they are a float and an int, in a tenth of the time. A scale above the largest
    float32 raises ValueError if there is an `owner`, and else becomes the largest float32.
    """
    steps = (qmax - qmin) / 2  # all terms are halved, because high - low may overflow
    if type(low) is float:
        half = max(-low, high) if symmetric else high / 2 - low / 2
        if owner is not None and half / steps > _check.HUGE:
            return grid_of_range(np.asarray(low), np.asarray(high), qmin, qmax, symmetric, owner)  # raises
        step = float(np.float32(1.0 if low == high else min(max(half / steps, _check.TINY), _check.HUGE)))
        zero = (qmin + qmax) // 2 if symmetric else min(max(round(qmin - low / step), qmin), qmax)
        return step, zero
    extent = np.maximum(-low, high) if symmetric else high / 2 - low / 2
    exact = extent / steps
    if owner is not None and (exact > _check.HUGE).any():
        exact = np.asarray(exact)
        i = int(np.argmax(exact > _check.HUGE))
        got = f"{exact.flat[i]:g}{_check.at_index(i, exact)}"
        raise ValueError(f"{owner}: the range must have a finite float32 scale; got {got}.")
    normal = np.minimum(np.maximum(exact, _check.TINY), _check.HUGE)
    scale = np.where(low == high, 1.0, normal).astype(np.float32)
    if symmetric:
        return scale, np.full(scale.shape, (qmin + qmax) // 2, np.int32)
    zeros = np.minimum(np.maximum(np.rint(qmin - low / scale), qmin), qmax)
    return scale, np.asarray(zeros, np.int32)
