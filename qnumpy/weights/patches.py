"""Patches of images: the rows that the filters of a convolution multiply."""

import numpy as np

from .. import _args, _check
from .._typing import Array, RealLike
from ..ops.conv import Pair, pair, sides

__all__ = ["patches"]


def patches(
    x: RealLike,
    kernel: Pair,
    *,
    strides: Pair = 1,
    padding: Pair | tuple[int, int, int, int] = 0,
    dilations: Pair = 1,
) -> Array:
    """Return the patch of every output of a convolution as a row: the inputs that its filters multiply.

    ``patches(x, w.shape[2:]) @ w.reshape(len(w), -1).T`` is the convolution, with the outputs on the last axis. A
    MomentsObserver observes patches as the inputs of a layer: ``tap("conv", patches(x, 3, padding=1))``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (N, C, H, W)
        Of a convolution in groups: the channels of one group.
    kernel : int or (vertical, horizontal)
        The size of the filters, at least 1.
    strides : int or (vertical, horizontal), default 1
    padding : int, (vertical, horizontal) or (top, left, bottom, right), default 0
        Zeros around the image.
    dilations : int or (vertical, horizontal), default 1

    Returns
    -------
    ndarray, shape (N, oH, oW, C kH kW)
        In the dtype of x and in the order of a filter's elements; ``kH kW / strides`` times as large as x.

    Raises
    ------
    TypeError
        x is not real.
    ValueError
        x is not 4-D.
    TypeError, ValueError
        kernel, strides, padding or dilations: as in conv2d_integer.
    ValueError
        The kernel is larger than the padded image.

    Examples
    --------
    >>> patches(np.arange(9.0).reshape(1, 1, 3, 3), 2)[0, 0]
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.]])
    """
    owner = "patches"
    image, _ = _args.real(owner, "x", x)
    if image.ndim != 4:
        raise ValueError(_check.must(owner, "x", "4-D", f"shape {image.shape}"))
    size, steps = pair(owner, "kernel", kernel, 1), pair(owner, "strides", strides, 1)
    pads, gaps = sides(owner, padding), pair(owner, "dilations", dilations, 1)
    spans = tuple(gap * (length - 1) + 1 for gap, length in zip(gaps, size, strict=True))
    height, width = image.shape[2] + pads[0] + pads[2], image.shape[3] + pads[1] + pads[3]
    if spans[0] > height or spans[1] > width:
        raise ValueError(
            _check.must(owner, "kernel", "no larger than the padded image", f"{spans} over {(height, width)}")
        )
    if any(pads):
        image = np.pad(image, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(image, spans, axis=(2, 3))
    windows = windows[:, :, :: steps[0], :: steps[1], :: gaps[0], :: gaps[1]].transpose(0, 2, 3, 1, 4, 5)
    return (
        windows.reshape(*windows.shape[:3], -1)
        if image.size
        else np.empty((*windows.shape[:3], image.shape[1] * size[0] * size[1]), image.dtype)
    )
