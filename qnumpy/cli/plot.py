"""``qnumpy plot``: draw a tensor of a file."""

import argparse
import warnings
from typing import Any

from .. import plot
from .._typing import Array
from ..arrays.base import CodedArray
from ..arrays.quantized import QuantizedArray
from ..dtypes import real_type
from ..files.atomic import replacing
from ..observers import HistogramObserver
from .common import (
    FINE,
    READABLE,
    Commands,
    UsageError,
    about_to_rename,
    add_code_type,
    add_command,
    add_force,
    add_symmetric,
    complain,
    open_reader,
    output_path,
    read_array,
)

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "plot", run, "Draw a tensor: its distribution, its channels, or the error of quantizing it."
    )
    parser.add_argument("input", metavar="FILE", help=READABLE)
    parser.add_argument("tensor", metavar="TENSOR", help="the name of a tensor in it")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the .png, .svg or .pdf file to write")
    parser.add_argument(
        "--kind",
        choices=("histogram", "channels", "threshold", "bits"),
        default="histogram",
        help="the distribution with the ends of the range (default), the range of every channel, the error against "
        "the end of the range, or against the bits of a code",
    )
    add_code_type(parser)
    parser.add_argument("--axis", type=int, default=0, help="axis of the channels (default: 0)")
    add_symmetric(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib must be installed: pip install 'qnumpy[plot]'.") from error
    path = output_path(args, (".png", ".svg", ".pdf"), [args.input])
    with open_reader(args.input) as reader:
        if args.tensor not in reader.specs:
            raise UsageError(f"TENSOR must be one of {args.input}; got {args.tensor!r}.")
        stored = read_array(reader, args.tensor)
    figure = Figure(figsize=(7, 4), layout="constrained")
    try:
        _draw(args, stored, figure.subplots())
    except ValueError as error:  # nothing finite, or no such axis
        raise UsageError(f"tensor {args.tensor!r}: {error}") from error
    with replacing(path, "xb") as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, format=path.rpartition(".")[2], dpi=150)
        about_to_rename(args)
    lacking = [warning for warning in caught if "missing from" in str(warning.message)]  # glyphs of the name
    for warning in caught:
        if warning not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return complain(args, f"the font lacks characters of {args.tensor!r}; they are boxes.", FINE) if lacking else FINE


def _draw(args: argparse.Namespace, stored: Array | CodedArray, ax: Any) -> None:
    if not isinstance(stored, CodedArray) and real_type(stored.dtype) is None:
        raise UsageError(f"TENSOR must be floating; got {args.tensor!r} of {stored.dtype}.")
    x = stored.dequantize() if isinstance(stored, CodedArray) else stored
    scheme: dict[str, Any] = {"dtype": args.dtype, "symmetric": args.symmetric}
    if args.kind == "histogram":
        observer = HistogramObserver(**scheme).observe(x)
        params = {method: observer.qparams(method) for method in ("minmax", "mse")}
        if isinstance(stored, QuantizedArray) and stored.scale.ndim == 0:
            params = {"in the file": stored.qparams}
        plot.histogram(observer, params, name=f"{args.tensor} ({x.dtype.name})", ax=ax)
    elif args.kind == "channels":
        plot.channel_ranges(x, args.axis, name=args.tensor, ax=ax)
    elif args.kind == "threshold":
        plot.error_by_threshold(x, **scheme, name=args.tensor, ax=ax)
    else:
        plot.error_by_bits(x, symmetric=args.symmetric, name=args.tensor, ax=ax)
