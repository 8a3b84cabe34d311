"""The types of the public signatures, as a type checker reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_mypy_knows_what_calls_return():
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "tests/support/typed_calls.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
