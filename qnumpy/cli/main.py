"""The command line: ``qnumpy quantize | inspect | compare | plot | calibrate | info | demo``.

Exit codes: 0 fine, 1 a quality gate failed, 2 usage, 3 a file that cannot be read or written.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from .. import __version__, plot
from .._check import typed
from .._tables import aligned
from ..arrays.mx import MX_FORMATS, MXArray, mx_format
from ..arrays.quantized import QuantizedArray, quantize
from ..calibration.calibrate import Calibration
from ..dtypes import CODE_TYPES, code_type, float_type, real_type
from ..errors import FileFormatError
from ..files.qparams import replacing, save_qparams
from ..files.store import NamesCollideError, Reader, TensorSpec, Value, Writer
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor
from ..observers import HistogramObserver, observer_for, observers_by_method
from ..ops.cast import cast
from ..qparams import QParams
from ..reports.compare import Report, ReportTable, compare
from ..reports.float_report import TARGETS, FloatReportTable, float_report
from ..reports.metrics import Quantized
from ..runtime import show_config
from . import demo

__all__ = ["main"]

FINE, GATE_FAILED, USAGE, BAD_FILE, INTERRUPTED = 0, 1, 2, 3, 130

CASTS = ("float16", "bfloat16")  # a conversion without parameters, of tensors of any shape
DTYPES = [*CODE_TYPES, *CASTS, *MX_FORMATS]
_OPTION = rf"(?:{'|'.join(DTYPES)}|tensor|channel|group(?:=\d{{1,18}})?|axis=-?\d{{1,18}}|(?:no-)?symmetric|keep)"
_SET = re.compile(rf"(?P<pattern>.+?)=(?P<options>{_OPTION}(?:,{_OPTION})*)", re.DOTALL)


class UsageError(Exception):
    """What was asked cannot be done; nothing was written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong, or printed the help
        return int(stop.code or 0)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of tensors may be beyond its encoding
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _say(args, str(error), USAGE)
    except BrokenPipeError:  # the reader of our output has gone; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(args.code)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _say(args, f"{what}.", BAD_FILE)
    except FileFormatError as error:
        return _say(args, str(error), BAD_FILE)
    except KeyboardInterrupt:
        return _say(args, f"interrupted; {args.left}.", INTERRUPTED)


