"""Quantizers of tensors in training: by the range that they observe, by learned scales, by their own range."""

import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import _args, _check, _core
from .._typing import Array, DType
from ..dtypes import INTEGER_TYPES, CodeType
from ..errors import CalibrationError
from ..granularity import Granularity, PerTensor
from ..ops.gradients import TYPES
from ..qat.learned import LEAST, Symmetric, code_ends, mean_magnitude
from ..qparams import QParams, grid_of_range
from ._elements import empty, fake_quantize, keep_inside, lsq, memory_order
from ._library import array_of, define, tensor_of

__all__ = ["FakeQuantize", "LearnedScale", "OwnRange", "Quantizer", "Resumable"]


# ---- operators that choose parameters, and fake-quantize by them ----

# They take the input and the weight of a layer at once: at small sizes an operator costs more than its arithmetic. For
# each x there is a scheme, ``Scheme`` as JSON, and the order of its axes in memory, "" for C order. The results are of
# each x y, and a bit for each element: it is inside the range.


class Scheme(NamedTuple):
    """How a tensor is fake-quantized."""

    owner: str
    dtype: str
    symmetric: bool
    granularity: dict[str, Any]
    weight: float  # of the average


def _observed(xs: list[Tensor], held: list[Tensor], schemes: list[str], orders: list[str]) -> list[Tensor]:
    """Average the range of each x into its low and high, and fake-quantize it by the parameters of the average."""
    arrays = iter([array_of(v) for v in held])
    groups = zip(arrays, arrays, arrays, arrays, strict=True)  # low, high, scale and zero_point of each
    results: list[Tensor] = []
    for x, state, scheme, order in zip(xs, groups, schemes, orders, strict=True):
        results += _by(x, state, scheme, order)
    return results


def _own(xs: list[Tensor], schemes: list[str], orders: list[str]) -> list[Tensor]:
    """Fake-quantize each x by its range."""
    results: list[Tensor] = []
    for x, scheme, order in zip(xs, schemes, orders, strict=True):
        results += _by(x, None, scheme, order)
    return results


