"""No public function leaks an error of NumPy or Python, whatever its arguments are."""

import inspect
import re
import warnings

import numpy as np
import pytest
from wrong_arguments import CALLS, FLAGS, WRONG, function, is_sentence, owner

import qnumpy as qn

ERRORS = (TypeError, ValueError, OverflowError, qn.CalibrationError, qn.UnsupportedISAError)
# Two arguments conflict, and the sentence names the other one.
CONFLICTS = {("matmul", "a"), ("MXArray", "format")}


@pytest.fixture(autouse=True)
def put_back():
    isa, count = qn.isa(), qn.num_threads()
    yield
    qn.set_isa(isa)
    qn.set_num_threads(count)


def bytes_of(value):
    return value.tobytes() if isinstance(value, np.ndarray) and not value.dtype.hasobject else None


def outcome(name, arguments):
    """Call a public function; return None or its error, which is one of those that it documents and one sentence."""
    arguments = dict(arguments)
    if isinstance(arguments.get("out"), np.ndarray):
        arguments["out"] = arguments["out"].copy()
    before = {key: bytes_of(value) for key, value in arguments.items() if key != "out"}
    caught = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # NumPy 2.0 warns where a dtype is asked of an object that has an attribute of this name.
        warnings.filterwarnings("ignore", "in the future the `.dtype` attribute", DeprecationWarning)
        try:
            function(name)(**arguments)
        except ERRORS as error:
            caught = error
    shown = {key: repr(value)[:60] for key, value in arguments.items()}
    if caught is not None:
        assert type(caught) in ERRORS, f"{name}({shown}): {caught!r}"
        assert is_sentence(name, caught), f"{name}({shown}): {caught}"
    for key, old in before.items():
        assert bytes_of(arguments[key]) == old, f"{name}({shown}) modified {key}"
    return caught


@pytest.mark.parametrize("name", CALLS)
def test_one_wrong_argument(name):
    assert outcome(name, CALLS[name]) is None
    users = {"run", "metric", "data"} if name == "tune" else set()  # exceptions of the user's functions pass through
    for parameter in set(CALLS[name]) - users:
        for value in WRONG:
            error = outcome(name, {**CALLS[name], parameter: value})
            if type(error) is TypeError and (name, parameter) not in CONFLICTS:
                subject = str(error).partition(" must")[0]
                assert re.search(rf"\b{parameter}\b", subject), f"{parameter}={value!r}: {error}"


def signatures():
    """Every public function and class, and their parameters."""
    modules = {"": qn, "weights.": qn.weights, "qat.": qn.qat}
    for prefix, module in modules.items():
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and not (isinstance(value, type) and issubclass(value, Exception)):
                yield prefix + name, inspect.signature(value).parameters
    yield "QParams.from_range", inspect.signature(qn.QParams.from_range).parameters


def test_the_table_holds_every_parameter():
    elsewhere = {"Calibration", "calibrate", "load", "observing", "save", "threads"}  # with their own tests
    elsewhere.add("qat.Saved")  # made by fake_quantize alone
    for name, parameters in signatures():
        if name not in elsewhere and parameters:
            assert name in CALLS, name
            left = set(parameters) - set(CALLS[name])
            assert left <= {"xq", "on_nonfinite", "run", "batches", "resume"}, f"{name}: {left}"


def boolean_parameters():
    for name, parameters in signatures():
        for parameter in parameters.values():
            if parameter.annotation in (bool, bool | None):
                yield name, parameter.name


@pytest.mark.parametrize(("name", "parameter"), list(boolean_parameters()))
@pytest.mark.parametrize("value", ["False", "", 1, 0, 1.0, np.int8(1), np.array(True), [True], b"no"])
def test_a_flag_is_true_or_false(name, parameter, value):
    """A text such as "False" would count as True."""
    assert parameter in FLAGS
    right = {"run": lambda x: None, "batches": []} if name == "calibrate" else CALLS[name]
    with pytest.raises(TypeError, match=rf"^{owner(name)}: {parameter} must be True or False; got "):
        function(name)(**{**right, parameter: value})


@pytest.mark.parametrize(("name", "parameter"), list(boolean_parameters()))
def test_a_flag_of_numpy_is_a_flag(name, parameter):
    if name != "calibrate":
        for value in (True, False, np.True_, np.False_):
            error = outcome(name, {**CALLS[name], parameter: value})
            assert error is None or type(error) is ValueError


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_arguments(seed):
    """10,000 calls, each with one to four arguments that are right for another parameter or wrong for all."""
    rng = np.random.default_rng(seed)
    right = [value for arguments in CALLS.values() for value in arguments.values()]
    names = list(CALLS)
    for _ in range(10_000):
        name = names[rng.integers(len(names))]
        arguments = dict(CALLS[name])
        for _ in range(rng.integers(1, 5)):
            values = WRONG if rng.random() < 0.5 else right
            arguments[list(arguments)[rng.integers(len(arguments))]] = values[rng.integers(len(values))]
        outcome(name, arguments)
