"""save and load: every dtype, granularity and layout, shards, and damaged bytes."""

import json
import re
import runpy
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_files import assert_same, reals

import qnumpy as qn
from qnumpy.dtypes import INTEGER_TYPES
from qnumpy.files.spec import TensorSpec
from qnumpy.files.store import Reader, Writer, load, save

FIXTURES = Path(__file__).parents[1] / "fixtures"
SUFFIXES = ["npz", "safetensors"]
golden = runpy.run_path(str(FIXTURES / "make_golden.py"))["arrays"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", INTEGER_TYPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "granularity", [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1), qn.PerGroup(4), qn.PerRow()], ids=str
)
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
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 0), (2, 3, 4)])
def test_rows_round_trip(tmp_path, suffix, shape):
    codes = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    scale = 1 + np.arange(np.prod(shape[:-1]), dtype=np.float32).reshape(shape[:-1])
    q = qn.QuantizedArray(codes, qn.QParams(scale, 3, "uint8", qn.PerRow()))
    save(tmp_path / f"a.{suffix}", {"q": q})
    assert_same(load(tmp_path / f"a.{suffix}"), {"q": q})


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


def test_an_empty_dictionary_is_a_file(tmp_path):
    for suffix in SUFFIXES:
        save(tmp_path / f"a.{suffix}", {})
        assert load(tmp_path / f"a.{suffix}") == {}


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


