"""Integer products as onnxruntime runs them, and what integer arithmetic gives for the same codes."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from .._typing import Array
from ..ops.matmul import matmul_integer
from ..reports.saturation import simulate_saturation
from ._graph import Graph, attribute, node_name
from .evaluator import ReferenceEvaluator
from .session import DOMAIN, run_batches, session

__all__ = ["Checked", "Product", "checked", "optimized", "plain_options", "products", "saturating", "shown"]

MICROSOFT = "com.microsoft"
_BYTES = (np.uint8, np.int8)
_SLACK = 2.0**-20  # of a sum or a scaled sum, for the roundings of float32 behind an exact sum


class Product(NamedTuple):
    """A node that multiplies codes, with the positions of its inputs; -1 for none.

    `result` is "int32", "codes" or "float". `columns` tells whether the weight has the shape (K, N).
    """

    node: NodeProto
    a: int
    b: int
    a_scale: int = -1
    a_zero: int = -1
    b_scale: int = -1
    b_zero: int = -1
    y_scale: int = -1
    y_zero: int = -1
    bias: int = -1
    result: str = "int32"
    dynamic: bool = False  # whether it quantizes its left operand itself

    @property
    def name(self) -> str:
        return node_name(self.node)

    @property
    def output(self) -> str:
        return str(self.node.output[0])

    @property
    def convolves(self) -> bool:
        return self.node.op_type in ("QLinearConv", "ConvInteger")

    def input(self, position: int) -> str:
        """Return the name of an input, "" for none."""
        return str(self.node.input[position]) if 0 <= position < len(self.node.input) else ""

    def pairs(self, weight: Array) -> bool:
        """Whether CPUs without VNNI add products of this node in pairs that saturate.

        Measured with onnxruntime 1.32 under an emulated Haswell: unsigned by signed bytes do, but for ConvInteger,
        which takes the weight as its left operand, and depthwise convolutions, which have a kernel of their own.
        """
        if weight.dtype != np.int8 or self.node.op_type == "ConvInteger":
            return False
        groups = attribute(self.node, "group", 1)
        depthwise = self.convolves and groups == weight.shape[0] and weight.shape[1] == 1 and groups > 1
        return not depthwise


class Checked(NamedTuple):
    """One product of one batch: how many outputs there are, and how many differ.

    Attributes
    ----------
    wrong : int
        Outputs that are not the exact sum, or not what rounding or scaling it gives.
    rounded : int
        Codes that are the neighbour of the exact sum's nearest code: its scale was rounded in float32.
    elsewhere : int
        Sums that a CPU without VNNI would get wrong.
    largest : int
        Of these errors, in units of the sums.
    unsafe, columns : int
        Output channels whose sums can saturate for some input, of how many.
    """

    outputs: int
    wrong: int
    rounded: int
    elsewhere: int
    largest: int
    unsafe: int
    columns: int


_FORMS: dict[tuple[str, str], dict[str, Any]] = {
    ("", "MatMulInteger"): {"a": 0, "b": 1, "a_zero": 2, "b_zero": 3},
    ("", "ConvInteger"): {"a": 0, "b": 1, "a_zero": 2, "b_zero": 3},
    ("", "QLinearMatMul"): {
        "a": 0, "a_scale": 1, "a_zero": 2, "b": 3, "b_scale": 4, "b_zero": 5, "y_scale": 6, "y_zero": 7,
        "result": "codes",
    },
    ("", "QLinearConv"): {
        "a": 0, "a_scale": 1, "a_zero": 2, "b": 3, "b_scale": 4, "b_zero": 5, "y_scale": 6, "y_zero": 7, "bias": 8,
        "result": "codes",
    },
    (MICROSOFT, "QGemm"): {
        "a": 0, "a_scale": 1, "a_zero": 2, "b": 3, "b_scale": 4, "b_zero": 5, "bias": 6, "y_scale": 7, "y_zero": 8,
        "result": "codes",
    },
    (MICROSOFT, "MatMulIntegerToFloat"): {
        "a": 0, "b": 1, "a_scale": 2, "b_scale": 3, "a_zero": 4, "b_zero": 5, "bias": 6, "result": "float",
    },
    (MICROSOFT, "DynamicQuantizeMatMul"): {
        "a": 0, "b": 1, "b_scale": 2, "b_zero": 3, "bias": 4, "result": "float", "dynamic": True,
    },
}  # fmt: skip
_DOMAINS = {"ai.onnx": "", MICROSOFT: MICROSOFT}


def products(graph: Graph) -> list[Product]:
    """Return the integer products of the main graph."""
    found = []
    for node in graph.proto.node:
        domain = _DOMAINS.get(node.domain, node.domain)
        form = _FORMS.get((domain, node.op_type)) or _FORMS.get(("", node.op_type) if domain == MICROSOFT else ("", ""))
        if form is not None:
            made = Product(node, **form)
            scaled = made.node.op_type != "QGemm" or made.input(made.y_scale)
            found.append(made if scaled else made._replace(result="float"))
    return found


def plain_options(entries: Mapping[str, str] | None = None) -> Any:
    """Return options of a session that logs nothing: what fails raises."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    return options


