"""``qnumpy calibrate``: choose parameters for the activations in files."""

import argparse
from typing import Any

import numpy as np

from ..calibration.calibrate import Calibration
from ..dtypes import real_type
from ..errors import FileFormatError
from ..files.qparams import save_qparams
from ..files.store import save
from ..observers import MomentsObserver, Observer, observer_for, observers_by_method
from ..qparams import QParams
from .common import (
    FINE,
    READABLE,
    Commands,
    UsageError,
    about_to_rename,
    add_code_type,
    add_command,
    add_force,
    add_json,
    add_symmetric,
    open_reader,
    output_path,
    progress,
    show_table,
)
from .scheme import Scheme, add_granularity, add_method

__all__: list[str] = []

MOMENTS = "moments"  # the method that observes what `quantize --moments` reads


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "calibrate", run, "Choose parameters for activations: arrays of one name are one tensor."
    )
    parser.add_argument("inputs", metavar="DATA", nargs="+", help=READABLE)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the .json file to write, for moments the .npz or .safetensors file; without it only the table is printed",
    )
    add_method(parser, [*observers_by_method(), MOMENTS], "mse")
    add_code_type(parser)
    add_granularity(parser, "tensor", "axis of the channels or groups (default: the last)")
    add_symmetric(parser)
    add_force(parser)
    add_json(parser, "the table")


def run(args: argparse.Namespace) -> int:
    suffixes = (".npz", ".safetensors") if args.method == MOMENTS else (".json",)
    path = None if args.output is None else output_path(args, suffixes, args.inputs)
    calibration = Calibration(_observer(args))
    for name in args.inputs:
        with open_reader(name) as reader:
            for tensor in progress(reader.specs, "calibrate"):
                if reader.specs[tensor].unreadable is not None:
                    continue
                x = reader.read(tensor)
                if not isinstance(x, np.ndarray) or real_type(x.dtype) is None:
                    continue
                try:
                    calibration.observe(tensor, x)
                except ValueError as error:
                    raise FileFormatError(f"{name}: tensor {tensor!r}: {error}") from error
    if not calibration.observers:
        raise UsageError("DATA must hold floating arrays; got none.")
    if path is not None:
        about_to_rename(args)
        if args.method == MOMENTS:
            save(path, calibration)
        else:
            save_qparams(path, {tensor: _qparams(calibration, tensor) for tensor in calibration})
    show_table(args, calibration.report())
    return FINE


def _observer(args: argparse.Namespace) -> Observer:
    if args.method == MOMENTS:
        if (args.dtype, args.per, args.axis, args.group_size, args.symmetric) != ("int8", None, None, None, True):
            raise UsageError("--dtype, --per, --axis, --group-size and --no-symmetric must be left out for moments.")
        return MomentsObserver()
    per = args.per or ("tensor" if args.group_size is None else "group")
    axis = -1 if per == "channel" and args.axis is None else args.axis
    granularity = Scheme(args.dtype, per, axis, args.group_size, args.symmetric).granularity()
    scheme: dict[str, Any] = {"dtype": args.dtype, "granularity": granularity, "symmetric": args.symmetric}
    try:
        return observer_for(args.method, args.percentile, **scheme)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _qparams(calibration: Calibration, tensor: str) -> QParams:
    try:
        return calibration[tensor]
    except ValueError as error:
        raise FileFormatError(f"tensor {tensor!r}: {error}") from error
