"""Weights of 1 to 8 bits by standard operators that every runtime computes once, when it loads the model.

The codes lie in the file at their width, as planes of 4, 2 and 1 bits: 6-bit codes have one of 4 bits and one of 2. A
byte holds the codes i, i + n, i + 2n, ... of a group of 8 / bits n codes, lowest bits first, so that two shifts that
broadcast unpack a plane. All operators exist since opset 11. Their inputs are constants, so that ONNX Runtime folds
them into one float tensor: the model then runs as the float one does. DequantizeLinear it does not fold.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ..._typing import Array
from .._graph import Graph
from .weight_codes import Codes

__all__ = ["fold", "least_group"]

_PLANES = (4, 2, 1)


class _Writer(NamedTuple):
    """Appends nodes whose names nobody uses yet, and counts the bytes of the constants."""

    graph: Graph
    stem: str
    nodes: list[Any]
    sizes: list[int]

    def constant(self, suffix: str, array: Any) -> str:
        values = np.asarray(array)
        self.sizes.append(values.nbytes)
        return self.graph.add(f"{self.stem}_{suffix}", values)

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = self.graph.name(f"{self.stem}_{op_type.lower()}")
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output


def least_group(bits: int) -> int:
    """Return the number of codes that fill whole bytes in every plane."""
    return max([8 // width for width in _PLANES if bits & width], default=1)


def fold(
    graph: Graph, stem: str, codes: Codes, places: Sequence[tuple[Sequence[int], Sequence[int]]], elem_type: int
) -> tuple[list[NodeProto], list[str], int]:
    """Return nodes that compute a weight from its codes, its name in each of its shapes, and the bytes of the codes.

    ``weight.transpose(order).reshape(N, K)`` is the matrix of the codes, for each (shape, order) of `places`;
    `elem_type` is the weight's type in ONNX.
    """
    writer = _Writer(graph, stem, [], [])
    rows, inputs = codes.codes.shape
    size = codes.group_size
    unit = least_group(codes.bits)
    if codes.groups == 1:
        size = -(-inputs // unit) * unit
    elif size % unit:
        raise AssertionError(f"groups of {size} do not fill bytes")
    whole = codes._replace(group_size=size).padded().reshape(rows * codes.groups, size)
    real = _planes(writer, whole, codes.bits, elem_type)
    scale = _real(writer, "scale", codes.scale.reshape(-1, 1), elem_type)
    if codes.zero is None:
        assert codes.offset is not None
        offset = _real(writer, "offset", codes.offset.reshape(-1, 1), elem_type)
        real = writer.node("Add", writer.node("Mul", real, scale), offset)
    else:
        if codes.is_symmetric:
            zero = writer.constant("zero_point", np.asarray(codes.middle, _dtype(elem_type)))
        else:
            zero = _zero_points(writer, codes, elem_type)
        real = writer.node("Mul", writer.node("Sub", real, zero), scale)
    padded = codes.groups * size
    if padded != inputs:
        real = writer.node("Reshape", real, writer.constant("shape", np.array([rows, padded], np.int64)))
        ends = (np.array([value], np.int64) for value in (0, inputs, 1))
        real = writer.node(
            "Slice",
            real,
            *(writer.constant(name, end) for name, end in zip(("starts", "ends", "axes"), ends, strict=True)),
        )
    results = []
    for shape, order in places:
        moved = np.array([shape[axis] for axis in order], np.int64)
        result = writer.node("Reshape", real, writer.constant("shape", moved))
        if list(order) != sorted(order):
            result = writer.node("Transpose", result, perm=np.argsort(order).tolist())
        results.append(result)
    return writer.nodes, results, sum(writer.sizes)


def _planes(writer: _Writer, codes: Array, bits: int, elem_type: int) -> str:
    """Return the name of the codes as reals, (M, C), from planes of their bits."""
    rows, size = codes.shape
    if bits == 8:
        return writer.node("Cast", writer.constant("codes", codes), to=elem_type)
    shape = writer.constant("shape", np.array([rows, size], np.int64))
    total, low = "", 0
    for width in _PLANES:
        if not bits & width:
            continue
        count = 8 // width
        plane = (codes >> low & ((1 << width) - 1)).reshape(rows, count, size // count)
        places = (width * np.arange(count, dtype=np.uint8)).reshape(1, count, 1)
        packed = np.bitwise_or.reduce(plane << places, axis=1, keepdims=True).astype(np.uint8)
        left = writer.constant("left", (8 - width - places).astype(np.uint8))
        right = writer.constant("right", np.asarray(8 - width, np.uint8))
        shifted = writer.node("BitShift", writer.constant("codes", packed), left, direction="LEFT")
        shifted = writer.node("BitShift", shifted, right, direction="RIGHT")
        real = writer.node("Reshape", writer.node("Cast", shifted, to=elem_type), shape)
        if low:
            real = writer.node("Mul", real, writer.constant("unit", np.asarray(1 << low, _dtype(elem_type))))
        total = writer.node("Add", total, real) if total else real
        low += width
    return total


def _zero_points(writer: _Writer, codes: Codes, elem_type: int) -> str:
    """Return the name of the zero points as reals (M, 1), two in a byte where they fit."""
    assert codes.zero is not None
    flat = codes.zero.reshape(-1)
    bits = 4 if codes.bits <= 4 else 8
    if bits == 8 or flat.size % 2:
        return writer.node("Cast", writer.constant("zero_point", flat.reshape(-1, 1)), to=elem_type)
    inner = writer._replace(stem=f"{writer.stem}_zero_point")
    real = _planes(inner, flat.reshape(1, -1), bits, elem_type)
    return writer.node("Reshape", real, writer.constant("shape", np.array([-1, 1], np.int64)))


def _real(writer: _Writer, suffix: str, values: Array, elem_type: int) -> str:
    """Return the name of parameters, which the file holds in float16 where they are normal in it."""
    kept = values.astype(_dtype(elem_type))
    if elem_type != TensorProto.FLOAT16:
        half = halved(values)
        if half is not None and values.size > 1:
            return writer.node("Cast", writer.constant(suffix, half), to=elem_type)
    return writer.constant(suffix, kept)


def halved(values: Array) -> Array | None:
    """Return numbers as float16, or None where one of them loses more than half a unit there."""
    size = np.abs(values[values != 0])
    if size.size and not (size.min() >= 2.0**-14 and size.max() <= 65504):
        return None
    return values.astype(np.float16)


def _dtype(elem_type: int) -> Any:
    return helper.tensor_dtype_to_np_dtype(elem_type)
