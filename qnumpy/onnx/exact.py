"""Whether integer products of a model are exact: here in onnxruntime, and on CPUs that add saturating pairs."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto

from .. import _check
from .._tables import NamedTable
from .._typing import Array
from ..calibration.calibrate import progress_bar
from ..errors import CalibrationError, FileFormatError
from ..reports.saturation import simulate_saturation
from ._files import read_model
from ._graph import Graph, attribute, node_name
from ._latency import interleaved
from ._products import MICROSOFT, Checked, Product, Runner, checked, optimized, plain_options, products
from ._taps import batches_of, feed_of
from .session import DOMAIN, run_batches, session

__all__ = ["Exactness", "ProductExactness", "check_exact"]

OPTION = "session.x64quantprecision"
_NBITS = "session.qdq_matmulnbits_accuracy_level"
_INT8_LEVEL = 4  # of MatMulNBits: activations are rounded to int8
# Operators with integer products inside, whose codes nobody sees, and where their weights are.
_INNER = {(MICROSOFT, "QAttention"): (1,), (MICROSOFT, "DynamicQuantizeLSTM"): (1, 2)}
_SECONDS = 0.3  # for each of the two sessions that are timed


class ProductExactness(NamedTuple):
    """How exact one operator is, over all batches.

    Attributes
    ----------
    name, op_type : str
        As onnxruntime runs it, after its fusions.
    outputs : int
        Elements that were compared; 0 where only the weight was looked at.
    wrong : int
        Outputs that are not what integer arithmetic gives, on this CPU.
    elsewhere : int
        Sums of products that a CPU with AVX2 and without VNNI would get wrong, by `simulate_saturation`.
    rounded : int
        Codes that are the other neighbour of the exact result: onnxruntime rounds the product of the scales to float32
        first. These are the same on every CPU that rounds as this one.
    unsafe, columns : int
        Output channels in which a pair can saturate for some input, of how many.
    largest : int
        Of the errors elsewhere, in units of the sums.
    note : str
    """

    name: str
    op_type: str
    outputs: int
    wrong: int
    elsewhere: int
    rounded: int
    unsafe: int
    columns: int
    largest: int
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a flat dict, ready for a data frame."""
        return self._asdict()


class Remedy(NamedTuple):
    """What onnxruntime's own option does to this model.

    Attributes
    ----------
    option : str
        "session.x64quantprecision", to be set to "1": constant int8 weights become uint8, whose products cannot
        saturate.
    works : bool
        Whether onnxruntime loads the model with it.
    wrong, elsewhere : int
        As in the table, with the option.
    slowdown : float
        Seconds of a run with the option by those without, on this CPU, interleaved.
    message : str
        What onnxruntime says, where it does not work.
    """

    option: str
    works: bool
    wrong: int
    elsewhere: int
    slowdown: float
    message: str


