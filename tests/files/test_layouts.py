"""Weights as other libraries store them: compressed-tensors written and read, GPTQ and AWQ read.

The decoders here follow the libraries' documents, one weight at a time; the libraries themselves run where they are
installed. The bytes of one file of each layout are written out.
"""

import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tensor_files import reals

import qnumpy as qn
from qnumpy.files.store import Reader


def quantized(dtype="int4", granularity=None, symmetric=True, shape=(24, 96), seed=0):
    w = reals(*shape, seed=seed) + np.float32(0.3)
    return qn.quantize(w, dtype=dtype, granularity=granularity or qn.PerGroup(32), symmetric=symmetric)


def save(folder, arrays, **options):
    qn.save(folder / "model.safetensors", arrays, format="compressed-tensors", **options)
    return folder / "model.safetensors"


def plain(path):
    """The tensors of a file as the safetensors package sees them."""
    return safetensors.numpy.load_file(path)


def bits_of(words, bits, count):
    """The first `count` codes of a row of int32 words."""
    stream = int.from_bytes(np.ascontiguousarray(words, "<i4").tobytes(), "little")
    return [stream >> bits * k & (1 << bits) - 1 for k in range(count)]


# ---- compressed-tensors ----

SCHEMES = [
    (dtype, granularity, symmetric)
    for dtype in ("int4", "uint4", "int8", "uint8", "int2", "uint2")
    for granularity in (qn.PerChannel(0), qn.PerGroup(32))
    for symmetric in (True, False)
]


@pytest.mark.parametrize(("dtype", "granularity", "symmetric"), SCHEMES)
def test_a_compressed_file(tmp_path, dtype, granularity, symmetric):
    q, bias = quantized(dtype, granularity, symmetric), reals(24)
    path = save(tmp_path, {"a.b.weight": q, "a.b.bias": bias})
    loaded = qn.load(path)
    assert list(loaded) == ["a.b.weight", "a.b.bias"]
    same = loaded["a.b.weight"]
    assert same.qparams.code.bits == q.qparams.code.bits
    assert same.qparams.granularity == granularity
    np.testing.assert_array_equal(same.dequantize(), q.dequantize())
    np.testing.assert_array_equal(same.scale, q.scale)
    # as the library decodes it: unsigned codes less half their range, likewise the zero points
    tensors, bits = plain(path), q.qparams.code.bits
    groups = 1 if granularity == qn.PerChannel(0) else 3
    assert tensors["a.b.weight_shape"].tolist() == [24, 96]
    codes = np.array([bits_of(row, bits, 96) for row in tensors["a.b.weight_packed"]])
    scale = tensors["a.b.weight_scale"]
    assert scale.shape == (24, groups)
    zero = np.full((24, groups), 1 << (bits - 1))
    if not symmetric:
        columns = tensors["a.b.weight_zero_point"].T
        zero = np.array([bits_of(column, bits, 24) for column in columns]).T
    x = scale.repeat(96 // groups, 1) * (codes - zero.repeat(96 // groups, 1)).astype(np.float32)
    np.testing.assert_array_equal(x, q.dequantize())
    assert ("a.b.weight_zero_point" in tensors) != symmetric


def test_the_configuration(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["X"], "quantization_config": 1}')
    arrays = {"a.weight": quantized(), "b.weight": quantized(), "embed.weight": reals(4, 5), "norm.weight": reals(4)}
    path = save(tmp_path, arrays)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    assert config == {
        "architectures": ["X"],
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["embed"],
        },
    }
    with Reader(path) as reader:
        assert json.loads(reader.metadata["quantization_config"]) == config["quantization_config"]


def test_several_schemes_name_their_modules(tmp_path):
    save(tmp_path, {"a.weight": quantized(), "b.weight": quantized("int8", qn.PerChannel(0), False)})
    groups = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]
    assert [group["targets"] for group in groups.values()] == [["a"], ["b"]]
    assert groups["group_1"]["weights"]["strategy"] == "channel"
    assert groups["group_1"]["weights"]["group_size"] is None


