"""quantize_layers: the order in which layers are met, what run sees, what it returns, what it refuses."""

import gc
import json
import os
import pickle
import re
import signal
import threading
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.weights.layers import QuantizedLayers, quantize_layers


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = {thread for thread in threading.enumerate() if type(thread).__name__ != "TMonitor"} - before  # of tqdm
    assert not left


class Mlp:
    """Dense layers with ReLU, weights (N, K); inputs of correlated columns."""

    def __init__(self, rng, sizes=(32, 64, 48, 8), bias=True):
        self.layers = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            w = rng.normal(size=(outputs, inputs)).astype(np.float32) / np.sqrt(np.float32(inputs))
            self.layers[f"dense{i}"] = (w, rng.normal(size=outputs).astype(np.float32)) if bias else w
        mixing = rng.normal(size=(sizes[0], sizes[0])) * np.geomspace(1, 0.05, sizes[0])[:, None]
        self.x = (rng.normal(size=(600, sizes[0])) @ mixing + 0.5).astype(np.float32)

    def __call__(self, x):
        for name in list(self.layers):
            x = qn.tap(name, x)
            entry = self.layers[name]
            w, bias = entry if isinstance(entry, tuple) else (entry, 0)
            x = np.maximum(x @ w.T + bias, 0)
        return x

    def put(self, result):
        for name in result:
            w = result.dequantize(name)
            self.layers[name] = (w, result.biases[name]) if name in result.biases else w


class Block:
    """Attention with one head and a feed-forward layer, both with residuals; weights (K, N)."""

    def __init__(self, rng, width=32, tapped=True):
        shapes = dict.fromkeys(("q", "k", "v", "out"), (width, width))
        shapes |= {"up": (width, 2 * width), "down": (2 * width, width)}
        self.layers = {
            name: [(rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), np.zeros(shape[1], np.float32)]
            for name, shape in shapes.items()
        }
        self.order, self.tapped = [], tapped

    def linear(self, name, x, residual=None):
        if residual is not None and self.tapped:
            qn.tap(f"{name}.residual", residual)
        x = qn.tap(name, x)
        self.order.append(name)
        w, bias = self.layers[name]
        return x @ w + bias + (0 if residual is None else residual)

    def __call__(self, x):
        q, k, v = (self.linear(name, x) for name in "qkv")
        scores = np.exp(q @ k.swapaxes(1, 2) / 6)
        x = self.linear("out", scores / scores.sum(-1, keepdims=True) @ v, x)
        return self.linear("down", np.maximum(self.linear("up", x), 0), x)


def error(model, result, x, exact):
    floats = dict(model.layers)
    model.put(result) if hasattr(model, "put") else model.layers.update(
        {name: [result.dequantize(name), result.biases[name]] for name in result}
    )
    loss = float(np.square(model(x) - exact).mean() / np.square(exact - exact.mean(0)).mean())
    model.layers.update(floats)
    return loss


# ---- what it returns ----


@pytest.mark.parametrize("bias", [True, False])
def test_less_error_than_round_to_nearest(rng, bias):
    model = Mlp(rng, bias=bias)
    train, test = model.x[:400], model.x[400:]
    exact = model(test)
    losses = {
        method: error(model, quantize_layers(model.layers, model, np.split(train, 4), method=method), test, exact)
        for method in ("gptq", "mse", "minmax")
    }
    assert losses["gptq"] < 0.6 * losses["mse"]
    assert losses["gptq"] < 0.5 * losses["minmax"]


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", "int2", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False, "full"])
@pytest.mark.parametrize("granularity", [qn.PerGroup(16), qn.PerGroup(20), qn.PerChannel(0)], ids=str)
def test_every_scheme(rng, dtype, symmetric, granularity):
    model = Mlp(rng, (24, 40, 8))
    result = quantize_layers(model.layers, model, [model.x], dtype=dtype, granularity=granularity, symmetric=symmetric)
    for name, q in result.items():
        w, _ = model.layers[name]
        assert isinstance(q, qn.QuantizedArray)
        assert (q.shape, q.dtype.name, q.granularity) == (w.shape, dtype, granularity)
        assert np.array_equal(result.dequantize(name), q.dequantize())
        layer = result.report[name]
        assert layer.objective <= layer.nearest
        assert layer.sqnr_db > {"2": 2, "4": 12, "8": 35}[dtype[-1]]


