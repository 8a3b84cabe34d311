"""qnumpy.torch.save and load: models come back with their bits, and bad files are one sentence."""

import copy
import io
import json
import re
import struct

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, Linear, MultiheadAttention, convert, load, save

pytestmark = pytest.mark.peers

rng = np.random.default_rng(0)


def w_of(n, k):
    return rng.normal(size=(n, k)).astype(np.float32)


WEIGHTS = {
    "int8": qn.quantize(w_of(32, 64), granularity=qn.PerChannel(0)),
    "uint8": qn.quantize(w_of(32, 64), dtype="uint8", symmetric=False, granularity=qn.PerChannel(0)),
    "int4 groups": qn.quantize(w_of(32, 64), dtype="int4", granularity=qn.PerGroup(32)),
    "int3 groups": qn.quantize(w_of(32, 64), dtype="int3", granularity=qn.PerGroup(32)),
    "mxfp4": qn.quantize(w_of(32, 64), dtype="mxfp4"),
    "nvfp4": qn.quantize(w_of(32, 64), dtype="nvfp4"),
    "float8": qn.quantize(w_of(32, 64), dtype="float8_e4m3fn", granularity=qn.PerChannel(0)),
    "levels": qn.weights.codebook(w_of(32, 64), granularity=qn.PerGroup(32)),
    "offsets": qn.weights.offsets(w_of(32, 64)),
}


class Net(nn.Module):
    """Nested modules, a shared one, tied weights, buffers of every kind, a parameter of its own."""

    def __init__(self, device=None):
        super().__init__()
        with torch.device(device or "cpu"):
            self.table = nn.Embedding(10, 64)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 64)) for _ in "ab"])
            self.norm = nn.BatchNorm1d(64)
            self.again = self.blocks[1]
            self.head = nn.Linear(64, 10, bias=False)
            self.head.weight = self.table.weight
            self.factor = nn.Parameter(torch.full((1,), 1.5, dtype=torch.bfloat16))
            self.register_buffer("positions", torch.arange(6), persistent=False)
            self.register_buffer("nothing", None)

    def forward(self, ids):
        x = self.table(ids + 0 * self.positions[: ids.shape[-1]])
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm((self.again(x) * self.factor).mean(dim=1)))


def net(name="int8"):
    torch.manual_seed(0)
    model = Net().eval()
    other = qn.quantize(w_of(64, 32), granularity=qn.PerChannel(0))
    for block in model.blocks:
        block[0] = Linear(WEIGHTS[name], rng.normal(size=32), smooth=rng.uniform(0.5, 2, 64), clip=(-4.0, None))
        block[2] = Linear(other, x_qparams=qn.QParams(0.05, 128, "uint8"))
    return model


IDS = torch.tensor([[1, 2, 3], [9, 0, 4]])


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_model_comes_back_with_its_bits(tmp_path, name):
    model = net(name)
    path = tmp_path / "model.safetensors"
    save(model, path)
    for float_model in (Net(), Net("meta")):
        before = [id(t) for t in float_model.parameters()]
        back = load(float_model, path)
        assert torch.equal(back(IDS), model(IDS))
        assert [id(t) for t in float_model.parameters()] == before
        assert isinstance(float_model.blocks[0][0], nn.Linear)
        assert not back.training
        state, wanted = back.state_dict(), model.state_dict()
        assert state.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(state[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), key
        assert repr(back) == repr(model)


def test_what_is_shared_is_written_once_and_shared_again(tmp_path):
    model = net()
    save(model, tmp_path / "model.safetensors")
    arrays = qn.load(tmp_path / "model.safetensors")
    assert not any(name.startswith(("again", "head.")) for name in arrays)
    back = load(Net("meta"), tmp_path / "model.safetensors")
    assert back.head.weight is back.table.weight
    assert isinstance(back.head.weight, nn.Parameter)
    assert back.again[0] is back.blocks[1][0]


def test_the_arrays_are_those_of_qnumpy(tmp_path):
    model = net("int4 groups")
    save(model, tmp_path / "model.safetensors")
    arrays = qn.load(tmp_path / "model.safetensors")
    assert arrays["blocks.0.0.weight"] == WEIGHTS["int4 groups"]
    np.testing.assert_array_equal(arrays["factor"].astype(np.float32), [1.5])
    safetensors = pytest.importorskip("safetensors.torch")
    plain = safetensors.load_file(tmp_path / "model.safetensors")  # a reader that we did not write
    assert torch.equal(plain["table.weight"], model.table.weight)
    assert torch.equal(plain["blocks.0.2.weight"], model.blocks[0][2].weight)


def test_a_quantized_root_and_an_identity(tmp_path):
    layer = Linear(WEIGHTS["int8"])
    save(layer, tmp_path / "a.safetensors")
    x = torch.randn(3, 64)
    assert torch.equal(load(nn.Linear(64, 32), tmp_path / "a.safetensors")(x), layer(x))
    folded = nn.Sequential(layer, nn.Identity())
    save(folded, tmp_path / "b.safetensors")
    back = load(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32)), tmp_path / "b.safetensors")
    assert torch.equal(back(x), layer(x))


