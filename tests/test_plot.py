"""Pictures: drawn into the Axes of the caller, with labels, and with lines at the numbers."""

import re
import subprocess
import sys

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import plot

matplotlib = pytest.importorskip("matplotlib")
from matplotlib import pyplot  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    """Draw to memory, fail where show is called, and close all figures afterwards."""
    matplotlib.use("Agg")
    monkeypatch.setattr(pyplot, "show", lambda *a, **k: pytest.fail("show was called"))
    yield
    pyplot.close("all")


def weights(seed=0, wide=7):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    w[wide] *= 20
    return w


@pytest.fixture
def ax():
    return Figure().subplots()


KINDS = {
    "histogram": lambda **k: plot.histogram(weights(), **k),
    "channel_ranges": lambda **k: plot.channel_ranges(weights(), **k),
    "error_by_threshold": lambda **k: plot.error_by_threshold(weights(), points=20, **k),
    "error_by_bits": lambda **k: plot.error_by_bits(weights(), dtypes=["int2", "int8"], **k),
}


@pytest.mark.parametrize("kind", KINDS)
def test_axes_in_axes_out(kind, ax):
    before = dict(matplotlib.rcParams)
    assert KINDS[kind](ax=ax, name="w") is ax
    assert pyplot.get_fignums() == []
    own = KINDS[kind]()
    assert isinstance(own, matplotlib.axes.Axes)
    assert len(pyplot.get_fignums()) == 1
    assert dict(matplotlib.rcParams) == before
    for axes in (ax, own):
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_legend() is not None
    assert ax.get_title(loc="left").startswith("w")
    ax.figure.canvas.draw()  # warnings are errors: nothing overflows, no glyph is missing


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lines(ax, style):
    return [line for line in ax.lines if line.get_linestyle() == style]


# --- histogram


def test_clip_lines_stand_at_the_ends_and_say_the_share(ax):
    x = np.concatenate([np.linspace(-0.99, 0.99, 9_900), np.full(100, 4.0)]).astype(np.float32)
    params = qn.QParams.from_range(-1.0, 1.0)
    plot.histogram(x, {"mine": params}, ax=ax)
    at = sorted(float(line.get_xdata()[0]) for line in lines(ax, "--"))
    assert at == pytest.approx([-1, 1], rel=1e-6)  # the scale is float32
    assert labels(ax) == ["mine: -1 to 1, 1 % clipped"]
    assert "none clipped" in labels(plot.histogram(x, qn.choose_qparams(x)))[0]


