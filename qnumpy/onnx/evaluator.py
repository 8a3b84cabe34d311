"""Models run one operator at a time by onnx.reference, with qnumpy's exact operators."""

from typing import Any

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator as OnnxEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_integer, op_qlinear_conv

from .. import _check
from .._typing import Array, Float32Array
from ..arrays import PackedWeight
from ..dtypes import code_type
from ..granularity import PerChannel, PerGroup, PerRow
from ..ops.choose import choose_qparams
from ..ops.conv import conv2d_integer
from ..ops.hadamard import Hadamard
from ..ops.matmul import matmul_integer
from ..ops.qlinear import qlinear_conv2d, qlinear_matmul
from ..ops.quantize import codes_of, dequantize_linear, dynamic_quantize_linear, quantize_linear
from ..testing import layers
from ._files import read_model
from ._operators import DOMAIN, linear_parts

__all__ = ["ReferenceEvaluator"]

_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "pads", "strides")


def ReferenceEvaluator(model: Any, **options: Any) -> OnnxEvaluator:  # noqa: N802, the name of ONNX's class
    """Make the evaluator of onnx.reference with qnumpy's exact operators.

    QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, QLinearMatMul, ConvInteger and QLinearConv
    run on qnumpy's kernels, and so do the operators of the domain "qnumpy", with the bits that they have in ONNX
    Runtime. Other operators are onnx's own.

    Parameters
    ----------
    model : path, bytes or ModelProto
    **options
        Of `onnx.reference.ReferenceEvaluator`; the classes of new_ops go before ours.

    Returns
    -------
    onnx.reference.ReferenceEvaluator

    Raises
    ------
    ImportError
        onnx is not installed.
    TypeError, ValueError
        model: as in `inspect`.

    Examples
    --------
    >>> import onnx, numpy as np
    >>> node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    >>> graph = onnx.parser.parse_graph("g (int8[1,2] a, int8[2,1] b) => (int32[1,1] y) { y = MatMulInteger(a, b) }")
    >>> model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    >>> a, b = np.array([[2, 3]], np.int8), np.array([[4], [5]], np.int8)
    >>> ReferenceEvaluator(model).run(None, {"a": a, "b": b})
    [array([[23]], dtype=int32)]
    """
    own = [*(options.pop("new_ops", None) or ()), *_OPERATORS]
    proto = read_model("ReferenceEvaluator", model)
    try:
        return OnnxEvaluator(proto, new_ops=own, **options)
    except (NotImplementedError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())[:200].rstrip(".")
        wanted = "a model of operators that onnx.reference has"
        raise ValueError(_check.must("ReferenceEvaluator", "model", wanted, text)) from error


class _Operator(OpRun):
    """An operator whose attributes are read by name, with what stands for a missing one."""

    op_domain = ""

    def value(self, attributes: dict[str, Any], name: str, missing: Any) -> Any:
        found = attributes.get(name, getattr(self, name, None))
        return missing if found is None else found


def _where(scale: Array, axis: int, block_size: int) -> dict[str, Any]:
    """Return axis and block_size; a scalar scale has neither."""
    return {} if np.ndim(scale) == 0 else {"axis": axis, "block_size": block_size or None}


class QuantizeLinear(_Operator):
    """ONNX QuantizeLinear by quantize_linear."""

    def _run(self, x: Array, y_scale: Array, y_zero_point: Array | None = None, **attributes: Any) -> tuple[Array]:
        kind = self.value(attributes, "output_dtype", 0)
        dtype: Any = helper.tensor_dtype_to_np_dtype(kind) if kind else np.uint8
        if y_zero_point is not None:
            dtype = y_zero_point.dtype
        where = _where(y_scale, self.value(attributes, "axis", 1), self.value(attributes, "block_size", 0))
        return (np.asarray(quantize_linear(x, y_scale, _codes(y_zero_point), dtype=dtype, **where)),)


