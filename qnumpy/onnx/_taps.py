"""Tensors inside a model, read while onnxruntime runs it batch by batch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from .. import _check
from .._typing import Array
from ..calibration.calibrate import Calibration, progress_bar
from ..dtypes import float_type
from ..errors import CalibrationError, FileFormatError
from ..files.atomic import replacing
from ._files import LARGEST, nbytes, tensors
from ._graph import Graph
from ._pieces import PieceModel, lean
from .session import feeds, refusing, require_batches, run_batches, session

__all__ = ["batches_of", "feed_of", "observe", "observe_calibration", "tapped", "unmasked"]

_MASK = 9e3  # -10000 with a score added is a mask; so are the minima of float16 and float32
_GAP = 100.0


def tapped(model: Any, names: Iterable[str]) -> tuple[Any, dict[str, str], list[str]]:
    """Return a model with tensors as further outputs, their names as outputs, and those that it cannot show.

    Parameters
    ----------
    model : ModelProto
        It does not change.
    names : iterable of str

    Returns
    -------
    ModelProto, dict of str to str, list of str
        Tensors inside a graph of If, Loop or Scan, and names of no tensor, are left out.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    inputs = {value.name for value in graph.input}
    made = {name for node in graph.node for name in node.output if name}
    known = {value.name for value in graph.output}
    outputs, left_out = {}, []
    naming = Graph.of(copy)
    for name in dict.fromkeys(names):
        if name in inputs:  # an input cannot be an output under its own name
            shown = naming.name(f"{name}_tapped")
            graph.node.append(helper.make_node("Identity", [name], [shown]))
            graph.output.append(ValueInfoProto(name=shown))
            outputs[name] = shown
        elif name in made:
            if name not in known:
                graph.output.append(ValueInfoProto(name=name))
            outputs[name] = name
        else:
            left_out.append(name)
    return copy, outputs, left_out


def observe(
    owner: str,
    model: Any,
    data: Iterable[Any],
    observers: Mapping[str, Any],
    *,
    progress: bool | None = None,
    transform: Callable[[str, Array], Array] | None = None,
) -> None:
    """Run a model over data and let each observer read the tensor of its name.

    Parameters
    ----------
    owner : str
        The function that errors name.
    model : ModelProto
    data : iterable of dict of str to array, or of arrays
    observers : mapping of str to Observer
        By name of a tensor. A tensor inside a graph of If, Loop or Scan has no name here; its observer sees nothing.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    transform : callable, optional
        Called as ``transform(name, x)``; the observer reads what it returns.

    Raises
    ------
    CalibrationError
        data is empty.
    """
    seen = False
    for batch, _ in _runs(owner, model, data, list(observers), progress):
        seen = True
        for name, x in batch.items():
            observers[name].observe(x if transform is None else transform(name, x))
    if not seen:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))


