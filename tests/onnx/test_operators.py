"""The operators of the domain "qnumpy" in ONNX Runtime: the bits of PackedWeight, of Python's other operations, and
sentences."""

import gc
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import qnumpy as qn

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from qnumpy import _core  # noqa: E402
from qnumpy.onnx import _operators as operators  # noqa: E402
from qnumpy.onnx.evaluator import ReferenceEvaluator  # noqa: E402
from qnumpy.testing import layers  # noqa: E402

make = onnx.helper
ROWS = dict(_core.isas())


def model_of(op_type, x, constants, outputs=("y",), attributes=None, more=()):
    """A model of one node; a constant None is left out. Inputs in `more` follow x."""
    inputs = {"x": x, **dict(more)}
    names = [*inputs, *(name if array is not None else "" for name, array in constants.items())]
    while names[-1] == "":
        names.pop()
    node = make.make_node(op_type, names, list(outputs), domain=operators.DOMAIN, **(attributes or {}))

    def info(name, array):
        kind = make.np_dtype_to_tensor_dtype(array.dtype)
        return make.make_tensor_value_info(name, kind, [None] * array.ndim)

    graph = make.make_graph(
        [node], "one", [info(k, v) for k, v in inputs.items()],
        [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None],
    )  # fmt: skip
    opsets = [make.make_opsetid("", 17), make.make_opsetid(operators.DOMAIN, operators.VERSION)]
    return make.make_model(graph, opset_imports=opsets, ir_version=8)


def session_of(model, threads=1, said=True):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if said:
        options.add_session_config_entry("qnumpy.threads", str(threads))
    options.register_custom_ops_library(_core.__file__)
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def linear(w, x, *, outputs=1, bias=None, smooth=None, hadamard=None, scale_dtype="float32", **attributes):
    packed = operators.linear_weight(w, outputs=outputs, scale_dtype=scale_dtype)
    constants = {
        "w": packed.w, "scale": packed.scale, "zero_point": packed.zero_point, "bias": bias, "smooth": smooth,
        "signs": None if hadamard is None else operators.signs_of(hadamard),
    }  # fmt: skip
    if hadamard is not None:
        attributes["hadamard_block"] = hadamard.block
    names = [f"y{i}" for i in range(outputs)]
    return model_of("Linear", x, constants, names, packed.attributes | attributes)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(got, want):
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.fixture(params=[name for name, supported in ROWS.items() if supported and name != "amx"])
def isa(request):
    before = qn.isa()
    qn.set_isa(request.param)
    yield request.param
    qn.set_isa(before)


SHAPES = ((1, 8, 16), (3, 33, 30), (5, 100, 48), (40, 96, 72), (130, 40, 200))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "int3", "int2", "uint2", "int6"])
def test_linear_has_the_bits_of_packed_weight(isa, dtype):
    for m, k, n in SHAPES:
        for symmetric in (True, False):
            w = qn.quantize(normal(k, n), dtype=dtype, granularity=qn.PerChannel(1), symmetric=symmetric)
            x, bias = normal(m, k, seed=1) * 3, normal(n, seed=2)
            session = session_of(linear(w, x, bias=bias, symmetric=int(symmetric)))
            want = x @ qn.PackedWeight(w, bias=bias, symmetric=symmetric, x_granularity=qn.PerRow())
            same(session.run(None, {"x": x})[0], want)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "int2"])
@pytest.mark.parametrize("group_size", [16, 32, 128])
def test_linear_in_groups_has_the_bits_of_packed_weight(isa, dtype, group_size):
    for m, k, n in SHAPES:
        for symmetric in (True, False):
            w = qn.quantize(normal(k, n), dtype=dtype, granularity=qn.PerGroup(group_size, 0), symmetric=symmetric)
            x, bias = normal(m, k, seed=1) * 3, normal(n, seed=2)
            for name, granularity in (("row", qn.PerRow()), ("group", qn.PerGroup(group_size))):
                session = session_of(linear(w, x, bias=bias, x_granularity=name))
                want = x @ qn.PackedWeight(w, bias=bias, symmetric=False, x_granularity=granularity)
                same(session.run(None, {"x": x})[0], want)


