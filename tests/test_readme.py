"""Every snippet of README and of docs/overview.md runs, in order and in one folder, and prints the output below it;
links and files exist.

.ci/run runs the first two ``sh`` blocks from a fresh copy in a fresh environment; the test compares their text (plain
``pytest`` tests the installed package; ``python -m pytest`` would put the checkout before it). The ``text`` block after
a ``python`` block is its output. In a ``console`` block the lines below ``$ qnumpy ...`` are the output of that
command, which runs in this process.
"""

import contextlib
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest

import qnumpy as qn
from qnumpy import cli

ROOT = Path(__file__).parents[1]
README, OVERVIEW = ROOT / "README.md", ROOT / "docs" / "overview.md"
PAGES = sorted(path for folder in (".", "csrc", "docs") for path in (ROOT / folder).glob("*.md"))
COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/qnumpy demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest -n auto",
]


def blocks(page=README):
    """Return (language, body) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def lines(text):
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_the_first_two_commands():
    assert [body.strip() for language, body in blocks() if language == "sh"][:2] == COMMANDS


@pytest.mark.parametrize(("page", "expected_languages"), [
    (README, {"python"}),
    (OVERVIEW, {"python", "console"}),
], ids=["README", "overview"])  # fmt: skip
def test_every_snippet(page, expected_languages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fences = blocks(page)
    names = {"__name__": "__main__"}
    languages = set()
    for (language, body), (following, expected) in zip(fences, [*fences[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(body, str(page), "exec"), names)
            assert lines(printed.getvalue()) == lines(expected if following == "text" else ""), body
            languages.add(language)
        elif language == "console":
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                program, *arguments = shlex.split(command)
                assert program == "qnumpy", command
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    assert cli.main(arguments) == 0, command
                assert lines(printed.getvalue()) == lines(output), command
                languages.add(language)
    assert languages == expected_languages


def test_the_length():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_figures_of_accuracy_are_those_of_the_page_of_onnx():
    """README's columns are the error, the worst cosine, the speed of 1 x 32 tokens and the size."""
    section = README.read_text(encoding="utf-8").partition("## Accuracy")[2].partition("## ")[0]
    measured = set()
    for line in (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7:
            measured.add((cells[1], cells[2], cells[3], cells[6]))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert len(rows) > 2
    for row in rows[2:]:
        assert tuple(row[1:]) in measured, row[0]


def public(path):
    """Whether `path`, relative to qn, leads through modules to a public name of the last one, or to a module."""
    *names, name = path.split(".")
    module = qn
    for submodule in names:
        module = getattr(module, submodule)
    return name in module.__all__ or inspect.ismodule(getattr(module, name))


def test_the_feature_table_names_what_exists():
    """Every `qn.name` and `qn.module.name` in the overview is public, and it has every public name of qn."""
    text = OVERVIEW.read_text(encoding="utf-8")
    modules = "|".join(name for name, value in vars(qn).items() if inspect.ismodule(value) and name[0] != "_")
    for path in set(re.findall(rf"\bqn\.((?:(?:{modules})\.)?\w+)", text)):
        assert public(path), path
    assert {name for name in qn.__all__ if not name.endswith("Error")} <= set(re.findall(r"\w+", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    folders = (ROOT / folder for folder in ("csrc", "qnumpy", "tests", "benchmarks", "docs"))
    files = [f"/{path.relative_to(ROOT)}" for folder in folders for path in folder.rglob("*.*")]
    files += [f"/{path.name}" for path in ROOT.glob("*.*")]
    for name in re.findall(r"`([\w./]+\.(?:c|h|py|pyi|md|toml))`", page.read_text(encoding="utf-8")):
        assert any(file.endswith(f"/{name}") for file in files), name
