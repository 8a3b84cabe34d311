"""The rounding of one layer of weights beside the linear algebra of NumPy and PyTorch, and the published loop.

Sizes are those of the layers of all-MiniLM-L6-v2, at 4 bits in groups of 32.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from qnumpy.dtypes import CodeType, code_type
from qnumpy.ops import gptq
from qnumpy.ops.grid_search import Levels, search_grid

from .. import harness
from ..harness import Array, Case, Check
from .bench_matmul import set_blas_threads

GROUP, SWEEPS, BLOCK = 32, 10, 128  # the block of the published loop


def int4() -> CodeType:
    code = code_type("int4")
    assert code is not None
    return code


def moment(k: int) -> Array:
    """Of correlated inputs, damped by a tenth of the mean of the diagonal."""
    rng = np.random.default_rng(k)
    x = rng.standard_normal((2 * k, k)) @ rng.standard_normal((k, k)) * np.exp(rng.standard_normal(k) / 2)
    h = x.T @ x / len(x)
    return (h + h.T) / 2 + 0.1 * np.trace(h) / k * np.eye(k)


def published_loop(torch: Any, w: Any, factor: Any, scale: Any, zero: Any, levels: Levels) -> Any:
    """The loop of the GPTQ authors' program, on fixed grids."""
    w, codes = w.clone(), torch.empty_like(w)
    for begin in range(0, w.shape[1], BLOCK):
        end = min(begin + BLOCK, w.shape[1])
        errors = torch.zeros_like(w[:, begin:end])
        for i in range(begin, end):
            s, z = scale[:, i // GROUP], zero[:, i // GROUP]
            q = torch.clamp(torch.round(w[:, i] / s) + z, levels.qmin, levels.qmax)
            error = (w[:, i] - s * (q - z)) / factor[i, i]
            w[:, i:end] -= torch.outer(error, factor[i, i:end])
            codes[:, i], errors[:, i - begin] = q, error
        w[:, end:] -= errors @ factor[begin:end, end:]
    return codes


def factors(h: Array, threads: int) -> Case:
    """The product of the factor and its transpose must be the inverse, whatever the order of the sums."""
    k = len(h)
    case = Case(f"{k} x {k}", "job", k**3 // 3, threads)
    results: dict[str, Any] = {}

    def qnumpy() -> None:
        results["ours"] = gptq.inverse_factor(h)

    def numpy() -> None:
        results["numpy"] = np.linalg.cholesky(np.linalg.inv(h)).T

    case.ours["inverse factor"] = qnumpy
    case.peers["NumPy"] = numpy
    expected = [np.linalg.inv(h)]
    case.checks["inverse factor"] = Check(lambda: [results["ours"].T @ results["ours"]], expected, 1e-9)
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(h)

        def call_torch() -> None:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(tensor))
            results["torch"] = torch.linalg.cholesky(inverse, upper=True)

        case.peers["PyTorch"] = call_torch
    return case


def layers(h: Array, n: int, threads: int) -> Iterator[Case]:
    k, levels = len(h), Levels.of(int4(), "affine")
    w = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    scale, zero = search_grid(w, None, GROUP, levels)
    order, factor = np.arange(k), gptq.inverse_factor(h)
    assert factor is not None
    codes = gptq.round_columns(w, factor, order, scale, zero, GROUP, levels)
    state = w, h, codes, scale, zero, GROUP
    size, work = f"{n} x {k}", n * k * k
    loop = Case(size, "job", work // 2, threads)
    loop.ours["column loop"] = lambda: gptq.round_columns(w, factor, order, scale, zero, GROUP, levels)
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensors = [torch.from_numpy(np.asarray(a, np.float32)) for a in (w, factor, scale, zero)]
        loop.peers["PyTorch"] = lambda: published_loop(torch, *tensors, levels)
    yield loop
    names = {
        "descent": lambda: gptq.descend(*state, levels, SWEEPS),
        "scales by least squares": lambda: gptq.refit(*state),
        "objective": lambda: gptq.objective(*state),
    }
    for name, call in names.items():
        yield Case(size, "job", work, threads, {name: call})


def cases(threads: int) -> Iterator[Case]:
    set_blas_threads()(threads)
    for k, n in ((384, 1536), (1536, 384)):
        h = moment(k)
        yield factors(h, threads)
        yield from layers(h, n, threads)
