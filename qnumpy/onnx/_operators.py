"""The operators of the domain "qnumpy" as docs/onnx-operators.md defines them: names, and the panels of a weight."""

from typing import Any, NamedTuple

import numpy as np

from .._typing import Array, Float32Array, Int8Array, Int32Array, UInt8Array
from ..arrays import QuantizedArray
from ..arrays.storages import pack_weight
from ..granularity import PerChannel, PerGroup
from ..ops.hadamard import Hadamard, arguments
from ..ops.packed_groups import PackedGroups
from ..qparams import QParams

__all__ = ["DOMAIN", "LINEAR_INPUTS", "VERSION", "LinearWeight", "linear_parts", "linear_weight", "signs_of"]

DOMAIN = "qnumpy"
VERSION = 1
LINEAR_INPUTS = ("x", "w", "scale", "zero_point", "bias", "smooth", "signs")
_PANEL = 16  # columns
_CODES = {(8, 1): "int8", (8, 0): "uint8", (4, 1): "int4", (4, 0): "uint4", (2, 1): "int2", (2, 0): "uint2"}


class LinearWeight(NamedTuple):
    """The weight of a node Linear: its constants and attributes."""

    w: UInt8Array
    scale: Float32Array | None  # None: the panels hold the scales of groups
    zero_point: Int32Array | None
    attributes: dict[str, Any]


