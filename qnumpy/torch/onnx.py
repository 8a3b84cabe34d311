"""Converted models as ONNX models: the layers in the operators that `qnumpy.onnx` writes."""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any, Literal

import torch
from torch import nn

from .. import _args, _check
from .._typing import Path

__all__ = ["to_onnx"]

Target = Literal["qnumpy", "standard"]
_OWNER = "to_onnx"
_TARGETS = {"qnumpy": 0, "standard": 1}


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
    >>> w = torch.linspace(-1, 1, 12).reshape(3, 4).numpy()
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
    from ..onnx._report import attach
    from ._onnx_layers import write_layers

    if path is not None:
        path_of(_OWNER, path)
    proto = _exported(model, example, dynamic_shapes, input_names, output_names)
    changes, rewrites = write_layers(_OWNER, proto, target)
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
    """Return the model with a node of the domain `PLACES` for each operator of qnumpy, and without notes of torch."""
    args = () if isinstance(example, Mapping) else example if isinstance(example, tuple) else (example,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    if isinstance(dynamic_shapes, str):
        _args.choice(_OWNER, "dynamic_shapes", dynamic_shapes, {"auto": 0})
        dynamic_shapes = torch.utils._pytree.tree_map(_open_axes, kwargs or args)
    talk = logging.getLogger("torch.onnx")
    level = talk.level
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        talk.setLevel(logging.ERROR)
        try:
            program: Any = torch.onnx.export(
                model, args, kwargs=kwargs, dynamo=True, verbose=False, dynamic_shapes=dynamic_shapes,
                input_names=inputs, output_names=outputs, custom_translation_table=_translations(),
            )  # fmt: skip
        except Exception as error:  # of torch.export, of torch.onnx and of onnxscript
            got = f"one of which it says: {_cause(error)}"
            raise ValueError(_check.must(_OWNER, "model", "one that torch.onnx.export takes", got)) from error
        finally:
            talk.setLevel(level)
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
    from onnx import TensorProto, defs
    from onnxscript.values import Op, Opset

    from . import _linear, conv, embedding  # noqa: F401 - they register the operators
    from ._onnx_layers import PLACES

    schema, parameter = defs.OpSchema, defs.OpSchema.FormalParameter
    types = [
        f"tensor({name.lower()})"
        for name in map(TensorProto.DataType.Name, TensorProto.DataType.values())
        if name != "UNDEFINED"
    ]
    table: dict[Any, Callable[..., Any]] = {}
    for kind in ("linear", "conv2d", "embedding"):
        # x is one of them: torch.onnx gives a variadic parameter all inputs, also those of parameters before it
        many = parameter("tensors", "T", param_option=schema.FormalParameterOption.Variadic, is_homogeneous=False)
        node = Op(
            Opset(PLACES, 1),
            kind,
            schema(
                kind, PLACES, 1,
                inputs=[many],
                outputs=[parameter("y", "Y")],
                type_constraints=[("T", types, ""), ("Y", types, "")],
                attributes=[schema.Attribute("layout", schema.AttrType.STRING, "")],
            ),
        )  # fmt: skip
        table[getattr(torch.ops.qnumpy, kind).default] = _translation(node)
    return table


def _translation(node: Any) -> Callable[..., Any]:
    def written(x: Any, tensors: Any, layout: str) -> Any:
        return node(x, *tensors, layout=layout)

    return written