class DequantizeLinear(_Operator):
    """ONNX DequantizeLinear by dequantize_linear."""

    def _run(self, x: Array, x_scale: Array, x_zero_point: Array | None = None, **attributes: Any) -> tuple[Array]:
        kind = self.value(attributes, "output_dtype", 0)
        dtype = helper.tensor_dtype_to_np_dtype(kind) if kind else x_scale.dtype
        where = _where(x_scale, self.value(attributes, "axis", 1), self.value(attributes, "block_size", 0))
        return (np.asarray(dequantize_linear(_codes(x), x_scale, _codes(x_zero_point), dtype=dtype, **where)),)


class DynamicQuantizeLinear(_Operator):
    """ONNX DynamicQuantizeLinear by dynamic_quantize_linear."""

    def _run(self, x: Array, **_: Any) -> tuple[Array, ...]:
        return tuple(np.asarray(value) for value in dynamic_quantize_linear(x))


class MatMulInteger(_Operator):
    """ONNX MatMulInteger by matmul_integer."""

    def _run(self, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None, **_: Any) -> Any:
        return (np.asarray(matmul_integer(a, b, a_zero, b_zero)),)


class QLinearMatMul(_Operator):
    """ONNX QLinearMatMul by qlinear_matmul."""

    def _run(self, *inputs: Array, **_: Any) -> tuple[Array]:
        return (np.asarray(qlinear_matmul(*inputs)),)


