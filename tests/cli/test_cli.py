"""The command line: what it writes, what it prints, how it ends, and that nothing is ever lost."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib import metadata

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import qnumpy as qn
from qnumpy import cli
from qnumpy.files.store import Reader, load, save

SUFFIXES = ["npz", "safetensors"]


def reals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """A small model: two weights, an embedding in bfloat16, a norm, integers."""
    arrays = {
        "embed.weight": reals(40, 16).astype(ml_dtypes.bfloat16),
        "fc.weight": reals(12, 16, seed=1),
        "fc.bias": reals(12, seed=2),
        "head.weight": reals(5, 12, seed=3),
        "steps": np.arange(6).reshape(2, 3),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = cli.main([str(word) for word in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# quantize


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
        (["--set", "fc=int3"], "--set must be RE=OPTION[,OPTION...] with a dtype"),
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


@pytest.mark.parametrize(
    "argv",
    [[], ["nothing"], ["quantize"], ["quantize", "a.npz", "--dtype", "int3"], ["quantize", "a.npz", "--group-size=x"]],
)
def test_argparse_errors_are_usage(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert "error:" in err


def test_help_and_version(run):
    assert run("--help")[0] == run("quantize", "--help")[0] == 0
    assert run("--version")[:2] == (0, f"qnumpy {qn.__version__}\n")


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


def test_bad_files(run, model, tmp_path):
    out = tmp_path / "out.npz"
    assert run("quantize", tmp_path / "none.npz", "-o", out)[::2] == (
        3,
        f"qnumpy quantize: {tmp_path / 'none.npz'}: No such file or directory.\n",
    )
    model.write_bytes(model.read_bytes()[:-1])
    code, _, err = run("quantize", model, "-o", out)
    assert code == 3
    assert re.search(r"model\.safetensors: tensor '.*' ends at byte .*truncated", err)
    assert run("inspect", tmp_path / "a.bin")[0] == 2
    code, _, err = run("quantize", model, "-o", tmp_path / "none" / "out.npz")
    assert code == 3
    save(tmp_path / "nan.npz", {"w": np.full((2, 2), np.nan)})
    code, _, err = run("quantize", tmp_path / "nan.npz", "-o", out)
    assert code == 3
    assert "tensor 'w'" in err
    assert not out.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 3)])
def test_trouble_in_the_middle_leaves_nothing(run, model, tmp_path, monkeypatch, suffix, error, code):
    calls = []

    def compare(*args, **named):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return compare_arrays(*args, **named)

    monkeypatch.setattr(cli.main, "compare", compare)
    got, out, err = run("quantize", model, "-o", tmp_path / f"out.{suffix}")
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [model]


def test_a_full_disk(model, tmp_path):
    """In a process that may write no file of more than 500 bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    argv = [sys.executable, "-m", "qnumpy", "quantize", str(model), "-o", str(tmp_path / "out.safetensors")]
    done = subprocess.run(argv, preexec_fn=limit, capture_output=True, text=True, check=False, env=with_path())
    assert done.returncode == 3
    assert re.fullmatch(r"qnumpy quantize: .*out\.safetensors: .*; no file was written\.\n", done.stderr)
    assert list(tmp_path.iterdir()) == [model]


