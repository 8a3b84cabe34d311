"""Quantized weights as other libraries store them in .safetensors: compressed-tensors, GPTQ and AWQ.

A layout knows the plain tensors of one weight. `adopt` finds them by their names and shapes, and puts one weight in
their place; the configuration of the model says what the shapes leave open. Tensors that fit no layout stay as they
are.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._check import must
from .._typing import Array, Path
from ..arrays.quantized import QuantizedArray
from ..dtypes import code_type, narrowest, real_type
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor
from ..qparams import QParams
from .fault import fault, json_object
from .spec import Held, TensorSpec, Value
from .words import pack_words, positive_scales, unpack_words, words

__all__: list[str] = []

CONFIG = "config.json"
CONFIG_KEY = "quantization_config"
_CONFIGS = (CONFIG, "quantize_config.json")
_PACKED, _WEIGHT = "_packed", ".weight"
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where the columns 0 to 7 of a word stand in it

Read = Callable[[str], Array]


@dataclass(frozen=True)
class PackQuantized:
    """compressed-tensors' "pack-quantized": codes as unsigned integers of `bits` bits in int32 words, row by row."""

    bits: int
    unsorted: bool = False  # whether the groups of the columns are in no order, by a tensor of indices
    held: Held | None = None  # what a file has

    def stored(self, name: str, spec: TensorSpec) -> Held:
        if self.held is not None:
            return self.held
        rows, columns = spec.shape
        groups = _groups(spec)
        parts: Held = {
            f"{name}_packed": (np.dtype("<i4"), (rows, words(self.bits, columns))),
            f"{name}_scale": (np.dtype("<f4"), (rows, groups)),
            f"{name}_shape": (np.dtype("<i8"), (2,)),
        }
        if spec.zero_point:
            parts[f"{name}_zero_point"] = np.dtype("<i4"), (words(self.bits, rows), groups)
        return parts

    def encode(self, name: str, spec: TensorSpec, value: QuantizedArray) -> Iterator[tuple[str, Array]]:
        offset = 1 << (self.bits - 1) if value.qparams.code.signed else 0
        groups = _groups(spec)
        yield f"{name}_packed", pack_words((value.codes.astype(np.int16) + offset).astype(np.uint8), self.bits)
        yield f"{name}_scale", value.scale.reshape(-1, groups)
        yield f"{name}_shape", np.array(spec.shape, "<i8")
        if spec.zero_point:
            zero = (value.zero_point.reshape(-1, groups) + offset).astype(np.uint8)
            yield f"{name}_zero_point", np.ascontiguousarray(pack_words(zero.T, self.bits).T)

    def decode(self, name: str, spec: TensorSpec, read: Read) -> Value:
        rows, columns = spec.shape
        codes = unpack_words(read(f"{name}_packed"), self.bits, columns)
        scale = read(f"{name}_scale")
        zero = np.full(scale.shape, 1 << (self.bits - 1), np.int32)
        if spec.zero_point:
            stored = read(f"{name}_zero_point")
            if stored.dtype == np.int8:
                zero += stored
            else:
                zero = unpack_words(stored.T, self.bits, rows).T.astype(np.int32)
        index = read(f"{name}_g_idx") if self.unsorted else None
        return _weight(codes, scale, zero, self.bits, spec, index, signed=True)


@dataclass(frozen=True)
class WordColumns:
    """GPTQ's and AWQ's layouts: (K, N) in int32 words along K or N, scales (groups, N), zero points along N."""

    bits: int
    stem: str
    interleaved: bool  # AWQ: eight columns of a word in the order 0, 2, 4, 6, 1, 3, 5, 7
    above: int  # what is added to a stored zero point: 1 in the first format of GPTQ
    unsorted: bool
    held: Held

    def stored(self, name: str, spec: TensorSpec) -> Held:
        return self.held

    def encode(self, name: str, spec: TensorSpec, value: Any) -> Iterator[tuple[str, Array]]:
        raise NotImplementedError  # such files are read alone

    def decode(self, name: str, spec: TensorSpec, read: Read) -> Value:
        n, k = spec.shape
        packed, zeros = read(f"{self.stem}.qweight"), read(f"{self.stem}.qzeros")
        zero = unpack_words(zeros, self.bits, n)
        if self.interleaved:
            codes = _deinterleaved(unpack_words(packed, self.bits, n)).T
            zero = _deinterleaved(zero)
        else:
            codes = unpack_words(packed.T, self.bits, k)
        above = (zero.T.astype(np.int32) + self.above) & ((1 << self.bits) - 1)
        index = read(f"{self.stem}.g_idx") if self.unsorted else None
        return _weight(codes, read(f"{self.stem}.scales").T, above, self.bits, spec, index, signed=False)


