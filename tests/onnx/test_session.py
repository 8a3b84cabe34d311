"""Sessions and their batches."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx_zoo import MODELS, branches, mlp, mlp_inputs, transformer

from qnumpy.errors import FileFormatError
from qnumpy.onnx import session
from qnumpy.onnx._report import Change, attach
from qnumpy.onnx.session import run_batches


def one(engine, item):
    return next(run_batches("f", engine, [item]))


@pytest.mark.parametrize("name", MODELS)
def test_batches(name):
    build, inputs = MODELS[name]
    model, data = build(), [inputs(seed) for seed in range(3)]
    plain = ort.InferenceSession(model.SerializeToString())
    names = [value.name for value in plain.get_outputs()]
    for feed, results in zip(data, run_batches("f", session(model, threads=1), iter(data)), strict=True):
        assert list(results) == names
        for y, expected in zip(results.values(), plain.run(names, feed), strict=True):
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_an_array_feeds_a_model_of_one_input():
    engine, x = session(mlp()), mlp_inputs()["x"]
    expected = one(engine, {"x": x})["logits"]
    for item in (x, x.tolist(), np.asfortranarray(x), x[::-1][::-1]):
        np.testing.assert_array_equal(one(engine, item)["logits"], expected)


def test_sources(tmp_path):
    model, path = mlp(), tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (model, path, str(path), path.read_bytes()):
        assert one(session(source), mlp_inputs())["logits"].shape == (8, 10)


def test_wrong_batches():
    engine, x = session(mlp()), mlp_inputs()["x"]
    wanted = r"^f: data must be an iterable of batches: of \{input name: array\}, or of arrays for a model of one "
    for data, got in (({"x": x}, r"input; got .* Put it into a list\.$"), (x, r" Put it into a list\.$"), (3, "got 3")):
        with pytest.raises(TypeError, match=wanted + ".*" + got):
            list(run_batches("f", engine, data))
    with pytest.raises(
        ValueError, match=r"^f: data \(batch 0\) must be a mapping of the inputs 'x'; got the name 'y'\.$"
    ):
        one(engine, {"y": x})
    with pytest.raises(
        ValueError, match=r"^f: data \(batch 0\) must be a mapping of the inputs 'x'; got none for 'x'\.$"
    ):
        one(engine, {})
    with pytest.raises(
        TypeError,
        match=r"^f: data \(batch 0\): 'x' must be of dtype float32; got dtype float64\. Use x\.astype\('float32'",
    ):
        one(engine, x.astype(np.float64))
    with pytest.raises(
        ValueError, match=r"^f: data \(batch 0\): 'x' must be of shape \(batch, 64\); got shape \(8, 63\)\.$"
    ):
        one(engine, x[:, 1:])
    with pytest.raises(
        ValueError, match=r"^f: data \(batch 0\): 'x' must be of shape \(batch, 64\); got shape \(64,\)\.$"
    ):
        one(engine, x[0])
    with pytest.raises(TypeError, match=r"^f: data \(batch 0\) must be a mapping of the inputs 'x', 'choice'; got an"):
        one(session(branches()), np.ones((2, 48), np.float32))
    ids = {"ids": np.full((1, 4), 1000), "mask": np.ones((1, 4), np.int64)}
    with pytest.raises(
        ValueError, match=r"^f: data must be batches that the model can run; got batch 0, at which ONNX"
    ):
        one(session(transformer()), ids)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"^session: threads must be at least 1; got 0\.$"):
        session(mlp(), threads=0)
    with pytest.raises(TypeError, match=r"^session: threads must be an integer; got 1\.5\.$"):
        session(mlp(), threads=1.5)
    with pytest.raises(TypeError, match=r"^session: options must be an onnxruntime\.SessionOptions; got 3\.$"):
        session(mlp(), options=3)
    broken = mlp()
    broken.graph.node[0].op_type = "Nothing"
    with pytest.raises(FileFormatError, match=r"^session: model must be one that ONNX Runtime loads; got "):
        session(broken)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff\xff")
    with pytest.raises(FileFormatError, match=r"^session: model must be the path or the bytes of an ONNX model"):
        session(path)
    with pytest.raises(FileNotFoundError):
        session(tmp_path / "nothing.onnx")


def test_the_report_sets_the_options_of_a_session():
    model = mlp()
    options = ort.SessionOptions()
    session(model, options=options)
    key = "session.qdq_matmulnbits_accuracy_level"
    with pytest.raises(RuntimeError):
        options.get_session_config_entry(key)
    attach(model, [Change("n", "MatMul", "QDQ", "int4", "r", 4, 1, None)], function="quantize_weights")
    session(model, options=options, threads=2)
    assert options.get_session_config_entry(key) == "0"
    assert options.get_session_config_entry("qnumpy.threads") == "2"
    assert options.intra_op_num_threads == 2
