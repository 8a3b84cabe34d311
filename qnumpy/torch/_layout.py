"""What the tensors of a module stand for: a text, so that an operator of PyTorch takes it beside them.

The text is JSON: ``{"arrays": {name: description}, "options": {...}}``. A description is that of docs/file-format.md,
which also says which plain tensors hold an array; it is null for a plain one. ``w.scale`` of a file is the buffer
``w_scale`` of a module.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .._typing import Array
from ..files.spec import TensorSpec, options_from_json, options_to_json
from ._library import array_of, tensor_of

__all__: list[str] = []


class Layout(NamedTuple):
    """A text that was read."""

    specs: dict[str, Any]  # the descriptions; None of a plain array
    tensors: tuple[str, ...]  # the names of the plain tensors
    options: dict[str, Any]  # as the constructors of qnumpy take them


def describe(arrays: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return the layout of some arrays, and their plain tensors by name."""
    specs: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in arrays.items():
        spec = TensorSpec.of(value)
        specs[name] = None if spec.is_plain else spec.to_dict()
        tensors |= {part: tensor_of(np.asarray(array)) for part, array in spec.encode(name, value)}
    text = {"arrays": specs, "tensors": list(tensors), "options": options_to_json(options)}
    return json.dumps(text), tensors


@lru_cache(maxsize=4096)
def layout_of(text: str) -> Layout:
    """Return a layout that `describe` wrote."""
    values = json.loads(text)
    return Layout(values["arrays"], tuple(values["tensors"]), options_from_json(values["options"]))


def array_in(layout: Layout, tensors: Sequence[Tensor], name: str) -> Array:
    """Return an array of qnumpy over the memory of the tensors."""
    held = dict(zip(layout.tensors, map(array_of, tensors), strict=True))
    if layout.specs[name] is None:
        return held[name]
    spec = TensorSpec.from_dict(name, layout.specs[name], {part: (a.dtype, a.shape) for part, a in held.items()})
    value: Any = spec.decode(name, held.__getitem__)
    return value
