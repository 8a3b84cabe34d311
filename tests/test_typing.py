"""Types of the public functions, as a type checker sees them."""

import subprocess
import sys
from pathlib import Path

import pytest

REVEAL = Path(__file__).parent / "typing" / "reveal.py"


def test_an_ide_shows_the_types_of_results(tmp_path):
    pytest.importorskip("mypy")
    root = REVEAL.parents[2]
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "--follow-imports=silent", str(REVEAL)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
