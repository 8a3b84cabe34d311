"""docs/performance.md and README's table of speed have the figures of the newest results, and no others."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page():
    return runpy.run_path(str(ROOT / "benchmarks" / "page.py"))


@pytest.fixture(scope="module")
def results(page):
    return page["Results"].read(page["newest"](ROOT / "benchmarks" / "results"))


def test_the_page_is_made_of_the_results(page, results):
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page["text"](results)


def test_the_readme_is_made_of_the_results(page, results):
    assert page["readme"](results) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_row_of_the_page_was_measured(page, results):
    for operation, size, _ in page["ROWS"]:
        assert any(results.threads(operation, size)), f"{operation}, {size}"


def test_every_operation_has_a_target(page, results):
    assert {entry["kind"] for entry in results.entries} <= set(page["TARGETS"])
