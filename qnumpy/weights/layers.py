"""A whole model of arrays: its layers are rounded one after the other, as the model meets them."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _args, _check
from .._tables import NamedTable, number
from .._typing import Array, DType, Float32Array, Symmetric
from ..arrays.offset import OffsetArray
from ..arrays.packed import PackedWeight
from ..arrays.quantized import QuantizedArray, quantize
from ..errors import CalibrationError
from ..files.store import load, save
from ..granularity import Granularity, PerChannel, PerGroup, PerRow
from ..ops.choose import Plan
from ..ops.grid_search import assumed_importance, search_grid
from ..ops.rounding import Rounded, check_damping, check_width, matrix_of, round_weight
from ._layers import NamedWeights, rounded, vector
from ._stage_moments import StageMoments, Target
from ._walks import Stage, Walk, survey, trim, walking
from .hadamard import Hadamard
from .hadamard import hadamard as hadamard_of
from .offsets import fit_offsets

__all__ = ["LayersReport", "QuantizedLayers", "RoundedLayer", "quantize_layers"]

RoundingMethod = Literal["gptq", "mse", "hqq", "minmax", "offsets"]

_METHODS = {"gptq": 0, "mse": 1, "hqq": 2, "minmax": 3, "offsets": 4}
_OWNER = "quantize_layers"


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


class LayersReport(NamedTable[RoundedLayer]):
    """The layers in the order of their rounding; `to_records`, `to_json`, text and HTML as the other reports."""

    def __init__(self, layers: Iterable[RoundedLayer]) -> None:
        super().__init__(layers, RoundedLayer, "layers")

    def _head(self) -> list[str]:
        return ["layer", "type", "granularity", "shape", "nearest", "objective", "SQNR dB", "seconds"]

    def _row(self, item: RoundedLayer) -> list[str]:
        shape = " x ".join(map(str, item.shape))
        numbers = [number(item.nearest), number(item.objective), number(item.sqnr_db), number(item.seconds)]
        return [item.name, item.dtype, item.granularity, shape, *numbers]

    def _foot(self) -> list[list[str]]:
        return [[f"{len(self)} layers", "", "", "", "", "", "", number(sum(item.seconds for item in self))]]


class QuantizedLayers(NamedWeights[QuantizedArray | OffsetArray]):
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
        weights: Mapping[str, QuantizedArray | OffsetArray],
        biases: Mapping[str, Array],
        hadamards: Mapping[str, Hadamard],
        report: LayersReport,
        axis: int,
        activations: str | None = None,
    ) -> None:
        super().__init__(weights, biases)
        self.hadamards, self.report = dict(hadamards), report
        self._axis, self._activations = axis, activations

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
        names = ", ".join(list(self)[:5]) + (", ..." if len(self) > 5 else "")
        q = next(iter(self._weights.values()))
        kind = f"{q._code.name} {q.granularity.describe()}"
        return f"QuantizedLayers({len(self)} layer{'s' * (len(self) > 1)}: {names}; {kind}, {self.nbytes:,} bytes)"


class _Layer(NamedTuple):
    """An entry of the user's dict, and how its weight is rounded."""

    value: Any
    w: Array  # in the user's shape
    bias: Array | None
    plan: Plan

    @property
    def inputs(self) -> int:
        return self.plan.rows.columns

    @property
    def outputs(self) -> int:
        return int(self.w.shape[1 - self.axis])

    @property
    def axis(self) -> int:
        """The axis of w that holds the inputs."""
        return int(self.plan.rows.order[-1])

    def matrix(self) -> Float32Array:
        """Return the weight as float32 (N, K)."""
        return matrix_of(_OWNER, self.w, self.plan.rows)

    def entry(self, w: Array, bias: Array | None) -> Any:
        """Return another weight and bias in the form of the entry."""
        return type(self.value)((w, bias)) if isinstance(self.value, tuple | list) else w

    def blank(self) -> Any:
        """Return NaN in the form of the entry, without its memory."""
        w, bias = (None if x is None else np.broadcast_to(np.array(np.nan, x.dtype), x.shape) for x in self[1:3])
        assert w is not None
        return self.entry(w, bias)


