"""Static quantization of ONNX models: ranges of activations from data, int8 where onnxruntime gains by it."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import _args, _check
from ..calibration.calibrate import Calibration
from ._conversion import Conversion
from ._files import at_opset, lowered, raise_ir_version, read_model, write_model
from ._folds import fold
from ._forms.stored import FloatWeights
from ._graph import Graph
from ._int8_graph import Form, Options, TargetCPU
from ._placement import candidates
from ._ranges import Rounding, Technique, calibrated, check_calibration
from ._report import attach
from ._rewrites import rewrite
from ._selection import Selection
from ._taps import batches_of
from ._variants import Floor, accurate, fastest

__all__ = ["calibrate", "quantize_static"]

_TECHNIQUES = {"mse": 0, "minmax": 1, "moving_average": 2, "percentile": 3, "entropy": 4, "best": 5}
_ROUNDINGS = {"gptq": 0, "nearest": 1}
_FORMS = {"QDQ": 0, "integer": 1}
_FLOAT_WEIGHTS = {"int16": 0, "int8": 1, "float32": 2}
_TARGETS = {"any": 0, "vnni": 1, "avx2": 2, "arm": 3}
_LEAST_OPSET = 13  # scales and zero points for each channel
_REFERENCE_OPSET = 19  # the first that onnx.reference computes QuantizeLinear of
_SAMPLES, _SAMPLE_BYTES = 32, 64 << 20  # batches that are kept, and their bytes


def calibrate(
    model: Any,
    data: Iterable[Any],
    *,
    observer: Technique = "mse",
    percentile: float = 99.99,
    rounding: Rounding = "gptq",
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Run a model in onnxruntime over data and observe the tensors that quantize_static quantizes.

    Parameters
    ----------
    model : path, bytes or ModelProto
    data : iterable of dict of str to array, or of arrays
        Inputs by name; arrays where the model has one input. A dask array gives its blocks, a dask bag its items.
        Shapes may vary; no batch is kept.
    observer : {"mse", "minmax", "moving_average", "percentile", "entropy", "best"}
        Except with "minmax" and "moving_average" histograms are kept, of which quantize_static can take any technique.
    percentile : float, default 99.99
        Percent of the elements inside the range, where the observer is "percentile".
    rounding : {"gptq", "nearest"}
        Whether second moments of the inputs of layers are kept, 8 K^2 bytes for K inputs, or only means of channels.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        A file for the state in the end, also where Ctrl-C is the end. The next call goes on from there with the same
        data.

    Returns
    -------
    Calibration
        By the names of the tensors in the model that quantize_static makes of this one before it quantizes; and, to
        round weights, statistics of the channels of inputs, under names that end in ":mean", ":moments", ":channels"
        or ":squares". `to_json` saves it.

    Raises
    ------
    ValueError
        observer or rounding is unknown.
    TypeError, ValueError
        model is no model.
    ValueError
        A batch does not fit the model's inputs; resume is of another model.
    CalibrationError
        data is empty, or the model has nothing to quantize.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import numpy_helper, parser
    >>> from qnumpy.onnx import calibrate
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend([numpy_helper.from_array(w, "w")])
    >>> batches = [{"x": np.random.default_rng(k).normal(size=(32, 64)).astype(np.float32)} for k in range(4)]
    >>> calibration = calibrate(model, batches, progress=False)
    >>> "x" in calibration
    True
    """
    owner = "calibrate"
    _args.choice(owner, "observer", observer, _TECHNIQUES)
    _args.choice(owner, "rounding", rounding, _ROUNDINGS)
    prepared, _ = _prepared(owner, model)
    return calibrated(
        owner, prepared, candidates(Graph.of(prepared)), data, observer, percentile, rounding, progress, resume
    )


