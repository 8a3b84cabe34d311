"""PackedWeight and qmatmul: to the last bit the formulas of docs/semantics.md, written out in NumPy."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from strategies import LAYOUTS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type

F32 = np.float32
SHAPES = [(1, 1, 1), (1, 7, 5), (2, 33, 16), (3, 64, 17), (5, 31, 70), (4, 130, 33), (13, 100, 50), (70, 40, 18)]
EMPTY = [(0, 5, 3), (3, 0, 4), (2, 5, 0)]
WEIGHTS = {
    "int8 per tensor": {"dtype": "int8"},
    "int8 per channel": {"dtype": "int8", "granularity": qn.PerChannel(1)},
    "uint8 affine": {"dtype": "uint8", "symmetric": False, "granularity": qn.PerChannel(1)},
    "int4 per channel": {"dtype": "int4", "granularity": qn.PerChannel(-1)},
    "uint4 affine": {"dtype": "uint4", "symmetric": False, "granularity": qn.PerChannel(1)},
    "int2 per tensor": {"dtype": "int2"},
    "uint2 affine": {"dtype": "uint2", "symmetric": False, "granularity": qn.PerChannel(1)},
}
GROUPS = {
    f"{dtype} {size}": {"dtype": dtype, "symmetric": dtype.startswith("int"), "granularity": qn.PerGroup(size, 0)}
    for dtype in ("int8", "uint8", "int4", "uint4", "int2", "uint2")
    for size in (16, 32, 64, 128)
}


def reals(*shape, seed=0):
    """Normal, with a wide row or column here and there."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) * rng.choice([0.1, 1, 30], (*shape[:-1], 1))).astype(F32)


