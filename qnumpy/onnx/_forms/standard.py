"""Products with int8 weights by standard operators: rows quantized as they come, sums in integers, one scale a row.

Or all rows in one range, which is measured or known before.

For a row x with range [low, high] around 0, ``s = (high - low) / 255`` and ``z = round(-low / s)``, so that
``x w = s c (q w) - (s z) c sum(w) + b`` with codes q of the row, w of the weight and its scales c by column.
"""

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from ..._check import TINY
from ..._typing import Array, Float32Array
from ...qparams import QParams
from .._graph import Graph

__all__ = ["LinearWeight", "Nodes", "Rows", "StandardForm", "look_up"]


class LinearWeight(NamedTuple):
    """The weight of a product as codes, and what is added to it."""

    stem: str  # names of what belongs to the weight begin with it
    codes: Array  # int8, of shape (K, N)
    scale: Float32Array  # (N,)
    bias: Float32Array  # (N,)


class Rows(NamedTuple):
    """The names of tensors that the rows of one activation became."""

    codes: str
    scale: str
    zero_point: str
    shape: str  # of the activation without its last axis; "" where it is a matrix
    offsets: str  # [s z, 1] of each row; "" where there is one range


class Nodes:
    """Nodes that stand in place of one, in order."""

    def __init__(self, graph: Graph, stem: str) -> None:
        self.graph, self.stem = graph, stem
        self.made: list[Any] = []

    def add(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        name = self.graph.name(f"{self.stem}_{op_type}")
        self.made.append(helper.make_node(op_type, inputs, [output or name], name=name, **attributes))
        return output or name

    def constant(self, stem: str, array: Any) -> str:
        return self.graph.add(stem, np.asarray(array))


class StandardForm:
    """Writes products of one graph; layers that read one activation share its codes."""

    def __init__(self, graph: Graph, per: str) -> None:
        self.graph, self.per = graph, per
        self.rows: dict[Any, Rows] = {}

    def linear(
        self,
        nodes: Nodes,
        x: str,
        rank: int | None,
        weight: LinearWeight,
        output: str,
        x_qparams: QParams | None = None,
    ) -> None:
        """Append the product of an activation and a weight.

        Parameters
        ----------
        nodes : Nodes
        x : str
            The activation, float32 of shape (..., K).
        rank : int or None
            Its axes, where they are known.
        weight : LinearWeight
        output : str
        x_qparams : QParams, optional
            Of x, per tensor of int8 or uint8, where they are known and there is one range.
        """
        k, n = weight.codes.shape
        key = x if x_qparams is None else (x, str(x_qparams.to_dict()))
        if key not in self.rows:
            self.rows[key] = self._quantize(nodes, x, rank, k, x_qparams)
        rows = self.rows[key]
        if self.per == "row":
            y = self._row_product(nodes, rows, weight, output if not rows.shape else "")
        else:
            y = self._tensor_product(nodes, rows, weight, output if not rows.shape else "")
        if rows.shape:
            width = nodes.constant("qnumpy_width", np.array([n], np.int64))
            shape = nodes.add("Concat", [rows.shape, width], axis=0)
            nodes.add("Reshape", [y, shape], output)

    def _quantize(self, nodes: Nodes, x: str, rank: int | None, k: int, x_qparams: QParams | None) -> Rows:
        shape, matrix = "", x
        if rank != 2:
            shape = self._leading_axes(nodes, x)
            matrix = nodes.add("Reshape", [x, nodes.constant("qnumpy_rows", np.array([-1, k], np.int64))])
        if x_qparams is not None:
            return self._known_range(nodes, matrix, shape, x_qparams)
        if self.per == "tensor":
            return self._one_range(nodes, matrix, shape)
        zero = nodes.constant("qnumpy_zero", np.float32(0))
        low = nodes.add("Min", [self._reduce(nodes, "ReduceMin", matrix), zero])
        high = nodes.add("Max", [self._reduce(nodes, "ReduceMax", matrix), zero])
        width = nodes.add("Sub", [high, low])
        step = nodes.add("Mul", [width, nodes.constant("qnumpy_step", np.float32(1 / 255))])
        scale = nodes.add("Max", [step, nodes.constant("qnumpy_least", np.float32(TINY))])
        # QuantizeLinear by rows rounds -low / s in one operator
        zero_point = nodes.add("QuantizeLinear", [nodes.add("Neg", [low]), scale], axis=0)
        codes = nodes.add("QuantizeLinear", [matrix, scale, zero_point], axis=0)
        shift = nodes.add("DequantizeLinear", [zero_point, scale], axis=0)
        column = nodes.add("Unsqueeze", [shift, nodes.constant("qnumpy_last", np.array([1], np.int64))])
        pads = nodes.constant("qnumpy_pads", np.array([0, 0, 0, 1], np.int64))
        offsets = nodes.add("Pad", [column, pads, nodes.constant("qnumpy_one", np.float32(1))])
        return Rows(codes, scale, zero_point, shape, offsets)

    def _one_range(self, nodes: Nodes, matrix: str, shape: str) -> Rows:
        codes, scale, zero_point = (self.graph.name(f"{nodes.stem}_{end}") for end in ("codes", "scale", "zero_point"))
        name = self.graph.name(f"{nodes.stem}_DynamicQuantizeLinear")
        nodes.made.append(helper.make_node("DynamicQuantizeLinear", [matrix], [codes, scale, zero_point], name=name))
        return Rows(codes, scale, zero_point, shape, "")

    def conv(
        self, nodes: Nodes, x: str, weight: LinearWeight, output: str, x_qparams: QParams, **attributes: Any
    ) -> None:
        """Append a convolution of images in a known range; the codes have the shape of the filters."""
        rows = self._known_range(nodes, x, "", x_qparams)
        codes = nodes.constant(f"{weight.stem}_quantized", weight.codes)
        acc = nodes.add("ConvInteger", [rows.codes, codes, rows.zero_point], **attributes)
        real = nodes.add("Cast", [acc], to=TensorProto.FLOAT)
        each = (-1, *[1] * (weight.codes.ndim - 2))
        product = (np.float32(x_qparams.scale) * weight.scale).reshape(each)
        biased = bool(weight.bias.any())
        y = nodes.add("Mul", [real, nodes.constant(f"{weight.stem}_scale", product)], "" if biased else output)
        if biased:
            nodes.add("Add", [y, nodes.constant(f"{weight.stem}_bias", weight.bias.reshape(each))], output)

    def _known_range(self, nodes: Nodes, matrix: str, shape: str, params: QParams) -> Rows:
        """Quantize to uint8: codes of int8 are moved by 128, and their zero point too."""
        up = 128 if params.code.signed else 0
        scale = nodes.constant(f"{nodes.stem}_x_scale", np.float32(params.scale))
        zero_point = nodes.constant(f"{nodes.stem}_x_zero_point", np.uint8(int(params.zero_point) + up))
        codes = nodes.add("QuantizeLinear", [matrix, scale, zero_point])
        if (params.qmin, params.qmax) != (params.code.qmin, params.code.qmax):
            ends = [nodes.constant("qnumpy_end", np.uint8(end + up)) for end in (params.qmin, params.qmax)]
            codes = nodes.add("Clip", [codes, *ends])
        return Rows(codes, scale, zero_point, shape, "")

    def _row_product(self, nodes: Nodes, rows: Rows, weight: LinearWeight, output: str) -> str:
        sums = weight.codes.astype(np.int64).sum(axis=0) * -weight.scale.astype(np.float64)
        added = np.stack([sums, weight.bias.astype(np.float64)]).astype(np.float32)
        acc = nodes.add("MatMulInteger", [rows.codes, nodes.constant(f"{weight.stem}_quantized", weight.codes)])
        real = nodes.add("DequantizeLinear", [acc, rows.scale], axis=0)
        scaled = nodes.add("Mul", [real, nodes.constant(f"{weight.stem}_scale", weight.scale)])
        return nodes.add("Gemm", [rows.offsets, nodes.constant(f"{weight.stem}_offsets", added), scaled], output)

    def _tensor_product(self, nodes: Nodes, rows: Rows, weight: LinearWeight, output: str) -> str:
        codes = nodes.constant(f"{weight.stem}_quantized", weight.codes)
        acc = nodes.add("MatMulInteger", [rows.codes, codes, rows.zero_point])
        real = nodes.add("Cast", [acc], to=TensorProto.FLOAT)
        scale = nodes.add("Mul", [rows.scale, nodes.constant(f"{weight.stem}_scale", weight.scale)])
        biased = bool(weight.bias.any())
        scaled = nodes.add("Mul", [real, scale], "" if biased else output)
        return (
            nodes.add("Add", [scaled, nodes.constant(f"{weight.stem}_bias", weight.bias)], output) if biased else scaled
        )

    def _leading_axes(self, nodes: Nodes, x: str) -> str:
        if self.graph.opset() >= 15:
            return nodes.add("Shape", [x], start=0, end=-1)
        ends = [nodes.constant("qnumpy_axis", np.array([value], np.int64)) for value in (0, -1)]
        return nodes.add("Slice", [nodes.add("Shape", [x]), *ends])

    def _reduce(self, nodes: Nodes, op_type: str, matrix: str) -> str:
        if self.graph.opset() >= 18:
            axes = nodes.constant("qnumpy_axes", np.array([1], np.int64))
            return nodes.add(op_type, [matrix, axes], keepdims=0)
        return nodes.add(op_type, [matrix], axes=[1], keepdims=0)


def look_up(nodes: Nodes, ids: str, stem: str, codes: Array, scale: Float32Array, output: str) -> None:
    """Append the look-up of rows of codes, times their scales."""
    looked_up = nodes.add("Gather", [nodes.constant(f"{stem}_quantized", codes), ids], axis=0)
    steps = nodes.add("Gather", [nodes.constant(f"{stem}_scale", scale[:, None]), ids], axis=0)
    nodes.add("Mul", [nodes.add("Cast", [looked_up], to=TensorProto.FLOAT), steps], output)
