"""No function of qnumpy.onnx leaks an error of NumPy, onnx or onnxruntime, whatever its arguments are."""

import inspect
import warnings

import numpy as np
import pytest
from wrong_arguments import WRONG, Broken, function, is_sentence, onnx_calls

import qnumpy as qn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CALLS = onnx_calls()
ERRORS = (TypeError, ValueError, qn.CalibrationError)
SEVENTH = 7  # of the values: all of them would take minutes


def outcome(name, arguments):
    """Call a function; return None or its error, which is one sentence. The model stays as it is."""
    model = arguments["model"]
    caught = None
    before = model.SerializeToString() if hasattr(model, "SerializeToString") else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            function(name)(**arguments)
        except ERRORS as error:
            caught = error
        except OSError:  # a text is a path
            pass
    assert before is None or model.SerializeToString() == before
    owners = (name.removeprefix("onnx."), "HistogramObserver")  # of percentile
    assert caught is None or any(is_sentence(owner, caught) for owner in owners), f"{name}: {caught!r}"
    return caught


@pytest.mark.parametrize("name", CALLS)
def test_one_wrong_argument(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text may name an output
    right = CALLS[name]
    assert outcome(name, right) is None
    for k, parameter in enumerate(right):
        for value in WRONG[k % SEVENTH :: SEVENTH]:
            if not _is_of_users(parameter, value):
                outcome(name, {**right, parameter: value})


def _is_of_users(parameter, value):
    """Whether a value raises by itself, which passes through."""
    inside = value if isinstance(value, list) else [value]
    return any(isinstance(each, Broken) for each in inside) or (parameter == "metric" and callable(value))


def test_the_table_holds_every_parameter():
    for name in qn.onnx.__all__:
        parameters = set(inspect.signature(getattr(qn.onnx, name)).parameters)
        if parameters:
            assert parameters - set(CALLS[f"onnx.{name}"]) <= {"options"}, name


@pytest.mark.parametrize("name", [name for name, right in CALLS.items() if "data" in right])
def test_data_stay_as_they_are(name):
    """Also where batches are mappings, or read-only."""
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    data = [{"x": x}]
    options = {"include": ["*"]} if "include" in CALLS[name] else {}
    assert outcome(name, {**CALLS[name], "data": data, **options}) is None
    assert list(data[0]) == ["x"]
    np.testing.assert_array_equal(data[0]["x"], before)