def bounds(bits, symmetric):
    return (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def bounded(y, low, high):
    """np.clip, whose zeros depend on its version where a bound is one: what equals a bound stays as it is."""
    return np.where(y < low, low, np.where(y > high, high, y))


def range_params(x, bits, symmetric):
    """Scale and zero point of a range, one for each row of x; in float64, rounded once."""
    qmin, qmax = bounds(bits, symmetric)
    finite = np.where(np.isfinite(x), x, 0).astype(np.float64)
    low, high = finite.min(1, initial=0.0), finite.max(1, initial=0.0)
    extent = 2 * np.maximum(-low, high) if symmetric else high - low
    scale = np.where(extent == 0, 1, np.maximum(extent / (qmax - qmin), 2.0**-126)).astype(F32)
    zero = np.zeros(len(x)) if symmetric else np.clip(np.rint(qmin - low / scale), qmin, qmax)
    return scale, zero.astype(np.int64)


def codes(x, scale, zero, bits, symmetric):
    qmin, qmax = bounds(bits, symmetric)
    kind = "int8" if symmetric else "uint8"
    return twin.codes_of(x, qn.QParams(scale, zero, kind, qn.PerChannel(0), qmin, qmax)).astype(np.int64)


def product(x, q, *, x_granularity=None, symmetric=True, bits=8, bias=None, clip=(-np.inf, np.inf)):
    """x @ PackedWeight(q) for 8-bit codes."""
    scale, zero = range_params(x.reshape(1, -1) if x_granularity == qn.PerTensor() else x, bits, symmetric)
    scale, zero = np.resize(scale, len(x)), np.resize(zero, len(x))
    acc = (codes(x, scale, zero, bits, symmetric) - zero[:, None]) @ (plain(q) - q.zero_point.astype(np.int64))
    y = acc.astype(F32) * (scale[:, None] * np.broadcast_to(q.scale, q.shape[1:]))
    y = y if bias is None else y + F32(bias)
    return bounded(y, *map(F32, clip))


def grouped(x, q, *, x_granularity=None, symmetric=True, bits=8, bias=None, clip=(-np.inf, np.inf)):
    """The same for 4-bit groups: sums of groups are added one after the other."""
    size, k = q.qparams.granularity.group_size, q.shape[0]
    whole = range_params(
        {qn.PerRow(): x, qn.PerTensor(): x.reshape(1, -1)}.get(x_granularity, x[:, :1]), bits, symmetric
    )
    parts = [slice(first, min(first + size, k)) for first in range(0, k, size)]
    each = [range_params(x[:, part], bits, symmetric) if x_granularity is None else whole for part in parts]
    scale, zero = ([np.resize(pair[i], len(x)) for pair in each] for i in (0, 1))
    xs = [codes(x[:, part], s, z, bits, symmetric) for part, s, z in zip(parts, scale, zero, strict=True)]
    return summed(len(x), xs, scale, zero, q, bias, clip)


def summed(m, xs, scale, zero, q, bias=None, clip=(-np.inf, np.inf)):
    """Codes of x, a matrix for each group of q, with scales and zero points of rows."""
    y, first = np.zeros((m, q.shape[1]), F32), 0
    for g, x in enumerate(xs):
        acc = (x - zero[g][:, None]) @ (plain(q)[first : first + x.shape[1]] - q.zero_point[g])
        y = y + acc.astype(F32) * (scale[g][:, None] * q.scale[g])
        first += x.shape[1]
    y = y if bias is None else y + F32(bias)
    return bounded(y, *map(F32, clip))


def plain(q):
    return q.codes.view(code_type(q.codes.dtype).storage).astype(np.int64)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_eight_bits(weight, row):
    for m, k, n in SHAPES + EMPTY:
        x, w, bias = reals(m, k, seed=1), reals(k, n, seed=2), reals(n, seed=3)
        q = qn.quantize(w, **WEIGHTS[weight])
        for options in (
            {},
            {"x_granularity": qn.PerTensor()},
            {"symmetric": False, "bias": bias},
            {"symmetric": False, "x_granularity": qn.PerTensor()},
            {"activation_bits": 7, "clip": (0, None)},
            {"activation_bits": 7, "symmetric": False, "bias": bias, "clip": (-1, 2.5)},
        ):
            got = x @ qn.PackedWeight(q, **options)
            want = {("bits" if name == "activation_bits" else name): value for name, value in options.items()}
            if "clip" in want:
                want["clip"] = [end if end is not None else np.inf for end in want["clip"]]
            assert_same_bits(got, product(x, q, **want), f"{(m, k, n)} {options}")


@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
@pytest.mark.parametrize("weight", GROUPS)
def test_groups(weight, scale_dtype, row):
    for m, k, n in SHAPES + EMPTY:
        x, w, bias = reals(m, k, seed=1), reals(k, n, seed=2), reals(n, seed=3)
        packed = qn.PackedWeight(qn.quantize(w, **GROUPS[weight]), scale_dtype=scale_dtype)
        q = packed.unpack()
        assert_same_bits(x @ packed, grouped(x, q), f"{(m, k, n)}")
        for options in (
            {"x_granularity": qn.PerRow(), "bias": bias},
            {"x_granularity": qn.PerTensor()},
            {"activation_bits": 7, "clip": (0, 6)},
            {"symmetric": False},
            {"symmetric": False, "x_granularity": qn.PerRow(), "activation_bits": 7, "bias": bias},
            {"symmetric": False, "x_granularity": qn.PerTensor()},
        ):
            got = x @ qn.PackedWeight(q, **options)
            want = {("bits" if name == "activation_bits" else name): value for name, value in options.items()}
            assert_same_bits(got, grouped(x, q, **want), f"{(m, k, n)} {options}")


@pytest.mark.parametrize("weight", [*WEIGHTS, "int4 32", "uint4 64"])
@pytest.mark.parametrize("clip", [(0, np.inf), (-np.inf, 1), (-1, 2.5), (-0.0, 0.0), (np.inf, np.inf)])
def test_bounds_let_nan_pass(weight, clip, row):
    """Whatever writes y: tiles of many rows, few rows, the last columns; 65 rows make other panels."""
    for m, k, n in [(1, 20, 37), (4, 20, 32), (7, 50, 37), (65, 20, 48)]:
        x, bias = reals(m, k, seed=1), reals(n, seed=3)
        bias[::5], bias[1::5], bias[2::5] = np.nan, np.inf, -np.inf
        x[0] = 0
        q = qn.quantize(reals(k, n, seed=2), **{**WEIGHTS, **GROUPS}[weight])
        want = (product if weight in WEIGHTS else grouped)(x, q, bias=bias, clip=clip)
        assert np.isnan(want[:, ::5]).all()
        assert_same_bits(x @ qn.PackedWeight(q, bias=bias, clip=clip), want, f"{(m, k, n)}")


ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64, 65, 127, 128, 129, 130]


