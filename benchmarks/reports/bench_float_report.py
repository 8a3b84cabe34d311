"""What a cast would lose: overflow, underflow, subnormals and the worst error. The limit is a pure read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Case

NORMAL = np.float32(2.0**-14)  # the smallest normal float16


def float_report(elements: int, threads: int) -> Case:
    x = harness.normal((elements,))
    x *= NORMAL
    figures: dict[str, Any] = {}

    def qnumpy() -> None:
        report = qn.float_report(x, "float16")
        figures["qnumpy"] = np.array([report.overflow, report.underflow, report.subnormal, report.max_relative_error])

    def numpy() -> None:
        y = x.astype("float16").astype(np.float32)
        magnitude, result = np.abs(x), np.abs(y)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(result > 0, np.abs(x - y) / magnitude, 0).max()
        counts = [np.isinf(y).sum(), ((result == 0) & (magnitude > 0)).sum(), ((result > 0) & (result < NORMAL)).sum()]
        figures["NumPy"] = np.array([*counts, error], np.float64)

    results = [lambda peer=peer: [figures[peer]] for peer in ("qnumpy", "NumPy")]
    return harness.elementwise("float_report float16", x, None, threads, qnumpy, numpy, *results)


def cases(threads: int) -> Iterator[Case]:
    for (elements,) in (harness.SMALL, harness.LARGE):
        yield float_report(elements, threads)
