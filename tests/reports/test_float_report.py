"""Float reports: verdicts, sentences, refusals."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from refusals import X, assert_refused, refusals

import qnumpy as qn
from qnumpy.reports.float_report import TARGETS

CPUINFO = Path("/proc/cpuinfo")


def test_the_epsilon_of_a_layer_norm():
    report = qn.float_report(np.float32(1e-12))
    assert (report.verdict, report.underflow) == ("underflows", 1)
    assert report.smallest_eps == 2.0**-24
    for eps, survives in ((report.smallest_eps, True), (report.smallest_eps / 2, False), (1e-5, True)):
        assert (np.float16(eps) > 0) == survives
        assert (qn.float_report(np.float32(eps)).underflow == 0) == survives


def test_verdicts():
    normal = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert qn.float_report(normal * 0.05).verdict == "fits"
    assert qn.float_report(normal * 1e5).verdict == "overflows"
    assert qn.float_report(normal * 1e-7).verdict == "underflows"
    assert qn.float_report(normal * 4e-5).verdict == "coarse"
    assert qn.float_report(normal * 1e30, "bfloat16").verdict == "fits"
    stray = normal.copy()
    stray[:5] = 1e-12  # a few are no reason not to
    assert qn.float_report(stray).verdict == "fits"
    assert "5 of 10,000 nonzero numbers become zero" in qn.float_report(stray).sentence
    assert qn.float_report(np.zeros(4)).verdict == qn.float_report(np.zeros(0)).verdict == "fits"
    nonfinite = qn.float_report(np.array([np.nan, np.inf, 1.0]))
    assert (nonfinite.nan, nonfinite.inf, nonfinite.verdict) == (1, 1, "fits")
    assert nonfinite.sentence.endswith("; not finite already: 1 NaN, 1 infinite.")


@pytest.mark.parametrize("dtype", TARGETS)
def test_what_a_type_lacks_is_said(dtype):
    """Against the results of cast, and its refusal when overflow is "raise"."""
    lacking = []
    for value, has in ((np.inf, TARGETS[dtype].has_infinity), (np.nan, TARGETS[dtype].has_nan)):
        x, report = np.array([value, 1.0]), qn.float_report([value, 1.0], dtype)
        result = float(qn.cast(x, dtype)[0])
        assert np.array_equal(result, value, equal_nan=True) == has == (report.verdict == "fits")
        if not has:
            lacking.append(value)
            replacement = "NaN" if np.isnan(result) else f"{result:g} or {-result:g}" if result else "zero"
            name = "NaN" if np.isnan(value) else "infinity"
            assert report.sentence == f"{dtype} has no {name}: 1 becomes {replacement}."
            with pytest.raises(OverflowError):
                qn.cast(x, dtype, overflow="raise")
    assert qn.float_report([*lacking, *lacking, 1e39], dtype).sentence.count(": 2 become ") == len(lacking)


def test_one_and_many():
    for count, text in ((1, "1 of 1 nonzero numbers becomes subnormal and keeps"), (2, "become subnormal and keep ")):
        assert text in qn.float_report(np.full(count, 1e-7)).sentence


def test_float16_holds_what_came_from_float16():
    report = qn.float_report(np.arange(1 << 16, dtype=np.uint16).view(np.float16))
    assert (report.overflow, report.underflow, report.max_relative_error) == (0, 0, 0.0)
    assert (report.nan, report.inf, report.subnormal) == (2046, 2, 2046)


def test_what_the_cpu_does_is_said():
    if not CPUINFO.exists():
        pytest.skip("nothing else says what the CPU has")
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    flags = {line.partition(":")[0].strip(): line for line in lines}
    known = flags.get("flags", flags.get("Features", ""))
    report = qn.float_report(np.zeros(1), "float16")
    assert report.computes == ("avx512_fp16" in known or "asimdhp" in known)
    assert "float16" in report.cpu
    assert qn.float_report(np.zeros(1), "bfloat16").computes == ("avx512_bf16" in known or " bf16" in known)
    assert not qn.float_report(np.zeros(1), "float8_e4m3fn").computes


def test_forms():
    report = qn.float_report(np.array([[1e-9, 1.0], [np.nan, 7e4]], np.float32), name="w")
    assert str(report).splitlines()[0] == "w: (2, 2) float32 as float16: overflows"
    assert "not finite      1 NaN, 0 infinite" in str(report)
    assert json.loads(report.to_json()) == report.to_records()[0]
    assert "<caption>w: (2, 2) float32 as float16: overflows</caption>" in report._repr_html_()
    table = qn.reports.FloatReportTable([report] * 22)
    assert table.totals["overflow"] == 22
    assert table.totals["verdicts"] == {"overflows": 22}
    head, *_, last = str(table).splitlines()
    column = slice(head.index("not finite"), head.index("not finite") + len("not finite"))
    assert last[column].strip() == "22"
    assert "<th>not finite</th>" in table._repr_html_()
    assert len(str(table).splitlines()) == 24
    assert "... and 2 more" in table._repr_html_()
    assert json.loads(table.to_json())["totals"] == table.totals
    assert [len(table), table[0], next(iter(table))] == [22, report, report]


def test_other_float_types_are_read():
    x = np.array([0.5, 448, 2.0**-9]).astype(ml_dtypes.float8_e4m3fn)
    report = qn.float_report(x, "float4_e2m1fn")
    assert (report.source, report.overflow, report.underflow, report.subnormal) == ("float8_e4m3fn", 1, 1, 1)


def float_report_rows():
    narrow = (
        "float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float6_e2m3fn, float6_e3m2fn or float4_e2m1fn"
    )
    for value in ("float64", "int8", "float8_e8m0fnu", None, 3):
        fine = f"float_report: dtype must be float32, float16, bfloat16, {narrow}; got {value!r}"
        yield lambda v=value: qn.float_report(X, v), TypeError, fine
    yield lambda: qn.float_report(X, name=3), TypeError, "float_report: name must be a string; got 3"
    fine = "FloatReportTable: reports must be FloatReport objects; got 3"
    yield lambda: qn.reports.FloatReportTable([3]), TypeError, fine


@refusals(float_report_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
