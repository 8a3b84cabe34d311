"""Quantizers of tensors in training: by the range that they observe, by learned scales, by their own range."""

import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import _args, _check
from .._typing import Array, DType
from ..dtypes import INTEGER_TYPES, CodeType
from ..errors import CalibrationError
from ..granularity import Granularity, PerTensor
from ..ops.gradients import TYPES, observed_inside
from ..qat.learned import LEAST, Symmetric, code_ends, mean_magnitude
from ..qparams import QParams, grid_of_range
from ._elements import empty, fake_quantize, keep_inside, lsq, memory_order
from ._library import array_of, define, tensor_of

__all__ = ["FakeQuantize", "LearnedScale", "OwnRange", "Quantizer", "Resumable"]


# ---- operators that choose parameters, and fake-quantize by them ----

# A scheme is ``Scheme`` as JSON; `order` are the axes of x in memory, "" for C order. The results are y, and a bit for
# each element: it is inside the range.


class Scheme(NamedTuple):
    """How a tensor is fake-quantized."""

    owner: str
    dtype: str
    symmetric: bool
    granularity: dict[str, Any]
    weight: float  # of the average


def _observed(x: Tensor, held: list[Tensor], scheme: str, order: str) -> tuple[Tensor, Tensor]:
    """Average the range of x into low and high, and fake-quantize it by scale and zero_point of the average."""
    return _by(x, [v.numpy() for v in held], scheme, order)


def _own(x: Tensor, scheme: str, order: str) -> tuple[Tensor, Tensor]:
    """Fake-quantize x by its range."""
    return _by(x, None, scheme, order)


def _by(x: Tensor, held: list[Array] | None, scheme: str, order: str) -> tuple[Tensor, Tensor]:
    x, axes = _in_order(x, order)
    source = array_of(x)
    number, shape, grid, symmetric, qmin, qmax, weight = _parameters(scheme, source.shape, order, x.dtype)
    low, high, scale, zero_point = _unseen(shape) if held is None else held
    y, bits = results = empty(x, axes), torch.empty((source.size + 7) // 8, dtype=torch.uint8)
    out = array_of(y)
    if order:
        source, out = source.transpose(axes), out.transpose(axes)
    observed_inside(
        source, out, array_of(bits), number, grid, (low, high, scale, zero_point), weight, symmetric, qmin, qmax
    )
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
    moved = granularity.permuted(tuple(_axes(order)), shape) if order else granularity
    grid = moved.grid(tuple(shape[d] for d in _axes(order)) if order else shape)
    ends = code_ends(INTEGER_TYPES[scheme.dtype], scheme.symmetric)
    return float_type.core, layout.shape, grid, scheme.symmetric, *ends, scheme.weight


def _unseen(shape: tuple[int, ...]) -> list[Array]:
    return [np.full(shape, np.inf), np.full(shape, -np.inf), np.ones(shape, np.float32), np.zeros(shape, np.int32)]


def _observed_fake(x: Tensor, held: list[Tensor], scheme: str, order: str) -> tuple[Tensor, Tensor]:
    return _own_fake(x, scheme, order)


def _own_fake(x: Tensor, scheme: str, order: str) -> tuple[Tensor, Tensor]:
    return empty(x, _axes(order)), torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)


_observed_op = define(
    "observed_fake_quantize(Tensor x, Tensor(a!)[] held, str scheme, str order) -> (Tensor, Tensor)",
    _observed,
    _observed_fake,
)
_own_op = define("own_fake_quantize(Tensor x, str scheme, str order) -> (Tensor, Tensor)", _own, _own_fake)


class _StraightThrough(torch.autograd.Function):
    """The operators with the gradient of fake_quantize, for the input and the weight of a layer at once.

    At small sizes a node of the graph costs more than its arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, held: list[list[Tensor]] | None, schemes: list[str], *xs: Tensor) -> Any:
        ctx.axes, ys, bits = [], [], []
        for i, x in enumerate(xs):
            if held is not None and held[i][0].ndim > 1:
                x = x.contiguous()  # as the parameters of its groups lie
            axes = memory_order(x)
            ctx.axes.append(axes)
            order = "".join([str(axis) for axis in axes])
            y, inside = _own_op(x, schemes[i], order) if held is None else _observed_op(x, held[i], schemes[i], order)
            ys.append(y)
            bits.append(inside)
        ctx.save_for_backward(*bits)
        return ys[0] if len(xs) == 1 else tuple(ys)

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> Any:
        needed = ctx.needs_input_grad[2:]
        parts = zip(gs, ctx.saved_tensors, ctx.axes, needed, strict=True)
        return None, None, *[keep_inside(g, bits, axes) if need else None for g, bits, axes, need in parts]


def straight_through(schemes: list[str], xs: tuple[Tensor, ...], held: list[list[Tensor]] | None = None) -> Any:
    """Return the fake-quantized tensors, by the ranges that are held, or by their own."""
    return _StraightThrough.apply(held, schemes, *xs)  # type: ignore[no-untyped-call]


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
    _weight = 1.0  # of a new range in the average

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
        """The name of the code type; another one keeps the range."""
        return self.dtype_name

    @dtype.setter
    def dtype(self, value: DType) -> None:
        old, new = self.code, _args.code(type(self).__name__, value, INTEGER_TYPES)
        self.dtype_name = new.name
        self._set_scheme()
        self._keep_range(old, new)

    def _keep_range(self, old: CodeType, new: CodeType) -> None:
        """Change the parameters to those of another type."""

    def _set_scheme(self) -> None:
        """Write the scheme for the operators."""
        granularity = self.granularity.to_dict()
        scheme = Scheme(type(self).__name__, self.dtype_name, self.symmetric is True, granularity, self._weight)
        self.scheme = json.dumps(scheme)

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        self._set_scheme()

    @property
    def code(self) -> CodeType:
        return INTEGER_TYPES[self.dtype_name]

    def freeze(self) -> None:
        """Keep the parameters as they are."""
        self.frozen = True

    def qparams(self) -> QParams:
        """Return the parameters as they are now."""
        raise NotImplementedError

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
        self.averaging_constant = self._weight = averaging_constant
        self.always = always
        self.register_buffer("low", torch.full(shape, np.inf, dtype=torch.float64))
        self.register_buffer("high", torch.full(shape, -np.inf, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self._set_scheme()

    def _keep_range(self, old: CodeType, new: CodeType) -> None:
        if self.seen:
            low, high = np.minimum(array_of(self.low), 0.0), np.maximum(array_of(self.high), 0.0)
            ends = code_ends(new, self.symmetric)
            scale, zero_point = grid_of_range(low, high, *ends, self.symmetric is True, "FakeQuantize")
            array_of(self.scale)[...], array_of(self.zero_point)[...] = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        if self.joins(x):
            return straight_through([self.scheme], (x,), [self.held()])  # type: ignore[no-any-return]
        if self._observes(x):
            straight_through([self.scheme], (x.detach(),), [self.held()])
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

    def _keep_range(self, old: CodeType, new: CodeType) -> None:
        with torch.no_grad():
            self.scale.mul_(float(np.sqrt(old.qmax / new.qmax)))
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
        self._set_scheme()

    def forward(self, x: Tensor) -> Tensor:
        if self.delay and self._waits():
            return x
        return straight_through([self.scheme], (x,))  # type: ignore[no-any-return]