class Images(nn.Module):
    """Convolutions, and a table of codes that a linear layer shares."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.row = nn.Conv1d(4, 4, 3, padding="same", groups=2)
        self.image = nn.Conv2d(1, 3, (3, 2), stride=2, padding=(1, 0))
        self.out = nn.Linear(16, 12)
        self.out.weight = self.table.weight

    def forward(self, ids):
        x = self.row(self.table(ids))
        return self.out(x), self.image(x[:, None])


def test_convolutions_and_tied_tables(tmp_path):
    torch.manual_seed(1)
    model = convert(Images(), Config())
    save(model, tmp_path / "model.safetensors")
    with torch.device("meta"):
        float_model = Images()
    back = load(float_model, tmp_path / "model.safetensors")
    ids = torch.tensor([[1, 2, 3, 11], [0, 5, 5, 7]])
    for y, expected in zip(back(ids), model(ids), strict=True):
        assert torch.equal(y, expected)
    assert repr(back) == repr(model)
    assert back.out.weight.data_ptr() == back.table.weight.data_ptr()
    assert "out.weight" not in qn.load(tmp_path / "model.safetensors")


class Sequences(nn.Module):
    """Modules whose layers are apart once they are converted; one layer stays float."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.rnn = nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.act = nn.GELU()

    def forward(self, x):
        return self.rnn(self.act(self.attention(x, x, x)[0]))[0]


def test_attention_and_recurrent_networks(tmp_path):
    torch.manual_seed(2)
    model = convert(Sequences(), Config())
    assert isinstance(model.attention, MultiheadAttention)
    save(model, tmp_path / "model.safetensors")
    with torch.device("meta"):
        float_model = Sequences()
    back = load(float_model, tmp_path / "model.safetensors")
    x = torch.randn(2, 5, 16)
    assert torch.equal(back(x), model(x))
    assert repr(back) == repr(model)