def test_linear_with_scales_of_float16():
    w = qn.quantize(normal(64, 40) + 1, dtype="int4", granularity=qn.PerGroup(32, 0), symmetric=False)
    x = normal(7, 64, seed=1)
    got = session_of(linear(w, x, scale_dtype="float16")).run(None, {"x": x})[0]
    same(got, x @ qn.PackedWeight(w, symmetric=False, x_granularity=qn.PerRow(), scale_dtype="float16"))


@pytest.mark.parametrize("size", [64, 96, 320])
@pytest.mark.parametrize("granularity", [qn.PerChannel(1), qn.PerGroup(32, 0)])
def test_linear_smooths_and_transforms(isa, size, granularity):
    hadamard = qn.weights.hadamard(size)
    w = qn.quantize(normal(size, 24), granularity=granularity)
    x, smooth = normal(9, size, seed=1), np.exp(normal(size, seed=2))
    for transform in (None, hadamard):
        for factors in (None, smooth):
            session = session_of(linear(w, x, smooth=factors, hadamard=transform))
            packed = qn.PackedWeight(w, symmetric=False, x_granularity=qn.PerRow(), hadamard=transform)
            same(session.run(None, {"x": x})[0], (x if factors is None else x * factors) @ packed)


@pytest.mark.parametrize("granularity", [qn.PerChannel(1), qn.PerGroup(32, 0)])
@pytest.mark.parametrize("activation", ["", "relu", "gelu"])
def test_linear_of_several_outputs(isa, granularity, activation):
    for n in (16, 20):
        w = qn.quantize(normal(64, 3 * n), granularity=granularity)
        x, bias = normal(2, 9, 64, seed=1), normal(3 * n, seed=2)
        model = linear(w, x, bias=bias, outputs=3, activation=activation)
        want = np.split(x @ qn.PackedWeight(w, bias=bias, symmetric=False, x_granularity=qn.PerRow()), 3, axis=-1)
        for got, y in zip(session_of(model).run(None, {"x": x}), want, strict=True):
            same(
                got,
                {"": lambda v: v, "relu": lambda v: np.where(v < 0, np.float32(0), v), "gelu": layers.gelu}[activation](
                    y
                ),
            )
        for got, y in zip(
            ReferenceEvaluator(model).run(None, {"x": x}), session_of(model).run(None, {"x": x}), strict=True
        ):
            same(got, y)


def both(model, feeds):
    """The outputs in ONNX Runtime, which are those of the evaluator."""
    got = session_of(model).run(None, feeds)
    for a, b in zip(got, ReferenceEvaluator(model).run(None, feeds), strict=True):
        same(a, b)
    return got


