"""``qnumpy demo``: quantize a small real classifier that is part of the package.

Each step is a function that takes the model and returns text; STEPS has them in the order of the demo. ``--full`` walks
the steps of `guide`.
"""

import argparse
from collections.abc import Callable

from ..arrays.quantized import quantize
from ..granularity import Granularity, PerChannel, PerGroup
from ..reports.compare import ReportTable, compare
from . import guide
from .common import FINE, Commands, add_command
from .digits import Digits, load
from .streams import show

__all__ = ["STEPS", "Digits", "load"]

SCHEMES: tuple[tuple[str, Granularity], ...] = (("int8", PerChannel(0)), ("int4", PerGroup(32)))


def quantized_weights(digits: Digits) -> str:
    """Quantize the weights, compare them with the originals, and count correct scores before and after."""
    total = len(digits.labels)
    tables, scores = [], [("float32", digits.correct(digits.weights))]
    for dtype, granularity in SCHEMES:
        quantized = {name: quantize(w, dtype=dtype, granularity=granularity) for name, w in digits.weights.items()}
        tables.append(str(ReportTable(compare(digits.weights[name], q, name=name) for name, q in quantized.items())))
        scores.append((f"{dtype} {granularity.describe()}", digits.correct(quantized)))
    width = max(len(scheme) for scheme, _ in scores)
    lines = [
        f"{scheme:<{width}}  {correct} of {total} images right, {correct / total:.1%}" for scheme, correct in scores
    ]
    return "\n\n".join([*tables, "\n".join(lines)])


STEPS: tuple[tuple[str, Callable[[Digits], str]], ...] = (
    ("The weights of a classifier of handwritten digits, before and after", quantized_weights),
)


def add(commands: Commands) -> None:
    text = "Quantize a small classifier that comes with qnumpy and show what it costs."
    parser = add_command(commands, "demo", run, text)
    parser.add_argument(
        "--full", action="store_true",
        help="walk six steps from the float model to training at 2 bits; takes some seconds",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print every step."""
    digits = load()
    if args.full:
        for text in guide.texts(digits):
            show(f"{text}\n")
    else:
        show("\n\n".join(f"{title}\n\n{step(digits)}" for title, step in STEPS))
    return FINE
