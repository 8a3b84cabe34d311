"""Configurations for ``torchao.quantize_``, which swaps the layers of a model for those of qnumpy."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import _check
from ..granularity import PerGroup
from .config import Config, Method
from .convert import convert

try:
    from torchao.core.config import AOBaseConfig
    from torchao.quantization import register_quantize_module_handler
except ImportError as error:
    sentence = f"{__name__}: torchao must be installed: pip install torchao."
    raise ImportError(sentence, name="torchao") from error

__all__ = ["Int8Dynamic", "IntxWeightOnly"]


@dataclass
class Int8Dynamic(AOBaseConfig):  # type: ignore[misc]
    """int8 weights with a scale for each output, and x in uint8 by row as it comes.

    Parameters
    ----------
    method : {"minmax", "mse", "hqq"}
        How the weights are rounded, as in `Config`.

    Raises
    ------
    TypeError, ValueError
        As `Config`.

    Examples
    --------
    >>> from torchao import quantize_
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
    >>> quantize_(model, Int8Dynamic())
    >>> model[0]
    Linear(in_features=64, out_features=32, int8 per channel 0, x uint8 per row, Hadamard(64, seed=0), bias)
    """

    method: Method = "minmax"
    config: Config = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _without_data(self.method)
        self.config = Config(method=self.method)


@dataclass
class IntxWeightOnly(AOBaseConfig):  # type: ignore[misc]
    """Integer weights of few bits in groups; x is quantized for the product alone.

    Parameters
    ----------
    bits : int, default 4
        Of a weight, 2 to 8.
    group_size : int, default 32
        Inputs that share a scale: 16, 32, 64 or 128.
    method : {"minmax", "mse", "hqq", "offsets"}, optional
        How the weights are rounded, as in `Config`.

    Raises
    ------
    TypeError
        bits or group_size is not an integer.
    ValueError
        bits or group_size is another number.
    TypeError, ValueError
        As `Config`.

    Examples
    --------
    >>> from torchao import quantize_
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    >>> quantize_(model, IntxWeightOnly(bits=4))
    >>> model[0]
    Linear(in_features=64, out_features=32, int4 per group 32, x uint8 per group)
    """

    bits: int = 4
    group_size: int = 32
    method: Method | None = None
    config: Config = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits = _check.integer("IntxWeightOnly", "bits", self.bits)
        if not 2 <= bits <= 8:
            raise ValueError(_check.must("IntxWeightOnly", "bits", "2 to 8", str(bits)))
        group_size = _check.integer("IntxWeightOnly", "group_size", self.group_size)
        if group_size not in (16, 32, 64, 128):
            raise ValueError(_check.must("IntxWeightOnly", "group_size", "16, 32, 64 or 128", str(group_size)))
        _without_data(self.method)
        self.config = Config(
            mode="weights", dtype=f"int{bits}", granularity=PerGroup(group_size), method=self.method,
        )  # fmt: skip


def _without_data(method: Any) -> None:
    if method == "gptq":
        wanted = "another one: torchao.quantize_ takes no data"
        raise ValueError(_check.must("Config", "method", wanted, "'gptq'") + " Use qnumpy.torch.prepare and convert.")


@register_quantize_module_handler(Int8Dynamic)  # type: ignore[untyped-decorator]
@register_quantize_module_handler(IntxWeightOnly)  # type: ignore[untyped-decorator]
def _swapped(module: nn.Module, config: Int8Dynamic | IntxWeightOnly) -> nn.Module:
    """Return the module of codes; the module itself where `qnumpy.torch.report` would say why it stays as it is."""
    return convert(nn.Sequential(module), config.config)[0]  # type: ignore[index, no-any-return]
