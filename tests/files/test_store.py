"""Files: what comes back, what the bytes are, and that a bad file or a full disk loses nothing."""

import errno
import json
import os
import re
import resource
import runpy
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import qnumpy as qn
from qnumpy.files.spec import FORMAT_VERSION, TensorSpec
from qnumpy.files.store import Reader, Writer, load, save

FIXTURES = Path(__file__).parents[1] / "fixtures"
SUFFIXES = ["npz", "safetensors"]
golden = runpy.run_path(str(FIXTURES / "make_golden.py"))["arrays"]


def reals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, value in expected.items():
        if isinstance(value, qn.QuantizedArray):
            assert isinstance(got[name], qn.QuantizedArray)
            assert got[name] == value
        else:
            value = np.asarray(value)
            assert (got[name].dtype.name, got[name].shape) == (value.dtype.name, value.shape)
            assert plain_bytes(got[name]) == plain_bytes(value)


def plain_bytes(x):
    """The bytes that make a value: ml_dtypes leaves the high bits of int4 free, and either byte order will do."""
    if x.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return x.astype(np.int8).tobytes()
    return (x.astype(x.dtype.newbyteorder("=")) if x.dtype.byteorder == ">" else x).tobytes()


def plain_tensors(path):
    """What the safetensors package sees, and our schema; but for float8, which its NumPy side lacks."""
    with safetensors.safe_open(path, "np") as file:
        names = [name for name in file.keys() if "float8_e4" not in name]  # noqa: SIM118 - it has no iterator
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["qnumpy"])


