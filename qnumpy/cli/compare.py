"""``qnumpy compare``: compare a quantized file with its original, and fail below a limit."""

import argparse
import math

import numpy as np

from .._typing import Array
from ..arrays.packed import PackedWeight
from ..dtypes import real_type
from ..errors import FileFormatError
from ..files.spec import Value, is_same_layer, is_same_moments
from ..files.store import Reader
from ..observers.moments import MomentsObserver
from ..reports.compare import Report, compare
from .common import (
    GATE_FAILED,
    READABLE,
    Commands,
    UsageError,
    add_command,
    add_json,
    complain,
    open_reader,
    print_table,
    progress,
)

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(commands, "compare", run, "Compare a quantized file with its original.")
    parser.add_argument("reference", metavar="REF", help=READABLE)
    parser.add_argument("quantized", metavar="QUANT", help="the quantized file")
    parser.add_argument(
        "--fail-below-sqnr",
        metavar="DB",
        type=float,
        help="exit with 1 when a quantized tensor has a lower signal-to-quantization-noise ratio, in decibels, "
        "or a kept one has changed",
    )
    add_json(parser, "the table")


def run(args: argparse.Namespace) -> int:
    limit = args.fail_below_sqnr
    if limit is not None and math.isnan(limit):
        raise UsageError("--fail-below-sqnr must be a number of decibels; got nan.")
    reports, failed = [], []
    with open_reader(args.reference) as reference, open_reader(args.quantized) as quantized:
        _require_same_tensors(args, reference, quantized)
        for name in progress(quantized.specs, "compare"):
            spec = quantized.specs[name]
            if spec.unreadable is not None or reference.specs[name].unreadable is not None:
                reports.append(Report.kept(name, spec.shape, spec.dtype, spec.nbytes, "not read"))
                if limit is not None:
                    failed.append(f"{name!r} (not read)")
                continue
            x, q = reference.read(name), quantized.read(name)
            if isinstance(x, np.ndarray) and isinstance(q, PackedWeight):
                q = q.unpack()
            if isinstance(x, np.ndarray) and not isinstance(q, PackedWeight | MomentsObserver) and _is_quantized(x, q):
                if real_type(x.dtype) is None:
                    raise FileFormatError(f"{args.reference}: tensor {name!r} must be floating; got {x.dtype}.")
                report = compare(x, q, name=name)
                if limit is not None and not report.sqnr_db >= limit:  # NaN fails too
                    failed.append(f"{name!r} ({report.sqnr_db:.2f} dB)")
            else:
                note = "equal" if _is_same(x, q) else "CHANGED"
                report = Report.kept(name, spec.shape, spec.type_name, spec.nbytes, note)
                if limit is not None and note == "CHANGED":
                    failed.append(f"{name!r} (kept, but changed)")
            reports.append(report)
    if failed:
        args.code = GATE_FAILED
    try:
        print_table(args, reports)
    finally:  # also after a broken pipe
        if failed:
            more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
            text = f"{len(failed)} of {len(reports)} below {limit:g} dB: {', '.join(failed[:5])}{more}."
            complain(args, text, GATE_FAILED)
    return int(args.code)


def _require_same_tensors(args: argparse.Namespace, reference: Reader, quantized: Reader) -> None:
    for reader, other, lacking in (
        (reference, quantized, args.quantized),
        (quantized, reference, args.reference),
    ):
        for name, spec in reader.specs.items():
            if name not in other.specs and spec.unreadable is not None:
                continue  # quantize left it out
            if name not in other.specs:
                raise FileFormatError(f"{lacking}: tensor {name!r} of {reader.path} is missing.")
            if other.specs[name].shape != spec.shape:
                raise FileFormatError(
                    f"{lacking}: tensor {name!r} must have the shape {spec.shape} it has in {reader.path}; "
                    f"got {other.specs[name].shape}."
                )


def _is_quantized(x: Array, q: Value) -> bool:
    """Whether q is a quantized array, or both are floating arrays that `compare` takes, of different dtypes."""
    if not isinstance(q, np.ndarray):
        return True
    return x.dtype.name != q.dtype.name and None not in (real_type(x.dtype), real_type(q.dtype))


def _is_same(x: Value, q: Value) -> bool:
    """Whether two arrays have the same bits, so that NaN equals itself, in whatever byte order."""
    if isinstance(x, PackedWeight) and isinstance(q, PackedWeight):
        return is_same_layer(x, q)
    if isinstance(x, MomentsObserver) and isinstance(q, MomentsObserver):
        return is_same_moments(x, q)
    if not (isinstance(x, np.ndarray) and isinstance(q, np.ndarray)):
        return type(x) is type(q) and bool(x == q)
    x, q = _native(x), _native(q)
    return bool(x.dtype == q.dtype and x.tobytes() == q.tobytes())


def _native(x: Array) -> Array:
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
