"""The operators qnumpy::quantize, dequantize, fake_quantize and lsq, and the functions that call them."""

import json
import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _args, _check
from .._typing import Convention, DType
from ..dtypes import ACCUMULATOR_TYPE, CODE_TYPES, INTEGER_TYPES, REAL_TYPES, CodeType
from ..granularity import Granularity, PerTensor
from ..ops import affine as checked
from ..ops.affine import Affine
from ..ops.gradients import TYPES, Inside, affine_gradients, affine_keep_inside
from ..qat.learned import Symmetric, code_ends, gradients_of_sums, middles, refuse_nan, scheme_of, size_factor
from ..qparams import QParams
from ._library import array_of, define, tensor_of

__all__ = ["dequantize", "fake_quantize", "lsq", "quantize"]

# ---- what the operators take beside tensors ----


# A granularity is a text, its `to_dict` as JSON.
_SCHEME = "str dtype, int qmin, int qmax, str granularity, str convention"


@lru_cache(512)
def _text(kind: str, axis: int | None = None, group_size: int | None = None) -> str:
    values = {"kind": kind, "axis": axis, "group_size": group_size}
    return json.dumps({name: value for name, value in values.items() if value is not None})


def text_of(granularity: Granularity) -> str:
    """Return a granularity as an argument of an operator."""
    return _text(granularity.kind, granularity.axis, granularity.group_size)


@lru_cache(512)
def granularity_of(text: str) -> Granularity:
    return Granularity.from_dict(json.loads(text))


class Parameters(NamedTuple):
    """What a scheme means for arrays of one shape."""

    layout: _args.Layout
    middle: Any  # the zero point of symmetric codes
    code: CodeType
    qmin: int
    qmax: int
    rounding: int


@lru_cache(512)
def _parameters(
    owner: str, shape: tuple[int, ...], dtype: str, qmin: int, qmax: int, granularity: str, convention: str
) -> Parameters:
    layout, code = _args.layout_of(owner, granularity_of(granularity), shape), CODE_TYPES.get(dtype, ACCUMULATOR_TYPE)
    middle = code.symmetric_zero_point
    zeros = middles(middle, layout.shape) if layout.shape else middle
    return Parameters(layout, zeros, code, qmin, qmax, _args.CONVENTIONS[convention])


def _affine(owner: str, parameters: Parameters, scale: Tensor, zero_point: Tensor | None) -> Affine:
    """Return the parameters of kernels, checked."""
    layout, zeros, _, low, high, _ = parameters
    scales = _args.scales(owner, "scale", scale.item() if scale.ndim == 0 else array_of(scale), layout)
    if zero_point is None:
        return Affine(layout, scales, zeros, low, high)
    if zero_point.is_floating_point():  # that of lsq, which is trained
        zeros = _rounded(owner, zero_point, low, high)
    else:
        zeros = zero_point.item() if zero_point.ndim == 0 else array_of(zero_point)
    return Affine(layout, scales, _args.zero_points(owner, zeros, layout, low, high), low, high)


def _rounded(owner: str, zero_point: Tensor, low: int, high: int) -> Any:
    """Return real zero points rounded half to even, in the range of codes."""
    if zero_point.ndim == 0 and not math.isnan(real := zero_point.item()):
        return round(min(max(real, low), high))
    reals = array_of(zero_point).astype(np.float32)
    refuse_nan(owner, reals)
    return np.clip(np.rint(reals), low, high).astype(np.int32)


# ---- the memory order of results ----


def memory_order(x: Tensor) -> list[int]:
    """Return the axes in the order of memory; none where that is C order, or where x has gaps."""
    if x.is_contiguous():
        return []
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return order if x.permute(order).is_contiguous() else []