# What comes back


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerGroup(4)], ids=str)
def test_quantized_round_trip(tmp_path, suffix, dtype, symmetric, granularity):
    arrays = {
        f"{rows}x{columns}": qn.quantize(
            reals(rows, columns), dtype=dtype, granularity=granularity, symmetric=symmetric
        )
        for rows, columns in [(1, 1), (3, 5), (2, 7), (4, 8), (3, 0)]
    }
    path = tmp_path / f"a.{suffix}"
    save(path, arrays)
    assert_same(load(path), arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plain_arrays_and_layouts_round_trip(tmp_path, suffix):
    x = reals(4, 6)
    arrays = {
        "big endian": x.astype(">f4"),
        "fortran": np.asfortranarray(x),
        "strided": x[::2, ::-3],
        "0-d": np.float64(3),
        "0-d quantized": qn.quantize(np.float32(3), dtype="int4"),
        "0-d int4": np.array(3).astype(ml_dtypes.int4),
        "strided codes": qn.quantize(np.asfortranarray(x), dtype="int4", granularity=qn.PerChannel(1)),
        "empty": np.zeros((3, 0), np.int8),
        "list": [1, 2, 3],
        "": np.zeros(1),
        "naïve/日本.weight": np.ones(2, np.uint16),
    }
    arrays |= {
        name: np.arange(5).astype(getattr(ml_dtypes, name))
        for name in (
            "bfloat16",
            "float8_e4m3fn",
            "float8_e5m2",
            "float8_e4m3b11fnuz",
            "float8_e8m0fnu",
            "uint4",
            "int2",
        )
    }
    path = tmp_path / f"a.{suffix}"
    save(path, arrays)
    assert_same(load(path), arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_loaded_arrays_own_their_memory(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, {"x": reals(3), "q": qn.quantize(reals(3, 4))})
    loaded = load(path)
    loaded["x"][:] = 1
    loaded["q"].codes[:] = 1
    save(path, loaded)  # over the file they came from
    assert_same(load(path), loaded)


def test_reader_gives_views_of_a_memory_map(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, {"x": reals(3), "b": reals(5).astype(ml_dtypes.bfloat16)})
    with Reader(path) as reader:
        x, b = reader.read("x"), reader.read("b")
    assert not x.flags.writeable
    assert not x.flags.owndata
    np.testing.assert_array_equal(x, reals(3))  # still valid after the reader is closed
    assert b.dtype == ml_dtypes.bfloat16


def test_an_empty_dictionary_is_a_file(tmp_path):
    for suffix in SUFFIXES:
        save(tmp_path / f"a.{suffix}", {})
        assert load(tmp_path / f"a.{suffix}") == {}


# What the bytes are


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_golden_files_load(suffix):
    assert_same(load(FIXTURES / f"golden.{suffix}"), golden())


def test_golden_bytes(tmp_path):
    for suffix in SUFFIXES:
        save(tmp_path / f"golden.{suffix}", golden())
    assert (tmp_path / "golden.safetensors").read_bytes() == (FIXTURES / "golden.safetensors").read_bytes()
    # an archive's own fields may differ with the version of Python, the members may not
    with zipfile.ZipFile(tmp_path / "golden.npz") as new, zipfile.ZipFile(FIXTURES / "golden.npz") as old:
        assert new.namelist() == old.namelist()
        assert all(new.read(name) == old.read(name) for name in old.namelist())


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
    assert schema["format_version"] == FORMAT_VERSION == 1
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


def test_the_safetensors_package_reads_what_we_write(tmp_path):
    x, q = reals(5, 7), qn.quantize(reals(5, 7), granularity=qn.PerChannel(0))
    save(tmp_path / "a.safetensors", {"odd": np.ones(3, np.uint8), "q": q, "x": x, "b": x.astype(ml_dtypes.bfloat16)})
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("q"), q.codes)
        np.testing.assert_array_equal(file.get_tensor("q.scale"), q.scale)
        np.testing.assert_array_equal(file.get_tensor("x"), x)
    raw = dict(safetensors.deserialize((tmp_path / "a.safetensors").read_bytes()))
    assert raw["b"]["dtype"] == "BF16"
    assert bytes(raw["b"]["data"]) == x.astype(ml_dtypes.bfloat16).tobytes()


def test_we_read_what_the_safetensors_package_writes(tmp_path):
    arrays = {"x": reals(5, 7), "n": np.arange(3), "b": reals(3).astype(ml_dtypes.bfloat16), "h": np.float16([1, 2])}
    arrays["f8"] = reals(4).astype(ml_dtypes.float8_e5m2)
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    loaded = load(path)
    assert_same(dict(sorted(loaded.items())), dict(sorted(arrays.items())))
    with Reader(path) as reader:
        assert reader.metadata == {"format": "pt"}


def test_we_read_what_numpy_writes(tmp_path):
    arrays = {"x": reals(5, 7), "f": np.asfortranarray(reals(3, 4)), "s": np.array(["a", "bc"])}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    assert_same(load(tmp_path / "a.npz"), arrays)


def test_the_plan_knows_the_bytes(tmp_path):
    arrays = golden()
    save(tmp_path / "a.safetensors", arrays)
    (header,) = struct.unpack("<Q", (tmp_path / "a.safetensors").read_bytes()[:8])
    planned = sum(TensorSpec.of(value).nbytes for value in arrays.values())
    assert os.path.getsize(tmp_path / "a.safetensors") == 8 + header + planned


# Shards


def shards(folder, homes, arrays=None, index=None):
    arrays = arrays or {name: reals(2, 3, seed=i) for i, name in enumerate(homes)}
    for shard in {*homes.values()}:
        safetensors.numpy.save_file({n: arrays[n] for n, home in homes.items() if home == shard}, folder / shard)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index or homes}))
    return path, arrays


def test_shards_load_as_one(tmp_path):
    path, arrays = shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"})
    loaded = load(path)
    assert_same(dict(sorted(loaded.items())), arrays)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"a": "1.safetensors"}, "tensor 'b' is missing"),
        ({"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"}, "tensor 'c' is missing"),
        ({"a": "../1.safetensors"}, "tensor 'a' must be in a .safetensors file beside the index"),
        ({"a": 3}, "tensor 'a' must be in a .safetensors file beside the index"),
        ([], "the index must have an object 'weight_map'"),
    ],
)
def test_an_index_that_lies(tmp_path, index, message):
    path, _ = shards(tmp_path, {"a": "1.safetensors", "b": "1.safetensors"})
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(qn.FileFormatError, match=re.escape(message)):
        load(path)


def test_a_missing_shard(tmp_path):
    path, _ = shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("2.safetensors")):
        load(path)


# Bad files


