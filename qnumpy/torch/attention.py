"""Attention whose four projections are layers of their own, so that each of them can hold codes."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import _check
from ._library import evaluated

__all__ = ["MultiheadAttention"]

# Takes the name of a weight, the weight (N, K) and its bias, and returns a layer.
MakeLayer = Callable[[str, Tensor, Tensor | None], nn.Module]


class MultiheadAttention(nn.Module):
    """torch.nn.MultiheadAttention in evaluation, with a layer for each projection.

    ``y = out_proj(softmax(q k^T / sqrt(head_dim) + masks) v)`` with ``q = q_proj(query)``, ``k = k_proj(key)`` and
    ``v = v_proj(value)``, by heads. The products of q, k and v are those of PyTorch, in the dtype of query.

    Parameters
    ----------
    q_proj, k_proj, v_proj, out_proj : Module
        Linear layers: those of qnumpy.torch hold codes.
    embed_dim, num_heads : int
    bias_k, bias_v : Tensor of shape (1, 1, embed_dim), optional
        A key and its value that every sequence gets, as ``add_bias_kv`` makes them.
    add_zero_attn : bool, default False
        Every sequence gets a key and a value of zeros.
    batch_first : bool, default False
        x is (batch, length, features), or (length, batch, features).

    Notes
    -----
    `forward` takes what torch.nn.MultiheadAttention takes. `is_causal` is a hint there and is not used: the mask that
    comes with it counts. An encoder of PyTorch calls this module; its fused kernel, which would read the weights of the
    projections, stays off since `in_proj_bias` is None.

    Examples
    --------
    >>> import torch
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> split = MultiheadAttention.from_float(attention)
    >>> x = torch.ones(1, 3, 8)
    >>> bool(torch.isclose(split(x, x, x)[0], attention(x, x, x)[0]).all())
    True
    """

    in_proj_weight: None = None
    in_proj_bias: None = None
    _qkv_same_embed_dim = False
    dropout = 0.0
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        out_proj: nn.Module,
        *,
        embed_dim: int,
        num_heads: int,
        bias_k: Tensor | None = None,
        bias_v: Tensor | None = None,
        add_zero_attn: bool = False,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = (int(getattr(layer, "in_features", embed_dim)) for layer in (k_proj, v_proj))
        self.add_zero_attn, self.batch_first = add_zero_attn, batch_first
        self.register_buffer("bias_k", bias_k)
        self.register_buffer("bias_v", bias_v)
        self.training = False

    @classmethod
    def from_float(cls, module: nn.MultiheadAttention, layer: MakeLayer | None = None) -> Self:
        """Return the module that does what one of PyTorch does.

        Parameters
        ----------
        module : torch.nn.MultiheadAttention
        layer : callable, optional
            ``layer(name, weight, bias)`` returns the layer with a weight (outputs, inputs); name is "q_proj", "k_proj",
            "v_proj" or "out_proj". By default it returns a torch.nn.Linear with these very weights.
        """
        make = linear_of if layer is None else layer
        names = ("q_proj", "k_proj", "v_proj")
        if module.in_proj_weight is not None:
            weights = list(module.in_proj_weight.chunk(3))
        else:
            weights = [getattr(module, f"{name}_weight") for name in names]
        biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
        q_proj, k_proj, v_proj = (make(*part) for part in zip(names, weights, biases, strict=True))
        out: Any = module.out_proj
        return cls(
            q_proj,
            k_proj,
            v_proj,
            make("out_proj", out.weight, out.bias),
            embed_dim=module.embed_dim,
            num_heads=module.num_heads,
            bias_k=None if module.bias_k is None else module.bias_k.detach(),
            bias_v=None if module.bias_v is None else module.bias_v.detach(),
            add_zero_attn=module.add_zero_attn,
            batch_first=module.batch_first,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError(_check.must("MultiheadAttention", "attn_mask", "a mask beside is_causal", "None"))
        batched = query.dim() == 3
        turned = batched and not self.batch_first
        if turned:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        elif not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            added += 1
            k, v = (
                torch.cat([x, bias.to(x.dtype).expand(len(x), 1, -1)], dim=1)
                for x, bias in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            added += 1
            k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        mask = self._mask(attn_mask, key_padding_mask, len(q), added, q.dtype)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            y = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            y = functional.scaled_dot_product_attention(q, k, v, mask)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y.transpose(0, 1) if turned else y, weights

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int, added: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Return what is added to the scores (batch, heads, queries, keys); keys that were added are not masked."""
        masks = []
        if attn_mask is not None:
            mask = _additive(attn_mask, dtype)
            masks.append(mask if mask.dim() == 2 else mask.unflatten(0, (batch, self.num_heads)))
        if key_padding_mask is not None:
            masks.append(_additive(key_padding_mask, dtype)[:, None, None])
        if not masks:
            return None
        return functional.pad(masks[0] if len(masks) == 1 else masks[0] + masks[1], (0, added))

    def train(self, mode: bool = True) -> Self:
        """Refuse to train; ``train(False)`` changes nothing."""
        evaluated("MultiheadAttention", mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def linear_of(name: str, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a torch.nn.Linear over the memory of a weight and a bias."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return layer.eval()
