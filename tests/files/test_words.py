"""Codes in int32 words: every width, against a decoder bit by bit."""

import numpy as np
import pytest

from qnumpy.files.words import pack_words, positive_scales, unpack_words, words

WIDTHS = pytest.mark.parametrize("bits", range(1, 9))


@WIDTHS
@pytest.mark.parametrize("count", [0, 1, 5, 31, 32, 33, 100])
def test_a_stream_of_bits(bits, count):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, count)).astype(np.uint8)
    packed = pack_words(codes, bits)
    assert (packed.dtype, packed.shape) == (np.int32, (3, words(bits, count)))
    for row, stored in zip(codes, packed, strict=True):
        stream = int.from_bytes(stored.tobytes(), "little")
        assert [stream >> bits * k & (1 << bits) - 1 for k in range(count)] == row.tolist()
        assert stream >> bits * count == 0
    np.testing.assert_array_equal(unpack_words(packed, bits, count), codes)
    wide = np.zeros((3, 2 * packed.shape[1]), np.int32)
    wide[:, ::2] = packed
    np.testing.assert_array_equal(unpack_words(wide[:, ::2], bits, count), codes)


def test_positive_scales_keep_the_reals():
    codes = np.arange(16, dtype=np.uint8)[None].repeat(3, 0)
    scale, zero = np.float16([[2], [-0.5], [0]]), np.array([[3], [0], [9]], np.int32)
    new, positive, zeros = positive_scales(codes, scale, zero, 4, lambda p: p.repeat(16, 1))
    assert (positive > 0).all()
    assert ((zeros >= 0) & (zeros < 16)).all()
    expected = scale.astype(np.float32) * (codes.astype(int) - zero)
    np.testing.assert_array_equal(positive * (new.astype(int) - zeros), expected)
