"""Reports have the right numbers in every form, and exact sentences about surprising results."""

import dataclasses
import json
import pickle
import re

import numpy as np
import pytest

import qnumpy as qn
from qnumpy.reports.compare import MAX_ROWS, Channels, Report, ReportTable, compare
from qnumpy.reports.metrics import measure


def noise(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def ramp():
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    return compare(x, qn.quantize(x), name="ramp")


def test_the_numbers():
    x = noise(8, 64)
    q = qn.quantize(x, dtype="int4", granularity=qn.PerGroup(32))
    report = compare(x, q, name="w")
    assert (report.name, report.shape, report.source, report.dtype) == ("w", (8, 64), "float32", "int4")
    assert report.granularity == "per group 32"
    assert (report.nbytes_before, report.nbytes_after) == (8 * 64 * 4, 8 * 32 + 16 * 4)
    assert report.ratio == 2048 / 320
    assert report.mse == measure("compare", x, q).mse
    assert report.sqnr_db == measure("compare", x, q).sqnr_db
    assert report.max_abs_error == measure("compare", x, q).peak
    assert report.cosine == measure("compare", x, q).cosine
    assert (report.clipped, report.codes_used, report.levels) == (0, 15, 15)
    assert (report.nan, report.inf, report.warnings, report.channels, report.reason) == (0, 0, (), None, None)


def test_frozen_equal_and_picklable():
    report = ramp()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.name = "other"
    assert report == ramp()
    assert pickle.loads(pickle.dumps(report)) == report
    assert hash(report) == hash(ramp())


def test_uniform_input_has_the_noise_of_theory():
    # Step S over values spread evenly has the noise S^2 / 12; 1e6 values leave a sampling error below 1e-3.
    x = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
    q = qn.quantize(x)
    assert compare(x, q).mse == pytest.approx(float(q.scale) ** 2 / 12, rel=5e-3)


def test_a_dequantized_array_has_no_codes():
    x = noise(4, 5)
    q = qn.quantize(x)
    report, of_codes = compare(x, q.dequantize("float16")), compare(x, q.dequantize())
    assert (report.dtype, report.granularity, report.nbytes_after) == ("float16", None, 40)
    assert (report.clipped, report.codes_used, report.levels) == (None, None, None)
    assert of_codes.mse == compare(x, q).mse


# --- channels


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(4)], ids=repr)
def test_channels_on_any_axis(axis, granularity):
    x = noise(3, 4, 10)
    x[0, 1, 2] = np.nan
    q = qn.quantize(x, granularity=granularity)
    channels = compare(x, q, per_channel=True, axis=axis).channels
    assert channels.axis == axis % 3
    assert len(channels) == x.shape[axis]
    moved, back = np.moveaxis(x, axis, 0), np.moveaxis(q.dequantize(), axis, 0)
    codes = np.moveaxis(q.codes, axis, 0)
    for i, (part, r) in enumerate(zip(moved, back, strict=True)):
        part, r = np.ascontiguousarray(part), np.ascontiguousarray(r)
        # the same float64 terms, at most 40, in another order
        assert channels.mse[i] == pytest.approx(measure("compare", part, r).mse, rel=40 * 2.0**-53)
        assert channels.max_abs_error[i] == measure("compare", part, r).peak
        assert channels.codes_used[i] == len(np.unique(codes[i]))
        assert (channels.min[i], channels.max[i]) == (np.nanmin(part), np.nanmax(part))
        assert channels.nan[i] == np.isnan(part).sum()
        assert channels.clipped[i] == channels.inf[i] == 0


def test_the_default_axis_is_that_of_the_parameters():
    x = noise(3, 5)
    assert compare(x, qn.quantize(x, granularity=qn.PerChannel(-1)), per_channel=True).channels.axis == 1
    assert compare(x, qn.quantize(x), per_channel=True).channels.axis == 0


def test_the_total_does_not_depend_on_the_channels():
    x = noise(30, 50)
    q = qn.quantize(x)
    assert compare(x, q) == compare(x, q, per_channel=True)


