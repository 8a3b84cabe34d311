"""``qnumpy inspect``: every tensor, and what floats would lose."""

import json
import re

import numpy as np

from qnumpy.files.store import load, save


def test_inspect_lists_every_tensor(run, model, tmp_path):
    out = tmp_path / "out.safetensors"
    run("quantize", model, "-o", out, "--dtype=int4", "--group-size=8")
    code, text, _ = run("inspect", out)
    assert code == 0
    assert re.search(r"embed\.weight +int4 +\(40, 16\) +per group 8 +640\n", text)  # 320 bytes of codes, 80 scales
    assert re.search(r"fc\.bias +float32 +\(12,\) +- +48\n", text)
    listing = json.loads(run("inspect", out, "--json")[1])
    assert [tensor["name"] for tensor in listing["tensors"]] == list(load(out))
    assert listing["nbytes"] == sum(tensor["nbytes"] for tensor in listing["tensors"])
    assert run("inspect", model)[0] == 0


def test_inspect_says_what_a_float_type_would_lose(run, model, tmp_path):
    code, table, err = run("inspect", model, "--float", "float16")
    assert (code, err) == (0, "")
    lines = table.splitlines()
    assert lines[0].split()[:5] == ["tensor", "shape", "source", "type", "verdict"]
    assert {line.split()[0] for line in lines[1:5]} == {"embed.weight", "fc.weight", "fc.bias", "head.weight"}
    assert "1 more is left out: not plain floats." in lines
    assert lines[-1].startswith("This CPU ")
    path = tmp_path / "eps.npz"
    save(path, {"eps": np.float32(1e-12), "w": np.array([[7e4]], np.float32)})
    table = json.loads(run("inspect", path, "--float=float16", "--json")[1])
    assert [tensor["verdict"] for tensor in table["tensors"]] == ["underflows", "overflows"]
    assert table["totals"]["verdicts"] == {"overflows": 1, "underflows": 1}
    assert run("inspect", path, "--float", "int8")[0] == 2


def test_an_array_that_is_not_read_is_listed_with_its_reason(run, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones((2, 3), np.float32), o=np.array([{}, None]))
    code, out, _ = run("inspect", path)
    assert code == 0
    assert re.search(r"^o +object +\(2,\) +not read: holds Python objects, which qnumpy never unpickles ", out, re.M)
    code, out, _ = run("inspect", path, "--json")
    assert [(t["name"], t["unreadable"]) for t in json.loads(out)["tensors"]] == [
        ("x", None), ("o", "holds Python objects, which qnumpy never unpickles"),
    ]  # fmt: skip
