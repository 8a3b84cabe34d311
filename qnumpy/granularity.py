"""How many parameters an array has: one, one for each channel, or one for each group."""

from dataclasses import dataclass

from ._check import integer, must

__all__ = ["Granularity", "PerChannel", "PerGroup", "PerTensor"]


@dataclass(frozen=True, slots=True)
class Granularity:
    """Base of the three granularities.

    ``axis`` and ``group_size`` are None where the granularity has none.
    """

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that scale and zero_point have for an array of `shape`."""
        raise NotImplementedError

    @property
    def onnx(self) -> tuple[int | None, int | None]:
        """ONNX's (axis, block_size); (None, None) per tensor, block_size None per channel."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PerTensor(Granularity):
    """One scale and zero point for the whole array.

    Examples
    --------
    >>> PerTensor().params_shape((4096, 768))
    ()
    """

    @property
    def axis(self) -> None:
        return None

    @property
    def group_size(self) -> None:
        return None

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return ()

    @property
    def onnx(self) -> tuple[int | None, int | None]:
        return None, None


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

    axis: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", integer("PerChannel", "axis", self.axis))

    @property
    def group_size(self) -> None:
        return None

    def params_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[normalize_axis("PerChannel", self.axis, len(shape))],)

    @property
    def onnx(self) -> tuple[int | None, int | None]:
        return self.axis, None


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

    @property
    def onnx(self) -> tuple[int | None, int | None]:
        return self.axis, self.group_size


def from_onnx(axis: int | None, block_size: int | None) -> Granularity:
    """Return the granularity whose `onnx` is (axis, block_size)."""
    if axis is None:
        return PerTensor()
    return PerChannel(axis) if block_size is None else PerGroup(block_size, axis)


def normalize_axis(owner: str, axis: int, ndim: int) -> int:
    """Return `axis` counted from the front; raise ValueError outside [-ndim, ndim)."""
    if not -ndim <= axis < ndim:
        where = f"in [{-ndim}, {ndim - 1}]" if ndim else "left out for a 0-d array"
        raise ValueError(must(owner, "axis", where, str(axis)))
    return axis + ndim if axis < 0 else axis