def _geometry(operator: Any, attributes: dict[str, Any], x: Array, w: Array) -> dict[str, Any] | None:
    """Return strides, padding, dilations and groups of a convolution of planes; None for one of other images."""
    found = {name: attributes.get(name, getattr(operator, name, None)) for name in _CONV_ATTRIBUTES}
    if x.ndim != 4:
        return None
    strides, dilations = found["strides"] or [1, 1], found["dilations"] or [1, 1]
    pads = found["pads"] or [0, 0, 0, 0]
    if found["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, kernel, stride, dilation in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            less, more = total // 2, total - total // 2
            upper = found["auto_pad"] == "SAME_UPPER"
            before.append(less if upper else more)
            after.append(more if upper else less)
        pads = before + after
    elif found["auto_pad"] == "VALID":
        pads = [0, 0, 0, 0]
    return {"strides": strides, "padding": pads, "dilations": dilations, "groups": found["group"] or 1}


class ConvInteger(op_conv_integer.ConvInteger):
    """ONNX ConvInteger by conv2d_integer; onnx's own where the images are no planes."""

    op_domain = ""

    def _run(self, x: Array, w: Array, *zeros: Any, **attributes: Any) -> Any:  # type: ignore[override]
        geometry = _geometry(self, attributes, x, w)
        if geometry is None:
            return super()._run(x, w, *zeros, **attributes)  # type: ignore[no-untyped-call]
        return (conv2d_integer(x, w, *zeros, **geometry),)


class QLinearConv(op_qlinear_conv.QLinearConv):
    """ONNX QLinearConv by qlinear_conv2d; onnx's own where the images are no planes."""

    op_domain = ""

    def _run(self, x: Array, *rest: Any, **attributes: Any) -> Any:
        geometry = _geometry(self, attributes, x, rest[2])
        if geometry is None:
            return super()._run(x, *rest, **attributes)  # type: ignore[no-untyped-call]
        return (np.asarray(qlinear_conv2d(x, *rest, **geometry)),)


# ---- domain "qnumpy" ----


class Linear(_Operator):
    """`PackedWeight` for the weight of each output."""

    op_domain = DOMAIN

    def _run(
        self,
        x: Float32Array,
        w: Array,
        scale: Array | None = None,
        zero_point: Array | None = None,
        bias: Array | None = None,
        smooth: Array | None = None,
        signs: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        outputs = len(self.onnx_node.output)
        found = {a.name: helper.get_attribute_value(a) for a in self.onnx_node.attribute}
        parts = linear_parts(w, scale, zero_point, found, outputs)
        with np.errstate(over="ignore", invalid="ignore"):
            x = x if smooth is None else x * smooth
        if signs is not None:
            block = found["hadamard_block"]
            blocks = (x * signs.astype(np.float32)).reshape(-1, block)
            x = Hadamard(block, None).apply(blocks).reshape(x.shape)
        activation = self.value(attributes, "activation", "")
        by_group = self.value(attributes, "x_granularity", "row") == "group"
        results = []
        for i, part in enumerate(parts):
            columns = slice(i * part.shape[1], (i + 1) * part.shape[1])
            packed = PackedWeight(
                part,
                bias=None if bias is None else bias[columns],
                clip=(0, None) if activation == "relu" else (None, None),
                symmetric=bool(self.value(attributes, "symmetric", 0)),
                activation_bits=self.value(attributes, "activation_bits", 8),
                x_granularity=PerGroup(found["group_size"]) if by_group else PerRow(),
            )
            y: Any = packed.matmul(x)
            results.append(layers.gelu(y) if activation == "gelu" else y)
        return tuple(results)


class Conv(_Operator):
    """Exact sums of the codes of each image."""

    op_domain = DOMAIN

    def _run(self, x: Float32Array, w: Array, scale: Array, bias: Array | None = None, **attributes: Any) -> Any:
        somewhere = np.isfinite(x).any(axis=tuple(range(1, x.ndim)), keepdims=True)  # else the range is that of 0
        params = choose_qparams(
            np.where(somewhere, x, np.float32(0)), dtype="uint8", granularity=PerChannel(0), symmetric=False
        )
        codes = codes_of("Conv", x, params)
        flat = x.ndim == 3
        images, filters = (codes[:, :, None], w[:, :, None]) if flat else (codes, w)
        names = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]}
        geometry: dict[str, Any] = {
            name: list(self.value(attributes, name, missing)) for name, missing in names.items()
        }
        if flat and len(geometry["strides"]) == 1:
            geometry["strides"].insert(0, 1)
        if flat and len(geometry["dilations"]) == 1:
            geometry["dilations"].insert(0, 1)
        if flat and len(geometry["pads"]) == 2:
            geometry["pads"] = [0, geometry["pads"][0], 0, geometry["pads"][1]]
        geometry = {"strides": geometry["strides"], "padding": geometry["pads"], "dilations": geometry["dilations"],
                    "groups": self.value(attributes, "group", 1)}  # fmt: skip
        results = [conv2d_integer(images[:0], filters, **geometry).astype(np.float32)]  # of no image
        for image, s, z in zip(images, params.scale, params.zero_point, strict=True):
            acc = conv2d_integer(image[None], filters, z, **geometry)
            y = acc.astype(np.float32) * (s * scale)[:, None, None]
            results.append(y if bias is None else y + bias[:, None, None])
        y = np.concatenate(results)
        y = y[:, :, 0] if flat else y
        activation = self.value(attributes, "activation", "")
        if activation == "relu":
            y = np.where(y < 0, np.float32(0), y)
        return (layers.gelu(y) if activation == "gelu" else y,)


class Embedding(_Operator):
    """Rows of codes times their scale."""

    op_domain = DOMAIN

    def _run(self, ids: Array, codes: Array, scale: Array, **_: Any) -> tuple[Array]:
        return (codes[ids].astype(np.float32) * scale[ids][..., None],)


class SkipLayerNormalization(_Operator):
    """The twin of the kernel."""

    op_domain = DOMAIN

    def _run(self, x: Array, residual: Array, gamma: Array, beta: Array | None = None, **attributes: Any) -> Any:
        y, total = layers.add_norm(x, residual, gamma, beta, self.value(attributes, "epsilon", 1e-5))
        return (y, total)[: len(self.onnx_node.output)]


def _codes(array: Array | None) -> Any:
    """Return codes of less than a byte as qnumpy has them: the sign fills the byte."""
    code = None if array is None else code_type(array.dtype)
    if array is None or code is None or code.real is not None or code.bits >= 8:
        return array
    return array.astype(np.int64).astype(code.storage).view(code.dtype)


_OPERATORS: list[type[OpRun]] = [
    QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, QLinearMatMul, ConvInteger, QLinearConv,
    Linear, Conv, Embedding, SkipLayerNormalization,
]  # fmt: skip
