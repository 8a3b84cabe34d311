"""MatMulNBits and GatherBlockQuantized of ONNX Runtime: codes in blocks along K, packed along K, lowest bits first."""

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from ..._typing import Array
from .._graph import Graph
from .weight_codes import Codes

__all__ = ["DOMAIN", "blocks_of", "gather_block_quantized", "matmul_nbits", "takes"]

DOMAIN = "com.microsoft"
_WIDTHS = (2, 4, 8)


def container(bits: int) -> int:
    """Return the bits of a code in the file: the runtime has 2, 4 and 8."""
    return next(width for width in _WIDTHS if width >= bits)


def takes(group_size: int | None) -> bool:
    """Whether the operators have blocks of that size."""
    return group_size is not None and group_size >= 16 and group_size & (group_size - 1) == 0


def packed(values: Array, bits: int) -> Array:
    """Pack the last axis into bytes, lowest bits first, and fill the last byte with zeros."""
    per = 8 // bits
    if per == 1:
        return np.ascontiguousarray(values, np.uint8)
    rest = -values.shape[-1] % per
    whole = np.concatenate([values, np.zeros((*values.shape[:-1], rest), values.dtype)], axis=-1)
    parts = whole.reshape(*values.shape[:-1], -1, per) << (bits * np.arange(per, dtype=np.uint8))
    return np.asarray(np.bitwise_or.reduce(parts, axis=-1), np.uint8)


def blocks_of(codes: Codes, dtype: Any) -> dict[str, Array]:
    """Return the inputs of the operators: B (N, blocks, bytes), scales (N, blocks), zero points unless symmetric.

    Float zero points stand for offsets: ``scale * (code - zero)`` with ``zero = -offset / scale``.
    """
    bits = container(codes.bits)
    rows = len(codes.codes)
    shift = 0 if codes.zero is None or bits == codes.bits else (1 << (bits - 1)) - codes.middle
    whole = codes.padded() + np.uint8(shift)
    arrays = {
        "B": packed(whole.reshape(rows, codes.groups, codes.group_size), bits),
        "scales": codes.scale.astype(dtype),
    }
    if codes.zero is None:
        assert codes.offset is not None
        arrays["zero_points"] = np.asarray(-codes.offset.astype(np.float64) / codes.scale, dtype)
    elif not codes.is_symmetric:
        arrays["zero_points"] = packed(codes.zero + np.uint8(shift), bits)
    return arrays


def matmul_nbits(
    graph: Graph, stem: str, x: str, y: str, codes: Codes, dtype: Any, accuracy_level: int
) -> tuple[NodeProto, int]:
    """Return the node that multiplies x by the matrix (N, K) of the codes, and the bytes of the codes."""
    arrays = blocks_of(codes, dtype)
    graph.require(DOMAIN)
    names = [graph.add(f"{stem}_{name}", array) for name, array in arrays.items()]
    rows, inputs = codes.codes.shape
    node = helper.make_node(
        "MatMulNBits",
        [x, *names],
        [y],
        name=graph.name(f"{stem}_MatMulNBits"),
        domain=DOMAIN,
        K=inputs,
        N=rows,
        bits=container(codes.bits),
        block_size=codes.group_size,
        accuracy_level=accuracy_level,
    )
    return node, sum(array.nbytes for array in arrays.values())


def gather_block_quantized(
    graph: Graph, stem: str, ids: str, y: str, codes: Codes, dtype: Any
) -> tuple[NodeProto, int]:
    """Return the node that looks up rows of the matrix (N, K) of the codes, and the bytes of the codes."""
    arrays = blocks_of(codes, dtype)
    graph.require(DOMAIN)
    rows = len(codes.codes)
    arrays["B"] = arrays["B"].reshape(rows, -1)
    names = [graph.add(f"{stem}_{name}", array) for name, array in arrays.items()]
    node = helper.make_node(
        "GatherBlockQuantized",
        [names[0], ids, *names[1:]],
        [y],
        name=graph.name(f"{stem}_GatherBlockQuantized"),
        domain=DOMAIN,
        bits=container(codes.bits),
        block_size=codes.group_size,
        gather_axis=0,
        quantize_axis=1,
    )
    return node, sum(array.nbytes for array in arrays.values())
