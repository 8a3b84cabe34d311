"""Hadamard transforms of rows, beside a loop that reads and writes as many bytes and NumPy's product with the matrix;
and int8 layers that transform their inputs, whose limit is the same layer without.
"""

from collections.abc import Iterator

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Case, Check

SHAPES = [(512, 384), (512, 1536), (512, 4096), (512, 5120), (1, 4096)]


def case(rows: int, size: int, threads: int) -> Case:
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((rows, size), np.float32), qn.weights.hadamard(size)
    matrix, out, product = h.matrix(), np.empty((rows, size), np.float32), np.empty((rows, size), np.float32)
    result = Case(f"{rows} x {size}", "cache", rows * size, threads)
    result.ours["hadamard"] = lambda: h.apply(x, out=out)
    result.checks["hadamard"] = Check(lambda: [out], [x @ matrix], 1e-5)
    result.peers["NumPy x @ matrix"] = lambda: np.matmul(x, matrix, out=product)
    result.limits = harness.traffic(x, out, threads)
    return result


def layer(m: int, k: int, n: int, threads: int) -> Case:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    h, per = qn.weights.hadamard(k), qn.PerChannel(1)
    packed = qn.PackedWeight(qn.quantize(h.rotate(w), granularity=per), hadamard=h)
    plain, out = qn.PackedWeight(qn.quantize(w, granularity=per)), np.empty((m, n), np.float32)
    result = Case(f"{m} x {k} x {n}", "layer", m * k * n, threads, rows_limit=True)
    result.ours["int8 layer with hadamard"] = lambda: packed.matmul(x, out=out)
    result.checks["int8 layer with hadamard"] = Check(lambda: [out], [x @ w], 0.03)
    result.limits["int8 layer"] = lambda: plain.matmul(x, out=out)
    return result


def cases(threads: int) -> Iterator[Case]:
    for shape in SHAPES:
        yield case(*shape, threads)
    for n in (384, 1536):
        for m in (1, 32, 512):
            yield layer(m, 384, n, threads)
