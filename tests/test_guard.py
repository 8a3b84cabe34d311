"""The guard: private functions of the extension, with what the Python above them never passes.

Every wrong argument must raise, none may crash.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from refusals import read_only

import qnumpy as qn
from qnumpy import _core, runtime

T = _core.TYPES
HUGE = [2**62, 2**63 - 1, -(2**63)]
NO_INTEGERS = [None, "1", 1.5, 2**70, -(2**70), [1]]
NO_ARRAYS = [None, 1, "x", [1.0], b"abc", object()]


def crooked(array):
    """The same elements at an address that is no multiple of their size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def wrong_vectors(dtype, length):
    good = np.ones(length, dtype)
    other = np.float64 if dtype in (np.float32, np.int64) else np.int64
    shaped = [good[:-1], np.ones(length + 1, dtype), np.ones(2 * length, dtype)[::2], np.ones(0, dtype)]
    return [
        *NO_ARRAYS,
        *shaped,
        good.astype(other),
        good.astype(object),
        good.astype(good.dtype.newbyteorder()),
        crooked(good),
    ]


def wrong_sources(dtype, length):
    good = np.ones(length, dtype)
    return [
        *NO_ARRAYS,
        good[:-1],
        np.ones(length + 1, dtype),
        good.astype(object),
        good.astype(complex),
        np.array(["ab"] * length),
    ]


def wrong_outputs(dtype, length):
    good = np.ones(length, dtype)
    wider = np.dtype(f"V{2 * good.itemsize}")
    every = [*NO_ARRAYS, good[:-1], np.ones(length + 1, dtype), np.ones(2 * length, dtype)[::2], read_only(good)]
    every += [np.zeros(length, wider), good[::-1]]
    return every if good.itemsize == 1 else [*every, crooked(good), good.astype(good.dtype.newbyteorder())]


GRID = [2, 3, 4, 0]
WRONG_GRID = [[*NO_INTEGERS, *HUGE, -1, 0, 5]] * 3 + [[*NO_INTEGERS, -1, -(2**63)]]
WRONG_TYPE = [*NO_INTEGERS, -1, len(T), 2**32]


