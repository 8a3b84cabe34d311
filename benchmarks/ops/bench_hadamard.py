"""Hadamard transforms of rows, beside the read and the write of as many bytes and NumPy's product with the matrix."""

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
    result = Case(f"{rows} x {size}", "hadamard", rows * size, threads)
    result.ours["hadamard"] = lambda: h.apply(x, out=out)
    result.checks["hadamard"] = Check(lambda: [out], [x @ matrix], 1e-5)
    result.peers["NumPy x @ matrix"] = lambda: np.matmul(x, matrix, out=product)
    result.limits = harness.traffic(x, out, threads)
    return result


def cases(threads: int) -> Iterator[Case]:
    for shape in SHAPES:
        yield case(*shape, threads)
