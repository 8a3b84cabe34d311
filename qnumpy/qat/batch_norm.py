"""Folding of batch normalisation into the layer before it."""

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check
from .._typing import Array
from ..granularity import normalize_axis

__all__ = ["fold_batch_norm"]


def fold_batch_norm(
    w: ArrayLike,
    bias: ArrayLike | None,
    gamma: ArrayLike,
    beta: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    epsilon: float = 1e-5,
    axis: int = 0,
) -> tuple[Array, Array]:
    """Return the weight and the bias of one layer that does what a layer and its batch normalisation do.

    ``w' = w gamma / sqrt(variance + epsilon)`` along the outputs, ``bias' = (bias - mean) gamma / sqrt(...) + beta``.

    Parameters
    ----------
    w : array_like of float32 or float64
    bias : array_like of shape (outputs,), optional
        None is 0.
    gamma, beta, mean, variance : array_like of shape (outputs,)
    epsilon : float, default 1e-5
    axis : int, default 0
        The axis of the outputs in w: 0 of a filter (outputs, inputs, ...), 1 of a matrix (inputs, outputs).

    Returns
    -------
    w, bias : ndarrays
        Of the dtype of w; computed in float64 and rounded once.

    Raises
    ------
    TypeError
        w is not float32, float64, float16 or bfloat16; axis is no integer; another argument is not real.
    ValueError
        axis is out of range; a vector is not as long as the outputs; variance + epsilon is not positive.

    Examples
    --------
    >>> w, bias = fold_batch_norm(np.ones((2, 3), np.float32), None, [2.0, 1.0], [0.0, 1.0], [1.0, 0.0], [4.0, 1.0],
    ...                           epsilon=0.0)
    >>> w[:, 0], bias
    (array([1., 1.], dtype=float32), array([-1.,  1.], dtype=float32))
    """
    owner = "fold_batch_norm"
    weight, _ = _args.real(owner, "w", w)
    axis = normalize_axis(owner, _check.integer(owner, "axis", axis), weight.ndim)
    outputs = weight.shape[axis]
    given = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    given["bias"] = np.zeros(outputs) if bias is None else bias
    vectors = {name: _check.reals(owner, name, value).astype(np.float64) for name, value in given.items()}
    for name, vector in vectors.items():
        if vector.shape != (outputs,):
            raise ValueError(_check.must(owner, name, f"of shape ({outputs},)", f"shape {vector.shape}"))
    if not _check.is_number(epsilon):
        raise TypeError(_check.must(owner, "epsilon", "a real number", _check.typed(epsilon)))
    spread = vectors["variance"] + float(epsilon)
    if not (spread > 0).all():
        raise ValueError(_check.must(owner, "variance + epsilon", "positive", str(spread.min())))
    factor = vectors["gamma"] / np.sqrt(spread)
    along = factor.reshape([-1 if d == axis else 1 for d in range(weight.ndim)])
    folded = (vectors["bias"] - vectors["mean"]) * factor + vectors["beta"]
    return (weight * along).astype(weight.dtype), folded.astype(weight.dtype)
