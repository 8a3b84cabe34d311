"""conv2d_integer against its definition in int64, and against PyTorch where it is installed."""

import itertools

import numpy as np
import pytest
from strategies import LAYOUTS, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.ops.conv import Images, convolve_reals, geometry

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
    "far more padding than image": ((1, 2, 2, 1), (2, 1, 1, 2), {"groups": 2, "padding": (0, 400)}),
    "far more padding, by twos": ((1, 2, 2, 3), (2, 1, 1, 1), {"groups": 2, "padding": (1, 500), "strides": (1, 2)}),
    "no rows but padding": ((1, 2, 0, 8), (3, 2, 1, 3), {"padding": (0, 0, 4, 2), "strides": (3, 2)}),
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


def summed(x, w, zero, w_zero, strides, padding, dilations, groups):
    """The definition in int64, one element of the kernel after another over the whole result."""
    top, left, bottom, right = padding
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    image = np.pad(x.astype(np.int64) - zero, around)
    weight = w.astype(np.int64) - np.reshape(w_zero, (-1, 1, 1, 1))
    n, m, per = len(x), len(w), w.shape[1]
    spans = [(k - 1) * d for k, d in zip(w.shape[2:], dilations, strict=True)]
    shape = [(size - span - 1) // s + 1 for size, span, s in zip(image.shape[2:], spans, strides, strict=True)]
    sums = np.zeros((n, groups, m // groups, *shape), np.int64)
    for i, j in np.ndindex(w.shape[2:]):
        rows, columns = (
            slice(at * d, at * d + (length - 1) * s + 1, s)
            for at, d, length, s in zip((i, j), dilations, shape, strides, strict=True)
        )
        seen = image[:, :, rows, columns].reshape(n, groups, per, *shape)
        sums += np.einsum("gmc,ngchw->ngmhw", weight[:, :, i, j].reshape(groups, -1, per), seen)
    return sums.reshape(n, m, *shape)


def test_geometries(row):
    """Both ways, products with patches and sums over rows, over random shapes; any layout of the image."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        groups = int(rng.choice([1, 1, 2, 5]))
        per, outputs = int(rng.integers(1, 5)), int(rng.choice([1, 2, 3, 8, 9, 20]))
        kernel, size = rng.integers(1, 6, 2), rng.choice([1, 3, 7, 8, 15, 16, 17, 31, 33, 40, 70], 2)
        strides, dilations = rng.choice([1, 1, 2, 3, 5], 2), rng.choice([1, 1, 2, 3, 9], 2)
        padding = rng.integers(0, 5, 4)
        spans = (kernel - 1) * dilations + 1
        size = np.maximum(size, spans - padding[:2] - padding[2:])
        left, right = rng.choice(["int8", "uint8"], 2)
        x, w = codes(rng, (2, groups * per, *size), left), codes(rng, (groups * outputs, per, *kernel), right)
        x = LAYOUTS[str(rng.choice(list(LAYOUTS)))](x)
        zero, zeros = int(codes(rng, (), left)), codes(rng, groups * outputs if rng.random() < 0.5 else (), right)
        geometry = [tuple(map(int, each)) for each in (strides, padding, dilations)]
        want = summed(x, w, zero, zeros, *geometry, groups)
        options = dict(zip(("strides", "padding", "dilations"), geometry, strict=True), groups=groups)
        about = f"{x.shape} {w.shape} {options}"
        assert_same_bits(qn.conv2d_integer(x, w, zero, zeros, **options), want.astype(np.int32), about)
        scale = rng.uniform(0.5, 2, len(w) if rng.random() < 0.5 else ()).astype(np.float32) / 1000
        bias = rng.integers(-(10**6), 10**6, len(w))
        each = np.broadcast_to(scale, len(w))
        want = twin.requantize(want + bias[:, None, None], each, 5, dtype=left, axis=1)
        y_zero = np.dtype(left).type(5)
        got = qn.qlinear_conv2d(x, 1.0, zero, w, scale, zeros, 1.0, y_zero, bias, **options)
        assert_same_bits(got, want, about)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_image_in_several_windows_and_bands(threads):
    rng = np.random.default_rng(3)
    one = ((1, 1), (0, 0, 0, 0), (1, 1))
    with qn.threads(threads):
        for x_shape, w_shape, groups in [
            ((1, 64, 100, 120), (20, 64, 3, 3), 1),
            ((1, 700, 40, 50), (700, 1, 2, 2), 700),
            ((2, 3, 150, 900), (3, 1, 3, 3), 3),
            ((1, 90, 60, 60), (30, 90, 1, 1), 1),
        ]:
            x, w = codes(rng, x_shape, "uint8"), codes(rng, w_shape, "int8")
            want = summed(x, w, 100, 0, *one, groups)
            assert_same_bits(qn.conv2d_integer(x, w, 100, groups=groups), want.astype(np.int32), f"{x_shape}")


def test_far_apart():
    """Elements of the kernel, rows of the result and the image itself far from one another: mostly padding."""
    rng = np.random.default_rng(6)
    x = codes(rng, (1, 2, 5, 6), "uint8")
    for outputs in (2, 140):  # sums, products
        w = codes(rng, (outputs, 1, 3, 2), "int8")
        options = {"groups": 2, "dilations": (1000, 700), "padding": (1001, 350, 1000, 351), "strides": (3, 2)}
        want = summed(x, w, 9, 0, options["strides"], options["padding"], options["dilations"], 2)
        assert_same_bits(qn.conv2d_integer(x, w, 9, **options), want.astype(np.int32))
    far = 2**31 - 1  # one element, and one of the padding
    got = qn.conv2d_integer(x[:, :, :1, :1], w[:, :, :1, :1], 9, groups=2, strides=far, padding=(0, 0, 0, far))
    assert_same_bits(got[..., 0], (x[:, :, :1, 0].astype(int) - 9).repeat(70, 1).astype(np.int32) * w[:, 0, :1, 0])
    assert got.shape == (1, 140, 1, 2)
    assert not got[..., 1].any()


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
    deep = np.full((1, 33_100, 1, 2), 255, np.uint8)  # a sum of products just beyond int32, and one within it
    with pytest.raises(OverflowError):
        qn.conv2d_integer(deep, np.full((9, 33_100, 1, 1), 255, np.uint8))
    zeros = np.arange(0, 9)
    want = 33_100 * 255 * (200 - zeros)
    got = qn.conv2d_integer(deep, np.full((9, 33_100, 1, 1), 200, np.uint8), 0, zeros)
    assert_same_bits(got, np.tile(want[None, :, None, None], (1, 1, 1, 2)).astype(np.int32))
    one, small = np.full((1, 1, 1, 1), 1, np.uint8), np.uint8(0)
    for outputs in (1, 70):  # a bias beside which a sum just fits, or does not
        weight, bias = np.ones((outputs, 1, 1, 1), np.uint8), np.full(outputs, 2**31 - 2)
        assert np.all(qn.qlinear_conv2d(one, 1.0, 0, weight, 1e-7, 0, 1.0, small, bias) == 215)
        bias[-1] += 1
        with pytest.raises(OverflowError) as caught:
            qn.qlinear_conv2d(one, 1.0, 0, weight, 1e-7, 0, 1.0, small, bias)
    assert str(caught.value) == "qlinear_conv2d: every sum must be in the range of int32; got one that is not."


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
        ((X, W), {"padding": 2**31}, ValueError, "padding must be at most 2147483647; got 2147483648."),
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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("images", [Images(), Images(0.02, 100, 0, 255), Images(0.01, 128, 1, 255)])
@pytest.mark.parametrize("threads", [1, 2])
def test_images_of_reals(case, images, threads):
    """Three steps in float32 after the exact sums of the codes of each image."""
    x_shape, w_shape, options = CASES[case]
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=x_shape).astype(np.float32), codes(rng, w_shape, "int8")
    x[..., :1] *= 3
    zero_of_w, scale = codes(rng, w_shape[:1], "int8").astype(np.int32), rng.random(w_shape[:1], np.float32)
    bias, place = rng.normal(size=w_shape[:1]).astype(np.float32), geometry("test", x_shape, w_shape, **options)
    y = np.full(place.shape, np.nan, np.float32)
    with qn.threads(threads):
        convolve_reals("test", x, w, zero_of_w, place, scale, bias, y, images, (-1.0, 50.0))
    for image, got in zip(x, y, strict=True):
        params = qn.QParams(images.scale, images.zero_point, "uint8", qmin=images.qmin) if images.scale else None
        params = params or qn.choose_qparams(image, dtype="uint8", symmetric=False)
        q = qn.quantize(image, params)
        sums = twin.conv2d_integer(q.codes[None], w, int(params.zero_point), zero_of_w, **options)[0]
        want = sums.astype(np.float32) * (params.scale * scale)[:, None, None] + bias[:, None, None]
        assert_same_bits(got, want.clip(-1, 50))