class Exactness(NamedTable[ProductExactness]):
    """The integer products of a model; text, JSON and HTML.

    Attributes
    ----------
    wrong, elsewhere, rounded, unsafe : int
        Sums over the rows.
    exact : bool
        Whether no output is wrong, here and elsewhere.
    proven : bool
        Whether no pair of products can saturate, whatever the inputs.
    floats : int
        Products of dequantized codes that onnxruntime computes in float.
    remedy : Remedy or None
        Measured where something is wrong, here or elsewhere, or could be.
    """

    _left = 2
    _last_left = True

    def __init__(self, rows: Iterable[ProductExactness], floats: int, remedy: Remedy | None) -> None:
        super().__init__(rows, ProductExactness, "rows")
        self.floats, self.remedy = floats, remedy

    @property
    def wrong(self) -> int:
        return sum(row.wrong for row in self)

    @property
    def elsewhere(self) -> int:
        return sum(row.elsewhere for row in self)

    @property
    def rounded(self) -> int:
        return sum(row.rounded for row in self)

    @property
    def unsafe(self) -> int:
        return sum(row.unsafe for row in self)

    @property
    def exact(self) -> bool:
        return not self.wrong and not self.elsewhere

    @property
    def proven(self) -> bool:
        return self.exact and not self.unsafe

    def _head(self) -> list[str]:
        return ["product", "operator", "outputs", "wrong here", "wrong elsewhere", "rounded", "unsafe columns", "note"]

    def _row(self, item: ProductExactness) -> list[str]:
        counts = [f"{n:,}" for n in (item.outputs, item.wrong, item.elsewhere, item.rounded)]
        return [item.name, item.op_type, *counts, f"{item.unsafe:,}/{item.columns:,}", item.note]

    def _foot(self) -> list[list[str]]:
        counts = (sum(row.outputs for row in self), self.wrong, self.elsewhere, self.rounded)
        columns = sum(row.columns for row in self)
        return [["all", "", *(f"{n:,}" for n in counts), f"{self.unsafe:,}/{columns:,}", ""]]

    def _about(self) -> dict[str, Any]:
        remedy = None if self.remedy is None else self.remedy._asdict()
        facts = {"exact": self.exact, "proven": self.proven, "wrong": self.wrong, "elsewhere": self.elsewhere}
        return {**facts, "rounded": self.rounded, "floats": self.floats, "remedy": remedy}

    def _sentences(self) -> list[str]:
        said = []
        if self.wrong:
            said.append(f"{self.wrong:,} outputs differ from integer arithmetic on this CPU.")
        if self.elsewhere:
            said.append(f"{self.elsewhere:,} sums of products would be wrong on CPUs with AVX2 and without VNNI.")
        elif self.unsafe:
            said.append(
                f"{self.unsafe:,} columns could saturate on CPUs with AVX2 and without VNNI; with these data none does."
            )
        if self.remedy is not None:
            said.append(_remedy_text(self.remedy))
        if self.rounded:
            said.append(
                f"{self.rounded:,} codes are rounded to the other neighbour: onnxruntime multiplies by a float32 scale."
            )
        if self.floats:
            said.append(f"{self.floats:,} products of dequantized codes run in float.")
        return said


def _remedy_text(remedy: Remedy) -> str:
    mend = "target_cpu='any' when the model is quantized gives weights that cannot saturate"
    if not remedy.works:
        cause = (
            "it cannot load a weight or a zero point that two products read"
            if "replace the existing" in remedy.message
            else remedy.message
        )
        return f"onnxruntime's option {remedy.option}=1 fails on this model: {cause}; {mend}."
    left = (
        f"{remedy.wrong:,} outputs are wrong here and {remedy.elsewhere:,} elsewhere"
        if remedy.wrong or remedy.elsewhere
        else "no output is wrong"
    )
    times = f"a run takes {remedy.slowdown:.2f} times as long here"
    return f"With onnxruntime's option {remedy.option}=1 {left}, and {times}; {mend}."


