"""Dynamic quantization of ONNX models: weights once, activations as they come, by default each row by itself."""

import math
import os
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, Float32Array
from ._files import at_opset, read_model, write_model
from ._forms import stored
from ._forms.codes import layer_codes
from ._forms.standard import LinearWeight, Nodes, StandardForm
from ._graph import Graph, attribute
from ._layers import RECURRENT, Layer, layers
from ._report import Change, attach
from ._rewrites import rewrite
from ._selection import Selection

__all__ = ["quantize_dynamic"]

Target = Literal["standard", "qnumpy"]
Per = Literal["row", "tensor"]
TargetCPU = Literal["any", "vnni", "avx2", "arm"]
FloatWeights = Literal["int16", "int8", "float32"]

_TARGETS = {"standard": 0, "qnumpy": 1}
_PERS = {"row": 0, "tensor": 1}
_CPUS = {"any": 0, "vnni": 1, "avx2": 2, "arm": 3}
_FLOAT_WEIGHTS = {"int16": 0, "int8": 1, "float32": 2}
_LEAST_OPSET = 13  # QuantizeLinear along an axis
_MOST_INPUTS = 1 << 16  # 255 * 127 * K stays in int32
_LEAST_EMBEDDING = 1 << 14  # elements of a table that is looked up
_PAIRS = ((1,),)  # products multiply neighbours along K, the second axis of (channel, K), together

# Nanoseconds on one thread of a CPU with VNNI; only ratios matter.
_FLOAT_MACS, _INT8_MACS = 57.0, 200.0  # in a nanosecond
_FLOAT_ONE_ROW, _INT8_ONE_ROW = 11.0, 40.0  # a product of one row reads the weight once
_QUANTIZE, _DEQUANTIZE = 0.45, 0.65  # of an input and of an output: all passes together
_NODES = 22_000.0  # of the operators around a product
_ROWS = 32  # assumed where a model leaves lengths open


class _Options(NamedTuple):
    """What the user chose."""

    target: Target
    per: Per
    selection: Selection
    forced: bool
    target_cpu: TargetCPU
    float_weights: FloatWeights


class _Product(NamedTuple):
    """A layer as ``y = x w + b``, with the nodes that take part."""

    layer: Layer
    x: str
    transposed: bool  # x comes transposed
    w: Array  # (K, N)
    bias: Array | None  # (N,)
    addend: tuple[str, float] | None  # what a Gemm adds that is no bias, and its factor
    add: Any  # the Add of the bias behind a MatMul
    output: str
    rank: int | None


def quantize_dynamic(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    target: Target = "standard",
    per: Per = "row",
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    target_cpu: TargetCPU = "any",
    float_weights: FloatWeights = "int16",
) -> Any:
    """Quantize a model to int8 without data: weights are rounded now, activations when they come.

    Each row of an activation is quantized by itself to uint8 in its own range,
    ``q = saturate(round_half_even(x / s) + z)``; weights are int8, symmetric per output channel, rounded half to even.
    Products are sums of integers. A layer runs in int8 where onnxruntime is faster in that form; the report says of the
    others why not, and their weights are stored as codes and compute in float32. Tables that are looked up become int8
    with a scale for each row.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    output : str or path, optional
        Where to write the model.
    target : {"standard", "qnumpy"}
        Operators of the ONNX standard alone, or those of the domain "qnumpy", which `session` registers.
    per : {"row", "tensor"}
        "tensor": one range for a whole activation, as DynamicQuantizeLinear takes it.
    include, exclude : iterable of str, optional
        Names of nodes or operator types; patterns as the shell's. Included nodes run in int8 even where they are
        slower; excluded ones keep their weights in float32 too.
    target_cpu : {"any", "vnni", "avx2", "arm"}
        For "any" and "avx2" no sum of two neighbouring weights exceeds 128, so that their products do not saturate.
    float_weights : {"int16", "int8", "float32"}
        How weights of layers that stay float32 are stored: as codes with a scale for some 32 neighbours, which
        onnxruntime expands when it loads the model, or as they are.

    Returns
    -------
    ModelProto

    Raises
    ------
    ValueError
        target, per, target_cpu or float_weights is unknown.
    TypeError, ValueError
        model is no model.
    ValueError
        A pattern of include or exclude matches nothing.
    """
    owner = "quantize_dynamic"
    _args.choice(owner, "target", target, _TARGETS)
    _args.choice(owner, "per", per, _PERS)
    _args.choice(owner, "target_cpu", target_cpu, _CPUS)
    _args.choice(owner, "float_weights", float_weights, _FLOAT_WEIGHTS)
    prepared = at_opset(read_model(owner, model), _LEAST_OPSET)
    selection = Selection.of(owner, include, exclude, Graph.of(prepared))
    options = _Options(target, per, selection, include is not None, target_cpu, float_weights)
    rewrites = rewrite(Graph.of(prepared))
    changes = _Conversion(prepared, options).convert()
    attach(prepared, changes, form=target, per=per, target_cpu=target_cpu, rewrites=rewrites)
    if output is not None:
        write_model(owner, prepared, output)
    return prepared


