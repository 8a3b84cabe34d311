"""Observers of dask collections: each block or partition has its own, and a tree of tasks merges them."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from dask import delayed
from dask.array import Array as DaskArray
from dask.bag import Bag, from_delayed
from dask.delayed import Delayed

from .. import _args, _check
from ..calibration.calibrate import Calibration, Observers, complete, fresh
from ..dtypes import float_type
from ..files.store import Reader
from ..granularity import PerChannel, PerGroup, normalize_axis
from ..observers import Observer

__all__ = ["calibrate", "from_safetensors", "observe"]


def observe(x: DaskArray | Bag, observer: Observer, *, split_every: int = 8) -> Observer:
    """Observe every block of a dask array, or every item of a bag, and merge the observers.

    Parameters
    ----------
    x : dask array or bag of arrays
        float32, float64, float16 or bfloat16.
    observer : Observer
        The configuration; it does not change.
    split_every : int, default 8
        How many observers are merged at once.

    Returns
    -------
    Observer
        Its state has the same bits as that of an observer that observed the whole in one process, for any blocks and
        scheduler, and also if workers die. That of a MomentsObserver is the same within its bound.

    Raises
    ------
    TypeError
        observer is no observer.
    TypeError
        observer is a moving average, which cannot be merged.
    TypeError
        x is no dask array or bag.
    TypeError
        A block or an item is not real, has a mask, or is a QuantizedArray or an MXArray.
    ValueError
        The observer is per group and x an array. Use choose_qparams: each group lies in one block, so nothing merges.
    ValueError
        x does not have the axis of the granularity.
    ValueError
        The shape of x is unknown, and a block does not hold every channel.
    TypeError, ValueError
        split_every is no integer of at least 2.

    Notes
    -----
    Computed at once, by the scheduler that dask's configuration or a client names. Per channel, x is rechunked first:
    a block holds the whole axis of the channels, for moments the last one. A block is read once and not kept; a state
    has a few kilobytes, one of moments of K inputs 8 K^2 bytes. Merging makes new states, so a task may run again at
    any time.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.arange(1000, chunks=64, dtype="float32") - 500
    >>> float(observe(x, MinMaxObserver()).max_)
    499.0
    """
    owner = "observe"
    _mergeable(owner, observer)
    if isinstance(x, Bag):
        parts = x.map_partitions(partial(_observe_all, owner, observer)).to_delayed()
        result: Observer = _tree(owner, parts, fresh(observer), split_every)
        return result
    if not isinstance(x, DaskArray):
        raise refusal(owner, "x", "a dask array or bag", x)
    return observe_blocks(owner, x, observer, split_every)


def observe_blocks(owner: str, x: DaskArray, observer: Observer, split_every: Any) -> Observer:
    """Observe every block of a dask array; `owner` is the function that the user called."""
    _args.real(owner, "x", plain(owner, "x", x)._meta)
    whole = _with_whole_channels(owner, x, observer)
    parts = [delayed(_observe_all)(owner, observer, [block]) for block in whole.to_delayed().ravel()]
    result: Observer = _tree(owner, parts, fresh(observer), split_every)
    return result


def calibrate(
    run: Callable[[Any], Any], batches: Bag, observers: Observers | None = None, *, split_every: int = 8
) -> Calibration:
    """Run a callable over the items of a bag and choose parameters for every array it names, as qnumpy.calibrate.

    Parameters
    ----------
    run : callable
        Called as ``run(item)`` on the worker that has the item; it taps arrays or returns them as a dict.
    batches : Bag
        One partition is one task.
    observers : Observer, mapping or callable, optional
        As in qnumpy.Calibration.
    split_every : int, default 8
        How many calibrations are merged at once.

    Returns
    -------
    Calibration
        Equal to that of one process with the same items.

    Raises
    ------
    TypeError
        run is not callable.
    TypeError
        batches is no bag.
    TypeError
        observers is no observer, mapping or function.
    TypeError
        An observer is a moving average, which cannot be merged.
    TypeError, ValueError
        split_every is no integer of at least 2.
    TypeError, ValueError
        An observer refuses an array; a note says the name.
    CalibrationError
        There is no batch, or run names no array.
    CalibrationError
        observers has a name that is no pattern, and no array has that name.

    Examples
    --------
    >>> import dask.bag as db
    >>> batches = db.from_sequence([np.full(4, k, np.float32) for k in range(10)], npartitions=3)
    >>> calibrate(lambda x: {"x": x, "y": x * x}, batches)["y"]
    QParams(int8, per tensor, scale=1, zero_point=0)
    """
    owner = "calibrate"
    if not callable(run):
        raise TypeError(_check.must(owner, "run", "callable", _check.typed(run)))
    if not isinstance(batches, Bag):
        raise TypeError(_check.must(owner, "batches", "a dask bag", _check.typed(batches)))
    empty = Calibration(observers)
    for observer in observers.values() if isinstance(observers, Mapping) else (observers,):
        if isinstance(observer, Observer):
            _mergeable(owner, observer)
    parts = batches.map_partitions(partial(_run_all, empty, run)).to_delayed()
    return complete(owner, _tree(owner, parts, empty, split_every), observers)


def from_safetensors(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Bag:
    """Make a bag of the floating tensors of .safetensors files, one partition for each file.

    Parameters
    ----------
    paths : path or sequence of paths
        Files, and indexes of sharded models (.safetensors.index.json). Every worker must see them.

    Returns
    -------
    Bag of dict
        ``{name: array}`` with one tensor each, read one after the other: ``calibrate(dict, bag)`` observes every tensor
        under its name. Tensors of one name in several files are batches of one tensor.

    Raises
    ------
    ValueError
        There is no path, or one does not end in .npz, .safetensors or .safetensors.index.json.
    FileFormatError
        A file is truncated, oversized or contradicts itself.

    Examples
    --------
    >>> import tempfile, qnumpy as qn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     qn.save(f"{folder}/a.safetensors", {"w": np.ones((2, 2), np.float32)})
    ...     qn.save(f"{folder}/b.safetensors", {"w": -np.ones((3, 2)), "steps": np.arange(3)})
    ...     calibration = calibrate(dict, from_safetensors([f"{folder}/a.safetensors", f"{folder}/b.safetensors"]))
    >>> calibration.observers["w"]
    HistogramObserver(int8, per tensor, symmetric, method=mse, min=-1, max=1, 10 seen)
    """
    names = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not names:
        raise ValueError(_check.must("from_safetensors", "paths", "one or more", "none"))
    shards = []
    for path in names:
        with Reader(path) as reader:
            shards += [shard for shard in map(os.fspath, reader.paths) if not shard.endswith(".json")]
    return from_delayed([delayed(_Shard)(shard) for shard in shards])


class _Shard:
    """The floating tensors of a file; each iteration reads them again, one at a time."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with Reader(self.path) as reader:
            for name, spec in reader.specs.items():
                if float_type(spec.dtype) is not None and spec.is_plain:
                    yield {name: reader.read(name, copy=True)}


