"""quantize_gguf: layers whose inputs differ in size, moments of every kind, and what it refuses."""

import ml_dtypes
import numpy as np
import pytest
from layers import noise
from refusals import assert_refused, refusals

import qnumpy as qn
from qnumpy.ops.gguf import GGUF_TYPES

ALL = pytest.mark.parametrize("name", GGUF_TYPES)
W = noise(4, 256)


@ALL
def test_moments_lower_the_error_of_the_outputs(name):
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(size=256))  # of the inputs, which are independent
    x, w = rng.normal(size=(2000, 256)) * size, noise(64, 256, seed=1)
    moments = qn.MomentsObserver().observe(x)
    errors = []
    for given in (None, moments):
        y = qn.weights.quantize_gguf(w, name, moments=given).dequantize()
        errors.append(np.square(x @ (y - w).T.astype(np.float64)).sum())
    assert errors[1] < 0.9 * errors[0]


def test_every_form_of_moments():
    x = np.random.default_rng(0).normal(size=(500, 256)) * np.linspace(0.1, 3, 256)
    observer = qn.MomentsObserver().observe(x)
    matrix = observer.covariance(centered=False)
    expected = qn.weights.quantize_gguf(W, "Q4_K", moments=observer)
    for same in (matrix, observer.diagonal, list(observer.diagonal), observer.diagonal * 2.0**70):
        assert qn.weights.quantize_gguf(W, "Q4_K", moments=same) == expected
    assert qn.weights.quantize_gguf(W, "Q4_K") != expected
    assert qn.weights.quantize_gguf(W, "Q4_K", moments=np.full(256, 1e300)) == qn.weights.quantize_gguf(W, "Q4_K")


@ALL
def test_layouts_and_types_of_the_weight(name):
    expected = qn.weights.quantize_gguf(W, name)
    assert (expected.type, expected.shape) == (name, W.shape)
    wide = np.empty((4, 512), np.float32)
    wide[:, ::2] = W
    read_only = W.copy()
    read_only.flags.writeable = False
    for same in (W.astype(np.float64), W.astype(">f4"), np.asfortranarray(W), wide[:, ::2], read_only):
        before = same.copy()
        assert qn.weights.quantize_gguf(same, name.lower()) == expected
        np.testing.assert_array_equal(same, before)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = W.astype(dtype)
        assert qn.weights.quantize_gguf(half, name) == qn.weights.quantize_gguf(half.astype(np.float32), name)
    cube = qn.weights.quantize_gguf(np.stack([W, W[::-1]]), name)
    assert cube.shape == (2, 4, 256)
    np.testing.assert_array_equal(cube.data[0], expected.data)
    np.testing.assert_array_equal(cube.data[1], expected.data[::-1])
    assert qn.weights.quantize_gguf(W[0], name).data.tobytes() == expected.data[0].tobytes()


@ALL
def test_empty(name):
    assert qn.weights.quantize_gguf(np.zeros((0, 256), np.float32), name).shape == (0, 256)
    assert qn.weights.quantize_gguf(np.zeros((3, 0), np.float32), name, moments=np.zeros(0)).shape == (3, 0)


def spoiled(value):
    w = np.zeros((2, 256))
    w[1, 3] = value
    return w


NAMES = "'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q2_K', 'Q3_K', 'Q4_K', 'Q5_K' or 'Q6_K'"


def rows():
    def case(w, type, exception, message, **moments):
        return lambda: qn.weights.quantize_gguf(w, type, **moments), exception, f"quantize_gguf: {message}"

    yield case(W.astype(int), "Q4_K", TypeError,
               "w must be an array of float32, float64, float16 or bfloat16; got dtype int64")  # fmt: skip
    yield case(W, "Q9", ValueError, f"type must be {NAMES}; got 'Q9'")
    yield case(W, None, ValueError, f"type must be {NAMES}; got None")
    for shape, type, size in (((2, 100), "Q4_K", 256), ((), "Q4_0", 32), ((33,), "Q8_0", 32)):
        message = f"w must be of a last axis that is a multiple of {size} for {type}; got shape {shape}"
        yield case(np.zeros(shape), type, ValueError, message)
    for value, text in ((np.nan, "nan"), (np.inf, "inf"), (-7e4, "-70000"), (1e300, "1e+300")):
        yield case(spoiled(value), "Q4_K", ValueError, f"w must be finite, of magnitudes up to 65504; got {text}")
    for shape in ((3,), (256, 3), ()):
        message = f"moments must be of shape (256,) or (256, 256); got shape {shape}"
        yield case(W, "Q4_K", ValueError, message, moments=np.zeros(shape))
    for value, text in ((-1, "-1"), (np.nan, "nan"), (np.inf, "inf")):
        message = f"moments must be finite and not negative; got {text}"
        yield case(W, "Q4_K", ValueError, message, moments=np.full(256, value))
    yield case(W, "Q4_K", TypeError, "moments must be real; got 'a'", moments="a")
    yield case(W, "Q4_K", qn.CalibrationError, "moments must be of one finite row or more; got none",
               moments=qn.MomentsObserver())  # fmt: skip
    yield case(W, "Q4_K", ValueError, "moments must be of shape (256,) or (256, 256); got shape (3,)",
               moments=qn.MomentsObserver().observe(np.ones((2, 3))))  # fmt: skip


@refusals(rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
