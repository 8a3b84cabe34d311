"""The classes of modules that have a form of codes, and the layers of a model by them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..granularity import PerChannel, PerTensor
from ._layers import Kind, Layer, matrix_of, round_alone
from ._split import owner_of
from .config import Config
from .conv import Conv1d, Conv2d
from .embedding import Embedding
from .modules import Linear, Quantized

__all__ = ["KINDS", "find_layers"]

_MOST_INPUTS = 1 << 16  # 255 * 127 * K stays in int32
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


# ---- products ----


def _linear(layer: Layer) -> nn.Module:
    return Linear(layer.rounded(), layer.rounded_bias(), smooth=layer.smooth, **layer.product_options())


def _linear_reason(module: nn.Module, config: Config) -> str:
    kind = kind_of(type(module))
    inputs = _matrix(module).shape[0 if kind is not None and kind.matrix is _turned_matrix else 1]
    return f"sums of {inputs} products may leave int32" if config.quantizes_x and inputs >= _MOST_INPUTS else ""


def _matrix(module: nn.Module) -> Tensor:
    w: Any = module.weight
    return w


def _put(module: nn.Module, w: Tensor) -> None:
    module._parameters["weight"] = nn.Parameter(w, requires_grad=False)


def _turned_matrix(module: nn.Module) -> Tensor:
    return _matrix(module).t()


def _put_turned(module: nn.Module, w: Tensor) -> None:
    _put(module, w.t())


# ---- tables ----


def _embedding(layer: Layer) -> nn.Module:
    module: Any = layer.module
    codes = round_alone(matrix_of(module.weight), layer.config) if layer.codes is None else layer.codes
    return Embedding(codes, padding_idx=module.padding_idx, dtype=module.weight.dtype)


def _embedding_reason(module: Any, config: Config) -> str:
    return "" if module.max_norm is None else "max_norm changes its weight in each call"


# ---- convolutions ----


def _conv(layer: Layer) -> nn.Module:
    module: Any = layer.module
    config, w = layer.config, matrix_of(module.weight)
    if not isinstance(config.granularity, PerTensor | PerChannel):
        config = replace(
            config, granularity=PerChannel(0), method="mse" if config.method == "offsets" else config.method
        )
    codes = round_alone(w.reshape(len(w), -1), config).reshape(w.shape)
    return (Conv1d if w.ndim == 3 else Conv2d)(
        codes, layer.rounded_bias(), stride=module.stride, padding=module.padding, dilation=module.dilation,
        groups=module.groups, clip=layer.clip, x_qparams=layer.x_qparams,
    )  # fmt: skip


def _conv_reason(module: Any, config: Config) -> str:
    if not config.quantizes_x:
        return f"convolutions have no kernel for {config.dtype}"
    return "" if module.padding_mode == "zeros" else f"its padding_mode is {module.padding_mode!r}, not 'zeros'"


# ---- the table ----

KINDS: dict[type | str, Kind] = {  # a class by its name is one of a package that need not be installed
    nn.Linear: Kind(_linear, _linear_reason, _matrix, _put),
    "transformers.pytorch_utils.Conv1D": Kind(_linear, _linear_reason, _turned_matrix, _put_turned),
    nn.Embedding: Kind(_embedding, _embedding_reason, observes=False, by_row=True),
    nn.Conv1d: Kind(_conv, _conv_reason),
    nn.Conv2d: Kind(_conv, _conv_reason),
}


def kind_of(cls: type) -> Kind | None:
    return KINDS.get(cls) or KINDS.get(f"{cls.__module__}.{cls.__qualname__}")


# Modules that may fold into the layer before them.
FOLDING = (nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.Hardtanh)


# ---- the layers of a model ----


def find_layers(model: nn.Module, config: Config) -> list[Layer]:
    """Return the modules with weights, in the order of the model: those that are converted, and those with a reason."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    layers = []
    for module in _weighted(model, set()):
        name = names[module][0]
        own, kind = config.of(name, module, *owner_of(model, name)), _kind(module)
        if own is config and kind is not None and kind.by_row:
            own = _by_row(config)
        layer = Layer(name, module, kind, config if own is None else own)
        layer.reason = "the configuration leaves it as it is" if own is None else _reason(layer)
        if len(names[module]) > 1:
            layer.notes.append(f"also {', '.join(names[module][1:])}")
        layers.append(layer)
    _tie(layers, model)
    return layers


