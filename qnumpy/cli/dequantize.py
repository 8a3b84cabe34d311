"""``qnumpy dequantize``: turn the quantized tensors of a file back into reals."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._tables import aligned, as_json, tensors
from ..dtypes import REAL_TYPES, float_type
from ..errors import FileFormatError
from ..files.spec import TensorSpec, Value
from ..files.store import Reader
from ..ops.cast import cast
from .common import FINE, READABLE, Commands, add_command, open_reader, progress
from .model import add_output, model_output, model_path
from .selection import Selection, add_selection
from .streams import show, show_json

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(commands, "dequantize", run, "Turn the quantized tensors of a file back into reals.")
    parser.add_argument("input", metavar="IN", help=READABLE)
    add_output(parser)
    parser.add_argument(
        "--dtype", choices=list(REAL_TYPES), default="float32", help="type of the reals (default: float32)"
    )
    add_selection(parser, "dequantize")


def run(args: argparse.Namespace) -> int:
    with open_reader(args.input) as reader:
        path = model_path(args)
        reasons = _reasons_to_keep(args, reader)
        real = float_type(args.dtype)
        assert real is not None
        specs = {
            name: spec if reasons[name] else TensorSpec(real.dtype, spec.shape) for name, spec in reader.specs.items()
        }
        with model_output(args, path, specs, reader) as write:
            for name in progress(reader.specs, "dequantize"):
                write(name, reader.read(name) if reasons[name] else _dequantize(args, reader, name))
        _show(args, reader.specs, specs, reasons)
    return FINE


def _reasons_to_keep(args: argparse.Namespace, reader: Reader) -> dict[str, str]:
    """Return why each tensor stays as it is, "" if it is dequantized."""
    selection = Selection.of(args, reader.specs)
    reasons = {}
    for name, spec in reader.specs.items():
        if selection.excludes(name):
            reasons[name] = "excluded"
        elif spec.granularity is None:
            reasons[name] = "not quantized"
        else:
            reasons[name] = "not included" if selection.leaves_out(name) else ""
    return reasons


def _dequantize(args: argparse.Namespace, reader: Reader, name: str) -> Value:
    value = reader.read(name)
    assert not isinstance(value, np.ndarray)
    try:
        x = value.dequantize()
        return x if args.dtype == "float32" else cast(x, args.dtype, overflow="raise")
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{args.input}: tensor {name!r}: {error} --exclude keeps it as it is.") from error


def _show(
    args: argparse.Namespace,
    before: Mapping[str, TensorSpec],
    after: Mapping[str, TensorSpec],
    reasons: Mapping[str, str],
) -> None:
    records: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(spec.shape),
            "source": spec.format or spec.dtype.name,
            "dtype": after[name].format or after[name].dtype.name,
            "granularity": None if spec.granularity is None else spec.granularity.describe(),
            "nbytes_before": spec.nbytes,
            "nbytes_after": after[name].nbytes,
            "kept": reasons[name] or None,
        }
        for name, spec in before.items()
    ]
    totals = {key: sum(record[key] for record in records) for key in ("nbytes_before", "nbytes_after")}
    kept = sum(record["kept"] is not None for record in records)
    if args.json:
        show_json(as_json({"tensors": records, "totals": {"tensors": len(records), "kept": kept, **totals}}, 2))
        return
    rows = [["tensor", "shape", "type", "granularity", "bytes"]]
    for record in records:
        types = record["source"] if record["kept"] else f"{record['source']} -> {record['dtype']}"
        granularity = f"kept: {record['kept']}" if record["kept"] else record["granularity"]
        rows.append([record["name"], str(tuple(record["shape"])), types, granularity, _bytes(record)])
    rows.append([tensors(len(records)) + (f" ({kept} kept)" if kept else ""), "", "", "", _bytes(totals)])
    show("\n".join(aligned(rows, left=4)))


def _bytes(record: Mapping[str, Any]) -> str:
    return f"{record['nbytes_before']:,} -> {record['nbytes_after']:,}"