def test_channels_as_records_and_text():
    x = np.array([[1.0, -1.0], [np.nan, np.nan], [0.5, 127.0]], np.float32)
    q = qn.quantize(x, qn.QParams([1.0, 1.0, 1.0], 0, granularity=qn.PerChannel(0)))
    report = compare(x, q, per_channel=True)
    assert isinstance(report.channels, Channels)
    records = report.to_records()
    np.testing.assert_equal(records, report.channels.to_records())
    assert records[0] == {
        "channel": 0, "min": -1.0, "max": 1.0, "mse": 0.0, "sqnr_db": np.inf, "max_abs_error": 0.0, "cosine": 1.0,
        "clipped": 0.0, "codes_used": 2, "nan": 0, "inf": 0,
    }  # fmt: skip
    assert (records[1]["nan"], np.isnan(records[1]["min"])) == (2, True)
    assert str(report.channels) == (
        "  channels of axis 0, lowest SQNR first\n"
        "  channel  min  max  SQNR dB  max error    cosine  clipped %  codes used\n"
        "        2  0.5  127    48.10        0.5  0.999992          0           2\n"
        "        0   -1    1      inf          0  1.000000          0           2\n"
        "        1  nan  nan      inf          0  1.000000          0           1"
    )
    assert json.loads(report.to_json())["channels"]["axis"] == 0
    assert json.loads(report.to_json())["channels"]["figures"][0]["sqnr_db"] is None
    assert "channels of axis 0" in str(report)
    assert report._repr_html_().count("<tr>") == 8 + 1 + 3


def test_many_channels_are_cut_to_the_worst():
    x = noise(MAX_ROWS + 7, 9)
    channels = compare(x, qn.quantize(x, granularity=qn.PerChannel(0)), per_channel=True).channels
    lines = str(channels).split("\n")
    assert lines[-1] == "  ... and 7 more"
    assert int(lines[2].split()[0]) == channels.sqnr_db.argmin()
    assert len(lines) == MAX_ROWS + 3
    assert channels._repr_html_().count("<tr>") == MAX_ROWS + 1


def test_channels_of_dequantized_values_have_no_codes():
    x = noise(2, 3)
    records = compare(x, x, per_channel=True).to_records()
    assert [(r["clipped"], r["codes_used"]) for r in records] == [(None, None)] * 2
    assert str(compare(x, x, per_channel=True).channels).split("\n")[2].split()[-2:] == ["-", "-"]


# --- warnings


def test_an_ordinary_tensor_has_no_warning():
    x = noise(64, 128)
    for granularity in (qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(1), qn.PerGroup(32)):
        assert compare(x, qn.quantize(x, granularity=granularity)).warnings == ()


def test_dead_channels():
    x = noise(64, 128)
    x[3] = 0
    q = qn.quantize(x, granularity=qn.PerChannel(0))
    assert compare(x, q).warnings == ("1 of 64 channels of axis 0 (3) is all zero.",)
    x[10:20] = 0
    x[:, 5] = 0
    q = qn.quantize(x, granularity=qn.PerGroup(32))
    assert compare(x, q).warnings == (
        "11 of 64 channels of axis 0 (3, 10, 11, 12, 13, ...) are all zero.",
        "1 of 128 channels of axis 1 (5) is all zero.",
    )
    assert compare(x, q, axis=-1).warnings == ("1 of 128 channels of axis 1 (5) is all zero.",)
    lost = np.array([[1.0, 2.0], [np.nan, np.nan]])  # nothing finite is not zero
    assert not any("zero" in warning for warning in compare(lost, qn.quantize(lost)).warnings)


def test_an_all_zero_tensor():
    x = np.zeros((3, 4), np.float32)
    report = compare(x, qn.quantize(x), name="z")
    assert report.warnings == ("All 12 elements are zero.",)
    assert (report.mse, report.sqnr_db, report.cosine, report.codes_used) == (0, np.inf, 1, 1)


def test_a_wide_channel_and_what_it_does_per_tensor():
    x = np.ones((4, 6), np.float32)
    x[1], x[2] = -0.5, 200
    wide = "Channel 2 of axis 0 is 200 times wider than the median of the others (200 against 1)."
    assert compare(x, qn.quantize(x, granularity=qn.PerChannel(0))).warnings == (wide,)
    # Per tensor the step is 200 / 127: 1 rounds to one step, 0.5 to none, 200 is exact. A scale for each channel has
    # the step width / 127 and, taken as uniform, the noise step^2 / 12 an element.
    step = 200 / 127
    before = 2 * (step - 1) ** 2 + 0.5**2
    after = sum((width / 127) ** 2 for width in (1, 1, 0.5, 200)) / 12
    gain = 10 * np.log10(before / after)
    assert compare(x, qn.quantize(x)).warnings == (
        wide,
        "1 of 4 channels of axis 0 (1) is lost: no element above half a step (0.787).",
        f"Per channel on axis 0 would gain about {gain:.1f} dB for 12 bytes of scales.",
    )