def observe_calibration(
    owner: str,
    model: Any,
    data: Iterable[Any],
    calibration: Calibration,
    sources: Mapping[str, str],
    views: Mapping[str, Callable[[Array], Array]],
    *,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Run a model over data; the calibration observes tensors batch by batch, and goes on from a saved state.

    Parameters
    ----------
    owner : str
    model : ModelProto
    data : iterable
    calibration : Calibration
    sources : mapping of str to str
        From a name of the calibration to the tensor that it observes.
    views : mapping of str to callable
        By name of the calibration: what is observed in place of the tensor itself.
    progress : bool, optional
    resume : str or path, optional
        A file for the state of the batches so far. It is written in the end, also where an exception or Ctrl-C ends it.
        All tensors of a batch are then in memory at once.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        resume holds the state of other tensors.
    CalibrationError
        data is empty.
    """
    path = None if resume is None else Path(resume)
    calibration = calibration if path is None else _resumed(owner, path, calibration, sources)
    done = calibration.batches
    rest = (item for i, item in enumerate(batches_of(owner, data)) if i >= done)
    try:
        names = list(dict.fromkeys(sources.values()))
        # a state that is saved has whole batches alone
        for batch, ends in _runs(owner, model, rest, names, progress, whole=path is not None):
            for name, tensor in sources.items():
                if tensor in batch:
                    calibration.observe(name, views[name](batch[tensor]) if name in views else batch[tensor])
            calibration.batches += ends
    finally:
        if path is not None and calibration.batches > done:
            with replacing(path, "wb") as file:
                file.write(calibration.to_json().encode())
    if not calibration.batches:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    return calibration


def _resumed(owner: str, path: Path, calibration: Calibration, sources: Mapping[str, str]) -> Calibration:
    """Return the calibration that a file holds, or the one given where there is no file."""
    if not path.exists():
        return calibration
    kept = Calibration.from_json(path.read_text(), calibration._templates)
    wanted = json.loads(calibration.to_json())["configuration"], set(sources)
    if json.loads(path.read_text())["configuration"] != wanted[0] or not set(kept.observers) <= wanted[1]:
        got = f"{os.fspath(path)!r}, of other tensors or another observer"
        raise ValueError(_check.must(owner, "resume", "a file of the same model and observer", got))
    return kept


def _runs(
    owner: str, model: Any, data: Iterable[Any], names: list[str], progress: bool | None, *, whole: bool = False
) -> Iterator[tuple[dict[str, Array], bool]]:
    """Yield the tensors of each batch that are real, by name, without masks, and whether the batch ends with them.

    They come in parts, so that only a few tensors are in memory at once; the whole batch in one where the model cannot
    be cut, or where it is asked for.
    """
    total = len(data) if isinstance(data, Sized) else None
    runs = _whole_runs(owner, model, names) if whole else _part_runs(owner, model, names)
    with progress_bar(iter(batches_of(owner, data)), total, progress) as items:
        for found, ends in runs(items):
            batch = {}
            for name in list(found):
                x = found.pop(name)
                if float_type(x.dtype) is not None:
                    batch[name] = unmasked(x)
            yield batch, ends
            batch.clear()  # before the next run makes as many arrays


_Runs = Callable[[Iterable[Any]], Iterator[tuple[dict[str, Array], bool]]]


def _part_runs(owner: str, model: Any, names: list[str]) -> _Runs:
    try:
        parts = PieceModel(model, names)
    except FileFormatError:
        return _whole_runs(owner, model, names)

    def runs(items: Iterable[Any]) -> Iterator[tuple[dict[str, Array], bool]]:
        for index, feed in enumerate(feeds(owner, parts, items)):
            with refusing(owner, index):
                for found in parts.run(feed):
                    yield found, False
            yield {}, True

    return runs


def _whole_runs(owner: str, model: Any, names: list[str]) -> _Runs:
    with_outputs, outputs, _ = tapped(model, names)
    content: Any = with_outputs
    if sum(nbytes(tensor) for tensor in tensors(with_outputs.graph)) <= LARGEST:
        content = with_outputs.SerializeToString()
    del with_outputs  # one copy less beside the runtime's own
    engine = session(content, options=lean())

    def runs(items: Iterable[Any]) -> Iterator[tuple[dict[str, Array], bool]]:
        for result in run_batches(owner, engine, items):
            found = {name: result[shown] for name, shown in outputs.items()}
            result.clear()
            yield found, True

    return runs


def batches_of(owner: str, data: Any) -> Iterable[Any]:
    """Return data as an iterable of batches: dask arrays and bags give a block or an item at a time."""
    if type(data).__module__.partition(".")[0] != "dask":
        require_batches(owner, data)
        return data  # type: ignore[no-any-return]
    if hasattr(data, "numblocks"):
        whole = data.rechunk(dict.fromkeys(range(1, data.ndim), -1))
        return (whole.blocks[i].compute() for i in range(whole.numblocks[0]))
    return (item for part in data.to_delayed() for item in part.compute())


def feed_of(engine: Any, item: Any) -> dict[str, Array]:
    """Return one batch as what a session runs on."""
    return dict(item) if isinstance(item, Mapping) else {engine.get_inputs()[0].name: np.asarray(item)}


def unmasked(x: Array) -> Array:
    """Return an array with infinities in the place of masks, which observers count and leave out.

    A mask is a magnitude from 9,000 on that is at least a hundred times as large as all that are no masks.

    Parameters
    ----------
    x : ndarray of floats

    Returns
    -------
    ndarray
        x itself, where it has no masks.
    """
    if x.size == 0 or (x.max() < _MASK and x.min() > -_MASK):
        return x
    size = np.abs(x)
    large = size >= _MASK
    rest = size[~large & np.isfinite(size)]
    if rest.size == 0 or not large.any() or not size[large].min() >= _GAP * max(float(rest.max()), 1.0):
        return x
    return np.where(large, np.copysign(np.asarray(np.inf, x.dtype), x), x)
