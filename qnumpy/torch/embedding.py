"""Embeddings of codes, and their operator qnumpy::embedding."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _check
from .._typing import Array, Float32Array
from ..arrays.base import CodedArray
from ..arrays.quantized import QuantizedArray
from ..granularity import PerTensor
from ..ops.layers import look_up
from ._layout import array_in, layout_of
from ._library import array_of, define, opened, tensor_of
from .modules import Quantized, kind

__all__ = ["Embedding"]


class _Table(NamedTuple):
    array: Any
    rows: tuple[Array, Float32Array] | None  # codes of int8 and their scales, where the kernel takes them


def _open(tensors: Sequence[Tensor], text: str) -> _Table:
    w: Any = array_in(layout_of(text), tensors, "weight")
    if not isinstance(w, QuantizedArray) or w.dtype != np.int8 or not w.qparams.symmetric:
        return _Table(w, None)
    scale = np.broadcast_to(w.scale, len(w)) if w.granularity == PerTensor() else w.scale
    by_row = scale.shape == (len(w),) and w.granularity.grid(w.shape)[:2] in ((1, len(w)), (1, 1))
    return _Table(w, (np.ascontiguousarray(w.codes), np.ascontiguousarray(scale)) if by_row else None)


def _look_up(ids: Tensor, tensors: Sequence[Tensor], layout: str) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32):
        got = str(ids.dtype).removeprefix("torch.")
        raise TypeError(_check.must("Embedding", "ids", "a tensor of int64 or int32", got))
    table, whole = opened(tensors, layout, _open), array_of(ids.contiguous())
    y = torch.empty((*ids.shape, table.array.shape[1]), dtype=torch.float32)
    if table.rows is not None:
        look_up("Embedding", whole, *table.rows, array_of(y))
    else:
        rows = array_of(y).reshape(-1, table.array.shape[1])
        table.array[whole.reshape(-1)].dequantize(out=rows)
    return y.to(_dtype(layout))


def _look_up_fake(ids: Tensor, tensors: Sequence[Tensor], layout: str) -> Tensor:
    shape = (*ids.shape, layout_of(layout).specs["weight"]["shape"][1])
    return torch.empty(shape, dtype=_dtype(layout), device=ids.device)


def _dtype(layout: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, layout_of(layout).options.get("dtype", "float32"))
    return dtype


embedding = define("embedding(Tensor ids, Tensor[] tensors, str layout) -> Tensor", _look_up, _look_up_fake)


class Embedding(Quantized):
    """Rows of a weight of codes: ``y = dequantize(w[ids])``.

    Parameters
    ----------
    w : QuantizedArray, MXArray, CodebookArray or OffsetArray, shape (num_embeddings, embedding_dim)
        int8 with a scale for each row is the fastest.
    padding_idx : int, optional
        As in torch.nn.Embedding, whose training it tells; y does not depend on it.
    dtype : torch.dtype, default torch.float32
        Of y: float32, float64, float16 or bfloat16, rounded once from float32.

    Attributes
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int or None

    Raises
    ------
    TypeError
        w is no quantized array; dtype is no such type.
    ValueError
        w has not two axes.

    Notes
    -----
    ids are int64 or int32; one outside [-num_embeddings, num_embeddings) raises IndexError.

    Examples
    --------
    >>> import qnumpy as qn, torch
    >>> w = np.array([[0.5, -1.0], [127.0, 3.0]], np.float32)
    >>> layer = Embedding(qn.quantize(w, granularity=qn.PerChannel(0)))
    >>> layer
    Embedding(2, 2, int8 per channel 0)
    >>> layer(torch.tensor([[1, 1, -2]]))
    tensor([[[127.0000,   3.0000],
             [127.0000,   3.0000],
             [  0.5039,  -1.0000]]])
    """

    def __init__(self, w: Any, *, padding_idx: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        owner = type(self).__name__
        if not isinstance(w, CodedArray):
            raise TypeError(_check.must(owner, "w", "a quantized array", _check.typed(w)))
        if dtype not in _DTYPES:
            names = _check.alternatives([str(known).removeprefix("torch.") for known in _DTYPES])
            raise TypeError(_check.must(owner, "dtype", names, str(dtype).removeprefix("torch.")))
        if w.ndim != 2:
            raise ValueError(_check.must(owner, "w", "2-D", f"shape {w.shape}"))
        super().__init__({"weight": w}, {"dtype": str(dtype).removeprefix("torch.")})
        self.num_embeddings, self.embedding_dim = w.shape
        self.padding_idx = padding_idx

    def dequantize(self) -> Tensor:
        """Return the weight as float32, (num_embeddings, embedding_dim)."""
        return tensor_of(np.ascontiguousarray(self.array().dequantize()))

    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.tensors(), self.layout)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        padding = [] if self.padding_idx is None else [f"padding_idx={self.padding_idx}"]
        return ", ".join([str(self.num_embeddings), str(self.embedding_dim), *padding, kind(self.array())])


_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