def guarded():
    """name, good arguments, wrong values for each"""
    real, codes, acc = np.ones(24, np.float32), np.ones(24, np.int8), np.ones(24, np.int32)
    scale, zero = np.ones(3, np.float32), np.zeros(3, np.int32)
    params = [scale, zero], [wrong_vectors(np.float32, 3), wrong_vectors(np.int32, 3)]
    ends = [[*NO_INTEGERS, *HUGE, 128, 2**31], [*NO_INTEGERS, *HUGE, -129, 65536]]

    def kernel(x, x_type, out, out_type, tail, wrong_tail):
        good = [x, T[x_type], *params[0], out, T[out_type], *GRID, *tail]
        wrong = [
            wrong_sources(x.dtype, 24), [*WRONG_TYPE, T["float64"], T["float16"]], *params[1],
            wrong_outputs(out.dtype, 24), [*WRONG_TYPE, T["float64"], T["float16"]], *WRONG_GRID, *wrong_tail,
        ]  # fmt: skip
        return good, wrong

    convention = [*NO_INTEGERS, -1, 4]
    yield "quantize", *kernel(real, "float32", codes.copy(), "int8", [-128, 127, 0], [*ends, convention])
    yield "fake_quantize", *kernel(real, "float32", real.copy(), "float32", [-128, 127, 0], [*ends, convention])
    yield "dequantize", *kernel(codes, "int8", real.copy(), "float32", [], [])
    yield from guarded_gradients(kernel, ends, convention)
    nibbles = np.ones(12, np.uint8)
    good, wrong = kernel(real, "float32", nibbles.copy(), "int4", [-8, 7], ends)
    wrong[4], wrong[5] = wrong_outputs(np.uint8, 12), [*wrong[5], T["int8"], T["float8_e5m2"]]
    columns = [*NO_INTEGERS, *HUGE, -1, 0, 5, 48]
    yield "quantize_packed", [*good[:6], 12, *good[6:]], [*wrong[:6], columns, *wrong[6:]]
    good, wrong = kernel(nibbles.reshape(2, 6), "int4", real.copy(), "float32", [], [])
    wrong[0] = [*NO_ARRAYS, nibbles, nibbles.reshape(2, 6)[:, ::-1], nibbles.reshape(2, 6).astype(np.uint16)]
    wrong[1] = [*WRONG_TYPE, *(T[name] for name in ("int8", "float32", "float64", "float8_e5m2", "int2"))]
    yield "dequantize_packed", [*good, 12], [*wrong, [*NO_INTEGERS, *HUGE, -1, 0, 10, 13]]
    each = [np.full(3, 2**30, np.int32), np.full(3, 30, np.int32)]
    tail, wrong_tail = [-128, 127, 1, *each], [*ends, [*NO_INTEGERS, -1, 3], *[wrong_vectors(np.int32, 3)] * 2]
    yield "requantize", *kernel(acc, "int32", codes.copy(), "int8", tail, wrong_tail)
    yield "min_max", [real, T["float32"], *GRID], [wrong_sources(np.float32, 24), WRONG_TYPE, *WRONG_GRID]
    means = [np.zeros(3), np.zeros(3), np.ones(3, np.float32), np.ones(3, np.int32)]
    yield "observe", [real, T["float32"], *GRID, 0.5, 0, -128, 127, *means], [
        wrong_sources(np.float32, 24), WRONG_TYPE, *WRONG_GRID, ["0", None, [1]], [*NO_INTEGERS, -1, 2], *ends,
        *(wrong_outputs(mean.dtype, 3) for mean in means),
    ]  # fmt: skip
    flag, seed, floats = [*NO_INTEGERS, -1, 2], [*NO_INTEGERS, -1, 2**64], [*WRONG_TYPE, T["float64"], T["int8"]]
    yield "cast", [real, T["float32"], np.ones(24, np.uint16), T["float16"], 0, 1, 7], [
        wrong_sources(np.float32, 24), floats, wrong_outputs(np.uint16, 24), floats, flag, flag, seed,
    ]  # fmt: skip
    matrix, no_numbers = real.reshape(4, 6), ["0", None, [1]]
    wrong_matrices = [*wrong_sources(np.float32, 24), real, matrix[:, :, None], matrix[:3, :5]]
    floats = [*WRONG_TYPE, T["float64"], T["int8"], T["float8_e5m2"]]
    yield "accumulate", [matrix, T["float32"], matrix.T, T["float32"], np.ones((4, 4), np.float16), T["float16"]], [
        wrong_matrices, floats, wrong_matrices, floats, wrong_outputs(np.float16, 16), floats,
    ]  # fmt: skip
    elements = [*WRONG_TYPE, T["float32"], T["bfloat16"], T["int8"]]
    bytes_out, count = wrong_outputs(np.uint8, 12), [*NO_INTEGERS, *HUGE, -1, 5]
    yield "quantize_blocks", [
        real, T["float32"], 2, 12, T["float4_e2m1fn"], 5, 2, 6.0, 0.0, np.ones(12, np.uint8), np.ones(6, np.uint8),
    ], [
        wrong_sources(np.float32, 24), [*WRONG_TYPE, T["float64"], T["int8"]], count, count, elements,
        [*NO_INTEGERS, 0, 2**31], [*NO_INTEGERS, -1, 128], no_numbers, no_numbers, bytes_out,
        wrong_outputs(np.uint8, 6),
    ]  # fmt: skip
    yield "float_error", [real, T["float32"], T["float16"], 65520.0, 2.0**-14], [
        wrong_sources(np.float32, 24)[len(NO_ARRAYS) + 2 :] + NO_ARRAYS, [*WRONG_TYPE, T["float64"], T["int8"]],
        [*WRONG_TYPE, T["float64"], T["int8"]], no_numbers, no_numbers,
    ]  # fmt: skip
    groups, lengths = [0, 4, 6, 4, -7, 7], [[*NO_INTEGERS, *HUGE, -1, 3, 5]] * 2
    outside = [*NO_INTEGERS, *HUGE, -(2**15) - 1, 2**15]
    of_groups = [
        wrong_vectors(np.float32, 24), wrong_vectors(np.float32, 6)[1:], flag, *lengths,
        [*NO_INTEGERS, *HUGE, -1, 0, 1, 2], [*outside, 7], [*outside, -7],
    ]  # fmt: skip
    scales, wrong_scales = np.ones(8, np.float32), wrong_outputs(np.float32, 8)
    yield "search_grids", [real, np.ones(6, np.float32), *groups, 0, 0, scales, np.ones(8, np.int32)], [
        *of_groups, [*outside, -8, 1], [*outside, -1, 8], wrong_scales, wrong_outputs(np.int32, 8),
    ]  # fmt: skip
    offsets = np.ones(8, np.float32)
    yield "search_offsets", [real, np.ones((4, 6), np.float32), *groups, scales, offsets], [
        of_groups[0], wrong_vectors(np.float32, 24)[1:], *of_groups[2:], wrong_scales, wrong_scales,
    ]  # fmt: skip
    nibbles, packed = np.ones(24, np.uint8), np.zeros(12, np.uint8)
    sizes = [[*NO_INTEGERS, *HUGE, -1, 0, 3]] * 2
    no_nibbles = [*WRONG_TYPE, T["int8"], T["float32"]]
    wide, narrow = wrong_vectors(np.uint8, 24)[:-2], wrong_vectors(np.uint8, 12)[:-2]  # a byte has no order or address
    yield "pack", [nibbles, packed, T["int4"], 2, 12], [wide, wrong_outputs(np.uint8, 12), no_nibbles, *sizes]
    yield "unpack", [packed, nibbles, T["uint4"], 2, 12], [narrow, wrong_outputs(np.uint8, 24), no_nibbles, *sizes]
    yield "histogram", [real, T["float32"], *GRID, 4], [
        wrong_sources(np.float32, 24), WRONG_TYPE, *WRONG_GRID, [*NO_INTEGERS, *HUGE, 3, 8],
    ]  # fmt: skip
    yield from guarded_searches()
    yield from guarded_roundings()
    yield from guarded_levels()
    yield "error_sums", [real, real], [wrong_vectors(np.float32, 24)] * 2
    yield "codes_seen", [nibbles, np.zeros(256, np.uint8)], [wide[:6], wrong_outputs(np.uint8, 256)]
    yield from guarded_products()
    scales = [*NO_ARRAYS, scale.astype(np.float64), np.ones(6, np.float32)[::2], crooked(scale), scale.astype(">f4")]
    yield "first_bad_scale", [scale], [scales]
    table, rows = np.ones((3, 8), np.int8), np.ones((2, 8), np.float32)
    good = [np.array([2, -3]), True, table, np.ones(3, np.float32), 3, 8, rows]
    wrong = [
        wrong_vectors(np.int64, 2),
        [*NO_INTEGERS, False, 2],
        wrong_vectors(np.int8, 24)[:-2],
        wrong_vectors(np.float32, 3),
    ]
    yield (
        "look_up",
        good,
        [*wrong, [*NO_INTEGERS, *HUGE, -1, 2, 4], [*NO_INTEGERS, *HUGE, -1, 7], wrong_outputs(np.float32, 16)],
    )
    yield "overlap", [zero, scale], [NO_ARRAYS, NO_ARRAYS]
    yield "set_num_threads", [2], [[*NO_INTEGERS, *HUGE, 0, -1, 257]]
    yield "find_team", ["libnone.so"], [[None, 1, b"x", "\udc80"]]
    yield "borrow_team", [0], [[*NO_INTEGERS, *HUGE, -1, 257]]
    yield "watch_thread_blocks", [runtime._blocks], [[None, 1, (), "blocks", np.zeros(1)]]
    yield from guarded_matmul()