class _Conversion:
    """Replaces the layers of a model one by one."""

    def __init__(self, model: Any, options: _Options) -> None:
        self.model, self.options = model, options
        self.forms: dict[int, StandardForm] = {}
        self.expanded: dict[tuple[int, str], tuple[str, int]] = {}

    def convert(self) -> list[Change]:
        graph = Graph.of(self.model)
        changes = [self._change(layer) for layer in layers(graph) if layer.weight is not None]
        graph.remove_unused()
        return changes

    def _change(self, layer: Layer) -> Change:
        if layer.node not in self.options.selection:
            size = layer.weight.array.nbytes
            return Change(layer.name, layer.op_type, "float", str(layer.weight.array.dtype), "excluded", size, size, None)
        if layer.weight.array.dtype != np.float32:
            why = f"its weight is {layer.weight.array.dtype}"
            return self._float(layer, why)
        if layer.op_type == "Gather":
            return self._embedding(layer)
        if layer.op_type not in ("MatMul", "Gemm"):
            return self._stored(layer, f"{layer.op_type} has no form in int8 that is faster")
        product = _product(layer)
        if isinstance(product, str):
            return self._stored(layer, product)
        why = "" if self.options.forced else _loss(layer.graph, product)
        return self._stored(layer, why) if why else self._int8(product)

    # ---- layers ----

    def _int8(self, product: _Product) -> Change:
        layer, w = product.layer, product.w
        orders = _PAIRS if self.options.target_cpu in ("any", "avx2") else None
        rounded = layer_codes(w, 1, None, 1.0, orders=orders)
        bias = np.zeros(w.shape[1], np.float32) if product.bias is None else product.bias
        weight = LinearWeight(layer.weight.name, rounded.codes, rounded.scale, bias)
        form = self.forms.setdefault(id(layer.graph.proto), StandardForm(layer.graph, self.options.per))
        nodes = Nodes(layer.graph, layer.name)
        x = product.x
        if product.transposed:
            x = nodes.add("Transpose", [x], perm=[1, 0])
        output = product.output
        if product.addend is not None:
            output = layer.graph.name(f"{layer.name}_product")
        form.linear(nodes, x, product.rank, weight, output)
        if product.addend is not None:
            name, beta = product.addend
            if beta != 1.0:
                name = nodes.add("Mul", [name, nodes.constant(f"{layer.name}_beta", np.float32(beta))])
            nodes.add("Add", [output, name], product.output)
        if product.add is not None:
            layer.graph.remove(product.add)
        layer.graph.replace(layer.node, *nodes.made)
        before = layer.weight.array.nbytes
        after = rounded.codes.nbytes + rounded.scale.nbytes
        error = w - rounded.codes * rounded.scale
        words = "rows" if self.options.per == "row" else "one range"
        reason = f"quantized in {words} as it comes"
        return Change(layer.name, layer.op_type, self.options.target, "int8", reason, before, after, _sqnr(w, error))

    def _embedding(self, layer: Layer) -> Change:
        """A table of codes with a scale for each row: what is looked up is cast and multiplied."""
        table, node, scope = layer.weight.array, layer.node, layer.graph
        axis = attribute(node, "axis", 0)
        if table.ndim != 2 or axis not in (0, -2) or table.size < _LEAST_EMBEDDING:
            return self._float(layer, "too small to gain" if table.size < _LEAST_EMBEDDING else "not looked up by rows")
        if not np.isfinite(table).all():
            return self._float(layer, "its weight is not finite")
        codes, scale = _rows(table)
        from onnx import TensorProto

        nodes = Nodes(scope, layer.name)
        ids = node.input[1]
        looked_up = nodes.add("Gather", [nodes.constant(f"{layer.weight.name}_quantized", codes), ids], axis=0)
        steps = nodes.add("Gather", [nodes.constant(f"{layer.weight.name}_scale", scale[:, None]), ids], axis=0)
        real = nodes.add("Cast", [looked_up], to=TensorProto.FLOAT)
        nodes.add("Mul", [real, steps], node.output[0])
        scope.replace(node, *nodes.made)
        error = table - codes * scale[:, None]
        return Change(
            layer.name, "Gather", self.options.target, "int8", "a scale for each row", table.nbytes,
            codes.nbytes + scale.nbytes, _sqnr(table, error),
        )  # fmt: skip

    def _stored(self, layer: Layer, reason: str) -> Change:
        """A layer that stays float32, with its weights as codes in the file."""
        scope, node, dtype = layer.graph, layer.node, self.options.float_weights
        positions = [1, 2] if layer.op_type in RECURRENT else [list(node.input).index(layer.x) ^ 1]
        before = after = 0
        errors = []
        for i in positions:
            constant = scope.constant(node.input[i])
            if constant is None:
                continue
            w = constant.array
            before, after = before + w.nbytes, after + w.nbytes
            if dtype == "float32" or w.size < stored.LEAST or w.dtype != np.float32 or not np.isfinite(w).all():
                continue
            key = (id(scope.proto), node.input[i])
            if key not in self.expanded:
                self.expanded[key] = stored.store(scope, node, node.input[i], w, dtype)
            name, size = self.expanded[key]
            node.input[i] = name
            after += size - w.nbytes
            errors.append(i)
        if not errors:
            return Change(layer.name, layer.op_type, "float", "float32", reason, before, after, None)
        reason = f"{reason}; the weight is stored as {dtype} and computes in float32"
        return Change(layer.name, layer.op_type, "float", dtype, reason, before, after, None)

    def _float(self, layer: Layer, reason: str) -> Change:
        size, dtype = layer.weight.array.nbytes, str(layer.weight.array.dtype)
        return Change(layer.name, layer.op_type, "float", dtype, reason, size, size, None)


