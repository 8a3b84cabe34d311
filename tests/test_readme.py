"""README keeps its word: every snippet runs, in order and in one folder, and prints what stands below it.

The first two ``sh`` blocks are run by .ci/run, from a fresh copy in a fresh environment; here only their form is
checked (plain ``pytest`` tests the installed package; ``python -m pytest`` would put the checkout before it). A
``python`` block is executed; the ``text`` block that follows it is its output. In a ``console`` block each line that
starts with ``$ qnumpy`` is run in this process; the lines below it are its output. Links and file names are right,
here and in the other pages.
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
README = ROOT / "README.md"
PAGES = sorted(path for folder in (".", "csrc", "docs") for path in (ROOT / folder).glob("*.md"))
COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/qnumpy demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest -n auto",
]


def blocks():
    """Yield (language, body) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def lines(text):
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_the_first_two_commands():
    assert [body.strip() for language, body in blocks() if language == "sh"][:2] == COMMANDS


def test_every_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fenced = blocks()
    names = {"__name__": "__main__"}
    ran = []
    for (language, body), (following, expected) in zip(fenced, [*fenced[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(body, str(README), "exec"), names)
            wanted = expected if following == "text" else ""
            assert lines(printed.getvalue()) == lines(wanted), body
            ran.append(language)
        elif language == "console":
            for command, wanted in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                program, *arguments = shlex.split(command)
                assert program == "qnumpy", command
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    assert cli.main(arguments) == 0, command
                assert lines(printed.getvalue()) == lines(wanted), command
                ran.append(language)
    assert {"python", "console"} <= set(ran)


def public(path):
    """Whether `path`, dotted below qn, goes through modules to a name that the last of them declares."""
    *modules, name = path.split(".")
    place = qn
    for module in modules:
        place = getattr(place, module)
    return name in place.__all__ or inspect.ismodule(getattr(place, name))


def test_the_feature_table_names_what_exists():
    """Every `qn.name` and `qn.module.name` in README is public, and every public name on top stands in it."""
    text = README.read_text(encoding="utf-8")
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
