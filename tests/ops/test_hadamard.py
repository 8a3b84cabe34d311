"""The transform against the matrix by definition, and bit for bit against the same additions in NumPy."""

import json
import pickle

import numpy as np
import pytest
from refusals import read_only
from strategies import SOURCES, big_endian, f_order, reversed_, strided

import qnumpy as qn
from qnumpy.ops.hadamard import Hadamard
from qnumpy.testing import hadamard as twin

SIZES = [2, 4, 6, 8, 12, 16, 20, 24, 32, 36, 40, 48, 60, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 1024, 1536]
SIZES += [5120, 11008, 14, 4096, 8192]


def orders_of(size):
    """Block and order by the rule: the largest of 2^k, 12 * 2^k, 20 * 2^k that divides the size."""
    blocks = [(order * 2**k, order) for order in (1, 12, 20) for k in range(20) if size % (order * 2**k) == 0]
    return max(blocks)


def by_twin(h, x, *, inverse=False):
    block, order = orders_of(h.size)
    factors = twin.signs(h.size, h.seed) * np.float32(1 / np.sqrt(block))
    return twin.transform_rows(np.asarray(x, np.float32), block, order, factors, inverse)


def assert_same(got, want):
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    assert np.array_equal(got.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("size", SIZES)
def test_every_isa_row_gives_the_bits_of_the_twin(row, size):
    rng = np.random.default_rng(size)
    x = (rng.normal(size=(5, size)) * 10.0 ** rng.integers(-30, 30, (5, 1))).astype(np.float32)
    for seed in (0, None, 2**64 - 1):
        h = Hadamard(size, seed)
        assert h.block == orders_of(size)[0]
        assert_same(h.apply(x), by_twin(h, x))
        assert_same(h.inverse(x), by_twin(h, x, inverse=True))


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 64])
def test_the_matrices_are_symmetric_and_orthogonal(order):
    h = twin.matrix(order)
    assert np.array_equal(h, h.T)
    assert np.array_equal(h @ h, order * np.eye(order))
    assert set(np.unique(h)) <= {1, -1}


