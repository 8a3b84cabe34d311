"""Models of PyTorch: quantize their layers and run them on qnumpy's kernels, exactly, on any CPU.

``prepare(model, config)``, run data, ``convert``: the layers that a `Config` selects become modules of codes. The
operators are registered with PyTorch as ``torch.ops.qnumpy``: eager, compiled and exported models give the same bits.
Needs the extra ``torch``; modules load when a name of theirs is used.
"""

from typing import TYPE_CHECKING

from .._lazy import serve

if TYPE_CHECKING:
    from ._elements import dequantize as dequantize
    from ._elements import fake_quantize as fake_quantize
    from ._elements import lsq as lsq
    from ._elements import quantize as quantize
    from .attention import MultiheadAttention as MultiheadAttention
    from .config import Config as Config
    from .conv import Conv1d as Conv1d
    from .conv import Conv2d as Conv2d
    from .convert import convert as convert
    from .embedding import Embedding as Embedding
    from .files import load as load
    from .files import save as save
    from .modules import Linear as Linear
    from .onnx import to_onnx as to_onnx
    from .prepare import prepare as prepare
    from .qat import prepare_qat as prepare_qat
    from .recurrent import GRU as GRU
    from .recurrent import LSTM as LSTM
    from .report import report as report
    from .torchao import Int8Dynamic as Int8Dynamic
    from .torchao import IntxWeightOnly as IntxWeightOnly

# The module that holds a name.
_HOMES = {
    "Config": "config",
    "Conv1d": "conv",
    "Conv2d": "conv",
    "Embedding": "embedding",
    "GRU": "recurrent",
    "Int8Dynamic": "torchao",
    "IntxWeightOnly": "torchao",
    "LSTM": "recurrent",
    "Linear": "modules",
    "MultiheadAttention": "attention",
    "convert": "convert",
    "dequantize": "_elements",
    "fake_quantize": "_elements",
    "load": "files",
    "lsq": "_elements",
    "prepare": "prepare",
    "prepare_qat": "qat",
    "quantize": "_elements",
    "report": "report",
    "save": "files",
    "to_onnx": "onnx",
}

__all__ = [
    "GRU",
    "LSTM",
    "Config",
    "Conv1d",
    "Conv2d",
    "Embedding",
    "Int8Dynamic",
    "IntxWeightOnly",
    "Linear",
    "MultiheadAttention",
    "convert",
    "dequantize",
    "fake_quantize",
    "load",
    "lsq",
    "prepare",
    "prepare_qat",
    "quantize",
    "report",
    "save",
    "to_onnx",
]

if not TYPE_CHECKING:  # to a type checker any name would be an attribute
    serve(__name__, _HOMES, "torch", ["torch"])
