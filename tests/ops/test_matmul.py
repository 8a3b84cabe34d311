"""matmul_integer against int64, on every row: types, sizes, layouts, zero points, threads."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from products import BYTES, KINDS, codes, exact
from refusals import MASK, Q, X, assert_refused, masked, refusals
from strategies import ROWS

import qnumpy as qn
from qnumpy.testing import matmul_integer as twin

BLOCKS = [127, 128, 129, 511, 513, 768, 770, 1023, 1025, 2047, 3073, 4095, 4097, 4100]  # ks around the blocks


@pytest.fixture(autouse=True)
def put_back():
    isa, threads = qn.isa(), qn.num_threads()
    yield
    qn.set_isa(isa)
    qn.set_num_threads(threads)


def zero_points(rng, dtype, length, axis):
    """None, one, or one for each row or column, the ends of the range among them; and how they broadcast."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    choice = rng.integers(4)
    if choice == 0:
        return None, 0
    if choice == 1:
        zero = int(rng.choice([low, high, 3]))
        return zero, zero
    zeros = rng.integers(low, high + 1, length)
    zeros[rng.random(length) < 0.3] = rng.choice([low, high])
    if length == 1:
        return zeros, zeros.item()
    shaped = np.expand_dims(zeros, axis)
    return (zeros if choice == 2 else shaped), shaped


LAYOUTS = {
    "C": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "strided": lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("left", "right"), list(product(BYTES, BYTES)))
def test_every_m_n_and_k_to_70(row, left, right):
    """Each length 0..70 of each axis, beside lengths of the others that walk through all residues."""
    qn.set_isa(row)
    rng = np.random.default_rng(7)
    layouts = list(LAYOUTS.values())
    for n in range(71):
        for shape in ((n, 13 * n % 71, 29 * n % 71), (31 * n % 71, n, 17 * n % 71), (19 * n % 71, 23 * n % 71, n)):
            kinds = rng.choice(KINDS, 2)
            a, b = codes(rng, left, shape[:2], kinds[0]), codes(rng, right, shape[1:], kinds[1])
            a_zero, a_shaped = zero_points(rng, left, shape[0], 1)
            b_zero, b_shaped = zero_points(rng, right, shape[2], 0)
            for_a, for_b = layouts[rng.integers(5)], layouts[rng.integers(5)]
            got = qn.matmul_integer(for_a(a), for_b(b), a_zero, b_zero)
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got, exact(a, b, a_shaped, b_shaped), f"{shape}")


@pytest.mark.parametrize("row", ROWS)
def test_around_the_blocks(row):
    qn.set_isa(row)
    rng = np.random.default_rng(8)
    for k in BLOCKS if row != "scalar" else BLOCKS[::3]:
        for m, n in ((1, 33), (4, 16), (17, 40), (49, 15), (67, 50), (300, 17)):
            left, right = rng.choice(BYTES, 2)
            kinds = rng.choice(KINDS, 2)
            a, b = codes(rng, left, (m, k), kinds[0]), codes(rng, right, (k, n), kinds[1])
            a_zero, a_shaped = zero_points(rng, left, m, 1)
            b_zero, b_shaped = zero_points(rng, right, n, 0)
            got = qn.matmul_integer(a, b, a_zero, b_zero)
            np.testing.assert_array_equal(got, exact(a, b, a_shaped, b_shaped), f"{m, k, n}")


@pytest.mark.parametrize("row", ROWS)
def test_few_rows_of_wide_matrices(row):
    """Streams and strips of a raw matrix in both orders, their ends, and rows whose zero points lie at both ends."""
    qn.set_isa(row)
    rng = np.random.default_rng(11)
    for m, k, n in (
        (1, 4099, 131),
        (2, 129, 200),
        (4, 4103, 67),
        (5, 257, 129),
        (17, 771, 70),
    ):
        for left, right in product(BYTES, BYTES):
            a, b = codes(rng, left, (m, k)), codes(rng, right, (k, n))
            ends = np.resize(np.iinfo(left).min + np.array([0, 255]), m)
            a[:, ::3], a[:, 1::3] = np.iinfo(left).min, np.iinfo(left).max
            for a_zero in (None, ends):
                want = exact(a, b, 0 if a_zero is None else ends[:, None])
                for layout in (b, np.asfortranarray(b)):
                    np.testing.assert_array_equal(qn.matmul_integer(a, layout, a_zero), want, str((m, k, n)))


