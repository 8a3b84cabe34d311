"""What a model computes, operator by operator, and how each may be quantized."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from .. import _check
from .._tables import Table, number
from .._typing import Array
from ._files import bits_of, nbytes, opset_of, read_model, tensors
from ._graph import Constant, Graph, attribute, node_name
from ._layers import RECURRENT, Layer, conv_macs, layers, matmul_macs, weights_of
from ._report import find_report

__all__ = ["Inspection", "Operator", "inspect"]

_MICROSOFT = "com.microsoft"
# Operators of integer codes: the inputs that are multiplied, the weight second.
_INTEGER = {
    ("", "MatMulInteger"): (0, 1), ("", "QLinearMatMul"): (0, 3), ("", "ConvInteger"): (0, 1),
    ("", "QLinearConv"): (0, 3), (_MICROSOFT, "QGemm"): (0, 3), (_MICROSOFT, "MatMulIntegerToFloat"): (0, 1),
    (_MICROSOFT, "DynamicQuantizeMatMul"): (0, 1), (_MICROSOFT, "MatMulInteger16"): (0, 1),
    (_MICROSOFT, "MatMulNBits"): (0, 1), (_MICROSOFT, "GatherBlockQuantized"): (1, 0),
    (_MICROSOFT, "QAttention"): (0, 1), (_MICROSOFT, "DynamicQuantizeLSTM"): (0, 1),
    ("qnumpy", "Linear"): (0, 1), ("qnumpy", "Conv"): (0, 1), ("qnumpy", "Embedding"): (0, 1),
}  # fmt: skip
_ATTENTION = {("", "Attention"), (_MICROSOFT, "Attention"), (_MICROSOFT, "MultiHeadAttention")}
_DERIVING = ("Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")

_LITTLE = 0.005  # of the multiplications and of the bytes of a model: what is not worth an error
_SMALL_TABLE = 1 << 16  # bytes of a table of rows
_SHORT = 32  # inputs of a product from which integer arithmetic pays for the change of form
_NAME = 48  # characters of a name in a table
_UNEVEN = 16  # times the median range of the channels


class Operator(NamedTuple):
    """One operator that multiplies or looks up rows.

    Attributes
    ----------
    name, op_type : str
    scope : str
        The node that holds the subgraph it is in, "" for the main graph.
    macs, macs_share : int, float
        Multiplications and their share; lengths that are not known count as 1. None where the shape is not known.
    weight : str
        The tensor that the weight comes from; "" for a product of activations.
    source : str
        Where that is: an initializer or a Constant node, behind which operators, in which scope, shared with how many.
    shape, dtype : tuple of int, str
        Of the weight as the operator reads it.
    nbytes, nbytes_share : int, float
        Of the weight in the file, and its share in all tensors of the file.
    low, high : float or None
        The range of the weight.
    spread : float or None
        The range of its widest output channel over that of the median channel.
    form : str
        "float", or how it is quantized already.
    recommendation, reason : str
    """

    name: str
    op_type: str
    scope: str
    macs: int | None
    macs_share: float | None
    weight: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    nbytes_share: float
    low: float | None
    high: float | None
    spread: float | None
    form: str
    recommendation: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return {**self._asdict(), "shape": list(self.shape)}


class Inspection(Table[Operator]):
    """The operators of a model as a table; `facts` holds what is true of the whole."""

    _left = 4
    _last_left = True

    def __init__(self, operators: Iterable[Operator], facts: dict[str, Any], sentences: Iterable[str]) -> None:
        super().__init__(operators, Operator, "operators")
        self.facts = facts
        self._warned = list(sentences)

    @property
    def is_quantized(self) -> bool:
        """Whether an operator of the model is quantized already."""
        return any(operator.form != "float" for operator in self)

    def _head(self) -> list[str]:
        return ["operator", "type", "form", "weight", "shape", "MACs", "%", "bytes", "%", "range", "recommendation"]

    def _row(self, item: Operator) -> list[str]:
        name = _short(f"{item.scope} / {item.name}" if item.scope else item.name)
        weight = f"{_short(item.weight)} ({item.source})" if item.weight else "-"
        ends = "-" if item.low is None else f"[{number(item.low)}, {number(item.high)}]"
        return [
            name, item.op_type, item.form if item.form != "float" or not item.dtype else item.dtype, weight,
            " x ".join(map(str, item.shape)) or "-", "-" if item.macs is None else f"{item.macs:,}",
            _percent(item.macs_share), f"{item.nbytes:,}", _percent(item.nbytes_share), ends,
            f"{item.recommendation}: {item.reason}",
        ]  # fmt: skip

    def _foot(self) -> list[list[str]]:
        macs, size, share = self.facts["macs"], self.facts["weight_bytes"], self.facts["weight_share"]
        return [["all", "", "", "", "", f"{macs:,}", "100", f"{size:,}", _percent(share), "", ""]]

    def _about(self) -> dict[str, Any]:
        return {"facts": self.facts, "warnings": self._warned}

    def _sentences(self) -> list[str]:
        return self._warned

    def __str__(self) -> str:
        facts = self.facts
        head = (
            f"{facts['state']}; operator set {facts['opset']}, IR version {facts['ir_version']}, "
            f"{facts['nodes']} nodes, {facts['bytes']:,} bytes of tensors"
        )
        return f"{head}\n\n{super().__str__()}"

    __repr__ = __str__


def inspect(model: Any, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Inspection:
    """List the operators of a model that multiply or look up rows, and how each may be quantized.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    shapes : mapping of str to tuple of int, optional
        Shapes of inputs; lengths that a model leaves open count as 1 otherwise.

    Returns
    -------
    Inspection
        A table with a row for each operator, in subgraphs too: multiplications, bytes, their shares, the range of the
        weight and where it comes from, a recommendation with its reason. As text, JSON (``to_json``) and HTML. An
        operator that is quantized already has its form instead.

    Raises
    ------
    TypeError
        The model is neither of the three.
    FileFormatError
        The model cannot be read.
    ValueError
        shapes name no input of the model, or have another rank.

    Notes
    -----
    Nothing is computed by the model. Shapes come from onnx's shape inference.

    Examples
    --------
    >>> import qnumpy as qn
    >>> table = qn.onnx.inspect("model.onnx")  # doctest: +SKIP
    >>> [operator.name for operator in table if operator.recommendation == "float"]  # doctest: +SKIP
    """
    proto = read_model("inspect", model)
    if shapes is not None:
        _set_shapes(proto, shapes)
    graph = Graph.of(proto)
    rows = _rows(graph)
    everything = sum(nbytes(tensor) for tensor in tensors(proto.graph))
    macs = sum(row.macs or 0 for row in rows)
    kept = {weight.name: size for row in rows for weight, size in zip(row.weights, row.sizes, strict=True)}
    users = {name: sum(name in [w.name for w in row.weights] for row in rows) for name in kept}
    operators = [_operator(row, macs, everything, users) for row in rows]
    facts = {
        "state": _state(proto, graph, operators),
        "opset": opset_of(proto),
        "ir_version": int(proto.ir_version),
        "nodes": sum(len(scope.proto.node) for scope in graph.walk()),
        "operators": _counts(graph),
        "macs": macs,
        "bytes": everything,
        "weight_bytes": sum(kept.values()),
        "weight_share": sum(kept.values()) / everything if everything else 0.0,
    }
    if isinstance(model, str | os.PathLike):
        facts["file_bytes"] = os.path.getsize(model)
    return Inspection(operators, facts, _warnings(proto, graph, rows, shapes is None))


def _short(name: str) -> str:
    """Return a name that a table can hold: the end of a longer one tells more than its beginning."""
    return name if len(name) <= _NAME else f"...{name[3 - _NAME :]}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _set_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write fixed lengths into the inputs of a model."""
    if not isinstance(shapes, Mapping):
        raise TypeError(_check.must("inspect", "shapes", "a mapping of names to shapes", _check.typed(shapes)))
    inputs = {value.name: value for value in model.graph.input}
    for name, shape in shapes.items():
        if name not in inputs:
            listed = ", ".join(map(repr, inputs))
            raise ValueError(_check.must("inspect", "shapes", f"shapes of the inputs {listed}", repr(name)))
        dims = inputs[name].type.tensor_type.shape.dim
        lengths = [_check.integer("inspect", f"shapes[{name!r}]", length) for length in shape]
        declared = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims]
        fits = len(declared) == len(lengths) and all(
            wanted in (None, length) for wanted, length in zip(declared, lengths, strict=True)
        )
        if not fits:
            text = f"of shape ({', '.join('?' if n is None else str(n) for n in declared)})"
            raise ValueError(_check.must("inspect", f"shapes[{name!r}]", text, str(tuple(lengths))))
        if min(lengths, default=1) < 1:
            wanted = "of lengths of at least 1"
            raise ValueError(_check.must("inspect", f"shapes[{name!r}]", wanted, str(tuple(lengths))))
        for dim, length in zip(dims, lengths, strict=True):
            dim.dim_value = length
    del model.graph.value_info[:]  # they may hold lengths of another size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")


