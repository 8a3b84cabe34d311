"""The report that a model holds."""

import json
import math

import numpy as np
import pytest
from onnx_zoo import mlp

from qnumpy.errors import FileFormatError
from qnumpy.onnx import report
from qnumpy.onnx._report import Change, attach

FIRST = Change("a", "MatMul", "QDQ", "int8", "it is faster", 400, 100, 41.5)
SECOND = Change("b", "Conv", "float", "float32", "int8 loses", 80, 80, None)


def test_round_trip():
    model = mlp()
    attach(model, [FIRST, SECOND], scale=np.float32(0.5), note="All is well.", lost=math.inf)
    found = report(model.SerializeToString())
    assert list(found) == [FIRST, SECOND]
    assert found.facts == {"scale": 0.5, "note": "All is well.", "lost": None}
    assert str(found).splitlines() == [
        "node  operator  form   dtype    bytes  before  SQNR dB  reason",
        "a     MatMul    QDQ    int8       100     400     41.5  it is faster",
        "b     Conv      float  float32     80      80        -  int8 loses",
        "all                               180     480",
        "",
        "warning: All is well.",
    ]
    assert json.loads(found.to_json())["tensors"][1]["reason"] == "int8 loses"
    assert "<td>it is faster</td>" in found._repr_html_()


def test_a_second_report_keeps_the_other_nodes():
    model = mlp()
    attach(model, [FIRST, SECOND], function="first")
    attach(model, [SECOND._replace(form="QDQ")], function="second")
    assert [(change.node, change.form) for change in report(model)] == [("a", "QDQ"), ("b", "QDQ")]
    assert report(model).facts == {"function": "second"}
    assert [entry.key for entry in model.metadata_props] == ["origin", "qnumpy.report"]


def test_models_without_a_report():
    with pytest.raises(
        ValueError, match=r"^report: model must be one that qnumpy wrote; got a model without a report\.$"
    ):
        report(mlp())
    model = mlp()
    model.metadata_props.add(key="qnumpy.report", value="{")
    with pytest.raises(FileFormatError, match=r"^report: model must be one with a report; got a damaged report\.$"):
        report(model)
