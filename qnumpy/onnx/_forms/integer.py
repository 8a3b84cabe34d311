"""Quantized layers as integer operators: QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger."""

from typing import Any

import numpy as np

from .._folds import attributes_of
from .codes import LayerCodes
from .writer import Writer

__all__ = ["conv_integer", "matmul_integer", "qlinear_conv", "qlinear_matmul"]


def qlinear_conv(
    writer: Writer, node: Any, x: tuple[str, str], y: tuple[str, str], codes: LayerCodes, stem: str
) -> None:
    """Append a convolution of codes to codes; x and y are pairs of a tensor and the name of its codes."""
    inputs = [x[1], *writer.params(x[0]), *_weight(writer, stem, codes), *writer.params(y[0])]
    if codes.bias is not None:
        inputs.append(writer.constant(f"{stem}_bias_quantized", codes.bias))
    writer.add("QLinearConv", inputs, y[1], **attributes_of(node))


def conv_integer(writer: Writer, node: Any, x: tuple[str, str], output: str, codes: LayerCodes, stem: str) -> None:
    """Append a convolution of codes to reals: int32 sums, the scales of the channels, the bias in float32."""
    sums = writer.name(f"{output}_sums")
    w = writer.constant(f"{stem}_quantized", codes.codes)
    writer.add("ConvInteger", [x[1], w, writer.params(x[0])[1]], sums, **attributes_of(node))
    ndim = codes.codes.ndim
    _reals(writer, sums, output, codes, stem, (1, -1, *[1] * (ndim - 2)))


def qlinear_matmul(writer: Writer, x: tuple[str, str], y: tuple[str, str], codes: LayerCodes, stem: str) -> None:
    """Append a product of codes to codes; the layer has no bias."""
    writer.add("QLinearMatMul", [x[1], *writer.params(x[0]), *_weight(writer, stem, codes), *writer.params(y[0])], y[1])


def matmul_integer(writer: Writer, x: tuple[str, str], output: str, codes: LayerCodes, stem: str) -> None:
    """Append a product of codes to reals: int32 sums, the scales of the columns, the bias in float32."""
    sums = writer.name(f"{output}_sums")
    w = writer.constant(f"{stem}_quantized", codes.codes)
    writer.add("MatMulInteger", [x[1], w, writer.params(x[0])[1]], sums)
    _reals(writer, sums, output, codes, stem, (-1,))


def _weight(writer: Writer, stem: str, codes: LayerCodes) -> list[str]:
    scale = codes.scale.reshape(()) if codes.scale.size == 1 and codes.codes.ndim > 2 else codes.scale
    return [
        writer.constant(f"{stem}_quantized", codes.codes),
        writer.constant(f"{stem}_scale", scale),
        writer.weight_zero_point(stem, scale.shape, np.int8),
    ]


def _reals(writer: Writer, sums: str, output: str, codes: LayerCodes, stem: str, shape: tuple[int, ...]) -> None:
    real = writer.add("Cast", [sums], writer.name(f"{output}_float"), to=1)
    product = output if codes.bias is None else writer.name(f"{output}_scaled")
    writer.add("Mul", [real, writer.constant(f"{stem}_product_scale", codes.bias_scale.reshape(shape))], product)
    if codes.bias is not None:
        bias = (codes.bias.astype(np.float64) * codes.bias_scale).astype(np.float32)
        writer.add("Add", [product, writer.constant(f"{stem}_bias", bias.reshape(shape))], output)
