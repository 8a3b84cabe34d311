"""Assertions for tests of quantized arrays: their messages say what differs, where, and by how many codes."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from .._check import array, integer, must, typed
from .._typing import Array
from ..dtypes import code_type
from ..qparams import QParams
from ._common import expanded

__all__ = ["assert_dequantized_close", "assert_qparams_equal", "assert_quantized_equal"]

_SHOWN = 5  # elements that a message lists
_WANTED = "a QuantizedArray, an MXArray, a QParams or an array of codes"


def assert_quantized_equal(actual: Any, desired: Any, max_codes: int = 0) -> None:
    """Raise AssertionError unless two quantized arrays are equal: their parameters exactly, their codes by bytes.

    Parameters
    ----------
    actual, desired : QuantizedArray, MXArray, QParams or array of codes
        Of one kind. Codes and sums of plain arrays are integers, or floats of a code type.
    max_codes : int, default 0
        The largest difference of two codes that is accepted. Codes of floats are counted along the number line, -0 next
        to +0; a NaN is as near to no number as the last code to the first.

    Raises
    ------
    TypeError
        max_codes is no integer.
    ValueError
        max_codes is negative.
    TypeError
        actual or desired is none of these.
    AssertionError
        They differ. The message names dtype, shape, granularity, range of codes, scales, zero points and codes that
        differ: how many of how many, by how much at most, and the first places.

    Examples
    --------
    >>> from qnumpy import quantize
    >>> q = quantize(np.array([1.0, 0.5, -1.0]))
    >>> assert_quantized_equal(q, q)
    >>> assert_quantized_equal(q.codes, np.array([127, 65, -127], np.int8), max_codes=1)
    >>> assert_quantized_equal(q.codes, np.array([127, 65, -127], np.int8))
    Traceback (most recent call last):
    AssertionError: assert_quantized_equal: actual must equal desired.
    codes: 1 of 3 differ, by at most 1 code
      at index 1: 64; desired 65
    """
    __tracebackhide__ = True
    owner = "assert_quantized_equal"
    if integer(owner, "max_codes", max_codes) < 0:
        raise ValueError(must(owner, "max_codes", "at least 0", str(max_codes)))
    kinds = [_kind(owner, name, value) for name, value in (("actual", actual), ("desired", desired))]
    if kinds[0] != kinds[1]:
        _fail(owner, [f"kind: {kinds[0]}; desired {kinds[1]}"])
    compare: dict[str, Callable[[Any, Any, int], list[str]]]
    compare = {"QParams": _qparams, "QuantizedArray": _quantized, "MXArray": _blocks, "codes": _codes}
    differences = compare[kinds[0]](actual, desired, max_codes)
    _fail(owner, differences, f" within {_count(max_codes, 'code')}" if max_codes else "")


def assert_qparams_equal(actual: QParams, desired: QParams, rtol: float = 0.0) -> None:
    """Raise AssertionError unless two QParams are equal, their scales within a relative tolerance.

    Parameters
    ----------
    actual, desired : QParams
    rtol : float, default 0
        Of the desired scale.

    Raises
    ------
    TypeError
        actual or desired is no QParams.
    AssertionError
        They differ; the message says in what, where and by how much.

    Examples
    --------
    >>> assert_qparams_equal(QParams(0.1, 0), QParams(0.1000001, 0), rtol=1e-5)
    >>> assert_qparams_equal(QParams(0.1, 0), QParams(0.125, 3))
    Traceback (most recent call last):
    AssertionError: assert_qparams_equal: actual must equal desired.
    scale: 1 of 1 differ, by at most 20 %
      0.1; desired 0.125
    zero_point: 1 of 1 differ, by at most 3
      0; desired 3
    """
    __tracebackhide__ = True
    owner = "assert_qparams_equal"
    for name, value in (("actual", actual), ("desired", desired)):
        if not isinstance(value, QParams):
            raise TypeError(must(owner, name, "a QParams", typed(value)))
    _fail(owner, _qparams(actual, desired, 0, rtol), f" within a relative {rtol:g}" if rtol else "")


def assert_dequantized_close(actual: Any, desired: ArrayLike, max_steps: float = 0.5) -> None:
    """Raise AssertionError unless the levels of a quantized array lie near the reals that it stands for.

    Parameters
    ----------
    actual : QuantizedArray
        With integer codes.
    desired : array_like of reals
        Of the same shape.
    max_steps : float, default 0.5
        The largest accepted distance, in steps of the grid: its scale. Half a step is the error of rounding; clipped
        elements exceed it.

    Raises
    ------
    TypeError
        actual is no QuantizedArray with integer codes.
    AssertionError
        The shapes differ, or a level is farther from its real; NaN is far from every level.

    Notes
    -----
    The quotient of quantize is rounded to float32, half to even: its error of 2**-24 of the code is accepted too.

    Examples
    --------
    >>> from qnumpy import QParams, quantize
    >>> x = np.array([0.5, -0.25, 3.0])
    >>> assert_dequantized_close(quantize(x), x)
    >>> assert_dequantized_close(quantize(x, QParams(0.01, 0)), x)
    Traceback (most recent call last):
    AssertionError: assert_dequantized_close: actual must be within 0.5 steps of desired.
    values: 1 of 3 differ by more, by at most 173 steps
      at index 2: 1.27; desired 3
    """
    __tracebackhide__ = True
    owner = "assert_dequantized_close"
    params = getattr(actual, "qparams", None)
    if not (isinstance(params, QParams) and hasattr(actual, "dequantize") and params.code.real is None):
        raise TypeError(must(owner, "actual", "a QuantizedArray with integer codes", typed(actual)))
    reals = np.asarray(array(owner, "desired", desired), np.float64)
    start = f"{owner}: actual must be within {max_steps:g} steps of desired."
    if reals.shape != actual.shape:
        raise AssertionError(f"{start}\nshape: {actual.shape}; desired {reals.shape}")
    scale, zero = (
        expanded(np.asarray(part, np.float64), params.granularity, actual.shape)
        for part in (params.scale, params.zero_point)
    )
    codes = _ordered(actual.codes) - zero
    levels = scale * codes
    with np.errstate(invalid="ignore"):
        steps = np.abs(levels - reals) / scale
        far = ~(steps <= max_steps + 2.0**-24 * np.abs(reals / scale))
    if far.any():
        known = steps[far & ~np.isnan(steps)]
        most = f", by at most {np.max(known):.3g} steps" if known.size else ""
        lines = _listed("values", levels, reals, far, f"differ by more{most}", _real)
        raise AssertionError("\n".join([start, *lines]))


def _fail(owner: str, differences: list[str], tolerance: str = "") -> None:
    __tracebackhide__ = True
    if differences:
        raise AssertionError("\n".join([f"{owner}: actual must equal desired{tolerance}.", *differences]))


def _kind(owner: str, name: str, value: Any) -> str:
    """Return the kind of a value; classes of higher layers are known by what they have."""
    if isinstance(value, QParams):
        return "QParams"
    for cls in type(value).__mro__:
        if cls.__name__ in ("QuantizedArray", "MXArray"):
            return cls.__name__
    if isinstance(value, (np.ndarray, np.generic)):
        codes = array(owner, name, value)
        if codes.dtype.kind in "iu" or code_type(codes.dtype) is not None or _is_float_code(codes.dtype):
            return "codes"
        raise TypeError(must(owner, name, _WANTED, f"an array of {codes.dtype}"))
    raise TypeError(must(owner, name, _WANTED, typed(value)))


def _facts(pairs: list[tuple[str, Any, Any]]) -> list[str]:
    return [f"{name}: {actual}; desired {desired}" for name, actual, desired in pairs if actual != desired]


def _qparams(actual: QParams, desired: QParams, _: int = 0, rtol: float = 0.0) -> list[str]:
    lines = _facts([
        ("dtype", actual.code.name, desired.code.name),
        ("granularity", actual.granularity.describe(), desired.granularity.describe()),
        ("qmin, qmax", f"{actual.qmin}, {actual.qmax}", f"{desired.qmin}, {desired.qmax}"),
        ("shape of scale", actual.scale.shape, desired.scale.shape),
    ])  # fmt: skip
    if actual.scale.shape != desired.scale.shape:
        return lines
    apart = np.abs(actual.scale.astype(np.float64) / desired.scale.astype(np.float64) - 1)
    differ = apart > rtol if rtol else actual.scale != desired.scale
    most = f"{100 * np.max(apart, initial=0):.3g} %"
    lines += _listed("scale", actual.scale, desired.scale, differ, f"differ, by at most {most}", _real)
    distance = np.abs(actual.zero_point.astype(np.int64) - desired.zero_point)
    most = str(np.max(distance, initial=0))
    return lines + _listed(
        "zero_point", actual.zero_point, desired.zero_point, distance > 0, f"differ, by at most {most}", str
    )


def _quantized(actual: Any, desired: Any, max_codes: int) -> list[str]:
    lines = _facts([("shape", actual.shape, desired.shape)]) + _qparams(actual.qparams, desired.qparams)
    if actual.shape != desired.shape or actual.qparams.code != desired.qparams.code:
        return lines
    return lines + _distant("codes", actual.codes, desired.codes, max_codes)


def _blocks(actual: Any, desired: Any, max_codes: int) -> list[str]:
    lines = _facts([("format", actual.format, desired.format), ("shape", actual.shape, desired.shape)])
    if lines:
        return lines
    if actual.tensor_scale is not None:
        lines += _facts([("tensor_scale", _real(actual.tensor_scale), _real(desired.tensor_scale))])
    lines += _distant("scales", actual.scales, desired.scales, 0)
    return lines + _distant("codes", actual.codes, desired.codes, max_codes)


def _codes(actual: Array, desired: Array, max_codes: int) -> list[str]:
    lines = _facts([("dtype", actual.dtype.name, desired.dtype.name), ("shape", actual.shape, desired.shape)])
    return lines or _distant("codes", np.asarray(actual), np.asarray(desired), max_codes)


def _distant(name: str, actual: Array, desired: Array, limit: int) -> list[str]:
    """Return the lines about codes that are farther apart than `limit`; without it about all that differ."""
    first, second = _ordered(actual), _ordered(desired)
    distance = np.maximum(first, second) - np.minimum(first, second)
    if _is_float_code(actual.dtype):
        one_is_nan = np.isnan(actual.astype(np.float32)) != np.isnan(desired.astype(np.float32))
        distance = np.where(one_is_nan, 1 << _bits(actual.dtype), distance)
    far = distance > limit
    phrase = "differ by more" if limit else "differ"
    most = _count(int(np.max(distance, initial=0)), "code")
    shown = _real if _is_float_code(actual.dtype) else str
    return _listed(name, actual, desired, far, f"{phrase}, by at most {most}", shown)


def _listed(
    name: str, actual: Array, desired: Array, differ: Array, phrase: str, shown: Callable[[Any], str]
) -> list[str]:
    """Return a line with the number of differences, and one for each of the first."""
    differ = np.asarray(differ)
    if not differ.any():
        return []
    lines = [f"{name}: {int(differ.sum()):,} of {differ.size:,} {phrase}"]
    for place in np.argwhere(differ)[:_SHOWN].tolist():
        at = tuple(place)
        where = "" if not at else f"at index {at[0] if len(at) == 1 else at}: "
        lines.append(f"  {where}{shown(actual[at])}; desired {shown(desired[at])}")
    return lines + ["  ..."] * (int(differ.sum()) > _SHOWN)


def _ordered(codes: Array) -> Array:
    """Return codes as integers along the number line; those of floats, whose bytes hold a sign and a magnitude."""
    if not _is_float_code(codes.dtype):
        is_uint64 = codes.dtype.kind == "u" and codes.dtype.itemsize == 8
        return codes.astype(object) if is_uint64 else codes.astype(np.int64)
    bits = _bits(codes.dtype)
    raw = np.ascontiguousarray(codes).view(f"u{codes.dtype.itemsize}").astype(np.int64).reshape(codes.shape)
    raw &= (1 << bits) - 1
    if codes.dtype == ml_dtypes.float8_e8m0fnu:  # without a sign
        return raw
    sign = 1 << (bits - 1)
    return np.where(raw & sign, -1 - (raw & (sign - 1)), raw)


def _is_float_code(dtype: np.dtype[Any]) -> bool:
    code = code_type(dtype)
    if code is not None:
        return code.real is not None
    return dtype.name.startswith(("float6", "float8"))  # codes and scales of blocks


def _bits(dtype: np.dtype[Any]) -> int:
    return int(ml_dtypes.finfo(dtype).bits)  # type: ignore[no-untyped-call]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _real(value: Any) -> str:
    return f"{float(value):.7g}"
