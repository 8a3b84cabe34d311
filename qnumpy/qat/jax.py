"""Fake-quantization that JAX differentiates once and compiles. Calls need the extra ``jax``.

XLA calls qnumpy on the CPU (``pure_callback``); the bits are those of `qnumpy.qat`.
"""

from typing import Any, Literal

import numpy as np

from .. import _check
from .._typing import Array, Convention
from ..ops.gradients import Inside
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
    >>> import jax, jax.numpy as jnp
    >>> jax.jit(jax.grad(lambda x: qn.qat.jax.fake_quantize(x, qn.QParams(0.1, 0)).sum()))(jnp.array([0.12, 99.0]))
    Array([1., 0.], dtype=float32)
    """
    jax = _check.extra("qnumpy.qat.jax.fake_quantize", "jax")
    x = jax.numpy.asarray(x)
    like, bits = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct((-(-x.size // 8),), np.uint8)

    def forward(x: Any) -> tuple[Array, Array]:
        y, saved = steps.fake_quantize(np.ascontiguousarray(x).reshape(like.shape), qparams, convention=convention)
        return y, saved.inside.bits

    def backward(g: Any, inside: Any) -> Array:
        saved = steps.Saved(Inside(np.asarray(inside), like.shape, None))
        return steps.fake_quantize_vjp(np.asarray(g), saved, grad=grad)

    apply = jax.custom_vjp(lambda x: _call(forward, (like, bits), x)[0])
    apply.defvjp(lambda x: _call(forward, (like, bits), x), lambda inside, g: (_call(backward, like, g, inside),))
    return apply(x)


def lsq(x: Any, scale: Any, zero_point: Any = None, *, normalize: bool = True, **options: Any) -> Any:
    """Return the y of `qnumpy.qat.lsq`, which has the options; the gradients are those of `qnumpy.qat.lsq_vjp`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> jax.grad(lambda s: qn.qat.jax.lsq(jnp.array([0.3, 9.0]), s, dtype="int4").sum())(0.5)
    Array(1.9777331, dtype=float32)
    """
    jax = _check.extra("qnumpy.qat.jax.lsq", "jax")
    given = [jax.numpy.asarray(value) for value in (x, scale, zero_point) if value is not None]
    like = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in given]

    def forward(*given: Any) -> Array:
        return learned.lsq(*map(np.asarray, given), **options)[0]

    def backward(g: Any, *given: Any) -> tuple[Array, ...]:
        saved = learned.saved_input("lsq", *map(np.asarray, given), **options)
        each = learned.lsq_vjp(np.asarray(g), saved, normalize=normalize)
        return tuple(gradient.astype(one.dtype) for gradient, one in zip(each, like, strict=False))

    apply = jax.custom_vjp(lambda *given: _call(forward, like[0], *given))
    apply.defvjp(
        lambda *given: (_call(forward, like[0], *given), given),
        lambda given, g: _call(backward, tuple(like), g, *given),
    )
    return apply(*given)


def _call(function: Any, result: Any, *arguments: Any) -> Any:
    return _check.extra("qnumpy.qat.jax", "jax").pure_callback(function, result, *arguments, vmap_method="sequential")