def empty(x: Tensor, order: list[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the shape of x whose axes have an order in memory."""
    if not order:
        return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.empty_permuted(x.shape, order, dtype=x.dtype if dtype is None else dtype, device=x.device)


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor for a kernel to fill, in the memory order of x."""
    return empty(x, memory_order(x), dtype)


# ---- quantize and dequantize ----


def _dtype_of(dtype: Any) -> torch.dtype:
    return tensor_of(np.empty(0, dtype)).dtype


# Types with a dtype of PyTorch; codes narrower than a byte take one.
_CODES = {name: code for name, code in CODE_TYPES.items() if name != "float4_e2m1fn"}
_DTYPES = {name: _dtype_of(code.storage if code.real is None else code.dtype) for name, code in _CODES.items()}
_CODE_OF = {dtype: CODE_TYPES[name] for name, dtype in _DTYPES.items() if not CODE_TYPES[name].is_packed}
_CODE_OF |= {torch.int32: ACCUMULATOR_TYPE}
_REAL_OF = {_dtype_of(real.dtype): real for real in REAL_TYPES.values()}


def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, *scheme: Any) -> Tensor:
    owner = "quantize"
    source, float_type = _args.real(owner, "x", array_of(x))
    parameters = _parameters(owner, source.shape, *scheme)
    affine, code = _affine(owner, parameters, scale, zero_point), parameters.code
    q = empty_like(x, _DTYPES[code.name])
    checked.quantize(source, float_type, affine, code, parameters.rounding, array_of(q).view(code.dtype))
    return q


def _quantize_fake(x: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: str, *scheme: Any) -> Tensor:
    return empty_like(x, _DTYPES[dtype])


def _dequantize(q: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype, granularity: str) -> Tensor:
    owner, code, float_type = "dequantize", _CODE_OF[q.dtype], _REAL_OF[dtype]
    ends = (0, 0) if code is ACCUMULATOR_TYPE else code.zero_points
    parameters = _parameters(owner, q.shape, code.name, *ends, granularity, "onnx")
    affine = _affine(owner, parameters, scale, zero_point)
    x = empty_like(q, dtype)
    checked.dequantize(array_of(q), code, affine, float_type, array_of(x))
    return x


def _dequantize_fake(q: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype, *_: Any) -> Tensor:
    return empty_like(q, dtype)


_quantize_op = define(
    f"quantize(Tensor x, Tensor scale, Tensor? zero_point, {_SCHEME}) -> Tensor", _quantize, _quantize_fake
)
_dequantize_op = define(
    "dequantize(Tensor q, Tensor scale, Tensor? zero_point, ScalarType dtype, str granularity) -> Tensor",
    _dequantize,
    _dequantize_fake,
)


# ---- fake_quantize: the gradient needs a bit for each element, which a second operator returns too ----


def _fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, *options: Any) -> Tensor:
    return _through("fake_quantize", x, scale, zero_point, options[:5])


def _through(owner: str, x: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: tuple[Any, ...]) -> Tensor:
    source, float_type = _args.real(owner, "x", array_of(x), TYPES)
    parameters = _parameters(owner, source.shape, *scheme)
    affine = _affine(owner, parameters, scale, zero_point)
    y = empty_like(x)
    checked.fake_quantize(source, float_type, affine, parameters.rounding, array_of(y))
    return y


def _like_x(x: Tensor, *_: Any) -> Tensor:
    return empty_like(x)


