"""Copies of models that share their parameters, so that no float weight is in memory twice."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn
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
        if parametrize.is_parametrized(module):
            plain = copy.deepcopy(module)
            for name in list(plain.parametrizations):  # type: ignore[call-overload]
                parametrize.remove_parametrizations(plain, name)
            memo[id(module)] = plain
    return copy.deepcopy(model, memo).eval()


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
