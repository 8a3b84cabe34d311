"""Right arguments for every public function, and values that are wrong for most parameters."""

import re

import ml_dtypes
import numpy as np

import qnumpy as qn

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
Q = np.arange(6, dtype=np.int8).reshape(2, 3)
ACC = np.arange(6, dtype=np.int32).reshape(2, 3)
BYTES = np.arange(6, dtype=np.uint8).reshape(2, 3)
IMAGE, FILTERS = np.ones((1, 2, 4, 4), np.uint8), np.ones((2, 2, 3, 3), np.int8)
PARAMS = qn.QParams(0.5, 0)
MX = qn.quantize(X, dtype="mxfp8_e4m3")
MOMENTS = qn.MomentsObserver().observe(X)
WEIGHT = qn.quantize(X.T, granularity=qn.PerChannel(1))
ONES = np.ones(3, np.float32)
WIDE = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)

# function -> right arguments by name
CALLS = {
    "quantize": {"x": X, "qparams": None, "dtype": "int8", "granularity": None, "symmetric": True, "method": "minmax",
                 "moments": None},
    "dequantize": {"q": qn.quantize(X), "dtype": "float32", "out": None},
    "choose_qparams": {
        "x": X, "dtype": "int8", "granularity": None, "symmetric": True, "method": "percentile", "percentile": 99.0,
        "moments": None,
    },
    "quantize_linear": {
        "x": X, "scale": 0.5, "zero_point": 0, "dtype": "int8", "axis": 0, "block_size": 2, "convention": "onnx",
        "on_nan": "zero_point", "out": None,
    },
    "dequantize_linear": {
        "q": Q, "scale": 0.5, "zero_point": 0, "axis": 0, "block_size": 2, "dtype": "float32", "out": None,
    },
    "dynamic_quantize_linear": {"x": X},
    "fake_quantize": {"x": X, "qparams": PARAMS, "convention": "onnx", "out": None},
    "requantize": {
        "acc": ACC, "multiplier": 0.5, "zero_point": 0, "dtype": "int8", "axis": 0, "method": "fixed", "out": None,
    },
    "cast": {"x": X, "dtype": "float16", "overflow": "inf", "rounding": "stochastic", "seed": 1, "out": None},
    "pack": {"codes": Q, "dtype": "int4", "axis": 0},
    "unpack": {"packed": BYTES, "dtype": "int4", "n": 3, "axis": 0},
    "min_max": {"x": X, "granularity": None, "on_nonfinite": "ignore"},
    "matmul": {"a": Q, "b": Q.T, "accumulate": "int32"},
    "matmul_integer": {"a": Q, "b": Q.T, "a_zero_point": 0, "b_zero_point": 0, "out": None},
    "conv2d_integer": {
        "x": IMAGE, "w": FILTERS, "x_zero_point": 1, "w_zero_point": 0, "strides": 1, "padding": 0, "dilations": 1,
        "groups": 1, "out": None,
    },
    "qlinear_matmul": {
        "a": Q, "a_scale": 0.5, "a_zero_point": 0, "b": Q.T, "b_scale": 0.5, "b_zero_point": 0, "y_scale": 0.5,
        "y_zero_point": np.int8(0),
    },
    "qlinear_conv2d": {
        "x": IMAGE, "x_scale": 0.5, "x_zero_point": 0, "w": FILTERS, "w_scale": 0.5, "w_zero_point": 0, "y_scale": 0.5,
        "y_zero_point": np.int8(0), "bias": None, "strides": 1, "padding": 0, "dilations": 1, "groups": 1,
    },
    "accumulate_dot": {"a": X, "b": X[0], "accumulate": "float32"},
    "accumulator": {"dtype": "int8"},
    "bits": {"x": X},
    "compare": {"x": X, "q": X, "name": None, "axis": None, "per_channel": False},
    "float_report": {"x": X, "dtype": "float16", "name": None},
    "simulate_saturation": {"a": BYTES, "b": Q.T},
    "QParams": {
        "scale": 0.5, "zero_point": 0, "dtype": "int8", "granularity": qn.PerTensor(), "qmin": -9, "qmax": 9,
    },
    "QParams.from_range": {
        "min": -1.0, "max": 2.0, "dtype": "int8", "symmetric": False, "granularity": None, "include_zero": False,
    },
    "PerChannel": {"axis": 0},
    "PerGroup": {"group_size": 2, "axis": -1},
    "QuantizedArray": {"codes": Q, "qparams": PARAMS},
    "MinMaxObserver": {"dtype": "int8", "granularity": None, "symmetric": True, "on_nonfinite": "ignore"},
    "MomentsObserver": {"on_nonfinite": "ignore"},
    "set_num_threads": {"n": 1},
    "set_isa": {"name": "scalar"},
    "HistogramObserver": {
        "method": "percentile", "percentile": 99.0, "dtype": "int8", "granularity": None, "symmetric": True,
        "on_nonfinite": "ignore",
    },
    "MovingAverageMinMaxObserver": {"averaging_constant": 0.1, "dtype": "int8", "granularity": None, "symmetric": True},
    "GGUFArray": {"data": np.zeros((2, 18), np.uint8), "type": "Q4_0"},
    "PackedWeight": {
        "w": WEIGHT, "bias": None, "axis": 0, "clip": (None, None), "x_granularity": None, "symmetric": True,
        "activation_bits": 8, "x_qparams": None, "out_qparams": None, "scale_dtype": "float32",
        "hadamard": None,
    },
    "qmatmul": {"a": qn.quantize(X), "b": WEIGHT, "bias": None, "out_qparams": None},
    "MXArray": {"codes": MX.codes, "scales": MX.scales, "format": "mxfp8_e4m3", "tensor_scale": None},
    "concatenate": {"arrays": [qn.quantize(X), qn.quantize(X)], "axis": 0},
    "tap": {"name": "x", "x": X},
    "CodebookArray": {
        "codes": np.zeros((2, 3), np.uint8), "codebook": [0.0, 1.0], "granularity": None, "scale": 0.5,
        "scale_granularity": None,
    },
    "OffsetArray": {"codes": BYTES, "scale": 0.5, "offset": 1.0, "granularity": qn.PerTensor(), "dtype": None},
    "weights.codebook": {
        "w": X, "method": "nf4", "bits": 4, "granularity": None, "moments": None, "scale": "search", "centered": False,
        "damping": 0.1,
    },
    "weights.offsets": {"w": X, "bits": 4, "group_size": 2, "axis": -1, "moments": None},
    "weights.correct_bias": {"x": X, "w": X.T, "q": WEIGHT, "bias": None, "axis": 0},
    "weights.quantize_layers": {
        "layers": {"w": X}, "dtype": "int4", "granularity": None, "symmetric": False, "method": "mse", "damping": 0.1,
        "hadamard": False, "activations": None, "progress": None,
    },
    "tune": {
        "run": np.tanh, "layers": {"w": X}, "data": [X], "metric": "cosine", "max_drop": 1.0, "drop": "absolute",
        "min_score": None, "budget": 1, "objective": "size", "dtypes": ["int8"], "techniques": ["mse"],
        "granularity": None, "progress": None,
    },
    "weights.quantize_gguf": {"w": WIDE, "type": "Q4_0", "moments": None},
    "weights.reduce_range": {"qparams": PARAMS},
    "weights.safe_weights": {"w": Q, "axis": 0},
    "weights.smoothquant_alpha": {
        "x": X, "w": X.T, "alphas": None, "axis": 0, "dtype": "int8", "x_granularity": None, "w_granularity": None,
        "x_symmetric": True,
    },
    "weights.smoothquant": {"x": X, "w": X.T, "alpha": 0.5, "axis": 0, "power_of_two": False},
    "weights.awq": {
        "x": X, "w": X, "granularity": qn.PerChannel(0), "dtype": "int4", "symmetric": True, "method": "mse",
        "alphas": None, "power_of_two": False,
    },
    "weights.hadamard": {"size": 12, "seed": 0},
    "weights.Hadamard": {"size": 12, "seed": 0},
    "weights.gptq": {
        "w": X, "moments": MOMENTS, "granularity": qn.PerChannel(0), "dtype": "int4", "symmetric": True, "bias": None,
        "centered": True, "damping": 0.1,
    },
    "weights.patches": {"x": IMAGE.astype(np.float32), "kernel": 2, "strides": 1, "padding": 0, "dilations": 1},
    "weights.cross_layer_equalize": {
        "w1": X, "w2": X.T, "bias": None, "axis1": -1, "axis2": 0, "power_of_two": False,
    },
    "qat.fake_quantize": {"x": X, "qparams": PARAMS, "convention": "onnx"},
    "qat.fake_quantize_vjp": {"g": X, "saved": qn.qat.fake_quantize(X, PARAMS)[1], "grad": "clipped"},
    "qat.lsq": {
        "x": X, "scale": 0.5, "zero_point": 1.0, "dtype": "int8", "granularity": qn.PerTensor(), "symmetric": False,
        "convention": "onnx",
    },
    "qat.lsq_vjp": {"g": X, "saved": qn.qat.lsq(X, 0.5)[1], "normalize": True},
    "qat.pact": {"x": X, "alpha": 1.0, "dtype": "uint8", "granularity": None},
    "qat.pact_vjp": {"g": X, "saved": qn.qat.pact(X, 1.0)[1]},
    "qat.FakeQuantize": {"observer": qn.MinMaxObserver(), "delay": 0, "convention": "onnx"},
    "qat.LearnedScale": {"dtype": "int8", "granularity": None, "symmetric": True, "delay": 0},
    "qat.Schedule": {"dtypes": {0: "int4"}, "freeze": 3},
    "qat.fold_batch_norm": {
        "w": X.T, "bias": None, "gamma": ONES, "beta": ONES, "mean": ONES, "variance": ONES, "epsilon": 1e-5, "axis": 0,
    },
}  # fmt: skip


