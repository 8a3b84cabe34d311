"""Fake-quantization: the function with its gradient by the straight-through estimator, and with an observer."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import _args, _check
from .._typing import Array, Convention, Float32Array
from ..observers import MovingAverageMinMaxObserver, Observer
from ..ops.gradients import TYPES, Inside, fake_quantize_inside, gradient_of, keep_inside
from ..qparams import QParams

__all__ = ["FakeQuantize", "Saved", "fake_quantize", "fake_quantize_vjp"]


class Saved(NamedTuple):
    """What the gradient of `fake_quantize` needs of its forward pass: a bit for each element.

    Attributes
    ----------
    inside : Inside
        Which codes do not saturate; ``inside.to_bool()`` is an array of bool.

    Examples
    --------
    >>> _, saved = fake_quantize(np.array([0.5, 99.0], np.float32), qn.QParams(0.1, 0))
    >>> saved.inside.to_bool()
    array([ True, False])
    """

    inside: Inside


def fake_quantize(x: ArrayLike, qparams: QParams, *, convention: Convention = "onnx") -> tuple[Array, Saved]:
    """Quantize and dequantize, and save what the gradient needs.

    Parameters
    ----------
    x : array_like of float32, float16 or bfloat16, any shape
    qparams : QParams
        Of an integer type.
    convention : {"onnx", "guide", "torch", "tflite"}
        As in qnumpy.quantize_linear. "torch" is the arithmetic of torch.fake_quantize_per_tensor_affine.

    Returns
    -------
    y : ndarray
        Bit for bit ``qnumpy.fake_quantize(x, qparams)``.
    saved : Saved
        For `fake_quantize_vjp`; one bit for each element.

    Raises
    ------
    TypeError
        x is not float32, float16 or bfloat16; qparams is no QParams, or of a float type.
    ValueError
        qparams does not fit the shape of x; convention is unknown.

    Notes
    -----
    The codes round half to even. NaN becomes 0.0 and lies outside, as infinities do.

    Examples
    --------
    >>> x = np.array([0.12, -3.0, 99.0], np.float32)
    >>> y, saved = fake_quantize(x, qn.QParams(0.1, 0))
    >>> y
    array([ 0.1, -3. , 12.7], dtype=float32)
    >>> fake_quantize_vjp(np.ones(3, np.float32), saved)
    array([1., 1., 0.], dtype=float32)
    """
    y, inside = fake_quantize_inside("fake_quantize", x, qparams, convention)
    return y, Saved(inside)


def fake_quantize_vjp(g: ArrayLike, saved: Saved, *, grad: Literal["clipped", "identity"] = "clipped") -> Array:
    """Return the gradient of x by the straight-through estimator.

    Parameters
    ----------
    g : array_like of float32, float16 or bfloat16
        The gradient of the result of `fake_quantize`, of the shape of x.
    saved : Saved
    grad : {"clipped", "identity"}
        Whether elements whose codes saturate get no gradient, or all get g.

    Returns
    -------
    ndarray
        Of the dtype of g.

    Raises
    ------
    TypeError
        saved is not what fake_quantize saved.
    ValueError
        grad is unknown.
    TypeError
        g is not float32, float16 or bfloat16.
    ValueError
        g has not the shape of x.

    Notes
    -----
    An infinity or a NaN of g stays where the element lies inside, and becomes 0 where it lies outside.

    Y. Bengio, N. Leonard, A. Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
    Computation", 2013. A code at the end of the range saturates only if x rounds beyond it.

    Examples
    --------
    >>> _, saved = fake_quantize(np.array([0.5, 99.0], np.float32), qn.QParams(0.1, 0))
    >>> fake_quantize_vjp(np.array([2.0, 3.0], np.float32), saved, grad="identity")
    array([2., 3.], dtype=float32)
    """
    owner = "fake_quantize_vjp"
    if not isinstance(saved, Saved):
        raise TypeError(_check.must(owner, "saved", "what fake_quantize saved", _check.typed(saved)))
    clipped = _args.choice(owner, "grad", grad, {"identity": 0, "clipped": 1})
    if clipped:
        return keep_inside(owner, g, saved.inside)
    source, float_type = gradient_of(owner, g, saved.inside.shape)
    return np.array(source, float_type.dtype)


class FakeQuantize:
    """Observe an array and fake-quantize it by what was observed so far, the array included.

    Parameters
    ----------
    observer : Observer, optional
        By default MovingAverageMinMaxObserver(dtype="uint8", symmetric=False), for activations. For weights, which
        change at every step, ``MovingAverageMinMaxObserver(1.0, ...)`` forgets all arrays but the last.
    delay : int, default 0
        As many calls observe only, and return x itself.
    convention : {"onnx", "guide", "torch", "tflite"}

    Attributes
    ----------
    observer : Observer
    observes, quantizes : bool
        What a call does; `enable_observer`, `enable_fake_quantize` and `freeze` set them.

    Raises
    ------
    TypeError
        observer is no Observer, or learns no range; delay is no integer.
    ValueError
        delay is negative; convention is unknown.

    Examples
    --------
    >>> quantizer = FakeQuantize()
    >>> y = quantizer(np.array([0.0, 0.1, 2.55], np.float32))
    >>> quantizer.freeze()
    >>> quantizer(np.array([0.104, 9.0], np.float32)).round(3)
    array([0.1 , 2.55], dtype=float32)
    >>> quantizer.backward(np.ones(2, np.float32))
    array([1., 0.], dtype=float32)
    """

    def __init__(self, observer: Observer | None = None, *, delay: int = 0, convention: Convention = "onnx") -> None:
        owner = "FakeQuantize"
        self.observer = MovingAverageMinMaxObserver(dtype="uint8", symmetric=False) if observer is None else observer
        if not isinstance(self.observer, Observer) or not self.observer.chooses_range:
            raise TypeError(_check.must(owner, "observer", "an Observer that learns a range", _check.typed(observer)))
        self.delay = _check.count(owner, "delay", delay)
        _args.choice(owner, "convention", convention, _args.CONVENTIONS)
        self.convention: Convention = convention
        self.observes = self.quantizes = True
        self._calls = 0
        self._qparams: QParams | None = None
        self._saved: Saved | None = None

    def __call__(self, x: ArrayLike) -> Array:
        """Return x fake-quantized; x itself during the delay, or where the simulation is off.

        Raises
        ------
        TypeError
            x is not float32, float16 or bfloat16.
        CalibrationError
            Nothing was observed, and the observer is off.
        ValueError
            x has not as many channels as before.
        """
        source, _ = _args.real("FakeQuantize", "x", x, TYPES)
        self._calls += 1
        if self.observes:
            self.observer.observe(source)
            self._qparams = None
        self._saved = None
        if not self.quantizes or self._calls <= self.delay:
            return source
        y, self._saved = fake_quantize(source, self.qparams(), convention=self.convention)
        return y

    def backward(self, g: ArrayLike) -> Array:
        """Return the gradient of the x of the last call.

        Raises
        ------
        TypeError
            g is not float32, float16 or bfloat16.
        ValueError
            g has not the shape of x.
        """
        if self._saved is None:
            return _args.real("FakeQuantize.backward", "g", g, TYPES)[0]
        return fake_quantize_vjp(g, self._saved)

    def enable_observer(self, on: bool = True) -> None:
        """Observe, or no longer.

        Raises
        ------
        TypeError
            on is neither True nor False.
        """
        self.observes = _check.flag("FakeQuantize.enable_observer", "on", on)

    def enable_fake_quantize(self, on: bool = True) -> None:
        """Simulate the error, or no longer.

        Raises
        ------
        TypeError
            on is neither True nor False.
        """
        self.quantizes = _check.flag("FakeQuantize.enable_fake_quantize", "on", on)

    def freeze(self) -> None:
        """Keep the parameters as they are: observe no more, and simulate."""
        self.observes, self.quantizes = False, True

    def qparams(self) -> QParams:
        """Return the parameters as they are now.

        Raises
        ------
        CalibrationError
            Nothing was observed.
        """
        if self._qparams is None:
            self._qparams = self.observer.qparams()
        return self._qparams

    @property
    def scale(self) -> Float32Array:
        """The scale as it is now."""
        return self.qparams().scale

    def parameters(self) -> list[tuple[Array, Array]]:
        """Return no arrays: nothing of it is trained."""
        return []