def _mergeable(owner: str, observer: Any) -> None:
    if not isinstance(observer, Observer):
        raise TypeError(_check.must(owner, "observer", "an observer", _check.typed(observer)))
    if not observer.mergeable:
        fresh(observer).merge(fresh(observer))  # raises the error with the reason


def refusal(owner: str, name: str, requirement: str, value: Any) -> TypeError:
    """Return the error about what is no dask array, with the function that makes one of it."""
    if isinstance(value, Delayed):
        text = _check.must(owner, name, requirement, "a Delayed")
        return TypeError(f"{text} Use dask.array.from_delayed({name}, shape, dtype) first.")
    if hasattr(value, "to_dask_array"):  # a dataframe
        text = _check.must(owner, name, requirement, f"a {type(value).__name__}")
        return TypeError(f"{text} Use {name}.to_dask_array(lengths=True) first.")
    return TypeError(_check.must(owner, name, requirement, _check.typed(value)))


def plain(owner: str, name: str, x: DaskArray) -> DaskArray:
    """Return x if its blocks are plain NumPy arrays, as far as dask knows; the blocks themselves are checked too."""
    meta = x._meta
    if not isinstance(meta, np.ndarray):
        got = f"one of {type(meta).__module__}.{type(meta).__qualname__}"
        raise TypeError(_check.must(owner, name, "a dask array of NumPy arrays", got))
    _check.array(owner, name, meta)  # refuses a mask
    return x


def known(owner: str, name: str, x: DaskArray, unless: str = "") -> DaskArray:
    """Return x if its shape is known."""
    if any(math.isnan(length) for length in x.shape):
        text = _check.must(owner, name, f"an array of known shape{unless}", f"shape {x.shape}")
        raise ValueError(f"{text} Use {name}.compute_chunk_sizes() first.")
    return x


def _with_whole_channels(owner: str, x: DaskArray, observer: Observer) -> DaskArray:
    """Rechunk x so that a block holds every channel; dask chooses the blocks along the other axes."""
    granularity = observer.granularity
    if isinstance(granularity, PerGroup):
        raise ValueError(_check.must(owner, "observer", "per tensor or per channel", granularity.describe()))
    if not isinstance(granularity, PerChannel):
        return x
    axis = normalize_axis(owner, granularity.axis, x.ndim)
    if x.numblocks[axis] == 1:
        return x
    known(owner, "x", x, " where a block does not hold every channel")
    return x.rechunk({d: -1 if d == axis else "auto" for d in range(x.ndim)})


def _observe_all(owner: str, observer: Observer, arrays: Iterable[Any]) -> list[Observer]:
    return [reduce(lambda state, x: state.observe(_args.real(owner, "x", x)[0]), arrays, fresh(observer))]


def _run_all(empty: Calibration, run: Callable[[Any], Any], batches: Iterable[Any]) -> list[Calibration]:
    return [reduce(lambda state, batch: state.run(run, batch), batches, fresh(empty))]


def _merge_all(empty: Any, parts: Sequence[list[Any]]) -> list[Any]:
    """Merge states into a new one: a task that runs again needs the states of the parts unchanged."""
    return [reduce(lambda state, part: state.merge(part[0]), parts, fresh(empty))]


def _tree(owner: str, parts: list[Any], empty: Any, split_every: Any) -> Any:
    fan = _check.integer(owner, "split_every", split_every)
    if fan < 2:
        raise ValueError(_check.must(owner, "split_every", "at least 2", str(fan)))
    while len(parts) > 1:
        parts = [delayed(_merge_all)(empty, parts[k : k + fan]) for k in range(0, len(parts), fan)]
    return parts[0].compute()[0] if parts else empty
