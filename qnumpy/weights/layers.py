"""A whole model of arrays: its layers are rounded one after the other, as the model meets them."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _args, _check
from .._tables import Table, as_json, number
from .._typing import Array, DType, Float32Array
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray, quantize
from ..dtypes import CodeType
from ..errors import CalibrationError
from ..files.store import load, save
from ..granularity import Granularity, PerChannel, PerGroup, PerRow
from ..ops.grid_search import Levels, Scheme, search_grid
from ..ops.rounding import Rounded, round_weight
from ..qparams import QParams
from ._stage_moments import StageMoments, Target
from ._walks import Stage, Walk, survey, walking
from .hadamard import Hadamard, hadamard as hadamard_of

__all__ = ["LayersReport", "QuantizedLayers", "RoundedLayer", "quantize_layers"]

RoundingMethod = Literal["gptq", "mse", "hqq", "minmax"]

PRINT = 0
_METHODS = {"gptq": 0, "mse": 1, "hqq": 2, "minmax": 3}


@dataclass(frozen=True, repr=False)
class RoundedLayer:
    """How one layer was rounded.

    Attributes
    ----------
    name, dtype, granularity : str
    shape : tuple of int
    nearest, objective : float or None
        The objective, a mean square of the outputs' error: of rounding to nearest on the same grid, and of the result.
        None without data.
    sqnr_db : float or None
        Of the outputs of the layer in the quantized model against those in the float model, with the residual if it is
        tapped; without data, of the weight.
    seconds : float
    """

    name: str
    dtype: str
    granularity: str
    shape: tuple[int, ...]
    nearest: float | None
    objective: float | None
    sqnr_db: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, ready for JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "granularity": self.granularity,
            "shape": list(self.shape),
            "nearest": self.nearest,
            "objective": self.objective,
            "sqnr_db": self.sqnr_db,
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        return f"RoundedLayer({self.name!r}, {self.dtype} {self.granularity}, SQNR {number(self.sqnr_db)} dB)"


class LayersReport(Table[RoundedLayer]):
    """The layers in the order of their rounding; `to_records`, `to_json`, text and HTML as the other reports."""

    def __init__(self, layers: Iterable[RoundedLayer]) -> None:
        super().__init__(layers, RoundedLayer, "layers")

    def __getitem__(self, name: str) -> RoundedLayer:
        for layer in self:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def _head(self) -> list[str]:
        return ["layer", "type", "granularity", "shape", "nearest", "objective", "SQNR dB", "seconds"]

    def _row(self, item: RoundedLayer) -> list[str]:
        shape = " x ".join(map(str, item.shape))
        numbers = [number(item.nearest), number(item.objective), number(item.sqnr_db), number(item.seconds)]
        return [item.name, item.dtype, item.granularity, shape, *numbers]

    def _foot(self) -> list[list[str]]:
        return [[f"{len(self)} layers", "", "", "", "", "", "", number(sum(item.seconds for item in self))]]


class QuantizedLayers(Mapping[str, QuantizedArray]):
    """Quantized weights by name, in the shapes of the float ones; `quantize_layers` returns it.

    Attributes
    ----------
    biases : dict of str to ndarray
        The biases of layers that have one, corrected for the mean of the error.
    hadamards : dict of str to Hadamard
        The rotations of the inputs, where the layers were rotated.
    report : LayersReport
    """

    def __init__(
        self,
        weights: Mapping[str, QuantizedArray],
        biases: Mapping[str, Array],
        hadamards: Mapping[str, Hadamard],
        report: LayersReport,
        axis: int,
        activations: str | None = None,
    ) -> None:
        self._weights, self.biases, self.hadamards = dict(weights), dict(biases), dict(hadamards)
        self.report, self._axis, self._activations = report, axis, activations

    def __getitem__(self, name: str) -> QuantizedArray:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and the biases."""
        return sum(w.nbytes for w in self._weights.values()) + sum(b.nbytes for b in self.biases.values())

    def dequantize(self, name: str) -> Float32Array:
        """Return the weight of a layer as float32, for inputs that are not rotated.

        Parameters
        ----------
        name : str

        Returns
        -------
        ndarray of float32

        Raises
        ------
        KeyError
            There is no layer of that name.
        """
        return _unrotated(self[name].dequantize(), self.hadamards.get(name), self._axis)

    def pack(self, name: str, **options: Any) -> PackedWeight:
        """Return the layer as a PackedWeight, with its bias and its rotation: ``x @ layers.pack(name)``.

        Parameters
        ----------
        name : str
        **options
            Of PackedWeight, but w, bias, axis and hadamard. If activations were quantized, x is too, as it was there.

        Returns
        -------
        PackedWeight

        Raises
        ------
        KeyError
            There is no layer of that name.
        TypeError, ValueError
            As PackedWeight.
        """
        if self._activations:
            options = {"x_granularity": PerRow(), "symmetric": False, **options}
        if name in self.hadamards:
            options["hadamard"] = self.hadamards[name]
        return PackedWeight(self[name], bias=self.biases.get(name), axis=self._axis, **options)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def __repr__(self) -> str:
        return f"QuantizedLayers({len(self)} layers, {self.nbytes:,} bytes)"