def test_golden_bytes_of_compressed_tensors(tmp_path):
    """Rows -8..7 and 7..-8 of int4: the nibbles 0..15 and 15..0; zero points -8 and 1: the nibbles 0 and 9."""
    codes = np.stack([np.arange(-8, 8), np.arange(7, -9, -1)]).astype(ml_dtypes.int4)
    q = qn.QuantizedArray(codes, qn.QParams([0.5, 2.0], [-8, 1], "int4", qn.PerChannel(0)))
    tensors = plain(save(tmp_path, {"w": q}))
    assert [f"{word & 0xFFFFFFFF:08x}" for word in tensors["w_packed"].reshape(-1).tolist()] == [
        "76543210", "fedcba98", "89abcdef", "01234567",
    ]  # fmt: skip
    assert tensors["w_zero_point"].tolist() == [[0x90]]
    assert tensors["w_scale"].tolist() == [[0.5], [2.0]]


@pytest.mark.parametrize(
    ("value", "exception", "message"),
    [
        (qn.quantize(reals(4, 8), dtype="mxfp4"), TypeError,
         "a QuantizedArray of integers of at most 8 bits for compressed-tensors; got mxfp4"),
        (qn.quantize(reals(4, 8), dtype="int16", granularity=qn.PerChannel(0)), TypeError,
         "a QuantizedArray of integers of at most 8 bits for compressed-tensors; got int16"),
        (qn.quantize(reals(4, 8)), ValueError,
         "2-D, per channel of axis 0 or in groups of axis 1, for compressed-tensors; got shape (4, 8), per tensor"),
        (qn.quantize(reals(2, 4, 8), granularity=qn.PerChannel(0)), ValueError,
         "2-D, per channel of axis 0 or in groups of axis 1, for compressed-tensors; got shape (2, 4, 8), "
         "per channel 0"),
        (qn.quantize(reals(4, 9), granularity=qn.PerGroup(4)), ValueError,
         "of whole groups for compressed-tensors; got 9 columns per group 4"),
    ],
)  # fmt: skip
def test_what_compressed_tensors_do_not_hold(tmp_path, value, exception, message):
    with pytest.raises(exception) as caught:
        save(tmp_path, {"w": value})
    assert str(caught.value) == f"save: arrays['w'] must be {message}."
    assert not list(tmp_path.iterdir())


def test_format_is_for_safetensors(tmp_path):
    for name in ("a.npz", "a.gguf", "a.json"):
        with pytest.raises(ValueError, match=r"^save: format must be left out unless path ends in .safetensors; got"):
            qn.save(tmp_path / name, {}, format="compressed-tensors")
    with pytest.raises(ValueError, match=r"^save: format must be one of 'compressed-tensors'; got 'gptq'\.$"):
        qn.save(tmp_path / "a.safetensors", {}, format="gptq")


def test_a_failure_leaves_the_configuration_as_it_was(tmp_path):
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(qn.FileFormatError, match=r"config\.json: the configuration is not valid JSON"):
        save(tmp_path, {"w": quantized()})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(TypeError):
        save(tmp_path, {"w": quantized(), "x": np.array([{}])})
    assert (tmp_path / "config.json").read_text() == '{"a": 1}'


def test_shards(tmp_path):
    arrays = {f"l{i}.weight": quantized(seed=i) for i in range(4)}
    save(tmp_path, arrays, max_shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*"))) > 1
    loaded = qn.load(tmp_path)
    for name, q in arrays.items():
        assert loaded[name] == qn.load(tmp_path, name)[name]
        np.testing.assert_array_equal(loaded[name].dequantize(), q.dequantize())


def write(folder, tensors, config=None, name="quantize_config.json"):
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "m.safetensors")
    if config is not None:
        (folder / name).write_text(json.dumps(config))
    return folder / "m.safetensors"


