"""Cast between float formats; csrc/kernels/lists/float_list.h lists them, docs/semantics.md states the rules."""

import math
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _args, _check, _core
from .._typing import Array, DTypeOf, Overflow, Rounding, ScalarT
from ..dtypes import FLOAT_TYPES, FloatType, float_type

__all__ = ["cast"]

_OVERFLOW = {"inf": 0, "saturate": 1, "raise": 0}
_ROUNDING = {"nearest": 0, "stochastic": 1}
_FLOAT64 = FLOAT_TYPES["float64"]
_CHUNK = 1 << 16
_EXACT = 1 << 53  # float64 holds every integer up to here


@overload
def cast(
    x: ArrayLike,
    dtype: DTypeOf[ScalarT],
    *,
    overflow: Overflow = "inf",
    rounding: Rounding = "nearest",
    seed: int | None = None,
    out: NDArray[ScalarT] | None = None,
) -> NDArray[ScalarT]: ...
@overload
def cast(
    x: ArrayLike,
    dtype: DTypeLike,
    *,
    overflow: Overflow = "inf",
    rounding: Rounding = "nearest",
    seed: int | None = None,
    out: Array | None = None,
) -> Array: ...
def cast(
    x: ArrayLike,
    dtype: DTypeLike,
    *,
    overflow: Overflow = "inf",
    rounding: Rounding = "nearest",
    seed: int | None = None,
    out: Array | None = None,
) -> Array:
    """Convert an array to another float format, rounded half to even, once.

    Parameters
    ----------
    x : array_like of floats, any shape
        float32, float64, or any of the formats below. Python numbers, also in lists: integers of any size are rounded
        once.
    dtype : str or dtype
        float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz,
        float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn.
    overflow : {"inf", "saturate", "raise"}
        The result for a number that rounds beyond the largest of `dtype`. "inf": infinity; NaN if the format has no
        infinity; the largest number of the same sign if it has no NaN either (float6, float4). "saturate": the
        largest number, for infinities too. "raise": OverflowError, also for infinities and NaN that the format lacks.
    rounding : {"nearest", "stochastic"}
        "nearest" rounds half to even. "stochastic" rounds up with a probability that is the fraction between the two
        neighbours, so that the mean is x. Numbers that `dtype` holds do not change.
    seed : int, optional
        From 0 to 2**64 - 1. Stochastic rounding needs one. The same seed gives the same bits for the same element in
        C order, on every machine, for every memory layout and number of threads.
    out : ndarray, optional
        Receives the result: exact dtype and shape, C-contiguous, writable, apart from `x`.

    Returns
    -------
    ndarray
        Of `dtype` and the shape of `x`, in its memory layout when that is a permutation of C order (of C order when
        rounding is stochastic).

    Raises
    ------
    TypeError
        x is not of a float format; dtype is no float format.
    ValueError
        x holds a Python integer that float64 does not hold.
    ValueError
        overflow or rounding is unknown.
    ValueError
        seed is given to nearest rounding, or missing in stochastic rounding.
    TypeError
        seed is no integer.
    ValueError
        seed is outside [0, 2**64 - 1].
    OverflowError
        overflow is "raise" and `dtype` cannot hold an element.
    TypeError, ValueError
        out: as in quantize_linear.

    Notes
    -----
    A NaN stays a quiet NaN with its sign and the top of its payload, as far as the format has them. A format without
    NaN gives a zero of the opposite sign, as ml_dtypes does. float32 to float32 and float64 to float64 copy the bits,
    those of a NaN too. float8_e8m0fnu holds powers of two only: a tie rounds up, and so does everything between the
    two smallest, 2**-127 and 2**-126, as in ml_dtypes; 0 and negative numbers become NaN (saturate: 0 becomes the
    smallest).

    References
    ----------
    ONNX Cast, opset 24, with its attribute `saturate` but not `round_mode` ("up" for float8_e8m0fnu); OCP 8-bit
    Floating Point Specification 1.0; OCP Microscaling Formats 1.0.

    Examples
    --------
    >>> cast([0.1, 1000.0, -np.inf], "float8_e4m3fn").tolist()
    [0.1015625, nan, nan]
    >>> cast([0.1, 1000.0, -np.inf], "float8_e4m3fn", overflow="saturate").tolist()
    [0.1015625, 448.0, -448.0]
    """
    owner = "cast"
    if isinstance(x, int | list | tuple | range):
        x = _python_integers(owner, x, float_type(dtype) is not _FLOAT64)
    source, source_type = _args.real(owner, "x", x, FLOAT_TYPES)
    target = _args.floating(owner, dtype, FLOAT_TYPES)
    saturate = _args.choice(owner, "overflow", overflow, _OVERFLOW)
    stochastic = _args.choice(owner, "rounding", rounding, _ROUNDING)
    number = _seed(owner, seed, stochastic) if stochastic or seed is not None else 0
    if overflow == "raise":
        _check_range(owner, source, source_type, target)
    if stochastic and out is None:  # the random numbers belong to elements in C order
        out = np.empty(source.shape, target.dtype)
    return _args.elementwise(
        owner, _core.cast, source, source_type, None, None, None, target, out, saturate, stochastic, number
    )


