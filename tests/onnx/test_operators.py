"""The operators of the domain "qnumpy" in ONNX Runtime: the bits of PackedWeight, of Python's other operations, and
sentences."""

import sys

import numpy as np
import pytest

import qnumpy as qn

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from qnumpy import _core  # noqa: E402
from qnumpy.onnx import _operators as operators  # noqa: E402

make = onnx.helper
ROWS = {name: supported for name, supported in _core.isas()}


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
