"""How well a model does on data."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import _check
from .._typing import Array
from ..errors import CalibrationError
from ..reports.scores import Metric, Score
from ._taps import batches_of
from .session import opened, run_batches

__all__ = ["evaluate", "labelled"]

_LABELS = "labels"


def evaluate(
    model: Any,
    data: Iterable[Any],
    metric: Metric,
    *,
    reference: Any = None,
    labels: Any = None,
    threads: int | None = None,
) -> float:
    """Run a model in onnxruntime over data and return a metric of its outputs; larger is better.

    Parameters
    ----------
    model : path, bytes or ModelProto
    data : iterable of dict of str to array, or of arrays
        Inputs by name; arrays where the model has one input. A batch may also be a pair of inputs and labels, or have
        an entry "labels" that is no input of the model.
    metric : str or callable
        "accuracy": the share of labels that the first output has as its largest element along the last axis; "top5":
        among the five largest. "agreement": the share of positions whose largest element is that of the reference.
        "cosine": the mean cosine of the rows of the outputs and those of the reference. "sqnr": in dB, of the output
        that has the least; infinity without an error. Or a function, called once as ``metric(outputs, expected)`` with
        two lists that have an entry for each batch: the output (a dict where there are several), and the labels, or the
        reference's outputs, or None; a function of one argument gets the outputs.
    reference : path, bytes or ModelProto, optional
        The float model.
    labels : array_like or iterable of array_like, optional
        One array for all batches together, or one for each batch.
    threads : int, optional
        As in session.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        metric is neither a function nor one of these names.
    ValueError
        The metric needs a reference, or labels, and there are none.
    TypeError, FileFormatError
        model or reference is no model.
    TypeError, ValueError
        A batch does not fit the model's inputs; labels do not fit the outputs.
    CalibrationError
        data is empty.

    Examples
    --------
    >>> import qnumpy as qn
    >>> images, classes = np.ones((8, 3, 224, 224), np.float32), np.zeros(8, np.int64)
    >>> qn.onnx.evaluate("model.onnx", [(images, classes)], "accuracy")  # doctest: +SKIP
    0.9722
    >>> qn.onnx.evaluate("int8.onnx", [images], "sqnr", reference="model.onnx")  # doctest: +SKIP
    38.6
    """
    owner = "evaluate"
    score = Score(owner, metric)
    if score.needs == "reference" and reference is None:
        raise ValueError(_check.must(owner, "reference", f"the float model for the metric {score.name!r}", "None"))
    engine = opened(owner, model, threads)
    exact = None if reference is None else opened(owner, reference, threads)
    for feed, wanted in labelled(owner, engine, data, labels):
        (outputs,) = run_batches(owner, engine, [feed])
        if score.needs == "labels" and wanted is None:
            raise ValueError(
                _check.must(owner, "data", f"pairs of inputs and labels for the metric {score.name!r}", "no labels")
            )
        if exact is not None and (score.needs == "reference" or wanted is None):
            (wanted,) = run_batches(owner, exact, [feed])
        score.add(outputs, wanted)
    if not score.batches:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    return score.value()


def labelled(owner: str, engine: Any, data: Any, labels: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield the inputs of each batch and its labels, None without.

    Parameters
    ----------
    owner : str
    engine : InferenceSession
    data : iterable
    labels : array_like or iterable, optional
        Beside the data.
    """
    inputs = {value.name for value in engine.get_inputs()}
    rest = None if labels is None else _Labels(owner, labels, next(iter(inputs), ""))
    for item in batches_of(owner, data):
        wanted = None
        if isinstance(item, tuple) and len(item) == 2:
            item, wanted = item
        elif isinstance(item, Mapping) and _LABELS in item and _LABELS not in inputs:
            wanted = item[_LABELS]
            item = {name: value for name, value in item.items() if name != _LABELS}
        if rest is not None:
            wanted = rest.take(item)
        yield item, wanted
    if rest is not None:
        rest.finish()


class _Labels:
    """Labels that come beside the data: one array for all batches, or one for each."""

    def __init__(self, owner: str, labels: Any, name: str) -> None:
        self.owner, self.name, self.taken = owner, name, 0
        if (
            isinstance(labels, str | bytes | Mapping)
            or not isinstance(labels, Iterable)
            or getattr(labels, "shape", None) == ()
        ):
            wanted = "one array for all batches together, or one for each"
            raise TypeError(_check.must(owner, "labels", wanted, _check.typed(labels)))
        each = (
            isinstance(labels, list | tuple) and bool(labels) and not np.isscalar(labels[0]) and np.ndim(labels[0]) > 0
        )
        self.batches = iter(labels) if each or not isinstance(labels, list | tuple | np.ndarray) else None
        self.whole: Array | None = None if self.batches is not None else np.asarray(labels)

    def take(self, item: Any) -> Any:
        if self.whole is None:
            assert self.batches is not None
            wanted = next(self.batches, None)
            if wanted is None:
                raise ValueError(
                    _check.must(self.owner, "labels", "one array for each batch", "fewer arrays than batches")
                )
            return wanted
        x = item[self.name] if isinstance(item, Mapping) and self.name in item else item
        count = len(np.asarray(x))
        wanted = self.whole[self.taken : self.taken + count]
        self.taken += count
        return wanted

    def finish(self) -> None:
        """Refuse labels that are more or fewer than the rows of the data."""
        if self.whole is not None and self.taken != len(self.whole):
            got = f"{len(self.whole)} for {self.taken}"
            raise ValueError(_check.must(self.owner, "labels", "as many as the rows of data", got))
