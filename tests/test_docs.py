"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import qnumpy as qn

OPTIONAL = {"onnx", "onnxruntime", "torch", "dask", "matplotlib"}


def modules():
    yield "qnumpy"
    for found in pkgutil.walk_packages(qn.__path__, "qnumpy."):
        if not found.name.endswith("__main__"):
            yield found.name


def load(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.partition(".")[0] in OPTIONAL:
            pytest.skip(f"{missing.name} is not installed")
        raise


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    module = load(name)
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
