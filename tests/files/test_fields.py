"""Dtypes of ml_dtypes in files: either byte order, alone and as fields of structures, in every layout."""

import ml_dtypes
import numpy as np
import pytest

import qnumpy as qn
from qnumpy.files.fields import ML_DTYPES
from qnumpy.files.store import load, save

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SWAPPED = BFLOAT16.newbyteorder()
INT4 = np.dtype(ml_dtypes.int4)


def numbers(name, *shape):
    """Numbers of one of ml_dtypes' types, in native byte order."""
    rng = np.random.default_rng(0)
    if "int" in name:
        return rng.integers(0, 2, shape).astype(ML_DTYPES[name])
    if "complex" in name:
        return (
            (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64).astype(ML_DTYPES[name])
        )
    return rng.standard_normal(shape).astype(np.float32).astype(ML_DTYPES[name])


def layouts(x):
    return {
        "C": x,
        "Fortran": np.asfortranarray(x),
        "0-d": x[0, 0:1].reshape(()),
        "empty": x[:0],
        "strided": x[::2, ::-2],
        "read-only": np.broadcast_to(x[:1], x.shape),
    }


def assert_equal_values(got, expected):
    """Equal names, shapes and values, NaN too; the byte order is free."""
    assert got.shape == expected.shape
    if expected.dtype.fields is not None:
        assert got.dtype.names == expected.dtype.names
        assert got.dtype.itemsize == expected.dtype.itemsize
        for name in expected.dtype.names:
            assert_equal_values(got[name], expected[name])
        return
    assert got.dtype.name == expected.dtype.name
    one, other = (x.astype(x.dtype.newbyteorder("=")) for x in (got, expected))
    if "int" in expected.dtype.name and expected.dtype.itemsize == 1:
        one, other = one.astype(np.int8), other.astype(np.int8)
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_either_byte_order(tmp_path, suffix, order, name):
    x = numbers(name, 4, 6)
    arrays = layouts(x.astype(x.dtype.newbyteorder(order)))
    save(tmp_path / f"a.{suffix}", arrays)
    loaded = load(tmp_path / f"a.{suffix}")
    for layout, expected in layouts(x).items():
        assert_equal_values(loaded[layout], expected)


def test_a_big_endian_bfloat16_by_hand(tmp_path):
    x = np.array([1, 2, 3]).astype(SWAPPED)
    for suffix in ("npz", "safetensors"):
        save(tmp_path / f"a.{suffix}", {"x": x})
        back = load(tmp_path / f"a.{suffix}")["x"]
        assert back.dtype == BFLOAT16
        assert back.astype(np.float64).tolist() == [1.0, 2.0, 3.0]


STRUCTURES = {
    "flat": np.dtype([("a", BFLOAT16), ("b", "i2")]),
    "both orders": np.dtype([("a", BFLOAT16), ("b", SWAPPED), ("c", ">f4"), ("d", "<f4")]),
    "nested": np.dtype([("a", [("b", SWAPPED), ("c", [("d", INT4)])]), ("e", "f8")]),
    "subarrays": np.dtype([("a", SWAPPED, (2, 3)), ("b", INT4, (2,)), ("c", [("d", BFLOAT16)], (2,))]),
    "titles": np.dtype([(("long name", "a"), SWAPPED), ("b", "u1")]),
    "padding": np.dtype({"names": ["a", "b"], "formats": [SWAPPED, "f8"], "offsets": [3, 8], "itemsize": 24}),
    "names in Unicode": np.dtype([("ü", BFLOAT16), ("日", "f4")]),
    "record": np.dtype((np.record, [("a", BFLOAT16)])),
}
if hasattr(ml_dtypes, "complex32"):  # not in ml_dtypes 0.5
    STRUCTURES["complex"] = np.dtype([("a", np.dtype(ml_dtypes.complex32).newbyteorder()), ("b", ml_dtypes.bcomplex32)])


def filled(x):
    """Put numbers into every field, in place."""
    if x.dtype.fields is None:
        x[...] = np.arange(x.size).reshape(x.shape) % 8
        return
    for name in x.dtype.names:
        filled(x[name])


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_structures_with_fields_of_ml_dtypes(tmp_path, name):
    x = np.zeros((4, 6), STRUCTURES[name])
    filled(x)
    arrays = layouts(x)
    save(tmp_path / "a.npz", {**arrays, "plain": np.ones(3)})
    loaded = load(tmp_path / "a.npz")
    for layout, expected in arrays.items():
        assert_equal_values(loaded[layout], expected)
    assert loaded["C"].dtype.fields["a" if "a" in x.dtype.names else "ü"][0].base != np.dtype("V2")
    if name == "titles":
        assert loaded["C"].dtype.fields["long name"] == loaded["C"].dtype.fields["a"]
    with pytest.raises(TypeError, match=r"^save: arrays\['x'\] must have a dtype that this kind of file holds; got "):
        save(tmp_path / "a.safetensors", {"x": x})
    assert not (tmp_path / "a.safetensors").exists()


