"""Inputs are never modified, big inputs are not copied, and nothing is kept after a call."""

import gc
import sys
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from strategies import GRIDS, LAYOUTS, SOURCES, case

import qnumpy as qn
from qnumpy.ops.gradients import fake_quantize_inside, keep_inside, quantization_gradients
from qnumpy.ops.reduce import abs_max

N = 1 << 22
CONSTANT = 1 << 20  # bytes beside the output: the objects of a call, a few tiles; a copied input would be 4 MiB or more


# ---- inputs are not modified ----


def calls(grid, n, source):
    """Name -> (function, its arrays); every public function that takes arrays."""
    x, scale, zero = case(grid, n, "int4", source)
    rng = np.random.default_rng(n)
    where, shape = grid.where, grid.of(n)
    q = qn.quantize_linear(x, scale, zero, dtype="int4", **where)
    params = qn.QParams(scale, zero, "int4", grid.granularity)
    acc = rng.integers(-1000, 1000, shape).astype(np.int32)
    packed = rng.integers(0, 256, shape, np.uint8)
    cases = {
        "quantize_linear": (lambda x, s, z: qn.quantize_linear(x, s, z, dtype="int4", **where), x, scale, zero),
        "dequantize_linear": (lambda q, s, z: qn.dequantize_linear(q, s, z, **where), q, scale, zero),
        "fake_quantize": (lambda x: qn.fake_quantize(x, params), x),
        "quantize": (lambda x: qn.quantize(x, params).dequantize(), x),
        "QuantizedArray": (lambda q: repr(qn.QuantizedArray(q, params)[...]), q),
        "QParams": (lambda s, z: qn.QParams(s, z, "int4", grid.granularity), scale, zero),
        "min_max": (lambda x: qn.min_max(x, grid.granularity), x),
        "abs_max": (lambda x: abs_max(x, grid.granularity), x),
        "cast": (lambda x: qn.cast(x, "float8_e4m3fn"), x),
        "pack": (qn.pack, q),
        "unpack": (lambda p: qn.unpack(p, "int2"), packed),
    }
    if source != np.float64:
        cases |= {
            "fake_quantize_inside": (lambda x: fake_quantize_inside("test", x, params), x),
            "keep_inside": (lambda g: keep_inside("test", g, fake_quantize_inside("test", x, params)[1]), x),
            "gradients": (lambda x, g: quantization_gradients("test", x, g, params), x, x[::-1]),
        }
    if grid.block_size is None:
        for method in ("float", "fixed"):
            cases[f"requantize {method}"] = (
                lambda acc, m, z, method=method: qn.requantize(acc, m, z, dtype="int4", axis=grid.axis, method=method),
                acc,
                scale / 512,
                zero,
            )
    finite = np.where(np.abs(x.astype(np.float64)) < 100, x, np.ones((), x.dtype))
    cases["dynamic_quantize_linear"] = (qn.dynamic_quantize_linear, finite)
    cases["choose_qparams"] = (lambda x: qn.choose_qparams(x, granularity=grid.granularity), finite)
    return cases


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", ["tensor", "channel-middle", "group-last"])
@pytest.mark.parametrize("source", SOURCES)
def test_inputs_are_not_modified(source, grid, layout):
    for name, (function, *arrays) in calls(GRIDS[grid], 37, SOURCES[source]).items():
        inputs = [LAYOUTS[layout](np.asarray(array)) if np.ndim(array) else np.asarray(array) for array in arrays]
        before = [(array.tobytes(), array.dtype, array.shape, array.strides, array.flags.num) for array in inputs]
        function(*inputs)
        after = [(array.tobytes(), array.dtype, array.shape, array.strides, array.flags.num) for array in inputs]
        assert before == after, name


# ---- no copies of big inputs ----


def peak_of(function):
    tracemalloc.start()
    try:
        result = function()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    arrays = result if isinstance(result, tuple) else (result,)
    return peak, sum(np.asarray(array).nbytes for array in arrays)


BIG = {
    "contiguous": lambda dtype: np.ones((2048, 2048), dtype),
    "strided": lambda dtype: np.ones((2048, 4096), dtype)[:, ::2],
    "reversed": lambda dtype: np.ones((2048, 2048), dtype)[::-1, ::-1],
    "transposed": lambda dtype: np.ones((128, 128, 256), dtype).transpose(1, 2, 0),
    "broadcast": lambda dtype: np.broadcast_to(np.ones(2048, dtype), (2048, 2048)),
    "big-endian": lambda dtype: np.ones((2048, 2048), np.dtype(dtype).newbyteorder(">")),
}


