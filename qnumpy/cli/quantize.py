"""``qnumpy quantize``: quantize a file and print a table of the errors and sizes."""

import argparse
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._args import real
from .._check import typed
from .._typing import Symmetric
from ..arrays.mx import MX_FORMATS
from ..arrays.quantized import quantize
from ..dtypes import CODE_TYPES, real_type
from ..errors import FileFormatError
from ..files.spec import TensorSpec, Value
from ..files.store import Reader
from ..ops.cast import cast
from ..ops.choose import choose
from ..ops.rounding import Rows
from ..reports.compare import Report, compare
from .common import (
    FINE,
    READABLE,
    Commands,
    UsageError,
    add_command,
    add_symmetric,
    open_reader,
    print_table,
    progress,
)
from .model import add_output, model_output, model_path
from .scheme import CASTS, DTYPES, METHODS, SET, Scheme, add_granularity, add_method, check_percentile
from .selection import Selection, add_selection, name_pattern

__all__: list[str] = []

_WEIGHT = ".weight"  # at the end of a tensor's name; moments may have the name of the layer


def add(commands: Commands) -> None:
    parser = add_command(commands, "quantize", run, "Quantize a file and print a table of what it cost.")
    parser.add_argument("input", metavar="IN", help=READABLE)
    add_output(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="int8",
        metavar="DTYPE",
        help=f"{', '.join(CODE_TYPES)} (default: int8); {' or '.join(CASTS)}, a plain conversion of every floating "
        f"tensor; or blocks along the last axis with a shared scale, {', '.join(MX_FORMATS)}",
    )
    add_granularity(parser, "channel", "axis of the channels (default: 0) or groups (default: -1)")
    add_symmetric(parser)
    parser.add_argument(
        "--full-range",
        action="store_true",
        help="all codes of an integer type, with one more step on the side of the largest magnitude",
    )
    add_method(parser, METHODS, "minmax")
    parser.add_argument(
        "--moments",
        metavar="FILE",
        help="moments of the layers' inputs, as `qnumpy calibrate --method moments` writes them, for --method gptq and "
        "mse: of a tensor 'fc.weight' those of the name 'fc.weight' or 'fc'",
    )
    add_selection(parser, "quantize")
    parser.add_argument(
        "--set",
        metavar="RE=OPTIONS",
        action="append",
        default=[],
        help="other options for names that match, as 'embed=int4,group=32' (repeatable, the last one wins): "
        "a dtype, tensor, channel, group=N, axis=K, symmetric, no-symmetric, full-range, method=M, keep",
    )


def run(args: argparse.Namespace) -> int:
    reports = []
    with open_reader(args.input) as reader, _moments_reader(args) as moments:
        path = model_path(args)
        plan = _plan(args, reader, moments)
        with model_output(args, path, {name: step.spec for name, step in plan.items()}, reader) as write:
            for name in progress({name: reader.specs[name] for name in plan}, "quantize"):
                value, report = _quantize(args, reader, moments, name, plan[name])
                reports.append(report)
                write(name, value)
    print_table(args, reports)
    return FINE


# The plan: one step for each tensor


@dataclass(frozen=True)
class Step:
    """The spec to write for one tensor, its scheme and the name of its moments, or why the tensor is kept."""

    spec: TensorSpec
    reason: str = ""
    scheme: Scheme | None = None
    moments: str | None = None


def _plan(args: argparse.Namespace, reader: Reader, moments: Reader | None) -> dict[str, Step]:
    """Return the step of each tensor; raise the errors of the options before any work."""
    selection = Selection.of(args, reader.specs)
    if args.full_range and not args.symmetric:
        raise UsageError("--no-symmetric must be left out beside --full-range.")
    symmetric: Symmetric = "full" if args.full_range else args.symmetric
    base = Scheme(args.dtype, args.per, args.axis, args.group_size, symmetric, args.method)
    base.granularity()
    check_percentile(args)
    changes = [_change(text, base, reader.specs) for text in args.set]
    plan = {}
    for name, spec in selection.readable(reader).items():
        options = [options for pattern, options in changes if pattern.search(name)]
        scheme = base.changed(options[-1]) if options else base
        left_out = not options and selection.leaves_out(name)
        if selection.excludes(name):
            reason = "excluded"
        else:
            reason = _reason_to_keep(spec, scheme, bool(options)) or ("not included" if left_out else "")
        plan[name] = Step(spec, reason) if reason else _step(name, spec, scheme, moments)
    if moments is not None and not any(step.moments for step in plan.values()):
        raise UsageError(
            f"--moments must have the name of a tensor that gptq or mse quantizes; {args.moments!r} has none."
        )
    return plan


