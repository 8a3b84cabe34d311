"""Integer convolutions beside the integer product of the same size and peers.

Run: ``python -m benchmarks.bench_conv --markdown``

The limit is `matmul_integer` on as many operands as the convolution multiplies, the patches of the image in memory
before the clock starts. ONNX Runtime's ConvInteger and its QLinearConv of uint8 weights are exact; QLinearConv of int8
weights, which saturates on CPUs without VNNI, is timed without being checked. PyTorch convolves float32.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import qnumpy as qn

from . import harness
from .bench_matmul import on, rows_to_compare


@dataclass(frozen=True)
class Shape:
    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2 * self.dilation

    @property
    def result(self) -> int:
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def __str__(self) -> str:
        about = [f"stride {self.stride}"] * (self.stride > 1) + [f"dilation {self.dilation}"] * (self.dilation > 1)
        about += [] if self.groups == 1 else ["depthwise" if self.groups == self.channels else f"{self.groups} groups"]
        kernel = f"{self.kernel} x {self.kernel}, {self.channels} to {self.outputs} channels"
        return ", ".join([f"{kernel} of {self.size} x {self.size}", *about])


SHAPES = {
    "dense": [
        Shape(64, 56, 64, 3),
        Shape(128, 28, 128, 3),
        Shape(256, 14, 256, 3),
        Shape(512, 7, 512, 3),
        Shape(64, 56, 256, 1),
        Shape(256, 56, 64, 1),
        Shape(512, 28, 128, 1),
        Shape(256, 56, 512, 1, 2),
        Shape(3, 224, 64, 7, 2),
        Shape(128, 56, 128, 3, 1, 32),
        Shape(256, 28, 256, 3, 1, 32),
    ],
    "depthwise": [
        Shape(64, 112, 64, 3, 2, 64),
        Shape(128, 56, 128, 3, 1, 128),
        Shape(256, 28, 256, 3, 1, 256),
        Shape(512, 14, 512, 3, 1, 512),
        Shape(1024, 7, 1024, 3, 1, 1024),
        Shape(128, 56, 128, 5, 1, 128),
        Shape(128, 56, 128, 5, 2, 128),
        Shape(128, 56, 128, 3, 1, 128, 2),
    ],
}


def exact(x: harness.Array, w: harness.Array, shape: Shape) -> harness.Array:
    """The sums, one element of the kernel after another, in float64: below 2^53."""
    pad, n, per = shape.padding, shape.result, shape.channels // shape.groups
    image = np.pad(x[0].astype(np.float64), ((0, 0), (pad, pad), (pad, pad)))
    reach = (n - 1) * shape.stride + 1
    found = np.zeros((shape.groups, shape.outputs // shape.groups, n * n))
    for i, j in np.ndindex(shape.kernel, shape.kernel):
        top, left = i * shape.dilation, j * shape.dilation
        seen = image[:, top : top + reach : shape.stride, left : left + reach : shape.stride]
        factors = w[:, :, i, j].astype(np.float64).reshape(shape.groups, -1, per)
        found += factors @ seen.reshape(shape.groups, per, n * n)
    return found.reshape(1, shape.outputs, n, n).astype(np.int32)


def candidates(shape: Shape, threads: int, rows: Sequence[str]) -> dict[str, harness.Call]:
    rng = np.random.default_rng(shape.channels + shape.size)
    per, n = shape.channels // shape.groups, shape.result
    x = rng.integers(0, 256, (1, shape.channels, shape.size, shape.size)).astype(np.uint8)
    w = rng.integers(0, 256, (shape.outputs, per, shape.kernel, shape.kernel)).astype(np.uint8)
    signed = w.view(np.int8) ^ -128
    sums = exact(x, w, shape)
    scale, zero = np.float32(250 / np.abs(sums).max()), np.uint8(3)
    codes = qn.requantize(sums, scale, zero, dtype="uint8")
    k, one = per * shape.kernel**2, np.float32(1)
    left = w.reshape(shape.groups, shape.outputs // shape.groups, k)
    patches = rng.integers(0, 256, (shape.groups, k, n * n)).astype(np.uint8)
    attributes = {"pads": [shape.padding] * 4, "strides": [shape.stride] * 2}
    attributes |= {"dilations": [shape.dilation] * 2, "group": shape.groups}
    options = {"padding": shape.padding, "strides": shape.stride, "dilations": shape.dilation, "groups": shape.groups}
    calls: dict[str, harness.Call] = {}
    checks: list[tuple[str, harness.Array, harness.Array]] = []
    try:
        from onnx import helper

        out = np.empty(sums.shape, np.int32)
        node = helper.make_node("ConvInteger", ["x", "w"], ["y"], **attributes)
        calls["ONNX Runtime, sums"] = harness.onnx_session([node], x, {"w": w}, {"y": out}, threads)
        checks.append(("ONNX Runtime, sums", out, sums))
        given = ["x", "one", "zero_x", "w", "s", "zero_w", "one", "z"]
        for kind, weight in (("u8 x u8", w), ("u8 x s8", signed)):
            out = np.empty(codes.shape, np.uint8)
            node = helper.make_node("QLinearConv", given, ["y"], **attributes)
            initial = {"one": np.ones((), np.float32), "zero_x": np.zeros((), np.uint8), "w": weight}
            initial |= {"s": np.asarray(scale), "zero_w": np.zeros((), weight.dtype), "z": np.asarray(zero)}
            name = f"ONNX Runtime, codes {kind}"
            calls[name] = harness.onnx_session([node], x, initial, {"y": out}, threads)
            if weight is w:
                checks.append((name, out, codes))
    except ImportError:
        pass
    torch = harness.torch()
    if torch is not None:
        torch.set_num_threads(threads)
        t_x, t_w = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(w.astype(np.float32))
        where = (None, shape.stride, shape.padding, shape.dilation, shape.groups)
        calls["PyTorch float32"] = lambda: torch.nn.functional.conv2d(t_x, t_w, *where)
    for row in rows:
        qn.set_isa(row)
        out, product = np.empty(sums.shape, np.int32), np.empty((*left.shape[:2], n * n), np.int32)
        calls[f"{row} product"] = on(row, lambda out=product: qn.matmul_integer(left, patches, out=out))
        calls[f"{row} sums"] = on(row, lambda out=out: qn.conv2d_integer(x, w, out=out, **options))
        calls[f"{row} codes"] = on(row, lambda: qn.qlinear_conv2d(x, one, 0, w, scale, 0, one, zero, **options))
        calls[f"{row} sums"]()
        np.testing.assert_array_equal(out, sums, f"{row} sums of {shape}")
        np.testing.assert_array_equal(calls[f"{row} codes"](), codes, f"{row} codes of {shape}")  # type: ignore[arg-type]
    for name, out, expected in checks:
        calls[name]()
        np.testing.assert_array_equal(out, expected, f"{name} of {shape}")
    return calls


def measured(shapes: Sequence[Shape], threads: Sequence[int], rows: Sequence[str], rounds: int) -> Iterator[list[str]]:
    for shape in shapes:
        macs = shape.result**2 * shape.outputs * shape.channels // shape.groups * shape.kernel**2
        for used in threads:
            active = qn.isa()
            with qn.threads(used):
                samples = harness.interleaved(candidates(shape, used, rows), rounds, settle=used > 1)
            qn.set_isa(active)
            peers = [name for name in samples if name.startswith("ONNX Runtime") and "s8" not in name]
            for name, seconds in samples.items():
                row = name.partition(" ")[0]
                limit = samples[f"{row} product" if row in rows else f"{rows[-1]} product"]
                same = [peer for peer in peers if name.split()[-1] in peer]
                line = [str(shape), name, str(used), f"{macs / min(seconds) / 1e9:.1f}"]
                line += [harness.number(min(limit) / min(seconds))]
                line += [harness.number(statistics.median(t / s for t, s in zip(limit, seconds, strict=True)))]
                line += [harness.number(min(samples[same[0]]) / min(seconds), "x") if row in rows and same else "-"]
                yield line


def table(
    rounds: int, *, markdown: bool, kinds: Sequence[str] = ("dense", "depthwise"),
    threads: Sequence[int] = (1, 2), rows: Sequence[str] = (), only: str = "",
) -> str:  # fmt: skip
    head = ["convolution", "candidate", "threads", "10⁹ products/s", "over the product", "median", "over ONNX Runtime"]
    shapes = [shape for kind in kinds for shape in SHAPES[kind] if only in str(shape)]
    lines = list(measured(shapes, threads, rows or rows_to_compare(), rounds))
    return harness.render(head, lines, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=15)
    parser.add_argument("--kinds", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--only", default="", help="convolutions whose description contains this")
    parser.add_argument("--rows", nargs="+", default=[], help="of instruction sets: avx2 and the best one by default")
    options = parser.parse_args()
    print(harness.machine(), end="\n\n")
    kind = {"kinds": options.kinds, "threads": options.threads, "rows": options.rows, "only": options.only}
    print(table(options.rounds, markdown=options.markdown, **kind))


if __name__ == "__main__":
    main()
