import numpy as np
import pytest

from qnumpy import _core


def packed_weight(codes, group, half, with_zeros):
    k, n = codes.shape
    groups = -(-k // group)
    rng = np.random.default_rng(3)
    scales = rng.random((groups, n)).astype(np.float16 if half else np.float32)
    zeros = rng.integers(0, 16, (groups, n)).astype(np.uint8) if with_zeros else None
    packed = _core.weight4_room(k, n, group, half, with_zeros)
    stored = scales.view(np.uint16) if half else scales
    _core.weight4_pack(codes.view(np.uint8), codes.dtype == np.int8, stored, zeros, packed, k, n, group)
    return packed


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("with_zeros", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("dtype", "low"), [(np.int8, -8), (np.uint8, 0)])
def test_codes_come_back(group, with_zeros, half, dtype, low):
    rng = np.random.default_rng(group)
    for k, n in [(1, 1), (group, 16), (group + 1, 17), (3 * group - 5, 50), (group // 2, 15), (0, 5), (7, 0), (600, 70)]:
        codes = rng.integers(low, low + 16, (k, n)).astype(dtype)
        unpacked = np.full((k, n), 99, dtype)
        packed = packed_weight(codes, group, half, with_zeros)
        _core.weight4_codes(packed, k, n, group, half, with_zeros, dtype == np.int8, unpacked)
        np.testing.assert_array_equal(unpacked, codes)


@pytest.mark.parametrize(
    "change",
    [
        {0: np.zeros(5, np.uint8)},
        {0: None},
        {1: -1},
        {2: 1 << 62},
        {3: 17},
        {7: np.zeros((8, 15), np.uint8)},
        {7: np.zeros((8, 16), np.int16)},
        {7: np.zeros((16, 8), np.int8).T},
    ],
)
def test_guard(change):
    arguments = [_core.weight4_room(8, 16, 16, False, False), 8, 16, 16, False, False, True, np.zeros((8, 16), np.int8)]
    _core.weight4_codes(*arguments)
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises((TypeError, ValueError)):
        _core.weight4_codes(*arguments)
