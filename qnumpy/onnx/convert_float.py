"""Models in float16 or bfloat16: what the type does not hold stays float32."""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from .. import _check
from .._typing import Array
from ..dtypes import FloatType, float_type
from ..errors import CalibrationError
from ..ops.cast import cast
from ..reports.float_report import LOST, FloatReport, float_report
from ..reports.scores import finite_decibels, signal_and_noise
from ._files import read_model, write_model
from ._graph import Graph, node_name
from ._latency import interleaved
from ._report import Change, attach
from ._selection import Selection
from ._taps import batches_of, feed_of, observe, tapped
from ._weights import with_constants
from .session import run_batches, session

__all__ = ["convert_float"]

_OWNER = "convert_float"
_LARGE = 256  # elements from which a constant of nodes that stay float32 is stored in the narrow type
_SMALL = 1e-3  # a tensor whose largest magnitude is below it has nothing beside which its lost numbers do not matter
_SLOWER = 0.97  # of the speed of float32; measurements differ by less
# a zero in the place of a small number is infinity after them
_SENSITIVE = {"Div", "Log", "Reciprocal", "Sqrt", "Pow", "LogSoftmax"}
# sums and powers: without data nobody knows whether they overflow
_GROWING = {"Exp", "Pow", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceL1", "ReduceProd", "ReduceLogSumExp",
            "ReduceLogSum", "CumSum", "Reciprocal", "Einsum"}  # fmt: skip
# they need the exact number, not a near one
_EXACT = {"Floor", "Ceil", "Round", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Mod", "Sign", "IsInf",
          "OneHot", "NonZero", "Unique"}  # fmt: skip
_BODIES = {"If", "Loop", "Scan", "SequenceMap"}
_MADE_OF_ATTRIBUTES = {"dtype", "output_dtype", "output_datatype"}


def convert_float(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    dtype: Literal["float16", "bfloat16"] = "float16",
    data: Iterable[Any] | None = None,
    keep_io: bool = True,
    weights_only: bool = False,
    include: Any = None,
    exclude: Any = None,
    measure: bool = False,
    progress: bool | None = None,
) -> ModelProto:
    """Convert the floats of a model to a narrower type; what does not survive it stays float32.

    With data every tensor is looked at by `float_report`, as it is in the float32 model: operators stay float32 whose
    tensors overflow, or become zero where that matters, or must be exact. Without data those stay float32 that sum and
    raise to powers. The report lists them with their reasons.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    output : path, optional
        Where the result is written.
    dtype : {"float16", "bfloat16"}
    data : iterable of dict of str to array, or of arrays, optional
        Inputs of the model.
    keep_io : bool, default True
        Keep inputs and outputs float32.
    weights_only : bool, default False
        Convert constants alone. onnxruntime casts them back once, when it loads the model, and runs it as in float32.
    include, exclude : str or sequence of str, optional
        Patterns of names of nodes or of operator types that may compute in the type.
    measure : bool, default False
        Time both models, one thread, interleaved; where the result is slower, only constants are converted. Needs data.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.

    Returns
    -------
    ModelProto
        `qnumpy.onnx.report` tells what was done.

    Raises
    ------
    ValueError
        dtype is none of these.
    TypeError
        keep_io, weights_only or measure is neither True nor False.
    ValueError
        measure is True without data.
    TypeError, ValueError
        model is no model; a pattern matches nothing.
    CalibrationError
        data is empty.
    ValueError
        data does not fit the model's inputs.

    Notes
    -----
    Constants are rounded half to even, once, by `cast`. Inputs whose type the operator fixes, such as the scales of
    Resize, stay as they are. Bodies of If, Loop and Scan compute in the type inside; what enters and leaves them stays
    float32. An operator that onnxruntime does not run in the type on this machine stays float32: its CPU kernels have
    almost no bfloat16, so that there only constants get smaller.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import numpy_helper, parser
    >>> from qnumpy.onnx import convert_float
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend([numpy_helper.from_array(w, "w")])
    >>> narrow = convert_float(model, weights_only=True)
    >>> model.ByteSize() // 1000, narrow.ByteSize() // 1000
    (16, 8)
    """
    target = float_type(dtype) if isinstance(dtype, str) else None
    if target is None or target.name not in ("float16", "bfloat16"):
        raise ValueError(_check.must(_OWNER, "dtype", "'float16' or 'bfloat16'", _check.typed(dtype)))
    flags = {"keep_io": keep_io, "weights_only": weights_only, "measure": measure}
    for name, flag in flags.items():
        _check.flag(_OWNER, name, flag)
    progress = _check.flag_or_none(_OWNER, "progress", progress)
    if measure and data is None:
        raise ValueError(_check.must(_OWNER, "measure", "False without data", "True"))
    proto = with_constants(read_model(_OWNER, model))
    selection = Selection.of(_OWNER, include, exclude, Graph.of(proto))
    batches = None if data is None else list(batches_of(_OWNER, data))
    if batches is not None and not batches:
        raise CalibrationError(_check.must(_OWNER, "data", "one batch or more", "none"))
    result, changes, facts = _steered(proto, target, selection, batches, keep_io, weights_only, progress)
    if measure and batches:
        facts["speed"] = _speed(proto, result, batches[0])
        if facts["speed"] < _SLOWER and not weights_only:
            slow = facts["speed"]
            result, changes, facts = _steered(proto, target, selection, batches, keep_io, True, progress)
            facts["note"] = f"Activations stay float32: in {target.name} the model ran at {slow:.2f} of its speed."
            facts["speed"] = _speed(proto, result, batches[0])
    elif not weights_only and not float_report(np.zeros(1, np.float32), target.name).computes:
        facts["note"] = f"This CPU computes {target.name} in float32, so that casts may make the model slower here."
    attach(result, changes, **facts)
    if output is not None:
        write_model(_OWNER, result, output)
    return result


