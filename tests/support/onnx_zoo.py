"""Small models of every kind, built node by node, with inputs for them; the same bytes in every run.

``MODELS`` maps names to pairs of functions: one returns a ModelProto, the other the inputs of a batch by a seed.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Writer:
    """Collects nodes and initializers of one graph; every tensor is called as its caller says."""

    def __init__(self, seed=1, in_nodes=False):
        self.nodes, self.initializers, self.rng, self.in_nodes = [], [], np.random.default_rng(seed), in_nodes

    def node(self, op_type, inputs, output, domain="", **attributes):
        inputs = inputs.split(",") if isinstance(inputs, str) else inputs
        outputs = output.split(",")
        self.nodes.append(
            helper.make_node(op_type, inputs, outputs, f"{op_type}_{output}", domain=domain, **attributes)
        )
        return outputs[0]

    def keep(self, name, array):
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.in_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], f"Constant_{name}", value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def real(self, name, *shape, scale=None, dtype=np.float32):
        fan = int(np.prod(shape[:-1])) or 1
        values = self.rng.normal(size=shape) * (1 / np.sqrt(fan) if scale is None else scale)
        return self.keep(name, values.astype(dtype))

    def linear(self, x, y, inputs, outputs, activation=None):
        self.real(f"{y}.weight", inputs, outputs)
        self.real(f"{y}.bias", outputs, scale=0.1)
        self.node("MatMul", [x, f"{y}.weight"], f"{y}.product")
        last = self.node("Add", [f"{y}.product", f"{y}.bias"], f"{y}.sum" if activation else y)
        if activation:
            self.node(activation, [last], y)
        return y

    def conv(self, x, y, outputs, inputs, size=3, group=1, **attributes):
        fan = inputs // group * size * size
        self.real(f"{y}.weight", outputs, inputs // group, size, size, scale=fan**-0.5)
        self.real(f"{y}.bias", outputs, scale=0.1)
        pads = [size // 2] * 4
        return self.node("Conv", [x, f"{y}.weight", f"{y}.bias"], y, group=group, pads=pads, **attributes)

    def graph(self, inputs, outputs, name="zoo"):
        def infos(values):
            return [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in values.items()]

        return helper.make_graph(self.nodes, name, infos(inputs), infos(outputs), self.initializers)

    def model(self, inputs, outputs, opset=17, domains=()):
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
        made = helper.make_model(
            self.graph(inputs, outputs), opset_imports=imports, ir_version=max(7, ir_version), producer_name="zoo"
        )
        made.metadata_props.add(key="origin", value="onnx_zoo")
        onnx.checker.check_model(made, full_check=not domains)
        return made


def _axes(w, op_type, x, y, axes, opset):
    """ReduceMean, Squeeze and Unsqueeze took their axes as an attribute once."""
    if opset >= (18 if op_type.startswith("Reduce") else 13):
        return w.node(op_type, [x, w.keep(f"{y}.axes", np.array(axes, np.int64))], y)
    return w.node(op_type, [x], y, axes=axes)


def mlp(opset=17, in_nodes=False):
    """Three layers: MatMul and Add, twice, and a Gemm with transB, alpha and beta."""
    w = Writer(1, in_nodes)
    h = w.linear("x", "hidden1", 64, 96, "Relu")
    h = w.linear(h, "hidden2", 96, 64, "Tanh")
    w.real("head.weight", 10, 64, scale=0.125)
    w.real("head.bias", 10, scale=0.1)
    w.node("Gemm", [h, "head.weight", "head.bias"], "logits", transB=1, alpha=0.5, beta=2.0)
    return w.model({"x": (F32, ["batch", 64])}, {"logits": (F32, ["batch", 10])}, opset)


def mlp_inputs(seed=0, batch=8):
    return {"x": np.random.default_rng(seed).normal(size=(batch, 64)).astype(np.float32)}


def cnn(opset=17, in_nodes=False):
    """A stem, a block with a depthwise convolution and a residual, a transposed convolution, a mean and a Gemm."""
    w = Writer(2, in_nodes)
    x = w.node("Relu", [w.conv("image", "stem", 16, 3, strides=[2, 2])], "stem.relu")
    h = w.node("Relu", [w.conv(x, "expand", 32, 16, 1)], "expand.relu")
    h = w.node("Relu", [w.conv(h, "depthwise", 32, 32, 3, group=32)], "depthwise.relu")
    h = w.node("Add", [x, w.conv(h, "project", 16, 32, 1)], "residual")
    w.real("up.weight", 16, 8, 2, 2, scale=0.25)
    up = w.node("ConvTranspose", [h, "up.weight"], "up", strides=[2, 2])
    h = w.node("Concat", [up, w.conv("image", "skip", 8, 3)], "joined", axis=1)
    w.node("Flatten", [w.node("GlobalAveragePool", [h], "pooled")], "flat")
    w.real("head.weight", 16, 10)
    w.node("Gemm", ["flat", "head.weight"], "logits")
    return w.model({"image": (F32, ["batch", 3, 16, 16])}, {"logits": (F32, ["batch", 10])}, opset)


def cnn_inputs(seed=0, batch=4):
    return {"image": np.random.default_rng(seed).normal(size=(batch, 3, 16, 16)).astype(np.float32)}


def transformer(opset=17, in_nodes=False):
    """One block over embedded words with a mask; the lengths of the batch and of the sentences are open."""
    w, width, heads = Writer(3, in_nodes), 64, 4
    w.real("words", 100, width, scale=0.5)
    x = w.node("Gather", ["words", "ids"], "embedded")
    w.keep("heads", np.array([0, 0, heads, width // heads], np.int64))
    w.keep("joined", np.array([0, 0, width], np.int64))
    parts = {}
    for part in ("query", "key", "value"):
        y = w.node("Reshape", [w.linear(x, part, width, width), "heads"], f"{part}.heads")
        parts[part] = w.node("Transpose", [y], f"{part}.t", perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3])
    scores = w.node("MatMul", [parts["query"], parts["key"]], "scores")
    w.keep("root", np.float32(4.0))
    w.keep("one", np.float32(1.0))
    w.keep("least", np.float32(np.finfo(np.float32).min))
    scores = w.node("Div", [scores, "root"], "scores.scaled")
    real = w.node("Cast", ["mask"], "mask.real", to=F32)
    bias = w.node("Mul", [w.node("Sub", ["one", real], "mask.inverse"), "least"], "mask.bias")
    bias = _axes(w, "Unsqueeze", bias, "mask.wide", [1, 2], opset)
    weights = w.node("Softmax", [w.node("Add", [scores, bias], "masked")], "attention", axis=-1)
    context = w.node("MatMul", [weights, parts["value"]], "context")
    context = w.node("Reshape", [w.node("Transpose", [context], "context.t", perm=[0, 2, 1, 3]), "joined"], "context.j")
    h = _layer_norm(w, w.node("Add", [w.linear(context, "out", width, width), x], "sum1"), "norm1", width, opset)
    up = w.linear(h, "up", width, 128)
    w.keep("root2", np.float32(np.sqrt(2)))
    w.keep("half", np.float32(0.5))
    erf = w.node("Erf", [w.node("Div", [up, "root2"], "gelu.div")], "gelu.erf")
    gelu = w.node("Mul", [w.node("Mul", [up, w.node("Add", [erf, "one"], "gelu.add")], "gelu.mul"), "half"], "gelu")
    y = w.node("Add", [w.linear(gelu, "down", 128, width), h], "sum2")
    y = _layer_norm(w, y, "norm2", width, opset)
    w.node("Identity", [y], "hidden")
    inputs = {"ids": (I64, ["batch", "length"]), "mask": (I64, ["batch", "length"])}
    return w.model(inputs, {"hidden": (F32, ["batch", "length", width])}, opset)


def _layer_norm(w, x, y, width, opset):
    """LayerNormalization, or its parts where the operator set lacks it."""
    w.keep(f"{y}.gamma", (1 + 0.1 * w.rng.normal(size=width)).astype(np.float32))
    w.real(f"{y}.beta", width, scale=0.1)
    if opset >= 17:
        return w.node("LayerNormalization", [x, f"{y}.gamma", f"{y}.beta"], y, epsilon=1e-5)
    centred = w.node("Sub", [x, _axes(w, "ReduceMean", x, f"{y}.mean", [-1], opset)], f"{y}.centred")
    square = w.node("Mul", [centred, centred], f"{y}.square")
    variance = _axes(w, "ReduceMean", square, f"{y}.variance", [-1], opset)
    w.keep(f"{y}.epsilon", np.float32(1e-5))
    root = w.node("Sqrt", [w.node("Add", [variance, f"{y}.epsilon"], f"{y}.safe")], f"{y}.root")
    scaled = w.node("Mul", [w.node("Div", [centred, root], f"{y}.unit"), f"{y}.gamma"], f"{y}.scaled")
    return w.node("Add", [scaled, f"{y}.beta"], y)


def transformer_inputs(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    length = 5 + seed % 4
    mask = np.ones((batch, length), np.int64)
    mask[-1, length - 2 :] = 0
    return {"ids": rng.integers(0, 100, (batch, length)), "mask": mask}


def _recurrent(op_type, gates, opset, in_nodes):
    w, inputs, hidden = Writer(4, in_nodes), 32, 24
    w.real("W", 2, gates * hidden, inputs, scale=inputs**-0.5)
    w.real("R", 2, gates * hidden, hidden, scale=hidden**-0.5)
    w.real("B", 2, 2 * gates * hidden, scale=0.1)
    extra = {"linear_before_reset": 1} if op_type == "GRU" else {}
    w.node(op_type, "x,W,R,B", "steps", hidden_size=hidden, direction="bidirectional", **extra)
    w.keep("shape", np.array([0, 0, 2 * hidden], np.int64))
    h = w.node("Reshape", [w.node("Transpose", ["steps"], "steps.t", perm=[0, 2, 1, 3]), "shape"], "flat")
    w.linear(h, "head", 2 * hidden, 8)
    return w.model({"x": (F32, ["length", "batch", inputs])}, {"head": (F32, ["length", "batch", 8])}, opset)


def lstm(opset=17, in_nodes=False):
    return _recurrent("LSTM", 4, opset, in_nodes)


def gru(opset=17, in_nodes=False):
    return _recurrent("GRU", 3, opset, in_nodes)


def recurrent_inputs(seed=0, batch=3):
    return {"x": np.random.default_rng(seed).normal(size=(6 + seed % 3, batch, 32)).astype(np.float32)}


def branches(opset=17, in_nodes=False):
    """An If: one branch holds its weight, the other reads one of the outer scope; both end in the same shape."""
    w = Writer(5, in_nodes)
    w.real("outer.weight", 48, 40)
    w.real("head.weight", 40, 16)
    then, other = Writer(6, True), Writer(7)
    then.real("inner.weight", 48, 40)
    then.node("Relu", [then.node("MatMul", ["x", "inner.weight"], "then.product")], "then.y")
    other.node("Tanh", [other.node("MatMul", ["x", "outer.weight"], "else.product")], "else.y")
    w.node(
        "If", ["choice"], "h",
        then_branch=then.graph({}, {"then.y": (F32, ["batch", 40])}, "then"),
        else_branch=other.graph({}, {"else.y": (F32, ["batch", 40])}, "else"),
    )  # fmt: skip
    w.node("MatMul", ["h", "head.weight"], "y")
    inputs = {"x": (F32, ["batch", 48]), "choice": (BOOL, [])}
    return w.model(inputs, {"y": (F32, ["batch", 16])}, opset)


def branches_inputs(seed=0, batch=5):
    x = np.random.default_rng(seed).normal(size=(batch, 48)).astype(np.float32)
    return {"x": x, "choice": np.array(seed % 2 == 0)}


def loop(opset=17, in_nodes=False):
    """A Loop of three steps over a product with a weight of the outer scope."""
    w = Writer(8, in_nodes)
    w.real("weight", 32, 32)
    w.keep("steps", np.array(3, np.int64))
    w.keep("true", np.array(True))
    body = Writer(9)
    body.node("Identity", ["going"], "going.out")
    body.node("Tanh", [body.node("MatMul", ["state", "weight"], "product")], "state.out")
    inner = body.graph(
        {"step": (I64, []), "going": (BOOL, []), "state": (F32, None)},
        {"going.out": (BOOL, []), "state.out": (F32, None)}, "body",
    )  # fmt: skip
    w.node("Loop", ["steps", "true", "x"], "y", body=inner)
    return w.model({"x": (F32, ["batch", 32])}, {"y": (F32, ["batch", 32])}, opset)


def loop_inputs(seed=0, batch=4):
    return {"x": np.random.default_rng(seed).normal(size=(batch, 32)).astype(np.float32)}


def shared(opset=17, in_nodes=False):
    """Words that are looked up, and the same table behind a Transpose as the last layer; two products of one weight."""
    w = Writer(10, in_nodes)
    w.real("words", 120, 48, scale=0.3)
    w.real("weight", 48, 48)
    h = w.node("Gather", ["words", "ids"], "embedded")
    h = w.node("Relu", [w.node("MatMul", [h, "weight"], "first")], "first.relu")
    h = w.node("MatMul", [h, "weight"], "second")
    w.node("MatMul", [h, w.node("Transpose", ["words"], "words.t", perm=[1, 0])], "logits")
    return w.model({"ids": (I64, ["batch", "length"])}, {"logits": (F32, ["batch", "length", 120])}, opset)


def shared_inputs(seed=0, batch=2):
    return {"ids": np.random.default_rng(seed).integers(0, 120, (batch, 7))}


def derived(opset=17, in_nodes=False):
    """Weights behind Transpose, Identity, Cast, Reshape, Unsqueeze and Squeeze; nodes without names."""
    w = Writer(11, in_nodes)
    w.real("a", 40, 32)
    w.real("b", 20, 80, dtype=np.float16)
    w.keep("shape", np.array([40, -1], np.int64))
    w.real("c", 40, 24)
    w.node("Transpose", ["a"], "a.t", perm=[1, 0])
    h = w.node("Relu", [w.node("MatMul", ["x", w.node("Identity", ["a.t"], "a.i")], "first")], "first.relu")
    b = w.node("Reshape", [w.node("Cast", ["b"], "b.c", to=F32), "shape"], "b.r")
    h = w.node("Tanh", [w.node("MatMul", [h, b], "second")], "second.tanh")
    c = _axes(w, "Squeeze", _axes(w, "Unsqueeze", "c", "c.u", [0], opset), "c.s", [0], opset)
    w.node("MatMul", [h, c], "y")
    for node in w.nodes:
        node.name = ""
    return w.model({"x": (F32, ["batch", 32])}, {"y": (F32, ["batch", 24])}, opset)


def derived_inputs(seed=0, batch=6):
    return {"x": np.random.default_rng(seed).normal(size=(batch, 32)).astype(np.float32)}


def products(opset=17, in_nodes=False):
    """Batched weights, a weight on the left, a product of two activations, and an optional input left empty."""
    w = Writer(12, in_nodes)
    w.real("batched", 3, 24, 16)
    w.real("left", 8, 10)
    w.keep("low", np.float32(-1.0))
    h = w.node("Clip", [w.node("MatMul", ["x", "batched"], "first"), "low", ""], "clipped")
    h = w.node("MatMul", ["left", h], "second")
    w.node("MatMul", [h, w.node("Transpose", [h], "second.t", perm=[0, 2, 1])], "y")
    return w.model({"x": (F32, [3, 10, 24])}, {"y": (F32, [3, 8, 8])}, opset)


def products_inputs(seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(3, 10, 24)).astype(np.float32)}


MODELS = {
    "mlp": (mlp, mlp_inputs),
    "cnn": (cnn, cnn_inputs),
    "transformer": (transformer, transformer_inputs),
    "lstm": (lstm, recurrent_inputs),
    "gru": (gru, recurrent_inputs),
    "branches": (branches, branches_inputs),
    "loop": (loop, loop_inputs),
    "shared": (shared, shared_inputs),
    "derived": (derived, derived_inputs),
    "products": (products, products_inputs),
}
OPSETS = (11, 13, 17, 21, onnx.defs.onnx_opset_version())
