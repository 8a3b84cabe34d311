"""Codes of a layer's weight and bias, for products that 32 bits hold and saturating instructions compute exactly."""

from typing import NamedTuple

import numpy as np

from ..._check import TINY
from ..._typing import Array, Float32Array

__all__ = ["LayerCodes", "expanded", "layer_codes", "stored_codes"]

_PAIR = 128  # the largest sum of two weights whose products with 255 fit in int16
_BIAS = 2.0**30  # the largest bias in steps: the sum of products adds less than that below 33,000 inputs
_DEAD = 2.0**23  # steps of the bias of a channel without weights: float32 has no more


class LayerCodes(NamedTuple):
    """The integer form of a layer: ``y = x_scale * scale * (sum (qx - Zx) codes + bias)``."""

    codes: Array  # int8, of the weight's shape
    scale: Float32Array  # of each output channel
    bias: Array | None  # int32, of each output channel
    bias_scale: Float32Array
    widened: int  # channels whose scale grew, for the bias or for pairs


def layer_codes(
    w: Array, axis: int | None, bias: Array | None, x_scale: float, *, orders: tuple[tuple[int, ...], ...] | None
) -> LayerCodes:
    """Quantize a weight to int8, symmetric per output channel, and its bias to int32 in the scale of the products.

    A scale is the largest magnitude over 127, or more: the bias must fit in int32, and where `orders` are given the sum
    of two neighbours along the inputs must stay within 128, so that no product of a pair leaves int16.

    Parameters
    ----------
    w : ndarray of float32
    axis : int or None
        The axis of the output channels; None for one scale.
    bias : ndarray of float32, optional
    x_scale : float
    orders : tuple of orders of axes, optional
        Transpositions of (channel, ...) in which a runtime may lay out the inputs of a channel.

    Returns
    -------
    LayerCodes
        Codes and bias are rounded half to even.
    """
    channels = 1 if axis is None else w.shape[axis]
    rows = (w.reshape(1, *w.shape) if axis is None else np.moveaxis(w, axis, 0)).astype(np.float64)
    flat = rows.reshape(channels, -1)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    scale = np.maximum(largest / 127, TINY)
    if bias is not None:
        size = np.abs(bias.astype(np.float64)) / x_scale
        least = np.where(largest > 0, size / _BIAS, size / _DEAD)
        scale = np.where(largest > 0, np.maximum(scale, least), np.where(size > 0, np.maximum(least, TINY), 1.0))
    else:
        scale = np.where(largest > 0, scale, 1.0)
    scale = np.maximum(scale, 1.0001 * TINY / min(x_scale, 1.0))  # the scale of the products is normal too
    start = scale
    if orders is not None:
        scale = _paired(rows, scale, orders)
    steps = scale.astype(np.float32)
    codes = _codes(flat, steps)
    product = (np.float32(x_scale) * steps).astype(np.float32)
    whole = None
    if bias is not None:
        limit = np.iinfo(np.int32).max
        whole = np.clip(np.rint(bias.astype(np.float64) / product), -limit, limit).astype(np.int32)
    shaped = codes.reshape(rows.shape)
    result = shaped[0] if axis is None else np.moveaxis(shaped, 0, axis)
    widened = int((scale > np.maximum(largest / 127, TINY) * (1 + 1e-6))[largest > 0].sum())
    del start
    return LayerCodes(np.ascontiguousarray(result), steps, whole, product, widened)


def _codes(flat: Array, scale: Float32Array) -> Array:
    return np.clip(np.rint(flat / scale.astype(np.float64)[:, None]), -127, 127).astype(np.int8)


def _paired(rows: Array, scale: Array, orders: tuple[tuple[int, ...], ...]) -> Array:
    """Return scales under which no two neighbours of a channel add up to more than 128, in any of the orders."""
    views = [rows.transpose(0, *order).reshape(len(rows), -1) for order in orders]
    for _ in range(32):
        excess = np.ones(len(rows))
        for flat in views:
            if flat.shape[1] > 1:
                codes = _codes(flat, scale.astype(np.float32)).astype(np.int16)
                excess = np.maximum(excess, np.abs(codes[:, :-1] + codes[:, 1:]).max(axis=1) / _PAIR)
        if (excess <= 1).all():
            break
        scale = np.where(excess > 1, scale * np.maximum(excess, 1.0005), scale)
    return scale


def stored_codes(w: Array, axes: tuple[int, ...]) -> tuple[Array, Float32Array]:
    """Quantize a weight that is read as reals: int8 codes and a scale for each index of `axes`, in a shape that fits.

    Parameters
    ----------
    w : ndarray of float32
    axes : tuple of int

    Returns
    -------
    codes : ndarray of int8
    scale : ndarray of float32
    """
    over = tuple(d for d in range(w.ndim) if d not in axes)
    largest = np.abs(w.astype(np.float64)).max(axis=over, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, np.maximum(largest / 127, TINY), 1.0).astype(np.float32)
    return np.rint(w / scale.astype(np.float64)).clip(-127, 127).astype(np.int8), scale


def expanded(codes: Array, scale: Float32Array) -> Float32Array:
    """Return the reals that stored codes stand for."""
    return codes.astype(np.float32) * scale
