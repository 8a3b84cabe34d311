"""Writes the nodes of a graph of which some candidates run in int8."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from .._typing import Array
from ..calibration.calibrate import Calibration
from ..observers import (
    MomentsObserver,
)
from ..qparams import QParams
from ..reports.scores import finite_decibels, signal_and_noise
from ._forms.codes import LayerCodes, Moments, layer_codes
from ._forms.integer import conv_integer, matmul_integer, qlinear_conv, qlinear_matmul
from ._forms.qdq import dequantized_layer
from ._forms.stored import FloatWeights
from ._forms.writer import Writer
from ._graph import Graph, node_name
from ._placement import Candidate
from ._ranges import (
    MEAN,
    Rounding,
    Technique,
    rounding_name,
)
from ._report import Change
from ._selection import Selection

__all__ = ["Form", "Int8Graph", "Options", "TargetCPU"]

Form = Literal["QDQ", "integer"]
TargetCPU = Literal["any", "vnni", "avx2", "arm"]


class Options(NamedTuple):
    """What the user chose."""

    observer: Technique
    form: Form
    rounding: Rounding
    selection: Selection
    forced: bool
    target_cpu: TargetCPU
    float_weights: FloatWeights
    correct_bias: bool
    quantize_outputs: bool


class Int8Graph:
    """Rewrites one graph: its chosen candidates run in int8."""

    def __init__(
        self,
        graph: Graph,
        found: list[Candidate],
        chosen: set[str],
        ranges: Mapping[str, QParams],
        smoothing: Mapping[str, Array],
        calibration: Calibration,
        options: Options,
        kept: dict[Any, LayerCodes],
    ) -> None:
        self.kept = kept  # codes of layers, which variants of one model share
        self.graph, self.chosen, self.options, self.calibration = graph, chosen, options, calibration
        self.by_output = {name: c for c in found for name in c.outputs}
        self.writer = Writer(graph, ranges, smoothing)
        self.codes: dict[str, str] = {}  # of tensors that have codes so far
        self.reals: dict[str, str] = {}  # what int8 nodes read of tensors that float nodes make
        self.needed = self._needed(found)
        self.merged = self._merged(found)

    def _needed(self, found: list[Candidate]) -> set[str]:
        """Return the tensors that need codes."""
        inputs = {name for c in found if c.key in self.chosen and c.kind != "activation" for name in c.inputs}
        outputs = {
            name for c in found if c.key in self.chosen and not self._makes_reals(c) for name in c.outputs
        }  # fmt: skip
        return inputs | outputs

    def _makes_reals(self, c: Candidate) -> bool:
        if self.options.quantize_outputs and self.graph.is_output(c.key):
            return False
        if c.keeps_float:
            return True
        return self.options.form == "integer" and c.kind == "conv" and self._ends(c)

    def _ends(self, c: Candidate) -> bool:
        """Whether a graph output is all that a node makes."""
        return self.graph.is_output(c.key) and not self.graph.consumers(c.key)

    def _merged(self, found: list[Candidate]) -> dict[str, Candidate]:
        """Return the activations that the quantization of their output replaces, by the key of the node before."""
        merged = {}
        for c in found:
            if c.kind == "activation" and c.key in self.chosen:
                merged[self.by_output[c.inputs[0]].key] = c
        return merged

    def run(self) -> list[Change]:
        """Replace the nodes of the graph; return what changed."""
        proto = self.graph.proto
        changes: list[Change] = []
        gone = {c.key for c in self.merged.values()}
        for value in proto.input:
            if value.name in self.needed:
                self._quantize(value.name)
        for node in list(proto.node):
            key = node.output[0] if node.output else ""
            c = self.by_output.get(key)
            if key in gone:
                continue
            if c is not None and key in self.chosen:
                change = self._int8(c)
                if change is not None:
                    changes.append(change)
                continue
            self.writer.nodes.append(self._float(node))
            for name in node.output:
                if name in self.needed:
                    self._quantize(name)
        del proto.node[:]
        proto.node.extend(self.writer.nodes)
        Graph.of(self.graph.model).remove_unused()
        return changes

    def _float(self, node: Any) -> Any:
        """Return a float node. A bias after a product in int8 is added by Sum: onnxruntime would turn Add into Gemm."""
        if node.op_type != "Add" or node.domain:
            return node
        before = [self.by_output.get(name) for name in node.input]
        int8 = any(c is not None and c.kind == "matmul" and c.key in self.chosen for c in before)
        if int8 and any(self.graph.constant(name) is not None for name in node.input):
            node.op_type = "Sum"
        return node

    def _quantize(self, tensor: str) -> None:
        """Give a tensor that exists in float32 its codes."""
        self.codes[tensor] = self.writer.quantize(tensor)

    def _read(self, tensor: str) -> str:
        """Return the name of the reals that an int8 node reads."""
        if tensor not in self.reals:
            maker = self.by_output.get(tensor)
            if maker is not None and maker.key in self.chosen and not self._makes_reals(maker):
                self.reals[tensor] = tensor  # its DequantizeLinear has the name of the tensor
            else:
                self.reals[tensor] = self.writer.dequantize(tensor, self.codes[tensor])
        return self.reals[tensor]

    def _finish(self, tensor: str, raw: str) -> None:
        """Quantize what a node made, and give the tensor's name to the reals that its codes stand for."""
        self.codes[tensor] = self.writer.quantize(tensor, raw)
        self.writer.dequantize(tensor, self.codes[tensor], tensor)

    def _int8(self, c: Candidate) -> Change | None:
        after = self.merged.get(c.key)
        outputs = c.outputs if after is None else after.outputs
        if c.computes:
            return self._layer(c, outputs[0], after)
        node = type(c.node)()
        node.CopyFrom(c.node)
        for i, name in enumerate(node.input):
            if name in c.inputs:
                node.input[i] = self._read(name)
        raw = [self.writer.name(f"{name}_float") for name in outputs]
        del node.output[:]
        node.output.extend(raw)
        self.writer.nodes.append(node)
        self._activation(after, outputs[0], raw)
        for name, real in zip(outputs, raw, strict=True):
            self._finish(name, real)
        return None

    def _activation(self, after: Candidate | None, output: str, raw: list[str]) -> None:
        """Append a merged activation, unless the range of the codes does what it does."""
        if after is None or self._saturates(after, output):
            return
        node = type(after.node)()
        node.CopyFrom(after.node)
        node.input[0], node.output[0] = raw[0], self.writer.name(f"{output}_float")
        self.writer.nodes.append(node)
        raw[0] = node.output[0]

    # ---- layers with weights ----

    def _layer(self, c: Candidate, output: str, after: Candidate | None) -> Change:
        assert c.weight is not None
        x = c.inputs[0]
        w, bias = self._arrays(c)
        factor = self.writer.smoothing.get(x)
        if factor is not None:
            w = (w * (factor[:, None] if c.outputs_axis == 1 else factor)).astype(np.float32)
        params = self.writer.qparams[x]
        x_scale = float(params.scale)
        axis = c.outputs_axis
        key = c.key, x_scale, None if factor is None else factor.tobytes()
        if key not in self.kept:
            self.kept[key] = self._codes(c, w, bias, x_scale, factor)
        codes = self.kept[key]
        stem = c.weight.name or node_name(c.node)
        bias_stem = c.bias.name if c.bias is not None else f"{stem}_bias"
        reals = self._makes_reals(c)
        form = self._emit(c, output, after, codes, reals, stem, bias_stem)
        before_bytes = w.nbytes + (0 if c.bias is None else c.bias.array.nbytes)
        after_bytes = codes.codes.nbytes + codes.scale.nbytes + (0 if codes.bias is None else codes.bias.nbytes)
        reason = "int8 is faster in onnxruntime" if not self.options.forced else "included"
        if codes.widened:
            reason += (
                f"; the scale of {codes.widened} channels is wider, for pairs of products within int16 or the bias"
            )
        name, op_type, sqnr = node_name(c.node), c.node.op_type, _sqnr(w, codes, axis)
        return Change(name, op_type, form, "int8", reason, before_bytes, after_bytes, sqnr, codes.rounding)

    def _codes(self, c: Candidate, w: Array, bias: Array | None, x_scale: float, factor: Array | None) -> LayerCodes:
        orders = _orders(c, w) if self.options.target_cpu in ("any", "avx2") else None
        axis, moments = c.outputs_axis, self._moments(c, factor)
        if self.options.correct_bias and moments is None:
            bias = self._corrected(c, w, bias, layer_codes(w, axis, bias, x_scale, orders=orders))
        return layer_codes(w, axis, bias, x_scale, orders=orders, moments=moments)

    def _moments(self, c: Candidate, factor: Array | None) -> Moments | None:
        """Return the moments of a layer's inputs, of x / factor where there are factors.

        They are about zero where no bias takes up the mean of the error.
        """
        name = rounding_name(c, "gptq")
        observer = self.calibration.observers.get(name)
        if self.options.rounding == "nearest" or not isinstance(observer, MomentsObserver):
            return None
        if not hasattr(observer, "mean_") or not int(observer.count_):
            return None
        by = np.ones(observer.inputs) if factor is None else factor.astype(np.float64)
        return Moments(observer.mean_ / by, observer.covariance(centered=c.bias is not None) / (by[:, None] * by))

    def _arrays(self, c: Candidate) -> tuple[Array, Array | None]:
        """Return weight and bias in float32; alpha and beta are multiplied in."""
        assert c.weight is not None
        w, bias = c.weight.array, None if c.bias is None else c.bias.array.astype(np.float64)
        if c.kind == "gemm":
            w = (w * np.float32(c.attributes.get("alpha", 1.0))).astype(np.float32)
            if bias is not None:
                n = w.shape[c.outputs_axis or 0]
                bias = np.broadcast_to(bias.reshape(-1) * c.attributes.get("beta", 1.0), (n,))
        return w, bias

    def _corrected(self, c: Candidate, w: Array, bias: Array | None, codes: LayerCodes) -> Array | None:
        """Return the bias plus the mean of the error that the codes cause; of a product without a bias None."""
        observer = self.calibration.observers.get(f"{c.inputs[0]}{MEAN}")
        if observer is None or not hasattr(observer, "mean_") or c.kind == "matmul":
            return bias
        mean = observer.mean_
        shape = [-1 if d == c.outputs_axis else 1 for d in range(w.ndim)]
        error = w.astype(np.float64) - codes.codes.astype(np.float64) * codes.scale.reshape(shape).astype(np.float64)
        if c.kind == "gemm":
            shift = error @ mean if c.outputs_axis == 0 else mean @ error
        else:
            group = c.attributes.get("group", 1)
            sums = error.reshape(w.shape[0], w.shape[1], -1).sum(axis=2)
            by_group = np.repeat(mean.reshape(group, -1), w.shape[0] // group, axis=0)
            shift = (sums * by_group).sum(axis=1)
        return np.asarray(shift if bias is None else np.asarray(bias) + shift)

    def _emit(
        self,
        c: Candidate,
        output: str,
        after: Candidate | None,
        codes: LayerCodes,
        reals: bool,
        stem: str,
        bias_stem: str,
    ) -> str:
        """Append the nodes of a layer; return the operator that the form is known by."""
        writer, x = self.writer, c.inputs[0]
        raw = [output if reals and after is None else writer.name(f"{output}_float")]
        if self.options.form == "QDQ":
            dequantized_layer(writer, c.node, self._read(x), raw[0], codes, c.outputs_axis, stem, bias_stem)
            self._finish_layer(output, after, raw, reals)
            return "QDQ"
        if c.kind == "gemm" and c.attributes.get("transB", 0):
            codes = codes._replace(codes=np.ascontiguousarray(codes.codes.T))
        pair, name = (x, self.codes[x]), f"{output}_quantized"
        alone = output in self.needed and output not in writer.smoothing and not self._float_readers(output)
        if c.kind == "conv" and reals:
            conv_integer(writer, c.node, pair, raw[0], codes, stem)
            form = "ConvInteger"
        elif c.kind == "conv" and self._saturates(after, output):
            self.codes[output] = writer.name(name)
            qlinear_conv(writer, c.node, pair, (output, self.codes[output]), codes, stem)
            writer.dequantize(output, self.codes[output], output)
            return "QLinearConv"
        elif c.kind != "conv" and codes.bias is None and (alone or not reals) and self._saturates(after, output):
            self.codes[output] = writer.name(name)
            qlinear_matmul(writer, pair, (output, self.codes[output]), codes, stem)
            self.reals[output] = writer.dequantize(output, self.codes[output], output)
            return "QLinearMatMul"
        elif c.kind == "conv":
            conv_integer(writer, c.node, pair, raw[0], codes, stem)
            form = "ConvInteger"
        else:
            matmul_integer(writer, pair, raw[0], codes, stem)
            form = "MatMulInteger"
        self._finish_layer(output, after, raw, reals)
        return form

    def _saturates(self, after: Candidate | None, output: str) -> bool:
        """Whether codes of an output saturate where the activation behind the layer clips."""
        if after is None:
            return True
        low, high = self.writer.qparams[output].range()
        least, most = after.attributes["bounds"]
        slack = 1e-6 * float(high - low)
        return (least is None or float(low) >= least - slack) and (most is None or float(high) <= most + slack)

    def _finish_layer(self, output: str, after: Candidate | None, raw: list[str], reals: bool) -> None:
        """Append what follows the product of a layer: the activation, and the codes of the output where they are read.

        Where reals are kept and nothing merges, the output keeps its name, and int8 nodes read its codes beside it.
        """
        if output in self.writer.smoothing:  # others read the reals themselves
            if after is not None:
                node = type(after.node)()
                node.CopyFrom(after.node)
                node.input[0] = raw[0]
                self.writer.nodes.append(node)
            self._quantize(output)
            return
        self._activation(after, output, raw)
        if not reals or after is not None:
            self._finish(output, raw[0])
            self.reals[output] = output
        elif output in self.needed:
            self._quantize(output)

    def _float_readers(self, tensor: str) -> bool:
        readers = [self.by_output.get(node.output[0]) for node in self.graph.consumers(tensor)]
        return self.graph.is_output(tensor) or any(c is None or c.key not in self.chosen for c in readers)


def _orders(c: Candidate, w: Array) -> tuple[tuple[int, ...], ...]:
    """Return the orders in which runtimes lay out the inputs of a channel, as axes after that of the channel."""
    if c.kind != "conv" or w.ndim < 3:
        return (tuple(range(1, w.ndim + (c.outputs_axis is None))),)
    spatial = tuple(range(2, w.ndim))
    return (1, *spatial), (*spatial, 1)


def _sqnr(w: Array, codes: LayerCodes, axis: int | None) -> float | None:
    """Return the SQNR of a weight in dB; None where it has no error."""
    shape = [-1 if d == axis else 1 for d in range(w.ndim)]
    real = codes.codes.astype(np.float64) * codes.scale.reshape(shape if axis is not None else ()).astype(np.float64)
    return finite_decibels(*signal_and_noise(w, real))
