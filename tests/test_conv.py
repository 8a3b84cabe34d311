"""conv2d_integer against its definition in int64, and against PyTorch where it is installed."""

import itertools

import numpy as np
import pytest
from strategies import LAYOUTS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

KINDS = list(itertools.product(["uint8", "int8"], repeat=2))
# x, w, options
CASES = {
    "one element": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3 x 3": ((2, 3, 7, 9), (4, 3, 3, 3), {"padding": 1}),
    "pointwise": ((2, 5, 6, 4), (7, 5, 1, 1), {}),
    "pointwise, strided": ((1, 5, 6, 5), (7, 5, 1, 1), {"strides": (2, 3)}),
    "strides and unequal padding": ((1, 2, 11, 8), (3, 2, 3, 2), {"strides": (3, 2), "padding": (0, 1, 2, 3)}),
    "dilations": ((1, 2, 9, 12), (3, 2, 3, 2), {"dilations": (2, 5), "padding": (1, 0)}),
    "groups": ((2, 6, 5, 5), (4, 3, 2, 2), {"groups": 2}),
    "depthwise": ((2, 6, 8, 7), (6, 1, 3, 3), {"groups": 6, "padding": 1, "strides": 2}),
    "depthwise, dilated": ((1, 3, 8, 7), (3, 1, 2, 3), {"groups": 3, "dilations": 2}),
    "depthwise with two outputs each": ((1, 3, 8, 7), (6, 1, 3, 3), {"groups": 3}),
    "all padding": ((1, 1, 1, 1), (2, 1, 3, 3), {"padding": 4}),
    "no images": ((0, 2, 4, 4), (3, 2, 2, 2), {}),
    "no outputs": ((2, 2, 4, 4), (0, 2, 2, 2), {}),
    "no inputs": ((2, 0, 4, 4), (3, 0, 2, 2), {}),
}


def codes(rng, shape, dtype):
    info = np.iinfo(dtype)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, rng.integers(info.min, info.max + 1, shape)).astype(dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("left", "right"), KINDS)
def test_equals_the_definition(case, left, right):
    x_shape, w_shape, options = CASES[case]
    rng = np.random.default_rng(1)
    x, w = codes(rng, x_shape, left), codes(rng, w_shape, right)
    zero_of_x = int(codes(rng, (), left))
    for zero_of_w in (None, int(codes(rng, (), right)), codes(rng, w_shape[:1], right)):
        want = twin.conv2d_integer(x, w, zero_of_x, zero_of_w, **options)
        got = qn.conv2d_integer(x, w, zero_of_x, zero_of_w, **options)
        assert_same_bits(got, want.astype(np.int32), case)
        out = np.full_like(got, 7)
        assert qn.conv2d_integer(x, w, zero_of_x, zero_of_w, out=out, **options) is out
        assert_same_bits(out, got)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    rng = np.random.default_rng(2)
    for x_shape, w_shape, options in (CASES["3 x 3"], CASES["pointwise"], CASES["depthwise"]):
        x, w = codes(rng, x_shape, "uint8"), codes(rng, w_shape, "int8")
        want = qn.conv2d_integer(x, w, 3, **options)
        assert_same_bits(qn.conv2d_integer(LAYOUTS[layout](x), LAYOUTS[layout](w), 3, **options), want)


def test_an_image_in_several_tiles():
    rng = np.random.default_rng(3)
    x, w = codes(rng, (1, 64, 100, 120), "uint8"), codes(rng, (8, 64, 3, 3), "int8")
    want = sum(  # nine products of whole images
        np.einsum("mc,chw->mhw", w[:, :, i, j].astype(np.float64), x[0, :, i : i + 98, j : j + 118].astype(np.float64))
        for i in range(3)
        for j in range(3)
    )  # below 2^53: exact
    assert_same_bits(qn.conv2d_integer(x, w)[0], want.astype(np.int32))
    deep, kernel = codes(rng, (1, 700, 40, 50), "uint8"), codes(rng, (700, 1, 2, 2), "int8")
    want = sum(
        kernel[None, :, 0, i, j, None, None] * (deep[:, :, i : i + 39, j : j + 49] - np.int32(100))
        for i in range(2)
        for j in range(2)
    )
    assert_same_bits(qn.conv2d_integer(deep, kernel, 100, groups=700), want.astype(np.int32))


