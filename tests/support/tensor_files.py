"""Arrays to save, what must come back, and safetensors files written by hand."""

import json
import struct

import numpy as np
import safetensors

import qnumpy as qn
from qnumpy.files.spec import is_same_layer


def reals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, value in expected.items():
        if isinstance(value, qn.QuantizedArray):
            assert isinstance(got[name], qn.QuantizedArray)
            assert got[name] == value
        elif isinstance(value, qn.MXArray):
            assert got[name] == value
        elif isinstance(value, qn.PackedWeight):
            assert is_same_layer(got[name], value)
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


def raw_file(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