@pytest.mark.parametrize("weight", GROUPS)
def test_groups_are_within_the_bound(weight, row):
    """Against float64: two roundings of each product and one for each of the G sums, u = 2^-24; 1.001 for u^2.

    Given codes with zero points at both ends and between, one for all, for each row and for each group.
    """
    rng = np.random.default_rng(5)
    size, k = GROUPS[weight]["granularity"].group_size, 290
    q = qn.quantize(reals(k, 40, seed=5), **GROUPS[weight])
    # dequantize would round; the float64 product of a code and a scale is exact
    zero, scale = (twin.spread(p, q.shape, 0, size).astype(np.float64) for p in (q.zero_point, q.scale))
    weights = (plain(q) - zero) * scale
    packed, worst, turn = qn.PackedWeight(q), 0.0, list(GROUPS).index(weight)
    kinds = {"int8": (-128, 127), "uint8": (0, 255)}
    cases = [(kind, by) for kind in kinds for by in (qn.PerTensor(), qn.PerChannel(0), qn.PerGroup(size, 1))]
    for i, m in enumerate(ROWS):
        kind, granularity = cases[(turn + i) % len(cases)]
        low, high = kinds[kind]
        x = rng.integers(low, high + 1, (m, k)).astype(kind)
        x[0], x[:, :size] = (low, high)[m % 2], low
        shape = granularity.params_shape(x.shape)
        zeros = rng.choice([low, low + 3, (low + high) // 2, high], shape)
        params = qn.QParams(2.0 ** rng.uniform(-20, 20, shape), zeros, kind, granularity)
        each = [p.reshape(len(p), -1) if p.ndim else p.reshape(1, 1) for p in (params.scale, params.zero_point)]
        scales, zeros = (np.repeat(p.astype(np.float64), size if p.shape[1] > 1 else k, 1)[:, :k] for p in each)
        real = scales * (x - zeros)
        bound = 1.001 * (-(-k // size) + 2) * 2.0**-24 * (np.abs(real) @ np.abs(weights))
        error = np.abs(qn.QuantizedArray(x, params) @ packed - real @ weights)
        assert (error <= bound).all(), f"{m} rows of {kind} {granularity}"
        worst = max(worst, error.max())
    assert worst > 0


@pytest.mark.parametrize("weight", [*WEIGHTS, *GROUPS])
def test_there_and_back(weight):
    for k, n in [(1, 1), (33, 17), (130, 40), (0, 3), (3, 0)]:
        q = qn.quantize(reals(k, n), **{**WEIGHTS, **GROUPS}[weight])
        packed = qn.PackedWeight(q, bias=np.arange(n), clip=(None, 3), activation_bits=7)
        assert packed.unpack() == q
        assert packed.shape == (k, n)
        again = pickle.loads(pickle.dumps(packed))
        assert repr(again) == repr(packed)
        assert again.nbytes == packed.nbytes
        x = reals(4, k, seed=6)
        assert_same_bits(x @ again, x @ packed)


@pytest.mark.parametrize("weight", [*WEIGHTS, *GROUPS])
def test_axis_1_is_the_transpose(weight):
    options = {**WEIGHTS, **GROUPS}[weight]
    w, x = reals(50, 21), reals(4, 50)
    granularity = options.get("granularity", qn.PerTensor())
    turned = {
        qn.PerTensor: lambda: granularity,
        qn.PerChannel: lambda: qn.PerChannel(0),
        qn.PerGroup: lambda: qn.PerGroup(granularity.group_size, 1),
    }[type(granularity)]()
    q = qn.quantize(w, **options)
    t = qn.quantize(np.ascontiguousarray(w.T), **{**options, "granularity": turned})
    assert_same_bits(x @ qn.PackedWeight(t, axis=1), x @ qn.PackedWeight(q))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_given_parameters(kind, row):
    x, w = reals(6, 40, seed=7), reals(40, 19, seed=8)
    params = qn.choose_qparams(x, dtype=kind, symmetric=False)
    q = qn.quantize(w, granularity=qn.PerChannel(1))
    xq = qn.quantize(x, params)
    acc = (plain(xq) - int(params.zero_point)) @ plain(q)
    want = acc.astype(F32) * (params.scale * q.scale)
    assert_same_bits(x @ qn.PackedWeight(q, x_qparams=params), want)
    assert_same_bits(xq @ qn.PackedWeight(q), want)
    assert_same_bits(qn.qmatmul(xq, q), want)


@pytest.mark.parametrize("weight", ["int4 16", "uint4 32", "int4 128"])
@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("int8", -128), ("int8", 90), ("uint8", 0), ("uint8", 128)])
def test_given_parameters_of_groups(weight, kind, zero, row):
    """All codes of x occur, those of the ends too; static parameters, codes, and what is made of the sums."""
    q = qn.quantize(reals(150, 70, seed=8), **GROUPS[weight])
    size, bias, out = q.qparams.granularity.group_size, reals(70, seed=9), qn.QParams(3.0, 7, "uint8")
    params = qn.QParams(0.01, zero, kind)
    for m in (1, 6, 131):
        x = reals(m, 150, seed=7)
        x[0, :2] = -100, 100
        xq = qn.quantize(x, params)
        xs = [plain(xq)[:, first : first + size] for first in range(0, 150, size)]
        assert {xs[0].min(), xs[0].max()} == {params.qmin, params.qmax}
        scale, zeros = np.full((len(xs), m), params.scale), np.full((len(xs), m), zero)
        want = summed(m, xs, scale, zeros, q, bias, (-5, np.inf))
        static = qn.PackedWeight(q, bias=bias, clip=(-5, None), x_qparams=params)
        assert_same_bits(x @ static, want)
        assert_same_bits(xq @ static, want)
        assert_same_bits(x @ pickle.loads(pickle.dumps(static)), want)
        assert_same_bits(qn.qmatmul(xq, q, bias=bias), summed(m, xs, scale, zeros, q, bias))
        codes_of = qn.quantize(summed(m, xs, scale, zeros, q, bias), out).codes
        assert_same_bits(qn.qmatmul(xq, q, bias=bias, out_qparams=out).codes, codes_of)
        assert_same_bits((x @ qn.PackedWeight(q, bias=bias, x_qparams=params, out_qparams=out)).codes, codes_of)


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"dtype": "uint8", "symmetric": False}])
def test_codes_times_groups(options, row):
    """Codes of x by rows or in the groups of w give what x quantized on the fly gives."""
    q = qn.quantize(reals(90, 33, seed=8), **GROUPS["uint4 32"])
    symmetric = options.get("symmetric", True)
    for m in (0, 1, 5, 40):
        x = reals(m, 90, seed=m)
        kinds = {qn.PerChannel(0): qn.PerRow(), qn.PerRow(): qn.PerRow(), qn.PerGroup(32, -1): qn.PerGroup(32)}
        for granularity, on_the_fly in kinds.items():
            xq = qn.quantize(x, granularity=granularity, **options)
            want = x @ qn.PackedWeight(q, x_granularity=on_the_fly, symmetric=symmetric)
            assert_same_bits(xq @ qn.PackedWeight(q), want)
            out = np.empty_like(want)
            assert qn.PackedWeight(q).matmul(xq, out=out) is out
            assert_same_bits(out, want)
    stacked = qn.quantize(reals(2, 3, 90), granularity=qn.PerGroup(32, 2), **options)
    rows = qn.QuantizedArray(
        stacked.codes.reshape(6, 90),
        qn.QParams(stacked.scale.reshape(6, 3), stacked.zero_point.reshape(6, 3), options["dtype"], qn.PerGroup(32, 1)),
    )
    assert_same_bits(stacked @ qn.PackedWeight(q), (rows @ qn.PackedWeight(q)).reshape(2, 3, 33))
    assert_same_bits(rows[::2] @ qn.PackedWeight(q), (rows @ qn.PackedWeight(q))[::2])


