"""Codes of a layer's weight and bias, for products that 32 bits hold and saturating instructions compute exactly."""

from typing import NamedTuple

import numpy as np

from ..._check import TINY
from ..._typing import Array, Float32Array
from ...ops.gptq import descend, objective, refit, round_columns
from ...ops.grid_search import Levels
from ...ops.rounding import damped

__all__ = ["LayerCodes", "Moments", "layer_codes", "stored_codes"]

_PAIR = 128  # the largest sum of two weights whose products with 255 fit in int16
# factors of a scale that are tried
_FACTORS = (
    1.0, 0.64, 0.7, 0.76, 0.82, 0.88, 0.94, 1.03, 1.06, 1.1, 1.15, 1.2, 1.26, 1.33, 1.42, 1.55, 1.75, 2.0,
)  # fmt: skip
_BIAS = 2.0**30  # the largest bias in steps: the sum of products adds less than that below 33,000 inputs
_DAMPING, _SWEEPS = 0.05, 8  # of GPTQ and of the descent behind it
_DEAD = 2.0**23  # steps of the bias of a channel without weights: float32 has no more


class LayerCodes(NamedTuple):
    """The integer form of a layer: ``y = x_scale * scale * (sum (qx - Zx) codes + bias)``."""

    codes: Array  # int8, of the weight's shape
    scale: Float32Array  # of each output channel
    bias: Array | None  # int32, of each output channel
    bias_scale: Float32Array
    widened: int  # channels whose scale grew, for the bias or for pairs
    rounding: str  # "gptq" by moments, else "nearest"


class Moments(NamedTuple):
    """Of the inputs of a layer: what they are on average, and their second moment about that."""

    mean: Array
    covariance: Array


def layer_codes(
    w: Array,
    axis: int | None,
    bias: Array | None,
    x_scale: float,
    *,
    orders: tuple[tuple[int, ...], ...] | None,
    moments: Moments | None = None,
) -> LayerCodes:
    """Quantize a weight to int8, symmetric per output channel, and its bias to int32 in the scale of the products.

    A scale is the best of some around the largest magnitude over 127, by the squared error of the weight. The bias must
    fit in int32, and where `orders` are given the sum of two neighbours along the inputs must stay within 128, so that
    no product of a pair leaves int16.

    Parameters
    ----------
    w : ndarray of float32
    axis : int or None
        The axis of the output channels; None for one scale.
    bias : ndarray of float32, optional
    x_scale : float
    orders : tuple of orders of axes, optional
        Transpositions of (channel, ...) in which a runtime may lay out the inputs of a channel.
    moments : Moments, optional
        Of the inputs of each output, in the order of the weight. Then codes are those of the least squared error of the
        outputs, and the bias takes the mean of the rest.

    Returns
    -------
    LayerCodes
        The bias, and without moments the codes, are rounded half to even.
    """
    channels = 1 if axis is None else w.shape[axis]
    rows = (w.reshape(1, *w.shape) if axis is None else np.moveaxis(w, axis, 0)).astype(np.float64)
    flat = rows.reshape(channels, -1)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    scale = np.maximum(largest / 127, TINY)
    size = np.zeros(channels) if bias is None else np.abs(np.asarray(bias, np.float64)) / x_scale
    least = np.maximum(np.where(largest > 0, size / _BIAS, size / _DEAD), 1.0001 * TINY / min(x_scale, 1.0))
    scale = np.where((largest > 0) | (size > 0), np.maximum(scale, least), 1.0)
    index = np.arange(flat.shape[1]).reshape(rows.shape[1:])
    views = [index.transpose([d - 1 for d in order]).reshape(-1) for order in orders or ()]
    steps, codes = _searched(flat, scale.astype(np.float32), least.astype(np.float32), views)
    if moments is not None:
        steps, codes = _compensated(flat, steps, codes, least.astype(np.float32), views, moments)
        if bias is not None:
            change = flat - codes * steps.astype(np.float64)[:, None]
            bias = np.asarray(bias, np.float64) + change @ moments.mean
    product = (np.float32(x_scale) * steps).astype(np.float32)
    whole = None
    if bias is not None:
        limit = np.iinfo(np.int32).max
        whole = np.clip(np.rint(bias.astype(np.float64) / product), -limit, limit).astype(np.int32)
    shaped = codes.reshape(rows.shape)
    result = shaped[0] if axis is None else np.moveaxis(shaped, 0, axis)
    widened = int((steps > np.maximum(largest / 127, TINY) * (1 + 1e-6))[largest > 0].sum())
    rounding = "nearest" if moments is None else "gptq"
    return LayerCodes(np.ascontiguousarray(result), steps, whole, product, widened, rounding)


def _codes(flat: Array, scale: Array) -> Array:
    return np.clip(np.rint(flat / scale.astype(np.float64)[:, None]), -127, 127).astype(np.int8)