def test_the_axis_of_the_inputs_follows_from_the_granularity(rng):
    """The transposed model gives the transposed codes."""
    model = Mlp(rng)
    swapped = {name: (np.ascontiguousarray(w.T), b) for name, (w, b) in model.layers.items()}

    def run(x):
        for name in swapped:
            x = qn.tap(name, x)
            w, b = swapped[name]
            x = np.maximum(x @ w + b, 0)

    for one, other in ((qn.PerGroup(16), qn.PerGroup(16, 0)), (qn.PerChannel(0), qn.PerChannel(1))):
        a = quantize_layers(model.layers, model, [model.x], granularity=one)
        b = quantize_layers(swapped, run, [model.x], granularity=other)
        for name in a:
            assert np.mean(a[name].codes == b[name].codes.T) > 0.99  # BLAS adds in another order
            assert a[name].granularity == one
            assert b[name].granularity == other


def test_identical_inputs_and_one_layer_give_what_gptq_gives(rng):
    model = Mlp(rng, (32, 16))
    w, bias = model.layers["dense0"]
    result = quantize_layers(model.layers, model, [model.x], granularity=qn.PerChannel(0))
    moments = qn.MomentsObserver().observe(model.x)
    alone = qn.weights.gptq(w, moments, qn.PerChannel(0), symmetric=False, bias=bias, damping=0.3)
    assert np.mean(result["dense0"].codes == alone.q.codes) > 0.98  # the moments differ by rounding
    np.testing.assert_allclose(result.biases["dense0"], alone.bias, atol=2e-3)
    assert result.report["dense0"].objective == pytest.approx(alone.after.sum(), rel=1e-2)


def test_biases_keep_the_mean_of_the_last_outputs(rng):
    """Without the ReLU behind it a layer's outputs have the float model's mean."""
    model = Mlp(rng, (32, 24))

    def linear(x):
        w, bias = model.layers["dense0"]
        return x @ w.T + bias

    exact = linear(model.x)
    model.put(quantize_layers(model.layers, model, [model.x], dtype="int2"))
    np.testing.assert_allclose(linear(model.x).mean(0), exact.mean(0), atol=1e-5)


def test_one_batch_or_many_and_any_leading_axes(rng):
    model = Mlp(rng)
    whole = quantize_layers(model.layers, model, [model.x])
    parts = quantize_layers(model.layers, model, iter([model.x[:7], model.x[7:100], model.x[100:].reshape(5, 100, 32)]))
    for name in whole:
        assert np.mean(whole[name].codes == parts[name].codes) > 0.9  # the sums differ by rounding
        assert whole.report[name].sqnr_db == pytest.approx(parts.report[name].sqnr_db, abs=0.3)


def test_layers_that_share_an_input_are_one_stage_and_the_residual_helps(rng):
    x = rng.normal(size=(40, 10, 32)).astype(np.float32)
    losses = []
    for tapped in (True, False):
        model = Block(np.random.default_rng(3), tapped=tapped)
        exact = model(x)
        model.order.clear()
        result = quantize_layers(model.layers, model, np.split(x, 4), dtype="int2", granularity=qn.PerGroup(16, 0))
        assert [layer.name for layer in result.report] == ["q", "k", "v", "out", "up", "down"]
        assert model.order[:6] == ["q", "k", "v", "out", "up", "down"]
        losses.append(error(model, result, x, exact))
    assert losses[0] < losses[1]


