"""docs/file-format.md: its reader, which has no qnumpy, returns the reals that qnumpy does; its examples are true."""

import json
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensor_files import plain_tensors, reals

import qnumpy as qn
from qnumpy.dtypes import CODE_TYPES
from qnumpy.files.fields import ML_DTYPES
from qnumpy.files.spec import FORMAT_VERSION, TensorSpec
from qnumpy.files.store import load, save

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SUFFIXES = ["npz", "safetensors"]


@pytest.fixture(scope="module")
def read():
    names = {"__name__": "reader"}
    exec(compile(PROGRAM, "docs/file-format.md", "exec"), names)
    return names["read"]


def real(value):
    if isinstance(value, qn.PackedWeight):
        value = value.unpack()
    if isinstance(value, qn.MomentsObserver):
        return value.scatter_
    return value if isinstance(value, np.ndarray) else value.dequantize()


def assert_reads(read, path, arrays):
    save(path, arrays)
    got, loaded = read(str(path)), load(path)
    assert set(got) == set(arrays)
    for name, value in loaded.items():
        expected = real(value)
        assert (got[name].dtype.name, got[name].shape) == (expected.dtype.name, expected.shape), name
        if expected.dtype.fields is not None or "int" in expected.dtype.name:
            assert str(got[name].tolist()) == str(expected.tolist()), name  # the high bits of int4 are free
        else:
            assert got[name].tobytes() == expected.tobytes(), name


GRANULARITIES = [
    qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerGroup(4), qn.PerGroup(2, 0), qn.PerGroup(5, 1),
    qn.PerRow(),
]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", list(CODE_TYPES))
def test_the_reader_reads_codes(tmp_path, read, suffix, dtype):
    x = reals(3, 5, 7)
    arrays = {
        f"{granularity} {symmetric}": qn.quantize(x, dtype=dtype, granularity=granularity, symmetric=symmetric)
        for granularity in GRANULARITIES
        for symmetric in ([True, False] if CODE_TYPES[dtype].real is None else [True])
    }
    arrays["0-d"] = qn.quantize(np.float32(3), dtype=dtype)
    arrays["empty"] = qn.quantize(x[:, :0], dtype=dtype)
    assert_reads(read, tmp_path / f"a.{suffix}", arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_reader_reads_tables_and_offsets(tmp_path, read, suffix, bits):
    x = reals(3, 5, 70)
    arrays = {
        str(granularity): qn.weights.codebook(x, method="kmeans", bits=bits, granularity=granularity)
        for granularity in (qn.PerTensor(), qn.PerChannel(1), qn.PerRow())
    }
    arrays["few"] = qn.CodebookArray(np.array([[0, 2, 1]], np.uint8), [-1.0, 0.5, 2.0])
    arrays["nf4"] = qn.weights.codebook(x, granularity=qn.PerGroup(16, -1))
    arrays["turned"] = arrays["nf4"].T
    arrays["offsets"] = qn.weights.offsets(x, bits=bits)
    arrays["layer"] = qn.PackedWeight(qn.weights.offsets(x[0], bits=bits), axis=1, bias=np.ones(5))
    assert_reads(read, tmp_path / f"a.{suffix}", arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4"])
def test_the_reader_reads_blocks(tmp_path, read, suffix, dtype):
    x = reals(3, 77)
    x[1, 5] = np.nan
    arrays = {str(n): qn.quantize(x[:, :n], dtype=dtype) for n in (1, 2, 3, 16, 33, 77)}
    assert_reads(read, tmp_path / f"a.{suffix}", arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_reader_reads_the_rest(tmp_path, read, suffix):
    x = reals(3, 5)
    few = np.arange(10).reshape(2, 5) % 2
    arrays = {name: x.astype(dtype) for name, dtype in ML_DTYPES.items() if not ("int" in name or "complex" in name)}
    arrays |= {name: few.astype(ML_DTYPES[name]) for name in ("int4", "uint4", "int2", "uint2")}
    arrays |= {name: few.astype(name) for name in ("int8", "uint16", "int64", "bool", "complex64", "float16")}
    arrays |= {"float32": x, "float64": x.astype(">f8")}
    if suffix == "npz":
        nested = [("b", ml_dtypes.int4, (2,)), ("c", ">f4")]
        arrays["structure"] = np.ones(3, [("a", ml_dtypes.bfloat16), ("n", nested)])
    assert_reads(read, tmp_path / f"plain.{suffix}", arrays)
    arrays["layer"] = qn.PackedWeight(
        qn.quantize(reals(64, 5), dtype="int4", granularity=qn.PerGroup(32, 0)), bias=x[0], clip=(0, None)
    )
    assert_reads(read, tmp_path / f"packed.{suffix}", arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_reader_reads_moments(tmp_path, read, suffix):
    moments = {"x": qn.MomentsObserver().observe(reals(9, 4)), "y": qn.MomentsObserver().observe(reals(1))}
    assert_reads(read, tmp_path / f"a.{suffix}", moments)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_reader_reads_the_golden_files(read, suffix):
    path = ROOT / "tests" / "fixtures" / f"golden.{suffix}"
    if not path.exists():
        pytest.skip("the tests were copied without their fixtures")
    assert set(read(str(path))) == set(load(path))


def test_the_program_runs_alone(tmp_path):
    save(tmp_path / "a.npz", {"w": qn.quantize(reals(3, 5), dtype="int4")})
    code = f"import sys\nsys.modules['qnumpy'] = None\n{PROGRAM}"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.npz"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.stdout, run.stderr) == ("w float32 (3, 5)\n", "")


def test_the_examples_of_the_page(tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    schema = json.loads(text)
    spec = TensorSpec.quantized((4096, 768), "int4", qn.PerGroup(32), symmetric=True)
    assert schema == {"format_version": 1, "tensors": {"w": spec.to_dict()}}
    assert f"format versions 1 to {FORMAT_VERSION}" in PAGE
    codes = np.array([-7, 7, 0, 1, -1], np.int8).astype(ml_dtypes.int4)
    save(tmp_path / "a.safetensors", {"w": qn.QuantizedArray(codes, qn.QParams(1, 0, "int4", qmin=-7))})
    packed = plain_tensors(tmp_path / "a.safetensors")[0]["w"].tolist()
    assert f"are the bytes {' '.join(f'0x{byte:02X}' for byte in packed)}." in PAGE.replace("\n", " ")


def test_the_page_lists_every_type():
    sentence = re.search(r"The types of codes are (.*?)\.\s", PAGE.replace("\n", " ")).group(1)
    assert re.findall(r"\b(?:u?int|float)\d+(?:_\w+)?", sentence) == list(CODE_TYPES)
    options = set(re.findall(r'"(\w+)"', PAGE.split("## PackedWeight")[1].split("## Names")[0]))
    layers = [
        qn.PackedWeight(qn.quantize(reals(4, 2)), bias=[1, 2]),
        qn.PackedWeight(qn.quantize(reals(4, 2)), x_qparams=qn.QParams(1, 0), out_qparams=qn.QParams(1, 0)),
    ]
    written = set().union(*(TensorSpec.of(layer).to_dict()["packed_weight"] for layer in layers))
    assert written <= options
