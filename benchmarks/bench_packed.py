"""Products with packed weights, float32 in and out: whole dynamic int8 layers, and int4 in groups of 32.

Run: ``python -m benchmarks.bench_packed --markdown``

Peers: PyTorch's dynamically quantized Linear (fbgemm or oneDNN, weights of 7 bits), ONNX Runtime's
DynamicQuantizeLinear + MatMulInteger with uint8 weights (its exact kernel) and MatMulNBits at accuracy level 4 (int8
activations in blocks), and the float32 product of NumPy's BLAS. Each result is compared with the exact product of the
same weights before anything is timed. Figures are best against best; "read" is a pure read of the packed weight.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import qnumpy as qn

from . import harness
from .harness import Array, Call

LAYERS = [(m, k, n) for k, n in ((768, 3072), (4096, 4096)) for m in (1, 16, 128, 512)]
WIDE = [(m, 4096, 4096) for m in (1, 4, 16, 128)]
GROUP = 32
# Eight bits of x and of w: an error of half a step each, of some hundred steps, averaged over K products.
CLOSE = {"int8": 0.03, "int4": 0.03}


@dataclass
class Product:
    """One row: what is multiplied, and who does it."""

    kind: str
    shape: tuple[int, int, int]
    threads: int
    weight: int  # bytes
    read: Array
    calls: dict[str, Call] = field(default_factory=dict)

    def check(self, exact: dict[str, Array]) -> None:
        """Compare every result with the exact product of the weights that its owner holds."""
        for name, call in self.calls.items():
            want = exact.get(name, exact["qnumpy"])
            got = np.asarray(call())
            error = np.linalg.norm(got - want) / np.linalg.norm(want)
            assert error < CLOSE[self.kind], f"{self.kind} {self.shape}: {name} is off by {error:.2%}"


def pages(packed: qn.PackedWeight) -> Array:
    """As many bytes as the weight has, in whole pages."""
    return harness.aligned((-(-packed.nbytes // 4096) * 4096,), np.uint8)


def layer(m: int, k: int, n: int, threads: int) -> Product:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    bias = rng.standard_normal(n, np.float32)
    q = qn.quantize(w, granularity=qn.PerChannel(1))
    packed = qn.PackedWeight(q, bias=bias)
    case = Product(
        "int8", (m, k, n), threads, packed.nbytes, harness.aligned((-(-packed.nbytes // 4096) * 4096,), "u1")
    )
    out, product = np.empty((m, n), np.float32), np.empty((m, n), np.float32)
    case.calls["qnumpy"] = lambda: packed.matmul(x, out=out)
    case.calls["BLAS"] = lambda: np.add(np.matmul(x, w, out=product), bias, out=product)
    with suppress(ImportError):
        case.calls["ONNX Runtime"] = onnx_layer(x, q, bias, threads)
    torch = harness.torch()
    if torch is not None:
        case.calls["PyTorch"] = torch_layer(torch, x, w, bias, threads)
    case.check({"qnumpy": x @ w + bias})
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
    given = dict(zip(("w", "middle", "scale", "bias"), weights, strict=True))
    call = harness.onnx_session(nodes, x, given, {"y": out}, threads, fuse=True)
    return lambda: (call(), out)[1]


def groups(m: int, k: int, n: int, threads: int) -> Product:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    q = qn.quantize(w, dtype="int4", granularity=qn.PerGroup(GROUP, 0))
    packed = qn.PackedWeight(q, scale_dtype="float16")
    case = Product(
        "int4", (m, k, n), threads, packed.nbytes, harness.aligned((-(-packed.nbytes // 4096) * 4096,), "u1")
    )
    out, product, w4 = np.empty((m, n), np.float32), np.empty((m, n), np.float32), q.dequantize()
    case.calls["qnumpy"] = lambda: packed.matmul(x, out=out)
    case.calls["BLAS"] = lambda: np.matmul(x, w4, out=product)
    with suppress(ImportError):
        case.calls["ONNX Runtime"] = onnx_groups(x, q, threads)
    case.check({"qnumpy": x @ w4})
    return case


def onnx_groups(x: Array, q: qn.QuantizedArray, threads: int) -> Call:
    from onnx import helper

    (k, n), blocks = q.shape, q.shape[0] // GROUP
    plain = (q.codes.view(np.int8) + 8).astype(np.uint8).T.reshape(n, blocks, GROUP)
    nibbles = plain[..., ::2] | plain[..., 1::2] << 4
    options = {"K": k, "N": n, "bits": 4, "block_size": GROUP, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", **options)
    given = {"w": nibbles, "scale": np.ascontiguousarray(q.scale.T).reshape(-1)}
    out = np.empty((len(x), n), np.float32)
    call = harness.onnx_session([node], x, given, {"y": out}, threads)
    return lambda: (call(), out)[1]


def products(threads: int) -> Iterator[Product]:
    yield from (layer(*shape, threads) for shape in LAYERS)
    yield from (groups(*shape, threads) for shape in WIDE)


def measured(case: Product, rounds: int) -> list[str]:
    """The cells of a row: 10⁹ products a second, and the time of each peer over ours."""
    m, k, n = case.shape
    reads = harness.traffic(case.read, None, case.threads)
    with qn.threads(case.threads):
        samples = harness.interleaved({**case.calls, **reads}, rounds, settle=case.threads > 1)
    best = {name: min(times) for name, times in samples.items()}
    ours, read = best["qnumpy"], min(time for name, time in best.items() if name.startswith("traffic"))
    cells = [case.kind, f"{m} x {k} x {n}", str(case.threads), f"{ours * 1e6:,.0f}", f"{m * k * n / ours / 1e9:,.0f}"]
    cells.append(harness.number(read / ours) if m == 1 else "-")
    return cells + [harness.number(best[name] / ours if name in best else None, "x") for name in PEERS]


PEERS = ("BLAS", "ONNX Runtime", "PyTorch")
HEAD = ["weight", "M x K x N", "threads", "best µs", "10⁹ products/s", "of read", *(f"over {peer}" for peer in PEERS)]


def table(rounds: int, *, markdown: bool, threads: tuple[int, ...] = (1, 2), only: str = "") -> str:
    body = []
    for used in threads:
        for case in products(used):
            if only in f"{case.kind} {' x '.join(map(str, case.shape))}":
                body.append(measured(case, rounds))
    return harness.render(HEAD, body, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=9)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    print(harness.machine(), end="\n\n")
    print(table(options.rounds, markdown=options.markdown, threads=tuple(options.threads), only=options.only))


if __name__ == "__main__":
    main()