def test_a_buffer_used_again_is_another_input(rng):
    """The second layer gets the same memory with other numbers."""
    layers = {name: (rng.normal(size=(32, 32)), np.zeros(32)) for name in "ab"}
    data = rng.normal(size=(300, 32))

    def run(copies, buffer=None):
        buffer = np.empty_like(data) if buffer is None else buffer
        buffer[:] = data
        x = qn.tap("a", buffer.copy() if copies else buffer)
        np.tanh(x @ layers["a"][0].T, out=buffer)
        x = qn.tap("b", buffer)
        return x @ layers["b"][0].T

    result, fresh = (quantize_layers(layers, run, [copies]) for copies in (False, True))
    assert all(result[name] == fresh[name] for name in layers)
    common = np.empty_like(data)
    sentence = "run must be a function whose calls write to no common buffer; got two calls that do."
    refused(f"quantize_layers: {sentence}", layers, lambda copies: run(copies, common), [False])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_types_of_weights_and_inputs(rng, dtype):
    model = Mlp(rng)
    model.layers = {name: (w.astype(dtype), b.astype(dtype)) for name, (w, b) in model.layers.items()}
    for w, b in model.layers.values():
        w.flags.writeable = b.flags.writeable = False
    seen = []

    def run(x):
        seen.append({entry[0].dtype for entry in model.layers.values()})
        return model(x)

    result = quantize_layers(model.layers, run, [model.x.astype(dtype)])
    assert all(types == {np.dtype(dtype)} for types in seen)
    assert all(result.biases[name].dtype.type == np.dtype(dtype).type for name in result)


def test_without_data_each_weight_is_rounded_by_itself(rng):
    model = Mlp(rng)
    result = quantize_layers(model.layers, dtype="int4", granularity=qn.PerGroup(16), method="minmax")
    for name, (w, bias) in model.layers.items():
        assert result[name] == qn.quantize(w, dtype="int4", granularity=qn.PerGroup(16), symmetric=False)
        assert result.biases[name] is bias or np.array_equal(result.biases[name], bias)
    best = quantize_layers(model.layers, granularity=qn.PerGroup(16))
    assert all(best.report[name].sqnr_db >= result.report[name].sqnr_db for name in result)


# ---- offsets ----


def test_offsets_without_data_are_those_of_inputs_that_contribute_alike(rng):
    model = Mlp(rng)
    result = quantize_layers(model.layers, method="offsets")
    for name, (w, bias) in model.layers.items():
        assert result[name] == qn.weights.offsets(w, moments="assumed")
        assert result[name] != qn.weights.offsets(w)
        np.testing.assert_array_equal(result.dequantize(name), result[name].dequantize())
        np.testing.assert_array_equal(result.biases[name], bias)
        assert result.report[name].to_dict()["dtype"] == "uint4"
        assert result.report[name].shape == w.shape
    assert repr(result).startswith("QuantizedLayers(3 layers: dense0, dense1, dense2; uint4 per group 32, ")


def test_offsets_lose_least_without_data_where_large_inputs_have_small_weights(rng):
    """What a normalization with gains leaves: inputs whose products with their weights are alike."""
    model = Mlp(rng, (64, 64, 8))
    gains = np.exp(rng.normal(size=64)).astype(np.float32)
    w, bias = model.layers["dense0"]
    x = (rng.normal(size=(500, 64)) * gains).astype(np.float32)
    model.layers["dense0"] = w / gains, bias
    exact = model(x)
    losses = {
        method: error(model, quantize_layers(model.layers, dtype="int3", method=method), x, exact)
        for method in ("offsets", "mse", "minmax", "hqq")
    }
    assert losses["offsets"] < 0.85 * min(losses[method] for method in ("mse", "minmax", "hqq"))