class _Row(NamedTuple):
    """What is known of an operator before the sums of the model are."""

    graph: Graph
    node: NodeProto
    layer: Layer | None
    macs: int | None
    weights: list[Constant]
    sizes: list[int]
    form: str


def _rows(graph: Graph) -> list[_Row]:
    by_node = {id(layer.node): layer for layer in layers(graph)}
    rows = []
    for scope in graph.walk():
        for node in scope.proto.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            key, layer = (domain, node.op_type), by_node.get(id(node))
            if layer is not None:
                rows.append(_layer_row(scope, layer))
            elif key in _INTEGER:
                rows.append(_integer_row(scope, node, *_INTEGER[key]))
            elif key in _ATTENTION:
                constant = scope.constant(node.input[1]) if len(node.input) > 1 else None
                kept = [] if constant is None else [constant]
                macs = matmul_macs(scope, node.input[0], node.input[1]) if kept else None
                rows.append(_Row(scope, node, None, macs, kept, [w.array.nbytes for w in kept], "float"))
            elif node.op_type == "Gather" and not domain and _codes_behind(scope, node.input[0]) is not None:
                rows.append(_qdq_row(scope, node, None, 0, 1))
    return rows


def _layer_row(graph: Graph, layer: Layer) -> _Row:
    kept = weights_of(layer)
    if kept or layer.op_type == "Gather":
        return _Row(graph, layer.node, layer, layer.macs, kept, [_stored(graph, w) for w in kept], "float")
    if _codes_behind(graph, layer.node.input[1]) is not None:
        return _qdq_row(graph, layer.node, layer, 1, 0)
    return _Row(graph, layer.node, layer, layer.macs, [], [], "float")


