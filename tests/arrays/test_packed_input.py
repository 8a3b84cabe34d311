"""How x comes to a PackedWeight: by the operators, by NumPy's functions, as other libraries' arrays."""

import numpy as np
import pytest

import qnumpy as qn

F32 = np.float32
W = np.random.default_rng(6).standard_normal((8, 5)).astype(F32)
X = np.random.default_rng(7).standard_normal((3, 8)).astype(F32)
P = qn.PackedWeight(qn.quantize(W))


def test_matmul_of_numpy_is_the_operator():
    want = X @ P
    np.testing.assert_array_equal(np.matmul(X, P), want)
    out = np.empty_like(want)
    assert np.matmul(X, P, out=out) is out
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(X.tolist() @ P, want)
    np.testing.assert_array_equal([[1, 2, 3, 4, 5, 6, 7, 8]] @ P, np.arange(1, 9, dtype=F32)[None] @ P)


AN_ARRAY = (
    "PackedWeight: the operand of a NumPy function must be an array; got a PackedWeight. Use np.asarray(x) @ packed "
    "(x.toarray() if x is sparse), or packed.unpack().dequantize()."
)
REALS = "PackedWeight.matmul: x must be an array of float32, float64, float16 or bfloat16; got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: P @ X, "PackedWeight: the left operand of @ must be x; got the weight. Write x @ packed."),
        (lambda: np.matmul(P, X), "PackedWeight: the left operand of @ must be x; got the weight. Write x @ packed."),
        (lambda: np.add(X, P), "np.add: every operand must be an array; got a PackedWeight. Use x @ packed, or "
                               "packed.unpack().dequantize() for the reals."),
        (lambda: X * P, "np.multiply: every operand must be an array; got a PackedWeight. Use x @ packed, or "
                        "packed.unpack().dequantize() for the reals."),
        (lambda: np.matmul(X, P, dtype=np.float64),
         "np.matmul: every option but out must be left out for a PackedWeight; got dtype."),
        (lambda: np.asarray(P), AN_ARRAY),
        (lambda: np.array([P]), AN_ARRAY),
        (lambda: np.dot(X, P), AN_ARRAY),
        (lambda: np.ones((3, 8), np.int8) @ P, "PackedWeight.matmul: x must be an array of floats or a QuantizedArray; "
                                               "got dtype int8. Use matmul_integer for plain codes."),
        (lambda: P.matmul(None), REALS + "None."),
        (lambda: np.ma.masked_less(X, 0) @ P, "PackedWeight.matmul: x must be an array without a mask; got a "
                                              "MaskedArray. Use x.filled(...) first."),
        (lambda: X.astype(complex) @ P, REALS + "dtype complex128."),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


def test_in_place():
    x = np.ones((3, 5), F32)
    with pytest.raises(ValueError, match=r"^PackedWeight\.matmul: out must be "):
        x @= qn.PackedWeight(qn.quantize(np.eye(5)))


def test_a_sparse_matrix():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"x\.toarray\(\) if x is sparse"):
        sparse.csr_array(X) @ P


def test_a_tensor():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(torch.tensor(X) @ P, X @ P)


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X)
    np.testing.assert_array_equal(P.matmul(frame), X @ P)
    with pytest.raises(TypeError, match=r"Use np\.asarray\(x\) @ packed"):
        frame @ P
