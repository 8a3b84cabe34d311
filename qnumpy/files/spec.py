"""TensorSpec: the description of one array in a file, and the plain tensors that hold it.

docs/file-format.md says how they hold it, and what the schema says about it; a change of it changes that page.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

from .._check import must, typed
from .._packing import pack_rows, unpack_rows
from .._typing import Array, DType, Path
from ..arrays.codebook import CodebookArray, Tables, code_of_levels
from ..arrays.gguf import GGUFArray
from ..arrays.mx import MXArray, mx_format
from ..arrays.offset import OffsetArray
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray
from ..dtypes import CodeType, code_type
from ..granularity import Granularity, PerGroup
from ..observers.moments import MomentsObserver
from ..ops.gguf import GGUF_TYPES
from ..ops.hadamard import Hadamard
from ..qparams import QParams
from .fault import fault, json_object
from .fields import ML_DTYPES, converted, plain, restored, stand_in, types

__all__ = ["FORMAT_VERSION", "TensorSpec"]

FORMAT_VERSION = 3  # the newest

Value: TypeAlias = (
    Array | QuantizedArray | MXArray | CodebookArray | OffsetArray | GGUFArray | PackedWeight | MomentsObserver
)
Held: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # the plain tensors of a file: dtype and shape

MAX_ELEMENTS = 1 << 62  # of an axis, and bytes of an array


@dataclass(frozen=True)
class Unreadable:
    """Why an array of a file cannot be read, as the end of a sentence; its bytes; its dtype, where NumPy has none."""

    reason: str
    nbytes: int
    dtype: str | None = None


class Layout(Protocol):
    """The plain tensors of a weight of another library; see layouts.py."""

    def stored(self, name: str, spec: "TensorSpec") -> Held: ...
    def encode(self, name: str, spec: "TensorSpec", value: Any) -> Iterator[tuple[str, Array]]: ...
    def decode(self, name: str, spec: "TensorSpec", read: Callable[[str], Array]) -> Value: ...


@dataclass(frozen=True)
class TensorSpec:
    """Description of one array in a file: enough to plan the file before the values are known.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the array, or of the codes of a quantized one.
    shape : tuple of int
    granularity : Granularity, optional
        None for a plain array.
    qmin, qmax : int
        Code range of a quantized array.
    zero_point : bool
        Whether the file holds zero points.
    format : str, optional
        Of an MXArray, or the type of a GGUFArray.
    options : dict, optional
        Of a PackedWeight: the keywords of its constructor as values of JSON, and the shape of its bias.
    moments : dict, optional
        Of a MomentsObserver: its counts of rows and its configuration.
    unreadable : Unreadable, optional
        Of an array of a file that qnumpy does not read.
    levels : int
        Of a table of a CodebookArray, whose tables have `granularity`; 0 for other arrays.
    scale_granularity : Granularity, optional
        Of the scales of a CodebookArray that has some.
    offset : bool
        Whether the array is an OffsetArray.
    byte_codes : bool
        Whether each 6-bit code takes a byte, as in format version 1.
    named : CodeType, optional
        Of codes whose type has no dtype.
    layout : Layout, optional
        How another library stores the array; the schema does not name such an array.

    Examples
    --------
    >>> TensorSpec.quantized((4096, 768), "int4", PerGroup(32), symmetric=True).nbytes
    1966080
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    granularity: Granularity | None = None
    qmin: int = 0
    qmax: int = 0
    zero_point: bool = False
    format: str | None = None
    options: Mapping[str, Any] | None = None
    moments: Mapping[str, Any] | None = None
    unreadable: Unreadable | None = None
    byte_codes: bool = False
    named: CodeType | None = None
    layout: Layout | None = None
    levels: int = 0
    scale_granularity: Granularity | None = None
    offset: bool = False

    @classmethod
    def of(cls, value: Value) -> Self:
        """Describe an existing array."""
        if isinstance(value, PackedWeight):
            w, options = _parts(value)
            return replace(cls.of(w), options=options_to_json(options))
        if isinstance(value, MomentsObserver):
            counts = {key: int(getattr(value, name)) for key, name in _COUNTS.items()}
            return cls(np.dtype(np.float64), value.scatter_.shape, moments={**counts, **value.get_config()})
        if isinstance(value, MXArray):
            return cls.blocks(value.shape, value.format)
        if isinstance(value, GGUFArray):
            return cls.gguf(value.shape, value.type)
        if isinstance(value, CodebookArray):
            spec = cls._of_codes(value._code, value.shape, value.granularity, 0, 0, False)
            return replace(spec, levels=value.levels, scale_granularity=value.scale_granularity)
        if isinstance(value, OffsetArray):
            return replace(cls._of_codes(value._code, value.shape, value.granularity, 0, 0, False), offset=True)
        if not isinstance(value, QuantizedArray):
            return cls(plain(value.dtype), value.shape)
        p = value.qparams
        return cls._of_codes(p.code, value.shape, p.granularity, p.qmin, p.qmax, not p.symmetric)

    @classmethod
    def _of_codes(
        cls, code: CodeType, shape: tuple[int, ...], granularity: Granularity, qmin: int, qmax: int, zero_point: bool
    ) -> Self:
        named = code if code.is_named else None
        return cls(code.dtype, shape, granularity, qmin, qmax, zero_point, named=named)

    @classmethod
    def blocks(cls, shape: tuple[int, ...], format: str) -> Self:
        """Describe the result of ``quantize`` for an array of `shape` in a format of blocks."""
        mx = mx_format(format)
        if mx is None:
            raise ValueError(must("TensorSpec", "format", "the name of an MX format", typed(format)))
        return cls(mx.element.dtype, tuple(shape), PerGroup(mx.group_size), format=mx.name)

    @classmethod
    def gguf(cls, shape: tuple[int, ...], type: str) -> Self:
        """Describe the result of ``quantize_gguf`` for an array of `shape`."""
        kind = GGUF_TYPES[type]
        if not shape or shape[-1] % kind.size:
            requirement = f"of a last axis that is a multiple of {kind.size} for {kind.name}"
            raise ValueError(must("TensorSpec", "shape", requirement, str(shape)))
        return cls(np.dtype(np.uint8), tuple(shape), PerGroup(kind.group), format=kind.name)

    @classmethod
    def quantized(cls, shape: tuple[int, ...], dtype: DType, granularity: Granularity, *, symmetric: bool) -> Self:
        """Describe the result of ``quantize`` for an array of `shape`."""
        code = code_type(dtype)
        if code is None:
            raise TypeError(must("TensorSpec", "dtype", "a code type such as 'int8' or 'uint4'", repr(dtype)))
        qmin = code.symmetric_qmin if symmetric else code.qmin
        return cls._of_codes(code, tuple(shape), granularity, qmin, code.qmax, not symmetric)

    @classmethod
    def from_dict(cls, name: str, values: Any, held: Held) -> Self:
        """Read an entry of the schema; there are zero points where the file has a tensor of them."""
        dtype, shape = values["dtype"], values["shape"]
        if not is_shape(shape):
            raise ValueError(f"shape {shape!r} is no list of sizes.")
        shape = tuple(shape)
        if "packed_weight" in values:
            w = cls.from_dict(name, {key: value for key, value in values.items() if key != "packed_weight"}, held)
            return replace(w, options=_checked_options(name, w, values["packed_weight"], held))
        if isinstance(dtype, dict):
            return cls(restored(held[name][0], dtype), shape)
        if "moments" in values:
            return cls(np.dtype(np.float64), shape, moments=_checked_moments(shape, values["moments"]))
        if mx_format(dtype) is not None:
            return cls.blocks(shape, dtype)
        if dtype in GGUF_TYPES:
            return cls.gguf(shape, dtype)
        code = code_type(dtype)
        if values["granularity"] is None and (code is not None or dtype in ML_DTYPES) and not (code and code.is_named):
            return cls(code.dtype if code is not None else ML_DTYPES[dtype], shape)
        if code is None:
            raise ValueError(f"dtype {dtype!r} is unknown.")
        granularity = Granularity.from_dict(values["granularity"])
        if "codebook" in values:
            return cls._of_codebook(code, shape, granularity, values["codebook"])
        if values.get("offset") is True:
            return replace(cls._of_codes(code, shape, granularity, 0, 0, False), offset=True)
        qmin, qmax = values["qmin"], values["qmax"]
        if type(qmin) is not int or type(qmax) is not int:
            raise ValueError(f"qmin and qmax {qmin!r}, {qmax!r} are no integers.")
        return cls._of_codes(code, shape, granularity, qmin, qmax, f"{name}.zero_point" in held)

    @classmethod
    def _of_codebook(cls, code: CodeType, shape: tuple[int, ...], granularity: Granularity, table: Any) -> Self:
        levels, shared = table["levels"], table["scale_granularity"]
        if type(levels) is not int or not 2 <= levels <= 256 or code is not code_of_levels(levels):
            raise ValueError(f"codebook of {levels!r} levels does not fit codes of {code.name}.")
        scale_granularity = None if shared is None else Granularity.from_dict(shared)
        spec = cls._of_codes(code, shape, granularity, 0, 0, False)
        return replace(spec, levels=levels, scale_granularity=scale_granularity)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the schema."""
        values: dict[str, Any] = {"dtype": self.format or types(self.dtype) or self.type_name}
        values["shape"] = list(self.shape)
        if self.options is not None:
            values["packed_weight"] = {key: value for key, value in self.options.items() if key != "bias"}
            values["packed_weight"]["bias"] = self.options["bias"] is not None
        if self.moments is not None:
            values["moments"] = dict(self.moments)
        if self.granularity is None or self.format is not None:
            return {**values, "granularity": None}
        values["granularity"] = self.granularity.to_dict()
        if self.levels:
            shared = None if self.scale_granularity is None else self.scale_granularity.to_dict()
            return {**values, "codebook": {"levels": self.levels, "scale_granularity": shared}}
        if self.offset:
            return {**values, "offset": True}
        return {**values, "qmin": self.qmin, "qmax": self.qmax}

    @property
    def type_name(self) -> str:
        """The name of the format or of the type, for messages and tables."""
        return self.format or (self.dtype.name if self.named is None else self.named.name)

    @property
    def code(self) -> CodeType | None:
        """The code type of the array, None for one of another type."""
        return self.named or code_type(self.dtype)

    @property
    def is_plain(self) -> bool:
        """Whether it is an array of NumPy that can be read."""
        return self.granularity is None and self.moments is None and self.unreadable is None

    @property
    def nbytes(self) -> int:
        """Bytes in a file, scales and zero points included."""
        if self.unreadable is not None:
            return self.unreadable.nbytes
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.stored("").values())

    def stored(self, name: str) -> Held:
        """Return the plain tensors that hold the array in a file."""
        if self.layout is not None:
            return self.layout.stored(name, self)
        if self.format in GGUF_TYPES:
            return {name: (self.dtype, GGUF_TYPES[self.format].bytes_shape(self.shape))}
        mx = mx_format(self.format)
        parts: Held = {name: (_stored_dtype(self.dtype, self.code), _stored_shape(self.code, self.shape))}
        if mx is not None:
            if mx.element.is_packed and not self.byte_codes:
                parts = {name: (np.dtype(np.uint8), mx.element.packed_shape(self.shape))}
            parts[f"{name}.scale"] = (mx.scale.dtype, mx.scales_shape(self.shape))
            if mx.has_tensor_scale:
                parts[f"{name}.tensor_scale"] = (np.dtype("<f4"), ())
        elif self.levels and self.granularity is not None:
            parts[f"{name}.codebook"] = (np.dtype("<f4"), (*self.granularity.params_shape(self.shape), self.levels))
            if self.scale_granularity is not None:
                parts[f"{name}.scale"] = (np.dtype("<f4"), self.scale_granularity.params_shape(self.shape))
        elif self.offset and self.granularity is not None:
            shape = self.granularity.params_shape(self.shape)
            parts |= {f"{name}.{part}": (np.dtype("<f4"), shape) for part in ("scale", "offset")}
        elif self.granularity is not None:
            shape = self.granularity.params_shape(self.shape)
            parts[f"{name}.scale"] = (np.dtype("<f4"), shape)
            if self.zero_point:
                parts[f"{name}.zero_point"] = (_stored_dtype(self.dtype, self.code), _stored_shape(self.code, shape))
        elif self.moments is not None:
            parts[f"{name}.mean"] = (np.dtype("<f8"), self.shape[:1])
        if self.options is not None and self.options["bias"] is not None:
            parts[f"{name}.bias"] = (np.dtype("<f4"), self.options["bias"])
        return parts

    def names(self, name: str) -> list[str]:
        """Return the names that the array reserves; every quantized one reserves that of zero points, used or not."""
        claims = (
            [name]
            if self.granularity is None or self.format in GGUF_TYPES
            else [name, f"{name}.scale", f"{name}.zero_point"]
        )
        return claims + [part for part in self.stored(name) if part not in claims]

    def encode(self, name: str, value: Value) -> Iterator[tuple[str, Array]]:
        """Yield the plain tensors of an array by name."""
        if self.layout is not None:
            yield from self.layout.encode(name, self, value)
        elif isinstance(value, PackedWeight):
            w, options = _parts(value)
            yield from self.encode(name, w)
            if options["bias"] is not None:
                yield f"{name}.bias", options["bias"]
        elif isinstance(value, MomentsObserver):
            yield name, value.scatter_
            yield f"{name}.mean", value.mean_
        elif isinstance(value, MXArray):
            yield name, value._held
            yield f"{name}.scale", value.scales
            if value.tensor_scale is not None:
                yield f"{name}.tensor_scale", np.asarray(value.tensor_scale)
        elif isinstance(value, GGUFArray):
            yield name, value.data
        elif isinstance(value, CodebookArray):
            yield name, value._held
            yield f"{name}.codebook", value.codebook
            if value.scale is not None:
                yield f"{name}.scale", value.scale
        elif isinstance(value, OffsetArray):
            yield name, value._held
            yield f"{name}.scale", value.scale
            yield f"{name}.offset", value.offset
        elif isinstance(value, QuantizedArray):
            yield name, value._held
            yield f"{name}.scale", value.scale
            if self.zero_point:
                yield f"{name}.zero_point", _pack(value.zero_point.astype(self.dtype), self.code)
        else:
            yield name, _pack(converted(value, self.dtype), self.code)

    def decode(self, name: str, read: Callable[[str], Array]) -> Value:
        """Return the array whose plain tensors `read` returns by name."""
        if self.layout is not None:
            return self.layout.decode(name, self, read)
        if self.options is not None:
            w: Any = replace(self, options=None).decode(name, read)
            bias = None if self.options["bias"] is None else read(f"{name}.bias")
            return PackedWeight(w, **{**options_from_json(self.options), "bias": bias})
        stored = read(name)
        if self.format in GGUF_TYPES:
            return GGUFArray(stored, self.format)
        if self.moments is not None:
            return _moments(self.moments, stored, read(f"{name}.mean"))
        code = self.code
        if self.granularity is None and types(self.dtype) is not None and not (code and code.is_packed):
            return stored.view(self.dtype).reshape(self.shape)  # a container without the dtype holds its bytes
        if self.granularity is None:
            return _unpack(stored, code, self.shape)
        mx = mx_format(self.format)
        if mx is not None:
            scales = read(f"{name}.scale").view(mx.scale.dtype)
            tensor_scale: Any = read(f"{name}.tensor_scale")[()] if mx.has_tensor_scale else None
            if mx.element.is_packed and not self.byte_codes:
                return MXArray._of_rows(stored, self.shape, scales, mx, tensor_scale)
            return MXArray(stored.view(self.dtype), scales, mx.name, tensor_scale)
        assert code is not None
        if self.levels:
            shared = None if self.scale_granularity is None else read(f"{name}.scale")
            tables = Tables(read(f"{name}.codebook"), self.granularity, shared, self.scale_granularity)
            return CodebookArray._of_rows(stored, self.shape, tables)
        scale = read(f"{name}.scale")
        if self.offset:
            return OffsetArray._of_rows(stored, self.shape, code, scale, read(f"{name}.offset"), self.granularity)
        zero_point: Any = code.symmetric_zero_point
        if self.zero_point:
            zero_point = _unpack(read(f"{name}.zero_point"), code, scale.shape).astype(np.int32)
        params = QParams(scale, zero_point, code.name, self.granularity, self.qmin, self.qmax)
        if code.is_packed:
            return QuantizedArray._of_rows(stored, self.shape, params)
        return QuantizedArray(stored.view(self.dtype), params)


def is_shape(shape: Any) -> bool:
    """Whether a value of JSON is a shape that NumPy takes."""
    if not isinstance(shape, list) or len(shape) > 64:
        return False
    return all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in shape)


def refuse_giant(path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse an empty array whose sizes have a product that no array can have."""
    if dtype.itemsize * math.prod(n for n in shape if n) >= MAX_ELEMENTS:
        raise fault(path, name, f"has a shape too large for an array: {tuple(shape)}.")


