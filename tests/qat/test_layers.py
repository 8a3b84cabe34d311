"""Layers: gradients by finite differences, the formulas of the papers, and integer models with the same bits."""

import ast
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import qat
from qnumpy.qat import layers as nn

EXACT = 2**24  # float32 holds every integer up to it


def small(shape, seed=0, high=8):
    """Odd multiples of 1/16: float32 holds every sum of their products, and none is 0 or equal to its neighbour's."""
    rng = np.random.default_rng(seed)
    return ((2 * rng.integers(-high, high, shape) + 1) / 16).astype(np.float32)


def slopes(loss, array, step):
    """Central differences of `loss` in float64, of each element of an array that is changed in place."""
    result = np.empty(array.shape)
    for at in np.ndindex(array.shape):
        before = array[at]
        array[at] = before + step
        above = loss()
        array[at] = before - step
        result[at] = (above - loss()) / (2 * step)
        array[at] = before
    return result


def assert_gradients(layer, x, step=2.0**-6, tolerance=0.0):
    """The gradients of x and of the parameters are the slopes of ``sum(r forward(x))``."""
    r = small(layer.forward(x).shape, seed=9)

    def loss():
        return float((r.astype(np.float64) * layer.forward(x)).sum())

    layer.forward(x)
    dx = layer.backward(r)
    wanted = [(x, dx), *layer.parameters()]
    for array, gradient in [(array, gradient.copy()) for array, gradient in wanted]:
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, slopes(loss, array, step), rtol=0, atol=tolerance)


# ---- gradients ----


def distinct(shape):
    """Multiples of 1/16 that differ by at least 1/8, none of them 0: a step of 1/64 meets no tie."""
    count = int(np.prod(shape))
    values = (2 * np.random.default_rng(3).permutation(count) - count + (count % 2 == 0)) / 16
    return values.reshape(shape).astype(np.float32)


# The layers are linear in each element between their ties, and sums of so few bits are exact: the slopes are the
# gradients to the last bit.
LINEAR = {
    "Linear": lambda: (nn.Linear(small((4, 3)), small(3, 1)), small((5, 4), 2)),
    "Conv2d": lambda: (nn.Conv2d(small((2 * 9, 3)), small(3, 1), 3, 1), small((2, 2, 4, 5), 2)),
    "Conv2d without padding": lambda: (nn.Conv2d(small((2 * 4, 3)), small(3, 1), 2), small((2, 2, 4, 3), 2)),
    "ReLU": lambda: (nn.ReLU(), distinct((4, 5))),
    "MaxPool2d": lambda: (nn.MaxPool2d(), distinct((2, 3, 4, 6))),
    "Flatten": lambda: (nn.Flatten(), small((2, 3, 2, 2))),
}


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_of_piecewise_linear_layers_are_the_slopes(name):
    assert_gradients(*LINEAR[name]())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 2, 3)])
def test_gradients_of_batch_normalisation_are_the_slopes(shape, training):
    """Float32 rounds y to 2**-22 (|y| < 4) at most, so the slope of a sum of 36 errs by 36 * 2**-22 / 2**-6 at worst,
    and by about its root; the third derivative adds about step**2.
    """
    layer = nn.BatchNorm(shape[1])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer.gamma[...], layer.beta[...] = small(shape[1], 1), small(shape[1], 2)
    layer.forward(x)
    layer.training = training
    assert_gradients(layer, x, tolerance=2e-3)


def test_ties_of_relu_and_pooling():
    """ReLU has the slope 0 at 0; of equal neighbours the first gets the gradient."""
    relu, pool = nn.ReLU(), nn.MaxPool2d()
    np.testing.assert_array_equal(relu.forward(np.float32([0, -0.0, 1])), [0, 0, 1])
    np.testing.assert_array_equal(relu.backward(np.ones(3, np.float32)), [0, 0, 1])
    pool.forward(np.ones((1, 1, 2, 2), np.float32))
    np.testing.assert_array_equal(pool.backward(np.full((1, 1, 1, 1), 3, np.float32))[0, 0], [[3, 0], [0, 0]])