@pytest.mark.parametrize("weight", ["int8 per channel", "uint4 32"])
def test_rows_in_any_number_of_dimensions(weight, row):
    """PerRow() of (..., K) is what PerChannel(0) is of the same rows as a matrix; with out_qparams too."""
    q = qn.quantize(reals(90, 33, seed=8), **{**WEIGHTS, **GROUPS}[weight])
    packed, small = qn.PackedWeight(q), qn.PackedWeight(q, out_qparams=qn.QParams(0.7, 100, "uint8"))
    for options in ({"dtype": "int8"}, {"dtype": "uint8", "symmetric": False}):
        x = reals(2, 3, 90, seed=4)
        matrix = qn.quantize(x.reshape(6, 90), granularity=qn.PerChannel(0), **options)
        for shape in ((90,), (6, 90), (2, 3, 90), (1, 2, 3, 90)):
            rows = math.prod(shape[:-1])
            params = (p[:rows].reshape(shape[:-1]) for p in (matrix.scale, matrix.zero_point))
            xq = qn.QuantizedArray(
                matrix.codes[:rows].reshape(shape), qn.QParams(*params, options["dtype"], qn.PerRow())
            )
            assert_same_bits(xq @ packed, (matrix[:rows] @ packed).reshape(*shape[:-1], 33))
            assert_same_bits((xq @ small).codes, (matrix[:rows] @ small).codes.reshape(*shape[:-1], 33))
            assert_same_bits(qn.qmatmul(xq, q), xq @ packed)


@pytest.mark.parametrize("granularity", [qn.PerRow(), qn.PerTensor(), qn.PerGroup(16)])
def test_a_pickle_keeps_the_granularity_of_x(granularity):
    x, q = reals(4, 50), qn.quantize(reals(50, 21), **GROUPS["int4 16"])
    packed = qn.PackedWeight(q, x_granularity=granularity, symmetric=False, activation_bits=7)
    again = pickle.loads(pickle.dumps(packed))
    assert repr(again) == repr(packed)
    assert f"x uint8 per {granularity.kind} of 7 bits" in repr(packed)
    assert_same_bits(x @ again, x @ packed)


