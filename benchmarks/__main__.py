"""Run every benchmark; write docs/performance.md and the speed table of README.

Run: ``python -m benchmarks``
"""

import argparse
from pathlib import Path

from . import (
    bench_calibrate,
    bench_cli,
    bench_conv,
    bench_floats,
    bench_matmul,
    bench_mx,
    bench_observers,
    bench_overhead,
    bench_packed,
    bench_quantize,
    bench_reduce,
    harness,
)

ROOT = Path(__file__).parents[1]
PAGE = """# Performance

Made by `python -m benchmarks`, from the root of the repository, on: {machine}.

The candidates of a row take turns in one run, on the same buffers, each result checked before the clock starts. **Of
traffic**: our speed as a part of that of a loop that reads and writes as many bytes and computes nothing (AVX2 or
AVX-512, plain or streaming stores, one or two threads: the fastest counts; `benchmarks/traffic.c`), best against best;
**median of traffic** is the median over the rounds of the same ratio. For `min_max`, which writes nothing, the traffic
is a pure read. **Over** a peer: its best time divided by ours. NumPy is the expression with a buffer for every step;
ONNX Runtime a session of the same operators with bound buffers. Shared machines are noisy: ratios count, times do not.

## Kernels

`python -m benchmarks.bench_quantize --markdown`, `python -m benchmarks.bench_reduce --markdown`,
`python -m benchmarks.bench_floats --markdown`, `python -m benchmarks.bench_mx --markdown`. For casts "NumPy" is
`np.copyto`, which runs ml_dtypes for its types.

{kernels}

## Integer products

`python -m benchmarks.bench_matmul --markdown`: int8 by int8, full range unless it says 7 bits. The limit is BLAS sgemm
of the same shape, for 16 rows and fewer a pure read of b. ONNX Runtime's u8 x s8 saturates on CPUs without VNNI.

{matmul}

## Packed weights

`python -m benchmarks.bench_packed --markdown`: float32 in and out. int8: a whole layer, activations quantized on the
fly; ONNX Runtime with uint8 weights, which its kernels multiply exactly; PyTorch's weights have 7 bits. int4: groups of
32; ONNX Runtime's MatMulNBits at accuracy level 4. "Of read": of a pure read of the packed weight, for a single row.

{packed}

## Convolutions

`python -m benchmarks.bench_conv --markdown`: one image, uint8 by uint8. The limit is the bare product of as many
operands, its patches in memory beforehand; "sums" are int32, "codes" uint8 with a scale. ONNX Runtime's of uint8
weights are exact, of int8 weights they saturate on CPUs without VNNI; PyTorch convolves float32.

{conv}

## A call, the import

`python -m benchmarks.bench_overhead --markdown`

{overhead}

## Observers

`python -m benchmarks.bench_observers --markdown`: histograms of float32, the limit a pure read; those of NumPy and
PyTorch count 2048 equal bins of a range that is given to them.

{observers}

## A static calibration

`python -m benchmarks.bench_calibrate --markdown`: three layers of low rank over 200 batches of 512 x 768, seven tensors
observed, four of them of that shape, on one CPU. "Observing" is a job's time less that of the same library's network
alone; a difference below 5 % of that is taken for noise. Memory is the peak over weights and batches. ONNX Runtime's
entropy and percentile calibrators keep every activation of every batch.

{calibrate}

## The whole job

`python -m benchmarks.bench_cli --markdown`: each job is a process of its own; memory that is only mapped from the file
counts as well.

{cli}
"""
README = """{machine}. One thread, per tensor, one run.
"Of traffic": 1.0 is the speed of reading and writing the same bytes without computing anything. Two threads, channels,
casts, products and observers are in [docs/performance.md](docs/performance.md).

{table}

"""


def short(rows: list[harness.Row]) -> str:
    """The rows and columns that README shows."""
    peers = [peer for peer in harness.PEERS if any(peer in row.samples for row in rows)]
    body = []
    for row in rows:
        if row.threads == 1 and row.parameters == "per tensor":
            speed = row.elements / min(row.samples["qnumpy"]) / 1e9
            line = [row.operation, harness.size(row.elements), f"{speed:.1f}", harness.number(row.best(row.limit))]
            body.append(line + [harness.number(row.best(peer), "x") for peer in peers])
    head = ["operation", "elements", "10⁹ elements/s", "of traffic", *(f"over {peer}" for peer in peers)]
    return harness.render(head, body, markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    parts = (bench_quantize, bench_reduce, bench_floats, bench_mx)
    rows = [row for part in parts for row in harness.run(part.cases, options.rounds)]
    page = PAGE.format(
        machine=harness.machine(),
        kernels=harness.table(rows, markdown=True),
        matmul=bench_matmul.table(min(options.rounds, 7), markdown=True),
        packed=bench_packed.table(min(options.rounds, 9), markdown=True),
        conv=bench_conv.table(min(options.rounds, 7), markdown=True),
        overhead=bench_overhead.table(options.rounds, markdown=True),
        observers=bench_observers.table(min(options.rounds, 5), markdown=True),
        calibrate=bench_calibrate.table(2, markdown=True),
        cli=bench_cli.table(None, min(options.rounds, 5), markdown=True),
    )
    (ROOT / "docs" / "performance.md").write_text(page, encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("## Speed\n\n")
    after = rest[rest.index("## ") :]
    speed = README.format(machine=harness.machine(), table=short(rows))
    readme.write_text(f"{before}## Speed\n\n{speed}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
