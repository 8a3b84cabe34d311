"""The places of files, imports, and public names.

The layers of the modules are a contract of import-linter in pyproject.toml (``lint-imports``). These tests check the
rest: the compiled module, the two floors of C, the modules that an import loads, the tree, and public names.
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

# Only these and ops/ import the extension: these for its lists of types, its checks of arguments and its settings, and
# to say that it is missing.
VOCABULARY = {"__init__.py", "_args.py", "_check.py", "_packing.py", "dtypes.py", "runtime.py"}

# Modules whose tests are not in tests/<folder>/test_<module>.py, and the files that have them.
TESTED_IN = {
    "calibration/report.py": "tests/calibration/test_calibrate.py",  # the report of a Calibration
    "cli/common.py": "tests/cli/test_main.py",  # arguments and files of all commands
    "cli/digits.py": "tests/cli/test_demo.py",  # its model
    "cli/scheme.py": "tests/cli/test_quantize.py",  # the options of how to quantize
    "cli/selection.py": "tests/cli/test_quantize.py",  # which tensors
    "cli/streams.py": "tests/cli/test_main.py",  # standard output and standard error of all commands
    "files/fault.py": "tests/files/test_spec.py",  # the sentences of the other modules' errors
    "observers/tap.py": "tests/calibration/test_calibrate.py",  # what listens is a calibration there
    "ops/choose.py": "tests/ops/test_histogram.py",  # the choices by a histogram; test_qparams.py has those by a range
    "ops/moments.py": "tests/observers/test_moments.py",  # the state of the observer
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
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


def test_import_loads_nothing_but_itself_and_the_standard_library():
    added = loaded_by("import qnumpy")
    top = {name.partition(".")[0] for name in added}
    assert "qnumpy" in top
    assert top - set(sys.stdlib_module_names) == {"qnumpy"}
    assert not top & HEAVY
    assert not added & {"qnumpy.cli", "qnumpy.cli.demo", "qnumpy.testing"}


LAZY = {"dask", "onnx", "plot", "qat", "search", "testing", "torch"}


def test_dir_shows_the_public_names_alone():
    assert set(dir(qn)) == {*qn.__all__, *LAZY, "__version__"}
    for name in dir(qn):
        assert name == "dask" or hasattr(qn, name)  # dask is an extra
    star = {}
    exec("from qnumpy import *", star)
    assert set(star) - {"__builtins__"} == set(qn.__all__)
    with pytest.raises(AttributeError, match=r"^module 'qnumpy' has no attribute 'quantise'$"):
        qn.quantise  # noqa: B018
    assert not hasattr(qn, "__wrapped__")


def test_modules_load_when_they_are_used():
    script = """
import sys, qnumpy as qn
loaded = lambda: sorted(name for name in ("qnumpy.dask", "qnumpy.plot", "qnumpy.testing") if name in sys.modules)
dir(qn), hasattr(qn, "nothing")
print(loaded())
print(qn.testing.assert_quantized_equal.__name__, qn.plot.histogram.__name__, loaded())
sys.modules["dask"] = None  # as if it were not installed
try:
    qn.dask
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "assert_quantized_equal histogram ['qnumpy.plot', 'qnumpy.testing']",
        "qnumpy.dask: dask must be installed: pip install 'qnumpy[dask]'.",
    ]


def test_dask_needs_no_import_of_its_own():
    pytest.importorskip("dask")
    script = "import qnumpy as qn; print(qn.dask.observe.__module__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "qnumpy.dask.reduction\n"


