"""What became of the layers of a model."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .. import _check
from .._tables import NamedTable, number

__all__ = ["ConvertedLayer", "Report", "attach", "report"]

_ATTRIBUTE = "_qnumpy_report"


@dataclass(frozen=True)
class ConvertedLayer:
    """What became of one module with weights.

    Attributes
    ----------
    name : str
        Of the module; of one that has several names the first.
    module : str
        Its class before.
    dtype : str
        Of its weights now.
    bytes_before, bytes_after : int
        Of its parameters and buffers.
    sqnr_db : float or None
        Of its weight; None for one that stays float or is exact.
    method : str
        What chose the codes; empty without codes.
    reason : str
        Why it stays float, or what its conversion leaves out.
    """

    name: str
    module: str
    dtype: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None = None
    method: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return asdict(self)


class Report(NamedTable[ConvertedLayer]):
    """The modules with weights in the order of the model: what is quantized, and why the others are not."""

    _left = 3
    _last_left = True

    def __init__(self, layers: Iterable[ConvertedLayer]) -> None:
        super().__init__(layers, ConvertedLayer, "layers")

    @property
    def skipped(self) -> dict[str, str]:
        """The reasons of the modules that stay float, by name."""
        return {layer.name: layer.reason for layer in self if not layer.method}

    def _head(self) -> list[str]:
        return ["layer", "module", "type", "bytes", "before", "SQNR dB", "method", "reason"]

    def _row(self, item: ConvertedLayer) -> list[str]:
        sizes = [f"{item.bytes_after:,}", f"{item.bytes_before:,}"]
        return [item.name, item.module, item.dtype, *sizes, number(item.sqnr_db), item.method, item.reason]

    def _foot(self) -> list[list[str]]:
        sums = [sum(item.bytes_after for item in self), sum(item.bytes_before for item in self)]
        return [[f"{len(self)} layers", "", "", *(f"{size:,}" for size in sums), "", "", ""]]


def attach(model: nn.Module, layers: Iterable[ConvertedLayer]) -> None:
    """Keep a report in a model; what an earlier conversion did to other layers stays in it."""
    new = {layer.name: layer for layer in layers}
    before = model.__dict__.get(_ATTRIBUTE, [])
    setattr(model, _ATTRIBUTE, [*(layer for layer in before if layer.name not in new), *new.values()])


def report(model: nn.Module) -> Report:
    """Return what `convert` did to the layers of a model.

    Parameters
    ----------
    model : Module

    Returns
    -------
    Report
        A table with a row for each module with weights: its type, its bytes, the error of its weight, and the reason
        if it stays float; as text, JSON or HTML.

    Raises
    ------
    TypeError
        model is no Module.
    ValueError
        model is none that `convert` returned.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from qnumpy.torch import convert
    >>> _ = torch.manual_seed(0)
    >>> report(convert(nn.ModuleList([nn.Linear(64, 64), nn.Bilinear(64, 8, 8)])))["1"].reason
    'no module of codes computes what Bilinear does'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(_check.must("report", "model", "a Module", _check.typed(model)))
    layers = model.__dict__.get(_ATTRIBUTE)
    if layers is None:
        text = _check.must("report", "model", "one that convert returned", f"a {type(model).__name__} without a report")
        raise ValueError(text)
    return Report(layers)
