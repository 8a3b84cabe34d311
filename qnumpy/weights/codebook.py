"""Codes that name levels of tables: NF4, k-means, and tables of least output error."""

from typing import Any, Literal, TypeAlias

import numpy as np

from .. import _args, _check
from .._typing import Array, RealLike
from ..arrays.codebook import CodebookArray
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor
from ..ops.codebook import NF4, LevelTables, choose_codes, cluster_rows, largest_scales
from ..ops.moments import SecondMoment
from ..ops.rounding import Rows, check_damping, check_moments, importance_of, matrix_of

__all__ = ["CodebookMethod", "codebook"]

CodebookMethod: TypeAlias = Literal["nf4", "kmeans", "lnq"]

_METHODS = {"nf4": 0, "kmeans": 1, "lnq": 2}
_DEFAULTS: dict[str, Granularity] = {"nf4": PerGroup(64), "kmeans": PerChannel(0), "lnq": PerChannel(0)}


def codebook(
    w: RealLike,
    *,
    method: CodebookMethod = "nf4",
    bits: int = 4,
    granularity: Granularity | None = None,
    moments: SecondMoment | None = None,
    scale: Literal["search", "absmax"] = "search",
    centered: bool = False,
    damping: float = 0.1,
) -> CodebookArray:
    """Represent a weight by codes that name levels of a table, whose distances need not be equal.

    ``"nf4"``: the 16 levels of NF4 for the whole weight, times a scale for each group. ``"kmeans"``: the levels of
    least squared error, for each channel or for the whole weight. ``"lnq"``: the levels and codes of each channel that
    change the outputs of the layer least, by the second moment of its inputs.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16
        The weight: a matrix, or filters of a convolution, of shape (outputs, inputs / groups, kH, kW).
    method : {"nf4", "kmeans", "lnq"}
    bits : int, default 4
        Bits of a code, 2 to 8: a table has ``2**bits`` levels. NF4 has 4.
    granularity : Granularity, optional
        What shares a table of "kmeans" and "lnq": PerChannel(axis) of the outputs, and for "kmeans" also PerRow() or
        PerTensor(); PerChannel(0) by default. What shares a scale of "nf4": any; PerGroup(64) by default. Beside
        moments PerChannel(axis) or PerGroup(group_size, axis).
    moments : MomentsObserver, optional
        Of the rows that w multiplies; of a convolution the rows are `qn.weights.patches`. "lnq" needs them. "kmeans"
        weights the errors by the mean squares of the inputs. "nf4" searches scales with these weights, and chooses
        codes, and scales for them, that change the outputs least.
    scale : {"search", "absmax"}
        How "nf4" chooses the scale of a group: of least squared error, or its largest magnitude, as bitsandbytes does.
    centered : bool, default False
        Take the second moment about the mean of the inputs, for a layer whose bias takes what the mean loses:
        `correct_bias`.
    damping : float, default 0.1
        At least 0. More keeps the codes nearer to w, where there are few rows.

    Returns
    -------
    CodebookArray
        Of the shape of w.

    Raises
    ------
    TypeError
        w is not real.
    ValueError
        method is unknown.
    TypeError, ValueError
        bits is no integer from 2 to 8, or not 4 for "nf4".
    TypeError, ValueError
        granularity is none, is not allowed for the method, or w does not have its axis.
    ValueError
        moments are missing for "lnq".
    TypeError, ValueError, CalibrationError
        moments is no MomentsObserver, has another number of inputs than w, or has seen nothing.
    ValueError
        scale is unknown, or is not "search" beside moments or another method.
    TypeError
        centered is no bool.
    ValueError
        damping is no number in [0, 1000000].
    ValueError
        w is not finite, or float32 does not hold it.

    Notes
    -----
    w is rounded to float32 first. The levels of "kmeans" are the minimum of the weighted squared error, to the rounding
    of its sums in float64, for channels of at most 16,384 weights. "lnq" starts from them; then GPTQ, coordinate
    descent on the exact objective ``(q - w) h (q - w)^T``, and least squares of all levels of a channel alternate. h is
    the second moment of the inputs about zero, plus `damping` times the mean of its diagonal. The same w and moments
    give the same bits on every ISA and thread count.

    References
    ----------
    Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, appendix E. Kim et al., "SqueezeLLM:
    Dense-and-Sparse Quantization", 2024. Kim et al., "GuidedQuant: Large Language Model Quantization via Exploiting End
    Loss Guidance", 2025, section 4.

    Examples
    --------
    >>> w = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    >>> q = codebook(w)
    >>> q.codebook.shape, q.scale.shape, q.nbytes
    ((16,), (4, 1), 208)
    >>> k = codebook(w, method="kmeans", bits=3)
    >>> k.codebook.shape, float(np.square(k.dequantize() - w).mean()) < 0.04
    ((4, 8), True)
    """
    owner = "codebook"
    source, _ = _args.real(owner, "w", w)
    _args.choice(owner, "method", method, _METHODS)
    count = 1 << _bits(owner, bits, method)
    shared = _DEFAULTS[method] if granularity is None else _args.granularity(owner, granularity)
    if not source.ndim and granularity is None:
        shared = PerTensor()
    if method == "lnq" and not isinstance(shared, PerChannel):
        raise ValueError(_check.must(owner, "granularity", "PerChannel(axis) for 'lnq'", _check.typed(shared)))
    if method == "kmeans" and isinstance(shared, PerGroup):
        requirement = "PerChannel(axis), PerRow() or PerTensor() for 'kmeans'"
        raise ValueError(_check.must(owner, "granularity", requirement, _check.typed(shared)))
    _args.layout_of(owner, shared, source.shape)
    rows = Rows.of(shared, source.shape)
    if moments is None and method == "lnq":
        raise ValueError(_check.must(owner, "moments", "a MomentsObserver for 'lnq'", "None"))
    known = None if moments is None else check_moments(owner, moments, rows)
    _args.choice(owner, "scale", scale, {"search": 0, "absmax": 1})
    if scale == "absmax" and (method != "nf4" or known is not None):
        raise ValueError(_check.must(owner, "scale", "'search' unless method is 'nf4' without moments", "'absmax'"))
    about_mean = _check.flag(owner, "centered", centered)
    damping = check_damping(owner, damping)
    if not source.size:
        return _array(np.zeros(source.shape, np.int16), _nothing(rows, method, count), rows, method)
    matrix = matrix_of(owner, source, rows, "w")
    finite = np.isfinite(matrix)
    if not finite.all():
        raise ValueError(_check.must(owner, "w", "finite", str(matrix[~finite][0])))
    importance = None if known is None else importance_of(known)
    if method == "nf4":
        levels = LevelTables(NF4, largest_scales(matrix, rows.group_size), rows.group_size)
        levels = levels if scale == "absmax" else levels.searched(matrix, importance)
    else:
        levels = LevelTables.plain(cluster_rows(matrix, importance, count), rows.columns)
    if known is None or method == "kmeans":
        codes = levels.nearest(matrix)
    else:
        h = known.covariance(centered=about_mean)
        chosen = choose_codes(matrix, h, levels, damping=damping, fits_levels=method == "lnq")
        codes, levels = chosen.codes, chosen.levels
    return _array(rows.array(codes).reshape(source.shape), levels, rows, method)


def _bits(owner: str, value: Any, method: str) -> int:
    bits = _check.integer(owner, "bits", value)
    if not 2 <= bits <= 8 or (method == "nf4" and bits != 4):
        raise ValueError(_check.must(owner, "bits", "4 for 'nf4'" if method == "nf4" else "in [2, 8]", str(bits)))
    return bits


def _nothing(rows: Rows, method: str, count: int) -> LevelTables:
    """Return the parameters of an empty array."""
    params = int(np.prod(rows.granularity.params_shape(rows.shape)))
    if method == "nf4":
        return LevelTables(NF4, np.ones(params, np.float32), 1)
    return LevelTables.plain(np.zeros((params, count), np.float32), 1)


def _array(codes: Array, levels: LevelTables, rows: Rows, method: str) -> CodebookArray:
    plain = codes.astype(np.uint8)
    shape = rows.granularity.params_shape(rows.shape)
    if method != "nf4":
        return CodebookArray(plain, levels.levels.reshape(*shape, levels.levels.shape[-1]), rows.granularity)
    scale = rows.params(levels.scale) if codes.size else levels.scale.reshape(shape)
    return CodebookArray(plain, NF4, scale=scale, scale_granularity=rows.granularity)
