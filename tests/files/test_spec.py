"""The description of a tensor in a file: the plain tensors that hold it, the schema, and wrong schemas."""

import json
import os
import re
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tensor_files import plain_tensors, reals

import qnumpy as qn
from qnumpy.files.spec import FORMAT_VERSION, TensorSpec, is_same_moments
from qnumpy.files.store import Reader, Writer, load, save

FIXTURES = Path(__file__).parents[1] / "fixtures"
golden = runpy.run_path(str(FIXTURES / "make_golden.py"))["arrays"]


def test_the_layout_by_hand(tmp_path):
    """Low nibble first, rows padded apart, symmetric zero points left out."""
    raw, schema = plain_tensors(FIXTURES / "golden.safetensors")
    np.testing.assert_array_equal(raw["int4.group"], [[0x79, 0x10, 0x0F], [0xE2, 0xD3, 0x04]])
    np.testing.assert_array_equal(raw["int4.group.scale"], np.float32([[0.5, 0.25, 2.0], [1.0, 0.125, 4.0]]))
    np.testing.assert_array_equal(raw["uint4.affine"], [[0xF0, 0x08], [0x21, 0x03]])
    np.testing.assert_array_equal(raw["uint4.affine.zero_point"], [0x83, 0x00])
    np.testing.assert_array_equal(raw["int2.tensor"], [0b01_01_00_11, 0b11])
    assert raw["uint16.affine.zero_point"] == np.uint16(1000)
    assert {"int4.group.zero_point", "int8.channel.zero_point"}.isdisjoint(raw)
    assert schema["format_version"] == 1 < FORMAT_VERSION  # what version 1 can say has it still
    assert schema["tensors"]["int4.group"] == {
        "dtype": "int4",
        "shape": [2, 5],
        "granularity": {"kind": "group", "group_size": 2, "axis": -1},
        "qmin": -7,
        "qmax": 7,
    }
    assert "float32" not in schema["tensors"]


def test_symmetric_unsigned_zero_points_are_left_out(tmp_path):
    q = qn.quantize(reals(3, 4), dtype="uint8")
    save(tmp_path / "a.npz", {"w": q})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file) == {"__qnumpy__", "w", "w.scale"}
    assert load(tmp_path / "a.npz")["w"] == q


def test_the_plan_knows_the_bytes(tmp_path):
    arrays = golden()
    save(tmp_path / "a.safetensors", arrays)
    (header,) = struct.unpack("<Q", (tmp_path / "a.safetensors").read_bytes()[:8])
    planned = sum(TensorSpec.of(value).nbytes for value in arrays.values())
    assert os.path.getsize(tmp_path / "a.safetensors") == 8 + header + planned


