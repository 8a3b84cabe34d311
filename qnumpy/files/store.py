"""Dictionaries of arrays and quantized arrays in .npz and .safetensors files, one tensor at a time; save and load."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .._check import must, typed
from .._typing import Array, Path
from ..arrays.mx import MXArray
from ..arrays.quantized import QuantizedArray
from ..errors import FileFormatError
from ..qparams import QParams
from .atomic import AtomicFile
from .fault import fault, json_object
from .npz import SCHEMA_ENTRY, NpzReader, NpzWriter
from .qparams import load_qparams, save_qparams
from .safetensors import SCHEMA_KEY, SafetensorsReader, SafetensorsWriter
from .spec import Held, TensorSpec, Value, is_ml_dtype, read_schema, write_schema

__all__ = ["NamesCollideError", "Reader", "Writer", "load", "save"]

INDEX = ".safetensors.index.json"
_RESERVED = (SCHEMA_ENTRY, "__metadata__")
_Format: TypeAlias = tuple[type[SafetensorsReader | NpzReader], type[SafetensorsWriter | NpzWriter]]
_FORMATS: dict[str, _Format] = {".safetensors": (SafetensorsReader, SafetensorsWriter), ".npz": (NpzReader, NpzWriter)}


class NamesCollideError(ValueError):
    """Two arrays need one name in the file."""


class _Container(Protocol):
    """A file of plain tensors."""

    held: Held
    schema: str | None
    metadata: dict[str, str]

    def read(self, name: str, copy: bool) -> Array: ...
    def close(self) -> None: ...


class Reader:
    """Read a file tensor by tensor.

    Arrays of a .safetensors file are read-only views of a memory map that is released with the array.

    Parameters
    ----------
    path : str or path
        A .npz or .safetensors file, or the .safetensors.index.json of a sharded model.

    Attributes
    ----------
    specs : dict of str to TensorSpec
        The arrays of the file, in its order.
    metadata : dict of str to str
        Other metadata of the file.
    paths : list of str
        Every file of the model.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors or .safetensors.index.json.
    OSError
        The file cannot be read.
    FileFormatError
        The file is truncated, oversized or contradicts itself; the message names the file and the tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = _text("load", path)
        self.specs: dict[str, TensorSpec] = {}
        self.metadata: dict[str, str] = {}
        self.paths = [self.path]
        self._homes: dict[str, _Container] = {}
        self._containers: list[_Container] = []
        try:
            if self.path.endswith(INDEX):
                self._open_shards()
            else:
                open_container, _ = _format("load", self.path, f" or {INDEX}")
                self._add(open_container(self.path), self.path)
        except BaseException:
            self.close()
            raise

    def _add(self, container: _Container, path: str) -> None:
        self._containers.append(container)
        self.metadata |= container.metadata
        if container.schema is None:
            specs = {name: TensorSpec(*held) for name, held in container.held.items()}
        else:
            specs = read_schema(path, container.schema, container.held)
        for name, spec in specs.items():
            self.specs[name] = spec
            self._homes[name] = container

    def _open_shards(self) -> None:
        with open(self.path, "rb") as file:
            index = json_object(self.path, file.read(), "the index")
        homes = index.get("weight_map")
        if not isinstance(homes, dict):
            raise fault(self.path, None, f"the index must have an object 'weight_map'; got {homes!r}.")
        for name, shard in homes.items():
            if not _is_shard(shard):
                raise fault(self.path, name, f"must be in a .safetensors file beside the index; got {shard!r}.")
        folder = os.path.dirname(self.path)
        for shard in dict.fromkeys(homes.values()):
            path = os.path.join(folder, shard)
            self.paths.append(path)
            container = SafetensorsReader(path)
            names = {name for name, home in homes.items() if home == shard}
            for name in sorted(names.symmetric_difference(container.held)):
                container.close()
                lacks, has = (path, self.path) if name in names else (self.path, path)
                raise fault(lacks, name, f"is missing; {os.path.basename(has)} has it here.")
            self._add(container, path)

    def read(self, name: str, *, copy: bool = False) -> Value:
        """Return one array; with `copy`, one that owns its memory and can be written to.

        Raises
        ------
        KeyError
            The file has no such array.
        FileFormatError
            The file was cut, or holds invalid scales or zero points.
        """
        spec, container = self.specs[name], self._homes[name]
        try:
            return spec.decode(name, lambda part: container.read(part, copy))
        except FileFormatError:
            raise
        except (TypeError, ValueError) as error:
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

    The file appears whole or not at all: it is written under another name in the same folder, and renamed on leaving
    the ``with`` block; any exception, Ctrl-C too, removes it.

    Parameters
    ----------
    path : str or path
        Ends in .npz or .safetensors.
    specs : dict of str to TensorSpec
        The arrays that will be written.
    metadata : dict of str to str, optional
        More metadata for a .safetensors file; .npz has none.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz or .safetensors.
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

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> None:
        self.path = _text("save", path)
        _, self._container_type = _format("save", self.path)
        self.specs = dict(specs)
        self._stored = _plan(self.specs, self._container_type.holds, self._container_type.longest)
        self._metadata = {**(metadata or {}), SCHEMA_KEY: write_schema(self.specs, self._container_type.holds)}
        self._missing = dict.fromkeys(self.specs)
        self._file = AtomicFile(self.path, "xb")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._file)
            with self._file.naming_errors():
                self._container = self._container_type(self._file.file, self._stored, self._metadata)
            stack.push(self._finish)
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
        spec, actual = self.specs[name], TensorSpec.of(value)
        if name not in self._missing or actual not in (spec, replace(spec, zero_point=False)):
            raise ValueError(f"save: {name!r} must be written once, as planned: {spec}; got {actual}.")
        with self._file.naming_errors():
            for part, array in spec.encode(name, value):
                self._container.write(part, array)
        del self._missing[name]

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def _finish(self, exception_type: object, *_: object) -> None:
        try:
            if exception_type is None:
                if self._missing:
                    raise ValueError(f"save: {next(iter(self._missing))!r} was planned and never written.")
                with self._file.naming_errors():
                    self._container.close()
        finally:
            with contextlib.suppress(OSError, ValueError):  # the file will be removed, or is already closed
                self._container.close()


