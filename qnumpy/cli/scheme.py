"""Scheme: how a tensor is quantized, from the options of the command line."""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .._typing import Symmetric
from ..arrays.mx import MX_FORMATS, mx_format
from ..dtypes import CODE_TYPES, CodeType, code_type, float_type
from ..files.spec import TensorSpec
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor
from ..ops.choose import GRIDS
from ..ops.histogram import percentile_share
from .common import UsageError

__all__: list[str] = []

CASTS = ("float16", "bfloat16")  # a conversion without parameters, of tensors of any shape
DTYPES = [*CODE_TYPES, *CASTS, *MX_FORMATS]
GRANULARITIES: dict[str, type[Granularity]] = {cls.kind: cls for cls in (PerTensor, PerChannel, PerGroup)}
DEFAULTS: dict[str, dict[str, int]] = {"tensor": {}, "channel": {"axis": 0}, "group": {"axis": -1, "group_size": 32}}

METHODS = (*GRIDS, "gptq")

_OPTION = rf"(?:{'|'.join(DTYPES)}|tensor|channel|group(?:=\d{{1,18}})?|axis=-?\d{{1,18}}|"
_OPTION += rf"(?:no-)?symmetric|full-range|method=(?:{'|'.join(METHODS)})|keep)"
SET = re.compile(rf"(?P<pattern>.+?)=(?P<options>{_OPTION}(?:,{_OPTION})*)", re.DOTALL)


def add_granularity(parser: argparse.ArgumentParser, default: str, axis: str) -> None:
    """Add --per, --axis and --group-size; `default` and `axis` describe their defaults."""
    parser.add_argument(
        "--per", choices=list(GRANULARITIES), help=f"granularity (default: {default}; group with --group-size)"
    )
    parser.add_argument("--axis", type=int, help=axis)
    parser.add_argument("--group-size", type=int, metavar="N", help="neighbours that share a scale (default: 32)")


def add_method(parser: argparse.ArgumentParser, methods: Iterable[str], default: str) -> None:
    parser.add_argument(
        "--method", choices=list(methods), default=default, help=f"how the range is chosen (default: {default})"
    )
    parser.add_argument(
        "--percentile", type=float, default=99.99, help="what --method percentile covers (default: 99.99)"
    )


def check_percentile(args: argparse.Namespace) -> None:
    try:
        percentile_share("--percentile", args.percentile)
    except ValueError as error:
        raise UsageError(str(error).removeprefix("--percentile: ")) from error


@dataclass(frozen=True)
class Scheme:
    """How a tensor is quantized; None stands for the default of the granularity."""

    dtype: str
    per: str | None
    axis: int | None
    group_size: int | None
    symmetric: Symmetric
    method: str = "minmax"
    keep: bool = False

    def granularity(self, option: str = "") -> Granularity:
        """Return the granularity. Casts and MX formats fix their own and refuse every option of it."""
        if not self.has_choice:
            if (self.per, self.axis, self.group_size, self.symmetric) != (None, None, None, True):
                raise UsageError(
                    f"{option}granularity, axis, group size and symmetry must be left out for {self.dtype}."
                )
            if self.method != "minmax":
                raise UsageError(f"{option}method must be minmax for {self.dtype}, which chooses no range.")
            return PerTensor()
        code = code_type(self.dtype)
        if code is not None and code.real is not None and self.symmetric is not True:
            raise UsageError(f"{option}{self.dtype} must be symmetric: it has no zero point.")
        per = self.per or ("channel" if self.group_size is None else "group")
        arguments = dict(DEFAULTS[per])
        for name, value in (("group_size", self.group_size), ("axis", self.axis)):
            if value is None:
                continue
            if name not in arguments:
                raise UsageError(f"{option}{name.replace('_', ' ')} must be left out per {per}; got {value}.")
            arguments[name] = value
        self._check_search(option, code, per)
        if arguments.get("group_size", 1) < 1:
            raise UsageError(f"{option}group size must be at least 1; got {arguments['group_size']}.")
        return GRANULARITIES[per](**arguments)

    def _check_search(self, option: str, code: CodeType | None, per: str) -> None:
        """Refuse what a method or a full range does not search."""
        if self.symmetric == "full" and self.method in ("entropy", "percentile"):
            raise UsageError(f"{option}method must be minmax, mse, hqq or gptq for a full range; got {self.method}.")
        searched = self.method in ("hqq", "gptq") or (self.method == "mse" and self.symmetric == "full")
        if searched and code is not None and (code.bits > 8 or code.real is not None):
            raise UsageError(
                f"{option}dtype must be an integer type of at most 8 bits for {self.method}; got {code.name}."
            )
        if self.method == "gptq" and per == "tensor":
            raise UsageError(f"{option}granularity must be channel or group for gptq; got tensor.")

    @property
    def has_choice(self) -> bool:
        """Whether the type leaves a choice of granularity and symmetry."""
        return self.dtype not in CASTS and self.dtype not in MX_FORMATS

    def changed(self, options: str) -> "Scheme":
        """Return the scheme with the right side of --set applied."""
        scheme = self
        for option in options.split(","):
            key, _, value = option.partition("=")
            if key in GRANULARITIES:
                # another granularity starts from its own defaults
                scheme = replace(scheme, per=key, axis=None, group_size=int(value) if value else None)
            elif key == "axis":
                scheme = replace(scheme, axis=int(value))
            elif key.endswith("symmetric"):
                scheme = replace(scheme, symmetric=key == "symmetric")
            elif key == "full-range":
                scheme = replace(scheme, symmetric="full")
            elif key == "method":
                scheme = replace(scheme, method=value)
            elif key == "keep":
                scheme = replace(scheme, keep=True)
            else:
                scheme = scheme.of_type(key)
        return scheme

    def of_type(self, dtype: str) -> "Scheme":
        """Return the scheme for another type; a type without a choice resets the options of granularity."""
        scheme = replace(self, dtype=dtype)
        return scheme if scheme.has_choice else Scheme(dtype, None, None, None, True)

    def spec(self, shape: tuple[int, ...]) -> TensorSpec:
        """Return the spec of a quantized tensor of `shape`."""
        if mx_format(self.dtype) is not None:
            return TensorSpec.blocks(shape, self.dtype)
        if not self.has_choice:
            real = float_type(self.dtype)
            assert real is not None
            return TensorSpec(real.dtype, shape)
        return TensorSpec.quantized(shape, self.dtype, self.granularity(), symmetric=self.symmetric is True)
