"""Products with randomised Hadamard matrices: orthogonal, in a few additions for each element."""

import math
from typing import Any, NoReturn

import numpy as np

from .. import _args, _check, _core
from .._typing import Array, Float32Array, RealLike
from ..dtypes import REAL_TYPES, FloatType
from ..granularity import normalize_axis

__all__ = ["Hadamard"]

_NONE = (0, 0, None)
_ORDERS = (20, 12)  # of matrices that are no power of two, with as many factors of 2 as 4 has
_SEEDS = 2**64
_STEP, _MIX = np.uint64(0x9E3779B97F4A7C15), (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Hadamard:
    """An orthogonal matrix of signs: ``apply(x) @ rotate(w) = x @ w``.

    ``apply(x) = (x * signs / sqrt(block)) H``, with a symmetric Hadamard matrix H: its elements are 1 and -1, and
    ``H H = block I``. A large element of x becomes a small part of every element of its block, which an 8- or 4-bit
    grid then holds with a smaller error.

    H has 2^k, 12 * 2^k or 20 * 2^k rows. A size of that form is one block; others are equal blocks of the largest such
    number that divides them: 11008 = 43 * 256.

    Parameters
    ----------
    size : int
        Inputs of a layer; even.
    seed : int or None, default 0
        Of the signs, in [0, 2**64); None: all are 1.

    Attributes
    ----------
    size : int
    seed : int or None
    block : int

    Raises
    ------
    TypeError
        size is no integer.
    ValueError
        size is not even and positive.
    TypeError
        seed is no integer or None.
    ValueError
        seed is not in [0, 2**64).

    Notes
    -----
    Computed in float32; wider and narrower types are rounded to it first, half to even. The order of the additions is
    fixed: the same bits on every ISA and thread count. A result is within ``(log2(block) + 30) * 2**-24 * norm`` of the
    product with the orthogonal matrix, in the Euclidean norm of a block; ``inverse(apply(x))`` is within twice that of
    x. A block with NaN or infinity has no finite result; every NaN has the same bits.

    References
    ----------
    Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024. Paley, "On orthogonal matrices",
    1933: the matrices of orders 12 and 20.

    Examples
    --------
    >>> h = Hadamard(384)
    >>> x = np.zeros(384, np.float32)
    >>> x[7] = 100.0
    >>> round(float(np.abs(h.apply(x)).max()), 3), bool(np.allclose(h.inverse(h.apply(x)), x, atol=1e-5))
    (5.103, True)
    """

    __slots__ = ("_arguments", "block", "seed", "size")

    size: int
    seed: int | None
    block: int
    _arguments: tuple[int, int, Float32Array]

    def __init__(self, size: int, seed: int | None = 0) -> None:
        self._set(type(self).__name__, size, seed)

    def _set(self, owner: str, size: Any, seed: Any) -> None:
        size = _check.integer(owner, "size", size)
        if size < 2 or size % 2 or size >= 2**31:
            raise ValueError(_check.must(owner, "size", "even, in [2, 2**31)", str(size)))
        if seed is not None:
            seed = _check.integer(owner, "seed", seed)
            if not 0 <= seed < _SEEDS:
                raise ValueError(_check.must(owner, "seed", "in [0, 2**64), or None", str(seed)))
        order, block = _block_of(size)
        factors = np.full(size, 1 / math.sqrt(block), np.float32)
        if seed is not None:
            np.negative(factors, out=factors, where=_is_negative(size, seed))
        factors.flags.writeable = False
        arguments = block, order, factors  # as the kernels take them
        for name, value in (("size", size), ("seed", seed), ("block", block), ("_arguments", arguments)):
            object.__setattr__(self, name, value)

    def apply(self, x: RealLike, *, out: Float32Array | None = None) -> Float32Array:
        """Return the inputs of a layer, transformed along the last axis.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, shape (..., size)
        out : ndarray of float32, optional
            Of the shape of x; C-contiguous, writable, apart from x.

        Returns
        -------
        ndarray of float32, of the shape of x

        Raises
        ------
        TypeError
            x or out is of another type.
        ValueError
            The last axis of x has another length; out has another shape.
        """
        return self._transform("Hadamard.apply", x, out, inverse=False)

    def inverse(self, x: RealLike, *, out: Float32Array | None = None) -> Float32Array:
        """Return what `apply` transformed: the product with the transpose, which is the inverse.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, shape (..., size)
        out : ndarray of float32, optional
            As for `apply`.

        Returns
        -------
        ndarray of float32, of the shape of x

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._transform("Hadamard.inverse", x, out, inverse=True)

    def rotate(self, w: RealLike, *, axis: int = 0) -> Float32Array:
        """Return the weight for transformed inputs: ``apply(x) @ rotate(w) = x @ w``.

        Parameters
        ----------
        w : array_like of float32, float64, float16 or bfloat16
            `size` inputs along `axis`.
        axis : int, default 0
            1 for a weight of shape (outputs, inputs).

        Returns
        -------
        ndarray of float32, of the shape of w

        Raises
        ------
        TypeError
            w is not real, or axis is no integer.
        ValueError
            w does not have the axis, or it has another length.
        """
        owner = "Hadamard.rotate"
        weight, weight_type = _args.real(owner, "w", w)
        along = normalize_axis(owner, _check.integer(owner, "axis", axis), weight.ndim)
        if weight.shape[along] != self.size:
            wanted = f"of length {self.size} on axis {along}"
            raise ValueError(_check.must(owner, "w", wanted, f"shape {weight.shape}"))
        moved = np.moveaxis(weight, along, -1)
        rows = transform_rows(moved, weight_type, self, np.empty(moved.shape, np.float32), inverse=False)
        return np.ascontiguousarray(np.moveaxis(rows, -1, along))

    def matrix(self) -> Float32Array:
        """Return the matrix as an array: ``x @ matrix()`` is ``apply(x)``.

        Returns
        -------
        ndarray of float32, shape (size, size)
            Each element is 0 or ``1 / sqrt(block)``, rounded once, with a sign.
        """
        return self.apply(np.eye(self.size, dtype=np.float32))

    def to_dict(self) -> dict[str, Any]:
        """Return size and seed as a dict that JSON holds; `from_dict` reads it."""
        return {"size": self.size, "seed": self.seed}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Hadamard":
        """Return the Hadamard that `to_dict` described; raise TypeError or ValueError for anything else."""
        owner = "Hadamard.from_dict"
        if not isinstance(values, dict) or set(values) != {"size", "seed"}:
            raise TypeError(_check.must(owner, "values", "what Hadamard.to_dict returns", _check.typed(values)))
        result = object.__new__(cls)
        result._set(owner, values["size"], values["seed"])
        return result

    def _transform(self, owner: str, x: Any, out: Any, *, inverse: bool) -> Float32Array:
        source, source_type = _args.real(owner, "x", x)
        if not source.ndim or source.shape[-1] != self.size:
            raise ValueError(_check.must(owner, "x", f"of shape (..., {self.size})", f"shape {source.shape}"))
        y = _args.output(owner, out, REAL_TYPES["float32"].dtype, source.shape, source)
        return transform_rows(source, source_type, self, y, inverse=inverse)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Hadamard: a Hadamard must stay as it is; got a new value of {name}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hadamard) and (self.size, self.seed) == (other.size, other.seed)

    def __hash__(self) -> int:
        return hash((self.size, self.seed))

    def __reduce__(self) -> Any:
        return Hadamard, (self.size, self.seed)

    def __repr__(self) -> str:
        blocks = "" if self.block == self.size else f", {self.size // self.block} blocks of {self.block}"
        return f"Hadamard({self.size}, seed={self.seed}{blocks})"


def transform_rows(
    x: Array, x_type: FloatType, transform: Hadamard, out: Float32Array, *, inverse: bool
) -> Float32Array:
    """Fill `out` with x, transformed along the last axis."""
    size = transform.size
    rows = math.prod(x.shape[:-1])
    _core.hadamard(x, x_type.core, rows, size, *arguments(transform), inverse, out)
    return out


def arguments(transform: Hadamard | None) -> tuple[int, int, Float32Array | None]:
    """Return a transform as the kernels take it: block, order and factors."""
    return _NONE if transform is None else transform._arguments


def _block_of(size: int) -> tuple[int, int]:
    """Return the order and the size of the blocks."""
    power = size & -size
    for order in _ORDERS:
        if power >= 4 and size % order == 0:
            return order, order * (power // 4)
    return 1, power


def _is_negative(size: int, seed: int) -> Array:
    """Return which signs are -1: the highest bits of the numbers of splitmix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, size + 1, dtype=np.uint64) * _STEP
        z = (z ^ (z >> np.uint64(30))) * _MIX[0]
        z = (z ^ (z >> np.uint64(27))) * _MIX[1]
        return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(63) != 0)
