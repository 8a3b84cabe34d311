"""Exact integer products of arrays."""

import math
from typing import Any

import numpy as np

from .. import _args, _core
from .._args import Array
from .._check import array, must, zero_point
from ..dtypes import CODE_TYPES, CodeType, float_type

__all__ = ["matmul_integer"]

_OPERANDS = {found.dtype: found for name, found in CODE_TYPES.items() if name in ("int8", "uint8", "int16")}
_INT32 = np.dtype(np.int32)


def matmul_integer(a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None, *, out: Any = None) -> Any:
    """Multiply matrices of integer codes exactly: ``(a - a_zero_point) @ (b - b_zero_point)`` in int32.

    Parameters
    ----------
    a, b : array_like of int8, uint8 or int16
        Shapes (..., M, K) and (..., K, N), in any mix of the types; broadcast as np.matmul does, 1-d operands too. Any
        strides; a transposed operand is not copied.
    a_zero_point : array_like of integers, optional
        In the range of the type of `a`: a number, shape (M,) for one each row, or (..., M, 1) with
        the batch axes of the result. 0 by default.
    b_zero_point : array_like of integers, optional
        In the range of the type of `b`: a number, shape (N,) for one each column, or (..., 1, N).
    out : ndarray of int32, optional
        Receives the product: exact shape, C-contiguous, writable, apart from the inputs.

    Returns
    -------
    ndarray of int32
        Shape (..., M, N), without the axes that 1-d operands do not have; a scalar when both are 1-d.

    Raises
    ------
    TypeError
        An operand is not int8, uint8 or int16, a zero point not an integer, out not int32.
    ValueError
        Shapes do not fit, a zero point is outside the range of its operand's type, out does not fit.
    OverflowError
        A sum does not fit int32. It never wraps and never saturates; `out` then holds no result.
    MemoryError
        There is no memory for the packed operands.

    Notes
    -----
    Exact, and the same bits on every ISA, thread count and memory layout; no step saturates. Sums of fewer than 131,072
    products of int8 without zero points (33,026 of any 8-bit operands) cannot overflow, and nothing is spent on a
    check; longer ones are added in int64. O(M K N); scratch of K N bytes for the packed b,
    which up to 256 rows of 8-bit codes do without.

    References
    ----------
    ONNX MatMulInteger, opset 10, which knows 8-bit operands. docs/matmul.md explains the kernels.

    Examples
    --------
    >>> a = np.array([[-128, 127], [3, 4]], np.int8)
    >>> b = np.array([[255, 0], [255, 1]], np.uint8)
    >>> matmul_integer(a, b)
    array([[-255,  127],
           [1785,    4]], dtype=int32)
    >>> matmul_integer(a, b, a_zero_point=[1, 0], b_zero_point=128)
    array([[-381,  510],
           [ 889, -892]], dtype=int32)
    """
    owner = "matmul_integer"
    left, left_type = _operand(owner, "a", a)
    right, right_type = _operand(owner, "b", b)
    rows = left[None, :] if left.ndim == 1 else left
    columns = right[:, None] if right.ndim == 1 else right
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(must(owner, "b", f"of as many rows as a has columns, {rows.shape[-1]}", _shapes(left, right)))
    batch = _batch(owner, left, right, rows.shape[:-2], columns.shape[:-2])
    m, n = rows.shape[-2], columns.shape[-1]
    a_zero = _zeros(owner, "a_zero_point", a_zero_point, left_type, batch, m, axis=-1)
    b_zero = _zeros(owner, "b_zero_point", b_zero_point, right_type, batch, n, axis=-2)
    shape = (*batch, m, n)
    if left.ndim == 1 or right.ndim == 1:  # without the axes that were put there
        shape = (*batch, *((m,) if left.ndim > 1 else ()), *((n,) if right.ndim > 1 else ()))
    result = _args.output(owner, out, _INT32, shape, left, right)
    full = result.reshape(*batch, m, n)
    if _is_tall(rows, columns, batch, a_zero, b_zero):
        tall = math.prod(batch) * m
        rows, full = rows.reshape(tall, rows.shape[-1]), full.reshape(tall, n)
        batch = ()
    rows, columns = _stacked(rows, batch, 2), _stacked(columns, batch, 2)
    a_zero, b_zero = _stacked(a_zero, batch, 1), _stacked(b_zero, batch, 1)
    if not _core.matmul_integer(rows, left_type.core, columns, right_type.core, a_zero, b_zero, full):
        raise OverflowError(
            f"{owner}: every sum must fit int32; got one outside it. Split K, and add the parts in int64."
        )
    return result if out is not None or result.ndim else result[()]


def _operand(owner: str, name: str, value: Any) -> tuple[Array, CodeType]:
    given = array(owner, name, value)
    found = _OPERANDS.get(given.dtype) or _OPERANDS.get(given.dtype.newbyteorder("="))
    if found is None:
        sentence = must(owner, name, "an array of int8, uint8 or int16", f"dtype {given.dtype}")
        if float_type(given.dtype) is not None:
            sentence += " Quantize it first, or multiply floats with qnumpy.matmul or np.matmul."
        raise TypeError(sentence)
    if given.ndim == 0:
        raise ValueError(must(owner, name, "of one dimension or more", "a 0-d array"))
    return given, found


def _shapes(a: Array, b: Array) -> str:
    return f"shapes {a.shape} and {b.shape}"


def _batch(owner: str, a: Array, b: Array, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    if not right or left == right:
        return left
    try:
        return np.broadcast_shapes(left, right)
    except ValueError:
        raise ValueError(must(owner, "b", "of a shape that broadcasts with a", _shapes(a, b))) from None


def _is_tall(rows: Array, columns: Array, batch: tuple[int, ...], a_zero: Array | None, b_zero: Array | None) -> bool:
    """Whether the stack is one tall matrix times one b."""
    if not batch:
        return False
    one_b = math.prod(columns.shape[:-2]) == 1 and (b_zero is None or b_zero.size == b_zero.shape[-1])
    one_a = rows.flags.c_contiguous and rows.shape[:-2] == batch and (a_zero is None or a_zero.size == 1)
    return one_a and one_b


def _zeros(
    owner: str, name: str, value: Any, code: CodeType, batch: tuple[int, ...], length: int, axis: int
) -> Array | None:
    """Return None for zeros, or int32 of shape (..., 1 or length) whose first axes broadcast to the batch's.

    With two axes or more `axis` is the one that the operand multiplies along, of length 1.
    """
    if value is None:
        return None
    given = zero_point(owner, value, code.qmin, code.qmax, name)
    found = given.reshape(1) if given.size == 1 else given
    if found.ndim > 1:
        found = found.squeeze(axis) if found.shape[axis] == 1 else found[..., None]  # the latter fits nothing
    if found.shape[-1] not in (1, length) or not _broadcasts(found.shape[:-1], batch):
        wanted = f"({length},) or (..., {length}, 1)" if axis == -1 else f"({length},) or (..., 1, {length})"
        raise ValueError(must(owner, name, f"of shape () or {wanted}", f"shape {given.shape}"))
    return np.ascontiguousarray(found) if found.any() else None


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, t) for n, t in zip(shape[::-1], to[::-1], strict=False))


def _stacked(given: Any, batch: tuple[int, ...], own: int) -> Any:
    """Spread an array with `own` axes of its own over the batch; np.broadcast_to takes as long as a small product."""
    if given is None or given.shape[:-own] == batch:
        return given
    if not batch:
        return given.reshape(given.shape[-own:])
    return np.broadcast_to(given, (*batch, *given.shape[-own:]))
