"""A graph of a model and the scopes around it: where values come from, who reads them, and edits."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .._typing import Array
from ..ops.pack import pack
from ._files import bits_of, opset_of, raise_ir_version, without_weights

__all__: list[str] = []

_CACHED = 1 << 20  # bytes of a constant that is kept once it was read
# Types that NumPy lacks; those of fewer than 8 bits lie packed.
_TYPES = {
    "bfloat16": "BFLOAT16", "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8_e5m2": "FLOAT8E5M2", "float8_e5m2fnuz": "FLOAT8E5M2FNUZ", "float8_e8m0fnu": "FLOAT8E8M0",
    "int4": "INT4", "uint4": "UINT4", "int2": "INT2", "uint2": "UINT2", "float4_e2m1fn": "FLOAT4E2M1",
}  # fmt: skip


class Constant(NamedTuple):
    """A value that is known before a model runs.

    `name` is the initializer or the output of the Constant node that it comes from; `path` holds the operators between.
    """

    array: Array
    name: str
    path: tuple[str, ...]


def node_name(node: NodeProto) -> str:
    """Return how users and reports name a node: its name, or its first output."""
    return str(node.name or next((name for name in node.output if name), ""))


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node as a Python value."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def tensor_of(array: Array, name: str) -> TensorProto:
    """Return an array as a tensor of ONNX, also of types that NumPy lacks."""
    kind = _TYPES.get(array.dtype.name)
    if kind is None:
        return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    bits = bits_of(TensorProto.DataType.Value(kind))
    packed = array if bits >= 8 else pack(array.ravel().view(np.uint8) & (2**bits - 1), f"uint{bits}")
    tensor = TensorProto(name=name, data_type=TensorProto.DataType.Value(kind), dims=array.shape)
    tensor.raw_data = np.ascontiguousarray(packed).tobytes()
    return tensor


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in the attributes of a node."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


class Graph:
    """One GraphProto and the scopes around it; edits go through it.

    Attributes
    ----------
    model : ModelProto
    proto : GraphProto
    parent : Graph or None
        The graph whose node holds this one.
    """

    model: ModelProto
    proto: GraphProto
    parent: "Graph | None"

    def __init__(self, model: ModelProto, proto: GraphProto, parent: "Graph | None", inferred: GraphProto | None):
        self.model, self.proto, self.parent = model, proto, parent
        self._names: set[str] = parent._names if parent is not None else _names_in(proto)
        values = [] if inferred is None else [*inferred.value_info, *inferred.input, *inferred.output]
        self._types = {value.name: value.type.tensor_type for value in [*_declared(proto), *values]}
        self._added: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._constants: dict[str, Constant] = {}
        self._initializers = {tensor.name: tensor for tensor in proto.initializer}
        self._producers: dict[str, NodeProto] = {}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in proto.node:
            self._register(node)
        others: list[NodeProto] = [] if inferred is None else list(inferred.node)
        same = len(others) == len(proto.node)
        self._children: list[Graph] = []
        for i, node in enumerate(proto.node):
            inner = list(graphs_of(others[i])) if same else []
            for j, body in enumerate(graphs_of(node)):
                self._children.append(Graph(model, body, self, inner[j] if j < len(inner) else None))

    @classmethod
    def of(cls, model: ModelProto) -> Self:
        """Return the main graph of a model, with the shapes and types that shape inference finds."""
        light, _ = without_weights(model)
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):  # the declared ones are left
            inferred = light.graph
        return cls(model, model.graph, None, inferred)

    # ---- scopes ----

    def subgraphs(self) -> "list[Graph]":
        """Return the graphs that this one's nodes hold: one level."""
        known, found = self._children, []
        for node in self.proto.node:
            for body in graphs_of(node):
                child = next((child for child in known if child.proto is body), None)
                found.append(Graph(self.model, body, self, None) if child is None else child)
        self._children = found
        return list(found)

    def walk(self) -> "Iterator[Graph]":
        """Yield this graph and all below it."""
        yield self
        for child in self.subgraphs():
            yield from child.walk()

    def opset(self, domain: str = "") -> int:
        """Return the version of an operator set that the model imports, 0 for none."""
        return opset_of(self.model, domain)

    def require(self, domain: str, version: int = 1) -> None:
        """Import an operator set, of at least this version."""
        for entry in self.model.opset_import:
            if entry.domain == domain or (domain == "" and entry.domain == "ai.onnx"):
                entry.version = max(entry.version, version)
                break
        else:
            self.model.opset_import.add(domain=domain, version=version)
        raise_ir_version(self.model)

    def local_names(self) -> set[str]:
        """Return the names of the tensors that this graph itself defines."""
        return {*self._producers, *self._initializers, *(value.name for value in self.proto.input)}

    # ---- values ----

    def producer(self, tensor: str) -> NodeProto | None:
        """Return the node of this graph whose output a tensor is."""
        return self._producers.get(tensor)

    def scope_of(self, tensor: str) -> "Graph":
        """Return the graph that makes a tensor or holds it: this one or one around it."""
        if self.parent is None or tensor in self._producers or tensor in self._initializers:
            return self
        return self.parent.scope_of(tensor)

    def consumers(self, tensor: str) -> list[NodeProto]:
        """Return the nodes that read a tensor, also those of the graphs inside."""
        found = list(self._consumers.get(tensor, ()))
        for child in self.subgraphs():
            if tensor not in child.local_names():
                found += child.consumers(tensor)
        return found

    def is_output(self, tensor: str) -> bool:
        """Whether a tensor is an output of this graph, or passes through a graph inside to its output."""
        if any(value.name == tensor for value in self.proto.output):
            return True
        return any(child.is_output(tensor) for child in self.subgraphs() if tensor not in child.local_names())

    def is_input(self, tensor: str) -> bool:
        """Whether a tensor is an input of this graph that no initializer fills."""
        return tensor not in self._initializers and any(value.name == tensor for value in self.proto.input)

    def constant(self, tensor: str) -> Constant | None:
        """Return the value of a tensor that does not depend on the inputs of the model; None for others.

        It is an initializer or the output of a Constant node, of this graph or one around it, also behind Identity,
        Cast, Transpose, Reshape, Flatten, Squeeze and Unsqueeze.
        """
        if not tensor:
            return None
        if tensor in self._constants:
            return self._constants[tensor]
        found = self._constant(tensor)
        if found is not None and found.array.nbytes <= _CACHED:
            self._constants[tensor] = found
        return found

    def _constant(self, tensor: str) -> Constant | None:
        if tensor in self._initializers:
            return Constant(_frozen(numpy_helper.to_array(self._initializers[tensor])), tensor, ())
        node = self._producers.get(tensor)
        if node is None:
            if self.parent is None or self.is_input(tensor):
                return None
            return self.parent.constant(tensor)
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            value = _constant_value(node)
            return None if value is None else Constant(_frozen(value), tensor, ())
        derive = _DERIVATIONS.get(node.op_type)
        source = None if derive is None else self.constant(node.input[0])
        if derive is None or source is None:
            return None
        rest = []
        for name in node.input[1:]:
            argument = self.constant(name)
            if name and argument is None:
                return None
            rest.append(None if argument is None else argument.array)
        array = derive(node, source.array, *rest)
        return None if array is None else Constant(_frozen(array), source.name, (*source.path, node.op_type))

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Return the shape of a tensor, None for lengths that are not known; None where the rank is not."""
        if tensor in self._initializers:
            return tuple(self._initializers[tensor].dims)
        kind = self._types.get(tensor)
        if kind is None:
            inside = self.parent is None or tensor in self._producers
            return None if inside else self.parent.shape(tensor)  # type: ignore[union-attr]
        if not kind.HasField("shape"):
            return None
        known = (dim.HasField("dim_value") and dim.dim_value >= 0 for dim in kind.shape.dim)  # some writers put -1
        return tuple(dim.dim_value if fixed else None for dim, fixed in zip(kind.shape.dim, known, strict=True))

    def same_shape(self, a: str, b: str) -> bool:
        """Whether two tensors of this graph have one shape; lengths may have names in place of numbers."""
        shapes = [self._lengths(name) for name in (a, b)]
        return shapes[0] is not None and shapes[0] == shapes[1]

    def _lengths(self, tensor: str) -> list[int | str] | None:
        kind = self._types.get(tensor)
        if kind is None or not kind.HasField("shape"):
            return None
        dims = kind.shape.dim
        known = all(d.dim_value > 0 or d.dim_param.isidentifier() for d in dims)  # some writers put -1 and "?"
        return [d.dim_param or d.dim_value for d in dims] if known else None

    def elem_type(self, tensor: str) -> int | None:
        """Return the type of a tensor's elements, a number of TensorProto; None where it is not known."""
        if tensor in self._initializers:
            return int(self._initializers[tensor].data_type)
        kind = self._types.get(tensor)
        if kind is None and self.parent is not None and tensor not in self._producers:
            return self.parent.elem_type(tensor)
        return None if kind is None or not kind.elem_type else int(kind.elem_type)

    # ---- edits ----

    def name(self, stem: str) -> str:
        """Return a name that no tensor and no node of the model has, and keep it."""
        found, count = stem or "t", 0
        while found in self._names:
            count += 1
            found = f"{stem or 't'}_{count}"
        self._names.add(found)
        return found

    def add(self, stem: str, array: Array, *, shared: bool = True) -> str:
        """Add an initializer and return its name; a shared array that was added before is not added again."""
        array = np.asarray(array)
        if not shared:
            return self._initializer(stem, array)
        key = (array.dtype.name, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
        scope: Graph | None = self
        while scope is not None:
            if key in scope._added and scope._added[key] in scope._initializers:
                return scope._added[key]
            scope = scope.parent
        self._added[key] = self._initializer(stem, array)
        return self._added[key]

    def _initializer(self, stem: str, array: Array) -> str:
        name = self.name(stem)
        self.proto.initializer.append(tensor_of(array, name))
        self._initializers[name] = self.proto.initializer[-1]
        return name

    def insert_before(self, node: NodeProto, *nodes: NodeProto) -> list[NodeProto]:
        """Insert nodes before another one; return them as the graph holds them."""
        return self._insert(self._position(node), nodes)

    def insert_after(self, node: NodeProto, *nodes: NodeProto) -> list[NodeProto]:
        """Insert nodes after another one; return them as the graph holds them."""
        return self._insert(self._position(node) + 1, nodes)

    def replace(self, node: NodeProto, *nodes: NodeProto) -> list[NodeProto]:
        """Put nodes in the place of another one; return them as the graph holds them."""
        position = self._position(node)
        self._forget(self.proto.node[position])
        del self.proto.node[position]
        return self._insert(position, nodes)

    def remove(self, node: NodeProto) -> None:
        """Remove a node."""
        self.replace(node)

    def rewire(self, old: str, new: str) -> str:
        """Let the consumers of a tensor read another one, but not the nodes that the new one is computed by.

        An output of the graph keeps its name: the tensors swap theirs, and the new value is called `old`. Returns the
        name of the new value.
        """
        makers = self._ancestors(new)
        readers = [node for node in self.consumers(old) if not any(node is maker for maker in makers)]
        if not self.is_output(old) or (old not in self._producers and not self.is_output(new)):
            self._rename_inputs(readers, old, new)
            return new
        fresh = self.name(old)
        self._rename_inputs(makers, old, fresh)
        self._rename_output(self._producers[old], old, fresh)
        others = [node for node in self.consumers(new) if not any(node is maker for maker in makers)]
        source = self._producers.get(new)
        if source is None or self.is_output(new):
            last = self.proto.node[-1] if source is None else source
            self.insert_after(last, helper.make_node("Identity", [new], [old], name=self.name(f"{old}_identity")))
        else:
            self._rename_output(source, new, old)
            self._rename_inputs(others, new, old)
        return old

    def remove_unused(self) -> None:
        """Remove nodes and initializers that nothing reads, here and in the graphs inside."""
        for child in self.subgraphs():
            child.remove_unused()
        used = {value.name for value in self.proto.output}
        for position in range(len(self.proto.node) - 1, -1, -1):
            node = self.proto.node[position]
            if node.output and not any(name in used for name in node.output if name):
                self._forget(node)
                del self.proto.node[position]
                continue
            used.update(name for name in node.input if name)
            for body in graphs_of(node):
                used |= _reads(body)
        dead = {name for name in self._initializers if name not in used}
        _delete(self.proto.initializer, lambda tensor: tensor.name in dead)
        _delete(self.proto.input, lambda value: value.name in dead)
        made = {*self._producers, *used}
        _delete(self.proto.value_info, lambda value: value.name not in made)
        self._initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self._constants = {}

    # ---- the index ----

    def _register(self, node: NodeProto) -> None:
        for name in node.output:
            if name:
                self._producers[name] = node
        for name in dict.fromkeys(node.input):
            if name:
                self._consumers.setdefault(name, []).append(node)
        self._names.update([node.name, *node.output])

    def _forget(self, node: NodeProto) -> None:
        for name in node.output:
            self._producers.pop(name, None)
        for name in dict.fromkeys(node.input):
            if name:
                self._consumers[name] = [other for other in self._consumers[name] if other is not node]
        self._constants = {}

    def _position(self, node: NodeProto) -> int:
        first = next((name for name in node.output if name), None)
        for position, other in enumerate(self.proto.node):
            if other is node or (first is not None and first in other.output):
                return position
        raise ValueError(f"the graph {self.proto.name!r} has no node {node_name(node)!r}")

    def _insert(self, position: int, nodes: tuple[NodeProto, ...]) -> list[NodeProto]:
        inserted = []
        for offset, node in enumerate(nodes):
            self.proto.node.insert(position + offset, node)
            inserted.append(self.proto.node[position + offset])
            self._register(inserted[-1])
        self._constants = {}
        return inserted

    def _ancestors(self, tensor: str) -> list[NodeProto]:
        """Return the nodes of this graph that a tensor is computed by."""
        found: list[NodeProto] = []
        seen, waiting = set(), [tensor]
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            if node is None or name in seen:
                continue
            seen.update(node.output)
            found.append(node)
            waiting += node.input
            for body in graphs_of(node):
                waiting += _reads(body)
        return found

    def _rename_inputs(self, nodes: list[NodeProto], old: str, new: str) -> None:
        for scope in self.walk():
            for node in nodes:
                if old not in node.input or not any(other is node for other in scope._consumers.get(old, ())):
                    continue
                for i, name in enumerate(node.input):
                    if name == old:
                        node.input[i] = new
                scope._consumers[old] = [other for other in scope._consumers[old] if other is not node]
                if not any(other is node for other in scope._consumers.get(new, ())):
                    scope._consumers.setdefault(new, []).append(node)
            scope._constants = {}

    def _rename_output(self, node: NodeProto, old: str, new: str) -> None:
        for i, name in enumerate(node.output):
            if name == old:
                node.output[i] = new
        del self._producers[old]
        self._producers[new] = node
        if old in self._types:
            self._types[new] = self._types[old]
        self._constants = {}


def _declared(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.value_info, *graph.input, *graph.output]


def _names_in(graph: GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in _declared(graph)}
    for node in graph.node:
        names.update([node.name, *node.input, *node.output])
        for body in graphs_of(node):
            names |= _names_in(body)
    return names - {""}


def _reads(graph: GraphProto) -> set[str]:
    """Return the names that a graph inside reads, also those that it defines itself."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(name for name in node.input if name)
        for body in graphs_of(node):
            names |= _reads(body)
    return names


def _delete(entries: Any, is_dead: Callable[[Any], bool]) -> None:
    for position in range(len(entries) - 1, -1, -1):
        if is_dead(entries[position]):
            del entries[position]


def _frozen(array: Array) -> Array:
    """Return a view that cannot be written: constants are shared."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _constant_value(node: NodeProto) -> Array | None:
    for entry in node.attribute:
        if entry.name == "value":
            return numpy_helper.to_array(entry.t)
        if entry.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(entry), np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(entry), np.int64)
    return None