def check_exact(model: Any, data: Iterable[Any], *, measure: bool = True, progress: bool | None = None) -> Exactness:
    """Check the integer products of a model against integer arithmetic: here, and as other CPUs would compute them.

    The model is optimized by onnxruntime first, so that its fusions are checked too. Every MatMulInteger, ConvInteger,
    QLinearMatMul, QLinearConv, QGemm, MatMulIntegerToFloat and DynamicQuantizeMatMul then shows its codes and its
    outputs, which are compared with exact products of the same codes; operators of the domain "qnumpy" are compared
    with `ReferenceEvaluator`, bit for bit. The same codes go through `simulate_saturation`:
    CPUs with AVX2 and without VNNI add unsigned by signed products in pairs of int16.

    Parameters
    ----------
    model : path, bytes or ModelProto
        Of any program.
    data : iterable of dict of str to array, or of arrays
        No batch is kept but the first; the operands of all products are in memory for one batch.
    measure : bool, default True
        Load the model with ``session.x64quantprecision=1`` where something is or could be wrong, check it, and time it.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.

    Returns
    -------
    Exactness
        `exact` tells whether nothing is wrong, `proven` whether nothing can be for any data.

    Raises
    ------
    TypeError
        measure is neither True nor False.
    TypeError, FileFormatError
        model is no model.
    TypeError, ValueError
        A batch does not fit the model's inputs.
    CalibrationError
        data is empty.

    Notes
    -----
    A float output behind an exact sum is right where it is within half a unit of the sum, a code where it is within
    half a step. The order of pairs is that of onnxruntime, checked bit for bit under an emulated CPU: neighbours along
    K, of a convolution the channels innermost. ConvInteger and depthwise convolutions do not saturate there.

    Examples
    --------
    >>> import qnumpy as qn
    >>> batches = [np.ones((8, 3, 224, 224), np.float32)]
    >>> qn.onnx.check_exact("int8.onnx", batches).exact  # doctest: +SKIP
    True
    """
    owner = "check_exact"
    measure = _check.flag(owner, "measure", measure)
    progress = _check.flag_or_none(owner, "progress", progress)
    proto = read_model(owner, model)
    runner = Runner(owner, optimized(proto))
    counts: dict[str, Checked] = {}
    first: Any = None
    batches = 0
    given = batches_of(owner, data)
    total = len(data) if isinstance(data, Sized) else None
    with progress_bar(iter(given), total, progress) as items:
        for item in items:
            first = item if not batches else first
            batches += 1
            _add(counts, runner, item)
    if not batches:
        raise CalibrationError(_check.must(owner, "data", "one batch or more", "none"))
    if runner.session is None:  # nothing has run: the batches are checked all the same
        next(run_batches(owner, session(proto), [first]))
    rows = [_row(product, counts[product.output]) for product in runner.products if product.output in counts]
    rows += [_own(node, counts[node.output[0]]) for node in runner.own if node.output[0] in counts]
    rows += [
        row
        for scope in runner.graph.walk()
        for node in scope.proto.node
        if (row := _by_weight(scope, node)) is not None
    ]
    suspect = any(row.wrong or row.elsewhere or row.unsafe for row in rows)
    remedy = _remedy(owner, proto, first) if suspect and measure else None
    return Exactness(rows, _floats(runner.graph), remedy)


def _add(counts: dict[str, Checked], runner: Runner, item: Any) -> None:
    values = runner.read(item)
    for node, outputs, wrong in runner.differences(values):
        known = counts.get(node.output[0], Checked(0, 0, 0, 0, 0, 0, int(attribute(node, "N", 0))))
        counts[node.output[0]] = known._replace(outputs=known.outputs + outputs, wrong=known.wrong + wrong)
    for product, inputs, y in runner.operands(values):
        result = checked(product, inputs, y)
        if result is None:
            continue
        before = counts.get(product.output)
        if before is not None:
            sums = (before.outputs + result.outputs, before.wrong + result.wrong, before.rounded + result.rounded)
            elsewhere, largest = before.elsewhere + result.elsewhere, max(before.largest, result.largest)
            result = Checked(*sums, elsewhere, largest, max(before.unsafe, result.unsafe), result.columns)
        counts[product.output] = result


def _row(product: Product, found: Checked) -> ProductExactness:
    notes = []
    if found.wrong:
        notes.append("differs from integer arithmetic")
    if product.dynamic:
        notes.append("quantizes its input itself")
    return ProductExactness(
        product.name, product.node.op_type, found.outputs, found.wrong, found.elsewhere, found.rounded, found.unsafe,
        found.columns, found.largest, "; ".join(notes),
    )  # fmt: skip


def _own(node: NodeProto, found: Checked) -> ProductExactness:
    """Return the row of an operator of the domain "qnumpy", whose kernels have the same bits on every CPU."""
    note = "differs from ReferenceEvaluator" if found.wrong else "the bits of ReferenceEvaluator"
    return ProductExactness(
        node_name(node), node.op_type, found.outputs, found.wrong, 0, 0, 0, found.columns, 0, f"{DOMAIN}: {note}"
    )


# ---- what can only be judged by its weights ----


