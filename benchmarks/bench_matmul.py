"""Integer products beside the float32 product of the same shape and peers; thin ones beside a read of b.

Run: ``python -m benchmarks.bench_matmul --markdown``

The limit of a large product is BLAS sgemm (NumPy's), that of a thin one a loop that reads the weights once. ONNX
Runtime's u8 x u8 is exact; its u8 x s8, which saturates on CPUs without VNNI, is timed without being checked.
"""

import ctypes
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import qnumpy as qn
from qnumpy import _core

from . import harness

LARGE = ["192x192x192", "384x384x384", "768x768x768", "1536x1536x1536", "128x384x1536", "128x1536x384", "128x768x3072"]
LARGE += ["512x4096x4096", "3072x3072x3072"]
SIGMAS = (4, 3.2)  # where the absmax of Gaussian weights lies
THIN = [f"{m}x{k}x{k}" for k in (4096, 8192) for m in (1, 2, 4, 8, 16)]
T = _core.TYPES


@cache
def _set_blas_threads() -> Callable[[int], object]:
    """OpenBLAS's own setter, in the library that NumPy has loaded; nothing where NumPy uses another BLAS."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}
    for path in paths:
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                found: Callable[[int], object] = getattr(library, name)
                return found
    return lambda n: None


def bell(rng: np.random.Generator, shape: tuple[int, int], sigmas: float) -> harness.Array:
    return np.clip(np.rint(rng.standard_normal(shape) * (127 / sigmas)), -127, 127).astype(np.int8)


def packed_call(a: harness.Array, b: harness.Array, out: harness.Array, scale: harness.Array | None) -> harness.Call:
    packed = _core.pack_weights(b, T[b.dtype.name], None)
    rows = None if scale is None else np.full(1, 1e-3, np.float32)
    codes = (T[a.dtype.name], None, packed, out, T[out.dtype.name], rows, scale, scale, None)
    return lambda: _core.matmul_packed(a, *codes, -np.inf, np.inf, 0, 0, 0)


def on(row: str, call: harness.Call) -> harness.Call:
    """The call on a row of the table; selecting costs a tenth of a microsecond."""

    def run() -> object:
        qn.set_isa(row)
        return call()

    return run


def candidates(m: int, k: int, n: int, threads: int, rows: Sequence[str]) -> dict[str, harness.Call]:
    """Name -> call, each compared with the float64 product, whose sums are exact here."""
    rng = np.random.default_rng(m + k + n)
    b = harness.aligned((k, n), np.int8)
    b[...] = rng.integers(-128, 128, b.shape)
    a = rng.integers(-128, 128, (m, k)).astype(np.int8)
    narrow, turned = b >> 1, np.asfortranarray(b)
    bells = {s: bell(rng, b.shape, s) for s in (SIGMAS if m > 64 else ())}
    u_a, u_b = a.view(np.uint8) ^ 128, b.view(np.uint8) ^ 128
    calls: dict[str, harness.Call] = {}
    checks: list[tuple[str, harness.Array, harness.Array]] = []

    def exact(left: harness.Array, right: harness.Array) -> harness.Array:
        return (left.astype(np.float64) @ right).astype(np.int64)

    full, narrow_product = exact(a, b), exact(a, narrow)
    bell_products = {sigma: exact(a, weights) for sigma, weights in bells.items()}
    if m > 16:
        f_a, f_b, f_c = a.astype(np.float32), b.astype(np.float32), np.empty((m, n), np.float32)
        calls["sgemm"] = lambda: np.matmul(f_a, f_b, out=f_c)
    else:
        calls.update(harness.traffic(b.reshape(-1).view(np.float32), None, threads))
    for name, right in (("ONNX Runtime u8 x u8", u_b), ("ONNX Runtime u8 x s8", b)):
        try:
            from onnx import helper

            out = np.empty((m, n), np.int32)
            node = helper.make_node("MatMulInteger", ["x", "b"], ["y"])
            calls[name] = harness.onnx_session([node], u_a, {"b": right}, {"y": out}, threads)
            if right is u_b:
                checks.append((name, out, exact(u_a, u_b)))
        except ImportError:
            pass
    torch = harness.torch()
    if torch is not None and m > 16:
        torch.set_num_threads(threads)
        t_a, t_b = torch.from_numpy(a), torch.from_numpy(b)
        calls["PyTorch _int_mm"] = lambda: torch._int_mm(t_a, t_b)
    scale = np.full(n, 1e-2, np.float32)
    for row in rows:
        qn.set_isa(row)
        outs = [np.empty((m, n), np.int32) for _ in range(4)]
        real = np.empty((m, n), np.float32)
        calls[f"{row} raw"] = on(row, lambda out=outs[0]: qn.matmul_integer(a, b, out=out))
        calls[f"{row} raw, b transposed"] = on(row, lambda out=outs[1]: qn.matmul_integer(a, turned, out=out))
        calls[f"{row} packed"] = on(row, packed_call(a, b, outs[2], None))
        calls[f"{row} packed, 7 bits"] = on(row, packed_call(a, narrow, outs[3], None))
        for sigma, weights in bells.items():
            outs.append(np.empty((m, n), np.int32))
            calls[f"{row} packed, Gauss {sigma} sigma"] = on(row, packed_call(a, weights, outs[-1], None))
            checks.append((f"{row} packed, Gauss {sigma} sigma", outs[-1], bell_products[sigma]))
        calls[f"{row} packed to float32"] = on(row, packed_call(a, b, real, scale))
        names = ("raw", "raw, b transposed", "packed", "packed, 7 bits")
        wanted = (full, full, full, narrow_product)
        checks += [(f"{row} {name}", out, want) for name, out, want in zip(names, outs[:4], wanted, strict=True)]
    for call in calls.values():
        call()
    for name, out, expected in checks:
        np.testing.assert_array_equal(out, expected, name)
    return calls


def measured(shapes: Sequence[str], threads: Sequence[int], rows: Sequence[str], rounds: int) -> Iterator[list[str]]:
    for shape in shapes:
        m, k, n = map(int, shape.split("x"))
        for used in threads:
            _set_blas_threads()(used)
            active = qn.isa()
            with qn.threads(used):
                calls = candidates(m, k, n, used, rows)
                samples = harness.interleaved(calls, rounds, settle=used > 1)
            qn.set_isa(active)
            limit = min((x for x in samples if x == "sgemm" or x.startswith("traffic")), key=lambda x: min(samples[x]))
            for name, seconds in samples.items():
                if name.startswith("traffic") and name != limit:
                    continue
                best = min(seconds)
                ratio = statistics.median(t / s for t, s in zip(samples[limit], seconds, strict=True))
                speed = [f"{m * k * n / best / 1e9:.1f}", f"{k * n / best / 1e9:.1f}"]
                yield [
                    shape,
                    name,
                    str(used),
                    *speed,
                    harness.number(min(samples[limit]) / best),
                    harness.number(ratio),
                ]


def rows_to_compare() -> list[str]:
    """The AVX2 row, which every x86 CPU of ten years has, and the best one."""
    best = qn.isa()
    usable = [name for name, supported in _core.isas() if supported]
    return list(dict.fromkeys(row for row in ("avx2", best) if row in usable))


def table(
    rounds: int,
    *,
    markdown: bool,
    shapes: Sequence[str] = (*LARGE, *THIN),
    threads: Sequence[int] = (1, 2),
    rows: Sequence[str] = (),
) -> str:
    head = ["M x K x N", "candidate", "threads", "10⁹ products/s", "GB/s of b", "over the limit", "median"]
    lines = list(measured(shapes, threads, rows or rows_to_compare(), rounds))
    return harness.render(head, lines, markdown=markdown)


def main() -> None:
    parser = harness.parser(__doc__, rounds=15)
    parser.add_argument("--shapes", nargs="+", default=LARGE + THIN, help="as 128x384x1536")
    parser.add_argument("--rows", nargs="+", default=[], help="of instruction sets: avx2 and the best one by default")
    options = parser.parse_args()
    print(harness.machine(), end="\n\n")
    kind = {"shapes": options.shapes, "threads": options.threads, "rows": options.rows}
    print(table(options.rounds, markdown=options.markdown, **kind))


if __name__ == "__main__":
    main()
