"""Reading, writing and raising models."""

import math
import os
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    external_data_helper,
    helper,
    inliner,
    numpy_helper,
    shape_inference,
    version_converter,
)

from .. import _check
from .._typing import Path
from ..errors import FileFormatError
from ..files.atomic import AtomicFiles, naming_errors

__all__: list[str] = []

MOST_OPSET = 27  # the last whose QuantizeLinear and DequantizeLinear onnxruntime 1.32 computes
LARGEST = 2**31 - 2**20  # bytes of a protobuf message, less what the nodes may take
_ALIGNMENT = 4096  # of a tensor in a file of external data, which the runtime may map
_SMALL = 1024  # bytes; shapes and axes that shape inference and the converter of versions read are smaller
_FAULTS = (RuntimeError, ValueError, shape_inference.InferenceError)  # of the parts of onnx in C++
_NO_TEXT = "names that are no UTF-8"
_WANTED = "the path or the bytes of an ONNX model, or a ModelProto"


def read_model(owner: str, model: Any) -> ModelProto:
    """Return a copy of a model with its external data and without local functions; refuse what is no model."""
    if isinstance(model, ModelProto):
        proto, folder, place = ModelProto(), None, "a ModelProto"
        proto.CopyFrom(model)
    elif isinstance(model, bytes | bytearray | memoryview):
        proto, folder, place = _parsed(owner, bytes(model), f"{len(bytes(model))} bytes"), None, "bytes"
    elif isinstance(model, str | os.PathLike):
        place = os.fspath(model)
        folder = os.path.dirname(place)
        with open(place, "rb") as file:
            proto = _parsed(owner, file.read(), repr(place))
    else:
        raise TypeError(_check.must(owner, "model", _WANTED, _check.typed(model)))
    if not proto.graph.node and not proto.graph.output:
        raise FileFormatError(_check.must(owner, "model", _WANTED, f"{place} without a graph"))
    _load_external_data(owner, proto, folder)
    fault = _fault(proto)
    if fault:
        raise FileFormatError(_check.must(owner, "model", "a valid ONNX model", fault))
    return _inlined(owner, proto) if proto.functions else proto


def _inlined(owner: str, proto: ModelProto) -> ModelProto:
    try:
        return inliner.inline_local_functions(proto)
    except (*_FAULTS, KeyError) as error:
        got = f"one whose local functions onnx cannot inline: {_words(error)}"
        raise FileFormatError(_check.must(owner, "model", "a valid ONNX model", got)) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


# ---- what ONNX Runtime refuses too, and what would be an error far from its cause ----


def _fault(model: ModelProto) -> str:
    """Return what makes a model no valid one, empty if nothing does."""
    opset = opset_of(model)
    for graph in _graphs(model.graph):
        values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        if not _are_texts(value.name for value in values):
            return _NO_TEXT
        for tensor in graph.initializer:
            if not _is_whole(tensor):
                return f"the tensor {tensor.name!r}, whose type, shape and bytes do not fit"
        for node in graph.node:
            text = _node_fault(node, opset)
            if text == _NO_TEXT:
                return text
            if text:
                return f"the node {node.name or ', '.join(node.output)!r} ({node.op_type}) {text}"
    return ""


def _are_texts(names: Iterable[Any]) -> bool:
    """Whether protobuf reads names as texts: of what is no UTF-8 it returns bytes, or raises."""
    try:
        return all(isinstance(name, str) for name in names)
    except UnicodeDecodeError:
        return False


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _node_fault(node: NodeProto, opset: int) -> str:
    if not _are_texts((node.name, *node.input, *node.output)):
        return _NO_TEXT
    tensors = [tensor for a in node.attribute for tensor in [*([a.t] if a.HasField("t") else []), *a.tensors]]
    if not all(map(_is_whole, tensors)):
        return "with a tensor whose type, shape and bytes do not fit"
    if node.domain not in ("", "ai.onnx"):
        return ""
    if not opset:
        return "without an operator set"
    inputs, outputs, attributes = _least(node.op_type, opset)
    given = {attribute.name for attribute in node.attribute}
    if len(node.input) < inputs or len(node.output) < outputs:
        return f"with {len(node.input)} inputs and {len(node.output)} outputs"
    return next((f"without its attribute {name!r}" for name in attributes if name not in given), "")


@cache
def _least(op_type: str, opset: int) -> tuple[int, int, tuple[str, ...]]:
    """Return how many inputs and outputs an operator needs, and which attributes; none of one that onnx lacks."""
    try:
        schema = defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        return 0, 0, ()
    needed = tuple(name for name, attribute in schema.attributes.items() if attribute.required)
    return schema.min_input, schema.min_output, needed


def _is_whole(tensor: TensorProto) -> bool:
    """Whether a tensor has a type and as many values as its shape says."""
    known = tensor.data_type in TensorProto.DataType.values() and tensor.data_type != TensorProto.UNDEFINED
    if not known or any(length < 0 for length in tensor.dims):
        return False
    count: int = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return len(tensor.string_data) == count
    size = -(-count * bits_of(tensor.data_type) // 8)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) == size
    held = size if bits_of(tensor.data_type) < 8 else count
    parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    return len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))) == held * parts


def _parsed(owner: str, content: bytes, place: str) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise FileFormatError(_check.must(owner, "model", _WANTED, f"{place} that protobuf cannot read")) from error
    return proto