@pytest.mark.parametrize("row", [row for row in ROWS if row != "scalar"])
def test_one_row_at_its_limits(row):
    """Constant extremes fill the int16 sums of parts; k and columns run over the blocks of a linear read."""
    qn.set_isa(row)
    rng = np.random.default_rng(12)
    for (k, n), left, right in product(((1, 1), (70, 49), (8210, 3), (16390, 2), (9, 16500)), BYTES, BYTES):
        for a_code, b_code in product((-128, -8, 7, 119, 120, 127), (-128, -1, 127)):
            a = np.full((1, k), a_code, np.int8).view(left)
            b = np.full((k, n), b_code, np.int8).view(right)
            b[:, -1] = codes(rng, right, (k,))
            want = exact(a, b)
            for layout in (b, np.asfortranarray(b)):
                np.testing.assert_array_equal(qn.matmul_integer(a, layout), want, str((k, n, a_code, b_code)))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("left", BYTES)
@pytest.mark.parametrize("right", BYTES)
def test_all_pairs_of_codes_in_all_places_of_a_quad(row, left, right):
    """65,536 pairs x 4 places, the other places at the extreme that a saturating kernel fails on."""
    qn.set_isa(row)
    every_a, every_b = (np.arange(256, dtype=np.uint8).view(t) for t in (left, right))
    for place in range(4):
        for others in (np.iinfo(left).min, np.iinfo(left).max):
            a, b = np.full((256, 4), others, left), np.full((4, 256), np.iinfo(right).max, right)
            a[:, place], b[place] = every_a, every_b
            np.testing.assert_array_equal(qn.matmul_integer(a, b), exact(a, b))


@pytest.mark.parametrize("row", ROWS)
def test_words(row):
    """16-bit operands: small ones whose sums fit, and full-range ones that raise exactly when a sum does not."""
    qn.set_isa(row)
    rng = np.random.default_rng(9)
    raised = 0
    types = ("int16", "int16"), ("int8", "int16"), ("int16", "int8"), ("uint8", "int16")
    for n, ((left, right), bound) in enumerate(product(types, [3, 200, 5000, 32768] * 4)):
        m, k, columns = rng.integers(1, 70), rng.integers(0, 300 if bound < 32768 else 5), rng.integers(1, 70)
        a, b = codes(rng, left, (m, k)), codes(rng, right, (k, columns))
        a, b = (x if x.dtype.itemsize == 1 else np.clip(x, -bound, bound - 1) for x in (a, b))
        if bound == 32768 and n % 3 == 0:
            a[:], b[:] = np.iinfo(left).min, np.iinfo(right).min
        zero = None if n % 2 else int(rng.integers(0, 100))
        want = exact(a, b, 0 if zero is None else zero)
        a = LAYOUTS[["C", "transposed", "reversed"][n % 3]](a.astype(a.dtype.newbyteorder(">" if n % 5 == 0 else "=")))
        if np.abs(want + 0.5).max(initial=0) < 2**31:
            np.testing.assert_array_equal(qn.matmul_integer(a, b, zero), want)
        else:
            raised += 1
            with pytest.raises(OverflowError):
                qn.matmul_integer(a, b, zero)
    assert raised


