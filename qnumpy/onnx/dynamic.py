"""Dynamic quantization of ONNX models: weights once, activations as they come, by default each row by itself."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, Float32Array
from ..arrays.quantized import QuantizedArray
from ..granularity import PerChannel
from ..ops.hadamard import Hadamard
from ..qparams import QParams
from ..reports.scores import finite_decibels
from ..weights.hadamard import hadamard
from ..weights.layers import quantize_layers
from ._files import MOST_OPSET, at_opset, lowered, opset_of, read_model, write_model
from ._forms.codes import layer_codes
from ._forms.qnumpy import LinearLayer, embedding, linear, norms
from ._forms.standard import LinearWeight, Nodes, StandardForm, look_up
from ._forms.stored import FloatWeights, store_weights
from ._graph import Graph, attribute
from ._layers import Layer, layers, weights_of
from ._report import Change, attach
from ._rewrites import activation_behind, rewrite
from ._selection import Selection
from ._smoothing import Readers
from ._smoothing import smooth as smooth_activations
from ._stages import Staged, StagedModel
from ._taps import batches_of, feed_of
from ._weight_rounding import fitting_batches, residual_of
from .session import session

__all__ = ["quantize_dynamic"]

Target = Literal["standard", "qnumpy"]
Per = Literal["row", "tensor"]
TargetCPU = Literal["any", "vnni", "avx2", "arm"]

_TARGETS = {"standard": 0, "qnumpy": 1}
_PERS = {"row": 0, "tensor": 1}
_CPUS = {"any": 0, "vnni": 1, "avx2": 2, "arm": 3}
_FLOAT_WEIGHTS = {"int16": 0, "int8": 1, "float32": 2}
_EXCLUDED = "excluded"
_REASONS = {
    "rows": "each row is quantized as it comes",
    "tensor": "an activation is quantized in one range as it comes",
}
_LEAST_OPSET = 11  # the operators of old models keep their form, which onnxruntime may know better than a newer one
_ROWS_OPSET = 13  # QuantizeLinear along an axis
_MOST_INPUTS = 1 << 16  # 255 * 127 * K stays in int32
_LEAST_EMBEDDING = 1 << 14  # elements of a table that is looked up
_PAIRS = ((1,),)  # products multiply neighbours along K, the second axis of (channel, K), together

# Nanoseconds on one thread of a CPU with VNNI; only ratios matter.
_FLOAT_MACS, _INT8_MACS = 57.0, 200.0  # in a nanosecond
_FLOAT_ONE_ROW, _INT8_ONE_ROW = 11.0, 40.0  # the same of few rows, for which reading the weight takes longest
_QUANTIZE, _DEQUANTIZE = 0.45, 0.65  # of an input and of an output: all passes together
_NODES = 22_000.0  # of the operators around a product
_MARGIN = 0.8  # of the time in float32 that int8 may take, because runs differ
_OUR_NODE, _OUR_ROW, _OUR_QUANTIZE, _OUR_DEQUANTIZE = 2_000.0, 50.0, 0.2, 0.28  # of Linear
_ROTATE, _ROTATE_NARROW = 0.25, 10.0  # of an input; the second by the neighbours that are added, where these are few
_WIDE = 16  # neighbours that fill a register
_ROWS = 32  # assumed where a model leaves lengths open


class _Options(NamedTuple):
    """What the user chose."""

    target: Target
    per: Per
    selection: Selection
    forced: bool
    target_cpu: TargetCPU
    float_weights: FloatWeights
    smooth: bool


class _Product(NamedTuple):
    """A layer as ``y = x w + b``, with the nodes that take part."""

    layer: Layer
    x: str
    transposed: bool  # x comes transposed
    w: Array  # (K, N)
    bias: Array | None  # (N,)
    addend: tuple[str, float] | None  # what a Gemm adds that is no bias, and its factor
    behind: list[Any]  # nodes that the product takes in: the Add of a bias, an activation; the last one first
    add: Any  # the Add of the bias behind a MatMul
    activation: str | None
    output: str
    rank: int | None
    rotates: bool  # whether Linear transforms x by a Hadamard matrix


def quantize_dynamic(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    target: Target = "standard",
    per: Per = "row",
    data: Iterable[Any] | None = None,
    smooth: bool = True,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    target_cpu: TargetCPU = "any",
    float_weights: FloatWeights = "int16",
    progress: bool | None = None,
) -> Any:
    """Quantize a model to int8: weights are rounded now, with or without data, activations when they come.

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
    data : iterable of dict of str to array, or of arrays, optional
        Inputs of the model, some hundred rows or more: weights are then rounded for the least error of what they give,
        one layer after the other. Without data each weight is rounded to nearest.
    smooth : bool, default True
        With data: search factors for the channels of each activation, powers of two that move its outliers into the
        weights. They are used where they lower the estimated error by a tenth and the division costs no time, because
        it goes into what makes the activation: the gain and the bias of a LayerNormalization, a Mul by a constant, the
        layer before, v before the output of attention. With the target "qnumpy" other divisions become the operator's
        input `smooth` where the error falls by a quarter.
    include, exclude : iterable of str, optional
        Names of nodes or operator types; patterns as the shell's. Included nodes run in int8 even where they are
        slower; excluded ones keep their weights in float32 too.
    target_cpu : {"any", "vnni", "avx2", "arm"}
        For "any" and "avx2" no sum of two neighbouring weights exceeds 128, so that their products do not saturate.
    float_weights : {"int16", "int8", "float32"}
        How weights of layers that stay float32 are stored: as codes with a scale for some 32 neighbours, which
        onnxruntime expands when it loads the model, or as they are.
    progress : bool, optional
        Show a bar on stderr while data are used; by default where it is a terminal.

    Returns
    -------
    ModelProto

    Raises
    ------
    ValueError
        target, per, target_cpu or float_weights is unknown.
    TypeError
        smooth is neither True nor False.
    TypeError, ValueError
        model is no model.
    ValueError
        A pattern of include or exclude matches nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import numpy_helper, parser
    >>> from qnumpy.onnx import quantize_dynamic
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend([numpy_helper.from_array(w, "w")])
    >>> quantized = quantize_dynamic(model, include=["MatMul"])
    >>> sorted({node.op_type for node in quantized.graph.node} & {"MatMul", "MatMulInteger"})
    ['MatMulInteger']
    """
    owner = "quantize_dynamic"
    _args.choice(owner, "target", target, _TARGETS)
    _args.choice(owner, "per", per, _PERS)
    _args.choice(owner, "target_cpu", target_cpu, _CPUS)
    _args.choice(owner, "float_weights", float_weights, _FLOAT_WEIGHTS)
    smooth = _check.flag(owner, "smooth", smooth)
    prepared = lowered(at_opset(read_model(owner, model), _LEAST_OPSET, owner))
    selection = Selection.of(owner, include, exclude, Graph.of(prepared))
    options = _Options(target, per, selection, include is not None, target_cpu, float_weights, smooth)
    if target == "standard" and opset_of(prepared) < _ROWS_OPSET and _Conversion(prepared, options).products():
        prepared = at_opset(prepared, _ROWS_OPSET, owner)
    rewrites = rewrite(Graph.of(prepared))
    progress = _check.flag_or_none(owner, "progress", progress)
    conversion = _Conversion(prepared, options)
    changes = conversion.convert(owner, data, progress)
    if conversion.norms:
        rewrites["SkipLayerNormalization in place of a sum and a LayerNormalization"] = conversion.norms
    attach(prepared, changes, form=target, per=per, target_cpu=target_cpu, rewrites=rewrites)
    if output is not None:
        write_model(owner, prepared, output)
    return prepared


class _Rounding(NamedTuple):
    """A weight as codes of (K, N) with a scale for each column, and the bias that takes up what rounding left."""

    codes: Array
    scale: Float32Array
    bias: Array | None
    rotation: Hadamard | None
    sqnr_db: float | None
    method: str


class _Conversion:
    """Replaces the layers of a model one by one."""

    def __init__(self, model: Any, options: _Options) -> None:
        self.graph, self.options = Graph.of(model), options
        self.forms: dict[int, StandardForm] = {}
        self.norms = 0  # nodes SkipLayerNormalization
        self.smoothed: dict[str, str] = {}  # what took the factors of a layer's input, by the layer's name
        self.stored: dict[str, str] = {}  # why a layer computes in float32 with a stored weight, by its output

    def convert(self, owner: str, data: Iterable[Any] | None, progress: bool | None) -> list[Change]:
        if data is not None:
            data = list(batches_of(owner, data))
            if self.options.smooth:
                self._smooth(owner, data)
        plan = self._plans()
        products = [product for _, product in plan if isinstance(product, _Product)]
        rounded = self._rounded(owner, products, data, progress)
        groups = self._groups(products)
        changes = []
        for layer, product in plan:
            if isinstance(product, str):
                changes += self._other(layer, product)
            elif product.output in groups:
                changes += self._int8(groups[product.output], rounded)
        if self.options.target == "qnumpy":
            self.norms = norms(self.graph)
        self.graph.remove_unused()
        changes += store_weights(
            self.graph.model, self.options.float_weights, lambda node: node.output[0] not in self.stored, self.stored
        )
        names = {layer.name for layer, _ in plan}
        return [change for change in changes if change.node in names]

    def products(self) -> list[_Product]:
        """Return the layers that become int8."""
        return [product for _, product in self._plans() if isinstance(product, _Product)]

    def _plans(self) -> list[tuple[Layer, _Product | str]]:
        return [(layer, self._plan(layer)) for layer in layers(self.graph) if layer.weight is not None]

    def _plan(self, layer: Layer) -> _Product | str:
        """Return a layer that becomes int8 as a product, or why it does not."""
        assert layer.weight is not None
        if layer.node not in self.options.selection:
            return _EXCLUDED
        if layer.weight.array.dtype != np.float32:
            return f"its weight is {layer.weight.array.dtype}"
        if layer.op_type not in ("MatMul", "Gemm"):
            return f"{layer.op_type} has no form in int8 that is faster"
        if self.options.target == "standard" and self.graph.opset() > MOST_OPSET:
            return f"onnxruntime computes QuantizeLinear up to operator set {MOST_OPSET}"
        product = _product(layer)
        if isinstance(product, str):
            return product
        times = _times(layer.graph, product)
        if self.options.target == "qnumpy":
            product = _with_activation(product)._replace(rotates=times.rotates)
        if self.options.forced or times.coded(self.options.target) < _MARGIN * times.real:
            return product
        k, n = product.w.shape
        return f"with {times.rows} {'row' if times.rows == 1 else 'rows'} of {k} x {n} int8 is not faster"

    def _other(self, layer: Layer, reason: str) -> list[Change]:
        assert layer.weight is not None
        if reason == _EXCLUDED or layer.weight.array.dtype != np.float32:
            return [self._float(layer, reason)]
        if layer.op_type == "Gather":
            return [self._embedding(layer)]
        if not all(np.isfinite(constant.array).all() for constant in weights_of(layer)):
            return [self._float(layer, "its weight is not finite")]
        self.stored[layer.node.output[0]] = reason
        return []

    # ---- rounding ----

    def _smooth(self, owner: str, data: list[Any]) -> None:
        """Move outliers of activations into weights; the graph is another one afterwards."""
        readers: dict[str, Readers] = {}
        for product in self._once(self.products()):
            if max(len(self.graph.consumers(w)) for w in (_weight_name(product), product.layer.node.input[1])) > 1:
                continue  # another layer reads the weight as it is
            of = readers.setdefault(product.x, Readers([], [], product.rotates))
            of.layers.append(product.layer)
            of.weights.append(product.w)
        if not readers or not data:
            return
        engine = session(self.graph.model)
        self.smoothed = smooth_activations(
            owner, self.graph, readers, [feed_of(engine, item) for item in data],
            by_row=self.options.per == "row", most=63 if self._bounds_pairs else 127,
            ours=self.options.target == "qnumpy",
        )  # fmt: skip
        if self.smoothed:
            self.graph.remove_unused()
            self.graph = Graph.of(self.graph.model)

    def _once(self, products: list[_Product]) -> list[_Product]:
        """Return the products of the main graph whose rows are x itself, and whose weight no other layer reads."""
        uses = Counter(product.layer.weight.name for product in products if product.layer.weight is not None)
        return [
            product
            for product in products
            if product.layer.graph.parent is None and uses[_weight_name(product)] == 1 and not product.transposed
        ]

    def _rounded(
        self, owner: str, products: list[_Product], data: Iterable[Any] | None, progress: bool | None
    ) -> dict[str, _Rounding]:
        """Return the codes of each product, by its output."""
        plain = self.options.target == "standard"
        done: dict[str, _Rounding] = {}
        if data is not None:
            known = [p for p in self._once(products) if p.addend is None]
            for rotates in (True, False):
                done |= self._by_data(owner, [p for p in known if p.rotates == rotates], data, progress)
        rest = [product for product in products if product.output not in done]
        if plain:
            done |= {product.output: self._nearest(product) for product in rest}
        else:
            for rotates in (True, False):
                done |= self._by_layers({p.output: _entry(p) for p in rest if p.rotates == rotates}, hadamard=rotates)
        return done

    @property
    def _bounds_pairs(self) -> bool:
        return self.options.target == "standard" and self.options.target_cpu in ("any", "avx2")

    def _nearest(self, product: _Product) -> _Rounding:
        result = layer_codes(product.w, 1, None, 1.0, orders=_PAIRS if self._bounds_pairs else None)
        error = product.w - result.codes * result.scale
        return _Rounding(result.codes, result.scale, product.bias, None, _sqnr(product.w, error), "nearest")

    def _by_layers(self, weights: dict[str, Any], *, hadamard: bool, **options: Any) -> dict[str, _Rounding]:
        """Round by `qn.weights.quantize_layers`; 7 bits where neighbours must not add up to more than 128."""
        if not weights:
            return {}
        dtype = "int7" if self._bounds_pairs else "int8"
        result = quantize_layers(
            weights, dtype=dtype, granularity=PerChannel(0), symmetric=True, hadamard=hadamard, **options
        )
        rounded, method = {}, "gptq" if "run" in options else "mse"
        for name, q in result.items():
            assert isinstance(q, QuantizedArray)
            codes, scale = np.ascontiguousarray(q.codes.astype(np.int8).T), np.asarray(q.qparams.scale, np.float32)
            sqnr = result.report[name].sqnr_db
            rounded[name] = _Rounding(codes, scale, result.biases.get(name), result.hadamards.get(name), sqnr, method)
        return rounded

    def _by_data(
        self, owner: str, products: list[_Product], data: Iterable[Any], progress: bool | None
    ) -> dict[str, _Rounding]:
        """Round the weights for the activations that they meet in the quantized model, stage by stage."""
        if not products:
            return {}
        staged = [_staged(product) for product in products]
        batches, fit = fitting_batches(owner, self.graph.model, staged, data)
        staged = [layer for layer in staged if layer.name in fit]
        entries = {p.output: _entry(p) for p in products if p.output in fit}
        if not entries:
            return {}
        run = StagedModel(self.graph, staged, entries, {})
        return self._by_layers(
            entries, hadamard=products[0].rotates, run=run, batches=batches, activations="int8", progress=progress
        )

    # ---- layers ----

    def _groups(self, products: list[_Product]) -> dict[str, list[_Product]]:
        """Return the products that one node computes, by the output of the first; of the standard each is alone."""
        if self.options.target == "standard":
            return {product.output: [product] for product in products}
        found: dict[Any, list[_Product]] = {}
        for product in products:
            alone = product.addend is not None or product.transposed or product.activation is not None
            key = product.output if alone else (id(product.layer.graph), product.x, product.w.shape)
            found.setdefault(key, []).append(product)
        return {group[0].output: group for group in found.values()}

    def _int8(self, group: list[_Product], rounded: Mapping[str, _Rounding]) -> list[Change]:
        first = group[0]
        scope, name = first.layer.graph, first.layer.name
        nodes = Nodes(scope, name)
        x = nodes.add("Transpose", [first.x], perm=[1, 0]) if first.transposed else first.x
        outputs = [product.output for product in group]
        if first.addend is not None:
            outputs = [scope.name(f"{name}_product")]
        results = [rounded[product.output] for product in group]
        if self.options.target == "standard":
            self._standard(nodes, x, first, results[0], outputs[0])
        else:
            self._linear(nodes, x, group, results, outputs)
        if first.addend is not None:
            added, beta = first.addend
            if beta != 1.0:
                added = nodes.add("Mul", [added, nodes.constant(f"{name}_beta", np.float32(beta))])
            nodes.add("Add", [outputs[0], added], first.output)
        for product in group:
            for node in product.behind:
                scope.remove(node)
        for product in group[1:]:
            scope.remove(product.layer.node)
        scope.replace(first.layer.node, *nodes.made)
        form = "rows" if self.options.per == "row" else "tensor"
        return [self._changed(product, result, form) for product, result in zip(group, results, strict=True)]

    def _changed(self, product: _Product, result: _Rounding, form: str) -> Change:
        before, after = product.w.nbytes, result.codes.nbytes + result.scale.nbytes
        reason = _REASONS[form]
        if product.activation is not None:
            reason = f"{reason}; with its {product.activation}"
        if product.layer.name in self.smoothed:
            reason = f"{reason}; {self.smoothed[product.layer.name]} smooths its input"
        name, op_type, kind = product.layer.name, product.layer.op_type, self.options.target
        return Change(name, op_type, kind, "int8", reason, before, after, result.sqnr_db, result.method)

    def _standard(self, nodes: Nodes, x: str, product: _Product, result: _Rounding, output: str) -> None:
        form = self.forms.setdefault(id(nodes.graph), StandardForm(nodes.graph, self.options.per))
        bias = np.zeros(product.w.shape[1]) if result.bias is None else result.bias
        weight = LinearWeight(_weight_name(product), result.codes, result.scale, np.asarray(bias, np.float32))
        form.linear(nodes, x, product.rank, weight, output)

    def _linear(
        self, nodes: Nodes, x: str, group: list[_Product], results: list[_Rounding], outputs: list[str]
    ) -> None:
        weights = [QuantizedArray(result.codes, QParams(result.scale, 0, "int8", PerChannel(1))) for result in results]
        biases = [result.bias for result in results]
        bias = None
        if any(b is not None for b in biases):
            bias = np.concatenate(
                [np.zeros(w.shape[1]) if b is None else b for w, b in zip(weights, biases, strict=True)]
            )
        first = group[0]
        kind, factors = first.activation or "", None
        if self.smoothed.get(first.layer.name) == "Linear":
            divided = first.layer.graph.producer(x)
            assert divided is not None
            constant = first.layer.graph.constant(divided.input[1])
            assert constant is not None
            x, factors = divided.input[0], constant.array
        layer = LinearLayer(_weight_name(first), weights, bias, factors, results[0].rotation, kind)
        linear(nodes, x, layer, outputs)

    def _embedding(self, layer: Layer) -> Change:
        """A table of codes with a scale for each row: what is looked up is cast and multiplied."""
        assert layer.weight is not None
        table, node, scope, stem = layer.weight.array, layer.node, layer.graph, layer.weight.name
        axis = attribute(node, "axis", 0)
        if table.ndim != 2 or axis not in (0, -2) or table.size < _LEAST_EMBEDDING:
            return self._float(layer, "too small to gain" if table.size < _LEAST_EMBEDDING else "not looked up by rows")
        if not np.isfinite(table).all():
            return self._float(layer, "its weight is not finite")
        codes, scale = _rows(table)
        nodes = Nodes(scope, layer.name)
        ids = node.input[1]
        form = embedding if self.options.target == "qnumpy" else look_up
        form(nodes, ids, stem, codes, scale, node.output[0])
        scope.replace(node, *nodes.made)
        sqnr = _sqnr(table, table - codes * scale[:, None])
        after, reason = codes.nbytes + scale.nbytes, "a scale for each row"
        return Change(layer.name, "Gather", self.options.target, "int8", reason, table.nbytes, after, sqnr)

    def _float(self, layer: Layer, reason: str) -> Change:
        assert layer.weight is not None
        size, dtype = layer.weight.array.nbytes, str(layer.weight.array.dtype)
        return Change(layer.name, layer.op_type, "float", dtype, reason, size, size, None)


def _product(layer: Layer) -> _Product | str:
    """Return a MatMul or Gemm as a product and a sum, or why it is none."""
    assert layer.weight is not None
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
        product = _Product(
            layer, node.input[0], False, w, bias, None, [] if add is None else [add], add, None, output, rank, False
        )
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
        output = node.output[0]
        product = _Product(layer, node.input[0], transposed, w, bias, addend, [], None, None, output, 2, False)
    if k >= _MOST_INPUTS:
        return f"sums of {k} products may leave int32"
    return product


def _with_activation(product: _Product) -> _Product:
    """Return a product with the activation function that alone reads it."""
    found = None if product.addend is not None else activation_behind(product.layer.graph, product.output)
    if found is None:
        return product
    return product._replace(behind=[*found.nodes, *product.behind], activation=found.kind, output=found.output)


def _weight_name(product: _Product) -> str:
    assert product.layer.weight is not None
    return product.layer.weight.name


def _entry(product: _Product) -> Any:
    """Return the weight (N, K) and the bias as quantize_layers takes them."""
    w = np.ascontiguousarray(product.w.T)
    return w if product.bias is None else (w, product.bias)


def _staged(product: _Product) -> Staged:
    """Return a product as a layer of a stage."""
    layer = product.layer
    node, scope = layer.node, layer.graph
    turned = bool(layer.op_type == "Gemm" and attribute(node, "transB", 0))
    place = None
    if product.bias is not None:
        reader = product.add if product.add is not None else node
        slot = 2 if product.add is None else 1 - list(reader.input).index(node.output[0])
        place = (reader, slot, _same)
    y = node.output[0] if product.add is None else product.add.output[0]
    weight = partial(_node_weight, attribute(node, "alpha", 1.0) if layer.op_type == "Gemm" else 1.0, turned)
    return Staged(product.output, node, 1, product.x, _same, _same, weight, place, residual_of(scope, y))


def _same(x: Array) -> Array:
    return x


def _node_weight(alpha: float, turned: bool, w: Array) -> Array:
    """Return what a node reads for a weight (N, K) that is multiplied by alpha already."""
    w = w / np.float32(alpha)
    return w if turned else w.T


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


class _Times(NamedTuple):
    """Nanoseconds that a layer is estimated to take."""

    rows: int  # assumed
    real: float
    standard: float
    ours: float  # without the rotation of the rows
    rotation: float
    rotates: bool  # whether the rotation, which makes errors smaller, pays

    def coded(self, target: Target) -> float:
        """Return the time in int8."""
        return self.standard if target == "standard" else self.ours + self.rotates * self.rotation


def _times(graph: Graph, product: _Product) -> _Times:
    k, n = product.w.shape
    shape = graph.shape(product.x)
    if shape is None:
        rows = _ROWS
    else:
        axes = shape[1:] if product.transposed else shape[:-1]
        known = math.prod(d for d in axes if d)
        rows = known if all(d for d in axes) else known * (_ROWS if len(shape) > 2 else 1)
    real, coded = (
        max(rows * k * n / fast, k * n / read)
        for fast, read in ((_FLOAT_MACS, _FLOAT_ONE_ROW), (_INT8_MACS, _INT8_ONE_ROW))
    )
    standard = coded + _QUANTIZE * rows * k + _DEQUANTIZE * rows * n + _NODES
    ours = coded + rows * (_OUR_ROW + _OUR_QUANTIZE * k + _OUR_DEQUANTIZE * n) + _OUR_NODE
    if k % 2:
        return _Times(rows, real, standard, ours, 0.0, False)
    block = hadamard(k).block
    run = (block & -block) // 4 if block & (block - 1) else block  # of a block of 2^n, 12 * 2^n or 20 * 2^n
    wide = run >= _WIDE
    rotation = rows * k * (_ROTATE if wide else _ROTATE_NARROW / run)
    return _Times(rows, real, standard, ours, rotation, wide or ours + rotation < _MARGIN * real)


def _rows(table: Array) -> tuple[Array, Float32Array]:
    """Return int8 codes of each row in its own range around 0, and the scales."""
    largest = np.abs(table).max(axis=1)
    scale = np.where(largest > 0, np.maximum(largest / 127, _check.TINY), 1.0).astype(np.float32)
    return np.rint(table / scale[:, None]).clip(-127, 127).astype(np.int8), scale


def _sqnr(w: Array, error: Array) -> float | None:
    signal, noise = (float(np.square(a, dtype=np.float64).sum()) for a in (w, error))
    return finite_decibels(signal, noise)