def _stored(graph: Graph, constant: Constant) -> int:
    """Return the bytes of the tensor that a constant comes from: a Cast before it makes the file smaller."""
    source = graph.constant(constant.name)
    return constant.array.nbytes if source is None else source.array.nbytes


def _codes_behind(graph: Graph, tensor: str) -> Constant | None:
    """Return the codes of a weight that is dequantized from a constant, also behind a Transpose and its like."""
    scope: Graph | None = graph
    while scope is not None:
        node = scope.producer(tensor)
        if node is None:
            scope = scope.parent
        elif node.op_type == "DequantizeLinear":
            return scope.constant(node.input[0])
        elif node.op_type in _DERIVING:
            tensor = node.input[0]
        else:
            return None
    return None


def _qdq_row(graph: Graph, node: NodeProto, layer: Layer | None, weight: int, x: int) -> _Row:
    codes = _codes_behind(graph, node.input[weight])
    assert codes is not None
    producer = graph.producer(node.input[x])
    both = producer is not None and producer.op_type == "DequantizeLinear"
    dtype = codes.array.dtype.name
    form = f"QDQ {dtype}" if both else f"QDQ {dtype} weight"
    return _Row(graph, node, layer, 0 if layer is None else layer.macs, [codes], [_code_bytes(codes)], form)


def _code_bytes(codes: Constant) -> int:
    name = codes.array.dtype.name.upper()
    kinds = TensorProto.DataType
    bits = bits_of(kinds.Value(name)) if name in kinds.keys() else 8 * codes.array.itemsize  # noqa: SIM118
    return (codes.array.size * bits + 7) // 8