def test_a_network_passes_gradients_through_all_layers():
    layers = [nn.Linear(small((4, 6)), small(6, 1)), nn.ReLU(), nn.Linear(small((6, 3), 2), small(3, 3))]
    x = small((5, 4), 4)
    labels = np.array([0, 1, 2, 1, 0])

    def loss():
        return nn.softmax_cross_entropy(nn.forward(layers, x).astype(np.float64), labels)[0]

    dx = nn.backward(layers, nn.softmax_cross_entropy(nn.forward(layers, x), labels)[1])
    # The inputs of ReLU are multiples of 1/256 and no multiple of 1/64 apart from 0: a step of 2**-10 meets no tie.
    # The third derivative of the loss, at most about |w|**3 = 50, times step**2 / 6 is 8e-6.
    for array, gradient in [(x, dx), *nn.parameters(layers)]:
        np.testing.assert_allclose(gradient, slopes(loss, array, 2.0**-10), rtol=0, atol=2e-5)


# ---- layers against their definitions ----


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (2, 1), (1, 0)])
def test_a_convolution_is_the_sum_of_its_definition(kernel, padding):
    n, channels, height, width, outputs = 2, 3, 5, 4, 4
    w, bias, x = small((channels * kernel**2, outputs)), small(outputs, 1), small((n, channels, height, width), 2)
    y = nn.Conv2d(w, bias, kernel, padding).forward(x)
    filters = w.T.reshape(outputs, channels, kernel, kernel)
    image = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for at in np.ndindex(y.shape):
        patch = image[at[0], :, at[2] : at[2] + kernel, at[3] : at[3] + kernel]
        assert y[at] == (patch * filters[at[1]]).sum() + bias[at[1]]
    assert y.shape == (n, outputs, height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1)


def batches(shape, count=3):
    rng = np.random.default_rng(0)
    return [rng.normal(2, 3, shape).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("shape", [(50, 4), (6, 4, 5, 3)])
def test_batch_normalisation_in_training_and_evaluation(shape):
    layer, axes = nn.BatchNorm(4, momentum=0.25), (0, *range(2, len(shape)))
    mean, variance = np.zeros(4), np.ones(4)
    for x in batches(shape):
        y = layer.forward(x)
        np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-6)  # x and the mean are rounded to float32
        np.testing.assert_allclose(y.std(axis=axes), 1, atol=1e-5)  # epsilon / variance / 2 = 6e-7, and rounding
        wide = x.astype(np.float64)
        mean, variance = 0.75 * mean + 0.25 * wide.mean(axis=axes), 0.75 * variance + 0.25 * wide.var(axis=axes)
    layer.training = False
    layer.gamma[...], layer.beta[...] = small(4, 1), small(4, 2)
    along = (1, 4, *[1] * (len(shape) - 2))
    factor = layer.gamma / np.sqrt(variance + 1e-5)
    x = batches(shape)[0]
    wanted = (x - mean.reshape(along)) * factor.reshape(along) + layer.beta.reshape(along)
    np.testing.assert_allclose(layer.forward(x), wanted, atol=4e-6)  # |y| < 16: a few roundings of 2**-21
    np.testing.assert_allclose(layer.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.variance, variance, rtol=1e-12)


def test_a_folded_layer_does_what_both_did():
    linear, norm = nn.Linear(small((6, 4)), small(4, 1)), nn.BatchNorm(4)
    norm.gamma[...], norm.beta[...] = small(4, 2), small(4, 3)
    for x in batches((40, 6)):
        norm.forward(linear.forward(x))
    norm.training = False
    x = batches((8, 6))[0]
    before = norm.forward(linear.forward(x))
    assert not np.allclose(linear.forward(x), before, atol=0.1)
    norm.fold(linear)
    np.testing.assert_allclose(linear.forward(x), before, atol=1e-4)  # sums of 6 products below 64, 2**-19 each


def test_adam_is_its_formula():
    rng = np.random.default_rng(0)
    value, adam = rng.normal(size=5).astype(np.float32), nn.Adam(0.1, 0.8, 0.95, 1e-6)
    other = np.ones(2, np.float32)
    wanted, m, v = value.astype(np.float64), 0.0, 0.0
    for step in range(1, 8):
        g = rng.normal(size=5).astype(np.float32)
        adam.step([(value, g), (other, np.zeros(2, np.float32))])
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g.astype(np.float64) ** 2
        wanted -= 0.1 * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-6)
        # Adam adds epsilon before it corrects v, as in the second form of the paper: 1e-6 of a step of 0.1, and float32
        np.testing.assert_allclose(value, wanted, atol=2e-6)
    np.testing.assert_array_equal(other, 1)


