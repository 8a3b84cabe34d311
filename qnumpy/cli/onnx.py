"""``qnumpy onnx inspect | quantize | evaluate | compare | tune | convert-float``: ONNX models."""

import argparse
import contextlib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import onnx as models
from .._tables import Table, as_json
from .._typing import Array
from ..errors import FileFormatError
from ..files.store import load
from .common import (
    FINE,
    Commands,
    UsageError,
    about_to_rename,
    add_command,
    add_force,
    add_json,
    output_path,
    show_table,
)
from .streams import show, show_json

__all__: list[str] = []

_DATA = (
    ".npz files with an array for each input, each file a batch (--batch N cuts it), or module:function, which returns "
    "an iterable of batches: of {input name: array}, or of arrays for a model of one input"
)
_FUNCTIONS = {"dynamic": "quantize_dynamic", "static": "quantize_static", "weights": "quantize_weights"}


def add(commands: Commands) -> None:
    text = "Quantize, evaluate and tune ONNX models."
    parser = commands.add_parser("onnx", help=text, description=text, allow_abbrev=False)
    inner = parser.add_subparsers(dest="onnx_command", required=True, metavar="COMMAND")
    _add_inspect(inner)
    _add_quantize(inner)
    _add_evaluate(inner)
    _add_compare(inner)
    _add_tune(inner)
    _add_convert_float(inner)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="MODEL", help="a .onnx file")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the .onnx file to write")
    add_force(parser)


def _add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--data", metavar="DATA", nargs="+", required=required, help=_DATA)
    parser.add_argument("--batch", metavar="N", type=int, help="cut the arrays of files into batches of N along axis 0")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    what = "names of nodes or operator types; * stands for any text (repeatable)"
    parser.add_argument("--include", metavar="PATTERN", action="append", help=f"change only these nodes: {what}")
    parser.add_argument("--exclude", metavar="PATTERN", action="append", help=f"leave these nodes as they are: {what}")


def _add_options(parser: argparse.ArgumentParser, function: str) -> None:
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"another argument of qnumpy.onnx.{function}, its value as JSON or as text (repeatable)",
    )


# ---- inspect ----


def _add_inspect(commands: Commands) -> None:
    parser = add_command(commands, "inspect", _inspect, "Show what a model computes and how to quantize each operator.")
    _add_model(parser)
    parser.add_argument(
        "--shape",
        metavar="NAME=N,N,...",
        action="append",
        default=[],
        help="the shape of an input whose lengths the model leaves open (repeatable)",
    )
    parser.add_argument("--html", metavar="OUT", help="write the table to this .html file too")
    add_force(parser)
    add_json(parser, "the table")


def _inspect(args: argparse.Namespace) -> int:
    shapes = dict(_shape(text) for text in args.shape)
    page = None
    if args.html is not None:
        args.output = args.html
        page = output_path(args, (".html",), [args.input])
    table = _call("inspect", args.input, shapes=shapes or None)
    if page is not None:
        from ..files.atomic import replacing

        with replacing(page, "x") as file:
            file.write(f"<!DOCTYPE html><meta charset='utf-8'>{table._repr_html_()}\n")
            about_to_rename(args)
    show_table(args, table)
    return FINE


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, lengths = text.rpartition("=")
    try:
        if not equals:
            raise ValueError
        return name, tuple(int(length) for length in lengths.split(",") if length)
    except ValueError:
        raise UsageError(f"--shape must be NAME=N,N,...; got {text!r}.") from None


# ---- quantize ----


def _add_quantize(commands: Commands) -> None:
    parser = add_command(commands, "quantize", _quantize, "Quantize a model.")
    _add_model(parser)
    _add_output(parser)
    parser.add_argument(
        "--mode",
        choices=list(_FUNCTIONS),
        help="activations quantized while the model runs, by ranges from data, or not at all (default: static with "
        "--data, dynamic without)",
    )
    _add_data(parser, required=False)
    parser.add_argument("--target", choices=("standard", "qnumpy"), help="dynamic: standard operators, or qnumpy's")
    parser.add_argument("--observer", help="static: the technique of the ranges (minmax, mse, entropy, best, ...)")
    parser.add_argument("--dtype", help="weights: the code type of the weights (int4, int8, ...)")
    parser.add_argument("--group-size", metavar="N", type=int, help="weights: how many neighbours share a scale")
    parser.add_argument("--method", help="weights: how they are rounded (gptq, mse, minmax)")
    parser.add_argument("--form", help="how codes stand in the graph (QDQ, MatMulNBits, ...)")
    _add_selection(parser)
    _add_options(parser, "quantize_*")
    add_json(parser, "the report")