def _by(x: Tensor, held: tuple[Array, ...] | None, scheme: str, order: str) -> tuple[Tensor, Tensor]:
    x, axes = _in_order(x, order)
    source = array_of(x)
    number, shape, grid, symmetric, qmin, qmax, weight = _parameters(scheme, source.shape, order, x.dtype)
    low, high, scale, zero_point = _unseen(shape) if held is None else held
    y, bits = results = empty(x, axes), torch.empty((source.size + 7) // 8, dtype=torch.uint8)
    out = array_of(y)
    if order:
        source, out = source.transpose(axes), out.transpose(axes)
    if source.size:
        _core.observe(source, number, *grid, weight, symmetric, qmin, qmax, low, high, scale, zero_point)
    _core.fake_quantize_inside(
        source, number, scale, zero_point, out, number, array_of(bits), *grid, qmin, qmax, 0
    )  # fmt: skip
    return results


def _in_order(x: Tensor, order: str) -> tuple[Tensor, list[int]]:
    """Return x with its axes in an order in memory, which a compiler may have changed, and the order."""
    if not order and x.is_contiguous():
        return x, []
    axes = _axes(order)
    return (x, axes) if memory_order(x) == axes else (empty(x, axes).copy_(x), axes)


@lru_cache(512)
def _axes(order: str) -> list[int]:
    return [int(axis) for axis in order]


@lru_cache(512)
def _parameters(text: str, shape: tuple[int, ...], order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the arguments of kernels for a scheme and an array whose axes have an order."""
    scheme = Scheme(*json.loads(text))
    granularity = Granularity.from_dict(scheme.granularity)
    _, float_type = _args.real(scheme.owner, "x", array_of(torch.empty(0, dtype=dtype)), TYPES)
    layout = _args.layout_of(scheme.owner, granularity, shape)
    moved = granularity.permuted(_axes(order), shape) if order else granularity
    grid = moved.grid(tuple(shape[d] for d in _axes(order)) if order else shape)
    ends = code_ends(INTEGER_TYPES[scheme.dtype], scheme.symmetric)
    return float_type.core, layout.shape, grid, scheme.symmetric, *ends, scheme.weight


def _unseen(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return np.full(shape, np.inf), np.full(shape, -np.inf), np.ones(shape, np.float32), np.zeros(shape, np.int32)


def _observed_fake(xs: list[Tensor], held: list[Tensor], schemes: list[str], orders: list[str]) -> list[Tensor]:
    return _own_fake(xs, schemes, orders)


def _own_fake(xs: list[Tensor], schemes: list[str], orders: list[str]) -> list[Tensor]:
    results = []
    for x, order in zip(xs, orders, strict=True):
        results += [
            empty(x, _axes(order)),
            torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device),
        ]
    return results


_observed_op = define(
    "observed_fake_quantize(Tensor[] x, Tensor(a!)[] held, str[] schemes, str[] orders) -> Tensor[]",
    _observed,
    _observed_fake,
)
_own_op = define("own_fake_quantize(Tensor[] x, str[] schemes, str[] orders) -> Tensor[]", _own, _own_fake)


class _StraightThrough(torch.autograd.Function):
    """One of both operators, with the gradient of fake_quantize."""

    @staticmethod
    def forward(ctx: Any, operator: Any, held: list[Tensor] | None, schemes: list[str], *xs: Tensor) -> Any:
        orders = ["" if x.is_contiguous() else "".join(map(str, memory_order(x))) for x in xs]
        results = operator(xs, schemes, orders) if held is None else operator(xs, held, schemes, orders)
        ctx.orders = orders
        ctx.save_for_backward(*results[1::2])
        return results[0] if len(xs) == 1 else tuple(results[::2])

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> Any:
        needed = ctx.needs_input_grad[3:]
        parts = zip(gs, ctx.saved_tensors, ctx.orders, needed, strict=True)
        return None, None, None, *(keep_inside(g, bits, _axes(o)) if need else None for g, bits, o, need in parts)


def straight_through(schemes: list[str], xs: tuple[Tensor, ...], held: list[Tensor] | None = None) -> Any:
    """Return the fake-quantized tensors, by the ranges that are held, or by their own."""
    operator = _own_op if held is None else _observed_op
    return _StraightThrough.apply(operator, held, schemes, *xs)  # type: ignore[no-untyped-call]


# ---- modules ----


class Resumable(nn.Module):
    """A module with a state beside its tensors; a state_dict of the float model, which lacks it, leaves it as it is."""

    _resumed: tuple[str, ...] = ()  # the attributes

    def get_extra_state(self) -> Tensor:
        """Return the attributes as bytes, which every format of tensors holds."""
        text = json.dumps({name: getattr(self, name) for name in self._resumed})
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        for name, value in json.loads(bytes(state.tolist())).items():
            setattr(self, name, value)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *options: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *options)
        missing: list[str] = options[2]
        if f"{prefix}_extra_state" in missing:
            own = [f"{prefix}{name}" for name in self._added()]
            if not any(name in state_dict for name in own):
                missing[:] = [name for name in missing if name not in own]

    def _added(self) -> list[str]:
        """Return the names of the state that a float model lacks."""
        return ["_extra_state"]


class Quantizer(Resumable):
    """Base of the quantizers: type, granularity, delay.

    Parameters
    ----------
    dtype : str or dtype
        An integer type.
    granularity : Granularity, optional
        PerTensor() by default.
    symmetric : bool or "full"
    delay : int
        As many calls in training return x itself.
    """

    _resumed = ("dtype_name", "frozen", "seen", "calls")

    def __init__(self, dtype: DType, granularity: Granularity | None, symmetric: Symmetric, delay: int) -> None:
        super().__init__()
        owner = type(self).__name__
        self.dtype_name = _args.code(owner, dtype, INTEGER_TYPES).name
        self.granularity = PerTensor() if granularity is None else _args.granularity(owner, granularity)
        self.symmetric: Symmetric = symmetric
        self.delay = _check.count(owner, "delay", delay)
        self.frozen = self.seen = False
        self.calls = 0

    @property
    def dtype(self) -> str:
        """The name of the code type; a Schedule sets another one."""
        return self.dtype_name

    @property
    def code(self) -> CodeType:
        return INTEGER_TYPES[self.dtype_name]

    def freeze(self) -> None:
        """Keep the parameters as they are."""
        self.frozen = True

    def _waits(self) -> bool:
        """Count a call in training; return whether the delay lasts."""
        if self.calls >= self.delay:
            return False
        self.calls += self.training
        return True

    def _require_seen(self) -> None:
        if not self.seen:
            raise CalibrationError(
                f"{type(self).__name__}: data must run through the model in training mode before evaluation; got none."
            )

    def _added(self) -> list[str]:
        return ["_extra_state", "low", "high", "scale", "zero_point"]

    def extra_repr(self) -> str:
        scheme = "affine" if self.symmetric is False else "symmetric"
        parts = [self.dtype, self.granularity.describe(), scheme, "frozen" if self.frozen else ""]
        return ", ".join(part for part in parts if part)


class FakeQuantize(Quantizer):
    """Fake-quantize by a range that is observed: ``low = (1 - c) low + c least``, and so `high`.

    Parameters
    ----------
    dtype, granularity, delay
        As in Quantizer.
    shape : tuple of int, default ()
        Of the parameters.
    symmetric : bool
    averaging_constant : float, default 0.01
        The weight c of a new batch; 1 forgets all others.
    always : bool, default False
        Observe in evaluation too, as a weight needs it, which an optimizer changes.

    Attributes
    ----------
    low, high : Tensor of float64
    scale, zero_point : Tensor
        Buffers, so that a copy of the model and a state_dict hold them.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        dtype: DType = "uint8",
        granularity: Granularity | None = None,
        shape: tuple[int, ...] = (),
        *,
        symmetric: bool = False,
        averaging_constant: float = 0.01,
        always: bool = False,
        delay: int = 0,
    ) -> None:
        super().__init__(dtype, granularity, symmetric, delay)
        self.averaging_constant, self.always = averaging_constant, always
        self.register_buffer("low", torch.full(shape, np.inf, dtype=torch.float64))
        self.register_buffer("high", torch.full(shape, -np.inf, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self._set_scheme()

    @property
    def dtype(self) -> str:
        """The name of the code type; a new one takes the range that was observed."""
        return self.dtype_name

    @dtype.setter
    def dtype(self, value: DType) -> None:
        self.dtype_name = _args.code("FakeQuantize", value, INTEGER_TYPES).name
        self._set_scheme()
        if self.seen:
            low, high = np.minimum(array_of(self.low), 0.0), np.maximum(array_of(self.high), 0.0)
            ends = code_ends(self.code, self.symmetric)
            scale, zero_point = grid_of_range(low, high, *ends, self.symmetric is True, "FakeQuantize")
            array_of(self.scale)[...], array_of(self.zero_point)[...] = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        if self.joins(x):
            return straight_through([self.scheme], (x,), self.held())  # type: ignore[no-any-return]
        if self._observes(x):
            straight_through([self.scheme], (x.detach(),), self.held())
        if self._waits():
            return x
        if not self.seen and x.numel():
            self._require_seen()
        zero_point = None if self.symmetric else self.zero_point
        return fake_quantize(x, self.scale, zero_point, dtype=self.dtype_name, granularity=self.granularity)

    def joins(self, x: Tensor) -> bool:
        """Return whether a call is one of `straight_through`: it observes x, and there is no delay."""
        return not self.delay and self._observes(x)

    def _observes(self, x: Tensor) -> bool:
        if not (self.training or self.always) or (self.frozen and self.seen):
            return False
        if not self.seen:
            self.seen = x.numel() > 0
        return True

    def held(self) -> list[Tensor]:
        """Return low, high, scale and zero_point."""
        held: Any = self._buffers  # faster than the attributes of a module
        return [held["low"], held["high"], held["scale"], held["zero_point"]]

    def _set_scheme(self) -> None:
        self.scheme = scheme_of(self, self.averaging_constant)

    def qparams(self) -> QParams:
        """Return the parameters as they are now."""
        self._require_seen()
        scale, zero_point = array_of(self.scale), array_of(self.zero_point)
        return QParams(scale, zero_point, self.dtype, self.granularity, *code_ends(self.code, self.symmetric))


class LearnedScale(Quantizer):
    """Fake-quantize by a scale, and a zero point where the range is affine, that an optimizer trains (LSQ, LSQ+).

    The first array gives the first scale, ``2 mean|x| / sqrt(qmax)``. A scale below 2**-23 is raised to it.

    Parameters
    ----------
    dtype, granularity, delay
        As in Quantizer.
    shape : tuple of int, default ()
        Of the parameters.
    symmetric : bool or "full"

    Attributes
    ----------
    scale, zero_point : Parameter
        zero_point is None where the range is symmetric.

    References
    ----------
    S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020; Y. Bhalgat et al., "LSQ+", 2020.
    """

    scale: nn.Parameter
    zero_point: nn.Parameter | None

    def __init__(
        self,
        dtype: DType = "uint8",
        granularity: Granularity | None = None,
        shape: tuple[int, ...] = (),
        *,
        symmetric: Symmetric = False,
        delay: int = 0,
    ) -> None:
        super().__init__(dtype, granularity, symmetric, delay)
        self.scale = nn.Parameter(torch.ones(shape))
        self.zero_point = nn.Parameter(torch.zeros(shape)) if symmetric is False else None

    @property
    def dtype(self) -> str:
        """The name of the code type; a new one keeps the range that the scale was right for."""
        return self.dtype_name

    @dtype.setter
    def dtype(self, value: DType) -> None:
        old, new = self.code, _args.code("LearnedScale", value, INTEGER_TYPES)
        self.dtype_name = new.name
        with torch.no_grad():
            self.scale *= float(np.sqrt(old.qmax / new.qmax))
            if self.zero_point is not None:
                steps = (new.qmax - new.qmin) / (old.qmax - old.qmin)
                self.zero_point.copy_(new.qmin + (self.zero_point - old.qmin) * steps)

    def freeze(self) -> None:
        """Train scale and zero point no longer."""
        super().freeze()
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        if self.frozen:
            self.freeze()

    def begin(self, x: Tensor) -> None:
        """Choose the first parameters by an array."""
        if not x.numel():
            return
        source = array_of(x.detach())
        mean = mean_magnitude(source, self.granularity)
        first = np.asarray(np.maximum(2 * mean / np.sqrt(self.code.qmax), LEAST), np.float32)
        with torch.no_grad():
            self.scale.copy_(tensor_of(first.reshape(self.scale.shape)))
            if self.zero_point is not None:
                code = self.code
                self.zero_point.fill_(code.qmin if float(source.min()) >= 0 else (code.qmin + code.qmax + 1) // 2)
        self.seen = True

    def forward(self, x: Tensor) -> Tensor:
        if self.delay and self._waits():
            return x
        if not self.seen:
            if self.training:
                self.begin(x)
            if x.numel():
                self._require_seen()
        if self.training:
            self.scale.detach().clamp_(min=LEAST)
        return lsq(
            x,
            self.scale,
            self.zero_point,
            dtype=self.dtype_name,
            granularity=self.granularity,
            symmetric=self.symmetric,
        )

    def qparams(self) -> QParams:
        """Return the parameters as they are now."""
        self._require_seen()
        low, high = code_ends(self.code, self.symmetric)
        scale = np.maximum(array_of(self.scale), np.float32(LEAST))
        zero: Any = self.code.symmetric_zero_point
        if self.zero_point is not None:
            zero = np.clip(np.rint(array_of(self.zero_point)), low, high).astype(np.int32)
        return QParams(scale, zero, self.dtype, self.granularity, low, high)


class OwnRange(Quantizer):
    """Fake-quantize each array by its own range, as modules of dynamic quantization do.

    Parameters
    ----------
    dtype, granularity, delay
        As in Quantizer.
    symmetric : bool
    """

    def __init__(
        self, dtype: DType = "uint8", granularity: Granularity | None = None, *, symmetric: bool = False, delay: int = 0
    ) -> None:
        super().__init__(dtype, granularity, symmetric, delay)

    def forward(self, x: Tensor) -> Tensor:
        if self.delay and self._waits():
            return x
        return straight_through([scheme_of(self, 1.0)], (x,))  # type: ignore[no-any-return]


def scheme_of(quantizer: Quantizer, weight: float) -> str:
    """Return the scheme of a quantizer for the operators."""
    name, granularity = type(quantizer).__name__, quantizer.granularity.to_dict()
    return json.dumps(Scheme(name, quantizer.dtype_name, quantizer.symmetric is True, granularity, weight))
