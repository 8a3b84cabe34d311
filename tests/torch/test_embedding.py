"""qnumpy.torch.Embedding: rows of the dequantized weight."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Embedding

pytestmark = pytest.mark.peers

W = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
WEIGHTS = {
    "int8": qn.quantize(W, granularity=qn.PerChannel(0)),
    "int8 per row": qn.quantize(W, granularity=qn.PerRow()),
    "int8 per tensor": qn.quantize(W),
    "int8 per column": qn.quantize(W, granularity=qn.PerChannel(1)),
    "int6": qn.quantize(W, dtype="int6", granularity=qn.PerChannel(0)),
    "uint8 affine": qn.quantize(W, dtype="uint8", symmetric=False, granularity=qn.PerChannel(0)),
    "int4 groups": qn.quantize(W, dtype="int4", granularity=qn.PerGroup(32)),
    "mxfp4": qn.quantize(W, dtype="mxfp4"),
    "levels": qn.weights.codebook(W, granularity=qn.PerGroup(32)),
    "offsets": qn.weights.offsets(W),
}
IDS = torch.tensor([[0, 49, 7], [3, 3, -1]])


@pytest.fixture(params=WEIGHTS)
def layer(request):
    return Embedding(WEIGHTS[request.param])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_looks_up_rows(layer, dtype):
    rows = torch.from_numpy(np.ascontiguousarray(layer.array().dequantize()))
    assert torch.equal(layer.dequantize(), rows)
    for ids in (IDS, IDS.T, IDS[0, 0], IDS[:, ::2], IDS[:0]):
        assert torch.equal(layer(ids.to(dtype)), rows[ids])


@pytest.mark.parametrize("name", ["int8", "int4 groups"])
def test_compiled_and_exported_models_have_the_same_bits(name):
    layer = Embedding(WEIGHTS[name])
    expected = layer(IDS)
    assert torch.equal(torch.compile(layer, fullgraph=True)(IDS), expected)
    ids = IDS.repeat(4, 1)
    exported = torch.export.export(layer, (ids,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=99)},))
    assert torch.equal(exported.module()(IDS), expected)
    with torch.inference_mode():
        assert torch.equal(layer(IDS), expected)


@pytest.mark.parametrize("name", ["int8", "int4 groups"])
def test_opcheck(name):
    layer = Embedding(WEIGHTS[name], dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.qnumpy.embedding.default, (IDS, layer.tensors(), layer.layout))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    layer = Embedding(WEIGHTS["int8"], dtype=dtype)
    assert torch.equal(layer(IDS), Embedding(WEIGHTS["int8"])(IDS).to(dtype))


def test_the_row_of_padding_stays_zero():
    float_layer = nn.Embedding(10, 16, padding_idx=3)
    w = qn.quantize(float_layer.weight.detach().numpy(), granularity=qn.PerChannel(0))
    layer = Embedding(w, padding_idx=float_layer.padding_idx)
    assert not layer(torch.tensor([3])).any()
    assert repr(layer) == "Embedding(10, 16, padding_idx=3, int8 per channel 0)"


def test_copies_and_files(layer):
    file, state = io.BytesIO(), io.BytesIO()
    torch.save(layer, file)
    torch.save(layer.state_dict(), state)
    file.seek(0), state.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(other(IDS), layer(IDS))
    blank = copy.deepcopy(layer)
    blank.weight.zero_()
    assert not torch.equal(blank(IDS), layer(IDS))
    blank.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(blank(IDS), layer(IDS))


class Looked(torch.utils.data.Dataset):
    layer = Embedding(WEIGHTS["int8"])

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.layer(torch.arange(i, i + 40))


def test_workers_of_a_data_loader():
    Looked.layer(torch.arange(50).repeat(1000))  # the threads of this process have started
    batches = list(torch.utils.data.DataLoader(Looked(), batch_size=4, num_workers=2))
    assert torch.equal(torch.cat(batches), torch.stack([Looked()[i] for i in range(8)]))


ERRORS = {
    "Embedding: w must be a quantized array; got an array of float32 with shape (50, 64).": (
        TypeError,
        lambda: Embedding(W),
    ),
    "Embedding: w must be 2-D; got shape (50,).": (ValueError, lambda: Embedding(qn.quantize(W[:, 0]))),
    "Embedding: dtype must be float32, float64, float16 or bfloat16; got int8.": (
        TypeError,
        lambda: Embedding(WEIGHTS["int8"], dtype=torch.int8),
    ),
    "Embedding: every id must be in [-50, 50); got 50.": (
        IndexError,
        lambda: Embedding(WEIGHTS["int8"])(torch.tensor([0, 50, 60])),
    ),
    "Embedding: ids must be a tensor of int64 or int32; got float32.": (
        TypeError,
        lambda: Embedding(WEIGHTS["int8"])(torch.tensor([0.0])),
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_an_id_outside_of_any_weight_is_refused(layer):
    with pytest.raises(IndexError):
        layer(torch.tensor([50]))
    with pytest.raises(IndexError):
        layer(torch.tensor([-51]))