def test_gelu_is_close_to_the_closed_form():
    x = np.linspace(-9, 9, 20001, dtype=np.float32)
    want = [v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
    assert np.all(np.abs(layers.gelu(x) - want) <= 4e-7 * np.maximum(1, np.abs(x)))  # as docs/onnx-operators.md says


@pytest.mark.parametrize(
    ("shape", "filters", "attributes"),
    [
        ((2, 3, 9, 8), (6, 3, 3, 3), {}),
        ((1, 8, 10, 11), (8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((2, 4, 7, 7), (6, 2, 2, 3), {"group": 2, "pads": [0, 1, 2, 0], "dilations": [2, 1], "activation": "relu"}),
        ((2, 3, 30), (5, 3, 4), {"strides": [2], "pads": [1, 2], "activation": "gelu"}),
    ],
)
def test_conv(isa, shape, filters, attributes):
    w = qn.quantize(normal(*filters), granularity=qn.PerChannel(0))
    x, bias = normal(*shape, seed=1) + 0.5, normal(filters[0], seed=2)
    model = model_of("Conv", x, {"w": w.codes, "scale": w.scale, "bias": bias}, attributes=attributes)
    (y,) = both(model, {"x": x})
    node = make.make_node("Conv", ["x", "w", "b"], ["y"], **{k: v for k, v in attributes.items() if k != "activation"})
    real = onnx.reference.ReferenceEvaluator(node).run(None, {"x": x, "w": w.dequantize(), "b": bias})[0]
    real = {"": real, "relu": np.maximum(real, 0), "gelu": layers.gelu(real)}[attributes.get("activation", "")]
    reach = np.abs(w.dequantize()).sum(axis=tuple(range(1, len(filters)))).max()
    assert (
        np.abs(y - real).max() <= (x.max() - min(x.min(), 0)) / 255 * reach * 1.2
    )  # half a step of each x, GELU's slope


def test_embedding(isa):
    codes = np.random.default_rng(0).integers(-128, 128, (50, 33)).astype(np.int8)
    scale = np.abs(normal(50)) + np.float32(0.1)
    for dtype in (np.int64, np.int32):
        ids = np.random.default_rng(1).integers(-50, 50, (3, 7)).astype(dtype)
        (y,) = both(model_of("Embedding", ids, {"codes": codes, "scale": scale}), {"x": ids})
        same(y, codes[ids].astype(np.float32) * scale[ids][..., None])
    session = session_of(model_of("Embedding", ids, {"codes": codes, "scale": scale}))
    with pytest.raises(Exception, match=r"qnumpy\.Embedding: ids must be in \[-50, 50\); got another one\."):
        session.run(None, {"x": np.full((1, 1), 50, np.int32)})


@pytest.mark.parametrize("n", [1, 15, 16, 100, 384])
def test_skip_layer_normalization(isa, n):
    x, residual, gamma, beta = normal(4, 5, n), normal(4, 5, n, seed=1), normal(n, seed=2), normal(n, seed=3)
    for bias in (beta, None):
        for outputs in (("y",), ("y", "sum")):
            model = model_of(
                "SkipLayerNormalization", x, {"gamma": gamma, "beta": bias}, outputs, more={"residual": residual}
            )
            y, *total = both(model, {"x": x, "residual": residual})
            assert not total or np.array_equal(total[0], x + residual)
            s = (x + residual).astype(np.float64)
            want = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-5) * gamma
            np.testing.assert_allclose(y, want if bias is None else want + bias, rtol=1e-4, atol=1e-4)


# ---- threads, sessions, faults ----


def test_two_sessions_of_other_thread_counts_and_concurrent_runs():
    w = qn.quantize(normal(384, 1536), granularity=qn.PerChannel(1))
    x = normal(200, 384, seed=1)
    want = x @ qn.PackedWeight(w, symmetric=False, x_granularity=qn.PerRow())
    model = linear(w, x)
    sessions = [session_of(model, threads) for threads in (1, 2, 3)] + [session_of(model, 2, said=False)]
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda i: sessions[i % 4].run(None, {"x": x})[0], range(32)):
            same(got, want)


def test_sessions_are_unloaded_and_loaded_again():
    w = qn.quantize(normal(64, 32), granularity=qn.PerChannel(1))
    x = normal(5, 64)
    results = []
    for _ in range(5):
        session = session_of(linear(w, x))
        results.append(session.run(None, {"x": x})[0])
        del session
        gc.collect()
    for got in results[1:]:
        same(got, results[0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"attributes": {"K": 65}}, r"w must be of 2 panels of 1152 bytes; got shape \(2, 1024\)"),
        ({"attributes": {"K": 0}}, r"K must be in \[1, 2147483647\]; got 0"),
        ({"attributes": {"N": 33}}, r"w must be of 3 panels of 1024 bytes; got shape \(2, 1024\)"),
        ({"attributes": {"bits": 3}}, "bits must be 8, 4 or 2; got 3"),
        ({"attributes": {"group_size": 48}}, "group_size must be 0, 16, 32, 64 or 128; got 48"),
        ({"attributes": {"activation": "tanh"}}, 'activation must be "" or another of its values; got "tanh"'),
        ({"attributes": {"x_granularity": "group"}}, 'x_granularity must be "row" without groups'),
        ({"scale": np.ones(31, np.float32)}, r"scale must be of shape \(32,\); got \(31,\)"),
        ({"scale": None}, "scale must be given; got a node without it"),
        ({"smooth": np.ones(3, np.float32)}, r"smooth must be of shape \(64,\); got \(3,\)"),
        ({"signs": np.ones(64, np.int8)}, r"hadamard_block must be .* and divide K; got 0 and K = 64"),
        ({"zero_point": np.full(32, 200, np.int32)}, r"zero_point must be in \[-128, 127\]; got 200"),
    ],
)  # fmt: skip
def test_a_wrong_node_is_one_sentence(change, text):
    packed = operators.linear_weight(qn.quantize(normal(64, 32), granularity=qn.PerChannel(1)))
    constants = {"w": packed.w, "scale": packed.scale, "zero_point": None, "bias": None, "smooth": None, "signs": None}
    constants |= {k: v for k, v in change.items() if k != "attributes"}
    model = model_of("Linear", normal(2, 64), constants, attributes=packed.attributes | change.get("attributes", {}))
    with pytest.raises(Exception, match=r"qnumpy\.Linear: " + text + r"\."):
        session_of(model)


