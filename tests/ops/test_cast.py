"""Casts: every code and a dense sample of float32 against NumPy and ml_dtypes, everything against the twin; layouts,
overflow, stochastic rounding. All 2**32 floats with ``-m slow``."""

import ast
import bisect
import functools
import inspect
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from refusals import X, assert_refused, refusals
from strategies import LAYOUTS, ROWS, assert_same_bits

import qnumpy as qn
from qnumpy import testing
from qnumpy.dtypes import FLOAT_TYPES

NARROW = [name for name, float_type in FLOAT_TYPES.items() if float_type.bits <= 16]
SEED = 0x0123456789ABCDEF
FLOATS_A_CHUNK = 1 << 17  # temporaries stay in the cache


def bits(x):
    return x.view(f"u{x.dtype.itemsize}")


def astype(x, dtype):
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def codes(name):
    float_type = FLOAT_TYPES[name]
    return np.arange(1 << float_type.bits).astype(float_type.storage).view(float_type.dtype)


@functools.cache
def numbers(name):
    """The finite numbers of a format from 0 up, by its fields; they order as their codes do."""
    float_type = FLOAT_TYPES[name]
    implicit, values = 1 << float_type.mantissa_bits, []
    for code in range(float_type.largest_code + 1):
        field, mantissa = divmod(code, implicit)
        hidden = implicit if field or float_type.kind == "SCALE" else 0
        exponent = (field if hidden else 1) - float_type.bias - float_type.mantissa_bits
        values.append(np.ldexp(float(hidden + mantissa), exponent))
    return np.array(values)


def hard(name, source=np.float32):
    """Numbers of a format, their ties and what lies beyond the largest, each with its neighbours, of both signs."""
    float_type = FLOAT_TYPES[name]
    exact = numbers(name)
    near = np.concatenate(
        [exact, (exact[1:] + exact[:-1]) / 2, [float_type.overflow, 2 * float_type.largest, 0.0, np.inf]]
    )
    x = astype(near, source)
    x = np.concatenate([x, np.nextafter(x, x.dtype.type(np.inf)), np.nextafter(x, x.dtype.type(-np.inf))])
    return np.concatenate([x, -x, np.array([np.nan, -np.nan], source)])


def assert_cast(got, want, about):
    """Equal bits; of a NaN, where the format has one, that it is one and its sign."""
    assert got.dtype == want.dtype
    if np.array_equal(bits(got), bits(want)):
        return
    same = bits(got) == bits(want)
    if FLOAT_TYPES[got.dtype.name].has_nan:
        nan = np.isnan(got) & np.isnan(want)
        same |= nan & (np.signbit(got) == np.signbit(want))
    if not same.all():
        k = np.flatnonzero(~same)[0]
        raise AssertionError(f"{about}: {(~same).sum()} differ, [{k}] {got[k]!r} not {want[k]!r}")


# ---- the table ----


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_the_table_says_what_the_peers_say(name):
    float_type = FLOAT_TYPES[name]
    info = ml_dtypes.finfo(float_type.dtype)
    assert float_type.dtype.name == name
    assert float_type.bits == info.bits
    assert float_type.dtype.itemsize == float_type.storage.itemsize
    assert float_type.mantissa_bits == info.nmant
    assert [float_type.largest, float_type.smallest_normal, float_type.smallest_subnormal, float_type.epsilon] == [
        float(value) for value in (info.max, info.smallest_normal, info.smallest_subnormal, info.eps)
    ]
    with np.errstate(over="ignore"):
        assert float_type.has_infinity == bool(np.isinf(np.array(np.inf).astype(float_type.dtype).astype(np.float64)))
    assert float_type.has_nan == bool(np.isnan(np.array(np.nan).astype(float_type.dtype).astype(np.float64)))


@pytest.mark.parametrize("name", [name for name in FLOAT_TYPES if FLOAT_TYPES[name].bits < 64])
def test_where_overflow_begins(name):
    float_type = FLOAT_TYPES[name]
    below = np.nextafter(float_type.overflow, 0)
    assert float(qn.cast(below, name)) == float_type.largest
    beyond = float(qn.cast(float_type.overflow, name))
    assert beyond == float_type.largest if float_type.kind == "FINITE" else not np.isfinite(beyond)


