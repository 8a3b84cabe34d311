"""Npz archives: NumPy loads them, and inconsistent ones are refused."""

import re
import zipfile

import numpy as np
import pytest
from tensor_files import assert_same, reals

import qnumpy as qn
from qnumpy.files.store import Reader, Writer, load


def test_we_read_what_numpy_writes(tmp_path):
    arrays = {"x": reals(5, 7), "f": np.asfortranarray(reals(3, 4)), "s": np.array(["a", "bc"])}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    assert_same(load(tmp_path / "a.npz"), arrays)


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
    refused([("readme.txt", b"")], "tensor 'readme.txt' is no array: its name in the archive does not end in .npy.")
    with pytest.warns(UserWarning, match="Duplicate name"):
        refused([("__qnumpy__.npy", b""), ("__qnumpy__.npy", b"")], "tensor '__qnumpy__'")
    np.savez(path, w=np.array([{}]))
    with pytest.raises(qn.FileFormatError, match="tensor 'w' holds Python objects, which qnumpy never unpickles"):
        load(path)
    np.savez(path, __qnumpy__=np.zeros(3))
    with pytest.raises(qn.FileFormatError, match="'__qnumpy__' must be one row of uint8"):
        load(path)


def test_an_array_of_objects_leaves_the_others_readable(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=reals(3), texts=np.array(["a", None], object), f=np.zeros(2, [("a", "O")]), y=reals(2, 2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    refused = f"{path}: tensor 'texts' holds Python objects, which qnumpy never unpickles. load(names=...) reads the "
    for names in (None, "texts", ["x", "texts"]):
        with pytest.raises(qn.FileFormatError) as caught:
            load(path, names)
        assert str(caught.value) == f"{refused}others."
    assert_same(load(path, names=["y", "x"]), {"y": reals(2, 2), "x": reals(3)})
    with Reader(path) as reader:
        assert list(reader.specs) == ["x", "texts", "f", "y", "readme.txt"]
        unreadable = {name: spec.unreadable for name, spec in reader.specs.items() if spec.unreadable is not None}
        assert {name: (spec.shape, spec.dtype.hasobject) for name, spec in reader.specs.items() if spec.dtype.hasobject}
    assert {name: problem.reason for name, problem in unreadable.items()} == {
        "texts": "holds Python objects, which qnumpy never unpickles",
        "f": "holds Python objects, which qnumpy never unpickles",
        "readme.txt": "is no array: its name in the archive does not end in .npy",
    }
    assert unreadable["readme.txt"].nbytes == 5
    want = "save: arrays['texts'] must be readable; got one that holds Python objects, which qnumpy never unpickles."
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        Writer(tmp_path / "b.npz", reader.specs)


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=reals(3), trap=np.array([Trap(tmp_path / "mark")], object))
    load(tmp_path / "a.npz", "x")
    for names in (None, "trap"):
        with pytest.raises(qn.FileFormatError, match="never unpickles"):
            load(tmp_path / "a.npz", names)
    assert not (tmp_path / "mark").exists()


def test_the_third_version_of_the_format(tmp_path):
    x = np.ones(2, [("日", "f4")])
    with pytest.warns(UserWarning, match="format 3"):
        np.savez(tmp_path / "a.npz", x=x)
    assert_same(load(tmp_path / "a.npz"), {"x": x})
