"""Fake-quantization for training: where the codes saturate, and the gradients of x, of the scale and of the range."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check, _core
from .._typing import Array, Convention, Float64Array, UInt8Array
from ..dtypes import FLOAT_TYPES, FloatType
from ..qparams import QParams
from . import affine
from .affine import Affine

__all__ = [
    "Inside",
    "affine_gradients",
    "affine_keep_inside",
    "fake_quantize_inside",
    "gradient_of",
    "keep_inside",
    "observed_inside",
    "quantization_gradients",
]

TYPES = {name: FLOAT_TYPES[name] for name in ("float32", "float16", "bfloat16")}


class Inside(NamedTuple):
    """A bit for each element of an array: its code does not saturate, and it is not NaN."""

    bits: UInt8Array  # in the order of memory, the first in the lowest bit
    shape: tuple[int, ...]
    order: tuple[int, ...] | None  # the axes in the order of memory; None: C order

    def to_bool(self) -> Array:
        """Return the marks as an array of bool of the shape of x."""
        size = int(np.prod(self.shape))
        flat = np.unpackbits(self.bits, count=size, bitorder="little").astype(bool)
        if self.order is None:
            return flat.reshape(self.shape)
        return flat.reshape([self.shape[d] for d in self.order]).transpose(np.argsort(self.order))


def fake_quantize_inside(
    owner: str, x: ArrayLike, qparams: QParams, convention: Convention = "onnx"
) -> tuple[Array, Inside]:
    """Return qnumpy.fake_quantize of x, and which of its codes do not saturate.

    Raises
    ------
    TypeError
        x is not float32, float16 or bfloat16; qparams is no QParams, or of a float type.
    ValueError
        qparams does not fit the shape of x; convention is unknown.
    """
    source, float_type = _args.real(owner, "x", x, TYPES)
    layout = _args.qparams_layout(owner, integers(owner, qparams), source.shape)
    rounding = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    parameters = Affine(layout, qparams.scale, qparams.zero_point, qparams.qmin, qparams.qmax)
    y, bits = affine.fake_quantize_inside(source, float_type, parameters, rounding)
    return y, Inside(bits, source.shape, _args.memory_order(source))


def keep_inside(owner: str, g: ArrayLike, inside: Inside) -> Array:
    """Return the gradient of x by the straight-through estimator: g where the code did not saturate, else 0.

    Raises
    ------
    TypeError
        g is not float32, float16 or bfloat16.
    ValueError
        g has not the shape of x.
    """
    source, float_type = gradient_of(owner, g, inside.shape)
    return affine_keep_inside(source, float_type, inside)


def quantization_gradients(
    owner: str, x: ArrayLike, g: ArrayLike, qparams: QParams, convention: Convention = "onnx"
) -> tuple[Array, Float64Array]:
    """Return the gradient of x as keep_inside does, and the sums that those of the parameters follow from.

    The sums have the shape [3, *qparams.scale.shape]: g times the error of the step, ``q - Z - x / S``, over the codes
    that do not saturate; g over those below qmin; g over those above qmax. NaN counts nowhere.

    Raises
    ------
    TypeError
        x or g is not float32, float16 or bfloat16; qparams is no QParams, or of a float type.
    ValueError
        qparams does not fit the shape of x; convention is unknown; g has not the shape of x.

    Notes
    -----
    Products of float32 are exact in float64; the order of the additions depends on the shape and the granularity
    alone, so that the bits are the same on every ISA and for any number of threads.
    """
    source, x_type = _args.real(owner, "x", x, TYPES)
    layout = _args.qparams_layout(owner, integers(owner, qparams), source.shape)
    rounding = _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    gradient, g_type = gradient_of(owner, g, source.shape)
    parameters = Affine(layout, qparams.scale, qparams.zero_point, qparams.qmin, qparams.qmax)
    return affine_gradients(source, x_type, gradient, g_type, parameters, rounding)


# ---- the same for arguments that are checked ----


def observed_inside(
    source: Array,
    out: Array,
    bits: UInt8Array,
    number: int,
    grid: tuple[int, ...],
    held: tuple[Array, Array, Array, Array],
    weight: float,
    symmetric: bool,
    qmin: int,
    qmax: int,
) -> None:
    """Average the range of an array into low and high of `held`, and fake-quantize by the scale and zero point of it.

    `held` is low, high, scale and zero point; all change. `number` is the kernels' one for the type of source and out,
    `weight` that of this array in the average.
    """
    if source.size:
        _core.observe(source, number, *grid, weight, symmetric, qmin, qmax, *held)  # type: ignore[call-arg, arg-type]
    _core.fake_quantize_inside(  # type: ignore[call-arg]
        source, number, *held[2:], out, number, bits, *grid, qmin, qmax, 0
    )


def affine_keep_inside(source: Array, float_type: FloatType, inside: Inside, out: Array | None = None) -> Array:
    """Return what keep_inside returns; `out` has the memory layout that x had."""
    order = inside.order
    source = source if order is None else source.transpose(order)
    dx = np.empty(source.shape, float_type.dtype) if out is None else out if order is None else out.transpose(order)
    _core.keep_inside(source, float_type.core, inside.bits, dx, float_type.core)
    return dx if order is None else dx.transpose(np.argsort(order))


def affine_gradients(
    source: Array,
    x_type: FloatType,
    gradient: Array,
    g_type: FloatType,
    parameters: Affine,
    rounding: int = 0,
    out: Array | None = None,
) -> tuple[Array, Float64Array]:
    """Return what quantization_gradients returns."""
    dx = affine.result_like(source, g_type.dtype) if out is None else out
    order = _args.memory_order(source)
    x, target, (layout, scale, zero_point, qmin, qmax) = affine.in_memory_order(source, dx, parameters)
    g, sums = gradient if order is None else gradient.transpose(order), np.empty((3, *layout.shape))
    _core.gradients(
        x, x_type.core, g, g_type.core, scale, zero_point, target, g_type.core, sums, *layout.grid, qmin, qmax, rounding
    )
    if order is None:
        return dx, sums
    granularity = parameters.layout.granularity
    return dx, np.stack([granularity.unpermute(part, order) for part in sums])


def integers(owner: str, qparams: QParams) -> QParams:
    """Return qparams unless they are of a float type, whose codes have no step."""
    if isinstance(qparams, QParams) and qparams.code.real is not None:
        raise TypeError(_check.must(owner, "qparams", "a QParams of an integer type", qparams.code.name))
    return qparams


def gradient_of(owner: str, g: ArrayLike, shape: tuple[int, ...]) -> tuple[Array, FloatType]:
    """Return a gradient of the shape of x and its type."""
    source, float_type = _args.real(owner, "g", g, TYPES)
    if source.shape != shape:
        raise ValueError(_check.must(owner, "g", f"of shape {shape} like x", f"shape {source.shape}"))
    return source, float_type