def test_offsets_with_data_weight_the_inputs_and_resume(rng, tmp_path):
    model = Mlp(rng)
    arguments = {"dtype": "int3", "granularity": qn.PerGroup(16), "method": "offsets", "resume": tmp_path}
    result = quantize_layers(model.layers, model, [model.x], **arguments)
    exact = model(model.x)
    losses = [
        error(model, other, model.x, exact)
        for other in (result, quantize_layers(model.layers, dtype="int3", granularity=qn.PerGroup(16), method="mse"))
    ]
    assert losses[0] < 0.7 * losses[1]
    assert any(result.report[name].sqnr_db > 10 for name in result)
    again = quantize_layers(model.layers, model, [model.x], **arguments)
    for name in result:
        assert isinstance(again[name], qn.OffsetArray)
        assert again[name] == result[name]
        assert again.report[name] == result.report[name]
        np.testing.assert_array_equal(again.biases[name], result.biases[name])


@pytest.mark.parametrize("options", [{}, {"hadamard": True}, {"activations": "int8"}], ids=str)
@pytest.mark.parametrize("data", [True, False])
def test_packed_offsets_multiply(rng, options, data):
    model = Mlp(rng, (32, 64, 16))
    exact = model(model.x)
    arguments = (model.layers, model, [model.x]) if data else (model.layers,)
    result = quantize_layers(*arguments, dtype="int8", method="offsets", **options)
    x = model.x
    for name in result:
        x = np.maximum(x @ result.pack(name), 0)
    assert np.square(x - exact).mean() < 1e-3 * np.square(exact).mean()
    with pytest.raises(ValueError, match="in groups of"):
        quantize_layers(model.layers, granularity=qn.PerChannel(0), method="offsets").pack("dense0")


@pytest.mark.parametrize("granularity", [qn.PerGroup(16, 0), qn.PerGroup(20, 0), qn.PerChannel(1)], ids=str)
def test_offsets_of_weights_with_outputs_last_and_of_any_values(rng, granularity):
    w = rng.normal(size=(40, 6)).astype(np.float32)
    w[3], w[:, 1], w[:, 2] = 0, 0, 2.5
    layers = {"a": w, "zeros": np.zeros((40, 3)), "tiny": w * 1e-30, "huge": (w * 1e30, np.zeros(6)), "one": w[:1]}
    result = quantize_layers(layers, dtype="int8", granularity=granularity, method="offsets")
    for name, entry in layers.items():
        wanted = entry[0] if isinstance(entry, tuple) else entry
        np.testing.assert_allclose(
            result.dequantize(name),
            wanted,
            atol=0.02 * np.abs(w).max() * 1e30 ** ({"tiny": -1, "huge": 1}.get(name, 0)),
        )


# ---- rotation and activations ----


@pytest.mark.parametrize("data", [True, False])
def test_hadamard_rotates_and_dequantize_rotates_back(rng, data):
    model = Mlp(rng, (32, 64, 16))
    exact = model(model.x)
    arguments = (model.layers, model, [model.x]) if data else (model.layers,)
    result = quantize_layers(*arguments, dtype="int8", hadamard=True)
    assert set(result.hadamards) == set(result)
    for name, (w, _) in model.layers.items():
        rotated = result[name].dequantize()
        assert np.abs(rotated - w).max() > 0.1
        np.testing.assert_allclose(result.dequantize(name), w, atol=0.02)
    assert error(model, result, model.x, exact) < 1e-3


def test_int8_activations_are_what_the_layers_get(rng):
    model = Mlp(rng, (32, 64, 16))
    seen = []

    def run(x):
        for name in model.layers:
            y = qn.tap(name, x)
            seen.append(y is x)
            w, bias = model.layers[name]
            x = np.maximum(y @ w.T + bias, 0)

    quantize_layers(model.layers, run, [model.x], dtype="int8", activations="int8")
    assert seen.count(False) == 1  # the first layer of the quantized model; its second one ends the work
    packed = quantize_layers(
        model.layers, run, [model.x], dtype="int8", granularity=qn.PerChannel(0), activations="int8"
    )
    x = model.x
    for name in packed:
        x = np.maximum(x @ packed.pack(name), 0)
    exact = model(model.x)
    assert np.square(x - exact).mean() < 1e-3 * np.square(exact).mean()


