"""Modules of PyTorch that hold several products: each becomes a layer of its own before layers are quantized."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from ._copies import move_hooks, replace_modules
from .attention import MultiheadAttention
from .config import Config
from .recurrent import GRU, LSTM

__all__ = ["SplitModule", "owner_of", "parts_of", "split_modules"]

_FORMS: dict[type, Any] = {nn.MultiheadAttention: MultiheadAttention, nn.LSTM: LSTM, nn.GRU: GRU}
SplitModule = MultiheadAttention | LSTM | GRU


def split_modules(model: nn.Module, config: Config) -> nn.Module:
    """Return a model in evaluation mode whose attentions and recurrent networks have a layer for each product.

    Parameters
    ----------
    model : Module
        It changes, but not the parameters; the new layers share their memory.
    config : Config
        A module is split where it selects one of the layers.
    """
    new: dict[nn.Module, nn.Module] = {}
    for name, module, form in _forms(model):
        if any(config.of(_join(name, part), layer, (name, module)) for part, layer in form.named_children()):
            new[module] = form
            move_hooks(module, form)
    return replace_modules(model, new) if new else model


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that `split_modules` makes if all are selected, by name."""
    return {_join(name, part): layer for name, _, form in _forms(model) for part, layer in form.named_children()}


def _forms(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Yield modules that can be split, with their names, and what they are split into."""
    for name, module in model.named_modules():
        form = _FORMS.get(type(module))
        if form is not None and _has_its_parameters(module):
            yield name, module, form.from_float(module)


_OF_ATTENTION = {f"{part}_proj_weight" for part in ("in", "q", "k", "v")} | {"in_proj_bias", "bias_k", "bias_v"}


def _has_its_parameters(module: Any) -> bool:
    """Return whether the weights are parameters, and no hooks make them, such as those of weight_norm."""
    if isinstance(module, nn.RNNBase):
        return set(module._parameters) == set(module._flat_weights_names)
    return module._parameters.keys() <= _OF_ATTENTION


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def owner_of(model: nn.Module, name: str) -> tuple[tuple[str, nn.Module], ...]:
    """Return the name and the module of which a layer is a part, if there is one: its configuration is theirs too."""
    parent = name.rpartition(".")[0]
    module = model.get_submodule(parent)
    return ((parent, module),) if name and isinstance(module, SplitModule) else ()
