"""Rounding of a weight against that of other libraries: on one matrix, our error is never above theirs."""

import numpy as np
import pytest

import qnumpy as qn

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

GROUP = 32


def layer(seed=0):
    """Correlated inputs with a few large columns, and a weight of 64 outputs with heavy tails."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1024, 32)) @ rng.normal(size=(32, 256)) + rng.normal(size=(1024, 256))
    x[:, rng.integers(0, 256, 4)] *= 8
    return x.astype(np.float32), rng.standard_t(5, size=(64, 256)).astype(np.float32)


def squared(w, rounded):
    return np.square(w - rounded.astype(np.float64)).sum()


def of_onnxruntime():
    return pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only", exc_type=ImportError)


@pytest.mark.parametrize("actorder", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_of_onnxruntime(bits, actorder):
    theirs = of_onnxruntime()
    x, w = layer()
    h = x.T.astype(np.float64) @ x
    rounded = theirs.gptq(w.T.copy(), h.copy(), num_bits=bits, group_size=GROUP, actorder=actorder).T
    moments = qn.MomentsObserver().observe(x)
    affine = {"dtype": f"uint{bits}", "granularity": qn.PerGroup(GROUP), "symmetric": False}
    q = qn.quantize(w, method="gptq", moments=moments, **affine)
    ours, peer = (np.square(x @ (w - one).T.astype(np.float64)).sum() for one in (q.dequantize(), rounded))
    assert 0 < ours <= peer


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_k_quant_of_onnxruntime(bits):
    """Olive's k-quant is the same search."""
    theirs = of_onnxruntime()
    _, w = layer()
    codes, scale, zero = theirs.quant_tensor_k_quant_cpu(w, bits, GROUP)
    rounded = ((codes - zero) * scale).reshape(w.shape)
    for q in (
        qn.quantize(w, dtype=f"uint{bits}", granularity=qn.PerGroup(GROUP), symmetric=False, method="mse"),
        qn.weights.offsets(w, bits=bits, group_size=GROUP),
    ):
        assert 0 < squared(w, q.dequantize()) <= squared(w, rounded)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq_of_onnxruntime(bits):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", exc_type=ImportError)
    _, w = layer()
    search = library.HQQWeightOnlyQuantizer(library.HQQWeightOnlyQuantConfig())
    codes, scale, zero = search.quantize_internal(torch.from_numpy(w), bits=bits, group_size=GROUP)
    rounded = (codes.reshape(-1, GROUP) - zero.reshape(-1, 1)) * scale.reshape(-1, 1)
    q = qn.weights.offsets(w, bits=bits, group_size=GROUP)
    assert 0 < squared(w, q.dequantize()) <= squared(w, rounded.numpy().reshape(w.shape))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq(bits):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("hqq.core.quantize", exc_type=ImportError)
    _, w = layer()
    packed, meta = library.Quantizer.quantize(
        torch.from_numpy(w), nbits=bits, group_size=GROUP, axis=1, device="cpu", compute_dtype=torch.float32
    )
    rounded = library.Quantizer.dequantize(packed, meta).numpy()
    q = qn.weights.offsets(w, bits=bits, group_size=GROUP)
    assert 0 < squared(w, q.dequantize()) <= squared(w, rounded)