def test_a_computed_weight_and_a_wrong_input_are_one_sentence():
    packed = operators.linear_weight(qn.quantize(normal(64, 32), granularity=qn.PerChannel(1)))
    x = normal(2, 64)
    computed = model_of("Linear", x, {"scale": packed.scale}, attributes=packed.attributes, more={"w": packed.w})
    with pytest.raises(Exception, match=r"qnumpy\.Linear: w must be a constant of the graph of the node"):
        session_of(computed)
    session = session_of(model_of("Linear", x, {"w": packed.w, "scale": packed.scale}, attributes=packed.attributes))
    with pytest.raises(Exception, match=r"qnumpy\.Linear: x must be of shape \(\.\.\., 64\); got a last axis of 63\."):
        session.run(None, {"x": x[:, :63]})
    assert session.run(None, {"x": x[:0]})[0].shape == (0, 32)


def computed(op_type, shape, constants, attributes=None, kind=onnx.TensorProto.FLOAT):
    """The shape of the result for zeros of a shape that no array of NumPy can have."""
    zeros = make.make_tensor("zero", kind, [1], [0])
    node = make.make_node(op_type, ["x", *constants], ["y"], domain=operators.DOMAIN, **(attributes or {}))
    graph = make.make_graph(
        [make.make_node("ConstantOfShape", ["shape"], ["x"], value=zeros), node, make.make_node("Shape", ["y"], ["z"])],
        "computed", [make.make_tensor_value_info("shape", onnx.TensorProto.INT64, [None])],
        [make.make_tensor_value_info("z", onnx.TensorProto.INT64, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    opsets = [make.make_opsetid("", 17), make.make_opsetid(operators.DOMAIN, operators.VERSION)]
    model = make.make_model(graph, opset_imports=opsets, ir_version=8)
    return tuple(session_of(model).run(None, {"shape": np.array(shape, np.int64)})[0])


FAR, FARTHEST = 2**31 - 1, 2**63 - 1
FILTERS = {"w": np.ones((6, 3, 3, 2), np.int8), "scale": np.ones(6, np.float32)}


def test_sizes_do_not_overflow():
    packed = operators.linear_weight(qn.quantize(normal(64, 32), granularity=qn.PerChannel(1)))
    linear = {"w": packed.w, "scale": packed.scale}
    assert computed("Linear", (0, FARTHEST, FARTHEST, 64), linear, packed.attributes) == (0, FARTHEST, FARTHEST, 32)
    table = {"codes": np.ones((4, 8), np.int8), "scale": np.ones(4, np.float32)}
    assert computed("Embedding", (0, FARTHEST, 3), table, kind=onnx.TensorProto.INT64) == (0, FARTHEST, 3, 8)
    assert computed("Conv", (0, 3, 9, FAR), FILTERS, {"pads": [FAR] * 4}) == (0, 6, 2 * FAR + 7, 3 * FAR - 1)
    with pytest.raises(Exception, match=f"a side of x must be at most {FAR}; got {FARTHEST}"):
        computed("Conv", (0, 3, 9, FARTHEST), FILTERS, {"pads": [1] * 4})
    with pytest.raises(Exception, match=r"overflow|allocate|memory"):  # the runtime's own
        computed("Conv", (1, 3, 9, 9), FILTERS, {"pads": [FAR] * 4})
    assert computed("Conv", (1, 3, 9, 9), FILTERS, {"pads": [FAR] * 4, "strides": [FAR] * 2}) == (1, 6, 3, 3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        *[({name: values}, "strides, dilations, pads, group and w must be those of a convolution; got others")
          for name, values in (("strides", [0, 1]), ("strides", [-1, 1]), ("strides", [2**62] * 2), ("pads", [-1] * 4),
                               ("dilations", [0, 1]), ("dilations", [1, FARTHEST]), ("pads", [FARTHEST] * 4),
                               ("group", 0), ("group", -1), ("group", 4), ("group", 2**62))],
        ({"strides": [1]}, "strides must have 2 numbers; got 1"),
        ({"pads": [1, 1]}, "pads must have 4 numbers; got 2"),
        ({"activation": "tanh"}, 'activation must be "" or another of its values; got "tanh"'),
        ({"w": np.ones((6, 3), np.int8)}, "w must have 4 axes; got 2"),
        ({"w": np.ones((6, 3, 0, 2), np.int8)}, "(w must be given; got a node without it|strides, .* got others)"),
        ({"scale": np.ones(5, np.float32)}, r"scale must be of shape \(6,\); got \(5,\)"),
        ({"bias": np.ones(7, np.float32)}, r"bias must be of shape \(6,\); got \(7,\)"),
    ],
)  # fmt: skip
def test_a_wrong_convolution_is_one_sentence(change, text):
    constants = FILTERS | {k: v for k, v in change.items() if isinstance(v, np.ndarray)}
    attributes = {k: v for k, v in change.items() if k not in constants}
    with pytest.raises(Exception, match=r"qnumpy\.Conv: " + text + r"\."):
        session_of(model_of("Conv", normal(2, 3, 9, 8), constants, attributes=attributes))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (normal(2, 4, 9, 8), r"x must be of shape \(images, 3, height, width\); got 4 axes and 4 channels"),
        (normal(2, 3, 9), r"x must be of shape \(images, 3, height, width\); got 3 axes and 3 channels"),
        (normal(2, 3, 9, 1), "the filter must fit the padded image; got a side of 1 for 2"),
        (normal(2, 3, 0, 8), "the filter must fit the padded image; got a side of 0 for 3"),
    ],
)
def test_a_wrong_image_is_one_sentence(x, text):
    session = session_of(model_of("Conv", x, FILTERS))
    with pytest.raises(Exception, match=r"qnumpy\.Conv: " + text + r"\."):
        session.run(None, {"x": x})


