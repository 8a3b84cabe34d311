"""``qnumpy calibrate``: files are batches, and the parameters are those of a Calibration."""

import json

import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import load, save


@pytest.fixture
def activations(tmp_path):
    """Two files of activations, the second with a tensor of its own."""
    paths = [tmp_path / "a.npz", tmp_path / "b.safetensors"]
    save(paths[0], {"x": reals(8, 5), "y": reals(3, 4, seed=1), "ids": np.arange(3)})
    save(paths[1], {"x": reals(2, 5, seed=2) * 3, "z": reals(7, seed=3)})
    return paths


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_calibrate_takes_files_as_batches(run, activations, tmp_path, method):
    out = tmp_path / "qparams.json"
    options = ["--method", method, "--dtype", "uint8", "--no-symmetric", "--percentile", "90"]
    code, table, err = run("calibrate", *activations, "-o", out, *options)
    assert (code, err) == (0, "")
    kind = {"dtype": "uint8", "symmetric": False}
    observer = qn.MinMaxObserver(**kind) if method == "minmax" else qn.HistogramObserver(method, 90, **kind)
    expected = qn.Calibration(observer)
    for path in activations:
        for name, x in load(path).items():
            if name != "ids":
                expected.observe(name, x)
    assert qn.load(out) == dict(expected)
    assert table == f"{expected.report()}\n"


def test_calibrate_per_channel_and_as_json(run, activations, tmp_path):
    out = tmp_path / "qparams.json"
    code, text, err = run("calibrate", activations[0], "-o", out, "--per", "channel", "--axis", 0, "--json")
    assert (code, err) == (0, "")
    params = qn.load(out)
    assert {name: qparams.scale.shape for name, qparams in params.items()} == {"x": (8,), "y": (3,)}
    assert [tensor["name"] for tensor in json.loads(text)["tensors"]] == ["x", "y"]
    assert run("calibrate", activations[0])[0] == 0  # without a file, the table alone


@pytest.mark.parametrize(("options", "granularity"), [
    (["--per", "group"], qn.PerGroup(32)),
    (["--group-size", "2"], qn.PerGroup(2)),
    (["--per", "group", "--group-size", "3", "--axis", "0"], qn.PerGroup(3, 0)),
    (["--per", "channel"], qn.PerChannel(-1)),
])  # fmt: skip
def test_calibrate_at_every_granularity(run, activations, tmp_path, options, granularity):
    out = tmp_path / "q.json"
    assert run("calibrate", activations[0], "-o", out, *options)[0] == 0
    expected = qn.Calibration(qn.HistogramObserver(granularity=granularity))
    for name in ("x", "y"):
        expected.observe(name, load(activations[0])[name])
    assert qn.load(out) == dict(expected)


def test_calibrate_does_not_replace_its_input(run, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    save(tmp_path / "a.safetensors", {"x": reals(4, 4)})
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    before = index.read_bytes()
    message = f"-o must be another file than the input; got {str(index)!r} for both."
    assert run("calibrate", index, "-o", index, "--force") == (2, "", f"qnumpy calibrate: {message}\n")
    assert index.read_bytes() == before
    assert run("calibrate", index)[0] == 0


def test_calibrate_refuses(run, activations, tmp_path):
    out = tmp_path / "q.json"
    integers, mixed, hot = tmp_path / "i.npz", tmp_path / "m.npz", tmp_path / "h.npz"
    save(integers, {"ids": np.arange(3)})
    save(mixed, {"x": reals(8, 6)})
    save(hot, {"x": np.array([np.nan])})
    first = activations[0]
    channel = "MinMaxObserver.observe: x must be an array with parameters of shape (5,), as before; "
    channel += "got (6,) from shape (8, 6)."
    nothing = "HistogramObserver.qparams: data must be finite somewhere; got only NaN and infinities."
    for argv, code, message in (
        ([first, "-o", "q.txt"], 2, "-o must end in .json; got 'q.txt'."),
        ([first, "--axis", "1", "-o", out], 2, "axis must be left out per tensor; got 1."),
        ([first, "--group-size", "0", "-o", out], 2, "group size must be at least 1; got 0."),
        ([first, "--per", "channel", "--group-size", "4"], 2, "group size must be left out per channel; got 4."),
        (
            [first, "--dtype", "float8_e5m2", "--no-symmetric"],
            2,
            "float8_e5m2 must be symmetric: it has no zero point.",
        ),
        ([integers, "-o", out], 2, "DATA must hold floating arrays; got none."),
        (
            [first, "--method", "percentile", "--percentile", "200", "-o", out],
            2,
            "HistogramObserver: percentile must be in (0, 100]; got 200.0.",
        ),
        (
            [first, mixed, "--per", "channel", "--method", "minmax", "-o", out],
            3,
            f"{mixed}: tensor 'x': {channel}",
        ),
        ([hot, "-o", out], 3, f"tensor 'x': {nothing}"),
    ):
        assert run("calibrate", *argv) == (code, "", f"qnumpy calibrate: {message}\n")
        assert not out.exists()
    out.write_text("mine")
    message = f"-o must be a new file, or --force given to replace it; {str(out)!r} exists."
    assert run("calibrate", first, "-o", out) == (2, "", f"qnumpy calibrate: {message}\n")
    assert run("calibrate", first, "-o", out, "--force")[0] == 0
    assert set(qn.load(out)) == {"x", "y"}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_calibrate_observes_moments(run, activations, tmp_path, suffix):
    out = tmp_path / f"moments.{suffix}"
    code, table, err = run("calibrate", *activations, "--method", "moments", "-o", out)
    assert (code, err) == (0, "")
    expected = qn.Calibration(qn.MomentsObserver())
    for path in activations:
        for name, x in load(path).items():
            if name != "ids":
                expected.observe(name, x)
    back = load(out)
    assert {name: value.to_json() for name, value in back.items()} == {
        name: observer.to_json() for name, observer in expected.observers.items()
    }
    assert table == f"{expected.report()}\n"
    assert "10 rows" in table
    assert run("calibrate", activations[0], "--method", "moments")[0] == 0  # the table alone
    listed = run("inspect", out)[1]
    assert "moments of 10 rows" in listed
    assert json.loads(run("inspect", out, "--json")[1])["tensors"][0]["moments"]["rows"] == 10


@pytest.mark.parametrize(("options", "message"), [
    (["-o", "q.json"], "-o must end in .npz or .safetensors; got 'q.json'."),
    (["--per", "channel"], "--dtype, --per, --axis, --group-size and --no-symmetric must be left out for moments."),
    (["--dtype", "int4"], "--dtype, --per, --axis, --group-size and --no-symmetric must be left out for moments."),
])  # fmt: skip
def test_moments_have_no_scheme(run, activations, options, message):
    assert run("calibrate", activations[0], "--method", "moments", *options) == (
        2,
        "",
        f"qnumpy calibrate: {message}\n",
    )
