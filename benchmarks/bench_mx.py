"""Blocks (MX, NVFP4), codes that are floats, and float reports.

Run: ``python -m benchmarks.bench_mx --markdown``
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy.mx import MX_FORMATS

from . import harness
from .harness import Array, Case


def blocks(name: str, shape: tuple[int, ...], threads: int) -> Case:
    """Quantize to new arrays; NumPy's expression with ml_dtypes' saturated cast is the oracle."""
    x, found = _values(shape), MX_FORMATS[name]
    dtype, largest = found.element.dtype, np.float32(found.element.largest)
    top = int(np.log2(largest))
    made: dict[str, Any] = {}

    def ours() -> None:
        made["qnumpy"] = qn.quantize(x, dtype=name).codes

    def numpys() -> None:
        groups = x.reshape(-1, found.block)
        exponent = (np.abs(groups).max(-1).view(np.int32) >> 23) - 127 - top
        scale = np.ldexp(np.float32(1), exponent)[:, None]
        made["NumPy"] = np.clip(groups / scale, -largest, largest).astype(dtype).reshape(shape)

    case = Case("quantize", name, x, harness.aligned(shape, np.uint8), threads)
    case.calls = {"qnumpy": ours, "NumPy": numpys}
    case.results = {peer: lambda peer=peer: [made[peer].view(np.uint8)] for peer in case.calls}
    return case


def float_codes(name: str, shape: tuple[int, ...], threads: int) -> Iterator[Case]:
    """quantize_linear and dequantize_linear per tensor, into a buffer."""
    x, scale = _values(shape), np.float32(0.0078)
    dtype = qn.QParams(1, 0, name).dtype
    most = np.float32(qn.QParams(1, 0, name).qmax)
    codes = harness.aligned(shape, np.uint8).view(dtype)
    case = Case("quantize_linear", f"{name}, per tensor", x, codes.view(np.uint8), threads)
    case.calls["qnumpy"] = lambda: qn.quantize_linear(x, scale, dtype=name, out=codes)
    case.calls["NumPy"] = lambda: np.copyto(codes, np.clip(x / scale, -most, most), casting="unsafe")
    case.results = dict.fromkeys(case.calls, lambda: [codes.view(np.uint8)])
    yield case
    source, back = harness.aligned(shape, np.uint8).view(dtype), harness.aligned(shape, np.float32)
    qn.quantize_linear(x, scale, dtype=name, out=source)
    case = Case("dequantize_linear", f"{name}, per tensor", source.view(np.uint8), back, threads)
    case.calls["qnumpy"] = lambda: qn.dequantize_linear(source, scale, out=back)
    case.calls["NumPy"] = lambda: np.multiply(source.astype(np.float32), scale, out=back)
    case.results = dict.fromkeys(case.calls, lambda: [back])
    yield case


def report(dtype: str, shape: tuple[int, ...], threads: int) -> Case:
    """Count what overflows, underflows and becomes subnormal, and find the worst error: a pure read."""
    x = _values(shape)
    x *= np.float32(2.0**-14)
    counts: dict[str, Any] = {}
    normal = np.float32(2.0**-14)

    def ours() -> None:
        found = qn.float_report(x, dtype)
        counts["qnumpy"] = np.array([found.overflow, found.underflow, found.subnormal, found.max_relative_error])

    def numpys() -> None:
        y = x.astype(dtype).astype(np.float32)
        size, kept = np.abs(x), np.abs(y)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(kept > 0, np.abs(x - y) / size, 0).max()
        figures = [np.isinf(y).sum(), ((kept == 0) & (size > 0)).sum(), ((kept > 0) & (kept < normal)).sum(), error]
        counts["NumPy"] = np.array(figures, np.float64)

    case = Case("float_report", dtype, x, None, threads)
    case.calls = {"qnumpy": ours, "NumPy": numpys}
    case.results = {peer: lambda peer=peer: [counts[peer]] for peer in case.calls}
    return case


def _values(shape: tuple[int, ...]) -> Array:
    x = harness.aligned(shape, np.float32)
    x[...] = np.random.default_rng(0).standard_normal(shape, np.float32)
    return x


def cases(shape: tuple[int, ...], threads: int) -> Iterator[Case]:
    if len(shape) == 1:
        for name in ("mxfp8_e4m3", "mxfp4"):
            yield blocks(name, shape, threads)
        yield from float_codes("float8_e4m3fn", shape, threads)
        yield report("float16", shape, threads)


if __name__ == "__main__":
    harness.main(__doc__.splitlines()[0], cases)
