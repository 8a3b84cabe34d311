"""How a PackedWeight quantizes x."""

from dataclasses import dataclass, replace
from typing import Any

from .. import _check
from .._typing import Float32Array
from ..dtypes import CODE_TYPES, REAL_TYPES
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor
from ..ops.hadamard import Hadamard
from ..ops.packed_columns import Activations
from ..ops.reduce import extremes
from ..qparams import QParams, grid_of_range

__all__ = ["PackedInput", "RealInput", "eight_bits", "integer_bits"]

_FLOAT32 = REAL_TYPES["float32"]
_PER_TENSOR, _PER_ROW = PerTensor(), PerRow()


@dataclass(frozen=True, slots=True)
class PackedInput:
    """The quantization of x.

    Attributes
    ----------
    granularity : PerRow, PerTensor or PerGroup
    groups : PerGroup or None
        The groups of the weight, along the last axis of x.
    bits : int
        8 or 7.
    activations : Activations
        The arguments of the kernels. Per tensor and without `qparams`, `activations_of` adds the scale of each x.
    qparams : QParams or None
        The x_qparams of the user, if any.
    hadamard : Hadamard or None
        What transforms x before it is quantized.
    """

    granularity: Granularity
    groups: PerGroup | None
    bits: int
    activations: Activations
    qparams: QParams | None = None
    hadamard: Hadamard | None = None

    @classmethod
    def of(
        cls, owner: str, weight: Granularity, granularity: Any, symmetric: Any, bits: Any, qparams: Any
    ) -> "PackedInput":
        symmetric = _check.flag(owner, "symmetric", symmetric)
        size = weight.group_size
        groups = None if size is None else PerGroup(size)
        choices = [_PER_ROW, _PER_TENSOR] if groups is None else [groups, _PER_ROW, _PER_TENSOR]
        if granularity is None:
            granularity = choices[0]
        elif not isinstance(granularity, Granularity) or granularity not in choices:
            error = ValueError if isinstance(granularity, Granularity) else TypeError
            requirement = _check.alternatives(map(str, choices))
            raise error(_check.must(owner, "x_granularity", requirement, _check.typed(granularity)))
        granularity = choices[choices.index(granularity)]
        if _check.integer(owner, "activation_bits", bits) not in (7, 8):
            raise ValueError(_check.must(owner, "activation_bits", "8 or 7", str(bits)))
        if qparams is None:
            qmax = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
            qmin, code = (-qmax, CODE_TYPES["int8"]) if symmetric else (0, CODE_TYPES["uint8"])
            return cls(
                granularity, groups, bits, Activations(code.core, symmetric, qmin, qmax, granularity == _PER_ROW)
            )
        params = eight_bits(owner, "x_qparams", qparams)
        scale, zero = float(params.scale), int(params.zero_point)
        activations = Activations(params.code.core, True, params.qmin, params.qmax, False, scale, zero)
        return cls(_PER_TENSOR, groups, 8, activations, params)

    def transformed_by(self, hadamard: Hadamard) -> "PackedInput":
        """Return the same for inputs that are transformed first."""
        return replace(self, hadamard=hadamard)

    def prepare(self, x: Float32Array) -> tuple[Float32Array, Activations]:
        """Return x and its activations; per tensor with the scale and zero point of its range."""
        activations, hadamard = self.activations, self.hadamard
        if self.granularity is not _PER_TENSOR or self.qparams is not None:
            return x, activations if hadamard is None else activations._replace(hadamard=hadamard)
        x = x if hadamard is None else hadamard.apply(x)  # whole, since its range comes first
        lowest, highest, _, _ = extremes(x, _FLOAT32, _PER_TENSOR)
        low, high = min(float(lowest), 0.0), max(float(highest), 0.0)
        scale, zero = grid_of_range(low, high, activations.qmin, activations.qmax, activations.symmetric)
        return x, activations._replace(scale=scale, zero_point=zero)

    def takes(self, granularity: Granularity, ndim: int) -> bool:
        """Return whether codes of `ndim` dimensions with several scales may have this granularity."""
        if isinstance(granularity, PerGroup):
            return granularity.axis % ndim == ndim - 1 and PerGroup(granularity.group_size) == self.groups
        if isinstance(granularity, PerChannel):
            return ndim == 2 and granularity.axis % 2 == 0
        return isinstance(granularity, PerRow)

    @property
    def allowed(self) -> str:
        """The granularities that codes may have, for messages."""
        if self.groups is None:
            return "per tensor or per row"
        return f"per tensor, per row or {self.groups.describe()} on the last axis"

    def options(self) -> dict[str, Any]:
        if self.qparams is not None:
            return {"x_qparams": self.qparams}
        symmetric = self.activations.symmetric
        return {"x_granularity": self.granularity, "symmetric": symmetric, "activation_bits": self.bits}

    def __str__(self) -> str:
        name = "int8" if self.activations.core == CODE_TYPES["int8"].core else "uint8"
        origin = "as given" if self.qparams is not None else f"per {self.granularity.kind}"
        return f"x {name} {origin}" + (" of 7 bits" if self.bits == 7 else "")


class RealInput:
    """No quantization of x: it stays float32."""

    activations = Activations(CODE_TYPES["int8"].core, True, -127, 127, True)  # no kernel reads them
    hadamard: Hadamard | None = None

    def __init__(self, owner: str, granularity: Any, symmetric: Any, bits: Any, qparams: Any) -> None:
        """Refuse the options of a quantization."""
        options = {
            "x_granularity": (granularity, granularity is None),
            "symmetric": (symmetric, symmetric in (True,)),
            "activation_bits": (bits, bits in (8,)),
            "x_qparams": (qparams, qparams is None),
        }
        for name, (value, is_default) in options.items():
            if not is_default:
                requirement = "left out for a weight of floats, with which x stays float32"
                raise ValueError(_check.must(owner, name, requirement, _check.typed(value)))

    def transformed_by(self, hadamard: Hadamard) -> "RealInput":
        self.hadamard = hadamard
        return self

    def prepare(self, x: Float32Array) -> tuple[Float32Array, Activations]:
        return x if self.hadamard is None else self.hadamard.apply(x), self.activations

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return "x float32"


def integer_bits(params: QParams) -> int:
    """Return the bits of integer codes, 0 for floats."""
    return params.code.bits if params.code.real is None else 0


def eight_bits(owner: str, name: str, value: Any) -> QParams:
    """Return `value` if it is a QParams per tensor of int8 or uint8."""
    if not isinstance(value, QParams):
        raise TypeError(_check.must(owner, name, "a QParams", _check.typed(value)))
    if integer_bits(value) != 8 or not isinstance(value.granularity, PerTensor):
        raise ValueError(_check.must(owner, name, "of int8 or uint8 per tensor", str(value)))
    return value
