"""The notebooks in examples/ run from the first cell to the last, and are kept with outputs that name no machine."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(output):
    """The text of an output; an image is none."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(data[kind] for kind in data if kind.startswith("text/"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    kept = [output.output_type for output in outputs(notebook)]
    made = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [output.output_type for output in outputs(made)] == kept
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(made))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept(path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert not re.search(r"/(home|root|tmp|usr|Users|var)/", text)
    assert not re.search(r"this CPU|F16C|AVX|VNNI|NEON", "".join(map(shown, outputs(notebook))))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_is_one():
    assert NOTEBOOKS