def _say(args: argparse.Namespace, text: str, code: int) -> int:
    print(f"qnumpy {args.command}: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qnumpy",
        description="Quantize the arrays of .npz and .safetensors files.",
        epilog="Exit codes: 0 fine, 1 quality gate failed, 2 usage, 3 bad file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qnumpy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    symmetric = "one zero point in the middle of the codes (default), or one that fits the range"
    group_size = "neighbours that share a scale (default: 32)"
    readable = "a .npz or .safetensors file, or the .safetensors.index.json of a sharded model"

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # what holds when the reader of our output has gone, and when Ctrl-C comes
        made.set_defaults(run=run, code=FINE, left="no file was written", dry_run=False)
        return made

    q = command("quantize", _quantize, "Quantize a file and print a table of what it cost.")
    q.add_argument("input", metavar="IN", help=readable)
    q.add_argument("-o", "--output", metavar="OUT", help="the .npz or .safetensors file to write")
    q.add_argument(
        "--dtype",
        choices=DTYPES,
        default="int8",
        metavar="DTYPE",
        help=f"{', '.join(CODE_TYPES)} (default: int8); {' or '.join(CASTS)}, a plain conversion of every floating "
        f"tensor; or blocks along the last axis with a shared scale, {', '.join(MX_FORMATS)}",
    )
    q.add_argument(
        "--per", choices=("tensor", "channel", "group"), help="granularity (default: channel; group with --group-size)"
    )
    q.add_argument("--axis", type=int, help="axis of the channels (default: 0) or groups (default: -1)")
    q.add_argument("--group-size", type=int, metavar="N", help=group_size)
    q.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=symmetric,
    )
    q.add_argument(
        "--include", metavar="RE", action="append", default=[], help="quantize only names that match (repeatable)"
    )
    q.add_argument(
        "--exclude", metavar="RE", action="append", default=[], help="keep names that match as they are (repeatable)"
    )
    q.add_argument(
        "--set",
        metavar="RE=OPTIONS",
        action="append",
        default=[],
        help="other options for names that match, as 'embed=int4,group=32' (repeatable, the last one wins): "
        "a dtype, tensor, channel, group=N, axis=K, symmetric, no-symmetric, keep",
    )
    q.add_argument("--dry-run", action="store_true", help="do everything but write")
    q.add_argument("--force", action="store_true", help="replace OUT if it exists")
    q.add_argument("--json", action="store_true", help="print the table as JSON")

    i = command("inspect", _inspect, "List what is in a file.")
    i.add_argument("input", metavar="FILE", help=readable)
    i.add_argument(
        "--float", dest="float_type", metavar="TYPE", choices=list(TARGETS),
        help=f"say of each floating tensor what it would lose in {', '.join(TARGETS)}",
    )  # fmt: skip
    i.add_argument("--json", action="store_true", help="print the list as JSON")

    c = command("compare", _compare, "Compare a quantized file with its original.")
    c.add_argument("reference", metavar="REF", help=readable)
    c.add_argument("quantized", metavar="QUANT", help="the quantized file")
    c.add_argument(
        "--fail-below-sqnr",
        metavar="DB",
        type=float,
        help="exit with 1 when a quantized tensor has a lower signal-to-quantization-noise ratio, in decibels, "
        "or a kept one has changed",
    )
    c.add_argument("--json", action="store_true", help="print the table as JSON")

    p = command("plot", _plot, "Draw a tensor: its distribution, its channels, or the error of quantizing it.")
    p.add_argument("input", metavar="FILE", help=readable)
    p.add_argument("tensor", metavar="TENSOR", help="the name of a tensor in it")
    p.add_argument("-o", "--output", metavar="OUT", required=True, help="the .png, .svg or .pdf file to write")
    p.add_argument(
        "--kind",
        choices=("histogram", "channels", "threshold", "bits"),
        default="histogram",
        help="the distribution with the ends of the range (default), the range of every channel, the error against "
        "the end of the range, or against the bits of a code",
    )
    p.add_argument("--dtype", choices=list(CODE_TYPES), default="int8", help="code type (default: int8)")
    p.add_argument("--axis", type=int, default=0, help="axis of the channels (default: 0)")
    p.add_argument("--symmetric", action=argparse.BooleanOptionalAction, default=True, help=symmetric)
    p.add_argument("--force", action="store_true", help="replace OUT if it exists")

    a = command("calibrate", _calibrate, "Choose parameters for activations: arrays of one name are one tensor.")
    a.add_argument("inputs", metavar="DATA", nargs="+", help=readable)
    a.add_argument(
        "-o", "--output", metavar="OUT", help="the .json file to write; without it only the table is printed"
    )
    methods = list(observers_by_method())
    a.add_argument("--method", choices=methods, default="mse", help="how the range is chosen (default: mse)")
    a.add_argument("--percentile", type=float, default=99.99, help="what --method percentile covers (default: 99.99)")
    a.add_argument("--dtype", choices=list(CODE_TYPES), default="int8", help="code type (default: int8)")
    a.add_argument(
        "--per", choices=("tensor", "channel", "group"), help="granularity (default: tensor; group with --group-size)"
    )
    a.add_argument("--axis", type=int, help="axis of the channels or groups (default: the last)")
    a.add_argument("--group-size", type=int, metavar="N", help=group_size)
    a.add_argument("--symmetric", action=argparse.BooleanOptionalAction, default=True, help=symmetric)
    a.add_argument("--force", action="store_true", help="replace OUT if it exists")
    a.add_argument("--json", action="store_true", help="print the table as JSON")

    n = command("info", _info, "Print versions, the CPU's instruction sets and which of them serves each kernel.")
    n.add_argument("--json", action="store_true", help="print them as JSON")

    command("demo", _demo, "Quantize a small classifier that comes with qnumpy and show what it costs.")
    return parser


# quantize