def _fake_quantize_inside(x: Tensor, scale: Tensor, zero_point: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    owner, order = "fake_quantize", options[5]
    if memory_order(x) != order:  # a compiler has changed it
        x = empty(x, order).copy_(x)
    source, float_type = _args.real(owner, "x", array_of(x), TYPES)
    parameters = _parameters(owner, source.shape, *options[:5])
    affine = _affine(owner, parameters, scale, zero_point)
    y, bits = _fake_quantize_inside_fake(x, scale, zero_point, *options)
    checked.fake_quantize_inside(source, float_type, affine, parameters.rounding, array_of(y), array_of(bits))
    return y, bits


def _fake_quantize_inside_fake(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return empty(x, options[-1]), x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


def _keep_inside(g: Tensor, bits: Tensor, order: list[int]) -> Tensor:
    dx = empty(g, order)
    source, float_type = _args.real("fake_quantize", "g", array_of(g), TYPES)
    inside = Inside(array_of(bits), source.shape, tuple(order) or None)
    affine_keep_inside(source, float_type, inside, array_of(dx))
    return dx


def _keep_inside_fake(g: Tensor, bits: Tensor, order: list[int]) -> Tensor:
    return empty(g, order)


_inside_op = define(
    f"fake_quantize_inside(Tensor x, Tensor scale, Tensor? zero_point, {_SCHEME}, int[] order) -> (Tensor, Tensor)",
    _fake_quantize_inside,
    _fake_quantize_inside_fake,
)


class _Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, bits: Tensor, options: tuple[list[int]]) -> Tensor:
        (ctx.order,) = options
        ctx.save_for_backward(bits)
        return keep_inside(g, bits, ctx.order)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return keep_inside(g, *ctx.saved_tensors, ctx.order), None, None


keep_inside = define(
    "keep_inside(Tensor g, Tensor bits, int[] order) -> Tensor", _keep_inside, _keep_inside_fake, function=_Keeping
)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        *scheme, ctx.clipped = options
        if not ctx.clipped:
            return _fake_quantize_op(x, scale, zero_point, *options)
        ctx.order = memory_order(x)
        y, bits = _inside_op(x, scale, zero_point, *scheme, ctx.order)
        ctx.save_for_backward(bits)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        dx = keep_inside(g, *ctx.saved_tensors, ctx.order) if ctx.clipped else g
        return dx, None, None, None


_fake_quantize_op = define(
    f"fake_quantize(Tensor x, Tensor scale, Tensor? zero_point, {_SCHEME}, bool clipped) -> Tensor",
    _fake_quantize,
    _like_x,
    function=_StraightThrough,
)


# ---- lsq ----


def _lsq(x: Tensor, scale: Tensor, zero_point: Tensor | None, *options: Any) -> Tensor:
    shape = _parameters("lsq", x.shape, *options[:5]).layout.shape
    for name, value in {"scale": scale, "zero_point": zero_point}.items():  # each has a gradient of its own shape
        if value is not None and value.shape != shape:
            raise ValueError(_check.must("lsq", name, f"of shape {shape}", f"shape {tuple(value.shape)}"))
    return _through("lsq", x, scale, zero_point, options[:5])


def _lsq_backward(
    g: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    owner, normalize = "lsq", options[5]
    source, x_type = _args.real(owner, "x", array_of(x), TYPES)
    gradient, g_type = _args.real(owner, "g", array_of(g), TYPES)
    parameters = _parameters(owner, source.shape, *options[:5])
    affine = _affine(owner, parameters, scale, zero_point)
    results = _lsq_backward_fake(g, x, scale)
    dx, dscale, dzero = map(array_of, results)
    _, sums = affine_gradients(source, x_type, gradient, g_type, affine, parameters.rounding, dx)
    factor = size_factor(source.size, scale.numel(), affine.qmax) if normalize else 1.0
    dscale[...], dzero[...] = gradients_of_sums(sums, affine, factor, zero_point is not None)
    return results


def _lsq_backward_fake(g: Tensor, x: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty(g, memory_order(x)), torch.empty_like(scale), torch.empty_like(scale)


_lsq_backward_op = define(
    f"lsq_backward(Tensor g, Tensor x, Tensor scale, Tensor? zero_point, {_SCHEME}, bool normalize)"
    " -> (Tensor, Tensor, Tensor)",
    _lsq_backward,
    _lsq_backward_fake,
)


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(x, scale, zero_point)
        return _lsq_op(x, scale, zero_point, *options)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        zero_point = ctx.saved_tensors[2]
        dx, dscale, dzero = _lsq_backward_op(g, *ctx.saved_tensors, *ctx.options)
        return dx, dscale, None if zero_point is None else dzero, None


_lsq_op = define(
    f"lsq(Tensor x, Tensor scale, Tensor? zero_point, {_SCHEME}, bool normalize) -> Tensor",
    _lsq,
    _like_x,
    function=_Learned,
)


# ---- the functions ----


def _arguments(
    owner: str,
    scale: Any,
    zero_point: Any,
    dtype: DType | None,
    granularity: Granularity | None,
    symmetric: Symmetric | None,
    convention: Convention,
    floats: bool = False,
) -> tuple[Any, ...]:
    """Return the arguments of an operator after x; a QParams gives all but the convention."""
    if isinstance(scale, QParams):
        for name, value in {"zero_point": zero_point, "dtype": dtype, "granularity": granularity}.items():
            if value is not None:
                raise TypeError(_check.must(owner, name, "left out beside a QParams", _check.typed(value)))
        return _of_qparams(owner, scale, convention, floats)
    affine = zero_point is not None
    scheme = _scheme(owner, dtype, _parts(owner, granularity), symmetric, affine, convention, floats)
    for name, value in {"scale": scale, "zero_point": zero_point}.items():
        if not isinstance(value, Tensor) and (value is not None or name == "scale"):
            raise TypeError(_check.must(owner, name, "a tensor", _check.typed(value)))
    return scale, zero_point, *scheme


def _parts(owner: str, granularity: Granularity | None) -> tuple[Any, ...]:
    """Return a granularity as constants of a compiler."""
    if granularity is None:
        return (PerTensor.kind,)
    own = _args.granularity(owner, granularity)
    return own.kind, own.axis, own.group_size


# A compiler cannot read what these call, but it can call them.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _scheme(
    owner: str,
    dtype: DType | None,
    granularity: tuple[Any, ...],
    symmetric: Symmetric | None,
    affine: bool,
    convention: Convention,
    floats: bool,
) -> tuple[str, int, int, str, str]:
    _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    code = _args.code(owner, "int8" if dtype is None else dtype, _CODES if floats else INTEGER_TYPES)
    symmetric = not affine if symmetric is None else scheme_of(owner, symmetric)
    if affine != (symmetric is False):
        wanted = "given when symmetric is False" if symmetric is False else "left out for a symmetric range"
        raise ValueError(_check.must(owner, "zero_point", wanted, "a tensor" if affine else "None"))
    low, high = (code.qmin, code.qmax) if code.real is not None else code_ends(code, symmetric)
    return code.name, low, high, _text(*granularity), convention


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _of_qparams(owner: str, params: QParams, convention: Convention, floats: bool) -> tuple[Any, ...]:
    _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    code, text = (
        _args.code(owner, params.code.name, _CODES if floats else INTEGER_TYPES),
        text_of(params.granularity),
    )
    return tensor_of(params.scale), tensor_of(params.zero_point), code.name, params.qmin, params.qmax, text, convention


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _granularity_text(granularity: tuple[Any, ...]) -> str:
    return _text(*granularity)


def quantize(
    x: Tensor,
    scale: Tensor | QParams,
    zero_point: Tensor | None = None,
    *,
    dtype: DType | None = None,
    granularity: Granularity | None = None,
    symmetric: Symmetric | None = None,
    convention: Convention = "onnx",
) -> Tensor:
    """Return the codes of a tensor: ``q = saturate(round_half_even(x / scale) + zero_point)``.

    Parameters
    ----------
    x : Tensor of float32, float64, float16 or bfloat16, any shape
    scale : Tensor or QParams
        Positive; a QParams gives all but the convention.
    zero_point : Tensor of integers, optional
        By default the middle of the codes.
    dtype : str or dtype, default "int8"
        A code type but float4_e2m1fn. Codes narrower than a byte take one: the result is int8 or uint8.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, optional
        Which elements share a scale, PerTensor() by default; the shape of `scale` is that of its parameters.
    symmetric : bool or "full", optional
        True: as many codes below zero as above, [-127, 127] of int8; "full": all codes; False: all codes with the zero
        point, which must be given. The default is whether `zero_point` is left out.
    convention : {"onnx", "guide", "torch", "tflite"}
        As in qnumpy.quantize_linear.

    Returns
    -------
    Tensor
        Of the shape and the memory order of x. It has no gradient.

    Raises
    ------
    ValueError
        convention is unknown.
    TypeError
        dtype is no code type; granularity is no granularity; symmetric is no bool.
    ValueError
        symmetric is a text other than "full"; zero_point is missing for an affine type, or given for a symmetric one.
    TypeError
        scale or zero_point is no tensor, or given beside a QParams.
    TypeError
        x is not real.
    ValueError
        granularity does not fit the shape of x; a scale is not positive, finite and normal; a zero point is outside the
        codes; their shape is not that of the granularity.

    Notes
    -----
    Bit for bit qnumpy.quantize_linear: it rounds half to even, NaN becomes the zero point, infinities saturate.

    Examples
    --------
    >>> import torch
    >>> quantize(torch.tensor([0.26, -1.0, 99.0]), torch.tensor(0.5), dtype="int4")
    tensor([ 1, -2,  7], dtype=torch.int8)
    """
    return _quantize_op(  # type: ignore[no-any-return]
        x, *_arguments("quantize", scale, zero_point, dtype, granularity, symmetric, convention, floats=True)
    )


def dequantize(
    q: Tensor,
    scale: Tensor | QParams,
    zero_point: Tensor | None = None,
    *,
    granularity: Granularity | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the real numbers that codes stand for: ``x = scale * (q - zero_point)``.

    Parameters
    ----------
    q : Tensor of int8, uint8, int16, uint16, int32 or a float8 type, any shape
    scale : Tensor or QParams
        A QParams gives all parameters.
    zero_point : Tensor of integers, optional
        0 by default; unsigned codes need one.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, optional
        Which elements share a scale, PerTensor() by default; the shape of `scale` is that of its parameters.
    dtype : torch.dtype, default torch.float32
        float32, float64, float16 or bfloat16.

    Returns
    -------
    Tensor
        Of the shape and the memory order of q.

    Raises
    ------
    TypeError
        q holds no codes; dtype is no real type.
    ValueError
        zero_point is missing for unsigned codes.
    TypeError
        granularity is no granularity.
    ValueError
        granularity does not fit the shape of q; a scale is not positive, finite and normal; a zero point is outside the
        codes; their shape is not that of the granularity.

    Notes
    -----
    Bit for bit qnumpy.dequantize_linear: one float32 product, rounded half to even.

    Examples
    --------
    >>> import torch
    >>> dequantize(torch.tensor([1, -2, 7], dtype=torch.int8), torch.tensor(0.5))
    tensor([ 0.5000, -1.0000,  3.5000])
    """
    owner = "dequantize"
    if q.dtype not in _CODE_OF:
        raise TypeError(
            _check.must(owner, "q", f"a tensor of {_check.alternatives(map(_name, _CODE_OF))}", _name(q.dtype))
        )
    if dtype not in _REAL_OF:
        raise TypeError(_check.must(owner, "dtype", _check.alternatives(map(_name, _REAL_OF)), _name(dtype)))
    if isinstance(scale, QParams):
        scale, zero_point, *_, text, _ = _of_qparams(owner, scale, "onnx", True)
        return _dequantize_op(q, scale, zero_point, dtype, text)  # type: ignore[no-any-return]
    if zero_point is None and not q.dtype.is_signed:
        raise ValueError(_check.must(owner, "zero_point", "given for unsigned codes", "None"))
    return _dequantize_op(q, scale, zero_point, dtype, _granularity_text(_parts(owner, granularity)))  # type: ignore[no-any-return]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def fake_quantize(
    x: Tensor,
    scale: Tensor | QParams,
    zero_point: Tensor | None = None,
    *,
    dtype: DType | None = None,
    granularity: Granularity | None = None,
    symmetric: Symmetric | None = None,
    convention: Convention = "onnx",
    grad: Literal["clipped", "identity"] = "clipped",
) -> Tensor:
    """Quantize and dequantize a tensor; the gradient passes as if nothing were rounded.

    Parameters
    ----------
    x : Tensor of float32, float16 or bfloat16, any shape
    scale : Tensor or QParams
        Positive; a QParams gives all but `convention` and `grad`. It has no gradient; that of `lsq` has one.
    zero_point : Tensor of integers, optional
        By default the middle of the codes.
    dtype : str or dtype, default "int8"
        An integer type.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, optional
        Which elements share a scale, PerTensor() by default; the shape of `scale` is that of its parameters.
    symmetric : bool or "full", optional
        True: as many codes below zero as above, [-127, 127] of int8; "full": all codes; False: all codes with the zero
        point, which must be given. The default is whether `zero_point` is left out.
    convention : {"onnx", "guide", "torch", "tflite"}
        As in qnumpy.quantize_linear.
    grad : {"clipped", "identity"}
        Whether elements whose codes saturate get no gradient, or all get that of y.

    Returns
    -------
    Tensor
        Of the dtype, the shape and the memory order of x.

    Raises
    ------
    ValueError
        grad or convention is unknown.
    TypeError
        dtype is no code type, or of floats; granularity is no granularity; symmetric is no bool.
    ValueError
        symmetric is a text other than "full"; zero_point is missing for an affine type, or given for a symmetric one.
    TypeError
        scale or zero_point is no tensor, or given beside a QParams.
    TypeError
        x is not float32, float16 or bfloat16.
    ValueError
        granularity does not fit the shape of x; a scale is not positive, finite and normal; a zero point is outside the
        codes; their shape is not that of the granularity.

    Notes
    -----
    Bit for bit qnumpy.qat.fake_quantize and qnumpy.qat.fake_quantize_vjp, on whose kernels it runs. For the backward
    pass it saves one bit of each element. It can be differentiated once.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.12, -3.0, 99.0], requires_grad=True)
    >>> y = fake_quantize(x, torch.tensor(0.1))
    >>> y.sum().backward()
    >>> y.detach(), x.grad
    (tensor([ 0.1000, -3.0000, 12.7000]), tensor([1., 1., 0.]))
    """
    owner = "fake_quantize"
    clipped = bool(_args.choice(owner, "grad", grad, {"identity": 0, "clipped": 1}))
    options = _arguments(owner, scale, zero_point, dtype, granularity, symmetric, convention)
    return _fake_quantize_op(x, *options, clipped)  # type: ignore[no-any-return]


def lsq(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    dtype: DType | None = None,
    granularity: Granularity | None = None,
    symmetric: Symmetric | None = None,
    convention: Convention = "onnx",
    normalize: bool = True,
) -> Tensor:
    """Fake-quantize with a scale, and perhaps a zero point, that are trained.

    Parameters
    ----------
    x : Tensor of float32, float16 or bfloat16, any shape
    scale : Tensor of float
        Positive.
    zero_point : Tensor of float, optional
        Real: it is rounded half to even and held in the range of codes before use. By default the middle of the codes.
    dtype : str or dtype, default "int8"
        An integer type.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, optional
        Which elements share a scale, PerTensor() by default; the shape of `scale` is that of its parameters.
    symmetric : bool or "full", optional
        True: as many codes below zero as above, [-127, 127] of int8; "full": all codes; False: all codes with the zero
        point, which must be given. The default is whether `zero_point` is left out.
    convention : {"onnx", "guide", "torch", "tflite"}
        As in qnumpy.quantize_linear.
    normalize : bool, default True
        Multiply the gradients of scale and zero point by ``1 / sqrt(n qmax)``, n the elements of a parameter.

    Returns
    -------
    Tensor
        Of the dtype, the shape and the memory order of x.

    Raises
    ------
    ValueError
        convention is unknown.
    TypeError
        dtype is no code type, or of floats; granularity is no granularity; symmetric is no bool.
    ValueError
        symmetric is a text other than "full"; zero_point is missing for an affine type, or given for a symmetric one.
    TypeError
        scale or zero_point is no tensor of floats; normalize is neither True nor False.
    TypeError
        x is not float32, float16 or bfloat16.
    ValueError
        granularity does not fit the shape of x; a scale is not positive, finite and normal; a zero point is NaN; their
        shape is not that of the granularity.

    Notes
    -----
    The gradients of x, scale and zero point are those of qnumpy.qat.lsq_vjp, bit for bit.

    S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020; Y. Bhalgat et al., "LSQ+", 2020.

    Examples
    --------
    >>> import torch
    >>> scale = torch.tensor(0.5, requires_grad=True)
    >>> y = lsq(torch.tensor([0.3, -1.2, 9.0]), scale, dtype="int4", normalize=False)
    >>> y.sum().backward()
    >>> y.detach(), scale.grad
    (tensor([ 0.5000, -1.0000,  3.5000]), tensor(7.8000))
    """
    owner = "lsq"
    for name, value in {"scale": scale, "zero_point": zero_point}.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()) and (value is not None or name == "scale"):
            got = f"a tensor of {_name(value.dtype)}" if isinstance(value, Tensor) else _check.typed(value)
            raise TypeError(_check.must(owner, name, "a tensor of floats", got))
    options = _arguments(owner, scale, zero_point, dtype, granularity, symmetric, convention)
    return _lsq_op(x, *options, _check.flag(owner, "normalize", normalize))  # type: ignore[no-any-return]