class _Layer(NamedTuple):
    """An entry of the user's dict."""

    value: Any
    w: Array  # in the user's shape
    bias: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.w.shape

    def entry(self, w: Array, bias: Array | None) -> Any:
        """Return another weight in the form of the entry."""
        w = w.astype(self.w.dtype, copy=False)
        return w if not isinstance(self.value, tuple | list) else type(self.value)((w, bias))

    def blank(self) -> Any:
        """Return NaN in the form of the entry, without memory."""
        parts = (None if x is None else np.broadcast_to(np.asarray(np.nan, x.dtype), x.shape) for x in self[1:])
        w, bias = parts
        return w if not isinstance(self.value, tuple | list) else type(self.value)((w, bias))


class _Scheme(NamedTuple):
    """How every layer is rounded, and where its inputs lie."""

    code: CodeType
    levels: Levels
    granularity: Granularity
    axis: int  # of the inputs K in the user's weights
    method: RoundingMethod
    damping: float
    rotates: bool
    activations: str | None

    def group_size(self, inputs: int) -> int:
        return min(self.granularity.group_size or inputs, inputs)

    def rows(self, w: Array) -> Float32Array:
        """Return a weight as float32 (N, K)."""
        return np.ascontiguousarray(w if self.axis == 1 else w.T, np.float32)

    def array(self, rounded: Rounded, part: slice) -> QuantizedArray:
        """Return the codes of some rows as an array in the user's shape."""
        codes, scale, zero = rounded.codes[part], rounded.scale[part], rounded.zero[part]
        if self.granularity.group_size is None:
            scale, zero = scale[:, 0], zero[:, 0]
        elif self.axis == 0:
            scale, zero = scale.T, zero.T
        codes = codes if self.axis == 1 else codes.T
        params = QParams(scale, zero, self.code.dtype, self.granularity, self.levels.qmin, self.levels.qmax)
        return QuantizedArray(np.ascontiguousarray(codes).astype(self.code.storage).view(self.code.dtype), params)


class _Done(NamedTuple):
    """A layer that is rounded."""

    q: QuantizedArray
    bias: Array | None
    report: RoundedLayer


def quantize_layers(
    layers: MutableMapping[str, Any],
    run: Callable[[Any], Any] | None = None,
    batches: Iterable[Any] | None = None,
    *,
    dtype: DType = "int4",
    granularity: Granularity | None = None,
    symmetric: bool | Literal["full"] = False,
    method: RoundingMethod | None = None,
    damping: float = 0.1,
    hadamard: bool = False,
    activations: Literal["int8"] | None = None,
    progress: bool | None = None,
    resume: str | Path | None = None,
) -> QuantizedLayers:
    """TODO."""
    owner = "quantize_layers"
    scheme = _scheme(owner, dtype, granularity, symmetric, method, damping, hadamard, activations, run)
    entries = _entries(owner, layers, scheme)
    rotations = _rotations(entries, scheme)
    done: dict[str, _Done] = {}
    if run is None or batches is None:
        for name in entries:
            done.update(_round_alone(entries, name, scheme, rotations))
    else:
        for stage in _staged(owner, layers, entries, scheme, rotations, run, list(batches), progress, resume):
            done.update(stage)
    return QuantizedLayers(
        {name: done[name].q for name in entries},
        {name: bias for name in entries if (bias := done[name].bias) is not None},
        {name: rotations[entries[name].shape[scheme.axis]] for name in entries if scheme.rotates},
        LayersReport(layer.report for layer in done.values()),
        scheme.axis,
        activations,
    )


