"""The commands on files that other programs run: .gguf, compressed-tensors, GPTQ."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import Reader, load, save


@pytest.fixture
def weights(tmp_path):
    """Rows of 512 and 96 elements, and of 100, which are no whole blocks; a bias."""
    arrays = {"a.weight": reals(8, 512), "b.weight": reals(6, 96, seed=1), "c.weight": reals(4, 100, seed=2)}
    path = tmp_path / "model.safetensors"
    save(path, {**arrays, "a.bias": reals(8, seed=3)})
    return path


def test_quantize_writes_gguf(run, weights, tmp_path):
    out = tmp_path / "model.gguf"
    code, table, err = run("quantize", weights, "--output", out, "--dtype", "Q4_K", "--set", "c=keep")
    assert (code, err) == (0, "")
    before, after = load(weights), load(out)
    assert list(after) == list(before)
    assert after["a.weight"] == qn.weights.quantize_gguf(before["a.weight"], "Q4_K")
    assert after["b.weight"] == qn.weights.quantize_gguf(before["b.weight"], "Q5_0")  # rows of 96
    for name in ("a.bias", "c.weight"):
        np.testing.assert_array_equal(after[name], before[name])
    assert [row["dtype"] for row in table_of(run, weights, "Q4_K")] == ["Q4_K", "Q5_0", "float32", "float32"]
    assert re.search(r"b\.weight +\(6, 96\) +Q5_0 +per group 32", table)


def table_of(run, path, dtype):
    _, text, _ = run("quantize", path, "--dry-run", "--json", "--dtype", dtype)
    return json.loads(text)["tensors"]


def test_rows_that_are_no_whole_blocks_are_kept(run, weights, tmp_path):
    code, table, _ = run("quantize", weights, "-o", tmp_path / "m.gguf", "--dtype", "Q8_0", "--set", "b=Q4_1")
    assert code == 0
    assert "rows of 100" in table
    loaded = load(tmp_path / "m.gguf")
    assert (loaded["a.weight"].type, loaded["b.weight"].type) == ("Q8_0", "Q4_1")
    assert loaded["c.weight"].dtype == np.float32


def test_moments_weigh_the_errors(run, weights, tmp_path):
    x = reals(300, 512) * np.linspace(0.1, 3, 512, dtype=np.float32)
    observer = qn.MomentsObserver().observe(x)
    save(tmp_path / "moments.npz", {"a": observer})
    options = ["--dtype", "Q4_K", "--moments", tmp_path / "moments.npz"]
    code, table, err = run("quantize", weights, "-o", tmp_path / "m.gguf", *options)
    assert (code, err) == (0, "")
    expected = qn.weights.quantize_gguf(load(weights)["a.weight"], "Q4_K", moments=observer)
    assert load(tmp_path / "m.gguf")["a.weight"] == expected
    assert "no moments" in table  # of b
    save(tmp_path / "moments.npz", {"a": qn.MomentsObserver().observe(reals(3, 96))})
    code, _, err = run("quantize", weights, "-o", tmp_path / "n.gguf", *options)
    assert code == 2
    assert err.startswith("qnumpy quantize: --moments: 'a' must be of 512 inputs, as 'a.weight' of shape (8, 512) has")


def test_a_gguf_file_keeps_its_metadata(run, tmp_path):
    metadata = {"general.architecture": "llama", "llama.block_count": np.uint32(2), "tokens": ["a"] * 100,
                "general.file_type": np.uint32(1), "scores": np.float32([1, 2])}  # fmt: skip
    save(tmp_path / "f16.gguf", {"w": reals(4, 256).astype(np.float16)}, metadata=metadata)
    assert run("quantize", tmp_path / "f16.gguf", "-o", tmp_path / "q.gguf", "--dtype", "Q6_K")[0] == 0
    with Reader(tmp_path / "q.gguf") as reader:
        got = dict(reader.metadata)
    assert (got.pop("general.quantization_version"), got.pop("scores").tolist()) == (2, [1, 2])
    assert got == {key: value for key, value in metadata.items() if key not in ("general.file_type", "scores")}
    assert type(got["llama.block_count"]) is np.uint32
    # a .safetensors file holds the texts
    assert run("dequantize", tmp_path / "q.gguf", "-o", tmp_path / "x.safetensors")[0] == 0
    with Reader(tmp_path / "x.safetensors") as reader:
        assert reader.metadata == {"general.architecture": "llama"}
        np.testing.assert_array_equal(reader.read("w"), load(tmp_path / "q.gguf")["w"].dequantize())
    code, listed, _ = run("inspect", tmp_path / "q.gguf", "--json")
    assert code == 0
    shown = json.loads(listed)
    assert shown["tensors"][0]["dtype"] == "Q6_K"
    assert shown["metadata"]["tokens"] == "a list of 100"
    assert shown["metadata"]["scores"] == [1.0, 2.0]
    assert shown["metadata"]["llama.block_count"] == 2


def test_other_commands_read_gguf(run, weights, tmp_path):
    out = tmp_path / "m.gguf"
    run("quantize", weights, "-o", out, "--dtype", "Q8_0")
    code, listed, _ = run("inspect", out)
    assert code == 0
    assert "per group 32" in listed
    assert run("compare", weights, out, "--fail-below-sqnr", "40")[0] == 0
    assert run("compare", weights, out, "--fail-below-sqnr", "90")[0] == 1
    assert run("dequantize", out, "-o", tmp_path / "back.gguf", "--dtype", "float16")[0] == 0
    back = load(tmp_path / "back.gguf")
    expected = load(out)["a.weight"].dequantize().astype(np.float16)
    np.testing.assert_array_equal(back["a.weight"], expected)


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("m.gguf", ["--dtype", "int8"], 2, "must be a GGUFArray or an array of"),
        ("m.npz", ["--dtype", "Q4_K"], 2, "must be no GGUFArray unless path ends in .gguf; got Q4_K."),
        ("m.gguf", ["--dtype", "Q4_K", "--group-size", "32"], 2,
         "granularity, axis, group size and symmetry must be left out for Q4_K."),
        ("m.gguf", ["--dtype", "Q4_K", "--method", "mse"], 2, "method must be minmax for Q4_K, which chooses no"),
        ("m.gguf", ["--dtype", "Q4_K", "--shard-size", "5GB"], 2, "--shard-size must be left out for a .gguf file."),
        ("m.npz", ["--format", "compressed-tensors"], 2, "format must be left out unless path ends in .safetensors"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(run, weights, tmp_path, name, options, code, message):
    got, out, err = run("quantize", weights, "-o", tmp_path / name, *options)
    assert (got, out) == (code, "")
    assert message in err
    assert not (tmp_path / name).exists()


@pytest.fixture
def folder(tmp_path, weights):
    source = tmp_path / "in"
    source.mkdir()
    weights.rename(source / "model.safetensors")
    (source / "config.json").write_text('{"hidden_size": 512}')
    (source / "tokenizer.json").write_text("{}")
    return source


def test_a_model_for_other_libraries(run, folder, tmp_path):
    out = tmp_path / "out"
    options = ["--dtype", "int4", "--group-size", "32", "--exclude", "c.weight", "--format", "compressed-tensors"]
    code, _, err = run("quantize", folder, "-o", out, *options)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    config = json.loads((out / "config.json").read_text())
    assert config["hidden_size"] == 512
    assert config["quantization_config"]["ignore"] == ["c"]
    before, after = load(folder), load(out)
    expected = qn.quantize(before["a.weight"], dtype="int4", granularity=qn.PerGroup(32))
    np.testing.assert_array_equal(after["a.weight"].dequantize(), expected.dequantize())
    assert "a.weight_packed" in safetensors.numpy.load_file(out / "model.safetensors")
    assert run("compare", folder, out, "--fail-below-sqnr", "15")[0] == 0
    # the reals have no configuration of codes
    assert run("dequantize", out, "-o", tmp_path / "back")[0] == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == {"hidden_size": 512}
    np.testing.assert_array_equal(load(tmp_path / "back")["a.weight"], expected.dequantize())
    # and other quantized files hold the codes in their own form
    assert run("quantize", out, "-o", tmp_path / "own.npz", "--dtype", "int8")[0] == 0
    np.testing.assert_array_equal(load(tmp_path / "own.npz")["a.weight"].dequantize(), expected.dequantize())


def test_an_existing_configuration_needs_force(run, weights, tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1}')
    options = [
        "quantize",
        weights,
        "-o",
        tmp_path / "q.safetensors",
        "--dtype",
        "int4",
        "--format",
        "compressed-tensors",
    ]
    code, _, err = run(*options)
    assert (code, err.count("config.json")) == (2, 1)
    assert (tmp_path / "config.json").read_text() == '{"a": 1}'
    assert run(*options, "--force")[0] == 0
    assert json.loads((tmp_path / "config.json").read_text())["a"] == 1


def test_gptq_files(run, tmp_path):
    tensors = {
        "m.qweight": np.full((4, 8), 0x76543210, np.int32),
        "m.qzeros": np.full((2, 1), 0x77777777, np.int32),
        "m.scales": np.full((2, 8), 0.5, np.float16),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    code, listed, _ = run("inspect", path)
    assert code == 0
    assert "m.weight" in listed
    assert "per group 16" in listed
    assert run("dequantize", path, "-o", tmp_path / "x.npz")[0] == 0
    x = load(tmp_path / "x.npz")["m.weight"]
    assert x[0].tolist() == [(k % 8 - 8) / 2 for k in range(32)]