def test_adam_keeps_the_moments_of_arrays_that_stay():
    """A quantizer joins after its delay; the steps of the other arrays do not change."""
    rng = np.random.default_rng(0)
    start, g = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(6, 2, 3)).astype(np.float32)
    alone, joined, late = start.copy(), start.copy(), np.ones((), np.float32)
    first, second = nn.Adam(0.1), nn.Adam(0.1)
    for step in range(6):
        first.step([(alone, g[step])])
        more = [(late, np.float32(1)), (joined, g[step])]
        second.step(more[1:] if step < 3 else more if step < 5 else more[::-1])
        np.testing.assert_array_equal(alone, joined)
    assert late < 1


# ---- losses ----


def test_softmax_cross_entropy_and_its_gradient():
    logits, labels = np.float32([[1, 2, 3], [0, 0, 0], [100, -100, 0]]), np.array([2, 0, 1])
    loss, g = nn.softmax_cross_entropy(logits[:2], labels[:2])
    wanted = (np.log(np.exp([1.0, 2, 3]).sum()) - 3 + np.log(3)) / 2
    assert loss == pytest.approx(wanted, rel=1e-6)
    share = np.exp([1.0, 2, 3]) / np.exp([1.0, 2, 3]).sum()
    np.testing.assert_allclose(g, np.array([share - [0, 0, 1], [-2 / 3, 1 / 3, 1 / 3]]) / 2, atol=1e-7)
    assert np.isfinite(nn.softmax_cross_entropy(logits, labels)[0])  # a share of exp(-200)
    assert g.dtype == np.float32


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_and_its_gradient(temperature):
    """float64 logits give float64 sums: the differences err by step**2 / 6 times a third derivative below 1."""
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    shares = np.exp(teacher / temperature) / np.exp(teacher / temperature).sum(axis=1, keepdims=True)
    logs = logits / temperature - np.log(np.exp(logits / temperature).sum(axis=1, keepdims=True))
    loss, g = nn.distillation(logits, teacher, temperature)
    assert loss == pytest.approx(-(shares * logs).sum() / 4 * temperature**2, rel=1e-12)
    wanted = slopes(lambda: nn.distillation(logits, teacher, temperature)[0], logits, 2.0**-12)
    np.testing.assert_allclose(g, wanted, atol=1e-6)


def test_distillation_is_least_at_the_answers_of_the_teacher():
    teacher = np.random.default_rng(0).normal(size=(4, 5))
    least, g = nn.distillation(teacher, teacher)
    np.testing.assert_array_equal(g, 0)
    assert nn.distillation(teacher + np.eye(4, 5), teacher)[0] > least


# ---- quantized layers ----


def quantized(bits, symmetric="full"):
    """The quantizers of a layer: of its weight per column, and of its input."""
    return {
        "weight": qat.LearnedScale(f"int{bits}", qn.PerChannel(1), symmetric=symmetric),
        "input": qat.LearnedScale(f"uint{bits}", symmetric=False),
    }


def observed(bits):
    observer = qn.MovingAverageMinMaxObserver
    return {
        "weight": qat.FakeQuantize(observer(1.0, dtype=f"int{bits}", granularity=qn.PerChannel(1))),
        "input": qat.FakeQuantize(observer(dtype=f"uint{bits}", symmetric=False)),
    }


MAKERS = {"LearnedScale": quantized, "FakeQuantize": observed}


def test_gradients_pass_the_quantizers():
    rng = np.random.default_rng(0)
    w, x, r = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 4), (9, 6), (9, 4)))
    own = quantized(2)
    w[0] = 9  # its codes saturate
    layer = nn.Linear(w, np.zeros(4), **own)
    layer.forward(x)
    dx = layer.backward(r)
    params = {name: quantizer.qparams() for name, quantizer in own.items()}
    for got, source, name, g in (
        (layer.dw, w, "weight", qn.fake_quantize(x, params["input"]).T @ r),
        (dx, x, "input", r @ qn.fake_quantize(w, params["weight"]).T),
    ):
        wanted, dscale, _ = qat.lsq_vjp(g, qat.lsq(source, own[name].scale, **lsq_options(own[name]))[1])
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(own[name].dscale, dscale)
        assert (wanted == 0).any()
    pairs = layer.parameters()
    assert [value is wanted for (value, _), wanted in zip(
        pairs, (layer.w, layer.bias, own["weight"].scale, own["input"].scale, own["input"].zero_point), strict=True
    )] == [True] * 5  # fmt: skip