@pytest.mark.parametrize("name", ["mxfp6_e2m3", "mxfp6_e3m2"])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 64, 70])
def test_codes_of_6_bits(tmp_path, name, columns):
    """Four take three bytes in format version 2; version 1 gave each a byte, and still loads."""
    path, q = tmp_path / "a.npz", qn.quantize(reals(5, columns), dtype=name)
    save(path, {"w": q, "x": reals(3)})
    with np.load(path) as file:
        parts = dict(file)
    schema = json.loads(parts["__qnumpy__"].tobytes())
    assert (schema["format_version"], parts["w"].shape) == (2, (5, -(-columns * 6 // 8)))
    assert TensorSpec.of(q).nbytes == parts["w"].nbytes + parts["w.scale"].nbytes == q.nbytes
    assert load(path)["w"] == q
    save(tmp_path / "a.safetensors", {"w": q})
    assert load(tmp_path / "a.safetensors")["w"] == q
    schema["format_version"] = 1
    parts["__qnumpy__"] = np.frombuffer(json.dumps(schema).encode(), np.uint8)
    np.savez(path, **{**parts, "w": q.codes.view(np.uint8)})
    assert load(path)["w"] == q


def test_padding_of_another_writer(tmp_path):
    """Its bits behind the last code do not take part in the comparison."""
    path, q = tmp_path / "a.safetensors", qn.quantize(reals(2, 5), dtype="int4")
    save(path, {"w": q})
    raw, schema = plain_tensors(path)
    raw["w"][:, -1] |= 0xA0
    safetensors.numpy.save_file(raw, path, metadata={"qnumpy": json.dumps(schema)})
    assert load(path)["w"] == q


def with_schema(path, change):
    """Save one quantized array, its schema changed."""
    q = qn.quantize(reals(2, 6), dtype="int4", granularity=qn.PerGroup(2))
    save(path, {"w": q, "x": reals(2)})
    tensors, schema = plain_tensors(path)
    change(schema, schema["tensors"]["w"], tensors)
    text = schema if isinstance(schema, str) else json.dumps(schema)
    safetensors.numpy.save_file(tensors, path, metadata={"qnumpy": text})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, w, t: s.update(format_version=4), "format_version must be 1 to 3; got 4."),
        (lambda s, w, t: s.update(format_version=True), "format_version must be 1 to 3; got True."),
        (lambda s, w, t: s.pop("format_version"), "format_version must be 1 to 3; got None."),
        (lambda s, w, t: s.pop("tensors"), "the qnumpy schema must have an object 'tensors'; got None."),
        (lambda s, w, t: s["tensors"].update(v=w), "tensor 'v' is in the qnumpy schema and not in the file."),
        (lambda s, w, t: t.pop("w.scale"), "tensor 'w.scale' is in the qnumpy schema and not in the file."),
        (lambda s, w, t: w.update(dtype="int9"), "tensor 'w': the qnumpy schema is wrong: dtype 'int9' is unknown."),
        (lambda s, w, t: w.update(dtype="finfo", granularity=None), "dtype 'finfo' is unknown."),
        (lambda s, w, t: w.update(shape=[2, -6]), "shape [2, -6] is no list of sizes."),
        (lambda s, w, t: w.update(shape=[2, 7]), "tensor 'w' must be uint8 (2, 4) by the qnumpy schema"),
        (lambda s, w, t: w.update(dtype="int8"), "tensor 'w' must be int8 (2, 6) by the qnumpy schema"),
        (
            lambda s, w, t: w.update(granularity={"kind": "rows"}),
            "granularity must be what Granularity.to_dict returns; got {'kind': 'rows'}.",
        ),
        (lambda s, w, t: w["granularity"].update(axis=5), "PerGroup: axis must be in [-2, 1]; got 5."),
        (lambda s, w, t: w["granularity"].update(group_size=0), "group_size must be at least 1; got 0."),
        (lambda s, w, t: w["granularity"].update(group_size=3), "tensor 'w.scale' must be float32 (2, 2)"),
        (lambda s, w, t: w.update(qmin="a"), "qmin and qmax 'a', 7 are no integers."),
        (lambda s, w, t: w.update(qmin=-9), "tensor 'w': QParams: qmin and qmax must satisfy"),
        (lambda s, w, t: w.pop("qmin"), "tensor 'w': the qnumpy schema is wrong: 'qmin'"),
        (lambda s, w, t: t.update({"w.scale": -t["w.scale"]}), "tensor 'w': QParams: scale must be positive"),
        (
            lambda s, w, t: t.update({"w.zero_point": np.zeros(3, np.uint8)}),
            "tensor 'w.zero_point' must be uint8 (2, 2)",
        ),
    ],
)
def test_a_schema_that_lies(tmp_path, change, message):
    path = with_schema(tmp_path / "a.safetensors", change)
    with pytest.raises(qn.FileFormatError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(4, 0), qn.PerRow()], ids=str)
def test_an_entry_of_the_schema_round_trips(granularity):
    spec = TensorSpec.quantized((6, 8), "uint4", granularity, symmetric=False)
    assert TensorSpec.from_dict("w", json.loads(json.dumps(spec.to_dict())), {"w.zero_point": ...}) == spec


def test_specs_refuse():
    want = "TensorSpec: dtype must be a code type such as 'int8' or 'uint4'; got 'int9'."
    with pytest.raises(TypeError, match=f"^{re.escape(want)}$"):
        TensorSpec.quantized((3,), "int9", qn.PerTensor(), symmetric=True)
    with pytest.raises(ValueError, match=r"^TensorSpec: format must be the name of an MX format; got 'mxfp3'\.$"):
        TensorSpec.blocks((3,), "mxfp3")


# Codes of 6 bits


@pytest.mark.parametrize("dtype", ["mxfp6_e2m3", "mxfp6_e3m2"])
def test_codes_of_six_bits(tmp_path, dtype):
    """Four take three bytes, in files of version 2; in those of version 1 each takes a byte."""
    q = qn.quantize(reals(3, 7), dtype=dtype)
    path = tmp_path / "a.npz"
    save(path, {"w": q})
    with np.load(path) as raw:
        raw = dict(raw)
    schema = json.loads(raw["__qnumpy__"].tobytes())
    assert (schema["format_version"], raw["w"].shape) == (2, (3, 6))
    codes = q.codes.view(np.uint8) & 63
    bits = np.unpackbits(codes, bitorder="little").reshape(3, 7, 8)[..., :6].reshape(3, 42)
    np.testing.assert_array_equal(raw["w"], np.packbits(bits, axis=-1, bitorder="little"))
    old = np.frombuffer(json.dumps({**schema, "format_version": 1}).encode(), np.uint8)
    np.savez(path, **{**raw, "w": codes, "__qnumpy__": old})
    assert load(path)["w"] == q
    with Reader(path) as reader, Writer(tmp_path / "b.npz", reader.specs) as writer:  # in the newest form
        writer.write("w", reader.read("w"))
    with np.load(tmp_path / "b.npz") as new:
        np.testing.assert_array_equal(new["w"], raw["w"])