def onnx_calls():
    """Return right arguments for every function of qn.onnx; made on demand, because onnx is an extra."""
    from onnx_zoo import mlp, mlp_inputs

    model, x = mlp(), mlp_inputs(batch=3)["x"]
    quantized = qn.onnx.quantize_weights(model, include=["*"], progress=False)
    names = {"include": ["*"], "exclude": None}
    static = {"observer": "mse", "percentile": 99.99, "rounding": "gptq", "progress": False, "resume": None}
    return {
        "onnx.inspect": {"model": model, "shapes": None},
        "onnx.report": {"model": quantized},
        "onnx.session": {"model": model, "threads": 1, "options": None},
        "onnx.ReferenceEvaluator": {"model": model},
        "onnx.quantize_dynamic": {
            "model": model, "output": None, "target": "standard", "per": "row", "data": [x], **names,
            "smooth": True, "target_cpu": "any", "float_weights": "int16", "progress": False,
        },
        "onnx.calibrate": {"model": model, "data": [x], **static},
        "onnx.quantize_static": {
            "model": model, "data": [x], "output": None, **static, **names, "calibration": None, "form": "QDQ",
            "target_cpu": "any", "correct_bias": True, "min_sqnr": 1.0, "measure": False,
            "float_weights": "int16", "quantize_outputs": False,
        },
        "onnx.quantize_weights": {
            "model": model, "output": None, "dtype": "int8", "group_size": None, "method": "mse", "data": None,
            **names, "form": None, "symmetric": False, "progress": False, "resume": None, "lookup_dtype": None,
            "conv_dtype": None, "activations": "float", "damping": 0.3,
        },
        "onnx.convert_float": {"model": model, "output": None, "dtype": "float16", "data": None, **names,
                               "progress": False, "keep_io": True, "weights_only": False, "measure": False},
        "onnx.evaluate": {"model": model, "data": [x], "metric": "sqnr", "reference": model, "labels": None,
                          "threads": 1},
        "onnx.compare": {"model": model, "quantized": quantized, "data": [x], "progress": False},
        "onnx.check_exact": {"model": quantized, "data": [x], "measure": False, "progress": False},
        "onnx.tune": {
            "model": model, "data": [x], "metric": "sqnr", "output": None, "max_drop": None, "drop": "absolute",
            "min_score": 10, "max_latency": None, "objective": "size", "budget": 2, "dtypes": ["int8"],
            "techniques": ["weights"], "labels": None, **names, "target_cpu": "any", "threads": 1, "resume": None,
            "progress": False,
        },
    }  # fmt: skip


