"""CodedArray: the base of the arrays of codes."""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

from .. import _args, _check
from .._index import Index
from .._packing import pack_rows, pick, rows_are_even, unpack_rows
from .._tables import html_facts
from .._typing import Array
from ..dtypes import REAL_TYPES, CodeType, FloatType, real_type
from ..granularity import Mesh
from ..ops.cast import cast

__all__ = ["CodedArray", "Slices"]

Slices = tuple[slice, ...]

_BAND = 1 << 16  # reals that are computed at a time
_WHOLE, _EDGE = 64, 3  # a repr shows so many reals, of a larger array three at either end of an axis

_SHAPES: dict[Any, Callable[..., Any]] = {  # the functions of NumPy that need no elements
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
}
_PRODUCTS = {"matmul", "dot", "vdot", "inner", "einsum", "tensordot", "vecdot", "matvec", "vecmat"}
_INSTEAD = {
    **dict.fromkeys(_PRODUCTS, "Use qmatmul for a product of codes"),
    "concatenate": "Use qnumpy.concatenate to join codes",
    "array_equal": "Use == to compare codes",
    **{name: f"Use q.{name} for codes" for name in ("transpose", "reshape", "copy")},
}


class CodedArray(NDArrayOperatorsMixin):
    """An array of codes with the shape of the reals they stand for; ``np.asarray`` returns the reals.

    Codes narrower than a byte are held packed, as files hold them. A subclass has the parameters, and says how they
    follow an index, a transpose and a reshape.

    Attributes
    ----------
    _memory : (ndarray, tuple of int or None)
        The codes; or rows of packed bytes, along the last axis of ``self.transpose(order)``. None: the order of the
        axes is that of the array. One attribute, because `_held` replaces it while other threads may read it.
    """

    __slots__ = ("_memory", "_shape")

    _memory: tuple[Array, tuple[int, ...] | None]
    _shape: tuple[int, ...]
    _type_label: ClassVar[str]  # of the first item of _describe

    # ---- what a subclass has ----

    @property
    def _code(self) -> CodeType | FloatType:
        """The type of the codes."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes in memory, and in a file."""
        raise NotImplementedError

    def dequantize(self, dtype: DTypeLike = "float32", out: Array | None = None) -> Array:
        """Return the reals."""
        raise NotImplementedError

    def _describe(self) -> list[str]:
        """Return the type of the codes, then facts about their parameters."""
        raise NotImplementedError

    def _remade(self, held: Array, shape: tuple[int, ...], params: Any) -> Self:
        """Return an array of other codes and parameters."""
        raise NotImplementedError

    def _params_of_index(self, index: Index) -> Any:
        raise NotImplementedError

    def _params_of_order(self, order: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def _params_of_shape(self, shape: tuple[int, ...]) -> Any:
        """Return the parameters of a reshaped array, None if they do not follow."""
        raise NotImplementedError

    def _copied_params(self) -> Any:
        raise NotImplementedError

    def _reals_at(self, codes: Array, mesh: Mesh) -> Array:
        """Return the reals of the codes at a mesh of indices."""
        raise NotImplementedError

    # ---- the codes ----

    def _hold(self, codes: Array) -> None:
        """Keep codes, packed if they are narrower than a byte."""
        self._shape = codes.shape
        self._memory = (pack_rows(codes, self._code) if self._code.is_packed else codes), None

    def _reals_in_bands(
        self, owner: str, dtype: DTypeLike, out: Array | None, reals_of: Callable[[Array, Slices], Array]
    ) -> Array:
        """Return the reals, band by band: `reals_of` returns those of the codes at some slices, as float32."""
        real = _args.floating(owner, dtype)
        result = _args.output(owner, out, real.dtype, self._shape, self._memory[0])
        codes = self._unpacked() if self._code.is_packed else self._held
        for index in _bands(self._shape):
            reals = reals_of(codes[index], index)
            result[index] = reals if real.bits == 32 else cast(reals, real.name)
        return result

    @property
    def _held(self) -> Array:
        """The codes, or packed rows along the last axis; rows along another axis are repacked, and stay so."""
        held, order = self._memory
        if order is not None:
            held = pack_rows(self._unpacked(), self._code)
            self._memory = held, None
        return held

    def _unpacked(self) -> Array:
        held, order = self._memory
        if order is None:
            return unpack_rows(held, self._code, self._shape)
        codes = unpack_rows(held, self._code, tuple(self._shape[d] for d in order))
        return codes.transpose(_inverse(order))

    @property
    def codes(self) -> Array:
        """The codes, of `dtype`. Those narrower than a byte are unpacked on each access into a read-only array."""
        if not self._code.is_packed:
            return self._held
        codes = self._unpacked()
        codes.flags.writeable = False
        return codes

    @property
    def code_name(self) -> str:
        """The name of the type of the codes: "int4", also of types that no dtype tells from others."""
        return self._code.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the codes; `dequantize` and ``np.asarray`` return reals."""
        return self._code.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def size(self) -> int:
        return math.prod(self._shape)

    def copy(self) -> Self:
        """Return an array with its own memory."""
        return self._remade(self._held.copy(), self._shape, self._copied_params())

    # ---- indices and shapes ----

    def __getitem__(self, key: Any) -> Self:
        index = Index.of(type(self).__name__, key, self._shape)
        params = self._params_of_index(index)
        return self._remade(self._held_at(index), index.shape, params)

    def _held_at(self, index: Index) -> Array:
        """Return what the result of an index holds: a view if the index is basic and cuts no byte."""
        code, keys = self._code, index.keys
        if not code.is_packed:
            return np.asarray(self._held[keys])
        if not self._shape:
            codes = unpack_rows(self._held, code, ())[keys]
            return pack_rows(np.asarray(codes), code)
        last, columns = self.ndim - 1, self._shape[-1]
        at = index.axes.index(last)
        own = keys[at]
        if not isinstance(own, slice):
            return pick(self._held, code, self._shape, keys, at)
        start, stop, step = own.indices(columns)
        ends = start * code.bits % 8 == 0 and (stop * code.bits % 8 == 0 or stop == columns)
        if at == len(keys) - 1 and step == 1 and start <= stop and ends:
            return _with_rows(self._held[(*keys[:at], slice(start * code.bits // 8, -(-stop * code.bits // 8)))])
        rows = _with_rows(self._held[(*keys[:at], slice(None))])  # the keys behind `at` are new axes
        codes = unpack_rows(rows, code, (*rows.shape[:-1], columns))[..., own]
        return pack_rows(codes.reshape(index.shape), code)

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of unsized object")
        return self._shape[0]

    def __iter__(self) -> Iterator[Self]:
        return (self[k] for k in range(len(self)))

    @property
    def T(self) -> Self:  # noqa: N802
        """The transpose: all axes in reverse order."""
        return self.transpose()

    @property
    def mT(self) -> Self:  # noqa: N802
        """The transpose of the last two axes."""
        if self.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")
        return self.transpose(*range(self.ndim - 2), -1, -2)

    def transpose(self, *axes: Any) -> Self:
        """Return the array with its axes in another order; parameters follow.

        Parameters
        ----------
        *axes : ints, or one tuple of ints, optional
            The order of the axes; reversed by default.

        Returns
        -------
        array of the same class
            A view of the codes. Parameters per row become groups if the last axis moves.

        Raises
        ------
        TypeError
            An axis is not an integer.
        ValueError
            axes is no order of all axes.
        """
        owner, ndim = f"{type(self).__name__}.transpose", self.ndim
        given = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)) else axes or None
        order = tuple(range(ndim))[::-1]
        if given is not None:
            numbers = [_check.integer(owner, "axes", axis) for axis in given]
            order = tuple(axis + ndim if -ndim <= axis < 0 else axis for axis in numbers)
            if sorted(order) != list(range(ndim)):
                raise ValueError(_check.must(owner, "axes", f"an order of {ndim} axes", str(tuple(numbers))))
        params, shape = self._params_of_order(order), tuple(self._shape[d] for d in order)
        held, old = self._memory
        if not self._code.is_packed:
            return self._remade(held.transpose(order), shape, params)
        result, back = self._remade(held, shape, params), _inverse(order)
        new = back if old is None else tuple(back[d] for d in old)
        result._memory = held, None if new == tuple(range(ndim)) else new
        return result

    def reshape(self, *shape: Any) -> Self:
        """Return the array in another shape, in C order; parameters follow.

        Parameters
        ----------
        *shape : ints, or one tuple of ints
            One of them may be -1.

        Returns
        -------
        array of the same class
            A view where possible. Parameters per channel keep their axis, or become groups of neighbours; groups along
            the last axis may be cut between groups.

        Raises
        ------
        TypeError
            A length is not an integer.
        ValueError
            shape has another number of elements, or the parameters do not follow.
        """
        owner, code = f"{type(self).__name__}.reshape", self._code
        new = _lengths(owner, shape, self.size)
        params = self._params_of_shape(new)
        if params is None:
            requirement = f"one that the parameters of shape {self._shape}, {self._describe()[1]}, follow"
            raise ValueError(_check.must(owner, "shape", requirement, str(new)))
        if not code.is_packed:
            held = self._held.reshape(new)
        elif (new and self._shape and new[-1] == self._shape[-1]) or (
            rows_are_even(code.bits, new) and rows_are_even(code.bits, self._shape)
        ):
            held = self._held.reshape(code.packed_shape(new))
        else:
            held = pack_rows(unpack_rows(self._held, code, self._shape).reshape(new), code)
        return self._remade(held, new, params)

    # ---- NumPy's protocols: only np.asarray and np.array dequantize ----

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        name = type(self).__name__
        if copy is False:
            raise ValueError(f"{name}: copy must be None or True; got False. Dequantizing always copies.")
        if dtype is None:
            return self.dequantize()
        target, real = np.dtype(dtype), real_type(dtype)
        if real is None and target.char != "g":
            text = _check.must(name, "dtype", _check.alternatives(REAL_TYPES), str(target))
            raise TypeError(f"{text} q.codes are the codes.")
        values = self.dequantize("float64" if real is None else real.name)
        return values.astype(target, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        kinds = (np.ndarray, np.generic, CodedArray)
        if any(hasattr(type(x), "__array_ufunc__") and not isinstance(x, kinds) for x in inputs):
            return NotImplemented
        return self._refuse(f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else ""))

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if not all(issubclass(kind, CodedArray | np.ndarray) for kind in types):
            return NotImplemented
        if function in _SHAPES:
            return _SHAPES[function](*args, **options)
        module = function.__module__.removeprefix("numpy").removeprefix(".")
        return self._refuse(".".join(["np", *([module] if module in ("linalg", "fft") else []), function.__name__]))

    def _refuse(self, function: str) -> NoReturn:
        instead = _INSTEAD.get(function.split(".")[-1])
        text = f"{instead}, or np.asarray(q) for its reals." if instead else "Use np.asarray(q) for its reals."
        raise TypeError(_check.must(function, "arguments", "plain arrays", _check.typed(self)) + " " + text)

    def __matmul__(self, other: Any) -> Any:
        if hasattr(type(other), "__rmatmul__") and not isinstance(other, np.ndarray | np.generic | CodedArray):
            return NotImplemented  # a PackedWeight
        return super().__matmul__(other)

    def __bool__(self) -> NoReturn:
        self._refuse("bool")

    def __contains__(self, value: object) -> NoReturn:
        self._refuse("in")

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        raise NotImplementedError

    def __ne__(self, other: object) -> Any:
        equal = self == other if isinstance(other, type(self)) else NotImplemented
        return equal if equal is NotImplemented else not equal

    def _same_codes(self, other: "CodedArray") -> bool:
        """Whether two arrays of one type of codes hold the same bytes."""
        if self._shape != other._shape:
            return False
        (held, order), (other_held, other_order) = self._memory, other._memory
        if order != other_order:
            held, other_held = self._held, other._held
        storage = np.uint8 if self._code.is_packed else self._code.storage
        return np.array_equal(held.view(storage), other_held.view(storage))

    # ---- what it shows ----

    def __repr__(self) -> str:
        head = f"{type(self).__name__}({', '.join([str(self.shape), *self._describe()])})"
        return f"{head}\n{self._values()}" if self.size else head

    def _values(self) -> str:
        """Return the reals as NumPy prints an array, without reading more than it shows."""
        long = self.size > _WHOLE
        mesh = np.ix_(*(_shown(length, long) for length in self._shape))
        if self._code.is_packed:
            shape = tuple(len(part.reshape(-1)) for part in mesh)
            rows = pick(self._held, self._code, self._shape, mesh, len(mesh) - 1) if mesh else self._held
            codes = unpack_rows(rows, self._code, shape)
        else:
            codes = np.asarray(self._held[mesh])
        reals = self._reals_at(codes, mesh)
        return np.array2string(reals, precision=4, threshold=0 if long else reals.size, edgeitems=_EDGE)

    def _repr_html_(self) -> str:
        code_type, *parameters = self._describe()
        rows = [("shape", str(self.shape)), (self._type_label, code_type), ("parameters", ", ".join(parameters))]
        rows.append(("bytes", f"{self.size * 4:,} as float32, {self.nbytes:,} here"))
        return html_facts(type(self).__name__, rows)


def _bands(shape: tuple[int, ...]) -> list[Slices]:
    """Return the slices of an array that are computed together."""
    if not shape:
        return [()]
    inner = math.prod(shape[1:])
    step = max(_BAND // max(inner, 1), 1)
    rest = tuple(slice(0, length) for length in shape[1:])
    return [(slice(first, min(first + step, shape[0])), *rest) for first in range(0, shape[0], step)]


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _with_rows(rows: Array) -> Array:
    """Return rows whose bytes lie side by side, as the kernels read them."""
    return rows if rows.shape[-1] < 2 or rows.strides[-1] == 1 else np.ascontiguousarray(rows)


def _shown(length: int, long: bool) -> Array:
    """Return the indices along an axis that a repr shows; an axis that it abbreviates has one more than the edges."""
    if not long or length <= 2 * _EDGE + 1:
        return np.arange(length)
    return np.concatenate([np.arange(_EDGE + 1), np.arange(length - _EDGE, length)])


def _lengths(owner: str, shape: tuple[Any, ...], size: int) -> tuple[int, ...]:
    """Return the shape that reshape was called with; -1 is what the others leave."""
    given = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    lengths = [_check.integer(owner, "shape", length) for length in given]
    known = math.prod(length for length in lengths if length != -1)
    if lengths.count(-1) == 1 and known > 0 and size % known == 0:
        lengths[lengths.index(-1)] = size // known
    if any(length < 0 for length in lengths) or math.prod(lengths) != size:
        raise ValueError(_check.must(owner, "shape", f"of {size} elements", str(tuple(lengths))))
    return tuple(lengths)