# Storage of codes


def _stored_dtype(dtype: np.dtype[Any], code: CodeType | None) -> np.dtype[Any]:
    if code is None:
        return dtype
    if code.is_packed:
        return np.dtype(np.uint8)
    return code.storage if code.real is None else code.dtype


def _stored_shape(code: CodeType | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if code is None else code.packed_shape(shape)


def _pack(array: Array, code: CodeType | None) -> Array:
    """Return the form of an array in a file: packed bytes for codes narrower than a byte, else the array."""
    return array if code is None or not code.is_packed else pack_rows(array, code)


def _unpack(stored: Array, code: CodeType | None, shape: tuple[int, ...]) -> Array:
    return stored.reshape(shape) if code is None or not code.is_packed else unpack_rows(stored, code, shape)


# The options of a PackedWeight

_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(PackedWeight).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "x_granularity": Granularity.from_dict,
    "x_qparams": QParams.from_dict,
    "out_qparams": QParams.from_dict,
    "hadamard": Hadamard.from_dict,
}


def _parts(packed: PackedWeight) -> tuple[QuantizedArray | MXArray | CodebookArray | OffsetArray, dict[str, Any]]:
    """Return the weight and the options that make an equal PackedWeight: what a pickle of it holds."""
    _, (w, options) = packed.__reduce__()
    return w, options