def test_every_element_is_in_a_bar(ax):
    x = weights()
    plot.histogram(x, qn.choose_qparams(x), resolution=37, ax=ax)
    (stairs,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    counts, edges = stairs.get_data().values, stairs.get_data().edges
    assert len(counts) == 37
    assert counts.sum() == pytest.approx(x.size)
    assert (edges[0], edges[-1]) == pytest.approx((x.min(), x.max()))
    # Each element moves by no more than the width of its own bin, 1/128 of its value: far less than a bar's.
    exact = np.histogram(x, edges)[0]
    assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() < 0.02 * x.size


def test_an_observer_brings_its_parameters(ax):
    observer = qn.HistogramObserver("mse", dtype="int4").observe(weights())
    plot.histogram(observer, ax=ax)
    scale = float(observer.qparams().scale)
    assert sorted(float(line.get_xdata()[0]) for line in lines(ax, "--")) == pytest.approx([-7 * scale, 7 * scale])
    assert labels(ax)[0].startswith("mse: ")


def test_an_observer_per_channel_is_drawn_as_one(ax):
    x = weights()
    both = [qn.HistogramObserver(granularity=g).observe(x) for g in (qn.PerTensor(), qn.PerChannel(0))]
    params = qn.choose_qparams(x)
    counts = []
    for observer in both:
        ax = Figure().subplots()
        plot.histogram(observer, params, ax=ax)
        counts.append(next(p for p in ax.patches if hasattr(p, "get_data")).get_data().values)
    # the observers keep 1/128 and 1/16 of a value: an element may fall into a neighbouring bar
    assert np.abs(np.cumsum(counts[0]) - np.cumsum(counts[1])).max() < 0.05 * x.size
    assert counts[1].sum() == pytest.approx(x.size)


NAMES = {
    "a$$b": "a$$b",
    "$\\\\alpha^2$": "$\\\\alpha^2$",
    "_a": "_a",
    "a\\nb": r"a\nb",
    "{x}_y": "{x}_y",
    "\u05d0": "\u05d0",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_names_are_shown_as_they_are(kind, name, ax):
    KINDS[kind](ax=ax, name=name)
    assert ax.get_title(loc="left").startswith(NAMES[name])
    assert not ax._left_title.get_parse_math()
    ax.figure.canvas.draw()


def test_names_of_parameters_are_shown_as_they_are(ax):
    ax.plot([0, 1], [1, 1], label=r"$\sigma$")  # of the caller: mathematics
    plot.histogram(weights(), {name: qn.QParams(0.01 * k, 0) for k, name in enumerate(NAMES, 1)}, ax=ax)
    mine, *names = ax.get_legend().get_texts()
    assert (mine.get_text(), mine.get_parse_math()) == (r"$\sigma$", True)
    assert [text.get_text().rpartition(":")[0] for text in names] == list(NAMES.values())
    assert not any(text.get_parse_math() for text in names)
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("kind", "title"), [
    ("histogram", "w (float32), int8"), ("channel_ranges", "w (float32), axis 0"),
    ("error_by_threshold", "w (float32), int8"), ("error_by_bits", "w (float32), per tensor, symmetric"),
])  # fmt: skip
def test_titles_name_the_array_and_the_type(kind, title, ax):
    KINDS[kind](ax=ax, name="w")
    assert ax.get_title(loc="left") == title


@pytest.mark.parametrize("x", [[2.5], [0.0], [-3.0] * 9, [1e-42], [3e38], [1.0, 1.0 + 2**-20]])
def test_narrow_data_is_one_bar_that_can_be_seen(x, ax):
    x = np.array(x, np.float32)
    plot.histogram(x, ax=ax)
    ax.figure.canvas.draw()
    (stairs,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    counts, edges = stairs.get_data().values, stairs.get_data().edges
    assert counts.tolist() == [x.size]
    assert edges[0] <= x.min() <= x.max() <= edges[1]
    left, right = (ax.transData.transform((edge, 1))[0] for edge in edges)
    assert right - left >= 2  # pixels


# --- channels


@pytest.mark.parametrize("x", [np.ones((1, 5)), np.float32([1, 2, 3, 100]), np.arange(6.0)])
def test_channels_of_one_value_are_seen(x, ax):
    before = np.asarray(drawn(ax))
    plot.channel_ranges(x, ax=ax)
    blue = np.all(np.asarray(drawn(ax))[..., :3] == (0x9D, 0xB7, 0xD5), axis=-1)
    assert before.shape == (*blue.shape, 4)
    assert blue.any(axis=0).sum() > 300 * (len(x) - 1) / len(x)  # of the 400 or so pixels of the width


def drawn(ax):
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return canvas.buffer_rgba()


def test_channels_are_sorted_and_outliers_named(ax):
    plot.channel_ranges(weights(), outlier=3, ax=ax)
    assert labels(ax) == ["1 of 64 above 3 times the median: 7"]
    (bar,) = ax.patches
    assert (bar.get_y(), bar.get_y() + bar.get_height()) == pytest.approx((weights()[7].min(), weights()[7].max()))
    assert bar.get_x() + bar.get_width() / 2 == 63  # the widest stands last
    assert plot.channel_ranges(weights(wide=slice(0, 0)), ax=Figure().subplots()).get_legend() is None
    many = plot.channel_ranges(weights(wide=slice(0, 8)), ax=Figure().subplots())
    assert labels(many)[0].startswith("8 of 64 above 3 times the median: ")
    assert labels(many)[0].endswith(", ...")


def test_channels_of_an_observer_and_of_any_axis():
    x = weights()
    patches = []
    for call in (
        lambda ax: plot.channel_ranges(x, ax=ax),
        lambda ax: plot.channel_ranges(x.T, 1, ax=ax),
        lambda ax: plot.channel_ranges(x.T, -1, ax=ax),
        lambda ax: plot.channel_ranges(qn.MinMaxObserver(granularity=qn.PerChannel(0)).observe(x), ax=ax),
    ):
        ax = call(Figure().subplots())
        patches.append([*ax.collections[0].get_paths()[0].vertices.ravel(), *ax.patches[0].get_bbox().extents])
    for other in patches[1:]:
        np.testing.assert_array_equal(other, patches[0])


def test_channels_with_nothing_in_them(ax):
    x = np.ones((3, 4), np.float32)
    x[1], x[2] = np.nan, 0
    plot.channel_ranges(x, ax=ax)
    plot.channel_ranges(np.zeros((0, 4)), ax=Figure().subplots())


# --- errors


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_curve_is_the_measured_error(ax, symmetric):
    x = weights() + np.float32(0.5)
    plot.error_by_threshold(x, dtype="int4", symmetric=symmetric, points=30, ax=ax)
    ends, errors = next(line for line in ax.lines if line.get_label() == "both").get_data()
    low, high = min(float(x.min()), 0), max(float(x.max()), 0)
    for end, error in list(zip(ends, errors, strict=True))[::12]:
        share = end / max(-low, high)
        params = qn.QParams.from_range(low * share, high * share, dtype="int4", symmetric=symmetric)
        # the histogram's bins are 1/128 of a value wide, a tenth of a step at most
        assert error == pytest.approx(qn.compare(x, qn.quantize(x, params)).mse, rel=0.03)
    parts = [
        next(line for line in ax.lines if line.get_label() == name).get_ydata() for name in ("rounding", "clipping")
    ]
    np.testing.assert_allclose(parts[0] + parts[1], errors, rtol=1e-12)
    assert parts[0][-1] == pytest.approx(errors[-1], rel=0.05)  # nothing is clipped where the range holds all


def test_marks_stand_where_the_methods_chose(ax):
    x = weights()
    plot.error_by_threshold(x, ["minmax", "mse"], dtype="int4", points=30, ax=ax)
    marks = {line.get_label().partition(":")[0]: line.get_xdata()[0] for line in lines(ax, "None")}
    observer = qn.HistogramObserver(dtype="int4").observe(x)
    assert marks == pytest.approx({method: 7 * float(observer.qparams(method).scale) for method in ("minmax", "mse")})
    ends, errors = next(line for line in ax.lines if line.get_label() == "both").get_data()
    assert marks["mse"] == pytest.approx(ends[errors.argmin()], rel=0.1)


def test_bits_are_measured(ax):
    x = weights()
    plot.error_by_bits(x, ["minmax", "mse"], dtypes=["int4", "int8"], granularity=qn.PerChannel(0), name="w", ax=ax)
    for line in lines(ax, "-"):
        for bits, sqnr in zip(*line.get_data(), strict=True):
            observer = qn.HistogramObserver(dtype=f"int{bits}", granularity=qn.PerChannel(0)).observe(x)
            assert sqnr == qn.compare(x, qn.quantize(x, observer.qparams(line.get_label()))).sqnr_db
    assert labels(ax) == ["minmax", "mse", "6.02 dB a bit"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["int4", "int8"]


@pytest.mark.parametrize("x", [
    np.zeros(50), np.full(9, 3.0), np.full(9, -1.0), np.array([2.5]), np.array([1e-42, -1e-45]), np.float16([6e4]),
    np.array([np.nan, np.inf, 1, -1]), np.append(np.linspace(-1, 1, 999), 1e30),
], ids=["zeros", "one value", "negative", "one", "subnormal", "float16", "not finite", "outlier"])  # fmt: skip
@pytest.mark.parametrize("draw", [plot.histogram, plot.channel_ranges, plot.error_by_threshold, plot.error_by_bits])
def test_data_of_every_kind_can_be_drawn(draw, x, ax):
    draw(x, ax=ax)
    ax.figure.canvas.draw()  # warnings are errors


def test_types_of_the_same_width_stand_side_by_side(ax):
    names = ["int8", "uint4", "float8_e4m3fn", "int4", "uint8", "int16", "int8"]
    plot.error_by_bits(weights(), ["minmax", "mse"], dtypes=names, ax=ax)
    ticks = dict(zip([text.get_text() for text in ax.get_xticklabels()], ax.get_xticks().tolist(), strict=True))
    assert list(ticks) == ["uint4", "int4", "int8", "float8_e4m3fn", "uint8", "int16"]
    places = np.array(list(ticks.values()))
    assert np.diff(places).min() > 0.5
    assert np.abs(places - [4, 4, 8, 8, 8, 16]).max() < 1
    for line in lines(ax, "-"):
        assert line.get_xdata().tolist() == places.tolist()
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert len({line.get_marker() for line in lines(ax, "-")}) == 2
    assert len(boxes) == 6


def test_types_without_an_error_are_shown(ax):
    plot.error_by_bits(np.float32([2.5]), ax=ax)
    assert labels(ax)[-1] == "at the top: no error"


# --- errors of arguments


X = np.array([1.0, -2.0])
CHANNELS = qn.QParams([1.0, 1.0], 0, granularity=qn.PerChannel(0))
WRONG = {
    "histogram: resolution must be at least 1; got 0.": (ValueError, lambda: plot.histogram(X, resolution=0)),
    "histogram: qparams must be a QParams, or a mapping from names to QParams; got 3.": (
        TypeError,
        lambda: plot.histogram(X, 3),
    ),
    "histogram: qparams must be per tensor; got per channel 0.": (
        ValueError,
        lambda: plot.histogram(X, {"a": CHANNELS}),
    ),
    "channel_ranges: outlier must be positive; got 0.": (ValueError, lambda: plot.channel_ranges(X, outlier=0)),
    "channel_ranges: x must be an observer per channel; got per tensor.": (
        ValueError,
        lambda: plot.channel_ranges(qn.MinMaxObserver().observe(X)),
    ),
    "channel_ranges: axis must be in [-1, 0]; got 1.": (ValueError, lambda: plot.channel_ranges(X, 1)),
    "error_by_threshold: x must be an observer per tensor; got per channel 0.": (
        ValueError,
        lambda: plot.error_by_threshold(qn.HistogramObserver(granularity=qn.PerChannel(0)).observe(X)),
    ),
    "error_by_bits: dtypes must be one code type or more; got none.": (
        ValueError,
        lambda: plot.error_by_bits(X, dtypes=[]),
    ),
    "histogram: x must be finite somewhere; got nothing, or only NaN and infinities.": (
        qn.CalibrationError,
        lambda: plot.histogram(X[:0]),
    ),
    "error_by_threshold: x must be finite somewhere; got nothing, or only NaN and infinities.": (
        qn.CalibrationError,
        lambda: plot.error_by_threshold(X * np.nan),
    ),
    "error_by_threshold: points must be at least 2; got 1.": (ValueError, lambda: plot.error_by_threshold(X, points=1)),
}


@pytest.mark.parametrize("message", WRONG)
def test_messages(message):
    exception, call = WRONG[message]
    with pytest.raises(exception) as caught:
        call()
    assert str(caught.value) == message
    assert pyplot.get_fignums() == []  # refused before anything is drawn


def test_bits_of_rows_are_measured(ax):
    x = weights()
    plot.error_by_bits(x, ["percentile"], granularity=qn.PerRow(), ax=ax)
    (line,) = lines(ax, "-")
    measured = [
        qn.compare(x, qn.quantize(x, qn.choose_qparams(x, dtype=f"int{bits}", granularity=qn.PerChannel(0),
                                                       method="percentile"))).sqnr_db
        for bits in line.get_xdata()
    ]  # fmt: skip
    assert line.get_ydata().tolist() == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize(("x", "options", "message"), [
    (X[:0], {}, "error_by_bits: x must be finite somewhere; got nothing, or only NaN and infinities."),
    (X * np.nan, {}, "error_by_bits: x must be finite somewhere; got nothing, or only NaN and infinities."),
    (X, {"methods": ["best"]},
     "error_by_bits: methods must be one of 'minmax', 'mse', 'entropy', 'percentile'; got 'best'."),
    (X, {"granularity": qn.PerChannel(1)}, "error_by_bits: axis must be in [-1, 0]; got 1."),
    (X, {"dtypes": ["float8_e5m2"], "symmetric": False},
     "error_by_bits: symmetric must be True for float8_e5m2, which has no zero point; got False."),
], ids=["empty", "nan", "method", "axis", "scheme"])  # fmt: skip
def test_bits_of_what_cannot_be_measured(x, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plot.error_by_bits(x, **options)


def test_bits_of_no_type():
    with pytest.raises(TypeError, match=r"^error_by_bits: dtype must be int8, .*; got 'int9'\.$"):
        plot.error_by_bits(X, dtypes=["int9"])


@pytest.mark.parametrize("draw", [plot.histogram, plot.channel_ranges, plot.error_by_threshold, plot.error_by_bits])
def test_data_that_is_not_real(draw):
    with pytest.raises(TypeError, match=rf"^{draw.__name__}: x must be an array of float32"):
        draw(np.arange(3))
    assert pyplot.get_fignums() == []


# --- without matplotlib


def test_importing_does_not_load_matplotlib():
    script = "import sys, qnumpy.plot, qnumpy.cli; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_backend_is_needed_to_draw_into_axes():
    script = (
        "import sys, numpy as np; from matplotlib.figure import Figure; from qnumpy import plot;"
        "plot.channel_ranges(np.eye(3), ax=Figure().subplots()); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