def _by_weight(scope: Graph, node: NodeProto) -> ProductExactness | None:
    """Return a row for a product whose codes cannot be read: inside a subgraph, or inside an operator."""
    inner = _INNER.get((node.domain, node.op_type))
    name = node_name(node)
    if node.op_type == "MatMulNBits" and attribute(node, "accuracy_level", 0) == _INT8_LEVEL:
        note = f"onnxruntime rounds its activations to int8: set {_NBITS} or accuracy_level to 0"
        return ProductExactness(name, node.op_type, 0, 0, 0, 0, 0, int(attribute(node, "N", 0)), 0, note)
    if inner is not None:
        unsafe = columns = 0
        for position in inner:
            constant = scope.constant(node.input[position]) if position < len(node.input) else None
            for w in [] if constant is None else constant.array.reshape(-1, *constant.array.shape[-2:]):
                bad, count = _unsafe(w)
                unsafe, columns = unsafe + bad, columns + count
        return ProductExactness(
            name, node.op_type, 0, 0, 0, 0, unsafe, columns, 0, "its codes are inside; by its weights"
        )
    if scope.parent is None:
        return None
    if node.domain == DOMAIN:
        return ProductExactness(name, node.op_type, 0, 0, 0, 0, 0, 0, 0, "inside a subgraph; not compared")
    found = [product for product in products(scope) if product.node is node or product.output in node.output]
    constant = scope.constant(found[0].input(found[0].b)) if found else None
    if not found:
        return None
    unsafe = columns = 0
    if constant is not None and found[0].pairs(constant.array) and not found[0].convolves:
        unsafe, columns = _unsafe(constant.array.reshape(-1, constant.array.shape[-1]))
    elif constant is not None and found[0].pairs(constant.array):
        w = np.moveaxis(constant.array, 1, -1)
        unsafe, columns = _unsafe(w.reshape(len(w), -1).T)
    return ProductExactness(name, node.op_type, 0, 0, 0, 0, unsafe, columns, 0, "inside a subgraph; by its weights")


def _unsafe(w: Array) -> tuple[int, int]:
    """Return the columns of a weight (K, N) in which a pair can saturate, of how many."""
    if w.dtype != np.int8:
        return 0, int(w.shape[-1])
    found = simulate_saturation(np.zeros((1, len(w)), np.uint8), np.ascontiguousarray(w))
    return int(np.count_nonzero(~found.safe)), int(w.shape[-1])


def _floats(graph: Graph) -> int:
    """Return how many layers read dequantized weights and stay float."""
    count = 0
    for scope in graph.walk():
        for node in scope.proto.node:
            if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose", "FusedMatMul", "FusedGemm", "FusedConv"):
                continue
            makers = [scope.producer(name) for name in node.input]
            count += any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
    return count


# ---- the runtime's own remedy ----


def _remedy(owner: str, model: ModelProto, item: Any) -> Remedy:
    entries = {OPTION: "1"}
    try:
        runner = Runner(owner, optimized(model, entries))
    except FileFormatError as error:
        return Remedy(OPTION, False, 0, 0, 1.0, _message(error))
    counts: dict[str, Checked] = {}
    _add(counts, runner, item)
    engines = [session(model, threads=1, options=plain_options(e)) for e in ({}, entries)]
    feed = feed_of(engines[0], item)
    before, after = interleaved([_run(engine, feed) for engine in engines], seconds=_SECONDS, least=3)
    wrong, elsewhere = (sum(getattr(found, field) for found in counts.values()) for field in ("wrong", "elsewhere"))
    return Remedy(OPTION, True, wrong, elsewhere, after / before, "")


def _message(error: Exception) -> str:
    """Return what onnxruntime says, without the place in its source."""
    text = " ".join(str(error.__cause__ or error).split())
    return text.rpartition("FAIL : ")[2].strip(" :.")[-160:]


def _run(engine: Any, feed: Mapping[str, Array]) -> Any:
    return lambda: engine.run(None, feed)
