"""What was done to a model, node by node; it is kept in the model."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from onnx import ModelProto

from .. import _check
from .._tables import Table, as_json, number
from ..errors import FileFormatError
from ._files import read_model

__all__ = ["Change", "Report", "report"]

KEY = "qnumpy.report"  # of the model's metadata


class Change(NamedTuple):
    """What became of one node; `reason` says why, also for what stays float.

    `rounding` names what chose the codes of its weight, "nearest" or a method of `qnumpy.weights.quantize_layers`; it
    is empty without codes.
    """

    node: str
    op_type: str
    form: str
    dtype: str
    reason: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None
    rounding: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return self._asdict()


class Report(Table[Change]):
    """Every node that a function changed or left as it is, with the reason; `facts` holds what is true of the whole."""

    _left = 4
    _last_left = True

    def __init__(self, changes: Iterable[Change], facts: dict[str, Any]) -> None:
        super().__init__(changes, Change, "changes")
        self.facts = facts

    def _head(self) -> list[str]:
        return ["node", "operator", "form", "dtype", "bytes", "before", "SQNR dB", "reason"]

    def _row(self, item: Change) -> list[str]:
        sizes = [f"{item.bytes_after:,}", f"{item.bytes_before:,}"]
        return [item.node, item.op_type, item.form, item.dtype, *sizes, number(item.sqnr_db), item.reason]

    def _foot(self) -> list[list[str]]:
        sums = [sum(item.bytes_after for item in self), sum(item.bytes_before for item in self)]
        return [["all", "", "", "", *(f"{size:,}" for size in sums), "", ""]]

    def _about(self) -> dict[str, Any]:
        return {"facts": self.facts}

    def _sentences(self) -> list[str]:
        note = self.facts.get("note")
        return [note] if isinstance(note, str) else []


def attach(model: ModelProto, changes: Iterable[Change], **facts: Any) -> None:
    """Keep a report in the model; what an earlier function did to other nodes stays in it."""
    changes, before = list(changes), _read(model)
    if before is not None:
        named = {change.node for change in changes}
        changes = [*(change for change in before if change.node not in named), *changes]
        facts = {**before.facts, **facts}
    entries = [entry for entry in model.metadata_props if entry.key == KEY]
    entry = entries[0] if entries else model.metadata_props.add(key=KEY)
    content = {"changes": [change.to_dict() for change in changes], "facts": facts}
    entry.value = as_json(json.loads(json.dumps(content, default=_plain)), None)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a scalar, an array or another object."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _read(model: ModelProto) -> Report | None:
    for entry in model.metadata_props:
        if entry.key == KEY:
            content = json.loads(entry.value)
            return Report([Change(**change) for change in content["changes"]], content["facts"])
    return None


def find_report(model: ModelProto) -> Report | None:
    """Return the report that a model holds, None for none or one that another program changed."""
    try:
        return _read(model)
    except (ValueError, TypeError, KeyError):
        return None


def report(model: Any) -> Report:
    """Return what qnumpy did to a model, node by node.

    Parameters
    ----------
    model : path, bytes or ModelProto

    Returns
    -------
    Report
        A table with a row for each node: its form, its dtype, its bytes, its error and the reason; as text, JSON or
        HTML.

    Raises
    ------
    TypeError
        The model is neither of the three.
    FileFormatError
        The model cannot be read.
    ValueError
        The model holds no report: qnumpy did not write it.

    Examples
    --------
    >>> import qnumpy as qn
    >>> quantized = qn.onnx.quantize_weights("model.onnx")  # doctest: +SKIP
    >>> qn.onnx.report(quantized)  # doctest: +SKIP
    """
    proto = read_model("report", model)
    if not any(entry.key == KEY for entry in proto.metadata_props):
        raise ValueError(_check.must("report", "model", "one that qnumpy wrote", "a model without a report"))
    try:
        found = _read(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(_check.must("report", "model", "one with a report", "a damaged report")) from error
    assert found is not None
    return found
