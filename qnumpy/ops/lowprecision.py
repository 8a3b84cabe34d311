"""Matrix products of the low-precision types, each summed in its accumulator."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._args import Array
from ..dtypes import float_type
from .accumulate import accumulate_dot
from .matmul import matmul_integer

__all__ = ["matmul"]

_INTEGERS = ("int8", "uint8", "int16")
_FLOATS = {"float16": ("float16", "float32"), "bfloat16": ("float32",)}  # and what they may be summed in
_WIDENED = 1 << 22  # elements of an operand that are float32 at a time


def matmul(a: Any, b: Any, *, accumulate: Any = None) -> Array:
    """Multiply matrices of a low-precision type and sum in its accumulator.

    int8, uint8 and int16 are summed in int32, exactly; bfloat16 in float32; float16 in float16, rounded after every
    step, or in float32.

    Parameters
    ----------
    a : array_like of int8, uint8, int16, float16 or bfloat16, shape (..., M, K) or (K,)
    b : array_like of the same kind, shape (..., K, N) or (K,)
        Floating operands have one type; integers may be mixed as in matmul_integer. Broadcast as by np.matmul.
    accumulate : str or dtype, optional
        int32 for integers, float32 for bfloat16, float16 or float32 for float16; ``accumulator(a.dtype)`` by default.

    Returns
    -------
    ndarray of the accumulator's type, shape (..., M, N)

    Raises
    ------
    TypeError
        An operand is of another type, the two do not go together, or accumulate does not fit them.
    ValueError
        The shapes do not fit.
    OverflowError
        A sum of integers does not fit in int32.

    Notes
    -----
    Sums in float16 are rounded half to even, once for each product added, in the order of K (accumulate_dot): what
    hardware without a wider accumulator computes, at the price of an emulation. Sums in float32 are products of BLAS:
    operands are widened, which is exact, in blocks of 16 MiB; the order of the sums is that of BLAS, so the result is
    within ``K * 2**-24 * (|a| @ |b|)``, to first order, of the exact one.

    Examples
    --------
    >>> ones = np.ones((1, 4096), np.float16)
    >>> matmul(ones, ones.T).item(), matmul(ones, ones.T, accumulate="float32").item()
    (2048.0, 4096.0)
    """
    owner = "matmul"
    left, right = _operand(owner, "a", a), _operand(owner, "b", b)
    name = left.dtype.name
    integers = name in _INTEGERS
    if right.dtype.name not in _INTEGERS if integers else right.dtype.name != name:
        wanted = "integers like a" if integers else f"of {name} like a"
        raise TypeError(_check.must(owner, "b", wanted, f"dtype {right.dtype.name}"))
    allowed = ("int32",) if integers else _FLOATS[name]
    chosen = allowed[0] if accumulate is None else _name(accumulate)
    if chosen not in allowed:
        raise TypeError(
            _check.must(owner, "accumulate", f"{' or '.join(allowed)} for {name}", _check.typed(accumulate))
        )
    if integers:
        return np.asarray(matmul_integer(left, right))
    return _stacked(owner, left, right, np.dtype(chosen), _narrow if chosen == "float16" else _widened)


def _operand(owner: str, name: str, value: Any) -> Array:
    given = _check.array(owner, name, value)
    if given.dtype.name not in (*_INTEGERS, *_FLOATS):
        text = _check.must(owner, name, "an array of int8, uint8, int16, float16 or bfloat16", f"dtype {given.dtype}")
        raise TypeError(text + (" Use a @ b." if given.dtype.kind == "f" else ""))
    if given.ndim == 0:
        raise ValueError(_check.must(owner, name, "of one dimension or more", "a 0-d array"))
    return given


def _name(dtype: Any) -> str | None:
    found = float_type(dtype)
    try:
        return found.name if found else np.dtype(dtype).name
    except TypeError:
        return None


def _stacked(
    owner: str, a: Array, b: Array, dtype: np.dtype[Any], product: Callable[[Array, Array, Array], None]
) -> Array:
    """Call product(a, b, out) for every pair of matrices of two stacks."""
    left, right = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    try:
        stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        stack = None
    if stack is None or left.shape[-1] != right.shape[-2]:
        got = f"shapes {a.shape} and {b.shape}"
        raise ValueError(_check.must(owner, "a and b", "of shapes (..., M, K) and (..., K, N)", got))
    out = np.empty((*stack, left.shape[-2], right.shape[-1]), dtype)
    lefts, rights = (np.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (left, right))
    for at in np.ndindex(stack):
        product(lefts[at], rights[at], out[at])
    if a.ndim == 1:
        out = out[..., 0, :]
    return np.asarray(out[..., 0] if b.ndim == 1 else out)


def _narrow(a: Array, b: Array, out: Array) -> None:
    out[...] = accumulate_dot(a, b, accumulate=out.dtype)


def _widened(a: Array, b: Array, out: Array) -> None:
    step = max(1, _WIDENED // max(a.shape[-1], 1))
    for column in range(0, b.shape[1], step):
        columns = slice(column, column + step)
        right = b[:, columns].astype(np.float32)
        for row in range(0, a.shape[0], step):
            rows = slice(row, row + step)
            np.matmul(a[rows].astype(np.float32), right, out=out[rows, columns])
