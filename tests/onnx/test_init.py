"""The package of ONNX models loads what it needs when it is used."""

import subprocess
import sys

import pytest

import qnumpy as qn


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_sentence(package):
    script = f"""
import sys, qnumpy as qn
sys.modules[{package!r}] = None  # as if it were not installed
import qnumpy.onnx
print(dir(qn.onnx) == sorted(qn.onnx.__all__), "onnx" in sys.modules and sys.modules["onnx"] is not None)
try:
    qn.onnx.session
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True False",
        f"qnumpy.onnx.session: {package} must be installed: pip install 'qnumpy[onnx]'.",
    ]


def test_names():
    for name in qn.onnx.__all__:
        assert callable(getattr(qn.onnx, name)), name
    with pytest.raises(AttributeError, match=r"^module 'qnumpy\.onnx' has no attribute 'nothing'$"):
        qn.onnx.nothing  # noqa: B018


def test_functions_hide_the_modules_of_their_name():
    script = """
import qnumpy.onnx.session, qnumpy.onnx.inspect
import qnumpy as qn
print(type(qn.onnx.session).__name__, type(qn.onnx.inspect).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "function function\n"