def test_wrong_inputs_of_the_other_layers_are_one_sentence():
    table = {"codes": np.ones((4, 8), np.int8), "scale": np.ones(4, np.float32)}
    floats, many = normal(2, 3), np.zeros((1,) * 16, np.int64)
    for ids, text in ((floats, "ids must be of int64 or int32"), (many, "ids must have at most 15 axes; got 16")):
        with pytest.raises(Exception, match=rf"qnumpy\.Embedding: {text}"):
            session_of(model_of("Embedding", ids, table)).run(None, {"x": ids})
    session = session_of(model_of("Embedding", many[0], table))
    for far in (FARTHEST, -FARTHEST - 1):
        with pytest.raises(Exception, match=r"ids must be in \[-4, 4\)"):
            session.run(None, {"x": many[0] + far})
    x = normal(2, 3, 16)
    model = model_of("SkipLayerNormalization", x, {"gamma": np.ones(16, np.float32)}, more={"residual": x})
    for residual in (x[:1], x[:, :2]):
        with pytest.raises(Exception, match="residual must be of the shape of x; got another one"):
            session_of(model).run(None, {"x": x, "residual": residual})
    with pytest.raises(Exception, match="gamma must be given and not be empty"):
        session_of(model_of("SkipLayerNormalization", x, {"gamma": x[0, 0, :0]}, more={"residual": x}))