def test_rows_of_a_weight_are_its_channels():
    """PerRow() of (N, K), as PyTorch stores it, is PerChannel(0)."""
    w, x = reals(21, 50), reals(4, 50)
    by_channel = qn.quantize(w, granularity=qn.PerChannel(0))
    by_row = qn.QuantizedArray(by_channel.codes, qn.QParams(by_channel.scale, 0, "int8", qn.PerRow()))
    assert_same_bits(x @ qn.PackedWeight(by_row, axis=1), x @ qn.PackedWeight(by_channel, axis=1))
    with pytest.raises(ValueError, match=r"got per row\. Use axis=1 if w is of shape \(N, K\)"):
        qn.PackedWeight(by_row)


def test_rows_of_codes_with_a_scale_each(row):
    x, w = reals(6, 40, seed=7), reals(40, 19, seed=8)
    q = qn.quantize(w)
    for options in ({"dtype": "int8"}, {"dtype": "uint8", "symmetric": False}):
        xq = qn.quantize(x, granularity=qn.PerChannel(0), **options)
        want = product(x, q, symmetric=options.get("symmetric", True))
        assert_same_bits(qn.qmatmul(xq, q), want)


@pytest.mark.parametrize("bias", [False, True])
def test_from_codes_to_codes(bias, row):
    """In integers where x has one scale; by float32 where each row has its own."""
    x, w, b = reals(7, 40, seed=9), reals(40, 21, seed=10), reals(21, seed=11)
    b = b if bias else None
    params, out = qn.choose_qparams(x, dtype="uint8", symmetric=False), qn.QParams(0.7, 100, "uint8")
    q = qn.quantize(w, granularity=qn.PerChannel(1))
    xq = qn.quantize(x, params)
    unit = params.scale * q.scale
    acc = (plain(xq) - int(params.zero_point)) @ plain(q)
    acc = acc if b is None else acc + np.rint(b.astype(np.float64) / unit).astype(np.int64)
    want = twin.requantize(acc.astype(np.int32), unit / out.scale, 100, dtype="uint8", axis=1)
    fused = qn.PackedWeight(q, bias=b, x_qparams=params, out_qparams=out)
    for got in (x @ fused, xq @ fused, qn.qmatmul(xq, q, bias=b, out_qparams=out)):
        assert got.qparams == out
        assert_same_bits(got.codes, want)
    relu = x @ qn.PackedWeight(q, bias=b, x_qparams=params, out_qparams=out, clip=(0, None))
    assert_same_bits(relu.codes, np.maximum(want, 100).astype(np.uint8))
    on_the_fly = x @ qn.PackedWeight(q, bias=b, out_qparams=out)
    assert_same_bits(on_the_fly.codes, qn.quantize(product(x, q, bias=b), out).codes)


@pytest.mark.parametrize("weight", ["int8 per channel", "int4 32"])
def test_what_is_not_finite(weight, row):
    """NaN becomes 0 and infinities saturate, each row by itself."""
    x, w = reals(6, 70, seed=12), reals(70, 20, seed=13)
    q = qn.quantize(w, **{**WEIGHTS, **GROUPS}[weight])
    want = (grouped if "32" in weight else product)(np.array(x), q)
    x[1, 3], x[2, 4], x[3, 5], x[4] = np.nan, np.inf, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = (grouped if "32" in weight else product)(x, q)
    got = x @ qn.PackedWeight(q)
    assert_same_bits(got, expected)
    assert_same_bits(got[[0, 5]], want[[0, 5]])
    assert not got[4].any()


@pytest.mark.parametrize("weight", ["int8 per channel", "uint4 32"])
def test_layouts_types_and_shapes_of_x(weight):
    q = qn.quantize(reals(24, 10), **{**WEIGHTS, **GROUPS}[weight])
    packed = qn.PackedWeight(q)
    x = reals(6, 24, seed=14)
    want = x @ packed
    for label, layout in LAYOUTS.items():
        assert_same_bits(layout(x) @ packed, want, label)
    assert_same_bits(x.astype(np.float64) @ packed, want)
    assert_same_bits(x.tolist() @ packed, want)
    for narrow in (np.float16, ml_dtypes.bfloat16):
        assert_same_bits(x.astype(narrow) @ packed, x.astype(narrow).astype(F32) @ packed)
    assert_same_bits(x[0] @ packed, want[0])
    assert_same_bits(x.reshape(2, 3, 24) @ packed, want.reshape(2, 3, 10))
    out = np.empty((6, 10), F32)
    assert packed.matmul(x, out=out) is out
    assert_same_bits(out, want)


