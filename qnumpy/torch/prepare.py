"""A model that records what its quantization needs, while data run through it."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .. import _check
from .._typing import Array, Float32Array
from ..observers import Observer
from ._copies import disable_fast_paths, sharing_copy
from ._kinds import find_layers
from ._layers import Layer
from ._library import array_of
from ._split import parts_of, split_modules
from .config import Config

__all__ = ["Record", "Rows", "Seen", "prepare", "record_of", "remove_record", "runs_again"]

_ATTRIBUTE = "_qnumpy_record"
_ROWS = 512  # of each activation that are kept to judge factors


class Rows:
    """Some rows of an activation, and the largest magnitude of each of its channels."""

    def __init__(self) -> None:
        self.reach: Array = np.zeros(0)
        self._kept: list[Float32Array] = []

    def add(self, x: Array) -> None:
        flat = x.reshape(-1, x.shape[-1])
        if not len(flat):
            return
        reach = np.abs(flat).max(axis=0).astype(np.float64)
        self.reach = np.maximum(self.reach, reach) if self.reach.size else reach
        self._kept.append(np.array(flat[:: -(-len(flat) // (_ROWS // 8))], np.float32))
        while len(self._kept) > 1 and sum(map(len, self._kept)) > _ROWS:  # every second batch of rows
            self._kept = self._kept[::2]

    def rows(self) -> Float32Array:
        return np.concatenate(self._kept)


@dataclass
class Seen:
    """What data tell of the input of one layer."""

    calls: int = 0
    observer: Observer | None = None
    rows: Rows | None = None

    def add(self, x: Array) -> None:
        self.calls += 1
        if self.observer is not None:
            self.observer.observe(x)
        if self.rows is not None:
            self.rows.add(x)


@dataclass
class Record:
    """What a prepared model holds beside its modules.

    Attributes
    ----------
    config : Config
    seen : dict of str to Seen
        By name of a layer.
    inputs : list of (tuple, dict)
        The arguments of calls of the model: all of them if the model runs again, else those of the first call.
    orders : list of list of str
        The layers that each of these calls met, in order.
    call : tuple of arguments and list of str, or None
        The call that runs.
    """

    config: Config
    seen: dict[str, Seen] = field(default_factory=dict)
    keeps_inputs: bool = False
    inputs: list[tuple[Any, Any]] = field(default_factory=list)
    orders: list[list[str]] = field(default_factory=list)
    call: tuple[tuple[Any, Any], list[str]] | None = None


class _Begin:
    """A hook before the forward of the whole model."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        record = self.record
        record.call = (kept((args, kwargs)), []) if not record.inputs or record.keeps_inputs else None


class _End:
    """A hook behind it: a call that raised an exception is none."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.record.call is not None:
            arguments, order = self.record.call
            self.record.inputs.append(arguments)
            self.record.orders.append(order)
            self.record.call = None


class _Look:
    """A hook before the forward of a layer."""

    def __init__(self, name: str, record: Record) -> None:
        self.name, self.record = name, record

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.record.call is not None:
            self.record.call[1].append(self.name)
        x = first_input(args, kwargs)
        if x is not None:
            self.record.seen[self.name].add(array_of(x.detach()))


def prepare(model: nn.Module, config: Config | None = None) -> nn.Module:
    """Return a copy of a model that records what `convert` needs; run data through it, as through the model.

    Hooks look at the inputs of the layers; modules, their names and the state_dict are those of the model, but that
    MultiheadAttention, LSTM and GRU have a layer for each product.

    Parameters
    ----------
    model : Module
        It does not change. The copy is in evaluation mode and has the same parameters, not copies of them, except
        that parametrizations are resolved.
    config : Config, optional

    Returns
    -------
    Module

    Raises
    ------
    TypeError
        model is no Module; config is no Config.
    ValueError
        model is a prepared one; a pattern of config matches no module.

    Notes
    -----
    Beside the ranges of each layer the copy keeps the arguments of its calls where the configuration needs them:
    those of all calls for the method "gptq", and for "static" together with smooth or hadamard; else of the first call.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from qnumpy.torch import convert
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> prepared = prepare(model, Config(mode="static"))
    >>> for _ in range(4):
    ...     _ = prepared(torch.randn(8, 16))
    >>> convert(prepared)[2]
    Linear(in_features=32, out_features=4, int8 per channel 0, x uint8 as given, bias)
    """
    config = check_model("prepare", model, config)
    prepared = split_modules(sharing_copy(model), config)
    record = Record(config)
    layers = [layer for layer in find_layers(prepared, config) if layer.converts]
    record.keeps_inputs = any(runs_again(layer) for layer in layers)
    prepared.register_forward_pre_hook(_Begin(record), with_kwargs=True)
    prepared.register_forward_hook(_End(record))
    for layer in layers:
        own = layer.config
        looks = own.quantizes_x and layer.kind is not None and layer.kind.observes
        observes = looks and own.mode == "static" and not runs_again(layer)
        record.seen[layer.name] = Seen(
            observer=own.observer_of_x() if observes else None,
            rows=Rows() if looks and own.smooth and layer.is_product else None,
        )
        layer.module.register_forward_pre_hook(_Look(layer.name, record), with_kwargs=True)
    disable_fast_paths(prepared)
    setattr(prepared, _ATTRIBUTE, record)
    return prepared


def check_model(owner: str, model: object, config: object) -> Config:
    """Return the configuration for a float model."""
    if not isinstance(model, nn.Module):
        raise TypeError(_check.must(owner, "model", "a Module", _check.typed(model)))
    if not (config is None or isinstance(config, Config)):
        raise TypeError(_check.must(owner, "config", "a Config", _check.typed(config)))
    if record_of(model) is not None:
        raise ValueError(_check.must(owner, "model", "a float model", "one that is prepared"))
    config = Config() if config is None else config
    config.check_patterns(owner, model, parts_of(model))
    return config


def record_of(model: nn.Module) -> Record | None:
    """Return the record of a prepared model, None of another one."""
    record = model.__dict__.get(_ATTRIBUTE)
    return record if isinstance(record, Record) else None


def remove_record(model: nn.Module) -> None:
    """Turn a prepared model into a float one: no record, no hooks of ours."""
    model.__dict__.pop(_ATTRIBUTE, None)
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Begin | _End | _Look)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def runs_again(layer: Layer) -> bool:
    """Whether `convert` runs the model: what it needs is known once other layers are chosen, or x is transformed."""
    own = layer.config
    transforms = own.mode == "static" and own.quantizes_x and (own.smooth or own.hadamard) and layer.is_product
    return transforms or (own.method == "gptq" and layer.is_product)


def first_input(args: Any, kwargs: Any) -> Tensor | None:
    """Return the first tensor of floats among the arguments of a layer."""
    values = (*args, *kwargs.values())
    return next((x for x in values[:1] if isinstance(x, Tensor) and x.is_floating_point()), None)


def kept(arguments: Any) -> Any:
    """Return a copy of the arguments of a call, which the call does not change."""
    leaves, spec = pytree.tree_flatten(arguments)
    return pytree.tree_unflatten(
        [leaf.detach().clone() if isinstance(leaf, Tensor) else copy.deepcopy(leaf) for leaf in leaves], spec
    )
