"""DequantizeLinear in blocks, opset 21: codes of 4 or 8 bits that the runtime, or a compiler, dequantizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from .._graph import Graph
from .weight_codes import Codes

__all__ = ["dequantized"]


def dequantized(
    graph: Graph, stem: str, codes: Codes, shape: Sequence[int], order: Sequence[int], dtype: Any
) -> tuple[list[NodeProto], str, int]:
    """Return nodes that compute a weight from its codes, the name of the weight, and the bytes of the codes.

    ``weight.transpose(order).reshape(N, K)`` is the matrix of the codes. Where K is one axis of the weight, the blocks
    lie along it; otherwise the matrix is dequantized and reshaped.
    """
    from ml_dtypes import int4, uint4

    if codes.zero is None:
        raise AssertionError("DequantizeLinear has no offsets")
    bits = 4 if codes.bits <= 4 else 8
    rows, inputs = codes.codes.shape
    shift = np.int16((1 << (bits - 1)) - codes.middle)
    plain, zero = codes.codes.astype(np.int16) + shift, codes.zero.astype(np.int16) + shift
    signed = codes.is_symmetric
    if signed:
        plain -= np.int16(1 << (bits - 1))
    storage: Any = ((int4, np.int8) if signed else (uint4, np.uint8))[bits == 8]
    along = shape[order[-1]] == inputs and len(shape) > 1
    moved = [shape[axis] for axis in order] if along else [rows, inputs]
    back = np.argsort(order) if along else np.array([0, 1])

    def placed(values: Any, last: int) -> Any:
        return values.reshape([*moved[:-1], last]).transpose(back)

    attributes: dict[str, Any] = {"axis": int(order[-1]) if along else 1, "block_size": codes.group_size}
    arrays = [
        placed(plain, inputs).astype(np.int8 if signed else np.uint8).astype(storage),
        placed(codes.scale, codes.groups).astype(dtype),
    ]
    if not signed:
        arrays.append(placed(zero, codes.groups).astype(np.uint8).astype(storage))
    names = [
        graph.add(f"{stem}_{name}", array)
        for name, array in zip(("codes", "scale", "zero_point"), arrays, strict=False)
    ]
    size = sum(array.size * (bits if array.dtype == storage else 8 * array.itemsize) // 8 for array in arrays)
    real = graph.name(f"{stem}_dequantized")
    nodes = [helper.make_node("DequantizeLinear", names, [real], name=real, **attributes)]
    if not along:
        ordered = [shape[axis] for axis in order]
        output = graph.name(f"{stem}_reshaped")
        nodes.append(
            helper.make_node(
                "Reshape", [real, graph.add(f"{stem}_shape", np.array(ordered, np.int64))], [output], name=output
            )
        )
        real = output
        if list(order) != sorted(order):
            output = graph.name(f"{stem}_transposed")
            nodes.append(helper.make_node("Transpose", [real], [output], name=output, perm=np.argsort(order).tolist()))
            real = output
    return nodes, real, size