# ---- to and from float32 ----


@pytest.mark.parametrize("name", NARROW)
def test_every_code_widened(row, name):
    for to in ("float32", "float64"):
        assert_cast(qn.cast(codes(name), to), astype(codes(name), to), f"{name} to {to}")


@pytest.mark.parametrize("name", NARROW)
def test_unused_bits_of_a_code_are_not_read(row, name):
    float_type = FLOAT_TYPES[name]
    if float_type.bits < 8:
        every = np.arange(256, dtype=np.uint8)
        used = (every & ((1 << float_type.bits) - 1)).view(float_type.dtype)
        assert_same_bits(qn.cast(every.view(float_type.dtype), "float32"), qn.cast(used, "float32"))


@functools.cache
def dense_sample(name):
    """Around every number and tie of the format, and one float in some 2**13, of every exponent."""
    around = (bits(hard(name))[:, None] + np.arange(-2, 3, dtype=np.int64)).astype(np.uint32).ravel()
    strided = np.arange(0, 2**32, 8191, dtype=np.uint64).astype(np.uint32)  # a prime: the low bits vary too
    return np.concatenate([around, strided]).view(np.float32)


@pytest.mark.parametrize("name", NARROW)
def test_dense_sample_narrowed(name):
    if name == "float8_e8m0fnu" and astype(np.float32([0.75]), FLOAT_TYPES[name].dtype).astype(np.float32)[0] != 1:
        pytest.skip("ml_dtypes 0.5.0 took a tie to the even exponent")
    x, before = dense_sample(name), qn.isa()
    want = astype(x, FLOAT_TYPES[name].dtype)
    for isa in ROWS:
        qn.set_isa(isa)
        assert_cast(qn.cast(x, name), want, f"float32 to {name} on {isa}")
    qn.set_isa(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROW)
def test_every_float32_narrowed(name):
    """Every row gives the same codes as NumPy or ml_dtypes, whose time it is."""
    before = qn.isa()
    for start in range(0, 2**32, FLOATS_A_CHUNK):
        x = np.arange(start, start + FLOATS_A_CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32)
        want = astype(x, FLOAT_TYPES[name].dtype)
        for isa in ROWS:
            qn.set_isa(isa)
            assert_cast(qn.cast(x, name), want, f"float32 to {name} on {isa}")
    qn.set_isa(before)


@pytest.mark.parametrize("name", NARROW)
def test_there_and_back(row, name):
    every = codes(name)
    number = every[~np.isnan(astype(every, np.float64))]
    for wide in ("float32", "float64"):
        assert_same_bits(qn.cast(qn.cast(number, wide), name), number, f"{name} by way of {wide}")


# ---- float64 ----


@pytest.mark.parametrize("name", [name for name in NARROW if FLOAT_TYPES[name].kind != "SCALE"])
def test_float64_is_rounded_once(row, name):
    """Against the nearest number by rationals, the even code of two."""
    exact = [Fraction(value) for value in numbers(name)]
    rng = np.random.default_rng(0)
    x = hard(name, np.float64)
    x = x[np.isfinite(x) & (np.abs(x) <= FLOAT_TYPES[name].largest)]
    x = rng.choice(x, 400)
    for value, code in zip(x, bits(qn.cast(x, name)), strict=True):
        at = Fraction(abs(float(value)))
        k = bisect.bisect_left(exact, at)
        pair = [j for j in (k - 1, k) if 0 <= j < len(exact)]
        want = min(pair, key=lambda j: (abs(exact[j] - at), j % 2))
        assert int(code) & ((1 << FLOAT_TYPES[name].bits - 1) - 1) == want, value


def test_float64_by_way_of_float32_would_be_rounded_twice():
    """Else the test above could not tell."""
    x = hard("float16", np.float64)
    assert (bits(astype(astype(x, np.float32), np.float16)) != bits(qn.cast(x, "float16"))).any()


def test_float64_to_float32_is_ieee(row):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, 100_000, np.uint64).view(np.float64)
    x = np.concatenate([x, hard("bfloat16", np.float64)])
    assert_cast(qn.cast(x, "float32"), astype(x, np.float32), "float64 to float32")


# ---- everything against the twin ----