def optimized(model: ModelProto, entries: Mapping[str, str] | None = None) -> ModelProto:
    """Return the model that onnxruntime runs: with its fusions, on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "optimized.onnx")
        options = plain_options(entries)
        options.optimized_model_filepath = path
        session(model, options=options, threads=1)
        return onnx.load(path)


def shown(model: ModelProto, names: list[str]) -> Any:
    """Return a session of an optimized model, which is not optimized again, that returns tensors alone."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in model.graph.input}
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    options = plain_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return session(copy, options=options)


class Runner:
    """An optimized model that shows what its products, and the operators of the domain "qnumpy", read and return."""

    def __init__(self, owner: str, model: ModelProto) -> None:
        self.owner, self.graph = owner, Graph.of(model)
        self.products = products(self.graph)
        self.own = [node for node in self.graph.proto.node if node.domain == DOMAIN]
        shows = [*(p.node for p in self.products), *self.own]
        names = [name for node in shows for name in (*node.input, *node.output) if name]
        self.names = [name for name in dict.fromkeys(names) if self.graph.constant(name) is None]
        self.session = shown(model, self.names) if shows else None
        self._constants: dict[str, Array] = {}

    def read(self, item: Any) -> dict[str, Array]:
        """Run the model and return its inputs and what it shows, by name."""
        if self.session is None:
            return {}
        (values,) = run_batches(self.owner, self.session, [item])
        inputs = item if isinstance(item, Mapping) else {self.session.get_inputs()[0].name: np.asarray(item)}
        return {**{str(name): np.asarray(x) for name, x in inputs.items()}, **values}

    def operands(self, values: Mapping[str, Array]) -> Iterator[tuple[Product, dict[int, Array], Array]]:
        """Yield each product with its inputs by position and its output."""
        for product in self.products if values else []:
            yield product, self._inputs(product.node, values), values[product.output]

    def differences(self, values: Mapping[str, Array]) -> Iterator[tuple[NodeProto, int, int]]:
        """Yield each operator of the domain "qnumpy" with its outputs, and how many have other bits than the reference.

        That is `ReferenceEvaluator`, which runs the operator with the same inputs.
        """
        for node in self.own if values else []:
            inputs = {node.input[i]: x for i, x in self._inputs(node, values).items()}
            outputs = [name for name in node.output if name]
            exact = ReferenceEvaluator(_alone(self.graph, node, inputs)).run(outputs, inputs)
            got = [values[name] for name in outputs]
            yield node, sum(y.size for y in got), sum(map(_other_bits, got, exact))

    def _inputs(self, node: NodeProto, values: Mapping[str, Array]) -> dict[int, Array]:
        return {
            i: values[name] if name in values else self._constant(name) for i, name in enumerate(node.input) if name
        }

    def _constant(self, name: str) -> Array:
        constant = self.graph.constant(name)
        assert constant is not None
        return constant.array