@pytest.mark.parametrize("weight", ["int8 per channel", "int4 32", "uint4 64"])
def test_threads(weight):
    """One result for every count of threads, and for eight Python threads at once."""
    q = qn.quantize(reals(300, 700), **{**WEIGHTS, **GROUPS}[weight])
    packed = qn.PackedWeight(q)
    for m in (1, 5, 150):
        x = reals(m, 300, seed=m)
        with qn.threads(1):
            want = x @ packed
        for count in (2, 3, 8):
            with qn.threads(count), ThreadPoolExecutor(8) as pool:
                for got in pool.map(lambda _, x=x: x @ packed, range(8)):
                    assert_same_bits(got, want)


def test_no_rows_of_codes():
    """Whatever strides NumPy gives an empty result."""
    q = qn.quantize(reals(8, 3), granularity=qn.PerChannel(1))
    out = qn.QParams(0.5, 3, "uint8")
    for shape in ((0, 8), (2, 0, 8)):
        x = qn.QuantizedArray(np.empty(shape, np.int8), qn.QParams(0.5, 0))
        assert_same_bits(qn.qmatmul(x, q), np.empty((*shape[:-1], 3), F32))
        assert qn.qmatmul(x, q, out_qparams=out).codes.shape == (*shape[:-1], 3)


def test_many_rows_go_in_passes():
    """More rows than the scratch of one pass holds; x is not changed."""
    q8 = qn.quantize(reals(16, 3), granularity=qn.PerChannel(1))
    q4 = qn.quantize(reals(16, 3), dtype="int4", granularity=qn.PerGroup(16, 0))
    x = reals(300, 16)
    x.flags.writeable = False
    for q, formula in ((q8, product), (q4, grouped)):
        assert_same_bits(x @ qn.PackedWeight(q), formula(x, q))
        assert_same_bits(x @ qn.PackedWeight(q, symmetric=False), formula(x, q, symmetric=False))
    xq = qn.quantize(x, granularity=qn.PerChannel(0), dtype="uint8", symmetric=False)
    assert_same_bits(xq @ qn.PackedWeight(q4), x @ qn.PackedWeight(q4, x_granularity=qn.PerRow(), symmetric=False))
    wide = np.ones((300, 40_000), F32)
    ones = qn.QuantizedArray(np.ones((40_000, 2), np.int8), qn.QParams(0.5, 0))
    assert_same_bits(wide @ qn.PackedWeight(ones), product(wide, ones))


@pytest.mark.parametrize("symmetric", [True, False])
def test_activations_of_7_bits(symmetric, row):
    """The codes of x span 128 values: weights of any codes, the lowest ones too, in as many rows as go another way."""
    rng = np.random.default_rng(11)
    m, k, n = 100, 140, 35
    x = reals(m, k)
    x[:50] = np.where(rng.random((50, k)) < 0.05, 3.0, 0.0)
    lowest = np.full((k, n), -128)
    lowest[:, 0] = 127
    for codes_ in (rng.integers(-127, 128, (k, n)), rng.integers(-128, 128, (k, n)), lowest, np.full((k, n), -64)):
        q = qn.QuantizedArray(codes_.astype(np.int8), qn.QParams(0.125, 0, "int8"))
        packed = qn.PackedWeight(q, activation_bits=7, symmetric=symmetric)
        want = product(x, q, symmetric=symmetric, bits=7)
        assert_same_bits(x @ packed, want)
        assert_same_bits(x @ pickle.loads(pickle.dumps(packed)), want)
        np.testing.assert_array_equal(packed.unpack().codes, q.codes)


def test_a_sum_that_does_not_fit_raises():
    k = 140_000
    packed = qn.PackedWeight(qn.QuantizedArray(np.full((k, 2), 127, np.int8), qn.QParams(1.0, 0)))
    with pytest.raises(OverflowError) as caught:
        np.ones((1, k), F32) @ packed
    assert str(caught.value) == (
        "PackedWeight.matmul: every sum of codes must be in the range of int32; got one that is not."
    )
    with pytest.raises(OverflowError):
        qn.quantize(np.ones((1, k), F32)) @ packed