def _quantize(args: argparse.Namespace) -> int:
    mode = args.mode or ("static" if args.data else "dynamic")
    if mode == "static" and not args.data:
        raise UsageError("--data DATA must be given for the mode static.")
    path = output_path(args, (".onnx",), [args.input])
    named = ("target", "observer", "dtype", "group_size", "method", "form", "include", "exclude")
    options = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    if args.data:
        options["data"] = _Data(args)
    return _write(args, _FUNCTIONS[mode], path, {**options, **_options(args)})


def _write(args: argparse.Namespace, function: str, path: str, options: Mapping[str, Any]) -> int:
    """Call a function that writes a model; print its report."""
    about_to_rename(args)
    result = _call(function, args.input, output=path, **options)
    model = getattr(result, "model", result)  # of tune: what it found, with its history
    table = result if isinstance(result, Table) else models.report(model)
    show_table(args, table)
    if not args.json:
        before, after = (_size(name) for name in (args.input, path))
        show(f"{path}: {after:,} bytes; {args.input}: {before:,} bytes")
    return FINE


def _size(path: str) -> int:
    """Return the bytes of a model with the external data that qnumpy writes."""
    data = f"{path}.data"
    return os.path.getsize(path) + (os.path.getsize(data) if os.path.exists(data) else 0)


# ---- evaluate, compare, tune, convert-float ----


def _add_metric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric", required=True, help="module:function, or the name of a metric of qnumpy.onnx.evaluate"
    )


