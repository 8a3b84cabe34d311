"""``qnumpy onnx``."""

import json

import numpy as np
import pytest

from qnumpy.cli import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_zoo import mlp, mlp_inputs  # noqa: E402

QUANTIZE = ["quantize", "m.onnx", "-o", "q.onnx"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, data in a file, and a module that returns data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "m.onnx")
    np.savez("inputs.npz", **mlp_inputs(batch=12))
    np.save("inputs.npy", mlp_inputs(batch=12)["x"])
    (tmp_path / "zoo_batches.py").write_text(
        "from onnx_zoo import mlp_inputs\ndef batches():\n    return (mlp_inputs(seed) for seed in range(3))\n"
    )
    return tmp_path


def said(capsys, *argv):
    code = main(["onnx", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_inspect(folder, capsys):
    code, out, _ = said(capsys, "inspect", "m.onnx", "--shape", "x=1,64", "--html", "page.html")
    assert code == 0
    assert out.startswith("not quantized: float32; operator set 17")
    assert "Gemm_logits" in (folder / "page.html").read_text()
    code, out, _ = said(capsys, "inspect", "m.onnx", "--json")
    assert [row["macs"] for row in json.loads(out)["tensors"]] == [64 * 96, 96 * 64, 640]


@pytest.mark.parametrize(
    "data", [["inputs.npz"], ["inputs.npy"], ["zoo_batches:batches"], ["inputs.npz", "inputs.npz"]]
)
def test_quantize_with_data(folder, capsys, data):
    code, out, err = said(capsys, "quantize", "m.onnx", "-o", "q.onnx", "--batch", "4", "--data", *data)
    assert (code, err) == (0, "")
    assert out.startswith("node ")
    assert "reason" in out.splitlines()[0]
    assert out.splitlines()[-1].startswith("q.onnx: ")
    onnx.checker.check_model("q.onnx")


def test_quantize_weights(folder, capsys):
    argv = [*QUANTIZE, "--mode", "weights", "--dtype", "int8", "--exclude", "Gemm*", "--json"]
    code, out, _ = said(capsys, *argv)
    assert code == 0
    rows = {row["node"]: row["form"] for row in json.loads(out)["tensors"]}
    assert rows["Gemm_logits"] == "float" != rows["MatMul_hidden1.product"]
    assert said(capsys, *argv)[0] == 2  # the file exists
    assert said(capsys, *argv, "--force", "--option", "method=minmax")[0] == 0


def test_convert_float(folder, capsys):
    assert said(capsys, "convert-float", "m.onnx", "-o", "h.onnx")[0] == 0
    onnx.checker.check_model("h.onnx")


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (["inspect", "no.onnx"], 3, "no.onnx: No such file or directory."),
        (["inspect", "inputs.npz"], 3, "inspect: model must be the path or the bytes of an ONNX model, or"),
        (["inspect", "m.onnx", "--shape", "x"], 2, "--shape must be NAME=N,N,...; got 'x'."),
        (["inspect", "m.onnx", "--shape", "y=3"], 2, "inspect: shapes must be shapes of the inputs 'x'; got 'y'."),
        (["quantize", "m.onnx", "-o", "q.bin"], 2, "-o must end in .onnx; got 'q.bin'."),
        (["quantize", "m.onnx", "-o", "m.onnx"], 2, "-o must be another file than the input; got 'm.onnx' for both."),
        ([*QUANTIZE, "--mode", "static"], 2, "--data DATA must be given for the mode static."),
        ([*QUANTIZE, "--data", "n.npz"], 2, "--data must be files that exist; got 'n.npz'."),
        ([*QUANTIZE, "--data", "x"], 2, "--data must be .npz files or module:function;"),
        ([*QUANTIZE, "--data", "json:no"], 2, "--data must be module:function; got"),
        ([*QUANTIZE, "--data", "inputs.npz", "--batch", "0"], 2, "--batch must be at least 1; "),
        ([*QUANTIZE, "--data", "inputs.npz", "--option", "a"], 2, "--option must be NAME=VALUE"),
        ([*QUANTIZE, "--data", "inputs.npz", "--option", "no=1"], 2, "quantize_static() got an"),
    ],
)  # fmt: skip
def test_wrong_arguments(folder, capsys, argv, code, sentence):
    got, out, err = said(capsys, *argv)
    assert (got, out) == (code, "")
    assert err.startswith(f"qnumpy onnx: {sentence}")
    assert err.count("\n") == 1
    assert not (folder / "q.onnx").exists()


def test_evaluate_and_compare(folder, capsys):
    data = ["--data", "inputs.npz"]
    assert said(capsys, *QUANTIZE, *data)[0] == 0
    code, out, _ = said(capsys, "evaluate", "q.onnx", *data, "--metric", "sqnr", "--option", "reference=m.onnx")
    assert code == 0
    assert float(out) > 25
    code, out, _ = said(capsys, "compare", "m.onnx", "q.onnx", *data, "--json")
    assert code == 0
    assert any("Gemm_logits" in row.values() for row in json.loads(out)["tensors"])