def lsq_options(quantizer):
    zero = quantizer.zero_point if quantizer.symmetric is False else None
    return {
        "zero_point": zero, "dtype": quantizer.dtype, "granularity": quantizer.granularity,
        "symmetric": quantizer.symmetric,
    }  # fmt: skip


def integer_result(layer, x):
    """The result of a layer in codes: of rows, or of the patches of images."""
    codes, params = layer.export()
    conv = isinstance(layer, nn.Conv2d)
    rows = qn.weights.patches(x, layer.kernel, padding=layer.padding) if conv else x
    y = codes.matmul(qn.quantize(rows, qparams=params))
    return y.transpose(0, 3, 1, 2) if conv else y


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_simulation_has_the_bits_of_the_integer_layer(maker, bits):
    rng = np.random.default_rng(bits)
    w, bias = rng.normal(size=(54, 17)).astype(np.float32), rng.normal(size=17).astype(np.float32)
    for layer, shape in (
        (nn.Linear(w, bias, **MAKERS[maker](bits)), (33, 54)),
        (nn.Conv2d(w, bias, 3, 1, **MAKERS[maker](bits)), (3, 6, 5, 7)),
    ):
        for low in (-1, 0):  # with a zero point inside the codes, and at their end
            x = rng.normal(size=shape).astype(np.float32)
            x = np.maximum(x, low)
            y = layer.forward(x)
            np.testing.assert_array_equal(y.view(np.int32), integer_result(layer, x).view(np.int32))
            assert np.ptp(y) > 1


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1)])
@pytest.mark.parametrize("zero", [-np.inf, -0.5, 0.5, 1.5, 14.6, 99, np.inf])
def test_a_pass_takes_the_parameters_that_qparams_returns(granularity, zero):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    quantizer = qat.LearnedScale("uint4", granularity, symmetric=False)
    quantizer(x)
    quantizer.zero_point[...] = zero
    np.testing.assert_array_equal(quantizer(x), qn.fake_quantize(x, quantizer.qparams()))
    assert (quantizer.qparams().zero_point == np.clip(np.rint(zero), 0, 15)).all()


def test_padding_is_the_zero_point():
    """A zero around an image has the code Z: patches of the codes, with Z around the image, are the same rows."""
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(rng.normal(size=(18, 4)), np.zeros(4), 3, 1, **quantized(4))
    x = rng.normal(size=(2, 2, 5, 5)).astype(np.float32)
    layer.forward(x)
    params = layer.export().input
    codes = qn.quantize(x, qparams=params).codes
    around = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=int(params.zero_point))
    rows = qn.weights.patches(around.astype(np.float32), 3).astype(np.uint8)
    np.testing.assert_array_equal(rows, qn.quantize(qn.weights.patches(x, 3, padding=1), qparams=params).codes)
    assert int(params.zero_point) > 0


# ---- the condition ----


def layer_of_codes(steps_x, steps_w):
    """A quantized layer and its input with those steps, 16 times: of one row BLAS sums otherwise, some in float64."""
    layer = nn.Linear(np.repeat(np.float32(steps_w)[:, None], 16, 1), np.zeros(16), **quantized(8))
    x = np.repeat(np.float32(steps_x)[None], 16, 0)
    layer.forward(x)
    for quantizer in (layer.weight, layer.input):
        quantizer.scale[...] = 1
    layer.input.zero_point[...] = 0
    return layer, x


def in_order(steps_x, steps_w):
    """The sum in float32, one product after the other."""
    return np.add.accumulate(np.float32(steps_x) * np.float32(steps_w), dtype=np.float32)[-1]