@pytest.mark.parametrize("kind", BIG)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reals_are_not_copied(dtype, kind):
    x = BIG[kind](dtype)
    assert x.size == N
    params = qn.QParams(0.5, 3)
    each = qn.QParams(np.full(x.shape[-1], 0.5), 3, "int8", qn.PerChannel(-1))
    _, inside = fake_quantize_inside("test", x, params)
    for name, function in {
        "quantize_linear": lambda: qn.quantize_linear(x, 0.5, 3, dtype="int8"),
        "per channel": lambda: qn.quantize_linear(x, each.scale, each.zero_point, dtype="int8", axis=-1),
        "per group": lambda: qn.quantize_linear(x, 0.5, 3, dtype="int8", axis=-1, block_size=2048),
        "quantize": lambda: qn.quantize(x, params).codes,
        "min_max": lambda: qn.min_max(x, qn.PerChannel(0)),
        "abs_max": lambda: abs_max(x),
        "mse": lambda: qn.choose_qparams(x, method="mse").scale,
        "fake_quantize": lambda: qn.fake_quantize(x, params),
        "fake_quantize_inside": lambda: fake_quantize_inside("test", x, params)[0],
        "keep_inside": lambda: keep_inside("test", x, inside),
        "gradients": lambda: quantization_gradients("test", x, x, params)[0],
        "gradients per channel": lambda: quantization_gradients("test", x, x, each)[0],
        "dynamic": lambda: qn.dynamic_quantize_linear(x),
        "cast": lambda: qn.cast(x, "float8_e5m2", overflow="raise"),
        "stochastic": lambda: qn.cast(x, "bfloat16", rounding="stochastic", seed=0),
    }.items():
        peak, output = peak_of(function)
        assert peak < output + CONSTANT, f"{name}: {peak - output} bytes beside the output"


@pytest.mark.parametrize("kind", BIG)
def test_codes_are_not_copied(kind):
    codes, acc = BIG[kind](np.int8), BIG[kind](np.int32)
    for name, function in {
        "dequantize_linear": lambda: qn.dequantize_linear(codes, 0.5, 3, dtype="float16"),
        "requantize": lambda: qn.requantize(acc, 0.5),
        "requantize fixed": lambda: qn.requantize(acc, 0.5, method="fixed"),
        "accumulators": lambda: qn.dequantize_linear(acc, 0.5, dtype="float16"),
    }.items():
        peak, output = peak_of(function)
        assert peak < output + CONSTANT, f"{name}: {peak - output} bytes beside the output"


def test_with_out_nothing_is_allocated():
    x = np.ones(N, np.float32)
    codes, real = np.empty(x.shape, np.int8), np.empty_like(x)
    acc = np.ones(x.shape, np.int32)
    for function in (
        lambda: qn.quantize_linear(x, 0.5, dtype="int8", out=codes),
        lambda: qn.dequantize_linear(codes, 0.5, out=real),
        lambda: qn.fake_quantize(x, qn.QParams(0.5, 0), out=real),
        lambda: qn.requantize(acc, 0.5, out=codes),
    ):
        assert peak_of(function)[0] < CONSTANT


def test_contiguous_codes_are_packed_without_a_copy():
    codes = np.ones((4096, 4096), np.int8).view(qn.quantize([0.0], dtype="int4").codes.dtype)
    peak, output = peak_of(lambda: qn.pack(codes))
    assert peak < output + CONSTANT
    packed = np.ones((4096, 2048), np.uint8)
    peak, output = peak_of(lambda: qn.unpack(packed, "int4"))
    assert peak < output + CONSTANT


# ---- nothing is kept ----


def repeated():
    x = np.linspace(-1, 1, 600).astype(np.float32).reshape(20, 30)
    channel, group = qn.PerChannel(0), qn.PerGroup(8)
    q = qn.quantize(x, granularity=channel)
    acc = np.arange(600, dtype=np.int32).reshape(20, 30)
    nibbles, int4 = np.ones((20, 30), np.int8), qn._core.TYPES["int4"]
    out = np.empty(x.shape, np.int8)
    fine = {
        "quantize_linear": lambda: qn.quantize_linear(x.T, np.ones(20), np.ones(20, int), dtype="int8", axis=1),
        "out": lambda: qn.quantize_linear(x, 0.5, dtype="int8", out=out),
        "dequantize_linear": lambda: qn.dequantize_linear(q.codes[::2], 0.5, 3, dtype="bfloat16"),
        "dynamic": lambda: qn.dynamic_quantize_linear(x),
        "fake_quantize": lambda: qn.fake_quantize(x.astype(">f8"), q.qparams),
        "requantize": lambda: qn.requantize(acc, np.full(20, 0.5), axis=0, method="fixed"),
        "min_max": lambda: qn.min_max(x, group),
        "quantize": lambda: qn.quantize(x, granularity=group, symmetric=False, dtype="uint4"),
        "percentile": lambda: qn.choose_qparams(x, granularity=channel, method="percentile"),
        "slice": lambda: (q[3:5], q[0], q == q, repr(q), np.asarray(q)),
        "pack": lambda: qn.unpack(qn.pack(nibbles), "int4"),
        "cast": lambda: qn.cast(x.T, "float8_e5m2", rounding="stochastic", seed=1),
        "config": lambda: (qn.show_config(), qn.isa(), qn.num_threads()),
    }
    read_only = np.zeros(x.shape, np.int8)
    read_only.flags.writeable = False
    failing = {
        "scale": lambda: qn.quantize_linear(x, [1.0] * 19 + [-1.0], dtype="int8", axis=0),
        "zero point": lambda: qn.quantize_linear(x, 0.5, 300),
        "axis": lambda: qn.quantize_linear(x, 0.5, axis=7),
        "dtype": lambda: qn.quantize_linear(x, 0.5, dtype="float32"),
        "data": lambda: qn.quantize_linear(np.array(["a"]), 0.5),
        "out": lambda: qn.quantize_linear(x, 0.5, dtype="int8", out=read_only),
        "nan": lambda: qn.quantize_linear([np.nan], 0.5, on_nan="raise"),
        "overflow": lambda: qn.cast(1e9, "float16", overflow="raise"),
        "index": lambda: q[[1, 2]],
        "unpack": lambda: qn.unpack(np.ones(3, np.uint8), "int4", 9),
        "isa": lambda: qn.set_isa("none"),
        "guard": lambda: qn._core.min_max(x, 0, 1, 1, 7, 0),
        "guard of out": lambda: qn._core.pack(nibbles.view(np.uint8), read_only.view(np.uint8), int4, 20, 30),
    }
    return {**fine, **{f"failing {name}": call for name, call in failing.items()}}