# ---- what run sees ----


def test_entries_are_replaced_while_it_runs_and_restored(rng):
    model = Mlp(rng)
    before = dict(model.layers)
    seen = {name: set() for name in before}

    def run(x):
        for name in before:
            x = qn.tap(name, x)
            w, bias = model.layers[name]
            seen[name].add(w is before[name][0])
            x = np.maximum(x @ w.T + bias, 0)

    quantize_layers(model.layers, run, np.split(model.x, 3))
    assert all(model.layers[name] is before[name] for name in before)
    assert seen == {"dense0": {True, False}, "dense1": {True, False}, "dense2": {True}}


def test_each_batch_runs_twice_and_the_first_once_more(rng):
    model, calls = Mlp(rng), []

    def run(x):
        calls.append(len(x))
        return model(x)

    quantize_layers(model.layers, run, [model.x[:10], model.x[10:30]])
    assert sorted(calls) == [10, 10, 10, 20, 20]


def test_only_one_thread_runs(rng):
    model, running = Mlp(rng), []

    def run(x):
        running.append(0)
        assert len(running) == 1
        for name in model.layers:
            running.pop()
            x = qn.tap(name, x)
            running.append(0)
            assert len(running) == 1
            w, bias = model.layers[name]
            x = np.maximum(x @ w.T + bias, 0)
        running.pop()

    quantize_layers(model.layers, run, np.split(model.x, 6))


def test_runs_have_the_context_of_the_caller(rng):
    model, counts = Mlp(rng), set()

    def run(x):
        counts.add((qn.num_threads(), np.geterr()["over"]))
        return model(x)

    with qn.threads(1), np.errstate(over="raise"):
        quantize_layers(model.layers, run, [model.x])
    assert counts == {(1, "raise")}


def test_other_names_and_other_listeners_are_left_alone(rng):
    model = Mlp(rng)

    def run(x):
        qn.tap("elsewhere", x)
        qn.tap("elsewhere.residual", x)
        return model(x)

    with qn.observing(qn.MinMaxObserver()) as seen:
        quantize_layers(model.layers, run, [model.x])
        qn.tap("after", model.x)
    assert list(seen) == ["after"]


# ---- what it refuses ----


def refused(sentence, layers, *arguments, error=ValueError, **options):
    before = dict(layers) if isinstance(layers, dict) else None
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        quantize_layers(layers, *arguments, **options)
    if before is not None:
        assert all(layers[name] is before[name] for name in before)


W = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("error", "arguments", "sentence"),
    [
        (TypeError, {"layers": [W]}, "layers must be a dict of weights by name; got [array([[1., 1., 1., 1., 1., 1., "),
        (ValueError, {"layers": {}}, "layers must be one or more; got none."),
        (TypeError, {"layers": {1: W}}, "the keys of layers must be texts; got 1."),
        (ValueError, {"layers": {"a": W[0]}}, "layers['a'] must be a matrix; got shape (8,)."),
        (ValueError, {"layers": {"a": W[:0]}}, "layers['a'] must be of one element or more; got shape (0, 8)."),
        (ValueError, {"layers": {"a": W * np.nan}}, "layers['a'] must be finite; got NaN or infinities."),
        (ValueError, {"layers": {"a": (W, W, W)}}, "layers['a'] must be a weight or (weight, bias); got 3 items."),
        (ValueError, {"layers": {"a": (W, W[0])}}, "the bias of layers['a'] must be of shape (4,); got shape (8,)."),
        (TypeError, {"layers": {"a": np.ones((2, 2), int)}}, "layers['a'] must be an array of float32, float64, "
         "float16 or bfloat16; got dtype int64."),
        (TypeError, {"granularity": qn.PerTensor()}, "granularity must be PerChannel(axis) or PerGroup(group_size); "
         "got PerTensor()."),
        (TypeError, {"symmetric": "half"}, "symmetric must be True, False or 'full'; got 'half'."),
        (ValueError, {"method": "entropy"}, "method must be one of 'gptq', 'mse', 'hqq', 'minmax', 'offsets'; "
         "got 'entropy'."),
        (ValueError, {"method": "gptq", "run": None, "batches": None}, "method must be another one without run and "
         "batches; got 'gptq'."),
        (ValueError, {"method": "offsets", "symmetric": True}, "symmetric must be False for the method 'offsets'; "
         "got True."),
        (ValueError, {"method": "offsets", "symmetric": "full"}, "symmetric must be False for the method 'offsets'; "
         "got 'full'."),
        (ValueError, {"damping": -1}, "damping must be in [0, 1000000]; got -1."),
        (ValueError, {"damping": 1e200}, "damping must be in [0, 1000000]; got 1e+200."),
        (ValueError, {"hadamard": True, "layers": {"a": W[:, :5]}}, "hadamard must be False for an odd number of "
         "inputs; got layers['a'] with 5 inputs."),
        (TypeError, {"hadamard": 1}, "hadamard must be True or False; got 1."),
        (ValueError, {"activations": "int4"}, "activations must be None or 'int8'; got 'int4'."),
        (TypeError, {"run": 3}, "run must be callable; got 3."),
        (TypeError, {"batches": 3}, "batches must be iterable; got 3."),
        (ValueError, {"batches": None}, "run and batches must be both there or both left out; got run alone."),
        (qn.CalibrationError, {"batches": []}, "batches must be one or more; got none."),
        (TypeError, {"progress": 1}, "progress must be True or False; got 1."),
        (TypeError, {"resume": 1}, "resume must be a text or a path; got 1."),
    ],
)  # fmt: skip
def test_wrong_arguments(error, arguments, sentence):
    layers = {"a": (W, np.zeros(4))}
    arguments = {"layers": layers, "run": lambda x: qn.tap("a", x), "batches": [W], **arguments}
    with pytest.raises(error) as caught:
        quantize_layers(**arguments)
    assert str(caught.value).startswith(f"quantize_layers: {sentence}")
    assert type(caught.value) is error


def test_what_run_must_do():
    layers = {"a": (W, np.zeros(4)), "b": (np.ones((2, 4), np.float32), np.zeros(2))}
    x = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 8)
    y = x[:, :4]
    owner = "quantize_layers: "

    def refuses(sentence, run, batches=(1, 2)):
        refused(owner + sentence, layers, run, batches)

    refuses("the keys of layers must be names of layers whose input run taps; got 'b'.", lambda i: qn.tap("a", x))
    refuses("run must be a function that taps a layer once; got 'a' again.", lambda i: (qn.tap("a", x), qn.tap("a", x)))
    refuses("the input of 'a' must be of shape (..., 8); got shape (3, 4).", lambda i: qn.tap("a", y))
    refuses(
        "run must be a function that taps 'a.residual' before 'a'; got the other order.",
        lambda i: (qn.tap("a", x), qn.tap("a.residual", y)),
    )
    nan = (
        "the input of 'b' must be finite; got NaN or infinities. A layer is NaN unless run reads it after its tap and "
        "before the next one."
    )
    early = lambda i: (layers["a"], qn.tap("a", x), qn.tap("b", x @ layers["b"][0].T.repeat(2, 0)[:8, :1] + y))  # noqa: E731
    refuses(nan, early)
    order = "run must be a function that taps the same layers in the same order in every batch; got "
    names = lambda i: [("a", x), ("b", y)][:: -1 if i == 2 else 1]  # noqa: E731
    refuses(order + "'b' out of turn.", lambda i: [qn.tap(*pair) for pair in names(i)])
    refuses(order + "the end out of turn.", lambda i: [qn.tap(*pair) for pair in names(1)[: 3 - i]])
    lost = lambda i: [qn.tap("a", x), i == 1 and qn.tap("b.residual", y[:, :2]), qn.tap("b", y)]  # noqa: E731
    refuses(order + "'b' out of turn.", lost)
    wide = lambda i: [qn.tap("a.residual", x), qn.tap("a", x), qn.tap("b", y)]  # noqa: E731
    refuses("the residual of 'a' must be of shape (3, 4); got shape (3, 8).", wide)


