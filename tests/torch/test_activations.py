"""qnumpy.torch.GELU against the one of PyTorch."""

import pytest
import torch
from torch import nn

from qnumpy.torch import GELU

pytestmark = pytest.mark.peers


def x_of(*shape):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 64), (70_000,)])
def test_gelu(shape):
    x = x_of(*shape)
    error = (GELU()(x).double() - nn.functional.gelu(x.double())).abs()
    assert bool((error <= 4e-7 * x.double().abs().clamp(min=1)).all())  # the bound of docs/onnx-operators.md


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)])
def test_dtypes(dtype, rtol):
    x = x_of(1000).to(dtype)
    y = GELU()(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y.double(), nn.functional.gelu(x.double()), rtol=rtol, atol=1e-6)  # one rounding


def test_gradient():
    x = x_of(1000).requires_grad_()
    (dx,) = torch.autograd.grad(GELU()(x).sum(), x)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.gelu(exact).sum(), exact)
    torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-6)  # float32


def test_everywhere():
    x = x_of(8, 3)
    torch.library.opcheck(torch.ops.qnumpy.gelu.default, (x.clone().requires_grad_(),))
    expected = GELU()(x)
    assert torch.equal(torch.compile(GELU(), fullgraph=True)(x), expected)
    assert torch.equal(torch.export.export(GELU(), (x,)).module()(x), expected)
    assert torch.equal(GELU()(x.T), expected.T)