def growth(call, times):
    """Bytes by which traced memory grows: the least of six rounds. A cache may grow in one, a leak grows in all."""

    def run():
        for _ in range(times):
            with suppress(TypeError, ValueError, RuntimeError, OverflowError):
                call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.collect()
    gc.freeze()  # later collections skip the objects of other tests
    tracemalloc.start()
    try:
        sizes = [run() for _ in range(8)]  # the first fills caches, and tracemalloc's own
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    return min(np.diff(sizes[1:]))


@pytest.mark.parametrize("name", repeated())
def test_nothing_is_kept(name):
    """The smallest object has 16 bytes; the bound is half of what one object left behind by each call would be."""
    times = 200
    assert growth(repeated()[name], times) < 8 * times


def test_growth_sees_a_leak():
    kept = []
    assert growth(lambda: kept.append(bytes(1)), 200) > 8 * 200


def test_no_references_are_kept():
    """An object that is there already grows by no byte when it is not let go."""
    x = np.linspace(-1, 1, 600).astype(np.float32)
    scale, zero, out = np.ones((), np.float32), np.zeros((), np.int32), np.empty(600, np.int8)
    acc, m, shift = np.ones(600, np.int32), np.array(2**30, np.int32), np.array(30, np.int32)
    dtypes = [np.dtype(np.int8), np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)]
    watched = [x, scale, zero, out, acc, m, shift, *dtypes]
    core, types = qn._core, qn._core.TYPES
    packed = np.empty(300, np.uint8)
    real, marks, sums = np.empty(600, np.float32), np.empty(75, np.uint8), np.empty(3)
    grid = (1, 1, 600, 0)
    lost = np.zeros(1, np.uint8)

    def once():
        core.quantize(x, types["float32"], scale, zero, out, types["int8"], *grid, -128, 127, 0)
        core.fake_quantize(x, types["float32"], scale, zero, real, types["float32"], *grid, -128, 127, 0)
        core.fake_quantize_inside(x, types["float32"], scale, zero, real, types["float32"], marks, *grid, -128, 127, 0)
        core.keep_inside(x, types["float32"], marks, real, types["float32"])
        core.gradients(
            x, types["float32"], x, types["float32"], scale, zero, real, types["float32"], sums, *grid, -128, 127, 0
        )
        core.dequantize(out, types["int8"], scale, zero, real, types["float32"], *grid)
        core.requantize(acc, types["int32"], scale, zero, out, types["int8"], *grid, -128, 127, 1, m, shift)
        core.min_max(x, types["float32"], *grid)
        bins = core.histogram(x, types["float32"], *grid, 7)
        core.merge_histograms(*bins[:3], *bins[:3])
        few = core.distinct_values(x, types["float32"], *grid, 7, *bins[:3], lost)
        core.merge_distinct(*few, *few, 7, lost)
        core.search_ranges(*bins[:3], *few, *bins[3:5], 7, 0, 1, -127, 127, 0.5, real[:0].astype(np.float64))
        core.pack(out.view(np.uint8), packed, types["int4"], 1, 600)
        core.first_bad_scale(scale)
        for wrong in ((x[::2],), (None,), (x, 1), ()):
            with pytest.raises((TypeError, ValueError)):
                core.first_bad_scale(*wrong)
        with pytest.raises(ValueError, match="the grid does not fit the array"):
            core.quantize(x, types["float32"], scale, zero, out, types["int8"], 1, 1, 599, 0, -128, 127, 0)

    once()
    before = [sys.getrefcount(value) for value in watched]
    for _ in range(50):
        once()
    after = [sys.getrefcount(value) for value in watched]
    # Fewer than one reference in fifty calls is the interpreter's own doing.
    assert all(b - a < 25 for a, b in zip(before, after, strict=True)), list(zip(before, after, strict=True))