def test_inputs_that_are_not_finite_later_and_no_rows():
    layers = {"a": (W, np.zeros(4))}
    x = np.ones((2, 8), np.float32)
    sentence = "quantize_layers: the input of 'a' must be finite; got NaN or infinities."
    refused(sentence, layers, lambda x: qn.tap("a", x), [x, x * np.inf])
    sentence = "quantize_layers: batches must be of one row or more; got none."
    refused(sentence, layers, lambda x: qn.tap("a", x), [x[:0]], error=qn.CalibrationError)


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_exceptions_of_run_pass_through_and_all_is_restored(rng, call):
    model, calls = Mlp(rng), []

    class Unexpected(BaseException):
        pass

    def run(x):
        calls.append(x)
        number = len(calls)
        for name in model.layers:
            if number == call and name == "dense2":
                raise Unexpected("in the middle")
            x = qn.tap(name, x)
            w, bias = model.layers[name]
            x = np.maximum(x @ w.T + bias, 0)

    before = dict(model.layers)
    with pytest.raises(Unexpected, match=r"^in the middle$") as caught:
        quantize_layers(model.layers, run, np.split(model.x, 2))
    assert all(model.layers[name] is before[name] for name in before)
    assert "run" in [entry.name for entry in caught.traceback]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_an_interrupt_ends_all_threads(rng):
    model, before = Mlp(rng), None

    def run(x):
        for name in model.layers:
            x = qn.tap(name, x)
            if threading.current_thread() is not threading.main_thread() and name == "dense1":
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(0.05)
            w, bias = model.layers[name]
            x = np.maximum(x @ w.T + bias, 0)

    before = dict(model.layers)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            quantize_layers(model.layers, run, np.split(model.x, 3))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert all(model.layers[name] is before[name] for name in before)


# ---- reports, files, memory ----


def test_the_report_is_a_table(rng):
    model = Mlp(rng)
    report = quantize_layers(model.layers, model, [model.x]).report
    assert [layer.name for layer in report] == list(model.layers)
    assert str(report).splitlines()[0].split() == [
        "layer", "type", "granularity", "shape", "nearest", "objective", "SQNR", "dB", "seconds",
    ]  # fmt: skip
    assert json.loads(report.to_json())["tensors"] == report.to_records()
    assert "<table>" in report._repr_html_()
    with pytest.raises(KeyError, match=r"^'nothing'$"):
        report["nothing"]


def test_the_sqnr_is_that_of_the_outputs(rng):
    """Of the last layer, measured: of the quantized model against the float one, about their means."""
    model = Mlp(rng)
    outputs = []

    def run(x):
        for name in model.layers:
            x = qn.tap(name, x)
            w, bias = model.layers[name]
            y = x @ w.T + bias
            x = np.maximum(y, 0)
        return y

    exact = run(model.x)
    result = quantize_layers(model.layers, run, [model.x])
    model.put(result)
    outputs = run(model.x)
    exact, noise = exact - exact.mean(0), outputs - exact
    sqnr = 10 * np.log10(np.square(exact).sum() / np.square(noise - noise.mean(0)).sum())
    assert result.report["dense2"].sqnr_db == pytest.approx(sqnr, abs=0.02)


def test_a_result_is_a_mapping_and_pickles(rng):
    model = Mlp(rng)
    result = quantize_layers(model.layers, model, [model.x], hadamard=True)
    assert list(result) == list(model.layers)
    assert repr(result).startswith("QuantizedLayers(3 layers: dense0, dense1, dense2; int4 per group 32, ")
    back = pickle.loads(pickle.dumps(result))
    assert isinstance(back, QuantizedLayers)
    for name in result:
        assert back[name] == result[name]
        assert np.array_equal(back.dequantize(name), result.dequantize(name))


