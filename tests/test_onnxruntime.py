"""ONNX Runtime's CPU kernels as a second oracle: one operator to a session, all grids, equal to the last bit.

What is left out, because there ONNX Runtime does something that neither ONNX nor qnumpy prescribes or promises:

- NaN: it becomes the smallest code there, the zero point here; ONNX names no result.
- float16 input from opset 23 on: the operator then divides in the type of the scale, float16; qnumpy widens first, as
  ONNX Runtime does for opset 21.
- DynamicQuantizeLinear of a range below 255 * 2**-126: its scale is subnormal there, the smallest normal number here.
"""

import numpy as np
import pytest
from strategies import GRIDS, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy.dtypes import INTEGER_TYPES, code_type

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

SIZES = (1, 7, 33, 200)
REALS = ("float32", "float16")
CODES = [name for name, code in INTEGER_TYPES.items() if not code.is_named]  # those that ONNX has
EIGHT_BITS_AND_MORE = [code for code in CODES if code_type(code).bits >= 8]
QUANTIZED = [(real, code) for real in REALS for code in CODES if real == "float32" or code_type(code).bits >= 4]


def session(operator, inputs, outputs, **attributes):
    """A model of one node. 4- and 2-bit tensors, which NumPy hands over as bytes, are cast on the way in and out.

    `inputs` and `outputs` map names to (type, shape).
    """
    kinds = {**inputs, **outputs}
    stored = {name: storage_name(kind) for name, (kind, _) in kinds.items()}
    inner = {name: name if stored[name] == kind else f"{name}_narrow" for name, (kind, _) in kinds.items()}
    make = onnx.helper

    def number(name):
        return onnx.TensorProto.DataType.Value("FLOAT" if name == "float32" else name.upper())

    def cast(name, to, source, target):
        return [make.make_node("Cast", [source], [target], to=number(to))] if source != target else []

    nodes = [n for name, (kind, _) in inputs.items() for n in cast(name, kind, name, inner[name])]
    nodes.append(make.make_node(operator, [inner[k] for k in inputs], [inner[k] for k in outputs], **attributes))
    nodes += [n for name in outputs for n in cast(name, stored[name], inner[name], name)]
    infos = {k: make.make_tensor_value_info(k, number(stored[k]), shape) for k, (_, shape) in kinds.items()}
    graph = make.make_graph(nodes, "one", [infos[k] for k in inputs], [infos[k] for k in outputs])
    opset = 25 if any(kind in ("int2", "uint2") for kind, _ in kinds.values()) else 21
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=10)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the operator as it stands
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions derive from Exception alone
        if opset == 25:
            pytest.skip(f"onnxruntime {runtime.__version__} has no 2-bit codes: {type(error).__name__}")
        raise


def storage_name(name):
    code = code_type(name)
    return name if code is None else code.storage.name


def plain(codes):
    return codes.view(code_type(codes.dtype).storage)


def attributes_of(grid, ndim):
    if grid.axis is None:
        return {}
    axis = {"axis": grid.axis % ndim}
    return axis if grid.block_size is None else {**axis, "block_size": grid.block_size}


def problem(grid, n, code, real, seed):
    """x without NaN, and parameters whose scale is a number of the same type."""
    x, scale, zero = case(grid, n, code, SOURCES[real], seed)
    x = np.where(np.isnan(x), np.ones((), x.dtype), x)
    return x, np.asarray(scale.astype(real)), np.asarray(zero.astype(code_type(code).storage))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("real", "code"), QUANTIZED)
def test_quantize_linear(real, code, grid):
    grid = GRIDS[grid]
    for n in SIZES:
        x, scale, zero = problem(grid, n, code, real, seed=11)
        kinds = {"x": (real, x.shape), "scale": (real, scale.shape), "zero": (code, zero.shape)}
        oracle = session("QuantizeLinear", kinds, {"y": (code, x.shape)}, **attributes_of(grid, x.ndim))
        (want,) = oracle.run(None, {"x": x, "scale": scale, "zero": zero})
        got = qn.quantize_linear(x, scale, zero, dtype=code, **grid.where)
        assert_same_bits(plain(got), want, f"n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("code", CODES)
def test_dequantize_linear(code, real, grid):
    grid = GRIDS[grid]
    kind = code_type(code)
    for n in SIZES:
        _, scale, zero = problem(grid, n, code, real, seed=12)
        q = np.random.default_rng(n).integers(kind.qmin, kind.qmax + 1, grid.of(n)).astype(kind.storage)
        kinds = {"x": (code, q.shape), "scale": (real, scale.shape), "zero": (code, zero.shape)}
        oracle = session("DequantizeLinear", kinds, {"y": (real, q.shape)}, **attributes_of(grid, q.ndim))
        (want,) = oracle.run(None, {"x": q, "scale": scale, "zero": zero})
        got = qn.dequantize_linear(q.view(kind.dtype), scale, zero, dtype=real, **grid.where)
        assert_same_bits(got, want, f"n = {n}")


@pytest.mark.parametrize("code", EIGHT_BITS_AND_MORE)
def test_any_float_at_any_scale(code):
    """Bit patterns of all kinds and quotients that are ties, at three scales of every exponent."""
    rng = np.random.default_rng(13)
    n, storage = 400, code_type(code).storage
    kinds = {"x": ("float32", (n,)), "scale": ("float32", ()), "zero": (code, ())}
    oracle = session("QuantizeLinear", kinds, {"y": (code, (n,))})
    zero = np.array(1, storage)
    for exponent in range(-126, 128):
        for mantissa in (1.0, 1.3, 2 - 2.0**-23):
            scale = np.array(mantissa * 2.0**exponent, np.float32)
            x = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
            with np.errstate(over="ignore", under="ignore"):
                x[::2] = scale * (rng.integers(-600, 600, n // 2).astype(np.float32) / 2)
            x[np.isnan(x)] = 1
            (want,) = oracle.run(None, {"x": x, "scale": scale, "zero": zero})
            assert_same_bits(qn.quantize_linear(x, scale, zero), want, f"scale {scale}")


def test_dequantize_linear_of_accumulators():
    acc = np.random.default_rng(14).integers(-(2**31), 2**31, 500).astype(np.int32)
    acc[:9] = [0, 1, -1, 2**24, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31)]
    kinds = {"x": ("int32", acc.shape), "scale": ("float32", ())}
    oracle = session("DequantizeLinear", kinds, {"y": ("float32", acc.shape)})
    for scale in (0.1, 1 / 3, 2.0**-40, 1e30):
        (want,) = oracle.run(None, {"x": acc, "scale": np.array(scale, np.float32)})
        assert_same_bits(qn.dequantize_linear(acc, scale), want, f"scale {scale}")


def test_dynamic_quantize_linear():
    rng = np.random.default_rng(15)
    outputs = {"y": ("uint8", ["n"]), "scale": ("float32", ()), "zero": ("uint8", ())}
    oracle = session("DynamicQuantizeLinear", {"x": ("float32", ["n"])}, outputs)
    hard = [[0.0], [0.0, -0.0], [-1.0], [3.1e-36], [3e38, 1.0], [-3e38, 1e-45], [1.0, -254.0]]
    drawn = (
        rng.normal(rng.choice([-30, 0, 0.1, 30]), 10.0 ** rng.integers(-30, 30), rng.integers(1, 200))
        for _ in range(3000)
    )
    for x in (*hard, *drawn):
        x = np.asarray(x, np.float32)
        for got, want in zip(qn.dynamic_quantize_linear(x), oracle.run(None, {"x": x}), strict=True):
            assert_same_bits(np.asarray(got), want, str(x[:4]))