def sample(source, to):
    """Every code of a narrow source, else the hard values of the target, any bits, and any size."""
    float_type, target = FLOAT_TYPES[source], FLOAT_TYPES[to]
    if float_type.bits <= 8:
        return codes(source)
    rng = np.random.default_rng([float_type.core, target.core])
    any_bits = rng.integers(0, 2**63, 700, np.uint64).astype(f"u{float_type.dtype.itemsize}").view(float_type.dtype)
    sizes = astype(rng.standard_normal(500) * np.exp2(rng.uniform(-160, 140, 500)), float_type.dtype)
    parts = [any_bits, sizes]
    if float_type.bits > 16 and target.bits <= 16:
        parts.append(rng.choice(hard(to, float_type.dtype), 800))
    return np.concatenate(parts)


@pytest.mark.parametrize("source", FLOAT_TYPES)
def test_all_pairs_equal_the_twin(source):
    before = qn.isa()
    for to in FLOAT_TYPES:
        x = sample(source, to)
        for options in (
            {},
            {"overflow": "saturate"},
            {"rounding": "stochastic", "seed": SEED},
            {"rounding": "stochastic", "seed": 1, "overflow": "saturate"},
        ):
            want = testing.cast(x, to, **options)
            for isa in ROWS:
                qn.set_isa(isa)
                assert_same_bits(qn.cast(x, to, **options), want, f"{source} to {to} on {isa}, {options}")
    qn.set_isa(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("source", "to"), [("float32", "float8_e4m3fn"), ("float64", "bfloat16"), ("float16", "float64")]
)
def test_layouts(source, to, layout):
    rng = np.random.default_rng(0)
    for shape in [(), (0,), (7,), (3, 0, 2), (5, 70), (2, 3, 700)]:
        x = astype(rng.standard_normal(shape) * 100, source)
        view = LAYOUTS[layout](x) if shape else x
        for options in ({}, {"rounding": "stochastic", "seed": 5}):
            want = testing.cast(x, to, **options)
            assert_same_bits(qn.cast(view, to, **options), want, f"{layout} {shape}")
            out = np.empty(shape, FLOAT_TYPES[to].dtype)
            assert qn.cast(view, to, out=out, **options) is out
            assert_same_bits(out, want, f"{layout} {shape} out")


def test_the_memory_layout_is_kept():
    x = np.asfortranarray(np.ones((3, 5), np.float32))
    assert qn.cast(x, "float16").flags.f_contiguous
    assert qn.cast(x, "float16", rounding="stochastic", seed=0).flags.c_contiguous


def test_sizes(row):
    """Every tail of every vector length, at every alignment of the output, with and without a NaN in the way."""
    x = np.concatenate([hard("float8_e5m2"), hard("float8_e5m2")])[:200]
    for name in NARROW:
        float_type = FLOAT_TYPES[name]
        want, plain = bits(testing.cast(x, name)), qn.cast(np.nan_to_num(x), name)
        for n in range(150):
            memory = np.zeros(n + 3, float_type.dtype)
            qn.cast(x[:n], name, out=memory[1 : n + 1])
            assert np.array_equal(bits(memory)[1 : n + 1], want[:n])
            assert not bits(memory)[[0, n + 1]].any()
            assert np.array_equal(bits(qn.cast(np.nan_to_num(x[:n]), name)), bits(plain[:n]))


@pytest.mark.parametrize("shift", [0, 1])
def test_large_outputs_are_streamed_and_shared(row, shift):
    """By one thread and more, at any alignment; 2**24 elements are more than any threshold."""
    n = (1 << 24) + 5
    x = np.random.default_rng(0).standard_normal(n, np.float32)
    x[12345] = np.nan
    want = {name: astype(x[-5000:], FLOAT_TYPES[name].dtype) for name in ("float16", "float8_e4m3fn")}
    for name, tail in want.items():
        memory = np.empty(n + shift, FLOAT_TYPES[name].dtype)
        once = qn.cast(x, name)
        with qn.threads(3):
            more = qn.cast(x, name, out=memory[shift:])
        assert np.array_equal(bits(once), bits(more))
        assert_cast(once[-5000:], tail, name)
        assert np.array_equal(bits(qn.cast(x[:5000], name)), bits(once[:5000]))
        with qn.threads(3):
            back = np.empty(n + shift, np.float32)
            qn.cast(once, "float32", out=back[shift:])
        assert_cast(back[-5000:], astype(tail, np.float32), name)