def guarded_matmul():
    a, b, product = np.ones((2, 4), np.int8), np.ones((4, 5), np.int8), np.zeros((2, 5), np.int32)
    matrices = [*NO_ARRAYS, a[0], a[:, :3], a.astype(np.int16), a.astype(object)]
    type_ = [*WRONG_TYPE, T["float32"], T["int32"], T["int16"], T["int4"]]
    packed = _core.pack_weights(b, T["int8"], None, 8)
    capsules = [None, 1, "x", a, object()]

    def zeros(length):
        wrong = [1, "x", [1], 1.0, *wrong_vectors(np.int32, length)[6:]]
        return [value for value in wrong if np.shape(value) != (1,)]  # one for all is right

    good = [a, T["int8"], b, T["int8"], np.ones(2, np.int32), np.ones(5, np.int32), product]
    yield (
        "matmul_integer",
        good,
        [[*matrices, a[None]], type_, [*matrices, b[None]], type_, zeros(2), zeros(5), wrong_outputs(np.int32, 10)],
    )
    yield "pack_weights", [b, T["int8"], None, 8], [matrices[:7], type_, zeros(5), [*NO_INTEGERS, *HUGE, 1, 3, 16, 17]]
    yield "packed_info", [packed], [capsules]
    yield "packed_codes", [packed, b.copy()], [capsules, wrong_outputs(np.int8, 20)]
    real = np.zeros((2, 5), np.float32)
    out = [*NO_ARRAYS, real[:1], real[0], real.T, real[:, ::-1], real[::-1], read_only(real), crooked(real)]
    out += [np.zeros((2, 10), np.float32)[:, ::2], real.astype(">f4"), real.astype(np.float64)]
    rows, columns = np.ones(2, np.float32), np.ones(5, np.float32)
    numbers, codes = [None, "1", [1], object()], [*NO_INTEGERS, *HUGE, -129, 256]
    good = [a, T["int8"], None, packed, real, T["float32"], rows, columns, columns, np.ones(5, np.int32), -1.0, 1.0]
    wrong = [[*matrices, a[None]], type_, zeros(2), capsules, out, [*WRONG_TYPE, T["int8"], T["float64"]]]
    wrong += [[None, *wrong_vectors(np.float32, 2)[8:]], wrong_vectors(np.float32, 5), wrong_vectors(np.float32, 5)[1:]]
    wrong += [wrong_vectors(np.int32, 5)[1:], numbers, numbers, [*NO_INTEGERS, *HUGE, 65536], codes, codes]
    wrong += [wrong_vectors(np.float64, 5)[1:]]
    yield "matmul_packed", [*good, 0, -128, 127, np.ones(5)], wrong