def test_below_the_bound_every_order_of_a_sum_is_exact():
    k = (EXACT - 1) // (255 * 128)
    for order in (1, -1):
        x, w = np.full(k, 255), np.r_[np.full(k - k // 2, -128), np.full(k // 2, 127)][::order]
        w[::3] -= np.sign(w[::3])
        layer, rows = layer_of_codes(x, w)
        assert in_order(x, w) == (x * w).sum()
        assert layer.forward(rows)[0, 0] == integer_result(layer, rows)[0, 0] == (x * w).sum()


def test_beyond_the_bound_float32_loses_a_step():
    """A sum passes 2**24 on an odd number and comes back: float32 has rounded it, the integers have not."""
    k = EXACT // (255 * 127) + 1
    x, w = np.r_[np.full(k, 255), 2, np.full(9, 255)], np.r_[np.full(k, 127), 1, np.full(9, -127)]
    assert in_order(x[:k], w[:k]) != (x * w)[:k].sum()
    assert in_order(x, w) != (x * w).sum()
    layer, rows = layer_of_codes(x, w)
    assert integer_result(layer, rows)[0, 0] == (x * w).sum()


def test_far_beyond_the_bound_a_layer_differs_from_its_integers():
    """So long that each of the partial sums of a BLAS passes 2**24: at most 64 of them."""
    half = 64 * EXACT // (255 * 127)
    rng = np.random.default_rng(0)
    x, w = np.full(2 * half, 255), np.r_[rng.integers(120, 128, half), rng.integers(-127, -119, half)]
    layer, rows = layer_of_codes(x, w)
    assert np.float32((x * w).sum()) == integer_result(layer, rows)[0, 0] != layer.forward(rows)[0, 0]


# ---- whole networks ----


def digits():
    with resources.files("qnumpy").joinpath("data", "digits.npz").open("rb") as file:
        data = np.load(file)
        return (data["images"] / 16).astype(np.float32), data["labels"].astype(np.int64)


def he(rng, k, n):
    return (rng.normal(size=(k, n)) * np.sqrt(2 / k)).astype(np.float32)


def perceptron(rng, own):
    return [
        nn.Linear(he(rng, 64, 64), np.zeros(64), **own()), nn.ReLU(),
        nn.Linear(he(rng, 64, 32), np.zeros(32), **own()), nn.ReLU(),
        nn.Linear(he(rng, 32, 10), np.zeros(10), **own()),
    ]  # fmt: skip


def convolutions(rng, own):
    return [
        nn.Conv2d(he(rng, 9, 16), np.zeros(16), 3, 1, **own()), nn.ReLU(), nn.MaxPool2d(),
        nn.Conv2d(he(rng, 144, 32), np.zeros(32), 3, 1, **own()), nn.ReLU(), nn.MaxPool2d(),
        nn.Flatten(), nn.Linear(he(rng, 128, 10), np.zeros(10), **own()),
    ]  # fmt: skip


NETWORKS = {"perceptron": (perceptron, (-1, 64)), "convolutions": (convolutions, (-1, 1, 8, 8))}


def train(layers, x, labels, epochs, rate=1e-2):
    adam, rng = nn.Adam(rate), np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 64):
            batch = order[start : start + 64]
            loss, g = nn.softmax_cross_entropy(nn.forward(layers, x[batch]), labels[batch])
            nn.backward(layers, g)
            adam.step(nn.parameters(layers))
    return loss


def inputs(layers, x, product):
    """The codes of the input of every quantized layer, and the result; `product` computes a quantized layer."""
    codes = []
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            codes.append(qn.quantize(x, qparams=layer.input.qparams()).codes)
            x = product(layer, x)
        else:
            x = layer.forward(x)
    return codes, x


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_trained_network_is_its_integer_model(network, bits, maker):
    build, shape = NETWORKS[network]
    images, labels = digits()
    x = images.reshape(shape)
    layers = build(np.random.default_rng(0), lambda: MAKERS[maker](bits))
    first = train(layers, x[:256], labels[:256], 1)
    assert train(layers, x[:256], labels[:256], 2) < first
    for quantizer in nn.quantizers(layers):
        quantizer.freeze()
    simulated, logits = inputs(layers, x, lambda layer, rows: layer.forward(rows))
    integers, wanted = inputs(layers, x, integer_result)
    assert len(simulated) == 3
    for got, codes in zip(simulated, integers, strict=True):
        np.testing.assert_array_equal(got, codes)
        assert len(np.unique(np.asarray(codes, np.int64))) > 1
    np.testing.assert_array_equal(logits.view(np.int32), wanted.view(np.int32))
    np.testing.assert_array_equal(nn.forward(layers, x), logits)


def test_a_layer_is_an_example_of_at_most_forty_lines():
    tree = ast.parse(Path(nn.__file__).read_text(encoding="utf-8"))
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name, length in lengths.items() if length > 40} == set()
    assert {"Linear", "Conv2d", "BatchNorm", "ReLU", "MaxPool2d", "Flatten", "Adam"} <= set(lengths)