# PackedWeight

W = reals(64, 16)
X = reals(5, 64, seed=1)
PER_COLUMN, GROUPS = qn.PerChannel(1), qn.PerGroup(32, 0)
LAYERS = {
    "int8": qn.PackedWeight(qn.quantize(W, granularity=PER_COLUMN)),
    "one scale": qn.PackedWeight(qn.quantize(W), symmetric=False, x_granularity=qn.PerTensor()),
    "zero points": qn.PackedWeight(
        qn.quantize(W, dtype="uint8", symmetric=False, granularity=PER_COLUMN), bias=W[0], clip=(0, None)
    ),
    "transposed": qn.PackedWeight(qn.quantize(W.T, granularity=qn.PerChannel(0)), axis=1, activation_bits=7),
    "fixed": qn.PackedWeight(
        qn.quantize(W, dtype="int4", granularity=PER_COLUMN), bias=W[1], clip=(-1.1, 2.3),
        x_qparams=qn.QParams(0.03, 100, "uint8"), out_qparams=qn.QParams(0.25, -3),
    ),
    "groups": qn.PackedWeight(qn.quantize(W, dtype="int4", granularity=GROUPS), scale_dtype="float16"),
    "rotated": qn.PackedWeight(qn.quantize(W), hadamard=qn.weights.Hadamard(len(W), seed=3)),
    "groups, zero points": qn.PackedWeight(
        qn.quantize(W, dtype="uint4", symmetric=False, granularity=GROUPS), bias=W[2], x_granularity=qn.PerRow()
    ),
    "empty": qn.PackedWeight(qn.quantize(W[:, :0]), bias=[]),
}  # fmt: skip


def packed_options(packed):
    _, (_, options) = packed.__reduce__()
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in options.items()}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_packed_weight_comes_back(tmp_path, suffix):
    save(tmp_path / f"a.{suffix}", {**LAYERS, "plain": W})
    loaded = load(tmp_path / f"a.{suffix}")
    assert list(loaded) == [*LAYERS, "plain"]
    for name, layer in LAYERS.items():
        back = loaded[name]
        assert isinstance(back, qn.PackedWeight)
        assert back.unpack() == layer.unpack()
        assert packed_options(back) == packed_options(layer)
        assert (repr(back), back.nbytes) == (repr(layer), layer.nbytes)
        codes = [] if layer.hadamard else [qn.quantize(X, dtype="uint8")]
        for x in (X, X.astype(np.float16), *codes):
            got, expected = x @ back, x @ layer
            assert type(got) is type(expected)
            assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()


def test_a_packed_weight_by_hand(tmp_path):
    """Its codes are those of a quantized array; the options stand beside them."""
    save(tmp_path / "a.safetensors", {"fc": LAYERS["fixed"]})
    raw, schema = plain_tensors(tmp_path / "a.safetensors")
    assert {name: x.shape for name, x in raw.items()} == {"fc": (64, 8), "fc.scale": (16,), "fc.bias": (16,)}
    np.testing.assert_array_equal(raw["fc.bias"], W[1])
    assert schema["format_version"] == 2
    assert schema["tensors"]["fc"] == {
        "dtype": "int4", "shape": [64, 16], "granularity": {"kind": "channel", "axis": 1}, "qmin": -7, "qmax": 7,
        "packed_weight": {
            "bias": True, "clip": [-1.1, 2.3], "scale_dtype": "float32",
            "x_qparams": qn.QParams(0.03, 100, "uint8").to_dict(), "out_qparams": qn.QParams(0.25, -3).to_dict(),
        },
    }  # fmt: skip