def guarded_products():
    size, flag = [*NO_INTEGERS, *HUGE, -1, 3], [*NO_INTEGERS, -1, 2]
    number, code = [None, "1", [1], object()], [*NO_INTEGERS, *HUGE, -129, 256]
    x, y, byte = np.ones((2, 4), np.float32), np.zeros((2, 5), np.float32), np.ones(20, np.uint8)
    sums, pairs, signed = np.zeros((2, 5), np.int64), np.zeros(5, np.int64), np.ones(20, np.int8)
    bytes_of = [wrong_vectors(dtype, length)[:-2] for dtype, length in ((np.uint8, 8), (np.int8, 20), (np.uint8, 20))]
    long_sums = [wrong_outputs(np.int64, length) for length in (10, 10, 5)]
    shape = [[*NO_INTEGERS, *HUGE, -1, 3]] * 3
    yield "saturate", [byte[:8], signed, sums, sums.copy(), pairs, 2, 4, 5], [*bytes_of[:2], *long_sums, *shape]
    yield "unsafe_pairs", [signed, pairs, 4, 5], [bytes_of[1], long_sums[2], *shape[:2]]
    best = [wrong_outputs(np.float64, 6), wrong_outputs(np.int64, 6)]
    scores, ids, exact, rows = np.zeros((2, 3)), np.zeros((2, 3), np.int64), np.ones(4), np.ones(8, np.uint8)
    parts = [wrong_vectors(dtype, n) for dtype, n in ((np.int32, 8), (np.float64, 2), (np.float64, 4), (np.float64, 4))]
    parts[3] = [value for value in parts[3] if value is not None]  # the offset is optional
    seen, count = [*NO_INTEGERS, 2**63, -1], [*NO_INTEGERS, *HUGE, -1, 7]
    arrays = [np.ones((2, 4), np.int32), exact[:2], exact, exact.copy()]
    yield "best_of_sums", [scores, ids, 2, 3, 0, 4, *arrays], [*best, *[count] * 2, seen, count, *parts]
    bits = [wrong_vectors(np.uint8, length)[:-2] for length in (8, 4)]
    yield "best_of_bits", [scores, ids, 2, 3, 0, 4, 2, rows, rows[:4]], [*best, *[count] * 2, seen, *[count] * 2, *bits]
    yield "best_sort", [scores, ids, 2, 3, 0], [*best, *[count] * 2, seen]
    reals = [wrong_vectors(np.float32, 8), wrong_vectors(np.float32, 20), wrong_vectors(np.int64, 6)]
    places = [x, np.ones((5, 4), np.float32), ids, 2, 3, 5, 4, scores]
    yield "dot_candidates", places, [*reals, *[count] * 4, best[0]]
    block = [*NO_INTEGERS, *HUGE, -16, 0, 8, 33, 256]
    longest, bits = [*NO_INTEGERS, -1, 2**63 - 1], [*NO_INTEGERS, *HUGE, 1, 3, 5, 6, 7, 16]
    yield "grouped_room", [4, 5, 16, 4, 0, 0], [longest, longest, block, bits, flag, flag]
    nbytes = _core.grouped_room(4, 5, 16, 4, 0, 1).size
    packed, scale, zero = np.zeros(nbytes, np.uint8), np.ones(5, np.float32), np.full(5, 8, np.uint8)
    wrong_zero = wrong_vectors(np.uint8, 5)[1:-2]  # None is right
    good = [byte, 1, scale, zero, packed, 4, 5, 16, 4]
    wrong = [bytes_of[2], flag, wrong_vectors(np.float32, 5), wrong_zero, wrong_outputs(np.uint8, nbytes)]
    yield "grouped_pack", good, [*wrong, *shape[:2], block, bits]
    real, wrong_bias = wrong_vectors(np.float32, 8), wrong_vectors(np.float32, 5)[1:]
    of_packed, tail = wrong_vectors(np.uint8, nbytes)[:-2], [wrong_bias, number, number, wrong_outputs(np.float32, 10)]
    of_weight = [of_packed, [*size, 2**40], [*size, 2**40], block, [*bits, 8], [*flag, 1], [*flag, 0]]
    factors = np.full(4, 0.5, np.float32)
    runs = [*NO_INTEGERS, *HUGE, -1, 0, 3, 8]
    transform = [runs, [*NO_INTEGERS, *HUGE, -1, 0, 2, 4, 12, 20], wrong_vectors(np.float32, 4)[1:]]
    good = [x, T["float32"], 2, 4, 2, 1, factors, 0, np.zeros(8, np.float32)]
    wrong = [wrong_sources(np.float32, 8), [*WRONG_TYPE, T["int8"], T["int4"]], [*NO_INTEGERS, *HUGE, -1, 3]]
    wrong += [[*NO_INTEGERS, *HUGE, -1, 2], *transform[:2], wrong_vectors(np.float32, 4), flag]
    yield "hadamard", good, [*wrong, wrong_outputs(np.float32, 8)]
    good = [packed, 4, 5, 16, 4, 0, 1, x, 2, T["int8"], 1, -127, 127, 0.0, 0, 0, 2, 1, factors]
    good += [scale, -1.0, 1.0, y, scale.copy()]
    type_ = [*WRONG_TYPE, T["float32"], T["int32"], T["int16"], T["int4"]]
    wrong = [*of_weight, real, size, type_, flag, [*code, 127], [*code, -127], number, code, flag, *transform]
    yield "matmul_grouped", good, [*wrong, *tail, wrong_bias]
    codes, pair = wrong_vectors(np.int8, 8)[:-2], wrong_vectors(np.float32, 2)
    good = [
        packed,
        4,
        5,
        16,
        4,
        0,
        1,
        x.astype(np.int8),
        2,
        scale[:2],
        np.zeros(2, np.int32),
        scale,
        -1.0,
        1.0,
        y,
        scale.copy(),
    ]
    yield (
        "matmul_grouped_codes",
        good,
        [*of_weight, codes, size, pair, wrong_vectors(np.int32, 2)[1:], *tail, wrong_bias],
    )
    unpacked = np.zeros((4, 5), np.int8)
    wrong_codes = [
        *NO_ARRAYS,
        unpacked[:, :4],
        unpacked.astype(np.int16),
        np.zeros((5, 4), np.int8).T,
        read_only(unpacked),
    ]
    yield "grouped_codes", [packed, 4, 5, 16, 4, 0, 1, 1, unpacked], [*of_weight, flag, wrong_codes]
    shape, good_shape = (
        [longest, longest, [*NO_INTEGERS, -1, 0]],
        [4, 5, 3, T["float8_e5m2"], T["float32"], 1.0, 1, 0, 0],
    )
    floats = [*WRONG_TYPE, T["float32"], T["int8"], T["float16"], T["float8_e8m0fnu"]]
    levels = [*NO_INTEGERS, *HUGE, -1, 1, 257]  # only of codes
    of_floats = [*shape, floats, [*WRONG_TYPE, T["float16"], T["int8"]], number, flag, levels, flag]
    yield "float_weight_room", good_shape, of_floats
    of_floats = [
        [*size, 2**40],
        [*size, 2**40],
        [*NO_INTEGERS, -1, 0, 1],
        floats,
        of_floats[4],
        number,
        flag,
        levels,
        flag,
    ]
    nbytes = _core.float_weight_room(*good_shape).size
    packed, scales = np.zeros(nbytes, np.uint8), np.ones(10, np.float32)
    of_packed, to_packed = wrong_vectors(np.uint8, nbytes)[:-2], wrong_outputs(np.uint8, nbytes)
    good = [byte, scales, None, packed, *good_shape]
    yield (
        "float_weight_pack",
        good,
        [bytes_of[2], wrong_vectors(np.float32, 10), wrong_vectors(np.float32, 10)[1:], to_packed, *of_floats],
    )
    good = [packed, byte.copy(), *good_shape]
    yield "float_weight_codes", good, [of_packed, wrong_outputs(np.uint8, 20), *of_floats]
    good = [packed, scales.copy(), *good_shape]
    yield "float_weight_scales", good, [of_packed, wrong_outputs(np.float32, 10), *of_floats]
    good = [packed, x, 2, scale, -1.0, 1.0, y, *good_shape]
    yield "matmul_float", good, [of_packed, real, size, *tail, *of_floats]
    image, kernel = np.ones((1, 4, 3, 4), np.int8), np.ones((4, 2, 2, 2), np.uint8)
    out = np.ones((1, 4, 2, 3), np.uint8)
    four = [*NO_ARRAYS, image[0], image.astype(np.int16), np.ones((1, 3, 3, 4), np.int8)]
    codes_only = [*WRONG_TYPE, T["float32"], T["int32"]]
    eight = [*NO_ARRAYS, kernel[0], kernel[::-1], kernel.astype(np.int16), np.ones((4, 3, 2, 2), np.uint8), kernel[:3]]
    far, pad = [*NO_INTEGERS, *HUGE, 0, 2**31], [*NO_INTEGERS, *HUGE, -1, 2**31]
    shapes = [np.ones(24, np.uint8), np.ones((1, 1, 2, 3), np.uint8), np.ones((2, 4, 2, 3), np.uint8), read_only(out)]
    wrong = [four, codes_only, eight, codes_only, code, wrong_vectors(np.int32, 4), [*NO_INTEGERS, *HUGE, 0, 1, 3, 4]]
    wrong += [*[far] * 4, pad, pad, [*NO_ARRAYS, *shapes], [*WRONG_TYPE, T["float32"], T["int16"], T["int32"]]]
    wrong += [[None, *wrong_vectors(np.float32, 4)], wrong_vectors(np.int32, 4)[1:], code, code, code]
    good = [image, T["int8"], kernel, T["uint8"], 0, np.zeros(4, np.int32), 2, 1, 1, 1, 1, 0, 0, out, T["uint8"]]
    yield "conv2d", [*good, np.ones(4, np.float32), np.zeros(4, np.int32), 0, 0, 255], wrong
    photo, target = image.astype(np.float32), out.astype(np.float32)
    wrong_photo = [*NO_ARRAYS, photo[0], image, photo[..., ::-1], np.ones((1, 3, 3, 4), np.float32), crooked(photo)]
    wrong_out = [*NO_ARRAYS, target[0], np.ones((2, 4, 2, 3), np.float32), read_only(target), out, crooked(target)]
    wrong_end = [*NO_INTEGERS, *HUGE, -1, 256]
    wrong = [wrong_photo, [*WRONG_TYPE, T["int8"], T["float64"]], eight, codes_only, wrong_vectors(np.int32, 4)]
    wrong += [[*NO_INTEGERS, *HUGE, 0, 1, 3, 4], *[far] * 4, pad, pad, wrong_out, [None, *wrong_vectors(np.float32, 4)]]
    wrong += [wrong_vectors(np.float32, 4)[1:], *[[None, "1", [1]]] * 3, *[wrong_end] * 3]
    good = [photo, T["float32"], kernel, T["uint8"], np.zeros(4, np.int32), 2, 1, 1, 1, 1, 0, 0, target]
    good += [np.ones(4, np.float32), np.ones(4, np.float32), 0.0, 6.0, 0.1, 3, 0, 255]
    yield "conv2d_reals", good, wrong
    weight = _core.pack_weights(signed.reshape(4, 5), T["int8"], None, 8)
    wrong_type = [*WRONG_TYPE, T["float32"], T["int16"]]
    good = [x, 2, T["int8"], 1, -127, 127, 0.0, 0, weight, y, T["float32"], scale, scale, np.ones(5, np.int32)]
    wrong = [real, size, wrong_type, flag, code, [*code, -127], number, code, [None, 1, "x", object()]]
    wrong += [wrong_outputs(np.float32, 10), [*WRONG_TYPE, T["int8"], T["int32"]], wrong_vectors(np.float32, 5)]
    wrong += [wrong_bias, wrong_vectors(np.int32, 5)[1:], number, number, code, code, code]
    wrong += [wrong_vectors(np.float64, 5)[1:]]
    yield "linear", [*good, -1.0, 1.0, 0, -128, 127, np.ones(5), 2, 1, factors], [*wrong, *transform]