def test_just_below_a_hundred_times_is_not_wide():
    x = np.ones((5, 4), np.float32)
    x[0] = 99.9
    q = qn.quantize(x, granularity=qn.PerChannel(0))
    assert compare(x, q).warnings == ()
    x[0] = 100
    assert len(compare(x, qn.quantize(x, granularity=qn.PerChannel(0))).warnings) == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_better_per_channel(axis, symmetric, dtype):
    # one channel ten times as wide as the others
    x = np.random.default_rng(0).uniform(-1, 1, (64, 256)).astype(np.float32)
    np.moveaxis(x, axis, 0)[5] *= 10
    channels = qn.PerChannel(axis)
    report = compare(x, qn.quantize(x, symmetric=symmetric, dtype=dtype))
    (sentence,) = report.warnings
    match = re.fullmatch(
        rf"Per channel on axis {axis} would gain about (\d+\.\d) dB for {4 * (x.shape[axis] - 1)} bytes of scales.",
        sentence.replace(",", ""),
    )
    real = compare(x, qn.quantize(x, granularity=channels, symmetric=symmetric, dtype=dtype)).sqnr_db - report.sqnr_db
    # The estimate takes the new noise as uniform, which it is here up to the edge of 16 codes: a few percent of power.
    assert float(match[1]) == pytest.approx(real, abs=0.5)
    assert real > 6.02
    assert compare(x, qn.quantize(x, granularity=channels, dtype=dtype)).warnings == ()


def test_not_finite():
    x = noise(10, 10)
    x[0, :2], x[1, 0] = np.nan, -np.inf
    report = compare(x, qn.quantize(x))
    assert report.warnings == ("2 NaN and 1 infinite of 100 elements are left out of the figures.",)
    assert (report.nan, report.inf) == (2, 1)
    assert np.isfinite([report.mse, report.sqnr_db, report.cosine]).all()
    assert "  not finite  2 NaN, 1 infinite\n" in str(report)
    x[:] = np.nan
    assert compare(x, qn.quantize(x, qn.QParams(1.0, 0))).warnings == (
        "100 NaN and 0 infinite of 100 elements are left out of the figures.",
    )
    assert compare(np.ones(3), np.array([1, np.nan, 1])).warnings == (
        "The quantized array is not finite where the reference is, so the error is infinite.",
    )


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (), (1,), (1, 1), (1, 5)])
def test_small_and_empty(shape):
    x = np.full(shape, 0.5, np.float32)
    report = compare(x, qn.quantize(x), per_channel=bool(shape))
    assert report.warnings == ()
    assert (report.mse, report.sqnr_db) == (0, np.inf)
    for text in (str(report), report._repr_html_(), report.to_json(), str(ReportTable([report]))):
        assert text


# --- forms


def test_text_of_a_report():
    assert str(ramp()) == repr(ramp()) == (
        "ramp: (1000,) float32 -> int8 per tensor\n"
        "  bytes       4,000 -> 1,004 (3.98x)\n"
        "  SQNR        48.11 dB\n"
        "  MSE         5.16e-06\n"
        "  max error   0.00393\n"
        "  cosine      0.999992\n"
        "  clipped     0 %\n"
        "  codes used  255/255"
    )  # fmt: skip
    x = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert str(compare(x, x)) == (
        "(2, 2) float64 -> float64\n"
        "  bytes       32 -> 32 (1.00x)\n"
        "  SQNR        inf dB\n"
        "  MSE         0\n"
        "  max error   0\n"
        "  cosine      1.000000\n"
        "  warning: 1 of 2 channels of axis 0 (1) is all zero.\n"
        "  warning: 1 of 2 channels of axis 1 (1) is all zero."
    )


def test_kept():
    kept = Report.kept("norm", [384], np.dtype(np.float32), 1536, "1-D")
    assert str(kept) == "norm: (384,) float32, 1,536 bytes, kept: 1-D"
    assert (kept.mse, kept.sqnr_db, kept.max_abs_error, kept.cosine, kept.clipped, kept.codes_used) == (None,) * 6
    assert (kept.nbytes_before, kept.nbytes_after, kept.ratio, kept.reason) == (1536, 1536, 1.0, "1-D")
    assert json.loads(kept.to_json())["kept"] == "1-D"
    assert "1-D" in kept._repr_html_()