def test_what_it_says():
    q = qn.quantize(reals(64, 32), dtype="int4", granularity=qn.PerGroup(32, 0))
    packed = qn.PackedWeight(q, bias=np.zeros(32), scale_dtype="float16")
    assert repr(packed) == "PackedWeight((64, 32), int4 per group 32 on axis 0, x int8 per group, bias)"
    # two panels of two groups: 256 bytes of codes and 16 scales of two bytes each, and the bias
    assert packed.nbytes == 2 * 2 * (256 + 32) + 128
    assert packed.ndim == 2
    assert "<caption>PackedWeight</caption>" in packed._repr_html_()
    params = qn.PackedWeight(
        qn.quantize(reals(8, 8)), x_qparams=qn.QParams(1.0, 0), out_qparams=qn.QParams(1.0, 0, "uint8")
    )
    assert repr(params) == "PackedWeight((8, 8), int8 per tensor, x int8 as given, -> uint8)"
    assert 64 <= params.nbytes <= 4096


W8 = qn.quantize(np.ones((4, 3), F32))
W4 = qn.quantize(np.ones((4, 3), F32), dtype="int4", granularity=qn.PerGroup(16, 0))
P8, P4 = qn.PackedWeight(W8), qn.PackedWeight(W4)
X = np.ones((2, 4), F32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qn.PackedWeight(np.ones((4, 3))), TypeError,
         "PackedWeight: w must be a QuantizedArray, MXArray, CodebookArray or OffsetArray; got an array of float64 "
         "with shape (4, 3)."),
        (lambda: qn.PackedWeight(qn.quantize(np.ones(4))), ValueError, "PackedWeight: w must be 2-D; got shape (4,)."),
        (lambda: qn.PackedWeight(W8, axis=2), ValueError, "PackedWeight: axis must be in [-2, 1]; got 2."),
        (lambda: qn.PackedWeight(qn.quantize(X, granularity=qn.PerChannel(0))), ValueError,
         "PackedWeight: w must be quantized per tensor, per channel on the axis of N, or in groups of 16, 32, 64 or "
         "128 along K; got per channel 0. Use axis=1 if w is of shape (N, K), as PyTorch stores weights."),
        (lambda: qn.PackedWeight(qn.quantize(X, dtype="int4", granularity=qn.PerGroup(8, 0))), ValueError,
         "PackedWeight: w must be quantized per tensor, per channel on the axis of N, or in groups of 16, 32, 64 or "
         "128 along K; got per group 8 on axis 0."),
        (lambda: qn.PackedWeight(qn.quantize(X, dtype="int16")), TypeError,
         "PackedWeight: w must be of int8, uint8, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, "
         "int2, uint2, float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz or float4_e2m1fn; got int16."),
        (lambda: qn.PackedWeight(W8, bias=np.ones(4)), ValueError,
         "PackedWeight: bias must be of shape (3,); got shape (4,). Use axis=1 if w is of shape (N, K), as PyTorch "
         "stores weights."),
        (lambda: qn.PackedWeight(W8, clip=3), TypeError,
         "PackedWeight: clip must be two bounds, each a number or None; got 3."),
        (lambda: qn.PackedWeight(W8, clip=(2, 1)), ValueError,
         "PackedWeight: clip must be a low and a high bound, in this order; got (2, 1)."),
        (lambda: qn.PackedWeight(W8, x_granularity=qn.PerGroup(16)), ValueError,
         "PackedWeight: x_granularity must be PerRow() or PerTensor(); got PerGroup(group_size=16, axis=-1)."),
        (lambda: qn.PackedWeight(W4, x_granularity=qn.PerGroup(32)), ValueError,
         "PackedWeight: x_granularity must be PerGroup(group_size=16, axis=-1), PerRow() or PerTensor(); got "
         "PerGroup(group_size=32, axis=-1)."),
        (lambda: qn.PackedWeight(W8, x_granularity="row"), TypeError,
         "PackedWeight: x_granularity must be PerRow() or PerTensor(); got 'row'."),
        (lambda: qn.PackedWeight(W8, activation_bits=6), ValueError,
         "PackedWeight: activation_bits must be 8 or 7; got 6."),
        (lambda: qn.PackedWeight(W8, scale_dtype="float16"), ValueError,
         "PackedWeight: scale_dtype must be float32 unless w is in groups; got float16."),
        (lambda: qn.PackedWeight(W4, scale_dtype="int8"), ValueError,
         "PackedWeight: scale_dtype must be one of 'float32', 'float16'; got 'int8'."),
        (lambda: qn.PackedWeight(W8, x_qparams=1), TypeError, "PackedWeight: x_qparams must be a QParams; got 1."),
        (lambda: qn.PackedWeight(W8, out_qparams=qn.QParams(1.0, 0, "int4")), ValueError,
         "PackedWeight: out_qparams must be of int8 or uint8 per tensor; got QParams(int4, per tensor, scale=1, "
         "zero_point=0)."),
        (lambda: qn.PackedWeight(W4, x_qparams=qn.QParams(1.0, 0, "float8_e5m2")), ValueError,
         "PackedWeight: x_qparams must be of int8 or uint8 per tensor; got QParams(float8_e5m2, per tensor, scale=1)."),
        (lambda: X[:, :3] @ P8, ValueError,
         "PackedWeight.matmul: x must be of shape (..., 4); got shape (2, 3). Pack the weight "
         "with the other axis if its shape is (4, 3)."),
        (lambda: X.astype(np.int8) @ P8, TypeError,
         "PackedWeight.matmul: x must be an array of floats or a QuantizedArray; got dtype int8. Use matmul_integer "
         "for plain codes."),
        (lambda: qn.quantize(X, dtype="float8_e5m2") @ P8, TypeError,
         "PackedWeight.matmul: x must be of int8 or uint8 per tensor or per row; got float8_e5m2 per tensor."),
        (lambda: qn.quantize(X, granularity=qn.PerGroup(16, 1)) @ P8, TypeError,
         "PackedWeight.matmul: x must be of int8 or uint8 per tensor or per row; got int8 per group 16 on axis 1."),
        (lambda: qn.quantize(X, granularity=qn.PerGroup(32, 1)) @ P4, TypeError,
         "PackedWeight.matmul: x must be of int8 or uint8 per tensor, per row or per group 16 on the last axis; got "
         "int8 per group 32 on axis 1."),
        (lambda: qn.quantize(X, granularity=qn.PerChannel(1)) @ P4, TypeError,
         "PackedWeight.matmul: x must be of int8 or uint8 per tensor, per row or per group 16 on the last axis; got "
         "int8 per channel 1."),
        (lambda: qn.quantize(X, dtype="int16") @ P8, TypeError,
         "PackedWeight.matmul: x must be of int8 or uint8 per tensor or per row; got int16 per tensor."),
        (lambda: P8.matmul(X, out=np.empty((2, 3))), TypeError,
         "PackedWeight.matmul: out must be of dtype float32; got dtype float64."),
        (lambda: P8.matmul(X[:, :3] @ np.ones((3, 4), F32), out=np.empty((2, 4), F32)), ValueError,
         "PackedWeight.matmul: out must be of shape (2, 3); got shape (2, 4)."),
        (lambda: qn.qmatmul(X, W8), TypeError,
         "qmatmul: a must be a QuantizedArray; got an array of float32 with shape (2, 4). Use qn.quantize(a) first."),
        (lambda: qn.qmatmul(W8, P8), TypeError,
         "qmatmul: b must be a QuantizedArray; got one that is packed. Use a @ b."),
        (lambda: qn.qmatmul(qn.quantize(X), qn.quantize(np.ones((5, 4)))), ValueError,
         "qmatmul: a must be of shape (..., 5); got shape (2, 4). Use b.T if b is of shape (N, K), as PyTorch stores "
         "weights."),
        (lambda: qn.qmatmul(W8, X), TypeError,
         "qmatmul: b must be a QuantizedArray; got an array of float32 with shape (2, 4)."),
        (lambda: qn.qmatmul(W8, qn.quantize(np.ones(4))), ValueError, "qmatmul: b must be 2-D; got shape (4,)."),
        (lambda: qn.qmatmul(W8, W8), ValueError,
         "qmatmul: a must be of shape (..., 4); got shape (4, 3). Use b.T if b is of shape (N, K), as PyTorch stores "
         "weights."),
        (lambda: qn.qmatmul(qn.quantize(X), W8, bias=[1.0]), ValueError,
         "qmatmul: bias must be of shape (3,); got shape (1,)."),
        (lambda: qn.qmatmul(qn.quantize(X, dtype="int16"), W8), TypeError,
         "qmatmul: a must be of int8 or uint8 per tensor or per row; got int16 per tensor."),
        (lambda: qn.PackedWeight(qn.quantize(X * 1e-30, dtype="int4", granularity=qn.PerGroup(16, 0)),
                                 scale_dtype="float16"), ValueError,
         "PackedWeight: w must be of scales that float16 holds; got 1.42857e-31 to 1.42857e-31."),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_out_may_not_overlap_x():
    square = qn.PackedWeight(qn.quantize(np.ones((4, 4), F32)))
    x = np.ones((4, 4), F32)
    with pytest.raises(ValueError, match=r"^PackedWeight\.matmul: out must be apart from the input in memory; got an "):
        square.matmul(x, out=x)