def guarded_levels():
    h, order, codes = np.eye(4), np.arange(4), np.zeros(12, np.int16)
    weights, scale, levels = np.ones(12, np.float32), np.ones(6, np.float32), np.arange(9, dtype=np.float32)
    size, group = [*NO_INTEGERS, *HUGE, -1, 2, 5], [*NO_INTEGERS, *HUGE, -1, 0, 1]
    counts, of_h = [*NO_INTEGERS, *HUGE, -1, 0, 257, 5], wrong_vectors(np.float64, 16)
    real = wrong_vectors(np.float32, 12)
    importance = wrong_vectors(np.float32, 4)[1:]
    good = [weights, order.astype(np.float32), 3, 4, 3, levels.copy()]
    yield "cluster_rows", good, [real, importance, size, size, counts, wrong_outputs(np.float32, 9)]
    good = [weights, 3, 4, 2, levels, 3, 0]
    wrong = [real, size, size, group, wrong_vectors(np.float32, 9), counts, [*NO_INTEGERS, -1, 2]]
    of_scale, of_codes = wrong_vectors(np.float32, 6), [*wrong_vectors(np.int16, 12), codes + 3, codes - 1]
    yield "nearest_levels", [*good, scale, codes], [*wrong, of_scale, wrong_outputs(np.int16, 12)]
    tail = [importance, wrong_outputs(np.float32, 6)]
    yield "search_level_scales", [*good, order.astype(np.float32), scale.copy()], [*wrong, *tail]
    columns = [*wrong_vectors(np.int64, 4), np.array([0, 1, 2, 4]), np.array([-1, 1, 2, 3])]
    tail = [of_h, columns, of_scale, wrong_outputs(np.int16, 12)]
    yield "round_to_levels", [*good, h, order, scale, codes.copy()], [*wrong, *tail]
    good, wrong = [*good, h, codes, scale], [*wrong, of_h, of_codes, of_scale]
    yield "descend_levels", [*good, 3, codes.copy()], [*wrong, NO_INTEGERS, wrong_outputs(np.int16, 12)]
    yield "refit_level_scales", [*good, scale.copy()], [*wrong, wrong_outputs(np.float32, 6)]
    yield "levels_objective", [*good, np.zeros(3)], [*wrong, wrong_outputs(np.float64, 3)]
    good = [weights, h, 3, 4, 3, levels.copy(), codes.copy()]
    wrong = [real, of_h, size, size, counts, wrong_outputs(np.float32, 9)]
    yield "refit_levels", good, [*wrong, [*wrong_outputs(np.int16, 12), codes + 3, codes - 1]]


