"""GGUF files: one byte by byte, the gguf package both ways, metadata, and headers that lie."""

import struct

import ml_dtypes
import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import Reader
from qnumpy.ops.gguf import GGUF_TYPES

NUMBERS = {
    "architecture": "llama", "text": "é\n", "u": np.uint8(7), "i": np.int8(-7), "h": np.uint16(9), "s": np.int16(-9),
    "count": 32, "low": -5, "wide": 1 << 40, "deep": -(1 << 40), "l": np.int64(5), "d": np.float64(0.1), "f": 1.5,
    "yes": True, "no": np.bool_(False), "texts": ["a", "b", ""], "ints": [1, 2, 3], "floats": [0.5, 1.0],
    "row": np.arange(4, dtype=np.int16), "none": [], "nested": [[1, 2], [3]],
}  # fmt: skip


def everything():
    arrays = {f"w.{name}": qn.weights.quantize_gguf(reals(3, 512, seed=k), name) for k, name in enumerate(GGUF_TYPES)}
    arrays |= {
        "f32": reals(5, 7),
        "f16": reals(2, 3, 4).astype(np.float16),
        "bf16": reals(9).astype(ml_dtypes.bfloat16),
    }
    arrays |= {"f64": reals(3).astype(np.float64), "i8": np.arange(-3, 3, dtype=np.int8), "i16": np.int16([[1], [2]])}
    arrays |= {"i32": np.arange(5, dtype=np.int32), "i64": np.arange(5), "one": np.float32(3), "none": np.zeros((0, 4))}
    return arrays


def assert_equal(got, expected):
    assert list(got) == list(expected)
    for name, value in expected.items():
        if isinstance(value, qn.GGUFArray):
            assert got[name] == value
        else:
            value = np.asarray(value)
            assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape)
            assert got[name].tobytes() == value.tobytes()


def test_round_trip(tmp_path):
    path = tmp_path / "m.gguf"
    arrays = everything()
    qn.save(path, arrays, metadata=NUMBERS)
    assert_equal(qn.load(path), arrays)
    some = qn.load(path, ["f16", "w.Q4_K"])
    assert_equal(some, {"f16": arrays["f16"], "w.Q4_K": arrays["w.Q4_K"]})
    with Reader(path) as reader:
        views = {name: reader.read(name) for name in reader.specs}
        metadata = reader.metadata
    assert_equal(views, arrays)  # still valid after the reader is closed
    assert not views["f32"].flags.writeable
    assert not views["w.Q6_K"].data.flags.writeable
    for name, value in NUMBERS.items():
        got = metadata[name]
        if name == "nested":
            assert [part.tolist() for part in got] == value
        else:
            assert (got.tolist() if isinstance(got, np.ndarray) else got) == (
                value.tolist() if isinstance(value, np.ndarray) else value
            )
    assert metadata["general.quantization_version"] == 2
    # the types of a file that was read are those of the file that is written from it
    qn.save(tmp_path / "n.gguf", arrays, metadata=metadata)
    assert (tmp_path / "n.gguf").read_bytes() == path.read_bytes()


def test_golden_bytes(tmp_path):
    """The whole file: header, metadata, two tensors, padding to 32 bytes."""
    blocks = np.frombuffer(bytes([0x00, 0x38, *range(16)]), np.uint8)
    qn.save(tmp_path / "m.gguf", {"w": qn.GGUFArray(blocks[None], "Q4_0"), "b": np.float32([[1, 2, 3]])},
            metadata={"n": 3})  # fmt: skip
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, 2)
    header += text(b"n") + struct.pack("<II", 4, 3)
    header += text(b"general.quantization_version") + struct.pack("<II", 4, 2)
    header += text(b"w") + struct.pack("<IQQIQ", 2, 32, 1, 2, 0)
    header += text(b"b") + struct.pack("<IQQIQ", 2, 3, 1, 0, 32)
    padded = header + bytes(-len(header) % 32)
    data = blocks.tobytes() + bytes(14) + struct.pack("<3f", 1, 2, 3) + bytes(20)
    assert (tmp_path / "m.gguf").read_bytes() == padded + data


def test_big_endian_arrays_and_views(tmp_path):
    x = reals(4, 6)
    qn.save(tmp_path / "m.gguf", {"big": x.astype(">f4"), "view": x[::2, ::-1], "wide": x.astype(">f8")})
    loaded = qn.load(tmp_path / "m.gguf")
    np.testing.assert_array_equal(loaded["big"], x)
    np.testing.assert_array_equal(loaded["view"], x[::2, ::-1])
    assert loaded["wide"].dtype == np.dtype("<f8")


