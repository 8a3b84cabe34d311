"""QParams: scale, zero point and code range of a quantized array, checked once and then immutable."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _check
from ._check import integer, must, typed
from ._typing import Array
from .dtypes import CodeType, code_type
from .granularity import Granularity, PerTensor, granularity

__all__ = ["QParams", "check_scheme", "grid_of_range"]


@dataclass(frozen=True, eq=False, repr=False)
class QParams:
    """Parameters of ``x = scale * (q - zero_point)``.

    Parameters
    ----------
    scale : float or array_like
        Positive, finite, normal; stored as float32. Its shape is () per tensor, (channels,) per channel, and the
        array's shape with the grouped axis divided by group_size (rounded up) per group.
    zero_point : int or array_like
        Codes that mean 0.0, inside the range of `dtype`; one, or as many as `scale` has. Stored as int32.
    dtype : str or dtype, default "int8"
        int8, uint8, int16, uint16, int4, uint4, int2, uint2, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz,
        float8_e5m2fnuz or float4_e2m1fn.
    granularity : PerTensor, PerChannel or PerGroup, default PerTensor()
    qmin, qmax : int, optional
        Codes saturate here; the full range of `dtype` by default.

    Raises
    ------
    TypeError
        dtype is no code type, zero_point not integer, granularity no Granularity.
    ValueError
        scale not positive, finite and normal; zero_point or qmin, qmax out of range; shapes that do not fit.

    References
    ----------
    ONNX QuantizeLinear and DequantizeLinear, opset 21.

    Examples
    --------
    >>> QParams.from_range(-1.0, 3.0, dtype="uint8", symmetric=False)
    QParams(uint8, per tensor, scale=0.01569, zero_point=64)
    """

    scale: np.ndarray[Any, np.dtype[np.float32]]
    zero_point: np.ndarray[Any, np.dtype[np.int32]]
    dtype: Any = "int8"
    granularity: Granularity = PerTensor()  # noqa: RUF009 - frozen
    qmin: int = None  # type: ignore[assignment]
    qmax: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        owner = "QParams"
        code = code_type(self.dtype)
        if code is None:
            raise TypeError(must(owner, "dtype", "a code type such as 'int8' or 'uint4'", typed(self.dtype)))
        granularity(owner, self.granularity)
        qmin = code.qmin if self.qmin is None else integer(owner, "qmin", self.qmin)
        qmax = code.qmax if self.qmax is None else integer(owner, "qmax", self.qmax)
        if not code.qmin <= qmin < qmax <= code.qmax:
            raise ValueError(
                f"QParams: qmin and qmax must satisfy {code.qmin} <= qmin < qmax <= {code.qmax}; "
                f"got qmin={qmin}, qmax={qmax}."
            )
        if code.real is not None and (qmin, qmax) != (code.qmin, code.qmax):
            raise ValueError(must(owner, "qmin and qmax", f"left out for {code.name}", f"{self.qmin} and {self.qmax}"))
        scale = _check.scale(owner, "scale", self.scale).copy()
        zero = _check.zero_point(owner, self.zero_point, *((qmin, qmax) if code.real is None else code.zero_points))
        if not self.granularity.has_params(scale.ndim):
            ndim = self.granularity.params_ndim()
            wanted = f"{ndim} dimensions" if ndim is not None else "the dimensions of the array"
            raise ValueError(f"QParams: scale must have {wanted} for {self.granularity}; got shape {scale.shape}.")
        if zero.shape not in ((), scale.shape):
            raise ValueError(
                f"QParams: zero_point must have shape () or scale's {scale.shape}; got shape {zero.shape}."
            )
        zero = np.array(np.broadcast_to(zero, scale.shape), order="C")
        scale.flags.writeable = zero.flags.writeable = False
        for name, value in (
            ("scale", scale),
            ("zero_point", zero),
            ("dtype", code.dtype),
            ("qmin", int(qmin)),
            ("qmax", int(qmax)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_range(
        cls,
        min: Any,
        max: Any,
        *,
        dtype: Any = "int8",
        symmetric: bool = True,
        granularity: Granularity | None = None,
        include_zero: bool = True,
    ) -> "QParams":
        """Compute the parameters that map the range [min, max] onto the codes of `dtype`.

        Affine: ``S = (max - min) / (qmax - qmin)``, ``Z = clip(round_half_even(qmin - min / S))``. Symmetric:
        ``S = max(|min|, |max|) / ((qmax - qmin) / 2)`` with the codes [-127, 127] and Z = 0 for int8, [1, 255] and
        Z = 128 for uint8, and likewise for the other widths. Computed in float64; S is rounded once to float32, Z
        uses the rounded S.

        Parameters
        ----------
        min, max : float or array_like
            Ends of the range, finite, ``min <= max``; arrays of one shape give one parameter each.
        dtype : str or dtype, default "int8"
        symmetric : bool, default True
        granularity : Granularity, optional
            PerTensor() for scalars by default; required for arrays.
        include_zero : bool, default True
            Widen the range to hold 0, so that 0.0 has an exact code. Without it Z is clipped to the codes, and zero
            may not be representable.

        Returns
        -------
        QParams
            An all-zero range gives S = 1; a range so small that S would be subnormal gives the smallest normal S.

        Raises
        ------
        TypeError
            dtype is no code type.
        ValueError
            An end is not finite, or min > max, or the range is too wide for a float32 scale.

        Examples
        --------
        >>> QParams.from_range(-2.54, 1.0).scale
        array(0.02, dtype=float32)
        """
        owner = "QParams.from_range"
        code = code_type(dtype)
        if code is None:
            raise TypeError(must(owner, "dtype", "a code type such as 'int8' or 'uint4'", typed(dtype)))
        check_scheme(owner, code, symmetric)
        low, high = (
            _check.reals(owner, "min", min).astype(np.float64),
            _check.reals(owner, "max", max).astype(np.float64),
        )
        if low.shape != high.shape:
            raise ValueError(f"QParams.from_range: min and max must have one shape; got {low.shape} and {high.shape}.")
        if granularity is None:
            if low.ndim:
                raise ValueError("QParams.from_range: granularity must be given for arrays of ranges; got None.")
            granularity = PerTensor()
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            i = int(np.argmin(np.isfinite(low) & np.isfinite(high) & (low <= high)))
            got = f"{low.flat[i]:g} and {high.flat[i]:g}{_check.where(i, low)}"
            raise ValueError(f"QParams.from_range: min and max must be finite with min <= max; got {got}.")
        if include_zero or symmetric:
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        return cls._of_range(owner, low, high, code, symmetric, granularity)

    @classmethod
    def _of_range(
        cls, owner: str, low: Array, high: Array, code: CodeType, symmetric: bool, granularity: Granularity
    ) -> "QParams":
        """Return what `from_range` does for ranges that are checked; `owner` is the function that the user called."""
        qmin = code.symmetric_qmin if symmetric else code.qmin
        scale, zero = grid_of_range(low, high, qmin, code.qmax, symmetric, owner)
        return cls(scale, zero, code.dtype, granularity, qmin, code.qmax)

    @property
    def code(self) -> CodeType:
        """The code type of `dtype`."""
        found = code_type(self.dtype)
        assert found is not None
        return found

    @property
    def levels(self) -> int:
        """How many codes may occur."""
        return self.code.levels if self.code.real is not None else self.qmax - self.qmin + 1

    @property
    def symmetric(self) -> bool:
        """Whether every zero point stands in the middle of the codes."""
        return bool((self.zero_point == self.code.symmetric_zero_point).all())

    @property
    def nbytes(self) -> int:
        """Bytes in a file: 4 for a scale, those of a packed code for a zero point, none for symmetric ones."""
        return self.scale.nbytes + (0 if self.symmetric else self.code.packed_nbytes(self.zero_point.shape))

    def range(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the smallest and the largest value that a code stands for: ``scale * (q - zero_point)`` of both ends.

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
        """Return the parameters of a basic slice of an array.

        Parameters
        ----------
        shape : tuple of int
            The shape of the array.
        key : integers, slices and ...
            Whole groups of the axis that is cut into groups, a slice of the last axis of rows.
        owner : str
            The function that errors name.

        Returns
        -------
        QParams

        Raises
        ------
        TypeError
            key is no basic index.
        ValueError
            key cuts a group.

        Examples
        --------
        >>> from qnumpy import PerChannel
        >>> QParams([0.5, 0.25], 0, "int8", PerChannel(0)).sliced((2, 8), 1)
        QParams(int8, per tensor, scale=0.25, zero_point=0)
        """
        granularity, index = self.granularity.sliced(owner, shape, _check.basic_index(owner, key, len(shape)))
        return QParams(self.scale[index], self.zero_point[index], self.dtype, granularity, self.qmin, self.qmax)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON holds exactly; `from_dict` takes them."""
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
        """Make the parameters that `to_dict` returned.

        Parameters
        ----------
        values : dict

        Returns
        -------
        QParams

        Raises
        ------
        TypeError, ValueError
            A value is missing, of another kind, or out of its range.
        """
        owner = "QParams.from_dict"
        names = ("dtype", "granularity", "scale", "zero_point", "qmin", "qmax")
        if not isinstance(values, dict) or set(values) != set(names):
            got = str(list(values)) if isinstance(values, dict) else typed(values)
            raise TypeError(must(owner, "values", f"a dict with the keys {', '.join(names)}", got))
        granularity = Granularity.from_dict(values["granularity"], owner)
        shape = np.shape(values["scale"])
        if 0 in shape:  # an empty list is of no type
            scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int32)
            return cls(scale, zero, values["dtype"], granularity, values["qmin"], values["qmax"])
        return cls(values["scale"], values["zero_point"], values["dtype"], granularity, values["qmin"], values["qmax"])

    def __repr__(self) -> str:
        return f"QParams({', '.join(self._describe())})"

    def _describe(self) -> list[str]:
        parts = [self.code.name, self.granularity.describe()]
        if self.scale.ndim == 0:
            parts += [f"scale={float(self.scale):.4g}"] + [f"zero_point={int(self.zero_point)}"] * (
                self.code.real is None
            )
        elif self.scale.size:
            parts.append(f"scale={float(self.scale.min()):.4g}..{float(self.scale.max()):.4g} {self.scale.shape}")
            if self.code.real is None:
                ends = sorted({int(self.zero_point.min()), int(self.zero_point.max())})
                parts.append("zero_point=" + "..".join(map(str, ends)))
        else:
            parts.append(f"scale {self.scale.shape}")
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


