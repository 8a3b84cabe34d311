"""Small models with weights of every operator and in every place, and inputs for them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

RNG = np.random.default_rng(5)


def real(*shape, dtype=np.float32, seed=0):
    """The same array at every call, so that no test depends on those that ran before."""
    return (np.random.default_rng([seed, *shape]).normal(size=shape) / np.sqrt(shape[0])).astype(dtype)


def model(nodes, inputs, outputs, arrays, opset=17, ir_version=8):
    def values(pairs):
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in pairs.items()]

    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), constants)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(result, full_check=True)
    return result


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(","), outputs.split(","), **attributes)


F32 = TensorProto.FLOAT


def perceptron(opset=17, kind=F32):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    arrays = {"w1": real(64, 96, dtype=dtype), "b1": real(96, dtype=dtype), "w2": real(96, 64, dtype=dtype),
              "b2": real(64, dtype=dtype), "w3": real(48, 64, dtype=dtype), "b3": real(48, dtype=dtype)}  # fmt: skip
    nodes = [node("MatMul", "x,w1", "a"), node("Add", "a,b1", "b"), node("Relu", "b", "c"), node("MatMul", "c,w2", "d"),
             node("Add", "b2,d", "e"), node("Add", "e,x", "r"), node("Gemm", "r,w3,b3", "y", transB=1)]  # fmt: skip
    return model(nodes, {"x": (kind, ["n", 64])}, {"y": (kind, ["n", 48])}, arrays, opset)


def images():
    arrays = {"w1": real(24, 8, 3, 3), "b1": real(24), "w2": real(64, 24, 1, 1), "w3": real(64, 1, 3, 3),
              "w4": real(64, 8, 2, 2)}  # fmt: skip
    nodes = [
        node("Conv", "x,w1,b1", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Conv", "b,w2", "c"),
        node("Conv", "c,w3", "d", group=64, pads=[1, 1, 1, 1]),
        node("Add", "c,d", "e"),
        node("ConvTranspose", "e,w4", "y", strides=[2, 2]),
    ]
    return model(nodes, {"x": (F32, ["n", 8, "h", "w"])}, {"y": (F32, [None] * 4)}, arrays)


def tied():
    """A table of words that is also the last layer, transposed."""
    nodes = [node("Gather", "words,ids", "x"), node("MatMul", "x,w", "a"), node("Tanh", "a", "b"),
             node("Transpose", "words", "wt", perm=[1, 0]), node("MatMul", "b,wt", "y")]  # fmt: skip
    arrays = {"words": real(200, 64), "w": real(64, 64)}
    return model(nodes, {"ids": (TensorProto.INT64, ["n", "t"])}, {"y": (F32, ["n", "t", 200])}, arrays)


def recurrent():
    arrays = {"w": real(2, 4 * 24, 32) / 4, "r": real(2, 4 * 24, 24) / 4, "b": real(2, 8 * 24)}
    nodes = [node("LSTM", "x,w,r,b", "y,h", hidden_size=24, direction="bidirectional")]
    return model(nodes, {"x": (F32, ["t", "n", 32])}, {"y": (F32, [None] * 4), "h": (F32, [None] * 3)}, arrays)


def gates():
    """An LSTM whose gates lie in another order in the file, as an exporter of PyTorch leaves them."""
    arrays = {"w": real(96, 32) / 2, "r": real(96, 24) / 2, "axis": np.array([0])}
    nodes = []
    for name in "wr":
        for i, first in enumerate((0, 72, 24, 48)):
            arrays |= {f"s{i}": np.array([first]), f"e{i}": np.array([first + 24])}
            nodes.append(node("Slice", f"{name},s{i},e{i},axis", f"{name}{i}"))
        nodes.append(node("Concat", ",".join(f"{name}{i}" for i in range(4)), f"{name}_joined", axis=0))
        nodes.append(node("Unsqueeze", f"{name}_joined,axis", f"{name}_all"))
    nodes.append(node("LSTM", "x,w_all,r_all", "y,h", hidden_size=24))
    return model(nodes, {"x": (F32, ["t", "n", 32])}, {"y": (F32, [None] * 4), "h": (F32, [None] * 3)}, arrays)


def branches():
    """Weights in Constant nodes of both branches of an If, and one of the graph around it."""

    def branch(name, inner):
        weight = helper.make_node("Constant", [], [f"{name}_w"], value=numpy_helper.from_array(inner, "v"))
        nodes = [weight, node("MatMul", f"x,{name}_w", f"{name}_a"), node("MatMul", f"{name}_a,outer", f"{name}_y")]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", F32, [None, 32])])

    choice = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("yes", real(64, 64)), else_branch=branch("no", real(64, 64, seed=1))
    )
    inputs = {"x": (F32, ["n", 64]), "flag": (TensorProto.BOOL, [])}
    return model([choice], inputs, {"y": (F32, ["n", 32])}, {"outer": real(64, 32)})


ROWS = (RNG.normal(size=(160, 64)) @ RNG.normal(size=(64, 64)) / 8).astype(np.float32)
MODELS = {
    "perceptron": (perceptron, {"x": ROWS}),
    "images": (images, {"x": RNG.normal(size=(2, 8, 18, 14)).astype(np.float32)}),
    "tied": (tied, {"ids": RNG.integers(0, 200, size=(4, 9))}),
    "recurrent": (recurrent, {"x": RNG.normal(size=(7, 3, 32)).astype(np.float32)}),
    "gates": (gates, {"x": RNG.normal(size=(7, 3, 32)).astype(np.float32)}),
    "branches": (branches, {"x": ROWS, "flag": np.array(True)}),
}


def reference(m, feed):
    """Return what onnx.reference computes; None where an older onnx has no LSTM in two directions."""
    try:
        return ReferenceEvaluator(m).run(None, feed)
    except NotImplementedError:
        assert any(n.op_type in ("LSTM", "GRU") for n in m.graph.node)
        return None


def sqnr(exact, got):
    """In dB."""
    exact = np.asarray(exact, np.float64)
    return 10 * np.log10(np.square(exact).sum() / max(np.square(exact - got).sum(), 1e-300))