class Broken:
    """An array of another library that does not convert itself."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no data")


WRONG = [
    None, True, np.True_, 0, 1, -1, 2, 3, 10**30, -(2**63), 1.5, 0.0, -0.0, -1.5, np.nan, np.inf, -np.inf, 1e300,
    1e-300, 1 + 2j, "", "False", "1", "int8", "float16", "mxfp4", "nonsense", "\n", b"x", (), [], {}, set(),
    [1, 2], [[1, 2], [3]], [None], ["1", "2"], [1.0, "a"], (1, 1), (0, -1, 2, 3), range(3), object(), object, int,
    len, (k for k in range(2)), slice(None), ..., np.float32(1), np.int64(1), np.uint64(2**63),
    np.datetime64("2020"), np.dtype("int8"), ml_dtypes.int4, X, Q, ACC, BYTES, X.astype(np.float16),
    X.astype(ml_dtypes.bfloat16), X[:0], X[0, 0], X.astype(">f4"), X.T, X[::-1], Q.astype(ml_dtypes.int4),
    np.full((2, 3), np.nan, np.float32), np.full((2, 3), np.inf), np.ones((2, 1)), np.ones((0, 3)),
    np.ones((1,) * 32), np.array(None), np.array("a"), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "i4")]),
    np.ones(2, bool), np.ones((2, 3), complex), np.ma.masked_array(X, X > 0), [np.ma.masked_array(X)],
    np.ones((2, 2)).view(np.matrix), np.rec.array([(1, 2.0)]), memoryview(b"abc"), bytearray(b"abc"), Broken(),
    [Broken()], qn.quantize(X), [qn.quantize(X)], qn.quantize(X, dtype="mxfp4"), PARAMS,
    qn.QParams([0.5, 0.5], 0, "int8", qn.PerChannel(0)), qn.PackedWeight(WEIGHT), qn.PerTensor(), qn.PerChannel(7),
    qn.PerChannel(-3), qn.PerGroup(2), qn.PerRow(), qn.MinMaxObserver(),
    qn.MomentsObserver(), MOMENTS,
]  # fmt: skip

FLAGS = (
    "symmetric", "centered", "include_zero", "per_channel", "power_of_two", "progress", "x_symmetric", "hadamard",
    "normalize",
)  # fmt: skip


def function(name):
    """A public function by its path in qnumpy."""
    result = qn
    for part in name.split("."):
        result = getattr(result, part)
    return result


def owner(name):
    """The name that errors begin with: that of the function without its module."""
    return name.removeprefix("weights.").removeprefix("qat.")


def is_sentence(name, error):
    """Whether an error is the sentence of a function: its name, what must be, what came, how to mend it."""
    pattern = rf"^{re.escape(owner(name))}: .*\b(must|no|every)\b.*; got .*\.( .+\.)?$"
    return "\n" not in str(error) and re.match(pattern, str(error)) is not None
