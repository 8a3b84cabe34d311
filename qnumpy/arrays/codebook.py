"""CodebookArray: codes that name levels of a table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check
from .._index import Index
from .._packing import clean_rows
from .._typing import Array, DType, Float32Array, RealLike
from ..dtypes import CODE_TYPES, CodeType
from ..granularity import Granularity, Mesh, PerTensor
from .base import CodedArray, Slices

__all__ = ["CodebookArray", "Tables", "code_of_levels"]

_LEVELS = 256  # the most
_CODES = sorted((code for code in CODE_TYPES.values() if code.real is None and not code.signed and code.bits <= 8),
                key=lambda code: code.bits)  # fmt: skip

Change = Callable[[Granularity, Array], tuple[Granularity, list[Array]]]


def code_of_levels(levels: int) -> CodeType:
    """Return the narrowest unsigned type that counts so many levels."""
    return next(code for code in _CODES if code.levels >= levels)


class Tables(NamedTuple):
    """The levels and scales of a CodebookArray, and which elements share them."""

    codebook: Float32Array
    granularity: Granularity
    scale: Float32Array | None
    scale_granularity: Granularity | None

    @property
    def levels(self) -> int:
        return int(self.codebook.shape[-1])

    def places(self) -> Array:
        """Return the number of each table, in the shape of parameters."""
        shape = self.codebook.shape[:-1]
        return np.arange(int(np.prod(shape))).reshape(shape)

    def changed(self, change: Change) -> "Tables":
        """Return the tables of an array of other axes or indices."""
        granularity, (places,) = change(self.granularity, self.places())
        codebook = np.asarray(self.codebook.reshape(-1, self.levels)[places], order="C")
        if self.scale is None or self.scale_granularity is None:
            return Tables(codebook, granularity, None, None)
        scale_granularity, (scale,) = change(self.scale_granularity, self.scale)
        return Tables(codebook, granularity, np.asarray(scale, order="C"), scale_granularity)


class CodebookArray(CodedArray):
    """Codes that are indices into tables of levels; `qn.weights.codebook` returns one.

    ``x = codebook[code]``, or ``x = scale * codebook[code]``. There is one table for the array, or one for each
    channel, row or group of it; scales have a granularity of their own. NF4 has one table of 16 levels, and scales of
    groups along the last axis.

    Parameters
    ----------
    codes : ndarray of uint8, uint4 or uint2
        Below the number of levels. An element holds one code.
    codebook : array_like of floats, shape (levels,), (channels, levels), ...
        Finite; 2 to 256 levels for each table, along the last axis; the other axes are those of `granularity`.
    granularity : Granularity, optional
        Which elements share a table; PerTensor() by default.
    scale : array_like of floats, optional
        Positive, finite, normal in float32.
    scale_granularity : Granularity, optional
        Which elements share a scale, beside `scale`; PerTensor() by default.

    Attributes
    ----------
    codebook : ndarray of float32
    scale : ndarray of float32 or None

    Raises
    ------
    TypeError
        codes are of no unsigned code type of at most 8 bits.
    TypeError
        codebook is not real, or granularity no granularity.
    ValueError
        granularity does not fit codes; codebook is of another shape, has less than 2 or more than 256 levels, or is not
        finite in float32.
    ValueError
        A code is no index of a level.
    TypeError, ValueError
        scale is no scale or of another shape; scale_granularity is none, does not fit codes, or is without a scale.

    Notes
    -----
    Codes are held in the narrowest type that has so many codes, packed along the last axis as in a QuantizedArray.

    Examples
    --------
    >>> q = CodebookArray(np.array([[0, 1], [3, 2]], np.uint8), [-1.0, -0.25, 0.25, 1.0], scale=0.5)
    >>> q
    CodebookArray((2, 2), uint2, 4 levels per tensor, scale=0.5 per tensor)
    [[-0.5   -0.125]
     [ 0.5    0.125]]
    >>> q[0].codes, q.nbytes
    (array([0, 1], dtype=uint2), 22)
    """

    __slots__ = ("_code_type", "_tables")
    _type_label = "dtype"

    _code_type: CodeType
    _tables: Tables

    def __init__(
        self,
        codes: Array,
        codebook: RealLike,
        granularity: Granularity | None = None,
        *,
        scale: RealLike | None = None,
        scale_granularity: Granularity | None = None,
    ) -> None:
        owner = "CodebookArray"
        array, code = _args.codes(owner, "codes", codes, {code.name: code for code in _CODES})
        self._tables = _checked(owner, array.shape, codebook, granularity, scale, scale_granularity)
        plain = _args.plain(array, code)
        levels = self._tables.levels
        if plain.size and int(plain.max()) >= levels:
            raise ValueError(_check.must(owner, "codes", f"below {levels}, the number of levels", str(plain.max())))
        self._code_type = code_of_levels(levels)
        self._hold(plain.astype(np.uint8, copy=False).view(self._code_type.dtype))

    @classmethod
    def _of_held(cls, held: Array, shape: tuple[int, ...], tables: Tables) -> "CodebookArray":
        """Make an array of what another one held: codes, or rows of packed bytes; and of checked tables."""
        result = object.__new__(cls)
        result._memory, result._shape, result._tables = (held, None), shape, tables
        result._code_type = code_of_levels(tables.levels)
        return result

    @classmethod
    def _of_rows(cls, rows: Array, shape: tuple[int, ...], tables: Tables) -> "CodebookArray":
        """Make an array of rows of packed bytes, or of bytes, and of tables; check them."""
        owner = "CodebookArray"
        result = cls._of_held(rows, shape, Tables(*_checked(owner, shape, *tables)))
        code = result._code_type
        result._memory = clean_rows(rows, code, shape) if code.is_packed else rows.view(code.dtype), None
        if result.levels < code.levels and result.size:
            top = int(_args.plain(result.codes, code).max())
            if top >= result.levels:
                requirement = f"below {result.levels}, the number of levels"
                raise ValueError(_check.must(owner, "codes", requirement, str(top)))
        return result

    @property
    def _code(self) -> CodeType:
        return self._code_type

    @property
    def codebook(self) -> Float32Array:
        return self._tables.codebook

    @property
    def granularity(self) -> Granularity:
        """Which elements share a table of levels."""
        return self._tables.granularity

    @property
    def scale(self) -> Float32Array | None:
        return self._tables.scale

    @property
    def scale_granularity(self) -> Granularity | None:
        """Which elements share a scale; None without scales."""
        return self._tables.scale_granularity

    @property
    def levels(self) -> int:
        """The number of levels of a table."""
        return self._tables.levels

    @property
    def nbytes(self) -> int:
        """Bytes in memory and in a file: codes at their bit width, levels and scales."""
        scale = 0 if self.scale is None else self.scale.nbytes
        return self._code_type.packed_nbytes(self._shape) + self.codebook.nbytes + scale

    def dequantize(self, dtype: DType = "float32", out: Array | None = None) -> Array:
        """Return ``codebook[code]``, times the scale if there is one.

        Parameters
        ----------
        dtype : str or dtype, default "float32"
            float32, float64, float16 or bfloat16.
        out : ndarray, optional
            Exact dtype and shape, C-contiguous, writable.

        Returns
        -------
        ndarray
            Without scales exact in float32; else one float32 multiplication, rounded half to even. Other dtypes are
            converted from that value and rounded half to even.

        Raises
        ------
        TypeError
            dtype is no real type.
        TypeError, ValueError
            out: as in quantize_linear.
        """
        return self._reals("CodebookArray.dequantize", dtype, out)

    def _reals(self, owner: str, dtype: DType, out: Array | None) -> Array:
        return self._reals_in_bands(owner, dtype, out, self._reals_of)

    def _reals_of(self, codes: Array, index: Slices) -> Float32Array:
        t = self._tables
        levels = _levels(t, codes.view(np.uint8), t.granularity.expand(t.places(), index))
        if t.scale is None or t.scale_granularity is None:
            return levels
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(levels * t.scale_granularity.expand(t.scale, index))

    def _reals_at(self, codes: Array, mesh: Mesh) -> Array:
        t = self._tables
        levels = _levels(t, np.asarray(codes).view(np.uint8), t.granularity.at(t.places(), mesh))
        if t.scale is None or t.scale_granularity is None:
            return levels
        return np.asarray(levels * t.scale_granularity.at(t.scale, mesh))

    def _remade(self, held: Array, shape: tuple[int, ...], params: Tables) -> "CodebookArray":
        return self._of_held(held, shape, params)

    def _params_of_index(self, index: Index) -> Tables:
        return self._tables.changed(lambda granularity, values: granularity.sliced("CodebookArray", index, values))

    def _params_of_order(self, order: tuple[int, ...]) -> Tables:
        return self._tables.changed(lambda granularity, values: granularity.transposed(order, self._shape, values))

    def _params_of_shape(self, shape: tuple[int, ...]) -> Tables | None:
        t = self._tables
        granularity = t.granularity.reshaped(self._shape, shape)
        scale_granularity = None if t.scale_granularity is None else t.scale_granularity.reshaped(self._shape, shape)
        if granularity is None or (t.scale_granularity is not None and scale_granularity is None):
            return None
        codebook = t.codebook.reshape(*granularity.params_shape(shape), t.levels)
        if t.scale is None or scale_granularity is None:
            return Tables(codebook, granularity, None, None)
        return Tables(codebook, granularity, t.scale.reshape(scale_granularity.params_shape(shape)), scale_granularity)

    def _copied_params(self) -> Tables:
        t = self._tables
        return t._replace(codebook=t.codebook.copy(), scale=None if t.scale is None else t.scale.copy())

    def _describe(self) -> list[str]:
        parts = [self._code_type.name, f"{self.levels} levels {self.granularity.describe()}"]
        if self.scale is None or self.scale_granularity is None:
            return parts
        if self.scale.size:
            low, high = float(self.scale.min()), float(self.scale.max())
            text = f"{low:.4g}" if self.scale.ndim == 0 else f"{low:.4g}..{high:.4g} {self.scale.shape}"
            parts.append(f"scale={text} {self.scale_granularity.describe()}")
        return parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodebookArray):
            return NotImplemented
        a, b = self._tables, other._tables
        if (a.granularity, a.scale_granularity) != (b.granularity, b.scale_granularity):
            return False
        same = a.codebook.shape == b.codebook.shape and a.codebook.tobytes() == b.codebook.tobytes()
        if a.scale is not None and b.scale is not None:
            same = same and np.array_equal(a.scale, b.scale)
        return same and self._same_codes(other)

    def __reduce__(self) -> Any:
        # plain integers: pickles of ml_dtypes arrays depend on the version of ml_dtypes
        return _unpickle_held, (self._held.view(np.uint8), self._shape, tuple(self._tables))


def _unpickle_held(held: Array, shape: tuple[int, ...], tables: tuple[Any, ...]) -> CodebookArray:
    return CodebookArray._of_rows(held, shape, Tables(*tables))


def _levels(tables: Tables, indices: Array, places: Array) -> Float32Array:
    """Return the levels of codes, whose tables have the numbers `places`."""
    if not places.ndim:
        return np.asarray(tables.codebook.reshape(-1)[indices])
    return np.asarray(tables.codebook.reshape(-1)[indices + places * tables.levels])


def _checked(
    owner: str, shape: tuple[int, ...], codebook: Any, granularity: Any, scale: Any, scale_granularity: Any
) -> Tables:
    """Check the tables of an array of a shape."""
    numbers = _check.reals(owner, "codebook", codebook)
    with np.errstate(over="ignore"):
        books = np.ascontiguousarray(numbers, np.float32).reshape(numbers.shape)
    shared = PerTensor() if granularity is None else _args.granularity(owner, granularity)
    wanted = _args.layout_of(owner, shared, shape).shape
    if books.ndim == 0 or not 2 <= books.shape[-1] <= _LEVELS or books.shape[:-1] != wanted:
        sizes = ", ".join([*map(str, wanted), "levels"]) + ("," if not wanted else "")
        requirement = f"of shape ({sizes}) with 2 to {_LEVELS} levels"
        raise ValueError(_check.must(owner, "codebook", requirement, f"shape {books.shape}"))
    if not np.isfinite(books).all():
        raise ValueError(_check.must(owner, "codebook", "finite in float32", str(numbers[~np.isfinite(books)][0])))
    if scale is None:
        if scale_granularity is not None:
            got = _check.typed(scale_granularity)
            raise ValueError(_check.must(owner, "scale_granularity", "left out without scale", got))
        return Tables(books, shared, None, None)
    scales = _check.scale(owner, "scale", scale)
    own = PerTensor() if scale_granularity is None else _args.granularity(owner, scale_granularity, "scale_granularity")
    wanted = _args.layout_of(owner, own, shape).shape
    if scales.shape != wanted:
        raise ValueError(_check.must(owner, "scale", f"of shape {wanted}", f"shape {scales.shape}"))
    return Tables(books, shared, scales, own)