# ---- overflow ----


@pytest.mark.parametrize("name", [name for name in NARROW if FLOAT_TYPES[name].kind != "SCALE"])
def test_saturate_is_a_clip(row, name):
    """As ONNX has it for float8: infinities become the largest number, NaN stays."""
    float_type = FLOAT_TYPES[name]
    x = dense_sample(name)[::3]
    clipped = np.clip(x, np.float32(-float_type.largest), np.float32(float_type.largest))
    assert_cast(qn.cast(x, name, overflow="saturate"), astype(clipped, float_type.dtype), name)


def test_scales_saturate_between_the_smallest_and_the_largest():
    x = np.array([0.0, -0.0, 1e-45, 2.0**-127, 1.0, 1.4, 1.5, 3e38, np.inf, np.nan, -1.0, -np.inf], np.float32)
    smallest, largest, nan = 0x00, 0xFE, 0xFF
    want = [smallest, smallest, smallest, smallest, 0x7F, 0x7F, 0x80, largest, largest, nan, nan, nan]
    assert bits(qn.cast(x, "float8_e8m0fnu", overflow="saturate")).tolist() == want
    want = [nan, nan, smallest, smallest, 0x7F, 0x7F, 0x80, nan, nan, nan, nan, nan]
    assert bits(qn.cast(x, "float8_e8m0fnu")).tolist() == want


@pytest.mark.parametrize("name", [name for name in FLOAT_TYPES if name != "float64"])
def test_raise_takes_what_fits(name):
    float_type = FLOAT_TYPES[name]
    x = np.array([np.nextafter(float_type.overflow, 0), float_type.largest, float_type.smallest_subnormal, 1.0])
    assert_same_bits(qn.cast(x, name, overflow="raise"), testing.cast(x, name))
    beyond = [float_type.overflow] + [np.inf] * (not float_type.has_infinity) + [np.nan] * (not float_type.has_nan)
    for bad in [*beyond, *([0.0, -1.0] if float_type.kind == "SCALE" else [-float_type.overflow])]:
        out = np.ones((2, 4), float_type.dtype)
        with pytest.raises(OverflowError) as error:
            qn.cast(np.array([x, [1.0, bad, 1.0, bad]]), name, overflow="raise", out=out)
        assert str(error.value) == (
            f'cast: x must be in the range of {name} when overflow is "raise"; '
            f"got 2 of 8 outside it, the first {float(bad)!r} at index (1, 1)."
        )
        assert (out == 1).all()
    kept = [np.inf, -np.inf] * float_type.has_infinity + [np.nan] * float_type.has_nan
    qn.cast(np.array([1.0, *kept]), name, overflow="raise")


# ---- stochastic rounding ----


def test_the_generator_is_philox():
    """Known answer of Random123 for key and counter 0: words 6627e8d5 e169c58d bc57ac4c 9b00dbd8, 16 elements apart.

    bfloat16 drops 16 bits; the fraction and the upper half of the word carry together or not.
    """
    for at, word in zip(range(0, 64, 16), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], strict=True):
        for short in (0, 1):
            fraction = 0x10000 - (word >> 16) - short
            x = np.full(64, 1 + fraction * 2.0**-23, np.float32)
            up = bits(qn.cast(x, "bfloat16", rounding="stochastic", seed=0)) > 0x3F80
            assert up[at] == (not short)


@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("name", NARROW)
def test_the_mean_is_the_value(name, source):
    """n draws with probability p of one quantum: the mean is within 5 standard deviations, 5 sqrt(p (1 - p) / n)."""
    float_type, n = FLOAT_TYPES[name], 1 << 14
    for p in (0.03, 1 / 3, 0.5, 0.9):
        for base in (1.0, float_type.smallest_normal / 2 if float_type.bits < 16 and float_type.mantissa_bits else 2.0):
            quantum = max(base * float_type.epsilon, float_type.smallest_subnormal)
            x = np.full(n, base + p * quantum, source)
            y = qn.cast(x, name, rounding="stochastic", seed=7).astype(np.float64)
            assert set(np.unique(y)) == {base, base + quantum}
            mean = (y.mean() - base) / quantum
            assert abs(mean - (float(x[0]) - base) / quantum) < 5 * np.sqrt(p * (1 - p) / n), (name, base, p)


