"""A model that runs again over recorded inputs: its weights are rounded by data, its activations observed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..observers.tap import tap
from ..weights._walks import of_quantized_model
from ..weights.layers import QuantizedLayers, quantize_layers
from ._layers import Layer, matrix_of
from ._library import array_of, tensor_of
from .config import codes_in_bytes
from .prepare import first_input, kept

__all__ = ["observe", "round_by_data"]

_Calls = Sequence[tuple[Any, Any]]


@contextmanager
def _hooked(hooks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let functions run before the forward of modules: behind the hooks that change x."""
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def observe(model: nn.Module, layers: Sequence[Layer], calls: _Calls) -> None:
    """Choose the parameters of x for layers from calls of the model, of x as their weights multiply it."""
    hooks, observers = {}, {}
    for layer in layers:
        observers[layer.name] = layer.config.observer_of_x()
        hooks[layer.module] = _observing(layer, observers[layer.name])
    with _hooked(hooks), torch.no_grad():
        for call in calls:
            args, kwargs = kept(call)
            model(*args, **kwargs)
    for layer in layers:
        layer.x_qparams = codes_in_bytes(observers[layer.name].qparams())


def _observing(layer: Layer, observer: Any) -> Callable[..., None]:
    factors = None if layer.smooth is None else tensor_of(layer.smooth)

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = first_input(args, kwargs)
        if x is not None:
            rows = array_of((x if factors is None else x * factors).detach().float().contiguous())
            observer.observe(rows if layer.rotation is None else layer.rotation.apply(rows))

    return look


def round_by_data(
    model: nn.Module, group: Sequence[Layer], others: dict[nn.Module, tuple[Layer, Any]], calls: _Calls
) -> QuantizedLayers:
    """Round the weights of layers of one configuration, each for the inputs that it gets from the rounded ones.

    Parameters
    ----------
    model : Module
        Its parameters stay, those of the layers and of `others` are replaced while it runs.
    group : sequence of Layer
        In the order of the calls, each in every call once.
    others : dict of Module to (Layer, array of qnumpy)
        Layers with their codes: the quantized model has these weights.
    calls : sequence of (tuple, dict)
    """
    config = group[0].config
    weights: dict[str, Any] = {}
    for layer in group:
        assert layer.kind is not None
        assert layer.kind.matrix is not None
        w: Any = matrix_of(layer.kind.matrix(layer.module))
        w = w if layer.smooth is None else w / layer.smooth
        bias: Any = layer.module.bias
        weights[layer.name] = w if bias is None else (w, array_of(bias.detach().float()))
    held = {
        layer.module: dict(layer.module._parameters) for layer in [*group, *(other for other, _ in others.values())]
    }
    hooks: dict[nn.Module, Callable[..., Any]] = {layer.module: _tapping(layer, weights) for layer in group}
    hooks |= {module: _alternating(layer, codes, held[module]) for module, (layer, codes) in others.items()}

    def run(call: tuple[Any, Any]) -> None:
        args, kwargs = kept(call)
        with torch.no_grad():  # of this thread
            model(*args, **kwargs)

    try:
        with _hooked(hooks):
            return quantize_layers(
                weights, run, list(calls), dtype=config.dtype, granularity=config.granularity,
                symmetric=config.symmetric or False, method="gptq", damping=config.damping,
                hadamard=group[0].rotation is not None,
                activations="int8" if config.mode == "dynamic" else None, progress=False,
            )  # fmt: skip
    finally:
        for module, parameters in held.items():
            module._parameters.update(parameters)


def _tapping(layer: Layer, weights: dict[str, Any]) -> Callable[..., Any]:
    """Return a hook that names x, and gives the layer the weight that the walk has for it then."""
    factors = None if layer.smooth is None else tensor_of(layer.smooth)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        x = first_input(args, kwargs)
        assert x is not None
        source = array_of((x if factors is None else x * factors).detach().contiguous())
        taken = tap(layer.name, source)
        entry = weights[layer.name]
        w, bias = entry if isinstance(entry, tuple) else (entry, None)
        _give(layer, w, bias, x.dtype)
        if taken is source and factors is None:
            return None
        y = tensor_of(np.asarray(taken)).to(x.dtype)
        if args:
            return (y, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): y}

    return enter


def _alternating(layer: Layer, codes: Any, held: dict[str, nn.Parameter | None]) -> Callable[..., None]:
    """Return a hook that gives a layer its rounded weight in calls of the quantized model."""
    w = np.ascontiguousarray(codes.dequantize())
    w = w if layer.rotation is None else layer.rotation.inverse(w)
    w = w if layer.smooth is None else w * layer.smooth

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        module._parameters.update(held)
        if of_quantized_model.get():
            own: Tensor = held["weight"]  # type: ignore[assignment]
            _give(layer, w, layer.bias, own.dtype)

    return enter


def _give(layer: Layer, w: Any, bias: Any, dtype: torch.dtype) -> None:
    assert layer.kind is not None
    assert layer.kind.put is not None
    layer.kind.put(layer.module, _tensor(w, dtype))
    if bias is not None:
        layer.module._parameters["bias"] = nn.Parameter(_tensor(bias, dtype), requires_grad=False)


def _tensor(array: Any, dtype: torch.dtype) -> Tensor:
    return tensor_of(array if array.flags.c_contiguous and array.flags.writeable else np.array(array)).to(dtype)
