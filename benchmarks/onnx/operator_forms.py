"""What operators cost in onnxruntime in float32 and in int8: the constants of qnumpy/onnx/_latency.py, measured again.

Run: ``python -m benchmarks.onnx.operator_forms --markdown``

A figure is the difference between a chain of five layers and one layer, so that the ends of the chain do not count;
float32 and int8 take turns. "model" is what `_latency` expects. u8 are weights in uint8, which no CPU saturates and
which VNNI does not multiply. Operators between two convolutions are measured as what they add to the chain. The last
lines are forms to avoid: ConvInteger, an Add behind a quantized product, which becomes a Gemm in float32, and
QuantizeLinear with a scale for each element of the last axis.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qnumpy.onnx._latency import compute_cost, interleaved, other_cost

from ..harness import Array, cpu
from ..page import render

CONVOLUTIONS = [  # channels, size of the image, size of the filter, groups
    (8, (96, 96), 3, 1), (16, (80, 80), 1, 1), (64, (40, 40), 1, 1), (256, (14, 14), 1, 1), (32, (40, 40), 3, 1),
    (128, (20, 20), 3, 1), (64, (40, 40), 3, 64), (256, (14, 14), 5, 256), (128, (64,), 3, 1), (64, (400,), 3, 64),
]  # fmt: skip
PRODUCTS = [(1, 256, 512), (32, 256, 512), (512, 384, 384)]  # rows, inputs, outputs
BETWEEN = ["Add", "Mul", "Sigmoid", "MaxPool"]


class Chain:
    """A graph of layers one behind the other, in one form."""

    def __init__(self, form: str) -> None:
        self.form, self.nodes, self.initializers = form, [], []  # type: ignore[var-annotated]
        self.rng = np.random.default_rng(0)

    def constant(self, array: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def coded(self, x: str, scale: float = 0.02) -> str:
        """Return x behind QuantizeLinear and DequantizeLinear, where the form is int8."""
        if self.form == "float32":
            return x
        params = [self.constant(np.float32(scale)), self.constant(np.uint8(128))]
        return self.op("DequantizeLinear", [self.op("QuantizeLinear", [x, *params]), *params])

    def weight(self, w: Array, axis: int) -> str:
        if self.form == "float32":
            return self.constant(w)
        over = tuple(d for d in range(w.ndim) if d != axis)
        scale = (np.abs(w).max(axis=over, keepdims=True) / 127).astype(np.float32)
        codes, zero = np.rint(w / scale).astype(np.int8), np.zeros(w.shape[axis], np.int8)
        if self.form == "u8":
            codes, zero = (codes.view(np.uint8) ^ 128), np.full(w.shape[axis], 128, np.uint8)
        inputs = [self.constant(codes), self.constant(scale.reshape(-1)), self.constant(zero)]
        return self.op("DequantizeLinear", inputs, axis=axis)

    def model(self, shape: list[int], output: str) -> bytes:
        from onnx import TensorProto, helper

        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "chain", [info("x", TensorProto.FLOAT, shape)], [info(output, TensorProto.FLOAT, None)],
            self.initializers,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return model.SerializeToString()  # type: ignore[no-any-return]


def convolutions(form: str, layers: int, case: tuple[int, tuple[int, ...], int, int], between: str = "") -> bytes:
    channels, size, kernel, group = case
    chain = Chain(form)
    x = chain.coded(chain.op("Neg", ["x"]))
    for _ in range(layers):
        w = chain.rng.normal(size=(channels, channels // group, *[kernel] * len(size))).astype(np.float32)
        pads = [kernel // 2] * 2 * len(size)
        x = chain.coded(chain.op("Conv", [x, chain.weight(w, 0)], pads=pads, group=group))
        if between in ("Add", "Mul"):
            x = chain.coded(chain.op(between, [x, chain.coded("x")]))
        elif between == "MaxPool":
            x = chain.coded(chain.op(between, [x], kernel_shape=[3] * len(size), pads=[1] * 2 * len(size)))
        elif between:
            x = chain.coded(chain.op(between, [x]))
    return chain.model([1, channels, *size], chain.op("Neg", [x]))


def products(form: str, layers: int, case: tuple[int, int, int]) -> bytes:
    rows, inputs, outputs = case
    chain = Chain(form)
    x = chain.op("Neg", ["x"])
    for _ in range(layers):
        for k, n in ((inputs, outputs), (outputs, inputs)):
            x = chain.op("MatMul", [chain.coded(x), chain.weight(chain.rng.normal(size=(k, n)).astype(np.float32), 1)])
    return chain.model([1, rows, inputs], chain.op("Neg", [x]))


def microseconds(models: list[bytes], feed: dict[str, Array], seconds: float) -> list[float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    engines = [onnxruntime.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in models]

    def runner(engine: Any) -> Callable[[], Any]:
        return lambda: engine.run(None, feed)

    return [1e6 * best for best in interleaved([runner(engine) for engine in engines], seconds=seconds)]


def per_layer(make: Callable[[str, int], bytes], forms: list[str], shape: list[int], seconds: float) -> list[float]:
    """Return the microseconds of a layer in each form."""
    models = [make(form, layers) for form in forms for layers in (1, 5)]
    feed = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    times = microseconds(models, feed, seconds)
    return [(times[2 * i + 1] - times[2 * i]) / 4 for i in range(len(forms))]


def table(seconds: float) -> Iterator[list[str]]:
    def row(name: str, expected: Any, measured: list[float]) -> list[str]:
        figures = [f"{value:.1f}" for value in measured]
        ratio = measured[0] / measured[1] if measured[1] > 0 else float("inf")
        model = expected.float32 / expected.int8 if expected.int8 else 1.0
        return [name, *figures, *[""] * (3 - len(figures)), f"{ratio:.2f}", f"{model:.2f}"]

    for case in CONVOLUTIONS:
        channels, size, kernel, group = case
        outputs = channels * int(np.prod(size))
        inner = channels // group * kernel ** len(size)
        expected = compute_cost(
            outputs * inner, outputs, channels // group, channels // group, outputs / channels,
            depthwise=group > 1, line=len(size) == 1,
        )  # fmt: skip
        times = per_layer(lambda form, n, case=case: convolutions(form, n, case), ["float32", "s8", "u8"], [1, channels, *size], seconds)  # type: ignore[misc]
        name = f"{'depthwise' if group > 1 else 'Conv'} {channels} x {' x '.join(map(str, size))}, {kernel}"
        yield row(name, expected, times)
    for shape in PRODUCTS:
        rows, inputs, outputs = shape
        cost = compute_cost(rows * inputs * outputs, rows * outputs, inputs, outputs, rows, depthwise=False)
        times = per_layer(lambda form, n, case=shape: products(form, n, case), ["float32", "s8", "u8"], [1, rows, inputs], seconds)  # type: ignore[misc]
        yield row(f"MatMul {rows} x {inputs} x {outputs}", cost, [value / 2 for value in times])
    case = (64, (40, 40), 1, 1)
    for op in BETWEEN:
        alone, both = (
            per_layer(lambda form, n, op=name: convolutions(form, n, case, op), ["float32", "s8"], [1, 64, 40, 40], seconds)  # type: ignore[misc]
            for name in ("", op)
        )
        yield row(f"{op} 64 x 40 x 40", other_cost(op, 64 * 1600), [b - a for a, b in zip(alone, both, strict=True)])


def avoided(seconds: float) -> Iterator[list[str]]:
    """Yield forms that are slower than they look, with the form to take in their place."""
    rng = np.random.default_rng(0)
    x = {"x": rng.normal(size=(1, 64, 384)).astype(np.float32)}
    models = []
    for kind in ("Add", "Sum"):
        chain = Chain("s8")
        y = chain.op("MatMul", [chain.coded(chain.op("Neg", ["x"])), chain.weight(rng.normal(size=(384, 384)).astype(np.float32), 1)])
        models.append(chain.model([1, 64, 384], chain.op("Neg", [chain.op(kind, [y, chain.constant(np.ones(384, np.float32))])])))
    times = microseconds(models, x, seconds)
    yield ["bias of a product by Add, by Sum", *(f"{t:.1f}" for t in times), "", f"{times[0] / times[1]:.2f}", ""]
    models = []
    for axis in (True, False):
        chain = Chain("s8")
        y = chain.op("Neg", ["x"])
        scale, zero = np.full(384, 0.02, np.float32), np.full(384, 128, np.uint8)
        if axis:
            params = [chain.constant(scale), chain.constant(zero)]
            y = chain.op("QuantizeLinear", [y, *params], axis=-1)
        else:
            params = [chain.constant(scale[0]), chain.constant(zero[0])]
            y = chain.op("QuantizeLinear", [chain.op("Mul", [y, chain.constant(scale)]), *params])
        y = chain.op("DequantizeLinear", [y, chain.constant(np.float32(0.02)), chain.constant(np.uint8(128))])
        models.append(chain.model([1, 64, 384], y))
    times = microseconds(models, x, seconds)
    yield ["QuantizeLinear by channel, by Mul", *(f"{t:.1f}" for t in times), "", f"{times[0] / times[1]:.2f}", ""]
    w = rng.normal(size=(64, 64, 3, 3)).astype(np.float32)
    models = []
    for integer in (True, False):
        chain = Chain("s8")
        y = chain.op("Neg", ["x"])
        if integer:
            q = chain.op("QuantizeLinear", [y, chain.constant(np.float32(0.02)), chain.constant(np.uint8(128))])
            codes = chain.constant(np.clip(np.rint(40 * w), -127, 127).astype(np.int8))
            y = chain.op("ConvInteger", [q, codes, chain.constant(np.uint8(128))], pads=[1] * 4)
            y = chain.op("Mul", [chain.op("Cast", [y], to=1), chain.constant(np.float32(5e-4))])
        else:
            y = chain.coded(chain.op("Conv", [chain.coded(y), chain.weight(w, 0)], pads=[1] * 4))
        models.append(chain.model([1, 64, 40, 40], chain.op("Neg", [y])))
    times = microseconds(models, {"x": rng.normal(size=(1, 64, 40, 40)).astype(np.float32)}, seconds)
    yield ["ConvInteger, QLinearConv", *(f"{t:.1f}" for t in times), "", f"{times[0] / times[1]:.2f}", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of timing for each chain")
    options = parser.parse_args()
    head = ["operator", "float32 us", "int8 us", "u8 us", "float32 / int8", "model"]
    print(render(head, list(table(options.seconds)), markdown=options.markdown, left=1))
    print()
    head = ["forms: the first, the second", "us", "us", "", "ratio", ""]
    print(render(head, list(avoided(options.seconds)), markdown=options.markdown, left=1))
    print(f"\n{cpu()}, 1 thread")


if __name__ == "__main__":
    main()
