"""What folds into a layer: the batch normalisation and the ReLU behind it, and factors of channels into a norm before.

The model is traced, by torch.fx or, where that fails, by torch.export: only the graph tells that nothing else reads
what lies between two modules. A module that is called more than once, has hooks, or shares a parameter does not fold.
"""

import inspect
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..qat.batch_norm import fold_batch_norm
from ._library import array_of, tensor_of
from .recurrent import GRU, LSTM

__all__ = ["Folds", "find_folds", "fold_activations", "fold_batch_norms", "fold_smoothing"]

_NORMALISED = {  # the dimensions of what a layer returns, and the normalisation of their second one
    nn.Linear: (2, nn.BatchNorm1d),
    nn.Conv1d: (3, nn.BatchNorm1d),
    nn.Conv2d: (4, nn.BatchNorm2d),
}
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # in evaluation
_CLIPPING = (nn.ReLU, nn.Hardtanh)  # ReLU6 is a Hardtanh
_WHOLE = (nn.MultiheadAttention, nn.RNNBase, LSTM, GRU)  # nothing outside folds into their parts
_KNOWN = (*_NORMALISED, *_PASSING, *_CLIPPING, nn.modules.batchnorm._BatchNorm)
_FACTS = ("shape", "ndim", "dtype", "device", "size", "dim", "is_cuda")  # what is asked of a tensor but its values


class Folds(NamedTuple):
    """What folds, by names of modules.

    Attributes
    ----------
    batch_norms : dict of str to str
        The batch normalisation behind a Linear, Conv1d or Conv2d.
    activations : dict of str to str
        The ReLU, ReLU6 or Hardtanh behind a Linear, Conv1d or Conv2d, or behind its batch normalisation.
    norms : dict of str to tuple of str
        By norms whose gain multiplies what they return, such as LayerNorm and RMSNorm: the Linear layers that read it,
        where nothing else does.
    reason : str or None
        Why a model, or a part of it, could not be traced.
    """

    batch_norms: dict[str, str]
    activations: dict[str, str]
    norms: dict[str, tuple[str, ...]]
    reason: str | None = None

    def among(self, layers: Collection[str]) -> "Folds":
        """Return those folds that need none but the given layers."""
        lost = {name for layer, name in self.activations.items() if layer not in layers}
        return Folds(
            {layer: name for layer, name in self.batch_norms.items() if layer in layers},
            {layer: name for layer, name in self.activations.items() if name not in lost},
            {norm: readers for norm, readers in self.norms.items() if all(name in layers for name in readers)},
            self.reason,
        )


def find_folds(model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Folds:
    """Find what folds into the layers of a model.

    Parameters
    ----------
    model : Module
        It is not changed. Hooks of it, but those of the whole model, keep modules from folding.
    args, kwargs : optional
        An example of its inputs: by it torch.export traces a model that torch.fx cannot.

    Returns
    -------
    Folds
        Of a model that neither can trace: what lies inside those of its parts that torch.fx can, and the reason.
    """
    kwargs = dict(kwargs or {})
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        copy = deepcopy(model, shared).eval()  # what tracing writes into it, such as a cache, stays there
        leaves = _leaves(copy)
        try:
            search = _Search(copy, _traced(copy, leaves, args=args, kwargs=kwargs), leaves)
        except Exception as error:  # of any kind: the code of the model runs
            reason = f"torch.fx cannot trace {type(model).__name__}: {_first_line(error)}."
        else:
            return search.checked(search.folds(None), copy, args, kwargs)
        if args or kwargs:
            try:
                return _Search(copy, _exported(copy, leaves, args, kwargs), leaves).folds(None)
            except Exception as error:
                reason += f" torch.export cannot either: {_first_line(error)}."
        try:
            search = _Search(copy, _traced(copy, leaves, args=args, kwargs=kwargs, looks_inside=False), leaves)
        except Exception:  # as before
            return _Search(copy, _traced_parts(copy, leaves), leaves).folds(reason)
        return search.checked(search.folds(reason), copy, args, kwargs)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


# ---- graphs of calls ----


@dataclass
class _Call:
    """A call of a module or of a function, and the calls that read what it returns."""

    module: str | None  # None of a function, an input, an output
    inputs: list["_Call"] = field(default_factory=list)
    readers: list["_Call"] = field(default_factory=list)


class _Trace(NamedTuple):
    calls: list[_Call]
    touched: set[str]  # modules whose parameters are read outside of their calls


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Mapping[int, str], looks_inside: bool) -> None:
        super().__init__()
        self.leaves, self.looks_inside = leaves, looks_inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if id(m) in self.leaves or isinstance(m, _WHOLE):
            return True
        inside = self.looks_inside and any(id(part) in self.leaves for part in m.modules())
        return not inside and super().is_leaf_module(m, module_qualified_name)