@pytest.mark.parametrize("size", [2, 12, 20, 24, 40, 48, 64, 96, 160, 384, 60, 36, 14])
def test_the_matrix_is_the_kronecker_product_of_the_definitions(row, size):
    h = Hadamard(size, seed=3)
    block, order = orders_of(size)
    whole = np.kron(np.eye(size // block, dtype=int), np.kron(twin.matrix(order), twin.matrix(block // order)))
    expected = twin.signs(size, 3)[:, None] * whole
    matrix = h.matrix()
    assert np.array_equal(np.sign(matrix), expected)
    assert np.array_equal(np.unique(np.abs(matrix[matrix != 0])), [np.float32(1 / np.sqrt(block))])
    wide = matrix.astype(np.float64)  # twice the rounding of an element, 2^-24, and its square
    np.testing.assert_allclose(wide @ wide.T, np.eye(size), rtol=0, atol=2.1 * 2.0**-24)


@pytest.mark.parametrize("size", [2, 8, 64, 384, 640, 1536, 4096, 5120, 11008])
def test_the_error_is_within_its_bound(row, size):
    """The bound of the docstring, for the transform and for the round trip; measured it is a tenth of it."""
    rng = np.random.default_rng(1)
    h, x = Hadamard(size), rng.standard_t(2, size=(20, size)).astype(np.float32)
    block, order = orders_of(size)
    wide = (x * twin.signs(size, 0)).astype(np.float64).reshape(20, -1, order, block // order)
    inner, outer = twin.matrix(block // order), twin.matrix(order)
    exact = (np.einsum("ab,ncbi->ncai", outer, wide) @ inner).reshape(20, -1, block) / np.sqrt(block)
    y = h.apply(x)
    norm = np.linalg.norm(x.reshape(20, -1, block), axis=-1)
    bound = (np.log2(block) + 30) * 2.0**-24 * norm
    assert (np.linalg.norm(y.reshape(exact.shape) - exact, axis=-1) <= bound).all()
    back = (h.inverse(y) - x).reshape(exact.shape)
    assert (np.linalg.norm(back, axis=-1) <= 2 * bound).all()


def test_integers_of_blocks_of_a_power_of_four_come_back_exactly(row):
    x = np.random.default_rng(2).integers(-1000, 1000, (3, 1024)).astype(np.float32)
    h = Hadamard(1024, seed=9)
    assert np.array_equal(h.inverse(h.apply(x)), x)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("layout", [np.ascontiguousarray, f_order, strided, reversed_, big_endian, read_only])
def test_every_type_and_layout(source, layout):
    x = np.random.default_rng(3).normal(size=(3, 4, 2064)).astype(SOURCES[source])
    h = Hadamard(2064)
    if layout is big_endian and source == "bfloat16":
        pytest.skip("ml_dtypes has one byte order")
    laid = layout(x)
    before = laid.copy()
    assert_same(h.apply(laid), by_twin(h, x.astype(np.float32)))
    assert_same(h.inverse(laid), by_twin(h, x.astype(np.float32), inverse=True))
    assert np.array_equal(laid, before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    x = np.random.default_rng(4).normal(size=(700, 384)).astype(np.float32)
    h = Hadamard(384)
    with qn.threads(threads):
        assert_same(h.apply(x), by_twin(h, x))


def test_blocks_with_nan_and_infinities_are_not_finite(row):
    h = Hadamard(3 * 64 * 11)  # eleven blocks of 192
    assert (h.block, h.size) == (192, 2112)
    x = np.random.default_rng(5).normal(size=(2, 2112)).astype(np.float32)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        y = x.copy()
        y[1, 200] = bad
        got = h.apply(y)
        assert not np.isfinite(got[1, 192:384]).any()
        assert_same(got, by_twin(h, y))
        got[1, 192:384] = h.apply(x)[1, 192:384]
        assert_same(got, h.apply(x))
    most = np.full((1, 2112), np.finfo(np.float32).max, np.float32)
    assert_same(h.apply(most), by_twin(h, most))  # sums overflow
    assert_same(h.apply(most * 1e-38 * 1e-10), by_twin(h, most * 1e-38 * 1e-10))


def test_empty_and_out():
    h = Hadamard(24)
    assert h.apply(np.ones((0, 24))).shape == (0, 24)
    assert h.apply(np.ones((3, 0, 24), np.float16)).shape == (3, 0, 24)
    x, out = np.arange(48.0).reshape(2, 24), np.empty((2, 24), np.float32)
    assert h.apply(x, out=out) is out
    assert_same(out, by_twin(h, x))
    assert h.apply([1.0] * 24).shape == (24,)
    for wrong, error in ((np.empty((2, 24)), TypeError), (np.empty((24, 2), np.float32), ValueError)):
        with pytest.raises(error, match=r"^Hadamard\.apply: out must be "):
            h.apply(x, out=wrong)
    same = np.ones((2, 24), np.float32)
    with pytest.raises(
        ValueError, match=r"^Hadamard\.inverse: out must be apart from the input in memory; got an array"
    ):
        h.inverse(same, out=same)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_rotated_weights_multiply_transformed_inputs(axis):
    rng = np.random.default_rng(6)
    x, w = rng.normal(size=(7, 40)), rng.normal(size=(40, 9))
    h = Hadamard(40, seed=1)
    weight = w if axis % 2 == 0 else np.ascontiguousarray(w.T)
    before = weight.copy()
    rotated = h.rotate(weight, axis=axis)
    assert rotated.shape == weight.shape
    assert rotated.flags.c_contiguous
    assert np.array_equal(weight, before)
    product = h.apply(x) @ (rotated if axis % 2 == 0 else rotated.T)
    np.testing.assert_allclose(product, x @ w, atol=2e-5)


def test_values_and_their_forms():
    h = Hadamard(384, 7)
    assert repr(h) == "Hadamard(384, seed=7)"
    assert repr(Hadamard(11008, None)) == "Hadamard(11008, seed=None, 43 blocks of 256)"
    assert h == Hadamard(384, 7)
    assert hash(h) == hash(Hadamard(384, 7))
    assert h != Hadamard(384)
    assert h != Hadamard(768, 7)
    assert h != 7
    again = pickle.loads(pickle.dumps(h))
    assert again == h
    assert np.array_equal(again.matrix(), h.matrix())
    assert Hadamard.from_dict(json.loads(json.dumps(h.to_dict()))) == h
    with pytest.raises(AttributeError, match=r"^Hadamard: a Hadamard must stay as it is; got a new value of size\.$"):
        h.size = 3


def test_seeds_are_fixed_forever():
    """Files hold the seed alone: its signs must not change."""
    assert np.sign(Hadamard(16).matrix()[:, 0]).tolist() == twin.signs(16, 0).tolist()
    assert "".join("+-"[int(s < 0)] for s in twin.signs(32, 12345)) == SIGNS


SIGNS = "++++-++++-++---+---+++++++++++--"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Hadamard(1.5), TypeError, "Hadamard: size must be an integer; got 1.5."),
        (lambda: Hadamard(7), ValueError, "Hadamard: size must be even, in [2, 2**31); got 7."),
        (lambda: Hadamard(0), ValueError, "Hadamard: size must be even, in [2, 2**31); got 0."),
        (lambda: Hadamard(8, "a"), TypeError, "Hadamard: seed must be an integer; got 'a'."),
        (lambda: Hadamard(8, -1), ValueError, "Hadamard: seed must be in [0, 2**64), or None; got -1."),
        (lambda: Hadamard(8).apply(np.ones((8, 3))), ValueError,
         "Hadamard.apply: x must be of shape (..., 8); got shape (8, 3)."),
        (lambda: Hadamard(8).apply(1.0), ValueError, "Hadamard.apply: x must be of shape (..., 8); got shape ()."),
        (lambda: Hadamard(8).inverse(np.ones(8, int)), TypeError,
         "Hadamard.inverse: x must be an array of float32, float64, float16 or bfloat16; got dtype int64."),
        (lambda: Hadamard(8).rotate(np.ones((3, 8))), ValueError,
         "Hadamard.rotate: w must be of length 8 on axis 0; got shape (3, 8)."),
        (lambda: Hadamard(8).rotate(np.ones((3, 8)), axis=2), ValueError, "Hadamard.rotate: axis must be "),
        (lambda: Hadamard.from_dict({"size": 8}), TypeError,
         "Hadamard.from_dict: values must be what Hadamard.to_dict returns; got {'size': 8}."),
        (lambda: Hadamard.from_dict({"size": 9, "seed": 0}), ValueError,
         "Hadamard.from_dict: size must be even, in [2, 2**31); got 9."),
    ],
)  # fmt: skip
def test_refusals(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(text)
