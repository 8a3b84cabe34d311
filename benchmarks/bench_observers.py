"""Histograms against a pure read and the peers, batches through an observer, and the searches.

Run: ``python -m benchmarks.bench_observers --markdown``
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.histogram import histogram

from . import harness
from .harness import Array, Call

BATCHES, BATCH = 200, (512, 768)


def _data(shape: tuple[int, ...]) -> Array:
    x = harness.aligned(shape, np.float32)
    np.random.default_rng(0).standard_normal(dtype=np.float32, out=x)
    return x


def _reads(x: Array, threads: int) -> dict[str, Call]:
    return {name: call for name, call in harness.traffic(x, None, threads).items() if "plain" in name}


def _check(x: Array, granularity: qn.PerTensor | qn.PerChannel | qn.PerGroup) -> None:
    """The bins of a part of the data are those of the twin."""
    part = x[:300_000] if x.ndim == 1 else x[:64, :64]
    found, _ = histogram("bench", part, granularity)
    for got, want in zip(found, twin.histogram(part, granularity), strict=True):
        np.testing.assert_array_equal(got, want)


def histograms(threads: int) -> Iterator[tuple[str, int, dict[str, Call]]]:
    """Name, elements and candidates of each histogram."""
    x = _data(harness.LARGE)
    _check(x, qn.PerTensor())
    calls: dict[str, Call] = {
        "qnumpy": lambda: histogram("bench", x, qn.PerTensor()),
        "NumPy": lambda: np.histogram(x, 2048, (-6, 6)),
        **_reads(x, threads),
    }
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        tensor = torch.from_numpy(x)
        calls["PyTorch"] = lambda: torch.histc(tensor, 2048, -6, 6)
    yield "histogram", x.size, calls
    square = _data(harness.SQUARE)
    for axis in (0, 1):
        granularity = qn.PerChannel(axis)
        _check(square, granularity)
        call = (lambda g: lambda: histogram("bench", square, g))(granularity)
        yield f"histogram, channels {axis}", square.size, {"qnumpy": call, **_reads(square, threads)}
    part = square[:512]  # 2M elements: the bins of short groups take 10 bytes for nearly every one of them, 20 MB here
    for size in (32, 128):
        group = qn.PerGroup(size)
        _check(part, group)
        call = (lambda g: lambda: histogram("bench", part, g))(group)
        yield f"histogram, groups of {size}", part.size, {"qnumpy": call, **_reads(part, threads)}
    for name, g in (("tensor", qn.PerTensor()), ("channels 0", qn.PerChannel(0)), ("channels 1", qn.PerChannel(1))):
        call = (lambda where: lambda: qn.MinMaxObserver(granularity=where).observe(square))(g)
        yield f"MinMaxObserver, {name}", square.size, {"qnumpy": call, **_reads(square, threads)}


def batches() -> tuple[str, int, dict[str, Call]]:
    """Two hundred batches of activations through one observer, and its search."""
    rng = np.random.default_rng(1)
    pool = [rng.standard_normal(BATCH, dtype=np.float32) for _ in range(8)]

    def ours() -> Any:
        observer = qn.HistogramObserver()
        for k in range(BATCHES):
            observer.observe(pool[k % 8])
        return observer.qparams()

    calls: dict[str, Call] = {"qnumpy": ours}
    torch = harness.torch()
    if torch is not None:
        import torch.ao.quantization as observers

        torch.set_num_threads(1)
        tensors = [torch.from_numpy(x) for x in pool]

        def theirs() -> Any:
            observer = observers.HistogramObserver(dtype=torch.qint8)
            for k in range(BATCHES):
                observer(tensors[k % 8])
            return observer.calculate_qparams()

        calls["PyTorch"] = theirs
    return f"{BATCHES} batches {BATCH[0]}x{BATCH[1]}", BATCHES * BATCH[0] * BATCH[1], calls


def searches() -> Iterator[tuple[str, int, dict[str, Call]]]:
    """The choice of a range, given a histogram of a million elements."""
    x = np.random.default_rng(2).laplace(size=1_000_000).astype(np.float32)
    for symmetric in (True, False):
        for method in ("mse", "entropy", "percentile"):
            observer = qn.HistogramObserver(method, symmetric=symmetric).observe(x)
            scheme = "symmetric" if symmetric else "affine"
            yield f"search {method}, {scheme}", 1, {"qnumpy": observer.qparams}
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        for method in ("mse", "entropy"):
            observer = qn.HistogramObserver(method, dtype=dtype).observe(x)
            yield f"search {method}, {dtype}", 1, {"qnumpy": observer.qparams}
    few = x[:4096].round()
    for symmetric in (True, False):
        observer = qn.HistogramObserver(symmetric=symmetric).observe(few)
        scheme = "symmetric" if symmetric else "affine"
        yield f"search mse, {observer.values_.size} values, {scheme}", 1, {"qnumpy": observer.qparams}


def table(rounds: int, *, markdown: bool, threads: tuple[int, ...] = (1, 2)) -> str:
    """Best time of every case, elements a second, and the factors over reading and over the peers."""
    body = []
    for used in threads:
        with qn.threads(used):
            cases = list(histograms(used))
            if used == 1:
                cases += [batches(), *searches()]
            for name, elements, calls in cases:
                samples = harness.interleaved(calls, rounds, settle=used > 1)
                best = {peer: min(times) for peer, times in samples.items()}
                reads = [seconds for peer, seconds in best.items() if peer.startswith("traffic")]
                ours = best["qnumpy"]
                rate = f"{elements / ours / 1e9:.2f}" if elements > 1 else "-"
                of_read = harness.number(min(reads) / ours if reads else None)
                peers = [harness.number(best[p] / ours if p in best else None, "x") for p in ("NumPy", "PyTorch")]
                body.append([name, str(used), f"{ours * 1e3:,.3f}", rate, of_read, *peers])
    head = ["case", "threads", "best ms", "10⁹ elements/s", "of a read", "over NumPy", "over PyTorch"]
    return harness.render(head, body, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    options = parser.parse_args()
    print(harness.machine())
    print()
    print(table(options.rounds, markdown=options.markdown, threads=tuple(options.threads)))


if __name__ == "__main__":
    main()
