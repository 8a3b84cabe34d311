"""The errors of rounded weights beside those of other libraries' rounding, on the same grids of the same weight."""

import numpy as np
import pytest

import qnumpy as qn

pytestmark = pytest.mark.peers

N, K, GROUP = 24, 128, 32


@pytest.fixture
def layer():
    """A weight with some large columns, and inputs that are correlated."""
    rng = np.random.default_rng(7)
    w = rng.normal(size=(N, K)).astype(np.float32)
    w[:, rng.integers(K, size=6)] *= 4
    x = (rng.normal(size=(1000, K)) @ rng.normal(size=(K, K)) * rng.gamma(1, 1, K)).astype(np.float32)
    return w, x


def affine(bits):
    return {"dtype": f"uint{bits}", "granularity": qn.PerGroup(GROUP), "symmetric": False}


def output_error(x, w, levels):
    return float(np.square(x.astype(np.float64) @ (w - levels).T.astype(np.float64)).mean())


def weight_error(w, levels):
    return float(np.square((w - levels).astype(np.float64)).mean())


@pytest.fixture
def weight_only():
    """Of ONNX Runtime's MatMulNBits quantizer; its k-quant is Olive's too."""
    pytest.importorskip("onnx_ir")
    return pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only")


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("options", [{}, {"actorder": False, "mse": True}], ids=["min-max", "mse"])
def test_gptq_of_onnxruntime(layer, weight_only, bits, options):
    w, x = layer
    h = 2 * x.astype(np.float64).T @ x / len(x)
    theirs = weight_only.gptq(w.T.copy(), h.copy(), bits, GROUP, "asym", percdamp=0.01, **options).T
    moments = qn.MomentsObserver().observe(x)
    ours = qn.quantize(w, **affine(bits), method="gptq", moments=moments)
    assert output_error(x, w, ours.dequantize()) <= output_error(x, w, theirs)


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_k_quant_of_onnxruntime(layer, weight_only, bits):
    w, _ = layer
    q, scale, zero = weight_only.quant_tensor_k_quant_cpu(w, bits, GROUP)  # a row for each group
    theirs = ((q - zero) * scale).reshape(w.shape)
    ours = qn.quantize(w, **affine(bits), method="mse")
    assert weight_error(w, ours.dequantize()) <= weight_error(w, theirs)


@pytest.mark.parametrize("bits", [4, 2])
def test_hqq_of_onnxruntime(layer, bits):
    """Their zero points are floats: float offsets are the same freedom."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx_ir")
    module = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    w, _ = layer
    quantizer = module.HQQWeightOnlyQuantizer(module.HQQWeightOnlyQuantConfig(block_size=GROUP, bits=bits))
    q, scale, zero = quantizer.quantize_internal(torch.from_numpy(w), bits=bits, group_size=GROUP)
    groups = np.arange(K) // GROUP
    theirs = (q.numpy() - zero.numpy()[:, groups]) * scale.numpy()[:, groups]
    ours = qn.weights.offsets(w, bits=bits, group_size=GROUP)
    assert weight_error(w, ours.dequantize()) <= weight_error(w, theirs)


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_hqq(layer, bits):
    """The package of HQQ's authors."""
    torch = pytest.importorskip("torch")
    quantizer = pytest.importorskip("hqq.core.quantize").Quantizer
    w, _ = layer
    q, meta = quantizer.quantize(
        torch.from_numpy(w), nbits=bits, group_size=GROUP, channel_wise=True, compute_dtype=torch.float32, device="cpu"
    )
    theirs = quantizer.dequantize(q, meta).numpy()
    ours = qn.weights.offsets(w, bits=bits, group_size=GROUP)
    assert weight_error(w, ours.dequantize()) <= weight_error(w, theirs)
