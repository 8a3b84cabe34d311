"""`tap` names an array inside a callable, for whatever listens in the context: it may observe or replace the array."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar, cast

import numpy as np  # noqa: F401  # the example reads it

from .._typing import RealLike

__all__ = ["listener", "tap"]

_Real = TypeVar("_Real", bound=RealLike)

listener: ContextVar[Callable[[str, RealLike], RealLike] | None] = ContextVar("qnumpy.listener", default=None)


def tap(name: str, x: _Real) -> _Real:
    """Name an array for what listens: a calibration observes it, quantize_layers rounds the layer that it enters.

    Parameters
    ----------
    name : str
    x : array_like of float32, float64, float16 or bfloat16

    Returns
    -------
    array_like
        `x` itself; what the quantized layer multiplies, if `quantize_layers` also quantizes activations. Outside
        `observing`, `calibrate` and `quantize_layers`, `tap` does nothing else.

    Raises
    ------
    TypeError, ValueError
        The observer refuses x; a note names the array.

    Examples
    --------
    >>> def layer(x, w):
    ...     return np.maximum(tap("layer.in", x) @ w, 0)
    >>> from qnumpy import MinMaxObserver, observing
    >>> with observing(MinMaxObserver()) as seen:
    ...     _ = layer(np.array([[1.0, -2.0]]), np.eye(2))
    >>> dict(seen)
    {'layer.in': QParams(int8, per tensor, scale=0.01575, zero_point=0)}
    """
    listen = listener.get()
    return x if listen is None else cast(_Real, listen(name, x))