@pytest.mark.parametrize(
    ("name", "arrays", "kind", "message"),
    [
        ("a.bin", {}, ValueError, "save: path must end in .npz, .safetensors or .json, or be a folder; got "),
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
    want = "load: path must end in .npz, .safetensors, .safetensors.index.json or .json, or be a folder; got "
    with pytest.raises(ValueError, match=f"^{re.escape(want)}"):
        load(tmp_path / "a.bin")
    with pytest.raises(
        ValueError, match=re.escape("load: path must end in .npz or .safetensors or .safetensors.index")
    ):
        Reader(tmp_path / "a.json")
    with pytest.raises(
        ValueError, match=re.escape("save: path must end in .npz or .safetensors, or be a folder; got ")
    ):
        save(tmp_path / "a.safetensors.index.json", {})
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "a.npz")


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


# Names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_reads_the_names_that_are_asked_for(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    arrays = {"w": qn.quantize(reals(3, 4)), "b": reals(3), "wide": reals(20), "": reals(1)}
    save(path, arrays)
    asked = [["b", "w"], ("wide",), {"w": 0}.keys(), iter(["b"]), np.array(["w", "b"]), [], ["b", "b"], [""]]
    for names in asked:
        names = list(names)
        assert_same(load(path, names=iter(names)), {name: arrays[name] for name in dict.fromkeys(names)})
    assert_same(load(path, "wide"), {"wide": arrays["wide"]})  # one name, not four of a letter
    for names, text in (
        ("wid", "among those of the file; got 'wid'. Near it is 'wide'."),
        (["w", "w.scale"], "among those of the file; got 'w.scale'."),
        (3, "a text or texts; got 3."),
        (b"w", "a text or texts; got b'w'."),
        ([3], "a text or texts; got 3."),
        ([["w"]], "a text or texts; got ['w']."),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            load(path, names)
        assert str(caught.value) == f"load: names must be {text}"
        assert type(caught.value) is (ValueError if "among" in text else TypeError)


def test_parameters_by_name(tmp_path):
    path = tmp_path / "q.json"
    save(path, {"x": qn.QParams(0.5, 0), "y": qn.QParams(0.25, 0)})
    assert load(path, ["y"]) == {"y": qn.QParams(0.25, 0)}
    with pytest.raises(ValueError, match=r"^load: names must be among those of the file; got 'z'\.$"):
        load(path, "z")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_not_asked_for_are_not_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": np.zeros(1000), "b": np.ones(1000)})
    damaged = path.read_bytes().replace(np.zeros(1000).tobytes(), np.full(1000, np.nan).tobytes())
    path.write_bytes(damaged)  # in an archive the checksum of the member is wrong now
    np.testing.assert_array_equal(load(path, "b")["b"], np.ones(1000))


# Folders and shards

ARRAYS = {
    "layer.0": qn.quantize(reals(16, 32), granularity=qn.PerChannel(0)),
    "layer.1": qn.quantize(reals(16, 32), dtype="uint4", symmetric=False, granularity=qn.PerGroup(8)),
    "layer.2": qn.quantize(reals(16, 32), dtype="mxfp4"),
    "layer.3": qn.PackedWeight(qn.quantize(reals(16, 32), granularity=qn.PerChannel(1)), bias=reals(32)),
    "bias": reals(40).astype(ml_dtypes.bfloat16),
    "empty": reals(0, 3),
}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("limit", [1, 700, 1500, 2200, 10**9, None])
def test_a_folder_gets_the_model(tmp_path, limit):
    save(f"{tmp_path}/model/", ARRAYS, max_shard_bytes=limit)  # makes it
    folder = tmp_path / "model"
    loaded = load(folder)
    assert_same({name: loaded[name] for name in ARRAYS}, ARRAYS)
    shards = [name for name in names_in(folder) if "-of-" in name]
    if limit in (10**9, None):
        assert names_in(folder) == ["model.safetensors"]
        return
    count = len(shards)
    assert count > 1
    assert shards == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    assert names_in(folder) == sorted([*shards, "model.safetensors.index.json"])
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(TensorSpec.of(value).nbytes for value in ARRAYS.values())}
    for shard in shards:  # as the package of safetensors sees them
        with safetensors.safe_open(folder / shard, "np") as file:
            held = list(file.keys())
        assert {name for name, home in index["weight_map"].items() if home == shard} == set(held)
        arrays = [name for name in ARRAYS if name in held]
        assert (folder / shard).stat().st_size <= limit or len(arrays) == 1
    assert_same(load(folder / "model.safetensors.index.json", names="layer.2"), {"layer.2": ARRAYS["layer.2"]})


def test_a_folder_of_another_name_of_file(tmp_path):
    save(tmp_path / "weights.safetensors", ARRAYS, max_shard_bytes=1500)
    assert names_in(tmp_path)[-1] == "weights.safetensors.index.json"
    assert set(load(tmp_path)) == set(ARRAYS)


def test_a_model_replaces_the_one_before_it(tmp_path):
    """No shard of another division stays, and no model.safetensors that a reader would prefer to the index."""
    seen = set()
    for limit in (700, 1500, None, 2200, 1, 700, None):
        with Writer(tmp_path, {name: TensorSpec.of(x) for name, x in ARRAYS.items()}, max_shard_bytes=limit) as writer:
            for name in reversed(ARRAYS):
                writer.write(name, ARRAYS[name])
            assert sorted(writer.stale) == sorted(set(map(str, tmp_path.glob("*"))) - set(writer.paths))
        assert sorted(writer.paths) == sorted(map(str, tmp_path.iterdir()))
        assert set(load(tmp_path)) == set(ARRAYS)
        seen.add(len(writer.paths))
    assert len(seen) > 3


def test_an_index_cannot_name_what_is_removed(tmp_path):
    names = ["precious.safetensors", "other-00001-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    for name in (*names, "config.json"):
        (tmp_path / name).write_bytes(b"")
    weight_map = {str(k): name for k, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save(tmp_path, {"x": reals(3)})
    assert names_in(tmp_path) == ["config.json", "model.safetensors", names[1], names[0]]


@pytest.mark.parametrize("before", [False, True])
def test_shards_appear_together_or_not_at_all(tmp_path, before):
    folder = tmp_path / "model"
    if before:
        save(f"{folder}/", ARRAYS, max_shard_bytes=1500)
        old = {path: path.read_bytes() for path in folder.iterdir()}
    specs = {name: TensorSpec.of(value) for name, value in ARRAYS.items()}

    def write(limit, names, error=None):
        with Writer(f"{folder}/", specs, max_shard_bytes=limit) as writer:
            for name in names:
                writer.write(name, ARRAYS[name])
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write(1500, ARRAYS, KeyboardInterrupt)
    with pytest.raises(ValueError, match="was planned and never written"):
        write(700, ["bias"])
    if before:
        assert {path: path.read_bytes() for path in folder.iterdir()} == old
    else:
        assert not folder.exists()


def test_a_place_that_is_taken(tmp_path):
    (tmp_path / "model-00002-of-00003.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"^save: path must be a regular file; got '.*-00002-of-00003.safetensors'"):
        save(tmp_path, ARRAYS, max_shard_bytes=2200)
    assert names_in(tmp_path) == ["model-00002-of-00003.safetensors"]


def test_what_a_folder_stands_for(tmp_path):
    def refused(text):
        with pytest.raises(qn.FileFormatError) as caught:
            load(tmp_path)
        assert str(caught.value) == f"{tmp_path}: {text}"

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "._a.safetensors").write_text("as macOS leaves them")
    refused("the folder must have a .safetensors file or an index of them.")
    save(tmp_path / "a.safetensors", {"a": reals(2)})
    save(tmp_path / "b.safetensors", {"b": reals(3)})
    assert list(load(tmp_path)) == ["a", "b"]
    with Reader(tmp_path) as reader:
        assert reader.paths == [f"{tmp_path}/a.safetensors", f"{tmp_path}/b.safetensors"]
    save(tmp_path / "c.safetensors", {"b": reals(3)})
    with pytest.raises(qn.FileFormatError) as caught:
        load(tmp_path)
    path = tmp_path / "c.safetensors"
    assert str(caught.value) == f"{path}: tensor 'b' stands in another file of the model too."
    save(tmp_path / "whole.safetensors", ARRAYS, max_shard_bytes=1500)
    assert set(load(tmp_path)) == set(ARRAYS)  # the index comes before the files
    save(tmp_path / "other.safetensors", ARRAYS, max_shard_bytes=1500)
    refused("the folder must have one index; got other.safetensors.index.json, whole.safetensors.index.json.")
    save(tmp_path / "model.safetensors", {"m": reals(2)})
    assert list(load(tmp_path)) == ["m"]  # the file of that name comes before the index
    for path in tmp_path.glob("*"):
        if "-of-" not in path.name:
            path.unlink()
    first = next(name for name in names_in(tmp_path) if name[0] != ".")
    refused(f"the folder has the shard {first!r} and no index; the model is not complete.")


@pytest.mark.parametrize(("name", "limit", "error", "message"), [
    ("a.npz", 10, ValueError, "left out unless path ends in .safetensors; got 10."),
    ("a.json", 10, ValueError, "left out unless path ends in .safetensors; got 10."),
    ("a.safetensors", 0, ValueError, "positive; got 0."),
    ("a.safetensors", 1.5, TypeError, "an integer; got 1.5."),
    ("a.safetensors", True, TypeError, "an integer; got True."),
    ("a.safetensors", "5GB", TypeError, "an integer; got '5GB'."),
])  # fmt: skip
def test_a_limit_that_is_none(tmp_path, name, limit, error, message):
    with pytest.raises(error, match=f"^save: max_shard_bytes must be {re.escape(message)}$"):
        save(tmp_path / name, {}, max_shard_bytes=limit)
    assert names_in(tmp_path) == []
