"""Every Python block of docs/onnx.md runs, in order and in one folder, and prints the text below it."""

import re
from pathlib import Path

import pytest
from pages import run_blocks

import qnumpy as qn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[2] / "docs" / "onnx.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "found" in run_blocks(PAGE)


def test_every_function_has_its_aim():
    table = TEXT.partition("## Which function")[2].partition("## Look")[0]
    assert set(re.findall(r"`(\w+)[`(]", table)) == set(qn.onnx.__all__) - {
        "ReferenceEvaluator", "calibrate", "custom_ops_library",
    }  # fmt: skip