@pytest.mark.parametrize("module", ["qnumpy.cli", "qnumpy.onnx", "qnumpy.testing", "qnumpy.torch"])
def test_other_modules_wait_for_their_dependencies(module):
    """The function that needs tqdm or an extra imports it."""
    top = {name.partition(".")[0] for name in loaded_by(f"import {module}")}
    assert top - set(sys.stdlib_module_names) == {"qnumpy"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_ops_computes_with_the_extension(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    module = path.relative_to(PACKAGE).as_posix()
    if module not in VOCABULARY and not module.startswith("ops/"):
        assert not [node.lineno for node in imports if "_core" in {name.name for name in node.names}]


# ---- the places of files ----


@pytest.mark.parametrize("stem", sorted(path.stem.removeprefix("bind_") for path in CSRC.glob("ext/bind_*.c")))
def test_a_stem_names_the_same_thing_on_every_floor(stem):
    if stem == "runtime":
        assert (PACKAGE / "runtime.py").exists()
    else:
        assert (PACKAGE / "ops" / f"{stem}.py").exists()
        assert (ROOT / "tests" / "ops" / f"test_{stem}.py").exists()


@pytest.mark.parametrize(
    "folder",
    ["ops", "arrays", "observers", "reports", "weights", "calibration", "files", "qat", "onnx", "torch", "cli"],
)
def test_tests_mirror_the_package(folder):
    for module in (PACKAGE / folder).glob("[!_]*.py"):
        tests = TESTED_IN.get(f"{folder}/{module.name}", f"tests/{folder}/test_{module.name}")
        assert (ROOT / tests).exists(), f"{folder}/{module.name}"


def tree():
    """The lines of CONTRIBUTING's tree, and their paths: an entry is indented by two spaces more than its folder."""
    block = re.search(r"^## The tree\n.*?^```\w*\n(.*?)^```", CONTRIBUTING.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines, folders, paths = block[1].splitlines(), [], []
    for line in lines:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        paths.append("".join(folders).rstrip("/"))
    return lines, paths


def folders_of(parent):
    folders = (path for path in (ROOT / parent).iterdir() if path.is_dir() and path.name[0] not in "._")
    return {path.relative_to(ROOT).as_posix() for path in folders if path.name != "build"}


def test_the_tree_in_contributing_is_short_and_true():
    lines, paths = tree()
    assert len(lines) <= 70
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) == len(set(paths))
    mirrored = {
        path.replace("qnumpy/", f"{copy}/", 1) for path in folders_of("qnumpy") for copy in ("tests", "benchmarks")
    }
    for parent in ("csrc", "csrc/kernels", "qnumpy", "tests", "benchmarks", "docs"):
        assert folders_of(parent) - mirrored <= set(paths), parent


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
    """kernels/ and tests/ include no Python, ext/ no arithmetic."""
    included = set(re.findall(r'^#include ["<](\S+)[">]', path.read_text(encoding="utf-8"), re.MULTILINE))
    intrinsics = {name for name in included if re.search(r"immintrin|arm_neon|simde", name)}
    python = {name for name in included if re.search(r"Python\.h|numpy/|args\.h|bindings\.h", name)}
    if path.parent.name == "ext":
        assert not intrinsics
        assert not {name for name in included if name.endswith("_body.h")} | included & {"bodies.h", "math.h"}
    else:
        assert not python


def test_public_names():
    """Complete and unique; ruff keeps them sorted. Three modules hold specialists' names."""
    public = [name for name, value in vars(qn).items() if not name.startswith("_") and not inspect.ismodule(value)]
    assert sorted(qn.__all__) == sorted([*public, "reports", "weights"])
    assert len(qn.__all__) <= 58


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring_and_public_names(name):
    if name.startswith("qnumpy.torch"):
        pytest.importorskip("torch")
    if name == "qnumpy.torch.torchao":
        pytest.importorskip("torchao")
    module = importlib.import_module(name)
    assert module.__doc__
    assert all(hasattr(module, public) for public in module.__all__)


PUBLIC = {
    (module.__name__, name): getattr(module, name)
    for module in (qn, qn.reports, qn.weights, qn.qat)
    for name in module.__all__
}
FUNCTIONS = {".".join(names): value for names, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {".".join(names): value for names, value in PUBLIC.items() if inspect.isclass(value)}


def sections(text):
    """Map the headings of a numpydoc docstring to their text; the first is ""."""
    parts = re.split(r"^(\w+)\n-+$", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_of_functions(name):
    """Every parameter and the result are described, with an example; without parameters a line suffices."""
    function = FUNCTIONS[name]
    doc = sections(inspect.getdoc(function))
    assert re.match(r"[A-Z][^\n]*[.:]", doc[""]), "an imperative summary"
    signature = inspect.signature(function)
    entries = re.findall(r"^(\w[\w, ]*?)(?: :.*)?$", doc.get("Parameters", ""), re.MULTILINE)
    described = [parameter for entry in entries for parameter in entry.split(", ")]
    assert described == list(signature.parameters)
    if signature.parameters and signature.return_annotation is not None and name != "qnumpy.threads":
        assert "Returns" in doc
        assert "Examples" in doc or name == "qnumpy.load"  # save has its example


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_of_classes(name):
    """The class and each of its public methods have a docstring; the name of a property may suffice."""
    cls = CLASSES[name]
    assert inspect.getdoc(cls)
    for member, value in vars(cls).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not member.startswith("_") and inspect.isfunction(function):
            assert inspect.getdoc(getattr(cls, member)), member
