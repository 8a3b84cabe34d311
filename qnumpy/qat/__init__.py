"""Quantization-aware training with NumPy alone: functions with their gradients, and the objects a training loop holds.

A network computes with fake-quantized weights and activations, so that it learns to live with their errors. Rounding
has no useful derivative: `fake_quantize_vjp` passes the gradient as if there were none (the straight-through
estimator). `lsq_vjp` gives the gradients of scale and zero point too. `layers` has examples of layers. `autograd` and
`jax` have functions that these frameworks differentiate; each needs the extra of its name.
"""

from . import autograd, jax
from .batch_norm import fold_batch_norm
from .fake_quantize import FakeQuantize, Saved, fake_quantize, fake_quantize_vjp
from .learned import LearnedScale, lsq, lsq_vjp, pact, pact_vjp
from .schedule import Schedule

__all__ = [
    "FakeQuantize",
    "LearnedScale",
    "Saved",
    "Schedule",
    "autograd",
    "fake_quantize",
    "fake_quantize_vjp",
    "fold_batch_norm",
    "jax",
    "lsq",
    "lsq_vjp",
    "pact",
    "pact_vjp",
]