def guarded_roundings():
    h, order, codes = np.eye(4), np.arange(4), np.zeros(12, np.int16)
    weights, scale, zero = np.ones(12, np.float32), np.ones(6, np.float32), np.zeros(6, np.int32)
    of_h, size, group = wrong_vectors(np.float64, 16), [*NO_INTEGERS, *HUGE, -1, 2, 5], [*NO_INTEGERS, *HUGE, -1, 0, 1]
    yield "inverse_factor", [h, 4, h.copy()], [of_h, size, wrong_outputs(np.float64, 16)]
    of_grid = [wrong_vectors(np.float32, 6), wrong_vectors(np.int32, 6)]
    of_codes = [[*NO_INTEGERS, *HUGE, 7, -32769], [*NO_INTEGERS, *HUGE, -8, 2**15]]
    columns = [*wrong_vectors(np.int64, 4), np.array([0, 1, 2, 4]), np.array([-1, 1, 2, 3])]
    wrong = [wrong_vectors(np.float32, 12), of_h, columns, wrong_vectors(np.float32, 4)[1:], *[size] * 2, group]
    wrong += [*of_codes, [*NO_INTEGERS, *HUGE, -9, 1], [*NO_INTEGERS, *HUGE, -1, 8], [*NO_INTEGERS, -1, 2]]
    good = [weights, h, order, order.astype(np.float32), 3, 4, 2, -8, 7, 0, 0]
    yield "round_columns", [*good, 0, scale, zero, codes], [*wrong, *of_grid, wrong_outputs(np.int16, 12)]
    good, wrong = [weights, h, codes, scale, zero, 3, 4, 2], [wrong[0], of_h, wrong_vectors(np.int16, 12), *of_grid]
    wrong += [size, size, group]
    tail = [*of_codes, NO_INTEGERS, wrong_outputs(np.int16, 12)]
    yield "descend", [*good, -8, 7, 3, codes.copy()], [*wrong, *tail]
    yield "refit_scales", [*good, scale.copy()], [*wrong, wrong_outputs(np.float32, 6)]
    yield "rounding_objective", [*good, np.zeros(3)], [*wrong, wrong_outputs(np.float64, 3)]


def guarded_gradients(kernel, ends, convention):
    real, bits = np.ones(24, np.float32), np.full(3, 255, np.uint8)
    good, wrong = kernel(real, "float32", real.copy(), "float32", [-128, 127, 0], [*ends, convention])
    source, source_type, out, out_type = wrong[0], [*wrong[1], T["int8"]], wrong[4], [*wrong[5], T["int8"]]
    yield "fake_quantize_inside", [*good[:6], bits.copy(), *good[6:]], [
        source, source_type, *wrong[2:4], out, out_type, wrong_outputs(np.uint8, 3), *wrong[6:],
    ]  # fmt: skip
    f32 = T["float32"]
    yield "keep_inside", [real, f32, bits, real.copy(), f32], [
        source, source_type, [*wrong_vectors(np.uint8, 3)[:-2], np.ones(24, bool)], out, out_type,
    ]  # fmt: skip
    yield "gradients", [real, f32, real, f32, *good[2:6], np.zeros((3, 3)), *good[6:]], [
        source, source_type, source, source_type, *wrong[2:4], out, out_type, wrong_outputs(np.float64, 9), *wrong[6:],
    ]  # fmt: skip