def _text(owner: str, path: Path) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(must(owner, "path", "a text or a path", typed(path)))
    return text


def _format(owner: str, path: str, more: str = "") -> _Format:
    for suffix, types in _FORMATS.items():
        if path.endswith(suffix):
            return types
    raise ValueError(f"{owner}: path must end in .npz or .safetensors{more}; got {path!r}.")


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


def _plan(specs: Mapping[str, TensorSpec], holds: Callable[[np.dtype[Any]], bool], longest: int) -> Held:
    """Return every plain tensor of the file; refuse names that collide and dtypes that no file holds."""
    stored: Held = {}
    owners: dict[str, str] = {}
    for name, spec in specs.items():
        if not isinstance(name, str):
            raise TypeError(f"save: arrays must have texts as names; got {name!r}.")
        if name in _RESERVED or "\0" in name or not _encodable(name):
            raise ValueError(f"save: arrays must have names that a file can hold; got {name!r}.")
        if spec.dtype.hasobject or not (is_ml_dtype(spec.dtype) or holds(spec.dtype)):
            raise TypeError(f"save: arrays[{name!r}] must have a dtype that this kind of file holds; got {spec.dtype}.")
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
            stored[part] = (dtype if holds(dtype) else np.dtype(f"u{dtype.itemsize}")), shape
    return stored


def save(path: Path, arrays: Mapping[str, Value | QParams | ArrayLike]) -> None:
    """Save arrays and quantized arrays to one .npz or .safetensors file, or parameters to a .json file.

    Codes of 4 and 2 bits are packed, low bits first, along the last axis. The file appears whole or not at all.

    Parameters
    ----------
    path : str or path
        Ends in .npz, .safetensors or .json; an existing file is replaced.
    arrays : mapping of str to QuantizedArray, MXArray or array_like
        For a .json file a mapping of str to QParams: a calibration, or any other.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors or .json.
    TypeError
        arrays is no mapping, or for a .json file a value is no QParams.
    CalibrationError
        An observer of a calibration has seen nothing finite.
    TypeError
        For another file an array has a mask or is a QParams, or a name is no text.
    ValueError
        The file cannot hold a name.
    TypeError
        The file cannot hold a dtype: objects; complex128 in .safetensors.
    ValueError
        Names collide: a quantized ``w`` also takes ``w.scale`` and ``w.zero_point``, an NVFP4 one ``w.tensor_scale``.
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
        save_qparams(path, arrays)
        return
    if not isinstance(arrays, Mapping):
        raise TypeError(must("save", "arrays", "a mapping of names to arrays", type(arrays).__name__))
    values: dict[str, Value] = {}
    for name, value in arrays.items():
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(must("save", f"arrays[{name!r}]", "an array without a mask", "a masked array"))
        if isinstance(value, QParams):
            raise TypeError(must("save", f"arrays[{name!r}]", "an array unless path ends in .json", typed(value)))
        values[name] = value if isinstance(value, (QuantizedArray, MXArray)) else np.asarray(value)
    with Writer(path, {name: TensorSpec.of(value) for name, value in values.items()}) as writer:
        for name, value in values.items():
            writer.write(name, value)


def load(path: Path) -> dict[str, Value] | dict[str, QParams]:
    """Load every array of a file, or the parameters of a .json file.

    Files of other programs load too, as plain arrays; bfloat16 and float8 have the dtypes of ml_dtypes.

    Parameters
    ----------
    path : str or path
        A .npz or .safetensors file, the .safetensors.index.json of a sharded model, or a .json file that save wrote.

    Returns
    -------
    dict of str to QuantizedArray, MXArray or numpy.ndarray
        In the order of the file; the arrays own their memory. Of a .json file a dict of str to QParams.

    Raises
    ------
    TypeError
        path is no text and no path.
    ValueError
        path does not end in .npz, .safetensors, .safetensors.index.json or .json.
    OSError
        The file cannot be read.
    FileFormatError
        The file is truncated, oversized or contradicts itself; the message names the file and the tensor.
    """
    if _holds_qparams(_text("load", path), "load"):
        return load_qparams(path)
    with Reader(path) as reader:
        return {name: reader.read(name, copy=True) for name in reader.specs}


def _holds_qparams(path: str, owner: str) -> bool:
    """Whether a path names a file of parameters; refuse unknown endings."""
    if path.endswith((*_FORMATS, INDEX)):
        return False
    if path.endswith(".json"):
        return True
    index = f", {INDEX}" if owner == "load" else ""
    raise ValueError(f"{owner}: path must end in .npz, .safetensors{index} or .json; got {path!r}.")