def test_a_folder_of_shards(tmp_path):
    model = net()
    save(model, f"{tmp_path}/model/", max_shard_bytes=6000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert torch.equal(load(Net("meta"), tmp_path / "model")(IDS), model(IDS))


@pytest.mark.parametrize("name", WEIGHTS)
def test_state_dict_and_torch_save(name):
    model = net(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = net(name)
    for module in other.modules():
        for tensor in module._buffers.values():
            if tensor is not None and tensor.dtype in (torch.int8, torch.uint8):
                tensor.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(IDS), model(IDS))
    assert torch.equal(copy.deepcopy(model)(IDS), model(IDS))


def refused(path, float_model=None):
    with pytest.raises((ValueError, TypeError)) as error:
        load(Net("meta") if float_model is None else float_model, path)
    text = str(error.value)
    assert text.endswith(".")
    assert len(text.splitlines()) == 1
    return text


def test_a_model_that_does_not_fit(tmp_path):
    path = tmp_path / "model.safetensors"
    save(net(), path)
    model = Net("meta")
    del model.blocks[1][2]
    assert refused(path, model) == (f"load: model must be one with the modules of {path}; got none named 'blocks.1.2'.")
    model = Net("meta")
    model.more = nn.Linear(2, 2)
    assert refused(path, model) == f"load: model must be one with the tensors of {path}; got 'more.weight' too."
    model = Net("meta")
    del model.norm
    assert refused(path, model) == f"load: model must be one with the tensors of {path}; got none named 'norm.weight'."
    model = Net("meta")
    model.blocks[0][0] = nn.Linear(8, 32)
    assert refused(path, model) == (
        f"load: model must be one whose 'blocks.0.0.weight' has the shape (32, 64) of {path}; got (32, 8)."
    )
    model = Net("meta")
    model.norm = nn.BatchNorm1d(65)
    assert refused(path, model) == (
        f"load: model must be one whose 'norm.weight' has the shape (64,) of {path}; got (65,)."
    )


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"^save: model must be a torch\.nn\.Module; got 3\.$"):
        save(3, tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match=r"^load: model must be a torch\.nn\.Module; got None\.$"):
        load(None, tmp_path / "a.safetensors")
    text = "save: path must be of a .safetensors file or of a folder; got 'a.npz'."
    with pytest.raises(ValueError, match=re.escape(text)):
        save(net(), "a.npz")
    with pytest.raises(ValueError, match=r"got 'factor' on the device 'meta'\.$"):
        save(Net("meta"), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        load(Net(), tmp_path / "a.safetensors")
    qn.save(tmp_path / "a.safetensors", {"w": np.zeros(3)})
    assert refused(tmp_path / "a.safetensors") == (
        f"{tmp_path}/a.safetensors: is not of a model that qnumpy.torch.save wrote."
    )


def edited(path, change):
    """Write the file again with another description of the model."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["qnumpy.torch"])
    header["__metadata__"]["qnumpy.torch"] = change(description)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def entry(description):
    return description["modules"]["blocks.0.0"]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda d: "{", "the description of the model is not valid JSON"),
        (lambda d: "[]", "the description of the model must be a JSON object"),
        (lambda d: json.dumps({**d, "version": 2}), "the model must be of version 1; got 2."),
        (lambda d: json.dumps({**d, "modules": []}), "must have objects 'modules' and 'shared'"),
        (lambda d: entry(d).update({"class": "save"}) or json.dumps(d), "qnumpy.torch has no module 'save'"),
        (lambda d: entry(d).update({"class": 3}) or json.dumps(d), "qnumpy.torch has no module 3"),
        (lambda d: entry(d).update({"arrays": ["other"]}) or json.dumps(d), "'blocks.0.0' is wrong"),
        (lambda d: entry(d).pop("options") and json.dumps(d), "'blocks.0.0' is wrong: 'options'"),
        (lambda d: entry(d)["attributes"].update(forward=1) or json.dumps(d), "'forward' is no attribute"),
        (lambda d: entry(d)["attributes"].update(_modules=1) or json.dumps(d), "'_modules' is no attribute"),
        (lambda d: d["modules"].update(x={"same": "y"}) or json.dumps(d), "the module 'x' is wrong: 'y'"),
        (lambda d: d["modules"].update({"blocks.1.2": []}) or json.dumps(d), "'blocks.1.2' is wrong"),
        (lambda d: d["shared"].update({"table.weight": "nowhere"}) or json.dumps(d), "got 'table.weight' too"),
    ],
)
def test_a_damaged_description(tmp_path, change, wanted):
    path = tmp_path / "model.safetensors"
    save(net(), path)
    edited(path, change)
    model = Net()
    before = copy.deepcopy(model.state_dict())
    text = refused(path, model)
    assert wanted in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_is_cut(tmp_path):
    path = tmp_path / "model.safetensors"
    save(net(), path)
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(qn.FileFormatError, match=re.escape(str(path))):
            load(Net(), path)