@dataclass(frozen=True)
class _Scheme:
    """How a tensor is quantized; None stands for the default of the granularity."""

    dtype: str
    per: str | None
    axis: int | None
    group_size: int | None
    symmetric: bool
    keep: bool = False

    def granularity(self, option: str = "") -> Granularity:
        """The granularity; of a type that leaves no choice none may be asked for, and what comes is not looked at."""
        if self.dtype in CASTS or self.dtype in MX_FORMATS:
            if (self.per, self.axis, self.group_size, self.symmetric) != (None, None, None, True):
                raise UsageError(
                    f"{option}granularity, axis, group size and symmetry must be left out for {self.dtype}."
                )
            return PerTensor()
        code = code_type(self.dtype)
        if code is not None and code.real is not None and not self.symmetric:
            raise UsageError(f"{option}{self.dtype} must be symmetric: it has no zero point.")
        per = self.per or ("channel" if self.group_size is None else "group")
        if self.group_size is not None and per != "group":
            raise UsageError(f"{option}group size must be left out per {per}; got {self.group_size}.")
        if per == "tensor":
            if self.axis is not None:
                raise UsageError(f"{option}axis must be left out per tensor; got {self.axis}.")
            return PerTensor()
        if per == "channel":
            return PerChannel(0 if self.axis is None else self.axis)
        size = 32 if self.group_size is None else self.group_size
        if size < 1:
            raise UsageError(f"{option}group size must be at least 1; got {size}.")
        return PerGroup(size, -1 if self.axis is None else self.axis)

    def changed(self, options: str) -> "_Scheme":
        """Apply the right side of --set."""
        new = self
        for option in options.split(","):
            key, _, value = option.partition("=")
            if key in ("tensor", "channel", "group"):
                # another granularity starts from its own defaults
                new = replace(new, per=key, axis=None, group_size=int(value) if value else None)
            elif key == "axis":
                new = replace(new, axis=int(value))
            elif key.endswith("symmetric"):
                new = replace(new, symmetric=key == "symmetric")
            else:
                new = replace(new, keep=True) if key == "keep" else new.retyped(key)
        return new

    def retyped(self, dtype: str) -> "_Scheme":
        """Of another type; one that leaves no choice drops what was asked of the others."""
        if dtype in CASTS or dtype in MX_FORMATS:
            return _Scheme(dtype, None, None, None, True)
        return replace(self, dtype=dtype)

    def spec(self, shape: tuple[int, ...]) -> TensorSpec:
        """What a tensor of `shape` becomes."""
        if self.dtype in CASTS:
            kind = float_type(self.dtype)
            assert kind is not None
            return TensorSpec(kind.dtype, shape)
        if mx_format(self.dtype) is not None:
            return TensorSpec.blocks(shape, self.dtype)
        return TensorSpec.quantized(shape, self.dtype, self.granularity(), symmetric=self.symmetric)


@dataclass(frozen=True)
class _Job:
    """What becomes of one tensor: the spec to write, and how to get there or why not."""

    spec: TensorSpec
    kept: str = ""  # the reason
    scheme: _Scheme | None = None


def _pattern(option: str, text: str, names: Iterable[str]) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what may come to mean something else
            pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError, FutureWarning) as error:
        raise UsageError(f"{option} must be a regular expression; got {text!r}: {error}.") from error
    if not any(map(pattern.search, names)):
        raise UsageError(f"{option} must match the name of a tensor; {text!r} matches none.")
    return pattern


def _jobs(args: argparse.Namespace, specs: Mapping[str, TensorSpec]) -> dict[str, _Job]:
    """Decide for each tensor; every complaint about the options is made here, before any work."""
    include = [_pattern("--include", text, specs) for text in args.include]
    exclude = [_pattern("--exclude", text, specs) for text in args.exclude]
    base = _Scheme(args.dtype, args.per, args.axis, args.group_size, args.symmetric)
    base.granularity()
    changes = []
    for text in args.set:
        split = _SET.fullmatch(text)
        if split is None:
            raise UsageError(
                f"--set must be RE=OPTION[,OPTION...] with a dtype, tensor, channel, group=N, axis=K, symmetric, "
                f"no-symmetric or keep; got {typed(text)}."
            )
        base.changed(split["options"]).granularity("--set: ")
        changes.append((_pattern("--set", split["pattern"], specs), split["options"]))

    jobs = {}
    for name, spec in specs.items():
        options = [options for pattern, options in changes if pattern.search(name)]
        scheme = base.changed(options[-1]) if options else base
        if any(pattern.search(name) for pattern in exclude):
            why = "excluded"
        elif scheme.keep:
            why = "kept by --set"
        elif spec.granularity is not None:
            why = "already quantized"
        elif real_type(spec.dtype) is None:
            why = _no_float(spec.dtype)
        elif scheme.dtype == spec.dtype.name:
            why = f"{spec.dtype.name} already"
        elif scheme.dtype not in CASTS and (not spec.shape or (len(spec.shape) < 2 and not options)):
            why = f"{len(spec.shape)}-D"
        elif include and not options and not any(pattern.search(name) for pattern in include):
            why = "not included"
        else:
            granularity = scheme.granularity()
            try:
                granularity.params_shape(spec.shape)
            except ValueError as error:
                raise UsageError(f"tensor {name!r} of shape {spec.shape}: {error}") from error
            jobs[name] = _Job(scheme.spec(spec.shape), scheme=scheme)
            continue
        jobs[name] = _Job(spec, why)
    return jobs