def test_what_is_done_is_resumed(rng, tmp_path):
    model, calls = Mlp(rng), []
    whole = quantize_layers(model.layers, model, np.split(model.x, 2))

    def run(x):
        calls.append(x)
        number = len(calls)
        for name in model.layers:
            if 1 < number < 6 and name == "dense1":
                raise OSError("the power fails")
            x = qn.tap(name, x)
            w, bias = model.layers[name]
            x = np.maximum(x @ w.T + bias, 0)

    with pytest.raises(OSError, match=r"^the power fails$"):
        quantize_layers(model.layers, run, np.split(model.x, 2), resume=tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["stage-0000.safetensors"]
    calls.extend([None] * 9)
    result = quantize_layers(model.layers, run, np.split(model.x, 2), resume=str(tmp_path / "work"))
    for name in whole:
        assert result[name] == whole[name]
        assert np.array_equal(result.biases[name], whole.biases[name])
    again = quantize_layers(model.layers, run, np.split(model.x, 2), resume=tmp_path / "work")
    assert again.report.to_records() == result.report.to_records()
    sentence = (
        "quantize_layers: resume must be a folder of the same layers and options; got stage-0000.safetensors of others."
    )
    refused(sentence, model.layers, run, [model.x], resume=tmp_path / "work", dtype="int8")
    model.layers["dense0"][0][0, 0] += 1
    refused(sentence, model.layers, run, [model.x], resume=tmp_path / "work")


def test_a_bar_on_request(rng, capsys):
    model = Mlp(rng)
    quantize_layers(model.layers, model, [model.x], progress=True)
    assert "quantize" in capsys.readouterr().err
    quantize_layers(model.layers, model, [model.x])
    assert capsys.readouterr().err == ""


def test_memory_is_freed(rng):
    model = Mlp(rng, (64, 256, 256, 8))
    batches = np.split(model.x, 6)
    quantize_layers(model.layers, model, batches)
    gc.collect()
    tracemalloc.start()
    result = quantize_layers(model.layers, model, batches)
    gc.collect()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 3 * result.nbytes + 300_000
    # the activations of both models, three second moments, and some copies of the widest weight
    assert peak < 2 * (2 * 600 * 256 * 4) + 6 * 256 * 256 * 8 + 2_000_000


# ---- hostile inputs ----


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e18])
def test_tiny_and_huge_values(rng, factor):
    model = Mlp(rng, (32, 16))
    layers = {"dense0": model.layers["dense0"][0]}
    result = quantize_layers(layers, lambda x: qn.tap("dense0", x), [model.x * np.float32(factor)])
    plain = quantize_layers(layers, lambda x: qn.tap("dense0", x), [model.x])
    assert np.mean(result["dense0"].codes == plain["dense0"].codes) > 0.95
    layers = {"dense0": model.layers["dense0"][0] * np.float32(factor)}
    result = quantize_layers(layers, lambda x: qn.tap("dense0", x), [model.x])
    assert np.mean(result["dense0"].codes == plain["dense0"].codes) > 0.95


def test_inputs_of_zeros_one_row_and_one_input(rng):
    w = rng.normal(size=(4, 8)).astype(np.float32)
    zeros = quantize_layers(
        {"a": (w, np.ones(4))}, lambda x: qn.tap("a", x), [np.zeros((5, 8))], granularity=qn.PerGroup(8)
    )
    np.testing.assert_allclose(zeros.dequantize("a"), w, atol=0.5)
    np.testing.assert_array_equal(zeros.biases["a"], np.ones(4))
    row = quantize_layers({"a": w}, lambda x: qn.tap("a", x), [np.ones(8)], granularity=qn.PerGroup(8))
    np.testing.assert_allclose(row.dequantize("a").sum(1), w.sum(1), atol=0.3)
    thin = quantize_layers({"a": w[:, :1]}, lambda x: qn.tap("a", x), [rng.normal(size=(9, 1))])
    assert thin["a"].shape == (4, 1)