def test_text_of_a_table():
    x = np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 2.0]], np.float32)
    rows = [
        ramp(),
        compare(x, qn.quantize(x, qn.QParams([0.01, 0.5], 0, dtype="int4", granularity=qn.PerChannel(0)))),
        Report.kept("bias", (10,), "float32", 40, "1-D (norms and biases)"),
    ]
    assert str(ReportTable(rows)) == (
        "tensor              shape    type     granularity             bytes  ratio  SQNR dB  max error    cosine"
        "  clipped %  codes used\n"
        "ramp                (1000,)  int8     per tensor     4,000 -> 1,004  3.98x    48.11    0.00393  0.999992"
        "          0     255/255\n"
        "-                   (2, 3)   int4     per channel 0        24 -> 12  2.00x     1.71       2.93  0.571240"
        "      33.33        3/16\n"
        "bias                (10,)    float32  kept                 40 -> 40  1.00x  1-D (norms and biases)\n"
        "3 tensors (1 kept)                                   4,064 -> 1,056  3.85x    15.66       2.93  0.986322"
        "       0.20"
    )


def test_totals_are_those_of_one_array():
    a, b = noise(30, 40), 3 * noise(50)
    qa, qb = qn.quantize(a, granularity=qn.PerChannel(0)), qn.quantize(b, dtype="int4")
    both = [compare(a, qa), compare(b, qb), Report.kept("i", (2,), "int64", 16, "integers")]
    totals = ReportTable(both).totals
    one = compare(np.append(a, b), np.append(qa.dequantize(), qb.dequantize()))
    for name in ("mse", "sqnr_db", "cosine"):
        # the same 1250 float64 terms in another order
        assert totals[name] == pytest.approx(getattr(one, name), rel=1250 * 2.0**-53)
    assert totals["max_abs_error"] == one.max_abs_error
    assert (totals["tensors"], totals["kept"], totals["clipped"]) == (3, 1, 0)
    assert totals["nbytes_before"] == a.nbytes + b.nbytes + 16
    assert totals["nbytes_after"] == qa.nbytes + qb.nbytes + 16


def test_a_table_is_a_sequence():
    rows = [ramp(), Report.kept("b", (1,), "int64", 8, "integers")]
    table = ReportTable(iter(rows))
    assert (len(table), list(table), table[1]) == (2, rows, rows[1])
    assert [record["name"] for record in table.to_records()] == ["ramp", "b"]
    assert table.to_records()[0]["sqnr_db"] == rows[0].sqnr_db


def test_an_empty_table():
    table = ReportTable([])
    assert str(table).split("\n")[1].startswith("0 tensors")
    assert table.totals["ratio"] == 1
    assert json.loads(table.to_json())["tensors"] == []
    assert table._repr_html_().startswith("<table>")


def test_json_is_strict():
    x = np.zeros((2, 2), np.float32)
    text = ReportTable([compare(x, qn.quantize(x)), ramp()]).to_json(indent=None)

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(text, parse_constant=refuse)
    assert content["tensors"][0]["sqnr_db"] is None
    assert content["tensors"][0]["shape"] == [2, 2]
    assert content["tensors"][1]["sqnr_db"] == ramp().sqnr_db
    assert content["totals"]["tensors"] == 2


def test_html_is_escaped():
    evil = "<script>alert('x')</script>&"
    kept = Report.kept(evil, (1,), "int64", 8, evil)
    x = np.zeros((2, 2), np.float32)
    report = compare(x, qn.quantize(x), name=evil)
    for page in (ReportTable([report, kept])._repr_html_(), report._repr_html_(), kept._repr_html_()):
        assert "<script" not in page
        assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;" in page


def test_html_has_at_most_twenty_rows():
    x = np.zeros((2, 2), np.float32)
    rows = [compare(x, qn.quantize(x), name=f"t{i}") for i in range(MAX_ROWS + 5)]
    page = ReportTable(rows)._repr_html_()
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert body.count("<tr>") == MAX_ROWS + 1
    assert '<td colspan="11">... and 5 more</td>' in body
    assert page.count("<li>") == MAX_ROWS + 1
    assert "... and 5 more.</li>" in page
    assert "25 tensors" in page[page.index("<tfoot>") :]
    assert '<td colspan="5">why</td>' in ReportTable([Report.kept("b", (), "int64", 8, "why")])._repr_html_()
    assert str(ReportTable(rows)).count("\nt") == MAX_ROWS + 5  # the text has every row


