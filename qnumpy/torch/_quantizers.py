"""Modules that fake-quantize a tensor in training: by the range that they observe, by learned scales, by its own range."""

import json
from functools import lru_cache
from typing import Any

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
from ._elements import empty, fake_quantize, granularity_of, keep_inside, lsq, memory_order, text_of
from ._library import array_of, define, tensor_of

__all__ = ["FakeQuantize", "LearnedScale", "OwnRange", "Quantizer", "Resumable"]


# ---- operators that choose parameters, and fake-quantize by them ----

# Each returns y, and a bit for each element: it is inside the range. `order` is the memory order of x.
_SCHEME = "str dtype, bool symmetric, str granularity, int[] order"


def _observed(
    x: Tensor, low: Tensor, high: Tensor, scale: Tensor, zero_point: Tensor, weight: float, *scheme: Any
) -> tuple[Tensor, Tensor]:
    """Average the range of x into low and high, and fake-quantize x by the parameters of the average."""
    return _by("FakeQuantize", x, weight, [array_of(v) for v in (low, high, scale, zero_point)], *scheme)


def _own(x: Tensor, *scheme: Any) -> tuple[Tensor, Tensor]:
    """Fake-quantize x by its range."""
    return _by("OwnRange", x, 1.0, None, *scheme)


def _by(
    owner: str, x: Tensor, weight: float, held: list[Array] | None, dtype: str, symmetric: bool, granularity: str,
    order: list[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if memory_order(x) != order:  # a compiler has changed it
        x = empty(x, order).copy_(x)
    source, float_type = _args.real(owner, "x", array_of(x), TYPES)
    layout, qmin, qmax = _parameters(owner, granularity, tuple(source.shape), dtype, symmetric, tuple(order))
    low, high, scale, zero_point = _unseen(layout.shape) if held is None else held
    y, bits = results = empty(x, order), torch.empty((source.size + 7) // 8, dtype=torch.uint8)
    source, out = (source.transpose(order), array_of(y).transpose(order)) if order else (source, array_of(y))
    number, grid = float_type.core, layout.grid
    if source.size:
        _core.observe(source, number, *grid, weight, symmetric, qmin, qmax, low, high, scale, zero_point)
    _core.fake_quantize_inside(
        source, number, scale, zero_point, out, number, array_of(bits), *grid, qmin, qmax, 0
    )  # fmt: skip
    return results


@lru_cache(512)
def _parameters(
    owner: str, granularity: str, shape: tuple[int, ...], dtype: str, symmetric: bool, order: tuple[int, ...]
) -> tuple[_args.Layout, int, int]:
    """Return the layout of an array, transposed to the order of memory, and the ends of the codes."""
    given = granularity_of(granularity)
    layout = _args.layout_of(owner, given, shape)
    if order:
        moved = given.permuted(order, shape)
        layout = _args.Layout(moved.grid(tuple(shape[d] for d in order)), layout.shape, given)
    return layout, *code_ends(INTEGER_TYPES[dtype], symmetric)


def _unseen(shape: tuple[int, ...]) -> list[Array]:
    return [np.full(shape, np.inf), np.full(shape, -np.inf), np.ones(shape, np.float32), np.zeros(shape, np.int32)]


def _by_fake(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return empty(x, options[-1]), torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)


_observed_op = define(
    "observed_fake_quantize(Tensor x, Tensor(a!) low, Tensor(b!) high, Tensor(c!) scale, Tensor(d!) zero_point,"
    f" float weight, {_SCHEME}) -> (Tensor, Tensor)",
    _observed,
    _by_fake,
)
_own_op = define(f"own_fake_quantize(Tensor x, {_SCHEME}) -> (Tensor, Tensor)", _own, _by_fake)


class _StraightThrough(torch.autograd.Function):
    """One of both operators, with the gradient of fake_quantize."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Any, *options: Any) -> Tensor:
        y, bits = operator(x, *options)
        ctx.order = options[-1]
        ctx.save_for_backward(bits)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return keep_inside(g, *ctx.saved_tensors, ctx.order), *[None] * (len(ctx.needs_input_grad) - 1)


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
        self._text = text_of(self.granularity)

    @property
    def dtype(self) -> str:
        """The name of the code type; a new one takes the range that was observed."""
        return self.dtype_name

    @dtype.setter
    def dtype(self, value: DType) -> None:
        self.dtype_name = _args.code("FakeQuantize", value, INTEGER_TYPES).name
        if self.seen:
            low, high = np.minimum(array_of(self.low), 0.0), np.maximum(array_of(self.high), 0.0)
            ends = code_ends(self.code, self.symmetric)
            scale, zero_point = grid_of_range(low, high, *ends, self.symmetric is True, "FakeQuantize")
            array_of(self.scale)[...], array_of(self.zero_point)[...] = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        waits = bool(self.delay) and self._waits()
        if (self.training or self.always) and not (self.frozen and self.seen):
            held = self._buffers  # faster than the attributes of a module
            parameters = held["low"], held["high"], held["scale"], held["zero_point"]
            scheme = self.dtype_name, self.symmetric, self._text, memory_order(x)
            y: Tensor = _StraightThrough.apply(x, _observed_op, *parameters, self.averaging_constant, *scheme)  # type: ignore[no-untyped-call]
            self.seen = self.seen or x.numel() > 0
            return x if waits else y
        if waits:
            return x
        if not self.seen:
            self._require_seen()
        zero_point = None if self.symmetric else self.zero_point
        return fake_quantize(x, self.scale, zero_point, dtype=self.dtype_name, granularity=self.granularity)

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
        self._text = text_of(self.granularity)

    def forward(self, x: Tensor) -> Tensor:
        if self.delay and self._waits():
            return x
        scheme = self.dtype_name, self.symmetric, self._text, memory_order(x)
        return _StraightThrough.apply(x, _own_op, *scheme)  # type: ignore[no-any-return, no-untyped-call]
