"""What a user sees where qnumpy cannot be built or imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def last_line(*arguments, folder, **environment):
    """Run Python in a folder that is first on its path; return the last line of stderr."""
    environment = {**os.environ, **environment}
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        environment.pop(name, None)
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    return process.stderr.splitlines()[-1]


def test_importing_the_sources_alone_says_what_to_do(tmp_path):
    """A clone's root has the sources before the installed package on the path of ``python -c``."""
    shutil.copytree(ROOT / "qnumpy", tmp_path / "qnumpy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    assert last_line("-c", "import qnumpy", folder=tmp_path) == (
        f"ImportError: qnumpy: the folder {str(tmp_path / 'qnumpy')!r} must hold the compiled _core; got the sources "
        "alone, which hide an installed qnumpy. Start Python in another folder or with -P, or build in place with "
        "`pip install -e .`."
    )


def test_building_without_a_compiler_says_what_is_missing(tmp_path):
    pytest.importorskip("setuptools")
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "csrc" / "kernels", tmp_path / "csrc" / "kernels")
    assert last_line("setup.py", "-q", "build_ext", folder=tmp_path, CC="no-compiler") == (
        "qnumpy: a C compiler (GCC 11, clang 14, or later) must be installed; got no command no-compiler."
    )
