"""Models as the commands write them: folders, shards, the files without weights."""

import json
import os

import numpy as np
import pytest
from tensor_files import reals

from qnumpy.files.store import Reader, load, save

KEPT = {
    "config.json": "{}", "tokenizer.json": "t" * 1000, "README.md": "r", "LICENSE": "l", "spiece.model": "s",
    "1_Pooling/config.json": "p",
}  # fmt: skip
LEFT = {
    "pytorch_model.bin": "b", "pytorch_model.bin.index.json": "{}", "onnx/model.onnx": "o", ".hidden": "h",
    ".git/config": "g", "other.npz": "n", "model.GGUF": "u",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model in three shards, with files beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in {**KEPT, **LEFT}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    arrays = {f"layer{i}.weight": reals(16, 32, seed=i) for i in range(6)} | {"norm": reals(32)}
    save(folder / "model.safetensors", arrays, max_shard_bytes=5000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) == 3
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("end", ["", os.sep])
def test_a_folder_becomes_a_folder(run, folder, tmp_path, end):
    before = files(folder)
    out = tmp_path / "out"
    code, _, err = run("quantize", folder, "-o", f"{out}{end}")
    assert (code, err) == (0, "")
    assert files(out) == {*KEPT, "model.safetensors"}
    for name, text in KEPT.items():
        assert (out / name).read_text() == text
    assert files(folder) == before
    back = tmp_path / f"back{end}"
    assert run("dequantize", out, "-o", back)[0] == 0
    assert files(tmp_path / "back") == files(out)
    plain, one = load(folder), tmp_path / "one.npz"
    assert run("quantize", folder, "-o", one)[0] == 0
    assert load(one).keys() == load(out).keys() == plain.keys()
    for name, value in load(out).items():
        np.testing.assert_array_equal(load(back)[name], np.asarray(value))
        np.testing.assert_array_equal(np.asarray(load(one)[name]), np.asarray(value))


@pytest.mark.parametrize("command", ["inspect", "calibrate", "compare", "plot"])
def test_every_command_reads_a_folder(run, folder, tmp_path, command):
    if command == "plot":
        pytest.importorskip("matplotlib")
    rest = {"compare": [folder], "plot": ["norm", "-o", tmp_path / "a.svg"]}.get(command, [])
    code, text, err = run(command, folder, *rest)
    assert (code, err) == (0, "")
    assert command == "plot" or "layer5.weight" in text


def test_shards_are_no_larger_than_asked(run, folder, tmp_path):
    out = tmp_path / "out"
    assert run("dequantize", folder, "-o", out, "--shard-size=5KB")[0] == 0
    shards = [path for path in out.iterdir() if path.suffix == ".safetensors"]
    assert len(shards) == 3
    assert max(path.stat().st_size for path in shards) <= 5000
    assert run("quantize", folder, "-o", out, "--shard-size=1.5KiB", "--force")[0] == 0
    shards = [path for path in out.iterdir() if path.suffix == ".safetensors"]
    assert len(shards) > 3  # those before are gone
    assert max(path.stat().st_size for path in shards) <= 1536
    homes = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert {path.name for path in shards} == set(homes.values())
    with Reader(out) as reader, Reader(folder) as source:
        assert list(reader.specs) == list(source.specs)
    assert run("quantize", folder, "-o", out, "--force")[0] == 0
    assert files(out) == {*KEPT, "model.safetensors"}


@pytest.mark.parametrize("size", ["0", "5XB", "-5GB", "GB", "", "1e9", "5G B", "\N{ARABIC-INDIC DIGIT FIVE}GB", "0.1"])
def test_sizes_that_are_none(run, folder, tmp_path, size):
    message = f"--shard-size must be a number of bytes, or a size such as 5GB, 500MB or 2GiB; got {size!r}."
    assert run("quantize", folder, "-o", tmp_path / "out", f"--shard-size={size}") == (
        2,
        "",
        f"qnumpy quantize: {message}\n",
    )
    assert not (tmp_path / "out").exists()


def test_folders_that_are_refused(run, folder, tmp_path, monkeypatch):
    before = files(tmp_path)
    index = folder / "model.safetensors.index.json"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(folder)
    for argv, message in (
        ([folder, "-o", folder, "--force"], f"-o must be another folder than the input's; got {str(folder)!r}."),
        ([index, "-o", folder, "--force"], f"-o must be another folder than the input's; got {str(folder)!r}."),
        ([index.name, "-o", ".", "--force"], "-o must be another folder than the input's; got '.'."),
        ([folder, "-o", tmp_path / "a.npz", "--shard-size=1GB"], "--shard-size must be left out for a .npz file."),
        (
            [index, "-o", tmp_path / "new"],
            f"-o must end in .npz, .safetensors or .gguf; got {str(tmp_path / 'new')!r}.",
        ),
        # the file would stand for the model, and its writer would remove the shards
        ([folder, "-o", folder / "model.safetensors", "--force"],
         f"-o must be another file than the input; got {str(index)!r} for both."),
    ):  # fmt: skip
        code, out, err = run("quantize", *argv)
        assert (code, out, err) == (2, "", f"qnumpy quantize: {message}\n")
        assert files(tmp_path) == before
    code, _, err = run("quantize", tmp_path / "empty", "-o", tmp_path / "new")
    assert (code, err.count("\n")) == (3, 1)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_files_of_the_output_folder_need_force(run, folder, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"weight_map": {}}')
    message = f"-o must be a new file, or --force given to replace it; {str(out / name)!r} exists."
    assert run("quantize", folder, "-o", out) == (2, "", f"qnumpy quantize: {message}\n")
    assert files(out) == {name}
    assert run("quantize", folder, "-o", out, "--force")[0] == 0
    assert files(out) == {*KEPT, "model.safetensors"}


def test_a_failure_leaves_no_folder(run, folder, tmp_path):
    save(folder / "model.safetensors", {"a": reals(4, 4), "nan": np.full((2, 2), np.nan, np.float32)})
    code, _, err = run("quantize", folder, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (3, 1)
    assert not (tmp_path / "out").exists()


def test_a_copy_that_fails_leaves_nothing(run, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "1_Pooling").write_text("a file where a folder must be")
    code, _, err = run("quantize", folder, "-o", out)
    assert (code, err) == (3, f"qnumpy quantize: {out / '1_Pooling'}: File exists.\n")
    assert files(out) == {"1_Pooling"}


def test_an_output_inside_the_input(run, folder):
    out = folder / "int8"
    for _ in range(2):
        assert run("quantize", folder, "-o", out, "--force")[0] == 0
        assert files(out) == {*KEPT, "model.safetensors"}
