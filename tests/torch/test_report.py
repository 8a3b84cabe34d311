"""qnumpy.torch.report: what became of each layer."""

import copy
import io
import json
import re

import pytest
import torch
from torch import nn

from qnumpy.torch import Config, convert, prepare, report

pytestmark = pytest.mark.peers


@pytest.fixture
def converted():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(10, 64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32, bias=False), nn.Bilinear(4, 4, 4)
    )
    return convert(model, Config(exclude="3"))


def test_has_a_row_for_each_module_with_weights(converted):
    table = report(converted)
    assert [layer.name for layer in table] == ["0", "1", "3", "4"]
    assert [layer.module for layer in table] == ["Embedding", "Linear", "Linear", "Bilinear"]
    assert table["1"].dtype == "int8 per channel 0"
    assert table["1"].method == "minmax"
    assert table["1"].reason == "takes in 2"
    assert table["3"].dtype == "float32"
    assert table.skipped == {
        "3": "the configuration leaves it as it is",
        "4": "no module of codes computes what Bilinear does",
    }
    with pytest.raises(KeyError):
        table["2"]


def test_counts_bytes(converted):
    table = report(converted)
    assert table["1"].bytes_before == 4 * (64 * 32 + 32)
    assert table["1"].bytes_after == 64 * 32 + 4 * 32 + 4 * 32  # codes, scales, bias
    assert table["3"].bytes_before == table["3"].bytes_after == 4 * 32 * 32


def test_tells_the_error_of_the_weights(converted):
    """The SQNR in float64 of the weight that the layer holds."""
    torch.manual_seed(0)
    nn.Embedding(10, 64)
    w = nn.Linear(64, 32).weight.detach().double()
    noise = (converted[1].dequantize().double() - w).square().sum()
    expected = 10 * torch.log10(w.square().sum() / noise)
    assert report(converted)["1"].sqnr_db == pytest.approx(
        float(expected), rel=1e-4
    )  # the weight was rotated in float32
    assert report(converted)["3"].sqnr_db is None


def test_is_text_json_and_html(converted):
    table = report(converted)
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "module", "type", "bytes", "before", "SQNR", "dB", "method", "reason"]
    assert lines[3].endswith("the configuration leaves it as it is")
    assert lines[5].startswith("4 layers")
    assert [record["name"] for record in table.to_records()] == ["0", "1", "3", "4"]
    assert table.to_records()[2]["reason"] in table.to_json()
    json.loads(table.to_json())
    assert "<td>Bilinear</td>" in table._repr_html_()


def test_goes_with_the_model(converted):
    expected = str(report(converted))
    assert str(report(copy.deepcopy(converted))) == expected
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    assert str(report(torch.load(file, weights_only=False))) == expected


def test_names_the_method_of_each_layer():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Conv1d(4, 64, 1), nn.Flatten(), nn.Linear(64, 8), shared, shared)
    prepared = prepare(model, Config(method="gptq"))
    prepared(torch.randn(8, 4, 1))
    table = report(convert(prepared))
    assert [table[name].method for name in ("0", "2", "3")] == ["mse", "gptq", "mse"]


def test_refuses():
    with pytest.raises(TypeError, match=re.escape("report: model must be a Module; got 'model'.")):
        report("model")
    sentence = "report: model must be one that convert returned; got a Linear without a report."
    for model in (nn.Linear(2, 2), prepare(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            report(model)
