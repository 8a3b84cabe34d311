"""A list of nodes that replaces those of a graph, with the scales, zero points and codes that they read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import helper

from ..._typing import Array
from ...qparams import QParams
from .._graph import Graph

__all__ = ["Writer"]


class Writer:
    """Collects the nodes of a graph in order, and names tensors in the manner of the ecosystem.

    Parameters
    ----------
    graph : Graph
    qparams : mapping of str to QParams
        Of each tensor that is quantized.
    smoothing : mapping of str to ndarray of float32
        Of tensors whose last axis is divided by factors before it is quantized: the weights that read the codes are
        multiplied by them.
    """

    def __init__(self, graph: Graph, qparams: Mapping[str, QParams], smoothing: Mapping[str, Array]) -> None:
        self.graph, self.qparams, self.smoothing = graph, qparams, smoothing
        self.nodes: list[Any] = []

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        self.nodes.append(
            helper.make_node(op_type, inputs, [output], name=self._node_name(output, op_type), **attributes)
        )
        return output

    def _node_name(self, output: str, op_type: str) -> str:
        return self.graph.name(f"{output}_{op_type}")

    def name(self, stem: str) -> str:
        return self.graph.name(stem)

    def constant(self, stem: str, array: Array) -> str:
        return self.graph.add(stem, array)

    def weight_zero_point(self, stem: str, shape: tuple[int, ...], dtype: Any) -> str:
        """Return the name of zeros that one weight alone reads.

        With ``session.x64quantprecision=1`` onnxruntime replaces an int8 weight and its zero point by uint8, and fails
        where another weight has the same zero point.
        """
        return self.graph.add(f"{stem}_zero_point", np.zeros(shape, dtype), shared=False)

    def params(self, tensor: str) -> tuple[str, str]:
        """Return the names of the scale and the zero point of a tensor."""
        params = self.qparams[tensor]
        zero = np.asarray(params.zero_point).astype(params.code.name)
        scale = self.constant(f"{tensor}_scale", np.asarray(params.scale, np.float32))
        return scale, self.constant(f"{tensor}_zero_point", zero)

    def quantize(self, tensor: str, source: str | None = None) -> str:
        """Append the quantization of a tensor and return the name of its codes."""
        codes = self.name(f"{tensor}_quantized")
        if tensor in self.smoothing:  # QuantizeLinear with a scale for each element of the last axis is 60 times slower
            inverse = self.constant(f"{tensor}_smoothing", (1 / self.smoothing[tensor]).astype(np.float32))
            source = self.add("Mul", [source or tensor, inverse], self.name(f"{tensor}_smoothed"))
        return self.add("QuantizeLinear", [source or tensor, *self.params(tensor)], codes)

    def dequantize(self, tensor: str, codes: str, output: str | None = None) -> str:
        """Append the dequantization of a tensor's codes and return the name of its reals."""
        output = self.name(f"{tensor}_dequantized") if output is None else output
        return self.add("DequantizeLinear", [codes, *self.params(tensor)], output)
