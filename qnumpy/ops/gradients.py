"""Fake-quantization for training: where the codes saturate, and the gradients of x, of the scale and of the range."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check, _core
from .._typing import Array, Convention, Float32Array, Float64Array, Int32Array, UInt8Array
from ..dtypes import FLOAT_TYPES, FloatType
from ..qparams import QParams

__all__ = [
    "Affine",
    "Inside",
    "affine_fake_quantize",
    "affine_gradients",
    "fake_quantize_inside",
    "gradient_of",
    "keep_inside",
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
    bits = np.empty(-(-source.size // 8), np.uint8)

    def kernel(*arguments: object) -> None:
        _core.fake_quantize_inside(*arguments[:6], bits, *arguments[6:])  # type: ignore[call-arg, arg-type]

    y = _args.elementwise(
        owner,
        kernel,
        source,
        float_type,
        layout,
        qparams.scale,
        qparams.zero_point,
        float_type,
        None,
        qparams.qmin,
        qparams.qmax,
        rounding,
    )
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
    if inside.order is not None:
        source = source.transpose(inside.order)
    dx = np.empty(source.shape, float_type.dtype)
    _core.keep_inside(source, float_type.core, inside.bits, dx, float_type.core)
    return dx if inside.order is None else dx.transpose(np.argsort(inside.order))


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
    affine = Affine(layout, qparams.scale, qparams.zero_point, qparams.qmin, qparams.qmax)
    return affine_gradients(source, x_type, gradient, g_type, affine, rounding)


# ---- the same for arguments that are checked ----


class Affine(NamedTuple):
    """Parameters as kernels take them, for arrays of one shape."""

    layout: _args.Layout
    scale: Float32Array | float  # a number where there is one
    zero_point: Int32Array | int
    qmin: int
    qmax: int


def affine_fake_quantize(source: Array, float_type: FloatType, affine: Affine) -> Array:
    """Return qnumpy.fake_quantize of a checked array by the convention of ONNX."""
    layout, scale, zero_point, qmin, qmax = affine
    rounding = _args.CONVENTIONS["onnx"]
    if not source.flags.c_contiguous:
        return _args.elementwise(
            "", _core.fake_quantize, source, float_type, layout, scale, zero_point, float_type, None, qmin, qmax,
            rounding,
        )  # fmt: skip
    y, number = np.empty(source.shape, float_type.dtype), float_type.core
    _core.fake_quantize(source, number, scale, zero_point, y, number, *layout.grid, qmin, qmax, rounding)
    return y


def affine_gradients(
    source: Array, x_type: FloatType, gradient: Array, g_type: FloatType, affine: Affine, rounding: int = 0
) -> tuple[Array, Float64Array]:
    """Return what quantization_gradients returns."""
    layout, scale, zero_point, qmin, qmax = affine
    order = _args.memory_order(source)
    if order is not None:
        layout, scale, zero_point = _args.transposed(layout, order, source.shape, scale, zero_point)
        source, gradient = source.transpose(order), gradient.transpose(order)
    dx, sums = np.empty(source.shape, g_type.dtype), np.empty((3, *layout.shape))
    _core.gradients(
        source,
        x_type.core,
        gradient,
        g_type.core,
        scale,
        zero_point,
        dx,
        g_type.core,
        sums,
        *layout.grid,
        qmin,
        qmax,
        rounding,
    )
    if order is None:
        return dx, sums
    granularity = affine.layout.granularity
    return dx.transpose(np.argsort(order)), np.stack([granularity.unpermute(part, order) for part in sums])


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