def test_the_bias_of_a_packed_weight_takes_a_name(tmp_path):
    want = "save: arrays must not collide in the file; got 'fc' and 'fc.bias', which both need the name 'fc.bias'."
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        save(tmp_path / "a.npz", {"fc": LAYERS["fixed"], "fc.bias": W[0]})
    save(tmp_path / "a.npz", {"fc": LAYERS["int8"], "fc.bias": W[0]})
    assert load(tmp_path / "a.npz")["fc.bias"].shape == (16,)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p, t: p.update(activation_bits=9), "tensor 'fc': PackedWeight: activation_bits must be 8 or 7; got 9."),
    (lambda p, t: p.update(symmetric="False"), "'fc': the qnumpy schema is wrong: symmetric 'False' is no bool."),
    (lambda p, t: p.update(activation_bits=True), "activation_bits True is no int."),
    (lambda p, t: p.update(bias=3), "bias 3 is no bool."),
    (lambda p, t: p.update(scale_dtype=["float16"]), "scale_dtype ['float16'] is no str."),
    (lambda p, t: p.update(scale_dtype="float16"), "scale_dtype must be float32 unless w is in groups; got float16."),
    (lambda p, t: p.update(w=1), "packed_weight has the unknown option 'w'."),
    (lambda p, t: p.update(relu=True), "packed_weight has the unknown option 'relu'."),
    (lambda p, t: p.update(clip=[1, 0]), "clip must be a low and a high bound, in this order; got [1, 0]."),
    (lambda p, t: p.update(clip="no"), "PackedWeight: clip must be two bounds, each a number or None; got 'no'."),
    (lambda p, t: p.update(clip=3), "PackedWeight: clip must be two bounds, each a number or None; got 3."),
    (lambda p, t: p.update(x_qparams=3), "QParams.from_dict: values must be a dict with the keys"),
    (lambda p, t: p.update(out_qparams=qn.QParams(1, 0, "int4").to_dict()),
     "PackedWeight: out_qparams must be of int8 or uint8 per tensor"),
    (lambda p, t: p.update(x_granularity={"kind": "channel", "axis": 0}), "PackedWeight: x_granularity must be "),
    (lambda p, t: t.pop("fc.bias"), "tensor 'fc.bias' is in the qnumpy schema and not in the file."),
    (lambda p, t: t.update({"fc.bias": np.ones(3, np.float32)}), "bias must be of shape (16,); got shape (3,)."),
    (lambda p, t: t.update({"fc.bias": np.ones(16)}), "tensor 'fc.bias' must be float32 (16,) by the qnumpy schema"),
])  # fmt: skip
def test_options_that_lie(tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    save(path, {"fc": qn.PackedWeight(qn.quantize(W), bias=W[0])})
    tensors, schema = plain_tensors(path)
    change(schema["tensors"]["fc"]["packed_weight"], tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"qnumpy": json.dumps(schema)})
    with pytest.raises(qn.FileFormatError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_with_an_axis_is_transposed(tmp_path):
    """Weights in formats of blocks along K are kept as (N, K)."""
    path, w = tmp_path / "a.safetensors", qn.quantize(W.T, granularity=qn.PerChannel(0))
    save(path, {"fc": w, "fc.bias": W[0]})
    tensors, schema = plain_tensors(path)
    schema["format_version"] = 2
    schema["tensors"]["fc"]["packed_weight"] = {"axis": 1, "bias": True, "clip": [0, None]}
    safetensors.numpy.save_file(tensors, path, metadata={"qnumpy": json.dumps(schema)})
    np.testing.assert_array_equal(X @ load(path)["fc"], X @ qn.PackedWeight(w, axis=1, bias=W[0], clip=(0, None)))


# Moments


def moments(rows=9, inputs=4, **config):
    return qn.MomentsObserver(**config).observe(reals(rows, inputs) * 3 + 1)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_moments_round_trip(tmp_path, suffix):
    lost = moments(5, 3)
    lost.observe(np.array([[np.nan, 1, 2], [np.inf, 1, 2]], np.float32))
    observers = {
        "fc": moments(), "one": qn.MomentsObserver().observe([2.0]), "strict": moments(on_nonfinite="raise"),
        "nothing": qn.MomentsObserver().observe([[np.nan, 1.0]]), "lost": lost,
    }  # fmt: skip
    path = tmp_path / f"a.{suffix}"
    save(path, {**observers, "w": reals(2, 3)})
    back = load(path)
    assert list(back) == [*observers, "w"]
    for name, observer in observers.items():
        assert type(back[name]) is qn.MomentsObserver
        assert back[name].to_json() == observer.to_json()
        assert is_same_moments(back[name], observer)
        back[name].observe(np.ones((2, observer.inputs)))  # it owns its memory, and goes on
    with Reader(path) as reader:  # views of a memory map
        reader.read("fc").observe(np.ones((2, 4))).merge(moments())
    assert not is_same_moments(back["fc"], observers["fc"])
    assert load(path, "fc")["fc"].to_json() == observers["fc"].to_json()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_moments_of_a_calibration(tmp_path, suffix):
    observers = {"*.in": qn.MomentsObserver(), "y": qn.MinMaxObserver()}
    calibration = qn.calibrate(lambda x: {"a.in": x, "b.in": 2 * x, "y": x}, [reals(6, 3)], observers)
    save(tmp_path / f"a.{suffix}", calibration)
    back = load(tmp_path / f"a.{suffix}")
    assert {name: value.to_json() for name, value in back.items()} == {
        name: calibration.observers[name].to_json() for name in ("a.in", "b.in")
    }
    save(tmp_path / "a.json", calibration)
    assert load(tmp_path / "a.json") == {"y": calibration["y"]}


def test_only_files_of_moments_are_of_the_third_version(tmp_path):
    save(tmp_path / "a.safetensors", {"x": moments()})
    raw, schema = plain_tensors(tmp_path / "a.safetensors")
    assert (schema["format_version"], FORMAT_VERSION) == (3, 3)
    assert {name: (part.dtype.name, part.shape) for name, part in raw.items()} == {
        "x": ("float64", (4, 4)), "x.mean": ("float64", (4,)),
    }  # fmt: skip
    assert schema["tensors"]["x"]["moments"] == {"rows": 9, "nan": 0, "infinite": 0, "on_nonfinite": "ignore"}


@pytest.mark.parametrize(("arrays", "kind", "message"), [
    ({"x": qn.MomentsObserver()}, qn.CalibrationError, "arrays['x'] must be of observed data; got none."),
    ({"x": qn.MinMaxObserver()}, TypeError, "arrays['x'] must be an array or a MomentsObserver; got MinMaxObserver."),
    ({"x": [moments()]}, TypeError,
     "arrays['x'] must be one quantized array or plain numbers; got a list of MomentsObserver(4 inputs, 9 rows)."),
    ({"x": moments(), "x.mean": np.ones(3)}, ValueError,
     "arrays must not collide in the file; got 'x' and 'x.mean', which both need the name 'x.mean'."),
])  # fmt: skip
def test_moments_that_no_file_holds(tmp_path, arrays, kind, message):
    with pytest.raises(kind) as caught:
        save(tmp_path / "a.npz", arrays)
    assert str(caught.value) == f"save: {message}"
    assert list(tmp_path.iterdir()) == []


def test_moments_alone_are_no_parameters(tmp_path):
    calibration = qn.Calibration(qn.MomentsObserver()).observe("x", reals(3, 2))
    message = "save: arrays must be parameters by name for a .json file; got moments alone. Save them in a .npz file."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        save(tmp_path / "a.json", calibration)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "message"), [
    (lambda x, t: x["moments"].pop("rows"), "tensor 'x': the qnumpy schema is wrong: 'rows'"),
    (lambda x, t: x["moments"].update(rows=-1), "tensor 'x': the qnumpy schema is wrong: rows -1 is no count."),
    (lambda x, t: x["moments"].update(nan=True), "tensor 'x': the qnumpy schema is wrong: nan True is no count."),
    (lambda x, t: x["moments"].update(rows=0), "tensor 'x': inconsistent"),
    (lambda x, t: x["moments"].update(on_nonfinite="skip"), "MomentsObserver: on_nonfinite must be one of"),
    (lambda x, t: x["moments"].update(other=1), "tensor 'x': the qnumpy schema is wrong: "),
    (lambda x, t: x.update(moments=3), "moments 3 are no object beside a square shape."),
    (lambda x, t: x.update(shape=[2, 8]), "are no object beside a square shape."),
    (lambda x, t: x.update(shape=[5, 5]), "tensor 'x' must be float64 (5, 5) by the qnumpy schema"),
    (lambda x, t: t.pop("x.mean"), "tensor 'x.mean' is in the qnumpy schema and not in the file."),
    (lambda x, t: t["x"].__setitem__((0, 1), 99), "tensor 'x': inconsistent"),
    (lambda x, t: t["x"].__setitem__((0, 0), np.nan), "tensor 'x': inconsistent"),
    (lambda x, t: t["x.mean"].__setitem__(0, np.inf), "tensor 'x': inconsistent"),
])  # fmt: skip
def test_moments_that_lie(tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    save(path, {"x": moments()})
    raw, schema = plain_tensors(path)
    tensors = {name: part.copy() for name, part in raw.items()}
    change(schema["tensors"]["x"], tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"qnumpy": json.dumps(schema)})
    with pytest.raises(qn.FileFormatError, match=re.escape(message)):
        load(path)
