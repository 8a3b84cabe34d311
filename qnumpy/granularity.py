"""Granularities: one parameter for an array, or one for each channel, group or row of it."""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ._check import integer, must, typed
from ._index import Index
from ._typing import Array

__all__ = ["Granularity", "PerChannel", "PerGroup", "PerRow", "PerTensor"]

Grid = tuple[int, int, int, int]  # (outer, channels, inner, group size)
Mesh = tuple[Array, ...]  # the indices along each axis, as np.ix_ returns them


@dataclass(frozen=True, slots=True)
class Granularity:
    """Base of the granularities.

    ``axis`` and ``group_size`` are None for a granularity without them. Shapes, grids and slices of the parameters are
    methods: no other module asks for the class to compute one.
    """

    kind: ClassVar[str]  # its name in files and on the command line

    @property
    def axis(self) -> int | None:
        return None

    @property
    def group_size(self) -> int | None:
        return None

    @property
    def axis_block(self) -> tuple[int | None, int | None]:
        """ONNX's (axis, block_size); (None, None) per tensor, block_size None per channel."""
        return self.axis, self.group_size

    def check(self, owner: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless an array of `shape` has the axis; the message names the function `owner`."""
        if self.axis is not None:
            normalize_axis(owner, self.axis, len(shape))

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that scale and zero_point have for an array of `shape`."""
        raise NotImplementedError

    def params_ndim(self) -> int | None:
        """Return the dimensions of scale and zero_point, None where they depend on those of the array."""
        return None

    def has_params(self, ndim: int) -> bool:
        """Return whether scale and zero_point may have `ndim` dimensions."""
        return ndim == self.params_ndim()

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """Return (outer, channels, inner, group size) of a C-contiguous array of `shape`; see csrc/README.md."""
        raise NotImplementedError

    def counts(self, shape: tuple[int, ...]) -> Array:
        """Return the number of elements of each parameter, int64 in the shape of the parameters."""
        params = self.params_shape(shape)
        return np.full(params, math.prod(shape) // max(math.prod(params), 1), np.int64)

    def expand(self, params: Array, index: tuple[slice, ...]) -> Array:
        """Return the parameter of each element of a slice of the array, in a shape that broadcasts to the slice."""
        raise NotImplementedError

    def permuted(self, order: tuple[int, ...], shape: tuple[int, ...]) -> "Granularity":
        """Return the granularity of ``x.transpose(order)`` for an x of `shape`; `permute` moves the parameters."""
        return self

    def permute(self, params: Array, order: tuple[int, ...]) -> Array:
        """Return the parameters of an array as those of its transpose, C-contiguous."""
        return params

    def unpermute(self, params: Array, order: tuple[int, ...]) -> Array:
        """Return the parameters of ``x.transpose(order)`` as those of x: the inverse of `permute`."""
        return params

    def transposed(
        self, order: tuple[int, ...], shape: tuple[int, ...], *params: Array
    ) -> tuple["Granularity", list[Array]]:
        """Return the granularity and the parameters of ``x.transpose(order)`` for an x of `shape`.

        Unlike `permuted` it keeps rows that stay rows.
        """
        granularity = self.permuted(order, shape)
        return granularity, [self.permute(param, order) for param in params]

    def at(self, params: Array, mesh: Mesh) -> Array:
        """Return the parameter of each element of a mesh, in a shape that broadcasts to the mesh."""
        raise NotImplementedError

    def block(self, shape: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return the slices of the parameters of a block of the array, which cuts no group."""
        raise NotImplementedError

    def sliced(self, owner: str, index: Index, *params: Array) -> tuple["Granularity", list[Array]]:
        """Return the granularity of the result of an index, and its parameters; raise ValueError if it has none."""
        raise NotImplementedError

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> "Granularity | None":
        """Return the granularity of a reshaped array, whose parameters have the same C order; None if it has none."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the granularity in the words of the tables: "per tensor", "per channel 0", "per group 32"."""
        return f"per {self.kind}"

    def to_dict(self) -> dict[str, Any]:
        """Return the granularity as a dict of plain values; `from_dict` reads it."""
        values = {"kind": self.kind, "axis": self.axis, "group_size": self.group_size}
        return {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def from_dict(values: Any, owner: str = "Granularity.from_dict") -> "Granularity":
        """Return the granularity that `to_dict` described; raise TypeError or ValueError for anything else."""
        cls = _KINDS.get(str(values.get("kind"))) if isinstance(values, dict) else None
        if cls is None or set(values) != {"kind", *(field.name for field in fields(cls))}:
            raise TypeError(must(owner, "granularity", "what Granularity.to_dict returns", typed(values)))
        return cls(**{name: value for name, value in values.items() if name != "kind"})


@dataclass(frozen=True, slots=True)
class PerTensor(Granularity):
    """One scale and zero point for the whole array.

    Examples
    --------
    >>> PerTensor().params_shape((4096, 768))
    ()
    """

    kind = "tensor"

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return ()

    def params_ndim(self) -> int | None:
        return 0

    def grid(self, shape: tuple[int, ...]) -> Grid:
        return 1, 1, math.prod(shape), 0

    def expand(self, params: Array, index: tuple[slice, ...]) -> Array:
        return params

    def at(self, params: Array, mesh: Mesh) -> Array:
        return params

    def block(self, shape: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
        return ()

    def sliced(self, owner: str, index: Index, *params: Array) -> tuple[Granularity, list[Array]]:
        return self, list(params)

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> Granularity | None:
        return self


@dataclass(frozen=True, slots=True)
class PerChannel(Granularity):
    """One scale and zero point for each index of `axis`.

    Parameters
    ----------
    axis : int
        The channel axis; negative counts from the end.

    Examples
    --------
    >>> PerChannel(0).params_shape((4096, 768))
    (4096,)
    """

    kind = "channel"

    axis: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", integer("PerChannel", "axis", self.axis))

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[normalize_axis("PerChannel", self.axis, len(shape))],)

    def params_ndim(self) -> int | None:
        return 1

    def grid(self, shape: tuple[int, ...]) -> Grid:
        axis = normalize_axis("PerChannel", self.axis, len(shape))
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), 0

    def expand(self, params: Array, index: tuple[slice, ...]) -> Array:
        axis = self.axis % len(index)
        return _along(params[index[axis]], axis, len(index))

    def permuted(self, order: tuple[int, ...], shape: tuple[int, ...]) -> Granularity:
        return PerChannel(_signed(order.index(self.axis % len(order)), self.axis, len(order)))

    def at(self, params: Array, mesh: Mesh) -> Array:
        return params[mesh[self.axis]]

    def block(self, shape: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
        return (slices[self.axis],)

    def sliced(self, owner: str, index: Index, *params: Array) -> tuple[Granularity, list[Array]]:
        axis = self.axis % len(index.source)
        if len(index.places[axis]) < 2:
            own = index.key(axis)
            picked = [param[own] for param in params]
            if isinstance(own, np.ndarray):  # arrays beside it may be longer
                picked = [np.broadcast_to(param, index.shape[index.places[axis][0]]) for param in picked]
            return _channels(self.axis, index, axis), picked
        keys, places = index.of_params({axis}), set(index.places[axis])
        wide = _spread(index, places, [_along(param, axis, len(index.source))[keys] for param in params])
        return _varying(index, places, wide)

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> Granularity | None:
        outer, channels, inner, _ = self.grid(old)
        for d in _axes(self.axis, new):
            if new[d] == channels and math.prod(new[:d]) == outer and math.prod(new[d + 1 :]) == inner:
                return PerChannel(_signed(d, self.axis, len(new)))
        return _runs(inner, new) if outer == 1 else None

    def describe(self) -> str:
        return f"per channel {self.axis}"


@dataclass(frozen=True, slots=True)
class PerGroup(Granularity):
    """One scale and zero point for each `group_size` neighbours along `axis`; the last group may be short.

    Parameters
    ----------
    group_size : int
        Elements of a group, at least 1.
    axis : int, default -1
        The axis that is cut into groups; negative counts from the end.

    Examples
    --------
    >>> PerGroup(32).params_shape((4096, 768))
    (4096, 24)
    >>> PerGroup(32).params_shape((10, 70))
    (10, 3)
    """

    kind = "group"

    group_size: int
    axis: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_size", integer("PerGroup", "group_size", self.group_size))
        object.__setattr__(self, "axis", integer("PerGroup", "axis", self.axis))
        if self.group_size < 1:
            raise ValueError(must("PerGroup", "group_size", "at least 1", str(self.group_size)))

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = normalize_axis("PerGroup", self.axis, len(shape))
        return (*shape[:axis], -(-shape[axis] // self.group_size), *shape[axis + 1 :])

    def has_params(self, ndim: int) -> bool:
        return ndim > 0

    def grid(self, shape: tuple[int, ...]) -> Grid:
        axis = normalize_axis("PerGroup", self.axis, len(shape))
        group = min(self.group_size, max(shape[axis], 1))
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), group

    def counts(self, shape: tuple[int, ...]) -> Array:
        params, axis = self.params_shape(shape), self.axis % len(shape)
        lengths = np.full(params[axis], self.group_size, np.int64)
        if lengths.size:
            lengths[-1] = shape[axis] - self.group_size * (params[axis] - 1)
        return np.broadcast_to(_along(lengths, axis, len(shape)), params)

    def expand(self, params: Array, index: tuple[slice, ...]) -> Array:
        axis = self.axis % len(index)
        rows = params[tuple(slice(None) if d == axis else key for d, key in enumerate(index))]
        return rows.take(np.arange(index[axis].start, index[axis].stop) // self.group_size, axis=axis)

    def permuted(self, order: tuple[int, ...], shape: tuple[int, ...]) -> Granularity:
        return PerGroup(self.group_size, _signed(order.index(self.axis % len(order)), self.axis, len(order)))

    def permute(self, params: Array, order: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(params.transpose(order))

    def unpermute(self, params: Array, order: tuple[int, ...]) -> Array:
        return params.transpose(np.argsort(order))

    def at(self, params: Array, mesh: Mesh) -> Array:
        axis = self.axis % len(mesh)
        keys = tuple(part // self.group_size if d == axis else part for d, part in enumerate(mesh))
        return np.asarray(params[keys])

    def block(self, shape: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
        axis, size = self.axis % len(shape), self.group_size
        own = slices[axis]
        groups = slice(own.start // size, -(-own.stop // size))
        return (*slices[:axis], groups, *slices[axis + 1 :])

    def sliced(self, owner: str, index: Index, *params: Array) -> tuple[Granularity, list[Array]]:
        axis, size = self.axis % len(index.source), self.group_size
        groups = groups_of_index(index, axis, size)
        if groups is None:
            key = index.key(axis)
            raise ValueError(must(owner, "index", f"whole groups of {size} on axis {axis}", typed(key)))
        keys = index.of_params(range(len(index.source)), {axis: groups})
        granularity = PerGroup(size, _signed(index.places[axis][0], self.axis, len(index.shape)))
        return granularity, [param[keys] for param in params]

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> Granularity | None:
        axis, size = self.axis % len(old), self.group_size
        outer, inner, even = math.prod(old[:axis]), math.prod(old[axis + 1 :]), old[axis] % size == 0
        for d in _axes(self.axis, new):
            same = new[d] == old[axis] and math.prod(new[:d]) == outer
            if math.prod(new[d + 1 :]) == inner and (same or (even and new[d] and new[d] % size == 0)):
                return PerGroup(size, _signed(d, self.axis, len(new)))
        return None

    def describe(self) -> str:
        return f"per group {self.group_size}" + (f" on axis {self.axis}" if self.axis != -1 else "")


@dataclass(frozen=True, slots=True)
class PerRow(Granularity):
    """One scale and zero point for each row: for each index of all axes but the last.

    Of activations of shape (..., features) each token has a scale. An array of one axis is one row.

    Examples
    --------
    >>> PerRow().params_shape((8, 128, 768))
    (8, 128)
    """

    kind = "row"

    @property
    def axis_block(self) -> tuple[int | None, int | None]:
        raise NotImplementedError("rows of an array of any number of dimensions have no axis and block_size")

    def check(self, owner: str, shape: tuple[int, ...]) -> None:
        if not shape:
            raise ValueError(must(owner, "granularity", "PerTensor() for a 0-d array", "PerRow()"))

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.check("PerRow", shape)
        return shape[:-1]

    def has_params(self, ndim: int) -> bool:
        return True

    def grid(self, shape: tuple[int, ...]) -> Grid:
        return 1, math.prod(self.params_shape(shape)), shape[-1], 0

    def expand(self, params: Array, index: tuple[slice, ...]) -> Array:
        return params[index[:-1]][..., None]

    def permuted(self, order: tuple[int, ...], shape: tuple[int, ...]) -> Granularity:
        return PerGroup(max(shape[-1], 1), order.index(len(order) - 1))

    def transposed(
        self, order: tuple[int, ...], shape: tuple[int, ...], *params: Array
    ) -> tuple[Granularity, list[Array]]:
        if order[-1] == len(order) - 1:
            return self, [param.transpose(order[:-1]) for param in params]
        return super(PerRow, self).transposed(order, shape, *params)

    def permute(self, params: Array, order: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(params[..., None].transpose(order))

    def unpermute(self, params: Array, order: tuple[int, ...]) -> Array:
        return params.transpose(np.argsort(order))[..., 0]

    def at(self, params: Array, mesh: Mesh) -> Array:
        return np.asarray(params[mesh[:-1]])

    def block(self, shape: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
        return slices[:-1]

    def sliced(self, owner: str, index: Index, *params: Array) -> tuple[Granularity, list[Array]]:
        last, ndim = len(index.source) - 1, len(index.shape)
        others = {place for axis in range(last) for place in index.places[axis]}
        wide = _spread(index, others, [param[..., None][index.of_params(range(last))] for param in params])
        if index.places[last] == (ndim - 1,) and ndim - 1 not in others:
            return self, [param[..., 0] for param in wide]
        return _varying(index, others, wide)

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> Granularity | None:
        return self if new and new[-1] == old[-1] else _runs(old[-1], new)


_KINDS: dict[str, type[Granularity]] = {cls.kind: cls for cls in (PerTensor, PerChannel, PerGroup, PerRow)}


def _along(values: Array, axis: int, ndim: int) -> Array:
    """Return a vector with `ndim` axes, all of length 1 but one."""
    return values.reshape([-1 if d == axis else 1 for d in range(ndim)])


def _signed(axis: int, like: int, ndim: int) -> int:
    """Return the number of an axis, negative where `like` is."""
    return axis - ndim if like < 0 else axis


def _axes(like: int, shape: tuple[int, ...]) -> range:
    """Return all axes, from the end where `like` is negative: of several that serve, it is the nearest to that end."""
    axes = range(len(shape))
    return axes[::-1] if like < 0 else axes


def _runs(length: int, shape: tuple[int, ...]) -> "PerGroup | None":
    """Return the granularity of parameters that each serve `length` neighbours in C order."""
    return PerGroup(length) if shape and length and shape[-1] % length == 0 else None


def _channels(like: int, index: Index, axis: int) -> Granularity:
    """Return the granularity of an axis that has become one axis of the result, or none."""
    places = index.places[axis]
    return PerChannel(_signed(places[0], like, len(index.shape))) if places else PerTensor()


def _spread(index: Index, places: set[int], params: list[Array]) -> list[Array]:
    """Return parameters with the lengths of the result along `places`: an index array may be shorter than another."""
    shape = tuple(length if d in places else 1 for d, length in enumerate(index.shape))
    return [np.broadcast_to(param, shape) for param in params]


def _varying(index: Index, places: set[int], params: list[Array]) -> tuple[Granularity, list[Array]]:
    """Return the granularity of a result whose parameters vary along some of its axes, and these parameters.

    `params` have the axes of the result, of length 1 where they are constant. The longest axis along which they are
    constant becomes the axis of rows or of groups; if there is none, each element is a group.
    """
    shape = index.shape
    if not places:
        return PerTensor(), [param.reshape(()) for param in params]
    constant = [d for d in range(len(shape)) if d not in places]
    if len(places) == 1:
        (axis,) = places
        return PerChannel(axis), [param.reshape(-1) for param in params]
    if not constant:
        return PerGroup(1), params
    axis = max(constant, key=lambda d: (shape[d], d))
    wide = [np.broadcast_to(param, (*shape[:axis], 1, *shape[axis + 1 :])) for param in params]
    if axis == len(shape) - 1:
        return PerRow(), [param[..., 0] for param in wide]
    return PerGroup(max(shape[axis], 1), axis), wide


def groups_of_index(index: Index, axis: int, group_size: int) -> slice | Array | None:
    """Return the key of the groups in an index of their axis, None unless it has whole groups in their order."""
    key, length = index.key(axis), index.source[axis]
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        if step != 1 or start % group_size or (stop % group_size and stop != length):
            return None
        return slice(start // group_size, -(-stop // group_size))
    alone = sum(isinstance(other, np.ndarray) for other in index.keys) == 1
    if isinstance(key, int) or key.ndim != 1 or not alone:
        return None
    firsts = key[::group_size]
    ends = np.minimum(firsts + group_size, length)
    if (firsts % group_size).any() or int((ends - firsts).sum()) != key.size:
        return None
    whole = np.arange(key.size) % group_size + np.repeat(firsts, group_size)[: key.size]
    return firsts // group_size if np.array_equal(whole, key) else None


def granularity(owner: str, value: Any, name: str = "granularity") -> Granularity:
    """Return `value` if it is a granularity; raise TypeError for anything else."""
    if not isinstance(value, Granularity):
        requirement = "PerTensor(), PerChannel(axis), PerGroup(group_size) or PerRow()"
        raise TypeError(must(owner, name, requirement, typed(value)))
    return value


def from_axis_block(axis: int | None, block_size: int | None) -> Granularity:
    """Return the granularity whose `axis_block` is (axis, block_size)."""
    if axis is None:
        return PerTensor()
    return PerChannel(axis) if block_size is None else PerGroup(block_size, axis)


def normalize_axis(owner: str, axis: int, ndim: int) -> int:
    """Return `axis` counted from the front; raise ValueError outside [-ndim, ndim)."""
    if not -ndim <= axis < ndim:
        requirement = f"in [{-ndim}, {ndim - 1}]" if ndim else "left out for a 0-d array"
        raise ValueError(must(owner, "axis", requirement, str(axis)))
    return axis + ndim if axis < 0 else axis