def is_same_layer(one: PackedWeight, other: PackedWeight) -> bool:
    """Whether two weights have equal codes, parameters and options."""
    (w, options), (w2, options2) = _parts(one), _parts(other)
    bias, bias2 = options["bias"], options2["bias"]
    same_bias = (bias is None) == (bias2 is None) and (bias is None or bias.tobytes() == bias2.tobytes())
    return type(w) is type(w2) and bool(w == w2) and same_bias and options_to_json(options) == options_to_json(options2)


def options_to_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as values of JSON, but the bias as its shape or None; other options that are None are left out."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name == "bias":
            values[name] = None if value is None else value.shape
        elif name == "clip":
            low, high = value
            values[name] = [None if low == -math.inf else low, None if high == math.inf else high]
        elif isinstance(value, (QParams, Granularity, Hadamard)):
            values[name] = value.to_dict()
        elif value is not None and (name, value) != ("axis", 0):
            values[name] = value
    return values


def _checked_options(name: str, w: TensorSpec, values: Any, held: Held) -> dict[str, Any]:
    """Return options that were read, with the shape of the bias."""
    if not isinstance(values, dict) or w.granularity is None:
        raise ValueError(f"packed_weight {values!r} is no object beside a granularity.")
    for key, value in values.items():
        if key != "bias" and key not in _DEFAULTS:
            raise ValueError(f"packed_weight has the unknown option {key!r}.")
        default = True if key == "bias" else _DEFAULTS[key]
        if isinstance(default, (bool, int, str)) and type(value) is not type(default):
            raise ValueError(f"{key} {value!r} is no {type(default).__name__}.")
    part = f"{name}.bias"
    shape = held[part][1] if values.get("bias") and part in held else () if values.get("bias") else None
    return {**values, "bias": shape}


