"""``qnumpy inspect``: list the tensors of a file, or report what its floats would lose in another type."""

import argparse
import json
import math

from .._tables import aligned
from ..dtypes import float_type
from ..files.spec import TensorSpec
from ..reports.float_report import TARGETS, FloatReportTable, float_report
from .common import FINE, READABLE, Commands, add_command, add_json, open_reader, progress, read_array, show_table
from .streams import show

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(commands, "inspect", run, "List what is in a file.")
    parser.add_argument("input", metavar="FILE", help=READABLE)
    parser.add_argument(
        "--float", dest="float_type", metavar="TYPE", choices=list(TARGETS),
        help=f"report what each floating tensor would lose in {', '.join(TARGETS)}",
    )  # fmt: skip
    add_json(parser, "the list")


def run(args: argparse.Namespace) -> int:
    return _list_tensors(args) if args.float_type is None else _report_floats(args)


def _list_tensors(args: argparse.Namespace) -> int:
    with open_reader(args.input) as reader:
        specs, metadata = reader.specs, reader.metadata
    total = sum(spec.nbytes for spec in specs.values())
    if args.json:
        records = [
            {
                "name": name,
                "dtype": spec.type_name,
                "shape": list(spec.shape),
                "granularity": None if spec.granularity is None else spec.granularity.describe(),
                "moments": None if spec.moments is None else dict(spec.moments),
                "nbytes": spec.nbytes,
                "unreadable": None if spec.unreadable is None else spec.unreadable.reason,
            }
            for name, spec in specs.items()
        ]
        show(json.dumps({"tensors": records, "nbytes": total, "metadata": metadata}, indent=2))
        return FINE
    rows = [["tensor", "dtype", "shape", "granularity", "bytes"]]
    rows += [
        [
            name,
            spec.type_name,
            str(spec.shape),
            _parameters(spec),
            f"{spec.nbytes:,}",
        ]
        for name, spec in specs.items()
    ]
    elements = sum(math.prod(spec.shape) for spec in specs.values())
    rows.append([f"{len(specs)} tensors", "", f"{elements:,} elements", "", f"{total:,}"])
    show("\n".join(aligned(rows, left=4)))
    return FINE


def _parameters(spec: TensorSpec) -> str:
    """Return the cell of the granularity, or why the array is not read."""
    if spec.unreadable is not None:
        return f"not read: {spec.unreadable.reason}"
    if spec.moments is not None:
        return f"moments of {spec.moments['rows']:,} rows"
    return "-" if spec.granularity is None else spec.granularity.describe()


def _report_floats(args: argparse.Namespace) -> int:
    reports, left_out = [], 0
    with open_reader(args.input) as reader:
        for name in progress(reader.specs, "inspect"):
            spec = reader.specs[name]
            if spec.is_plain and float_type(spec.dtype) is not None:
                reports.append(float_report(read_array(reader, name), args.float_type, name=name))
            else:
                left_out += 1
    show_table(args, FloatReportTable(reports))
    if left_out and not args.json:
        show(f"{left_out} more {'is' if left_out == 1 else 'are'} left out: not plain floats.")
    if reports and not args.json:
        show(f"This CPU {reports[0].cpu}.")
    return FINE