def _no_float(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu" or "int" in dtype.name:
        return "integer"
    return dtype.name


def _output(args: argparse.Namespace, suffixes: tuple[str, ...], inputs: Iterable[str]) -> str:
    """Refuse an output that would cost the user something."""
    path: str = args.output
    if not path.endswith(suffixes):
        raise UsageError(f"-o must end in {' or '.join(suffixes)}; got {path!r}.")
    if os.path.exists(path):
        if any(os.path.exists(source) and os.path.samefile(path, source) for source in inputs):
            raise UsageError(f"-o must be another file than the input; got {path!r} for both.")
        if not os.path.isfile(path):
            raise UsageError(f"-o must be a regular file; got {path!r}.")
        if not (args.force or args.dry_run):
            raise UsageError(f"-o must be a new file, or --force given to replace it; {path!r} exists.")
    return path


def _quantize(args: argparse.Namespace) -> int:
    reports = []
    with _open(args.input) as reader:
        if args.output is None and not args.dry_run:
            raise UsageError("-o OUT must be given; without it use --dry-run.")
        path = None if args.output is None else _output(args, (".npz", ".safetensors"), reader.paths)
        jobs = _jobs(args, reader.specs)
        plan = {name: job.spec for name, job in jobs.items()}
        writer: Any = contextlib.nullcontext()
        if path is not None:
            try:
                planned = Writer(path, plan, reader.metadata)
            except NamesCollideError as error:
                raise UsageError(f"{error} --exclude or --set 'RE=keep' leaves a tensor as it is.") from error
            except TypeError as error:  # a dtype
                raise UsageError(f"{error} A .npz file holds it.") from error
            except ValueError as error:
                raise UsageError(str(error)) from error
            if not args.dry_run:
                writer = planned
        with writer as out:
            for name in _progress(reader.specs, "quantize"):
                value, report = _one(args, reader, name, jobs[name])
                reports.append(report)
                if out is not None:
                    out.write(name, value)
            _writing(args)
    _print_table(args, reports)
    return FINE


def _writing(args: argparse.Namespace) -> None:
    """From here on the file may appear at any time."""
    if args.output is not None and not args.dry_run:
        args.left = f"{args.output!r} is whole, or as it was"


def _one(args: argparse.Namespace, reader: Reader, name: str, job: _Job) -> tuple[Any, Report]:
    x = reader.read(name)
    spec, scheme = job.spec, job.scheme
    if scheme is None:
        return x, Report.kept(name, spec.shape, spec.format or spec.dtype, spec.nbytes, job.kept)
    q: Value
    try:
        if scheme.dtype in CASTS:
            q = cast(x, scheme.dtype, overflow="raise")
        elif spec.format is not None:
            q = quantize(x, dtype=spec.format)
        else:
            q = quantize(x, dtype=spec.dtype, granularity=spec.granularity, symmetric=scheme.symmetric)
    except (ValueError, OverflowError) as error:  # options were checked before: it is the numbers
        raise FileFormatError(f"{args.input}: tensor {name!r}: {error} --exclude keeps it as it is.") from error
    return q, compare(x, q, name=name)


def _open(path: str) -> Reader:
    """Open for reading; a name that ends in nothing known is the user's slip, not a bad file."""
    try:
        return Reader(path)
    except FileFormatError:
        raise
    except ValueError as error:
        raise UsageError(str(error).removeprefix("load: ")) from error


def _progress(specs: Mapping[str, TensorSpec], what: str) -> Iterator[str]:
    """Go through the names; where a person is watching, with a bar on stderr that counts bytes."""
    if not sys.stderr.isatty():
        yield from specs
        return
    from tqdm import tqdm  # only when it is seen

    total = sum(spec.nbytes for spec in specs.values())
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:
        for name, spec in specs.items():
            yield name
            bar.update(spec.nbytes)


def _print_table(args: argparse.Namespace, reports: list[Report]) -> None:
    table = ReportTable(reports)
    print(table.to_json() if args.json else table)


# inspect


def _inspect(args: argparse.Namespace) -> int:
    if args.float_type is not None:
        return _inspect_floats(args)
    with _open(args.input) as reader:
        specs, metadata = reader.specs, reader.metadata
    records = [
        {
            "name": name,
            "dtype": spec.format or spec.dtype.name,
            "shape": list(spec.shape),
            "granularity": None if spec.granularity is None else spec.granularity.describe(),
            "nbytes": spec.nbytes,
        }
        for name, spec in specs.items()
    ]
    total = sum(spec.nbytes for spec in specs.values())
    if args.json:
        print(json.dumps({"tensors": records, "nbytes": total, "metadata": metadata}, indent=2))
        return FINE
    rows = [["tensor", "dtype", "shape", "granularity", "bytes"]]
    rows += [
        [
            name,
            spec.format or spec.dtype.name,
            str(spec.shape),
            spec.granularity.describe() if spec.granularity else "-",
            f"{spec.nbytes:,}",
        ]
        for name, spec in specs.items()
    ]
    elements = sum(math.prod(spec.shape) for spec in specs.values())
    rows.append([f"{len(specs)} tensors", "", f"{elements:,} elements", "", f"{total:,}"])
    print("\n".join(aligned(rows, left=4)))
    return FINE


def _inspect_floats(args: argparse.Namespace) -> int:
    reports, left_out = [], 0
    with _open(args.input) as reader:
        for name in _progress(reader.specs, "inspect"):
            spec = reader.specs[name]
            if spec.granularity is None and float_type(spec.dtype) is not None:
                reports.append(float_report(reader.read(name), args.float_type, name=name))
            else:
                left_out += 1
    table = FloatReportTable(reports)
    print(table.to_json() if args.json else table)
    if left_out and not args.json:
        print(f"{left_out} more {'is' if left_out == 1 else 'are'} left out: not plain floats.")
    if reports and not args.json:
        print(f"This CPU {reports[0].cpu}.")
    return FINE


# compare


def _compare(args: argparse.Namespace) -> int:
    limit = args.fail_below_sqnr
    if limit is not None and math.isnan(limit):
        raise UsageError("--fail-below-sqnr must be a number of decibels; got nan.")
    reports, failed = [], []
    with _open(args.reference) as reference, _open(args.quantized) as quantized:
        _same_tensors(args, reference, quantized)
        for name in _progress(quantized.specs, "compare"):
            x, q = reference.read(name), quantized.read(name)
            spec = quantized.specs[name]
            if not isinstance(x, Quantized) and (isinstance(q, Quantized) or _converted(x, q)):
                if real_type(x.dtype) is None:
                    raise FileFormatError(f"{args.reference}: tensor {name!r} must be floating; got {x.dtype}.")
                report = compare(x, q, name=name)
                reports.append(report)
                if limit is not None and not report.sqnr_db >= limit:  # NaN fails too
                    failed.append(f"{name!r} ({report.sqnr_db:.2f} dB)")
            else:
                same = _same(x, q)
                reports.append(
                    Report.kept(
                        name, spec.shape, spec.format or spec.dtype, spec.nbytes, "equal" if same else "CHANGED"
                    )
                )
                if limit is not None and not same:
                    failed.append(f"{name!r} (kept, but changed)")
    if failed:
        args.code = GATE_FAILED
    try:
        _print_table(args, reports)
        sys.stdout.flush()
    finally:  # said even when nobody reads the table
        if failed:
            more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
            what = f"{len(failed)} of {len(reports)} below {limit:g} dB: {', '.join(failed[:5])}{more}."
            _say(args, what, GATE_FAILED)
    return int(args.code)


def _same_tensors(args: argparse.Namespace, reference: Reader, quantized: Reader) -> None:
    for here, there, lacking in (
        (reference, quantized, args.quantized),
        (quantized, reference, args.reference),
    ):
        for name, spec in here.specs.items():
            if name not in there.specs:
                raise FileFormatError(f"{lacking}: tensor {name!r} of {here.path} is missing.")
            if there.specs[name].shape != spec.shape:
                raise FileFormatError(
                    f"{lacking}: tensor {name!r} must have the shape {spec.shape} it has in {here.path}; "
                    f"got {there.specs[name].shape}."
                )


def _converted(x: Any, q: Any) -> bool:
    """Whether q is x in another of the types whose figures compare gives."""
    return x.dtype.name != q.dtype.name and None not in (real_type(x.dtype), real_type(q.dtype))


def _same(x: Any, q: Any) -> bool:
    """Bit for bit, so that NaN equals itself, in whatever byte order."""
    if isinstance(x, Quantized) or isinstance(q, Quantized):
        return bool(type(x) is type(q) and x == q)
    x, q = _native(x), _native(q)
    return bool(x.dtype == q.dtype and x.tobytes() == q.tobytes())


def _native(x: Any) -> Any:
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


# plot, calibrate


def _plot(args: argparse.Namespace) -> int:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib must be installed: pip install 'qnumpy[plot]'.") from error
    path = _output(args, (".png", ".svg", ".pdf"), [args.input])
    with _open(args.input) as reader:
        if args.tensor not in reader.specs:
            raise UsageError(f"TENSOR must be one of {args.input}; got {args.tensor!r}.")
        stored = reader.read(args.tensor)
    x, params = stored, None
    if isinstance(stored, QuantizedArray):
        x, params = stored.dequantize(), stored.qparams
    elif isinstance(stored, MXArray):
        x = stored.dequantize()
    elif real_type(stored.dtype) is None:
        raise UsageError(f"TENSOR must be floating; got {args.tensor!r} of {stored.dtype}.")
    kind: dict[str, Any] = {"dtype": args.dtype, "symmetric": args.symmetric}
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    try:
        if args.kind == "histogram":
            seen = HistogramObserver(**kind).observe(x)
            named = {method: seen.qparams(method) for method in ("minmax", "mse")}
            if params is not None and params.scale.ndim == 0:
                named = {"in the file": params}
            plot.histogram(seen, named, name=f"{args.tensor}, {next(iter(named.values())).code.name}", ax=ax)
        elif args.kind == "channels":
            plot.channel_ranges(x, args.axis, name=args.tensor, ax=ax)
        elif args.kind == "threshold":
            plot.error_by_threshold(x, **kind, name=args.tensor, ax=ax)
        else:
            plot.error_by_bits(x, symmetric=args.symmetric, name=args.tensor, ax=ax)
    except ValueError as error:  # nothing finite, or no such axis
        raise UsageError(f"tensor {args.tensor!r}: {error}") from error
    with replacing(path, "xb") as file:
        figure.savefig(file, format=path.rpartition(".")[2], dpi=150)
        _writing(args)
    return FINE


def _calibrate(args: argparse.Namespace) -> int:
    path = None if args.output is None else _output(args, (".json",), args.inputs)
    per = args.per or ("tensor" if args.group_size is None else "group")
    axis = -1 if per == "channel" and args.axis is None else args.axis
    granularity = _Scheme(args.dtype, per, axis, args.group_size, args.symmetric).granularity()
    kind: dict[str, Any] = {"dtype": args.dtype, "granularity": granularity, "symmetric": args.symmetric}
    try:
        observer = observer_for(args.method, args.percentile, **kind)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    calibration = Calibration(observer)
    for name in args.inputs:
        with _open(name) as reader:
            for tensor in _progress(reader.specs, "calibrate"):
                x = reader.read(tensor)
                if isinstance(x, QuantizedArray | MXArray) or real_type(x.dtype) is None:
                    continue
                try:
                    calibration.observe(tensor, x)
                except ValueError as error:
                    raise FileFormatError(f"{name}: tensor {tensor!r}: {error}") from error
    if not calibration:
        raise UsageError("DATA must hold floating arrays; got none.")
    if path is not None:
        _writing(args)
        save_qparams(path, {tensor: _params(calibration, tensor) for tensor in calibration})
    report = calibration.report()
    print(report.to_json() if args.json else report)
    return FINE


def _params(calibration: Calibration, tensor: str) -> QParams:
    try:
        return calibration[tensor]
    except ValueError as error:
        raise FileFormatError(f"tensor {tensor!r}: {error}") from error


# info, demo


def _info(args: argparse.Namespace) -> int:
    about: dict[str, Any] = {
        "qnumpy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "machine": platform.machine(),
        **show_config(),
    }
    if args.json:
        print(json.dumps(about, indent=2))
        return FINE
    width = max(map(len, about))
    for key, value in about.items():
        if not isinstance(value, Mapping):
            print(f"{key:<{width}}  {value}")
            continue
        inner = max(map(len, value), default=0)
        print(key)
        for name, said in value.items():
            print(f"  {name:<{inner}}  {('yes' if said else 'no') if isinstance(said, bool) else said}")
    return FINE


def _demo(args: argparse.Namespace) -> int:
    return int(demo.main())