def _integer_row(graph: Graph, node: NodeProto, x: int, weight: int) -> _Row:
    codes = graph.constant(node.input[weight])
    form = node.op_type
    if node.op_type == "MatMulNBits" or node.domain == "qnumpy":
        form = f"{form} int{attribute(node, 'bits', 8)}"
    elif codes is not None:
        form = f"{form} {codes.array.dtype.name}"
    macs: int | None
    if node.op_type in ("ConvInteger", "QLinearConv", "Conv"):
        macs = conv_macs(graph, node.output[0], node.input[weight])
    elif node.op_type in ("MatMulNBits", "Linear"):
        shape = graph.shape(node.input[x])
        rows = None if shape is None else int(np.prod([n or 1 for n in shape[:-1]], dtype=np.int64))
        macs = None if rows is None else rows * attribute(node, "K", 0) * attribute(node, "N", 0)
    elif node.op_type in ("GatherBlockQuantized", "Embedding"):
        macs = 0
    else:
        macs = matmul_macs(graph, node.input[x], node.input[weight])
    kept = [] if codes is None else [codes]
    return _Row(graph, node, None, macs, kept, [_code_bytes(c) for c in kept], form)


def _operator(row: _Row, macs: int, everything: int, users: Mapping[str, int]) -> Operator:
    weight = row.weights[0] if row.weights else None
    size, share = sum(row.sizes), sum(row.sizes) / everything if everything else 0.0
    macs_share = None if row.macs is None else row.macs / macs if macs else 0.0
    low = high = spread = None
    if weight is not None and row.form == "float":
        low, high = _extremes([w.array for w in row.weights])
        spread = _spread(row.layer, weight.array)
    recommendation, reason = _advice(row, macs_share, share)
    return Operator(
        node_name(row.node),
        row.node.op_type,
        _scope_name(row.graph),
        row.macs,
        macs_share,
        "" if weight is None else weight.name,
        "" if weight is None else _source(row.graph, weight, users.get(weight.name, 1)),
        () if weight is None else weight.array.shape,
        "" if weight is None else weight.array.dtype.name,
        size,
        share,
        low,
        high,
        spread,
        row.form,
        recommendation,
        reason,
    )


def _scope_name(graph: Graph) -> str:
    """Return the name of the node that holds a subgraph, with those around it."""
    names: list[str] = []
    while graph.parent is not None:
        for node in graph.parent.proto.node:
            for entry in node.attribute:
                if (entry.HasField("g") and entry.g is graph.proto) or any(g is graph.proto for g in entry.graphs):
                    names.insert(0, f"{node_name(node)}.{entry.name}")
        graph = graph.parent
    return " / ".join(names)


def _source(graph: Graph, weight: Constant, users: int) -> str:
    scope, levels = graph, 0
    while scope.parent is not None and weight.name not in scope.local_names():
        scope, levels = scope.parent, levels + 1
    text = "Constant node" if scope.producer(weight.name) is not None else "initializer"
    text += f" behind {', '.join(weight.path)}" if weight.path else ""
    text += " of an outer scope" if levels else ""
    return f"{text}, shared by {users}" if users > 1 else text


def _extremes(arrays: list[Array]) -> tuple[float | None, float | None]:
    wide = [array.astype(np.float32, copy=False) for array in arrays]
    finite = [array[np.isfinite(array)] for array in wide]
    low = [float(array.min()) for array in finite if array.size]
    return (min(low), max(float(array.max()) for array in finite if array.size)) if low else (None, None)


def _channels(layer: Layer, weight: Array) -> Array:
    """Return the largest absolute value of every output channel."""
    assert layer.outputs_axis is not None
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.outputs_axis)
    widest: Array = np.abs(weight.astype(np.float32, copy=False)).max(axis=others)
    return widest


def _spread(layer: Layer | None, weight: Array) -> float | None:
    if layer is None or layer.outputs_axis is None or weight.ndim < 2:
        return None
    widest = _channels(layer, weight)
    median = float(np.median(widest))
    return float(widest.max() / median) if median > 0 and np.isfinite(widest).all() else None


