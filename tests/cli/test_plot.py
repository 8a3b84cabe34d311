"""``qnumpy plot``: pictures, and what it refuses."""

import html
import sys

import pytest
from tensor_files import reals

from qnumpy.files.store import save


@pytest.mark.parametrize("kind", ["histogram", "channels", "threshold", "bits"])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_writes_a_picture(run, model, tmp_path, kind, suffix):
    pytest.importorskip("matplotlib")
    out = tmp_path / f"picture.{suffix}"
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("plot", model, "fc.weight", "-o", out, "--kind", kind, "--dtype", "int4") == (0, "", "")
    assert out.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, out.name])


def test_plot_draws_what_a_quantized_file_holds(run, model, tmp_path):
    pytest.importorskip("matplotlib")
    small, out = tmp_path / "small.npz", tmp_path / "picture.svg"
    assert run("quantize", model, "-o", small, "--per", "tensor", "--dtype", "int4")[0] == 0
    assert run("plot", small, "fc.weight", "-o", out)[0] == 0
    assert "<!-- in the file" in out.read_text()  # matplotlib writes the text of its paths as comments
    assert run("plot", small, "embed.weight", "-o", out, "--force")[0] == 0


NAMES = ["a$$b", "_hidden", "a^b_c{", "a\nb"]


@pytest.mark.parametrize("kind", ["histogram", "channels", "threshold", "bits"])
def test_names_are_no_mathematics(run, tmp_path, kind):
    pytest.importorskip("matplotlib")
    save(tmp_path / "a.npz", {name: reals(4, 6) for name in NAMES})
    for name in NAMES:
        out = tmp_path / "picture.svg"
        assert run("plot", tmp_path / "a.npz", name, "-o", out, "--kind", kind, "--force") == (0, "", "")
        shown = html.unescape(out.read_text())  # matplotlib writes the text of its paths as comments
        assert f"<!-- {name if name.isprintable() else 'a' + chr(92) + 'nb'}" in shown


def test_a_font_without_the_characters_is_said(run, tmp_path):
    pytest.importorskip("matplotlib")
    save(tmp_path / "a.npz", {"\u65e5": reals(4, 6)})
    message = "qnumpy plot: the font lacks characters of '\u65e5'; they are boxes.\n"
    assert run("plot", tmp_path / "a.npz", "\u65e5", "-o", tmp_path / "a.png") == (0, "", message)


def test_plot_refuses(run, model, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "a.png"
    for argv, message in (
        (["nothing", "-o", out], f"TENSOR must be one of {model}; got 'nothing'."),
        (["steps", "-o", out], "TENSOR must be floating; got 'steps' of int64."),
        (["fc.weight", "-o", "a.txt"], "-o must end in .png, .svg or .pdf; got 'a.txt'."),
        (
            ["fc.weight", "-o", out, "--kind", "channels", "--axis", "5"],
            "tensor 'fc.weight': channel_ranges: axis must be in [-2, 1]; got 5.",
        ),
    ):
        assert run("plot", model, *argv) == (2, "", f"qnumpy plot: {message}\n")
        assert not out.exists()
    out.write_bytes(b"mine")
    message = f"-o must be a new file, or --force given to replace it; {str(out)!r} exists."
    assert run("plot", model, "fc.weight", "-o", out) == (2, "", f"qnumpy plot: {message}\n")
    assert out.read_bytes() == b"mine"
    code, _, err = run("plot", model, "fc.weight", "-o", tmp_path / "no" / "a.png")
    assert (code, "no file was written" in err) == (3, True)


def test_plot_without_matplotlib(run, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = "matplotlib must be installed: pip install 'qnumpy[plot]'."
    assert run("plot", model, "fc.weight", "-o", tmp_path / "a.png") == (2, "", f"qnumpy plot: {message}\n")