@pytest.mark.parametrize("row", ROWS)
def test_where_int32_ends(row):
    """One k too many raises; the last that fits is exact. Long sums that may not fit, but do, are exact too."""
    qn.set_isa(row)
    k = 131072  # x 128 x 128 = 2**31
    low, high = np.full((1, k), -128, np.int8), np.full((1, k), 127, np.int8)
    with pytest.raises(OverflowError, match=r"^matmul_integer: every sum must fit int32; got one outside it\."):
        qn.matmul_integer(low, low.T)
    assert qn.matmul_integer(low[:, :-1], low.T[:-1]) == 128 * 128 * (k - 1)
    assert qn.matmul_integer(high, low.T) == -127 * 128 * k
    bytes_ = np.full((1, 2 * k), 255, np.uint8)
    bytes_[:, ::2] = 0
    assert qn.matmul_integer(bytes_, bytes_.T, 255, 0) == 0  # all products are 0; no type says so
    signs = np.tile(np.array([-128, 127], np.int8), k)  # partial sums leave int32 in between, the whole does not
    ordered = np.sort(signs)[None, :]
    assert qn.matmul_integer(ordered, np.full((2 * k, 1), 127, np.int8)) == -127 * k
    rows = np.tile(low, (20, 1))
    with pytest.raises(OverflowError):
        qn.matmul_integer(rows, np.ones((k, 20), np.int8), 127, np.full(20, -127))


