"""``qnumpy compare``: the table and the gate."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import load, save


def test_compare_and_its_gate(run, model, tmp_path):
    out = tmp_path / "out.npz"
    run("quantize", model, "-o", out)
    code, text, err = run("compare", model, out)
    assert (code, err) == (0, "")
    assert "fc.weight" in text
    # 8 bits give some 40 dB on normal weights: far from both limits
    assert run("compare", model, out, "--fail-below-sqnr", "20")[0] == 0
    code, text, err = run("compare", model, out, "--fail-below-sqnr", "60")
    assert code == 1
    assert "fc.weight" in text
    assert re.fullmatch(r"qnumpy compare: 3 of 5 below 60 dB: ('\w+\.weight' \(4\d\.\d\d dB\)(, )?){3}\.\n", err)
    assert run("compare", model, out, "--fail-below-sqnr", "nan")[0] == 2


def test_a_kept_tensor_that_changed_fails_the_gate(run, model, tmp_path):
    out = tmp_path / "out.npz"
    run("quantize", model, "-o", out)
    arrays = load(out)
    arrays["fc.bias"][0] += 1
    save(out, arrays)
    code, text, _ = run("compare", model, out)
    assert code == 0
    assert "CHANGED" in text
    code, _, err = run("compare", model, out, "--fail-below-sqnr", "0")
    assert code == 1
    assert "'fc.bias' (kept, but changed)" in err


def test_compare_needs_the_same_tensors(run, model, tmp_path):
    arrays = load(model)
    save(tmp_path / "less.npz", {name: x for name, x in arrays.items() if name != "steps"})
    save(tmp_path / "other.npz", {**arrays, "steps": np.arange(3)})
    for pair in ([model, tmp_path / "less.npz"], [tmp_path / "less.npz", model]):
        code, _, err = run("compare", *pair)
        assert code == 3
        assert err.startswith(f"qnumpy compare: {tmp_path / 'less.npz'}: tensor 'steps' of ")
    code, _, err = run("compare", model, tmp_path / "other.npz")
    assert code == 3
    assert "tensor 'steps' must have the shape (2, 3)" in err


@pytest.mark.parametrize(("limit", "code"), [("200", 1), ("1", 0)])
def test_the_gate_holds_when_nobody_reads_the_table(run, model, tmp_path, limit, code):
    small = tmp_path / "small.npz"
    assert run("quantize", model, "-o", small)[0] == 0
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "qnumpy", "compare", model, small, "--fail-below-sqnr", limit]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert done.returncode == code, done.stderr
    assert ("below 200 dB" in done.stderr) == bool(code)


def test_compare_does_not_mind_the_byte_order(run, tmp_path):
    before, after = tmp_path / "before.npz", tmp_path / "after.safetensors"
    x = {"f": reals(3, 4), "i": np.arange(6), "c": np.arange(3) * 1j, "d": np.arange(6.0)}
    x["c"] = x["c"].astype(np.complex64)
    np.savez(before, **{name: value.astype(value.dtype.newbyteorder(">")) for name, value in x.items()})
    save(after, x)
    code, table, err = run("compare", before, after, "--fail-below-sqnr", "20")
    assert (code, err, table.count("equal")) == (0, "", 4)
    save(after, {**x, "i": x["i"].byteswap()})
    code, table, _ = run("compare", before, after, "--fail-below-sqnr", "20")
    assert (code, table.count("CHANGED")) == (1, 1)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_codes_that_are_nan_have_not_changed(run, tmp_path, suffix):
    x = reals(3, 32)
    x[0, 0] = np.nan
    arrays = {"fp8": qn.quantize(x, qn.QParams(0.1, 0, "float8_e4m3fn")), "mx": qn.quantize(x, dtype="mxfp6_e2m3")}
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save(path, arrays)
    code, text, err = run("compare", *paths, "--fail-below-sqnr", "0")
    assert (code, err) == (0, "")
    assert "CHANGED" not in text
