"""A model in pieces, which `qn.weights.quantize_layers` runs: its layers are rounded for the inputs that they get.

Layers with one input form a stage. A piece is what stands between two stages; it is a model of its own, whose inputs
are the weights of the stages and the tensors of the pieces before it. So the float model and the quantized one each run
once for every batch, and wait at every stage for the rounding of its layers.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._typing import Array
from ..observers.tap import tap
from ..weights._walks import RESIDUAL, of_quantized_model
from ._pieces import Piece, piece, reads

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from ._graph import Graph

__all__ = ["Staged", "StagedModel"]


class Staged(NamedTuple):
    """A layer of a stage.

    Attributes
    ----------
    name : str
        In the dict of the weights.
    node : NodeProto
    slot : int
        The input of the node that is the weight.
    x : str
        The activation.
    rows : callable
        From the activation to the rows (..., K) that the weight multiplies.
    outputs_last : callable
        From an array of the shape of the layer's output to one whose last axis are the outputs.
    weight : callable
        From the matrix (N, K) to what the node reads.
    bias : tuple of (NodeProto, int) or None
        Where the bias is read.
    residual : str or None
        What is added to the output.
    """

    name: str
    node: "NodeProto"
    slot: int
    x: str
    rows: Callable[[Array], Array]
    outputs_last: Callable[[Array], Array]
    weight: Callable[[Array], Array]
    bias: "tuple[NodeProto, int, Callable[[Array], Array]] | None"
    residual: str | None


class StagedModel:
    """The function `run` of quantize_layers.

    Parameters
    ----------
    graph : Graph
        Of the whole model; it does not change.
    staged : list of Staged
        In the order of their nodes.
    weights : mutable mapping of str to weight or (weight, bias)
        Shared with quantize_layers, which replaces the entries.
    others : mapping of (output of a node, input of the node) to (float array, quantized array)
        Weights that are rounded already, and what the node reads in the float model and in the quantized one.
    """

    def __init__(
        self,
        graph: "Graph",
        staged: list[Staged],
        weights: MutableMapping[str, Any],
        others: Mapping[tuple[str, int], tuple[Array, Array]],
    ) -> None:
        self.weights, self.others = weights, others
        by_x: dict[tuple[str, int], list[Staged]] = {}
        for layer in staged:
            by_x.setdefault((layer.x, id(layer.rows)), []).append(layer)
        self.stages = list(by_x.values())
        self._fed: dict[str, tuple[str, int]] = {}  # tensor made here: the entry of `others`
        self._pieces = list(self._cut(graph))
        self._last: dict[str, int] = {}
        for i, part in enumerate(self._pieces):
            for name in part.inputs:
                self._last[name] = i

    def __call__(self, batch: Mapping[str, Array]) -> None:
        side = 1 if of_quantized_model.get() else 0
        env: dict[str, Any] = dict(batch)
        for i, (part, stage) in enumerate(zip(self._pieces, self.stages, strict=True)):
            feed = {
                name: self.others[self._fed[name]][side] if name in self._fed else env[name] for name in part.inputs
            }
            if part.outputs:
                env.update(zip(part.outputs, part.session.run(part.outputs, feed), strict=True))
            del feed
            rows = stage[0].rows(env[stage[0].x])
            for layer in stage:
                self._tap_residual(layer, env, rows)
            for layer in stage:
                tap(layer.name, rows)
                entry = self.weights[layer.name]
                w, bias = entry if isinstance(entry, tuple) else (entry, None)
                env[_weight(layer)] = np.ascontiguousarray(layer.weight(w))
                if layer.bias is not None:
                    env[_bias(layer)] = np.ascontiguousarray(layer.bias[2](bias))
            del rows
            for name in [name for name in env if self._last.get(name, -1) <= i and not self._later(name, i)]:
                del env[name]

    def _later(self, name: str, i: int) -> bool:
        """Whether a stage after the i-th reads a tensor itself."""
        return any(name in (layer.x, layer.residual) for stage in self.stages[i + 1 :] for layer in stage)

    def _tap_residual(self, layer: Staged, env: Mapping[str, Array], rows: Array) -> None:
        if layer.residual is None:
            return
        entry = self.weights[layer.name]
        w = entry[0] if isinstance(entry, tuple) else entry
        residual = env[layer.residual]
        if residual.ndim == 0:
            return
        residual = layer.outputs_last(residual)
        wanted = (*rows.shape[:-1], w.shape[0])
        if residual.shape == wanted:
            tap(layer.name + RESIDUAL, residual)

    # ---- pieces ----

    def _cut(self, graph: "Graph") -> Iterator[Piece]:
        """Yield the pieces: the i-th ends where the i-th stage has its input."""
        nodes = _substituted(graph.proto, self.stages, self.others, self._fed)
        constants = {init.name: init for init in graph.proto.initializer}
        sparse = {init.values.name for init in graph.proto.sparse_initializer}
        given = {value.name for value in graph.proto.input} - constants.keys()
        level: dict[str, int] = dict.fromkeys(given, 0) | dict.fromkeys(self._fed, 0)
        for i, stage in enumerate(self.stages):
            for layer in stage:
                level[_weight(layer)] = i + 1
                if layer.bias is not None:
                    level[_bias(layer)] = i + 1
        made: dict[str, NodeProto] = {}
        levels = []
        for node in nodes:
            at = max([level[name] for name in reads(node) if name in level], default=-1)
            levels.append(at)
            for name in node.output:
                if name:
                    made[name] = node
                    if at >= 0:
                        level[name] = at
        for i, stage in enumerate(self.stages):  # what depends on the stage is no residual of it
            known = [layer.residual if level.get(layer.residual or "", i + 1) <= i else None for layer in stage]
            stage[:] = [layer._replace(residual=residual) for layer, residual in zip(stage, known, strict=True)]
        wanted: list[set[str]] = [
            set() for _ in self.stages
        ]  # tensors of earlier pieces that the i-th reads, or its stage
        for node, at in zip(nodes, levels, strict=True):
            if 0 <= at < len(self.stages):
                wanted[at].update(name for name in reads(node) if name in level)
        taken = [
            {name for layer in stage for name in (layer.x, layer.residual) if name is not None} for stage in self.stages
        ]
        types = self._types(graph)
        for i in range(len(self.stages)):
            after = set().union(*wanted[i + 1 :], *taken[i:])
            mine = [node for node, at in zip(nodes, levels, strict=True) if at == i]
            outputs = [name for node in mine for name in node.output if name in after]
            outputs += [name for name in sorted(taken[i]) if level.get(name, -1) < 0 and name in made]
            yield piece(graph, mine, outputs, made, level, constants, sparse, types)

    def _types(self, graph: "Graph") -> Callable[[str], int]:
        fed = {name: self.others[key][0] for name, key in self._fed.items()}
        weights = {}
        for stage in self.stages:
            for layer in stage:
                entry = self.weights[layer.name]
                w = entry[0] if isinstance(entry, tuple) else entry
                weights[_weight(layer)] = weights[_bias(layer)] = w

        def elem_type(name: str) -> int:
            from onnx import helper

            array = fed.get(name, weights.get(name))
            if array is not None:
                return int(helper.np_dtype_to_tensor_dtype(array.dtype))
            return int(graph.elem_type(name) or 0)

        return elem_type


def _substituted(
    proto: "GraphProto",
    stages: list[list[Staged]],
    others: Mapping[tuple[str, int], Any],
    fed: dict[str, tuple[str, int]],
) -> "list[NodeProto]":
    """Return the nodes, with inputs of their own for the weights and biases that are replaced."""
    from onnx import NodeProto

    changes: dict[str, dict[int, str]] = {}
    for stage in stages:
        for layer in stage:
            changes.setdefault(_key(layer.node), {})[layer.slot] = _weight(layer)
            if layer.bias is not None:
                node, slot, _ = layer.bias
                changes.setdefault(_key(node), {})[slot] = _bias(layer)
    for key in others:
        output, slot = key
        name = f"qnumpy.other.{len(fed)}"
        fed[name] = key
        changes.setdefault(output, {})[slot] = name
    nodes = []
    for node in proto.node:
        if _key(node) in changes:
            copy = NodeProto()
            copy.CopyFrom(node)
            for slot, name in changes[_key(node)].items():
                copy.input[slot] = name
            node = copy
        nodes.append(node)
    return nodes


def _key(node: "NodeProto") -> str:
    return next((name for name in node.output if name), "")


def _weight(layer: Staged) -> str:
    return f"qnumpy.weight.{layer.name}"


def _bias(layer: Staged) -> str:
    return f"qnumpy.bias.{layer.name}"
