"""Damaged files: each loads as something or is refused in a sentence that names it; nothing else can happen.

Damage is either to bytes, or to values of JSON behind a header that is otherwise right, which reaches deeper.
"""

import io
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import load, save

W = reals(32, 8)
STRUCTURE = np.zeros(3, [("a", ml_dtypes.bfloat16), ("n", [("b", ml_dtypes.int4, (2,)), ("c", ">f4")])])
PACKED = {
    "fc": qn.PackedWeight(
        qn.quantize(W, dtype="int4", granularity=qn.PerGroup(16, 0)), bias=W[0], clip=(0, 6), scale_dtype="float16"
    ),
    "out": qn.PackedWeight(
        qn.quantize(W, dtype="uint8", symmetric=False, granularity=qn.PerChannel(1)), symmetric=False,
        x_qparams=qn.QParams(0.1, 7, "uint8"), out_qparams=qn.QParams(0.5, 0),
    ),
}  # fmt: skip
CODES = {
    "w": qn.quantize(W, dtype="int4", granularity=qn.PerGroup(4)),
    "v": qn.quantize(W, dtype="uint3", symmetric=False, granularity=qn.PerChannel(0)),
    "z": qn.quantize(W, dtype="uint2", symmetric=False, granularity=qn.PerChannel(0)),
    "r": qn.quantize(W, granularity=qn.PerRow()),
    "mx": qn.quantize(W, dtype="mxfp6_e2m3"),
    "nv": qn.quantize(W, dtype="nvfp4"),
    "f8": W.astype(ml_dtypes.float8_e3m4),
    "x": W[:2],
}
PARAMS = {"a": qn.QParams(0.5, 3, "uint8"), "b": qn.QParams([1, 2], 0, "int4", qn.PerChannel(0))}
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 8, 16, 255, 2**31, 2**62, 2**64, 10**400, 0.0, -0.5, 1e-45, 1e308, float("nan"),
    float("inf"), "", "int8", "int4", "uint2", "float8_e5m2", "mxfp4", "mxfp6_e2m3", "bfloat16", "float16", "<f4",
    "F32", "F4", "U8", "w", "fc", "w.scale", "\u0000", "\ud800", "日", [], [[]], [0], [32, 8], [0, 2**62], [1] * 65,
    [1, 0], [None, None], ["a"], {}, {"kind": "tensor"}, {"kind": "row"}, {"kind": "channel", "axis": 1},
    {"kind": "group", "axis": -1, "group_size": 3}, {"a": "bfloat16"}, {"n": {"b": "int4"}}, {"n": {}},
]  # fmt: skip


def nodes(value, path=()):
    """Yield the path of every value inside a value of JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nodes(item, (*path, key))


def other_json(rng, value):
    """Return a value of JSON with one node replaced, removed, renamed or moved."""
    paths = list(nodes(value))
    path = paths[rng.integers(len(paths))]
    new = VALUES[rng.integers(len(VALUES))]
    if not path:
        return new
    value = json.loads(json.dumps(value))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    action = rng.integers(5)
    if action == 0:
        del parent[path[-1]]
    elif action == 1 and isinstance(parent, dict):
        parent[str(new)] = parent.pop(path[-1])
    elif action == 2:
        other = value
        for key in paths[rng.integers(len(paths))]:
            other = other[key]
        parent[path[-1]] = json.loads(json.dumps(other))
    elif action == 3 and isinstance(parent[path[-1]], int):
        parent[path[-1]] += int(rng.integers(-2, 3))
    else:
        parent[path[-1]] = new
    return value


def other_text(rng, text):
    value = json.loads(text)
    for _ in range(rng.integers(1, 3)):
        value = other_json(rng, value)
    return json.dumps(value).encode()


def other_bytes(rng, whole):
    damaged = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        damaged[rng.integers(len(damaged))] = rng.integers(256)
    return bytes(damaged[: rng.integers(len(damaged))]) if rng.integers(8) == 0 else bytes(damaged)


def other_safetensors(rng, whole):
    """Damage bytes, the header, or the schema of qnumpy in it."""
    kind = rng.integers(4)
    (length,) = struct.unpack("<Q", whole[:8])
    if kind == 0:
        return other_bytes(rng, whole)
    header = whole[8 : 8 + length]
    if kind == 1:
        header = other_text(rng, header)
    else:
        values = json.loads(header)
        values["__metadata__"]["qnumpy"] = other_text(rng, values["__metadata__"]["qnumpy"]).decode()
        header = json.dumps(values).encode()
    return struct.pack("<Q", len(header)) + header + whole[8 + length :]


def other_npz(rng, whole):
    """Damage bytes, the schema, or the header of a member, and keep the checksums right."""
    kind = rng.integers(3)
    if kind == 0:
        return other_bytes(rng, whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if kind == 1:
        array = np.load(io.BytesIO(members["__qnumpy__.npy"]))
        text = np.frombuffer(other_text(rng, array.tobytes()), np.uint8)
        stream = io.BytesIO()
        np.save(stream, text)
        members["__qnumpy__.npy"] = stream.getvalue()
    else:
        name = list(members)[rng.integers(len(members))]
        members[name] = other_bytes(rng, members[name][:128]) + members[name][128:]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def other_json_file(rng, whole):
    return other_bytes(rng, whole) if rng.integers(4) == 0 else other_text(rng, whole)


FILES = {
    "packed.safetensors": (PACKED, other_safetensors),
    "codes.safetensors": (CODES, other_safetensors),
    "packed.npz": ({**PACKED, "s": STRUCTURE}, other_npz),
    "codes.npz": (CODES, other_npz),
    "qparams.json": (PARAMS, other_json_file),
}


def check(path, read, count, seed, damage, *allowed):
    """Load a file `count` times, each time damaged in another way."""
    rng = np.random.default_rng(seed)
    whole = path.read_bytes()
    refused = 0
    for case in range(count):
        damaged = damage(rng, whole)
        path.write_bytes(damaged)
        try:
            read()
        except (qn.FileFormatError, *allowed) as error:
            assert str(path.parent) in str(error)  # noqa: PT017 - either outcome is fine
            refused += 1
        except BaseException as error:
            raise AssertionError(f"case {case}: {error!r} of {damaged!r}") from error
    path.write_bytes(whole)
    read()
    assert refused > count // 4


COUNTS = [500, pytest.param(12_500, marks=pytest.mark.slow)]  # times 5 files and 3 files of a folder: 100,000


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", list(FILES))
def test_damaged_files(tmp_path, name, count):
    arrays, damage = FILES[name]
    path = tmp_path / name
    save(path, arrays)
    check(path, lambda: load(path), count, len(name), damage)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("part", ["index", "first", "last"])
def test_damaged_folders(tmp_path, part, count):
    folder = tmp_path / "model"
    save(f"{folder}/", {**PACKED, **CODES}, max_shard_bytes=1500)
    shards = sorted(folder.glob("model-*"))
    path = {"index": folder / "model.safetensors.index.json", "first": shards[0], "last": shards[-1]}[part]
    damage = other_json_file if part == "index" else other_safetensors
    check(path, lambda: load(folder), count, len(part), damage, FileNotFoundError)
