"""Shared by the commands: exit codes, options, input and output files, the progress bar."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from .._check import alternatives
from .._tables import Table
from .._typing import Array
from ..arrays.codebook import CodebookArray
from ..arrays.gguf import GGUFArray
from ..arrays.mx import MXArray
from ..arrays.offset import OffsetArray
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray
from ..dtypes import CODE_TYPES
from ..errors import FileFormatError
from ..files.spec import TensorSpec
from ..files.store import Reader
from ..observers.moments import MomentsObserver
from ..reports.compare import Report, ReportTable
from .streams import show, show_json, warn

__all__: list[str] = []

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FINE, GATE_FAILED, USAGE, BAD_FILE, INTERRUPTED = 0, 1, 2, 3, 130

READABLE = (
    "a .npz, .safetensors or .gguf file, the .safetensors.index.json of a sharded model, or the folder of a model"
)


class UsageError(Exception):
    """The arguments do not allow the command; no file was written."""


def complain(args: argparse.Namespace, text: str, code: int) -> int:
    """Print a sentence on stderr under the name of the command; return the exit code."""
    warn(f"qnumpy{f' {args.command}' if args.command else ''}: {text}")
    return code


# Options


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command; `text` is its help."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # code: the exit code after a broken pipe. left: the state of the output file, which Ctrl-C reports.
    parser.set_defaults(run=run, code=FINE, left="no file was written", dry_run=False)
    return parser


def add_json(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print {content} as JSON")


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def add_code_type(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=list(CODE_TYPES), default="int8", help="code type (default: int8)")


def add_symmetric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="one zero point in the middle of the codes (default), or one that fits the range",
    )


# Files


def open_reader(path: str) -> Reader:
    """Open for reading; an unknown ending is a usage error, not a bad file."""
    try:
        return Reader(path)
    except FileFormatError:
        raise
    except ValueError as error:
        raise UsageError(str(error).removeprefix("load: ")) from error


def read_array(reader: Reader, name: str) -> Array | QuantizedArray | MXArray | CodebookArray | OffsetArray:
    """Return an array of a file; of a PackedWeight its weight, of a GGUFArray its reals, of moments their scatter."""
    value = reader.read(name)
    if isinstance(value, GGUFArray):
        return value.dequantize()
    if isinstance(value, MomentsObserver):
        return value.scatter_
    return value.unpack() if isinstance(value, PackedWeight) else value


def output_path(args: argparse.Namespace, suffixes: tuple[str, ...], inputs: Iterable[str]) -> str:
    """Return the path of -o; refuse to replace an input, or any file without --force."""
    path: str = args.output
    require_suffix(path, suffixes)
    refuse_to_replace(args, [path], inputs)
    return path


def require_suffix(path: str, suffixes: tuple[str, ...]) -> None:
    if not path.endswith(suffixes):
        wanted = alternatives(suffixes) if len(suffixes) > 1 else suffixes[0]
        raise UsageError(f"-o must end in {wanted}; got {path!r}.")


def refuse_to_replace(args: argparse.Namespace, paths: Iterable[str], inputs: Iterable[str]) -> None:
    """Refuse to replace an input, or any file without --force."""
    sources = [source for source in inputs if os.path.exists(source)]
    for path in filter(os.path.exists, paths):
        if any(os.path.samefile(path, source) for source in sources):
            raise UsageError(f"-o must be another file than the input; got {path!r} for both.")
        if not os.path.isfile(path):
            raise UsageError(f"-o must be a regular file; got {path!r}.")
        if not (args.force or args.dry_run):
            raise UsageError(f"-o must be a new file, or --force given to replace it; {path!r} exists.")


def about_to_rename(args: argparse.Namespace) -> None:
    """Change the message for Ctrl-C: from here on the output file may exist."""
    if args.output is not None and not args.dry_run:
        args.left = f"{args.output!r} is whole, or as it was"


# Output


def progress(specs: Mapping[str, TensorSpec], title: str) -> Iterator[str]:
    """Yield the names; if stderr is a terminal, show a bar that counts bytes."""
    if not sys.stderr.isatty():
        yield from specs
        return
    from tqdm import tqdm  # needed by a visible bar alone

    total = sum(spec.nbytes for spec in specs.values())
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:
        for name, spec in specs.items():
            yield name
            bar.update(spec.nbytes)


def print_table(args: argparse.Namespace, reports: list[Report]) -> None:
    show_table(args, ReportTable(reports))


def show_table(args: argparse.Namespace, table: Table[Any]) -> None:
    """Print a table as text, or as the JSON of --json."""
    if args.json:
        show_json(table.to_json())
    else:
        show(str(table))
