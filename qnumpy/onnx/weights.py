"""Weight-only quantization: the weights of a model in 1 to 8 bits, its activations in float."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array, DType, Float32Array, Symmetric
from ..arrays.quantized import quantize
from ..dtypes import code_type
from ..errors import CalibrationError
from ..granularity import PerGroup
from ..weights.layers import RoundingMethod, quantize_layers
from ..weights.offsets import offsets
from ..weights.patches import patches
from ._files import at_opset, read_model, write_model
from ._forms.blocked import dequantized
from ._forms.folded import fold, halved, least_group
from ._forms.nbits import gather_block_quantized, matmul_nbits, takes
from ._forms.weight_codes import Codes
from ._graph import Constant, Graph, node_name
from ._layers import Layer, layers
from ._report import Change, attach
from ._selection import Selection
from ._stages import Staged, StagedModel
from ._taps import batches_of, feed_of
from .session import run_batches, session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["quantize_weights"]

Form = Literal["folded", "MatMulNBits", "QDQ"]

_OWNER = "quantize_weights"
_FORMS = {"folded": 0, "MatMulNBits": 1, "QDQ": 2}
_METHODS = {"gptq": 0, "mse": 1, "hqq": 2, "minmax": 3}
_PRODUCTS = ("MatMul", "Gemm", "Conv")  # whose inputs are rows of activations
_RECURRENT = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
_SMALL = 2048  # bytes; the nodes that unpack codes take up to a thousand
_DERIVING = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"}  # of a constant, another one
# rows that are looked up: data does not help to round them; two bits more in groups four times as long are 1.6 bits
_LOOKUP_BITS, _LOOKUP_GROUPS = 2, 4
_LARGE = 8 << 20  # elements from which MatMulNBits of 4 bits beats float at one row: 32 MB of floats leave the caches


class _Slot(NamedTuple):
    """A weight that a node reads: ``array.transpose(order).reshape(N, K)`` is its matrix."""

    layer: Layer
    index: int
    constant: Constant
    order: tuple[int, ...]
    inputs: int

    @property
    def node(self) -> "NodeProto":
        return self.layer.node

    @property
    def tensor(self) -> str:
        return str(self.node.input[self.index])

    @property
    def array(self) -> Array:
        return self.constant.array

    def matrix(self) -> Array:
        return np.ascontiguousarray(self.array.transpose(self.order).reshape(-1, self.inputs))

    def restored(self, matrix: Array) -> Array:
        """Return a matrix in the shape that the node reads."""
        moved = [self.array.shape[axis] for axis in self.order]
        return matrix.reshape(moved).transpose(np.argsort(self.order))


class _Unit(NamedTuple):
    """A weight that is rounded once, and the nodes that read it."""

    name: str
    slots: list[_Slot]
    graph: Graph  # where the tensor is made

    @property
    def first(self) -> _Slot:
        return self.slots[0]

    @property
    def elements(self) -> int:
        return int(self.first.array.size)

    @property
    def is_lookup(self) -> bool:
        """Whether its rows are looked up, by all nodes that read it."""
        return all(slot.node.op_type == "Gather" for slot in self.slots)


class _Options(NamedTuple):
    bits: int
    lookup_bits: int
    group_size: int | None
    lookup_group_size: int | None
    method: RoundingMethod
    form: Form | None
    symmetric: Symmetric
    activations: str
    damping: float

    def bits_of(self, unit: _Unit) -> int:
        return self.lookup_bits if unit.is_lookup else self.bits

    def size_of(self, unit: _Unit) -> int:
        size = self.lookup_group_size if unit.is_lookup else self.group_size
        return unit.first.inputs if size is None else size


def quantize_weights(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    dtype: DType = "int4",
    lookup_dtype: DType | None = None,
    group_size: int | None = 32,
    method: RoundingMethod | None = None,
    data: Iterable[Any] | None = None,
    form: Form | None = None,
    symmetric: Symmetric = False,
    activations: Literal["float", "int8"] = "float",
    include: Any = None,
    exclude: Any = None,
    damping: float = 0.3,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> "ModelProto":
    """Quantize the weights of a model and leave its activations in float.

    The weights of MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU and RNN are rounded, in subgraphs too, from
    initializers or Constant nodes. Nodes that share a weight share its codes.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    output : path, optional
        Where the result is written.
    dtype : str or dtype, default "int4"
        An integer type of at most 8 bits.
    lookup_dtype : str or dtype, optional
        Of tables whose rows are looked up by Gather. By default, where codes are folded, two bits more than `dtype`, in
        groups four times as long.
    group_size : int or None, default 32
        Neighbours along the inputs that share a scale; None: all inputs of an output.
    method : {"gptq", "mse", "hqq", "minmax"}, optional
        As in qn.weights.quantize_layers: "gptq" with data, "mse" without. Weights that multiply no rows of
        activations, such as those of lookups and of recurrent layers, are rounded without data.
    data : iterable of dict of str to array, or of arrays, optional
        Inputs of the model: layers are rounded for the activations that they get in the quantized model, one after the
        other, and biases take the mean of the error.
    form : {"folded", "MatMulNBits", "QDQ"}, optional
        "folded": standard operators since opset 11, which onnxruntime computes once when it loads the model, so that it
        runs as fast as in float and with its memory; codes have their own width in the file, and float offsets.
        "MatMulNBits": MatMulNBits and GatherBlockQuantized of onnxruntime, whose weights stay small in memory; 2, 4 and
        8 bits. "QDQ": DequantizeLinear in blocks, opset 21, 4 and 8 bits. By default "folded", and MatMulNBits where it
        is as fast at one row: 4 bits of more than 8 million elements, or int8 activations.
    symmetric : bool or "full", default False
        As in choose_qparams.
    activations : {"float", "int8"}
        "int8": MatMulNBits quantizes rows of activations in blocks. It is the fastest form on CPUs with int8 products.
    include, exclude : str or sequence of str, optional
        Patterns of node names or operator types.
    damping : float, default 0.3
        As in quantize_layers.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        A folder for the results of the layers that are done, with data.

    Returns
    -------
    ModelProto
        `qnumpy.onnx.report` tells what was done.

    Raises
    ------
    TypeError
        dtype or lookup_dtype is no integer type of at most 8 bits.
    TypeError, ValueError
        group_size is no positive integer whose codes fill bytes; method, form or activations is unknown, or does not go
        with the others; symmetric is none of those above; damping is no number of at least 0.
    TypeError, ValueError
        model is no model; a pattern matches nothing.
    CalibrationError
        data is empty.
    ValueError
        data does not fit the model's inputs.

    Notes
    -----
    Codes are rounded to nearest, half to even, or chosen by GPTQ. The reals of a code, ``scale * (code - zero)`` or
    ``scale * code + offset``, are computed in the type of the weight; scales and offsets of the folded form are float16
    in the file where they are normal there.

    onnxruntime fuses QDQ of 4 bits into MatMulNBits with int8 activations, a relative error of about 5e-3, unless
    ``session.qdq_matmulnbits_accuracy_level`` is 0; `qnumpy.onnx.session` sets it.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import parser
    >>> from qnumpy.onnx import quantize_weights
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> from onnx import numpy_helper
    >>> model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    >>> quantized = quantize_weights(model)
    >>> model.ByteSize() // 1000, quantized.ByteSize() // 1000
    (16, 3)
    """
    options = _options(dtype, lookup_dtype, group_size, method, data, form, symmetric, activations, damping)
    proto = read_model(_OWNER, model)
    selection = Selection.of(_OWNER, include, exclude)
    if options.form == "QDQ":
        proto = at_opset(proto, 21)
    graph = Graph.of(proto)
    kept: list[Change] = []
    units = _units(graph, selection, kept)
    rounded = _rounded(graph, units, options, data, progress, resume)
    changes = [change for unit, codes in rounded for change in _applied(unit, codes, options)]
    graph.remove_unused()
    attach(proto, [*changes, *kept], function=_OWNER)
    if output is not None:
        write_model(_OWNER, proto, output)
    return proto


# ---- arguments ----


def _options(
    dtype: Any,
    lookup_dtype: Any,
    group_size: Any,
    method: Any,
    data: Any,
    form: Any,
    symmetric: Any,
    activations: Any,
    damping: Any,
) -> _Options:
    bits = _bits("dtype", dtype)
    larger = lookup_dtype is None and form in (None, "folded")
    more, longer = (_LOOKUP_BITS, _LOOKUP_GROUPS) if larger else (0, 1)
    lookup_bits = min(bits + more, 8) if lookup_dtype is None else _bits("lookup_dtype", lookup_dtype)
    if group_size is not None:
        group_size = _check.integer(_OWNER, "group_size", group_size)
        unit = math.lcm(*(least_group(width) for width in (bits, lookup_bits)))
        if group_size < 1 or group_size % unit:
            raise ValueError(_check.must(_OWNER, "group_size", f"a multiple of {unit}, or None", str(group_size)))
    if method is None:
        method = "mse" if data is None else "gptq"
    _args.choice(_OWNER, "method", method, _METHODS)
    if method == "gptq" and data is None:
        raise ValueError(_check.must(_OWNER, "method", "another one without data", "'gptq'"))
    if form is not None:
        _args.choice(_OWNER, "form", form, _FORMS)
    if form == "MatMulNBits" and not takes(group_size):
        raise ValueError(
            _check.must(_OWNER, "group_size", "a power of two of at least 16 for MatMulNBits", str(group_size))
        )
    if not (isinstance(symmetric, bool | np.bool_) or (isinstance(symmetric, str) and symmetric == "full")):
        raise TypeError(_check.must(_OWNER, "symmetric", 'True, False or "full"', _check.typed(symmetric)))
    _args.choice(_OWNER, "activations", activations, {"float": 0, "int8": 1})
    if activations == "int8" and form not in (None, "MatMulNBits"):
        raise ValueError(_check.must(_OWNER, "activations", f"'float' beside the form {form!r}", "'int8'"))
    if activations == "int8" and not takes(group_size):
        raise ValueError(
            _check.must(_OWNER, "group_size", "a power of two of at least 16 for int8 activations", str(group_size))
        )
    if not (_check.is_number(damping) and 0 <= damping < np.inf):
        raise ValueError(_check.must(_OWNER, "damping", "a number of at least 0", _check.typed(damping)))
    lookup_size = None if group_size is None else group_size * longer
    return _Options(bits, lookup_bits, group_size, lookup_size, method, form, symmetric, activations, float(damping))


def _bits(name: str, dtype: Any) -> int:
    code = code_type(dtype)
    if code is None or code.real is not None or code.bits > 8:
        raise TypeError(_check.must(_OWNER, name, "an integer type of at most 8 bits", _check.typed(dtype)))
    return code.bits


# ---- the weights of a model ----


def _units(graph: Graph, selection: Selection, kept: list[Change]) -> list[_Unit]:
    """Return the weights that can be rounded, each with all nodes that read it; append the others to `kept`."""
    units: dict[Any, list[_Unit]] = {}
    for layer in layers(graph):
        slots = list(_slots(layer))
        if not slots:
            continue
        reason = _unfit(layer, slots, selection)
        if reason:
            kept.append(_float(layer, reason))
            continue
        for slot in slots:
            owner = _owner(layer.graph, slot.tensor)
            tied = units.setdefault((id(_owner(layer.graph, slot.constant.name).proto), slot.constant.name), [])
            for unit in tied:
                if np.array_equal(unit.first.matrix(), slot.matrix()):
                    unit.slots.append(slot)
                    break
            else:
                tied.append(_Unit(_label(slot), [slot], owner))
    result = []
    for unit in (unit for tied in units.values() for unit in tied):
        if all(_read_by(unit, slot) for slot in unit.slots):
            result.append(unit)
        else:
            kept.extend(_float(slot.layer, "Another operator reads the weight.") for slot in unit.slots)
    return result


def _label(slot: _Slot) -> str:
    name = node_name(slot.node)
    return f"{name}:{slot.index}" if slot.node.op_type in _RECURRENT else name


def _slots(layer: Layer) -> Iterator[_Slot]:
    """Yield the weights of a layer."""
    node, op_type = layer.node, layer.node.op_type
    for index in _RECURRENT.get(op_type, (None,)):
        if index is None:
            if layer.weight is None:
                return
            index = next(i for i, name in enumerate(node.input) if i < 2 and name != layer.x)
        if index >= len(node.input) or not node.input[index]:
            continue
        constant = layer.graph.constant(node.input[index])
        if constant is None or constant.array.ndim < 2 or not constant.array.size:
            continue
        shape = constant.array.shape
        last = tuple(range(len(shape)))
        if op_type == "MatMul" and index == 1:
            order, inputs = (*last[:-2], last[-1], last[-2]), shape[-2]
        elif op_type == "Gemm":
            order, inputs = (
                ((0, 1), shape[1]) if bool(_attribute(node, "transB", 0)) == (index == 1) else ((1, 0), shape[0])
            )
        elif op_type == "Conv":
            order, inputs = last, math.prod(shape[1:])
        elif op_type == "ConvTranspose":
            order, inputs = (*last[1:], 0), shape[0]
        else:  # MatMul with the weight on the left, Gather, and the matrices of LSTM and GRU
            order, inputs = last, shape[-1]
        yield _Slot(layer, index, constant, order, int(inputs))


def _attribute(node: "NodeProto", name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _unfit(layer: Layer, slots: list[_Slot], selection: Selection) -> str:
    """Return why a layer stays float, or nothing."""
    if layer.node not in selection:
        return "It is not selected."
    for slot in slots:
        array = slot.array
        if array.dtype not in (np.float32, np.float16):
            return f"Its weight is of {array.dtype}."
        if not np.isfinite(array).all():
            return "Its weight is not finite."
        if array.nbytes < _SMALL:
            return "Its weight is small."
    return ""


def _owner(graph: Graph, tensor: str) -> Graph:
    """Return the graph that makes a tensor, from a graph that reads it."""
    while graph.parent is not None:
        own = {init.name for init in graph.proto.initializer} | {
            name for node in graph.proto.node for name in node.output
        }
        if tensor in own:
            break
        graph = graph.parent
    return graph


def _read_by(unit: _Unit, slot: _Slot) -> bool:
    """Whether the nodes of a unit are all that read a tensor, directly or transposed or the like."""
    tensors = {other.tensor for other in unit.slots}
    mine = {_place(other.node) for other in unit.slots}

    def is_read(owner: Graph, tensor: str) -> bool:
        if owner.is_output(tensor):
            return False
        for node in owner.consumers(tensor):
            derived = node.output[0] if len(node.output) == 1 else ""
            if _place(node) in mine:
                continue
            if node.op_type not in _DERIVING or owner.producer(derived) is None:
                return False
            if not (derived in tensors or is_read(owner, derived)):
                return False
        return True

    return is_read(_owner(slot.layer.graph, slot.tensor), slot.tensor)


def _place(node: "NodeProto") -> str:
    """Return what a node is known by: protobuf hands out copies."""
    return next(name for name in node.output if name)


def _float(layer: Layer, reason: str) -> Change:
    size = 0 if layer.weight is None else layer.weight.array.nbytes
    return Change(node_name(layer.node), layer.op_type, "float", "float", reason, size, size, None)


# ---- rounding ----


class _Rounded(NamedTuple):
    codes: Codes
    bias: "tuple[NodeProto, int, Array] | None" = None
    sqnr_db: float | None = None


def _rounded(
    graph: Graph,
    units: list[_Unit],
    options: _Options,
    data: Iterable[Any] | None,
    progress: bool | None,
    resume: Any,
) -> list[tuple[_Unit, _Rounded]]:
    """Round each unit: those that multiply rows of activations by data, if there are some, the others by themselves."""
    staged = [] if data is None else [s for unit in units if (s := _staged(graph, unit)) is not None]
    names = {layer.name for layer in staged}
    done = {unit.name: _alone(unit, options) for unit in units if unit.name not in names}
    if data is not None:
        batches = _batches(graph.model, data)
        if staged:
            done |= _by_data(graph, units, staged, done, options, batches, progress, resume)
    return [(unit, done[unit.name]) for unit in units]


def _alone(unit: _Unit, options: _Options) -> _Rounded:
    """Round a weight by itself."""
    w = np.asarray(unit.first.matrix(), np.float32)
    method: Any = "mse" if options.method == "gptq" else options.method
    bits, size = options.bits_of(unit), options.size_of(unit)
    if method == "mse" and options.symmetric is False and _form(unit, options) == "folded" and bits > 1:
        codes = _halved(Codes.of(offsets(w, bits=bits, group_size=size), bits, size), w)
    else:
        q = quantize(w, dtype=f"int{bits}", granularity=PerGroup(size), symmetric=options.symmetric, method=method)
        codes = Codes.of(q, bits, size)
    return _Rounded(codes, None, _sqnr(w, codes))


def _halved(codes: Codes, w: Float32Array) -> Codes:
    """Round scales and offsets to float16, in which the file holds them, and then the codes to nearest."""
    assert codes.offset is not None
    scale, offset = halved(codes.scale), halved(codes.offset)
    if scale is None or offset is None:
        return codes
    scale, offset = scale.astype(np.float32), offset.astype(np.float32)
    group = np.arange(w.shape[1]) // codes.group_size
    steps = np.rint((w - offset[:, group]) / scale[:, group])
    return codes._replace(codes=np.clip(steps, 0, (1 << codes.bits) - 1).astype(np.uint8), scale=scale, offset=offset)


def _sqnr(w: Array, codes: Codes) -> float | None:
    noise = float(np.square(codes.levels() - w, dtype=np.float64).sum())
    signal = float(np.square(w, dtype=np.float64).sum())
    return 10 * math.log10(signal / noise) if signal and noise else None


def _batches(model: "ModelProto", data: Any) -> list[dict[str, Array]]:
    """Return the batches as the model takes them, after it has run on each."""
    engine = session(model)
    batches = [feed_of(engine, item) for item in batches_of(data)]
    if not batches:
        raise CalibrationError(_check.must(_OWNER, "data", "one batch or more", "none"))
    for _ in run_batches(_OWNER, engine, batches):
        pass
    return batches


def _by_data(
    graph: Graph,
    units: list[_Unit],
    staged: list[Staged],
    done: Mapping[str, _Rounded],
    options: _Options,
    batches: list[dict[str, Array]],
    progress: bool | None,
    resume: Any,
) -> dict[str, _Rounded]:
    by_name = {unit.name: unit for unit in units}
    weights: dict[str, Any] = {}
    for layer in staged:
        w = by_name[layer.name].first.matrix()
        weights[layer.name] = w if layer.bias is None else (w, _bias_of(graph, layer.bias))
    others = {}
    for name, result in done.items():
        unit = by_name[name]
        for slot in unit.slots:
            if slot.layer.graph.parent is None:
                levels = slot.restored(result.codes.levels(slot.array.dtype))
                others[_place(slot.node), slot.index] = slot.array, levels
    run = StagedModel(graph, staged, weights, others)
    size = options.group_size
    if size is None:
        size = max(by_name[layer.name].first.inputs for layer in staged)
    result = quantize_layers(
        weights,
        run,
        batches,
        dtype=f"int{options.bits}",
        granularity=PerGroup(size),
        symmetric=options.symmetric,
        method=options.method,
        damping=options.damping,
        progress=progress,
        resume=resume,
    )
    rounded = {}
    for layer in staged:
        q = result[layer.name]
        codes = Codes.of(q, options.bits, options.size_of(by_name[layer.name]))
        bias = None if layer.bias is None else (*layer.bias[:2], layer.bias[2](result.biases[layer.name]))
        rounded[layer.name] = _Rounded(codes, bias, result.report[layer.name].sqnr_db)
    return rounded


def _identity(x: Array) -> Array:
    return x


def _channels_last(x: Array) -> Array:
    return np.moveaxis(x, 1, -1)


def _staged(graph: Graph, unit: _Unit) -> Staged | None:
    """Return a unit as a layer whose inputs are rows of an activation, if it is one."""
    if any(slot.node.op_type not in _PRODUCTS or slot.index != 1 or slot.layer.graph.parent for slot in unit.slots):
        return None
    if len(unit.slots) > 1:
        return None
    slot = unit.first
    node, array = slot.node, slot.array
    if graph.constant(slot.layer.x) is not None:
        return None
    rows, outputs_last = _identity, _identity
    if node.op_type == "MatMul" and array.ndim != 2:
        return None
    if node.op_type == "Gemm" and (_attribute(node, "transA", 0) or _attribute(node, "alpha", 1.0) != 1.0):
        return None
    if node.op_type == "Conv":
        if array.ndim != 4 or _attribute(node, "group", 1) != 1:
            return None
        if _attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b""):
            return None
        outputs_last = _channels_last
        rows = _rows_of_conv(node, array.shape[2:])
    bias = _bias_place(graph, slot)
    y = str((node if bias is None else bias[0]).output[0])
    return Staged(unit.name, node, 1, slot.layer.x, rows, outputs_last, slot.restored, bias, _residual(graph, y))


def _rows_of_conv(node: "NodeProto", kernel: tuple[int, ...]) -> Callable[[Array], Array]:
    strides, dilations = (tuple(_attribute(node, name, [1, 1])) for name in ("strides", "dilations"))
    padding = tuple(_attribute(node, "pads", [0, 0, 0, 0]))
    if kernel == (1, 1) and strides == (1, 1) and not any(padding):
        return _channels_last

    def rows(x: Array) -> Array:
        return patches(x, kernel, strides=strides, padding=padding, dilations=dilations)

    return rows


def _bias_place(graph: Graph, slot: _Slot) -> "tuple[NodeProto, int, Callable[[Array], Array]] | None":
    """Return the node and the input that add a constant to each output, and what gives it its shape."""
    node, outputs = slot.node, slot.array.size // slot.inputs
    places = []
    if node.op_type in ("Gemm", "Conv"):
        if len(node.input) > 2 and node.input[2] and _attribute(node, "beta", 1.0) == 1.0:
            places = [(node, 2)]
    else:
        readers = graph.consumers(node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Add" and not graph.is_output(node.output[0]):
            add = readers[0]
            places = [(add, i) for i in range(2) if add.input[i] != node.output[0]]
    for place, index in places:
        constant = graph.constant(place.input[index])
        if constant is None or constant.array.size != outputs or constant.array.shape[-1:] != (outputs,):
            continue
        shape = constant.array.shape
        if np.isfinite(constant.array).all() and constant.array.dtype == slot.array.dtype:
            return place, index, lambda bias, shape=shape: bias.reshape(shape)
    return None


def _bias_of(graph: Graph, place: Any) -> Array:
    constant = graph.constant(place[0].input[place[1]])
    assert constant is not None
    return constant.array.reshape(-1)


def _residual(graph: Graph, y: str) -> str | None:
    """Return what is added to a tensor that nothing else reads."""
    readers = graph.consumers(y)
    if (
        len(readers) != 1
        or readers[0].op_type not in ("Add", "Sum")
        or len(readers[0].input) != 2
        or graph.is_output(y)
    ):
        return None
    other = [name for name in readers[0].input if name != y]
    return other[0] if len(other) == 1 and graph.constant(other[0]) is None else None


# ---- writing ----


def _form(unit: _Unit, options: _Options) -> str:
    """Return the form of a weight: the one asked for where its nodes have it, else the fastest."""
    if options.form == "folded" or options.form == "QDQ":
        return options.form
    op_types = {slot.node.op_type for slot in unit.slots}
    size = options.group_size
    blocks = takes(size)
    products = op_types <= {"MatMul", "Gemm"} and all(_is_plain_product(slot) for slot in unit.slots)
    lookups = op_types == {"Gather"} and all(
        slot.index == 0 and slot.array.ndim == 2 and _attribute(slot.node, "axis", 0) == 0 for slot in unit.slots
    )
    if options.form == "MatMulNBits":
        if blocks and products:
            return "MatMulNBits"
        if blocks and lookups and unit.first.inputs % size == 0:
            return "GatherBlockQuantized"
        return "folded"
    if blocks and products and (options.activations == "int8" or (options.bits in (3, 4) and unit.elements >= _LARGE)):
        return "MatMulNBits"
    return "folded"


def _is_plain_product(slot: _Slot) -> bool:
    node = slot.node
    if slot.index != 1 or slot.array.ndim != 2:
        return False
    plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
    return node.op_type == "MatMul" or all(_attribute(node, name, value) == value for name, value in plain.items())


def _applied(unit: _Unit, result: _Rounded, options: _Options) -> list[Change]:
    """Write the codes of a unit into the model."""
    form, codes, slot = _form(unit, options), result.codes, unit.first
    before, dtype = slot.array.nbytes, slot.array.dtype
    if dtype == np.float16 and halved(codes.scale) is None:
        return [_float(other.layer, "float16 does not hold its scales.") for other in unit.slots]
    if result.bias is not None:
        node, index, array = result.bias
        node.input[index] = unit.graph.add(f"{node_name(node)}_bias", array.astype(dtype))
    if form in ("folded", "QDQ"):
        after = _write_constant(unit, codes, form)
    else:
        after = sum(_write_nbits(slot, codes, form, 4 if options.activations == "int8" else 0) for slot in unit.slots)
        after //= len(unit.slots)
    return [
        Change(
            node_name(other.node),
            other.node.op_type,
            form,
            f"int{codes.bits}",
            _reason(form, options),
            before * (not i),
            after * (not i),
            result.sqnr_db,
        )
        for i, other in enumerate(unit.slots)
    ]


def _reason(form: str, options: _Options) -> str:
    return {
        "folded": "The runtime computes the floats once, when it loads the model.",
        "QDQ": "Plain sessions may multiply it with int8 activations; qnumpy.onnx.session does not.",
        "GatherBlockQuantized": "Rows are dequantized when they are looked up.",
        "MatMulNBits": "Activations become int8 in blocks."
        if options.activations == "int8"
        else "Activations stay float.",
    }[form]


def _write_constant(unit: _Unit, codes: Codes, form: str) -> int:
    """Replace the tensor of a weight; return the bytes of its codes."""
    from onnx import helper

    graph, dtype = unit.graph, unit.first.array.dtype
    places = {slot.tensor: slot for slot in unit.slots}
    stem = unit.first.constant.name or unit.name
    if form == "folded":
        shapes = [(slot.array.shape, slot.order) for slot in places.values()]
        nodes, names, size = fold(graph, stem, codes, shapes, int(helper.np_dtype_to_tensor_dtype(dtype)))
    else:
        nodes, names, size = [], [], 0
        for slot in places.values():
            more, name, size = dequantized(graph, stem, codes, slot.array.shape, slot.order, dtype)
            nodes += more
            names.append(name)
        graph.model.ir_version = max(graph.model.ir_version, 10)
    graph.insert_before(graph.proto.node[0], *nodes)
    for tensor, name in zip(places, names, strict=True):
        graph.rewire(tensor, name)
    return size


def _write_nbits(slot: _Slot, codes: Codes, form: str, accuracy_level: int) -> int:
    """Replace a node by one of ONNX Runtime's operators; return the bytes of the codes."""
    from onnx import helper

    node, graph, dtype = slot.node, slot.layer.graph, slot.array.dtype
    stem = slot.constant.name or node_name(node)
    if form == "GatherBlockQuantized":
        new, size = gather_block_quantized(graph, stem, node.input[1], node.output[0], codes, dtype)
        graph.replace(node, new)
        return size
    nodes = []
    added = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    y = graph.name(f"{node.output[0]}_product") if added else node.output[0]
    new, size = matmul_nbits(graph, stem, node.input[0], y, codes, dtype, accuracy_level)
    nodes.append(new)
    if added:
        nodes.append(helper.make_node("Add", [y, added], [node.output[0]], name=graph.name(f"{stem}_Add")))
    graph.replace(node, *nodes)
    return size