def test_names_that_are_left_out():
    """The runtime refuses what an operator requires, the operator itself what it cannot do without."""
    x, gamma = normal(2, 3, 16), {"gamma": np.ones(16, np.float32)}
    with pytest.raises(Exception, match="output 0 is marked"):
        session_of(model_of("SkipLayerNormalization", x, gamma, ("", "sum"), more={"residual": x}))
    wide = qn.quantize(normal(64, 32), granularity=qn.PerChannel(1))
    model = linear(wide, normal(2, 64), outputs=2)
    model.graph.node[0].output[0] = ""
    del model.graph.output[0]
    with pytest.raises(Exception, match=r"qnumpy\.Linear: every output must have a name; got an empty one\."):
        session_of(model).run(None, {"x": normal(2, 64)})
    assert [y.shape for y in session_of(model).run(None, {"x": normal(0, 64)})] == [(0, 16)]


def test_nothing_to_compute():
    x = normal(2, 3, 16)
    norm = model_of("SkipLayerNormalization", x, {"gamma": np.ones(16, np.float32)}, more={"residual": x})
    assert both(norm, {"x": x[:0], "residual": x[:0]})[0].shape == (0, 3, 16)
    ids = np.zeros((0, 3), np.int64)
    table = {"codes": np.ones((4, 8), np.int8), "scale": np.ones(4, np.float32)}
    assert both(model_of("Embedding", ids, table), {"x": ids})[0].shape == (0, 3, 8)
    image = normal(2, 3, 9, 8)
    padded = model_of("Conv", image, FILTERS, attributes={"pads": [2] * 4})
    for some, shape in ((image[:0], (0, 6, 11, 11)), (image[:, :, :0], (2, 6, 2, 11))):
        assert both(padded, {"x": some})[0].shape == shape


def test_nan_and_infinity_have_the_same_bits():
    x = normal(6, 64)
    x[0], x[1, 0], x[2, :3], x[3], x[4], x[5] = np.nan, np.inf, -np.inf, 0, 1e-45, 3e38
    for granularity in (qn.PerChannel(1), qn.PerGroup(32, 0)):
        w = qn.quantize(normal(64, 40), granularity=granularity)
        for more in ({}, {"symmetric": 1, "activation_bits": 7}, {"smooth": normal(64)}, {"activation": "gelu"}):
            both(linear(w, x, **more), {"x": x})
    images = normal(4, 3, 9, 8)
    images[0], images[1, 0, 0, 0], images[2, 0, 0, :3], images[3] = np.nan, np.inf, -np.inf, 0
    both(model_of("Conv", images, FILTERS, attributes={"activation": "gelu"}), {"x": images})


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_constants_at_any_address(tmp_path, offset):
    """The runtime maps a file of external data; nothing aligns what lies in it."""
    w = qn.quantize(normal(64, 40), granularity=qn.PerChannel(1), symmetric=False)
    x = normal(3, 64)
    model = linear(w, x, bias=normal(40), smooth=normal(64, seed=1))
    (want,) = session_of(model).run(None, {"x": x})
    with open(tmp_path / "data", "wb") as file:
        for tensor in model.graph.initializer:
            at = -(-file.tell() // 4096) * 4096 + offset
            file.seek(at)
            file.write(tensor.raw_data)
            place = {"location": "data", "offset": str(at), "length": str(len(tensor.raw_data))}
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items())
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    onnx.save(model, tmp_path / "model.onnx")
    options = runtime.SessionOptions()
    options.register_custom_ops_library(_core.__file__)
    session = runtime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    same(session.run(None, {"x": x})[0], want)


