"""Activations between quantized layers, where those of PyTorch take as long as a product of codes."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.layers import gelu as fill_gelu
from ._library import array_of, define

__all__ = ["GELU"]


def _gelu(x: Tensor) -> Tensor:
    source = x.float().contiguous()
    y = torch.empty_like(source)
    fill_gelu(array_of(source), array_of(y))
    return y.to(x.dtype)


def _gelu_fake(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    wide = x.float()
    slope = 0.5 * (1 + torch.erf(wide / math.sqrt(2))) + wide * torch.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return (g * slope).to(g.dtype)


gelu = define("gelu(Tensor x) -> Tensor", _gelu, _gelu_fake, _backward, _save)


class GELU(nn.Module):
    """``(x / 2) (1 + erf(x / sqrt(2)))``, a stand-in of ``torch.nn.GELU()``.

    The error is below ``4e-7 max(1, |x|)``; NaN stays NaN. Computed in float32 and rounded once to the dtype of x.

    Examples
    --------
    >>> import torch
    >>> GELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    """

    def forward(self, input: Tensor) -> Tensor:
        return gelu(input)
