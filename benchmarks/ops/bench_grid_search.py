"""The search of a layer's grids beside a search of as many shrunk ranges by PyTorch and by NumPy.

The size is that of a layer of all-MiniLM-L6-v2, at 4 bits in groups of 32.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from qnumpy.dtypes import CodeType, code_type
from qnumpy.ops.grid_search import Levels, Scheme, hqq_grid, hqq_offsets, search_grid, search_offsets
from qnumpy.testing import grid_search as twin

from .. import harness
from ..harness import Array, Case, Check

SHAPE, GROUP = (1536, 384), 32
TRIED: dict[Scheme, int] = {"symmetric": 55, "affine": 126}  # grids of a group, in all passes
CHECKED = 4  # rows that the twin, which is slow, computes too


def int4() -> CodeType:
    code = code_type("int4")
    assert code is not None
    return code


def shrunk(module: Any, groups: Any, importance: Any, scale: Any, zero: Any, levels: Levels, count: int) -> Any:
    """The best scale of some for each group, with the zero point of the range."""
    best, least = scale, None
    for part in np.linspace(1, 0.25, count).tolist():
        tried = scale * part
        q = module.clip(module.round(groups / tried) + zero, levels.qmin, levels.qmax)
        error = ((tried * (q - zero) - groups) ** 2 * importance).sum(-1)[..., None]
        best, least = (tried, error) if least is None else (
            module.where(error < least, tried, best), module.minimum(error, least)
        )  # fmt: skip
    return best


def searches(scheme: Scheme, threads: int) -> Case:
    w, levels = harness.normal(SHAPE), Levels.of(int4(), scheme)
    importance: Array = np.exp(np.random.default_rng(1).standard_normal(SHAPE[1])).astype(np.float32)
    case, results = Case(f"{SHAPE[0]} x {SHAPE[1]}", "job", w.size, threads), {}
    name = f"grids of least square error, {scheme}"

    def qnumpy() -> None:
        results[name] = search_grid(w, importance, GROUP, levels)

    case.ours[name] = qnumpy
    expected = twin.search_grid(w[:CHECKED], importance, GROUP, levels)
    case.checks[name] = Check(lambda: [part[:CHECKED] for part in results[name]], expected)
    groups, weights = w.reshape(SHAPE[0], -1, GROUP), importance.reshape(-1, GROUP)
    low, high = np.minimum(groups.min(-1), 0)[..., None], np.maximum(groups.max(-1), 0)[..., None]
    scale = np.maximum(-low, high) / 7 if scheme == "symmetric" else (high - low) / 15
    zero = np.zeros_like(scale) if scheme == "symmetric" else np.clip(np.rint(-8 - low / scale), -8, 7)
    case.peers["NumPy"] = lambda: shrunk(np, groups, weights, scale, zero, levels, TRIED[scheme])
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensors = [torch.from_numpy(array) for array in (groups, weights, scale, zero)]
        case.peers["PyTorch"] = lambda: shrunk(torch, *tensors, levels, TRIED[scheme])
    return case


def others(threads: int) -> Iterator[Case]:
    w, levels = harness.normal(SHAPE), Levels.of(int4(), "affine")
    names = {
        "offsets of least square error": lambda: search_offsets(w, None, GROUP, 0, 15),
        "half-quadratic grids": lambda: hqq_grid(w, GROUP, levels),
        "half-quadratic offsets": lambda: hqq_offsets(w, GROUP, 0, 15),
    }
    for name, call in names.items():
        yield Case(f"{SHAPE[0]} x {SHAPE[1]}", "job", w.size, threads, {name: call})


def cases(threads: int) -> Iterator[Case]:
    yield searches("symmetric", threads)
    yield searches("affine", threads)
    yield from others(threads)
