"""Products of matrices of the low-precision types: exact ones of integer codes, and sums in each accumulator."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _args, _core
from .._check import alternatives, array, got, must, typed, zero_point
from .._typing import Array, ArrayLike, CodeLike, DType, Int32Array, IntegerLike
from ..dtypes import CODE_TYPES, CodeType, float_type
from .accumulate import accumulate_dot

__all__ = ["integer_operand", "integer_product", "matmul", "matmul_integer", "operand_params", "product_shape"]

_INTEGERS = ("int8", "uint8", "int16")
_OPERANDS = {CODE_TYPES[name].dtype: CODE_TYPES[name] for name in _INTEGERS}
_FLOATS = {"float16": ("float16", "float32"), "bfloat16": ("float32",)}  # and the accumulators they may have
_WIDENED = 1 << 22  # elements of an operand that are widened at a time
_INT32 = np.dtype(np.int32)


def matmul_integer(
    a: CodeLike,
    b: CodeLike,
    a_zero_point: IntegerLike | None = None,
    b_zero_point: IntegerLike | None = None,
    *,
    out: Int32Array | None = None,
) -> Int32Array:
    """Multiply matrices of integer codes exactly: ``(a - a_zero_point) @ (b - b_zero_point)`` in int32.

    Parameters
    ----------
    a, b : array_like of int8, uint8 or int16
        Shapes (..., M, K) and (..., K, N), in any mix of the types; broadcast as np.matmul does, 1-d operands too. Any
        strides; a transposed operand is not copied.
    a_zero_point : array_like of integers, optional
        In the range of the type of `a`: a number; or one for each row, of shape (M,) or (..., M, 1); or one for each
        matrix, of shape (..., 1, 1). The axes before broadcast to the batch axes of the result. 0 by default.
    b_zero_point : array_like of integers, optional
        In the range of the type of `b`: a number; or one for each column, of shape (N,) or (..., 1, N); or one for each
        matrix, of shape (..., 1, 1).
    out : ndarray of int32, optional
        Receives the product: exact shape, C-contiguous, writable, apart from the inputs.

    Returns
    -------
    ndarray of int32
        Shape (..., M, N), without the axes that 1-d operands do not have; a scalar when both are 1-d.

    Raises
    ------
    TypeError
        a or b is not of int8, uint8 or int16.
    ValueError
        a or b is 0-d; the columns of a are not the rows of b; their batch axes do not broadcast.
    TypeError
        A zero point is not an integer.
    ValueError
        A zero point is outside the range of its operand's type, or of another shape.
    TypeError, ValueError
        out: as in quantize_linear.
    OverflowError
        A sum does not fit int32; it never wraps or saturates. The content of `out` is then undefined.
    MemoryError
        There is no memory for the packed operands.

    Notes
    -----
    Exact, and the same bits on every ISA, thread count and memory layout; no step saturates. Sums of fewer than 131,072
    products of int8 without zero points (33,026 of any 8-bit operands) cannot overflow and are not checked; longer sums
    are added in int64. O(M K N); K N bytes of scratch for the packed b, none for up to 256 rows of 8-bit codes.

    References
    ----------
    ONNX MatMulInteger, opset 10, for 8-bit operands. docs/matmul.md explains the kernels.

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
    left, right = integer_operand(owner, "a", a), integer_operand(owner, "b", b)
    return integer_product(owner, left, right, a_zero_point, b_zero_point, out)  # type: ignore[no-any-return]


def matmul(a: ArrayLike, b: ArrayLike, *, accumulate: DType | None = None) -> Array:
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
        a or b is of another type.
    ValueError
        a or b is 0-d.
    TypeError
        a and b are of two types that are not both integers; accumulate is no accumulator of their type.
    ValueError
        The columns of a are not the rows of b, or their batch axes do not broadcast.
    OverflowError
        A sum of integers does not fit in int32.

    Notes
    -----
    Sums in float16 are rounded half to even, once for each product added, in the order of K, by the emulation
    of accumulate_dot. BLAS computes the sums in float32: operands are widened exactly, in blocks of 16 MiB. BLAS
    chooses the order of the additions: the result is within ``K * 2**-24 * (|a| @ |b|)``, to first order, of the exact
    product.

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
        requirement = "integers like a" if integers else f"of {name} like a"
        raise TypeError(must(owner, "b", requirement, f"dtype {right.dtype.name}"))
    allowed = ("int32",) if integers else _FLOATS[name]
    chosen = allowed[0] if accumulate is None else _name(accumulate)
    if chosen not in allowed:
        raise TypeError(must(owner, "accumulate", f"{' or '.join(allowed)} for {name}", typed(accumulate)))
    if integers:
        return np.asarray(integer_product(owner, left, right, None, None))
    return _pair_by_pair(owner, left, right, np.dtype(chosen), _narrow if chosen == "float16" else _widened)


def _operand(owner: str, name: str, value: Any) -> Array:
    operand = array(owner, name, value, "Use qmatmul with a PackedWeight, or q.dequantize().")
    if operand.dtype.name not in (*_INTEGERS, *_FLOATS):
        text = must(owner, name, f"an array of {alternatives([*_INTEGERS, *_FLOATS])}", got(value, operand))
        raise TypeError(text + (" Use a @ b." if operand.dtype.kind == "f" else ""))
    if operand.ndim == 0:
        raise ValueError(must(owner, name, "of one dimension or more", "a 0-d array"))
    return operand


def _name(dtype: Any) -> str | None:
    real = float_type(dtype)
    try:
        return real.name if real else np.dtype(dtype).name
    except (TypeError, ValueError):
        return None


