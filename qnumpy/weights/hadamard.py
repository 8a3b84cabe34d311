"""Hadamard matrices that rotate the inputs of a layer and its weight."""

from ..ops.hadamard import Hadamard

__all__ = ["Hadamard", "hadamard"]


def hadamard(size: int, *, seed: int | None = 0) -> Hadamard:
    """Return a randomised Hadamard matrix: inputs and weights become easier to quantize, and their product stays.

    ``x @ w = h.apply(x) @ h.rotate(w)``: the matrix is orthogonal. Outliers of single inputs are spread over all of
    them, so 8-bit rows of ``h.apply(x)`` lose less than those of x.

    Parameters
    ----------
    size : int
        Inputs of the layer; even.
    seed : int or None, default 0
        Of the signs, in [0, 2**64); None: all are 1.

    Returns
    -------
    Hadamard
        With `apply`, `inverse`, `rotate` and `matrix`. ``PackedWeight(w, hadamard=h)`` applies it to x in the pass that
        quantizes x.

    Raises
    ------
    TypeError
        size is no integer.
    ValueError
        size is not even, in [2, 2**31).
    TypeError
        seed is no integer or None.
    ValueError
        seed is not in [0, 2**64).

    Notes
    -----
    Float32 additions in a fixed order. 2^k, 12 * 2^k and 20 * 2^k are one block; other sizes are equal blocks of the
    largest such number that divides them.

    Examples
    --------
    >>> from qnumpy import PackedWeight, PerChannel, quantize
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(64, 48)).astype(np.float32), rng.normal(size=(48, 8)).astype(np.float32)
    >>> x[:, 3] *= 50  # an outlier channel, as in transformers
    >>> h = hadamard(48)
    >>> plain = PackedWeight(quantize(w, granularity=PerChannel(1)))
    >>> turned = PackedWeight(quantize(h.rotate(w), granularity=PerChannel(1)), hadamard=h)
    >>> errors = [np.square(x @ packed - x @ w).mean() for packed in (plain, turned)]
    >>> bool(errors[1] < errors[0] / 3)
    True
    """
    result = Hadamard.__new__(Hadamard)
    result._set("hadamard", size, seed)
    return result
