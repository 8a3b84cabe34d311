"""Encoders of GGUF's blocks: their error against brute force, simple searches and the gguf package."""

import numpy as np
import pytest

from qnumpy.ops.gguf import GGUF_TYPES, decode
from qnumpy.ops.kquant import encode

ALL = pytest.mark.parametrize("name", GGUF_TYPES)
SIMPLE = [name for name, kind in GGUF_TYPES.items() if not kind.scale_bits]


def weights(count=64, size=256, seed=0):
    return (np.random.default_rng(seed).standard_t(5, (count, size)) * 0.05).astype(np.float32)


def importances(rows=1, size=256, seed=1):
    return np.exp(np.random.default_rng(seed).normal(size=(rows, size))).astype(np.float32)


def rounded(x, name, importance=None):
    kind = GGUF_TYPES[name]
    by_block = None if importance is None else importance.reshape(-1, kind.size)
    return decode(encode(x.reshape(-1, kind.size), by_block, kind), kind).reshape(x.shape)


def error(x, y, importance=1.0):
    return float((importance * np.square(x.astype(np.float64) - y)).sum())


@ALL
def test_the_error_is_below_that_of_a_uniform_grid_of_the_range(name):
    """The grid of each group's minimum and maximum, its scale not even rounded."""
    kind, x = GGUF_TYPES[name], weights()
    groups = x.reshape(-1, kind.group).astype(np.float64)
    last = (1 << kind.bits) - 1
    if kind.has_minimum:
        low, high = np.minimum(groups.min(1, keepdims=True), 0), groups.max(1, keepdims=True)
        step = (high - low) / last
        y = np.rint((groups - low) / step) * step + low
    else:
        step = np.abs(groups).max(1, keepdims=True) / kind.zero
        y = np.clip(np.rint(groups / step), -kind.zero, last - kind.zero) * step
    factor = {"Q5_K": 0.95, "Q6_K": 1.12, "Q8_0": 1.0}.get(name, 0.93)  # scales of 6 and 8 bits cost Q6_K more
    assert error(x, rounded(x, name)) < factor * error(groups, y)


@ALL
def test_importance_lowers_the_weighted_error(name):
    x, importance = weights(), importances()
    plain, weighted = rounded(x, name), rounded(x, name, importance)
    assert error(x, weighted, importance) < 0.97 * error(x, plain, importance)
    assert error(x, plain) < error(x, weighted)


@ALL
def test_the_importance_of_a_block_is_that_of_its_columns(name):
    """Two blocks a row have importances of their own; a factor of all changes nothing."""
    kind = GGUF_TYPES[name]
    x, importance = weights(6, 512), importances(1, 512)
    whole = encode(x.reshape(-1, kind.size), importance.reshape(-1, kind.size), kind).reshape(6, -1)
    again = encode(x.reshape(-1, kind.size), (2**40 * importance).reshape(-1, kind.size), kind).reshape(6, -1)
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_array_equal(encode(x[3:4].reshape(-1, kind.size), importance.reshape(-1, kind.size), kind),
                                  whole[3].reshape(-1, kind.nbytes))  # fmt: skip


@ALL
def test_a_block_alone_has_the_bytes_that_it_has_among_others(name):
    kind = GGUF_TYPES[name]
    x = weights(150).reshape(-1, kind.size)
    whole = encode(x, None, kind)
    for i in (0, 7, len(x) - 1):
        np.testing.assert_array_equal(encode(x[i : i + 1], None, kind)[0], whole[i])


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0"])
def test_near_the_optimum_of_brute_force(name):
    """Every float16 scale of either sign: the search misses 1 % in all blocks together, of 8 bits 15 %."""
    kind, x = GGUF_TYPES[name], weights(16, 32, seed=3)
    peak = np.abs(x).max(1, keepdims=True)
    scales = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    total = 0.0
    for row, top in zip(x.astype(np.float64), peak[:, 0], strict=True):
        near = scales[(scales > top / kind.zero / 4) & (scales < top / kind.zero * 2)]
        d = np.concatenate([near, -near])[:, None]
        levels = np.clip(np.rint(row / d), -kind.zero, kind.zero - 1) * d
        total += np.square(levels - row).sum(1).min()
    assert total * (1 - 1e-6) <= error(x, rounded(x, name)) <= (1.15 if name == "Q8_0" else 1.01) * total


def least_squares_search(x, last, steps):
    """The scale and minimum of each group by a search of 20 steps with least squares, no refinement, as a baseline."""
    low, high = np.minimum(x.min(1, keepdims=True), 0), x.max(1, keepdims=True)
    best = np.full(len(x), np.inf)
    scale, minimum = np.zeros(len(x)), np.zeros(len(x))
    for reach in steps:
        q = np.clip(np.rint((x - low) * reach / (high - low)), 0, last)
        n, sq, sqq = x.shape[1], q.sum(1), (q * q).sum(1)
        determinant = n * sqq - sq * sq
        s = (n * (x * q).sum(1) - x.sum(1) * sq) / determinant
        m = (sqq * x.sum(1) - sq * (x * q).sum(1)) / determinant
        s, m = np.where(m > 0, (x * q).sum(1) / sqq, s), np.minimum(m, 0)
        e = np.square(s[:, None] * q + m[:, None] - x).sum(1)
        better = e < best
        best[better], scale[better], minimum[better] = e[better], s[better], m[better]
    return scale, -minimum


