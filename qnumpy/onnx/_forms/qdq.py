"""Quantized layers as float operators between DequantizeLinear and QuantizeLinear; onnxruntime fuses them."""

from typing import Any

from ..._typing import Array
from .codes import LayerCodes
from .writer import Writer

__all__ = ["dequantized_layer"]


def dequantized_layer(
    writer: Writer, node: Any, x: str, output: str, codes: LayerCodes, axis: int | None, stem: str, bias_stem: str
) -> None:
    """Append a convolution or a product of dequantized codes.

    Parameters
    ----------
    writer : Writer
    node : NodeProto
        Its attributes stay, but for alpha and beta, which the codes hold.
    x, output : str
        The dequantized input; the name of the result.
    codes : LayerCodes
    axis : int or None
        Of the weight's output channels.
    stem, bias_stem : str
        Names of the weight and the bias.
    """
    w = _dequantized(writer, stem, codes.codes, codes.scale, axis)
    inputs = [x, w]
    if codes.bias is not None:
        inputs.append(_dequantized(writer, bias_stem, codes.bias, codes.bias_scale, 0))
    layer = type(node)()
    layer.CopyFrom(node)
    del layer.input[:]
    layer.input.extend(inputs)
    layer.output[0] = output
    kept = [a for a in layer.attribute if a.name not in ("alpha", "beta")]
    del layer.attribute[:]
    layer.attribute.extend(kept)
    writer.nodes.append(layer)


def _dequantized(writer: Writer, stem: str, codes: Array, scale: Array, axis: int | None) -> str:
    one = axis is None
    inputs = [
        writer.constant(f"{stem}_quantized", codes),
        writer.constant(f"{stem}_scale", scale.reshape(()) if one else scale),
        writer.weight_zero_point(stem, () if one else scale.shape, codes.dtype),
    ]
    attributes = {} if axis is None else {"axis": axis}
    return writer.add("DequantizeLinear", inputs, writer.name(f"{stem}_dequantized"), **attributes)
