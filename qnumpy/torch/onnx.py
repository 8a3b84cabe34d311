"""Converted models as ONNX models: the layers in the operators that `qnumpy.onnx` writes."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from .. import _args, _check
from .._typing import Array, Path
from ..arrays.quantized import QuantizedArray
from ..arrays.storages import is_of_floats
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor
from ..ops.hadamard import Hadamard
from ..qparams import QParams
from ._layout import Layout, array_in, layout_of
from ._library import tensor_of

__all__ = ["to_onnx"]

Target = Literal["qnumpy", "standard"]
_OWNER = "to_onnx"
_TARGETS = {"qnumpy": 0, "standard": 1}
_PLACES = "qnumpy.torch"  # the domain of nodes that stand for a layer until it is written
_GROUPS = (16, 32, 64, 128)  # of a node Linear


def to_onnx(
    model: nn.Module,
    example: Any,
    path: Path | None = None,
    *,
    target: Target = "qnumpy",
    dynamic_shapes: Any = "auto",
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> Any:
    """Return a converted model as an ONNX model, without fake quantization in between.

    `torch.export` traces the model, `torch.onnx` writes its float parts, and each layer of codes becomes the nodes and
    constants that `qnumpy.onnx.quantize_dynamic` and `quantize_static` write. The model does not change.

    Parameters
    ----------
    model : torch.nn.Module
        As `convert` returns it.
    example : Tensor, tuple of arguments, or mapping of keyword arguments
        Inputs with which the model is traced.
    path : str or path, optional
        Where to write the model; it appears whole or not at all.
    target : {"qnumpy", "standard"}
        Operators of the domain "qnumpy", which `qnumpy.onnx.session` registers, or those of the ONNX standard alone.
    dynamic_shapes : optional
        Which lengths of the inputs are open, as `torch.export.export` takes it. "auto": all that the model leaves open,
        such as batch and sequence; an axis whose length is 1 in the example is fixed. None: those of the example.
    input_names, output_names : list of str, optional

    Returns
    -------
    onnx.ModelProto
        `qnumpy.onnx.report` says what became of each layer.

    Raises
    ------
    ValueError
        target is unknown.
    TypeError
        model is no module.
    ImportError
        onnx, onnxruntime or onnxscript is not installed.
    ValueError
        torch.onnx cannot export the model, or a layer has no form in the target.
    TypeError, ValueError, OSError
        path is no path, or cannot be written.

    Notes
    -----
    The layers of the target "qnumpy" give the bits of the layers of PyTorch, in reals of float32 with x per row or in
    the groups of the weight; of x in a range known before, QuantizeLinear and MatMulInteger of both targets do, as long
    as ONNX Runtime adds products exactly: on x86 without VNNI its products of uint8 and int8 saturate. With the target
    "standard" rows of x become uint8 by standard operators, whose scales may differ by one rounding. What ONNX has no
    product for is stored as codes and computes in float32.

    Examples
    --------
    >>> import qnumpy as qn, torch
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    >>> model = torch.nn.Sequential(qn.torch.Linear(qn.quantize(w, granularity=qn.PerChannel(0))), torch.nn.ReLU())
    >>> proto = to_onnx(model, torch.ones(2, 4))
    >>> [(node.domain, node.op_type) for node in proto.graph.node]
    [('qnumpy', 'Linear')]
    """
    _args.choice(_OWNER, "target", target, _TARGETS)
    if not isinstance(model, nn.Module):
        raise TypeError(_check.must(_OWNER, "model", "a torch.nn.Module", _check.typed(model)))
    _require_packages()
    from ..onnx._files import path_of, write_model
    from ..onnx._forms.qnumpy import norms
    from ..onnx._graph import Graph
    from ..onnx._report import attach
    from ..onnx._rewrites import rewrite

    if path is not None:
        path_of(_OWNER, path)
    proto = _exported(model, example, dynamic_shapes, input_names, output_names)
    held = _taken(proto)
    graph = Graph.of(proto)
    rewrites = rewrite(graph)
    changes = _Writer(graph, target, held).write()
    joined = norms(graph) if target == "qnumpy" else 0
    if joined:
        rewrites["SkipLayerNormalization in place of a sum and a LayerNormalization"] = joined
    graph.remove_unused()
    for place in [entry for entry in proto.opset_import if entry.domain == _PLACES]:
        proto.opset_import.remove(place)
    attach(proto, changes, form=target, function=_OWNER, rewrites=rewrites)
    if path is not None:
        write_model(_OWNER, proto, path)
    return proto


def _require_packages() -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            sentence = f"{_OWNER}: {package} must be installed: pip install 'qnumpy[onnx]' onnxscript."
            raise ImportError(sentence, name=package) from error


# ---- torch.onnx ----


def _exported(model: nn.Module, example: Any, dynamic_shapes: Any, inputs: Any, outputs: Any) -> Any:
    """Return the model with a node of the domain `_PLACES` for each operator of qnumpy, and without notes of torch."""
    args = () if isinstance(example, Mapping) else example if isinstance(example, tuple) else (example,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    if isinstance(dynamic_shapes, str):
        _args.choice(_OWNER, "dynamic_shapes", dynamic_shapes, {"auto": 0})
        dynamic_shapes = torch.utils._pytree.tree_map(_open_axes, kwargs or args)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                model, args, kwargs=kwargs, dynamo=True, verbose=False, dynamic_shapes=dynamic_shapes,
                input_names=inputs, output_names=outputs, custom_translation_table=_translations(),
            )  # fmt: skip
        except Exception as error:  # of torch.export, of torch.onnx and of onnxscript
            got = f"one of which it says: {_cause(error)}"
            raise ValueError(_check.must(_OWNER, "model", "one that torch.onnx.export takes", got)) from error
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *_values(proto.graph)):  # source lines and their folders
        del part.metadata_props[:]
        part.doc_string = ""
    return proto


def _values(graph: Any) -> list[Any]:
    return [*graph.initializer, *graph.input, *graph.output, *graph.value_info]


def _open_axes(x: Any) -> Any:
    """Return the axes of an example whose lengths are open."""
    if not isinstance(x, torch.Tensor):
        return None
    return {axis: torch.export.Dim.AUTO for axis, length in enumerate(x.shape) if length != 1}


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return (text[:200] or type(error).__name__).rstrip(".")


@cache
def _translations() -> dict[Any, Callable[..., Any]]:
    """Return, for each operator of qnumpy that a layer calls, what writes a node of the same inputs."""
    from onnx import defs
    from onnxscript.values import Op, Opset

    from ._linear import linear

    schema, parameter = defs.OpSchema, defs.OpSchema.FormalParameter
    types = sorted(schema.all_tensor_types_ir4()) + [f"tensor({name})" for name in _NEWER]
    table = {}
    for operator in (linear,):
        kind = operator._schema.name.partition("::")[2]
        many = parameter("tensors", "T", param_option=schema.FormalParameterOption.Variadic, is_homogeneous=False)
        node = Op(
            Opset(_PLACES, 1),
            kind,
            schema(
                kind, _PLACES, 1,
                inputs=[parameter("x", "X"), many],
                outputs=[parameter("y", "X")],
                type_constraints=[("X", types, ""), ("T", types, "")],
                attributes=[schema.Attribute("layout", schema.AttrType.STRING, "")],
            ),
        )  # fmt: skip
        table[operator] = _translation(node)
    return table


_NEWER = ("bfloat16", "float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz")


def _translation(node: Any) -> Callable[..., Any]:
    def written(x: Any, tensors: Any, layout: str) -> Any:
        return node(x, *tensors, layout=layout)

    return written


class _Held(NamedTuple):
    """What a node of the domain `_PLACES` stands for."""

    name: str  # of the module
    layout: Layout
    arrays: dict[str, Any]


def _taken(proto: Any) -> dict[str, _Held]:
    """Return what the nodes stand for, by their first output; only x stays an input of theirs.

    The tensors of codes leave the model, and their names are free.
    """
    from onnx import numpy_helper

    from ..onnx._graph import attribute

    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    held: dict[str, _Held] = {}
    taken: set[str] = set()
    for node in proto.graph.node:
        if node.domain != _PLACES:
            continue
        layout = layout_of(attribute(node, "layout").decode())
        names = list(node.input[1:])
        tensors = [tensor_of(numpy_helper.to_array(initializers[name])) for name in names]
        arrays = {name: array_in(layout, tensors, name) for name in layout.specs}
        held[node.output[0]] = _Held(names[0].removesuffix(".weight"), layout, arrays)
        taken.update(names)
        del node.input[1:]
    taken -= {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in taken]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return held


# ---- layers ----


class _Linear(NamedTuple):
    """A linear layer, and the nodes that its node takes in."""

    node: Any
    name: str
    x: str
    smooth: Array | None
    weight: Any  # as (N, K)
    bias: Array | None
    options: dict[str, Any]
    activation: str
    behind: list[Any]
    output: str

    @property
    def rotation(self) -> Hadamard | None:
        return self.options.get("hadamard")

    @property
    def clip(self) -> tuple[float, float]:
        low, high = self.options.get("clip", (None, None))
        return -np.inf if low is None else low, np.inf if high is None else high

    @property
    def x_qparams(self) -> QParams | None:
        return self.options.get("x_qparams")

    @property
    def x_granularity(self) -> Granularity:
        given: Granularity | None = self.options.get("x_granularity")
        grouped = isinstance(self.weight.granularity, PerGroup)
        return given or (PerGroup(self.weight.granularity.group_size) if grouped else PerRow())

    @property
    def attributes(self) -> dict[str, Any]:
        """How a node Linear quantizes x."""
        by = "group" if isinstance(self.x_granularity, PerGroup) else "row"
        values = {"symmetric": int(self.options.get("symmetric", True)), "x_granularity": by}
        return {**values, "activation_bits": self.options.get("activation_bits", 8)}


class _Writer:
    """Writes the layers of a graph."""

    def __init__(self, graph: Any, target: str, held: Mapping[str, _Held]) -> None:
        from ..onnx._forms.standard import StandardForm

        self.graph, self.target, self.held = graph, target, held
        self.rows, self.ranges = StandardForm(graph, "row"), StandardForm(graph, "tensor")

    def write(self) -> list[Any]:
        """Replace the nodes that stand for layers; return what became of each."""
        changes: list[Any] = []
        groups: dict[Any, list[_Linear]] = {}
        for node in list(self.graph.proto.node):
            if node.domain == _PLACES:
                layer = self._linear(node)
                groups.setdefault(self._key(layer), []).append(layer)
        for group in groups.values():
            changes += self._written(group)
        return changes

    def _linear(self, node: Any) -> _Linear:
        name, layout, arrays = self.held[node.output[0]]
        node = self._in_float32(node)
        layer = _Linear(
            node, name, node.input[0], None, arrays["weight"], arrays.get("bias"), layout.options, "", [],
            node.output[0],
        )  # fmt: skip
        if self.target == "standard" or not self._fits(layer):
            return layer
        return self._with_activation(self._with_factors(layer))

    def _in_float32(self, node: Any) -> Any:
        """Return a node that reads and gives float32, between casts where the model has another type."""
        from onnx import TensorProto, helper

        kind = self.graph.elem_type(node.input[0])
        if kind in (TensorProto.FLOAT, None):
            return node
        x, y = self.graph.name(f"{node.input[0]}_float"), self.graph.name(f"{node.output[0]}_float")
        made = self.graph.replace(
            node,
            helper.make_node("Cast", [node.input[0]], [x], name=x, to=TensorProto.FLOAT),
            helper.make_node(node.op_type, [x], [y], name=node.name, domain=_PLACES),
            helper.make_node("Cast", [y], list(node.output), name=self.graph.name(f"{y}_cast"), to=kind),
        )
        return made[1]

    def _fits(self, layer: _Linear) -> bool:
        """Whether a node Linear computes a layer."""
        w = layer.weight
        if layer.x_qparams is not None or not isinstance(w, QuantizedArray) or is_of_floats(w):
            return False
        if isinstance(layer.x_granularity, PerTensor):
            return False
        return not isinstance(w.granularity, PerGroup) or w.granularity.group_size in _GROUPS

    def _with_factors(self, layer: _Linear) -> _Linear:
        """Return a layer that multiplies x by the factors which a node before it applies."""
        mul = self.graph.producer(layer.x)
        if mul is None or mul.op_type != "Mul" or mul.domain:
            return layer
        for one, other in (mul.input, reversed(mul.input)):
            constant = self.graph.constant(one)
            if constant is not None and constant.array.shape == (layer.weight.shape[1],):
                if constant.array.dtype == np.float32:
                    return layer._replace(x=other, smooth=constant.array)
        return layer

    def _with_activation(self, layer: _Linear) -> _Linear:
        from ..onnx._rewrites import activation_behind

        if layer.clip == (0, np.inf):
            return layer._replace(activation="relu")
        found = activation_behind(self.graph, layer.output) if layer.clip == (-np.inf, np.inf) else None
        if found is None:
            return layer
        return layer._replace(activation=found.kind, behind=found.nodes, output=found.output)

    def _key(self, layer: _Linear) -> Any:
        """Return what layers have in common that one node computes."""
        alone = (
            self.target == "standard" or not self._fits(layer) or layer.activation or layer.clip != (-np.inf, np.inf)
        )
        if alone or isinstance(layer.weight.granularity, PerTensor):
            return layer.output
        w, smooth = layer.weight, None if layer.smooth is None else layer.smooth.tobytes()
        kind = (w.qparams.code.name, w.qparams.qmin, w.qparams.symmetric, str(w.granularity), w.shape)
        return layer.x, smooth, kind, str(layer.options)

    def _written(self, group: list[_Linear]) -> list[Any]:
        from ..onnx._forms.standard import Nodes

        first = group[0]
        nodes = Nodes(self.graph, first.name)
        outputs = [layer.output for layer in group]
        low, high = first.clip
        clips = (low, high) != (-np.inf, np.inf) and not first.activation
        if clips:
            outputs = [self.graph.name(f"{first.name}_product")]
        reason = self._product(nodes, group, outputs)
        if clips:
            bounds = [nodes.constant("qnumpy_bound", np.float32(bound)) for bound in (low, high)]
            nodes.add("Clip", [outputs[0], *bounds], first.output)
        for layer in group:
            for node in layer.behind:
                self.graph.remove(node)
        for layer in group[1:]:
            self.graph.remove(layer.node)
        self.graph.replace(first.node, *nodes.made)
        return [self._change(layer, reason) for layer in group]

    def _product(self, nodes: Any, group: list[_Linear], outputs: list[str]) -> str:
        """Append the product of a group; return what the report says of it."""
        layer = group[0]
        if self.target == "qnumpy" and self._fits(layer):
            self._ours(nodes, group, outputs)
            return "each row is quantized as it comes"
        if layer.rotation is not None:
            wanted = f"without rotated rows where {self.target!r} has no node for them"
            raise ValueError(_check.must(_OWNER, "model", wanted, f"{layer.name!r}"))
        x = layer.x
        if layer.x_qparams is not None and self._has_int8(layer):
            self.ranges.linear(nodes, x, self._rank(x), self._int8(layer), outputs[0], layer.x_qparams)
            return "x is quantized in a range known before"
        if layer.x_qparams is None and self._has_int8(layer):
            self.rows.linear(nodes, x, self._rank(x), self._int8(layer), outputs[0])
            return "each row is quantized to uint8 as it comes"
        self._real(nodes, layer, outputs[0])
        return "the weight is stored as codes and computes in float32"

    def _rank(self, x: str) -> int | None:
        shape = self.graph.shape(x)
        return None if shape is None else len(shape)

    def _ours(self, nodes: Any, group: list[_Linear], outputs: list[str]) -> None:
        from ..onnx._forms.qnumpy import LinearLayer, linear

        first, bias = group[0], None
        if any(layer.bias is not None for layer in group):
            n = first.weight.shape[0]
            bias = np.concatenate([np.zeros(n, np.float32) if layer.bias is None else layer.bias for layer in group])
        weights = [_by_columns(layer.weight) for layer in group]
        stem = _stem(first)
        scale_dtype = first.options.get("scale_dtype", "float32")
        made = LinearLayer(
            stem, weights, bias, first.smooth, first.rotation, first.activation, first.attributes, scale_dtype
        )
        linear(nodes, first.x, made, outputs)

    def _has_int8(self, layer: _Linear) -> bool:
        """Whether a weight is int8 around 0 with a scale for each column, or one scale."""
        w = layer.weight
        if not isinstance(w, QuantizedArray) or is_of_floats(w) or isinstance(w.granularity, PerGroup):
            return False
        return bool(w.qparams.code.signed and w.qparams.code.bits <= 8 and not np.any(w.zero_point))

    def _int8(self, layer: _Linear) -> Any:
        from ..onnx._forms.standard import LinearWeight

        n = layer.weight.shape[0]
        codes = np.ascontiguousarray(np.asarray(layer.weight.codes).astype(np.int8).T)
        scale = np.broadcast_to(layer.weight.scale, n).astype(np.float32)
        bias = np.zeros(n, np.float32) if layer.bias is None else layer.bias
        return LinearWeight(_stem(layer), codes, scale, bias)

    def _real(self, nodes: Any, layer: _Linear, output: str) -> None:
        """Append the product with a weight that is stored as codes and expanded."""
        matrix = self._expanded(nodes, layer)
        product = nodes.add("MatMul", [layer.x, matrix], "" if layer.bias is not None else output)
        if layer.bias is not None:
            nodes.add("Add", [product, nodes.constant(f"{layer.name}.bias", layer.bias)], output)

    def _expanded(self, nodes: Any, layer: _Linear) -> str:
        from onnx import TensorProto

        from ..arrays.offset import OffsetArray
        from ..onnx._forms.folded import fold
        from ..onnx._forms.weight_codes import Codes

        w = layer.weight
        if isinstance(w, QuantizedArray) and is_of_floats(w) and w.qparams.code.bits == 8:
            axis = {} if isinstance(w.granularity, PerTensor) else {"axis": 1}
            if not isinstance(w.granularity, PerGroup):
                inputs = [nodes.constant(f"{_stem(layer)}_quantized", np.ascontiguousarray(w.codes.T))]
                inputs.append(nodes.constant(f"{_stem(layer)}_scale", w.scale))
                return str(nodes.add("DequantizeLinear", inputs, **axis))
        integers = isinstance(w, QuantizedArray) and not is_of_floats(w)
        if not (integers or isinstance(w, OffsetArray)) or layer.x_qparams is not None:
            wanted = "of layers that ONNX has a form for"
            raise ValueError(_check.must(_OWNER, "model", wanted, f"{layer.name!r} of {_kind(layer)}"))
        n, k = w.shape
        grouped = isinstance(w.granularity, PerGroup)
        if not grouped:  # one group a row
            scale = np.broadcast_to(np.reshape(w.scale, (-1, 1)), (n, 1)).astype(np.float32)
            zero = np.broadcast_to(np.reshape(w.zero_point, (-1, 1)), (n, 1)).astype(np.int32)
            params = QParams(scale, zero, w.qparams.code.name, PerGroup(k, 1))
            w = QuantizedArray(w.codes, params)
        bits = (w.qparams.code if integers else w._code).bits
        codes = Codes.of(w, bits, w.granularity.group_size)
        made, names, _ = fold(self.graph, _stem(layer), codes, [((k, n), (1, 0))], TensorProto.FLOAT)
        nodes.made.extend(made)
        return str(names[0])

    def _change(self, layer: _Linear, reason: str) -> Any:
        from ..onnx._report import Change

        before, after = layer.weight.size * 4, layer.weight.nbytes
        return Change(layer.name, "Linear", self.target, _kind(layer), reason, before, after, None)


def _stem(layer: _Linear) -> str:
    return f"{layer.name}.weight"


def _kind(layer: _Linear) -> str:
    from .modules import kind

    return kind(layer.weight)


def _by_columns(w: QuantizedArray) -> QuantizedArray:
    """Return a weight (N, K) as (K, N), with a scale for each column where there is one."""
    turned = w.T
    if not isinstance(w.granularity, PerTensor):
        return turned
    scale, zero = (np.broadcast_to(values, turned.shape[1]) for values in (w.scale, w.zero_point))
    params = w.qparams
    return QuantizedArray(
        turned.codes,
        QParams(scale.copy(), zero.copy(), params.code.name, PerChannel(1), params.qmin, params.qmax),
    )