@contextlib.contextmanager
def _moments_reader(args: argparse.Namespace) -> Iterator[Reader | None]:
    """Open the file of --moments, if there is one."""
    if args.moments is None:
        yield None
        return
    with open_reader(args.moments) as reader:
        yield reader


def _step(name: str, spec: TensorSpec, scheme: Scheme, moments: Reader | None) -> Step:
    """Return the step of a tensor that is quantized."""
    step = Step(_spec(name, spec, scheme), scheme=scheme)
    if scheme.method not in ("gptq", "mse"):
        return step
    if moments is None:
        if scheme.method == "gptq":
            raise UsageError("--moments FILE must be given for the method gptq.")
        return step
    names = [
        found for found in (name, *_alike(name, moments)) if moments.specs.get(found) and moments.specs[found].moments
    ]
    if not names:
        return step
    inputs, rows = moments.specs[names[0]].shape[0], Rows.of(scheme.granularity(), spec.shape)
    if rows.columns != inputs:
        wanted = f"{rows.columns} inputs, as {name!r} of shape {spec.shape} has {rows.granularity.describe()}"
        raise UsageError(f"--moments: {names[0]!r} must be of {wanted}; got {inputs}.")
    return replace(step, moments=names[0])


def _alike(name: str, moments: Reader) -> list[str]:
    """Return the names of moments that differ from a tensor's by a ".weight" at the end alone."""
    return [other for other in moments.specs if other.removesuffix(_WEIGHT) == name.removesuffix(_WEIGHT)]


def _change(text: str, base: Scheme, names: Iterable[str]) -> tuple[re.Pattern[str], str]:
    """Return the pattern and the options of --set, both checked."""
    match = SET.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--set must be RE=OPTION[,OPTION...] with a dtype, tensor, channel, group=N, axis=K, symmetric, "
            f"no-symmetric, full-range, method=M or keep; got {typed(text)}."
        )
    base.changed(match["options"]).granularity("--set: ")
    return name_pattern("--set", match["pattern"], names), match["options"]


def _reason_to_keep(spec: TensorSpec, scheme: Scheme, named: bool) -> str:
    """Return why a tensor stays as it is, "" if it is quantized; `named`: whether --set matches it."""
    if scheme.keep:
        return "kept by --set"
    if spec.granularity is not None:
        return "already quantized"
    if spec.moments is not None:
        return "moments"
    if real_type(spec.dtype) is None:
        return "integer" if spec.dtype.kind in "iu" or "int" in spec.dtype.name else spec.dtype.name
    if scheme.dtype == spec.dtype.name:
        return f"{spec.dtype.name} already"
    if scheme.dtype not in CASTS and len(spec.shape) < (1 if named else 2):
        return f"{len(spec.shape)}-D"
    return ""


def _spec(name: str, spec: TensorSpec, scheme: Scheme) -> TensorSpec:
    """Return the spec of a quantized tensor; refuse a granularity that does not fit it."""
    try:
        scheme.granularity().params_shape(spec.shape)
    except ValueError as error:
        raise UsageError(f"tensor {name!r} of shape {spec.shape}: {error}") from error
    return scheme.spec(spec.shape)


def _quantize(
    args: argparse.Namespace, reader: Reader, moments: Reader | None, name: str, step: Step
) -> tuple[Value, Report]:
    x = reader.read(name)
    spec, scheme = step.spec, step.scheme
    if scheme is None:
        return x, Report.kept(name, spec.shape, spec.type_name, spec.nbytes, step.reason)
    assert isinstance(x, np.ndarray)
    observer: Any = None
    if moments is not None and step.moments is not None:
        observer = moments.read(step.moments)
    method, label = scheme.method, scheme.method
    if observer is None and (method == "gptq" or (method == "mse" and moments is not None)):
        method, label = "mse", "mse (no moments)"
    value: Value
    try:
        if scheme.dtype in CASTS:
            value = cast(x, scheme.dtype, overflow="raise")
        elif spec.format is not None:
            value = quantize(x, dtype=spec.format)
        elif method == "gptq":
            value = quantize(
                x, dtype=spec.type_name, granularity=spec.granularity, symmetric=scheme.symmetric, method="gptq",
                moments=observer,
            )  # fmt: skip
        else:
            params = choose(
                "quantize", *real("quantize", "x", x), spec.type_name, spec.granularity, scheme.symmetric, method,
                args.percentile, observer,
            )  # fmt: skip
            value = quantize(x, params)
    except (ValueError, OverflowError) as error:  # the options were checked before, so the values are at fault
        raise FileFormatError(f"{args.input}: tensor {name!r}: {error} --exclude keeps it as it is.") from error
    report = compare(x, value, name=name)
    return value, replace(report, method=label) if scheme.has_choice else report