def _alone(graph: Graph, node: NodeProto, inputs: Mapping[str, Array]) -> ModelProto:
    """Return a model of one node."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in inputs.items()}
    body = helper.make_graph(
        [node], "alone", [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [ValueInfoProto(name=name) for name in node.output if name],
    )  # fmt: skip
    model = ModelProto(ir_version=graph.model.ir_version, graph=body)
    model.opset_import.extend(graph.model.opset_import)
    return model


def _other_bits(y: Array, exact: Array) -> int:
    """Return how many elements differ in a bit; one NaN is as good as another."""
    same = np.ascontiguousarray(y).view(np.uint32) == np.ascontiguousarray(exact, np.float32).view(np.uint32)
    return int((~same & ~(np.isnan(y) & np.isnan(exact))).sum())


def saturating(owner: str, model: ModelProto, item: Any) -> dict[str, int]:
    """Return how many outputs of each product are wrong on this CPU, by the name of the output, for one batch."""
    runner = Runner(owner, optimized(model))
    found = {}
    for product, inputs, y in runner.operands(runner.read(item)):
        result = checked(product, inputs, y)
        if result is not None and result.wrong:
            found[product.output] = result.wrong
    return found


def checked(product: Product, inputs: Mapping[int, Array], y: Array) -> Checked | None:
    """Compare the output of a product with integer arithmetic; None for operands that are not bytes."""
    a, b = inputs[product.a], inputs[product.b]
    a_scale = inputs.get(product.a_scale)
    a_zero = inputs.get(product.a_zero)
    if product.dynamic:
        a, a_scale, a_zero = _quantized(a)
    if a.dtype not in _BYTES or b.dtype not in _BYTES or not a.size or not b.size:
        return None
    za = np.zeros((), np.int64) if a_zero is None else a_zero.astype(np.int64)
    zb = np.zeros((), np.int64) if product.b_zero not in inputs else inputs[product.b_zero].astype(np.int64)
    pairs = product.pairs(b) and a.dtype == np.uint8
    exact, error, unsafe, columns = (_convolved if product.convolves else _multiplied)(product, a, b, za, zb, pairs)
    bias = inputs.get(product.bias)
    if product.result == "int32":
        wrong, rounded = int((exact != y).sum()), 0
    else:
        last = not product.convolves or attribute(product.node, "channels_last", 0)
        shape = (-1,) if last else (1, -1, *[1] * (y.ndim - 2))
        scale = np.ones(()) if a_scale is None else a_scale.astype(np.float64)
        scale = (scale if scale.size == 1 else scale.reshape(-1, 1)) * _column(inputs.get(product.b_scale), shape)
        scale = scale * attribute(product.node, "alpha", 1.0)  # of a QGemm
        if bias is not None and product.result == "codes":
            exact = exact + bias.astype(np.int64).reshape(shape)
        if product.result == "codes":
            step = float(inputs[product.y_scale].reshape(()))
            wrong, rounded = _codes_differ(exact, scale / step, inputs.get(product.y_zero), y)
        else:
            real = exact * scale
            extra = 0.0 if bias is None else bias.astype(np.float64) * (scale if bias.dtype.kind == "i" else 1.0)
            size = np.abs(real) + np.abs(extra) + np.abs(scale)
            wrong = int((np.abs(y - (real + extra)) > 0.5 * np.abs(scale) + _SLACK * size).sum())
            rounded = 0
    elsewhere, largest = int(np.count_nonzero(error)), int(np.abs(error).max(initial=0))
    return Checked(y.size, wrong, rounded, elsewhere, largest, unsafe, columns)


def _column(scale: Array | None, shape: tuple[int, ...]) -> Array:
    if scale is None:
        return np.ones(())
    return scale.astype(np.float64).reshape(() if scale.size == 1 else shape if scale.ndim < 2 else scale.shape)


def _codes_differ(sums: Array, multiplier: Array, zero: Array | None, y: Array) -> tuple[int, int]:
    """Return how many codes are wrong, and how many are the other neighbour of the exact value."""
    low, high = np.iinfo(y.dtype).min, np.iinfo(y.dtype).max
    scaled = sums * multiplier
    with_zero = scaled + (0 if zero is None else int(zero.reshape(())))
    distance = np.abs(y - np.clip(with_zero, low, high))
    wrong = distance > 0.5 + _SLACK * (1 + np.abs(scaled))
    other = y != np.clip(np.rint(scaled) + (0 if zero is None else int(zero.reshape(()))), low, high)
    return int(wrong.sum()), int((other & ~wrong).sum())


def _quantized(x: Array) -> tuple[Array, Array, Array]:
    """Return the codes, the scale and the zero point that onnxruntime gives a whole activation."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("q", 2), ("s", 1), ("z", 2))]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, list(x.shape))], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    q, s, z = session(model, threads=1).run(None, {"x": x})
    return q, s, z


# ---- sums ----


def _multiplied(
    product: Product, a: Array, b: Array, za: Array, zb: Array, pairs: bool
) -> tuple[Array, Array, int, int]:
    """Return exact sums, what saturating pairs would add to them, and the columns that can saturate, of how many."""
    if product.node.op_type == "QGemm":
        a = a.T if attribute(product.node, "transA", 0) else a
        b = b.T if attribute(product.node, "transB", 0) else b
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    rows = za if za.size == 1 else za.reshape(-1, 1)
    if right.ndim == 2:
        exact, error, unsafe = _one(left.reshape(-1, left.shape[-1]), right, pairs)
        shape = (*left.shape[:-1], right.shape[-1])
        exact, error, columns = exact.reshape(shape), error.reshape(shape), right.shape[-1]
    else:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        lefts = np.broadcast_to(left, (*batch, *left.shape[-2:])).reshape(-1, *left.shape[-2:])
        rights = np.broadcast_to(right, (*batch, *right.shape[-2:])).reshape(-1, *right.shape[-2:])
        parts = [_one(x, w, pairs) for x, w in zip(lefts, rights, strict=True)]
        shape = (*batch, left.shape[-2], right.shape[-1])
        exact, error = (np.array([part[i] for part in parts]).reshape(shape) for i in range(2))
        unsafe, columns = sum(part[2] for part in parts), len(parts) * right.shape[-1]
    depth = left.shape[-1]
    sums_a = left.sum(axis=-1, dtype=np.int64, keepdims=True)
    sums_b = right.sum(axis=-2, dtype=np.int64, keepdims=True)
    columns_zero = zb if zb.size == 1 or zb.ndim > 1 else zb.reshape(1, -1)
    exact = exact - rows * sums_b - columns_zero * sums_a + depth * rows * columns_zero
    result = (a.ndim == 1, b.ndim == 1)
    for flat, axis in zip(result, (-2, -1), strict=True):
        if flat:
            exact, error = np.squeeze(exact, axis), np.squeeze(error, axis)
    return exact, error, unsafe, columns