def _steered(
    proto: ModelProto,
    target: FloatType,
    selection: Selection,
    batches: "list[Any] | None",
    keep_io: bool,
    weights_only: bool,
    progress: bool | None,
) -> tuple[ModelProto, list[Change], dict[str, Any]]:
    """Convert, by what the tensors hold over the batches, until no tensor becomes infinite."""
    seen = {} if batches is None or weights_only else _reports(proto, batches, target, progress)
    blocked = {name: reason for name, tensor in seen.items() if (reason := tensor.reason())}
    inexact = None if batches is None else {name for name, tensor in seen.items() if not tensor.exact}
    facts: dict[str, Any] = {"function": _OWNER, "dtype": target.name}
    while True:
        conversion = _Conversion(proto, target, selection, blocked, inexact, keep_io, weights_only)
        result, changes = conversion.run()
        worse = {} if batches is None or weights_only else _not_finite(conversion, result, batches)
        if not worse or worse.keys() <= blocked.keys():
            break
        blocked |= worse
    if batches:
        facts["sqnr_db"] = _sqnr(proto, result, batches)
    return result, changes, facts


# ---- what the tensors hold ----


class _Seen:
    """What a tensor's numbers lose in the type, over all batches; an observer."""

    def __init__(self, target: FloatType, sensitive: bool) -> None:
        self._target, self._sensitive = target, sensitive
        self.overflow = self.underflow = self.nonzero = self.infinite = 0
        self.largest = 0.0
        self.exact = True

    def observe(self, x: Array) -> "_Seen":
        report: FloatReport = float_report(x, self._target.name)
        self.overflow += report.overflow
        self.infinite += report.inf
        self.underflow += report.underflow
        self.nonzero += report.nonzero
        self.largest = max(self.largest, report.largest)
        lost = report.overflow + report.underflow + report.inf + report.nan
        self.exact &= not (lost or report.max_relative_error)
        return self

    def reason(self) -> str:
        """Return why the type does not hold the tensor, or nothing."""
        to = self._target.name
        if self.overflow:
            return f"{self.overflow:,} of its numbers overflow {to}: the largest is {self.largest:.3g}."
        if self.infinite:
            return f"{self.infinite:,} of its numbers are infinite or masks."
        lost = self.underflow > LOST * self.nonzero
        if lost and (self._sensitive or self.largest < _SMALL):
            return f"{self.underflow:,} of {self.nonzero:,} numbers become zero in {to}."
        return ""