def test_the_package_reads_what_we_write(tmp_path):
    gguf = pytest.importorskip("gguf")
    arrays = everything()
    del arrays["none"]  # the package reads no empty tensor
    given = {key: value for key, value in NUMBERS.items() if key != "nested"}  # it flattens lists of lists
    qn.save(tmp_path / "m.gguf", arrays, metadata=given)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    for key, value in given.items():
        got = reader.fields[key].contents()
        assert got == (value.tolist() if isinstance(value, np.ndarray) else value)
    assert [tensor.name for tensor in reader.tensors] == list(arrays)
    for tensor in reader.tensors:
        value = arrays[tensor.name]
        if isinstance(value, qn.GGUFArray):
            assert tensor.tensor_type.name == value.type
            np.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), value.dequantize())
        else:
            assert np.asarray(tensor.data).tobytes() == np.asarray(value).tobytes()
        assert [int(n) for n in tensor.shape] == list(value.shape)[::-1]


def test_we_read_what_the_package_writes(tmp_path):
    gguf = pytest.importorskip("gguf")
    path, x = tmp_path / "m.gguf", reals(4, 64)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "é"])
    writer.add_array("scores", [0.5, -1.0])
    writer.add_tensor("f32", x)
    writer.add_tensor("f16", x.astype(np.float16))
    expected = {}
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        number = gguf.GGMLQuantizationType[name]
        data = gguf.quants.quantize(x, number)
        expected[name] = gguf.quants.dequantize(data, number)
        writer.add_tensor(name, data, raw_dtype=number)
    writer.add_tensor("ternary", gguf.quants.quantize(reals(2, 256), gguf.GGMLQuantizationType.TQ2_0),
                      raw_dtype=gguf.GGMLQuantizationType.TQ2_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Reader(path) as reader:
        assert reader.metadata["general.architecture"] == "llama"
        assert reader.metadata["llama.block_count"] == np.uint32(2)
        assert reader.metadata["tokenizer.ggml.tokens"] == ["a", "bc", "é"]
        assert reader.metadata["scores"].tolist() == [0.5, -1.0]
        np.testing.assert_array_equal(reader.read("f32"), x)
        for name, y in expected.items():
            np.testing.assert_array_equal(reader.read(name).dequantize(), y)
        reason = "tensor 'ternary' has the GGUF type TQ2_0, which qnumpy does not read."
        with pytest.raises(qn.FileFormatError, match=reason):
            reader.read("ternary")
    with pytest.raises(qn.FileFormatError, match=r"TQ2_0, which qnumpy does not read\. load\(names=\.\.\.\) reads"):
        qn.load(path)
    assert list(qn.load(path, ["f16", "Q8_0"])) == ["f16", "Q8_0"]


# ---- what cannot be saved ----

FLOATS = "float32, float16, int8, int16, int32, int64, float64 or bfloat16"


@pytest.mark.parametrize(
    ("arrays", "exception", "message"),
    [
        ({"w": qn.quantize(reals(2, 32))}, TypeError,
         f"save: arrays['w'] must be a GGUFArray or an array of {FLOATS} in a .gguf file; got int8."),
        ({"w": qn.quantize(reals(2, 32), dtype="mxfp4")}, TypeError,
         f"save: arrays['w'] must be a GGUFArray or an array of {FLOATS} in a .gguf file; got mxfp4."),
        ({"w": np.zeros(3, np.uint8)}, TypeError,
         f"save: arrays['w'] must be a GGUFArray or an array of {FLOATS} in a .gguf file; got uint8."),
        ({"w": np.zeros(3, ml_dtypes.float8_e4m3fn)}, TypeError,
         f"save: arrays['w'] must be a GGUFArray or an array of {FLOATS} in a .gguf file; got float8_e4m3fn."),
        ({"w": np.zeros((1,) * 5)}, TypeError,
         "save: arrays['w'] must be of at most 4 axes in a .gguf file; got shape (1, 1, 1, 1, 1)."),
        ({"n" * 64: reals(2)}, ValueError,
         f"save: arrays must have names of at most 63 bytes in this file; got 64 for '{'n' * 56}...."),
    ],
)  # fmt: skip
def test_what_a_file_does_not_hold(tmp_path, arrays, exception, message):
    with pytest.raises(exception) as caught:
        qn.save(tmp_path / "m.gguf", arrays)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_ggufarrays_are_for_gguf_files(tmp_path):
    q = qn.weights.quantize_gguf(reals(2, 32), "Q4_0")
    for name in ("a.npz", "a.safetensors"):
        with pytest.raises(TypeError) as caught:
            qn.save(tmp_path / name, {"w": q})
        assert str(caught.value) == "save: arrays['w'] must be no GGUFArray unless path ends in .gguf; got Q4_0."
    with pytest.raises(ValueError, match=r"left out unless path ends in \.safetensors"):
        qn.save(tmp_path / "a.gguf", {"w": q}, max_shard_bytes=100)


@pytest.mark.parametrize(
    ("name", "metadata", "exception", "message"),
    [
        ("m.gguf", 3, TypeError, "metadata must be a mapping of texts to values; got 3."),
        ("m.gguf", {3: 1}, TypeError, "metadata must be a mapping of texts to values; got the key 3."),
        ("m.gguf", {"a": None}, TypeError,
         "metadata['a'] must be a text, a number, or a list of one type of them; got None."),
        ("m.gguf", {"a": [1, "b"]}, TypeError,
         "metadata['a'] must be a text, a number, or a list of one type of them; got [1, 'b']."),
        ("m.gguf", {"a": 1 << 70}, TypeError,
         f"metadata['a'] must be a text, a number, or a list of one type of them; got {1 << 70}."),
        ("m.safetensors", {"a": 1}, TypeError, "metadata['a'] must be a text; got 1."),
        ("m.safetensors", {"qnumpy": "x"}, TypeError,
         "metadata must be a mapping of texts to values; got the key 'qnumpy'."),
        ("m.npz", {"a": "b"}, ValueError,
         "metadata must be left out unless path ends in .safetensors or .gguf; got {'a': 'b'}."),
        ("m.json", {"a": "b"}, ValueError,
         "metadata must be left out unless path ends in .safetensors or .gguf; got {'a': 'b'}."),
    ],
)  # fmt: skip
def test_metadata_that_a_file_does_not_hold(tmp_path, name, metadata, exception, message):
    arrays = {} if name.endswith(".json") else {"w": reals(2)}
    with pytest.raises(exception) as caught:
        qn.save(tmp_path / name, arrays, metadata=metadata)
    assert str(caught.value) == f"save: {message}"
    assert not list(tmp_path.iterdir())


def test_metadata_of_safetensors(tmp_path):
    qn.save(tmp_path / "m.safetensors", {"w": reals(2)}, metadata={"format": "pt"})
    with Reader(tmp_path / "m.safetensors") as reader:
        assert reader.metadata == {"format": "pt"}


# ---- bad files ----


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def info(name="w", shape=(8,), number=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)


def bad_file(path, infos=(), keys=(), data=b"", version=3, counts=None):
    tensors, values = counts or (len(infos), len(keys))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join([*keys, *infos])
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def key(name, number, raw):
    return text(name) + struct.pack("<I", number) + raw


BAD = [
    ({"version": 1}, "the GGUF version must be 2 or 3; got 1."),
    ({"version": 0x03000000}, "the GGUF version must be 2 or 3; got 50331648. Big-endian files are not read."),
    ({"counts": (1 << 60, 0)}, "the header counts 1152921504606846976 items in a file of 32; the file is truncated"),
    ({"counts": (0, 9)}, "the header counts 9 items in a file of 32; the file is truncated or its header is wrong."),
    ({"counts": (1, 0)}, "the header needs 36 bytes of 32; the file is truncated"),
    ({"keys": [key("a", 99, b"")]}, "'a' must have a type of the metadata; got the number 99."),
    ({"keys": [key("a", 4, b"\1\0\0\0")] * 2}, "'a' stands twice in the metadata."),
    ({"keys": [key(b"\xff", 4, b"\1\0\0\0")]}, "a key of the metadata must be UTF-8; got b'\\xff'."),
    ({"keys": [key("a", 8, text(b"\xff"))]}, "the value of 'a' must be UTF-8; got b'\\xff'."),
    ({"keys": [key("a", 8, struct.pack("<Q", 1 << 62))]}, "the header counts 4611686018427387904 items"),
    ({"keys": [key("a", 9, struct.pack("<IQ", 4, 1 << 61))]}, "the header counts 2305843009213693952 items"),
    ({"keys": [key("a", 9, struct.pack("<IQ", 9, 1) * 50)]}, "'a' must have a type of the metadata; got the number 9."),
    ({"keys": [key("general.alignment", 4, struct.pack("<I", 12))]}, "'general.alignment' must be a power of two; got"),
    ({"keys": [key("general.alignment", 8, text("a"))]}, "'general.alignment' must be a power of two; got 'a'."),
    ({"infos": [info(shape=(1,) * 5)]}, "tensor 'w' must have at most 4 axes; got 5."),
    ({"infos": [info(), info(offset=32)], "data": bytes(64)}, "tensor 'w' stands twice in the file."),
    ({"infos": [info(shape=(1 << 63,))]}, "tensor 'w' must have sizes below 2**62; got (9223372036854775808,)."),
    ({"infos": [info(shape=(1 << 40, 1 << 40, 0))]}, "tensor 'w' has a shape too large for an array"),
    ({"infos": [info(offset=4)], "data": bytes(64)}, "tensor 'w' must begin at a multiple of 32; got 4."),
    ({"infos": [info()], "data": bytes(31)}, "tensor 'w' ends at byte 96 of a file of 95; the file is truncated"),
    ({"infos": [info(offset=1 << 62)], "data": bytes(32)}, "tensor 'w' ends at byte"),
    ({"infos": [info(), info("v")], "data": bytes(64)}, "tensor 'w' at bytes 96..128 overlaps the one before it."),
    ({"infos": [info(shape=(33,), number=2)], "data": bytes(64)},
     "tensor 'w' of Q4_0 must have rows of whole blocks of 32; got shape (33,)."),
    ({"infos": [info(shape=(), number=12)], "data": bytes(64)},
     "tensor 'w' of Q4_K must have rows of whole blocks of 256; got shape ()."),
    ({"infos": [info(shape=(33,), number=20)], "data": bytes(64)},
     "tensor 'w' of IQ4_NL must have rows of whole blocks of 32; got shape (33,)."),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "message"), BAD, ids=[row[1][:50] for row in BAD])
