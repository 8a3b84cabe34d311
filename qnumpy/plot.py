"""Pictures of ranges and errors, with matplotlib (the extra ``plot``).

Every function draws into `ax`, or into a new figure, and returns the Axes. It shows no window and changes no global
setting. Names stand as they are in titles and legends: `$` begins no formula, `_` hides nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import _args, _check
from ._tables import printable
from ._typing import Array, DType, Method, RealLike
from .arrays.quantized import quantize
from .calibration.estimate import Estimate, expected, share_below
from .errors import CalibrationError
from .granularity import Granularity, PerChannel, PerTensor, normalize_axis
from .observers import HistogramObserver, Observer
from .ops.histogram import CHOICES, Bins, Sketch
from .ops.reduce import ranges
from .qparams import QParams, check_scheme
from .reports.compare import compare

__all__ = ["METHODS", "channel_ranges", "error_by_bits", "error_by_threshold", "histogram", "operator_errors"]

METHODS: tuple[Method, ...] = ("minmax", *HistogramObserver.methods)

# Okabe and Ito's palette: distinct colors also for color-blind readers.
_COLORS = {"minmax": "#555555", "percentile": "#E69F00", "entropy": "#009E73", "mse": "#D55E00"}
_MORE = ("#0072B2", "#CC79A7", "#56B4E9", "#F0E442")
_FILL, _ALARM = "#9DB7D5", "#D55E00"
_MARKERS = "osD^vP"
_NAMED = 5  # outliers that are labelled
_THIN = 0.01  # of the width of the picture: narrower data is one bar of this width
_LONG = 32  # characters of the name of an operator
_APART = 0.6  # bits between the places of types of the same width
_LITERAL = {"parse_math": False, "usetex": False}  # of a text that holds names


def histogram(
    x: RealLike | HistogramObserver,
    qparams: QParams | Mapping[str, QParams] | None = None,
    *,
    resolution: int = 120,
    name: str = "",
    ax: Any = None,
) -> Any:
    """Draw the distribution of the values, the ends of the range of the parameters, and the share that is clipped.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or HistogramObserver
    qparams : QParams or mapping of str to QParams, optional
        The parameters whose ends are drawn, per tensor, by name. By default those of the observer, or int8 by "mse".
    resolution : int, default 120
        Bars across the picture.
    name : str, optional
        The name of the data in the title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        resolution is no integer.
    ValueError
        resolution is below 1.
    TypeError
        x is not real.
    TypeError
        qparams is neither QParams nor a mapping of them.
    ValueError
        qparams is not per tensor.
    CalibrationError
        x has no finite element.

    Notes
    -----
    Counts are on a logarithmic axis, because the clipped elements are in the tails. An element is clipped if it lies
    more than half a step outside the range.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = histogram(np.linspace(-1, 1, 1000), QParams.from_range(-0.5, 0.5), ax=Figure().subplots())
    >>> ax.get_legend().get_texts()[0].get_text()
    '-0.5 to 0.5, 49.8 % clipped'
    """
    owner = "histogram"
    if _check.integer(owner, "resolution", resolution) < 1:
        raise ValueError(_check.must(owner, "resolution", "at least 1", str(resolution)))
    observer = _observer(owner, x)
    if qparams is None:
        qparams = {observer.method: observer.qparams()}
    named = {"": qparams} if isinstance(qparams, QParams) else qparams
    _per_tensor(owner, named)
    bins = observer.sketch.bins()
    edges = _edges(bins, [float(end) for params in named.values() for end in params.range()], resolution)
    bars = _rebinned(bins, edges)
    ax = _axes(ax)
    legend: dict[Any, str] = {}
    ax.stairs(bars, edges, fill=True, color=_FILL)
    ax.set_yscale("log")
    peak = max(float(bars.max()), 1.0)
    ax.set_ylim(0.5, peak * (2 * peak) ** (0.1 + 0.1 * len(named)))  # room for the legend
    for k, (label, params) in enumerate(named.items()):
        ends = [float(end) for end in params.range()]
        share = _cost(bins, params).clipped
        color = _color(label, k)
        text = f"{label + ': ' if label else ''}{ends[0]:.3g} to {ends[1]:.3g}, {_percent(share)} clipped"
        legend[ax.axvline(ends[0], color=color, linestyle="--", linewidth=1.4, label=text)] = text
        ax.axvline(ends[1], color=color, linestyle="--", linewidth=1.4)
    types = dict.fromkeys(params.code.name for params in named.values())
    _finish(ax, [_subject(name or "Values", x), *types], "value", "elements in a bin")
    _legend(ax, "upper left", legend)
    return ax


def channel_ranges(
    x: RealLike | Observer, axis: int = 0, *, outlier: float = 3.0, name: str = "", ax: Any = None
) -> Any:
    """Draw the range of every channel, the widest to the right, and mark those far wider than the rest.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or Observer per channel
    axis : int, default 0
        The axis of the channels of an array.
    outlier : float, default 3
        A channel is marked when its largest magnitude is more than this many times the median channel's.
    name : str, optional
        The name of the data in the title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        outlier is not positive.
    ValueError
        The observer is not per channel.
    CalibrationError
        The observer has a channel without a finite element.
    TypeError
        x is not real.
    TypeError
        axis is no integer.
    ValueError
        axis is none of x's.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> w = np.ones((8, 4))
    >>> w[5] = 100
    >>> ax = channel_ranges(w, ax=Figure().subplots())
    >>> ax.get_legend().get_texts()[0].get_text()
    '1 of 8 above 3 times the median: 5'
    """
    owner = "channel_ranges"
    if not outlier > 0:
        raise ValueError(_check.must(owner, "outlier", "positive", _check.typed(outlier)))
    if isinstance(x, Observer):
        if not isinstance(x.granularity, PerChannel):
            raise ValueError(_check.must(owner, "x", "an observer per channel", x.granularity.describe()))
        low, high = x.range()
    else:
        source, _ = _args.real(owner, "x", x)
        along = normalize_axis(owner, _check.integer(owner, "axis", axis), source.ndim)
        low, high, _, _ = ranges(owner, source, PerChannel(along))
    finite = low <= high  # at least one element of the channel
    low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
    widest = np.maximum(-low, high)
    order = np.argsort(widest, kind="stable")
    median = float(np.median(widest)) if widest.size else 0.0
    marked = widest[order] > outlier * median
    place = np.arange(len(order))
    low, high = low[order], high[order]
    ax = _axes(ax)
    # the outline shows a channel whose values are equal
    last = slice(len(order) - 1, None)
    ends = np.append(place, len(order)) - 0.5
    ax.fill_between(ends, np.append(low, low[last]), np.append(high, high[last]), step="post", color=_FILL, linewidth=1)
    if marked.any():
        worst = ", ".join(map(str, order[marked][::-1][:_NAMED])) + (", ..." if marked.sum() > _NAMED else "")
        text = f"{int(marked.sum())} of {len(order)} above {outlier:g} times the median: {worst}"
        width = max(1.0, len(order) / 300)  # of a bar: at least a pixel
        bars = ax.bar(place[marked], (high - low)[marked], width, low[marked], color=_ALARM, linewidth=1, label=text)
        for bar in bars:
            bar.sticky_edges.y.clear()  # else a bar without height lies under the edge of the picture
    ax.axhline(0, color="#555555", linewidth=0.8)
    if isinstance(x, Observer):
        title = [name or "Channels", f"{x.dtype} {x.granularity.describe()}"]
    else:
        title = [_subject(name or "Channels", x), f"axis {axis}"]
    _finish(ax, title, "channels, sorted by largest magnitude", "smallest to largest value")
    ax.margins(x=0.02, y=0.08)
    if marked.any():
        _legend(ax, "upper left")
    return ax


def error_by_threshold(
    x: RealLike | HistogramObserver,
    methods: Sequence[Method] = METHODS,
    *,
    dtype: DType = "int8",
    symmetric: bool = True,
    points: int = 160,
    name: str = "",
    ax: Any = None,
) -> Any:
    """Draw the squared error against the end of the range: rounding, clipping, their sum, and the methods' choices.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or HistogramObserver
        An observer's dtype and symmetric replace the arguments.
    methods : sequence of str, default minmax, percentile, entropy, mse
        The methods whose choices are marked on the curve.
    dtype : str or dtype, default "int8"
    symmetric : bool, default True
    points : int, default 160
        Points of the curve for a factor of four in the threshold.
    name : str, optional
        The name of the data in the title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        points is no integer.
    ValueError
        points is below 2.
    TypeError
        x is not real.
    TypeError
        dtype is no code type.
    ValueError
        symmetric is False for codes that are floats.
    ValueError
        The observer is not per tensor.
    CalibrationError
        x has no finite element.
    ValueError
        A method is unknown.

    Notes
    -----
    Estimated from a histogram of x, with values spread evenly inside a bin. Symmetric: the threshold is the end of the
    range. Affine: both ends shrink together, and the threshold is the larger one.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> x = np.random.default_rng(0).normal(size=10_000)
    >>> ax = error_by_threshold(x, ["mse"], dtype="int4", ax=Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['both', 'rounding', 'clipping', 'mse: 2.41, 19.0 dB']
    """
    owner = "error_by_threshold"
    if _check.integer(owner, "points", points) < 2:
        raise ValueError(_check.must(owner, "points", "at least 2", str(points)))
    observer = _observer(owner, x, dtype=dtype, symmetric=symmetric)
    if observer.granularity != PerTensor():
        raise ValueError(_check.must(owner, "x", "an observer per tensor", observer.granularity.describe()))
    dtype, symmetric = observer.dtype, observer.symmetric
    bins = observer.sketch.bins()
    first, last = min(float(observer.min_), 0.0), max(float(observer.max_), 0.0)
    widest = max(-first, last)
    shares = np.geomspace(0.005, 1, 4 * points)
    candidates = (
        QParams.from_range(first * share, last * share, dtype=dtype, symmetric=symmetric) for share in shares.tolist()
    )
    total, rounding = np.array([_error_and_rounding(bins, params) for params in candidates]).T
    marks = []
    for method in methods:
        params = observer.qparams(method)
        marks.append((method, max(abs(float(end)) for end in params.range()), _cost(bins, params)))
    # farther left the curve is steep, and its error is clipping alone
    is_visible = (total < 40 * total.min()) | (
        shares * widest >= 0.9 * min((end for _, end, _ in marks), default=widest)
    )
    near = slice(int(is_visible.argmax()), None)
    ends, total, rounding = shares[near] * widest, total[near], rounding[near]
    ax = _axes(ax)
    ax.plot(ends, total, color="black", linewidth=1.8, label="both")
    ax.plot(ends, rounding, color="#0072B2", linewidth=1.2, linestyle=":", label="rounding")
    ax.plot(ends, total - rounding, color="#CC79A7", linewidth=1.2, linestyle=":", label="clipping")
    for k, (method, end, cost) in enumerate(marks):
        text = f"{method}: {end:.3g}, {cost.sqnr_db:.1f} dB"
        marker = _MARKERS[k % len(_MARKERS)]
        ax.plot([end], [cost.mse], marker, color=_color(method, k), label=text, zorder=3)
    if total.min() > 0:  # 0 without an error, which a logarithmic axis cannot show
        ax.set_yscale("log")
        ax.set_ylim(total.min() / 10, 1.5 * total.max())
    _finish(ax, [_subject(name or "Error", x), dtype], "largest value with a code", "mean squared error")
    _legend(ax, "best")
    return ax


def error_by_bits(
    x: RealLike,
    methods: Sequence[Method] = METHODS,
    *,
    dtypes: Sequence[DType] = ("int2", "int4", "int8", "int16"),
    granularity: Granularity | None = None,
    symmetric: bool = True,
    name: str = "",
    ax: Any = None,
) -> Any:
    """Draw the signal-to-quantization-noise ratio of every method against the bits of a code.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
    methods : sequence of str, default minmax, percentile, entropy, mse
    dtypes : sequence of str or dtype, default int2, int4, int8, int16
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool, default True
    name : str, optional
        The name of the data in the title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        x is not real.
    TypeError
        granularity is no granularity.
    ValueError
        granularity does not fit x.
    TypeError
        A dtype is no code type.
    ValueError
        symmetric is False for codes that are floats.
    ValueError
        A method is unknown.
    CalibrationError
        x has no finite element.

    Notes
    -----
    Measured: x is quantized with each method and dtype. An ideal quantizer gains 6.02 dB with every bit; the dotted
    line has that slope.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> x = np.random.default_rng(0).normal(size=1000)
    >>> ax = error_by_bits(x, ["minmax", "mse"], ax=Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['minmax', 'mse', '6.02 dB a bit']
    """
    owner = "error_by_bits"
    source, float_type = _args.real(owner, "x", x)
    granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
    granularity.check(owner, source.shape)
    codes = list({code.name: code for code in (_args.code(owner, dtype) for dtype in dtypes)}.values())
    if not codes:
        raise ValueError(_check.must(owner, "dtypes", "one code type or more", "none"))
    for code in codes:
        check_scheme(owner, code, symmetric)
    for method in methods:
        _args.choice(owner, "methods", method, CHOICES)
    codes.sort(key=lambda code: code.bits)
    sketch = Sketch.of(source, float_type, granularity)
    if not sketch.finite.all():
        raise _nothing(owner)
    sqnrs: dict[Method, list[float]] = {method: [] for method in methods}
    for code in codes:
        for method in methods:
            low, high, _ = sketch.search(code, symmetric=symmetric, method=method)
            params = QParams.from_range(low, high, dtype=code.name, symmetric=symmetric, granularity=granularity)
            sqnr = compare(source, quantize(source, params)).sqnr_db
            sqnrs[method].append(np.nan if sqnr is None else sqnr)
    bits = np.array([code.bits for code in codes])
    places = _places(bits)
    ax = _axes(ax)
    for k, (method, values) in enumerate(sqnrs.items()):
        style = f"{_MARKERS[k % len(_MARKERS)]}-"
        ax.plot(places, values, style, color=_color(method, k), label=method, linewidth=1.5, markersize=5)
    finite = [value for values in sqnrs.values() for value in np.extract(bits == bits[0], values) if np.isfinite(value)]
    if finite:
        slope = 20 * np.log10(2)
        ax.plot(bits, max(finite) + slope * (bits - bits[0]), ":", color="black", linewidth=1, label="6.02 dB a bit")
    exact = places[np.isposinf([*sqnrs.values()]).any(axis=0)]
    if exact.size:
        top = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(exact, np.ones(exact.size), "k*", label="at the top: no error", **top)
    tilted = {} if places is bits else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, [code.name for code in codes], **tilted)
    title = [_subject(name or "Error", x), granularity.describe(), "symmetric" if symmetric else "affine"]
    _finish(ax, title, "type of the codes", "SQNR in dB (higher is better)")
    if sqnrs:
        _legend(ax, "best")
    return ax


def operator_errors(rows: Iterable[Any], *, most: int = 20, name: str = "", ax: Any = None) -> Any:
    """Draw the error of the operators of a model, the worst at the top: alone, in the whole model, and at best.

    Parameters
    ----------
    rows : Comparison
        What `qnumpy.onnx.compare` returned.
    most : int, default 20
        Operators drawn.
    name : str, optional
        The name of the model in the title.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        most is no integer.
    ValueError
        most is below 1.
    TypeError
        rows is no comparison of operators.
    ValueError
        There is no row.

    Notes
    -----
    A bar spans from the error of the operator alone to what the best ranges of its tensors would reach. An operator
    without an error stands at the right end.

    Examples
    --------
    >>> data = [np.zeros((1, 64), np.float32)]
    >>> axes = operator_errors(qn.onnx.compare("model.onnx", "int8.onnx", data))  # doctest: +SKIP
    """
    owner = "operator_errors"
    if _check.integer(owner, "most", most) < 1:
        raise ValueError(_check.must(owner, "most", "at least 1", str(most)))
    listed = list(rows) if isinstance(rows, Iterable) else [rows]
    if not all(hasattr(row, "sqnr_db") and hasattr(row, "cumulative_db") for row in listed):
        raise TypeError(_check.must(owner, "rows", "what qnumpy.onnx.compare returned", _check.typed(rows)))
    if not listed:
        raise ValueError(_check.must(owner, "rows", "a comparison of one operator or more", "none"))
    drawn = sorted(listed, key=lambda row: row.sqnr_db)[:most]
    figures = [value for row in drawn for value in (row.sqnr_db, row.cumulative_db, row.best_db) if value is not None]
    finite = [value for value in figures if np.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    pad = 0.05 * max(high - low, 1.0)

    def place(value: float) -> float:
        return float(np.clip(value, low - pad, high + pad))

    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(7, 1.2 + 0.28 * len(drawn)), layout="constrained")[1]
    heights = np.arange(len(drawn))
    local, cumulative = ([place(getattr(row, field)) for row in drawn] for field in ("sqnr_db", "cumulative_db"))
    best = [place(row.sqnr_db if row.best_db is None else row.best_db) for row in drawn]
    ax.hlines(heights, local, best, color=_FILL, linewidth=6, label="to gain by better ranges")
    ax.plot(local, heights, "o", color=_MORE[0], markersize=6, label="the operator alone")
    ax.plot(cumulative, heights, "D", color=_ALARM, markersize=5, label="in the whole model")
    shown = [printable(row.name if len(row.name) <= _LONG else f"...{row.name[3 - _LONG :]}") for row in drawn]
    ax.set_yticks(heights)
    for label, text in zip(ax.set_yticklabels([""] * len(shown)), shown, strict=True):
        label.set(text=text, **_LITERAL)
    ax.yaxis.set_major_formatter(lambda _, i: shown[i] if i is not None and i < len(shown) else "")
    ax.invert_yaxis()
    rest = f", the worst {len(drawn)} of {len(listed)} operators" if len(listed) > len(drawn) else ""
    _finish(ax, [f"{name or 'Errors of operators'}{rest}"], "SQNR in dB (higher is better)", "")
    _legend(ax, "best")
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7, 4), layout="constrained")[1]


def _subject(name: str, x: Any) -> str:
    """Return the name of the data with its type; an observer does not know the type of its data."""
    return name if isinstance(x, Observer) else f"{name} ({np.asarray(x).dtype.name})"


def _finish(ax: Any, title: Iterable[str], x: str, y: str) -> None:
    ax.set_title(printable(", ".join(title)), loc="left", **_LITERAL)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)


def _legend(ax: Any, corner: str, named: Mapping[Any, str] | None = None) -> None:
    """Add the legend of all artists with labels; `named` have names of the caller in theirs, which are shown as is."""
    named = named or {}
    entries = [entry for entry in zip(*ax.get_legend_handles_labels(), strict=True) if entry[0] not in named]
    artists, labels = [artist for artist, _ in entries], [label for _, label in entries]
    if not (entries or named):
        return
    # matplotlib leaves out artists whose label begins with "_": their texts are set afterwards
    legend = ax.legend(
        [*artists, *named], [*labels, *["name"] * len(named)],
        loc=corner, framealpha=0.85, edgecolor="none", fontsize="small",
    )  # fmt: skip
    for text, label in zip(legend.get_texts()[len(labels) :], named.values(), strict=True):
        text.set(text=printable(label), **_LITERAL)


def _color(label: str, k: int) -> str:
    return _COLORS.get(label, _MORE[k % len(_MORE)])


def _percent(share: float) -> str:
    return "none" if share == 0 else "<0.001 %" if share < 1e-5 else f"{100 * share:.3g} %"


def _cost(bins: Bins, params: QParams) -> Estimate:
    return expected(*bins[:3], params.scale, params.zero_point, params.qmin, params.qmax, params.code.real)


def _error_and_rounding(bins: Bins, params: QParams) -> tuple[float, float]:
    """Return the mean squared error, and the part of it that arises inside the range."""
    whole = _cost(bins, params)
    first, last = params.range()
    inside = share_below(bins.low, bins.high, last) - share_below(bins.low, bins.high, first)
    low, high = np.clip(bins.low, first, last), np.clip(bins.high, first, last)
    rounding = _cost(Bins(low, high, bins.counts * inside, bins.parameter), params)
    return whole.mse, rounding.noise / whole.elements


def _per_tensor(owner: str, named: Any) -> None:
    values = named.values() if isinstance(named, Mapping) else [named]
    for params in values:
        if not isinstance(params, QParams):
            wanted = "a QParams, or a mapping from names to QParams"
            raise TypeError(_check.must(owner, "qparams", wanted, _check.typed(params)))
        if params.scale.ndim:
            raise ValueError(_check.must(owner, "qparams", "per tensor", params.granularity.describe()))


def _edges(bins: Bins, ends: list[float], resolution: int) -> Array:
    """Return the edges of the bars: of one, if the data is so narrow beside the range that it would not be seen."""
    low, high = float(bins.low.min()), float(bins.high.max())
    width = _THIN * (max(high, *ends, -np.inf) - min(low, *ends, np.inf)) or abs(low) or 1.0
    if high - low >= width:
        return np.linspace(low, high, resolution + 1)
    center = low + (high - low) / 2
    return np.array([center - width / 2, center + width / 2])


def _places(bits: Array) -> Array:
    """Return where the types of these rising bits stand: types of the same bits beside one another."""
    _, first, count = np.unique(bits, return_index=True, return_counts=True)
    if (count == 1).all():
        return bits
    within = np.arange(len(bits)) - np.repeat(first, count)
    return bits + _APART * (within - (np.repeat(count, count) - 1) / 2)


def _rebinned(bins: Bins, edges: Array) -> Array:
    """Return the elements between neighbouring edges, which enclose all bins; bins are spread evenly."""
    below = [float(bins.counts @ share_below(bins.low, bins.high, edge)) for edge in edges[1:-1].tolist()]
    return np.diff([0, *below, bins.counts.sum()])


def _observer(owner: str, x: Any, **options: Any) -> HistogramObserver:
    """Return x if it is an observer, else an observer of the array."""
    if isinstance(x, HistogramObserver):
        return x
    source, _ = _args.real(owner, "x", x)
    observer = HistogramObserver(**options).observe(source)
    if not (source.size and observer.count_.any()):
        raise _nothing(owner)
    return observer


def _nothing(owner: str) -> CalibrationError:
    return CalibrationError(_check.must(owner, "x", "finite somewhere", "nothing, or only NaN and infinities"))