def raw_file(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", 0, "the header is not valid JSON"),
        (b"\xff{}", 0, "the header is not valid JSON"),
        (b"[" * 100_000, 0, "the header is not valid JSON"),
        (b"[]", 0, "the header must be a JSON object; got list."),
        (b'{"w":1,"w":2}', 0, "'w' stands twice in the header."),
        ({"__metadata__": {"a": 1}}, 0, "'__metadata__' must map texts to texts."),
        ({"w": 3}, 0, "tensor 'w' must have dtype, shape and data_offsets; got 3."),
        ({"w": {"dtype": "F32", "shape": [2]}}, 0, "tensor 'w' must have dtype, shape and data_offsets"),
        ({"w": entry(0, 8, dtype="F4")}, 8, "tensor 'w' has the dtype 'F4', which qnumpy does not read."),
        ({"w": entry(0, 8, shape=(-2,))}, 8, "tensor 'w' must have a list of sizes as its shape; got [-2]."),
        ({"w": entry(0, 8, shape=(True, 2))}, 8, "tensor 'w' must have a list of sizes as its shape; got [True, 2]."),
        ({"w": entry(0, 8, shape=(2.0,))}, 8, "tensor 'w' must have a list of sizes"),
        ({"w": entry(0, 8, shape=[1] * 65)}, 8, "tensor 'w' must have a list of sizes"),
        ({"w": entry(8, 0)}, 8, "tensor 'w' must have ordered data_offsets; got [8, 0]."),
        ({"w": entry(-8, 0)}, 8, "tensor 'w' must have ordered data_offsets; got [-8, 0]."),
        ({"w": entry(0, "8")}, 8, "tensor 'w' must have ordered data_offsets; got [0, '8']."),
        ({"w": entry(0, 4)}, 4, "tensor 'w' of F32 (2,) needs 8 bytes; its data_offsets give 4."),
        ({"w": entry(0, 8, shape=(2**61, 2**61))}, 8, "tensor 'w' of F32 "),
        ({"w": entry(0, 0, shape=(0, 2**61, 2**61))}, 0, "tensor 'w' has a shape too large for an array"),
        ({"w": entry(0, 8)}, 4, "tensor 'w' ends at byte 8 of the data, which has 4; the file is truncated"),
        ({"w": entry(0, 8)}, 12, "4 bytes after the last tensor belong to none."),
        ({"w": entry(4, 12)}, 12, "tensor 'w' at bytes 4..12 leaves a hole after byte 0."),
        ({"v": entry(0, 8), "w": entry(4, 12)}, 12, "tensor 'w' at bytes 4..12 overlaps the one before it."),
        ({"v": entry(0, 8), "w": entry(0, 8)}, 8, "tensor 'w' at bytes 0..8 overlaps the one before it."),
    ],
)
def test_a_header_that_lies(tmp_path, header, data, message):
    path = raw_file(tmp_path / "a.safetensors", header, bytes(data))
    with pytest.raises(qn.FileFormatError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("length", [10, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file(tmp_path, length):
    path = raw_file(tmp_path / "a.safetensors", b"{}", length=length)
    with pytest.raises(qn.FileFormatError, match="the header must fit in the file"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, {"w": qn.quantize(reals(2, 3), dtype="int4"), "x": np.ones(3, np.uint8)})
    whole = path.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(qn.FileFormatError, match=re.escape(str(cut))):
            load(cut)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.data())
@settings(max_examples=150)
def test_damaged_bytes_never_surprise(tmp_path_factory, suffix, data):
    """A damaged file loads as something, or is refused as a bad file; nothing else can happen."""
    whole = bytearray((FIXTURES / f"golden.{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(whole)
    try:
        load(path)
    except qn.FileFormatError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is fine


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
        (lambda s, w, t: s.update(format_version=2), "format_version must be 1; got 2."),
        (lambda s, w, t: s.pop("format_version"), "format_version must be 1; got None."),
        (lambda s, w, t: s.pop("tensors"), "the qnumpy schema must have an object 'tensors'; got None."),
        (lambda s, w, t: s["tensors"].update(v=w), "tensor 'v' is in the qnumpy schema and not in the file."),
        (lambda s, w, t: t.pop("w.scale"), "tensor 'w.scale' is in the qnumpy schema and not in the file."),
        (lambda s, w, t: w.update(dtype="int3"), "tensor 'w': the qnumpy schema is wrong: dtype 'int3' is unknown."),
        (lambda s, w, t: w.update(dtype="finfo", granularity=None), "dtype 'finfo' is unknown."),
        (lambda s, w, t: w.update(shape=[2, -6]), "shape [2, -6] is no list of sizes."),
        (lambda s, w, t: w.update(shape=[2, 7]), "tensor 'w' must be uint8 (2, 4) by the qnumpy schema"),
        (lambda s, w, t: w.update(dtype="int8"), "tensor 'w' must be int8 (2, 6) by the qnumpy schema"),
        (lambda s, w, t: w.update(granularity={"kind": "row"}), "granularity {'kind': 'row'} is unknown."),
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


def test_npz_that_lies(tmp_path):
    path = tmp_path / "a.npz"

    def refused(members, message):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        with pytest.raises(qn.FileFormatError, match=re.escape(message)):
            load(path)

    huge = b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**40},)}}".encode()
    refused([("w.npy", huge.ljust(127) + b"\n")], "tensor 'w': float64 (1099511627776,) needs")
    refused([("w.npy", b"no array")], "tensor 'w': ")
    refused([("readme.txt", b"")], "member 'readme.txt' must be an array")
    with pytest.warns(UserWarning, match="Duplicate name"):
        refused([("__qnumpy__.npy", b""), ("__qnumpy__.npy", b"")], "tensor '__qnumpy__'")
    np.savez(path, w=np.array([{}]))
    with pytest.raises(qn.FileFormatError, match="arrays of objects are not read"):
        load(path)
    np.savez(path, __qnumpy__=np.zeros(3))
    with pytest.raises(qn.FileFormatError, match="'__qnumpy__' must be one row of uint8"):
        load(path)


