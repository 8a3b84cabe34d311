"""Every example in a docstring runs and prints its output; lists of types in docstrings are those of the tables."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import qnumpy as qn
from qnumpy._check import alternatives
from qnumpy.dtypes import CODE_TYPES, FLOAT_TYPES, INTEGER_TYPES

OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "torch", "torchao", "dask", "matplotlib"}


def modules():
    yield "qnumpy"
    for module_info in pkgutil.walk_packages(qn.__path__, "qnumpy."):
        if not module_info.name.endswith("__main__"):
            yield module_info.name


def load(name):
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        if missing.name is not None and missing.name.partition(".")[0] in OPTIONAL:
            pytest.skip(f"{missing.name} is not installed")
        raise


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.peers] * ("torch" in name)) for name in modules()]
)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    module = load(name)
    if name in ("qnumpy.qat.autograd", "qnumpy.qat.jax"):  # they load without the package, their functions need it
        pytest.importorskip(name.rpartition(".")[2])
    names = {"np": np, "qn": qn} | {public: getattr(qn, public) for public in qn.__all__} | vars(module)
    failures = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=names):
        printed = []
        if doctest.DocTestRunner(verbose=False).run(test, out=printed.append).failed:
            failures.append("".join(printed))
    assert not failures, "\n".join(failures)


def test_examples_are_found():
    count = sum(
        len(test.examples) for test in doctest.DocTestFinder().find(importlib.import_module("qnumpy.ops.quantize"))
    )
    assert count >= 5  # one for each public function: a finder that sees nothing would pass everything


NARROW = [name for name, code in INTEGER_TYPES.items() if code.bits < 8]


@pytest.mark.parametrize(("function", "types"), [
    (qn.quantize_linear, CODE_TYPES),
    (qn.QParams, CODE_TYPES),
    (qn.pack, NARROW),
    (qn.unpack, NARROW),
    (qn.cast, FLOAT_TYPES),
], ids=["quantize_linear", "QParams", "pack", "unpack", "cast"])  # fmt: skip
def test_docstrings_list_every_type(function, types):
    assert f" {alternatives(types)}." in " ".join(inspect.getdoc(function).split())


PACKAGES = ("", "reports", "observers", "weights", "search", "qat", "plot", "testing", "dask", "onnx")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_reference_has_every_public_name_with_an_example(name):
    """An entry of autosummary becomes a page; the example stands in the docstring, or in one of a method."""
    module = load(f"qnumpy.{name}".strip("."))
    reference = Path(__file__).parents[1] / "docs" / "reference" / f"{name or 'qnumpy'}.md"
    listed = re.findall(r"^   ([\w.]+)$", reference.read_text(encoding="utf-8"), re.MULTILINE)
    public = {
        public
        for public in module.__all__
        if not inspect.ismodule(getattr(module, public)) and not (name == "observers" and public in qn.__all__)
    }
    assert len(listed) == len(set(listed))
    assert {entry for entry in listed if "." not in entry} == public
    for public_name in public:
        value = getattr(module, public_name)
        if inspect.isroutine(value) or inspect.isclass(value):
            members = list(vars(value).values()) if inspect.isclass(value) else []
            assert any(">>> " in (inspect.getdoc(part) or "") for part in (value, *members)), public_name
