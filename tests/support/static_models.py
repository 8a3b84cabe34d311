"""Small ONNX models that static quantization is tested on, and data for them."""

from typing import Any

import numpy as np

__all__ = ["Builder", "digits", "digits_mlp", "images", "residual_cnn", "sqnr"]

Array = np.ndarray[Any, Any]


class Builder:
    """Collects nodes and initializers; `op` returns the name of a node's first output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, name: str, *shape: int, spread: float | None = None) -> str:
        """Add an initializer of normal numbers that keeps the size of what it multiplies."""
        spread = float(np.prod(shape[1:])) ** -0.5 if spread is None else spread
        return self.constant(name, (self.rng.normal(size=shape) * spread).astype(np.float32))

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def model(self, inputs: dict[str, list[Any]], outputs: list[str], *, opset: int = 17) -> Any:
        from onnx import TensorProto, helper, shape_inference

        graph = helper.make_graph(
            self.nodes, "graph",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], self.initializers,
        )  # fmt: skip
        ir_version = 10 if opset > 18 else 8
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        shapes = {value.name: value for value in shape_inference.infer_shapes(model).graph.output}
        for value in model.graph.output:
            value.CopyFrom(shapes[value.name])
        return model


def digits() -> tuple[dict[str, Array], Array, Array]:
    """Return the weights of the classifier of digits, its test images (360, 64) and their labels."""
    from importlib.resources import files

    with files("qnumpy").joinpath("data/digits.npz").open("rb") as file, np.load(file) as arrays:
        content = dict(arrays)
    return content, (content["images"].reshape(-1, 64) / 16).astype(np.float32), content["labels"]


def digits_mlp(opset: int = 13) -> Any:
    weights, _, _ = digits()
    b = Builder()
    x = "x"
    for i in (1, 2, 3):
        w, bias = (
            b.constant(f"{kind}{i}", weights[f"layer{i}.{name}"]) for kind, name in (("w", "weight"), ("b", "bias"))
        )
        x = b.op("Gemm", [x, w, bias], "logits" if i == 3 else f"sum{i}", transB=1)
        x = b.op("Relu", [x], f"hidden{i}") if i < 3 else x
    return b.model({"x": ["n", 64]}, ["logits"], opset=opset)


def residual_cnn(opset: int = 13, *, size: int = 16) -> Any:
    """Return a network with a strided and a depthwise convolution, a residual sum, a concatenation and a pooling."""
    b = Builder()
    x = b.op("Conv", ["x", b.normal("w1", 16, 3, 3, 3), b.normal("b1", 16)], "c1", pads=[1] * 4, strides=[2, 2])
    x = b.op("Relu", [x], "r1")
    y = b.op("Conv", [x, b.normal("w2", 16, 1, 3, 3), b.normal("b2", 16)], "c2", pads=[1] * 4, group=16)
    y = b.op("Conv", [y, b.normal("w3", 16, 16, 1, 1)], "c3")
    x = b.op("Relu", [b.op("Add", [x, y], "sum")], "r2")
    left = b.op("Conv", [x, b.normal("w4", 16, 16, 3, 3), b.normal("b4", 16)], "c4", pads=[1] * 4)
    right = b.op("Conv", [x, b.normal("w5", 16, 16, 1, 1), b.normal("b5", 16)], "c5")
    x = b.op("Concat", [left, right], "both", axis=1)
    x = b.op("MaxPool", [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Flatten", [x], "flat")
    inputs = 32 * (size // 4) ** 2
    x = b.op("Gemm", [x, b.normal("w6", 10, inputs), b.normal("b6", 10)], "y", transB=1, alpha=0.5, beta=2.0)
    return b.model({"x": ["n", 3, size, size]}, ["y"], opset=opset)


def images(count: int, size: int = 16, seed: int = 0) -> list[Array]:
    """Return batches of two smooth images."""
    rng = np.random.default_rng(seed)
    return [
        np.repeat(np.repeat(rng.normal(size=(2, 3, size // 2, size // 2)), 2, 2), 2, 3).astype(np.float32)
        for _ in range(count)
    ]


def sqnr(exact: Any, coarse: Any) -> float:
    exact, coarse = np.asarray(exact, np.float64), np.asarray(coarse, np.float64)
    noise = np.square(exact - coarse).sum()
    return float(10 * np.log10(np.square(exact).sum() / noise)) if noise else float("inf")