def _scheme(
    owner: str, dtype: Any, granularity: Any, symmetric: Any, method: Any, damping: Any, hadamard: Any,
    activations: Any, run: Any,
) -> _Scheme:  # fmt: skip
    code = _args.code(owner, dtype)
    kind: Scheme = "full" if symmetric == "full" else "symmetric" if symmetric else "affine"
    granularity = PerGroup(32) if granularity is None else granularity
    axis = granularity.axis % 2 if isinstance(granularity, PerGroup) else 1 - granularity.axis % 2
    method = method or ("mse" if run is None else "gptq")
    return _Scheme(
        code, Levels.of(code, kind), granularity, axis, method, float(damping), hadamard, activations
    )


def _entries(owner: str, layers: Any, scheme: _Scheme) -> dict[str, _Layer]:
    entries = {}
    for name, value in layers.items():
        w, bias = value if isinstance(value, tuple | list) else (value, None)
        weight, _ = _args.real(owner, f"layers[{name!r}]", w)
        entries[name] = _Layer(value, weight, bias)
    return entries


def _rotations(entries: Mapping[str, _Layer], scheme: _Scheme) -> dict[int, Hadamard]:
    if not scheme.rotates:
        return {}
    return {size: hadamard_of(size) for size in {layer.shape[scheme.axis] for layer in entries.values()}}


def _unrotated(w: Float32Array, rotation: Hadamard | None, axis: int) -> Float32Array:
    if rotation is None:
        return w
    return np.moveaxis(rotation.inverse(np.ascontiguousarray(np.moveaxis(w, axis, -1))), -1, axis)


def _nearest(w: Float32Array, h: Array | None, scheme: _Scheme) -> Rounded:
    g = scheme.group_size(w.shape[1])
    importance = None if h is None else np.ascontiguousarray(h.diagonal(), np.float32)
    scale, zero = search_grid(w, importance, g, scheme.levels)
    group = np.arange(w.shape[1]) // g
    codes = np.clip(np.rint(w / scale[:, group]) + zero[:, group], scheme.levels.qmin, scheme.levels.qmax)
    no = np.zeros(len(w))
    return Rounded(codes.astype(np.int16), scale, zero, no, no)


def _quantized_rows(x: Float32Array) -> Float32Array:
    return quantize(x, granularity=PerRow(), symmetric=False).dequantize()


def _round_alone(
    entries: Mapping[str, _Layer], name: str, scheme: _Scheme, rotations: Mapping[int, Hadamard]
) -> dict[str, _Done]:
    """Round one layer without data."""
    layer, start = entries[name], time.perf_counter()
    w = scheme.rows(layer.w)
    rotation = rotations.get(w.shape[1])
    if rotation is not None:
        w = rotation.apply(w)
    rounded = _nearest(w, None, scheme)
    q = scheme.array(rounded, slice(None))
    noise = float(np.square(scheme.rows(q.dequantize()) - w, dtype=np.float64).sum())
    signal = float(np.square(w, dtype=np.float64).sum())
    sqnr = 10 * np.log10(signal / noise) if signal and noise else None
    seconds = time.perf_counter() - start
    report = RoundedLayer(
        name, scheme.code.name, scheme.granularity.describe(), layer.shape, None, None, sqnr, seconds
    )
    return {name: _Done(q, layer.bias, report)}