@pytest.mark.peers
@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("no ")])
def test_pytorch(case):
    torch = pytest.importorskip("torch")
    x_shape, w_shape, options = CASES[case]
    rng = np.random.default_rng(4)
    x, w = codes(rng, x_shape, "uint8"), codes(rng, w_shape, "int8")
    padding = options.get("padding", 0)
    padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding) * (2 if len(padding) == 2 else 1)
    top, left, bottom, right = padding
    image = torch.nn.functional.pad(torch.from_numpy(x - 9.0), (left, right, top, bottom))  # float64, exact
    want = torch.nn.functional.conv2d(
        image, torch.from_numpy(w.astype(np.float64)), stride=options.get("strides", 1),
        dilation=options.get("dilations", 1), groups=options.get("groups", 1),
    )  # fmt: skip
    assert_same_bits(qn.conv2d_integer(x, w, 9, **options), want.numpy().astype(np.int32))


def test_a_sum_that_does_not_fit_raises():
    x, w = np.full((1, 1, 200, 200), 255, np.uint8), np.full((1, 1, 200, 200), 255, np.uint8)
    with pytest.raises(OverflowError) as caught:
        qn.conv2d_integer(x, w)
    assert str(caught.value) == "conv2d_integer: every sum must be in the range of int32; got one that is not."
    twice = [np.concatenate([each, each], axis) for each, axis in ((x, 1), (w, 0))]
    with pytest.raises(OverflowError):  # depthwise
        qn.conv2d_integer(*twice, groups=2)


X, W = np.zeros((1, 2, 4, 4), np.uint8), np.zeros((3, 2, 3, 3), np.int8)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X.astype(float), W), {}, TypeError, "x must be an array of int8 or uint8; got dtype float64."),
        ((X[0], W), {}, ValueError, "x must be 4-D; got shape (2, 4, 4)."),
        ((X, W.astype(np.int16)), {}, TypeError, "w must be an array of int8 or uint8; got dtype int16."),
        ((X, W[:, :1]), {}, ValueError,
         "x and w must be of C and C / groups channels for groups=1; got shapes (1, 2, 4, 4) and (3, 1, 3, 3)."),
        ((X, W), {"groups": 2}, ValueError,
         "groups must be a divisor of the channels of x and of w; got 2 for 2 and 3 channels."),
        ((X, W), {"groups": 0}, ValueError,
         "groups must be a divisor of the channels of x and of w; got 0 for 2 and 3 channels."),
        ((X, W), {"groups": 1.0}, TypeError, "groups must be an integer; got 1.0."),
        ((X, W[:, :, :0]), {}, ValueError,
         "w must be of a kernel of at least one element; got shape (3, 2, 0, 3)."),
        ((X, W), {"strides": 0}, ValueError, "strides must be one or two integers of at least 1; got 0."),
        ((X, W), {"dilations": (1, 2, 3)}, ValueError,
         "dilations must be one or two integers of at least 1; got (1, 2, 3)."),
        ((X, W), {"padding": -1}, ValueError, "padding must be one or two integers of at least 0; got -1."),
        ((X, W), {"padding": (0, 0, 0, -1)}, ValueError, "padding must be at least 0; got (0, 0, 0, -1)."),
        ((X, W), {"dilations": 2}, ValueError, "w must be no larger than the padded image; got (5, 5) over (4, 4)."),
        ((X, W, 256), {}, ValueError, "x_zero_point must be in [0, 255]; got 256."),
        ((X, W, [1, 2]), {}, ValueError, "x_zero_point must be of shape (); got shape (2,)."),
        ((X, W, 0, [1, 2]), {}, ValueError, "w_zero_point must be of shape () or (3,); got shape (2,)."),
        ((X, W, 0, 1.5), {}, TypeError, "w_zero_point must be an integer; got dtype float64."),
        ((X, W), {"out": np.zeros((1, 3, 2, 2), np.int64)}, TypeError,
         "out must be of dtype int32; got dtype int64."),
    ],
)  # fmt: skip
def test_errors(arguments, options, error, message):
    with pytest.raises(error) as caught:
        qn.conv2d_integer(*arguments, **options)
    assert str(caught.value) == f"conv2d_integer: {message}"
