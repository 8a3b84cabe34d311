"""The minimum cut, against all labelings."""

import itertools

import numpy as np
import pytest

from qnumpy.onnx._cut import Cut


@pytest.mark.parametrize("seed", range(30))
def test_no_labeling_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    own = rng.integers(0, 20, (n, 2)).astype(float)
    own[rng.random((n, 2)) < 0.1] = np.inf
    own[np.isinf(own).all(axis=1)] = 0
    pairs = np.where(rng.random((n, n)) < 0.4, rng.integers(0, 12, (n, n)), 0).astype(float)
    np.fill_diagonal(pairs, 0)
    cut = Cut()
    for i in range(n):
        cut.choose(i, *own[i])
    for i, j in itertools.product(range(n), repeat=2):
        cut.separate(i, j, pairs[i, j])
    chosen = cut.solve()

    def cost(labels: tuple[bool, ...]) -> float:
        unary = sum(own[i, 0] if label else own[i, 1] for i, label in enumerate(labels))
        return unary + sum(pairs[i, j] for i in range(n) for j in range(n) if labels[i] and not labels[j])

    least = min(cost(labels) for labels in itertools.product([False, True], repeat=n))
    assert cost(tuple(i in chosen for i in range(n))) == pytest.approx(least)
