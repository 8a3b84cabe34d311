"""What operators cost in onnxruntime in each form: measured constants, and a measurement of whole models.

The constants are of one thread of a CPU with VNNI (Zen 4), onnxruntime 1.32; ``python -m
benchmarks.onnx.operator_forms`` measures them again and prints them beside these. Only their ratios matter: they decide
which layers gain by int8 and where a change between float32 and int8 pays.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["Cost", "compute_cost", "interleaved", "other_cost"]


class Cost(NamedTuple):
    """Nanoseconds of one run of a node: in float32, and in int8 with quantized inputs and output."""

    float32: float
    int8: float


# Multiply-adds in a nanosecond. A convolution in float32 runs in blocks of channels (NCHWc) that int8 lacks: int8 gathers
# patches, which dominates below 16 channels. Depthwise convolutions are slower in int8.
FLOAT_DENSE, INT8_DENSE = 57.0, 215.0
FLOAT_NARROW, INT8_NARROW = 26.0, 18.0
FLOAT_DEPTHWISE, INT8_DEPTHWISE = 36.0, 45.0
NARROW = 16  # channels of a group
FLOAT_LINE, INT8_LINE = 11.0, 100.0  # convolutions over one axis have no blocks in float32
FLOAT_LINE_DEPTHWISE, INT8_LINE_DEPTHWISE = 4.0, 13.0
FLOAT_ONE_ROW, INT8_ONE_ROW = 11.0, 40.0  # a product of one row reads the weight once

# Nanoseconds an element.
REQUANTIZE = 0.1  # int32 sums to int8 codes
DEPTHWISE_INT8 = 0.35  # gathering of patches, beside the products
QUANTIZE = 0.24  # float32 to int8, with the change of layout of images
DEQUANTIZE = 0.24
ELEMENTWISE: dict[str, Cost] = {
    "Add": Cost(0.45, 0.38),
    "Mul": Cost(0.45, 0.38),
    "Sigmoid": Cost(0.30, 0.25),
    "LeakyRelu": Cost(0.10, 0.25),
    "Concat": Cost(0.20, 0.10),
    "MaxPool": Cost(0.35, 0.35),
    "AveragePool": Cost(0.35, 0.45),
    "GlobalAveragePool": Cost(0.05, 0.12),
}
NODE = 2_000.0  # of a node in int8, beside its work: small layers gain nothing


def compute_cost(
    macs: float, outputs: float, channels: int, filters: int, rows: float, *, depthwise: bool, line: bool = False
) -> Cost:
    """Return the cost of a convolution or a product with a constant weight.

    Parameters
    ----------
    macs, outputs : float
        Multiply-adds, and elements of the output.
    channels, filters : int
        Inputs that one output channel sees at a position; output channels of a group.
    rows : float
        Positions, or rows of the left matrix.
    depthwise : bool
    line : bool, default False
        Whether a convolution runs over one axis.

    Returns
    -------
    Cost
    """
    if line:
        fast, slow = (INT8_LINE_DEPTHWISE, FLOAT_LINE_DEPTHWISE) if depthwise else (INT8_LINE, FLOAT_LINE)
        return Cost(macs / slow, macs / fast + REQUANTIZE * outputs + NODE)
    if depthwise:
        return Cost(macs / FLOAT_DEPTHWISE, macs / INT8_DEPTHWISE + DEPTHWISE_INT8 * outputs + NODE)
    if channels < NARROW or filters < NARROW // 2:
        return Cost(macs / FLOAT_NARROW, macs / INT8_NARROW + REQUANTIZE * outputs + NODE)
    if rows < 4:
        return Cost(macs / FLOAT_ONE_ROW, macs / INT8_ONE_ROW + REQUANTIZE * outputs + NODE)
    return Cost(macs / FLOAT_DENSE, macs / INT8_DENSE + REQUANTIZE * outputs + NODE)


def other_cost(op_type: str, elements: float) -> Cost:
    """Return the cost of an operator without a weight; one that only moves codes costs the same in both forms."""
    cost = ELEMENTWISE.get(op_type)
    return Cost(0.0, 0.0) if cost is None else Cost(cost.float32 * elements, cost.int8 * elements + NODE)


def interleaved(
    runs: Sequence[Callable[[], Any]], *, seconds: float = 1.0, least: int = 5, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the shortest time of each function, called in turn so that all meet the same disturbances.

    Parameters
    ----------
    runs : sequence of callable
    seconds : float, default 1.0
        For each function, about.
    least : int, default 5
        Rounds at least.
    clock : callable

    Returns
    -------
    list of float
        Seconds.
    """  # fmt: skip
    best = [float("inf")] * len(runs)
    for run in runs:
        run()  # the first call allocates
    end, rounds = clock() + seconds * len(runs), 0
    while rounds < least or clock() < end:
        for i, run in enumerate(runs):
            start = clock()
            run()
            best[i] = min(best[i], clock() - start)
        rounds += 1
    return best