def _python_integers(owner: str, x: Any, narrower: bool) -> Any:
    """Return Python numbers of which some need more than float64's 53 bits as float64; anything else as it is.

    Such integers are rounded half to even for float64 itself. For a narrower type they are rounded to odd: rounding
    once more is then as if it were the first time (Boldo and Melquiond, 2008).
    """
    numbers = _check.array(owner, "x", x)
    if (
        numbers.dtype.kind not in "iufO"
        or not numbers.size
        or not (_check.is_python(x, numbers) or numbers.dtype == object)
    ):
        return x
    if numbers.dtype != object and numbers.min() >= -_EXACT and numbers.max() <= _EXACT:
        return x
    objects = np.asarray(x, dtype=object)
    if objects.shape != numbers.shape or not all(
        isinstance(number, int | float | np.number) for number in objects.flat
    ):
        return x
    return np.array([_float64(owner, number, narrower) for number in objects.flat], np.float64).reshape(numbers.shape)


def _float64(owner: str, number: Any, narrower: bool) -> float:
    if not isinstance(number, int | np.integer):
        return float(number)
    exact = int(number)
    try:
        nearest = float(exact)
    except OverflowError:
        got = f"an integer of {exact.bit_length()} bits"
        raise ValueError(_check.must(owner, "x", "in the range of float64", got)) from None
    unused = exact.bit_length() - 53
    if not narrower or unused <= 0 or int(nearest) == exact:
        return nearest
    odd = math.ldexp(abs(exact) >> unused | 1, unused)
    return -odd if exact < 0 else odd


def _seed(owner: str, seed: Any, stochastic: int) -> int:
    if not stochastic:
        raise ValueError(_check.must(owner, "seed", 'None unless rounding is "stochastic"', _check.typed(seed)))
    if seed is None:
        raise ValueError(_check.must(owner, "seed", 'given when rounding is "stochastic"', "None"))
    number = _check.integer(owner, "seed", seed)
    if not 0 <= number < 2**64:
        raise ValueError(_check.must(owner, "seed", "in [0, 2**64 - 1]", str(number)))
    return number


def _check_range(owner: str, source: Array, source_type: FloatType, target: FloatType) -> None:
    """Raise OverflowError if `target` cannot hold an element; count such elements only if the range shows one."""
    order = _args.memory_order(source)
    contiguous = source if order is None else source.transpose(order)
    low, high, nan, infinite = (part[0] for part in _core.min_max(contiguous, source_type.core, 1, 1, source.size, 0))
    extremes = [low, high] if low <= high else []
    extremes += [np.nan] * bool(nan) + [np.inf] * bool(infinite)
    if not _outside(np.array(extremes), target).any():
        return
    count, first, value = 0, 0, 0.0
    for start in range(0, source.size, _CHUNK):
        part = source.flat[start : start + _CHUNK]
        wide = np.empty(part.shape, np.float64)
        _core.cast(part, source_type.core, wide, _FLOAT64.core, 0, 0, 0)
        bad = np.flatnonzero(_outside(wide, target))
        if bad.size and not count:
            first, value = start + int(bad[0]), float(wide[bad[0]])
        count += bad.size
    got = f"{count} of {source.size} outside it, the first {value!r}{_check.at_index(first, source)}"
    raise OverflowError(_check.must(owner, "x", f'in the range of {target.name} when overflow is "raise"', got))


def _outside(x: Array, target: FloatType) -> Array:
    """Return which float64 numbers `target` cannot hold, even rounded."""
    magnitude = np.abs(x)
    outside: Array = (magnitude >= target.overflow) & (magnitude < np.inf)
    if not target.has_infinity:
        outside |= magnitude == np.inf
    if not target.has_nan:
        outside |= np.isnan(x)
    if target.kind == "SCALE":
        outside |= x <= 0
    return outside
