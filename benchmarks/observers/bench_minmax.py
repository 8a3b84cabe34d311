"""A MinMaxObserver beside a pure read."""

from collections.abc import Iterator

import qnumpy as qn

from .. import harness
from ..harness import Case, Check


def cases(threads: int) -> Iterator[Case]:
    x = harness.normal(harness.SQUARE)
    for name, granularity in (
        ("MinMaxObserver", qn.PerTensor()),
        ("MinMaxObserver, axis 0", qn.PerChannel(0)),
        ("MinMaxObserver, axis 1", qn.PerChannel(1)),
    ):
        observer = qn.MinMaxObserver(granularity=granularity).observe(x)
        case = Case(harness.size(x.size), "memory", x.size, threads, limits=harness.traffic(x, None, threads))
        case.ours[name] = lambda observer=observer: observer.observe(x)
        case.checks[name] = Check(lambda o=observer: o.range(), qn.min_max(x, granularity))
        yield case
