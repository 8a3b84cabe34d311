"""What a call and the import cost: quantize_linear of 64 elements beside np.add, import qnumpy beside its dependencies.

Run: ``python -m benchmarks.bench_overhead --markdown``
"""

import statistics
import subprocess
import sys

import numpy as np

import qnumpy as qn

from . import harness

IMPORT = "import numpy, ml_dtypes, time; t = time.perf_counter(); import qnumpy; print(time.perf_counter() - t)"


def call_times(rounds: int) -> dict[str, list[float]]:
    """Seconds a call, on 64 float32, every result into a buffer."""
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    codes, reals = np.empty(64, np.int8), np.empty(64, np.float32)
    scale, zero = np.float32(0.05), np.int8(3)
    qparams = qn.QParams(np.asarray(scale), np.asarray(zero, np.int32))
    calls: dict[str, harness.Call] = {
        "np.add": lambda: np.add(x, x, out=reals),
        "quantize_linear": lambda: qn.quantize_linear(x, scale, zero, dtype="int8", out=codes),
        "quantize_linear, dtype of the zero point": lambda: qn.quantize_linear(x, scale, zero, out=codes),
        "dequantize_linear": lambda: qn.dequantize_linear(codes, scale, zero, out=reals),
        "fake_quantize": lambda: qn.fake_quantize(x, qparams, out=reals),
        "min_max": lambda: qn.min_max(x),
    }
    np.testing.assert_array_equal(
        calls["quantize_linear"](), np.clip(np.rint(x / scale) + 3, -128, 127)  # the oracle, before the clock starts
    )  # fmt: skip
    return harness.interleaved(calls, rounds)


def import_times(rounds: int) -> list[float]:
    """Seconds that ``import qnumpy`` adds to ``import numpy, ml_dtypes``, each in a fresh interpreter."""
    run = [sys.executable, "-c", IMPORT]
    return [
        float(subprocess.run(run, capture_output=True, text=True, check=True, env=harness.ENVIRONMENT).stdout)
        for _ in range(rounds)
    ]


def table(rounds: int, *, markdown: bool) -> str:
    times = call_times(rounds)
    base = min(times["np.add"])
    body = []
    for name, t in times.items():
        seconds = min(t), statistics.median(t), min(t) - base
        body.append([name, "64 elements", *(f"{s * 1e6:.2f}" for s in seconds)])
    started = import_times(rounds)
    best, median = min(started) * 1e6, statistics.median(started) * 1e6
    body.append(["import qnumpy", "over numpy and ml_dtypes", f"{best:,.0f}", f"{median:,.0f}", "-"])
    return harness.render(["call", "on", "best µs", "median µs", "best over np.add µs"], body, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=15, threads=False)
    options = parser.parse_args()
    print(f"{harness.machine()}\n\n{table(options.rounds, markdown=options.markdown)}")


if __name__ == "__main__":
    main()