PLAIN = {
    "dates": np.arange(6).astype("M8[25s]"),
    "dates, big endian": np.arange(6).astype(">M8[ns]"),
    "durations": np.arange(6).astype("m8[us]"),
    "texts, big endian": np.array(["a", "ü日"]).astype(">U5"),
    "bytes": np.array([b"a", b"bc"]),
    "bools": np.array([True, False]),
    "complex, big endian": (np.arange(6) * 1j).astype(">c16"),
    "long double": np.arange(3, dtype="g"),
    "raw": np.frombuffer(b"abcdefgh", "V4"),
    "no bytes": np.zeros((2, 3), "V0"),
    "no characters": np.zeros((2, 3), "U0"),
    "no fields": np.zeros(3, []),
    "names in Unicode": np.ones(2, [("ü日", "f4")]),
    "aligned": np.ones(2, np.dtype("u1,f8", align=True)),
    "metadata": np.ones(3, np.dtype(">f4", metadata={"unit": "m"})),
    "metadata of a field": np.ones(3, np.dtype([("x", np.dtype(">f4", metadata={"unit": "m"}))])),
    "many fields": np.ones(2, [(f"field{k:04}", "f4") for k in range(900)]),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_other_dtypes_of_numpy(tmp_path, name):
    x = PLAIN[name]
    save(tmp_path / "a.npz", {"x": x})
    assert_equal_values(load(tmp_path / "a.npz")["x"], x)
    with np.load(tmp_path / "a.npz", max_header_size=100_000) as file:
        assert_equal_values(file["x"], x)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "c8", "i2", "i4", "i8", "u2", "u4", "u8", "?", "i1"])
def test_numbers_of_safetensors_in_either_byte_order(tmp_path, kind, order):
    arrays = layouts((np.arange(24).reshape(4, 6) % 2).astype(order + kind))
    save(tmp_path / "a.safetensors", arrays)
    loaded = load(tmp_path / "a.safetensors")
    for layout, expected in arrays.items():
        assert_equal_values(loaded[layout], expected)


def test_a_memory_map_of_the_other_byte_order(tmp_path):
    x = np.memmap(tmp_path / "x", ">f4", "w+", shape=(3, 4))
    x[...] = np.arange(12).reshape(3, 4)
    for suffix in ("npz", "safetensors"):
        save(tmp_path / f"a.{suffix}", {"x": x})
        np.testing.assert_array_equal(load(tmp_path / f"a.{suffix}")["x"], np.arange(12).reshape(3, 4))


REFUSED = {
    "objects": np.array([{}]),
    "objects in a structure": np.zeros(2, [("a", "O"), ("b", BFLOAT16)]),
    "texts of any length": np.array(["a", "b"], np.dtypes.StringDType()),
    "fields that overlap": np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["f4", "f4"], "offsets": [0, 2]})),
    "fields out of order": np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["f4", BFLOAT16], "offsets": [4, 0]})),
    "too many fields": np.zeros(2, [(f"field{k:04}", "f4") for k in range(5000)]),
}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("name", list(REFUSED))
def test_dtypes_that_no_file_holds(tmp_path, suffix, name):
    with pytest.raises(
        TypeError, match=r"^save: arrays\['x'\] must have a dtype that this kind of file holds; got "
    ) as e:
        save(tmp_path / f"a.{suffix}", {"x": REFUSED[name]})
    assert len(str(e.value)) < 150
    assert list(tmp_path.iterdir()) == []


MASKED = np.ma.array([1, 2], mask=[False, True])
Q = qn.quantize(np.ones(3, np.float32))


@pytest.mark.parametrize(("value", "error", "text"), [
    (MASKED, TypeError, "an array without a mask; got a masked array."),
    ([MASKED, MASKED], TypeError, "an array without a mask; got a masked array."),
    (([1, 2], (MASKED,)), TypeError, "an array without a mask; got a masked array."),
    ([Q, Q], TypeError, "one quantized array or plain numbers; got a list of a QuantizedArray."),
    ([[1], [1, 2]], ValueError, "an array, or rows of one length; got [[1], [1, 2]]."),
])  # fmt: skip
def test_values_that_numpy_would_change(tmp_path, value, error, text):
    for suffix in ("npz", "safetensors"):
        with pytest.raises(error) as caught:
            save(tmp_path / f"a.{suffix}", {"x": value})
        assert str(caught.value) == f"save: arrays['x'] must be {text}"
    assert list(tmp_path.iterdir()) == []