def _advice(row: _Row, macs_share: float | None, share: float) -> tuple[str, str]:
    """Return how an operator may be quantized, and why."""
    if row.form != "float":
        return "as it is", f"quantized already, as {row.form}"
    if row.layer is None:
        return "float", "onnxruntime fuses it in float, and no integer form keeps its softmax"
    layer = row.layer
    if layer.weight is None:
        if layer.op_type not in ("MatMul", "Gemm"):
            return "float", "the model computes its weight"
        return "float", "both inputs are activations, and there is no weight to make smaller"
    if layer.weight.array.dtype.name == "float64":
        return "float", "float64 is what integer codes of 8 bits do not replace"
    array = layer.weight.array
    if layer.op_type == "Gather":
        if array.nbytes < _SMALL_TABLE:
            return "float", "the table is small"
        return "int8 rows", "rows are looked up: a quarter of the bytes at no loss of speed"
    if (macs_share or 0.0) < _LITTLE and share < _LITTLE:
        return "float", f"under {100 * _LITTLE:g} % of the multiplications and of the bytes"
    if layer.op_type in RECURRENT:
        return (
            "int8 weights",
            "a step feeds the next one, so that errors add up; integer activations would not be faster",
        )
    if layer.op_type == "ConvTranspose":
        return "int8 weights", "onnxruntime has no integer kernel for it"
    if layer.op_type == "Conv":
        group = attribute(layer.node, "group", 1)
        if group > 1 and array.shape[1] == 1:
            return "static int8", "depthwise: few multiplications a byte; int8 pays beside neighbours in int8"
        return "static int8", "QLinearConv is fast; a dynamic ConvInteger is slower than float"
    if array.shape[layer.axis] < _SHORT:
        return "float", f"sums of under {_SHORT} products gain nothing from integers"
    spread = _spread(layer, array)
    if spread is not None and spread > _UNEVEN:
        return "dynamic int8", f"a scale for each output channel: the widest is {spread:.0f} times the median one"
    return "dynamic int8", "a scale for each row of the activations keeps most of float's accuracy"


def _counts(graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for scope in graph.walk():
        for node in scope.proto.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _state(model: ModelProto, graph: Graph, operators: list[Operator]) -> str:
    """Return in words whether a model is quantized."""
    forms = [operator.form for operator in operators if operator.form != "float"]
    by = " by qnumpy" if find_report(model) is not None else ""
    if forms:
        kinds = ", ".join(f"{forms.count(form)} {form}" for form in dict.fromkeys(forms))
        return f"already quantized{by}: {len(forms)} of {len(operators)} operators ({kinds})"
    if any(node.op_type == "DequantizeLinear" for scope in graph.walk() for node in scope.proto.node):
        return f"already quantized{by}: tensors between its operators"
    dtypes = sorted({operator.dtype for operator in operators if operator.dtype})
    return f"not quantized: {', '.join(dtypes) or 'no weights'}"


def _warnings(model: ModelProto, graph: Graph, rows: list[_Row], open_lengths: bool) -> list[str]:
    filled = {tensor.name for tensor in model.graph.initializer}
    loose = []
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in filled and any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
            loose.append(value.name)
    sentences = []
    if loose and open_lengths and any(row.macs != 0 for row in rows):
        names = ", ".join(map(repr, loose))
        sentences.append(f"lengths of {names} are open and count as 1; shapes={{name: shape}} sets them.")
    for row in rows:
        name = node_name(row.node)
        for weight in row.weights if row.form == "float" else []:
            wide = weight.array.astype(np.float32, copy=False)
            if not np.isfinite(wide).all():
                sentences.append(
                    f"{name}: {np.count_nonzero(~np.isfinite(wide))} values of {weight.name} are not finite."
                )
        layer = row.layer
        if row.form == "float" and layer is not None and layer.weight is not None and layer.outputs_axis is not None:
            dead = int(np.count_nonzero(_channels(layer, layer.weight.array) == 0))
            if dead and layer.op_type != "Gather":
                sentences.append(f"{name}: {dead} output channels are all zero.")
    return sentences
