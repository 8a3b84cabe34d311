"""Models in .safetensors files: arrays as docs/file-format.md has them, and in the metadata what modules hold them."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import _check
from .. import torch as package
from .._typing import Array, Path
from ..files.fault import fault, json_object
from ..files.spec import TensorSpec, options_from_json, options_to_json
from ..files.store import Reader, Writer
from ._layout import layout_of
from ._library import array_of, tensor_of
from .modules import Quantized

__all__ = ["load", "save"]

_KEY = "qnumpy.torch"  # of the file's metadata
_VERSION = 1
_OWN = "qnumpy.torch."  # modules whose classes begin with it are made by load; those of a float model are replaced
_Module = TypeVar("_Module", bound=nn.Module)


def save(model: nn.Module, path: Path, *, max_shard_bytes: int | None = None) -> None:
    """Save a converted model to a .safetensors file, which appears whole or not at all.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights of codes become arrays of the file, ``encoder.0.weight`` and so on, which `qnumpy.load` reads too;
        the other parameters and buffers are plain tensors. What modules share is written once.
    path : str or path
        Ends in .safetensors, or names a folder, which gets a model.safetensors.
    max_shard_bytes : int, optional
        As in `qnumpy.save`.

    Raises
    ------
    TypeError
        model is no module, or a module that is not qnumpy's has an extra state.
    ValueError
        A tensor is on the device "meta".
    TypeError, ValueError
        path is no path that a model can be written to.
    OSError
        The disk is full, or the file cannot be written.

    Examples
    --------
    >>> import tempfile, qnumpy as qn, torch
    >>> w = torch.linspace(-1, 1, 12).reshape(3, 4).numpy()
    >>> model = torch.nn.Sequential(qn.torch.Linear(qn.quantize(w)), torch.nn.LayerNorm(3)).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, f"{folder}/model.safetensors")
    ...     arrays = qn.load(f"{folder}/model.safetensors")
    ...     float_model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    ...     back = load(float_model, f"{folder}/model.safetensors")
    >>> sorted(arrays)
    ['0.weight', '1.bias', '1.weight']
    >>> torch.equal(back(torch.ones(2, 4)), model(torch.ones(2, 4)))
    True
    """
    owner = "save"
    _check_module(owner, model)
    if str(path).endswith((".npz", ".gguf", ".json")):
        raise ValueError(_check.must(owner, "path", "of a .safetensors file or of a folder", repr(str(path))))
    modules: dict[str, Any] = {}
    values: dict[str, Any] = {}
    shared: dict[str, str] = {}
    homes: dict[Any, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Identity) or _is_own(module):
            first = homes.setdefault(id(module), name)
            modules[name] = _described(owner, name, module) if first == name else {"same": first}
        elif type(module).get_extra_state is not nn.Module.get_extra_state:
            wanted = "of modules whose state is tensors, or of qnumpy's"
            raise TypeError(_check.must(owner, "model", wanted, f"{name!r} of {type(module).__name__}"))
        for key, place, read in _values(module):
            home = homes.setdefault(place, _join(name, key))
            if home != _join(name, key):
                shared[_join(name, key)] = home
                continue
            values[home] = read()
            if values[home] is None:
                raise ValueError(_check.must(owner, "model", "of tensors with data", f"{home!r} on the device 'meta'"))
    text = json.dumps({"version": _VERSION, "modules": modules, "shared": shared}, ensure_ascii=False)
    specs = {name: TensorSpec.of(value) for name, value in values.items()}
    with Writer(path, specs, {_KEY: text}, max_shard_bytes=max_shard_bytes) as writer:
        for name, value in values.items():
            writer.write(name, value)


def load(model: _Module, path: Path) -> _Module:
    """Return a model with the modules and the tensors of a file that `save` wrote.

    Parameters
    ----------
    model : torch.nn.Module
        The float model, whose parameters are not read: they may be on the device "meta". It does not change.
    path : str or path

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU. Each tensor is read once into its memory; weights are packed when they are used.

    Raises
    ------
    TypeError
        model is no module.
    TypeError, ValueError, OSError
        path is no path, or of no file that can be read.
    FileFormatError
        The file is damaged, or `save` did not write it.
    ValueError
        The model lacks a module or a tensor of the file, has one more, or one of another shape.

    Examples
    --------
    >>> with torch.device("meta"):  # doctest: +SKIP
    ...     model = Model(config)
    >>> model = load(model, "model.safetensors")  # doctest: +SKIP
    """
    _check_module("load", model)
    with Reader(path) as reader:
        result: Any = _File(reader).filled(_without_data(model))
    result.eval()
    return result  # type: ignore[no-any-return]


def _check_module(owner: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(_check.must(owner, "model", "a torch.nn.Module", _check.typed(model)))


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


# ---- what the metadata say ----


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_OWN)


def _described(owner: str, name: str, module: nn.Module) -> dict[str, Any]:
    """Return what makes a module again, without its tensors."""
    entry: dict[str, Any] = {"class": type(module).__name__}
    if isinstance(module, nn.Identity):
        return entry
    if getattr(package, entry["class"], None) is not type(module):
        wanted = "of modules that load can make"
        raise TypeError(_check.must(owner, "model", wanted, f"{name!r} of {type(module).__name__}"))
    held = vars(module)
    entry["attributes"] = {key: held[key] for key in held if key[0] != "_" and key not in ("training", "layout")}
    if isinstance(module, Quantized):
        layout = layout_of(module.layout)
        entry |= {"arrays": list(layout.specs), "options": options_to_json(layout.options)}
    entry["buffers"] = {key: tensor is not None for key, tensor in module._buffers.items() if key not in _names(module)}
    return entry


def _names(module: nn.Module) -> list[str]:
    """Return the buffers that hold arrays of qnumpy."""
    return module._names if isinstance(module, Quantized) else []


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module itself, but those that hold arrays of qnumpy."""
    for held in (module._parameters, module._buffers):
        for name, tensor in held.items():
            if tensor is not None and name not in _names(module):
                yield name, tensor


