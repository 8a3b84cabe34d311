"""Copies of models that share their parameters, so that no float weight is in memory twice."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["disable_fast_paths", "move_hooks", "own_parameters", "replace_modules", "sharing_copy"]

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
          "_forward_pre_hooks_with_kwargs")  # fmt: skip


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model in evaluation mode whose parameters are those of the model.

    Parametrizations are resolved: the copy has the weights that they compute.
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    for module in model.modules():
        for value in vars(module).values():  # what hooks compute has a history, and deepcopy refuses it
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        if parametrize.is_parametrized(module):
            memo[id(module)] = copy.deepcopy(_plain(module), memo)
    return copy.deepcopy(model, memo).eval()


def _plain(module: Any) -> nn.Module:
    """Return a module of the class before its parametrization, with the values that parametrizations compute."""
    cls: Any = type(module).__bases__[0]
    plain: nn.Module = cls.__new__(cls)
    plain.__dict__ = {name: dict(own) if type(own) is dict else own for name, own in module.__dict__.items()}
    for name, parametrization in plain._modules.pop("parametrizations").items():  # type: ignore[union-attr, operator]
        value = copy.deepcopy(parametrization).eval()()  # in training it might write, as spectral_norm does
        plain._parameters[name] = nn.Parameter(value.detach())
    return plain


def replace_modules(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the place of others, wherever a module holds those; return the model."""
    if model in new:
        return new[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return model


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the hooks that ran before and after the forward of another one."""
    for name in _HOOKS:
        getattr(new, name).update(getattr(old, name))


def own_parameters(model: nn.Module) -> None:
    """Give a model parameters of its own, none of another model's; those that modules share stay shared."""
    own: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = own.setdefault(id(p), copy.deepcopy(p))


def disable_fast_paths(model: nn.Module) -> None:
    """Let the encoders of PyTorch call their layers: a fused kernel would read the float weights of these."""
    for module in _of(model, nn.TransformerEncoder):
        module.enable_nested_tensor = module.use_nested_tensor = False
    for module in _of(model, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0


def _of(model: nn.Module, cls: type) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, cls))