SHAPES = [((3, 4, 5), (5, 6)), ((2, 1, 4, 5), (3, 5, 6)), ((5,), (5,)), ((5,), (2, 5, 3)), ((2, 3, 5), (5,))]
SHAPES += [
    ((0, 4, 5), (5, 6)),
    ((7, 4, 5), (7, 5, 6)),
    ((1, 1, 5), (2, 5, 1)),
    ((3, 0, 5), (5, 2)),
    ((2, 3, 0), (0, 4)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_shapes_are_those_of_np_matmul(left, right):
    rng = np.random.default_rng(10)
    a, b = codes(rng, "uint8", left), codes(rng, "int8", right)
    want, got = twin(a, b), qn.matmul_integer(a, b)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)
    if got.ndim >= 2 and len(left) >= 2 <= len(right):
        shape = want.shape
        a_zero = rng.integers(0, 256, (*shape[:-1], 1))
        b_zero = rng.integers(-128, 128, (*shape[:-2], 1, shape[-1]))
        got = qn.matmul_integer(a, b, a_zero, b_zero)
        stacks = (np.broadcast_to(x, (*shape[:-2], *x.shape[-2:])) for x in (a, b))
        np.testing.assert_array_equal(got, twin(*stacks, a_zero, b_zero))
        out = np.full(shape, 77, np.int32)
        assert qn.matmul_integer(a, b, out=out) is out
        np.testing.assert_array_equal(out, want)


def test_threads_give_equal_bits():
    rng = np.random.default_rng(11)
    for m, k, n in ((1, 3000, 3000), (9, 2000, 1500), (200, 300, 700), (900, 400, 70), (130, 1300, 130)):
        a, b = codes(rng, "uint8", (m, k)), codes(rng, "int8", (k, n))
        zeros = rng.integers(0, 256, m), rng.integers(-128, 128, n)
        want = exact(a, b, zeros[0][:, None], zeros[1])
        for threads in (1, 2, 3, 8):
            with qn.threads(threads):
                np.testing.assert_array_equal(qn.matmul_integer(a, b, *zeros), want)
                np.testing.assert_array_equal(qn.matmul_integer(a, np.asfortranarray(b), *zeros), want)


def test_eight_python_threads_at_once():
    rng = np.random.default_rng(12)
    a, b = codes(rng, "int8", (150, 900)), codes(rng, "int8", (900, 400))
    want, wrong = exact(a, b), []

    def work():
        for _ in range(5):
            if not np.array_equal(qn.matmul_integer(a, b), want):
                wrong.append(1)

    with qn.threads(2):
        workers = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_another_row_is_chosen_meanwhile():
    """A product that has begun ends with the kernels of its row: others pack the left matrix in another way."""
    rng = np.random.default_rng(13)
    a, b = codes(rng, "int8", (100, 512)), codes(rng, "int8", (512, 1024))
    want = exact(a, b)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            product = pool.submit(qn.matmul_integer, a, b)
            while not product.done():
                for row in ROWS:
                    qn.set_isa(row)
            np.testing.assert_array_equal(product.result(), want)


def matmul_rows():
    """The operands, their shapes, their zero points, and a sum that does not fit."""
    me, b = "matmul_integer", Q.T
    integers = "an array of int8, uint8 or int16; got dtype"
    hint = ". Quantize it first, or multiply floats with qnumpy.matmul or np.matmul"
    for dtype in ("float32", "float16"):
        for name, call in (("a", lambda x: qn.matmul_integer(x, b)), ("b", lambda x: qn.matmul_integer(Q, x.T))):
            wrong = X.astype(dtype)
            yield lambda c=call, w=wrong: c(w), TypeError, f"{me}: {name} must be {integers} {dtype}{hint}"
    for dtype in ("int32", "uint16", "bool", "complex64"):
        yield lambda d=dtype: qn.matmul_integer(Q.astype(d), b), TypeError, f"{me}: a must be {integers} {dtype}"
    yield lambda: qn.matmul_integer(masked(Q), b), TypeError, f"{me}: a must be {MASK}"
    scalar = "must be of one dimension or more; got a 0-d array"
    yield lambda: qn.matmul_integer(Q, np.int8(1)), ValueError, f"{me}: b {scalar}"
    inner = f"{me}: b must be of as many rows as a has columns, 3; got shapes (2, 3) and"
    yield lambda: qn.matmul_integer(Q, Q), ValueError, f"{inner} (2, 3)"
    yield lambda: qn.matmul_integer(Q, Q[0, :2]), ValueError, f"{inner} (2,)"
    stacks = np.zeros((2, 2, 3), np.int8), np.zeros((3, 3, 2), np.int8)
    shapes = "must be of a shape that broadcasts with a; got shapes (2, 2, 3) and (3, 3, 2)"
    yield lambda: qn.matmul_integer(*stacks), ValueError, f"{me}: b {shapes}"
    for side, length in (("a", "2"), ("b", "2")):
        name = f"{side}_zero_point"
        last = f"(..., {length}, 1)" if side == "a" else f"(..., 1, {length})"
        for wrong in ((3,), (0,), (2, 2), (5, 2, 1), (2, 3)):
            want = f"{me}: {name} must be of shape () or ({length},) or {last}; got shape {wrong}"
            yield lambda n=name, w=wrong: qn.matmul_integer(Q, b, **{n: np.ones(w, np.int8)}), ValueError, want
        for value in (-129, 128, 2**40):
            want = f"{me}: {name} must be in [-128, 127]; got {value}"
            yield lambda n=name, v=value: qn.matmul_integer(Q, b, **{n: v}), ValueError, want
        want = f"{me}: {name} must be an integer; got dtype float64"
        yield lambda n=name: qn.matmul_integer(Q, b, **{n: 1.0}), TypeError, want
    out = f"{me}: out must be"
    wrong_type = f"{out} of dtype int32; got dtype int64"
    yield lambda: qn.matmul_integer(Q, b, out=np.zeros((2, 2), np.int64)), TypeError, wrong_type
    wrong_shape = f"{out} of shape (2, 2); got shape (2, 3)"
    yield lambda: qn.matmul_integer(Q, b, out=np.zeros((2, 3), np.int32)), ValueError, wrong_shape
    shared = np.zeros(4, np.int32)
    apart = f"{out} apart from the input in memory; got an array that overlaps it"
    yield (
        lambda: qn.matmul_integer(
            shared.view(np.int8).reshape(2, 8), np.ones((8, 2), np.int8), out=shared.reshape(2, 2)
        ),
        ValueError,
        apart,
    )
    long = np.full((1, 131072), -128, np.int8)
    sums = f"{me}: every sum must fit int32; got one outside it. Split K, and add the parts in int64"
    yield lambda: qn.matmul_integer(long, long.T), OverflowError, sums


@refusals(matmul_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