def guarded_searches():
    offsets, keys = np.array([0, 2, 3]), np.array([0x4000, 0xBF80, 0xC000], np.uint16)
    bins = [offsets, keys, np.ones(3, np.int64)]
    crossed = [np.array([0, 4, 3]), np.array([1, 2, 3]), np.array([0, 2, 4]), np.ones(0, np.int64)]
    no_bins = [
        [*NO_ARRAYS, *crossed, offsets.astype(np.int32), crooked(offsets)],
        [*NO_ARRAYS, keys[:2], keys.astype(np.int32), np.repeat(keys, 2)[::2]],
        [*wrong_vectors(np.int64, 3)[:-4], np.ones(3), crooked(np.ones(3, np.int64))],
    ]
    yield "merge_histograms", [*bins, *bins], no_bins * 2
    lost = np.zeros(2, np.uint8)
    good = [np.ones((2, 3), np.float32), T["float32"], 1, 2, 3, 0, 4, *bins, lost]
    grid = [[*NO_INTEGERS, *HUGE, -1, 2], [*NO_INTEGERS, *HUGE, 0, 3], [*NO_INTEGERS, *HUGE, 2], [*NO_INTEGERS, -1]]
    no_lost = [*wrong_vectors(np.uint8, 2)[:-2], np.zeros(1, np.uint8)]
    yield "distinct_values", good, [
        NO_ARRAYS, [*WRONG_TYPE, T["float64"], T["int32"]], *grid, [*NO_INTEGERS, *HUGE, 3, 8], *no_bins, no_lost,
    ]  # fmt: skip
    few = [offsets, np.array([-3.0, 3.0, 3.0]), np.ones(3, np.int64)]
    many = np.array([0, 321, 321])
    no_few = [
        [*no_bins[0], offsets[:2], np.array([0, 2, 2])],
        [*wrong_vectors(np.float64, 3)[:-4], np.ones(3, np.float32)],
        no_bins[2],
    ]
    yield "merge_distinct", [*few, *few, 4, lost], [*no_few * 2, [*NO_INTEGERS, *HUGE, 3, 8], no_lost]
    with pytest.raises(ValueError, match="the offsets of distinct values do not fit them"):
        _core.merge_distinct(many, np.ones(321), np.ones(321, np.int64), *few, 4, lost)
    ends = np.array([-3.0, -3.0]), np.array([3.0, 3.0])
    spec = [7, 0, 1, -127, 127, 0.5, np.empty(0)]
    wrong = [
        [*NO_INTEGERS, 3, 8], [*NO_INTEGERS, -1, 3], [*NO_INTEGERS, -1, 2], [*NO_INTEGERS, *HUGE, 126, -32769],
        [*NO_INTEGERS, *HUGE, -126, 65536], [None, "x", [1.0]],
        [*NO_ARRAYS, np.arange(127.0), np.arange(128, dtype=np.float32), crooked(np.arange(128.0))],
    ]  # fmt: skip
    doubles = wrong_vectors(np.float64, 2)
    no_bins[1] = [*no_bins[1], np.array([0x4000, 0xBF80, 0xFF80], np.uint16), np.array([0, 0xBF80, 0xBF80], np.uint16)]
    yield "search_ranges", [*bins, *few, *ends, *spec], [*no_bins, *no_few, doubles, doubles, *wrong]
    tried, error = [np.full(4, -1.0), np.ones(4)], np.empty(4)
    four = wrong_vectors(np.float64, 4)
    wrong[1] = [*NO_INTEGERS, -1, 6]
    uneven = [value for value in four if not (isinstance(value, np.ndarray) and value.size in (0, 8))]
    yield "range_errors", [*bins, *few, *ends, *spec, *tried, error], [
        *no_bins, *no_few, doubles, doubles, *wrong, uneven, four, wrong_outputs(np.float64, 4),
    ]  # fmt: skip
    counts, out = np.ones(200), np.empty(201)
    numbers = [value for value in wrong_vectors(np.float64, 8) if np.size(value) or not isinstance(value, np.ndarray)]
    yield "entropy_bin", [counts, 8, np.arange(8.0), 16, out], [
        wrong_vectors(np.float64, 200), [*NO_INTEGERS, 0, 17], numbers, [*NO_INTEGERS, 7, 201],
        wrong_outputs(np.float64, 201),
    ]  # fmt: skip


REFUSALS = (TypeError, ValueError, OverflowError)


@pytest.fixture
def same_thread_count():
    before = qn.num_threads()
    yield
    qn.set_num_threads(before)


def refused(function, arguments):
    try:
        function(*arguments)
    except REFUSALS:
        return True
    return False


GUARDED = list(guarded())


@pytest.mark.usefixtures("same_thread_count")
@pytest.mark.parametrize(("name", "good", "wrong"), GUARDED, ids=[row[0] for row in GUARDED])
def test_the_guard_refuses(name, good, wrong):
    function = getattr(_core, name)
    function(*good)
    for k, values in enumerate(wrong):
        for value in values:
            assert refused(function, [*good[:k], value, *good[k + 1 :]]), f"argument {k} = {value!r}"
    assert len(good) == len(wrong)
    for arguments in ([], good[:-1], [*good, None]):
        with pytest.raises(TypeError):
            function(*arguments)
    with pytest.raises(TypeError):
        function(x=1)


def test_every_function_that_takes_arguments_is_tried():
    harmless = {"float_features", "isa", "isas", "kernels", "num_threads", "output_fits", "refuse_calls", "set_isa"}
    functions = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")}
    assert functions - harmless == {name for name, _, _ in GUARDED}


