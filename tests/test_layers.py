"""What may import what, and what the package shows of itself.

The order of the modules is a contract of import-linter in pyproject.toml (``lint-imports``). Here stands what it cannot
see: the compiled module, the two floors of C, what an import loads, and the public names.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qnumpy as qn

PACKAGE = Path(qn.__file__).parent
CSRC = Path(__file__).parents[1] / "csrc"
MODULES = sorted(module.name for module in pkgutil.walk_packages(qn.__path__, "qnumpy.") if "._" not in module.name)

# Beside ops/, these import the extension: for its lists of types, its checks of arguments and its settings.
VOCABULARY = {"_args.py", "_check.py", "dtypes.py", "runtime.py"}

# Standard modules that cost more than a millisecond or belong to programs, not to libraries.
HEAVY = {"argparse", "asyncio", "concurrent", "ctypes", "doctest", "email", "http", "logging", "multiprocessing"}
HEAVY |= {"pickle", "sqlite3", "ssl", "subprocess", "tempfile", "unittest", "xml"}


def loaded_by(statement):
    """The modules that a statement adds to those of ``import numpy.typing, ml_dtypes``, in a fresh interpreter."""
    script = "import sys, numpy.typing, ml_dtypes; before = set(sys.modules); "
    script += f"{statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_but_itself_and_the_standard_library():
    added = loaded_by("import qnumpy")
    top = {name.partition(".")[0] for name in added}
    assert "qnumpy" in top
    assert top - set(sys.stdlib_module_names) == {"qnumpy"}
    assert not top & HEAVY
    assert not added & {"qnumpy.cli", "qnumpy.cli.demo", "qnumpy.testing"}


@pytest.mark.parametrize("module", ["qnumpy.cli", "qnumpy.testing"])
def test_other_modules_wait_for_their_dependencies(module):
    """tqdm and the extras are imported by the function that needs them."""
    top = {name.partition(".")[0] for name in loaded_by(f"import {module}")}
    assert top - set(sys.stdlib_module_names) == {"qnumpy"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_ops_computes_with_the_extension(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    place = path.relative_to(PACKAGE).as_posix()
    if place not in VOCABULARY and not place.startswith("ops/"):
        assert not [node.lineno for node in imports if "_core" in {name.name for name in node.names}]


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.[ch]")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_c_floors(path):
    """kernels/ knows no Python, ext/ no arithmetic; tests/ know the kernels alone."""
    included = set(re.findall(r'^#include ["<](\S+)[">]', path.read_text(encoding="utf-8"), re.MULTILINE))
    intrinsics = {name for name in included if re.search(r"immintrin|arm_neon|simde", name)}
    python = {name for name in included if re.search(r"Python\.h|numpy/|args\.h|bindings\.h", name)}
    if path.parent.name == "ext":
        assert not intrinsics
        assert not {name for name in included if name.endswith("_body.h")} | included & {"bodies.h", "math.h"}
    else:
        assert not python


def test_public_names():
    """Complete and unique; ruff keeps them sorted. Two modules hold what few need."""
    shown = [name for name, value in vars(qn).items() if not name.startswith("_") and not inspect.ismodule(value)]
    assert sorted(qn.__all__) == sorted([*shown, "reports", "weights"])
    assert len(qn.__all__) <= 55


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_public(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert all(hasattr(module, public) for public in module.__all__)


PUBLIC = {
    (module.__name__, name): getattr(module, name) for module in (qn, qn.reports, qn.weights) for name in module.__all__
}
FUNCTIONS = {".".join(names): value for names, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {".".join(names): value for names, value in PUBLIC.items() if inspect.isclass(value)}


def sections(text):
    """Map the headings of a numpydoc docstring to their text; the first is ""."""
    parts = re.split(r"^(\w+)\n-+$", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_of_functions(name):
    """Every parameter and the result are described, and an example shows them; what takes nothing needs only a line."""
    function = FUNCTIONS[name]
    doc = sections(inspect.getdoc(function))
    assert re.match(r"[A-Z][^\n]*[.:]", doc[""]), "an imperative summary"
    signature = inspect.signature(function)
    listed = re.findall(r"^(\w[\w, ]*?)(?: :.*)?$", doc.get("Parameters", ""), re.MULTILINE)
    described = [each for line in listed for each in line.split(", ")]
    assert described == list(signature.parameters)
    if signature.parameters and signature.return_annotation is not None and name != "qnumpy.threads":
        assert "Returns" in doc
        assert "Examples" in doc or name == "qnumpy.load"  # its example stands with save


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_of_classes(name):
    """A summary, and one for every public method; properties may speak by their names."""
    kind = CLASSES[name]
    assert inspect.getdoc(kind)
    for member, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not member.startswith("_") and inspect.isfunction(function):
            assert inspect.getdoc(getattr(kind, member)), member
