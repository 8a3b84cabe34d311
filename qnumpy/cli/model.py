"""The model that a command writes: a file, shards and their index, or a folder with the files that hold no weights."""

import argparse
import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ..files.atomic import replacing
from ..files.layouts import CONFIG, CONFIG_KEY, read_config
from ..files.spec import TensorSpec, Value
from ..files.store import NamesCollideError, Reader, Writer
from .common import UsageError, about_to_rename, add_force, add_json, refuse_to_replace, require_suffix

__all__: list[str] = []

Write: TypeAlias = Callable[[str, Value], None]

SUFFIXES = (".npz", ".safetensors", ".gguf")
WEIGHTS = (
    ".safetensors", ".index.json", ".npz", ".npy", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx",
    ".onnx_data", ".data", ".gguf", ".ggml", ".tflite", ".ot",
)  # fmt: skip
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add -o and what belongs to it."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the .npz, .safetensors or .gguf file to write, or a folder, which gets a model.safetensors and, from a "
        "folder, copies of all files without weights (config.json, tokenizer.json, ...)",
    )
    parser.add_argument(
        "--shard-size",
        metavar="SIZE",
        help="cut a larger .safetensors file into shards of at most this size, with their index: 5GB, 500MB, 2GiB",
    )
    parser.add_argument("--dry-run", action="store_true", help="do everything but write")
    add_force(parser)
    add_json(parser, "the table")


def model_path(args: argparse.Namespace) -> str | None:
    """Return the path of -o, that of a folder with a separator at its end; None for a dry run without -o."""
    path: str | None = args.output
    if path is None:
        if not args.dry_run:
            raise UsageError("-o OUT must be given; without it use --dry-run.")
        return None
    is_new_folder = os.path.isdir(args.input) and not path.endswith(SUFFIXES) and not os.path.exists(path)
    if os.path.isdir(path) or is_new_folder:
        path = os.path.join(path, "")
    if not path.endswith(os.sep):
        require_suffix(path, SUFFIXES)
    elif os.path.isdir(path) and any(os.path.samefile(path, source) for source in _folders(args)):
        raise UsageError(f"-o must be another folder than the input's; got {args.output!r}.")
    for suffix in (".npz", ".gguf"):
        if args.shard_size is not None and path.endswith(suffix):
            raise UsageError(f"--shard-size must be left out for a {suffix} file.")
    return path


@contextlib.contextmanager
def model_output(
    args: argparse.Namespace, path: str | None, specs: Mapping[str, TensorSpec], reader: Reader
) -> Iterator[Write]:
    """Yield the function that writes a tensor; the model takes its place when the block ends."""
    limit = None if args.shard_size is None else _size(args.shard_size)
    if path is None:
        yield _write_nothing
        return
    copies = _copies(args.input, path)
    format, config = getattr(args, "format", None), None
    source = os.path.join(args.input, CONFIG)
    if source in copies and (format is not None or any(spec.layout is not None for spec in reader.specs.values())):
        del copies[source]
        config = read_config(source)
        config.pop(CONFIG_KEY, None)  # about the input
    writer = _writer(path, specs, reader, limit, format, config)
    refuse_to_replace(args, [*writer.paths, *writer.stale, *copies.values()], reader.paths)
    if args.dry_run:
        yield _write_nothing
        return
    created = [path for path in _with_folders(copies.values()) if not os.path.lexists(path)]
    try:
        with writer:
            yield writer.write
            _copy(copies)
            about_to_rename(args)
    except BaseException:
        for path in reversed(created):
            with contextlib.suppress(OSError):
                os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        raise


def _write_nothing(_: str, __: Value) -> None:
    pass


def _folders(args: argparse.Namespace) -> list[str]:
    """Return the folder of the input: of a model in several files its files must not be mixed with others."""
    if os.path.isdir(args.input):
        return [args.input]
    return [os.path.dirname(args.input) or os.curdir] if args.input.endswith(".index.json") else []


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]{0,3})", text, re.ASCII)
    size = 0 if match is None else int(float(match[1]) * _UNITS.get(match[2].upper(), 0))
    if size < 1:
        raise UsageError(f"--shard-size must be a number of bytes, or a size such as 5GB, 500MB or 2GiB; got {text!r}.")
    return size


def _writer(
    path: str,
    specs: Mapping[str, TensorSpec],
    reader: Reader,
    limit: int | None,
    format: str | None,
    config: Mapping[str, Any] | None,
) -> Writer:
    """Return the writer of the output; refuse a plan that the file cannot hold."""
    metadata = {key: value for key, value in reader.metadata.items() if key not in (CONFIG_KEY, "general.file_type")}
    try:
        return Writer(path, specs, metadata, max_shard_bytes=limit, format=format, config=config)
    except NamesCollideError as error:
        raise UsageError(f"{error} --exclude or --set 'RE=keep' leaves a tensor as it is.") from error
    except TypeError as error:  # a dtype
        raise UsageError(f"{error} A .npz file holds it.") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _copies(source: str, target: str) -> dict[str, str]:
    """Return what is copied from a folder to a folder: files without weights, those of subfolders too."""
    if not (os.path.isdir(source) and target.endswith(os.sep)):
        return {}
    copies = {}
    for folder, subfolders, names in os.walk(source):
        if os.path.isdir(target) and os.path.samefile(folder, target):
            subfolders.clear()  # the output lies inside the input
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and not name.lower().endswith(WEIGHTS) and os.path.isfile(path):
                copies[path] = os.path.join(target, os.path.relpath(path, source))
    return copies


def _with_folders(paths: Iterable[str]) -> list[str]:
    """Return the files and the folders that they are in, each after the folder that holds it."""
    files = list(paths)
    return [*sorted({os.path.dirname(path) for path in files}), *files]


def _copy(copies: Mapping[str, str]) -> None:
    for path, target in copies.items():
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(path, "rb") as old, replacing(target, "xb") as new:
            shutil.copyfileobj(old, new)
