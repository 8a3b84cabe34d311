"""The block types of GGUF: where the bits of a block lie, and the reals that they stand for.

A block holds `size` neighbours of a row in `nbytes` bytes. Its codes are unsigned integers, cut into planes of low and
high bits. A level is ``(d * sc) * (q - zero)``, or ``(d * sc) * q - dmin * m`` for types with a minimum, each product
and the difference rounded to float32 half to even; d and dmin are float16, sc and m integers of each group of the
block. The types without groups have sc = 1 and m = -1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._typing import Array, Float32Array, UInt8Array

__all__ = ["GGUF_TYPES", "Block", "GGUFType", "decode", "fallback", "pack_block", "unpack_block"]


class Plane(NamedTuple):
    """`bits` bits of each code; a byte holds those of codes that are `stride` apart, the first in its low bits."""

    bits: int
    stride: int

    def nbytes(self, size: int) -> int:
        return size * self.bits // 8


class Block(NamedTuple):
    """The numbers of blocks: codes (blocks, size), sc and m (blocks, groups), d and dmin (blocks,) of float16."""

    codes: UInt8Array
    sc: Array
    m: Array
    d: Array
    dmin: Array


@dataclass(frozen=True)
class GGUFType:
    """A type of blocks.

    Attributes
    ----------
    name : str
    number : int
        In the files.
    size, nbytes : int
        Elements and bytes of a block.
    group : int
        Neighbours that share a scale.
    bits : int
        Of a code.
    zero : int
        The code of 0; of a type with a minimum 0.
    has_minimum : bool
    scale_bits : int
        Of the integer scale of a group; 0 without one.
    fields : tuple
        The parts of a block in their order: names of numbers, and planes, the low bits under "low".
    """

    name: str
    number: int
    size: int
    group: int
    bits: int
    zero: int
    has_minimum: bool
    scale_bits: int
    fields: tuple[tuple[str, Plane | int], ...]

    @property
    def nbytes(self) -> int:
        return sum(part if isinstance(part, int) else part.nbytes(self.size) for _, part in self.fields)

    @property
    def groups(self) -> int:
        """The groups of a block."""
        return self.size // self.group

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.size

    def bytes_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the bytes of an array of `shape`, whose rows are whole blocks."""
        return (*shape[:-1], shape[-1] // self.size * self.nbytes)


def _types() -> dict[str, GGUFType]:
    d, dmin, low = ("d", 2), ("dmin", 2), "low"
    scales = ("scales", 12)
    rows = [
        ("Q4_0", 2, 32, 32, 4, 8, False, 0, (d, (low, Plane(4, 16)))),
        ("Q4_1", 3, 32, 32, 4, 0, True, 0, (d, dmin, (low, Plane(4, 16)))),
        ("Q5_0", 6, 32, 32, 5, 16, False, 0, (d, ("high", Plane(1, 1)), (low, Plane(4, 16)))),
        ("Q5_1", 7, 32, 32, 5, 0, True, 0, (d, dmin, ("high", Plane(1, 1)), (low, Plane(4, 16)))),
        ("Q8_0", 8, 32, 32, 8, 128, False, 0, (d, (low, Plane(8, 1)))),
        ("Q2_K", 10, 256, 16, 2, 0, True, 4, (("scales", 16), (low, Plane(2, 32)), d, dmin)),
        ("Q3_K", 11, 256, 16, 3, 4, False, 6, (("high", Plane(1, 32)), (low, Plane(2, 32)), scales, d)),
        ("Q4_K", 12, 256, 32, 4, 0, True, 6, (d, dmin, scales, (low, Plane(4, 32)))),
        ("Q5_K", 13, 256, 32, 5, 0, True, 6, (d, dmin, scales, ("high", Plane(1, 32)), (low, Plane(4, 32)))),
        ("Q6_K", 14, 256, 16, 6, 32, False, 8, ((low, Plane(4, 64)), ("high", Plane(2, 32)), ("scales", 16), d)),
    ]
    return {row[0]: GGUFType(*row) for row in rows}


GGUF_TYPES = _types()


_NARROWER = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def fallback(name: str, columns: int) -> str | None:
    """Return the type for rows of so many columns: the one of `name`, else one of smaller blocks, None if none fits.

    llama.cpp chooses the same for Q4_K, Q5_K and Q6_K.
    """
    for candidate in (name, _NARROWER.get(name)):
        if candidate is not None and columns % GGUF_TYPES[candidate].size == 0:
            return candidate
    return None


def decode(blocks: UInt8Array, kind: GGUFType) -> Float32Array:
    """Return the reals of blocks of bytes (blocks, nbytes) as (blocks, size)."""
    codes, sc, m, d, dmin = unpack_block(blocks, kind)
    with np.errstate(over="ignore", invalid="ignore"):  # blocks of another writer may hold infinities
        scale = d.astype(np.float32)[:, None] * sc.astype(np.float32)
        levels = codes.astype(np.float32)
        if kind.zero:
            levels -= np.float32(kind.zero)
        levels = levels.reshape(len(blocks), kind.groups, kind.group)
        levels *= scale[..., None]
        if kind.has_minimum:
            levels -= (dmin.astype(np.float32)[:, None] * m.astype(np.float32))[..., None]
    return levels.reshape(len(blocks), kind.size)


def unpack_block(blocks: UInt8Array, kind: GGUFType) -> Block:
    """Return the numbers of blocks of bytes (blocks, nbytes)."""
    parts, first = {}, 0
    for name, part in kind.fields:
        length = part if isinstance(part, int) else part.nbytes(kind.size)
        parts[name], first = blocks[:, first : first + length], first + length
    planes = {name: part for name, part in kind.fields if isinstance(part, Plane)}
    codes = _split(parts["low"], planes["low"])
    if "high" in planes:
        codes |= _split(parts["high"], planes["high"]) << np.uint8(planes["low"].bits)
    if kind.bits == 8:
        codes ^= np.uint8(128)  # the file has int8
    d = _halves(parts["d"])
    dmin = _halves(parts["dmin"]) if kind.has_minimum else np.zeros_like(d)
    sc, m = _unpack_scales(parts.get("scales"), kind, len(blocks))
    return Block(codes, sc, m, d, dmin)


def pack_block(block: Block, kind: GGUFType) -> UInt8Array:
    """Return the bytes (blocks, nbytes) of blocks: the inverse of `unpack_block`."""
    codes = block.codes ^ np.uint8(128) if kind.bits == 8 else block.codes
    parts = []
    for name, part in kind.fields:
        if isinstance(part, Plane):
            shift = dict(kind.fields)["low"].bits if name == "high" else 0  # type: ignore[union-attr]
            bits = (codes >> np.uint8(shift)) & np.uint8((1 << part.bits) - 1)
            parts.append(_join(bits, part))
        elif name == "scales":
            parts.append(_pack_scales(block, kind))
        else:
            half = block.d if name == "d" else block.dmin
            parts.append(np.ascontiguousarray(half, "<f2").view(np.uint8).reshape(-1, 2))
    return np.concatenate(parts, axis=1)


def _halves(part: UInt8Array) -> Array:
    return np.ascontiguousarray(part).view("<f2").reshape(-1)


def _split(part: UInt8Array, plane: Plane) -> UInt8Array:
    """Return the bits of each code, one code to a byte."""
    if plane.bits == 8:
        return part.copy()
    count = 8 // plane.bits
    shifts = np.arange(0, 8, plane.bits, dtype=np.uint8)[:, None]
    spread = part.reshape(len(part), part.shape[1] // plane.stride, 1, plane.stride) >> shifts
    return (spread & np.uint8((1 << plane.bits) - 1)).reshape(len(part), part.shape[1] * count)


def _join(bits: UInt8Array, plane: Plane) -> UInt8Array:
    if plane.bits == 8:
        return bits
    count = 8 // plane.bits
    nbytes = bits.shape[1] // count
    spread = bits.reshape(len(bits), nbytes // plane.stride, count, plane.stride)
    shifts = np.arange(0, 8, plane.bits, dtype=np.uint8)[:, None]
    return np.asarray(np.bitwise_or.reduce(spread << shifts, axis=2)).reshape(len(bits), nbytes)


_LOW4, _HIGH2 = Plane(4, 8), Plane(2, 4)  # the sixteen scales of Q3_K


def _unpack_scales(part: UInt8Array | None, kind: GGUFType, blocks: int) -> tuple[Array, Array]:
    """Return sc and m of each group."""
    if part is None:
        return np.ones((blocks, 1), np.int8), np.full((blocks, 1), -1, np.int8)
    if kind.scale_bits == 8:
        return np.ascontiguousarray(part).view(np.int8), np.zeros(part.shape, np.int8)
    if kind.scale_bits == 4:
        return (part & np.uint8(15)).view(np.int8), (part >> np.uint8(4)).view(np.int8)
    if not kind.has_minimum:
        sc = _split(part[:, :8], _LOW4) | _split(part[:, 8:], _HIGH2) << np.uint8(4)
        return sc.view(np.int8) - np.int8(32), np.zeros(sc.shape, np.int8)
    first, second, rest = part[:, :4], part[:, 4:8], part[:, 8:]
    high = [rest & np.uint8(15), rest >> np.uint8(4)]
    sc, m = (
        np.concatenate([six & np.uint8(63), low | (six >> np.uint8(2)) & np.uint8(48)], axis=1)
        for six, low in zip((first, second), high, strict=True)
    )
    return sc.view(np.int8), m.view(np.int8)


def _pack_scales(block: Block, kind: GGUFType) -> UInt8Array:
    sc, m = block.sc.astype(np.int8), block.m.astype(np.int8)
    if kind.scale_bits == 8:
        return sc.view(np.uint8)
    if kind.scale_bits == 4:
        return (sc | m << np.int8(4)).view(np.uint8)
    if not kind.has_minimum:
        six = (sc + np.int8(32)).view(np.uint8)
        return np.concatenate([_join(six & np.uint8(15), _LOW4), _join(six >> np.uint8(4), _HIGH2)], axis=1)
    low, high = [], []
    for six in (sc.view(np.uint8), m.view(np.uint8)):
        low.append(six[:, :4] | (six[:, 4:] >> np.uint8(4)) << np.uint8(6))
        high.append(six[:, 4:] & np.uint8(15))
    return np.concatenate([*low, high[0] | high[1] << np.uint8(4)], axis=1)