def _add_evaluate(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", _evaluate, "Evaluate a model by a metric.")
    _add_model(parser)
    _add_data(parser)
    _add_metric(parser)
    _add_options(parser, "evaluate")
    add_json(parser, "the result")


def _evaluate(args: argparse.Namespace) -> int:
    return _show(args, _call("evaluate", args.input, _Data(args), _metric(args.metric), **_options(args)))


def _add_compare(commands: Commands) -> None:
    parser = add_command(commands, "compare", _compare, "Compare a quantized model with the model it was made of.")
    _add_model(parser)
    parser.add_argument("quantized", metavar="QUANTIZED", help="the .onnx file that was made of it")
    _add_data(parser)
    _add_options(parser, "compare")
    add_json(parser, "the table")


def _compare(args: argparse.Namespace) -> int:
    return _show(args, _call("compare", args.input, args.quantized, _Data(args), **_options(args)))


def _add_tune(commands: Commands) -> None:
    parser = add_command(commands, "tune", _tune, "Search the best quantized model within limits of accuracy and time.")
    _add_model(parser)
    _add_output(parser)
    _add_data(parser)
    _add_metric(parser)
    parser.add_argument("--max-drop", metavar="X", type=float, help="how much of the metric may be lost")
    parser.add_argument("--drop", choices=("absolute", "relative"), help="what --max-drop counts")
    parser.add_argument("--min-score", metavar="X", type=float, help="the least metric, in place of --max-drop")
    parser.add_argument("--max-latency", metavar="X", type=float, help="the longest run, as a share of float's")
    parser.add_argument("--objective", help="what is made as small as the limits allow")
    parser.add_argument("--budget", help="trials as N, seconds as Ns")
    parser.add_argument("--resume", metavar="FILE", help="keep the measurements here, and go on from those")
    _add_options(parser, "tune")
    add_json(parser, "the result")


def _tune(args: argparse.Namespace) -> int:
    path = output_path(args, (".onnx",), [args.input])
    named = ("max_drop", "drop", "min_score", "max_latency", "objective", "resume")
    options = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    if args.budget is not None:
        options["budget"] = _value(args.budget)
    options.update(data=_Data(args), metric=_metric(args.metric))
    return _write(args, "tune", path, {**options, **_options(args)})


def _add_convert_float(commands: Commands) -> None:
    parser = add_command(commands, "convert-float", _convert_float, "Convert a model to float16 or bfloat16.")
    _add_model(parser)
    _add_output(parser)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    _add_data(parser, required=False)
    _add_selection(parser)
    _add_options(parser, "convert_float")
    add_json(parser, "the report")


def _convert_float(args: argparse.Namespace) -> int:
    path = output_path(args, (".onnx",), [args.input])
    named = ("dtype", "include", "exclude")
    options = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    if args.data:
        options["data"] = _Data(args)
    return _write(args, "convert_float", path, {**options, **_options(args)})


# ---- shared ----


def _call(function: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of qnumpy.onnx; a wrong argument is a usage error."""
    try:
        return getattr(models, function)(*args, **kwargs)
    except FileFormatError:
        raise
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _show(args: argparse.Namespace, result: Any) -> int:
    if isinstance(result, Table):
        show_table(args, result)
    elif args.json:
        content = result.to_dict() if hasattr(result, "to_dict") else result
        show_json(as_json(content.tolist() if hasattr(content, "tolist") else content, 2))
    else:
        show(str(result))
    return FINE


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of --option."""
    options = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option must be NAME=VALUE; got {text!r}.")
        if name in ("model", "data", "output", "metric"):
            raise UsageError(f"--option must be another argument than {name}; got {text!r}.")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _metric(text: str) -> Any:
    return _function("--metric", text) if ":" in text else text


def _function(option: str, text: str) -> Callable[..., Any]:
    """Return the function that module:function names; modules of the current folder are found.

    What it raises becomes a usage error, unless it is one sentence of a file.
    """
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{option} must be module:function; got {text!r}: {error}.") from error
    if not callable(value):
        raise UsageError(f"{option} must be module:function; {text!r} is no function.")
    return _saying(option, text, value)


def _saying(option: str, text: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with _said(option, text):
            return function(*args)

    return call


@contextlib.contextmanager
def _said(option: str, text: str) -> Iterator[None]:
    """Make one sentence of what a function of the user raises."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(f"{option} {text} raised {type(error).__name__}: {words}.") from error


def _loaded(path: str) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise FileFormatError(f"--data must be .npy files without objects; got {path!r}: {error}.") from error


class _Data:
    """The batches of --data; each iteration reads them anew, and one file at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._batch = args.batch
        if args.batch is not None and args.batch < 1:
            raise UsageError(f"--batch must be at least 1; got {args.batch}.")
        self._sources = [self._source(text) for text in args.data]

    def _source(self, text: str) -> str | Callable[..., Any]:
        if text.endswith((".npz", ".npy")):
            if not os.path.isfile(text):
                raise UsageError(f"--data must be files that exist; got {text!r}.")
            return text
        if ":" not in text:
            raise UsageError(f"--data must be .npz files or module:function; got {text!r}.")
        return _function("--data", text)

    def __iter__(self) -> Iterator[Any]:
        for source in self._sources:
            if isinstance(source, str):
                yield from self._batches(source)
            else:
                yield from self._called(source)

    def _called(self, source: Callable[..., Any]) -> Iterator[Any]:
        """Yield what a function returns; it may raise between two batches."""
        text = f"{source.__module__}:{source.__qualname__}"
        made = source()
        if not isinstance(made, Iterable):
            raise UsageError(f"--data {text} must return an iterable of batches; got {made!r}.")
        batches = iter(made)
        while True:
            with _said("--data", text):
                item = next(batches, self)
            if item is self:
                return
            yield item

    def _batches(self, path: str) -> Iterator[Any]:
        """Yield the batches of a file."""
        if path.endswith(".npy"):
            array = _loaded(path)
            for start in self._starts([array], path):
                yield self._cut(array, start)
            return
        arrays = {name: np.asarray(array) for name, array in load(path).items()}
        for start in self._starts(list(arrays.values()), path):
            yield {name: self._cut(array, start) for name, array in arrays.items()}

    def _starts(self, arrays: list[Array], path: str) -> range:
        if self._batch is None:
            return range(1)
        lengths = {array.shape[0] for array in arrays if array.ndim}
        if len(lengths) != 1:
            raise UsageError(f"--batch must cut arrays of one length; {path!r} has {sorted(lengths)}.")
        return range(0, lengths.pop(), self._batch)

    def _cut(self, array: Array, start: int) -> Array:
        return array if self._batch is None or not array.ndim else array[start : start + self._batch]