def linear_weight(w: QuantizedArray, *, outputs: int = 1, scale_dtype: str = "float32") -> LinearWeight:
    """Return the weight of a node Linear.

    Parameters
    ----------
    w : QuantizedArray of integers of 2 to 8 bits, shape (K, N)
        Per tensor, per channel on axis 1, or in groups of 16, 32, 64 or 128 along axis 0, as PackedWeight takes it.
    outputs : int
        Of the node; each has N / outputs columns.
    scale_dtype : {"float32", "float16"}
        In which the scales of groups are stored.
    """
    k, n = w.shape
    each = n // outputs
    packed = [
        pack_weight("linear_weight", "w", w[:, i * each : (i + 1) * each], 0, scale_dtype) for i in range(outputs)
    ]
    signed = packed[0].code.signed
    attributes = {"K": k, "N": n, "signed": int(signed)}
    if isinstance(packed[0].storage, PackedGroups):
        group_size, bits = packed[0].storage._layout[2:4]
        panels = -(-each // _PANEL)
        zeros = any(part.storage._layout[5] for part in packed)  # type: ignore[attr-defined]
        if not all(part.storage._layout[5] == zeros for part in packed):  # type: ignore[attr-defined]
            raise AssertionError("the parts of a weight have one layout")
        bytes_ = [part.storage._packed.reshape(panels, -1) for part in packed]  # type: ignore[attr-defined]
        attributes |= {"bits": bits, "group_size": group_size}
        return LinearWeight(np.concatenate(bytes_), None, None, attributes)
    bits = next(width for width in (2, 4, 8) if width >= packed[0].code.bits)
    middle = 2 ** (bits - 1)
    panels_ = [_panels(part.storage.codes().astype(np.int16) + (middle if signed else 0), bits) for part in packed]
    scale = np.concatenate([np.broadcast_to(part.storage.parameters()[0], each) for part in packed])
    zero = np.concatenate([np.broadcast_to(part.storage.parameters()[1], each) for part in packed])
    return LinearWeight(np.concatenate(panels_), scale, zero if zero.any() else None, attributes | {"bits": bits})


def linear_parts(
    w: UInt8Array, scale: Float32Array | None, zero_point: Int32Array | None, attributes: dict[str, Any], outputs: int
) -> list[QuantizedArray]:
    """Return the weights of the outputs of a node Linear, (K, N / outputs) each."""
    k, n, bits = attributes["K"], attributes["N"], attributes.get("bits", 8)
    signed, group_size = attributes.get("signed", 1), attributes.get("group_size", 0)
    each, name = n // outputs, _CODES[bits, signed]
    middle = 2 ** (bits - 1)
    parts = []
    for i, panels in enumerate(np.split(w, outputs)):
        if group_size:
            groups = -(-k // group_size)
            records = panels.reshape(len(panels), groups, -1)
            codes = _codes(records[:, :, : 2 * group_size * bits], bits)  # [panels][groups][group_size][16]
            stored = codes.transpose(1, 2, 0, 3).reshape(groups * group_size, -1)[:k, :each]
            part_scale, part_zero = _group_parameters(records[:, :, 2 * group_size * bits :], each, middle)
            granularity: PerGroup | PerChannel = PerGroup(group_size, 0)
        else:
            stored = _codes(panels, bits).swapaxes(0, 1).reshape(-1, len(panels) * _PANEL)[:k, :each]
            assert scale is not None
            columns = slice(i * each, (i + 1) * each)
            part_scale = scale[columns]
            part_zero = np.zeros(each, np.int32) if zero_point is None else zero_point[columns]
            part_zero, granularity = part_zero + (middle if signed else 0), PerChannel(1)
        shift = middle if signed else 0
        params = QParams(part_scale, (part_zero - shift).astype(np.int32), name, granularity)
        parts.append(
            QuantizedArray(
                (stored.astype(np.int16) - shift).astype(params.code.storage).view(params.code.dtype), params
            )
        )
    return parts


def signs_of(transform: Hadamard) -> Int8Array:
    """Return the input `signs` of a node Linear; its attribute `hadamard_block` is `transform.block`."""
    factors = arguments(transform)[2]
    assert factors is not None
    return np.sign(factors).astype(np.int8)


def _panels(stored: Array, bits: int) -> UInt8Array:
    """Return the bytes of the panels of stored codes (K, N), a row for each panel."""
    k, n = stored.shape
    depth = -(-max(k, 1) // (16 if bits == 2 else 8)) * (16 if bits == 2 else 8)
    panels = -(-n // _PANEL)
    padded = np.full((depth, panels * _PANEL), 2 ** (bits - 1), np.uint8)
    padded[:k, :n] = stored
    quartets = padded.reshape(depth // 4, 4, panels, _PANEL).transpose(2, 0, 3, 1).reshape(panels, -1, 8 // bits, 64)
    fields = np.arange(8 // bits, dtype=np.uint8)[:, None] * np.uint8(bits)
    joined: UInt8Array = np.bitwise_or.reduce(quartets << fields, axis=2).reshape(panels, -1)
    return joined


def _codes(panels: Array, bits: int) -> UInt8Array:
    """Return the stored codes of panels [..., bytes]: [..., depth][16 columns]."""
    fields = np.arange(8 // bits, dtype=np.uint8)[:, None] * np.uint8(bits)
    rows = panels.reshape(*panels.shape[:-1], -1, 1, 64) >> fields & np.uint8(2**bits - 1)
    quartets = rows.reshape(*panels.shape[:-1], -1, _PANEL, 4)
    codes: UInt8Array = quartets.swapaxes(-1, -2).reshape(*panels.shape[:-1], -1, _PANEL)
    return codes


def _group_parameters(rest: Array, columns: int, middle: int) -> tuple[Float32Array, Int32Array]:
    """Return the scales and the stored zero points of records [panels][groups][bytes], (groups, columns)."""
    size = rest.shape[-1]
    half = size in (32, 48)
    end = 32 if half else 64
    scales = np.ascontiguousarray(rest[:, :, :end]).view("<f2" if half else "<f4").astype(np.float32)
    zeros = rest[:, :, end:] if size > end else np.full(scales.shape, middle)

    def table(values: Array) -> Array:
        return values.swapaxes(0, 1).reshape(values.shape[1], -1)[:, :columns]

    return table(scales), table(zeros).astype(np.int32)
