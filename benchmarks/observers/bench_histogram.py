"""Observers of single arrays beside a pure read and the peers, batches through an observer, and the searches."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Case, Check

BATCHES, BATCH, POOL = 200, (512, 768), 8
BINS = (2048, -6, 6)  # of the peers, which count equal bins of a fixed range


def histograms(threads: int) -> Iterator[Case]:
    """One array through a new observer."""
    line, square = harness.normal(harness.LARGE), harness.normal(harness.SQUARE)
    part = square[:512]  # 2M elements: short groups take 10 bytes for nearly every element, 20 MB here
    arrays = [
        ("histogram", line, qn.PerTensor()),
        ("histogram, axis 0", square, qn.PerChannel(0)),
        ("histogram, axis 1", square, qn.PerChannel(1)),
        ("histogram, groups of 32", part, qn.PerGroup(32)),
    ]
    for name, x, granularity in arrays:
        case = Case(harness.size(x.size), "histogram", x.size, threads, limits=harness.traffic(x, None, threads))
        observer = qn.HistogramObserver(granularity=granularity)

        def observe(observer: qn.HistogramObserver = observer, x: Any = x) -> None:
            observer.reset().observe(x)

        case.ours[name] = observe
        case.checks[name] = Check(lambda o=observer: o.range("minmax"), qn.min_max(x, granularity))
        if x is line:
            case.peers["NumPy"] = lambda: np.histogram(line, BINS[0], BINS[1:])
            if (torch := harness.torch()) is not None:
                torch.set_num_threads(threads)
                case.peers["PyTorch"] = partial(torch.histc, torch.from_numpy(line), *BINS)
        yield case


def batches() -> Case:
    """Two hundred batches of activations through one observer, and its search."""
    rng = np.random.default_rng(1)
    pool = [rng.standard_normal(BATCH, dtype=np.float32) for _ in range(POOL)]
    work = BATCHES * BATCH[0] * BATCH[1]

    def qnumpy() -> Any:
        observer = qn.HistogramObserver()
        for k in range(BATCHES):
            observer.observe(pool[k % POOL])
        return observer.qparams()

    case = Case(f"{BATCHES} x {BATCH[0]} x {BATCH[1]}", "job", work, 1, {"HistogramObserver, batches": qnumpy})
    torch = harness.torch()
    if torch is not None:
        import torch.ao.quantization as observers

        torch.set_num_threads(1)
        tensors = [torch.from_numpy(x) for x in pool]

        def pytorch() -> Any:
            observer = observers.HistogramObserver(dtype=torch.qint8)
            for k in range(BATCHES):
                observer(tensors[k % POOL])
            return observer.calculate_qparams()

        case.peers["PyTorch"] = pytorch
    return case


def searches() -> Iterator[Case]:
    """The choice of a range, from the histogram of a million elements."""
    x = np.random.default_rng(2).laplace(size=1_000_000).astype(np.float32)
    case = Case("1,000,000", "job", 1, 1)
    for symmetric in (True, False):
        for method in ("mse", "entropy", "percentile"):
            observer = qn.HistogramObserver(method, symmetric=symmetric).observe(x)
            case.ours[f"search {method}, {'symmetric' if symmetric else 'affine'}"] = observer.qparams
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        for method in ("mse", "entropy"):
            observer = qn.HistogramObserver(method, dtype=dtype).observe(x)
            case.ours[f"search {method}, {dtype}"] = observer.qparams
    yield case
    few = x[:4096].round()
    case = Case("4096 of few values", "job", 1, 1)
    for symmetric in (True, False):
        observer = qn.HistogramObserver(symmetric=symmetric).observe(few)
        case.ours[f"search mse, {'symmetric' if symmetric else 'affine'}"] = observer.qparams
    yield case


def cases(threads: int) -> Iterator[Case]:
    yield from histograms(threads)
    if threads == 1:
        yield batches()
        yield from searches()
