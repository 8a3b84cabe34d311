"""From a float model to one whose layers hold codes."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np
from torch import nn

from .. import _check
from .._typing import Array
from ..errors import CalibrationError
from ..reports.scores import finite_decibels, signal_and_noise
from ..weights._factors import FREE_GAIN, PASS_GAIN, Form, best_factors
from ..weights.hadamard import Hadamard, hadamard
from ._copies import disable_fast_paths, move_hooks, own_parameters, replace_modules, sharing_copy
from ._folds import Folds, find_folds, fold_activations, fold_batch_norms, fold_smoothing
from ._kinds import FOLDING, find_layers
from ._layers import Layer, matrix_of, round_alone
from ._library import tensor_of
from ._replay import observe, round_by_data
from ._split import split_modules
from .config import Config, codes_in_bytes
from .modules import Quantized, kind
from .prepare import Record, Rows, check_model, kept, record_of, remove_record, runs_again
from .qat import CONVERSIONS, TrainedLayer, trains
from .report import ConvertedLayer, attach

__all__ = ["convert"]

_OWNER = "convert"


def convert(model: nn.Module, config: Config | None = None) -> nn.Module:
    """Return a model whose layers hold codes and compute on the kernels of qnumpy.

    Parameters
    ----------
    model : Module
        One that `prepare` returned, after data ran through it, or `prepare_qat`, after its training, or a float model
        where the configuration needs no data.
        It does not change.
    config : Config, optional
        For a float model; a prepared one has its configuration.

    Returns
    -------
    Module
        A copy in evaluation mode. `report` tells what became of each layer.

    Raises
    ------
    TypeError
        model is no Module; config is no Config.
    ValueError
        model is prepared, and a config came; a pattern of config matches no module; config needs data, and model is not
        prepared.
    CalibrationError
        No data ran through the prepared model.

    Notes
    -----
    A module that is used twice is converted once. Modules that share a weight share its codes, or stay as they are.
    Hooks before and after the forward of a layer stay; hooks of gradients do not. In memory are the float model and
    the codes: weights that become codes are not copied.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
    >>> convert(model, Config(exclude="2", hadamard=False))
    Sequential(
      (0): Linear(in_features=64, out_features=32, int8 per channel 0, x uint8 per row, bias)
      (1): Tanh()
      (2): Linear(in_features=32, out_features=4, bias=True)
    )
    """
    record = record_of(model) if isinstance(model, nn.Module) else None
    if isinstance(model, nn.Module) and trains(model):
        return _of_trained(model, config)
    if record is None:
        config = check_model(_OWNER, model, config)
    elif config is not None:
        raise ValueError(_check.must(_OWNER, "config", "left out for a prepared model", f"a {type(config).__name__}"))
    else:
        config = record.config
    work = sharing_copy(model)
    remove_record(work)
    work = split_modules(work, config)
    layers = find_layers(work, config)
    _check_data(layers, record)
    folds = _folds(work, layers, record)
    fold_batch_norms(work, folds)
    if record is not None:
        _smooth(work, layers, record, folds)
    _rotate(layers)
    if record is not None:
        _round(work, layers, record)
        _choose_ranges(work, layers, record)
    result, rows = _converted(work, layers, folds)
    own_parameters(result)
    disable_fast_paths(result)
    attach(result, rows)
    return result


def _check_data(layers: Iterable[Layer], record: Record | None) -> None:
    """Raise an error if what layers need of data is not there; those that no data reached stay as they are."""
    needs = {layer.name: need for layer in layers if layer.converts and (need := _need(layer))}
    if not needs:
        return
    if record is None:
        need = next(iter(needs.values()))
        wanted = f"one that prepare returned, after data ran through it, for {need}"
        raise ValueError(_check.must(_OWNER, "model", wanted, "a float model"))
    if not record.inputs and not any(seen.calls for seen in record.seen.values()):
        raise CalibrationError(_check.must(_OWNER, "model", "one that data ran through after prepare", "no call"))
    if not record.inputs and any(layer.name in needs and runs_again(layer) for layer in layers):
        wanted = "one that data ran through as a whole after prepare"
        raise CalibrationError(_check.must(_OWNER, "model", wanted, "calls of its parts alone"))
    for layer in layers:
        if layer.name in needs and not record.seen[layer.name].calls:
            if layer.config.mode == "static":
                layer.reason = "no data reached it"
            else:
                layer.notes.append("no data reached it")


def _need(layer: Layer) -> str:
    """Return for what a layer needs data, empty for nothing."""
    own = layer.config
    if own.mode == "static" and own.quantizes_x and layer.kind is not None and layer.kind.observes:
        return "the mode 'static'"
    if layer.is_product and own.method == "gptq":
        return "the method 'gptq'"
    return "smooth" if layer.is_product and own.smooth and own.quantizes_x else ""


# ---- what folds ----


def _folds(work: nn.Module, layers: Sequence[Layer], record: Record | None) -> Folds:
    """Return what folds into layers that are converted, or into the norms before them."""
    named = {layer.name: layer for layer in layers if layer.converts}
    smooths = any(layer.config.smooth and layer.is_product for layer in named.values())
    if not named or not (smooths or any(isinstance(module, FOLDING) for module in work.modules())):
        return Folds({}, {}, {})
    args, kwargs = kept(record.inputs[0]) if record is not None and record.inputs else ((), {})
    folds = find_folds(work, args, kwargs).among(named)
    for taken in (folds.batch_norms, folds.activations):
        for name, other in taken.items():
            named[name].notes.append(f"takes in {other}")
    return folds


# ---- what changes x ----


def _smooth(work: nn.Module, layers: Sequence[Layer], record: Record, folds: Folds) -> None:
    """Choose factors of the channels of x: those that a norm takes cost no time, others a pass over x."""
    named = {layer.name: layer for layer in layers if layer.converts}
    rows = {name: seen.rows for name in named if (seen := record.seen.get(name)) is not None and _has_rows(seen.rows)}
    factors: dict[str, Array] = {}
    for readers in folds.norms.values():
        if all(name in rows and named[name].config == named[readers[0]].config for name in readers):
            group, first = [named[name] for name in readers], rows[readers[0]]
            factor = _factors(group, first.rows(), first.reach, FREE_GAIN)
            if factor is not None:
                factors.update(dict.fromkeys(readers, factor))
    read = {norm: readers for norm, readers in folds.norms.items() if all(name in factors for name in readers)}
    folded = set(factors)
    for name in folded:
        named[name].notes.append("smoothed by the norm before")
    fold_smoothing(work, folds._replace(norms=read), {name: tensor_of(factor) for name, factor in factors.items()})
    for name, kept_rows in rows.items():
        if name not in folded:
            named[name].smooth = _factors([named[name]], kept_rows.rows(), kept_rows.reach, PASS_GAIN)
            if named[name].smooth is not None:
                named[name].notes.append("smoothed")


def _has_rows(rows: Rows | None) -> TypeGuard[Rows]:
    return rows is not None and bool(rows.reach.size)


def _factors(layers: Sequence[Layer], rows: Array, reach: Array, gain: float) -> Array | None:
    """Return what x of some layers is multiplied by; None where that gains little."""
    if not np.isfinite(reach).all():
        return None
    own = layers[0].config
    code = own.code
    assert code is not None
    w = np.concatenate([layer.matrix() for layer in layers]).T
    form = Form(own.mode != "static", _rotation(own, w.shape[0]) is not None, code.qmax)
    factors = best_factors(rows, reach, w, form, gain)
    return None if factors is None else 1 / factors


def _rotate(layers: Iterable[Layer]) -> None:
    """Give layers the rotation of their x."""
    for layer in layers:
        if layer.converts and layer.is_product:
            inputs = layer.matrix().shape[1]
            layer.rotation = _rotation(layer.config, inputs)
            if layer.config.hadamard and layer.rotation is None:
                layer.notes.append(f"not rotated: {inputs} inputs are odd")


def _rotation(config: Config, inputs: int) -> Hadamard | None:
    """Return the rotation of x by a configuration; none of an odd number of inputs."""
    if inputs % 2 or not config.rotates(inputs):
        return None
    rotation = hadamard(inputs)
    return rotation if config.rotates(rotation.block) else None


# ---- what data choose ----


def _round(work: nn.Module, layers: Sequence[Layer], record: Record) -> None:
    """Round weights by data, the layers of one configuration after the other."""
    wanted = [layer for layer in layers if layer.converts and layer.is_product and layer.config.method == "gptq"]
    orders = record.orders
    if not wanted or not orders:
        return
    named = {layer.name: layer for layer in wanted}
    order = [name for name in orders[0] if name in named]
    groups: dict[Any, list[Layer]] = {}
    for name, layer in named.items():
        if any(met.count(name) != 1 for met in orders):
            layer.notes.append("rounded by itself: not met once in each call of the model")
        elif any(_neighbours(met, name, named) != _neighbours(orders[0], name, named) for met in orders[1:]):
            layer.notes.append("rounded by itself: met in another order by some calls of the model")
    for name in order:
        layer = named[name]
        if not any(note.startswith("rounded by itself") for note in layer.notes):
            groups.setdefault((layer.config, layer.rotation is not None), []).append(layer)
    done: dict[nn.Module, tuple[Layer, Any]] = {}
    for group in groups.values():
        result = round_by_data(work, group, done, record.inputs)
        for layer in group:
            layer.codes, layer.bias = result[layer.name], result.biases.get(layer.name)
            done[layer.module] = layer, layer.codes


def _neighbours(met: Sequence[str], name: str, named: dict[str, Layer]) -> list[str]:
    """Return the layers that a call met before a layer."""
    return [other for other in met[: met.index(name)] if other in named]


def _choose_ranges(work: nn.Module, layers: Sequence[Layer], record: Record) -> None:
    """Choose the parameters of x in the mode "static"."""
    again = []
    for layer in layers:
        seen = record.seen.get(layer.name)
        if not layer.converts or seen is None or _need(layer) != "the mode 'static'":
            continue
        if seen.observer is None:
            again.append(layer)
            continue
        try:
            layer.x_qparams = codes_in_bytes(seen.observer.qparams())
        except CalibrationError:  # nothing finite
            layer.reason = "its input holds only NaN and infinities"
    if again:
        observe(work, again, record.inputs)


# ---- the modules ----


def _of_trained(model: nn.Module, config: Config | None) -> nn.Module:
    """Return what became of a model of `prepare_qat`, whose layers know their codes."""
    if config is not None:
        raise ValueError(_check.must(_OWNER, "config", "left out for a prepared model", f"a {type(config).__name__}"))
    work = sharing_copy(model)
    new: dict[nn.Module, nn.Module] = {}
    for module in work.modules():
        if type(module) in CONVERSIONS:
            new[module] = CONVERSIONS[type(module)](module)
            move_hooks(module, new[module])
    rows = []
    for layer in find_layers(work, Config()):
        module = layer.module
        if isinstance(module, TrainedLayer):
            sqnr, dtype = module.sqnr_db(new[module]), str(module.weight_quantizer.dtype)
            before, after = _bytes(module), _bytes(new[module])
            rows.append(ConvertedLayer(layer.name, type(module).__name__, dtype, before, after, sqnr, "qat"))
        else:
            layer.reason = "it was not trained with rounding"
            rows.append(_row(layer, None))
    result = replace_modules(work, new)
    own_parameters(result)
    disable_fast_paths(result)
    attach(result, rows)
    return result


def _converted(work: nn.Module, layers: Sequence[Layer], folds: Folds) -> tuple[nn.Module, list[ConvertedLayer]]:
    """Return the model with modules of codes, and the rows of its report."""
    new: dict[nn.Module, nn.Module] = {}
    activations = {name: work.get_submodule(name) for name in folds.activations.values()}
    clips = fold_activations(work, folds)
    rows, first = [], {layer.name: layer for layer in layers}
    for layer in layers:
        layer.clip = clips.get(layer.name, (None, None))
        if layer.converts and layer.tied is not None and layer.tied != layer.name:
            layer.codes = first[layer.tied].codes
        module = _module(layer) if layer.converts else None
        if module is not None:
            move_hooks(layer.module, module)
            new[layer.module] = module
            if layer.tied is not None:
                _share(layer, module, first[layer.tied], new)
        elif layer.name in clips:
            taken = folds.activations[layer.name]
            work.set_submodule(taken, activations[taken])
        rows.append(_row(layer, module))
    return replace_modules(work, new), rows


def _module(layer: Layer) -> nn.Module | None:
    """Return a layer as a module of codes; None, with the reason, where the layer cannot be one."""
    assert layer.kind is not None
    try:
        if layer.tied is not None and layer.codes is None:
            layer.codes = round_alone(matrix_of(layer.module.weight), layer.config)  # type: ignore[arg-type]
        return layer.kind.convert(layer)
    except (TypeError, ValueError) as error:
        layer.reason = str(error)
        return None


def _share(layer: Layer, module: nn.Module, first: Layer, new: dict[nn.Module, nn.Module]) -> None:
    """Let two modules hold the same buffers of codes."""
    other = new.get(first.module)
    if other is not None and other is not module:
        for name, tensor in other._buffers.items():
            if name.startswith("weight") and name in module._buffers:
                module._buffers[name] = tensor


def _row(layer: Layer, module: nn.Module | None) -> ConvertedLayer:
    name, before = layer.name, _bytes(layer.module)
    cls = type(layer.module).__name__
    if module is None:
        dtypes = dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in layer.module.parameters())
        return ConvertedLayer(name, cls, ", ".join(dtypes), before, before, reason=layer.reason)
    dtype = kind(module.array()) if isinstance(module, Quantized) else str(layer.config.dtype)
    method = "mse" if layer.config.method == "gptq" and layer.codes is None else str(layer.config.method)
    return ConvertedLayer(
        name, cls, dtype, before, _bytes(module), _sqnr(layer, module), method, "; ".join(layer.notes)
    )


def _bytes(module: nn.Module) -> int:
    return sum(x.nbytes for x in (*module.parameters(), *module.buffers()) if not nn.parameter.is_lazy(x))


def _sqnr(layer: Layer, module: Any) -> float | None:
    """Return the SQNR of a weight, as x meets it: a rotation keeps squares; factors are taken back without one."""
    if not layer.is_product:
        return None
    w, v = layer.matrix(), np.ascontiguousarray(module.array().dequantize())
    if layer.smooth is not None and layer.rotation is None:
        w, v = w * layer.smooth, v * layer.smooth
    return finite_decibels(*signal_and_noise(w, v))