def _leaves(model: nn.Module) -> dict[int, str]:
    """Return the first names of the modules that can fold, or that what folds passes through, by their identity."""
    return {id(m): name for name, m in model.named_modules() if isinstance(m, _KNOWN) or _has_gain(m)}


def _has_gain(module: nn.Module) -> bool:
    """Return whether `weight`, and `bias` if there is one, multiply the last axis of what a module returns.

    It is tried, since the norms of many models are classes of their own, some of which multiply by ``1 + weight``.
    """
    parameters = dict(module.named_parameters())
    size = getattr(parameters.get("weight"), "numel", int)()
    if not size or parameters.keys() - {"weight", "bias"} or any(v.shape != (size,) for v in parameters.values()):
        return False
    gain = parameters["weight"]
    factor = torch.tensor([1.0, 2.0, 0.5], dtype=gain.dtype, device=gain.device).repeat(-(-size // 3))[:size]
    x = torch.linspace(-3, 2, 6 * size).reshape(2, 3, size).to(gain)
    trial = deepcopy(module).eval()
    try:
        expected = trial(x) * factor
        for parameter in trial.parameters():
            parameter.mul_(factor)
        return bool(torch.equal(trial(x), expected))
    except Exception:  # of any kind: the module takes something else
        return False


def _traced(
    model: nn.Module,
    leaves: Mapping[int, str],
    prefix: str = "",
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    looks_inside: bool = True,
) -> _Trace:
    """Trace a module by torch.fx; arguments that the example lacks have their defaults."""
    fixed = {}
    signature = inspect.signature(model.forward)
    given = signature.bind_partial(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = given.get(name, parameter.default)
        if value is None or isinstance(value, bool | int | float | str):
            fixed[name] = value
    graph = _Tracer(leaves, looks_inside).trace(model, concrete_args=fixed or None)
    calls: dict[fx.Node, _Call] = {}
    touched: set[str] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            touched.add(prefix + str(node.target).rpartition(".")[0])
        if _asks_facts(node):
            continue
        call = calls[node] = _Call(prefix + str(node.target) if node.op == "call_module" else None)
        _connect(call, [calls[read] for read in node.all_input_nodes if read in calls])
    return _Trace(list(calls.values()), touched)


def _asks_facts(node: fx.Node) -> bool:
    name = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else None
    return name in _FACTS


def _connect(call: _Call, inputs: list[_Call]) -> None:
    call.inputs += inputs
    for read in inputs:
        read.readers.append(call)


def _traced_parts(model: nn.Module, leaves: Mapping[int, str]) -> _Trace:
    """Trace those parts of a model that torch.fx can; a container does not tell in which order its parts are called."""
    calls: list[_Call] = []
    touched: set[str] = set()
    waiting = [("", model)]
    seen = {id(model)}
    while waiting:
        path, module = waiting.pop()
        for name, part in module.named_children():
            if id(part) in seen or id(part) in leaves:
                continue
            seen.add(id(part))
            whole = f"{path}{name}."
            try:
                if isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                    raise TypeError
                trace = _traced(part, leaves, whole, looks_inside=False)
            except Exception:  # of any kind: the code of the model runs
                waiting.append((whole, part))
            else:
                calls += trace.calls
                touched |= trace.touched
    return _Trace(calls, touched)


def _exported(model: nn.Module, leaves: Mapping[int, str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Trace:
    """Trace a model by torch.export, and join the operators of each call of a module that can fold."""
    program = torch.export.export(_Tensors(model), tuple(args), dict(kwargs), strict=False)
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    owners = {name: _inside(target).rpartition(".")[0] for name, target in tensors.items()}
    calls: dict[fx.Node, _Call] = {}
    joined: dict[str, _Call] = {}
    order: list[_Call] = []
    touched: set[str] = set()
    for node in program.graph.nodes:
        if (node.op == "placeholder" and node.name in owners) or str(node.target).startswith("aten._assert"):
            continue
        if _changes_nothing(node):  # its result is the tensor that it got
            calls[node] = calls[node.all_input_nodes[0]]
            continue
        place = _leaf_of(model, leaves, node)
        if place is None:
            call = _Call(None)
            order.append(call)
        else:
            key, path = place
            if key not in joined:
                order.append(joined.setdefault(key, _Call(path)))
            call = joined[key]
        calls[node] = call
        touched |= {owners[read.name] for read in node.all_input_nodes if read.name in owners} - {call.module}
        read = [calls[read] for read in node.all_input_nodes if read in calls]
        _connect(call, [other for other in read if other is not call and not any(other is x for x in call.inputs)])
    return _Trace(order, touched)


def _changes_nothing(node: fx.Node) -> bool:
    """Return whether a node of torch.export casts a value of the model to its own type, or renames it."""
    if not str(node.target).startswith(("aten.to.", "aten.alias.", "aten.detach.")):
        return False
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    is_input = node.all_input_nodes[0].op == "placeholder"
    return not is_input and before.dtype == after.dtype and before.device == after.device


class _Tensors(nn.Module):
    """A model that returns all tensors of its result, whatever objects hold them: torch.export knows few classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return list(_tensors_in(self.model(*args, **kwargs), set()))


def _inside(path: str) -> str:
    """Return the name that a module or a parameter of `_Tensors` has in its model."""
    return "" if path == "model" else path.removeprefix("model.")


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in seen or isinstance(value, str | bytes | nn.Module | type):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple | set):
        parts = value
    else:
        parts = vars(value).values() if hasattr(value, "__dict__") else ()
    for part in parts:
        yield from _tensors_in(part, seen)


def _leaf_of(model: nn.Module, leaves: Mapping[int, str], node: fx.Node) -> tuple[str, str] | None:
    """Return the key of the call and the name of the outermost module that can fold and ran an operator."""
    for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
        path = _inside(path).partition("@")[0]  # of another call of the module
        if path and id(model.get_submodule(path)) in leaves:
            return key, path
    return None


# ---- what folds ----


class _Search:
    """The calls of a model, and which of its modules may change."""

    def __init__(self, model: nn.Module, trace: _Trace, leaves: Mapping[int, str]) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.calls = trace.calls
        self.leaves = leaves
        for call in self.calls:  # the first of the names of a module that has more
            if call.module is not None:
                call.module = leaves.get(id(self.modules[call.module]), call.module)
        self.counts = Counter(call.module for call in self.calls)
        uses = Counter(id(tensor) for m in model.modules() for tensor in m.parameters(recurse=False))
        self.fixed = trace.touched | {
            name
            for name, m in self.modules.items()
            if m._forward_hooks
            or m._forward_pre_hooks
            or any(uses[id(tensor)] > 1 for tensor in m.parameters(recurse=False))
        }

    def folds(self, reason: str | None) -> Folds:
        """Return what folds."""
        batch_norms: dict[str, str] = {}
        clipped: dict[str, list[str | None]] = {}
        norms: dict[str, tuple[str, ...]] = {}
        for call in self.calls:
            name = call.module
            module = None if name is None else self.modules[name]
            if name is None or module is None or name in self.fixed:
                continue
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                layer = self._layer_before(call)
                if layer is not None and self.counts[name] == 1 and self._fits(layer, module):
                    batch_norms[layer] = name
            elif isinstance(module, _CLIPPING):
                clipped.setdefault(name, []).append(self._layer_before(call, batch_norms))
            elif id(module) in self.leaves and not isinstance(module, _KNOWN) and self.counts[name] == 1:
                readers = self._linear_readers(call)
                if readers:
                    norms[name] = tuple(readers)
        activations = {
            layer: name
            for name, layers in clipped.items()
            if None not in layers
            for layer in layers
            if layer is not None
        }
        return Folds(batch_norms, activations, norms, reason)

    def _layer_before(self, call: _Call, batch_norms: Mapping[str, str] | None = None) -> str | None:
        """Return the layer whose result a call is the only one to read, through a batch normalisation that folds."""
        if len(call.inputs) != 1 or len(call.inputs[0].readers) != 1:
            return None
        (before,) = call.inputs
        if before.module is None:
            return None
        if batch_norms and before.module in batch_norms.values():
            return self._layer_before(before)
        free = self.counts[before.module] == 1 and before.module not in self.fixed
        return before.module if free and type(self.modules[before.module]) in _NORMALISED else None

    def _fits(self, layer: str, norm: nn.Module) -> bool:
        """Return whether a normalisation in evaluation is a factor and a summand for each output of a layer."""
        module: Any = self.modules[layer]
        outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        return (
            type(norm) is _NORMALISED[type(module)][1] and norm.running_var is not None and norm.num_features == outputs
        )

    def _linear_readers(self, call: _Call) -> list[str] | None:
        """Return the Linear layers that read a result; None where something else does."""
        found: list[str] = []
        for reader in call.readers:
            module = None if reader.module is None else self.modules[reader.module]
            if reader.module is None or reader.module in self.fixed or len(reader.inputs) != 1:
                return None
            if isinstance(module, _PASSING):
                more = self._linear_readers(reader)
                if more is None:
                    return None
                found += more
            elif type(module) is nn.Linear and self.counts[reader.module] == 1:
                found.append(reader.module)
            else:
                return None
        return found

    def checked(self, folds: Folds, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Folds:
        """Return the folds without the normalisations of another axis than that of the layer's outputs: run the model.

        The second axis is that of the outputs of a Linear only where it returns a matrix.
        """
        if not folds.batch_norms or not (args or kwargs):
            return folds
        lost: set[str] = set()

        def look(module: nn.Module, args: Any, y: Tensor) -> None:
            if y.ndim != _NORMALISED[type(module)][0]:
                lost.add(self.leaves[id(module)])

        hooks = [self.modules[layer].register_forward_hook(look) for layer in folds.batch_norms]
        try:
            model.eval()(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return folds._replace(
            batch_norms={layer: name for layer, name in folds.batch_norms.items() if layer not in lost},
            activations={layer: name for layer, name in folds.activations.items() if layer not in lost},
        )


# ---- folding ----


def fold_batch_norms(model: nn.Module, folds: Folds) -> None:
    """Move batch normalisations into the layers before them, by their running statistics.

    Parameters
    ----------
    model : Module
        It changes: the normalisations become Identity.
    folds : Folds
    """
    for layer, name in folds.batch_norms.items():
        module: Any = model.get_submodule(layer)
        norm: Any = model.get_submodule(name)
        gamma = torch.ones(norm.num_features) if norm.weight is None else norm.weight
        beta = torch.zeros(norm.num_features) if norm.bias is None else norm.bias
        bias = None if module.bias is None else array_of(module.bias)
        vectors = [array_of(v.detach().float()) for v in (gamma, beta, norm.running_mean, norm.running_var)]
        w, bias = fold_batch_norm(array_of(module.weight), bias, *vectors, epsilon=norm.eps)
        _replace(module, "weight", tensor_of(w))
        _replace(module, "bias", tensor_of(bias))
        model.set_submodule(name, nn.Identity())


def fold_activations(model: nn.Module, folds: Folds) -> dict[str, tuple[float | None, float | None]]:
    """Take out activation functions that bound what a layer returns; NaN stays NaN in both.

    Parameters
    ----------
    model : Module
        It changes: the functions become Identity.
    folds : Folds
        After a normalisation between the layer and the function has been folded.

    Returns
    -------
    dict of str to (low, high)
        The bounds by layer, as PackedWeight takes `clip`.
    """
    clips: dict[str, tuple[float | None, float | None]] = {}
    for layer, name in folds.activations.items():
        module: Any = model.get_submodule(name)
        clips[layer] = (module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else (0.0, None)
    for name in set(folds.activations.values()):
        model.set_submodule(name, nn.Identity())
    return clips


def fold_smoothing(model: nn.Module, folds: Folds, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move factors of the channels of x into the norms that make x, and their inverses into the weights that read it.

    Parameters
    ----------
    model : Module
        It changes. It stays the same function where the factors are powers of two.
    folds : Folds
    factors : mapping of str to Tensor of shape (in_features,)
        By names of Linear layers: what multiplies their x.

    Returns
    -------
    dict of str to Tensor
        The factors that no norm took, of layers that are unchanged: for ``Linear(smooth=)``.
    """
    rest = dict(factors)
    for name, readers in folds.norms.items():
        if any(layer not in rest or not torch.equal(rest[layer], rest[readers[0]]) for layer in readers):
            continue
        factor = rest[readers[0]]
        norm = model.get_submodule(name)
        for own, p in list(norm.named_parameters()):
            _replace(norm, own, p * factor.to(p))
        for layer in dict.fromkeys(readers):
            module: Any = model.get_submodule(layer)
            _replace(module, "weight", module.weight / factor.to(module.weight))
            del rest[layer]
    return rest


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a module another parameter, which no copy of the module shares."""
    before: Any = getattr(module, name)
    wants = before is not None and before.requires_grad
    setattr(module, name, nn.Parameter(value.detach(), requires_grad=wants))