def with_path():
    """Child processes import the same qnumpy as the tests."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


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
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=with_path())
    assert int(done.stderr) < 48 * 1024  # KiB; 12 times the largest tensor


def test_nothing_heavy_is_imported_for_a_plain_run(model, tmp_path):
    script = (
        "import sys; from qnumpy import cli; cli.main(sys.argv[1:]);"
        "print(sorted({'tqdm', 'safetensors', 'onnx', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", script, "quantize", str(model), "-o", str(tmp_path / "out.npz")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=with_path())
    assert done.stderr == "[]\n"


def test_progress_is_for_terminals(run, model, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, out, err = run("quantize", model, "--dry-run")
    assert code == 0
    assert "quantize:" in err
    assert "quantize:" not in out


# inspect


def test_inspect_lists_every_tensor(run, model, tmp_path):
    out = tmp_path / "out.safetensors"
    run("quantize", model, "-o", out, "--dtype=int4", "--group-size=8")
    code, text, _ = run("inspect", out)
    assert code == 0
    assert re.search(r"embed\.weight +int4 +\(40, 16\) +per group 8 +640\n", text)  # 320 bytes of codes, 80 scales
    assert re.search(r"fc\.bias +float32 +\(12,\) +- +48\n", text)
    listed = json.loads(run("inspect", out, "--json")[1])
    assert [tensor["name"] for tensor in listed["tensors"]] == list(load(out))
    assert listed["nbytes"] == sum(tensor["nbytes"] for tensor in listed["tensors"])
    assert run("inspect", model)[0] == 0


# compare


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


# info, demo, the program itself


def test_info(run):
    code, text, _ = run("info")
    assert code == 0
    assert qn.isa() in text
    about = json.loads(run("info", "--json")[1])
    assert about["qnumpy"] == qn.__version__
    assert about["kernels"]


def test_demo(run):
    code, text, _ = run("demo")
    assert code == 0
    assert text


def test_the_module_runs(model):
    argv = [sys.executable, "-m", "qnumpy", "inspect", str(model)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=with_path())
    assert "fc.weight" in done.stdout
    assert done.stderr == ""


def test_a_closed_pipe_is_no_error(model):
    script = f"{sys.executable} -m qnumpy inspect {model}"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(script.split(), stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=with_path())
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# floats and blocks


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
    found = json.loads(run("inspect", path, "--float=float16", "--json")[1])
    assert [tensor["verdict"] for tensor in found["tensors"]] == ["underflows", "overflows"]
    assert found["totals"]["verdicts"] == {"overflows": 1, "underflows": 1}
    assert run("inspect", path, "--float", "int8")[0] == 2


# plot


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
    assert "<!-- in the file" in out.read_text()  # matplotlib says in comments what it draws as paths
    assert run("plot", small, "embed.weight", "-o", out, "--force")[0] == 0


def test_plot_refuses(run, model, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "a.png"
    for argv, message in (
        (["nothing", "-o", out], f"TENSOR must be one of {model}; got 'nothing'."),
        (["steps", "-o", out], "TENSOR must be floating; got 'steps' of int64."),
        (["fc.weight", "-o", "a.txt"], "-o must end in .png or .svg or .pdf; got 'a.txt'."),
        (
            ["fc.weight", "-o", out, "--kind", "channels", "--axis", "5"],
            "tensor 'fc.weight': channel_ranges: axis must be in [-2, 1]; got 5.",
        ),
    ):
        assert run("plot", model, *argv) == (2, "", f"qnumpy plot: {message}\n")
        assert not out.exists()
    out.write_bytes(b"mine")
    says = f"-o must be a new file, or --force given to replace it; {str(out)!r} exists."
    assert run("plot", model, "fc.weight", "-o", out) == (2, "", f"qnumpy plot: {says}\n")
    assert out.read_bytes() == b"mine"
    code, _, err = run("plot", model, "fc.weight", "-o", tmp_path / "no" / "a.png")
    assert (code, "no file was written" in err) == (3, True)


def test_plot_without_matplotlib(run, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    says = "matplotlib must be installed: pip install 'qnumpy[plot]'."
    assert run("plot", model, "fc.weight", "-o", tmp_path / "a.png") == (2, "", f"qnumpy plot: {says}\n")


# calibrate


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
    assert qn.load_qparams(out) == dict(expected)
    assert table == f"{expected.report()}\n"


def test_calibrate_per_channel_and_as_json(run, activations, tmp_path):
    out = tmp_path / "qparams.json"
    code, text, err = run("calibrate", activations[0], "-o", out, "--per", "channel", "--axis", 0, "--json")
    assert (code, err) == (0, "")
    found = qn.load_qparams(out)
    assert {name: params.scale.shape for name, params in found.items()} == {"x": (8,), "y": (3,)}
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
    assert qn.load_qparams(out) == dict(expected)


def test_calibrate_does_not_replace_its_input(run, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    save(tmp_path / "a.safetensors", {"x": reals(4, 4)})
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    before = index.read_bytes()
    says = f"-o must be another file than the input; got {str(index)!r} for both."
    assert run("calibrate", index, "-o", index, "--force") == (2, "", f"qnumpy calibrate: {says}\n")
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
    says = f"-o must be a new file, or --force given to replace it; {str(out)!r} exists."
    assert run("calibrate", first, "-o", out) == (2, "", f"qnumpy calibrate: {says}\n")
    assert run("calibrate", first, "-o", out, "--force")[0] == 0
    assert set(qn.load_qparams(out)) == {"x", "y"}


# the environment


@pytest.mark.parametrize(("variable", "value", "wanted"), [
    ("QNUMPY_ISA", "sse9", "one of .* on this CPU"),
    ("QNUMPY_NUM_THREADS", "0", "an integer from 1 to 256"),
    ("QNUMPY_NUM_THREADS", "two", "an integer from 1 to 256"),
])  # fmt: skip
def test_a_bad_variable_is_one_sentence(variable, value, wanted):
    """The command is not a module of the package, whose import refuses such an environment."""
    (command,) = metadata.entry_points(group="console_scripts", name="qnumpy")
    script = f"import sys; from {command.module} import {command.attr}; sys.exit({command.attr}())"
    done = subprocess.run(
        [sys.executable, "-c", script, "info"], env={**os.environ, variable: value}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"qnumpy: {variable} must be {wanted}; got '{value}'\.\n", done.stderr)
    fine = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True)
    assert (fine.returncode, fine.stdout) == (0, f"qnumpy {qn.__version__}\n")


# info, demo


def test_numbers_beyond_float32(run, tmp_path):
    """No float32 scale covers them: said with the file and the tensor, and nothing is written."""
    path, out = tmp_path / "big.npz", tmp_path / "out.npz"
    np.savez(path, w=np.array([[1e300, -1.0]]))
    for dtype in ("int8", "float8_e4m3fn", "nvfp4"):
        code, _, err = run("quantize", path, "-o", out, "--dtype", dtype)
        assert code == 3
        assert err.startswith(f"qnumpy quantize: {path}: tensor 'w': ")
    code, _, err = run("calibrate", path, "-o", tmp_path / "q.json")
    assert code == 3
    assert "tensor 'w'" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["big.npz"]


# what the other end does


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


def test_ctrl_c_after_the_rename_does_not_deny_the_file(tmp_path):
    """The table is longer than a pipe holds and nobody reads it: the command waits there, with its file written."""
    model, out = tmp_path / "model.npz", tmp_path / "out.npz"
    save(model, {f"{k}" + "x" * 1000: np.ones((2, 2), np.float32) for k in range(200)})
    command = [sys.executable, "-m", "qnumpy", "quantize", model, "-o", out]

    def heard():  # a job in the background of a shell is born deaf to it
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


@pytest.mark.parametrize("command", ["inspect", "quantize", "compare"])
def test_names_do_not_reach_the_terminal_raw(tmp_path, command):
    model = tmp_path / "model.safetensors"
    save(model, {"a\n\x1b[31mb": reals(2, 3), "日": reals(2, 3)})
    rest = {"inspect": [], "quantize": ["--dry-run"], "compare": [model]}[command]
    done = subprocess.run(
        [sys.executable, "-m", "qnumpy", command, model, *rest],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert r"a\n\x1b[31mb" in done.stdout
    assert r"\u65e5" in done.stdout
    assert "\x1b" not in done.stdout


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


@pytest.mark.parametrize("shard", ["a\0.safetensors", "\udc80.safetensors"])
def test_a_shard_that_no_file_can_be(run, tmp_path, shard):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    code, _, err = run("inspect", index)
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith(f"qnumpy inspect: {index}: tensor 'w' must be in a .safetensors file")