def _groups(spec: TensorSpec) -> int:
    shape = () if spec.granularity is None else spec.granularity.params_shape(spec.shape)
    return shape[1] if len(shape) == 2 else 1


def _deinterleaved(codes: Array) -> Array:
    return codes.reshape(len(codes), -1, 8)[..., _AWQ_ORDER].reshape(codes.shape)


def _weight(
    codes: Array, scale: Array, zero: Array, bits: int, spec: TensorSpec, index: Array | None, *, signed: bool
) -> Value:
    """Return a weight (N, K) of unsigned codes; its reals if the groups of the columns are in no order."""
    columns = spec.shape[1]
    if index is None:
        size = -(-columns // max(scale.shape[1], 1))
        granularity = spec.granularity
        if isinstance(granularity, PerGroup):
            size = granularity.group_size
        index = np.arange(columns) // max(size, 1)

    def spread(params: Array) -> Array:
        return params[:, index] if params.shape[0] == len(codes) else params[:, index].repeat(len(codes), axis=0)

    codes, scale, zero = positive_scales(codes, scale, zero, bits, spread)
    if spec.granularity is None:
        difference = codes.astype(np.int32) - spread(zero)
        return np.asarray(spread(scale) * difference.astype(np.float32))
    code = narrowest(bits, signed=signed)
    offset = 1 << (bits - 1) if signed else 0
    shape = spec.granularity.params_shape(spec.shape)
    params = QParams(
        scale.reshape(shape), (zero - offset).astype(np.int32).reshape(shape), code.key, spec.granularity,
        spec.qmin, spec.qmax,
    )  # fmt: skip
    return QuantizedArray((codes.astype(np.int16) - np.int16(offset)).astype(code.dtype), params)


# ---- reading: which tensors are a weight ----


class _Adopter:
    """The plain tensors of a file, and those that belong to weights of other libraries."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], read: Read, config: Mapping[str, Any]) -> None:
        self._path, self._specs, self._read, self._config = path, specs, read, config
        self.found: dict[str, tuple[str, TensorSpec]] = {}  # by the name of their first tensor

    def _shape(self, name: str, dtype: str | None, ndim: int | None) -> tuple[int, ...] | None:
        """Return the shape of a plain tensor of a dtype, of any real one for None; None if there is no such tensor."""
        spec = self._specs.get(name)
        if spec is None or spec.granularity is not None or spec.unreadable is not None:
            return None
        fits = real_type(spec.dtype) is not None if dtype is None else spec.dtype.name == dtype
        return spec.shape if fits and ndim in (None, len(spec.shape)) else None

    def _index(self, name: str, columns: int, groups: int) -> Array | None:
        """Return the group of each column, None for neighbours of one size."""
        shape = self._shape(name, "int32", 1) or self._shape(name, "int64", 1)
        if shape is None or shape == (0,):
            return None
        if shape != (columns,):
            raise fault(self._path, name, f"must have one index for each of {columns} columns; got shape {shape}.")
        index = np.asarray(self._read(name))
        if not index.any() or (index == -1).all():  # written by programs that do not reorder
            return None
        if index.min() < 0 or index.max() >= groups:
            raise fault(
                self._path, name, f"must have indices in [0, {groups - 1}]; got {index.min()} to {index.max()}."
            )
        return index

    def pack_quantized(self, name: str) -> None:
        base = name.removesuffix("_packed")
        packed, scale = self._shape(name, "int32", 2), self._shape(f"{base}_scale", None, None)
        listed = self._shape(f"{base}_shape", "int64", 1) or self._shape(f"{base}_shape", "int32", 1)
        if packed is None or scale is None or listed != (2,) or base in self._specs:
            return
        rows, columns = (int(length) for length in self._read(f"{base}_shape"))
        if rows != packed[0] or columns < 0:
            raise fault(self._path, f"{base}_shape", f"must begin with {packed[0]}; got {rows}, {columns}.")
        widths = [bits for bits in range(1, 9) if words(bits, columns) == packed[1]]
        if not widths:
            raise fault(self._path, name, f"must hold {columns} codes of 1 to 8 bits a row; got {packed[1]} words.")
        if len(widths) > 1:  # the words of so few columns fit several widths: the configuration decides
            listed_bits = self._listed(base.removesuffix(_WEIGHT), "num_bits")
            if len(fits := [bits for bits in widths if bits in listed_bits]) != 1:
                problem = f"{columns} codes a row of {packed[1]} words may have {widths[0]} to {widths[-1]} bits"
                raise fault(self._path, name, f"{problem}; 'num_bits' of the {CONFIG_KEY} does not say which.")
            widths = fits
        bits = widths[0]
        scale = (rows, 1) if scale == (rows,) else (1, 1) if scale in ((), (1,)) else scale
        if len(scale) != 2 or scale[0] not in (rows, 1) or (scale[0] == 1 and scale[1] != 1):
            raise fault(self._path, f"{base}_scale", f"must have a row of scales for each of {rows} rows; got {scale}.")
        zero_name = f"{base}_zero_point"
        zero = self._specs.get(zero_name)
        if zero is not None and (zero.dtype.name, zero.shape) not in (
            ("int32", (words(bits, rows), scale[1])),
            ("int8", scale),
        ):
            requirement = f"int32 {(words(bits, rows), scale[1])}"
            raise fault(self._path, zero_name, f"must be {requirement}; got {zero.dtype} {zero.shape}.")
        index = self._index(f"{base}_g_idx", columns, scale[1])
        granularity = self._granularity(base.removesuffix(_WEIGHT), f"{base}_scale", (rows, columns), scale, index)
        held = self._held(f"{base}_{part}" for part in ("packed", "scale", "shape", "zero_point", "g_idx"))
        layout = PackQuantized(bits, index is not None and granularity is None, held)
        half = 1 << (bits - 1)
        self._keep(name, base, (rows, columns), granularity, layout, (-half, half - 1), zero is not None)

    def word_columns(self, name: str) -> None:
        stem = name.removesuffix(".qweight")
        packed, zeros = self._shape(name, "int32", 2), self._shape(f"{stem}.qzeros", "int32", 2)
        scales = self._shape(f"{stem}.scales", None, 2)
        if packed is None or zeros is None or scales is None or stem + _WEIGHT in self._specs:
            return
        groups, n = scales
        if zeros[0] != groups or not n or zeros[1] * 32 % n:
            raise fault(self._path, f"{stem}.qzeros", f"must hold {groups} rows of {n} zero points; got shape {zeros}.")
        bits = zeros[1] * 32 // n
        interleaved = packed[1] != n
        if interleaved and (bits != 4 or packed[1] * 8 != n):
            raise fault(self._path, name, f"must have {n} columns of words along K, or {n // 8} along N; got {packed}.")
        if bits not in (2, 3, 4, 8) or (not interleaved and packed[0] * 32 % bits):
            raise fault(self._path, name, f"must hold codes of 2, 3, 4 or 8 bits; got {bits} by its zero points.")
        k = packed[0] if interleaved else packed[0] * 32 // bits
        index = self._index(f"{stem}.g_idx", k, groups)
        granularity = self._granularity(stem, f"{stem}.scales", (n, k), (n, groups), index)
        second = "gptq_v2" in (self._config.get("checkpoint_format"), self._config.get("format"))
        above = 0 if interleaved or second else 1
        held = self._held(f"{stem}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
        layout = WordColumns(bits, stem, interleaved, above, granularity is None, held)
        self._keep(name, stem + _WEIGHT, (n, k), granularity, layout, (0, (1 << bits) - 1), True)

    def _granularity(
        self, module: str, name: str, shape: tuple[int, int], scale: tuple[int, ...], index: Array | None
    ) -> Granularity | None:
        """Return the granularity of a weight, None if the groups of its columns are in no order."""
        columns, groups = shape[1], scale[1]
        if groups == 1:
            return PerChannel(0) if scale[0] == shape[0] else PerTensor()
        sizes = [self._config.get("group_size"), self._config.get("q_group_size"), *self._listed(module, "group_size")]
        sizes = [size for size in sizes if type(size) is int and size > 0]
        if groups and columns % groups == 0:
            sizes.append(columns // groups)
        for size in sizes:
            if -(-columns // size) == groups and (index is None or np.array_equal(index, np.arange(columns) // size)):
                return PerGroup(size)
        if index is not None:
            return None
        raise fault(self._path, name, f"must divide {columns} columns into groups; got {groups} scales a row.")

    def _schemes(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Yield the scheme of weights and the targets of each group of the configuration."""
        groups = self._config.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict):
                yield weights, group.get("targets")

    def _listed(self, module: str, key: str) -> list[Any]:
        """Return the values in the schemes of the groups that name a module, of all groups if none does."""
        schemes = list(self._schemes())
        named = [weights for weights, targets in schemes if isinstance(targets, list) and module in targets]
        return [weights.get(key) for weights in named or [weights for weights, _ in schemes]]

    def _keep(
        self, first: str, name: str, shape: tuple[int, int], granularity: Granularity | None, layout: Any,
        limits: tuple[int, int], zero_point: bool,
    ) -> None:  # fmt: skip
        if granularity is None:
            spec = TensorSpec(np.dtype(np.float32), shape, layout=layout, zero_point=zero_point)
        else:
            code = narrowest(layout.bits, signed=limits[0] < 0)
            spec = TensorSpec(code.dtype, shape, granularity, *limits, zero_point, layout=layout)
        self.found[first] = name, spec

    def _held(self, names: Iterable[str]) -> Held:
        return {name: (self._specs[name].dtype, self._specs[name].shape) for name in names if name in self._specs}