def _product(layer: Layer) -> _Product | str:
    """Return a MatMul or Gemm as a product and a sum, or why it is none."""
    graph, node, w = layer.graph, layer.node, layer.weight.array
    if w.ndim != 2:
        return f"its weight has {w.ndim} axes"
    if not w.size:
        return "its weight is empty"
    if not np.isfinite(w).all():
        return "its weight is not finite"
    if layer.op_type == "MatMul":
        if graph.constant(node.input[1]) is None:
            return "its weight is the left matrix"
        k, n = w.shape
        add, bias = _bias_behind(graph, node, n)
        output = node.output[0] if add is None else add.output[0]
        shape = graph.shape(node.input[0])
        rank = None if shape is None else len(shape)
        product = _Product(layer, node.input[0], False, w, bias, None, add, output, rank)
    else:
        w = w.T if attribute(node, "transB", 0) else w
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        w = np.ascontiguousarray(w * np.float32(alpha))
        k, n = w.shape
        bias, addend = None, None
        if len(node.input) > 2 and node.input[2] and beta != 0.0:
            constant = graph.constant(node.input[2])
            bias = None if constant is None else _vector(constant.array, n, 2)
            if bias is None:
                addend = (node.input[2], beta)
            else:
                bias = (bias * np.float32(beta)).astype(np.float32)
        transposed = bool(attribute(node, "transA", 0))
        product = _Product(layer, node.input[0], transposed, w, bias, addend, None, node.output[0], 2)
    if k >= _MOST_INPUTS:
        return f"sums of {k} products may leave int32"
    return product


def _bias_behind(graph: Graph, node: Any, n: int) -> tuple[Any, Float32Array | None]:
    """Return the Add of a bias that alone reads a product, and the bias."""
    output = node.output[0]
    users = graph.consumers(output)
    if len(users) != 1 or users[0].op_type != "Add" or users[0].domain or graph.is_output(output):
        return None, None
    add = users[0]
    if graph.producer(add.output[0]) is None or list(add.input).count(output) != 1:
        return None, None
    constant = graph.constant(add.input[1] if add.input[0] == output else add.input[0])
    shape = graph.shape(node.input[0])
    bias = None if constant is None else _vector(constant.array, n, 1 if shape is None else len(shape))
    return (add, bias) if bias is not None else (None, None)


def _vector(array: Array, n: int, most_axes: int) -> Float32Array | None:
    """Return an addend of each column as (n,); None where it is none of float32."""
    if array.dtype != np.float32 or array.ndim > most_axes or array.size not in (1, n) or not np.isfinite(array).all():
        return None
    if array.ndim and array.shape[-1] != array.size:
        return None
    return np.broadcast_to(array.reshape(-1), (n,)).astype(np.float32)


def _loss(graph: Graph, product: _Product) -> str:
    """Return why int8 would not be faster; "" where it is."""
    k, n = product.w.shape
    shape = graph.shape(product.x)
    if shape is None:
        rows = _ROWS
    else:
        axes = shape[1:] if product.transposed else shape[:-1]
        known = math.prod(d for d in axes if d)
        rows = known if all(d for d in axes) else known * (_ROWS if len(shape) > 2 else 1)
    macs = rows * k * n
    one = rows < 4
    real = macs / (_FLOAT_ONE_ROW if one else _FLOAT_MACS)
    coded = macs / (_INT8_ONE_ROW if one else _INT8_MACS) + _QUANTIZE * rows * k + _DEQUANTIZE * rows * n + _NODES
    if coded < real:
        return ""
    return f"with {rows} {'row' if rows == 1 else 'rows'} of {k} x {n} int8 is not faster"


def _rows(table: Array) -> tuple[Array, Float32Array]:
    """Return int8 codes of each row in its own range around 0, and the scales."""
    largest = np.abs(table).max(axis=1)
    scale = np.where(largest > 0, np.maximum(largest / 127, _check.TINY), 1.0).astype(np.float32)
    return np.rint(table / scale[:, None]).clip(-127, 127).astype(np.int8), scale


def _sqnr(w: Array, error: Array) -> float | None:
    signal, noise = (float(np.square(a, dtype=np.float64).sum()) for a in (w, error))
    return 10 * math.log10(signal / noise) if signal and noise else None
