"""Quantization of dask arrays, block by block, with parameters for the whole."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from dask import compute, delayed
from dask.array.core import slices_from_chunks

from .. import _args, _check
from .._typing import Array, DType, Method
from ..arrays.quantized import QuantizedArray
from ..granularity import Granularity, PerGroup, PerRow, PerTensor, normalize_axis
from ..observers import observer_for
from ..ops.choose import choose_qparams as choose_here
from ..ops.choose import finite_extremes
from ..ops.histogram import CHOICES, percentile_share
from ..ops.quantize import codes_of
from ..qparams import QParams, check_scheme
from ..reports.compare import Report, add_sums
from ..reports.metrics import Sums, measure
from .reduction import known, observe_blocks, plain, refusal

__all__ = ["choose_qparams", "compare", "dequantize", "quantize"]

_FAN = 8  # sums that one task adds


def choose_qparams(
    x: da.Array,
    *,
    dtype: DType = "int8",
    granularity: Granularity | None = None,
    symmetric: bool = True,
    method: Method = "minmax",
    percentile: float = 99.99,
    split_every: int = 8,
) -> QParams:
    """Choose scale and zero point for a dask array, as qnumpy.choose_qparams for an array.

    Parameters
    ----------
    x : dask array of float32, float64, float16 or bfloat16
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool, default True
    method : {"minmax", "mse", "entropy", "percentile"}
    percentile : float, default 99.99
        As in qnumpy.choose_qparams.
    split_every : int, default 8
        How many observers are merged at once.

    Returns
    -------
    QParams
        Of the same bits as those of the whole array in one process.

    Raises
    ------
    TypeError, ValueError, CalibrationError
        As qnumpy.choose_qparams and observe.

    Notes
    -----
    Computed at once: x is read here, and a second time when it is quantized. Groups and rows are not merged: each lies
    in one block.

    Examples
    --------
    >>> import dask.array as da
    >>> choose_qparams(da.ones((40, 30), chunks=16) * 12.7).scale
    array(0.1, dtype=float32)
    """
    owner = "choose_qparams"
    source = _reals(owner, "x", x)
    granularity = PerTensor() if granularity is None else granularity
    _args.choice(owner, "method", method, CHOICES)
    share = percentile_share(owner, percentile)
    code = _args.code(owner, dtype)
    check_scheme(owner, code, symmetric)
    _args.granularity(owner, granularity)
    scheme: dict[str, Any] = {"dtype": dtype, "granularity": granularity, "symmetric": symmetric}
    criterion: dict[str, Any] = {"method": method, "percentile": share}
    if source.size == 0:  # observers would have seen nothing
        return choose_here(np.empty(source.shape, source.dtype), **scheme, **criterion)
    if granularity.params_ndim() is None:
        return _by_block(owner, source, granularity, {**scheme, **criterion})
    seen = observe_blocks(owner, source, observer_for(method, share, **scheme), split_every)
    if not hasattr(seen, "min_"):  # the shape was unknown, and there is no element
        return choose_here(np.empty((0,) * source.ndim, source.dtype), **scheme, **criterion)
    finite_extremes(owner, seen.min_, seen.max_, seen.nan_, seen.infinite_)
    low, high = seen.range()
    return QParams._of_range(owner, np.minimum(low, 0.0), np.maximum(high, 0.0), code, symmetric, granularity)


def quantize(x: da.Array, qparams: QParams) -> da.Array:
    """Quantize a dask array with given parameters, block by block.

    Parameters
    ----------
    x : dask array of float32, float64, float16 or bfloat16
    qparams : QParams
        For the whole array: from choose_qparams, observe or calibrate.

    Returns
    -------
    dask array
        Codes, lazily; each block as qnumpy.quantize makes it. Per group, blocks end between groups.

    Raises
    ------
    TypeError
        x is no dask array.
    TypeError
        qparams is no QParams.
    ValueError
        qparams does not fit x.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.linspace(-1, 1, 5, chunks=2)
    >>> quantize(x, choose_qparams(x)).compute()
    array([-127,  -64,    0,   64,  127], dtype=int8)
    """
    owner = "quantize"
    source = _reals(owner, "x", x)
    params = _fitting(owner, "x", source, qparams)
    return _blockwise(_codes_of_block, source, params, params.code.dtype)


def dequantize(q: da.Array, qparams: QParams, *, dtype: DType = "float32") -> da.Array:
    """Turn codes back into reals, block by block.

    Parameters
    ----------
    q : dask array of the dtype of `qparams`
    qparams : QParams
        Those of the codes.
    dtype : str or dtype, default "float32"
        float32, float64, float16 or bfloat16.

    Returns
    -------
    dask array
        Reals, lazily; each block as qnumpy.dequantize makes it.

    Raises
    ------
    TypeError
        q is no dask array.
    TypeError
        qparams is no QParams.
    ValueError
        qparams does not fit q.
    TypeError
        q has another dtype than qparams.
    TypeError
        dtype is no floating type.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.linspace(-1, 1, 5, chunks=2)
    >>> params = choose_qparams(x)
    >>> dequantize(quantize(x, params), params).compute().round(2)
    array([-1. , -0.5,  0. ,  0.5,  1. ], dtype=float32)
    """
    owner = "dequantize"
    codes = _dask(owner, "q", q)
    params = _fitting(owner, "q", codes, qparams)
    _same_type(owner, "q", codes, params)
    real = _args.floating(owner, dtype)
    return _blockwise(_reals_of_block, codes, params, real.dtype, real=real.dtype)


def compare(x: da.Array, q: da.Array, qparams: QParams | None = None, *, name: str | None = None) -> Report:
    """Compare a dask array with its quantized form, block by block, as qnumpy.compare.

    Parameters
    ----------
    x : dask array of float32, float64, float16 or bfloat16
        The reference.
    q : dask array
        Of the shape of `x`: codes, or without qparams dequantized values.
    qparams : QParams, optional
        Those of the codes.
    name : str, optional
        The name in tables.

    Returns
    -------
    Report
        Without channels, and without the warnings that need a second pass over x.

    Raises
    ------
    TypeError
        name is no string.
    TypeError
        x or q is no dask array.
    ValueError
        q has another shape than x.
    TypeError
        qparams is no QParams.
    ValueError
        qparams does not fit x.
    TypeError
        q has another dtype than qparams.
    TypeError
        x is not real.

    Notes
    -----
    Computed at once. Sums are float64, of each block and then of all in the order of the blocks.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.linspace(-1, 1, 1000, chunks=300)
    >>> params = choose_qparams(x)
    >>> report = compare(x, quantize(x, params), params)
    >>> print(report.codes_used, f"{report.sqnr_db:.2f} dB")
    255 48.11 dB
    """
    owner = "compare"
    if not (name is None or isinstance(name, str)):
        raise TypeError(_check.must(owner, "name", "a string", _check.typed(name)))
    source = known(owner, "x", _reals(owner, "x", x))
    values = known(owner, "q", _dask(owner, "q", q))
    if values.shape != source.shape:
        raise ValueError(_check.must(owner, "q", f"of the shape {source.shape} of x", f"shape {values.shape}"))
    params = None
    if qparams is not None:
        params = _args.qparams(owner, qparams, source.shape)
        _same_type(owner, "q", values, params)
        source = _cut(source, params.granularity)
    values = values.rechunk(source.chunks)
    blocks = zip(
        slices_from_chunks(source.chunks), source.to_delayed().ravel(), values.to_delayed().ravel(), strict=True
    )
    parts = [
        delayed(_block_sums)(a, b, None if params is None else params.sliced(source.shape, at)) for at, a, b in blocks
    ]
    while len(parts) > 1:
        parts = [delayed(_add_sums)(parts[k : k + _FAN]) for k in range(0, len(parts), _FAN)]
    sums, codes = parts[0].compute()
    if params is not None:
        sums = replace(sums, used=len(codes))
    sentence = f"{sums.nan:,} NaN and {sums.inf:,} infinite of {source.size:,} elements are left out of the figures."
    return Report(
        name=name,
        shape=source.shape,
        source=source.dtype.name,
        dtype=values.dtype.name if params is None else params.code.name,
        granularity=None if params is None else params.granularity.describe(),
        nbytes_before=source.nbytes,
        nbytes_after=values.nbytes if params is None else params.code.packed_nbytes(values.shape) + params.nbytes,
        levels=None if params is None else params.levels,
        sums=sums,
        warnings=(sentence,) if sums.nan or sums.inf else (),
    )


def _dask(owner: str, name: str, value: Any) -> da.Array:
    if not isinstance(value, da.Array):
        raise refusal(owner, name, "a dask array", value)
    return plain(owner, name, value)


def _reals(owner: str, name: str, value: Any) -> da.Array:
    array = _dask(owner, name, value)
    _args.real(owner, name, array._meta)
    return array


def _fitting(owner: str, name: str, x: da.Array, qparams: Any) -> QParams:
    """Return the parameters if they fit x; those of a tensor also fit an array of unknown shape."""
    if isinstance(qparams, QParams) and qparams.scale.ndim:
        known(owner, name, x, " unless qparams is per tensor")
    return _args.qparams(owner, qparams, x.shape)


def _same_type(owner: str, name: str, codes: da.Array | Array, params: QParams) -> None:
    if codes.dtype != params.code.dtype:
        raise TypeError(_check.must(owner, name, f"an array of {params.code.dtype}", f"dtype {codes.dtype}"))


def _cut(x: da.Array, granularity: Granularity) -> da.Array:
    """Move each end of a block to the next end of a group; rows stay whole."""
    if isinstance(granularity, PerRow) and x.ndim:
        return x.rechunk({x.ndim - 1: -1})
    if not isinstance(granularity, PerGroup):
        return x
    axis, size = normalize_axis("rechunk", granularity.axis, x.ndim), granularity.group_size
    ends = np.minimum(-(-np.cumsum(x.chunks[axis]) // size) * size, x.shape[axis])
    lengths = tuple(int(length) for length in np.diff(ends, prepend=0) if length)
    return x.rechunk({axis: lengths or (0,)})


def _by_block(owner: str, x: da.Array, granularity: Granularity, options: dict[str, Any]) -> QParams:
    """Choose the parameters of every block and put them together; no parameter belongs to two blocks."""
    granularity.check(owner, known(owner, "x", x).shape)
    x = _cut(x, granularity)
    parts = compute(*(delayed(choose_here)(block, **options) for block in x.to_delayed().ravel()))
    shape = granularity.params_shape(x.shape)
    scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int32)
    for block, part in zip(slices_from_chunks(x.chunks), parts, strict=True):
        place = granularity.block(x.shape, block)
        scale[place], zero[place] = part.scale, part.zero_point
    return QParams(scale, zero, part.dtype, granularity, part.qmin, part.qmax)


def _blockwise(function: Callable[..., Array], x: da.Array, params: QParams, dtype: DType, **options: Any) -> da.Array:
    """Map the blocks of x, each with its own parameters, whose blocks follow those of x."""
    granularity = params.granularity
    x = _cut(x, granularity)
    axis, size = granularity.axis, granularity.group_size
    axis = None if axis is None else axis % x.ndim
    along: tuple[int, ...] = () if axis is None else (axis,)
    if granularity.params_ndim() is None:  # the parameters of groups and rows have the axes of the array
        along = tuple(range(params.scale.ndim))
    cuts = {d: x.chunks[d] for d in along}
    if axis is not None and size is not None:
        cuts[axis] = tuple(-(-length // size) for length in x.chunks[axis])
    chunks = tuple(cuts.values())
    axes = tuple(range(x.ndim))
    scale, zero = (da.from_array(np.asarray(part), chunks=chunks) for part in (params.scale, params.zero_point))
    return da.blockwise(
        function, axes, x, axes, scale, along, zero, along,
        scheme=(params.code.name, params.granularity, params.qmin, params.qmax), **options,
        dtype=dtype, meta=np.empty((0,) * x.ndim, dtype), align_arrays=False,
    )  # fmt: skip


def _codes_of_block(x: Array, scale: Array, zero: Array, *, scheme: Any) -> Array:
    return codes_of("quantize", x, QParams(scale, zero, *scheme))


def _reals_of_block(q: Array, scale: Array, zero: Array, *, scheme: Any, real: Any) -> Array:
    return _quantized("dequantize", q, QParams(scale, zero, *scheme)).dequantize(real)


def _quantized(owner: str, q: Any, params: QParams) -> QuantizedArray:
    """Return a block of codes with its parameters; dask does not know for sure of what its blocks are."""
    codes = _check.array(owner, "q", q)
    _same_type(owner, "q", codes, params)
    return QuantizedArray(codes, params)


def _block_sums(x: Array, q: Array, params: QParams | None) -> tuple[Sums, Array]:
    """Return the sums of a block, and the codes that occur in it."""
    source = _args.real("compare", "x", x)[0]
    if params is None:
        return measure("compare", source, _check.array("compare", "q", q)), np.empty(0, np.int32)
    values = _quantized("compare", q, params)
    return measure("compare", source, values), np.unique(_args.plain(values.codes, params.code))


def _add_sums(parts: Sequence[tuple[Sums, Array]]) -> tuple[Sums, Array]:
    return add_sums([sums for sums, _ in parts]), np.unique(np.concatenate([codes for _, codes in parts]))