def _load_external_data(owner: str, proto: ModelProto, folder: str | None) -> None:
    outside = [tensor for tensor in tensors(proto.graph) if tensor.data_location == TensorProto.EXTERNAL]
    if not outside:
        return
    if folder is None:
        got = f"a model whose tensor {outside[0].name!r} lies in another file"
        raise ValueError(_check.must(owner, "model", "a path where there is external data", got))
    try:
        for tensor in outside:
            external_data_helper.load_external_data_for_tensor(tensor, folder)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise FileFormatError(
            _check.must(owner, "model", "a model whose external data can be read", f"{tensor.name!r}: {_words(error)}")
        ) from error


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the tensors that a graph and the graphs inside it hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors(attribute.g)
            for inner in attribute.graphs:
                yield from tensors(inner)


def nbytes(tensor: TensorProto) -> int:
    """Return how many bytes the values of a tensor take in a file."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return int(np.prod(tensor.dims, dtype=np.int64)) * bits_of(tensor.data_type) // 8


def bits_of(elem_type: int) -> int:
    """Return the bits of one element of a type of TensorProto; of texts and unknown types 8."""
    name = TensorProto.DataType.Name(elem_type) if elem_type in TensorProto.DataType.values() else ""
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    if name.startswith("FLOAT8") or name in ("BOOL", "STRING", "UNDEFINED", ""):
        return 8
    if name in ("FLOAT16", "BFLOAT16"):
        return 16
    return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize) * 8


def path_of(owner: str, output: Path) -> str:
    """Return where a model is to be written; refuse at once what can hold none."""
    if not isinstance(output, str | os.PathLike):
        raise TypeError(_check.must(owner, "output", "a path", _check.typed(output)))
    path = os.fspath(output)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(_check.must(owner, "output", "a regular file", repr(path)))
    return path


def write_model(owner: str, model: ModelProto, output: Path, *, largest: int = LARGEST) -> None:
    """Write a model that appears whole or not at all.

    Where its tensors take more than `largest` bytes, they lie in a file beside it, written one by one.
    """
    path = path_of(owner, output)
    if sum(nbytes(tensor) for tensor in tensors(model.graph)) <= largest:
        with AtomicFiles([path], "xb") as new, naming_errors(path):
            new.files[0].write(_serialized(owner, model))
        return
    data = f"{path}.data"
    with AtomicFiles([data, path], "xb") as new, naming_errors(path):
        light, large = without_weights(model)
        for tensor in large:
            kept = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            raw = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
            start = -new.files[0].tell() % _ALIGNMENT + new.files[0].tell()
            new.files[0].seek(start)
            new.files[0].write(raw)
            kept.data_location = TensorProto.EXTERNAL
            facts = {"location": os.path.basename(data), "offset": start, "length": len(raw)}
            for key, value in facts.items():
                kept.external_data.add(key=key, value=str(value))
        _restore_inputs(light, model)
        new.files[1].write(_serialized(owner, light))


def _serialized(owner: str, model: ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ValueError(
            _check.must(owner, "model", "of less than 2 GB beside its large initializers", "a larger one")
        ) from error


def without_weights(model: ModelProto) -> tuple[ModelProto, list[TensorProto]]:
    """Return a copy whose large initializers are inputs, and these initializers, which are not copied.

    Shape inference and the converter of versions take a whole model as bytes, which end at 2 GB, and need no weights.
    """
    light, large = ModelProto(), []
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(light, field.name).extend(value)
        elif field.message_type is not None:
            getattr(light, field.name).CopyFrom(value)
        else:
            setattr(light, field.name, value)
    graph, source = light.graph, model.graph
    graph.name, graph.doc_string = source.name, source.doc_string
    for name in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(graph, name).extend(getattr(source, name))
    known = {value.name for value in source.input}
    for tensor in source.initializer:
        if nbytes(tensor) <= _SMALL or tensor.data_type == TensorProto.STRING:
            graph.initializer.add().CopyFrom(tensor)
            continue
        large.append(tensor)
        if tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light, large


def _restore_inputs(light: ModelProto, model: ModelProto) -> None:
    del light.graph.input[:]
    light.graph.input.extend(model.graph.input)


def opset_of(model: ModelProto, domain: str = "") -> int:
    """Return the version of a domain that a model imports, 0 for none."""
    same = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
    return max((entry.version for entry in model.opset_import if entry.domain in same), default=0)


def raise_ir_version(model: ModelProto) -> None:
    """Raise the version of the format to the least that the imported operator sets need."""
    least = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, least)


def at_opset(model: ModelProto, least: int, owner: str = "at_opset") -> ModelProto:
    """Return a model of at least this version of the default operators: itself, or what onnx's converter makes."""
    if opset_of(model) >= least:
        return model
    light, large = without_weights(model)
    try:
        raised = version_converter.convert_version(light, least)
    except _FAULTS as error:
        text = _words(error)
        wanted = f"a model that onnx's converter of versions can bring to operator set {least}"
        raise ValueError(_check.must(owner, "model", wanted, f"operator set {opset_of(model)}: {text}")) from error
    result = ModelProto()
    result.CopyFrom(light)  # the converter keeps the graph and the default operator set alone
    result.graph.CopyFrom(raised.graph)
    result.graph.initializer.extend(large)
    _restore_inputs(result, model)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = least
    if not opset_of(result):
        result.opset_import.add(domain="", version=least)
    raise_ir_version(result)
    return result


def lowered(model: ModelProto) -> ModelProto:
    """Return a model of an operator set that onnxruntime computes in int8; as it is where onnx cannot convert it."""
    if opset_of(model) <= MOST_OPSET:
        return model
    light, large = without_weights(model)
    try:
        converted = version_converter.convert_version(light, MOST_OPSET)
    except _FAULTS:  # an operator is newer
        return model
    result = ModelProto()
    result.CopyFrom(light)  # the converter keeps the graph alone
    result.graph.CopyFrom(converted.graph)
    result.graph.initializer.extend(large)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = MOST_OPSET
    return result
