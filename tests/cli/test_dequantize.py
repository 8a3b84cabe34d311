"""``qnumpy dequantize``: the reals of every quantized tensor, and the rest as it was."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import Reader, load, save


@pytest.fixture
def quantized(tmp_path):
    """Tensors of every kind that a file holds."""
    path = tmp_path / "small.safetensors"
    w = reals(8, 32)
    arrays = {
        "int8": qn.quantize(w, granularity=qn.PerChannel(0)),
        "int4": qn.quantize(w, dtype="int4", granularity=qn.PerGroup(8)),
        "uint8": qn.quantize(w, dtype="uint8", symmetric=False),
        "float8": qn.quantize(w, dtype="float8_e4m3fn"),
        "mxfp4": qn.quantize(w, dtype="mxfp4"),
        "nvfp4": qn.quantize(w, dtype="nvfp4"),
        "bias": w[0],
        "half": w.astype(ml_dtypes.bfloat16),
        "steps": np.arange(3),
    }
    save(path, arrays)
    return path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_kind_of_tensor(run, quantized, tmp_path, dtype, suffix):
    out = tmp_path / f"out.{suffix}"
    code, table, err = run("dequantize", quantized, "-o", out, "--dtype", dtype)
    assert (code, err) == (0, "")
    before, after = load(quantized), load(out)
    assert list(after) == list(before)
    for name, value in before.items():
        wanted = value if isinstance(value, np.ndarray) else value.dequantize(dtype)
        assert after[name].dtype == wanted.dtype
        assert after[name].tobytes() == wanted.tobytes()
        assert name in table
    assert "mxfp4 -> " + dtype in table
    assert table.splitlines()[-1].startswith("9 tensors (3 kept) ")


def test_float32_is_the_default_and_json_has_the_table(run, quantized, tmp_path):
    code, text, err = run("dequantize", quantized, "-o", tmp_path / "out.npz", "--json")
    assert (code, err) == (0, "")
    table = json.loads(text)
    assert table["tensors"][1] == {
        "name": "int4", "shape": [8, 32], "source": "int4", "dtype": "float32", "granularity": "per group 8",
        "nbytes_before": 8 * 16 + 8 * 4 * 4, "nbytes_after": 8 * 32 * 4, "kept": None,
    }  # fmt: skip
    assert {record["name"]: record["kept"] for record in table["tensors"]}["bias"] == "not quantized"
    assert table["totals"]["tensors"] == 9
    assert table["totals"]["nbytes_after"] == sum(x.nbytes for x in load(tmp_path / "out.npz").values())


def test_include_and_exclude(run, quantized, tmp_path):
    out = tmp_path / "out.safetensors"
    assert run("dequantize", quantized, "-o", out, "--include", "int", "--exclude", "uint")[0] == 0
    kinds = {name: type(value) for name, value in load(out).items()}
    assert kinds["int8"] is kinds["int4"] is np.ndarray
    assert kinds["uint8"] is kinds["float8"] is qn.QuantizedArray
    assert kinds["mxfp4"] is qn.MXArray
    message = "--exclude must match the name of a tensor; 'zz' matches none."
    assert run("dequantize", quantized, "-o", out, "--force", "--exclude=zz")[::2] == (
        2,
        f"qnumpy dequantize: {message}\n",
    )


def test_a_dry_run_writes_nothing(run, quantized, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert run("dequantize", quantized, "--dry-run")[0] == 0
    assert run("dequantize", quantized, "--dry-run", "-o", f"{tmp_path}/new/")[0] == 0
    assert sorted(tmp_path.iterdir()) == before


def test_what_does_not_fit_is_refused(run, tmp_path):
    save(tmp_path / "large.npz", {"w": qn.quantize(np.array([1e6, 1.0], np.float32))})
    out = tmp_path / "out.npz"
    code, _, err = run("dequantize", tmp_path / "large.npz", "-o", out, "--dtype", "float16")
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith(f"qnumpy dequantize: {tmp_path / 'large.npz'}: tensor 'w': cast: ")
    assert err.endswith("--exclude keeps it as it is.\n")
    assert not out.exists()
    assert run("dequantize", tmp_path / "large.npz", "-o", out, "--dtype", "bfloat16")[0] == 0


def test_quantize_and_dequantize_meet(run, model, tmp_path):
    small, back = tmp_path / "small.safetensors", tmp_path / "back.safetensors"
    assert run("quantize", model, "-o", small)[0] == 0
    assert run("dequantize", small, "-o", back)[0] == 0
    for name, value in load(small).items():
        np.testing.assert_array_equal(load(back)[name], np.asarray(value))
    with Reader(back) as reader:
        assert reader.metadata == {"format": "pt"}
    assert run("compare", model, back)[0] == 0


def test_a_packed_weight_becomes_its_weight_and_bias(run, tmp_path):
    w, bias = reals(32, 16), reals(16, seed=1)
    packed = qn.PackedWeight(qn.quantize(w, granularity=qn.PerChannel(1)), bias=bias)
    save(tmp_path / "layer.npz", {"fc": packed, "head": qn.PackedWeight(qn.quantize(w))})
    out = tmp_path / "out.safetensors"
    assert run("dequantize", tmp_path / "layer.npz", "-o", out, "--dtype=bfloat16")[0] == 0
    back = load(out)
    assert list(back) == ["fc", "fc.bias", "head"]
    assert back["fc"].tobytes() == packed.unpack().dequantize("bfloat16").tobytes()
    np.testing.assert_array_equal(back["fc.bias"], bias)
    assert run("dequantize", tmp_path / "layer.npz", "-o", tmp_path / "same.npz", "--exclude", "fc")[0] == 0
    assert isinstance(load(tmp_path / "same.npz")["fc"], qn.PackedWeight)


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
def test_objects_are_left_out_on_request(run, tmp_path, command):
    path, out = tmp_path / "a.npz", tmp_path / "out.npz"
    np.savez(path, w=reals(4, 4), names=np.array(["a", None], object))
    problem = "tensor 'names' holds Python objects, which qnumpy never unpickles. --exclude leaves it out."
    assert run(command, path, "-o", out) == (3, "", f"qnumpy {command}: {path}: {problem}\n")
    assert not out.exists()
    assert run(command, path, "-o", out, "--exclude", "names")[0] == 0
    assert list(load(out)) == ["w"]
    code, table, err = run("compare", path, out)
    assert (code, err) == (0, "")
    assert "w " in table
    assert run("calibrate", path)[0] == run("inspect", path)[0] == 0
    code, table, err = run("compare", path, path, "--fail-below-sqnr", "10")
    assert (code, err) == (1, "qnumpy compare: 1 of 2 below 10 dB: 'names' (not read).\n")
    assert re.search(r"names +\(2,\) +object +kept .* not read", table)
