"""Rounding of a weight to codes: the grid of every group, and codes by the second moment of the inputs.

A weight is a matrix (N, K), N outputs of K inputs; groups of columns share a scale and a zero point. `Rows` turns a
weight of any shape into that matrix, by its granularity.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._typing import Array, Float32Array, Float64Array, Int32Array, Int64Array
from ..dtypes import CodeType
from ..errors import CalibrationError
from ..granularity import Granularity, PerChannel, PerGroup, PerRow
from ..qparams import grid_of_range
from .gptq import column_order, descend, inverse_factor, objective, refit, round_columns, round_groups
from .grid_search import Levels, search_grid
from .moments import SecondMoment

__all__ = [
    "Rounded",
    "Rows",
    "check_damping",
    "check_moments",
    "check_width",
    "damped",
    "importance_of",
    "matrix_of",
    "round_weight",
]

_SWEEPS = 30  # of coordinate descent; six to ten suffice on layers of transformers
_REFITS = 2
_MOST_DAMPING = 1_000_000  # rounds to nearest
_LEAST_DAMPING = 0.01  # where a second moment is not positive definite with the damping asked for


class Rounded(NamedTuple):
    """Codes (N, K), scales and zero points (N, G), and the objective of each row: of round-to-nearest, and of these."""

    codes: Array
    scale: Float32Array
    zero: Int32Array
    before: Float64Array
    after: Float64Array


def round_weight(
    w: Float32Array,
    h: Float64Array,
    levels: Levels,
    group_size: int,
    *,
    damping: float = 0.1,
    sweeps: int = _SWEEPS,
    refits: int = _REFITS,
    target: Float32Array | None = None,
    second_start: bool = True,
) -> Rounded:
    """Round a weight (N, K) so that ``(q - w) h (q - w)^T`` of each row is small.

    ``h`` (K, K) is the second moment of the inputs; `damping` times the mean of its diagonal is added to the diagonal,
    more if the sum is not positive definite. The grids are searched first, weighted by the diagonal. Then GPTQ takes
    the columns in descending order of the diagonal; a row whose codes are no better than the nearest ones keeps these.
    Coordinate descent follows, until no change of one code lowers the objective. A second start has GPTQ search each
    grid when it meets the group, and a row takes it where descent ends lower. Then scales of least squares and descent
    again, `refits` times. The objective never rises. With `target` the codes approximate it in place of w; the nearest
    codes are those of w.
    """
    ordered, factor, order, size = damped(h, damping)
    alone = group_size >= w.shape[1]
    if alone:  # no group holds columns together: in this order, a permutation of the inputs permutes the codes
        w = np.ascontiguousarray(w[:, order])
        target = None if target is None else np.ascontiguousarray(target[:, order])
        spread, places, order = ordered, order, np.arange(len(order))
    else:
        back = np.argsort(order)
        spread = ordered[np.ix_(back, back)]
    del ordered
    problem = _Problem(w if target is None else target, spread, group_size, levels, sweeps)
    importance = spread.diagonal().astype(np.float32)
    scale, zero = search_grid(problem.w, importance, group_size, levels)
    state = _State(_nearest(w, scale, zero, group_size, levels), scale, zero)
    before = cost = problem.objective(state)
    loop = state._replace(codes=round_columns(problem.w, factor, order, scale, zero, group_size, levels))
    state, cost = problem.better(loop, state, cost)
    covering = _range_grid(problem.w, group_size, levels)
    covered = _State(_nearest(problem.w, *covering, group_size, levels), *covering)
    state, _ = problem.better(covered, state, cost)
    state = problem.descended(state)
    if second_start and not alone:
        together = column_order(spread.diagonal(), group_size)
        regrouped = inverse_factor(spread[np.ix_(together, together)])
        if regrouped is not None:
            loop = _State(*round_groups(problem.w, regrouped, together, importance, group_size, levels))
            state, _ = problem.better(problem.descended(loop), state, problem.objective(state))
    for _ in range(refits):
        state = problem.descended(problem.refitted(state))
    after = problem.objective(state)
    if alone:
        codes = np.empty_like(state.codes)
        codes[:, places] = state.codes
        state = state._replace(codes=codes)
    return Rounded(*state, before * size, after * size)


class _State(NamedTuple):
    codes: Array
    scale: Float32Array
    zero: Int32Array


class _Problem(NamedTuple):
    """What the codes approximate, the second moment with damping, and the grids."""

    w: Float32Array
    h: Float64Array
    group_size: int
    levels: Levels
    sweeps: int

    def objective(self, state: _State) -> Float64Array:
        return objective(self.w, self.h, *state, self.group_size)

    def better(self, one: _State, other: _State, cost: Float64Array) -> tuple[_State, Float64Array]:
        """Return the state of each row whose objective is lower, of equal ones the other, and the objective.

        `cost` is the objective of the other.
        """
        own = self.objective(one)
        lower = (own < cost)[:, None]
        state = _State(*(np.where(lower, mine, yours) for mine, yours in zip(one, other, strict=True)))
        return state, np.minimum(own, cost)

    def descended(self, state: _State) -> _State:
        codes = descend(self.w, self.h, *state, self.group_size, self.levels, self.sweeps)
        return state._replace(codes=codes)

    def refitted(self, state: _State) -> _State:
        return state._replace(scale=refit(self.w, self.h, *state, self.group_size))


def damped(h: Float64Array, damping: float) -> tuple[Float64Array, Float64Array, Int64Array, float]:
    """Return h in units of its mean diagonal, with damping, its columns in order; its factor; the order; that mean."""
    order = np.argsort(-h.diagonal(), kind="stable")
    size = float(h.diagonal().mean())
    if size > 0:
        ordered = h[np.ix_(order, order)]
        ordered /= size
    else:  # inputs that are all zero: every weight rounds to nearest
        ordered, size = np.eye(len(h)), 1.0
    diagonal = ordered.diagonal().copy()
    while True:
        np.fill_diagonal(ordered, diagonal + damping)
        factor = inverse_factor(ordered)
        if factor is not None:
            return ordered, factor, order, size
        damping = max(10 * damping, _LEAST_DAMPING)


def _range_grid(w: Float32Array, group_size: int, levels: Levels) -> tuple[Float32Array, Int32Array]:
    """Return the scales and the zero points that cover the range of every group, from minimum to maximum."""
    starts = np.arange(0, w.shape[1], group_size)
    low = np.minimum(np.minimum.reduceat(w, starts, axis=1), 0).astype(np.float64)
    high = np.maximum(np.maximum.reduceat(w, starts, axis=1), 0).astype(np.float64)
    qmin, qmax, zero_low, zero_high = levels
    if zero_high - zero_low != 1:
        return grid_of_range(low, high, qmin, qmax, zero_low == zero_high)
    extent = np.maximum(-low, high)  # the full range: the largest magnitude gets the code furthest from the zero point
    scale, _ = grid_of_range(-extent, extent, 0, qmax - qmin + 1, True)
    return scale, np.where(high > -low, zero_low, zero_high).astype(np.int32)


def _nearest(w: Float32Array, scale: Float32Array, zero: Int32Array, group_size: int, levels: Levels) -> Array:
    group = np.arange(w.shape[1]) // group_size
    steps = np.rint(w / scale[:, group])
    codes: Array = np.clip(steps + zero[:, group], levels.qmin, levels.qmax).astype(np.int16)
    return codes


class Rows(NamedTuple):
    """How a weight becomes a matrix (N, K): the order of its axes, and how many of them are rows.

    Per group K is the grouped axis; per channel it is all axes but that of the channels, in their order.
    """

    granularity: Granularity
    shape: tuple[int, ...]
    order: tuple[int, ...]
    leading: int

    @classmethod
    def of(cls, granularity: Granularity, shape: tuple[int, ...]) -> "Rows":
        axes = range(len(shape))
        if isinstance(granularity, PerChannel):
            first = granularity.axis % len(shape)
            return cls(granularity, shape, (first, *(d for d in axes if d != first)), 1)
        if isinstance(granularity, PerGroup):
            last = granularity.axis % len(shape)
            return cls(granularity, shape, (*(d for d in axes if d != last), last), len(shape) - 1)
        return cls(granularity, shape, tuple(axes), len(shape) - 1 if isinstance(granularity, PerRow) else 0)

    @property
    def moved(self) -> tuple[int, ...]:
        return tuple(self.shape[d] for d in self.order)

    @property
    def columns(self) -> int:
        return math.prod(self.moved[self.leading :])

    @property
    def group_size(self) -> int:
        size = self.granularity.group_size
        return self.columns if size is None else min(size, self.columns)

    def matrix(self, array: Array) -> Array:
        """Return an array of the shape of the weight as (N, K)."""
        return array.transpose(self.order).reshape(-1, self.columns)

    def array(self, matrix: Array) -> Array:
        """Return a matrix (N, K) as an array of the shape of the weight, of C order."""
        back = tuple(np.argsort(self.order))
        return np.ascontiguousarray(matrix.reshape(self.moved).transpose(back))

    def params(self, values: Array) -> Array:
        """Return parameters (N, G) in the shape that those of the weight have."""
        if isinstance(self.granularity, PerGroup):
            back = tuple(np.argsort(self.order))
            return np.ascontiguousarray(values.reshape(*self.moved[:-1], -1).transpose(back))
        return values.reshape(self.granularity.params_shape(self.shape))

    def parameters(self, params: Array) -> Array:
        """Return the parameters of the weight as (N, G)."""
        if isinstance(self.granularity, PerGroup):
            params = params.transpose(self.order)
        return params.reshape(math.prod(self.moved[: self.leading]), -1)


def matrix_of(owner: str, source: Array, rows: Rows, name: str = "x") -> Float32Array:
    """Return a weight as a C-contiguous float32 matrix (N, K); refuse finite values that float32 does not hold."""
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(rows.matrix(source), np.float32)
    if source.dtype.itemsize > 4 and np.isinf(matrix).sum() > np.isinf(source).sum():
        largest = float(np.max(np.abs(source), where=np.isfinite(source), initial=0.0))
        raise ValueError(_check.must(owner, name, "of magnitudes that float32 holds", f"{largest:.4g}"))
    return matrix


def check_width(owner: str, code: CodeType, reason: str) -> None:
    """Refuse code types whose codes the rounding does not search."""
    if code.real is not None or code.bits > 8:
        raise TypeError(_check.must(owner, "dtype", f"an integer type of at most 8 bits {reason}", code.name))


def check_damping(owner: str, damping: Any) -> float:
    """Return what is added to the diagonal of a second moment, in units of its mean."""
    if not (_check.is_number(damping) and 0 <= damping <= _MOST_DAMPING):
        raise ValueError(_check.must(owner, "damping", f"in [0, {_MOST_DAMPING}]", _check.typed(damping)))
    return float(damping)


def check_moments(owner: str, moments: object, rows: Rows, name: str = "moments") -> SecondMoment:
    """Return moments that fit the inputs of a weight."""
    if not isinstance(moments, SecondMoment):
        raise TypeError(_check.must(owner, name, "a MomentsObserver", _check.typed(moments)))
    if not isinstance(rows.granularity, PerChannel | PerGroup):
        wanted = "PerChannel(axis) or PerGroup(group_size) beside moments"
        raise ValueError(_check.must(owner, "granularity", wanted, _check.typed(rows.granularity)))
    if not (hasattr(moments, "mean_") and int(moments.count_)):
        raise CalibrationError(_check.must(owner, name, "of one finite row or more", "none"))
    if moments.inputs != rows.columns:
        got = f"moments of {moments.inputs}"
        wanted = f"of the {rows.columns} inputs that {rows.granularity} leaves of shape {rows.shape}"
        raise ValueError(_check.must(owner, name, wanted, got))
    return moments


def importance_of(moments: SecondMoment) -> Float32Array:
    """Return the weight of each input in a search of grids: its mean square, in units of their mean."""
    diagonal = moments.diagonal
    size = diagonal.mean()
    return np.asarray(diagonal / size if size > 0 else np.ones_like(diagonal), np.float32)