@pytest.mark.parametrize("name", [name for name in FLOAT_TYPES if name != "float64"])
def test_what_overflows_does_not_depend_on_chance(row, name):
    """Just below where overflow begins the nearest number is the largest, whatever is drawn."""
    float_type = FLOAT_TYPES[name]
    x = np.full(300, np.nextafter(float_type.overflow, 0))
    x[::2] *= -1 if float_type.kind != "SCALE" else 1
    for seed in range(20):
        for overflow in ("inf", "saturate", "raise"):
            y = qn.cast(x, name, rounding="stochastic", seed=seed, overflow=overflow)
            np.testing.assert_array_equal(
                y.astype(np.float64), np.copysign(float_type.largest, x), f"{seed} {overflow}"
            )
        assert_same_bits(qn.cast(x, name, rounding="stochastic", seed=seed), testing.cast(x, name), f"{seed}")


@pytest.mark.parametrize("name", NARROW)
def test_numbers_of_the_format_stay(row, name):
    for wide in ("float32", "float64"):
        x = qn.cast(codes(name), wide)
        assert_same_bits(qn.cast(x, name, rounding="stochastic", seed=3), qn.cast(x, name), name)


def test_the_bits_belong_to_the_element():
    """The same for a part of the array, for another thread count, not for another seed."""
    x = np.random.default_rng(0).standard_normal(1 << 19, np.float32)

    def cast(x, seed=9):
        return bits(qn.cast(x, "float8_e4m3fn", rounding="stochastic", seed=seed))

    whole = cast(x)
    assert np.array_equal(cast(x[:1001]), whole[:1001])
    assert np.array_equal(cast(x.reshape(1 << 9, -1).T.copy().T), whole.reshape(1 << 9, -1))
    with qn.threads(3):
        assert np.array_equal(cast(x), whole)
    other = cast(x, 10)
    inexact = bits(qn.cast(qn.cast(x, "float8_e4m3fn"), "float32")) != bits(x)
    assert 0.2 < (other != whole)[inexact].mean() < 0.5  # 2 p (1 - p), a third for p evenly spread
    assert not np.array_equal(cast(x, 9 + (1 << 32)), whole)


# ---- NumPy's own tests of half precision ----


class Through(ast.NodeTransformer):
    """x.astype(t) and np.array(x, dtype=t) as casts of ours, where both types are real."""

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr == "astype" and len(node.args) == 1:
            return ast.Call(ast.Name("through", ast.Load()), [called.value, node.args[0]], [])
        if ast.unparse(called) == "np.array" and [word.arg for word in node.keywords] == ["dtype"]:
            return ast.Call(ast.Name("through", ast.Load()), [node.args[0], node.keywords[0].value], [])
        return node


def half_tests():
    half = pytest.importorskip("numpy._core.tests.test_half")
    passed_through = []

    def through(x, dtype):
        x = np.asarray(x)
        if x.dtype.name in ("float16", "float32", "float64") and np.dtype(dtype).name in FLOAT_TYPES:
            passed_through.append(x.size)
            return qn.cast(x, dtype)
        return np.array(x, dtype=dtype)

    tree = ast.fix_missing_locations(Through().visit(ast.parse(inspect.getsource(half))))
    names = {"through": through, "__name__": "test_half"}
    exec(compile(tree, half.__file__, "exec"), names)
    tests = names["TestHalf"]()
    getattr(tests, "setup_method", lambda: None)()  # of NumPy 2.0
    return tests, passed_through


HALF_TESTS = {
    "test_half_conversions": [{}],
    "test_half_conversion_rounding": [
        {"float_t": float_t, "shift": shift, "offset": offset}
        for float_t in (np.float32, np.float64)
        for shift in (None, "up", "down")
        for offset in (None, "up", "down")
    ],
    "test_half_conversion_denormal_round_even": [
        {"float_t": np.float32, "uint_t": np.uint32, "bits": 23},
        {"float_t": np.float64, "uint_t": np.uint64, "bits": 52},
    ],
    "test_half_rounding": [{}],
    "test_half_correctness": [{}],
    "test_nans_infs": [{}],
}