def test_an_output_fits_or_not():
    """Whatever is passed, the answer is a bool or a TypeError; True only where a kernel may write."""
    real = np.dtype(np.float32)
    out, x = np.zeros((2, 3), real), np.ones(6, real)
    assert _core.output_fits(out, real, (2, 3), x, 0.5, None)
    locked = out.copy()
    locked.flags.writeable = False
    for wrong in (None, [1.0], x, locked, out.T, out.astype(">f4"), out.astype(np.float64), crooked(out), out[:, ::2]):
        assert not _core.output_fits(wrong, real, (2, 3), x)
    for shape in ((3, 2), (6,), (2, 3, 1), (), (2, -3), (2, 2**62)):
        assert not _core.output_fits(out, real, shape)
    for wrong in (out, out[1:], out.T, out[:, ::-1], out.view(np.int32)[0]):
        assert not _core.output_fits(out, real, (2, 3), x, wrong)
    for arguments in ([], [out], [out, real], [out, real, [2, 3]], [out, real, (2, "3")], [out, real, (2, None)]):
        with pytest.raises(TypeError):
            _core.output_fits(*arguments)
    with pytest.raises(OverflowError):
        _core.output_fits(out, real, (2, 2**80))


def test_the_guard_needs_what_a_fixed_method_reads():
    name, good, _ = next(row for row in GUARDED if row[0] == "requantize")
    for missing in (-1, -2):
        arguments = list(good)
        arguments[missing] = None
        with pytest.raises(ValueError, match=r"^qnumpy\._core: a parameter is not an array\.$"):
            getattr(_core, name)(*arguments)
    _core.requantize(*good[:-3], 0, None, None)  # "float" reads neither


def test_random_arguments():
    """Whatever comes, each call returns or raises."""
    rng = np.random.default_rng(1)
    table = [row for row in GUARDED if row[0] != "set_num_threads"]
    refusals = 0
    for _ in range(4000):
        name, good, wrong = table[rng.integers(len(table))]
        arguments = [
            values[rng.integers(len(values))] if rng.random() < 0.2 else value
            for value, values in zip(good, wrong, strict=True)
        ]
        refusals += refused(getattr(_core, name), arguments)
    assert refusals > 1000


# What would end the whole process is tried in one of its own.
START = """
import numpy as np, qnumpy as qn
from qnumpy import _core
from qnumpy.ops.reduce import abs_max
T = _core.TYPES
n = 4096
x, q, scale, zero = np.ones(n, np.float32), np.ones(n, np.int8), np.ones((), np.float32), np.zeros((), np.int32)
def refused(call, *exceptions):
    try: call()
    except exceptions or (TypeError, ValueError): return True
    return False
"""
DANGEROUS = {
    "fake_quantize writes no codes": """
for name in ("int8", "uint8", "int16", "int32", "int4"):
    out = np.zeros(n, {"int4": "int8"}.get(name, name))
    assert refused(lambda: _core.fake_quantize(
        x, T["float32"], scale, zero, out, T[name], 1, 1, n, 0, -128, 127, 0)), name
""",
    "dequantize writes no codes": """
for name in ("int8", "uint8", "int16", "int32", "int4"):
    out = np.zeros(n, {"int4": "int8"}.get(name, name))
    assert refused(lambda: _core.dequantize(q, T["int8"], scale, zero, out, T[name], 1, 1, n, 0)), name
""",
    "dequantize reads no reals": """
for name in ("float32", "float64", "float16", "bfloat16"):
    real = np.ones(n, {"bfloat16": "uint16"}.get(name, name))
    assert refused(lambda: _core.dequantize(real, T[name], scale, zero, x.copy(), T["float32"], 1, 1, n, 0)), name
""",
    "more channels than memory": """
empty = np.zeros(0, np.float32)
for channels in (2**40, 2**58, 2**59, 2**60, 2**62, 2**63 - 1):
    assert refused(lambda: _core.min_max(empty, T["float32"], 0, channels, 1, 0), ValueError, MemoryError)
wide = np.zeros((0, 2**61), np.float16)
assert refused(lambda: qn.min_max(wide, qn.PerChannel(1)), ValueError, MemoryError)
""",
    "blocks longer than any axis": """
two = x.reshape(64, 64)
for size in (65, 2**31, 2**62, 2**63 - 1, 2**63, 2**80):
    for axis, shape in ((0, (1, 64)), (1, (64, 1))):
        low, high = qn.min_max(two, qn.PerGroup(size, axis))
        assert low.shape == high.shape == shape, (size, axis)
        assert (qn.quantize_linear(two, 0.5, axis=axis, block_size=size) == 2).all(), (size, axis)
""",
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_nothing_crashes_or_hangs(name):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-P", "-c", START + DANGEROUS[name] + "print('fine')"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=20)
    errors = re.sub(r"==\d+==WARNING: AddressSanitizer failed to allocate \w+ bytes\n", "", done.stderr)  # as it should
    assert (done.returncode, done.stdout, re.sub(r"(?s).*\n(?=.)", "", errors)) == (0, "fine\n", "")


def test_a_foreign_value_of_the_context_variable_is_no_limit():
    with qn.threads(3):
        for value in (None, 7, [], ((),), ([],), (None, 2), (["many"],), ([2**70],), ([-1],)):
            token = runtime._blocks.set(value)
            try:
                with pytest.raises(ValueError, match=r"^qnumpy\._core: the blocks of threads are of another form\.$"):
                    qn.num_threads()
            finally:
                runtime._blocks.reset(token)
        assert qn.num_threads() == 3
