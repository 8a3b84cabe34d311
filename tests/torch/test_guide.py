"""Every Python block of docs/torch.md runs, in order and in one folder, and prints the text below it."""

import contextlib
import io
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    names = {"__name__": "__main__"}
    for (language, body), (following, expected) in zip(fences, [*fences[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(body, str(PAGE), "exec"), names)
            wanted = expected if following == "text" else ""
            assert [line.rstrip() for line in printed.getvalue().splitlines()] == wanted.splitlines(), body
    assert "found" in names
