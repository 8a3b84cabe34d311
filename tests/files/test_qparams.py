"""Parameters by name in .json files: what save writes and load gives back."""

import json
import re

import numpy as np
import pytest
from refusals import PARAMS as ONE
from refusals import assert_refused, refusals

import qnumpy as qn

PARAMS = {
    "tensor": qn.QParams(0.1, 3, "uint8"),
    "channel": qn.QParams(np.float32([2e-38, 3e38, 0.1]), [1, 0, -1], "int8", qn.PerChannel(-1), -100, 100),
    "group": qn.QParams(np.ones((2, 3)) / 3, 0, "int4", qn.PerGroup(5, 0)),
    "row": qn.QParams(np.ones((2, 3)) / 7, 0, "int8", qn.PerRow()),
    "none": qn.QParams(np.ones(0), 0, "int16", qn.PerChannel(0)),
    "ünï/cödé": qn.QParams(1, 0, "uint2"),
}


def test_a_file_gives_back_what_went_in(tmp_path):
    path = tmp_path / "qparams.json"
    qn.save(path, PARAMS)
    assert qn.load(str(path)) == PARAMS
    assert list(qn.load(path)) == list(PARAMS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qparams.json"]


def test_a_calibration_is_such_a_mapping(tmp_path):
    path = tmp_path / "qparams.json"
    calibration = qn.Calibration().observe("x", np.linspace(-1, 1, 50)).observe("y", np.arange(5.0))
    qn.save(path, PARAMS)
    qn.save(path, calibration)  # replaces
    assert qn.load(path) == dict(calibration)


def test_the_file_is_golden(tmp_path):
    path = tmp_path / "q.json"
    qn.save(path, {"x": qn.QParams(0.5, 3, "uint8")})
    assert path.read_text() == (
        '{\n "format": "qnumpy qparams",\n "version": 1,\n "qparams": {\n  "x": {\n   "dtype": "uint8",\n'
        '   "granularity": {\n    "kind": "tensor"\n   },\n   "scale": 0.5,\n   "zero_point": 3,\n'
        '   "qmin": 0,\n   "qmax": 255\n  }\n }\n}\n'
    )


NOT_OURS = "the file must hold parameters that save wrote, of version 1"


@pytest.mark.parametrize(("text", "message"), [
    ("", "the file is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
    ('{"a"', "the file is not valid JSON: Expecting ':' delimiter: line 1 column 5 (char 4)"),
    ("[]", "the file must be a JSON object; got list"),
    ('{"format": "other", "version": 1, "qparams": {}}', NOT_OURS),
    ('{"format": "qnumpy qparams", "version": 2, "qparams": {}}', NOT_OURS),
])  # fmt: skip
def test_files_of_others(tmp_path, text, message):
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(qn.FileFormatError) as caught:
        qn.load(path)
    assert str(caught.value) == f"{path}: {message}."


KEYS = "dtype, granularity, scale, zero_point, qmin, qmax"


@pytest.mark.parametrize(("change", "message"), [
    ({"scale": -1.0}, "QParams: scale must be positive, finite and normal in float32; got -1.0."),
    ({"scale": "1"}, "QParams: scale must be real; got '1'."),
    ({"scale": [1.0]}, "QParams: scale must have 0 dimensions for PerTensor(); got shape (1,)."),
    ({"zero_point": 300}, "QParams: zero_point must be in [0, 255]; got 300."),
    ({"dtype": "int9"}, "QParams: dtype must be a code type such as 'int8' or 'uint4'; got 'int9'."),
    ({"granularity": None}, "QParams.from_dict: granularity must be what Granularity.to_dict returns; got None."),
    ({"more": 1}, f"QParams.from_dict: values must be a dict with the keys {KEYS}; "
                  "got ['dtype', 'granularity', 'scale', 'zero_point', 'qmin', 'qmax', 'more']."),
])  # fmt: skip
def test_files_that_are_wrong_inside(tmp_path, change, message):
    path = tmp_path / "q.json"
    about = {**qn.QParams(1, 3, "uint8").to_dict(), **change}
    path.write_text(json.dumps({"format": "qnumpy qparams", "version": 1, "qparams": {"w": about}}))
    with pytest.raises(qn.FileFormatError) as caught:
        qn.load(path)
    assert str(caught.value) == f"{path}: tensor 'w': {message}"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="no file was written"):
        qn.save(tmp_path / "missing" / "q.json", PARAMS)
    path = tmp_path / "q.json"
    qn.save(path, PARAMS)
    before = path.read_bytes()
    with pytest.raises(qn.CalibrationError):
        qn.save(path, qn.Calibration().observe("empty", np.zeros(0)))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("arrays", "got"), [
    (3, "3"),
    ([PARAMS["tensor"]], f"[{PARAMS['tensor']}]"),
    ({"x": 0.5}, "'x': 0.5"),
    ({3: PARAMS["tensor"]}, f"3: {PARAMS['tensor']}"),
    ({"x": None}, "'x': None"),
    ({"x": np.ones(3)}, "'x': an array of float64 with shape (3,)"),
])  # fmt: skip
def test_only_parameters_go_into_json(tmp_path, arrays, got):
    want = f"save: arrays must be a mapping of names to QParams for a .json file; got {got}."
    with pytest.raises(TypeError, match=f"^{re.escape(want)}$"):
        qn.save(tmp_path / "q.json", arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_parameters_go_into_json_alone(tmp_path, suffix):
    want = f"save: arrays['x'] must be an array unless path ends in .json; got {PARAMS['tensor']}."
    with pytest.raises(TypeError, match=f"^{re.escape(want)}$"):
        qn.save(tmp_path / f"q.{suffix}", {"x": PARAMS["tensor"]})
    assert list(tmp_path.iterdir()) == []


def test_replaced_parameters_keep_their_permissions(tmp_path):
    path = tmp_path / ("日" * 80 + ".json")
    qn.save(path, {"x": qn.QParams(0.5, 0)})
    path.chmod(0o600)
    qn.save(path, {"x": qn.QParams(0.25, 0)})
    assert path.stat().st_mode & 0o777 == 0o600
    assert qn.load(path)["x"].scale == 0.25
    assert list(tmp_path.iterdir()) == [path]


def save_rows():
    wrong = "save: arrays must be a mapping of names to QParams for a .json file"
    for value in (3, [ONE]):
        yield lambda v=value: qn.save("never.json", v), TypeError, f"{wrong}; got {value!r}"
    for value, got in (({"x": 0.5}, "'x': 0.5"), ({3: ONE}, f"3: {ONE}"), ({"x": None}, "'x': None")):
        yield lambda v=value: qn.save("never.json", v), TypeError, f"{wrong}; got {got}"


@refusals(save_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