def _searched(flat: Array, scale: Float32Array, least: Float32Array, orders: list[Array]) -> tuple[Float32Array, Array]:
    """Return scales, not below the least, and codes of which no pair adds up to more than 128, in any of the orders.

    A narrow scale clips the largest weights, a wide one has large steps, and taking steps off a pair changes two codes:
    of the scales tried each channel takes the one of the least squared error.
    """
    best = np.full(len(flat), np.inf)
    scales, codes = scale.copy(), np.zeros(flat.shape, np.int8)
    for factor in _FACTORS:
        wider = np.maximum(scale * np.float32(factor), least)
        tried = _cut_pairs(_codes(flat, wider).astype(np.int16), orders)
        error = np.square(flat - tried * wider.astype(np.float64)[:, None]).sum(axis=1)
        better = error < best
        best[better], scales[better], codes[better] = error[better], wider[better], tried[better]
    return scales, codes


def _compensated(
    flat: Array, scale: Float32Array, codes: Array, least: Float32Array, orders: list[Array], moments: Moments
) -> tuple[Float32Array, Array]:
    """Return the scales and codes that change the outputs least, of those given and of GPTQ's on several grids.

    GPTQ rounds column by column, and those that follow make up for the error of each. Where pairs are bounded, codes of
    at most 64 need no cut, so that descent and a fit of the scales can follow.
    """
    n, k = flat.shape
    w = np.ascontiguousarray(flat, np.float32)
    h, factor, order, _ = damped(moments.covariance, _DAMPING)
    back = np.argsort(order)
    spread = np.ascontiguousarray(h[np.ix_(back, back)])
    zero = np.zeros((n, 1), np.int32)
    best_scale, best_codes = scale.copy(), codes.astype(np.int16)
    best = objective(w, spread, best_codes, scale[:, None], zero, k)

    def offer(tried: Array, steps: Float32Array) -> None:
        error = objective(w, spread, np.ascontiguousarray(tried, np.int16), steps[:, None], zero, k)
        better = error < best
        best[better], best_scale[better], best_codes[better] = error[better], steps[better], tried[better]

    limits = (127,) if not orders else (127, _PAIR // 2)
    for limit in limits:
        levels = Levels(-limit, limit, 0, 0)
        base = np.maximum(np.abs(w).max(axis=1), TINY) / np.float32(limit)
        factors = (0.8, 0.9, 1.0) if limit < 127 or not orders else (1.0, 1.15, 1.33, 1.55, 1.8)
        for by in factors:
            steps = np.maximum(base * np.float32(by), least).astype(np.float32)
            tried = round_columns(w, factor, order, steps[:, None], zero, k, levels)
            if not orders or limit < 127:
                tried = descend(w, spread, tried, steps[:, None], zero, k, levels, _SWEEPS)
                fitted = refit(w, spread, tried, steps[:, None], zero, k)
                fitted = np.maximum(fitted, least[:, None])
                offer(descend(w, spread, tried, fitted, zero, k, levels, _SWEEPS), fitted[:, 0])
            else:
                offer(_cut_pairs(tried, orders), steps)
    return best_scale, best_codes.astype(np.int8)


def _cut_pairs(codes: Array, orders: list[Array]) -> Array:
    """Take steps off the codes of pairs whose sum exceeds 128, half off each; sums in no order grow by that."""
    for _ in range(8):
        done = True
        for order in orders:
            left, right = order[0:-1:2], order[1::2]
            a, b = codes[:, left], codes[:, right]
            total = a + b
            excess = np.abs(total) - _PAIR
            if (excess > 0).any():
                done = False
                cut = np.sign(total) * np.maximum(excess, 0)
                half = cut // 2
                codes[:, left], codes[:, right] = a - half, b - (cut - half)
        if done:
            break
    return codes


def stored_codes(w: Array, dtype: str = "int8") -> tuple[Array, Float32Array]:
    """Quantize a weight that is read as reals: codes in rows of neighbours in memory, and a scale for each row.

    Parameters
    ----------
    w : ndarray of float32
    dtype : {"int8", "int16"}

    Returns
    -------
    codes : ndarray of int8 or int16, shape (blocks, size)
        The size is a divisor of the number of elements, near 32; rounded half to even.
    scale : ndarray of float32, shape (blocks, 1)
    """
    top = np.iinfo(dtype).max
    blocks = w.reshape(-1, _block(w.size)).astype(np.float64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, np.maximum(largest / top, TINY), 1.0).astype(np.float32)
    return np.rint(blocks / scale.astype(np.float64)).clip(-top, top).astype(dtype), scale


def _block(size: int) -> int:
    """Return the divisor of a number that is nearest to 32, of those from 16 to 64; else the number itself."""
    return min((n for n in range(16, 65) if size % n == 0), key=lambda n: abs(n - 32), default=size)
