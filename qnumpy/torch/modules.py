"""Modules whose weights are codes."""

import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from .. import _check
from ..arrays.mx import MXArray
from ..arrays.packed import PackedWeight
from ..arrays.storages import is_of_floats
from ._layout import array_in, describe, layout_of
from ._library import evaluated, tensor_of
from ._linear import linear, packed_weight

__all__ = ["Linear", "Quantized"]


class Quantized(nn.Module):
    """A module that holds arrays of qnumpy as buffers, for evaluation only.

    Attributes
    ----------
    layout : str
        What the buffers stand for; the state of the module holds it beside them.
    """

    layout: str

    def __init__(self, arrays: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> None:
        """Hold arrays by name, and options for the layout."""
        super().__init__()
        self.layout, tensors = describe(arrays, options or {})
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self._names = [name.replace(".", "_") for name in tensors]
        self.training = False

    def tensors(self) -> list[Tensor]:
        """Return the buffers in the order of the layout."""
        held: Any = self._buffers  # faster than the attributes of a module
        return [held[name] for name in self._names]

    def array(self, name: str = "weight") -> Any:
        """Return an array of qnumpy over the memory of the buffers."""
        return array_in(layout_of(self.layout), self.tensors(), name)

    def train(self, mode: bool = True) -> Self:
        """Refuse to train; ``train(False)`` changes nothing."""
        evaluated(type(self).__name__, mode)
        return super().train(mode)

    def get_extra_state(self) -> Tensor:
        """Return the layout as bytes, which every format of tensors holds."""
        return torch.frombuffer(bytearray(self.layout.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take a layout of the same arrays; the options may differ, such as the parameters of x."""
        text = bytes(state.tolist()).decode()
        if json.loads(text)["arrays"] != json.loads(self.layout)["arrays"]:
            wanted = "of the same arrays as the module"
            raise ValueError(_check.must(f"{type(self).__name__}.load_state_dict", "state_dict", wanted, text))
        self.layout = text


def kind(w: Any) -> str:
    """Return the type and the granularity of an array of qnumpy."""
    if isinstance(w, MXArray):
        return w.format
    return f"{w._code.name} {w.granularity.describe()}" if hasattr(w, "_code") else str(w.dtype)


class Linear(Quantized):
    """``y = x w^T + bias`` with a weight of codes, exactly as PackedWeight multiplies.

    Parameters
    ----------
    w : QuantizedArray, MXArray, CodebookArray or OffsetArray, shape (out_features, in_features)
        What PackedWeight takes with ``axis=1``.
    bias : array_like of floats, shape (out_features,), optional
    smooth : array_like of float32, shape (in_features,), optional
        Factors of the channels of x, whose inverses the weight holds.
    **options
        Of PackedWeight: clip, x_granularity, symmetric, activation_bits, x_qparams, scale_dtype, hadamard. By default x
        is quantized to uint8 with a scale and a zero point for each row, ``symmetric=False``.

    Attributes
    ----------
    in_features, out_features : int

    Raises
    ------
    TypeError, ValueError
        As PackedWeight.

    Notes
    -----
    x may be float32, float16, bfloat16 or float64; y has its dtype, rounded once from float32. Codes of x round half to
    even. The buffers are those of docs/file-format.md: `weight`, `weight_scale`, `weight_zero_point`, `bias`. The first
    call packs them.

    Examples
    --------
    >>> import qnumpy as qn, torch
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    >>> layer = Linear(qn.quantize(w, granularity=qn.PerChannel(0)))
    >>> layer
    Linear(in_features=4, out_features=3, int8 per channel 0, x uint8 per row)
    >>> layer(torch.ones(1, 4))
    tensor([[-2.9134,  0.0000,  2.9134]])
    """

    smooth: Tensor | None

    def __init__(self, w: Any, bias: Any = None, *, smooth: Any = None, **options: Any) -> None:
        if "x_qparams" not in options or options["x_qparams"] is None:
            options.pop("x_qparams", None)
            quantizes = not is_of_floats(w)
            options = {"symmetric": False, **options} if quantizes else options
        packed = PackedWeight(w, bias=bias, axis=1, **options)
        arrays = {"weight": w} if packed.bias is None else {"weight": w, "bias": packed.bias}
        super().__init__(arrays, options)
        self.out_features, self.in_features = int(w.shape[0]), int(w.shape[1])
        factors = None if smooth is None else tensor_of(np.array(smooth, np.float32))
        if factors is not None and factors.shape != (self.in_features,):
            wanted = f"of shape ({self.in_features},)"
            raise ValueError(_check.must("Linear", "smooth", wanted, f"shape {tuple(factors.shape)}"))
        self.register_buffer("smooth", factors)

    def packed(self) -> PackedWeight:
        """Return the weight as the kernels read it, (in_features, out_features)."""
        return packed_weight(self.tensors(), self.layout)

    def dequantize(self) -> Tensor:
        """Return the weight as float32, (out_features, in_features), for the x of the float model.

        Rotations and factors are taken back, so ``x @ layer.dequantize().T + bias`` is y without the rounding of x.
        """
        w = np.ascontiguousarray(self.array().dequantize())
        hadamard = self.packed().hadamard
        w = w if hadamard is None else hadamard.inverse(w)
        return tensor_of(w) if self.smooth is None else tensor_of(w) * self.smooth

    def forward(self, input: Tensor) -> Tensor:
        if self.smooth is None:
            return linear(input, self.tensors(), self.layout)
        return linear(input * self.smooth, self.tensors(), self.layout).to(input.dtype)

    def extra_repr(self) -> str:
        _, *product = self.packed()._describe()
        parts = [f"in_features={self.in_features}", f"out_features={self.out_features}", kind(self.array()), *product]
        return ", ".join(parts if self.smooth is None else [*parts, "smooth"])
