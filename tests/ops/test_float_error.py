"""What a narrower float type loses, against counting in NumPy, on every type, layout, size, row and thread count."""

from pathlib import Path

import numpy as np
import pytest
from strategies import LAYOUTS, ROWS, SOURCES

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import FLOAT_TYPES
from qnumpy.ops.float_error import float_error
from qnumpy.reports.float_report import TARGETS

CPUINFO = Path("/proc/cpuinfo")


def hard(n, source, seed=0):
    """All magnitudes that a type can lose: normal, subnormal, too small, too large, and ties at the ends of each."""
    rng = np.random.default_rng([seed, n])
    x = rng.standard_normal(n) * 2.0 ** rng.integers(-40, 40, n)
    ends = [to.overflow for to in TARGETS.values()] + [to.largest for to in TARGETS.values()]
    ends += [to.smallest_subnormal / 2 for to in TARGETS.values()] + [to.smallest_normal for to in TARGETS.values()]
    ends += [464.0, 0.0, -0.0, np.nan, np.inf, -np.inf]
    x = np.where(rng.random(n) < 0.3, rng.choice(ends, n), x)
    with np.errstate(over="ignore"):
        return x.astype(SOURCES[source])


def assert_figures(figures, want, about):
    for name, value in want._asdict().items():
        got = getattr(figures, name)
        if name == "max_relative_error":
            assert got == pytest.approx(value, rel=1e-7), about  # divided in float32
        elif name == "relative_error":  # the same, rounded to 2^-30 for each element that is kept
            assert got / 2**30 == pytest.approx(value / 2**30, rel=1e-7, abs=1e-9 * want.kept), about
        else:
            assert got == value, (about, name)


@pytest.mark.parametrize("dtype", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_counts_and_errors(source, dtype):
    for n in (0, 1, 2, 3, 15, 16, 17, 31, 64, 65, 2047, 2049, 5000):
        x = hard(n, source)
        types = FLOAT_TYPES[source], TARGETS[dtype]
        assert_figures(float_error(x, *types), twin.float_error(x, *types), f"n = {n}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x = hard(6 * 70 * 13, "float32").reshape(6, 70, 13)
    want = qn.float_report(x)
    assert qn.float_report(LAYOUTS[layout](x)).to_dict() == want.to_dict()


def test_threads_and_rows_do_not_show():
    x = hard(300_000, "float32")
    with qn.threads(2):
        want = qn.float_report(x)
    active = qn.isa()
    try:
        for row in ROWS:
            qn.set_isa(row)
            with qn.threads(1):
                assert qn.float_report(x).to_dict() == want.to_dict()
    finally:
        qn.set_isa(active)