def _cast(node: NodeProto, x: Array) -> Array | None:
    kind = attribute(node, "to")
    name = TensorProto.DataType.Name(kind)
    narrow = {value: key for key, value in _TYPES.items()}
    if name == "STRING" or x.dtype.kind in "OSU":
        return None
    with np.errstate(all="ignore"):
        if name in narrow:
            return x.astype(getattr(ml_dtypes, narrow[name])) if hasattr(ml_dtypes, narrow[name]) else None
        return x.astype(helper.tensor_dtype_to_np_dtype(kind))


def _transpose(node: NodeProto, x: Array) -> Array:
    return x.transpose(attribute(node, "perm"))


def _reshape(node: NodeProto, x: Array, shape: Array | None = None) -> Array | None:
    wanted = attribute(node, "shape") if shape is None else shape.tolist()
    if wanted is None:
        return None
    keeps = not attribute(node, "allowzero", 0)
    lengths = [x.shape[i] if keeps and n == 0 and i < x.ndim else n for i, n in enumerate(wanted)]
    try:
        return x.reshape(lengths)
    except ValueError:
        return None


def _flatten(node: NodeProto, x: Array) -> Array:
    axis = attribute(node, "axis", 1)
    rows = int(np.prod(x.shape[: axis if axis >= 0 else axis + x.ndim], dtype=np.int64))
    return x.reshape(rows, -1)


def _axes(node: NodeProto, axes: Array | None) -> tuple[int, ...] | None:
    wanted = attribute(node, "axes") if axes is None else axes.tolist()
    return None if wanted is None else tuple(wanted)


def _squeeze(node: NodeProto, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(node, axes))


def _unsqueeze(node: NodeProto, x: Array, axes: Array | None = None) -> Array | None:
    wanted = _axes(node, axes)
    return None if wanted is None else np.expand_dims(x, wanted)


_DERIVATIONS: dict[str, Callable[..., Array | None]] = {
    "Identity": lambda _, x: x,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
