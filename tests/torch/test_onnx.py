"""qnumpy.torch.to_onnx: the layers are those of qnumpy.onnx, and ONNX Runtime computes what PyTorch does."""

import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnxscript")

import torch
from onnx import numpy_helper
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, Conv1d, Conv2d, Embedding, Linear, convert, to_onnx

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")]  # of torch.export

rng = np.random.default_rng(0)
W = rng.normal(size=(24, 64)).astype(np.float32)
BIAS = rng.normal(size=24).astype(np.float32)
HADAMARD = qn.weights.hadamard(64)
BY_CHANNEL = qn.quantize(W, granularity=qn.PerChannel(0))
RANGE = qn.QParams(0.03, 120, "uint8")

# What a node Linear, or int8 codes in a known range, compute to the same bits.
EXACT = {
    "int8": Linear(BY_CHANNEL, BIAS),
    "no bias": Linear(BY_CHANNEL),
    "per tensor": Linear(qn.quantize(W), BIAS),
    "smoothed": Linear(BY_CHANNEL, BIAS, smooth=rng.uniform(0.5, 2, 64)),
    "x around 0": Linear(BY_CHANNEL, BIAS, symmetric=True),
    "x of 7 bits": Linear(BY_CHANNEL, BIAS, activation_bits=7),
    "uint8": Linear(qn.quantize(W, dtype="uint8", symmetric=False, granularity=qn.PerChannel(0)), BIAS),
    "clip": Linear(BY_CHANNEL, BIAS, clip=(-1.0, 2.0)),
    "one bound": Linear(BY_CHANNEL, BIAS, clip=(None, 2.0)),
    "relu": Linear(BY_CHANNEL, BIAS, clip=(0, None)),
    "hadamard": Linear(qn.quantize(HADAMARD.apply(W), granularity=qn.PerChannel(0)), BIAS, hadamard=HADAMARD),
    "int4": Linear(qn.quantize(W, dtype="int4", granularity=qn.PerGroup(32)), BIAS),
    "int4, x by row": Linear(
        qn.quantize(W, dtype="int4", granularity=qn.PerGroup(32)), BIAS, x_granularity=qn.PerRow()
    ),
    "uint4": Linear(
        qn.quantize(W, dtype="uint4", granularity=qn.PerGroup(16), symmetric=False), BIAS, scale_dtype="float16"
    ),
    "int3": Linear(qn.quantize(W, dtype="int3", granularity=qn.PerGroup(64)), BIAS),
}
# 7 bits: without VNNI, ONNX Runtime adds pairs of products of uint8 and int8 in int16
SEVEN = qn.quantize(W, dtype="int7", granularity=qn.PerChannel(0))
KNOWN = {
    "uint8": Linear(SEVEN, BIAS, x_qparams=RANGE),
    "uint8 of some codes": Linear(SEVEN, BIAS, x_qparams=qn.QParams(0.01, 7, "uint8", qmin=3, qmax=200)),
    "int8": Linear(SEVEN, x_qparams=qn.QParams(0.01, 0, "int8", qmin=-127, qmax=127)),
    "relu": Linear(qn.quantize(W, dtype="int7"), BIAS, x_qparams=RANGE, clip=(0, None)),
}
# What computes in float32.
FLOAT = {
    "float8": Linear(qn.quantize(W, dtype="float8_e4m3fn", granularity=qn.PerChannel(0)), BIAS),
    "float8 per tensor": Linear(qn.quantize(W, dtype="float8_e5m2"), BIAS),
}
X = torch.from_numpy(rng.normal(size=(3, 5, 64)).astype(np.float32))