def test_headers_that_lie(tmp_path, parts, message):
    path = bad_file(tmp_path / "m.gguf", **parts)
    with pytest.raises(qn.FileFormatError) as caught:
        qn.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUX" + bytes(40), b"PK\3\4" + bytes(60)])
def test_other_files(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(qn.FileFormatError, match="a GGUF file begins with 'GGUF' and has at least 24 bytes"):
        qn.load(tmp_path / "m.gguf")


def test_unknown_types_are_listed(tmp_path):
    path = bad_file(tmp_path / "m.gguf", [info(number=77), info("v", (4,), offset=32)], data=bytes(64))
    with Reader(path) as reader:
        assert reader.specs["w"].format == "type 77"
        assert reader.read("v").tolist() == [0] * 4
        with pytest.raises(qn.FileFormatError, match="tensor 'w' has the GGUF type 77, which qnumpy does not read"):
            reader.read("w")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    arrays = {"w": qn.weights.quantize_gguf(reals(2, 32), "Q4_0"), "b": reals(8)}
    qn.save(tmp_path / "m.gguf", arrays, metadata={"a": ["x", "y"], "n": [1, 2]})
    content = (tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(qn.FileFormatError) as caught:
            qn.load(cut)
        assert str(caught.value).startswith(f"{cut}: ")


def test_a_changed_byte_gives_an_error_that_names_the_file_or_an_array(tmp_path):
    arrays = {"w": qn.weights.quantize_gguf(reals(2, 32), "Q4_0"), "b": reals(8)}
    qn.save(tmp_path / "m.gguf", arrays, metadata={"a": ["x", "y"], "n": [1, 2]})
    content = bytearray((tmp_path / "m.gguf").read_bytes())
    rng, path = np.random.default_rng(0), tmp_path / "changed.gguf"
    header = content.index(b"b\1\0\0\0") + 40
    for position in range(header):
        for value in {0, 255, content[position] ^ 1 << int(rng.integers(8))}:
            spoiled = content.copy()
            spoiled[position] = value
            path.write_bytes(spoiled)
            try:
                loaded = qn.load(path)
            except qn.FileFormatError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - many changes are harmless
            else:
                assert all(isinstance(x, np.ndarray | qn.GGUFArray) for x in loaded.values())


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        qn.save(path, {"a": reals(3), "w": np.array([{}])})
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
