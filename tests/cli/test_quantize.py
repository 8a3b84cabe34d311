"""``qnumpy quantize``: the file and the table, refusals, and that no input is ever lost."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tensor_files import reals

import qnumpy as qn
from qnumpy import cli
from qnumpy.files.store import Reader, load, save

SUFFIXES = ["npz", "safetensors"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_quantize_writes_what_quantize_gives(run, model, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    code, table, err = run("quantize", model, "-o", out)
    assert (code, err) == (0, "")
    before, after = load(model), load(out)
    assert set(after) == set(before)
    for name, x in before.items():
        if name.endswith("weight"):
            assert after[name] == qn.quantize(x, granularity=qn.PerChannel(0))
        else:
            np.testing.assert_array_equal(after[name], x)
        assert name in table
    assert "1-D" in table
    assert "integer" in table


def test_every_option_reaches_the_arrays(run, model, tmp_path):
    out = tmp_path / "out.npz"
    options = ["--dtype=uint4", "--group-size=5", "--axis=0", "--no-symmetric", "--exclude=head"]
    assert run("quantize", model, "-o", out, *options)[0] == 0
    before, after = load(model), load(out)
    for name in ("embed.weight", "fc.weight"):
        expected = qn.quantize(before[name], dtype="uint4", granularity=qn.PerGroup(5, 0), symmetric=False)
        assert after[name] == expected
    np.testing.assert_array_equal(after["head.weight"], before["head.weight"])


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ("int4,group=8", {"dtype": "int4", "granularity": qn.PerGroup(8)}),
        ("int4", {"dtype": "int4", "granularity": qn.PerChannel(0)}),
        ("channel,axis=-1", {"granularity": qn.PerChannel(-1)}),
        ("tensor,no-symmetric,uint8", {"dtype": "uint8", "granularity": qn.PerTensor(), "symmetric": False}),
        ("group", {"granularity": qn.PerGroup(32)}),
    ],
)
def test_set_changes_what_matches(run, model, tmp_path, options, scheme):
    out = tmp_path / "out.safetensors"
    assert run("quantize", model, "-o", out, "--set", f"fc={options}", "--set", r"fc\.bias=keep")[0] == 0
    before, after = load(model), load(out)
    assert after["fc.weight"] == qn.quantize(before["fc.weight"], **scheme)
    assert after["head.weight"] == qn.quantize(before["head.weight"], granularity=qn.PerChannel(0))
    assert isinstance(after["fc.bias"], np.ndarray)  # the last --set wins


def test_set_may_quantize_one_dimension(run, model, tmp_path):
    out = tmp_path / "out.npz"
    assert run("quantize", model, "-o", out, "--set", "fc.bias=int8,tensor")[0] == 0
    assert load(out)["fc.bias"] == qn.quantize(load(model)["fc.bias"])


@pytest.mark.parametrize("method", ["minmax", "mse", "entropy", "percentile"])
@pytest.mark.parametrize("options", [["--per=tensor"], [], ["--group-size=8", "--dtype=int4"], ["--dtype=float8_e5m2"]])
def test_methods_choose_the_range(run, model, tmp_path, method, options):
    out = tmp_path / "out.npz"
    code, text, err = run("quantize", model, "-o", out, "--method", method, "--percentile=90", "--json", *options)
    assert (code, err) == (0, "")
    before, after = load(model), load(out)
    methods = {record["name"]: record["method"] for record in json.loads(text)["tensors"]}
    for name, q in after.items():
        if isinstance(q, np.ndarray):
            assert methods[name] is None
            continue
        scheme = {"dtype": q.qparams.code.name, "granularity": q.qparams.granularity}
        params = qn.choose_qparams(before[name], method=method, percentile=90.0, **scheme)
        assert q == qn.quantize(before[name], params)
        assert methods[name] == method


def test_set_changes_the_method(run, model, tmp_path):
    out = tmp_path / "out.npz"
    options = ["--method=percentile", "--set", "fc.w=method=mse,tensor", "--set", "head=mxfp4"]
    code, table, _ = run("quantize", model, "-o", out, *options)
    assert code == 0
    x, q = load(model)["fc.weight"], load(out)["fc.weight"]
    assert q == qn.quantize(x, method="mse")
    assert table.splitlines()[0].split()[:5] == ["tensor", "shape", "type", "granularity", "method"]
    assert re.search(r"embed\.weight +\(40, 16\) +int8 +per channel 0 +percentile ", table)
    assert re.search(r"fc\.weight +\(12, 16\) +int8 +per tensor +mse ", table)
    assert re.search(r"head\.weight +\(5, 12\) +mxfp4 +per group 32 +- ", table)
    assert "method" not in run("quantize", model, "--dry-run")[1]  # all by minmax


@pytest.mark.parametrize(("options", "message"), [
    (["--method=mse", "--dtype=mxfp4"], "method must be minmax for mxfp4, which chooses no range."),
    (["--method=entropy", "--dtype=nvfp4"], "method must be minmax for nvfp4, which chooses no range."),
    (["--method=mse", "--dtype=bfloat16"], "method must be minmax for bfloat16, which chooses no range."),
    (["--set", "fc=mxfp4,method=mse"], "--set: method must be minmax for mxfp4, which chooses no range."),
    (["--percentile=0"], "percentile must be in (0, 100]; got 0.0."),
    (["--percentile=nan", "--method=percentile"], "percentile must be in (0, 100]; got nan."),
    (["--set", "fc=method=best"],
     "--set must be RE=OPTION[,OPTION...] with a dtype, tensor, channel, group=N, axis=K, symmetric, no-symmetric, "
     "full-range, method=M or keep; got 'fc=method=best'."),
])  # fmt: skip
def test_methods_that_do_not_fit(run, model, tmp_path, options, message):
    out = tmp_path / "out.npz"
    assert run("quantize", model, "-o", out, *options) == (2, "", f"qnumpy quantize: {message}\n")
    assert not out.exists()


def test_include_keeps_the_rest(run, model, tmp_path):
    code, table, _ = run("quantize", model, "-o", tmp_path / "out.npz", "--include", "fc", "--include", "head")
    assert code == 0
    assert "not included" in table
    kinds = {name: type(value) for name, value in load(tmp_path / "out.npz").items()}
    assert kinds["embed.weight"] is np.ndarray
    assert kinds["fc.weight"] is kinds["head.weight"] is qn.QuantizedArray


def test_metadata_and_order_survive(run, model, tmp_path):
    out = tmp_path / "out.safetensors"
    run("quantize", model, "-o", out)
    with Reader(model) as before, Reader(out) as after:
        assert after.metadata == before.metadata == {"format": "pt"}
        assert list(after.specs) == list(before.specs)


def test_quantizing_again_changes_nothing(run, model, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run("quantize", model, "-o", one)
    code, table, _ = run("quantize", one, "-o", two)
    assert code == 0
    assert "already quantized" in table
    assert one.read_bytes() == two.read_bytes()


def test_float8_and_other_dtypes_pass_through(run, tmp_path):
    arrays = {"f8": reals(4, 4).astype(ml_dtypes.float8_e4m3fn), "w": reals(4, 4), "b": np.ones((2, 2), bool)}
    save(tmp_path / "a.safetensors", arrays)
    code, table, _ = run("quantize", tmp_path / "a.safetensors", "-o", tmp_path / "out.safetensors")
    assert code == 0
    after = load(tmp_path / "out.safetensors")
    assert after["f8"].tobytes() == arrays["f8"].tobytes()
    assert after["f8"].dtype == ml_dtypes.float8_e4m3fn
    assert "float8_e4m3fn" in table


def test_shards_become_one_file(run, tmp_path):
    arrays = {"a.weight": reals(4, 5), "b.weight": reals(6, 7)}
    homes = {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}
    for name, shard in homes.items():
        safetensors.numpy.save_file({name: arrays[name]}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    assert run("quantize", index, "-o", tmp_path / "out.safetensors")[0] == 0
    after = load(tmp_path / "out.safetensors")
    assert after == {name: qn.quantize(x, granularity=qn.PerChannel(0)) for name, x in arrays.items()}
    code, _, err = run("quantize", index, "-o", tmp_path / "model-1.safetensors", "--force")
    assert code == 2
    assert "another file than the input" in err


def test_dry_run_writes_nothing_and_says_the_same(run, model, tmp_path):
    code, table, err = run("quantize", model, "--dry-run")
    assert (code, err) == (0, "")
    assert run("quantize", model, "-o", tmp_path / "out.safetensors", "--dry-run")[1] == table
    assert list(tmp_path.iterdir()) == [model]
    assert run("quantize", model, "-o", tmp_path / "out.safetensors")[1] == table


def test_json_is_json(run, model):
    code, text, _ = run("quantize", model, "--dry-run", "--json")
    assert code == 0
    assert "fc.weight" in json.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--include", "("], "--include must be a regular expression; got '(': "),
        (["--exclude", "[z-a]"], "--exclude must be a regular expression; got '[z-a]': "),
        (["--set", "(=int4"], "--set must be a regular expression; got '(': "),
        (["--include", "nowhere"], "--include must match the name of a tensor; 'nowhere' matches none."),
        (["--exclude", "nowhere"], "--exclude must match the name of a tensor; 'nowhere' matches none."),
        (["--set", "nowhere=int4"], "--set must match the name of a tensor; 'nowhere' matches none."),
        (["--set", "fc"], "--set must be RE=OPTION[,OPTION...] with a dtype, tensor, channel, group=N, axis=K"),
        (["--set", "fc=int9"], "--set must be RE=OPTION[,OPTION...] with a dtype"),
        (["--set", "fc=group=0"], "--set: group size must be at least 1; got 0."),
        (["--set", "fc=tensor,axis=1"], "--set: axis must be left out per tensor; got 1."),
        (["--group-size", "0"], "group size must be at least 1; got 0."),
        (["--group-size", "8", "--per", "channel"], "group size must be left out per channel; got 8."),
        (["--per", "tensor", "--axis", "0"], "axis must be left out per tensor; got 0."),
        (["--axis", "2"], "tensor 'fc.weight' of shape (12, 16): PerChannel: axis must be in [-2, 1]; got 2."),
    ],
)
def test_bad_options_are_one_sentence(run, model, tmp_path, argv, message):
    code, out, err = run("quantize", model, "-o", tmp_path / "out.npz", *argv)
    assert (code, out) == (2, "")
    assert err.startswith("qnumpy quantize: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [model]


def test_the_output_is_guarded(run, model, tmp_path):
    out = tmp_path / "out.npz"
    assert run("quantize", model)[::2] == (2, "qnumpy quantize: -o OUT must be given; without it use --dry-run.\n")
    assert "must end in .npz or .safetensors" in run("quantize", model, "-o", tmp_path / "out.bin")[2]
    out.write_bytes(b"precious")
    code, _, err = run("quantize", model, "-o", out)
    assert (code, err) == (
        2,
        f"qnumpy quantize: -o must be a new file, or --force given to replace it; {str(out)!r} exists.\n",
    )
    assert out.read_bytes() == b"precious"
    assert run("quantize", model, "-o", out, "--force")[0] == 0
    assert "fc.weight" in load(out)


@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
def test_input_and_output_must_differ(run, model, tmp_path, link):
    before, out = model.read_bytes(), model
    if link:
        out = tmp_path / "link.safetensors"
        (os.symlink if link == "symbolic" else os.link)(model, out)
    code, _, err = run("quantize", model, "-o", out, "--force")
    assert code == 2
    assert "-o must be another file than the input" in err
    assert model.read_bytes() == before


def test_names_that_collide(run, tmp_path):
    save(tmp_path / "a.npz", {"w": reals(3, 4), "w.scale": reals(3)})
    code, _, err = run("quantize", tmp_path / "a.npz", "-o", tmp_path / "out.npz")
    assert code == 2
    assert "got 'w' and 'w.scale', which both need the name 'w.scale'" in err
    assert "--exclude" in err
    assert run("quantize", tmp_path / "a.npz", "-o", tmp_path / "out.npz", "--exclude", "^w$")[0] == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 3)])
def test_trouble_in_the_middle_leaves_nothing(run, model, tmp_path, monkeypatch, suffix, error, code):
    calls = []

    def compare(*args, **named):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return qn.compare(*args, **named)

    monkeypatch.setattr(cli.quantize, "compare", compare)
    got, out, err = run("quantize", model, "-o", tmp_path / f"out.{suffix}")
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [model]


def test_a_full_disk(model, tmp_path):
    """In a process that may write no file of more than 500 bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    argv = [sys.executable, "-m", "qnumpy", "quantize", str(model), "-o", str(tmp_path / "out.safetensors")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, preexec_fn=limit, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert re.fullmatch(r"qnumpy quantize: .*out\.safetensors: .*; no file was written\.\n", done.stderr)
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_follows_the_largest_tensor_not_the_file(tmp_path, suffix):
    """The peak over the interpreter's own stays under half the file: tensors are read and written one by one."""
    path = tmp_path / f"big.{suffix}"
    save(path, {f"{i}.weight": reals(1024, 1024, seed=i) for i in range(24)})  # 24 x 4 MiB
    script = (
        "import resource, sys; from qnumpy import cli;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); code = cli.main(sys.argv[1:]); print(peak() - before, file=sys.stderr); sys.exit(code)"
    )
    argv = [sys.executable, "-c", script, "quantize", str(path), "-o", str(tmp_path / f"out.{suffix}")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert int(done.stderr) < 48 * 1024  # KiB; 12 times the largest tensor


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_conversion_takes_every_floating_tensor(run, model, tmp_path, dtype, suffix):
    out = tmp_path / f"out.{suffix}"
    code, table, err = run("quantize", model, "-o", out, "--dtype", dtype)
    assert (code, err) == (0, "")
    before, after = load(model), load(out)
    for name, x in before.items():
        want = x if name == "steps" else qn.cast(x, dtype)
        assert after[name].dtype == want.dtype
        assert after[name].tobytes() == want.tobytes()
    assert ("bfloat16 already" in table) == (dtype == "bfloat16")
    assert run("compare", model, out)[0] == 0
    assert run("compare", model, out, "--fail-below-sqnr", 30)[0] == 0
    assert run("compare", model, out, "--fail-below-sqnr", 200)[0] == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["mxfp8_e4m3", "mxfp6_e3m2", "mxfp4", "nvfp4", "float8_e4m3fn", "float4_e2m1fn"])
def test_blocks_and_float_codes(run, model, tmp_path, dtype, suffix):
    out = tmp_path / f"out.{suffix}"
    code, table, err = run("quantize", model, "-o", out, "--dtype", dtype)
    assert (code, err) == (0, "")
    before, after = load(model), load(out)
    for name in ("embed.weight", "fc.weight", "head.weight"):
        options = {"granularity": qn.PerChannel(0)} if dtype.startswith("float") else {}
        assert after[name] == qn.quantize(before[name], dtype=dtype, **options)
    assert after["fc.bias"].dtype == np.float32
    assert dtype in table
    assert dtype in run("inspect", out)[1]
    assert dtype in run("compare", model, out)[1]


def test_set_may_name_any_type(run, model, tmp_path):
    out = tmp_path / "out.npz"
    options = ["--dtype=mxfp4", "--set", "embed=bfloat16", "--set", "head=int8,channel", "--set", "bias=float16"]
    assert run("quantize", model, "-o", out, *options)[0] == 0
    after = load(out)
    assert {name: getattr(value, "format", None) for name, value in after.items()}["fc.weight"] == "mxfp4"
    assert after["head.weight"].codes.dtype == np.int8
    assert after["fc.bias"].dtype == np.float16
    assert after["embed.weight"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("options", [["--per=tensor"], ["--group-size=8"], ["--axis=1"], ["--no-symmetric"]])
@pytest.mark.parametrize("dtype", ["float16", "mxfp4"])
def test_options_that_leave_no_choice(run, model, tmp_path, dtype, options):
    code, _, err = run("quantize", model, "-o", tmp_path / "out.npz", "--dtype", dtype, *options)
    assert code == 2
    assert err.endswith(f"granularity, axis, group size and symmetry must be left out for {dtype}.\n")
    code, _, err = run("quantize", model, "--dry-run", "--dtype=float8_e5m2", "--no-symmetric")
    assert (code, err) == (2, "qnumpy quantize: float8_e5m2 must be symmetric: it has no zero point.\n")


def test_a_number_that_float16_lacks_is_refused(run, tmp_path):
    path, out = tmp_path / "wide.npz", tmp_path / "out.npz"
    save(path, {"w": np.array([1.0, 7e4], np.float32), "b": np.ones(2, np.float32)})
    code, _, err = run("quantize", path, "-o", out, "--dtype", "float16")
    assert code == 3
    assert "tensor 'w': cast: x must be in the range of float16" in err
    assert err.endswith("--exclude keeps it as it is.\n")
    assert not out.exists()
    assert run("quantize", path, "-o", out, "--dtype", "float16", "--exclude", "w")[0] == 0
    assert load(out)["b"].dtype == np.float16


def test_numbers_beyond_float32(run, tmp_path):
    """No float32 scale covers them: the message names the file and the tensor, and no file is written."""
    path, out = tmp_path / "big.npz", tmp_path / "out.npz"
    np.savez(path, w=np.array([[1e300, -1.0]]))
    for dtype in ("int8", "float8_e4m3fn", "nvfp4"):
        code, _, err = run("quantize", path, "-o", out, "--dtype", dtype)
        assert code == 3
        assert err.startswith(f"qnumpy quantize: {path}: tensor 'w': ")
    code, _, err = run("calibrate", path, "-o", tmp_path / "q.json")
    assert code == 3
    assert "tensor 'w'" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.npz"]


def test_ctrl_c_after_the_rename_does_not_deny_the_file(tmp_path):
    """The table is longer than a pipe holds and nobody reads it: the command waits there, with its file written."""
    model, out = tmp_path / "model.npz", tmp_path / "out.npz"
    save(model, {f"{k}" + "x" * 1000: np.ones((2, 2), np.float32) for k in range(200)})
    command = [sys.executable, "-m", "qnumpy", "quantize", model, "-o", out]

    def heard():  # a shell starts jobs in the background with the signal ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
        end = time.monotonic() + 60
        while not out.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == f"qnumpy quantize: interrupted; {str(out)!r} is whole, or as it was.\n"
    assert len(load(out)) == 200


def test_a_dtype_that_safetensors_lacks(run, tmp_path):
    model = tmp_path / "model.npz"
    np.savez(model, z=np.ones(3, np.complex128), w=reals(2, 3))
    code, _, err = run("quantize", model, "-o", tmp_path / "out.safetensors")
    assert code == 2
    assert "complex128" in err
    assert err.endswith("A .npz file holds it.\n")
    assert run("quantize", model, "-o", tmp_path / "out.npz")[0] == 0


@pytest.mark.parametrize(
    "options", [["--set", "w=group=" + "9" * 5000], ["--set", "w=axis=" + "9" * 5000], ["--include", "[[b]"]]
)
def test_options_that_python_would_stumble_over(run, model, options):
    code, out, err = run("quantize", model, "--dry-run", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"qnumpy quantize: {options[0]} must be ")
    assert len(err) < 300


# ---- moments ----


@pytest.fixture
def moments(tmp_path):
    """Moments of the inputs of two layers: one under the name of the layer, one under that of its weight."""
    observers = {"fc": qn.MomentsObserver().observe(reals(50, 16, seed=5)),
                 "head.weight": qn.MomentsObserver().observe(reals(50, 12, seed=6))}  # fmt: skip
    path = tmp_path / "moments.npz"
    save(path, observers)
    return path


@pytest.mark.parametrize("method", ["gptq", "mse"])
@pytest.mark.parametrize(("options", "scheme"), [
    ([], {"granularity": qn.PerChannel(0)}),
    (["--group-size=8", "--no-symmetric"], {"granularity": qn.PerGroup(8), "symmetric": False}),
    (["--group-size=8", "--full-range"], {"granularity": qn.PerGroup(8), "symmetric": "full"}),
])  # fmt: skip
def test_moments_choose_the_codes(run, model, moments, tmp_path, method, options, scheme):
    out = tmp_path / "out.safetensors"
    code, table, err = run(
        "quantize", model, "-o", out, "--dtype=int4", "--method", method, "--moments", moments, *options
    )
    assert (code, err) == (0, "")
    before, after, observers = load(model), load(out), load(moments)
    for name, key in (("fc.weight", "fc"), ("head.weight", "head.weight")):
        assert after[name] == qn.quantize(before[name], dtype="int4", method=method, moments=observers[key], **scheme)
        assert re.search(rf"{re.escape(name)} .* {method} ", table)
    assert after["embed.weight"] == qn.quantize(before["embed.weight"], dtype="int4", method="mse", **scheme)
    assert re.search(r"embed\.weight .* mse \(no moments\) ", table)
    assert run("compare", model, out)[0] == 0


def test_set_chooses_where_moments_count(run, model, moments, tmp_path):
    out = tmp_path / "out.npz"
    options = ["--moments", moments, "--set", "fc=int4,full-range,method=gptq", "--set", "fc.bias=keep"]
    assert run("quantize", model, "-o", out, *options)[0] == 0
    before, after = load(model), load(out)
    expected = qn.quantize(
        before["fc.weight"], dtype="int4", granularity=qn.PerChannel(0), symmetric="full", method="gptq",
        moments=load(moments)["fc"],
    )  # fmt: skip
    assert after["fc.weight"] == expected
    assert after["head.weight"] == qn.quantize(before["head.weight"], granularity=qn.PerChannel(0))


def test_full_range_without_moments(run, model, tmp_path):
    out = tmp_path / "out.npz"
    assert run("quantize", model, "-o", out, "--dtype=uint4", "--full-range", "--method=mse")[0] == 0
    x, q = load(model)["fc.weight"], load(out)["fc.weight"]
    assert q == qn.quantize(x, dtype="uint4", granularity=qn.PerChannel(0), symmetric="full", method="mse")


@pytest.mark.parametrize(("options", "message"), [
    (["--method=gptq"], "--moments FILE must be given for the method gptq."),
    (["--method=gptq", "--per=tensor", "--moments=MOMENTS"],
     "granularity must be channel or group for gptq; got tensor."),
    (["--method=gptq", "--axis=1", "--moments=MOMENTS"],
     "--moments: 'fc' must be of 12 inputs, as 'fc.weight' of shape (12, 16) has per channel 1; got 16."),
    (["--moments=MOMENTS"],
     "--moments must have the name of a tensor that gptq or mse quantizes; 'MOMENTS' has none."),
    (["--method=gptq", "--dtype=int16", "--moments=MOMENTS"],
     "dtype must be an integer type of at most 8 bits for gptq; got int16."),
    (["--method=entropy", "--full-range"], "method must be minmax, mse, hqq or gptq for a full range; got entropy."),
    (["--full-range", "--no-symmetric"], "--no-symmetric must be left out beside --full-range."),
    (["--full-range", "--dtype=float8_e5m2"], "float8_e5m2 must be symmetric: it has no zero point."),
    (["--full-range", "--dtype=mxfp4"], "granularity, axis, group size and symmetry must be left out for mxfp4."),
])  # fmt: skip
def test_moments_that_do_not_fit(run, model, moments, tmp_path, options, message):
    out = tmp_path / "out.npz"
    words = [word.replace("MOMENTS", str(moments)) for word in options]
    expected = f"qnumpy quantize: {message.replace('MOMENTS', str(moments))}\n"
    assert run("quantize", model, "-o", out, *words) == (2, "", expected)
    assert not out.exists()


def test_files_of_moments_are_kept(run, moments, tmp_path):
    out = tmp_path / "out.npz"
    code, table, _ = run("quantize", moments, "-o", out)
    assert code == 0
    assert "moments" in table
    assert {name: value.to_json() for name, value in load(out).items()} == {
        name: value.to_json() for name, value in load(moments).items()
    }
    assert run("compare", moments, out, "--fail-below-sqnr=0")[0] == 0
    assert run("dequantize", moments, "-o", tmp_path / "reals.npz")[0] == 0
    changed = load(moments)
    changed["fc"].observe(np.ones((1, 16)))
    save(out, changed)
    assert run("compare", moments, out, "--fail-below-sqnr=0")[0] == 1
    assert run("inspect", moments, "--float", "float16")[1].startswith("tensor")
