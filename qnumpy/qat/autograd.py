"""Fake-quantization that HIPS autograd differentiates once. Calls need the extra ``autograd``.

The gradients are those of `qnumpy.qat`, bit for bit. autograd makes gradients of float64 where a loss does; they are
rounded to the dtype of x.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import numpy as np

from .. import _check
from .._typing import Array, Convention
from ..qparams import QParams
from . import fake_quantize as steps
from . import learned

__all__ = ["fake_quantize", "lsq"]


def fake_quantize(
    x: Any, qparams: QParams, *, convention: Convention = "onnx", grad: Literal["clipped", "identity"] = "clipped"
) -> Any:
    """Return the y of `qnumpy.qat.fake_quantize`; its gradient is `qnumpy.qat.fake_quantize_vjp`.

    Examples
    --------
    >>> import autograd
    >>> x = np.array([0.12, 99.0], np.float32)
    >>> autograd.elementwise_grad(qn.qat.autograd.fake_quantize)(x, qn.QParams(0.1, 0))
    array([1., 0.], dtype=float32)
    """
    kept: list[steps.Saved] = []  # by the forward pass, for the backward pass
    return _primitives("fake_quantize")[0](x, qparams, convention, grad, kept)


def lsq(x: Any, scale: Any, zero_point: Any = None, *, normalize: bool = True, **options: Any) -> Any:
    """Return the y of `qnumpy.qat.lsq`, which has the options; the gradients are those of `qnumpy.qat.lsq_vjp`.

    Examples
    --------
    >>> import autograd
    >>> x = np.array([0.3, 9.0], np.float32)
    >>> autograd.grad(lambda s: qn.qat.autograd.lsq(x, s, dtype="int4").sum())(np.float32(0.5))
    array(1.9777331, dtype=float32)
    """
    return _primitives("lsq")[1](x, scale, zero_point, normalize, options)


@cache
def _primitives(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    extend = _check.extra(f"qnumpy.qat.autograd.{name}", "autograd.extend")

    @extend.primitive  # type: ignore[untyped-decorator]
    def of_steps(x: Array, qparams: QParams, convention: Convention, _: str, kept: list[steps.Saved]) -> Array:
        y, saved = steps.fake_quantize(x, qparams, convention=convention)
        kept.append(saved)
        return y

    @extend.primitive  # type: ignore[untyped-decorator]
    def of_scales(x: Array, scale: Array, zero_point: Array | None, _: bool, options: dict[str, Any]) -> Array:
        return learned.lsq(x, scale, zero_point, **options)[0]

    def pass_back(y: Array, x: Array, _: QParams, __: str, grad: Any, kept: list[steps.Saved]) -> Callable[..., Array]:
        return lambda g: steps.fake_quantize_vjp(np.asarray(g, y.dtype), kept[-1], grad=grad)

    def pass_back_all(numbers: tuple[int, ...], y: Array, args: tuple[Any, ...], _: object) -> Callable[..., Any]:
        *given, normalize, options = args
        saved = learned.saved_input("lsq", *given, **options)

        def gradients(g: Array) -> Iterator[Array]:
            each = learned.lsq_vjp(np.asarray(g, y.dtype), saved, normalize=normalize)
            return (each[k] for k in numbers)

        return gradients

    extend.defvjp(of_steps, pass_back)
    extend.defvjp_argnums(of_scales, pass_back_all)  # one backward pass for all
    return of_steps, of_scales
