"""Scales, zero points and ranges that are trained like weights."""

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check
from .._typing import Array, Convention, DType, Float32Array, Float64Array, Int32Array
from ..dtypes import INTEGER_TYPES, CodeType, FloatType
from ..granularity import Granularity, PerTensor
from ..ops import affine as checked
from ..ops.affine import Affine
from ..ops.gradients import TYPES, affine_gradients, gradient_of, quantization_gradients
from ..ops.quantize import fake_quantize
from ..qparams import QParams

__all__ = ["LearnedScale", "SavedInput", "lsq", "lsq_vjp", "pact", "pact_vjp"]

Symmetric = bool | Literal["full"]

LEAST = 2.0**-23  # a learned scale does not fall below it


class SavedInput(NamedTuple):
    """What the gradients of `lsq` and `pact` need of the forward pass: its input and its parameters."""

    x: Array
    qparams: QParams
    convention: Convention


def lsq(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    dtype: DType = "int8",
    granularity: Granularity | None = None,
    symmetric: Symmetric = True,
    convention: Convention = "onnx",
) -> tuple[Array, SavedInput]:
    """Fake-quantize with a scale, and perhaps a zero point, that are trained.

    Parameters
    ----------
    x : array_like of float32, float16 or bfloat16
    scale : array_like of float
        Positive; its shape is that of the granularity.
    zero_point : array_like of float, optional
        Real: it is rounded half to even and held in the range of codes before use. By default the middle of the codes.
    dtype : str or dtype, default "int8"
        An integer type of at most 16 bits.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool or "full", default True
        True: as many codes below zero as above, [-127, 127] for int8. "full": all codes, [-128, 127]. False: all codes
        with the zero point, which must be given.
    convention : {"onnx", "guide", "torch", "tflite"}

    Returns
    -------
    y : ndarray
        ``qnumpy.fake_quantize(x, saved.qparams)``.
    saved : SavedInput
        For `lsq_vjp`; it holds x.

    Raises
    ------
    TypeError
        x is not float32, float16 or bfloat16; dtype is no integer type; granularity is no granularity.
    ValueError
        granularity does not fit the shape of x; convention is unknown.
    TypeError
        symmetric is no bool.
    ValueError
        symmetric is a text other than "full".
    ValueError
        zero_point is missing for an affine type, or given for a symmetric one.
    TypeError
        scale or zero_point is not real.
    ValueError
        A scale is not positive, finite and normal; a zero point is NaN; their shape is not that of the granularity.

    Notes
    -----
    S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020; Y. Bhalgat et al., "LSQ+", 2020.

    Examples
    --------
    >>> x = np.array([0.3, -1.2, 9.0], np.float32)
    >>> y, saved = lsq(x, 0.5, dtype="int4")
    >>> y
    array([ 0.5, -1. ,  3.5], dtype=float32)
    >>> dx, dscale, _ = lsq_vjp(np.ones(3, np.float32), saved, normalize=False)
    >>> dx, dscale
    (array([1., 1., 0.], dtype=float32), array(7.8, dtype=float32))
    """
    saved = saved_input(
        "lsq", x, scale, zero_point, dtype=dtype, granularity=granularity, symmetric=symmetric, convention=convention
    )
    return fake_quantize(saved.x, saved.qparams, convention=convention), saved


def saved_input(
    owner: str,
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    dtype: DType = "int8",
    granularity: Granularity | None = None,
    symmetric: Symmetric = True,
    convention: Convention = "onnx",
) -> SavedInput:
    """Return what `lsq` saves of its arguments."""
    source, _ = _args.real(owner, "x", x, TYPES)
    code = _args.code(owner, dtype, INTEGER_TYPES)
    layout = _layout(owner, granularity, source)
    _args.choice(owner, "convention", convention, _args.CONVENTIONS)
    symmetric = scheme_of(owner, symmetric)
    params = _qparams(owner, scale, zero_point, code, layout.granularity, layout.shape, symmetric)
    return SavedInput(source, params, convention)


