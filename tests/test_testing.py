"""The twins: each has the parameters of its original, and a test uses it."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import ops
from qnumpy import testing as twin
from qnumpy.dtypes import float_type

TESTS = Path(__file__).parent
FUNCTIONS = [name for name in twin.__all__ if inspect.isfunction(getattr(twin, name))]
TWINS = [name for name in FUNCTIONS if not name.startswith("assert_")]
RESULTS = [name for name in twin.__all__ if inspect.isclass(getattr(twin, name))]

# Twins without an original.
ALONE = {
    "matmul_floats": "a method of PackedFloat, which holds the weight",
    "matmul_offsets": "a method of PackedGroups, which holds the weight",
    "spread": "how parameters reach the elements; kernels read them through a grid",
    "histogram": "Sketch.of reads an array once for everything that a sketch holds",
    "entropy_bin": "a step of the search by entropy, inside the kernel",
}


def originals():
    """Public functions, and the functions of ops by name."""
    stems = (path.stem for path in Path(ops.__file__).parent.glob("[!_]*.py"))
    modules = [importlib.import_module(f"qnumpy.ops.{stem}") for stem in stems]
    inner = {name: value for module in modules for name, value in vars(module).items() if name[0] != "_"}
    return inner | {name: value for name, value in vars(qn).items() if inspect.isfunction(value)}


ORIGINALS = originals()


def parameters(function):
    """Name, kind and default of what the twin takes too."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters if p.name not in ("owner", "out")]


@pytest.mark.parametrize("name", sorted(set(TWINS) - set(ALONE)))
def test_a_twin_takes_what_its_original_takes(name):
    assert parameters(getattr(twin, name)) == parameters(ORIGINALS[name])


@pytest.mark.parametrize("name", RESULTS)
def test_results_have_the_fields_of_the_originals(name):
    assert getattr(twin, name)._fields == ORIGINALS[name]._fields


X = np.linspace(-2, 2, 24).reshape(2, 3, 4)
CODES = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
PARAMS = qn.QParams(0.25, 3)
CALLS = {
    "accumulate_dot": ([X.astype(np.float16), np.ones(4, np.float16)], {}),
    "cast": ([X, "float8_e4m3fn"], {"overflow": "saturate", "rounding": "stochastic", "seed": 3}),
    "codes_of": ([X, PARAMS], {}),
    "conv2d_integer": ([CODES.reshape(1, 1, 4, 6), CODES.reshape(2, 1, 3, 4)], {"padding": 1}),
    "dequantize_linear": ([CODES, 0.5, 2], {"dtype": "float64"}),
    "dynamic_quantize_linear": ([X], {}),
    "fake_quantize": ([X, PARAMS], {"convention": "tflite"}),
    "float_error": ([X, float_type("float64"), float_type("float16")], {}),
    "matmul_integer": ([CODES, CODES.T, [1, 2, 3, 4], 5], {}),
    "min_max": ([X, qn.PerRow()], {"on_nonfinite": "raise"}),
    "pack": ([CODES % 4, "uint2", 0], {}),
    "qmatmul": ([qn.quantize(X[0]), qn.quantize(X[0].T, granularity=qn.PerChannel(1))], {"bias": [1.0, 2.0, 3.0]}),
    "quantization_gradients": ([X.astype(np.float32), X.astype(np.float16), PARAMS, "guide"], {}),
    "quantize_blocks": ([X, *map(float_type, ("float64", "float4_e2m1fn", "float8_e8m0fnu")), 3], {}),
    "quantize_linear": ([X, [0.5, 0.25, 1], np.array([1, 2, 3], np.int8)], {"axis": 1, "on_nan": "raise"}),
    "ranges": ([X, qn.PerRow()], {}),
    "requantize": ([CODES.astype(np.int32), 0.3, 4], {"dtype": "uint8", "method": "fixed"}),
    "saturated_matmul": ([CODES, CODES.T], {}),
    "split_multiplier": ([np.array([0.3, 5.0])], {}),
    "unpack": ([CODES.view(np.uint8), "int4", 11], {}),
}


@pytest.mark.parametrize("name", sorted(set(TWINS) - set(ALONE)))
def test_a_twin_returns_the_type_of_its_original(name):
    """And the same numbers; the tests of the functions compare both over the grids."""
    arguments, options = CALLS[name]
    original = ORIGINALS[name]
    owner = ["test"] if "owner" in inspect.signature(original).parameters else []
    got, want = getattr(twin, name)(*arguments, **options), original(*owner, *arguments, **options)
    assert isinstance(got, tuple) == isinstance(want, tuple)
    for g, w in zip(got if isinstance(got, tuple) else [got], want if isinstance(want, tuple) else [want], strict=True):
        assert type(g) is type(w)
        assert getattr(g, "dtype", None) == getattr(w, "dtype", None)
        np.testing.assert_allclose(np.asarray(g).astype(float), np.asarray(w).astype(float))


@pytest.mark.parametrize("name", TWINS)
def test_every_twin_is_used(name):
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py") if path != Path(__file__)]
    assert any(re.search(rf"\b(twin|testing)\.{name}\(|testing import .*\b{name}\b", text) for text in texts)


def test_twins_import_the_vocabulary_alone():
    """The layers in pyproject.toml say what testing may not import; this says what it does."""
    twins = {"_common", "elements", "floats", "gradients", "grid_search", "products", "statistics"}
    allowed = {"_typing", "dtypes", "granularity", "qparams"}
    more = {"__init__": twins | {"assertions"}, "assertions": {"_check", "_common"}}
    for path in Path(twin.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level}
        assert imported <= allowed | more.get(path.stem, twins), path.name
