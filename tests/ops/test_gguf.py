"""The bits of GGUF's blocks, against a decoder that reads one weight at a time, and against the gguf package."""

import numpy as np
import pytest

from qnumpy.ops.gguf import GGUF_TYPES, decode, fallback, pack_block, unpack_block

ALL = pytest.mark.parametrize("name", GGUF_TYPES)

F = np.float32


def half(block, at):
    return F(np.frombuffer(bytes(block[at : at + 2]), "<f2")[0])


def six_bits(scales, j):
    """Scale and minimum of group j of Q4_K and Q5_K."""
    if j < 4:
        return scales[j] & 63, scales[j + 4] & 63
    return scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4


def weight(name, block, i):
    """The weight i of a block of bytes, by the layout of its bits; Python integers, one rounding a step."""
    block = [int(byte) for byte in block]
    j, r = divmod(i, 32)
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        head = {"Q4_0": 2, "Q4_1": 4, "Q5_0": 6, "Q5_1": 8}[name]
        byte = block[head + i % 16]
        q = byte >> 4 if i >= 16 else byte & 15
        if name.startswith("Q5"):
            q |= (int.from_bytes(bytes(block[head - 4 : head]), "little") >> i & 1) << 4
        if name.endswith("0"):
            return half(block, 0) * F(q - (16 if name == "Q5_0" else 8))
        return half(block, 0) * F(q) + half(block, 2)
    if name == "Q8_0":
        return half(block, 0) * F(np.int8(np.uint8(block[2 + i])))
    if name == "Q2_K":
        group, (chunk, rest) = block[i // 16], divmod(i, 128)
        q = block[16 + 32 * chunk + rest % 32] >> 2 * (rest // 32) & 3
        return half(block, 80) * F(group & 15) * F(q) - half(block, 82) * F(group >> 4)
    if name == "Q3_K":
        group, (chunk, rest) = i // 16, divmod(i, 128)
        scale = block[96 + group % 8] >> 4 * (group // 8) & 15 | (block[104 + group % 4] >> 2 * (group // 4) & 3) << 4
        q = block[32 + 32 * chunk + rest % 32] >> 2 * (rest // 32) & 3
        q -= 0 if block[r] >> j & 1 else 4
        return half(block, 108) * F(scale - 32) * F(q)
    if name in ("Q4_K", "Q5_K"):
        scale, minimum = six_bits(block[4:16], j)
        codes = 16 if name == "Q4_K" else 48
        q = block[codes + 32 * (j // 2) + r] >> 4 * (j % 2) & 15
        if name == "Q5_K":
            q |= (block[16 + r] >> j & 1) << 4
        return half(block, 0) * F(scale) * F(q) - half(block, 2) * F(minimum)
    chunk, rest = divmod(i, 128)
    q = (
        block[64 * chunk + rest % 64] >> 4 * (rest // 64) & 15
        | (block[128 + 32 * chunk + r] >> 2 * (rest // 32) & 3) << 4
    )
    return half(block, 208) * F(np.int8(np.uint8(block[192 + i // 16]))) * F(q - 32)


def blocks(kind, count, seed=0):
    """Random bytes with finite float16 scales."""
    data = np.random.default_rng(seed).integers(0, 256, (count, kind.nbytes), dtype=np.uint8)
    block = unpack_block(data, kind)
    d, dmin = (np.where(np.isfinite(half), half, np.float16(0.5)) for half in (block.d, block.dmin))
    return pack_block(block._replace(d=d, dmin=dmin), kind)


@ALL
def test_every_weight_is_where_the_layout_says(name):
    kind = GGUF_TYPES[name]
    data = blocks(kind, 5)
    with np.errstate(over="ignore"):
        expected = np.array([[weight(name, block, i) for i in range(kind.size)] for block in data], np.float32)
    np.testing.assert_array_equal(decode(data, kind), expected)


@ALL
def test_packing_is_the_inverse_of_unpacking(name):
    kind = GGUF_TYPES[name]
    data = np.random.default_rng(1).integers(0, 256, (50, kind.nbytes), dtype=np.uint8)
    np.testing.assert_array_equal(pack_block(unpack_block(data, kind), kind), data)


def test_golden_bytes():
    """Q4_0: d = 0.5, codes 0, 1, ..., 15, 0, ...; element 16 + i is in the high bits of byte i."""
    data = np.array([[0x00, 0x38, *(k | (15 - k) << 4 for k in range(16))]], np.uint8)
    levels = decode(data, GGUF_TYPES["Q4_0"])[0]
    assert levels.tolist() == [(k - 8) / 2 for k in range(16)] + [(7 - k) / 2 for k in range(16)]


@ALL
def test_sizes(name):
    kind = GGUF_TYPES[name]
    bits = {"Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6, "Q8_0": 8.5, "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5}
    assert kind.bits_per_weight == {**bits, "Q5_K": 5.5, "Q6_K": 6.5625}[name]
    assert kind.bytes_shape((3, 2 * kind.size)) == (3, 2 * kind.nbytes)


@ALL
def test_the_package_decodes_the_same_bits(name):
    gguf = pytest.importorskip("gguf")
    kind, number = GGUF_TYPES[name], gguf.GGMLQuantizationType[name]
    assert (int(number), gguf.GGML_QUANT_SIZES[number]) == (kind.number, (kind.size, kind.nbytes))
    data = blocks(kind, 200, seed=2)
    expected = gguf.quants.dequantize(data, number)
    assert decode(data, kind).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [("Q4_K", 512, "Q4_K"), ("Q4_K", 384, "Q5_0"), ("Q6_K", 96, "Q8_0"), ("Q4_K", 100, None), ("Q8_0", 33, None)],
)
def test_the_type_for_rows_that_are_no_whole_blocks(name, columns, expected):
    assert fallback(name, columns) == expected