@pytest.mark.parametrize("name", HALF_TESTS)
def test_numpys_half_tests(row, name):
    tests, passed_through = half_tests()
    for arguments in HALF_TESTS[name]:
        getattr(tests, name)(**arguments)
    assert passed_through


def seed_rows():
    def cast(seed, rounding="stochastic"):
        return qn.cast(X, "float16", rounding=rounding, seed=seed)

    yield lambda: cast(None), ValueError, 'cast: seed must be given when rounding is "stochastic"; got None'
    yield lambda: cast(3, "nearest"), ValueError, 'cast: seed must be None unless rounding is "stochastic"; got 3'
    for value in (1.0, "1", True, [1]):
        yield lambda v=value: cast(v), TypeError, f"cast: seed must be an integer; got {value!r}"
    for value in (-1, 2**64):
        yield lambda v=value: cast(v), ValueError, f"cast: seed must be in [0, 2**64 - 1]; got {value}"


@refusals(seed_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)


# ---- Python integers ----


def rounded(number, mantissa_bits):
    """A positive integer rounded half to even to a mantissa, in integers."""
    shift = max(number.bit_length() - mantissa_bits - 1, 0)
    kept, rest = number >> shift, number & ((1 << shift) - 1)
    half = (1 << shift) >> 1
    return (kept + (rest > half or (rest == half and shift > 0 and kept & 1))) << shift


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_integers_beyond_float64_are_rounded_once(name):
    rng = np.random.default_rng(0)
    kind = FLOAT_TYPES[name]
    numbers = [2**60 + 2**52 + 1, 2**60 + 2**52, 2**60 + 2**52 - 1, 2**63 - 1, 2**64 - 1, 2**53 + 1, 2**70 + 2**62 + 1]
    for bits in range(54, 90):
        ties = (1 << bits) + (1 << (bits - kind.mantissa_bits - 1))  # halfway between two numbers of the type
        numbers += [ties + d for d in (-1, 0, 1)] + [int(rng.integers(2**40)) << (bits - 40) | 1]
    want = [float(rounded(number, kind.mantissa_bits)) for number in numbers]
    for sign in (1, -1):
        got = qn.cast([sign * number for number in numbers], name)
        assert got.dtype == kind.dtype
        assert got.astype(np.float64).tolist() == [sign * value for value in want]
    small = [number for number in numbers if number < 2**63]
    assert qn.cast(small, name).astype(np.float64).tolist() == want[: len(small)] or small != numbers[: len(small)]
    assert [float(qn.cast(number, name)) for number in numbers] == want
    assert qn.cast([*numbers, 0.5], name).astype(np.float64).tolist() == [*want, 0.5]


def test_integers_overflow_as_floats_do():
    big = [2**128 - 1, 10**300, -(10**300)]
    assert qn.cast(big, "float32").tolist() == [np.inf, np.inf, -np.inf]
    assert qn.cast(big, "bfloat16", overflow="saturate").astype(float).tolist() == [
        float(FLOAT_TYPES["bfloat16"].largest) * sign for sign in (1, 1, -1)
    ]
    with pytest.raises(OverflowError):
        qn.cast(big, "float16", overflow="raise")
    with pytest.raises(ValueError, match=r"^cast: x must be in the range of float64; got an integer of 1329 bits\.$"):
        qn.cast([10**400], "float32")


@pytest.mark.parametrize("call", [qn.quantize, qn.min_max, qn.choose_qparams, lambda x: qn.cast(x, "float16")])
def test_integers_that_have_a_type_are_codes(call, tmp_path):
    """An integer array is refused in every disguise; a list of Python integers is real."""
    codes = np.arange(4, dtype=np.int8).reshape(2, 2)
    mapped = np.memmap(tmp_path / "codes", np.int8, "w+", shape=(2, 2))
    for x in (codes, mapped, codes.view(np.matrix), memoryview(codes), [np.int8(1)], [codes], codes[0, 0], list(codes)):
        with pytest.raises(TypeError, match="; got dtype int8"):
            call(x)
    call([[0, 1], [2, 3]])
    call(range(3))
    real = np.memmap(tmp_path / "reals", np.float32, "w+", shape=(2, 2))
    call(real)
    call(np.ones((2, 2)).view(np.matrix))
