"""Where things are, what may import what, and what the package shows of itself.

The order of the modules is a contract of import-linter in pyproject.toml (``lint-imports``). Here stands what it cannot
see: the compiled module, the two floors of C, what an import loads, the places of files, and the public names.
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
from qnumpy import _core

PACKAGE = Path(qn.__file__).parent
ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MODULES = sorted(module.name for module in pkgutil.walk_packages(qn.__path__, "qnumpy.") if "._" not in module.name)

# Beside ops/, these import the extension: for its lists of types, its checks of arguments and its settings.
VOCABULARY = {"_args.py", "_check.py", "dtypes.py", "runtime.py"}

# Modules whose tests do not stand in tests/<folder>/test_<module>.py, and where they are.
TESTED_IN = {
    "arrays/base.py": "tests/arrays/test_quantized.py",  # what all arrays share
    "calibration/report.py": "tests/calibration/test_calibrate.py",  # the report of a Calibration
    "cli/common.py": "tests/cli/test_main.py",  # arguments and files of all commands
    "cli/scheme.py": "tests/cli/test_quantize.py",  # the options that say how to quantize
    "files/fault.py": "tests/files/test_spec.py",  # the sentences of the other modules' errors
    "ops/choose.py": "tests/ops/test_histogram.py",  # the choices by a histogram; test_qparams.py has those by a range
    "reports/advice.py": "tests/reports/test_compare.py",  # the advice of a Report
}

# Functions of the extension that the package does not call.
CALLED_BY_TESTS = {
    "entropy_bin",  # the search calls it in C; the tests compare each of its divergences with the published steps
}

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


# ---- the places of files ----


@pytest.mark.parametrize("stem", sorted(path.stem.removeprefix("bind_") for path in CSRC.glob("ext/bind_*.c")))
def test_a_stem_names_the_same_thing_on_every_floor(stem):
    if stem == "runtime":
        assert (PACKAGE / "runtime.py").exists()
    else:
        assert (PACKAGE / "ops" / f"{stem}.py").exists()
        assert (ROOT / "tests" / "ops" / f"test_{stem}.py").exists()


@pytest.mark.parametrize("folder", ["ops", "arrays", "observers", "reports", "weights", "calibration", "files", "cli"])
def test_tests_mirror_the_package(folder):
    for module in (PACKAGE / folder).glob("[!_]*.py"):
        tests = TESTED_IN.get(f"{folder}/{module.name}", f"tests/{folder}/test_{module.name}")
        assert (ROOT / tests).exists(), f"{folder}/{module.name}"


def tree():
    """The paths that CONTRIBUTING's tree names: an entry stands two spaces to the right of its folder."""
    block = re.search(r"^## The tree\n.*?^```\w*\n(.*?)^```", CONTRIBUTING.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines, folders, paths = block[1].splitlines(), [], []
    for line in lines:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        paths.append("".join(folders).rstrip("/"))
    return lines, paths


def folders_of(place):
    found = (path for path in (ROOT / place).iterdir() if path.is_dir() and path.name[0] not in "._")
    return {path.relative_to(ROOT).as_posix() for path in found if path.name != "build"}


def test_the_tree_in_contributing_is_short_and_true():
    lines, paths = tree()
    assert len(lines) <= 60
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) == len(set(paths))
    mirrored = {
        path.replace("qnumpy/", f"{copy}/", 1) for path in folders_of("qnumpy") for copy in ("tests", "benchmarks")
    }
    for place in ("csrc", "csrc/kernels", "qnumpy", "tests", "benchmarks", "docs"):
        assert folders_of(place) - mirrored <= set(paths), place


def test_every_module_beside_the_folders_is_in_the_tree():
    _, paths = tree()
    assert {f"qnumpy/{path.name}" for path in PACKAGE.glob("*.py*")} <= set(paths)


def test_every_function_of_the_extension_is_used():
    functions = {name for name, value in vars(_core).items() if inspect.isbuiltin(value)}
    used = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_core":
                used.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and node.module == "_core":
                used |= {name.name for name in node.names}
    assert functions - used == CALLED_BY_TESTS


# ---- floors of C and public names ----


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
