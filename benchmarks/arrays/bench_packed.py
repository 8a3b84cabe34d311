"""Products with packed weights, float32 in and out: whole dynamic int8 layers, int4 in groups of 32, weights of other
widths by column and in groups, and weights of floats.

Peers: PyTorch's dynamically quantized Linear (fbgemm or oneDNN, weights of 7 bits), ONNX Runtime's
DynamicQuantizeLinear + MatMulInteger with uint8 weights (its exact kernel) and MatMulNBits at accuracy level 4 (int8
activations in blocks), and the float32 product of NumPy's BLAS. Each result is compared with the exact product of the
same weights before the timing. The limit of a single row is a pure read of the packed weight.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Array, Call, Case, Check
from ..ops.bench_matmul import set_blas_threads

LAYERS = [(m, k, n) for k, n in ((768, 3072), (4096, 4096)) for m in (1, 16, 128, 512)]
WIDE = [(m, 4096, 4096) for m in (1, 4, 16, 128)]
FLOATS = [(1, 4096, 4096), (1, 8192, 8192), (16, 4096, 4096), (128, 4096, 4096), (512, 4096, 4096)]
FORMATS = ("mxfp8_e4m3", "mxfp4")
GROUP = 32
# x and w have 8 bits: errors of half a step, where values are up to 127 steps, averaged over K products.
CLOSE = 0.03
PAGE = 4096  # bytes


def layer(operation: str, x: Array, packed: qn.PackedWeight, threads: int, exact: Array) -> Case:
    """Our call, and the limit if x is a single row."""
    m, k, n = *x.shape, exact.shape[1]
    case = Case(f"{m} x {k} x {n}", "layer" if m > 1 else "thin product", m * k * n, threads)
    out = np.empty(exact.shape, np.float32)
    case.ours[operation] = lambda: packed.matmul(x, out=out)
    case.checks[operation] = Check(lambda: [out], [exact], CLOSE)
    if m == 1:
        case.limits = harness.traffic(harness.aligned((-(-packed.nbytes // PAGE) * PAGE,), np.uint8), None, threads)
    return case


def add(case: Case, name: str, call: Call, exact: Array) -> None:
    """A peer, whose call returns its result."""
    case.peers[name] = call
    case.checks[name] = Check(lambda: [np.asarray(call())], [exact], CLOSE)


def channels(m: int, k: int, n: int, threads: int) -> Case:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    bias = rng.standard_normal(n, np.float32)
    q, exact, product = qn.quantize(w, granularity=qn.PerChannel(1)), x @ w + bias, np.empty((m, n), np.float32)
    case = layer("int8 layer", x, qn.PackedWeight(q, bias=bias), threads, exact)
    add(case, "NumPy float32", lambda: np.add(np.matmul(x, w, out=product), bias, out=product), exact)
    with suppress(ImportError):
        add(case, "ONNX Runtime", onnx_layer(x, q, bias, threads), exact)
    torch = harness.torch()
    if torch is not None:
        add(case, "PyTorch", torch_layer(torch, x, w, bias, threads), exact)
    return case


def torch_layer(torch: Any, x: Array, w: Array, bias: Array, threads: int) -> Call:
    torch.set_num_threads(threads)
    linear = torch.nn.Linear(*w.shape)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
        linear.bias.copy_(torch.from_numpy(bias))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated there
        quantized = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), {torch.nn.Linear})
    tensor = torch.from_numpy(x)

    def call() -> Any:
        with torch.inference_mode():
            return quantized(tensor).numpy()

    return call


def onnx_layer(x: Array, q: qn.QuantizedArray, bias: Array, threads: int) -> Call:
    """float32 to float32 with uint8 weights: codes shifted by 128, for its kernel that does not saturate."""
    from onnx import helper

    node = helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "middle"], ["acc"]),
        node("Cast", ["acc"], ["real"], to=1),
        node("Mul", ["s", "scale"], ["both"]),
        node("Mul", ["real", "both"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["y"]),
    ]
    weights = (q.codes.view(np.uint8) ^ 128, np.array(128, np.uint8), np.array(q.scale), bias)
    out = np.empty((len(x), q.shape[1]), np.float32)
    parameters = dict(zip(("w", "middle", "scale", "bias"), weights, strict=True))
    call = harness.onnx_session(nodes, x, parameters, {"y": out}, threads, fuse=True)
    return lambda: (call(), out)[1]


def groups(m: int, k: int, n: int, threads: int) -> Case:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    q = qn.quantize(w, dtype="int4", granularity=qn.PerGroup(GROUP, 0))
    w4, product = q.dequantize(), np.empty((m, n), np.float32)
    case = layer("int4 layer, groups of 32", x, qn.PackedWeight(q, scale_dtype="float16"), threads, x @ w4)
    add(case, "NumPy float32", lambda: np.matmul(x, w4, out=product), x @ w4)
    with suppress(ImportError):
        add(case, "ONNX Runtime", onnx_groups(x, q, threads), x @ w4)
    return case


def onnx_groups(x: Array, q: qn.QuantizedArray, threads: int) -> Call:
    from onnx import helper

    (k, n), blocks = q.shape, q.shape[0] // GROUP
    plain = (q.codes.view(np.int8) + 8).astype(np.uint8).T.reshape(n, blocks, GROUP)
    nibbles = plain[..., ::2] | plain[..., 1::2] << 4
    options = {"K": k, "N": n, "bits": 4, "block_size": GROUP, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", **options)
    parameters = {"w": nibbles, "scale": np.ascontiguousarray(q.scale.T).reshape(-1)}
    out = np.empty((len(x), n), np.float32)
    call = harness.onnx_session([node], x, parameters, {"y": out}, threads)
    return lambda: (call(), out)[1]


def floats(m: int, k: int, n: int, threads: int) -> Case:
    """x stays float32: many rows beside BLAS sgemm, a row beside a read of the weight."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    q = qn.quantize(w, dtype="float8_e4m3fn", granularity=qn.PerChannel(1))
    w8, product = q.dequantize(), np.empty((m, n), np.float32)
    case = layer("float8 layer", x, qn.PackedWeight(q), threads, x @ w8)
    for name in FORMATS:
        blocks = qn.quantize(w.T, dtype=name)
        packed, out = qn.PackedWeight(blocks, axis=1), np.empty((m, n), np.float32)
        case.ours[f"{name} layer"] = lambda packed=packed, out=out: packed.matmul(x, out=out)
        case.checks[f"{name} layer"] = Check(lambda out=out: [out], [x @ blocks.dequantize().T], CLOSE)
    if m > 1:
        case.limits["BLAS sgemm"] = lambda: np.matmul(x, w8, out=product)
    return case


SMALL = [
    ("int8", qn.PerGroup(GROUP, 0)),
    ("int2", qn.PerGroup(GROUP, 0)),
    ("int4", qn.PerChannel(1)),
    ("int2", qn.PerChannel(1)),
]


def widths(dtype: str, granularity: qn.PerGroup | qn.PerChannel, m: int, k: int, n: int, threads: int) -> Case:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    q = qn.quantize(w, dtype=dtype, granularity=granularity)
    real, product = q.dequantize(), np.empty((m, n), np.float32)
    case = layer(f"{dtype} layer, {granularity.describe()}", x, qn.PackedWeight(q), threads, x @ real)
    add(case, "NumPy float32", lambda: np.matmul(x, real, out=product), x @ real)
    return case


def cases(threads: int) -> Iterator[Case]:
    set_blas_threads()(threads)
    for shape in LAYERS:
        yield channels(*shape, threads)
    for shape in WIDE:
        yield groups(*shape, threads)
    for dtype, granularity in SMALL:
        for m in (1, 4, 128, 512):
            yield widths(dtype, granularity, m, 2048, 2048, threads)
    for shape in FLOATS:
        yield floats(*shape, threads)
