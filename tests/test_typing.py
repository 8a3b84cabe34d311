"""Types of the public functions, as a type checker sees them."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qnumpy as qn

REVEAL = Path(__file__).parent / "typing" / "reveal.py"
ROOT = REVEAL.parents[2]


def mypy(tmp_path, *arguments):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent"]
    done = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_ide_shows_the_types_of_results(tmp_path):
    mypy(tmp_path, REVEAL)


def documented():
    """The programs of README and of every docstring, which see the names of their module."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    yield "README", "".join(blocks)
    for info in pkgutil.walk_packages(qn.__path__, "qnumpy."):
        if (
            "._" in info.name
            or info.name.startswith("qnumpy.torch")
            or info.name.endswith("__main__")
            or re.search(r"\.testing\.(?!assertions)", info.name)
        ):
            continue
        module = importlib.import_module(info.name)
        names = [name for name in vars(module) if not name.startswith("_") and name != "Any"]
        others = [name for name in qn.__all__ if name not in names]
        header = f"from qnumpy import {', '.join(others)}\nfrom {info.name} import {', '.join(names)}\n"
        for test in doctest.DocTestFinder().find(module):
            calls = "".join(example.source for example in test.examples if not example.exc_msg)
            if calls:
                yield test.name, header + calls


def test_a_type_checker_accepts_the_documented_calls(tmp_path):
    """Not what is done with results that may be None or of several classes: a program asks which it got."""
    pytest.importorskip("dask")
    programs = tmp_path / "programs"
    programs.mkdir()
    for k, (name, text) in enumerate(documented()):
        header = f"# {name}\nimport numpy as np\nimport qnumpy as qn\n"
        (programs / f"program{k}.py").write_text(header + text, "utf-8")
    assert len(list(programs.iterdir())) > 60
    mypy(
        tmp_path,
        "--disable-error-code=union-attr",
        "--implicit-reexport",
        "--allow-untyped-defs",
        "--allow-untyped-calls",
        programs,
    )
