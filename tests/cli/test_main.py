"""Every command: usage, exit codes, the environment, pipes, names of tensors."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import save


@pytest.mark.parametrize(
    "argv",
    [[], ["nothing"], ["quantize"], ["quantize", "a.npz", "--dtype", "int9"], ["quantize", "a.npz", "--group-size=x"]],
)
def test_argparse_errors_are_usage(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert "error:" in err


def test_help_and_version(run):
    assert run("--help")[0] == run("quantize", "--help")[0] == 0
    assert run("--version")[:2] == (0, f"qnumpy {qn.__version__}\n")


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


def test_nothing_heavy_is_imported_for_a_plain_run(model, tmp_path):
    script = (
        "import sys; from qnumpy import cli; cli.main(sys.argv[1:]);"
        "print(sorted({'tqdm', 'safetensors', 'onnx', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", script, "quantize", str(model), "-o", str(tmp_path / "out.npz")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_progress_is_for_terminals(run, model, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, out, err = run("quantize", model, "--dry-run")
    assert code == 0
    assert "quantize:" in err
    assert "quantize:" not in out


def test_the_module_runs(model):
    argv = [sys.executable, "-m", "qnumpy", "inspect", str(model)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "fc.weight" in done.stdout
    assert done.stderr == ""


def test_a_closed_pipe_is_no_error(model):
    script = f"{sys.executable} -m qnumpy inspect {model}"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(script.split(), stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has this device")
@pytest.mark.parametrize("command", [
    "--help", "info", "demo", "inspect {model} --json", "inspect {model} --float=float16", "quantize {model} --dry-run",
    "compare {model} {model}", "calibrate {model}",
])  # fmt: skip
def test_output_that_nobody_takes(model, command):
    """A closed or full standard output is one sentence and exit code 3; without standard error it is the code alone."""
    name = "qnumpy" if command.startswith("--") else f"qnumpy {command.split()[0]}"
    start = f"{sys.executable} -m qnumpy {command.format(model=model)}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if command == "info" else ""}
    for redirection, reason in ((">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")):
        done = subprocess.run(f"{start} {redirection}", shell=True, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (3, f"{name}: standard output: {reason}.\n")
        more = redirection.replace(">", "2>")
        done = subprocess.run(f"{start} {redirection} {more}", shell=True, env=environment, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has this device")
@pytest.mark.parametrize(("command", "code"), [
    ("nothing", 2), ("inspect none.npz", 3), ("info", 0),
    ("compare {model} {small} --fail-below-sqnr 500", 1),
])  # fmt: skip
def test_messages_that_nobody_takes(run, model, tmp_path, command, code):
    """Without standard error the exit code stays, and no message goes to standard output."""
    small = tmp_path / "small.npz"
    assert run("quantize", model, "-o", small)[0] == 0
    start = f"{sys.executable} -m qnumpy {command.format(model=model, small=small)}"
    whole = subprocess.run(start, shell=True, capture_output=True)
    for redirection in ("2>&- <&-", "2>/dev/full"):
        done = subprocess.run(f"{start} {redirection}", shell=True, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (code, whole.stdout, b"")


def test_a_gate_that_fails_beats_the_output(run, model, tmp_path):
    small = tmp_path / "small.npz"
    assert run("quantize", model, "-o", small)[0] == 0
    start = f"{sys.executable} -m qnumpy compare {model} {small} --fail-below-sqnr 500"
    done = subprocess.run(f"{start} >&-", shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    gate, output = done.stderr.splitlines()
    assert " below 500 dB: " in gate
    assert output == "qnumpy compare: standard output: Bad file descriptor."


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_reach_the_file(model, tmp_path, closed):
    """The file that is written must not get the number of a closed stream, into which messages go."""
    out, plain = tmp_path / "out.npz", tmp_path / "plain.npz"
    start = f"{sys.executable} -m qnumpy quantize {model} -o"
    subprocess.run(f"{start} {plain}", shell=True, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(f"{start} {out} {closed}", shell=True)
    assert done.returncode == (3 if ">&-" in closed.replace("2>&-", "") else 0)
    assert out.read_bytes() == plain.read_bytes()


def test_json_is_valid_in_any_encoding(tmp_path):
    model = tmp_path / "model.safetensors"
    save(model, {"\xe9\U0001f600": reals(2, 3)})
    for command in (["inspect"], ["quantize", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, "-m", "qnumpy", command[0], model, *command[1:], "--json"],
            env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "\xe9\U0001f600" in str(json.loads(done.stdout))


@pytest.mark.parametrize("program", ["qnumpy", "python -m qnumpy"])
@pytest.mark.parametrize(("variable", "value", "wanted"), [
    ("QNUMPY_ISA", "sse9", "one of .* on this CPU"),
    ("QNUMPY_NUM_THREADS", "0", "an integer from 1 to 256"),
    ("QNUMPY_NUM_THREADS", "two", "an integer from 1 to 256"),
])  # fmt: skip
def test_a_bad_variable_is_one_sentence(model, variable, value, wanted, program):
    """Of the command and of the module, whatever the command computes; help and version need no kernels."""
    (command,) = metadata.entry_points(group="console_scripts", name="qnumpy")
    script = f"import sys; from {command.module} import {command.attr}; sys.exit({command.attr}())"
    start = [sys.executable, *(["-c", script] if program == "qnumpy" else ["-m", "qnumpy"])]
    environment = {**os.environ, variable: value}
    for arguments in (["info"], ["inspect", model], ["quantize", model, "--dry-run"]):
        done = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"qnumpy: {variable} must be {wanted}; got '{value}'\.\n", done.stderr)
    fine = subprocess.run([*start, "--version"], env=environment, capture_output=True, text=True)
    assert (fine.returncode, fine.stdout) == (0, f"qnumpy {qn.__version__}\n")


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


@pytest.mark.parametrize("shard", ["a\0.safetensors", "\udc80.safetensors"])
def test_a_shard_that_no_file_can_be(run, tmp_path, shard):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    code, _, err = run("inspect", index)
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith(f"qnumpy inspect: {index}: tensor 'w' must be in a .safetensors file")