def quantize_static(
    model: Any,
    data: Iterable[Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    observer: Technique = "mse",
    form: Form = "QDQ",
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    calibration: Calibration | None = None,
    percentile: float = 99.99,
    rounding: Rounding = "gptq",
    correct_bias: bool = True,
    float_weights: FloatWeights = "int16",
    quantize_outputs: bool = False,
    min_sqnr: float | None = 25.0,
    measure: bool = False,
    target_cpu: TargetCPU = "any",
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Any:
    """Quantize a model to int8 with ranges of its activations from data.

    Activations are uint8, affine per tensor, ``q = saturate(round_half_even(x / S) + Z)``. Weights are int8, symmetric
    per output channel, biases int32. A layer runs in int8 where onnxruntime is faster in that form; the report says of
    the others why not. The weights of layers that stay float32 are stored as codes and compute in float32.
    Where calibration showed few elements of a layer's result, at most 131,072, its range has room for a tenth more at
    each end that is not zero; the inputs of the model have none.

    Parameters
    ----------
    model : path, bytes or ModelProto
        It does not change.
    data : iterable of dict of str to array, or of arrays, optional
        Inputs by name; arrays where the model has one input. A dask array gives its blocks, a dask bag its items.
        Shapes may vary; no batch is kept but the first ones, up to 64 MB, for `min_sqnr` and `measure`.
    output : str or path, optional
        Where to write the model.
    observer : {"mse", "minmax", "moving_average", "percentile", "entropy", "best"}
        How a range is chosen; "best" takes for each tensor the technique of the least estimated squared error of all
        its elements.
    form : {"QDQ", "integer"}
        Float operators between QuantizeLinear and DequantizeLinear, or QLinearConv, ConvInteger, QLinearMatMul and
        MatMulInteger.
    include, exclude : iterable of str, optional
        Names of nodes or operator types; patterns as the shell's. Included nodes run in int8 even where they are
        slower; excluded ones keep their weights in float32 too.
    calibration : Calibration, optional
        What `calibrate` returned for this model; data are then not observed.
    percentile : float, default 99.99
        Percent of the elements inside the range, where the observer is "percentile".
    rounding : {"gptq", "nearest"}
        Whether codes of weights are those of the least squared error of the outputs, or the nearest ones. Layers of
        more than 1,024 inputs and convolutions in groups take the nearest.
    correct_bias : bool, default True
        Let the bias take up the mean of the error that rounding the weight causes; with "gptq" it does.
    float_weights : {"int16", "int8", "float32"}
        How weights of layers that stay float32 are stored: as codes with a scale for some 32 neighbours, which
        onnxruntime expands when it loads the model, or as they are.
    quantize_outputs : bool, default False
        Let outputs of the model hold what codes stand for where an int8 layer makes them; by default products in int8
        give them in float32.
    min_sqnr : float or None, default 25.0
        In dB, of every output on the first batches, with room for two standard errors of their noise: layers return
        to float32 until it is reached, those first whose error, measured alone, is largest for the time that they save.
        The report's facts say what was reached (`sqnr_db`), what all layers in int8 would reach (`whole_sqnr_db`), and
        which share of the time that those would save is left (`saved`). None, or a calibration without data, leaves
        that out.
    measure : bool, default False
        Time variants in onnxruntime, interleaved with the float32 model, and return the fastest; that may have no
        layer in int8.
    target_cpu : {"any", "vnni", "avx2", "arm"}
        Where the model runs. CPUs of x86 without VNNI add pairs of products in int16, which saturates: for "any" and
        "avx2" no sum of two neighbouring weights exceeds 128, so that no pair does. VNNI, and on ARM the dot products
        as well as the widening ones of older CPUs, add in int32: for "vnni" and "arm" the weights use all codes.
    progress : bool, optional
        Show a bar on stderr; by default where it is a terminal.
    resume : str or path, optional
        As in calibrate.

    Returns
    -------
    ModelProto

    Raises
    ------
    ValueError
        observer, form, rounding, float_weights or target_cpu is unknown.
    TypeError
        correct_bias, quantize_outputs or measure is neither True nor False; min_sqnr is no number; calibration is no
        Calibration.
    ValueError
        Neither data nor a calibration came; measure is True and there are no data.
    TypeError, ValueError
        model is no model.
    ValueError
        A pattern of include or exclude matches nothing.
    ValueError
        A batch does not fit the model's inputs.
    CalibrationError
        data is empty; calibration is of another model.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import numpy_helper, parser
    >>> from qnumpy.onnx import quantize_static
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 17]> g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }
    ... ''')
    >>> w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> model.graph.initializer.extend([numpy_helper.from_array(w, "w")])
    >>> batches = [{"x": np.random.default_rng(k).normal(size=(32, 64)).astype(np.float32)} for k in range(4)]
    >>> quantized = quantize_static(model, batches, include=["MatMul"], form="integer", progress=False)
    >>> quantized.ByteSize() < model.ByteSize() / 2
    True
    """
    owner = "quantize_static"
    _args.choice(owner, "observer", observer, _TECHNIQUES)
    _args.choice(owner, "form", form, _FORMS)
    _args.choice(owner, "rounding", rounding, _ROUNDINGS)
    _args.choice(owner, "float_weights", float_weights, _FLOAT_WEIGHTS)
    _args.choice(owner, "target_cpu", target_cpu, _TARGETS)
    correct_bias = _check.flag(owner, "correct_bias", correct_bias)
    quantize_outputs = _check.flag(owner, "quantize_outputs", quantize_outputs)
    if min_sqnr is not None and not _check.is_number(min_sqnr):
        raise TypeError(_check.must(owner, "min_sqnr", "a number or None", _check.typed(min_sqnr)))
    measure = _check.flag(owner, "measure", measure)
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(_check.must(owner, "calibration", "a Calibration", _check.typed(calibration)))
    if data is None and (calibration is None or measure):
        wanted = "batches where measure is True" if calibration is not None else "batches, or calibration given"
        raise ValueError(_check.must(owner, "data", wanted, "None"))
    source = read_model(owner, model)
    selection = Selection.of(owner, include, exclude, Graph.of(source))
    prepared, folded = _prepared(owner, source)
    del source  # two models stay in memory, the one given and the one that is quantized
    samples: list[Any] = []
    if calibration is None:
        assert data is not None
        kept = _keeping_first(owner, data, samples)
        calibration = calibrated(
            owner, prepared, candidates(Graph.of(prepared)), kept, observer, percentile, rounding, progress, resume
        )
    elif data is not None:
        for _ in zip(_keeping_first(owner, data, samples), range(_SAMPLES), strict=False):
            pass
    check_calibration(owner, calibration, candidates(Graph.of(prepared)))
    options = Options(
        observer,
        form,
        rounding,
        selection,
        include is not None,
        target_cpu,
        float_weights,
        correct_bias,
        quantize_outputs,
    )
    work = Conversion(prepared, calibration, options)
    floor = None if min_sqnr is None or not samples else Floor(model, samples, float(min_sqnr))
    result = fastest(work, model, samples[0], floor) if measure else accurate(work, 1.0, floor)
    quantized, changes, facts = result
    attach(quantized, changes, form=form, observer=observer, target_cpu=target_cpu, rewrites=folded, **facts)
    if output is not None:
        write_model(owner, quantized, output)
    return quantized


def _prepared(owner: str, model: Any) -> tuple[Any, dict[str, int]]:
    """Return the model that is calibrated and quantized: of a known operator set, rewritten; and the rewrites."""
    prepared = _raised(lowered(at_opset(read_model(owner, model), _LEAST_OPSET, owner)))
    raise_ir_version(prepared)
    graph = Graph.of(prepared)
    counts = fold(graph)
    return prepared, {**counts, **rewrite(graph)}


def _raised(model: Any) -> Any:
    """Return a model at an operator set that onnx.reference computes, or as it is where that cannot be.

    onnx.version_converter leaves the graphs of If, Loop and Scan as they are.
    """
    if Graph.of(model).subgraphs():
        return model
    try:
        return at_opset(model, _REFERENCE_OPSET)
    except Exception:  # it knows not every operator
        return model


def _keeping_first(owner: str, data: Any, samples: list[Any]) -> Iterable[Any]:
    """Yield the batches of data; the first ones stay in a list too."""
    kept = 0
    for item in batches_of(owner, data):
        arrays = item.values() if isinstance(item, Mapping) else (item,)
        kept += sum(np.asarray(array).nbytes for array in arrays)
        if not samples or (len(samples) < _SAMPLES and kept <= _SAMPLE_BYTES):
            samples.append(item)
        yield item