def _weighted(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield modules that have a kind or weights of their own; what lies within one of a kind belongs to it."""
    if module in seen or isinstance(module, Quantized):
        return
    seen.add(module)
    known = any(kind_of(cls) for cls in type(module).__mro__)
    if known or any(p is not None and _is_matrix(p) for p in module._parameters.values()):
        yield module
    if not known and not isinstance(module, nn.MultiheadAttention):  # which reads the weight of its part
        for name, child in module._modules.items():
            if child is not None and name != "parametrizations":
                yield from _weighted(child, seen)


def _is_matrix(p: Tensor) -> bool:
    return nn.parameter.is_lazy(p) or p.dim() > 1


def _kind(module: nn.Module) -> Kind | None:
    """Return the kind of a module; that of its base class where it adds nothing to how that one computes."""
    cls = type(module)
    if parametrize.is_parametrized(module):  # a class made for this module, derived from its own
        cls = cls.__bases__[0]
    found = kind_of(cls)
    if found is not None:
        return found
    for base in cls.__mro__[1:]:
        if (kind := kind_of(base)) is not None:
            same = all(getattr(cls, name) is getattr(base, name) for name in ("forward", "__call__", "__getattr__"))
            return kind if same else None
    return None


def _reason(layer: Layer) -> str:
    module, cls = layer.module, type(layer.module)
    if layer.kind is None:
        base = next((base.__name__ for base in cls.__mro__[1:] if kind_of(base)), None)
        return f"no module of codes computes what {cls.__name__} does" + (f" beyond {base}" if base else "")
    tensors = dict(module.named_parameters())
    if not tensors or (layer.is_product and "weight" not in (*module._parameters, *_parametrized(module))):
        return "its weight is no parameter: hooks make it, such as those of weight_norm"
    for name, p in tensors.items():
        if fault := _fault(p):
            return f"its {name} is {fault}"
    return layer.kind.reason(module, layer.config) if layer.kind.reason is not None else ""


def _parametrized(module: nn.Module) -> list[str]:
    return list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]


def _fault(p: Tensor) -> str:
    if nn.parameter.is_lazy(p):
        return "not made before the first call"
    if p.device.type != "cpu":
        return f"on the device {p.device.type}"
    if p.dtype not in _DTYPES:
        return f"of {str(p.dtype).removeprefix('torch.')}"
    if not p.numel():
        return f"empty, {tuple(p.shape)}"
    return "" if bool(p.detach().isfinite().all()) else "not finite"


def _by_row(config: Config) -> Config:
    return replace(
        config, dtype="int8", granularity=PerChannel(0), symmetric=True, method="minmax", smooth=False, hadamard=False
    )  # fmt: skip


# ---- weights of several modules ----


def _tie(layers: list[Layer], model: nn.Module) -> None:
    """Let modules that share a weight share its codes; where one of them stays as it is, the others do."""
    owners: dict[int, dict[nn.Module, str]] = {}
    for name, module in model.named_modules():
        for parameter, p in module._parameters.items():
            if p is not None and _is_matrix(p):
                owners.setdefault(id(p), {})[module] = f"{name}.{parameter}" if name else parameter
    by_module = {layer.module: layer for layer in layers}
    for modules in owners.values():
        if len(modules) < 2:
            continue
        tied = [by_module[module] for module in modules if module in by_module]
        shares = len(tied) == len(modules) and all(layer.converts and _shares(layer) for layer in tied)
        for layer in tied:
            others = ", ".join(name for module, name in modules.items() if module is not layer.module)
            if shares:
                layer.notes.append(f"codes of {others}")
                layer.tied = tied[0].name
                layer.config = _by_row(layer.config)
            elif layer.converts:
                layer.reason = f"its parameter is also {others}, which has no codes of the same rows"


def _shares(layer: Layer) -> bool:
    """Whether its weight is a matrix whose rows can have the codes of another module's."""
    return type(layer.module) in (nn.Linear, nn.Embedding)
