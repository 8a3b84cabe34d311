"""matmul: each low-precision type in its accumulator."""

import ml_dtypes
import numpy as np
import pytest
from strategies import LAYOUTS, assert_same_bits

import qnumpy as qn

BF16 = ml_dtypes.bfloat16
SHAPES = [
    ((3, 5), (5, 4)),
    ((5,), (5, 4)),
    ((3, 5), (5,)),
    ((5,), (5,)),
    ((2, 3, 5), (5, 4)),
    ((2, 1, 3, 5), (4, 5, 6)),
]
SHAPES += [((0, 5), (5, 4)), ((3, 0), (0, 4)), ((0, 3, 5), (5, 4))]


def reals(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("left", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("right", ["int8", "uint8", "int16"])
def test_integers_are_exact(left, right):
    rng = np.random.default_rng(1)
    for a_shape, b_shape in SHAPES:
        a, b = rng.integers(0, 128, a_shape).astype(left), rng.integers(0, 128, b_shape).astype(right)
        assert_same_bits(np.asarray(qn.matmul(a, b)), np.asarray(a.astype(np.int64) @ b).astype(np.int32))


def test_float16_in_float16_rounds_every_step():
    """Exact sums in float64, each rounded once."""
    for a_shape, b_shape in SHAPES:
        a, b = reals(a_shape, np.float16), reals(b_shape, np.float16)
        left, right = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
        acc = np.zeros(np.matmul(left, right).shape, np.float16)
        for k in range(left.shape[-1]):
            exact = left[..., :, k, None].astype(np.float64) * right[..., None, k, :] + acc
            acc = exact.astype(np.float16)  # sums of 22-bit products and a float16 of this size: exact in float64
        want = acc if a.ndim > 1 else acc[..., 0, :]
        want = want if b.ndim > 1 else want[..., 0]
        for accumulate in (None, "float16", np.float16):
            assert_same_bits(np.asarray(qn.matmul(a, b, accumulate=accumulate)), np.asarray(want))


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_in_float32(dtype):
    """Within K 2^-24 (|a| @ |b|) of the exact product; the last shapes go in several blocks of rows and columns."""
    for a_shape, b_shape in [*SHAPES, ((20, 300_000), (300_000, 15))]:
        a, b = reals(a_shape, dtype), reals(b_shape, dtype)
        got = qn.matmul(a, b, accumulate="float32")
        wide = [each.astype(np.float64) for each in (a, b)]
        assert got.dtype == np.float32
        assert got.shape == np.matmul(*wide).shape
        bound = 1.001 * a.shape[-1] * 2.0**-24 * np.matmul(*map(np.abs, wide))
        assert (np.abs(got - np.matmul(*wide)) <= bound).all()


def test_the_accumulator_by_default():
    ones = np.ones((1, 4096), np.float32)
    for dtype, total, accumulator in (
        (np.float16, 2048, np.float16), (BF16, 4096, np.float32), (np.int8, 4096, np.int32), (np.int16, 4096, np.int32)
    ):  # fmt: skip
        got = qn.matmul(ones.astype(dtype), ones.T.astype(dtype))
        assert (got.dtype, got.item()) == (np.dtype(accumulator), total)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, BF16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    a, b = (10 * reals((6, 7), np.float32)).astype(dtype), (10 * reals((7, 8), np.float32)).astype(dtype)
    if dtype is BF16 and layout == "big-endian":
        pytest.skip("ml_dtypes has no other byte order")
    assert_same_bits(qn.matmul(LAYOUTS[layout](a), LAYOUTS[layout](b)), qn.matmul(a, b))


H, B, I = (np.ones((2, 2), dtype) for dtype in (np.float16, BF16, np.int8))  # noqa: E741


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.ones((2, 2)), H), {}, TypeError,
         "a must be an array of int8, uint8, int16, float16 or bfloat16; got dtype float64. Use a @ b."),
        ((I, np.ones((2, 2), np.int32)), {}, TypeError,
         "b must be an array of int8, uint8, int16, float16 or bfloat16; got dtype int32."),
        ((H, B), {}, TypeError, "b must be of float16 like a; got dtype bfloat16."),
        ((I, H), {}, TypeError, "b must be integers like a; got dtype float16."),
        ((np.float16(1), H), {}, ValueError, "a must be of one dimension or more; got a 0-d array."),
        ((B, B), {"accumulate": "float16"}, TypeError, "accumulate must be float32 for bfloat16; got 'float16'."),
        ((H, H), {"accumulate": "float64"}, TypeError,
         "accumulate must be float16 or float32 for float16; got 'float64'."),
        ((I, I), {"accumulate": "nonsense"}, TypeError, "accumulate must be int32 for int8; got 'nonsense'."),
        ((B, B[:1]), {}, ValueError,
         "a and b must be of shapes (..., M, K) and (..., K, N); got shapes (2, 2) and (1, 2)."),
        ((np.ones((2, 2, 2), BF16), np.ones((3, 2, 2), BF16)), {}, ValueError,
         "a and b must be of shapes (..., M, K) and (..., K, N); got shapes (2, 2, 2) and (3, 2, 2)."),
    ],
)  # fmt: skip
def test_errors(arguments, options, error, message):
    with pytest.raises(error) as caught:
        qn.matmul(*arguments, **options)
    assert str(caught.value) == f"matmul: {message}"