class Beside(nn.Module):
    """Layers that read one input, apart from each other."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def run(proto, *inputs):
    session = qn.onnx.session(proto, threads=1)
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, [np.asarray(x) for x in inputs], strict=True)))


def assert_same_bits(y, expected):
    np.testing.assert_array_equal(y.view(np.int32), expected.detach().numpy().view(np.int32))


def nodes(proto, domain="qnumpy"):
    return [node for node in proto.graph.node if node.domain == domain]


@pytest.fixture(scope="module")
def exact():
    return to_onnx(Beside(EXACT.values()).eval(), X)


def test_layers_have_the_bits_of_pytorch(exact):
    for x in (X, X[:1, :2], torch.cat([X, X])):  # batch and sequence are open
        for y, layer in zip(run(exact, x), EXACT.values(), strict=True):
            assert_same_bits(y, layer(x))
    assert not nodes(exact, "qnumpy.torch")
    assert {node.op_type for node in nodes(exact)} == {"Linear"}
    assert {node.op_type for node in nodes(exact, "")} <= {"Clip"}


def test_the_reference_evaluator_gives_the_same_bits(exact):
    (name,) = [value.name for value in exact.graph.input]
    for y, layer in zip(qn.onnx.ReferenceEvaluator(exact).run(None, {name: X.numpy()}), EXACT.values(), strict=True):
        assert_same_bits(y, layer(X))


@pytest.mark.parametrize("target", ["qnumpy", "standard"])
def test_known_ranges_are_standard_operators_of_the_same_bits(target):
    proto = to_onnx(Beside(KNOWN.values()).eval(), X, target=target)
    assert not nodes(proto)
    for y, layer in zip(run(proto, X), KNOWN.values(), strict=True):
        assert_same_bits(y, layer(X))


def test_other_weights_compute_in_float32():
    proto = to_onnx(Beside(FLOAT.values()).eval(), X)
    for y, (name, layer) in zip(run(proto, X), FLOAT.items(), strict=True):
        expected = (X.double() @ layer.dequantize().double().T).numpy() + BIAS
        bound = (
            X.double().abs() @ layer.dequantize().double().abs().T
        ).numpy() * 66 * 2.0**-24 + 1e-6  # K + 2 roundings
        assert (np.abs(y - expected) <= bound).all(), name


def test_standard_rows_are_near():
    layers = [EXACT[name] for name in ("int8", "no bias", "per tensor", "smoothed", "clip", "relu")]
    proto = to_onnx(Beside(layers).eval(), X, target="standard")
    assert not nodes(proto)
    assert sum(node.op_type == "ReduceMin" for node in proto.graph.node) == 2  # layers of one x share its codes
    for y, layer in zip(run(proto, X), layers, strict=True):
        w = layer.dequantize().abs()
        # a code of x may be another one where the scale differs in its last bit
        step = 1.01 * float(X.max() - X.min()) * 2 / 255
        assert (np.abs(y - layer(X).numpy()) <= step * float(w.max()) + 1e-4).all()


def test_standard_weights_of_few_bits_compute_in_float32():
    layers = [EXACT[name] for name in ("uint8", "int4", "uint4", "int3")]
    layers.append(Linear(qn.weights.offsets(W), BIAS))
    proto = to_onnx(Beside(layers).eval(), X, target="standard")
    for y, layer in zip(run(proto, X), layers, strict=True):
        expected = (X.double() @ layer.dequantize().double().T).numpy() + BIAS
        w = layer.array()
        size = np.abs(w.dequantize())
        if hasattr(w, "offset"):  # the product and the offset have signs
            size += 2 * np.abs(np.repeat(w.offset, w.granularity.group_size, axis=1))
        # the form stores scales in float16 where these are normal in it: 2**-11 of each product
        bound = (X.double().abs().numpy() @ size.T) * 2.0**-10.9 + 1e-5
        assert (np.abs(y - expected) <= bound).all()


@pytest.mark.parametrize("target", ["qnumpy", "standard"])
@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (Linear(qn.quantize(W, dtype="mxfp4")), "'0' of MXArray mxfp4"),
        (Linear(qn.quantize(W, dtype="nvfp4")), "'0' of MXArray nvfp4"),
        (Linear(qn.weights.codebook(W, granularity=qn.PerGroup(32))), "'0' of CodebookArray uint4 per tensor"),
    ],
)
def test_what_onnx_has_no_form_for_is_refused(target, layer, got):
    text = f"to_onnx: model must be of layers that have a form in ONNX; got {got}."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        to_onnx(nn.Sequential(layer).eval(), X, target=target)


def test_rotated_rows_have_no_standard_form():
    with pytest.raises(
        ValueError, match=r"^to_onnx: model must be without rotated rows where .*; got '0' with Had.*\.$"
    ):
        to_onnx(nn.Sequential(EXACT["hadamard"]).eval(), X, target="standard")


class Others(nn.Module):
    """Convolutions and look-ups."""

    def __init__(self, static=None):
        super().__init__()
        filters = qn.quantize(
            rng.normal(size=(6, 2, 3, 3)).astype(np.float32), dtype="int7", granularity=qn.PerChannel(0)
        )
        rows = qn.quantize(rng.normal(size=(4, 3, 3)).astype(np.float32), dtype="int7", granularity=qn.PerChannel(0))
        self.image = Conv2d(
            filters, rng.normal(size=6), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, clip=(0, None),
            x_qparams=static,
        )  # fmt: skip
        self.row = Conv1d(rows, padding="same", x_qparams=static)
        table = rng.normal(size=(20, 8)).astype(np.float32)
        self.tables = nn.ModuleList(
            [
                Embedding(qn.quantize(table, granularity=qn.PerChannel(0))),
                Embedding(qn.quantize(table)),
                Embedding(qn.quantize(table, dtype="float8_e4m3fn", granularity=qn.PerChannel(0))),
                Embedding(qn.quantize(table, granularity=qn.PerChannel(0)), dtype=torch.float16),
            ]
        )

    def forward(self, images, sequences, ids):
        return self.image(images), self.row(sequences), *(table(ids) for table in self.tables)


IMAGES = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[0, 19, -1], [3, 3, 4]])


def check_others(model, proto, *, from_index=0):
    for images, sequences, ids in ((IMAGES, SEQUENCES, IDS), (IMAGES[:1], SEQUENCES[:, :, :4], IDS[:, :2])):
        expected = model(images, sequences, ids)
        results = run(proto, images, sequences, ids)
        for y, e in list(zip(results, expected, strict=True))[from_index:]:
            assert y.dtype == e.numpy().dtype
            np.testing.assert_array_equal(y, e.numpy())


def test_convolutions_and_tables_have_the_bits_of_pytorch():
    model = Others().eval()
    proto = to_onnx(model, (IMAGES, SEQUENCES, IDS))
    check_others(model, proto)
    assert sorted(node.op_type for node in nodes(proto)) == ["Conv", "Conv", *["Embedding"] * 3]


@pytest.mark.parametrize("static", [qn.QParams(0.02, 100, "uint8"), qn.QParams(0.02, 3, "int8", qmin=-127)])
def test_static_convolutions_have_the_bits_of_pytorch(static):
    model = Others(static).eval()
    proto = to_onnx(model, (IMAGES, SEQUENCES, IDS), target="standard")
    check_others(model, proto)
    assert not nodes(proto)


def test_standard_convolutions_compute_in_float32():
    model = Others().eval()
    proto = to_onnx(model, (IMAGES, SEQUENCES, IDS), target="standard")
    check_others(model, proto, from_index=2)
    w, bias = model.image.dequantize(), torch.from_numpy(model.image.array("bias"))
    expected = nn.functional.conv2d(IMAGES, w, bias, (2, 1), (1, 2), (1, 2), 2).relu()
    y = run(proto, IMAGES, SEQUENCES, IDS)[0]
    # float16 scales: 2**-11 of each of 18 products of about 3 * 3
    np.testing.assert_allclose(y, expected.numpy(), atol=18 * 9 * 2.0**-11)


class Block(nn.Module):
    """Attention and a feed-forward layer, as a transformer has them."""

    def __init__(self, width=64):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in "qkvo")
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in "ab"])
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        x = self.norms[0](x + self.o(weights @ v))
        return self.norms[1](x + self.down(nn.functional.gelu(self.up(x))))


def block():
    torch.manual_seed(0)
    return Block().eval()


def constants(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def float_export(model, x):
    open_axes = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
    return torch.onnx.export(model, (x,), dynamo=True, verbose=False, dynamic_shapes=open_axes).model_proto


def rotated(model):
    """Round as quantize_dynamic does without data."""
    return convert(model, Config(method="mse", hadamard=True))


def test_the_file_is_that_of_quantize_dynamic():
    model = block()
    ours = to_onnx(rotated(model), X)
    theirs = qn.onnx.quantize_dynamic(float_export(model, X), target="qnumpy", include=["MatMul"])
    kinds = [(node.domain, node.op_type, len(node.input), len(node.output)) for node in theirs.graph.node]
    assert [(node.domain, node.op_type, len(node.input), len(node.output)) for node in ours.graph.node] == kinds
    assert [kind[1] for kind in kinds if kind[0] == "qnumpy"] == [
        "Linear", "Linear", "SkipLayerNormalization", "Linear", "Linear", "SkipLayerNormalization",
    ]  # fmt: skip
    held, wanted = constants(ours), constants(theirs)
    for mine, other in zip(nodes(ours), nodes(theirs), strict=True):
        attributes = [{a.name: str(a) for a in node.attribute} for node in (mine, other)]
        assert attributes[1].items() <= attributes[0].items()
        for name, theirs_name in zip(mine.input, other.input, strict=True):
            if theirs_name in wanted:
                np.testing.assert_array_equal(held[name], wanted[theirs_name])
    np.testing.assert_array_equal(run(ours, X)[0], run(theirs, X)[0])


def test_a_transformer_is_near_pytorch():
    model = rotated(block())
    for x in (X, X[:2, :3]):
        (y,) = run(to_onnx(model, X), x)
        # codes of x may be others where the float parts before a layer differ in their last bits: a step of 1/255
        np.testing.assert_allclose(y, model(x).detach().numpy(), atol=0.02)


def test_factors_and_activations_go_into_the_node():
    layers = [Linear(BY_CHANNEL, BIAS, smooth=rng.uniform(0.5, 2, 64)), nn.GELU(), nn.Linear(24, 8), nn.ReLU()]
    model = convert(nn.Sequential(*layers), Config())
    proto = to_onnx(model, X)
    assert [node.op_type for node in proto.graph.node] == ["Linear", "Linear"]
    (y,) = run(proto, X)
    np.testing.assert_allclose(y, model(X).detach().numpy(), atol=0.05)  # codes of x after GELU may be others
    (gelu,) = run(to_onnx(model[:2], X), X)
    np.testing.assert_allclose(
        gelu, model[:2](X).detach().numpy(), rtol=0, atol=1e-5
    )  # both within 4e-7 max(1, |v|), |v| < 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_other_floats(dtype):
    model = nn.Sequential(EXACT["int8"]).eval()
    x = X.to(dtype)
    proto = to_onnx(model, x)
    session = qn.onnx.session(proto, threads=1)
    if dtype == torch.float16:
        np.testing.assert_array_equal(run(proto, x)[0], model(x).numpy())
    assert session.get_inputs()[0].type == f"tensor({str(dtype).removeprefix('torch.')})"


def test_files_and_reports(tmp_path):
    path = tmp_path / "model.onnx"
    model = nn.Sequential(EXACT["int8"]).eval()
    proto = to_onnx(model, X, path, input_names=["x"], output_names=["y"])
    assert path.read_bytes() == proto.SerializeToString()
    (y,) = qn.onnx.session(path).run(["y"], {"x": X.numpy()})
    assert_same_bits(y, model(X))
    assert b"site-packages" not in path.read_bytes()  # nor other folders of this machine
    (change,) = qn.onnx.report(path)
    assert (change.node, change.op_type, change.dtype) == ("0", "Linear", "int8 per channel 0")
    fixed = to_onnx(model, X, dynamic_shapes=None)
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [3, 5, 64]
    named = to_onnx(model, X, dynamic_shapes=({1: torch.export.Dim("sequence", max=512)},))
    assert named.graph.input[0].type.tensor_type.shape.dim[1].dim_param == "sequence"


def test_inputs_by_name():
    model = Block().eval()
    proto = to_onnx(convert(model, Config(include="up")), {"x": X})
    assert [value.name for value in proto.graph.input] == ["x"]


class Branches(nn.Module):
    def forward(self, x):
        return x if bool(x.sum() > 0) else -x


def test_errors(tmp_path):
    model = nn.Sequential(EXACT["int8"]).eval()
    with pytest.raises(ValueError, match=r"^to_onnx: target must be one of 'qnumpy', 'standard'; got 'onnx'\.$"):
        to_onnx(model, X, target="onnx")
    with pytest.raises(TypeError, match=r"^to_onnx: model must be a torch\.nn\.Module; got 3\.$"):
        to_onnx(3, X)
    with pytest.raises(ValueError, match=r"^to_onnx: model must be one that torch\.onnx\.export takes; got .*\.$"):
        to_onnx(Branches(), X, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"^to_onnx: output must be a regular file; got "):
        to_onnx(model, X, tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_one_sentence():
    code = (
        "import sys, torch, qnumpy.torch as t\nsys.modules['onnxscript'] = None\n"
        "try:\n    t.to_onnx(torch.nn.Sequential(), torch.ones(1))\nexcept ImportError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "to_onnx: onnxscript must be installed: pip install 'qnumpy[onnx]' onnxscript."