def _one(a: Array, b: Array, pairs: bool) -> tuple[Array, Array, int]:
    """Return the exact sums of raw codes, the error of saturating pairs, and how many columns can saturate."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    try:
        if pairs:
            found = simulate_saturation(a, b)
            return found.product.astype(np.int64) - found.error, found.error, int(np.count_nonzero(~found.safe))
        exact = np.asarray(matmul_integer(a, b)).astype(np.int64)
    except OverflowError:  # the runtime wraps around, which is wrong
        exact = a.astype(np.int64) @ b.astype(np.int64)
    return exact, np.zeros_like(exact), 0


def _convolved(
    product: Product, x: Array, w: Array, zx: Array, zw: Array, pairs: bool
) -> tuple[Array, Array, int, int]:
    """Convolve as onnxruntime does: patches of an image with the channels innermost, the zero point as padding."""
    last = bool(attribute(product.node, "channels_last", 0))
    x = np.moveaxis(x, -1, 1) if last else x
    if w.ndim == 3:  # over one axis
        x, w = x[:, :, None], w[:, :, None]
        one = True
    else:
        one = False
    steps, gaps, pads = _window(product.node, x.shape[2:], w.shape[2:], one)
    groups = attribute(product.node, "group", 1)
    zero = int(zx.reshape(-1)[0])
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero)
    m, depth = len(w) // groups, w.shape[1]
    zeros = np.broadcast_to(zw.reshape(-1), (len(w),))
    results, errors, unsafe = [], [], 0
    spans = tuple(gap * (k - 1) + 1 for gap, k in zip(gaps, w.shape[2:], strict=True))
    for image in padded:
        per_group, per_group_error = [], []
        for g in range(groups):
            windows = np.lib.stride_tricks.sliding_window_view(image[g * depth : (g + 1) * depth], spans, axis=(1, 2))
            windows = windows[:, :: steps[0], :: steps[1], :: gaps[0], :: gaps[1]]
            rows = windows.transpose(1, 2, 3, 4, 0).reshape(-1, depth * w.shape[2] * w.shape[3])
            filters = w[g * m : (g + 1) * m].transpose(2, 3, 1, 0).reshape(-1, m)
            exact, error, bad = _one(rows, filters, pairs)
            z = zeros[g * m : (g + 1) * m]
            sums_w, sums_x = filters.sum(axis=0, dtype=np.int64), rows.sum(axis=1, dtype=np.int64)[:, None]
            per_group.append(exact - zero * sums_w - z * sums_x + rows.shape[1] * zero * z)
            per_group_error.append(error)
            unsafe += bad
        results.append(np.concatenate(per_group, axis=1))
        errors.append(np.concatenate(per_group_error, axis=1))
    tall = tuple(
        (n - gap * (k - 1) - 1) // step + 1
        for n, k, step, gap in zip(padded.shape[2:], w.shape[2:], steps, gaps, strict=True)
    )

    def shaped(parts: list[Array]) -> Array:
        whole = np.stack(parts).reshape(len(x), *tall, len(w))
        whole = whole[:, 0] if one else whole
        return whole if last else np.moveaxis(whole, -1, 1)

    return shaped(results), shaped(errors), unsafe // max(len(padded), 1), len(w)


def _window(
    node: NodeProto, size: Any, kernel: Any, one: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, ...]]:
    """Return strides, dilations and padding (top, left, bottom, right) of a convolution over two axes."""
    steps, gaps = (tuple(attribute(node, name) or (1,) * (1 if one else 2)) for name in ("strides", "dilations"))
    pads = tuple(attribute(node, "pads") or (0,) * (2 if one else 4))
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if one:
        steps, gaps, pads = (1, *steps), (1, *gaps), (0, pads[0], 0, pads[1])
    if auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + g * (k - 1) + 1 - n)
            for n, s, g, k in zip(size, steps, gaps, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        first, second = (less, more) if auto == "SAME_UPPER" else (more, less)
        pads = (*first, *second)
    return (steps[0], steps[1]), (gaps[0], gaps[1]), pads