def packed_rows(codes, bits):
    """Rows of int32 words: an encoder by Python integers."""
    rows = []
    for row in codes:
        stream = sum(int(code) << bits * k for k, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append(np.frombuffer(stream.to_bytes(4 * count, "little"), "<i4"))
    return np.array(rows, np.int32).reshape(len(codes), -1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_width_of_compressed_tensors_is_read(tmp_path, bits, dtype):
    rng = np.random.default_rng(bits)
    codes, zero = rng.integers(0, 1 << bits, (6, 64)), rng.integers(0, 1 << bits, (6, 2))
    scale = rng.uniform(0.1, 2, (6, 2)).astype(dtype)
    tensors = {"w_packed": packed_rows(codes, bits), "w_scale": scale, "w_shape": np.array([6, 64])}
    tensors["w_zero_point"] = packed_rows(zero.T, bits).T
    q = qn.load(write(tmp_path, tensors))["w"]
    assert (q.qparams.qmin, q.qparams.qmax) == (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    expected = scale.astype(np.float32).repeat(32, 1) * (codes - zero.repeat(32, 1)).astype(np.float32)
    np.testing.assert_array_equal(q.dequantize(), expected)
    np.testing.assert_array_equal(q.codes.astype(int) + (1 << (bits - 1)), codes)


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_the_configuration_tells_the_widths_of_few_columns(tmp_path, columns):
    arrays = {f"m{n}.weight": quantized(f"int{n}", qn.PerChannel(0), shape=(4, columns)) for n in range(2, 9)}
    loaded = qn.load(save(tmp_path, arrays))
    for name, q in arrays.items():
        assert loaded[name].dtype == q.dtype
        np.testing.assert_array_equal(loaded[name].dequantize(), q.dequantize())


def test_few_columns_without_a_configuration(tmp_path):
    path = save(tmp_path, {"weight": quantized("int4", qn.PerChannel(0), shape=(4, 8))})
    tensors = plain(path)
    (tmp_path / "config.json").unlink()
    safetensors.numpy.save_file(tensors, path)
    message = "8 codes a row of 1 words may have 1 to 4 bits; 'num_bits' of the quantization_config does not say which."
    with pytest.raises(qn.FileFormatError, match=re.escape(message)):
        qn.load(path)


def test_compressed_columns_in_another_order(tmp_path):
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(0, 16, (6, 64)), rng.uniform(0.1, 2, (6, 4)).astype(np.float32)
    index = rng.permutation(np.arange(64) // 16).astype(np.int32)
    tensors = {"w_packed": packed_rows(codes, 4), "w_scale": scale, "w_shape": np.array([6, 64]), "w_g_idx": index}
    x = qn.load(write(tmp_path, tensors))["w"]
    np.testing.assert_array_equal(x, scale[:, index] * (codes - 8).astype(np.float32))
    tensors["w_g_idx"] = np.arange(64, dtype=np.int32) // 16
    q = qn.load(write(tmp_path, tensors))["w"]
    assert q.qparams.granularity == qn.PerGroup(16)


# ---- GPTQ ----


def gptq(bits, *, n=32, k=64, group=16, index=None, above=1, seed=0):
    """The tensors of a layer, and its weight (n, k)."""
    rng = np.random.default_rng(seed)
    order = np.arange(k) // group if index is None else index
    groups = order.max() + 1
    codes, zero = rng.integers(0, 1 << bits, (n, k)), rng.integers(0, 1 << bits, (n, groups))
    scale = rng.uniform(0.1, 2, (n, groups)).astype(np.float16)
    stored = (zero - above) % (1 << bits)
    tensors = {
        "m.qweight": packed_rows(codes, bits).T,
        "m.qzeros": packed_rows(stored.T, bits),
        "m.scales": scale.T,
        "m.g_idx": order.astype(np.int32),
        "m.bias": reals(n),
    }
    return tensors, scale[:, order].astype(np.float32) * (codes - zero[:, order]).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path, bits):
    tensors, w = gptq(bits)
    loaded = qn.load(write(tmp_path, tensors))
    assert list(loaded) == ["m.weight", "m.bias"] or set(loaded) == {"m.weight", "m.bias"}
    q = loaded["m.weight"]
    assert q.qparams.granularity == qn.PerGroup(16)
    np.testing.assert_array_equal(q.dequantize(), w)
    del tensors["m.g_idx"]
    np.testing.assert_array_equal(qn.load(write(tmp_path, tensors))["m.weight"].dequantize(), w)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("key", ["checkpoint_format", "format"])
def test_the_second_format_of_gptq_stores_zero_points_as_they_are(tmp_path, bits, key):
    tensors, w = gptq(bits, above=0)
    first = qn.load(write(tmp_path, tensors))["m.weight"]
    assert not np.array_equal(first.dequantize(), w)
    for name, config in (("quantize_config.json", {key: "gptq_v2"}),
                         ("config.json", {"quantization_config": {key: "gptq_v2"}})):  # fmt: skip
        q = qn.load(write(tmp_path, tensors, config, name))["m.weight"]
        np.testing.assert_array_equal(q.dequantize(), w)
        (tmp_path / name).unlink()


def test_gptq_in_the_order_of_the_activations(tmp_path):
    index = np.random.default_rng(1).permutation(np.arange(64) // 16)
    tensors, w = gptq(4, index=index)
    x = qn.load(write(tmp_path, tensors))["m.weight"]
    assert isinstance(x, np.ndarray)
    np.testing.assert_array_equal(x, w)
    with Reader(tmp_path / "m.safetensors") as reader:
        assert reader.specs["m.weight"].dtype == np.float32
        assert reader.specs["m.weight"].shape == (32, 64)


def test_gptq_per_channel(tmp_path):
    tensors, w = gptq(4, group=64)
    q = qn.load(write(tmp_path, tensors))["m.weight"]
    assert q.qparams.granularity == qn.PerChannel(0)
    np.testing.assert_array_equal(q.dequantize(), w)


def test_gptq_with_a_short_last_group(tmp_path):
    tensors, w = gptq(4, k=64, group=24)
    del tensors["m.g_idx"]
    with pytest.raises(qn.FileFormatError, match=r"'m.scales' must divide 64 columns into groups; got 3 scales a row"):
        qn.load(write(tmp_path, tensors))
    q = qn.load(write(tmp_path, tensors, {"group_size": 24}))["m.weight"]
    np.testing.assert_array_equal(q.dequantize(), w)


def test_the_configuration_goes_before_equal_groups(tmp_path):
    """96 columns in groups of 64 have two scales, as those in groups of 48 have."""
    tensors, w = gptq(4, k=96, group=64)
    q = qn.load(write(tmp_path, tensors, {"group_size": 64}))["m.weight"]
    assert q.qparams.granularity == qn.PerGroup(64)
    np.testing.assert_array_equal(q.dequantize(), w)
    del tensors["m.g_idx"]
    np.testing.assert_array_equal(qn.load(write(tmp_path, tensors))["m.weight"].dequantize(), w)


def test_golden_bytes_of_gptq(tmp_path):
    """Eight rows of K of one column are the nibbles of a word, the first in the low bits; a zero point of 8 is 7."""
    tensors = {
        "m.qweight": np.full((1, 8), 0x76543210, np.int32),
        "m.qzeros": np.array([[0x77777777]], np.int32),
        "m.scales": np.full((1, 8), 0.5, np.float16),
    }
    q = qn.load(write(tmp_path, tensors))["m.weight"]
    assert q.dequantize().tolist() == [[(k - 8) / 2 for k in range(8)]] * 8
    assert (q.codes.dtype.name, q.qparams.symmetric) == ("uint4", True)


# ---- AWQ ----

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the column that each nibble of a word holds


def awq_words(codes):
    nibbles = codes.reshape(len(codes), -1, 8)[..., ORDER]
    return packed_rows(nibbles.reshape(codes.shape), 4)


def test_awq(tmp_path):
    rng = np.random.default_rng(0)
    codes, zero = rng.integers(0, 16, (64, 48)), rng.integers(0, 16, (4, 48))
    scale = rng.uniform(0.1, 2, (4, 48)).astype(np.float16)
    tensors = {"m.qweight": awq_words(codes), "m.qzeros": awq_words(zero), "m.scales": scale}
    q = qn.load(write(tmp_path, tensors))["m.weight"]
    assert q.shape == (48, 64)
    assert q.qparams.granularity == qn.PerGroup(16)
    np.testing.assert_array_equal(q.codes.astype(int), codes.T)
    expected = scale.astype(np.float32).repeat(16, 0) * (codes - zero.repeat(16, 0)).astype(np.float32)
    np.testing.assert_array_equal(q.dequantize(), expected.T)


def test_golden_bytes_of_awq(tmp_path):
    """The word 0x75316420 holds the codes 0 to 7 of eight columns."""
    tensors = {
        "m.qweight": np.full((2, 1), 0x75316420, np.int32),
        "m.qzeros": np.zeros((1, 1), np.int32),
        "m.scales": np.ones((1, 8), np.float16),
    }
    assert qn.load(write(tmp_path, tensors))["m.weight"].codes.T.astype(int).tolist() == [list(range(8))] * 2


# ---- what does not fit ----


def test_scales_of_either_sign_and_zero(tmp_path):
    tensors, _ = gptq(4)
    tensors["m.scales"] = tensors["m.scales"].copy()
    tensors["m.scales"][0, :2] = [-0.5, 0]
    stored = plain(write(tmp_path, tensors))
    q = qn.load(tmp_path / "m.safetensors")["m.weight"]
    codes = np.array([bits_of(column, 4, 64) for column in stored["m.qweight"].T])
    zero = (np.array([bits_of(row, 4, 32) for row in stored["m.qzeros"]]).T + 1) % 16
    expected = stored["m.scales"].T.astype(np.float32).repeat(16, 1) * (codes - zero.repeat(16, 1))
    np.testing.assert_array_equal(q.dequantize(), expected)
    tensors["m.scales"][1, 3] = np.nan
    with pytest.raises(qn.FileFormatError, match=r"tensor 'm.weight': QParams: scale must be positive, finite"):
        qn.load(write(tmp_path, tensors))


def changed(**changes):
    tensors, _ = gptq(4)
    return {**tensors, **{f"m.{name}": value for name, value in changes.items()}}


def compressed(**changes):
    tensors = {"w_packed": np.zeros((6, 8), np.int32), "w_scale": np.ones((6, 2), np.float32)}
    tensors |= {"w_shape": np.array([6, 64]), "w_zero_point": np.zeros((1, 2), np.int32)}
    return {**tensors, **{f"w_{name}": value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            changed(qzeros=np.zeros((3, 4), np.int32)),
            "'m.qzeros' must hold 4 rows of 32 zero points; got shape (3, 4).",
        ),
        (changed(qzeros=np.zeros((4, 5), np.int32)), "'m.qweight' must hold codes of 2, 3, 4 or 8 bits; got 5 by"),
        (
            changed(qweight=np.zeros((8, 31), np.int32)),
            "'m.qweight' must have 32 columns of words along K, or 4 along N",
        ),
        (changed(g_idx=np.zeros(5, np.int32)), "'m.g_idx' must have one index for each of 64 columns; got shape (5,)."),
        (changed(g_idx=np.full(64, 7, np.int32)), "'m.g_idx' must have indices in [0, 3]; got 7 to 7."),
        (compressed(shape=np.array([5, 64])), "'w_shape' must begin with 6; got 5, 64."),
        (compressed(shape=np.array([6, 9999])), "'w_packed' must hold 9999 codes of 1 to 8 bits a row; got 8 words."),
        (compressed(shape=np.array([6, -1])), "'w_shape' must begin with 6; got 6, -1."),
        (compressed(scale=np.ones((5, 2), np.float32)), "'w_scale' must have a row of scales for each of 6 rows"),
        (compressed(scale=np.ones((6, 7), np.float32)), "'w_zero_point' must be int32 (1, 7); got int32 (1, 2)."),
        (compressed(zero_point=np.zeros((2, 2), np.int32)), "'w_zero_point' must be int32 (1, 2); got int32 (2, 2)."),
    ],
)
def test_tensors_that_contradict_each_other(tmp_path, tensors, message):
    path = write(tmp_path, tensors)
    with pytest.raises(qn.FileFormatError) as caught:
        qn.load(path)
    assert str(caught.value).startswith(f"{path}: tensor {message}")


@pytest.mark.parametrize(
    "tensors",
    [
        {"m.qweight": np.zeros((4, 8), np.int32)},
        {"m.qweight": np.zeros((4, 8), np.int32), "m.scales": np.ones((1, 8), np.float16)},
        {"w_packed": np.zeros((4, 8), np.int32), "w_scale": np.ones((4, 1), np.float32)},
        {"m.qweight": np.zeros((4, 8), np.float32), "m.qzeros": np.zeros(3), "m.scales": np.ones(3)},
    ],
)
def test_other_tensors_stay_as_they_are(tmp_path, tensors):
    loaded = qn.load(write(tmp_path, tensors))
    assert set(loaded) == set(tensors)


@pytest.mark.peers
def test_the_library_reads_and_writes_the_same(tmp_path):
    """compressed-tensors needs PyTorch; its own compressor and decompressor."""
    torch = pytest.importorskip("torch")
    base = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    for dtype, granularity, symmetric in SCHEMES:
        q = quantized(dtype, granularity, symmetric)
        path = save(tmp_path, {"weight": q})
        config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
        scheme = quantization.QuantizationConfig(**config).config_groups["group_0"]
        state = {name: torch.from_numpy(tensor) for name, tensor in plain(path).items()}
        x = base.PackedQuantizationCompressor.decompress(state, scheme)["weight"].numpy()
        np.testing.assert_array_equal(x, q.dequantize())
        offset = 0 if q.qparams.code.signed else 1 << (q.qparams.code.bits - 1)
        given = {"weight": torch.from_numpy(x), "weight_scale": state["weight_scale"]}
        zero = (q.zero_point.reshape(24, -1) - offset).astype(np.int8)
        given["weight_zero_point"] = torch.from_numpy(zero)
        theirs = base.PackedQuantizationCompressor.compress(given, scheme)
        assert set(theirs) == set(state)
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(tensor.numpy(), state[name].numpy())