def _staged(
    owner: str,
    layers: MutableMapping[str, Any],
    entries: Mapping[str, _Layer],
    scheme: _Scheme,
    rotations: Mapping[int, Hadamard],
    run: Callable[[Any], Any],
    batches: list[Any],
    progress: bool | None,
    resume: str | Path | None,
) -> Iterator[dict[str, _Done]]:
    """Yield the layers of each stage, rounded for the inputs that they get in the quantized model."""
    inputs = {name: layer.shape[scheme.axis] for name, layer in entries.items()}
    stages = survey(owner, layers, inputs, lambda name: entries[name].blank(), run, batches[0])
    floats = [Walk(owner, run, batch, stages, inputs) for batch in batches]
    coded = [Walk(owner, run, batch, stages, inputs) for batch in batches]
    with walking([*floats, *coded]):
        try:
            for i, stage in enumerate(stages):
                for walk in (walk for pair in zip(floats, coded, strict=True) for walk in pair) if not i else ():
                    walk.advance()
                done = _round_stage(entries, stage, scheme, rotations, floats, coded)
                yield done
                if i + 1 == len(stages):
                    break
                for name, result in done.items():
                    rotation = rotations.get(inputs[name])
                    w = _unrotated(result.q.dequantize(), rotation, scheme.axis)
                    layers[name] = entries[name].entry(w, result.bias)
                for walk in coded:
                    walk.replace = _replacement(scheme, rotations.get(inputs[stage.names[0]]))
                    walk.advance()
                for name in stage.names:
                    layers[name] = entries[name].value
                for walk in floats:
                    walk.advance()
        finally:
            for name, layer in entries.items():
                layers[name] = layer.value


def _replacement(scheme: _Scheme, rotation: Hadamard | None) -> Callable[[Array], Array] | None:
    """What the layers of a stage get in place of their inputs: those that quantized activations stand for."""
    if scheme.activations is None:
        return None

    def replace(x: Array) -> Array:
        rows = np.asarray(x, np.float32)
        if rotation is None:
            return _quantized_rows(rows).astype(x.dtype, copy=False)
        return rotation.inverse(_quantized_rows(rotation.apply(rows))).astype(x.dtype, copy=False)

    return replace


def _prepared(scheme: _Scheme, rotation: Hadamard | None) -> Callable[[Float32Array], Float32Array] | None:
    """What the quantized weights multiply: the inputs, rotated and quantized where the layers do so."""
    if scheme.activations is None:
        return None if rotation is None else rotation.apply
    if rotation is None:
        return _quantized_rows
    return lambda x: _quantized_rows(rotation.apply(x))


def _round_stage(
    entries: Mapping[str, _Layer],
    stage: Stage,
    scheme: _Scheme,
    rotations: Mapping[int, Hadamard],
    floats: list[Walk],
    coded: list[Walk],
) -> dict[str, _Done]:
    start = time.perf_counter()
    parts, first = {}, 0
    for name in stage.names:
        outputs = entries[name].shape[1 - scheme.axis]
        parts[name] = slice(first, first := first + outputs)
    w = np.concatenate([scheme.rows(entries[name].w) for name in stage.names])
    rotation = rotations.get(w.shape[1])
    v = w if rotation is None else rotation.apply(w)
    moments = StageMoments(w, v, _prepared(scheme, rotation))
    for a, b in zip(floats, coded, strict=True):
        residuals = [(parts[name], a.residuals[name], b.residuals[name]) for name in stage.names if name in a.residuals]
        moments.add(a.x, b.x, residuals)
    centered = all(entries[name].bias is not None for name in stage.names)
    target = moments.solved(centered)
    del moments
    t1 = time.perf_counter()
    group_size = scheme.group_size(w.shape[1])
    if scheme.method == "gptq":
        rounded = round_weight(v, target.h, scheme.levels, group_size, damping=scheme.damping, target=target.w)
    else:
        rounded = _nearest(v, target.h, scheme)
    t2 = time.perf_counter()
    done = {}
    seconds = time.perf_counter() - start
    for name, part in parts.items():
        layer = entries[name]
        q = scheme.array(rounded, part)
        levels = scheme.rows(q.dequantize())
        bias = layer.bias
        if bias is not None:
            bias = (np.asarray(bias, np.float64) + target.bias_shift(levels, part)).astype(np.asarray(bias).dtype)
        report = RoundedLayer(
            name, scheme.code.name, scheme.granularity.describe(), layer.shape, float(rounded.before[part].sum()),
            float(rounded.after[part].sum()), target.sqnr(levels, part), seconds * len(levels) / first,
        )  # fmt: skip
        done[name] = _Done(q, bias, report)
    if PRINT:
        print(stage.names[0], t1 - start, t2 - t1)
    return done