def _values(module: nn.Module) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Yield what a module itself holds: names, what is equal for shared ones, and how the array is read."""
    if isinstance(module, Quantized):
        layout = layout_of(module.layout)
        for name, spec in layout.specs.items():
            held = zip(layout.tensors, module.tensors(), strict=True)
            places = [tensor.data_ptr() for part, tensor in held if part == name or part.startswith(f"{name}.")]
            yield name, (*places, str(spec)), partial(module.array, name)
    for name, tensor in _tensors(module):
        yield name, id(tensor), partial(_array, tensor)


def _array(tensor: Tensor) -> Array | None:
    return None if tensor.is_meta else array_of(tensor.detach().cpu())


# ---- modules and tensors of a file ----


class _File:
    """A file that `save` wrote."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        text = reader.metadata.get(_KEY)
        if not isinstance(text, str):
            raise fault(reader.path, None, "is not of a model that qnumpy.torch.save wrote.")
        values = json_object(reader.path, text, "the description of the model")
        if values.get("version") != _VERSION:
            raise fault(reader.path, None, f"the model must be of version {_VERSION}; got {values.get('version')!r}.")
        modules, shared = values.get("modules"), values.get("shared")
        if not isinstance(modules, dict) or not isinstance(shared, dict):
            raise fault(reader.path, None, "the description of the model must have objects 'modules' and 'shared'.")
        self.modules, self.shared = modules, shared
        self._arrays: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}

    def filled(self, model: nn.Module) -> nn.Module:
        """Return a model without data with the modules and the tensors of the file."""
        made: dict[str, nn.Module] = {}
        for name, entry in self.modules.items():
            try:
                made[name] = made[entry["same"]] if "same" in entry else self._made(model, name, entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                text = str(error).rstrip(".")
                raise fault(self.reader.path, None, f"the module {name!r} is wrong: {text}.") from error
            model = self._placed(model, name, made[name])
        for name, module in model.named_modules(remove_duplicate=False):
            for key, old in _tensors(module):
                held: Any = module._parameters if key in module._parameters else module._buffers
                held[key] = self._tensor(_join(name, key), old)
        for name in self.reader.specs:
            if name not in self._arrays and name not in self._tensors:
                raise self._unlike("tensors", f"none named {name!r}")
        return model

    def _unlike(self, what: str, got: str) -> ValueError:
        return ValueError(_check.must("load", "model", f"one with the {what} of {self.reader.path}", got))

    def _unlike_shape(self, name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> ValueError:
        text = f"one whose {name!r} has the shape {wanted} of {self.reader.path}"
        return ValueError(_check.must("load", "model", text, str(got)))

    def _made(self, model: nn.Module, name: str, entry: Mapping[str, Any]) -> nn.Module:
        """Return a module as its constructor left it, without packing its weight again.

        One that is made of layers gets those of the module of the model, which others of the file may replace.
        """
        kind = entry["class"]
        if kind == "Identity":
            return nn.Identity()
        cls = getattr(package, kind) if kind in package.__all__ else None
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise ValueError(f"qnumpy.torch has no module {kind!r}.")
        if hasattr(cls, "from_float"):
            return cls.from_float(model.get_submodule(name))  # type: ignore[no-any-return]
        module: Any = object.__new__(cls)
        if isinstance(module, Quantized):
            arrays = {array: self._array(_join(name, array)) for array in entry["arrays"]}
            Quantized.__init__(module, arrays, options_from_json(entry["options"]))
        else:
            nn.Module.__init__(module)
        for key, value in entry["attributes"].items():
            if not key.isidentifier() or key[0] == "_" or hasattr(nn.Module, key):
                raise ValueError(f"{key!r} is no attribute.")
            setattr(module, key, _tuples(value))
        for key, holds in entry["buffers"].items():
            module.register_buffer(key, torch.empty(0, device="meta") if holds else None)
        return module

    def _array(self, name: str) -> Any:
        home = self.shared.get(name, name)
        if home not in self._arrays:
            self._arrays[home] = self.reader.read(home, copy=True)
        return self._arrays[home]

    def _placed(self, model: nn.Module, name: str, module: nn.Module) -> nn.Module:
        """Put a module in the place of the one of that name, and return the model."""
        if not name:
            return module
        parent, _, last = name.rpartition(".")
        try:
            above = model.get_submodule(parent)
            old = model.get_submodule(name)
        except AttributeError:
            raise self._unlike("modules", f"none named {name!r}") from None
        if isinstance(module, nn.Identity) and isinstance(old, nn.Identity):
            return model
        name = _join(name, "weight")
        weight, spec = getattr(old, "weight", None), self.reader.specs.get(self.shared.get(name, name))
        compared = isinstance(weight, Tensor) and not isinstance(old, Quantized)  # a shared module is there already
        # some libraries hold the weight transposed
        if compared and weight is not None and spec is not None and sorted(weight.shape) != sorted(spec.shape):
            raise self._unlike_shape(name, tuple(weight.shape), spec.shape)
        setattr(above, last, module)
        return model

    def _tensor(self, name: str, old: Tensor) -> Tensor:
        """Return a plain tensor of the file, as a parameter in the place of one."""
        home = self.shared.get(name, name)
        if home not in self._tensors:
            spec = self.reader.specs.get(home)
            if spec is None or home in self._arrays or not spec.is_plain:
                raise self._unlike("tensors", f"{name!r} too")
            if tuple(old.shape) != spec.shape and old.numel():
                raise self._unlike_shape(name, tuple(old.shape), spec.shape)
            array: Any = self.reader.read(home, copy=True)
            tensor = tensor_of(array)
            if isinstance(old, nn.Parameter):
                tensor = nn.Parameter(tensor, old.requires_grad and tensor.is_floating_point())
            self._tensors[home] = tensor
        return self._tensors[home]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters and buffers have no data."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