def lsq_vjp(g: ArrayLike, saved: SavedInput, *, normalize: bool = True) -> tuple[Array, Float32Array, Float32Array]:
    """Return the gradients of x, of the scale and of the zero point.

    Parameters
    ----------
    g : array_like of float32, float16 or bfloat16
        The gradient of the result of `lsq`, of the shape of x.
    saved : SavedInput
    normalize : bool, default True
        Multiply those of scale and zero point by ``1 / sqrt(n qmax)``, n the elements of a parameter (their mean, where
        groups differ): then a step of the optimizer changes scales about as much as weights.

    Returns
    -------
    dx : ndarray
        g where the code does not saturate, else 0; of the dtype of g.
    dscale : ndarray of float32
        The sum of g times ``round(x / S) - x / S`` inside, ``qmin - Z`` below and ``qmax - Z`` above the range.
    dzero_point : ndarray of float32
        The sum of g times 0 inside and ``-S`` outside.

    Raises
    ------
    TypeError
        normalize is neither True nor False; saved is not what lsq saved; g is not float32, float16 or bfloat16.
    ValueError
        g has not the shape of x.

    Notes
    -----
    The sums are float64 and rounded once; their order depends on the shape and the granularity alone. NaN in x takes no
    part, infinities saturate. A g that is not finite makes the gradient of its scale NaN or infinite. Sums of no
    elements are 0.

    Examples
    --------
    >>> _, saved = lsq(np.array([-4.0, 0.1], np.float32), 1.0, 1.0, dtype="int2", symmetric=False)
    >>> lsq_vjp(np.array([1.0, 1.0], np.float32), saved, normalize=False)
    (array([0., 1.], dtype=float32), array(-3.1, dtype=float32), array(-1., dtype=float32))
    """
    owner = "lsq_vjp"
    normalize = _check.flag(owner, "normalize", normalize)
    _check_saved(owner, saved, "lsq")
    dx, dscale, dzero = _gradients(owner, g, saved)
    if normalize:
        factor = size_factor(saved.x.size, saved.qparams.scale.size, saved.qparams.qmax)
        dscale, dzero = dscale * factor, dzero * factor
    return dx, np.asarray(dscale, np.float32), np.asarray(dzero, np.float32)


def pact(
    x: ArrayLike, alpha: ArrayLike, *, dtype: DType = "uint8", granularity: Granularity | None = None
) -> tuple[Array, SavedInput]:
    """Clip x to [0, alpha] and fake-quantize it; alpha is trained.

    Parameters
    ----------
    x : array_like of float32, float16 or bfloat16
    alpha : array_like of float
        Positive; its shape is that of the granularity.
    dtype : str or dtype, default "uint8"
        An unsigned integer type.
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()

    Returns
    -------
    y : ndarray
        The scale is ``alpha / qmax``, rounded to float32.
    saved : SavedInput
        For `pact_vjp`.

    Raises
    ------
    TypeError
        x is not float32, float16 or bfloat16; dtype is no unsigned integer type; granularity is no granularity.
    ValueError
        granularity does not fit the shape of x.
    TypeError
        alpha is not real.
    ValueError
        alpha is not positive and finite; alpha / qmax is no normal float32; its shape is not that of the granularity.

    Notes
    -----
    J. Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018.

    Examples
    --------
    >>> y, saved = pact(np.array([-1.0, 0.4, 5.0], np.float32), 3.0, dtype="uint2")
    >>> y
    array([0., 0., 3.], dtype=float32)
    >>> pact_vjp(np.ones(3, np.float32), saved)
    (array([0., 1., 0.], dtype=float32), array(1., dtype=float32))
    """
    owner = "pact"
    source, _ = _args.real(owner, "x", x, TYPES)
    code = _args.code(owner, dtype, {name: c for name, c in INTEGER_TYPES.items() if not c.signed})
    layout = _layout(owner, granularity, source)
    ends = _check.reals(owner, "alpha", alpha).astype(np.float64)
    if ends.shape != layout.shape:
        raise ValueError(_check.must(owner, "alpha", f"of shape {layout.shape}", f"shape {ends.shape}"))
    wrong = ~((ends > 0) & np.isfinite(ends))
    if wrong.any():
        raise ValueError(_check.must(owner, "alpha", "positive and finite", str(ends[wrong][0])))
    scales = _check.scale(owner, "alpha / qmax", ends / code.qmax)
    params = QParams(scales, 0, code.name, layout.granularity)
    return fake_quantize(source, params), SavedInput(source, params, "onnx")


