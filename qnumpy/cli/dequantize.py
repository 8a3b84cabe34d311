"""``qnumpy dequantize``: turn the quantized tensors of a file back into reals."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._tables import aligned, as_json, tensors
from .._typing import Array
from ..arrays.packed import PackedWeight
from ..arrays.quantized import dequantize
from ..dtypes import REAL_TYPES, float_type
from ..errors import FileFormatError
from ..files.spec import TensorSpec, Value
from ..observers.moments import MomentsObserver
from ..ops.cast import cast
from .common import FINE, READABLE, Commands, UsageError, add_command, open_reader, progress
from .model import add_output, model_output, model_path
from .selection import Selection, add_selection
from .streams import show, show_json

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "dequantize",
        run,
        "Turn the quantized tensors of a file back into reals; a packed weight becomes its weight and its bias.",
    )
    parser.add_argument("input", metavar="IN", help=READABLE)
    add_output(parser)
    parser.add_argument(
        "--dtype", choices=list(REAL_TYPES), default="float32", help="type of the reals (default: float32)"
    )
    add_selection(parser, "dequantize")


def run(args: argparse.Namespace) -> int:
    with open_reader(args.input) as reader:
        path = model_path(args)
        selection = Selection.of(args, reader.specs)
        specs = selection.readable(reader)
        reasons = {name: _reason_to_keep(selection, name, spec) for name, spec in specs.items()}
        real = float_type(args.dtype)
        assert real is not None
        parts = {
            name: {name: spec} if reasons[name] else _reals(name, spec, real.dtype) for name, spec in specs.items()
        }
        with model_output(args, path, _joined(parts), reader) as write:
            for name in progress(specs, "dequantize"):
                value = reader.read(name)
                for part, array in ({name: value} if reasons[name] else _dequantize(args, name, value)).items():
                    write(part, array)
        _show(args, specs, parts, reasons)
    return FINE


def _reason_to_keep(selection: Selection, name: str, spec: TensorSpec) -> str:
    """Return why a tensor stays as it is, "" if it is dequantized."""
    if selection.excludes(name):
        return "excluded"
    if spec.granularity is None:
        return "not quantized"
    return "not included" if selection.leaves_out(name) else ""


def _reals(name: str, spec: TensorSpec, dtype: np.dtype[Any]) -> dict[str, TensorSpec]:
    """Return what a quantized tensor becomes: its reals, and beside the weight of a layer its bias."""
    reals = {name: TensorSpec(dtype, spec.shape)}
    if spec.options is not None and spec.options["bias"] is not None:
        reals[f"{name}.bias"] = TensorSpec(np.dtype(np.float32), tuple(spec.options["bias"]))
    return reals


def _joined(parts: Mapping[str, Mapping[str, TensorSpec]]) -> dict[str, TensorSpec]:
    """Return the plan of the file; refuse the bias of a layer under the name of another tensor."""
    specs: dict[str, TensorSpec] = {}
    for name, some in parts.items():
        for part, spec in some.items():
            if part in specs or (part != name and part in parts):
                raise UsageError(f"{name!r} must leave the name {part!r}, which its bias needs. --exclude keeps it.")
            specs[part] = spec
    return specs


def _dequantize(args: argparse.Namespace, name: str, value: Value) -> dict[str, Array]:
    """Return what a quantized tensor becomes, by name."""
    assert not isinstance(value, np.ndarray | MomentsObserver)
    bias = value.bias if isinstance(value, PackedWeight) else None
    try:
        x = dequantize(value.unpack() if isinstance(value, PackedWeight) else value)
        if args.dtype != "float32":
            x = cast(x, args.dtype, overflow="raise")
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{args.input}: tensor {name!r}: {error} --exclude keeps it as it is.") from error
    return {name: x} if bias is None else {name: x, f"{name}.bias": bias}


def _show(
    args: argparse.Namespace,
    before: Mapping[str, TensorSpec],
    after: Mapping[str, Mapping[str, TensorSpec]],
    reasons: Mapping[str, str],
) -> None:
    records: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(spec.shape),
            "source": spec.type_name,
            "dtype": after[name][name].format or after[name][name].dtype.name,
            "granularity": None if spec.granularity is None else spec.granularity.describe(),
            "nbytes_before": spec.nbytes,
            "nbytes_after": sum(part.nbytes for part in after[name].values()),
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