def check_scheme(owner: str, code: CodeType, symmetric: bool) -> None:
    """Refuse an affine scheme of codes that are floats."""
    if code.real is not None and not symmetric:
        raise ValueError(must(owner, "symmetric", f"True for {code.name}, which has no zero point", "False"))


def grid_of_range(
    low: Any, high: Any, qmin: int, qmax: int, symmetric: bool, owner: str | None = None
) -> tuple[Any, Any]:
    """Return the scale and the zero point that map the range [low, high] onto the codes [qmin, qmax].

    This is the only home of the formulas of QParams.from_range in Python; qn_grid_of_range is the one in C. `low` and
    `high` are float64 arrays of one shape with ``low <= high``; a symmetric range contains 0. The results are float32
    and int32 arrays. Of two Python floats the results are a Python float and an int, in a tenth of the time. A scale
    above the largest float32 raises ValueError where `owner` is named, and is the largest float32 where it is not.
    """
    steps = (qmax - qmin) / 2  # everything is halved, because high - low may overflow
    if type(low) is float:
        half = max(-low, high) if symmetric else high / 2 - low / 2
        step = float(np.float32(1.0 if low == high else min(max(half / steps, _check.TINY), _check.HUGE)))
        zero = (qmin + qmax) // 2 if symmetric else min(max(round(qmin - low / step), qmin), qmax)
        return step, zero
    extent = np.maximum(-low, high) if symmetric else high / 2 - low / 2
    exact = extent / steps
    if owner is not None and (exact > _check.HUGE).any():
        exact = np.asarray(exact)
        i = int(np.argmax(exact > _check.HUGE))
        got = f"{exact.flat[i]:g}{_check.where(i, exact)}"
        raise ValueError(f"{owner}: the range must have a finite float32 scale; got {got}.")
    normal = np.minimum(np.maximum(exact, _check.TINY), _check.HUGE)
    scale = np.where(low == high, 1.0, normal).astype(np.float32)
    if symmetric:
        return scale, np.full(scale.shape, (qmin + qmax) // 2, np.int32)
    zeros = np.minimum(np.maximum(np.rint(qmin - low / scale), qmin), qmax)
    return scale, np.asarray(zeros, np.int32)