def test_tiny_share_is_not_zero():
    x = np.zeros(100_000, np.float32)
    x[0] = 1000
    assert str(compare(x, qn.quantize(x, qn.QParams(1.0, 0)))).split("\n")[6] == "  clipped     <0.01 %"


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: compare(x, x, name=3), TypeError, "compare: name must be a string; got 3."),
    (lambda x: compare(x, x[0]), ValueError, "compare: q must be of the shape (3, 4) of x; got shape (4,)."),
    (lambda x: compare(x, x, axis=2), ValueError, "compare: axis must be in [-2, 1]; got 2."),
    (lambda x: compare(x, x, axis=0.5), TypeError, "compare: axis must be an integer; got 0.5."),
    (lambda x: compare(x[0, 0], x[0, 0], per_channel=True), ValueError,
     "compare: axis must be left out for a 0-d array; got 0."),
    (lambda x: compare(x.astype(complex), x), TypeError,
     "compare: x must be an array of float32, float64, float16 or bfloat16; got dtype complex128."),
    (lambda x: compare(np.ma.masked_array(x), x), TypeError,
     "compare: x must be an array without a mask; got a MaskedArray. Use x.filled(...) first."),
    (lambda x: ReportTable([ramp(), "x"]), TypeError, "ReportTable: reports must be Report objects; got 'x'."),
])  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call(np.zeros((3, 4), np.float32))
    assert str(caught.value) == message


# ---- every kind of report ----


def reports():
    x = noise(6, 8)
    x[0, 0] = np.nan
    observer = qn.HistogramObserver().observe(x)
    calibration = qn.calibrate(lambda x: {"<x>": x}, [x])
    ours = compare(x, qn.quantize(x), per_channel=True, name="<x>")
    codes = qn.quantize(np.abs(noise(6, 8)), dtype="uint8", symmetric=False)
    float_report = qn.float_report(x, name="<x>")
    return {
        "Report": ours, "Channels": ours.channels, "ReportTable": ReportTable([ours]), "FloatReport": float_report,
        "FloatReportTable": qn.reports.FloatReportTable([float_report]), "CalibrationReport": calibration.report(),
        "CalibratedTensor": calibration.report()["<x>"], "Bits": qn.bits(np.array([1.5, np.nan])),
        "Saturation": qn.simulate_saturation(codes, qn.quantize(noise(8, 3))),
        "observer": observer, "Calibration": calibration,
    }  # fmt: skip


REPORTS = reports()


@pytest.mark.parametrize("kind", REPORTS)
def test_every_report_has_every_form(kind):
    report = REPORTS[kind]
    json.loads(report.to_json(), parse_constant=pytest.fail)  # neither NaN nor Infinity
    page = report._repr_html_()
    assert page.count("<table>") == page.count("</table>") >= 1
    assert "<x>" not in page
    assert repr(report) == str(report) != object.__repr__(report)
    if kind not in ("observer", "Calibration"):  # states, not tables
        records = report.to_records()
        assert isinstance(records, list)
        assert all(not isinstance(value, dict) for record in records for value in record.values())
        assert json.loads(report.to_json(indent=None)) == json.loads(report.to_json())


SPECIAL = {
    "zeros": np.zeros(3),
    "infinity": np.array([0, np.inf, 1]),
    "infinities": np.array([np.inf, -np.inf, np.inf]),
    "nan": np.full(3, np.nan),
    "huge": np.array([1e308, -1e308, 1e308]),
    "tiny": np.array([5e-324, 0, 1e-310]),
    "float16": np.array([65504, np.inf, 0], np.float16),
    "ones": np.ones(3),
}


@pytest.mark.parametrize("q", SPECIAL)
@pytest.mark.parametrize("x", SPECIAL)
def test_no_report_warns(x, q):
    """Warnings are errors in this suite."""
    report = qn.compare(SPECIAL[x], SPECIAL[q])
    columns = qn.compare(SPECIAL[x][:, None], SPECIAL[q][:, None], per_channel=False)
    for shown in (report, columns):
        assert str(shown)
        assert shown.to_json()
        assert shown._repr_html_()
    assert str(qn.float_report(SPECIAL[x]))
