"""Weight-only quantization: the weights of a model in 2 to 8 bits, its activations in float."""

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _args, _check
from .._typing import Array, DType, Symmetric
from ..dtypes import code_type
from ..weights.layers import RoundingMethod
from ._files import MOST_OPSET, at_opset, lowered, opset_of, read_model, write_model
from ._forms.blocked import dequantized
from ._forms.folded import fold, halved, least_group
from ._forms.nbits import gather_block_quantized, matmul_nbits, takes
from ._forms.weight_codes import Codes
from ._graph import Graph, node_name
from ._report import Change, attach
from ._selection import Selection
from ._weight_rounding import Form, Options, Rounded, form_of, rounded
from ._weights import Slot, Unit, left_float, place, units, with_constants

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["quantize_weights"]

_OWNER = "quantize_weights"
_FORMS = {"folded": 0, "MatMulNBits": 1, "QDQ": 2}
_METHODS = {"gptq": 0, "mse": 1, "hqq": 2, "minmax": 3}
# rows that are looked up: data does not help to round them; two bits more in groups four times as long are 1.6 bits
_LOOKUP_BITS, _LOOKUP_GROUPS = 2, 4


def quantize_weights(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    dtype: DType = "int4",
    lookup_dtype: DType | None = None,
    conv_dtype: DType | None = None,
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
    conv_dtype : str or dtype, optional
        Of convolutions. By default at least 8 bits: a filter has few weights, and the errors of many layers add up.
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
        dtype, lookup_dtype or conv_dtype is no integer type of at most 8 bits.
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

    onnxruntime fuses QDQ of a product into MatMulNBits with int8 activations, a relative error of about 5e-3, unless
    ``session.qdq_matmulnbits_accuracy_level`` is 0, and computes other floats of DequantizeLinear in every run, unless
    ``session.disable_quant_qdq`` is 1. `qnumpy.onnx.session` sets both.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import numpy_helper, parser
    >>> from qnumpy.onnx import quantize_weights
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend([numpy_helper.from_array(w, "w")])
    >>> quantized = quantize_weights(model)
    >>> model.ByteSize() // 1000, quantized.ByteSize() // 1000
    (16, 3)
    """
    progress = _check.flag_or_none(_OWNER, "progress", progress)
    options = _options(dtype, lookup_dtype, conv_dtype, group_size, method, data, form, symmetric, activations, damping)
    proto = with_constants(read_model(_OWNER, model))
    proto = _in_reach(at_opset(proto, 21, _OWNER)) if options.form == "QDQ" else at_opset(proto, 11, _OWNER)
    graph = Graph.of(proto)
    selection = Selection.of(_OWNER, include, exclude, graph)
    kept: list[Change] = []
    found = units(graph, selection, kept)
    results = rounded(_OWNER, graph, found, options, data, progress, resume)
    changes = [change for unit, result in results for change in _applied(unit, result, options)]
    graph.remove_unused()
    # the runtime then computes the floats of DequantizeLinear when it loads the model
    entries = {"session": {"session.disable_quant_qdq": "1"}} if options.form == "QDQ" else {}
    attach(proto, [*changes, *kept], function=_OWNER, **entries)
    if output is not None:
        write_model(_OWNER, proto, output)
    return proto


def _in_reach(proto: Any) -> Any:
    """Return a model whose DequantizeLinear onnxruntime computes."""
    proto = lowered(proto)
    if opset_of(proto) > MOST_OPSET:
        wanted = f"another one than 'QDQ' for a model that has operators newer than operator set {MOST_OPSET}"
        raise ValueError(_check.must(_OWNER, "form", wanted, "'QDQ'"))
    return proto


# ---- arguments ----


def _options(
    dtype: Any,
    lookup_dtype: Any,
    conv_dtype: Any,
    group_size: Any,
    method: Any,
    data: Any,
    form: Any,
    symmetric: Any,
    activations: Any,
    damping: Any,
) -> Options:
    bits = _bits("dtype", dtype)
    if form is not None:
        _args.choice(_OWNER, "form", form, _FORMS)
    larger = lookup_dtype is None and form in (None, "folded")
    more, longer = (_LOOKUP_BITS, _LOOKUP_GROUPS) if larger else (0, 1)
    lookup_bits = min(bits + more, 8) if lookup_dtype is None else _bits("lookup_dtype", lookup_dtype)
    conv_bits = 8 if conv_dtype is None else _bits("conv_dtype", conv_dtype)
    if group_size is not None:
        group_size = _check.integer(_OWNER, "group_size", group_size)
        unit = math.lcm(*(least_group(width) for width in (bits, lookup_bits, conv_bits)))
        if group_size < 1 or group_size % unit:
            raise ValueError(_check.must(_OWNER, "group_size", f"a multiple of {unit}, or None", str(group_size)))
    if method is None:
        method = "mse" if data is None else "gptq"
    _args.choice(_OWNER, "method", method, _METHODS)
    if method == "gptq" and data is None:
        raise ValueError(_check.must(_OWNER, "method", "another one without data", "'gptq'"))
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
    scheme: Symmetric = "full" if isinstance(symmetric, str) else bool(symmetric)
    return Options(
        bits, lookup_bits, conv_bits, group_size, lookup_size, method, form, scheme, activations, float(damping)
    )


def _bits(name: str, dtype: Any) -> int:
    code = code_type(dtype)
    if code is None or code.real is not None or code.bits > 8:
        raise TypeError(_check.must(_OWNER, name, "an integer type of at most 8 bits", _check.typed(dtype)))
    return code.bits


# ---- writing ----


def _applied(unit: Unit, result: Rounded, options: Options) -> list[Change]:
    """Write the codes of a unit into the model."""
    form, codes, slot = form_of(unit, options), result.codes, unit.first
    before, dtype = slot.array.nbytes, slot.array.dtype
    if dtype == np.float16 and halved(codes.scale) is None:
        return [left_float(other.layer, "float16 does not hold its scales.") for other in unit.slots]
    if result.bias is not None:
        unit = _with_bias(unit, *result.bias)
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
            result.method,
        )
        for i, other in enumerate(unit.slots)
    ]


def _with_bias(unit: Unit, node: "NodeProto", index: int, bias: Array) -> Unit:
    """Write the bias of a unit, which one node reads, and return the unit with the node that reads it now."""
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[index] = unit.graph.add(f"{node_name(node)}_bias", bias.astype(unit.first.array.dtype))
    (new,) = unit.graph.replace(node, copy)
    if place(new) != place(unit.first.node):
        return unit
    slot = unit.first
    return unit._replace(slots=[slot._replace(layer=slot.layer._replace(node=new))])


def _reason(form: str, options: Options) -> str:
    return {
        "folded": "The runtime computes the floats once, when it loads the model.",
        "QDQ": "onnxruntime may multiply it with int8 activations; qnumpy.onnx.session does not let it.",
        "GatherBlockQuantized": "Rows are dequantized when they are looked up.",
        "MatMulNBits": "Activations become int8 in blocks."
        if options.activations == "int8"
        else "Activations stay float.",
    }[form]


def _write_constant(unit: Unit, codes: Codes, form: str) -> int:
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


def _write_nbits(slot: Slot, codes: Codes, form: str, accuracy_level: int) -> int:
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
