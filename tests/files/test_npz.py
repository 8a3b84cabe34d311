"""Npz archives: NumPy loads them, and inconsistent ones are refused."""

import re
import zipfile

import numpy as np
import pytest
from tensor_files import assert_same, reals

import qnumpy as qn
from qnumpy.files.store import load


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