def adopt(
    path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, Any], read: Read
) -> dict[str, TensorSpec]:
    """Return the arrays of a file with one weight in the place of the tensors of each layout."""
    if not any(name.endswith((_PACKED, ".qweight")) for name in specs):
        return dict(specs)
    adopter = _Adopter(path, specs, read, _config(path, metadata))
    for name in specs:
        if name.endswith(_PACKED):
            adopter.pack_quantized(name)
        elif name.endswith(".qweight"):
            adopter.word_columns(name)
    used = {part for base, weight in adopter.found.values() for part in weight.stored(base)}
    result: dict[str, TensorSpec] = {}
    for name, spec in specs.items():
        if name in adopter.found:
            base, weight = adopter.found[name]
            result[base] = weight
        elif name not in used:
            result[name] = spec
    return result


def _config(path: Path, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the quantization: that of the file, or of a file beside it."""
    text = metadata.get(CONFIG_KEY)
    if isinstance(text, str):
        return json_object(path, text, f"{CONFIG_KEY!r} of the metadata")
    for name in _CONFIGS:
        values = read_config(os.path.join(os.path.dirname(os.fspath(path)), name))
        found = values.get(CONFIG_KEY, {} if name == CONFIG else values)
        if isinstance(found, dict) and found:
            return found
    return {}


def read_config(path: str) -> dict[str, Any]:
    """Return the object of a .json file, an empty one if there is no such file."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return json_object(path, text, "the configuration")


# ---- writing: compressed-tensors ----


def compressed(owner: str, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Return the plan of a file of compressed-tensors: its quantized arrays in that layout."""
    result = {}
    for name, spec in specs.items():
        if spec.granularity is None:
            result[name] = spec
            continue
        code = None if spec.format is not None or spec.options is not None else code_type(spec.dtype)
        group = spec.granularity.group_size if isinstance(spec.granularity, PerGroup) else None
        along = group is not None and spec.granularity.axis in (-1, 1)
        requirement = "a QuantizedArray of integers of at most 8 bits for compressed-tensors"
        if code is None or code.real is not None or code.bits > 8:
            raise TypeError(must(owner, f"arrays[{name!r}]", requirement, spec.format or spec.dtype.name))
        if len(spec.shape) != 2 or not (along or spec.granularity in (PerChannel(0), PerChannel(-2))):
            requirement = "2-D, per channel of axis 0 or in groups of axis 1, for compressed-tensors"
            got = f"shape {spec.shape}, {spec.granularity.describe()}"
            raise ValueError(must(owner, f"arrays[{name!r}]", requirement, got))
        if group is not None and spec.shape[1] % group:
            requirement = "of whole groups for compressed-tensors"
            got = f"{spec.shape[1]} columns {spec.granularity.describe()}"
            raise ValueError(must(owner, f"arrays[{name!r}]", requirement, got))
        result[name] = replace(spec, layout=PackQuantized(code.bits))
    return result


def compressed_config(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return the quantization_config of a file of compressed-tensors."""
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    ignored = []
    for name, spec in specs.items():
        module = name.removesuffix(_WEIGHT)
        if not isinstance(spec.layout, PackQuantized):
            if len(spec.shape) == 2 and name.endswith(_WEIGHT):
                ignored.append(module)
            continue
        group = spec.granularity.group_size if isinstance(spec.granularity, PerGroup) else None
        weights = {
            "num_bits": spec.layout.bits,
            "type": "int",
            "symmetric": not spec.zero_point,
            "strategy": "channel" if group is None else "group",
            "group_size": group,
            "dynamic": False,
        }
        schemes.setdefault(json.dumps(weights), (weights, []))[1].append(module)
    groups = {}
    for i, (weights, modules) in enumerate(schemes.values()):
        targets = ["Linear"] if len(schemes) == 1 else modules
        groups[f"group_{i}"] = {
            "targets": targets, "weights": weights, "input_activations": None, "output_activations": None,
        }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
    }