def _pair_by_pair(
    owner: str, a: Array, b: Array, dtype: np.dtype[Any], product: Callable[[Array, Array, Array], None]
) -> Array:
    """Call product(a, b, out) for every pair of matrices of two stacks."""
    left, right = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    try:
        stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        stack = None
    if stack is None or left.shape[-1] != right.shape[-2]:
        raise ValueError(must(owner, "a and b", "of shapes (..., M, K) and (..., K, N)", _shapes(a, b)))
    out = np.empty((*stack, left.shape[-2], right.shape[-1]), dtype)
    lefts, rights = (np.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (left, right))
    for index in np.ndindex(stack):
        product(lefts[index], rights[index], out[index])
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


def integer_operand(owner: str, name: str, value: Any) -> Array:
    """Return an operand of matmul_integer as a checked array."""
    operand = array(owner, name, value, "Use q.codes and q.zero_point, or qmatmul with a PackedWeight.")
    if _integer_type(operand) is None:
        sentence = must(owner, name, f"an array of {alternatives(_INTEGERS)}", got(value, operand))
        if float_type(operand.dtype) is not None:
            sentence += " Quantize it first, or multiply floats with qnumpy.matmul or np.matmul."
        raise TypeError(sentence)
    if operand.ndim == 0:
        raise ValueError(must(owner, name, "of one dimension or more", "a 0-d array"))
    return operand


def integer_product(owner: str, left: Array, right: Array, a_zero: Any, b_zero: Any, out: Any = None) -> Any:
    """Multiply checked operands as matmul_integer does, for the function `owner` that the user called."""
    left_type, right_type = _integer_type(left), _integer_type(right)
    assert left_type is not None
    assert right_type is not None
    rows = left[None, :] if left.ndim == 1 else left
    columns = right[:, None] if right.ndim == 1 else right
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(must(owner, "b", f"of as many rows as a has columns, {rows.shape[-1]}", _shapes(left, right)))
    batch = _batch(owner, left, right, rows.shape[:-2], columns.shape[:-2])
    m, n = rows.shape[-2], columns.shape[-1]
    row_zeros = _zeros(owner, "a_zero_point", a_zero, left_type, batch, m, axis=-1)
    column_zeros = _zeros(owner, "b_zero_point", b_zero, right_type, batch, n, axis=-2)
    shape = (*batch, m, n)
    if left.ndim == 1 or right.ndim == 1:  # drop the axes that were added to 1-d operands
        shape = (*batch, *((m,) if left.ndim > 1 else ()), *((n,) if right.ndim > 1 else ()))
    result = _args.output(owner, out, _INT32, shape, left, right)
    full = result.reshape(*batch, m, n)
    if _is_tall(rows, columns, batch, row_zeros, column_zeros):
        tall = math.prod(batch) * m
        rows, full = rows.reshape(tall, rows.shape[-1]), full.reshape(tall, n)
        batch = ()
    rows, columns = _stacked(rows, batch, 2), _stacked(columns, batch, 2)
    row_zeros, column_zeros = _stacked(row_zeros, batch, 1), _stacked(column_zeros, batch, 1)
    if not _core.matmul_integer(rows, left_type.core, columns, right_type.core, row_zeros, column_zeros, full):
        raise OverflowError(
            f"{owner}: every sum must fit int32; got one outside it. Split K, and add the parts in int64."
        )
    return result if out is not None or result.ndim else result[()]


def product_shape(left: Array, right: Array) -> tuple[int, int, tuple[int, ...]]:
    """Return M, N and the batch axes of the product of operands that fit."""
    m, n = left.shape[-2] if left.ndim > 1 else 1, right.shape[-1] if right.ndim > 1 else 1
    return m, n, np.broadcast_shapes(left.shape[:-2], right.shape[:-2])


def _integer_type(operand: Array) -> CodeType | None:
    return _OPERANDS.get(operand.dtype) or _OPERANDS.get(operand.dtype.newbyteorder("="))


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
    """Return int32 of shape (..., 1 or length) whose first axes broadcast to the batch; None if all are 0."""
    if value is None:
        return None
    checked = zero_point(owner, value, code.qmin, code.qmax, name)
    zeros = operand_params(owner, name, checked, batch, length, axis).squeeze(axis)
    return np.ascontiguousarray(zeros) if zeros.any() else None


def operand_params(owner: str, name: str, params: Array, batch: tuple[int, ...], length: int, axis: int) -> Array:
    """Return the scales or zero points of an operand as an array that broadcasts against it; raise for other shapes.

    A vector holds one for each row of a (`axis`, that of K, is -1) or for each column of b (-2). More axes are those of
    the operand, with length 1 on `axis`; the others broadcast.
    """
    if params.size == 1:
        return params.reshape(1, 1)
    if params.ndim == 1 and params.shape == (length,):
        return params[:, None] if axis == -1 else params[None, :]
    own = params.shape[-2:]
    if len(own) == 2 and own[axis] == 1 and own[-3 - axis] in (1, length) and _broadcasts(params.shape[:-2], batch):
        return params
    requirement = f"({length},) or (..., {length}, 1)" if axis == -1 else f"({length},) or (..., 1, {length})"
    raise ValueError(must(owner, name, f"of shape () or {requirement}", f"shape {params.shape}"))


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, t) for n, t in zip(shape[::-1], to[::-1], strict=False))


def _stacked(array: Any, batch: tuple[int, ...], own: int) -> Any:
    """Broadcast all axes of an array but the last `own` to the batch.

    np.broadcast_to takes as long as a small product, so the common cases do without.
    """
    if array is None or array.shape[:-own] == batch:
        return array
    if not batch:
        return array.reshape(array.shape[-own:])
    return np.broadcast_to(array, (*batch, *array.shape[-own:]))
