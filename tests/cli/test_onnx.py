"""``qnumpy onnx``."""

import json

import numpy as np
import pytest

from qnumpy.cli import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_zoo import mlp, mlp_inputs  # noqa: E402

QUANTIZE = ["quantize", "m.onnx", "-o", "q.onnx"]
TUNE = ["tune", "m.onnx", "-o", "q.onnx", "--data", "inputs.npz", "--metric", "sqnr"]
MODULE = """
from onnx_zoo import mlp_inputs

def batches():
    return (mlp_inputs(seed) for seed in range(3))

def nothing():
    return []

def number():
    return 3

def lost():
    yield mlp_inputs()
    raise KeyError("file 2")

def wrong():
    return [{"y": mlp_inputs()["x"]}]

def fails(outputs):
    return 1 / 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, data in a file, and a module that returns data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "m.onnx")
    np.savez("inputs.npz", **mlp_inputs(batch=12))
    np.save("inputs.npy", mlp_inputs(batch=12)["x"])
    (tmp_path / "zoo_batches.py").write_text(MODULE)
    for name in ("text.npy", "text.npz", "text.onnx"):
        (tmp_path / name).write_text("a text")
    for name in ("empty.npy", "empty.onnx"):
        (tmp_path / name).touch()
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
        ([*QUANTIZE, "--option", "output=a.onnx"], 2, "--option must be another argument than output; "),
        ([*QUANTIZE, "--data", "text.npy"], 3, "--data must be .npy files without objects; got 'text.npy': "),
        ([*QUANTIZE, "--data", "empty.npy"], 3, "--data must be .npy files without objects; got 'empty.npy': "),
        ([*QUANTIZE, "--data", "text.npz"], 3, "text.npz: this is no npz archive"),
        ([*QUANTIZE, "--data", "zoo_batches:nothing"], 2, "quantize_static: data must be one batch or more; got none."),
        ([*QUANTIZE, "--data", "zoo_batches:number"], 2, "--data zoo_batches:number must return an iterable"),
        ([*QUANTIZE, "--data", "zoo_batches:lost"], 2, "--data zoo_batches:lost raised KeyError: "),
        ([*QUANTIZE, "--data", "zoo_batches:wrong"], 2, "quantize_static: data (batch 0) must be a mapping"),
        ([*TUNE], 2, "tune: max_drop and min_score must be one number and one None; got neither."),
        ([*TUNE, "--min-score", "9", "--budget", "soon"], 2, "tune: budget must be a number of trials,"),
        ([*TUNE, "--min-score", "9", "--resume", "m.onnx"], 3, "tune: resume must be a file that an earlier search"),
        ([*TUNE[:-1], "zoo_batches:fails", "--max-drop", "1"], 2, "--metric zoo_batches:fails raised Zero"),
        (["tune", "m.onnx", "-o", "no/q.onnx", *TUNE[4:], "--min-score", "9"], 3, "no: No such file or directory."),
        (["evaluate", "text.onnx", *TUNE[4:], "--option", "reference=m.onnx"], 3, "evaluate: model must be"),
        (["compare", "m.onnx", "empty.onnx", "--data", "inputs.npz"], 3, "compare: model must be the path"),
        (["convert-float", "text.onnx", "-o", "q.onnx"], 3, "convert_float: model must be the path or the bytes of"),
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


def test_tune_goes_on_from_a_file(folder, capsys):
    argv = [*TUNE, "--min-score", "20", "--objective", "size", "--resume", "r.json", "--json"]
    assert said(capsys, *argv, "--budget", "2")[0] == 0
    assert len(json.loads((folder / "r.json").read_text())["trials"]) == 2
    code, out, _ = said(capsys, *argv, "--budget", "5", "--force")
    found = json.loads(out)
    assert (code, found["met"], len(found["tensors"])) == (0, True, 5)
    assert (folder / "q.onnx").stat().st_size == found["best"]["nbytes"]


WRITING = {
    "quantize": QUANTIZE, "static": [*QUANTIZE, "--data", "inputs.npz"], "weights": [*QUANTIZE, "--mode", "weights"],
    "tune": [*TUNE, "--min-score", "9", "--budget", "2"], "convert-float": ["convert-float", "m.onnx", "-o", "q.onnx"],
    "inspect": ["inspect", "m.onnx", "--html", "q.html"],
}  # fmt: skip


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 3)])
def test_trouble_leaves_nothing(folder, capsys, monkeypatch, name, error, code):
    def replace(*_, **__):
        raise error

    before = sorted(folder.iterdir())
    monkeypatch.setattr("os.fsync", replace)
    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr("os.link", replace)
    got, out, err = said(capsys, *WRITING[name])
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