class _Options(NamedTuple):
    """What all layers have in common."""

    method: RoundingMethod
    damping: float
    rotations: Mapping[int, Hadamard]  # by the number of inputs
    activations: str | None

    def prepare(self, inputs: int) -> Callable[[Float32Array], Float32Array] | None:
        """What quantized weights multiply: the inputs, rotated and quantized where the layers do so."""
        rotation = self.rotations.get(inputs)
        if self.activations is None:
            return None if rotation is None else rotation.apply
        return _quantized_rows if rotation is None else lambda x: _quantized_rows(rotation.apply(x))

    def replace(self, inputs: int) -> Callable[[Array], Array] | None:
        """What the layers get in place of their inputs: reals that the quantized ones stand for."""
        rotation, prepare = self.rotations.get(inputs), self.prepare(inputs)
        if self.activations is None or prepare is None:
            return None

        def replaced(x: Array) -> Array:
            rows = prepare(np.ascontiguousarray(x, np.float32))
            return (rows if rotation is None else rotation.inverse(rows)).astype(x.dtype, copy=False)

        return replaced


class _Done(NamedTuple):
    """A layer that is rounded."""

    q: QuantizedArray | OffsetArray
    bias: Array | None
    report: RoundedLayer


def quantize_layers(
    layers: MutableMapping[str, Any],
    run: Callable[[Any], Any] | None = None,
    batches: Iterable[Any] | None = None,
    *,
    dtype: DType = "int4",
    granularity: Granularity | None = None,
    symmetric: Symmetric = False,
    method: RoundingMethod | None = None,
    damping: float = 0.3,
    hadamard: bool = False,
    activations: Literal["int8"] | None = None,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> QuantizedLayers:
    """Round the weights of a model layer by layer, each for the inputs that it gets from the rounded layers before it.

    `run` is any function that computes the model from the dict `layers`. For every layer it calls ``tap(name, x)`` with
    the input x, and only then reads ``layers[name]``::

        def linear(name, x):
            x = qn.tap(name, x)
            w, bias = layers[name]
            return x @ w.T + bias

    Where the output of a layer is added to a residual r, ``tap(name + ".residual", r)`` before the layer's own tap
    lets the layer also make up for the error of r.

    Parameters
    ----------
    layers : dict of str to weight or (weight, bias)
        A weight is a matrix of float32, float64, float16 or bfloat16. The entries are replaced while `run` runs, and
        are what they were in the end, whatever happens. Zeros are a bias that can be corrected; None is no bias.
    run : callable, optional
        Called as ``run(batch)``; what it returns is ignored. Each call taps every layer once, in the same order.
    batches : iterable, optional
        The arguments of `run`. Without run and batches each weight is rounded by itself.
    dtype : str or dtype, default "int4"
        An integer type of at most 8 bits.
    granularity : PerGroup or PerChannel, default PerGroup(32)
        Its axis tells where the inputs are: PerGroup(32) and PerChannel(0) are for weights of shape (outputs, inputs),
        PerGroup(32, 0) and PerChannel(1) for (inputs, outputs).
    symmetric : bool or "full", default False
        As in choose_qparams.
    method : {"gptq", "mse", "hqq", "minmax", "offsets"}, optional
        "gptq", the default with data, chooses codes of least error of the outputs; the others round to nearest on grids
        that are searched ("mse", the default without data; weighted by the inputs where there are some; "hqq") or span
        the range. "offsets" is `offsets`: a float scale and a float offset for each group, without data for inputs that
        contribute alike. It is the most accurate method without data, and needs symmetric=False.
    damping : float, default 0.3
        As in gptq. The inputs that judge a model are others than these, and more damping than for one layer suits them.
    hadamard : bool, default False
        Rotate the inputs of every layer, and its weight with them. It helps at few bits and with int8 activations.
    activations : "int8", optional
        Let every quantized layer multiply inputs of int8, affine per row. `run` must then use what `tap` returns.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        A folder for the results of the layers that are done. A call that was interrupted goes on from there.

    Returns
    -------
    QuantizedLayers
        A mapping from names to QuantizedArray, or OffsetArray (of unsigned codes) for "offsets"; with corrected
        biases and a report.

    Raises
    ------
    TypeError
        layers is no dict, or a name is no text.
    ValueError
        layers is empty.
    TypeError
        A weight or a bias is not real.
    ValueError
        A weight is no matrix, is empty, or is not finite; a bias is not of shape (outputs,).
    TypeError, ValueError
        dtype, granularity, symmetric or method is none of those above, or "offsets" and symmetric are together.
    ValueError
        damping is no number in [0, 1000000].
    TypeError
        hadamard or progress is neither True nor False.
    ValueError
        hadamard is True, and a layer has an odd number of inputs; activations is neither None nor "int8".
    TypeError
        run is not callable; batches is not iterable.
    ValueError
        Only one of run and batches came, or the method "gptq" and neither of them.
    CalibrationError
        There is no batch, or no row.
    ValueError
        run does not tap every layer, or not once and in one order; its calls write to one buffer; an input does not
        fit its layer, or is not finite.
    ValueError
        resume holds other layers or other options.
    TypeError
        resume is no text and no path.

    Notes
    -----
    The float model and the quantized one run through every batch once, side by side, and wait at each layer for the
    other batches: each call of `run` is in a thread of its own, of which only one runs at a time, in a copy of the
    caller's context. The first batch runs once more, before all others.

    Layers that get the same array one after the other, such as query, key and value, form a stage and are rounded
    together. For each stage let x be the inputs in the quantized model and e what its outputs lack. The codes
    approximate ``w + mean(e^T x) (h + damping)^-1``, where h is the second moment of x, about its mean if the layers
    have biases; `gptq` describes the rounding. The bias takes the mean of the rest.

    Memory: for each batch the arrays that are alive in `run`, twice; for one stage its second moment three times, in
    float64, and its weights in float32. Products of inputs use BLAS, so that their last bits depend on it.

    Examples
    --------
    >>> from qnumpy import tap
    >>> rng = np.random.default_rng(0)
    >>> layers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    >>> for name, shape in (("first", (64, 32)), ("second", (8, 64))):
    ...     layers[name] = rng.normal(size=shape), np.zeros(shape[0])
    >>> def model(x):
    ...     for name in ("first", "second"):
    ...         x = tap(name, x)
    ...         w, bias = layers[name]
    ...         x = np.maximum(x @ w.T + bias, 0)
    ...     return x
    >>> x = rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> exact = model(x)
    >>> quantized = quantize_layers(layers, model, np.split(x, 4))
    >>> quantized
    QuantizedLayers(2 layers: first, second; int4 per group 32, 2,248 bytes)
    >>> layers.update({name: (quantized.dequantize(name), quantized.biases[name]) for name in quantized})
    >>> bool(np.square(model(x) - exact).mean() < 0.01 * np.square(exact).mean())
    True
    """
    entries, options = _checked(
        layers, run, batches, dtype, granularity, symmetric, method, damping, hadamard, activations
    )  # fmt: skip
    if progress is not None:
        progress = _check.flag(_OWNER, "progress", progress)
    folder = None if resume is None else _folder(resume)
    done: dict[str, _Done] = {}
    with _progress_bar(len(entries), progress) as advance:
        if run is None or batches is None:
            results = _alone(entries, options)
        else:
            results = _staged(layers, entries, options, run, list(batches), folder)
        with contextlib.closing(results):  # an exception here ends the walks too
            for stage in results:
                done.update(stage)
                advance(len(stage))
    report = LayersReport(layer.report for layer in done.values())
    biases = {name: bias for name in entries if (bias := done[name].bias) is not None}
    rotations = {name: options.rotations[layer.inputs] for name, layer in entries.items() if options.rotations}
    weights = {name: done[name].q for name in entries}
    return QuantizedLayers(weights, biases, rotations, report, next(iter(entries.values())).axis, activations)


# ---- arguments ----


def _checked(
    layers: Any, run: Any, batches: Any, dtype: Any, granularity: Any, symmetric: Any, method: Any, damping: Any,
    hadamard: Any, activations: Any,
) -> tuple[dict[str, _Layer], _Options]:  # fmt: skip
    if not isinstance(layers, MutableMapping):
        raise TypeError(_check.must(_OWNER, "layers", "a dict of weights by name", _check.typed(layers)))
    if not layers:
        raise ValueError(_check.must(_OWNER, "layers", "one or more", "none"))
    if method is None:
        method = "mse" if run is None else "gptq"
    _args.choice(_OWNER, "method", method, _METHODS)
    granularity = PerGroup(32) if granularity is None else granularity
    if not isinstance(granularity, PerChannel | PerGroup):
        wanted = "PerChannel(axis) or PerGroup(group_size)"
        raise TypeError(_check.must(_OWNER, "granularity", wanted, _check.typed(granularity)))
    entries = {}
    for name, value in layers.items():
        if not isinstance(name, str):
            raise TypeError(_check.must(_OWNER, "the keys of layers", "texts", _check.typed(name)))
        entries[name] = _layer(f"layers[{name!r}]", value, dtype, granularity, symmetric)
    if method == "offsets" and symmetric is not False:
        raise ValueError(_check.must(_OWNER, "symmetric", "False for the method 'offsets'", repr(symmetric)))
    damping = check_damping(_OWNER, damping)
    rotations = {}
    if _check.flag(_OWNER, "hadamard", hadamard):
        for name, layer in entries.items():
            if layer.inputs % 2:
                got = f"layers[{name!r}] with {layer.inputs} inputs"
                raise ValueError(_check.must(_OWNER, "hadamard", "False for an odd number of inputs", got))
            if layer.inputs not in rotations:
                rotations[layer.inputs] = hadamard_of(layer.inputs)
    if activations is not None and (not isinstance(activations, str) or activations != "int8"):
        raise ValueError(_check.must(_OWNER, "activations", "None or 'int8'", _check.typed(activations)))
    _check_data(run, batches, method)
    return entries, _Options(method, damping, rotations, activations)


def _layer(name: str, value: Any, dtype: Any, granularity: Granularity, symmetric: Any) -> _Layer:
    w, bias = value, None
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(_check.must(_OWNER, name, "a weight or (weight, bias)", f"{len(value)} items"))
        w, bias = value
    weight, _ = _args.real(_OWNER, name, w)
    if weight.ndim != 2:
        raise ValueError(_check.must(_OWNER, name, "a matrix", f"shape {weight.shape}"))
    plan = Plan.of(_OWNER, weight.shape, dtype, granularity, symmetric, "minmax", None)
    check_width(_OWNER, plan.code, "for the codes of a layer")
    if not weight.size:
        raise ValueError(_check.must(_OWNER, name, "of one element or more", f"shape {weight.shape}"))
    if not np.isfinite(weight).all():
        raise ValueError(_check.must(_OWNER, name, "finite", "NaN or infinities"))
    layer = _Layer(value, weight, None, plan)
    return layer if bias is None else layer._replace(bias=vector(_OWNER, f"the bias of {name}", bias, layer.outputs))


def _check_data(run: Any, batches: Any, method: str) -> None:
    if run is not None and not callable(run):
        raise TypeError(_check.must(_OWNER, "run", "callable", _check.typed(run)))
    if batches is not None and not isinstance(batches, Iterable):
        raise TypeError(_check.must(_OWNER, "batches", "iterable", _check.typed(batches)))
    if (run is None) != (batches is None):
        got = "run alone" if batches is None else "batches alone"
        raise ValueError(_check.must(_OWNER, "run and batches", "both there or both left out", got))
    if run is None and method == "gptq":
        raise ValueError(_check.must(_OWNER, "method", "another one without run and batches", "'gptq'"))


def _folder(resume: Any) -> Path:
    if not isinstance(resume, str | os.PathLike):
        raise TypeError(_check.must(_OWNER, "resume", "a text or a path", _check.typed(resume)))
    folder = Path(os.fsdecode(resume))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _progress_bar(total: int, progress: bool | None) -> Iterator[Callable[[int], Any]]:
    """Yield a function that counts layers, with a progress bar on stderr on request."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda count: None
        return
    from tqdm import tqdm  # needed by a visible bar alone

    with tqdm(total=total, desc="quantize", unit=" layers", leave=False, file=sys.stderr) as bar:
        yield bar.update


# ---- without data ----


def _alone(entries: Mapping[str, _Layer], options: _Options) -> Generator[dict[str, _Done], None, None]:
    """Yield each layer, rounded by itself."""
    for name, layer in entries.items():
        start, rotation = time.perf_counter(), options.rotations.get(layer.inputs)
        w = layer.matrix() if rotation is None else rotation.apply(layer.matrix())
        q = _to_nearest(w, layer.plan, options.method, None)
        noise = float(np.square(_levels(q, layer) - w, dtype=np.float64).sum())
        signal = float(np.square(w, dtype=np.float64).sum())
        sqnr = 10 * float(np.log10(signal / noise)) if signal and noise else None
        yield {name: _Done(q, layer.bias, _report(name, q, None, None, sqnr, time.perf_counter() - start))}


def _to_nearest(w: Float32Array, plan: Plan, method: RoundingMethod, h: Array | None) -> QuantizedArray | OffsetArray:
    """Round a weight (N, K) to nearest, on the grids of a method; `h` weights the search of "mse" and "offsets"."""
    if method == "offsets":  # large inputs have small weights where a normalization precedes, and offsets can meet them
        return fit_offsets(_OWNER, w, assumed_importance(w) if h is None else _importance(h), plan.rows, plan.code.bits)
    x = plan.rows.array(w)
    if method == "mse":
        importance = None if h is None else _importance(h)
        scale, zero = search_grid(w, importance, plan.rows.group_size, plan.levels)
        return quantize(x, plan.qparams(scale, zero))
    symmetric: Symmetric = "full" if plan.scheme == "full" else plan.scheme == "symmetric"
    return quantize(x, dtype=plan.code.name, granularity=plan.granularity, symmetric=symmetric, method=method)


def _importance(h: Array) -> Float32Array:
    """Return the weight of each input in a search of grids, in units of their mean."""
    diagonal = h.diagonal()
    mean = diagonal.mean()
    return np.asarray(diagonal / mean if mean > 0 else np.ones_like(diagonal), np.float32)


def _levels(q: QuantizedArray | OffsetArray, layer: _Layer) -> Float32Array:
    """Return the reals of a layer's codes as (N, K)."""
    return np.ascontiguousarray(layer.plan.rows.matrix(q.dequantize()))


def _unrotated(w: Float32Array, rotation: Hadamard | None, axis: int) -> Float32Array:
    """Return a weight for inputs that are not rotated."""
    if rotation is None:
        return w
    return np.moveaxis(rotation.inverse(np.ascontiguousarray(np.moveaxis(w, axis, -1))), -1, axis)


def _quantized_rows(x: Float32Array) -> Float32Array:
    return quantize(x, granularity=PerRow(), symmetric=False).dequantize()


def _report(
    name: str,
    q: QuantizedArray | OffsetArray,
    nearest: float | None,
    objective: float | None,
    sqnr: float | None,
    seconds: float,
) -> RoundedLayer:
    return RoundedLayer(name, q._code.name, q.granularity.describe(), q.shape, nearest, objective, sqnr, seconds)


# ---- with data ----


def _staged(
    layers: MutableMapping[str, Any],
    entries: Mapping[str, _Layer],
    options: _Options,
    run: Callable[[Any], Any],
    batches: list[Any],
    folder: Path | None,
) -> Generator[dict[str, _Done], None, None]:
    """Yield the layers of each stage, rounded for the inputs that they get in the quantized model."""
    if not batches:
        raise CalibrationError(_check.must(_OWNER, "batches", "one or more", "none"))
    inputs = {name: layer.inputs for name, layer in entries.items()}
    stages = survey(_OWNER, layers, inputs, lambda name: entries[name].blank(), run, batches[0])
    floats, coded = (
        [Walk(_OWNER, run, batch, stages, inputs, quantized=quantized) for batch in batches]
        for quantized in (False, True)
    )
    try:
        with walking([*floats, *coded]):
            for pair in zip(floats, coded, strict=True):
                for walk in pair:
                    walk.advance()
            for i, stage in enumerate(stages):
                done = _kept(folder, i, stage, entries, options)
                if done is None:
                    done = _round_stage(stage, entries, options, floats, coded)
                    _keep(folder, i, stage, entries, options, done)
                yield done
                if i + 1 == len(stages):
                    break
                size = inputs[stage.names[0]]
                for name, (q, bias, _) in done.items():
                    layer = entries[name]
                    w = _unrotated(q.dequantize(), options.rotations.get(size), layer.axis)
                    layers[name] = layer.entry(w.astype(layer.w.dtype, copy=False), bias)
                for walk in coded:
                    walk.replace = options.replace(size)
                    walk.advance()
                trim()
                for name in stage.names:
                    layers[name] = entries[name].value
                for walk in floats:
                    walk.advance()
                trim()
    finally:
        for name, layer in entries.items():
            layers[name] = layer.value


def _round_stage(
    stage: Stage, entries: Mapping[str, _Layer], options: _Options, floats: list[Walk], coded: list[Walk]
) -> dict[str, _Done]:
    start = time.perf_counter()
    parts, outputs = {}, 0
    for name in stage.names:
        parts[name] = slice(outputs, outputs := outputs + entries[name].outputs)
    target = _target(stage, entries, options, parts, floats, coded)
    plan = entries[stage.names[0]].plan
    result = None
    if options.method == "gptq":
        result = round_weight(
            target.v, target.h, plan.levels, plan.rows.group_size,
            damping=options.damping, target=target.w,
            second_start=plan.code.bits < 4,  # a fifth of the time; 4 % less error at 3 bits, 0.2 % at 4
        )  # fmt: skip
    seconds = time.perf_counter() - start
    done = {}
    for name, part in parts.items():
        layer, began = entries[name], time.perf_counter()
        if result is None:
            q, nearest, objective = _to_nearest(target.v[part], layer.plan, options.method, target.h), None, None
        else:
            q = _array(result, part, layer)
            nearest, objective = (float(x[part].sum() * target.unit**2) for x in (result.before, result.after))
        levels, bias = _levels(q, layer), layer.bias
        if bias is not None:
            bias = rounded(_OWNER, f"the bias of layers[{name!r}]", np.add, bias, target.bias_shift(levels, part))
        sqnr = target.sqnr(levels, part)
        spent = seconds * layer.outputs / outputs + time.perf_counter() - began
        done[name] = _Done(q, bias, _report(name, q, nearest, objective, sqnr, spent))
    return done


def _target(
    stage: Stage,
    entries: Mapping[str, _Layer],
    options: _Options,
    parts: Mapping[str, slice],
    floats: list[Walk],
    coded: list[Walk],
) -> Target:
    """Sum the moments of all batches, whose walks wait at the stage."""
    w = np.concatenate([entries[name].matrix() for name in stage.names])
    rotation = options.rotations.get(w.shape[1])
    v = w if rotation is None else rotation.apply(w)
    moments = StageMoments(w, v, options.prepare(w.shape[1]), lossy=options.activations is not None)
    for exact, walk in zip(floats, coded, strict=True):
        assert exact.x is not None
        assert walk.x is not None
        exact.check()
        walk.check()
        if exact.x.shape != walk.x.shape:
            requirement = "of one shape in the float model and in the quantized one"
            got = f"shapes {exact.x.shape} and {walk.x.shape}"
            raise ValueError(_check.must(_OWNER, f"the input of {stage.names[0]!r}", requirement, got))
        residuals = []
        for name in filter(stage.residuals.__contains__, stage.names):
            wanted, both = (*walk.x.shape[:-1], entries[name].outputs), (exact.residuals[name], walk.residuals[name])
            for r in both:
                if r.shape != wanted:
                    text = _check.must(_OWNER, f"the residual of {name!r}", f"of shape {wanted}", f"shape {r.shape}")
                    raise ValueError(text)
            residuals.append((parts[name], *both))
        moments.add(exact.x, walk.x, residuals)
    if not moments.count:
        raise CalibrationError(_check.must(_OWNER, "batches", "of one row or more", "none"))
    if not moments.finite:
        raise ValueError(_check.must(_OWNER, f"the input of {stage.names[0]!r}", "finite", "NaN or infinities"))
    return moments.target(centered=all(entries[name].bias is not None for name in stage.names))


def _array(result: Rounded, part: slice, layer: _Layer) -> QuantizedArray:
    """Return the codes of one layer of a stage in the user's shape."""
    codes = layer.plan.rows.array(result.codes[part]).astype(layer.plan.code.dtype)
    return QuantizedArray._join(codes, layer.plan.qparams(result.scale[part], result.zero[part]))


# ---- what is done, on disk ----


def _file(folder: Path, i: int) -> Path:
    return folder / f"stage-{i:04}.safetensors"


def _digest(stage: Stage, entries: Mapping[str, _Layer], options: _Options) -> Array:
    """Return bytes that differ where layers or options do."""
    digest = hashlib.blake2b(digest_size=16)
    kind = options._replace(rotations={}), bool(options.rotations), stage.names, sorted(stage.residuals)
    digest.update(repr(kind).encode())
    for name in stage.names:
        layer = entries[name]
        digest.update(repr((layer.w.shape, layer.plan[:3])).encode())
        digest.update(np.ascontiguousarray(layer.w).view(np.uint8).data)
        digest.update(b"" if layer.bias is None else np.ascontiguousarray(layer.bias).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _keep(
    folder: Path | None, i: int, stage: Stage, entries: Mapping[str, _Layer], options: _Options, done: dict[str, _Done]
) -> None:
    """Write the results of a stage."""
    if folder is None:
        return
    arrays: dict[str, Any] = {"digest": _digest(stage, entries, options)}
    for j, (q, bias, report) in enumerate(done.values()):
        numbers = (report.nearest, report.objective, report.sqnr_db, report.seconds)
        arrays[f"{j}.w"] = q
        arrays[f"{j}.report"] = np.array([np.nan if x is None else x for x in numbers])
        if bias is not None:
            arrays[f"{j}.b"] = bias
    save(_file(folder, i), arrays)


def _kept(
    folder: Path | None, i: int, stage: Stage, entries: Mapping[str, _Layer], options: _Options
) -> dict[str, _Done] | None:
    """Read the results of a stage that an earlier call has written; None where there are none."""
    if folder is None or not _file(folder, i).exists():
        return None
    arrays: Mapping[str, Any] = load(_file(folder, i))
    if not np.array_equal(arrays.get("digest", ()), _digest(stage, entries, options)):
        got = f"{_file(folder, i).name} of others"
        raise ValueError(_check.must(_OWNER, "resume", "a folder of the same layers and options", got))
    done = {}
    for j, name in enumerate(stage.names):
        *costs, seconds = arrays[f"{j}.report"].tolist()
        nearest, objective, sqnr = (None if np.isnan(cost) else cost for cost in costs)
        report = _report(name, arrays[f"{j}.w"], nearest, objective, sqnr, seconds)
        done[name] = _Done(arrays[f"{j}.w"], arrays.get(f"{j}.b"), report)
    return done