def pact_vjp(g: ArrayLike, saved: SavedInput) -> tuple[Array, Float32Array]:
    """Return the gradients of x and of alpha.

    Parameters
    ----------
    g : array_like of float32, float16 or bfloat16
        The gradient of the result of `pact`, of the shape of x.
    saved : SavedInput

    Returns
    -------
    dx : ndarray
        g where x lies in [0, alpha], else 0.
    dalpha : ndarray of float32
        The sum of g where x lies above. x above alpha by less than half a step rounds to alpha, and lies inside.

    Raises
    ------
    TypeError
        saved is not what pact saved; g is not float32, float16 or bfloat16.
    ValueError
        g has not the shape of x.

    Examples
    --------
    >>> _, saved = pact(np.array([0.1, 7.0], np.float32), 1.0)
    >>> pact_vjp(np.array([1.0, -2.0], np.float32), saved)
    (array([1., 0.], dtype=float32), array(-2., dtype=float32))
    """
    owner = "pact_vjp"
    _check_saved(owner, saved, "pact")
    dx, sums = quantization_gradients(owner, saved.x, g, saved.qparams)
    return dx, np.asarray(sums[2], np.float32)


class LearnedScale:
    """A scale that is trained, with the forward and the backward pass of `lsq`.

    The first array that is not empty gives the first scale, ``2 mean|x| / sqrt(qmax)`` of its finite elements. `scale`
    and `zero_point` are arrays of float32 that an optimizer changes in place by `dscale` and `dzero_point`; a scale
    below 2**-23 is raised to it.

    Parameters
    ----------
    dtype : str or dtype, default "int8"
    granularity : PerTensor, PerChannel, PerGroup or PerRow, default PerTensor()
    symmetric : bool or "full", default True
        As in `lsq`. False: the zero point is trained too (LSQ+).
    delay : int, default 0
        As many calls return x itself.

    Attributes
    ----------
    scale, zero_point : ndarray of float32, or None before the first array
    dscale, dzero_point : ndarray of float32, or None before `backward`

    Raises
    ------
    TypeError
        dtype is no integer type; granularity is no granularity; symmetric is no bool.
    ValueError
        symmetric is a text other than "full".
    TypeError
        delay is no integer.
    ValueError
        delay is negative.

    Examples
    --------
    >>> quantizer = LearnedScale("int4")
    >>> y = quantizer(np.array([0.5, -1.0, 2.0], np.float32))
    >>> quantizer.backward(np.ones(3, np.float32))
    array([1., 1., 1.], dtype=float32)
    >>> quantizer.qparams()
    QParams(int4, per tensor, scale=0.8819, zero_point=0)
    """

    def __init__(
        self,
        dtype: DType = "int8",
        granularity: Granularity | None = None,
        *,
        symmetric: Symmetric = True,
        delay: int = 0,
    ) -> None:
        owner = "LearnedScale"
        self._code = _args.code(owner, dtype, INTEGER_TYPES)
        self.granularity = _args.granularity(owner, PerTensor() if granularity is None else granularity)
        self.symmetric: Symmetric = scheme_of(owner, symmetric)
        self.delay = _check.count(owner, "delay", delay)
        self.frozen = False
        self.scale: Float32Array | None = None
        self.zero_point: Float32Array | None = None
        self.dscale: Float32Array | None = None
        self.dzero_point: Float32Array | None = None
        self._calls = 0
        self._saved: tuple[Array, FloatType, Affine] | None = None

    @property
    def dtype(self) -> str:
        """The name of the code type; a new one keeps the range that the scale was right for."""
        return self._code.name

    @dtype.setter
    def dtype(self, value: DType) -> None:
        code = _args.code("LearnedScale", value, INTEGER_TYPES)
        if self.scale is not None:
            self.scale *= np.float32(np.sqrt(self._code.qmax / code.qmax))
        if self.zero_point is not None:
            steps = (code.qmax - code.qmin) / (self._code.qmax - self._code.qmin)
            self.zero_point[...] = code.qmin + (self.zero_point - self._code.qmin) * steps
        self._code = code

    def __call__(self, x: ArrayLike) -> Array:
        """Return x fake-quantized; x itself during the delay, or where it is empty and no array was seen.

        Raises
        ------
        TypeError
            x is not float32, float16 or bfloat16.
        ValueError
            granularity does not fit the shape of x; x has another number of parameters than the first array.
        """
        owner = "LearnedScale"
        source, float_type = _args.real(owner, "x", x, TYPES)
        layout = _layout(owner, self.granularity, source)
        if self.scale is not None and layout.shape != self.scale.shape:
            wanted = f"an array with parameters of shape {self.scale.shape}"
            raise ValueError(_check.must(owner, "x", wanted, f"an array of shape {source.shape}"))
        self._calls += 1
        self._saved = None
        if self._calls <= self.delay or (self.scale is None and not source.size):
            return source
        if self.scale is None:
            self._begin(source, layout.shape)
        affine = self._affine(owner, layout)
        self._saved = source, float_type, affine
        return checked.fake_quantize(source, float_type, affine)

    def backward(self, g: ArrayLike) -> Array:
        """Return the gradient of the x of the last call, and store those of scale and zero point.

        Raises
        ------
        TypeError
            g is not float32, float16 or bfloat16.
        ValueError
            g has not the shape of x.
        """
        owner = "LearnedScale.backward"
        if self._saved is None:
            return _args.real(owner, "g", g, TYPES)[0]
        source, float_type, affine = self._saved
        dx, sums = affine_gradients(source, float_type, *gradient_of(owner, g, source.shape), affine)
        factor = 0.0 if self.frozen else size_factor(source.size, sums.size // 3, affine.qmax)
        dscale, dzero_point = gradients_of_sums(sums, affine, factor, self.symmetric is False)
        self.dscale = np.asarray(dscale, np.float32)
        self.dzero_point = np.asarray(dzero_point, np.float32)
        return dx

    def freeze(self) -> None:
        """Train scale and zero point no longer: their gradients become 0."""
        self.frozen = True

    def parameters(self) -> list[tuple[Array, Array]]:
        """Return the arrays that an optimizer changes in place, each with its gradient."""
        pairs = [(self.scale, self.dscale)]
        if self.symmetric is False:
            pairs.append((self.zero_point, self.dzero_point))
        return [(value, gradient) for value, gradient in pairs if value is not None and gradient is not None]

    def qparams(self) -> QParams:
        """Return the parameters as they are now.

        Raises
        ------
        ValueError
            No array was seen.
        """
        owner = "LearnedScale.qparams"
        if self.scale is None:
            raise ValueError(f"{owner}: an array must be seen first; got none.")
        np.maximum(self.scale, np.float32(LEAST), out=self.scale)
        zero_point = self.zero_point if self.symmetric is False else None
        return _qparams(owner, self.scale, zero_point, self._code, self.granularity, self.scale.shape, self.symmetric)

    def _affine(self, owner: str, layout: _args.Layout) -> Affine:
        """Return the parameters for an array of a layout: those of `qparams`, without an object of checked arrays."""
        assert self.scale is not None
        assert self.zero_point is not None
        qmin, qmax = code_ends(self._code, self.symmetric)
        scale: Float32Array | float
        zero: Int32Array | int
        if not layout.shape:
            scale, zero = float(self.scale), self._code.symmetric_zero_point
            if not _check.TINY <= scale <= _check.HUGE or scale < LEAST:
                scale = float(self.qparams().scale)  # raised to LEAST, or refused
            if self.symmetric is False:
                real = float(self.zero_point)
                if math.isnan(real):
                    refuse_nan(owner, self.zero_point)
                zero = round(min(max(real, qmin), qmax))
        else:
            scale = np.maximum(self.scale, np.float32(LEAST), out=self.scale).copy()
            _check.scale(owner, "scale", scale)
            if self.symmetric is False:
                refuse_nan(owner, self.zero_point)
                zero = np.clip(np.rint(self.zero_point), qmin, qmax).astype(np.int32)
            else:
                zero = middles(self._code.symmetric_zero_point, layout.shape)
        return Affine(layout, scale, zero, qmin, qmax)

    def _begin(self, x: Array, shape: tuple[int, ...]) -> None:
        mean = mean_magnitude(x, self.granularity)
        first = np.maximum(2 * mean / np.sqrt(self._code.qmax), LEAST)
        self.scale = np.asarray(first, np.float32).reshape(shape)
        middle = self._code.qmin if x.size and x.min() >= 0 else (self._code.qmin + self._code.qmax + 1) // 2
        self.zero_point = np.full(shape, middle, np.float32)


def mean_magnitude(x: Array, granularity: Granularity) -> Float64Array:
    """Return the mean of |x| of each parameter, of the finite elements."""
    parameters, whole = granularity.params_shape(x.shape), tuple(slice(0, length) for length in x.shape)
    number = granularity.expand(np.arange(int(np.prod(parameters))).reshape(parameters), whole)
    flat, index = np.abs(x.astype(np.float64)).ravel(), np.broadcast_to(number, x.shape).ravel()
    finite = np.isfinite(flat)
    count = np.bincount(index[finite], minlength=number.max(initial=0) + 1)
    total = np.bincount(index[finite], flat[finite], minlength=len(count))
    return (total / np.maximum(count, 1)).reshape(parameters)


def scheme_of(owner: str, symmetric: Symmetric) -> Symmetric:
    """Return `symmetric`; raise for what is neither a bool nor "full"."""
    if isinstance(symmetric, str):
        _args.choice(owner, "symmetric", symmetric, {"full": 0})
        return "full"
    return _check.flag(owner, "symmetric", symmetric)


def code_ends(code: CodeType, symmetric: Symmetric) -> tuple[int, int]:
    """Return the smallest and the largest code in use."""
    return (code.symmetric_qmin if symmetric is True else code.qmin), code.qmax


def _qparams(
    owner: str,
    scale: ArrayLike,
    zero_point: ArrayLike | None,
    code: CodeType,
    granularity: Granularity,
    shape: tuple[int, ...],
    symmetric: Symmetric,
) -> QParams:
    if (zero_point is None) == (symmetric is False):
        wanted = "given when symmetric is False" if symmetric is False else "left out for a symmetric range"
        raise ValueError(_check.must(owner, "zero_point", wanted, _check.typed(zero_point)))
    scales = _check.scale(owner, "scale", scale)
    whole = np.full(shape, code.symmetric_zero_point) if zero_point is None else _whole(owner, zero_point)
    for name, values in (("scale", scales), ("zero_point", whole)):
        if values.shape != shape:
            raise ValueError(_check.must(owner, name, f"of shape {shape}", f"shape {values.shape}"))
    zero = np.clip(whole, code.qmin, code.qmax).astype(np.int32)
    return QParams(scales, zero, code.name, granularity, *code_ends(code, symmetric))


def _whole(owner: str, zero_point: ArrayLike) -> Array:
    numbers = _check.reals(owner, "zero_point", zero_point)
    refuse_nan(owner, numbers)
    return np.asarray(np.rint(numbers))


def refuse_nan(owner: str, zero_point: Array) -> None:
    if np.isnan(zero_point).any():
        raise ValueError(_check.must(owner, "zero_point", "a number", "NaN"))


def _layout(owner: str, granularity: Granularity | None, x: Array) -> _args.Layout:
    wanted = PerTensor() if granularity is None else _args.granularity(owner, granularity)
    return _args.layout_of(owner, wanted, x.shape)


def _check_saved(owner: str, saved: SavedInput, forward: str) -> None:
    if not isinstance(saved, SavedInput):
        raise TypeError(_check.must(owner, "saved", f"what {forward} saved", _check.typed(saved)))


def _gradients(owner: str, g: ArrayLike, saved: SavedInput) -> tuple[Array, Float64Array, Float64Array]:
    params = saved.qparams
    dx, sums = quantization_gradients(owner, saved.x, g, params, saved.convention)
    layout = _args.layout_of(owner, params.granularity, saved.x.shape)
    affine = Affine(layout, params.scale, params.zero_point, params.qmin, params.qmax)
    dscale, dzero = gradients_of_sums(sums, affine, 1.0, True)
    return dx, np.asarray(dscale), np.asarray(dzero)


def gradients_of_sums(sums: Float64Array, affine: Affine, factor: float, with_zero: bool) -> tuple[Any, Any]:
    """Return factor times the gradients of scale and zero point, the latter 0 unless it is wanted."""
    error, below, above = sums if affine.layout.shape else sums.tolist()  # Python's numbers are faster than NumPy's
    # A float32 array of one number times one of Python's would be rounded to float32.
    scale = affine.scale if affine.layout.shape else float(affine.scale)
    dscale = error + (affine.qmin - affine.zero_point) * below + (affine.qmax - affine.zero_point) * above
    return dscale * factor, scale * (below + above) * -factor if with_zero else np.zeros(affine.layout.shape)


def size_factor(elements: int, parameters: int, qmax: int) -> float:
    """Return ``1 / sqrt(n qmax)``, n the elements of a parameter."""
    return 1 / math.sqrt(max(elements / max(parameters, 1), 1) * max(qmax, 1))


@lru_cache(64)
def middles(zero_point: int, shape: tuple[int, ...]) -> Int32Array:
    """Return equal zero points; read-only, since all calls share them."""
    zeros = np.full(shape, zero_point, np.int32)
    zeros.flags.writeable = False
    return zeros
