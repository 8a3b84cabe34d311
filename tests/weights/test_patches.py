"""qn.weights.patches: rows times filters are the convolution."""

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn

patches = qn.weights.patches


@pytest.mark.parametrize("kernel", [1, 3, (2, 3), (4, 1)])
@pytest.mark.parametrize("options", [
    {}, {"strides": 2}, {"strides": (1, 3)}, {"padding": 1}, {"padding": (2, 0)}, {"padding": (0, 1, 2, 3)},
    {"dilations": 2}, {"dilations": (2, 1), "strides": 2, "padding": 2},
])  # fmt: skip
def test_patches_times_filters_are_the_convolution(kernel, options):
    rng = np.random.default_rng(0)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = rng.integers(-128, 128, (2, 3, 9, 8)).astype(np.int8)
    w = rng.integers(-128, 128, (5, 3, *size)).astype(np.int8)
    rows = patches(x.astype(np.float64), kernel, **options)
    expected = qn.conv2d_integer(x, w, **options)
    np.testing.assert_array_equal(np.moveaxis(rows @ w.reshape(5, -1).T.astype(np.float64), -1, 1), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_dtype_and_layout(dtype):
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(dtype)
    before = x.tobytes()
    expected = patches(x, 3, padding=1)
    assert (expected.dtype.name, expected.shape) == (x.dtype.name, (2, 6, 5, 27))
    np.testing.assert_array_equal(patches(np.asfortranarray(x), 3, padding=1), expected)
    assert x.tobytes() == before
    expected[:] = 0  # a copy
    assert x.tobytes() == before


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_no_image(shape):
    rows = patches(np.zeros(shape), 3)
    assert rows.shape == (shape[0], 2, 2, 9 * shape[1])
    assert repr(qn.MomentsObserver().observe(rows)) == "MomentsObserver(nothing seen)"


@pytest.mark.parametrize(("options", "kind", "text"), [
    ({"x": np.ones((3, 4, 4))}, ValueError, "x must be 4-D; got shape (3, 4, 4)."),
    ({"x": np.ones((1, 1, 4, 4), np.int8)}, TypeError,
     "x must be an array of float32, float64, float16 or bfloat16; got dtype int8."),
    ({"kernel": 5}, ValueError, "kernel must be no larger than the padded image; got (5, 5) over (4, 4)."),
    ({"kernel": 3, "dilations": 2}, ValueError,
     "kernel must be no larger than the padded image; got (5, 5) over (4, 4)."),
    ({"kernel": 0}, ValueError, "kernel must be one or two integers of at least 1; got 0."),
    ({"kernel": 1.5}, TypeError, "kernel must be an integer; got 1.5."),
    ({"strides": 0}, ValueError, "strides must be one or two integers of at least 1; got 0."),
    ({"padding": -1}, ValueError, "padding must be one or two integers of at least 0; got -1."),
])  # fmt: skip
def test_refusals(options, kind, text):
    with pytest.raises(kind) as caught:
        patches(**{"x": np.ones((1, 1, 4, 4)), "kernel": 2, **options})
    assert str(caught.value) == f"patches: {text}"
