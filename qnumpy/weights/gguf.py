"""Weights in GGUF's block types, rounded by the importance of their inputs."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check
from .._typing import Float64Array, RealLike
from ..arrays.gguf import GGUFArray, gguf_type
from ..errors import CalibrationError
from ..ops.kquant import LARGEST, encode
from ..ops.moments import SecondMoment

__all__ = ["quantize_gguf"]


def quantize_gguf(w: RealLike, type: str, *, moments: SecondMoment | ArrayLike | None = None) -> GGUFArray:
    """Quantize a weight to blocks of a GGUF type, with the least weighted error that a search finds.

    The error is ``sum(E[x^2] * (w - level)**2)`` over the inputs x, or the plain squared error without moments. For
    each group many scales are tried: the codes are the nearest, rounded half to even, and scale and minimum follow from
    them by least squares; then d and dmin of the block and the integers of its groups.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16
        The inputs of the layer along the last axis, as PyTorch stores weights: (N, K). K is a multiple of the block:
        256 for the types with K in their name, else 32.
    type : str
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K" or "Q6_K".
    moments : array_like, shape (K,) or (K, K), or MomentsObserver, optional
        The second moment of the inputs, or its diagonal: llama.cpp's importance matrix.

    Returns
    -------
    GGUFArray
        The same bytes on every machine.

    Raises
    ------
    TypeError
        w is not real.
    ValueError
        type is unknown.
    ValueError
        w is 0-d, its last axis is no multiple of the block, or a weight is not finite or larger than 65504.
    TypeError
        moments are not real.
    ValueError
        moments are of another shape, or a diagonal element is negative or not finite.
    CalibrationError
        A MomentsObserver has seen nothing.

    Examples
    --------
    >>> import qnumpy as qn
    >>> w = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    >>> q = qn.weights.quantize_gguf(w, "Q4_K")
    >>> q
    GGUFArray((8, 512), Q4_K, 4.5 bits)
    >>> round(float(np.mean((q.dequantize() - w) ** 2)), 4) < 0.006
    True
    """
    owner = "quantize_gguf"
    source, _ = _args.real(owner, "w", w)
    kind = gguf_type(owner, "type", type)
    if source.ndim == 0 or source.shape[-1] % kind.size:
        requirement = f"of a last axis that is a multiple of {kind.size} for {kind.name}"
        raise ValueError(_check.must(owner, "w", requirement, f"shape {source.shape}"))
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(source, np.float32)
    magnitude = np.abs(x)
    if not (magnitude <= LARGEST).all():
        worst = source.reshape(-1)[int(np.argmin(magnitude.reshape(-1) <= LARGEST))]
        raise ValueError(_check.must(owner, "w", "finite, of magnitudes up to 65504", f"{float(worst):g}"))
    importance = None if moments is None else _importance(owner, moments, source.shape[-1])
    if importance is not None:
        importance = importance.reshape(-1, kind.size)
    data = encode(x.reshape(-1, kind.size), importance, kind)
    return GGUFArray(data.reshape(kind.bytes_shape(source.shape)), kind.name)


def _importance(owner: str, moments: Any, columns: int) -> Float64Array:
    """Return the importance of each input."""
    if isinstance(moments, SecondMoment):
        if not (hasattr(moments, "mean_") and int(moments.count_)):
            raise CalibrationError(_check.must(owner, "moments", "of one finite row or more", "none"))
        moments = moments.diagonal
    values = _check.reals(owner, "moments", moments)
    if values.shape == (columns, columns):
        values = values.diagonal()
    if values.shape != (columns,):
        requirement = f"of shape ({columns},) or ({columns}, {columns})"
        raise ValueError(_check.must(owner, "moments", requirement, f"shape {values.shape}"))
    exact = values.astype(np.float64)
    good = (exact >= 0) & np.isfinite(exact)
    if not good.all():
        raise ValueError(_check.must(owner, "moments", "finite and not negative", f"{exact[~good][0]:g}"))
    return exact