def _reports(proto: ModelProto, batches: list[Any], target: FloatType, progress: bool | None) -> dict[str, _Seen]:
    """Run the model and report on every float32 tensor outside of subgraphs."""
    graph = Graph.of(proto)
    names = {value.name for value in proto.graph.input} - {init.name for init in proto.graph.initializer}
    names |= {name for node in proto.graph.node for name in node.output if name}
    seen = {
        name: _Seen(target, any(node.op_type in _SENSITIVE for node in graph.consumers(name)))
        for name in sorted(names)
        if graph.elem_type(name) in (None, 0, 1)
    }
    observe(_OWNER, proto, batches, seen, progress=progress)
    return {name: tensor for name, tensor in seen.items() if tensor.nonzero or tensor.infinite}


# ---- the conversion ----


class _Scope:
    """A graph that is converted, and the names that its float tensors have in both types."""

    def __init__(self, old: GraphProto, new: GraphProto, parent: "_Scope | None", wanted: str) -> None:
        self.old, self.new, self.parent, self.wanted = old, new, parent, wanted
        self.names: dict[str, dict[str, str]] = {}  # tensor to {"float32" or "narrow": name}
        self.constants: dict[str, Array] = {}
        self.types: dict[str, int] = {}
        self.nodes: list[Any] = []
        self.outputs = {value.name for value in old.output}

    def owner(self, name: str) -> "_Scope | None":
        scope: _Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope

    def type_of(self, name: str) -> int:
        """Return the type of a tensor of this graph or of one around it, 0 if it is unknown."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.types:
                return scope.types[name]
            scope = scope.parent
        return 0


class _Conversion:
    """One conversion of a model, by the tensors that are known not to survive."""

    def __init__(
        self,
        model: ModelProto,
        target: FloatType,
        selection: Selection,
        blocked: Mapping[str, str],
        inexact: "set[str] | None",
        keep_io: bool,
        weights_only: bool,
    ) -> None:
        self.model = shape_inference.infer_shapes(model)
        self.target, self.selection = target, selection
        self.blocked, self.inexact, self.keep_io, self.weights_only = blocked, inexact, keep_io, weights_only
        self.narrow = int(TensorProto.FLOAT16 if target.name == "float16" else TensorProto.BFLOAT16)
        self.narrow_type = f"tensor({target.name})"
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.changes: list[Change] = []
        self.taken = set(_all_names(model.graph))
        self.narrowed: dict[str, str] = {}  # from tensors of the result, outside of subgraphs, to those of the model
        self.counted: dict[int, Array] = {}  # held, so that no other array gets the id

    def run(self) -> tuple[ModelProto, list[Change]]:
        result = ModelProto()
        result.CopyFrom(self.model)
        result.ClearField("graph")
        self._graph(self.model.graph, result.graph, None, "float32" if self.keep_io else "narrow")
        return result, self.changes

    # ---- graphs ----

    def _graph(self, old: GraphProto, new: GraphProto, parent: _Scope | None, wanted: str) -> None:
        """Convert a graph whose inputs and outputs are of a type that is wanted."""
        scope = _Scope(old, new, parent, wanted)
        new.CopyFrom(old)
        for field in ("node", "initializer", "value_info"):
            new.ClearField(field)
        given = {value.name for value in old.input}
        for value in (*old.input, *old.value_info, *old.output):
            if value.type.HasField("tensor_type"):
                scope.types[value.name] = value.type.tensor_type.elem_type
            elif value.type.WhichOneof("value"):
                scope.types[value.name] = -1
        for init in old.initializer:
            scope.types[init.name] = init.data_type
            if init.data_type == TensorProto.FLOAT and init.name not in given:
                scope.names[init.name] = {}
                scope.constants[init.name] = numpy_helper.to_array(init)
            else:
                new.initializer.append(init)
        initialized = {init.name for init in old.initializer}
        for value in new.input:
            if scope.types.get(value.name) != TensorProto.FLOAT:
                continue
            narrow = wanted == "narrow" and value.name not in self.blocked and value.name not in initialized
            scope.names[value.name] = {"narrow" if narrow else "float32": value.name}
            if narrow:
                value.type.tensor_type.elem_type = self.narrow
        for node in old.node:
            self._node(scope, node)
        for value in new.output:
            if scope.owner(value.name) is not None:
                kind = self._kind_of_output(scope, value.name)
                self._version(scope, value.name, kind)
                if kind == "narrow":
                    value.type.tensor_type.elem_type = self.narrow
        new.node.extend(scope.nodes)
        for value in old.value_info:
            kinds = scope.names.get(value.name, {})
            if kinds.get("float32") == value.name or value.name not in scope.names:
                new.value_info.append(value)

    def _kind_of_output(self, scope: _Scope, name: str) -> str:
        return "float32" if name in self.blocked or scope.wanted == "float32" else "narrow"

    def _name(self, scope: _Scope, tensor: str, kind: str) -> str:
        """Return the name of a tensor in one of its types."""
        if tensor in scope.outputs:
            if kind == self._kind_of_output(scope, tensor):
                return tensor
        elif not scope.names.get(tensor):
            return tensor
        stem = f"{tensor}_{self.target.name if kind == 'narrow' else 'float32'}"
        name, i = stem, 0
        while name in self.taken:
            name, i = f"{stem}_{i}", i + 1
        self.taken.add(name)
        return name

    def _version(self, scope: _Scope, tensor: str, kind: str) -> str:
        """Return the name of a tensor in a type, which is made where the tensor is, if there is none yet."""
        owner = scope.owner(tensor)
        if owner is None:
            return tensor
        names = owner.names[tensor]
        if kind in names:
            return names[kind]
        other = "narrow" if kind == "float32" else "float32"
        if tensor in owner.constants:
            array = owner.constants[tensor]
            stored = kind == "narrow" or not (array.size >= _LARGE and not self._misfit(array))
            if stored:
                name = self._name(owner, tensor, kind)
                value = cast(array, self.target.name) if kind == "narrow" else array
                owner.new.initializer.append(numpy_helper.from_array(np.asarray(value), name))
                names[kind] = name
                return name
            self._version(owner, tensor, other)
        name = self._name(owner, tensor, kind)
        to = self.narrow if kind == "narrow" else TensorProto.FLOAT
        node = helper.make_node("Cast", [names[other]], [name], name=self._unused(f"{name}_Cast"), to=to)
        owner.nodes.append(node)
        names[kind] = name
        return name

    def _unused(self, stem: str) -> str:
        name, i = stem, 0
        while name in self.taken:
            name, i = f"{stem}_{i}", i + 1
        self.taken.add(name)
        return name

    def _misfit(self, array: Array) -> str:
        """Return why the type does not hold a constant, or nothing."""
        report = float_report(array, self.target.name)
        if report.overflow:
            return f"the largest magnitude {report.largest:.3g} overflows {self.target.name}"
        if report.underflow > LOST * report.nonzero and report.largest < _SMALL:
            return f"{report.smallest:.3g} becomes zero in {self.target.name}"
        return ""

    # ---- nodes ----

    def _node(self, scope: _Scope, node: NodeProto) -> None:
        if node.op_type == "Constant" and node.domain == "" and scope.types.get(node.output[0]) == TensorProto.FLOAT:
            attribute = node.attribute[0]
            if attribute.name in ("value", "value_float", "value_floats"):
                raw = helper.get_attribute_value(attribute)
                array = numpy_helper.to_array(raw) if attribute.name == "value" else np.asarray(raw, np.float32)
                scope.names[node.output[0]] = {}
                scope.constants[node.output[0]] = array
                return
        narrow, reason = self._decide(scope, node)
        copy = NodeProto()
        copy.CopyFrom(node)
        for attribute, source in zip(copy.attribute, node.attribute, strict=True):
            if source.type == source.GRAPH:
                self._graph(source.g, attribute.g, scope, "float32")
            for inner, given in zip(attribute.graphs, source.graphs, strict=True):
                self._graph(given, inner, scope, "float32")
        variables = self._variables(node) if narrow else set()
        for i, name in enumerate(node.input):
            if name:
                kind = "narrow" if _variable(self._schema(node), i) in variables else "float32"
                copy.input[i] = self._version(scope, name, kind)
        for i, name in enumerate(node.output):
            if not name or scope.types.get(name) != TensorProto.FLOAT:
                continue
            kind = "narrow" if narrow and self._makes_narrow(scope, node, i, variables) else "float32"
            scope.names[name] = {}
            actual = self._name(scope, name, kind)
            scope.names[name][kind] = actual
            copy.output[i] = actual
            if kind == "narrow" and scope.parent is None:
                self.narrowed[actual] = name
        if narrow and node.op_type == "Cast" and scope.types.get(node.output[0]) == TensorProto.FLOAT:
            next(a for a in copy.attribute if a.name == "to").i = self.narrow
        if narrow and node.op_type == "ConstantOfShape":
            value = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "value"), None)
            array = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
            del copy.attribute[:]
            copy.attribute.append(
                helper.make_attribute("value", numpy_helper.from_array(cast(array, self.target.name)))
            )
        scope.nodes.append(copy)
        self._list(scope, node, narrow, reason)

    def _list(self, scope: _Scope, node: NodeProto, narrow: bool, reason: str) -> None:
        """Append the line of the report, for nodes that have floats."""
        before = after = 0
        for name in node.input:
            owner = scope.owner(name) if name else None
            array = None if owner is None else owner.constants.get(name)
            if array is not None and id(array) not in self.counted:
                self.counted[id(array)] = array
                before += array.nbytes
                assert owner is not None
                after += array.nbytes // 2 if "narrow" in owner.names[name] else array.nbytes
        if not reason and before == after:
            return
        if not narrow and before != after:
            reason = f"{reason} Its constants are {self.target.name}.".strip()
        form = self.target.name if narrow else "float32"
        self.changes.append(Change(node_name(node), node.op_type, form, form, reason, before, after, None))

    def _schema(self, node: NodeProto) -> Any:
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            return defs.get_schema(node.op_type, self.opsets.get(domain, self.opsets.get("ai.onnx", 1)), domain)
        except defs.SchemaError:
            return None

    def _variables(self, node: NodeProto) -> set[str]:
        """Return the type variables of an operator that may be of the narrow type."""
        return {
            c.type_param_str for c in self._schema(node).type_constraints if self.narrow_type in c.allowed_type_strs
        }

    def _makes_narrow(self, scope: _Scope, node: NodeProto, i: int, variables: set[str]) -> bool:
        """Whether an output is of the narrow type, where the inputs are."""
        if node.op_type in ("Cast", "ConstantOfShape"):
            return True
        schema = self._schema(node)
        variable = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
        inputs = {_variable(schema, j) for j, name in enumerate(node.input) if name and scope.owner(name) is not None}
        return variable in variables and variable in inputs

    def _decide(self, scope: _Scope, node: NodeProto) -> tuple[bool, str]:
        """Return whether a node computes in the narrow type, and why it does not where it could."""
        floats = [name for name in node.input if name and scope.owner(name) is not None]
        made = [name for name in node.output if name and scope.types.get(name) == TensorProto.FLOAT]
        if self.weights_only or node.op_type in _BODIES or not (floats or made):
            return False, ""
        schema = self._schema(node)
        if schema is None:
            return False, "It is no standard operator."
        if any(name and scope.type_of(name) == 0 for name in (*node.input, *node.output)):
            return False, "The types of its tensors are unknown."
        if any(a.name in _MADE_OF_ATTRIBUTES for a in node.attribute):
            return False, "An attribute names its type."
        variables = self._variables(node)
        mine = [name for i, name in enumerate(node.input) if name in floats and _variable(schema, i) in variables]
        makes = node.op_type == "ConstantOfShape" or (node.op_type == "Cast" and bool(made))
        if not mine and not (makes and made):
            return False, f"The operator has no {self.target.name}." if floats else ""
        if node not in self.selection:
            return False, "It is not selected."
        for name in (*mine, *made):
            if name in self.blocked:
                return False, f"{name}: {self.blocked[name]}"
        for name in mine:
            owner = scope.owner(name)
            if owner is not None and name in owner.constants and (why := self._misfit(owner.constants[name])):
                return False, f"Of its constant {name}, {why}."
        is_known = self.inexact is not None and scope.parent is None
        needs_exact = node.op_type in _EXACT or (node.op_type == "Cast" and not made)
        if needs_exact and (not is_known or any(name in (self.inexact or ()) for name in mine)):
            return False, "It needs the exact numbers."
        if not is_known and node.op_type in _GROWING:
            return False, "Without data nobody knows whether it overflows."
        if node.op_type in _MOVES or not made:
            name = mine[0]
            owner = scope.owner(name)
            if owner is not None and name not in owner.constants and "narrow" not in owner.names[name]:
                return False, ""
        if not _runs(self._probe(scope, node, variables)):
            return False, f"onnxruntime does not run it in {self.target.name}."
        return True, ""

    def _probe(self, scope: _Scope, node: NodeProto, variables: set[str]) -> bytes:
        """Return a model of the node alone, in the narrow type."""
        schema = self._schema(node)
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        model = ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        graph = model.graph
        graph.name = "probe"
        seen: dict[str, str] = {}
        for i, name in enumerate(node.input):
            if not name:
                continue
            copy.input[i] = seen.setdefault(name, f"x{i}")
            if seen[name] != f"x{i}":
                continue
            elem_type = scope.type_of(name)
            if elem_type == TensorProto.FLOAT and _variable(schema, i) in variables:
                elem_type = self.narrow
            graph.input.append(helper.make_tensor_value_info(f"x{i}", elem_type, None))
        for i, name in enumerate(node.output):
            if name:
                copy.output[i] = f"y{i}"
                graph.output.append(ValueInfoProto(name=f"y{i}"))
        for attribute in copy.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.narrow
            elif node.op_type == "ConstantOfShape" and attribute.name == "value":
                attribute.t.CopyFrom(
                    numpy_helper.from_array(cast(numpy_helper.to_array(attribute.t), self.target.name))
                )
        graph.node.append(copy)
        return bytes(model.SerializeToString(deterministic=True))


# they only move numbers, and do so in the type that these have
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Gather", "Expand",
          "Concat", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Shape", "Size"}  # fmt: skip


def _variable(schema: Any, i: int) -> str:
    """Return the type variable of an input."""
    if schema is None or not schema.inputs:
        return ""
    return str(schema.inputs[min(i, len(schema.inputs) - 1)].type_str)


@cache
def _runs(model: bytes) -> bool:
    """Whether onnxruntime loads a model."""
    try:
        session(model, threads=1)
    except Exception:  # the runtime's own exceptions have no common class but this one
        return False
    return True


def _all_names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    yield from (init.name for init in graph.initializer)
    for node in graph.node:
        yield from node.output
        yield node.name
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.type == attribute.GRAPH else []), *attribute.graphs):
                yield from _all_names(inner)


# ---- both models side by side ----


def _not_finite(conversion: _Conversion, result: ModelProto, batches: list[Any]) -> dict[str, str]:
    """Return the first tensor that is not finite in the converted model, though its float32 was."""
    if conversion.target.name == "bfloat16":  # its range is that of float32
        return {}
    names = list(conversion.narrowed)
    model, outputs, _ = tapped(result, names)
    engine = session(model)
    for values in run_batches(_OWNER, engine, (_narrowed(engine, item) for item in batches)):
        for name in names:
            x = values[outputs[name]]
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                tensor = conversion.narrowed[name]
                return {tensor: f"It becomes infinite or NaN in {conversion.target.name}."}
    return {}


def _narrowed(engine: Any, item: Any) -> dict[str, Array]:
    """Return a batch in the types of a model's inputs."""
    feed = feed_of(engine, item)
    types = {value.name: value.type for value in engine.get_inputs()}
    return {
        name: x.astype(np.float16) if types.get(name) == "tensor(float16)" and x.dtype != np.float16 else x
        for name, x in feed.items()
    }


def _sqnr(proto: ModelProto, result: ModelProto, batches: list[Any]) -> dict[str, float | None]:
    """Return the SQNR of each float output in dB, None where nothing differs."""
    exact, engine = session(proto), session(result)
    sums: dict[str, Array] = {}
    pairs = zip(
        run_batches(_OWNER, exact, batches),
        run_batches(_OWNER, engine, (_narrowed(engine, item) for item in batches)),
        strict=True,
    )
    for wanted, got in pairs:
        for name, y in wanted.items():
            if y.dtype.kind == "f":
                sums[name] = sums.get(name, np.zeros(2)) + signal_and_noise(y, got[name])
    return {name: finite_decibels(*total) for name, total in sums.items()}


def _speed(proto: ModelProto, result: ModelProto, batch: Any) -> float:
    """Return how many times as fast as the model its conversion runs, one thread, interleaved."""
    engines = [session(model, threads=1) for model in (proto, result)]
    feeds = [_narrowed(engine, batch) for engine in engines]
    runs = [partial(engine.run, None, feed) for engine, feed in zip(engines, feeds, strict=True)]
    before, after = interleaved(runs)
    return before / after
