"""Every Python block of docs/torch.md runs, in order and in one folder, and prints the text below it."""

from pathlib import Path

import pytest
from pages import run_blocks

pytestmark = pytest.mark.peers

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"


def test_every_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "found" in run_blocks(PAGE)