@pytest.mark.parametrize(("name", "gain"), [("Q2_K", 0.96), ("Q4_K", 0.97), ("Q5_K", 0.97)])
def test_the_error_is_below_that_of_rounding_the_scales_of_a_simple_search(name, gain):
    """Each group's best scale and minimum, then d and dmin from the largest and integers to nearest."""
    kind, x = GGUF_TYPES[name], weights(128).astype(np.float64)
    last, top = (1 << kind.bits) - 1, (1 << kind.scale_bits) - 1
    scale, minimum = least_squares_search(x.reshape(-1, kind.group), last, last + np.linspace(-1, 1, 21))
    scale, minimum = scale.reshape(len(x), -1), minimum.reshape(len(x), -1)
    d = (scale.max(1, keepdims=True) / top).astype(np.float16).astype(np.float64)
    dmin = (minimum.max(1, keepdims=True) / top).astype(np.float16).astype(np.float64)
    step, low = d * np.clip(np.rint(scale / d), 0, top), dmin * np.clip(np.rint(minimum / dmin), 0, top)
    step, low = step[..., None], low[..., None]
    groups = x.reshape(len(x), kind.groups, kind.group)
    y = step * np.clip(np.rint((groups + low) / np.where(step, step, 1)), 0, last) - low
    assert error(x, rounded(x.astype(np.float32), name)) < gain * error(groups, y)


@pytest.mark.parametrize("name", SIMPLE)
def test_no_block_is_worse_than_the_packages(name):
    gguf = pytest.importorskip("gguf")
    number = gguf.GGMLQuantizationType[name]
    rows = [weights(40, 32), np.eye(32), np.full((2, 32), 0.3), np.tile([1e-4, 1e4], (2, 16)), weights(4, 32) + 5]
    x = np.concatenate(rows).astype(np.float32)
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x, number), number)
    ours = rounded(x, name)
    for row, our, their in zip(x, ours, theirs, strict=True):
        assert error(row, our) <= error(row, their) * (1 + 1e-6)
    assert error(x[:40], ours[:40]) < 0.95 * error(x[:40], theirs[:40])


def test_q4_k_is_ahead_of_the_packages_types_of_as_many_bits():
    gguf = pytest.importorskip("gguf")
    x = weights(256)
    for name, factor in (("Q4_0", 0.7), ("Q4_1", 0.9)):  # 4.5 bits, and half a bit more
        number = gguf.GGMLQuantizationType[name]
        theirs = gguf.quants.dequantize(gguf.quants.quantize(x, number), number)
        assert error(x, rounded(x, "Q4_K")) < factor * error(x, theirs)


EDGES = {
    "zeros": np.zeros((2, 256)),
    "constant": np.full((2, 256), 0.3),
    "negative constant": np.full((2, 256), -0.3),
    "one element": np.eye(2, 256),
    "an outlier": np.concatenate([np.full((2, 1), 1000), weights(2, 255)], axis=1),
    "far from zero": weights(2) + 5,
    "largest": np.where(weights(2) > 0, 65504.0, -65504.0),
    "below float16": weights(2) * 1e-30,
    "subnormal": weights(2) * 1e-43,
    "all sizes": weights(2) * np.repeat(10.0 ** np.arange(-12, 4), 16),
}


@ALL
@pytest.mark.parametrize("edge", EDGES)
def test_the_edges(name, edge):
    """Finite, without warnings, and no element farther from its weight than the largest weight."""
    x = EDGES[edge].astype(np.float32)
    y = rounded(x, name)
    assert np.isfinite(y).all()
    assert (np.abs(y - x) <= max(np.abs(x).max(), 1e-7)).all()
    if edge == "zeros":
        assert not y.any()
    if "constant" in edge:
        np.testing.assert_allclose(y, x, rtol=2e-3)  # float16 scales, integers of 4 and 6 bits


@ALL
def test_groups_without_importance_are_rounded_as_if_all_weights_had_the_same(name):
    kind, x = GGUF_TYPES[name], weights(8)
    plain = rounded(x, name)
    np.testing.assert_array_equal(rounded(x, name, np.zeros((1, 256), np.float32)), plain)
    half = np.concatenate([np.zeros((1, 128)), np.ones((1, 128))], axis=1).astype(np.float32)
    y = rounded(x, name, half)
    if not kind.scale_bits:  # else d follows from the other groups
        assert error(x, y) < 1.01 * error(x, plain)  # the sums round otherwise
    assert error(x, y, half) <= 1.001 * error(x, plain, half)
    assert error(x, y) < 1.6 * error(x, plain)
