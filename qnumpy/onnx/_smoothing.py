"""Factors of channels: outliers of an activation move into the weights that multiply it, where that costs no time.

``x w = (x / f) (f w)`` with a factor for each channel. The division goes into what makes x: the gain and the bias of a
norm, a constant of a Mul, the columns of the product before, behind sums, ReLUs, changes of layout and the product of
attention. Operators of the domain "qnumpy" take it as their input `smooth`. Factors are powers of two, so that a float
model keeps every bit of normal numbers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from .._typing import Array
from ..weights._factors import FREE_GAIN, PASS_GAIN, ROWS, Form, best_factors
from ._graph import Graph, attribute
from ._layers import Layer
from ._taps import tapped
from .session import run_batches, session

__all__ = ["Readers", "fold", "smooth"]

_DEFAULT = ("", "ai.onnx")


class Readers(NamedTuple):
    """The layers that multiply an activation by weights, and these as matrices (K, N)."""

    layers: list[Layer]
    weights: list[Array]
    rotates: bool  # whether a Hadamard matrix transforms the activation


def smooth(
    owner: str,
    graph: Graph,
    readers: Mapping[str, Readers],
    batches: list[dict[str, Array]],
    *,
    by_row: bool,
    most: int,
    ours: bool,
) -> dict[str, str]:
    """Smooth activations where that lowers the estimated error of what their layers return.

    Parameters
    ----------
    owner : str
    graph : Graph
        It changes: to the same function of its inputs. Make another one of the model afterwards.
    readers : mapping of str to Readers
        By activation; its other readers, if there are some, keep it from being divided where it is made.
    batches : list of dict of str to array
    by_row : bool
        Whether each row has a range of its own.
    most : int
        The largest code of a weight.
    ours : bool
        Whether the layers become Linear of the domain "qnumpy": then a Mul in front of the layers takes the factors
        that nothing else can, for Linear to take in.

    Returns
    -------
    dict of str to str
        Where the factors went, by name of a layer.
    """
    places: dict[str, str] = {}
    free = {x for x, of in readers.items() if fold(graph, x, np.ones(len(of.weights[0])), of.layers, dry=True)}
    wanted = {x: of for x, of in readers.items() if ours or x in free}
    if not wanted:
        return {}
    for x, (rows, reach) in _observed(owner, graph, wanted, batches).items():
        layers, weights, rotates = wanted[x]
        w = np.concatenate(weights, axis=1)
        form = Form(by_row, rotates, most)
        factor = best_factors(rows, reach, w, form, FREE_GAIN if x in free else PASS_GAIN)
        if factor is None:
            continue
        place = fold(graph, x, factor, layers)
        if place is None and ours:
            place = _divide(graph, x, factor, layers)
        if place is not None:
            places.update({layer.name: place for layer in layers})
    return places


def _observed(
    owner: str, graph: Graph, readers: Mapping[str, Readers], batches: list[dict[str, Array]]
) -> dict[str, tuple[Array, Array]]:
    """Return rows of each activation and the largest magnitude of each channel; of those that are finite."""
    shown, outputs, _ = tapped(graph.model, readers)
    engine = session(shown)
    kept: dict[str, list[Array]] = {name: [] for name in outputs}
    reach: dict[str, Array] = {}
    each = max(1, -(-ROWS // len(batches)))
    for values in run_batches(owner, engine, batches):
        for name, output in outputs.items():
            x = values[output]
            flat = x.reshape(-1, x.shape[-1])
            if not len(flat):
                continue
            kept[name].append(flat[:: max(1, len(flat) // each)][:each].astype(np.float32))
            reach[name] = np.maximum(reach.get(name, 0.0), np.abs(flat).max(axis=0))
    return {
        name: (np.concatenate(kept[name]), size.astype(np.float64))
        for name, size in reach.items()
        if np.isfinite(size).all()
    }


# ---- the graph ----


def fold(graph: Graph, x: str, factor: Array, layers: list[Layer], *, dry: bool = False) -> str | None:
    """Divide the channels of an activation where it is made, and multiply the weights of the layers that read it.

    Parameters
    ----------
    graph : Graph
    x : str
    factor : ndarray of float32, shape (K,)
    layers : list of Layer
        With weights that no other node reads.
    dry : bool, default False
        Change nothing.

    Returns
    -------
    str or None
        The operator that has the factors now; None where there is none that could take them for free.
    """
    nodes = [layer.node for layer in layers]
    users = graph.consumers(x)
    if len(users) != len(nodes) or any(not any(user is node for node in nodes) for user in users):
        return None
    found = _division(graph, x, factor)
    if found is None:
        return None
    place, edits = found
    if not dry:
        for node, slot, array in edits:
            node.input[slot] = graph.add(node.input[slot], array.astype(np.float32))
        _multiply(graph, factor, layers)
    return place


def _divide(graph: Graph, x: str, factor: Array, layers: list[Layer]) -> str:
    """Put a Mul before layers, which then read x divided by factors."""
    name = graph.name(f"{x}_smoothed")
    inverse = graph.add(f"{x}_smoothing", (1 / factor).astype(np.float32))
    graph.insert_before(layers[0].node, helper.make_node("Mul", [x, inverse], [name], name=name))
    for layer in layers:
        layer.node.input[0] = name
    _multiply(graph, factor, layers)
    return "Linear"


def _multiply(graph: Graph, factor: Array, layers: list[Layer]) -> None:
    for layer in layers:
        assert layer.weight is not None
        w = layer.weight.array * (factor[:, None] if layer.axis == 0 else factor)
        layer.node.input[1] = graph.add(layer.weight.name, w.astype(np.float32))


_Edit = tuple[Any, int, Array]


def _division(graph: Graph, tensor: str, factor: Array) -> tuple[str, list[_Edit]] | None:
    """Return what takes a division of a tensor, and the constants that nodes then read; None where nothing does.

    `factor` has the last axes of the tensor; it is 1 long where it does not vary.
    """
    edits: list[_Edit] = []
    while True:
        node = graph.producer(tensor)
        if node is None or node.domain not in _DEFAULT or graph.is_output(tensor) or node.output[0] != tensor:
            return None
        kind = node.op_type
        if kind in ("LayerNormalization", "MatMul", "Gemm", "Mul", "Div"):
            last = _last(graph, node, factor)
            if last is not None:
                return kind, [*edits, *last]
        step = _step(graph, node, factor)
        if step is None:
            return None
        slot, factor, changed = step
        edits += changed
        tensor = node.input[slot]
        if len(graph.consumers(tensor)) != 1:
            return None


def _last(graph: Graph, node: Any, factor: Array) -> list[_Edit] | None:
    """Return the constants with which a node returns its output divided; None where it has none of that kind."""
    if node.op_type in ("Mul", "Div"):
        for slot in (1,) if node.op_type == "Div" else (0, 1):
            c = _constant(graph, node.input[slot])
            if c is not None:
                changed = _over(c, factor if node.op_type == "Mul" else 1 / factor)
                return None if changed is None else [(node, slot, changed)]
        return None
    if factor.ndim != 1:
        return None
    if node.op_type == "LayerNormalization":
        shape, axis = graph.shape(node.output[0]), attribute(node, "axis", -1)
        slots = [i for i in (1, 2) if i < len(node.input) and node.input[i]]
        constants = [_constant(graph, node.input[i]) for i in slots]
        if axis != -1 and (shape is None or axis != len(shape) - 1):
            return None
        if any(c is None or c.shape != factor.shape for c in constants):
            return None
        return [(node, i, c / factor) for i, c in zip(slots, constants, strict=True) if c is not None]
    constant = graph.constant(node.input[1])
    w = _constant(graph, node.input[1])
    if w is None or constant is None or w.ndim != 2 or len(graph.consumers(constant.name)) > 1:
        return None
    if node.op_type == "MatMul":
        return [(node, 1, w / factor)] if w.shape[1] == len(factor) else None
    turned = bool(attribute(node, "transB", 0))
    if w.shape[0 if turned else 1] != len(factor):
        return None
    edits = [(node, 1, w / (factor[:, None] if turned else factor))]
    if len(node.input) > 2 and node.input[2]:
        c = _constant(graph, node.input[2])
        changed = None if c is None else _over(c, factor)
        if changed is None:
            return None
        edits.append((node, 2, changed))
    return edits


def _step(graph: Graph, node: Any, factor: Array) -> tuple[int, Array, list[_Edit]] | None:
    """Return the input of a node that can be divided in place of its output, its factors, and constants that change."""
    if node.op_type in ("Relu", "LeakyRelu", "Identity"):
        return 0, factor, []
    if node.op_type in ("Add", "Sub"):
        for slot in (0, 1):
            c = _constant(graph, node.input[slot])
            changed = None if c is None else _over(c, factor)
            if changed is not None:
                return 1 - slot, factor, [(node, slot, changed)]
        return None
    shapes = [graph.shape(name) for name in (node.output[0], node.input[0])]
    if any(shape is None for shape in shapes):
        return None
    after, before = shapes
    assert after is not None
    assert before is not None
    whole = factor.reshape((1,) * (len(after) - factor.ndim) + factor.shape)
    if node.op_type == "Transpose":
        order = attribute(node, "perm", list(range(len(after)))[::-1])
        return 0, _trimmed(whole.transpose(np.argsort(order))), []
    if node.op_type == "Reshape":
        spread = _reshaped(factor, after, before)
        return None if spread is None else (0, spread, [])
    if node.op_type == "MatMul" and len(after) > 1 and whole.shape[-2] == 1:  # the sums over rows of a right matrix
        right = graph.shape(node.input[1])
        if right is not None and len(right) == len(after) and graph.constant(node.input[1]) is None:
            fits = all(n == 1 or n == m for n, m in zip(whole.shape, right, strict=True))
            return (1, factor, []) if fits else None
    return None


def _reshaped(factor: Array, after: tuple[int | None, ...], before: tuple[int | None, ...]) -> Array | None:
    """Return factors of the last axes of a tensor for those that it had before a Reshape."""
    last = after[len(after) - factor.ndim :]
    if any(n is None for n in last):
        return None
    count = int(np.prod([n or 0 for n in last]))
    axes: list[int] = []
    for n in reversed(before):
        if int(np.prod(axes, dtype=np.int64)) == count:
            break
        if not n:
            return None
        axes.insert(0, n)
    if int(np.prod(axes, dtype=np.int64)) != count:
        return None
    spread = np.broadcast_to(factor, [n or 0 for n in last]).reshape(axes)
    for axis in range(spread.ndim):
        first = spread.take([0], axis)
        if (spread == first).all():
            spread = first
    return _trimmed(spread)


def _trimmed(factor: Array) -> Array:
    """Return factors without leading axes of length 1."""
    while factor.ndim > 1 and factor.shape[0] == 1:
        factor = factor[0]
    return factor


def _constant(graph: Graph, name: str) -> Array | None:
    constant = graph.constant(name)
    return None if constant is None or constant.array.dtype != np.float32 else constant.array


def _over(c: Array, factor: Array) -> Array | None:
    """Return a constant divided by factors; None where it would grow.

    A number stays one: onnxruntime knows GELU and others by their numbers, and runs them in one pass.
    """
    try:
        divided = c / factor
    except ValueError:  # of other lengths
        return None
    return divided if divided.size <= c.size else None