def graph_of(nodes, x, constants):
    graph = make.make_graph(
        nodes, "several", [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None] * x.ndim)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    opsets = [make.make_opsetid("", 17), make.make_opsetid(operators.DOMAIN, operators.VERSION)]
    return make.make_model(graph, opset_imports=opsets, ir_version=8)


def test_operators_whose_inputs_are_all_constant():
    """The runtime may compute them when it loads the model."""
    packed = operators.linear_weight(qn.quantize(normal(8, 32), granularity=qn.PerChannel(1)))
    nodes = [
        make.make_node("Embedding", ["ids", "codes", "scales"], ["e"], domain=operators.DOMAIN),
        make.make_node("Linear", ["e", "w", "scale"], ["l"], domain=operators.DOMAIN, **packed.attributes),
        make.make_node("SkipLayerNormalization", ["l", "l", "gamma"], ["n"], domain=operators.DOMAIN),
        make.make_node("Add", ["n", "x"], ["y"]),
    ]
    constants = {"ids": np.array([[0, 1, 3]]), "codes": np.arange(32, dtype=np.int8).reshape(4, 8), "w": packed.w,
                 "scales": np.ones(4, np.float32), "scale": packed.scale, "gamma": np.ones(32, np.float32)}  # fmt: skip
    both(graph_of(nodes, normal(1), constants), {"x": normal(1)})


def test_nodes_side_by_side():
    x, nodes, constants = normal(100, 256), [], {}
    for i in range(4):
        packed = operators.linear_weight(qn.quantize(normal(256, 512, seed=i), granularity=qn.PerChannel(1)))
        constants |= {f"w{i}": packed.w, f"scale{i}": packed.scale}
        names = ["x", f"w{i}", f"scale{i}"]
        nodes.append(make.make_node("Linear", names, [f"y{i}"], domain=operators.DOMAIN, **packed.attributes))
    nodes.append(make.make_node("Sum", [f"y{i}" for i in range(4)], ["y"]))
    model = graph_of(nodes, x, constants)
    options = runtime.SessionOptions()
    options.execution_mode = runtime.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads, options.intra_op_num_threads = 3, 2
    options.register_custom_ops_library(_core.__file__)
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (want,) = both(model, {"x": x})
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: session.run(None, {"x": x})[0], range(20)):
            same(got, want)


def test_errors_of_one_run_leave_the_others_alone():
    table = {"codes": np.arange(120, dtype=np.int8).reshape(40, 3), "scale": np.ones(40, np.float32)}
    ids = np.arange(40).repeat(500)
    session = session_of(model_of("Embedding", ids, table), threads=2)

    def run(i):
        wrong = ids + 1 if i % 2 else ids
        try:
            return session.run(None, {"x": wrong})[0]
        except runtime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(run, range(16))):
            if i % 2:
                assert "ids must be in [-40, 40); got another one." in got
            else:
                same(got, table["codes"][ids].astype(np.float32))


def test_options_of_several_sessions():
    x = normal(3, 64)
    model = linear(qn.quantize(normal(64, 32), granularity=qn.PerChannel(1)), x)
    options = runtime.SessionOptions()
    options.register_custom_ops_library(_core.__file__)
    (want,) = session_of(model).run(None, {"x": x})
    for threads in (1, 2):
        same(qn.onnx.session(model, options=options, threads=threads).run(None, {"x": x})[0], want)


def test_threads_are_checked():
    options = runtime.SessionOptions()
    options.add_session_config_entry("qnumpy.threads", "many")
    with pytest.raises(Exception, match=r'qnumpy\.threads must be an integer from 1 to 256; got "many"'):
        options.register_custom_ops_library(_core.__file__)
