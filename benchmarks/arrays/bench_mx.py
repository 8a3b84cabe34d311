"""Blocks of MX formats, quantized to new arrays."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy.arrays.mx import MX_FORMATS

from .. import harness
from ..harness import Case


def blocks(name: str, elements: int, threads: int) -> Case:
    """NumPy's expression with ml_dtypes' saturated cast is the oracle."""
    x, layout = harness.normal((elements,)), MX_FORMATS[name]
    dtype, largest = layout.element.dtype, np.float32(layout.element.largest)
    top = int(np.log2(largest))
    codes: dict[str, Any] = {}

    def qnumpy() -> None:
        codes["qnumpy"] = qn.quantize(x, dtype=name)

    def numpy() -> None:
        groups = x.reshape(-1, layout.group_size)
        exponent = (np.abs(groups).max(-1).view(np.int32) >> 23) - 127 - top
        scale = np.ldexp(np.float32(1), exponent)[:, None]
        codes["NumPy"] = np.clip(groups / scale, -largest, largest).astype(dtype).reshape(x.shape)

    out = harness.aligned(x.shape, np.uint8)  # of the limit; the candidates allocate their results
    results = [lambda: [codes["qnumpy"].codes.view(np.uint8)], lambda: [codes["NumPy"].view(np.uint8)]]
    return harness.elementwise(f"quantize float32 to {name}", x, out, threads, qnumpy, numpy, *results)


def cases(threads: int) -> Iterator[Case]:
    for (elements,) in (harness.SMALL, harness.LARGE):
        for name in ("mxfp8_e4m3", "mxfp4"):
            yield blocks(name, elements, threads)
