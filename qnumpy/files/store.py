"""Dictionaries of arrays and quantized arrays in .npz, .safetensors and .gguf files, one tensor at a time."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .._args import choice
from .._check import array, integer, must, typed
from .._typing import Array, Path
from ..arrays.codebook import CodebookArray
from ..arrays.gguf import GGUFArray
from ..arrays.mx import MXArray
from ..arrays.offset import OffsetArray
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray
from ..errors import CalibrationError, FileFormatError
from ..observers.base import Observer
from ..observers.moments import MomentsObserver
from ..ops.gguf import GGUF_TYPES
from ..qparams import QParams
from .atomic import AtomicFiles, naming_errors
from .fault import fault, json_object
from .fields import is_ml_dtype, stand_in
from .gguf import GGUFReader, GGUFWriter, check_value
from .layouts import CONFIG, CONFIG_KEY, adopt, compressed, compressed_config, read_config
from .npz import SCHEMA_ENTRY, NpzReader, NpzWriter
from .qparams import load_qparams, save_qparams
from .safetensors import SCHEMA_KEY, SafetensorsReader, SafetensorsWriter
from .spec import Held, TensorSpec, Unreadable, Value, read_schema, write_schema

__all__ = ["NamesCollideError", "Reader", "Writer", "load", "save"]

INDEX = ".safetensors.index.json"
_MODEL = "model.safetensors"  # the file of a folder
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}\.safetensors$")
_OFFSETS = 40  # digits of two offsets, which are longer in a file of many arrays
_RESERVED = (SCHEMA_ENTRY, "__metadata__")
_Format: TypeAlias = tuple[
    type[SafetensorsReader | NpzReader | GGUFReader], type[SafetensorsWriter | NpzWriter | GGUFWriter]
]
_FORMATS: dict[str, _Format] = {
    ".safetensors": (SafetensorsReader, SafetensorsWriter),
    ".npz": (NpzReader, NpzWriter),
    ".gguf": (GGUFReader, GGUFWriter),
}

_HELD = (QuantizedArray, MXArray, CodebookArray, OffsetArray, GGUFArray, PackedWeight, MomentsObserver)


class NamesCollideError(ValueError):
    """Two arrays need one name in the file."""


class _Container(Protocol):
    """A file of plain tensors."""

    held: Held
    unreadable: dict[str, Unreadable]
    schema: str | None
    metadata: Any

    def read(self, name: str, copy: bool) -> Array: ...
    def close(self) -> None: ...


class Reader:
    """Read a file tensor by tensor.

    Arrays of a .safetensors file are read-only views of a memory map that is released with the array.

    Parameters
    ----------
    path : str or path
        A .npz, .safetensors or .gguf file, the .safetensors.index.json of a sharded model, or a folder: its
        model.safetensors, else its one index, else all its .safetensors files together.

    Attributes
    ----------
    specs : dict of str to TensorSpec
        The arrays of the file, in its order.
    metadata : dict
        Other metadata of the file: texts; in a .gguf file also numbers and lists.
    paths : list of str
        Every file of the model.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors, .gguf or .safetensors.index.json, and is no folder.
    OSError
        The file cannot be read.
    FileFormatError
        The file is truncated, oversized or contradicts itself; the message names the file and the tensor. The folder
        has no such file, several indexes, shards without an index, or one name in two files.
    """

    def __init__(self, path: Path) -> None:
        self.path = _text("load", path)
        self.specs: dict[str, TensorSpec] = {}
        self.metadata: dict[str, Any] = {}
        self.paths: list[str] = []
        self._homes: dict[str, _Container] = {}
        self._containers: list[_Container] = []
        try:
            if not os.path.isdir(self.path):
                self._open(self.path)
            else:
                for name in _model_files(self.path):
                    self._open(os.path.join(self.path, name))
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        """Open a file, or all files of an index."""
        if path.endswith(INDEX):
            self._open_shards(path)
        else:
            open_container, _ = _format("load", path, f" or {INDEX}, or be a folder")
            self.paths.append(path)
            self._add(open_container(path), path)

    def _add(self, container: _Container, path: str) -> None:
        self._containers.append(container)
        self.metadata |= container.metadata
        if container.schema is None:
            specs = {name: TensorSpec(*held) for name, held in container.held.items()}
        else:
            specs = read_schema(path, container.schema, container.held)
        specs = adopt(path, specs, container.metadata, lambda part: container.read(part, False))
        for name, spec in specs.items():
            if name in self.specs:
                raise fault(path, name, "stands in another file of the model too.")
            problem = container.unreadable.get(name)
            self.specs[name] = spec if problem is None else replace(spec, unreadable=problem, format=problem.dtype)
            self._homes[name] = container

    def _open_shards(self, index: str) -> None:
        self.paths.append(index)
        homes = _weight_map(index)
        folder = os.path.dirname(index)
        for shard in dict.fromkeys(homes.values()):
            path = os.path.join(folder, shard)
            self.paths.append(path)
            container = SafetensorsReader(path)
            names = {name for name, home in homes.items() if home == shard}
            for name in sorted(names.symmetric_difference(container.held)):
                container.close()
                lacks, has = (path, index) if name in names else (index, path)
                raise fault(lacks, name, f"is missing; {os.path.basename(has)} has it here.")
            self._add(container, path)

    def read(self, name: str, *, copy: bool = False) -> Value:
        """Return one array; with `copy`, one that owns its memory and can be written to.

        Raises
        ------
        KeyError
            The file has no such array.
        FileFormatError
            The file was cut, holds invalid scales or zero points, or holds the array in a form that qnumpy does not
            read, as Python objects.
        """
        spec, container = self.specs[name], self._homes[name]
        if spec.unreadable is not None:
            raise fault(self.path, name, f"{spec.unreadable.reason}.")
        try:
            return spec.decode(name, lambda part: container.read(part, copy))
        except FileFormatError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise fault(self.path, name, f": {error}") from error

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        for container in self._containers:
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer:
    """Write a file tensor by tensor, in any order, after a plan.

    The file appears whole or not at all: it takes its name on leaving the ``with`` block. Any exception, Ctrl-C too,
    leaves nothing. The shards of a model and their index take their names together, the index last.

    Parameters
    ----------
    path : str or path
        Ends in .npz, .safetensors or .gguf, or names a folder, which gets a model.safetensors; a folder whose name ends
        in "/" is made.
    specs : dict of str to TensorSpec
        The arrays that will be written.
    metadata : dict, optional
        More metadata for a .safetensors file, texts, or a .gguf file, also numbers and lists; .npz has none.
    max_shard_bytes : int, optional
        Write a larger model.safetensors as the shards model-00001-of-00003.safetensors, ... of at most so many bytes,
        and as model.safetensors.index.json, which `load` reads. An array is never cut: one that is larger fills a shard
        by itself.
    format : str, optional
        "compressed-tensors": quantized arrays as that library stores them, with the config.json of the model.
    config : dict, optional
        The config.json to write beside the file; by default none, and with a `format` the one that is there.

    Attributes
    ----------
    paths : list of str
        The files that will be written; of a sharded model the index is the last.
    stale : list of str
        The files of an earlier model of the same name that will be removed.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors or .gguf, and is no folder.
    TypeError
        max_shard_bytes is not an integer.
    ValueError
        max_shard_bytes is not positive, or path does not end in .safetensors.
    TypeError
        A name is no text.
    ValueError
        The file cannot hold a name.
    TypeError
        The file cannot hold a dtype.
    NamesCollideError
        Two arrays need one name in the file.
    ValueError
        path names a folder or a device.
    """

    def __init__(
        self,
        path: Path,
        specs: Mapping[str, TensorSpec],
        metadata: Mapping[str, Any] | None = None,
        *,
        max_shard_bytes: int | None = None,
        format: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = _text("save", path)
        self._new_folder: str | None = None
        if _is_folder(self.path):
            self._new_folder = None if os.path.exists(self.path) else self.path
            self.path = os.path.join(self.path, _MODEL)
        _, self._container_type = _format("save", self.path, ", or be a folder")
        limit = None if max_shard_bytes is None else self._shard_limit(max_shard_bytes)
        own = {name: replace(spec, byte_codes=False, layout=None) for name, spec in specs.items()}  # the newest form
        self.specs = own if format is None else self._compressed(own, format)
        self._stored = _plan(self.specs, self._container_type)
        self._metadata = dict(metadata or {})
        if self._container_type is not GGUFWriter:
            self._metadata = {key: value for key, value in self._metadata.items() if isinstance(value, str)}
        self._shards = [list(self.specs)] if limit is None else self._divide(limit)
        self._missing = dict.fromkeys(self.specs)
        self._models = _paths(self.path, len(self._shards))
        self._config = config if format is None else self._whole_config(config)
        beside = [] if self._config is None else [os.path.join(os.path.dirname(self.path), CONFIG)]
        self.paths = [*beside, *self._models]
        self.stale = _stale(self.path, self.paths)
        self._files = AtomicFiles(self.paths, "xb", self.stale)

    def _compressed(self, specs: dict[str, TensorSpec], format: Any) -> dict[str, TensorSpec]:
        choice("save", "format", format, {"compressed-tensors": 0})
        if self._container_type is not SafetensorsWriter:
            raise ValueError(must("save", "format", "left out unless path ends in .safetensors", repr(format)))
        return compressed("save", specs)

    def _whole_config(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the config.json of the model, and tell the metadata what it says about the quantization."""
        path = os.path.join(os.path.dirname(self.path), CONFIG)
        quantization = compressed_config(self.specs)
        self._metadata[CONFIG_KEY] = json.dumps(quantization)
        return {**(read_config(path) if config is None else config), CONFIG_KEY: quantization}

    def _shard_limit(self, value: int) -> int:
        limit = integer("save", "max_shard_bytes", value)
        if self._container_type is not SafetensorsWriter:
            raise ValueError(must("save", "max_shard_bytes", "left out unless path ends in .safetensors", str(limit)))
        if limit < 1:
            raise ValueError(must("save", "max_shard_bytes", "positive", str(limit)))
        return limit

    def _divide(self, limit: int) -> list[list[str]]:
        """Return the names of each shard: in the order of the plan, of files of at most `limit` bytes."""
        frame = SafetensorsWriter.nbytes({}, self._schema([]))
        shards: list[list[str]] = []
        room = 0
        for name in self.specs:
            size = SafetensorsWriter.nbytes(self._held([name]), self._schema([name])) - frame + _OFFSETS
            if not shards or size > room:
                shards.append([])
                room = limit - frame
            shards[-1].append(name)
            room -= size
        return shards or [[]]

    def _held(self, names: Iterable[str]) -> Held:
        """Return the plain tensors of some arrays."""
        return {part: self._stored[part] for name in names for part in self.specs[name].stored(name)}

    def _schema(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the metadata of a file of some arrays."""
        specs = {name: self.specs[name] for name in names}
        return {**self._metadata, SCHEMA_KEY: write_schema(specs, self._container_type.holds)}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._new_folder is not None:
                with naming_errors(self._new_folder):
                    os.mkdir(self._new_folder)
                stack.push(self._remove_folder)
            stack.enter_context(self._files)
            self._homes: dict[str, tuple[SafetensorsWriter | NpzWriter | GGUFWriter, str]] = {}
            self._containers: list[tuple[SafetensorsWriter | NpzWriter | GGUFWriter, str]] = []
            stack.push(self._finish)
            files = self._files.files[len(self.paths) - len(self._models) :]
            for names, file, path in zip(self._shards, files, self._models, strict=False):
                with naming_errors(path):
                    container = self._container_type(file, self._held(names), self._schema(names))
                self._containers.append((container, path))
                self._homes |= dict.fromkeys(names, (container, path))
            self._stack = stack.pop_all()
        return self

    def write(self, name: str, value: Value) -> None:
        """Write one array of the plan.

        Raises
        ------
        ValueError
            The value differs from its spec, or was written before.
        OSError
            The disk is full, or the file cannot be written.
        """
        planned, actual = self.specs[name], TensorSpec.of(value)
        spec = replace(planned, layout=None)
        if name not in self._missing or actual not in (spec, replace(spec, zero_point=False)):
            raise ValueError(f"save: {name!r} must be written once, as planned: {spec}; got {actual}.")
        container, path = self._homes[name]
        with naming_errors(path):
            for part, array in planned.encode(name, value):
                container.write(part, array)
        del self._missing[name]

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def _finish(self, exception_type: object, *_: object) -> None:
        try:
            if exception_type is None:
                if self._missing:
                    raise ValueError(f"save: {next(iter(self._missing))!r} was planned and never written.")
                for container, shard in self._containers:
                    with naming_errors(shard):
                        container.close()
                if self._config is not None:
                    with naming_errors(self.paths[0]):
                        self._files.files[0].write(_json_text(self._config))
                if len(self._models) > len(self._containers):
                    with naming_errors(self.paths[-1]):
                        self._files.files[-1].write(self._index())
        finally:
            for container, _path in self._containers:
                with contextlib.suppress(OSError, ValueError):  # the file will be removed, or is already closed
                    container.close()

    def _remove_folder(self, exception_type: object, *_: object) -> None:
        if exception_type is not None and self._new_folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self._new_folder)

    def _index(self) -> bytes:
        """Return the index of the shards, in the form of Hugging Face's."""
        total = sum(spec.nbytes for spec in self.specs.values())
        homes = {
            part: os.path.basename(shard)
            for names, shard in zip(self._shards, self._models, strict=False)
            for part in self._held(names)
        }
        index = {"metadata": {"total_size": total}, "weight_map": homes}
        return _json_text(index)


def _json_text(values: Any) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _text(owner: str, path: Path) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(must(owner, "path", "a text or a path", typed(path)))
    return text


def _format(owner: str, path: str, more: str = "") -> _Format:
    for suffix, types in _FORMATS.items():
        if path.endswith(suffix):
            return types
    raise ValueError(f"{owner}: path must end in .npz, .safetensors or .gguf{more}; got {path!r}.")


def _is_folder(path: str) -> bool:
    """Whether a path to write names a folder."""
    return path.endswith(os.sep) or (not path.endswith(tuple(_FORMATS)) and os.path.isdir(path))


def _model_files(folder: str) -> list[str]:
    """Return the names of the files of the model in a folder: a file, an index, or files with all their arrays."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    indexes = [name for name in names if name.endswith(INDEX)]
    files = [name for name in names if name.endswith(".safetensors")]
    if _MODEL in files:
        return [_MODEL]
    if len(indexes) > 1:
        raise fault(folder, None, f"the folder must have one index; got {', '.join(indexes)}.")
    if indexes:
        return indexes
    if not files:
        raise fault(folder, None, "the folder must have a .safetensors file or an index of them.")
    for name in files:
        if _SHARD.search(name):
            raise fault(folder, None, f"the folder has the shard {name!r} and no index; the model is not complete.")
    return files


def _weight_map(index: str) -> dict[str, str]:
    """Return the shard of each plain tensor of a sharded model."""
    with open(index, "rb") as file:
        homes = json_object(index, file.read(), "the index").get("weight_map")
    if not isinstance(homes, dict):
        raise fault(index, None, f"the index must have an object 'weight_map'; got {homes!r}.")
    for name, shard in homes.items():
        if not _is_shard(shard):
            raise fault(index, name, f"must be in a .safetensors file beside the index; got {shard!r}.")
    return homes


def _paths(path: str, count: int) -> list[str]:
    """Return the paths of a file or of `count` shards and their index."""
    if count == 1:
        return [path]
    stem = path.removesuffix(".safetensors")
    return [*(f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)), stem + INDEX]


def _stale(path: str, paths: list[str]) -> list[str]:
    """Return the existing files of an earlier model of the name `path` that `paths` do not replace.

    A reader takes the file before the index: left behind, it would stand for the new model.
    """
    if not path.endswith(".safetensors"):
        return []
    index, earlier = path.removesuffix(".safetensors") + INDEX, [path]
    if os.path.isfile(index):
        earlier.append(index)
        with contextlib.suppress(OSError, FileFormatError):
            stem = re.escape(os.path.basename(path).removesuffix(".safetensors"))
            shards = dict.fromkeys(_weight_map(index).values())
            own = [shard for shard in shards if re.fullmatch(stem + _SHARD.pattern, shard)]
            earlier += [os.path.join(os.path.dirname(path), shard) for shard in own]
    return [old for old in earlier if old not in paths and os.path.isfile(old)]


def _is_shard(name: Any) -> bool:
    """Whether a value of JSON is the name of a file beside the index."""
    if not isinstance(name, str) or "\0" in name or not _encodable(name):
        return False
    return os.path.basename(name) == name and name.endswith(".safetensors")


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plan(specs: Mapping[str, TensorSpec], container: type[SafetensorsWriter | NpzWriter | GGUFWriter]) -> Held:
    """Return every plain tensor of the file; refuse names that collide and dtypes that no file holds."""
    holds, longest = container.holds, container.longest
    stored: Held = {}
    owners: dict[str, str] = {}
    for name, spec in specs.items():
        if not isinstance(name, str):
            raise TypeError(f"save: arrays must have texts as names; got {name!r}.")
        if name in _RESERVED or "\0" in name or not _encodable(name):
            raise ValueError(f"save: arrays must have names that a file can hold; got {name!r}.")
        if spec.unreadable is not None:
            raise ValueError(must("save", f"arrays[{name!r}]", "readable", f"one that {spec.unreadable.reason}"))
        if container is GGUFWriter:
            if (problem := GGUFWriter.refusal(spec)) is not None:
                raise TypeError(must("save", f"arrays[{name!r}]", *problem))
        elif spec.format in GGUF_TYPES:
            raise TypeError(must("save", f"arrays[{name!r}]", "no GGUFArray unless path ends in .gguf", spec.format))
        elif not (is_ml_dtype(spec.dtype) or holds(stand_in(spec.dtype))):
            got = str(spec.dtype)
            got = got if len(got) <= 60 else f"{got[:57]}..."
            raise TypeError(f"save: arrays[{name!r}] must have a dtype that this kind of file holds; got {got}.")
        for claim in spec.names(name):
            if claim in owners:
                raise NamesCollideError(
                    f"save: arrays must not collide in the file; got {owners[claim]!r} and {name!r}, "
                    f"which both need the name {claim!r}."
                )
            owners[claim] = name
        for part, (dtype, shape) in spec.stored(name).items():
            if (size := len(part.encode())) > longest:
                got = f"{size} for {typed(part)}"
                raise ValueError(f"save: arrays must have names of at most {longest} bytes in this file; got {got}.")
            stored[part] = (dtype if holds(dtype) else stand_in(dtype)), shape
    return stored


def save(
    path: Path,
    arrays: Mapping[str, Value | QParams | ArrayLike],
    *,
    max_shard_bytes: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    format: Literal["compressed-tensors"] | None = None,
) -> None:
    """Save arrays and quantized arrays to one .npz, .safetensors or .gguf file, or parameters to a .json file.

    The file appears whole or not at all. docs/file-format.md describes it for other programs. A .gguf file holds
    GGUFArrays and plain arrays of float32, float16, bfloat16, float64 and signed integers.

    Parameters
    ----------
    path : str or path
        Ends in .npz, .safetensors, .gguf or .json; an existing file is replaced. A folder gets a model.safetensors; one
        whose name ends in "/" is made.
    arrays : mapping of str to arrays of codes, PackedWeight, MomentsObserver or array_like
        Arrays of codes are QuantizedArray, MXArray, CodebookArray, OffsetArray and GGUFArray. For a .json file a
        mapping of str to QParams: a calibration, or any other. Of a calibration other files get its
        MomentsObservers.
    max_shard_bytes : int, optional
        Cut a larger .safetensors file into shards of at most so many bytes, ``model-00001-of-00003.safetensors``, with
        the index ``model.safetensors.index.json``. An array is never cut. All files appear together, the index last.
    metadata : mapping of str to str, number, list or numpy scalar, optional
        For a .gguf file, as ``{"general.architecture": "llama", "llama.block_count": 32}``: an int becomes uint32, or
        the type that holds it, a float float32. For a .safetensors file texts.
    format : str, optional
        "compressed-tensors" writes a .safetensors file for other libraries: QuantizedArrays of 2 to 8 bits, shape
        (N, K), per channel of axis 0 or in groups along K, as ``w_packed``, ``w_scale``, ``w_zero_point`` and
        ``w_shape``. The config.json beside the file gets the ``quantization_config``; its other values stay.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors, .gguf or .json, and is no folder.
    TypeError
        arrays is no mapping, or for a .json file a value is no QParams.
    CalibrationError
        An observer of a calibration has seen nothing finite.
    TypeError
        For another file an array has a mask or is a QParams or another observer; max_shard_bytes is not an integer.
    CalibrationError
        A MomentsObserver has seen nothing.
    ValueError
        max_shard_bytes is not positive, or path does not end in .safetensors.
    TypeError
        metadata is no mapping of texts to values that the file holds.
    TypeError
        A name is no text.
    ValueError
        The file cannot hold a name.
    TypeError
        The file cannot hold a dtype: objects; complex128 in .safetensors; a QuantizedArray in .gguf.
    ValueError
        Names collide: a quantized ``w`` also takes ``w.scale`` and ``w.zero_point``, an NVFP4 one ``w.tensor_scale``, a
        PackedWeight with a bias ``w.bias``, a MomentsObserver ``w.mean``.
    ValueError
        path names a folder or a device.
    OSError
        The disk is full, or the file cannot be written.

    Examples
    --------
    >>> import tempfile, qnumpy as qn
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     qn.save(f"{folder}/w.safetensors", {"w": qn.quantize(w, dtype="int4"), "bias": np.zeros(3)})
    ...     back = qn.load(f"{folder}/w.safetensors")
    ...     qn.save(f"{folder}/qparams.json", {"x": qn.QParams(0.1, 0)})
    ...     params = qn.load(f"{folder}/qparams.json")
    >>> back["w"].codes.dtype, back["bias"].shape
    (dtype(int4), (3,))
    >>> params
    {'x': QParams(int8, per tensor, scale=0.1, zero_point=0)}
    """
    if _holds_qparams(_text("save", path), "save"):
        if isinstance(arrays, Mapping) and not arrays and _moments_of(arrays) is not arrays:
            wanted = "parameters by name for a .json file"
            raise ValueError(must("save", "arrays", wanted, "moments alone") + " Save them in a .npz file.")
        if max_shard_bytes is not None:
            got = typed(max_shard_bytes)
            raise ValueError(must("save", "max_shard_bytes", "left out unless path ends in .safetensors", got))
        _check_metadata(path, metadata)
        if format is not None:
            raise ValueError(must("save", "format", "left out unless path ends in .safetensors", typed(format)))
        save_qparams(path, arrays)
        return
    if not isinstance(arrays, Mapping):
        raise TypeError(must("save", "arrays", "a mapping of names to arrays", type(arrays).__name__))
    values: dict[str, Value] = {}
    for name, value in _moments_of(arrays).items():
        _check_value(f"arrays[{name!r}]", value)
        if isinstance(value, _HELD):
            values[name] = value
        else:
            values[name] = np.asarray(array("save", f"arrays[{name!r}]", value))
    _check_metadata(path, metadata)
    specs = {name: TensorSpec.of(value) for name, value in values.items()}
    with Writer(path, specs, metadata, max_shard_bytes=max_shard_bytes, format=format) as writer:
        for name, value in values.items():
            writer.write(name, value)


def _check_metadata(path: Path, metadata: Any) -> None:
    """Refuse metadata that the file does not hold."""
    if metadata is None:
        return
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix in (".npz", ".json"):
        requirement = "left out unless path ends in .safetensors or .gguf"
        raise ValueError(must("save", "metadata", requirement, typed(metadata)))
    if not isinstance(metadata, Mapping):
        raise TypeError(must("save", "metadata", "a mapping of texts to values", typed(metadata)))
    for key, value in metadata.items():
        if not isinstance(key, str) or key in (SCHEMA_KEY, "__metadata__"):
            raise TypeError(must("save", "metadata", "a mapping of texts to values", f"the key {key!r:.60}"))
        if suffix == ".gguf":
            check_value(f"metadata[{key!r}]", value)
        elif not isinstance(value, str):
            raise TypeError(must("save", f"metadata[{key!r}]", "a text", typed(value)))


def _moments_of(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the MomentsObservers of a calibration, whose mapping has the parameters of the others; else `arrays`."""
    observers = getattr(arrays, "observers", None)
    if not isinstance(observers, dict):
        return arrays
    moments = {name: value for name, value in observers.items() if isinstance(value, MomentsObserver)}
    return moments or arrays


def _check_value(name: str, value: Any) -> None:
    """Refuse parameters, masks, which NumPy would drop, and lists of quantized arrays, which it would dequantize."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(must("save", name, "an array without a mask", "a masked array"))
    if isinstance(value, QParams):
        raise TypeError(must("save", name, "an array unless path ends in .json", typed(value)))
    if isinstance(value, Observer):
        if not isinstance(value, MomentsObserver):
            raise TypeError(must("save", name, "an array or a MomentsObserver", type(value).__name__))
        if not value._seen:
            raise CalibrationError(must("save", name, "of observed data", "none"))
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, _HELD):
                raise TypeError(must("save", name, "one quantized array or plain numbers", f"a list of {typed(item)}"))
            _check_value(name, item)


def load(path: Path, names: str | Iterable[str] | None = None) -> dict[str, Value] | dict[str, QParams]:
    """Load the arrays of a file, or the parameters of a .json file.

    Files of other programs load too, as plain arrays; bfloat16 and float8 have the dtypes of ml_dtypes.

    Parameters
    ----------
    path : str or path
        A .npz, .safetensors or .gguf file, the .safetensors.index.json of a sharded model, a folder with a model, or a
        .json file that save wrote. In a folder the model is model.safetensors, else the one index, else all
        .safetensors files together.
    names : str or iterable of str, optional
        Read these arrays alone, in this order. The others are not read, so they may be arrays of Python objects, which
        qnumpy never unpickles.

    Returns
    -------
    dict of str to arrays of codes, PackedWeight, MomentsObserver or numpy.ndarray
        In the order of the file; the arrays own their memory. Of a .json file a dict of str to QParams. Arrays of
        ml_dtypes have native byte order, also as fields of structures; others of a .npz file have that of the file.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors, .safetensors.index.json, .gguf or .json, and is no folder.
    OSError
        The file cannot be read.
    FileFormatError
        The file is truncated, oversized or contradicts itself; the message names the file and the tensor.
    TypeError
        names is no text and no iterable of texts.
    ValueError
        The file has no array of a name.

    Examples
    --------
    >>> import tempfile, qnumpy as qn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     qn.save(f"{folder}/a.npz", {"a": np.zeros(3, np.float32), "b": np.ones(2, np.float32)})
    ...     print(load(f"{folder}/a.npz", "b"))
    {'b': array([1., 1.], dtype=float32)}
    """
    if _holds_qparams(_text("load", path), "load"):
        qparams = load_qparams(path)
        return {name: qparams[name] for name in _asked(names, qparams)}
    with Reader(path) as reader:
        asked = _asked(names, reader.specs)
        for name in asked:
            if (problem := reader.specs[name].unreadable) is not None:
                raise fault(reader.path, name, f"{problem.reason}. load(names=...) reads the others.")
        return {name: reader.read(name, copy=True) for name in asked}


def _asked(names: Any, stored: Mapping[str, Any]) -> Iterable[str]:
    """Return the names to load; refuse those that the file does not have."""
    if names is None:
        return stored
    requirement = "a text or texts"
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise TypeError(must("load", "names", requirement, typed(names)))
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if not isinstance(name, str):
            raise TypeError(must("load", "names", requirement, typed(name)))
        if name not in stored:
            from difflib import get_close_matches  # takes 3 ms to import

            near = get_close_matches(name, stored, n=3)
            hint = f" Near it {'is' if len(near) == 1 else 'are'} {', '.join(map(repr, near))}." if near else ""
            raise ValueError(must("load", "names", "among those of the file", typed(name)) + hint)
    return list(dict.fromkeys(map(str, asked)))  # texts of NumPy too


def _holds_qparams(path: str, owner: str) -> bool:
    """Whether a path names a file of parameters; refuse unknown endings."""
    if path.endswith((*_FORMATS, INDEX)) or (os.path.isdir(path) if owner == "load" else _is_folder(path)):
        return False
    if path.endswith(".json"):
        return True
    index = f", {INDEX}" if owner == "load" else ""
    suffixes = f".npz, .safetensors{index}, .gguf or .json"
    raise ValueError(f"{owner}: path must end in {suffixes}, or be a folder; got {path!r}.")
