"""Granularities: one parameter for an array, or one for each channel, group or row of it."""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ._check import integer, must, typed
from ._typing import Array

__all__ = ["Granularity", "PerChannel", "PerGroup", "PerRow", "PerTensor"]

Grid = tuple[int, int, int, int]  # (outer, channels, inner, group size)
Key = int | slice  # of one axis


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

    def sliced(self, owner: str, shape: tuple[int, ...], keys: list[Key]) -> tuple["Granularity", tuple[Key, ...]]:
        """Return the granularity of a basic slice, one key for each axis, and the index of its parameters."""
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

    def sliced(self, owner: str, shape: tuple[int, ...], keys: list[Key]) -> tuple[Granularity, tuple[Key, ...]]:
        return self, ()


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
        return PerChannel(order.index(self.axis % len(order)))

    def sliced(self, owner: str, shape: tuple[int, ...], keys: list[Key]) -> tuple[Granularity, tuple[Key, ...]]:
        axis = self.axis % len(shape)
        if not isinstance(keys[axis], slice):
            return PerTensor(), (keys[axis],)
        return PerChannel(_axis_after(self.axis, shape, keys)), (keys[axis],)

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
        return PerGroup(self.group_size, order.index(self.axis % len(order)))

    def permute(self, params: Array, order: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(params.transpose(order))

    def unpermute(self, params: Array, order: tuple[int, ...]) -> Array:
        return params.transpose(np.argsort(order))

    def sliced(self, owner: str, shape: tuple[int, ...], keys: list[Key]) -> tuple[Granularity, tuple[Key, ...]]:
        axis, size = self.axis % len(shape), self.group_size
        groups = groups_of_slice(keys[axis], shape[axis], size)
        if groups is None:
            raise ValueError(must(owner, "index", f"whole groups of {size} on axis {axis}", typed(keys[axis])))
        keys = [*keys[:axis], groups, *keys[axis + 1 :]]
        return PerGroup(size, _axis_after(self.axis, shape, keys)), tuple(keys)

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

    def permute(self, params: Array, order: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(params[..., None].transpose(order))

    def unpermute(self, params: Array, order: tuple[int, ...]) -> Array:
        return params.transpose(np.argsort(order))[..., 0]

    def sliced(self, owner: str, shape: tuple[int, ...], keys: list[Key]) -> tuple[Granularity, tuple[Key, ...]]:
        if not isinstance(keys[-1], slice):
            raise ValueError(must(owner, "index", "a slice of the last axis of rows", typed(keys[-1])))
        return self, tuple(keys[:-1])


_KINDS: dict[str, type[Granularity]] = {cls.kind: cls for cls in (PerTensor, PerChannel, PerGroup, PerRow)}


def _along(values: Array, axis: int, ndim: int) -> Array:
    """Return a vector with `ndim` axes, all of length 1 but one."""
    return values.reshape([-1 if d == axis else 1 for d in range(ndim)])


def _axis_after(axis: int, shape: tuple[int, ...], keys: list[Key]) -> int:
    """Return the number that an axis has in a slice which keeps it; a negative axis stays negative."""
    from_end = sum(isinstance(key, slice) for key in keys) if axis < 0 else 0
    axis %= len(shape)
    return axis - sum(not isinstance(key, slice) for key in keys[:axis]) - from_end


def groups_of_slice(key: Key, length: int, group_size: int) -> slice | None:
    """Return the groups in a slice of their axis, None for an index or a slice that cuts a group."""
    if not isinstance(key, slice):
        return None
    start, stop, step = key.indices(length)
    if step != 1 or start % group_size or (stop % group_size and stop != length):
        return None
    return slice(start // group_size, -(-stop // group_size))


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