# Bad arguments


@pytest.mark.parametrize(
    ("name", "arrays", "kind", "message"),
    [
        ("a.bin", {}, ValueError, "save: path must end in .npz or .safetensors; got "),
        ("a.npz", [1], TypeError, "save: arrays must be a mapping of names to arrays; got list."),
        ("a.npz", {3: 1}, TypeError, "save: arrays must have texts as names; got 3."),
        ("a.npz", {"a\0b": 1}, ValueError, "save: arrays must have names that a file can hold; got 'a\\x00b'."),
        ("a.npz", {"\ud800": 1}, ValueError, "save: arrays must have names that a file can hold; got '\\ud800'."),
        ("a.npz", {"__qnumpy__": 1}, ValueError, "save: arrays must have names that a file can hold"),
        ("a.npz", {"w": np.array([{}])}, TypeError, "save: arrays['w'] must have a dtype that this kind of file holds"),
        ("a.safetensors", {"w": np.complex128(1)}, TypeError, "this kind of file holds; got complex128."),
        ("a.safetensors", {"w": "text"}, TypeError, "this kind of file holds; got <U4."),
        ("a.npz", {"w": np.ma.zeros(3)}, TypeError, "save: arrays['w'] must be an array without a mask"),
    ],
)
def test_save_refuses(tmp_path, name, arrays, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        save(tmp_path / name, arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("other", ["w.scale", "w.zero_point"])
@pytest.mark.parametrize("first", [True, False])
def test_names_that_collide(tmp_path, suffix, other, first):
    arrays = {other: np.zeros(3), "w": qn.quantize(reals(2, 2))}
    if not first:
        arrays = dict(reversed(arrays.items()))
    one, two = arrays
    message = f"save: arrays must not collide in the file; got {one!r} and {two!r}, which both need the name {other!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        save(tmp_path / f"a.{suffix}", arrays)
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_other_names(tmp_path):
    with pytest.raises(
        ValueError, match=re.escape("load: path must end in .npz or .safetensors or .safetensors.index")
    ):
        load(tmp_path / "a.bin")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "a.npz")


# Whole or not at all


def interrupted(writer, a, error):
    writer.write("a", a)
    raise error


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_an_exception_in_the_middle_leaves_nothing(tmp_path, suffix, error, exists):
    path = tmp_path / f"a.{suffix}"
    if exists:
        path.write_bytes(b"before")
    arrays = {"a": reals(10), "b": reals(10)}
    writer = Writer(path, {n: TensorSpec.of(x) for n, x in arrays.items()})
    with pytest.raises(error), writer:
        interrupted(writer, arrays["a"], error)
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or path.read_bytes() == b"before"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # the disk is full after that many bytes
    try:
        with pytest.raises(OSError, match="no file was written") as caught:
            save(path, {"a": reals(1000), "b": reals(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_plan_is_kept_to(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    plan = {"w": TensorSpec.quantized((2, 4), "int8", qn.PerTensor(), symmetric=True)}
    with pytest.raises(ValueError, match="'w' was planned and never written"), Writer(path, plan):
        pass
    with pytest.raises(ValueError, match="'w' must be written once, as planned"), Writer(path, plan) as writer:
        writer.write("w", qn.quantize(reals(2, 5)))
    with pytest.raises(ValueError, match="'w' must be written once, as planned"), Writer(path, plan) as writer:
        writer.write("w", qn.quantize(reals(2, 4), symmetric=False))
    assert list(tmp_path.iterdir()) == []


def test_planned_zero_points_are_written_even_where_symmetric(tmp_path):
    q = qn.QuantizedArray(np.ones((2, 4), np.int8), qn.QParams(1.0, 0))
    plan = {"w": TensorSpec(q.codes.dtype, (2, 4), qn.PerTensor(), -128, 127, zero_point=True)}
    with Writer(tmp_path / "a.npz", plan) as writer:
        writer.write("w", q)
    assert load(tmp_path / "a.npz")["w"] == q


def test_permissions_follow_the_umask_and_links_are_followed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "deep" / "real.npz")
    before = os.umask(0o027)
    try:
        save(tmp_path / "link.npz", {"x": reals(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "deep" / "real.npz").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ValueError, match="save: path must be a regular file"):
        save(tmp_path / "a.npz", {})
    with pytest.raises(FileNotFoundError, match="no file was written"):
        save(tmp_path / "none" / "a.npz", {})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_codes_of_the_other_byte_order(tmp_path, suffix, dtype):
    codes = np.array([[1, 2, 300]], dtype)
    q = qn.QuantizedArray(codes.astype(codes.dtype.newbyteorder()), qn.QParams(0.5, 0, dtype))
    save(tmp_path / f"q.{suffix}", {"q": q})
    assert load(tmp_path / f"q.{suffix}")["q"].codes.tolist() == [[1, 2, 300]]


@pytest.mark.parametrize("path", [b"a.npz", 5, None])
def test_paths_are_texts(path):
    for owner, call in (("load", lambda: load(path)), ("save", lambda: save(path, {}))):
        with pytest.raises(
            TypeError, match=f"^{owner}: path must be a text or a path; got {re.escape(repr(path))}\\.$"
        ):
            call()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_long_name_of_a_file(tmp_path, suffix):
    path = tmp_path / ("日" * 80 + f".{suffix}")  # 240 bytes and more of the 255 a name may have
    save(path, {"x": reals(3)})
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="no file was written") as caught:
        save(tmp_path / ("日" * 90 + f".{suffix}"), {"x": reals(3)})
    assert caught.value.errno == errno.ENAMETOOLONG
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_of_arrays(tmp_path):
    most = 65535 - len(".npy")
    save(tmp_path / "a.npz", {"x" * most: reals(3)})
    assert list(load(tmp_path / "a.npz")) == ["x" * most]
    for name, value in (("日" * 21844, reals(3)), ("x" * (most - 5), qn.quantize(reals(2, 3)))):
        with pytest.raises(
            ValueError, match=f"^save: arrays must have names of at most {most} bytes in this file; got"
        ):
            save(tmp_path / "b.npz", {name: value})
        save(tmp_path / "b.safetensors", {name: value})
        assert list(load(tmp_path / "b.safetensors")) == [name]
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_replaced_file_keeps_its_permissions(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, {"x": reals(3)})
    for mode in (0o600, 0o640):
        path.chmod(mode)
        save(path, {"x": reals(4)})
        assert path.stat().st_mode & 0o777 == mode
    assert load(path)["x"].shape == (4,)


def test_replaced_parameters_keep_their_permissions(tmp_path):
    path = tmp_path / ("日" * 80 + ".json")
    qn.save_qparams(path, {"x": qn.QParams(0.5, 0)})
    path.chmod(0o600)
    qn.save_qparams(path, {"x": qn.QParams(0.25, 0)})
    assert path.stat().st_mode & 0o777 == 0o600
    assert qn.load_qparams(path)["x"].scale == 0.25
    assert list(tmp_path.iterdir()) == [path]