def options_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as the constructor of PackedWeight takes them."""
    return {name: _READERS[name](value) if name in _READERS else value for name, value in values.items()}


# The state of a MomentsObserver

_COUNTS = {"rows": "count_", "nan": "nan_", "infinite": "infinite_"}  # keys of the schema and attributes


def _checked_moments(shape: tuple[int, ...], values: Any) -> dict[str, Any]:
    """Return the counts and the configuration that were read."""
    if len(shape) != 2 or shape[0] != shape[1] or not isinstance(values, dict):
        raise ValueError(f"moments {values!r} are no object beside a square shape.")
    config = {key: value for key, value in values.items() if key not in _COUNTS}
    MomentsObserver.from_config(config)
    for key in _COUNTS:
        if type(values[key]) is not int or not 0 <= values[key] < MAX_ELEMENTS:
            raise ValueError(f"{key} {values[key]!r} is no count.")
    return values


def _moments(values: Mapping[str, Any], scatter: Array, mean: Array) -> MomentsObserver:
    observer = MomentsObserver.from_config({key: value for key, value in values.items() if key not in _COUNTS})
    counts = {name: np.array(values[key], np.int64) for key, name in _COUNTS.items()}
    # copies: a memory map is read-only, and an observer goes on observing
    observer._restore({"mean_": np.array(mean, np.float64), "scatter_": np.array(scatter, np.float64), **counts})
    return observer


def is_same_moments(one: MomentsObserver, other: MomentsObserver) -> bool:
    """Whether two observers have the same configuration and the same bits."""
    same = TensorSpec.of(one) == TensorSpec.of(other) and one.mean_.tobytes() == other.mean_.tobytes()
    return same and one.scatter_.tobytes() == other.scatter_.tobytes()


# The schema


def write_schema(specs: Mapping[str, TensorSpec], holds: Callable[[np.dtype[Any]], bool]) -> str:
    """Return the JSON text that describes the arrays which are not plain tensors of the container."""
    tensors = {
        name: spec.to_dict()
        for name, spec in specs.items()
        if spec.layout is None and not (spec.is_plain and holds(spec.dtype))
    }
    version = max(map(_version, specs.values()), default=1)
    return json.dumps({"format_version": version, "tensors": tensors}, ensure_ascii=False)


def _version(spec: TensorSpec) -> int:
    """Return the first version of the format that has such an array."""
    if spec.moments is not None or spec.levels or spec.offset:
        return 3
    newer = spec.options is not None or spec.named is not None or _has_six_bits(spec)
    return 2 if newer or isinstance(types(spec.dtype), dict) else 1


def _has_six_bits(spec: TensorSpec) -> bool:
    mx = mx_format(spec.format)
    return mx is not None and mx.element.bits == 6


def read_schema(path: Path, text: str, held: Held) -> dict[str, TensorSpec]:
    """Return the arrays that the plain tensors of a file stand for, in the order of the file."""
    schema = json_object(path, text, "the qnumpy schema")
    version = schema.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise fault(path, None, f"format_version must be 1 to {FORMAT_VERSION}; got {version!r}.")
    tensors = schema.get("tensors")
    if not isinstance(tensors, dict):
        raise fault(path, None, f"the qnumpy schema must have an object 'tensors'; got {tensors!r}.")
    rest = dict(held)
    specs: dict[str, TensorSpec] = {}
    for name, values in tensors.items():
        try:
            spec = TensorSpec.from_dict(name, values, held)
            spec = replace(spec, byte_codes=version == 1 and _has_six_bits(spec))
            stored = spec.stored(name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise fault(path, name, f": the qnumpy schema is wrong: {error}") from error
        for part, (dtype, shape) in stored.items():
            if part not in rest:
                raise fault(path, part, "is in the qnumpy schema and not in the file.")
            held_dtype, held_shape = rest.pop(part)
            if held_shape != shape or held_dtype not in (dtype, stand_in(dtype)):
                got = f"got {held_dtype} {held_shape}."
                raise fault(path, part, f"must be {dtype} {shape} by the qnumpy schema; {got}")
        specs[name] = spec
    return {name: specs.get(name) or TensorSpec(*held[name]) for name in held if name in specs or name in rest}
